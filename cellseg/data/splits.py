"""Divide images into training, validation and test part; groups stay together, and only the split's seed matters."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from cellseg.storage.errors import InputError
from cellseg.storage.records import Record, fault

Subsets = dict[str, list[str]]

SUBSETS = ("train", "val", "test")

MATCHES = tuple(
    itemgetter(*keys)
    for keys in (("name", "sha256", "mask_sha256"), ("sha256", "mask_sha256"), ("name", "sha256"), ("sha256",))
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitPlan:
    """How to divide a data set: a holdout of ``test_fraction``, fold ``fold`` of ``folds``, or as ``file`` says.

    Groups are drawn in the order of a hash of the seed and the group's name. The split is therefore the same on every
    platform, for any order of files and for any training seed.

    Args:
        seed: The split's own seed.
        folds: Number of folds; by default ``1 / test_fraction``, rounded, and at least 2.
        fold: The fold to test on, from 0; without it the split is a holdout.
        test_fraction: Share of the images to test on in a holdout, in (0, 1).
        val_fraction: Share of the training part to set aside for choosing a checkpoint, in [0, 1); 0 for none.
        file: The ``split.json`` of an earlier run, to repeat its split; do not set the values above with it.
        allow_leaks: Whether to train although related images are on two sides of the split; the run records it.

    Raises:
        InputError: If these values contradict each other; from ``divide``, if the images do not allow the split.
    """

    seed: int = 0
    folds: int | None = None
    fold: int | None = None
    test_fraction: float = 0.2
    val_fraction: float = 0.0
    file: str | None = None
    allow_leaks: bool = False

    def __post_init__(self) -> None:
        for name in ("seed", "folds", "fold"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise InputError(f"data.split.{name} must be a whole number, but is {value!r}")
        if not isinstance(self.allow_leaks, bool):
            raise InputError(f"data.split.allow_leaks must be true or false, but is {self.allow_leaks!r}")
        drawn = [entry.name for entry in fields(self) if entry.name not in ("file", "allow_leaks")]
        if self.file is not None and (
            other := [name for name in drawn if getattr(self, name) != getattr(SplitPlan, name)]
        ):
            raise InputError(
                f"data.split.file repeats a recorded split, so data.split.{other[0]} has no effect; remove it"
            )
        if not 0 < self.test_fraction < 1:
            raise InputError(f"data.split.test_fraction must lie between 0 and 1, but is {self.test_fraction}")
        if not 0 <= self.val_fraction < 1:
            raise InputError(f"data.split.val_fraction must be at least 0 and below 1, but is {self.val_fraction}")
        if self.folds is not None and self.folds < 2:
            raise InputError(f"data.split.folds must be at least 2, but is {self.folds}")
        if self.folds is not None and self.fold is None:
            raise InputError(
                f"data.split.folds={self.folds} needs data.split.fold, the fold to test on, from 0 to {self.folds - 1}"
            )
        if self.fold is not None and not 0 <= self.fold < self._fold_count:
            raise InputError(
                f"data.split.fold must lie between 0 and {self._fold_count - 1} "
                f"for {self._fold_count} folds, but is {self.fold}"
            )

    def record(self) -> dict[str, Any]:
        """Return the plan for ``split.json``, with the number of folds that is used."""
        plan = asdict(self) | {"folds": None if self.fold is None else self._fold_count}
        del plan["file"], plan["allow_leaks"]
        return plan

    @property
    def _fold_count(self) -> int:
        return self.folds or max(2, round(1 / self.test_fraction))

    def divide(self, groups: Mapping[str, str]) -> Subsets:
        """Return the names of the train, val and test images, each in the order of ``groups``.

        Args:
            groups: The group of every image, by name. Images of one group never end up in two subsets.
        """
        if self.fold is None:
            test = self._draw(groups, round(self.test_fraction * len(groups)), "test")
        else:
            test = self._fold_members(groups, self.fold)
        rest = {name: group for name, group in groups.items() if name not in test}
        val = self._draw(rest, round(self.val_fraction * len(rest)), "val") if self.val_fraction else set()
        subset_of = {name: "test" if name in test else "val" if name in val else "train" for name in groups}
        return {subset: [name for name in groups if subset_of[name] == subset] for subset in SUBSETS}

    def _draw(self, groups: Mapping[str, str], wanted: int, subset: str) -> set[str]:
        """Draw whole groups in hashed order, all that fit into ``wanted`` images; add one more if that is closer."""
        members = _members(groups)
        if not 0 < wanted < len(groups):
            raise InputError(
                f"data.split.{subset}_fraction of {len(groups)} images leaves {wanted} for {subset} and "
                f"{len(groups) - wanted} for training; both need at least 1: change the fraction or add images"
            )
        _refuse_large_group(members, len(groups) - wanted)
        drawn: set[str] = set()
        left = []
        for group in self._shuffled(members, subset):
            if len(drawn) + len(members[group]) <= wanted:
                drawn.update(members[group])
            else:
                left.append(group)
        if left:
            smallest = members[min(left, key=lambda group: len(members[group]))]
            if not drawn or len(drawn) + len(smallest) - wanted < wanted - len(drawn):
                drawn.update(smallest)
        return drawn

    def _fold_members(self, groups: Mapping[str, str], fold: int) -> set[str]:
        """Assign groups, largest first, each to the fold with the fewest images."""
        members = _members(groups)
        count = self._fold_count
        if len(members) < count:
            raise InputError(
                f"data.split.folds={count} needs at least {count} groups, but {len(groups)} images "
                f"form {len(members)}; use fewer folds"
            )
        _refuse_large_group(members, len(groups) - len(groups) // count)
        folds: list[set[str]] = [set() for _ in range(count)]
        for group in sorted(self._shuffled(members, "folds"), key=lambda group: -len(members[group])):
            min(folds, key=len).update(members[group])
        return folds[fold]

    def _shuffled(self, groups: Iterable[str], purpose: str) -> list[str]:
        return sorted(groups, key=lambda group: hashlib.sha256(f"{self.seed}/{purpose}/{group}".encode()).digest())


class SplitEntry(Record):
    """An image of a split: its name and group, and the content hashes of its pixels and of its cleaned mask."""

    name: str
    group: str
    sha256: str
    mask_sha256: str


class SplitRecord(Record):
    """The content of ``split.json``: the plan, and the images of every subset."""

    seed: int
    folds: int | None
    fold: int | None
    test_fraction: float
    val_fraction: float
    train: Annotated[list[SplitEntry], Field(min_length=1)]
    val: list[SplitEntry]
    test: Annotated[list[SplitEntry], Field(min_length=1)]

    @property
    def plan(self) -> dict[str, Any]:
        """How the images were divided, as ``SplitPlan.record`` gives it."""
        return self.model_dump(exclude=set(SUBSETS))

    @property
    def entries(self) -> list[tuple[str, SplitEntry]]:
        """Every image with its subset."""
        return [(subset, entry) for subset in SUBSETS for entry in getattr(self, subset)]

    def find(self, images: Mapping[str, tuple[str, str]], path: Path) -> tuple[Subsets, dict[str, str]]:
        """Match the images of a data set to a recorded split by content; return subsets and groups by current name.

        Args:
            path: The file this was read from, for messages.
            images: Content hashes of pixels and cleaned mask of every current image, by name.

        Raises:
            InputError: If the images are not exactly those of the split.
        """
        left = dict(images)
        subsets: Subsets = {subset: [] for subset in SUBSETS}
        groups, relabelled = {}, []
        wanted = self.entries
        for rule in MATCHES:  # the closest match first, as several files may contain the same image
            there: dict[tuple[str, ...], list[str]] = defaultdict(list)
            for name, (image, mask) in left.items():
                there[rule({"name": name, "sha256": image, "mask_sha256": mask})].append(name)
            unmatched = []
            for subset, entry in wanted:
                if not (same := there[rule(entry.model_dump())]):
                    unmatched.append((subset, entry))
                    continue
                name = same.pop(0)
                if left.pop(name)[1] != entry.mask_sha256:
                    relabelled.append(name)
                subsets[subset].append(name)
                groups[name] = entry.group
            wanted = unmatched
        if wanted:
            listed = [subset for subset, entry in self.entries if entry.sha256 == wanted[0][1].sha256]
            if len(listed) > 1:
                name, parts = wanted[0][1].name, " and in ".join(dict.fromkeys(listed))
                raise InputError(f"{path} has {name} in {parts}, more often than the data; keep one of them")
            raise InputError(
                f"{path}: no image has the recorded content of {wanted[0][1].name}: it was changed or is "
                "missing; restore it, or draw a new split"
            )
        if left:
            raise InputError(
                f"{path}: {len(left)} of the images are not in this split, such as {next(iter(left))}; "
                "move them away, or draw a new split"
            )
        if relabelled:
            log.warning(
                "repeated the split, but %d masks have changed since, such as %s", len(relabelled), relabelled[0]
            )
        position = {name: index for index, name in enumerate(images)}
        return {subset: sorted(names, key=position.__getitem__) for subset, names in subsets.items()}, groups


def read_split(path: Path) -> SplitRecord:
    """Read a ``split.json``.

    Raises:
        InputError: If it is missing or was not written by a run.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; name the split.json of a run")
    try:
        return SplitRecord.read(path)
    except (OSError, ValidationError) as error:
        raise InputError(f"{path}: cannot be read as the split.json of a run ({fault(error)}); name another") from error


def _members(groups: Mapping[str, str]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = defaultdict(list)
    for name, group in groups.items():
        members[group].append(name)
    return members


def _refuse_large_group(members: Mapping[str, list[str]], training: int) -> None:
    total, (size, group) = sum(map(len, members.values())), max((len(names), group) for group, names in members.items())
    if size > training:
        raise InputError(
            f"group {group} has {size} of {total} images, more than the {training} this split leaves for training, "
            "and a group cannot be split; test on a smaller share or add images of other groups"
        )
