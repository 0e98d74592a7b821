"""Check a data set before training: find everything that would stop or mislead it, and show how it reads the files."""

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cellseg.data.cache import in_parallel
from cellseg.data.decoded import Pixels
from cellseg.data.facts import USUAL_SIZE, PairFacts, Reading, check_options, inspect_pair
from cellseg.data.findings import (
    ERROR,
    NOTE,
    WARNING,
    Finding,
    describe_masks,
    look_at_kin,
    look_at_pairs,
    nothing_to_learn,
    some,
)
from cellseg.data.fit import find_exchanged
from cellseg.data.formats import describe_foreign, foreign_suffix
from cellseg.data.groups import unused_table
from cellseg.data.images import as_rgb
from cellseg.data.kinship import Kin, Likeness, families, find_kin
from cellseg.data.matching import Problem
from cellseg.data.montage import draw_tile
from cellseg.data.pairs import Pair, Scan, scan_pairs, shown
from cellseg.data.splits import SplitPlan, Subsets
from cellseg.storage.errors import InputError, count

COLOURS = {ERROR: "bold red", WARNING: "yellow", NOTE: "dim"}


@dataclass(frozen=True)
class Check:
    """The result of a check.

    Attributes:
        headline: Number of pairs, and the layout.
        meaning: How the values of the masks are interpreted.
        findings: Errors first, then warnings, then notes.
        groups: The group that each pair should be in: given groups, merged where images of two groups are related.
        tiles: A small image of every readable pair with its mask outlined, in order; empty unless requested.
    """

    headline: str
    findings: list[Finding]
    meaning: str
    groups: dict[str, str]
    tiles: list[Image.Image]

    @property
    def failed(self) -> bool:
        """Whether an error would stop training."""
        return any(finding.severity == ERROR for finding in self.findings)


def check_data(
    root: Path, groups: Path | None = None, how: Reading = Reading(), *, regroup: bool = False, tiles: bool = False
) -> Check:
    """Read every pair of a data set as training does, and divide it with the default split.

    Args:
        root: Folder of pairs, or a table of them.
        groups: As for ``scan_pairs``.
        how: Threshold, channels and size, as in training.
        regroup: Whether to split by the groups found here, as training does when they are in ``groups.csv``.
        tiles: Whether to draw a small image of each pair.
    """
    try:
        scan = scan_pairs(root, groups)
    except InputError as error:
        refused = Finding(ERROR, str(root), str(error).removeprefix(f"{root} "), "refused")
        return Check("nothing was checked", [refused], "", {}, [])
    seen, problems = _look(scan, how, tiles=tiles)
    pairs, facts = [look.pair for look in seen], [look.facts for look in seen]
    kin = find_kin([known.sha256 for known in facts], [look.likeness for look in seen])
    together = _together(pairs, kin)
    if regroup:
        pairs = [replace(pair, group=together[pair.name]) for pair in pairs]
    findings = list(_outside(scan))
    subsets = _default_split(pairs, facts, findings) if pairs else None
    findings += _merged(problems, scan.root)
    exchanged = find_exchanged(
        [look.likeness for look in seen],
        [look.small_mask for look in seen],
        [look.likeness.size for look in seen],
    )
    findings += look_at_pairs(pairs, facts, scan.root, exchanged=exchanged)
    findings += look_at_kin(pairs, kin, subsets, grouped=scan.grouped, listed=scan.listed)
    return Check(
        headline=f"found {count(len(scan.pairs), 'pair')}{_in_groups(scan)}, {scan.layout}",
        findings=sorted(findings, key=lambda finding: (ERROR, WARNING, NOTE).index(finding.severity)),
        meaning=describe_masks(facts, how) if facts else "",
        groups={pair.name: pair.group for pair in scan.pairs} | together,
        tiles=[look.tile for look in seen if look.tile],
    )


def _in_groups(scan: Scan) -> str:
    return f" in {count(len({pair.group for pair in scan.pairs}), 'group')}" if scan.grouped else ""


@dataclass(frozen=True)
class _Look:
    """A readable pair, without its pixels."""

    pair: Pair
    facts: PairFacts
    likeness: Likeness
    small_mask: Pixels
    tile: Image.Image | None


def _look(scan: Scan, how: Reading, *, tiles: bool) -> tuple[list[_Look], list[Problem]]:
    """Return every readable pair, and the problems of names and of unreadable files."""

    def look(pair: Pair) -> _Look | Problem:
        try:
            clean = inspect_pair(pair, how)
        except InputError as error:
            return _unusable(pair, error)
        tile = draw_tile(as_rgb(clean.pixels), clean.mask, pair.name) if tiles else None
        return _Look(pair, clean.facts, clean.likeness, clean.small_mask, tile)

    results = list(in_parallel(look, scan.pairs, "reading images"))
    unusable = [result for result in results if isinstance(result, Problem)]
    return [result for result in results if isinstance(result, _Look)], [*scan.problems, *unusable]


def _outside(scan: Scan) -> Iterator[Finding]:
    """Yield findings about images without a pair, and about files that must be converted first."""
    by_suffix: dict[str | None, list[Path]] = defaultdict(list)
    for path in scan.ignored:
        by_suffix[foreign_suffix(path.name)].append(path)
    for suffix, paths in by_suffix.items():
        where = some([shown(path, scan.root) for path in paths])
        seen = "belongs to no pair" if suffix is None else describe_foreign(paths)[0]
        yield Finding(WARNING, where, seen, "ignored")


def _together(pairs: Sequence[Pair], kin: Sequence[Kin]) -> dict[str, str]:
    """Merge groups whose images are related; keep the name of a given group where only one is involved."""
    first: dict[str, int] = {}
    given = [Kin(first.setdefault(pair.group, index), index, "group") for index, pair in enumerate(pairs)]
    groups = {pair.name: pair.group for pair in pairs}
    for family in families(len(pairs), [*kin, *given]):
        shared = {pairs[index].group for index in family}
        named = {group for group in shared if group not in groups}  # not the default groups of single pairs
        name = named.pop() if len(named) == 1 else pairs[family[0]].name
        groups |= {pairs[index].name: name for index in family}
    return groups


def _merged(problems: Sequence[Problem], root: Path) -> list[Finding]:
    """Return one finding for each kind of problem, with all its places."""
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for problem in problems:
        places[problem.seen, problem.remedy].append(shown(problem.path, root))
    return [Finding(ERROR, some(names), seen, f"refused: {remedy}") for (seen, remedy), names in places.items()]


def _unusable(pair: Pair, error: InputError) -> Problem:
    path = next((path for path in pair.files if str(error).startswith(f"{path}: ")), pair.image)
    seen, _, remedy = str(error).removeprefix(f"{path}: ").partition("; ")
    return Problem(path, seen, remedy or "fix the file or remove the pair")


def _default_split(pairs: Sequence[Pair], facts: Sequence[PairFacts], findings: list[Finding]) -> Subsets | None:
    try:
        subsets = SplitPlan().divide({pair.name: pair.group for pair in pairs})
    except InputError as error:
        findings.append(Finding(ERROR, "the default split", str(error), "refused"))
        return None
    training = set(subsets["train"])
    learnt = [known for pair, known in zip(pairs, facts, strict=True) if pair.name in training]
    if reason := nothing_to_learn(learnt):
        findings.append(Finding(ERROR, "the default split", reason, "refused"))
    return subsets


def next_command(check: Check, root: Path, groups: Path | None, how: Reading) -> str:
    """Return the command to run after a check: train with the same settings, or check again.

    Args:
        check: The result of the check.
        root: The data set.
        groups: The table of groups that training should use; None for ``groups.csv`` in the data set.
        how: As for ``check_data``.
    """
    folder = root if root.is_dir() else root.parent
    given = ["--groups", str(groups)] if groups and groups.is_file() else []
    if any("--write-groups" in finding.effect for finding in check.findings if finding.severity == ERROR):
        words = ["cellseg", "check", str(root), *given, *check_options(how)]
        return shlex.join([*words, "--write-groups", str(unused_table(folder))])
    if check.failed:
        effects = [finding.effect for finding in check.findings if "if they are channels" not in finding.effect]
        chosen = re.search(r"data\.channels=\[([\d,]+)\]", " ".join(effects))
        how = replace(how, channels=tuple(map(int, chosen[1].split(",")))) if chosen else how
        return shlex.join(["cellseg", "check", str(root), *given, *check_options(how)])
    settings = {
        "data.root": root,
        "data.groups": None if groups == folder / "groups.csv" else groups,
        "data.mask_threshold": how.mask_threshold if how.mask_threshold != Reading.mask_threshold else None,
        "data.channels": how.channels and f"[{','.join(map(str, how.channels))}]",
        "data.ignore_value": how.ignore_value
        if isinstance(how.ignore_value, int | None)
        else f"[{','.join(map(str, how.ignore_value))}]",
        "data.image_size": how.image_size if how.image_size != USUAL_SIZE else None,
    }
    words = [f"{key}={value}" for key, value in settings.items() if value is not None]
    return shlex.join(["cellseg", "train", *words])


def print_check(check: Check, then: str) -> None:
    """Print the findings, whether training would run, and the next command."""
    console, findings = Console(), check.findings
    for line in filter(None, (check.headline, check.meaning)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if findings:
        table = Table("severity", "where", "finding", "what training does", show_lines=True)
        for finding in findings:
            cells = (finding.where, finding.seen, finding.effect)
            table.add_row(
                Text(finding.severity, COLOURS[finding.severity]), *(Text(cell, overflow="fold") for cell in cells)
            )
        console.print(table)
    counts = Counter(finding.severity for finding in findings)
    said = ", ".join(f"{counts[severity]} {severity}{'' if counts[severity] == 1 else 's'}" for severity in COLOURS)
    verdict = "training would stop" if counts[ERROR] else "training would run"
    console.print(f"{said}: {verdict}", style="bold", highlight=False)
    if not check.failed and not check.tiles:
        look = "whether the masks are good only you can see: draw them over the images with --montage FILE.png"
        console.print(look, highlight=False, markup=False, soft_wrap=True)
    when = "after fixing this, check again" if check.failed else "next"
    console.print(f"{when}: {then}", highlight=False, markup=False, soft_wrap=True)
