"""Where this package lies: in a clone, or installed; its configuration, and how a process of its own is started."""

import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
_ABOVE = PACKAGE.parent
CLONE = _ABOVE if (_ABOVE / "pyproject.toml").exists() and (_ABOVE / "conf" / "config.yaml").exists() else None
CONF = (CLONE or PACKAGE) / "conf"
# -P: the folder in which a person works is no place to import from
START = [sys.executable, str(CLONE / "train.py")] if CLONE else [sys.executable, "-P", "-m", "cellseg.train"]
INSTALLED = "CELLSEG_INSTALLED"  # set where a person typed cellseg train


def typed() -> list[str]:
    """Return what a person types to train."""
    return ["python", "train.py"] if CLONE and INSTALLED not in os.environ else ["cellseg", "train"]
