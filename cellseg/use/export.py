"""Export a network as ONNX or as a torch program, for use without cellseg.

Input: images (N, C, H, W) in [0, 1], RGB or the channels of the run, sides that are multiples of ``side_multiple`` and
at least ``side_least`` (stored in the file). Output: the probability of cell (N, 1, H, W).
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellseg.metrics import THRESHOLD
from cellseg.run.folder import NetworkFacts
from cellseg.storage.errors import InputError
from cellseg.storage.files import new_file
from cellseg.use.load import Run
from cellseg.use.trained import Trained

TOLERANCE = 1e-4  # maximum difference of a probability between file and network
REAL_IMAGES = 20  # maximum number of test images for the check of a file
MOST_DOUBLINGS, MOST_MULTIPLE = 8, 128  # of the multiple that a network needs, tried where it cannot be traced
LEAST_STEPS, MOST_STEPS = 2, 4096  # multiples in a side; torch takes one for a case of its own

Floats = NDArray[np.float32]
Answer = Callable[[Floats], Floats]


class _Probability(nn.Module):
    """The mean probability of one network or several."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: Tensor) -> Tensor:
        answers = [network(image).sigmoid() for network in self.networks]
        return torch.stack(answers).mean(0) if len(answers) > 1 else answers[0]


def export(trained: Trained, path: Path) -> tuple[float, int]:
    """Write networks to a new file, ``.onnx`` or ``.pt2``, after a check that its output equals theirs.

    Returns:
        The largest difference of a probability, and the number of images in the check.

    Raises:
        InputError: If the ending is wrong, ONNX packages are missing, the file exists, or its output differs.
    """
    if path.suffix not in (".onnx", ".pt2"):
        raise InputError(f"{path}: the name must end in .onnx, or in .pt2 for an exported torch program")
    module = _Probability(list(trained.networks)).eval()
    write, load = (_write_onnx, _load_onnx) if path.suffix == ".onnx" else (_write_pt2, _load_pt2)
    first: Exception | None = None
    with new_file(path) as unfinished, _quiet():
        for network in _asked(trained):
            try:
                write(_traced(module, trained, network), unfinished, describe(trained, network))
                return _compared(load(unfinished), module, trained, network, path)
            except InputError:
                raise
            except Exception as error:  # torch and ONNX raise many kinds of errors
                first = first or error
        said = " ".join(str(first).split())[:300]
        raise InputError(f"{path}: the network cannot be exported ({type(first).__name__}: {said})")


def _asked(trained: Trained) -> Iterator[NetworkFacts]:
    """Yield what to ask of image sides, the least first: one that pads inside is traced for some multiples only."""
    network = trained.facts
    for power in range(0 if network.side_fixed else MOST_DOUBLINGS):
        if power == 0 or network.side_multiple * 2**power <= MOST_MULTIPLE:
            yield network.model_copy(update={"side_multiple": network.side_multiple * 2**power})
    size = trained.image_size
    yield network.model_copy(update={"side_fixed": True, "side_multiple": size, "side_least": size})


def _compared(
    answer: Answer, module: nn.Module, trained: Trained, network: NetworkFacts, path: Path
) -> tuple[float, int]:
    """Return the largest difference between a file and its network, and on how many images it was looked for."""
    worst, images = 0.0, 0
    for batch in _probes(trained, network):
        with torch.inference_mode():
            expected = module(torch.from_numpy(batch)).numpy()
        worst, images = max(worst, float(np.abs(answer(batch) - expected).max())), images + len(batch)
        if not worst <= TOLERANCE:
            raise InputError(f"{path} was not written, because its output differs from the network by {worst:.2g}")
    return worst, images


def describe(trained: Trained, network: NetworkFacts) -> dict[str, str]:
    """Return what a file says of itself; ``network`` is what it asks of images once it is exported."""
    chosen = trained.reading.channels
    count, what = (len(chosen), f"channels {', '.join(map(str, chosen))} of the file") if chosen else (3, "RGB")
    return {
        "network": trained.name,
        "run": ", ".join(run.folder.name for run in trained.runs) or "none",
        "data_fingerprint": ", ".join(sorted({run.files.summary.data.fingerprint for run in trained.runs})),
        "git_commit": ", ".join(sorted({str(run.files.summary.git_commit) for run in trained.runs})),
        "input": f"image: float32 (batch, {count}, height, width), {what}, 0 to 1",
        "scaling": "8-bit values divided by 255",
        "image_size": str(trained.image_size),
        "resizing": "seen in tiles at native scale"
        if trained.crops
        else f"seen whole, resized to {trained.image_size}x{trained.image_size}, bilinear, antialiased",
        "side_multiple": str(network.side_multiple),
        "side_least": str(_least(network)),
        "output": "probability: float32 (batch, 1, height, width), of cell, 0 to 1",
        "threshold": str(THRESHOLD),
    }


def _channels(trained: Trained) -> int:
    return len(trained.reading.channels or "RGB")


def _least(network: NetworkFacts) -> int:
    """Return the smallest side of an exported network."""
    if network.side_fixed:
        return network.side_least
    steps = max(LEAST_STEPS, -(-network.side_least // network.side_multiple))
    return steps * network.side_multiple


def _traced(module: nn.Module, trained: Trained, network: NetworkFacts) -> torch.export.ExportedProgram:
    batch, channels = torch.export.Dim("batch", min=1), _channels(trained)
    step, least = network.side_multiple, _least(network)
    if network.side_fixed:
        shape: dict[str, dict[int, Any]] = {"image": {0: batch}}
        example = torch.rand(2, channels, least, least)
    else:
        fewest = least // step
        height, width = (torch.export.Dim(name, min=fewest, max=MOST_STEPS) for name in ("height", "width"))
        shape = {"image": {0: batch, 2: step * height, 3: step * width}}
        sides = ((fewest + more) * step for more in (1, 0))
        example = torch.rand(2, channels, *sides)  # a dimension of 1 would be taken for fixed
    with torch.no_grad():
        return torch.export.export(module, (example,), dynamic_shapes=shape)


def _write_onnx(program: torch.export.ExportedProgram, path: Path, facts: Mapping[str, str]) -> None:
    try:
        import onnx
        import onnxruntime  # noqa: F401 (needed to check the file)
        import onnxscript  # noqa: F401 (needed by torch)
    except ImportError as error:
        raise InputError(
            f"ONNX needs packages that are not installed ({error.name}): "
            "python -m pip install -c constraints.txt -e '.[onnx]'"
        ) from error
    exported = torch.onnx.export(
        program, input_names=["image"], output_names=["probability"], dynamo=True, verbose=False
    )
    assert exported is not None
    model = exported.model_proto
    onnx.helper.set_model_props(model, dict(facts))
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _load_onnx(path: Path) -> Answer:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"image": images})[0]


def _write_pt2(program: torch.export.ExportedProgram, path: Path, facts: Mapping[str, str]) -> None:
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={"metadata.json": json.dumps(facts, indent=2)})


def _load_pt2(path: Path) -> Answer:
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return lambda images: module(torch.from_numpy(images)).detach().numpy()


def _probes(trained: Trained, network: NetworkFacts) -> Iterator[Floats]:
    """Yield noise, and the test images of the runs at three sizes."""
    rng = np.random.default_rng(0)
    step, least, fixed = network.side_multiple, _least(network), network.side_fixed
    usual = max(least, -(-trained.image_size // step) * step)
    yield rng.random((2, _channels(trained), usual, usual if fixed else 2 * usual), np.float32)
    for image in _real_images(trained.runs):
        for size in (usual,) if fixed else (usual, max(least, usual // 2 // step * step), usual + step):
            yield torch.nn.functional.interpolate(
                torch.from_numpy(image), (size, size), mode="bilinear", antialias=True
            ).numpy()


def _real_images(runs: Sequence[Run]) -> Iterator[Floats]:
    names = [(run, name) for run in runs for name in run.files.test_rows["image"]]
    for run, name in names[:REAL_IMAGES]:
        with suppress(InputError):  # skip damaged images
            yield np.divide(run.files.prediction(name).image.transpose(2, 0, 1)[None], 255, dtype=np.float32)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide messages of the exporters that do not concern the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
