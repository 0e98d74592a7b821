import numpy as np
import pytest
from PIL import Image

from cellseg.data import synthetic
from cellseg.data.masks import read_mask
from cellseg.data.synthetic import SmearStyle, draw_smear, write_synthetic
from cellseg.storage.errors import InputError
from conftest import TINY


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.jpg")}


def test_the_same_seed_draws_the_same_files(tmp_path):
    for name, seed in (("first", 0), ("second", 0), ("other", 1)):
        write_synthetic(tmp_path / name, pairs=3, seed=seed, style=TINY)
    first, second, other = (files(tmp_path / name) for name in ("first", "second", "other"))
    assert first == second
    assert first.keys() == other.keys() == {f"cell_{n}/{role}.jpg" for n in (1, 2, 3) for role in ("source", "mask")}
    assert all(first[name] != other[name] for name in first)


def test_a_smear_does_not_depend_on_the_others(tmp_path):
    assert np.array_equal(draw_smear(0, 7, TINY).image, draw_smear(0, 7, TINY).image)
    assert not np.array_equal(draw_smear(0, 7, TINY).image, draw_smear(0, 8, TINY).image)


def test_the_masks_have_the_flaws_of_mabimi(own_smears):
    masks = {}
    for n in range(1, 16):
        with Image.open(own_smears / f"cell_{n}" / "mask.jpg") as mask:
            masks[n] = np.asarray(mask)
    assert [n for n, mask in masks.items() if mask.ndim == 3] == [14]
    values = np.concatenate([mask.ravel() for mask in masks.values()])
    assert ((values >= 95) & (values <= 135)).any()  # overlaps are grey
    assert ((values > 0) & (values < 20)).any()  # JPEG noise


def test_cells_are_darker_than_the_background_and_images_are_landscape():
    smear = draw_smear(0, 1)
    grey = smear.image.mean(axis=2)
    assert smear.image.shape == (480, 640, 3)
    assert grey[smear.exact > 0].mean() < grey[smear.exact == 0].mean() - 10


def test_perfect_labels_are_the_exact_cells():
    style = SmearStyle(width=160, height=120, radius=9, cells=(6, 10), unlabelled=0, unlabelled_border=0, label_error=0)
    smear = draw_smear(3, 1, style)
    assert np.array_equal(smear.mask > 0, smear.exact > 0)


@pytest.mark.parametrize("kind", ["unlabelled_border", "unlabelled"])
def test_leaving_cells_out_takes_them_from_the_mask_but_not_from_the_image(kind):
    style = {"width": 160, "height": 120, "radius": 9, "unlabelled": 0, "unlabelled_border": 0, "label_error": 0}
    complete, spoilt = draw_smear(0, 1, SmearStyle(**style)), draw_smear(0, 1, SmearStyle(**style | {kind: 1}))
    assert np.array_equal(complete.exact, spoilt.exact)
    assert (spoilt.mask > 0).sum() < (complete.mask > 0).sum()


def test_the_default_labels_miss_about_a_tenth_as_the_original_study_found():
    """What a network that finds every cell can score at best, measured where the network sees it."""
    dice = []
    for index in range(1, 13):
        smear = draw_smear(0, index)
        labelled, visible = smear.mask > 20, smear.exact > 0
        dice.append(2 * (labelled & visible).sum() / (labelled.sum() + visible.sum()))
    assert 0.86 < np.mean(dice) < 0.94


def test_labels_survive_the_jpeg_file(tmp_path):
    write_synthetic(tmp_path / "set", pairs=2, style=TINY)
    written = read_mask([tmp_path / "set" / "cell_2" / "mask.jpg"], threshold=20).cell
    drawn = draw_smear(0, 2, TINY).mask > 20
    assert 2 * (written & drawn).sum() / (written.sum() + drawn.sum()) > 0.98


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="mine already exists and is not overwritten"):
        write_synthetic(tmp_path / "mine", pairs=1, style=TINY)
    assert not list((tmp_path / "mine").iterdir())


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "draw_smear", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "set", pairs=1, style=TINY)
    assert not list(tmp_path.iterdir())
