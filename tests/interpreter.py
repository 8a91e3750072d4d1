"""Programs of kernels in Triton's CPU interpreter, in a process of their own: the interpreter is chosen by the environment, before Triton is imported."""
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from atomsnb.kernels.launch import LEAST_TRITON


def need_triton() -> None:
    """Skip where there is no Triton that the library accepts."""
    pytest.importorskip("triton", minversion=LEAST_TRITON)


def interpret(folder: Path, program: str) -> str:
    """Run a program with TRITON_INTERPRET=1 and return what it printed; skips where there is no Triton that the library accepts."""
    need_triton()
    path = folder / "program.py"
    path.write_text(textwrap.dedent(program))
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=300, env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "ATOMSNB_PROGRESS": "0"})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
