"""Learning rate schedules: any of torch, with its length filled in, stepped per batch or per epoch."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning as L
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CyclicLR,
    LRScheduler,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from cellseg.run.callbacks import StopAfter
from cellseg.storage.errors import InputError

STEP, EPOCH = "step", "epoch"
# names of the length; filled in if the configuration does not give it
LENGTHS = ("total_steps", "T_max", "T_0", "total_iters", "num_training_steps", "max_iters", "max_steps", "max_epochs")
PER_BATCH = (OneCycleLR, CyclicLR)  # stepped after every batch, as their documentation asks
SEVERAL = (SequentialLR, ChainedScheduler)  # made of other schedules


@dataclass(frozen=True)
class Schedule:
    """A schedule before its optimizer and the length of the training are known.

    Attributes:
        make: Called with the optimizer, and with the length if its signature has one.
        interval: "step": after every batch; "epoch": after every epoch. Default: "step" if the length is filled in
            here, and for OneCycleLR and CyclicLR; otherwise "epoch", as in torch's examples.
        monitor: Logged key that ReduceLROnPlateau watches.
    """

    make: Callable[..., LRScheduler]
    interval: str | None = None
    monitor: str | None = None

    def __post_init__(self) -> None:
        if self.interval not in (None, STEP, EPOCH):
            raise InputError(f"scheduler.interval must be {STEP} or {EPOCH}, but is {self.interval!r}")
        if self.monitor is not None and not self.on_plateau:
            raise InputError(
                f"scheduler.monitor is for ReduceLROnPlateau, not {_name(self.make)}; remove it with ~scheduler.monitor"
            )
        if self.on_plateau and self.interval == STEP:
            raise InputError(
                f"{_name(self.make)} watches a score, which is known once per epoch; set scheduler.interval=epoch"
            )

    @property
    def on_plateau(self) -> bool:
        """Whether it is a ReduceLROnPlateau."""
        kind = _kind(self.make)
        return isinstance(kind, type) and issubclass(kind, ReduceLROnPlateau)

    @property
    def watched(self) -> str:
        """The logged key that it watches: ``val/dice`` if higher is better, else ``val/loss``."""
        larger = _given(self.make).get("mode") == "max"
        return self.monitor or ("val/dice" if larger else "val/loss")

    def build(self, optimizer: Optimizer, trainer: L.Trainer) -> tuple[LRScheduler, str, str]:
        """Return the schedule, its interval ("step" or "epoch"), and a description.

        Raises:
            InputError: If it cannot be built, or needs a length and the training has none.
        """
        needed = _lacks_length(self.make)
        once = STEP if needed or _kind(self.make) in PER_BATCH else EPOCH
        interval = self.interval or once
        length = _length(trainer, interval) if needed or _kind(self.make) in SEVERAL else None
        kind = _kind(self.make)
        if isinstance(kind, type) and not issubclass(kind, LRScheduler):
            raise InputError(f"scheduler is a {kind.__name__}, where an LRScheduler of torch is needed")
        try:
            scheduler = _built(self.make, optimizer, length)
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise InputError(f"scheduler cannot be built with these values: {_reason(error)}") from error
        if not isinstance(scheduler, LRScheduler):
            raise InputError(f"scheduler gives a {type(scheduler).__name__}, where an LRScheduler of torch is needed")
        over = f" over {length}" if needed and length else ""
        unit = {STEP: "batch", EPOCH: "epoch"}[interval]
        plural = f" {unit}{'es' if unit == 'batch' else 's'}" if over else ""
        return scheduler, interval, f"{type(scheduler).__name__}{over}{plural}, stepped after every {unit}"


def _built(make: Callable[..., Any], optimizer: Optimizer, length: int | None) -> Any:
    """Build a schedule; its parts first, if it has any."""
    added: dict[str, Any] = {}
    given = _given(make)
    if _kind(make) in SEVERAL and given.get("schedulers"):
        parts = list(given["schedulers"])
        lengths = _lengths_of_parts(length, list(given.get("milestones") or []), len(parts))
        added["schedulers"] = [
            _built(part, optimizer, of_part) if callable(part) else part
            for part, of_part in zip(parts, lengths, strict=True)
        ]
    if name := _lacks_length(make):
        added[name] = length
    if _kind(make) is ChainedScheduler:  # its first argument is not the optimizer
        return make(**{"optimizer": optimizer, **added})
    return make(optimizer, **added)


def _lengths_of_parts(length: int | None, milestones: list[int], parts: int) -> list[int | None]:
    """Return the length of each part of a sequence; each part of a chain is as long as the chain."""
    if length is None or len(milestones) != parts - 1:
        return [length] * parts
    ends = [*milestones, max(length, milestones[-1] + 1 if milestones else 1)]
    return [max(1, end - start) for start, end in zip([0, *milestones], ends, strict=True)]


def _length(trainer: L.Trainer, interval: str) -> int:
    limits = [callback.steps for callback in trainer.callbacks if isinstance(callback, StopAfter)]  # type: ignore[attr-defined]
    steps = min([trainer.estimated_stepping_batches, *limits])
    if not 1 <= steps < math.inf:
        raise InputError(f"a learning rate schedule needs 1 or more steps, not {steps}; set trainer.max_epochs")
    if interval == STEP:
        return int(steps)
    if trainer.max_epochs is not None and trainer.max_epochs > 0 and not limits:
        return trainer.max_epochs
    each = max(1, math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches))
    return math.ceil(steps / each)


def _lacks_length(make: Callable[..., Any]) -> str | None:
    """Return the name of the length, if the schedule needs one and the configuration does not give it."""
    given = _given(make)
    try:
        parameters = inspect.signature(_kind(make)).parameters
    except (TypeError, ValueError):
        return None
    for name in LENGTHS:
        if name not in parameters or given.get(name) is not None:
            continue
        # by default PolynomialLR reaches a rate of 0 after 5 steps
        if parameters[name].default in (inspect.Parameter.empty, None) or _kind(make) is PolynomialLR:
            return None if name == "total_steps" and given.get("epochs") else name
    return None


def _kind(make: Callable[..., Any]) -> Any:
    return make.func if isinstance(make, partial) else make


def _given(make: Callable[..., Any]) -> Mapping[str, Any]:
    return make.keywords if isinstance(make, partial) else {}


def _name(make: Callable[..., Any]) -> str:
    return getattr(_kind(make), "__name__", type(make).__name__)


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split())
    if "cycle_momentum" in said:
        return f"{said}; set +scheduler.cycle_momentum=false"
    if "required" in said and "argument" in said:
        return f"{said}; set it by +scheduler.KEY=VALUE"
    return said
