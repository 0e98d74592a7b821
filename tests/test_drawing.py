"""Masks drawn next to their image."""

import numpy as np
from PIL import Image

from cellseg.data.drawing import (
    FALSE,
    GAP,
    LEGEND_HEIGHT,
    MISSED,
    RIGHT,
    brightened,
    draw_objects,
    draw_panel,
    with_legend,
)


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


def test_a_panel_says_what_its_colours_mean_if_it_is_wide_enough():
    for width, has in ((900, True), (60, False)):
        panel = np.full((50, width, 3), 7, np.uint8)
        drawn = with_legend(panel)
        assert drawn.shape == (50 + LEGEND_HEIGHT * has, width, 3)
        assert (drawn[:50] == panel).all()
        red, blue = (drawn[50:, :, channel].astype(int) for channel in (0, 2))
        assert ((red - blue > 60).any(), (blue - red > 60).any()) == (has, has)  # orange and blue words


def test_an_overlay_says_how_many_cells_it_has():
    labels = np.zeros((120, 160), np.int32)
    labels[60:80, 100:120] = 1
    drawn = [
        np.asarray(draw_objects(Image.new("RGB", (160, 120), (190, 190, 190)), labels, centres))
        for centres in ([], [(1, 110, 70)], [(1, 110, 70), (2, 110, 70)])
    ]
    corners = {picture[:20, :60].tobytes() for picture in drawn}
    assert len(corners) == 3
    assert all((picture[30:, :90] == 190).all() for picture in drawn)


def test_the_count_stands_where_it_covers_fewest_cells():
    labels = np.ones((120, 160), np.int32)
    labels[90:, 90:] = 0
    drawn = np.asarray(draw_objects(Image.new("RGB", (160, 120), (190, 190, 190)), labels, []))
    black = (drawn == 0).all(axis=2)
    assert not black[:80].any()
    assert black[100:, 110:].any()


def test_dark_images_are_shown_brighter_and_others_as_they_are():
    ramp = np.linspace(0, 60, 64, dtype=np.uint8)
    dark = np.repeat(np.repeat(ramp[:, None], 64, 1)[..., None], 3, 2)
    shown = brightened(dark)
    assert shown.max() > 200
    assert (np.diff(shown[:, 0, 0].astype(int)) >= 0).all()  # what is brighter stays brighter
    bright = dark * 4
    level = np.percentile(dark.max(axis=2), 99.5)
    assert np.abs(shown - np.clip(dark * min(220 / level, 10.0), 0, 255)).max() <= 220 / level
    assert brightened(bright) is bright
    assert not brightened(np.zeros_like(dark)).any()
    assert brightened(np.minimum(dark, 3)).max() <= 30  # noise stays dark
