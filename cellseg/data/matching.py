"""List folders, and pair images with masks by name; ``layouts`` builds on this."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cellseg.data.formats import ANNOTATIONS, IMAGE_SUFFIXES, foreign_suffix
from cellseg.data.words import (
    CHANNEL,
    IGNORES,
    folder_role,
    image_keys,
    is_ignore,
    is_preview,
    mask_keys,
    preview_base,
    stem_of,
)
from cellseg.storage.errors import InputError

SYSTEM_NAMES = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"})
LONGEST_NAME = 200  # bytes; a run appends to the name


@dataclass(frozen=True)
class Problem:
    """A problem that stops training: the path, what is wrong, and what to do."""

    path: Path
    seen: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.seen}; {self.remedy}"


@dataclass(frozen=True, eq=False)
class Folder:
    """The images, folders and files of other formats in a folder.

    Hidden and system files are left out, and what marks pixels that nobody judged (see ``ignored``).
    """

    path: Path
    pictures: list[Path]
    folders: list[Path]
    foreign: list[Path]

    @classmethod
    def read(cls, path: Path) -> "Folder":
        """List a folder.

        Raises:
            InputError: If it cannot be listed, a name in it is too long or not UTF-8, or a link leads to no folder.
        """
        pictures, folders, foreign = [], [], []
        try:
            with os.scandir(path) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.name.startswith(".") or entry.name.lower() in SYSTEM_NAMES:
                        continue
                    refuse_name(path, entry.name)
                    missing = entry.is_symlink() and not Path(entry.path).exists()
                    if missing and "." not in entry.name:  # was a folder
                        raise InputError(
                            f"{entry.path}: is a link to {Path(entry.path).readlink()}, which does not exist or cannot "
                            "be reached; bring the folder there, or delete the link"
                        )
                    # a link to nothing fails when the image is read, with its name
                    if entry.name.lower().endswith(IMAGE_SUFFIXES) and (missing or entry.is_file()):
                        if not is_ignore(path / entry.name):
                            pictures.append(path / entry.name)
                    elif entry.name.lower() in IGNORES:
                        continue
                    elif entry.is_dir() and not entry.name.lower().endswith(".zarr"):
                        folders.append(path / entry.name)
                    elif foreign_suffix(entry.name) or entry.name.lower().endswith(ANNOTATIONS):
                        foreign.append(path / entry.name)
        except OSError as error:
            raise InputError(
                f"{error.filename or path}: cannot be opened ({error.strerror}); check its permissions"
            ) from error
        return cls(path, pictures, folders, foreign)

    def of(self, *, masks: bool) -> list[Path]:
        """Return the folders in it whose names mean images, or masks."""
        return [folder for folder in self.folders if (role := folder_role(folder.name)) and role.mask == masks]


@dataclass
class Found:
    """The pairs of a folder in one layout, as (name, image, masks), and everything that does not fit."""

    layout: str
    pairs: list[tuple[str, Path, tuple[Path, ...]]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    mentioned: set[str] = field(default_factory=set)  # images that need no further message
    left_out: list[Path] = field(default_factory=list)  # images and other files that are ignored
    ignored: dict[str, tuple[Path, ...]] = field(default_factory=dict)  # files of not-judged pixels, by pair
    failure: tuple[Path, str] | None = None  # the first image without a mask of its own, and the reason
    parts: dict[str, int] = field(
        default_factory=dict
    )  # number of pairs in each part of an export; the user must choose one

    def example(self, root: Path) -> str:
        """Return the path of the first image, as an example for messages."""
        return str(self.pairs[0][1].relative_to(root))

    def complain(self, path: Path, seen: str, remedy: str, pictures: Iterable[Path] = ()) -> None:
        """Add a problem, and mark these images as reported."""
        self.problems.append(Problem(path, seen, remedy))
        self.mentioned.update(str(picture) for picture in pictures or [path])

    def pair_up(self, images: Sequence[Path], masks: Sequence[Path]) -> None:
        """Pair images and masks with the same name, apart from words such as mask before or after it."""
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
        spelt: dict[str, Path] = {}
        for mask in reversed(masks):  # the first of several with the same key
            spelt |= dict.fromkeys((key.casefold() for key in mask_keys(mask)), mask)
        for stem, twins in by_stem.items():
            matching = next((by_key[key] for key in image_keys(twins[0]) if key in by_key), [])
            if len(twins) > 1:
                several = f"there is more than one image with this name ({names(twins)})"
                self.complain(twins[0], several, "keep one", twins)
                self.failure = self.failure or (twins[0], f": {several}")
            elif not matching and CHANNEL.search(stem) and CHANNEL.sub("", stem) in by_key:
                self.complain(
                    twins[0], "looks like a second channel", "merge the channels into one image, or move it away"
                )
            elif not matching and is_preview(twins[0]) and preview_base(twins[0]) in bases:
                self.mentioned.add(str(twins[0]))
            elif not matching:
                near = next((spelt[key] for each in image_keys(twins[0]) if (key := each.casefold()) in spelt), None)
                capitals = f"only capital letters differ from {near.name}" if near else ""
                remedy = f"{capitals}: rename one of them" if near else "add the mask or move the image away"
                self.complain(twins[0], "the image has no mask", remedy)
                self.failure = self.failure or (twins[0], f" has no mask: {capitals or _content(masks)}")
            elif len(matching) > 1:
                several = f"more than one mask could belong to it ({names(matching)})"
                self.complain(twins[0], several, "keep one", [*twins, *matching])
                self.failure = self.failure or (twins[0], f": {several}")
            elif matching[0] in taken:
                self.complain(
                    twins[0],
                    f"the mask {matching[0].name} could belong to it and to {taken[matching[0]].name}",
                    "give each mask the name of its image",
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
    """Return a unique name for each image: its stem, with as many parent folders as needed.

    Names that differ only in capitals count as equal, because some file systems do not distinguish them.
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
    """Refuse a name that a run cannot use for its own files.

    Raises:
        InputError: If it is not UTF-8, or too long.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise InputError(f"{folder}: contains the name {name!a}, which is not UTF-8; rename it") from error
    if size > LONGEST_NAME:
        raise InputError(
            f"{folder}: contains the name {name[:20]}… of {size} bytes; shorten it to {LONGEST_NAME} bytes"
        )


def names(paths: Iterable[Path]) -> str:
    """Join the names of the first five files, and count the others."""
    called = sorted(path.name for path in paths)
    return ", ".join(called[:5]) + (f" and {len(called) - 5} more" if len(called) > 5 else "")


def _content(masks: Sequence[Path]) -> str:
    if not masks:
        return "there are no masks"
    return f"{masks[0].parent.name}/ contains {names(masks)}"
