"""Objects: their measurements, and their comparison with labels."""

import numpy as np
import pytest

from cellseg.objects import (
    MERGED,
    MISSED,
    SPLIT,
    UNLABELLED,
    count_unlabelled,
    find_disagreements,
    measure_objects,
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


def test_an_object_is_measured_as_one_would_by_hand():
    mask = masks((10, 20, 4, 6), (0, 50, 5, 10))
    probability = np.where(mask, 0.75, 0.1)
    probability[10, 20] = 0.99
    first, second = measure_objects(mask, probability)
    assert (second.left, second.top, second.width, second.height, second.area) == (20, 10, 6, 4, 24)
    assert (second.centre_x, second.centre_y) == (22.5, 11.5)
    assert second.mean_probability == pytest.approx((23 * 0.75 + 0.99) / 24)
    assert (first.id, first.touches_border, second.id, second.touches_border) == (1, True, 2, False)
    deep = np.round(probability * 65535).astype(np.uint16)
    assert [cell.mean_probability for cell in measure_objects(mask, deep)] == pytest.approx(
        [first.mean_probability, second.mean_probability], abs=1e-5
    )


def test_objects_touch_by_corners_and_specks_are_left_out():
    mask = masks((0, 0, 5, 5), (5, 5, 5, 5), (30, 30, 2, 2))
    [cell] = measure_objects(mask, mask.astype(np.float32))
    assert cell.area == 50
    assert len(list(measure_objects(mask, mask.astype(np.float32), smallest=1))) == 2
    assert list(measure_objects(np.zeros((9, 9), bool), np.zeros((9, 9)))) == []


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
