"""Write outlines of objects for other programs: GeoJSON for QuPath, sets of ROIs for ImageJ, and COCO's JSON.

Outlines run along the sides of pixels, so filling them gives the same pixels back where pixel (x, y) is the square from
(x, y) to (x + 1, y + 1), as in QuPath and ImageJ. COCO's are run lengths of pixels.
"""

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellseg.objects import Labels
from cellseg.storage.errors import InputError
from cellseg.storage.files import write_text

NEEDED = {"geojson": ("shapely",), "imagej": ("shapely", "roifile"), "coco": ()}  # format: packages that write it
NO_MEASUREMENTS = ("id", "touches_border")
FARTHEST = 2**16 - 1  # pixels: a ROI holds its place in 16 bits
MOVE, LINE, CLOSE = 0.0, 1.0, 4.0  # of a path in a ROI of several rings
NAMESPACE = uuid.UUID("6a1c1c0e-6b1f-4f35-9a3e-2f2f1a9f7f0d")  # ours: the same object of a file always has the same id

Mask = NDArray[np.bool_]
Row = dict[str, Any]


def require_formats(formats: Sequence[str]) -> None:
    """Check that formats are known and their packages installed.

    Raises:
        InputError: If not.
    """
    for name in formats:
        if name not in NEEDED:
            raise InputError(f"--outlines {name} is unknown; choose from {', '.join(NEEDED)}, separated by commas")
        for package in NEEDED[name]:
            try:
                import_module(package)
            except ImportError as error:
                raise InputError(
                    f'--outlines {name} needs {package}: python -m pip install -c constraints.txt -e ".[outlines]"'
                ) from error


def refuse_far_objects(name: str, formats: Sequence[str], objects: Sequence[Row]) -> None:
    """Check that the formats can hold the places of all objects.

    Raises:
        InputError: If ROIs of ImageJ are wanted and cannot.
    """
    ends = (max(row["left"] + row["width"], row["top"] + row["height"]) for row in objects)
    if "imagej" in formats and max(ends, default=0) > FARTHEST:
        raise InputError(
            f"{name}: has objects beyond pixel {FARTHEST:,}, where ROIs of ImageJ end; use --outlines geojson, or cut "
            "the image into tiles"
        )


def write_outlines(folder: Path, name: str, formats: Sequence[str], labels: Labels, objects: Sequence[Row]) -> None:
    """Write ``NAME.geojson`` and ``NAME.zip`` (ROIs of ImageJ), as far as they are wanted.

    Args:
        folder: Where to.
        name: Name of the image, a relative path without an ending.
        formats: Of ``NEEDED``.
        labels: Shape (H, W), as ``label_objects`` returns them.
        objects: As ``measure_objects`` returns them.
    """
    drawn = {"geojson": _geojson, "imagej": _imagej}
    wanted = [form for form in formats if form in drawn]
    if not wanted:
        return
    shapes = [outline(inside, left, top) for inside, left, top in _parts(labels)]
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for form in wanted:
        drawn[form](path, name, shapes, objects)


def outline(inside: Mask, left: int = 0, top: int = 0) -> Any:
    """Return shapely's outline of a mask (H, W) along the sides of its pixels; pixel (0, 0) begins at (left, top)."""
    import shapely

    steps = np.diff(np.pad(inside, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (rows, starts), (_, ends) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    return shapely.union_all(shapely.box(starts + left, rows + top, ends + left, rows + top + 1)).simplify(0)


def coco_annotations(labels: Labels, objects: Sequence[Row]) -> list[Row]:
    """Return COCO's annotations of an image, without ids of image and annotation."""
    return [
        {
            "category_id": 1,
            "segmentation": {"size": list(labels.shape), "counts": run_lengths(inside, left, top, labels.shape)},
            "area": row["area"],
            "bbox": [left, top, row["width"], row["height"]],
            "iscrowd": 0,
            "score": row["mean_probability"],
        }
        for (inside, left, top), row in zip(_parts(labels), objects, strict=True)
    ]


def run_lengths(inside: Mask, left: int, top: int, shape: tuple[int, ...]) -> list[int]:
    """Return COCO's run lengths, column by column, of an object at (left, top) of an image of this shape (H, W)."""
    height, width = shape
    steps = np.diff(np.pad(inside.T, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (columns, starts), (_, ends) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    offset = (columns.astype(np.int64) + left) * height + top
    turns = np.stack([offset + starts, offset + ends], axis=1).ravel()
    again = np.flatnonzero(np.diff(turns) == 0)  # a run that goes on at the top of the next column
    turns = np.delete(turns, np.concatenate([again, again + 1]))
    return [int(length) for length in np.diff(np.concatenate([[0], turns, [height * width]]))]


def write_coco(path: Path, images: Sequence[Row], annotations: Sequence[Sequence[Row]]) -> None:
    """Write COCO's JSON of all images.

    Args:
        path: The file.
        images: Of each image ``file_name``, ``width`` and ``height``.
        annotations: Of each image what ``coco_annotations`` returns.
    """
    listed = [{"id": number} | image for number, image in enumerate(images, start=1)]
    cells = [
        {"image_id": image["id"]} | cell for image, found in zip(listed, annotations, strict=True) for cell in found
    ]
    content = {
        "info": {"description": "objects found by cellseg predict"},
        "images": listed,
        "annotations": [{"id": number} | cell for number, cell in enumerate(cells, start=1)],
        "categories": [{"id": 1, "name": "cell"}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content))


def _parts(labels: Labels) -> Iterator[tuple[Mask, int, int]]:
    """Yield each object: its pixels in its bounding box, and where that begins."""
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            yield labels[box] == number, box[1].start, box[0].start


def _geojson(path: Path, name: str, shapes: Sequence[Any], objects: Sequence[Row]) -> None:
    import shapely

    features = [
        {
            "type": "Feature",
            "id": str(uuid.uuid5(NAMESPACE, f"{name} {row['id']}")),
            "geometry": shapely.geometry.mapping(shape),
            "properties": {
                "objectType": "detection",
                "name": str(row["id"]),
                "measurements": {
                    key: float(row[key]) for key in row if key not in NO_MEASUREMENTS and row[key] is not None
                },
            },
        }
        for shape, row in zip(shapes, objects, strict=True)
    ]
    content = json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False)
    write_text(path.with_name(f"{path.name}.geojson"), content)


def _imagej(path: Path, name: str, shapes: Sequence[Any], objects: Sequence[Row]) -> None:
    import roifile

    unfinished = path.with_name(f".{path.name}.zip.unfinished")
    rois = [_roi(shape, f"{row['id']:05d}") for shape, row in zip(shapes, objects, strict=True)]
    roifile.roiwrite(unfinished, rois, mode="w")
    os.replace(unfinished, path.with_name(f"{path.name}.zip"))


def _roi(shape: Any, name: str) -> Any:
    """Return a ROI: a polygon, or a path of several rings if the object has holes or parts."""
    import roifile

    polygons = list(getattr(shape, "geoms", [shape]))
    rings = [ring for polygon in polygons for ring in (polygon.exterior, *polygon.interiors)]
    if len(rings) == 1:
        return roifile.ImagejRoi.frompoints(np.asarray(rings[0].coords[:-1], np.int32), name=name)
    path: list[float] = []
    for ring in rings:
        (x, y), *others = ring.coords[:-1]
        path += [MOVE, x, y, *(part for point in others for part in (LINE, *point)), CLOSE]
    left, top, right, bottom = (int(side) for side in shape.bounds)
    return roifile.ImagejRoi(
        roitype=roifile.ROI_TYPE.RECT,
        left=left,
        top=top,
        right=right,
        bottom=bottom,
        name=name,
        shape_roi_size=len(path),
        multi_coordinates=np.asarray(path, np.float32),
    )
