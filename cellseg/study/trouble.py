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
    low = pd.Series(False, runs.index)
    for _, dice in runs.groupby(["configuration", "fold"])["dice"]:
        low[dice.index] = [value < dice.drop(index).median() - COLLAPSE for index, value in dice.items()]
    useless = runs["dice"] <= best_baselines(study)
    low |= useless & ~useless.groupby(runs["configuration"]).transform("all")
    return set(runs.loc[low, "run"])


def best_baselines(study: Study) -> "pd.Series[float]":
    """Return for each run the Dice of the best baseline on its test images; NaN for runs without baselines."""
    if study.baselines.empty:
        return pd.Series(float("nan"), study.runs.index)
    each = study.baselines.groupby([*KEY, "baseline"])["dice"].mean().groupby(KEY).max()
    return study.runs[KEY].merge(each.reset_index(), how="left", on=KEY)["dice"].set_axis(study.runs.index)


def missing_runs(study: Study, configuration: str) -> list[tuple[int, str] | None]:
    """Return seed and fold of each run that a configuration lacks; None where they are unknown.

    Without a plan, these are also the combinations of seed and fold that another configuration has.
    """
    own = [run.key for run in study.unfinished if run.configuration == configuration]
    if study.plans:
        return list(own)
    have = {_key(row) for row in study.runs[study.runs["configuration"] == configuration].itertuples()}
    every = {_key(row) for row in study.runs.itertuples()}
    return [*own, *sorted(every - have - set(own))]


def worst_case(study: Study, a: str, b: str, difference: float, pairs: int) -> tuple[float, float] | None:
    """Return the bounds of a difference if each missing run had had the lowest or the highest possible Dice.

    Returns:
        None if both configurations lack equally many runs.
    """
    lacking = len(missing_runs(study, a)), len(missing_runs(study, b))
    if lacking[0] == lacking[1]:
        return None
    means = [study.runs.loc[study.runs["configuration"] == name, "dice"].mean() for name in (a, b)]
    lowest = lacking[0] * (0 - means[1]) + lacking[1] * (means[0] - 1)
    highest = lacking[0] * (1 - means[1]) + lacking[1] * (means[0] - 0)
    runs = pairs + sum(lacking)
    return (pairs * difference + lowest) / runs, (pairs * difference + highest) / runs


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
