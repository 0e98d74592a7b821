"""Turn each comparison into a verdict of one sentence, and list the caveats of a study."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from cellseg.study.collect import Study
from cellseg.study.statistics import CONFIDENCE, Comparison, Differences, compare, holm

LEVEL = 1 - CONFIDENCE
DIFFERENT, EQUIVALENT, UNDECIDED, UNKNOWN = "different", "equivalent", "undecided", "unknown"


@dataclass(frozen=True)
class Verdict:
    """The verdict on two configurations.

    Attributes:
        a, b: Names of the configurations; differences are a minus b.
        dice: The comparison in Dice; None if the runs of the two cannot be paired.
        others: Comparisons in the other scores of images that both configurations have; the verdict does not use them.
        p, p_folds: The p values for Dice, adjusted for the number of comparisons by Holm's method.
        kind: DIFFERENT (better or worse), EQUIVALENT, UNDECIDED (no difference shown), or UNKNOWN (no verdict).
        sentence: The verdict in words.
    """

    a: str
    b: str
    dice: Comparison | None
    others: Mapping[str, Comparison]
    p: float | None
    p_folds: float | None
    kind: str
    sentence: str


def judge(study: Study) -> list[Verdict]:
    """Compare each two configurations of a study; two that cannot be paired do not affect the other verdicts."""
    pairs = list(combinations(study.configurations, 2))
    found = [_compare(study, a, b) for a, b in pairs]
    p = _adjusted([None if isinstance(pair, str) else pair[0].p for pair in found])
    p_folds = _adjusted([None if isinstance(pair, str) else pair[0].p_folds for pair in found])
    verdicts = []
    for i, ((a, b), pair) in enumerate(zip(pairs, found, strict=True)):
        if isinstance(pair, str):
            verdicts.append(Verdict(a, b, None, {}, None, None, UNKNOWN, f"{a} and {b} cannot be compared: {pair}"))
        else:
            kind, sentence = say(a, b, pair[0], p[i], p_folds[i], study.margin)
            verdicts.append(Verdict(a, b, *pair, p[i], p_folds[i], kind, sentence))
    return verdicts


def _compare(study: Study, a: str, b: str) -> tuple[Comparison, dict[str, Comparison]] | str:
    """Return the comparison in Dice and in the other scores of images, or the reason why there is none."""
    first, second = (study.images[study.images["configuration"] == configuration] for configuration in (a, b))
    # with one seed, networks of one configuration start from the same weights, even if other settings differ
    networks = study.runs.groupby("configuration")["network"].first()
    alike = bool(networks[a] == networks[b])
    found: dict[str, Comparison] = {}
    for score in study.per_image:
        try:
            paired = Differences.between(first, second, score.name, study.test_share, alike=alike)
        except ValueError as error:
            if score.share:
                return str(error)
            continue  # no image has a value from both configurations
        found[score.name] = compare(paired, study.margin)
    return found.pop("dice"), found


def say(a: str, b: str, dice: Comparison, p: float | None, p_folds: float | None, margin: float) -> tuple[str, str]:
    """Return the kind of a verdict and its sentence; differences are in points (0.01 of Dice).

    Args:
        a: Name of the first configuration.
        b: Name of the second configuration.
        dice: The comparison in Dice, a minus b.
        p: The p value, adjusted for the number of comparisons.
        p_folds: The adjusted p value of the test over folds; None without folds.
        margin: The difference in Dice below which two configurations count as equivalent.
    """
    mean = _points(dice.difference, "+")
    if dice.low is None or dice.high is None or p is None:
        if dice.groups < 2:
            few = "all test images belong to one group, so the variation between groups is unknown; add folds"
        else:
            few = "there is only one run of each, so the variation between runs is unknown; add seeds or folds"
        return UNKNOWN, f"no verdict on {a} and {b} ({mean} points): {few}"
    interval = f"[{_points(dice.low)}, {_points(dice.high)}]"
    if p < LEVEL and (p_folds is None or p_folds < LEVEL):
        worse = dice.difference < 0
        low, high = (-dice.high, -dice.low) if worse else (dice.low, dice.high)
        size = f"{_points(abs(dice.difference))} points [{_points(low)}, {_points(high)}]"
        small = f", a difference below the margin of {100 * margin:g} points" if dice.equivalent else ""
        return DIFFERENT, f"{a} is {'worse' if worse else 'better'} than {b} by {size}{small}"
    if dice.equivalent:
        return EQUIVALENT, f"{a} and {b} are equivalent within {100 * margin:g} points ({mean} points {interval})"
    why = ""
    if not dice.low <= 0 <= dice.high:
        why = " after correction for the number of comparisons" if p >= LEVEL else " because the folds disagree"
    return UNDECIDED, f"no difference shown between {a} and {b} ({mean} points {interval}){why}; {_power(dice, margin)}"


def _power(dice: Comparison, margin: float) -> str:
    """Say how many more seeds give 80 % power to detect a difference as large as the margin."""
    seeds, have, points = dice.seeds_needed(margin), dice.pairs // dice.folds, f"{100 * margin:g} points"
    if seeds is None:
        return "add a second seed to learn how many seeds are needed"
    if seeds == math.inf:
        folds = f" in {dice.folds} folds" if dice.folds > 1 else ""
        return f"more seeds cannot give 80 % power to detect {points} on these {dice.groups} groups of images{folds}"
    if seeds > have:
        more = f"about {seeds - have:.0f} more {'seed' if seeds - have == 1 else 'seeds'}"
        return f"{more} would give 80 % power to detect {points}"
    return f"the study had 80 % power to detect {points}"


def dice_interval(study: Study, configuration: str) -> tuple[float, float] | None:
    """Return the 95 % interval of a configuration's mean Dice; None if one run or one group gives no interval."""
    images = study.images[study.images["configuration"] == configuration]
    nothing = images.assign(dice=0.0)
    alone = compare(Differences.between(images, nothing, "dice", study.test_share, alike=False), study.margin)
    return None if alone.low is None or alone.high is None else (max(0.0, alone.low), min(1.0, alone.high))


def _points(share: float, sign: str = "") -> str:
    return f"{round(100 * share, 1) + 0.0:{sign}.1f}"  # adding 0 turns -0.0 into 0.0


def caveats(study: Study) -> list[str]:
    """Return the limits of this study that a reader must know before using any verdict."""
    runs, found = study.runs, []
    if runs["fold"].nunique() == 1 and all(len(values) == 1 for values in study.split.values()):
        found.append(
            "all runs share one split, so no interval includes the variation between training sets; "
            "add folds: data.split.folds=5 data.split.fold=0,1,2,3,4"
        )
    if runs["fold"].nunique() == 2:
        found.append("there are only two folds, so the variation between training sets is poorly known; use five")
    if runs.groupby(["configuration", "fold"])["seed"].nunique().max() == 1:
        found.append(
            "there is only one seed per fold, so the variation between seeds is unknown; add seeds: seed=0,1,2"
        )
    if (runs["leaks"] > 0).any():
        found.append("these scores may be too high: related images lie in different parts of the split")
    for a, b in combinations(study.configurations, 2):
        if _same_throughout(study, a, b):
            found.append(
                f"{a} and {b} have exactly the same Dice on every image of every run; "
                "check that both were trained and are different networks"
            )
    for column, noun in (("device", "devices"), ("precision", "precisions"), ("scored_weights", "kinds of weights")):
        if (kinds := runs[column].nunique()) > 1:
            found.append(f"the runs used {kinds} {noun}: {'; '.join(sorted(set(runs[column])))}")
    if study.unfinished:
        found.append(f"unfinished runs, left out: {', '.join(study.unfinished)}")
    if study.repeated:
        found.append(f"repeated runs of one configuration, seed and fold, left out: {', '.join(study.repeated)}")
    if len(study.margins) > 1:
        every = ", ".join(f"{margin:g}" for margin in study.margins)
        found.append(f"the runs have different margins ({every} of Dice); verdicts use the smallest")
    unpaired = runs.groupby(["fold", "seed"])["configuration"].nunique()
    if lone := [key for key, count in unpaired.items() if count < len(study.configurations)]:
        found.append(
            f"{len(lone)} of {len(unpaired)} combinations of seed and fold lack a configuration; "
            "each comparison uses those that both configurations have"
        )
    return found


def _same_throughout(study: Study, a: str, b: str) -> bool:
    """Return whether two configurations have exactly equal Dice on all images that both were tested on."""
    scores = study.images.set_index(["fold", "seed", "image"])
    first, second = (scores.loc[scores["configuration"] == configuration, "dice"] for configuration in (a, b))
    difference = (first - second).dropna()
    return len(difference) > 0 and bool((difference == 0).all())


def _adjusted(values: Sequence[float | None]) -> list[float | None]:
    """Adjust the p values by Holm's method; pairs without a p value do not count."""
    known = iter(holm([value for value in values if value is not None]))
    return [None if value is None else next(known) for value in values]
