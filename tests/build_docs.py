"""Build the Quarto site with nbdev; any Quarto warning fails, since Quarto itself exits 0 on a broken reference."""
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Return 0 when the site was built without a warning."""
    if shutil.which("quarto") is None:
        print("quarto is not on PATH. Install it from quarto.org, or run `make test`, whose documentation gate needs pandoc only.")
        return 2
    done = subprocess.run([str(Path(sys.executable).parent / "nbdev_docs")], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout)
    warnings = re.findall(r"^.*\bWARN(?:ING)?\b.*$", done.stdout, flags=re.M)
    print(f"{len(warnings)} warning(s), exit {done.returncode}; the site is in _docs")
    return int(bool(done.returncode or warnings))


if __name__ == "__main__":
    sys.exit(main())
