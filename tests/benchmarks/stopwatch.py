"""Seconds from the start of one training epoch to the start of the next, all that lies between included."""

import time
from typing import ClassVar

import lightning as L


class Stopwatch(L.Callback):
    """Lightning's epochs, timed."""

    epochs: ClassVar[list[float]] = []

    def __init__(self) -> None:
        self.began = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the epoch before, checkpoint and all."""
        self._note()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the last epoch."""
        self._note()

    def _note(self) -> None:
        now = time.perf_counter()
        if self.began:
            self.epochs.append(now - self.began)
        self.began = now
