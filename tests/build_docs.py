"""Build the Quarto site with nbdev; any Quarto warning fails, since Quarto itself exits 0 on a broken reference."""
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


FOOTER = "atomsnb, Apache-2.0"


def stamp(folder: Path, version: str, commit: str) -> int:
    """Write version, commit and links to the notebook into the footer of every page, where `_quarto.yml` leaves the plain name; returns how many pages were stamped."""
    stamped = 0
    for page in folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        if FOOTER in text:
            words, notebook = f"atomsnb {version}, commit {commit}, Apache-2.0", Path("nbs") / page.relative_to(folder).with_suffix(".ipynb")
            if (ROOT / notebook).is_file():
                at = f"atomsnb/atomsnb/blob/main/{notebook.as_posix()}"
                words += f' · <a href="https://github.com/{at}?raw=true">download this notebook</a> · <a href="https://colab.research.google.com/github/{at}">open it in Colab</a>'
            page.write_text(text.replace(FOOTER, words), encoding="utf-8")
            stamped += 1
    return stamped


def main() -> int:
    """Return 0 when the site was built without a warning."""
    if shutil.which("quarto") is None:
        print("quarto is not on PATH. Install it from quarto.org, or run `make test`, whose documentation gate needs pandoc only.")
        return 2
    done = subprocess.run([str(Path(sys.executable).parent / "nbdev_docs")], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout)
    warnings = re.findall(r"^.*\bWARN(?:ING)?\b.*$", done.stdout, flags=re.M)
    commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT, text=True, capture_output=True).stdout.strip() or "unknown"
    version = re.search(r"^version *= *(\S+)", (ROOT / "settings.ini").read_text(encoding="utf-8"), re.M)
    pages = stamp(ROOT / "_docs", version.group(1) if version else "", commit)
    print(f"{len(warnings)} warning(s), exit {done.returncode}; the site is in _docs, {pages} pages stamped with commit {commit}")
    return int(bool(done.returncode or warnings))


if __name__ == "__main__":
    sys.exit(main())
