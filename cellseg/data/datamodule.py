"""The LightningDataModule: training, validation and test batches from a folder of pairs or from the embedded smears."""

import logging
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import lightning as L
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from cellseg.data.cache import DecodedPairs, load_pairs
from cellseg.data.dataset import Augmentation, CellDataset, EpochSampler
from cellseg.data.facts import Reading, check_numbers, check_options, checked_ignore_value
from cellseg.data.findings import (
    WARNING,
    Leak,
    describe_masks,
    find_leaks,
    look_at_pairs,
    nothing_to_learn,
)
from cellseg.data.groups import unused_table
from cellseg.data.pairs import Scan, find_pairs, see_all
from cellseg.data.splits import SplitEntry, SplitPlan, SplitRecord, Subsets, read_split
from cellseg.data.synthetic import write_synthetic
from cellseg.storage.errors import InputError, count

Resize = Literal["whole", "crop"]

EMBEDDED_PAIRS = 50
FEW_TESTED = 5  # warn if fewer images are tested
MOST_CHANNELS = 4  # a run keeps its test images as PNG, which holds at most four
EMBEDDED_ROOT = Path("data/synthetic-v1")  # increase the version when the drawing changes

log = logging.getLogger(__name__)


class CellDataModule(L.LightningDataModule):
    """Provide batches of cleaned pairs from ``root``; the pairs are split and decoded once.

    Args:
        root: Folder of pairs; by default 50 embedded synthetic smears, drawn into ``data/``.
        groups: CSV file with the group of each pair; by default ``groups.csv`` in the folder, if there is one.
        image_size: Side in pixels of the squares that the network is trained on.
        resize: "whole": images and masks are resized to this square, for training and for scoring. "crop": images keep
            their scale; in each epoch the network is trained on a random crop of each image, and it is scored on the
            whole image in overlapping tiles. Images smaller than the square are continued by their mirror image.
        batch_size: Images in a training step on each device. Scoring uses one image at a time.
        mask_threshold: In a grey mask, pixels above this value are cell; in 0..254.
        channels: Which channels of the images to use, counted from 0; at most four. By default RGB, grey as RGB.
        ignore_value: The value of mask pixels that nobody judged, or their red, green and blue; None for no such value.
            Files that mark such pixels need no setting.
        origin: Where to get the data set; the error message names it if ``root`` does not exist.
        split: How to divide the pairs; see ``SplitPlan``.
        augmentation: A callable that takes a training image and its mask, both (C, S, S), and a generator for all
            random numbers; it returns both, changed in the same way. None for no augmentation.
        seed: Seed for the order of batches and the augmentation; the split has its own seed.
        cache: Folder for decoded images; by default the user's cache folder.

    Raises:
        InputError: If a value is out of range. ``setup`` raises it if the folder cannot be used.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        groups: str | None = None,
        image_size: int = 224,
        resize: Resize = "whole",
        batch_size: int = 2,
        mask_threshold: int = 20,
        channels: Sequence[int] | None = None,
        ignore_value: int | Sequence[int] | None = None,
        origin: str | None = None,
        split: SplitPlan = SplitPlan(),
        augmentation: Augmentation | None = None,
        seed: int = 0,
        cache: str | None = None,
    ) -> None:
        super().__init__()
        check_numbers(image_size, batch_size, mask_threshold)
        if resize not in ("whole", "crop"):
            raise InputError(f"data.resize must be whole or crop, but is {resize!r}")
        if augmentation is not None and not callable(augmentation):
            raise InputError(f"augmentation is a {type(augmentation).__name__}, which is not callable")
        if root is not None and not str(root).strip():
            raise InputError("data.root is empty; set it to a folder, or remove it to use the embedded smears")
        self.root = EMBEDDED_ROOT if root is None else _expanded(root)
        self.embedded = root is None
        self.groups, self.cache = (_expanded(path) if path else None for path in (groups, cache))
        self.batch_size = batch_size
        self.image_size, self.resize = image_size, resize
        self.reading = Reading(
            mask_threshold,
            _checked(channels),
            image_size if resize == "whole" else None,
            checked_ignore_value(ignore_value, "data.ignore_value"),
        )
        self.origin = origin
        self.split, self.augmentation, self.seed = split, augmentation, seed
        self._decoded: DecodedPairs | None = None
        self._subsets: Subsets = {}
        self._leaks: list[Leak] = []
        self._plan: dict[str, Any] = {}

    def prepare_data(self) -> None:
        """Draw the embedded smears if they are used and missing."""
        if self.embedded and not self.root.exists():
            log.info("drawing %d synthetic blood smears into %s", EMBEDDED_PAIRS, self.root)
            try:
                write_synthetic(self.root, EMBEDDED_PAIRS)
            except InputError:
                if not self.root.exists():  # otherwise another run wrote them first
                    raise

    def setup(self, stage: str | None = None) -> None:
        """Find, split and decode the pairs, once; later calls do nothing."""
        if self._decoded is not None:
            return
        if self.origin and not self.root.exists():
            raise InputError(f"{self.root} does not exist; get the data set from {self.origin} or set data.root=PATH")
        scan = find_pairs(self.root, self.groups)
        pairs = scan.pairs
        if self.embedded and len(pairs) != EMBEDDED_PAIRS:
            raise InputError(
                f"{self.root} must contain the {EMBEDDED_PAIRS} embedded pairs, but contains {len(pairs)}; "
                "delete the folder, and the next run draws it again"
            )
        log.info("found %s in %s, %s", count(len(pairs), "pair"), self.root, scan.layout)
        if scan.ignored:
            log.warning("ignored %s outside of any pair, such as %s", count(len(scan.ignored), "file"), scan.ignored[0])
        path = Path(self.split.file).expanduser() if self.split.file is not None else None
        recorded = read_split(path) if path else None
        subsets = {} if recorded else self.split.divide({pair.name: pair.group for pair in pairs})
        try:
            decoded = load_pairs(pairs, self.reading, self.cache)
        except InputError as error:
            if any(str(error).startswith(str(path)) for pair in pairs for path in pair.files):
                raise InputError(f"{error}{see_all(self.root)}") from error
            raise
        if path and recorded:
            hashes = {pair.name: (f.sha256, f.mask_sha256) for pair, f in zip(pairs, decoded.facts, strict=True)}
            subsets, groups = recorded.find(hashes, path)
            decoded = replace(decoded, pairs=[replace(pair, group=groups[pair.name]) for pair in pairs])
        leaks = find_leaks(decoded.pairs, decoded.kin, subsets)
        if leaks and not self.split.allow_leaks:
            given = [
                *(["--groups", str(self.groups)] if self.groups else []),
                *check_options(replace(self.reading, image_size=None)),
            ]
            raise InputError(_leak_message(leaks, scan, self.root, given, repeated=recorded is not None))
        log.info("%s", describe_masks(decoded.facts, self.reading))
        value = self.reading.ignore_value
        if value is not None and not any(facts.ignored for facts in decoded.facts):
            log.warning("no mask has the value data.ignore_value=%s, so every pixel counts as judged", value)
        if reason := nothing_to_learn([decoded.facts[index] for index in decoded.positions(subsets["train"])]):
            raise InputError(f"{self.root}: {reason}")
        whole, exchanged = self.resize == "whole", decoded.exchanged
        for finding in look_at_pairs(decoded.pairs, decoded.facts, scan.root, exchanged=exchanged, resized=whole):
            if finding.severity == WARNING:
                log.warning("%s", finding)
        if leaks:
            log.warning("found %s between subsets; data.split.allow_leaks permits it", count(len(leaks), "leak"))
        self._decoded, self._subsets, self._leaks = decoded, subsets, leaks
        self._plan = recorded.plan if recorded else self.split.record()
        val = "" if self.has_validation else "; scores named val are those of the test images, and choose nothing"
        log.info("split: %s%s", ", ".join(f"{count} {subset}" for subset, count in self.counts.items()), val)
        if self.counts["test"] < FEW_TESTED:
            log.warning(
                "only %s: the scores say little about other images; with data.split.folds=5 "
                "data.split.fold=0,1,2,3,4 (and -m) each image is tested once",
                count(self.counts["test"], "test image"),
            )

    @property
    def decoded(self) -> DecodedPairs:
        """The decoded pairs; available after ``setup``."""
        if self._decoded is None:
            raise RuntimeError("call setup() before using the data")
        return self._decoded

    @property
    def counts(self) -> dict[str, int]:
        """Number of images in each subset."""
        return {subset: len(names) for subset, names in self._subsets.items()}

    @property
    def has_validation(self) -> bool:
        """Whether the split has a validation part."""
        return bool(self.counts.get("val"))

    def masks(self, subset: str) -> Iterator[NDArray[np.uint8]]:
        """Yield the mask of each image of a subset as it is scored, shape (1, H, W), 0 or 1."""
        for index in self.decoded.positions(self._subsets[subset]):
            yield self.decoded.masks[self.decoded.row[index]]

    def split_record(self) -> SplitRecord:
        """Return the content of ``split.json``: the plan, and name, group and content hashes of every image."""

        def entry(index: int) -> SplitEntry:
            pair, facts = self.decoded.pairs[index], self.decoded.facts[index]
            return SplitEntry(name=pair.name, group=pair.group, sha256=facts.sha256, mask_sha256=facts.mask_sha256)

        subsets = {subset: self.decoded.positions(names) for subset, names in self._subsets.items()}
        entries = {subset: [entry(index) for index in members] for subset, members in subsets.items()}
        return SplitRecord.model_validate(self._plan | entries)

    def data_record(self) -> dict[str, Any]:
        """Return the data section of ``summary.json``: root, fingerprint, typical size, and leaks that were allowed."""
        return {
            "root": str(self.root.absolute()),
            "fingerprint": self.decoded.fingerprint,
            "typical_size": (
                median(facts.width for facts in self.decoded.facts),
                median(facts.height for facts in self.decoded.facts),
            ),
            "allow_leaks": self.split.allow_leaks,
            "leaks": [f"{a} ({side}) and {b} ({other}): {relation}" for a, side, b, other, relation in self._leaks],
        }

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return shuffled, augmented batches of the training part."""
        crop = self.image_size if self.resize == "crop" else None
        dataset = CellDataset(self.decoded, self._subsets["train"], self.augmentation, self.seed, crop)
        replicas, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        return DataLoader(dataset, self.batch_size, sampler=EpochSampler(dataset, self.seed, replicas, rank))

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the validation images or, without a validation part, the test images: for curves only."""
        return self._scoring_loader("val" if self.has_validation else "test")

    def test_dataloader(self) -> list[DataLoader[dict[str, Any]]]:
        """Return one loader for the test images and, if there is a validation part, a second one for it."""
        return [self._scoring_loader(subset, objects=True) for subset in ("test", "val") if self._subsets[subset]]

    def _scoring_loader(self, subset: str, *, objects: bool = False) -> DataLoader[dict[str, Any]]:
        return DataLoader(CellDataset(self.decoded, self._subsets[subset], objects=objects))


def _expanded(path: str) -> Path:
    try:
        return Path(str(path)).expanduser()
    except RuntimeError:  # no such user: the ~ belongs to a file name
        return Path(str(path))


def _checked(channels: Sequence[int] | None) -> tuple[int, ...] | None:
    if channels is None:
        return None
    listed = isinstance(channels, Sequence) and not isinstance(channels, str)
    whole = listed and all(type(channel) is int and channel >= 0 for channel in channels)
    if whole and 1 <= len(set(channels)) == len(channels) <= MOST_CHANNELS:
        return tuple(channels)
    raise InputError(
        f"data.channels must be a list of 1 to {MOST_CHANNELS} different channels, counted from 0, such as [0,1], "
        f"but is {channels!r}"
    )


def _leak_message(leaks: Sequence[Leak], scan: Scan, root: Path, given: Sequence[str], *, repeated: bool) -> str:
    a, side, b, other, relation = leaks[0]
    more = f" ({count(len(leaks) - 1, 'more leak')})" if len(leaks) > 1 else ""
    relations = {
        "same image": "are the same image",
        "near duplicate": "are nearly the same image",
        "neighbouring tiles": "are neighbouring tiles",
    }
    if repeated:
        remedy = "data.split.file leaks: draw a new split"
    elif scan.listed and scan.grouped:
        remedy = "give both the same value in the column group of pairs.csv"
    else:
        table = unused_table(scan.root)
        command = shlex.join(["cellseg", "check", str(root), *given, "--write-groups", str(table)])
        found_there = table.name == "groups.csv" and "--groups" not in given
        remedy = f"put them into one group: {command}" + ("" if found_there else f", then set data.groups={table}")
    return (
        f"{a} and {b} {relations.get(relation, f'are in one group ({relation})')}, but {a} is in {side} and {b} in "
        f"{other}{more}; {remedy}; or set data.split.allow_leaks=true"
    )
