"""Find the objects of a mask, separate touching cells, measure them, and compare objects of a prediction and a label.

Pixels that touch at a side or corner form one region. A region of touching cells is cut at its necks: the markers of a
watershed are the maxima of the smoothed distance to the background.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure, segmentation

SMALLEST_OBJECT = 20  # pixels at data.image_size; a smaller predicted region is noise and not a cell
AT_BORDER = 0.16  # share of these pixels that suffices where the image border cuts an object
BY_SIDE_OR_CORNER = np.ones((3, 3))
SMOOTHING = 0.85  # pixels that the network sees; without it each step of an outline would make two cells of one
NECK = 0.03  # two parts are two cells if the neck between them is thinner than both by this share of
SHALLOW = 0.012  # a shallower neck counts too, down to this, between two convex parts of a region that is not convex:
CONVEX_PART, NOT_CONVEX = 0.85, 0.915  # share of the convex hull that each part fills at least, and the region at most
ROUGHNESS = 10.0  # pixels more than their half width, because an outline drawn in pixels has false necks
LARGE = 512  # pixels a side; the convex hull of a larger object is measured on a sample, as it would take minutes
LARGEST = 4096  # pixels a side; all of the shape of a larger object is, to limit memory
FEW_PEAKS = 16  # maxima of a region that are looked at one by one
PINHOLE = 3  # pixels; smaller holes are noise
CONVEX = 0.93  # share of its convex hull that a region fills if it is one cell; touching cells fill less
REACH = 4  # standard deviations to which smoothing reaches
BLOCK, HALO = 2048, 256  # pixels; a large region is cut in blocks that overlap, to limit memory
COARSEST = 4  # pixels; a mask that was enlarged more than this is cut at a lower resolution
OVERLAP = 0.5  # objects match if their IoU is above this; a predicted object then matches at most one labelled object
TOLERANCE = 2  # pixels; outlines are not drawn more exactly
COLOURS = ("red", "green", "blue")

Labels = NDArray[np.int32]
Mask = NDArray[np.bool_]
Window = tuple[slice, slice]


def label_objects(
    mask: NDArray[np.generic], *, smallest: float = SMALLEST_OBJECT, split: bool = True, scale: float = 1.0
) -> Labels:
    """Number the objects of a mask from 1, in the order of their first pixels, row by row.

    Args:
        mask: Shape (H, W), 0 for background.
        smallest: Minimum area in pixels; smaller objects become background.
        split: Whether to separate touching cells; otherwise each region is one object.
        scale: Pixels of the mask for one pixel that the network saw.

    Returns:
        Shape (H, W), int32: the number of the object, 0 for background.
    """
    cell = np.asarray(mask) > 0
    labels = _separated(cell, scale, smallest) if split else ndimage.label(cell, BY_SIDE_OR_CORNER, output=np.int32)[0]
    return number_objects(labels, smallest)


def label_truth(
    mask: NDArray[np.generic], ids: NDArray[np.generic] | None, smallest: float = SMALLEST_OBJECT
) -> Labels:
    """Number the objects of a label: all those with ids, else regions of at least ``smallest`` pixels."""
    if ids is not None:
        return number_objects(np.array(ids, np.int32), 1)
    return label_objects(mask, smallest=smallest, split=False)


def number_objects(labels: Labels, smallest: float) -> Labels:
    """Number objects anew, in place, in the order of their first pixels; smaller ones become background.

    An object that the image border cuts is only part of a cell, so ``AT_BORDER`` of the pixels suffice.
    """
    areas, boxes = _areas(labels), ndimage.find_objects(labels)
    kept = [
        number
        for number in range(1, len(areas))
        if areas[number]
        and areas[number] >= smallest * (AT_BORDER if _at_border(boxes[number - 1], labels.shape) else 1)
    ]

    def first_pixel(number: int) -> tuple[int, int]:
        rows, columns = boxes[number - 1]
        return rows.start, columns.start + int(np.argmax(labels[rows.start, columns] == number))

    new = np.zeros(len(areas), np.int32)
    new[sorted(kept, key=first_pixel)] = np.arange(1, len(kept) + 1)
    for rows in _bands(labels):
        rows[:] = new[rows]
    return labels


def _areas(labels: Labels) -> NDArray[np.int64]:
    areas = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
    for rows in _bands(labels):
        areas += np.bincount(rows.ravel(), minlength=len(areas))
    return areas


def _at_border(box: Window, shape: tuple[int, ...]) -> bool:
    """Return whether the image border may cut the object in this box."""
    return any(part.start == 0 or part.stop == side for part, side in zip(box, shape, strict=True))


def _bands(labels: Labels) -> Iterator[Labels]:
    """Yield bands of rows, to limit the memory of what is computed from them."""
    for top in range(0, len(labels), BLOCK):
        yield labels[top : top + BLOCK]


def _separated(cell: Mask, scale: float, smallest: float) -> Labels:
    """Cut regions at their necks. Every cell pixel gets a number."""
    step = max(1, int(scale / COARSEST))
    if step > 1:
        coarse = _separated(cell[::step, ::step], scale / step, smallest / step**2)
        # the largest number near a pixel that its own sample missed
        near = ndimage.maximum_filter(coarse, 3)
        labels = np.where(coarse, coarse, near).repeat(step, 0).repeat(step, 1)[: cell.shape[0], : cell.shape[1]]
        return _completed(labels, cell)
    smoothing = SMOOTHING * max(1.0, scale)
    labels, number = ndimage.label(cell, BY_SIDE_OR_CORNER, output=np.int32)
    margin = math.ceil(REACH * smoothing) + 1  # so that a region in its box is cut as in the whole image
    areas = _areas(labels)
    for region, box in enumerate(ndimage.find_objects(labels), start=1):
        if areas[region] < smallest and not _at_border(box, labels.shape):
            continue  # no object, whole or cut; noise has hundreds of thousands
        if max(part.stop - part.start for part in box) > BLOCK + HALO:
            number = _cut_large(labels[box], region, number, smoothing)
            continue
        wide = tuple(
            slice(max(0, part.start - margin), min(part.stop + margin, side))
            for part, side in zip(box, labels.shape, strict=True)
        )
        inside = labels[wide] == region
        cut = _cut(inside, smoothing)
        for part in range(2, int(cut.max()) + 1):
            number += 1
            labels[wide][cut == part] = number
    return labels


def _cut_large(labels: Labels, region: int, number: int, smoothing: float) -> int:
    """Cut a region that is larger than a block, in place, at half the resolution, to limit time and memory.

    Args:
        labels: The box around the region.
        region: Its number.
        number: The largest number in use.
        smoothing: As for ``_landscape``.

    Returns:
        The largest number in use now.
    """
    cut = _cut(labels[::2, ::2] == region, smoothing / 2)
    near = ndimage.maximum_filter(cut, 3)  # for pixels that the sample missed
    parts = int(cut.max())
    for top in range(0, len(labels), BLOCK):
        rows = labels[top : top + BLOCK]
        half = slice(top // 2, top // 2 + BLOCK // 2)
        part = np.where(cut[half] > 0, cut[half], near[half]).repeat(2, 0).repeat(2, 1)[: len(rows), : rows.shape[1]]
        new = (rows == region) & (part > 1)
        rows[new] = part[new] + (number - 1)
    return number + parts - 1


def _cut(region: Mask, smoothing: float) -> Labels:
    """Number the cells of one region, shape (H, W)."""
    # of several blocks the landscape is computed anew each time, to limit memory
    known = _landscape(region, smoothing) if max(region.shape) <= BLOCK + HALO else None
    fine = _cut_at(region, smoothing, SHALLOW, known)
    if fine.max() < 2:
        return fine
    cut = _cut_at(region, smoothing, NECK, known)
    number = int(cut.max())
    fine_areas = np.bincount(fine.ravel())
    for part, box in enumerate(ndimage.find_objects(cut), start=1):
        inside = cut[box] == part
        shared = zip(*np.unique(fine[box][inside], return_counts=True), strict=True)
        smaller = [(fine[box] == n) & inside for n, area in shared if 2 * area > fine_areas[n]]
        if len(smaller) < 2 or _solidity(inside) > NOT_CONVEX or min(map(_solidity, smaller)) < CONVEX_PART:
            continue
        for one in smaller[1:]:
            number += 1
            cut[box][one] = number
    return cut


def _solidity(inside: Mask) -> float:
    """Return the share of its convex hull that an object fills."""
    from skimage.morphology import convex_hull_image  # takes 0.4 s, and most commands do not need it

    sample, _ = _sampled(inside, LARGE)
    return float(np.count_nonzero(sample) / np.count_nonzero(convex_hull_image(sample)))


def _sampled(inside: Mask, side: int) -> tuple[Mask, int]:
    """Return every pixel of an object in its box, or every second, third... if the box is larger, and the step."""
    step = max(1, math.ceil(math.sqrt(inside.size) / side))
    sample = inside[::step, ::step]
    if not sample.any():  # thinner than the step
        sample = np.logical_or.reduceat(
            np.logical_or.reduceat(inside, range(0, inside.shape[0], step), axis=0),
            range(0, inside.shape[1], step),
            axis=1,
        )
    return sample, step


def _cut_at(region: Mask, smoothing: float, neck: float, known: NDArray[np.float32] | None) -> Labels:
    """Number the parts of one region between which a neck is as deep as ``neck``; its landscape may be known."""
    blocks = [block for block in _blocks(region.shape) if region[block[1]].any()]
    tops, labels = np.zeros(region.shape, bool), np.zeros(region.shape, np.int32)
    for wide, core, inner in blocks:
        land = _landscape(region[wide], smoothing) if known is None else known
        tops[core] = _tops(land, neck)[inner]
    markers, count = ndimage.label(tops, BY_SIDE_OR_CORNER, output=np.int32)
    if count < 2:
        return region.astype(np.int32)
    for wide, core, inner in blocks:
        land = _landscape(region[wide], smoothing) if known is None else known
        found = segmentation.watershed(-land, markers[wide], mask=land > 0, connectivity=BY_SIDE_OR_CORNER)
        labels[core] = found[inner]
    return _completed(labels, region)


def _landscape(cell: Mask, smoothing: float) -> NDArray[np.float32]:
    """Return the logarithm of the smoothed distance to the background, -1 there."""
    # an image border is no outline: a cell that it cuts may continue beyond it
    whole = _without_pale_centres(cell)
    distance = ndimage.distance_transform_edt(np.pad(whole, 1, mode="edge"))[1:-1, 1:-1].astype(np.float32)
    smooth = ndimage.gaussian_filter(distance, smoothing)
    return np.where(whole, np.log(smooth + ROUGHNESS), np.float32(-1)).astype(np.float32)


def _tops(land: NDArray[np.float32], neck: float) -> Mask:
    """Return the maxima of a landscape between which a neck is as deep as ``neck``: each is a cell."""
    from skimage.morphology import local_maxima, reconstruction  # takes 0.4 s, and most commands do not need it

    maxima: Mask = local_maxima(land, BY_SIDE_OR_CORNER) & (land >= 0)
    peaks, count = ndimage.label(maxima, BY_SIDE_OR_CORNER)
    if count < 2:
        return maxima  # most cells have only one
    if count <= FEW_PEAKS:  # the same as below, in a tenth of the time
        tops = np.zeros_like(maxima)
        for place in ndimage.maximum_position(land, peaks, np.arange(1, count + 1)):
            if tops[place]:
                continue  # level with another one
            parts, _ = ndimage.label(land >= land[place] - np.float32(neck), BY_SIDE_OR_CORNER)
            around = parts == parts[place]
            if land[around].max() <= land[place]:  # no way to a higher one but through a neck
                tops |= around
        return tops
    flooded = reconstruction(land - neck, land, method="dilation", footprint=BY_SIDE_OR_CORNER)
    return np.asarray(local_maxima(flooded, BY_SIDE_OR_CORNER) & (land >= 0))


def _without_pale_centres(cell: Mask) -> Mask:
    """Fill the hole of regions that are one cell: with one hole, and convex without it.

    Holes between several cells stay; those of a sheet of cells are many.
    """
    filled = ndimage.binary_fill_holes(cell)
    holes, count = ndimage.label(filled & ~cell)
    if not count:
        return cell
    sizes = np.bincount(holes.ravel())
    regions, number = ndimage.label(filled, BY_SIDE_OR_CORNER)
    whole, boxes = cell.copy(), ndimage.find_objects(regions)
    region_of = ndimage.maximum(regions, holes, np.arange(1, count + 1)).astype(int)
    large = np.bincount(region_of, weights=sizes[1:] > PINHOLE, minlength=number + 1)
    for region in np.unique(region_of):
        box = boxes[region - 1]
        inside = regions[box] == region
        if large[region] > 1 or inside.size > LARGE**2:
            continue
        if _solidity(inside) > CONVEX:
            whole[box] |= inside
    return whole


def _completed(cut: NDArray[np.integer[Any]], cell: Mask) -> Labels:
    """Number regions that have no number yet, and clear what is no cell."""
    labels: Labels = cut.astype(np.int32, copy=False)
    labels[~cell] = 0
    missing = cell & (labels == 0)
    if missing.any():
        more, _ = ndimage.label(missing, BY_SIDE_OR_CORNER, output=np.int32)
        labels[missing] = more[missing] + labels.max()
    return labels


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[Window, Window, Window]]:
    """Yield overlapping blocks: the block, its core, and its core within the block. The cores cover the image."""
    if max(shape) <= BLOCK + HALO:
        yield ((slice(None), slice(None)),) * 3
        return
    for top in range(0, shape[0], BLOCK):
        for left in range(0, shape[1], BLOCK):
            core = tuple(slice(start, min(start + BLOCK, side)) for start, side in zip((top, left), shape, strict=True))
            wide = tuple(
                slice(max(0, part.start - HALO), min(part.stop + HALO, side))
                for part, side in zip(core, shape, strict=True)
            )
            inner = tuple(
                slice(part.start - around.start, part.stop - around.start)
                for part, around in zip(core, wide, strict=True)
            )
            yield wide, core, inner  # type: ignore[misc]


def measure_objects(
    labels: Labels,
    probability: NDArray[np.generic],
    picture: NDArray[np.uint8],
    *,
    channels: tuple[int, ...] | None = None,
    pixel_size: float | None = None,
) -> list[dict[str, Any]]:
    """Measure each object with scikit-image; lengths in pixels, angles none.

    Args:
        labels: As ``label_objects`` returns them, shape (H, W).
        probability: Same shape; float in [0, 1], or uint16 in which 65535 means 1.
        picture: Shape (H, W, C), 0 to 255.
        channels: The numbers of its channels; None for red, green and blue.
        pixel_size: Side of a pixel in micrometres; adds area and lengths in these.

    Returns:
        A row for each object: ``id``; ``area``; ``centre_x`` and ``centre_y``, mean position of the pixels, of which
        the first has 0; the bounding box ``left``, ``top``, ``width``, ``height``; ``perimeter``; ``major_axis`` and
        ``minor_axis`` of the ellipse with the same second moments; ``elongation``, their ratio; its ``eccentricity``;
        ``solidity``, the share of its convex hull that the object fills; ``circularity``, 4 pi area / perimeter^2,
        about 1 for a disc, and more for a few pixels; ``mean_probability``; the mean of each channel, 0 to 255;
        ``touches_border``, whether the image border may cut it. Elongation and circularity are None for an object
        without width.
    """
    full = 65535 if probability.dtype == np.uint16 else 1
    names = COLOURS if channels is None else [f"channel_{number}" for number in channels]
    height, width = labels.shape
    rows = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):  # one at a time, to limit memory
        if box is None:
            continue
        inside = labels[box] == number
        sample, step = _sampled(inside, LARGEST)
        major, minor = (4 * step * math.sqrt(max(0.0, part)) for part in measure.inertia_tensor_eigvals(sample))
        top, left = box[0].start, box[1].start
        area, perimeter = int(np.count_nonzero(inside)), step * float(measure.perimeter(sample, 4))
        colours = picture[box][inside].mean(axis=0, dtype=np.float64)
        middle = [float(places.mean()) for places in np.nonzero(sample)]
        row = {
            "id": number,
            "area": area,
            "centre_x": left + step * float(middle[1]),
            "centre_y": top + step * float(middle[0]),
            "left": left,
            "top": top,
            "width": inside.shape[1],
            "height": inside.shape[0],
            "perimeter": perimeter,
            "major_axis": major,
            "minor_axis": minor,
            "elongation": major / minor if minor else None,
            "eccentricity": math.sqrt(1 - (minor / major) ** 2) if major else 0.0,
            "solidity": _solidity(inside),
            "circularity": 4 * math.pi * area / perimeter**2 if perimeter else None,
            "mean_probability": float(np.mean(probability[box], where=inside, dtype=np.float64)) / full,
            **{f"mean_{name}": float(mean) for name, mean in zip(names, colours, strict=True)},
            "touches_border": top == 0 or left == 0 or box[0].stop == height or box[1].stop == width,
        }
        if pixel_size is not None:
            row |= {f"{name}_um": row[name] * pixel_size for name in ("perimeter", "major_axis", "minor_axis")}
            row["area_um2"] = area * pixel_size**2
        rows.append(row)
    return rows


def object_columns(channels: tuple[int, ...] | None, pixel_size: float | None) -> list[str]:
    """Return the columns of ``measure_objects``, also where there is no object."""
    dot, depth = np.ones((1, 1), np.int32), len(channels or COLOURS)
    picture = np.zeros((1, 1, depth), np.uint8)
    return list(measure_objects(dot, dot.astype(float), picture, channels=channels, pixel_size=pixel_size)[0])


def object_scores(found: Labels, truth: Labels) -> dict[str, float]:
    """Compare the objects of a prediction and of a label, both numbered, shape (H, W).

    An object of the prediction is a hit if its IoU with an object of the label is above 0.5; it is then the only one.

    Returns:
        ``object_f1``, twice the hits over the objects of both; ``panoptic_quality``, the sum of the IoU of the hits
        over half the objects of both (Kirillov et al., 2019); both 1 if there are no objects. ``count_error``, found
        minus labelled objects, and its absolute value ``count_error_abs``; ``true_objects`` and ``predicted_objects``.
    """
    overlap, _ = _overlaps(found, truth)
    hits = overlap[overlap > OVERLAP]
    numbers, labelled = (np.unique(labels[labels > 0]) for labels in (found, truth))
    objects, error = len(numbers) + len(labelled), len(numbers) - len(labelled)
    return {
        "object_f1": 2 * len(hits) / objects if objects else 1.0,
        "panoptic_quality": 2 * float(hits.sum()) / objects if objects else 1.0,
        "count_error": float(error),
        "count_error_abs": float(abs(error)),
        "true_objects": float(len(labelled)),
        "predicted_objects": float(len(numbers)),
    }


def without_unjudged(labels: Labels, labelled: Labels, ignored: Mask) -> tuple[Labels, int]:
    """Leave out predicted objects that reach into pixels nobody judged and are no hit: nobody can say what they are.

    Args:
        labels: Numbered objects of the prediction on the judged pixels, shape (H, W).
        labelled: Those of the label, same shape.
        ignored: The pixels that nobody judged, same shape.

    Returns:
        The other objects, and the number of those left out.
    """
    reach = np.unique(labels[ndimage.binary_dilation(ignored, BY_SIDE_OR_CORNER)])
    overlap, numbers = _overlaps(labels, labelled)
    doubtful = np.setdiff1d(reach[reach > 0], numbers[overlap > OVERLAP])
    return np.where(np.isin(labels, doubtful), 0, labels), len(doubtful)


def _overlaps(found: Labels, truth: Labels) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Return the IoU of each predicted object with each labelled object that it meets, and the number of the former."""
    numbers, found_areas = np.unique(found[found > 0], return_counts=True)
    labelled, true_areas = np.unique(truth[truth > 0], return_counts=True)
    both = (found > 0) & (truth > 0)
    pairs, shared = np.unique(np.stack([found[both], truth[both]]), axis=1, return_counts=True)
    union = found_areas[np.searchsorted(numbers, pairs[0])] + true_areas[np.searchsorted(labelled, pairs[1])] - shared
    return shared / union, pairs[0]


def boundary_dice(found: Mask, truth: Mask, ignored: Mask | None = None) -> float:
    """Return the share of the outlines of two masks, shape (H, W), that lie within 2 pixels of the other outline.

    This is the normalised surface Dice of Nikolov et al., 2018 (https://arxiv.org/abs/1809.04430); an outline is the
    pixels of a mask that touch another value, or the image border, by a side. 1 if both masks are empty, 0 if only one
    is. Outlines beside or in ``ignored``, pixels that nobody judged, do not count.
    """
    outlines = [mask & ~ndimage.binary_erosion(mask) for mask in (found, truth)]
    counted = outlines
    if ignored is not None and ignored.any():
        beside = ndimage.binary_dilation(ignored)
        counted = [outline & ~beside for outline in outlines]
    total = sum(int(outline.sum()) for outline in counted)
    if not total:
        return 1.0
    if not all(outline.any() for outline in outlines):
        return 0.0
    near = sum(
        int((ndimage.distance_transform_edt(~other)[outline] <= TOLERANCE).sum())
        for outline, other in zip(counted, reversed(outlines), strict=True)
    )
    return near / total


def count_unlabelled(prediction: Mask, truth: Mask, ignored: Mask | None = None) -> int:
    """Count predicted objects of at least 20 pixels that overlap no labelled pixel and none that nobody judged.

    They are unlabelled cells that the network found, or false positives.

    Args:
        prediction: Predicted mask, shape (H, W).
        truth: Label, same shape.
        ignored: Pixels that nobody judged, same shape.
    """
    if ignored is not None and ignored.any():
        prediction, truth = prediction & ~ignored, truth | ndimage.binary_dilation(ignored, BY_SIDE_OR_CORNER)
    objects = label_objects(prediction)
    touched = np.bincount(objects[truth], minlength=int(objects.max()) + 1)[1:]
    return int((touched == 0).sum())


UNLABELLED, MISSED, MERGED, SPLIT = "unlabelled", "missed", "merged", "split"
RIM = 2  # pixels around a label that still belong to its object, because outlines are not drawn exactly


@dataclass(frozen=True)
class Disagreement:
    """A region in which prediction and label have different objects.

    Attributes:
        kind: ``unlabelled``, a predicted object without a label; ``missed``, a label of which less than half is
            predicted; ``merged``, one predicted object that covers more than half of several labels; ``split``, one
            label that covers more than half of several predicted objects.
        where: The pixels of the region, shape (H, W).
    """

    kind: str
    where: Mask


def find_disagreements(
    prediction: Mask,
    truth: Mask,
    seen: Mask,
    ids: NDArray[np.generic] | None = None,
    ignored: Mask | None = None,
    *,
    split: bool = True,
) -> Iterator[Disagreement]:
    """Yield the regions in which prediction and label have different objects of at least 20 pixels.

    Args:
        prediction: Predicted mask as scored, shape (H, W).
        truth: Label, same shape.
        seen: Mask in which to search for unlabelled cells; the prediction, or one at a lower threshold.
        ids: Number of each labelled object, same shape. Without them touching cells are one object of the label, and
            then of the prediction too, except where it has no label.
        ignored: Pixels that nobody judged, same shape; an unlabelled object that reaches into them is left out.
        split: Whether to separate touching cells of the prediction.
    """
    near_label = ndimage.binary_dilation(truth, iterations=RIM)
    if ignored is not None and ignored.any():
        prediction, seen = prediction & ~ignored, seen & ~ignored
        known = ndimage.label(seen & ~near_label, BY_SIDE_OR_CORNER)[0]
        doubtful = np.unique(known[ndimage.binary_dilation(ignored, BY_SIDE_OR_CORNER)])
        seen = seen & ~np.isin(known, doubtful[doubtful > 0])
    for where in _objects(label_objects(seen & ~near_label, split=split)):
        if ndimage.binary_erosion(np.pad(where, 1, mode="edge"), BY_SIDE_OR_CORNER).any():  # thinner: a rim of a label
            yield Disagreement(UNLABELLED, where)
    found = list(_objects(label_objects(prediction, split=split and ids is not None)))
    labelled = list(_objects(label_truth(truth, ids)))
    for object_ in labelled:
        if 2 * np.count_nonzero(object_ & prediction) < np.count_nonzero(object_):
            yield Disagreement(MISSED, object_)
    for one, others, kind in ((found, labelled, MERGED), (labelled, found, SPLIT)):
        for whole in one:
            parts = [part for part in others if 2 * np.count_nonzero(part & whole) > np.count_nonzero(part)]
            if len(parts) > 1:
                yield Disagreement(kind, whole)


def _objects(labels: Labels) -> Iterator[Mask]:
    for number in range(1, int(labels.max(initial=0)) + 1):
        yield labels == number
