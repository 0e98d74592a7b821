"""Changes to a training image and its mask that leave the cells what they are."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cellseg.storage.errors import InputError

MOST = 2**32  # seeds of NumPy's generators, which MONAI uses


class Dihedral:
    """One of the eight flips and quarter turns of a square, each as likely, the same for image and mask."""

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return both (C, S, S) tensors turned alike; the generator alone decides how."""
        choice = int(torch.randint(8, (), generator=generator))
        turns, flip = choice % 4, choice >= 4
        image, mask = (torch.rot90(plane, turns, dims=(-2, -1)) for plane in (image, mask))
        return (image.flip(-1), mask.flip(-1)) if flip else (image, mask)


class MonaiTransforms:
    """MONAI's dictionary transforms, one after the other, for the keys ``image`` and ``mask``.

    Args:
        transforms: Of MONAI, or others that take and return a dictionary of tensors (C, S, S).

    Raises:
        InputError: If one cannot be called.
    """

    def __init__(self, transforms: Sequence[Callable[[Mapping[str, Tensor]], Mapping[str, Any]]]) -> None:
        self.transforms = list(transforms)
        for transform in self.transforms:
            if not callable(transform):
                raise InputError(f"augmentation.transforms: {transform!r} is no transform")

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return both after all transforms; the generator alone decides what they draw."""
        sample: Mapping[str, Any] = {"image": image, "mask": mask}
        for transform in self.transforms:
            seed = int(torch.randint(MOST, (), generator=generator))
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
    """Return an image and its mask as an augmentation changes them.

    Raises:
        InputError: If it fails, changes their shape, gives a mask that is not 0 and 1 or an image that is not finite.
    """
    if isinstance(augmentation, Dihedral):  # does none of that
        return augmentation(image, mask, generator)
    name = type(augmentation).__name__
    try:
        changed, cells = augmentation(image, mask, generator)
    except Exception as error:  # a user's own may fail in any way
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"augmentation: {name} fails on an image {tuple(image.shape)}: {said}") from error
    for what, before, after in (("image", image, changed), ("mask", mask, cells)):
        if not isinstance(after, Tensor) or after.shape != before.shape:
            given = tuple(after.shape) if isinstance(after, Tensor) else type(after).__name__
            raise InputError(
                f"augmentation: {name} turns the {what} {tuple(before.shape)} into {given}; keep its shape"
            )
    if not ((cells == 0) | (cells == 1)).all():
        raise InputError(f"augmentation: {name} gives a mask that is not 0 and 1; resample masks with mode: nearest")
    if not changed.isfinite().all():
        raise InputError(f"augmentation: {name} gives an image with values that are no numbers")
    return changed.to(image.dtype), cells.to(mask.dtype)


def _plain(value: Any) -> Any:
    """Return a tensor without what MONAI keeps with it."""
    return value.as_tensor() if hasattr(value, "as_tensor") else torch.as_tensor(value)
