"""What a split drawn anew after training does to a score: ``python tests/benchmarks/leak.py logs/leak FILE.csv``.

The original study trained, stopped, and scored the weights in a new process, which drew a new unseeded split: about
four fifths of its test images had trained the network. For each run this script scores every image by soft Dice, as
that study did, and draws 1,000 new tests of as many images. It writes one row for each run.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cellseg.data.cache import load_pairs
from cellseg.data.pairs import find_pairs
from cellseg.metrics import image_scores
from cellseg.use.load import load_run

DRAWS = 1000


def main(study: Path, out: Path) -> None:
    """Write the table, and print it."""
    rows = []
    for folder in sorted(path.parent for path in study.glob("*/summary.json")):
        run = load_run(folder)
        pairs = find_pairs(Path(run.files.summary.data.root)).pairs
        decoded = load_pairs(pairs, run.files.settings.reading)
        soft = []
        for row in decoded.row:
            with torch.inference_mode():
                seen = run.network(torch.from_numpy(decoded.images[row])[None] / 255).sigmoid()
            mask = torch.from_numpy(decoded.masks[row])[None].float()
            soft.append(image_scores(seen, mask)["soft_dice"].item())
        score = pd.Series(soft, [pair.name for pair in pairs])
        test, train = ([entry.name for entry in part] for part in (run.files.split.test, run.files.split.train))
        draws = np.random.default_rng(0)
        anew = [score.sample(len(test), random_state=draws).mean() for _ in range(DRAWS)]
        rows.append(
            {
                "network": run.files.summary.model,
                "seed": run.files.summary.seed,
                "test_images": len(test),
                "honest": score[test].mean(),
                "on_training_images": score[train].mean(),
                "split_anew": np.mean(anew),
                "split_anew_lowest": np.quantile(anew, 0.025),
                "split_anew_highest": np.quantile(anew, 0.975),
            }
        )
    table = pd.DataFrame(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(out, index=False)
    print(table.round(4).to_string(index=False))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
