"""Published results: the README has the numbers of the tables, and the archived runs give the published tables."""

import re
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cellseg.study.collect import read_study
from cellseg.study.report import assemble

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
STUDIES = sorted(path.parent.name for path in RESULTS.glob("*/runs.tar.xz"))
COLUMNS = {"tissue": "tissue50", "fluorescence": "fluo50", "drawn smears": "smears"}


def test_the_numbers_of_the_readme_are_those_of_the_tables():
    lines = (ROOT / "README.md").read_text().splitlines()
    [start] = [number for number, line in enumerate(lines) if line.startswith("| network | tissue")]
    headings = [COLUMNS[heading.strip()] for heading in lines[start].strip("|").split("|")[1:]]
    checked = 0
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        network, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for study, cell in zip(headings, cells, strict=True):
            file = RESULTS / study / "configurations.csv"
            table = pd.read_csv(file, index_col="configuration") if file.exists() else pd.DataFrame()
            if cell == "-":
                assert network not in table.index
                continue
            shown = [float(number) for number in re.findall(r"[\d.]+", cell)]
            stored = 100 * table.loc[network, ["dice", "dice_low", "dice_high"]].to_numpy(float)
            assert np.abs(stored - shown).max() <= 0.05 + 1e-9, (network, study)
            checked += 1
    assert checked == 12


def test_intervals_in_the_text_of_the_readme_are_published():
    text = (ROOT / "README.md").read_text().partition("## Do skip connections matter")[2].partition("\n## ")[0]
    prose = " ".join(line for line in text.splitlines() if not line.startswith("|"))
    published = " ".join(path.read_text() for path in RESULTS.glob("*/README.md"))
    intervals = re.findall(r"\[-?[\d.]+, -?[\d.]+\]", prose)
    assert intervals
    assert [interval for interval in intervals if interval not in published] == []


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_archived_runs_give_the_published_tables(study, tmp_path):
    with tarfile.open(RESULTS / study / "runs.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    report = assemble(read_study(tmp_path / study))
    for name, rows in (("configurations", report.configurations.rows), ("comparisons", report.comparisons.rows)):
        published = pd.read_csv(RESULTS / study / f"{name}.csv")
        again = pd.DataFrame(rows)[: len(published)]
        for column in published.select_dtypes("number").columns:
            values = pd.to_numeric(again[column]).to_numpy(float)
            assert np.allclose(values, published[column], atol=1e-9, equal_nan=True), column
    assert len(report.study.runs) >= 2
