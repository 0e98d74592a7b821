"""The statistics of a study: checked against formulas by hand, and calibrated on simulated studies."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cellseg.study import statistics
from cellseg.study.statistics import Differences, compare, holm


def table(scores, groups=None):
    """Rows of one network from {(fold, seed): {image: dice}}."""
    return pd.DataFrame(
        [
            {"fold": fold, "seed": seed, "image": image, "group": (groups or {}).get(image, image), "dice": dice}
            for (fold, seed), images in scores.items()
            for image, dice in images.items()
        ]
    )


def drawn(rng, folds=2, seeds=3, images=8, shift=0.0):
    return {
        (fold, seed): {f"{fold}-{n}": 0.9 + shift + rng.normal(0, 0.02) for n in range(images)}
        for fold in range(folds)
        for seed in range(seeds)
    }


def between(a, b, alike=False, **options):
    return Differences.between(table(a, **options), table(b, **options), "dice", 0.25, alike=alike)


def test_the_difference_is_the_mean_over_images_of_the_difference_averaged_over_seeds():
    rng = np.random.default_rng(0)
    a, b = drawn(rng), drawn(rng)
    del a[1, 2]  # a missing run takes its partner out, and no other
    kept = [key for key in b if key in a]
    by_image = {}
    for fold, seed in kept:
        for image in a[fold, seed]:
            by_image.setdefault(image, []).append(a[fold, seed][image] - b[fold, seed][image])
    comparison = compare(between(a, b), 0.005)
    assert comparison.difference == pytest.approx(np.mean([np.mean(values) for values in by_image.values()]))
    assert (comparison.pairs, comparison.images, comparison.folds) == (5, 16, 2)


def test_b_against_a_is_a_against_b_mirrored():
    rng = np.random.default_rng(1)
    a, b = drawn(rng), drawn(rng, shift=0.01)
    first, second = compare(between(a, b), 0.005), compare(between(b, a), 0.005)
    assert first.difference == pytest.approx(-second.difference)
    assert (first.low, first.high) == pytest.approx((-second.high, -second.low), abs=2e-4)  # resampled
    assert first.p == pytest.approx(second.p, abs=0.01)
    assert first.better == pytest.approx(1 - second.better)


def test_networks_that_score_the_same_are_equivalent():
    a = drawn(np.random.default_rng(2))
    comparison = compare(between(a, a, alike=True), 0.005)
    assert (comparison.difference, comparison.low, comparison.high, comparison.p) == (0, 0, 0, 1)
    assert comparison.equivalent
    assert comparison.better == 0.5


def test_one_run_each_has_no_interval_and_one_run_a_fold_has():
    rng = np.random.default_rng(3)
    alone = compare(between(drawn(rng, 1, 1), drawn(rng, 1, 1)), 0.005)
    assert (alone.low, alone.p, alone.equivalent, alone.seed_variance) == (None, None, None, None)
    folds = compare(between(drawn(rng, 5, 1), drawn(rng, 5, 1)), 0.005)
    assert folds.low < folds.difference < folds.high


def test_images_of_one_group_count_as_one_cluster():
    rng = np.random.default_rng(4)
    a, b = drawn(rng, 1, 3, 40), drawn(rng, 1, 3, 40)
    for images in a.values():  # each group of ten shares its own difference
        for n, image in enumerate(images):
            images[image] += (-0.03, 0.04, 0.01, 0.02)[n // 10]
    groups = {f"0-{n}": f"slide{n // 10}" for n in range(40)}
    single, clustered = (compare(between(a, b, groups=g), 0.005) for g in (None, groups))
    assert clustered.groups == 4
    assert clustered.high - clustered.low > 2 * (single.high - single.low)


def test_the_spread_over_groups_is_the_one_of_the_formula():
    rng = np.random.default_rng(5)
    a, b = drawn(rng, 1, 2, 60), drawn(rng, 1, 2, 60)
    data = between(a, b)
    d = data.group_sums
    assert compare(data, 0.005).other_variance == pytest.approx(d.var(ddof=1) / len(d), rel=0.05)


def test_the_test_over_folds_is_nadeau_and_bengios():
    runs = np.array([0.02, 0.03, 0.01, 0.04])
    scores = np.stack([np.diag(runs * 10), np.zeros((4, 4))])
    data = Differences(scores, np.arange(4), np.full(4, 10), np.arange(4), 0.25, alike=False)
    t = runs.mean() / math.sqrt(runs.var(ddof=1) * (1 / 4 + 0.25))
    assert compare(data, 0.005).p_folds == pytest.approx(2 * stats.t.sf(t, 3))


def test_holm_adjusts_as_in_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9]) == [0.9]


def test_more_seeds_are_needed_for_smaller_differences_and_none_suffice_where_groups_are_too_few():
    data = simulated(np.random.default_rng(6), 0.0, groups=200, seeds=3, seed_spread=0.02)
    comparison = compare(data, 0.005)
    many, few = comparison.seeds_needed(0.01), comparison.seeds_needed(0.04)
    assert many > few >= 2
    assert comparison.seeds_needed(0.0001) == math.inf


def test_what_cannot_be_paired_is_refused():
    a = drawn(np.random.default_rng(7), 1, 2)
    with pytest.raises(ValueError, match="no seed and fold in common"):
        between(a, {(0, 9): a[0, 0]})
    b = {key: dict(images) for key, images in a.items()}
    del b[0, 1]["0-3"]
    with pytest.raises(ValueError, match="different images in the same seed and fold"):
        between(a, b)


def simulated(
    rng,
    difference,
    *,
    groups,
    seeds,
    folds=1,
    uneven=False,
    seed_spread=0.006,
    fold_spread=0.0,
    alike=False,
    shaky=False,
):
    """A study of two networks as FACTS has them: images differ by 0.02, their groups by 0.015, runs by seed."""
    sizes = np.full(groups, 5)
    if uneven:
        sizes = rng.multinomial(4 * groups, rng.dirichlet(np.ones(groups))) + 1
    fold_of_group, fold_of_run = np.arange(groups) % folds, np.repeat(np.arange(folds), seeds)

    def network(share):
        """What the seed does to one network, ``share`` of what it does to the difference of two."""
        runs = rng.normal(0, seed_spread * share, folds * seeds)
        return runs[:, None] * sizes + rng.normal(0, 0.01 * share, (len(runs), groups)) * np.sqrt(sizes)

    hardness = rng.normal(0, 0.05, groups) * sizes
    a = sizes * (difference + rng.normal(0, 0.015, groups)) + rng.normal(0, 0.02, groups) * np.sqrt(sizes)
    a = hardness + a + rng.normal(0, fold_spread, folds)[fold_of_run][:, None] * sizes
    b = hardness + np.zeros((folds * seeds, 1))
    if alike:
        together = network(3)  # the seed moves both in the same way, and one of them a little more
        a, b = a + together + network(1), b + together
    elif shaky:  # nearly all of the spread is one network's
        a, b = a + network(1), b + network(0.1)
    else:
        a, b = a + network(math.sqrt(0.5)), b + network(math.sqrt(0.5))
    scores = np.where(fold_of_run[:, None] == fold_of_group, np.stack([a, b]), 0)
    return Differences(scores, fold_of_run, sizes, fold_of_group, 0.25, alike)


SCENARIOS = [
    {"groups": 10, "seeds": 3},
    {"groups": 10, "seeds": 5},
    {"groups": 10, "seeds": 10, "uneven": True},
    {"groups": 6, "seeds": 3},
    {"groups": 30, "seeds": 3},
    {"groups": 12, "seeds": 3, "folds": 5, "uneven": True},
    {"groups": 50, "seeds": 3, "folds": 5},
    {"groups": 50, "seeds": 1, "folds": 5},
    {"groups": 50, "seeds": 3, "folds": 2},
    {"groups": 50, "seeds": 3, "folds": 5, "fold_spread": 0.004},
    {"groups": 50, "seeds": 3, "folds": 2, "fold_spread": 0.004},
    {"groups": 10, "seeds": 3, "seed_spread": 0.02},
    {"groups": 10, "seeds": 3, "seed_spread": 0.0},
    {"groups": 10, "seeds": 3, "alike": True},
    {"groups": 30, "seeds": 5, "alike": True},
    {"groups": 6, "seeds": 3, "alike": True},
    {"groups": 50, "seeds": 2},
    {"groups": 12, "seeds": 2, "folds": 5, "uneven": True},
    {"groups": 30, "seeds": 5, "seed_spread": 0.02, "shaky": True},
    {"groups": 200, "seeds": 3, "seed_spread": 0.02, "shaky": True},
]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SCENARIOS)))
def test_a_thousand_studies_are_judged_as_often_wrongly_as_promised(monkeypatch, number):
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)  # of each of many studies
    margin, scenario, rng = 0.005, SCENARIOS[number], np.random.default_rng(number)
    covered, wrong, power, equivalent = [], [], [], []
    for study in range(1000):
        none, small, edge = (simulated(rng, difference, **scenario) for difference in (0.0, 0.02, margin))
        comparison = compare(none, margin, study)
        covered.append(comparison.low <= 0 <= comparison.high)
        wrong.append(different(comparison))
        if study < 100:  # what is promised less sharply needs fewer
            power.append(different(compare(small, margin, study)))
        if study < 300:
            equivalent.append(compare(edge, margin, study).equivalent)
    rates = [float(np.mean(rate)) for rate in (covered, wrong, power, equivalent)]
    print("covered {:.3f}, different {:.3f}, power at 2 points {:.2f}, falsely equivalent {:.3f}".format(*rates))  # noqa: T201
    assert 0.93 <= rates[0] <= 0.98  # 0.97, but for two folds and two seeds: of so few the spread is hardly known
    assert rates[1] <= 0.06
    assert rates[2] > rates[1]
    assert rates[3] <= 0.06


def different(comparison):
    return comparison.p < 0.05 and (comparison.p_folds is None or comparison.p_folds < 0.05)


def test_every_scenario_is_another():
    assert all(a != b for a, b in itertools.combinations(SCENARIOS, 2))
