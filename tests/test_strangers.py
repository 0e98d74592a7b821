"""Run folders from strangers: a command ends soon, with a result or with a clear error, whatever the files hold."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cellseg import train
from cellseg.cli import app
from cellseg.data.pairs import scan_pairs
from cellseg.use.predict import find_sources
from conftest import quick_first

COMMANDS = ("report", "review", "predict", "evaluate")


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "logs" / "s" / "run")


def commands(run, data, tmp_path):
    """Give every command that reads run folders; return what each said."""
    words = {
        "report": (run.parent,),
        "review": (run, "--output", tmp_path / "review"),
        "predict": (run, data / "cell_1" / "source.jpg", "--output", tmp_path / "predicted"),
        "evaluate": (run, data),
    }
    for command in COMMANDS:
        result = CliRunner().invoke(app, [command, *map(str, words[command])])
        assert result.exception is None or isinstance(result.exception, SystemExit), (command, result.exception)
        yield command, result.exit_code, result.output


def change(path, **values):
    """Change a JSON file: ``a__b=1`` is the value b in a."""
    content = json.loads(path.read_text())
    for name, value in values.items():
        *above, last = name.split("__")
        inner = content
        for key in above:
            inner = inner[key]
        inner[last] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"data__root": 7}, set(COMMANDS)),
        ({"data__root": "\0"}, set(COMMANDS)),
        ({"data__root": "loop"}, set()),
        ({"data__typical_size": [1e-300, 1]}, set(COMMANDS)),
        ({"data__typical_size": [10**400, 1]}, set(COMMANDS)),
        ({"model": "\ud800"}, set(COMMANDS)),
        ({"device": "\ud800"}, set(COMMANDS)),
        ({"model": "[/x]"}, set()),
        ({"versions": {"runs": "100", "data": "elsewhere"}}, set()),
        ({"metrics__test/dice": 10**400}, set(COMMANDS)),
        ({"metrics__test/dice": "0.5"}, set(COMMANDS)),
        ({"counts__test": 0}, set(COMMANDS)),
        ({"schema_version": 0}, set(COMMANDS)),
    ],
)
def test_a_summary_with_odd_values_is_refused_or_harmless(run, smears, tmp_path, monkeypatch, values, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    change(run / "summary.json", **values)
    for command, code, said in commands(run, smears, tmp_path):
        assert (code == 1) == (command in refused or "has seen every image" in said), (command, said)
    if "versions" in values:
        page = (run.parent / "report.md").read_text()
        assert "1 run of 1 configuration" in page  # and not 100


@pytest.mark.parametrize(
    ("line", "new"),
    [
        ("  image_size: 64\n", "  image_size: .inf\n"),
        ("  mask_threshold: 20\n", "  mask_threshold: .nan\n"),
        ("model:\n  _target_: cellseg.UNet\n", "model:\n  _target_: []\n"),
        ("  resize: whole\n", "  resize: tile\n"),
        ("seed: 0\n", '"\\ud800": 0\n'),
    ],
)
def test_a_configuration_with_odd_values_is_refused(run, smears, tmp_path, line, new):
    text = (run / "config.yaml").read_text()
    assert line in text
    (run / "config.yaml").write_text(text.replace(line, new, 1))
    codes = {command: code for command, code, _ in commands(run, smears, tmp_path)}
    assert codes["predict"] == codes["review"] == codes["evaluate"] == 1


def test_a_network_of_two_masks_is_refused(run, smears, tmp_path):
    config, weights = run / "config.yaml", torch.load(run / "weights.pth", weights_only=True)
    config.write_text(config.read_text().replace("out_channels: 1", "out_channels: 2"))
    for name in ("conv.weight", "conv.bias"):
        weights[name] = torch.cat([weights[name]] * 2)
    torch.save(weights, run / "weights.pth")
    said = {command: (code, said) for command, code, said in commands(run, smears, tmp_path)}
    for command in ("predict", "review", "evaluate"):
        assert said[command][0] == 1
        assert "predicts 2 masks" in said[command][1].replace("\n", " ")


def test_a_split_with_odd_values_is_refused(run, smears, tmp_path):
    content = json.loads((run / "split.json").read_text())
    content["train"][0]["sha256"] = ["a", "list"]
    (run / "split.json").write_text(json.dumps(content))
    codes = {command: code for command, code, _ in commands(run, smears, tmp_path)}
    assert codes["evaluate"] == codes["predict"] == codes["review"] == 1


@pytest.mark.parametrize("drop", ["subset", "image", "dice"])
def test_a_table_without_a_column_is_refused(run, smears, tmp_path, drop):
    table = (run / "per_image.csv").read_text()
    (run / "per_image.csv").write_text(table.replace(drop, "other", 1))
    codes = {command: code for command, code, _ in commands(run, smears, tmp_path)}
    assert codes["report"] == codes["review"] == 1


@pytest.mark.parametrize("name", ["summary.json", "config.yaml", "per_image.csv", "metrics.csv", "split.json"])
@pytest.mark.parametrize("kind", quick_first(2, ["pipe", "endless", "device", "folder"]))
def test_what_is_no_file_is_never_read(run, smears, tmp_path, name, kind):
    path = run / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(2**40)  # sparse: it takes no room
    for command, code, said in commands(run, smears, tmp_path):
        reads = {"report": name != "split.json", "review": name != "metrics.csv"}
        if reads.get(command, name not in ("metrics.csv", "per_image.csv")):
            assert code == 1, said
            assert name in said


@pytest.mark.parametrize("kind", ["pipe", "device", "endless"])
def test_a_picture_that_is_no_file_is_never_read(run, own_smears, tmp_path, kind):
    path = own_smears / "cell_1" / "source.jpg"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(2**40)
    for words in (
        ("predict", run, path, "--output", tmp_path / "out"),
        ("check", own_smears),
        ("evaluate", run, own_smears),
    ):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 1, (words[0], result.output)
        assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("size", "mode"),
    quick_first(2, [((1, 1), "L"), ((25_000, 16_000), "1"), ((64, 64), "1"), ((64, 64), "RGB")]),
)
def test_a_picture_that_no_run_wrote_is_refused_or_left_out(run, smears, tmp_path, size, mode):
    picture = io.BytesIO()
    Image.new(mode, size).save(picture, "PNG")
    for path in (run / "predictions" / "truth").glob("*.png"):
        path.write_bytes(picture.getvalue())
    codes = {command: code for command, code, _ in commands(run, smears, tmp_path)}
    assert codes["report"] == codes["predict"] == 0
    assert codes["review"] == 1


@pytest.mark.parametrize(
    "odd",
    quick_first(2, [torch.float8_e4m3fn, "sparse", "meta", torch.complex64, torch.bool]),
)
def test_weights_of_odd_kinds_are_refused(run, smears, tmp_path, odd):
    weights = torch.load(run / "weights.pth", weights_only=True)
    name = next(name for name in weights if name.endswith("conv1.weight"))
    if odd == "sparse":
        weights[name] = weights[name].to_sparse()
    elif odd == "meta":
        weights[name] = weights[name].to("meta")
    else:
        weights[name] = weights[name].to(odd)
    torch.save(weights, run / "weights.pth")
    codes = {command: code for command, code, _ in commands(run, smears, tmp_path)}
    assert codes["predict"] == codes["review"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("odd", [torch.float64, torch.float16])
def test_weights_of_another_float_predict_the_same(run, smears, tmp_path, odd):
    first = {command: code for command, code, _ in commands(run, smears, tmp_path)}
    mask = np.asarray(Image.open(next((tmp_path / "predicted" / "masks").rglob("*.png"))))
    shutil.rmtree(tmp_path / "predicted")
    weights = torch.load(run / "weights.pth", weights_only=True)
    torch.save(
        {key: value.to(odd) if value.is_floating_point() else value for key, value in weights.items()},
        run / "weights.pth",
    )
    again = {command: code for command, code, _ in commands(run, smears, tmp_path)}
    other = np.asarray(Image.open(next((tmp_path / "predicted" / "masks").rglob("*.png"))))
    assert first["predict"] == again["predict"] == 0
    assert (mask == other).mean() > 0.95  # a network that learnt nothing is nowhere sure


def test_weights_whose_parts_overlap_are_not_read_over_and_over(run, smears, tmp_path):
    content = (run / "weights.pth").read_bytes()
    with zipfile.ZipFile(run / "weights.pth", "a") as archive:
        archive.filelist *= 50
        archive._didModify = True
    assert (run / "weights.pth").stat().st_size < 50 * len(content)
    for command, code, said in commands(run, smears, tmp_path):
        assert command == "report" or (code == 1 and "larger than the file" in said)


def test_a_damage_that_torch_has_no_words_for_is_told(run, smears, tmp_path):
    with zipfile.ZipFile(run / "weights.pth") as archive:
        parts = {member.filename: archive.read(member) for member in archive.infolist()}
    with zipfile.ZipFile(run / "weights.pth", "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part[:20] if name.endswith("data.pkl") else part)
    for command, code, said in commands(run, smears, tmp_path):
        assert command == "report" or (code == 1 and "weights.pth: cannot be read" in said)


@pytest.mark.parametrize("table", [b"a" + b"," * 2**20, b"image,group,subset,dice,iou,soft_dice\n,,test,1,1,1\n", b""])
def test_a_table_that_is_none_is_refused(run, smears, tmp_path, table):
    (run / "per_image.csv").write_bytes(table)
    codes = {command: code for command, code, _ in commands(run, smears, tmp_path)}
    assert codes["report"] == codes["review"] == 1


@pytest.mark.slow
def test_what_lightning_refuses_is_told_in_one_line(smears, tmp_path):
    words = [
        sys.executable,
        str(Path(train.__file__).parents[1] / "train.py"),
        "experiment=smoke",
        f"data.root={smears}",
        "trainer.devices=0",
    ]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr + result.stdout
    assert result.stderr.strip().splitlines()[-1].startswith("error: ")


def test_a_drawn_mask_is_never_taken_for_an_image(tmp_path):
    for number in range(3):
        folder = tmp_path / "d" / f"cell_{number}"
        folder.mkdir(parents=True)
        for name in ("source.jpg", "mask.jpg", "exact.png"):
            Image.new("L", (32, 32), 255 * ("source" not in name)).save(folder / name)
    (tmp_path / "d" / "cell_1" / "source.jpg").unlink()
    [problem] = scan_pairs(tmp_path / "d").problems
    assert "no image" in str(problem)
    sources, _ = find_sources([tmp_path / "d" / "cell_1"])
    assert sources == []


def test_an_image_may_be_called_exact(tmp_path):
    for number in range(3):
        (folder := tmp_path / f"cell_{number}").mkdir()
        for name in ("exact.jpg", "exact_mask.jpg"):
            Image.new("L", (32, 32), 255).save(folder / name)
    scan = scan_pairs(tmp_path)
    assert not scan.problems
    assert [pair.image.name for pair in scan.pairs] == ["exact.jpg"] * 3
