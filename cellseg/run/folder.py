"""The run folder: its one schema, by which a run writes it and everything else reads it."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from omegaconf import OmegaConf
from PIL import Image
from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, ValidationError

from cellseg.data.drawing import Pixels, draw_panel
from cellseg.data.facts import Reading
from cellseg.data.images import as_rgb
from cellseg.data.splits import SplitRecord
from cellseg.metrics import PER_IMAGE, SCORES, Direction, Score, added_score
from cellseg.storage.csv_files import from_text
from cellseg.storage.errors import InputError
from cellseg.storage.files import read_bounded, require_bounded
from cellseg.storage.records import Count, Finite, Positive, Record, fault

if TYPE_CHECKING:
    import pandas as pd

SCHEMA: Final = 1  # of a run folder; it changes whenever a reader of the old one would be wrong
REQUIRED = ("test/loss", *(f"test/{score.name}" for score in SCORES))
ROUNDING = 1e-5  # by which soft Dice, a ratio of float32 sums, may come out too large
RGB = (0, 1, 2)  # channels of an image where none are chosen
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # in which PNG holds as many channels
TEXT_COLUMNS = {"image": str, "group": str, "subset": str}
LONGEST_HEADING = 2**16  # bytes; columns take memory each

Mask = NDArray[np.bool_]
Line = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
Side = Annotated[float, Field(ge=1, le=2**16)]  # pixels


def _has(*names: str) -> AfterValidator:
    """Require some keys of a mapping whose other keys are free."""

    def check(values: dict[str, float]) -> dict[str, float]:
        if missing := [name for name in names if name not in values]:
            raise ValueError(f"{missing[0]} is missing")
        return values

    return AfterValidator(check)


class Counts(Record):
    """Images of each subset, epochs and steps."""

    train: Positive
    val: Count
    test: Positive
    epochs: Positive
    steps: Positive


class PeakMemory(Record):
    """The most memory that was held, bytes; ``process`` is unknown on Windows, ``device`` on a CPU."""

    process: Count | None
    device: Count | None


class DataFacts(Record):
    """What a run was trained on: where, which content, the median size in pixels, and the leaks that were allowed."""

    root: Line
    fingerprint: str
    typical_size: tuple[Side, Side]
    allow_leaks: bool
    leaks: list[str]


class NetworkFacts(Record):
    """What is known of a network by trying.

    Attributes:
        target: The class or function that it was built from.
        place: The folder from which that was imported; None for this package's own.
        side_multiple: Image sides must be a multiple of it.
        side_least: The smallest side that works.
        side_fixed: Whether no side works but ``side_least``, that of training.
        least_batch: Images that a training step needs.
    """

    target: str
    place: Line | None
    side_multiple: Positive
    side_least: Positive
    side_fixed: bool
    least_batch: Positive


class Summary(Record):
    """What ``summary.json`` holds; it is written last, so a run that has one is finished.

    Attributes:
        command: What was typed, to be pasted; None for a run that was started from Python.
        date: When the run finished.
        metrics: Final values by logged key.
        spread_over_test_images: Standard deviation of each score over the test images.
        seconds: Wall time by phase.
        network: What is known of the network; None in runs of versions that trained U-Nets only.
        added_scores: Scores that the configuration adds, and which values of them are better.
    """

    schema_version: Literal[1]
    status: Literal["finished"]
    model: str
    seed: Count
    command: str | None
    date: AwareDatetime
    metrics: Annotated[dict[str, Finite], _has(*REQUIRED)]
    averaging: dict[str, str]
    spread_over_test_images: dict[str, Finite | None]
    scored_weights: str
    validation: str
    counts: Counts
    seconds: Annotated[dict[str, Finite], _has("train")]
    peak_memory_bytes: PeakMemory
    parameters: Positive
    gflop_per_image: Finite
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

    @property
    def scores(self) -> list[Score]:
        """All scores of the run, those that every run has first."""
        return [*SCORES, *(added_score(name, better) for name, better in self.added_scores.items())]

    @property
    def commit(self) -> str:
        """The commit in short, with a + where files had been changed."""
        return (self.git_commit or "unknown")[:7] + ("+" if self.git_dirty else "")


class _SchemaVersion(Record):
    schema_version: Any = None
    status: Any = None  # every version had it
    git_commit: Any = None


class _SplitSettings(Record):
    fold: Count | None = None


class _DataSettings(Record):
    image_size: Annotated[int, Field(ge=1, le=2**16)]
    mask_threshold: Annotated[int, Field(ge=0, le=254)]
    channels: Annotated[list[Count], Field(min_length=1, max_length=4)] | None = None
    split: _SplitSettings


class Settings(Record):
    """The keys of ``config.yaml`` that are asked for by name; the others may be anything."""

    seed: Count
    margin: Annotated[Finite, Field(ge=0)]
    model: dict[str, Any]
    data: _DataSettings

    @property
    def reading(self) -> Reading:
        """How its images were read."""
        channels = self.data.channels
        return Reading(self.data.mask_threshold, None if channels is None else tuple(channels), self.data.image_size)

    @property
    def fold(self) -> int | None:
        """The fold that was tested on; None for a holdout."""
        return self.data.split.fold


@dataclass(frozen=True)
class Prediction:
    """A test image as it was scored: image (S, S, C), what the label says and what the network said (S, S)."""

    image: Pixels
    truth: Mask
    mask: Mask

    @property
    def picture(self) -> Pixels:
        """The image in RGB, to look at, shape (S, S, 3)."""
        return np.asarray(as_rgb(self.image))


@dataclass(frozen=True)
class RunFolder:
    """A run folder; each file of it is read, checked and kept when it is first asked for.

    Every property raises ``InputError`` if its file is missing, damaged or does not follow the schema.
    """

    path: Path

    @property
    def finished(self) -> bool:
        """Whether the run has ended and was scored."""
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
                "again, which scores the run anew"
            ) from error

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        path = self.path / "config.yaml"
        try:
            text = read_bounded(path, "a configuration").decode()
            if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):  # they can multiply without end
                raise ValueError("it repeats parts of itself by reference, which train.py does not write")
            config = OmegaConf.to_container(OmegaConf.create(text))
            if not isinstance(config, dict):
                raise ValueError("it is not a mapping")
            str(config).encode()  # YAML can name halves of characters, which nothing can write
        except Exception as error:  # OmegaConf and YAML raise many kinds
            raise InputError(f"{path}: cannot be read ({fault(error)}); move the run away") from error
        return {str(key): value for key, value in config.items()}

    @cached_property
    def settings(self) -> Settings:
        """What of the configuration is asked for by name."""
        try:
            return Settings.model_validate(self.config)
        except ValidationError as error:
            path = self.path / "config.yaml"
            raise InputError(f"{path}: is not as train.py wrote it ({fault(error)}); move the run away") from error

    @cached_property
    def split(self) -> SplitRecord:
        """Which images trained and which tested."""
        path = self.path / "split.json"
        try:
            return SplitRecord.read(path)
        except (OSError, ValidationError) as error:
            raise InputError(f"{path}: is not as train.py wrote it ({fault(error)}); move the run away") from error

    @cached_property
    def per_image(self) -> "pd.DataFrame":
        """A row for every scored image."""
        path = self.path / "per_image.csv"
        added = list(self.summary.added_scores)
        table, told = _read_table(path, [*TEXT_COLUMNS, *PER_IMAGE, *added]), self.summary.counts.test
        try:
            table = table.astype(dict.fromkeys([*PER_IMAGE, *added], float))
            if not table[list(PER_IMAGE)].map(lambda score: 0 <= score <= 1 + ROUNDING).all(axis=None):
                raise ValueError("a score is missing, or not from 0 to 1")
            if np.isinf(table[added].to_numpy()).any():
                raise ValueError("a score is infinite")
            if table[list(TEXT_COLUMNS)].isna().any(axis=None):
                raise ValueError("a name is missing")
            if table.duplicated(["subset", "image"]).any():
                raise ValueError("an image stands there twice")
            if table["image"].str.contains(r"[/\0]").any():
                raise ValueError("the name of an image is a path")
            if (tested := int((table["subset"] == "test").sum())) != told:
                raise ValueError(f"it has {tested} test images, and summary.json says {told}")
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: is not as train.py wrote it ({fault(error)}); move the run away") from error
        return table

    @property
    def test_rows(self) -> "pd.DataFrame":
        """The rows of the test images."""
        return self.per_image[self.per_image["subset"] == "test"]

    @cached_property
    def epochs(self) -> "pd.DataFrame":
        """A row for every epoch, all of them numbers."""
        path = self.path / "metrics.csv"
        table = _read_table(path, ["epoch"])
        try:
            return table.astype(float).astype({"epoch": int})
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: is not as train.py wrote it ({fault(error)}); move the run away") from error

    def prediction(self, name: str) -> Prediction:
        """Return a test image by its name, with its label and what the network said."""
        size = self.settings.data.image_size
        image, truth, mask = (
            _read_picture(self.path / "predictions" / part / f"{name}.png", mode, size)
            for part, mode in (("image", MODES[len(self.settings.data.channels or RGB)]), ("truth", "L"), ("mask", "L"))
        )
        return Prediction(image.reshape(size, size, -1), truth > 0, mask > 0)


def write_prediction(folder: Path, name: str, prediction: Prediction) -> None:
    """Write a test image of a run: the panel to look at, and beside it the data it was drawn from."""
    parts = {
        ".": draw_panel(prediction.picture, prediction.truth, prediction.mask),
        "image": prediction.image.squeeze(2) if prediction.image.shape[2] == 1 else prediction.image,
        "truth": prediction.truth * np.uint8(255),
        "mask": prediction.mask * np.uint8(255),
    }
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
    """Read a CSV file of a run that has at least these columns; an image called NA stays one."""
    import pandas as pd  # not needed to train

    try:
        content = read_bounded(path, "a table")
        if len(content.partition(b"\n")[0]) > LONGEST_HEADING:
            raise ValueError("its first line is no heading")
        table = pd.read_csv(io.BytesIO(content), dtype=TEXT_COLUMNS, keep_default_na=False, na_values=[""])
        if missing := [column for column in columns if column not in table]:
            raise ValueError(f"its column {missing[0]} is missing")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({fault(error)}); move the run away") from error
    for column in table.columns.intersection(list(TEXT_COLUMNS)):
        table[column] = table[column].map(from_text, na_action="ignore")
    return table


def _read_picture(path: Path, mode: str, size: int) -> Pixels:
    """Read a square picture of a run.

    Raises:
        InputError: If it cannot be read, or is of another kind or size.
    """
    try:
        require_bounded(path, "a picture")
        with Image.open(path) as picture:
            if picture.size != (size, size) or picture.mode != mode:
                raise ValueError(f"it is {picture.width}x{picture.height} {picture.mode}, not {size}x{size} {mode}")
            return np.asarray(picture)
    except Exception as error:  # Pillow's decoders let almost any through on a damaged file
        raise InputError(f"{path}: cannot be read ({fault(error)}); move the run away, or train it again") from error
