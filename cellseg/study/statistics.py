"""Compare two configurations: a difference, its interval and p values.

The unit is the image, clustered by group; for each image, the mean over seeds is taken first. The interval covers three
sources of variation: groups, seeds and, with folds, training images. Groups are resampled. The other two are simulated
with the variance that was observed. Runs count as independent: training uses different random numbers in each fold,
even with the same seed. tests/test_statistics.py calibrates the method by simulation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Integers = NDArray[np.signedinteger]
Part = tuple[Floats, float]  # shift of the mean in each resample, and its degrees of freedom

RESAMPLES = 10_000
CONFIDENCE = 0.95
POWER = 0.8
MOST_SEEDS = 1000  # upper limit of the search for a sufficient number of seeds


@dataclass(frozen=True)
class Differences:
    """Scores of configurations A and B in runs paired by seed and fold; differences are A minus B.

    Attributes:
        scores: Sum of the scores over the images of each group, shape (2, R, G), A first; 0 if the group is in another
            fold.
        fold_of_run: Test fold of each pair of runs, 0 to F - 1, shape (R,).
        sizes: Number of images in each group, shape (G,).
        fold_of_group: Fold in which each group is tested, shape (G,).
        test_share: Number of test images divided by number of training images.
        alike: Whether one seed gives both networks the same initial weights, so that their runs vary together.
    """

    scores: Floats
    fold_of_run: Integers
    sizes: Integers
    fold_of_group: Integers
    test_share: float
    alike: bool

    @classmethod
    def between(cls, a: pd.DataFrame, b: pd.DataFrame, score: str, test_share: float, *, alike: bool) -> "Differences":
        """Pair the rows of two configurations by seed, fold and image.

        Runs without a counterpart are left out. An image is left out if the score is missing in any run of its fold.

        Args:
            a: One row for each scored image of each run of A: seed, fold, image, group and the score.
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
        lacking = paired.loc[paired[[f"{score}_a", f"{score}_b"]].isna().any(axis=1), ["fold", "image"]]
        if len(lacking):
            places = pd.MultiIndex.from_frame(paired[["fold", "image"]])
            paired = paired[~places.isin(pd.MultiIndex.from_frame(lacking))].copy()
        if paired.empty:
            raise ValueError(f"no image has the score {score} in all runs")
        paired["cluster"] = pd.MultiIndex.from_frame(paired[["fold", "group"]]).to_flat_index()
        sums = [
            paired.pivot_table(index=runs, columns="cluster", values=f"{score}_{side}", aggfunc="sum", fill_value=0.0)
            for side in "ab"
        ]
        table = sums[0]
        images = paired.drop_duplicates(["fold", "image"])["cluster"].value_counts()
        folds = pd.Index(sorted(paired["fold"].unique()))
        return cls(
            scores=np.stack([side.to_numpy() for side in sums]),
            fold_of_run=folds.get_indexer(table.index.get_level_values("fold")),
            sizes=np.array(images.reindex(table.columns), np.int64),
            fold_of_group=folds.get_indexer([cluster[0] for cluster in table.columns]),
            test_share=test_share,
            alike=alike,
        )

    @property
    def sums(self) -> Floats:
        """Sum of the differences over each group's images, shape (R, G)."""
        return self.scores[0] - self.scores[1]

    @property
    def images(self) -> Integers:
        """Number of test images in each fold."""
        return np.bincount(self.fold_of_group, weights=self.sizes).astype(np.int64)

    @property
    def runs(self) -> Floats:
        """Mean difference of every pair of runs, shape (R,)."""
        return self.sums.sum(axis=1) / self.images[self.fold_of_run]

    @property
    def folds(self) -> int:
        """Number of folds."""
        return int(self.fold_of_run.max()) + 1

    @property
    def seeds(self) -> Integers:
        """Number of run pairs in each fold."""
        return np.bincount(self.fold_of_run)

    @property
    def group_sums(self) -> Floats:
        """Sum of the differences over each group's images, mean over seeds."""
        return self.sums.sum(axis=0) / self.seeds[self.fold_of_group]

    @property
    def mean(self) -> float:
        """Mean difference over images with equal weight, after the mean over seeds."""
        return float(self.group_sums.sum() / self.sizes.sum())


@dataclass(frozen=True)
class Comparison:
    """The difference of two configurations in one score, A minus B, in the unit of the score.

    Attributes:
        difference: Mean difference over images, after the mean over seeds.
        low, high: Ends of its 95 % interval over groups and seeds; None if one run of each or one group gives none.
        p: Probability of a difference at least as large by chance alone; None if there is no interval.
        p_folds: The p value of the corrected resampled t-test over folds; None with one fold.
        equivalent: Whether the 90 % interval lies within the margin; None if there is no interval.
        better, better_low, better_high: Share of run pairs in which A scores higher (a tie counts half), and the ends
            of its 95 % interval.
        pairs, folds, groups, images: Number of run pairs, folds, groups and images in the comparison.
        seed_variance: Variance of the difference between runs that differ only in the seed; None if unknown.
        seed_freedom: Degrees of freedom of ``seed_variance``.
        other_variance: Variance of the mean difference that more seeds do not reduce: choice of groups and of training
            images.
        other_freedom: Degrees of freedom of ``other_variance``.
    """

    difference: float
    low: float | None
    high: float | None
    p: float | None
    p_folds: float | None
    equivalent: bool | None
    better: float
    better_low: float
    better_high: float
    pairs: int
    folds: int
    groups: int
    images: int
    seed_variance: float | None
    seed_freedom: float
    other_variance: float
    other_freedom: float

    def seeds_needed(self, difference: float) -> float | None:
        """Return the number of seeds per fold that gives 80 % power to detect a difference.

        The result is infinity if more seeds cannot give this power, and None if the variance between seeds is unknown.
        """
        if self.seed_variance is None or self.low is None:
            return None
        have = self.pairs / self.folds
        for seeds in range(2, MOST_SEEDS):
            own = self.seed_variance / (seeds * self.folds)
            freedom = _welch(
                [own, self.other_variance], [self.seed_freedom * (seeds - 1) / (have - 1), self.other_freedom]
            )
            needed = stats.t.ppf(0.5 + CONFIDENCE / 2, freedom) + stats.norm.ppf(POWER)
            if needed * math.sqrt(own + self.other_variance) <= difference:
                return seeds
        return math.inf


def compare(data: Differences, margin: float, seed: int = 0) -> Comparison:
    """Compare two configurations in one score.

    Args:
        data: Their paired scores.
        margin: The difference below which two configurations count as equivalent.
        seed: Seed of the resampling.
    """
    rng = np.random.default_rng(seed)
    one_seed = bool((data.seeds == 1).all())
    group_part = _resample_groups(rng, data, whole_folds=one_seed and data.folds > 1)
    parts, seed_variance, seed_freedom = [group_part], None, 0.0
    if not one_seed:
        seed_variance, seed_part = _resample_seeds(rng, data)
        seed_freedom = seed_part[1]
        if data.folds > 1:
            parts.append(_training_images(rng, data, float(group_part[0].var()), seed_variance))
    other_variance, other_freedom = _together(parts)
    if not one_seed:
        parts.append(seed_part)
    known = (not one_seed or data.folds > 1) and all(freedom > 0 for _, freedom in parts)
    drift = abs(_as_wide_as_t(rng, parts)) if known else None
    half = None if drift is None else float(np.quantile(drift, CONFIDENCE))
    inner = None if drift is None else float(np.quantile(drift, 2 * CONFIDENCE - 1))
    better = float((np.sign(data.runs) / 2 + 0.5).mean())
    better_low, better_high = _wilson(better, len(data.runs))
    return Comparison(
        difference=data.mean,
        low=None if half is None else data.mean - half,
        high=None if half is None else data.mean + half,
        p=None if drift is None else float((1 + (drift >= abs(data.mean)).sum()) / (1 + RESAMPLES)),
        p_folds=_corrected_test(data),
        equivalent=None if inner is None else abs(data.mean) + inner < margin,
        better=better,
        better_low=better_low,
        better_high=better_high,
        pairs=len(data.runs),
        folds=data.folds,
        groups=len(data.sizes),
        images=int(data.sizes.sum()),
        seed_variance=seed_variance,
        seed_freedom=seed_freedom,
        other_variance=other_variance,
        other_freedom=other_freedom,
    )


def _together(parts: Sequence[Part]) -> tuple[float, float]:
    """Return the variance of a sum of independent parts, and its degrees of freedom."""
    variances = [float(moved.var()) for moved, _ in parts]
    return sum(variances), _welch(variances, [freedom for _, freedom in parts])


def _welch(variances: Sequence[float], freedom: Sequence[float]) -> float:
    """Return the Welch-Satterthwaite degrees of freedom of a sum of variances; infinity if all are 0."""
    weight = sum(variance**2 / max(count, 1e-9) for variance, count in zip(variances, freedom, strict=True))
    return sum(variances) ** 2 / weight if weight else math.inf


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share; a tie counts half, so the number of successes may be fractional."""
    z2 = float(stats.norm.ppf(0.5 + CONFIDENCE / 2)) ** 2
    middle = share + z2 / (2 * count)
    half = math.sqrt(z2 * share * (1 - share) / count + (z2 / (2 * count)) ** 2)
    return (middle - half) / (1 + z2 / count), (middle + half) / (1 + z2 / count)


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p values for the number of comparisons by Holm's step-down method."""
    if not p:
        return []
    order = np.argsort(p)
    adjusted = np.maximum.accumulate([min(1.0, (len(p) - rank) * p[index]) for rank, index in enumerate(order)])
    result = np.empty(len(p))
    result[order] = adjusted
    return [float(value) for value in result]


def interval_over_groups(sums: Floats, sizes: Floats, seed: int = 0) -> tuple[float, float] | None:
    """Return the 95 % interval of ``sum(sums) / sum(sizes)`` by resampling groups; None with one group.

    Args:
        sums: Numerator of each group.
        sizes: Denominator of each group.
        seed: Seed of the resampling.
    """
    rng = np.random.default_rng(seed)
    part = _resample(rng, sums, sizes)
    if part[1] == 0:
        return None
    value, half = float(sums.sum() / sizes.sum()), float(np.quantile(abs(_as_wide_as_t(rng, [part])), CONFIDENCE))
    return value - half, value + half


def _resample_groups(rng: np.random.Generator, data: Differences, *, whole_folds: bool) -> Part:
    """Resample groups; with one run per fold, resample whole folds, because only folds have independent runs."""
    units = data.fold_of_group if whole_folds else np.arange(len(data.sizes))
    return _resample(rng, np.bincount(units, weights=data.group_sums), np.bincount(units, weights=data.sizes))


def _resample(rng: np.random.Generator, sums: NDArray[Any], sizes: NDArray[Any]) -> Part:
    sums, sizes = sums[sizes > 0], sizes[sizes > 0]  # empty groups have no information
    count = len(sums)
    if count < 2:
        return np.zeros(RESAMPLES), 0.0
    weights = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES)
    moved = weights @ sums / (weights @ sizes) - sums.sum() / sizes.sum()
    effective = float(sizes.sum() ** 2 / (sizes**2).sum())  # effective number of groups if their sizes differ
    return moved * math.sqrt(count / (count - 1)), max(1.0, effective - 1)


def _resample_seeds(rng: np.random.Generator, data: Differences) -> tuple[float, Part]:
    """Simulate other seeds; return the variance over seeds and the shift of the mean.

    The deviation of each run from the mean of its fold is drawn from a normal distribution with the observed variance,
    because three seeds are too few to resample. Networks of one configuration start from the same weights, so the
    variance is that of their differences. Other networks share no randomness, so each has its own variance; the degrees
    of freedom of the sum depend on how unequal the two variances are.
    """
    spread_in = [data.sums] if data.alike else [sums for sums in data.scores if sums.any()]
    own = [max(0.0, _seed_variance(data, sums)) for sums in spread_in]
    weights = (data.images / data.images.sum() / data.seeds)[data.fold_of_run]
    moved = rng.normal(0, math.sqrt(sum(own)), (RESAMPLES, len(weights))) @ weights
    freedom = float(len(weights) - data.folds)
    return sum(own), (moved, min(_welch(own, [freedom] * len(own)), freedom * len(own)))


def _seed_variance(data: Differences, sums: Floats) -> float:
    """Return the variance of run means over seeds, without the part that resampling groups already covers."""
    runs = sums.sum(axis=1) / data.images[data.fold_of_run]
    means = np.bincount(data.fold_of_run, weights=runs) / data.seeds
    seen = float(((runs - means[data.fold_of_run]) ** 2).sum())
    noise = 0.0  # seed effects differ between groups, so a mean over few groups varies for this reason alone
    for fold in range(data.folds):
        mine, groups = data.fold_of_run == fold, data.fold_of_group == fold
        many = int(groups.sum())
        if mine.sum() < 2 or many < 2:
            continue
        part, sizes = sums[np.ix_(mine, groups)], data.sizes[groups]
        own = part - part.mean(axis=0)
        own -= own.sum(axis=1, keepdims=True) / sizes.sum() * sizes
        noise += float((own**2).sum()) / sizes.sum() ** 2 * many / (many - 1)
    return (seen - noise) / (len(runs) - data.folds)


def _training_images(rng: np.random.Generator, data: Differences, group_variance: float, seed_variance: float) -> Part:
    """Simulate other training images: the variance between folds beyond that of groups and seeds."""
    means = np.bincount(data.fold_of_run, weights=data.runs) / data.seeds
    expected = group_variance * data.folds + seed_variance * float((1 / data.seeds).mean())
    own = max(0.0, float(means.var(ddof=1)) - expected)
    return rng.normal(0, math.sqrt(own / data.folds), RESAMPLES), float(data.folds - 1)


def _as_wide_as_t(rng: np.random.Generator, parts: Sequence[Part]) -> Floats:
    """Add the parts, and widen them from a normal to a t distribution, because few units estimate a variance poorly.

    Half of the resamples widen each part separately (Behrens-Fisher). The other half widen the sum, with
    Welch-Satterthwaite degrees of freedom. With few seeds, the first method alone covers the truth too often and the
    second alone too rarely.
    """
    moved, freedom = np.stack([moved for moved, _ in parts]), np.array([freedom for _, freedom in parts])
    together = _together(parts)[1]
    if together == math.inf:
        return np.zeros(RESAMPLES)
    each = np.sqrt(freedom[:, None] / rng.chisquare(freedom[:, None], moved.shape))
    each[:, ::2] = np.sqrt(together / rng.chisquare(together, RESAMPLES))[::2]
    drift: Floats = (moved * each).sum(axis=0)
    return drift


def _corrected_test(data: Differences) -> float | None:
    """Return the p value of Nadeau and Bengio's test, which corrects for overlapping training parts of folds.

    See https://doi.org/10.1023/A:1024068626366.
    """
    if data.folds < 2:
        return None
    error = data.runs.std(ddof=1) * math.sqrt(1 / len(data.runs) + data.test_share)
    if error == 0:
        return 1.0 if data.runs.mean() == 0 else 0.0
    return float(2 * stats.t.sf(abs(data.runs.mean() / error), len(data.runs) - 1))
