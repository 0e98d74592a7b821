"""Faster training changes no result: the same steps, the same averages, the same checkpoints."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cellseg import UNet, load_run, train
from cellseg.run import home
from cellseg.run.callbacks import Pace, RunProgress, WarmEMA
from cellseg.run.checkpoints import LastCheckpoint
from cellseg.run.hardware import keep_freed_memory
from conftest import quick_first, smoke


@pytest.mark.parametrize("command", [["train.py", "--cfg", "job"], ["train.py", "--help"]])
def test_commands_that_train_nothing_import_nothing_heavy(command):
    script = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print({'torch', 'lightning', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules))"
    )
    folder = str(Path(train.__file__).parents[1])
    arguments = [sys.executable, "-c", script, *command]
    said = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "set()"


def test_a_fused_step_in_channels_last_is_adams():
    networks = []
    for fused, layout in ((False, torch.contiguous_format), (True, torch.channels_last)):
        torch.manual_seed(0)
        network = UNet(init_features=4, depth=2).to(memory_format=layout)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, fused=fused)
        for _ in range(3):
            network(torch.rand(2, 3, 16, 16)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        networks.append(network)
    for first, second in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-3)


def test_the_moving_average_is_that_of_its_formula():
    decay, network = 0.5, nn.BatchNorm1d(2)
    average = AveragedModel(network, use_buffers=True, **WarmEMA(decay)._kwargs)
    expected = network.weight.detach().clone()
    for count in range(12):
        with torch.no_grad():
            network.weight.copy_(torch.tensor([count, -(count**2)]))
        network.num_batches_tracked += 1
        average.update_parameters(network)
        kept = 0 if count == 0 else min((1 + count) / (10 + count), decay)
        expected = kept * expected + (1 - kept) * network.weight.detach()
    torch.testing.assert_close(average.module.weight.detach(), expected)
    assert average.module.num_batches_tracked == 12


def test_every_layout_averaged_is_that_of_the_weights(smears, tmp_path, monkeypatch):
    seen = []

    def spy(averaged, current, weight):
        seen.extend(old.stride() == new.stride() for old, new in zip(averaged, current, strict=True))

    monkeypatch.setattr(torch, "_foreach_lerp_", spy)
    train.run(smoke(f"data.root={smears}", "trainer.max_epochs=1"), tmp_path / "run")
    assert seen
    assert all(seen)


@pytest.mark.parametrize("algorithm", quick_first(1, ["norm", "value"]))
def test_gradients_are_clipped_in_every_precision(smears, tmp_path, algorithm):
    """Cut to next to nothing, they teach another network."""
    moved = []
    for limit in ("1e-6", "1e3"):
        overrides = (f"+trainer.gradient_clip_val={limit}", f"+trainer.gradient_clip_algorithm={algorithm}")
        folder = tmp_path / limit
        train.run(smoke(f"data.root={smears}", "trainer.max_epochs=1", "callbacks=default", *overrides), folder)
        moved.append(load_run(folder).curves["train/loss"].iloc[-1])
    assert moved[0] != moved[1]


class Clock(LastCheckpoint):
    """Notes the epochs after which it would write."""

    def __init__(self, seconds):
        super().__init__(seconds)
        self.epochs = []

    def _save_topk_checkpoint(self, trainer, monitor_candidates):
        self.epochs.append(trainer.current_epoch)


@pytest.mark.parametrize(
    ("seconds", "stopped", "epochs"), [(0, None, [0, 1, 2, 3, 4]), (60, None, [2, 4]), (1000, 2, [2, 4])]
)
def test_a_checkpoint_is_written_when_the_last_is_old_and_after_the_last_epoch(seconds, stopped, epochs, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock(seconds)
    clock._should_skip_saving_checkpoint = lambda trainer: False
    clock._monitor_candidates = lambda trainer: {}
    for epoch in range(5):
        now[0] += 25
        trainer = SimpleNamespace(
            current_epoch=epoch,
            max_epochs=5,
            should_stop=epoch == stopped,
            global_step=epoch + 1,
            strategy=SimpleNamespace(reduce_boolean_decision=lambda due, all: due),
        )
        clock.on_train_epoch_end(trainer, None)
    assert clock.epochs == epochs


@pytest.mark.parametrize(
    ("device", "first", "later", "warns"),
    [("cpu", 0.2, 0.5, True), ("cpu", 0.2, 0.3, False), ("cpu", 0.002, 0.02, False), ("cuda", 0.2, 0.5, False)],
)
def test_steps_that_become_far_slower_are_told_once(device, first, later, warns, monkeypatch, caplog):
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))
    clock, pace = [0.0], Pace()
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    for step in range(60):
        pace.on_train_batch_start(trainer, None, None, step)
        clock[0] += 9 if step in (0, 15, 16) else first if step < 20 else later  # a few slow ones mean nothing
        pace.on_train_batch_end(trainer, None, None, None, step)
        assert not caplog.records or step > 20
        clock[0] += 5  # validation and other work between steps
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == warns
    assert all("take 0.5 s, 2.5 times as long as at first (0.2 s)" in line for line in told)


@pytest.mark.parametrize(
    ("given", "set_to"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)]
)
def test_threads_wait_briefly_unless_the_user_chose(given, set_to, monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    home.wait_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == set_to


def test_memory_that_is_freed_can_be_kept_on_every_system(monkeypatch):
    keep_freed_memory()
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))  # macOS, Windows, Alpine
    monkeypatch.setattr("ctypes.CDLL", partial(pytest.fail, "there is no glibc"))
    keep_freed_memory()


def test_the_progress_bar_counts_epochs_from_1_and_knows_the_time_left(monkeypatch):
    bar, clock = RunProgress(), [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    steps = SimpleNamespace(completed=0)
    trainer = SimpleNamespace(
        max_epochs=10,
        current_epoch=4,
        num_training_batches=20,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=steps))),
        progress_bar_metrics={"train/loss": 0.5},
        loggers=[],
        is_global_zero=True,
    )
    bar._trainer, bar.began, bar.first = trainer, 0.0, 4
    assert "left" not in bar.get_metrics(trainer, None)  # nothing is known yet
    trainer.current_epoch, clock[0] = 6, 100.0  # two epochs in 100 s
    assert bar._get_train_description(6).strip() == "epoch 7 of 10"
    assert bar.get_metrics(trainer, None) == {"train/loss": 0.5, "left": "3 min"}
    trainer.current_epoch = 9
    steps.completed = 10  # half of the last epoch, 5.5 epochs in 110 s
    clock[0] = 110.0
    assert bar.get_metrics(trainer, None)["left"] == "10 s"
    steps.completed = 20
    assert bar.get_metrics(trainer, None)["left"] == "0 s"
