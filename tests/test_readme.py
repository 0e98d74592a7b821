"""README and docs/ show what exists: commands compose, make targets, files and links are there."""

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
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "own" / "README.md", *ROOT.glob("docs/*.md")]
PAGES = {file: file.read_text(encoding="utf-8") for file in FILES}
ALL = "\n".join(PAGES.values())
BLOCKS = re.findall(r"^ *```\w*\n(.*?)^ *```", ALL, flags=re.DOTALL | re.MULTILINE)
COMMANDS = sorted(
    {
        line.split("#")[0].split("<-")[0].strip()
        for text in [*BLOCKS, *re.findall(r"`([^`\n]+)`", ALL)]
        for line in text.splitlines()
        if line.strip().startswith(("python train.py", "cellseg train"))
    }
)
CELLSEG = sorted(
    {
        line.split("#")[0].strip()
        for text in BLOCKS
        for line in text.splitlines()
        if line.startswith("cellseg ") and not line.startswith("cellseg train")
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_training_command_composes(command):
    words = [word for word in shlex.split(command)[2:] if word != "--help"]
    own = ROOT / words[words.index("--config-dir") + 1] if "--config-dir" in words else None
    overrides = [word for word in words if word != "--config-dir" and (not own or ROOT / word != own)]
    if own:  # Hydra finds its options where it is told of the folder
        overrides.insert(0, f"hydra.searchpath=[file://{own}]")
    first = [
        word if "=[" in word else word.partition(",")[0] for word in as_typed(overrides) if word != "-m"
    ]  # of a sweep, its first run
    composed(*first)


@pytest.mark.parametrize("command", CELLSEG)
def test_every_cellseg_command_parses(command):
    _, name, *words = shlex.split(command)
    get_command(app).commands[name].make_context(name, words)


def test_there_are_commands_to_test():
    assert len(COMMANDS) > 25
    assert len(CELLSEG) > 8


def test_every_make_target_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)\b", "\n".join(BLOCKS + re.findall(r"`([^`]+)`", ALL)))) <= targets


def test_every_room_and_flat_file_of_the_package_is_in_the_tree():
    tree = next(block for block in BLOCKS if "networks.py" in block)
    for path in (ROOT / "cellseg").iterdir():
        if path.suffix == ".py" and path.name != "__init__.py":
            assert path.name in tree
        elif path.is_dir() and path.name != "__pycache__":
            assert f"  {path.name}/ " in tree


def test_every_picture_and_relative_link_exists():
    for file, text in PAGES.items():
        for target, part in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", text):
            if target.startswith("http"):
                continue
            there = file.parent / target if target else file
            assert there.exists(), f"{file.name}: {target}"
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE) if part else []
            assert not part or part in {re.sub(r"[^\w -]", "", name).lower().replace(" ", "-") for name in headings}


def test_every_page_is_listed_in_the_readme():
    listed = PAGES[ROOT / "README.md"]
    assert all(f"](docs/{file.name})" in listed for file in ROOT.glob("docs/*.md"))


def test_the_readme_can_be_read_to_the_end():
    assert len(PAGES[ROOT / "README.md"].splitlines()) <= 160
