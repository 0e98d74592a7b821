"""Masks without a neural network, to compare with yours: Otsu threshold and watershed of scikit-image.

    python examples/otsu.py DATA MASKS
    cellseg score MASKS DATA --name Otsu --study logs/first

The brighter or the darker part of an image counts as cell, whichever is smaller. Nothing is fitted to the labels.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_otsu
from skimage.io import imsave
from skimage.morphology import area_closing, area_opening
from skimage.segmentation import watershed

from cellseg.data.images import read_image
from cellseg.data.pairs import find_pairs

SMALLEST = 30  # pixels of a cell, and of a hole
APART = 5  # minimum pixels between the middles of two cells


def segment(pixels: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return the number of the cell at each pixel, 0 for background, of an image (H, W, C)."""
    grey = gaussian(pixels.mean(axis=2), sigma=1)
    if grey.min() == grey.max():
        return np.zeros(grey.shape, np.uint16)
    bright = grey > threshold_otsu(grey)
    cells = bright if bright.mean() <= 0.5 else ~bright
    cells = area_closing(area_opening(cells.astype(np.uint8), SMALLEST), SMALLEST) > 0
    depth = gaussian(ndimage.distance_transform_edt(cells), sigma=1)
    peaks = peak_local_max(depth, min_distance=APART, labels=ndimage.label(cells)[0])
    markers = np.zeros(cells.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-depth, markers, mask=cells).astype(np.uint16)


def main(data: Path, masks: Path) -> None:
    """Write a mask of 16 bits for each image of a data set, by the name of its pair."""
    for pair in find_pairs(data).pairs:
        file = masks / f"{pair.name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        imsave(file, segment(read_image(pair.image).pixels), check_contrast=False)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python examples/otsu.py DATA MASKS")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
