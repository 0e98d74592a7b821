"""Networks trained on different labels of the same images, compared on one truth."""

import csv
import json
import shutil

import pytest

from cellseg import train
from cellseg.data.synthetic import write_synthetic
from cellseg.run.folder import RunFolder
from cellseg.study.collect import read_study
from conftest import TINY, smoke
from test_ignored import invoke


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


def test_other_images_are_no_truth(study, tmp_path):
    folder, _ = study
    write_synthetic(tmp_path / "other", pairs=10, seed=9, style=TINY)
    said = invoke("report", folder, "--truth", tmp_path / "other", code=1)
    assert "lacks the image" in said
    assert not (folder.parent / "arms-on-other").exists()
