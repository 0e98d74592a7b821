"""The notebook runs from top to bottom on a study."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from cellseg import train
from conftest import smoke

NOTEBOOK = Path(train.__file__).parents[1] / "notebooks" / "study.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's own packages
def test_the_notebook_runs_on_a_tiny_study(smears, tmp_path):
    study = tmp_path / "logs" / "study"
    for model in ("unet", "potinet"):
        for seed in (0, 1):
            overrides = (f"model={model}", f"seed={seed}", f"data.root={smears}", "trainer.max_epochs=2")
            train.run(smoke(*overrides), study / f"{model}_{seed}")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # kept without results
    [place] = [cell for cell in notebook.cells if 'LOGS = Path("../logs")' in cell.source]
    place.source = place.source.replace('"../logs"', repr(str(study.parent)))
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(NOTEBOOK.parent))
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in shown if "image/png" in output.get("data", {})]
    assert len(pictures) == 4  # curves, one pair of networks, a panel, a prediction
    assert any("UNet" in output.get("data", {}).get("text/plain", "") for output in shown)
    assert any("studies: study; this one: study" in output.get("data", {}).get("text/plain", "") for output in shown)
    assert not [output for output in shown if output["output_type"] == "stream"]  # nobody warns
