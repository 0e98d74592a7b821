"""Why a run differs from another: what cellseg diff finds."""

import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from cellseg import train
from cellseg.cli import app
from cellseg.run.folder import RunFolder
from cellseg.storage.tensors import write_tensors
from cellseg.study.diff import compare_runs
from conftest import smoke


def differences_of(first, second):
    return {(cause.part, cause.what) for cause in compare_runs(RunFolder(first), RunFolder(second)).causes}


def test_two_runs_are_told_apart_by_what_differs(finished, smears, tmp_path):
    kept = (f"data.root={smears}", "data.split.val_fraction=0.25", "trainer.max_epochs=3")
    again = smoke(*kept)
    train.run(again, tmp_path / "again")
    same = compare_runs(RunFolder(finished), RunFolder(tmp_path / "again"))
    assert (same.causes, same.same_weights) == ([], True)
    assert same.conclusion.startswith("The runs have the same weights, bit for bit")

    other = smoke(*kept, "seed=1", "data.split.seed=1")
    train.run(other, tmp_path / "other")
    apart = compare_runs(RunFolder(finished), RunFolder(tmp_path / "other"))
    assert {("configuration", "seed"), ("configuration", "data.split.seed"), ("split", "in another part")} == {
        (cause.part, cause.what) for cause in apart.causes
    }
    assert "configuration, split" in apart.conclusion
    dice = next(row for row in apart.scores if row.label == "Dice")
    assert dice.difference == pytest.approx(100 * (dice.second - dice.first))


def test_changes_of_labels_code_versions_and_machine_are_found(finished, tmp_path):
    changed = shutil.copytree(finished, tmp_path / "changed")
    record = json.loads((changed / "summary.json").read_text())
    record |= {"git_commit": "f" * 40, "device": "cuda:0 (H100)"}
    record["versions"]["torch"] = "2.0"
    (changed / "summary.json").write_text(json.dumps(record))
    split = json.loads((changed / "split.json").read_text())
    split["test"][0]["mask_sha256"] = "0" * 64
    split["train"][0]["sha256"] = "1" * 64
    (changed / "split.json").write_text(json.dumps(split))
    (changed / "code.patch").write_bytes(b"+ another line\n")
    assert differences_of(finished, changed) == {
        ("images", "only there"),
        ("labels", "changed"),
        ("code", "commit"),
        ("code", "code.patch"),
        ("version", "torch"),
        ("machine", "device"),
    }
    weights = torch.load(changed / "weights.pth", weights_only=True)
    next(iter(weights.values()))[0] += 1
    write_tensors(weights, finished.parent / "changed.pth")
    repeated = shutil.copytree(finished, tmp_path / "repeated")
    shutil.move(finished.parent / "changed.pth", repeated / "weights.pth")
    found = compare_runs(RunFolder(finished), RunFolder(repeated))
    assert (found.causes, found.same_weights) == ([], False)
    assert "do not repeat each other" in found.conclusion
    told = CliRunner().invoke(app, ["diff", str(finished), str(changed)])
    assert told.exit_code == 0, told.output
    assert "commit" in told.output
    assert CliRunner().invoke(app, ["diff", str(finished), str(tmp_path)]).exit_code == 1
