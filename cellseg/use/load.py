"""Load a finished run with its network, or a file of weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from cellseg.data.images import read_image
from cellseg.networks import UNet
from cellseg.run.building import OWN, build_foreign, build_own, is_own, origin_of, targets_of
from cellseg.run.folder import NetworkFacts, RunFolder
from cellseg.run.probing import probe
from cellseg.storage.errors import InputError
from cellseg.storage.tensors import read_tensors
from cellseg.use.inference import Predictor

if TYPE_CHECKING:
    import pandas as pd

DENSE = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8}
DENSE |= {torch.int8, torch.int16, torch.int32, torch.int64}
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Run:
    """A finished run, read back from its folder.

    Attributes:
        files: Its folder, by the schema.
        network: The network with the weights that were scored, in evaluation mode, on the CPU.
        facts: What is known of the network by trying.
    """

    files: RunFolder
    network: nn.Module
    facts: NetworkFacts

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.files.path

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, as ``config.yaml`` has it."""
        return self.files.config

    @property
    def summary(self) -> dict[str, Any]:
        """The content of ``summary.json``."""
        return self.files.summary.model_dump(mode="json")

    @property
    def split(self) -> dict[str, Any]:
        """The content of ``split.json``."""
        return self.files.split.model_dump(mode="json")

    @property
    def per_image(self) -> "pd.DataFrame":
        """A row for every scored image, as ``per_image.csv`` has it."""
        return self.files.per_image

    @property
    def curves(self) -> "pd.DataFrame":
        """A row for every epoch, as ``metrics.csv`` has it."""
        return self.files.epochs

    @property
    def image_size(self) -> int:
        """Side in pixels of the squares that it was trained on."""
        return self.files.settings.data.image_size

    def predict(self, image: Image.Image | NDArray[np.uint8] | Path | str) -> NDArray[np.float32]:
        """Return the probability of cell for every pixel of an image, shape (H, W) of its own size, in [0, 1].

        The image is seen as the test images were: whole and resized, or in tiles with ``data.resize=crop``.

        Args:
            image: A file, an opened image, or an array (H, W) or (H, W, C), read as training reads it.
        """
        source = Path(image) if isinstance(image, str) else image
        return self._predictor.probability(read_image(source, self.files.settings.reading.channels).pixels)

    @cached_property
    def _predictor(self) -> Predictor:
        return Predictor(
            [self.network],
            self.image_size,
            facts=self.facts,
            precision=self.files.summary.precision,
            tiles=self.files.settings.data.resize == "crop",
        )


def load_run(path: Path | str, *, trust: bool = False, network: nn.Module | None = None) -> Run:
    """Read a finished run; nothing stored in its files is executed.

    Args:
        path: Its folder.
        trust: Whether a network of another package is imported and built as the configuration of the run says.
        network: A network to load the weights into, instead of building one; it is changed.

    Raises:
        InputError: If the folder holds no finished run, one of a network that is not from this package and not trusted,
            or files of it are damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; name the run folder printed at the end of training")
    run = RunFolder(folder)
    if not run.finished:
        raise InputError(f"{folder} is not a finished run: {_why_no_run(folder)}")
    if run.summary.masks is not None:
        raise InputError(
            f"{folder} has the scores of masks of {run.summary.model}, not a network; name a run that was trained"
        )
    if run.summary.scored_on is not None:
        raise InputError(
            f"{folder} has only scores, made by cellseg report --truth; name the run of the study they are from"
        )
    model = run.config.get("model")
    settings, facts = model if isinstance(model, dict) else {}, run.summary.network
    if network is None and not trust and not is_own(settings):
        raise InputError(_untrusted(folder, settings, facts))
    _ = run.settings, run.split  # damage is reported here, not when it is first used
    weights = folder / "weights.pth"
    if network is not None and not isinstance(network, nn.Module):
        raise InputError(f"network must be an nn.Module, such as Mine(), but is {network!r}")
    if network is None and not is_own(settings):
        network = build_foreign(settings, [facts.place] if facts and facts.place else [], folder)
    if network is not None:
        network = with_weights(network, weights)
        return Run(run, network, _tried(run, network))
    own = with_weights(build_own(settings), weights)
    if own.conv.out_channels != 1:
        raise InputError(f"{folder}: its network predicts {own.conv.out_channels} masks, where train.py trains one")
    return Run(run, own, own_facts(own))


def own_facts(network: UNet) -> NetworkFacts:
    """Return what is known of a network of this package without trying it."""
    step = 2**network.depth
    least = 2 * step if network.norm == "instance" else step  # of one value there is no variance
    return NetworkFacts(
        target="cellseg.UNet", place=None, side_multiple=step, side_least=least, side_fixed=False, least_batch=1
    )


def _tried(run: RunFolder, network: nn.Module) -> NetworkFacts:
    """Try a network anew: what its run recorded may be a stranger's words."""
    settings = run.settings
    channels = len(settings.data.channels or "RGB")
    return probe(network, channels, settings.data.image_size, origin_of(settings.model, network))


def _untrusted(folder: Path, settings: Mapping[str, Any], facts: NetworkFacts | None) -> str:
    targets = targets_of(settings)
    if not targets:
        return f"{folder}: its configuration names no network (model._target_)"
    packages = ", ".join(sorted({target.split(".")[0] for target in targets if target not in OWN}))
    place = f" (from {facts.place})" if facts and facts.place else ""
    return (
        f"{folder}: was trained with {settings.get('_target_')}, and to build it the package {packages}{place} must be "
        "imported and run; if you trust it and the run folder, add --trust, in Python load_run(path, trust=True), "
        "or load_run(path, network=...)"
    )


def _why_no_run(folder: Path) -> str:
    """Say why a folder is not a finished run, and what to do."""
    if (folder / "config.yaml").exists():
        return "it has no summary.json; run the command that started it again to finish it"
    for depth, what in ((1, "runs"), (2, "studies")):
        names = sorted({path.parents[depth - 1].name for path in folder.glob(f"{'*/' * depth}config.yaml")})
        if names:
            return f"it is a folder of {what}; name one of them, for example {folder / names[0]}"
    return "it has no summary.json; name a run folder"


def with_weights(network: Network, path: Path) -> Network:
    """Return a network in evaluation mode with the weights of a plain ``state_dict``; nothing in it is executed.

    Raises:
        InputError: If the file cannot be read, or is of another network.
    """
    weights = read_weights(path)
    on_meta = any(weight.is_meta for weight in network.parameters())
    try:
        network.load_state_dict(weights, assign=on_meta)
    except RuntimeError as error:
        seen = " ".join(str(error).split(":", 1)[-1].split())[:200]
        raise InputError(f"{path} contains the weights of another network ({seen})") from error
    return (network.float() if on_meta else network).eval()  # a run in 64-true or bf16-true wrote others


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a plain ``state_dict``; nothing in the file is executed.

    Raises:
        InputError: If the file holds anything else, or cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; name another file of weights, or train the run again")
    weights = read_tensors(path, "name another file of weights, or train the run again")
    plain = isinstance(weights, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items()
    )
    if not plain or not all(map(_dense, weights.values())):
        raise InputError(f"{path}: the file is not a plain state_dict of tensors; name another file of weights")
    # a mask of attention may hold -inf
    if bad := [name for name, value in weights.items() if not (value.isfinite() | value.isneginf()).all()]:
        raise InputError(
            f"{path}: {bad[0]} contains NaN or infinite values, so it cannot predict; name another file of weights"
        )
    return weights


def _dense(value: torch.Tensor) -> bool:
    """Tell a tensor that holds each of its numbers: others could take more memory than their file has bytes."""
    usual = value.dtype in DENSE
    plain = usual and value.layout == torch.strided and value.device.type == "cpu"
    return plain and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
