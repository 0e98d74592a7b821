"""Measure images per second of ``predict_files`` and of the network alone in alternation; see bench.py.

The script first trains the network for a few epochs, so that it predicts cells.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cellseg import load_run, train
from cellseg.use.inference import AUTOCAST, Predictor
from cellseg.use.predict import find_sources, predict_files

CONF = Path(train.__file__).resolve().parents[1] / "conf"
SIDE = 224
EPOCHS = 8
ROUNDS = 5


def main(root: str) -> None:
    """Print images per second of both for every round."""
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [f"data.root={root}", f"trainer.max_epochs={EPOCHS}", "trainer.accelerator=cpu"]
        train.run(compose("config", overrides), Path(folder) / "run")
        run = load_run(Path(folder) / "run")
    precision = run.summary["precision"]
    predictor = Predictor([run.network], SIDE, facts=run.facts, precision=precision, device=torch.device("cpu"))
    sources, _ = find_sources([Path(root)])
    [network] = predictor.networks
    batch = torch.rand(predictor.at_once, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)

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
