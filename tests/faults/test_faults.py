"""The faults of faults.py, a few tries each; all its tries take much longer: ``python tests/faults/faults.py``."""

import sys

import pytest

from faults import FAULTS, run

TRIES = dict.fromkeys([fault.__name__ for fault in FAULTS], 1) | {"killed": 3, "damaged": 2, "full": 3}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="signals, small disks and memory limits as Linux has them")
def test_every_fault_is_survived():
    for fault, tally in run([fault.__name__ for fault in FAULTS], TRIES).items():
        assert tally.survived == tally.tries, (fault, tally.said)
        assert tally.identical == tally.comparable, (fault, tally.said)
