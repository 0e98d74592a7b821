"""One run of a sweep as a process of its own, whoever launches it.

Hydra's launcher decides when a job runs: after the others, several at once, or on a cluster. A job does nothing but
start its run as ``python train.py`` would be typed, and wait. So no run sees another's memory, threads or random
numbers, and whatever ends one, an exception, ``sys.exit``, ``kill -9``, leaves the others running.
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
from cellseg.run.overrides import quoted
from cellseg.run.signals import say
from cellseg.storage.errors import InputError
from cellseg.storage.files import write_json, write_text

ACCOUNT = ".sweep"  # in the study's folder: what became of every run, a folder for each sweep
SWEEP = "CELLSEG_SWEEP"  # the name of that folder, for all that a sweep starts
FAILURE = "failure.txt"
STOP = "stop"  # in that folder: a person has stopped the sweep
SWEPT = "CELLSEG_SWEPT"  # set for a run whose standard input ends when its sweep does
FLAGS = {"-cd": "--config-dir", "-cn": "--config-name", "-cp": "--config-path"}  # of Hydra, that runs must have too
PASSED_ON = "CELLSEG_FLAGS"  # those of a sweep, for all that it starts
GLANCE = 1.0  # seconds between looks at whether the sweep is still there
LAST_LINES = 60  # of what a failed run said, kept in its failure.txt


def pass_on(flags: Mapping[str, str]) -> None:
    """Let the runs of a sweep have Hydra's flags that say where the configuration is, whoever starts them."""
    os.environ[PASSED_ON] = json.dumps(flags)


def run_isolated(overrides: Sequence[str], folder: Path, was_finished: Callable[[], bool], n_jobs: int = 1) -> None:
    """Start one run as a process of its own, wait for it, and write down what became of it.

    Args:
        overrides: What sets this run apart, as typed.
        folder: Its run folder.
        was_finished: Whether there is nothing left to do; raises InputError if the folder holds another run.
        n_jobs: How many runs share this machine; each gets its part of the CPU threads and of the GPUs.
    """
    try:
        if was_finished():
            outcome, why = "finished before", ""
        elif stop_file(folder.parent).exists():
            outcome, why = "stopped", "before it began"
        else:
            outcome, why = _run(overrides, folder, n_jobs)
    except (InputError, OSError) as error:
        outcome, why = "failed", str(error)
        if not (folder / "config.yaml").exists():  # otherwise it is another run's folder
            _write_failure(folder, f"{why}\n")
    write_outcome(folder, outcome, why)


def stop_file(study: Path) -> Path:
    """Return the file that stops this process's sweep, in a study's folder, once it is there."""
    return study / ACCOUNT / os.environ.get(SWEEP, "none") / STOP


def name_sweep() -> str:
    """Name a sweep of this process, later ones last in the alphabet."""
    return f"{time.time_ns()}-{os.getpid()}"


def write_outcome(folder: Path, outcome: str, why: str) -> None:
    """Write down what became of a run, for the account at the end of the sweep."""
    account = folder.parent / ACCOUNT / os.environ.get(SWEEP, name_sweep())
    try:
        write_json(account / f"{folder.name}.json", {"outcome": outcome, "why": why})
    except OSError as error:  # the account will tell it as one that never reported
        say(f"{folder.name}: {outcome} {why}, which cannot be written down ({error.strerror})")


def _run(overrides: Sequence[str], folder: Path, n_jobs: int) -> tuple[str, str]:
    """Return how the run ended, and why or after how long."""
    flags = [word for flag in json.loads(os.environ.get(PASSED_ON, "{}")).items() for word in flag]
    command = [*START, *flags, *overrides, f"hydra.run.dir={quoted(str(folder))}"]
    began = time.monotonic()
    console = folder / "console.log"
    with console.open("ab") as output, _own_gpu(folder.parent / ACCOUNT, n_jobs) as gpu, _ended_by_slurm() as ended:
        start = output.tell()
        # the pipe is never written to: its end tells the run that its sweep is gone
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=_environment(n_jobs) | gpu
        ) as process:
            try:
                code = _wait(process, stop_file(folder.parent))
            except subprocess.CalledProcessError as error:
                # warned by Slurm, submitit asks it to queue this job again, and Slurm may stop the asking with the job
                if "SLURM_JOB_ID" not in os.environ or error.returncode != -signal.SIGTERM:
                    raise
                os._exit(128 + signal.SIGTERM)
        if ended.is_set():  # a run that is queued again has not failed: nothing is to be said of it
            os._exit(128 + signal.SIGTERM)
    said = console.read_bytes()[start:].decode("utf-8", "replace").splitlines()
    if code == 0 and (folder / "summary.json").exists():
        (folder / FAILURE).unlink(missing_ok=True)
        return "done", f"{time.monotonic() - began:.0f} s"
    why = _reason(code, said)
    asked = {-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM}
    if code in asked and stop_file(folder.parent).exists():
        kept = any(folder.glob("checkpoints/*.ckpt"))
        return "stopped", "what is trained is kept" if kept else "nothing was kept yet"
    _write_failure(folder, "\n".join([why, "", *said[-LAST_LINES:], ""]))
    return "failed", why


def _wait(process: "subprocess.Popen[bytes]", stop: Path) -> int:
    """Wait for a run to end; ask it to once the sweep is stopped.

    End with it if this is a launcher's worker and the sweep that started it has gone.
    """
    sweep = os.getppid()
    worker = os.environ.get(SWEEP, "").endswith(f"-{sweep}")  # otherwise it is the sweep itself, or a job on a cluster
    asked = False
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(GLANCE)
        if worker and os.getppid() != sweep:
            os._exit(128 + signal.SIGTERM)  # which closes the pipe to the run
        if not asked and stop.exists():
            process.terminate()
            asked = True


def _write_failure(folder: Path, text: str) -> None:
    with contextlib.suppress(OSError):  # on a full disk the account must do
        write_text(folder / FAILURE, text)


def end_with_the_sweep() -> None:
    """End this process when the sweep that started it has ended, however that happened; what is trained is kept."""
    if SWEPT not in os.environ:
        return
    if hasattr(signal, "SIGUSR2"):  # Slurm warns all processes of a job with it; the one that waits for this one acts
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)

    def wait() -> None:
        while os.read(0, 1024):  # not sys.stdin: Python aborts where a thread still holds it at the end
            pass
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _environment(n_jobs: int) -> dict[str, str]:
    """Return what a run is started with: its share of the CPU threads, and nothing that Lightning takes for its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SRUN_"))}
    threads = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
    if threads is None and n_jobs > 1:
        threads = str(max(1, (os.cpu_count() or 1) // n_jobs))
    if threads is not None:
        environment.setdefault("OMP_NUM_THREADS", threads)
    return environment | {SWEPT: "1", "HYDRA_FULL_ERROR": "1"}


@contextlib.contextmanager
def _own_gpu(account: Path, n_jobs: int) -> Iterator[dict[str, str]]:
    """Hold a place on a GPU, the least crowded first, where runs of one machine share several."""
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
    import torch  # its count asks the driver and leaves the GPUs alone

    return [str(index) for index in range(torch.cuda.device_count())]


@contextlib.contextmanager
def _ended_by_slurm() -> Iterator[threading.Event]:
    """Notice in a Slurm job that Slurm ends it: to queue it again, or for good, but not because of the run."""
    ended = threading.Event()
    if "SLURM_JOB_ID" not in os.environ or threading.current_thread() is not threading.main_thread():
        yield ended
        return
    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        yield ended
    finally:
        signal.signal(signal.SIGTERM, before)


def _reason(code: int, said: Sequence[str]) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if code == 0:
        return "ended without a summary.json"
    last = next((line.strip() for line in reversed(said) if line.strip()), "said nothing")
    return f"exit code {code}: " + re.sub(r"^([\w.]+Exception|error): ", "", last)
