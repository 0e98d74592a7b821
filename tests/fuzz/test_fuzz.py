"""Damaged and hostile files: a reader either reads them or raises InputError, and nothing else.

Each test runs 20 examples (``FUZZ_EXAMPLES`` changes this); ``python tests/fuzz/fuzz.py`` lets atheris search longer
with the same tests. An input that once caused a fault is an ``@example`` of its test.
"""

import atexit
import io
import json
import os
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from typer.testing import CliRunner

from cellseg import train
from cellseg.cli import app
from cellseg.data.groups import read_groups
from cellseg.data.images import read_image
from cellseg.data.masks import read_mask
from cellseg.data.pairs import scan_pairs
from cellseg.data.splits import read_split
from cellseg.networks import UNet
from cellseg.run.execution import write_weights
from cellseg.run.folder import Counts
from cellseg.storage.errors import InputError
from cellseg.study.collect import read_study
from cellseg.study.report import write_report
from cellseg.use.load import load_run
from conftest import composed
from test_report import summary_of, write_run

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))
thorough = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True, database=None
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def pictures():
    """Small images in all supported formats."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (9, 11, 3), np.uint8)
    found = []
    for kind, mode in (
        ("PNG", "RGB"), ("PNG", "P"), ("PNG", "LA"), ("PNG", "I;16"), ("PNG", "1"), ("JPEG", "RGB"), ("JPEG", "CMYK"),
        ("TIFF", "RGB"), ("TIFF", "I;16"), ("TIFF", "F"), ("BMP", "RGB"), ("GIF", "P"), ("WEBP", "RGB"),
    ):  # fmt: skip
        picture = Image.fromarray(rgb)
        picture = Image.fromarray(rgb[..., 0].astype(np.uint16) * 200) if mode == "I;16" else picture.convert(mode)
        buffer = io.BytesIO()
        picture.save(buffer, kind, **({"compression": "tiff_lzw"} if (kind, mode) == ("TIFF", "RGB") else {}))
        found.append(buffer.getvalue())
    return found + tiffs(rgb)


def tiffs(rgb):
    """Small TIFF files like those of microscopes and their programs."""
    grey, planes, palette = rgb[..., 0], np.moveaxis(rgb, 2, 0), np.arange(768, dtype=np.uint16).reshape(3, 256) * 80
    found = []
    for array, options in (
        (grey > 99, {}),
        (grey.astype(np.int64), {}),
        (grey, {"photometric": "miniswhite", "imagej": True}),
        (grey, {"photometric": "palette", "colormap": palette}),
        (planes.astype(np.uint16) * 200, {"photometric": "rgb", "planarconfig": "separate", "compression": "zlib"}),
        (planes[:2], {"ome": True, "metadata": {"axes": "CYX"}}),
        (planes[:2], {"imagej": True, "metadata": {"axes": "CYX"}}),
        (planes, {"ome": True, "metadata": {"axes": "ZYX"}}),
        (planes, {"photometric": "minisblack"}),
        (np.kron(rgb, np.ones((4, 4, 1), np.uint8)), {"tile": (16, 16), "compression": "lzw", "photometric": "rgb"}),
        (np.kron(rgb, np.ones((4, 4, 1), np.uint8)), {"compression": "jpeg", "photometric": "ycbcr", "bigtiff": True}),
        (rgb, {"compression": "zstd", "photometric": "rgb", "extratags": [(274, "H", 1, 6, True)]}),
    ):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, array, **options)
        found.append(buffer.getvalue())
    return found


PICTURES = pictures()


@st.composite
def broken(draw, contents):
    """Bytes of a valid file, some of them changed, removed or added."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["change", "cut", "leave out", "add", "end"]))
        if kind == "change" and content:
            content[where] = draw(st.integers(0, 255))
        elif kind == "cut":
            del content[where:]
        elif kind == "leave out":
            del content[where : where + draw(st.integers(1, 16))]
        else:
            content[where:where] = draw(st.binary(min_size=1, max_size=16))
    return bytes(content)


@st.composite
def changed(draw, document):
    """A JSON document in which some values are changed or removed."""
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        node, key = document, draw(st.sampled_from(sorted(document))) if document else None
        while key is not None and draw(st.booleans()):
            inner = node[key]
            if isinstance(inner, dict) and inner:
                node, key = inner, draw(st.sampled_from(sorted(inner)))
            elif isinstance(inner, list) and inner:
                node, key = inner, draw(st.integers(0, len(inner) - 1))
            else:
                break
        if key is None:
            break
        if draw(st.booleans()):
            node[key] = draw(VALUES)
        else:
            del node[key]
    return document


def kept_folder():
    """A folder that exists until the end of the process; atheris calls tests without fixtures."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@thorough
@given(content=broken(PICTURES) | st.binary(max_size=200))
def test_images(content):
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder) / "a.png").write_bytes(content)
        with suppress(InputError):
            reading = read_image(path)
            assert reading.pixels.shape[2] == 3
            assert reading.pixels.dtype == np.uint8
        with suppress(InputError):
            assert read_image(path, [1, 0]).pixels.shape[2] == 2


@thorough
@given(
    contents=st.lists(broken(PICTURES) | st.sampled_from(PICTURES), min_size=1, max_size=2),
    threshold=st.integers(0, 254),
)
def test_masks(contents, threshold):
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.png" for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        with suppress(InputError):
            reading = read_mask(paths, threshold)
            assert reading.cell.dtype == bool
            assert reading.cell.ndim == 2
            assert reading.kind in ("empty", "labels", "grey", "resized labels")


PART = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=6)
WORDS = [
    "source",
    "mask",
    "images",
    "masks",
    "a",
    "b",
    "a_mask",
    "label",
    "gt",
    "img",
    "1",
    "01",
    "train",
    "val",
    "a_img",
    "mask_a",
    "a_seg",
    "a_viz",
]
NAME = st.sampled_from(WORDS) | PART
ENDING = st.sampled_from([".png", ".jpg", ".PNG", ".tif", "", ".txt", ".csv"])


@thorough
@given(
    files=st.lists(st.tuples(st.lists(NAME, max_size=2), NAME, ENDING), max_size=12),
    table=st.none() | st.text(max_size=60),
)
def test_pair_discovery(files, table):
    with tempfile.TemporaryDirectory() as folder:
        for parts, name, ending in files:
            with suppress(OSError):  # "." and "..", or a file where a folder should be
                path = Path(folder, *parts, f"{name}{ending}")
                assert path.resolve().is_relative_to(Path(folder).resolve())
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"")
        if table is not None:
            (Path(folder) / "groups.csv").write_text(table, encoding="utf-8", errors="replace")
        with suppress(InputError):
            scan = scan_pairs(Path(folder))
            files_used = [path for pair in scan.pairs for path in (pair.image, *pair.masks)]
            assert len(set(files_used)) == len(files_used)
            assert len({pair.name for pair in scan.pairs}) == len(scan.pairs)


GROUPS = b"pair,group\na,1\nb,1\nc,2\n"


@thorough
@given(content=broken([GROUPS, GROUPS.replace(b"\n", b"\r\n"), "\ufeff".encode() + GROUPS]) | st.binary(max_size=80))
@example(content=b"pair,group\na,1\nb,1\nc,\x002\n")
@example(content=b'pair,group\na,"1\nb,1\nc,2\n')
def test_groups(content):
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder) / "groups.csv").write_bytes(content)
        with suppress(InputError):
            groups = read_groups(path, ["a", "b", "c"])
            assert set(groups) == {"a", "b", "c"}
            assert all(groups.values())


SPLIT = {
    "seed": 0,
    "folds": None,
    "fold": None,
    "test_fraction": 0.2,
    "val_fraction": 0.0,
    "train": [{"name": "a", "group": "a", "sha256": "1", "mask_sha256": "2"}],
    "val": [],
    "test": [{"name": "b", "group": "b", "sha256": "3", "mask_sha256": "4"}],
}


@thorough
@given(
    content=changed(SPLIT).map(json.dumps) | broken([json.dumps(SPLIT).encode()]).map(lambda raw: raw.decode("latin-1"))
)
@example(content="[" * 100_000)
@example(content='{"train": ' + "9" * 5000 + "}")
def test_splits(content):
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder) / "split.json").write_text(content, encoding="utf-8")
        with suppress(InputError):
            subsets, groups = read_split(path).find({"a": ("1", "2"), "b": ("3", "4")}, path)
            assert sorted(name for names in subsets.values() for name in names) == ["a", "b"]
            assert set(groups) == {"a", "b"}


@cache
def loadable():
    """A run folder with only the files that load_run needs."""
    folder = kept_folder()
    config = {
        "seed": 0,
        "study": "s",
        "margin": 0.005,
        "model": {"_target_": "cellseg.UNet", "init_features": 2, "depth": 1},
        "data": {"image_size": 16, "mask_threshold": 20, "split": {"fold": None}},
    }
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    counts = Counts(train=1, val=0, test=1, epochs=1, steps=1)
    summary_of("UNet", 0, 0.5, counts).write(folder / "summary.json")
    (folder / "split.json").write_text(json.dumps(SPLIT))
    write_weights(folder / "weights.pth", UNet(init_features=2, depth=1))
    load_run(folder)
    return folder


def load_changed(name, content):
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "run"
        shutil.copytree(loadable(), copy)
        (copy / name).write_bytes(content)
        with suppress(InputError):
            run = load_run(copy)
            assert isinstance(run.network, UNet)
            assert run.image_size


@thorough
@given(data=st.data(), name=st.sampled_from(["summary.json", "split.json"]))
def test_records_of_a_run(data, name):
    document = json.loads((loadable() / name).read_text())
    load_changed(name, json.dumps(data.draw(changed(document))).encode())


@thorough
@given(data=st.data())
def test_configuration_of_a_run(data):
    document = OmegaConf.to_container(OmegaConf.load(loadable() / "config.yaml"))
    raw = (loadable() / "config.yaml").read_bytes()
    content = data.draw(changed(document).map(lambda some: json.dumps(some).encode()) | broken([raw]))
    load_changed("config.yaml", content)


@thorough
@given(data=st.data())
def test_weights_of_a_run(data):
    raw = (loadable() / "weights.pth").read_bytes()
    load_changed("weights.pth", data.draw(broken([raw])))


@cache
def study():
    folder = kept_folder() / "study"
    for network in ("UNet", "PotiNet"):
        for seed in range(2):
            write_run(folder, network, seed, None, {f"s{n}-{n}": 0.8 + n / 100 + seed / 200 for n in range(4)})
    return folder


@pytest.mark.slow
@settings(parent=thorough, max_examples=max(5, EXAMPLES // 4))
@given(data=st.data(), name=st.sampled_from(["summary.json", "config.yaml", "per_image.csv", "metrics.csv"]))
def test_damaged_studies(data, name):
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "study"
        shutil.copytree(study(), copy)
        file = sorted(copy.glob(f"*/{name}"))[0]
        if name == "summary.json":
            content = json.dumps(data.draw(changed(json.loads(file.read_text())))).encode()
        else:
            content = data.draw(broken([file.read_bytes()]))
        file.write_bytes(content)
        with suppress(InputError):
            write_report(read_study(copy))


COMMANDS = ["check", "clean", "synthesize", "report", "predict", "evaluate", "review", "export"]
ARGUMENTS = st.sampled_from(
    [
        "--pairs",
        "--size",
        "--seed",
        "--groups",
        "--output",
        "--tiles",
        "--model",
        "--mask-threshold",
        "--help",
        "unet",
        ".",
    ]
) | st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=6)


@thorough
@given(command=st.sampled_from(COMMANDS), arguments=st.lists(ARGUMENTS, max_size=4))
def test_command_line(command, arguments):
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            if command == "synthesize":
                arguments = [*arguments, "--pairs", "1", "--size", "64"]
            result = CliRunner().invoke(app, [command, *arguments])
        finally:
            os.chdir(before)
    assert result.exception is None or isinstance(result.exception, SystemExit), (command, arguments, result.exception)
    assert result.exit_code in (0, 1, 2)


KEYS = [
    "seed",
    "study",
    "threads",
    "n_jobs",
    "trainer.max_epochs",
    "data.root",
    "data.image_size",
    "model",
    "optimizer.lr",
    "+a",
    "~scheduler",
]


@thorough
@given(
    overrides=st.lists(
        st.tuples(st.sampled_from(KEYS), st.text(max_size=8) | VALUES.map(str)).map("=".join), max_size=3
    )
)
def test_overrides(overrides):
    try:
        cfg = composed(*overrides)
    except Exception:  # an error of Hydra; its text is not ours
        return
    with suppress(InputError, OmegaConfBaseException):
        train.settle(cfg)
