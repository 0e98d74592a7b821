"""From a folder on disk to batches: pairs, cleaning, splits, and the embedded synthetic smears."""

from cellseg.data.augmentation import Dihedral as Dihedral
from cellseg.data.datamodule import CellDataModule as CellDataModule
from cellseg.data.splits import SplitPlan as SplitPlan
