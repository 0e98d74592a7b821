"""How long a data set takes to start and how much memory an epoch of it needs: first start, and from the cache.

    cellseg synthesize OUT --pairs 10000 --size 256
    python tests/benchmarks/data_loading.py OUT

writes data_loading.md beside this file. Every start is a process of its own, with a cache folder of its own.
"""

import gc
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
STARTS = ("first start: files read, cleaned, cached", "second start", "third start")
COLUMNS = {
    "imports_s": "imports, s",
    "first_batch_s": "from there to the first batch, s",
    "epoch_s": "one epoch of loading, s",
    "imports_mb": "peak RSS after imports, MB",
    "peak_mb": "peak RSS at the end, MB",
}


def measure(root: str) -> dict[str, float]:
    """Load one epoch and return seconds and peak resident memory in MB."""
    began = time.perf_counter()
    from cellseg import CellDataModule
    from cellseg.data import Dihedral, SplitPlan

    CellDataModule(root)  # the import itself waits for the first use
    figures = {"imports_s": time.perf_counter() - began, "imports_mb": peak_mb()}
    gc.freeze()  # as train.py does
    began = time.perf_counter()
    datamodule = CellDataModule(root, split=SplitPlan(), augmentation=Dihedral())
    datamodule.prepare_data()
    datamodule.setup()
    batches = iter(datamodule.train_dataloader())
    next(batches)
    figures["first_batch_s"] = time.perf_counter() - began
    for _ in batches:
        pass
    for _ in datamodule.test_dataloader()[0]:
        pass
    return figures | {"epoch_s": time.perf_counter() - began - figures["first_batch_s"], "peak_mb": peak_mb()}


def peak_mb() -> float:
    """Return the most memory this process ever held, in MB (10^6 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main(root: Path) -> None:
    """Measure three starts and write the table."""
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for start in STARTS:
            child = [sys.executable, __file__, "--measure", str(root)]
            output = subprocess.run(child, env=os.environ | {"XDG_CACHE_HOME": cache}, check=True, capture_output=True)
            rows.append((start, json.loads(output.stdout.splitlines()[-1])))
        size = sum(path.stat().st_size for path in Path(cache).rglob("*") if path.is_file())
    pairs = sum(1 for path in root.iterdir() if path.is_dir())
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True)
    text = [
        "# Loading a large data set",
        "",
        f"{pairs} pairs, {size / 1e6:.0f} MB in the cache at 224x224; all images loaded once, augmented, batches of 2.",
        f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}, "
        f"torch {version('torch')}, commit {commit.stdout.strip()}.",
        "",
        "| | " + " | ".join(COLUMNS.values()) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
        *(f"| {start} | " + " | ".join(f"{row[key]:.1f}" for key in COLUMNS) + " |" for start, row in rows),
        "",
        "`cellseg synthesize OUT --pairs 10000 --size 256`, then `python tests/benchmarks/data_loading.py OUT`.",
        "",
    ]
    (HERE / "data_loading.md").write_text("\n".join(text))
    sys.stdout.write("\n".join(text))


if __name__ == "__main__":
    if sys.argv[1] == "--measure":
        sys.stdout.write(json.dumps(measure(sys.argv[2])) + "\n")
    else:
        main(Path(sys.argv[1]))
