"""Cell segmentation experiments, built to say whether a difference between two networks is real."""

from cellseg.data import CellDataModule as CellDataModule
from cellseg.losses import DiceLoss as DiceLoss
from cellseg.module import SegmentationModule as SegmentationModule
from cellseg.networks import PotiNet as PotiNet
from cellseg.networks import UNet as UNet
from cellseg.networks import XopiNet as XopiNet
from cellseg.runs import load_run as load_run
