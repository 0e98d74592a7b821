"""Pixels that nobody judged: they teach nothing, and count in no score."""

import shutil

import monai.losses
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image
from typer.testing import CliRunner

from cellseg import train
from cellseg.cli import app
from cellseg.data.cache import load_pairs
from cellseg.data.check import check_data
from cellseg.data.clean import write_cleaned
from cellseg.data.drawing import draw_panel
from cellseg.data.facts import Reading, inspect_pair
from cellseg.data.findings import MOST_IGNORED
from cellseg.data.pairs import find_pairs, scan_pairs
from cellseg.losses import without_ignored
from cellseg.metrics import AddedScores, score_labels
from cellseg.objects import count_unlabelled, find_disagreements, label_objects
from cellseg.run.folder import RunFolder
from cellseg.run.module import SegmentationModule
from cellseg.storage.errors import InputError
from conftest import CONF, composed, smoke

SIDE = 48


def invoke(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert code is None or result.exit_code == code, result.output + str(result.exception)
    return result.output


LOSSES = {path.stem: instantiate(composed(f"loss={path.stem}").loss) for path in (CONF / "loss").glob("*.yaml")} | {
    "MONAI's Dice and cross-entropy": monai.losses.DiceCELoss(sigmoid=True),
    "MONAI's Tversky": monai.losses.TverskyLoss(sigmoid=True, batch=True),
    "MONAI's focal": monai.losses.FocalLoss(),
    "squared error": torch.nn.MSELoss(),
}


def circle(y, x, radius, side=SIDE):
    down, across = np.mgrid[:side, :side]
    return (down - y) ** 2 + (across - x) ** 2 <= radius**2


def a_batch(seed=0):
    """Two images, with blobs as cells, an area that nobody judged, and objects that are and are not numbered."""
    rng = np.random.default_rng(seed)
    ignored = np.stack([circle(*rng.uniform(10, 38, 2), 9) for _ in range(2)])
    ids = np.zeros((2, SIDE, SIDE), np.int32)
    for index in range(2):
        for number in range(1, 6):
            ids[index][circle(*rng.uniform(0, SIDE, 2), rng.uniform(3, 8))] = number
    ids[ignored] = 0
    return {
        "image": torch.from_numpy(rng.random((2, 3, SIDE, SIDE), np.float32)),
        "mask": torch.from_numpy(ids > 0)[:, None].float(),
        "ids": torch.from_numpy(ids),
        "numbered": torch.tensor([True, False]),
        "vanished": torch.tensor([0, 0]),
        "ignored": torch.from_numpy(ignored)[:, None],
        "name": ["a", "b"],
    }


def with_other_content(batch):
    """The same batch with another image, and another label, where nobody judged."""
    ignored = batch["ignored"]
    other = torch.rand(batch["image"].shape, generator=torch.Generator().manual_seed(1))
    return batch | {
        "image": torch.where(ignored, other, batch["image"]),
    }


@pytest.fixture
def module():
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 1, 1)  # sees each pixel by itself
    with torch.no_grad():
        network.weight *= 10
    added = AddedScores({"largest": lambda probability, mask: probability.max(), "cells": lambda _, mask: mask.sum()})
    module = SegmentationModule(network, torch.nn.Identity(), lambda parameters: None, scores=added)
    module.log = lambda *values, **options: None
    return module


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_they_change_neither_loss_nor_gradient(module, loss):
    module.loss = loss
    gradients = []
    for batch in (a_batch(), with_other_content(a_batch())):
        module.zero_grad()
        value = module.training_step(batch, 0)
        value.backward()
        gradients.append([value.detach(), *(weight.grad.clone() for weight in module.parameters())])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*gradients, strict=True))
    assert any(part.abs().max() > 1e-6 for part in gradients[0][1:])
    logits = torch.randn(2, 1, SIDE, SIDE, requires_grad=True)
    loss(*without_ignored(logits, a_batch()["mask"], a_batch()["ignored"])).backward()
    assert not logits.grad[a_batch()["ignored"]].any()


@pytest.mark.parametrize("seed", range(10))
def test_they_change_no_score(module, seed):
    module.loss = LOSSES["dice_bce"]
    batch = a_batch(seed)
    with torch.no_grad():
        before, after, without = (
            module._score(each, "test", module.test_scores)
            for each in (batch, with_other_content(batch), batch | {"ignored": torch.zeros_like(batch["ignored"])})
        )
    assert {"dice", "object_f1", "boundary_dice", "largest", "ignored_objects"} <= before.keys()
    for name in before.keys() - {"probability"}:
        assert torch.allclose(before[name], after[name], atol=1e-6), name
    assert not torch.allclose(before["soft_dice"], without["soft_dice"])


def test_a_predicted_object_that_reaches_into_them_is_a_hit_or_does_not_count():
    ignored = circle(24, 40, 8)
    cell, inside, beside = circle(10, 10, 6), circle(24, 38, 7), circle(40, 10, 5)
    reaching = circle(24, 27, 6)  # partly inside
    for found, truth, hits, false, left_out in (
        (cell | inside, cell, 1, 0, 0),
        (cell | reaching, cell, 1, 0, 1),
        (cell | reaching, cell | reaching, 2, 0, 0),
        (cell | beside, cell, 1, 1, 0),
    ):
        judged, labelled = found & ~ignored, label_objects(truth & ~ignored)
        row = score_labels(label_objects(judged), judged, labelled, truth & ~ignored, ignored=ignored)
        assert row["object_f1"] == pytest.approx(2 * hits / (2 * hits + false))
        assert (row["count_error"], row["ignored_objects"]) == (false, left_out)
        assert count_unlabelled(found, truth & ~ignored, ignored) == false
        kinds = [place.kind for place in find_disagreements(found, truth & ~ignored, found, None, ignored)]
        assert kinds == ["unlabelled"] * false


def picture(rng):
    return Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8))


LAYOUTS = {
    "one folder a pair": ("cell_{}/source.png", "cell_{}/mask.png", "cell_{}/ignore.png"),
    "any two names": ("cell_{}/a.png", "cell_{}/a_label.png", "cell_{}/a_ignore.png"),
    "one folder an image": ("ID{0}/images/ID{0}.png", "ID{}/masks/m1.png", "ID{}/ignore/x1.png"),
    "parallel": ("images/n{}.png", "masks/n{}.png", "ignore/n{}.png"),
    "parallel, below": ("images/sub/n{}.png", "masks/sub/n{}.png", "ignore/sub/n{}.png"),
    "parallel, named apart": ("images/img_{}.png", "masks/mask_{}.png", "ignore/img_{}_ignore.png"),
    "parallel, a folder each": ("images/n{}.png", "masks/n{}.png", "ignore/n{}/x.png"),
    "side by side": ("n{}.png", "n{}_mask.png", "n{}_ignore.png"),
    "two endings": ("n{}.bmp", "n{}.png", "n{}_ignore.png"),
}


def write(root, layout, ignored=True, word="ignore"):
    rng = np.random.default_rng(0)
    cells, left_out = (np.zeros((40, 50), np.uint8) for _ in range(2))
    cells[5:15, 5:20] = 255
    left_out[10:30, 15:40] = 255
    for number in range(1, 5):
        files = [root / name.replace("ignore", word).format(number) for name in LAYOUTS[layout]]
        for path, content in zip(files, (picture(rng), Image.fromarray(cells), Image.fromarray(left_out)), strict=True):
            if path is not files[2] or (ignored and number != 2):
                path.parent.mkdir(parents=True, exist_ok=True)
                content.save(path)
    return root


@pytest.mark.parametrize("word", ["ignore", "Ignored"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_has_a_place_for_them(tmp_path, layout, word):
    root = write(tmp_path / "data", layout, word=word)
    scan = find_pairs(root)
    assert len(scan.pairs) == 4
    assert not scan.ignored
    for pair, has in zip(scan.pairs, (True, False, True, True), strict=True):
        clean = inspect_pair(pair, Reading())
        assert (clean.ignored is not None) == has
        assert clean.facts.ignored == (0.25 if has else 0)
        assert clean.mask.sum() == (150 - 25 if has else 150)  # what nobody judged is no cell
    write_cleaned(root, tmp_path / "cleaned")
    cleaned = find_pairs(tmp_path / "cleaned")
    facts = [[inspect_pair(pair, Reading()).facts for pair in pairs] for pairs in (scan.pairs, cleaned.pairs)]
    assert [f.mask_sha256 for f in facts[0]] == [f.mask_sha256 for f in facts[1]]


def test_what_lies_under_them_does_not_change_how_the_rest_is_read(tmp_path):
    root = write(tmp_path / "data", "parallel")
    ids = np.zeros((40, 50), np.uint8)
    ids[2:8, 2:12], ids[2:8, 20:30], ids[32:38, 5:15] = 1, 2, 3
    marked = np.zeros((40, 50), bool)
    marked[10:30, 15:40] = True
    rng = np.random.default_rng(0)
    under = {"n1": 0, "n2": 0, "n3": 99 * (rng.random((40, 50)) > 0.5), "n4": rng.integers(0, 255, (40, 50))}
    for name, content in under.items():
        Image.fromarray(np.where(marked, content, ids).astype(np.uint8)).save(root / "masks" / f"{name}.png")
    for name in ("n3", "n4"):
        clean = inspect_pair(next(pair for pair in find_pairs(root).pairs if pair.name == name), Reading())
        assert np.array_equal(clean.ids, ids)
        assert np.array_equal(clean.ignored, marked)


@pytest.mark.parametrize("column", ["ignore", "Ignored"])
def test_a_table_names_them(tmp_path, column):
    root = write(tmp_path / "data", "parallel")
    rows = [f"images/n{n}.png,masks/n{n}.png,{'' if n == 2 else f'ignore/n{n}.png'}" for n in range(1, 5)]
    (root / "pairs.csv").write_text("\n".join([f"image,mask,{column}", *rows]))
    assert [len(pair.ignored) for pair in find_pairs(root).pairs] == [1, 0, 1, 1]
    write_cleaned(root, tmp_path / "cleaned")
    assert [len(pair.ignored) for pair in find_pairs(tmp_path / "cleaned").pairs] == [1, 0, 1, 1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_that_belongs_to_no_image_is_a_problem(tmp_path, layout):
    root = write(tmp_path / "data", layout)
    marks = root / LAYOUTS[layout][2].format(1)
    stray = marks.with_name("elsewhere_ignore.png")
    shutil.copy(marks, stray)
    said = [str(problem) for problem in scan_pairs(root).problems]
    if layout in ("one folder an image", "parallel, a folder each"):  # every file there belongs to the image
        assert not said
    else:
        assert any("belongs to no image" in problem and stray.name in problem for problem in said)


@pytest.mark.parametrize(
    ("layout", "place"),
    [
        ("one folder an image", "ignore/ID1.png"),
        ("one folder an image", "ID1/ignore.png"),
        ("parallel", "ignore.png"),
        ("parallel", "masks/ignore/n1.png"),
        ("parallel", "ignore/n1.npy"),
        ("parallel, below", "ignore/n1.png"),
        ("one folder a pair", "ignore/cell_9.png"),
    ],
)
def test_marks_in_a_wrong_place_are_a_problem_and_not_silently_unused(tmp_path, layout, place):
    root = write(tmp_path / "data", layout, ignored=False)
    rows = [f"{pair.image.relative_to(root)},{pair.masks[0].relative_to(root)}" for pair in scan_pairs(root).pairs]
    (root / place).parent.mkdir(exist_ok=True)
    Image.new("L", (50, 40), 255).save(root / place, "PNG")
    assert any("belongs to no image" in str(problem) for problem in scan_pairs(root).problems)
    (root / "pairs.csv").write_text("\n".join(["image,mask", *rows]))
    assert any("belongs to no image" in str(problem) for problem in scan_pairs(root).problems)


def test_marks_belong_to_the_image_of_exactly_their_name(tmp_path):
    root = write(tmp_path / "data", "parallel", ignored=False)
    for part in ("images", "masks"):
        shutil.copy(root / part / "n1.png", root / part / "img_n1.png")
    (root / "ignore").mkdir()
    Image.new("L", (50, 40)).save(root / "ignore" / "n1.png")
    assert [pair.name for pair in find_pairs(root).pairs if pair.ignored] == ["n1"]


def test_photographs_and_marks_of_everything_are_refused(tmp_path):
    root = write(tmp_path / "data", "parallel")
    shutil.copy(root / "images" / "n1.png", root / "ignore" / "n1.png")
    with pytest.raises(InputError, match=r"n1\.png: "):
        inspect_pair(find_pairs(root).pairs[0], Reading())
    Image.new("L", (50, 40), 255).save(root / "ignore" / "n1.png")
    with pytest.raises(InputError, match=r"n1\.png: marks every pixel as not judged"):
        inspect_pair(find_pairs(root).pairs[0], Reading())
    rows = [f"images/n{n}.png,masks/n{n}.png,images/n{n}.png" for n in range(1, 5)]
    (root / "pairs.csv").write_text("\n".join(["image,mask,ignore", *rows]))
    with pytest.raises(InputError, match=r"in the column ignore, but it is an image or a mask|lists no usable pair"):
        find_pairs(root)


def test_another_size_is_refused(tmp_path):
    root = write(tmp_path / "data", "parallel")
    Image.new("L", (50, 39)).save(root / "ignore" / "n3.png")
    with pytest.raises(
        InputError, match=r"n3\.png: the mask is 50x40 pixels, but its not-judged pixels are marked in 50x39"
    ):
        train.run(smoke(f"data.root={root}"), tmp_path / "run")
    assert "marked" in invoke("check", root, code=1)


@pytest.mark.parametrize("value", [255, (255, 0, 0)])
def test_a_value_or_colour_marks_them(tmp_path, value):
    root = write(tmp_path / "data", "parallel", ignored=False)
    for path in (root / "masks").iterdir():
        pixels = np.zeros((40, 50) if value == 255 else (40, 50, 3), np.uint8)
        pixels[5:15, 5:20] = 1 if value == 255 else (0, 255, 0)
        pixels[20:30, 15:40] = value
        Image.fromarray(pixels).save(path)
    typed = str(value) if value == 255 else "255,0,0"
    said = invoke("check", root, "--ignore-value", typed)
    assert "not judged: 12.50% of the pixels, 4 regions in 4 masks" in said
    assert "data.ignore_value=" in said  # in the command to train
    for pair in find_pairs(root).pairs:
        clean = inspect_pair(pair, Reading(ignore_value=value))
        assert clean.mask.sum() == 150
        assert clean.ignored.sum() == 250
        assert inspect_pair(pair, Reading()).mask.sum() == 400
    assert "no pixel has data.ignore_value=7" in invoke("check", root, "--ignore-value", "7")
    if value == 255:
        assert any("data.ignore_value=255" in finding.effect for finding in check_data(root).findings)  # as a remedy


def test_values_that_cannot_be_are_refused(tmp_path, smears):
    for value in ("0", "none", "255,0", "70000"):
        said = invoke("check", smears, "--ignore-value", value, code=1)
        assert "--ignore-value" in said
    with pytest.raises(InputError, match="is a JPEG image, whose values are not exact"):
        train.run(smoke(f"data.root={smears}", "data.ignore_value=255"), tmp_path / "run")
    with pytest.raises(InputError, match=r"data\.ignore_value must be a value from 1 to 65535"):
        train.run(smoke(f"data.root={smears}", "data.ignore_value=[1,2]"), tmp_path / "run")


def test_marks_without_any_pixel_change_no_bit(smears, tmp_path):
    marked = shutil.copytree(smears, tmp_path / "marked")
    for pair in marked.iterdir():
        with Image.open(pair / "source.jpg") as image:
            Image.new("L", image.size).save(pair / "ignore.png")
    weights = []
    for name, root in (("plain", smears), ("marked", marked)):
        train.run(smoke(f"data.root={root}"), tmp_path / name)
        weights.append(torch.load(tmp_path / name / "weights.pth", weights_only=True))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.fixture(scope="module")
def unjudged(smears, tmp_path_factory):
    """Smears of which nobody judged the left half, and a run on them."""
    root = shutil.copytree(smears, tmp_path_factory.mktemp("data") / "unjudged")
    for pair in root.iterdir():
        with Image.open(pair / "source.jpg") as image:
            marks = np.zeros(image.size[::-1], np.uint8)
        marks[:, : marks.shape[1] // 2] = 255
        Image.fromarray(marks).save(pair / "ignore.png")
    run = tmp_path_factory.mktemp("logs") / "run"
    train.run(smoke(f"data.root={root}", "augmentation=strong"), run)
    return root, run


def test_a_run_keeps_and_tells_what_nobody_judged(unjudged, capsys):
    root, run = unjudged
    files = RunFolder(run)
    assert set(files.test_rows["ignored_pixels"]) == {64 * 32}
    assert "4096 pixels in 2 of 2 images count in no score" in files.summary.averaging["not judged"]
    kept = files.prediction(files.test_rows["image"].iloc[0])
    assert kept.ignored[:, :32].all()
    assert not kept.ignored[:, 32:].any()
    assert not kept.truth[:, :32].any()
    train.run(smoke(f"data.root={root}", "augmentation=strong"), run)  # is finished, so it only tells
    assert "not judged: 4096 pixels" in capsys.readouterr().out
    said = invoke("evaluate", run, root, code=None)
    assert "count in no score" in said or "not judged" in said


def test_review_offers_nothing_there(unjudged, tmp_path):
    invoke("review", unjudged[1], "--output", tmp_path / "review")
    decoded = load_pairs(find_pairs(unjudged[0]).pairs, Reading(image_size=64))
    assert all(facts.ignored == 0.5 for facts in decoded.facts)
    lines = (tmp_path / "review" / "objects.csv").read_text().splitlines()
    left = lines[0].split(",").index("left")
    kinds = [line.split(",") for line in lines[1:]]
    assert all(int(row[left]) >= 32 for row in kinds)


def test_they_are_hatched():
    ignored = circle(24, 24, 10)
    panel = draw_panel(np.zeros((SIDE, SIDE, 3), np.uint8), ~ignored, np.ones((SIDE, SIDE), bool), ignored)
    for part in (panel[:, SIDE + 4 : 2 * SIDE + 4], panel[:, -SIDE:]):
        shades = np.unique(part[ignored].reshape(-1, 3), axis=0)
        assert len(shades) == 2  # lines and what is between them
        assert (part[~ignored] == 255).all()


def test_inverted_marks_are_warned_of(tmp_path):
    root = write(tmp_path / "data", "parallel")
    assert "marked as not judged" not in invoke("check", root, code=None)
    for path in (root / "ignore").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    assert MOST_IGNORED < 0.75
    assert any("marked as not judged" in finding.seen for finding in check_data(root).findings)
