"""The faults that no other test covers, once each; ``python tests/faults/faults.py`` tries all, which takes longer."""

import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = [("full", "full_sweep", "readonly", "shared"), ("starved", "names", "strangers", "pictures")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="signals, small disks and memory limits as Linux has them")
@pytest.mark.parametrize("faults", FAULTS, ids=" ".join)
def test_faults_are_survived(faults):
    script = Path(__file__).with_name("faults.py")
    result = subprocess.run([sys.executable, str(script), *faults, "--tries", "1"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr + result.stdout
