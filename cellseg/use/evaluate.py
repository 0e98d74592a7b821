"""Score a network on pairs, without the images that its weights have seen."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cellseg.data.cache import DecodedPairs, load_pairs
from cellseg.data.dataset import CellDataset
from cellseg.data.facts import Reading, inspect_pair
from cellseg.data.findings import WARNING, describe_masks, look_at_pairs
from cellseg.data.kinship import Kin, Likeness, families, find_alike
from cellseg.data.pairs import Pair, find_pairs, scan_pairs
from cellseg.data.progress import with_progress
from cellseg.metrics import (
    OBJECT_SCORES,
    POOLED,
    SCORES,
    AddedScores,
    Score,
    describe_ignored,
    describe_objects,
    image_scores,
    score_objects,
)
from cellseg.run.building import build_trusted, targets_of
from cellseg.storage.csv_files import as_text
from cellseg.storage.errors import InputError, count
from cellseg.storage.files import new_folder, write_json
from cellseg.study.statistics import interval_over_groups
from cellseg.use.inference import Predictor
from cellseg.use.load import Run
from cellseg.use.trained import Trained

UNKNOWABLE = (
    "related images are recognised by group and by similarity, but crops, overlapping tiles, other fields of a "
    "training image and frames of one film are not; list them in groups.csv"
)


@dataclass(frozen=True)
class Estimate:
    """The value of a score and its 95 % interval over groups of images; the interval is None with one group."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        images: One row for each image: image, group, seen (empty if unseen), scores and pixel counts.
        scores: The computed scores.
        caveats: Limits of the evaluation.
        warnings: The warnings that training would give for these images and masks.
    """

    images: pd.DataFrame
    scores: Sequence[Score]
    caveats: list[str]
    warnings: list[str]

    @property
    def unseen(self) -> pd.DataFrame:
        """The images that the weights have not seen."""
        return self.images[self.images["seen"] == ""]

    @property
    def seen(self) -> pd.DataFrame:
        """The images used in training or to choose the weights, and images related to them."""
        return self.images[self.images["seen"] != ""]


def evaluate(
    trained: Trained, data: Path, groups: Path | None = None, *, native: bool = False, trust: bool = False
) -> Evaluation:
    """Score a folder of pairs in the same way as the test part of the run.

    Args:
        trained: A network from run folders, which record its training images.
        data: Folder of pairs.
        groups: As for ``find_pairs``.
        native: Whether to score at the images' own size too.
        trust: Whether to import and build the score classes that the configuration of the run adds.

    Raises:
        InputError: If the folder cannot be used.
    """
    added, missing = _added_scores(trained, trust=trust)
    asked = set(added)
    scan = find_pairs(data, groups)
    decoded = load_pairs(scan.pairs, trained.reading)
    seen, complete = find_seen(trained, decoded, data, grouped=scan.grouped)
    predictor = trained.predictor()
    rows = []
    dataset = CellDataset(decoded, [pair.name for pair in scan.pairs], objects=True)
    for number, pair in enumerate(with_progress(scan.pairs, "scoring", len(scan.pairs))):
        sample = dataset[number]  # one at a time, as the test of the run did
        vanished = torch.tensor([sample["vanished"]])
        probability, mask = predictor.see_sample(sample["image"]), sample["mask"][None]
        ignored = sample["ignored"][None] if "ignored" in sample else None
        seen_as = probability if ignored is None else probability.masked_fill(ignored, 0), mask, vanished
        ids, has_ids = sample["ids"][None], torch.tensor([sample["numbered"]])
        own = image_scores(*seen_as) | score_objects(probability, mask, ids, has_ids, vanished, ignored=ignored)
        values = {name: value.item() for name, value in own.items()}
        if native:
            values |= _native_scores(predictor, pair, trained.reading)
        for name, score in list(added.items()):
            try:
                values[name] = score(*seen_as)[name].item()
            except InputError as error:
                missing.append(f"metrics.{name} is not computed: {error}")
                del added[name]
        values["ignored_pixels"] = 0 if ignored is None else int(ignored.sum())
        rows.append({"image": pair.name, "group": pair.group, "seen": seen.get(pair.name, "")} | values)
    failed = asked - set(added)
    caveats = [*missing, UNKNOWABLE, describe_masks(decoded.facts, trained.reading)]
    if not complete:
        caveats.insert(
            0,
            "some training images are no longer available; for these, only exact copies were recognised, not similar "
            "images",
        )
    if predictor.precision != trained.precision:
        caveats.append(f"computed in precision {predictor.precision}, but the run was tested in {trained.precision}")
    sizes = [(facts.width, facts.height) for facts in decoded.facts]
    if warning := trained.scale_warning(sizes, tiles=False, choice=False):
        caveats.append(warning)
    if warning := trained.kind_warning(decoded.facts):
        caveats.append(warning)
    found = look_at_pairs(
        scan.pairs, decoded.facts, scan.root, exchanged=decoded.exchanged, resized=not predictor.tiles
    )
    warnings = [str(finding) for finding in found if finding.severity == WARNING]
    described = [description for score in added.values() for description in score.described]
    scored = [*SCORES, *OBJECT_SCORES, *(NATIVE if native else ()), *described]
    numbered = sum(facts.numbered for facts in decoded.facts)
    caveats.append(describe_objects(numbered, len(scan.pairs)))
    left_out = describe_ignored(*([int(row[name]) for row in rows] for name in ("ignored_pixels", "ignored_objects")))
    caveats += [f"{part}: {said}" for part, said in left_out.items()]
    images = pd.DataFrame([{name: value for name, value in row.items() if name not in failed} for row in rows])
    return Evaluation(images, scored, caveats, warnings)


NATIVE = [
    replace(
        score,
        name=f"native_{score.name}",
        label=f"{score.label}, own size",
        how=f"{score.how}; at the images' own size",
    )
    for score in (*SCORES, *OBJECT_SCORES)
    if not score.pooled
]


def _native_scores(predictor: Predictor, pair: Pair, how: Reading) -> dict[str, float]:
    """Score a pair at its own size."""
    clean = inspect_pair(pair, how)
    probability = torch.from_numpy(predictor.probability(clean.pixels))[None, None]
    mask = torch.from_numpy(clean.mask)[None, None].float()
    ids = np.zeros(clean.mask.shape, np.int32) if clean.ids is None else clean.ids
    numbered, none = torch.tensor([clean.ids is not None]), torch.tensor([0])
    scale = predictor.pixels_per_side(clean.pixels)
    ignored = None if clean.ignored is None else torch.from_numpy(clean.ignored)[None, None]
    objects = score_objects(probability, mask, torch.from_numpy(ids)[None], numbered, none, scale, ignored=ignored)
    values = image_scores(probability if ignored is None else probability.masked_fill(ignored, 0), mask) | objects
    return {score.name: values[score.name.removeprefix("native_")].item() for score in NATIVE}


def _added_scores(trained: Trained, *, trust: bool) -> tuple[dict[str, AddedScores], list[str]]:
    """Build the scores that the configuration of the first run adds; list those left out with the reason."""
    run = trained.runs[0]
    named = run.config.get("metrics")
    wanted = {name: value for name, value in named.items() if isinstance(value, dict)} if named else {}
    network = run.files.summary.network
    places = [*run.files.summary.score_places, *([network.place] if network and network.place else [])]
    built, left_out = dict[str, AddedScores](), list[str]()
    for name, settings in wanted.items():
        if not trust:
            packages = ", ".join(sorted({target.split(".")[0] for target in targets_of(settings)} - {"cellseg"}))
            left_out.append(f"metrics.{name} is not computed: {packages or 'its class'} must be imported; add --trust")
            continue
        try:
            built[name] = AddedScores({name: build_trusted(settings, places, run.folder)})
        except InputError as error:
            left_out.append(f"metrics.{name} is not computed: {error}")
    return built, left_out


def find_seen(trained: Trained, decoded: DecodedPairs, data: Path, *, grouped: bool) -> tuple[dict[str, str], bool]:
    """Find images that the weights have seen, by identical content or because a related image was seen.

    Images are related if they share a group, if they look alike, or if a run's split has a group of the same name.

    Args:
        trained: The network.
        decoded: The images.
        data: Their folder.
        grouped: Whether the user gave groups, so that group names are meaningful.

    Returns:
        For each seen image, the reason; and whether all seen images were available for comparison.
    """
    pairs, known = decoded.pairs, trained.known
    seen = {
        pair.name: known[facts.sha256]
        for pair, facts in zip(pairs, decoded.facts, strict=True)
        if facts.sha256 in known
    }
    own = [
        look
        for pair in _training_pairs(trained.runs, data)
        if (look := _look(pair, trained.reading)) and look[0] in known
    ]
    if own:
        for index, other in find_alike(decoded.likenesses, [likeness for _, likeness in own]):
            seen.setdefault(pairs[index].name, f"relative of an image {known[own[other][0]]}")
    first: dict[str, int] = {}
    by_group = [Kin(first.setdefault(pair.group, n), n, "group") for n, pair in enumerate(pairs)]
    for family in families(len(pairs), [*decoded.kin, *by_group]):
        if relatives := [pairs[member].name for member in family if pairs[member].name in seen]:
            for member in family:
                seen.setdefault(pairs[member].name, f"relative of {relatives[0]}, {seen[relatives[0]]}")
    for pair in pairs if grouped else ():
        if pair.group in trained.known_groups:
            seen.setdefault(pair.name, f"group {pair.group}, {trained.known_groups[pair.group]}")
    at_hand = {facts.sha256 for facts in decoded.facts} | {digest for digest, _ in own}
    return seen, known.keys() <= at_hand


def estimate_scores(images: pd.DataFrame, scores: Sequence[Score] = SCORES) -> dict[str, Estimate]:
    """Compute each score over images, without scores that no image has."""
    hit, both = images["shared_pixels"], images["true_pixels"] + images["predicted_pixels"]
    pooled = {"dice": (2 * hit, both), "iou": (hit, both - hit)}
    found = {}
    for score in scores:
        if score.pooled:
            parts = pooled[POOLED[score.name]]
        else:
            valued = images.loc[images[score.name].notna(), score.name]
            parts = valued, pd.Series(1.0, valued.index)
        if len(parts[0]):
            found[score.name] = _estimate(*parts, images["group"], score.limits)
    return found


def write_evaluation(
    folder: Path, trained: Trained, data: Path, evaluation: Evaluation, scores: Mapping[str, Estimate]
) -> None:
    """Write ``per_image.csv`` and ``evaluation.json`` to a new folder.

    Raises:
        InputError: If it exists, or cannot be written.
    """
    content = {
        "trained": trained.name,
        "data": str(data),
        "averaging": "over unseen images with equal weight; pooled scores give all pixels equal weight",
        "images": len(evaluation.unseen),
        "groups": int(evaluation.unseen["group"].nunique()),
        "scores": {name: score.value for name, score in scores.items()},
        "intervals_95": {name: score.interval for name, score in scores.items()},
        "left_out": dict(zip(evaluation.seen["image"], evaluation.seen["seen"], strict=True)),
        "caveats": evaluation.caveats,
        "warnings": evaluation.warnings,
    }
    with new_folder(folder) as unfinished:
        evaluation.images.map(as_text).to_csv(unfinished / "per_image.csv", index=False)
        write_json(unfinished / "evaluation.json", content)


def _estimate(
    top: "pd.Series[float]", bottom: "pd.Series[float]", groups: "pd.Series[str]", limits: tuple[float, float]
) -> Estimate:
    if not bottom.sum():
        return Estimate(1.0, None)  # all masks and all predictions are empty
    sums, sizes = (np.asarray(part.groupby(groups).sum(), np.float64) for part in (top, bottom))
    ends = interval_over_groups(sums, sizes)
    if ends:
        ends = max(limits[0], ends[0]), min(limits[1], ends[1])
    return Estimate(float(top.sum() / bottom.sum()), ends)


def _training_pairs(runs: Sequence[Run], data: Path) -> list[Pair]:
    """List the pairs in the data folders of the runs that still exist, without ``data``."""
    roots = {os.path.realpath(run.files.summary.data.root) for run in runs} - {os.path.realpath(data)}
    pairs = []
    for root in sorted(roots):
        with suppress(InputError):
            pairs += scan_pairs(Path(root)).pairs
    return pairs


def _look(pair: Pair, how: Reading) -> tuple[str, Likeness] | None:
    """Return the content hash and the likeness of an image; None if it is unreadable."""
    with suppress(InputError):
        clean = inspect_pair(pair, how)
        return clean.facts.sha256, clean.likeness
    return None


def print_evaluation(name: str, unseen: Mapping[str, "Estimate"], evaluation: Evaluation) -> None:
    """Print the scores on unseen images, and list the images left out."""
    console, images = Console(), evaluation.images
    console.print(name, highlight=False, markup=False, soft_wrap=True)
    seen = images[images["seen"] != ""]
    if unseen:
        number, groups = len(images) - len(seen), images.loc[images["seen"] == "", "group"].nunique()
        table = Table(
            title=f"scores on {count(number, 'image')} that the weights have not seen",
            caption=f"95 % interval over {count(groups, 'group')} of images, without the variation between seeds",
            title_justify="left",
            caption_justify="left",
        )
        for heading in ("score", "value", "95 % interval", "how"):
            table.add_column(heading, justify="right" if heading == "value" else "left")
        for score in evaluation.scores:
            if found := unseen.get(score.name):
                ends = "-" if found.interval is None else f"[{found.interval[0]:.4f}, {found.interval[1]:.4f}]"
                table.add_row(Text(score.label), f"{found.value:.4f}", Text(ends), score.how)
        console.print(table)
    if len(seen):
        mean = f"their mean Dice is {seen['dice'].mean():.4f}, which is not a valid result"
        heading = f"{count(len(seen), 'image')} left out, because the weights have seen them or related images; {mean}:"
        console.print(heading, style="yellow", highlight=False, markup=False, soft_wrap=True)
        for how in seen["seen"].unique():
            names = ", ".join(seen.loc[seen["seen"] == how, "image"])
            console.print(f"  {how}: {names}", highlight=False, markup=False, soft_wrap=True)
    for caveat in evaluation.caveats:
        console.print(f"note: {caveat}", highlight=False, markup=False, soft_wrap=True)
