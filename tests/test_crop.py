"""Images at native scale: random crops in training, tiles in everything that scores or predicts."""

import csv
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cellseg import CellDataModule, load_run, train
from cellseg.cli import app
from cellseg.data.dataset import random_crop
from cellseg.metrics import image_scores
from cellseg.run.folder import RunFolder
from cellseg.storage.errors import InputError
from conftest import smoke

SIZES = {"cell_1": (96, 72), "cell_2": (50, 72), "cell_3": (30, 20), "cell_4": (96, 60)}  # sides of 64 lie between


@pytest.fixture(scope="module")
def mixed(smears, tmp_path_factory):
    """Pairs of several sizes; all files are lossless."""
    root = tmp_path_factory.mktemp("mixed") / "data"
    for folder in sorted(smears.iterdir()):
        (root / folder.name).mkdir(parents=True)
        width, height = SIZES.get(folder.name, (96, 72))
        for file in (folder / "source.jpg", next(folder.glob("mask.*"))):
            with Image.open(file) as picture:
                corner = picture.convert("L" if file.stem == "mask" else "RGB").crop((0, 0, width, height))
            if file.stem == "mask":
                corner = corner.point(lambda value: 255 * (value > 127))
            corner.save(root / folder.name / f"{file.stem}.png")
    return root


@pytest.fixture(scope="module")
def cropped(mixed, tmp_path_factory):
    """A run on crops; two folds, so that small and large images are tested."""
    folder = tmp_path_factory.mktemp("logs") / "study" / "run"
    learning = ("callbacks=default", "trainer.max_epochs=12", "optimizer.lr=1e-2")
    train.run(smoke(*options(mixed), *learning, "data.resize=crop"), folder)
    assert RunFolder(folder).test_rows["predicted_pixels"].sum() > 0
    return folder


def options(root):
    return f"data.root={root}", "data.split.folds=2", "data.split.fold=0"


def prepared(root, **options):
    datamodule = CellDataModule(str(root), resize="crop", image_size=64, **options)
    datamodule.setup()
    return datamodule


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.output


def source_of(root, name):
    with Image.open(root / name / "source.png") as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("size", [(96, 72), (64, 64), (65, 20), (3, 200), (1, 1)])
def test_a_crop_is_a_window_of_the_image_continued_by_its_mirror_image(size):
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (3, height, width), np.uint8)
    for seed in range(20):
        image, cells = random_crop(pixels, pixels[:1], 64, torch.Generator().manual_seed(seed))
        assert image.shape == (3, 64, 64)
        assert np.array_equal(image[:1], cells)
        across, down = min(64, width), min(64, height)
        assert any(
            np.array_equal(image[:, :down, :across], pixels[:, top : top + down, left : left + across])
            for top in range(height - down + 1)
            for left in range(width - across + 1)
        )
        if width < 64 <= 2 * width:
            assert np.array_equal(image[:, :, width:], image[:, :, 2 * width - 64 : width][:, :, ::-1])


def test_every_window_is_equally_likely():
    pixels = np.arange(5, dtype=np.uint8)[None, None].repeat(5, axis=1)
    generator = torch.Generator().manual_seed(0)
    first = [int(random_crop(pixels, pixels, 3, generator)[0][0, 0, 0]) for _ in range(3000)]
    assert np.bincount(first).min() > 900
    assert set(first) == {0, 1, 2}


def test_crops_depend_on_seed_epoch_and_image_only(mixed):
    def crops(seed, number, size):
        loader = prepared(mixed, seed=seed, batch_size=size).train_dataloader()
        loader.sampler.set_epoch(number)
        return {
            name: image.numpy().tobytes()
            for batch in loader
            for name, image in zip(batch["name"], batch["image"], strict=True)
        }

    first = crops(0, 1, 2)
    assert first == crops(0, 1, 3)
    for other in (crops(0, 2, 2), crops(1, 1, 2)):
        assert first.keys() == other.keys()
        assert sum(first[name] != other[name] for name in first) > len(first) / 2


def test_images_are_scored_at_their_own_size(cropped, mixed):
    run = RunFolder(cropped)
    assert len(run.test_rows) == 5
    sizes = set()
    for row in run.test_rows.to_dict("records"):
        kept, source = run.prediction(row["image"]), source_of(mixed, row["image"])
        assert np.array_equal(kept.image, source)
        sizes.add(source.shape[:2])
        with Image.open(mixed / row["image"] / "mask.png") as mask:
            assert np.array_equal(kept.truth, np.asarray(mask) > 0)
        scores = image_scores(*(torch.from_numpy(part)[None, None].float() for part in (kept.mask, kept.truth)))
        assert scores["dice"].item() == pytest.approx(row["dice"], abs=1e-6)
    assert len(sizes) > 1
    with (cropped / "baselines.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * 5


def test_predict_evaluate_and_review_see_an_image_as_the_test_did(cropped, mixed, tmp_path):
    output = invoke("predict", cropped, mixed, "--output", tmp_path / "out")
    assert "in tiles at native scale, as in training" in " ".join(output.split())
    run, loaded = RunFolder(cropped), load_run(cropped)
    for name in run.test_rows["image"]:
        kept = run.prediction(name)
        with Image.open(tmp_path / "out" / "masks" / f"{name}.png") as mask:
            assert np.array_equal(np.asarray(mask) > 0, kept.mask)
        assert np.array_equal(loaded.predict(source_of(mixed, name)) > 0.5, kept.mask)
    invoke("evaluate", cropped, mixed, "--output", tmp_path / "scores")
    with (tmp_path / "scores" / "per_image.csv").open() as file:
        scores = {row["image"]: float(row["dice"]) for row in csv.DictReader(file)}
    for row in run.test_rows.to_dict("records"):
        assert scores[row["image"]] == pytest.approx(row["dice"], abs=1e-6)
    invoke("review", cropped, "--output", tmp_path / "review")
    assert "pixels of the image" in (tmp_path / "review" / "review.html").read_text()


@pytest.mark.slow
def test_runs_at_native_scale_are_not_compared_with_resized_ones(cropped, mixed, tmp_path):
    study = tmp_path / "study"
    shutil.copytree(cropped, study / "crop")
    train.run(smoke(*options(mixed)), study / "whole")
    assert "cannot be compared: one was scored on resized images" in " ".join(invoke("report", study).split())


def test_an_unknown_way_of_resizing_is_refused():
    with pytest.raises(InputError, match=r"data\.resize must be whole or crop, but is 'tile'"):
        CellDataModule(resize="tile")
