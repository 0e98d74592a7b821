"""Print what averaging at prediction gains: over 8 flips and turns, over the seeds of a study, and over both.

    python tests/benchmarks/averaging.py logs/STUDY ...

Dice is averaged over test images. The networks of an average have the same configuration and training set, so none has
seen the image.
"""

import sys
from pathlib import Path

import pandas as pd
import torch

from cellseg.metrics import image_scores
from cellseg.study.collect import Study, read_study
from cellseg.use.inference import Predictor
from cellseg.use.load import load_run

WAYS = {"single": (False, False), "flips and turns": (True, False), "seeds": (False, True), "both": (True, True)}


def scores(study: Study, configuration: str) -> pd.DataFrame:
    """Return the Dice of each test image in each way; a row for each image of each training set."""
    rows = []
    runs = study.runs[study.runs["configuration"] == configuration]
    for fold, alike in runs.groupby("fold"):
        members = [load_run(study.folder / name) for name in alike["run"]]
        for turned, together in WAYS.values():
            way = next(name for name, how in WAYS.items() if how == (turned, together))
            for group in [members] if together else [[member] for member in members]:
                first = group[0]
                predictor = Predictor(
                    [member.network for member in group],
                    first.image_size,
                    facts=first.facts,
                    precision=first.files.summary.precision,
                    turned=turned,
                )
                for name in first.files.test_rows["image"]:
                    kept = first.files.prediction(name)
                    image = torch.from_numpy(kept.image.transpose(2, 0, 1).copy()) / 255
                    truth = torch.from_numpy(kept.truth)[None, None].float()
                    dice = image_scores(predictor.see_sample(image), truth)["dice"].item()
                    rows.append({"way": way, "fold": fold, "image": name, "dice": dice})
    return pd.DataFrame(rows)


def main(folders: list[Path]) -> None:
    """Print a table for each study."""
    for folder in folders:
        study = read_study(folder)
        for configuration in study.configurations:
            found = scores(study, configuration)
            means = found.groupby(["way", "image"])["dice"].mean().groupby("way").mean()
            cells = " | ".join(f"{100 * means[way]:.2f}" for way in WAYS)
            print(f"| {folder.name} | {configuration} | {cells} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
