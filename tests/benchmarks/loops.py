"""Time one training, epoch by epoch: ``python tests/benchmarks/loops.py ours --epochs 3``.

Prints a line of JSON. bench.py starts the loops in alternation and compares them. All train the same network on the
same 40 images in batches of one and evaluate the same 10 images after every epoch; only the loop differs.
"""

import argparse
import itertools
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SIDE = 224
LEARNING_RATE = 3e-3
WIDTHS = (32, 64, 128, 256, 512, 32)


def original(root: str, epochs: int) -> Iterator[float]:
    """The original study's loop: it reads and resizes files in every epoch; float32, NCHW, torch's default Adam."""
    from cellseg import DiceLoss, UNet

    members = split(root)
    network, loss = UNet(), DiceLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    for _ in range(epochs):
        began = time.perf_counter()
        network.train()
        for index in torch.randperm(len(members["train"])).tolist():
            image, mask = read(*members["train"][index])
            optimizer.zero_grad()
            loss(network(image), mask).backward()
            optimizer.step()
        network.eval()
        with torch.no_grad():
            for pair in members["test"]:
                image, mask = read(*pair)
                loss(network(image), mask)
        yield time.perf_counter() - began


def bare(root: str, epochs: int) -> Iterator[float]:
    """A plain loop with our settings and data, without Lightning, metrics, logs and checkpoints."""
    from torch.optim.swa_utils import AveragedModel

    from cellseg import DiceBCELoss, UNet
    from cellseg.run.hardware import keep_freed_memory, native_precision

    keep_freed_memory()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    datamodule = our_data(root)
    network = UNet(norm="instance").to(memory_format=torch.channels_last)
    loss = DiceBCELoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=True)
    steps = epochs * datamodule.counts["train"]
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=steps)
    average = AveragedModel(network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.98), use_buffers=True)
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=native_precision("cpu") == "bf16-mixed")
    for _ in range(epochs):
        began = time.perf_counter()
        network.train()
        for batch in datamodule.train_dataloader():
            optimizer.zero_grad()
            with autocast():
                value = loss(network(batch["image"]), batch["mask"])
            value.backward()
            optimizer.step()
            scheduler.step()
            average.update_parameters(network)
        average.eval()
        with torch.no_grad(), autocast():
            for batch in datamodule.val_dataloader():
                loss(average(batch["image"]), batch["mask"])
        yield time.perf_counter() - began


def ours(root: str, epochs: int) -> Iterator[float]:
    """``python train.py data.batch_size=1``, including all files that it writes."""
    yield from trained(f"data.root={root}", "data.batch_size=1", f"trainer.max_epochs={epochs}")


def scaled(root: str, epochs: int) -> Iterator[float]:
    """``python train.py experiment=smoke``: a network so small that reading data could dominate the time."""
    yield from trained(f"data.root={root}", "experiment=smoke", "data.batch_size=8", f"trainer.max_epochs={epochs}")


def trained(*overrides: str) -> Iterator[float]:
    """Train as the command line does, and time the epochs."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from cellseg import train

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", [*overrides, "trainer.accelerator=cpu", "+trainer.enable_progress_bar=false"])
    OmegaConf.update(cfg, "callbacks.stopwatch", {"_target_": "stopwatch.Stopwatch"}, force_add=True)
    with tempfile.TemporaryDirectory() as folder:
        train.run(cfg, Path(folder) / "run")
    from stopwatch import Stopwatch

    yield from Stopwatch.epochs


def monai(root: str, epochs: int) -> Iterator[float]:
    """MONAI's BasicUNet of the same widths in a plain LightningModule with default settings."""
    yield from basic_unet(root, epochs)


def aligned(root: str, epochs: int) -> Iterator[float]:
    """The same with our precision, layout and optimizer, and no checkpoints."""
    from cellseg.run.hardware import native_precision

    precision = native_precision("cpu")
    yield from basic_unet(
        root, epochs, torch.channels_last, fused=True, precision=precision, enable_checkpointing=False
    )


def basic_unet(
    root: str,
    epochs: int,
    layout: torch.memory_format = torch.contiguous_format,
    *,
    fused: bool | None = None,
    **options: Any,
) -> Iterator[float]:
    """Train MONAI's BasicUNet and time the epochs."""
    import lightning as L
    from monai.losses import DiceLoss
    from monai.networks.nets import BasicUNet
    from stopwatch import Stopwatch

    class Plain(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            network = BasicUNet(spatial_dims=2, in_channels=3, out_channels=1, features=WIDTHS)
            self.network = network.to(memory_format=layout)
            self.loss = DiceLoss(sigmoid=True)

        def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
            loss: torch.Tensor = self.loss(self.network(batch["image"]), batch["mask"])
            self.log("train/loss", loss)
            return loss

        def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
            self.log("val/loss", self.loss(self.network(batch["image"]), batch["mask"]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=LEARNING_RATE, fused=fused)

    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            default_root_dir=folder,
            callbacks=[Stopwatch()],
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            **options,
        )
        trainer.fit(Plain(), our_data(root))
    yield from Stopwatch.epochs


def our_data(root: str) -> Any:
    """Return the data of the default recipe in batches of one."""
    from cellseg import CellDataModule
    from cellseg.data import Dihedral, SplitPlan

    datamodule = CellDataModule(
        root, batch_size=1, image_size=SIDE, split=SplitPlan(), augmentation=Dihedral(empty=0.1)
    )
    datamodule.setup()
    return datamodule


def split(root: str) -> dict[str, list[tuple[Path, Path]]]:
    """Return the image and mask files of each subset of our split."""
    from cellseg.data.pairs import find_pairs

    files = {pair.name: (pair.image, pair.masks[0]) for pair in find_pairs(Path(root)).pairs}
    record = our_data(root).split_record()
    return {
        "train": [files[entry.name] for entry in record.train],
        "test": [files[entry.name] for entry in record.test],
    }


def read(image: Path, mask: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode and resize a pair into batches of one: float32, in [0, 1], (1, C, SIDE, SIDE)."""
    pixels = np.asarray(Image.open(image).convert("RGB").resize((SIDE, SIDE)), np.float32)
    cells = np.asarray(Image.open(mask).convert("L").resize((SIDE, SIDE)), np.float32)
    return torch.from_numpy(pixels / 255).permute(2, 0, 1)[None], torch.from_numpy(cells > 20).float()[None, None]


LOOPS: dict[str, Callable[[str, int], Iterator[float]]] = {
    f.__name__: f for f in (original, bare, ours, monai, aligned, scaled)
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("loop", choices=LOOPS)
    parser.add_argument("--root", required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    torch.manual_seed(0)
    seconds = list(itertools.islice(LOOPS[arguments.loop](arguments.root, arguments.epochs), arguments.epochs))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    sys.stdout.write(json.dumps({"seconds": seconds, "peak_mb": peak}) + "\n")
