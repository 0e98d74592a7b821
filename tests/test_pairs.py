"""Which image belongs to which mask: every layout, and what is said where names do not tell."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from cellseg.data.pairs import find_pairs, scan_pairs
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
    (nothing_in_it, r"smears holds no pairs; expected one folder a pair .* side by side .*; found no images"),
    (only_images, r"smears holds no pairs; .*; found images in cell_1, cell_10, .* and 10 more"),
    (gone, r"a data set must be a folder, but .*smears does not exist; expected one folder a pair"),
    (a_file, r"a data set must be a folder, but .*smears is a file"),
    (image_without_mask, r"images/cell_3\.jpg: the image has no mask; add the mask"),
    (mask_without_image, r"masks/cell_3\.jpg: the mask has no image; add the image"),
    (twins, r"images/cell_3\.jpg: there is more than one image of this name \(cell_3\.jpg, cell_3\.png\)"),
    (two_masks, r"images/cell_3\.jpg: more than one mask could belong to it \(cell_3\.jpg, cell_3_mask\.jpg\)"),
    (one_mask_for_two, r"case_0000\.jpg: the mask case\.jpg could belong to it and to case\.jpg"),
    (masks_and_labels, r"smears can be read in more than one way: it has the folders images, labels, masks"),
    (two_layouts, r"can be read in 2 ways: one folder a pair \(as in cell_1/source\.jpg\) and parallel folders"),
    (instances_without_masks, r"id_2: needs one picture in images/ and at least one in masks/, but has 1 and 0"),
    (second_channel, r"images/cell_3_0001\.jpg: a second channel; merge the channels into one image"),
    (two_mask_folders, r"id_1: has more than one folder of images or of masks \(Masks, images, masks\)"),
    (image_folder_without_mask_folder, r"id_2: needs one picture in images/ and .* masks/, but has 1 and 0"),
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
    with pytest.raises(InputError, match=re.escape(f"(and 1 more problems: cellseg check {own_smears})")):
        find_pairs(own_smears)
