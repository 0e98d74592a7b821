import json
import re
import subprocess
import sys
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cellseg import UNet
from cellseg.run import execution
from cellseg.run import folder as records
from cellseg.storage.errors import InputError
from cellseg.storage.spreadsheet import as_text, from_text
from cellseg.use import load as runs


def test_run_names_say_model_and_seed_first_then_what_else_was_changed():
    assert records.run_name("unet", 0, []) == "unet_seed-0"
    overrides = ["model=xopinet", "seed=1", "study=six", "experiment=smoke", "optimizer.lr=0.01"]
    assert records.run_name("xopinet", 1, overrides) == "xopinet_seed-1_experiment-smoke_optimizer.lr-0.01"


def test_the_order_on_the_command_line_does_not_change_the_name():
    assert records.run_name("unet", 0, ["a=1", "b=2"]) == records.run_name("unet", 0, ["b=2", "a=1"])


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
    names = [records.run_name("unet", 0, [value]) for value in values]
    assert all(first != second for first, second in combinations(names, 2))
    for name in names:
        assert re.fullmatch(r"[\w.,+-]{1,120}", name, flags=re.ASCII), name


def test_a_sweep_names_a_run_as_it_is_named_alone():
    assert records.run_name("unet", 0, ["model.skip=False"]) == records.run_name("unet", 0, ["model.skip=false"])


def test_a_folder_that_holds_another_run_is_refused_and_the_keys_are_named(tmp_path):
    first = OmegaConf.create({"seed": 0, "model": {"depth": 4, "name": "UNet"}, "study": "a"})
    records.start_run(tmp_path, first, {"test": []})
    other = OmegaConf.create({"seed": 1, "model": {"depth": 4, "width": 3}, "study": "b"})
    message = (
        r"another configuration \(model\.name was 'UNet', is None; model\.width was None, is 3; seed was 0, is 1\)"
    )
    with pytest.raises(InputError, match=message):
        records.start_run(tmp_path, other, {"test": []})
    records.write_json(tmp_path / "summary.json", {"done": True})
    with pytest.raises(InputError, match="another configuration"):
        records.finished(tmp_path, other)
    assert records.finished(tmp_path, OmegaConf.merge(first, {"study": "c"})) == {"done": True}
    assert OmegaConf.load(tmp_path / "config.yaml") == first


def test_an_unfinished_run_goes_on_with_the_same_images_only(tmp_path):
    config = OmegaConf.create({"seed": 0})
    records.start_run(tmp_path, config, {"test": ["a"]})
    records.start_run(tmp_path, config, {"test": ["a"]})
    with pytest.raises(InputError, match="the images or their groups have changed since this run began"):
        records.start_run(tmp_path, config, {"test": ["b"]})


def test_two_processes_cannot_work_in_one_folder(tmp_path):
    enter = (
        "import sys, pathlib; from cellseg.run import folder; folder.occupied(pathlib.Path(sys.argv[1])).__enter__()"
    )
    with records.occupied(tmp_path):
        said = subprocess.run([sys.executable, "-c", enter, tmp_path], capture_output=True, text=True)
    assert "another process is at work in" in said.stderr
    subprocess.run([sys.executable, "-c", enter, tmp_path], check=True)


def test_files_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "summary.json"
    records.write_json(path, {"value": 1})
    with pytest.raises(ValueError, match="JSON"):
        records.write_json(path, {"value": float("nan")})
    assert json.loads(path.read_text()) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_csv_has_every_column_and_leaves_missing_values_empty(tmp_path):
    records.write_csv(tmp_path / "metrics.csv", [{"epoch": 0, "a": 1}, {"epoch": 1, "b": 2}])
    assert (tmp_path / "metrics.csv").read_text() == "epoch,a,b\n0,1,\n1,,2\n"


@given(
    st.text(max_size=12) | st.sampled_from(["=HYPERLINK(1)", "-1", "+a", "'=x", "@x", "-1+cmd|' /C calc'!A0", "\t=1"])
)
def test_no_name_is_a_formula_to_a_spreadsheet_and_each_is_read_back(name):
    written = as_text(name)
    assert not re.match(r"[=@\t\r]", written)
    assert from_text(written) == name
    if re.fullmatch(r"[-+]?[\w.]*", name):
        assert written == name


def test_formulas_come_back_from_a_table_as_they_were(tmp_path):
    rows = [
        {"image": name, "group": name, "subset": "test", "dice": 0.5} for name in ("=1+1", "'=1+1", "-1", "NA", "a,\n")
    ]
    records.write_csv(tmp_path / "per_image.csv", rows)
    assert "\n=" not in (tmp_path / "per_image.csv").read_text()
    assert records.read_table(tmp_path / "per_image.csv").to_dict("records") == rows


def test_a_configuration_that_multiplies_itself_is_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]  # 9 to the 12th
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"config\.yaml: cannot be read \(it repeats parts of itself by reference"):
        records.read_config(tmp_path / "config.yaml")


def test_weights_are_plain_tensors_in_the_usual_layout(tmp_path):
    network = UNet(init_features=2).to(memory_format=torch.channels_last)
    execution.write_weights(tmp_path / "weights.pth", network)
    weights = torch.load(tmp_path / "weights.pth", weights_only=True)
    assert all(tensor.is_contiguous() for tensor in weights.values())
    fresh = UNet(init_features=2)
    fresh.load_state_dict(weights)
    assert all(
        torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), network.state_dict().values(), strict=True)
    )


def test_provenance_names_the_versions_that_ran():
    facts = records.provenance()
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


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("summary.json", "{", r"summary\.json is damaged .*; delete it, and the same command scores the run again"),
        ("config.yaml", "a: [b", r"config\.yaml cannot be read .*; choose another study=NAME"),
        ("config.yaml", "a: 1", r"holds a run with another configuration \(a was 1, is None"),
    ],
)
def test_a_damaged_run_folder_is_told_by_name_and_left_as_it_is(tmp_path, name, text, message):
    config = OmegaConf.create({"b": 2})
    records.start_run(tmp_path, config, {})
    records.write_json(tmp_path / "summary.json", {})
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        records.finished(tmp_path, config)
    assert (tmp_path / name).read_text() == text
