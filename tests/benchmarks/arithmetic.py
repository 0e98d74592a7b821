"""Compare a training step of the default recipe with what the machine allows; see bench.py.

The machine allows arithmetic at the rate of a matrix product, and moving every tensor at the rate of a copy; the bound
is the sum of both times. Every operation reads its tensors once and writes its results once; views are free.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cellseg import DiceBCELoss, UNet
from cellseg.run.hardware import keep_freed_memory, native_precision

SIDE, BATCH = 224, 2
MATRIX = 2048
COPIED = 2**28  # bytes: more than any cache holds
TURNS = 7
WRITES_ONLY = ("copy_", "fill_", "zero_")  # of their first tensor


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write.

    Attributes:
        moved: Bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count its tensors."""
        result = func(*args, **(kwargs or {}))
        schema = func._schema
        if any(value.alias_info and not value.alias_info.is_write for value in schema.returns):
            return result  # a view
        changed = [arg for arg, value in zip(schema.arguments, args, strict=False) if arg.alias_info]
        written = [value for arg, value in zip(schema.arguments, args, strict=False) if arg in changed]
        read = list(args)[1:] if schema.name.split("::")[1] in WRITES_ONLY else [*args, *(kwargs or {}).values()]
        made = [] if changed else [result]
        if schema.name.split("::")[1].startswith("empty"):
            return result
        self.moved += sum(tensor.nbytes for tensor in tensors([read, written, made]))
        return result


def tensors(node: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in nested lists."""
    if isinstance(node, torch.Tensor):
        yield node
    for child in node if isinstance(node, list | tuple) else ():
        yield from tensors(child)


def rate(amount: float, work: Callable[[], object], repeats: int) -> float:
    """Return the operations or bytes per second of a function."""
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    return amount * repeats / (time.perf_counter() - began)


def main() -> None:
    """Measure steps, products and copies in alternation, and print a row of the table."""
    torch.manual_seed(0)
    keep_freed_memory()
    mixed = native_precision("cpu") == "bf16-mixed"
    network, loss = UNet(norm="instance").to(memory_format=torch.channels_last), DiceBCELoss()
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    average = [weight.detach().clone() for weight in network.parameters()]
    image = torch.rand(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    mask = (torch.rand(BATCH, 1, SIDE, SIDE) > 0.8).float()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            value = loss(network(image), mask)
        value.backward()
        optimizer.step()
        torch._foreach_lerp_(average, [weight.detach() for weight in network.parameters()], 0.02)

    step()
    with FlopCounterMode(display=False) as counter:
        step()
    with Traffic() as traffic:
        step()
    matrix = torch.rand(MATRIX, MATRIX).to(torch.bfloat16 if mixed else torch.float32)
    source = torch.rand(COPIED // 4)
    copy = torch.empty_like(source)
    flop = counter.get_total_flops()
    steps, products, copies = list[float](), list[float](), list[float]()
    for _ in range(TURNS):
        steps.append(1 / rate(1, step, 5))
        products.append(rate(2 * MATRIX**3, lambda: matrix @ matrix, 3))
        copies.append(rate(2 * COPIED, lambda: copy.copy_(source), 3))
    bounds = [flop / product + traffic.moved / copied for product, copied in zip(products, copies, strict=True)]
    turns = [bound / seconds for bound, seconds in zip(bounds, steps, strict=True)]
    row = {
        "ratio": median(bounds) / median(steps),
        "from": min(turns),
        "to": max(turns),
        "turns": TURNS,
        "us": f"{1000 * median(steps):.0f} ms",
        "against": f"{1000 * median(bounds):.0f} ms for {flop / 1e9:.0f} GFLOP and {traffic.moved / 1e9:.2f} GB",
        "notes": f"batches of {BATCH} at {SIDE}x{SIDE} with Adam and the moving average; a product in "
        f"{'bfloat16' if mixed else 'float32'} makes {median(products) / 1e9:.0f} GFLOP/s, a copy moves "
        f"{median(copies) / 1e9:.0f} GB/s",
    }
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
