"""Runs that went wrong: failed, diverged and collapsed runs, and what missing runs could change."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from scipy import stats

from cellseg.study.collect import KEY, Study

COLLAPSE = 0.1  # of Dice: a run so far below the same network with other seeds has collapsed


@dataclass(frozen=True)
class Trouble:
    """What became of the runs of a configuration.

    Attributes:
        configuration: Its name.
        runs: Number of runs that ended.
        failed: How many failed, without a result.
        diverged: How many of these because the loss became NaN or infinite.
        collapsed: How many finished runs have a Dice more than 10 points below the median of the other seeds with the
            same training set, or not above the best baseline.
        low, high: Exact 95 % interval of the share of runs that fail or collapse.
    """

    configuration: str
    runs: int
    failed: int
    diverged: int
    collapsed: int
    low: float
    high: float


def find_trouble(study: Study) -> list[Trouble]:
    """Return what became of the runs of each configuration."""
    collapsed = collapsed_runs(study)
    found = []
    for configuration in study.configurations:
        runs = study.runs.loc[study.runs["configuration"] == configuration, "run"]
        failed = [run for run in study.unfinished if run.failure is not None and run.configuration == configuration]
        ended, low = len(runs) + len(failed), int(runs.isin(collapsed).sum())
        interval = stats.binomtest(len(failed) + low, ended).proportion_ci(0.95, "exact")
        diverged = sum(run.diverged for run in failed)
        found.append(Trouble(configuration, ended, len(failed), diverged, low, interval.low, interval.high))
    return found


def collapsed_runs(study: Study) -> set[str]:
    """Return the runs that collapsed: not above the best baseline, or far below the same network with other seeds.

    If no run of a configuration is above the baseline, the configuration has not learned, and no run of it collapsed.
    """
    runs = study.runs
    useless = runs["dice"] <= best_baselines(study)
    found = set(runs.loc[useless & ~useless.groupby(runs["configuration"]).transform("all"), "run"])
    for _, alike in runs.groupby(["configuration", "fold"]):
        dice = alike["dice"]
        found.update(
            alike.loc[index, "run"] for index in alike.index if dice[index] < dice.drop(index).median() - COLLAPSE
        )
    return found


def best_baselines(study: Study) -> "pd.Series[float]":
    """Return for each run the Dice of the best baseline on its test images; NaN for runs without baselines."""
    if study.baselines.empty:
        return pd.Series(float("nan"), study.runs.index)
    each = study.baselines.groupby([*KEY, "baseline"])["dice"].mean().groupby(KEY).max()
    return study.runs[KEY].merge(each.reset_index(), how="left", on=KEY)["dice"].set_axis(study.runs.index)


def missing_runs(study: Study, configuration: str) -> list[tuple[int, str] | None]:
    """Return seed and fold of each run that a configuration lacks; None where they are unknown.

    Masks of another tool have no runs to lack, and a run that was repeated in another folder is not lacking.
    Without a plan, these are also the gaps among its runs: combinations of seed and fold that another configuration
    has, of seeds up to its largest.
    """
    if configuration in study.masks:
        return []
    have = set(_dice_of(study, configuration))
    lacking = [run.key for run in study.unfinished if run.configuration == configuration and run.key not in have]
    # one that failed in two folders is one
    own = [*dict.fromkeys(key for key in lacking if key), *(key for key in lacking if key is None)]
    if study.plans:
        return own
    largest = max(seed for seed, _ in have)
    gaps = {_key(row) for row in study.runs.itertuples()} - have - set(own)
    return [*own, *sorted(key for key in gaps if key[0] <= largest)]


def worst_case(study: Study, a: str, b: str, difference: float, pairs: int) -> tuple[float, float] | None:
    """Return the bounds of a difference if each missing run had had a Dice of 0 or of 1.

    Returns:
        None if both configurations lack the same runs.
    """
    lacking = missing_runs(study, a), missing_runs(study, b)
    if sorted(map(str, lacking[0])) == sorted(map(str, lacking[1])):
        return None
    lowest = highest = pairs * difference
    for name, missing, others, sign in ((b, lacking[0], lacking[1], 1), (a, lacking[1], lacking[0], -1)):
        scores = _dice_of(study, name)
        typical = sum(scores.values()) / len(scores)
        for key in missing:
            if key in others:  # neither has this run
                continue
            there = scores.get(key, typical) if key else typical
            lowest += min(sign * (0 - there), sign * (1 - there))
            highest += max(sign * (0 - there), sign * (1 - there))
            pairs += 1
    return lowest / pairs, highest / pairs


def _dice_of(study: Study, configuration: str) -> dict[tuple[int, str], float]:
    """Return the Dice of each run of a configuration by its seed and fold."""
    own = study.runs[study.runs["configuration"] == configuration]
    return {_key(row): float(row.dice) for row in own.itertuples()}  # type: ignore[arg-type]


def still_improving(curves: pd.DataFrame, configuration: str) -> float | None:
    """Return by how much the training loss still fell at the end, as a share of its whole fall; None if unknown.

    It compares the last tenth of the epochs with the tenth before, mean over runs.
    """
    if "train/loss" not in curves:
        return None
    own = curves[curves["configuration"] == configuration].dropna(subset=["train/loss"])
    shares = []
    for _, run in own.groupby(["seed", "fold"]):
        loss: Sequence[float] = run.sort_values("epoch")["train/loss"].to_list()
        last = max(1, len(loss) // 10)
        if len(loss) < 2 * last:
            continue
        now, before = sum(loss[-last:]) / last, sum(loss[-2 * last : -last]) / last
        if loss[0] > now:
            shares.append((before - now) / (loss[0] - now))
    return sum(shares) / len(shares) if shares else None


def _key(row: object) -> tuple[int, str]:
    return row.seed, row.fold  # type: ignore[attr-defined]  # a named tuple of pandas
