"""Sweeps on a real Slurm of one node: ``python -m pytest -m slurm`` as root, with slurm-wlm and munge installed."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from test_sweep import epochs, outcomes, same, start, wait_for, weights

HERE = Path(__file__).parent / "slurm"
LAUNCHER = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2")
pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if shutil.which("slurmctld") is None:
        pytest.skip("Slurm is not installed: apt-get install --no-install-recommends slurm-wlm munge")
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([HERE / "cluster.sh", "up", folder], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("PATH", f"{HERE}:{os.environ['PATH']}")
        yield
    subprocess.run([HERE / "cluster.sh", "down", folder], check=True)


def told(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def jobs():
    """The state of every job, by its number in the array; one alone is in none."""
    lines = told("squeue", "--noheader", "--array", "--states=all", "--format=%K %A %T %r").splitlines()
    return {
        0 if number == "N/A" else int(number): (job, state, reason)
        for number, job, state, reason in map(str.split, lines)
    }


def start_queued_again(process, seconds=600):
    """Spare the tests Slurm's pause of minutes before it starts again what it has stopped."""
    end = time.monotonic() + seconds
    while process.poll() is None:
        assert time.monotonic() < end, "took too long"
        for job, state, reason in jobs().values():
            if state == "PENDING" and reason == "BeginTime":
                subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False)
        time.sleep(1)
    return process.communicate()[0]


def undisturbed(folder, *overrides):
    """The same runs alone, one after the other, on this machine."""
    process = start(folder, *(override for override in overrides if not override.startswith("hydra")))
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return folder / "logs" / "s"


def run_of(study, seed):
    return next(study.glob(f"unet_seed-{seed}_*"), study)


def process_of(seed):
    """The process of a run; its parent is the job that waits for it."""
    return int(told("pgrep", "--full", f"hydra.run.dir=.*unet_seed-{seed}_"))


def test_runs_that_are_stopped_on_slurm_go_on_and_end_bit_identical(cluster, smears, tmp_path):
    overrides = ("-m", "seed=0,1,2,3", f"data.root={smears}", "study=s", "trainer.max_epochs=60", "threads=1")
    study = tmp_path / "logs" / "s"
    sweep = start(tmp_path, *overrides, *LAUNCHER)

    # run 1 has to give way: Slurm stops it and queues it again
    wait_for(lambda: len(epochs(run_of(study, 1))) > 3, sweep)
    told("scontrol", "requeue", jobs()[1][0])
    wait_for(lambda: jobs()[1][1] == "PENDING", sweep)
    reached = len(epochs(run_of(study, 1)))
    assert 3 < reached < 60

    # run 2 is killed, but not the job that waits for it; of run 3 the whole job
    wait_for(lambda: len(epochs(run_of(study, 2))) > 3, sweep)
    os.kill(process_of(2), signal.SIGKILL)
    wait_for(lambda: len(epochs(run_of(study, 3))) > 3, sweep)
    os.kill(int(told("ps", "-o", "ppid=", str(process_of(3)))), signal.SIGKILL)

    said = start_queued_again(sweep)
    assert sweep.returncode == 1, said
    assert outcomes(study) == {
        "unet_seed-0": "done",
        "unet_seed-1": "done",
        "unet_seed-2": "failed",
        "unet_seed-3": "failed",
    }, said
    assert "killed by SIGKILL" in said
    assert "ended without a result, state FAILED" in " ".join(said.split())
    assert "continuing UNet" in (run_of(study, 1) / "train.log").read_text()
    assert not (run_of(study, 3) / "summary.json").exists()

    again = start(tmp_path, *overrides, *LAUNCHER)
    said = start_queued_again(again)
    assert again.returncode == 0, said
    assert outcomes(study) == {
        "unet_seed-0": "finished before",
        "unet_seed-1": "finished before",
        "unet_seed-2": "done",
        "unet_seed-3": "done",
    }
    (tmp_path / "alone").mkdir()
    alone = undisturbed(tmp_path / "alone", *overrides)
    for seed in range(4):
        run, other = run_of(study, seed), run_of(alone, seed)
        assert same(weights(run), weights(other)), seed
        for name in ("metrics.csv", "per_image.csv", "split.json"):
            assert (run / name).read_text() == (other / name).read_text(), (seed, name)


def test_a_run_that_reaches_its_time_limit_is_queued_again_and_goes_on(cluster, smears, tmp_path):
    overrides = ("-m", "seed=0", f"data.root={smears}", "study=s", "trainer.max_epochs=700", "threads=1")
    limit = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20")
    sweep = start(tmp_path, *overrides, *LAUNCHER, *limit)
    said = start_queued_again(sweep)
    assert sweep.returncode == 0, said
    study = tmp_path / "logs" / "s"
    assert outcomes(study) == {"unet_seed-0": "done"}
    [run] = study.glob("unet*")
    assert epochs(run) == list(range(700))
    assert (run / "train.log").read_text().count("continuing UNet") >= 1
    (tmp_path / "alone").mkdir()
    assert same(weights(run), weights(run_of(undisturbed(tmp_path / "alone", *overrides), 0)))
