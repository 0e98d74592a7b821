"""Measure the floating point operations per second of a training step of UNet and of matrix products; see bench.py."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cellseg import DiceLoss, UNet
from cellseg.run.hardware import keep_freed_memory, native_precision

SIDE = 224
MATRIX = 2048
TURNS = 7


def rate(flop: float, work: Callable[[], object], repeats: int) -> float:
    """Return the operations per second of a function."""
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    return flop * repeats / (time.perf_counter() - began)


def main() -> None:
    """Measure steps and products in alternation, and print a row of the table."""
    torch.manual_seed(0)
    keep_freed_memory()
    mixed = native_precision("cpu") == "bf16-mixed"
    network, loss = UNet().to(memory_format=torch.channels_last), DiceLoss()
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    image, mask = torch.rand(1, 3, SIDE, SIDE), (torch.rand(1, 1, SIDE, SIDE) > 0.8).float()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            value = loss(network(image), mask)
        value.backward()
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step()
    matrices = {dtype: torch.rand(MATRIX, MATRIX).to(dtype) for dtype in (torch.float32, torch.bfloat16)}
    rates: dict[str, list[float]] = {"step": [], "torch.float32": [], "torch.bfloat16": []}
    for _ in range(TURNS):
        rates["step"].append(rate(counter.get_total_flops(), step, 5))
        for dtype, matrix in matrices.items():
            rates[str(dtype)].append(rate(2 * MATRIX**3, lambda matrix=matrix: matrix @ matrix, 3))  # type: ignore[misc]
    own = rates["torch.bfloat16" if mixed else "torch.float32"]
    turns = [ours / theirs for ours, theirs in zip(rates["step"], own, strict=True)]
    giga = {name: median(values) / 1e9 for name, values in rates.items()}
    row = {
        "ratio": median(rates["step"]) / median(own),
        "from": min(turns),
        "to": max(turns),
        "turns": TURNS,
        "us": f"{giga['step']:.0f} GFLOP/s",
        "against": f"{giga['torch.bfloat16']:.0f} GFLOP/s in bfloat16, {giga['torch.float32']:.0f} in float32",
        "notes": f"{counter.get_total_flops() / 1e9:.1f} GFLOP a step; the ratio is to "
        f"{'bfloat16' if mixed else 'float32'}, to float32 it is {giga['step'] / giga['torch.float32']:.2f}",
    }
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
