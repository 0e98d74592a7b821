"""The report of a study: who is paired with whom, what the verdict says, and what is told of what is missing."""

import csv
import json
import re

import numpy as np
import pytest
from omegaconf import OmegaConf
from typer.testing import CliRunner

from cellseg.cli import app
from cellseg.errors import InputError
from cellseg.runs import write_csv, write_json
from cellseg.study.collect import read_study
from cellseg.study.report import write_report
from cellseg.study.verdict import judge


def write_run(study, network, seed, fold, dice, *, fingerprint="f" * 64, leaks=(), lr=0.001, name=None):
    """A finished run as train.py leaves it, with the given Dice of every image."""
    folder = study / (name or f"{network.lower()}_seed-{seed}_fold-{fold}_lr-{lr}")
    folder.mkdir(parents=True)
    config = {
        "seed": seed,
        "study": study.name,
        "margin": 0.005,
        "model": {"name": network},
        "optimizer": {"lr": lr},
        "data": {"split": {"fold": fold}, "seed": seed},
    }
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    rows = [
        {"image": image, "group": image.split("-")[0], "subset": "test", "dice": d, "iou": d / (2 - d), "soft_dice": d}
        for image, d in dice.items()
    ]
    write_csv(folder / "per_image.csv", rows)
    write_csv(folder / "metrics.csv", [{"epoch": 0, "train/loss": 0.1}])
    mean = float(np.mean(list(dice.values())))
    summary = {
        "model": network,
        "seed": seed,
        "metrics": {
            "train/loss": 0.1,
            "test/dice": mean,
            "test/iou": mean,
            "test/loss": 1 - mean,
            "test/dice_pooled": mean,
            "test/iou_pooled": mean,
        },
        "counts": {"epochs": 1, "train": 4 * len(dice), "test": len(dice)},
        "parameters": 100,
        "gflop_per_image": 0.5,
        "seconds": {"train": 2.0},
        "peak_memory_bytes": {"process": 10**8, "device": None},
        "scored_weights": "final",
        "data": {"fingerprint": fingerprint, "leaks": list(leaks)},
        "git_commit": "abcdef1234",
        "git_dirty": False,
        "device": "cpu",
        "precision": "32-true",
    }
    write_json(folder / "summary.json", summary)
    return folder


def images(rng, fold, mean, noise=0.004):
    return {f"slide{fold}{g}-{n}": mean + rng.normal(0, noise) for g in range(4) for n in range(3)}


def write_study(study, means, seeds=3, folds=3, noise=0.004):
    rng = np.random.default_rng(0)
    for network, mean in means.items():
        for seed in range(seeds):
            for fold in range(folds):
                write_run(study, network, seed, fold, images(rng, fold, mean, noise))
    return study


def test_a_difference_that_is_there_is_named_with_its_size_and_interval(tmp_path):
    study = write_study(tmp_path / "s", {"PotiNet": 0.86, "UNet": 0.9, "XopiNet": 0.9})
    verdicts = {(v.a, v.b): v for v in judge(read_study(study))}
    assert re.fullmatch(
        r"PotiNet is worse than UNet by (3\.9|4\.0|4\.1) points \[3\.\d, 4\.\d\]", verdicts["PotiNet", "UNet"].sentence
    )
    assert "UNet and XopiNet are equivalent within 0.5 points" in verdicts["UNet", "XopiNet"].sentence
    assert verdicts["PotiNet", "UNet"].dice.pairs == 9
    assert verdicts["PotiNet", "UNet"].p >= verdicts["PotiNet", "UNet"].dice.p  # Holm over three pairs


def test_noise_shows_no_difference_and_says_what_would(tmp_path):
    study = write_study(tmp_path / "s", {"UNet": 0.9, "XopiNet": 0.901}, noise=0.05)
    [verdict] = judge(read_study(study))
    assert verdict.sentence.startswith("no difference shown between UNet and XopiNet (")
    assert "would show 0.5" in verdict.sentence or "0.5 points would have shown" in verdict.sentence


def test_one_run_each_says_nothing(tmp_path):
    [verdict] = judge(read_study(write_study(tmp_path / "s", {"UNet": 0.9, "XopiNet": 0.8}, seeds=1, folds=1)))
    assert verdict.sentence.startswith("nothing can be said about UNet against XopiNet (+")
    assert "there is one run each" in verdict.sentence


def test_a_pair_that_cannot_be_judged_does_not_spare_the_others_their_adjustment(tmp_path):
    study = write_study(tmp_path / "s", {"UNet": 0.9, "XopiNet": 0.9, "PotiNet": 0.89}, folds=1)
    rng = np.random.default_rng(1)
    write_run(study, "Lone", 0, 0, images(rng, 0, 0.9))
    verdicts = {(v.a, v.b): v for v in judge(read_study(study))}
    assert verdicts["Lone", "UNet"].p is None
    known = [v for v in verdicts.values() if v.p is not None]
    assert len(known) == 3
    smallest = min(known, key=lambda v: v.dice.p)
    assert smallest.p == pytest.approx(min(1, 3 * smallest.dice.p))


def test_what_is_missing_is_listed_and_its_partner_left_out(tmp_path):
    study = write_study(tmp_path / "s", {"UNet": 0.9, "XopiNet": 0.9})
    (study / "xopinet_seed-1_fold-2_lr-0.001" / "summary.json").unlink()
    (study / "xopinet_seed-1_fold-2_lr-0.001" / "train.log").write_text("")
    found = read_study(study)
    assert found.unfinished == ["xopinet_seed-1_fold-2_lr-0.001"]
    [verdict] = judge(found)
    assert verdict.dice.pairs == 8
    write_report(found)
    assert r"not finished, and not counted: xopinet\_seed-1\_fold-2\_lr-0.001" in (study / "report.md").read_text()


def test_the_same_network_with_another_setting_is_another_network(tmp_path):
    rng = np.random.default_rng(0)
    for lr in (0.001, 0.01):
        for seed in range(2):
            write_run(tmp_path / "s", "UNet", seed, None, images(rng, 0, 0.9), lr=lr)
    study = read_study(tmp_path / "s")
    assert study.networks == ["UNet optimizer.lr=0.001", "UNet optimizer.lr=0.01"]
    assert study.differences["UNet optimizer.lr=0.01"] == {"optimizer.lr": 0.01}
    assert set(study.runs["fold"]) == {-1}


def test_the_tables_hold_the_means_that_were_promised(tmp_path):
    study = write_study(tmp_path / "s", {"PotiNet": 0.86, "UNet": 0.9})
    found = read_study(study)
    result = CliRunner().invoke(app, ["report", str(study)])
    assert result.exit_code == 0, result.output
    assert "PotiNet is worse than UNet" in result.output
    with (study / "networks.csv").open(newline="") as file:
        rows = {row["network"]: row for row in csv.DictReader(file)}
    unet = found.images[found.images["network"] == "UNet"]
    assert float(rows["UNet"]["dice"]) == pytest.approx(unet["dice"].mean())  # every image has as many seeds
    means = unet.groupby(["fold", "seed"])["dice"].mean().unstack()
    spread = np.sqrt(((means.sub(means.mean(axis=1), axis=0)) ** 2).to_numpy().sum() / (9 - 3))
    assert float(rows["UNet"]["sd_over_seeds"]) == pytest.approx(spread)
    assert (rows["UNet"]["runs"], rows["UNet"]["images"]) == ("9", "36")
    text = (study / "report.md").read_text()
    assert text.index("PotiNet is worse than UNet") < text.index("## Networks")
    write_report(found)  # again, over its own files
    assert (study / "report.md").read_text() == text


def test_leaks_are_told_first(tmp_path):
    rng = np.random.default_rng(0)
    for seed in range(2):
        write_run(tmp_path / "s", "UNet", seed, None, images(rng, 0, 0.9), leaks=["a and b"])
    sentences = write_report(read_study(tmp_path / "s"))
    assert sentences[0] == "only UNet is there: nothing to compare"
    assert any("these scores are too good" in sentence for sentence in sentences)
    for name in ("report.md", "report.html"):
        text = (tmp_path / "s" / name).read_text()
        assert text.index("these scores are too good") < text.index("Dice, pooled")


def test_names_cannot_break_out_of_the_report(tmp_path):
    rng = np.random.default_rng(0)
    for network in ("<script>", "a|b"):
        for seed in range(2):
            write_run(tmp_path / "s", network, seed, None, images(rng, 0, 0.9), name=f"{len(network)}_{seed}")
    write_report(read_study(tmp_path / "s"))
    tables = (tmp_path / "s" / "report.md").read_text().split("## Networks")[1]
    assert r"\<script\>" in tables
    assert r"a\|b" in tables


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda run: (run / "summary.json").write_text("{"), r"summary\.json: cannot be read .*; move the run away"),
        (lambda run: (run / "per_image.csv").unlink(), r"per_image\.csv: cannot be read"),
        (lambda run: (run / "config.yaml").write_text("a: [b"), r"config\.yaml: cannot be read"),
        (lambda run: (run / "summary.json").write_text(other_data(run)), "was trained on other data than"),
    ],
)
def test_damaged_studies_are_refused_by_name(tmp_path, broken, message):
    study = write_study(tmp_path / "s", {"UNet": 0.9, "XopiNet": 0.9})
    broken(study / "xopinet_seed-1_fold-2_lr-0.001")
    with pytest.raises(InputError, match=message):
        read_study(study)


def other_data(run):
    summary = json.loads((run / "summary.json").read_text())
    return json.dumps(summary | {"data": {"fingerprint": "0" * 64, "leaks": []}})


def test_an_empty_or_missing_study_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere does not exist; name a folder of runs"):
        read_study(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no finished run; train some with study="):
        read_study(tmp_path)
