"""Score masks of another tool, or of a second person, on the test images of a study, as one more configuration.

What the tool was trained on is not known, so its scores may be of images that it has seen.
"""

import platform
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from cellseg.data.cache import DecodedPairs, in_parallel, load_pairs
from cellseg.data.decoded import Pixels
from cellseg.data.facts import PairFacts, Reading, inspect_pair
from cellseg.data.findings import WARNING, look_at_masks
from cellseg.data.formats import IMAGE_SUFFIXES
from cellseg.data.images import read_image
from cellseg.data.masks import GREY, resize_ids, resize_mask
from cellseg.data.pairs import Pair, find_pairs
from cellseg.data.words import (
    MASK_WORD,
    folder_role,
    image_keys,
    is_ignore,
    is_preview,
    mask_keys,
    named_as_mask,
    stem_of,
)
from cellseg.metrics import (
    OBJECT_COUNTS,
    OBJECT_SCORES,
    PER_IMAGE,
    SCORES,
    SegmentationScores,
    describe_ignored,
    describe_objects,
    image_scores,
    score_labels,
)
from cellseg.objects import Labels, label_objects, label_truth, number_objects
from cellseg.run.folder import BASELINES, SCHEMA, Prediction, RunFolder, Summary, write_prediction
from cellseg.run.provenance import provenance
from cellseg.storage.csv_files import write_csv
from cellseg.storage.errors import InputError, count
from cellseg.storage.files import new_folder, write_text
from cellseg.study.collect import Study, read_study

HALF = 127  # of 255
FEW_SHADES = 16  # of grey, which a mask of classes may have
COPY = 0.97  # correlation with the image above which a file is no mask
LONGEST_NAME = 60  # characters; it heads columns of the report, and begins the name of a folder

Row = dict[str, Any]


@dataclass(frozen=True)
class Foreign:
    """A mask of another tool at the size at which the study scores: mask (H, W), its objects, and if it had numbers."""

    mask: NDArray[np.bool_]
    labels: Labels
    numbered: bool


def score_masks(
    masks: Path, data: Path, name: str, study_folder: Path, command: str | None = None
) -> tuple[list[Path], list[str]]:
    """Score a folder of masks on the test images of each fold of a study, and write a run folder for each fold.

    Args:
        masks: The folder; a mask has the name of its image, perhaps with a word such as mask, or lies in a folder of
            that name. Masks that number their objects keep them; of others touching cells are separated.
        data: The data set of the study.
        name: Name of the configuration in the report.
        study_folder: The study.
        command: The command that was typed.

    Returns:
        The run folders; and how the masks were read, with warnings.

    Raises:
        InputError: If the masks do not cover the test images, or the data set or the study cannot be used.
    """
    if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME or name.startswith("baseline:"):
        raise InputError(
            f"--name must be a name of 1 to {LONGEST_NAME} characters, such as Cellpose, but is {name[:LONGEST_NAME]!r}"
        )
    study = read_study(study_folder)
    models = [RunFolder(study.folder / run) for run in study.trained.drop_duplicates("fold")["run"]]
    if name in study.configurations:
        raise InputError(f"{study.folder} has a configuration {name} already; choose another --name")
    how = _reading(study)
    scan = find_pairs(data)
    decoded = load_pairs(scan.pairs, how)
    if decoded.fingerprint != study.data_fingerprint:
        raise InputError(
            f"{data} is not the data set of {study.folder}, or it was changed since; its runs used "
            f"{', '.join(study.origin['data'])}"
        )
    known = {(facts.sha256, facts.mask_sha256): index for index, facts in enumerate(decoded.facts)}
    tested = {run.path: [known[entry.sha256, entry.mask_sha256] for entry in run.split.test] for run in models}
    images = [scan.pairs[index] for index in sorted({n for some in tested.values() for n in some})]
    files = match_masks(masks, images, scan.pairs)
    folders = [study.folder / _folder_name(name, run) for run in models]
    for folder in folders:
        if folder.exists():
            raise InputError(f"{folder} already exists and is not overwritten; choose another --name")
    foreign = [_as_pair(pair, files[pair.name]) for pair in images]
    if photo := next((pair.masks[0] for pair in foreign if _shows_the_image(pair)), None):
        remedy = _of_arrays(masks) or "; name the folder of masks"
        raise InputError(f"{photo} shows the image itself instead of a mask of it{remedy}")
    facts = list(in_parallel(lambda pair: inspect_pair(pair, _halved(how)).facts, foreign, "reading masks"))
    numbers = any(known.numbered for known in facts)
    with ExitStack() as unfinished:  # all folders or none, so that a corrected mask can be scored under the same name
        for run, folder in zip(models, folders, strict=True):
            new, tests = unfinished.enter_context(new_folder(folder)), tested[run.path]
            _write_run(new, run, decoded, tests, files, masks=masks, name=name, command=command, numbers=numbers)
    about = _about(masks, foreign, images, facts, numbers=numbers)
    if added := [score.label for score in study.scores if score not in (*SCORES, *OBJECT_SCORES)]:
        about.append(f"note: scores that the runs added are not computed for these masks: {', '.join(added)}")
    return folders, about


def _about(
    masks: Path, foreign: Sequence[Pair], images: Sequence[Pair], facts: Sequence[PairFacts], *, numbers: bool
) -> list[str]:
    """Say how masks were read, and warn of those that probably mean something else."""
    without = [
        pair for pair, known in zip(foreign, facts, strict=True) if known.cells and not _is_numbered(known, numbers)
    ]
    said = [f"{len(foreign) - len(without)} of {count(len(foreign), 'mask')} number their objects"]
    if without:
        said[0] += f"; touching cells of the others, such as {without[0].masks[0]}, are separated at their necks"
    if grey := sum(known.mask_kind == GREY for known in facts):
        said.append(f"{count(grey, 'mask')} of continuous values: above half of their range is cell")
    if labels := sum({*pair.masks} <= {*label.masks} for pair, label in zip(foreign, images, strict=True)):
        said.append(f"warning: {count(labels, 'mask')} are the labels of the data set themselves")
    found = look_at_masks(foreign, facts, masks)
    return said + [f"warning: {finding}" for finding in found if finding.severity == WARNING]


def _is_numbered(known: PairFacts, numbers: bool) -> bool:
    """Return whether a mask numbers its objects: the value 1 alone is a number if other masks have numbers."""
    return known.numbered or (numbers and known.mask_values == known.mask_smallest == 1)


def match_masks(folder: Path, pairs: Sequence[Pair], data_set: Sequence[Pair]) -> dict[str, list[Path]]:
    """Return the mask files of each image, by its name.

    Args:
        folder: The folder of masks.
        pairs: The images that need a mask.
        data_set: All pairs of their data set: a mask with the name of one of them belongs to no other.

    Raises:
        InputError: If an image has no mask, or several, or a mask could belong to several images.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name the folder of masks")
    if (folder / "images.csv").exists() and (folder / "labels").is_dir():  # written by predict
        folder = folder / "labels"
    by_key: dict[str, list[Path]] = defaultdict(list)
    by_folder: dict[str, list[Path]] = defaultdict(list)
    images = {pair.image.resolve() for pair in pairs}  # the masks may lie beside them
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if hidden or not path.name.lower().endswith(IMAGE_SUFFIXES) or not path.is_file() or path.resolve() in images:
            continue
        if is_preview(path) or is_ignore(path):
            continue
        for key in mask_keys(path):
            by_key[key.casefold()].append(path)
        for part in inside.parts[:-1]:
            by_folder[part.casefold()].append(path)
    stems = Counter(stem_of(pair.image).casefold() for pair in data_set)  # source.jpg names no image where all have it
    exact: dict[str, dict[str, None]] = defaultdict(dict)
    for pair in data_set:
        exact[pair.name.casefold()][pair.name] = None
        if stems[stem := stem_of(pair.image).casefold()] == 1:
            exact[stem][pair.name] = None

    def owners(file: Path, name: str) -> list[str]:
        return [other for other in exact.get(stem_of(file).casefold(), ()) if other != name]

    found, missing = dict[str, list[Path]](), []
    for pair in pairs:
        alone = stems[stem_of(pair.image).casefold()] == 1
        keys = dict.fromkeys(key.casefold() for key in (pair.name, *(image_keys(pair.image) if alone else ())))
        named = _without_labels(next((by_key[key] for key in keys if key in by_key), []), pair)
        named = [file for file in named if not owners(file, pair.name)] or named
        inside_own = _masks_of_folder(_without_labels(by_folder.get(pair.name.casefold(), []), pair), pair)
        if inside_own:  # a folder of the image's name may hold one mask, or a file for each object
            found[pair.name] = inside_own
        elif len(named) == 1 and (others := owners(named[0], pair.name)):
            raise InputError(_shared(named[0], pair.name, others[0]))
        elif len(named) == 1:
            found[pair.name] = named
        elif named:
            raise InputError(
                f"{pair.name} has several masks in {folder}: {', '.join(str(path) for path in named[:3])}; keep one"
            )
        else:
            missing.append(pair.name)
    if missing:
        remedy = _of_arrays(folder) or f"; name each mask like its image, such as {missing[0]}.png"
        raise InputError(
            f"{folder} has no mask for {count(len(missing), 'test image')} of the study, for example {missing[0]}"
            f"{remedy}"
        )
    taken: dict[Path, str] = {}
    for name, files in found.items():
        for file in files:
            if taken.setdefault(file, name) != name:
                raise InputError(_shared(file, taken[file], name))
    return found


def _of_arrays(folder: Path) -> str:
    """Say how to save masks that are NumPy files; empty if there are none."""
    if (array := next(folder.rglob("*.npy"), None)) is None:
        return ""
    return (
        f"; {array.name} is a NumPy file, which is not read: save masks as PNG or TIFF (in Cellpose: File, Save masks "
        "as PNG/tif)"
    )


def _shows_the_image(pair: Pair) -> bool:
    """Return whether the file of a mask is a copy of the image, perhaps with other contrast."""
    try:
        image, mask = (read_image(path).pixels.mean(axis=2) for path in (pair.image, pair.masks[0]))
    except InputError:
        return False  # masks may have forms that images have not
    if len(pair.masks) > 1 or image.shape != mask.shape or len(np.unique(mask)) <= FEW_SHADES:
        return False
    return bool(np.corrcoef(image.ravel(), mask.ravel())[0, 1] > COPY)


def _shared(file: Path, name: str, other: str) -> str:
    return f"{file}: the mask could belong to {name} and to {other}; give each mask the name of its image"


def _without_labels(files: Sequence[Path], pair: Pair) -> list[Path]:
    """Leave out the labels of the data set, if other masks lie beside them."""
    others = [path for path in files if path.resolve() not in {mask.resolve() for mask in pair.masks}]
    return others or list(files)


def _masks_of_folder(files: Sequence[Path], pair: Pair) -> list[Path]:
    """Return the masks among the files in the folder of an image: those named as masks, or a file for each object.

    Raises:
        InputError: If a file has the name of the image, so that it may be a copy of it, and nothing tells them apart.
    """
    in_masks = [path for path in files if (role := folder_role(path.parent.name)) and role.mask]
    named = [path for path in files if named_as_mask(path) or MASK_WORD.search(path.stem)]
    chosen = in_masks or named
    if chosen:
        return chosen
    copies = [path for path in files if path.stem.casefold() == pair.image.stem.casefold()]
    if copies and len(files) > 1:
        raise InputError(
            f"{copies[0]} has the name of the image, and other files lie beside it, so nothing tells which are masks; "
            f"keep only the masks in {copies[0].parent}"
        )
    return list(files)


def _reading(study: Study) -> Reading:
    readings = {RunFolder(study.folder / run).settings.reading for run in study.trained["run"]}
    if len(readings) != 1:
        raise InputError(
            f"the runs of {study.folder} read images in {len(readings)} ways (data.image_size, data.resize, "
            "data.channels, data.mask_threshold or data.ignore_value), so it has no one size to score at"
        )
    return readings.pop()


def _folder_name(name: str, run: RunFolder) -> str:
    split, fold = run.settings.training
    word = re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "masks"
    return "_".join(
        [word, "masks", *([f"split-{split}"] if split else []), *([] if fold is None else [f"fold-{fold}"])]
    )


def _as_pair(pair: Pair, files: Sequence[Path]) -> Pair:
    """Return the image with the masks to score in place of its label."""
    return replace(pair, masks=tuple(files), ignored=())


def _read(pair: Pair, how: Reading, *, numbers: bool) -> Foreign:
    """Read a mask at the size at which the study scores.

    Args:
        pair: The image and the mask to score.
        how: How the study reads files.
        numbers: Whether the masks number their objects, so that the value 1 alone is the number of one object.

    Raises:
        InputError: If it cannot be read, has another size than its image, or marks pixels without annotation.
    """
    clean = inspect_pair(pair, _halved(how))
    facts, mask, ids = clean.facts, clean.mask, clean.ids
    if facts.not_judged:
        raise InputError(
            f"{pair.masks[0]}: the value {facts.not_judged} beside values of at most {facts.mask_second:g} would mark "
            "pixels without annotation, but a mask to score has none; set them to 0, or give an object with this value "
            "the next free number"
        )
    if ids is None and _is_numbered(facts, numbers):
        ids = mask.astype(np.int32)
    if how.image_size:
        mask = resize_mask(mask, how.image_size)[0] > 0
        ids = None if ids is None else resize_ids(ids, how.image_size)
    labels = label_objects(mask) if ids is None else number_objects(ids.copy(), 1)
    return Foreign(mask, labels, ids is not None)


def _halved(how: Reading) -> Reading:
    """Return how to read masks to score: continuous values, such as probabilities, are cut at half of their range."""
    return replace(how, mask_threshold=HALF, ignore_value=None)


def score_image(
    decoded: DecodedPairs, index: int, mask: NDArray[np.bool_], labels: Labels | None = None
) -> tuple[dict[str, torch.Tensor], Row, Prediction]:
    """Score a mask on the label of an image.

    Args:
        decoded: The data set of the label.
        index: Position of the image there.
        mask: Shape (H, W), at the size at which the labels are decoded.
        labels: Its numbered objects, if they are known; else they are found as those of a prediction.

    Returns:
        Tensors of shape (1,) as ``SegmentationScores`` takes them; the values of a row of ``per_image.csv``; and what
        ``predictions/`` keeps.
    """
    facts, row = decoded.facts[index], decoded.row[index]
    truth = decoded.masks[row][0] > 0
    ids = decoded.ids[row] if facts.numbered else None
    ignored = decoded.ignored[row][0] > 0 if facts.ignored else np.zeros_like(truth)
    judged = mask & ~ignored
    lost = facts.objects if facts.vanishes else 0
    both = [torch.from_numpy(part)[None, None].float() for part in (judged, truth)]
    scores = image_scores(both[0], both[1], torch.tensor([lost]))
    if ids is None:  # touching cells are one object of the label, and so of the prediction
        found = label_objects(judged, split=False)
    else:
        found = label_objects(judged) if labels is None else np.where(ignored, 0, labels)
    objects = score_labels(found, judged, label_truth(truth, ids), truth, lost, ignored)
    scores |= {key: torch.tensor([value]) for key, value in objects.items()}
    values = (
        {key: scores[key].item() for key in (*PER_IMAGE, *(score.name for score in OBJECT_SCORES))}
        | {key: int(scores[key].item()) for key in ("true_pixels", "predicted_pixels", *OBJECT_COUNTS)}
        | {"width": facts.width, "height": facts.height}
        | {"ignored_pixels": int(ignored.sum()), "objects_from": "ids" if facts.numbered else "regions"}
    )
    image: Pixels = decoded.images[row].transpose(1, 2, 0)
    kept = None if ids is None else number_objects(ids.copy(), 1)
    kept = None if kept is None or kept.max(initial=0) >= 2**16 else kept
    return scores, values, Prediction(image, truth, mask, kept, ignored)


def _write_run(
    folder: Path,
    run: RunFolder,
    decoded: DecodedPairs,
    tested: Sequence[int],
    files: Mapping[str, Sequence[Path]],
    *,
    masks: Path,
    name: str,
    command: str | None,
    numbers: bool,
) -> None:
    """Write the run folder of one fold; split, baselines and settings are those of a run of the study."""
    rows, pooled = [], SegmentationScores([score.name for score in OBJECT_SCORES])
    numbered = own = 0  # labels, and masks, that number their objects
    for index, entry in zip(tested, run.split.test, strict=True):
        pair, facts = decoded.pairs[index], decoded.facts[index]
        foreign = _read(_as_pair(pair, files[pair.name]), run.settings.reading, numbers=numbers)
        numbered, own = numbered + facts.numbered, own + foreign.numbered
        scores, values, prediction = score_image(decoded, index, foreign.mask, foreign.labels)
        pooled.update(scores)
        rows.append({"image": entry.name, "group": entry.group, "subset": "test"} | values)
        write_prediction(folder, entry.name, prediction)
    write_csv(folder / "per_image.csv", rows)
    if run.baselines is not None:
        (folder / BASELINES).write_bytes((run.path / BASELINES).read_bytes())
    run.split.write(folder / "split.json")
    settings = {"seed": None, "margin": run.settings.margin, "model": {"masks": name}, "data": run.config["data"]}
    write_text(folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    _summary(run.summary, rows, pooled, (numbered, own), masks=masks, name=name, command=command).write(
        folder / "summary.json"
    )


def spread(rows: Sequence[Row]) -> dict[str, float | None]:
    """Return the standard deviation of each score over images."""
    scores = [score.name for score in (*SCORES, *OBJECT_SCORES) if not score.pooled]
    values = {name: [float(row[name]) for row in rows] for name in scores}
    return {name: stdev(each) if len(each) > 1 else None for name, each in values.items()}


def _summary(
    of: Summary,
    rows: Sequence[Row],
    pooled: SegmentationScores,
    numbered: tuple[int, int],
    *,
    masks: Path,
    name: str,
    command: str | None,
) -> Summary:
    scores = [*SCORES, *OBJECT_SCORES]
    return Summary(
        schema_version=SCHEMA,
        status="finished",
        model=name,
        seed=None,
        command=command,
        date=datetime.now(UTC).replace(microsecond=0),
        metrics={f"test/{key}": float(value) for key, value in pooled.compute().items()},
        averaging={f"test/{score.name}": score.how for score in scores}
        | {
            "objects": describe_objects(numbered[0], len(rows)).removeprefix("objects: "),
            "masks": f"{numbered[1]} of {len(rows)} number their own objects",
        }
        | describe_ignored([int(row["ignored_pixels"]) for row in rows], [row["ignored_objects"] for row in rows]),
        spread_over_test_images=spread(rows),
        scored_weights="none: masks made elsewhere",
        validation=of.validation,
        counts=of.counts.model_copy(update={"epochs": 0, "steps": 0}),
        seconds={},
        peak_memory_bytes=of.peak_memory_bytes.model_copy(update={"process": None, "device": None}),
        parameters=None,
        gflop_per_image=None,
        device="none",
        devices=1,
        precision="none",
        data=of.data,
        platform=platform.platform(),
        masks=str(masks.absolute()),
        **{key: value for key, value in provenance().items() if key in ("versions", "git_commit", "git_dirty")},
    )
