"""Matching images with masks: every layout, and the messages for ambiguous names."""

import contextlib
import cProfile
import pstats
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cellseg.data.check import check_data
from cellseg.data.clean import write_cleaned
from cellseg.data.formats import FOREIGN, IMAGE_SUFFIXES, refuse_foreign
from cellseg.data.pairs import find_pairs, looks_like_mask, scan_pairs, shown
from cellseg.storage.errors import InputError


def picture(path, value=200):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)


def names(root):
    return [
        (pair.name, str(pair.image.relative_to(root)), [str(mask.relative_to(root)) for mask in pair.masks])
        for pair in find_pairs(root).pairs
    ]


LAYOUTS = {
    "one folder a pair": (
        {"cell_1/source.jpg": "cell_1/mask.png", "cell_10/source.tif": "cell_10/mask.bmp"},
        ["cell_1", "cell_10"],
        "one folder a pair",
    ),
    "any two names of which one says mask, label or gt": (
        {"a/photo.png": "a/photo_mask.png", "b/x.png": "b/LABELS.png", "c/length.png": "c/gt-1.png"},
        ["a", "b", "c"],
        "one folder a pair",
    ),
    "one folder an image, many masks": (
        {"00ae/images/00ae.png": ["00ae/masks/1.png", "00ae/masks/2.png"], "0b/images/0b.png": ["0b/masks/9.png"]},
        ["00ae", "0b"],
        "one folder an image, with a folder of instance masks",
    ),
    "parallel folders, same names": (
        {"images/1.jpg": "masks/1.png", "images/02.jpg": "masks/02.png"},
        ["1", "02"],
        "parallel folders images/ and masks/",
    ),
    "parallel folders, suffixes": (
        {"imgs/a.png": "annotations/a_mask.png", "imgs/b.png": "annotations/b_masks.png"},
        ["a", "b"],
        "parallel folders imgs/ and annotations/",
    ),
    "nnU-Net": (
        {"imagesTr/case_1_0000.png": "labelsTr/case_1.png", "imagesTr/case_2_0000.png": "labelsTr/case_2.png"},
        ["case_1_0000", "case_2_0000"],
        "parallel folders imagesTr/ and labelsTr/",
    ),
    "frames that count from 0000": (
        {"images/f_0000.png": "labels/f_0000.png", "images/f_0001.png": "labels/f_0001.png"},
        ["f_0000", "f_0001"],
        "parallel folders images/ and labels/",
    ),
    "side by side": (
        {"x.png": "x_mask.png", "y.tif": "y_masks.png", "z.jpg": "z_Mask.png"},
        ["x", "y", "z"],
        "side by side, NAME and NAME_mask",
    ),
}


@pytest.mark.parametrize(("files", "order", "layout"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_is_recognised_by_looking(tmp_path, files, order, layout):
    for image, masks in files.items():
        for path in (image, *([masks] if isinstance(masks, str) else masks)):
            picture(tmp_path / path)
    for clutter in (".DS_Store", "._x.png", "Thumbs.db", "__MACOSX/._a.png", "notes/readme.txt", ".hidden/x.png"):
        (tmp_path / clutter).parent.mkdir(exist_ok=True)
        (tmp_path / clutter).write_bytes(b"clutter")
    scan = find_pairs(tmp_path)
    assert scan.layout == layout
    assert [pair.name for pair in scan.pairs] == order
    found = {image: masks if len(masks) > 1 else masks[0] for _, image, masks in names(tmp_path)}
    assert found == {image: masks[0] if len(masks) == 1 else masks for image, masks in files.items()}
    assert not scan.ignored
    assert not scan.grouped


def test_pairs_come_in_natural_order_each_its_own_group(own_smears):
    pairs = find_pairs(own_smears).pairs
    assert [pair.name for pair in pairs] == [f"cell_{n}" for n in range(1, 16)]
    assert all(pair.group == pair.name for pair in pairs)


def test_source_and_mask_may_have_other_pictures_beside_them(own_smears):
    picture(own_smears / "cell_1" / "overlay.png")
    scan = find_pairs(own_smears)
    assert scan.pairs[0].image.name == "source.jpg"
    assert not scan.ignored


def test_pictures_beside_the_layout_are_left_out_and_told(own_smears):
    picture(own_smears / "overview.png")
    assert find_pairs(own_smears).ignored == [own_smears / "overview.png"]


def grouped(root, text, name="groups.csv"):
    (root / name).write_text(text, encoding="utf-8-sig")
    return {pair.group for pair in find_pairs(root).pairs}


def test_groups_come_from_groups_csv(own_smears):
    rows = "\n".join(f"cell_{n},slide_{n % 3}" for n in range(1, 16))
    assert grouped(own_smears, f"pair,group\n{rows}\n") == {"slide_0", "slide_1", "slide_2"}
    assert find_pairs(own_smears).grouped


def test_groups_may_lie_elsewhere(own_smears, tmp_path):
    rows = "\n".join(f"cell_{n},slide" for n in range(1, 16))
    (tmp_path / "mine.csv").write_text(f"pair,group\n{rows}\n")
    assert {pair.group for pair in find_pairs(own_smears, tmp_path / "mine.csv").pairs} == {"slide"}


def test_spaces_capitals_and_more_columns_do_not_part_siblings(own_smears):
    rows = "\n".join(f"x, cell_{n}, slide{' ' * (n % 2)}" for n in range(1, 16))
    assert grouped(own_smears, f"id,pair,group\n{rows}\n", "Groups.csv") == {"slide"}


def without_mask(root):
    (root / "cell_3" / "mask.jpg").unlink()


def without_source(root):
    (root / "cell_3" / "source.jpg").unlink()


def two_sources(root):
    shutil.copy(root / "cell_3" / "source.jpg", root / "cell_3" / "source.png")


def no_telling(root):
    for role, name in (("source", "a"), ("mask", "b")):
        (root / "cell_3" / f"{role}.jpg").rename(root / "cell_3" / f"{name}.jpg")


def nothing_in_it(root):
    shutil.rmtree(root)
    root.mkdir()


def only_images(root):
    for mask in root.glob("*/mask.jpg"):
        mask.unlink()


def gone(root):
    shutil.rmtree(root)


def a_file(root):
    shutil.rmtree(root)
    root.write_text("")


def parallel(root):
    for folder in list(root.iterdir()):
        for role, target in (("source", "images"), ("mask", "masks")):
            (root / target).mkdir(exist_ok=True)
            (folder / f"{role}.jpg").rename(root / target / f"{folder.name}.jpg")
        folder.rmdir()


def image_without_mask(root):
    parallel(root)
    (root / "masks" / "cell_3.jpg").unlink()


def mask_without_image(root):
    parallel(root)
    (root / "images" / "cell_3.jpg").unlink()


def twins(root):
    parallel(root)
    shutil.copy(root / "images" / "cell_3.jpg", root / "images" / "cell_3.png")


def two_masks(root):
    parallel(root)
    shutil.copy(root / "masks" / "cell_3.jpg", root / "masks" / "cell_3_mask.jpg")


def one_mask_for_two(root):
    parallel(root)
    (root / "masks" / "cell_3.jpg").rename(root / "masks" / "case.jpg")
    (root / "images" / "cell_3.jpg").rename(root / "images" / "case.jpg")
    shutil.copy(root / "images" / "case.jpg", root / "images" / "case_0000.jpg")


def masks_and_labels(root):
    parallel(root)
    shutil.copytree(root / "masks", root / "labels")


def two_layouts(root):
    (root / "images").mkdir()
    (root / "masks").mkdir()
    for role, target in (("source", "images"), ("mask", "masks")):
        shutil.copy(root / "cell_1" / f"{role}.jpg", root / target / "x.jpg")


def instances_without_masks(root):
    for n in (1, 2):
        picture(root / f"id_{n}" / "images" / "x.png")
        (root / f"id_{n}" / "masks").mkdir()
    picture(root / "id_1" / "masks" / "y.png")
    for n in range(1, 16):
        shutil.rmtree(root / f"cell_{n}")


def groups(text):
    return lambda root: (root / "groups.csv").write_text(text)


def second_channel(root):
    parallel(root)
    (root / "images" / "cell_3.jpg").rename(root / "images" / "cell_3_0000.jpg")
    shutil.copy(root / "images" / "cell_3_0000.jpg", root / "images" / "cell_3_0001.jpg")


def two_mask_folders(root):
    instances_without_masks(root)
    picture(root / "id_2" / "masks" / "z.png")
    picture(root / "id_1" / "Masks" / "z.png")


def image_folder_without_mask_folder(root):
    instances_without_masks(root)
    shutil.rmtree(root / "id_2" / "masks")


ROWS = "\n".join(f"cell_{n},a" for n in range(1, 16))
PROBLEMS = [
    (without_mask, r"cell_3: a pair is source.* but here is no mask \(found: source\.jpg\); complete the pair"),
    (without_source, r"cell_3: .* but here is no image \(found: mask\.jpg\)"),
    (two_sources, r"cell_3: .* more than one source\.\* \(found: mask\.jpg, source\.jpg, source\.png\)"),
    (no_telling, r"cell_3: .* but here is no mask \(found: a\.jpg, b\.jpg\)"),
    (nothing_in_it, r"smears contains no pairs; expected one folder a pair .* side by side .*; found no images"),
    (only_images, r"smears contains no pairs; .*; found images in cell_1, cell_10, .* and 10 more"),
    (gone, r"a data set must be a folder, but .*smears does not exist"),
    (a_file, r"a data set must be a folder or a pairs.csv, but .*smears is a file"),
    (image_without_mask, r"images/cell_3\.jpg: the image has no mask; add the mask"),
    (mask_without_image, r"masks/cell_3\.jpg: the mask has no image; add the image"),
    (twins, r"images/cell_3\.jpg: there is more than one image with this name \(cell_3\.jpg, cell_3\.png\)"),
    (two_masks, r"images/cell_3\.jpg: more than one mask could belong to it \(cell_3\.jpg, cell_3_mask\.jpg\)"),
    (one_mask_for_two, r"case_0000\.jpg: the mask case\.jpg could belong to it and to case\.jpg"),
    (masks_and_labels, r"smears can be read in more than one way: it has the folders images, labels, masks"),
    (two_layouts, r"fits 2 layouts: one folder a pair \(as in cell_1/source\.jpg\) and parallel folders"),
    (instances_without_masks, r"id_2: needs one image in images/ and at least one in masks/, but has 1 and 0"),
    (second_channel, r"images/cell_3_0001\.jpg: looks like a second channel; merge the channels into one image"),
    (two_mask_folders, r"id_1: has more than one folder of images or of masks \(Masks, images, masks\)"),
    (image_folder_without_mask_folder, r"id_2: needs one image in images/ and .* masks/, but has 1 and 0"),
    (groups("pair,group\ncell_1,a\n"), r"groups\.csv: has no group for cell_2, cell_3, .* and others"),
    (groups("name;slide\ncell_1;a\n"), r"groups\.csv: must have the columns pair and group, .* but has: name;slide"),
    (groups("group,pair\na,cell_1\nb\n"), r"groups\.csv: must be a UTF-8 CSV file with pair and group in every row"),
    (groups(f"pair,group\n{ROWS}\ncell_1,b\n"), r"groups\.csv: puts cell_1 into more than one group"),
    (lambda root: (root / "groups.csv").mkdir(), r"groups\.csv: must be a UTF-8 CSV file"),
]


@pytest.mark.parametrize(("broken", "message"), PROBLEMS, ids=[message[:40] for _, message in PROBLEMS])
def test_what_is_wrong_is_named_with_its_place(own_smears, broken, message):
    broken(own_smears)
    with pytest.raises(InputError, match=message):
        find_pairs(own_smears)


@pytest.mark.parametrize("name", ["labelfree", "unlabelled", "unmasked", "label-free_1"])
def test_a_photograph_is_not_taken_for_a_mask_by_its_name(tmp_path, name):
    for n in (1, 2):
        picture(tmp_path / f"p{n}" / f"{name}.png")
        picture(tmp_path / f"p{n}" / "mask_x.png")
    assert {pair.image.stem for pair in find_pairs(tmp_path).pairs} == {name}


def test_a_data_set_around_the_folder_is_named(tmp_path):
    for n in (1, 2):
        picture(tmp_path / "train" / "images" / f"{n}.png")
        picture(tmp_path / "train" / "masks" / f"{n}.png")
    with pytest.raises(InputError, match=r"train looks like the data set: name that folder"):
        find_pairs(tmp_path / "train" / "images")


def test_all_problems_are_found_at_once(own_smears):
    without_mask(own_smears)
    (own_smears / "cell_5" / "source.jpg").unlink()
    scan = scan_pairs(own_smears)
    assert [problem.path.name for problem in scan.problems] == ["cell_3", "cell_5"]
    assert len(scan.pairs) == 13
    with pytest.raises(InputError, match=re.escape(f"(1 more problem); list all problems: cellseg check {own_smears}")):
        find_pairs(own_smears)


def draw(path, *, mask=False):
    """Write a file: noise where it is an image, black and white where it is a mask, a byte where it is neither."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.name.lower().endswith(IMAGE_SUFFIXES):
        path.write_bytes(b"x")
        return
    rng = np.random.default_rng(len(path.name))
    pixels = rng.integers(0, 2, (32, 32)) * 255 if mask else rng.integers(0, 256, (32, 32, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def lay_out(root, files):
    """Write files and masks, which have a star after their name."""
    for file in files:
        draw(root / file.rstrip("*"), mask=file.endswith("*"))


CELLPOSE = [("a{}.tif", "a{}_cp_masks.png*", "a{}_flows.tif", "a{}_cp_outlines.txt", "a{}_outlines.png", "a{}_seg.npy")]
FOUND_IN_THE_WILD = [  # files of pair {}, image and mask first; files once; name of a pair; layout
    (("w{}_img.tif", "w{}_masks.tif*"), (), "w{}_img", "side by side, as w1_img.tif and w1_masks.tif"),
    (("w{}_image.tif", "w{}_mask.tif*"), (), "w{}_image", "side by side, as w1_image.tif and w1_mask.tif"),
    (("w{}-raw.tif", "w{}-gt.tif*"), (), "w{}-raw", "side by side, as w1-raw.tif and w1-gt.tif"),
    (*CELLPOSE, (), "a{}", "side by side, as a1.tif and a1_cp_masks.png"),
    (("x{}.png", "x{}_label.png*", "x{}_label_viz.png"), (), "x{}", "side by side, as x1.png and x1_label.png"),
    (("x{}.png", "x{}_labels.tif*", "x{}_overlay.png"), (), "x{}", "side by side, as x1.png and x1_labels.tif"),
    (("x{}.png", "x{}_seg.png*"), (), "x{}", "side by side, as x1.png and x1_seg.png"),
    (("x{}.jpg", "x{}_segmentation.png*"), (), "x{}", "side by side, as x1.jpg and x1_segmentation.png"),
    (("x{}.ome.tif", "x{}_mask.ome.tif*"), (), "x{}.ome", "side by side, as x1.ome.tif and x1_mask.ome.tif"),
    (("x{}.png", "mask_x{}.png*"), (), "x{}", "side by side, as x1.png and mask_x1.png"),
    (("image_x{}.png", "label_x{}.png*"), (), "image_x{}", "side by side, as image_x1.png and label_x1.png"),
    (("img{}.png", "mask{}.png*"), (), "img{}", "side by side, as img1.png and mask1.png"),
    (("label_free_{}.png", "label_free_{}_mask.png*"), (), "label_free_{}", "side by side, NAME and NAME_mask"),
    (("00{}.bmp", "00{}.png*"), (), "00{}", "side by side, as 001.bmp and 001.png"),
    (("a{}.JPG", "a{}.png*"), (), "a{}", "side by side, as a1.JPG and a1.png"),
    (("a{}.png", "a{}.tif*"), (), "a{}", "side by side, as a1.png and a1.tif"),
    (("Image/{}.png", "Label/{}.png*"), (), "{}", "parallel folders Image/ and Label/"),
    (("IMG/{}.png", "gt/{}_gt.png*"), (), "{}", "parallel folders IMG/ and gt/"),
    (("raw/{}.png", "Ground_Truth/{}.png*"), (), "{}", "parallel folders raw/ and Ground_Truth/"),
    (("images/img_{}.png", "masks_png/mask_{}.png*"), (), "img_{}", "parallel folders images/ and masks_png/"),
    (("images/{}.png", "segmentations/{}_seg.png*"), (), "{}", "parallel folders images/ and segmentations/"),
    (("images/{}.png", "masks/{}.png*"), ("raw/1.png",), "{}", "parallel folders images/ and masks/"),
    (
        ("images_tr/{}.png", "labels_tr/{}.png*"),
        ("images_ts/9.png",),
        "{}",
        "parallel folders images_tr/ and labels_tr/",
    ),
    (
        ("train/image/{}.png", "train/label/{}.png*"),
        ("test/image/9.png",),
        "{}",
        "parallel folders train/image/ and train/label/",
    ),
    (
        ("images/train/{}.png", "masks/train/{}.png*"),
        ("images/test/9.png",),
        "{}",
        "parallel folders images/train/ and masks/train/",
    ),
    (
        ("images/s{}/a.png", "masks/s{}/a.png*"),
        (),
        "s{}_a",
        "parallel folders images/ and masks/ with the same folders in both",
    ),
    (
        ("images/{}.png", "masks/{}/1.png*"),
        (),
        "{}",
        "parallel folders images/ and masks/, a folder of masks for each image",
    ),
    (("d/x{}.png", "d/x{}_mask.png*"), ("d/_classes.csv",), "x{}", "side by side, NAME and NAME_mask, in d/"),
    (("s{}_json/img.png", "s{}_json/label.png*", "s{}_json/label_viz.png"), (), "s{}_json", "one folder a pair"),
    (("s{}/photo_color.png", "s{}/photo_mask.png*"), (), "s{}", "one folder a pair"),
]


@pytest.mark.parametrize(("files", "once", "name", "layout"), FOUND_IN_THE_WILD, ids=lambda value: str(value)[:40])
def test_layouts_of_other_programs_are_read_and_cleaning_keeps_them(tmp_path, files, once, name, layout):
    root = tmp_path / "d"
    lay_out(root, [file.format(number) for number in (1, 2, 3) for file in files])
    lay_out(root, once)
    scan = find_pairs(root)
    assert scan.layout == layout
    assert [pair.name for pair in scan.pairs] == [name.format(number) for number in (1, 2, 3)]
    image, mask = (file.rstrip("*") for file in files[:2])
    assert [(shown(pair.image, root), [shown(path, root) for path in pair.masks]) for pair in scan.pairs] == [
        (image.format(number), [mask.format(number)]) for number in (1, 2, 3)
    ]
    assert [shown(path, root) for path in scan.ignored] == [file for file in once if file.endswith(".png")]
    assert not any(looks_like_mask(pair.image) for pair in scan.pairs)
    write_cleaned(root, tmp_path / "out")
    again = find_pairs(tmp_path / "out")
    assert [(pair.name, pair.group) for pair in again.pairs] == [(pair.name, pair.group) for pair in scan.pairs]


def test_suffixes_of_masks_do_not_tear_names_apart_that_were_whole(tmp_path):
    lay_out(
        tmp_path, [f"{side}/{name}.png" for side in ("images", "masks") for name in ("a", "a_seg", "a_color", "gt_a")]
    )
    assert [pair.name for pair in find_pairs(tmp_path).pairs] == ["a", "a_color", "a_seg", "gt_a"]
    assert all(pair.image.name == pair.masks[0].name for pair in find_pairs(tmp_path).pairs)


def test_the_words_of_exports_are_names_of_pairs_beside_other_pairs(tmp_path):
    lay_out(tmp_path, [f"{name}/{file}" for name in ("a", "test", "test1") for file in ("seg_1.png", "mask.png*")])
    pairs = find_pairs(tmp_path).pairs
    assert [(pair.name, pair.image.stem) for pair in pairs] == [(name, "seg_1") for name in ("a", "test", "test1")]


def test_a_folder_below_is_not_read_where_the_folder_itself_is_meant(tmp_path):
    lay_out(tmp_path, ["images/a.png", "masks/b.png*", "old/images/a.png", "old/masks/a.png*", "old/images/c.png"])
    with pytest.raises(InputError, match=r"images/a\.png has no mask: masks/ contains b\.png"):
        find_pairs(tmp_path)


def test_folders_below_images_and_masks_count_too_where_images_lie_in_both(tmp_path):
    days = [f"{folder}/{day}a.png{star}" for folder, star in (("images", ""), ("masks", "*")) for day in ("", "day2/")]
    alone = ["images/day3/a.png", "masks/overlays/a.png", "images/test/b.png", "masks/test/b.png*"]
    lay_out(tmp_path, [*days, *alone])
    scan = find_pairs(tmp_path)
    assert [(pair.name, pair.masks) for pair in scan.pairs] == [
        ("day2_a", (tmp_path / "masks" / "day2" / "a.png",)),
        ("images_a", (tmp_path / "masks" / "a.png",)),
    ]
    assert sorted(scan.ignored) == sorted(tmp_path / file.rstrip("*") for file in alone)


@pytest.mark.parametrize("mask", ["masks/a.png*", "masks/a/1.png*"])
def test_images_in_a_folder_below_without_masks_are_reported(tmp_path, mask):
    lay_out(tmp_path, ["images/a.png", "images/day2/b.png", mask])
    scan = find_pairs(tmp_path)
    assert [pair.name for pair in scan.pairs] == ["a"]
    assert scan.ignored == [tmp_path / "images" / "day2" / "b.png"]


REFUSED = {
    "parts of an export": (
        ["train/a.png", "train/a_mask.png*", "train/b.png", "train/b_mask.png*", "valid/c.png", "valid/c_mask.png*"],
        r"several data sets: train/ \(2 pairs\), valid/ \(1 pair\); .*such as .*train, or list .*pairs\.csv",
    ),
    "parts below images and masks": (
        ["images/train/a.png", "masks/train/a.png*", "images/val/b.png", "masks/val/b.png*"],
        r"several data sets: images/train/ and masks/train/ \(1 pair\), images/val/ and .*pairs\.csv",
    ),
    "parts in the names of folders": (
        ["train_images/a.png", "train_masks/a.png*", "test_images/b.png", "test_masks/b.png*"],
        r"several data sets: test_images/ and test_masks/ \(1 pair\), train_images/ and",
    ),
    "one picture twice": (["1.jpg", "1.png"], r"1\.jpg and 1\.png have the same name, and either may be the mask"),
    "two masks by ending": (["1.bmp*", "1.png*"], r"1\.bmp and 1\.png have the same name"),
    "three endings": (["1.bmp", "1.png*", "1.tif"], r"files of more than two endings \(\*\.bmp, \*\.png, \*\.tiff\)"),
    "other names": (
        ["images/a_01.png", "masks/b_01.png*", "masks/b_02.png*"],
        r"most similar layout is parallel folders images/ and masks/, but images/a_01\.png has no mask: masks/ "
        r"contains b_01\.png, b_02\.png; give .* same name, or list them in .*pairs\.csv: first the line image,mask, .*"
        r"found images in images/ \(1: a_01\.png\) and masks/ \(2: b_01\.png, b_02\.png\)",
    ),
    "two masks for every image": (
        ["images/c0.png", "images/c1.png", *(f"masks/c{n}{word}.png*" for n in "01" for word in ("", "_mask"))],
        r"images/c0\.png: more than one mask could belong to it \(c0\.png, c0_mask\.png\); give each image one mask",
    ),
    "two images for every mask": (
        ["images/a.png", "images/a.jpg", "masks/a.png*", "masks/b_mask.png*", "masks/b.png"],
        r"images/a\.jpg: there is more than one image with this name \(a\.jpg, a\.png\)",
    ),
    "masks as text": (["images/a.png", "labels/a.txt"], r"labels/ contains no images, only 1 \.txt"),
    "no masks": (["images/a.png", "images/b.png"], r"images/ has no folder of masks such as masks/ beside it"),
    "Zeiss": (
        ["a.czi", "b.czi"],
        r"2 files are Zeiss images \(\.czi\), which .* convert \(in Fiji.* bfconvert in\.czi",
    ),
    "Cellpose's arrays": (
        ["a.tif", "a_seg.npy"],
        r"_seg\.npy files contain masks; in Cellpose, export them with File > Save masks as PNG",
    ),
    "polygons": (["images/a.png", "images/a.json"], r"annotations \(1 \.json\) are not masks: convert polygons"),
    "volumes": (["x/a.nii.gz", "x/b.zarr/0.png"], r"a\.nii\.gz is a NIfTI volume.*; b\.zarr is a Zarr folder"),
}


@pytest.mark.parametrize(("files", "message"), REFUSED.values(), ids=REFUSED)
def test_what_fits_no_layout_is_refused_with_what_was_seen_and_what_to_do(tmp_path, files, message):
    lay_out(tmp_path, files)
    with pytest.raises(InputError, match=message):
        find_pairs(tmp_path)


def test_files_to_convert_beside_pairs_are_told(tmp_path):
    lay_out(tmp_path, ["images/a.png", "masks/a.png*", "images/b.czi", "images/a.json", "a.npy"])
    assert [path.name for path in find_pairs(tmp_path).ignored] == ["b.czi"]
    assert any("convert (in Fiji" in finding.seen for finding in check_data(tmp_path).findings)


@pytest.mark.parametrize("suffix", FOREIGN)
def test_a_file_of_another_program_is_refused_with_its_converter(tmp_path, suffix):
    with pytest.raises(InputError, match=re.escape(f"x{suffix}: is a {FOREIGN[suffix][0]}")):
        refuse_foreign(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("name", ["x.tif", "x.png", "x.ome.tif", "x.lsm"])
def test_other_files_are_not_refused_by_their_ending(tmp_path, name):
    refuse_foreign(tmp_path / name)


@pytest.fixture
def anywhere(tmp_path):
    """Three images and four masks in folders of no layout."""
    lay_out(tmp_path / "d", ["p/1.png", "p/2.png", "q/1.png", "r/k1.png*", "r/k2.png*", "r/k3.png*", "r/k4.png*"])
    return tmp_path / "d"


TABLE = "image,mask\np/1.png,r/k1.png\np/1.png,r/k2.png\np/2.png,r/k3.png\nq/1.png,r/k4.png\n"
GROUPED = "image,mask,group\np/1.png,r/k1.png,s\np/1.png,r/k2.png,s\np/2.png,r/k3.png,s\nq/1.png,r/k4.png,t\n"
TABLES = {
    "plain": TABLE,
    "groups": GROUPED,
    "byte order mark and line ends": "\ufeff" + TABLE.replace("\n", "\r\n"),
    "semicolons": GROUPED.replace(",", ";"),
    "backslashes": TABLE.replace("/", "\\"),
    "spaces, capitals, more columns, empty rows": TABLE.replace("image,mask", " Image , MASK,note").replace(
        "\n", " \n\n"
    ),
    "absolute": TABLE.replace("r/", "{root}/r/"),
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("where", ["the folder", "the table", "a table elsewhere"])
def test_a_table_lists_any_pairs(anywhere, tmp_path, text, where):
    table = anywhere / "pairs.csv"
    if where == "a table elsewhere":
        table = tmp_path / "mine.csv"
        text = re.sub(r"\b([pqr][/\\])", lambda found: f"d{found[1][1]}{found[1]}", text.replace("{root}/", ""))
    table.write_text(text.replace("{root}", str(anywhere)), encoding="utf-8")
    scan = find_pairs(anywhere if where == "the folder" else table)
    assert [pair.name for pair in scan.pairs] == ["p_1", "p_2", "q_1"]
    assert [[mask.stem for mask in pair.masks] for pair in scan.pairs] == [["k1", "k2"], ["k3"], ["k4"]]
    assert scan.grouped == ("group" in text)
    assert [pair.group for pair in scan.pairs] == (["s", "s", "t"] if scan.grouped else ["p_1", "p_2", "q_1"])
    assert scan.root == table.parent
    write_cleaned(anywhere if where == "the folder" else table, tmp_path / "out")
    again = find_pairs(tmp_path / "out")
    assert [(pair.name, pair.group) for pair in again.pairs] == [(pair.name, pair.group) for pair in scan.pairs]
    assert again.grouped == scan.grouped


def test_names_from_a_table_are_stems_where_these_differ(anywhere):
    (anywhere / "pairs.csv").write_text("image,mask\np/2.png,r/k1.png\nq/1.png,r/k2.png\n")
    assert [pair.name for pair in find_pairs(anywhere).pairs] == ["1", "2"]


TABLE_PROBLEMS = [
    (
        TABLE + "p/9.png,r/k1.png\n",
        r"pairs\.csv: row 6 names the image p/9\.png, but .*p/9\.png does not exist; correct",
    ),
    (TABLE + "p,r/k1.png\n", r"row 6 names the image p, but that is not a file"),
    (TABLE + "p/2.czi,r/k1.png\n", r"row 6 names the image p/2\.czi, a Zeiss image, which must be converted \(in Fiji"),
    (TABLE + "pairs.csv,r/k1.png\n", r"row 6 names the image pairs\.csv, which does not end in \.bmp"),
    (TABLE + "p/2.png\n", r"row 6 names no mask"),
    (TABLE + "a\0b.png,r/k1.png\n", r"row 6 names the image |must be a CSV file"),
    (TABLE.replace("k4", "k3"), r"rows 4 and 5 give one mask, k3\.png, to two images"),
    (TABLE.replace("k2", "k1"), r"row 3 repeats row 2 \(1\.png and k1\.png\)"),
    (TABLE.replace("r/k3", "q/1"), r"row 4 names 1\.png as a mask, row 5 as an image"),
    (GROUPED.replace("k2.png,s", "k2.png,t"), r"rows 2 and 3 put 1\.png into two groups \(s, t\)"),
    (GROUPED.replace("k4.png,t", "k4.png,"), r"row 5 has no group"),
    ("image;group\na;b\n", r"has no column mask, only: image;group; its first line must be image,mask or"),
    ("image,mask,mask\na,b,c\n", r"has the column mask more than once"),
    ("image,mask\n", r"lists no usable pair; give each pair a row under the header image,mask"),
    ("image,mask\nx.png,y.png\n", r"lists no usable pair; row 2 names the image x\.png, but"),
    ("", r"must be a CSV file in UTF-8 with the header image,mask \(it is empty\)"),
    ("\udcff", r"must be a CSV file in UTF-8"),
]


@pytest.mark.parametrize(("text", "message"), TABLE_PROBLEMS, ids=[message[:40] for _, message in TABLE_PROBLEMS])
def test_rows_that_cannot_be_used_are_named(anywhere, text, message):
    (anywhere / "pairs.csv").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(InputError, match=message):
        find_pairs(anywhere)


def test_groups_are_named_in_one_place(anywhere, tmp_path):
    (anywhere / "pairs.csv").write_text(GROUPED)
    (anywhere / "groups.csv").write_text("pair,group\np_1,a\np_2,a\nq_1,a\n")
    with pytest.raises(InputError, match=r"pairs\.csv has a column group, and .*groups\.csv gives groups too; remove"):
        find_pairs(anywhere)
    (anywhere / "pairs.csv").write_text(TABLE)
    assert {pair.group for pair in find_pairs(anywhere).pairs} == {"a"}


def test_a_table_is_checked_as_a_folder_is(anywhere):
    (anywhere / "pairs.csv").write_text(TABLE + "p/9.png,r/k1.png\n")
    by_folder, by_table = check_data(anywhere), check_data(anywhere / "pairs.csv")
    assert by_folder == by_table
    assert by_folder.headline == "found 3 pairs, listed in pairs.csv"
    assert any(finding.where == "pairs.csv" and "row 6" in finding.seen for finding in by_folder.findings)


def test_paths_outside_of_the_data_set_are_shown_whole(tmp_path):
    assert shown(tmp_path / "a" / "b.png", tmp_path) == str(Path("a/b.png"))
    assert shown(tmp_path, tmp_path) == str(tmp_path)
    assert shown(Path("/elsewhere/b.png"), tmp_path) == str(Path("/elsewhere/b.png"))


def test_many_data_sets_in_one_folder_are_counted(tmp_path):
    lay_out(tmp_path, [f"s{n}/{name}" for n in range(9) for name in ("a.png", "a_mask.png*", "b.png", "b_mask.png*")])
    with pytest.raises(InputError, match=r"several data sets: s0/ \(2 pairs\), .* s5/ \(2 pairs\) and 3 more"):
        find_pairs(tmp_path)


def test_a_file_of_a_microscope_is_no_data_set(tmp_path):
    draw(tmp_path / "a.czi")
    with pytest.raises(InputError, match=r"a\.czi: is a Zeiss image, .* convert it"):
        find_pairs(tmp_path / "a.czi")


def test_names_that_differ_only_in_capitals_are_told(tmp_path):
    for number in range(3):
        picture(tmp_path / "images" / f"c{number}.png")
        picture(tmp_path / "masks" / f"{'C' if number == 2 else 'c'}{number}.png")
    [problem] = [one for one in scan_pairs(tmp_path).problems if one.path.parent.name == "images"]
    assert problem.remedy == "only capital letters differ from C2.png: rename one of them"


def test_two_folders_of_the_same_names_are_to_be_renamed(tmp_path):
    for folder in ("Bilder", "Masken"):
        for number in range(3):
            picture(tmp_path / folder / f"c{number}.png")
    with pytest.raises(InputError, match="Bilder, Masken hold files of the same names: rename one to images, the"):
        scan_pairs(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        ["images/a{}.png", "masks/a{}.png"],
        ["images/a{}.png", "masks/a{}.png", "ignore/a{}.png"],
        ["a{}.png", "a{}_mask.png"],
        ["a{}.png", "a{}_mask.png", "a{}_ignore.png"],
        ["images/a{}.png", "masks/a{}/1.png", "masks/a{}/2.png"],
        ["c{}/source.png", "c{}/mask.png"],
        ["c{}/images/c{}.png", "c{}/masks/1.png", "c{}/masks/2.png"],
        ["images/a{}.png", "masks/a{}_1.png", "masks/a{}_2.png"],  # refused
        ["01/t{}.png", "01_GT/SEG/man_seg{}.png"],  # refused
        ["images/a{}.png", "masks/b{}.png"],  # refused
    ],
)
def test_the_work_of_reading_a_folder_grows_in_proportion_to_its_files(tmp_path, files):
    picture(tmp_path / "one.png")
    calls = []
    for pairs in (60, 240):
        root = tmp_path / str(pairs)
        for number in range(pairs):
            for name in files:
                path = root / name.format(number, number)
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(tmp_path / "one.png", path)
        with cProfile.Profile() as profile, contextlib.suppress(InputError):
            scan_pairs(root)
        calls.append(pstats.Stats(profile).total_calls)
    assert calls[1] < 5 * calls[0]  # with a search through all files for each file it would be 8 to 16
