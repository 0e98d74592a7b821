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


def typed() -> list[str]:
    """Return the command that starts a run."""
    return ["python", "train.py"] if CLONE and INSTALLED not in os.environ else ["cellseg", "train"]
