"""The runs of a study, read back from their folders."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cellseg.errors import InputError
from cellseg.runs import leaves, read_config, read_json, read_table

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
SCORES = ("dice", "iou", "soft_dice")


@dataclass(frozen=True)
class Study:
    """A folder of runs.

    Attributes:
        folder: Where it lies.
        runs: A row for every finished run: network, seed, fold, run, and what its summary says of it.
        images: A row for every test image of every run: network, seed, fold, image, group and scores.
        curves: A row for every epoch of every run: network, seed, fold, epoch, and what was logged.
        unfinished: Folders of runs that are not finished.
        differences: The configuration keys in which networks differ, and their value for each.
        margin: Differences in Dice below it do not matter.
        test_share: Test images over training images, mean over runs.
        data_fingerprint: Of the data all runs saw.
        split: The plan all runs share, but for the fold.
        origin: What runs were made with, by name: root of the data, versions of packages; every value there was.
    """

    folder: Path
    runs: pd.DataFrame
    images: pd.DataFrame
    curves: pd.DataFrame
    unfinished: list[str]
    differences: dict[str, dict[str, Any]]
    margin: float
    test_share: float
    data_fingerprint: str
    split: dict[str, Any]
    origin: dict[str, list[str]]

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
        raise InputError(f"{folder} holds no finished run; train some with study={folder.name}")
    configs = {path: leaves(read_config(path / "config.yaml")) for path in finished}
    summaries = {path: read_json(path / "summary.json") for path in finished}
    names, differences = _name_networks(configs, summaries)
    fingerprints = {path: str(summaries[path]["data"]["fingerprint"]) for path in finished}
    if other := [path for path in finished if fingerprints[path] != fingerprints[finished[0]]]:
        raise InputError(
            f"{other[0]} was trained on other data than {finished[0].name}, so they cannot be compared; "
            "move one of them to another study"
        )
    runs, images, curves = [], [], []
    for path in finished:
        summary, fold = summaries[path], configs[path].get("data.split.fold")
        key = {"network": names[path], "seed": summary["seed"], "fold": -1 if fold is None else fold}
        runs.append(key | {"run": path.name} | _facts(summary))
        table = read_table(path / "per_image.csv")
        images.append(table[table["subset"] == "test"].assign(**key)[[*key, "image", "group", *SCORES]])
        curves.append(read_table(path / "metrics.csv").assign(**key))
    frame = pd.DataFrame(runs)
    return Study(
        folder=folder,
        runs=frame,
        images=pd.concat(images, ignore_index=True),
        curves=pd.concat(curves, ignore_index=True),
        unfinished=unfinished,
        differences=differences,
        margin=float(configs[finished[0]].get("margin", 0.005)),
        test_share=float((frame["test_images"] / frame["training_images"]).mean()),
        data_fingerprint=fingerprints[finished[0]],
        split={
            key.removeprefix(SPLIT): value
            for key, value in configs[finished[0]].items()
            if key.startswith(SPLIT) and key not in (*NOT_COMPARED, f"{SPLIT}_target_") and value is not None
        },
        origin=_origin(summaries.values()),
    )


def _origin(summaries: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    values: dict[str, set[str]] = {}
    for summary in summaries:
        for name, value in {"data": summary["data"].get("root"), **summary.get("versions", {})}.items():
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
    keys = sorted({key for config in compared.values() for key in config if not key.startswith("module.")})
    differing = [key for key in keys if len({json.dumps(config.get(key)) for config in compared.values()}) > 1]
    others = [key for key in differing if not key.startswith("model.")]
    names = {
        path: " ".join([summaries[path]["model"], *(f"{key}={config.get(key)}" for key in others)])
        for path, config in compared.items()
    }
    kinds = {path: (names[path], *(json.dumps(compared[path].get(key)) for key in differing)) for path in compared}
    if len(set(kinds.values())) > len(set(names.values())):  # one name for several networks: say what they are made of
        names = {
            path: " ".join(
                [names[path], *(f"{key}={compared[path].get(key)}" for key in differing if key not in others)]
            )
            for path in compared
        }
    return names, {names[path]: {key: compared[path].get(key) for key in differing} for path in compared}
