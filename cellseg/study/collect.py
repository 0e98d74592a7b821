"""The runs of a study, read back from their folders."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from cellseg.metrics import SCORES, Score
from cellseg.run.folder import RunFolder, leaves
from cellseg.storage.errors import InputError

NOT_COMPARED = (
    "seed",
    "data.seed",
    "study",
    "threads",
    "n_jobs",
    "margin",
    "data.split.fold",
)  # what runs of one configuration may differ in
NEVER_COMPARED = ("logger", "metrics")  # what writes down, and what is scored besides: training is the same
SPLIT = "data.split."
TARGET = "._target_"
KEY = ["configuration", "seed", "fold"]  # what tells one run of a study from another
HOLDOUT = "holdout"  # the fold of a run without folds


@dataclass(frozen=True)
class Study:
    """A folder of runs.

    Attributes:
        folder: Where it lies.
        scores: All scores that any run has.
        runs: A row for every finished run: configuration, seed, fold, run, and what its summary says of it.
        images: A row for every test image of every run: configuration, seed, fold, image, group and scores.
        unfinished: Folders of runs that are not finished.
        repeated: Folders of finished runs left out, since another has the same configuration, seed and fold.
        differences: The keys in which configurations differ, and their value for each.
        margins: Differences in Dice below it do not matter: every value that runs were made with.
        test_share: Test images over training images, mean over runs.
        data_fingerprint: Of the data all runs saw.
        split: The plan of the splits, but for the fold; every value there was.
        origin: What runs were made with, by name: root of the data, versions of packages; every value there was.
    """

    folder: Path
    scores: list[Score]
    runs: pd.DataFrame
    images: pd.DataFrame
    unfinished: list[str]
    repeated: list[str]
    differences: dict[str, dict[str, Any]]
    margins: list[float]
    test_share: float
    data_fingerprint: str
    split: dict[str, list[str]]
    origin: dict[str, list[str]]

    @cached_property
    def curves(self) -> pd.DataFrame:
        """A row for every epoch of every run: configuration, seed, fold, epoch, and what was logged."""
        rows = self.runs[["run", *KEY]].itertuples(index=False)
        keys = {RunFolder(self.folder / run): dict(zip(KEY, key, strict=True)) for run, *key in rows}
        return _stacked(list(keys), keys, lambda run: run.epochs)

    @property
    def margin(self) -> float:
        """The smallest of them."""
        return self.margins[0]

    @property
    def per_image(self) -> list[Score]:
        """The scores that every image has, Dice first."""
        return [score for score in self.scores if not score.pooled]

    @property
    def configurations(self) -> list[str]:
        """In order of first appearance."""
        return list(dict.fromkeys(self.runs["configuration"]))


def read_study(folder: Path) -> Study:
    """Read every run of a study.

    Raises:
        InputError: If there is no finished run, a file of one cannot be read, or runs saw different data.
    """
    found, unfinished = _find_runs(folder)
    names, differences = _name_configurations(found)
    fingerprint = _one_fingerprint(found)
    folds = _name_folds(found)
    keys = {
        run: {"configuration": names[run.path], "seed": run.settings.seed, "fold": folds[run.settings.fold]}
        for run in found
    }
    runs, repeated = _without_repeated(keys)
    scores = _all_scores(runs)
    frame = pd.DataFrame([keys[run] | {"run": run.path.name} | _facts(run, scores) for run in runs])
    columns = ["image", "group", *(score.name for score in scores if not score.pooled)]
    return Study(
        folder=folder,
        scores=scores,
        runs=frame,
        images=_stacked(runs, keys, lambda run: run.test_rows.reindex(columns=columns)),
        unfinished=unfinished,
        repeated=repeated,
        differences=differences,
        margins=sorted({run.settings.margin for run in found}),
        test_share=float((frame["test_images"] / frame["training_images"]).mean()),
        data_fingerprint=fingerprint,
        split=_plans(found),
        origin=_origin(found),
    )


def _find_runs(folder: Path) -> tuple[list[RunFolder], list[str]]:
    """Return the finished runs of a study, and the names of those that are not finished."""
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; name a folder of runs, such as logs/first")
    candidates = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    runs = [run for run in map(RunFolder, candidates) if run.finished]
    there = {run.path for run in runs}
    unfinished = [path.name for path in candidates if path not in there and (path / "train.log").exists()]
    if not runs:
        raise InputError(f"{folder} holds no finished run{_what_instead(folder)}")
    return runs, unfinished


def _one_fingerprint(runs: Sequence[RunFolder]) -> str:
    """Return the fingerprint of the data that all runs saw."""
    first = runs[0]
    for run in runs:
        if run.summary.data.fingerprint != first.summary.data.fingerprint:
            raise InputError(
                f"{run.path} was trained on other data than {first.path.name}, so they cannot be compared; "
                "move one of them to another study"
            )
    return first.summary.data.fingerprint


def _name_folds(runs: Sequence[RunFolder]) -> dict[int | None, str]:
    """Call every fold by its number, with zeros before it, so that text sorts as numbers do."""
    folds = {run.settings.fold for run in runs}
    width = max((len(str(fold)) for fold in folds if fold is not None), default=0)
    return {fold: HOLDOUT if fold is None else f"{fold:0{width}d}" for fold in folds}


def _without_repeated(keys: Mapping[RunFolder, Mapping[str, Any]]) -> tuple[list[RunFolder], list[str]]:
    """Return the first run of every configuration, seed and fold, and the names of the others."""
    first: dict[tuple[Any, ...], RunFolder] = {}
    for run, key in keys.items():
        first.setdefault(tuple(key.values()), run)
    kept = list(first.values())
    return kept, [run.path.name for run in keys if run not in kept]


def _stacked(
    runs: Sequence[RunFolder], keys: Mapping[RunFolder, Mapping[str, Any]], table: Callable[[RunFolder], pd.DataFrame]
) -> pd.DataFrame:
    """Put a table of every run below that of the one before, each row with the run's configuration, seed and fold."""
    return pd.concat([table(run).assign(**keys[run]) for run in runs], ignore_index=True)


def _what_instead(folder: Path) -> str:
    if (folder / "config.yaml").exists():
        return f", as it is a run itself; name its folder of runs, {folder.parent}"
    if studies := sorted({path.parents[1].name for path in folder.glob("*/*/summary.json")}):
        return f", but studies; name one of them, such as {folder / studies[0]}"
    return f"; train some with study={folder.name}"


def _setting(key: str, value: Any) -> str:
    if key.endswith(TARGET):  # a class: its name will do
        return f"{key.removesuffix(TARGET)}={'none' if value is None else str(value).rsplit('.', 1)[-1]}"
    return f"{key}={value}"


def _plans(runs: Iterable[RunFolder]) -> dict[str, list[str]]:
    values: dict[str, set[str]] = {}
    for run in runs:
        for key, value in leaves(run.config).items():
            if key.startswith(SPLIT) and key not in (*NOT_COMPARED, f"{SPLIT}_target_") and value is not None:
                values.setdefault(key.removeprefix(SPLIT), set()).add(str(value))
    return {key: sorted(found) for key, found in values.items()}


def _origin(runs: Iterable[RunFolder]) -> dict[str, list[str]]:
    values: dict[str, set[str]] = {}
    for run in runs:
        for name, value in {**run.summary.versions, "data": run.summary.data.root}.items():
            values.setdefault(name, set()).add(value)
    return {name: sorted(found) for name, found in values.items()}


def _all_scores(runs: Iterable[RunFolder]) -> list[Score]:
    """Return the scores of all runs, each once, those that every run has first."""
    found = {score.name: score for score in SCORES}
    for run in runs:
        for score in run.summary.scores:
            found.setdefault(score.name, score)
    return list(found.values())


def _facts(run: RunFolder, scores: Iterable[Score]) -> dict[str, Any]:
    summary = run.summary
    return {
        **{score.name: summary.metrics.get(f"test/{score.name}") for score in scores},
        "loss": summary.metrics["test/loss"],
        "train_loss": summary.metrics.get("train/loss"),
        "model": summary.model,
        "network": json.dumps({key: value for key, value in leaves(run.config).items() if key.startswith("model.")}),
        "experiment": run.config.get("experiment"),
        "epochs": summary.counts.epochs,
        "training_images": summary.counts.train,
        "test_images": summary.counts.test,
        "parameters": summary.parameters,
        "gflop": summary.gflop_per_image,
        "seconds": summary.seconds["train"],
        "peak_memory_bytes": summary.peak_memory_bytes.device or summary.peak_memory_bytes.process,
        "scored_weights": summary.scored_weights,
        "leaks": len(summary.data.leaks),
        "commit": summary.commit,
        "device": summary.device,
        "precision": summary.precision,
    }


def _name_configurations(runs: Sequence[RunFolder]) -> tuple[dict[Path, str], dict[str, dict[str, Any]]]:
    """Call a configuration by its network's name, and by what else sets it apart.

    Returns:
        The name for each run's folder, and the differing keys with their values for each name.
    """
    compared = {
        run.path: {
            key: value
            for key, value in leaves(run.config).items()
            if key not in NOT_COMPARED and key.partition(".")[0] not in NEVER_COMPARED
        }
        for run in runs
    }
    differing = _differing_keys(list(compared.values()))
    others = [key for key in differing if not key.startswith("model.")]
    names = {
        run.path: " ".join([run.summary.model, *(_setting(key, compared[run.path].get(key)) for key in others)])
        for run in runs
    }
    kinds = {path: (names[path], *(json.dumps(compared[path].get(key)) for key in differing)) for path in compared}
    if len(set(kinds.values())) > len(set(names.values())):  # one name for several: say what their networks are made of
        inside = [key for key in differing if key not in others]
        names = {
            path: " ".join([name, *(_setting(key, compared[path].get(key)) for key in inside)])
            for path, name in names.items()
        }
    return names, {names[path]: {key: compared[path].get(key) for key in differing} for path in compared}


def _differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys in which configurations differ; what is wired by interpolation would be named twice."""
    named = {key for config in configs for key in config if not key.startswith(("module.", "data.augmentation."))}
    differing = sorted(key for key in named if len({json.dumps(config.get(key)) for config in configs}) > 1)
    optional = tuple(  # parts that one has and another has not: their settings go without saying
        key.removesuffix(TARGET) + "."
        for key in differing
        if key.endswith(TARGET) and any(config.get(key) is None for config in configs)
    )
    return [key for key in differing if key.endswith(TARGET) or not key.startswith(optional)]
