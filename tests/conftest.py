"""Small smears on disk, and runs composed as the command line composes them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# before torch is imported, here and in every process the tests start: pytest-xdist shares out the CPUs already
os.environ["OMP_NUM_THREADS"] = "1"

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from cellseg import train  # registers the resolver that names run folders
from cellseg.data.synthetic import SmearStyle, write_synthetic

settings.register_profile("patient", deadline=None)  # a loaded machine may be slow
settings.load_profile("patient")
CONF = Path(train.__file__).parents[1] / "conf"
TINY = SmearStyle(width=96, height=72, radius=9, cells=(6, 10))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the user's cache folder out of the tests, in this process and in those it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def smears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten tiny pairs in the Mabimi layout; tests must not change them."""
    root = tmp_path_factory.mktemp("data") / "smears"
    write_synthetic(root, pairs=10, style=TINY)
    return root


@pytest.fixture(scope="session")
def finished(smears: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three epochs with a validation set; tests must not change it."""
    folder = tmp_path_factory.mktemp("logs") / "run"
    kept = ("callbacks.last.keep=true", "data.split.val_fraction=0.25", "trainer.max_epochs=3")
    train.run(smoke(f"data.root={smears}", *kept), folder)
    return folder


@pytest.fixture
def own_smears(tmp_path: Path) -> Path:
    """Fifteen tiny pairs a test may break; cell_14 has the RGB mask."""
    root = tmp_path / "smears"
    write_synthetic(root, pairs=15, style=TINY)
    return root


def composed(*overrides: str, return_hydra_config: bool = False) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=return_hydra_config)


def smoke(*overrides: str) -> DictConfig:
    return composed("experiment=smoke", "+trainer.enable_progress_bar=false", *overrides)


def quick_first(quick: int, cases: list[Any]) -> list[Any]:
    """Mark the cases of a parametrised test as slow, except the first few."""
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [
        pytest.param(*value, marks=[pytest.mark.slow] if number >= quick else []) for number, value in enumerate(values)
    ]


# what waits for many processes begins first, so that no worker is left with it at the end
NAMES = "recipe faults statistics report sweep open truth score train notebook use"
LONGEST = tuple(f"test_{name}" for name in NAMES.split())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
