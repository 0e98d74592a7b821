"""Verdicts: when there is one, what it says, and what takes it back."""

import math
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cellseg.metrics import OBJECT_SCORES, SCORES
from cellseg.run.plan import Look, Plan, plan_study, read_plans
from cellseg.storage.errors import InputError
from cellseg.study.collect import Study, Unfinished
from cellseg.study.progress import find_progress
from cellseg.study.statistics import Differences, compare
from cellseg.study.trouble import find_trouble, missing_runs
from cellseg.study.verdict import DIFFERENT, EQUIVALENT, UNDECIDED, UNKNOWN, caveats, judge, say

DATE = datetime(2026, 1, 1, tzinfo=UTC)


def study_of(scores, *, plans=(), looks=(), unfinished=(), baseline=None, margin=0.005, losses=None):
    """A study in memory from {configuration: {(fold, seed): Dice of each image}}; an image is its own group."""
    runs, images, baselines = [], [], []
    for name, by_run in scores.items():
        for (fold, seed), dice in by_run.items():
            key = {"configuration": name, "seed": seed, "fold": fold}
            runs.append(key | {"run": f"{name}-{seed}-{fold}", "dice": float(np.mean(dice)), "network": name})
            each = [key | {"image": f"{fold}-{n}", "group": f"{fold}-{n}"} for n in range(len(dice))]
            images += [row | {"dice": d, "iou": d, "soft_dice": d} for row, d in zip(each, dice, strict=True)]
            if baseline is not None:
                baselines += [row | {"baseline": "all cell", "dice": baseline} for row in each]
    frame = pd.DataFrame(runs).assign(
        leaks=0,
        device="cpu",
        precision="32-true",
        scored_weights="final",
        resize="whole",
        side=16,
        masks=None,
        scored_on=None,
        fitted=False,
    )
    study = Study(
        folder=Path("s"),
        scores=list(SCORES),
        runs=frame,
        images=pd.DataFrame(images),
        baselines=pd.DataFrame(baselines, columns=["configuration", "seed", "fold", "baseline", "image", "dice"]),
        unfinished=list(unfinished),
        plans=list(plans),
        looks=list(looks),
        repeated=[],
        differences={name: {} for name in scores},
        margins=[margin],
        test_share=0.25,
        data_fingerprint="f" * 64,
        split={"seed": ["0"]},
        origin={},
    )
    epochs = losses or [1.0, 0.2, 0.1, 0.1]
    study.__dict__["curves"] = pd.concat(
        [pd.DataFrame({"epoch": range(len(epochs)), "train/loss": epochs, **key}) for key in runs], ignore_index=True
    )
    return study


def scores_of(rng, means, seeds=3, folds=("0", "1", "2"), noise=0.004, images=8):
    return {
        name: {(fold, seed): mean + rng.normal(0, noise, images) for fold in folds for seed in range(seeds)}
        for name, mean in means.items()
    }


def plan_of(runs, looks=1, margin=0.005):
    return Plan(date=DATE, looks=looks, margin=margin, grid={}, fixed=[], runs=list(runs))


def look_of(plan, look, runs, margin=0.005, level=0.05):
    return Look(date=DATE, plan=plan, look=look, runs=runs, margin=margin, level=level)


def names_of(scores):
    return [f"{name}-{seed}-{fold}" for name, by_run in scores.items() for fold, seed in by_run]


@pytest.fixture
def clear():
    """Scores of two networks of which the first is far better."""
    return scores_of(np.random.default_rng(0), {"A": 0.9, "B": 0.8})


def test_before_the_plan_is_complete_there_are_intervals_and_no_verdict(clear):
    planned = [*names_of(clear), "A-3-0", "B-3-0"]
    [verdict] = judge(study_of(clear, plans=[plan_of(planned)]))
    assert verdict.kind == UNKNOWN
    assert re.match(r"interim: 18 of 20 runs; no verdict yet on A and B \(\+10\.\d points \[9", verdict.sentence)
    ended = [Unfinished(run, run[0], (3, "0"), "exit code 1: memory ran out") for run in ("A-3-0", "B-3-0")]
    [verdict] = judge(study_of(clear, plans=[plan_of(planned)], unfinished=ended))
    assert verdict.kind == DIFFERENT


def test_looks_that_were_planned_share_the_level(clear):
    planned = [*names_of(clear), *(f"{name}-{seed}-9" for name in "AB" for seed in range(9))]  # 18 of 36 are there
    study = study_of(clear, plans=[plan_of(planned, looks=2)])
    first = find_progress(study)
    assert (first.interim, first.look.look, first.level) == (None, 1, pytest.approx(0.05 / 4))
    assert any(caveat.startswith("look 1 of 2") for caveat in caveats(study))
    seen = [look_of(1, 1, 18, level=0.05 / 4)]
    assert find_progress(study_of(clear, plans=[plan_of(planned, looks=2)], looks=seen)).level == 0.05 / 4  # the same
    more = scores_of(np.random.default_rng(0), {"A": 0.9, "B": 0.8}, folds=("0", "1", "2", "3"))
    planned = [*names_of(more), *(f"{name}-{seed}-9" for name in "AB" for seed in range(6))]  # 24 of 36
    assert find_progress(study_of(more, plans=[plan_of(planned, looks=2)], looks=seen)).interim == (
        "interim: 24 of 36 runs"
    )
    last = find_progress(study_of(more, plans=[plan_of(names_of(more), looks=2)], looks=seen))
    assert (last.look.look, last.level) == (2, pytest.approx(0.05 * 3 / 4))


def test_an_extension_after_a_verdict_says_how_far_the_error_may_have_grown(clear):
    more = clear | scores_of(np.random.default_rng(1), {"C": 0.7})
    longer = scores_of(np.random.default_rng(2), {"A": 0.9, "B": 0.8}, seeds=5)
    later = [name for name in names_of(longer) if name not in names_of(clear)]
    plans, looks = [plan_of(names_of(clear)), plan_of(later)], [look_of(1, 1, 18)]
    [verdict] = judge(study_of(longer, plans=plans, looks=looks))
    assert verdict.kind == DIFFERENT
    assert verdict.sentence.endswith(
        "an extension: runs were added after a verdict, so the probability of a false difference is up to 10 %"
    )
    assert "extension" not in judge(study_of(longer, plans=plans))[0].sentence  # nobody had looked
    plans = [plan_of(names_of(clear)), plan_of([name for name in names_of(more) if name[0] == "C"])]
    verdicts = {(v.a, v.b): v.sentence for v in judge(study_of(more, plans=plans, looks=looks))}
    assert "extension" not in verdicts["A", "B"]  # it has no new run
    assert "extension" in verdicts["A", "C"]


def test_a_margin_changed_after_a_look_is_reported(clear):
    told = caveats(study_of(clear, plans=[plan_of(names_of(clear), margin=0.02)], looks=[look_of(1, 1, 18)]))
    assert any("the margin was changed after a verdict: it was 0.5 points and is now 2" in caveat for caveat in told)


def test_runs_put_together_by_hand_get_a_verdict_with_that_caveat(clear):
    study = study_of(clear)
    assert judge(study)[0].kind == DIFFERENT
    assert any("no plan.yaml" in caveat for caveat in caveats(study))
    study = study_of(clear, plans=[plan_of(names_of(clear)[1:])])
    assert any(caveat == "1 run that no sweep planned (in no plan.yaml): A-0-0" for caveat in caveats(study))


def test_reports_without_a_plan_while_runs_are_added_are_counted(clear):
    told = caveats(study_of(clear, looks=[look_of(0, 0, 6), look_of(0, 0, 12)]))
    assert any(caveat.startswith("2 reports gave verdicts") and "up to 15 %" in caveat for caveat in told)


def test_a_plan_keeps_its_margin_and_an_extension_gets_a_second_file(tmp_path):
    def plan(*runs, margin=0.005, looks=1):
        plan_study(tmp_path, runs, {"seed": ["0", "1"]}, ["study=s"], margin, looks)

    plan("a", "b")
    plan("b", "a")  # the same sweep again
    plan("a")
    assert [found.runs for found in read_plans(tmp_path)] == [["a", "b"]]
    with pytest.raises(InputError, match=r"plan.yaml was written with margin=0.005 .* add margin=0.005"):
        plan("a", "c", margin=0.01)
    with pytest.raises(InputError, match="looks=1"):
        plan("a", "c", looks=3)
    plan("a", "c")
    assert [found.runs for found in read_plans(tmp_path)] == [["a", "b"], ["c"]]
    (tmp_path / "plan-2.yaml").write_text("looks: 0\n")
    with pytest.raises(
        InputError, match=r"plan-2.yaml: cannot be read as the plan of a study \(date: Field required\)"
    ):
        read_plans(tmp_path)


def test_collapsed_failed_and_diverged_runs_are_counted_with_an_exact_interval(clear):
    clear["A"]["0", 1] = clear["A"]["0", 1] - 0.3
    failed = [
        Unfinished("A-3-0", "A", (3, "0"), "exit code 1: the output is NaN or infinite; training diverged; lower"),
        Unfinished("A-4-0", "A", (4, "0"), "killed by SIGKILL"),
        Unfinished("A-5-0", "A", (5, "0"), None),
    ]
    a, b = find_trouble(study_of(clear, unfinished=failed))
    assert (a.runs, a.failed, a.diverged, a.collapsed) == (11, 2, 1, 1)
    assert (a.low, a.high) == pytest.approx((0.0602, 0.6097), abs=1e-3)  # Clopper and Pearson, 3 of 11
    assert (b.runs, b.failed, b.collapsed, b.low) == (9, 0, 0, 0)


def test_a_run_not_above_the_baseline_has_collapsed_unless_the_network_never_learned(clear):
    low = {key: dice - 0.05 for key, dice in clear["B"].items()}
    low["0", 0] = low["0", 0] - 0.08
    found = find_trouble(study_of({"A": clear["A"], "B": low}, baseline=0.7))
    assert [trouble.collapsed for trouble in found] == [0, 1]
    assert [trouble.collapsed for trouble in find_trouble(study_of(clear, baseline=0.95))] == [0, 0]


def test_networks_that_did_not_learn_get_no_verdict(clear):
    study = study_of(clear, baseline=0.95)
    [verdict] = judge(study)
    assert verdict.kind == UNKNOWN
    assert verdict.sentence.endswith("neither beats a prediction that ignores the image")
    assert sum("does not beat a prediction that ignores the image" in caveat for caveat in caveats(study)) == 2
    assert judge(study_of(clear, baseline=0.85))[0].kind == DIFFERENT  # one of them did


def test_training_that_ended_too_early_is_a_caveat(clear):
    def told(losses):
        return [caveat for caveat in caveats(study_of(clear, losses=losses)) if "still improving" in caveat]

    assert len(told([0.9, 0.8])) == 2
    assert len(told([1.0, 0.8, 0.6, 0.4])) == 2
    assert told([1.0, 0.5, 0.3, 0.28, 0.27]) == []


def test_runs_that_one_network_lacks_take_the_verdict_back_if_they_could_reverse_it():
    scores = scores_of(np.random.default_rng(3), {"A": 0.91, "B": 0.9}, seeds=10, folds=("0",), noise=0.002)
    planned = names_of(scores)
    kept = {"A": {key: dice for key, dice in scores["A"].items() if key[1] > 1}, "B": scores["B"]}
    assert judge(study_of(scores, plans=[plan_of(planned)]))[0].kind == DIFFERENT
    failed = [Unfinished(f"A-{seed}-0", "A", key, "training diverged") for seed, key in ((0, (0, "0")), (1, None))]
    for study in (study_of(kept, plans=[plan_of(planned)], unfinished=failed), study_of(kept)):
        [verdict] = judge(study)
        assert verdict.kind == UNKNOWN
        assert (
            "A lacks 2 runs and B none; if these had a Dice of 0 or of 1, the difference would be" in verdict.sentence
        )
        assert re.search(r"from -17\.\d to \+2\.\d points", verdict.sentence)
    far = {"A": {key: dice - 0.5 for key, dice in kept["A"].items()}, "B": scores["B"]}
    assert judge(study_of(far))[0].kind == DIFFERENT  # no score of two runs could reverse it


def test_a_network_with_fewer_seeds_by_hand_lacks_none_and_equal_numbers_of_other_runs_are_bounded():
    scores = scores_of(np.random.default_rng(3), {"A": 0.91, "B": 0.9}, seeds=9, folds=("0",), noise=0.002)
    fewer = {"A": scores["A"], "B": {key: dice for key, dice in scores["B"].items() if key[1] < 4}}
    assert judge(study_of(fewer))[0].kind == DIFFERENT
    apart = {
        "A": {key: dice for key, dice in scores["A"].items() if key[1] != 2},
        "B": {key: dice for key, dice in scores["B"].items() if key[1] != 3},
    }
    assert "A lacks 1 run and B 1" in judge(study_of(apart))[0].sentence


def test_a_study_that_was_ended_early_gets_verdicts_and_says_so(clear):
    plan = plan_of([*names_of(clear), "A-3-0", "B-3-0"]).model_copy(update={"ended": DATE})
    study = study_of(clear, plans=[plan])
    assert judge(study)[0].kind == DIFFERENT
    assert any(caveat.startswith("the study was ended after 18 of 20 planned runs") for caveat in caveats(study))


def test_a_verdict_before_the_first_plan_counts(clear):
    longer = scores_of(np.random.default_rng(2), {"A": 0.9, "B": 0.8}, seeds=5)
    later = [name for name in names_of(longer) if name not in names_of(clear)]
    [verdict] = judge(study_of(longer, plans=[plan_of(later)], looks=[look_of(0, 0, 18)]))
    assert "an extension" in verdict.sentence


def test_failures_after_a_look_make_the_last_one(clear):
    planned = [*names_of(clear), *(f"{name}-{seed}-9" for name in "AB" for seed in range(9))]
    failed = [Unfinished(run, run[0], (int(run[2]), "9"), "memory ran out") for run in planned[18:]]
    study = study_of(
        clear, plans=[plan_of(planned, looks=2)], looks=[look_of(1, 1, 18, level=0.0125)], unfinished=failed
    )
    found = find_progress(study)
    assert (found.look.look, found.level) == (2, pytest.approx(0.0375))


def test_a_collapsed_run_takes_equivalence_back_and_the_median_is_named(clear):
    scores = scores_of(np.random.default_rng(4), {"A": 0.9, "B": 0.9}, seeds=10, folds=("0",), noise=0.001)
    assert judge(study_of(scores))[0].kind == EQUIVALENT
    scores["A"]["0", 3] = scores["A"]["0", 3] - 0.2
    [verdict] = judge(study_of(scores, margin=0.2))
    assert verdict.kind == UNKNOWN
    assert "1 of 10 runs of A collapsed" in verdict.sentence
    assert "the median of pairs of runs is" in verdict.sentence


def test_the_scope_of_a_verdict_is_in_its_sentence(clear):
    one = {name: {key: dice for key, dice in by_run.items() if key[0] == "0"} for name, by_run in clear.items()}
    assert judge(study_of(one))[0].sentence.endswith(", on this one training set")
    assert judge(study_of(clear))[0].sentence.endswith(", if folds were independent")
    again = study_of(clear)
    again.images["image"] = again.images["image"].str.slice(2)  # every training set tests the same images
    again.images["group"] = again.images["image"]
    sentence = judge(again)[0].sentence
    assert "training set" not in sentence
    assert "folds" not in sentence


def test_masks_of_two_tools_depend_on_no_training_set(clear):
    study = study_of({name: {key: dice for key, dice in runs.items() if key[0] == "0"} for name, runs in clear.items()})
    study.runs["masks"] = study.runs["configuration"]
    [verdict] = judge(study)
    assert verdict.kind == DIFFERENT
    assert "training set" not in verdict.sentence


def test_outlines_are_not_compared_across_image_sizes(clear):
    def second(sides):
        study = study_of(clear)
        study.images["boundary_dice"] = study.images["dice"]
        study.scores.append(next(score for score in OBJECT_SCORES if score.name == "boundary_dice"))
        study.runs["side"] = study.runs["configuration"].map(sides)
        return judge(study)[0].second

    assert "boundary Dice: A is better" in second({"A": 64, "B": 64})
    assert second({"A": 64, "B": 128}) == ""


def test_advice_is_about_seeds_where_most_of_the_variation_is_between_seeds():
    scores = {name: {("0", seed): np.full(8, 0.8) for seed in range(2)} for name in "AB"}
    rng = np.random.default_rng(0)
    for (_, seed), dice in scores["A"].items():
        dice += rng.normal(0, 0.001, 8) + 0.09 * seed
    sentence = judge(study_of(scores))[0].sentence
    assert "most of the variation is between seeds" in sentence


def test_masks_and_runs_repeated_elsewhere_are_not_missing(clear):
    failed = Unfinished("A-0-0-again", "A", (0, "0"), "killed by SIGKILL")
    study = study_of(clear, unfinished=[failed], plans=[plan_of(names_of(clear))])
    assert missing_runs(study, "A") == []
    uneven = {"A": clear["A"], "B": {key: dice for key, dice in clear["B"].items() if key != ("0", 0)}}
    assert missing_runs(study_of(uneven), "B") == [(0, "0")]
    masks = study_of(uneven)
    masks.runs.loc[masks.runs["configuration"] == "B", "masks"] = "B"
    assert missing_runs(masks, "B") == []


def comparison_of(mean, spread, **options):
    rng = np.random.default_rng(1)
    parts = (mean + spread * stats_normal(rng, (1, 20))) / 20
    return compare(
        Differences(
            np.stack([parts + rng.normal(0, 1e-6, (3, 20)), np.zeros((3, 20))]),
            np.zeros(3, int),
            np.full((1, 20), 1 / 20),
            np.ones((1, 1)),
            20,
            0.25,
            alike=True,
        ),
        **options,
    )


def stats_normal(rng, shape):
    values = rng.normal(0, 1, shape)
    return (values - values.mean()) / values.std()


def test_a_printed_interval_never_contradicts_its_sentence():
    rng, kinds = np.random.default_rng(5), set()
    for _ in range(300):
        margin = float(rng.choice([0.005, 0.01]))
        spread = 10 ** rng.uniform(-4.5, -1)
        edge = float(rng.choice([0.0, margin, -margin])) + spread * rng.choice([1, -1]) * rng.normal(0.47, 0.01)
        comparison = comparison_of(edge, spread, margin=margin)
        kind, sentence = say("A", "B", comparison, margin)
        kinds.add(kind)
        [low, high] = map(float, re.search(r"\[(-?[\d.]+), (-?[\d.]+)\]", sentence).groups())
        if kind == DIFFERENT:
            for ends in re.findall(r"\[(-?[\d.]+), (-?[\d.]+)\]", sentence):  # the inner interval too
                assert 0 < float(ends[0]) < float(ends[1]) or ends[0] == ends[1], sentence
        elif kind == EQUIVALENT:
            assert -100 * margin <= low <= high <= 100 * margin, sentence
        else:
            assert low <= 0 <= high, sentence
        assert "-0.0]" not in sentence
    assert kinds == {DIFFERENT, EQUIVALENT, UNDECIDED}


def test_where_the_inner_interval_decides_it_is_printed():
    _, sentence = say("A", "B", comparison_of(0.001, 0.008, margin=0.005), 0.005)
    assert re.fullmatch(
        r"A and B are equivalent within 0\.5 points \(\+0\.1 points, 90 % interval \[-0\.2, 0\.4\d*\]\), "
        "on this one training set",
        sentence,
    )


def test_a_margin_of_zero_has_no_equivalence_and_no_advice_on_seeds():
    kind, sentence = say("A", "B", comparison_of(0.001, 0.008, margin=0.0), 0.0)
    assert kind == UNDECIDED
    assert "power" not in sentence
    assert comparison_of(0.001, 0.008, margin=0.0).seeds_needed(0.0) is None


def unlike(rng, collapse=0.0, seeds=3, groups=10, points=0.0):
    """Two networks, of which the first may collapse; it is better otherwise, so that the means are equal."""
    hard = rng.normal(0, 0.03, groups)
    own = rng.normal(0, 0.004, (2, groups))
    found = {}
    for index, name in enumerate("AB"):
        by_run = {}
        for seed in range(seeds):
            dice = 0.85 + hard + own[index] + rng.normal(0, 0.003) + rng.normal(0, 0.003, groups)
            if name == "A":
                dice = dice + points / 100 + collapse * 0.2 - (0.2 if rng.random() < collapse else 0.0)
            by_run["0", seed] = dice
        found[name] = by_run
    return found


@pytest.mark.slow
def test_missing_and_collapsed_runs_lead_to_fewer_false_verdicts():
    rng, rows = np.random.default_rng(6), {"lowest missing": [], "diverged": [], "collapse 3": [], "collapse 10": []}
    for _ in range(30):
        scores = unlike(rng, seeds=10)
        means = {key: dice.mean() for key, dice in scores["A"].items()}
        lowest = sorted(means, key=means.get)[:2]
        kept = {"A": {key: dice for key, dice in scores["A"].items() if key not in lowest}, "B": scores["B"]}
        rows["lowest missing"].append(judge(study_of(kept))[0].kind)
        failed = [Unfinished(f"A-{key[1]}-0", "A", (key[1], "0"), "training diverged") for key in lowest]
        planned = [plan_of([*names_of(kept), *(run.run for run in failed)])]
        rows["diverged"].append(judge(study_of(kept, plans=planned, unfinished=failed))[0].kind)
        for seeds in (3, 10):
            rows[f"collapse {seeds}"].append(judge(study_of(unlike(rng, 0.1, seeds)))[0].kind)
    share = {name: {kind: kinds.count(kind) / len(kinds) for kind in set(kinds)} for name, kinds in rows.items()}
    print(share)  # noqa: T201
    assert share["lowest missing"].get(DIFFERENT, 0) + share["diverged"].get(DIFFERENT, 0) == 0
    for seeds in (3, 10):  # no statistics can see a collapse that did not happen
        assert share[f"collapse {seeds}"].get(DIFFERENT, 0) <= 0.9**seeds + 0.15
    assert not math.isnan(share["collapse 10"].get(EQUIVALENT, 0))
