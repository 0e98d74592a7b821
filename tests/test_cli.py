"""The cellseg command: its output, its files and its exit codes."""

import csv
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from cellseg import CellDataModule
from cellseg.cli import app
from cellseg.data.groups import read_groups
from cellseg.data.pairs import find_pairs
from cellseg.storage.errors import InputError
from test_kinship import texture, tiles, write_tiles


def run(*words, columns="600"):
    result = CliRunner(env={"COLUMNS": columns}).invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, re.sub(r"\s+", " ", re.sub(r"[│┃━─┏┓┡┩├┤└┘┬┴┼╇╈┳┻╋┿]", " ", result.output))


@pytest.fixture
def sheets(tmp_path):
    """Twelve pairs, tiles of three slides, without a word on who belongs together."""
    return write_tiles(tmp_path / "sheets", [tile for seed in range(3) for tile in tiles(texture(seed), 2, 2)])


def test_check_of_synthetic_smears_finds_no_relatives_and_nothing_wrong(smears):
    code, said = run("check", smears)
    assert code == 0
    assert said.startswith("found 10 pairs, one folder a pair")
    assert "neighbouring" not in said
    assert "duplicate" not in said
    assert "0 errors, 0 warnings, 2 notes: training would run" in said


def test_check_ends_with_the_command_to_give_next(smears, own_smears, sheets, tmp_path):
    assert run("check", smears)[1].rstrip().endswith(f"next: cellseg train data.root={smears}")
    (own_smears / "cell_3" / "mask.jpg").unlink()
    assert run("check", own_smears)[1].rstrip().endswith(f"after fixing this, check again: cellseg check {own_smears}")
    groups = sheets / "groups.csv"
    assert run("check", sheets)[1].rstrip().endswith(f"cellseg check {sheets} --write-groups {groups}")
    out = sheets.with_name("my groups.csv")
    said = run("check", sheets, "--write-groups", out, "--mask-threshold", 9, "--image-size", 96, "--channels", "0,2")[
        1
    ]
    settings = "data.mask_threshold=9 'data.channels=[0,2]' data.image_size=96"
    assert f"next: cellseg train data.root={sheets} 'data.groups={out}' {settings}" in said


def test_check_tells_siblings_and_writes_groups_that_make_training_possible(sheets):
    code, said = run("check", sheets)
    assert code == 1
    assert re.search(
        r"and others neighbouring tiles, \d+ images in \d sets refused: tile_\d+, tile_\d+ are on two sides",
        said,
    )
    assert "training would stop" in said
    code, said = run("check", sheets, "--write-groups", sheets / "groups.csv")
    assert (code, said.count("12 images in 3 sets kept on one side of every split")) == (0, 1)  # with what it wrote
    assert f"wrote {sheets / 'groups.csv'}: 3 groups of 12 images" in said
    groups = read_groups(sheets / "groups.csv", [f"tile_{n}" for n in range(1, 13)])
    assert list(groups.values()) == ["tile_1"] * 4 + ["tile_5"] * 4 + ["tile_9"] * 4
    code, said = run("check", sheets)
    assert (code, said.count("12 images in 3 sets kept on one side of every split")) == (0, 1)


def test_groups_the_user_gave_are_joined_and_not_thrown_away(sheets):
    names = [f"tile_{n}" for n in range(1, 13)]
    (sheets / "groups.csv").write_text("pair,group\n" + "".join(f"tile_{n},p{(n - 1) // 6}\n" for n in range(1, 13)))
    out = sheets.with_name("out.csv")
    assert run("check", sheets, "--write-groups", out)[0] == 1  # one group is left, which no split can divide
    assert set(read_groups(out, names).values()) == {"tile_1"}
    (sheets / "groups.csv").write_text("pair,group\n" + "".join(f"tile_{n},p{(n - 1) // 8}\n" for n in range(1, 13)))
    out.unlink()
    assert run("check", sheets, "--write-groups", out)[0] == 0
    assert list(read_groups(out, names).values()) == ["p0"] * 8 + ["p1"] * 4


def test_a_leak_beside_a_table_of_groups_leads_to_a_new_table_that_ends_it(sheets):
    """The commands that messages print are run one after the other."""
    (sheets / "groups.csv").write_text("pair,group\n" + "".join(f"tile_{n},g{n}\n" for n in range(1, 13)))
    new = sheets / "groups_2.csv"
    check = f"cellseg check {sheets} --write-groups {new}"
    with pytest.raises(InputError, match=re.escape(f"{check}, then set data.groups={new}")):
        CellDataModule(str(sheets), image_size=32).setup()
    code, said = run("check", sheets)
    assert (code, said.rstrip().endswith(check)) == (1, True)
    code, said = run("check", sheets, "--write-groups", new)
    assert code == 0
    assert f"next: cellseg train data.root={sheets} data.groups={new}" in said
    CellDataModule(str(sheets), image_size=32, groups=str(new)).setup()


def test_a_leak_where_pairs_csv_gives_the_groups_leads_to_that_column(sheets):
    scan = find_pairs(sheets)
    rows = [
        f"{pair.image.relative_to(sheets)},{pair.masks[0].relative_to(sheets)},{{}}{number}"
        for number, pair in enumerate(scan.pairs)
    ]
    table, head = sheets / "pairs.csv", "image,mask,group\n"
    table.write_text(head + "\n".join(row.format("g") for row in rows))
    code, said = run("check", sheets)
    assert code == 1
    assert "one value in the column group of pairs.csv" in said
    assert "--write-groups" not in said
    slide = {pair.name: (int(pair.name.removeprefix("tile_")) - 1) // 4 for pair in scan.pairs}
    same = [row.partition("{}")[0] + f"s{slide[pair.name]}" for row, pair in zip(rows, scan.pairs, strict=True)]
    table.write_text(head + "\n".join(same))
    assert run("check", sheets)[0] == 0


def test_the_advice_about_a_leak_reads_files_as_the_check_did(sheets):
    for file in sheets.glob("tile_*/source.png"):
        with Image.open(file) as picture:
            pixels = np.asarray(picture)
        channels = np.concatenate([pixels, pixels[..., :1]], axis=2).transpose(2, 0, 1)
        tifffile.imwrite(file.with_suffix(".tif"), channels, photometric="minisblack")
        file.unlink()
    given = ["--mask-threshold", 30, "--channels", "0,1"]
    options = f"{sheets} --channels 0,1 --mask-threshold 30"
    said = run("check", sheets, *given)[1].rstrip()
    assert said.endswith(f"cellseg check {options} --write-groups {sheets / 'groups.csv'}")
    with pytest.raises(InputError, match=re.escape(f"cellseg check {options} --write-groups")):
        CellDataModule(str(sheets), channels=[0, 1], mask_threshold=30).setup()


def test_check_writes_over_nothing(smears, tmp_path):
    for option in ("--write-groups", "--montage"):
        mine = tmp_path / "mine"
        mine.write_text("mine")
        code, said = run("check", smears, option, mine)
        assert code == 1
        assert said.startswith(f"error: {mine} already exists and is not overwritten")  # before any result
        assert mine.read_text() == "mine"


def test_montage_shows_every_pair_with_its_outline(smears, tmp_path):
    assert run("check", smears, "--montage", tmp_path / "sheet.png")[0] == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert pixels.shape == (3 * 200, 4 * 200, 3)
    for n in range(10):
        tile = pixels[n // 4 * 200 : n // 4 * 200 + 200, n % 4 * 200 : n % 4 * 200 + 200]
        assert (tile == (255, 120, 0)).all(axis=2).sum() > 100
    assert (pixels[400:, 400:] == 255).all()


def grey(path, values):
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def missing(root):
    (root / "cell_3" / "mask.jpg").unlink()


def unreadable(root):
    (root / "cell_3" / "source.jpg").write_bytes(b"no image")


def truncated(root):
    path = root / "cell_3" / "source.jpg"
    path.write_bytes(path.read_bytes()[:-200])


def other_size(root):
    grey(root / "cell_3" / "mask.jpg", np.zeros((10, 20)))


def all_empty(root):
    for mask in root.glob("*/mask.jpg"):
        grey(mask, np.zeros((72, 96)))


def copied(root):
    for n in range(4, 16):
        shutil.copy(root / "cell_3" / "source.jpg", root / f"cell_{n}" / "source.jpg")


def all_white(root):
    for mask in root.glob("*/mask.jpg"):
        grey(mask, np.full((72, 96), 255))


def no_background(root):
    (root / "cell_3" / "mask.jpg").unlink()
    mask = np.ones((72, 96))
    mask[20:40, 20:40] = 2
    grey(root / "cell_3" / "mask.png", mask)


def loop(root):
    (root / "loop").symlink_to(root / "loop")


def not_fetched(root):
    (root / "cell_3" / "mask.jpg").unlink()
    (root / "cell_3" / "mask.jpg").symlink_to(".git/objects/1")


def latin_1(root):
    (root / "cell_3").rename(root / os.fsdecode(b"caf\xe9"))


def endless(root):
    (root / "cell_3").rename(root / ("n" * 210))


def two_groups(root):
    for name in ("groups.csv", "Groups.csv"):
        (root / name).write_text("pair,group\n")


def two_pairs(root):
    for n in range(2, 16):
        shutil.rmtree(root / f"cell_{n}")


def gone(root):
    shutil.rmtree(root)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (missing, r"error cell_3 a pair is source\.\* and mask\.\*, .* here is no mask .* refused: complete the pair"),
        (unreadable, r"error cell_3/source\.jpg cannot be read as an image .* refused: export it again"),
        (truncated, r"error cell_3/source\.jpg cannot be read as an image .*truncated"),
        (other_size, r"error cell_3/mask\.jpg the mask is 20x10 pixels, .* refused: export both at the same size"),
        (all_empty, r"error the default split none of the training masks contains a cell"),
        (
            copied,
            r"error cell_3, cell_4, .* and 5 more same image, 13 images refused: cell_\d+, cell_\d+ are ",
        ),
        (all_white, r"error the default split every training mask is cell everywhere; save background as 0, or black"),
        (
            no_background,
            r"error cell_3/mask\.png no pixel is 0, so nothing is background refused: save background as 0",
        ),
        (loop, r"error .*loop: is a link to .*loop, which does not exist or cannot be reached; bring the folder there"),
        (not_fetched, r"error cell_3/\S+ .*cell_3/mask\.jpg does not exist .* it is a link to \.git/objects/1"),
        (latin_1, r"contains the name 'caf\\udce9', which is not UTF-8; rename it"),
        (endless, r"contains the name n{20}… of 210 bytes; shorten it to 200"),
        (two_groups, r"contains Groups\.csv, groups\.csv; keep one of them"),
        (two_pairs, r"error the default split data\.split\.test_fraction of 1 images leaves 0"),
        (gone, r"error \S+smears a data set must be a folder"),
        (
            lambda root: (root / "groups.csv").write_text("a,b\n"),
            r"error .*groups\.csv: must have the columns",
        ),
    ],
)
def test_check_exits_with_1_where_training_would_stop(own_smears, broken, message):
    broken(own_smears)
    code, said = run("check", own_smears)
    assert code == 1
    assert re.search(message, said), said
    assert "training would stop" in said


def square(value, at=slice(10, 40), size=(72, 96)):
    mask = np.zeros(size, np.uint8)
    mask[at, at] = value
    return mask


def ids():
    mask = square(1)
    mask[50:60, 50:60], mask[50:60, 70:80] = 2, 3
    return mask


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("mask.png", square(1), r"note cell_3/mask\.png values 0 and 1 1 is cell"),
        (
            "mask.png",
            ids(),
            r"note cell_3/mask\.png labels such as instance ids: up to 3 values, the largest is 3 every",
        ),
        ("mask.png", square(0), r"warning cell_3/mask\.png the mask is empty kept"),
        ("mask.png", square(255, slice(None)), r"warning cell_3/mask\.png the mask is cell everywhere"),
        (
            "mask.png",
            255 - square(255),
            r"warning cell_3/mask\.png looks inverted: cell covers 87\.0% and surrounds",
        ),
        (
            "mask.png",
            np.dstack([square(255)] * 3),
            r"note cell_3/mask\.png, cell_14/mask\.jpg RGB, 8 bits the brightest channel is the value",
        ),
        (
            "mask.png",
            np.dstack([square(255)] * 4),
            r"note cell_3/mask\.png RGB and alpha, 8 bits .* transparent pixels",
        ),
    ],
)
def test_check_says_what_a_mask_is_taken_for(own_smears, file, values, message):
    (own_smears / "cell_3" / "mask.jpg").unlink()
    grey(own_smears / "cell_3" / file, values)
    code, said = run("check", own_smears)
    assert code == 0, said
    assert re.search(message, said), said


def test_check_tells_mixed_sizes_and_modalities_and_deep_images(own_smears):
    dark = np.tile(np.arange(0, 60, dtype=np.uint16), (60, 1))
    for n in (1, 2):
        (own_smears / f"cell_{n}" / "source.jpg").unlink()
        (own_smears / f"cell_{n}" / "mask.jpg").unlink()
        grey(own_smears / f"cell_{n}" / "source.png", (dark.T if n == 1 else dark))
        grey(own_smears / f"cell_{n}" / "mask.png", square(255, slice(5, 20), (60, 60)))
    Image.fromarray(dark[::-1, ::-1] ** 2).save(own_smears / "cell_1" / "source.png")
    code, said = run("check", own_smears)
    assert code == 0
    assert "2 image sizes; 13 of 15 are 96x72" in said
    assert "mixed modalities: 13 bright colour, 1 bright grey, 1 dark grey" in said
    assert "cell_1/source.png more than 8 bits a pixel intensities are scaled: 0.1 and 99.9 percentile" in said


def test_pictures_that_belong_to_no_pair_are_told(own_smears):
    shutil.copy(own_smears / "cell_1" / "source.jpg", own_smears / "overview.jpg")
    assert "warning overview.jpg belongs to no pair ignored" in run("check", own_smears)[1]


def test_names_with_line_breaks_and_endings_in_spaces_survive(own_smears, tmp_path):
    for n, name in ((1, "a\nb"), (2, "-c ")):
        (own_smears / f"cell_{n}").rename(own_smears / name)
    code, said = run("check", own_smears, "--write-groups", own_smears / "groups.csv", "--montage", tmp_path / "m.png")
    assert code == 0, said
    assert {pair.group for pair in find_pairs(own_smears).pairs} >= {"a\nb", "-c"}
    assert run("clean", own_smears, tmp_path / "out")[0] == 0
    assert {pair.name for pair in find_pairs(tmp_path / "out").pairs} >= {"-c ", "a\nb"}


def test_turned_images_with_masks_that_are_not_are_told(own_smears):
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(own_smears / "cell_3" / "source.jpg") as image:
        image.save(own_smears / "cell_3" / "source.jpg", exif=exif)
    said = run("check", own_smears)[1]
    assert "warning cell_3/mask.jpg only one of image and mask has an orientation tag" in said


def test_every_mistake_is_told_once_for_all_files_that_share_it(own_smears):
    for n in range(1, 16):
        (own_smears / f"cell_{n}" / "source.jpg").unlink()
    shutil.copy(own_smears / "cell_1" / "mask.jpg", own_smears / "cell_1" / "source.jpg")
    code, said = run("check", own_smears)
    assert code == 1
    assert said.count("error cell_") == 1
    assert "and 11 more a pair is source.* and mask.*" in said


def changes(folder):
    with (folder / "changes.csv").open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def test_clean_writes_black_and_white_masks_and_what_it_changed(own_smears, tmp_path):
    before = {path: path.read_bytes() for path in own_smears.rglob("*.jpg")}
    code, said = run("clean", own_smears, tmp_path / "out")
    meaning = "masks: 15 grey, values above data.mask_threshold=20 are cell"
    assert (code, said.strip()) == (0, f"{meaning} wrote 15 cleaned pairs and changes.csv to {tmp_path / 'out'}")
    for pair in find_pairs(tmp_path / "out").pairs:
        with Image.open(pair.masks[0]) as mask, Image.open(pair.image) as image:
            assert (mask.mode, image.mode, mask.format, image.format) == ("L", "RGB", "PNG", "PNG")
            assert set(np.unique(np.asarray(mask))) == {0, 255}
    told = changes(tmp_path / "out")
    assert len(told) == 30
    assert told["cell_14/mask.jpg"]["change"].startswith("RGB, 8 bits to grey, 8 bits")
    assert "faint pixels set to background" in told["cell_1/mask.jpg"]["change"]
    assert told["cell_1/source.jpg"]["written"] == "cell_1/source.png"
    assert {path: path.read_bytes() for path in own_smears.rglob("*.jpg")} == before


def test_clean_unites_instance_masks_and_keeps_the_layout_and_the_groups(tmp_path):
    for n in range(3):
        folder = tmp_path / "bowl" / f"id.{n}"
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()
        Image.fromarray(np.full((40, 40, 4), 50 + n, np.uint8)).save(folder / "images" / f"id.{n}.png")
        for k, at in enumerate((slice(2, 9), slice(20, 30))):
            grey(folder / "masks" / f"{k}.png", square(255, at, (40, 40)))
    (tmp_path / "bowl" / "groups.csv").write_text("pair,group\nid.0,a\nid.1,a\nid.2,b\n")
    assert run("clean", tmp_path / "bowl", tmp_path / "out")[0] == 0
    before, after = find_pairs(tmp_path / "bowl"), find_pairs(tmp_path / "out")
    assert after.layout == before.layout
    assert [(pair.name, pair.group) for pair in after.pairs] == [(pair.name, pair.group) for pair in before.pairs]
    with Image.open(after.pairs[0].masks[0]) as mask:
        assert np.bincount(np.asarray(mask).ravel()).tolist() == [40 * 40 - 49 - 100, 49, 100]
    change = changes(tmp_path / "out")["id.0/masks/*"]["change"]
    assert change == "union of 2 files; grey, 8 bits to grey, 16 bits; cells numbered from 1"


@pytest.mark.parametrize("where", ["inside", "existing"])
def test_clean_writes_neither_into_the_data_nor_over_anything(own_smears, tmp_path, where):
    out = own_smears / "clean" if where == "inside" else tmp_path / "mine"
    if where == "existing":
        out.mkdir()
    before = sorted(tmp_path.rglob("*"))
    code, said = run("clean", own_smears, out)
    assert code == 1
    assert ("is inside" if where == "inside" else "already exists and is not overwritten") in said
    assert sorted(tmp_path.rglob("*")) == before


def test_clean_stops_at_a_bad_file_and_leaves_nothing(own_smears, tmp_path):
    unreadable(own_smears)
    code, said = run("clean", own_smears, tmp_path / "out")
    assert code == 1
    assert "cell_3/source.jpg: cannot be read as an image" in said
    assert [path.name for path in tmp_path.iterdir()] == ["smears"]


def test_synthesize_writes_flawed_and_exact_masks(tmp_path):
    code, said = run("synthesize", tmp_path / "out", "--pairs", 3, "--size", "128x96", "--unlabelled", 1, "--seed", 7)
    assert code == 0
    assert "drew 3 smears into" in said
    for pair in find_pairs(tmp_path / "out").pairs:
        with Image.open(pair.image) as image, Image.open(pair.image.with_name("exact.png")) as exact:
            assert image.size == exact.size == (128, 96)
            cells = np.asarray(exact) > 0
        with Image.open(pair.masks[0]) as mask:
            labelled = np.asarray(mask.convert("L")) > 20
        assert labelled.sum() < cells.sum()


def test_many_smears_are_the_same_in_several_processes(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("synthesize", first, "--pairs", 4, "--size", 48)[0] == 0
    monkeypatch.setattr("cellseg.data.synthetic.WORTH_PROCESSES", 2)
    assert run("synthesize", second, "--pairs", 4, "--size", 48)[0] == 0
    one, two = ({path.relative_to(root): path.read_bytes() for path in root.rglob("*.*")} for root in (first, second))
    assert one == two


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["synthesize", "out", "--size", "big"],
            1,
            "error: --size is big, but must be a number of pixels",
        ),
        (["synthesize", "out", "--size", "0"], 1, "--size is 0, but must be .* from 32 to 20000"),
        (["synthesize", "out", "--pairs", "0"], 2, "Invalid value for '--pairs'"),
        (["synthesize", "out", "--sickled", "2"], 2, "Invalid value for '--sickled'"),
        (["synthesize", "out", "--sickled", "0,2"], 2, "valid .*; numbers have a decimal point, as in 0.5"),
        (["predict", "run", "images", "--output", "out", "--pixel-size", "0,5"], 2, "numbers have a decimal point"),
        (["predict", "images", "--output", "out"], 2, "The command takes, in this order: RUN IMAGES"),
        (["check", "nowhere"], 1, "a data set must be a folder, but nowhere does not exist"),
        (["clean", "nowhere", "out"], 1, "error: a data set must be a folder, but nowhere does not exist"),
    ],
)
def test_bad_input_is_said_plainly(tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    result, said = run(*words)
    assert result == code
    assert re.search(message, said), said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_help_does_not_wait_for_torch():
    heavy = "import sys, cellseg.cli; print({'torch', 'lightning', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_version_is_printed():
    assert run("--version") == (0, f"cellseg {version('cellseg')} ")
