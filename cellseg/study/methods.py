"""The methods paragraph of a paper that uses a study."""

from cellseg.metrics import OBJECT_SCORES
from cellseg.storage.errors import count
from cellseg.study.collect import HOLDOUT, Study
from cellseg.study.progress import Progress
from cellseg.study.statistics import LEVEL
from cellseg.study.trouble import collapsed_runs

VERSIONS = ("cellseg", "torch", "lightning")


def describe_methods(study: Study, progress: Progress) -> str:
    """Describe data, split, seeds, test, margin and versions in one paragraph."""
    runs, images = study.trained, study.images
    seeds = ", ".join(map(str, sorted(set(runs["seed"]))))
    sets, networks = sorted(set(study.runs["fold"])), len(study.configurations)
    splits = study.split.get("seed", ["0"])
    split = f"split seed{'s' if len(splits) > 1 else ''} {', '.join(splits)}"
    if len(sets) > 1:
        how = f"into {count(len(sets), 'training set')} with their test images ({split})"
    else:
        how = f"once into training and test images ({split}{'' if sets == [HOLDOUT] else f', fold {sets[0]}'})"
    versions = [f"{name} {' or '.join(study.origin[name])}" for name in VERSIONS if name in study.origin]
    commit = ", ".join(sorted(set(runs["commit"])))
    devices = "; ".join(sorted(set(runs["device"])))
    margin = f"{100 * study.margin:g} points of Dice"
    if study.plans:
        planned = {run for plan in study.plans for run in plan.runs}
        dates = " and ".join(f"{plan.date:%Y-%m-%d}" for plan in study.plans)
        when = (
            f"margin and number of looks ({study.plans[-1].looks}) were fixed on {dates}, before "
            f"{len(planned & set(runs['run']))} of the {count(len(runs), 'run')}"
        )
    else:
        when = "there was no written plan"
    failed = sum(run.failure is not None for run in study.unfinished)
    pairs = study.trained.groupby(["seed", "fold"])["configuration"].nunique()
    lone = int((pairs < len(study.differences)).sum())
    names, level = ", ".join(study.configurations), LEVEL if progress.interim else progress.level
    sentences = [
        f"We compared {count(networks, 'configuration')} ({names}) in {count(len(runs), 'run')}",
        f"{count(images['image'].nunique(), 'test image')} in {count(images['group'].nunique(), 'group')} of related "
        f"images (data fingerprint {study.data_fingerprint[:12]}) were scored; images were divided by group {how}",
        "Dice was computed for each image at a threshold of 0.5, and averaged over the runs of an image and then over "
        "images",
    ]
    if len(runs):
        sentences.insert(
            2,
            f"Training used {'seed' if runs['seed'].nunique() == 1 else 'seeds'} {seeds}; {count(failed, 'run')} "
            f"failed, {count(len(collapsed_runs(study)), 'run')} collapsed, and {count(lone, 'combination')} of seed "
            "and training set lacked a configuration",
        )
    if networks > 1:
        sentences += [
            "Differences of runs paired by seed and training set were analysed with variance components for groups of "
            "images, seeds, their interaction and, with several training sets, the training set (with the correction "
            "of Nadeau and Bengio, or with correlations by overlap where splits were repeated), and quantiles of t or, "
            "with more than two configurations, of the studentized range (Games and Howell); degrees of freedom are "
            "the harmonic mean of Satterthwaite's and of the weighted mean over sources",
            f"Intervals and p values hold for all comparisons in Dice together at a level of {100 * level:.3g} %; "
            f"equivalence was tested by two one-sided tests with a margin of {margin}; {when}",
        ]
        second = [score.label for score in study.per_image if score in OBJECT_SCORES]
        if second:
            sentences.append(
                f"Secondary scores were {', '.join(second)}; their intervals are also adjusted for their number "
                f"(Bonferroni, {100 * level / len(second):.3g} % each)"
            )
    if study.masks:
        sentences.append(
            f"{', '.join(sorted(study.masks))}: masks made elsewhere, scored on the same images; they have no "
            "seeds, and what made them may have seen the images"
        )
    if progress.interim:
        sentences.append(f"This report is {progress.interim}")
    sentences.append(f"Software: {', '.join(versions)}, commit {commit}; {devices}")
    return ". ".join(sentences) + "."
