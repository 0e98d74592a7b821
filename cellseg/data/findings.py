"""Findings about a data set: errors, warnings and notes, each with the effect on training."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Generic, TypeVar

from cellseg.data.facts import COLOURED_JPEG, ImageFacts, PairFacts, Reading
from cellseg.data.kinship import Kin, families
from cellseg.data.masks import EMPTY, GREY, LABELS, RESIZED
from cellseg.data.pairs import Pair, shown
from cellseg.data.splits import Subsets
from cellseg.storage.errors import count

ERROR, WARNING, NOTE = "error", "warning", "note"
DARK = 70  # mean brightness, of 255: fluorescence is below, stained tissue and brightfield are above
COLOURED = 5  # mean colourfulness, of 255; a grey image saved as colour JPEG has up to 2
LONGEST_NAME = 36
FEW_SPECKS = 20  # specks in one mask that may be cells
# larger shares of cell, in the image and along its sides, look like background
MOST_IGNORED = 1 / 3  # share of not-judged pixels from which the marks may be inverted
INVERTED_CELLS, INVERTED_BORDER = 0.5, 0.8
OUTLINES = 1.4  # area of thin lines with what they enclose, as a multiple of their area, above which they are outlines
FEWEST_TURNED, USUAL_FIT = 3, 0.1  # turned masks of a set; or one of a set whose masks usually fit so well


@dataclass(frozen=True)
class Finding:
    """One finding about a data set.

    Attributes:
        severity: ``error`` if training stops, ``warning`` if training may not do what the user expects, ``note`` if
            nothing needs to be done.
        where: The file or pair, or the first of several and their number.
        seen: The observation.
        effect: How training treats it.
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
    """A property that several files of a data set may share.

    Attributes:
        severity: Severity of the finding.
        holds: Whether a file has the property.
        seen, effect: Texts of the finding, or functions that make them from the facts of the files with the property.
    """

    severity: str
    holds: Callable[[Facts], object]
    seen: str | Callable[[Sequence[Facts]], str]
    effect: str | Callable[[Sequence[Facts]], str]


MASK_TRAITS: tuple[Trait[PairFacts], ...] = (
    Trait(
        WARNING,
        lambda fact: fact.cells == 0,
        "the mask is empty",
        "kept; if the image shows cells, the mask is wrong",
    ),
    Trait(WARNING, lambda fact: fact.cells == 1, "the mask is cell everywhere", "kept as it is; look at the mask"),
    Trait(
        WARNING,
        lambda fact: fact.inverted or (1 > fact.cells > INVERTED_CELLS and fact.border > INVERTED_BORDER),
        lambda facts: (
            f"looks inverted: cell covers {_range(fact.cells for fact in facts)} and surrounds the background"
        ),
        "kept as it is; if cell and background are exchanged, save background as 0",
    ),
    Trait(
        WARNING,
        lambda fact: fact.filled > OUTLINES,
        lambda facts: (
            f"looks like outlines only: filled, it would cover {_times(fact.filled for fact in facts)} as many pixels"
        ),
        "kept as it is; if lines mean the borders of cells, save the cells filled",
    ),
    Trait(
        WARNING,
        lambda fact: fact.kept < fact.objects,
        lambda facts: _vanishing(facts),
        lambda facts: (
            "these objects are neither learnt nor scored, and an image that loses all of them scores 0; "
            f"with data.image_size={max(fact.keeps_all_at for fact in facts)} each object keeps a pixel"
        ),
    ),
    Trait(
        WARNING,
        lambda fact: fact.mask_kind == LABELS and fact.specks > max(FEW_SPECKS, fact.objects / 2),
        lambda facts: (
            f"specks of at most 3 pixels, {sum(fact.specks for fact in facts)} of "
            f"{sum(fact.objects for fact in facts)} objects"
        ),
        "kept as they are; if the mask is dithered or noisy, export it again",
    ),
    Trait(
        WARNING,
        lambda fact: fact.mask_kind == RESIZED,
        "labels with soft edges, as after resizing with interpolation",
        "pixels of at least half a label's value are cell; resize labels without interpolation (nearest neighbour)",
    ),
    Trait(
        WARNING,
        lambda fact: fact.not_judged,
        lambda facts: (
            f"value {facts[0].not_judged} beside labels up to {_second(facts):g}, which may mean 'not annotated'"
        ),
        lambda facts: (
            "it is cell, like every value above 0; if nobody judged these pixels, set "
            f"data.ignore_value={facts[0].not_judged} (check, clean: --ignore-value)"
        ),
    ),
    Trait(
        WARNING,
        lambda fact: fact.ignored > MOST_IGNORED,
        lambda facts: f"{_range(fact.ignored for fact in facts)} of all pixels are marked as not judged",
        "they teach nothing and count in no score; if the marks are inverted, save judged pixels as 0",
    ),
    Trait(
        WARNING,
        lambda fact: fact.faint_areas > 0,
        lambda facts: f"faint areas far from any cell, {_range(fact.faint_areas for fact in facts)} of all pixels",
        "they are background; if they are labels, save cells brighter than data.mask_threshold, as PNG or TIFF",
    ),
    Trait(
        WARNING,
        lambda fact: fact.turned != fact.mask_turned,
        "only one of image and mask has an orientation tag (EXIF)",
        "that one is rotated upright; check with --montage that both fit",
    ),
    Trait(
        WARNING,
        lambda fact: fact.mask_kind == GREY and fact.grey > 0.5,
        lambda facts: f"many shades of grey, {_range(fact.grey for fact in facts)} of the cell pixels",
        "values above data.mask_threshold are cell; are images and masks swapped? check with --montage",
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
        "values up to data.mask_threshold are background; JPEG makes such pixels, so save masks as PNG or TIFF",
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
        "the larger one is cell",
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
        "only the upper 8 bits are used; if the images look dark, save them with 8 bits",
    ),
    Trait(
        WARNING,
        lambda fact: fact.channels == 2 and not fact.chosen,
        "2 channels",
        "both are used, as red and green; data.channels=[0] uses only the first",
    ),
    Trait(
        NOTE,
        lambda fact: fact.channels == 3 and not fact.chosen,
        "3 channels",
        "used as red, green and blue; data.channels selects others",
    ),
    Trait(
        WARNING,
        lambda fact: fact.channels > 3 and not fact.chosen,
        lambda facts: f"{facts[0].channels} channels, the first three of them RGB",
        "only red, green and blue are used; data.channels=[0,1,2,3] adds a fourth",
    ),
    Trait(
        NOTE,
        lambda fact: fact.chosen,
        lambda facts: f"{facts[0].channels or 'grey or RGB'} channels",
        lambda facts: f"channels {facts[0].chosen} are used, counted from 0",
    ),
    Trait(
        NOTE,
        lambda fact: fact.stretched,
        "more than 8 bits a pixel",
        "intensities are scaled: 0.1 and 99.9 percentile of each image become 0 and 255",
    ),
    Trait(NOTE, lambda fact: fact.turned, "an orientation tag (EXIF)", "the image is rotated upright"),
    Trait(
        NOTE,
        lambda fact: fact.white_is_zero,
        "PhotometricInterpretation 0: white is zero",
        lambda facts: _of_zero(facts[0].white_is_zero),
    ),
)


def look_at_pairs(
    pairs: Sequence[Pair],
    facts: Sequence[PairFacts],
    root: Path,
    *,
    exchanged: Sequence[tuple[int, int]] = (),
    resized: bool = True,
) -> Iterator[Finding]:
    """Yield findings about masks and images; one finding for all files with the same property."""
    yield from look_at_masks(pairs, facts, root, exchanged)
    yield from look_at_images([pair.image for pair in pairs], facts, root, resized=resized)


def look_at_masks(
    pairs: Sequence[Pair], facts: Sequence[PairFacts], root: Path, exchanged: Sequence[tuple[int, int]] = ()
) -> Iterator[Finding]:
    """Yield findings about masks; one finding for all files with the same property.

    Args:
        pairs: The pairs of the masks.
        facts: Measurements of each.
        root: The folder from which files are named.
        exchanged: Positions in ``pairs`` of images, and of the pairs whose masks they fit better, if these are known.
    """
    masks = [pair.masks[0] for pair in pairs]
    yield from _shared_traits((*MASK_TRAITS, *_mask_file_traits(facts)), masks, facts, root)
    yield from _contradictions(masks, facts, root)
    yield from _turned(masks, facts, root)
    yield from _exchanged(pairs, facts, exchanged, root)
    yield from _repeated(masks, facts, root)


def _repeated(masks: Sequence[Path], facts: Sequence[PairFacts], root: Path) -> Iterator[Finding]:
    """Yield a finding for masks that are equal though their images differ; empty and full ones have their own."""
    alike: dict[str, list[int]] = {}
    for index, fact in enumerate(facts):
        if 0 < fact.cells < 1 and fact.objects > 1:
            alike.setdefault(fact.mask_sha256, []).append(index)
    sets = [indices for indices in alike.values() if len({facts[index].sha256 for index in indices}) > 1]
    if sets:
        images = count(sum(map(len, sets)), "image")
        yield Finding(
            WARNING,
            some([shown(masks[index], root) for index in sets[0]]) + (", and others" if len(sets) > 1 else ""),
            f"the same mask for {images}" + (f", in {len(sets)} sets" if len(sets) > 1 else ""),
            "kept; right only if all of them show the same cells, so check with --montage that it fits each",
        )


def look_at_images(
    images: Sequence[Path], facts: Sequence[ImageFacts], root: Path, *, resized: bool = True
) -> Iterator[Finding]:
    """Yield findings about image files, and about their differences in modality and, if they are resized, in size."""
    yield from _shared_traits(IMAGE_TRAITS, images, facts, root)
    if resized:
        yield from _sizes(facts)
    yield from _modalities(facts)


def describe_masks(facts: Sequence[PairFacts], how: Reading) -> str:
    """Describe in one line how the values of the masks are interpreted."""
    threshold = how.mask_threshold
    meanings = {
        LABELS: "labels, every value above 0 is cell",
        RESIZED: "labels with soft edges, at least half of a label's value is cell",
        GREY: f"grey, values above data.mask_threshold={threshold} are cell",
        EMPTY: "empty",
    }
    kinds = Counter(fact.mask_kind for fact in facts)
    described = "; ".join(f"{kinds[kind]} {meaning}" for kind, meaning in meanings.items() if kinds[kind])
    indexed = sum(fact.by_index for fact in facts)
    unjudged = [fact for fact in facts if fact.ignored]
    share = sum(fact.ignored * fact.width * fact.height for fact in unjudged) / max(
        1, sum(fact.width * fact.height for fact in facts)
    )
    regions = sum(fact.ignored_regions for fact in unjudged)
    left_out = f"; not judged: {share:.2%} of the pixels, {count(regions, 'region')} in {count(len(unjudged), 'mask')}"
    return (
        f"masks: {described}"
        + (f"; {indexed} read by palette index" if indexed else "")
        + (left_out if unjudged else "")
        + ("" if unjudged or how.ignore_value is None else f"; no pixel has data.ignore_value={how.ignore_value}")
    )


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
    """Yield a trait for every pixel type of the mask files, except grey of 1 or 8 bits."""
    for kind in sorted({fact.mask_file_kind for fact in facts} - {"grey, 1 bit", "grey, 8 bits"}):
        severity = WARNING if kind.endswith(COLOURED_JPEG) else NOTE
        yield Trait(severity, partial(_is_of_kind, kind), kind, _mask_effect)


def _is_of_kind(kind: str, fact: PairFacts) -> bool:
    return fact.mask_file_kind == kind


def _mask_effect(facts: Sequence[PairFacts]) -> str:
    kind = facts[0].mask_file_kind
    if kind.endswith(COLOURED_JPEG):
        return (
            "the brightest channel is the value; JPEG blurs colours over the outlines, so cells are larger than they "
            "were drawn: export the masks again as PNG or TIFF"
        )
    if kind.startswith("palette"):
        indexed = sum(fact.by_index for fact in facts)
        read = {0: "the grey level is the value", len(facts): "the palette index is the value"}
        return read.get(indexed, f"the palette index is the value in {indexed}; in all-grey palettes, the grey level")
    if kind.startswith("RGB"):
        return "the brightest channel is the value" + ("; transparent pixels are background" if "alpha" in kind else "")
    return "transparent pixels are background" if "alpha" in kind else "read without conversion"


def _contradictions(masks: Sequence[Path], facts: Sequence[PairFacts], root: Path) -> Iterator[Finding]:
    """Yield a finding if one value is cell in some masks and background in others."""
    cut = [fact.faint > 0 and fact.mask_kind == GREY for fact in facts]
    lowest = max((fact.mask_smallest for fact, is_cut in zip(facts, cut, strict=True) if is_cut), default=0)
    kept = [
        shown(file, root)
        for file, fact in zip(masks, facts, strict=True)
        if fact.mask_kind in (LABELS, RESIZED) and 0 < fact.mask_smallest <= lowest
    ]
    if any(cut) and len(kept) > sum(cut):  # most masks are labels, so the others are suspect
        grey = [shown(file, root) for file, is_cut in zip(masks, cut, strict=True) if is_cut]
        yield Finding(
            WARNING,
            some(grey),
            f"low values are background here, but cell in {count(len(kept), 'mask')} of labels",
            "kept as it is; if it has labels too, JPEG or resizing has changed them: save it again as PNG or TIFF",
        )
    elif any(cut) and kept:
        yield Finding(
            WARNING,
            some(kept),
            f"low values are cell here, but background in {count(sum(cut), 'grey mask')}",
            "kept as it is; save all masks in one way, cells as 255 and background as 0",
        )


def _turned(masks: Sequence[Path], facts: Sequence[PairFacts], root: Path) -> Iterator[Finding]:
    """Yield a finding for each turn after which masks fit their images far better: several, or one of a good set."""
    measured = [fact.fit for fact in facts if 0 < fact.cells < 1]
    turned = sum(bool(fact.turn) for fact in facts)
    if not turned or (turned < max(FEWEST_TURNED, len(measured) / 2) and median(measured) < USUAL_FIT):
        return
    for turn in sorted({fact.turn for fact in facts} - {""}):
        yield Finding(
            WARNING,
            some([shown(mask, root) for mask, fact in zip(masks, facts, strict=True) if fact.turn == turn]),
            f"would fit its image far better after {turn}",
            "kept as it is; look at it with cellseg check --montage FILE.png, and save the mask as the image lies",
        )


def _exchanged(
    pairs: Sequence[Pair], facts: Sequence[PairFacts], exchanged: Sequence[tuple[int, int]], root: Path
) -> Iterator[Finding]:
    """Yield a finding about images that fit the mask of another image; ``exchanged`` has positions in ``pairs``."""
    measured = [fact.fit for fact in facts if 0 < fact.cells < 1]
    # where masks fit little, another one fits better by chance, but not for half of the images
    if len(exchanged) < 2 or (2 * len(exchanged) < len(measured) and median(measured) < USUAL_FIT):
        return
    first, other = (pairs[index] for index in exchanged[0])
    yield Finding(
        WARNING,
        some([shown(pairs[image].image, root) for image, _ in exchanged]),
        f"would fit the mask of another image far better, {shown(first.image, root)} that of {other.name}",
        "each is trained with its own mask; look at them with --montage FILE.png, and rename masks that are exchanged",
    )


def _vanishing(facts: Sequence[PairFacts]) -> str:
    objects, kept, size = sum(fact.objects for fact in facts), sum(fact.kept for fact in facts), facts[0].resized_to
    emptied = sum(fact.vanishes for fact in facts)
    lost = f"{objects - kept} of {objects} objects vanish when masks are resized to {size}x{size} pixels"
    return f"{lost}; {count(emptied, 'mask')} {'loses' if emptied == 1 else 'lose'} all" if emptied else lost


def _second(facts: Sequence[PairFacts]) -> float:
    return max(fact.mask_second for fact in facts)


def _of_zero(meaning: str) -> str:
    if meaning == "stored":
        return "ImageJ and tifffile use this tag only for display: the stored values are used"
    return "values are inverted, as in an image viewer"


def _ids(fact: PairFacts) -> str:
    return f"labels such as instance ids: up to {fact.mask_values} values, the largest is {fact.mask_brightest:g}"


@dataclass(frozen=True)
class _Related:
    """Related images: names, relation, their groups, and two of them that the default split separates, if any."""

    names: Sequence[str]
    relation: str
    groups: Collection[str]
    separated: Sequence[str]

    @property
    def severity(self) -> str:
        return ERROR if self.separated else NOTE if len(self.groups) == 1 else WARNING


def look_at_kin(
    pairs: Sequence[Pair], kin: Sequence[Kin], subsets: Subsets | None, *, grouped: bool, listed: bool = False
) -> Iterator[Finding]:
    """Yield findings about related images, and whether the split separates them; one finding for each relation.

    Args:
        pairs: The pairs.
        kin: Related images, by position in ``pairs``.
        subsets: The default split; None if there is none.
        grouped: Whether a table gives the groups.
        listed: Whether that table is ``pairs.csv``.
    """
    group_of = {pair.name: pair.group for pair in pairs}
    leaks = {frozenset((a, b)) for a, _, b, _, _ in find_leaks(pairs, kin, subsets)} if subsets else set()
    relations = {index: relation.relation for relation in kin for index in (relation.first, relation.second)}
    alike: dict[tuple[str, str], list[_Related]] = {}
    for members in families(len(pairs), kin):
        names = [pairs[index].name for index in members]
        separated = next((sorted(pair, key=names.index) for pair in leaks if pair <= set(names)), [])
        relation = " and ".join(sorted({relations[index] for index in members}))
        related = _Related(names, relation, {group_of[name] for name in names}, separated)
        alike.setdefault((related.severity, relation), []).append(related)
    for severity in (ERROR, WARNING, NOTE):
        for (found, relation), several in alike.items():
            if found == severity:
                yield _of_related(several, relation, grouped=grouped, listed=listed)


def _of_related(several: Sequence[_Related], relation: str, *, grouped: bool, listed: bool) -> Finding:
    first, one = several[0], len(several) == 1
    them = "them" if one else "each set of related images"
    if first.severity == ERROR:
        remedy = f"give {them} one value in the column group of pairs.csv"
        if not (listed and grouped):
            remedy = f"put {them} into one group with --write-groups"
        effect = f"refused: {some(first.separated)} are on two sides of the default split; {remedy}"
    elif first.severity == NOTE:
        effect = f"kept on one side of every split, as {f'group {next(iter(first.groups))}' if one else 'groups'}"
    else:
        why = "they are in different groups" if grouped else "there is no groups.csv"
        effect = f"the default split keeps them on one side, but another split may not: {why}"
    images = count(sum(len(related.names) for related in several), "image")
    if one:
        return Finding(first.severity, some(first.names, 8), f"{relation}, {images}", effect)
    return Finding(
        first.severity,
        f"{some(first.names, 4)}, and others",
        f"{relation}, {images} in {len(several)} sets",
        effect,
    )


Leak = tuple[str, str, str, str, str]


def find_leaks(pairs: Sequence[Pair], kin: Sequence[Kin], subsets: Subsets) -> list[Leak]:
    """Return related images on two sides of a split: name, subset, other name, its subset, relation.

    Images are related if they have one group, or if ``find_kin`` recognises them.
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
    """Return why no network can learn from these masks, or None."""
    if not any(fact.objects for fact in training):
        unjudged = any(fact.ignored for fact in training)
        return f"none of the training masks contains a cell{' among the judged pixels' * unjudged}; check the masks" + (
            " and data.ignore_value" if unjudged else ""
        )
    if not any(fact.kept for fact in training):
        size, side = training[0].resized_to, max(fact.keeps_all_at for fact in training)
        return (
            f"all training masks lose all their cells when they are resized to {size}x{size} pixels; "
            f"set data.image_size={side}, so that every cell keeps a pixel"
        )
    if all(fact.cells == 1 for fact in training):
        return "every training mask is cell everywhere; save background as 0, or black"
    return None


def some(names: Collection[str], most: int = 3) -> str:
    """Join the first names, and count the others; long names lose their middle."""
    shown = ", ".join(_shortened(name) for name in list(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 2]}…{name[-LONGEST_NAME // 2 :]}"


def _sizes(facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    sizes = Counter((fact.width, fact.height) for fact in facts)
    if len(sizes) > 1:
        (width, height), count = sizes.most_common(1)[0]
        shapes = [width / height for width, height in sizes]
        stretched = max(shapes) / min(shapes) > 1.1
        yield Finding(
            WARNING if stretched else NOTE,
            "the data set",
            f"{len(sizes)} image sizes; {count} of {len(facts)} are {width}x{height}",
            f"all are resized to one square, so cells {'are distorted differently' if stretched else 'change scale'}; "
            "training with data.resize=crop keeps their scale",
        )


def _modalities(facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    kinds = Counter(kind_of(fact.brightness, fact.colourfulness) for fact in facts)
    if len(kinds) > 1:
        seen = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        yield Finding(WARNING, "the data set", f"mixed modalities: {seen}", "all are treated in the same way")


def kind_of(brightness: float, colourfulness: float) -> str:
    """Return the kind of an image, such as "dark grey"; both measures as in ``ImageFacts``."""
    return f"{'dark' if brightness < DARK else 'bright'} {'colour' if colourfulness > COLOURED else 'grey'}"


def _times(factors: Iterator[float]) -> str:
    values = sorted(factors)
    return f"{values[0]:.1f} to {values[-1]:.1f} times" if len(values) > 1 else f"{values[0]:.1f} times"


def _range(shares: Iterator[float]) -> str:
    values = sorted(shares)
    return (
        f"{values[0]:.1%} to {values[-1]:.1%} (median {median(values):.1%})"
        if len(values) > 1
        else f"{sum(values):.1%}"
    )
