"""Small complete runs: their files, bit-for-bit repetition, and the messages for bad input."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from typer.testing import CliRunner

from cellseg import UNet, load_run, train
from cellseg.cli import app
from cellseg.data.clean import write_cleaned
from cellseg.data.dataset import derived_seed
from cellseg.data.images import read_image, resize_image
from cellseg.losses import DiceLoss
from cellseg.metrics import OBJECT_SCORES, image_scores
from cellseg.run.execution import stream_of
from cellseg.run.folder import RunFolder
from cellseg.run.hardware import native_precision
from cellseg.run.tensorboard import BAND, LAYOUT
from cellseg.storage.errors import InputError
from conftest import quick_first, smoke

TRAIN = Path(train.__file__).parents[1] / "train.py"


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def weights(folder):
    return torch.load(folder / "weights.pth", weights_only=True, map_location="cpu")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_training_on_the_cleaned_set_is_training_on_the_raw_one_bit_for_bit(own_smears, tmp_path):
    write_cleaned(own_smears, tmp_path / "clean")
    folders = [tmp_path / name for name in ("on_raw", "on_clean")]
    for root, folder in zip((own_smears, tmp_path / "clean"), folders, strict=True):
        train.run(smoke(f"data.root={root}", "trainer.max_epochs=1"), folder)
    assert same(weights(folders[0]), weights(folders[1]))
    splits = [json.loads((folder / "split.json").read_text()) for folder in folders]
    assert splits[0] == splits[1]
    assert rows(folders[0] / "per_image.csv") == rows(folders[1] / "per_image.csv")


def test_allowed_leaks_are_on_record(finished, smears, tmp_path):
    assert json.loads((finished / "summary.json").read_text())["data"]["leaks"] == []
    leaky = tmp_path / "leaky"
    shutil.copytree(smears, leaky)
    for n in range(2, 8):
        shutil.copy(leaky / "cell_1" / "source.jpg", leaky / f"cell_{n}" / "source.jpg")
    train.run(smoke(f"data.root={leaky}", "data.split.allow_leaks=true", "trainer.max_epochs=1"), tmp_path / "run")
    data = json.loads((tmp_path / "run" / "summary.json").read_text())["data"]
    assert data["allow_leaks"] is True
    assert any("same image" in leak for leak in data["leaks"])


def test_a_split_is_repeated_from_the_file_of_a_run(finished, smears, tmp_path):
    train.run(smoke(f"data.root={smears}", f"data.split.file={finished}/split.json"), tmp_path / "run")
    assert (tmp_path / "run" / "split.json").read_text() == (finished / "split.json").read_text()


def test_a_run_leaves_the_promised_files(finished):
    left = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    promised = {"config.yaml", "split.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "weights.pth"}
    promised |= {"metrics.csv", "per_image.csv", "baselines.csv", "summary.json"}
    assert promised <= left
    assert [name for name in left if name.startswith("events.out.tfevents")]
    tested = [entry["name"] for entry in json.loads((finished / "split.json").read_text())["test"]]
    kept = {f"predictions/{part}{name}.png" for name in tested for part in ("", "image/", "truth/", "mask/")}
    assert kept == {name for name in left if name.startswith("predictions/")}
    assert not [name for name in left if "=" in name or "unfinished" in name]


def test_a_finished_run_keeps_only_its_weights_and_checkpoints_that_a_user_added(smears, tmp_path):
    own = ("+callbacks.mine._target_=lightning.pytorch.callbacks.ModelCheckpoint", "+callbacks.mine.filename=mine")
    for name, overrides, left in (("plain", (), []), ("own", own, ["mine.ckpt"])):
        train.run(smoke(f"data.root={smears}", "data.split.val_fraction=0.25", *overrides), tmp_path / name)
        assert [path.name for path in tmp_path.glob(f"{name}/checkpoints/*")] == left
        assert (tmp_path / name / "checkpoints").exists() == bool(left)
        assert weights(tmp_path / name)


def test_pruning_frees_finished_runs_and_no_others(finished, tmp_path):
    study = tmp_path / "study"
    for name in ("done", "begun", "damaged", "kept"):
        shutil.copytree(finished, study / name)
    for name in ("done", "begun", "damaged"):
        file = study / name / "config.yaml"
        file.write_text(file.read_text().replace("keep: true", "keep: false"))
    (study / "begun" / "summary.json").unlink()
    (study / "damaged" / "weights.pth").write_bytes((finished / "weights.pth").read_bytes()[:-1000])
    size = sum(path.stat().st_size for path in finished.glob("checkpoints/*"))
    told = CliRunner().invoke(app, ["prune", str(study)]).output
    assert f"freed {size / 1e9:.2f} GB: the checkpoints of 1 finished run\n" in told
    assert "1 unfinished run: checkpoints kept" in told
    assert f"checkpoints kept, because {study / 'damaged' / 'weights.pth'} is damaged" in told
    assert f"checkpoints kept, because {study / 'kept'} has callbacks.last.keep=true" in told
    assert [name for name in ("begun", "damaged", "done", "kept") if (study / name / "checkpoints").exists()] == [
        "begun",
        "damaged",
        "kept",
    ]
    assert "freed 0.00 GB" in CliRunner().invoke(app, ["prune", str(study / "done")]).output
    (tmp_path / "empty").mkdir()
    refused = CliRunner().invoke(app, ["prune", str(tmp_path / "empty")])
    assert refused.exit_code == 1
    assert "holds no runs" in refused.output


def test_metrics_csv_has_a_row_an_epoch(finished):
    table = rows(finished / "metrics.csv")
    assert [row["epoch"] for row in table] == ["0", "1", "2"]
    columns = {"epoch", "step", "lr", "train/loss", "val/loss", "val/dice", "val/iou", "val/soft_dice"}
    assert set(table[0]) == columns
    assert all(float(row[column]) >= 0 for row in table for column in columns)


def test_per_image_rows_average_to_the_summary(finished):
    metrics = json.loads((finished / "summary.json").read_text())["metrics"]
    table = rows(finished / "per_image.csv")
    for subset, images in (("test", 2), ("val", 2)):
        of_subset = [row for row in table if row["subset"] == subset]
        assert len(of_subset) == images
        for name in ("dice", "iou", "soft_dice"):
            mean = np.mean([float(row[name]) for row in of_subset])
            assert metrics[f"{subset}/{name}"] == pytest.approx(mean, abs=1e-6)
    overlap = sum(float(row["dice"]) * (int(row["true_pixels"]) + int(row["predicted_pixels"])) for row in table[:2])
    total = sum(int(row["true_pixels"]) + int(row["predicted_pixels"]) for row in table[:2])
    assert metrics["test/dice_pooled"] == pytest.approx(overlap / total, abs=1e-6)


def test_the_scores_of_baselines_are_those_of_their_predictions(finished, smears):
    run = RunFolder(finished)
    pixels = run.settings.data.image_size**2
    scored = run.baselines.set_index(["baseline", "image"])["dice"]
    datamodule = instantiate(OmegaConf.create(run.config).data)
    datamodule.setup()
    average = np.mean(list(datamodule.masks("train")), axis=0)[0] > 0.5
    for row in run.test_rows.itertuples():
        assert scored["all cell", row.image] == pytest.approx(
            2 * row.true_pixels / (row.true_pixels + pixels), abs=1e-6
        )
        assert scored["nothing", row.image] == (row.true_pixels == 0)
        truth = run.prediction(row.image).truth
        expected = 2 * (truth & average).sum() / (truth.sum() + average.sum())
        assert scored["mean training mask", row.image] == pytest.approx(expected, abs=1e-6)


def test_runs_of_another_fold_or_split_start_from_other_weights_and_split_0_from_those_of_before():
    def stream(**keys):
        return stream_of(OmegaConf.create({"seed": 3, "data": {"split": keys}}))

    assert stream(seed=0, fold=None) == 3
    assert stream(seed=0, fold=2) == derived_seed(3, 2) % 2**32  # as in version 0.1
    others = [stream(seed=split, fold=fold) for split in range(4) for fold in (None, 0, 1, 2)]
    assert len(set(others)) == 16


def test_summary_says_what_the_numbers_stand_on(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["counts"] == {"train": 6, "val": 2, "test": 2, "epochs": 3, "steps": 9}
    assert summary["parameters"] == sum(p.numel() for p in UNet(init_features=4).parameters())
    assert summary["precision"] == native_precision("auto")
    assert summary["scored_weights"] == "best by val/dice, moving average"
    assert summary["seconds"].keys() == {"prepare", "train", "test"}
    assert len(summary["data"]["fingerprint"]) == 64
    expected = {f"test/{name}" for name in ("loss", "dice", "iou", "soft_dice", "dice_pooled", "iou_pooled")}
    expected |= {f"test/{score.name}" for score in OBJECT_SCORES}
    expected |= {f"val/{name}" for name in ("loss", "dice", "iou", "soft_dice")} | {"train/loss"}
    assert summary["metrics"].keys() == expected


def test_the_scored_weights_are_the_best_on_validation_and_the_ones_kept(finished):
    metrics = json.loads((finished / "summary.json").read_text())["metrics"]
    best = max(rows(finished / "metrics.csv"), key=lambda row: float(row["val/dice"]))
    for name in ("val/dice", "val/soft_dice", "val/loss"):  # soft: hardly any other weights have the same
        assert metrics[name] == pytest.approx(float(best[name]), abs=1e-6)
    checkpoint = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True, map_location="cpu")["state_dict"]
    kept = {f"network.{name}": tensor for name, tensor in weights(finished).items()}
    assert same(kept, checkpoint)


def test_checkpoints_hold_tensors_and_plain_values_only(finished):
    for name in ("last", "best"):
        torch.load(finished / "checkpoints" / f"{name}.ckpt", weights_only=True, map_location="cpu")


def test_tensorboard_has_the_curves_the_learning_rate_and_the_panels(finished):
    events = EventAccumulator(str(finished), size_guidance={"images": 0}).Reload()
    tags = events.Tags()
    assert {"train/loss", "val/loss", "val/dice", "val/iou", "val/soft_dice", "train/lr-Adam", "test/dice"} <= set(
        tags["scalars"]
    )
    assert "epoch" not in tags["scalars"]
    assert events.SummaryMetadata("custom_scalars__config__")  # the losses in one chart
    validated = [entry["name"] for entry in json.loads((finished / "split.json").read_text())["val"]]
    assert set(tags["images"]) == {f"val_predictions/{name}" for name in validated}
    assert len(events.Scalars("test/dice")) == 1
    told = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = HParamsPluginData.FromString(told).session_start_info.hparams
    assert {"seed", "network", "optimizer.lr"} <= settings.keys()
    assert not {"data.seed", "scheduler.max_lr", "data.augmentation.empty"} & settings.keys()  # they repeat others
    assert min(tag for tag in tags["scalars"] if tag.startswith("test/")) == "test/dice"  # HPARAMS sorts by name
    patterns = [pattern for charts in LAYOUT.values() for _, names in charts.values() for pattern in names]
    assert all(any(re.search(pattern, tag) for tag in tags["scalars"]) for pattern in patterns)
    bands = [f"{tag}/{part}" for tag in tags["scalars"] for part in BAND]
    assert not any(re.search(pattern, band) for pattern in patterns for band in bands)
    scored = [event.step for event in events.Scalars("val/dice")]
    drawn = [event.step for event in events.Images(tags["images"][0])]
    assert drawn == [scored[0], scored[2]]  # the first and the last epoch


def test_a_run_read_back_predicts_what_was_scored(finished, smears):
    run = load_run(finished)
    table = {row["image"]: row for row in rows(finished / "per_image.csv")}
    pictures = sorted(finished.glob("predictions/*.png"))
    assert pictures
    for picture in pictures:
        probability = run.predict(smears / picture.stem / "source.jpg")
        assert probability.shape == (72, 96)
        assert probability.min() >= 0
        assert probability.max() <= 1
    datamodule = instantiate(OmegaConf.create(run.config).data)
    datamodule.setup()
    for batch in datamodule.test_dataloader()[0]:
        scores = image_scores(run.network(batch["image"]).sigmoid(), batch["mask"])
        # the run itself may have computed in bfloat16
        assert scores["soft_dice"].item() == pytest.approx(float(table[batch["name"][0]]["soft_dice"]), abs=0.02)


def test_predictions_are_kept_as_data_that_give_the_scores_again(finished, smears):
    run = RunFolder(finished)
    for row in run.test_rows.to_dict("records"):
        kept = run.prediction(row["image"])
        [source] = [read_image(smears / row["image"] / "source.jpg")]
        assert (kept.image.transpose(2, 0, 1) == resize_image(source.pixels, 64)).all()
        scores = image_scores(*(torch.from_numpy(part)[None, None].float() for part in (kept.mask, kept.truth)))
        assert scores["dice"].item() == pytest.approx(row["dice"], abs=1e-6)
        assert (int(kept.truth.sum()), int(kept.mask.sum())) == (row["true_pixels"], row["predicted_pixels"])
        assert set(np.unique(np.asarray(Image.open(finished / "predictions" / "mask" / f"{row['image']}.png")))) <= {
            0,
            255,
        }


def test_panels_show_image_truth_and_prediction_side_by_side(finished):
    with Image.open(next(finished.glob("predictions/*.png"))) as picture:
        assert picture.size == (3 * 64 + 2 * 4, 64)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(smears, tmp_path):
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        torch.manual_seed(len(name))  # what ran before must not matter
        train.run(smoke(f"data.root={smears}", f"seed={seed}"), tmp_path / name)
    first, again, other = (weights(tmp_path / name) for name in ("first", "again", "other"))
    assert same(first, again)
    assert not same(first, other)
    splits = [(tmp_path / name / "split.json").read_text() for name in ("first", "other")]
    assert splits[0] == splits[1]


def test_without_a_validation_set_the_final_weights_are_scored(smears, tmp_path):
    train.run(smoke(f"data.root={smears}", "callbacks.last.keep=true"), tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["scored_weights"] == "final, moving average"
    assert not (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu")[
        "state_dict"
    ]
    assert same({f"network.{name}": tensor for name, tensor in weights(tmp_path / "run").items()}, last)


@pytest.mark.parametrize("monitor", ["val/dice", "val/loss"])
def test_nothing_may_choose_on_the_test_images(smears, tmp_path, monitor):
    stop = ["+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping", f"+callbacks.stop.monitor={monitor}"]
    with pytest.raises(InputError, match=r"callbacks\.stop watches val/.*set data\.split\.val_fraction"):
        train.run(smoke(f"data.root={smears}", *stop), tmp_path / "run")
    train.run(smoke(f"data.root={smears}", *stop, "data.split.val_fraction=0.25"), tmp_path / "run")


def test_without_best_weights_a_validation_set_is_of_no_use(smears, tmp_path):
    overrides = [f"data.root={smears}", "data.split.val_fraction=0.25", "~callbacks.best"]
    with pytest.raises(InputError, match=r"no callback keeps them; keep callbacks\.best"):
        train.run(smoke(*overrides), tmp_path / "run")


def test_epochs_without_validation_leave_no_stale_numbers(smears, tmp_path):
    overrides = ["+trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3", "callbacks.last.keep=true"]
    train.run(smoke(f"data.root={smears}", *overrides), tmp_path / "run")
    assert [bool(row["val/dice"]) for row in rows(tmp_path / "run" / "metrics.csv")] == [False, True, False]
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu")[
        "state_dict"
    ]
    assert same({f"network.{name}": tensor for name, tensor in weights(tmp_path / "run").items()}, last)


@pytest.mark.parametrize("precision", quick_first(2, ["32-true", "bf16-mixed", "bf16-true", "64-true"]))
def test_every_precision_trains(smears, tmp_path, precision):
    train.run(smoke(f"data.root={smears}", f"trainer.precision={precision}"), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["precision"] == precision


def test_split_and_configuration_are_written_before_training(smears, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning.Trainer.fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.run(smoke(f"data.root={smears}"), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir() if path.suffix} >= {"config.yaml", "split.json"}
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.slow
def test_two_smears_can_be_learnt_by_heart(own_smears, tmp_path):
    for n in range(4, 16):
        (own_smears / f"cell_{n}" / "source.jpg").unlink()
        (own_smears / f"cell_{n}" / "mask.jpg").unlink()
    overrides = ["data.split.test_fraction=0.34", "trainer.max_epochs=60", "optimizer.lr=0.01", "model.init_features=8"]
    train.run(smoke(f"data.root={own_smears}", "augmentation=none", "data.batch_size=1", *overrides), tmp_path / "run")
    losses = [float(row["train/loss"]) for row in rows(tmp_path / "run" / "metrics.csv")]
    assert losses[-1] < 0.15 < 0.5 < losses[0]


def test_a_diverged_run_is_not_finished(smears, tmp_path):
    with pytest.raises(
        InputError, match=r"epoch 1: .* for cell_\d+.* is NaN or infinite; training diverged; lower optimizer\.lr"
    ):
        train.run(smoke(f"data.root={smears}", "optimizer.lr=1e30", "scheduler=none"), tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()
    assert not list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))  # the weights are not worth keeping


class Poisoned(DiceLoss):
    """Turns to NaN at a call of its own."""

    def __init__(self, call):
        super().__init__()
        self.call, self.calls = call, 0

    def forward(self, logits, target):
        self.calls += 1
        return super().forward(logits, target) * (float("nan") if self.calls == self.call else 1)


def test_the_image_at_which_a_loss_turns_to_nan_is_named_and_the_epochs_before_are_kept(smears, tmp_path):
    # 4 steps of 2 images and 2 scored images an epoch: the 8th call is the 2nd step of the 2nd epoch
    cfg = smoke(f"data.root={smears}", "loss._target_=test_train.Poisoned", "+loss.call=8", "trainer.max_epochs=5")
    with pytest.raises(InputError, match=r"epoch 2: .* for (cell_\d+), (cell_\d+) \(batch 2, after cell_") as raised:
        train.run(cfg, tmp_path / "run")
    datamodule = instantiate(cfg.data)
    datamodule.setup()
    loader = datamodule.train_dataloader()
    loader.sampler.set_epoch(1)
    second = list(loader)[1]["name"]
    assert f"{second[0]}, {second[1]} (batch 2" in str(raised.value)
    kept = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu")
    assert kept["epoch"] == 0
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_runs_out_is_told_with_what_to_change(smears, tmp_path, monkeypatch, error):
    def starved(*arguments, **options):
        raise error

    monkeypatch.setattr("lightning.Trainer.fit", starved)
    with pytest.raises(InputError, match=r"memory ran out; reduce data\.batch_size \(now 2\)"):
        train.run(smoke(f"data.root={smears}"), tmp_path / "run")


@pytest.mark.slow
def test_two_devices_do_what_one_does_on_the_same_batches(smears, tmp_path):
    # no batch norm, which sees on each device the images of that device only
    alike = [
        f"data.root={smears}",
        "model._target_=torch.nn.Conv2d",
        "~model.depth",
        "~model.init_features",
        "~model.skip",
        "~model.norm",
    ]
    alike += [
        "+model.kernel_size=3",
        "+model.padding=1",
        "trainer.accelerator=cpu",
        "trainer.precision=32-true",
        "trainer.max_epochs=3",
    ]
    train.run(smoke(*alike, "trainer.devices=1", "data.batch_size=2"), one := tmp_path / "one")
    command(tmp_path, *alike, "trainer.devices=2", "data.batch_size=1", "study=two")
    [two] = (tmp_path / "logs" / "two").iterdir()
    first, second = (weights(folder) for folder in (one, two))
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
    for name in ("metrics.csv", "per_image.csv"):
        for row, other in zip(rows(one / name), rows(two / name), strict=True):
            for column, value in row.items():
                if column in ("image", "group", "subset", "objects_from"):
                    assert value == other[column]
                else:
                    assert float(value) == pytest.approx(float(other[column]), abs=1e-5), column


@pytest.mark.slow
def test_two_devices_share_the_images_and_agree_on_the_scores(smears, tmp_path):
    command(tmp_path, "trainer.accelerator=cpu", "trainer.devices=2", "study=two", f"data.root={smears}")
    [folder] = (tmp_path / "logs" / "two").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["devices"] == 2
    table = rows(folder / "per_image.csv")
    assert len(table) == summary["counts"]["test"] == 2
    assert summary["metrics"]["test/dice"] == pytest.approx(np.mean([float(row["dice"]) for row in table]), abs=1e-6)


def command(folder, *overrides, succeeds=True):
    """Run train.py as a user would, in a folder of its own."""
    result = subprocess.run(
        [sys.executable, str(TRAIN), *overrides, "experiment=smoke"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"COLUMNS": "120"},
    )
    assert (result.returncode == 0) == succeeds, result.stdout + result.stderr
    return result


@pytest.mark.slow
def test_a_sweep_gives_named_folders_and_the_weights_of_the_runs_alone(smears, tmp_path, capsys, caplog):
    command(tmp_path, "-m", "model=potinet,xopinet", "seed=1", "study=two", f"data.root={smears}")
    names = sorted(path.parent.name for path in (tmp_path / "logs" / "two").glob("*/summary.json"))
    assert [name.split("_")[:2] for name in names] == [[model, "seed-1"] for model in ("potinet", "xopinet")]
    assert not [path for path in (tmp_path / "logs").rglob("*") if "=" in path.name]
    alone, configuration = tmp_path / "alone", smoke("model=xopinet", "seed=1", f"data.root={smears}")
    train.run(configuration, alone)
    assert "mean over images" in capsys.readouterr().out
    assert same(weights(alone), weights(tmp_path / "logs" / "two" / names[-1]))
    before = (alone / "summary.json").read_bytes()
    caplog.set_level("INFO")
    train.run(configuration, alone)
    assert "this run is finished already; its results follow" in caplog.text
    told = capsys.readouterr().out
    assert "mean over images" in told
    assert f"pictures:   {alone / 'predictions'}" in told.replace("\n", "")
    assert "next:       cellseg predict" in told
    assert (alone / "summary.json").read_bytes() == before
    record = json.loads(before)
    (alone / "summary.json").write_text(json.dumps(record | {"git_commit": "f" * 40}))
    train.run(configuration, alone)
    assert f"finished already (by commit fffffff{'+' * record['git_dirty']}; the code is now at" in caplog.text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.depth=0", "error: model.depth must be at least 1, but is 0\n"),
        (
            "trainer.max_epoch=3",
            "error: trainer.max_epoch is not a key of the configuration; did you mean trainer.max_epochs?",
        ),
    ],
)
def test_bad_input_gets_one_message_and_exit_code_1(smears, tmp_path, override, message):
    result = command(tmp_path, f"data.root={smears}", override, succeeds=False)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert not list(tmp_path.rglob("summary.json"))


@pytest.mark.parametrize(("depth", "message"), [(0, "at least 1, but is 0"), (10**9, f"at most 16, but is {10**9}")])
def test_a_network_that_cannot_be_built_is_told_in_words_of_ours(smears, tmp_path, depth, message):
    with pytest.raises(InputError, match=f"^model[.]depth must be {message}$"):
        train.run(smoke(f"data.root={smears}", f"model.depth={depth}"), tmp_path / "run")
    assert not list(tmp_path.rglob("summary.json"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.root=nowhere", "a data set must be a folder, but nowhere does not exist"),
        ("data.image_size=100", "multiples of 16, but the image is 100x100; resize or pad it to 112x112"),
        ("data=mabimi", r"data.Mabimi does not exist; get the data set from https://drive\.google\.com/"),
        ("seed=-1", "seed must be a whole number from 0 to 4294967295, but is -1"),
        ("seed=abc", "seed must be a whole number from 0 to 4294967295, but is abc"),
        ("model.in_channels=1", r"model\.in_channels is 1, but the image has 3 channels"),
        ("model.out_channels=2", r"for masks of one class set model\.out_channels=1"),
        ("trainer.max_epochs=0", r"trainer\.max_epochs must be at least 1, but is 0"),
        ("trainer.max_epochs=abc", r"trainer\.max_epochs must be at least 1, but is abc"),
        ("+trainer.val_check_interval=1000", "training cannot start with this configuration: .*val_check_interval"),
        ("+trainer.limit_test_batches=1", r"trainer\.limit_test_batches cannot be set: scores cover all test images"),
        ("optimizer._target_=torch.optim.RMSprop", "remove the key with ~optimizer.fused"),
        ("trainer.precision=16-true", "trainer.precision=16-true cannot train"),
        ("optimizer.lr=-1", "optimizer cannot be built with these values: Invalid learning rate: -1"),
        ("+sed=3", "sed is not a key of cellseg, so adding it with [+] has no effect"),
        ("seed=true", "seed must be a whole number"),
        ("study='a=b'", "study must be a name of letters, digits"),
        ("trainer.max_epochs=-1", r"trainer\.max_epochs=-1 never ends; set it to a number"),
        ("optimizer.lr=abc", r"optimizer\.lr must be a number above 0, but is abc"),
        ("callbacks.ema.decay=2", r"callbacks\.ema\.decay must be at least 0 and below 1, but is 2"),
        ("data.split.test_fraction=0.01", "leaves 0 for test and 10 for training"),
    ],
)
def test_bad_values_are_refused_before_or_as_training_starts(smears, tmp_path, override, message):
    root = None if override.startswith(("data=", "data.root=")) else f"data.root={smears}"
    with pytest.raises(InputError, match=message):
        train.run(smoke(*filter(None, [root, override])), tmp_path / "run")
    assert not list(tmp_path.rglob("summary.json"))
