"""The methods paragraph of a paper that uses a study."""

from cellseg.data.findings import count
from cellseg.study.collect import HOLDOUT, Study
from cellseg.study.progress import Progress
from cellseg.study.statistics import LEVEL

VERSIONS = ("cellseg", "torch", "lightning")


def describe_methods(study: Study, progress: Progress) -> str:
    """Describe data, split, seeds, test, margin and versions in one paragraph."""
    runs, images = study.runs, study.images
    seeds = ", ".join(map(str, sorted(set(runs["seed"]))))
    sets, networks = sorted(set(runs["fold"])), len(study.configurations)
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
        plan = study.plans[-1]
        when = f"margin, runs and number of looks ({plan.looks}) were fixed on {plan.date:%Y-%m-%d}, before these runs"
    else:
        when = "there was no written plan"
    names, level = ", ".join(study.configurations), LEVEL if progress.interim else progress.level
    sentences = [
        f"We compared {count(networks, 'configuration')} ({names}) in {count(len(runs), 'run')}",
        f"{count(images['image'].nunique(), 'test image')} in {count(images['group'].nunique(), 'group')} of related "
        "images "
        f"(data fingerprint {study.data_fingerprint[:12]}) were scored; images were divided by group {how}",
        f"Each training set was used with {'seed' if runs['seed'].nunique() == 1 else 'seeds'} {seeds}",
        "Dice was computed for each image at a threshold of 0.5, and averaged over the runs of an image and then over "
        "images",
    ]
    if networks > 1:
        sentences += [
            "Differences of runs paired by seed and training set were analysed with variance components for groups of "
            "images, seeds, their interaction and, with several training sets, the training set (with the correction "
            "of Nadeau and Bengio, or with correlations by overlap where splits were repeated), and t quantiles with "
            "Satterthwaite's degrees of freedom",
            f"Intervals and p values hold for all comparisons of the study together (Games and Howell) at a level of "
            f"{100 * level:.3g} %; equivalence was tested by two one-sided tests with a "
            f"margin of {margin}; {when}",
        ]
    if progress.interim:
        sentences.append(f"This report is {progress.interim}")
    sentences.append(f"Software: {', '.join(versions)}, commit {commit}; {devices}")
    return ". ".join(sentences) + "."
