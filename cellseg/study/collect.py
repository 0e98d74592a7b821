"""The runs of a study, read back from their folders."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cellseg.run.folder import RECORDED, SCORES, leaves, read_config, read_json, read_table, read_test_rows
from cellseg.storage.errors import InputError

NOT_COMPARED = (
    "seed",
    "data.seed",
    "study",
    "threads",
    "n_jobs",
    "margin",
    "data.split.fold",
)  # what runs of one network may differ in
SPLIT = "data.split."
TARGET = "._target_"


@dataclass(frozen=True)
class Study:
    """A folder of runs.

    Attributes:
        folder: Where it lies.
        runs: A row for every finished run: network, seed, fold, run, and what its summary says of it.
        images: A row for every test image of every run: network, seed, fold, image, group and scores.
        curves: A row for every epoch of every run: network, seed, fold, epoch, and what was logged.
        unfinished: Folders of runs that are not finished.
        repeated: Folders of finished runs left out, since another has the same network, seed and fold.
        differences: The configuration keys in which networks differ, and their value for each.
        margins: Differences in Dice below it do not matter: every value that runs were made with.
        test_share: Test images over training images, mean over runs.
        data_fingerprint: Of the data all runs saw.
        split: The plan of the splits, but for the fold; every value there was.
        origin: What runs were made with, by name: root of the data, versions of packages; every value there was.
    """

    folder: Path
    runs: pd.DataFrame
    images: pd.DataFrame
    curves: pd.DataFrame
    unfinished: list[str]
    repeated: list[str]
    differences: dict[str, dict[str, Any]]
    margins: list[float]
    test_share: float
    data_fingerprint: str
    split: dict[str, list[str]]
    origin: dict[str, list[str]]

    @property
    def margin(self) -> float:
        """The smallest of them."""
        return self.margins[0]

    @property
    def networks(self) -> list[str]:
        """In order of first appearance."""
        return list(dict.fromkeys(self.runs["network"]))


def read_study(folder: Path) -> Study:
    """Read every run of a study.

    Raises:
        InputError: If there is no finished run, a file of one cannot be read, or runs saw different data.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; name a folder of runs, such as logs/first")
    candidates = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    finished = [path for path in candidates if (path / "summary.json").exists()]
    unfinished = [path.name for path in candidates if path not in finished and (path / "train.log").exists()]
    if not finished:
        raise InputError(f"{folder} holds no finished run{_what_instead(folder)}")
    configs = {path: leaves(read_config(path / "config.yaml")) for path in finished}
    summaries = {path: read_json(path / "summary.json") for path in finished}
    for path in finished:
        _check_records(path, configs[path], summaries[path])
    names, differences = _name_networks(configs, summaries)
    fingerprints = {path: str(summaries[path]["data"]["fingerprint"]) for path in finished}
    if other := [path for path in finished if fingerprints[path] != fingerprints[finished[0]]]:
        raise InputError(
            f"{other[0]} was trained on other data than {finished[0].name}, so they cannot be compared; "
            "move one of them to another study"
        )
    runs, images, curves, repeated = [], [], [], []
    taken: set[tuple[Any, ...]] = set()
    for path in finished:
        summary, fold = summaries[path], configs[path].get("data.split.fold")
        key = {"network": names[path], "seed": summary["seed"], "fold": -1 if fold is None else fold}
        if tuple(key.values()) in taken:
            repeated.append(path.name)
            continue
        taken.add(tuple(key.values()))
        own = key | {"run": path.name}
        runs.append(own | _facts(summary) | own)  # a stranger's metric may be called seed
        images.append(read_test_rows(path / "per_image.csv").assign(**key)[[*key, "image", "group", *SCORES]])
        curves.append(_epoch_rows(path / "metrics.csv").assign(**key))
    frame = pd.DataFrame(runs)
    return Study(
        folder=folder,
        runs=frame,
        images=pd.concat(images, ignore_index=True),
        curves=pd.concat(curves, ignore_index=True),
        unfinished=unfinished,
        differences=differences,
        repeated=repeated,
        margins=sorted({float(config.get("margin", 0.005)) for config in configs.values()}),
        test_share=float((frame["test_images"] / frame["training_images"]).mean()),
        data_fingerprint=fingerprints[finished[0]],
        split=_plans(configs.values()),
        origin=_origin(summaries.values()),
    )


def _check_records(path: Path, config: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """See that what is asked of the records of a run is there, and of its kind."""
    try:
        facts = _facts(summary)
        words = {"model", "scored_weights", "commit", "device", "precision"}
        numbers = [value for name, value in facts.items() if name not in words | {"peak_memory_bytes"}]
        numbers.append(facts["peak_memory_bytes"] or 0)  # Windows does not say
        numbers += [config.get("margin", 0.005), summary["metrics"]["test/loss"]]
        for value in numbers:
            if isinstance(value, bool) or not math.isfinite(value):
                raise ValueError(f"{value!r} where a number belongs")
        for value in (facts["training_images"], facts["test_images"], facts["epochs"], facts["parameters"]):
            if int(value) != value or not 0 < value < 2**62:
                raise ValueError(f"{value!r} where a count belongs")
        for value in (summary["seed"], config.get("data.split.fold") or 0):
            if type(value) is not int or not 0 <= value < 2**62:
                raise ValueError(f"{value!r} where a seed or a fold belongs")
        if not all(isinstance(facts[name], str) for name in words) or not isinstance(summary.get("versions", {}), dict):
            raise ValueError("no text where text belongs")
        str(summary["data"]["fingerprint"])
        json.dumps(config)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{path}: its records are not as train.py wrote them ({error!r}); move it away") from error


def _epoch_rows(path: Path) -> pd.DataFrame:
    """Return a row an epoch, all of them numbers."""
    table = read_table(path)
    try:
        rows = table.astype(float)
        rows["epoch"] = rows["epoch"].astype(int)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is not as train.py wrote it ({error}); move the run away") from error
    return rows


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


def _plans(configs: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    values: dict[str, set[str]] = {}
    for config in configs:
        for key, value in config.items():
            if key.startswith(SPLIT) and key not in (*NOT_COMPARED, f"{SPLIT}_target_") and value is not None:
                values.setdefault(key.removeprefix(SPLIT), set()).add(str(value))
    return {key: sorted(found) for key, found in values.items()}


def _origin(summaries: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    values: dict[str, set[str]] = {}
    for summary in summaries:
        versions = {name: value for name, value in summary.get("versions", {}).items() if name in RECORDED}
        for name, value in {"data": summary["data"].get("root"), **versions}.items():
            values.setdefault(name, set()).add(str(value))
    return {name: sorted(found) for name, found in values.items()}


def _facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name.replace("test/", "").replace("/", "_"): value for name, value in summary["metrics"].items()},
        "model": summary["model"],
        "epochs": summary["counts"]["epochs"],
        "training_images": summary["counts"]["train"],
        "test_images": summary["counts"]["test"],
        "parameters": summary["parameters"],
        "gflop": summary["gflop_per_image"],
        "seconds": summary["seconds"]["train"],
        "peak_memory_bytes": summary["peak_memory_bytes"]["device"] or summary["peak_memory_bytes"]["process"],
        "scored_weights": summary["scored_weights"],
        "leaks": len(summary["data"]["leaks"]),
        "commit": (summary["git_commit"] or "unknown")[:7] + ("+" if summary["git_dirty"] else ""),
        "device": summary["device"],
        "precision": summary["precision"],
    }


def _name_networks(
    configs: Mapping[Path, Mapping[str, Any]], summaries: Mapping[Path, Mapping[str, Any]]
) -> tuple[dict[Path, str], dict[str, dict[str, Any]]]:
    """Call what differs in more than seed and fold by the network's name, and by what else sets it apart."""
    compared = {
        path: {key: value for key, value in config.items() if key not in NOT_COMPARED}
        for path, config in configs.items()
    }
    # what is wired by interpolation would be told twice
    told = {
        key for config in compared.values() for key in config if not key.startswith(("module.", "data.augmentation."))
    }
    differing = sorted(key for key in told if len({json.dumps(config.get(key)) for config in compared.values()}) > 1)
    optional = tuple(  # parts that one has and another has not: their settings go without saying
        key.removesuffix(TARGET) + "."
        for key in differing
        if key.endswith(TARGET) and any(config.get(key) is None for config in compared.values())
    )
    differing = [key for key in differing if key.endswith(TARGET) or not key.startswith(optional)]
    others = [key for key in differing if not key.startswith("model.")]
    names = {
        path: " ".join([summaries[path]["model"], *(_setting(key, config.get(key)) for key in others)])
        for path, config in compared.items()
    }
    kinds = {path: (names[path], *(json.dumps(compared[path].get(key)) for key in differing)) for path in compared}
    if len(set(kinds.values())) > len(set(names.values())):  # one name for several networks: say what they are made of
        names = {
            path: " ".join(
                [names[path], *(_setting(key, compared[path].get(key)) for key in differing if key not in others)]
            )
            for path in compared
        }
    return names, {names[path]: {key: compared[path].get(key) for key in differing} for path in compared}
