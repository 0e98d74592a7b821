"""What is worth knowing about a data set before training on it, each with what training makes of it."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
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


@dataclass(frozen=True)
class Trait:
    """What some files of a data set may have in common.

    Attributes:
        severity, effect: As of the finding.
        of_masks: Whether the mask files have it, not the images.
        holds: Whether a pair has it.
        seen: What was seen, as it is or from the facts of the pairs that have it.
    """

    severity: str
    of_masks: bool
    holds: Callable[[PairFacts], object]
    seen: str | Callable[[Sequence[PairFacts]], str]
    effect: str


TRAITS = (
    Trait(
        WARNING,
        True,
        lambda fact: fact.cells == 0,
        "the mask is empty",
        "kept; the Dice loss learns nothing from an image without cells",
    ),
    Trait(WARNING, True, lambda fact: fact.cells == 1, "the mask is cell everywhere", "kept as it is; look at it"),
    Trait(
        WARNING,
        True,
        lambda fact: 1 > fact.cells > INVERTED_CELLS and fact.border > INVERTED_BORDER,
        lambda facts: f"looks inverted: {_range(fact.cells for fact in facts)} is cell, the sides most of all",
        "kept as it is: white is cell; invert it if cells are black",
    ),
    Trait(
        WARNING,
        False,
        lambda fact: fact.truncated_depth,
        "16-bit colour",
        "only the upper 8 bits are used; save it as 8 bits if it comes out dark",
    ),
    Trait(
        NOTE,
        True,
        lambda fact: fact.grey > 0,
        lambda facts: f"grey pixels, {_range(fact.grey for fact in facts)} of the cell pixels",
        "grey above data.mask_threshold is cell",
    ),
    Trait(
        NOTE,
        True,
        lambda fact: fact.faint > 0,
        lambda facts: f"faint pixels, {_range(fact.faint for fact in facts)} of all pixels",
        "at or below data.mask_threshold they are background",
    ),
    Trait(
        NOTE, True, lambda fact: fact.mask_kind == "labels" and fact.mask_brightest == 1, "values 0 and 1", "1 is cell"
    ),
    Trait(
        NOTE,
        True,
        lambda fact: fact.mask_kind == "labels" and fact.mask_values > 1,
        lambda facts: _ids(max(facts, key=lambda fact: fact.mask_values)),
        "every value above 0 is cell",
    ),
    Trait(
        NOTE,
        True,
        lambda fact: fact.mask_kind == "labels" and fact.mask_values == 1 and fact.mask_brightest not in (1, 255),
        lambda facts: f"values 0 and {facts[0].mask_brightest}",
        "everything above 0 is cell",
    ),
)
IMAGE_TRAITS = (
    Trait(
        NOTE,
        False,
        lambda fact: fact.stretched,
        "more than 8 bits a pixel",
        "each image is stretched from its 0.1 to its 99.9 percentile",
    ),
    Trait(
        WARNING,
        False,
        lambda fact: fact.turned != fact.mask_turned,
        "a camera's orientation tag in the image or in its mask, not in both",
        "the one that has it is turned upright: see with --montage if they fit",
    ),
    Trait(NOTE, False, lambda fact: fact.turned, "a camera's orientation tag", "the image is turned upright"),
)


def look_at_pairs(pairs: Sequence[Pair], facts: Sequence[PairFacts], root: Path) -> Iterator[Finding]:
    """Yield what single files, and the files side by side, are like; one finding for all files that share a trait."""
    for trait in (*TRAITS, *_mode_traits(facts), *IMAGE_TRAITS):
        found = [(pair, fact) for pair, fact in zip(pairs, facts, strict=True) if trait.holds(fact)]
        if found:
            files = [pair.masks[0] if trait.of_masks else pair.image for pair, _ in found]
            seen = trait.seen if isinstance(trait.seen, str) else trait.seen([fact for _, fact in found])
            where = some([str(file.relative_to(root)) for file in files])
            yield Finding(trait.severity, where, seen, trait.effect)
    yield from _mixtures(facts)


def _mode_traits(facts: Sequence[PairFacts]) -> Iterator[Trait]:
    """Yield a trait for every way to hold pixels, other than grey of 8 bits, that masks of the set have."""
    for mode in sorted({fact.mask_mode for fact in facts} - {"1", "L"}):
        seen = f"{MODES.get(mode, mode)}, not grey of 8 bits"
        yield Trait(NOTE, True, partial(_has_mode, mode), seen, _mask_effect(mode))


def _has_mode(mode: str, fact: PairFacts) -> bool:
    return fact.mask_mode == mode


def _ids(fact: PairFacts) -> str:
    return f"labels such as instance ids: up to {fact.mask_values} values, {fact.mask_brightest} the largest"


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
