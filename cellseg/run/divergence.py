"""Detecting a NaN or infinite output, and at which image, without synchronising with the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cellseg.storage.errors import InputError

DIVERGED = (
    "training diverged; lower optimizer.lr, or set +trainer.gradient_clip_val=1 or trainer.precision=32-true; "
    "checkpoints are from before"
)


class FiniteWatch:
    """Records for each batch, on its device, whether logits and loss are finite."""

    def __init__(self) -> None:
        self._seen: list[tuple[Sequence[str], Tensor]] = []

    def see(self, names: Sequence[str], logits: Tensor, loss: Tensor) -> None:
        """Record a batch: the names of its images, logits (N, ...) and loss."""
        finite = logits.detach().flatten(1).isfinite().all(1) & loss.detach().isfinite()
        self._seen.append((names, finite))

    def require_finite(self, doing: str) -> None:
        """Check all recorded batches and clear the record.

        Raises:
            InputError: If a value was NaN or infinite; names the images of the first such batch.
        """
        seen, self._seen = self._seen, []
        if not seen or bool(torch.cat([finite for _, finite in seen]).all()):
            return
        batch = next(number for number, (_, finite) in enumerate(seen) if not finite.all())
        names, finite = seen[batch]
        bad = [name for name, fine in zip(names, finite.tolist(), strict=True) if not fine]
        before = f", after {', '.join(seen[batch - 1][0])}" if batch else ""
        raise InputError(
            f"{doing}: the output for {', '.join(bad)} (batch {batch + 1}{before}) is NaN or infinite; {DIVERGED}"
        )
