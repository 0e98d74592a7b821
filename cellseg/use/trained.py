"""Find the network that a user names: a run, the best configuration of a study, or a file of weights."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from cellseg.data.facts import ImageFacts, Reading
from cellseg.data.findings import kind_of
from cellseg.data.formats import IMAGE_SUFFIXES
from cellseg.data.splits import SplitEntry
from cellseg.networks import PotiNet, UNet, XopiNet
from cellseg.run.building import build_foreign, build_own, is_own, origin_of, read_network
from cellseg.run.folder import NetworkFacts, RunFolder
from cellseg.run.probing import probe
from cellseg.storage.errors import InputError, count
from cellseg.study.collect import DifferentDataError, Study, read_study
from cellseg.use.inference import Predictor
from cellseg.use.load import Run, load_run, own_facts, read_weights, with_weights

PUBLISHED = {"unet": UNet, "potinet": PotiNet, "xopinet": XopiNet}
IMAGE_CHANNELS = 3  # of pictures that are read without a run
PUBLISHED_SIZE = 224  # pixels a side, in the original study
FAR_SCALE = 1.5  # warn if cells are this many times larger or smaller than in training
FAR_BRIGHTNESS, FAR_COLOUR = 30, 10  # of 255; an image this near to a test image is not of another kind
FIRST_LAYER = "encoder1.enc1conv1.weight"


def _times(factors: Sequence[float]) -> str:
    """Say factors in words; all are above 1, or all below."""
    larger = factors[0] > 1
    known = sorted({f"{factor if larger else 1 / factor:.1f}" for factor in factors}, key=float)
    span = known[0] if len(known) == 1 else f"{known[0]} to {known[-1]}"
    return f"{span} times {'larger' if larger else 'smaller'}"


@dataclass(frozen=True)
class Trained:
    """One network, or several of one kind whose probabilities are averaged.

    Attributes:
        name: Name for messages.
        runs: The runs of the networks; empty for a file of weights.
        networks: The networks with their weights.
        facts: Requirements of the networks on images.
        image_size: Side in pixels of the squares that the networks were trained on.
        precision: Precision in which the networks were tested.
        judges: Folders of the runs whose test images were used to choose this configuration.
    """

    name: str
    runs: Sequence[Run]
    networks: Sequence[nn.Module]
    facts: NetworkFacts
    image_size: int
    precision: str
    judges: Sequence[RunFolder] = ()

    @cached_property
    def known(self) -> dict[str, str]:
        """How each image was used (in training, or to choose the weights), by content hash."""
        return {entry.sha256: how for how, entry in self._entries}

    @cached_property
    def known_groups(self) -> dict[str, str]:
        """How each group was used, by name; empty if the user gave no groups."""
        said = any(entry.group != entry.name for _, entry in self._entries)
        return {entry.group: how for how, entry in self._entries} if said else {}

    @cached_property
    def _entries(self) -> list[tuple[str, SplitEntry]]:
        found = [("chosen by", entry) for judge in self.judges for entry in judge.split.test]
        found += [("chosen by", entry) for run in self.runs for entry in run.files.split.val]
        return found + [("trained on", entry) for run in self.runs for entry in run.files.split.train]  # weighs most

    @property
    def reading(self) -> Reading:
        """How its images were read; the defaults for a file of weights."""
        return self.runs[0].files.settings.reading if self.runs else Reading(image_size=self.image_size)

    @property
    def crops(self) -> bool:
        """Whether they were trained on crops at native scale, and so see images in tiles."""
        return bool(self.runs) and self.runs[0].files.settings.data.resize == "crop"

    @property
    def typical_size(self) -> tuple[float, float] | None:
        """Median width and height of its training images; None if unknown."""
        return self.runs[0].files.summary.data.typical_size if self.runs else None

    def scale_warning(self, sizes: Sequence[tuple[int, int]], *, tiles: bool, choice: bool = True) -> str | None:
        """Return a warning if images have another scale than in training, otherwise None.

        Args:
            sizes: Width and height of the images.
            tiles: Whether they are seen in tiles at native scale.
            choice: Whether the command has the other way too, which is then described.
        """
        if self.typical_size is None or not sizes or self.crops:
            return None
        width, height = self.typical_size
        usual = math.sqrt(width * height)
        in_tiles = usual / self.image_size  # how much larger cells are in tiles than in training
        whole = [usual / math.sqrt(w * h) for w, h in sizes]  # and how much larger in images seen whole
        far = [factor for factor in ([in_tiles] if tiles else whole) if not 1 / FAR_SCALE < factor < FAR_SCALE]
        if not far:
            return None
        kinds = [kind for kind in ([f for f in far if f < 1], [f for f in far if f > 1]) if kind]
        look = " and ".join(f"{_times(kind)} in {len(kind)}" for kind in kinds)
        where = f"cells look {_times(far)}" if tiles else f"cells look {look} of {count(len(sizes), 'image')}"
        other = "--scale 1 shows cells as large as in training, and --scale auto finds the factor from the images"
        resized = f"{width:g}x{height:g} pixels were resized to {self.image_size}x{self.image_size}"
        said = f"{where} than in training, where images of about {resized}, if a pixel shows as much in both"
        return f"{said}; {other}" if choice else said

    def kind_warning(self, facts: Sequence[ImageFacts]) -> str | None:
        """Return a warning if images are of another kind than the test images, such as dark instead of bright.

        Args:
            facts: Measurements of the images.
        """
        if not self.runs or self.reading.channels is not None:
            return None
        run = self.runs[0].files
        try:
            seen = [run.prediction(entry.name).image.astype(np.int16) for entry in run.split.test]
        except InputError:  # a run may be without its pictures
            return None
        known = [(float(image.mean()), float(np.ptp(image, axis=2).mean())) for image in seen]
        kinds = {kind_of(*measures) for measures in known}
        unlike = Counter(
            kind
            for fact in facts
            if (kind := kind_of(fact.brightness, fact.colourfulness)) not in kinds
            and all(
                abs(fact.brightness - brightness) > FAR_BRIGHTNESS or abs(fact.colourfulness - colour) > FAR_COLOUR
                for brightness, colour in known
            )
        )
        if not unlike:
            return None
        those = " and ".join(
            f"{number} of {count(len(facts), 'image')} look {kind}" for kind, number in unlike.most_common()
        )
        return (
            f"{those}, but the images that the network was tested on are "
            f"{' and '.join(sorted(kinds))}: it may miss cells, or find some where there are none; look before you use "
            "the numbers"
        )

    def in_words(self, predictor: Predictor) -> str:
        """The network, and how it predicts images."""
        as_in = "as in training" if self.runs else "as in the original study; what it was trained at is not on record"
        usual = predictor.tiles == self.crops and not predictor.margin and not predictor.zoom
        return f"{self.name}; images are {predictor.in_words}" + (f", {as_in}" if usual else "")

    def zoom(self, scale: float) -> tuple[float, float]:
        """Return how many pixels the networks see for each pixel of an image, horizontally and vertically.

        Args:
            scale: 1 shows a pixel of an image as large as one of the training images was shown.

        Raises:
            InputError: If the size of the training images is unknown.
        """
        if self.crops:
            return scale, scale
        if self.typical_size is None:
            raise InputError(f"--scale needs the size of the training images, which {self.name} does not record")
        width, height = self.typical_size
        return scale * self.image_size / width, scale * self.image_size / height

    def predictor(
        self, *, tiles: bool = False, turned: bool = False, border: bool = False, scale: float | None = None
    ) -> Predictor:
        """Return a ``Predictor`` with these networks, with tiles always if they were trained on crops."""
        return Predictor(
            self.networks,
            self.image_size,
            facts=self.facts,
            precision=self.precision,
            tiles=tiles or self.crops,
            zoom=None if scale is None else self.zoom(scale),
            turned=turned,
            border=border,
        )


def find_trained(path: Path, *, model: str | None = None, ensemble: bool = False, trust: bool = False) -> Trained:
    """Load the network or networks that a user named.

    Args:
        path: A run folder, a folder of runs, or a file of weights.
        model: For a file of weights, which network they are of: unet, potinet or xopinet, or a configuration file.
        ensemble: Of a folder of runs, whether to use all runs of the best configuration, not only its first.
        trust: Whether a network of another package is imported and built.

    Raises:
        InputError: If it is none of these, or the options do not fit it.
    """
    path = _run_of(path)
    if not path.is_file():
        if model is not None and not path.exists():
            raise InputError(f"{path} does not exist; name a file of weights")
        if model is not None:
            raise InputError(f"{path} is a run folder, which names its network; leave out --model")
        return find_runs(path, ensemble=ensemble, trust=trust)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise InputError(f"{path} is an image; name the run folder or the file of weights first, then the images")
    if ensemble:
        raise InputError(f"{path} is a file of weights, but --ensemble needs a folder of runs; leave out --ensemble")
    if model is not None and model.lower().endswith((".yaml", ".yml")):
        return _configured(path, Path(model), trust=trust)
    return _published(path, model)


def find_runs(path: Path, *, ensemble: bool = False, trust: bool = False) -> Trained:
    """Load the network of a run, or of a folder of runs; a file of weights is refused.

    Raises:
        InputError: As ``find_trained``.
    """
    path = _run_of(path)
    if path.is_file():
        raise InputError(
            f"{path} is only a file of weights; its training images are unknown, so its scores would not be reliable; "
            "name its run folder"
        )
    if is_study(path):
        try:
            study = read_study(path)
        except DifferentDataError as error:
            one = min(path.glob("*/summary.json")).parent
            raise InputError(
                f"{path}: its runs used different data, so none of its networks is the best; name a run, such as {one}"
            ) from error
        return _best_of(study, ensemble=ensemble, trust=trust)
    if ensemble:
        raise InputError(
            f"{path} is not a folder of runs, but --ensemble averages several runs; name the folder of the study"
        )
    run = load_run(path, trust=trust)
    return _together(f"{run.files.summary.model} of {path}", [run])


def is_study(path: Path) -> bool:
    """Return whether a folder holds runs."""
    return path.is_dir() and not (path / "config.yaml").exists() and any(path.glob("*/config.yaml"))


def _run_of(path: Path) -> Path:
    """Return the run folder of a file of weights that lies in one."""
    folders = (path.parent, path.parent.parent) if path.suffix in (".pth", ".ckpt") and path.is_file() else ()
    return next((folder for folder in folders if (folder / "summary.json").exists()), path)


def _best_of(study: Study, *, ensemble: bool, trust: bool) -> Trained:
    """Load the network with the highest mean test Dice in the seeds and folds that all networks of the study have."""
    trained, networks = study.trained, len(study.differences)
    if trained.empty:
        raise InputError(f"{study.folder} has only masks that were scored, and no network; name a run that was trained")
    have = trained.groupby(["fold", "seed"])["configuration"].transform("nunique")
    shared = trained.loc[have == networks, ["fold", "seed"]].drop_duplicates()
    images = study.images[~study.images["configuration"].isin(study.masks)]
    images = images if shared.empty else images.merge(shared, on=["fold", "seed"])
    each = images.groupby(["configuration", "fold", "image"])["dice"].mean().groupby(["configuration", "image"]).mean()
    dice = each.groupby("configuration").mean().sort_values(ascending=False, kind="stable")
    foreign = [] if trust else _foreign(study, trained)
    usable = [name for name in dice.index if name not in foreign]
    best = str(usable[0] if usable else dice.index[0])  # a network that must not be built is refused below
    passed = [name for name in dice.index[: list(dice.index).index(best)] if dice[name] > dice[best]]
    runs = trained[trained["configuration"] == best].sort_values(["seed", "fold"])["run"]
    # not the run with the highest score: that choice would favour chance on the test images
    chosen = runs if ensemble else runs[:1]
    of = f"{len(chosen)} runs averaged" if len(chosen) > 1 else f"run {chosen.iloc[0]}"
    others, tied = networks - 1, int((dice == dice[best]).sum()) - 1
    beaten = f", level with {tied} of {count(others, 'other')}" if tied else f", best of {others + 1} configurations"
    beaten = beaten if others else ""
    beaten = ", best of those that need no --trust" if passed else beaten
    name = f"{best}{beaten} in {study.folder} by mean test Dice ({dice[best]:.4f}), {of}"
    if passed:
        name += f"; {' and '.join(passed)} scored more, but needs --trust, because its network is of another package"
    judges = [RunFolder(study.folder / run) for run in trained["run"]] if networks > 1 else []
    return _together(name, [load_run(study.folder / run, trust=trust) for run in chosen], judges)


def _foreign(study: Study, trained: pd.DataFrame) -> set[str]:
    """Return the configurations whose network is of another package."""
    first = trained.drop_duplicates("configuration")
    models = {
        name: RunFolder(study.folder / run).config.get("model")
        for name, run in zip(first["configuration"], first["run"], strict=True)
    }
    return {name for name, model in models.items() if not is_own(model if isinstance(model, dict) else {})}


def _together(name: str, runs: Sequence[Run], judges: Sequence[RunFolder] = ()) -> Trained:
    first = runs[0]
    if other := [run for run in runs if run.image_size != first.image_size]:
        raise InputError(f"{other[0].folder} was trained at another data.image_size than {first.folder}")
    if other := [run for run in runs if run.files.settings.data.resize != first.files.settings.data.resize]:
        raise InputError(f"{other[0].folder} was trained with another data.resize than {first.folder}")
    if other := [run for run in runs if run.files.settings.data.channels != first.files.settings.data.channels]:
        raise InputError(f"{other[0].folder} was trained on other data.channels than {first.folder}")
    networks = [run.network for run in runs]
    return Trained(name, runs, networks, first.facts, first.image_size, first.files.summary.precision, judges)


def _published(path: Path, model: str | None) -> Trained:
    """Read a file of weights; its first layer gives the number of features and channels."""
    if model is None:
        raise InputError(
            f"{path} does not say which network its weights are of; add --model {'|'.join(PUBLISHED)}, "
            "or --model FILE.yaml with the configuration of another network"
        )
    model = model.lower()
    if model not in PUBLISHED:
        raise InputError(f"--model must be one of {', '.join(PUBLISHED)}, or a .yaml file, but is {model}")
    weights = read_weights(path)
    first = weights.get(FIRST_LAYER)
    if first is None or first.ndim != 4:
        raise InputError(f"{path}: has no {FIRST_LAYER}, so these are not the weights of a {model}")
    features, channels = first.shape[:2]
    if channels != 3:
        raise InputError(f"{path}: is for images of {channels} channels, but pictures are read as RGB")
    settings = {"in_channels": channels, "out_channels": 1, "init_features": features}
    network = with_weights(build_own({"_target_": f"cellseg.{PUBLISHED[model].__name__}", **settings}), path)
    facts = own_facts(network)
    return Trained(f"{network.name} with the weights of {path}", [], [network], facts, PUBLISHED_SIZE, "32-true")


def _configured(path: Path, file: Path, *, trust: bool) -> Trained:
    """Read a file of weights for the network that a configuration file names."""
    settings = read_network(file)
    if is_own(settings):
        network: nn.Module = with_weights(build_own(settings), path)
    elif trust:
        network = with_weights(
            build_foreign(settings, [str(place) for place in file.resolve().parents[:3]], None), path
        )
    else:
        raise InputError(f"{file}: to build {settings['_target_']}, its package must be imported; add --trust")
    facts = probe(network, IMAGE_CHANNELS, PUBLISHED_SIZE, origin_of(settings, network))
    return Trained(f"{file.stem} with the weights of {path}", [], [network], facts, PUBLISHED_SIZE, "32-true")
