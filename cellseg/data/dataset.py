"""Pairs decoded once into tensors, and the order and the random draws in which an epoch sees them."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler
from tqdm import tqdm

from cellseg.data.cleaning import content_hash, read_image, read_mask, resize_image, resize_mask
from cellseg.data.pairs import Pair
from cellseg.errors import InputError

Augmentation = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class DecodedPairs:
    """Every pair of a data set, cleaned and resized.

    Attributes:
        pairs: Where each came from, in the order of the tensors.
        images: Shape (N, 3, S, S), uint8.
        masks: Shape (N, 1, S, S), uint8, 0 or 1.
        image_hashes, mask_hashes: Content hashes of the pixels at full size, before resizing.
    """

    pairs: Sequence[Pair]
    images: Tensor
    masks: Tensor
    image_hashes: Sequence[str]
    mask_hashes: Sequence[str]

    @property
    def fingerprint(self) -> str:
        """A hash of all content, the same in whatever order or folder the pairs lie."""
        lines = sorted(f"{image} {mask}" for image, mask in zip(self.image_hashes, self.mask_hashes, strict=True))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def rows(self, names: Sequence[str]) -> list[int]:
        """Return where in the tensors the named pairs are."""
        position = {pair.name: row for row, pair in enumerate(self.pairs)}
        return [position[name] for name in names]

    def record(self, name: str) -> dict[str, str]:
        """Return what a split remembers of a pair: name, group, and the hashes it is recognised by."""
        [index] = self.rows([name])
        return {
            "name": name,
            "group": self.pairs[index].group,
            "sha256": self.image_hashes[index],
            "mask_sha256": self.mask_hashes[index],
        }


def decode(pairs: Sequence[Pair], image_size: int, mask_threshold: int) -> DecodedPairs:
    """Read, clean and resize every pair once; a bar appears where that takes more than a second.

    Raises:
        InputError: If a file cannot be used, or a mask and its image differ in size; the message names the file.
    """
    images = np.empty((len(pairs), 3, image_size, image_size), np.uint8)
    masks = np.empty((len(pairs), 1, image_size, image_size), np.uint8)
    image_hashes, mask_hashes = [], []
    for index, pair in enumerate(tqdm(pairs, desc="reading images", unit="pair", delay=1, leave=False)):
        image, mask = read_image(pair.image), read_mask(pair.mask, mask_threshold)
        if mask.shape != (image.height, image.width):
            raise InputError(
                f"{pair.mask}: the mask is {mask.shape[1]}x{mask.shape[0]} pixels, but its image {pair.image.name} is "
                f"{image.width}x{image.height}; export both at the same size"
            )
        images[index], masks[index] = resize_image(image, image_size), resize_mask(mask, image_size)
        image_hashes.append(content_hash(np.asarray(image)))
        mask_hashes.append(content_hash(mask))
    return DecodedPairs(pairs, torch.from_numpy(images), torch.from_numpy(masks), image_hashes, mask_hashes)


class CellDataset(Dataset[dict[str, Any]]):
    """Some of the decoded pairs as samples ``{image, mask, name, group}``; image in [0, 1], mask 0 or 1, both float.

    An item is asked for as ``(position, epoch)``, and what the augmentation draws is a function of seed, epoch and
    image alone: neither order, nor workers, nor other runs in the process can change it.
    """

    def __init__(
        self, decoded: DecodedPairs, names: Sequence[str], augmentation: Augmentation | None, seed: int
    ) -> None:
        self._decoded, self._rows = decoded, decoded.rows(names)
        self._augmentation, self._seed = augmentation, seed

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        position, epoch = key if isinstance(key, tuple) else (key, 0)
        row = self._rows[position]
        image, mask, pair = self._decoded.images[row] / 255, self._decoded.masks[row].float(), self._decoded.pairs[row]
        if self._augmentation:
            generator = torch.Generator().manual_seed(derived_seed(self._seed, epoch, row))
            image, mask = self._augmentation(image, mask, generator)
        return {"image": image, "mask": mask, "name": pair.name, "group": pair.group}


class EpochSampler(DistributedSampler[Any]):
    """Every position once an epoch, as ``(position, epoch)``, ordered by seed and epoch, shared out over devices."""

    def __init__(self, dataset: CellDataset, seed: int, num_replicas: int = 1, rank: int = 0) -> None:
        # DistributedSampler shuffles by seed + epoch: hashed seeds keep seed 1, epoch 0 apart from seed 0, epoch 1
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=derived_seed(seed) >> 16)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((position, self.epoch) for position in super().__iter__())


def derived_seed(*parts: int) -> int:
    """Return a 63-bit seed that any change to the parts makes unrelated."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
