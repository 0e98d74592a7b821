"""Train cell segmentation networks and test whether a difference between two of them is real."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellseg.data import CellDataModule as CellDataModule
    from cellseg.losses import DiceBCELoss as DiceBCELoss
    from cellseg.losses import DiceLoss as DiceLoss
    from cellseg.losses import FocalLoss as FocalLoss
    from cellseg.metrics import Thresholded as Thresholded
    from cellseg.networks import PotiNet as PotiNet
    from cellseg.networks import UNet as UNet
    from cellseg.networks import XopiNet as XopiNet
    from cellseg.run.module import SegmentationModule as SegmentationModule
    from cellseg.use.load import load_run as load_run

_HOMES = {
    "CellDataModule": "data",
    "DiceBCELoss": "losses",
    "DiceLoss": "losses",
    "FocalLoss": "losses",
    "PotiNet": "networks",
    "SegmentationModule": "run.module",
    "Thresholded": "metrics",
    "UNet": "networks",
    "XopiNet": "networks",
    "load_run": "use.load",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that commands without torch start faster."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
