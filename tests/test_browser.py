"""The run report and the page of claims in a real browser: what is seen, what is asked of the network, and what a screen reader meets."""
import json
import re

import browser
import nbformat
import pypandoc
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from test_house import ROOT

from atomsnb.core.run import run_notebook

pytestmark = [pytest.mark.skipif(browser.program() is None, reason="no Chromium on this machine: make browser installs it"), pytest.mark.timeout(300)]
needs_axe = pytest.mark.skipif(not browser.AXE.is_file(), reason="axe-core is not here: make browser installs it")

CELLS = [
    new_markdown_cell("# A trial\n\n> One sentence with $x^2$ in it."),
    new_markdown_cell("## Formulas\n\n$$\\sum_{i=1}^n \\frac{w_i}{\\sqrt{2}} \\le \\hat{p}$$ {#eq-trial}\n\nSee @eq-trial.\n\n| a | b |\n|---|---|\n| 1 | 2 |"),
    new_code_cell("from atomsnb.core.ledger import Ledger\nfrom atomsnb.core.plots import figure, show"),
    new_code_cell("SCALE, SET, OUT = 'cpu', {}, None", metadata={"tags": ["parameters"]}),
    new_code_cell("book = Ledger('trial.page', out=OUT)\nbook.claim('one', 'It is small.', source='Table 1', source_certainty='paper', paper_value=2.0, rule='ours < 3', refuted_if='it is large')\n"
                  "book.claim('two', 'It is large.', source='Table 1', source_certainty='ours', rule='ours > 3', refuted_if='it is small')\n"
                  "book.measure('one', ours=[1.0, 2.0], seeds=[0, 1])\nbook.measure('two', ours=[1.0, 2.0], seeds=[0, 1])\nbook.save()\nbook"),
    new_code_cell("fig, ax = figure(alt='A straight line that rises from nought to one')\nax.plot([0, 1], [0, 1])\nax.set_xlabel('time / s')\nshow(fig)"),
    new_code_cell("print('a line ' * 40)"),
]
CONTRAST = """(() => {
  const rgb = c => c.match(/[\\d.]+/g).map(Number), lum = c => { const [r, g, b] = c.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
  const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > .9) return c.slice(0, 3) } return [255, 255, 255] };
  return [...document.querySelectorAll('h1, h2, p, td, th, caption')].filter(e => e.innerText && e.innerText.trim() && e.offsetParent).map(e => {
    const [a, b] = [lum(rgb(getComputedStyle(e).color)), lum(ground(e))].sort((x, y) => y - x); return (a + .05) / (b + .05) }) })()"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of a run, with its page."""
    folder = tmp_path_factory.mktemp("report")
    nbformat.write(new_notebook(cells=CELLS), folder / "trial.ipynb")
    result = run_notebook(folder / "trial.ipynb", out=folder / "out")
    assert result.exit_code == 0, str(result)
    return folder / "out" / "index.html"


@pytest.fixture(scope="module")
def tab():
    with browser.page() as page:
        yield page


def test_formulas_are_laid_out_and_nothing_is_asked_of_the_network(report, tab):
    tab.media()
    tab.open(report)
    assert tab.value("document.querySelectorAll('math').length") >= 2
    assert tab.value("[...document.querySelectorAll('math')].filter(m => m.closest('details:not([open])') === null).every(m => m.getBoundingClientRect().height > 8)")
    assert tab.value("document.querySelectorAll('mfrac').length") >= 1 and "\\frac" not in tab.value("document.body.innerText")
    assert tab.complaints == []
    assert [u for u in tab.requests if u != report.resolve().as_uri()] == []
    assert tab.value("document.title") and tab.value("document.documentElement.lang") == "en"
    assert "refuted" in tab.value("document.body.innerText") and "It is small." in tab.value("document.body.innerText")


def test_every_picture_speaks(report, tab):
    tab.open(report)
    spoken = tab.value("[...document.querySelectorAll('img, svg[role=img], figure svg')].map(e => e.getAttribute('alt') || e.getAttribute('aria-label') || (e.querySelector('title') || {}).textContent || '')")
    assert spoken and all(spoken), spoken


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible(report, tab, scheme):
    """Contrast of at least 4.5 to 1, the bar of WCAG AA, in both schemes; and the schemes differ."""
    tab.media(scheme)
    tab.open(report)
    assert min(tab.value(CONTRAST)) >= 4.5
    light = tab.value("getComputedStyle(document.body).backgroundColor")
    tab.media("dark" if scheme == "light" else "light")
    assert tab.value("getComputedStyle(document.body).backgroundColor") != light


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_window(report, tab, width):
    """On a phone as on a desk the page itself does not scroll sideways; wide tables and long lines scroll in boxes of their own."""
    tab.media(width=width)
    tab.open(report)
    assert tab.value("document.documentElement.scrollWidth") <= width


def test_it_prints(report, tab):
    """On paper the folded parts are no wider than the sheet, and the text is dark on white."""
    tab.media("dark", "print", 794, 1123)
    tab.open(report)
    assert tab.value("document.documentElement.scrollWidth") <= 794
    assert min(tab.value(CONTRAST)) >= 4.5
    pdf = tab.call("Page.printToPDF", printBackground=False, preferCSSPageSize=True)["data"]
    assert len(pdf) > 5000


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_reports_no_violation(report, tab, scheme):
    tab.media(scheme)
    tab.open(report)
    tab.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    tab.value(browser.AXE.read_text(encoding="utf-8") + ";0")
    found = tab.value("axe.run().then(r => r.violations.map(v => v.id + ': ' + v.nodes.map(n => n.html.slice(0, 120)).join(' || ')))")
    assert found == []


def test_the_filter_of_the_claims_page_filters(tab, tmp_path):
    """Each radio button leaves the rows of its verdict or scale, and both together leave their intersection."""
    cells = json.loads((ROOT / "nbs" / "claims.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(o["data"].get("text/markdown", o["data"].get("text/html", ""))) for c in cells for o in c.get("outputs", []))
    path = tmp_path / "claims.html"
    path.write_text(pypandoc.convert_text(text, "html5", format="markdown", extra_args=["--standalone", "--metadata=title:Claims"]), encoding="utf-8")
    tab.media()
    tab.open(path)
    rows = "[...document.querySelectorAll('tbody tr')].filter(r => r.offsetParent).length"
    everything = tab.value(rows)
    for group in ("v", "s"):
        seen = 0
        for word, count in re.findall(rf'id="filter-{group}-([\w-]+)"> [^(]*\((\d+)\)', text):
            tab.value(f"document.getElementById('filter-{group}-{word}').click()")
            assert tab.value(rows) == int(count), word
            seen += int(count)
        assert seen == everything
        tab.value(f"document.getElementById('filter-{group}-all').click()")
    tab.value("document.getElementById('filter-v-refuted').click(), document.getElementById('filter-s-cpu').click()")
    assert tab.value(rows) == len(re.findall(r'class="v-refuted s-cpu"', text)) > 0
