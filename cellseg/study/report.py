"""The report of a study: verdicts first, then the numbers they rest on, each with how it was averaged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cellseg.data.findings import count
from cellseg.storage.csv_files import write_csv
from cellseg.storage.files import write_text
from cellseg.study.collect import HOLDOUT, Study
from cellseg.study.figures import Picture, draw_figures, write_pictures
from cellseg.study.gallery import Strip, make_gallery
from cellseg.study.pages import write_page
from cellseg.study.tables import (
    COST_COLUMNS,
    ORIGINAL_COLUMNS,
    Row,
    averages,
    cell,
    comparison_columns,
    comparison_row,
    configuration_columns,
    configuration_rows,
    difference_rows,
    image_rows,
    original_rows,
    run_columns,
    run_rows,
)
from cellseg.study.verdict import Verdict, caveats, dice_interval, judge

ORIGINAL = (
    "DiceScore and IoU as published are soft, and were taken on a split drawn anew after training, so four fifths of "
    "those images had been trained on. Corrected: 1 - validation loss, which is soft Dice at batches of one; the IoU "
    "cannot be recovered. This study: DiceScore is soft Dice, IoU is cut at 0.5, both on images no weight has seen; "
    "its data set is named below, the original's was Mabimi."
)


@dataclass(frozen=True)
class Table:
    """Rows under headings, as the pages of a report show them."""

    columns: Mapping[str, str]
    rows: Sequence[Row]

    def texts(self, row: Row) -> list[str]:
        """Return the cells of a row as they are read."""
        return [cell(column, row) for column in self.columns]

    def counts(self, column: str) -> bool:
        """Tell whether a column holds numbers."""
        return any(isinstance(row.get(column), int | float) for row in self.rows)


@dataclass(frozen=True)
class Report:
    """Everything a report says, before it is put on a page."""

    study: Study
    verdicts: list[Verdict]
    caveats: list[str]
    configurations: Table
    costs: Table
    comparisons: Table
    original: Table
    differences: Table
    runs: Table
    images: list[Row]
    figures: dict[str, list[Picture]]
    gallery: dict[str, list[Strip]]
    provenance: dict[str, str]

    @property
    def sentences(self) -> list[str]:
        """What can be said, one sentence for each pair of configurations, and what none of them can rest on."""
        said = [verdict.sentence for verdict in self.verdicts]
        return [*(said or [f"only {self.study.configurations[0]} is there: nothing to compare"]), *self.caveats]


def write_report(study: Study) -> list[str]:
    """Write the report of a study into its folder, and return its sentences.

    Writes ``report.html``, which needs no other file, and the same as ``report.md``, CSV and ``figures/*.png``.
    """
    report = assemble(study)
    folder = study.folder
    write_csv(folder / "configurations.csv", report.configurations.rows)
    write_csv(folder / "comparisons.csv", report.comparisons.rows)
    write_csv(folder / "images.csv", report.images)
    write_pictures(folder / "figures", [picture for part in report.figures.values() for picture in part])
    write_text(folder / "report.md", page(report, "report.md.jinja"))
    write_text(folder / "report.html", page(report, "report.html.jinja"))
    return report.sentences


def assemble(study: Study) -> Report:
    """Compute everything a report says."""
    verdicts = judge(study)
    configurations = configuration_rows(study, {name: dice_interval(study, name) for name in study.configurations})
    differences, images = difference_rows(study), image_rows(study)
    return Report(
        study=study,
        verdicts=verdicts,
        caveats=caveats(study),
        configurations=Table(configuration_columns(study), configurations),
        costs=Table(COST_COLUMNS, configurations),
        comparisons=Table(comparison_columns(study), [comparison_row(study, verdict) for verdict in verdicts]),
        original=Table(ORIGINAL_COLUMNS, original_rows(study, configurations)),
        differences=Table({"key": "key"} | {name: name for name in study.configurations}, differences),
        runs=Table(run_columns(study), run_rows(study)),
        images=images,
        figures=draw_figures(study, verdicts),
        gallery=make_gallery(study, images),
        provenance=_provenance(study),
    )


def page(report: Report, template: str) -> str:
    """Return the report on a page."""
    return write_page(f"study/{template}", report=report, averages=averages(report.study), about_original=ORIGINAL)


def _provenance(study: Study) -> dict[str, str]:
    """Return what the runs were made with, every value there was."""
    runs = study.runs

    def values(column: str) -> str:
        return ", ".join(sorted(set(runs[column])))

    seeds = ", ".join(map(str, sorted(set(runs["seed"]))))
    folds = sorted(set(runs["fold"]) - {HOLDOUT})
    split = ", ".join(f"{key} {' or '.join(found)}" for key, found in study.split.items())
    tested = f"; tested on fold {', '.join(folds)}" if folds else ""
    made = {
        "runs": f"{count(len(runs), 'run')} of {count(len(study.configurations), 'configuration')}, seeds {seeds}",
        "weights scored": values("scored_weights"),
        "margin": f"{study.margin:g} of Dice",
        "split": split + tested,
        "data": ", ".join(study.origin["data"]),
        "data fingerprint": study.data_fingerprint,
        "commit": values("commit") + (" (+: files had been changed)" if "+" in values("commit") else ""),
        "device": values("device"),
        "precision": values("precision"),
    }
    return made | {name: ", ".join(found) for name, found in study.origin.items() if name not in made}
