"""Losses on logits, averaged over images so that batch size does not change what is optimised."""

import torch
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
