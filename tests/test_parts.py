"""Replacing each part of a run: it trains, continues bit for bit, is recorded, and an unusable part is refused."""

import copy
import csv
import json
import math
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, PolynomialLR, ReduceLROnPlateau, SequentialLR, StepLR
from torchmetrics import Metric
from torchmetrics.classification import BinaryAUROC, BinaryRecall

from cellseg import DiceBCELoss, DiceLoss, FocalLoss, Thresholded, UNet, train
from cellseg.data import MonaiTransforms
from cellseg.data.augmentation import augmented
from cellseg.metrics import PER_IMAGE, SCORES, AddedScores, SegmentationScores, image_scores
from cellseg.run.folder import RunFolder
from cellseg.run.overrides import as_typed, refuse_lists
from cellseg.run.probing import try_gradient, try_loss
from cellseg.run.schedule import Schedule
from cellseg.run.signals import Interrupted, StopRequest
from cellseg.run.values import check_values
from cellseg.storage.errors import InputError
from cellseg.study.collect import read_study
from cellseg.study.report import write_report
from cellseg.use.evaluate import estimate_scores, evaluate
from cellseg.use.trained import find_runs
from conftest import composed, quick_first, smoke

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*always_return_as_numpy"),  # MONAI calls it itself
    pytest.mark.filterwarnings("ignore:You requested to overfit"),  # and then the order is fixed
]


class Brier(Metric):
    """A score of one's own, of which less is better."""

    higher_is_better = False

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.tensor(0.0))
        self.add_state("pixels", torch.tensor(0))

    def update(self, probability, target):
        assert probability.shape == target.shape
        assert target.dtype == torch.long
        self.total += ((probability - target) ** 2).sum()
        self.pixels += target.numel()

    def compute(self):
        return self.total / self.pixels


def sensitivity(probability, target):
    return ((probability > 0.5) & (target > 0)).sum() / target.sum()


class Squared(nn.Module):
    """A loss of one's own."""

    def forward(self, logits, target):
        return ((logits.sigmoid() - target) ** 2).mean()


class Each(nn.Module):
    """A loss that is not averaged."""

    def forward(self, logits, target):
        return (logits - target) ** 2


class Detached(UNet):
    """A network that cannot learn."""

    def forward(self, image):
        return super().forward(image).detach()


class Thrifty(UNet):
    """A network that computes gradients only in training."""

    def forward(self, image):
        with torch.set_grad_enabled(self.training):
            return super().forward(image)


class Blind(nn.Module):
    """A loss that does not look at the logits."""

    def forward(self, logits, target):
        return target.mean()


class Steps(Callback):
    """A callback of one's own, with a state."""

    def __init__(self):
        self.steps = 0

    def on_train_batch_end(self, *_):
        self.steps += 1

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state_dict):
        self.steps = state_dict["steps"]


def flip(image, mask, generator):
    return (image.flip(-1), mask.flip(-1)) if torch.rand((), generator=generator) < 0.5 else (image, mask)


def decay(epoch):
    return 0.9**epoch


def warm(optimizer, total_steps):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / total_steps))


def of_torch(group, name, **keys):
    module = {"scheduler": "torch.optim.lr_scheduler", "optimizer": "torch.optim"}[group]
    keys = {"lr": 1e-3, **keys} if group == "optimizer" else keys
    return (f"~{group}", f"+{group}._target_={module}.{name}", *(f"+{group}.{key}={keys[key]}" for key in keys))


schedule, optimizer = partial(of_torch, "scheduler"), partial(of_torch, "optimizer")
LINEAR = "{_target_: torch.optim.lr_scheduler.LinearLR, total_iters: 3}"
COSINE = "{_target_: torch.optim.lr_scheduler.CosineAnnealingLR}"
EXPONENTIAL = "{_target_: torch.optim.lr_scheduler.ExponentialLR, gamma: 0.9}"
HAUSDORFF = (
    "metrics.hd95._target_=cellseg.Thresholded",
    "metrics.hd95.metric._target_=monai.metrics.HausdorffDistanceMetric",
    "metrics.hd95.metric.percentile=95",
    "metrics.hd95.metric.include_background=true",
    "metrics.hd95.higher_is_better=false",
)
# several at once, quick: what each table below has one of
TOGETHER = {
    "plateau, MONAI's score and transforms, two loggers, two callbacks": (
        "scheduler=plateau",
        "scheduler.patience=0",
        "data.split.val_fraction=0.25",
        "augmentation=monai",
        "logger=[tensorboard,csv]",
        "optimizer=adamw",
        "loss=focal",
        "+callbacks.steps._target_=test_parts.Steps",
        "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping",
        "+callbacks.stop.monitor=val/loss",
        *HAUSDORFF,
    ),
    "limited steps, sequence, no logger, profiler, accumulation and clipping": (
        *schedule("SequentialLR", schedulers=f"[{LINEAR},{COSINE}]", milestones="[3]", interval="step"),
        "+trainer.max_steps=5",
        "logger=null",
        "optimizer=sgd",
        "loss=dice_bce",
        "+trainer.profiler=simple",
        "+trainer.accumulate_grad_batches=2",
        "+trainer.gradient_clip_val=0.5",
        "metrics.brier._target_=test_parts.Brier",
        "metrics.found={_target_: test_parts.sensitivity, _partial_: true}",
    ),
}
SLOW = {
    "cosine": ("scheduler=cosine",),
    "cosine by epochs": ("scheduler=cosine", "scheduler.interval=epoch"),
    "dropout": ("model=segresnet", "+model.dropout_prob=0.3"),
    "step": ("scheduler=step", "scheduler.step_size=1"),
    "plateau": ("scheduler=plateau", "scheduler.patience=0", "data.split.val_fraction=0.25"),
    "plateau of the training loss": (
        *("scheduler=plateau", "scheduler.patience=0", "scheduler.monitor=train/loss"),
        *("+scheduler.threshold=0.5", "scheduler.mode=min"),
    ),
    "LambdaLR": schedule("LambdaLR", lr_lambda="{_target_: test_parts.decay, _partial_: true}"),
    "MultiplicativeLR": schedule("MultiplicativeLR", lr_lambda="{_target_: test_parts.decay, _partial_: true}"),
    "MultiStepLR": schedule("MultiStepLR", milestones="[1,2]"),
    "ConstantLR": schedule("ConstantLR"),
    "LinearLR": schedule("LinearLR"),
    "ExponentialLR": schedule("ExponentialLR", gamma=0.8),
    "PolynomialLR": schedule("PolynomialLR"),
    "ChainedScheduler": schedule("ChainedScheduler", schedulers=f"[{LINEAR},{EXPONENTIAL}]"),
    "CyclicLR": schedule("CyclicLR", base_lr=1e-4, max_lr=1e-3, step_size_up=4, cycle_momentum="false"),
    "CosineAnnealingWarmRestarts": schedule("CosineAnnealingWarmRestarts", T_0=2),
    "schedule of one's own": ("~scheduler", "+scheduler._target_=test_parts.warm"),
    "RMSprop": optimizer("RMSprop"),
    "NAdam": optimizer("NAdam"),
    "Adagrad": (*optimizer("Adagrad"), "scheduler=cosine"),
    "LBFGS": (*optimizer("LBFGS", max_iter=2), "scheduler=null", "trainer.precision=32-true"),
    "bce": ("loss=bce",),
    "loss of MONAI": ("~loss", "+loss._target_=monai.losses.DiceCELoss", "+loss.sigmoid=true"),
    "loss of one's own": ("~loss", "+loss._target_=test_parts.Squared"),
    "augmentation of one's own": (
        *("~augmentation", "+augmentation._target_=test_parts.flip", "+augmentation._partial_=true"),
    ),
    "score of torchmetrics": ("metrics.auroc._target_=torchmetrics.classification.BinaryAUROC",),
    "max_time": ("+trainer.max_time=00:01:00:00",),
    "advanced profiler": ("+trainer.profiler=advanced",),
    "min_epochs": ("+trainer.min_epochs=2",),
    "max_steps at the end of an epoch": ("+trainer.max_steps=8",),
    "max_steps alone": ("+trainer.max_steps=9", "trainer.max_epochs=null"),
    "clipping by value": ("+trainer.gradient_clip_val=0.1", "+trainer.gradient_clip_algorithm=value"),
    "limit_train_batches": ("+trainer.limit_train_batches=2",),
    "limit_val_batches": ("+trainer.limit_val_batches=0",),
    "val_check_interval": ("+trainer.val_check_interval=0.5",),
    "check_val_every_n_epoch": ("+trainer.check_val_every_n_epoch=2",),
    "sanity check": ("trainer.num_sanity_val_steps=2",),
    "detect_anomaly": ("+trainer.detect_anomaly=true",),
    "no checkpoints": ("+trainer.enable_checkpointing=false",),
    "overfit_batches": ("+trainer.overfit_batches=2",),
    "reload_dataloaders": ("+trainer.reload_dataloaders_every_n_epochs=1",),
    "plugins": ("+trainer.plugins=[{_target_: lightning.fabric.plugins.environments.LightningEnvironment}]",),
    "accumulation by epoch": (
        "+callbacks.more._target_=lightning.pytorch.callbacks.GradientAccumulationScheduler",
        "+callbacks.more.scheduling={1: 2}",
    ),
}


def weights(folder):
    return torch.load(folder / "weights.pth", weights_only=True)


def goes_on_bit_for_bit(words, smears, folder):
    """Train undisturbed and, beside it, stop after the first epoch and go on; return the undisturbed run's folder."""
    cfg = [f"data.root={smears}", "trainer.max_epochs=3", "study=s", *as_typed(words)]
    train.run(smoke(*cfg), folder / "whole")
    request = StopRequest()
    request.number = signal.SIGTERM
    with pytest.raises(Interrupted):
        train.run(smoke(*cfg), folder / "parts", request)
    train.run(smoke(*cfg), folder / "parts")
    first, second = (weights(folder / name) for name in ("whole", "parts"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    whole, parts = (RunFolder(folder / name) for name in ("whole", "parts"))
    assert whole.summary.metrics == parts.summary.metrics
    assert whole.per_image.equals(parts.per_image)
    assert whole.epochs.equals(parts.epochs)
    return folder / "whole"


@pytest.mark.parametrize("words", quick_first(1, list(zip(TOGETHER.values()))), ids=TOGETHER)
def test_parts_train_and_go_on(words, smears, tmp_path):
    folder = goes_on_bit_for_bit(words, smears, tmp_path)
    assert (folder / "csv" / "version_0" / "metrics.csv").exists() == any("csv" in word for word in words)
    assert (folder / "fit-profile.txt").exists() == any("profiler" in word for word in words)
    assert bool(list(folder.glob("events*"))) == ("logger=null" not in words)


def test_a_network_may_compute_gradients_only_in_training():
    network = Thrifty(init_features=4)
    before = copy.deepcopy(network.state_dict())
    try_gradient(network, 3, 32)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(InputError, match="depends on no weight that can change"):
        try_gradient(Detached(init_features=4), 3, 32)


def test_training_without_an_end_is_right_if_a_callback_can_end_it():
    words = ("trainer.max_epochs=-1", "scheduler=none")
    check_values(composed(*words, "+callbacks.early._target_=lightning.pytorch.callbacks.EarlyStopping"))
    with pytest.raises(InputError, match="never ends"):
        check_values(composed(*words))


@pytest.mark.slow
@pytest.mark.parametrize("words", SLOW.values(), ids=SLOW)
def test_every_part_trains_and_goes_on(words, smears, tmp_path):
    goes_on_bit_for_bit(words, smears, tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+trainer.fast_dev_run=true"], r"trainer\.fast_dev_run cannot be set: .*experiment=smoke"),
        (["+trainer.logger=false"], r"trainer\.logger cannot be set: loggers are a group"),
        (["+trainer.callbacks=[]"], r"trainer\.callbacks cannot be set: callbacks are a group"),
        (["+trainer.default_root_dir=x"], r"trainer\.default_root_dir cannot be set: .*study=NAME"),
        (["+trainer.barebones=true"], r"trainer\.barebones cannot be set"),
        (["+trainer.limit_predict_batches=2"], r"trainer\.limit_predict_batches cannot be set: .*cellseg predict"),
        (
            ["+trainer.max_epoch=3"],
            r"trainer\.max_epoch is not an argument of lightning\.Trainer; did you mean max_epochs",
        ),
        (["+trainer.max_time=abc"], r"trainer\.max_time='abc' is not a duration; write DD:HH:MM:SS"),
        (["+trainer.max_steps=0"], r"trainer\.max_steps must be a whole number from 1"),
        (["+trainer.accumulate_grad_batches=0"], r"trainer\.accumulate_grad_batches must be a whole number from 1"),
        (["+trainer.profiler=fast"], r"trainer\.profiler=fast does not exist; choose one of simple, advanced, pytorch"),
        (["+trainer.strategy=nope"], "trainer cannot be built with these values: .*invalid strategy"),
        (
            ["+trainer.plugins=[{_target_: lightning.pytorch.plugins.io.TorchCheckpointIO}]"],
            r"trainer\.plugins: cellseg writes checkpoints itself",
        ),
        (["~loss"], r"loss is missing; choose loss=OPTION"),
        (["model._target_=test_parts.Detached"], "model: the output depends on no weight that can change"),
        (["loss._target_=builtins.dict"], "loss gives a dict, where a Module of torch is needed"),
        (
            ["loss._target_=nope.Loss"],
            "loss needs the package nope: .*--config-dir FOLDER or PYTHONPATH=FOLDER; else pip install nope",
        ),
        (["loss._target_=torch.nn.Nope"], r"loss: torch\.nn\.Nope cannot be imported"),
        (
            ["loss._target_=test_parts.Each"],
            r"loss returns a tensor of shape \(1, 1, 64, 64\), where one number is needed",
        ),
        (["loss._target_=torch.nn.CrossEntropyLoss"], "loss returns a number that does not depend on the logits"),
        (["loss._target_=test_parts.Blind"], "loss returns a number that does not depend on the logits"),
        (["loss._target_=torch.nn.CosineSimilarity"], "loss returns a tensor"),
        (["loss=focal", "loss.alpha=2"], r"loss\.gamma must be at least 0 and loss\.alpha in \[0, 1\]"),
        (["+optimizer.nope=1"], "optimizer cannot be built with these values: .*nope"),
        (["~optimizer", "+optimizer._target_=builtins.list", "scheduler=none"], "optimizer gives a list"),
        (optimizer("SparseAdam"), "optimizer or scheduler fails in training: SparseAdam does not support dense"),
        (["~scheduler", "+scheduler._target_=torch.optim.SGD"], "scheduler is a SGD, where an LRScheduler"),
        (["+scheduler.total_steps=3"], "optimizer or scheduler fails in training: Tried to step 4 times"),
        (
            ["+callbacks.x._target_=lightning.pytorch.callbacks.EarlyStopping", "+callbacks.x.monitor=train/los"],
            "a callback watches a score that is not logged: .*train/los",
        ),
        (schedule("StepLR"), r"missing .*'step_size'; set it by \+scheduler\.KEY=VALUE"),
        (["scheduler=step", "scheduler.interval=week"], r"scheduler\.interval must be step or epoch, but is 'week'"),
        (["+scheduler.monitor=val/dice"], r"scheduler\.monitor is for ReduceLROnPlateau, not OneCycleLR"),
        (["scheduler=plateau"], r"scheduler watches val/dice, .*set data\.split\.val_fraction=0\.2, or scheduler"),
        (
            ["scheduler=plateau", "scheduler.monitor=train/los"],
            r"monitor=train/los is not logged; choose one of .*train/loss",
        ),
        (
            ["+callbacks.x._target_=builtins.dict"],
            r"callbacks\.x gives a dict, where a Callback of lightning is needed",
        ),
        (["+callbacks.x.y=3"], r"callbacks\.x has no _target_"),
        (["logger.tensorboard._target_=builtins.dict"], r"logger\.tensorboard cannot be built|gives a dict"),
        (
            ["logger=wandb"],
            r"logger\.wandb needs the package wandb: python -m pip install -c constraints\.txt -e \"\.\[wandb\]\"",
        ),
        (["metrics.dice._target_=torchmetrics.MeanMetric"], r"metrics\.dice: this name is reserved or invalid"),
        (["metrics._target_=torchmetrics.MeanMetric"], r"metrics\._target_ lacks a name"),
        (["metrics.probability._target_=torchmetrics.MeanMetric"], r"metrics\.probability: this name is reserved"),
        (["metrics.x=3"], r"metrics\.x has no _target_: 3"),
        (["metrics.x._target_=builtins.dict"], r"metrics\.x fails on an image: 'dict' object is not callable"),
        (
            ["metrics.x._target_=torchmetrics.classification.MultilabelAUROC", "metrics.x.num_labels=2"],
            r"metrics\.x fails on an image",
        ),
        (["augmentation._target_=builtins.dict"], "augmentation is a dict, which is not callable"),
        (
            ["~augmentation", "+augmentation={_target_: test_parts.sensitivity, _partial_: true}"],
            r"augmentation: \w+ fails on an image of shape \(3, 64, 64\)",
        ),
        (["data.split.val_fraction=0.25", "+trainer.limit_val_batches=0"], "the Trainer would never score them"),
        (["module._target_=torch.nn.Identity"], "module gives a Identity, where a LightningModule is needed"),
    ],
    ids=str,
)
def test_a_part_that_cannot_be_used_is_refused_by_name(words, message, smears, tmp_path):
    with pytest.raises(InputError, match=message):
        train.run(smoke(f"data.root={smears}", *as_typed(words)), tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(
    ("typed", "composed"),
    [
        (["logger=null"], ["logger=none"]),
        (["scheduler=null", "augmentation=null"], ["scheduler=none", "augmentation=none"]),
        (["~scheduler"], ["scheduler=none"]),
        (["~scheduler", "+scheduler._target_=a.B"], ["~scheduler", "+scheduler._target_=a.B"]),
        (["-m", "scheduler=null,cosine"], ["-m", "scheduler=none,cosine"]),
        (["metrics.hd._target_=a.B"], ["++metrics.hd._target_=a.B"]),
        (["logger=[tensorboard,csv]", "loss=focal"], ["logger=[tensorboard,csv]", "loss=focal"]),
    ],
)
def test_parts_are_typed_without_signs_of_hydra(typed, composed):
    assert as_typed(typed) == composed


@pytest.mark.parametrize("word", ["loss=[dice,bce]", "model=[unet,potinet]", "augmentation=[dihedral,monai]"])
def test_a_group_of_one_option_takes_one(word):
    with pytest.raises(InputError, match="takes one option; for a sweep over several use -m"):
        refuse_lists([word, "logger=[tensorboard,csv]"])


# --- schedules ---------------------------------------------------------------------------------------------------


class FakeTrainer:
    """What a schedule asks of a Trainer: 5 epochs of 4 steps."""

    estimated_stepping_batches, num_training_batches, accumulate_grad_batches = 20, 4, 1
    max_epochs = 5
    callbacks = ()


def rates(schedule, times):
    weight = nn.Parameter(torch.zeros(1))
    scheduler, interval, words = schedule.build(torch.optim.SGD([weight], lr=1.0), FakeTrainer())
    found = []
    for _ in range(times):
        found.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return [*found, scheduler.get_last_lr()[0]], interval, words


def test_a_schedule_gets_its_length_in_steps_or_in_epochs():
    found, interval, words = rates(Schedule(CosineAnnealingLR), 20)
    assert interval == "step"
    assert words == "CosineAnnealingLR over 20 batches, stepped after every batch"
    assert np.allclose(found, [(1 + math.cos(math.pi * step / 20)) / 2 for step in range(21)])
    found, interval, words = rates(Schedule(CosineAnnealingLR, interval="epoch"), 5)
    assert (interval, words) == ("epoch", "CosineAnnealingLR over 5 epochs, stepped after every epoch")
    assert np.allclose(found, [(1 + math.cos(math.pi * epoch / 5)) / 2 for epoch in range(6)])
    found, _, _ = rates(Schedule(PolynomialLR), 20)
    assert found[19] > 0 == found[20]


def test_a_length_that_is_given_is_kept_and_stepped_as_torch_does():
    _, interval, words = rates(Schedule(partial(CosineAnnealingLR, T_max=3)), 1)
    assert (interval, words) == ("epoch", "CosineAnnealingLR, stepped after every epoch")
    assert rates(Schedule(partial(StepLR, step_size=1)), 1)[1] == "epoch"


def test_the_parts_of_a_sequence_get_what_is_left_of_it():
    parts = [partial(LinearLR, start_factor=0.5, total_iters=5), CosineAnnealingLR]
    whole = Schedule(partial(SequentialLR, schedulers=parts, milestones=[5]), interval="step")
    found, _, _ = rates(whole, 20)
    assert found[0] == 0.5
    assert found[5] == 1
    assert found[20] == pytest.approx(0, abs=1e-12)
    assert found[5:] == sorted(found[5:], reverse=True)


def test_what_waits_for_a_score_looks_at_the_right_one():
    assert Schedule(partial(ReduceLROnPlateau, mode="max")).watched == "val/dice"
    assert Schedule(ReduceLROnPlateau).watched == "val/loss"
    assert Schedule(ReduceLROnPlateau, monitor="train/loss").watched == "train/loss"
    with pytest.raises(InputError, match="watches a score, which is known once per epoch"):
        Schedule(ReduceLROnPlateau, interval="step")


def test_a_schedule_of_no_known_length_is_refused():
    trainer = FakeTrainer()
    trainer.estimated_stepping_batches = math.inf
    adam = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
    with pytest.raises(InputError, match=r"needs 1 or more steps, not inf; set trainer\.max_epochs"):
        Schedule(CosineAnnealingLR).build(adam, trainer)
    assert Schedule(partial(StepLR, step_size=2)).build(adam, trainer)[1] == "epoch"


# --- losses ------------------------------------------------------------------------------------------------------


def some(seed=0, images=3):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, 1, 8, 8, generator=generator)
    return logits, (torch.rand(images, 1, 8, 8, generator=generator) < 0.4).float()


def test_losses_agree_with_monai():
    from monai.losses import DiceFocalLoss
    from monai.losses import FocalLoss as Theirs

    logits, target = some()
    theirs = Theirs(gamma=1.5)(logits, target)
    torch.testing.assert_close(FocalLoss(gamma=1.5, alpha=0.5)(logits, target), theirs / 2)
    both = DiceFocalLoss(sigmoid=True, gamma=0.0, smooth_nr=0.0, smooth_dr=0.0)(logits, target)
    torch.testing.assert_close(DiceBCELoss()(logits, target), both)


def test_losses_teach_on_images_without_cells_but_for_dice():
    logits, empty = some()[0].requires_grad_(), torch.zeros(3, 1, 8, 8)
    for loss, teaches in ((DiceLoss(), False), (DiceBCELoss(), True), (FocalLoss(), True)):
        [gradient] = torch.autograd.grad(loss(logits, empty), logits)
        assert bool((gradient != 0).any()) == teaches


def test_trying_a_loss_changes_nothing():
    state = torch.get_rng_state()
    loss = nn.BCEWithLogitsLoss()
    try_loss(loss, 16)
    assert torch.equal(torch.get_rng_state(), state)


# --- scores ------------------------------------------------------------------------------------------------------


def test_the_list_of_scores_is_what_is_computed():
    logits, target = some()
    scores = image_scores(logits.sigmoid(), target)
    assert set(PER_IMAGE) == {name for name in scores if not name.endswith("_pixels")}
    together = SegmentationScores()
    together.update(scores)
    assert list(together.compute()) == [score.name for score in SCORES]


def test_added_scores_are_those_of_each_image_alone():
    added = AddedScores({"auroc": BinaryAUROC(), "recall": BinaryRecall(), "brier": Brier(), "found": sensitivity})
    logits, target = some()
    p = logits.sigmoid()
    values = added(p, target)
    for index in range(len(p)):
        one = p[index : index + 1], target[index : index + 1].long()
        assert values["auroc"][index] == BinaryAUROC()(*one)
        assert values["recall"][index] == values["found"][index] == BinaryRecall()(*one)
        assert values["brier"][index].item() == pytest.approx(((one[0] - one[1]) ** 2).mean().item())
    better = {score.name: score.better for score in added.described}
    assert better == {"auroc": "higher", "recall": "higher", "brier": "lower", "found": None}
    first = added(p[:1], target[:1])
    assert {name: value.item() for name, value in first.items()} == {name: v[0].item() for name, v in values.items()}


def test_images_without_a_value_are_left_out_of_the_mean():
    logits, target = some()
    target[1] = 0  # sensitivity is 0 / 0 there
    added = AddedScores({"found": sensitivity})
    values = added(logits.sigmoid(), target, torch.tensor([False, False, True]))
    assert values["found"].isnan().tolist() == [False, True, True]
    mean = SegmentationScores(["found", "never"])
    mean.update(image_scores(logits.sigmoid(), target) | values | {"never": torch.full((3,), torch.nan)})
    computed = mean.compute()
    assert computed["found"] == values["found"][0]
    assert "never" not in computed


def test_a_metric_cannot_change_what_it_is_given():
    logits, target = some()
    p = logits.sigmoid()
    before = p.clone(), target.clone()
    AddedScores({"x": lambda probability, mask: probability.mul_(0).sum() + mask.mul_(0).sum()})(p, target)
    assert torch.equal(p, before[0])
    assert torch.equal(target, before[1])


def test_metrics_of_two_masks_get_masks():
    seen = []
    cut = Thresholded(lambda mask, target: seen.append((mask, target)) or 1.0, higher_is_better=False)
    added = AddedScores({"x": cut})
    logits, target = some()
    assert added(logits.sigmoid(), target)["x"].tolist() == [1, 1, 1]
    assert all(mask.dtype == truth.dtype == torch.long for mask, truth in seen)
    assert torch.equal(torch.cat([mask for mask, _ in seen]), (logits > 0).long())
    assert added.described[0].better == "lower"


@pytest.fixture(scope="module")
def scored(smears, tmp_path_factory):
    """A study of two seeds of two networks with three added scores; one has no value on one test image."""
    study = tmp_path_factory.mktemp("logs") / "s"
    added = (*HAUSDORFF, "metrics.brier._target_=test_parts.Brier")
    for model in ("unet", "potinet"):
        words = [f"data.root={smears}", f"model={model}", "trainer.max_epochs=1", "study=s", *added]
        train.run(smoke(*as_typed(words)), study / f"{model}_seed-0")
    return study


def test_an_added_score_is_in_every_table(scored):
    run = RunFolder(scored / "unet_seed-0")
    assert run.summary.added_scores == {"hd95": "lower", "brier": "lower"}
    for name in run.summary.added_scores:
        valued = run.test_rows[name].dropna()
        assert run.summary.metrics[f"test/{name}"] == pytest.approx(valued.mean(), rel=1e-5)
        assert run.epochs[f"val/{name}"].notna().all()
    write_report(read_study(scored))
    heads = {}
    for table in ("configurations", "comparisons", "images"):
        with (scored / f"{table}.csv").open(newline="") as file:
            heads[table] = next(csv.reader(file))
    assert {"hd95", "brier"} <= set(heads["configurations"])
    assert {"hd95_difference", "brier_low", "soft_dice_high"} <= set(heads["comparisons"])
    assert {"hd95 UNet", "brier PotiNet", "iou UNet", "dice UNet"} <= set(heads["images"])
    page = (scored / "report.md").read_text()
    assert "| hd95 ↓ | brier ↓ |" in page
    assert "lower is better" in page


@pytest.mark.slow
def test_scores_do_not_make_another_configuration(scored, smears, tmp_path):
    study = tmp_path / "s"
    shutil.copytree(scored, study)
    plain = [f"data.root={smears}", "trainer.max_epochs=1", "study=s", "seed=1", "logger=none"]
    train.run(smoke(*plain), study / "unet_seed-1")
    assert read_study(study).configurations == ["PotiNet", "UNet"]
    write_report(read_study(study))


@pytest.mark.slow
def test_images_without_a_value_are_left_out_of_comparisons(scored, tmp_path):
    study = tmp_path / "s"
    shutil.copytree(scored, study)
    table = study / "unet_seed-0" / "per_image.csv"
    with table.open(newline="") as file:
        lines = list(csv.DictReader(file))
    lines[0]["brier"] = ""
    lines[0]["hd95"] = lines[1]["hd95"] = ""
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    write_report(read_study(study))
    with (study / "comparisons.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    other = RunFolder(study / "potinet_seed-0").test_rows.set_index("image")["brier"][lines[1]["image"]]
    assert float(row["brier_difference"]) == pytest.approx(other - float(lines[1]["brier"]), abs=1e-6)
    assert row["hd95_difference"] == ""


def test_added_scores_are_evaluated_where_they_are_trusted(scored, own_smears):
    trained = find_runs(scored / "unet_seed-0")
    found = evaluate(trained, own_smears)
    assert [line for line in found.caveats if line.startswith("metrics.")] == [
        "metrics.hd95 is not computed: monai must be imported; add --trust",
        "metrics.brier is not computed: test_parts must be imported; add --trust",
    ]
    assert "brier" not in estimate_scores(found.unseen, found.scores)
    assert str(Path(__file__).parent) in trained.runs[0].files.summary.score_places
    trusted = evaluate(trained, own_smears, trust=True)
    brier = estimate_scores(trusted.unseen, trusted.scores)["brier"]
    assert brier.value == pytest.approx(trusted.unseen["brier"].mean())
    assert brier.interval[0] < brier.value < brier.interval[1]


# --- augmentation, loggers ----------------------------------------------------------------------------------------


def test_transforms_of_monai_draw_by_the_generator_alone():
    from monai.transforms import Compose, OneOf, RandAffined, RandGaussianNoised, RandRotate90d

    transforms = [
        RandRotate90d(keys=["image", "mask"], prob=0.7),
        OneOf([RandGaussianNoised("image", prob=1.0), Compose([RandGaussianNoised("image", prob=0.5, std=0.5)])]),
        RandAffined(keys=["image", "mask"], prob=0.9, rotate_range=1.0, mode=["bilinear", "nearest"]),
    ]
    augmentation = MonaiTransforms(transforms)
    image, mask = torch.rand(3, 16, 16), (torch.rand(1, 16, 16) < 0.5).float()

    def drawn(seed):
        return augmented(augmentation, image, mask, torch.Generator().manual_seed(seed))

    there = [drawn(seed) for seed in range(8)]
    state = torch.get_rng_state()
    back = [drawn(seed) for seed in reversed(range(8))][::-1]
    assert torch.equal(torch.get_rng_state(), state)
    for first, second in zip(there, back, strict=True):
        assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
        assert all(type(part) is torch.Tensor for part in first)
    assert len({image.sum().item() for image, _ in there}) > 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda image, mask, generator: (image, mask / 2),
            "a mask with values other than 0 and 1; resample masks with mode: near",
        ),
        (
            lambda image, mask, generator: (image[:, :8, :8], mask),
            r"changes the image from shape \(3, 16, 16\) to \(3, 8, 8\)",
        ),
        (lambda image, mask, generator: (image * torch.nan, mask), "NaN or infinite values"),
        (lambda image, mask: (image, mask), r"fails on an image of shape \(3, 16, 16\)"),
        (lambda image, mask, generator: image, "fails on an image"),
    ],
)
def test_an_augmentation_that_spoils_images_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        augmented(change, torch.rand(3, 16, 16), torch.ones(1, 16, 16), torch.Generator())


def test_another_logger_makes_no_other_run(finished, smears, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    before = json.loads((folder / "summary.json").read_text())
    words = [f"data.root={smears}", "data.split.val_fraction=0.25", "trainer.max_epochs=3", "logger=csv"]
    train.run(smoke(*words), folder)
    assert json.loads((folder / "summary.json").read_text()) == before
    assert "mean over images" in capsys.readouterr().out
