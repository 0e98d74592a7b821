"""The run folder: the schema of its files, used for writing and reading."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, ValidationError, model_validator

from cellseg.data.drawing import Pixels, brightened, draw_panel, with_legend
from cellseg.data.facts import Reading
from cellseg.data.images import as_rgb
from cellseg.data.splits import SplitRecord
from cellseg.metrics import OBJECT_SCORES, PER_IMAGE, SCORES, Direction, Score, added_score
from cellseg.run.naming import FAILURE
from cellseg.storage.csv_files import from_text
from cellseg.storage.errors import InputError
from cellseg.storage.files import read_bounded, require_bounded
from cellseg.storage.records import Count, Finite, Positive, Record, fault

if TYPE_CHECKING:
    import pandas as pd

SCHEMA: Final = 1  # changes whenever readers of the old schema would be wrong
BASELINES = "baselines.csv"
ROUNDING = 1e-5  # soft Dice, a ratio of float32 sums, may exceed 1 by this
RGB = (0, 1, 2)  # if no channels are chosen
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # of PNG, by number of channels
TEXT_COLUMNS = {"image": str, "group": str, "subset": str}
LONGEST_HEADING = 2**16  # bytes
DEEPEST = 100  # levels of a configuration

Mask = NDArray[np.bool_]
Line = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
Side = Annotated[float, Field(ge=1, le=2**16)]  # pixels


def _has(*names: str) -> AfterValidator:
    """Require some keys of a mapping; other keys are free."""

    def check(values: dict[str, float]) -> dict[str, float]:
        if missing := [name for name in names if name not in values]:
            raise ValueError(f"{missing[0]} is missing")
        return values

    return AfterValidator(check)


class Counts(Record):
    """Images of each subset, epochs and steps; the last two are 0 where masks of another tool were scored."""

    train: Positive
    val: Count
    test: Positive
    epochs: Count
    steps: Count


class PeakMemory(Record):
    """Peak memory in bytes; ``process`` is unknown on Windows, ``device`` on a CPU."""

    process: Count | None
    device: Count | None


class DataFacts(Record):
    """The data of a run: folder, content hash, median width and height in pixels, and allowed leaks."""

    root: Line
    fingerprint: str
    typical_size: tuple[Side, Side]
    allow_leaks: bool
    leaks: list[str]


class NetworkFacts(Record):
    """Properties of a network that were found by trying it.

    Attributes:
        target: Its class or function.
        place: The folder from which that was imported; None for this package.
        side_multiple: Image sides must be a multiple of it.
        side_least: The smallest side that works.
        side_fixed: Whether only ``side_least`` works, the side of training.
        least_batch: Minimum number of images in a training step.
    """

    target: str
    place: Line | None
    side_multiple: Positive
    side_least: Positive
    side_fixed: bool
    least_batch: Positive


class Summary(Record):
    """The contents of ``summary.json``, which is written last: a run that has one is finished.

    Attributes:
        command: The command that started the run; None for a run started from Python.
        date: When the run finished.
        metrics: Final values by logged key.
        spread_over_test_images: Standard deviation of each score over the test images.
        seconds: Wall time by phase.
        network: Properties of the network; None in runs of early versions.
        added_scores: Scores that the configuration adds, and which values are better.
        score_places: The folders from which their classes were imported.
        masks: The folder of masks of another tool, or person, that were scored in place of a network, as ``model``;
            such a run has no seed, and no keys of training.
        scored_on: The data set on whose labels its stored masks were scored anew; None if it was tested on its own.
        fitted: Whether the network was trained on the labels of that data set.
    """

    schema_version: Literal[1]
    status: Literal["finished"]
    model: str
    seed: Count | None
    command: str | None
    date: AwareDatetime
    metrics: Annotated[dict[str, Finite], _has(*(f"test/{score.name}" for score in SCORES))]
    averaging: dict[str, str]
    spread_over_test_images: dict[str, Finite | None]
    scored_weights: str
    validation: str
    counts: Counts
    seconds: dict[str, Finite]
    peak_memory_bytes: PeakMemory
    parameters: Positive | None
    gflop_per_image: Finite | None
    device: str
    devices: Positive
    precision: str
    data: DataFacts
    versions: dict[str, str]
    platform: str
    git_commit: str | None
    git_dirty: bool
    network: NetworkFacts | None = None
    added_scores: dict[Line, Direction | None] = Field(default_factory=dict)
    score_places: list[Line] = Field(default_factory=list)
    masks: Line | None = None
    scored_on: Line | None = None
    fitted: bool = False

    @model_validator(mode="after")
    def _trained(self) -> "Summary":
        """Require what every trained run has."""
        of_training = {
            "seed": self.seed,
            "metrics: test/loss": self.metrics.get("test/loss", self.scored_on),
            "seconds: train": self.seconds.get("train"),
            "counts: epochs": self.counts.epochs or None,
            "counts: steps": self.counts.steps or None,
            "parameters": self.parameters,
            "gflop_per_image": self.gflop_per_image,
        }
        if self.masks is None and (lacking := [key for key, value in of_training.items() if value is None]):
            raise ValueError(f"{lacking[0]} is missing")
        return self

    @property
    def scores(self) -> list[Score]:
        """All scores of the run; those that every run has come first."""
        added = [added_score(name, better) for name, better in self.added_scores.items()]
        return [*SCORES, *(score for score in OBJECT_SCORES if f"test/{score.name}" in self.metrics), *added]

    @property
    def commit(self) -> str:
        """The short commit, with a + if files had been changed."""
        return (self.git_commit or "unknown")[:7] + ("+" if self.git_dirty else "")


class _SchemaVersion(Record):
    schema_version: Any = None
    status: Any = None  # in every version
    git_commit: Any = None


class _SplitSettings(Record):
    seed: int = 0
    fold: Count | None = None


_Byte = Annotated[int, Field(ge=0, le=255)]


class _DataSettings(Record):
    image_size: Annotated[int, Field(ge=1, le=2**16)]
    resize: Literal["whole", "crop"] = "whole"
    mask_threshold: Annotated[int, Field(ge=0, le=254)]
    channels: Annotated[list[Count], Field(min_length=1, max_length=4)] | None = None
    ignore_value: Annotated[int, Field(ge=1, lt=2**16)] | tuple[_Byte, _Byte, _Byte] | None = None
    split: _SplitSettings


class Settings(Record):
    """The keys of ``config.yaml`` that cellseg reads by name."""

    seed: Count | None
    margin: Annotated[Finite, Field(ge=0)]
    model: dict[str, Any]
    data: _DataSettings

    @property
    def reading(self) -> Reading:
        """How its images were read."""
        channels, size = self.data.channels, None if self.data.resize == "crop" else self.data.image_size
        chosen = None if channels is None else tuple(channels)
        return Reading(self.data.mask_threshold, chosen, size, self.data.ignore_value)

    @property
    def training(self) -> tuple[int, int | None]:
        """What identifies the training set in a study: the seed of the split and the fold; None for a holdout."""
        return self.data.split.seed, self.data.split.fold


@dataclass(frozen=True)
class Prediction:
    """A test image as it was scored: image (H, W, C), label and prediction (H, W).

    ``ids``, shape (H, W), numbers the labelled objects; None if the label files do not. ``ignored``, same shape, marks
    pixels that nobody judged, which are no cell in the label; None if there are none.
    """

    image: Pixels
    truth: Mask
    mask: Mask
    ids: NDArray[np.int32] | None = None
    ignored: Mask | None = None

    @property
    def judged(self) -> Mask:
        """The prediction without pixels that nobody judged."""
        return self.mask if self.ignored is None else self.mask & ~self.ignored

    @property
    def picture(self) -> Pixels:
        """The image as people see it: RGB, shape (S, S, 3), brighter if it is dark."""
        return brightened(np.asarray(as_rgb(self.image)))


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C, where PyYAML was built with it


class _ConfigLoader(_Loader):
    """YAML as OmegaConf writes it, which knows no dates."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in _Loader.yaml_implicit_resolvers.items()
    }


@dataclass(frozen=True)
class RunFolder:
    """A run folder; each file is read, checked and cached on first use.

    Every property raises ``InputError`` if its file is missing, damaged or does not follow the schema.
    """

    path: Path

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return (self.path / "summary.json").exists()

    @cached_property
    def summary(self) -> Summary:
        """The record of a finished run."""
        path = self.path / "summary.json"
        try:
            found = _SchemaVersion.read(path)
            if found.status is not None and repr(found.schema_version) != repr(SCHEMA):
                raise InputError(_another_schema(path, found))
            return Summary.read(path)
        except (OSError, ValidationError) as error:
            raise InputError(
                f"{path}: is damaged ({fault(error)}); move the run away, or delete this file and run the same command "
                "again to train it again"
            ) from error

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        path = self.path / "config.yaml"
        try:
            text = read_bounded(path, "a configuration").decode()
            depth = 0
            for event in yaml.parse(text, _ConfigLoader):
                if isinstance(event, yaml.AliasEvent):  # aliases can expand without limit
                    raise ValueError("it contains YAML aliases, which train.py does not write")
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                if depth > DEEPEST:  # the loader calls itself for each level, and would crash
                    raise ValueError(f"it is nested more than {DEEPEST} levels deep")
            config = yaml.load(text, _ConfigLoader)  # nothing is left to resolve, and OmegaConf takes ten times as long
            if not isinstance(config, dict):
                raise ValueError("it is not a mapping")
            str(config).encode()  # YAML can hold surrogates, which cannot be written
        except Exception as error:  # YAML raises many kinds
            raise InputError(f"{path}: cannot be read ({fault(error)}); move the run away") from error
        return {str(key): value for key, value in config.items()}

    @cached_property
    def settings(self) -> Settings:
        """The keys of the configuration that cellseg reads by name."""
        try:
            return Settings.model_validate(self.config)
        except ValidationError as error:
            path = self.path / "config.yaml"
            raise InputError(
                f"{path}: differs from what train.py writes ({fault(error)}); move the run away"
            ) from error

    @cached_property
    def split(self) -> SplitRecord:
        """The split: which images trained and which tested."""
        path = self.path / "split.json"
        try:
            return SplitRecord.read(path)
        except (OSError, ValidationError) as error:
            raise InputError(
                f"{path}: differs from what train.py writes ({fault(error)}); move the run away"
            ) from error

    @cached_property
    def per_image(self) -> "pd.DataFrame":
        """One row per scored image."""
        path = self.path / "per_image.csv"
        scores = [score for score in self.summary.scores if not score.pooled]
        added = list(self.summary.added_scores)
        names = [score.name for score in scores]
        table, told = _read_table(path, [*TEXT_COLUMNS, *names]), self.summary.counts.test
        try:
            table = table.astype(dict.fromkeys(names, float))
            shares = [score.name for score in scores if score.share]
            if not table[shares].map(lambda score: 0 <= score <= 1 + ROUNDING).all(axis=None):
                raise ValueError("a score is missing, or not from 0 to 1")
            if table[[name for name in names if name not in added]].isna().any(axis=None):
                raise ValueError("a score is missing")
            if np.isinf(table[names].to_numpy()).any():
                raise ValueError("a score is infinite")
            if table[list(TEXT_COLUMNS)].isna().any(axis=None):
                raise ValueError("a name is missing")
            if table.duplicated(["subset", "image"]).any():
                raise ValueError("an image appears twice")
            if table["image"].str.contains(r"[/\0]").any():
                raise ValueError("the name of an image is a path")
            if (tested := int((table["subset"] == "test").sum())) != told:
                raise ValueError(f"it has {tested} test images, and summary.json says {told}")
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{path}: differs from what train.py writes ({fault(error)}); move the run away"
            ) from error
        return table

    @property
    def test_rows(self) -> "pd.DataFrame":
        """The rows of the test images."""
        return self.per_image[self.per_image["subset"] == "test"]

    @cached_property
    def baselines(self) -> "pd.DataFrame | None":
        """One row for each baseline and test image; None in runs of early versions."""
        path = self.path / BASELINES
        if not path.exists():
            return None
        table = _read_table(path, ["baseline", "image", "group", *PER_IMAGE])
        try:
            table = table.astype(dict.fromkeys(PER_IMAGE, float))
            if not table[list(PER_IMAGE)].map(lambda score: 0 <= score <= 1 + ROUNDING).all(axis=None):
                raise ValueError("a score is missing, or not from 0 to 1")
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{path}: differs from what train.py writes ({fault(error)}); move the run away"
            ) from error
        return table

    @property
    def failure(self) -> str | None:
        """The reason why the run failed; None if it is finished, or did not fail."""
        path = self.path / FAILURE
        if self.finished or not path.is_file():
            return None
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline(2000).strip()

    @cached_property
    def epochs(self) -> "pd.DataFrame":
        """One row per epoch."""
        path = self.path / "metrics.csv"
        table = _read_table(path, ["epoch"])
        try:
            return table.astype(float).astype({"epoch": int})
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{path}: differs from what train.py writes ({fault(error)}); move the run away"
            ) from error

    def prediction(self, name: str) -> Prediction:
        """Return a test image by its name, with label and prediction."""
        side = self.settings.reading.image_size
        mode, size = MODES[len(self.settings.data.channels or RGB)], (side, side) if side else None
        folder = self.path / "predictions"
        image = _read_picture(folder / "image" / f"{name}.png", mode, size)
        height, width = image.shape[:2]
        truth, mask = (_read_picture(folder / part / f"{name}.png", "L", (width, height)) for part in ("truth", "mask"))
        ids = None
        if (numbers := folder / "ids" / f"{name}.png").exists():
            ids = _read_picture(numbers, "I;16", (width, height)).astype(np.int32)
        ignored = None
        if (marks := folder / "ignored" / f"{name}.png").exists():
            ignored = _read_picture(marks, "L", (width, height)) > 0
        return Prediction(image.reshape(height, width, -1), truth > 0, mask > 0, ids, ignored)


def write_prediction(folder: Path, name: str, prediction: Prediction) -> None:
    """Write a test image of a run: a panel to look at, and the data it was drawn from."""
    parts: dict[str, NDArray[Any]] = {
        ".": with_legend(draw_panel(prediction.picture, prediction.truth, prediction.mask, prediction.ignored)),
        "image": prediction.image.squeeze(2) if prediction.image.shape[2] == 1 else prediction.image,
        "truth": prediction.truth * np.uint8(255),
        "mask": prediction.mask * np.uint8(255),
    }
    if prediction.ids is not None:
        parts["ids"] = prediction.ids.astype(np.uint16)
    if prediction.ignored is not None and prediction.ignored.any():
        parts["ignored"] = prediction.ignored * np.uint8(255)
    for part, pixels in parts.items():
        (place := folder / "predictions" / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{name}.png")


def leaves(node: Any, key: str = "") -> dict[str, Any]:
    """Return a nested configuration as one level of dotted keys."""
    if isinstance(node, dict) and node:
        return {leaf: value for name, child in node.items() for leaf, value in leaves(child, f"{key}.{name}").items()}
    return {key.removeprefix("."): node}


def _another_schema(path: Path, found: _SchemaVersion) -> str:
    commit = str(found.git_commit)[:12]
    with_that = f" (git checkout {commit})" if re.fullmatch("[0-9a-f]{7,}", commit) else ""
    return (
        f"{path}: the run folder has schema version {found.schema_version!r}, and this cellseg reads version {SCHEMA}; "
        f"use the cellseg that wrote it{with_that}, or train the run again with another study=NAME"
    )


def _read_table(path: Path, columns: Sequence[str]) -> "pd.DataFrame":
    """Read a CSV file of a run with at least these columns; an image called NA keeps its name."""
    import pandas as pd  # training does not need it

    try:
        content = read_bounded(path, "a table")
        if len(content.partition(b"\n")[0]) > LONGEST_HEADING:
            raise ValueError("its first line is not a heading")
        table = pd.read_csv(io.BytesIO(content), dtype=TEXT_COLUMNS, keep_default_na=False, na_values=[""])
        if missing := [column for column in columns if column not in table]:
            raise ValueError(f"its column {missing[0]} is missing")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({fault(error)}); move the run away") from error
    for column in table.columns.intersection(list(TEXT_COLUMNS)):
        table[column] = table[column].map(from_text, na_action="ignore")
    return table


def _read_picture(path: Path, mode: str, size: tuple[int, int] | None) -> Pixels:
    """Read a picture of a run, of a known width and height if there is one.

    Raises:
        InputError: If it cannot be read, or is of another kind or size.
    """
    try:
        require_bounded(path, "a picture")
        with Image.open(path) as picture:
            if picture.size != (size or picture.size) or picture.mode != mode:
                wanted = f"{size[0]}x{size[1]} {mode}" if size else mode
                raise ValueError(f"it is {picture.width}x{picture.height} {picture.mode}, not {wanted}")
            return np.asarray(picture)
    except Exception as error:  # Pillow's decoders may raise anything on a damaged file
        raise InputError(f"{path}: cannot be read ({fault(error)}); move the run away, or train it again") from error
