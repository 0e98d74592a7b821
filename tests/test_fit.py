"""Masks that do not lie as their image does are told, and masks that do are not."""

import re
import shutil

import numpy as np
import pytest
from hydra.utils import instantiate
from PIL import Image
from scipy import ndimage
from typer.testing import CliRunner

from cellseg.cli import app
from cellseg.data.check import check_data
from cellseg.data.findings import WARNING
from cellseg.data.fit import find_exchanged, measure_fit
from cellseg.data.kinship import measure_likeness
from cellseg.data.synthetic import SmearStyle, draw_smear, write_synthetic
from conftest import smoke

TURNS = {
    "mirroring left to right": np.fliplr,
    "mirroring top to bottom": np.flipud,
    "turning by 180 degrees": lambda mask: np.rot90(mask, 2),
    "exchanging rows and columns": np.transpose,
    "turning by 90 degrees to the right": np.rot90,  # what undoes a turn to the left
    "turning by 90 degrees to the left": lambda mask: np.rot90(mask, -1),
    "mirroring along the rising diagonal": lambda mask: np.rot90(mask, 2).T,
}


def warned(root):
    """Return the warnings of a check, in one line each."""
    return [str(finding) for finding in check_data(root).findings if finding.severity == WARNING]


def change(file, how):
    Image.fromarray(np.ascontiguousarray(how(np.asarray(Image.open(file).convert("L"))))).save(file)


@pytest.fixture
def drawn(tmp_path):
    root = tmp_path / "drawn"
    write_synthetic(root, pairs=8)
    for file in root.glob("*/mask.jpg"):
        Image.fromarray(np.asarray(Image.open(file).convert("L")) > 100).save(file.with_suffix(".png"))
        file.unlink()
    return root


@pytest.mark.parametrize("turn", TURNS)
def test_the_turn_that_a_mask_needs_is_named(turn):
    smear = draw_smear(3, 0, SmearStyle.sized(200, 200))
    mask = smear.exact > 0
    right = measure_fit(smear.image, mask)
    wrong = measure_fit(smear.image, TURNS[turn](mask))
    assert right.turn == ""
    assert wrong.turn == turn
    assert wrong.own < wrong.turned == pytest.approx(right.own, rel=0.01)


def test_right_masks_get_no_warning(drawn):
    assert not [line for line in warned(drawn) if re.search("fits? |outlines", line)]


def test_all_masks_mirrored_and_one_mirrored_are_told(drawn):
    masks = sorted(drawn.glob("*/mask.png"))
    change(masks[2], np.flipud)
    (one,) = [line for line in warned(drawn) if "better" in line]
    assert masks[2].parent.name in one
    assert "mirroring top to bottom" in one
    change(masks[2], np.flipud)
    for mask in masks:
        change(mask, np.fliplr)
    (all_of_them,) = [line for line in warned(drawn) if "better" in line]
    assert "mirroring left to right" in all_of_them
    assert "5 more" in all_of_them
    for mask in masks[::2]:  # no turn has most of the masks, but all are turned
        change(mask, lambda pixels: pixels[::-1, ::-1])
    told = " ".join(warned(drawn))
    assert "mirroring left to right" in told
    assert "mirroring top to bottom" in told


def test_exchanged_masks_are_told_by_check_and_by_training(drawn, tmp_path, caplog):
    first, second = drawn / "cell_3" / "mask.png", drawn / "cell_5" / "mask.png"
    shutil.move(first, tmp_path / "kept.png")
    shutil.move(second, first)
    shutil.move(tmp_path / "kept.png", second)
    (line,) = [line for line in warned(drawn) if "another image" in line]
    assert "cell_3" in line
    assert "cell_5" in line
    instantiate(smoke(f"data.root={drawn}").data).setup("fit")
    assert line in caplog.messages


def test_outlines_are_told_and_filled_masks_are_not(drawn):
    for mask in drawn.glob("*/mask.png"):
        change(mask, lambda pixels: np.where(ndimage.binary_erosion(pixels > 0, iterations=2), 0, pixels))
    assert any("outlines only" in line for line in warned(drawn))


def test_a_ring_of_filled_cells_is_no_outline():
    mask = np.zeros((200, 200), bool)
    for angle in np.linspace(0, 2 * np.pi, 24):
        mask[int(95 + 60 * np.sin(angle)) :, int(95 + 60 * np.cos(angle)) :][:18, :18] = True
    assert ndimage.binary_fill_holes(mask).sum() > 1.5 * mask.sum()
    assert measure_fit(mask[..., None] * np.uint8(200), mask).filled == 1


def test_an_image_without_structure_is_no_error():
    flat = measure_fit(np.full((40, 60, 3), 9, np.uint8), np.eye(40, 60) > 0)
    assert (flat.own, flat.turned, flat.turn) == (0, 0, "")
    assert measure_fit(np.zeros((1, 1, 1), np.uint8), np.ones((1, 1), bool)).filled == 1


def test_a_permutation_of_masks_is_found_and_twins_are_not():
    rng = np.random.default_rng(0)
    masks = [((ndimage.gaussian_filter(rng.normal(size=(36, 36)), 3) > 0) * 255).astype(np.uint8) for _ in range(300)]
    pixels = [np.kron(255 - mask, np.ones((2, 2), np.uint8)) for mask in masks]  # cells are dark
    images = [measure_likeness(Image.fromarray(image)) for image in pixels]
    sizes = [(36, 36)] * len(masks)
    assert find_exchanged(images, masks, sizes) == []
    moved = [*range(1, 300), 0]
    found = find_exchanged(images, [masks[index] for index in moved], sizes)
    assert dict(found) == {image: mask for mask, image in enumerate(moved)}
    assert find_exchanged(images, [masks[1], masks[0], masks[1], masks[0]], sizes[:4]) == []  # which is right?
    assert find_exchanged(images, [masks[1], masks[0]], [(36, 36), (72, 72)]) == []


def test_the_command_says_what_only_a_person_can_see(drawn):
    assert "--montage" in CliRunner().invoke(app, ["check", str(drawn)]).output
