from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cellseg.data.cleaning import content_hash, read_image, read_mask, resize_image, resize_mask
from cellseg.errors import InputError

REAL = Path(__file__).parents[2] / "shared" / "data"


def save(path, values, **options):
    Image.fromarray(np.asarray(values, np.uint8)).save(path, **options)
    return path


def test_grey_mask_becomes_cell_where_it_is_above_the_threshold(tmp_path):
    mask = read_mask(save(tmp_path / "mask.png", [[0, 20, 21, 115, 255]]), threshold=20)
    assert mask.tolist() == [[False, False, True, True, True]]


def test_jpeg_noise_around_the_outline_is_gone_and_overlaps_stay(tmp_path):
    truth = np.zeros((64, 64), np.uint8)
    truth[17:42, 17:42], truth[34:51, 34:51] = 255, 255
    grey = truth.copy()
    grey[34:42, 34:42] = 115
    path = save(tmp_path / "mask.jpg", grey, quality=95)
    with Image.open(path) as file:
        assert len(np.unique(np.asarray(file))) > 3  # the file itself is noisy
    assert np.array_equal(read_mask(path, threshold=20), truth > 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_a_mask_means_the_same_in_every_mode(tmp_path, mode):
    values = np.kron(np.array([[0, 255], [255, 0]], np.uint8), np.ones((4, 4), np.uint8))
    path = tmp_path / ("mask.tif" if mode == "CMYK" else "mask.png")
    Image.fromarray(values).convert(mode).save(path)
    assert np.array_equal(read_mask(path, threshold=20), values > 0)


def test_a_dark_label_colour_is_not_lost(tmp_path):
    path = save(tmp_path / "mask.png", np.full((2, 2, 3), (0, 0, 128)))  # luma 14
    assert read_mask(path, threshold=20).all()


def test_labels_0_and_1_are_refused_rather_than_emptied(tmp_path):
    path = save(tmp_path / "mask.png", [[0, 1]])
    with pytest.raises(InputError, match=r"mask\.png: the brightest value is 1, .*save them as 0 and 255"):
        read_mask(path, threshold=20)
    assert read_mask(path, threshold=0).tolist() == [[False, True]]


def test_an_empty_mask_is_a_mask(tmp_path):
    assert not read_mask(save(tmp_path / "mask.png", [[0, 0]]), threshold=20).any()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "LA"])
def test_images_of_every_mode_become_rgb(tmp_path, mode):
    path = tmp_path / "source.tif"
    Image.fromarray(np.full((4, 6), 255, np.uint8)).convert(mode).save(path)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (6, 4))
    assert np.asarray(image).min() == 255


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    Image.new("RGB", (6, 4)).save(tmp_path / "source.jpg", exif=exif)
    assert read_image(tmp_path / "source.jpg").size == (4, 6)


def test_an_opened_image_is_read_like_its_file(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "source.jpg", exif=exif)
    with Image.open(tmp_path / "source.jpg") as opened:
        assert np.array_equal(np.asarray(read_image(opened)), np.asarray(read_image(tmp_path / "source.jpg")))
    with pytest.raises(InputError, match="not 8 bits"):
        read_image(Image.fromarray(np.full((4, 4), 4000, np.uint16)))


def truncated(path):
    save(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("not an image")


def sixteen_bit(path):
    Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(path)


def animated(path):
    Image.new("L", (4, 4)).save(path, format="TIFF", save_all=True, append_images=[Image.new("L", (4, 4))])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (truncated, r"bad\.png: cannot be read as an image \(.*truncated.*\); export it again"),
        (empty, r"bad\.png: cannot be read as an image"),
        (text, r"bad\.png: cannot be read as an image"),
        (sixteen_bit, r"bad\.png: has pixels of kind I;16, which is not 8 bits a channel"),
        (animated, r"bad\.png: holds 2 pictures"),
    ],
)
@pytest.mark.parametrize("read", [read_image, lambda path: read_mask(path, 20)])
def test_unusable_files_are_named(tmp_path, broken, message, read):
    broken(tmp_path / "bad.png")
    with pytest.raises(InputError, match=message):
        read(tmp_path / "bad.png")


def test_images_are_antialiased_and_masks_are_not():
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))  # finer than the small size can show
    small = resize_image(Image.fromarray(stripes).convert("RGB"), 16)
    assert small.shape == (3, 16, 16)
    assert 100 < small.min() <= small.max() < 155
    mask = resize_mask(stripes > 0, 16)
    assert mask.shape == (1, 16, 16)
    assert set(np.unique(mask)) <= {0, 1}


def test_content_hash_knows_pixels_and_shape_only():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert content_hash(pixels) == content_hash(np.asfortranarray(pixels))
    assert content_hash(pixels) != content_hash(pixels.reshape(4, 3))
    assert content_hash(pixels) != content_hash(pixels + 1)


@pytest.mark.skipif(not REAL.exists(), reason="the real images lie beside a development checkout only")
def test_cleaning_restores_the_exact_masks_of_real_tissue():
    for folder in (REAL / "tissue50").glob("cell_*"):
        with Image.open(REAL / "tissue50-truth" / f"{folder.name}.png") as file:
            truth = np.asarray(file) > 0
        mask = read_mask(folder / "mask.jpg", threshold=20)
        assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) >= 0.999, folder.name
