"""Measure what separating cells and scoring them takes for each image, beside the network; see bench.py.

The images are drawn smears of 224x224 with about 60 cells, the network is the default one, and the predictions are the
exact masks, in which cells touch.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cellseg import UNet
from cellseg.data.synthetic import SmearStyle, write_synthetic
from cellseg.metrics import score_objects
from cellseg.objects import label_objects
from cellseg.run.hardware import keep_freed_memory, native_precision

SIDE, IMAGES, ROUNDS = 224, 20, 5


def seconds(work: Callable[[int], object]) -> float:
    """Return the seconds that a function takes for each image."""
    began = time.perf_counter()
    for index in range(IMAGES):
        work(index)
    return (time.perf_counter() - began) / IMAGES


def main() -> None:
    """Print the seconds of each round."""
    keep_freed_memory()
    network = UNet(norm="instance").to(memory_format=torch.channels_last).eval()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "smears"
        write_synthetic(root, IMAGES, 7, SmearStyle.sized(SIDE, SIDE), exact=True)
        masks = [np.asarray(Image.open(path)) > 0 for path in sorted(root.glob("*/exact.png"))]
        ids = [np.asarray(Image.open(path), np.int32) for path in sorted(root.glob("*/ids.png"))]
    image = torch.rand(1, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    mixed = native_precision("cpu") == "bf16-mixed"
    one, none = torch.ones(1, dtype=torch.bool), torch.zeros(1)

    def look(index: int) -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            network(image)

    def separate(index: int) -> None:
        label_objects(masks[index])

    def score(index: int) -> None:
        mask = torch.from_numpy(masks[index])[None, None].float()
        score_objects(mask, mask, torch.from_numpy(ids[index])[None], one, none)

    for work in (look, separate, score):
        work(0)
    rounds = [{work.__name__: seconds(work) for work in (look, separate, score)} for _ in range(ROUNDS)]
    sys.stdout.write(json.dumps(rounds) + "\n")


if __name__ == "__main__":
    main()
