"""The summary of a finished run."""

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cellseg.data import CellDataModule
from cellseg.metrics import OBJECT_SCORES, PER_IMAGE, Score, describe_ignored, describe_objects
from cellseg.run.folder import SCHEMA, Counts, DataFacts, NetworkFacts, PeakMemory, Summary
from cellseg.run.hardware import describe_device
from cellseg.run.module import SegmentationModule
from cellseg.storage.errors import InputError

VALIDATION = {True: "a validation part", False: "test images, which choose nothing"}
AVERAGING = {
    "test/dice, test/iou, test/soft_dice": "mean over test images, each image counts the same",
    "test/dice_pooled, test/iou_pooled": "over all pixels of all test images together",
    "threshold": "a pixel is cell above probability 0.5; soft_dice uses the probabilities themselves",
    "empty masks": "scores are 1 where truth and prediction are both empty, 0 where only one is",
    **{f"test/{score.name}": score.how for score in OBJECT_SCORES},
}


def summarise(
    trainer: L.Trainer,
    module: SegmentationModule,
    datamodule: CellDataModule,
    *,
    metrics: Mapping[str, Tensor],
    image_rows: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
    network: NetworkFacts,
    score_places: Sequence[str],
    origin: Mapping[str, Any],
) -> Summary:
    """Return the summary of a tested run.

    Args:
        trainer: The trainer after the test.
        module: The module with the tested weights.
        datamodule: The data module of the run.
        metrics: Final values by logged key.
        image_rows: The rows of ``per_image.csv``.
        seconds: Wall time by phase.
        network: Properties of the network that were found by trying it.
        score_places: The folders from which added scores were imported.
        origin: Seed, command, and the result of ``provenance`` at the start of the run.

    Raises:
        InputError: If a metric is NaN or infinite, or not all test images were scored.
    """
    tested = _tested(image_rows, datamodule.counts["test"])
    added = module.added_scores.described
    names = [*PER_IMAGE, *(score.name for score in (*OBJECT_SCORES, *added))]
    numbered = sum(row["objects_from"] == "ids" for row in tested)
    device = trainer.strategy.root_device
    return Summary(
        schema_version=SCHEMA,
        status="finished",
        model=module.network_name,
        date=datetime.now(UTC).replace(microsecond=0),
        metrics=_finite(metrics),
        averaging=AVERAGING
        | {"objects": describe_objects(numbered, len(tested)).removeprefix("objects: ")}
        | describe_ignored([row["ignored_pixels"] for row in tested], [row["ignored_objects"] for row in tested])
        | {f"test/{score.name}": _averaging(score, tested) for score in added},
        spread_over_test_images={
            name: _spread([row[name] for row in tested if row[name] is not None]) for name in names
        },
        scored_weights=_scored_weights(trainer, datamodule),
        validation=VALIDATION[datamodule.has_validation],
        counts=Counts(**datamodule.counts, epochs=trainer.current_epoch, steps=trainer.global_step),
        seconds=dict(seconds),
        peak_memory_bytes=PeakMemory(process=_peak_process_memory(), device=_peak_device_memory(device)),
        parameters=sum(parameter.numel() for parameter in module.network.parameters()),
        gflop_per_image=_gflop(module.network, datamodule),
        device=describe_device(device),
        devices=trainer.world_size,
        precision=str(trainer.precision),
        data=DataFacts(**datamodule.data_record()),
        network=network,
        added_scores={score.name: score.better for score in added},
        score_places=list(score_places),
        **origin,
    )


def _tested(rows: Sequence[Mapping[str, Any]], wanted: int) -> list[Mapping[str, Any]]:
    tested = [row for row in rows if row["subset"] == "test"]
    if len(tested) != wanted:
        raise InputError(
            f"only {len(tested)} of {wanted} test images were scored, so there is no result; "
            "check callbacks and plugins that skip test batches"
        )
    return tested


def _finite(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    values = {name: float(value) for name, value in metrics.items()}
    if bad := [name for name, value in values.items() if not math.isfinite(value)]:
        raise InputError(f"{', '.join(bad)} is NaN or infinite: training diverged; lower optimizer.lr")
    return values


def _averaging(score: Score, tested: Sequence[Mapping[str, Any]]) -> str:
    """Describe over which images an added score is averaged."""
    valued = sum(row[score.name] is not None for row in tested)
    return score.how if valued == len(tested) else f"{score.how}: {valued} of {len(tested)} test images"


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _scored_weights(trainer: L.Trainer, datamodule: CellDataModule) -> str:
    callbacks: Sequence[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it in a helper
    averaged = any(isinstance(callback, WeightAveraging) for callback in callbacks)
    return ("best by val/dice" if datamodule.has_validation else "final") + (", moving average" if averaged else "")


def _gflop(network: nn.Module, datamodule: CellDataModule) -> float:
    """Return 10^9 operations of one training image's forward pass; a multiplication and its addition count as two."""
    size = datamodule.image_size
    image = torch.zeros(1, len(datamodule.reading.channels or "RGB"), size, size)
    weight = next(network.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(image.to(weight))
    return counter.get_total_flops() / 1e9


def _peak_process_memory() -> int | None:
    """Return the peak memory of this process in bytes; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource  # does not exist on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak_device_memory(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
