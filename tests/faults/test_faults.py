"""Every fault of faults.py, once each; all its tries take much longer: ``python tests/faults/faults.py``."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="signals, small disks and memory limits as Linux has them")
def test_every_fault_is_survived():
    script = Path(__file__).with_name("faults.py")
    result = subprocess.run([sys.executable, str(script), "--tries", "1"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr + result.stdout
