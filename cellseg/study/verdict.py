"""Turn each comparison into a verdict of one sentence, and list the caveats of a study."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from cellseg.metrics import OBJECT_SCORES, SCORES, Score
from cellseg.storage.errors import count
from cellseg.study.collect import Study
from cellseg.study.progress import Progress, find_progress, plans_of
from cellseg.study.statistics import Comparison, Differences, compare, find_variance
from cellseg.study.trouble import (
    Trouble,
    best_baselines,
    collapsed_runs,
    find_trouble,
    missing_runs,
    still_improving,
    worst_case,
)

DIFFERENT, EQUIVALENT, UNDECIDED, UNKNOWN = "different", "equivalent", "undecided", "unknown"
MOST_DECIMALS = 9
IMPROVING = 0.05  # share of the fall of the loss in the last tenth of the epochs, above which training ended too early
TERMS = {
    "if folds were independent": "the training sets of folds share images, so the true interval is somewhat wider",
    "on this one training set": "with other training images the difference may be another one; folds show how much",
    "80 % power": "of 100 such studies 80 would show the difference",
    "adjusted for": "of several scores one differs by chance more easily, so their intervals are wider",
}
MANY_SEEDS = 100  # more are not worth planning


@dataclass(frozen=True)
class Verdict:
    """The verdict on two configurations.

    Attributes:
        a, b: Names of the configurations; differences are a minus b.
        dice: The comparison in Dice; None if the runs of the two cannot be paired.
        others: Comparisons in the other scores of images that both configurations have; the verdict does not use them.
        kind: DIFFERENT (better or worse), EQUIVALENT, UNDECIDED (no difference shown), or UNKNOWN (no verdict).
        sentence: The verdict in words.
        second: The verdict on the scores of objects and outlines, adjusted for their number; empty without a verdict.
    """

    a: str
    b: str
    dice: Comparison | None
    others: Mapping[str, Comparison]
    kind: str
    sentence: str
    second: str = ""

    @property
    def given(self) -> bool:
        """Whether there is a verdict."""
        return self.kind != UNKNOWN


def judge(study: Study, progress: Progress | None = None) -> list[Verdict]:
    """Compare each two configurations of a study; two that cannot be paired do not affect the other verdicts."""
    progress = progress or find_progress(study)
    trouble = {found.configuration: found for found in find_trouble(study)}
    untrained = {name for name in study.configurations if _untrained(study, name)}
    paired = {pair: _pair(study, *pair) for pair in combinations(study.configurations, 2)}
    judged = [pair for pair, found in paired.items() if isinstance(found, dict) and find_variance(found["dice"])]
    networks = max(2, len({name for pair in judged for name in pair}))
    verdicts = []
    for (a, b), found in paired.items():
        if isinstance(found, str):
            verdicts.append(Verdict(a, b, None, {}, UNKNOWN, f"{a} and {b} cannot be compared: {found}"))
            continue
        second = [score for score in OBJECT_SCORES if score.name in found]
        compared = {
            score.name: compare(
                found[score.name],
                study.margin,
                level=progress.level / (len(second) if score in second else 1),
                networks=networks,
                share=score.share,
            )
            for score in study.per_image
            if score.name in found
        }
        dice = compared.pop("dice")
        fitted = not {a, b} <= study.masks
        kind, sentence = say(a, b, dice, study.margin, interim=progress.interim, fitted=fitted)
        if kind != UNKNOWN and {a, b} <= untrained:
            kind, sentence = _withdrawn(a, b, dice, study.margin, ["neither beats a prediction that ignores the image"])
        if kind != UNKNOWN:
            kind, sentence = _with_trouble(study, trouble[a], trouble[b], dice, kind, sentence)
        if kind != UNKNOWN and (extension := progress.extension(plans_of(study, _paired_runs(study, a, b)))):
            sentence += f"; {extension}"
        withdrawn = kind == UNKNOWN and dice.low is not None  # with equal Dice objects may still differ
        objects = "" if progress.interim or withdrawn else say_objects(a, b, compared, second)
        verdicts.append(Verdict(a, b, dice, compared, kind, sentence, objects))
    return verdicts


def say_objects(a: str, b: str, compared: Mapping[str, Comparison], scores: Sequence[Score]) -> str:
    """Return what the scores of objects and outlines say about two configurations; empty if none can be compared.

    Args:
        a: Name of the first configuration.
        b: Name of the second configuration.
        compared: The comparison in each score, a minus b, at a level divided by the number of scores.
        scores: The scores.
    """
    parts = []
    for score in scores:
        of = compared[score.name]
        if of.low is None or of.high is None:
            continue
        unit = 0.01 if score.unit == "points" else 1.0
        size = f"{of.difference / unit:+.1f} {score.unit} [{of.low / unit:.1f}, {of.high / unit:.1f}]"
        if not of.different:
            parts.append(f"{score.label}: no difference shown ({size})")
            continue
        names = {"higher": ("better", "worse"), "lower": ("worse", "better"), None: ("higher", "lower")}[score.better]
        parts.append(f"{score.label}: {a} is {names[of.difference < 0]} ({size})")
    adjusted = f"adjusted for {len(scores)} scores" if len(scores) > 1 else "one score"
    return f"objects and outlines of {a} and {b}, {adjusted}: {'; '.join(parts)}" if parts else ""


def explain_terms(sentences: Iterable[str]) -> list[str]:
    """Return what the terms of a verdict mean, a sentence for each that is used."""
    text = "\n".join(sentences)
    return [f'"{term}" means: {meaning}' for term, meaning in TERMS.items() if term in text]


def _paired_runs(study: Study, a: str, b: str) -> set[str]:
    """Return the names of the runs of two configurations that have a counterpart."""
    runs = study.trained[study.trained["configuration"].isin([a, b])]
    if {a, b} & study.masks:
        return set(runs["run"])
    return set(runs.loc[runs.groupby(["seed", "fold"])["configuration"].transform("nunique") == 2, "run"])


def _pair(study: Study, a: str, b: str) -> dict[str, Differences] | str:
    """Return the paired scores by name, or the reason why there are none."""
    first, second = (study.images[study.images["configuration"] == configuration] for configuration in (a, b))
    # with one seed, networks of one configuration start from the same weights, even if other settings differ
    resized = study.runs.groupby("configuration")["resize"].agg(set)
    if resized[a] != resized[b]:
        return (
            "one was scored on resized images (data.resize=whole), the other at native scale (data.resize=crop), "
            "so their scores are of other pixels"
        )
    networks = study.runs.groupby("configuration")["network"].agg(set)
    alike = len(networks[a] | networks[b]) == 1
    sides = study.runs.groupby("configuration")["side"].agg(set)
    found: dict[str, Differences] = {}
    for score in study.per_image:
        if score.name == "boundary_dice" and sides[a] != sides[b]:
            continue  # it allows 2 pixels, which is less of a cell in larger images
        try:
            found[score.name] = Differences.between(first, second, score.name, study.test_share, alike=alike)
        except ValueError as error:
            if score in SCORES:  # every run has these
                return str(error)
    return found


def say(
    a: str, b: str, dice: Comparison, margin: float, interim: str | None = None, *, fitted: bool = True
) -> tuple[str, str]:
    """Return the kind of a verdict and its sentence; differences are in points (0.01 of Dice).

    Args:
        a: Name of the first configuration.
        b: Name of the second configuration.
        dice: The comparison in Dice, a minus b.
        margin: The difference in Dice below which two configurations count as equivalent.
        interim: Why there is no verdict yet; None if there is one.
        fitted: Whether the study trained any of the two; False for masks of two other tools.
    """
    mean = _end(dice.difference, margin, "+")
    if dice.low is None or dice.high is None or dice.inner_low is None or dice.inner_high is None:
        return UNKNOWN, f"no verdict on {a} and {b} ({mean} points): {_unknown(dice)}"
    outer = _interval(dice.low, dice.high, margin)
    if interim:
        return UNKNOWN, f"{interim}; no verdict yet on {a} and {b} ({mean} points {outer})"
    worse = dice.different and dice.difference < 0
    ends = (-dice.inner_high, -dice.inner_low) if worse else (dice.inner_low, dice.inner_high)
    inner = f"{_percent(1 - 2 * dice.level)} interval {_interval(*ends, margin)}"
    within = f"{100 * margin:g} points"
    scope = _scope(dice) if fitted else ""
    if dice.different:
        low, high = (-dice.high, -dice.low) if worse else (dice.low, dice.high)
        size = f"{_end(abs(dice.difference), margin)} points {_interval(low, high, margin)}"
        small = f", a difference below the margin of {within} ({inner})" if dice.equivalent else ""
        return DIFFERENT, f"{a} is {'worse' if worse else 'better'} than {b} by {size}{small}{scope}"
    if dice.equivalent:
        return EQUIVALENT, f"{a} and {b} are equivalent within {within} ({mean} points, {inner}){scope}"
    power = _power(dice, margin) if fitted else ""
    return UNDECIDED, f"no difference shown between {a} and {b} ({mean} points {outer}){scope}{power}"


def _unknown(dice: Comparison) -> str:
    if dice.groups < 2:
        return "all test images belong to one group, so the variation between groups is unknown; add folds"
    if dice.pairs < 2:
        return "there is only one run of each, so the variation between runs is unknown; add seeds or folds"
    if dice.difference == 0:
        return "both have exactly the same Dice in every run; check that they are different"
    return (
        "the difference is exactly the same for every group and run, so nothing shows how large chance differences are"
    )


def _scope(dice: Comparison) -> str:
    """Say for which training images a verdict holds, where their variation is not known."""
    if dice.training_sets == 1:
        return ", on this one training set"
    return "" if dice.repeated and dice.several_seeds else ", if folds were independent"


def _power(dice: Comparison, margin: float) -> str:
    """Say how many more seeds give 80 % power to show a difference as large as the margin."""
    points = f"{100 * margin:g} points"
    if margin == 0:
        return ""
    needed, have = dice.seeds_needed(margin), dice.pairs / dice.training_sets
    if needed is None:
        return "; add a second seed to learn how many seeds are needed"
    each = " for each training set" if dice.training_sets > 1 else ""
    estimate, least, most = (max(0, math.ceil(seeds - have)) if seeds < math.inf else math.inf for seeds in needed)
    limit = f"80 % power to show a difference of {points}"
    if least > MANY_SEEDS:
        return f"; more seeds alone are unlikely to give {limit}; {_advice(dice, least)}"
    if most == 0:
        return f"; the study had {limit}"
    most_text = f"more than {MANY_SEEDS}" if most > MANY_SEEDS else f"{most:.0f}"
    more = "more seed" if most == 1 else "more seeds"
    if estimate == 0:
        return f"; the study probably had {limit}; at worst it needs {most_text} {more}{each}"
    if estimate > MANY_SEEDS:
        return f"; {limit} would need from {least:.0f} to {most_text} {more}{each}; {_advice(dice, least)}"
    noun = "seed" if estimate == 1 else "seeds"
    return f"; about {estimate:.0f} more {noun}{each} (from {least:.0f} to {most_text}) would give {limit}"


def _advice(dice: Comparison, seeds: float) -> str:
    """Say what reduces the variance that more seeds do not reduce, or what makes seeds vary.

    Args:
        dice: The comparison.
        seeds: The least number of seeds that would suffice; infinite if the variance from other sources is too large.
    """
    variance = dice.variance
    training, group, seed = (
        (variance.training or 0.0, variance.group, (variance.seed or 0.0) + (variance.seed_group or 0.0))
        if variance
        else (0.0, 0.0, 0.0)
    )
    if seeds < math.inf and seed > max(training, group):
        return (
            "most of the variation is between seeds: look for runs that end far from the others, and train longer or "
            "with a smaller optimizer.lr"
        )
    if training > group:
        again = (
            ""
            if dice.repeated
            else ", and repeat the folds with other splits (data.split.seed=0,1,2) to know it better"
        )
        return f"what seeds cannot reduce is mostly between training sets: add images{again}"
    return "what seeds cannot reduce is mostly between groups of images: add images of other groups"


def _with_trouble(study: Study, a: Trouble, b: Trouble, dice: Comparison, kind: str, sentence: str) -> tuple[str, str]:
    """Withdraw a verdict that missing runs could reverse, or that rests on runs that collapsed."""
    names = a.configuration, b.configuration
    notes = [
        f"{found.collapsed} of {found.runs - found.failed} runs of {found.configuration} collapsed"
        for found in (a, b)
        if found.collapsed
    ]
    if notes:
        notes.append(f"the median of pairs of runs is {_points(dice.median, '+')} points ({names[0]} minus {names[1]})")
    if bounds := worst_case(study, *names, dice.difference, dice.pairs):
        assert dice.low is not None
        half = dice.difference - dice.low
        low, high = bounds[0] - half, bounds[1] + half
        kept = {DIFFERENT: low > 0 or high < 0, EQUIVALENT: -study.margin < low and high < study.margin}
        lacking = [len(missing_runs(study, name)) for name in names]
        notes.append(
            f"{names[0]} lacks {count(lacking[0], 'run') if lacking[0] else 'no run'} and {names[1]} "
            f"{lacking[1] or 'none'}; if these had a Dice of 0 or of 1, the difference would be from "
            f"{_points(bounds[0], '+')} to {_points(bounds[1], '+')} points"
        )
        if not kept.get(kind, True):
            return _withdrawn(*names, dice, study.margin, notes)
    if kind == EQUIVALENT and (a.collapsed or b.collapsed):
        return _withdrawn(*names, dice, study.margin, notes)
    opposite = dice.median * dice.difference <= 0 or abs(dice.median) < study.margin < abs(dice.difference)
    if kind == DIFFERENT and (a.collapsed or b.collapsed) and opposite:
        notes.append("so the difference comes from the runs that collapsed")
    return kind, "; ".join([sentence, *notes])


def _withdrawn(a: str, b: str, dice: Comparison, margin: float, notes: list[str]) -> tuple[str, str]:
    assert dice.low is not None
    assert dice.high is not None
    seen = f"{_end(dice.difference, margin, '+')} points {_interval(dice.low, dice.high, margin)}"
    return UNKNOWN, "; ".join([f"no verdict on {a} and {b} ({seen})", *notes])


def dice_interval(study: Study, configuration: str) -> tuple[float, float] | None:
    """Return the 95 % interval of a configuration's mean Dice; None if one run or one group gives no interval."""
    images = study.images[study.images["configuration"] == configuration]
    nothing = images.assign(dice=0.0)
    alone = compare(Differences.between(images, nothing, "dice", study.test_share, alike=True), study.margin)
    return None if alone.low is None or alone.high is None else (max(0.0, alone.low), min(1.0, alone.high))


def _points(share: float, sign: str = "") -> str:
    return f"{round(100 * share, 1) + 0.0:{sign}.1f}"  # adding 0 turns -0.0 into 0.0


def _interval(low: float, high: float, margin: float) -> str:
    """Format an interval in points, with as many decimals as show on which side of 0 and of the margin its ends lie."""
    return f"[{_end(low, margin)}, {_end(high, margin)}]"


def _end(share: float, margin: float, sign: str = "") -> str:
    """Format a difference in points; adding 0 turns -0.0 into 0.0."""
    value, limits = 100 * share, (0.0, 100 * margin, -100 * margin)

    def sides(number: float) -> list[float]:
        return [math.copysign(1, number - limit) if number != limit else 0 for limit in limits]

    decimals = next((n for n in range(1, MOST_DECIMALS) if sides(round(value, n)) == sides(value)), MOST_DECIMALS)
    return f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def caveats(study: Study, progress: Progress | None = None) -> list[str]:
    """Return the limits of this study that a reader must know before using any verdict."""
    runs, found = study.runs, list((progress or find_progress(study)).remarks)
    for data in sorted(set(runs["scored_on"].dropna())):
        fitted = sorted(set(runs.loc[runs["fitted"].astype(bool), "configuration"]))
        found.append(
            f"all masks are scored on the labels of {data}"
            + (f", on which {', '.join(fitted)} was trained, which favours it" if fitted else "")
        )
    if study.trained.empty:
        pass  # masks made elsewhere depend on none of these training sets
    elif runs["fold"].nunique() == 1:
        found.append(
            "all runs share one training set, so no interval includes the variation between training sets; "
            "add folds: data.split.folds=5 data.split.fold=0,1,2,3,4"
        )
    elif len(study.split.get("seed", [])) < 2:
        found.append(
            "folds share training images, so the variation between training sets is underestimated; repeat the folds "
            "with other splits: data.split.seed=0,1,2"
        )
    found += [
        f"{name}: masks made elsewhere; what made them may have seen the test images before"
        for name in sorted(study.masks)
    ]
    seeds = study.trained.groupby(["configuration", "fold"])["seed"].nunique()
    if alone := [str(name) for name, most in seeds.groupby("configuration").max().items() if most == 1]:
        found.append(
            f"{', '.join(alone)}: only one seed for each training set, so the variation between seeds is unknown; "
            "add seeds: seed=0,1,2"
        )
    if (runs["leaks"] > 0).any():
        found.append("these scores may be too high: related images lie in different parts of the split")
    for a, b in combinations(study.configurations, 2):
        if _same_throughout(study, a, b):
            found.append(
                f"{a} and {b} have exactly the same Dice on every image of every run; "
                "check that they are different, and that networks were trained"
            )
    found += _learned(study)
    for column, noun in (("device", "devices"), ("precision", "precisions"), ("scored_weights", "kinds of weights")):
        if (kinds := study.trained[column].nunique()) > 1:
            found.append(f"the runs used {kinds} {noun}: {'; '.join(sorted(set(study.trained[column])))}")
    if collapsed := sorted(collapsed_runs(study)):
        dice = dict(zip(runs["run"], runs["dice"], strict=True))
        found.append(f"collapsed runs: {', '.join(f'{run} (Dice {dice[run]:.4f})' for run in collapsed)}")
    failed = [run.run for run in study.unfinished if run.failure is not None]
    if failed:
        found.append(f"failed runs, without a result: {', '.join(failed)}")
    if left := [run.run for run in study.unfinished if run.failure is None]:
        found.append(f"unfinished runs, left out: {', '.join(left)}")
    if study.repeated:
        found.append(f"repeated runs of one configuration, seed and fold, left out: {', '.join(study.repeated)}")
    unpaired = study.trained.groupby(["fold", "seed"])["configuration"].nunique()
    if lone := [key for key, count in unpaired.items() if count < len(study.differences)]:
        found.append(
            f"{len(lone)} of {len(unpaired)} combinations of seed and fold lack a configuration; "
            "each comparison uses those that both configurations have"
        )
    return found


def _untrained(study: Study, configuration: str) -> bool:
    """Return whether a configuration is not better than the best baseline, mean over its runs."""
    own = study.runs["configuration"] == configuration
    return bool(study.runs.loc[own, "dice"].mean() <= best_baselines(study)[own].mean())


def _learned(study: Study) -> list[str]:
    """Name the configurations that are not better than a baseline, or whose training ended too early."""
    found, baselines = [], best_baselines(study)
    for configuration in study.configurations:
        if _untrained(study, configuration):
            own = study.runs["configuration"] == configuration
            dice, baseline = 100 * study.runs.loc[own, "dice"].mean(), 100 * baselines[own].mean()
            found.append(
                f"{configuration} does not beat a prediction that ignores the image ({dice:.1f} against {baseline:.1f} "
                f"points of Dice){'' if configuration in study.masks else ', so it has not learned; train longer'}"
            )
        improving = still_improving(study.curves, configuration)
        if improving is not None and improving > IMPROVING:
            found.append(
                f"{configuration} was still improving when training ended ({100 * improving:.0f} % of the fall of the "
                "training loss came in the last tenth of the epochs, or in the last one if there are fewer than 20); "
                "train longer: trainer.max_epochs"
            )
    return found


def _same_throughout(study: Study, a: str, b: str) -> bool:
    """Return whether two configurations have exactly equal Dice on all images that both were tested on."""
    scores = study.images.set_index(["fold", "seed", "image"])
    first, second = (scores.loc[scores["configuration"] == configuration, "dice"] for configuration in (a, b))
    difference = (first - second).dropna()
    return len(difference) > 0 and bool((difference == 0).all())
