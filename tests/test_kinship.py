"""Related images are found, and unrelated images are not reported."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter
from scipy import ndimage

from cellseg.data.groups import read_groups
from cellseg.data.images import content_hash
from cellseg.data.kinship import families, find_alike, find_kin, measure_likeness
from cellseg.data.synthetic import SmearStyle, draw_smear

REAL = Path(__file__).parents[2] / "shared" / "data" / "tissue50"


def kin(pictures):
    found = find_kin([content_hash(np.asarray(p)) for p in pictures], [measure_likeness(p) for p in pictures])
    return {(relation.first, relation.second, relation.relation) for relation in found}


def smear(index, size=(160, 120)):
    return Image.fromarray(draw_smear(0, index, SmearStyle.sized(*size)).image)


def texture(seed, size=(384, 384)):
    """A picture with detail of all scales, as a slide has."""
    noise = np.random.default_rng(seed).normal(0, 1, (*size, 3))
    layers = sum(grain * ndimage.gaussian_filter(noise, (grain, grain, 0)) for grain in (1, 3, 12))
    return Image.fromarray(np.clip(128 + 40 * layers / layers.std(), 0, 255).astype(np.uint8))


def tiles(picture, columns, rows):
    width, height = picture.width // columns, picture.height // rows
    return [
        picture.crop((x * width, y * height, (x + 1) * width, (y + 1) * height))
        for y in range(rows)
        for x in range(columns)
    ]


def write_tiles(root, pictures):
    """One folder a tile, tile_1 and so on, with a mask of its own brightness."""
    for number, picture in enumerate(pictures, start=1):
        folder = root / f"tile_{number}"
        folder.mkdir(parents=True)
        picture.save(folder / "source.png")
        Image.fromarray(((np.asarray(picture.convert("L")) > 150) * 255).astype(np.uint8)).save(folder / "mask.png")
    return root


def dark_field(seed, side, cells, brightness, noise=0):
    """Draw a dark picture with a few cells, as fluorescence has, on a background of 4."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    pixels = rng.normal(4, noise, (side, side))
    for _ in range(cells):
        centre_y, centre_x = rng.uniform(12, side - 12, 2)
        pixels[np.hypot(y - centre_y, x - centre_x) < rng.uniform(8, 12)] += brightness
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert("RGB")


def jpeg(picture, quality):
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def test_smears_drawn_one_by_one_are_no_relatives():
    assert not kin([smear(n, (128, 128)) for n in range(300)])


def test_the_same_picture_is_found_under_any_name():
    assert kin([smear(1), smear(2), smear(1)]) == {(0, 2, "same image")}


@pytest.mark.parametrize(
    "change",
    [
        lambda p: jpeg(p, 60),
        lambda p: p.resize((p.width // 2, p.height // 2)),
        lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda p: p.transpose(Image.Transpose.ROTATE_90),
        lambda p: ImageEnhance.Brightness(p).enhance(1.2),
        lambda p: ImageEnhance.Contrast(p).enhance(0.7),
        lambda p: p.filter(ImageFilter.GaussianBlur(1)),
        lambda p: p.convert("L").convert("RGB"),
    ],
    ids=["jpeg", "half size", "flip", "turn", "brighter", "flatter", "blurred", "grey"],
)
def test_a_changed_copy_is_a_near_duplicate(change):
    others = [smear(n) for n in range(2, 12)]
    assert kin([smear(1), *others, change(smear(1))]) == {(0, 11, "near duplicate")}


@pytest.mark.parametrize(("columns", "rows"), [(2, 2), (3, 1), (1, 3)])
@pytest.mark.parametrize("quality", [None, 85])
def test_tiles_of_one_picture_are_siblings_and_tiles_of_another_are_not(columns, rows, quality):
    parents = [texture(seed) for seed in range(4)]
    pictures = [jpeg(tile, quality) if quality else tile for p in parents for tile in tiles(p, columns, rows)]
    order = np.random.default_rng(0).permutation(len(pictures))
    found = find_kin(["x" + str(n) for n in order], [measure_likeness(pictures[n]) for n in order])
    assert {relation.relation for relation in found} == {"neighbouring tiles"}
    size = columns * rows
    whole = {frozenset(int(order[index]) for index in family) for family in families(len(pictures), found)}
    assert whole == {frozenset(range(n * size, (n + 1) * size)) for n in range(4)}


def test_neighbours_are_told_by_their_sides_and_not_by_their_colours():
    """Tiles with a gap between them share everything but the line where they were cut."""
    parent = texture(0, (256, 400))
    assert kin([parent.crop((0, 0, 200, 256)), parent.crop((200, 0, 400, 256))])
    assert not kin([parent.crop((0, 0, 180, 256)), parent.crop((220, 0, 400, 256))])


def test_black_images_and_black_borders_are_no_relatives():
    black = Image.new("RGB", (64, 64))
    framed = []
    for seed in range(12):
        picture = Image.new("RGB", (64, 64))
        picture.paste(texture(seed, (40, 40)), (12, 12))
        framed.append(picture)
    assert kin([black, *framed]) == set()


def test_a_few_fields_through_one_eyepiece_are_no_relatives():
    y, x = np.mgrid[:120, :160]
    inside = np.hypot(y - 60, x - 80) < 55
    fields = [np.where(inside[..., None], np.asarray(smear(n)), 0).astype(np.uint8) for n in range(6)]
    for count in (2, 4, 6):
        assert kin([Image.fromarray(field) for field in fields[:count]]) == set()


@pytest.mark.parametrize(("count", "side", "cells"), [(2, 256, 3), (4, 256, 6), (8, 256, 3), (12, 512, 3)])
def test_copies_are_found_where_few_cells_lie_on_black(count, side, cells):
    """The black around the cells is no frame."""
    pictures = [dark_field(seed, side, cells, brightness=60) for seed in range(count)]
    found = kin([*pictures, *(jpeg(picture, 75) for picture in pictures)])
    assert found == {(n, count + n, "near duplicate") for n in range(count)}
    of_both = [[measure_likeness(picture) for picture in some] for some in (pictures, [jpeg(p, 75) for p in pictures])]
    assert list(find_alike(*of_both)) == [(n, n) for n in range(count)]


def test_copies_of_faint_fields_with_few_cells_are_found_and_other_fields_are_no_relatives():
    others = [dark_field(seed, 512, cells=5, brightness=25, noise=1) for seed in range(1, 25)]
    picture = dark_field(0, 512, cells=5, brightness=25, noise=1)
    copies = [
        jpeg(picture, 75),
        picture.point(lambda value: value * 1.5),
        picture.resize((256, 256)),
        picture.transpose(Image.Transpose.ROTATE_90),
    ]
    assert kin(others) == set()
    for copy in copies:
        assert kin([picture, *others, copy]) == {(0, 25, "near duplicate")}


def test_blank_fields_with_the_same_shading_are_no_relatives():
    y, x = np.mgrid[:256, :256]
    for depth in (3, 10, 40):
        shading = 120 - depth * (np.hypot(y - 128, x - 128) / 180) ** 2
        noise = np.random.default_rng(0).normal(0, 1, (4, 256, 256))
        assert kin([Image.fromarray((shading + one).astype(np.uint8)).convert("RGB") for one in noise]) == set()


def test_a_copy_that_comes_first_does_not_hide_the_neighbours_of_its_original():
    left, right = tiles(texture(0, (128, 256)), 2, 1)
    for copy in (left.transpose(Image.Transpose.FLIP_LEFT_RIGHT), left.resize((64, 64)), jpeg(left, 80)):
        for order in ([copy, left, right], [left, copy, right], [right, left, copy]):
            found = find_kin(["a", "b", "c"], [measure_likeness(picture) for picture in order])
            assert families(3, found) == [[0, 1, 2]]


def test_images_of_different_height_cannot_be_neighbours():
    parent = texture(0, (256, 400))
    assert not kin([parent.crop((0, 0, 200, 256)), parent.crop((200, 0, 400, 128))])


def test_families_join_chains():
    pictures = tiles(texture(1), 3, 1)
    found = find_kin(["a", "b", "c"], [measure_likeness(p) for p in pictures])
    assert len(found) == 2
    assert families(3, found) == [[0, 1, 2]]
    assert families(3, []) == []


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_have_no_relatives(count):
    assert kin([smear(1)] * count) == set()


@pytest.mark.skipif(not REAL.exists(), reason="the real images lie beside a development checkout only")
def test_siblings_of_real_tissue_are_found():
    names = sorted(folder.name for folder in REAL.glob("cell_*"))
    pictures = [Image.open(REAL / name / "source.jpg").convert("RGB") for name in names]
    found = find_kin(names, [measure_likeness(picture) for picture in pictures])
    family = {index: number for number, members in enumerate(families(len(names), found)) for index in members}
    true = read_groups(REAL / "groups.csv", names)
    together, siblings = set(), set()
    for a, b in itertools.combinations(range(len(names)), 2):
        if true[names[a]] == true[names[b]]:
            siblings.add((a, b))
        if a in family and family[a] == family.get(b):
            together.add((a, b))
    assert len(together & siblings) >= 0.9 * len(siblings)
    assert len(together & siblings) >= 0.95 * len(together)
