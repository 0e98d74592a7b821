"""The LightningModule, which trains and scores any network with any loss, optimizer and schedule."""

import logging
import math
import random
from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from cellseg.data.dataset import derived_seed
from cellseg.losses import without_ignored
from cellseg.metrics import OBJECT_SCORES, PER_IMAGE, AddedScores, SegmentationScores, image_scores, score_objects
from cellseg.run.divergence import DIVERGED, FiniteWatch
from cellseg.run.schedule import Schedule
from cellseg.run.tiles import Tiles
from cellseg.storage.errors import InputError

log = logging.getLogger("train")

Batch = dict[str, Any]


class SegmentationModule(L.LightningModule):
    """Trains a network that turns images (N, C, H, W) into logits (N, 1, H, W), and scores it per image.

    Args:
        network: The network; its logits are cut at 0, a probability of 0.5.
        loss: Takes logits and a 0/1 target, returns a scalar.
        optimizer: Called with the parameters.
        scheduler: The schedule, or what is called with the optimizer to make one (see ``Schedule``); None keeps the
            learning rate constant.
        scores: Scores to log beside those of ``metrics.SCORES``.

    Attributes:
        tiles: How whole images are scored that were cropped for training; None if a network sees them as they are.

    Raises:
        InputError: From ``configure_optimizers``, if the optimizer or the schedule cannot be built.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Schedule | Callable[..., LRScheduler] | None = None,
        scores: AddedScores | None = None,
    ) -> None:
        super().__init__()
        self.network, self.loss = network, loss
        self._make_optimizer = optimizer
        self.schedule = scheduler if scheduler is None or isinstance(scheduler, Schedule) else Schedule(scheduler)
        self.added_scores = scores or AddedScores({})  # no module: its metrics have no part in training or checkpoints
        names = [score.name for score in self.added_scores.described]
        self.val_scores = SegmentationScores(names)
        self.test_scores = SegmentationScores([*(score.name for score in OBJECT_SCORES), *names])
        self.tiles: Tiles | None = None
        self._plateau: ReduceLROnPlateau | None = None
        self._validated = False
        self._trained, self._scored = FiniteWatch(), FiniteWatch()
        self._stream = torch.initial_seed()

    @property
    def network_name(self) -> str:
        """The network's name: its attribute ``name``, else its class."""
        return getattr(self.network, "name", type(self.network).__name__)

    @property
    def wants_plain_layout(self) -> bool:
        """Whether the optimizer needs weights in torch's default memory layout."""
        return getattr(self._make_optimizer, "func", self._make_optimizer) is torch.optim.LBFGS

    def forward(self, image: Tensor) -> Tensor:
        """Return logits."""
        return self.network(image)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed global random numbers, such as those of dropout, in each epoch; a continued run draws the same ones."""
        if batch_idx:  # at the first batch: a data loader draws a number when it starts
            return
        seed = derived_seed(self._stream, self.current_epoch, self.global_rank) % 2**32
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss; logged as its mean over the epoch's images."""
        logits = self(batch["image"])
        loss = self.loss(*without_ignored(logits, batch["mask"], batch.get("ignored")))
        self._trained.see(batch["name"], logits, loss)
        size = len(batch["image"])
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=size, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Score a batch; see ``_score``."""
        return self._score(batch, "val", self.val_scores)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Score a batch of the test images, or of the validation images where the datamodule passes them second."""
        if dataloader_idx:
            return self._score(batch, "val", self.val_scores)
        return self._score(batch, "test", self.test_scores)

    def on_validation_epoch_start(self) -> None:
        """Check for NaN before the scores choose anything."""
        self._trained.require_finite(f"epoch {self.current_epoch + 1}")

    def on_train_epoch_end(self) -> None:
        """Check for NaN before a checkpoint is written, also in an epoch without validation."""
        self._trained.require_finite(f"epoch {self.current_epoch + 1}")
        norms = torch.stack(torch._foreach_norm([weight.detach() for weight in self.parameters()]))
        if not norms.isfinite().all():  # the last step can spoil them
            raise InputError(f"epoch {self.current_epoch + 1}: the weights are NaN or infinite; {DIVERGED}")
        self._step_plateau()

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation images."""
        self._scored.require_finite(f"scoring after epoch {self.current_epoch + 1}")
        scores = self.val_scores.compute()
        self.val_scores.reset()
        self._validated = True
        for name in (*PER_IMAGE, *self.val_scores.added):
            if name in scores:
                self.log(f"val/{name}", scores[name], prog_bar=name == "dice")
            elif self.trainer.state.fn == "fit":  # callbacks may watch it
                self.log(f"val/{name}", torch.nan)

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test part, and of the validation part if there is one."""
        self._scored.require_finite("scoring")
        self.log_dict({f"test/{name}": value for name, value in self.test_scores.compute().items()})
        self.test_scores.reset()
        if self.val_scores.images:
            self.on_validation_epoch_end()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and the schedule."""
        try:
            optimizer = self._make_optimizer(self.parameters())
        except (TypeError, ValueError, RuntimeError) as error:
            remedy = "; remove the key with ~optimizer.fused" if "fused" in str(error) else ""
            raise InputError(f"optimizer cannot be built with these values: {error}{remedy}") from error
        if not isinstance(optimizer, Optimizer):
            raise InputError(f"optimizer gives a {type(optimizer).__name__}, where an Optimizer of torch is needed")
        if self.schedule is None:
            return optimizer
        scheduler, interval, words = self.schedule.build(optimizer, self.trainer)
        log.info("learning rate: %s", words)
        self._plateau = scheduler if isinstance(scheduler, ReduceLROnPlateau) else None
        # Lightning steps it after it writes the checkpoint, so a continued run would miss a step
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": interval, "reduce_on_plateau": False},
        }

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Step a schedule, except ReduceLROnPlateau, which ``on_train_epoch_end`` steps."""
        if scheduler is not self._plateau:
            super().lr_scheduler_step(scheduler, metric)

    def _step_plateau(self) -> None:
        """Step ReduceLROnPlateau if this epoch has the score that it watches."""
        validated, self._validated = self._validated, False
        if self._plateau is None or self.schedule is None:
            return
        watched = self.schedule.watched
        if watched.startswith("val/") and not validated:
            return
        if watched not in self.trainer.callback_metrics:
            there = ", ".join(sorted(self.trainer.callback_metrics))
            raise InputError(f"scheduler.monitor={watched} is not logged; choose one of {there}")
        value = float(self.trainer.callback_metrics[watched])
        if not math.isnan(value):  # an added score may have no value in an epoch
            self._plateau.step(value)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients by ``trainer.gradient_clip_val``, also for a fused optimizer, which Lightning refuses."""
        fused = getattr(optimizer, "_step_supports_amp_scaling", False)
        if not fused or not gradient_clip_val or gradient_clip_val < 0:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None:  # float16's gradients are scaled
            scaler.unscale_(optimizer)
        if gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        else:
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def _scored_logits(self, images: Tensor) -> Tensor:
        """Return the logits of whole images; of tiles, those of the blended probabilities."""
        if self.tiles is None:
            return self(images)

        def ask(tiles: Tensor) -> Tensor:
            return self(tiles.to(self.device)).float().sigmoid().cpu()

        pictures = (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        seen = [np.concatenate(list(self.tiles.bands(picture, ask, self.device))) for picture in pictures]
        return torch.from_numpy(np.stack(seen))[:, None].to(self.device).logit(eps=1e-6)

    def _score(self, batch: Batch, stage: str, scores: SegmentationScores) -> dict[str, Any]:
        """Log the loss, add to the scores, and return probabilities and scores per image for the callbacks."""
        logits, ignored = self._scored_logits(batch["image"]), batch.get("ignored")
        probability = logits.float().sigmoid()
        seen = (
            probability if ignored is None else probability.masked_fill(ignored, 0),
            batch["mask"],
            batch.get("vanished"),
        )
        per_image = image_scores(*seen) | self.added_scores(*seen)
        if "ids" in batch:
            objects = score_objects(
                probability, batch["mask"], batch["ids"], batch["numbered"], batch["vanished"], ignored=ignored
            )
            per_image |= {name: values.to(self.device, torch.float32) for name, values in objects.items()}
        scores.update(per_image)
        loss = self.loss(*without_ignored(logits, batch["mask"], ignored))
        self._scored.see(batch["name"], logits, loss)
        self.log(f"{stage}/loss", loss, on_epoch=True, batch_size=len(logits), add_dataloader_idx=False)
        return {"probability": probability, **per_image}
