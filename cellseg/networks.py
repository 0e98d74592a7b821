"""One U-Net with parameters; UNet, PotiNet and XopiNet are three settings of it."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import gcd
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellseg.storage.errors import InputError, count

Norm = Literal["batch", "group", "instance"]
Skip = bool | Literal["zero"]


class InstanceNorm(nn.InstanceNorm2d):
    """Instance norm as fast as batch norm on a CPU: torch's own converts the memory layout of every feature map."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalise each channel of each image, shape (N, C, H, W), by its own mean and variance."""
        if torch.compiler.is_exporting():  # an exported network must not depend on the number of images
            return super().forward(features)
        # the batch norm of one image is its instance norm
        images = [
            F.batch_norm(image, None, None, self.weight, self.bias, training=True, eps=self.eps)
            for image in features.split(1)
        ]
        return images[0] if len(images) == 1 else torch.cat(images)


GROUP = 8  # channels of a group
NORMS: dict[Norm, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda features: nn.GroupNorm(gcd(features, max(1, features // GROUP)), features),
    "instance": lambda features: InstanceNorm(features, affine=True),
}
DEEPEST = 16  # maximum number of poolings: the largest image side, 65,536 pixels, then has one pixel left


class UNet(nn.Module):
    """Maps an image (N, in_channels, H, W) to logits of binary masks (N, out_channels, H, W).

    The default arguments give the published UNet. Submodule names follow mateuszbuda/brain-segmentation-pytorch, so
    weights of that repository or of the original study load with ``strict=True``.

    Args:
        in_channels: Number of image channels; 3 for RGB.
        out_channels: Number of masks that the network predicts.
        init_features: Number of features at full resolution; it doubles at every level.
        depth: Number of 2x poolings, at most 16. H and W must be multiples of ``2**depth``.
        skip: Whether the decoder receives the encoder features of its resolution; "zero" for zeros in their place, so
            that the network has as many parameters as with them. A list has a value for each level, the first for full
            resolution.
        norm: Normalisation after each convolution: "batch", as published; "group" with 8 channels in each group; or
            "instance". The last two treat each image by itself, so they do not depend on the size of a batch.

    Raises:
        InputError: From the constructor, if a number is not whole or below 1, ``depth`` is above 16, ``norm`` is
            unknown, or ``skip`` does not fit the levels; from ``forward``, if the number of image channels is wrong,
            or H or W is no multiple of ``2**depth``.

    Reference: Ronneberger et al., 2015, https://arxiv.org/abs/1505.04597
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        init_features: int = 32,
        *,
        depth: int = 4,
        skip: Skip | Sequence[Skip] = True,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        sizes = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "init_features": init_features,
            "depth": depth,
        }
        for name, value in sizes.items():
            if not isinstance(value, int):
                raise InputError(f"model.{name} must be a whole number, but is {value!r}")
            if value < 1:
                raise InputError(f"model.{name} must be at least 1, but is {value}")
        if depth > DEEPEST:
            raise InputError(f"model.depth must be at most {DEEPEST}, but is {depth}")
        if norm not in NORMS:
            raise InputError(f"model.norm must be {', '.join(list(NORMS)[:-1])} or {list(NORMS)[-1]}, but is {norm}")
        self.in_channels, self.depth, self.norm = in_channels, depth, norm
        self.skips = _each_level(skip, depth)
        widths = [init_features * 2**level for level in range(depth + 1)]  # the last one is the bottleneck
        channels = in_channels
        for level, width in enumerate(widths[:-1], start=1):  # level 1 is full resolution
            self.add_module(f"encoder{level}", _block(channels, width, f"enc{level}", norm))
            channels = width
        self.bottleneck = _block(channels, widths[-1], "bottleneck", norm)
        for level in range(depth, 0, -1):
            below, width = widths[level], widths[level - 1]
            self.add_module(f"upconv{level}", nn.ConvTranspose2d(below, width, kernel_size=2, stride=2))
            self.add_module(
                f"decoder{level}", _block(2 * width if self.skips[level - 1] else width, width, f"dec{level}", norm)
            )
        self.conv = nn.Conv2d(init_features, out_channels, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """Compute logits; the loss, the metrics and prediction apply the sigmoid."""
        if image.ndim != 4 or not image.is_floating_point():
            raise InputError(
                "a network takes floating-point images of shape (N, C, H, W) in [0, 1], but the tensor is "
                f"{image.dtype} of shape {tuple(image.shape)}"
            )
        channels, height, width = image.shape[-3:]
        if channels != self.in_channels:
            raise InputError(f"model.in_channels is {self.in_channels}, but the image has {count(channels, 'channel')}")
        step = 2**self.depth
        if height % step or width % step:
            fitting = "x".join(str(-(-side // step) * step) for side in (height, width))
            raise InputError(
                f"a network of depth {self.depth} needs image sides that are multiples of {step}, "
                f"but the image is {height}x{width}; resize or pad it to {fitting}"
            )
        # in training only: an exported network must not depend on the number of images
        lone = self.training and (self.norm == "instance" or (self.norm == "batch" and len(image) == 1))
        if lone and height == width == step:
            raise InputError(
                f"{self.norm} norm needs several values per channel, but an image of {height}x{width} leaves one at "
                f"depth {self.depth}; train on images of {2 * step}x{2 * step} or more"
            )
        x, features = image, []
        for level in range(1, self.depth + 1):
            x = self.get_submodule(f"encoder{level}")(x)
            features.append(x)
            x = F.max_pool2d(x, kernel_size=2)
        x = self.bottleneck(x)
        for level in range(self.depth, 0, -1):
            x = self.get_submodule(f"upconv{level}")(x)
            if skip := self.skips[level - 1]:
                shared = features[level - 1]
                x = torch.cat((x, torch.zeros_like(shared) if skip == "zero" else shared), dim=1)
            x = self.get_submodule(f"decoder{level}")(x)
        return self.conv(x)

    @property
    def name(self) -> str:
        """The name of this combination of depth and skip, such as PotiNet."""
        known: dict[tuple[Skip, ...], str] = {(True,) * 4: "UNet", (False,) * 4: "PotiNet", (True,) * 5: "XopiNet"}
        skip = self.skips[0] if len(set(self.skips)) == 1 else list(self.skips)
        return known.get(self.skips, f"UNet(depth={self.depth}, skip={skip})")


def _each_level(skip: Skip | Sequence[Skip], depth: int) -> tuple[Skip, ...]:
    """Return what each level from full resolution down receives."""
    alone = isinstance(skip, str) or not isinstance(skip, Sequence)
    skips: tuple[Skip, ...] = (skip,) * depth if alone else tuple(skip)  # type: ignore[arg-type, assignment]
    if len(skips) != depth or any(one is not True and one is not False and one != "zero" for one in skips):
        raise InputError(
            f"model.skip must be true, false or zero, or a list of {depth} of these, one for each level from full "
            f"resolution down, but is {skip}"
        )
    return skips


def PotiNet(in_channels: int = 3, out_channels: int = 1, init_features: int = 32) -> UNet:  # noqa: N802 (a network's name)
    """Build a U-Net without skip connections: the decoder receives only the bottleneck."""
    return UNet(in_channels, out_channels, init_features, skip=False)


def XopiNet(in_channels: int = 3, out_channels: int = 1, init_features: int = 32) -> UNet:  # noqa: N802 (a network's name)
    """Build a U-Net with five poolings; image sides must be multiples of 32."""
    return UNet(in_channels, out_channels, init_features, depth=5)


def _block(in_channels: int, features: int, name: str, norm: Norm) -> nn.Sequential:
    """Build two layers of conv 3x3, normalisation and ReLU with the published submodule names."""
    layers: list[tuple[str, nn.Module]] = []
    for index, channels in ((1, in_channels), (2, features)):
        layers += [
            (f"{name}conv{index}", nn.Conv2d(channels, features, kernel_size=3, padding=1, bias=False)),
            (f"{name}norm{index}", NORMS[norm](features)),
            (f"{name}relu{index}", nn.ReLU(inplace=True)),
        ]
    return nn.Sequential(OrderedDict(layers))
