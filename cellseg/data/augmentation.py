"""Changes to a training image and its mask that leave the cells what they are."""

import torch
from torch import Tensor


class Dihedral:
    """One of the eight flips and quarter turns of a square, each as likely, the same for image and mask."""

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return both (C, S, S) tensors turned alike; the generator alone decides how."""
        choice = int(torch.randint(8, (), generator=generator))
        turns, flip = choice % 4, choice >= 4
        image, mask = (torch.rot90(plane, turns, dims=(-2, -1)) for plane in (image, mask))
        return (image.flip(-1), mask.flip(-1)) if flip else (image, mask)
