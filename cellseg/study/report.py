"""Write the report of a study: verdicts, the numbers behind them, and an explanation of each number."""

import re
import shutil
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cellseg.run.plan import write_looks
from cellseg.storage.csv_files import write_csv
from cellseg.storage.errors import count
from cellseg.storage.files import write_text
from cellseg.study.collect import HOLDOUT, Study
from cellseg.study.figures import Picture, draw_figures, over_seeds, write_pictures
from cellseg.study.gallery import Strip, make_gallery
from cellseg.study.methods import describe_methods
from cellseg.study.pages import write_page
from cellseg.study.progress import Progress, find_progress
from cellseg.study.tables import (
    COST_COLUMNS,
    EVIDENCE_COLUMNS,
    ORIGINAL_COLUMNS,
    TROUBLE_COLUMNS,
    Row,
    averages,
    baseline_rows,
    cell,
    comparison_columns,
    comparison_row,
    configuration_columns,
    configuration_rows,
    difference_rows,
    image_rows,
    in_points,
    object_columns,
    object_comparison_columns,
    original_rows,
    run_columns,
    run_rows,
    trouble_rows,
)
from cellseg.study.trouble import find_trouble
from cellseg.study.verdict import Verdict, caveats, dice_interval, explain_terms, judge

BANDS = "over-seeds"  # folder in a study with curves for TensorBoard
ORIGINAL = (
    "As published: DiceScore and IoU are soft scores. They were computed on a new split made after training, so four "
    "fifths of those images were training images. Corrected: 1 - validation loss, which equals soft Dice at a batch "
    "size of 1; the IoU cannot be recovered. This study: DiceScore is soft Dice, IoU uses the threshold 0.5, both on "
    "test images only. The data set of this study is listed below; the original study used Mabimi."
)


@dataclass(frozen=True)
class Table:
    """A table of the report: column headings and rows, and the columns that are shown in points."""

    columns: Mapping[str, str]
    rows: Sequence[Row]
    points: Collection[str] = ()

    def texts(self, row: Row) -> list[str]:
        """Return the formatted cells of a row."""
        return [cell(column, row, self.points) for column in self.columns]

    def counts(self, column: str) -> bool:
        """Return whether a column contains numbers."""
        return any(isinstance(row.get(column), int | float) for row in self.rows)


@dataclass(frozen=True)
class Report:
    """The content of a report, before it is written as HTML or Markdown."""

    study: Study
    verdicts: list[Verdict]
    caveats: list[str]
    configurations: Table
    costs: Table
    comparisons: Table
    evidence: Table
    objects: Table
    object_differences: Table
    trouble: Table
    original: Table
    differences: Table
    runs: Table
    images: list[Row]
    figures: dict[str, list[Picture]]
    gallery: dict[str, list[Strip]]
    provenance: dict[str, str]
    methods: str

    @property
    def sentences(self) -> list[str]:
        """The verdicts, one sentence for each two configurations, followed by the caveats."""
        sentences = [line for verdict in self.verdicts for line in (verdict.sentence, verdict.second) if line]
        alone = f"the study has only one configuration, {self.study.configurations[0]}: nothing to compare"
        return [*(sentences or [alone]), *self.caveats]

    @property
    def terms(self) -> list[str]:
        """What the terms of the sentences mean."""
        return explain_terms(self.sentences)


def write_report(study: Study) -> list[str]:
    """Write the report of a study into its folder, and return its sentences.

    The files are ``report.html`` (complete in one file), ``report.md``, three CSV tables (shares in [0, 1]) and
    ``figures/`` as PNG, SVG and PDF, and curves for TensorBoard in ``over-seeds/``. The
    first report with verdicts on these runs is recorded in ``looks.yaml``.
    """
    progress = find_progress(study)
    report = assemble(study, progress)
    folder = study.folder
    write_csv(folder / "configurations.csv", report.configurations.rows)
    write_csv(folder / "comparisons.csv", report.comparisons.rows)
    write_csv(folder / "images.csv", report.images)
    write_pictures(folder / "figures", [picture for part in report.figures.values() for picture in part])
    _write_bands(study)
    write_text(folder / "report.md", page(report, "report.md.jinja"))
    write_text(folder / "report.html", page(report, "report.html.jinja"))
    if progress.look and progress.look not in study.looks and any(verdict.given for verdict in report.verdicts):
        write_looks(folder, [*study.looks, progress.look])
    return report.sentences


def print_verdicts(sentences: Sequence[str]) -> None:
    """Print the sentences of a report and what their terms mean; in a terminal each part of one begins a line."""
    lines = []
    if any("[" in sentence for sentence in sentences):
        lines = ["Differences in points (0.01 of Dice), with intervals of 95 % unless a line says otherwise:"]
    for sentence in [*sentences, *explain_terms(sentences)]:
        if not sys.stdout.isatty():
            lines.append(sentence)
            continue
        for number, part in enumerate(re.split(r"(?<=;) |(?<= scores:) ", sentence)):
            first, others = ("  ", "    ") if number else ("- ", "  ")
            lines += textwrap.wrap(
                part,
                shutil.get_terminal_size().columns,
                initial_indent=first,
                subsequent_indent=others,
                break_long_words=False,
                break_on_hyphens=False,
            )
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _write_bands(study: Study) -> None:
    """Write mean and spread over seeds of each configuration for TensorBoard, if it has several seeds."""
    for configuration in study.differences:
        curves = {}
        for column in ("val/dice", "val/loss", "train/loss"):
            if column in study.curves and not (band := over_seeds(study, configuration, column).dropna()).empty:
                curves[column] = [(int(epoch) + 1, mean, spread) for epoch, mean, spread in band.itertuples(name=None)]
        if curves:
            from cellseg.run.tensorboard import write_bands  # imports torch and TensorBoard

            write_bands(study.folder / BANDS / re.sub(r"[^\w.,+-]+", "-", configuration), curves)


def assemble(study: Study, progress: Progress | None = None) -> Report:
    """Compute the content of a report."""
    progress = progress or find_progress(study)
    verdicts = judge(study, progress)
    rows = [comparison_row(study, verdict) for verdict in verdicts]
    configurations = configuration_rows(study, {name: dice_interval(study, name) for name in study.configurations})
    differences, images, points = difference_rows(study), image_rows(study), in_points(study)
    return Report(
        study=study,
        verdicts=verdicts,
        caveats=caveats(study, progress),
        configurations=Table(configuration_columns(study), [*configurations, *baseline_rows(study)], points),
        costs=Table(COST_COLUMNS, configurations),
        comparisons=Table(comparison_columns(study), rows, points),
        evidence=Table(EVIDENCE_COLUMNS, [row for row in rows if row.get("chance_better") is not None]),
        objects=Table(object_columns(study), configurations, points),
        object_differences=Table(object_comparison_columns(study), rows, points),
        trouble=Table(TROUBLE_COLUMNS, trouble_rows(find_trouble(study))),
        original=Table(ORIGINAL_COLUMNS, original_rows(study, configurations), points),
        differences=Table({"key": "key"} | {name: name for name in study.differences}, differences),
        runs=Table(run_columns(study), run_rows(study), points),
        images=images,
        figures=draw_figures(study, verdicts),
        gallery=make_gallery(study, images),
        provenance=_provenance(study),
        methods=describe_methods(study, progress),
    )


def page(report: Report, template: str) -> str:
    """Fill a page template with the report."""
    return write_page(f"study/{template}", report=report, averages=averages(report.study), about_original=ORIGINAL)


def _provenance(study: Study) -> dict[str, str]:
    """Return the data, software and hardware of the runs; for each name, all values."""
    runs = study.trained

    def values(column: str) -> str:
        return ", ".join(sorted(set(runs[column])))

    seeds = ", ".join(map(str, sorted(set(study.trained["seed"]))))
    folds = sorted(set(runs["fold"]) - {HOLDOUT})
    split = ", ".join(f"{key} {' or '.join(found)}" for key, found in study.split.items())
    tested = f"; tested on fold {', '.join(folds)}" if folds else ""
    made = {
        "runs": f"{count(len(runs), 'run')} of {count(len(study.differences), 'configuration')}, seeds {seeds}",
        "weights scored": values("scored_weights"),
        "margin": f"{100 * study.margin:g} points ({study.margin:g} of Dice)",
        "split": split + tested,
        "data": ", ".join(study.origin["data"]),
        "data fingerprint": study.data_fingerprint,
        "commit": values("commit") + (" (+: with uncommitted changes)" if "+" in values("commit") else ""),
        "device": values("device"),
        "precision": values("precision"),
    }
    for part in ("objects", "not judged"):
        if runs[part].notna().any():
            made[part] = "; ".join(sorted(set(runs[part].dropna())))
    return made | {name: ", ".join(found) for name, found in study.origin.items() if name not in made}
