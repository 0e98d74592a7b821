"""Score the stored masks of a study anew on one truth, so that networks trained on different labels can be compared."""

import shutil
from pathlib import Path

from cellseg.data.cache import DecodedPairs, load_pairs
from cellseg.data.facts import Reading
from cellseg.data.pairs import find_pairs
from cellseg.data.progress import with_progress
from cellseg.metrics import OBJECT_SCORES, SCORES, SegmentationScores, describe_ignored, describe_objects
from cellseg.run.folder import RunFolder, write_prediction
from cellseg.storage.csv_files import write_csv
from cellseg.storage.errors import InputError
from cellseg.storage.files import new_folder
from cellseg.use.score import Row, score_image, spread

COPIED = ("config.yaml", "split.json", "metrics.csv", "train.log")


def score_on(study: Path, data: Path) -> Path:
    """Write a copy of a study beside it, ``STUDY-on-DATA``, whose masks are scored on the labels of a data set.

    Images are matched by content; the labels, and the sizes of objects in them, may differ from those that runs were
    trained and tested on. Scores of probabilities, the loss and added scores are left out: only masks are stored.

    Args:
        study: Folder of finished runs.
        data: Folder of the pairs with the labels to score on.

    Returns:
        The new study.

    Raises:
        InputError: If it exists, a test image is not in the data set, or a run stored no masks.
    """
    runs = [RunFolder(path) for path in sorted(study.iterdir()) if path.is_dir() and (path / "summary.json").exists()]
    if not runs:
        raise InputError(f"{study} contains no finished run; name a folder of runs, for example logs/first")
    out = study.parent / f"{study.name}-on-{data.resolve().name}"
    if out.exists():
        raise InputError(f"{out} exists already and is not overwritten; delete it to score again, or read {out}")
    pairs = find_pairs(data).pairs
    known: dict[Reading, DecodedPairs] = {}
    with new_folder(out) as unfinished:
        for run in with_progress(runs, "scoring", len(runs)):
            how = run.settings.reading
            if how not in known:
                known[how] = load_pairs(pairs, how)
            _score_run(run, unfinished / run.path.name, known[how], data)
        if (study / "plan.yaml").exists():
            shutil.copyfile(study / "plan.yaml", unfinished / "plan.yaml")
    return out


def _score_run(run: RunFolder, folder: Path, decoded: DecodedPairs, data: Path) -> None:
    folder.mkdir()
    index_of = {facts.sha256: index for index, facts in enumerate(decoded.facts)}
    pooled, rows, numbered = SegmentationScores([score.name for score in OBJECT_SCORES]), list[Row](), 0
    for entry in run.split.test:
        if entry.sha256 not in index_of:
            raise InputError(
                f"{data} lacks the image {entry.name}, on which {run.path} was tested; its images must be the same"
            )
        index = index_of[entry.sha256]
        scores, values, prediction = score_image(decoded, index, run.prediction(entry.name).mask)
        pooled.update(scores)
        numbered += decoded.facts[index].numbered
        rows.append({"image": entry.name, "group": entry.group, "subset": "test"} | values)
        write_prediction(folder, entry.name, prediction)
    write_csv(folder / "per_image.csv", rows)
    for name in COPIED:
        if (run.path / name).exists():
            shutil.copyfile(run.path / name, folder / name)
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
            "fitted": of.data.fingerprint == fingerprint,
        }
    ).write(folder / "summary.json")
