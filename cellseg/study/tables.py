"""Build the tables of a report: configurations, comparisons, images, runs and differing keys."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from cellseg.metrics import OBJECT_SCORES, Score
from cellseg.study.collect import Study
from cellseg.study.original import PUBLISHED
from cellseg.study.trouble import Trouble
from cellseg.study.verdict import Verdict

Row = dict[str, Any]

INTERVAL = "95 % interval"
ARROWS = {"higher": "", "lower": " ↓", None: ""}  # after the label of a score; no arrow where higher is better
COST_COLUMNS = {
    "configuration": "configuration",
    "train_loss": "train loss",
    "test_loss": "test loss",
    "parameters": "parameters",
    "gflop": "GFLOP",
    "seconds_per_epoch": "s per epoch",
    "peak_memory_mb": "peak MB",
}
EVIDENCE_COLUMNS = {
    "a": "A",
    "b": "B",
    "chance_better": "P(A better)",
    "chance_equivalent": "P(equivalent)",
    "chance_worse": "P(A worse)",
    "share_groups": "groups",
    "share_seeds": "seeds",
    "share_seeds_groups": "seeds x groups",
    "share_training": "training sets",
}
TROUBLE_COLUMNS = {
    "configuration": "configuration",
    "runs": "runs",
    "failed": "failed",
    "diverged": "diverged",
    "collapsed": "collapsed",
    "trouble_interval": "95 % interval of the share that fails or collapses",
}
ORIGINAL_COLUMNS = {
    "network": "network",
    "source": "from",
    "train_loss": "training loss",
    "validation_loss": "validation loss",
    "dice": "DiceScore",
    "iou": "IoU",
}
AVERAGES = (
    (
        "Dice, IoU, soft Dice",
        "mean over test images with equal weight; for each image, the mean over seeds is taken first",
    ),
    ("pooled", "computed from all pixels of a run's test images together, then the mean over runs"),
    (
        "interval",
        "from the variances over groups of images, seeds and training sets; in the table of differences for all "
        "comparisons in one score together: in 95 % of studies all of them contain the true difference",
    ),
    ("± over seeds", "standard deviation of the runs' mean Dice around the mean of their fold"),
    ("± over folds", "standard deviation of the mean Dice of the folds"),
    (
        "train loss",
        "mean loss over the training images in the last epoch, while the weights still change; mean over runs",
    ),
    ("test loss", "mean loss over the test images; mean over runs"),
    ("GFLOP", "10⁹ operations to predict one image; a multiplication and an addition are two operations"),
    (
        "s per epoch",
        "seconds per epoch for training and validation, median over runs; compare only runs made under equal load",
    ),
    ("peak MB", "maximum memory in megabytes of a run's process, or of the GPU if it used one; maximum over runs"),
    (
        "p",
        "probability of a difference at least as large if the configurations were equal; adjusted for the number of "
        "comparisons (Games and Howell)",
    ),
    (
        "median",
        "median of the differences between runs with the same seed and training set; far from the mean if runs "
        "collapse",
    ),
    (
        "P(A better), P(equivalent), P(A worse)",
        "probability that A is better than B by more than the margin, that the difference is smaller than the margin, "
        "and that A is worse by more, if every difference was equally likely before (posterior of t); not adjusted",
    ),
    (
        "groups, seeds, seeds x groups, training sets",
        "share of the variance of the difference that comes from the choice of groups of images, from the seed, from "
        "the effect of the seed on single groups, and from the choice of training images; - if unknown",
    ),
    (
        "failed, diverged, collapsed",
        "failed runs have no result, diverged ones among them because of NaN or infinity; collapsed runs have a "
        "Dice more than 10 points below the other seeds with the same training set, or not above the best baseline",
    ),
    (
        "baseline",
        "the score of a prediction that ignores the image: every pixel is cell, no pixel is, or the mean of the "
        "training masks",
    ),
    (
        "pairs won by A",
        "share of run pairs (same seed and fold) in which A has the higher Dice; a tie counts half; the 95 % interval "
        "is right if runs are independent",
    ),
)
_MADE = {
    "test_loss": "test loss",
    "epochs": "epochs",
    "seconds": "training time, s",
    "device": "device",
    "commit": "commit",
}
_WHOLE = frozenset(
    (
        "runs",
        "seeds",
        "folds",
        "seed",
        "epochs",
        "parameters",
        "peak_memory_mb",
        "images",
        "failed",
        "diverged",
        "collapsed",
    )
)
_TENTHS = frozenset({"seconds_per_epoch", "seconds"})


def configuration_columns(study: Study) -> dict[str, str]:
    """Return the columns of the configurations table: Dice with its interval and spread, then the other scores."""
    columns = {"configuration": "configuration", "runs": "runs", "seeds": "seeds", "folds": "training sets"}
    spread = {"dice_interval": INTERVAL, "sd_over_seeds": "± over seeds", "sd_over_folds": "± over folds"}
    others = [score for score in study.scores[1:] if score not in OBJECT_SCORES]
    return columns | {"dice": _label(study.scores[0])} | spread | _labels(others)


def object_columns(study: Study) -> dict[str, str]:
    """Return the columns of the table of objects and outlines; only the name if no run has these scores."""
    return {"configuration": "configuration"} | _labels(_object_scores(study))


def object_comparison_columns(study: Study) -> dict[str, str]:
    """Return the columns of the comparisons in the scores of objects and outlines."""
    return {"a": "A", "b": "B"} | _difference_columns(_object_scores(study))


def _object_scores(study: Study) -> list[Score]:
    return [score for score in study.per_image if score in OBJECT_SCORES]


def _difference_columns(scores: Sequence[Score]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for score in scores:
        columns |= {f"{score.name}_difference": _label(score), f"{score.name}_interval": "interval"}
    return columns


def comparison_columns(study: Study) -> dict[str, str]:
    """Return the columns of the comparisons table: each score of images with its interval."""
    columns = {"a": "A", "b": "B"}
    columns |= _difference_columns([score for score in study.per_image if score not in OBJECT_SCORES])
    return columns | {"p": "p", "median": "median", "a_better": "pairs won by A", "a_better_interval": INTERVAL}


def run_columns(study: Study) -> dict[str, str]:
    """Return the columns of the runs table."""
    return {name: name for name in ("run", "configuration", "seed", "fold")} | _labels(study.per_image) | _MADE


def averages(study: Study) -> list[tuple[str, str]]:
    """Return an explanation for the headings of the tables, including added scores."""
    added = [
        (_label(score), f"{score.how}; for each image, the mean over seeds is taken first")
        for score in study.scores
        if not score.share or score in OBJECT_SCORES
    ]
    note = ("↓", "lower is better; for other scores higher is better, if a direction is known")
    lower = any(score.better == "lower" for score in study.scores)
    return [*AVERAGES, *added, *([note] if lower else [])]


def _labels(scores: Sequence[Score]) -> dict[str, str]:
    return {score.name: _label(score) for score in scores}


def _label(score: Score) -> str:
    return f"{score.label}{ARROWS[score.better]}"


def configuration_rows(study: Study, intervals: Mapping[str, tuple[float, float] | None]) -> list[Row]:
    """Return one row for each configuration: scores, spread and costs.

    Args:
        study: The runs.
        intervals: The 95 % interval of each configuration's mean Dice; None if unknown.
    """
    rows = []
    for configuration in study.configurations:
        runs, images = (table[table["configuration"] == configuration] for table in (study.runs, study.images))
        means = images.groupby(["fold", "seed"])["dice"].mean()
        by_fold = means.groupby("fold")
        freedom = 0 if configuration in study.masks else len(means) - by_fold.ngroups
        around = means - by_fold.transform("mean")
        names = [score.name for score in study.per_image]
        per_image = study.averaged(configuration, names).mean()
        low, high = intervals[configuration] or (None, None)
        rows.append(
            {
                "configuration": configuration,
                "runs": len(runs),
                "seeds": None if configuration in study.masks else runs["seed"].nunique(),
                "folds": runs["fold"].nunique(),
                "images": images["image"].nunique(),
                **{name: per_image[name] for name in names},
                "dice_low": low,
                "dice_high": high,
                "sd_over_seeds": float((around**2).sum() / freedom) ** 0.5 if freedom else None,
                "sd_over_folds": float(by_fold.mean().std(ddof=1)) if by_fold.ngroups > 1 else None,
                **{score.name: runs[score.name].mean() for score in study.scores if score.pooled},
                "train_loss": runs["train_loss"].mean() if "train_loss" in runs else None,
                "test_loss": runs["loss"].mean(),
                "parameters": runs["parameters"].iloc[0],
                "gflop": runs["gflop"].mean(),
                "seconds_per_epoch": (runs["seconds"] / runs["epochs"]).median(),
                "peak_memory_mb": runs["peak_memory_bytes"].max() / 1e6,
            }
        )
    return rows


def comparison_row(study: Study, verdict: Verdict) -> Row:
    """Return the numbers behind a verdict; differences are A minus B; a cell is empty if its number is unknown."""
    row: Row = {"a": verdict.a, "b": verdict.b, "kind": verdict.kind, "verdict": verdict.sentence}
    found = {"dice": verdict.dice, **verdict.others}
    for name in (score.name for score in study.per_image):
        of = found.get(name)
        values = (of.difference, of.low, of.high) if of else (None, None, None)
        row |= dict(zip((f"{name}_difference", f"{name}_low", f"{name}_high"), values, strict=True))
    if verdict.dice and verdict.dice.chances:
        row |= dict(zip(("chance_better", "chance_equivalent", "chance_worse"), verdict.dice.chances, strict=True))
    if verdict.dice and (variance := verdict.dice.variance):
        sources = {
            "share_groups": variance.group,
            "share_seeds": variance.seed,
            "share_seeds_groups": variance.seed_group,
            "share_training": variance.training,
        }
        row |= {name: None if value is None else value / variance.total for name, value in sources.items()}
        row |= {"standard_error": variance.total**0.5, "degrees_of_freedom": variance.freedom}
    known = {
        "p": "p",
        "median": "median",
        "level": "level",
        "dice_inner_low": "inner_low",
        "dice_inner_high": "inner_high",
        "a_better": "better",
        "a_better_low": "better_low",
        "a_better_high": "better_high",
        "equivalent": "equivalent",
        "pairs_of_runs": "pairs",
        "groups": "groups",
        "images": "images",
    }
    return row | {name: getattr(verdict.dice, attribute, None) for name, attribute in known.items()}


def baseline_rows(study: Study) -> list[Row]:
    """Return one row for each baseline: its scores on the test images, mean over images."""
    if study.baselines.empty:
        return []
    names = [score.name for score in study.per_image if score.name in study.baselines]
    each = study.baselines.groupby(["baseline", "fold", "image"], sort=False)[names].mean()
    means = each.groupby(["baseline", "image"], sort=False).mean().groupby("baseline", sort=False).mean()
    return [{"configuration": f"baseline: {row.pop('baseline')}"} | row for row in _records(means.reset_index())]


def trouble_rows(trouble: Sequence[Trouble]) -> list[Row]:
    """Return one row for each configuration: what became of its runs."""
    return [
        {
            "configuration": found.configuration,
            "runs": found.runs,
            "failed": found.failed,
            "diverged": found.diverged,
            "collapsed": found.collapsed,
            "trouble_low": found.low,
            "trouble_high": found.high,
        }
        for found in trouble
    ]


def image_rows(study: Study) -> list[Row]:
    """Return one row for each test image, lowest Dice first: scores of each configuration and their spread."""
    keys = ["fold", "image", "group", "configuration"]
    scores = study.images.groupby(keys)["dice"]
    table = scores.mean().unstack("configuration").reindex(columns=study.configurations)
    by_run = scores.std(ddof=1).unstack("configuration")  # over seeds: one configuration, one fold, one image
    table.insert(0, "mean", table.mean(axis=1))
    trained = [name for name in by_run.columns if name not in study.masks]  # masks have no seeds
    table.insert(1, "sd_over_seeds", by_run[trained].mean(axis=1))
    table = table.rename(columns={name: f"dice {name}" for name in study.configurations})
    for score in study.per_image[1:]:
        others = study.images.groupby(keys)[score.name].mean().unstack("configuration")
        table = table.join(others.reindex(columns=study.configurations).add_prefix(f"{score.name} "))
    table = table.sort_values("mean")
    return _records(table.reset_index()[["image", "group", "fold", *table.columns]])


def original_rows(study: Study, configurations: Sequence[Row]) -> list[Row]:
    """Return the original study's table as printed, as corrected, and from runs with ``experiment=original``."""
    repeats = study.runs[study.runs["experiment"] == "original"]
    model_of = dict(zip(repeats["configuration"], repeats["model"], strict=True))
    rows: list[Row] = []
    for name, printed in PUBLISHED.items():
        ours = [row for row in configurations if model_of.get(row["configuration"]) == name]
        if not ours:
            continue
        losses = {"network": name, "train_loss": printed.train_loss, "validation_loss": printed.validation_loss}
        rows.append(losses | {"source": "as published", "dice": printed.dice, "iou": printed.iou})
        rows.append(losses | {"source": "corrected", "dice": printed.corrected_dice, "iou": None})
        rows += [
            {
                "network": row["configuration"],
                "source": "this study",
                "train_loss": row["train_loss"],
                "validation_loss": row["test_loss"],
                "dice": row["soft_dice"],
                "iou": row["iou"],
            }
            for row in ours
        ]
    return rows


def difference_rows(study: Study) -> list[Row]:
    """Return one row for each configuration key in which configurations differ."""
    keys = next(iter(study.differences.values()), {})
    return [{"key": key} | {name: _text(values[key]) for name, values in study.differences.items()} for key in keys]


def run_rows(study: Study) -> list[Row]:
    """Return one row for each run."""
    return _records(study.runs.rename(columns={"loss": "test_loss"})[list(run_columns(study))])


def in_points(study: Study) -> frozenset[str]:
    """Return the columns that tables show in points: shares in [0, 1], and their differences and spread."""
    shares = [score.name for score in study.scores if score.unit == "points"]
    parts = [f"{name}{part}" for name in shares for part in ("", "_difference", "_low", "_high")]
    return frozenset((*parts, "sd_over_seeds", "sd_over_folds", "median"))


def cell(column: str, row: Row, points: Collection[str] = ()) -> str:
    """Format one cell of a row; an interval is made from its two ends.

    Args:
        column: Its name.
        row: The row.
        points: Columns of shares that are shown in points, which are 0.01.
    """
    if column.endswith("_interval"):
        ends = [cell(column.replace("_interval", end), row, points) for end in ("_low", "_high")]
        return "-" if "-" in ends else f"[{', '.join(ends)}]"
    value = row.get(column)
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "-"
    if isinstance(value, str):
        return value
    if column in _WHOLE:
        return f"{value:,.0f}"
    if column.startswith(("share_", "trouble_")):
        return f"{100 * value:.0f} %"
    if column.startswith("chance_"):
        return "<0.001" if value < 0.0005 else f"{value:.3f}"
    if column in points:
        return f"{100 * value:.2f}"
    if column.startswith("count_error"):
        return f"{value:.2f}"
    if column == "gflop":
        return f"{value:.3g}"
    return f"{value:.1f}" if column in _TENTHS else f"{value:.4f}"


def _text(value: Any) -> str:
    return "-" if value is None else str(value)


def _records(table: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in record.items()} for record in table.to_dict("records")]
