"""The documentation gate, and seeded faults that it must see."""
import copy

import docs_gate
import pytest


def test_every_page_renders_and_every_reference_resolves():
    faults = docs_gate.problems()
    assert not faults, "\n" + "\n".join(faults)


GOOD = {"cells": [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["A sum $a+b$.\n\n$$c$$ {#eq-c}\n\nSee @eq-c."]},
                  {"cell_type": "code", "id": "b", "metadata": {}, "source": ["1"], "execution_count": None, "outputs": []}],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}, "nbformat": 4, "nbformat_minor": 5}


def test_pandoc_accepts_a_sound_page_and_refuses_broken_mathematics():
    assert docs_gate.pandoc_faults(copy.deepcopy(GOOD), "page") == []
    broken = copy.deepcopy(GOOD)
    broken["cells"][0]["source"] = ["$$\\frac{a}{$$"]
    assert docs_gate.pandoc_faults(broken, "page")


@pytest.mark.parametrize("output", [
    {"output_type": "display_data", "metadata": {}, "data": {"text/html": ["<script>1</script>"]}},
    {"output_type": "display_data", "metadata": {}, "data": {"text/html": ["<img src='x' onerror='y()' alt='z'>"]}},
    {"output_type": "display_data", "metadata": {}, "data": {"text/html": ["<img src='x'>"]}},
    {"output_type": "display_data", "metadata": {}, "data": {"image/png": "aGk="}},
    {"output_type": "error", "ename": "E", "evalue": "", "traceback": []},
], ids=["script", "handler", "html picture without alt", "bitmap without alt", "error"])
def test_bad_outputs_are_seen(output):
    page = copy.deepcopy(GOOD)
    page["cells"][1]["outputs"] = [output]
    assert docs_gate.output_faults(page, "page")


def test_references_citations_and_links_without_a_target_are_seen(tmp_path):
    assert docs_gate.REFERENCE.findall("See @eq-lost and [-@fig-x].") == ["eq-lost", "fig-x"]
    assert docs_gate.CITATION.findall("As [@welch1974, p. 3] shows; mail a@b.org is none.") == ["welch1974"]
    assert docs_gate.link_faults("[x](missing.ipynb)", "page", tmp_path / "page.ipynb")
    assert docs_gate.link_faults("![](picture.png)", "page", tmp_path / "page.ipynb")


def test_the_footer_carries_version_and_commit(tmp_path):
    """Every page that has the footer of `_quarto.yml` is stamped, once; others are left alone."""
    import build_docs
    assert build_docs.FOOTER in (docs_gate.ROOT / "_quarto.yml").read_text(encoding="utf-8")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "page.html").write_text(f"<footer>{build_docs.FOOTER}</footer>", encoding="utf-8")
    (tmp_path / "plain.html").write_text("<p>no footer</p>", encoding="utf-8")
    assert build_docs.stamp(tmp_path, "0.1.0", "abcdef0123") == 1
    assert "atomsnb 0.1.0, commit abcdef0123" in (tmp_path / "a" / "page.html").read_text() and "Colab" not in (tmp_path / "a" / "page.html").read_text()
    (tmp_path / "cli.html").write_text(build_docs.FOOTER, encoding="utf-8")
    build_docs.stamp(tmp_path, "0.1.0", "abcdef0123")
    assert "colab.research.google.com/github/atomsnb/atomsnb/blob/main/nbs/cli.ipynb" in (tmp_path / "cli.html").read_text()
    assert (tmp_path / "plain.html").read_text() == "<p>no footer</p>"
