"""The record of a finished run, assembled from what trained it."""

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cellseg.data import CellDataModule
from cellseg.run.hardware import describe_device
from cellseg.run.module import SegmentationModule
from cellseg.storage.errors import InputError


def summarise(
    trainer: L.Trainer,
    module: SegmentationModule,
    datamodule: CellDataModule,
    *,
    metrics: Mapping[str, Tensor],
    image_rows: Sequence[Mapping[str, Any]],
    seed: int,
    seconds: Mapping[str, float],
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what ``summary.json`` holds.

    Args:
        trainer: After the test.
        module: With the weights that were tested.
        datamodule: Whose images were used.
        metrics: Final values by logged key.
        image_rows: The rows of ``per_image.csv``.
        seed: The run's seed.
        seconds: Wall time by phase.
        origin: Versions and commit, as ``provenance`` gave them when the run began.

    Raises:
        InputError: If a metric is not a number, because training diverged, or not all test images were scored.
    """
    values = {name: float(value) for name, value in metrics.items()}
    if bad := [name for name, value in values.items() if not math.isfinite(value)]:
        raise InputError(f"{', '.join(bad)} came out as no number: training diverged; lower optimizer.lr")
    tested = [row for row in image_rows if row["subset"] == "test"]
    if len(tested) != datamodule.counts["test"]:
        raise InputError(
            f"only {len(tested)} of {datamodule.counts['test']} test images were scored, so this is no result; "
            "run without trainer.limit_test_batches and trainer.fast_dev_run"
        )
    callbacks: Sequence[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it in a helper
    device = trainer.strategy.root_device
    return {
        "status": "finished",
        "model": module.network_name,
        "seed": seed,
        "metrics": values,
        "averaging": {
            "test/dice, test/iou, test/soft_dice": "mean over test images, each image counting the same",
            "test/dice_pooled, test/iou_pooled": "over all pixels of all test images together",
            "threshold": "a pixel is cell above probability 0.5; soft_dice uses the probabilities themselves",
            "empty masks": "Dice and IoU are 1 where truth and prediction are both empty, 0 where only one is",
        },
        "spread_over_test_images": {
            name: statistics.stdev(row[name] for row in tested) if len(tested) > 1 else None
            for name in ("dice", "iou", "soft_dice")
        },
        "scored_weights": ("best by val/dice" if datamodule.has_validation else "final")
        + (", moving average" if any(isinstance(c, WeightAveraging) for c in callbacks) else ""),
        "validation": "images of their own" if datamodule.has_validation else "test images, watched but not chosen by",
        "counts": datamodule.counts | {"epochs": trainer.current_epoch, "steps": trainer.global_step},
        "seconds": dict(seconds),
        "peak_memory_bytes": {"process": _peak_process_memory(), "device": _peak_device_memory(device)},
        "parameters": sum(parameter.numel() for parameter in module.network.parameters()),
        "gflop_per_image": _gflop(module.network, datamodule),
        "device": describe_device(device),
        "devices": trainer.world_size,
        "precision": trainer.precision,
        "data": datamodule.data_record(),
        **origin,
    }


def _gflop(network: nn.Module, datamodule: CellDataModule) -> float:
    """Return 10^9 operations of one image's way through the network; a multiplication and its addition count as two."""
    image = next(iter(datamodule.test_dataloader()[0]))["image"][:1]
    weight = next(network.parameters())
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network.eval()(image.to(weight))
    return counter.get_total_flops() / 1e9


def _peak_process_memory() -> int | None:
    """Return the most memory this process ever held, in bytes; None on Windows, which does not say."""
    if sys.platform == "win32":
        return None
    import resource  # not there on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak_device_memory(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
