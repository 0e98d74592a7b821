"""The list of scores, how each is computed per image, and how it is averaged.

One rule for empty masks, everywhere: a score is 1 where truth and prediction are both empty, 0 where only one is. Soft
Dice follows it too, but probabilities are almost never exactly 0: on an image without cells it is nearly always 0.

Dice and IoU are then those of MONAI with ``ignore_empty=False`` (by default it leaves images without cells out) and of
scikit-learn with ``zero_division=1``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from cellseg.losses import soft_dice
from cellseg.objects import (
    SMALLEST_OBJECT,
    Labels,
    Mask,
    boundary_dice,
    label_objects,
    label_truth,
    object_scores,
    without_unjudged,
)
from cellseg.storage.errors import InputError

THRESHOLD = 0.5  # a pixel is predicted to be cell above this probability

Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class Score:
    """A score: its name, averaging and direction.

    Attributes:
        name: In logged keys (``test/NAME``), columns and configuration.
        label: Name in tables.
        how: How it is computed and averaged.
        better: Which values are better; None if unknown.
        pooled: Whether it counts all pixels of all images together; otherwise it is a mean over images.
        share: Whether it lies in [0, 1].
        unit: The unit of a difference: points (0.01) of a share, objects per image of a count; empty if unknown.
    """

    name: str
    label: str
    how: str
    better: Direction | None = "higher"
    pooled: bool = False
    share: bool = True
    unit: str = "points"

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest possible value."""
        return (0.0, 1.0) if self.share else (0.0 if self.name.endswith("_abs") else -math.inf, math.inf)


SCORES = (
    Score("dice", "Dice", "cut at 0.5, mean over images"),
    Score("iou", "IoU", "cut at 0.5, mean over images"),
    Score("soft_dice", "soft Dice", "of probabilities, mean over images"),
    Score("dice_pooled", "Dice, pooled", "cut at 0.5, all pixels of all images together", pooled=True),
    Score("iou_pooled", "IoU, pooled", "cut at 0.5, all pixels of all images together", pooled=True),
)
OBJECT_SCORES = (  # of test images only; runs of early versions have none
    Score("boundary_dice", "boundary Dice", "share of the outlines within 2 pixels of the other, mean over images"),
    Score("object_f1", "object F1", "objects with an IoU above 0.5, mean over images"),
    Score("panoptic_quality", "panoptic quality", "object F1 times the mean IoU of the hits, mean over images"),
    Score(
        "count_error",
        "count error",
        "predicted minus labelled objects of an image, mean over images",
        None,
        share=False,
        unit="objects per image",
    ),
    Score(
        "count_error_abs",
        "absolute count error",
        "predicted minus labelled objects of an image without the sign, mean over images",
        "lower",
        share=False,
        unit="objects per image",
    ),
)
OBJECT_COUNTS = ("true_objects", "predicted_objects", "ignored_objects")
PER_IMAGE = tuple(score.name for score in SCORES if not score.pooled)
POOLED = {"dice_pooled": "dice", "iou_pooled": "iou"}  # the score per image that each corresponds to
NOT_NAMES = frozenset(  # of other columns of the tables
    (
        "loss",
        "train_loss",
        "test_loss",
        "image",
        "images",
        "group",
        "groups",
        "subset",
        "seen",
        "seed",
        "seeds",
        "fold",
        "folds",
        "run",
        "runs",
        "epoch",
        "epochs",
        "step",
        "lr",
        "mean",
        "probability",
        "unlabelled_objects",
        "objects_from",
        "width",
        "height",
        "configuration",
        "network",
        "model",
        "experiment",
        "parameters",
        "gflop",
        "seconds",
        "seconds_per_epoch",
        "device",
        "commit",
        "precision",
        "leaks",
        "scored_weights",
        "training_images",
        "test_images",
        "peak_memory_bytes",
        "peak_memory_mb",
        "dice_low",
        "dice_high",
        "sd_over_seeds",
        "sd_over_folds",
        "a",
        "b",
        "kind",
        "verdict",
        "p",
        "median",
        "baseline",
        "dice_inner_low",
        "dice_inner_high",
        "chance_better",
        "chance_equivalent",
        "chance_worse",
        "share_groups",
        "share_seeds",
        "share_seeds_groups",
        "share_training",
        "a_better",
        "equivalent",
        "pairs_of_runs",
    )
)


def added_score(name: str, better: Direction | None) -> Score:
    """Describe a score that the configuration adds under ``metrics``."""
    direction = {"higher": ", higher is better", "lower": ", lower is better", None: ""}[better]
    return Score(name, name, f"mean over images that have a value{direction}", better, share=False, unit="")


def image_scores(probability: Tensor, target: Tensor, vanished: Tensor | None = None) -> dict[str, Tensor]:
    """Score every image by itself.

    Args:
        probability: Shape (N, 1, H, W), in [0, 1].
        target: Same shape, 0 or 1.
        vanished: Shape (N,), not 0 for images that lost all cells when they were resized. They have cells, and none was
            found, so their scores are 0 in spite of the empty mask.

    Returns:
        Tensors of shape (N,): ``dice``, ``iou`` (both of the prediction cut at 0.5), ``soft_dice`` (of the
        probabilities themselves, as the original study scored), and the pixel counts ``true_pixels``,
        ``predicted_pixels`` and ``shared_pixels``.
    """
    found, cell = (probability > THRESHOLD).flatten(1), (target > 0).flatten(1)
    hit, true, predicted = (found & cell).sum(1), cell.sum(1), found.sum(1)
    counted = torch.ones_like(hit) if vanished is None else vanished.to(hit.device) == 0
    return {
        **{name: value * counted for name, value in _from_counts(true, predicted, hit).items()},
        "soft_dice": soft_dice(probability, target) * counted,
        "true_pixels": true,
        "predicted_pixels": predicted,
        "shared_pixels": hit,
    }


def score_objects(
    probability: Tensor,
    target: Tensor,
    ids: Tensor,
    numbered: Tensor,
    vanished: Tensor,
    scale: float = 1.0,
    *,
    ignored: Tensor | None = None,
) -> dict[str, Tensor]:
    """Score the objects and outlines of every image by themselves.

    Touching cells of the prediction are separated where the label files number their objects. Elsewhere touching cells
    are one object of the label, and so of the prediction.

    Args:
        probability: Shape (N, 1, H, W), in [0, 1].
        target: Same shape, 0 or 1.
        ids: Shape (N, H, W), numbers of the labelled objects, 0 for background.
        numbered: Shape (N,), whether the label files number their objects; ``ids`` is not used where they do not.
        vanished: Shape (N,), the number of objects of images that lost all cells when they were resized, else 0.
        scale: Pixels of the images, along a side, for one pixel that the network saw.
        ignored: Shape of the target, true where nobody judged; None if every pixel was judged.

    Returns:
        Tensors of shape (N,): the scores of ``OBJECT_SCORES`` and the counts of ``OBJECT_COUNTS``.
    """
    rows = []
    unjudged = torch.zeros_like(target, dtype=torch.bool) if ignored is None else ignored
    parts = (probability.float(), target.float(), ids, numbered, vanished, unjudged)  # NumPy has no bfloat16
    seen = zip(*(part.cpu().numpy() for part in parts), strict=True)
    for likely, cell, numbers, has_ids, lost, left_out in seen:
        found, true = (likely[0] > THRESHOLD) & ~left_out[0], cell[0] > 0
        smallest = max(1.0, SMALLEST_OBJECT * scale**2)
        labels = label_objects(found, smallest=smallest, split=bool(has_ids), scale=scale)
        labelled = label_truth(true, numbers if has_ids else None, smallest)
        rows.append(score_labels(labels, found, labelled, true, int(lost), left_out[0]))
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]}


def score_labels(
    labels: Labels, found: Mask, labelled: Labels, true: Mask, lost: int = 0, ignored: Mask | None = None
) -> dict[str, float]:
    """Score the numbered objects and the mask of a prediction, all of shape (H, W), 0 where nobody judged.

    Args:
        labels: The objects of the prediction.
        found: Its mask.
        labelled: The objects of the label.
        true: Its mask.
        lost: Number of objects of a label that lost all cells when it was resized, else 0.
        ignored: Pixels that nobody judged. A predicted object that reaches into them and is no hit does not count.

    Returns:
        The scores of ``OBJECT_SCORES`` and the counts of ``OBJECT_COUNTS``.
    """
    left_out = 0
    if ignored is not None and ignored.any():
        labels, left_out = without_unjudged(labels, labelled, ignored)
    row = object_scores(labels, labelled) | {"boundary_dice": boundary_dice(found, true, ignored)}
    row["ignored_objects"] = float(left_out)
    if lost:
        error = row["predicted_objects"] - lost
        nothing = dict.fromkeys(("boundary_dice", "object_f1", "panoptic_quality"), 0.0)
        row |= nothing | {"count_error": error, "count_error_abs": abs(error), "true_objects": float(lost)}
    return row


def describe_objects(numbered: int, images: int) -> str:
    """Say where the objects of labels come from, for a number of images of which some have numbered objects."""
    ids = "ids in the labels; touching cells of the prediction are separated"
    regions = "connected regions of label and prediction, so touching cells are one object"
    if 0 < numbered < images:
        return f"objects: {ids}, in {numbered} of {images} images; in the others {regions}"
    return f"objects: {ids if numbered else regions}"


def describe_ignored(pixels: Sequence[int], objects: Sequence[float]) -> dict[str, str]:
    """Say what was left out because nobody judged it: pixels and predicted objects of each image; nothing if none."""
    if not any(pixels):
        return {}
    images = sum(each > 0 for each in pixels)
    return {
        "not judged": f"{sum(pixels)} pixels in {images} of {len(pixels)} images count in no score",
        "not judged objects": f"{sum(map(int, objects))} predicted objects that reach into these pixels and are no hit "
        "do not count",
    }


class AddedScores:
    """Scores that the configuration adds: torchmetrics metrics or callables, computed for each image.

    Args:
        metrics: By name. Each is called with the probabilities, shape (1, 1, H, W) in [0, 1], and the mask, the same
            shape, 0 or 1 as integers, and returns one number. Its ``higher_is_better`` gives the direction.

    Raises:
        InputError: If a name cannot be used.
    """

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        known = {score.name for score in (*SCORES, *OBJECT_SCORES)} | {*OBJECT_COUNTS} | NOT_NAMES
        for name in metrics:
            if not name.isidentifier() or name in known or name.endswith("_pixels"):
                raise InputError(
                    f"metrics.{name}: this name is reserved or invalid; use another one of letters, digits and _"
                )
        self._metrics = dict(metrics)

    @property
    def described(self) -> Sequence[Score]:
        """The added scores."""
        words: dict[Any, Direction] = {True: "higher", False: "lower"}
        higher = {name: getattr(metric, "higher_is_better", None) for name, metric in self._metrics.items()}
        return [added_score(name, words.get(value)) for name, value in higher.items()]

    def __call__(self, probability: Tensor, target: Tensor, vanished: Tensor | None = None) -> dict[str, Tensor]:
        """Score every image by itself.

        Args:
            probability: As for ``image_scores``.
            target: The same.
            vanished: The same.

        Returns:
            Tensors of shape (N,), NaN for images without a value: the metric is NaN or infinite, or the image lost all
            cells when it was resized.

        Raises:
            InputError: If a metric fails, or does not return one number.
        """
        mask = (target > 0).long()
        probability = probability.detach()
        lost = torch.zeros(len(mask), dtype=torch.bool) if vanished is None else vanished.cpu() != 0
        return {
            name: torch.tensor(
                [
                    float("nan") if gone else _one_number(name, metric, p[None].clone(), t[None].clone())
                    for p, t, gone in zip(probability, mask, lost.tolist(), strict=True)
                ],
                device=probability.device,
            )
            for name, metric in self._metrics.items()
        }


class Thresholded:
    """Adapts a metric of two masks: it receives the prediction cut at 0.5 instead of probabilities.

    Args:
        metric: Called with prediction and mask, both of shape (1, 1, H, W), 0 or 1, such as the metrics of MONAI.
        higher_is_better: Which values are better; by default the attribute of the metric.
    """

    def __init__(self, metric: Callable[..., Any], higher_is_better: bool | None = None) -> None:
        own = getattr(metric, "higher_is_better", None)
        self.metric, self.higher_is_better = metric, own if higher_is_better is None else higher_is_better

    def __call__(self, probability: Tensor, target: Tensor) -> Any:
        """Return the value of the metric."""
        return _value(self.metric, (probability > THRESHOLD).long(), target)


class SegmentationScores(Metric):
    """Mean of the per-image scores over all images seen, and the same scores of all their pixels pooled.

    ``update`` takes what ``image_scores`` returns, and the values of added scores beside them; ``compute`` returns
    scalars: ``dice``, ``iou`` and ``soft_dice`` (every image counts the same), ``dice_pooled`` and ``iou_pooled``
    (every pixel does), and the mean of each added score over the images that have a value, where there are any.

    Args:
        added: Names of the added scores.
    """

    full_state_update = False
    image_sums: Tensor
    pixel_sums: Tensor
    images: Tensor
    added_sums: Tensor
    added_images: Tensor

    def __init__(self, added: Sequence[str] = ()) -> None:
        super().__init__()
        self.added = tuple(added)
        self.add_state("image_sums", torch.zeros(len(PER_IMAGE)), dist_reduce_fx="sum")
        self.add_state("pixel_sums", torch.zeros(3, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("added_sums", torch.zeros(len(self.added)), dist_reduce_fx="sum")
        self.add_state("added_images", torch.zeros(len(self.added), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, scores: Mapping[str, Tensor]) -> None:
        """Add a batch of images."""
        self.image_sums += torch.stack([scores[name].sum() for name in PER_IMAGE])
        self.pixel_sums += torch.stack(
            [scores[name].sum() for name in ("true_pixels", "predicted_pixels", "shared_pixels")]
        )
        self.images += len(scores["dice"])
        if self.added:
            values = torch.stack([scores[name] for name in self.added])
            self.added_sums += values.nan_to_num(0).sum(1)
            self.added_images += (~values.isnan()).sum(1)

    def compute(self) -> dict[str, Tensor]:
        """Return the scores over everything added so far."""
        means = dict(zip(PER_IMAGE, self.image_sums / self.images, strict=True))
        counts = _from_counts(*self.pixel_sums)
        pooled = {name: counts[of] for name, of in POOLED.items()}
        added = zip(self.added, self.added_sums, self.added_images, strict=True)
        return means | pooled | {name: total / images for name, total, images in added if images}


def _from_counts(true: Tensor, predicted: Tensor, shared: Tensor) -> dict[str, Tensor]:
    return {"dice": _ratio(2 * shared, true + predicted), "iou": _ratio(shared, true + predicted - shared)}


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp_min(1), 1.0)


def _one_number(name: str, metric: Any, probability: Tensor, target: Tensor) -> float:
    try:
        with torch.no_grad():
            value = torch.as_tensor(_value(metric, probability, target))
        number = float(value.squeeze()) if value.numel() == 1 else None
    except Exception as error:  # a metric may raise anything
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"metrics.{name} fails on an image: {said}") from error
    if number is None:
        raise InputError(f"metrics.{name} returns {value.numel()} numbers for an image, where one is needed")
    return number if torch.isfinite(torch.tensor(number)) else float("nan")


def _value(metric: Any, prediction: Tensor, target: Tensor) -> Any:
    """Return the value of a metric for one image, independent of earlier images."""
    if hasattr(metric, "to"):
        metric.to(prediction.device)
    if hasattr(metric, "reset"):
        metric.reset()
    if isinstance(metric, Metric):
        metric.update(prediction, target)
        return metric.compute()
    return metric(prediction, target)
