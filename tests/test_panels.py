"""Panels: what is drawn can be read back."""

import numpy as np
import pytest
from PIL import Image

from cellseg.data.drawing import FALSE, MISSED, RIGHT, draw_panel, read_panel, seen_as_cell


def test_a_panel_reads_back_as_it_was_drawn(tmp_path):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (20, 30, 3), np.uint8)
    cell, found = rng.random((2, 20, 30)) > 0.5
    Image.fromarray(draw_panel(picture, cell, found)).save(tmp_path / "a.png")
    image, truth, prediction = read_panel(tmp_path / "a.png")
    assert (image == picture).all()
    assert ((truth == 255).all(axis=-1) == cell).all()
    assert (seen_as_cell(prediction) == found).all()
    for colour, where in ((RIGHT, cell & found), (FALSE, found & ~cell), (MISSED, cell & ~found)):
        assert (prediction[where] == colour).all()


def test_what_is_no_picture_is_an_os_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(OSError, match="cannot identify"):
        read_panel(tmp_path / "a.png")
