"""Location of the package (a clone or an installation) and of its configuration, and how to start a process."""

import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
_ABOVE = PACKAGE.parent
CLONE = _ABOVE if (_ABOVE / "pyproject.toml").exists() and (_ABOVE / "conf" / "config.yaml").exists() else None
CONF = (CLONE or PACKAGE) / "conf"
# -P: do not import from the current folder
START = [sys.executable, str(CLONE / "train.py")] if CLONE else [sys.executable, "-P", "-m", "cellseg.train"]
INSTALLED = "CELLSEG_INSTALLED"  # set by the command cellseg train


def wait_briefly() -> None:
    """Let threads of torch that wait for each other sleep soon; call before torch is imported.

    By default GNU OpenMP spins for milliseconds. If another program needs a core, the thread that is waited for then
    gets less of it: two runs at once took 1.4 times as long as with this limit, which costs nothing on an idle machine.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def typed() -> list[str]:
    """Return the command that starts a run."""
    return ["python", "train.py"] if CLONE and INSTALLED not in os.environ else ["cellseg", "train"]
