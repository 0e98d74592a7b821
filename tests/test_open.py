"""Networks from a user's folder or another package: training, verdict and use."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from cellseg import UNet, load_run, train
from cellseg.cli import app
from cellseg.run.folder import RunFolder
from cellseg.run.probing import probe
from cellseg.storage.errors import InputError
from cellseg.study.collect import read_study
from cellseg.use.trained import find_trained
from conftest import smoke

ROOT = Path(train.__file__).parents[1]
EXAMPLE = ROOT / "examples" / "own"
ORIGIN = ("a.B", None)

pytestmark = pytest.mark.xdist_group("open")  # one process: they share a sweep


class Deep(nn.Module):
    """A network that needs sides of 32."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 2, 32, 32), nn.ConvTranspose2d(2, 1, 32, 32)

    def forward(self, image):
        return self.up(self.down(image))


class Fixed(nn.Module):
    """A network that sees one size only."""

    def __init__(self, side=48):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 3, side, side))
        self.conv = nn.Conv2d(3, 1, 1)

    def forward(self, image):
        return self.conv(image + self.position)


class Normed(nn.Module):
    """A network whose batch norm has one value for an image."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 1, 1), nn.BatchNorm1d(1)

    def forward(self, image):
        return self.conv(image) + self.norm(image.mean((2, 3))[:, :1])[:, :, None, None]


class Odd(nn.Module):
    """A network with buffers that are no plain weights, and with weights made of others."""

    def __init__(self):
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 1, 1))
        self.register_buffer("on", torch.tensor([True]))
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))

    def forward(self, image):
        return self.conv(image)


class Several(nn.Module):
    """A network with deep supervision: it gives a list."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)

    def forward(self, image):
        return [self.conv(image), self.conv(image)]


@pytest.mark.parametrize(
    ("network", "size", "multiple", "least", "fixed", "batch"),
    [
        (nn.Conv2d(3, 1, 1), 64, 1, 1, False, 1),
        (UNet(init_features=2, depth=3), 64, 8, 8, False, 1),
        (Deep(), 64, 32, 32, False, 1),
        (Fixed(), 48, 48, 48, True, 1),
        (Normed(), 32, 1, 1, False, 2),
    ],
)
def test_what_a_network_asks_of_images_is_found_by_trying(network, size, multiple, least, fixed, batch):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    facts = probe(network, 3, size, ORIGIN)
    found = (facts.side_multiple, facts.side_least, facts.side_fixed, facts.least_batch)
    assert found == (multiple, least, fixed, batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Several(), "returns a list, where one tensor of logits"),
        (nn.Conv2d(3, 2, 1), r"returns \(2, 2, 32, 32\) .* set model\.out_channels=1"),
        (nn.Conv2d(4, 1, 1), "fails on images"),
        (nn.Conv2d(3, 1, 1, stride=2), r"returns \(2, 1, 16, 16\)"),
    ],
)
def test_a_network_that_gives_something_else_is_refused_before_training(network, said):
    with pytest.raises(InputError, match=said):
        probe(network, 3, 32, ORIGIN)


def test_batches_of_one_are_refused_for_a_network_that_needs_two(smears, tmp_path):
    with pytest.raises(InputError, match=r"data\.batch_size=7 a batch of the 8 .* has one; set data\.batch_size=2"):
        train.run(
            smoke(f"data.root={smears}", "~model", "+model._target_=test_open.Normed", "data.batch_size=7"), tmp_path
        )


@pytest.fixture(scope="module")
def own(smears, tmp_path_factory):
    """A study of the network and the loss in examples/own, trained far from the clone, beside a U-Net."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(EXAMPLE, folder / "my own")
    settings = (f"data.root={smears}", "trainer.max_epochs=1", "study=s")
    words = ("experiment=smoke", "+trainer.enable_progress_bar=false", "model=mine", *settings)
    result = typed("--config-dir", "my own/conf", *words, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    train.run(smoke("model=unet", *settings), folder / "logs" / "s" / "unet_seed-0")
    return folder


def typed(*words, cwd, env=None):
    command = [sys.executable, str(ROOT / "train.py"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=os.environ | (env or {}))


def invoke(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output + str(result.exception)
    return result.output


def run_of(own, name="mine_seed-0"):
    return next((own / "logs" / "s").glob(f"{name}*"))


def test_a_network_of_ones_own_is_reported(own):
    study = read_study(own / "logs" / "s")
    assert study.configurations == ["Hourglass", "UNet"]
    assert "Hourglass" in invoke("report", own / "logs" / "s")
    facts = RunFolder(run_of(own)).summary.network
    assert (facts.target, Path(facts.place).name) == ("mine.Hourglass", "my own")
    assert (facts.side_multiple, facts.least_batch) == (4, 1)


@pytest.mark.slow
def test_a_sweep_over_a_network_of_ones_own_goes_on(smears, tmp_path):
    shutil.copytree(EXAMPLE, tmp_path / "my own")
    settings = ("experiment=smoke", f"data.root={smears}", "trainer.max_epochs=1", "model=mine,unet", "study=s")
    for _ in range(2):
        result = typed("-m", "--config-dir", "my own/conf", *settings, cwd=tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr
        (run_of(tmp_path) / "summary.json").unlink()


UNTRUSTED = r"""
import json, sys
from typer.testing import CliRunner
from cellseg.cli import app
for words in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, words)
    print(json.dumps([words[0], result.exit_code, result.output, "mine" in sys.modules]))
"""


def test_without_trust_nothing_of_another_package_is_imported(own, smears, tmp_path):
    run, place = str(run_of(own)), own / "my own"
    commands = [
        ["predict", run, str(smears), "--output", str(tmp_path / "out")],
        ["evaluate", run, str(smears)],
        ["review", run, "--output", str(tmp_path / "review")],
        ["export", run, str(tmp_path / "net.pt2")],
    ]
    said = subprocess.run(
        [sys.executable, "-c", UNTRUSTED, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{place}"},
    ).stdout
    results = [json.loads(line) for line in said.splitlines()]
    assert [name for name, *_ in results] == [name for name, *_ in commands]
    for _, code, output, imported in results:
        assert code == 1
        assert output.startswith("error: "), output
        assert "was trained with mine.Hourglass" in output
        assert "add --trust" in output
        assert str(place) in output
        assert not imported


def test_a_study_is_used_without_trust_by_its_best_own_network(own, smears, tmp_path):
    study = own / "logs" / "s"
    best = find_trained(study, trust=True).runs[0].files.summary.model
    said = invoke("predict", study, smears, "--output", tmp_path / "out")
    assert "unet" in next(line for line in said.splitlines() if "by mean test Dice" in line)
    assert ("needs --trust" in said) == (best != "UNet")
    assert "left out" in invoke("evaluate", study, smears, code=1)


def test_a_trusted_network_is_used_as_any_other(own, smears, tmp_path):
    run = run_of(own)
    place = str(own / "my own")
    said = invoke("predict", run, smears, "--output", tmp_path / "out", "--trust")
    assert "wrote 10 masks" in said
    assert place in sys.path
    assert "their mean Dice is" in invoke("evaluate", run, smears, "--trust")
    invoke("predict", own / "logs" / "s", smears, "--output", tmp_path / "best", "--trust", "--tiles", "--tta")
    invoke("review", run, "--output", tmp_path / "review", "--trust")
    invoke("export", run, tmp_path / "net.pt2", "--trust")
    loaded = load_run(run, trust=True)
    from mine import Hourglass  # what was imported above

    given = load_run(run, network=Hourglass(width=32))
    image = next(smears.glob("*/source.jpg"))
    assert np.array_equal(loaded.predict(image), given.predict(image))
    shutil.copy(run / "weights.pth", tmp_path / "w.pth")
    model = own / "my own" / "conf" / "model" / "mine.yaml"
    assert "add --trust" in invoke(
        "predict", tmp_path / "w.pth", image, "--output", tmp_path / "o", "--model", model, code=1
    )
    invoke("predict", tmp_path / "w.pth", image, "--output", tmp_path / "o", "--model", model, "--trust")


def test_nothing_is_imported_from_a_run_folder(own, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(run_of(own), folder)
    config = (folder / "config.yaml").read_text().replace("mine.Hourglass", "evil.Network")
    (folder / "config.yaml").write_text(config)
    (folder / "evil.py").write_text("raise SystemExit('executed')")
    summary = json.loads((folder / "summary.json").read_text())
    summary["network"]["place"] = str(folder)
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match=r"evil\.Network: no module evil is on Python's path, nor in "):
        load_run(folder, trust=True)
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(InputError, match=r"would be imported from the run folder .*must not execute code"):
        load_run(folder, trust=True)


def test_fixed_sizes_are_kept_to(smears, tmp_path):
    train.run(
        smoke(f"data.root={smears}", "~model", "+model._target_=test_open.Fixed", "data.image_size=48"),
        tmp_path / "run",
    )
    image = next(smears.glob("*/source.jpg"))
    with Image.open(image) as opened:
        size = opened.size
    assert load_run(tmp_path / "run", trust=True).predict(image).shape == size[::-1]
    invoke("predict", tmp_path / "run", image, "--output", tmp_path / "o", "--trust", "--tiles")
    invoke("review", tmp_path / "run", "--trust")
    invoke("export", tmp_path / "run", tmp_path / "net.pt2", "--trust")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["attention_unet", "segresnet"])
def test_networks_of_monai_go_all_the_way(smears, tmp_path, model):
    train.run(smoke(f"data.root={smears}", f"model={model}", "trainer.max_epochs=1"), tmp_path / "run")
    assert "wrote 10 masks" in invoke("predict", tmp_path / "run", smears, "--output", tmp_path / "out", "--trust")
    invoke("export", tmp_path / "run", tmp_path / "net.onnx", "--trust")


def test_a_missing_folder_of_configuration_is_named(tmp_path):
    said = typed("--config-dir", "nowhere", "model=mine", cwd=tmp_path)
    assert (said.returncode, said.stderr.strip()) == (1, "error: --config-dir nowhere: there is no such folder")


def test_the_package_carries_its_configuration():
    """Every folder of Python files is listed, since the configuration is mapped into the package."""
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "cellseg").rglob("*.py")}
    assert set(listed) == folders | {"cellseg.conf"}


def test_what_a_run_recorded_of_a_foreign_network_is_tried_anew(own, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run_of(own), folder)
    summary = json.loads((folder / "summary.json").read_text())
    summary["network"] |= {"side_multiple": 10**9, "side_least": 10**9}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert load_run(folder, trust=True).facts.side_multiple == 4


def test_a_module_of_the_same_name_elsewhere_is_refused(own, tmp_path):
    folder, twin = tmp_path / "run", tmp_path / "twin"
    load_run(run_of(own), trust=True)
    shutil.copytree(run_of(own), folder)
    twin.mkdir()
    (twin / "mine.py").write_text("class Hourglass: ...")
    summary = json.loads((folder / "summary.json").read_text())
    summary["network"]["place"] = str(twin)
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match=r"both have a module mine, and the run used the second"):
        load_run(folder, trust=True)


@pytest.mark.parametrize("model", [{}, {"a": {"_target_": "cellseg.UNet"}}, {"_target_": "sys.exit"}])
def test_configurations_that_name_no_network_are_refused(own, tmp_path, model):
    folder = tmp_path / "run"
    shutil.copytree(run_of(own), folder)
    config = OmegaConf.load(folder / "config.yaml")
    config.model = model
    OmegaConf.save(config, folder / "config.yaml")
    for trust in (False, True):
        with pytest.raises(InputError):
            load_run(folder, trust=trust)


def test_networks_with_odd_weights_load_again(smears, tmp_path):
    train.run(smoke(f"data.root={smears}", "~model", "+model._target_=test_open.Odd"), tmp_path / "run")
    assert load_run(tmp_path / "run", trust=True).predict(next(smears.glob("*/source.jpg"))).ndim == 2
