"""Draw smears with labels of several kinds, to train on each kind and to score on the truth.

    python tests/benchmarks/labels.py data/labels
    python train.py -m data.root=data/labels/flawed,data/labels/unjudged,data/labels/corrected study=labels ...
    cellseg report logs/labels --truth data/labels/exact
    cellseg report logs/labels --truth data/labels/missed

A cell is missed if the flawed mask has at most half of it. ``flawed`` is the set as drawn; in ``unjudged`` nobody
judged the missed cells; in ``corrected`` they are labelled; ``exact`` has every cell as drawn. In ``missed`` only the
missed cells are labelled, and nobody judged the others.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from cellseg.data.synthetic import write_synthetic

CUT = 20  # grey value above which a JPEG mask is cell, as in data.mask_threshold
KINDS = ("flawed", "unjudged", "corrected", "exact", "missed")


def main(out: Path) -> None:
    """Write the five sets, the same images in each."""
    write_synthetic(out / "drawn", exact=True)
    missed_cells = cells = 0
    for pair in sorted((out / "drawn").iterdir()):
        ids = np.asarray(Image.open(pair / "ids.png"))
        labelled = np.asarray(Image.open(pair / "mask.jpg").convert("L")) > CUT
        size = np.bincount(ids.ravel())
        share = np.bincount(ids.ravel(), labelled.ravel()) / np.maximum(size, 1)
        lacking = (share <= 0.5) & (size > 0)
        lacking[0] = False
        missed, other = lacking[ids], (ids > 0) & ~lacking[ids]
        missed_cells, cells = missed_cells + int(lacking.sum()), cells + int((size[1:] > 0).sum())
        marks = {
            "flawed": labelled,
            "unjudged": labelled,
            "corrected": labelled | missed,
            "exact": ids,
            "missed": missed,
        }
        for kind in KINDS:
            folder = out / kind / pair.name
            folder.mkdir(parents=True)
            (folder / "source.jpg").write_bytes((pair / "source.jpg").read_bytes())
            if kind == "exact":
                Image.fromarray(ids).save(folder / "mask.png")
                continue
            Image.fromarray(marks[kind] * np.uint8(255)).save(folder / "mask.png")
            ignored = {"unjudged": missed, "missed": other}.get(kind)
            if ignored is not None:
                Image.fromarray(ignored * np.uint8(255)).save(folder / "ignore.png")
    print(f"{missed_cells} of {cells} cells are missed by the flawed masks")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
