"""What lies in a folder, and images and masks paired by their names: what the layouts are made of."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cellseg.data.formats import ANNOTATIONS, IMAGE_SUFFIXES, foreign_suffix
from cellseg.data.words import CHANNEL, folder_role, image_keys, is_preview, mask_keys, preview_base, stem_of
from cellseg.storage.errors import InputError

SYSTEM_NAMES = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"})
LONGEST_NAME = 200  # bytes, so that a run can add to it


@dataclass(frozen=True)
class Problem:
    """Something in the folder that keeps it from being trained on: where, what was seen, and what to do."""

    path: Path
    seen: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.seen}; {self.remedy}"


@dataclass(frozen=True, eq=False)
class Folder:
    """What lies in a folder by name: pictures, folders, files in formats not read here; hidden and system ones not."""

    path: Path
    pictures: list[Path]
    folders: list[Path]
    foreign: list[Path]

    @classmethod
    def read(cls, path: Path) -> "Folder":
        """List a folder.

        Raises:
            InputError: If it cannot be listed, or a name in it is too long or not UTF-8.
        """
        pictures, folders, foreign = [], [], []
        try:
            with os.scandir(path) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.name.startswith(".") or entry.name.lower() in SYSTEM_NAMES:
                        continue
                    refuse_name(path, entry.name)
                    if entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file():
                        pictures.append(path / entry.name)
                    elif entry.is_dir() and not entry.name.lower().endswith(".zarr"):
                        folders.append(path / entry.name)
                    elif foreign_suffix(entry.name) or entry.name.lower().endswith(ANNOTATIONS):
                        foreign.append(path / entry.name)
        except OSError as error:
            raise InputError(f"{error.filename or path}: cannot be looked into ({error.strerror})") from error
        return cls(path, pictures, folders, foreign)

    def of(self, *, masks: bool) -> list[Path]:
        """Return the folders in it whose names say that they hold images, or masks."""
        return [folder for folder in self.folders if (role := folder_role(folder.name)) and role.mask == masks]


@dataclass
class Found:
    """One reading of a folder: pairs as (name, image, masks), and what does not fit it."""

    layout: str
    pairs: list[tuple[str, Path, tuple[Path, ...]]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    mentioned: set[str] = field(default_factory=set)  # pictures that need no further telling
    left_out: list[Path] = field(default_factory=list)  # pictures and other files that take no part
    failure: tuple[Path, str] | None = None  # the first image without a mask, and why it has none
    parts: dict[str, int] = field(default_factory=dict)  # pairs of each part of an export, of which one must be chosen

    def example(self, root: Path) -> str:
        """Return the first image."""
        return str(self.pairs[0][1].relative_to(root))

    def complain(self, path: Path, seen: str, remedy: str, pictures: Iterable[Path] = ()) -> None:
        """Note a problem, and that it has been told of these pictures."""
        self.problems.append(Problem(path, seen, remedy))
        self.mentioned.update(str(picture) for picture in pictures or [path])

    def pair_up(self, images: Sequence[Path], masks: Sequence[Path]) -> None:
        """Pair images and masks by name: the same, or the same less words such as mask after or before it."""
        image_stems = {stem for image in images for stem in (image.stem, stem_of(image))}
        by_key: dict[str, list[Path]] = defaultdict(list)
        for mask in masks:
            exact = mask.stem in image_stems or stem_of(mask) in image_stems
            for key in {mask.stem, stem_of(mask)} if exact else mask_keys(mask):
                by_key[key].append(mask)
        by_stem: dict[str, list[Path]] = defaultdict(list)
        for image in images:
            by_stem[image.stem].append(image)
        taken: dict[Path, Path] = {}
        bases = {key for image in images for key in image_keys(image)} | by_key.keys()
        for stem, twins in by_stem.items():
            matching = next((by_key[key] for key in image_keys(twins[0]) if key in by_key), [])
            if len(twins) > 1:
                self.complain(
                    twins[0], f"there is more than one image of this name ({names(twins)})", "keep one", twins
                )
            elif not matching and CHANNEL.search(stem) and CHANNEL.sub("", stem) in by_key:
                self.complain(twins[0], "a second channel", "merge the channels into one image, or move it away")
            elif not matching and is_preview(twins[0]) and preview_base(twins[0]) in bases:
                self.mentioned.add(str(twins[0]))
            elif not matching:
                self.complain(twins[0], "the image has no mask", "add the mask or move the image away")
                self.failure = self.failure or (twins[0], f" has no mask: {_holds(masks)}")
            elif len(matching) > 1:
                several = f"more than one mask could belong to it ({names(matching)})"
                self.complain(twins[0], several, "keep one", [*twins, *matching])
            elif matching[0] in taken:
                self.complain(
                    twins[0],
                    f"the mask {matching[0].name} could belong to it and to {taken[matching[0]].name}",
                    "give every image a mask of its own name",
                )
            else:
                taken[matching[0]] = twins[0]
                self.pairs.append((stem, twins[0], (matching[0],)))
        for mask in masks:
            if mask in taken or str(mask) in self.mentioned:
                continue
            if is_preview(mask) and preview_base(mask) in bases:
                self.mentioned.add(str(mask))
            else:
                self.complain(mask, "the mask has no image", "add the image or move the mask away")


def told_apart(images: Sequence[Path]) -> list[str]:
    """Name images by their stems or, if two are the same, by as many folders before them as set all apart.

    Capitals do not set names apart, as on some file systems they do not.
    """
    deepest = max((len(image.parts) for image in images), default=1)
    for ending in (False, True):
        for number in range(1, deepest + 1):
            called = [_flat(image if ending else image.with_suffix(""), number, dots=ending) for image in images]
            if len({name.casefold() for name in called}) == len(called):
                return called
    return [f"{number}_{image.stem}" for number, image in enumerate(images, start=1)]


def _flat(path: Path, number: int, *, dots: bool) -> str:
    parts = [part for part in path.parts if part != path.anchor][-number:]
    if dots:
        parts[-1] = parts[-1].replace(".", "_")
    return "_".join(parts)


def refuse_name(folder: Path, name: str) -> None:
    """Refuse a name that a run cannot write down.

    Raises:
        InputError: If it is not UTF-8, or too long.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise InputError(f"{folder}: the name {name!a} in it is not UTF-8; rename it") from error
    if size > LONGEST_NAME:
        raise InputError(f"{folder}: the name {name[:20]}… in it has {size} bytes; shorten it to {LONGEST_NAME}")


def names(paths: Iterable[Path]) -> str:
    """Name a few of many files."""
    called = sorted(path.name for path in paths)
    return ", ".join(called[:5]) + (f" and {len(called) - 5} more" if len(called) > 5 else "")


def _holds(masks: Sequence[Path]) -> str:
    if not masks:
        return "there are no masks"
    return f"{masks[0].parent.name}/ holds {names(masks)}"
