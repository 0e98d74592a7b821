"""A network and a loss of one's own: any nn.Module will do that turns images into one logit a pixel."""

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


class FocalLoss(nn.Module):
    """Cross-entropy in which pixels that are sure already count less.

    Args:
        gamma: How much less; 0 is cross-entropy.

    Source: Lin et al., 2017, https://arxiv.org/abs/1708.02002
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean over all pixels of all images."""
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return ((1 - torch.exp(-entropy)) ** self.gamma * entropy).mean()
