"""Parts of one's own: a network, a loss, a score and an augmentation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Hourglass(nn.Module):
    """Four convolutions at a quarter of the resolution, without batch norm.

    Args:
        in_channels: Of the images (N, C, H, W) in [0, 1]; H and W must be multiples of 4.
        width: Features.
    """

    def __init__(self, in_channels: int = 3, width: int = 32) -> None:
        super().__init__()
        self.down = nn.Conv2d(in_channels, width, kernel_size=4, stride=4)
        self.inside = nn.ModuleList(nn.Conv2d(width, width, kernel_size=3, padding=1) for _ in range(4))
        self.up = nn.ConvTranspose2d(width, 1, kernel_size=4, stride=4)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, 1, H, W)."""
        x = self.down(image)
        for convolution in self.inside:
            x = x + convolution(F.relu(x))
        return self.up(x)


class TverskyLoss(nn.Module):
    """One minus the Tversky index: Dice in which missed cells may count more than false ones.

    Args:
        missed: Weight of missed pixels, in [0, 1]; that of false ones is 1 - missed. 0.5 is Dice.

    Source: Salehi et al., 2017, https://arxiv.org/abs/1706.05721
    """

    def __init__(self, missed: float = 0.7) -> None:
        super().__init__()
        self.missed = missed

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean over images."""
        p, t = logits.float().sigmoid().flatten(1), target.flatten(1)
        right, missed, false = (p * t).sum(1), ((1 - p) * t).sum(1), (p * (1 - t)).sum(1)
        return (1 - (right + 1e-6) / (right + self.missed * missed + (1 - self.missed) * false + 1e-6)).mean()


class Sensitivity:
    """Share of the pixels of cells that are found. A metric of torchmetrics is added in the same way."""

    higher_is_better = True

    def __call__(self, probability: Tensor, mask: Tensor) -> Tensor:
        """Return it for one image: probabilities and mask of shape (1, 1, H, W); NaN where there is no cell."""
        return ((probability > 0.5) & (mask > 0)).sum() / mask.sum()


def darker_or_brighter(image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Change the brightness of a training image by up to a fifth; ``generator`` alone decides by how much."""
    factor = 0.8 + 0.4 * torch.rand((), generator=generator)
    return (image * factor).clamp(0, 1), mask
