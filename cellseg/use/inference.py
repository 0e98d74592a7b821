"""Compute the probability of cell for each pixel of an image of any size.

A network predicts the whole image, resized to the training size, or overlapping tiles at native scale. Both yield the
result in bands of rows from the top, to limit memory.
"""

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cellseg.data.decoded import Pixels
from cellseg.data.images import resize_image, resize_to
from cellseg.run.folder import NetworkFacts
from cellseg.run.hardware import keep_freed_memory, native_precision
from cellseg.run.tiles import Floats, Tiles, at_once, batches
from cellseg.storage.errors import InputError

MOST_PIXELS = 2**30  # of one image that a network sees
BAND = 1024  # rows enlarged at once
MARGIN = 32  # minimum pixels by which a picture is continued
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Predictor:
    """Predicts with one network, or with the mean probability of several, as they were tested.

    Args:
        networks: From images (N, C, H, W) in [0, 1] to logits (N, 1, H, W).
        image_size: Side in pixels of the square they were trained on.
        facts: What they ask of image sides; tiles keep to it.
        precision: Lightning's name of what they were tested in; float32 where the device does not compute it natively.
        tiles: Whether to see pictures in tiles at native scale instead of whole.
        zoom: Pixels that the networks see for each pixel of a picture, horizontally and vertically; pictures are then
            resized by it and seen in tiles.
        turned: Whether to average over the eight flips and quarter turns.
        border: Whether to continue each picture by its mirror image. A network trained on masks without the cells that
            the border cuts leaves them out, and knows the border by the zeros that convolutions see beyond it.
        device: Where to compute; by default an accelerator, where there is one.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        image_size: int,
        *,
        facts: NetworkFacts,
        precision: str = "32-true",
        tiles: bool = False,
        zoom: tuple[float, float] | None = None,
        turned: bool = False,
        border: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        keep_freed_memory()
        native = native_precision("cpu" if self.device.type == "cpu" else "auto")
        possible = {native, "16-mixed"} if self.device.type == "cuda" else {native}
        self.precision = precision if precision in possible else "32-true"
        self.image_size, self.facts, self.step = image_size, facts, facts.side_multiple
        self.tiles, self.zoom, self.turned = tiles or zoom is not None, zoom, turned
        if border and facts.side_fixed:
            raise InputError(
                f"this network accepts only images of {image_size}x{image_size}, so they cannot be continued beyond "
                "their border; leave out --border"
            )
        self.margin = -(-MARGIN // self.step) * self.step if border else 0
        layout = torch.contiguous_format if self.device.type == "mps" else torch.channels_last  # as in training
        self.networks = [_copied(network).to(self.device, memory_format=layout).eval() for network in networks]  # type: ignore[call-overload]  # torch leaves it out

    @property
    def in_words(self) -> str:
        """How pictures are seen."""
        how = "in tiles at native scale" if self.tiles else f"whole, resized to {self.image_size}x{self.image_size}"
        if self.zoom:
            how = f"in tiles, resized to {self.zoom[0]:.0%} of their width and {self.zoom[1]:.0%} of their height"
        return f"seen {how}{', in 8 flips and turns' if self.turned else ''}{self._continued}"

    @property
    def _continued(self) -> str:
        return f", continued by {self.margin} mirrored pixels beyond the border" if self.margin else ""

    def probability(self, pixels: Pixels) -> Floats:
        """Return the probability of cell for every pixel of a picture (H, W, C), shape (H, W), in [0, 1]."""
        return np.concatenate([band for bands in self.bands([pixels]) for band in bands])

    @property
    def at_once(self) -> int:
        """Pictures that a network sees at once where it sees them whole."""
        return at_once(self.image_size, self.device)

    def bands(self, pictures: Sequence[Pixels]) -> Iterator[Iterator[Floats]]:
        """Yield, picture by picture (H, W, C), its bands of rows from the top, each of shape (rows, W)."""
        if self.zoom:
            yield from (self._zoomed(picture, *self.zoom) for picture in pictures)
            return
        if self.tiles:
            yield from (self._native(picture) for picture in pictures)
            return
        for some in batches(pictures, self.at_once):
            small = torch.from_numpy(np.stack([resize_image(picture, self.image_size) for picture in some]))
            for picture, seen in zip(some, self._see_wide(small / 255), strict=True):
                yield _enlarged(seen[0].numpy(), picture.shape[1], picture.shape[0])

    def pixels_per_side(self, picture: Pixels) -> float:
        """Return how many pixels of a picture, along a side, are one pixel that the network sees."""
        if self.zoom:
            return 1 / math.sqrt(math.prod(self.zoom))
        return 1.0 if self.tiles else math.sqrt(picture.shape[0] * picture.shape[1]) / self.image_size

    def _zoomed(self, picture: Pixels, across: float, down: float) -> Iterator[Floats]:
        """Yield the bands of a picture that is resized and seen in tiles."""
        height, width = picture.shape[:2]
        size = max(1, round(width * across)), max(1, round(height * down))
        if math.prod(size) > MOST_PIXELS:
            raise InputError(
                f"an image of {width}x{height} pixels would have {size[0]}x{size[1]} at this --scale, more than "
                f"{MOST_PIXELS:,} pixels; give a smaller factor"
            )
        seen = np.concatenate(list(self._native(resize_to(picture, size))))
        yield from _enlarged(seen, width, height)

    def _native(self, picture: Pixels) -> Iterator[Floats]:
        """Yield the bands of a picture seen in tiles."""
        cover, margin, height = Tiles(self.facts, self.image_size), self.margin, len(picture)
        wide = np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric") if margin else picture
        top = -margin
        for band in cover.bands(wide, self.see, self.device):
            inside = band[max(0, -top) : max(0, height - top), margin : band.shape[1] - margin]
            top += len(band)
            if len(inside):
                yield inside

    def _see_wide(self, images: Tensor) -> Tensor:
        """Return what ``see`` does, of images continued by their mirror image if that is wanted."""
        margin = self.margin
        if not margin:
            return self.see(images)
        beyond = ((0, 0), (0, 0), (margin, margin), (margin, margin))
        seen = self.see(torch.from_numpy(np.pad(images.numpy(), beyond, mode="symmetric")))
        return seen[..., margin:-margin, margin:-margin]

    def see_sample(self, image: Tensor) -> Tensor:
        """Return the probabilities (1, 1, H, W) of a sample's image (C, H, W), which is resized where that is usual."""
        if not self.tiles:
            return self._see_wide(image[None])
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        return torch.from_numpy(self.probability(pixels))[None, None]

    def see(self, images: Tensor) -> Tensor:
        """Return probabilities (N, 1, S, S) of square images (N, C, S, S), averaged over networks and turns."""
        if not self.turned:
            return self._ask(images)
        total = torch.zeros(len(images), 1, *images.shape[2:])
        for flipped in (False, True):
            for turns in range(4):
                view = torch.rot90(images.flip(3) if flipped else images, turns, (2, 3))
                back = torch.rot90(self._ask(view), -turns, (2, 3))
                total += back.flip(3) if flipped else back
        return total / 8

    def _ask(self, images: Tensor) -> Tensor:
        kind = AUTOCAST.get(self.precision)
        with torch.inference_mode(), torch.autocast(self.device.type, kind, enabled=kind is not None):
            images = images.to(self.device)
            answers = [network(images).float().sigmoid() for network in self.networks]
        return torch.stack(answers).mean(0).cpu() if len(answers) > 1 else answers[0].cpu()


def _copied(network: nn.Module) -> nn.Module:
    try:
        return deepcopy(network)
    except RuntimeError:  # weights computed from others, as by weight_norm, cannot be copied
        return network


def _enlarged(small: Floats, width: int, height: int) -> Iterator[Floats]:
    """Resize what the network saw to the size of the picture, bilinear, band by band."""
    picture, scale = Image.fromarray(small), len(small) / height
    for top in range(0, height, BAND):
        bottom = min(top + BAND, height)
        box = (0, top * scale, small.shape[1], bottom * scale)
        yield np.asarray(picture.resize((width, bottom - top), Image.Resampling.BILINEAR, box)).clip(0, 1)
