"""What makes the loss of the original recipe jump late in training: ``python tests/benchmarks/spike.py FOLDER OUT``.

Trains a small UNet (16 features, 128x128) by ``experiment=original`` on the drawn smears up to epoch 85, just before
the jump, and keeps weights and optimizer. Then it trains the last 15 epochs again and again from there, each time with
one thing changed: a change that removes the jump points to its cause. FOLDER gets a row for each epoch of each branch
and one for each training step; a branch that is there is not repeated. OUT gets ``spike.csv`` and ``spike.png``.
"""

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import Adam

from cellseg import train  # noqa: F401  registers the resolvers of the configuration
from cellseg.data import CellDataModule

CONF = Path(__file__).resolve().parents[2] / "conf"
OVERRIDES = ("experiment=original", "data.image_size=128", "model.init_features=16", "optimizer.fused=false")
BRANCH, END = 85, 100  # the first epoch of the branches, counted from 0, and the number of epochs

Change = Callable[["Training"], None]


class Training:
    """A network, its optimizer and its data, in a plain loop."""

    def __init__(self, *overrides: str) -> None:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", [*OVERRIDES, *overrides])
        torch.manual_seed(cfg.seed)
        self.data: CellDataModule = instantiate(cfg.data, seed=cfg.seed)
        self.data.prepare_data()
        self.data.setup()
        self.network, self.loss = instantiate(cfg.model), instantiate(cfg.loss)
        self.optimizer = instantiate(cfg.optimizer)(self.network.parameters())
        self.left_out = ""
        self.clip: float | None = None
        self.fixed_norm = False

    def epoch(self, number: int) -> Iterator[dict[str, Any]]:
        """Train one epoch, and yield a row for each step."""
        loader = self.data.train_dataloader()
        loader.sampler.set_epoch(number)
        self.network.train()
        for module in self.network.modules() if self.fixed_norm else ():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        for batch in loader:
            if self.left_out in batch["name"]:
                continue
            before = [weight.detach().clone() for weight in self.network.parameters()]
            self.optimizer.zero_grad()
            loss = self.loss(self.network(batch["image"]), batch["mask"])
            loss.backward()
            gradient = nn.utils.clip_grad_norm_(self.network.parameters(), self.clip or torch.inf)
            self.optimizer.step()
            moved = [after.detach() - was for after, was in zip(self.network.parameters(), before, strict=True)]
            yield {
                "epoch": number + 1,
                "images": " ".join(batch["name"]),
                "loss": loss.item(),
                "gradient_norm": gradient.item(),
                "step_norm": norm(moved),
                "second_moment": self.root_mean_second_moment(),
            }

    def root_mean_second_moment(self) -> float:
        """Return the root of the mean of Adam's second moment over all weights: the size it takes gradients to have."""
        moments = [state["exp_avg_sq"] for state in self.optimizer.state.values() if "exp_avg_sq" in state]
        return (sum(m.sum().item() for m in moments) / max(1, sum(m.numel() for m in moments))) ** 0.5

    @torch.no_grad()
    def score(self, loader: Any, *, training: bool = False) -> float:
        """Return the mean loss over images; with ``training``, batch norm uses each image's own statistics."""
        network = copy.deepcopy(self.network).train(training)
        losses = [self.loss(network(batch["image"]), batch["mask"]).item() for batch in loader]
        return sum(losses) / len(losses)


def norm(tensors: list[Tensor]) -> float:
    """Return the norm of all values of some tensors."""
    return torch.linalg.vector_norm(torch.stack([tensor.norm() for tensor in tensors])).item()


def set_option(**options: Any) -> Change:
    """Return a change of options of the optimizer."""

    def change(training: Training) -> None:
        for group in training.optimizer.param_groups:
            group.update(options)
        if options.get("amsgrad"):
            for state in training.optimizer.state.values():
                state["max_exp_avg_sq"] = state["exp_avg_sq"].clone()

    return change


def set_attribute(**attributes: Any) -> Change:
    """Return a change of the loop."""
    return lambda training: training.__dict__.update(attributes)


def forget_moments(training: Training) -> None:
    """Begin Adam anew, with the weights as they are."""
    training.optimizer = Adam(training.network.parameters(), lr=1e-4)


def plain_gradient(training: Training) -> None:
    """Continue with gradient descent, of steps about as long as Adam's."""
    training.optimizer = torch.optim.SGD(training.network.parameters(), lr=0.05, momentum=0.9)


def other_order(training: Training) -> None:
    """See the images in the order of later epochs."""
    epoch = training.epoch

    def shifted(number: int) -> Iterator[dict[str, Any]]:
        return (row | {"epoch": number + 1} for row in epoch(number + 1000))

    training.epoch = shifted  # type: ignore[method-assign]


BRANCHES: dict[str, tuple[tuple[str, ...], Change | None]] = {
    "unchanged": ((), None),
    "other order of images": ((), other_order),
    "learning rate halved": ((), set_option(lr=5e-5)),
    "learning rate a tenth": ((), set_option(lr=1e-5)),
    "amsgrad": ((), set_option(amsgrad=True)),
    "beta2 0.9999": ((), set_option(betas=(0.9, 0.9999))),
    "eps 1e-6": ((), set_option(eps=1e-6)),
    "eps 1e-4": ((), set_option(eps=1e-4)),
    "moments forgotten": ((), forget_moments),
    "plain gradient descent": ((), plain_gradient),
    "gradient clipped at 0.1": ((), set_attribute(clip=0.1)),
    "batch norm fixed": ((), set_attribute(fixed_norm=True)),
    "batches of 4": (("data.batch_size=4",), None),
}


SHOWN = {
    "unchanged": "black",
    "eps 1e-6": "#d55e00",
    "other order of images": "#e69f00",
    "amsgrad": "#cc79a7",
    "gradient clipped at 0.1": "#56b4e9",
    "eps 1e-4": "#009e73",
    "learning rate halved": "#0072b2",
}


def main(folder: Path, out: Path) -> None:
    """Train to the branching point, then each branch that is missing, and write table and figure."""
    folder.mkdir(parents=True, exist_ok=True)
    start, epochs, steps = folder / "start.pt", folder / "spike.csv", folder / "steps.csv"
    if not start.exists():
        training = Training()
        run(training, "before", range(BRANCH), epochs, steps)
        torch.save({"network": training.network.state_dict(), "optimizer": training.optimizer.state_dict()}, start)
    done = set(pd.read_csv(epochs)["branch"])
    for name, (overrides, change) in BRANCHES.items():
        if name in done:
            continue
        training = Training(*overrides)
        kept = torch.load(start, weights_only=True)
        training.network.load_state_dict(kept["network"])
        training.optimizer.load_state_dict(kept["optimizer"])
        if change:
            change(training)
        run(training, name, range(BRANCH, END), epochs, steps)
    means = pd.read_csv(steps).groupby(["branch", "epoch"])[["gradient_norm", "step_norm", "second_moment"]].mean()
    table = pd.read_csv(epochs).join(means, on=["branch", "epoch"])
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "spike.csv", index=False, float_format="%.6g")
    draw(table, out / "spike.png")


def draw(table: pd.DataFrame, file: Path) -> None:
    """Draw loss and step length of some branches."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    columns = {"train_loss": "training loss", "step_norm": "length of a step (norm), mean"}
    for axes, (column, label) in zip(figure.subplots(1, 2), columns.items(), strict=True):
        before = table[(table["branch"] == "before") & (table["epoch"] > 75)]
        axes.plot(before["epoch"], before[column], color="grey", label="before")
        for branch, colour in SHOWN.items():
            rows = pd.concat([before.tail(1), table[table["branch"] == branch]])
            axes.plot(rows["epoch"], rows[column], color=colour, label=branch, linewidth=1.5)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.set_ylim(0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=7, loc="lower left")
    figure.savefig(file, dpi=150)


def run(training: Training, branch: str, numbers: range, epochs: Path, steps: Path) -> None:
    """Train some epochs and add their rows to the two tables."""
    rows, seen = [], []
    for number in numbers:
        seen += [{"branch": branch} | row for row in training.epoch(number)]
        losses = [row["loss"] for row in seen if row["epoch"] == number + 1]
        rows.append(
            {
                "branch": branch,
                "epoch": number + 1,
                "train_loss": sum(losses) / len(losses),
                "test_loss": training.score(training.data.val_dataloader()),
                "test_loss_own_statistics": training.score(training.data.val_dataloader(), training=True),
            }
        )
        print(rows[-1], flush=True)  # noqa: T201
    for file, table in ((epochs, rows), (steps, seen)):
        pd.DataFrame(table).to_csv(file, mode="a", header=not file.exists(), index=False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
