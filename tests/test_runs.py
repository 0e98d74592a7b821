import json
import re
from itertools import combinations

import pytest
import torch
from omegaconf import OmegaConf

from cellseg import UNet, runs
from cellseg.errors import InputError


def test_run_names_say_model_and_seed_first_then_what_else_was_changed():
    assert runs.run_name("unet", 0, []) == "unet_seed-0"
    overrides = ["model=xopinet", "seed=1", "study=six", "experiment=smoke", "optimizer.lr=0.01"]
    assert runs.run_name("xopinet", 1, overrides) == "xopinet_seed-1_experiment-smoke_optimizer.lr-0.01"


def test_the_order_on_the_command_line_does_not_change_the_name():
    assert runs.run_name("unet", 0, ["a=1", "b=2"]) == runs.run_name("unet", 0, ["b=2", "a=1"])


def test_different_overrides_never_share_a_name():
    values = ["data.root=../one/set", "data.root=../two/set", "data.root=set", "data.root=s et", "data.root=s-et"]
    values += [
        "++data.root=x/",
        "data.root=x",
        "~callbacks.ema",
        "data.root=" + "a" * 300,
        "data.root=" + "a" * 301,
        "data.root=" + "像" * 99,
    ]
    names = [runs.run_name("unet", 0, [value]) for value in values]
    assert all(first != second for first, second in combinations(names, 2))
    for name in names:
        assert re.fullmatch(r"[\w.,+-]{1,120}", name, flags=re.ASCII), name


def test_a_sweep_names_a_run_as_it_is_named_alone():
    assert runs.run_name("unet", 0, ["model.skip=False"]) == runs.run_name("unet", 0, ["model.skip=false"])


def test_a_folder_that_holds_a_run_is_never_started_again(tmp_path):
    runs.start_run(tmp_path, OmegaConf.create({"seed": 0}))
    with pytest.raises(InputError, match="holds an unfinished run already; choose another study"):
        runs.start_run(tmp_path, OmegaConf.create({"seed": 1}))
    runs.write_json(tmp_path / "summary.json", {})
    with pytest.raises(InputError, match="holds a finished run already"):
        runs.start_run(tmp_path, OmegaConf.create({"seed": 1}))
    assert OmegaConf.load(tmp_path / "config.yaml").seed == 0


def test_files_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "summary.json"
    runs.write_json(path, {"value": 1})
    with pytest.raises(ValueError, match="JSON"):
        runs.write_json(path, {"value": float("nan")})
    assert json.loads(path.read_text()) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_csv_has_every_column_and_leaves_missing_values_empty(tmp_path):
    runs.write_csv(tmp_path / "metrics.csv", [{"epoch": 0, "a": 1}, {"epoch": 1, "b": 2}])
    assert (tmp_path / "metrics.csv").read_text() == "epoch,a,b\n0,1,\n1,,2\n"


def test_weights_are_plain_tensors_in_the_usual_layout(tmp_path):
    network = UNet(init_features=2).to(memory_format=torch.channels_last)
    runs.write_weights(tmp_path / "weights.pth", network)
    weights = torch.load(tmp_path / "weights.pth", weights_only=True)
    assert all(tensor.is_contiguous() for tensor in weights.values())
    fresh = UNet(init_features=2)
    fresh.load_state_dict(weights)
    assert all(
        torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), network.state_dict().values(), strict=True)
    )


def test_provenance_names_the_versions_that_ran():
    facts = runs.provenance()
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["git_commit"] is None or re.fullmatch("[0-9a-f]{40}", facts["git_commit"])


def test_loading_an_unfinished_run_says_so(tmp_path):
    with pytest.raises(InputError, match="no finished run"):
        runs.load_run(tmp_path)


def test_loading_executes_nothing_a_stored_file_names(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("model: {_target_: os.system, command: 'touch owned'}")
    with pytest.raises(InputError, match=r"was trained with os\.system"):
        runs.load_run(tmp_path)
