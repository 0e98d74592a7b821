"""The TensorBoard logger of a run, and charts of several runs."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from cellseg.metrics import OBJECT_SCORES

# HPARAMS sorts scores by name, and shows Dice first only if no other test score comes before it
OBJECTS = {f"test/{score.name}": f"test/objects/{score.name}" for score in OBJECT_SCORES}
BAND = ("mean", "lower", "upper")
# TensorBoard searches these patterns: without their end, curves over seeds (train/loss/mean) would join the charts
LAYOUT = {"cellseg": {"loss": ["Multiline", ["train/loss$", "val/loss$"]], "Dice": ["Multiline", ["val/dice$"]]}}


class RunTensorBoardLogger(TensorBoardLogger):
    """Shows the losses of training and validation in one chart, the learning rate beside them, and no epoch counter."""

    _laid_out = False
    _shown: frozenset[str] = frozenset()  # names that were logged: test scores come again with the settings

    @property
    def experiment(self) -> SummaryWriter:
        """The writer; when it is made, the layout of the custom charts is written."""
        writer: SummaryWriter = super().experiment
        if not self._laid_out:  # other devices have a writer that does nothing
            self._laid_out = True
            writer.add_custom_scalars(LAYOUT)
        return writer

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log scores and losses; Lightning adds the epoch to each, which is only another step."""
        shown = {_place(name): value for name, value in metrics.items()}
        shown.pop("epoch", None)
        self._shown |= shown.keys()
        super().log_metrics(shown, step)

    @rank_zero_only
    def log_hyperparams(
        self,
        params: dict[str, Any] | Namespace,
        metrics: dict[str, Any] | None = None,
        step: int | None = None,
    ) -> None:
        """Log the settings and scores of a run, but no description of all runs.

        Lightning writes one with each run, and TensorBoard takes the first for all; without any it finds out which
        settings differ between the runs, and shows these first.
        """
        if not metrics:
            super().log_hyperparams(params)
            return
        settings = vars(params) if isinstance(params, Namespace) else params
        self.hparams.update(settings)
        metrics = {_place(name): value for name, value in metrics.items()}
        self.log_metrics({name: value for name, value in metrics.items() if name not in self._shown}, step)
        plain = {key: value if isinstance(value, int | float | str) else str(value) for key, value in settings.items()}
        _, begin, end = hparams(plain, metrics)
        writer = self.experiment._get_file_writer()  # as Lightning does
        writer.add_summary(begin)
        writer.add_summary(end)


def _place(name: str) -> str:
    """Return the name under which TensorBoard shows a value."""
    return f"train/{name}" if name.startswith("lr-") else OBJECTS.get(name, name)


def write_bands(folder: Path, curves: Mapping[str, Sequence[tuple[int, float, float]]]) -> None:
    """Write curves of several runs for TensorBoard's custom charts: a mean, and a band around it.

    Args:
        folder: Folder of the events; older ones in it are replaced.
        curves: By name, for each epoch its number, the mean, and the half width of the band.
    """
    for old in folder.glob("events.out.tfevents*"):
        old.unlink()
    with SummaryWriter(folder) as writer:
        tags = {name: [f"{name}/{part}" for part in BAND] for name in curves}
        writer.add_custom_scalars({"over seeds": {name: ["Margin", names] for name, names in tags.items()}})
        for name, points in curves.items():
            for epoch, mean, half in points:
                for tag, value in zip(tags[name], (mean, mean - half, mean + half), strict=True):
                    writer.add_scalar(tag, value, epoch)
