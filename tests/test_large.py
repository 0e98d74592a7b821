"""Images that are too large to hold in memory several times."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

SIDE = 3000
BYTES = 40  # of memory for a pixel of the picture, at most: the parts that do not grow with it count too

PEAK = """
import resource, sys
from cellseg.cli import app
try:
    app(sys.argv[1:])
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def peak(*arguments):
    said = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, arguments)], check=True, capture_output=True, text=True
    )
    return int(said.stdout.rsplit("peak ", 1)[1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
@pytest.mark.parametrize("options", [(), ("--tiles",)])
def test_memory_grows_with_the_picture_and_with_nothing_else(finished, tmp_path, options):
    for name, side in (("small", 600), ("large", SIDE)):
        noise = np.random.default_rng(0).integers(0, 256, (side // 40, side // 40, 3), np.uint8)
        Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(tmp_path / f"{name}.jpg")
    small, large = (
        peak("predict", finished, tmp_path / f"{name}.jpg", "--output", tmp_path / f"{name}_out", *options)
        for name in ("small", "large")
    )
    assert large - small <= BYTES * SIDE**2
