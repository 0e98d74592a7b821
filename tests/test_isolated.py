"""Runs that share a machine: their GPUs, threads and outcomes."""

import contextlib
import os

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from cellseg.run.overrides import quoted
from cellseg.sweep.process import SWEPT, _environment, _own_gpu, _reason


@pytest.mark.parametrize(
    ("gpus", "n_jobs", "places"),
    [
        ("0,1", 4, ["0", "1", "0", "1"]),
        ("3,5", 2, ["3", "5"]),
        ("0", 3, ["0", "0", "0"]),
        ("0,1,2", 2, ["0", "1"]),
        ("", 2, [None, None]),
    ],
)
def test_runs_spread_over_the_gpus_and_fill_them_evenly(tmp_path, monkeypatch, gpus, n_jobs, places):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with contextlib.ExitStack() as held:
        given = [held.enter_context(_own_gpu(tmp_path, n_jobs)).get("CUDA_VISIBLE_DEVICES") for _ in range(n_jobs)]
    assert given == places
    with _own_gpu(tmp_path, n_jobs) as first:  # all were given back
        assert first.get("CUDA_VISIBLE_DEVICES") == places[0]


def test_one_run_at_a_time_keeps_every_gpu_it_was_given(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with _own_gpu(tmp_path, 1) as own:
        assert own == {}


def test_runs_share_the_cpu_threads(monkeypatch):
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert "OMP_NUM_THREADS" not in _environment(1)
    assert _environment(3)["OMP_NUM_THREADS"] == "2"
    assert _environment(20)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "5")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    environment = _environment(1)
    assert environment["OMP_NUM_THREADS"] == "5"
    assert not [name for name in environment if name.startswith("SLURM_")]  # Lightning would take them for its own
    assert environment[SWEPT]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # the user's own word
    assert _environment(1)["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize(
    ("code", "said", "reason"),
    [
        (-9, ["x"], "killed by SIGKILL"),
        (0, ["x"], "ended without a summary.json"),
        (1, ["a", "error: seed must be", " "], "exit code 1: seed must be"),
        (1, ["hydra.errors.ConfigCompositionException: no model"], "exit code 1: no model"),
        (3, [], "exit code 3: no output"),
    ],
)
def test_the_reason_of_a_failure_is_its_last_word(code, said, reason):
    assert _reason(code, said) == reason


@pytest.mark.parametrize(
    "name", ["a b", 'with "quotes"', "it's", "back\\slash", 'back\\"quote', "ends\\", "a,b={c}", "ünï"]
)
def test_hydra_reads_any_folder_as_it_is_called(name):
    override = OverridesParser.create().parse_override(f"hydra.run.dir={quoted(f'logs/{name}')}")
    assert str(override.value()) == f"logs/{name}"
