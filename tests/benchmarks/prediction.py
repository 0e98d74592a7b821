"""Measure images per second of ``cellseg predict`` and of a plain MONAI script with the same network; see bench.py.

Both read the images of a folder, predict, and save for each image a mask, the numbers of its cells, and a picture with
their outlines and numbers, and together a table of position, size, shape and colour of all cells. Both separate
touching cells; the script as in the tutorials of scikit-image, by maxima of the distance to the background that are 10
pixels apart. Both start with the network in memory.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Resized, ScaleIntensityRanged
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt
from skimage.feature import peak_local_max
from skimage.measure import label, regionprops_table
from skimage.segmentation import mark_boundaries, watershed

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cellseg import load_run, train
from cellseg.use.inference import AUTOCAST, Predictor
from cellseg.use.predict import find_sources, predict_files

CONF = Path(train.__file__).resolve().parents[1] / "conf"
SIDE = 224
EPOCHS = 8
ROUNDS = 5
SHAPE = ("label", "centroid", "bbox", "area", "perimeter", "eccentricity", "solidity")
MEASURED = (*SHAPE, "axis_major_length", "axis_minor_length", "intensity_mean")


def separated(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number cells, those that touch too, by a watershed of the distance to the background."""
    distance = distance_transform_edt(mask)
    peaks = peak_local_max(distance, min_distance=10, labels=label(mask))
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    cells: NDArray[np.int32] = watershed(-distance, markers, mask=mask)
    return cells


def with_monai(network: torch.nn.Module, files: list[Path], output: Path, batch: int, *, mixed: bool) -> None:
    """Predict files as a MONAI script does."""
    steps = Compose(
        [
            LoadImaged(
                "image", reader="PILReader", converter=lambda picture: picture.convert("RGB"), reverse_indexing=False
            ),
            EnsureChannelFirstd("image", channel_dim=-1),
            ScaleIntensityRanged("image", 0, 255, 0, 1),
            Resized("image", (SIDE, SIDE)),
        ]
    )
    data = Dataset([{"image": str(file), "path": str(file)} for file in files], steps)
    folders = [output / name for name in ("masks", "labels", "overlays")]
    for folder in folders:
        folder.mkdir(parents=True)
    tables = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        for some in DataLoader(data, batch_size=batch):
            images = some["image"].as_tensor().contiguous(memory_format=torch.channels_last)
            seen = network(images).float().sigmoid()
            for probability, path in zip(seen, map(Path, some["path"]), strict=True):
                picture = np.asarray(Image.open(path).convert("RGB"))
                whole = torch.nn.functional.interpolate(probability[None], picture.shape[:2], mode="bilinear")
                mask = whole[0, 0].numpy() > 0.5
                cells = separated(mask)
                name = f"{path.parent.name}_{path.stem}.png"
                seen_values = np.dstack([picture, whole[0, 0].numpy() * 255])
                table = pd.DataFrame(regionprops_table(cells, seen_values, properties=MEASURED))
                outlined = Image.fromarray((mark_boundaries(picture, cells) * 255).astype(np.uint8))
                pen = ImageDraw.Draw(outlined)
                for number, y, x in zip(table["label"], table["centroid-0"], table["centroid-1"], strict=True):
                    pen.text((x, y), str(number), anchor="mm")
                pictures = (Image.fromarray(mask.astype(np.uint8) * 255), Image.fromarray(cells.astype(np.uint16)))
                for folder, drawn in zip(folders, (*pictures, outlined), strict=True):
                    drawn.save(folder / name)
                tables.append(table.assign(image=name))
    pd.concat(tables).to_csv(output / "objects.csv", index=False)


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
    files = [source.path for source in sources]

    def script() -> float:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            with_monai(network, files, Path(folder) / "out", predictor.at_once, mixed=precision in AUTOCAST)
            return len(files) / (time.perf_counter() - began)

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            predict_files(predictor, sources, Path(folder) / "out")
            return len(files) / (time.perf_counter() - began)

    script(), ours()  # to warm up
    rounds = [{"predict": ours(), "script": script()} for _ in range(ROUNDS)]
    sys.stdout.write(json.dumps(rounds) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
