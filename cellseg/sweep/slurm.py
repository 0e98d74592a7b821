"""What Hydra's submitit launcher lacks for sweeps that survive anything: patience with jobs that die without a word."""

import logging
import subprocess
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from submitit import SlurmJob
from submitit.core.utils import UncompletedJobError

from cellseg.sweep.process import write_outcome

log = logging.getLogger(__name__)


def outlive_dead_jobs() -> None:
    """Let the launcher wait for all jobs: at the first that died, on its node or by ``kill -9``, it would leave.

    The launcher asks one job after the other for its results, so this answers for the dead ones. Hydra takes
    launchers from its plugin packages only, so ours cannot be a launcher of its own.
    """
    results = SlurmJob.results

    def results_or_account(job: SlurmJob[Any]) -> list[Any]:
        try:
            return results(job)
        except UncompletedJobError:
            delayed = job.submission()  # the launcher, and what it was called with
            launcher: Any = delayed.function
            overrides = delayed.args[0]
            config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, overrides)
            HydraConfig.instance().set_config(config)  # the run's name is asked of it
            folder = Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir
            why = f"Slurm job {job.job_id} ended without a word, state {job.state}; see {job.paths.stderr}"
            log.error("%s: failed %s", folder.name, why)
            write_outcome(folder, "failed", why)
            return [JobReturn(_return_value=None, status=JobStatus.COMPLETED)]

    SlurmJob.results = results_or_account  # type: ignore[method-assign, assignment]


def warn_without_accounting() -> None:
    """Say what a cluster that keeps no accounts cannot tell: that a job has died."""
    try:
        known = subprocess.run(["sacct", "--noheader"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        known = False
    if not known:
        log.warning(
            "sacct does not work here, so a job that is killed outright would be waited for without end; "
            "should that happen, stop with Ctrl-C (jobs go on) and give the same command again"
        )
