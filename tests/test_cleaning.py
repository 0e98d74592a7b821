"""Every kind of image becomes RGB, and every kind of mask becomes cell and background."""

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from cellseg.data.clean import write_cleaned
from cellseg.data.facts import Reading, inspect_pair
from cellseg.data.images import as_rgb, content_hash, read_image, resize_image
from cellseg.data.masks import read_mask, resize_mask
from cellseg.data.pairs import find_pairs
from cellseg.storage.errors import InputError

REAL = Path(__file__).parents[2] / "shared" / "data"
BLOCKS = np.kron(np.array([[0, 1], [1, 0]], np.uint8), np.ones((8, 8), np.uint8))  # cell or not


def save(path, values, **options):
    Image.fromarray(np.asarray(values)).save(path, **options)
    return path


def cell(path, threshold=20):
    return read_mask([path], threshold).cell


def test_grey_mask_becomes_cell_where_it_is_above_the_threshold(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))  # a smooth edge: no value fills an area
    reading = read_mask([save(tmp_path / "mask.png", ramp)], 20)
    assert np.array_equal(reading.cell, ramp > 20)
    assert reading.kind == "grey"
    assert reading.faint_pixels == 4 * 20


def test_jpeg_noise_around_the_outline_is_gone_and_overlaps_stay(tmp_path):
    truth = np.zeros((64, 64), np.uint8)
    truth[17:42, 17:42], truth[34:51, 34:51] = 255, 255
    grey = truth.copy()
    grey[34:42, 34:42] = 115
    noisy = save(tmp_path / "mask.jpg", grey, quality=95)
    with Image.open(noisy) as file:
        assert len(np.unique(np.asarray(file))) > 3  # the file itself is noisy
        file.save(tmp_path / "again.png")  # and stays so when it is exported again without loss
    for path in (noisy, tmp_path / "again.png"):
        reading = read_mask([path], 20)
        assert np.array_equal(reading.cell, truth > 0)
        assert reading.kind == "grey"
        assert 64 <= reading.grey_pixels < 150
        assert reading.faint_pixels > 0


def test_flat_grey_overlaps_in_a_clean_file_are_grey_and_not_ids(tmp_path):
    mask = np.zeros((40, 40), np.uint8)
    mask[5:35, 5:35], mask[10:15, 10:15] = 255, 115
    reading = read_mask([save(tmp_path / "mask.png", mask)], 20)
    assert (reading.kind, reading.grey_pixels) == ("grey", 25)
    assert np.array_equal(reading.cell, mask > 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_a_mask_means_the_same_in_every_mode(tmp_path, mode):
    path = tmp_path / ("mask.tif" if mode == "CMYK" else "mask.png")
    Image.fromarray(BLOCKS * 255).convert(mode).save(path)
    reading = read_mask([path], 20)
    assert np.array_equal(reading.cell, BLOCKS > 0)
    assert reading.brightest == 255


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("png", BLOCKS),
        ("png", BLOCKS * 255),
        ("png", BLOCKS * 7),
        ("png", BLOCKS * np.uint16(300)),
        ("tif", BLOCKS * np.uint16(65535)),
        ("tif", BLOCKS * np.int32(70000)),
        ("tif", BLOCKS.astype(np.float32)),
        ("bmp", BLOCKS),
    ],
)
def test_values_decide_and_not_their_size(tmp_path, name, values):
    reading = read_mask([save(tmp_path / f"mask.{name}", values)], 20)
    assert np.array_equal(reading.cell, BLOCKS > 0)
    assert (reading.kind, reading.brightest) == ("labels", int(values.max()))


@given(count=st.integers(2, 400), seed=st.integers(0, 2**32 - 1))
def test_no_instance_id_is_lost_however_small(tmp_path_factory, count, seed):
    ids = np.zeros((160, 160), np.uint16)
    places = np.random.default_rng(seed).permutation(400)[:count]
    for number, place in enumerate(places, start=1):
        y, x = divmod(int(place), 20)
        ids[8 * y : 8 * y + 7, 8 * x : 8 * x + 7] = number
    values = ids.astype(np.uint8) if count < 256 else ids
    path = save(tmp_path_factory.mktemp("ids") / "mask.png", values)
    assert np.array_equal(cell(path), ids > 0)


@pytest.mark.parametrize("thickness", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_ids_of_the_thinnest_cells_and_of_slivers_at_the_border_are_kept(tmp_path, thickness, dtype):
    rods = np.zeros((128, 128), dtype)
    for number in range(60):
        y, x = divmod(number, 6)
        rods[12 * y + 2 : 12 * y + 2 + thickness, 20 * x + 3 : 20 * x + 15] = number + 1
    assert np.array_equal(cell(save(tmp_path / "rods.png", rods)), rods > 0)
    slivers = np.zeros((64, 64), dtype)
    slivers[10:40, 10:40], slivers[:2, 20:50], slivers[62:, 5:40], slivers[50:55, :2] = 30, 5, 12, 17
    assert np.array_equal(cell(save(tmp_path / "slivers.png", slivers)), slivers > 0)


@pytest.mark.parametrize("quality", [50, 90])
@pytest.mark.parametrize("factor", [1, 3, 4])
def test_noise_is_noise_however_large_its_pixels_were_made(tmp_path, quality, factor):
    y, x = np.mgrid[:128, :128]
    centres = [(20, 30), (64, 64), (90, 30), (40, 100), (100, 100)]
    truth = np.logical_or.reduce([np.hypot(y - a, x - b) < 17 for a, b in centres])
    noisy = save(tmp_path / "mask.jpg", truth.astype(np.uint8) * 255, quality=quality)
    with Image.open(noisy) as file:
        file.resize((128 * factor, 128 * factor), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    found = cell(tmp_path / "large.png")
    assert np.array_equal(found, np.kron(cell(noisy), np.ones((factor, factor), bool)))


def test_soft_masks_are_cut_and_not_taken_for_labels(tmp_path):
    y, x = np.mgrid[:96, :96]
    soft = (255 * np.exp(-((y - 48) ** 2 + (x - 48) ** 2) / 600)).astype(np.uint8)
    assert np.array_equal(cell(save(tmp_path / "mask.png", soft)), soft > 20)


def test_lossless_webp_keeps_its_ids(tmp_path):
    ids = np.zeros((80, 80, 3), np.uint8)
    for number in range(16):
        y, x = divmod(number, 4)
        ids[20 * y + 2 : 20 * y + 17, 20 * x + 2 : 20 * x + 17] = number + 1
    assert np.array_equal(cell(save(tmp_path / "ids.webp", ids, lossless=True)), ids[..., 0] > 0)


def test_masks_that_pillow_would_read_wrongly_are_refused(tmp_path):
    (tmp_path / "deep.png").write_bytes(png16(np.full((4, 4, 3), 300, np.uint16)))
    with pytest.raises(InputError, match=r"deep\.png: has 16 bits for each colour channel; save the mask"):
        cell(tmp_path / "deep.png")
    white_is_zero = save(tmp_path / "mask.tif", BLOCKS * np.uint16(65535), tiffinfo={262: 0})
    with pytest.raises(InputError, match=r"mask\.tif: its tag PhotometricInterpretation is 0 \(white is zero\)"):
        cell(white_is_zero)


def test_blank_deep_images_stay_blank(tmp_path):
    noise = np.random.default_rng(0).integers(95, 110, (64, 64)).astype(np.uint16)
    assert read_image(save(tmp_path / "blank.tif", noise)).pixels.max() < 30


def discs(spacing=28, radius=11):
    """Separate discs on a grid, with ids from 2."""
    y, x = np.mgrid[: 3 * spacing, : 3 * spacing]
    inside = np.hypot(y % spacing - spacing / 2, x % spacing - spacing / 2) < radius
    return np.where(inside, 2 + y // spacing * 3 + x // spacing, 0).astype(np.uint8)


@pytest.mark.parametrize("radius", [5, 11])
@pytest.mark.parametrize(("rim", "inside"), [(10, 255), (1, 2), (1, None)], ids=["10 and 255", "1 and 2", "1 and ids"])
def test_an_exact_rim_belongs_to_the_label_inside(tmp_path, radius, rim, inside):
    ids = discs(radius=radius)
    edge = (ids > 0) & ~ndimage.binary_erosion(ids > 0)
    values = np.where(edge, rim, (ids > 0) * np.uint8(inside) if inside else ids).astype(np.uint8)
    reading = read_mask([save(tmp_path / "mask.png", values)], 20)
    assert reading.kind == "labels"
    assert np.array_equal(reading.cell, ids > 0)
    assert inside or np.array_equal(reading.ids, np.where(ids, ids - 1, 0).astype(np.int32))


@pytest.mark.parametrize("factor", [0.5, 0.7, 2, 3])
def test_soft_outlines_of_resized_masks_are_no_rims(tmp_path, factor):
    for values in ((discs() > 0) * np.uint8(255), np.kron([[0, 1, 0], [0, 0, 0]], np.full((21, 21), 255, np.uint8))):
        size = [int(side * factor) for side in values.shape[::-1]]
        soft = Image.fromarray(values.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
        reading = read_mask([save(tmp_path / "mask.png", soft)], 20)
        assert (reading.kind, reading.ids) == ("grey", None)
        assert np.array_equal(reading.cell, np.asarray(soft) > 20)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_ids_in_floating_point_numbers_are_ids(tmp_path, dtype):
    ids = np.kron(np.arange(12).reshape(3, 4), np.ones((6, 6))).astype(dtype)
    tifffile.imwrite(tmp_path / "mask.tif", ids)
    assert np.array_equal(read_mask([tmp_path / "mask.tif"], 20).ids, ids)


def test_a_dark_label_colour_is_not_lost(tmp_path):
    for colour in ((0, 0, 128), (10, 0, 0)):
        path = save(tmp_path / "mask.png", BLOCKS[..., None] * np.array(colour, np.uint8))
        assert np.array_equal(cell(path), BLOCKS > 0)


def test_palette_masks_count_by_colour_whatever_the_index(tmp_path):
    for palette in ([0, 0, 0, 128, 0, 0], [255, 255, 255, 0, 0, 0]):
        picture = Image.fromarray(BLOCKS if palette[0] == 0 else 1 - BLOCKS)
        picture.putpalette(palette)
        picture.save(tmp_path / "mask.png")
        assert np.array_equal(cell(tmp_path / "mask.png"), BLOCKS > 0)


def test_transparent_pixels_are_background(tmp_path):
    white = np.dstack([np.full((*BLOCKS.shape, 3), 255, np.uint8), BLOCKS * 255])
    assert np.array_equal(cell(save(tmp_path / "mask.png", white)), BLOCKS > 0)


def test_labels_0_and_1_in_a_lossy_file_are_refused_rather_than_emptied(tmp_path):
    path = save(tmp_path / "mask.jpg", np.kron(BLOCKS, np.ones((4, 4), np.uint8)) * 9)
    with pytest.raises(InputError, match=r"mask\.jpg: the brightest value is \d+, not .*save them as 0 and 255"):
        read_mask([path], threshold=20)
    assert cell(path, threshold=0).any()


def test_an_empty_mask_is_a_mask(tmp_path):
    reading = read_mask([save(tmp_path / "mask.png", BLOCKS * 0)], 20)
    assert (reading.kind, reading.cell.any()) == ("empty", False)


def test_several_masks_are_united(tmp_path):
    top, bottom = BLOCKS.copy(), BLOCKS.copy()
    top[8:], bottom[:8] = 0, 0
    paths = [save(tmp_path / f"{n}.png", part) for n, part in enumerate((top * 255, bottom * 0, bottom))]
    assert np.array_equal(read_mask(paths, 20).cell, BLOCKS > 0)
    save(paths[2], BLOCKS[:4])
    with pytest.raises(InputError, match=r"2\.png: the mask is 16x4 pixels, but 0\.png is 16x16"):
        read_mask(paths, 20)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "LA"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_images_of_every_mode_become_rgb(tmp_path, mode, suffix):
    if (mode, suffix) == ("CMYK", ".png"):
        return  # PNG knows no CMYK
    path = tmp_path / f"source{suffix}"
    Image.fromarray(np.full((4, 6), 255, np.uint8)).convert(mode).save(path)
    reading = read_image(path)
    assert reading.pixels.shape == (4, 6, 3)
    assert reading.pixels.min() == 255


@pytest.mark.parametrize(
    ("depth", "dtype"), [(4095, np.uint16), (65535, np.uint16), (70000, np.int32), (1, np.float32)]
)
def test_deep_images_use_the_whole_range_whatever_their_bits(tmp_path, depth, dtype):
    ramp = np.tile(np.linspace(0, 1, 64), (64, 1))
    reading = read_image(save(tmp_path / "source.tif", (ramp * depth).astype(dtype)))
    grey = reading.pixels[..., 0].astype(int)
    assert (grey.min(), grey.max()) == (0, 255)
    assert abs(grey - ramp * 255).max() < 3
    assert reading.stretched


def test_a_flat_deep_image_is_no_error(tmp_path):
    flat = save(tmp_path / "source.png", np.full((4, 4), 4000, np.uint16))
    assert read_image(flat).pixels.max() == 0


@pytest.mark.parametrize("read", [lambda path: read_image(path), lambda path: read_mask([path], 20)])
def test_pixels_that_are_not_numbers_are_refused(tmp_path, read):
    path = save(tmp_path / "bad.tif", np.full((4, 4), np.nan, np.float32))
    with pytest.raises(InputError, match=r"bad\.tif: contains NaN or infinite pixels"):
        read(path)


def test_16_bit_colour_is_told(tmp_path):
    colour = np.random.default_rng(0).integers(0, 65535, (4, 4, 3), np.uint16)
    (tmp_path / "source.png").write_bytes(png16(colour))
    assert read_image(tmp_path / "source.png").truncated
    assert not read_image(save(tmp_path / "eight.png", colour.astype(np.uint8))).truncated


def png16(colour):
    """A PNG of 16 bits a channel, which Pillow reads but does not write."""
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)
    header = struct.pack(">IIBBBBB", colour.shape[1], colour.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    Image.new("RGB", (6, 4)).save(tmp_path / "source.jpg", exif=exif)
    reading = read_image(tmp_path / "source.jpg")
    assert (reading.pixels.shape, reading.decoded.turned) == ((6, 4, 3), True)


def test_an_opened_image_is_read_like_its_file(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "source.jpg", exif=exif)
    with Image.open(tmp_path / "source.jpg") as opened:
        ours, files = read_image(opened).pixels, read_image(tmp_path / "source.jpg").pixels
    assert np.array_equal(ours, files)


def truncated(path):
    save(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("not an image")


def animated(path):
    Image.new("L", (4, 4)).save(path, format="TIFF", save_all=True, append_images=[Image.new("L", (4, 4))])


def lab(path):
    Image.new("LAB", (4, 4)).save(path, format="TIFF")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (truncated, r"bad\.png: cannot be read as an image \(.*truncated.*\); export it again"),
        (empty, r"bad\.png: cannot be read as an image"),
        (text, r"bad\.png: cannot be read as an image"),
        (animated, r"bad\.png: contains several images"),
        (lab, r"bad\.png: has pixels of kind CIELAB 8 .*; save it as an RGB or grey file"),
        (lambda path: None, r"bad\.png does not exist"),
    ],
)
@pytest.mark.parametrize("read", [lambda path: read_image(path), lambda path: read_mask([path], 20)])
def test_unusable_files_are_named(tmp_path, broken, message, read):
    broken(tmp_path / "bad.png")
    with pytest.raises(InputError, match=message):
        read(tmp_path / "bad.png")


def tiff(pages, *, endless=False, side=1):
    """A TIFF of that many pages, with data for one pixel; endless: the last is followed by the first."""
    entries = [
        (256, 4, side),
        (257, 4, side),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (278, 4, 1),
        (279, 4, 1),
    ]
    page = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries
    )
    size, first = len(page) + 4, 10
    follows = [first + number * size for number in range(1, pages)] + [first if endless else 0]
    return (
        b"II*\0" + struct.pack("<I", first) + b"\x07\0" + b"".join(page + struct.pack("<I", next_) for next_ in follows)
    )


@pytest.mark.parametrize("content", [tiff(10_000), tiff(2)])
def test_a_file_of_many_pages_is_refused(tmp_path, content):
    (tmp_path / "bad.tif").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.tif: contains several images"):
        read_image(tmp_path / "bad.tif")


@pytest.mark.parametrize("content", [tiff(1), tiff(3, endless=True)])
def test_a_file_of_one_page_is_read_also_where_its_pages_go_round(tmp_path, content):
    (tmp_path / "one.tif").write_bytes(content)
    assert read_image(tmp_path / "one.tif").pixels.tolist() == [[[7, 7, 7]]]


def test_a_picture_far_larger_than_its_file_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(InputError, match=r"bomb\.png: cannot be read as an image .*exceeds limit"):
        read_image(tmp_path / "bomb.png")


def test_images_are_antialiased_and_masks_are_not():
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))  # finer than the small size can show
    small = resize_image(np.dstack([stripes] * 3), 16)
    assert small.shape == (3, 16, 16)
    assert 100 < small.min() <= small.max() < 155
    mask = resize_mask(stripes > 0, 16)
    assert mask.shape == (1, 16, 16)
    assert set(np.unique(mask)) <= {0, 1}


def test_grey_as_a_view_is_resized_and_shown_as_grey_in_three_channels():
    grey = np.random.default_rng(0).integers(0, 256, (50, 70, 1), np.uint8)
    view, copies = np.broadcast_to(grey, (50, 70, 3)), np.repeat(grey, 3, axis=2)
    assert np.array_equal(resize_image(view, 16), resize_image(copies, 16))
    assert np.array_equal(np.asarray(as_rgb(view)), copies)
    assert content_hash(view) == content_hash(copies)


def test_content_hash_knows_pixels_and_shape_only():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert content_hash(pixels) == content_hash(np.asfortranarray(pixels))
    assert content_hash(pixels) != content_hash(pixels.reshape(4, 3))
    assert content_hash(pixels) != content_hash(pixels + 1)


@pytest.mark.skipif(not REAL.exists(), reason="the real images lie beside a development checkout only")
def test_cleaning_restores_the_exact_masks_of_real_tissue(tmp_path):
    for folder in (REAL / "tissue50").glob("cell_*"):
        with Image.open(REAL / "tissue50-truth" / f"{folder.name}.png") as file:
            truth = np.asarray(file) > 0
        mask = cell(folder / "mask.jpg")
        assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) >= 0.999, folder.name
        ids = save(tmp_path / "ids.png", ndimage.label(truth)[0].astype(np.uint8))
        assert np.array_equal(cell(ids), truth), folder.name


def test_cleaning_keeps_the_numbers_of_cells_that_touch(tmp_path):
    ids = np.zeros((40, 60), np.uint8)
    ids[5:15, 5:15], ids[5:15, 15:30], ids[20:35, 5:25], ids[20:35, 25:40] = 3, 9, 40, 41
    colours = np.random.default_rng(0).integers(60, 256, (256, 3)).astype(np.uint8) * (np.arange(256)[:, None] > 0)
    numbered = np.unique(ids, return_inverse=True)[1].reshape(ids.shape).astype(np.uint16)
    masks = {
        "ids": [ids],
        "numbered": [numbered],
        "colours": [colours[ids].astype(np.uint8)],
        "not annotated": [np.where(np.arange(60) > 50, 255, numbered).astype(np.uint8)],
        "files": [(ids == value) * np.uint8(255) for value in (3, 9, 40, 41)],
    }
    for name, files in masks.items():
        for folder in ("images", "masks"):
            (tmp_path / "data" / name / folder).mkdir(parents=True)
        save(tmp_path / "data" / name / "images" / "a.png", np.tile(ids[..., None], 3))
        for number, values in enumerate(files):
            save(tmp_path / "data" / name / "masks" / f"{number}.png", values)
    write_cleaned(tmp_path / "data", tmp_path / "out")
    pairs = [*zip(find_pairs(tmp_path / "data").pairs, find_pairs(tmp_path / "out").pairs, strict=True)]
    assert len(pairs) == len(masks)
    for before, after in ([inspect_pair(pair, Reading()) for pair in both] for both in pairs):
        assert len(np.unique(before.ids)) == 5
        assert np.array_equal(after.ids, before.ids)
        assert np.array_equal(after.mask, before.mask)
        assert np.array_equal(after.pixels, before.pixels)
    rows = (tmp_path / "out" / "changes.csv").read_text().splitlines()
    assert "numbered,numbered/masks/0.png,numbered/masks/0.png,values unchanged" in rows
