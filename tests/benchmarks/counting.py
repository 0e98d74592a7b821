"""Count the cells of freshly drawn smears with a trained network, and tell sickles from discs.

    python tests/benchmarks/counting.py RUN

The smears and the numbers of their cells are exact. The count error of an image is its number of predicted objects
minus that of its cells; its share is relative to the cells. Means are over images.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cellseg.data.synthetic import SmearStyle, write_synthetic
from cellseg.objects import label_truth, object_scores
from cellseg.use.predict import Source, Wanted, predict_files
from cellseg.use.trained import Trained, find_trained

SMEARS, SEED = 50, 77
ELONGATED = 1.5  # above it an object counts as a sickle
WAYS = {  # what predict does: at the border, with touching cells
    "as before": (False, False),
    "--border --no-split": (True, False),
    "without --border": (False, True),
    "--border": (True, True),
}


def main(run: Path) -> None:
    """Print both tables."""
    trained = find_trained(run)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_synthetic(folder / "smears", SMEARS, SEED, exact=True)
        print("| predict | mean error, cells | mean absolute error, % of the cells | object F1 |\n|---|---|---|---|")  # noqa: T201
        for number, (way, (border, split)) in enumerate(WAYS.items()):
            output = folder / f"found{number}"
            predict(trained, folder / "smears", output, border=border, split=split)
            scores = [compared(output, image) for image in sorted((folder / "smears").iterdir())]
            error, share, f1 = np.mean(scores, axis=0)
            print(f"| {way} | {error:+.1f} | {100 * share:.1f} | {f1:.3f} |", flush=True)  # noqa: T201
        print(f"\n| drawn | objects | of elongation above {ELONGATED} |\n|---|---|---|")  # noqa: T201
        for kind, share in (("discs", 0.0), ("sickles", 1.0)):
            write_synthetic(folder / kind, 12, SEED, SmearStyle(sickled=share))
            predict(trained, folder / kind, folder / f"found {kind}", border=True, split=True)
            objects = pd.read_csv(folder / f"found {kind}" / "objects.csv")
            whole = objects[~objects["touches_border"]]
            print(f"| {kind} | {len(whole)} | {100 * (whole['elongation'] > ELONGATED).mean():.1f} % |")  # noqa: T201


def predict(trained: Trained, smears: Path, output: Path, *, border: bool, split: bool) -> None:
    """Write predictions of a folder of smears."""
    sources = [Source(folder.name, folder / "source.jpg") for folder in sorted(smears.iterdir())]
    predict_files(trained.predictor(border=border), sources, output, wanted=Wanted(split=split))


def compared(output: Path, smear: Path) -> tuple[float, float, float]:
    """Return the count error of a smear, the absolute one as a share of its cells, and F1."""
    labels, ids = (
        np.asarray(Image.open(path), np.int32) for path in (output / "labels" / f"{smear.name}.png", smear / "ids.png")
    )
    scores = object_scores(labels, label_truth(ids > 0, ids))
    return scores["count_error"], scores["count_error_abs"] / scores["true_objects"], scores["object_f1"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
