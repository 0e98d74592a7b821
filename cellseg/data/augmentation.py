"""Random changes to a training image and its mask, the same for both."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cellseg.storage.errors import InputError

SEEDS = 2**32  # seeds that NumPy's generators accept; MONAI uses these generators


class Dihedral:
    """Apply one of the eight flips and quarter turns of a square, each with the same probability."""

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Turn image and mask, both (C, S, S), in the same way; all randomness comes from the generator."""
        choice = int(torch.randint(8, (), generator=generator))
        turns, flip = choice % 4, choice >= 4
        image, mask = (torch.rot90(plane, turns, dims=(-2, -1)) for plane in (image, mask))
        return (image.flip(-1), mask.flip(-1)) if flip else (image, mask)


class MonaiTransforms:
    """Apply MONAI's dictionary transforms in order, with the keys ``image`` and ``mask``.

    Args:
        transforms: MONAI's, or any callable that takes and returns a dictionary of tensors (C, S, S).

    Raises:
        InputError: If one of them is not callable.
    """

    def __init__(self, transforms: Sequence[Callable[[Mapping[str, Tensor]], Mapping[str, Any]]]) -> None:
        self.transforms = list(transforms)
        for transform in self.transforms:
            if not callable(transform):
                raise InputError(
                    f"augmentation.transforms: {transform!r} is not callable; list MONAI transforms or functions"
                )

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return image and mask after all transforms; all randomness comes from the generator."""
        sample: Mapping[str, Any] = {"image": image, "mask": mask}
        for transform in self.transforms:
            seed = int(torch.randint(SEEDS, (), generator=generator))
            if hasattr(transform, "set_random_state"):
                transform.set_random_state(seed=seed)
            sample = transform(sample)
        return _plain(sample["image"]), _plain(sample["mask"])


def augmented(
    augmentation: Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]],
    image: Tensor,
    mask: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Apply an augmentation and check its result.

    Raises:
        InputError: If it fails, changes a shape, or returns a mask with values other than 0 and 1 or an image with
            NaN or infinite values.
    """
    if isinstance(augmentation, Dihedral):  # cannot fail in these ways
        return augmentation(image, mask, generator)
    inner = getattr(augmentation, "func", augmentation)  # of a partial
    name = getattr(inner, "__name__", type(inner).__name__)
    try:
        changed, cells = augmentation(image, mask, generator)
    except Exception as error:  # the user's own code may raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"augmentation: {name} fails on an image of shape {tuple(image.shape)}: {reason}") from error
    for what, before, after in (("image", image, changed), ("mask", mask, cells)):
        if not isinstance(after, Tensor) or after.shape != before.shape:
            given = tuple(after.shape) if isinstance(after, Tensor) else type(after).__name__
            raise InputError(
                f"augmentation: {name} changes the {what} from shape {tuple(before.shape)} to {given}; keep the shape"
            )
    if not ((cells == 0) | (cells == 1)).all():
        raise InputError(
            f"augmentation: {name} returns a mask with values other than 0 and 1; resample masks with mode: nearest"
        )
    if not changed.isfinite().all():
        raise InputError(f"augmentation: {name} returns an image with NaN or infinite values; check its parameters")
    return changed.to(image.dtype), cells.to(mask.dtype)


def _plain(value: Any) -> Any:
    """Return a plain tensor, without MONAI's metadata."""
    return value.as_tensor() if hasattr(value, "as_tensor") else torch.as_tensor(value)
