"""After any change to the files of a pair, its tensors match the files, or an error names the file."""

import itertools
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from cellseg import CellDataModule
from cellseg.data import SplitPlan
from cellseg.storage.errors import InputError

NUMBERS = itertools.count()
PAIRS = 6


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Six pairs of noise and blocks, PNG, exact."""
    root = tmp_path_factory.mktemp("originals")
    for n in range(PAIRS):
        rng = np.random.default_rng(n)
        write(root / f"p{n}" / "source.png", rng.integers(0, 256, (32, 32, 3), np.uint8))
        cells = rng.integers(0, 2, (4, 4), np.uint8)
        write(root / f"p{n}" / "mask.png", np.kron(cells, np.full((8, 8), 255, np.uint8)))
    return root


def truncate(file, data, root):
    file.write_bytes(file.read_bytes()[: data.draw(st.integers(0, file.stat().st_size - 1))])


def flip_bytes(file, data, root):
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)


def swap(file, data, root):
    other = root / f"p{data.draw(st.integers(1, PAIRS - 1))}" / file.name
    aside = file.rename(root / "aside.tmp")
    other.rename(file)
    aside.rename(other)


def resize(file, data, root):
    with Image.open(file) as image:
        smaller = image.resize((data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))), Image.Resampling.NEAREST)
    smaller.save(file)


def rename(file, data, root):
    names = ["x.png", "SOURCE.png", "mask.PNG", ".hidden.png", "gt.png"]
    file.rename(file.with_name(data.draw(st.sampled_from(names))))


def remove(file, data, root):
    file.unlink()


def expected(path):
    """Decode as anyone would; None where it cannot be."""
    try:
        with Image.open(path) as image:
            image.load()
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
        return None


def refusal(datamodule):
    try:
        datamodule.setup()
    except InputError as error:
        return str(error)
    return None


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    role=st.sampled_from(["source", "mask"]),
    harm=st.sampled_from([truncate, flip_bytes, swap, resize, rename, remove]),
)
def test_a_broken_pair_gives_the_right_tensors_or_an_error_that_names_it(originals, tmp_path, data, role, harm):
    root = tmp_path / f"set_{next(NUMBERS)}"
    shutil.copytree(originals, root)
    try:
        harm(root / "p0" / f"{role}.png", data, root)
        leaky = SplitPlan(allow_leaks=True)
        datamodule = CellDataModule(str(root), image_size=32, split=leaky, cache=str(tmp_path / "cache"))
        if message := refusal(datamodule):
            assert "p0" in message
            return
        decoded = datamodule.decoded
        assert len(decoded.pairs) == PAIRS
        for pair, row in zip(decoded.pairs, decoded.row, strict=True):
            image, mask = expected(pair.image), expected(pair.masks[0])
            assert pair.image.parent == pair.masks[0].parent
            assert image is not None
            assert mask is not None
            assert image.size == mask.size
            if image.size == (32, 32):
                assert np.array_equal(decoded.images[row], np.asarray(image).transpose(2, 0, 1))
                values = np.asarray(mask).max(axis=2)
                if set(np.unique(values)) <= {0, 255}:
                    assert np.array_equal(decoded.masks[row][0], values > 0)
    finally:
        shutil.rmtree(root)
