"""Recognise the layout of a folder of pairs: one function for each layout, by the names of files and folders."""

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from cellseg.data.matching import Folder, Found, names, told_apart
from cellseg.data.words import (
    MASK_WORD,
    PLAIN,
    WEAK_WORD,
    folder_role,
    is_preview,
    mask_keys,
    named_as_mask,
    part_of,
    preview_base,
    stem_of,
)
from cellseg.storage.errors import InputError

EXACT = "exact"  # exact.png beside mask.jpg: the mask without labelling errors, from cellseg synthesize
DEEPEST = 3  # levels of folders below images/ that are read
LOSSY = (".jpeg",)
LOOKED_AT = 3  # pairs whose pixels are compared if names do not tell which is the mask
CORNER = 1024  # side in pixels of the part that is compared
FEW = 32  # maximum number of colours in a mask, unless it has far fewer than its image


def folder_a_pair(top: Folder, inside: list[Folder]) -> Found | None:
    """Recognise cell_1/source.jpg and cell_1/mask.jpg, or two files of which one has a word for mask in its name."""
    found = Found("one folder a pair")
    roles = {*top.of(masks=False), *top.of(masks=True)} if _is_parallel(top) else set()
    for folder in _parts_last(inside):
        if not folder.pictures or folder.path in roles or _is_part(folder, found):
            continue
        stems = [(path, path.stem.lower()) for path in folder.pictures]
        named = {role: [path for path, stem in stems if stem == role] for role in ("source", "mask")}
        masks = [path for path, stem in stems if MASK_WORD.search(stem) or (stem == EXACT and named["mask"])]
        masks = [
            path for path in masks or [path for path, stem in stems if WEAK_WORD.search(stem)] if not is_preview(path)
        ]
        chosen = set(masks)  # a folder of another layout can have thousands
        others = [path for path in folder.pictures if path not in chosen]
        images = [path for path in others if not is_preview(path)] or others
        if len(named["source"]) == len(named["mask"]) == 1:
            found.pairs.append((folder.path.name, named["source"][0], (named["mask"][0],)))
            found.mentioned.update(map(str, folder.pictures))  # other files beside them need no message
        elif len(images) == len(masks) == 1:
            found.pairs.append((folder.path.name, images[0], (masks[0],)))
            found.mentioned.update(map(str, folder.pictures))
        else:
            twice = [f"more than one {role}.*" for role, paths in named.items() if len(paths) > 1]
            missing = "no mask" if not masks else "no image" if len(masks) == len(folder.pictures) else ""
            found.complain(
                folder.path,
                "a pair is source.* and mask.*, or two images of which one has mask, label or gt in its name, "
                f"but here is {(twice or [missing or 'no single choice'])[0]} (found: {names(folder.pictures)})",
                "complete the pair or move the folder away",
                folder.pictures,
            )
    return found if found.pairs or found.problems else None


def folder_an_image(top: Folder, inside: list[Folder]) -> Found | None:
    """Recognise ID/images/ID.png and all masks in ID/masks/."""
    found = Found("one folder an image, with a folder of instance masks")
    for folder in _parts_last(inside):
        images, masks = (_preferred(folder.of(masks=side)) for side in (False, True))
        if (not images and not masks) or _is_part(folder, found):
            continue
        if len(images) > 1 or len(masks) > 1:
            seen = f"has more than one folder of images or of masks ({names([*images, *masks])})"
            found.complain(folder.path, seen, "keep one of each", folder.pictures)
            continue
        pictures, parts = (Folder.read(paths[0]).pictures if paths else [] for paths in (images, masks))
        if len(pictures) == 1 and parts:
            found.pairs.append((folder.path.name, pictures[0], tuple(parts)))
        else:
            found.complain(
                folder.path,
                f"needs one image in images/ and at least one in masks/, but has {len(pictures)} and {len(parts)}",
                "complete it or move it away; if it is a separate data set, name this folder",
                [*pictures, *parts],
            )
    return found if found.pairs or found.problems else None


def _parts_last(inside: list[Folder]) -> list[Folder]:
    return sorted(inside, key=lambda folder: part_of(folder.path.name) != "")


def _is_part(folder: Folder, found: Found) -> bool:
    """Tell whether a folder named train is a part of an export, and not a pair beside other pairs."""
    return part_of(folder.path.name) != "" and not found.pairs


def parallel_folders(top: Folder, inside: list[Folder]) -> Found | None:
    """Recognise images/a.png and masks/a.png, also in equally named folders below both.

    Raises:
        InputError: If there is more than one folder of images or of masks to choose from.
    """
    by_part: dict[str, tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
    for folder in top.folders:
        if role := folder_role(folder.name):
            by_part[role.part][role.mask].append(folder)
    both = {part: sides for part, sides in by_part.items() if all(sides)}
    if not both:  # images/ and train_masks/, or one of the two only
        images, masks = sides = top.of(masks=False), top.of(masks=True)
        if images and masks:
            both = {"": sides}
        elif images or masks:
            missing = "folder of masks such as masks/" if images else "folder of images such as images/"
            alone = (images or masks)[0]
            return Found("parallel folders images/ and masks/", failure=(alone, f"/ has no {missing} beside it"))
    readings = {part: _side_of_each(top, *map(_preferred, sides)) for part, sides in both.items()}
    complete = {part: found for part, found in readings.items() if found.pairs}
    if len(complete) > 1:
        counts = {f"{found.layout.removeprefix('parallel folders ')}": len(found.pairs) for found in complete.values()}
        return Found("parallel folders", next(iter(complete.values())).pairs, parts=counts)
    return next(iter(complete.values() or readings.values()), None)


def _side_of_each(top: Folder, images: list[Path], masks: list[Path]) -> Found:
    if len(images) > 1 or len(masks) > 1:
        raise InputError(
            f"{top.path} can be read in more than one way: it has the folders {names([*images, *masks])}; "
            "leave one folder of images and one of masks in it"
        )
    left, right = _tree(images[0]), _tree(masks[0])
    found = Found(f"parallel folders {images[0].name}/ and {masks[0].name}/")
    mixed = "" in left and "" in right
    if ("" in left or "" in right) and not mixed:
        if "" in left and right:
            found.left_out += [path for sub, pictures in left.items() if sub for path in pictures]
            return _folder_of_masks_each(found, left[""], right)
        found.pair_up(left.get("", []), right.get("", []))
        if not right:
            endings = Counter(file.suffix or file.name for file in masks[0].iterdir() if not file.name.startswith("."))
            held = ", ".join(f"{number} {ending}" for ending, number in endings.most_common(3)) or "nothing"
            found.failure = (masks[0], f"/ contains no images, only {held}")
        return found
    counts = {}
    for sub in sorted(left.keys() | right.keys()):
        is_part = part_of(sub.split("/")[0]) != ""
        if (is_part or mixed) and (not (sub in left and sub in right) or (is_part and mixed)):
            found.left_out += left.get(sub, []) + right.get(sub, [])  # a part without masks, or beside other pairs
            continue
        before = len(found.pairs)
        found.pair_up(left.get(sub, []), right.get(sub, []))
        if len(found.pairs) > before:
            counts[sub] = len(found.pairs) - before
    parts: Counter[str] = Counter()
    for sub, number in counts.items():
        if part_of(first := sub.split("/")[0]):
            parts[f"{images[0].name}/{first}/ and {masks[0].name}/{first}/"] += number
    if len(parts) > 1:
        found.parts = dict(parts)
    if mixed and counts.keys() <= {""}:
        return found
    if len(counts) == 1:
        [sub] = counts
        found.layout = f"parallel folders {images[0].name}/{sub}/ and {masks[0].name}/{sub}/"
    elif counts:
        found.layout += " with the same folders in both"
    called = told_apart([image for _, image, _ in found.pairs])
    found.pairs = [(name, image, parts) for name, (_, image, parts) in zip(called, found.pairs, strict=True)]
    return found


def _folder_of_masks_each(found: Found, images: list[Path], masks: dict[str, list[Path]]) -> Found:
    """Recognise images/a.png and all masks in masks/a/."""
    found.layout += ", a folder of masks for each image"
    twins = Counter(image.stem for image in images)
    for image in images:
        if twins[image.stem] > 1:
            found.complain(image, "there is more than one image with this name", "keep one")
        elif image.stem in masks:
            found.pairs.append((image.stem, image, tuple(masks[image.stem])))
        else:
            found.complain(image, "the image has no mask", "add the mask or move the image away")
            found.failure = found.failure or (image, f" has no folder of masks; there are {', '.join(list(masks)[:5])}")
    for sub, parts in masks.items():
        if sub not in twins:
            found.complain(parts[0].parent, "the masks have no image", "add the image or move them away", parts)
    return found


def _preferred(folders: list[Path]) -> list[Path]:
    """Drop folders without images and, if one has a usual name, those with other names."""
    filled = [folder for folder in folders if any(_tree(folder).values())] if len(folders) > 1 else []
    folders = filled or folders
    return [folder for folder in folders if folder.name.lower() in PLAIN] or folders


def _tree(folder: Path, depth: int = DEEPEST) -> dict[str, list[Path]]:
    """Return the images in a folder and in the folders below it, by relative path."""
    listed = Folder.read(folder)
    tree = {"": listed.pictures} if listed.pictures else {}
    if depth:
        for below in listed.folders:
            for sub, pictures in _tree(below, depth - 1).items():
                tree[f"{below.name}/{sub}".rstrip("/")] = pictures
    return tree


def side_by_side(top: Folder, inside: list[Folder]) -> Found | None:
    """Recognise a.png and a_mask.png, or other words for mask after or before the name."""
    stems = {stem_of(path): path for path in top.pictures}
    labelled = {key for path in top.pictures for key in mask_keys(path)[1:] if key != path.stem} & stems.keys()
    is_mask = {path: named_as_mask(path) and stem_of(path) not in labelled for path in top.pictures}
    if not any(is_mask.values()) or all(is_mask.values()):
        return None
    found = Found("side by side, NAME and NAME_mask")
    found.pair_up(*([path for path in top.pictures if is_mask[path] == mask] for mask in (False, True)))
    if found.pairs:
        _, image, (mask,) = found.pairs[0]
        if mask.stem.lower() not in (f"{image.stem.lower()}_mask", f"{image.stem.lower()}_masks"):
            found.layout = f"side by side, as {image.name} and {mask.name}"
    return found


def two_endings(top: Folder, inside: list[Folder]) -> Found | None:
    """Recognise 001.bmp and 001.png: all images have one ending and all masks another."""
    pictures = [path for path in top.pictures if not is_preview(path)]
    if 0 < sum(map(named_as_mask, pictures)) < len(pictures):
        return None
    by_ending: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in pictures:
        by_ending[_ending(path)].setdefault(path.stem, path)
    shared = Counter(stem for files in by_ending.values() for stem in files)
    common = [stem for stem, number in shared.items() if number > 1]
    if not common:
        return None
    if len(by_ending) > 2:
        kinds = ", ".join(f"*{ending}" for ending in by_ending)
        return Found("one name, two endings", failure=(top.path, f" has files of more than two endings ({kinds})"))
    first, second = by_ending.values()
    looks = [_looks_like_masks(a, b, common) for a, b in ((first, second), (second, first))]
    if looks[0] == looks[1]:
        one, other = first[common[0]], second[common[0]]
        unclear = f" and {other.name} have the same name, and either may be the mask; add _mask to the name of the mask"
        return Found("one name, two endings", failure=(one, unclear))
    images, masks = (second, first) if looks[0] else (first, second)
    found = Found(f"side by side, as {images[common[0]].name} and {masks[common[0]].name}")
    ending = _ending(masks[common[0]])
    found.pair_up(*([path for path in pictures if (_ending(path) == ending) == mask] for mask in (False, True)))
    found.mentioned.update(str(path) for path in top.pictures if path not in pictures and preview_base(path) in images)
    return found


def _ending(path: Path) -> str:
    return {".jpg": ".jpeg", ".tif": ".tiff"}.get(path.suffix.lower(), path.suffix.lower())


def _looks_like_masks(masks: dict[str, Path], images: dict[str, Path], common: list[str]) -> bool:
    """Tell whether the first files can be masks of the second: no lossy masks of lossless images, and few colours."""
    if _ending(masks[common[0]]) in LOSSY:
        return False
    colours = [(_colours(masks[stem]), _colours(images[stem])) for stem in common[:LOOKED_AT]]
    if _ending(images[common[0]]) in LOSSY:  # lossy image, lossless mask: expected, unless both are photographs
        return all(mask and (mask <= FEW or 2 * mask <= image) for mask, image in colours)
    return all(mask and 4 * mask <= image for mask, image in colours)


def _colours(path: Path) -> int:
    """Count the colours in the top left part of an image; 0 if it cannot be read."""
    try:
        with Image.open(path) as picture:
            corner = np.asarray(picture.crop((0, 0, min(CORNER, picture.width), min(CORNER, picture.height))))
    except Exception:  # on a damaged file Pillow may raise anything
        return 0
    return len(np.unique(corner.reshape(-1, *corner.shape[2:]), axis=0))


RECOGNISERS: tuple[Callable[[Folder, list[Folder]], Found | None], ...] = (
    folder_a_pair,
    folder_an_image,
    parallel_folders,
    side_by_side,
    two_endings,
)


def _is_parallel(top: Folder) -> bool:
    return bool(top.of(masks=False) and top.of(masks=True))
