"""The report of a study: pairing of runs, verdicts, and the lists of missing runs."""

import base64
import csv
import io
import itertools
import json
import re
import shutil
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf
from PIL import Image
from typer.testing import CliRunner

from cellseg.cli import app
from cellseg.data.drawing import FALSE, RIGHT
from cellseg.run.folder import SCHEMA, Counts, DataFacts, PeakMemory, Prediction, Summary, write_prediction
from cellseg.run.plan import plan_study, read_looks, read_plans
from cellseg.storage.csv_files import write_csv
from cellseg.storage.errors import InputError
from cellseg.study.collect import read_study
from cellseg.study.figures import INK
from cellseg.study.gallery import make_gallery
from cellseg.study.report import assemble, write_report
from cellseg.study.tables import image_rows
from cellseg.study.trouble import missing_runs
from cellseg.study.verdict import UNDECIDED, caveats, judge

pytestmark = pytest.mark.xdist_group("report")  # one process: they share studies


def write_run(
    study, network, seed, fold, dice, *, fingerprint="f" * 64, leaks=(), lr=0.001, name=None, side=16, epochs=3, **more
):
    """A finished run as train.py leaves it, with the given Dice of every image; ``more`` joins its configuration."""
    folder = study / (name or f"{network.lower()}_seed-{seed}_fold-{fold}_lr-{lr}")
    folder.mkdir(parents=True)
    config = {
        "seed": seed,
        "study": study.name,
        "margin": 0.005,
        "model": {"name": network},
        "optimizer": {"lr": lr},
        "data": {"split": {"fold": fold}, "seed": seed, "image_size": side, "mask_threshold": 20},
    }
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config | more))
    rows = [
        {"image": image, "group": image.split("-")[0], "subset": "test", "dice": d, "iou": d / (2 - d), "soft_dice": d}
        for image, d in dice.items()
    ]
    write_csv(folder / "per_image.csv", rows)
    losses = [
        {"epoch": epoch, "train/loss": 0.5 / (epoch + 1), "val/dice": 0.8, "val/loss": 0.2} for epoch in range(epochs)
    ]
    write_csv(folder / "metrics.csv", losses)
    truth = np.arange(side)[:, None] + np.arange(side) > side
    mask = np.random.default_rng(seed).random((side, side)) > 0.5
    for image in dice:
        write_prediction(folder, image, Prediction(np.full((side, side, 3), 200, np.uint8), truth, mask))
    mean = float(np.mean(list(dice.values())))
    summary = summary_of(
        network, seed, mean, counts=Counts(train=4 * len(dice), val=0, test=len(dice), epochs=1, steps=9)
    )
    data = summary.data.model_copy(update={"fingerprint": fingerprint, "leaks": list(leaks)})
    summary.model_copy(update={"data": data}).write(folder / "summary.json")
    return folder


def summary_of(network, seed, mean, counts):
    scores = ("dice", "iou", "soft_dice", "dice_pooled", "iou_pooled")
    return Summary(
        schema_version=SCHEMA,
        status="finished",
        model=network,
        seed=seed,
        command=None,
        date=datetime(2026, 1, 1, tzinfo=UTC),
        metrics={"train/loss": 0.1, "test/loss": 1 - mean} | {f"test/{score}": mean for score in scores},
        averaging={},
        spread_over_test_images={},
        scored_weights="final",
        validation="none",
        counts=counts,
        seconds={"train": 2.0},
        peak_memory_bytes=PeakMemory(process=10**8, device=None),
        parameters=100,
        gflop_per_image=0.5,
        device="cpu",
        devices=1,
        precision="32-true",
        data=DataFacts(root="x", fingerprint="f" * 64, typical_size=(9, 9), allow_leaks=False, leaks=[]),
        versions={},
        platform="linux",
        git_commit="abcdef1234",
        git_dirty=False,
    )


def images(rng, fold, mean, noise=0.004):
    return {f"slide{fold}{g}-{n}": min(1.0, mean + rng.normal(0, noise)) for g in range(4) for n in range(3)}


def write_study(study, means, seeds=3, folds=3, noise=0.004, **more):
    rng = np.random.default_rng(0)
    for network, mean in means.items():
        for seed in range(seeds):
            for fold in range(folds):
                write_run(study, network, seed, fold, images(rng, fold, mean, noise), **more)
    return study


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A study of three networks with its report, which tests must not change, and what the report shows."""
    study = write_study(tmp_path_factory.mktemp("three") / "s", {"PotiNet": 0.86, "UNet": 0.9, "XopiNet": 0.9})
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cellseg.study.report.assemble", lambda *of: made.append(assemble(*of)) or made[0])
        write_report(read_study(study))
    return study, made[0], Page((study / "report.html").read_text())


def test_a_difference_that_is_there_is_named_with_its_size_and_interval(three):
    verdicts = {(v.a, v.b): v for v in judge(read_study(three[0]))}
    assert re.fullmatch(
        r"PotiNet is worse than UNet by (3\.9|4\.0|4\.1) points \[3\.\d, 4\.\d\], if folds were independent",
        verdicts["PotiNet", "UNet"].sentence,
    )
    assert "UNet and XopiNet are equivalent within 0.5 points" in verdicts["UNet", "XopiNet"].sentence
    assert verdicts["PotiNet", "UNet"].dice.pairs == 9
    assert verdicts["PotiNet", "UNet"].dice.networks == 3


def test_noise_shows_no_difference_and_says_what_would(tmp_path):
    study = write_study(tmp_path / "s", {"UNet": 0.9, "XopiNet": 0.901}, noise=0.05)
    [verdict] = judge(read_study(study))
    assert verdict.sentence.startswith("no difference shown between UNet and XopiNet (")
    assert "to show a difference of 0.5 points" in verdict.sentence


def test_one_run_each_says_nothing(tmp_path):
    [verdict] = judge(read_study(write_study(tmp_path / "s", {"UNet": 0.9, "XopiNet": 0.8}, seeds=1, folds=1)))
    assert verdict.sentence.startswith("no verdict on UNet and XopiNet (+")
    assert "there is only one run of each" in verdict.sentence


def test_a_pair_that_cannot_be_judged_does_not_count_in_the_adjustment_of_the_others(tmp_path):
    study = write_study(tmp_path / "s", {"UNet": 0.9, "XopiNet": 0.9, "PotiNet": 0.89}, folds=1)
    rng = np.random.default_rng(1)
    write_run(study, "Lone", 0, 0, images(rng, 0, 0.9))
    verdicts = {(v.a, v.b): v for v in judge(read_study(study))}
    assert verdicts["Lone", "UNet"].dice.p is None
    known = [v.dice for v in verdicts.values() if v.dice.p is not None]
    assert [comparison.networks for comparison in known] == [3, 3, 3]


def test_what_is_missing_is_listed_and_its_partner_left_out(tmp_path):
    study = write_study(tmp_path / "s", {"UNet": 0.9, "XopiNet": 0.9})
    (study / "xopinet_seed-1_fold-2_lr-0.001" / "summary.json").unlink()
    (study / "xopinet_seed-1_fold-2_lr-0.001" / "train.log").write_text("")
    found = read_study(study)
    assert [run.run for run in found.unfinished] == ["xopinet_seed-1_fold-2_lr-0.001"]
    [verdict] = judge(found)
    assert verdict.dice.pairs == 8
    write_report(found)
    assert r"unfinished runs, left out: xopinet\_seed-1\_fold-2\_lr-0.001" in (study / "report.md").read_text()


def test_the_same_network_with_another_setting_is_another_configuration(tmp_path):
    rng = np.random.default_rng(0)
    for lr in (0.001, 0.01):
        for seed in range(2):
            write_run(tmp_path / "s", "UNet", seed, None, images(rng, 0, 0.9), lr=lr)
    study = read_study(tmp_path / "s")
    assert study.configurations == ["UNet optimizer.lr=0.001", "UNet optimizer.lr=0.01"]
    assert study.differences["UNet optimizer.lr=0.01"] == {"optimizer.lr": 0.01}
    assert set(study.runs["fold"]) == {"holdout"}


def test_runs_with_other_split_seeds_are_replicates_and_each_image_counts_once(tmp_path):
    rng = np.random.default_rng(0)
    for network, split, seed in itertools.product(("UNet", "XopiNet"), range(3), range(2)):
        tested = images(rng, 0, 0.9 if network == "UNet" else 0.8)
        tested = {
            image: dice for image, dice in tested.items() if split or image[-1] != "0"
        }  # splits test other images
        data = {"split": {"seed": split, "fold": None}, "seed": seed, "image_size": 16, "mask_threshold": 20}
        write_run(tmp_path / "s", network, seed, None, tested, name=f"{network}-{split}-{seed}", data=data)
    study = read_study(tmp_path / "s")
    assert study.configurations == ["UNet", "XopiNet"]
    assert set(study.runs["fold"]) == {f"holdout of split {split}" for split in range(3)}
    assert study.split["seed"] == ["0", "1", "2"]
    [verdict] = judge(study)
    assert (verdict.dice.pairs, verdict.dice.training_sets, verdict.dice.images) == (6, 3, 12)
    assert verdict.dice.repeated
    by_run = study.images[study.images["configuration"] == "UNet"].groupby(["fold", "image"])["dice"].mean()
    report = assemble(study)
    assert report.configurations.rows[0]["dice"] == pytest.approx(by_run.groupby("image").mean().mean())
    rows = {row["configuration"]: row["dice"] for row in report.configurations.rows}
    assert report.comparisons.rows[0]["dice_difference"] == pytest.approx(rows["UNet"] - rows["XopiNet"])
    assert "split seeds 0, 1, 2" in report.methods


def test_a_failed_run_belongs_to_the_configuration_of_its_finished_copies(tmp_path):
    study = write_study(tmp_path / "s", {"UNet": 0.9, "XopiNet": 0.9}, folds=1)
    failed = study / "xopinet_seed-1_fold-0_lr-0.001"
    (failed / "summary.json").unlink()
    (failed / "failure.txt").write_text("exit code 1: the output for a is NaN or infinite; training diverged\n\nmore\n")
    (study / "early").mkdir()
    (study / "early" / "failure.txt").write_text("exit code 1: seed must be a whole number\n")
    found = {run.run: run for run in read_study(study).unfinished}
    assert found[failed.name].configuration == "XopiNet"
    assert found[failed.name].key == (1, "0")
    assert found[failed.name].diverged
    assert (found["early"].configuration, found["early"].key) == (None, None)
    (study / "unet_seed-9_fold-0_lr-0.001").mkdir()
    (study / "unet_seed-9_fold-0_lr-0.001" / "failure.txt").write_text("killed by SIGKILL\n")
    assert {run.run: run.configuration for run in read_study(study).unfinished}["unet_seed-9_fold-0_lr-0.001"] == "UNet"
    report = write_report(read_study(study))
    assert any(sentence.startswith("failed runs, without a result: early, unet_seed-9") for sentence in report)


def test_the_first_report_with_verdicts_is_recorded_and_the_same_one_again_is_not(tmp_path):
    study = write_study(tmp_path / "s", {"UNet": 0.9, "XopiNet": 0.8}, folds=1)
    runs = [run.name for run in study.iterdir()]
    plan_study(study, [*runs, "later"], {}, [], 0.005, 1)
    [plan] = read_plans(study)
    assert plan.runs == ["later"]  # what is finished was not planned
    content = plan.model_copy(update={"runs": runs}).model_dump(exclude={"ended"})
    (study / "plan.yaml").write_text(yaml.safe_dump(content))
    for _ in range(2):
        assert write_report(read_study(study))[0].startswith("UNet is better than XopiNet")
    [look] = read_looks(study)
    assert (look.plan, look.look, look.runs, look.margin, look.level) == (1, 1, 6, 0.005, 0.05)


def test_the_tables_hold_the_means_that_were_promised_and_the_same_study_gives_the_same_pages(tmp_path):
    study = write_study(tmp_path / "s", {"PotiNet": 0.86, "UNet": 0.9})
    found = read_study(study)
    result = CliRunner().invoke(app, ["report", str(study)])
    assert result.exit_code == 0, result.output
    assert "PotiNet is worse than UNet" in result.output
    meaning = '"if folds were independent" means: '
    assert meaning in result.output
    assert meaning in (study / "report.md").read_text()
    with (study / "configurations.csv").open(newline="") as file:
        rows = {row["configuration"]: row for row in csv.DictReader(file)}
    unet = found.images[found.images["configuration"] == "UNet"]
    assert float(rows["UNet"]["dice"]) == pytest.approx(unet["dice"].mean())  # every image has as many seeds
    means = unet.groupby(["fold", "seed"])["dice"].mean().unstack()
    spread = np.sqrt(((means.sub(means.mean(axis=1), axis=0)) ** 2).to_numpy().sum() / (9 - 3))
    assert float(rows["UNet"]["sd_over_seeds"]) == pytest.approx(spread)
    assert (rows["UNet"]["runs"], rows["UNet"]["images"]) == ("9", "36")
    text = (study / "report.md").read_text()
    assert text.index("PotiNet is worse than UNet") < text.index("## Configurations")
    row = next(line for line in text.splitlines() if line.startswith("| UNet | 9 |"))
    assert f" {100 * float(rows['UNet']['dice']):.2f} |" in row  # in points, as in sentences and figures
    names = ("report.html", "figures/runs.png", "figures/runs.svg", "figures/runs.pdf")
    before = [(study / name).read_bytes() for name in names]
    write_report(found)  # again, over its own files
    assert (study / "report.md").read_text() == text
    assert [(study / name).read_bytes() for name in names] == before


def test_leaks_are_told_first(tmp_path):
    rng = np.random.default_rng(0)
    for seed in range(2):
        write_run(tmp_path / "s", "UNet", seed, None, images(rng, 0, 0.9), leaks=["a and b"])
    sentences = write_report(read_study(tmp_path / "s"))
    assert sentences[0] == "the study has only one configuration, UNet: nothing to compare"
    assert any("these scores may be too high" in sentence for sentence in sentences)
    for name in ("report.md", "report.html"):
        text = (tmp_path / "s" / name).read_text()
        assert text.index("these scores may be too high") < text.index("Dice, pooled")


class Page(HTMLParser):
    """What a page asks for, shows and runs."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.addresses, self.words = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attributes = dict(attrs)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action")]

    def handle_data(self, data):
        self.words += f" {data}"


def test_the_page_needs_nothing_but_itself(three):
    study, _, page = three
    text = (study / "report.html").read_text()
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "default-src 'none'" in text
    assert len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    assert page.tags.count("script") == 1
    assert page.tags.count("svg") == 1 + 1 + 3 + 3  # differences, runs, curves, pairs
    assert INK not in text  # the page's own colours instead
    for picture in ("differences", "runs", "train_loss", "val_loss", "val_dice", "paired_1", "paired_2", "paired_3"):
        with Image.open(study / "figures" / f"{picture}.png") as opened:
            assert min(opened.size) > 200
        assert f"figures/{picture}.png" in (study / "report.md").read_text()
        assert "<svg" in (study / "figures" / f"{picture}.svg").read_text()
        assert (study / "figures" / f"{picture}.pdf").read_bytes().startswith(b"%PDF")


def test_the_page_says_first_what_is_so_and_shows_every_network_on_the_same_images(three):
    study, report, page = three
    words, configurations = page.words, read_study(study).configurations
    assert words.index("PotiNet is worse than UNet") < words.index("95 % interval")
    for strips in report.gallery.values():
        assert 0 < len(strips) <= 4
        for strip in strips:
            assert [tile.caption.split(",")[0].split(":")[0] for tile in strip.tiles] == [
                "image",
                "label",
                *configurations,
            ]
    rows = report.images
    assert [row["mean"] for row in rows] == sorted(row["mean"] for row in rows)
    assert report.gallery["worst"][0].title.startswith(rows[0]["image"])
    most = max(rows, key=lambda row: row["sd_over_seeds"])
    assert report.gallery["disagreement"][0].title.startswith(most["image"])


def test_disagreement_is_orange_where_some_runs_see_cell_and_some_do_not(tmp_path):
    study = write_study(tmp_path / "s", {"UNet": 0.9, "XopiNet": 0.9}, folds=1)
    found = read_study(study)
    tile = make_gallery(found, image_rows(found))["disagreement"][0].tiles[2]
    with Image.open(io.BytesIO(base64.b64decode(tile.source.partition(",")[2]))) as opened:
        votes = np.asarray(opened.convert("RGB"))
    seen = [np.random.default_rng(seed).random((16, 16)) > 0.5 for seed in range(3)]
    all_of_them, some = np.logical_and.reduce(seen), np.logical_or.reduce(seen)
    for colour, where in ((RIGHT, all_of_them), (FALSE, some & ~all_of_them), ((0, 0, 0), ~some)):
        assert (votes[where] == colour).all()


@pytest.mark.slow
def test_the_original_study_stands_beside_a_repeat_of_it_as_printed_and_as_corrected(tmp_path):
    study = write_study(tmp_path / "s", {"PotiNet": 0.86, "UNet": 0.9}, experiment="original")
    original = assemble(read_study(study)).original
    assert [(row["network"], row["source"]) for row in original.rows] == [
        (network, source)
        for network, ours in (("UNet", "UNet"), ("PotiNet", "PotiNet"))
        for network, source in ((network, "as published"), (network, "corrected"), (ours, "this study"))
    ]
    assert [round(row["dice"], 4) for row in original.rows[:2]] == [0.9295, 0.8941]
    assert [round(row["dice"], 4) for row in original.rows[3:5]] == [0.9008, 0.7881]
    assert list(original.columns.values())[2:] == ["training loss", "validation loss", "DiceScore", "IoU"]


def test_the_original_study_is_left_out_of_studies_that_do_not_repeat_it(three):
    study, report, _ = three
    assert not report.original.rows
    assert "original study" not in (study / "report.html").read_text()


def test_pairs_that_cannot_be_compared_leave_the_others_as_they_are(tmp_path):
    study = write_study(tmp_path / "s", {"UNet": 0.9, "XopiNet": 0.9}, folds=1)
    rng = np.random.default_rng(1)
    write_run(study, "Lone", 7, 0, images(rng, 0, 0.9))
    verdicts = {(v.a, v.b): v for v in judge(read_study(study))}
    assert verdicts["Lone", "UNet"].sentence == (
        "Lone and UNet cannot be compared: the two configurations have no seed and fold in common"
    )
    assert verdicts["UNet", "XopiNet"].dice is not None
    sentences = write_report(read_study(study))
    assert any("seed and fold lack a configuration" in sentence for sentence in sentences)


def test_one_seed_and_one_fold_are_told_as_what_they_cannot_say(tmp_path):
    told = caveats(read_study(write_study(tmp_path / "s", {"UNet": 0.9, "XopiNet": 0.8}, seeds=1, folds=1)))
    assert any(caveat.startswith("all runs share one training set") for caveat in told)
    assert any(caveat.startswith("UNet, XopiNet: only one seed for each training set") for caveat in told)


def test_networks_that_score_the_same_throughout_are_told(tmp_path):
    study = tmp_path / "s"
    for network, seed, fold in itertools.product(("UNet", "XopiNet"), range(2), range(2)):
        write_run(study, network, seed, fold, {f"f{fold}-{n}": 0.25 for n in range(3)})
    found = read_study(study)
    [told] = [caveat for caveat in caveats(found) if "exactly the same Dice" in caveat]
    assert told.startswith("UNet and XopiNet have exactly the same Dice")
    write_report(found)
    assert "; equal on 6." in (study / "report.md").read_text()


def test_a_study_without_pictures_or_curves_still_has_its_report(tmp_path):
    study = write_study(tmp_path / "s", {"UNet": 0.9, "XopiNet": 0.9}, folds=1)
    for run in study.glob("*_seed*"):
        shutil.rmtree(run / "predictions")
        write_csv(run / "metrics.csv", [{"epoch": 0}])
    write_report(read_study(study))
    assert "Where runs disagree" not in (study / "report.html").read_text()


HOSTILE = ("<script>alert(1)</script> a|b", '$x^2$ & "quoted" ](javascript:alert(1))')


def test_names_cannot_break_out_of_the_report(tmp_path):
    rng = np.random.default_rng(0)
    for number, network in enumerate(HOSTILE):
        for seed in range(2):
            write_run(tmp_path / "<b>s", network, seed, None, images(rng, 0, 0.9), name=f"{number}_{seed}")
    write_report(read_study(tmp_path / "<b>s"))
    tables = (tmp_path / "<b>s" / "report.md").read_text().split("## Configurations")[1]
    assert r"\<script\>" in tables
    assert r"a\|b" in tables
    page = Page((tmp_path / "<b>s" / "report.html").read_text())
    assert page.tags.count("script") == 1
    assert "b" not in page.tags[: page.tags.index("nav")]
    for network in HOSTILE:
        assert network in page.words
    assert all(address.startswith(("data:", "#")) for address in page.addresses)


def test_a_run_whose_system_does_not_tell_its_memory_is_no_damaged_one(tmp_path):
    study = write_study(tmp_path / "s", {"UNet": 0.9, "XopiNet": 0.9})
    for file in study.glob("*/summary.json"):
        summary = json.loads(file.read_text()) | {"peak_memory_bytes": {"process": None, "device": None}}
        file.write_text(json.dumps(summary))
    assert len(read_study(study).configurations) == 2


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda run: (run / "summary.json").write_text("{"), r"summary\.json: is damaged .*; move the run away"),
        (lambda run: (run / "per_image.csv").unlink(), r"per_image\.csv: cannot be read"),
        (lambda run: (run / "config.yaml").write_text("a: [b"), r"config\.yaml: cannot be read"),
        (lambda run: (run / "per_image.csv").write_text("image,dice\na,1\n"), "its column group is missing"),
        (lambda run: (run / "summary.json").write_text(other_data(run)), "used different data"),
    ],
)
def test_damaged_studies_are_refused_by_name(tmp_path, broken, message):
    study = write_study(tmp_path / "s", {"UNet": 0.9, "XopiNet": 0.9})
    broken(study / "xopinet_seed-1_fold-2_lr-0.001")
    with pytest.raises(InputError, match=message):
        read_study(study)


def other_data(run):
    summary = json.loads((run / "summary.json").read_text())
    return json.dumps(summary | {"data": summary["data"] | {"fingerprint": "0" * 64}})


def test_a_run_that_is_there_twice_counts_once_and_is_told(tmp_path):
    study = write_study(tmp_path / "s", {"UNet": 0.9, "XopiNet": 0.9})
    first = judge(read_study(study))[0].dice
    shutil.copytree(study / "unet_seed-0_fold-0_lr-0.001", study / "unet_seed-0_fold-0_lr-0.001_again")
    found = read_study(study)
    assert judge(found)[0].dice == first
    assert any(caveat.endswith("left out: unet_seed-0_fold-0_lr-0.001_again") for caveat in caveats(found))


def test_networks_that_differ_in_a_part_are_named_by_it(tmp_path):
    rng = np.random.default_rng(0)
    for number, part in enumerate(({"_target_": "cellseg.data.Dihedral", "share": 0.5}, None)):
        for seed in range(2):
            run = write_run(tmp_path / "s", "UNet", seed, None, images(rng, 0, 0.9), name=f"{number}_{seed}")
            config = OmegaConf.load(run / "config.yaml")
            config.augmentation, config.data.augmentation = part, part
            OmegaConf.save(config, run / "config.yaml")
    assert read_study(tmp_path / "s").configurations == ["UNet augmentation=Dihedral", "UNet augmentation=none"]


def write_configurations(study, *changes):
    """Write two runs of UNet for each change of its configuration; return the names of the configurations."""
    rng = np.random.default_rng(0)
    for number, change in enumerate(changes):
        for seed in range(2):
            run = write_run(study, "UNet", seed, None, images(rng, 0, 0.7 + number / 20), name=f"{number}_{seed}")
            config = OmegaConf.merge(OmegaConf.load(run / "config.yaml"), change)
            OmegaConf.save(config, run / "config.yaml")
    found = read_study(study)
    assert found.repeated == []
    assert set(found.runs.groupby("configuration").size()) == {2}
    return found.configurations


def part(name, target, **settings):
    return {name: {"_target_": target, **settings}}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (
            [{"scheduler": None}, part("scheduler", "a.Cosine", low=0), part("scheduler", "a.Cosine", low=1)],
            ["UNet scheduler=none scheduler.low=none", "UNet scheduler=Cosine scheduler.low=0",
             "UNet scheduler=Cosine scheduler.low=1"],
        ),
        (
            [{"scheduler": None}, part("scheduler", "a.Cosine", low=0), part("scheduler", "a.Step", every=1)],
            ["UNet scheduler=none", "UNet scheduler=Cosine", "UNet scheduler=Step"],
        ),
        (
            [part("model", "cellseg.UNet"), part("model", "mine.UNet")],
            ["UNet model=cellseg.UNet", "UNet model=mine.UNet"],
        ),
        ([part("loss", "a.Dice"), part("loss", "b.Dice")], ["UNet loss=a.Dice", "UNet loss=b.Dice"]),
        (
            [part("module", "cellseg.SegmentationModule"), part("module", "mine.Module")],
            ["UNet module=SegmentationModule", "UNet module=Module"],
        ),
        (
            [{"module": {"loss": {"share": n}}, "loss": {"share": n}} for n in (1, 2)],
            ["UNet loss.share=1", "UNet loss.share=2"],
        ),
        (
            [
                {"augmentation": {"share": 1}, "data": {"augmentation": {"share": 1}}},
                {"augmentation": {"share": 1}, "data": {"augmentation": None}},
            ],
            ["UNet data.augmentation.share=1", "UNet data.augmentation.share=none"],
        ),
    ],
)  # fmt: skip
def test_no_two_configurations_share_a_name(tmp_path, changes, names):
    assert write_configurations(tmp_path / "s", *changes) == names


def test_keys_that_cannot_change_a_result_make_no_configuration(tmp_path):
    rng = np.random.default_rng(0)
    for seed in range(2):
        run = write_run(tmp_path / "s", "UNet", seed, None, images(rng, 0, 0.9))
        config = OmegaConf.load(run / "config.yaml")
        there = {"root": f"/{seed}", "cache": seed == 1}
        config = OmegaConf.merge(config, {"data": there, "trainer": {"enable_progress_bar": seed == 0}})
        OmegaConf.save(OmegaConf.merge(config, {"callbacks": {"last": {"seconds": seed}}}), run / "config.yaml")
    assert read_study(tmp_path / "s").configurations == ["UNet"]


def test_seeds_of_a_fold_with_other_test_images_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    tested = images(rng, 0, 0.9)
    write_run(tmp_path / "s", "UNet", 0, 0, dict(list(tested.items())[:8]))
    write_run(tmp_path / "s", "UNet", 1, 0, dict(list(tested.items())[2:]))
    with pytest.raises(InputError, match=r"unet_seed-1\S* and unet_seed-0\S* tested different images or groups"):
        read_study(tmp_path / "s")


def regroup(run, groups):
    table = (run / "per_image.csv").read_text().splitlines()
    rows = [row.split(",") for row in table[1:]]
    (run / "per_image.csv").write_text(
        "\n".join([table[0], *(",".join([row[0], groups(row[0]), *row[2:]]) for row in rows)])
    )


def test_groups_that_changed_between_folds_are_refused(tmp_path):
    dice = {f"s-{number}": 0.9 for number in range(6)}
    regroup(write_run(tmp_path / "s", "UNet", 0, 0, dict(list(dice.items())[:3])), lambda name: name)
    regroup(write_run(tmp_path / "s", "UNet", 0, 1, dict(list(dice.items())[2:])), lambda name: "slide")
    with pytest.raises(InputError, match=r"have s-2 in different groups \(slide and s-2\): groups\.csv or the file"):
        read_study(tmp_path / "s")


def test_nothing_and_a_word_for_it_are_two_configurations(tmp_path):
    rng = np.random.default_rng(0)
    for number, (act, skip) in enumerate([(None, True), ("none", True), ("none", "True")]):
        model = {"name": "UNet", "act": act, "skip": skip}
        write_run(tmp_path / "s", "UNet", 0, None, images(rng, 0, 0.9), name=str(number), model=model)
    assert len(read_study(tmp_path / "s").configurations) == 3


def test_a_run_that_failed_in_two_folders_is_missing_once(tmp_path):
    study = write_study(tmp_path / "s", {"UNet": 0.9, "XopiNet": 0.9})
    first = study / "unet_seed-2_fold-0_lr-0.001"
    shutil.copytree(first, study / "again")
    for run in (first, study / "again"):
        (run / "summary.json").unlink()
        (run / "failure.txt").write_text("killed")
    assert missing_runs(read_study(study), "UNet") == [(2, "0")]


@pytest.mark.parametrize("again", [False, True])
def test_configurations_of_two_experiments_are_named_by_them(tmp_path, again):
    rng, rates = np.random.default_rng(0), {None: 0.003, "original": 0.0001}
    for experiment, lr in [*rates.items(), *([("original", 0.01)] if again else [])]:
        for seed in range(2):
            write_run(tmp_path / "s", "UNet", seed, None, images(rng, 0, 0.9), lr=lr, experiment=experiment)
    found = read_study(tmp_path / "s")
    short = ["UNet experiment=none", "UNet experiment=original"]
    assert (sorted(found.configurations) == short) == (not again)  # otherwise the name must say more
    assert len(found.configurations) == 2 + again
    assert all(differences.keys() == {"experiment", "optimizer.lr"} for differences in found.differences.values())


def test_advice_and_interval_do_not_contradict_each_other(tmp_path):
    for noise, (seeds, folds) in itertools.product((0.01, 0.03), ((1, 2), (1, 3), (2, 2), (3, 3))):
        study = write_study(tmp_path / f"{noise}-{seeds}-{folds}", {"UNet": 0.9, "XopiNet": 0.9}, seeds, folds, noise)
        [verdict] = judge(read_study(study))
        if "the study had 80 % power" in verdict.sentence:
            assert verdict.dice.high - verdict.dice.low < 0.01
        if seeds == 1 and verdict.kind == UNDECIDED:
            assert "add a second seed to learn how many seeds are needed" in verdict.sentence


def test_an_empty_or_missing_study_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere does not exist; name a folder of runs"):
        read_study(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"contains no finished run; train a run in it: cellseg train study="):
        read_study(tmp_path)


def test_curves_say_on_which_images_they_were_computed(tmp_path):
    study = tmp_path / "study"
    for seed in (0, 1):
        write_run(study, "UNet", seed, 0, {"a-1": 0.9, "b-1": 0.8})
    write_report(read_study(study))
    report = (study / "report.md").read_text()
    assert "Computed on the test images in all runs, which have no validation part" in report
    assert "not on test images" not in report
    for summary in study.glob("*/summary.json"):
        facts = json.loads(summary.read_text())
        facts["counts"]["val"] = 2
        summary.write_text(json.dumps(facts))
    write_report(read_study(study))
    assert "Computed on the validation part, not on test images." in (study / "report.md").read_text()
