"""Changes to Hydra's submitit launcher, so that a sweep continues after one of its Slurm jobs has died."""

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
    """Make the launcher wait for all jobs; without this it ends at the first job that died, such as by ``kill -9``.

    The launcher asks each job for its results. This function records a failure for a dead job and returns an empty
    result in its place. It patches submitit because Hydra loads launchers only from its plugin packages.
    """
    results = SlurmJob.results

    def results_or_account(job: SlurmJob[Any]) -> list[Any]:
        try:
            return results(job)
        except UncompletedJobError:
            delayed = job.submission()  # the launcher and its arguments
            launcher: Any = delayed.function
            overrides = delayed.args[0]
            config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, overrides)
            HydraConfig.instance().set_config(config)  # the name of the run folder needs it
            folder = Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir
            why = f"Slurm job {job.job_id} ended without a result, state {job.state}; see {job.paths.stderr}"
            log.error("%s: failed %s", folder.name, why)
            write_outcome(folder, "failed", why)
            return [JobReturn(_return_value=None, status=JobStatus.COMPLETED)]

    SlurmJob.results = results_or_account  # type: ignore[method-assign, assignment]


def warn_without_accounting() -> None:
    """Warn if ``sacct`` does not work: the sweep then cannot notice that a job has died."""
    try:
        known = subprocess.run(["sacct", "--noheader"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        known = False
    if not known:
        log.warning(
            "sacct does not work here, so this command waits forever for a job that is killed; "
            "if that happens, press Ctrl-C (the jobs continue) and run the same command again"
        )
