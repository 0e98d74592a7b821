"""Find the files that mark the pixels nobody judged, and their place in each layout."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, cached_property
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
    in_folder = Counter(image.parent for _, image, _ in pairs)
    exact = {key.casefold() for name, image, _ in pairs for key in (name, image.stem)}
    listed = cache(lambda folder: _Listing(folder, exact))
    found: dict[str, tuple[Path, ...]] = {}
    for name, image, masks in pairs:
        own: dict[Path, None] = {}
        keys = {name.casefold(), *(key.casefold() for key in image_keys(image))}
        keys |= {key.casefold() for key in mask_keys(masks[0])} if len(masks) == 1 else set()
        keys -= exact - {name.casefold(), image.stem.casefold()}  # of another image
        for folder in dict.fromkeys((image.parent, *(mask.parent for mask in masks[:1]))):
            alone = in_folder[image.parent] == 1 and folder == image.parent
            own |= _under(listed(folder).beside, keys | IGNORES if alone else keys)
        for folder, is_own in _folders(root, image.parent, listed):
            whole = is_own and in_folder[image.parent] == 1
            own |= dict.fromkeys(listed(folder).files) if whole else _under(listed(folder).named, keys)
            for inner in _under(listed(folder).inner, keys):
                own |= dict.fromkeys(listed(inner).files)
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


def place_of_ignored(image: Path, mask: Path) -> Path:
    """Return where the not-judged pixels of a pair lie in its layout, from the relative paths of both files."""
    if image.parent == mask.parent:
        own = mask.stem.casefold() == "mask" and len(image.parts) > 1
        return image.with_name("ignore.png" if own else f"{image.stem}_ignore.png")
    both = zip(image.parent.parts, mask.parent.parts, strict=False)
    shared = len([*takewhile(lambda parts: parts[0] == parts[1], both)])
    return Path(*image.parts[:shared], IGNORE, *image.parts[shared + 1 :]).with_suffix(".png")


class _Listing:
    """What a folder contains, found by the keys of an image; a folder of thousands is read once.

    Args:
        folder: The folder.
        exact: The names of all images: a file named exactly like one belongs to no other.
    """

    def __init__(self, folder: Path, exact: Collection[str]) -> None:
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        self.files = [path for path in inside if path.name.lower().endswith(IMAGE_SUFFIXES) and path.is_file()]
        self._folders = [path for path in inside if path.is_dir()]
        self._exact = exact

    @cached_property
    def beside(self) -> Mapping[str, list[Path]]:
        """Files that mark pixels by their own name, in a folder of images or masks."""
        return _index((path, [_plain(path)]) for path in self.files if is_ignore(path))

    @cached_property
    def named(self) -> Mapping[str, list[Path]]:
        """Files named like an image, in a folder of not-judged pixels."""
        return _index((path, [_plain(path)] if _plain(path) in self._exact else _keys(path)) for path in self.files)

    @cached_property
    def inner(self) -> Mapping[str, list[Path]]:
        """Folders named like an image."""
        return _index((path, [path.name.casefold()]) for path in self._folders)

    @cached_property
    def ignores(self) -> list[Path]:
        """Folders of not-judged pixels."""
        return [path for path in self._folders if path.name.casefold() in IGNORES]


def _index(keyed: Iterable[tuple[Path, Iterable[str]]]) -> dict[str, list[Path]]:
    index: dict[str, list[Path]] = {}
    for path, keys in keyed:
        for key in keys:
            index.setdefault(key, []).append(path)
    return index


def _under(index: Mapping[str, list[Path]], keys: Iterable[str]) -> dict[Path, None]:
    """Return the paths under any of the keys, sorted."""
    return dict.fromkeys(sorted({path for key in keys for path in index.get(key, ())}))


def _folders(root: Path, home: Path, listed: Callable[[Path], _Listing]) -> Iterable[tuple[Path, bool]]:
    """Yield the folders of not-judged pixels that may be those of images in ``home``, and whether of one image only."""
    for inside in (home, *home.parents):
        if not inside.is_relative_to(root):
            return
        rest = home.relative_to(inside).parts[1:]
        for folder in listed(inside).ignores:
            if (place := folder.joinpath(*rest)).is_dir():
                yield place, inside == home.parent and inside != root


def _plain(path: Path) -> str:
    return IGNORE_SUFFIX.sub("", path.stem).casefold()


def _keys(path: Path) -> set[str]:
    return {*(key.casefold() for key in mask_keys(path)), _plain(path)}
