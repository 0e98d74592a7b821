"""Read a folder of pairs, clean it, split it and make batches; draw the embedded synthetic smears."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellseg.data.augmentation import Dihedral as Dihedral
    from cellseg.data.augmentation import MonaiTransforms as MonaiTransforms
    from cellseg.data.augmentation import StrongAugmentation as StrongAugmentation
    from cellseg.data.datamodule import CellDataModule as CellDataModule
    from cellseg.data.splits import SplitPlan as SplitPlan

_HOMES = {
    "CellDataModule": "datamodule",
    "Dihedral": "augmentation",
    "MonaiTransforms": "augmentation",
    "SplitPlan": "splits",
    "StrongAugmentation": "augmentation",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    """Import a public name at its first use: commands that only read files start without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
