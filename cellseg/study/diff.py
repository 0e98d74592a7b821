"""Say in what two runs differ, and how far apart their scores are."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cellseg.data.splits import SplitEntry
from cellseg.run.begin import NOT_OF_THE_RUN
from cellseg.run.folder import RunFolder, leaves
from cellseg.storage.errors import count

REPEATED = ("data.root", "data.seed")  # the content of the data is compared, and seed is a key of its own
PATCHES = ("code.patch", "code-resumed.patch")
MOST_NAMED = 5


@dataclass(frozen=True)
class Difference:
    """One thing in which two runs differ.

    Attributes:
        part: configuration, images, labels, split, code, version or machine.
        what: Its name.
        first: In the first run.
        second: In the second.
    """

    part: str
    what: str
    first: str
    second: str


@dataclass(frozen=True)
class ScoreDifference:
    """A score of two runs: of each, and second minus first in its unit; None if a run has no value."""

    label: str
    first: float | None
    second: float | None
    difference: float | None
    unit: str


@dataclass(frozen=True)
class RunDifferences:
    """Everything in which two runs differ.

    Attributes:
        causes: Differences that can change scores.
        scores: One row for each score of the first run.
        same_weights: Whether their weights are the same, bit for bit; None if one has none.
    """

    causes: list[Difference]
    scores: list[ScoreDifference]
    same_weights: bool | None

    @property
    def conclusion(self) -> str:
        """What follows, in one sentence."""
        differ = any(row.difference for row in self.scores)
        if self.same_weights and not differ:
            return "The runs have the same weights, bit for bit, and the same scores."
        if self.causes:
            parts = ", ".join(dict.fromkeys(cause.part for cause in self.causes))
            effect = "scores differ" if differ else "scores are the same"
            return f"The {effect}; the runs differ in {parts}, and nothing shows which of these matters."
        if differ or self.same_weights is False:
            return (
                "Everything on record is the same, but the results are not: the runs do not repeat each other. The "
                "number of threads, another processor, or a GPU operation without a fixed order can be the reason."
            )
        return "Everything on record is the same, and so are the scores."


def compare_runs(first: RunFolder, second: RunFolder) -> RunDifferences:
    """Compare two finished runs by their files.

    Raises:
        InputError: If a run is not finished, or a file of it is missing or damaged.
    """
    causes = [
        *_configuration(first, second),
        *_data(first, second),
        *_code(first, second),
        *_environment(first, second),
    ]
    return RunDifferences(causes, list(_scores(first, second)), _same_weights(first, second))


def _configuration(first: RunFolder, second: RunFolder) -> Iterator[Difference]:
    here, there = leaves(first.config), leaves(second.config)
    for key in dict.fromkeys([*here, *there]):
        apart = {key, key.partition(".")[0]} & NOT_OF_THE_RUN or key.startswith(("module.", "data.augmentation."))
        if apart or key in REPEATED:
            continue
        values = [leaf.get(key) if key in leaf else "absent" for leaf in (here, there)]
        if values[0] != values[1]:
            yield Difference("configuration", key, *map(_shown, values))


def _data(first: RunFolder, second: RunFolder) -> Iterator[Difference]:
    """Compare images by content, then the labels of images that both have, then what each was used for."""
    here, there = _used(first), _used(second)
    only = [
        sorted(entry.name for sha, (_, entry) in one.items() if sha not in other)
        for one, other in ((here, there), (there, here))
    ]
    if any(only):
        yield Difference("images", "only there", *(_named(names) if names else "none" for names in only))
    shared = here.keys() & there.keys()
    changed = sorted(here[sha][1].name for sha in shared if here[sha][1].mask_sha256 != there[sha][1].mask_sha256)
    if changed:
        yield Difference("labels", "changed", _named(changed), "")
    moved = sorted(here[sha][1].name for sha in shared if here[sha][0] != there[sha][0])
    if moved:
        yield Difference("split", "in another part", _named(moved), "")


def _used(run: RunFolder) -> dict[str, tuple[str, SplitEntry]]:
    split = run.split
    return {
        entry.sha256: (part, entry)
        for part, entries in (("train", split.train), ("val", split.val), ("test", split.test))
        for entry in entries
    }


def _code(first: RunFolder, second: RunFolder) -> Iterator[Difference]:
    commits = [run.summary.git_commit or "unknown" for run in (first, second)]
    if commits[0] != commits[1]:
        yield Difference("code", "commit", *(commit[:7] for commit in commits))
    for name in PATCHES:
        patches = [_digest(run, name) for run in (first, second)]
        if patches[0] != patches[1]:
            yield Difference("code", name, *(patch or "absent" for patch in patches))


def _digest(run: RunFolder, name: str) -> str:
    """Return the beginning of a file's hash; empty if there is none."""
    path = run.path / name
    return hashlib.sha256(path.read_bytes()).hexdigest()[:7] if path.exists() else ""


def _environment(first: RunFolder, second: RunFolder) -> Iterator[Difference]:
    a, b = first.summary, second.summary
    for package in dict.fromkeys([*a.versions, *b.versions]):
        versions = [run.versions.get(package, "absent") for run in (a, b)]
        if versions[0] != versions[1]:
            yield Difference("version", package, *versions)
    for name in ("device", "devices", "precision", "platform"):
        values = [str(getattr(run, name)) for run in (a, b)]
        if values[0] != values[1]:
            yield Difference("machine", name, *values)


def _scores(first: RunFolder, second: RunFolder) -> Iterator[ScoreDifference]:
    for score in first.summary.scores:
        a, b = (run.summary.metrics.get(f"test/{score.name}") for run in (first, second))
        factor = 100 if score.unit == "points" else 1
        difference = None if a is None or b is None else factor * (b - a)
        yield ScoreDifference(score.label, a, b, difference, score.unit)


def _same_weights(first: RunFolder, second: RunFolder) -> bool | None:
    from cellseg.storage.tensors import read_tensors  # imports torch

    paths = [run.path / "weights.pth" for run in (first, second)]
    if not all(path.exists() for path in paths):
        return None
    here, there = (read_tensors(path, "train the run again") for path in paths)
    return here.keys() == there.keys() and all(
        value.shape == there[name].shape and bool((value == there[name]).all()) for name, value in here.items()
    )


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def _named(names: list[str]) -> str:
    return f"{count(len(names), 'image')}: {', '.join(names[:MOST_NAMED])}" + ", ..." * (len(names) > MOST_NAMED)
