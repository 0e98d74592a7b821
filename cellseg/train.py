"""The program behind ``python train.py`` and ``cellseg train``: one run, or a sweep of many."""

import argparse
import logging
import os
import re
import shlex
import signal
import sys
from functools import partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cellseg.run import home
from cellseg.run.home import CONF
from cellseg.run.locking import LOCK, is_occupied
from cellseg.run.naming import check_study
from cellseg.run.overrides import as_typed, explain, nearest, one_line, refuse_lists, to_type
from cellseg.run.plan import check_plan_keys
from cellseg.run.signals import Interrupted, StopRequest, leave
from cellseg.run.values import check_values
from cellseg.storage.errors import InputError
from cellseg.sweep import account, process

log = logging.getLogger("train")

# torch and Lightning are imported only for training: --help and --cfg do not need them


def run(cfg: DictConfig, folder: Path, stop: StopRequest | None = None, command: str | None = None) -> float:
    """Train, test and record one run in ``folder``; return the mean Dice over its test images.

    A finished run prints its results again; an interrupted one continues from its last checkpoint.
    """
    from cellseg.run.execution import execute

    settle(cfg)
    return execute(cfg, folder, stop or StopRequest(), command)


def was_finished(cfg: DictConfig, folder: Path) -> str | None:
    """Return None if the folder does not hold this run, finished; else whether the code has changed since."""
    from cellseg.run.begin import code_since, finished

    settle(cfg)
    summary = finished(folder, cfg)
    return None if summary is None else code_since(summary)


def typed() -> str:
    """Return the command that starts this run, also if a sweep started it."""
    words = dict.fromkeys(sys.argv[1:])  # a sweep adds study and folder, which may repeat
    mine = [word for word in words if process.SWEPT not in os.environ or not word.startswith("hydra.run.dir=")]
    return shlex.join([*home.typed(), *map(to_type, mine)])


def settle(cfg: DictConfig) -> None:
    """Set values that depend on the machine, and check the keys that nothing else checks."""
    if cfg.trainer.precision == "auto":
        from cellseg.run.hardware import native_precision

        cfg.trainer.precision = native_precision(cfg.trainer.accelerator)
    root = OmegaConf.load(CONF / "config.yaml")
    known = {*root, *(group for entry in root.defaults if entry != "_self_" for group in entry)}
    if unknown := sorted(set(cfg) - known):
        near = nearest(unknown[0], sorted(known))
        then = f"did you mean {near}?" if near else "see --help"
        raise InputError(f"{unknown[0]} is not a key of cellseg, so adding it with + has no effect; {then}")
    check_values(cfg)
    check_study(cfg.study)
    if type(cfg.n_jobs) is not int or cfg.n_jobs < 1:
        raise InputError(
            f"n_jobs must be a whole number from 1, the number of runs at the same time, but is {cfg.n_jobs}"
        )
    check_plan_keys(cfg.margin, cfg.looks)
    if cfg.trainer.precision in (16, "16", "16-true"):
        raise InputError(
            "trainer.precision=16-true cannot train: the updates of Adam are too small for float16; "
            "set bf16-mixed, bf16-true, 16-mixed or 32-true"
        )


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Run the composed configuration; report errors of input in one line."""
    job = HydraConfig.get()
    folder = Path(job.runtime.output_dir)
    if job.mode == RunMode.MULTIRUN:
        overrides = [*job.overrides.task, *as_typed([f"study={cfg.study}"])]
        process.run_isolated(overrides, folder, partial(was_finished, cfg, folder), cfg.n_jobs)
        return None
    process.end_with_the_sweep()
    if sys.stderr.isatty() and process.SWEPT not in os.environ:
        sys.stderr.write("loading PyTorch\n")
    import cellseg.run.execution  # noqa: F401 (takes seconds, in which a signal may end the process)

    try:
        with StopRequest() as stop:
            return run(cfg, folder, stop, typed())
    except OmegaConfBaseException as error:  # a value refers to a missing key
        _leave_nothing(folder)
        key = getattr(error, "full_key", None)
        sys.exit(f"error: {f'{key}: ' if key else ''}{str(error).splitlines()[0]}")
    except (InputError, InstantiationException) as error:
        _leave_nothing(folder)
        ours = error.__cause__ if isinstance(error.__cause__, InputError) else error
        root = str(OmegaConf.select(cfg, "data.root"))
        several = "," in root and not Path(root).expanduser().exists()  # -m may have been forgotten
        hint = "; for a sweep over several folders add -m" if several else ""
        sys.exit(f"error: {one_line(ours)}{hint}")  # a raised error would show advice of Hydra on stack traces
    except Interrupted as interruption:
        kept = sorted((folder / "checkpoints").glob("[!.]*.ckpt"))
        what = f"the last checkpoint is in {folder}" if kept else "there is no checkpoint yet"
        then = "continue" if kept else "start anew"
        log.warning("%s; %s; run the same command with study=%s to %s", interruption, what, cfg.study, then)
        sys.exit(interruption.exit_code)


def _leave_nothing(folder: Path) -> None:
    """Delete the folder of a run that was refused before it wrote anything; a sweep keeps it, with the reason in it."""
    written = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if process.SWEPT in os.environ or not written <= {"train.log", LOCK} or is_occupied(folder):
        return
    logging.shutdown()  # Windows cannot delete an open log
    for name in written:
        (folder / name).unlink(missing_ok=True)  # on Windows is_occupied deletes the lock
    for place in (folder, folder.parent):  # the run, and its study if it has no other run
        if any(place.iterdir()):
            return
        place.rmdir()


def start() -> None:
    """Run the command line of ``python train.py`` or ``cellseg train``, and end the process.

    ``--config-dir`` names a folder with a user's own configuration; modules in it and in its parent can be imported.
    """
    home.wait_briefly()
    logging.raiseExceptions = False  # a log that cannot be written must not fill the console
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    if {"--help", "-h"} & set(sys.argv[1:]):
        from cellseg.run.help import print_help

        print_help(CONF, sys.argv[1:], " ".join(home.typed()))
        return
    if process.SWEPT not in os.environ:  # a sweep passes on words in Hydra's grammar
        several = [word for word in sys.argv[1:] if word in ("-m", "--multirun")]
        # first: Hydra ignores keys after them
        sys.argv[1:] = as_typed([*several[:1], *(word for word in sys.argv[1:] if word not in several)])
    flags = {word.partition("=")[0] for word in sys.argv[1:] if word.startswith("-")}
    if {"-m", "--multirun"} & flags and {"--cfg", "-c"} & flags:
        sys.exit("error: --cfg shows the configuration of one run, so leave out -m and give each key one value")
    try:
        refuse_lists(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
    folders = _use_own_configuration(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints its errors and exits
    try:
        main()
    except (ConfigCompositionException, OverrideParseException) as error:
        sys.exit(f"error: {explain(error, sys.argv[1:], CONF, folders)}")
    except ValueError as error:
        if not str(error).startswith("Config group override"):
            raise
        null = [
            word.partition("=")[0] for word in sys.argv[1:] if re.search("=(null|true|false)$", word, re.IGNORECASE)
        ]
        group = next((name for name in null if (CONF / name).is_dir()), "a group")
        options = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
        sys.exit(f"error: {group} must be one of {options}")
    sys.exit(account.SweepAccount.complaint)  # None: exit code 0


def _use_own_configuration(words: list[str]) -> list[Path]:
    """Add the folder of ``--config-dir`` and its parent to Python's path, also for the runs of a sweep.

    Returns:
        The folder, if one is given.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for short, name in process.FLAGS.items():
        parser.add_argument(short, name, dest=name)
    flags = {name: value for name, value in vars(parser.parse_known_args(words)[0]).items() if value}
    if not (named := flags.get("--config-dir")):
        process.pass_on(flags)
        return []
    folder = Path(named).expanduser().resolve()
    if not folder.is_dir():
        sys.exit(f"error: --config-dir {named}: there is no such folder")
    sys.path += [str(place) for place in (folder, folder.parent) if str(place) not in sys.path]
    process.pass_on(flags | {"--config-dir": str(folder)})
    return [folder]


if __name__ == "__main__":
    start()
