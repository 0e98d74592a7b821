"""A sweep as a whole: how far it is, what became of every run, and the report as runs finish."""

import contextlib
import csv
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cellseg.run.overrides import INPUTS, quoted, values
from cellseg.run.resolvers import register_resolvers
from cellseg.run.signals import say
from cellseg.storage.errors import InputError
from cellseg.storage.files import write_text
from cellseg.sweep.process import ACCOUNT, SWEEP, name_sweep, stop_file

COLOURS = {"done": "green", "finished before": "dim", "stopped": "yellow", "failed": "bold red"}
GLANCES = 1.0  # seconds between looks at the run folders
REPORT_SHARE = 0.02  # of the time may go into refreshing the report

log = logging.getLogger(__name__)
Outcomes = Mapping[str, Mapping[str, Any]]

# here and not in train.py: a launcher's worker process imports this module, and needs the resolver to name the folder
register_resolvers()


class SweepAccount(Callback):
    """Shows how far a sweep is, keeps its report fresh, and tells at the end what became of every run."""

    # Hydra only warns of what a callback raises, so the process asks for this at its end; None: all went well
    complaint: str | None = None

    def __init__(self) -> None:
        self.watch: SweepWatch | None = None
        self.stopping = False

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """See that the run folder can be written before anything is computed."""
        HydraConfig.instance().set_config(config)  # Hydra does so later; the folder's name is asked of it
        require_writable(Path(config.hydra.run.dir))

    def __reduce__(self) -> tuple[type["SweepAccount"], tuple[()]]:
        return SweepAccount, ()  # launchers send callbacks to their workers, where there is nothing to watch

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Begin to watch."""
        SweepAccount.complaint = "the sweep could not be accounted for; see what is said above"
        study = Path(config.hydra.sweep.dir)
        require_writable(study)
        on_cluster = "submitit" in config.hydra.launcher._target_
        if on_cluster:
            from cellseg.sweep.slurm import outlive_dead_jobs, warn_without_accounting  # needs submitit

            warn_without_accounting()
            outlive_dead_jobs()
        else:
            require_inputs(config)
        # jobs find it in their environment, wherever they are started
        os.environ[SWEEP] = name_sweep()
        self.watch = SweepWatch(study / ACCOUNT / os.environ[SWEEP], count_runs(config))
        if not on_cluster:  # there Ctrl-C ends the waiting, not the jobs
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self.stop)
        self.watch.start()
        if not on_cluster:
            hear_interrupts(False)

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Let the runs at work keep their epoch and begin no others; at the second signal, end."""
        assert self.watch is not None
        if self.stopping:
            say("stopped at once; the same command goes on")
            os._exit(128 + number)  # the runs notice, and end
        self.stopping = True
        try:
            write_text(stop_file(self.watch.study), "")
        except OSError as error:
            say(f"the runs cannot be told to stop ({error.strerror}); once more stops them at once")
            return
        say("stopping: the runs at work keep the epoch they are in, no others begin; once more stops at once")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the account and the verdicts."""
        assert self.watch is not None
        hear_interrupts(True)
        self.watch.stop()
        study, outcomes, runs = self.watch.study, self.watch.outcomes(), self.watch.runs
        failed = [name for name, entry in outcomes.items() if entry["outcome"] == "failed"]
        stopped = [name for name, entry in outcomes.items() if entry["outcome"] == "stopped"]
        complaint = None
        if stopped:
            complaint = (
                f"stopped: {len(stopped)} of {runs} runs are not finished. "
                f"The same command with study={study.name} goes on with them."
            )
        if failed or len(outcomes) < runs:
            lost = f", {runs - len(outcomes)} never reported (see above)" if len(outcomes) < runs else ""
            complaint = (
                f"{len(failed)} of {runs} runs failed{lost}; see failure.txt in their folders. "
                f"The same command with study={study.name} does what is missing."
            )
        SweepAccount.complaint = complaint
        print_account(study, outcomes)
        try:
            said = [
                "Dice in points of 100, with 95 % intervals:",
                *refresh_report(study),
                f"report: {study / 'report.html'}",
            ]
        except (InputError, OSError) as error:
            said = [f"no report: {error}"]
            SweepAccount.complaint = complaint or f"all {runs} runs are finished, but there is no report: {error}"
        except Exception as error:
            SweepAccount.complaint = complaint or f"the report failed: {error!r}"
            raise
        for sentence in said:
            Console().print(sentence, markup=False, highlight=False, soft_wrap=True)


def hear_interrupts(hear: bool) -> None:
    """Let this thread and all processes it starts from now on hear Ctrl-C, or not.

    A terminal tells it to all of them, a launcher's workers included, but it is the sweep's watch that is to hear.
    """
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        resource_tracker.ensure_running()  # in Python 3.11 whatever starts it hears them again
        signal.pthread_sigmask(signal.SIG_UNBLOCK if hear else signal.SIG_BLOCK, [signal.SIGINT])


def require_writable(folder: Path) -> None:
    """End here, before anything is computed, if what is written into a folder would not stay.

    Args:
        folder: Made where there is none.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        sys.exit(
            f"error: {folder} cannot be written ({error.strerror or error}); free space, or start in another folder"
        )


def require_inputs(config: DictConfig) -> None:
    """End here if a sweep over folders or files has one that does not exist: a comma may belong to a name."""
    for override in OverridesParser.create().parse_overrides(list(config.hydra.overrides.task)):
        if override.key_or_group in INPUTS and override.value_type == ValueType.SIMPLE_CHOICE_SWEEP:
            key, paths = override.get_key_element(), [str(value) for value in values(override) if value is not None]
            if missing := next(
                (path for path in paths if not Path(path).expanduser().exists() and "${" not in path), None
            ):
                whole = str(override.input_line).partition("=")[2]
                sys.exit(
                    f"error: {key} has {len(paths)} values here, and {missing} does not exist; "
                    f'if the comma is part of one name, quote it: -m "{key}={quoted(whole)}"'
                )


def count_runs(config: DictConfig) -> int:
    """Return how many runs a sweep has; it ends here if two of them would be the same, or be of two studies."""
    loader = GlobalHydra.instance().config_loader()  # knows what glob(*) stands for
    runs = 1
    for override in OverridesParser.create(config_loader=loader).parse_overrides(list(config.hydra.overrides.task)):
        if not override.is_sweep_override():
            continue
        key, values = override.get_key_element(), list(override.sweep_string_iterator())
        if key in ("study", "n_jobs", "margin"):
            sys.exit(f"error: {key} is one for a whole sweep, but here it has {len(values)} values")
        if twice := next((value for value in values if values.count(value) > 1), None):
            sys.exit(f"error: {key}={twice} is there twice, and would be the same run")
        runs *= len(values)
    return runs


class SweepWatch:
    """Looks at the run folders of a sweep from time to time, whoever works in them, on this machine or another.

    Args:
        account: The folder in which this sweep's runs say how they ended.
        runs: How many the sweep has.
    """

    def __init__(self, account: Path, runs: int) -> None:
        self.account, self.study, self.runs, self.began = account, account.parents[1], runs, time.time()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Watch in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Show the last state and end."""
        self._over.set()
        self._thread.join()

    def outcomes(self) -> dict[str, dict[str, Any]]:
        """Return what became of the runs that have ended in this sweep."""
        return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(self.account.glob("*.json"))}

    def _watch(self) -> None:
        shown = _Display(self.runs)
        reported, next_report = 0, 0.0
        with shown:
            while not self._over.wait(GLANCES):
                outcomes = self.outcomes()
                shown.update(outcomes, self._at_work(outcomes))
                done = sum(entry["outcome"] == "done" for entry in outcomes.values())
                if reported < done < self.runs and time.monotonic() > next_report:
                    began = time.monotonic()
                    try:
                        refresh_report(self.study)
                    except Exception as error:  # the one at the end counts
                        log.debug("the report could not be refreshed: %s", error)
                    reported, next_report = done, time.monotonic() + (time.monotonic() - began) / REPORT_SHARE
            outcomes = self.outcomes()
            shown.update(outcomes, {})

    def _at_work(self, outcomes: Outcomes) -> dict[str, str]:
        """Return the epoch every run has reached that wrote its table since the sweep began and has not ended."""
        epochs = {}
        for table in self.study.glob("*/metrics.csv"):
            run = table.parent
            with contextlib.suppress(OSError, csv.Error, KeyError, IndexError):  # it may be replaced this very moment
                if run.name not in outcomes and table.stat().st_mtime >= self.began:
                    with table.open(newline="", encoding="utf-8") as file:
                        epochs[run.name] = f"epoch {int(list(csv.DictReader(file))[-1]['epoch']) + 1}"
        return epochs


class _Display:
    """A bar and the runs at work where a person looks; a line for every run that ends where nobody does."""

    def __init__(self, runs: int) -> None:
        self.runs = runs
        self.told: set[str] = set()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(
            *columns,
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            speed_estimate_period=7 * 86400,  # seconds; runs take long
        )
        self.total = self.progress.add_task("runs", total=runs)
        self.rows: dict[str, Any] = {}

    def __enter__(self) -> None:
        self.progress.start()

    def __exit__(self, *_: object) -> None:
        for row in self.rows.values():
            self.progress.remove_task(row)
        self.progress.stop()

    def update(self, outcomes: Outcomes, at_work: Mapping[str, str]) -> None:
        """Show what has ended and what is at work."""
        failed = sum(entry["outcome"] == "failed" for entry in outcomes.values())
        self.progress.update(
            self.total, completed=len(outcomes), description=f"runs, {failed} failed" if failed else "runs"
        )
        for name in self.rows.keys() - at_work.keys():
            self.progress.remove_task(self.rows.pop(name))
        for name, epoch in at_work.items():
            if name not in self.rows:
                self.rows[name] = self.progress.add_task(name, total=None)
            self.progress.update(self.rows[name], description=f"  {name}: {epoch}")
        for name in outcomes.keys() - self.told if self.progress.disable else ():
            self.told.add(name)
            said = f"{outcomes[name]['outcome']} {outcomes[name]['why']}".strip()
            # not logged: the log of the moment may be the file of another run
            self.progress.console.print(
                f"{len(self.told)} of {self.runs}: {name} {said}", markup=False, highlight=False, soft_wrap=True
            )


def print_account(study: Path, outcomes: Outcomes) -> None:
    """Print what became of the runs of a sweep."""
    table = Table("run", "outcome", "", title=f"sweep in {study}", title_justify="left")
    for name, entry in outcomes.items():
        table.add_row(
            Text(name, overflow="fold"), Text(entry["outcome"], COLOURS[entry["outcome"]]), Text(entry["why"])
        )
    Console().print(table)


def refresh_report(study: Path) -> list[str]:
    """Write the report of what is there, and return what it says."""
    from cellseg.study.collect import read_study  # pandas and matplotlib are not needed to train
    from cellseg.study.report import write_report

    return write_report(read_study(study))
