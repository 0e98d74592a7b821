"""Fuzz one test with atheris, guided by coverage: ``python tests/fuzz/fuzz.py test_images --seconds 600``.

Needs ``pip install atheris``. Runs a test of test_fuzz.py repeatedly on bytes that become its arguments; ends at the
first failure and prints the bytes.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

with atheris.instrument_imports(include=["cellseg"]):
    import test_fuzz


def main() -> None:
    """Fuzz the test named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("test", choices=sorted(name for name in vars(test_fuzz) if name.startswith("test_")))
    parser.add_argument("--seconds", type=int, default=60)
    arguments = parser.parse_args()
    test = getattr(test_fuzz, arguments.test)
    dice = random.Random(0)
    with tempfile.TemporaryDirectory() as corpus:
        for number in range(100):  # without these, atheris would try too short inputs for a long time
            (Path(corpus) / str(number)).write_bytes(dice.randbytes(2 ** (5 + number % 7)))
        options = [
            sys.argv[0],
            f"-max_total_time={arguments.seconds}",
            "-max_len=4096",
            "-len_control=0",
            "-timeout=60",
            "-rss_limit_mb=4096",
            corpus,
        ]
        atheris.Setup(options, test.hypothesis.fuzz_one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
