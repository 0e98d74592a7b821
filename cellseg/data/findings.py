"""What is worth knowing about a data set before training on it, each with what training makes of it."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from cellseg.data.facts import PairFacts
from cellseg.data.kinship import Kin, families
from cellseg.data.pairs import Pair
from cellseg.data.splits import Subsets

ERROR, WARNING, NOTE = "error", "warning", "note"
DARK = 70  # mean brightness of 255: fluorescence lies below, stained tissue and brightfield above
COLOURED = 5  # mean colourfulness of 255; a grey picture saved as JPEG in colour has up to 2
LONGEST_NAME = 36
MODES = {
    "P": "palette colours",
    "I;16": "16 bits",
    "I": "32 bits",
    "F": "floating-point numbers",
    "LA": "grey and alpha",
}
MOST_FAMILIES = 20  # told one by one
INVERTED_CELLS, INVERTED_BORDER = 0.5, 0.8  # more cell than that, most of all along the sides, looks like background


@dataclass(frozen=True)
class Finding:
    """Something seen in a data set.

    Attributes:
        severity: ``error`` where training stops, ``warning`` where it goes on but may not do what was meant, ``note``
            for what is dealt with.
        where: The file or pair, or how many of them and the first.
        seen: What was seen.
        effect: What training does about it.
    """

    severity: str
    where: str
    seen: str
    effect: str

    def __str__(self) -> str:
        return f"{self.where}: {self.seen}; {self.effect}"


def look_at_pairs(pairs: Sequence[Pair], facts: Sequence[PairFacts], root: Path) -> Iterator[Finding]:
    """Yield what single files, and the files side by side, are like; one finding for all files that share a trait."""
    known = list(zip(pairs, facts, strict=True))

    def those(trait: Callable[[PairFacts], object], *, masks: bool) -> list[tuple[str, PairFacts]]:
        return [
            (str((pair.masks[0] if masks else pair.image).relative_to(root)), fact)
            for pair, fact in known
            if trait(fact)
        ]

    def finding(severity: str, found: Sequence[tuple[str, PairFacts]], seen: str, effect: str) -> Iterator[Finding]:
        if found:
            yield Finding(severity, some([name for name, _ in found]), seen, effect)

    empty = those(lambda fact: fact.cells == 0, masks=True)
    effect = "kept; the Dice loss learns nothing from an image without cells"
    yield from finding(WARNING, empty, "the mask is empty", effect)
    full = those(lambda fact: fact.cells == 1, masks=True)
    yield from finding(WARNING, full, "the mask is cell everywhere", "kept as it is; look at it")
    inverted = those(lambda f: 1 > f.cells > INVERTED_CELLS and f.border > INVERTED_BORDER, masks=True)
    seen = f"looks inverted: {_range(f.cells for _, f in inverted)} is cell, the sides most of all"
    yield from finding(WARNING, inverted, seen, "kept as it is: white is cell; invert it if cells are black")
    deep = those(lambda fact: fact.truncated_depth, masks=False)
    yield from finding(
        WARNING, deep, "16-bit colour", "only the upper 8 bits are used; save it as 8 bits if it comes out dark"
    )

    grey = those(lambda fact: fact.grey > 0, masks=True)
    seen = f"grey pixels, {_range(fact.grey for _, fact in grey)} of the cell pixels"
    yield from finding(NOTE, grey, seen, "grey above data.mask_threshold is cell")
    faint = those(lambda fact: fact.faint > 0, masks=True)
    seen = f"faint pixels, {_range(fact.faint for _, fact in faint)} of all pixels"
    yield from finding(NOTE, faint, seen, "at or below data.mask_threshold they are background")
    ones = those(lambda fact: fact.mask_kind == "labels" and fact.mask_brightest == 1, masks=True)
    yield from finding(NOTE, ones, "values 0 and 1", "1 is cell")
    ids = those(lambda fact: fact.mask_kind == "labels" and fact.mask_values > 1, masks=True)
    most = max(ids, key=lambda found: found[1].mask_values)[1] if ids else None
    seen = (
        f"labels such as instance ids: up to {most.mask_values} values, {most.mask_brightest} the largest"
        if most
        else ""
    )
    yield from finding(NOTE, ids, seen, "every value above 0 is cell")
    odd = those(
        lambda f: f.mask_kind == "labels" and f.mask_values == 1 and f.mask_brightest not in (1, 255), masks=True
    )
    seen = f"values 0 and {odd[0][1].mask_brightest}" if odd else ""
    yield from finding(NOTE, odd, seen, "everything above 0 is cell")
    modes = Counter(fact.mask_mode for fact in facts)
    for mode in sorted(modes.keys() - {"1", "L"}):
        odd = those(lambda fact, mode=mode: fact.mask_mode == mode, masks=True)  # type: ignore[misc]  # mypy and lambdas
        yield from finding(NOTE, odd, f"{MODES.get(mode, mode)}, not grey of 8 bits", _mask_effect(mode))

    stretched = those(lambda fact: fact.stretched, masks=False)
    effect = "each image is stretched from its 0.1 to its 99.9 percentile"
    yield from finding(NOTE, stretched, "more than 8 bits a pixel", effect)
    askew = those(lambda fact: fact.turned != fact.mask_turned, masks=False)
    seen = "a camera's orientation tag in the image or in its mask, not in both"
    yield from finding(WARNING, askew, seen, "the one that has it is turned upright: see with --montage if they fit")
    turned = those(lambda fact: fact.turned, masks=False)
    yield from finding(NOTE, turned, "a camera's orientation tag", "the image is turned upright")
    yield from _mixtures(facts)


def look_at_kin(
    pairs: Sequence[Pair], kin: Sequence[Kin], subsets: Subsets | None, *, grouped: bool
) -> Iterator[Finding]:
    """Yield the families among the images, and which of them the split tears apart."""
    group_of = {pair.name: pair.group for pair in pairs}
    leaks = {frozenset((a, b)) for a, _, b, _, _ in find_leaks(pairs, kin, subsets)} if subsets else set()
    relations = {index: relation.relation for relation in kin for index in (relation.first, relation.second)}
    found = []
    for family in families(len(pairs), kin):
        names = [pairs[index].name for index in family]
        groups = {group_of[name] for name in names}
        if torn := next((pair for pair in leaks if pair <= set(names)), None):
            a, b = sorted(torn, key=names.index)
            severity = ERROR
            effect = (
                f"refused: {some([a, b])} are on two sides of the default split; "
                "write the family into one group, as --write-groups does"
            )
        elif len(groups) == 1:
            severity, effect = NOTE, f"kept on one side of every split, as group {groups.pop()}"
        else:
            of = "groups.csv puts them into different groups" if grouped else "there is no groups.csv"
            severity, effect = WARNING, f"the default split has them on one side, another may not: {of}"
        kinds = " and ".join(sorted({relations[index] for index in family}))
        found.append(Finding(severity, some(names, 8), f"{kinds}, {len(names)} images", effect))
    for severity in (ERROR, WARNING, NOTE):
        alike = [finding for finding in found if finding.severity == severity]
        yield from alike[:MOST_FAMILIES]
        if left := alike[MOST_FAMILIES:]:
            yield Finding(severity, f"{len(left)} more families", "as above", "--write-groups lists them all")


Leak = tuple[str, str, str, str, str]


def find_leaks(pairs: Sequence[Pair], kin: Sequence[Kin], subsets: Subsets) -> list[Leak]:
    """Return relatives on two sides of a split: name, subset, other name, its subset, how they are related.

    Related are images of one group and those that look it.
    """
    side = {name: subset for subset, names in subsets.items() for name in names}
    leaks = [
        (pairs[relation.first].name, pairs[relation.second].name, relation.relation)
        for relation in kin
        if side[pairs[relation.first].name] != side[pairs[relation.second].name]
    ]
    first: dict[str, str] = {}
    for pair in pairs:
        other = first.setdefault(pair.group, pair.name)
        if side[other] != side[pair.name]:
            leaks.append((other, pair.name, f"group {pair.group}"))
    return [(a, side[a], b, side[b], relation) for a, b, relation in leaks]


def nothing_to_learn(training: Iterable[PairFacts]) -> str | None:
    """Say why no network could learn from these masks, if none could."""
    shares = [fact.cells for fact in training]
    if not any(shares):
        return "none of the training masks has a cell in it; look at the masks"
    if all(share == 1 for share in shares):
        return "every training mask is cell everywhere; background must be 0, or black"
    return None


def count(number: int, noun: str) -> str:
    """Return 1 pair, 2 pairs."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def some(names: Collection[str], most: int = 3) -> str:
    """Name a few of many, the middle of long names left out."""
    shown = ", ".join(_shortened(name) for name in list(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 2]}…{name[-LONGEST_NAME // 2 :]}"


def _mask_effect(mode: str) -> str:
    if mode in ("RGB", "RGBA", "CMYK", "P", "YCbCr"):
        return "its brightest channel counts" + ("; transparent pixels are background" if mode == "RGBA" else "")
    return "read as it is"


def _mixtures(facts: Sequence[PairFacts]) -> Iterator[Finding]:
    sizes = Counter((fact.width, fact.height) for fact in facts)
    if len(sizes) > 1:
        (width, height), count = sizes.most_common(1)[0]
        shapes = [width / height for width, height in sizes]
        stretched = max(shapes) / min(shapes) > 1.1
        yield Finding(
            WARNING if stretched else NOTE,
            "the data set",
            f"{len(sizes)} image sizes; {count} of {len(facts)} are {width}x{height}",
            "all are resized to one square, so cells " + ("are squeezed unequally" if stretched else "change scale"),
        )
    kinds = Counter(
        f"{'dark' if fact.brightness < DARK else 'bright'} {'colour' if fact.colourfulness > COLOURED else 'grey'}"
        for fact in facts
    )
    if len(kinds) > 1:
        seen = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        yield Finding(WARNING, "the data set", f"mixed modalities: {seen}", "trained together; compare scores by group")


def _range(shares: Iterator[float]) -> str:
    values = sorted(shares)
    return (
        f"{values[0]:.1%} to {values[-1]:.1%} (median {median(values):.1%})"
        if len(values) > 1
        else f"{sum(values):.1%}"
    )
