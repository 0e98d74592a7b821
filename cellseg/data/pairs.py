"""Which images belong to which masks, read from the names in a folder: four layouts, told apart by looking."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cellseg.data.groups import natural, read_groups
from cellseg.storage.errors import InputError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
SYSTEM_NAMES = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"})
IMAGE_FOLDERS = frozenset({"images", "imgs", "imagestr"})
MASK_FOLDERS = frozenset({"masks", "labels", "labelstr", "annotations"})
MASK_WORD = re.compile(r"(?<!un)mask|(?<!un)label(?![-_ ]?free)|(?<![a-z])gt(?![a-z])", re.IGNORECASE)
EXACT = "exact"  # beside mask.jpg, the mask as cellseg synthesize drew it, before it was flawed like a labeller's
MASK_SUFFIX = re.compile(r"_masks?$", re.IGNORECASE)
LONGEST_NAME = 200  # bytes, so that a run can add to it
CHANNEL = re.compile(r"_\d{4}$")
LAYOUTS = (
    "one folder a pair (cell_1/source.jpg and cell_1/mask.jpg), one folder an image "
    "(ID/images/ID.png and many ID/masks/*), parallel folders (images/a.png and masks/a.png), "
    "or side by side (a.png and a_mask.png)"
)


@dataclass(frozen=True)
class Pair:
    """An image file, the mask files whose union labels it, and the group of siblings it belongs to."""

    name: str
    group: str
    image: Path
    masks: tuple[Path, ...]


@dataclass(frozen=True)
class Problem:
    """Something in the folder that keeps it from being trained on: where, what was seen, and what to do."""

    path: Path
    seen: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.seen}; {self.remedy}"


@dataclass(frozen=True)
class Scan:
    """What a folder holds.

    Attributes:
        layout: How pairs lie in it, in words.
        pairs: The complete ones, in natural order (cell_2 before cell_10).
        problems: What is incomplete or ambiguous.
        ignored: Pictures that lie beside the layout and take no part in it.
        grouped: Whether a ``groups.csv`` says which pairs are siblings.
    """

    layout: str
    pairs: list[Pair]
    problems: list[Problem]
    ignored: list[Path]
    grouped: bool


def find_pairs(root: Path, groups: Path | None = None) -> Scan:
    """Scan a folder that is to be trained on.

    Raises:
        InputError: As ``scan_pairs``, and also for the first problem that it found.
    """
    scan = scan_pairs(root, groups)
    if scan.problems:
        others = len(scan.problems) - 1
        raise InputError(
            f"{scan.problems[0]}" + (f" (and {others} more problems: cellseg check {root})" if others else "")
        )
    return scan


def scan_pairs(root: Path, groups: Path | None = None) -> Scan:
    """List the pairs of a data set and everything that is wrong with their names.

    Groups come from ``groups``, or else from ``groups.csv`` in the folder (columns ``pair`` and ``group``), where it
    exists; without it every pair is a group of its own. Hidden and system files are ignored.

    Raises:
        InputError: If the folder is missing, holds no pairs, or could be read in more than one way.
    """
    try:
        found_there = root.is_dir()
    except OSError as error:
        raise InputError(f"a data set must be a folder, but {root} cannot be looked into ({error.strerror})") from error
    if not found_there:
        what = "is a file" if root.exists() else "does not exist"
        raise InputError(f"a data set must be a folder, but {root} {what}; expected {LAYOUTS}")
    top = _Folder.read(root)
    inside = [_Folder.read(path) for path in top.folders]
    candidates = [found for recognise in RECOGNISERS if (found := recognise(top, inside))]
    if not candidates:
        raise InputError(f"{root} holds no pairs; expected {LAYOUTS}; {_describe(top, inside)}{_hint(root, inside)}")
    if len(candidates) > 1:
        seen = " and ".join(f"{found.layout} (as in {found.example(root)})" for found in candidates)
        raise InputError(f"{root} can be read in {len(candidates)} ways: {seen}; leave one of them in the folder")
    [found] = candidates
    tables = [groups] if groups else sorted(file for file in root.iterdir() if file.name.lower() == "groups.csv")
    if len(tables) > 1:
        raise InputError(f"{root} holds {_names(tables)}; keep one of them")
    table = tables[0] if tables else None
    names = [name for name, _, _ in found.pairs]
    group_of = {name: name for name in names} if table is None else read_groups(table, names)
    pairs = [Pair(name, group_of[name], image, masks) for name, image, masks in found.pairs]
    pairs.sort(key=lambda pair: natural(pair.name))
    used = {str(path) for pair in pairs for path in (pair.image, *pair.masks)} | found.mentioned
    ignored = [path for folder in (top, *inside) for path in folder.pictures if str(path) not in used]
    return Scan(found.layout, pairs, found.problems, ignored, grouped=table is not None)


def looks_like_mask(path: Path) -> bool:
    """Tell a mask by its name, or by that of its folder."""
    drawn = path.stem.lower() == EXACT and any(path.parent.glob("[mM][aA][sS][kK].*"))
    return path.parent.name.lower() in MASK_FOLDERS or MASK_WORD.search(path.stem) is not None or drawn


@dataclass(frozen=True)
class _Folder:
    """The pictures and folders in a folder by name, hidden and system ones left out."""

    path: Path
    pictures: list[Path]
    folders: list[Path]

    @classmethod
    def read(cls, path: Path) -> "_Folder":
        pictures, folders = [], []
        try:
            with os.scandir(path) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.name.startswith(".") or entry.name.lower() in SYSTEM_NAMES:
                        continue
                    _refuse_name(path, entry.name)
                    if entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file():
                        pictures.append(path / entry.name)
                    elif entry.is_dir():
                        folders.append(path / entry.name)
        except OSError as error:
            raise InputError(f"{error.filename or path}: cannot be looked into ({error.strerror})") from error
        return cls(path, pictures, folders)

    def named(self, names: frozenset[str]) -> list[Path]:
        return [folder for folder in self.folders if folder.name.lower() in names]


@dataclass
class _Found:
    """One reading of a folder: pairs as (name, image, masks), and what does not fit it."""

    layout: str
    pairs: list[tuple[str, Path, tuple[Path, ...]]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    mentioned: set[str] = field(default_factory=set)  # pictures that need no further telling

    def example(self, root: Path) -> str:
        return str(self.pairs[0][1].relative_to(root))

    def complain(self, path: Path, seen: str, remedy: str, pictures: Iterable[Path] = ()) -> None:
        self.problems.append(Problem(path, seen, remedy))
        self.mentioned.update(str(picture) for picture in pictures or [path])


def _folder_a_pair(top: _Folder, inside: list[_Folder]) -> _Found | None:
    found = _Found("one folder a pair")
    parallel = {*top.named(IMAGE_FOLDERS), *top.named(MASK_FOLDERS)} if _is_parallel(top) else set()
    for folder in inside:
        if not folder.pictures or folder.path in parallel:
            continue
        stems = [(path, path.stem.lower()) for path in folder.pictures]
        roles = {role: [path for path, stem in stems if stem == role] for role in ("source", "mask")}
        masks = [path for path, stem in stems if MASK_WORD.search(stem) or (stem == EXACT and roles["mask"])]
        if len(roles["source"]) == len(roles["mask"]) == 1:
            found.pairs.append((folder.path.name, roles["source"][0], (roles["mask"][0],)))
            found.mentioned.update(map(str, folder.pictures))  # what lies beside them needs no telling
        elif len(folder.pictures) == 2 and len(masks) == 1:
            [image] = set(folder.pictures) - set(masks)
            found.pairs.append((folder.path.name, image, (masks[0],)))
        else:
            twice = [f"more than one {role}.*" for role, paths in roles.items() if len(paths) > 1]
            missing = "no mask" if not masks else "no image" if len(masks) == len(folder.pictures) else ""
            found.complain(
                folder.path,
                "a pair is source.* and mask.*, or two pictures of which one has mask, label or gt in its name, "
                f"but here is {(twice or [missing or 'no telling which'])[0]} (found: {_names(folder.pictures)})",
                "complete the pair or move the folder away",
                folder.pictures,
            )
    return found if found.pairs else None


def _folder_an_image(top: _Folder, inside: list[_Folder]) -> _Found | None:
    found = _Found("one folder an image, with a folder of instance masks")
    for folder in inside:
        images, masks = folder.named(frozenset({"images"})), folder.named(frozenset({"masks"}))
        if not images and not masks:
            continue
        if len(images) > 1 or len(masks) > 1:
            seen = f"has more than one folder of images or of masks ({_names([*images, *masks])})"
            found.complain(folder.path, seen, "keep one of each", folder.pictures)
            continue
        pictures, parts = (_Folder.read(paths[0]).pictures if paths else [] for paths in (images, masks))
        if len(pictures) == 1 and parts:
            found.pairs.append((folder.path.name, pictures[0], tuple(parts)))
        else:
            found.complain(
                folder.path,
                f"needs one picture in images/ and at least one in masks/, but has {len(pictures)} and {len(parts)}",
                "complete it, move it away, or, if it is a data set of its own, name this folder",
                [*pictures, *parts],
            )
    return found if found.pairs else None


def _parallel_folders(top: _Folder, inside: list[_Folder]) -> _Found | None:
    if not _is_parallel(top):
        return None
    images, masks = top.named(IMAGE_FOLDERS), top.named(MASK_FOLDERS)
    if len(images) > 1 or len(masks) > 1:
        raise InputError(
            f"{top.path} can be read in more than one way: it has the folders {_names([*images, *masks])}; "
            "leave one folder of images and one of masks in it"
        )
    found = _Found(f"parallel folders {images[0].name}/ and {masks[0].name}/")
    _match(found, _Folder.read(images[0]).pictures, _Folder.read(masks[0]).pictures)
    return found if found.pairs else None


def _side_by_side(top: _Folder, inside: list[_Folder]) -> _Found | None:
    found = _Found("side by side, NAME and NAME_mask")
    masks = [path for path in top.pictures if MASK_SUFFIX.search(path.stem)]
    _match(found, [path for path in top.pictures if not MASK_SUFFIX.search(path.stem)], masks)
    return found if found.pairs else None


RECOGNISERS: tuple[Callable[[_Folder, list[_Folder]], _Found | None], ...] = (
    _folder_a_pair,
    _folder_an_image,
    _parallel_folders,
    _side_by_side,
)


def _refuse_name(folder: Path, name: str) -> None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise InputError(f"{folder}: the name {name!a} in it is not UTF-8; rename it") from error
    if size > LONGEST_NAME:
        raise InputError(f"{folder}: the name {name[:20]}… in it has {size} bytes; shorten it to {LONGEST_NAME}")


def _is_parallel(top: _Folder) -> bool:
    return bool(top.named(IMAGE_FOLDERS) and top.named(MASK_FOLDERS))


def _match(found: _Found, images: list[Path], masks: list[Path]) -> None:
    """Pair images and masks by name: the same, or with ``_0000`` after the image's or ``_mask(s)`` after the mask's."""
    by_key: dict[str, list[Path]] = defaultdict(list)
    for mask in masks:
        for key in {mask.stem, MASK_SUFFIX.sub("", mask.stem)}:
            by_key[key].append(mask)
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_stem[image.stem].append(image)
    taken: dict[Path, Path] = {}
    for stem, twins in by_stem.items():
        matching = by_key[stem] or by_key[stem.removesuffix("_0000")]
        if len(twins) > 1:
            found.complain(twins[0], f"there is more than one image of this name ({_names(twins)})", "keep one", twins)
        elif not matching and CHANNEL.search(stem) and by_key[CHANNEL.sub("", stem)]:
            found.complain(twins[0], "a second channel", "merge the channels into one image, or move it away")
        elif not matching:
            found.complain(twins[0], "the image has no mask", "add the mask or move the image away")
        elif len(matching) > 1:
            found.complain(
                twins[0], f"more than one mask could belong to it ({_names(matching)})", "keep one", [*twins, *matching]
            )
        elif matching[0] in taken:
            found.complain(
                twins[0],
                f"the mask {matching[0].name} could belong to it and to {taken[matching[0]].name}",
                "give every image a mask of its own name",
            )
        else:
            taken[matching[0]] = twins[0]
            found.pairs.append((stem, twins[0], (matching[0],)))
    for mask in masks:
        if mask not in taken and str(mask) not in found.mentioned:
            found.complain(mask, "the mask has no image", "add the image or move the mask away")


def _names(paths: Iterable[Path]) -> str:
    names = sorted(path.name for path in paths)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _describe(top: _Folder, inside: list[_Folder]) -> str:
    with_pictures = [folder.path for folder in inside if folder.pictures]
    if with_pictures:
        return f"found images in {_names(with_pictures)}"
    return f"found the images {_names(top.pictures)}" if top.pictures else "found no images"


def _hint(root: Path, inside: list[_Folder]) -> str:
    """Name a data set close by, if there is one."""
    for folder in inside:
        deeper = [_Folder.read(path) for path in folder.folders]
        if _is_parallel(folder) or _folder_a_pair(folder, deeper) or _folder_an_image(folder, deeper):
            return f"; {folder.path} looks like a data set: name that folder"
    above = root.resolve().parent
    if root.resolve().name.lower() in IMAGE_FOLDERS | MASK_FOLDERS and _is_parallel(_Folder.read(above)):
        return f"; {above} looks like the data set: name that folder"
    return ""
