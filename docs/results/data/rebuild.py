"""Build the two real data sets of these studies from the public download of BBBC038, stage1_train (CC0).

    python docs/results/data/rebuild.py stage1_train data

It writes ``data/tissue50`` and ``data/fluo50``: images and numbered masks as PNG, and ``groups.csv``. stage1_train is
the unpacked ``stage1_train.zip`` of https://bbbc.broadinstitute.org/BBBC038; it has a folder for each image, by its id.

The studies used tissue50 with JPEG images and JPEG masks, flawed like Mabimi (grey where cells touch), and with masks
that people had corrected, so scores differ a little from those of these files.
"""

import csv
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent


def build(source: Path, listed: Path, out: Path) -> None:
    """Write one data set; the pairs, groups and ids are those of a table."""
    with listed.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if lacking := [row["bbbc038_image_id"] for row in rows if not (source / row["bbbc038_image_id"]).is_dir()]:
        raise SystemExit(f"{source} lacks {len(lacking)} of {len(rows)} images, first {lacking[0]}; name stage1_train")
    for folder in ("images", "masks"):
        (out / folder).mkdir(parents=True)
    for row in rows:
        one = source / row["bbbc038_image_id"]
        image = Image.open(one / "images" / f"{one.name}.png").convert("RGB")
        ids = np.zeros(image.size[::-1], np.uint16)
        for number, mask in enumerate(sorted((one / "masks").glob("*.png")), 1):
            ids[np.asarray(Image.open(mask).convert("L")) > 0] = number
        image.save(out / "images" / f"{row['pair']}.png")
        Image.fromarray(ids).save(out / "masks" / f"{row['pair']}.png")
    shutil.copy(listed, out / "groups.csv")
    print(f"{out}: {len(rows)} pairs")  # noqa: T201


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python docs/results/data/rebuild.py stage1_train OUT")
    for name in ("tissue50", "fluo50"):
        build(Path(sys.argv[1]), HERE / f"{name}.csv", Path(sys.argv[2]) / name)
