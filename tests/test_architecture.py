"""The rooms of the package: what each may import from outside, and that data moves down one line only."""

import ast
import sys
from pathlib import Path

import cellseg

PACKAGE = Path(cellseg.__file__).parent
TORCH, PIXELS = {"torch"}, {"numpy", "PIL"}
OUTSIDE = {
    "errors": set(),
    "files": set(),
    "spreadsheet": set(),
    "interruption": set(),
    "divergence": TORCH,
    "tensorfile": TORCH,
    "networks": TORCH,
    "losses": TORCH,
    "metrics": TORCH | {"torchmetrics"},
    "hardware": TORCH,
    "objects": {"numpy", "scipy"},
    "panels": PIXELS,
    "data/groups": set(),
    "data/pairs": set(),
    "data/splits": set(),
    "data/cleaning": PIXELS,
    "data/kinship": PIXELS | {"scipy"},
    "data/inspection": PIXELS,
    "data/findings": set(),
    "data/cache": {"numpy", "tqdm", "filelock", "platformdirs"},
    "data/montage": PIXELS,
    "data/check": {"PIL"},
    "data/cleaned": PIXELS,
    "data/synthetic": PIXELS | {"tqdm"},
    "data/augmentation": TORCH,
    "data/dataset": {"numpy", "torch"},
    "data/datamodule": TORCH | {"lightning"},
    "data/__init__": set(),
    "module": {"torch", "lightning"},
    "callbacks": {"torch", "lightning", "PIL"},
    "predict": PIXELS | TORCH,
    "pages": PIXELS | {"jinja2", "markupsafe"},
    "records": {"omegaconf", "filelock", "pandas", "yaml"},
    "runs": {"torch", "numpy", "PIL", "pandas"},
    "summary": {"torch", "lightning"},
    "console": {"rich", "pandas"},
    "resuming": TORCH | {"lightning"},
    "training": {"torch", "lightning", "hydra", "omegaconf"},
    "cli": {"typer", "rich"},
    "study/statistics": {"numpy", "pandas", "scipy"},
    "study/collect": {"pandas"},
    "study/verdict": set(),
    "study/original": set(),
    "study/tables": {"pandas"},
    "study/figures": {"matplotlib", "numpy", "pandas"},
    "study/gallery": PIXELS | {"pandas"},
    "study/report": set(),
    "study/isolated": {"filelock", "torch"},
    "study/slurm": {"hydra", "submitit"},
    "study/sweep": {"hydra", "omegaconf", "rich"},
    "study/__init__": set(),
    "use/trained": set(),
    "use/predict_files": PIXELS | {"rich"},
    "use/evaluate": {"numpy", "pandas", "tqdm"},
    "use/review": {"numpy", "torch", "scipy"},
    "use/export": {"numpy", "torch", "onnx", "onnxscript", "onnxruntime"},
    "use/__init__": set(),
    "__init__": set(),
}
LINE = [  # a room may use the rooms before it
    "errors",
    "files",
    "spreadsheet",
    "interruption",
    "divergence",
    "tensorfile",
    "networks",
    "losses",
    "metrics",
    "hardware",
    "objects",
    "panels",
    "data/groups",
    "data/pairs",
    "data/splits",
    "data/cleaning",
    "data/kinship",
    "data/inspection",
    "data/findings",
    "data/cache",
    "data/montage",
    "data/check",
    "data/cleaned",
    "data/synthetic",
    "data/augmentation",
    "data/dataset",
    "data/datamodule",
    "data/__init__",
    "module",
    "predict",
    "pages",
    "records",
    "runs",
    "callbacks",
    "summary",
    "study/statistics",
    "study/collect",
    "study/verdict",
    "study/original",
    "study/tables",
    "study/figures",
    "study/gallery",
    "study/report",
    "study/isolated",
    "study/slurm",
    "study/sweep",
    "study/__init__",
    "use/trained",
    "use/predict_files",
    "use/evaluate",
    "use/review",
    "use/export",
    "use/__init__",
    "console",
    "resuming",
    "training",
    "cli",
    "__init__",
]


def imports(room: str) -> set[str]:
    tree = ast.parse((PACKAGE / f"{room}.py").read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


def test_every_file_of_the_package_is_a_room_in_the_table():
    files = {path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py")}
    assert files == set(OUTSIDE) == set(LINE)


def test_rooms_import_from_outside_only_what_the_table_says():
    for room, allowed in OUTSIDE.items():
        outside = {name.split(".")[0] for name in imports(room)} - {"cellseg"} - set(sys.stdlib_module_names)
        assert outside <= allowed, room


def test_nothing_knows_what_is_above_it():
    for position, room in enumerate(LINE):
        for name in imports(room):
            if name.split(".")[0] == "cellseg":
                used = name.removeprefix("cellseg").lstrip(".").replace(".", "/") or "__init__"
                used = "data/__init__" if used == "data" else used
                assert LINE.index(used) < position, f"{room} imports {used}"


def test_only_training_and_its_sweep_see_hydra():
    assert {room for room in OUTSIDE if any(name.split(".")[0] == "hydra" for name in imports(room))} == {
        "training",
        "study/slurm",
        "study/sweep",
    }
