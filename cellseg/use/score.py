"""Score masks of another tool, or of a second person, on the test images of a study, as one more configuration.

What the tool was trained on is not known, so its scores may be of images that it has seen.
"""

import platform
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from cellseg.data.cache import DecodedPairs, load_pairs
from cellseg.data.decoded import Pixels
from cellseg.data.facts import Reading
from cellseg.data.findings import count
from cellseg.data.formats import IMAGE_SUFFIXES
from cellseg.data.masks import read_mask, resize_ids, resize_mask
from cellseg.data.pairs import Pair, find_pairs
from cellseg.data.words import image_keys, is_preview, mask_keys
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
from cellseg.storage.errors import InputError
from cellseg.storage.files import new_folder, write_text
from cellseg.study.collect import Study, read_study

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
) -> tuple[list[Path], str]:
    """Score a folder of masks on the test images of each fold of a study, and write a run folder for each fold.

    Args:
        masks: The folder; a mask has the name of its image, perhaps with a word such as mask, or lies in a folder of
            that name. Masks that number their objects keep them; of others touching cells are separated.
        data: The data set of the study.
        name: Name of the configuration in the report.
        study_folder: The study.
        command: The command that was typed.

    Returns:
        The run folders, and how many of the masks number their objects.

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
    files = match_masks(masks, [scan.pairs[index] for index in sorted({n for some in tested.values() for n in some})])
    folders = [study.folder / _folder_name(name, run) for run in models]
    for folder in folders:
        if folder.exists():
            raise InputError(f"{folder} already exists and is not overwritten; choose another --name")
    numbered = scored = 0
    with ExitStack() as unfinished:  # all folders or none, so that a corrected mask can be scored under the same name
        for run, folder in zip(models, folders, strict=True):
            new, tests = unfinished.enter_context(new_folder(folder)), tested[run.path]
            numbered += _write_run(new, run, decoded, tests, files, masks=masks, name=name, command=command)
            scored += len(tests)
    rest = "" if numbered == scored else "; touching cells of the others are separated at their necks"
    return folders, f"{numbered} of {count(scored, 'mask')} number their objects{rest}"


def match_masks(folder: Path, pairs: Sequence[Pair]) -> dict[str, list[Path]]:
    """Return the mask files of each image, by its name.

    Raises:
        InputError: If an image has no mask, or several.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name the folder of masks")
    if (folder / "images.csv").exists() and (folder / "labels").is_dir():  # written by predict
        folder = folder / "labels"
    by_key: dict[str, list[Path]] = defaultdict(list)
    by_folder: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if hidden or not path.name.lower().endswith(IMAGE_SUFFIXES) or not path.is_file() or is_preview(path):
            continue
        for key in mask_keys(path):
            by_key[key.casefold()].append(path)
        for part in inside.parts[:-1]:
            by_folder[part.casefold()].append(path)
    found, missing = {}, []
    for pair in pairs:
        keys = dict.fromkeys([pair.name.casefold(), *(key.casefold() for key in image_keys(pair.image))])
        named = next((by_key[key] for key in keys if key in by_key), None)
        inside_own = by_folder.get(pair.name.casefold())
        if inside_own:  # a folder of the image's name may hold one mask, or a file for each object
            found[pair.name] = inside_own
        elif named and len(named) == 1:
            found[pair.name] = named
        elif named:
            raise InputError(
                f"{pair.name} has several masks in {folder}: {', '.join(str(path) for path in named[:3])}; keep one"
            )
        else:
            missing.append(pair.name)
    if missing:
        raise InputError(
            f"{folder} has no mask for {count(len(missing), 'test image')} of the study, for example {missing[0]}; "
            f"name each mask like its image, such as {missing[0]}.png"
        )
    return found


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


def _read(files: Sequence[Path], how: Reading, size: tuple[int, int]) -> Foreign:
    """Read a mask at the size at which the study scores.

    Raises:
        InputError: If it cannot be read, or has another size than its image (width, height).
    """
    reading = read_mask(files, how.mask_threshold)
    height, width = reading.cell.shape
    if (width, height) != size:
        raise InputError(
            f"{files[0]}: the mask is {width}x{height} pixels, but its image is {size[0]}x{size[1]}; export it at the "
            "size of the image"
        )
    if reading.not_judged:
        raise InputError(
            f"{files[0]}: the value {reading.not_judged} beside values of at most {reading.second:g} would mark pixels "
            "without annotation, but a mask to score has none; set them to 0, or give an object with this value the "
            "next free number"
        )
    mask, ids = reading.cell, reading.ids
    if how.image_size:
        mask = resize_mask(mask, how.image_size)[0] > 0
        ids = None if ids is None else resize_ids(ids, how.image_size)
    labels = label_objects(mask) if ids is None else number_objects(ids.copy(), 1)
    return Foreign(mask, labels, ids is not None)


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
) -> int:
    """Write the run folder of one fold; split, baselines and settings are those of a run of the study.

    Returns:
        How many of the masks number their objects.
    """
    rows, pooled = [], SegmentationScores([score.name for score in OBJECT_SCORES])
    numbered = own = 0
    for index, entry in zip(tested, run.split.test, strict=True):
        pair, facts, row = decoded.pairs[index], decoded.facts[index], decoded.row[index]
        foreign = _read(files[pair.name], run.settings.reading, (facts.width, facts.height))
        truth = decoded.masks[row][0] > 0
        ids = decoded.ids[row] if facts.numbered else None
        numbered, own = numbered + facts.numbered, own + foreign.numbered
        ignored = decoded.ignored[row][0] > 0 if facts.ignored else np.zeros_like(truth)
        judged = foreign.mask & ~ignored
        lost = facts.objects if facts.vanishes else 0
        both = [torch.from_numpy(mask)[None, None].float() for mask in (judged, truth)]
        scores = image_scores(both[0], both[1], torch.tensor([lost]))
        # without ids touching cells are one object of the label, and so of the prediction
        labels = np.where(ignored, 0, foreign.labels) if ids is not None else label_objects(judged, split=False)
        objects = score_labels(labels, judged, label_truth(truth, ids), truth, lost, ignored)
        scores |= {key: torch.tensor([value]) for key, value in objects.items()}
        pooled.update(scores)
        names = (*PER_IMAGE, *(score.name for score in OBJECT_SCORES))
        rows.append(
            {"image": entry.name, "group": entry.group, "subset": "test"}
            | {key: scores[key].item() for key in names}
            | {key: int(scores[key].item()) for key in ("true_pixels", "predicted_pixels", *OBJECT_COUNTS)}
            | {"ignored_pixels": int(ignored.sum()), "objects_from": "ids" if facts.numbered else "regions"}
        )
        image: Pixels = decoded.images[row].transpose(1, 2, 0)
        kept = None if ids is None else number_objects(ids.copy(), 1)
        kept = None if kept is None or kept.max(initial=0) >= 2**16 else kept
        write_prediction(folder, entry.name, Prediction(image, truth, foreign.mask, kept, ignored))
    write_csv(folder / "per_image.csv", rows)
    if run.baselines is not None:
        (folder / BASELINES).write_bytes((run.path / BASELINES).read_bytes())
    run.split.write(folder / "split.json")
    settings = {"seed": None, "margin": run.settings.margin, "model": {"masks": name}, "data": run.config["data"]}
    write_text(folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    _summary(run.summary, rows, pooled, numbered, masks=masks, name=name, command=command).write(
        folder / "summary.json"
    )
    return own


def _summary(
    of: Summary,
    rows: Sequence[Row],
    pooled: SegmentationScores,
    numbered: int,
    *,
    masks: Path,
    name: str,
    command: str | None,
) -> Summary:
    scores = [*SCORES, *OBJECT_SCORES]
    values = {score.name: [float(row[score.name]) for row in rows] for score in scores if not score.pooled}
    return Summary(
        schema_version=SCHEMA,
        status="finished",
        model=name,
        seed=None,
        command=command,
        date=datetime.now(UTC).replace(microsecond=0),
        metrics={f"test/{key}": float(value) for key, value in pooled.compute().items()},
        averaging={f"test/{score.name}": score.how for score in scores}
        | {"objects": describe_objects(numbered, len(rows)).removeprefix("objects: ")}
        | describe_ignored([int(row["ignored_pixels"]) for row in rows], [row["ignored_objects"] for row in rows]),
        spread_over_test_images={key: stdev(each) if len(each) > 1 else None for key, each in values.items()},
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
