"""Objects of test images, and masks of another tool as one more configuration of a study."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from scipy import ndimage
from typer.testing import CliRunner

from cellseg import train
from cellseg.cli import app
from cellseg.data.pairs import Pair
from cellseg.data.synthetic import draw_smear
from cellseg.objects import label_objects, label_truth, object_scores
from cellseg.run.folder import RunFolder
from cellseg.storage.errors import InputError
from cellseg.study.collect import read_study
from cellseg.study.report import assemble, page
from cellseg.study.verdict import caveats, judge
from cellseg.use.score import match_masks
from conftest import TINY, smoke

pytestmark = pytest.mark.xdist_group("score")  # one process: they share runs

SIDE = 64
OBJECTS = ("object_f1", "panoptic_quality", "count_error", "count_error_abs")


def invoke(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output + str(result.exception)
    return result.output


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Ten smears whose masks number their cells."""
    root = tmp_path_factory.mktemp("data") / "numbered"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for index in range(10):
        smear = draw_smear(0, index, TINY)
        Image.fromarray(smear.image).save(root / "images" / f"smear_{index}.png")
        Image.fromarray(smear.ids).save(root / "masks" / f"smear_{index}.png")
    return root


@pytest.fixture(scope="module")
def study(numbered, tmp_path_factory):
    """One network on two folds with two seeds."""
    folder = tmp_path_factory.mktemp("logs") / "study"
    for seed in (0, 1):
        for fold in (0, 1):
            split = ("data.split.folds=2", f"data.split.fold={fold}", f"seed={seed}")
            run = smoke(f"data.root={numbered}", f"data.image_size={SIDE}", "trainer.max_epochs=1", *split)
            train.run(run, folder / f"unet_seed-{seed}_fold-{fold}")
    return folder


@pytest.fixture
def own(study, tmp_path):
    return shutil.copytree(study, tmp_path / "study")


def test_the_objects_of_a_run_are_those_of_its_masks_and_ids(study, numbered):
    run = RunFolder(study / "unet_seed-0_fold-0")
    assert run.summary.averaging["objects"].startswith("ids in the labels")
    for row in rows(run.path / "per_image.csv"):
        kept = run.prediction(row["image"])
        with Image.open(numbered / "masks" / f"{row['image']}.png") as file:
            ids = np.asarray(file.resize((SIDE, SIDE), Image.Resampling.NEAREST), np.int32)
        assert np.array_equal(kept.ids > 0, kept.truth)
        assert int(row["true_objects"]) == len(np.unique(ids)) - 1 == kept.ids.max()
        scores = object_scores(label_objects(kept.mask), label_truth(kept.truth, ids))
        assert [float(row[name]) for name in OBJECTS] == pytest.approx([scores[name] for name in OBJECTS], abs=1e-6)
        assert row["objects_from"] == "ids"
    for name in OBJECTS:
        mean = np.mean([float(row[name]) for row in rows(run.path / "per_image.csv")])
        assert run.summary.metrics[f"test/{name}"] == pytest.approx(mean, abs=1e-5)


def test_evaluation_scores_objects_as_the_run_did_and_at_the_images_own_size(study, numbered, tmp_path):
    run = study / "unet_seed-0_fold-0"
    said = invoke("evaluate", run, numbered, "--native", "--output", tmp_path / "out")
    assert "objects: ids in the labels" in said
    own = {row["image"]: row for row in rows(run / "per_image.csv")}
    for row in rows(tmp_path / "out" / "per_image.csv"):
        with Image.open(numbered / "masks" / f"{row['image']}.png") as file:
            cells = len(np.unique(np.asarray(file))) - 1
        assert float(row["native_count_error"]) == float(row["native_count_error"]) // 1
        assert abs(float(row["native_count_error"])) <= max(cells, 200)
        if row["image"] in own:
            assert [float(row[name]) for name in OBJECTS] == [float(own[row["image"]][name]) for name in OBJECTS]
    scores = json.loads((tmp_path / "out" / "evaluation.json").read_text())["scores"]
    assert {"object_f1", "boundary_dice", "native_dice", "native_object_f1"} <= scores.keys()


def test_the_labels_of_the_data_set_are_a_perfect_tool(own, numbered):
    said = invoke("score", numbered / "masks", numbered, "--name", "Anna B", "--study", own)
    assert "10 of 10 masks number their objects" in said
    assert "may have seen the test images" in said
    for fold in (0, 1):
        run = RunFolder(own / f"Anna-B_masks_fold-{fold}")
        assert run.summary.seed is None
        assert (run.summary.model, run.summary.counts.epochs) == ("Anna B", 0)
        assert [run.summary.metrics[f"test/{name}"] for name in ("dice", "object_f1", "boundary_dice")] == [1, 1, 1]
        assert run.summary.metrics["test/count_error_abs"] == 0
        assert [entry.name for entry in run.split.test] == list(run.per_image["image"])


def test_masks_are_compared_with_every_seed_and_trouble_no_one(own, numbered):
    before = caveats(read_study(own))
    invoke("score", numbered / "masks", numbered, "--name", "Anna", "--study", own)
    study = read_study(own)
    assert (study.masks, study.configurations[-1]) == (frozenset({"Anna"}), "Anna")
    report = assemble(study)
    [verdict] = report.verdicts
    assert verdict.dice.pairs == 4
    assert verdict.dice.difference == pytest.approx(study.averaged("UNet", ["dice"])["dice"].mean() - 1)
    assert "object F1" in verdict.second
    assert "adjusted for 5 scores" in verdict.second
    assert any(line.startswith("Anna: masks made elsewhere") for line in report.caveats)
    others = [line for line in report.caveats if not line.startswith("Anna:")]
    assert [line for line in others if "does not beat" in line] == [line for line in before if "does not beat" in line]
    assert not [line for line in others if "Anna" in line]
    assert "Anna: masks made elsewhere" in report.methods
    assert "Objects and outlines" in page(report, "report.md.jinja")
    assert report.sentences[1] == verdict.second


def test_masks_of_two_tools_without_a_network_have_a_report(own, numbered, tmp_path):
    def halved(ids, folder, file):
        Image.fromarray(np.where(np.arange(ids.shape[1]) % 2, ids, 0).astype(np.uint16)).save(folder / file.name)

    invoke("score", numbered / "masks", numbered, "--name", "Anna", "--study", own)
    invoke("score", copied(numbered, tmp_path / "halved", halved), numbered, "--name", "Ben", "--study", own)
    for run in own.glob("unet*"):
        shutil.rmtree(run)
    said = invoke("report", own)
    assert "Anna is better than Ben by" in said
    assert "seed" not in said
    assert "Training used" not in (own / "report.md").read_text()


def test_what_predict_wrote_and_a_file_for_each_object_are_masks_too(own, numbered, tmp_path):
    invoke("predict", own / "unet_seed-0_fold-0", numbered, "--output", tmp_path / "found")
    invoke("score", tmp_path / "found", numbered, "--name", "again", "--study", own)
    parts = tmp_path / "parts"
    for file in (numbered / "masks").iterdir():
        (parts / file.stem).mkdir(parents=True)
        with Image.open(file) as opened:
            ids = np.asarray(opened)
        for number in np.unique(ids[ids > 0]):
            Image.fromarray((ids == number) * np.uint8(255)).save(parts / file.stem / f"{number}.png")
    invoke("score", parts, numbered, "--name", "parts", "--study", own)
    assert RunFolder(own / "parts_masks_fold-1").summary.metrics["test/object_f1"] == 1
    again = RunFolder(own / "again_masks_fold-0")
    for row in rows(again.path / "per_image.csv"):
        with Image.open(tmp_path / "found" / "masks" / f"{row['image']}.png") as file:
            found = np.asarray(file.resize((SIDE, SIDE), Image.Resampling.NEAREST)) > 0
        truth = again.prediction(row["image"]).truth
        # objects of fewer pixels than a cell are in the mask, and not among the labels that are scored
        assert float(row["dice"]) <= 2 * (found & truth).sum() / (found.sum() + truth.sum()) + 0.05


def test_photos_are_not_scored_as_masks(own, numbered, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in (numbered / "images").iterdir():
        with Image.open(path) as photo:
            ImageOps.autocontrast(photo.convert("L")).save(photos / path.name)
        np.save(photos / f"{path.stem}_seg.npy", np.zeros(1))
    said = " ".join(invoke("score", photos, numbered, "--name", "Cellpose", "--study", own, code=1).split())
    assert "shows the image itself instead of a mask of it" in said
    assert "_seg.npy is a NumPy file, which is not read" in said
    assert not list(own.glob("Cellpose*"))


@pytest.mark.slow
def test_masks_of_equal_dice_are_compared_by_their_objects(own, numbered, tmp_path):
    shutil.copytree(numbered / "masks", tmp_path / "one")
    for file in (tmp_path / "one").iterdir():
        with Image.open(file) as opened:
            cell = (np.asarray(opened) > 0) * np.uint8(255)
        Image.fromarray(cell).save(file)
    for name, masks in (("ids", numbered / "masks"), ("one", tmp_path / "one")):
        invoke("score", masks, numbered, "--name", name, "--study", own)
    verdict = next(v for v in judge(read_study(own)) if {v.a, v.b} == {"ids", "one"})
    assert "exactly the same Dice" in verdict.sentence
    assert "object F1" in verdict.second


def test_masks_are_no_network(own, numbered, tmp_path):
    invoke("score", numbered / "masks", numbered, "--name", "Anna", "--study", own)
    image = numbered / "images" / "smear_0.png"
    said = invoke("predict", own / "Anna_masks_fold-0", image, "--output", tmp_path / "a", code=1)
    assert "has the scores of masks of Anna, not a network" in said
    said = invoke("predict", own, image, "--output", tmp_path / "b")
    assert "UNet" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("remove", "has no mask for 1 test image of the study, for example smear_3"),
        ("twice", "smear_3 has several masks"),
        ("small", "the mask is 20x10 pixels, but its image smear_3.png is"),
        ("unjudged", "the value 255 beside values of at most 2 would mark pixels without annotation"),
        ("none", "is not a folder"),
        ("name", "has a configuration UNet already"),
        ("empty", "--name must be a name of 1 to 60 characters"),
        ("data", "is not the data set of"),
    ],
)
def test_what_cannot_be_scored_is_refused_and_leaves_nothing(own, numbered, smears, tmp_path, change, message):
    masks = shutil.copytree(numbered / "masks", tmp_path / "masks")
    if change == "remove":
        (masks / "smear_3.png").unlink()
    if change == "twice":
        shutil.copy(masks / "smear_3.png", masks / "smear_3_mask.png")
    if change == "small":
        Image.new("L", (20, 10)).save(masks / "smear_3.png")
    if change == "unjudged":
        with Image.open(masks / "smear_3.png") as opened:
            pixels = np.array([0, 1, 2, 255], np.uint8)[np.asarray(opened) % 4]
        Image.fromarray(pixels).save(masks / "smear_3.png")
    folder = tmp_path / "no" if change == "none" else masks
    data = smears if change == "data" else numbered
    name = {"name": "UNet", "empty": " "}.get(change, "Tool")
    before = sorted(path.name for path in own.iterdir())
    assert message in invoke("score", folder, data, "--name", name, "--study", own, code=1)
    assert sorted(path.name for path in own.iterdir()) == before


def copied(numbered, folder, change):
    """Write the exact labels of the numbered smears, changed."""
    folder.mkdir()
    for file in (numbered / "masks").iterdir():
        with Image.open(file) as opened:
            change(np.asarray(opened).astype(np.int32), folder, file)
    return folder


def scored(own, numbered, masks, name):
    said = invoke("score", masks, numbered, "--name", name, "--study", own)
    return said, [row for fold in sorted(own.glob(f"{name}_masks_*")) for row in rows(fold / "per_image.csv")]


def test_the_data_set_itself_and_copies_of_images_are_no_masks(own, numbered, tmp_path):
    said, _ = scored(own, numbered, numbered, "itself")
    assert "masks are the labels of the data set themselves" in said

    def beside_a_copy(ids, folder, file):
        (folder / file.stem).mkdir()
        Image.fromarray(ids.astype(np.uint16)).save(folder / file.stem / "image_cp_masks.png")
        shutil.copy(numbered / "images" / file.name, folder / file.stem / file.name)

    _, table = scored(own, numbered, copied(numbered, tmp_path / "copies", beside_a_copy), "copies")
    assert {row["object_f1"] for row in table} == {"1.0"}

    def unnamed(ids, folder, file):
        beside_a_copy(ids, folder, file)
        (folder / file.stem / "image_cp_masks.png").rename(folder / file.stem / "result.png")

    masks = copied(numbered, tmp_path / "unnamed", unnamed)
    said = invoke("score", masks, numbered, "--name", "unnamed", "--study", own, code=1)
    assert "has the name of the image" in said


def test_probabilities_are_cut_at_one_half(own, numbered, tmp_path):
    def blurred(ids, folder, file):
        likely = ndimage.gaussian_filter((ids > 0).astype(np.float32), 1.5)
        likely = np.where(ids > 0, np.maximum(likely, 0.51), np.minimum(likely, 0.49))
        tifffile.imwrite(folder / f"{file.stem}.tif", likely.astype(np.float32))

    said, table = scored(own, numbered, copied(numbered, tmp_path / "maps", blurred), "maps")
    assert "masks of continuous values: above half of their range is cell" in said
    assert all(float(row["dice"]) > 0.98 for row in table)


def test_inverted_masks_are_warned_of(own, numbered, tmp_path):
    def inverted(ids, folder, file):
        Image.fromarray((ids == 0) * np.uint8(255)).save(folder / file.name)

    said, _ = scored(own, numbered, copied(numbered, tmp_path / "inverted", inverted), "inverted")
    assert "warning: " in said
    assert "inver" in said


def test_numbers_are_kept_in_spite_of_stray_pixels_and_of_one_cell_alone(own, numbered, tmp_path):
    def strayed(ids, folder, file):
        changed = ids.copy()
        free = np.argwhere(ndimage.maximum_filter(ids, 5) == 0)
        for number in range(1, int(ids.max()) + 1):
            changed[tuple(free[(number * 37) % len(free)])] = number
        Image.fromarray(changed.astype(np.uint16)).save(folder / file.name)

    said, table = scored(own, numbered, copied(numbered, tmp_path / "strayed", strayed), "strayed")
    assert f"{len(table)} of {len(table)} masks number their objects" in said
    assert {row["count_error"] for row in table} == {"0.0"}

    def alone(ids, folder, file):
        if file.stem == "smear_3":  # two cells with a neck, as one
            ids = np.zeros_like(ids)
            ids[20:30, 10:60] = ids[10:40, 10:30] = ids[10:40, 40:60] = 1
        Image.fromarray(ids.astype(np.uint16)).save(folder / file.name)

    said, table = scored(own, numbered, copied(numbered, tmp_path / "alone", alone), "alone")
    assert {row["predicted_objects"] for row in table if row["image"] == "smear_3"} == {"1"}


def pairs_of(files):
    """Pairs as a folder has them: named after their folder where all images are called source."""
    paths = [Path("data", file) for file in files]
    return [Pair(path.parent.name if path.stem == "source" else path.stem, "", path, ()) for path in paths]


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        (["cell_1/source.jpg", "cell_2/source.jpg"], ["cell_2/source.png"], "no mask for 1 test image .* cell_1"),
        (["cell_1/source.jpg", "cell_2/source.jpg"], ["source.png"], "no mask for 2 test images"),
        (
            ["img_1.png", "1.png"],
            ["1.png"],
            r"1\.png: the mask could belong to img_1 and to 1; give each mask",
        ),
        (["x.png", "x_mask.png"], ["x_mask.png"], r"x_mask\.png: the mask could belong to x and to x_mask"),
        (["A.png", "a.tif"], ["A.png"], r"A\.png: the mask could belong to A and to a"),
        (["a/source.jpg", "b/source.jpg"], ["a/b/1.png"], r"1\.png: the mask could belong to a and to b"),
    ],
)
def test_a_mask_is_given_to_one_image_also_where_the_other_is_not_scored(tmp_path, images, masks, message):
    for file in masks:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    data_set = pairs_of(images)
    with pytest.raises(InputError, match=message):
        match_masks(tmp_path, data_set, data_set)
    if "a/b" not in masks[0]:
        with pytest.raises(InputError):
            match_masks(tmp_path, data_set[:1], data_set)


def test_masks_are_found_by_the_name_of_the_pair_or_by_a_name_that_only_its_image_has(tmp_path):
    for file in ("x.png", "x_mask.png", "cell_1/source.png", "cell_2_masks.png", "b7.tif"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    data_set = pairs_of(["x.png", "x_mask.png", "cell_1/source.jpg", "cell_2/source.jpg"])
    data_set.append(Pair("cell_3", "", Path("data/cell_3/b7.png"), ()))
    found = match_masks(tmp_path, data_set, data_set)
    assert {name: [str(file.relative_to(tmp_path)) for file in files] for name, files in found.items()} == {
        "x": ["x.png"],
        "x_mask": ["x_mask.png"],
        "cell_1": [str(Path("cell_1", "source.png"))],
        "cell_2": ["cell_2_masks.png"],
        "cell_3": ["b7.tif"],
    }
