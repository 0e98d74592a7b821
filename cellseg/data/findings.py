"""What is worth knowing about a data set before training on it, each with what training makes of it."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Generic, TypeVar

from cellseg.data.facts import ImageFacts, PairFacts
from cellseg.data.kinship import Kin, families
from cellseg.data.masks import EMPTY, GREY, LABELS, RESIZED
from cellseg.data.pairs import Pair, shown
from cellseg.data.splits import Subsets

ERROR, WARNING, NOTE = "error", "warning", "note"
DARK = 70  # mean brightness of 255: fluorescence lies below, stained tissue and brightfield above
COLOURED = 5  # mean colourfulness of 255; a grey picture saved as JPEG in colour has up to 2
LONGEST_NAME = 36
FEW_SPECKS = 20  # of a mask, that may be cells
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


Facts = TypeVar("Facts", bound=ImageFacts)


@dataclass(frozen=True)
class Trait(Generic[Facts]):
    """What some files of a data set may have in common.

    Attributes:
        severity: As of the finding.
        holds: Whether a file has it.
        seen, effect: As of the finding, as they are or from the facts of the files that have it.
        of_images: Whether the image files of pairs have it, not their masks.
    """

    severity: str
    holds: Callable[[Facts], object]
    seen: str | Callable[[Sequence[Facts]], str]
    effect: str | Callable[[Sequence[Facts]], str]
    of_images: bool = False


MASK_TRAITS: tuple[Trait[PairFacts], ...] = (
    Trait(
        WARNING,
        lambda fact: fact.cells == 0,
        "the mask is empty",
        "kept; the Dice loss learns nothing from an image without cells",
    ),
    Trait(WARNING, lambda fact: fact.cells == 1, "the mask is cell everywhere", "kept as it is; look at it"),
    Trait(
        WARNING,
        lambda fact: fact.inverted or (1 > fact.cells > INVERTED_CELLS and fact.border > INVERTED_BORDER),
        lambda facts: f"looks inverted: {_range(fact.cells for fact in facts)} is cell, and surrounds what is not",
        "kept as it is: every value above 0 is cell; save background as 0",
    ),
    Trait(
        WARNING,
        lambda fact: fact.kept < fact.objects,
        lambda facts: _vanishing(facts),
        lambda facts: (
            "they are neither learnt nor scored, and an image that loses all of them scores 0; "
            f"at data.image_size={max(fact.keeps_all_at for fact in facts)} each keeps a pixel"
        ),
    ),
    Trait(
        WARNING,
        lambda fact: fact.mask_kind == LABELS and fact.specks > max(FEW_SPECKS, fact.objects / 2),
        lambda facts: (
            f"specks of at most 3 pixels, {sum(fact.specks for fact in facts)} of "
            f"{sum(fact.objects for fact in facts)} objects"
        ),
        "kept as they are; a mask that was dithered, or has noise in it, must be saved anew",
    ),
    Trait(
        WARNING,
        lambda fact: fact.mask_kind == RESIZED,
        "labels that fade at their edges, as after resizing with interpolation",
        "half of a label's value is cell; resize labels without interpolation (nearest neighbour)",
    ),
    Trait(
        WARNING,
        lambda fact: fact.not_judged,
        lambda facts: (
            f"value {facts[0].not_judged} beside labels up to {_second(facts):g}, which may mean 'not judged'"
        ),
        "it is cell, as every value above 0; if nobody decided about these pixels, save them as 0",
    ),
    Trait(
        WARNING,
        lambda fact: fact.faint_areas > 0,
        lambda facts: f"faint areas far from any cell, {_range(fact.faint_areas for fact in facts)} of all pixels",
        "they are background; if they are labels, save each cell brighter than data.mask_threshold, in PNG or TIFF",
    ),
    Trait(
        WARNING,
        lambda fact: fact.turned != fact.mask_turned,
        "an orientation tag of a camera in the image or in its mask, not in both",
        "the one that has it is turned upright: see with --montage if they fit",
    ),
    Trait(
        WARNING,
        lambda fact: fact.mask_kind == GREY and fact.grey > 0.5,
        lambda facts: f"shades of grey without a usual value, {_range(fact.grey for fact in facts)} of the cell pixels",
        "values above data.mask_threshold are cell; look with --montage; are images and masks swapped?",
    ),
    Trait(
        NOTE,
        lambda fact: 0 < fact.grey <= 0.5,
        lambda facts: f"grey pixels, {_range(fact.grey for fact in facts)} of the cell pixels",
        "grey above data.mask_threshold is cell",
    ),
    Trait(
        NOTE,
        lambda fact: fact.faint > 0 and fact.mask_kind == GREY,
        lambda facts: f"faint pixels, {_range(fact.faint for fact in facts)} of all pixels",
        "at or below data.mask_threshold they are background",
    ),
    Trait(NOTE, lambda fact: fact.mask_kind == LABELS and fact.mask_brightest == 1, "values 0 and 1", "1 is cell"),
    Trait(
        NOTE,
        lambda fact: fact.mask_kind == LABELS and fact.mask_values > 1,
        lambda facts: _ids(max(facts, key=lambda fact: fact.mask_values)),
        "every value above 0 is cell",
    ),
    Trait(
        NOTE,
        lambda fact: fact.mask_kind == LABELS and fact.mask_values == 1 and fact.mask_brightest not in (1, 255),
        lambda facts: f"values 0 and {facts[0].mask_brightest:g}",
        "everything above 0 is cell",
    ),
    Trait(
        NOTE,
        lambda fact: fact.mask_white_is_zero,
        "PhotometricInterpretation 0: white is zero",
        lambda facts: _of_zero(facts[0].mask_white_is_zero),
    ),
)
IMAGE_TRAITS: tuple[Trait[ImageFacts], ...] = (
    Trait(
        WARNING,
        lambda fact: fact.truncated_depth,
        "16-bit colour",
        "only the upper 8 bits are used; save it as 8 bits if it comes out dark",
    ),
    Trait(
        WARNING,
        lambda fact: fact.channels == 2 and not fact.chosen,
        "2 channels",
        "both are used, as red and green; data.channels=[0] uses the first alone",
    ),
    Trait(
        NOTE,
        lambda fact: fact.channels == 3 and not fact.chosen,
        "3 channels",
        "used as red, green and blue; data.channels chooses",
    ),
    Trait(
        WARNING,
        lambda fact: fact.channels > 3 and not fact.chosen,
        lambda facts: f"{facts[0].channels} channels, the first three of them RGB",
        "red, green and blue are used; data.channels=[0,1,2,3] uses one more",
    ),
    Trait(
        NOTE,
        lambda fact: fact.chosen,
        lambda facts: f"{facts[0].channels or 'grey or RGB'} channels",
        lambda facts: f"of them {facts[0].chosen} are used, counted from 0",
    ),
    Trait(
        NOTE,
        lambda fact: fact.stretched,
        "more than 8 bits a pixel",
        "each image is stretched from its 0.1 to its 99.9 percentile",
    ),
    Trait(NOTE, lambda fact: fact.turned, "an orientation tag of a camera", "the image is turned upright"),
    Trait(
        NOTE,
        lambda fact: fact.white_is_zero,
        "PhotometricInterpretation 0: white is zero",
        lambda facts: _of_zero(facts[0].white_is_zero),
    ),
)


def look_at_pairs(pairs: Sequence[Pair], facts: Sequence[PairFacts], root: Path) -> Iterator[Finding]:
    """Yield what single files, and the files side by side, are like; one finding for all files that share a trait."""
    masks, images = [pair.masks[0] for pair in pairs], [pair.image for pair in pairs]
    yield from _shared_traits((*MASK_TRAITS, *_mask_file_traits(facts)), masks, facts, root)
    yield from _contradictions(masks, facts, root)
    yield from look_at_images(images, facts, root)


def look_at_images(images: Sequence[Path], facts: Sequence[ImageFacts], root: Path) -> Iterator[Finding]:
    """Yield what image files, and all of them side by side, are like."""
    yield from _shared_traits(IMAGE_TRAITS, images, facts, root)
    yield from _mixtures(facts)


def describe_masks(facts: Sequence[PairFacts], threshold: int) -> str:
    """Say in one line what the values of the masks were taken for."""
    meanings = {
        LABELS: "labels, every value above 0 is cell",
        RESIZED: "labels that fade at their edges, half of a label's value is cell",
        GREY: f"shades, those above data.mask_threshold={threshold} are cell",
        EMPTY: "empty",
    }
    kinds = Counter(fact.mask_kind for fact in facts)
    said = "; ".join(f"{kinds[kind]} {meaning}" for kind, meaning in meanings.items() if kinds[kind])
    indexed = sum(fact.by_index for fact in facts)
    return f"masks: {said}" + (f"; {indexed} by the index of a palette" if indexed else "")


def _shared_traits(
    traits: Iterable[Trait[Facts]], files: Sequence[Path], facts: Sequence[Facts], root: Path
) -> Iterator[Finding]:
    for trait in traits:
        found = [(file, fact) for file, fact in zip(files, facts, strict=True) if trait.holds(fact)]
        if found:
            known = [fact for _, fact in found]
            seen, effect = (part if isinstance(part, str) else part(known) for part in (trait.seen, trait.effect))
            yield Finding(trait.severity, some([shown(file, root) for file, _ in found]), seen, effect)


def _mask_file_traits(facts: Sequence[PairFacts]) -> Iterator[Trait[PairFacts]]:
    """Yield a trait for every way to hold pixels, other than grey of 8 bits, that masks of the set have."""
    for kind in sorted({fact.mask_file_kind for fact in facts} - {"grey, 1 bit", "grey, 8 bits"}):
        yield Trait(NOTE, partial(_is_of_kind, kind), kind, _mask_effect)


def _is_of_kind(kind: str, fact: PairFacts) -> bool:
    return fact.mask_file_kind == kind


def _mask_effect(facts: Sequence[PairFacts]) -> str:
    kind = facts[0].mask_file_kind
    if kind.startswith("palette"):
        indexed = sum(fact.by_index for fact in facts)
        said = {0: "its grey is the value", len(facts): "its index is the value"}
        return said.get(indexed, f"in {indexed} its index is the value, where all its colours are grey its grey")
    if kind.startswith("RGB"):
        return "its brightest channel counts" + ("; transparent pixels are background" if "alpha" in kind else "")
    return "transparent pixels are background" if "alpha" in kind else "read as it is"


def _contradictions(masks: Sequence[Path], facts: Sequence[PairFacts], root: Path) -> Iterator[Finding]:
    """Yield where one value is cell in some masks and background in others."""
    cut = [fact for fact in facts if fact.faint > 0 and fact.mask_kind == GREY]
    lowest = max((fact.mask_smallest for fact in cut), default=0)
    kept = [
        shown(file, root)
        for file, fact in zip(masks, facts, strict=True)
        if fact.mask_kind in (LABELS, RESIZED) and 0 < fact.mask_smallest <= lowest
    ]
    if cut and kept:
        yield Finding(
            WARNING,
            some(kept),
            f"low values are cell here, and background in {count(len(cut), 'mask')} that hold shades",
            "kept as it is; save all masks in one way, cells as 255",
        )


def _vanishing(facts: Sequence[PairFacts]) -> str:
    objects, kept, size = sum(fact.objects for fact in facts), sum(fact.kept for fact in facts), facts[0].resized_to
    emptied = sum(fact.vanishes for fact in facts)
    said = f"{objects - kept} of {objects} objects vanish when the mask is resized to {size}x{size}"
    return f"{said}; {count(emptied, 'mask')} {'loses' if emptied == 1 else 'lose'} all" if emptied else said


def _second(facts: Sequence[PairFacts]) -> float:
    return max(fact.mask_second for fact in facts)


def _of_zero(meaning: str) -> str:
    if meaning == "stored":
        return "the tag of ImageJ or tifffile is about display: values are used as they are stored"
    return "values are inverted, to what a viewer shows"


def _ids(fact: PairFacts) -> str:
    return f"labels such as instance ids: up to {fact.mask_values} values, {fact.mask_brightest:g} the largest"


@dataclass(frozen=True)
class _Family:
    """Related images: their names, how they are related, and the two that the default split tears apart, if it does."""

    names: Sequence[str]
    relation: str
    groups: Collection[str]
    torn: Sequence[str]

    @property
    def severity(self) -> str:
        return ERROR if self.torn else NOTE if len(self.groups) == 1 else WARNING


def look_at_kin(
    pairs: Sequence[Pair], kin: Sequence[Kin], subsets: Subsets | None, *, grouped: bool
) -> Iterator[Finding]:
    """Yield the families among the images, and which of them the split tears apart; one finding for all of a kind."""
    group_of = {pair.name: pair.group for pair in pairs}
    leaks = {frozenset((a, b)) for a, _, b, _, _ in find_leaks(pairs, kin, subsets)} if subsets else set()
    relations = {index: relation.relation for relation in kin for index in (relation.first, relation.second)}
    alike: dict[tuple[str, str], list[_Family]] = {}
    for members in families(len(pairs), kin):
        names = [pairs[index].name for index in members]
        torn = next((sorted(pair, key=names.index) for pair in leaks if pair <= set(names)), [])
        relation = " and ".join(sorted({relations[index] for index in members}))
        family = _Family(names, relation, {group_of[name] for name in names}, torn)
        alike.setdefault((family.severity, relation), []).append(family)
    for severity in (ERROR, WARNING, NOTE):
        for (found, relation), several in alike.items():
            if found == severity:
                yield _of_families(several, relation, grouped=grouped)


def _of_families(several: Sequence[_Family], relation: str, *, grouped: bool) -> Finding:
    first, one = several[0], len(several) == 1
    each = "the family" if one else "each family"
    if first.severity == ERROR:
        effect = (
            f"refused: {some(first.torn)} are on two sides of the default split; "
            f"write {each} into one group, as --write-groups does"
        )
    elif first.severity == NOTE:
        effect = f"kept on one side of every split, as {f'group {next(iter(first.groups))}' if one else 'groups'}"
    else:
        of = "groups.csv puts them into different groups" if grouped else "there is no groups.csv"
        effect = f"the default split has them on one side, another may not: {of}"
    images = count(sum(len(family.names) for family in several), "image")
    if one:
        return Finding(first.severity, some(first.names, 8), f"{relation}, {images}", effect)
    return Finding(
        first.severity,
        f"{some(first.names, 4)}, and others",
        f"{relation}, {images} in {len(several)} families",
        effect,
    )


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


def nothing_to_learn(training: Sequence[PairFacts]) -> str | None:
    """Say why no network could learn from these masks, if none could."""
    if not any(fact.objects for fact in training):
        return "none of the training masks has a cell in it; look at the masks"
    if not any(fact.kept for fact in training):
        size, side = training[0].resized_to, max(fact.keeps_all_at for fact in training)
        return (
            f"none of the training masks keeps a cell when it is resized to {size}x{size} pixels; "
            f"set data.image_size={side}, at which every cell keeps a pixel"
        )
    if all(fact.cells == 1 for fact in training):
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


def _mixtures(facts: Sequence[ImageFacts]) -> Iterator[Finding]:
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
        yield Finding(WARNING, "the data set", f"mixed modalities: {seen}", "treated alike; compare scores by group")


def _range(shares: Iterator[float]) -> str:
    values = sorted(shares)
    return (
        f"{values[0]:.1%} to {values[-1]:.1%} (median {median(values):.1%})"
        if len(values) > 1
        else f"{sum(values):.1%}"
    )
