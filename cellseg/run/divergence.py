"""Detecting a NaN or infinite output, and at which image, without synchronising with the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cellseg.storage.errors import InputError

DIVERGED = (
    "training diverged; lower optimizer.lr, or set +trainer.gradient_clip_val=1 or trainer.precision=32-true; "
    "checkpoints are from before"
)

ROOM = 1024  # images


class FiniteWatch:
    """Records for each image, on its device, whether logits and loss are finite."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._batches: list[Sequence[str]] = []
        self._seen = 0
        # one tensor: thousands of small ones, each kept between large ones that are freed, would waste memory
        self._finite = torch.ones(0, dtype=torch.bool)

    def see(self, names: Sequence[str], logits: Tensor, loss: Tensor) -> None:
        """Record a batch: the names of its images, logits (N, ...) and loss."""
        finite = logits.detach().flatten(1).isfinite().all(1) & loss.detach().isfinite()
        start, end = self._seen, self._seen + len(finite)
        if end > len(self._finite):
            old = self._finite.to(finite.device)
            self._finite = torch.cat([old, finite.new_ones(max(len(old), end, ROOM))])
        self._finite[start:end] = finite
        self._seen = end
        self._batches.append(names)

    def require_finite(self, doing: str) -> None:
        """Check all recorded batches and clear the record.

        Raises:
            InputError: If a value was NaN or infinite; names the images of the first such batch.
        """
        batches, finite = self._batches, self._finite
        self._clear()
        if finite.all():
            return
        rest = iter(finite.tolist())
        fine = [[next(rest) for _ in names] for names in batches]
        batch = next(number for number, values in enumerate(fine) if not all(values))
        bad = [name for name, is_fine in zip(batches[batch], fine[batch], strict=True) if not is_fine]
        before = f", after {', '.join(batches[batch - 1])}" if batch else ""
        raise InputError(
            f"{doing}: the output or the loss for {', '.join(bad)} (batch {batch + 1}{before}) is NaN or infinite; "
            f"{DIVERGED}"
        )
