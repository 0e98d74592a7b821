"""The report of a study: verdicts first, then the numbers they rest on, each with how it was averaged."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cellseg.errors import InputError
from cellseg.runs import write_csv, write_text
from cellseg.study.collect import Study
from cellseg.study.verdict import Verdict, judge

AVERAGES = """- **Dice**, **IoU**, **soft Dice**: mean over test images, each counting the same, seeds averaged first.
- **± over seeds**: standard deviation of runs around the mean of their fold. **± over folds**: of the folds' means.
- **pooled**: over all pixels of a run's test images together, mean over runs.
- **[low, high]**: 95 % interval, groups of images resampled and seeds drawn again, widened for how few there are.
- **p**: adjusted for the number of pairs by Holm's rule; **p over folds** by Nadeau and Bengio's corrected test.
- **A better**: share of pairs of runs of one seed and fold in which A has the higher Dice, with its 95 % interval."""


def write_report(study: Study) -> list[str]:
    """Write ``report.md``, ``networks.csv`` and ``comparisons.csv`` into the study's folder; return the verdicts.

    Raises:
        InputError: If networks of the study cannot be paired.
    """
    try:
        verdicts = judge(study)
    except ValueError as error:
        raise InputError(f"{study.folder}: {error}") from error
    networks, comparisons = network_rows(study), [comparison_row(verdict) for verdict in verdicts]
    write_csv(study.folder / "networks.csv", networks)
    if comparisons:
        write_csv(study.folder / "comparisons.csv", comparisons)
    write_text(study.folder / "report.md", markdown(study, verdicts, networks, comparisons))
    return [verdict.sentence for verdict in verdicts] or [f"only {study.networks[0]} is there: nothing to compare"]


def network_rows(study: Study) -> list[dict[str, Any]]:
    """Return a row for every network: scores, their spread, and what they cost."""
    rows = []
    for network in study.networks:
        runs, images = (table[table["network"] == network] for table in (study.runs, study.images))
        means = images.groupby(["fold", "seed"])["dice"].mean()
        by_fold = means.groupby("fold")
        freedom = len(means) - by_fold.ngroups
        around = means - by_fold.transform("mean")
        per_image = images.groupby(["fold", "image"])[["dice", "iou", "soft_dice"]].mean().mean()
        rows.append(
            {
                "network": network,
                "runs": len(runs),
                "seeds": runs["seed"].nunique(),
                "folds": runs["fold"].nunique(),
                "images": len(images.drop_duplicates(["fold", "image"])),
                "dice": per_image["dice"],
                "sd_over_seeds": float((around**2).sum() / freedom) ** 0.5 if freedom else None,
                "sd_over_folds": float(by_fold.mean().std(ddof=1)) if by_fold.ngroups > 1 else None,
                "iou": per_image["iou"],
                "soft_dice": per_image["soft_dice"],
                "dice_pooled": runs["dice_pooled"].mean(),
                "iou_pooled": runs["iou_pooled"].mean(),
                "train_loss": runs["train_loss"].mean() if "train_loss" in runs else None,
                "test_loss": runs["loss"].mean(),
                "parameters": int(runs["parameters"].iloc[0]),
                "seconds_per_epoch": (runs["seconds"] / runs["epochs"]).median(),
                "peak_memory_mb": runs["peak_memory_bytes"].max() / 1e6,
            }
        )
    return rows


def comparison_row(verdict: Verdict) -> dict[str, Any]:
    """Return the numbers behind a verdict; differences are A minus B."""
    dice, iou = verdict.dice, verdict.iou
    return {
        "a": verdict.a,
        "b": verdict.b,
        "verdict": verdict.sentence,
        "dice_difference": dice.difference,
        "dice_low": dice.low,
        "dice_high": dice.high,
        "iou_difference": iou.difference,
        "iou_low": iou.low,
        "iou_high": iou.high,
        "p": verdict.p,
        "p_folds": verdict.p_folds,
        "a_better": dice.better,
        "a_better_low": dice.better_low,
        "a_better_high": dice.better_high,
        "equivalent": dice.equivalent,
        "pairs_of_runs": dice.pairs,
        "groups": dice.groups,
        "images": dice.images,
    }


def markdown(
    study: Study,
    verdicts: Sequence[Verdict],
    networks: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
) -> str:
    """Return the report as Markdown."""
    runs = study.runs
    lines = [f"# {study.folder.name}", ""]
    lines += [f"- {verdict.sentence}." for verdict in verdicts] or ["Only one network is there: nothing to compare."]
    if (runs["leaks"] > 0).any():
        lines.append("- **These scores are too good:** relatives of test images were allowed in training.")
    if study.unfinished:
        lines.append(f"- Not finished, and not counted: {', '.join(map(_escaped, study.unfinished))}.")
    lines += ["", "## Networks", "", *_table(networks, _NETWORK_COLUMNS)]
    if comparisons:
        lines += ["", "## Differences, A minus B", "", *_table(comparisons, _COMPARISON_COLUMNS)]
    lines += ["", AVERAGES, "", "## What was compared", ""]
    lines += [
        f"- {key}: " + ", ".join(f"{network} {values[key]}" for network, values in study.differences.items())
        for key in next(iter(study.differences.values()))
    ]
    scored, commits, devices = (", ".join(sorted(set(runs[name]))) for name in ("scored_weights", "commit", "device"))
    lines += [
        f"- margin: {study.margin} of Dice",
        f"- weights scored: {scored}",
        f"- data: {study.data_fingerprint[:16]}; code: commit {commits} (+ where files had been changed)",
        f"- device: {devices}; precision: {', '.join(sorted(set(runs['precision'])))}",
        "",
    ]
    return "\n".join(lines)


_NETWORK_COLUMNS = {
    "network": "network",
    "runs": "runs",
    "seeds": "seeds",
    "folds": "folds",
    "dice": "Dice",
    "sd_over_seeds": "± over seeds",
    "sd_over_folds": "± over folds",
    "iou": "IoU",
    "soft_dice": "soft Dice",
    "dice_pooled": "Dice, pooled",
    "train_loss": "train loss",
    "test_loss": "test loss",
    "parameters": "parameters",
    "seconds_per_epoch": "s per epoch",
    "peak_memory_mb": "peak MB",
}
_COMPARISON_COLUMNS = {
    "a": "A",
    "b": "B",
    "dice_difference": "Dice",
    "dice_low": "low",
    "dice_high": "high",
    "iou_difference": "IoU",
    "iou_low": "low",
    "iou_high": "high",
    "p": "p",
    "p_folds": "p over folds",
    "a_better": "A better",
    "a_better_low": "low",
    "a_better_high": "high",
}
_WHOLE = frozenset({"runs", "seeds", "folds", "parameters", "peak_memory_mb"})


def _table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> list[str]:
    head = ["| " + " | ".join(columns.values()) + " |", "|---" * len(columns) + "|"]
    return head + ["| " + " | ".join(_cell(name, row[name]) for name in columns) + " |" for row in rows]


def _cell(name: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "-"
    if isinstance(value, str):
        return _escaped(value)
    if name in _WHOLE:
        return f"{value:,.0f}"
    return f"{value:.1f}" if name == "seconds_per_epoch" else f"{value:.4f}"


def _escaped(text: str) -> str:
    """Keep a name from being read as Markdown or HTML."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text)
