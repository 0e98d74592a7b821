"""The LightningDataModule: a folder of pairs, or the embedded smears, as training, validation and test batches."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from cellseg.data.dataset import Augmentation, CellDataset, DecodedPairs, EpochSampler, decode
from cellseg.data.pairs import find_pairs
from cellseg.data.splits import SplitPlan, Subsets
from cellseg.data.synthetic import write_synthetic
from cellseg.errors import InputError

EMBEDDED_PAIRS = 50
EMBEDDED_ROOT = Path("data/synthetic-v1")  # the version changes whenever the drawing does

log = logging.getLogger(__name__)


class CellDataModule(L.LightningDataModule):
    """Cleaned pairs from ``root``, split once, decoded once.

    Args:
        root: Folder of pairs; without it the embedded synthetic smears are drawn into ``data/`` and used.
        image_size: Side in pixels to which images and masks are resized.
        batch_size: Images a training step sees on each device. Scoring always sees one at a time.
        mask_threshold: Mask pixels above it are cell; in 0..254.
        origin: Where the data set is to be had; said when ``root`` does not exist.
        split: How to divide the pairs; see ``SplitPlan``.
        augmentation: Changes training images and their masks alike, or None.
        seed: Decides the order of batches and what the augmentation draws; the split has its own.

    Raises:
        InputError: If a value is out of range; from ``setup``, if the folder cannot be used.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        image_size: int = 224,
        batch_size: int = 2,
        mask_threshold: int = 20,
        origin: str | None = None,
        split: SplitPlan = SplitPlan(),
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least, most in (
            ("image_size", image_size, 1, 2**16),
            ("batch_size", batch_size, 1, 2**16),
            ("mask_threshold", mask_threshold, 0, 254),
        ):
            if not isinstance(value, int) or not least <= value <= most:
                raise InputError(f"data.{name} must be a whole number from {least} to {most}, but is {value!r}")
        self.root = EMBEDDED_ROOT if root is None else Path(root).expanduser()
        self.embedded = root is None
        self.image_size, self.batch_size, self.mask_threshold = image_size, batch_size, mask_threshold
        self.origin = origin
        self.split, self.augmentation, self.seed = split, augmentation, seed
        self._decoded: DecodedPairs | None = None
        self._subsets: Subsets = {}

    def prepare_data(self) -> None:
        """Draw the embedded smears, where they are used and not yet there."""
        if self.embedded and not self.root.exists():
            log.info("drawing %d synthetic blood smears into %s", EMBEDDED_PAIRS, self.root)
            write_synthetic(self.root, EMBEDDED_PAIRS)

    def setup(self, stage: str | None = None) -> None:
        """Find, split and decode the pairs; every later call does nothing."""
        if self._decoded is not None:
            return
        if self.origin and not self.root.exists():
            raise InputError(f"{self.root} does not exist; get the data set from {self.origin} or set data.root=PATH")
        pairs = find_pairs(self.root)
        if self.embedded and len(pairs) != EMBEDDED_PAIRS:
            raise InputError(
                f"{self.root} should hold the {EMBEDDED_PAIRS} embedded pairs, but holds {len(pairs)}; "
                "delete it and it is drawn again"
            )
        subsets = self.split.divide({pair.name: pair.group for pair in pairs})
        decoded = decode(pairs, self.image_size, self.mask_threshold)
        _refuse_leaks(decoded, subsets)
        if not decoded.masks[decoded.rows(subsets["train"])].any():
            raise InputError(f"{self.root}: none of the training masks has a cell in it; look at the masks")
        self._decoded, self._subsets = decoded, subsets
        parts = ", ".join(f"{count} {subset}" for subset, count in self.counts.items())
        log.info("found %d pairs in %s, one folder a pair: %s", len(pairs), self.root, parts)

    @property
    def decoded(self) -> DecodedPairs:
        """The pairs themselves; there after ``setup``."""
        if self._decoded is None:
            raise RuntimeError("call setup() before using the data")
        return self._decoded

    @property
    def counts(self) -> dict[str, int]:
        """Images in each subset."""
        return {subset: len(names) for subset, names in self._subsets.items()}

    @property
    def has_validation(self) -> bool:
        """Whether validation images exist that are neither trained nor tested on."""
        return bool(self.counts.get("val"))

    def split_record(self) -> dict[str, Any]:
        """Return what ``split.json`` holds: the plan, and every image by name, group and content hash."""
        return self.split.record() | {
            subset: [self.decoded.record(name) for name in names] for subset, names in self._subsets.items()
        }

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Shuffled, augmented batches."""
        dataset = CellDataset(self.decoded, self._subsets["train"], self.augmentation, self.seed)
        replicas, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        return DataLoader(dataset, self.batch_size, sampler=EpochSampler(dataset, self.seed, replicas, rank))

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The validation images; where there are none the test images, watched but never chosen by."""
        return self._scoring_loader("val" if self.has_validation else "test")

    def test_dataloader(self) -> list[DataLoader[dict[str, Any]]]:
        """The test images and, second, the validation images where there are any."""
        return [self._scoring_loader(subset) for subset in ("test", "val") if self._subsets[subset]]

    def _scoring_loader(self, subset: str) -> DataLoader[dict[str, Any]]:
        return DataLoader(CellDataset(self.decoded, self._subsets[subset], augmentation=None, seed=self.seed))


def _refuse_leaks(decoded: DecodedPairs, subsets: Subsets) -> None:
    """Refuse a split with the same picture on two sides, whatever the files are called."""
    seen: dict[str, tuple[str, str]] = {}
    for subset, names in subsets.items():
        for name, row in zip(names, decoded.rows(names), strict=True):
            other, where = seen.setdefault(decoded.image_hashes[row], (name, subset))
            if where != subset:
                raise InputError(
                    f"{other} and {name} are the same picture, but one would be in {where} and one in {subset}; "
                    "remove one, or give both one group in groups.csv"
                )
