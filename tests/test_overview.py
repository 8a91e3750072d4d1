"""The pages that repeat figures show what the committed files say now, and the filter works on the table that it is meant for."""
import json
import re

import pytest
from test_house import ROOT

from atomsnb.core.overview import FIGURES, claims_table, markdown_table, papers_table, reliability_table, verdict_counts, verdict_filter
from atomsnb.core.papers import papers


def stored(page: str) -> str:
    """All stored Markdown and HTML of a page."""
    cells = json.loads((ROOT / "nbs" / page).read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(o.get("data", {}).get(kind, "")) for c in cells for o in c.get("outputs", []) for kind in ("text/markdown", "text/html"))


@pytest.mark.parametrize("page, views", [
    ("papers.ipynb", [papers_table(ROOT, part) for part in dict.fromkeys(p.part for p in papers())]),
    ("claims.ipynb", [claims_table(ROOT), verdict_filter(ROOT)]),
    ("reliability.ipynb", [reliability_table(ROOT)]),
    ("index.ipynb", [papers_table(ROOT, landed_only=True), claims_table(ROOT, scales=("cpu",), certainties=("paper",), decided_only=True, brief=True), reliability_table(ROOT, measured_only=True)]),
], ids=["papers", "claims", "reliability", "front page"])
def test_a_page_shows_what_the_files_say(page, views):
    text = stored(page)
    for view in views:
        assert view in text, f"{page} is older than the files: make store NB=nbs/{page}"


def test_every_claim_has_a_row_and_every_row_its_cells():
    lines = claims_table(ROOT).splitlines()
    assert len(lines) - 2 == sum(n for scales in verdict_counts(ROOT).values() for counts in scales.values() for n in counts.values())
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {9}


def test_the_filter_names_the_classes_of_the_table():
    form, table = verdict_filter(ROOT), claims_table(ROOT)
    for word in re.findall(r'id="filter-([vs]-[\w-]+)"', form):
        assert word.endswith("-all") or word in table, word
    assert "<script" not in form and " on" not in re.sub(r">[^<]*<", "><", form)


def test_every_command_of_a_figure_exists():
    """A command on the reliability page that does not exist would be a dead end."""
    for figure in FIGURES:
        suite = re.search(r"run_all\.py (\w+)", figure.command)
        assert suite is None or (ROOT / "tests" / "reliability" / f"{suite[1]}.py").is_file(), figure


def test_a_torn_table_is_refused():
    with pytest.raises(ValueError, match="rows"):
        markdown_table(("a", "b"), [("1",)])
    with pytest.raises(ValueError, match="part"):
        papers_table(ROOT, "quantumm")
    with pytest.raises(ValueError, match="scales"):
        claims_table(ROOT, scales=("laptop",))
    with pytest.raises(ValueError, match="certainties"):
        claims_table(ROOT, certainties=("rumour",))
