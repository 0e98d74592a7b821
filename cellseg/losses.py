"""Losses on logits, averaged over images, so that the batch size does not change the objective."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellseg.storage.errors import InputError

SURE = -30.0  # a logit of background


def without_ignored(logits: Tensor, target: Tensor, ignored: Tensor | None) -> tuple[Tensor, Tensor]:
    """Replace logits and target of pixels that nobody judged by sure background, so that any loss learns nothing there.

    A loss then has a constant part for these pixels: about 0 for the losses here, which averages over all pixels
    dilute a little.

    Args:
        logits: Shape (N, 1, H, W).
        target: Same shape, 0 or 1.
        ignored: Same shape, true where nobody judged; None if every pixel was judged.

    Returns:
        Both; no gradient flows through the replaced logits.
    """
    if ignored is None:
        return logits, target
    return logits.masked_fill(ignored, SURE), target.masked_fill(ignored, 0)


def soft_dice(probability: Tensor, target: Tensor) -> Tensor:
    """Compute the Dice of unthresholded probabilities, one value in [0, 1] per image.

    Args:
        probability: Shape (N, ...), in [0, 1].
        target: Same shape, 0 or 1.

    Returns:
        Shape (N,): ``2 * sum(p * t) / (sum(p) + sum(t))`` without a smoothing term; 1 where both sums are 0.

    Raises:
        InputError: If the shapes differ, or a target on the CPU is not between 0 and 1.
    """
    _check(probability, target)
    p, t = probability.flatten(1).float(), target.flatten(1).float()
    overlap, total = 2 * (p * t).sum(1), p.sum(1) + t.sum(1)
    empty = total == 0  # NaN stays NaN, so a diverged network never gets a perfect score
    return torch.where(empty, 1.0, overlap / torch.where(empty, 1.0, total))


def _check(prediction: Tensor, target: Tensor) -> None:
    """Refuse targets that do not fit; values on a GPU are not looked at, because it would have to wait in each step."""
    if prediction.shape != target.shape:
        several = prediction.ndim == target.ndim == 4 and prediction.shape[1] > target.shape[1]
        raise InputError(
            f"prediction and target must have the same shape, but have {tuple(prediction.shape)} and "
            f"{tuple(target.shape)}" + "; for masks of one class set model.out_channels=1" * several
        )
    if target.is_cpu and target.numel() and not 0 <= target.min() <= target.max() <= 1:
        raise InputError(
            f"the target must be between 0 and 1, but goes from {target.min().item():g} to {target.max().item():g}; "
            "for a mask of 0 and 255 pass mask > 0"
        )


class DiceLoss(nn.Module):
    """One minus the soft Dice of each image, averaged over the batch; the loss of the original study.

    Takes logits and a 0/1 target of shape (N, 1, H, W); returns a scalar in [0, 1]. An image without cells has loss 1
    and gradient 0 for every prediction, so the network learns nothing from it.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss in float32, whatever the precision of the logits."""
        return 1 - soft_dice(logits.float().sigmoid(), target).mean()


class DiceBCELoss(nn.Module):
    """Dice loss plus binary cross-entropy: unlike the Dice loss alone, it also learns from images without cells.

    Takes logits and a 0/1 target of shape (N, 1, H, W); returns a scalar of at least 0.

    Args:
        weight: Factor of the cross-entropy, which is a mean over all pixels; the Dice loss has the factor 1.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight, self.dice = weight, DiceLoss()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss in float32, whatever the precision of the logits."""
        dice = self.dice(logits, target)  # first: it refuses targets that do not fit
        return dice + self.weight * F.binary_cross_entropy_with_logits(logits.float(), target.float())


class FocalLoss(nn.Module):
    """Cross-entropy with a smaller weight for pixels that the network already predicts well.

    Takes logits and a 0/1 target of shape (N, 1, H, W); returns the mean over all pixels, a scalar of at least 0.

    Args:
        gamma: Strength of this effect; 0 switches it off.
        alpha: Weight of cell pixels, in [0, 1]; background pixels have the weight 1 - alpha. The paper uses
            0.25 for rare objects.

    Source: Lin et al., 2017, https://arxiv.org/abs/1708.02002
    """

    def __init__(self, gamma: float = 2.0, alpha: float = 0.5) -> None:
        super().__init__()
        if gamma < 0 or not 0 <= alpha <= 1:
            raise InputError(f"loss.gamma must be at least 0 and loss.alpha in [0, 1], but are {gamma} and {alpha}")
        self.gamma, self.alpha = gamma, alpha

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss in float32, whatever the precision of the logits."""
        _check(logits, target)
        logits, target = logits.float(), target.float()
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        weight = self.alpha * target + (1 - self.alpha) * (1 - target)
        return (weight * (1 - torch.exp(-entropy)) ** self.gamma * entropy).mean()
