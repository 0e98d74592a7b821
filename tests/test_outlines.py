"""Outlines for other programs: each program's own library gives the same pixels back."""

import json

import numpy as np
import pytest
import roifile
import shapely
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from skimage.draw import polygon2mask

from cellseg.objects import label_objects, measure_objects, number_objects
from cellseg.storage.errors import InputError
from cellseg.use.outlines import (
    coco_annotations,
    outline,
    refuse_far_objects,
    require_formats,
    run_lengths,
    write_coco,
    write_outlines,
)


def drawing(seed, size=(40, 56)):
    """Objects of any form: with holes, in parts that touch by corners, at the border."""
    generator = np.random.default_rng(seed)
    rough = generator.random((size[0] // 4, size[1] // 4)).repeat(4, 0).repeat(4, 1)
    labels = label_objects((rough > 0.45) & (generator.random(size) > 0.05), smallest=1, split=bool(seed % 2))
    if seed == 0:
        labels[:], labels[:, 3:9], labels[5:30, 20:40], labels[10:14, 25:30] = 0, 1, 2, 0  # whole columns, a hole
    return number_objects(labels, 1)


def measured(labels):
    return measure_objects(labels, (labels > 0).astype(float), np.zeros((*labels.shape, 3), np.uint8))


def inside(shape, size):
    """The pixels whose centre lies in a shape."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    return shapely.contains_xy(shape, columns, rows)


@pytest.mark.parametrize("seed", range(6))
def test_geojson_gives_the_same_pixels_back(seed, tmp_path):
    labels = drawing(seed)
    write_outlines(tmp_path, "a/b", ["geojson"], labels, measured(labels))
    features = json.loads((tmp_path / "a" / "b.geojson").read_text())["features"]
    assert len(features) == labels.max()
    for feature in features:
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.is_valid
        assert np.array_equal(inside(shape, labels.shape), labels == int(feature["properties"]["name"]))
        assert feature["properties"]["measurements"]["area"] == shape.area
    assert len({feature["id"] for feature in features}) == len(features)


@pytest.mark.parametrize("seed", range(6))
def test_rois_of_imagej_give_the_same_pixels_back(seed, tmp_path):
    labels = drawing(seed)
    write_outlines(tmp_path, "b", ["imagej"], labels, measured(labels))
    rois = roifile.roiread(tmp_path / "b.zip")
    assert [int(roi.name) for roi in rois] == list(range(1, labels.max() + 1))
    for roi in rois:
        filled = np.zeros(labels.shape, bool)
        for ring in roi.coordinates(multi=True):  # even-odd, as ImageJ fills a path
            filled ^= polygon2mask(labels.shape, ring[:, ::-1] - 0.5)
        assert np.array_equal(filled, labels == int(roi.name))


@pytest.mark.parametrize("side", [65_535, 65_536])
def test_rois_of_imagej_are_refused_where_they_cannot_hold_a_place(side, tmp_path):
    labels = np.zeros((2, side), np.int32)
    labels[:, -3:] = 1
    if side == 65_535:
        refuse_far_objects("b", ["imagej"], measured(labels))
        write_outlines(tmp_path, "b", ["imagej"], labels, [{"id": 1}])
        assert roifile.roiread(tmp_path / "b.zip")[0].coordinates().max() == side
    else:
        with pytest.raises(InputError, match=r"b: has objects beyond pixel 65,535, .*use --outlines geojson"):
            refuse_far_objects("b", ["imagej"], measured(labels))
        refuse_far_objects("b", ["geojson"], measured(labels))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
@pytest.mark.parametrize("seed", range(6))
def test_coco_gives_the_same_pixels_back(seed, tmp_path, capsys):
    labels = drawing(seed)
    height, width = labels.shape
    images = [{"file_name": "b.png", "width": width, "height": height}] * 2
    write_coco(tmp_path / "coco.json", images, [coco_annotations(labels, measured(labels))] * 2)
    read = COCO(tmp_path / "coco.json")
    capsys.readouterr()
    for image in (1, 2):
        annotations = read.loadAnns(read.getAnnIds(imgIds=image))
        assert len(annotations) == labels.max()
        for number, annotation in enumerate(annotations, start=1):
            assert np.array_equal(read.annToMask(annotation), labels == number)
            rle = coco_mask.frPyObjects(annotation["segmentation"], height, width)
            assert coco_mask.area(rle) == annotation["area"]
            assert list(coco_mask.toBbox(rle)) == annotation["bbox"]


def test_run_lengths_of_columns_that_are_full_are_one_run():
    assert run_lengths(np.ones((4, 2), bool), 1, 0, (4, 5)) == [4, 8, 8]
    assert run_lengths(np.ones((4, 5), bool), 0, 0, (4, 5)) == [0, 20, 0]


def test_an_outline_has_no_more_corners_than_it_needs():
    assert len(outline(np.ones((30, 20), bool), 5, 7).exterior.coords) == 5


def test_a_sliver_without_width_has_no_number_that_json_lacks(tmp_path):
    labels = np.zeros((40, 40), np.int32)
    labels[0, 3:9], labels[20, 20] = 1, 2
    write_outlines(tmp_path, "b", ["geojson"], labels, measured(labels))
    features = json.loads((tmp_path / "b.geojson").read_text(), parse_constant=pytest.fail)["features"]
    assert [feature["properties"]["measurements"]["area"] for feature in features] == [6, 1]
    assert all("elongation" not in feature["properties"]["measurements"] for feature in features)


def test_an_unknown_format_is_refused_with_the_known_ones():
    require_formats(["geojson", "imagej", "coco"])
    with pytest.raises(InputError, match="--outlines qupath is unknown; choose from geojson, imagej, coco"):
        require_formats(["qupath"])
