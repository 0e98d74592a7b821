"""Read the runs of a study from their folders."""

import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from cellseg.metrics import SCORES, Score
from cellseg.run.folder import RunFolder, leaves
from cellseg.run.naming import FAILURE
from cellseg.run.plan import Look, Plan, read_looks, read_plans
from cellseg.storage.errors import InputError

NOT_COMPARED = (
    "seed",
    "data.seed",
    "study",
    "threads",
    "n_jobs",
    "margin",
    "looks",
    "data.split.fold",
    "data.split.seed",
    "data.cache",
    "data.origin",
    "trainer.enable_progress_bar",
)  # runs of one configuration may differ in these keys
NEVER_COMPARED = ("logger", "metrics", "callbacks.last")  # nor do these parts change the training
COPIES = {  # parts that are, unless someone replaces them, copies of others
    "module.network": "model",
    "module.loss": "loss",
    "module.optimizer": "optimizer",
    "module.scheduler": "scheduler",
    "data.augmentation": "augmentation",
}
SPLIT = "data.split."
TARGET = "._target_"
KEY = ["configuration", "seed", "fold"]  # identifies a run within a study
HOLDOUT = "holdout"  # the fold name of a run without folds


class DifferentDataError(InputError):
    """The runs of a study used different data, or different labels of the same images."""


@dataclass(frozen=True)
class Unfinished:
    """A run without a result.

    Attributes:
        run: Its folder name.
        configuration: Its configuration; None if it failed before it was recorded, or no finished run has the same.
        key: Its seed and fold; None without a record.
        failure: The reason why it failed; None if it did not fail.
    """

    run: str
    configuration: str | None
    key: tuple[int, str] | None
    failure: str | None

    @property
    def diverged(self) -> bool:
        """Whether the loss or an output became NaN or infinite."""
        return self.failure is not None and "diverged" in self.failure


@dataclass(frozen=True)
class Study:
    """A folder of runs.

    Attributes:
        folder: The folder of the study.
        scores: The scores of all runs, each once.
        runs: One row for each finished run: configuration, seed, fold, run, and values from its summary. With several
            split seeds, the fold has the split seed in its name, so that it names a training set. Masks of another
            tool have the first seed of their fold.
        images: One row for each test image of each run: configuration, seed, fold, image, group and scores. Those of
            masks of another tool are repeated for each seed of their fold: they are the same for all.
        baselines: One row for each baseline and test image of each run that has them, like ``images``.
        unfinished: The runs that are not finished.
        plans: The plans of the study, the first one first.
        looks: The reports that gave verdicts, in their order.
        repeated: Folder names of finished runs that are left out because another run has the same configuration, seed
            and fold.
        differences: For each configuration, the keys in which configurations differ and their values.
        margins: All margins that the runs used, ascending.
        test_share: Number of test images divided by number of training images, mean over runs.
        data_fingerprint: Fingerprint of the data; all runs share it.
        split: Settings of the split without the fold; for each key, all values in the study.
        origin: Data root and package versions; for each name, all values in the study.
    """

    folder: Path
    scores: list[Score]
    runs: pd.DataFrame
    images: pd.DataFrame
    baselines: pd.DataFrame
    unfinished: list[Unfinished]
    plans: list[Plan]
    looks: list[Look]
    repeated: list[str]
    differences: dict[str, dict[str, Any]]
    margins: list[float]
    test_share: float
    data_fingerprint: str
    split: dict[str, list[str]]
    origin: dict[str, list[str]]

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row for each epoch of each run: configuration, seed, fold, epoch, and the logged values."""
        rows = self.trained[["run", *KEY]].itertuples(index=False)
        runs = [(RunFolder(self.folder / run), dict(zip(KEY, key, strict=True))) for run, *key in rows]
        return _stacked(runs, lambda run: run.epochs)

    @cached_property
    def masks(self) -> frozenset[str]:
        """The configurations that are masks of another tool, or person."""
        return frozenset(self.runs.loc[self.runs["masks"].notna(), "configuration"])

    @property
    def trained(self) -> pd.DataFrame:
        """The rows of ``runs`` that trained a network."""
        return self.runs[self.runs["masks"].isna()]

    @property
    def margin(self) -> float:
        """The margin for verdicts: of the last plan or, without a plan, the smallest of the runs."""
        return self.plans[-1].margin if self.plans else self.margins[0]

    def averaged(self, configuration: str, scores: Sequence[str]) -> pd.DataFrame:
        """The scores of each image, mean over the runs of a configuration, indexed by image."""
        images = self.images[self.images["configuration"] == configuration]
        return images.groupby(["fold", "image"])[list(scores)].mean().groupby("image").mean()

    @property
    def per_image(self) -> list[Score]:
        """The scores that are computed image by image, Dice first."""
        return [score for score in self.scores if not score.pooled]

    @property
    def configurations(self) -> list[str]:
        """Names of the configurations, in the order of their first run."""
        return list(dict.fromkeys(self.runs["configuration"]))


def read_study(folder: Path) -> Study:
    """Read all finished runs of a study, and list the unfinished and repeated ones.

    Raises:
        InputError: If no run is finished, a file of a run cannot be read, or runs used different data.
    """
    found, unfinished = _find_runs(folder)
    found.sort(key=lambda run: run.summary.masks is not None)  # networks first
    names, differences = _name_configurations(found)
    fingerprint = _one_fingerprint(found)
    begun = [run for run in unfinished if _readable(run)]
    folds = _name_folds([*found, *begun])
    seeds: dict[str, set[int]] = {}
    for run in found:
        if run.settings.seed is not None:
            seeds.setdefault(folds[run.settings.training], set()).add(run.settings.seed)
    keys: dict[RunFolder, dict[str, Any]] = {}
    for run in found:
        fold = folds[run.settings.training]
        keys[run] = {"configuration": names[run.path], "seed": _seeds_of(run, fold, seeds)[0], "fold": fold}
    runs, repeated = _without_repeated(keys)
    kept = [(run, keys[run]) for run in runs]
    scores = _all_scores(runs)
    frame = pd.DataFrame([keys[run] | {"run": run.path.name} | _facts(run, scores) for run in runs])
    _refuse_changed_tests(kept)
    columns = ["image", "group", *(score.name for score in scores if not score.pooled)]
    return Study(
        folder=folder,
        scores=scores,
        runs=frame,
        images=_stacked(
            [(run, key | {"seed": seed}) for run, key in kept for seed in _seeds_of(run, key["fold"], seeds)],
            lambda run: run.test_rows.reindex(columns=columns),
        ),
        baselines=_stacked([(run, key) for run, key in kept if run.baselines is not None], lambda run: run.baselines),
        unfinished=[_describe(run, found, names, folds, begun=run in begun) for run in unfinished],
        plans=read_plans(folder),
        looks=read_looks(folder),
        repeated=repeated,
        differences=differences,
        margins=sorted({run.settings.margin for run in found}),
        test_share=float((frame["test_images"] / frame["training_images"]).mean()),
        data_fingerprint=fingerprint,
        split=_plans(found),
        origin=_origin(found),
    )


def _seeds_of(run: RunFolder, fold: str, seeds: Mapping[str, set[int]]) -> list[int]:
    """Return the seed of a run; of masks of another tool, all seeds of the trained runs with the same training set.

    Masks have at least two, which are alike, so that they are compared with other masks as if they had no seeds.
    """
    if run.settings.seed is not None:
        return [run.settings.seed]
    found = sorted(seeds.get(fold, ()))
    return [*found, *range(max(found, default=-1) + 1, max(found, default=-1) + 1 + max(0, 2 - len(found)))]


def _find_runs(folder: Path) -> tuple[list[RunFolder], list[RunFolder]]:
    """Return the finished and the unfinished runs of a study."""
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; name a folder of runs, for example logs/first")
    candidates = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    runs = [run for run in map(RunFolder, candidates) if run.finished]
    finished = {run.path for run in runs}
    unfinished = [
        RunFolder(path)
        for path in candidates
        if path not in finished and any((path / name).exists() for name in ("train.log", FAILURE))
    ]
    if not runs:
        raise InputError(f"{folder} contains no finished run{_hint(folder)}")
    return runs, unfinished


def _one_fingerprint(runs: Sequence[RunFolder]) -> str:
    """Return the fingerprint of the data, after a check that all runs have the same one."""
    first = runs[0]
    for run in runs:
        if run.summary.data.fingerprint != first.summary.data.fingerprint:
            raise DifferentDataError(
                f"{run.path} and {first.path.name} used different data, so their scores cannot be compared; move one "
                "of the two runs to another study folder, or, if only labels differ, name the labels to score both on: "
                f"cellseg report {shlex.quote(str(run.path.parent))} --truth DATA"
            )
    return first.summary.data.fingerprint


def _refuse_changed_tests(runs: Iterable[tuple[RunFolder, Mapping[str, Any]]]) -> None:
    """Check that seeds and folds of a configuration have the same groups, and seeds of a fold the same test images.

    Raises:
        InputError: If groups or the file of the split were changed between two runs.
    """
    tests: dict[tuple[str, str], tuple[RunFolder, set[tuple[str, str]]]] = {}
    groups: dict[tuple[str, str], tuple[RunFolder, str]] = {}
    for run, key in runs:
        tested = set(zip(run.test_rows["image"], run.test_rows["group"], strict=True))
        before, same = tests.setdefault((key["configuration"], key["fold"]), (run, tested))
        if tested != same:
            raise _changed_tests(run, before, "tested different images or groups of the same fold")
        divided = (run.path / "split.json").exists() and run.summary.masks is None
        for image, group in {(entry.name, entry.group) for _, entry in run.split.entries} if divided else tested:
            before, other = groups.setdefault((key["configuration"], image), (run, group))
            if group != other:
                raise _changed_tests(run, before, f"have {image} in different groups ({group} and {other})")


def _changed_tests(run: RunFolder, before: RunFolder, what: str) -> InputError:
    return InputError(
        f"{run.path} and {before.path.name} {what}: groups.csv or the file of the split has changed between them; "
        "move one of the two runs to another study folder"
    )


def _name_folds(runs: Sequence[RunFolder]) -> dict[tuple[int, int | None], str]:
    """Name each training set by its fold and, if there are several, by the seed of its split.

    Numbers are padded with zeros, so that names sort like numbers.
    """
    trainings = {run.settings.training for run in runs}
    splits, folds = {split for split, _ in trainings}, {fold for _, fold in trainings if fold is not None}
    wide, width = (max((len(str(number)) for number in numbers), default=0) for numbers in (splits, folds))
    names = {}
    for split, fold in trainings:
        name = HOLDOUT if fold is None else f"{fold:0{width}d}"
        names[split, fold] = f"{name} of split {split:0{wide}d}" if len(splits) > 1 else name
    return names


def _readable(run: RunFolder) -> bool:
    """Return whether an unfinished run has a configuration; a damaged one is no obstacle to the report."""
    try:
        return bool(run.settings)
    except InputError:
        return False


def _without_seed(run: RunFolder) -> str:
    """Return the name of a run folder without its seed, fold and split."""
    return re.sub(r"_(seed|fold|split|data\.split\.(seed|fold))-[^_]*", "", run.path.name)


def _describe(
    run: RunFolder,
    finished: Sequence[RunFolder],
    names: Mapping[Path, str],
    folds: Mapping[tuple[int, int | None], str],
    *,
    begun: bool,
) -> Unfinished:
    """Find the configuration of an unfinished run by that of a finished one."""
    if not begun:
        twin = next((names[other.path] for other in finished if _without_seed(other) == _without_seed(run)), None)
        return Unfinished(run.path.name, twin, None, run.failure)
    compared = _compared([run, *finished])
    same = next((names[other.path] for other in finished if compared[other.path] == compared[run.path]), None)
    return Unfinished(run.path.name, same, (run.settings.seed or 0, folds[run.settings.training]), run.failure)


def _without_repeated(keys: Mapping[RunFolder, Mapping[str, Any]]) -> tuple[list[RunFolder], list[str]]:
    """Return the first run of each configuration, seed and fold, and the names of the other runs."""
    first: dict[tuple[Any, ...], RunFolder] = {}
    for run, key in keys.items():
        first.setdefault(tuple(key.values()), run)
    kept = list(first.values())
    return kept, [run.path.name for run in keys if run not in kept]


def _stacked(runs: Iterable[tuple[RunFolder, Mapping[str, Any]]], table: Callable[[RunFolder], Any]) -> pd.DataFrame:
    """Concatenate one table of each run, and add configuration, seed and fold to each row."""
    tables = [table(run).assign(**key) for run, key in runs]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=KEY)


def _hint(folder: Path) -> str:
    """Say what the folder contains instead of runs, and which folder to name."""
    if (folder / "config.yaml").exists():
        return f", because it is itself a run; name the folder that contains it: {folder.parent}"
    if studies := sorted({path.parents[1].name for path in folder.glob("*/*/summary.json")}):
        return f", but studies; name one of them, for example {folder / studies[0]}"
    return f"; train a run in it: cellseg train study={folder.name}"


def _say_setting(key: str, value: Any, among: Iterable[Any]) -> str:
    """Write a setting; of a class only the name, unless another value of the key has the same name."""
    if value is None:
        return f"{key.removesuffix(TARGET)}=none"
    if isinstance(value, str) and value in ("none", "True", "False"):  # not the value that is shown so
        return f"{key}={value!r}"
    if key.endswith(TARGET):
        short = str(value).rpartition(".")[2]
        alike = {str(other) for other in among if str(other).rpartition(".")[2] == short}
        return f"{key.removesuffix(TARGET)}={short if len(alike) == 1 else value}"
    return f"{key}={value}"


def _plans(runs: Iterable[RunFolder]) -> dict[str, list[str]]:
    values: dict[str, set[str]] = {}
    for run in runs:
        for key, value in leaves(run.config).items():
            if key.startswith(SPLIT) and key not in (f"{SPLIT}fold", f"{SPLIT}_target_") and value is not None:
                values.setdefault(key.removeprefix(SPLIT), set()).add(str(value))
    return {key: sorted(found) for key, found in values.items()}


def _origin(runs: Iterable[RunFolder]) -> dict[str, list[str]]:
    values: dict[str, set[str]] = {}
    for run in runs:
        for name, value in {**run.summary.versions, "data": run.summary.data.root}.items():
            values.setdefault(name, set()).add(value)
    return {name: sorted(found) for name, found in values.items()}


def _all_scores(runs: Iterable[RunFolder]) -> list[Score]:
    """Return the scores of all runs, each once, built-in scores first."""
    found = {score.name: score for score in SCORES}
    for run in runs:
        for score in run.summary.scores:
            found.setdefault(score.name, score)
    return list(found.values())


def _facts(run: RunFolder, scores: Iterable[Score]) -> dict[str, Any]:
    summary = run.summary
    return {
        **{score.name: summary.metrics.get(f"test/{score.name}") for score in scores},
        "loss": summary.metrics.get("test/loss"),
        "masks": summary.masks,
        "train_loss": summary.metrics.get("train/loss"),
        "model": summary.model,
        "network": json.dumps({key: value for key, value in leaves(run.config).items() if key.startswith("model.")}),
        "experiment": run.config.get("experiment"),
        "epochs": summary.counts.epochs,
        "training_images": summary.counts.train,
        "test_images": summary.counts.test,
        "validation_images": summary.counts.val,
        "parameters": summary.parameters,
        "gflop": summary.gflop_per_image,
        "seconds": summary.seconds.get("train"),
        "peak_memory_bytes": summary.peak_memory_bytes.device or summary.peak_memory_bytes.process,
        "scored_weights": summary.scored_weights,
        "leaks": len(summary.data.leaks),
        "commit": summary.commit,
        "device": summary.device,
        "precision": summary.precision,
        "resize": run.settings.data.resize,
        "side": run.settings.reading.image_size or 0,
        "objects": summary.averaging.get("objects"),
        "not judged": summary.averaging.get("not judged"),
        "scored_on": summary.scored_on,
        "fitted": summary.fitted,
    }


def _compared(runs: Iterable[RunFolder]) -> dict[Path, dict[str, Any]]:
    """Return the settings of each run that make a configuration, by run folder."""
    runs = list(runs)
    ignored, roots = {*NOT_COMPARED}, dict[Any, Any]()
    if not any(run.finished and run.summary.scored_on for run in runs):
        ignored.add("data.root")  # all runs used the same data, though perhaps elsewhere
    found = {
        run.path: {
            key: value
            for key, value in leaves(run.config).items()
            if key not in ignored and not any(f"{key}.".startswith(f"{part}.") for part in NEVER_COMPARED)
        }
        for run in runs
    }
    for run in runs:
        if "data.root" in found[run.path] and (run.path / "split.json").exists():  # equal labels may lie in two places
            labels = frozenset(entry.mask_sha256 for _, entry in run.split.entries)
            found[run.path]["data.root"] = roots.setdefault(labels, found[run.path]["data.root"])
    return found


def _name_configurations(runs: Sequence[RunFolder]) -> tuple[dict[Path, str], dict[str, dict[str, Any]]]:
    """Name each configuration by its network and by the other settings in which configurations differ.

    Returns:
        For each run folder, the name of its configuration; for each name, the differing keys and their values.
    """
    compared = _compared(run for run in runs if run.summary.masks is None)
    masks = {run.path: run.summary.model for run in runs if run.summary.masks is not None}
    differing = _differing_keys(list(compared.values()))
    others = [key for key in differing if not key.startswith("model.")]
    if "experiment" in others and _tells_apart("experiment", differing, runs, compared):
        others = ["experiment"]  # it sets the other keys

    def setting(key: str, path: Path) -> str:
        return _say_setting(key, compared[path].get(key), (settings.get(key) for settings in compared.values()))

    names = {
        run.path: " ".join([run.summary.model, *(setting(key, run.path) for key in others)])
        for run in runs
        if run.path in compared
    }
    kinds = {path: (names[path], *(json.dumps(compared[path].get(key)) for key in differing)) for path in compared}
    if len(set(kinds.values())) > len(set(names.values())):  # one name for several: add settings of the network
        inside = [key for key in differing if key not in others and _varies_within_names(key, names, compared)]
        names = {path: " ".join([name, *(setting(key, path) for key in inside)]) for path, name in names.items()}
    differences = {names[path]: {key: compared[path].get(key) for key in differing} for path in compared}
    return names | masks, differences


def _varies_within_names(key: str, names: Mapping[Path, str], compared: Mapping[Path, Mapping[str, Any]]) -> bool:
    """Return whether runs of one name have several values of this key; otherwise the name says it already."""
    values = {(names[path], json.dumps(settings.get(key))) for path, settings in compared.items()}
    return len(values) > len({name for name, _ in values})


def _tells_apart(
    key: str, differing: Sequence[str], runs: Sequence[RunFolder], compared: Mapping[Path, Mapping[str, Any]]
) -> bool:
    """Return whether configurations of one network differ only where this key differs."""
    own = [run for run in runs if run.path in compared]
    some, all_ = (
        {(run.summary.model, *(json.dumps(compared[run.path].get(name)) for name in keys)) for run in own}
        for keys in ([key], differing)
    )
    return len(some) == len(all_)


def _differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys in which configurations differ, without keys that only repeat others.

    These are copies of another part, and settings of a part that some configurations lack, if its class determines
    them.
    """
    values = {
        key: [json.dumps(config.get(key)) for config in configs]
        for key in {key for config in configs for key in config}
    }
    differing = {key: found for key, found in sorted(values.items()) if len(set(found)) > 1}
    parts = {key.removesuffix(TARGET): found for key, found in differing.items() if key.endswith(TARGET)}

    def repeats(key: str) -> bool:
        for copy, part in COPIES.items():
            if key.startswith(f"{copy}.") and values.get(part + key.removeprefix(copy)) == differing[key]:
                return True
        return any(
            key.startswith(f"{part}.")
            and key != part + TARGET
            and "null" in kinds
            and len(set(zip(kinds, differing[key], strict=True))) == len(set(kinds))
            for part, kinds in parts.items()
        )

    return [key for key in differing if not repeats(key)]
