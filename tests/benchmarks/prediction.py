"""Images a second of ``predict_files`` and of the network alone on ready tensors, in turn; see bench.py."""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cellseg import UNet
from cellseg.hardware import native_precision
from cellseg.predict import AUTOCAST, BATCH_PIXELS, Predictor
from cellseg.use.predict_files import find_sources, predict_files

SIDE = 224
ROUNDS = 5


def main(root: str) -> None:
    """Print, for every round, images a second of both."""
    torch.manual_seed(0)
    precision = native_precision("cpu")
    predictor = Predictor([UNet().eval()], SIDE, step=16, precision=precision, device=torch.device("cpu"))
    sources, _ = find_sources([Path(root)])
    [network] = predictor.networks
    batch = torch.rand(BATCH_PIXELS["cpu"] // SIDE**2, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)

    def alone() -> float:
        began = time.perf_counter()
        seen = 0
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision in AUTOCAST):
            while seen < len(sources):
                seen += len(network(batch))
        return seen / (time.perf_counter() - began)

    def whole() -> float:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            predict_files(predictor, sources, Path(folder) / "out")
            return len(sources) / (time.perf_counter() - began)

    alone(), whole()  # to warm up
    rounds = [{"predict": whole(), "network": alone()} for _ in range(ROUNDS)]
    sys.stdout.write(json.dumps(rounds) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
