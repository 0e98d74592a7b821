"""Every option in conf/ composes and instantiates, and something uses every key."""

import inspect
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

import cellseg
from cellseg import DiceLoss, PotiNet, UNet, XopiNet
from cellseg.run.help import print_help
from cellseg.run.parts import EXTRAS, build_callbacks, build_module
from cellseg.run.trainer import build_loggers, build_trainer, refuse_arguments
from cellseg.storage.errors import InputError
from conftest import CONF, composed

OPTIONS = sorted(path.relative_to(CONF) for path in CONF.glob("*/*.yaml"))
EXPERIMENTS = [path.stem for path in OPTIONS if path.parent.name == "experiment"]


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_composes_and_instantiates(option, tmp_path):
    cfg = composed(f"{option.parent.name}={option.stem}")
    cfg.trainer.precision = "32-true"
    if option.parent.name == "logger" and option.stem in EXTRAS:
        with pytest.raises(InputError, match=rf"needs the package {option.stem}: python -m pip install"):
            build_loggers(cfg, tmp_path, 0)
        return
    instantiate(cfg.data)
    build_module(cfg)
    refuse_arguments(cfg)
    build_trainer(cfg, tmp_path, list(build_callbacks(cfg).values()), build_loggers(cfg, tmp_path, 0))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_key_of_an_experiment_exists_without_it(name):
    """Hydra accepts a misspelt key in an experiment file without a word; this is where it is found."""
    cfg = composed()
    experiment = OmegaConf.load(CONF / "experiment" / f"{name}.yaml")
    experiment.pop("defaults", None)

    def leaves(node: DictConfig, prefix: str = ""):
        for key, value in node.items():
            yield from leaves(value, f"{prefix}{key}.") if isinstance(value, DictConfig) else [f"{prefix}{key}"]

    missing = [key for key in leaves(experiment) if OmegaConf.select(cfg, key, default="missing") == "missing"]
    assert not missing


@pytest.mark.parametrize(("option", "build"), [("unet", UNet), ("potinet", PotiNet), ("xopinet", XopiNet)])
def test_model_files_and_constructors_describe_the_same_network(option, build):
    configured = instantiate(composed(f"model={option}", "experiment=original").model)  # as published
    shapes = [{name: tensor.shape for name, tensor in net.state_dict().items()} for net in (configured, build())]
    assert shapes[0] == shapes[1]
    assert configured.name == build().name


def test_data_file_and_constructor_have_the_same_defaults():
    cfg = OmegaConf.to_container(composed("augmentation=none").data, resolve=True)
    target = get_class(cfg.pop("_target_"))
    split = cfg.pop("split")
    defaults = {name: p.default for name, p in inspect.signature(target).parameters.items()}
    assert cfg == {name: value for name, value in defaults.items() if name != "split"}
    assert {name: value for name, value in split.items() if name != "_target_"} == vars(defaults["split"])


def test_original_is_the_original_recipe():
    cfg = composed("experiment=original")
    assert (cfg.optimizer.lr, cfg.data.batch_size, cfg.trainer.max_epochs, cfg.data.image_size) == (1e-4, 1, 100, 224)
    assert (cfg.augmentation, cfg.scheduler, cfg.model.norm) == (None, None, "batch")
    assert get_class(cfg.loss._target_) is DiceLoss
    assert "ema" not in cfg.callbacks
    assert cfg.data.split.val_fraction == 0  # so the last weights are scored
    module = build_module(cfg)
    optimizer = module.configure_optimizers()
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    assert optimizer.defaults["weight_decay"] == 0


def test_what_an_experiment_says_beats_the_defaults():
    assert composed("experiment=smoke").trainer.max_epochs == 2
    assert composed("experiment=smoke", "trainer.max_epochs=3").trainer.max_epochs == 3


def test_seed_reaches_the_data_but_not_the_split():
    cfg = composed("seed=7")
    assert cfg.data.seed == 7
    assert cfg.data.split.seed == 0


def test_public_names_are_importable_and_documented():
    for name in ("UNet", "PotiNet", "XopiNet", "DiceLoss", "CellDataModule", "SegmentationModule", "load_run"):
        assert getattr(cellseg, name).__doc__, name


def test_mabimi_is_looked_for_in_the_data_folder():
    assert Path(composed("data=mabimi").data.root) == Path("data/Mabimi")


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_help_explains_every_option_and_its_keys(option, capsys):
    print_help(CONF, [f"{option.parent.name}={option.stem}"], "python train.py")
    lines = capsys.readouterr().out.splitlines()
    [place] = [
        number for number, line in enumerate(lines) if line[2:].split("  ")[0] == f"{option.parent.name}={option.stem}"
    ]
    about = next(line for line in (CONF / option).read_text().splitlines() if line.startswith("# ") and "@" not in line)
    assert " ".join(about[2:].split()[:2]) in " ".join([*lines[place].split(), *lines[place + 1].split()])


def test_help_lists_every_key_that_can_be_set(capsys):
    print_help(CONF, [], "python train.py")
    listed = capsys.readouterr().out

    def keys(node: DictConfig, prefix: str = ""):
        for key in node:
            value = OmegaConf.to_container(node)[key]
            yield from keys(node[key], f"{prefix}{key}.") if isinstance(value, dict) and value else [f"{prefix}{key}"]

    hidden = ("module.", "augmentation.", "metrics")
    for key in keys(composed()):
        if not key.startswith(hidden) and not key.endswith(("_target_", "_partial_")):
            assert f"  {key}=" in listed, key
