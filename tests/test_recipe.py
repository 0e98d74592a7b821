"""The default recipe keeps what the README promises of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import train


@pytest.mark.slow
def test_the_default_recipe_finds_the_embedded_cells(tmp_path):
    subprocess.run([sys.executable, train.__file__, "study=default"], cwd=tmp_path, check=True)
    [folder] = Path(tmp_path, "logs", "default").iterdir()
    assert json.loads((folder / "summary.json").read_text())["metrics"]["test/dice"] >= 0.88
