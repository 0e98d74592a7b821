"""The faults of faults.py, a few tries each; all its tries take much longer: ``python tests/faults/faults.py``."""

import sys

import pytest

from faults import FAULTS, run

TRIES = {
    "killed": 6,
    "asked": 2,
    "stopped_sweep": 2,
    "damaged": 4,
    "full": 4,
    "starved": 1,
    "shared": 1,
    "diverged": 1,
    "clock": 1,
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="signals, small disks and memory limits as Linux has them")
def test_every_fault_is_survived():
    for fault, tally in run([fault.__name__ for fault in FAULTS], TRIES).items():
        assert tally.survived == tally.tries, (fault, tally.said)
        assert tally.identical == tally.comparable, (fault, tally.said)
