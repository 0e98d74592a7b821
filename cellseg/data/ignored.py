"""Find the files that mark the pixels nobody judged, and their place in each layout."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import takewhile
from pathlib import Path

from cellseg.data.formats import IMAGE_SUFFIXES, foreign_suffix
from cellseg.data.matching import Problem
from cellseg.data.words import IGNORE, IGNORE_SUFFIX, IGNORES, image_keys, is_ignore, mask_keys

Files = tuple[str, Path, tuple[Path, ...]]


def find_ignored(root: Path, pairs: Sequence[Files]) -> tuple[dict[str, tuple[Path, ...]], list[Problem]]:
    """Return the files of not-judged pixels of each pair, and a problem for each such file that belongs to no pair.

    They are ``ignore.png`` in a pair's own folder, all images in ``ID/ignore/``, ``ignore/NAME.png`` or all images in
    ``ignore/NAME/`` beside the folder of images, and ``NAME_ignore.png`` beside an image or a mask.

    Args:
        root: The folder of the data set.
        pairs: Name, image and masks of each pair.
    """
    listed = _Listing()
    in_folder = Counter(image.parent for _, image, _ in pairs)
    exact = {key.casefold() for name, image, _ in pairs for key in (name, image.stem)}
    found: dict[str, tuple[Path, ...]] = {}
    for name, image, masks in pairs:
        own: dict[Path, None] = {}
        keys = {name.casefold(), *(key.casefold() for key in image_keys(image))}
        keys |= {key.casefold() for key in mask_keys(masks[0])} if len(masks) == 1 else set()
        keys -= exact - {name.casefold(), image.stem.casefold()}  # of another image
        for folder in dict.fromkeys((image.parent, *(mask.parent for mask in masks[:1]))):
            for path in filter(is_ignore, listed.files(folder)):
                alone = path.stem.casefold() in IGNORES and in_folder[image.parent] == 1 and folder == image.parent
                if alone or IGNORE_SUFFIX.sub("", path.stem).casefold() in keys:
                    own[path] = None
        for folder, is_own in _folders(root, image.parent, listed):
            for path in listed.files(folder):
                if (is_own and in_folder[image.parent] == 1) or _belongs(path, keys, exact):
                    own[path] = None
            for inner in listed.folders(folder):
                if inner.name.casefold() in keys:
                    own.update(dict.fromkeys(listed.files(inner)))
        if own:
            found[name] = tuple(own)
    return found, unused_marks(root, {path for paths in found.values() for path in paths})


def unused_marks(root: Path, used: Collection[Path]) -> list[Problem]:
    """Return a problem for each file that, by its name or folder, marks pixels nobody judged, and that is not used."""
    problems = []
    for home, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = any(part.lower() in IGNORES for part in Path(home).relative_to(root).parts)
        for name in sorted(files):
            path = Path(home, name)
            picture, foreign = (
                name.lower().endswith(IMAGE_SUFFIXES),
                foreign_suffix(name) or name.lower().endswith(".npy"),
            )
            if (
                name.startswith(".")
                or path in used
                or not ((picture and (inside or is_ignore(path))) or (inside and foreign))
            ):
                continue
            remedy = "save it as PNG" if foreign else "give it the name and place of its image's marks"
            problems.append(Problem(path, "marks pixels that nobody judged, but belongs to no image", remedy))
    return problems


def _belongs(path: Path, keys: Collection[str], exact: Collection[str]) -> bool:
    """Return whether a file is named like the image with these keys, and not exactly like another one."""
    plain = IGNORE_SUFFIX.sub("", path.stem).casefold()
    return plain in keys if plain in exact else not _keys(path).isdisjoint(keys)


def place_of_ignored(image: Path, mask: Path) -> Path:
    """Return where the not-judged pixels of a pair lie in its layout, from the relative paths of both files."""
    if image.parent == mask.parent:
        own = mask.stem.casefold() == "mask" and len(image.parts) > 1
        return image.with_name("ignore.png" if own else f"{image.stem}_ignore.png")
    both = zip(image.parent.parts, mask.parent.parts, strict=False)
    shared = len([*takewhile(lambda parts: parts[0] == parts[1], both)])
    return Path(*image.parts[:shared], IGNORE, *image.parts[shared + 1 :]).with_suffix(".png")


class _Listing:
    """Lists each folder once."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[list[Path], list[Path]]] = {}

    def _list(self, folder: Path) -> tuple[list[Path], list[Path]]:
        if folder not in self._known:
            inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
            files = [path for path in inside if path.name.lower().endswith(IMAGE_SUFFIXES) and path.is_file()]
            self._known[folder] = files, [path for path in inside if path.is_dir()]
        return self._known[folder]

    def files(self, folder: Path) -> list[Path]:
        return self._list(folder)[0]

    def folders(self, folder: Path) -> list[Path]:
        return self._list(folder)[1]


def _folders(root: Path, home: Path, listed: _Listing) -> Iterable[tuple[Path, bool]]:
    """Yield the folders of not-judged pixels that may be those of images in ``home``, and whether of one image only."""
    for inside in (home, *home.parents):
        if not inside.is_relative_to(root):
            return
        rest = home.relative_to(inside).parts[1:]
        for folder in listed.folders(inside):
            if folder.name.casefold() in IGNORES and (place := folder.joinpath(*rest)).is_dir():
                yield place, inside == home.parent and inside != root


def _keys(path: Path) -> set[str]:
    return {key.casefold() for key in (*mask_keys(path), IGNORE_SUFFIX.sub("", path.stem))}
