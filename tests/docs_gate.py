"""The documentation gate that works without Quarto: nbdev's processing, pandoc's parser, and lints for what Quarto only warns about.

`problems()` returns one line per fault; an empty list is a site that will render. Run as a program it prints them.
"""
import base64
import contextlib
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pypandoc
import yaml

ROOT = Path(__file__).resolve().parents[1]
PREFIXES = ("eq", "fig", "tbl", "thm", "lem", "cor", "prp", "exm", "sec")
REFERENCE = re.compile(rf"(?<![\w.@\\])-?@((?:{'|'.join(PREFIXES)})-[\w-]+)")
CITATION = re.compile(r"(?<![\w.@\\/])-?@([A-Za-z][\w:.#$%&+?<>~/-]*\w)")
LABEL = re.compile(rf"\{{#((?:{'|'.join(PREFIXES)})-[\w-]+)")
LINK = re.compile(r"(?<!\\)!?\[[^\]]*\]\(([^)\s]+)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)(\{[^}]*\})?")


class Images(HTMLParser):
    """Collects the <img> tags without a spoken description and the active content of an HTML output."""

    def __init__(self) -> None:
        super().__init__()
        self.silent, self.active = 0, []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        values = dict(attrs)
        self.silent += tag == "img" and not (values.get("alt") or "").strip()
        self.active += [tag] if tag in {"script", "iframe", "object", "embed"} else []
        self.active += [name for name in values if name.startswith("on")]


def prose(notebook: dict) -> str:
    """All markdown of a notebook, without fenced and inline code (where `@` is Python)."""
    text = "\n\n".join("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] in {"markdown", "raw"})
    return re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", text, flags=re.S))


def bib_keys(path: Path) -> "set[str]":
    """Citation keys of a BibTeX file."""
    return set(re.findall(r"@\w+\s*\{\s*([^,\s]+)\s*,", path.read_text(encoding="utf-8"))) if path.exists() else set()


def process(into: Path) -> Path:
    """nbdev's documentation processing of every notebook; returns the folder of processed notebooks."""
    script = "from nbdev.serve import proc_nbs; print(proc_nbs(n_workers=0, force=True))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=600)
    (into / "log.txt").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise RuntimeError(f"proc_nbs failed: {done.stderr.strip().splitlines()[-1:]}")
    return ROOT / "_proc"


def pandoc_faults(notebook: dict, name: str) -> "list[str]":
    """Parse with pandoc, mathematics included; a warning is a fault."""
    for number, cell in enumerate(c for c in notebook["cells"] if c["cell_type"] == "code"):
        cell["execution_count"] = number + 1  # nbdev_clean leaves null, which pandoc takes for an older format
        for output in cell.get("outputs", []):
            if output.get("output_type") == "execute_result":
                output["execution_count"] = number + 1
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "page.ipynb"
        source.write_text(json.dumps(notebook), encoding="utf-8")
        done = subprocess.run([pypandoc.get_pandoc_path(), "-f", "ipynb", "-t", "html5", "--mathml", "--fail-if-warnings", "-o", f"{folder}/page.html",
                               str(source)], capture_output=True, text=True, timeout=120)
    return [f"{name}: pandoc: {line}" for line in done.stderr.strip().splitlines()[:5]] if done.returncode else []


def output_faults(notebook: dict, name: str) -> "list[str]":
    """No active content in a stored output, and a description on every picture."""
    faults = []
    for number, cell in enumerate(notebook["cells"]):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            parser = Images()
            parser.feed("".join(data.get("text/html", "")))
            if parser.active:
                faults.append(f"{name}: cell {number}: active content in an output: {', '.join(parser.active)}")
            if parser.silent:
                faults.append(f"{name}: cell {number}: {parser.silent} picture(s) without alt text")
            svg = "".join(data.get("image/svg+xml", ""))
            if re.search(r"<script|\son\w+=", svg):
                faults.append(f"{name}: cell {number}: active content in a drawing")
            described = re.search(r"<title|<desc|aria-label", svg) or "fig-alt" in "".join(cell["source"]) or "alt" in str(output.get("metadata", {}))
            bitmap = any(key in data for key in ("image/png", "image/jpeg")) and "text/html" not in data
            if (svg or bitmap) and not described:
                faults.append(f"{name}: cell {number}: a picture without alt text")
            if output.get("output_type") == "error":
                faults.append(f"{name}: cell {number}: a stored error")
    return faults


def link_faults(text: str, name: str, page: Path) -> "list[str]":
    """Every relative link and picture resolves; every picture has a description; no embedded picture is broken."""
    faults = []
    for target in LINK.findall(text):
        if target.startswith("data:"):
            try:
                base64.b64decode(target.split(",", 1)[1], validate=True)
            except Exception:
                faults.append(f"{name}: an embedded picture does not decode")
            continue
        path = target.split("#")[0].split("?")[0]
        if path and not re.match(r"[a-z]+:", target):
            near = [(page.parent / path), (page.parent / path).with_suffix(".ipynb"), (page.parent / path).with_suffix(".qmd")]
            if not any(p.exists() for p in near):
                faults.append(f"{name}: link to {target} leads nowhere")
    for alt, target, attributes in IMAGE.findall(text):
        if not alt.strip() and "fig-alt" not in attributes:
            faults.append(f"{name}: picture {target[:60]} without alt text")
    return faults


def settings_faults() -> "list[str]":
    """_quarto.yml parses, is a website, writes where settings.ini says, and is what nbdev will read."""
    faults, settings = [], dict(re.findall(r"^(\w+) *= *(.*)$", (ROOT / "settings.ini").read_text(), flags=re.M))
    site = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    if site.get("project", {}).get("type") != "website":
        faults.append("_quarto.yml: project.type is not website")
    if site.get("project", {}).get("output-dir") != settings["doc_path"].strip():
        faults.append("_quarto.yml: output-dir differs from doc_path")
    link = ROOT / "nbs" / "_quarto.yml"
    if not link.is_symlink() or link.resolve() != (ROOT / "_quarto.yml").resolve():
        faults.append("nbs/_quarto.yml is not a symlink to the top-level file")

    def pages(node: object) -> "list[str]":
        if isinstance(node, str):
            return [node] if node.endswith((".ipynb", ".qmd")) else []
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
        return [p for child in children for p in pages(child)]

    listed = set(pages(site["website"]))
    present = {str(p.relative_to(ROOT / "nbs")) for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts}
    faults += [f"_quarto.yml lists {p}, which is not there" for p in sorted(listed - present)]
    faults += [f"nbs/{p} is in no sidebar of _quarto.yml" for p in sorted(present - listed) if p != "main.ipynb"]
    return faults


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One at a time in this checkout: nbdev clears and fills `_proc`, which a second run would read while it is empty."""
    with open(Path(tempfile.gettempdir()) / f"atomsnb-docs-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:16]}.lock", "w") as lock:
        with contextlib.suppress(ImportError):
            import fcntl
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def problems() -> "list[str]":
    """Every fault of the documentation, one line each."""
    with alone():
        return _problems()


def _problems() -> "list[str]":
    faults = settings_faults()
    with tempfile.TemporaryDirectory() as folder:
        processed = process(Path(folder))
    keys = bib_keys(ROOT / "references.bib")
    pages = sorted(p for p in processed.rglob("*.ipynb"))
    if not pages:
        return [*faults, "nothing was processed"]
    texts = {p: prose(json.loads(p.read_text(encoding="utf-8"))) for p in pages}
    labels = {label for text in texts.values() for label in LABEL.findall(text)}
    for page in pages:
        name, notebook = str(page.relative_to(processed)), json.loads(page.read_text(encoding="utf-8"))
        text, own = texts[page], LABEL.findall(texts[page])
        faults += [f"{name}: label {label} is given twice" for label in {x for x in own if own.count(x) > 1}]
        faults += [f"{name}: reference @{r} has no label" for r in sorted(set(REFERENCE.findall(text)) - labels)]
        cited = {c for c in CITATION.findall(text) if not c.startswith(tuple(p + "-" for p in PREFIXES))}
        faults += [f"{name}: citation @{c} is not in references.bib" for c in sorted(cited - keys)]
        faults += link_faults(text, name, page) + output_faults(notebook, name) + pandoc_faults(notebook, name)
    return faults


if __name__ == "__main__":
    found = problems()
    print("\n".join(found) or "no fault")
    sys.exit(bool(found))
