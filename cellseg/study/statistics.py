"""Compare two configurations: a difference, its interval, and the sources of its variance, all in closed form.

The unit is the image, clustered by group. Each image has the mean over its runs, and images have equal weight. A
difference varies with four things: which groups of images there are, the seed, the seed's effect on single groups, and
the training set. Their variances are estimated by analysis of variance; the degrees of freedom follow Satterthwaite.
tests/test_statistics.py calibrates the method on simulated studies.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Integers = NDArray[np.signedinteger]

LEVEL = 0.05
POWER = 0.8
RANGE = 0.8  # probability that each variance lies in the range for which seeds are planned
MOST_SEEDS = 10**6  # of the search; if more were needed, other sources of variance are too large
LEAST = 0.25  # smallest variance over repeated training sets, in standard errors of its estimate
ROUNDING = 1e-15  # a smaller variance comes from rounding


@dataclass(frozen=True)
class Differences:
    """Differences of two configurations, A minus B, in runs paired by seed and training set.

    Attributes:
        scores: Contribution of each group to the mean score of each run, shape (2, R, G), A first: the sum over its
            images of the score times the weight of the image. 0 if the run was not tested on the group.
        training_of_run: Training set of each pair of runs, 0 to T - 1, shape (R,).
        weights: Sum of the weights of the images of each group that a training set was tested on, shape (T, G). All
            weights together sum to 1.
        overlap: Share of their training images that two training sets have in common, shape (T, T).
        images: Number of different images.
        test_share: Number of test images divided by number of training images.
        alike: Whether one seed gives both networks the same initial weights, so that their runs vary together.
    """

    scores: Floats
    training_of_run: Integers
    weights: Floats
    overlap: Floats
    images: int
    test_share: float
    alike: bool

    @classmethod
    def between(cls, a: pd.DataFrame, b: pd.DataFrame, score: str, test_share: float, *, alike: bool) -> "Differences":
        """Pair the rows of two configurations by seed, fold and image.

        Runs without a counterpart are left out. An image is left out if the score is missing in any run of its fold.

        Args:
            a: One row for each scored image of each run of A: seed, fold (the training set), image, group, score.
            b: The rows of B.
            score: Column to compare.
            test_share: Number of test images divided by number of training images.
            alike: Whether both networks have the same configuration.

        Raises:
            ValueError: If the two have no seed and fold in common, if they scored different images in the same seed
                and fold, or if no image has the score in all runs.
        """
        runs = ["fold", "seed"]
        both = a.merge(b[runs].drop_duplicates(), on=runs), b.merge(a[runs].drop_duplicates(), on=runs)
        if both[0].empty:
            raise ValueError("the two configurations have no seed and fold in common")
        paired = both[0].merge(both[1], on=[*runs, "image", "group"], suffixes=("_a", "_b"))
        if not len(paired) == len(both[0]) == len(both[1]):
            raise ValueError("the two configurations scored different images in the same seed and fold")
        place = ["fold", "image"]
        scores = [f"{score}_a", f"{score}_b"]
        lacking = paired.loc[paired[scores].isna().any(axis=1), place].drop_duplicates()
        if len(lacking):
            paired = paired.merge(lacking, how="left", indicator=True)
            paired = paired[paired["_merge"] == "left_only"]
        if paired.empty:
            raise ValueError(f"no image has the score {score} in all runs")
        tests = paired.drop_duplicates(place)[[*place, "group"]]
        times = tests.groupby("image")["image"].transform("size")
        tests = tests.assign(weight=1 / (times * tests["image"].nunique()))
        paired = paired.merge(tests, on=[*place, "group"])
        parts = [
            paired.assign(part=paired[name] * paired["weight"]).pivot_table(
                index=runs, columns="group", values="part", aggfunc="sum", fill_value=0.0
            )
            for name in scores
        ]
        weights = tests.pivot_table(index="fold", columns="group", values="weight", aggfunc="sum", fill_value=0.0)
        return cls(
            scores=np.stack([part.to_numpy(np.float64) for part in parts]),
            training_of_run=weights.index.get_indexer(parts[0].index.get_level_values("fold")),
            weights=weights[parts[0].columns].to_numpy(np.float64),
            overlap=_overlap(tests, weights.index, test_share),
            images=int(tests["image"].nunique()),
            test_share=test_share,
            alike=alike,
        )

    @cached_property
    def parts(self) -> Floats:
        """Contribution of each group to the mean difference of each pair of runs, shape (R, G)."""
        return self.scores[0] - self.scores[1]

    @cached_property
    def seeds(self) -> Integers:
        """Number of pairs of runs with each training set, shape (T,)."""
        return np.bincount(self.training_of_run)

    @cached_property
    def means(self) -> Floats:
        """Contribution of each group with each training set, mean over seeds, shape (T, G)."""
        sums = np.zeros_like(self.weights)
        np.add.at(sums, self.training_of_run, self.parts)
        return sums / self.seeds[:, None]

    @property
    def mean(self) -> float:
        """Mean difference over images with equal weight, after the mean over the runs of each."""
        return float(self.means.sum())

    @cached_property
    def shares(self) -> Floats:
        """Weight of each training set in the mean, shape (T,)."""
        return self.weights.sum(axis=1)

    @cached_property
    def within(self) -> Floats:
        """Weight of each group among those that a training set was tested on, shape (T, G)."""
        return self.weights / self.shares[:, None]

    @property
    def runs(self) -> Floats:
        """Mean difference of each pair of runs, shape (R,)."""
        return self.parts.sum(axis=1) / self.shares[self.training_of_run]

    @property
    def repeated(self) -> bool:
        """Whether some groups were tested with several training sets."""
        return bool(((self.weights > 0).sum(axis=0) > 1).any())


@dataclass(frozen=True)
class Square:
    """A mean square: an estimate of a variance, and its degrees of freedom."""

    value: float = 0.0
    freedom: float = 0.0


@dataclass(frozen=True)
class Variance:
    """The variance of a mean difference, by source.

    Attributes:
        group: From the choice of groups and of images in them.
        seed: From the seed; None with one seed, where it is part of the other sources.
        seed_group: From the effect of the seed on single groups and images; None with one seed.
        training: From the choice of training images; None with one training set, where it is unknown.
        freedom: Degrees of freedom of the sum.
        group_freedom, seed_freedom, residual_freedom, training_freedom: Degrees of freedom of the mean squares.
        seeds: Mean number of seeds of each training set.
    """

    group: float
    seed: float | None
    seed_group: float | None
    training: float | None
    freedom: float
    group_freedom: float
    seed_freedom: float
    residual_freedom: float
    training_freedom: float
    seeds: float

    @property
    def sources(self) -> dict[str, float]:
        """The known sources."""
        named = {
            "groups of images": self.group,
            "seeds": self.seed,
            "seed effects on single groups": self.seed_group,
            "training sets": self.training,
        }
        return {name: value for name, value in named.items() if value is not None}

    @property
    def total(self) -> float:
        """The variance of the mean difference."""
        return sum(self.sources.values())

    def scaled(self, probability: float) -> "Variance":
        """Return the variances if each mean square was at this quantile of its distribution."""

        def true(value: float, freedom: float) -> float:
            return value * freedom / float(stats.chi2.ppf(probability, freedom)) if value and freedom else value

        single = true(self.seed_group or 0.0, self.residual_freedom)
        group = true(self.group + (self.seed_group or 0.0), self.group_freedom)
        run = true((self.seed or 0.0) + (self.seed_group or 0.0), self.seed_freedom)
        return replace(
            self,
            group=max(0.0, group - single),
            seed=max(0.0, run - single),
            seed_group=min(single, group),
            training=true(self.training or 0.0, self.training_freedom),
        )

    def with_seeds(self, seeds: int) -> tuple[float, float]:
        """Return the variance with another number of seeds, and its degrees of freedom."""
        assert self.seed is not None
        assert self.seed_group is not None
        fewer = self.seeds / seeds
        group = self.group + fewer * self.seed_group
        run, training = fewer * self.seed, self.training or 0.0
        squares = [
            Square(group, self.group_freedom),
            Square(run, self.seed_freedom * (seeds - 1) / (self.seeds - 1)),
            Square(training, self.training_freedom),
        ]
        return group + run + training, _satterthwaite(squares, squares)


@dataclass(frozen=True)
class Comparison:
    """The difference of two configurations in one score, A minus B, in the unit of the score.

    Attributes:
        difference: Mean difference over images, after the mean over the runs of each.
        median: Median of the mean differences of the pairs of runs.
        low, high: Ends of the interval of 1 - ``level``, for all comparisons of the study together; None if unknown.
        inner_low, inner_high: Ends of the interval of 1 - 2 ``level``, which decides on equivalence.
        level: Probability of a false difference in the study.
        p: p value, adjusted for the number of comparisons like the interval.
        equivalent: Whether the inner interval lies within the margin; None if there is no interval.
        chances: Probabilities that A is better by more than the margin, equivalent, and worse by more than the margin.
        better, better_low, better_high: Share of run pairs in which A scores higher (a tie counts half), and the ends
            of its 95 % interval.
        pairs, training_sets, groups, images: Number of run pairs, training sets, groups and images in the comparison.
        repeated: Whether groups were tested with several training sets, so that their variance is known.
        variance: The variance of the difference, by source; None if unknown.
        networks: Number of configurations that the study compares.
    """

    difference: float
    median: float
    low: float | None
    high: float | None
    inner_low: float | None
    inner_high: float | None
    level: float
    p: float | None
    equivalent: bool | None
    chances: tuple[float, float, float] | None
    better: float
    better_low: float
    better_high: float
    pairs: int
    training_sets: int
    groups: int
    images: int
    repeated: bool
    variance: Variance | None
    networks: int

    @property
    def several_seeds(self) -> bool:
        """Whether the variance over seeds is known."""
        return self.variance is not None and self.variance.seed is not None

    @property
    def different(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    def seeds_needed(self, difference: float) -> tuple[float, float, float] | None:
        """Return how many seeds for each training set give 80 % power to show a difference.

        Returns:
            The estimate, and the ends of its range as the variances are uncertain; infinity if more seeds cannot give
            this power. None if the variance over seeds is unknown.
        """
        if self.variance is None or self.variance.seed is None or difference <= 0:
            return None
        low, high = (1 + RANGE) / 2, (1 - RANGE) / 2
        least, most = (self._seeds(self.variance.scaled(quantile), difference) for quantile in (low, high))
        return self._seeds(self.variance, difference), least, most

    def _seeds(self, variance: Variance, difference: float) -> float:
        def suffice(seeds: int) -> bool:
            total, freedom = variance.with_seeds(seeds)
            if total == 0:
                return True
            freedom = float(f"{freedom:.2g}")  # few different ones, as the quantile is slow for several networks
            needed = quantile(self.level, self.networks, freedom) + float(stats.t.ppf(POWER, freedom))
            return needed * math.sqrt(total) <= difference

        found = bisect_left(range(2, MOST_SEEDS), True, key=suffice) + 2
        return found if found < MOST_SEEDS else math.inf


def compare(
    data: Differences, margin: float, *, level: float = LEVEL, networks: int = 2, share: bool = True
) -> Comparison:
    """Compare two configurations in one score.

    Args:
        data: Their paired scores.
        margin: The difference below which two configurations count as equivalent.
        level: Probability of a false difference in the whole study, in (0, 0.5).
        networks: Number of configurations of the study; intervals and p hold for all its comparisons together.
        share: Whether the score lies in [0, 1], so that a difference lies in [-1, 1].
    """
    mean, variance = data.mean, find_variance(data)
    ends: list[float | None] = [None] * 4
    p = equivalent = chances = None
    if variance is not None:
        error = math.sqrt(variance.total)
        p = _simultaneous_p(abs(mean) / error, networks, variance.freedom)
        half, inner = (error * quantile(probability, networks, variance.freedom) for probability in (level, 2 * level))
        equivalent = abs(mean) + inner < margin
        most = 1.0 if share else math.inf
        ends = [max(-most, min(most, mean + side)) for side in (-half, half, -inner, inner)]
        above, below = (float(stats.t.sf((margin - sign * mean) / error, variance.freedom)) for sign in (1, -1))
        chances = above, 1 - above - below, below
    better = float((np.sign(data.runs) / 2 + 0.5).mean())
    better_low, better_high = _wilson(better, len(data.runs))
    return Comparison(
        difference=mean,
        median=float(np.median(data.runs)),
        low=ends[0],
        high=ends[1],
        inner_low=ends[2],
        inner_high=ends[3],
        level=level,
        p=p,
        equivalent=equivalent,
        chances=chances,
        better=better,
        better_low=better_low,
        better_high=better_high,
        pairs=len(data.runs),
        training_sets=len(data.shares),
        groups=int((data.weights > 0).any(axis=0).sum()),
        images=data.images,
        repeated=data.repeated,
        variance=variance,
        networks=networks,
    )


@cache
def _range_quantile(level: float, networks: int, freedom: float) -> float:
    return float(stats.studentized_range.ppf(1 - level, networks, freedom)) / math.sqrt(2)


def quantile(level: float, networks: int, freedom: float) -> float:
    """Return how many standard errors wide half an interval is, for all comparisons of a study together.

    With two networks it is the quantile of t; with more that of Tukey's studentized range, as by Games and Howell
    (https://doi.org/10.3102/10769986001002113), because each comparison has its own variance.
    """
    if networks < 3:
        return float(stats.t.ppf(1 - level / 2, freedom))
    return _range_quantile(level, networks, float(f"{min(freedom, 1e4):.3g}"))


def _simultaneous_p(size: float, networks: int, freedom: float) -> float:
    if networks < 3:
        return float(2 * stats.t.sf(size, freedom))
    return float(stats.studentized_range.sf(size * math.sqrt(2), networks, min(freedom, 1e4)))


def find_variance(data: Differences) -> Variance | None:
    """Estimate the variance of the mean difference, by source.

    Returns:
        None if there is one group or one pair of runs, or if nothing varies.
    """
    several, sets = bool((data.seeds > 1).any()), len(data.shares)
    if len(data.training_of_run) < 2 or (data.weights > 0).any(axis=0).sum() < 2:
        return None
    group, run, residual, training = _between_groups(data), Square(), Square(), Square()
    counted = _counted_twice(data)
    times = {"group": 1.0, "run": 0.0, "residual": 0.0, "training": 0.0}
    if several:
        run, residual = _between_seeds(data)
        if run.value > residual.value:
            times |= {"run": 1.0 - counted, "residual": counted - 1.0}
    own = 0.0  # of the training set
    if sets > 1 and data.repeated:
        training = _repeated_training(data, run, residual)
        own, times["training"] = training.value, 1.0
    elif sets > 1:
        training = _between_training(data)
        seen = sum(
            times[name] * square.value for name, square in (("group", group), ("run", run), ("residual", residual))
        )
        # folds share training images: the term of Nadeau and Bengio, https://doi.org/10.1023/A:1024068626366
        factor = 1 + data.test_share / float((data.shares**2).sum())
        if counted < 1:
            own = (factor - counted) / (1 - counted) * max(0.0, training.value - seen)
        else:  # each training set was tested on one group, so groups and training sets cannot be distinguished
            own = (factor - 1) * group.value
        training, times["training"] = Square(own, training.freedom), 1.0
    squares = {"group": group, "run": run, "residual": residual, "training": training}
    seed = (1 - counted) * max(0.0, run.value - residual.value)
    if group.value + seed + own < ROUNDING:
        return None
    weighted = [Square(times[name] * square.value, square.freedom) for name, square in squares.items()]
    sources = [group, Square(seed, run.freedom), Square(own, training.freedom)]
    # noise in the mean of a group contains the effect of seeds on it
    seed_group = min(residual.value, group.value)
    return Variance(
        group=group.value - seed_group,
        seed=seed if several else None,
        seed_group=seed_group if several else None,
        training=own if sets > 1 else None,
        freedom=_satterthwaite(weighted, sources),
        group_freedom=group.freedom,
        seed_freedom=run.freedom,
        residual_freedom=residual.freedom,
        training_freedom=training.freedom,
        seeds=float(data.seeds.mean()),
    )


def _satterthwaite(squares: Sequence[Square], sources: Sequence[Square]) -> float:
    """Return the degrees of freedom of a sum of variances, at least 1.

    Satterthwaite's are too many if a source with one or two degrees of freedom happens to be small. The mean of
    1 / freedom over sources, weighted by their variance, gives too few. The harmonic mean of both is between;
    simulations chose it.
    """
    total = sum(source.value for source in sources)
    satterthwaite = sum(square.value**2 / square.freedom for square in squares if square.freedom) / total**2
    weighted = sum(source.value / source.freedom for source in sources if source.freedom) / total
    return 2 / (min(1.0, satterthwaite) + min(1.0, weighted)) if total else 1.0


def _between_groups(data: Differences) -> Square:
    """Return the variance of the mean over groups, with the effect of seeds on groups.

    Groups count by their deviation from the mean; if each training set tests other groups, the deviations contain part
    of the effects of runs too.
    """
    weight = data.weights.sum(axis=0)
    if data.repeated:
        inside = data.means.sum(axis=1)[:, None] * data.within  # what each group has if all groups are alike
        square = Contrast.of(data.weights, data.within, _spread(weight)).square((data.means - inside).sum(axis=0))
        if square.freedom:  # else each training set was tested on one group
            return square
    moved = data.means.sum(axis=0) - data.mean * weight
    return Contrast.of(weight[None], weight[None], _spread(weight)).square(moved)


def _spread(weight: Floats) -> Floats:
    """Return in which proportions the means of groups vary.

    In a group of median size a quarter of the variance is the group's, the rest that of its images, which is smaller in
    a larger group.
    """
    return 1 + 3 * np.median(weight) / weight


def _counted_twice(data: Differences) -> float:
    """Return the share of the variance between runs that deviations of groups contain already."""
    sets, weight = len(data.shares), data.weights.sum(axis=0)
    if sets == 1 or data.repeated:
        return 0.0
    squares = float((weight**2).sum())
    return min(1.0, squares * (1 - 1 / sets) / (1 - squares) / float((data.shares**2).sum())) if squares < 1 else 0.0


@dataclass(frozen=True)
class Contrast:
    """The deviations M x of units with known weights, where M = diag(weight) - weights' within.

    Attributes:
        trace: Sum of the variances of the deviations, if the units vary independently.
        squared: Sum of their squared covariances.
        whole: Variance of the sum of weight times unit.
    """

    trace: float
    squared: float
    whole: float

    @classmethod
    def of(cls, weights: Floats, within: Floats, variances: Floats) -> "Contrast":
        """Make it for units with variances in these proportions."""
        weight, sets = weights.sum(axis=0), len(weights)
        ends = np.concatenate([weights, within * weight * variances])  # M V M' = diag(own) - ends' middle ends
        own = weight**2 * variances
        middle = np.zeros((2 * sets, 2 * sets))
        middle[:sets, :sets] = -(within * variances) @ within.T
        middle[:sets, sets:] = middle[sets:, :sets] = np.eye(sets)
        step = middle @ (ends @ ends.T)
        crossed = float((middle * ((ends * own) @ ends.T)).sum())
        squared = float((own**2).sum()) - 2 * crossed + float((step * step.T).sum())
        return cls(float(own.sum() - np.trace(step)), squared, float(own.sum()))

    def square(self, moved: Floats) -> Square:
        """Return the variance of the sum that these deviations show."""
        if self.trace < 1e-9 * self.whole:
            return Square()
        return Square(float((moved**2).sum()) * self.whole / self.trace, self.trace**2 / self.squared)


def _between_seeds(data: Differences) -> tuple[Square, Square]:
    """Return the variances of the mean over seeds: of whole runs, and of the effect of seeds on single groups.

    The second is part of the first. Networks of one configuration start from the same weights, so the variance is that
    of their differences. Other networks have a variance each. They share the order of images and the augmentation;
    where that moves both in the same way, the sum of the two variances is too large.
    """
    found = [_over_seeds(data, parts) for parts in ([data.parts] if data.alike else data.scores)]
    return _summed([run for run, _ in found]), _summed([single for _, single in found])


def _summed(squares: Sequence[Square]) -> Square:
    """Return the sum of independent variances with Satterthwaite's degrees of freedom; 0 if nothing varies."""
    total = sum(square.value for square in squares)
    weight = sum(square.value**2 / square.freedom for square in squares if square.freedom)
    return Square(total, total**2 / weight if weight else 0.0)


def _over_seeds(data: Differences, parts: Floats) -> tuple[Square, Square]:
    """Return both variances over seeds of one network, or of the difference of two."""
    freedom = float((data.seeds - 1).sum())
    means = np.zeros_like(data.weights)
    np.add.at(means, data.training_of_run, parts)
    own = parts - (means / data.seeds[:, None])[data.training_of_run]
    of_run = own.sum(axis=1)  # deviation of each run, times the weight of its training set
    single = own - of_run[:, None] * data.within[data.training_of_run]
    shares, tests = data.shares, (data.weights > 0).sum(axis=1)
    unit = float((shares**2 / data.seeds).sum())  # of the mean over seeds
    run = Square(float(((of_run / shares[data.training_of_run]) ** 2).sum()) / freedom * unit, freedom)
    noise = np.zeros(len(shares))
    np.add.at(noise, data.training_of_run, (single**2).sum(axis=1))
    usable = (data.seeds > 1) & (tests > 1)  # with one group, all of it counts as variance of whole runs
    each = noise[usable] / shares[usable] ** 2 / (1 - (data.within[usable] ** 2).sum(axis=1))
    counts = float(((data.seeds - 1) * (tests - 1))[usable].sum())
    return run, Square(float(each.sum()) / freedom * unit, counts)


def _between_training(data: Differences) -> Square:
    """Return the variance of the mean over training sets that test different groups: of all sources together."""
    shares = data.shares
    moved = data.means.sum(axis=1) - data.mean * shares
    return Contrast.of(shares[None], shares[None], np.ones(len(shares))).square(moved)


def _repeated_training(data: Differences, run: Square, residual: Square) -> Square:
    """Return the variance of the mean over training sets, some of which test the same groups.

    Each training set is judged by how its groups differ from their mean over training sets, beyond what seeds explain.
    Training sets overlap, and their effects are taken to be correlated by the share of images in common. The estimate
    is at least a quarter of its standard error: 0 would claim more than the data show. With one seed, the effects of
    seeds and training sets cannot be distinguished; all of it counts for training sets, which is too much.
    """
    weight, shares = data.weights.sum(axis=0), data.shares
    part = data.weights / weight  # of a group, the weight that each training set has
    apart = data.means.sum(axis=1) / shares - data.within @ (data.means.sum(axis=0) / weight)
    contrast = np.eye(len(shares)) - data.within @ part.T
    spread = float((shares * apart**2).sum())
    mixed = shares[:, None] * (contrast @ contrast.T)
    freedom = float(np.trace(mixed) ** 2 / (mixed * mixed.T).sum())
    unit = float((shares**2 / data.seeds).sum())  # of the mean over seeds
    seed = max(0.0, run.value - residual.value) / unit
    of_run = float((shares[:, None] * contrast**2 / data.seeds).sum())
    of_single = float((shares * (1 - (data.within * part).sum(axis=1)) / data.seeds).sum())
    noise = of_run * seed + of_single * residual.value / unit
    explained = float((shares[:, None] * (contrast @ data.overlap) * contrast).sum())
    if explained < 1e-9:
        return Square()
    own = max(spread - noise, noise * math.sqrt(2 / freedom) * LEAST)
    return Square(own * float(shares @ data.overlap @ shares) / explained, freedom)


def interval_over_groups(sums: Floats, sizes: Floats) -> tuple[float, float] | None:
    """Return the 95 % interval of ``sum(sums) / sum(sizes)`` over groups; None with one group.

    Args:
        sums: Numerator of each group.
        sizes: Denominator of each group.
    """
    sums, sizes = sums[sizes > 0], sizes[sizes > 0]  # empty groups have no information
    total, value = sizes.sum(), float(sums.sum() / sizes.sum())
    share = (sizes / total)[None]
    square = Contrast.of(share, share, _spread(share[0])).square((sums - value * sizes) / total)
    if square.freedom == 0:
        return None
    half = math.sqrt(square.value) * quantile(LEVEL, 2, max(1.0, square.freedom))
    return value - half, value + half


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share; a tie counts half, so the number of successes may be fractional."""
    z2 = float(stats.norm.ppf(1 - LEVEL / 2)) ** 2
    middle = share + z2 / (2 * count)
    half = math.sqrt(z2 * share * (1 - share) / count + (z2 / (2 * count)) ** 2)
    return (middle - half) / (1 + z2 / count), (middle + half) / (1 + z2 / count)


def _overlap(tests: pd.DataFrame, training: pd.Index, test_share: float) -> Floats:
    """Return the share of training images that each two training sets have in common, shape (T, T).

    A training set has all images that it does not test; some images may never be tested.
    """
    there = tests.pivot_table(index="fold", columns="image", values="weight", aggfunc="size", fill_value=0)
    tested = there.reindex(training).to_numpy(np.float64)
    each = tested.sum(axis=1)
    most = max(float(each.mean()) * (1 + 1 / test_share), tested.shape[1] + 1)
    common = most - each[:, None] - each + tested @ tested.T
    return np.asarray(common / np.sqrt(np.outer(most - each, most - each)))
