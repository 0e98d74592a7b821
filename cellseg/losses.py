"""Losses on logits, averaged over images so that batch size does not change what is optimised."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellseg.storage.errors import InputError


def soft_dice(probability: Tensor, target: Tensor) -> Tensor:
    """Dice of unthresholded probabilities, one value per image, in [0, 1].

    Args:
        probability: Shape (N, ...), in [0, 1].
        target: Same shape, 0 or 1.

    Returns:
        Shape (N,): ``2 * sum(p * t) / (sum(p) + sum(t))``, with no smoothing term; 1 where both sums are 0.

    Raises:
        InputError: If the shapes differ.
    """
    if probability.shape != target.shape:
        raise InputError(
            f"prediction and target must have one shape, but are {tuple(probability.shape)} and {tuple(target.shape)}; "
            "for masks of one class set model.out_channels=1"
        )
    p, t = probability.flatten(1).float(), target.flatten(1).float()
    overlap, total = 2 * (p * t).sum(1), p.sum(1) + t.sum(1)
    empty = total == 0  # not "total <= 0": a diverged network must come out as NaN, never as perfect
    return torch.where(empty, 1.0, overlap / torch.where(empty, 1.0, total))


class DiceLoss(nn.Module):
    """One minus soft Dice of the sigmoid of the logits, per image, then the mean over the batch.

    Takes logits and a 0/1 target of shape (N, 1, H, W); returns a scalar in [0, 1]. An image without any cell has
    loss 1 and gradient 0 whatever is predicted in it: there is nothing in it that this loss, the original study's,
    could teach.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss; computed in float32 whatever precision the network ran in."""
        return 1 - soft_dice(logits.float().sigmoid(), target).mean()


class DiceBCELoss(nn.Module):
    """Dice loss plus binary cross-entropy: unlike Dice alone it teaches something on images without cells.

    Takes logits and a 0/1 target of shape (N, 1, H, W); returns a scalar from 0.

    Args:
        weight: Of the cross-entropy, a mean over all pixels; the Dice loss counts 1.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight, self.dice = weight, DiceLoss()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss; computed in float32 whatever precision the network ran in."""
        entropy = F.binary_cross_entropy_with_logits(logits.float(), target.float())
        return self.dice(logits, target) + self.weight * entropy


class FocalLoss(nn.Module):
    """Cross-entropy in which pixels that are right and sure already count less.

    Takes logits and a 0/1 target of shape (N, 1, H, W); returns a scalar from 0, the mean over all pixels.

    Args:
        gamma: How much less they count; 0 is cross-entropy.
        alpha: Weight of cell, in [0, 1]; that of background is 1 - alpha. The paper takes 0.25 for rare objects.

    Source: Lin et al., 2017, https://arxiv.org/abs/1708.02002
    """

    def __init__(self, gamma: float = 2.0, alpha: float = 0.5) -> None:
        super().__init__()
        if gamma < 0 or not 0 <= alpha <= 1:
            raise InputError(f"loss.gamma must be 0 or more and loss.alpha in [0, 1], but are {gamma} and {alpha}")
        self.gamma, self.alpha = gamma, alpha

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss; computed in float32 whatever precision the network ran in."""
        logits, target = logits.float(), target.float()
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        weight = self.alpha * target + (1 - self.alpha) * (1 - target)
        return (weight * (1 - torch.exp(-entropy)) ** self.gamma * entropy).mean()
