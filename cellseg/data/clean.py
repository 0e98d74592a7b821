"""Write a data set as training sees it: PNG images, masks of 0 and 255 or of numbered cells, and a list of changes."""

import csv
from pathlib import Path

from cellseg.data.cache import in_parallel
from cellseg.data.facts import PairFacts, Reading, inspect_pair
from cellseg.data.findings import WARNING, Finding, describe_masks, look_at_pairs
from cellseg.data.groups import write_groups
from cellseg.data.ignored import place_of_ignored
from cellseg.data.images import MOST_SHOWN, as_rgb
from cellseg.data.masks import LABELS, RESIZED, save_labels
from cellseg.data.pairs import Pair, Scan, find_pairs, shown
from cellseg.data.table import write_pairs_table
from cellseg.storage.csv_files import as_text
from cellseg.storage.errors import InputError
from cellseg.storage.files import new_folder

COLUMNS = ("pair", "file", "written", "change")


def write_cleaned(
    root: Path, out: Path, groups: Path | None = None, how: Reading = Reading()
) -> tuple[int, str, list[Finding]]:
    """Write the cleaned data set and ``changes.csv`` to a new folder in the same layout.

    Images become 8-bit RGB. Masks become single-channel PNG: numbers of cells in 16 bits where the files number
    them, otherwise 0 and 255; where an image has several files, their union. Pairs that a table lists, or that differ
    only in the endings of their files, are listed in a ``pairs.csv``. Training on the new folder gives the same
    result, bit for bit, as training on ``root``. The folder appears complete or not at all. Returns the number of
    pairs, how the values of their masks were interpreted, and the warnings.

    Args:
        root: Folder or table of pairs; nothing in it is changed.
        out: Folder to create.
        groups: As for ``scan_pairs``.
        how: Threshold and channels, as in training.

    Raises:
        InputError: If ``out`` exists or lies in ``root``, a file of ``root`` cannot be used, or writing fails.
    """
    if root.is_dir() and out.resolve().is_relative_to(root.resolve()):
        raise InputError(
            f"{out} is inside the data set {root}, which must stay unchanged; choose a folder outside of it"
        )
    scan = find_pairs(root, groups)
    files = _original_places(scan)
    as_table = files is None
    files = files or {
        pair.name: (Path(f"images/{pair.name}.png"), Path(f"masks/{pair.name}.png")) for pair in scan.pairs
    }
    with new_folder(out) as unfinished:

        def write(pair: Pair) -> tuple[PairFacts, list[tuple[str, ...]]]:
            clean = inspect_pair(pair, how)
            image_file, mask_file = files[pair.name]
            ignored_file = place_of_ignored(image_file, mask_file)
            for file in (image_file, mask_file, ignored_file)[: 2 if clean.ignored is None else 3]:
                (unfinished / file).parent.mkdir(parents=True, exist_ok=True)
            as_rgb(clean.pixels).save(unfinished / image_file)
            save_labels(unfinished / mask_file, clean.mask, clean.ids)
            if clean.ignored is not None:
                save_labels(unfinished / ignored_file, clean.ignored, None)
            labels = pair.masks[0].parent / "*" if len(pair.masks) > 1 else pair.masks[0]
            of_image, of_mask = (shown(path, scan.root) for path in (pair.image, labels))
            if scan.listed:
                of_mask = ", ".join(shown(path, scan.root) for path in pair.masks)
            changes: list[tuple[str, ...]] = [
                (pair.name, of_image, str(image_file), _image_change(clean.facts)),
                (pair.name, of_mask, str(mask_file), _mask_change(clean.facts, len(pair.masks))),
            ]
            if clean.ignored is not None:
                of_ignored = ", ".join(shown(path, scan.root) for path in pair.ignored) or of_mask
                changes.append((pair.name, of_ignored, str(ignored_file), "pixels that nobody judged set to 255"))
            return clean.facts, changes

        if len(how.channels or ()) > MOST_SHOWN:
            raise InputError(f"a PNG file cannot hold {len(how.channels or ())} channels; choose at most {MOST_SHOWN}")
        facts, changes = zip(*in_parallel(write, scan.pairs, "cleaning"), strict=True)
        with (unfinished / "changes.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows([as_text(cell) for cell in row] for rows in changes for row in rows)
        group_of = {pair.name: pair.group for pair in scan.pairs} if scan.grouped else {}
        if as_table:
            unjudged = [pair.name for pair, fact in zip(scan.pairs, facts, strict=True) if fact.ignored]
            ignored = {name: place_of_ignored(*files[name]) for name in unjudged}
            write_pairs_table(unfinished / "pairs.csv", files, group_of, ignored)
        elif group_of:
            write_groups(unfinished / "groups.csv", group_of)
    found = look_at_pairs(scan.pairs, facts, scan.root)
    warnings = [finding for finding in found if finding.severity == WARNING]
    return len(scan.pairs), describe_masks(facts, how), warnings


def _original_places(scan: Scan) -> dict[str, tuple[Path, Path]] | None:
    """Return paths for image and mask of every pair in the original layout; None if two files would have one path."""
    files = {}
    for pair in scan.pairs:
        mask = pair.masks[0].with_name(f"{pair.name}.png") if len(pair.masks) > 1 else pair.masks[0]
        if scan.listed or not all(path.is_relative_to(scan.root) for path in (pair.image, mask)):
            return None
        image_file, mask_file = (path.relative_to(scan.root).with_suffix(".png") for path in (pair.image, mask))
        files[pair.name] = image_file, mask_file
    different = {str(path).casefold() for both in files.values() for path in both}
    return files if len(different) == 2 * len(files) else None


def _image_change(facts: PairFacts) -> str:
    changes = [f"{facts.image_kind} to RGB, 8 bits"] if facts.image_kind != "RGB, 8 bits" else []
    if facts.chosen:
        changes.append(f"channels {facts.chosen} kept")
    if facts.turned:
        changes.append("rotated upright (EXIF orientation)")
    if facts.stretched:
        changes.append("intensities scaled from the 0.1 and 99.9 percentiles to 0 and 255")
    if facts.truncated_depth:
        changes.append("upper 8 of 16 bits kept")
    return "; ".join(changes) or "pixels unchanged"


def _mask_change(facts: PairFacts, files: int) -> str:
    changes = [f"union of {files} files"] if files > 1 else []
    kind = f"grey, {16 if facts.numbered else 8} bits"
    if facts.mask_file_kind != kind:
        changes.append(f"{facts.mask_file_kind} to {kind}")
    if facts.numbered and facts.mask_brightest != facts.mask_values:
        changes.append("cells numbered from 1")
    elif not facts.numbered and facts.mask_kind in (LABELS, RESIZED) and facts.mask_brightest != 255:
        changes.append(f"labels up to {facts.mask_brightest:g} set to 255")
    if facts.grey:
        changes.append(f"grey pixels set to cell, {facts.grey:.2%} of the cell pixels")
    if facts.faint:
        changes.append(f"faint pixels set to background, {facts.faint:.2%} of all pixels")
    return "; ".join(changes) or "values unchanged"
