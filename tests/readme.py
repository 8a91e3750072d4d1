"""README.md from nbs/index.ipynb: markdown as it stands, code as fenced blocks, outputs as they were stored.

`python tests/readme.py` writes the file; `--check` only says whether it is current. (nbdev_readme does the same through Quarto, which a
machine need not have.)
"""
import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def render(notebook: dict) -> str:
    """Markdown of a notebook whose relative links are turned from nbs/ to the repository's root."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        directives = re.findall(r"^#\| *(.+)$", source, flags=re.M)
        if cell["cell_type"] != "code" or "hide" in directives:
            continue
        body = re.sub(r"^#\|.*\n?", "", source, flags=re.M).strip()
        if body and "echo: false" not in directives:
            parts.append(f"```python\n{body}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/markdown" in data:
                parts.append("".join(data["text/markdown"]))
            elif output.get("name") == "stdout" or "text/plain" in data:
                text = "".join(output.get("text", data.get("text/plain", "")))
                parts.append("\n".join("    " + line for line in text.rstrip().splitlines()))
    text = "\n\n".join(p.strip("\n") for p in parts) + "\n"
    return re.sub(r"(\]\()(?!https?:|#|mailto:|\.\./)([^)\s]+)", r"\1nbs/\2", text).replace("](../", "](")


def current() -> str:
    """What README.md should hold now."""
    return render(json.loads((ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8")))


def main() -> int:
    """Write README.md, or with --check return 1 where it differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if README.md is not what the notebook gives")
    check = parser.parse_args().check
    path = ROOT / "README.md"
    same = path.exists() and path.read_text(encoding="utf-8") == current()
    if not check:
        path.write_text(current(), encoding="utf-8")
    print("README.md is current" if same else "README.md differs from nbs/index.ipynb" if check else "README.md written")
    return int(check and not same)


if __name__ == "__main__":
    sys.exit(main())
