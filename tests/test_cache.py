"""The cache of decoded pairs: built once, complete or not at all, and used only for the same files."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cellseg.data import cache
from cellseg.data.cache import load_pairs
from cellseg.data.facts import Reading, inspect_pair
from cellseg.data.images import resize_image
from cellseg.data.masks import resize_mask
from cellseg.data.pairs import find_pairs
from cellseg.storage.errors import InputError

LOAD = """
import sys
from pathlib import Path
from cellseg.data.cache import load_pairs
from cellseg.data.facts import Reading
from cellseg.data.pairs import find_pairs
decoded = load_pairs(find_pairs(Path(sys.argv[1])).pairs, Reading(image_size=32), Path(sys.argv[2]))
print(decoded.fingerprint)
"""


def load(root, folder, size=32, threshold=20):
    return load_pairs(find_pairs(root).pairs, Reading(threshold, image_size=size), folder)


def pixels(decoded):
    return {
        pair.name: (decoded.images[row].tobytes(), decoded.masks[row].tobytes())
        for pair, row in zip(decoded.pairs, decoded.row, strict=True)
    }


def entries(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "decoded"


def no_building(monkeypatch):
    def refuse(*_):
        raise AssertionError("built again")

    monkeypatch.setattr(cache, "_write", refuse)


def test_rows_are_the_cleaned_and_resized_pairs(smears, folder):
    decoded = load(smears, folder)
    for pair, row, facts in zip(decoded.pairs, decoded.row, decoded.facts, strict=True):
        clean = inspect_pair(pair, Reading(image_size=32))
        assert np.array_equal(decoded.images[row], resize_image(clean.pixels, 32))
        assert np.array_equal(decoded.masks[row], resize_mask(clean.mask, 32))
        assert facts == clean.facts


def test_a_second_start_reads_the_entry_and_a_moved_or_renamed_set_finds_it(own_smears, folder, monkeypatch):
    before = load(own_smears, folder)
    no_building(monkeypatch)
    assert pixels(load(own_smears, folder)) == pixels(before)
    moved = own_smears.rename(own_smears.with_name("moved"))
    (moved / "cell_1").rename(moved / "zebra")  # the last one now
    after = pixels(load(moved, folder))
    assert after.pop("zebra") == pixels(before)["cell_1"]
    assert len(after) == 14


def change_a_pixel(root):
    with Image.open(root / "cell_3" / "source.jpg") as image:
        image.load()
        image.putpixel((0, 0), (0, 255, 0))
        image.save(root / "cell_3" / "source.jpg")


def keep_size_and_time(root):
    path = root / "cell_3" / "mask.jpg"
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def remove_a_pair(root):
    shutil.rmtree(root / "cell_3")


@pytest.mark.parametrize("change", [change_a_pixel, keep_size_and_time, remove_a_pair])
def test_whatever_changes_makes_another_entry(own_smears, folder, change):
    load(own_smears, folder)
    change(own_smears)
    load(own_smears, folder)
    assert len(entries(folder)) == 2


@pytest.mark.parametrize("settings", [{"size": 48}, {"threshold": 100}])
def test_other_settings_make_another_entry(smears, folder, settings):
    load(smears, folder)
    load(smears, folder, **settings)
    assert len(entries(folder)) == 2


def test_it_can_be_removed_without_loss(smears, folder):
    before = pixels(load(smears, folder))
    shutil.rmtree(folder)
    assert pixels(load(smears, folder)) == before


@pytest.mark.parametrize("damage", ["images", "facts.json"])
def test_a_damaged_entry_is_built_again(smears, folder, damage):
    before = pixels(load(smears, folder))
    path = folder / entries(folder)[0] / damage
    path.write_bytes(path.read_bytes()[:-100])
    assert pixels(load(smears, folder)) == before


@pytest.mark.parametrize("content", ["{}", "null", "[]", '{"bytes": {}}', ""])
def test_facts_that_are_none_are_made_again(smears, folder, content):
    before = pixels(load(smears, folder))
    (folder / entries(folder)[0] / "facts.json").write_text(content)
    assert pixels(load(smears, folder)) == before


def test_a_file_in_the_place_of_an_entry_gives_way(smears, folder):
    before = pixels(load(smears, folder))
    [name] = entries(folder)
    shutil.rmtree(folder / name)
    (folder / name).write_text("")
    assert pixels(load(smears, folder)) == before


def test_a_file_that_changes_while_it_is_read_does_not_poison_the_entry(own_smears, folder, monkeypatch):
    mask = own_smears / "cell_1" / "mask.jpg"
    content = mask.read_bytes()

    def inspect_late(pair, how):
        if pair.name == "cell_1":
            Image.new("L", (96, 72)).save(mask)
        return inspect_pair(pair, how)

    with monkeypatch.context() as patch:
        patch.setattr(cache, "inspect_pair", inspect_late)
        with pytest.raises(InputError, match=r"cell_1.source\.jpg or its mask changed while it was read; start again"):
            load(own_smears, folder)
    mask.write_bytes(content)
    assert load(own_smears, folder).facts[0].cells > 0


def test_an_entry_cut_short_while_it_is_used_is_told_and_one_deleted_is_not_missed(smears, folder):
    decoded = load(smears, folder)
    before = pixels(decoded)
    [entry] = [path for path in folder.iterdir() if path.is_dir()]
    shutil.rmtree(entry)
    assert pixels(decoded) == before
    decoded = load(smears, folder)
    os.truncate(entry / "images", 100)
    with pytest.raises(InputError, match=r"images was truncated while in use; delete the folder .* and start again"):
        pixels(decoded)


def test_pairs_of_the_same_content_are_all_there(own_smears, folder):
    shutil.copytree(own_smears / "cell_2", own_smears / "cell_99")
    found = pixels(load(own_smears, folder))
    assert found["cell_2"] == found["cell_99"]
    assert len(found) == 16


def test_kin_are_told_by_position_whatever_order_they_are_stored_in(own_smears, folder):
    shutil.copytree(own_smears / "cell_2", own_smears / "cell_99")
    [relation] = load(own_smears, folder).kin
    assert (relation.first, relation.second, relation.relation) == (1, 15, "same image")


def start(root, folder):
    return subprocess.Popen(
        [sys.executable, "-c", LOAD, str(root), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_two_that_start_at_once_share_one_entry(smears, folder):
    both = [start(smears, folder), start(smears, folder)]
    said = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0] != ""
    assert len(entries(folder)) == 1


def test_one_waits_for_another_that_is_building(smears, folder):
    folder.mkdir()
    finished = load(smears, folder)
    [name] = entries(folder)
    (folder / name).rename(folder / "aside")
    with cache.FileLock(folder / f"{name}.lock"):
        waiting = start(smears, folder)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=4)
        (folder / "aside").rename(folder / name)
    assert waiting.communicate(timeout=600)[0].strip() == finished.fingerprint


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no kill -9")
def size_of(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:  # the entry was finished since
        return 0


def test_killed_while_building_it_leaves_nothing_that_is_taken_for_an_entry(tmp_path, folder, smears):
    root = tmp_path / "many"
    for copy in range(40):  # long enough to be caught in the middle
        for pair in smears.iterdir():
            shutil.copytree(pair, root / f"{pair.name}_{copy}")
    for wanted in (1, 20):
        process = start(root, folder)
        while not any(size_of(path) > wanted * 3072 for path in folder.glob(".*/images")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not entries(folder)[1:], "only the unfinished folder"
        assert all(name.startswith(".") for name in entries(folder))
    assert len(load(root, folder).pairs) == 400
    assert [name for name in entries(folder) if name.startswith(".")] == []


def test_a_full_disk_is_named_and_leaves_nothing(smears, small_disk):
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); .* set data\.cache=PATH"):
        load(smears, small_disk, size=512)
    assert not [name for name in entries(small_disk) if not name.endswith(".lock")]
    assert len(load(smears, small_disk).pairs) == 10  # 32 x 32 pixels fit


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    mount = shutil.which("mount")
    if not mount or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_folder_that_cannot_be_written_is_named(smears, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file.* cannot be written .* set data\.cache=PATH"):
        load(smears, tmp_path / "file" / "cache")


def test_a_file_that_cannot_be_used_leaves_no_entry(own_smears, folder):
    (own_smears / "cell_3" / "source.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"cell_3.source\.jpg: cannot be read as an image"):
        load(own_smears, folder)
    assert entries(folder) == []


def test_the_data_folder_may_be_read_only(own_smears, folder):
    before = {path: path.stat().st_mtime_ns for path in own_smears.rglob("*")}
    load(own_smears, folder)
    assert {path: path.stat().st_mtime_ns for path in own_smears.rglob("*")} == before
    assert isinstance(folder, Path)
