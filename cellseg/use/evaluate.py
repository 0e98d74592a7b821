"""Scoring on labelled data, with what the weights have seen before kept out of the result."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
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
from cellseg.data.findings import WARNING, count, describe_masks, look_at_pairs
from cellseg.data.kinship import Kin, Likeness, families, find_alike
from cellseg.data.pairs import Pair, find_pairs, scan_pairs
from cellseg.data.progress import with_progress
from cellseg.metrics import POOLED, SCORES, AddedScores, Score, image_scores
from cellseg.run.building import build_trusted, targets_of
from cellseg.storage.csv_files import as_text
from cellseg.storage.errors import InputError
from cellseg.storage.files import new_folder, write_json
from cellseg.study.statistics import interval_over_groups
from cellseg.use.load import Run
from cellseg.use.trained import Trained

UNKNOWABLE = (
    "relatives are told by groups and by looks; crops, overlapping tiles, other fields of a training image and frames "
    "of one film are not recognised: where there are some, say so in groups.csv"
)


@dataclass(frozen=True)
class Estimate:
    """The value of a score, and its 95 % interval over groups of images; None where there is one group only."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Evaluation:
    """What scoring gave.

    Attributes:
        images: A row for every image: image, group, seen (empty where the weights have not), scores and pixel counts.
        scores: The scores there are.
        caveats: What could not be looked for, and what else to know.
        warnings: What is odd about the images and masks, as training warns of it.
    """

    images: pd.DataFrame
    scores: Sequence[Score]
    caveats: list[str]
    warnings: list[str]

    @property
    def unseen(self) -> pd.DataFrame:
        """The images that count."""
        return self.images[self.images["seen"] == ""]

    @property
    def seen(self) -> pd.DataFrame:
        """The images that the weights, or the choice of them, knew, and their relatives."""
        return self.images[self.images["seen"] != ""]


def evaluate(trained: Trained, data: Path, groups: Path | None = None, *, trust: bool = False) -> Evaluation:
    """Score on a folder of pairs as the test of the run was scored, image by image.

    Args:
        trained: From run folders, which say what it was trained on.
        data: Folder of pairs.
        groups: As for ``find_pairs``.
        trust: Whether the classes of scores that the run's configuration adds are imported and built.

    Raises:
        InputError: If the folder cannot be used.
    """
    added, missing = _added_scores(trained, trust=trust)
    scan = find_pairs(data, groups)
    decoded = load_pairs(scan.pairs, trained.reading)
    seen, complete = find_seen(trained, decoded, data, grouped=scan.grouped)
    predictor = trained.predictor()
    rows = []
    dataset = CellDataset(decoded, [pair.name for pair in scan.pairs], augmentation=None, seed=0)
    for number, pair in enumerate(with_progress(scan.pairs, "scoring", len(scan.pairs))):
        sample = dataset[number]  # one at a time, as the test of the run did
        vanished = torch.tensor([sample["vanished"]])
        seen_as = predictor.see(sample["image"][None]), sample["mask"][None], vanished
        values = {name: value.item() for name, value in (image_scores(*seen_as) | added(*seen_as)).items()}
        rows.append({"image": pair.name, "group": pair.group, "seen": seen.get(pair.name, "")} | values)
    caveats = [*missing, UNKNOWABLE, describe_masks(decoded.facts, trained.reading.mask_threshold)]
    if not complete:
        caveats.insert(
            0,
            "not all images it was trained on are at hand, so only exact copies of those were recognised, and nothing "
            "that merely looks like them",
        )
    if predictor.precision != trained.precision:
        caveats.append(f"computed in {predictor.precision}; it was tested in {trained.precision}")
    sizes = [(facts.width, facts.height) for facts in decoded.facts]
    if warning := trained.scale_warning(sizes, tiles=False):
        caveats.append(warning)
    found = look_at_pairs(scan.pairs, decoded.facts, scan.root)
    warnings = [str(finding) for finding in found if finding.severity == WARNING]
    return Evaluation(pd.DataFrame(rows), [*SCORES, *added.described], caveats, warnings)


def _added_scores(trained: Trained, *, trust: bool) -> tuple[AddedScores, list[str]]:
    """Build the scores that the configuration of the first run adds; say which are left out, and why."""
    run = trained.runs[0]
    named = run.config.get("metrics")
    wanted = {name: value for name, value in named.items() if isinstance(value, dict)} if named else {}
    place = run.files.summary.network and run.files.summary.network.place
    built, left_out = {}, []
    for name, settings in wanted.items():
        if not trust:
            packages = ", ".join(sorted({target.split(".")[0] for target in targets_of(settings)} - {"cellseg"}))
            left_out.append(f"metrics.{name} is not computed: {packages or 'its class'} must be imported; add --trust")
            continue
        try:
            built[name] = build_trusted(settings, [place] if place else [], run.folder)
        except InputError as error:
            left_out.append(f"metrics.{name} is not computed: {error}")
    return AddedScores(built), left_out


def find_seen(trained: Trained, decoded: DecodedPairs, data: Path, *, grouped: bool) -> tuple[dict[str, str], bool]:
    """Say of images how weights have seen them: themselves, by their content, or a relative.

    Relatives are images of one group, those that look it, and those of a group of the same name in a run's split.

    Args:
        trained: Whose weights.
        decoded: The images.
        data: Their folder.
        grouped: Whether somebody said which of them belong together, so that the names of groups mean something.

    Returns:
        How, by name, and whether all images that the weights have seen were there to be compared with.
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
    """Return the scores over images, by name; one that no image has a value of is left out."""
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
            found[score.name] = _estimate(*parts, images["group"], share=score.share)
    return found


def write_evaluation(
    folder: Path, trained: Trained, data: Path, evaluation: Evaluation, scores: Mapping[str, Estimate]
) -> None:
    """Write ``per_image.csv`` and ``evaluation.json`` to a new folder.

    Raises:
        InputError: If it exists, or cannot be written.
    """
    said = {
        "trained": trained.name,
        "data": str(data),
        "averaging": "over images the weights have not seen; but for pooled scores each image counts the same",
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
        write_json(unfinished / "evaluation.json", said)


def _estimate(
    top: "pd.Series[float]", bottom: "pd.Series[float]", groups: "pd.Series[str]", *, share: bool
) -> Estimate:
    if not bottom.sum():
        return Estimate(1.0, None)  # nothing in any mask, and nothing predicted
    sums, sizes = (np.asarray(part.groupby(groups).sum(), np.float64) for part in (top, bottom))
    ends = interval_over_groups(sums, sizes)
    if ends and share:
        ends = max(0.0, ends[0]), min(1.0, ends[1])
    return Estimate(float(top.sum() / bottom.sum()), ends)


def _training_pairs(runs: Sequence[Run], data: Path) -> list[Pair]:
    """List the pairs in the folders that the runs were trained on, as far as they are still there; not ``data``."""
    roots = {os.path.realpath(run.files.summary.data.root) for run in runs} - {os.path.realpath(data)}
    pairs = []
    for root in sorted(roots):
        with suppress(InputError):
            pairs += scan_pairs(Path(root)).pairs
    return pairs


def _look(pair: Pair, how: Reading) -> tuple[str, Likeness] | None:
    """Return the content hash of an image and what it looks like; None if it cannot be read."""
    with suppress(InputError):
        clean = inspect_pair(pair, how)
        return clean.facts.sha256, clean.likeness
    return None


def print_evaluation(name: str, unseen: Mapping[str, "Estimate"], evaluation: Evaluation) -> None:
    """Print the scores on images the weights have not seen and, apart, what was left out of them."""
    console, images = Console(), evaluation.images
    console.print(name, highlight=False, markup=False, soft_wrap=True)
    seen = images[images["seen"] != ""]
    if unseen:
        number, groups = len(images) - len(seen), images.loc[images["seen"] == "", "group"].nunique()
        table = Table(
            title=f"scores on {count(number, 'image')} that the weights have not seen",
            caption=f"95 % interval: {count(groups, 'group')} of images drawn again; other seeds are not in it",
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
        mean = f"mean Dice on them {seen['dice'].mean():.4f}, which is no result"
        said = f"{count(len(seen), 'image')} left out, known to the weights; {mean}:"
        console.print(said, style="yellow", highlight=False, markup=False, soft_wrap=True)
        for how in seen["seen"].unique():
            names = ", ".join(seen.loc[seen["seen"] == how, "image"])
            console.print(f"  {how}: {names}", highlight=False, markup=False, soft_wrap=True)
    for caveat in evaluation.caveats:
        console.print(f"note: {caveat}", highlight=False, markup=False, soft_wrap=True)
