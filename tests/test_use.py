"""The use of a run: masks of any image, scores on unseen images, review of labels, export."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image
from typer.testing import CliRunner

from cellseg import PotiNet, UNet, XopiNet, load_run, train
from cellseg.cli import app
from cellseg.data.facts import Reading
from cellseg.data.images import read_image
from cellseg.objects import UNLABELLED
from cellseg.run.folder import RunFolder, write_prediction
from cellseg.storage.csv_files import write_csv
from cellseg.storage.errors import InputError
from cellseg.study.collect import read_study
from cellseg.use.evaluate import estimate_scores
from cellseg.use.inference import Predictor
from cellseg.use.predict import find_sources, predict_files
from cellseg.use.scale import find_scale, size_warning
from cellseg.use.trained import Trained, find_trained
from conftest import smoke


def invoke(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output + str(result.exception)
    return result.output


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pixels(path):
    with Image.open(path) as opened:
        return np.asarray(opened)


@pytest.fixture(scope="module")
def study(smears, tmp_path_factory):
    """Two networks on two folds of five, and of the first also another seed."""
    folder = tmp_path_factory.mktemp("logs") / "study"
    for name, model, seed, fold in (
        ("a0", "unet", 0, 0),
        ("a1", "unet", 0, 1),
        ("a2", "unet", 1, 0),
        ("b0", "potinet", 0, 0),
    ):
        overrides = (f"model={model}", f"seed={seed}", "data.split.folds=5", f"data.split.fold={fold}")
        train.run(smoke(f"data.root={smears}", "trainer.max_epochs=1", *overrides), folder / name)
    return folder


# predict


def test_a_mask_has_the_size_of_its_image_and_is_what_the_run_predicts(finished, smears, tmp_path):
    image = smears / "cell_1" / "source.jpg"
    said = invoke("predict", finished, image, "--output", tmp_path / "out", "--probabilities")
    assert "images are seen whole, resized to 64x64, as in training" in said
    probability = load_run(finished).predict(image)
    mask = pixels(tmp_path / "out" / "masks" / "source.png")
    assert mask.shape == (72, 96)
    assert np.array_equal(mask, np.where(probability > 0.5, 255, 0))
    deep = pixels(tmp_path / "out" / "probabilities" / "source.png")
    assert deep.dtype == np.uint16
    assert np.abs(deep / 65535 - probability).max() < 1e-5
    assert pixels(tmp_path / "out" / "overlays" / "source.png").shape == (72, 96, 3)
    [row] = rows(tmp_path / "out" / "images.csv")
    assert (row["image"], row["width"], row["height"]) == ("source", "96", "72")
    assert float(row["cell_share"]) == pytest.approx((probability > 0.5).mean())
    assert int(row["objects"]) == len(rows(tmp_path / "out" / "objects.csv"))


def test_of_a_data_set_the_images_are_taken_and_of_any_other_folder_all_pictures(smears, tmp_path):
    sources, problems = find_sources([smears])
    assert [source.name for source in sources] == [f"cell_{n}" for n in range(1, 11)]
    assert {source.path.name for source in sources} == {"source.jpg"}
    for name in ("b/2.png", "b/10.png", "a.TIF", ".hidden.png", "notes.txt"):
        path = tmp_path / "any" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "none").mkdir()
    sources, problems = find_sources([tmp_path / "any", tmp_path / "none"])
    assert [source.name for source in sources] == ["a", str(Path("b/2")), str(Path("b/10"))]
    assert len(problems) == 1
    assert "none contains no image" in problems[0]


def test_images_without_masks_are_images_and_masks_without_a_data_set_are_masks(tmp_path):
    paths = ["p/images/a.png", "p/images/b.png", "p/masks/a.png", "s/im.jpg", "s/im_mask.png", "s/other.jpg"]
    paths += ["c/cell_1/source.jpg", "c/cell_1/mask.jpg", "c/cell_1/exact.png", "c/cell_2/source.jpg"]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / path)
    (tmp_path / "p" / "groups.csv").write_text("pair,group\n")  # of no use for training, and none of our business
    for folder, names in (("p", ["images/a", "images/b"]), ("s", ["im", "other"]), ("c", ["cell_1", "cell_2/source"])):
        sources, said = find_sources([tmp_path / folder])
        assert [source.name for source in sources] == names
        assert any("probably masks" in line for line in said)


def test_what_was_predicted_before_is_no_image(finished, smears, tmp_path):
    shutil.copy(smears / "cell_1" / "source.jpg", tmp_path / "a.jpg")
    for number in (1, 2):
        invoke("predict", finished, tmp_path, "--output", tmp_path / f"found_{number}")
    assert [row["image"] for row in rows(tmp_path / "found_2" / "images.csv")] == ["a"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere such names cannot be")
def test_odd_names_stop_nothing(finished, smears, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("caf\udce9.jpg", "n" * 250 + ".jpg", "x.jpg", "a\nb.jpg", "<b>.jpg"):
        shutil.copy(smears / "cell_1" / "source.jpg", folder / name)
    (folder / "x.png").mkdir()
    shutil.copy(smears / "cell_2" / "source.jpg", folder / "x.png" / "y.jpg")
    invoke("predict", finished, folder, "--output", tmp_path / "out")
    names = [row["image"] for row in rows(tmp_path / "out" / "images.csv")]
    assert len(names) == 6
    assert {"x", "x.png_y"} <= set(names) or {"x-2", "x.png/y"} <= set(names)  # x.png is a file or a folder


def test_files_of_one_name_do_not_write_over_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = ["a/source.jpg", "b/source.jpg", "b/../b/SOURCE.png", "b/source.png"]
    sources, _ = find_sources([Path(path) for path in paths])
    assert [source.name for source in sources] == ["a/source", "b/source", "b/SOURCE-2", "b/source-3"]
    twice, _ = find_sources([Path("a/source.jpg"), Path("a/../a/source.jpg")])
    assert len(twice) == 1
    [source], _ = find_sources([Path("../up.png")])
    assert source.name == "up"


def test_a_link_to_nothing_is_reported_beside_the_results_of_the_others(finished, smears, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(smears / "cell_1" / "source.jpg", folder / "a.jpg")
    (folder / "b.jpg").symlink_to("elsewhere.jpg")
    said = invoke("predict", finished, folder, "--output", tmp_path / "out", code=1)
    assert "b.jpg does not exist" in said
    assert [row["image"] for row in rows(tmp_path / "out" / "images.csv")] == ["a"]


def test_images_of_several_folders_that_share_names_are_named_by_their_folders(smears, tmp_path):
    def named(*folders):
        sources, _ = find_sources(folders)
        assert [source.listed for source in sources] == [f"{source.name}.jpg" for source in sources]
        return [source.name for source in sources]

    assert named(smears / "cell_1", smears / "cell_2") == ["cell_1/source", "cell_2/source"]
    for folder, image in (("a", "x"), ("b", "x"), ("b", "y"), ("c", "z")):
        (tmp_path / folder).mkdir(exist_ok=True)
        shutil.copy(smears / "cell_1" / "source.jpg", tmp_path / folder / f"{image}.jpg")
    assert named(tmp_path / "a", tmp_path / "b") == ["a/x", "b/x", "b/y"]
    assert named(tmp_path / "a", tmp_path / "c") == ["x", "z"]
    assert named(tmp_path / "a", tmp_path / "a") == ["x"]


def test_a_bad_file_is_told_at_the_end_and_the_others_are_done(finished, smears, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    images = [smears / "cell_1" / "source.jpg", bad, tmp_path / "missing.png", smears / "cell_2" / "source.jpg"]
    said = invoke("predict", finished, *images, "--output", tmp_path / "out", code=1)
    assert "bad.png: cannot be read as an image" in said
    assert "missing.png does not exist" in said
    assert "wrote 2 masks" in said
    assert len(rows(tmp_path / "out" / "images.csv")) == 2


def test_nothing_is_written_over(finished, smears, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    said = invoke("predict", finished, smears, "--output", tmp_path / "out", code=1)
    assert "out is not empty, and files are not overwritten" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16", "CMYK"])
def test_pictures_of_any_kind_are_read(finished, tmp_path, mode):
    path = tmp_path / ("image.tif" if mode in ("I;16", "CMYK") else "image.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (41, 57), np.uint8)).convert(mode).save(path)
    invoke("predict", finished, path, "--output", tmp_path / "out", "--tiles", "--tta")
    assert pixels(tmp_path / "out" / "masks" / "image.png").shape == (41, 57)


def test_objects_are_listed_image_by_image(finished, smears, tmp_path):
    invoke("predict", finished, smears, "--output", tmp_path / "out")
    found = rows(tmp_path / "out" / "objects.csv")
    for row in rows(tmp_path / "out" / "images.csv"):
        mine = [cell for cell in found if cell["image"] == row["image"]]
        assert [int(cell["id"]) for cell in mine] == list(range(1, int(row["objects"]) + 1))
        mask = pixels(tmp_path / "out" / "masks" / f"{row['image']}.png")
        for cell in mine:
            left, top, width, height = (int(cell[name]) for name in ("left", "top", "width", "height"))
            assert np.count_nonzero(mask[top : top + height, left : left + width]) >= int(cell["area"])
            assert float(cell["mean_probability"]) > 0.5


def test_labels_have_the_numbers_of_the_table_and_cover_the_mask(finished, smears, tmp_path):
    formats = "geojson,imagej,coco"
    said = invoke("predict", finished, smears, "--output", tmp_path / "a", "--pixel-size", "0.5", "--outlines", formats)
    assert "the image border cuts" in said
    found = rows(tmp_path / "a" / "objects.csv")
    for row in rows(tmp_path / "a" / "images.csv"):
        labels = pixels(tmp_path / "a" / "labels" / f"{row['image']}.png")
        mask = pixels(tmp_path / "a" / "masks" / f"{row['image']}.png")
        assert not (labels[mask == 0] > 0).any()
        areas = np.bincount(labels.ravel())[1:].tolist()
        mine = [cell for cell in found if cell["image"] == row["image"]]
        assert [int(cell["area"]) for cell in mine] == areas
        assert [float(cell["area_um2"]) for cell in mine] == [area / 4 for area in areas]
        assert sum(cell["touches_border"] == "True" for cell in mine) == int(row["cut_by_border"])
        for ending in ("geojson", "zip"):
            assert (tmp_path / "a" / "outlines" / f"{row['image']}.{ending}").exists()
    coco = json.loads((tmp_path / "a" / "outlines" / "coco.json").read_text())
    assert len(coco["annotations"]) == len(found)
    assert {image["file_name"] for image in coco["images"]} == {
        f"{r['image']}/source.jpg" for r in rows(tmp_path / "a" / "images.csv")
    }
    whole = invoke("predict", finished, smears, "--output", tmp_path / "b", "--no-split", "--border")
    assert "the image border cuts" not in whole
    assert "continued by 32 mirrored pixels" in whole
    for size in ("0", "-1", "nan", "inf"):
        wrong = invoke("predict", finished, smears, "--output", tmp_path / "c", "--pixel-size", size, code=1)
        assert "--pixel-size is" in wrong
    assert not (tmp_path / "c").exists()


def test_a_border_seen_continued_is_that_of_the_mirrored_picture(finished):
    run = load_run(finished)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    how = {"facts": run.facts, "precision": "32-true", "tiles": True}
    seen = Predictor([run.network], 32, border=True, **how).probability(picture)
    wide = np.pad(picture, ((32, 32), (32, 32), (0, 0)), mode="symmetric")
    assert np.allclose(seen, Predictor([run.network], 32, **how).probability(wide)[32:-32, 32:-32], atol=1e-6)
    fixed = run.facts.model_copy(update={"side_fixed": True})
    with pytest.raises(InputError, match="accepts only images of 32x32"):
        Predictor([run.network], 32, facts=fixed, border=True)


@pytest.mark.slow
def test_a_scale_that_training_did_not_know_is_told(finished, tmp_path):
    for name, size in (("large", (480, 360)), ("usual", (96, 72)), ("small", (48, 36))):
        Image.new("RGB", size, "white").save(tmp_path / f"{name}.png")
    finished = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(finished / "predictions")  # so that the size of cells is unknown
    said = invoke("predict", finished, *tmp_path.glob("*.png"), "--output", tmp_path / "whole")
    assert "cells look 5.0 times smaller in 1 and 2.0 times larger in 1 of 3 images than in training, where" in said
    assert "--scale 1 shows cells as large as in training" in said
    invoke("predict", finished, tmp_path / "large.png", "--output", tmp_path / "scaled", "--scale", "1")
    said = invoke("predict", finished, tmp_path / "large.png", "--output", tmp_path / "tiles", "--tiles")
    assert "images are seen in tiles at native scale" in said
    assert "than in training" not in said
    said = invoke("predict", finished, tmp_path / "usual.png", "--output", tmp_path / "usual")
    assert "than in training" not in said


def test_cells_that_are_found_at_another_size_than_in_training_are_told(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    cells = np.zeros((64, 64), bool)
    for corner in (2, 12, 22):
        cells[corner : corner + 6, corner : corner + 6] = True
    for mask in (run / "predictions" / "mask").iterdir():
        Image.fromarray(cells * np.uint8(255)).save(mask)
    trained = find_trained(run)
    across, down = trained.zoom(1)
    for times in (0.5, 1, 2):
        row = {"width": 640, "height": 480, "objects": 9, "median_area": 36 * times**2 / (across * down)}
        said = size_warning(trained, trained.predictor(scale=1), [row, row | {"objects": 0, "median_area": ""}])
        if times == 1:
            assert said is None
        else:
            assert f"{times:.2g} times as wide" in said
            assert f"--scale {1 / times:.2g}," in said
    assert size_warning(trained, trained.predictor(), [row | {"objects": 1}]) == ""


def test_scale_one_shows_a_pixel_as_large_as_in_training(finished, smears, tmp_path):
    """Of a picture of the usual size that is what seeing it whole does, but for tiles."""
    picture = next(smears.glob("*/source.jpg"))
    run = find_trained(finished)
    whole, scaled = run.predictor(), run.predictor(scale=1)
    pixels = read_image(picture).pixels
    assert np.allclose(whole.probability(pixels), scaled.probability(pixels), atol=1e-6)
    said = invoke("predict", finished, picture, "--output", tmp_path / "a", "--scale", "1")
    assert "than in training" not in said
    assert "images are seen in tiles, resized to 67% of their width and 89% of their height" in said
    for wrong in ("0", "half", "-1", "nan", "inf", "1000"):
        told = invoke("predict", finished, picture, "--output", tmp_path / "b", "--scale", wrong, code=1)
        assert "must be auto or a factor" in told
    assert "exclude each other" in invoke(
        "predict", finished, picture, "--output", tmp_path / "b", "--scale", "1", "--tiles", code=1
    )
    torch.save(UNet(init_features=2).state_dict(), tmp_path / "w.pth")
    weights = ("predict", tmp_path / "w.pth", picture, "--output", tmp_path / "b", "--model", "unet")
    for wrong in ("1", "auto"):
        told = invoke(*weights, "--scale", wrong, code=1)
        assert "--scale" in told
    assert not (tmp_path / "b").exists()


def discs(width, height, radius, seed=0):
    """A black picture with bright discs on a grid."""
    rows, columns = np.mgrid[:height, :width].astype(float)
    shift = np.random.default_rng(seed).uniform(0, radius, 2)
    pitch = 3.2 * radius
    away = np.hypot((rows + shift[0]) % pitch - pitch / 2, (columns + shift[1]) % pitch - pitch / 2)
    return np.where(away < radius, 255, 0).astype(np.uint8)


class Red(torch.nn.Module):
    def forward(self, image):
        return torch.logit(image[:, :1].clamp(0.01, 0.99))


SLOWER = [pytest.param(factor, marks=pytest.mark.slow) for factor in (0.5, 1.0, 1.7, 3.0)]


@pytest.mark.parametrize("factor", [0.12, *SLOWER])
def test_the_scale_is_found_from_the_sizes_of_cells(finished, tmp_path, factor):
    """Cells in training had a radius of 6 pixels of the squares of 64x64 that the network saw."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    run = load_run(folder)
    for entry in run.files.split.test:
        stored = run.files.prediction(entry.name)
        write_prediction(folder, entry.name, replace(stored, mask=discs(64, 64, 6) > 0))
    network = Red()
    trained = Trained("red", [run], [network], run.facts, run.image_size, "32-true")
    width, height = trained.typical_size
    files = []
    for number in range(3):
        radius = 6 / factor * np.sqrt(width * height) / 64
        square = round(max(300, 14 * radius))
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(discs(square, round(square * height / width), radius, number)).save(files[-1])
    found = find_scale(trained, files, Reading(image_size=64))
    assert found.factor == pytest.approx(factor, rel=0.2)
    assert found.warning is None
    assert "3 images" in found.said
    Image.new("L", (200, 200)).save(tmp_path / "black.png")
    with pytest.raises(InputError, match="found no cells"):
        find_scale(trained, [tmp_path / "black.png"], Reading(image_size=64))
    with Image.open(files[0]) as small:
        small.resize((3 * small.width, 3 * small.height)).save(tmp_path / "large.png")
    with pytest.raises(InputError, match="no factor fits all"):
        find_scale(trained, [files[0], tmp_path / "large.png"], Reading(image_size=64))


def test_images_of_another_kind_are_told(finished, smears, tmp_path):
    Image.new("RGB", (96, 72), (12, 12, 14)).save(tmp_path / "dark.png")
    usual = smears / "cell_1" / "source.jpg"
    said = invoke("predict", finished, tmp_path / "dark.png", usual, "--output", tmp_path / "out")
    assert "1 of 2 images look dark grey, but the images that the network was tested on are bright colour" in said
    assert "look dark grey" not in invoke("predict", finished, usual, "--output", tmp_path / "usual")


def test_a_picture_that_is_nearly_all_cell_is_told(finished, tmp_path):
    for name, value in (("full", 255), ("empty", 0)):
        Image.new("L", (60, 60), value).save(tmp_path / f"{name}.png")
    predictor = Predictor([Red()], 64, facts=load_run(finished).facts)
    done = predict_files(predictor, find_sources([tmp_path])[0], tmp_path / "out")
    assert [warning for warning in done.warnings if "more than 90% of 1 image is cell, first full" in warning]


def test_images_of_a_few_pixels_are_seen_in_tiles_too(smears, tmp_path):
    train.run(smoke(f"data.root={smears}", "model.norm=instance", "trainer.max_epochs=1"), tmp_path / "run")
    for size in ((1, 1), (8, 3), (16, 16), (16, 40)):
        Image.new("RGB", size, "white").save(tmp_path / f"{size[0]}x{size[1]}.png")
    said = invoke("predict", tmp_path / "run", *tmp_path.glob("*.png"), "--output", tmp_path / "out", "--tiles")
    assert "wrote 4 masks" in said


def test_what_is_no_run_is_told_for_what_it_is(finished, study, smears, tmp_path):
    image = smears / "cell_1" / "source.jpg"
    for named, message in (
        (study.parent, "is not a finished run: it is a folder of studies; name one of them, for example"),
        (smears, "is not a finished run: it has no summary.json"),
        (image, "is an image; name the run folder or the file of weights first"),
        (tmp_path / "nowhere", "does not exist; name the run folder"),
    ):
        said = invoke("predict", named, image, "--output", tmp_path / "out", code=1)
        assert message in said
        assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="it is a folder of runs; name one of them"):
        load_run(study)
    assert "because it is itself a run; name the folder that contains it" in invoke("report", finished, code=1)
    said = invoke("predict", finished / "weights.pth", image, "--output", tmp_path / "out")
    assert "resized to 64x64, as in training" in said  # the folder says what they are
    assert "is only a file of weights" in invoke(
        "evaluate", shutil.copy(finished / "weights.pth", tmp_path), smears, code=1
    )


def test_where_nothing_can_be_read_nothing_is_written_and_the_same_command_can_be_repeated(finished, smears, tmp_path):
    said = invoke("predict", finished, tmp_path / "typo.png", "--output", tmp_path / "out", code=1)
    assert "wrote" not in said
    assert not (tmp_path / "out").exists()


def test_a_study_gives_its_best_network_and_all_its_runs_as_an_ensemble(study, smears, tmp_path):
    image = smears / "cell_1" / "source.jpg"
    said = invoke("predict", study, image, "--output", tmp_path / "one", "--probabilities")
    table = {name: load_run(study / name).summary["metrics"]["test/dice"] for name in ("a0", "a2", "b0")}
    best = "UNet" if table["a0"] > table["b0"] else "PotiNet"  # what both have: seed 0 and fold 0
    how = "level with 1 of 1 other" if table["a0"] == table["b0"] else "best of 2 configurations"
    assert said.startswith(f"{best}, {how} in {study}")
    run = "a0" if best == "UNet" else "b0"
    assert f"run {run}" in said
    said = invoke("predict", study, image, "--output", tmp_path / "all", "--probabilities", "--ensemble")
    runs = ["a0", "a1", "a2"] if best == "UNet" else ["b0"]
    assert (f"{len(runs)} runs averaged" if len(runs) > 1 else f"run {run}") in said
    expected = np.mean([load_run(study / name).predict(image) for name in runs], axis=0)
    assert np.abs(pixels(tmp_path / "all" / "probabilities" / "source.png") / 65535 - expected).max() < 2e-5


PUBLISHED = {
    "unet": (UNet, 4, True),
    "potinet": (PotiNet, 4, False),
    "xopinet": (XopiNet, 5, True),
}


def published_shapes(depth, skip, features=32):
    """Names and shapes of the original study's files, written down from its description."""
    widths = [features * 2**level for level in range(depth + 1)]

    def block(module, short, channels, width):
        for index, before in ((1, channels), (2, width)):
            yield f"{module}.{short}conv{index}.weight", (width, before, 3, 3)
            for name in ("weight", "bias", "running_mean", "running_var"):
                yield f"{module}.{short}norm{index}.{name}", (width,)
            yield f"{module}.{short}norm{index}.num_batches_tracked", ()

    for level, width in enumerate(widths[:-1], 1):
        yield from block(f"encoder{level}", f"enc{level}", 3 if level == 1 else widths[level - 2], width)
    yield from block("bottleneck", "bottleneck", widths[-2], widths[-1])
    for level in range(depth, 0, -1):
        yield f"upconv{level}.weight", (widths[level], widths[level - 1], 2, 2)
        yield f"upconv{level}.bias", (widths[level - 1],)
        channels = widths[level - 1] * (2 if skip else 1)
        yield from block(f"decoder{level}", f"dec{level}", channels, widths[level - 1])
    yield "conv.weight", (1, features, 1, 1)
    yield "conv.bias", (1,)


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_weights_predict(model, smears, tmp_path):
    make, depth, skip = PUBLISHED[model]
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.tensor(1) if not shape else torch.rand(shape, generator=generator) * 0.1 - 0.05 * ("conv" in name)
        for name, shape in published_shapes(depth, skip)
    }
    torch.save(weights, tmp_path / "file.pth")
    image = smears / "cell_1" / "source.jpg"
    said = invoke("predict", tmp_path / "file.pth", image, "--output", tmp_path / "out", "--model", model)
    assert "resized to 224x224, as in the original study; what it was trained at is not on record" in said
    network = make()
    network.load_state_dict(weights)
    assert said.startswith(network.name)
    other = next(name for name in PUBLISHED if name != model)
    said = invoke("predict", tmp_path / "file.pth", smears, "--output", tmp_path / "no", "--model", other, code=1)
    assert "contains the weights of another network" in said
    said = invoke("predict", tmp_path / "file.pth", smears, "--output", tmp_path / "no", code=1)
    assert "add --model unet|potinet|xopinet" in said
    assert not (tmp_path / "no").exists()


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_file_that_is_no_weights_does_nothing(tmp_path, smears):
    torch.save(Payload(tmp_path / "owned"), tmp_path / "evil.pth")
    (tmp_path / "text.pth").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("evil", "text", "list"):
        said = invoke(
            "predict", tmp_path / f"{name}.pth", smears, "--output", tmp_path / "out", "--model", "unet", code=1
        )
        assert f"{name}.pth: " in said
    assert not (tmp_path / "owned").exists()


# evaluate


def test_the_runs_own_test_images_score_as_in_its_summary_and_no_seen_image_is_in_it(finished, smears, tmp_path):
    said = invoke("evaluate", finished, smears, "--output", tmp_path / "scores")
    summary, split = (json.loads((finished / name).read_text()) for name in ("summary.json", "split.json"))
    scored = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    for name, value in scored["scores"].items():
        assert value == pytest.approx(summary["metrics"][f"test/{name}"], abs=1e-6)
    assert scored["images"] == len(split["test"])
    assert {name for name, how in scored["left_out"].items() if how == "trained on"} == {
        e["name"] for e in split["train"]
    }
    assert {name for name, how in scored["left_out"].items() if how == "chosen by"} == {e["name"] for e in split["val"]}
    assert "scores on 2 images that the weights have not seen" in said
    assert "which is not a valid result" in said
    table = {row["image"]: row for row in rows(tmp_path / "scores" / "per_image.csv")}
    for row in rows(finished / "per_image.csv"):
        assert float(table[row["image"]]["dice"]) == pytest.approx(float(row["dice"]), abs=1e-6)


def copied(entries, smears, root, change=lambda picture: picture):
    for number, entry in enumerate(entries):
        folder = root / f"new_{number}"
        folder.mkdir(parents=True)
        with Image.open(smears / entry["name"] / "source.jpg") as picture:
            change(picture).save(folder / "source.png")
        shutil.copy(smears / entry["name"] / "mask.jpg", folder / "mask.jpg")
    return root


def test_images_are_recognised_under_other_names_and_their_relatives_too(finished, smears, tmp_path):
    split = json.loads((finished / "split.json").read_text())
    root = copied([*split["test"], split["train"][0]], smears, tmp_path / "data")
    last = len(split["test"])
    said = invoke("evaluate", finished, root)
    assert f"trained on: new_{last}" in said
    with (root / "groups.csv").open("w") as file:
        file.write("pair,group\n" + "".join(f"new_{n},{'slide' if n else 'alone'}\n" for n in range(last + 1)))
    said = invoke("evaluate", finished, root)
    assert f"relative of new_{last}, trained on: new_1" in said
    assert "scores on 1 image " in said


def test_what_looks_like_a_training_image_is_no_unseen_image(finished, smears, tmp_path):
    split = json.loads((finished / "split.json").read_text())
    brighter = copied(
        split["train"][:2], smears, tmp_path / "data", lambda picture: picture.point(lambda v: v * 0.9 + 20)
    )
    said = invoke("evaluate", finished, brighter, code=1)
    assert "relative of" in said
    assert "the weights have seen every image" in said


def test_a_training_set_that_is_gone_is_told_and_a_group_of_the_same_name_is_not_trusted(own_smears, tmp_path):
    names = sorted(path.name for path in own_smears.iterdir())
    (own_smears / "groups.csv").write_text(
        "pair,group\n" + "".join(f"{name},slide{n // 3}\n" for n, name in enumerate(names))
    )
    train.run(smoke(f"data.root={own_smears}", "trainer.max_epochs=1"), tmp_path / "run")
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    root = copied(split["test"], own_smears, tmp_path / "data")
    group = split["train"][0]["group"]
    (root / "groups.csv").write_text("pair,group\n" + "".join(f"new_{n},{'mine' if n else group}\n" for n in range(3)))
    shutil.rmtree(own_smears)
    said = invoke("evaluate", tmp_path / "run", root)
    assert f"group {group}, trained on: new_0" in said
    assert "some training images are no longer available" in said


def test_an_ensemble_has_seen_what_any_of_its_runs_has(study, smears, tmp_path):
    for name in ("a0", "a1"):  # one network, two folds
        shutil.copytree(study / name, tmp_path / "s" / name)
    assert "scores on 2 images" in invoke("evaluate", tmp_path / "s", smears)
    assert "the weights have seen every image" not in invoke("evaluate", tmp_path / "s", smears)
    tested = [json.loads((study / name / "split.json").read_text())["test"] for name in ("a0", "a1")]
    root = copied([entry for entries in tested for entry in entries], smears, tmp_path / "data")
    said = invoke("evaluate", tmp_path / "s", root, "--ensemble", code=1)
    assert f"trained on: {', '.join(f'new_{n}' for n in range(len(tested[0]) + len(tested[1])))}" in said


def test_a_network_chosen_by_test_images_is_not_scored_on_them(study, smears):
    said = invoke("evaluate", study, smears, code=1)
    assert "chosen by: " in said
    assert "the weights have seen every image" in said


def test_one_field_many_times_and_an_unreadable_neighbour_hide_nothing(own_smears, tmp_path):
    train.run(smoke(f"data.root={own_smears}", "trainer.max_epochs=1"), tmp_path / "run")
    split = json.loads((tmp_path / "run" / "split.json").read_text())

    def noisy(picture):
        values = np.asarray(picture, np.float32) * rng.uniform(0.8, 1.2) + rng.normal(0, 2, (72, 96, 3))
        return Image.fromarray(values.clip(0, 255).astype(np.uint8))

    rng = np.random.default_rng(0)
    root = copied([split["train"][0]] * 30, own_smears, tmp_path / "data", noisy)
    (own_smears / "new").mkdir()
    for name in ("source.jpg", "mask.jpg"):  # a pair the run never saw
        (own_smears / "new" / name).write_bytes(b"junk")
    assert "the weights have seen every image" in invoke("evaluate", tmp_path / "run", root, code=1)


def test_a_group_called_like_its_member_is_a_group_where_there_are_groups(own_smears, tmp_path):
    names = sorted(path.name for path in own_smears.iterdir())
    groups = {name: name if n < 12 else "slide" for n, name in enumerate(names)}
    (own_smears / "groups.csv").write_text("pair,group\n" + "".join(f"{n},{g}\n" for n, g in groups.items()))
    train.run(smoke(f"data.root={own_smears}", "trainer.max_epochs=1"), tmp_path / "run")
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    alone = next(entry["group"] for entry in split["train"] if entry["group"] == entry["name"])
    root = copied(split["test"][:2], own_smears, tmp_path / "data")
    (root / "groups.csv").write_text(f"pair,group\nnew_0,{alone}\nnew_1,other\n")
    said = invoke("evaluate", tmp_path / "run", root)
    assert f"group {alone}, trained on: new_0" in said
    assert "scores on 1 image " in said


def test_images_without_cells_do_not_spoil_the_interval():
    table = pd.DataFrame(
        {
            "group": list("abcdef"),
            "dice": 1.0,
            "iou": 1.0,
            "soft_dice": 1.0,
            "shared_pixels": [9, 8, 0, 0, 0, 0],
            "true_pixels": [10, 9, 0, 0, 0, 0],
            "predicted_pixels": [9, 10, 0, 0, 0, 0],
        }
    )
    low, high = estimate_scores(table)["dice_pooled"].interval
    assert 0 < low < estimate_scores(table)["dice_pooled"].value < high <= 1


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "summary.json",
            lambda text: re.sub(r'"typical_size": \[\s*[\d.]+', '"typical_size": ["9"', text),
            r"summary\.json: is damaged \(data\.typical_size\.0: ",
        ),
        ("summary.json", lambda text: "{}", r"summary\.json: is damaged \(schema_version: Field required\)"),
        ("split.json", lambda text: "{}", r"split\.json: differs from what train\.py writes \(seed: Field required\)"),
        ("split.json", lambda text: '{"train": ["a"], "val": [], "test": []}', "differs from what train"),
        ("config.yaml", lambda text: text.replace("image_size: 64", "image_size: abc"), r"data\.image_size: "),
        (
            "config.yaml",
            lambda text: text.replace("image_size: 64", "image_size: 0"),
            r"data\.image_size: Input should be greater",
        ),
        (
            "config.yaml",
            lambda text: text.replace("init_features: 4", "init_features: 1000000000"),
            "do not fit a UNet",
        ),
        ("config.yaml", lambda text: text.replace("init_features: 4", "init_features: 4096"), "another network"),
        ("config.yaml", lambda text: text.replace("depth: 4", "depth: 60"), "do not fit a UNet|another network"),
        ("config.yaml", lambda text: text.replace("depth: 4", f"depth: {10**30}"), "do not fit a UNet .*at most 16"),
        ("config.yaml", lambda text: text.replace("depth: 4", "depht: 4"), "do not fit a UNet"),
        ("config.yaml", lambda text: text.replace("init_features: 4", "init_features: 1.5"), "do not fit a UNet"),
    ],
)
def test_damaged_and_hostile_runs_are_refused_by_name(finished, tmp_path, name, change, message):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message):
        load_run(tmp_path / "run")


# review


def test_a_review_shows_every_disagreement_once_and_scores_with_and_without(finished, tmp_path):
    invoke("review", finished, "--output", tmp_path / "review")
    places, images = (rows(tmp_path / "review" / name) for name in ("objects.csv", "images.csv"))
    assert [int(place["id"]) for place in places] == list(range(1, len(places) + 1))
    open_ = rows(tmp_path / "review" / "decisions.csv")
    assert [(row["image"], row["id"]) for row in open_] == [(place["image"], place["id"]) for place in places]
    assert {row["decision"] + row["person"] for row in open_} <= {""}
    scored = {row["image"]: row for row in rows(finished / "per_image.csv") if row["subset"] == "test"}
    assert {row["image"] for row in images} == scored.keys()
    for row in images:
        assert float(row["dice"]) == pytest.approx(float(scored[row["image"]]["dice"]), abs=1e-6)
        assert float(row["dice_without_unlabelled"]) >= float(row["dice"])
        kept = RunFolder(finished).prediction(row["image"])
        found, labelled = kept.mask, kept.truth
        plain, without = (float(row[name]) for name in ("dice", "dice_without_unlabelled"))
        if plain:
            left = 2 * (found & labelled).sum() / without  # predicted and labelled pixels, less the candidates
            candidates = [p for p in places if p["image"] == row["image"] and p["kind"] == UNLABELLED]
            assert 0 <= found.sum() + labelled.sum() - left <= sum(int(p["area"]) for p in candidates) + 1e-6
    page = (tmp_path / "review" / "review.html").read_text()
    assert page.count("<img ") == len(places)
    assert "A reading aid, not a score" in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_review_of_a_study_judges_every_image_by_a_run_that_has_not_seen_it(smears, tmp_path):
    for fold in (0, 1):
        split = ("data.split.folds=2", f"data.split.fold={fold}", "trainer.max_epochs=1")
        train.run(smoke(f"data.root={smears}", *split), tmp_path / "study" / f"unet_fold-{fold}")
    said = invoke("review", tmp_path / "study")
    assert "each image is judged by one that has not seen it" in said
    assert len(rows(tmp_path / "study" / "review" / "images.csv")) == 10
    places = rows(tmp_path / "study" / "review" / "objects.csv")
    for place, row in zip(places, rows(tmp_path / "study" / "review" / "decisions.csv"), strict=True):
        corners = np.array([corner.split(",") for corner in row["outline"].split()], float)
        low, high = corners.min(axis=0), corners.max(axis=0)
        scale = np.array([96, 72]) / 64  # of the image to what the network saw
        first = np.array([int(place["left"]), int(place["top"])])
        beyond = first + np.array([int(place["width"]), int(place["height"])])
        assert (low > first * scale - 0.02).all()  # of the largest part, if the place has several
        assert (high < beyond * scale + 0.02).all()
        assert (high - low > 0.5 * (beyond - first).min() * scale.min()).any()
    assert read_study(tmp_path / "study").configurations == ["UNet"]  # the review is no run


def test_a_review_that_a_person_has_ticked_is_not_written_over(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    invoke("review", tmp_path / "run")
    assert "is not overwritten" in invoke("review", tmp_path / "run", code=1)


# export


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_an_exported_network_answers_as_the_run_does_at_any_size(finished, smears, tmp_path, ending):
    path = tmp_path / f"network.{ending}"
    said = invoke("export", finished, path)
    assert "max |difference|" in said
    network = load_run(finished).network
    if ending == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        facts = session.get_modelmeta().custom_metadata_map

        def answer(images):
            return session.run(None, {"image": images})[0]
    else:
        files = {"metadata.json": ""}
        module = torch.export.load(path, extra_files=files).module()
        facts = json.loads(files["metadata.json"])

        def answer(images):
            return module(torch.from_numpy(images)).detach().numpy()

    assert (facts["image_size"], facts["threshold"], facts["run"]) == ("64", "0.5", "run")
    rng = np.random.default_rng(0)
    for shape in ((1, 3, 64, 64), (3, 3, 32, 96), (2, 3, 160, 48)):
        images = rng.random(shape, np.float32)
        with torch.inference_mode():
            expected = network(torch.from_numpy(images)).sigmoid().numpy()
        assert np.abs(answer(images) - expected).max() <= 1e-4
    assert "is not overwritten" in invoke("export", finished, path, code=1)


def test_a_file_that_answers_otherwise_does_not_appear(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("cellseg.use.export._load_pt2", lambda path: lambda images: np.zeros_like(images[:, :1]))
    assert "its output differs from the network" in invoke("export", finished, tmp_path / "a.pt2", code=1)
    assert list(tmp_path.iterdir()) == []
    assert "must end in .onnx" in invoke("export", finished, tmp_path / "a.pb", code=1)


# in Python


def test_a_run_read_back_has_its_tables(finished):
    run = load_run(finished)
    assert list(run.curves["epoch"]) == [0, 1, 2]
    assert run.per_image[run.per_image["subset"] == "test"]["dice"].mean() == pytest.approx(
        run.summary["metrics"]["test/dice"]
    )


def test_an_image_called_na_is_still_one(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    first, *others = rows(tmp_path / "run" / "per_image.csv")
    write_csv(tmp_path / "run" / "per_image.csv", [first | {"image": "NA", "group": "null"}, *others])
    table = load_run(tmp_path / "run").per_image
    assert (table["image"].iloc[0], table["group"].iloc[0]) == ("NA", "null")


MANY = 100  # so many that it has not done all before it is asked to stop


@pytest.mark.slow
@pytest.mark.parametrize("ask", [signal.SIGINT, signal.SIGTERM])
def test_a_prediction_that_is_stopped_keeps_what_it_has_in_its_tables(finished, tmp_path, ask):
    (tmp_path / "many").mkdir()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 800, 3), np.uint8))
    picture.save(tmp_path / "many" / "0.bmp")
    for number in range(1, MANY):
        (tmp_path / "many" / f"{number}.bmp").hardlink_to(tmp_path / "many" / "0.bmp")
    command = Path(sys.executable).with_name("cellseg")
    process = subprocess.Popen(
        [command, "predict", finished, tmp_path / "many", "--output", tmp_path / "out"],
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.glob("out/overlays/[0-9]*.png")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(ask)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 128 + ask, said
    assert "error: stopped by" in said
    assert "Traceback" not in said
    left = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with (tmp_path / "out" / "images.csv").open(newline="") as file:
        names = [row["image"] for row in csv.DictReader(file)]
    assert 0 < len(names) < MANY
    expected = {f"{kind}/{name}.png" for name in names for kind in ("masks", "labels", "overlays")}
    assert left == expected | {"images.csv", "objects.csv"}


def test_a_file_of_a_microscope_is_refused_with_its_converter_and_the_others_are_predicted(finished, smears, tmp_path):
    for folder in ("in", "in/x.zarr"):
        (tmp_path / folder).mkdir()
    (tmp_path / "in" / "a.czi").write_bytes(b"ZISRAWFILE")
    files = [tmp_path / "in" / "a.czi", tmp_path / "in" / "x.zarr", smears / "cell_1" / "source.jpg"]
    said = invoke("predict", finished, *files, "--output", tmp_path / "out", code=1)
    assert "a.czi: is a Zeiss image, which cellseg does not read; convert it (in Fiji" in said
    assert "x.zarr: is a Zarr folder" in said
    assert "wrote 1 mask" in said
    said = invoke("predict", finished, tmp_path / "in", "--output", tmp_path / "again", code=1)
    assert "contains no image" in said
    assert "a.czi is a Zeiss image" in said


@pytest.fixture(scope="module")
def channels(tmp_path_factory):
    """Ten pairs of two channels, of which the second shows the cells, and a run on channels 1 and 0."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (root / part).mkdir()
    for number in range(10):
        y, x = np.mgrid[:64, :64]
        cell = np.logical_or.reduce([np.hypot(y - a, x - b) < 9 for a, b in rng.uniform(0, 64, (6, 2))])
        noise = rng.normal(40, 5, (2, 64, 64))
        noise[1] += 120 * cell
        tifffile.imwrite(root / f"images/c{number}.tif", noise.astype(np.uint8), metadata={"axes": "CYX"}, ome=True)
        Image.fromarray(cell).save(root / f"masks/c{number}.png")
    run = tmp_path_factory.mktemp("logs") / "run"
    train.run(smoke(f"data.root={root}", "data.channels=[1,0]"), run)
    return root, run


@pytest.mark.slow
def test_a_run_on_chosen_channels_is_used_as_any_other(channels, tmp_path):
    root, folder = channels
    run = load_run(folder)
    assert run.network.in_channels == 2
    probability = run.predict(root / "images/c0.tif")
    assert np.array_equal(probability, run.predict(tifffile.imread(root / "images/c0.tif").transpose(1, 2, 0)))
    invoke("predict", folder, root / "images", "--output", tmp_path / "out")
    assert np.array_equal(pixels(tmp_path / "out/masks/c0.png") > 0, probability > 0.5)
    kept = run.files.prediction(run.files.test_rows["image"].iloc[0])
    assert (kept.image.shape, kept.picture.shape) == ((64, 64, 2), (64, 64, 3))
    invoke("review", folder, "--output", tmp_path / "review")
    assert "max |difference|" in invoke("export", folder, tmp_path / "net.pt2")
    invoke("predict", folder, root / "masks/c0.png", "--output", tmp_path / "grey", code=1)


def test_what_training_warns_of_evaluate_and_predict_warn_of(finished, tmp_path):
    image = np.random.default_rng(0).integers(0, 65535, (40, 40, 3), dtype=np.uint16)
    cell = np.zeros((40, 40), np.uint8)
    cell[5:20, 5:20], cell[22:24, 5:20] = 1, 255
    for number in range(2):
        tifffile.imwrite(tmp_path / f"c{number}.tif", image[:: 1 - 2 * number], photometric="rgb")
        Image.fromarray(cell[:: 1 - 2 * number]).save(tmp_path / f"c{number}_mask.png")
    said = invoke("evaluate", finished, tmp_path)
    assert "warning: c0_mask.png, c1_mask.png: value 255 beside labels up to 1, which may mean 'not annotated'" in said
    assert "note: masks: 2 labels, every value above 0 is cell" in said
    deep = "c0.tif, c1.tif: 16-bit colour; only the upper 8 bits are used"
    assert f"warning: {deep}" in said
    assert f"warning: {deep}" in invoke("predict", finished, tmp_path, "--output", tmp_path / "out")


def test_an_image_that_lost_its_cells_to_resizing_scores_0_and_not_1(finished, tmp_path):
    for number in range(2):
        cell = np.zeros((2000, 2000), np.uint8)
        cell[20 + number, 20] = 255
        Image.fromarray(cell).save(tmp_path / f"c{number}_mask.png")
        Image.new("L", (2000, 2000)).save(tmp_path / f"c{number}.png")
    said = invoke("evaluate", finished, tmp_path, "--output", tmp_path / "out")
    assert "2 of 2 objects vanish when masks are resized to 64x64 pixels; 2 masks lose all" in said
    assert [float(row["dice"]) for row in rows(tmp_path / "out" / "per_image.csv")] == [0, 0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.random.default_rng(0).random((48, 48, 3)), "pass uint8; for values in"),
        (np.zeros((3, 48, 48), np.uint8), r"channels come first, pass array.transpose\(1, 2, 0\)"),
        (torch.rand(3, 48, 48), "not a Tensor; for a tensor"),
        (None, "not a NoneType"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_to_pass(finished, given, said):
    with pytest.raises(InputError, match=said):
        load_run(finished).predict(given)


@pytest.mark.parametrize("given", [torch.rand(3, 64, 64), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)])
def test_a_network_says_which_tensors_it_takes(finished, given):
    with pytest.raises(InputError, match=r"floating-point images of shape \(N, C, H, W\)"):
        load_run(finished).network(given)
