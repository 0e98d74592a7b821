"""List cells on which predictions and masks of test images differ, so that a person can decide.

Some data sets leave out cells on purpose, for example cells cut by the border. A network that finds them gets a lower
score. The review is a reading aid, not a score.

Where nearly all cells cut by the border are unlabelled, a network learns to leave them out, and knows the border by the
zeros its convolutions see beyond it. So what the labels miss is looked for in the image continued by its mirror image.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from cellseg.data.decisions import trace, write_outline
from cellseg.data.drawing import Pixels
from cellseg.data.images import read_image
from cellseg.data.pairs import find_pairs
from cellseg.metrics import THRESHOLD
from cellseg.objects import MERGED, MISSED, SPLIT, UNLABELLED, Disagreement, find_disagreements
from cellseg.run.folder import RunFolder
from cellseg.storage.csv_files import as_text, write_csv
from cellseg.storage.errors import InputError
from cellseg.storage.files import new_folder, write_text
from cellseg.study.pages import picture_address, write_page
from cellseg.use.trained import Trained

KINDS = {
    UNLABELLED: "Predicted, but not in the mask",
    MISSED: "In the mask, but not predicted",
    MERGED: "Several cells in the mask, predicted as one",
    SPLIT: "One cell in the mask, predicted as several",
}
ABOUT = {
    UNLABELLED: "A cell that the mask lacks, or a false prediction; highest probability first.",
    MISSED: "Less than half of the cell is predicted; lowest probability first.",
    MERGED: "One predicted object covers most of each of them. Cell means: it is one cell. No cell removes "
    "all of them. If the mask is right, leave it undecided.",
    SPLIT: "Several predicted objects lie mostly inside it. Cell means: it is one cell, as in the mask. If it is "
    "several, correct the mask by hand, or choose cannot say.",
}
SHOWN = 300  # pictures of a kind on the page; the table has all
ROOM = 16  # pixels around an object in its picture
SMALLEST_PICTURE = 64  # pixels a side of what is shown
ENLARGED = 3  # times
OBJECT, LABEL = (255, 120, 0), (0, 114, 178)  # colours of outlines


@dataclass(frozen=True)
class Place:
    """Somewhere network and label disagree.

    Attributes:
        row: Of ``objects.csv``.
        picture: To look at.
        outline: In pixels of the original image, as in ``decisions.csv``.
    """

    row: dict[str, Any]
    picture: str
    outline: str

    @property
    def listed(self) -> str:
        """The name of its image as a table has it."""
        return str(as_text(self.row["image"]))


@dataclass(frozen=True)
class Review:
    """What there is to look at.

    Attributes:
        name: What judged the images.
        folder: Where it was written.
        places: Of every kind.
        images: A row for every test image: counts of each kind, Dice, and Dice without what is not labelled.
    """

    name: str
    folder: Path
    places: list[Place]
    images: list[dict[str, Any]]


def review(trained: Trained, output: Path | None = None, *, split: bool = True) -> Review:
    """Look through test images, and write ``review.html`` and tables to a new folder.

    ``objects.csv`` describes every place; ``decisions.csv`` has a row for each with an empty column ``decision``, for a
    person to fill; the page saves the same table. ``cellseg correct`` reads it.

    Args:
        trained: From run folders. An image is judged by the first run that tested it, and so has not seen it.
        output: The folder; by default ``review`` in the run's, or beside the runs if there are several.
        split: Whether to separate touching cells of the prediction.

    Raises:
        InputError: If the folder exists, or the run kept no pictures of its test images.
    """
    first, several = trained.runs[0].folder, len(trained.runs) > 1
    name = trained.name.removesuffix(" averaged") + "; each image is judged by one that has not seen it" * several
    found = Review(name, output or (first.parent if several else first) / "review", [], [])
    if found.folder.exists():
        raise InputError(f"{found.folder} already exists and is not overwritten; name a new folder with --output")
    for run, network in zip(trained.runs, trained.networks, strict=True):
        alone = replace(trained, runs=[run], networks=[network])
        _look_through(alone, run.files, found, split=split)
    found.places.sort(key=_order)
    for number, place in enumerate(found.places, start=1):
        place.row["id"] = number
    with new_folder(found.folder) as folder:
        write_csv(folder / "objects.csv", [place.row for place in found.places])
        write_csv(folder / "decisions.csv", [_undecided(place) for place in found.places])
        write_csv(folder / "images.csv", found.images)
        write_text(folder / "review.html", _page(trained, found))
    return found


def _look_through(trained: Trained, run: RunFolder, found: Review, *, split: bool) -> None:
    """Add the places in the test images of a run, but for images that another run tested before."""
    looked = {row["image"] for row in found.images}
    names = [name for name in run.test_rows["image"] if name not in looked]
    if not names:
        return
    predictor, sizes = trained.predictor(border=not trained.facts.side_fixed), _sizes(run)
    for name in names:
        kept = run.prediction(name)
        image = torch.from_numpy(kept.image.transpose(2, 0, 1).copy()) / 255
        probability = predictor.see_sample(image)[0, 0].numpy()
        seen = probability > THRESHOLD
        places = list(find_disagreements(kept.mask, kept.truth, seen, kept.ids, kept.ignored, split=split))
        for place in places:
            found.places.append(_place(place, name, kept.picture, kept.truth, probability, sizes[name]))
        found.images.append(_image_row(name, kept.truth, kept.judged, places))


def _sizes(run: RunFolder) -> dict[str, tuple[int, int]]:
    """Return width and height of the files of the test images, which runs of early versions did not record."""
    rows = run.test_rows
    if {"width", "height"} <= set(rows.columns):
        return {str(row["image"]): (int(row["width"]), int(row["height"])) for row in rows.to_dict("records")}
    root = Path(run.summary.data.root)
    if not root.exists():
        raise InputError(
            f"{run.path} has no sizes of its images, and its data set is not at {root}; move it back there"
        )
    how = run.settings.reading
    images = {pair.name: read_image(pair.image, how.channels).pixels.shape for pair in find_pairs(root).pairs}
    return {name: (shape[1], shape[0]) for name, shape in images.items()}


def _undecided(place: Place) -> dict[str, Any]:
    return {"image": place.row["image"], "id": place.row["id"], "decision": "", "person": "", "outline": place.outline}


def _place(
    place: Disagreement,
    name: str,
    picture: Pixels,
    truth: NDArray[np.bool_],
    probability: NDArray[np.float32],
    size: tuple[int, int],
) -> Place:
    rows, columns = ndimage.find_objects(place.where.astype(np.int8))[0]
    height, width = place.where.shape
    row = {
        "id": 0,
        "kind": place.kind,
        "image": name,
        "area": int(place.where.sum()),
        "left": columns.start,
        "top": rows.start,
        "width": columns.stop - columns.start,
        "height": rows.stop - rows.start,
        "mean_probability": float(probability[place.where].mean(dtype=np.float64)),
        "touches_border": min(rows.start, columns.start) == 0 or rows.stop == height or columns.stop == width,
    }
    outline = write_outline(trace(place.where, *size))
    return Place(row, _picture(picture, place.where, truth, (rows, columns)), outline)


def _picture(picture: Pixels, where: NDArray[np.bool_], truth: NDArray[np.bool_], box: tuple[slice, slice]) -> str:
    """Draw the surroundings of a place, enlarged: the labels outlined in blue, the place itself in orange."""
    side = max(SMALLEST_PICTURE, *(2 * ROOM + part.stop - part.start for part in box))
    window = []
    for part, length in zip(box, where.shape, strict=True):
        start = max(0, min((part.start + part.stop - side) // 2, length - side))
        window.append(slice(start, start + side))
    seen, *masks = (np.kron(part[tuple(window)], _block(part)) for part in (picture, truth, where))
    for mask, colour in zip(masks, (LABEL, OBJECT), strict=True):
        inside = np.pad(mask, 1, mode="edge")
        seen[mask & ~ndimage.binary_erosion(inside)[1:-1, 1:-1]] = colour
    return picture_address(seen, "JPEG", quality=85)


def _block(part: NDArray[Any]) -> NDArray[Any]:
    return np.ones((ENLARGED, ENLARGED, *[1] * (part.ndim - 2)), part.dtype)


def _image_row(
    name: str, truth: NDArray[np.bool_], prediction: NDArray[np.bool_], places: Sequence[Disagreement]
) -> dict[str, Any]:
    """Count the kinds, and score with and without the pixels of what the labels may miss."""
    kinds = [place.kind for place in places]
    candidates = sum(int((place.where & prediction).sum()) for place in places if place.kind == UNLABELLED)
    shared, both = int((truth & prediction).sum()), int(truth.sum() + prediction.sum())
    return {
        "image": name,
        **{kind: kinds.count(kind) for kind in KINDS},
        "dice": 2 * shared / both if both else 1.0,
        "dice_without_unlabelled": 2 * shared / (both - candidates) if both > candidates else 1.0,
    }


def _order(place: Place) -> tuple[int, float, str]:
    row = place.row
    sure = row["mean_probability"] * (-1 if row["kind"] == UNLABELLED else 1)
    return list(KINDS).index(row["kind"]), sure, row["image"]


def _page(trained: Trained, found: Review) -> str:
    parts = []
    for kind, title in KINDS.items():
        places = [place for place in found.places if place.row["kind"] == kind]
        parts.append({"title": title, "about": ABOUT[kind], "count": len(places), "places": places[:SHOWN]})
    means = {name: float(np.mean([row[name] for row in found.images])) for name in ("dice", "dice_without_unlabelled")}
    script = (Path(__file__).parent / "review.js").read_text("utf-8")
    return write_page(
        "use/review.html.jinja",
        name=found.name,
        size="the image" if trained.crops else f"{trained.image_size}x{trained.image_size}",
        parts=parts,
        images=found.images,
        means=means,
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        page=hashlib.sha256("".join(place.outline + place.listed for place in found.places).encode()).hexdigest(),
    )
