"""The meaning of mask values: labels, resized labels, shades; and the warnings about them."""

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from skimage.segmentation import find_boundaries

from cellseg.data.facts import Reading, inspect_pair
from cellseg.data.findings import describe_masks, look_at_pairs
from cellseg.data.masks import count_survivors, read_mask, resize_mask
from cellseg.data.pairs import Pair
from cellseg.storage.errors import InputError
from conftest import quick_first


def scene(seed=0, height=160, width=192, cells=20, radius=(8, 14)):
    """Draw ellipses that overlap and are cut by the border: instance ids from 1."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.int32)
    y, x = np.mgrid[:height, :width]
    for number in range(1, cells + 1):
        row, column, turn = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0, np.pi)
        down, across = y - row, x - column
        u, v = down * np.cos(turn) + across * np.sin(turn), across * np.cos(turn) - down * np.sin(turn)
        a, b = rng.uniform(*radius, 2)
        labels[((u / a) ** 2 + (v / b) ** 2 <= 1) & (labels == 0)] = number
    return labels


def save(path, values, **options):
    if path.suffix == ".tif":
        tifffile.imwrite(path, values)
    else:
        Image.fromarray(np.asarray(values)).save(path, **options)
    return path


def reading(path):
    return read_mask([path], 20)


def iou(found, meant):
    return (found & meant).sum() / (found | meant).sum()


def findings(tmp_path, *masks, image_size=None):
    """Return what is found in a set of masks under black images, as text."""
    pairs, facts = [], []
    for number, values in enumerate(masks):
        mask = values if not isinstance(values, np.ndarray) else save(tmp_path / f"m{number}.png", values)
        with Image.open(mask) as opened:
            image = save(tmp_path / f"i{number}.png", np.zeros(opened.size[::-1], np.uint8))
        pairs.append(Pair(str(number), str(number), image, (mask,)))
        facts.append(inspect_pair(pairs[-1], Reading(image_size=image_size)).facts)
    return [f"{found.severity} {found}" for found in look_at_pairs(pairs, facts, tmp_path)]


@settings(max_examples=40)
@given(
    classes=st.integers(2, 60),
    step=st.integers(1, 1000),
    seed=st.integers(0, 20),
    last_is_most=st.booleans(),
    shuffled=st.booleans(),
)
def test_classes_are_cell_however_many_and_however_far_apart(
    tmp_path_factory, classes, step, seed, last_is_most, shuffled
):
    ids = scene(seed)
    number = np.minimum(ids % (2 * classes) + 1, classes) if last_is_most else ids % classes + 1
    values = np.arange(1, classes + 1) * step
    values = np.random.default_rng(seed).permutation(values) if shuffled else values
    mask = np.where(ids > 0, values[number - 1], 0)
    path = save(tmp_path_factory.mktemp("m") / "m.tif", mask.astype(np.uint8 if mask.max() < 256 else np.uint16))
    assert np.array_equal(reading(path).cell, ids > 0)


@pytest.mark.parametrize("seed", range(6))
def test_a_rim_one_pixel_wide_belongs_to_the_cells_that_it_surrounds(tmp_path, seed):
    labels = scene(seed, cells=8)
    rim = find_boundaries(labels, mode="inner") & (labels > 0)
    found = reading(save(tmp_path / "m.png", np.where(rim, 1, labels + 1).astype(np.uint8) * (labels > 0)))
    assert np.array_equal(found.cell, labels > 0)
    assert len(np.unique(found.ids)) == len(np.unique(labels))


@pytest.mark.parametrize("numbers", [(3, 240, 251), (12, 1000, 1001), (1, 2, 3)])
def test_thin_cells_apart_keep_their_numbers(tmp_path, numbers):
    mask = np.zeros((96, 96), np.uint16 if max(numbers) > 255 else np.uint8)
    for row, number in zip((10, 40, 70), numbers, strict=True):
        mask[row : row + 2, 8:90] = number
    found = reading(save(tmp_path / "m.png", mask))
    assert np.array_equal(found.cell, mask > 0)
    assert len(np.unique(found.ids)) == 4


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 255), (255, 255, 255)])
def test_colour_jpeg_masks_are_warned_of(tmp_path, colour):
    mask = np.zeros((96, 96, 3), np.uint8)
    mask[20:50, 20:50] = mask[60:80, 10:40] = colour
    found = findings(tmp_path, save(tmp_path / "m.jpg", mask, quality=75))
    warned = any(line.startswith("warning") and "blurs colours over the outlines" in line for line in found)
    assert warned == (colour != (255, 255, 255))


def test_faint_specks_far_from_a_white_cell_are_no_cells(tmp_path):
    mask = np.zeros((96, 96), np.uint8)
    mask[20:50, 20:50] = 255
    mask[60, 60], mask[80, 70] = 3, 9
    assert np.array_equal(reading(save(tmp_path / "m.png", mask)).cell, mask > 20)


def test_masks_shared_by_several_images_are_one_finding(tmp_path):
    masks = [np.pad(np.full((9, 9), 255, np.uint8), ((5, 30), (5 + 9 * number, 40))) for number in range(2)]
    two = [np.concatenate([mask, mask], axis=1) for mask in masks]
    pairs, facts = [], []
    for number in range(4):
        image = save(tmp_path / f"i{number}.png", np.full(two[number // 2].shape, 40 * number, np.uint8))
        mask = save(tmp_path / f"m{number}.png", two[number // 2])
        pairs.append(Pair(str(number), str(number), image, (mask,)))
        facts.append(inspect_pair(pairs[-1], Reading()).facts)
    found = [finding for finding in look_at_pairs(pairs, facts, tmp_path) if "same mask" in finding.seen]
    assert [finding.seen for finding in found] == ["the same mask for 4 images, in 2 sets"]


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.5, 2])
@pytest.mark.parametrize("how", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.BOX])
@pytest.mark.parametrize("factor", quick_first(1, [4, 1, 700]))
def test_labels_that_were_resized_with_interpolation_keep_their_cells(tmp_path, scale, how, factor):
    ids = scene(height=320, width=384, cells=40, radius=(10, 18))
    size = (int(384 * scale), int(320 * scale))
    soft = np.asarray(Image.fromarray((ids * factor).astype(np.float32)).resize(size, how)).clip(0).round()
    found = reading(save(tmp_path / "m.tif", soft.astype(np.uint16)))
    meant = np.asarray(Image.fromarray(ids > 0).resize(size, Image.Resampling.NEAREST))
    assert iou(found.cell, meant) > 0.88
    kept = np.unique(ids[ids > 0])
    centres = np.asarray(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))
    inside = {number: found.cell[ndimage.binary_erosion(centres == number)] for number in kept}
    assert all(cell.mean() > 0.8 for cell in inside.values() if cell.size), "no label is lost, however low"


@pytest.mark.parametrize("sigma", [1, 2, 3])
def test_a_blurred_mask_is_cut_at_the_threshold(tmp_path, sigma):
    soft = (ndimage.gaussian_filter((scene() > 0).astype(float), sigma) * 255).astype(np.uint8)
    found = reading(save(tmp_path / "m.png", soft))
    assert found.kind == "grey"
    assert np.array_equal(found.cell, soft > 20)


def test_a_value_that_may_mean_not_judged_is_a_warning(tmp_path):
    ids = scene()
    ring = ndimage.binary_dilation(ids > 0, iterations=2) & (ids == 0)
    [found] = [one for one in findings(tmp_path, np.where(ring, 255, ids > 0).astype(np.uint8)) if "warning" in one]
    assert "value 255 beside labels up to 1, which may mean 'not annotated'; it is cell" in found
    instances = scene(height=800, width=800, cells=255).astype(np.uint8)
    assert not [one for one in findings(tmp_path, instances) if "not annotated" in one]


def test_faint_labels_in_jpeg_are_a_warning_and_noise_around_cells_is_none(tmp_path):
    ids = scene(height=320, width=384, cells=18)
    noisy = save(tmp_path / "noisy.jpg", ((ids > 0) * 255).astype(np.uint8), quality=60)
    assert not [one for one in findings(tmp_path, noisy) if "faint areas" in one or one.startswith("warning")]
    classes = np.where(ids > 0, np.array([12, 200])[ids % 2], 0).astype(np.uint8)
    said = findings(tmp_path, save(tmp_path / "classes.jpg", classes, quality=95))
    assert [one for one in said if one.startswith("warning") and "faint areas far from any cell" in one]


def test_shades_without_a_usual_value_are_a_warning(tmp_path):
    ids = scene(cells=12)
    said = findings(tmp_path, save(tmp_path / "ids.jpg", (ids * 20).astype(np.uint8), quality=90))
    assert [one for one in said if one.startswith("warning") and "many shades of grey" in one]


def test_a_low_value_that_is_cell_in_one_file_and_background_in_another_is_a_contradiction(tmp_path):
    ids = scene()
    shades = save(tmp_path / "m.jpg", ((ids > 0) * 255).astype(np.uint8), quality=60)
    said = findings(tmp_path, (ids > 0).astype(np.uint8), shades)
    assert [one for one in said if "warning m0.png: low values are cell here, but background in 1 grey mask" in one]
    assert not [one for one in findings(tmp_path, ((ids > 0) * 255).astype(np.uint8), shades) if "low values" in one]
    said = findings(tmp_path, ids.astype(np.uint8), ids.astype(np.uint8), shades)  # the exception is named
    assert [one for one in said if "warning m.jpg: low values are background here, but cell in 2 masks" in one]


def test_what_masks_were_taken_for_is_one_line(tmp_path):
    ids = scene()
    facts = []
    for number, mask in enumerate([ids.astype(np.uint8), ids * 0, (ids > 0).astype(np.uint8)]):
        path = save(tmp_path / f"m{number}.png", mask.astype(np.uint8))
        image = save(tmp_path / "i.png", np.zeros(ids.shape, np.uint8))
        facts.append(inspect_pair(Pair("a", "a", image, (path,)), Reading()).facts)
    assert describe_masks(facts, Reading()) == "masks: 2 labels, every value above 0 is cell; 1 empty"


def indexed(path, index, palette, **options):
    picture = Image.fromarray(index.astype(np.uint8)).convert("L")
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette(palette)
    picture.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("palette", "index"),
    [
        ([0, 0, 0, 128, 0, 0], 0),  # VOC: black, then colours
        ([255, 255, 255, 200, 0, 0], 0),  # QuPath: background white
        ([0, 255, 0, 0, 0, 0], 0),  # by index, though cells are black
        ([0, 0, 0, 255, 255, 255], 0),
        ([255, 255, 255, 0, 0, 0], 1),  # grey: by brightness, background is index 1
    ],
)
def test_palettes_count_by_index_if_they_have_colours_and_by_brightness_if_they_are_grey(tmp_path, palette, index):
    cells = scene() > 0
    found = reading(indexed(tmp_path / "m.png", np.where(cells, 1 - index, index), palette))
    assert np.array_equal(found.cell, cells)


@pytest.mark.parametrize(
    "palette",
    [
        [200, 0, 0, 255, 255, 255],  # background is index 1, by its colour white
        [200, 0, 0, 0, 0, 0],
    ],
)
def test_a_palette_whose_usual_border_is_not_index_0_is_refused(tmp_path, palette):
    path = indexed(tmp_path / "m.png", ~(scene() > 0), palette)
    with pytest.raises(InputError, match=r"m\.png: palette index 1 \(#\w{6}\) is most frequent along the border"):
        reading(path)


def test_a_grey_palette_that_inverts_is_refused(tmp_path):
    path = indexed(tmp_path / "m.png", scene() > 0, [255, 255, 255, 0, 0, 0])
    with pytest.raises(InputError, match=r"m\.png: palette index 0 \(#ffffff\) is most frequent"):
        reading(path)


def test_transparent_entries_of_a_palette_are_background(tmp_path):
    cells = scene() > 0
    path = indexed(tmp_path / "m.png", np.where(cells, 2, 1), [0, 0, 0, 9, 9, 9, 200, 0, 0], transparency=1)
    assert np.array_equal(reading(path).cell, cells)


def test_coloured_cells_on_white_are_refused(tmp_path):
    colours = np.where((scene() > 0)[..., None], np.array([255, 0, 0]), 255).astype(np.uint8)
    with pytest.raises(InputError, match=r"m\.png: no pixel is black, so nothing is background"):
        reading(save(tmp_path / "m.png", colours))


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_values_below_0_are_refused(tmp_path, dtype):
    with pytest.raises(InputError, match=r"m\.tif: contains values below 0 \(-1 is the smallest\)"):
        reading(save(tmp_path / "m.tif", (scene() - 1).astype(dtype)))


@settings(max_examples=40)
@given(seed=st.integers(0, 1000), size=st.integers(8, 64), cells=st.integers(0, 30))
def test_survivors_are_the_objects_that_the_resized_mask_has_a_pixel_of(seed, size, cells):
    mask = scene(seed, 90, 120, cells, radius=(1, 3)) > 0
    labels, objects = ndimage.label(mask, np.ones((3, 3)))
    seen = count_survivors(mask, size)
    left = [resize_mask(labels == number, size).any() for number in range(1, objects + 1)]
    assert (seen.objects, seen.kept) == (objects, sum(left))
    assert count_survivors(mask, seen.side).kept == objects
    assert count_survivors(mask, None).kept == objects


def test_objects_that_vanish_are_told_with_the_size_that_keeps_them(tmp_path):
    mask = np.zeros((512, 512), np.uint8)
    mask[14:17, 14:17], mask[100:200, 100:200] = 255, 255
    [found] = [one for one in findings(tmp_path, mask, image_size=64) if "vanish" in one]
    assert found.startswith("warning m0.png: 1 of 2 objects vanish when masks are resized to 64x64 pixels; these")
    side = int(found.split("data.image_size=")[1].split()[0])
    assert count_survivors(mask > 0, side).kept == 2
    assert 64 < side <= 512


def discs(share, side=224):
    rng, mask = np.random.default_rng(0), np.zeros((side, side), bool)
    y, x = np.mgrid[:side, :side]
    while mask.mean() < share:
        mask |= np.hypot(y - rng.uniform(0, side), x - rng.uniform(0, side)) < rng.uniform(8, 14)
    return mask


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4, 0.47])
@pytest.mark.parametrize("frame", [0, 12])
def test_inverted_masks_are_told_however_full_and_whatever_frame_they_have(tmp_path, share, frame):
    cells = discs(share)
    upright, inverted = (np.pad(part, ((0, 0), (frame, frame))) for part in (cells, ~cells))
    assert not [one for one in findings(tmp_path, upright.astype(np.uint8) * 255) if "inverted" in one]
    assert [
        one for one in findings(tmp_path, inverted.astype(np.uint8) * 255) if "warning" in one and "inverted" in one
    ]
    classes = np.pad(np.where(cells, 2, 1), ((0, 0), (frame, frame))).astype(np.uint8)
    if frame:
        assert [one for one in findings(tmp_path, classes) if "looks inverted" in one]


@pytest.mark.parametrize("share", [0.55, 0.7, 0.85])
def test_dense_cells_are_not_taken_for_inverted(tmp_path, share):
    assert not reading(save(tmp_path / "m.png", discs(share).astype(np.uint8) * 255)).inverted


def test_noise_of_jpeg_around_cells_is_not_taken_for_an_inverted_mask(tmp_path):
    noise = np.random.default_rng(0).integers(1, 6, discs(0.1).shape, np.uint8)
    assert not reading(save(tmp_path / "m.jpg", np.where(discs(0.1), np.uint8(250), noise), quality=70)).inverted
    assert reading(save(tmp_path / "i.jpg", np.where(discs(0.1), noise, np.uint8(250)), quality=70)).inverted


def test_of_several_mask_files_each_is_looked_at(tmp_path):
    cells, exif = scene() > 0, Image.Exif()
    exif[0x0112] = 3
    blurred = (ndimage.gaussian_filter(cells.astype(float), 2) * 255).astype(np.uint8)
    paths = [save(tmp_path / "a.png", cells.astype(np.uint8) * 255), save(tmp_path / "b.png", blurred, exif=exif)]
    both = read_mask(paths, 20)
    assert (both.kind, both.turned) == ("grey", True)


def test_a_palette_with_two_indices_of_one_colour_counts_by_index(tmp_path):
    ids = scene() % 3
    path = indexed(tmp_path / "m.png", ids, [0, 0, 0, 255, 255, 255] + [0] * 762)
    assert np.array_equal(reading(path).cell, ids > 0)


def test_a_white_index_0_alone_is_background_where_the_palette_has_colours(tmp_path):
    path = indexed(tmp_path / "m.png", scene() * 0, [255, 255, 255, 200, 0, 0])
    assert reading(path).kind == "empty"


def test_black_is_background_in_palettes_that_count_colours(tmp_path):
    cells = scene()
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)[np.where(cells > 0, cells % 2 + 1, 0)]
    Image.fromarray(colours).quantize(3).save(tmp_path / "m.png")
    assert np.array_equal(reading(tmp_path / "m.png").cell, cells > 0)


def test_indices_of_soft_colours_are_refused(tmp_path):
    soft = Image.fromarray((scene(height=320, width=384) > 0).astype(np.uint8) * 255).resize((192, 160))
    red = np.dstack([np.asarray(soft), np.zeros((160, 192, 2), np.uint8)])
    Image.fromarray(red).quantize(32).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=r"m\.png: (its palette colours change|palette index \d+)"):
        reading(tmp_path / "m.png")


def test_dithered_masks_are_a_warning(tmp_path):
    grey = Image.fromarray((scene() > 0).astype(np.uint8) * 76).convert("1")
    grey.save(tmp_path / "m.png")
    assert [one for one in findings(tmp_path, tmp_path / "m.png") if one.startswith("warning") and "specks" in one]


def test_labels_hardly_above_the_threshold_in_jpeg_are_refused(tmp_path):
    path = save(tmp_path / "m.jpg", (scene() > 0).astype(np.uint8) * 21, quality=85)
    with pytest.raises(InputError, match=r"the brightest value is \d+, only slightly above data\.mask_threshold=20"):
        reading(path)


def test_lossy_webp_is_cut_at_the_threshold(tmp_path):
    cells = scene() > 0
    path = save(tmp_path / "m.webp", np.dstack([cells.astype(np.uint8) * 255] * 3), quality=80)
    found = reading(path)
    assert found.kind == "grey"
    assert iou(found.cell, cells) > 0.9


def test_two_shades_are_no_class_that_nobody_judged(tmp_path):
    ids = scene()
    assert not [
        one for one in findings(tmp_path, np.where(ids % 2, 255, 60 * (ids > 0)).astype(np.uint8)) if "judged" in one
    ]


# objects with numbers


def squares(*numbers, size=60):
    """A row of squares of 8 pixels, with gaps of 2 where the number is 0."""
    values = np.zeros((size, 10 * len(numbers)), np.uint8)
    for place, number in enumerate(numbers):
        values[10:18, 10 * place : 10 * place + 8] = number
    return values


def read(tmp_path, *arrays):
    paths = [tmp_path / f"{number}.png" for number in range(len(arrays))]
    for path, values in zip(paths, arrays, strict=True):
        Image.fromarray(values).save(path)
    return read_mask(paths, 20)


def test_values_that_number_objects_are_kept_also_where_objects_touch(tmp_path):
    values = squares(7, 3, 90, 4, 5)
    values[10:18, 8:10] = 3  # touches both neighbours
    values[40:44, 10:13] = 4  # a cell in two parts
    ids = read(tmp_path, values).ids
    assert len(np.unique(ids)) == 6
    assert all(len(np.unique(ids[values == value])) == 1 for value in (0, 7, 3, 90, 4, 5))
    assert (ids[values == 0] == 0).all()


@pytest.mark.parametrize("values", [squares(1, 2, 1, 2, 1), squares(1, 1, 2), squares(255, 255), squares(0, 0)])
def test_classes_and_plain_masks_number_nothing(tmp_path, values):
    assert read(tmp_path, values).ids is None


def test_a_file_for_each_object_numbers_them_and_a_file_for_each_class_does_not(tmp_path):
    one = [squares(*(255 * (place == number) for place in range(4))) for number in range(4)]
    found = read(tmp_path, *one)
    assert len(np.unique(found.ids)) == 5
    assert np.array_equal(found.ids > 0, found.cell)
    (tmp_path / "classes").mkdir()
    assert read(tmp_path / "classes", squares(255, 0, 255, 0, 255), squares(0, 255, 0, 255, 0)).ids is None


def test_colours_that_number_objects_are_kept_also_equally_bright_ones(tmp_path):
    values = np.stack([squares(255, 0, 255, 9), squares(0, 255, 255, 255), squares(0, 0, 0, 1)], axis=2)
    values[10:18, 8:10] = (0, 255, 0)  # the second touches the first
    found = read(tmp_path, values)
    assert len(np.unique(found.ids)) == 5
    assert np.array_equal(found.ids > 0, found.cell)


def jet(count):
    """The colours of a rainbow, of which many have a channel of 255."""
    at = np.linspace(0, 1, count)
    return np.stack([np.clip(1.5 - np.abs(4 * at - middle), 0, 1) for middle in (3, 2, 1)], axis=1) * 255


def dense_ids(seed, count=200, side=320):
    """Cells that overlap and touch, with ids of 1 and more."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    ids = np.zeros((side, side), int)
    for number, (row, column, radius) in enumerate(rng.uniform((0, 0, 7), (side, side, 14), (count, 3)), start=1):
        ids[np.hypot(y - row, x - column) < radius] = number
    return ids


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("palette", ["jet", "pastel", "any"])
def test_touching_cells_in_colours_of_any_palette_keep_their_numbers(tmp_path, palette, alpha):
    for count in (6, 200):
        rng = np.random.default_rng(count)
        colours = {
            "jet": jet(count),
            "pastel": rng.integers(170, 256, (count, 3)),
            "any": rng.integers(0, 256, (count, 3)),
        }
        ids = dense_ids(seed=count, count=count, side=96 if count == 6 else 320)
        drawn = np.concatenate([[[0, 0, 0]], rng.permutation(colours[palette].round())])[ids].astype(np.uint8)
        picture = np.dstack([drawn, np.full(ids.shape, 255, np.uint8)]) if alpha else drawn
        found = read(tmp_path, picture)
        assert found.kind == "labels"
        assert np.array_equal(found.cell, ids > 0)
        of_id = [np.unique(found.ids[ids == number]) for number in np.unique(ids)]
        assert [len(numbers) for numbers in of_id] == [1] * len(of_id)
        assert len(np.unique(found.ids)) == len(np.unique(drawn.reshape(-1, 3), axis=0))


@pytest.mark.parametrize("factor", [0.5, 2, 3])
def test_resized_colours_and_noise_in_colours_are_no_labels(tmp_path, factor):
    ids = dense_ids(seed=0, count=30, side=160)
    colours = Image.fromarray(np.concatenate([[[0, 0, 0]], jet(30)])[ids].astype(np.uint8))
    resized = colours.resize([int(160 * factor)] * 2, Image.Resampling.BILINEAR)
    colours.save(tmp_path / "noisy.jpg", quality=95)
    with Image.open(tmp_path / "noisy.jpg") as opened:
        noisy = opened.resize([160 * max(int(factor), 1)] * 2, Image.Resampling.NEAREST)
    for picture in (resized, noisy):
        found = read(tmp_path, np.asarray(picture))
        assert (found.kind != "labels", found.ids) == (True, None)


def test_pixels_that_were_not_judged_are_no_object(tmp_path):
    values = squares(1, 2, 3, 4)
    values[30:] = 255
    found = read(tmp_path, values)
    assert found.not_judged == 255
    assert (found.ids[values == 255] == 0).all()
    assert len(np.unique(found.ids)) == 5
