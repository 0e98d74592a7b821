"""A sweep: every run in a process of its own, whoever launches it, and an account of all of them at the end.

Hydra's launcher decides when a job runs: after the others, or several at once. A job does nothing
but start its run as ``python train.py`` would be typed, and wait. So no run sees another's memory, threads or random
numbers, and whatever ends one, an exception, ``sys.exit``, ``kill -9``, leaves the others running.
"""

import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cellseg.errors import InputError
from cellseg.runs import run_name, write_json

ACCOUNT = ".sweep"  # in the study's folder: what became of every run of the last sweep
SWEPT = "CELLSEG_SWEPT"  # set for a run whose standard input ends when its sweep does
COLOURS = {"done": "green", "finished before": "dim", "failed": "bold red"}
FAILURE = "failure.txt"
LAST_LINES = 60  # of what a failed run said, kept in its failure.txt

log = logging.getLogger(__name__)

# here and not in train.py: a launcher's worker process imports this module, and needs the resolver to name the folder
OmegaConf.register_new_resolver("run_name", run_name, replace=True)


def run_isolated(
    script: Path, overrides: Sequence[str], folder: Path, was_finished: Callable[[], bool], n_jobs: int = 1
) -> None:
    """Start one run as a process of its own, wait for it, and write down what became of it.

    Args:
        script: train.py.
        overrides: What sets this run apart, as typed.
        folder: Its run folder.
        was_finished: Whether there is nothing left to do; raises InputError if the folder holds another run.
        n_jobs: How many runs share this machine; each gets its part of the CPU threads.
    """
    try:
        outcome, why = ("finished before", "") if was_finished() else _run(script, overrides, folder, n_jobs)
    except InputError as error:
        outcome, why = "failed", str(error)
        if not (folder / "config.yaml").exists():  # otherwise it is another run's folder
            (folder / FAILURE).write_text(f"{why}\n", encoding="utf-8")
    log.log(logging.ERROR if outcome == "failed" else logging.INFO, "%s: %s %s", folder.name, outcome, why)
    write_json(folder.parent / ACCOUNT / f"{folder.name}.json", {"outcome": outcome, "why": why, "time": time.time()})


def _run(script: Path, overrides: Sequence[str], folder: Path, n_jobs: int) -> tuple[str, str]:
    """Return how the run ended, and why or after how long."""
    command = [sys.executable, str(script), *overrides, f'hydra.run.dir="{folder}"']
    log.info("starting %s", folder.name)
    began = time.monotonic()
    console = folder / "console.log"
    with console.open("ab") as output:
        start = output.tell()
        # the pipe is never written to: its end tells the run that its sweep is gone
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=_environment(n_jobs)
        ) as process:
            code = process.wait()
    said = console.read_bytes()[start:].decode("utf-8", "replace").splitlines()
    failure = folder / FAILURE
    if code == 0 and (folder / "summary.json").exists():
        failure.unlink(missing_ok=True)
        return "done", f"{time.monotonic() - began:.0f} s"
    why = _reason(code, said)
    failure.write_text("\n".join([why, "", *said[-LAST_LINES:], ""]), encoding="utf-8")
    return "failed", why


def end_with_the_sweep() -> None:
    """End this process when the sweep that started it has ended, however that happened; what is trained is kept."""
    if SWEPT not in os.environ:
        return

    def wait() -> None:
        while os.read(0, 1024):  # not sys.stdin: Python aborts where a thread still holds it at the end
            pass
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


class SweepAccount(Callback):
    """Tells at the end of a sweep what became of every run."""

    complaint: str | None = None  # Hydra only warns of what a callback raises, so the process asks for this at its end

    def __init__(self) -> None:
        self.began = math.inf
        self.runs = 0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note when the sweep began and how many runs it has."""
        self.began = time.time()
        overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        self.runs = math.prod(len(list(o.sweep_iterator())) for o in overrides if o.is_sweep_override())

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the account."""
        study = Path(config.hydra.sweep.dir)
        told = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((study / ACCOUNT).glob("*.json"))}
        outcomes = {name: entry for name, entry in told.items() if entry["time"] >= self.began}
        print_account(study, outcomes)
        _report(study)
        failed = [name for name, entry in outcomes.items() if entry["outcome"] == "failed"]
        if failed or len(outcomes) < self.runs:
            lost = f", {self.runs - len(outcomes)} never reported" if len(outcomes) < self.runs else ""
            SweepAccount.complaint = (
                f"{len(failed)} of {self.runs} runs failed{lost}; see failure.txt in their folders. "
                "The same command again does what is missing."
            )


def print_account(study: Path, outcomes: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what became of the runs of a sweep."""
    table = Table("run", "outcome", "", title=f"sweep in {study}", title_justify="left")
    for name, entry in outcomes.items():
        table.add_row(
            Text(name, overflow="fold"), Text(entry["outcome"], COLOURS[entry["outcome"]]), Text(entry["why"])
        )
    Console().print(table)


def _report(study: Path) -> None:
    """Write the report of what is there, and say its verdicts; a sweep with nothing to compare has none."""
    from cellseg.study.collect import read_study  # pandas is not needed to train
    from cellseg.study.report import write_report

    try:
        sentences = write_report(read_study(study))
    except InputError as error:
        sentences = [f"no report: {error}"]
    for sentence in sentences:
        Console().print(sentence, markup=False, highlight=False, soft_wrap=True)


def _environment(n_jobs: int) -> dict[str, str]:
    environment = {**os.environ, SWEPT: "1", "HYDRA_FULL_ERROR": "1"}
    if n_jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n_jobs)))
    return environment


def _reason(code: int, said: Sequence[str]) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if code == 0:
        return "ended without a summary.json"
    last = next((line.strip() for line in reversed(said) if line.strip()), "said nothing")
    return f"exit code {code}: " + re.sub(r"^[\w.]+Exception: ", "", last)
