"""Callbacks: the table of epochs, pictures for loggers, rows per image, stopping, and the average of the weights."""

import logging
import math
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from numpy.typing import NDArray
from torch import Tensor

from cellseg.data.drawing import Pixels, draw_panel
from cellseg.metrics import OBJECT_COUNTS, OBJECT_SCORES, PER_IMAGE, THRESHOLD
from cellseg.objects import count_unlabelled, number_objects
from cellseg.run.folder import Prediction, write_prediction
from cellseg.run.signals import Interrupted, StopRequest
from cellseg.storage.csv_files import write_csv
from cellseg.storage.errors import InputError

PACE_WARM_UP, PACE_STEPS = 3, 10  # steps that are not timed, and those whose median is compared
BAR_WIDTH = 10  # characters
LEAST_DONE = 0.5  # epochs before the time left is shown
SLOWER = 2.0  # times as long as at first
SHORT = 0.05  # seconds; nobody waits for shorter steps

log = logging.getLogger(__name__)


class EpochTable(L.Callback):
    """Writes ``metrics.csv`` with one row per epoch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.validation: dict[str, float] = {}
        self.rate = math.nan

    def state_dict(self) -> dict[str, Any]:
        """Return the rows for the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows of earlier epochs."""
        self.rows = list(state_dict["rows"])

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the learning rate of this step; a schedule may change it before the epoch ends."""
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the scores of this epoch; an epoch without validation then has empty cells."""
        self.validation = _metrics(trainer, "val/")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the row of the epoch, and log it if there is no progress bar."""
        values = _metrics(trainer, "train/") | self.validation
        self.validation = {}
        self.rows.append(
            {"epoch": trainer.current_epoch, "step": trainer.global_step, "lr": float(self.rate), **values}
        )
        if trainer.is_global_zero:
            write_csv(_folder(trainer) / "metrics.csv", self.rows)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        seen = trainer.progress_bar_callback is not None and sys.stdout.isatty()  # the bar shows it
        level = logging.DEBUG if seen else logging.INFO
        log.log(level, "epoch %d of %s: %s", trainer.current_epoch + 1, trainer.max_epochs, shown)


class RunProgress(RichProgressBar):
    """The progress bar of an epoch, with epochs counted from 1 and the time left of the whole run."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.first = 0.0, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the run; a continued one begins at a later epoch."""
        super().on_train_start(trainer, pl_module)
        self.began, self.first = time.perf_counter(), trainer.current_epoch

    def _get_train_description(self, current_epoch: int) -> str:
        """Name the epoch."""
        last = self.trainer.max_epochs or -1
        description = f"epoch {current_epoch + 1}" + f" of {last}" * (last > 0)
        return description.ljust(len(self.validation_description))  # or the bar of validation would move it

    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        """Leave out the time of one epoch and the steps a second, for which 80 columns have no room."""
        epoch, bar, steps, *_ = super().configure_columns(trainer)  # scores stand behind them
        bar.bar_width = BAR_WIDTH
        return [epoch, bar, steps]

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return what stands beside the bar."""
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)  # of the logger
        last, batches = trainer.max_epochs or -1, trainer.fit_loop.epoch_loop.batch_progress.current.completed
        now = trainer.current_epoch + min(1.0, batches / max(1.0, trainer.num_training_batches))
        if now - self.first >= LEAST_DONE and last > 0:
            seconds = (time.perf_counter() - self.began) / (now - self.first) * max(0.0, last - now)
            items = {"left": f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"} | items
        return items


class Pace(L.Callback):
    """Warns once if training steps on a CPU become far slower than the first ones: other programs need the cores."""

    def __init__(self) -> None:
        self.began, self.steps, self.warned = 0.0, 0, False
        self.first: list[float] = []
        self.recent = deque[float](maxlen=PACE_STEPS)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock of a step."""
        self.began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare the last steps with the first ones."""
        if self.warned or trainer.strategy.root_device.type != "cpu":
            return
        seconds, self.steps = time.perf_counter() - self.began, self.steps + 1
        if self.steps <= PACE_WARM_UP:
            return
        if len(self.first) < PACE_STEPS:
            self.first.append(seconds)
            return
        self.recent.append(seconds)
        before, now = median(self.first), median(self.recent)
        if len(self.recent) == PACE_STEPS and now > max(SLOWER * before, SHORT):
            self.warned = True
            threads = torch.get_num_threads()
            few = "" if threads == 1 else "; runs of a new study with threads=1 lose less time to other programs"
            log.warning(
                "training steps take %.2g s, %.1f times as long as at first (%.2g s): other programs use the "
                "processor, or it is too hot; end them, or wait%s",
                now,
                now / before,
                before,
                few,
            )


class StopWhenAsked(L.Callback):
    """Ends training after an epoch if a stop was requested; ``LastCheckpoint`` then saves it.

    Args:
        request: Handles Ctrl-C and SIGTERM.

    Attributes:
        begun: Whether training has started; later errors are not errors of the configuration.
    """

    def __init__(self, request: StopRequest) -> None:
        self.request, self.begun, self._others = request, False, False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take SIGTERM back from Lightning, which would drop the epoch and exit with 0."""
        self.request.listen()
        self.request.patient = self.begun = True

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take it back again; Lightning would wait for other devices."""
        self.request.listen()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask Lightning to stop, on all devices together."""
        self._others = trainer.should_stop  # of those callbacks that come before this one
        asked = trainer.strategy.reduce_boolean_decision(self.request.number is not None, all=False)
        if asked and self.request.number is None:  # another device's process received the signal
            self.request.number = signal.SIGTERM
        if asked:
            trainer.should_stop = True
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = (
                None  # minimum lengths apply to early stopping only
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let a stop take effect immediately from here on."""
        self.request.patient = False

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Let a stop take effect immediately, and end the processes of other devices."""
        self.request.patient = False
        if isinstance(exception, Interrupted) and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGTERM)

    def ended(self, trainer: L.Trainer) -> bool:
        """Return whether training would have ended after this epoch without the request."""
        epochs, most = trainer.current_epoch, trainer.max_epochs
        if self._others or (most is not None and 0 < most <= epochs):
            return True
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, StopAfter) and trainer.global_step >= callback.steps:
                return True
            if isinstance(callback, EarlyStopping) and 0 < callback.stopped_epoch >= epochs - 1:
                return True
        return False


class StopAfter(L.Callback):
    """Ends training after a number of steps, as ``trainer.max_steps`` does in Lightning.

    With Lightning's own limit, a continued run would repeat the epoch of its checkpoint.

    Args:
        steps: Of the optimizer, from 1.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask Lightning to stop, whatever the minimum numbers of epochs and steps."""
        if trainer.global_step >= self.steps:
            trainer.should_stop = True
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None


class WarmEMA(WeightAveraging):
    """Scores and saves the exponential moving average of the weights, also in short trainings.

    Lightning's EMAWeightAveraging starts from the weights after the first step and still remembers them
    ``1 / (1 - decay)`` steps later; here the average looks back over at most a tenth or so of the steps taken.

    Args:
        decay: Share of the old average kept at every step once warm, in [0, 1).
    """

    def __init__(self, decay: float = 0.98) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"callbacks.ema.decay must be at least 0 and below 1, but is {decay}")
        endless: dict[tuple[torch.dtype, int], list[int]] = {}  # tensors with -inf, such as attention masks

        def average(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
            current = [new.to(old.dtype) for new, old in zip(current, averaged, strict=True)]  # float32 where bf16-true
            key = averaged[0].dtype, len(averaged)
            if key not in endless:
                endless[key] = [place for place, old in enumerate(averaged) if old.isneginf().any()]
            if left := endless[key]:  # averaging -inf would give NaN
                torch._foreach_copy_([averaged[place] for place in left], [current[place] for place in left])
                kept = [place for place in range(len(averaged)) if place not in left]
                averaged, current = ([tensors[place] for place in kept] for tensors in (averaged, current))
            if not averaged:
                return
            if averaged[0].is_floating_point():
                torch._foreach_lerp_(averaged, current, 1 - min((1 + int(count)) / (10 + int(count)), decay))
            else:  # batch norm's count of batches
                torch._foreach_copy_(averaged, current)

        super().__init__(multi_avg_fn=average)


class PredictionPanels(L.Callback):
    """Shows image | truth | prediction of a few validation images in TensorBoard and W&B as training goes on.

    Args:
        images: How many images to follow.
        every_n_epochs: How often; the last epoch is always shown.
    """

    def __init__(self, images: int = 4, every_n_epochs: int = 5) -> None:
        self.images, self.every_n_epochs = images, every_n_epochs

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first images."""
        epoch = trainer.current_epoch + 1
        due = epoch == 1 or epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs
        if not (due and batch_idx < self.images and trainer.state.fn == "fit" and trainer.is_global_zero):
            return
        step = trainer.global_step - 1  # the step of the scores of this epoch
        name = f"val_predictions/{batch['name'][0]}"  # TensorBoard shows groups by name: these after the curves
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, _panel(batch, outputs), step, dataformats="HWC")
            elif isinstance(logger, WandbLogger):
                logger.log_image(name, [_panel(batch, outputs)])


class ImageRecords(L.Callback):
    """Writes ``per_image.csv`` and ``predictions/`` when the test images are scored.

    Args:
        added: Names of the scores that the configuration adds.
    """

    def __init__(self, added: Sequence[str] = ()) -> None:
        self.added, self.rows = added, list[dict[str, Any]]()

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add one row per image, and write the pictures of test images."""
        subset = "val" if dataloader_idx else "test"
        for index, name in enumerate(batch["name"]):
            prediction = _prediction(batch, outputs, index)
            self.rows.append(_image_row(subset, batch, outputs, index, prediction, self.added))
            if trainer.is_global_zero and subset == "test":
                write_prediction(_folder(trainer), name, prediction)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table."""
        if trainer.is_global_zero:
            write_csv(_folder(trainer) / "per_image.csv", self.rows)


def _prediction(batch: dict[str, Any], outputs: dict[str, Tensor], index: int) -> Prediction:
    return Prediction(
        image=(batch["image"][index] * 255).round().byte().permute(1, 2, 0).cpu().numpy(),
        truth=(batch["mask"][index, 0] > 0).cpu().numpy(),
        mask=(outputs["probability"][index, 0] > THRESHOLD).cpu().numpy(),
        ids=_ids(batch, index),
        ignored=batch["ignored"][index, 0].cpu().numpy() if "ignored" in batch else None,
    )


def _ids(batch: dict[str, Any], index: int) -> NDArray[np.int32] | None:
    """Return the numbers of the labelled objects, if the label files have them and 16 bits hold them."""
    if "numbered" not in batch or not batch["numbered"][index]:
        return None
    ids = number_objects(batch["ids"][index].cpu().numpy().copy(), 1)
    return ids if ids.max(initial=0) < 2**16 else None


def _panel(batch: dict[str, Any], outputs: dict[str, Tensor]) -> Pixels:
    drawn = _prediction(batch, outputs, 0)
    return draw_panel(drawn.picture, drawn.truth, drawn.mask, drawn.ignored)


def _image_row(
    subset: str,
    batch: dict[str, Any],
    outputs: dict[str, Tensor],
    index: int,
    prediction: Prediction,
    added: Sequence[str],
) -> dict[str, Any]:
    names = [*PER_IMAGE, *(score.name for score in OBJECT_SCORES), *added]
    values = {score: outputs[score][index].item() for score in names}
    return {
        "image": batch["name"][index],
        "group": batch["group"][index],
        "subset": subset,
        **{score: None if score in added and math.isnan(value) else value for score, value in values.items()},
        **{count: int(outputs[count][index]) for count in ("true_pixels", "predicted_pixels", *OBJECT_COUNTS)},
        "width": int(batch["width"][index]),
        "height": int(batch["height"][index]),
        "ignored_pixels": 0 if prediction.ignored is None else int(prediction.ignored.sum()),
        "objects_from": "ids" if batch["numbered"][index] else "regions",
        "unlabelled_objects": count_unlabelled(prediction.mask, prediction.truth, prediction.ignored),
    }


def _metrics(trainer: L.Trainer, prefix: str) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith(prefix) and torch.is_tensor(value) and not value.isnan()
    }


def _folder(trainer: L.Trainer) -> Path:
    return Path(trainer.default_root_dir)
