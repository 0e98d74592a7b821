"""Time the report of large studies: ``python tests/benchmarks/report.py``; with a folder, only write 75 runs there.

It prints seconds and peak memory of ``cellseg report``, imports included, for 75 runs of 50 test images and for two
networks with 10 seeds on 5,000 test images, and of the comparison alone for the second.
"""

import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))
from cellseg.study.collect import read_study
from cellseg.study.statistics import Differences, compare
from test_report import write_run

SIDE, REPEATS = 224, 3


def write_many(study: Path, rng: np.random.Generator) -> None:
    """Write a study of 75 runs: 3 networks, 5 folds, 5 seeds, 50 test images each."""
    for network, mean in {"UNet": 0.90, "PotiNet": 0.87, "XopiNet": 0.90}.items():
        for fold in range(5):
            for seed in range(5):
                scores = {f"slide{fold}-{n}": mean + rng.normal(0, 0.02) for n in range(50)}
                write_run(study, network, seed, fold, scores, side=SIDE, epochs=100)


def main() -> None:
    """Write both studies, and time their reports and the comparison of the second."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        many, large = Path(folder) / "many", Path(folder) / "large"
        write_many(many, rng)
        for network, mean in {"UNet": 0.90, "PotiNet": 0.89}.items():
            for seed in range(10):
                scores = {f"{n}-0": mean + rng.normal(0, 0.02) for n in range(5000)}
                write_run(large, network, seed, None, scores, side=8, epochs=100)
        report(many, "75 runs of 50 images")
        report(large, "20 runs of 5,000 images")
        comparison(large)


def report(study: Path, name: str) -> None:
    """Time ``cellseg report``; peak memory is that of all reports so far."""
    for _ in range(REPEATS):
        began = time.perf_counter()
        subprocess.run([Path(sys.executable).with_name("cellseg"), "report", study], check=True, capture_output=True)
        Console().print(f"{name}: {time.perf_counter() - began:.1f} s")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
    size = (study / "report.html").stat().st_size / 1e6
    Console().print(f"{name}: peak memory {peak:.0f} MB, report.html {size:.1f} MB")


def comparison(folder: Path) -> None:
    """Time the comparison of two configurations in Dice, without reading the study."""
    study = read_study(folder)
    a, b = (study.images[study.images["configuration"] == name] for name in study.configurations)
    tracemalloc.start()
    began = time.perf_counter()
    compare(Differences.between(a, b, "dice", study.test_share, alike=False), study.margin)
    seconds, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    Console().print(f"one comparison of 10 seeds on 5,000 images: {seconds:.2f} s, {peak / 1e6:.0f} MB")


if __name__ == "__main__":
    if sys.argv[1:]:
        write_many(Path(sys.argv[1]), np.random.default_rng(0))
    else:
        main()
