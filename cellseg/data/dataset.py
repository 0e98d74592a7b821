"""Samples for the network, and their order and augmentation in each epoch."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from cellseg.data.augmentation import augmented
from cellseg.data.cache import DecodedPairs
from cellseg.data.decoded import Pixels

Augmentation = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


class CellDataset(Dataset[dict[str, Any]]):
    """Return decoded pairs as samples ``{image, mask, ignored, name, group, vanished}``, and ``ids`` for object scores.

    With ``ids`` come ``width`` and ``height``, the size of the image file in pixels.

    Image and mask are float, the image in [0, 1], the mask 0 or 1. ``vanished`` is the number of objects of a mask that
    lost all its cells when it was resized, else 0. ``ignored``, bool, marks pixels that nobody judged, which are 0 in
    the mask; samples have it if any image of the data set has such pixels. ``ids``, int32 of shape (H, W), numbers the
    labelled objects if ``numbered`` is true: if the label files do.

    The index of a sample is ``(position, epoch)``. Crop and augmentation depend only on seed, epoch and image, not on
    the order of samples, the number of workers, or other runs in the same process.

    Args:
        decoded: The pairs.
        names: Names of those to return.
        augmentation: As for ``CellDataModule``.
        seed: Of crops and augmentation.
        crop: Side in pixels of a random crop of each image in each epoch; an image with a smaller side is continued
            by its mirror image. None for whole images.
        objects: Whether samples have ``ids`` and ``numbered``.
    """

    def __init__(
        self,
        decoded: DecodedPairs,
        names: Sequence[str],
        augmentation: Augmentation | None = None,
        seed: int = 0,
        crop: int | None = None,
        objects: bool = False,
    ) -> None:
        self._decoded, self._members = decoded, decoded.positions(names)
        self._augmentation, self._seed, self._crop, self._objects = augmentation, seed, crop, objects
        self._judged = not any(facts.ignored for facts in decoded.facts)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        position, epoch = key if isinstance(key, tuple) else (key, 0)
        index = self._members[position]
        row, pair = self._decoded.row[index], self._decoded.pairs[index]
        facts = self._decoded.facts[index]
        pixels, cells = self._decoded.images[row], self._decoded.masks[row]
        if facts.ignored:  # cropped and augmented as a second channel of the mask
            cells = np.concatenate([cells, self._decoded.ignored[row]])
        generator = torch.Generator().manual_seed(derived_seed(self._seed, epoch, index))
        if self._crop:
            pixels, cells = random_crop(pixels, cells, self._crop, generator)
        image, mask = torch.from_numpy(pixels) / 255, torch.from_numpy(cells).float()
        if self._augmentation:
            image, mask = augmented(self._augmentation, image, mask, generator)
        vanished = facts.objects if facts.vanishes else 0
        sample = {"image": image, "mask": mask[:1], "name": pair.name, "group": pair.group, "vanished": vanished}
        if not self._judged:
            sample["ignored"] = mask[1:] > 0 if facts.ignored else torch.zeros(mask.shape, dtype=torch.bool)
        if self._objects:
            ids = self._decoded.ids[row] if facts.numbered else np.zeros(pixels.shape[1:], np.int32)
            sample |= {"ids": torch.from_numpy(ids), "numbered": facts.numbered}
            sample |= {"width": facts.width, "height": facts.height}
        return sample


def random_crop(pixels: Pixels, cells: Pixels, side: int, generator: torch.Generator) -> tuple[Pixels, Pixels]:
    """Cut the same random square out of an image and its mask, both (C, H, W); mirror what is smaller."""
    for axis in (1, 2):
        length = pixels.shape[axis]
        start = int(torch.randint(max(0, length - side) + 1, (), generator=generator))
        window = (slice(None),) * axis + (slice(start, start + side),)
        missing = [(0, max(0, side - length) if other == axis else 0) for other in range(3)]
        pixels, cells = (np.pad(part[window], missing, mode="symmetric") for part in (pixels, cells))
    return pixels, cells


class EpochSampler(DistributedSampler[Any]):
    """Shuffle positions by seed and epoch, divide them among devices, and yield them as ``(position, epoch)``."""

    def __init__(self, dataset: CellDataset, seed: int, num_replicas: int = 1, rank: int = 0) -> None:
        # DistributedSampler shuffles by seed + epoch; hashing keeps seed 1, epoch 0 different from seed 0, epoch 1
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=derived_seed(seed) >> 16)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((position, self.epoch) for position in super().__iter__())


def derived_seed(*parts: int) -> int:
    """Hash integers into a 63-bit seed; different integers give independent seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
