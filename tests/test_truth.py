"""Networks trained on different labels of the same images, compared on one truth."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cellseg import train
from cellseg.data.synthetic import write_synthetic
from cellseg.run.folder import RunFolder
from cellseg.run.plan import plan_study
from cellseg.study.collect import read_study
from conftest import TINY, smoke
from test_ignored import invoke

pytestmark = pytest.mark.xdist_group("truth")  # one process: they share a study


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    """A study of one network on flawed and on exact masks of the same images, two seeds each, and the data sets."""
    root, study = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("logs") / "arms"
    write_synthetic(root / "raw", pairs=10, style=TINY, exact=True)
    for pair in (root / "raw").iterdir():
        (root / "exact" / pair.name).mkdir(parents=True)
        shutil.copy(pair / "source.jpg", root / "exact" / pair.name)
        shutil.move(pair / "exact.png", root / "exact" / pair.name / "mask.png")
        (pair / "ids.png").unlink()
    for labels in ("raw", "exact"):
        for seed in (0, 1):
            run = smoke(f"data.root={root / labels}", f"seed={seed}", "study=arms")
            train.run(run, study / f"{labels}_seed-{seed}")
    return study, root


@pytest.fixture
def study(arms, tmp_path):
    return shutil.copytree(arms[0], tmp_path / "arms"), arms[1]


def test_runs_on_other_labels_are_compared_on_one_truth_that_is_named(study):
    folder, root = study
    said = invoke("report", folder, code=1)
    assert "used different data" in said
    assert "--truth DATA" in said
    said = " ".join(invoke("report", folder, "--truth", root / "exact").split())
    assert f"all masks are scored on the labels of {root / 'exact'}, on which UNet" in said
    assert "was trained, which favours it" in said
    scored = folder.parent / "arms-on-exact"
    assert (scored / "report.html").exists()
    assert len(read_study(scored).configurations) == 2
    for label in ("raw", "exact"):
        before, after = (rows(place / f"{label}_seed-0" / "per_image.csv") for place in (folder, scored))
        changed = [a["dice"] != pytest.approx(b["dice"]) for a, b in zip(before, after, strict=True)]
        truth = [float(row["true_pixels"]) for row in after]
        assert truth == [float(row["true_pixels"]) for row in rows(scored / "exact_seed-1" / "per_image.csv")]
        assert any(changed) == (label == "raw")
    assert "exists already and is not overwritten" in invoke("report", folder, "--truth", root / "exact", code=1)
    assert json.loads((scored / "raw_seed-0" / "summary.json").read_text())["fitted"] is False


def test_a_run_that_failed_is_counted_on_a_truth_too(study):
    folder, root = study
    failed = folder / "raw_seed-2"
    failed.mkdir()
    shutil.copy(folder / "raw_seed-0" / "config.yaml", failed)
    (failed / "failure.txt").write_text("killed by SIGKILL\n")
    plan_study(folder, [path.name for path in folder.iterdir()] + ["raw_seed-3"], {}, [], 0.005, 1)
    (folder / "plan.yaml").write_text((folder / "plan.yaml").read_text().replace("- raw_seed-3\n", ""))
    invoke("report", folder, "--truth", root / "exact")
    found = read_study(folder.parent / "arms-on-exact")
    assert [(run.run, run.failure) for run in found.unfinished] == [("raw_seed-2", "killed by SIGKILL")]


def test_on_its_own_labels_a_run_has_the_scores_it_had(study):
    folder, root = study
    invoke("report", folder, "--truth", root / "raw")
    again = folder.parent / "arms-on-raw"
    for before, after in zip(*(rows(place / "raw_seed-0" / "per_image.csv") for place in (folder, again)), strict=True):
        for name, value in after.items():
            if name == "soft_dice":  # of masks, as probabilities are not stored
                assert float(value) == pytest.approx(float(after["dice"]))
            elif name in ("image", "group", "subset", "objects_from"):
                assert value == before[name]
            else:
                assert float(value) == pytest.approx(float(before[name]), abs=1e-6), name
    old, new = RunFolder(folder / "raw_seed-0").summary, RunFolder(again / "raw_seed-0").summary
    assert new.metrics["test/dice_pooled"] == pytest.approx(old.metrics["test/dice_pooled"])
    assert "test/loss" not in new.metrics


@pytest.mark.slow
def test_a_truth_is_described_and_no_warning_of_its_masks_is_lost(study, tmp_path):
    folder, root = study
    for number, name in enumerate(("plan.yaml", "plan-2.yaml")):
        plan_study(folder, runs=[f"x{number}"], grid={}, fixed=[], margin=0.01 * (number + 1), looks=1)
        assert (folder / name).exists()
    said = invoke("report", folder, "--truth", root / "exact")
    assert "have a mean Dice of 0." in said
    assert "warning" not in said
    scored = folder.parent / "arms-on-exact"
    assert {path.name for path in scored.glob("plan*.yaml")} == {"plan.yaml", "plan-2.yaml"}
    assert "name the study from which it was made" in invoke("report", scored, "--truth", root / "raw", code=1)
    assert "name the run of the study they are from" in invoke("export", scored, tmp_path / "a.onnx", code=1)
    assert "name a run, such as" in invoke("export", folder, tmp_path / "a.onnx", code=1)

    shutil.copytree(root / "exact", tmp_path / "inverted")
    for mask in tmp_path.glob("inverted/*/mask.png"):
        Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    said = invoke("report", folder, "--truth", tmp_path / "inverted")
    assert "looks inverted" in said
    assert "check that they are masks of these images" in " ".join(said.split())


@pytest.mark.slow
def test_labels_of_a_truth_may_have_a_value_that_nobody_judged(study, tmp_path):
    folder, root = study
    shutil.copytree(root / "exact", tmp_path / "marked")
    for file in tmp_path.glob("marked/*/mask.png"):
        mask = np.asarray(Image.open(file)) // 255
        mask[:8] = 255
        Image.fromarray(mask).save(file)
    said = invoke("report", folder, "--truth", tmp_path / "marked", "--ignore-value", 255)
    assert "may mean 'not annotated'" not in said
    table = rows(folder.parent / "arms-on-marked" / "raw_seed-0" / "per_image.csv")
    assert all(float(row["ignored_pixels"]) > 0 for row in table)
    shutil.rmtree(folder.parent / "arms-on-marked")
    assert "may mean 'not annotated'" in invoke("report", folder, "--truth", tmp_path / "marked")
    assert "add --truth DATA" in invoke("report", folder, "--ignore-value", 255, code=1)


def test_two_labels_of_an_image_are_no_truth(study, tmp_path):
    folder, root = study
    shutil.copytree(root / "exact", tmp_path / "twice")
    tested = rows(folder / "raw_seed-0" / "per_image.csv")[0]["image"]
    shutil.copytree(tmp_path / "twice" / tested, tmp_path / "twice" / "another")
    said = " ".join(invoke("report", folder, "--truth", tmp_path / "twice", code=1).split())
    assert f"has the image {tested} 2 times; keep one label of it" in said
    assert not (folder.parent / "arms-on-twice").exists()


def test_other_images_are_no_truth(study, tmp_path):
    folder, _ = study
    write_synthetic(tmp_path / "other", pairs=10, seed=9, style=TINY)
    said = invoke("report", folder, "--truth", tmp_path / "other", code=1)
    assert "lacks the image" in said
    assert not (folder.parent / "arms-on-other").exists()
