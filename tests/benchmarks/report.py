"""Time the report of a large study: ``python tests/benchmarks/report.py``; 75 runs with 50 test images each."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_report import write_run

SIDE = 224


def main() -> None:
    """Write a study of 3 networks, 5 seeds and 5 folds, and time its report, imports included, three times."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        for network, mean in {"UNet": 0.90, "PotiNet": 0.87, "XopiNet": 0.90}.items():
            for fold in range(5):
                for seed in range(5):
                    scores = {f"slide{fold}-{n}": mean + rng.normal(0, 0.02) for n in range(50)}
                    write_run(study, network, seed, fold, scores, side=SIDE, epochs=100)
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run(
                [Path(sys.executable).with_name("cellseg"), "report", study], check=True, capture_output=True
            )
            Console().print(f"{time.perf_counter() - began:.1f} s")
        size = (study / "report.html").stat().st_size
        Console().print(f"report.html: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
