import json
import re
import subprocess
import sys
import threading
from itertools import combinations

import monai.networks.nets
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cellseg import UNet, train
from cellseg.data.splits import SplitEntry, SplitRecord
from cellseg.run.begin import finished, start_run
from cellseg.run.execution import write_weights
from cellseg.run.folder import Counts, RunFolder
from cellseg.run.locking import occupied
from cellseg.run.naming import run_name
from cellseg.run.plan import plan_study, read_plans
from cellseg.run.provenance import _is_clone, code_patch, provenance
from cellseg.storage.csv_files import as_text, from_text, write_csv
from cellseg.storage.errors import InputError
from cellseg.storage.files import write_json
from cellseg.use.load import load_run
from test_report import summary_of


def split_of(*tested):
    entries = [SplitEntry(name=name, group=name, sha256=name, mask_sha256=name) for name in tested]
    return SplitRecord(
        seed=0, folds=None, fold=None, test_fraction=0.2, val_fraction=0.0, train=entries, val=[], test=entries
    )


SUMMARY = summary_of("UNet", 0, 0.5, Counts(train=1, val=0, test=1, epochs=1, steps=1))


def test_a_network_that_is_typed_instead_of_chosen_has_a_name_too():
    assert run_name(None, 0, ["~model", "+model._target_=a.B"]).startswith("network_seed-0_")


def test_run_names_say_model_and_seed_first_then_what_else_was_changed():
    assert run_name("unet", 0, []) == "unet_seed-0"
    overrides = ["model=xopinet", "seed=1", "study=six", "experiment=smoke", "optimizer.lr=0.01"]
    assert run_name("xopinet", 1, overrides) == "xopinet_seed-1_experiment-smoke_optimizer.lr-0.01"
    overrides += ["data.split.fold=3", "data.split.folds=5", "data.split.seed=2"]
    name = "xopinet_seed-1_fold-3_split-2_data.split.folds-5_experiment-smoke_optimizer.lr-0.01"
    assert run_name("xopinet", 1, overrides) == name


def test_the_order_on_the_command_line_does_not_change_the_name():
    assert run_name("unet", 0, ["a=1", "b=2"]) == run_name("unet", 0, ["b=2", "a=1"])


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
    names = [run_name("unet", 0, [value]) for value in values]
    assert all(first != second for first, second in combinations(names, 2))
    for name in names:
        assert re.fullmatch(r"[\w.,+-]{1,120}", name, flags=re.ASCII), name


def test_a_sweep_names_a_run_as_it_is_named_alone():
    assert run_name("unet", 0, ["model.skip=False"]) == run_name("unet", 0, ["model.skip=false"])


def test_a_folder_that_holds_another_run_is_refused_and_the_keys_are_named(tmp_path):
    first = OmegaConf.create({"seed": 0, "model": {"depth": 4, "name": "UNet"}, "study": "a"})
    start_run(tmp_path, first, split_of("a"), patch=b"")
    other = OmegaConf.create({"seed": 1, "model": {"depth": 4, "width": 3}, "study": "b"})
    message = (
        r"another configuration \(model\.name was 'UNet', is absent; model\.width was absent, is 3; seed was 0, is 1\)"
    )
    with pytest.raises(InputError, match=message):
        start_run(tmp_path, other, split_of("a"), patch=b"")
    SUMMARY.write(tmp_path / "summary.json")
    with pytest.raises(InputError, match="another configuration"):
        finished(tmp_path, other)
    assert finished(tmp_path, OmegaConf.merge(first, {"study": "c"})) == SUMMARY
    assert finished(tmp_path, OmegaConf.merge(first, {"channels": None})) == SUMMARY, (
        "an earlier version had no such key"
    )
    assert OmegaConf.load(tmp_path / "config.yaml") == first


def test_an_unfinished_run_of_another_version_is_refused_as_one(tmp_path):
    for name, said in (("cellseg.old.WarmEMA", True), ("cellseg.run.callbacks.Other", False)):
        (folder := tmp_path / name).mkdir()
        start_run(folder, OmegaConf.create({"ema": {"_target_": name}}), split_of("a"), patch=b"")
        with pytest.raises(InputError, match="holds a run with another configuration") as raised:
            finished(folder, OmegaConf.create({"ema": {"_target_": "cellseg.run.callbacks.WarmEMA"}}))
        assert ("another version of cellseg" in str(raised.value)) == said


def test_an_unfinished_run_goes_on_with_the_same_images_only(tmp_path):
    config = OmegaConf.create({"seed": 0})
    start_run(tmp_path, config, split_of("a"), patch=b"")
    start_run(tmp_path, config, split_of("a"), patch=b"")
    with pytest.raises(InputError, match="images or groups have changed since this run started"):
        start_run(tmp_path, config, split_of("b"), patch=b"")


def test_a_run_folder_of_another_schema_names_the_version_and_what_to_do(tmp_path):
    content = json.loads(SUMMARY.model_dump_json())
    for version in ({"schema_version": 99}, {}):
        write_json(tmp_path / "summary.json", {k: v for k, v in content.items() if k != "schema_version"} | version)
        with pytest.raises(
            InputError, match=r"schema version (99|None), .* reads version 1; use .*git checkout abcdef1234"
        ):
            _ = RunFolder(tmp_path).summary


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    SUMMARY.write(tmp_path / "summary.json")
    split_of("ä", "b").write(tmp_path / "split.json")
    assert RunFolder(tmp_path).summary == SUMMARY
    assert RunFolder(tmp_path).split == split_of("ä", "b")


def git(folder, *arguments):
    return subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=folder, capture_output=True, check=True
    ).stdout.decode()


@pytest.fixture(params=["", "inside"], ids=["clone", "folder of a clone"])
def clone(request, tmp_path, monkeypatch):
    """A clone of three files, or a folder of one, that the package takes for its own; and a second clone."""
    clone = tmp_path / "clone" / request.param
    (clone / "cellseg" / "run").mkdir(parents=True)
    home = clone / "cellseg" / "run" / "provenance.py"
    for name in ("cellseg/run/provenance.py", "b.py", "c.yaml"):
        (clone / name).write_text(f"{name}\nold\n")
    (clone / ".gitignore").write_text("ignored/\n")
    git(tmp_path / "clone", "init", "-q")
    git(tmp_path / "clone", "add", ".")
    git(tmp_path / "clone", "commit", "-qm", "first")
    git(tmp_path, "clone", "-q", tmp_path / "clone", tmp_path / "again")
    monkeypatch.setattr("cellseg.run.provenance.CLONE", clone)
    monkeypatch.setattr("cellseg.run.provenance.__file__", str(home))
    _is_clone.cache_clear()
    yield clone
    _is_clone.cache_clear()


PLAIN = torch.nn.Conv2d(3, 1, 1)


@pytest.mark.parametrize("setting", ["color.ui=always", "diff.noprefix=true", "diff.mnemonicPrefix=true"])
def test_the_patch_of_a_run_restores_the_code_that_ran(clone, tmp_path, setting):
    again = tmp_path / "again" / clone.relative_to(tmp_path / "clone")
    git(clone, "config", *setting.split("="))
    assert code_patch([], PLAIN) == b""
    files = {
        "b.py": "b.py\nnew ü\n".encode(),
        "new.py": b"no newline at the end",
        "lines.py": b"as on Windows\r\n",
        "latin.py": b"# caf\xe9\n",
        "empty.py": b"",
        "with space/x.yaml": b"a: 1\n",
    }
    for name, content in files.items():
        (clone / name).parent.mkdir(exist_ok=True)
        (clone / name).write_bytes(content)
    (clone / "c.yaml").unlink()
    (clone / "image.png").write_bytes(b"no code")
    subprocess.run(["git", "apply", "-"], cwd=tmp_path / "again", input=code_patch([], PLAIN), check=True)
    assert {name: (again / name).read_bytes() for name in files} == files
    assert not (again / "c.yaml").exists()
    assert not (again / "image.png").exists()
    assert provenance()["git_dirty"]


def test_changes_that_git_cannot_read_are_not_taken_for_none(clone):
    git(clone, "config", "diff.orderFile", "nowhere")
    (clone / "b.py").write_text("changed")
    assert b"git could not read the changes" in code_patch([], PLAIN)
    assert provenance()["git_dirty"]


def test_the_patch_holds_a_network_from_elsewhere_and_what_it_imports_from_beside_it(tmp_path, monkeypatch):
    (tmp_path / "mine_elsewhere.py").write_text("import torch\nfrom my_help import Base\nclass Mine(Base):\n    pass\n")
    (tmp_path / "my_help.py").write_text("from torch import nn\nclass Base(nn.Conv2d):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    from mine_elsewhere import Mine

    patch = code_patch(["mine_elsewhere.Mine", "functools.partial", "lightning.Trainer"], Mine(3, 1, 1))
    assert b"+class Mine(Base):" in patch
    assert b"+class Base(nn.Conv2d):" in patch
    assert patch.count(b"diff --git") - code_patch([], PLAIN).count(b"diff --git") == 2
    installed = code_patch(["monai.networks.nets.BasicUNet"], monai.networks.nets.BasicUNet(2, 3, 1))
    [file] = re.findall(rb"^\+\+\+ b/.*site-packages/(.*)$", installed, flags=re.MULTILINE)
    assert file == b"monai/networks/nets/basic_unet.py"


def test_a_run_that_goes_on_keeps_the_code_of_its_beginning(tmp_path, caplog):
    config = OmegaConf.create({"seed": 0})
    start_run(tmp_path, config, split_of("a"), patch=b"first")
    start_run(tmp_path, config, split_of("a"), patch=b"second")  # nothing is trained yet
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    start_run(tmp_path, config, split_of("a"), patch=b"second")
    assert not caplog.text
    start_run(tmp_path, config, split_of("a"), patch=b"")
    assert "the code has changed since this run started" in caplog.text
    assert (tmp_path / "code.patch").read_bytes() == b"second"
    assert (tmp_path / "code-resumed.patch").read_bytes() == b""


def test_two_processes_cannot_work_in_one_folder(tmp_path):
    enter = "import sys, pathlib, cellseg.run.locking as b; b.occupied(pathlib.Path(sys.argv[1])).__enter__()"
    with occupied(tmp_path):
        said = subprocess.run([sys.executable, "-c", enter, tmp_path], capture_output=True, text=True)
    assert "another process uses" in said.stderr
    subprocess.run([sys.executable, "-c", enter, tmp_path], check=True)


def test_a_run_that_is_refused_does_not_touch_the_folder_of_the_one_at_work(tmp_path):
    run = tmp_path / "s" / "run"
    with occupied(run):
        (run / "train.log").write_text("at work\n")
        train._leave_nothing(run)
        assert sorted(path.name for path in run.iterdir()) == [".lock", "train.log"]
    train._leave_nothing(run)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_starts_again_has_not_failed(tmp_path):
    (tmp_path / "failure.txt").write_text("no space left\n")
    start_run(tmp_path, OmegaConf.create({"seed": 0}), split_of("a"), patch=b"")
    assert RunFolder(tmp_path).failure is None


def test_a_start_that_is_refused_keeps_the_reason_of_the_failure(tmp_path):
    start_run(tmp_path, OmegaConf.create({"seed": 0}), split_of("a"), patch=b"")
    (tmp_path / "failure.txt").write_text("no space left\n")
    with pytest.raises(InputError, match="images or groups have changed"):
        start_run(tmp_path, OmegaConf.create({"seed": 0}), split_of("b"), patch=b"")
    assert RunFolder(tmp_path).failure == "no space left"


def test_sweeps_that_start_together_keep_a_plan_each(tmp_path):
    for attempt in range(5):
        study, together = tmp_path / str(attempt), threading.Barrier(3)

        def plan(name, study=study, together=together):
            together.wait()
            plan_study(study, [name], {}, [], 0.005, 1)

        sweeps = [threading.Thread(target=plan, args=(name,)) for name in "abc"]
        for sweep in sweeps:
            sweep.start()
        for sweep in sweeps:
            sweep.join()
        assert sorted(plan.runs for plan in read_plans(study)) == [["a"], ["b"], ["c"]]


def test_files_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"value": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"value": float("nan")})
    assert json.loads(path.read_text()) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_csv_has_every_column_and_leaves_missing_values_empty(tmp_path):
    write_csv(tmp_path / "metrics.csv", [{"epoch": 0, "a": 1}, {"epoch": 1, "b": 2}])
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
    scores = {"dice": 0.5, "iou": 0.5, "soft_dice": 0.5}
    rows = [
        {"image": name, "group": name, "subset": "test", **scores} for name in ("=1+1", "'=1+1", "-1", "NA", "a,\n")
    ]
    counts = SUMMARY.counts.model_copy(update={"test": len(rows)})
    SUMMARY.model_copy(update={"counts": counts}).write(tmp_path / "summary.json")
    write_csv(tmp_path / "per_image.csv", rows)
    assert "\n=" not in (tmp_path / "per_image.csv").read_text()
    assert RunFolder(tmp_path).per_image.to_dict("records") == rows


def test_a_configuration_that_multiplies_itself_is_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]  # 9 to the 12th
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"config\.yaml: cannot be read \(it contains YAML aliases"):
        _ = RunFolder(tmp_path).config


@pytest.mark.parametrize("text", ["[" * 60_000, "- " * 60_000, "{a: " * 20_000])
def test_a_configuration_of_endless_depth_is_refused(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"config\.yaml: cannot be read \(it is nested more than 100 levels deep"):
        _ = RunFolder(tmp_path).config


@pytest.mark.parametrize("value", ["2026-01-01", "1e-3", "yes", "12:30", "0x10", "~", ".inf", "a: b", "", 1e-5, 1e22])
def test_a_configuration_has_the_values_that_were_written(tmp_path, value):
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create({"key": [value]})))
    assert RunFolder(tmp_path).config == {"key": [value]}


def test_weights_are_plain_tensors_in_the_usual_layout(tmp_path):
    network = UNet(init_features=2).to(memory_format=torch.channels_last)
    write_weights(tmp_path / "weights.pth", network)
    weights = torch.load(tmp_path / "weights.pth", weights_only=True)
    assert all(tensor.is_contiguous() for tensor in weights.values())
    fresh = UNet(init_features=2)
    fresh.load_state_dict(weights)
    assert all(
        torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), network.state_dict().values(), strict=True)
    )


def test_provenance_names_the_versions_that_ran():
    facts = provenance()
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["git_commit"] is None or re.fullmatch("[0-9a-f]{40}", facts["git_commit"])


def test_loading_an_unfinished_run_says_so(tmp_path):
    with pytest.raises(InputError, match="is not a finished run"):
        load_run(tmp_path)


def test_loading_executes_nothing_a_stored_file_names(tmp_path):
    SUMMARY.write(tmp_path / "summary.json")
    (tmp_path / "config.yaml").write_text("model: {_target_: os.system, command: 'touch owned'}")
    with pytest.raises(InputError, match=r"was trained with os\.system"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("summary.json", "{", r"summary\.json: is damaged .* delete this file and run the same command again"),
        ("config.yaml", "a: [b", r"config\.yaml: cannot be read .*; move the run away"),
        ("config.yaml", "a: 1", r"holds a run with another configuration \(a was 1, is absent"),
    ],
)
def test_a_damaged_run_folder_is_told_by_name_and_left_as_it_is(tmp_path, name, text, message):
    config = OmegaConf.create({"b": 2})
    start_run(tmp_path, config, split_of("a"), patch=b"")
    SUMMARY.write(tmp_path / "summary.json")
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        finished(tmp_path, config)
    assert (tmp_path / name).read_text() == text
