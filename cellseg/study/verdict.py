"""What a comparison means, in one plain sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from cellseg.study.collect import Study
from cellseg.study.statistics import CONFIDENCE, Comparison, Differences, compare, holm

LEVEL = 1 - CONFIDENCE


@dataclass(frozen=True)
class Verdict:
    """Two networks compared.

    Attributes:
        a, b: The networks; differences are a minus b.
        dice, iou: The comparison in each score.
        p, p_folds: Of Dice, adjusted for the number of pairs by Holm's rule.
        sentence: What it means.
    """

    a: str
    b: str
    dice: Comparison
    iou: Comparison
    p: float | None
    p_folds: float | None
    sentence: str


def judge(study: Study) -> list[Verdict]:
    """Compare every pair of networks of a study.

    Raises:
        ValueError: If two networks have no seed and fold in common.
    """
    pairs = list(combinations(study.networks, 2))
    found = []
    for a, b in pairs:
        first, second = (study.images[study.images["network"] == network] for network in (a, b))
        found.append(
            [
                compare(Differences.between(first, second, score, study.test_share), study.margin)
                for score in ("dice", "iou")
            ]
        )
    p = _adjusted([dice.p for dice, _ in found])
    p_folds = _adjusted([dice.p_folds for dice, _ in found])
    return [
        Verdict(a, b, dice, iou, p[i], p_folds[i], say(a, b, dice, p[i], p_folds[i], study.margin))
        for i, ((a, b), (dice, iou)) in enumerate(zip(pairs, found, strict=True))
    ]


def say(a: str, b: str, dice: Comparison, p: float | None, p_folds: float | None, margin: float) -> str:
    """Put a comparison in Dice into one sentence, in points of 100.

    Args:
        a: The network whose scores come first.
        b: The other.
        dice: The comparison, a minus b.
        p: Adjusted for the number of pairs.
        p_folds: The same of the test over folds, where there are folds.
        margin: Differences below it do not matter.
    """
    mean = f"{100 * dice.difference:+.1f}"
    if dice.low is None or dice.high is None or p is None:
        few = "one group of images" if dice.groups < 2 else "one run each"
        return (
            f"Nothing can be said about {a} against {b} ({mean} points): there is {few}, "
            "and no telling what another would give; add seeds, or folds"
        )
    interval = f"[{100 * dice.low:.1f}, {100 * dice.high:.1f}]"
    if p < LEVEL and (p_folds is None or p_folds < LEVEL):
        worse = dice.difference < 0
        low, high = sorted((abs(dice.low), abs(dice.high)))
        size = f"{100 * abs(dice.difference):.1f} points [{100 * low:.1f}, {100 * high:.1f}]"
        small = f", which is less than the {100 * margin:g} that matter" if dice.equivalent else ""
        return f"{a} is {'worse' if worse else 'better'} than {b} by {size}{small}"
    if dice.equivalent:
        return f"{a} and {b} are equivalent within {100 * margin:g} points ({mean} {interval})"
    seeds = dice.seeds_needed(margin)
    have = dice.pairs // dice.folds
    if seeds is None:
        hope = f"no number of seeds would show {100 * margin:g} on these {dice.groups} groups of images"
    elif seeds > have:
        hope = f"about {seeds - have} more seeds would show {100 * margin:g}"
    else:
        hope = f"more seeds would hardly help: {100 * margin:g} points would have shown"
    return f"no difference shown between {a} and {b} ({mean} {interval}); {hope}"


def _adjusted(values: Sequence[float | None]) -> list[float | None]:
    """Adjust the p values there are for how many there are; a pair that cannot be judged takes no part."""
    known = iter(holm([value for value in values if value is not None]))
    return [None if value is None else next(known) for value in values]
