"""Objects: their measurements, and their comparison with labels."""

import numpy as np
import pytest
import torch
from skimage import measure

from cellseg import objects
from cellseg.objects import (
    MERGED,
    MISSED,
    SMALLEST_OBJECT,
    SPLIT,
    TOLERANCE,
    UNLABELLED,
    boundary_dice,
    count_unlabelled,
    find_disagreements,
    label_objects,
    measure_objects,
    object_scores,
)


def masks(*boxes, size=60):
    mask = np.zeros((size, size), bool)
    for top, left, height, width in boxes:
        mask[top : top + height, left : left + width] = True
    return mask


def test_counts_objects_that_touch_no_label_and_leaves_specks_out():
    prediction = masks((2, 2, 6, 6), (20, 2, 6, 6), (20, 20, 6, 6), (35, 35, 1, 1))  # the last one a speck
    truth = masks((7, 7, 5, 5))  # touches the first by a corner pixel
    assert count_unlabelled(prediction, truth) == 2
    assert count_unlabelled(prediction, np.zeros_like(truth)) == 3
    assert count_unlabelled(np.zeros_like(prediction), truth) == 0


def rows(mask, probability, **how):
    picture = np.zeros((*mask.shape, 3), np.uint8)
    return measure_objects(label_objects(mask, **how), probability, picture)


def test_an_object_is_measured_as_one_would_by_hand():
    mask = masks((10, 20, 4, 6), (0, 50, 5, 10))
    probability = np.where(mask, 0.75, 0.1)
    probability[10, 20] = 0.99
    picture = np.stack([mask * 100, mask * 0, mask * 200], axis=2).astype(np.uint8)
    first, second = measure_objects(label_objects(mask), probability, picture, pixel_size=0.5)
    assert [second[name] for name in ("left", "top", "width", "height", "area")] == [20, 10, 6, 4, 24]
    assert (second["centre_x"], second["centre_y"]) == (22.5, 11.5)
    assert second["mean_probability"] == pytest.approx((23 * 0.75 + 0.99) / 24)
    assert (first["id"], first["touches_border"], second["id"], second["touches_border"]) == (1, True, 2, False)
    assert [second[f"mean_{colour}"] for colour in ("red", "green", "blue")] == [100, 0, 200]
    assert second["area_um2"] == 24 / 4
    assert second["perimeter_um"] == second["perimeter"] / 2
    assert second["major_axis"] == pytest.approx(4 * np.sqrt(35 / 12))  # the variance of 6 pixels in a row is 35 / 12
    assert second["minor_axis"] == pytest.approx(4 * np.sqrt(15 / 12))
    assert second["elongation"] == pytest.approx(np.sqrt(35 / 15))
    assert second["solidity"] == 1
    deep = np.round(probability * 65535).astype(np.uint16)
    assert rows(mask, deep)[1]["mean_probability"] == pytest.approx(second["mean_probability"], abs=1e-5)


def test_a_large_object_is_measured_as_a_small_one():
    down, across = np.mgrid[:1300, :1300]
    ring = (abs(np.hypot(down - 640, across - 650) - 600) < 3).astype(np.int32)
    [row] = measure_objects(ring, ring.astype(float), np.zeros((1300, 1300, 3), np.uint8))
    own = measure.regionprops(ring)[0]
    for name, value in (
        ("perimeter", own.perimeter),
        ("major_axis", own.axis_major_length),
        ("centre_y", own.centroid[0]),
        ("centre_x", own.centroid[1]),
    ):
        assert row[name] == pytest.approx(value)
    assert row["solidity"] == pytest.approx(own.solidity, rel=0.02)
    line = np.eye(1300, dtype=np.int32)[::-1].copy()
    line[0] = 0  # so that no pixel is at a multiple of the step
    [row] = measure_objects(line, line.astype(float), np.zeros((1300, 1300, 3), np.uint8))
    assert row["area"] == 1299


def test_objects_touch_by_corners_and_specks_are_left_out():
    mask = masks((0, 0, 5, 5), (5, 5, 5, 5), (30, 30, 2, 2))
    assert [cell["area"] for cell in rows(mask, mask.astype(np.float32), split=False)] == [50]
    assert [cell["area"] for cell in rows(mask, mask.astype(np.float32))] == [25, 25]
    assert len(rows(mask, mask.astype(np.float32), smallest=1)) == 3
    assert rows(np.zeros((9, 9), bool), np.zeros((9, 9))) == []


def ellipse(y, x, tall, wide, size=120):
    down, across = np.mgrid[:size, :size]
    return ((down - y) / tall) ** 2 + ((across - x) / wide) ** 2 <= 1


SHAPES = {
    "a disc": (ellipse(60, 60, 20, 20), 1),
    "a long cell": (ellipse(60, 60, 8, 40), 1),
    "a crescent": (ellipse(60, 60, 30, 30) & ~ellipse(60, 75, 28, 28), 1),
    "a disc cut by the border": (ellipse(60, 0, 20, 20), 1),
    "a ring": (ellipse(60, 60, 30, 30) & ~ellipse(60, 60, 15, 15), 1),
    "two discs that touch": (ellipse(60, 40, 16, 16) | ellipse(60, 70, 16, 16), 2),
    "two discs that overlap by a third": (ellipse(60, 40, 18, 18) | ellipse(60, 64, 18, 18), 2),
    "a small one beside a large one": (ellipse(60, 40, 25, 25) | ellipse(60, 72, 10, 10), 2),
    "three in a row": (ellipse(60, 30, 12, 12) | ellipse(60, 52, 12, 12) | ellipse(60, 74, 12, 12), 3),
    "three in a clump": (ellipse(60, 60, 10, 10) | ellipse(74, 68.4, 10, 10) | ellipse(74, 51.6, 10, 10), 3),
    "two at a right angle": (ellipse(60, 60, 8, 14) | ellipse(66, 72.6, 14, 8), 2),
    "two at the border": (ellipse(40, 0, 16, 16) | ellipse(70, 0, 16, 16), 2),
}


def rod(angle, length, width, size=160):
    down, across = np.mgrid[:size, :size] - size / 2
    along, beside = across * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - across * np.sin(angle)
    return np.hypot(np.maximum(abs(along) - length, 0), beside) < width


@pytest.mark.parametrize("width", [3, 5, 8, 12])
def test_a_rod_at_any_angle_is_one_cell(width):
    found = [label_objects(rod(angle, 30, width)).max() for angle in np.linspace(0, np.pi, 15)]
    assert np.mean(found) < 1.6  # at some angles the outline, drawn in pixels, has what looks like a neck


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1, 3])
def test_touching_cells_are_separated_and_single_ones_stay_whole(shape, scale):
    mask, cells = SHAPES[shape]
    mask = mask.repeat(scale, 0).repeat(scale, 1)  # as a prediction that was enlarged
    labels = label_objects(mask, scale=scale)
    assert labels.max() == cells
    assert np.array_equal(labels > 0, mask)
    assert label_objects(mask, split=False).max() == 1


def crowd(seed, size=300, cells=60):
    generator = np.random.default_rng(seed)
    mask = np.zeros((size, size), bool)
    for y, x, tall, wide in generator.uniform((0, 0, 6, 6), (size, size, 15, 15), (cells, 4)):
        mask |= ellipse(y, x, tall, wide, size)
    return mask


def test_a_large_mask_is_cut_in_blocks_as_in_one_piece(monkeypatch):
    mask = crowd(0)
    whole = objects._cut(mask, 1.0)
    monkeypatch.setattr(objects, "BLOCK", 64)
    monkeypatch.setattr(objects, "HALO", 48)
    assert object_scores(objects._cut(mask, 1.0), whole)["panoptic_quality"] == 1


def test_a_sheet_of_touching_cells_is_cut_too_at_half_the_resolution(monkeypatch):
    mask = np.ones((230, 230), bool)
    for row in range(7):
        for column in range(7):
            mask[4 + 32 * row : 36 + 32 * row, 4 + 32 * column : 36 + 32 * column] = ellipse(16, 16, 17, 17, 32)
    monkeypatch.setattr(objects, "BLOCK", 64)
    monkeypatch.setattr(objects, "HALO", 48)
    labels = label_objects(mask)
    assert np.array_equal(labels > 0, mask)
    assert len({labels[20 + 32 * row, 20 + 32 * column] for row in range(7) for column in range(7)}) == 49


def test_a_mask_enlarged_much_is_cut_as_before(monkeypatch):
    mask = crowd(1, size=150, cells=20)
    large = mask.repeat(12, 0).repeat(12, 1)
    found = label_objects(large, smallest=SMALLEST_OBJECT * 144, scale=12)
    assert np.array_equal(found > 0, large)
    assert object_scores(found[::12, ::12], label_objects(mask))["object_f1"] > 0.95


def test_an_object_that_the_border_cuts_may_be_small():
    mask = masks((0, 10, 2, 2), (30, 10, 4, 4), (56, 56, 4, 4))
    assert [cell["left"] for cell in rows(mask, mask.astype(float))] == [10, 56]


def test_numbers_follow_the_first_pixels_row_by_row():
    mask = masks((30, 0, 6, 6), (2, 40, 6, 6), (2, 10, 6, 6), (50, 50, 6, 6))
    labels = label_objects(mask)
    assert [labels[5, 12], labels[5, 42], labels[32, 2], labels[52, 52]] == [1, 2, 3, 4]


def random_labels(generator, size=48):
    """Numbered discs, some hidden by later ones, with gaps between the numbers."""
    labels = np.zeros((size, size), np.int32)
    for number in generator.permutation(40)[: generator.integers(0, 14)] + 1:
        y, x, radius = generator.uniform((0, 0, 3), (size, size, 9))
        labels[ellipse(y, x, radius, radius, size)] = number
    return labels


@pytest.mark.parametrize("seed", range(25))
def test_f1_and_panoptic_quality_are_those_of_monai(seed):
    from monai.metrics.panoptic_quality import compute_panoptic_quality

    generator = np.random.default_rng(seed)
    truth = random_labels(generator)
    found = np.where(generator.random(truth.shape) < 0.1, random_labels(generator), np.roll(truth, seed % 4, 0))
    ours = object_scores(found.astype(np.int32), truth)
    tensors = torch.from_numpy(found.astype(np.int64)), torch.from_numpy(truth.astype(np.int64))
    if not truth.any() and not found.any():
        assert ours["object_f1"] == ours["panoptic_quality"] == 1
        return
    for name, theirs in (("object_f1", "rq"), ("panoptic_quality", "pq")):
        expected = compute_panoptic_quality(*tensors, metric_name=theirs, remap=True, smooth_numerator=1e-9)
        assert ours[name] == pytest.approx(float(expected), abs=1e-5)
    counts = [len(np.unique(labels)) - (labels == 0).any() for labels in (found, truth)]
    assert [ours["predicted_objects"], ours["true_objects"]] == counts
    assert ours["count_error"] == counts[0] - counts[1]


def test_the_same_objects_under_other_numbers_are_the_same():
    truth = random_labels(np.random.default_rng(3))
    other = np.random.default_rng(0).permutation(50).astype(np.int32)
    other[other == 0], other[0] = other[0], 0
    assert object_scores(other[truth], truth)["panoptic_quality"] == 1


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("seed", range(10))
def test_boundary_dice_is_the_surface_dice_of_monai(seed):
    from monai.metrics import compute_surface_dice

    generator = np.random.default_rng(seed)
    truth, found = (random_labels(generator) > 0 for _ in range(2))
    truth[20:30, 20:30] = found[22:30, 20:34] = True  # neither is empty
    both = [torch.from_numpy(mask)[None, None] for mask in (found, truth)]
    expected = compute_surface_dice(*both, class_thresholds=[TOLERANCE], include_background=True)
    assert boundary_dice(found, truth) == pytest.approx(float(expected), abs=1e-6)


def test_boundary_dice_of_empty_masks_and_of_outlines_a_little_off():
    empty, square = masks(), masks((20, 20, 20, 20))
    assert boundary_dice(empty, empty) == 1
    assert boundary_dice(square, empty) == boundary_dice(empty, square) == 0
    assert boundary_dice(square, np.roll(square, 2, 0)) == 1
    assert boundary_dice(square, np.roll(square, 8, 0)) < 0.7


def kinds(prediction, truth):
    return [(place.kind, int(place.where.sum())) for place in find_disagreements(prediction, truth, prediction)]


def test_agreement_is_no_disagreement_even_with_an_outline_drawn_a_little_off():
    truth = masks((10, 10, 12, 12), (40, 40, 12, 12))
    assert kinds(truth, truth) == []
    assert kinds(masks((9, 9, 14, 14), (41, 41, 12, 12)), truth) == []


def test_what_only_one_of_them_sees_is_named():
    cell, other = (10, 10, 10, 10), (30, 30, 10, 10)
    assert kinds(masks(cell, other), masks(cell)) == [(UNLABELLED, 100)]
    assert kinds(masks(cell), masks(cell, other)) == [(MISSED, 100)]
    assert kinds(masks((10, 10, 10, 4)), masks(cell)) == [(MISSED, 100)]  # 40 %
    assert kinds(masks(cell), masks()) == [(UNLABELLED, 100)]
    assert kinds(masks(), masks()) == []


def test_a_cell_that_hangs_on_a_labelled_one_is_offered_without_it():
    both = masks((10, 10, 10, 30))
    [place] = find_disagreements(both, masks((10, 10, 10, 15)), both)
    assert place.kind == UNLABELLED
    assert place.where.sum() == 10 * 13  # less the rim of two pixels
    assert not place.where[:, :27].any()


def test_cells_joined_or_cut_are_named():
    two = masks((10, 10, 10, 10), (10, 24, 10, 10))
    one = masks((10, 10, 10, 24))
    assert kinds(one, two) == [(MERGED, 240)]
    assert kinds(two, one) == [(SPLIT, 240)]
