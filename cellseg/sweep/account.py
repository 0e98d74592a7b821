"""Show the progress of a sweep, refresh its report as runs finish, and print the outcome of every run at the end."""

import contextlib
import csv
import json
import logging
import os
import re
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

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from cellseg.run.naming import check_study, run_name
from cellseg.run.overrides import INPUTS, one_line, quoted, values
from cellseg.run.plan import check_plan_keys, plan_study
from cellseg.run.resolvers import register_resolvers
from cellseg.run.signals import say
from cellseg.run.values import check_values
from cellseg.storage.errors import InputError
from cellseg.storage.files import write_text
from cellseg.sweep.process import ACCOUNT, SWEEP, name_sweep, stop_file

COLOURS = {"done": "green", "finished before": "dim", "stopped": "yellow", "failed": "bold red"}
LABEL = 36  # columns for a run, so that bar, count and times fit into 80
GLANCES = 1.0  # seconds between two looks at the run folders
REPORT_SHARE = 0.02  # maximum share of the time that refreshing the report may take

log = logging.getLogger(__name__)
Outcomes = Mapping[str, Mapping[str, Any]]

# registered here, not in train.py: a launcher's worker process imports this module and needs the resolver to name the
# run folder
register_resolvers()


class SweepAccount(Callback):
    """Shows the progress of a sweep, refreshes its report, and prints the outcome of every run at the end."""

    # Hydra turns exceptions of a callback into warnings, so train.py exits with this message; None means success
    complaint: str | None = None

    def __init__(self) -> None:
        self.watch: SweepWatch | None = None
        self.stopping = False

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check before training that the run folder can be written."""
        HydraConfig.instance().set_config(config)  # Hydra sets it later, but the name of the folder needs it now
        refuse_study(config.study)
        require_writable(Path(config.hydra.run.dir))

    def __reduce__(self) -> tuple[type["SweepAccount"], tuple[()]]:
        return SweepAccount, ()  # launchers pickle callbacks for their workers, and a worker watches nothing

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the sweep before its first run, and start to watch the run folders."""
        SweepAccount.complaint = "the sweep ended without its table of outcomes; see the messages above"
        refuse_study(config.study)
        study = Path(config.hydra.sweep.dir)
        new = not study.exists()
        require_writable(study)
        try:
            self._begin(study, config)
        except SystemExit:  # refused, so it leaves nothing behind
            if new:
                study.rmdir()
            raise

    def _begin(self, study: Path, config: DictConfig) -> None:
        """Check the sweep, write its plan, and watch its runs."""
        on_cluster = "submitit" in config.hydra.launcher._target_
        if on_cluster:
            from cellseg.sweep.slurm import outlive_dead_jobs, warn_without_accounting  # needs submitit

            warn_without_accounting()
            outlive_dead_jobs()
        else:
            require_inputs(config)
        overrides = sweep_overrides(config)
        runs = len(BasicSweeper.split_arguments(overrides, None)[0])
        labels = write_plan(study, config, overrides)
        print_space(study, config, overrides)
        # every job of the sweep inherits it
        os.environ[SWEEP] = name_sweep()
        self.watch = SweepWatch(study / ACCOUNT / os.environ[SWEEP], runs, labels)
        if not on_cluster:  # on a cluster Ctrl-C ends this command, and the jobs continue
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self.stop)
        self.watch.start()
        if not on_cluster:
            hear_interrupts(False)

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Stop the sweep after the current epoch of each run; at the second signal, stop it immediately."""
        assert self.watch is not None
        study = self.watch.study
        if self.stopping:
            say(f"stopped immediately; to continue, run the same command again with study={study.name}")
            os._exit(128 + number)  # the runs notice this and end
        self.stopping = True
        try:
            write_text(stop_file(study), "")
        except OSError as error:
            say(
                f"the runs do not stop, because {stop_file(study)} cannot be written ({error.strerror}); "
                "a second Ctrl-C stops them immediately"
            )
            return
        say("stopping: active runs finish and save their epoch, no new run starts; a second Ctrl-C stops immediately")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the outcome of every run and the verdicts of the report."""
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
                f"To continue, run the same command again with study={study.name}"
            )
        if failed or len(outcomes) < runs:
            missing = runs - len(outcomes)
            lost = f", {missing} ended without a result (see the messages above)" if missing > 0 else ""
            complaint = (
                f"{len(failed)} of {runs} runs failed{lost}; see {study / '*' / 'failure.txt'}. "
                f"To repeat them, run the same command again with study={study.name}"
            )
        SweepAccount.complaint = complaint
        print_account(study, outcomes)
        from cellseg.study.collect import DifferentDataError  # pandas takes a second
        from cellseg.study.report import print_verdicts

        line = f"report: {study / 'report.html'}"
        try:
            print_verdicts(refresh_report(study))
        except DifferentDataError as error:  # runs on other labels of the same images, for report --truth
            line = f"no report: {error}"
        except (InputError, OSError) as error:
            line = f"no report: {error}"
            SweepAccount.complaint = complaint or f"all {runs} runs are finished, but there is no report: {error}"
        except Exception as error:
            SweepAccount.complaint = complaint or f"the report failed: {error!r}"
            raise
        Console().print(line, markup=False, highlight=False, soft_wrap=True)


def hear_interrupts(hear: bool) -> None:
    """Unblock or block Ctrl-C for this thread and for the processes that it starts from now on.

    A terminal sends Ctrl-C to all of them, and to the launcher's workers too; only the handler of the sweep may act.
    """
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        resource_tracker.ensure_running()  # in Python 3.11 starting it later would unblock Ctrl-C again
        signal.pthread_sigmask(signal.SIG_UNBLOCK if hear else signal.SIG_BLOCK, [signal.SIGINT])


def refuse_study(name: Any) -> None:
    """Exit before any folder is made if the name of the study cannot be one."""
    try:
        check_study(name)
    except InputError as error:
        sys.exit(f"error: {error}")


def require_writable(folder: Path) -> None:
    """Exit before training if a folder cannot be written or its disk is full.

    Args:
        folder: The folder; it is created if it does not exist.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        sys.exit(
            f"error: {folder} cannot be written ({error.strerror or error}); free space or start in another folder"
        )


def require_inputs(config: DictConfig) -> None:
    """Exit if a path in a sweep over paths does not exist: the comma may be part of one name."""
    for override in OverridesParser.create().parse_overrides(list(config.hydra.overrides.task)):
        if override.key_or_group in INPUTS and override.value_type == ValueType.SIMPLE_CHOICE_SWEEP:
            key, paths = override.get_key_element(), [str(value) for value in values(override) if value is not None]
            if missing := next(
                (path for path in paths if not Path(path).expanduser().exists() and "${" not in path), None
            ):
                whole = str(override.input_line).partition("=")[2]
                sys.exit(
                    f"error: the comma gives {key} {len(paths)} values, and {missing} does not exist; "
                    f'if the comma is part of one name, quote it: -m "{key}={quoted(whole)}"'
                )


def sweep_overrides(config: DictConfig) -> list[Override]:
    """Return the overrides of a sweep; exit if two of its runs would be the same or belong to two studies."""
    loader = GlobalHydra.instance().config_loader()  # expands glob(*)
    words = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    found = OverridesParser.create(config_loader=loader).parse_overrides([*words, *config.hydra.overrides.task])
    for override in found:
        if not override.is_sweep_override():
            continue
        key, values = override.get_key_element(), list(override.sweep_string_iterator())
        if key in ("study", "n_jobs", "margin", "looks"):
            sys.exit(
                f"error: {key} must have one value in a sweep, but has {len(values)}; start one sweep for each value"
            )
        if twice := next((value for value in values if values.count(value) > 1), None):
            sys.exit(f"error: {key}={twice} is given twice and would make the same run twice; remove one")
    return found


def run_folders(config: DictConfig, overrides: list[Override]) -> dict[str, str]:
    """Return the names of the folders of all runs of a sweep, each with a short label: what was swept.

    Hydra composes the configuration of the first run with each new word, so a misspelt one is noticed here, and of each
    combination of groups, because these decide on the network.
    """
    loader = GlobalHydra.instance().config_loader()
    names, known = dict[str, str](), set[str]()
    swept = {override.get_key_element() for override in overrides if override.is_sweep_override()}
    composed = dict[tuple[str, ...], tuple[str | None, int]]()
    for job in BasicSweeper.split_arguments(overrides, None)[0]:
        own = dict(word.split("=", 1) for word in job)
        groups = tuple(word for word in job if "." not in word.partition("=")[0] and not word.startswith("seed="))
        if groups not in composed or not known.issuperset(job):
            found = loader.load_sweep_config(config, job)
            check_values(found)
            plain = loader.load_sweep_config(config, list(groups))
            for key in (word.partition("=")[0] for word in job if word not in known):
                default, value = OmegaConf.select(plain, key), OmegaConf.select(found, key)
                if type(default) in (int, float) and isinstance(value, str | bool):
                    raise InputError(f"{key} must be a number, but is {value}")
            composed[groups] = found.hydra.runtime.choices.get("model"), found.seed
            known.update(job)
        model, seed = composed[groups]
        word = own.get("seed", str(seed))
        if word != str(seed) and not re.fullmatch(r"-?[1-9]\d*|0", word):  # quoted, or not a number
            seed = loader.load_sweep_config(config, job).seed
            word = str(seed)
        varied = [override for override in job if override.partition("=")[0] in swept]
        names[run_name(model, word, job)] = run_name(model, word, varied)
    return names


def write_plan(study: Path, config: DictConfig, overrides: list[Override]) -> dict[str, str]:
    """Write the plan of a sweep, if its runs are known beforehand; exit if it contradicts an earlier plan.

    Returns:
        For each run folder its short label; nothing if the runs are not known.
    """
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):  # another sweeper decides as it goes
        return {}
    swept = [override for override in overrides if override.is_sweep_override()]
    keys = [override.get_key_element() for override in swept]
    if config.looks != 1 and "seed" in keys[1:]:
        sys.exit("error: with looks above 1, put seed= before the other swept keys, so that each look has all networks")
    fixed = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
    try:
        check_plan_keys(config.margin, config.looks)
        labels = run_folders(config, overrides)
        plan_study(
            study,
            runs=list(labels),
            grid={override.get_key_element(): list(override.sweep_string_iterator()) for override in swept},
            fixed=fixed,
            margin=float(config.margin),
            looks=config.looks,
        )
    except InputError as error:
        sys.exit(f"error: {error}")
    except HydraException:  # Hydra composes the runs after this, and reports the error
        return {}
    except OmegaConfBaseException as error:
        log.warning("the runs of this sweep cannot be listed beforehand (%s), so it has no plan", one_line(error))
        return {}
    return labels


def print_space(study: Path, config: DictConfig, overrides: list[Override]) -> None:
    """Print the disk space that the sweep takes, if its runs are known beforehand."""
    from cellseg.sweep.space import foresee_space  # takes a second, after the sweep was checked

    if config.hydra.sweeper._target_.endswith(".BasicSweeper") and (line := foresee_space(study, config, overrides)):
        Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)


class SweepWatch:
    """Reads the run folders of a sweep every second; the runs may be on this machine or on another.

    Args:
        account: The folder in which each run of this sweep records its outcome.
        runs: Number of runs in the sweep.
        labels: For each run folder a short label; a run without one is shown by its folder.
    """

    def __init__(self, account: Path, runs: int, labels: Mapping[str, str]) -> None:
        self.account, self.study, self.runs, self.began = account, account.parents[1], runs, time.time()
        self.labels = labels
        self._epochs: dict[str, int | None] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Start the thread that watches."""
        self._thread.start()

    def stop(self) -> None:
        """Show the final state and end the thread."""
        self._over.set()
        self._thread.join()

    def outcomes(self) -> dict[str, dict[str, Any]]:
        """Read the outcome of every run that has ended in this sweep."""
        found = {}
        for path in sorted(self.account.glob("*.json")):
            with contextlib.suppress(OSError, ValueError):  # damaged, so that run counts as one without a result
                found[path.stem] = json.loads(path.read_text("utf-8"))
        return found

    def _watch(self) -> None:
        shown = _Display(self.runs, self.labels)
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
                    except Exception as error:  # the sweep reports an error only for the last report
                        log.debug("the report could not be refreshed: %s", error)
                    reported, next_report = done, time.monotonic() + (time.monotonic() - began) / REPORT_SHARE
            outcomes = self.outcomes()
            shown.update(outcomes, {})

    def _at_work(self, outcomes: Outcomes) -> dict[str, str]:
        """Return the current epoch of each run that wrote its metrics.csv since the sweep began and has not ended."""
        epochs = {}
        for table in self.study.glob("*/metrics.csv"):
            run = table.parent
            with contextlib.suppress(OSError, csv.Error, KeyError, IndexError):  # the run may be replacing the file
                if run.name not in outcomes and table.stat().st_mtime >= self.began:
                    with table.open(newline="", encoding="utf-8") as file:
                        epochs[run.name] = f"epoch {int(list(csv.DictReader(file))[-1]['epoch']) + 1}"
                    if most := self._planned(run):
                        epochs[run.name] += f" of {most}"
        return epochs

    def _planned(self, run: Path) -> int | None:
        """Return the number of epochs of a run; None if it has none, or cannot be read."""
        if run.name not in self._epochs:
            most = None
            with contextlib.suppress(Exception):  # a damaged file must not end the watch
                most = OmegaConf.select(OmegaConf.load(run / "config.yaml"), "trainer.max_epochs")
            self._epochs[run.name] = most if isinstance(most, int) and most > 0 else None
        return self._epochs[run.name]


class _Display:
    """Shows a progress bar and the active runs in a terminal; elsewhere prints one line for each run that ends."""

    def __init__(self, runs: int, labels: Mapping[str, str]) -> None:
        self.runs, self.labels = runs, labels
        self.printed: set[str] = set()
        columns = (
            TextColumn("{task.description}", table_column=Column(max_width=LABEL, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("remaining"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(
            *columns,
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            speed_estimate_period=7 * 86400,  # seconds; one run may take days
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
        """Show the runs that have ended and the active ones."""
        told = [entry["outcome"] for entry in outcomes.values()]
        failed, ended = told.count("failed"), len(told) - told.count("stopped")
        self.progress.update(self.total, completed=ended, description=f"runs, {failed} failed" if failed else "runs")
        for name in self.rows.keys() - at_work.keys():
            self.progress.remove_task(self.rows.pop(name))
        for name, epoch in at_work.items():
            if name not in self.rows:
                self.rows[name] = self.progress.add_task(name, total=None)
            self.progress.update(self.rows[name], description=f"{epoch}: {self.labels.get(name, name)}")
        for name in outcomes.keys() - self.printed if self.progress.disable else ():
            self.printed.add(name)
            outcome = f"{outcomes[name]['outcome']} {outcomes[name]['why']}".strip()
            # not logged: logging may write to the file of another run at this moment
            self.progress.console.print(
                f"{len(self.printed)} of {self.runs}: {self.labels.get(name, name)} {outcome}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def print_account(study: Path, outcomes: Outcomes) -> None:
    """Print a table with the outcome of every run and its reason."""
    table = Table("run", "outcome", "", title=f"sweep in {study}", title_justify="left")
    for name, entry in outcomes.items():
        table.add_row(
            Text(name, overflow="fold"), Text(entry["outcome"], COLOURS[entry["outcome"]]), Text(entry["why"])
        )
    Console().print(table)


def refresh_report(study: Path) -> list[str]:
    """Write the report of the finished runs and return its verdicts as sentences."""
    from cellseg.study.collect import read_study  # imported here: training needs neither pandas nor matplotlib
    from cellseg.study.report import write_report

    return write_report(read_study(study))
