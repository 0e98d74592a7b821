"""Make every picture in docs/ anew: ``python tests/benchmarks/pictures.py RUN STUDY``.

RUN is a run of ``python train.py``, STUDY a study with its report. Needs Chromium for pages.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from cellseg.run.folder import RunFolder
from cellseg.study.collect import read_study
from cellseg.study.report import write_report

DOCS = Path(__file__).resolve().parents[2] / "docs"
CELLSEG = Path(sys.executable).with_name("cellseg")


def main(run: Path, study: Path) -> None:
    """Write example.png, cells.png, review.png and report.png."""
    tested = RunFolder(run).test_rows.sort_values("dice")
    name = tested["image"].iloc[len(tested) // 2]  # the one of median Dice
    save(Image.open(run / "predictions" / f"{name}.png"), "example")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        told("synthesize", folder / "fresh", "--pairs", "1", "--seed", "77")
        told("predict", run, folder / "fresh", "--border", "--output", folder / "found")
        save(Image.open(folder / "found" / "overlays" / "cell_1.png"), "cells")
        told("review", run, "--output", folder / "review")
        page = shot(folder / "review" / "review.html", 1140, 1400)
        save(page, "review")
        write_report(read_study(study))
        save(shot(study / "report.html", 1200, 1000), "report")


def told(*words: object) -> None:
    """Run a cellseg command."""
    subprocess.run([str(CELLSEG), *map(str, words)], check=True, capture_output=True)


def shot(page: Path, width: int, height: int) -> Image.Image:
    """Return the top of a page as Chromium shows it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.png"
        size = f"--window-size={width},{height}"
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", size, f"--screenshot={file}")
        subprocess.run(["chromium", *flags, page.resolve().as_uri()], check=True, capture_output=True)
        return Image.open(file).convert("RGB")


def save(picture: Image.Image, name: str) -> None:
    """Write a picture of docs/, with at most 256 colours where that is not seen."""
    picture.convert("RGB").save(DOCS / f"{name}.png", optimize=True)
    print(DOCS / f"{name}.png", picture.size)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
