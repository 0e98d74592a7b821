"""How often a verdict is wrong on real runs of one network: ``python tests/benchmarks/nulls.py STUDY OUT``.

STUDY has runs of one configuration with many seeds in each fold. Its seeds are divided at random into two arms, which
are judged like two networks. Both arms are the same network, so every "different" is false.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from cellseg.storage.csv_files import write_csv
from cellseg.study.collect import Study, read_study
from cellseg.study.verdict import DIFFERENT, EQUIVALENT, UNDECIDED, UNKNOWN, judge

DIVISIONS = 1000
KINDS = (DIFFERENT, EQUIVALENT, UNDECIDED, UNKNOWN)


def divided(study: Study, arms: Sequence[Sequence[int]], folds: Sequence[str]) -> Study:
    """Return a study of two configurations, A and B, with these seeds in these folds; each counts them from 0."""
    where = {seed: (name, number) for name, seeds in zip("AB", arms, strict=True) for number, seed in enumerate(seeds)}

    def part(table: pd.DataFrame) -> pd.DataFrame:
        kept = table[table["seed"].isin(list(where)) & table["fold"].isin(list(folds))].copy()
        kept["configuration"] = [where[seed][0] for seed in kept["seed"]]
        kept["seed"] = [where[seed][1] for seed in kept["seed"]]
        return kept.reset_index(drop=True)

    runs = part(study.runs)
    # as for two networks that share no initial weights
    runs["network"] = runs["configuration"]
    return replace(study, runs=runs, images=part(study.images), baselines=part(study.baselines), plans=[], looks=[])


def main() -> None:
    """Judge all divisions, print the shares of each verdict, and write them with every difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    study = read_study(arguments.study)
    seeds, folds = sorted(set(study.runs["seed"])), sorted(set(study.runs["fold"]))
    study = replace(study, scores=study.scores[:1])
    rng, rows, shares = np.random.default_rng(0), [], []
    for name, size, used in (
        (f"{len(seeds) // 2} seeds x {len(folds)} folds", len(seeds) // 2, folds),
        (f"3 seeds x {len(folds)} folds", 3, folds),
        (f"1 seed x {len(folds)} folds", 1, folds),
        ("3 seeds, one training set", 3, folds[:1]),
    ):
        kinds, missed = Counter[str](), 0
        for number in track(range(DIVISIONS), name, console=Console(stderr=True)):
            drawn = rng.permutation(seeds)[: 2 * size].tolist()
            [verdict] = judge(divided(study, (drawn[:size], drawn[size:]), used))
            found = verdict.dice
            kinds[verdict.kind] += 1
            missed += bool(found and found.different)
            rows.append(
                {
                    "design": name,
                    "division": number,
                    "seeds_a": " ".join(map(str, drawn[:size])),
                    "seeds_b": " ".join(map(str, drawn[size:])),
                    "difference": found and found.difference,
                    "low": found and found.low,
                    "high": found and found.high,
                    "verdict": verdict.kind,
                }
            )
        widths = [row["high"] - row["low"] for row in rows if row["design"] == name and row["low"] is not None]
        shares.append(
            {
                "design": name,
                **{kind: kinds[kind] / DIVISIONS for kind in KINDS},
                "interval excludes 0": missed / DIVISIONS,
                "median width, points": round(100 * float(np.median(widths)), 2),
            }
        )
        Console().print(shares[-1])
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_csv(arguments.out / "shares.csv", shares)
    write_csv(arguments.out / "divisions.csv", rows)
    runs = ["seed", "fold", "dice", "loss", "epochs", "seconds", "commit", "device"]
    study.runs[runs].round(6).to_csv(arguments.out / "runs.csv", index=False)


if __name__ == "__main__":
    main()
