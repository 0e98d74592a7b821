"""Random changes to a training image and its mask, the same for both."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cellseg.storage.errors import InputError

SEEDS = 2**32  # seeds that NumPy's generators accept; MONAI uses these generators


class Dihedral:
    """Apply one of the eight flips and quarter turns of a square, each with the same probability.

    Args:
        empty: Share of images, in [0, 1], that a drawn field without cells replaces: the median background of the
            image under uneven light and noise. A network that normalises each image by itself (instance norm) else
            never learns what no cell looks like, and finds cells in noise. An image without background is kept.

    Raises:
        InputError: If ``empty`` is outside [0, 1].
    """

    def __init__(self, *, empty: float = 0.0) -> None:
        self.empty = empty
        _check_limits(vars(self), shares=("empty",))

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Turn image and mask, both (C, S, S), in the same way; all randomness comes from the generator."""
        choice = int(torch.randint(8, (), generator=generator))
        turns, flip = choice % 4, choice >= 4
        image, mask = (torch.rot90(plane, turns, dims=(-2, -1)) for plane in (image, mask))
        image, mask = (image.flip(-1), mask.flip(-1)) if flip else (image, mask)
        if self.empty and float(torch.rand((), generator=generator)) < self.empty:
            return _empty_field(image, mask, generator)
        return image, mask


class StrongAugmentation:
    """Flip and turn an image, and in part of the cases deform it and change its brightness, colour and sharpness.

    Deformation joins scaling, rotation and elastic bending in one resampling: bilinear for the image, nearest neighbour
    for the mask, mirrored beyond the border. Strengths are drawn evenly up to the given limits.

    Args:
        deform: Share of images that are deformed, in [0, 1].
        scale: Largest factor of enlargement minus 1; as much smaller is as likely.
        rotate: Largest rotation in degrees, in both directions.
        bend: Standard deviation of the displacement of 5x5 points, as a share of half the side.
        recolour: Share of images whose brightness, contrast, gamma and colour change, in [0, 1].
        brightness: Largest change of brightness, in standard deviations of the image.
        contrast: Largest change of the logarithm of the contrast.
        gamma: Largest change of the logarithm of gamma.
        tint: Largest change of the logarithm of each channel's intensity, as between two stains; grey stays grey.
        blur: Share of images that are blurred by a Gaussian of 1 pixel, in [0, 1].
        empty: Share of images that a drawn field without cells replaces, as in ``Dihedral``.

    Raises:
        InputError: If a share is outside [0, 1] or another limit is below 0.
    """

    def __init__(
        self,
        *,
        deform: float = 0.5,
        scale: float = 0.25,
        rotate: float = 45.0,
        bend: float = 0.03,
        recolour: float = 0.5,
        brightness: float = 0.5,
        contrast: float = 0.25,
        gamma: float = 0.3,
        tint: float = 0.1,
        blur: float = 0.1,
        empty: float = 0.0,
    ) -> None:
        self.deform, self.scale, self.rotate, self.bend = deform, scale, rotate, bend
        self.recolour, self.brightness, self.contrast, self.gamma = recolour, brightness, contrast, gamma
        self.tint, self.blur = tint, blur
        _check_limits(vars(self), shares=("deform", "recolour", "blur"))
        self._flips = Dihedral(empty=empty)

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Change image and mask, both (C, S, S); all randomness comes from the generator."""
        image, mask = self._flips(image, mask, generator)
        # every number is drawn, used or not, so that no setting shifts the numbers of the others
        chance = torch.rand(3, generator=generator)
        theta, field = self._deformation(generator)
        shift = (2 * torch.rand(3 + len(image), generator=generator) - 1).double()
        if chance[0] < self.deform:
            size = image.shape[-2:]
            grid = F.affine_grid(theta[None], [1, 1, *size], align_corners=False)
            grid = grid + F.interpolate(field, size, mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
            image, mask = _resampled(image, grid, "bilinear").clamp(0, 1), _resampled(mask, grid, "nearest")
        if chance[1] < self.recolour:
            (brightness, contrast, gamma), mean, spread = shift[:3].tolist(), image.mean(), image.std()
            image = (image - mean) * math.exp(contrast * self.contrast) + mean + brightness * self.brightness * spread
            if not (image == image[:1]).all():
                image = image * torch.exp(self.tint * shift[3:, None, None]).to(image.dtype)
            image = image.clamp(0, 1) ** math.exp(gamma * self.gamma)
        if chance[2] < self.blur:
            row = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / 2)
            kernel = (row[:, None] * row / row.sum() ** 2).expand(len(image), 1, 5, 5)
            image = F.conv2d(F.pad(image[None], (2, 2, 2, 2), mode="replicate"), kernel, groups=len(image))[0].clamp(
                0, 1
            )
        return image, mask

    def _deformation(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw an affine map (2, 3), as ``affine_grid`` takes it, and the displacement (1, 2, 5, 5) of points."""
        size, turn, *move = (2 * torch.rand(4, generator=generator) - 1).tolist()
        field = self.bend * torch.randn(1, 2, 5, 5, generator=generator)
        larger, angle = (1 + self.scale) ** size, math.radians(self.rotate * turn)
        cos, sin = math.cos(angle) / larger, math.sin(angle) / larger
        room = max(0.0, 1 - 1 / larger)  # an enlarged image is seen in part, anywhere
        return torch.tensor([[cos, -sin, room * move[0]], [sin, cos, room * move[1]]]), field


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


def _check_limits(limits: Mapping[str, float], shares: Collection[str]) -> None:
    for name, value in limits.items():
        most = 1.0 if name in shares else math.inf
        if not 0 <= value <= most:
            allowed = "in [0, 1]" if most == 1 else "at least 0"
            raise InputError(f"augmentation.{name} must be {allowed}, but is {value}")


def _empty_field(image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a field without cells in place of an image: its median background, light that varies, and noise."""
    background = (mask == 0).all(dim=0)
    if not background.any():
        return image, mask
    uneven, loud, grey, coarse = torch.rand(4, generator=generator).tolist()
    light = F.interpolate(
        torch.randn(1, 1, 3, 3, generator=generator), image.shape[-2:], mode="bicubic", align_corners=False
    )[0]
    noise = torch.randn(image.shape, generator=generator)
    if grey < 0.5:  # the same in all channels
        noise = noise[:1].expand_as(noise)
    if coarse < 0.5:  # of neighbouring pixels
        noise = 2 * F.avg_pool2d(noise, kernel_size=3, stride=1, padding=1)
    level = image[:, background].median(dim=1).values[:, None, None]
    return (level * (1 + 0.1 * uneven * light) + 0.03 * loud**2 * noise).clamp(0, 1), torch.zeros_like(mask)


def _resampled(plane: Tensor, grid: Tensor, mode: str) -> Tensor:
    return F.grid_sample(plane[None], grid, mode=mode, padding_mode="reflection", align_corners=False)[0]


def _plain(value: Any) -> Any:
    """Return a plain tensor, without MONAI's metadata."""
    return value.as_tensor() if hasattr(value, "as_tensor") else torch.as_tensor(value)
