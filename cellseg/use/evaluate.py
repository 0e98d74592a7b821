"""Scoring on labelled data, with what the weights have seen before kept out of the result."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from cellseg.data.cache import DecodedPairs, load_pairs
from cellseg.data.dataset import CellDataset
from cellseg.data.folders import new_folder
from cellseg.data.kinship import Kin, families
from cellseg.data.pairs import Pair, find_pairs, scan_pairs
from cellseg.errors import InputError
from cellseg.metrics import image_scores
from cellseg.runs import Run, write_json
from cellseg.study.statistics import interval_over_groups
from cellseg.use.trained import Trained

SEEN = {"train": "trained on", "val": "chosen by"}


@dataclass(frozen=True)
class Score:
    """A score from 0 to 1, and its 95 % interval over groups of images; None where there is one group only."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Evaluation:
    """What scoring gave.

    Attributes:
        images: A row for every image: image, group, seen (empty where the weights have not), scores and pixel counts.
        caveat: What could not be looked for; empty if nothing.
    """

    images: pd.DataFrame
    caveat: str

    @property
    def unseen(self) -> pd.DataFrame:
        """The images that count."""
        return self.images[self.images["seen"] == ""]

    @property
    def seen(self) -> pd.DataFrame:
        """The images that the weights, or the choice of them, knew, and their relatives."""
        return self.images[self.images["seen"] != ""]


def evaluate(trained: Trained, data: Path, groups: Path | None = None) -> Evaluation:
    """Score on a folder of pairs as the test of the run was scored, image by image.

    Args:
        trained: From run folders, which say what it was trained on.
        data: Folder of pairs.
        groups: As for ``find_pairs``.

    Raises:
        InputError: If the folder cannot be used.
    """
    scan = find_pairs(data, groups)
    decoded = _load(trained, scan.pairs, _training_pairs(trained.runs, data))
    seen, complete = find_seen(trained.runs, decoded, grouped=scan.grouped)
    predictor = trained.predictor()
    rows = []
    dataset = CellDataset(decoded, [pair.name for pair in scan.pairs], augmentation=None, seed=0)
    for number, pair in enumerate(tqdm(scan.pairs, "scoring", leave=False, delay=1)):
        sample = dataset[number]  # one at a time, as the test of the run did
        scores = image_scores(predictor.see(sample["image"][None]), sample["mask"][None])
        values = {name: value.item() for name, value in scores.items()}
        rows.append({"image": pair.name, "group": pair.group, "seen": seen.get(pair.name, "")} | values)
    caveat = (
        "not all images it was trained on are at hand, so only exact copies of those were recognised, and nothing that "
        "merely looks like them"
    )
    return Evaluation(pd.DataFrame(rows), "" if complete else caveat)


def find_seen(runs: Sequence[Run], decoded: DecodedPairs, *, grouped: bool) -> tuple[dict[str, str], bool]:
    """Say of images how weights have seen them: themselves, by their content, or a relative.

    Relatives are images of one group, those that look it, and those of a group of the same name in the run's split.

    Args:
        runs: Whose weights.
        decoded: The images, and as far as they are at hand those the runs were trained on.
        grouped: Whether somebody said which images belong together, so that the names of groups mean something.

    Returns:
        How, by name, and whether all images that the runs were trained on are among them.
    """
    entries = {
        entry["sha256"]: (how, entry) for run in runs for subset, how in SEEN.items() for entry in run.split[subset]
    }
    own = [entries[facts.sha256][0] if facts.sha256 in entries else "" for facts in decoded.facts]
    first: dict[str, int] = {}
    by_group = [Kin(first.setdefault(pair.group, n), n, "group") for n, pair in enumerate(decoded.pairs)]
    seen = {pair.name: how for pair, how in zip(decoded.pairs, own, strict=True) if how}
    for family in families(len(decoded.pairs), [*decoded.kin, *by_group]):
        if known := next((member for member in family if own[member]), None):
            relative = f"relative of {decoded.pairs[known].name}, {own[known]}"
            for member in family:
                seen.setdefault(decoded.pairs[member].name, relative)
    named = {entry["group"]: how for how, entry in entries.values() if entry["group"] != entry["name"]}
    for pair in decoded.pairs if grouped else ():
        if pair.group in named:
            seen.setdefault(pair.name, f"group {pair.group}, {named[pair.group]}")
    return seen, entries.keys() <= {facts.sha256 for facts in decoded.facts}


def score_all(images: pd.DataFrame) -> dict[str, Score]:
    """Return the scores of images: ``dice``, ``iou``, ``soft_dice`` per image, ``dice_pooled``, ``iou_pooled``."""
    hit, both = images["shared_pixels"], images["true_pixels"] + images["predicted_pixels"]
    one = pd.Series(1.0, images.index)
    parts = {name: (images[name], one) for name in ("dice", "iou", "soft_dice")}
    parts |= {"dice_pooled": (2 * hit, both), "iou_pooled": (hit, both - hit)}
    return {name: _score(top, bottom, images["group"]) for name, (top, bottom) in parts.items()}


def write_evaluation(
    folder: Path, trained: Trained, data: Path, evaluation: Evaluation, scores: Mapping[str, Score]
) -> None:
    """Write ``per_image.csv`` and ``evaluation.json`` to a new folder.

    Raises:
        InputError: If it exists, or cannot be written.
    """
    said = {
        "trained": trained.name,
        "data": str(data),
        "averaging": "over images the weights have not seen; Dice, IoU and soft Dice per image, each counting the same",
        "images": len(evaluation.unseen),
        "groups": int(evaluation.unseen["group"].nunique()),
        "scores": {name: score.value for name, score in scores.items()},
        "intervals_95": {name: score.interval for name, score in scores.items()},
        "left_out": dict(zip(evaluation.seen["image"], evaluation.seen["seen"], strict=True)),
        "caveat": evaluation.caveat,
    }
    with new_folder(folder) as unfinished:
        evaluation.images.to_csv(unfinished / "per_image.csv", index=False)
        write_json(unfinished / "evaluation.json", said)


def _score(top: "pd.Series[float]", bottom: "pd.Series[float]", groups: "pd.Series[str]") -> Score:
    if not bottom.sum():
        return Score(1.0, None)  # nothing in any mask, and nothing predicted
    sums, sizes = (np.asarray(part.groupby(groups).sum(), np.float64) for part in (top, bottom))
    ends = interval_over_groups(sums, sizes)
    return Score(float(top.sum() / bottom.sum()), ends and (max(0.0, ends[0]), min(1.0, ends[1])))


def _training_pairs(runs: Sequence[Run], data: Path) -> list[Pair]:
    """List the pairs in the folders that the runs were trained on, as far as they are still there; not ``data``."""
    roots = {Path(run.summary["data"]["root"]).resolve() for run in runs} - {data.resolve()}
    pairs = []
    for root in sorted(roots):
        with suppress(InputError):
            pairs += [
                replace(pair, name=str(pair.image), group=f"{root}/{pair.group}") for pair in scan_pairs(root).pairs
            ]
    return pairs


def _load(trained: Trained, pairs: Sequence[Pair], own: Sequence[Pair]) -> DecodedPairs:
    """Decode the pairs, and those that the runs were trained on as far as they can be read."""
    threshold = int(trained.runs[0].config["data"]["mask_threshold"])
    with suppress(InputError):
        return load_pairs([*pairs, *own], trained.image_size, threshold)
    return load_pairs(pairs, trained.image_size, threshold)
