"""Find which mask belongs to which image: from a ``pairs.csv``, or from names in a folder."""

import difflib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from cellseg.data.formats import ANNOTATIONS, BYSTANDERS, describe_foreign, refuse_foreign
from cellseg.data.groups import natural, read_groups
from cellseg.data.ignored import find_ignored, unused_marks
from cellseg.data.layouts import EXACT, RECOGNISERS
from cellseg.data.matching import Folder, Found, Problem, names, refuse_name
from cellseg.data.table import HEADER, find_table, read_pairs_table
from cellseg.data.words import IGNORES, MASK_WORD, PREVIEW, WEAK_WORD, folder_role, is_ignore, part_of, preview_base
from cellseg.storage.errors import InputError

LAYOUTS = (
    "one folder a pair (cell_1/source.jpg and cell_1/mask.jpg), one folder an image "
    "(ID/images/ID.png and many ID/masks/*), parallel folders (images/a.png and masks/a.png), "
    f"side by side (a.png and a_mask.png), or a pairs.csv with the columns {HEADER}"
)
SHOWN = 3  # maximum number of folders that a message describes one by one
MOST = 6  # maximum number of data sets that a message lists


@dataclass(frozen=True)
class Pair:
    """An image file, its mask files (their union is the mask), and its group: a split never separates a group.

    ``ignored`` are files that mark, by any value above 0, the pixels that nobody judged.
    """

    name: str
    group: str
    image: Path
    masks: tuple[Path, ...]
    ignored: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All of its files."""
        return (self.image, *self.masks, *self.ignored)


@dataclass(frozen=True)
class Scan:
    """The pairs of a data set, and what is wrong with it.

    Attributes:
        layout: The layout, in words.
        pairs: The complete ones, in natural order (cell_2 before cell_10).
        problems: Incomplete or ambiguous pairs.
        ignored: Images outside of the layout, and files in formats that cellseg does not read.
        grouped: Whether a table gives the groups.
        root: The folder to which displayed paths are relative.
        listed: Whether a ``pairs.csv`` lists the pairs.
    """

    layout: str
    pairs: list[Pair]
    problems: list[Problem]
    ignored: list[Path]
    grouped: bool
    root: Path
    listed: bool


def find_pairs(root: Path, groups: Path | None = None) -> Scan:
    """Scan a data set and refuse it if it has a problem.

    Raises:
        InputError: As ``scan_pairs``, and for the first problem.
    """
    scan = scan_pairs(root, groups)
    if scan.problems:
        others = len(scan.problems) - 1
        raise InputError(
            f"{scan.problems[0]}"
            + (f" ({others} more problem{'s' if others > 1 else ''})" if others else "")
            + see_all(root)
        )
    return scan


def see_all(root: Path) -> str:
    """Return the end of an error message that names one problem: the command that lists all of them."""
    return f"; list all problems: cellseg check {shlex.quote(str(root))}"


def scan_pairs(root: Path, groups: Path | None = None) -> Scan:
    """List the pairs of a data set and all problems with their names.

    If ``root`` is a ``pairs.csv`` or contains one, that table lists the pairs. Otherwise the folder, or the only data
    set among its folders, must have one layout. Groups come from ``groups``, or from ``groups.csv`` in the folder
    (columns ``pair`` and ``group``), or from the column ``group`` of the table; without groups, every pair is its own
    group. Hidden and system files are ignored.

    Raises:
        InputError: If the folder is missing, contains no pairs, or fits more than one layout.
    """
    try:
        is_folder, is_table = root.is_dir(), root.is_file() and root.suffix.lower() == ".csv"
    except OSError as error:
        raise InputError(f"a data set must be a folder, but {root} cannot be opened ({error.strerror})") from error
    if not is_folder and not is_table:
        refuse_foreign(root)
        if root.exists():
            raise InputError(f"a data set must be a folder or a pairs.csv, but {root} is a file; expected {LAYOUTS}")
        near = difflib.get_close_matches(root.name, [path.name for path in _beside(root)], 1)
        meant = f"; did you mean {root.with_name(near[0])}?" if near else "; name another folder"
        raise InputError(f"a data set must be a folder, but {root} does not exist{meant}")
    folder = root.parent if is_table else root
    listed = root if is_table else find_table(root)
    found, group_of = read_pairs_table(listed) if listed else (_read_folder(root), {})
    if listed:
        found.problems += unused_marks(folder, {path for paths in found.ignored.values() for path in paths})
    else:
        found.ignored, unclear = find_ignored(folder, found.pairs)
        found.problems += unclear
    for name, _, _ in found.pairs:
        refuse_name(folder, name)
    table = _group_table(folder, groups)
    if table and group_of:
        raise InputError(f"{listed} has a column group, and {table} gives groups too; remove one of them")
    called = [name for name, _, _ in found.pairs]
    grouped = bool(table or group_of)
    group_of = read_groups(table, called) if table else group_of or {name: name for name in called}
    pairs = [
        Pair(name, group_of[name], image, masks, found.ignored.get(name, ())) for name, image, masks in found.pairs
    ]
    pairs.sort(key=lambda pair: natural(pair.name))
    return Scan(found.layout, pairs, found.problems, found.left_out, grouped, folder, listed is not None)


def _beside(root: Path) -> list[Path]:
    try:
        return [path for path in root.absolute().parent.iterdir() if path.is_dir()]
    except OSError:
        return []


def shown(path: Path, root: Path) -> str:
    """Return a path relative to a folder; unchanged if it is outside of the folder, or the folder itself."""
    return str(path.relative_to(root)) if path.is_relative_to(root) and path != root else str(path)


def looks_like_mask(path: Path) -> bool:
    """Tell whether a file is a mask, or a drawing of one, by its name or the name of its folder."""
    drawn = path.stem.lower() == EXACT and any(path.parent.glob("[mM][aA][sS][kK].*"))
    place = path.parent.parent if part_of(path.parent.name) else path.parent
    role = folder_role(path.parent.name) or folder_role(place.name)
    base = preview_base(path)
    shows = PREVIEW.search(path.stem) and base and any(other.stem == base for other in path.parent.iterdir())
    named = MASK_WORD.search(path.stem) or WEAK_WORD.search(path.stem) or is_ignore(path)
    inside = not IGNORES.isdisjoint((path.parent.name.lower(), place.name.lower()))
    return bool((role and role.mask) or named or drawn or shows or inside)


def _read_folder(root: Path) -> Found:
    """Return the pairs of a folder, or of the only data set among its folders."""
    top = Folder.read(root)
    inside = [Folder.read(path) for path in top.folders]
    readings = _readings(top, inside)
    complete = [found for found in readings if found.pairs]
    folders = [top, *inside]
    if not complete:
        below = {folder.path: [Folder.read(path) for path in folder.folders] for folder in inside}
        folders += [folder for several in below.values() for folder in several]
        meant = any(
            found.failure and found.problems for found in readings
        )  # the folder itself has a layout, but its names differ
        nested = {} if meant else {folder: _readings(folder, below[folder.path]) for folder in inside}
        data_sets = {
            folder: usable for folder, several in nested.items() if (usable := [one for one in several if one.pairs])
        }
        alone = len(inside) == 1 and not top.pictures and not folder_role(inside[0].path.name)
        if alone and not data_sets and not meant:  # an archive unpacked into a folder of the same name
            return _read_folder(inside[0].path)
        if len(data_sets) > 1:
            counts = {f"{folder.path.name}/": len(several[0].pairs) for folder, several in data_sets.items()}
            raise InputError(_choose(top.path, counts, in_folders=True))
        if not data_sets:
            raise InputError(_no_pairs(top, folders, [*readings, *chain.from_iterable(nested.values())]))
        [(home, complete)] = data_sets.items()
    else:
        home = top
    if len(complete) > 1:
        seen = " and ".join(f"{found.layout} (as in {found.example(top.path)})" for found in complete)
        raise InputError(f"{home.path} fits {len(complete)} layouts: {seen}; keep only one of them in the folder")
    [found] = complete
    if found.parts:
        raise InputError(_choose(home.path, found.parts, in_folders=False))
    if home is not top:
        found.layout = _inside(found.layout, home.path.name)
    used = {str(path) for _, image, masks in found.pairs for path in (image, *masks)} | found.mentioned
    pictures = [path for folder in folders for path in folder.pictures if str(path) not in used]
    foreign = [path for folder in folders for path in folder.foreign if _is_news(path)]
    found.left_out += [*pictures, *foreign]
    return found


def _readings(top: Folder, inside: list[Folder]) -> list[Found]:
    return [found for recognise in RECOGNISERS if (found := recognise(top, inside))]


def _group_table(folder: Path, groups: Path | None) -> Path | None:
    tables = [groups] if groups else sorted(file for file in folder.iterdir() if file.name.lower() == "groups.csv")
    if len(tables) > 1:
        raise InputError(f"{folder} contains {names(tables)}; keep one of them")
    return tables[0] if tables else None


def _is_news(path: Path) -> bool:
    return not path.name.lower().endswith((*ANNOTATIONS, *BYSTANDERS))


def _inside(layout: str, name: str) -> str:
    """Add the folder in which a layout was found to its description."""
    if layout.startswith("parallel folders "):
        return layout.replace("folders ", f"folders {name}/", 1).replace(" and ", f" and {name}/", 1)
    return f"{layout}, in {name}/"


def _choose(root: Path, counts: dict[str, int], *, in_folders: bool) -> str:
    """Return the message for several data sets: they are not mixed, as one may contain copies of another's images."""
    each = [f"{name} ({number} pair{'' if number == 1 else 's'})" for name, number in counts.items()]
    found = ", ".join(each[:MOST]) + (f" and {len(each) - MOST} more" if len(each) > MOST else "")
    remedy = (
        f"name one folder, such as {root / max(counts, key=counts.__getitem__)}"
        if in_folders
        else "keep the folders of one part in the data set"
    )
    return (
        f"{root} contains several data sets: {found}; mixing them is refused, as they may share images; "
        f"{remedy}, or list the pairs to use in {root / 'pairs.csv'} under the header {HEADER}"
    )


def _no_pairs(top: Folder, folders: list[Folder], failed: list[Found]) -> str:
    """Return the message for a folder without pairs: content, most similar layout, why it does not fit, what to do."""
    root = top.path
    said = describe_foreign(path for folder in folders for path in folder.foreign)
    reasons = sorted((found for found in failed if found.problems or found.failure), key=_distance)
    if reasons:
        path, why = reasons[0].failure or (reasons[0].problems[0].path, f": {reasons[0].problems[0].seen}")
        said.append(f"the most similar layout is {reasons[0].layout}, but {shown(path, root)}{why}")
        alike = _same_names(folders)
        said.append(
            f"{names(alike)} hold files of the same names: rename one to images, the other to masks"
            if alike
            else "give each image one mask of the same name, "
            f"or list them in {root / 'pairs.csv'}: first the line {HEADER}, then a row for each pair"
        )
    else:
        said.append(f"expected {LAYOUTS}")
    said.append(_describe(root, folders))
    return f"{root} contains no pairs; {'; '.join(said)}{_hint(root)}"


def _same_names(folders: Sequence[Folder]) -> list[Path]:
    """Return two folders whose names do not tell images from masks, but whose files have the same names."""
    unnamed = [folder for folder in folders if folder.pictures and not folder_role(folder.path.name)]
    for number, one in enumerate(unnamed):
        for other in unnamed[number + 1 :]:
            if {path.stem for path in one.pictures} == {path.stem for path in other.pictures}:
                return [one.path, other.path]
    return []


def _distance(found: Found) -> int:
    """Return the rank of a layout that does not fit: the lower, the more likely the user meant it."""
    words = ("parallel", "side by side", "one name", "one folder an image", "one folder a pair")
    return next(number for number, word in enumerate(words) if found.layout.startswith(word))


def _describe(root: Path, folders: list[Folder]) -> str:
    filled = [folder for folder in folders if folder.pictures]
    total = sum(len(folder.pictures) for folder in filled)
    if not filled:
        return "found no images"
    if len(filled) > SHOWN:
        return f"found images in {names(folder.path for folder in filled)} ({total} images)"
    return "found images in " + " and ".join(
        f"{shown(folder.path, root)}/ ({len(folder.pictures)}: {names(folder.pictures)})" for folder in filled
    )


def _hint(root: Path) -> str:
    """Return a hint if the parent folder is the data set."""
    above = root.resolve().parent
    if folder_role(root.resolve().name):
        around = Folder.read(above)
        if around.of(masks=False) and around.of(masks=True):
            return f"; {above} looks like the data set: name that folder"
    return ""
