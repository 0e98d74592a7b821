"""What the README shows is what there is: its commands compose, its make targets and files exist."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from cellseg import train
from cellseg.cli import app
from cellseg.run.overrides import as_typed
from conftest import composed

ROOT = Path(train.__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\w*\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
COMMANDS = sorted(
    {
        line.split("#")[0].split("<-")[0].strip()
        for text in [*BLOCKS, *re.findall(r"`([^`\n]+)`", README)]
        for line in text.splitlines()
        if line.strip().startswith("python train.py")
    }
)
CELLSEG = sorted(
    {line.split("#")[0].strip() for text in BLOCKS for line in text.splitlines() if line.startswith("cellseg ")}
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_training_command_composes(command):
    overrides = [word for word in shlex.split(command)[2:] if not word.startswith("-")]
    first = [
        word if "=[" in word else word.partition(",")[0] for word in as_typed(overrides)
    ]  # of a sweep, its first run
    composed(*first)


@pytest.mark.parametrize("command", CELLSEG)
def test_every_cellseg_command_parses(command):
    _, name, *words = shlex.split(command)
    get_command(app).commands[name].make_context(name, words)


def test_there_are_commands_to_test():
    assert len(COMMANDS) > 8
    assert len(CELLSEG) > 4


def test_every_make_target_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)\b", "\n".join(BLOCKS + re.findall(r"`([^`]+)`", README)))) <= targets


def test_every_room_and_flat_file_of_the_package_is_in_the_tree():
    tree = next(block for block in BLOCKS if "networks.py" in block)
    for path in (ROOT / "cellseg").iterdir():
        if path.suffix == ".py" and path.name != "__init__.py":
            assert path.name in tree
        elif path.is_dir() and path.name != "__pycache__":
            assert f"  {path.name}/ " in tree


def test_every_picture_and_relative_link_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
