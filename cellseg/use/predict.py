"""Predict image files: write masks, probabilities, overlays and tables of objects.

A pixel of the largest image takes about 13 bytes of memory, 30 if it has more than 8 bits; so do the pixels of smaller
ones that the network sees at once, at most ``AT_ONCE``.
"""

import csv
import os
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from cellseg.data.decoded import Pixels
from cellseg.data.drawing import draw_objects
from cellseg.data.facts import ImageFacts, Reading, inspect_image
from cellseg.data.findings import WARNING, Finding, look_at_images
from cellseg.data.formats import BYSTANDERS, IMAGE_SUFFIXES, describe_foreign, foreign_suffix, refuse_foreign
from cellseg.data.groups import natural
from cellseg.data.images import as_rgb, read_image
from cellseg.data.matching import LONGEST_NAME
from cellseg.data.pairs import looks_like_mask, scan_pairs
from cellseg.metrics import THRESHOLD
from cellseg.objects import SMALLEST_OBJECT, Labels, label_objects, measure_objects, object_columns
from cellseg.run.tiles import Floats
from cellseg.storage.csv_files import as_text, write_csv
from cellseg.storage.errors import InputError, count
from cellseg.storage.files import require_empty
from cellseg.use.inference import Predictor
from cellseg.use.outlines import coco_annotations, refuse_far_objects, write_coco, write_outlines

AT_ONCE = 2**25  # maximum pixels of images in memory together; a larger image is alone in memory
MOST_PIXELS = 2**30  # maximum pixels of one image
DIGITS = 7  # of measurements in tables
MOST_CELL = 0.9  # share of an image that is cell above which the result is doubtful
PACKED = 200  # pixels per byte of a file; a large image with more counts as a decompression bomb
ImageRow = dict[str, str | int | float]
ObjectRow = dict[str, Any]
_Written = tuple[ImageRow, list[ObjectRow], list[ObjectRow]]


@dataclass(frozen=True)
class Source:
    """An image to predict.

    Attributes:
        name: The name of its results: a relative path without an ending.
        path: Its file.
        listed: Its path from the folder that the user named.
    """

    name: str
    path: Path
    listed: str = ""


@dataclass(frozen=True)
class Wanted:
    """What to write of each image.

    Attributes:
        split: Whether to separate touching cells.
        pixel_size: Side of a pixel in micrometres, for measurements in these.
        probabilities: Whether to write the probability of cell.
        outlines: Formats of outlines, of ``outlines.NEEDED``.
    """

    split: bool = True
    pixel_size: float | None = None
    probabilities: bool = False
    outlines: Sequence[str] = ()


@dataclass(frozen=True)
class Predicted:
    """The result of a prediction.

    Attributes:
        rows: The rows of ``images.csv``.
        failures: Images that could not be read, with the reason.
        facts: Measurements of the other images.
        warnings: The warnings that training would give for these.
    """

    rows: list[ImageRow]
    failures: list[str]
    facts: list[ImageFacts]
    warnings: list[str]


def find_sources(inputs: Sequence[Path]) -> tuple[list[Source], list[str]]:
    """List the images in files and folders.

    In a folder, every image at any depth is used, except masks and other files next to the image of a pair. Images need
    no mask. A name is the part of a path that differs between files, for example ``cell_1/source``. The image of a pair
    has the same name as in training. Where several folders have images of one name, their paths come before the names.

    Returns:
        The images, and notes about the other files.
    """
    sources, said = list[Source](), list[str]()
    homes = dict[Path, list[Source]]()
    files = [path for path in inputs if not path.is_dir() or foreign_suffix(path.name)]
    common = Path(os.path.commonpath([_absolute(path).parent for path in files])) if files else Path()
    for path in inputs:
        if path in files:
            inside = _absolute(path).relative_to(common)
            sources.append(Source(str(inside.with_suffix("")), path, inside.as_posix()))
            continue
        found, left_out = _in_folder(path)
        foreign = [file for file in sorted(path.rglob("*")) if _must_be_converted(file)]
        if found:  # reported at the end, like other unreadable files
            homes[path] = found + [Source(str(file.relative_to(path).with_suffix("")), file) for file in foreign]
        if left_out:
            said.append(f"{path}: left out {count(len(left_out), 'file')}, probably masks; the first is {left_out[0]}")
        if not found:
            others = describe_foreign(foreign)
            said.append(
                "; ".join([f"{path} contains no image; image files end in {', '.join(IMAGE_SUFFIXES)}", *others])
            )
    sources += _with_folders(homes)
    once = {_absolute(source.path): source for source in reversed(sources)}  # however often an image was named
    return _told_apart([source for source in sources if once[_absolute(source.path)] is source]), said


def predict_files(
    predictor: Predictor,
    sources: Sequence[Source],
    output: Path,
    *,
    how: Reading = Reading(),
    wanted: Wanted = Wanted(),
    obey: Callable[[], None] = lambda: None,
) -> Predicted:
    """Predict images and write the results into a folder.

    Writes ``masks/NAME.png`` (0 and 255, as large as the image), ``labels/NAME.png`` (16 bits, the number of the object
    at each pixel; ``.tif`` of 32 bits if there are more than 65,535), ``overlays/NAME.png`` (objects outlined, with
    their numbers), on request ``probabilities/NAME.png`` (16 bits, 65535 is 1), ``objects.csv`` (one row for each
    object) and ``images.csv`` (one row for each image), and on request ``outlines/``.
    Nothing is written if no image could be read.

    Raises:
        InputError: If the folder is not empty, or cannot be written.
        Interrupted: If ``obey`` raises it; finished predictions are kept.
    """
    require_empty(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with (
            Progress(console=Console(stderr=True), transient=True) as progress,
            _Writer(output, predictor, wanted, how.channels) as writer,
        ):
            task = progress.add_task("images", total=len(sources))

            def advance(share: float) -> None:
                obey()
                progress.advance(task, share)

            for some in _readable(sources, how, writer, predictor.at_once):
                pictures = [picture for _, picture in some]
                for (source, picture), bands in zip(some, predictor.bands(pictures), strict=True):
                    writer.write(source, picture, *_whole(bands, picture.shape[:2], advance))
                writer.wait(obey)  # before the network is busy again: both want every core
                progress.update(task, completed=len(writer.rows) + len(writer.failures))
                del some[:], pictures[:]  # before the next are read
    except OSError as error:
        raise InputError(
            f"{output} cannot be written ({error.strerror or error}); check the folder and its free space, or name "
            "another"
        ) from error
    said = [*_warnings(writer.seen, resized=not predictor.tiles), *_nearly_all_cell(writer.rows)]
    return Predicted(writer.rows, writer.failures, [facts for _, facts in writer.seen], said)


def _nearly_all_cell(rows: Sequence[ImageRow]) -> list[str]:
    """Return a warning about images of which the network calls nearly everything cell."""
    full = [str(row["image"]) for row in rows if float(row["cell_share"]) > MOST_CELL]
    if not full:
        return []
    return [
        f"more than {MOST_CELL:.0%} of {count(len(full), 'image')} is cell, first {full[0]}: these may be unlike the "
        f"training images, so look at overlays/{full[0]}.png before you use the numbers"
    ]


def _warnings(seen: Sequence[tuple[Path, ImageFacts]], *, resized: bool) -> list[str]:
    """Return the warnings that training would give for these images."""
    if not seen:
        return []
    files, facts = zip(*seen, strict=True)
    common = Path(os.path.commonpath([path.parent for path in files]))
    found = look_at_images(files, facts, common, resized=resized)
    return [str(_for_prediction(finding)) for finding in found if finding.severity == WARNING]


def _for_prediction(finding: Finding) -> Finding:
    """Replace advice about a key that a finished run cannot change."""
    if "data.channels" not in finding.effect:
        return finding
    return replace(
        finding,
        effect="the channels are used as in the training of the run; if it was trained on other images, such as grey "
        "ones, save the channel that shows the cells as a grey image, and predict that",
    )


class _Writer:
    """Write results in the background, and the rows of both tables even after an error.

    Args:
        output: An empty folder.
        predictor: What predicted them.
        wanted: What to write.
        channels: The channels that the user chose, as in ``Reading``.

    Attributes:
        rows: Of ``images.csv``.
        seen: The images that could be read, and what is known of them.
        failures: What went wrong with single images.
    """

    def __init__(self, output: Path, predictor: Predictor, wanted: Wanted, channels: tuple[int, ...] | None) -> None:
        self.output, self._predictor, self._wanted, self._channels = output, predictor, wanted, channels
        self.rows: list[ImageRow] = []
        self.seen: list[tuple[Path, ImageFacts]] = []
        self.failures: list[str] = []
        self._annotations: list[list[ObjectRow]] = []
        self._names: list[str] = []
        self._writing: deque[tuple[Source, Future[_Written]]] = deque()
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._unfinished = output / ".objects.csv.unfinished"
        self._file = self._unfinished.open("w", newline="", encoding="utf-8")
        columns = ["image", *object_columns(channels, wanted.pixel_size)]
        self._objects = csv.DictWriter(self._file, columns, lineterminator="\n")
        self._objects.writeheader()

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:  # who asks to stop does not wait for what is not begun
            self._writing = deque((source, job) for source, job in self._writing if not job.cancel())
        with self._file, self._pool:
            self.wait()
        if self.rows:
            os.replace(self._unfinished, self.output / "objects.csv")
            write_csv(self.output / "images.csv", self.rows)
            if "coco" in self._wanted.outlines:
                images = [
                    {"file_name": name, "width": row["width"], "height": row["height"]}
                    for name, row in zip(self._names, self.rows, strict=True)
                ]
                write_coco(self.output / "outlines" / "coco.json", images, self._annotations)
        else:
            self._unfinished.unlink()
            with suppress(OSError):  # it holds something
                self.output.rmdir()

    def write(self, source: Source, picture: Pixels, mask: NDArray[np.uint8], probability: NDArray[np.uint16]) -> None:
        """Start to write the results of an image."""
        scale = self._predictor.pixels_per_side(picture)
        job = self._pool.submit(
            _write, self.output, source, picture, mask, probability, scale, self._wanted, self._channels
        )
        self._writing.append((source, job))

    def wait(self, obey: Callable[[], None] = lambda: None) -> None:
        """Wait until all results are written, and keep their rows."""
        while self._writing:
            obey()
            source, job = self._writing.popleft()
            try:
                row, objects, annotations = job.result()
            except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
                self.failures.append(
                    f"{source.path}: its results would overwrite those of another image ({error}); rename the image"
                )
                continue
            except InputError as error:
                self.failures.append(str(error))
                continue
            self._objects.writerows(
                {"image": as_text(row["image"])} | {column: _short(value) for column, value in cell.items()}
                for cell in objects
            )
            self.rows.append(row)
            self._annotations.append(annotations)
            self._names.append(source.listed)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (resolve() would follow links, absolute() leaves ".." in names)


def _must_be_converted(file: Path) -> bool:
    """Return whether a file is an image in an unsupported format, and not a file that accompanies images."""
    return foreign_suffix(file.name) is not None and not file.name.lower().endswith(BYSTANDERS)


def _in_folder(folder: Path) -> tuple[list[Source], list[Path]]:
    """Return the images in a folder, and the image files left out (masks and the like)."""
    seen = [(path.relative_to(folder), path) for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES]
    written = {path.parent for path in folder.rglob("images.csv") if (path.parent / "masks").is_dir()}  # by us, before
    pictures = [
        path
        for name, path in sorted(seen, key=lambda entry: natural(str(entry[0])))
        if (path.is_file() or not path.exists())  # a link to nothing is reported at the end
        and not any(part.startswith(".") for part in name.parts)
        and written.isdisjoint(path.parents)
    ]
    named: dict[Path, str] = {}
    taken: set[Path] = set()
    with suppress(InputError):  # it need not be a data set
        scan = scan_pairs(folder)
        named = {pair.image: pair.name for pair in scan.pairs}
        taken = {file for pair in scan.pairs for file in (*pair.masks, *pair.ignored)}
        if scan.layout.startswith("one folder"):
            homes = {pair.image.parent for pair in scan.pairs}
            taken |= {path for path in pictures if path.parent in homes and path not in named}
    images = [path for path in pictures if path in named or (path not in taken and not looks_like_mask(path))]
    left_out = [path for path in pictures if path not in set(images)]
    names = [named.get(path) or str(path.relative_to(folder).with_suffix("")) for path in images]
    listed = [path.relative_to(folder).as_posix() for path in images]
    return [Source(*parts) for parts in zip(names, images, listed, strict=True)], left_out


def _with_folders(homes: dict[Path, list[Source]]) -> list[Source]:
    """Return the images of several folders, with the path of its folder before each name if two folders share one."""
    every = [source for sources in homes.values() for source in sources]
    shared = len({source.name.casefold() for source in every}) < sum(
        len({source.name.casefold() for source in sources}) for sources in homes.values()
    )
    if not shared:
        return every
    common = os.path.commonpath([_absolute(folder) for folder in homes])
    inside = {folder: _absolute(folder).relative_to(common) for folder in homes}
    return [
        replace(source, name=str(inside[folder] / source.name), listed=(inside[folder] / source.listed).as_posix())
        for folder, sources in homes.items()
        for source in sources
    ]


def _told_apart(sources: Sequence[Source]) -> list[Source]:
    """Number what would be written to one place, even if upper and lower case are equal; fix unusual names."""
    files: set[str] = set()
    folders: set[str] = set()
    apart = []
    for source in sources:
        whole = source.name.encode("utf-8", "backslashreplace").decode()  # a name that is not UTF-8
        whole = str(Path(*(_shortened(part) for part in Path(whole).parts)))
        if not files.isdisjoint(_folders(whole)):  # another's file
            whole = "_".join(Path(whole).parts)
        name, number = whole, 1
        while f"{name}.png".casefold() in files | folders:
            number += 1
            name = f"{whole}-{number}"
        files.add(f"{name}.png".casefold())
        folders |= _folders(name)
        apart.append(replace(source, name=name))
    return apart


def _folders(name: str) -> set[str]:
    return {str(parent).casefold() for parent in Path(name).parents}


def _shortened(part: str) -> str:
    return part if len(part.encode()) <= LONGEST_NAME else part.encode()[:LONGEST_NAME].decode(errors="ignore")


def _readable(
    sources: Sequence[Source], how: Reading, writer: "_Writer", most: int
) -> Iterator[list[tuple[Source, Pixels]]]:
    """Yield pictures, at most ``most`` at once and few where they are large; the writer takes what is known of them."""
    some: list[tuple[Source, Pixels]] = []
    pixels = 0
    for source in sources:
        try:
            refuse_foreign(source.path)
            with _large_pictures(source.path):
                reading = read_image(source.path, how.channels)
        except InputError as error:
            writer.failures.append(str(error))
            continue
        writer.seen.append((source.path, inspect_image(reading, how)))
        picture = reading.pixels
        del reading
        size = picture.shape[0] * picture.shape[1]
        if some and pixels + size > AT_ONCE:
            yield some
            some, pixels = [], 0
        some.append((source, picture))
        pixels += size
        if len(some) == most or pixels > AT_ONCE:
            yield some
            some, pixels = [], 0
    if some:
        yield some


def _whole(
    bands: Iterator[Floats], size: Sequence[int], advance: Callable[[float], None]
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Put bands together: the mask, 0 and 255, and the probability, of which 65535 is 1."""
    height, width = size
    mask, probability = np.empty((height, width), np.uint8), np.empty((height, width), np.uint16)
    top = 0
    for band in bands:
        rows = slice(top, top + len(band))
        mask[rows] = np.where(band > THRESHOLD, np.uint8(255), np.uint8(0))
        probability[rows] = (band * 65535).round()
        top += len(band)
        advance(len(band) / height)
    return mask, probability


def _write(
    output: Path,
    source: Source,
    picture: Pixels,
    mask: NDArray[np.uint8],
    probability: NDArray[np.uint16],
    scale: float,
    wanted: Wanted,
    channels: tuple[int, ...] | None,
) -> _Written:
    """Write the pictures of one image; return its row, its objects and, if wanted, their annotations for COCO."""
    smallest = max(1.0, SMALLEST_OBJECT * scale**2)
    labels = label_objects(mask, smallest=smallest, split=wanted.split, scale=scale)
    objects = measure_objects(labels, probability, picture, channels=channels, pixel_size=wanted.pixel_size)
    refuse_far_objects(source.name, wanted.outlines, objects)
    # run lengths suit masks and noisy pictures: as small as zlib's best, in a part of the time
    _save(output / "masks", source.name, Image.fromarray(mask), compress_type=zlib.Z_RLE)
    if wanted.probabilities:
        _save(output / "probabilities", source.name, Image.fromarray(probability))
    _save_labels(output / "labels", source.name, labels)
    centres = [(cell["id"], cell["centre_x"], cell["centre_y"]) for cell in objects]
    _save(output / "overlays", source.name, draw_objects(as_rgb(picture), labels, centres), compress_type=zlib.Z_RLE)
    write_outlines(output / "outlines", source.name, wanted.outlines, labels, objects)
    annotations = coco_annotations(labels, objects) if "coco" in wanted.outlines else []
    return _image_row(source, mask, objects), objects, annotations


def _short(value: Any) -> Any:
    """Return a measurement without digits that mean nothing."""
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _image_row(source: Source, mask: NDArray[np.uint8], objects: list[ObjectRow]) -> ImageRow:
    height, width = mask.shape
    share = np.count_nonzero(mask) / mask.size
    return {
        "image": source.name,
        "file": str(source.path).encode("utf-8", "backslashreplace").decode(),
        "width": width,
        "height": height,
        "objects": len(objects),
        "median_area": _short(float(median(float(cell["area"]) for cell in objects))) if objects else "",
        "cut_by_border": sum(bool(cell["touches_border"]) for cell in objects),
        "cell_share": _short(share),
    }


def _save_labels(folder: Path, name: str, labels: Labels) -> None:
    """Write numbers of objects as PNG of 16 bits, or as TIFF of 32 if there are too many."""
    if labels.max(initial=0) < 2**16:
        _save(folder, name, Image.fromarray(labels.astype(np.uint16)), compress_type=zlib.Z_RLE)
    else:
        _save(folder, name, Image.fromarray(labels), ending="tif")


def _save(folder: Path, name: str, picture: Image.Image, *, ending: str = "png", **options: int) -> None:
    """Write a picture, whole or not at all."""
    path = folder / f"{name}.{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    picture.save(unfinished, format={"png": "PNG", "tif": "TIFF"}[ending], **options)
    os.replace(unfinished, path)


@contextmanager
def _large_pictures(path: Path) -> Iterator[None]:
    """Let Pillow read a picture larger than it thinks safe, up to a limit of our own, if its file is large too."""
    before = Image.MAX_IMAGE_PIXELS
    size = path.stat().st_size if path.exists() else 0
    # Pillow refuses what is twice as large
    Image.MAX_IMAGE_PIXELS = max(before or 0, min(MOST_PIXELS, PACKED * size) // 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
