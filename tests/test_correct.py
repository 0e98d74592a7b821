"""Decisions of people about places in images, and the data set that is corrected by them."""

import csv

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage import measure

from cellseg.data.correct import write_corrected
from cellseg.data.decisions import Decision, fill, read_decisions, trace, unite, write_outline
from cellseg.data.facts import Reading, inspect_pair
from cellseg.data.pairs import find_pairs
from cellseg.data.synthetic import write_synthetic
from cellseg.storage.errors import InputError
from test_ignored import LAYOUTS, circle, invoke, write

HEADER = "image,id,decision,person,outline"


def around(mask):
    """Corners along the sides of the pixels of a region, as ``x,y x,y ...``."""
    contour = max(measure.find_contours(np.pad(mask, 1).astype(float), 0.5, fully_connected="high"), key=len)
    return write_outline(contour[:, ::-1] - 0.5)


def table(path, rows, header=HEADER):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


def decision(where, decided="cell", person="anna"):
    corners = np.array([corner.split(",") for corner in around(where).split()], float)
    return Decision("a", "", decided, person, corners, "test: row 2")


@pytest.mark.parametrize("seed", range(20))
def test_an_outline_gives_its_pixels_back(seed):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(40, 60)), 3)
    regions, _ = ndimage.label(noise > 0.02, np.ones((3, 3)))
    for number in range(1, int(regions.max()) + 1):
        region = ndimage.binary_fill_holes(regions == number)
        assert np.array_equal(fill(decision(region), region.shape), region)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def exact_mask(image):
    with Image.open(image.with_name("exact.png")) as file:
        return np.asarray(file) > 0


@pytest.mark.slow
def test_true_decisions_give_the_true_masks(tmp_path):
    write_synthetic(tmp_path / "smears", 4, seed=5, exact=True)
    missed, every, before = [], [], []
    for pair in find_pairs(tmp_path / "smears").pairs:
        mask, exact = inspect_pair(pair, Reading()).mask, exact_mask(pair.image)
        before.append(dice(mask, exact))
        with Image.open(pair.image.with_name("ids.png")) as file:
            ids = np.asarray(file, np.int32)
        for number in range(1, int(ids.max()) + 1):
            cell = ids == number
            row = [pair.name, number, "cell", "anna", around(cell)]
            every.append(row)
            missed += [row] if 2 * (cell & mask).sum() < cell.sum() else []
    assert len(missed) > 20
    for decided, least in ((missed, 0.97), (every, 0.98)):  # labelled cells are drawn a little off
        out = tmp_path / f"out{len(decided)}"
        said = invoke(
            "correct", tmp_path / "smears", out, "--decisions", table(tmp_path / f"{len(decided)}.csv", decided)
        )
        assert f"cell added: {len(missed)} places" in said
        after = [
            dice(inspect_pair(pair, Reading()).mask, exact_mask(tmp_path / "smears" / pair.name / "source.jpg"))
            for pair in find_pairs(out).pairs
        ]
        assert np.mean(before) < 0.93
        assert min(after) >= least
    for name in ("source.jpg", "mask.jpg"):  # the data set itself is unchanged
        assert (tmp_path / "smears" / "cell_1" / name).exists()
    assert (out / "cell_1" / "source.jpg").read_bytes() == (tmp_path / "smears" / "cell_1" / "source.jpg").read_bytes()


def test_a_neighbour_that_touches_stays(tmp_path):
    root = write(tmp_path / "data", "parallel", ignored=False)
    large, small = circle(20, 18, 9, 50)[:40], circle(20, 31, 4, 50)[:40]  # as one region, of which one is most
    for path in (root / "masks").iterdir():
        Image.fromarray((large | small) * np.uint8(255)).save(path)
    for decided in ("cell", "no cell", "unsure"):
        rows = [["n1", 1, decided, "", around(large & ~small)]]
        write_corrected(root, tmp_path / decided, [table(tmp_path / f"{decided}.csv", rows)])
        clean = inspect_pair(find_pairs(tmp_path / decided).pairs[0], Reading())
        assert clean.mask[small].all()
        assert clean.mask[large & ~small].all() == (decided == "cell")


@pytest.mark.parametrize("numbered", [True, False])
def test_loose_and_tight_outlines_mean_the_cell_that_they_are_about(tmp_path, numbered):
    root = write(tmp_path / "data", "parallel", ignored=False)
    cell, other = circle(20, 15, 8, 50)[:40], circle(20, 40, 6, 50)[:40]
    for path in (root / "masks").iterdir():
        Image.fromarray((cell + 2 * other).astype(np.uint8) if numbered else (cell | other) * np.uint8(255)).save(path)
    loose = np.zeros_like(cell)
    loose[8:32, 3:28] = True
    for name, where in {"loose": loose, "tight": circle(20, 15, 6, 50)[:40]}.items():
        for decided in ("no cell", "unsure", "cell"):
            out = tmp_path / f"{name} {decided}"
            write_corrected(root, out, [table(tmp_path / "d.csv", [["n1", 1, decided, "", around(where)]])])
            clean = inspect_pair(find_pairs(out).pairs[0], Reading())
            assert clean.mask[other].all()
            if decided == "cell":
                assert np.array_equal(clean.mask & ~other, where)
                assert clean.ids is None or clean.ids.max() == 2
            else:
                assert not (clean.mask & ~other).any()
            assert (clean.ignored is not None) == (decided == "unsure")


def test_what_nobody_judged_can_be_decided_later(tmp_path):
    root = write(tmp_path / "data", "parallel")
    where = inspect_pair(find_pairs(root).pairs[0], Reading()).ignored
    write_corrected(root, tmp_path / "out", [table(tmp_path / "d.csv", [["n1", 1, "no cell", "", around(where)]])])
    assert inspect_pair(find_pairs(tmp_path / "out").pairs[0], Reading()).ignored is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_is_kept_and_each_decision_does_what_it_says(tmp_path, layout):
    root = write(tmp_path / "data", layout, ignored=False)
    labelled = np.zeros((40, 50), bool)
    labelled[5:15, 5:20] = True
    new, doubtful = circle(30, 10, 4, 50)[:40], circle(30, 35, 5, 50)[:40]
    names = [pair.name for pair in find_pairs(root).pairs]
    rows = [
        [names[0], 1, "cell", "", around(new)],
        [names[1], 2, "No cell", "anna", around(labelled)],
        [names[2], 3, "unsure", "anna", around(doubtful)],
        [names[2], 4, "unsure", "anna", around(labelled)],
        [names[3], 5, "cell", "anna", around(labelled)],
        [names[3], 6, "no cell", "anna", around(new)],
        [names[3], 7, "", "anna", "not decided"],
    ]
    done = write_corrected(root, tmp_path / "out", [table(tmp_path / "anna.csv", rows)])
    scan = find_pairs(tmp_path / "out")
    assert [pair.name for pair in scan.pairs] == names
    assert not scan.ignored
    found = [inspect_pair(pair, Reading()) for pair in scan.pairs]
    for clean, expected in zip(found, (labelled | new, labelled & False, labelled & False, labelled), strict=True):
        assert np.array_equal(clean.mask, expected)
    assert np.array_equal(found[2].ignored, doubtful | labelled)
    assert [clean.ignored is None for clean in found] == [True, True, False, True]
    assert done.counts == {"cell added": 1, "cell removed": 1, "not judged": 2, "nothing": 2}
    assert {row["decided"] for row in done.changes} >= {"cell: anna", "no cell: anna", "unsure: anna"}


def test_numbers_of_cells_are_kept_and_new_cells_get_their_own(tmp_path):
    root = write(tmp_path / "data", "parallel", ignored=False)
    ids = np.zeros((40, 50), np.uint8)
    ids[2:12, 2:12], ids[2:12, 12:22], ids[20:30, 2:12] = 1, 2, 3  # 1 and 2 touch
    for path in (root / "masks").iterdir():
        Image.fromarray(ids).save(path)
    new = circle(25, 35, 5, 50)[:40]
    rows = [["n1", 1, "cell", "", around(new)], ["n1", 2, "no cell", "", around(ids == 2)]]
    write_corrected(root, tmp_path / "out", [table(tmp_path / "d.csv", rows)])
    clean = inspect_pair(find_pairs(tmp_path / "out").pairs[0], Reading())
    assert clean.ids.max() == 3
    assert (clean.mask == ((ids > 0) & (ids != 2) | new)).all()
    assert len(np.unique(clean.ids[new])) == 1


def test_several_people_agree_or_leave_it_open(tmp_path):
    cell, moved, other = circle(20, 20, 8), circle(21, 20, 8), circle(40, 40, 5)
    same = unite([decision(cell), decision(moved, person="ben"), decision(other, "no cell")], (48, 48))
    assert [(place.verdict, len(place.decisions)) for place in same] == [("cell", 2), ("no cell", 1)]
    [open_] = unite([decision(cell), decision(moved, "no cell", "ben")], (48, 48))
    assert (open_.verdict, open_.agreed) == ("unsure", False)
    with pytest.raises(InputError, match="anna decided no cell here, and cell about the same place"):
        unite([decision(cell), decision(moved, "no cell")], (48, 48))
    root = write(tmp_path / "data", "parallel", ignored=False)
    new, second = circle(30, 10, 4, 50)[:40], circle(30, 35, 5, 50)[:40]
    one = table(tmp_path / "anna.csv", [["n1", 1, "cell", "", around(new)], ["n1", 2, "cell", "", around(second)]])
    two = table(tmp_path / "ben.csv", [["n1", 1, "cell", "", around(new)], ["n1", 2, "no cell", "", around(second)]])
    said = invoke("correct", root, tmp_path / "out", "--decisions", one, two)
    assert "several people decided about 2 places and agreed about 1 (50%)" in said
    clean = inspect_pair(find_pairs(tmp_path / "out").pairs[0], Reading())
    assert np.array_equal(clean.ignored, second)
    assert "disagreement, cell: anna; no cell: ben" in (tmp_path / "out" / "changes.csv").read_text()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["n1", 1, "yes", "", "1,1 9,1 9,9"]], "row 2: the decision is 'yes', but must be cell, no cell or unsure"),
        ([["n1", 1, "cell", "", "1,1 9,1"]], "row 2: the outline is '1,1 9,1', but must be at least three corners"),
        ([["n1", 1, "cell", "", "1,1 9,1 nan,9"]], "must be at least three corners"),
        ([["n1", 1, "cell", "", "90,90 99,90 99,99"]], "row 2: the outline contains no pixel of n1, which has 50x40"),
        ([["", 1, "cell", "", "1,1 9,1 9,9"]], "row 2: names no image"),
        ([["m1", 1, "cell", "", "1,1 9,1 9,9"]], "has no image m1; its names are such as n1"),
        ([["n1", 1, "", "", "1,1 9,1 9,9"]], "has no decision; fill its column decision"),
    ],
)
def test_what_cannot_be_understood_is_refused_and_writes_nothing(tmp_path, rows, message):
    root = write(tmp_path / "data", "parallel", ignored=False)
    said = invoke("correct", root, tmp_path / "out", "--decisions", table(tmp_path / "d.csv", rows), code=1)
    assert message in " ".join(said.split())
    assert not (tmp_path / "out").exists()


def test_a_table_may_come_from_a_spreadsheet(tmp_path):
    path = tmp_path / "d.csv"
    for first in ("", "sep=;\n", "sep=;\r\n"):  # Excel writes and reads such a line
        path.write_text(f"\ufeff{first}image;outline;decision\nn1;1,1 9,1 9,9;Unsure\n", encoding="utf-8")
        [read] = read_decisions([path])
        assert (read.image, read.decision, read.person) == ("n1", "unsure", "d")
        assert read.source.endswith("row 3" if first else "row 2")
    with pytest.raises(InputError, match="has no column outline"):
        read_decisions([table(tmp_path / "e.csv", [], "image,decision")])


@pytest.mark.parametrize("numbered", [True, False])
def test_an_outline_traced_in_a_smaller_picture_does_not_make_a_label_coarser(tmp_path, numbered):
    root = tmp_path / "data"
    cell, gone = circle(60, 50, 21, 160), circle(110, 100, 17, 160)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(2):
        Image.fromarray(np.full((160, 160, 3), 90 + number, np.uint8)).save(root / "images" / f"n{number}.png")
        mask = (cell + 2 * gone).astype(np.uint8) if numbered else (cell | gone) * np.uint8(255)
        Image.fromarray(mask).save(root / "masks" / f"n{number}.png")
    small = np.asarray(Image.fromarray(cell.astype(np.uint8)).resize((48, 48), Image.Resampling.NEAREST)) > 0
    rows = [["n0", 1, "cell", "", write_outline(trace(small, 160, 160))]]
    moved = np.roll(small, 2, axis=1)  # by more than a pixel of the smaller picture: it is another outline
    rows.append(["n1", 2, "cell", "", write_outline(trace(moved, 160, 160))])
    done = write_corrected(root, tmp_path / "out", [table(tmp_path / "d.csv", rows)])
    same, other = (inspect_pair(pair, Reading()).mask for pair in find_pairs(tmp_path / "out").pairs)
    assert np.array_equal(same, cell | gone)
    assert not np.array_equal(other, cell | gone)
    assert done.counts == {"nothing": 1, "outline changed": 1}


def test_warnings_of_masks_are_not_lost(tmp_path):
    root = write(tmp_path / "data", "parallel", ignored=False)
    for path in (root / "masks").iterdir():
        mask = np.asarray(Image.open(path)) // 255
        mask[20:, 30:] = 255
        Image.fromarray(mask).save(path)
    decided = table(tmp_path / "d.csv", [["n1", 1, "cell", "", around(circle(30, 10, 4, 50)[:40])]])
    assert "may mean 'not annotated'" in invoke("correct", root, tmp_path / "out", "--decisions", decided)
    said = invoke("correct", root, tmp_path / "two", "--decisions", decided, "--ignore-value", "[255]")
    assert "may mean" not in said
