"""Files of tensors: complete or absent, every damage detected, nothing in them executed."""

import os
import zipfile

import pytest
import torch

from cellseg.storage import tensors as tensorfile
from cellseg.storage.errors import InputError
from cellseg.storage.files import new_file, write_text

CONTENT = {"a": torch.arange(40.0), "b": torch.tensor([1, 2]), "c": 3}


@pytest.fixture
def file(tmp_path):
    tensorfile.write_tensors(CONTENT, tmp_path / "some.pth")
    return tmp_path / "some.pth"


def same(content):
    return content.keys() == CONTENT.keys() and all(
        torch.equal(torch.as_tensor(content[name]), torch.as_tensor(CONTENT[name])) for name in CONTENT
    )


def test_what_was_written_is_read(file):
    assert same(tensorfile.read_tensors(file, "give up"))
    assert os.listdir(file.parent) == [file.name]  # noqa: PTH208 (hidden files too)


def test_every_changed_byte_is_noticed_or_changes_nothing(file):
    sound = file.read_bytes()
    noticed = 0
    for position in range(len(sound)):
        content = bytearray(sound)
        content[position] ^= 1 << position % 8
        file.write_bytes(content)
        try:
            assert same(tensorfile.read_tensors(file, "give up")), position
        except InputError:
            noticed += 1
    assert noticed > len(sound) / 8  # much of so small a file is padding


def test_a_file_cut_short_anywhere_is_noticed(file):
    sound = file.read_bytes()
    for length in range(0, len(sound), 7):
        file.write_bytes(sound[:length])
        with pytest.raises(InputError, match=r"some\.pth: is damaged \(.+\); give up"):
            tensorfile.read_tensors(file, "give up")


class Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_hostile_pickle_does_nothing(tmp_path):
    torch.save({"a": Hostile(f"touch {tmp_path}/owned")}, tmp_path / "some.pth")
    with pytest.raises(InputError, match=r"some\.pth: cannot be read"):
        tensorfile.read_tensors(tmp_path / "some.pth", "give up")
    assert not (tmp_path / "owned").exists()


def test_a_compressed_archive_is_no_file_of_tensors(file):
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match="is compressed or a folder"):
        tensorfile.read_tensors(file, "give up")


def test_a_link_where_a_file_is_begun_is_not_followed(tmp_path):
    (victim := tmp_path / "victim").write_text("precious")
    for name in ("a.json", "b.pth", "c.csv"):
        (tmp_path / f".{name}.{os.getpid()}.unfinished").symlink_to(victim)
    write_text(tmp_path / "a.json", "{}")
    tensorfile.write_tensors({"a": torch.zeros(1)}, tmp_path / "b.pth")
    with new_file(tmp_path / "c.csv") as file:
        file.write_text("a")
    assert victim.read_text() == "precious"
    assert not any((tmp_path / name).is_symlink() for name in ("a.json", "b.pth", "c.csv"))


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(file, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        tensorfile.write_tensors({"a": torch.zeros(1)}, file, file.with_name("before.pth"))
    monkeypatch.undo()
    assert same(tensorfile.read_tensors(file, "give up"))
    assert os.listdir(file.parent) == [file.name]  # noqa: PTH208
