"""Runs and sweeps that are killed and started again lose nothing, repeat nothing, and give the same numbers."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cellseg import train
from cellseg.run.locking import occupied
from cellseg.run.naming import run_name
from cellseg.run.plan import read_plans
from cellseg.run.signals import Interrupted, StopRequest
from cellseg.storage.errors import InputError
from cellseg.sweep.account import SweepWatch, write_plan
from cellseg.sweep.process import ACCOUNT, SWEEP, write_outcome
from conftest import CONF, quick_first, smoke
from test_report import images, write_run

TRAIN = Path(train.__file__).parents[1] / "train.py"
SMOKE = ("experiment=smoke", "+trainer.enable_progress_bar=false")  # as ``smoke`` has it, so that it goes on with a run
QUICK = "trainer.precision=32-true"  # a sweep needs torch only to settle what is left to the machine
PATIENCE = 600  # seconds for what takes a few on a machine with nothing else to do
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no kill -9")


def start(folder, *overrides, **options):
    return subprocess.Popen(
        [sys.executable, str(TRAIN), *overrides, *SMOKE],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
        **options,
    )


def wait_for(condition, process, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "took too long"
        time.sleep(0.005)


def epochs(folder):
    try:
        with (folder / "metrics.csv").open(newline="") as file:
            return [int(row["epoch"]) for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []


def weights(folder):
    return torch.load(folder / "weights.pth", weights_only=True)


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def undisturbed(smears, tmp_path_factory):
    """A run of ``LENGTH`` epochs that nothing happens to; tests must not change it."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    train.run(smoke(f"data.root={smears}", f"trainer.max_epochs={LENGTH}"), folder)
    return folder


LENGTH = 30
RARE = ("callbacks.last.seconds=0.4", "data.split.val_fraction=0.25", "optimizer.lr=0.01", "model.init_features=8")


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "more"), [((2,), ()), ((7, 17), RARE)])
def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_happened(smears, tmp_path, caplog, request, killed, more):
    overrides = (f"data.root={smears}", "study=s", f"trainer.max_epochs={LENGTH}", *more)
    folder = tmp_path / "logs" / "s"
    for wanted in killed:
        process = start(tmp_path, *overrides)
        wait_for(lambda: len(epochs(next(folder.glob("unet*"), folder))) >= wanted, process)  # noqa: B023
        process.send_signal(signal.SIGKILL)
        process.communicate()
        [run] = folder.glob("unet*")
        assert not (run / "summary.json").exists()
    # TensorBoard sorts files by the second in their names, and a command that is given again takes longer to start
    newest = max(int(path.name.split(".")[3]) for path in run.glob("events.out.tfevents.*"))
    while int(time.time()) <= newest:
        time.sleep(0.05)
    caplog.set_level("INFO")
    train.run(smoke(*overrides), run)
    assert "continuing UNet" in caplog.text
    if more:
        train.run(smoke(*overrides), undisturbed := tmp_path / "undisturbed")
    else:
        undisturbed = request.getfixturevalue("undisturbed")
    assert same(weights(run), weights(undisturbed))
    for name in ("metrics.csv", "per_image.csv", "split.json"):
        assert (run / name).read_text() == (undisturbed / name).read_text(), name
    metrics = [json.loads((path / "summary.json").read_text())["metrics"] for path in (run, undisturbed)]
    assert metrics[0] == metrics[1]
    events, others = (EventAccumulator(str(path), size_guidance={"images": 0}).Reload() for path in (run, undisturbed))
    assert events.Tags() == others.Tags()
    for read, kind in (("Scalars", "scalars"), ("Images", "images")):
        for tag in events.Tags()[kind]:
            steps, expected = ([event.step for event in getattr(some, read)(tag)] for some in (events, others))
            assert steps == expected, tag
    assert "_hparams_/session_start_info" in events.summary_metadata


def interrupted_at(point, cfg, folder, monkeypatch):
    """Run until ``point`` is called, then stop as an exception would."""

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(point, stop)
        with pytest.raises(KeyboardInterrupt):
            train.run(cfg, folder)


@pytest.mark.parametrize(
    "point", quick_first(1, [f"cellseg.run.execution.{name}" for name in ("summarise", "write_weights", "start_run")])
)
@pytest.mark.parametrize("callbacks", ["ema", pytest.param("default", marks=pytest.mark.slow)])
def test_a_run_interrupted_before_or_after_its_training_ends_as_if_nothing_had_happened(
    smears, tmp_path, monkeypatch, point, callbacks
):
    def config():
        return smoke(f"data.root={smears}", f"callbacks={callbacks}")

    interrupted_at(point, config(), tmp_path / "run", monkeypatch)
    train.run(config(), tmp_path / "run")
    train.run(config(), tmp_path / "undisturbed")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "undisturbed"))
    first, second = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("run", "undisturbed"))
    assert first["metrics"] == second["metrics"]
    assert first["counts"] == second["counts"]
    assert first["seconds"]["train"] > 0.05  # also where all of it was before the interruption


STOPPER = "lightning.pytorch.callbacks.EarlyStopping"


ENDS = {
    "steps": ("+trainer.max_steps=6", "scheduler=one_cycle"),
    "early stopping": (
        f"+callbacks.early._target_={STOPPER}",
        "+callbacks.early.monitor=train/loss",
        "+callbacks.early.patience=1",
        "+callbacks.early.min_delta=10",
        "trainer.max_epochs=6",
    ),
}


@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
def test_a_run_that_is_interrupted_in_its_test_is_not_trained_beyond_its_end(smears, tmp_path, monkeypatch, ends):
    def config():
        return smoke(f"data.root={smears}", *ends)

    interrupted_at("cellseg.run.execution.summarise", config(), tmp_path / "run", monkeypatch)
    train.run(config(), tmp_path / "run")
    train.run(config(), tmp_path / "undisturbed")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "undisturbed"))
    first, second = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("run", "undisturbed"))
    assert first["metrics"] == second["metrics"]
    assert first["counts"] == second["counts"]
    assert not (tmp_path / "run" / "checkpoints").exists()


class AskedInEpoch(StopRequest):
    """A request to stop that comes during an epoch, counted from 1."""

    def __init__(self, epoch, run):
        super().__init__()
        self.at, self.run = epoch, run

    @property
    def number(self):
        path = self.run / "metrics.csv"  # has a row for each epoch that has ended
        return signal.SIGTERM if path.exists() and len(path.read_text().splitlines()) > self.at else None

    @number.setter
    def number(self, value):
        pass


@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
def test_a_stop_in_the_epoch_that_ends_training_anyway_changes_nothing(smears, tmp_path, ends):
    def config():
        return smoke(f"data.root={smears}", *ends)

    train.run(config(), tmp_path / "undisturbed")
    last = json.loads((tmp_path / "undisturbed" / "summary.json").read_text())["counts"]["epochs"]
    with pytest.raises(Interrupted):
        train.run(config(), tmp_path / "run", AskedInEpoch(last, tmp_path / "run"))
    train.run(config(), tmp_path / "run")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "undisturbed"))
    first, second = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("run", "undisturbed"))
    assert first["metrics"] == second["metrics"]
    assert first["counts"] == second["counts"]


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-1000])


@pytest.mark.parametrize("harm", [flip_a_bit, pytest.param(cut_short, marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(smears, tmp_path, monkeypatch, caplog, harm):
    def config():
        return smoke(f"data.root={smears}", "trainer.max_epochs=4")

    interrupted_at("cellseg.run.execution.summarise", config(), tmp_path / "run", monkeypatch)
    kept = tmp_path / "run" / "checkpoints"
    assert torch.load(kept / "previous.ckpt", weights_only=True)["epoch"] == 2
    harm(kept / "last.ckpt")
    train.run(config(), tmp_path / "run")
    assert "last.ckpt is damaged" in caplog.text
    assert "training continues from the previous checkpoint, previous.ckpt" in caplog.text
    train.run(config(), tmp_path / "undisturbed")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "undisturbed"))
    assert epochs(tmp_path / "run") == list(range(4))
    assert not kept.exists()  # the run is finished

    caplog.clear()
    interrupted_at("cellseg.run.execution.summarise", config(), tmp_path / "again", monkeypatch)
    for name in ("last", "previous"):
        harm(tmp_path / "again" / "checkpoints" / f"{name}.ckpt")
    train.run(config(), tmp_path / "again")
    assert "there is no previous one; training starts anew" in caplog.text
    assert same(weights(tmp_path / "again"), weights(tmp_path / "undisturbed"))


@pytest.mark.slow
@pytest.mark.parametrize("ask", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_keeps_its_epoch_says_so_and_goes_on_later(
    smears, tmp_path, caplog, undisturbed, ask
):
    overrides = (f"data.root={smears}", "study=s", f"trainer.max_epochs={LENGTH}", f"+trainer.min_epochs={LENGTH}")
    overrides += ("callbacks.last.seconds=1000",)
    process = start(tmp_path, *overrides)
    folder = tmp_path / "logs" / "s"
    wait_for(lambda: len(epochs(next(folder.glob("unet*"), folder))) >= 3, process)
    process.send_signal(ask)
    said, _ = process.communicate(timeout=PATIENCE)
    [run] = folder.glob("unet*")
    assert process.returncode == 128 + ask, said
    assert "Traceback" not in said
    assert said.rstrip().endswith("run the same command with study=s to continue")
    assert not (run / "summary.json").exists()
    stopped = len(epochs(run))
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == stopped - 1 < LENGTH - 1
    caplog.set_level("INFO")
    train.run(smoke(*overrides), run)
    assert "continuing UNet" in caplog.text
    assert same(weights(run), weights(undisturbed))
    assert (run / "metrics.csv").read_text() == (undisturbed / "metrics.csv").read_text()


# of 3 workers one has nothing to do, and hears Ctrl-C too
@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 3])
def test_a_sweep_that_is_asked_to_stop_lets_its_runs_keep_their_epoch(smears, tmp_path, n_jobs):
    overrides = ("seed=0,1", f"data.root={smears}", "study=s", "trainer.max_epochs=20000", f"n_jobs={n_jobs}", QUICK)
    sweep = start(tmp_path, "-m", *overrides, start_new_session=True)
    study = tmp_path / "logs" / "s"
    wait_for(lambda: sum(bool(epochs(path)) for path in study.glob("unet*")) == min(n_jobs, 2), sweep)
    os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does
    said, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 1
    assert "Traceback" not in said
    assert "no new run starts" in said
    assert said.rstrip().endswith(
        "stopped: 2 of 2 runs are not finished. To continue, run the same command again with study=s"
    )
    assert set(outcomes(study).values()) == {"stopped"}
    for run in study.glob("unet*"):
        if epochs(run):
            kept = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
            assert kept["epoch"] == epochs(run)[-1]


@pytest.mark.slow
def test_an_interrupted_run_that_is_moved_still_knows_its_best_epoch(smears, tmp_path, monkeypatch):
    cfg = (f"data.root={smears}", "data.split.val_fraction=0.25", "trainer.max_epochs=6", "optimizer.lr=0.02", "seed=3")
    cfg += ("callbacks.last.seconds=0", "callbacks.last.keep=true")
    train.run(smoke(*cfg), tmp_path / "undisturbed")
    kept = torch.load(tmp_path / "undisturbed" / "checkpoints" / "best.ckpt", weights_only=True)
    request = StopRequest()
    request.number = signal.SIGTERM  # after the first epoch
    with pytest.raises(Interrupted):
        train.run(smoke(*cfg), tmp_path / "here", request)
    (tmp_path / "here").rename(tmp_path / "there")
    train.run(smoke(*cfg), tmp_path / "there")
    best = torch.load(tmp_path / "there" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == kept["epoch"]
    assert same(weights(tmp_path / "there"), weights(tmp_path / "undisturbed"))


def test_an_interrupted_run_does_not_go_on_with_other_images(own_smears, tmp_path, monkeypatch):
    interrupted_at("cellseg.run.execution.summarise", smoke(f"data.root={own_smears}"), tmp_path / "run", monkeypatch)
    shutil.rmtree(own_smears / "cell_1")
    with pytest.raises(InputError, match="images or groups have changed since this run started"):
        train.run(smoke(f"data.root={own_smears}"), tmp_path / "run")


def outcomes(study):
    last = max(path for path in (study / ".sweep").iterdir() if path.is_dir())
    told = {path.stem: json.loads(path.read_text()) for path in last.glob("*.json")}
    return {"_".join(name.split("_")[:2]): entry["outcome"] for name, entry in told.items()}


def run_process(sweep, folder):
    """The process of a run, below that of its own sweep."""
    [run] = [
        process
        for process in psutil.Process(sweep.pid).children(recursive=True)
        if any(word.startswith("hydra.run.dir=") and folder.name in word for word in process.cmdline())
    ]
    return run


@pytest.mark.slow
def test_a_sweep_survives_a_killed_and_a_refused_run_and_the_same_command_does_the_rest(smears, tmp_path):
    fixed = (f"data.root={smears}", f"trainer.max_epochs={LENGTH}", QUICK)
    command = ("-m", "model=glob(po*)", "seed=0,1,2", "study=s", "n_jobs=2", *fixed)
    study = tmp_path / "logs" / "s"
    refused = study / run_name("potinet", 2, (*fixed, *SMOKE))
    (refused / "split.json").mkdir(parents=True)  # in the way of its split
    (study / "report.html").mkdir()  # in the report's way
    sweep = start(tmp_path, *command)
    wait_for(lambda: any(len(epochs(path)) > 2 for path in study.glob("potinet_seed-0*")), sweep)
    [victim] = study.glob("potinet_seed-0*")
    run_process(sweep, victim).kill()
    said, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 1, said
    assert outcomes(study) == {"potinet_seed-0": "failed", "potinet_seed-1": "done", "potinet_seed-2": "failed"}
    [plan] = read_plans(study)
    assert set(plan.runs) == {path.name for path in study.glob("potinet*")}
    assert (plan.margin, plan.looks, plan.grid["seed"]) == (0.005, 1, ["0", "1", "2"])
    assert "killed by SIGKILL" in said
    assert "2 of 3 runs failed; see " in said  # though the report failed too
    assert re.search(r"^3 of 3: potinet_seed-[012] ", said, re.MULTILINE)  # printed as they end, by what was swept
    foreseen = re.search(r"disk: up to ([\d.]+) MB for the weights of 3 runs, ([\d.]+) MB more while they train", said)
    size = sum(tensor.nbytes for tensor in weights(next(study.glob("potinet_seed-1*"))).values()) / 1e6
    assert foreseen, said
    assert float(foreseen[1]) == pytest.approx(3 * size, abs=0.05)
    assert float(foreseen[2]) == pytest.approx(2 * 3 * 4 * size, abs=0.05)
    assert "killed by SIGKILL" in (victim / "failure.txt").read_text()
    assert f"{refused.name}/split.json" in (refused / "failure.txt").read_text()

    (study / "report.html").rmdir()
    again = start(tmp_path, *command)
    said, _ = again.communicate(timeout=PATIENCE)
    assert again.returncode == 1
    assert outcomes(study) == {
        "potinet_seed-0": "done",
        "potinet_seed-1": "finished before",
        "potinet_seed-2": "failed",
    }
    assert "1 of 3 runs failed" in said
    assert (study / "report.html").is_file()
    assert len(read_plans(study)) == 1  # the same command has the same plan
    assert "continuing PotiNet" in (victim / "train.log").read_text()
    assert not (victim / "failure.txt").exists()
    assert epochs(victim) == list(range(LENGTH))


@pytest.mark.parametrize(
    "words",
    [
        ["model=unet,potinet", "seed=0,1,2"],
        ["seed=0,1,2", "optimizer.lr=0.1,0.01"],
        # without an option for the network
        pytest.param(["~model", "+model._target_=torch.nn.Conv2d,cellseg.UNet", "seed=0,1,2"], marks=pytest.mark.slow),
        pytest.param(["~loss", "+loss._target_=a.B,a.C", "seed=0,1,2"], marks=pytest.mark.slow),
    ],
)
def test_every_sweep_has_a_plan_with_the_folders_of_its_runs(tmp_path, words):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", return_hydra_config=True)
        labels = write_plan(tmp_path, cfg, OverridesParser.create().parse_overrides(words))
    [plan] = read_plans(tmp_path)
    assert plan.runs == list(labels)
    assert len(plan.runs) == len(set(plan.runs)) == 6
    assert [*plan.grid] == [word.partition("=")[0] for word in words if "," in word]


def test_the_report_is_refreshed_as_runs_finish(tmp_path, monkeypatch):
    monkeypatch.setattr("cellseg.sweep.account.GLANCES", 0.05)
    study = tmp_path / "s"
    monkeypatch.setenv(SWEEP, "a sweep")
    watch = SweepWatch(study / ACCOUNT / "a sweep", runs=3, labels={})
    watch.start()
    try:
        for seed in range(2):
            run = write_run(study, "UNet", seed, None, images(np.random.default_rng(0), 0, 0.9))
            write_outcome(run, "done", "5 s")
        end = time.monotonic() + PATIENCE
        while not (study / "report.html").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        watch.stop()
    assert sorted(watch.outcomes()) == sorted(path.name for path in study.glob("unet*"))


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_runs_end_when_their_sweep_is_killed(smears, tmp_path, n_jobs):
    overrides = ("seed=0,1", f"data.root={smears}", "study=s", "trainer.max_epochs=20000", f"n_jobs={n_jobs}", QUICK)
    sweep = start(tmp_path, "-m", *overrides)
    study = tmp_path / "logs" / "s"
    wait_for(lambda: sum(bool(epochs(path)) for path in study.glob("unet*")) == min(n_jobs, 3), sweep)
    sweep.send_signal(signal.SIGKILL)
    sweep.communicate()
    for run in study.glob("unet*"):
        wait_until_free(run)


@pytest.mark.slow
def test_a_run_of_another_process_is_left_alone_by_a_sweep(smears, tmp_path):
    study = tmp_path / "logs" / "s"
    sweep = ("-m", "seed=0", f"data.root={smears}", "study=s", QUICK)
    start(tmp_path, *sweep).communicate(timeout=PATIENCE)
    [run] = study.glob("unet*")
    (run / "summary.json").unlink()
    with occupied(run):
        said, _ = start(tmp_path, *sweep).communicate(timeout=PATIENCE)
    assert outcomes(study) == {"unet_seed-0": "stopped"}
    assert "another process uses its folder" in said
    assert not (run / "failure.txt").exists()


def wait_until_free(run, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while True:
        try:
            with occupied(run):  # nobody is at work in it any more
                return
        except InputError:
            assert time.monotonic() < end
            time.sleep(0.2)


SLOWER = [
    pytest.param((word, *more), said, marks=pytest.mark.slow)
    for word, *more, said in (
        ("optimizer.lr=1e-3,abc", "optimizer.lr must be a number above 0, but is abc"),
        ("optimizer.lr=1e-3,-1", "Invalid learning rate: -1; set optimizer.lr above 0"),
        ("trainer.max_epochs=1,0", "trainer.max_epochs must be at least 1, but is 0"),
        ("seed=0,1", "looks=0", "looks must be a whole number from 1 to 100"),
        ("seed=0,1", "margin=-1", "margin must be a difference in Dice of at least 0"),
    )
]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("seed=0,0",), "seed=0 is given twice and would make the same run twice"),
        (("data.image_size=64,foo",), "data.image_size must be a whole number from 1 to 65536, but is 'foo'"),
        (("seed=0,1", "scheduler.max_lr=fast"), "scheduler.max_lr must be a number, but is fast"),
        (("data.split.folds=5", "data.split.fold=4,5"), "data.split.fold must"),
        (("study=a,b",), "study must have one value in a sweep, but has 2; start one sweep for each value"),
        (("seed=0,1", "study=a/b"), "study must be a name of letters"),
        (("model=unet,potinet", "seed=0,1", "looks=2"), "with looks above 1, put seed= before the other swept keys"),
        *SLOWER,
    ],
)
def test_sweeps_that_make_no_sense_end_before_they_begin(smears, tmp_path, overrides, said):
    sweep = start(tmp_path, "-m", *overrides, f"data.root={smears}")
    output, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 1
    assert said in output
    assert not list(tmp_path.glob("logs/*"))


@pytest.mark.slow
def test_an_unfinished_run_of_another_configuration_is_left_as_it_is(smears, tmp_path):
    overrides = ("seed=0", f"data.root={smears}", "study=s", "trainer.max_epochs=1")
    run = tmp_path / "logs" / "s" / run_name("unet", 0, (*overrides, *SMOKE))  # as the sweep will call it
    train.run(smoke(*overrides), run)
    (run / "summary.json").unlink()
    (run / "failure.txt").write_text("mine")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("batch_size: 2", "batch_size: 3"))
    sweep = start(tmp_path, "-m", *overrides)
    said, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 1
    assert [path.name for path in run.parent.glob("unet*")] == [run.name]
    assert "data.batch_size was 3, is 2" in " ".join(said.split())
    assert (run / "failure.txt").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [-86400, 86400])
def test_a_clock_that_jumps_while_a_run_is_interrupted_changes_nothing(smears, tmp_path, monkeypatch, seconds):
    def config():
        return smoke(f"data.root={smears}", "trainer.max_epochs=3")

    request = StopRequest()
    request.number = signal.SIGTERM  # after the first epoch
    with pytest.raises(Interrupted):
        train.run(config(), tmp_path / "run", request)
    with monkeypatch.context() as patch:
        now = time.time
        patch.setattr(time, "time", lambda: now() + seconds)
        train.run(config(), tmp_path / "run")
    train.run(config(), tmp_path / "undisturbed")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "undisturbed"))
    for name in ("metrics.csv", "per_image.csv"):
        assert (tmp_path / "run" / name).read_text() == (tmp_path / "undisturbed" / name).read_text()
