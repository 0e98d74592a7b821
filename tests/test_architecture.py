"""The rooms of the package: the imports that each room may use, and no circular imports."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import cellseg

PACKAGE = Path(cellseg.__file__).parent
ROOMS = {  # room: rooms it may use, packages it may import
    "storage": (set(), {"torch", "pydantic"}),
    "science": ({"storage"}, {"torch", "torchmetrics", "numpy", "scipy", "skimage"}),
    "data": (
        {"storage"},
        {
            "torch",
            "lightning",
            "numpy",
            "scipy",
            "skimage",
            "PIL",
            "tifffile",
            "rich",
            "pydantic",
            "filelock",
            "platformdirs",
        },
    ),
    "run": (
        {"storage", "science", "data"},
        {"torch", "lightning", "numpy", "pandas", "PIL", "rich", "hydra", "omegaconf", "filelock", "yaml", "pydantic"},
    ),
    "study": (
        {"storage", "science", "data", "run"},
        {"numpy", "pandas", "scipy", "matplotlib", "PIL", "jinja2", "markupsafe"},
    ),
    "use": (
        {"storage", "science", "data", "run", "study"},
        {
            "torch",
            "numpy",
            "pandas",
            "scipy",
            "PIL",
            "rich",
            "yaml",
            "shapely",
            "roifile",
            "onnx",
            "onnxscript",
            "onnxruntime",
        },
    ),
    "sweep": (
        {"storage", "run", "study"},
        {"torch", "hydra", "omegaconf", "submitit", "rich", "filelock"},
    ),
    "train": ({"storage", "run", "sweep"}, {"hydra", "omegaconf"}),
    "cli": ({"storage", "data", "run", "study", "use", "train"}, {"typer", "rich"}),
    "__init__": ({"science", "data", "run", "use"}, set()),
}
SCIENCE = {"networks", "losses", "metrics", "objects"}
FILES = sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))


def room_of(file: str) -> str:
    return "science" if file in SCIENCE else file.split("/")[0]


def imports(file: str) -> set[str]:
    """Every module that a file imports, of this package as a path of a file."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{file}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {name if path_of(name) in FILES else node.module for name in inside}
    return {path_of(name) if name.split(".")[0] == "cellseg" else name for name in names}


def path_of(module: str) -> str:
    path = module.removeprefix("cellseg").lstrip(".").replace(".", "/") or "__init__"
    return f"{path}/__init__" if (PACKAGE / path).is_dir() else path


def test_only_the_science_and_the_command_lie_flat():
    assert {file for file in FILES if "/" not in file} == SCIENCE | {"cli", "train", "__init__"}
    assert {room_of(file) for file in FILES} == ROOMS.keys()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_the_table_says_and_the_table_says_no_more(room):
    rooms, packages = set(), set()
    for file in (file for file in FILES if room_of(file) == room):
        for name in imports(file):
            if name in FILES:
                rooms.add(room_of(name))
            elif (top := name.split(".")[0]) not in sys.stdlib_module_names:
                packages.add(top)
    assert (rooms - {room}, packages) == ROOMS[room]


def test_no_import_goes_round():
    tuple(TopologicalSorter({file: imports(file) & set(FILES) for file in FILES}).static_order())


def test_only_a_run_and_its_sweep_see_hydra():
    seen = {file for file in FILES if any(name.split(".")[0] == "hydra" for name in imports(file))}
    assert {room_of(file) for file in seen} == {"run", "sweep", "train"}
