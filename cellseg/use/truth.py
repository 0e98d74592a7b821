"""Score the stored masks of a study anew on one truth, so that networks trained on different labels can be compared."""

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from cellseg.data.cache import DecodedPairs, load_pairs
from cellseg.data.facts import Reading
from cellseg.data.findings import WARNING, look_at_masks
from cellseg.data.masks import IgnoreValue
from cellseg.data.pairs import find_pairs
from cellseg.data.progress import with_progress
from cellseg.metrics import OBJECT_SCORES, SCORES, SegmentationScores, describe_ignored, describe_objects
from cellseg.run.folder import RunFolder, write_prediction
from cellseg.run.naming import FAILURE
from cellseg.storage.csv_files import write_csv
from cellseg.storage.errors import InputError, count
from cellseg.storage.files import new_folder
from cellseg.use.score import Row, score_image, spread

UNLIKE = 0.5  # Dice of truth and labels below which they may be of other images
COPIED = ("config.yaml", "split.json", "metrics.csv", "train.log", FAILURE)


@dataclass(frozen=True)
class ScoredOn:
    """A study that was scored on one truth.

    Attributes:
        study: Its folder.
        said: What to know about the truth, a sentence each.
    """

    study: Path
    said: list[str]


def score_on(study: Path, data: Path, ignore_value: IgnoreValue = None) -> ScoredOn:
    """Write a copy of a study beside it, ``STUDY-on-DATA``, whose masks are scored on the labels of a data set.

    Images are matched by content; the labels, and the sizes of objects in them, may differ from those that runs were
    trained and tested on. Scores of probabilities, the loss and added scores are left out: only masks are stored.

    Args:
        study: Folder of finished runs.
        data: Folder of the pairs with the labels to score on.
        ignore_value: As ``data.ignore_value``, for these labels; None for that of each run.

    Raises:
        InputError: If the new study exists, or ``study`` was itself scored so; if a test image is not in the data set,
            or there twice; or if a run stored no masks.
    """
    runs = [RunFolder(path) for path in sorted(study.iterdir()) if path.is_dir() and (path / "summary.json").exists()]
    if not runs:
        raise InputError(f"{study} contains no finished run; name a folder of runs, for example logs/first")
    if again := next((run for run in runs if run.summary.scored_on), None):
        raise InputError(
            f"{study} was made by --truth {again.summary.scored_on} itself; name the study from which it was made"
        )
    out = study.parent / f"{study.name}-on-{data.resolve().name}"
    if out.exists():
        raise InputError(f"{out} exists already and is not overwritten; delete it to score again, or read {out}")
    pairs = find_pairs(data).pairs
    known: dict[Reading, DecodedPairs] = {}
    agreement: dict[str, float] = {}
    with new_folder(out) as unfinished:
        for run in with_progress(runs, "scoring", len(runs)):
            how = run.settings.reading
            how = how if ignore_value is None else replace(how, ignore_value=ignore_value)
            if how not in known:
                known[how] = load_pairs(pairs, how)
            agreement |= _score_run(run, unfinished / run.path.name, known[how], data)
        for path in study.iterdir():
            if any((path / name).is_file() for name in ("train.log", FAILURE)) and not RunFolder(path).finished:
                (unfinished / path.name).mkdir()  # the report counts it among failed or unfinished runs
                _copy(path, unfinished / path.name)
        for plan in study.glob("plan*.yaml"):
            shutil.copyfile(plan, unfinished / plan.name)
    labels = next(iter(known.values()))
    found = look_at_masks(pairs, labels.facts, data, labels.exchanged)
    warnings = [one for one in found if one.severity == WARNING]
    return ScoredOn(out, [_compared(agreement, data), *(f"warning: {warning}" for warning in warnings)])


def _copy(run: Path, folder: Path) -> None:
    """Copy what does not depend on the truth."""
    for name in COPIED:
        if (run / name).exists():
            shutil.copyfile(run / name, folder / name)


def _compared(agreement: Mapping[str, float], data: Path) -> str:
    """Say how much the truth and the labels of the runs have in common."""
    mean = fmean(agreement.values())
    said = f"the labels of {data} and those on which the runs were tested have a mean Dice of {mean:.3f}"
    if mean > UNLIKE:
        return f"{said}, over {count(len(agreement), 'image')} and label"
    return f"warning: {said}; check that they are masks of these images, with cells above 0"


def _score_run(run: RunFolder, folder: Path, decoded: DecodedPairs, data: Path) -> dict[str, float]:
    """Score a run; return the Dice of the truth and the run's own label, for each label by hash."""
    folder.mkdir()
    agreement: dict[str, float] = {}
    index_of = {facts.sha256: index for index, facts in enumerate(decoded.facts)}
    times = Counter(facts.sha256 for facts in decoded.facts)
    pooled, rows, numbered = SegmentationScores([score.name for score in OBJECT_SCORES]), list[Row](), 0
    for entry in run.split.test:
        if entry.sha256 not in index_of:
            raise InputError(
                f"{data} lacks the image {entry.name}, on which {run.path} was tested; its images must be the same"
            )
        if times[entry.sha256] > 1:
            raise InputError(f"{data} has the image {entry.name} {times[entry.sha256]} times; keep one label of it")
        index, stored = index_of[entry.sha256], run.prediction(entry.name)
        scores, values, prediction = score_image(decoded, index, stored.mask)
        both = np.count_nonzero(prediction.truth) + np.count_nonzero(stored.truth)
        agreement[entry.mask_sha256] = 2 * np.count_nonzero(prediction.truth & stored.truth) / both if both else 1.0
        pooled.update(scores)
        numbered += decoded.facts[index].numbered
        rows.append({"image": entry.name, "group": entry.group, "subset": "test"} | values)
        write_prediction(folder, entry.name, prediction)
    write_csv(folder / "per_image.csv", rows)
    _copy(run.path, folder)
    of, fingerprint = run.summary, decoded.fingerprint
    how = {f"test/{score.name}": score.how for score in (*SCORES, *OBJECT_SCORES)}
    how["test/soft_dice"] = "of the stored masks, and so equal to Dice"
    kept = {name: value for name, value in of.metrics.items() if name.startswith("train/")}
    of.model_copy(
        update={
            "metrics": kept | {f"test/{name}": float(value) for name, value in pooled.compute().items()},
            "averaging": how
            | {"objects": describe_objects(numbered, len(rows)).removeprefix("objects: ")}
            | describe_ignored([int(row["ignored_pixels"]) for row in rows], [row["ignored_objects"] for row in rows]),
            "spread_over_test_images": spread(rows),
            "added_scores": {},
            "data": of.data.model_copy(update={"root": str(data.resolve()), "fingerprint": fingerprint}),
            "scored_on": str(data.resolve()),
            "fitted": of.masks is None and of.data.fingerprint == fingerprint,
        }
    ).write(folder / "summary.json")
    return agreement
