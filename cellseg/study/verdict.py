"""What a comparison means, in one plain sentence."""

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
    """Two configurations compared.

    Attributes:
        a, b: The configurations; differences are a minus b.
        dice: The comparison in Dice; None where the two cannot be paired.
        others: The same in each other score of images, where images have a value of both; no verdict rests on it.
        p, p_folds: Of Dice, adjusted for the number of pairs by Holm's rule.
        kind: DIFFERENT, EQUIVALENT, UNDECIDED, or UNKNOWN where nothing can be said.
        sentence: What it means.
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
    """Compare every pair of configurations of a study; two that cannot be paired leave the others as they are."""
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
    """Return the comparison in Dice and in the other scores of images, or why there is none."""
    first, second = (study.images[study.images["configuration"] == configuration] for configuration in (a, b))
    # one seed gives them the same initial weights, whatever else differs
    networks = study.runs.groupby("configuration")["network"].first()
    alike = bool(networks[a] == networks[b])
    found: dict[str, Comparison] = {}
    for score in study.per_image:
        try:
            paired = Differences.between(first, second, score.name, study.test_share, alike=alike)
        except ValueError as error:
            if score.share:
                return str(error)
            continue  # no image has a value of both
        found[score.name] = compare(paired, study.margin)
    return found.pop("dice"), found


def say(a: str, b: str, dice: Comparison, p: float | None, p_folds: float | None, margin: float) -> tuple[str, str]:
    """Put a comparison in Dice into one sentence, in points of 100, and say of which kind it is.

    Args:
        a: The configuration whose scores come first.
        b: The other.
        dice: The comparison, a minus b.
        p: Adjusted for the number of pairs.
        p_folds: The same of the test over folds, where there are folds.
        margin: Differences below it do not matter.
    """
    mean = _points(dice.difference, "+")
    if dice.low is None or dice.high is None or p is None:
        few = "one group of images" if dice.groups < 2 else "one run each"
        return UNKNOWN, (
            f"nothing can be said about {a} against {b} ({mean} points): there is {few}, "
            "and no telling what another would give; add seeds, or folds"
        )
    interval = f"[{_points(dice.low)}, {_points(dice.high)}]"
    if p < LEVEL and (p_folds is None or p_folds < LEVEL):
        worse = dice.difference < 0
        low, high = (-dice.high, -dice.low) if worse else (dice.low, dice.high)
        size = f"{_points(abs(dice.difference))} points [{_points(low)}, {_points(high)}]"
        small = f", which is less than the {100 * margin:g} that matter" if dice.equivalent else ""
        return DIFFERENT, f"{a} is {'worse' if worse else 'better'} than {b} by {size}{small}"
    if dice.equivalent:
        return EQUIVALENT, f"{a} and {b} are equivalent within {100 * margin:g} points ({mean} {interval})"
    why = ""
    if not dice.low <= 0 <= dice.high:
        why = " once all pairs are counted" if p >= LEVEL else ", as folds do not agree"
    return UNDECIDED, f"no difference shown between {a} and {b} ({mean} {interval}){why}; {_hope(dice, margin)}"


def _hope(dice: Comparison, margin: float) -> str:
    """Say what more seeds would do."""
    seeds, have, points = dice.seeds_needed(margin), dice.pairs // dice.folds, f"{100 * margin:g}"
    if seeds is None:
        return "a second seed would tell whether more would help"
    if seeds == math.inf:
        folds = f" in {dice.folds} folds" if dice.folds > 1 else ""
        return f"no number of seeds would show {points} on these {dice.groups} groups of images{folds}"
    if seeds > have:
        return f"about {seeds - have:.0f} more {'seed' if seeds - have == 1 else 'seeds'} would show {points}"
    return f"{points} would have shown, 4 times in 5"


def dice_interval(study: Study, configuration: str) -> tuple[float, float] | None:
    """Return the 95 % interval of a configuration's mean Dice; None where one run cannot tell."""
    images = study.images[study.images["configuration"] == configuration]
    nothing = images.assign(dice=0.0)
    alone = compare(Differences.between(images, nothing, "dice", study.test_share, alike=False), study.margin)
    return None if alone.low is None or alone.high is None else (max(0.0, alone.low), min(1.0, alone.high))


def _points(share: float, sign: str = "") -> str:
    return f"{round(100 * share, 1) + 0.0:{sign}.1f}"  # adding 0 makes -0.0 what it is


def caveats(study: Study) -> list[str]:
    """Return what no verdict of this study can rest on, however it comes out."""
    runs, told = study.runs, []
    if runs["fold"].nunique() == 1 and all(len(values) == 1 for values in study.split.values()):
        told.append(
            "all runs share one split, so what other training images would give is not in any interval; "
            "add folds: data.split.folds=5 data.split.fold=0,1,2,3,4"
        )
    if runs["fold"].nunique() == 2:
        told.append("two folds only, so what other training images would give is hardly known; five would tell")
    if runs.groupby(["configuration", "fold"])["seed"].nunique().max() == 1:
        told.append("one seed a fold, so what another seed would give is not known; add seeds: seed=0,1,2")
    if (runs["leaks"] > 0).any():
        told.append("these scores are too good: relatives of test images were allowed in training")
    for a, b in combinations(study.configurations, 2):
        if _same_throughout(study, a, b):
            told.append(
                f"{a} and {b} scored the same to the last digit on every image of every run, as two trained networks "
                "hardly do; look whether both learnt anything, and whether they are two"
            )
    for column, what in (("device", "devices"), ("precision", "precisions"), ("scored_weights", "kinds of weights")):
        if (kinds := runs[column].nunique()) > 1:
            told.append(f"runs were computed on {kinds} {what}: {'; '.join(sorted(set(runs[column])))}")
    if study.unfinished:
        told.append(f"not finished, and not counted: {', '.join(study.unfinished)}")
    if study.repeated:
        told.append(f"a second run of one configuration, seed and fold, and not counted: {', '.join(study.repeated)}")
    if len(study.margins) > 1:
        every = ", ".join(f"{margin:g}" for margin in study.margins)
        told.append(f"runs were made with different margins ({every}); the smallest is used")
    unpaired = runs.groupby(["fold", "seed"])["configuration"].nunique()
    if lone := [key for key, count in unpaired.items() if count < len(study.configurations)]:
        told.append(
            f"{len(lone)} of {len(unpaired)} seeds and folds miss a configuration; comparisons use those that both have"
        )
    return told


def _same_throughout(study: Study, a: str, b: str) -> bool:
    """Tell whether two configurations have one score wherever both were tested."""
    scores = study.images.set_index(["fold", "seed", "image"])
    first, second = (scores.loc[scores["configuration"] == configuration, "dice"] for configuration in (a, b))
    apart = (first - second).dropna()
    return len(apart) > 0 and bool((apart == 0).all())


def _adjusted(values: Sequence[float | None]) -> list[float | None]:
    """Adjust the p values there are for how many there are; a pair that cannot be judged takes no part."""
    known = iter(holm([value for value in values if value is not None]))
    return [None if value is None else next(known) for value in values]
