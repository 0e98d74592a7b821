"""Draw the figures of a report, as PNG for slides and as SVG in the colours of the page."""

import io
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cellseg.study.collect import Study
from cellseg.study.verdict import DIFFERENT, EQUIVALENT, Verdict

logging.getLogger("fontTools").setLevel(logging.WARNING)  # it reports each table of a font that a PDF leaves out

NARROWEST = 1.0  # smallest width of an axis, in points; a narrower axis shows rounding as a difference
INK = "#010203"  # colour of lines and text only; on a page it becomes the text colour
GREY = "#808080"  # visible on white and on black
COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#d55e00",
    "#56b4e9",
    "#f0e442",
)  # Okabe and Ito: colour-blind safe
MARKERS = "osD^vP*X<>"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # keep text as text
    "pdf.fonttype": 42,  # the same; journals refuse outlines of characters
    "svg.hashsalt": "cellseg",  # identical files for the same study
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "text.parse_math": False,  # a name may contain dollar signs
}
MOST_PAIRS = 12
NARROW, WIDE = 4.6, 9.2  # inches: two on a line of the page, or one
LONG = 70  # characters of a name beside a wide figure
PLAIN: dict[str, dict[str, Any]] = {  # without dates, so that files of the same study are identical
    "png": {},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@dataclass(frozen=True)
class Picture:
    """A figure of the report.

    Attributes:
        name: Name of its files.
        title: Title on the page.
        caption: How to read the figure, and how its numbers were averaged.
        svg: SVG for the page.
        files: By ending: PNG and PDF on a white background, SVG without background.
        wide: Whether it fills the page.
    """

    name: str
    title: str
    caption: str
    svg: str
    files: Mapping[str, bytes]
    wide: bool


def draw_figures(study: Study, verdicts: Sequence[Verdict]) -> dict[str, list[Picture]]:
    """Return the figures of a study for each section of the report."""
    with mpl.rc_context(STYLE):
        figures: dict[str, list[Picture]] = {"differences": [], "configurations": [], "curves": [], "images": []}
        if any(verdict.dice for verdict in verdicts):
            figures["differences"] = [_differences(study, verdicts)]
        figures["configurations"] = [_runs(study)]
        figures["curves"] = [
            curve
            for column, label in (
                ("train/loss", "training loss"),
                ("val/loss", "validation loss"),
                ("val/dice", "validation Dice"),
            )
            if (curve := _curve(study, column, label))
        ]
        pairs = [verdict for verdict in verdicts if verdict.dice][:MOST_PAIRS]
        figures["images"] = [_paired(study, verdict, index) for index, verdict in enumerate(pairs, start=1)]
    return figures


def write_pictures(folder: Path, pictures: Sequence[Picture]) -> None:
    """Write each figure as PNG, SVG and PDF."""
    folder.mkdir(exist_ok=True)
    for picture in pictures:
        for ending, content in picture.files.items():
            (folder / f"{picture.name}.{ending}").write_bytes(content)


def _differences(study: Study, verdicts: Sequence[Verdict]) -> Picture:
    known = [verdict for verdict in verdicts if verdict.dice]
    figure, axes = _canvas(WIDE, 1.3 + 0.45 * len(known))
    points = 100 * study.margin
    axes.axvspan(-points, points, color=GREY, alpha=0.2, linewidth=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    for row, verdict in enumerate(known):
        assert verdict.dice is not None
        colour = {DIFFERENT: COLOURS[4], EQUIVALENT: COLOURS[2]}.get(verdict.kind, GREY)
        if verdict.dice.low is not None and verdict.dice.high is not None:
            axes.plot([100 * verdict.dice.low, 100 * verdict.dice.high], [row, row], color=colour, linewidth=2.5)
        axes.plot(100 * verdict.dice.difference, row, "o", color=colour, markersize=7)
    axes.set_yticks(range(len(known)), [_minus(verdict.a, verdict.b) for verdict in known])
    axes.set_ylim(len(known) - 0.5, -0.5)
    axes.set_xlabel("difference in Dice (points)")
    axes.grid(visible=False, axis="y")
    return _picture(
        figure,
        "differences",
        "Differences between configurations",
        "Mean difference in Dice over images with its interval, for all comparisons together. Orange: better or worse; "
        "green: equivalent; grey: no "
        f"difference shown, or no verdict. The band is the margin: differences below {points:g} points are equivalent.",
    )


def _runs(study: Study) -> Picture:
    figure, axes = _canvas(WIDE, 1.2 + 0.5 * len(study.configurations))
    folds = sorted(study.runs["fold"].unique())
    for row, configuration in enumerate(study.configurations):
        runs = study.runs[study.runs["configuration"] == configuration]
        for fold, marker in zip(folds, cycle(MARKERS), strict=False):
            scores = 100 * runs.loc[runs["fold"] == fold, "dice"]
            place = row + 0.5 * ((folds.index(fold) + 0.5) / len(folds) - 0.5)
            axes.plot(
                scores,
                np.full(len(scores), place),
                marker,
                color=COLOURS[row % len(COLOURS)],
                alpha=0.7,
                markersize=5,
            )
        mean = 100 * study.averaged(configuration, ["dice"])["dice"].mean()  # as in the table
        axes.plot([mean, mean], [row - 0.35, row + 0.35], color=INK, linewidth=1.5)
    axes.set_yticks(range(len(study.configurations)), [_short(name, LONG) for name in study.configurations])
    axes.set_ylim(len(study.configurations) - 0.5, -0.5)
    low, high = axes.get_xlim()
    if high - low < NARROWEST:
        axes.set_xlim((low + high - NARROWEST) / 2, (low + high + NARROWEST) / 2)
    axes.set_xlabel("Dice on test images (points)")
    axes.grid(visible=False, axis="y")
    if len(folds) > 1:
        for fold, marker in zip(folds, cycle(MARKERS), strict=False):
            axes.plot([], [], marker, color=GREY, label=f"fold {fold}")
        axes.legend(ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8, handletextpad=0.1)
    return _picture(
        figure,
        "runs",
        "All runs",
        "Each mark is the mean Dice of one run; each shape is a fold; the line is the mean over test images.",
    )


def _curve(study: Study, column: str, label: str) -> Picture | None:
    if column not in study.curves or study.curves[column].isna().all():
        return None
    figure, axes = _canvas()
    scale = 100 if column == "val/dice" else 1  # in points
    for colour, configuration in zip(cycle(COLOURS), study.configurations, strict=False):
        band = over_seeds(study, configuration, column) * scale
        epochs, mean, spread = band.index.to_numpy() + 1, band["mean"], band["spread"].to_numpy()
        axes.plot(epochs, mean, color=colour, linewidth=1.8, label=_short(configuration, 30))
        if not np.isnan(spread).all():
            axes.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label if scale == 1 else f"{label} (points)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)
    return _picture(
        figure,
        column.replace("/", "_"),
        label[0].upper() + label[1:],
        "Mean over runs; the band is ± one standard deviation over seeds."
        + (f" {_watched(study)}" if column.startswith("val/") else ""),
    )


def _watched(study: Study) -> str:
    """Say on which images the curves of validation were computed."""
    apart = study.trained["validation_images"] > 0
    if apart.all():
        return "Computed on the validation part, not on test images."
    of = "some runs" if apart.any() else "all runs"
    return f"Computed on the test images in {of}, which have no validation part; these curves chose nothing there."


def over_seeds(study: Study, configuration: str, column: str) -> pd.DataFrame:
    """Return for each epoch the mean of a curve over runs, and the standard deviation over seeds; NaN for one seed."""
    rows = study.curves[study.curves["configuration"] == configuration].dropna(subset=[column])
    by_fold = rows.groupby(["epoch", "fold"])[column]
    spread = np.sqrt(by_fold.var(ddof=1).groupby("epoch").mean())
    return pd.DataFrame({"mean": by_fold.mean().groupby("epoch").mean(), "spread": spread})


def _paired(study: Study, verdict: Verdict, index: int) -> Picture:
    a, b = _paired_scores(study.images, verdict.a, verdict.b)
    figure, axes = _canvas(width=4.2, height=4.2)
    low, high = 100 * min(a.min(), b.min()), 100 * max(a.max(), b.max())
    room = max(0.05 * (high - low), 0.2)
    axes.plot([low - room, high + room], [low - room, high + room], color=INK, linewidth=0.8)
    wins, ties = (a > b).to_numpy(), int((a == b).sum())
    for better, colour in ((wins, COLOURS[0]), (~wins, COLOURS[1])):
        axes.plot(100 * b[better], 100 * a[better], "o", color=colour, alpha=0.7, markersize=5)
    axes.set(xlim=(low - room, high + room), ylim=(low - room, high + room), aspect="equal")
    axes.set_xlabel(_short(f"Dice of {verdict.b} (points)", 45))
    axes.set_ylabel(_short(f"Dice of {verdict.a} (points)", 45))
    return _picture(
        figure,
        f"paired_{index}",
        f"{verdict.a} against {verdict.b}",
        f"Each dot is a test image (mean over common seeds). Above the line {verdict.a} has the higher Dice: "
        f"{wins.sum()} of {len(a)} images" + (f"; equal on {ties}." if ties else "."),
    )


def _paired_scores(images: pd.DataFrame, a: str, b: str) -> tuple["pd.Series[float]", "pd.Series[float]"]:
    wide = images[images["configuration"].isin([a, b])].pivot_table(
        index=["fold", "image", "seed"], columns="configuration", values="dice"
    )
    means = wide.dropna().groupby(["fold", "image"]).mean().groupby("image").mean()
    return means[a], means[b]


def _canvas(width: float = NARROW, height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _picture(figure: Figure, name: str, title: str, caption: str) -> Picture:
    figure.draw_without_rendering()  # arranges it, once for all files
    figure.set(layout_engine="none", dpi=200, facecolor="white")
    png, pdf = _saved(figure, FigureCanvasAgg, "png"), _saved(figure, FigureCanvasPdf, "pdf")
    figure.set_facecolor("none")
    for axes in figure.axes:
        axes.set_facecolor("none")
    text = _saved(figure, FigureCanvasSVG, "svg").decode()
    files = {"png": png, "pdf": pdf, "svg": text.encode()}
    svg = text[text.index("<svg") :].replace(INK, "currentColor")
    # several figures share a page, and an id must be unique
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
    return Picture(name, title, caption, svg, files, wide=figure.get_figwidth() > NARROW)


def _saved(figure: Figure, canvas: type[FigureCanvasBase], kind: str) -> bytes:
    """Return the file of a figure; ``savefig`` would draw the figure twice for it."""
    file = io.BytesIO()
    getattr(canvas(figure), f"print_{kind}")(file, metadata=PLAIN[kind])
    return file.getvalue()


def _minus(a: str, b: str) -> str:
    """Label the difference of two configurations, in two lines if one were too long."""
    whole = f"{a} minus {b}"
    return whole if len(whole) <= LONG // 2 else f"{_short(a, LONG)}\nminus {_short(b, LONG)}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}"
