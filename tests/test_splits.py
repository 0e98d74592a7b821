import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellseg.data.splits import SplitPlan
from cellseg.storage.errors import InputError

SINGLES = {f"cell_{n}": f"cell_{n}" for n in range(1, 51)}
SIBLINGS = {f"tile_{n}": f"slide_{n // 4}" for n in range(48)}

group_maps = st.lists(st.integers(1, 5), min_size=8, max_size=20).map(
    lambda sizes: {f"{group}-{n}": f"g{group}" for group, size in enumerate(sizes) for n in range(size)}
)


@given(group_maps, st.integers(0, 99), st.sampled_from([None, 0, 3]), st.sampled_from([0.0, 0.25]))
def test_split_is_disjoint_complete_and_keeps_siblings_together(groups, seed, fold, val_fraction):
    subsets = SplitPlan(seed=seed, fold=fold, test_fraction=0.25, val_fraction=val_fraction).divide(groups)
    assert sorted(name for names in subsets.values() for name in names) == sorted(groups)
    sides = {subset: {groups[name] for name in names} for subset, names in subsets.items()}
    assert not sides["train"] & sides["test"]
    assert not sides["train"] & sides["val"]
    assert not sides["val"] & sides["test"]
    assert subsets["train"]
    assert subsets["test"]
    assert bool(subsets["val"]) == bool(val_fraction)


def test_holdout_of_fifty_single_images_is_40_and_10():
    subsets = SplitPlan().divide(SINGLES)
    assert {subset: len(names) for subset, names in subsets.items()} == {"train": 40, "val": 0, "test": 10}


def test_split_does_not_depend_on_the_order_of_files():
    backwards = dict(reversed(SIBLINGS.items()))
    for plan in (SplitPlan(), SplitPlan(fold=1), SplitPlan(val_fraction=0.2)):
        first, second = plan.divide(SIBLINGS), plan.divide(backwards)
        assert {subset: set(names) for subset, names in first.items()} == {s: set(n) for s, n in second.items()}


def test_split_is_the_same_on_every_machine_and_version():
    """Written down once: a change here silently moves test images of every published run into training."""
    assert SplitPlan().divide(SINGLES)["test"] == [f"cell_{n}" for n in (3, 13, 15, 23, 24, 30, 35, 37, 39, 50)]


@pytest.mark.parametrize(("sizes", "tested"), [((5, 5, 5, 5), 5), ((1, 12, 12, 12, 13), 13), ((3, 3), 3)])
def test_a_holdout_of_large_groups_comes_as_close_as_whole_groups_can(sizes, tested):
    groups = {f"{group}-{n}": f"g{group}" for group, size in enumerate(sizes) for n in range(size)}
    assert len(SplitPlan().divide(groups)["test"]) == tested


def test_the_record_says_how_many_folds_there_were():
    assert SplitPlan(fold=2).record()["folds"] == 5
    assert SplitPlan().record()["folds"] is None


def test_another_split_seed_gives_another_split_and_0_is_a_seed():
    tests = {tuple(SplitPlan(seed=seed).divide(SINGLES)["test"]) for seed in range(5)}
    assert len(tests) == 5


@pytest.mark.parametrize("groups", [SINGLES, SIBLINGS])
def test_folds_partition_the_images_evenly(groups):
    folds = [SplitPlan(folds=5, fold=fold).divide(groups)["test"] for fold in range(5)]
    assert sorted(name for fold in folds for name in fold) == sorted(groups)
    assert max(map(len, folds)) - min(map(len, folds)) <= 4


def test_fold_alone_counts_in_folds_of_the_test_fraction():
    assert SplitPlan(fold=2).divide(SINGLES) == SplitPlan(folds=5, fold=2).divide(SINGLES)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"folds": 10}, r"data\.split\.folds=10 needs data\.split\.fold.* from 0 to 9"),
        ({"folds": 5, "fold": 5}, r"data\.split\.fold must lie between 0 and 4 for 5 folds, but is 5"),
        ({"fold": -1}, r"data\.split\.fold must lie between 0 and 4"),
        ({"folds": 1, "fold": 0}, r"data\.split\.folds must be at least 2"),
        ({"fold": 1.5}, r"data\.split\.fold must be a whole number, but is 1\.5"),
        ({"seed": True}, r"data\.split\.seed must be a whole number, but is True"),
        ({"test_fraction": 1.0}, r"data\.split\.test_fraction must lie between 0 and 1"),
        ({"val_fraction": -0.1}, r"data\.split\.val_fraction must be at least 0"),
    ],
)
def test_contradicting_plans_are_refused(plan, message):
    with pytest.raises(InputError, match=message):
        SplitPlan(**plan)


@pytest.mark.parametrize(
    ("plan", "groups", "message"),
    [
        (
            {"folds": 10, "fold": 0},
            {f"c{n}": f"c{n}" for n in range(5)},
            "needs at least 10 groups, but 5 images form 5",
        ),
        (
            {"folds": 3, "fold": 0},
            {f"c{n}": f"g{n // 3}" for n in range(6)},
            "needs at least 3 groups, but 6 images form 2",
        ),
        ({}, {f"c{n}": "all" if n < 9 else "rest" for n in range(10)}, "group all has 9 of 10 images, more than the 8"),
        ({"folds": 2, "fold": 0}, {f"c{n}": f"g{n // 9}" for n in range(10)}, "group g0 has 9 of 10 images"),
        ({}, {"only": "only"}, "leaves 0 for test and 1 for training"),
        ({}, {}, "leaves 0 for test and 0 for training"),
        ({"val_fraction": 0.1}, {f"c{n}": f"c{n}" for n in range(5)}, "leaves 0 for val and 4 for training"),
    ],
)
def test_impossible_splits_say_what_is_in_the_way(plan, groups, message):
    with pytest.raises(InputError, match=message):
        SplitPlan(**plan).divide(groups)
