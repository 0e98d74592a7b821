"""Masks drawn next to their image."""

import numpy as np

from cellseg.data.drawing import FALSE, GAP, MISSED, RIGHT, draw_panel


def test_a_panel_shows_image_label_and_what_is_right_wrong_and_missed():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 30, 3), np.uint8)
    truth, mask = rng.random((2, 20, 30)) > 0.5
    panel = draw_panel(image, truth, mask)
    assert panel.shape == (20, 3 * 30 + 2 * GAP, 3)
    first, second, third = (panel[:, place * (30 + GAP) :][:, :30] for place in range(3))
    assert (first == image).all()
    assert (second == 255 * truth[..., None]).all()
    for colour, where in ((RIGHT, truth & mask), (FALSE, mask & ~truth), (MISSED, truth & ~mask)):
        assert (third[where] == colour).all()
    assert not third[~truth & ~mask].any()
