"""Start each run of a sweep in its own process, on this machine or on a cluster.

Hydra's launcher decides when a job runs: after the others, several at once, or on a cluster. A job only starts its run
with the command ``python train.py`` and waits for it. So runs share no memory, threads or random numbers, and if one
run ends by an exception, ``sys.exit`` or ``kill -9``, the others continue.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from cellseg.run.home import START
from cellseg.run.locking import is_occupied
from cellseg.run.naming import FAILURE
from cellseg.run.overrides import quoted
from cellseg.run.signals import say
from cellseg.storage.errors import InputError
from cellseg.storage.files import write_json, write_text

ACCOUNT = ".sweep"  # folder in the study with the outcomes of runs; it has one subfolder for each sweep
SWEEP = "CELLSEG_SWEEP"  # environment variable: the name of that subfolder, for all processes of a sweep
STOP = "stop"  # file in that subfolder: the user has stopped the sweep
SWEPT = "CELLSEG_SWEPT"  # environment variable of a run whose standard input closes when its sweep ends
FLAGS = {"-cd": "--config-dir", "-cn": "--config-name", "-cp": "--config-path"}  # Hydra's flags that runs need too
PASSED_ON = "CELLSEG_FLAGS"  # environment variable: these flags of the sweep, for its runs
GLANCE = 1.0  # seconds between two checks that the sweep still runs
LAST_LINES = 60  # lines of a failed run's output that failure.txt keeps


def pass_on(flags: Mapping[str, str]) -> None:
    """Store in the environment Hydra's flags for the location of the configuration, so that every run gets them."""
    os.environ[PASSED_ON] = json.dumps(flags)


def run_isolated(
    overrides: Sequence[str], folder: Path, was_finished: Callable[[], str | None], n_jobs: int = 1
) -> None:
    """Start one run in its own process, wait for it, and record its outcome.

    Args:
        overrides: The overrides of this run, as the user typed them.
        folder: The run folder.
        was_finished: Returns None if the run is not finished, else a remark; raises InputError if the folder holds
            another run.
        n_jobs: Number of runs that share this machine; each gets its share of the CPU threads and GPUs.
    """
    try:
        if (remark := was_finished()) is not None:
            outcome, why = "finished before", remark
        elif stop_file(folder.parent).exists():
            outcome, why = "stopped", "before it started"
        else:
            outcome, why = _run(overrides, folder, n_jobs)
    except (InputError, OSError) as error:
        outcome, why = "failed", str(error)
        if not (folder / "config.yaml").exists():  # otherwise the folder belongs to another run
            _write_failure(folder, f"{why}\n")
    write_outcome(folder, outcome, why)


def stop_file(study: Path) -> Path:
    """Return the path of the file whose presence stops the sweep of this process."""
    return study / ACCOUNT / os.environ.get(SWEEP, "none") / STOP


def name_sweep() -> str:
    """Make a name for a sweep of this process; names of later sweeps sort last."""
    return f"{time.time_ns()}-{os.getpid()}"


def write_outcome(folder: Path, outcome: str, why: str) -> None:
    """Record the outcome of a run for the table at the end of the sweep."""
    account = folder.parent / ACCOUNT / os.environ.get(SWEEP, name_sweep())
    try:
        write_json(account / f"{folder.name}.json", {"outcome": outcome, "why": why})
    except OSError as error:  # the sweep then counts the run as one without a result
        say(
            f"{folder.name}: {outcome} {why}; it is not in the table, as {account} cannot be written ({error.strerror})"
        )


def _run(overrides: Sequence[str], folder: Path, n_jobs: int) -> tuple[str, str]:
    """Return the outcome of the run, and its reason or duration."""
    flags = [word for flag in json.loads(os.environ.get(PASSED_ON, "{}")).items() for word in flag]
    command = [*START, *flags, *overrides, f"hydra.run.dir={quoted(str(folder))}"]
    began = time.monotonic()
    console = folder / "console.log"
    with console.open("ab") as output, _own_gpu(folder.parent / ACCOUNT, n_jobs) as gpu, _ended_by_slurm() as ended:
        start = output.tell()
        # nothing is written to the pipe; the run notices by its closing that the sweep has ended
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=_environment(n_jobs) | gpu
        ) as process:
            try:
                code = _wait(process, stop_file(folder.parent))
            except subprocess.CalledProcessError as error:
                # before its time limit submitit asks Slurm to requeue this job; Slurm may end that command with the job
                if "SLURM_JOB_ID" not in os.environ or error.returncode != -signal.SIGTERM:
                    raise
                os._exit(128 + signal.SIGTERM)
        if ended.is_set():  # Slurm queues the run again, so it has not failed and has no outcome yet
            os._exit(128 + signal.SIGTERM)
    lines = console.read_bytes()[start:].decode("utf-8", "replace").splitlines()
    if code == 0 and (folder / "summary.json").exists():
        return "done", f"{time.monotonic() - began:.0f} s"
    if is_occupied(folder):
        return "stopped", "another process uses its folder"
    if code != 0 and (folder / "summary.json").exists():  # by another process, just now
        return "finished before", ""
    why = _reason(code, lines)
    interrupted = {-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM}
    if code in interrupted and stop_file(folder.parent).exists():
        saved = any(folder.glob("checkpoints/*.ckpt"))
        return "stopped", "checkpoint saved" if saved else "no checkpoint yet"
    _write_failure(folder, "\n".join([why, "", *lines[-LAST_LINES:], ""]))
    return "failed", why


def _wait(process: "subprocess.Popen[bytes]", stop: Path) -> int:
    """Wait for a run to end, and terminate it when the user stops the sweep.

    If this process is a launcher's worker and its sweep has ended, end this process and thereby the run.
    """
    sweep = os.getppid()
    worker = os.environ.get(SWEEP, "").endswith(f"-{sweep}")  # False in the sweep itself and in a job on a cluster
    asked = False
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(GLANCE)
        if worker and os.getppid() != sweep:
            os._exit(128 + signal.SIGTERM)  # this closes the pipe to the run
        if not asked and stop.exists():
            process.terminate()
            asked = True


def _write_failure(folder: Path, text: str) -> None:
    with contextlib.suppress(OSError):  # on a full disk only the table of the sweep has the reason
        write_text(folder / FAILURE, text)


def end_with_the_sweep() -> None:
    """End this process as soon as the sweep that started it has ended, for whatever reason; checkpoints stay."""
    if SWEPT not in os.environ:
        return
    if hasattr(signal, "SIGUSR2"):  # Slurm sends it to all processes of a job; the process that waits for this one acts
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)

    def wait() -> None:
        while os.read(0, 1024):  # not sys.stdin: Python aborts if a thread still holds it at exit
            pass
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _environment(n_jobs: int) -> dict[str, str]:
    """Return a run's environment: its share of the CPU threads, and no Slurm variables, which Lightning would obey."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SRUN_"))}
    threads = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
    if threads is None and n_jobs > 1:
        threads = str(max(1, (os.cpu_count() or 1) // n_jobs))
    if threads is not None:
        environment.setdefault("OMP_NUM_THREADS", threads)
    return environment | {SWEPT: "1", "HYDRA_FULL_ERROR": "1"}


@contextlib.contextmanager
def _own_gpu(account: Path, n_jobs: int) -> Iterator[dict[str, str]]:
    """Reserve a place on the GPU with the fewest runs when several runs share the GPUs of one machine."""
    gpus = _visible_gpus() if n_jobs > 1 and "SLURM_JOB_ID" not in os.environ else []
    account.mkdir(parents=True, exist_ok=True)
    places = [(gpu, place) for place in range(-(-n_jobs // max(len(gpus), 1))) for gpu in gpus]
    for gpu, place in places:
        lock = FileLock(account / f"gpu-{gpu}-{place}.lock")
        try:
            with lock.acquire(timeout=0):
                yield {"CUDA_VISIBLE_DEVICES": gpu}
                return
        except Timeout:
            continue
    yield {}


def _visible_gpus() -> list[str]:
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [gpu.strip() for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu.strip()]
    import torch  # device_count asks the driver and does not initialise the GPUs

    return [str(index) for index in range(torch.cuda.device_count())]


@contextlib.contextmanager
def _ended_by_slurm() -> Iterator[threading.Event]:
    """In a Slurm job, set an event when Slurm ends the job, whether Slurm queues it again or not."""
    ended = threading.Event()
    if "SLURM_JOB_ID" not in os.environ or threading.current_thread() is not threading.main_thread():
        yield ended
        return
    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        yield ended
    finally:
        signal.signal(signal.SIGTERM, before)


def _reason(code: int, lines: Sequence[str]) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if code == 0:
        return "ended without a summary.json"
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return f"exit code {code}: " + re.sub(r"^([\w.]+Exception|error): ", "", last)
