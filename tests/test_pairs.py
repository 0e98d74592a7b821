import shutil

import pytest
from PIL import Image

from cellseg.data.pairs import find_pairs
from cellseg.errors import InputError


def test_pairs_come_in_natural_order_each_its_own_group(own_smears):
    pairs = find_pairs(own_smears)
    assert [pair.name for pair in pairs] == [f"cell_{n}" for n in range(1, 16)]
    assert all(pair.group == pair.name for pair in pairs)
    assert all(pair.image.parent == pair.mask.parent for pair in pairs)


@pytest.mark.parametrize("suffix", [".png", ".TIF", ".bmp", ".jpeg"])
def test_any_common_image_type_will_do(own_smears, suffix):
    for role in ("source", "mask"):
        file = own_smears / "cell_1" / f"{role}.jpg"
        with Image.open(file) as image:
            image.save(file.with_name(role + suffix))
        file.unlink()
    assert find_pairs(own_smears)[0].mask.name == f"mask{suffix}"


def test_hidden_files_and_folders_without_images_are_ignored(own_smears):
    (own_smears / "cell_1" / "._source.jpg").write_bytes(b"")
    (own_smears / ".DS_Store").write_bytes(b"")
    (own_smears / "notes").mkdir()
    (own_smears / "notes" / "readme.txt").write_text("hello")
    assert len(find_pairs(own_smears)) == 15


def test_groups_come_from_groups_csv(own_smears):
    rows = "\n".join(f"cell_{n},slide_{n % 3}" for n in range(1, 16))
    (own_smears / "groups.csv").write_text(f"pair,group\n{rows}\n")
    assert {pair.group for pair in find_pairs(own_smears)} == {"slide_0", "slide_1", "slide_2"}


def test_spaces_and_capitals_around_groups_do_not_part_siblings(own_smears):
    rows = "\n".join(f" cell_{n}, slide{' ' * (n % 2)}" for n in range(1, 16))
    (own_smears / "Groups.csv").write_text(f"pair,group\n{rows}\n")
    assert {pair.group for pair in find_pairs(own_smears)} == {"slide"}


def test_groups_csv_may_have_more_columns_and_a_byte_order_mark(own_smears):
    rows = "\n".join(f"x,cell_{n},slide" for n in range(1, 16))
    (own_smears / "groups.csv").write_text(f"id,pair,group\n{rows}\n", encoding="utf-8-sig")
    assert {pair.group for pair in find_pairs(own_smears)} == {"slide"}


def without_mask(root):
    (root / "cell_3" / "mask.jpg").unlink()


def without_source(root):
    (root / "cell_3" / "source.jpg").rename(root / "cell_3" / "picture.jpg")


def two_sources(root):
    shutil.copy(root / "cell_3" / "source.jpg", root / "cell_3" / "source.png")


def nothing_in_it(root):
    shutil.rmtree(root)
    root.mkdir()


def other_layout(root):
    for folder in list(root.iterdir()):
        for role in ("source", "mask"):
            target = root / f"{role.replace('source', 'image')}s"
            target.mkdir(exist_ok=True)
            (folder / f"{role}.jpg").rename(target / f"{folder.name}.jpg")


def gone(root):
    shutil.rmtree(root)


def a_file(root):
    shutil.rmtree(root)
    root.write_text("")


def groups_without_a_pair(root):
    (root / "groups.csv").write_text("pair,group\ncell_1,a\n")


def groups_without_columns(root):
    (root / "groups.csv").write_text("name;slide\ncell_1;a\n")


def groups_with_a_short_row(root):
    (root / "groups.csv").write_text("group,pair\na,cell_1\nb\n")


def groups_that_contradict(root):
    rows = "\n".join(f"cell_{n},a" for n in range(1, 16))
    (root / "groups.csv").write_text(f"pair,group\n{rows}\ncell_1,b\n")


def groups_as_a_folder(root):
    (root / "groups.csv").mkdir()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (without_mask, r"cell_3: .* there is no mask\.\* image \(found: source\.jpg\)"),
        (without_source, r"cell_3: .* there is no source\.\* image \(found: mask\.jpg, picture\.jpg\)"),
        (two_sources, r"cell_3: .* more than one source\.\* image \(found: mask\.jpg, source\.jpg, source\.png\)"),
        (nothing_in_it, r"smears holds no pairs; expected one folder a pair"),
        (other_layout, r"smears holds no pairs; expected one folder a pair.*; found images in images, masks"),
        (gone, r"data\.root must be a folder, but .*smears does not exist; expected one folder a pair"),
        (a_file, r"data\.root must be a folder, but .*smears is a file"),
        (groups_without_a_pair, r"groups\.csv: has no group for cell_2, cell_3, cell_4, cell_5, cell_6 and others"),
        (groups_without_columns, r"groups\.csv: must have the columns pair and group, .* but has: name;slide"),
        (groups_with_a_short_row, r"groups\.csv: must be a UTF-8 CSV file with pair and group in every row"),
        (groups_that_contradict, r"groups\.csv: puts cell_1 into more than one group"),
        (groups_as_a_folder, r"groups\.csv: must be a UTF-8 CSV file"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(own_smears, broken, message):
    broken(own_smears)
    with pytest.raises(InputError, match=message):
        find_pairs(own_smears)
