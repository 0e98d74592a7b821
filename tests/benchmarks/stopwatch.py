"""Time epochs, each from its start to the start of the next, including validation and checkpoints."""

import time
from typing import ClassVar

import lightning as L


class Stopwatch(L.Callback):
    """Records the seconds of each epoch of a Lightning training."""

    epochs: ClassVar[list[float]] = []

    def __init__(self) -> None:
        self.began = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the time of the previous epoch, which includes its checkpoint."""
        self._note()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the time of the last epoch."""
        self._note()

    def _note(self) -> None:
        now = time.perf_counter()
        if self.began:
            self.epochs.append(now - self.began)
        self.began = now
