"""Time a training step on a GPU, eager and captured, and compare it with the limit of arithmetic and memory traffic.

    python tests/benchmarks/gpu.py --data PATH      # steps of the three networks, then the original study, ten seeds
    python tests/benchmarks/gpu.py --device cpu --epochs 1 --seeds 1      # the same without a GPU, nothing captured

All images are on the device. A captured step is one CUDA graph: it chooses its image by a counter and increments the
counter, so training only replays the graph. Runs share the GPU as graphs, each on its own stream.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cellseg import CellDataModule, DiceLoss, PotiNet, UNet, XopiNet
from cellseg.data import SplitPlan
from cellseg.data.dataset import derived_seed
from cellseg.metrics import image_scores

NETWORKS: dict[str, Callable[[], nn.Module]] = {"UNet": UNet, "PotiNet": PotiNet, "XopiNet": XopiNet}
LEARNING_RATE = 1e-4  # the original study's
WARM_UP, TIMED = 20, 200  # steps
MATRIX, COPIED = 8192, 2**28  # matrix side and bytes of a copy, to measure the device

console = Console()


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write, each tensor once per operation; views count as 0."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors: list[Tensor] = []
            torch.utils._pytree.tree_map_only(Tensor, tensors.append, (args, kwargs, result))
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


class Training:
    """A network with its optimizer and the images of one split on the device; ``step`` trains on the next image."""

    def __init__(self, make: Callable[[], nn.Module], seed: int, images: Tensor, masks: Tensor, steps: int) -> None:
        torch.manual_seed(seed)
        self.device = images.device
        self.network = make().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        on_gpu = self.device.type == "cuda"
        self.optimizer = torch.optim.Adam(self.network.parameters(), LEARNING_RATE, fused=True, capturable=on_gpu)
        self.loss, self.images, self.masks = DiceLoss(), images, masks
        generator = torch.Generator().manual_seed(derived_seed(seed))
        epochs = -(-steps // len(images))
        order = torch.cat([torch.randperm(len(images), generator=generator) for _ in range(epochs)])
        self.order, self.place = order.to(self.device), torch.zeros(1, dtype=torch.long, device=self.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream() if on_gpu else None

    def step(self) -> None:
        """Train on one image without any transfer from the CPU."""
        which = self.order[self.place % len(self.order)]
        image, mask = self.images[which].float() / 255, self.masks[which].float()
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16):
            value = self.loss(self.network(image), mask)
        value.backward()
        self.optimizer.step()
        self.place += 1

    def capture(self) -> None:
        """Take three warm-up steps, then record a step as one CUDA graph; the warm-up steps belong to the training."""
        assert self.stream is not None
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(self.stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.step()

    def advance(self) -> None:
        """Take a step; replay the graph if there is one."""
        if self.graph is None:
            self.step()
            return
        with torch.cuda.stream(self.stream):
            self.graph.replay()

    @torch.no_grad()
    def dice(self, images: Tensor, masks: Tensor) -> float:
        """Return the mean Dice over images."""
        self.network.eval()
        with torch.autocast(self.device.type, torch.bfloat16):
            logits = torch.cat([self.network(image[None].float() / 255) for image in images])
        return float(image_scores(logits.float().sigmoid(), masks)["dice"].mean())


def milliseconds(work: Callable[[], None], device: torch.device) -> float:
    """Return the median time of one call."""
    times = []
    for number in range(WARM_UP + TIMED):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        if number >= WARM_UP:
            times.append(time.perf_counter() - began)
    return median(times) * 1000


def wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def rates(device: torch.device) -> tuple[float, float]:
    """Measure the device: operations per second in bfloat16, and bytes per second read and written."""
    side, size = (MATRIX, COPIED) if device.type == "cuda" else (MATRIX // 8, COPIED // 8)
    matrix = torch.rand(side, side, device=device).bfloat16()
    source, target = (torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2))
    product = milliseconds(lambda: torch.matmul(matrix, matrix).sum(), device)  # type: ignore[arg-type,return-value]
    copy = milliseconds(lambda: target.copy_(source), device)  # type: ignore[arg-type,return-value]
    return 2 * side**3 / product * 1000, 2 * size / copy * 1000


def floor(training: Training, operations: float, bandwidth: float) -> float:
    """Return the minimum milliseconds of a step: the larger of the times for its arithmetic and its traffic."""
    with FlopCounterMode(display=False) as counter:
        training.step()
    with Traffic() as traffic:
        training.step()
    return max(counter.get_total_flops() / operations, traffic.bytes / bandwidth) * 1000


def study(images: dict[str, Tensor], masks: dict[str, Tensor], seeds: int, epochs: int, at_once: int) -> dict[str, Any]:
    """Train every network with every seed, some at the same time; return the seconds and each mean test Dice."""
    steps = epochs * len(images["train"])
    began = time.perf_counter()
    dice: dict[str, list[float]] = {name: [] for name in NETWORKS}
    runs = [(name, seed) for name in NETWORKS for seed in range(seeds)]
    for start in range(0, len(runs), at_once):
        some = runs[start : start + at_once]
        trainings = [Training(NETWORKS[name], seed, images["train"], masks["train"], steps) for name, seed in some]
        done = 0
        if images["train"].device.type == "cuda":
            for training in trainings:
                training.capture()
            done = 3
        for _ in range(steps - done):
            for training in trainings:
                training.advance()
        wait(images["train"].device)
        for (name, _), training in zip(some, trainings, strict=True):
            dice[name].append(training.dice(images["test"], masks["test"]))
    return {"seconds": time.perf_counter() - began, "runs": len(runs), "at_once": at_once, "dice": dice}


def load(root: str | None, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return images (N, 3, S, S) and masks (N, 1, S, S) of each subset, uint8, on the device."""
    datamodule = CellDataModule(root, split=SplitPlan())
    datamodule.prepare_data()
    datamodule.setup()
    decoded, record = datamodule.decoded, datamodule.split_record()
    rows = {
        subset: [decoded.row[index] for index in decoded.positions([entry["name"] for entry in record[subset]])]
        for subset in ("train", "test")
    }

    def stacked(store: Any, members: Sequence[int]) -> Tensor:
        return torch.stack([torch.from_numpy(store[row]) for row in members]).to(device)

    return (
        {subset: stacked(decoded.images, members) for subset, members in rows.items()},
        {subset: stacked(decoded.masks, members) for subset, members in rows.items()},
    )


def main() -> None:
    """Measure, print a table, and write gpu.json next to this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder of pairs; without one, the embedded smears")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--at-once", type=int, default=10, help="runs that share the GPU")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    images, masks = load(arguments.data, device)
    operations, bandwidth = rates(device)
    name = torch.cuda.get_device_name(device) if on_gpu else "CPU"
    console.print(f"{name}: {operations / 1e12:.1f} TFLOP/s in bfloat16, {bandwidth / 1e9:.0f} GB/s")
    steps = {}
    for network, make in NETWORKS.items():
        training = Training(make, 0, images["train"], masks["train"], WARM_UP + TIMED)
        eager = milliseconds(training.step, device)
        least = floor(training, operations, bandwidth)
        captured = None
        if on_gpu:
            training.capture()
            captured = milliseconds(training.advance, device)
        steps[network] = {"eager_ms": eager, "captured_ms": captured, "floor_ms": least}
        console.print(network, {key: value and round(value, 3) for key, value in steps[network].items()})
    whole = study(images, masks, arguments.seeds, arguments.epochs, arguments.at_once)
    means = {network: round(sum(values) / len(values), 4) for network, values in whole["dice"].items()}
    console.print(
        f"{whole['runs']} runs of {arguments.epochs} epochs: {whole['seconds']:.0f} s; mean test Dice {means}"
    )
    result = {"device": name, "torch": torch.__version__, "steps": steps, "study": whole}
    (Path(__file__).parent / "gpu.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
