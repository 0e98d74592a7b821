"""Dice and IoU, per image and pooled, as a torchmetrics metric.

One rule for empty masks, everywhere: a score is 1 where truth and prediction are both empty, 0 where only one is. Soft
Dice follows it too, but probabilities are hardly ever exactly 0: on an image without cells it is nearly always 0.

Dice and IoU are then those of MONAI with ``ignore_empty=False`` (by default it leaves images without cells out) and of
scikit-learn with ``zero_division=1``.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from cellseg.losses import soft_dice

THRESHOLD = 0.5  # a pixel is predicted to be cell above this probability


def image_scores(probability: Tensor, target: Tensor, vanished: Tensor | None = None) -> dict[str, Tensor]:
    """Score every image by itself.

    Args:
        probability: Shape (N, 1, H, W), in [0, 1].
        target: Same shape, 0 or 1.
        vanished: Shape (N,), true for images whose cells were all lost to resizing. The rule of empty masks does not
            hold for them: they have cells, none of which was found, so their scores are 0.

    Returns:
        Tensors of shape (N,): ``dice``, ``iou`` (both of the prediction cut at 0.5), ``soft_dice`` (of the
        probabilities themselves, as the original study scored), and the pixel counts ``true_pixels``,
        ``predicted_pixels`` and ``shared_pixels``.
    """
    found, cell = (probability > THRESHOLD).flatten(1), (target > 0).flatten(1)
    hit, true, predicted = (found & cell).sum(1), cell.sum(1), found.sum(1)
    counted = torch.ones_like(hit) if vanished is None else ~vanished.to(hit.device)
    return {
        "dice": _ratio(2 * hit, true + predicted) * counted,
        "iou": _ratio(hit, true + predicted - hit) * counted,
        "soft_dice": soft_dice(probability, target) * counted,
        "true_pixels": true,
        "predicted_pixels": predicted,
        "shared_pixels": hit,
    }


class SegmentationScores(Metric):
    """Mean of the per-image scores over all images seen, and the same scores of all their pixels pooled.

    ``update`` takes what ``image_scores`` returns; ``compute`` returns scalars in [0, 1]: ``dice``, ``iou`` and
    ``soft_dice`` (every image counts the same) and ``dice_pooled`` and ``iou_pooled`` (every pixel does).
    """

    full_state_update = False
    image_sums: Tensor
    pixel_sums: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("image_sums", torch.zeros(3), dist_reduce_fx="sum")
        self.add_state("pixel_sums", torch.zeros(3, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, scores: dict[str, Tensor]) -> None:
        """Add a batch of images."""
        self.image_sums += torch.stack([scores[name].sum() for name in ("dice", "iou", "soft_dice")])
        self.pixel_sums += torch.stack(
            [scores[name].sum() for name in ("true_pixels", "predicted_pixels", "shared_pixels")]
        )
        self.images += len(scores["dice"])

    def compute(self) -> dict[str, Tensor]:
        """Return the five scores over everything added so far."""
        true, predicted, shared = self.pixel_sums
        dice, iou, soft = self.image_sums / self.images
        return {
            "dice": dice,
            "iou": iou,
            "soft_dice": soft,
            "dice_pooled": _ratio(2 * shared, true + predicted),
            "iou_pooled": _ratio(shared, true + predicted - shared),
        }


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp_min(1), 1.0)
