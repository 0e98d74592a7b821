"""The ``cellseg`` command: check data, train, compare runs, predict."""

import io
import os
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from typer.core import TyperGroup

from cellseg.data.synthetic import SmearStyle
from cellseg.run.home import wait_briefly
from cellseg.run.signals import Interrupted, StopRequest
from cellseg.storage.errors import InputError, count

if TYPE_CHECKING:
    from cellseg.use.trained import Trained

STYLE = SmearStyle()
SIZES = (32, 20_000)  # least and most pixels a side of a drawn smear


class _PlainErrors(TyperGroup):
    """Print errors in the input without a traceback, and exit with code 1."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            with StopRequest():
                return super().invoke(ctx)
        except Interrupted as interruption:
            _complain(str(interruption))
            raise typer.Exit(interruption.exit_code) from interruption
        except InputError as error:
            _complain(str(error))
            raise typer.Exit(1) from error
        except (typer.Exit, typer.Abort):  # both are RuntimeErrors
            raise
        except typer.BadParameter as error:
            _explain(error)
            raise
        except BrokenPipeError:  # as in cellseg ... | head; typer ends quietly
            raise
        except OSError as error:
            place = error.filename2 or error.filename or "a file"  # filename2 is the target of a rename
            _complain(f"{place}: {error.strerror or error}; fix this and run the same command again")
            raise typer.Exit(1) from error
        except (MemoryError, RuntimeError) as error:
            from cellseg.run.hardware import out_of_memory  # imports torch

            if not out_of_memory(error):
                raise
            _complain(
                "memory ran out; use smaller images, fewer images at once, or a run with a smaller data.image_size"
            )
            raise typer.Exit(1) from error


def _explain(error: typer.BadParameter) -> None:
    """Add to an error in the words of a command what was probably meant."""
    if re.search(r"valid (float|number)", error.message):
        error.message = f"{error.message.rstrip('.')}; numbers have a decimal point, as in 0.5."
    params = error.ctx.command.params if error.ctx else []
    order = [param.metavar or str(param.name).upper() for param in params if param.param_type_name == "argument"]
    if not error.message and len(order) > 1:  # an argument is missing, perhaps not the last
        error.message = f"The command takes, in this order: {' '.join(order)}."


def _complain(text: str) -> None:
    Console(stderr=True).print(f"error: {text}", style="red", markup=False, highlight=False, soft_wrap=True)


app = typer.Typer(
    cls=_PlainErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Check data, train networks that segment cells, compare runs, and predict new images.",
)

Data = Annotated[Path, typer.Argument(help="Folder of images and masks in a known layout, or a pairs.csv file.")]
Groups = Annotated[
    Path | None,
    typer.Option(help="CSV file with the group of each pair (columns pair, group).", show_default="groups.csv in DATA"),
]
RunFolder = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="Run folder; or a folder of runs (its best configuration is used)."),
]
Weights = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="Run folder; or a folder of runs (its best configuration is used); or a file of weights.",
    ),
]
Ensemble = Annotated[
    bool,
    typer.Option(
        "--ensemble", help="For a folder of runs: average the probabilities of all runs of the best configuration."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(help="For a file of weights: its network (unet, potinet, xopinet, or a configuration file)."),
]
NoSplit = Annotated[
    bool, typer.Option("--no-split", help="Count touching cells as one object instead of separating them.")
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run code of another package that the configuration names; only for runs that you trust."
    ),
]
Threshold = Annotated[int, typer.Option(min=0, max=254, help="In a grey mask, pixels above this value are cell.")]
Channels = Annotated[
    str | None, typer.Option(help="Image channels to use, for example 0,1.", show_default="RGB; grey becomes RGB")
]


IgnoreValue = Annotated[
    str | None,
    typer.Option(help="Value of mask pixels that nobody judged, for example 255, or red, green and blue: 255,0,0."),
]


def _ignore_value(typed: str | None) -> int | tuple[int, int, int] | None:
    from cellseg.data.facts import checked_ignore_value

    if typed is None:
        return None
    typed = re.sub(r"[\[\] ]", "", typed)  # a colour may be typed as for data.ignore_value
    if not re.fullmatch(r"\d{1,5}(,\d{1,5})*", typed):
        raise InputError(f"--ignore-value is {typed}, but must be a value such as 255, or a colour such as 255,0,0")
    parts = [int(part) for part in typed.split(",")]
    return checked_ignore_value(parts[0] if len(parts) == 1 else parts, "--ignore-value")


def _channels(typed: str | None) -> tuple[int, ...] | None:
    if typed is None:
        return None
    if not re.fullmatch(r"\d{1,3}(,\d{1,3})*", typed):
        raise InputError(f"--channels is {typed}, but must be channel numbers from 0; for example --channels 0,1")
    return tuple(map(int, typed.split(",")))


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"cellseg {version('cellseg')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # escape characters that the terminal cannot show
    warnings.filterwarnings("ignore", module="PIL")  # findings report the problems that matter


def main() -> None:
    """Run the typed command; Hydra reads the arguments of ``train``."""
    wait_briefly()
    if sys.argv[1:2] == ["train"]:
        _train(sys.argv[2:])
    app()


def _train(words: Sequence[str]) -> None:
    from cellseg.run.home import INSTALLED
    from cellseg.train import start

    os.environ[INSTALLED] = "1"
    sys.argv[1:] = words
    start()


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    epilog="Example: cellseg train model=xopinet seed=0",
)
def train(ctx: typer.Context) -> None:
    """Train and test one run, or with -m a sweep of runs; cellseg train --help lists the keys."""
    _train(ctx.args)


@app.command(epilog="Example: cellseg check data/mine --montage mine.png")
def check(
    data: Data,
    groups: Groups = None,
    mask_threshold: Threshold = 20,
    channels: Channels = None,
    ignore_value: IgnoreValue = None,
    image_size: Annotated[
        int, typer.Option(min=1, max=2**16, help="Side in pixels to which training resizes images.")
    ] = 224,
    write_groups: Annotated[
        Path | None, typer.Option(help="Write known and detected groups to this new CSV file, and check with them.")
    ] = None,
    montage: Annotated[
        Path | None, typer.Option(help="Draw all images with outlined masks into this new PNG file.")
    ] = None,
) -> None:
    """Check a data set for problems. The exit code is 1 if training would stop."""
    from cellseg.data.check import check_data, next_command, print_check
    from cellseg.data.facts import Reading
    from cellseg.data.groups import write_groups as write
    from cellseg.data.montage import save_montage
    from cellseg.storage.files import require_new

    for file in filter(None, (write_groups, montage)):
        require_new(file)
    how = Reading(mask_threshold, _channels(channels), image_size, _ignore_value(ignore_value))
    report = check_data(data, groups, how, regroup=write_groups is not None, tiles=montage is not None)
    print_check(report, next_command(report, data, write_groups or groups, how))
    if write_groups and report.groups:
        write(write_groups, report.groups)
        groups_found, images = len(set(report.groups.values())), len(report.groups)
        typer.echo(f"wrote {write_groups}: {count(groups_found, 'group')} of {count(images, 'image')}")
    if montage and report.tiles:
        save_montage(montage, report.tiles)
        typer.echo(f"drew {montage}")
    if report.failed:
        raise typer.Exit(1)


@app.command(epilog="Example: cellseg clean data/mine data/cleaned")
def clean(
    data: Data,
    out: Annotated[Path, typer.Argument(help="New folder, outside of DATA.")],
    groups: Groups = None,
    mask_threshold: Threshold = 20,
    channels: Channels = None,
    ignore_value: IgnoreValue = None,
) -> None:
    """Write a cleaned copy of a data set: PNG files, masks of 0 and 255 or of numbered cells, and changes.csv."""
    from cellseg.data.clean import write_cleaned
    from cellseg.data.facts import Reading

    how = Reading(mask_threshold, _channels(channels), ignore_value=_ignore_value(ignore_value))
    pairs, meaning, warnings = write_cleaned(data, out, groups, how)
    typer.echo(meaning)
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"wrote {count(pairs, 'cleaned pair')} and changes.csv to {out}")
    if ignore_value is not None:
        typer.echo("not-judged pixels are marked in files there, so leave out data.ignore_value")


@app.command(epilog="Example: cellseg correct data/mine data/corrected --decisions anna.csv ben.csv")
def correct(
    data: Data,
    out: Annotated[Path, typer.Argument(help="New folder, outside of DATA.")],
    more: Annotated[list[Path] | None, typer.Argument(help="Further files of decisions.", show_default=False)] = None,
    *,
    decisions: Annotated[
        list[Path],
        typer.Option(help="Table of decisions (image,id,decision,person,outline), such as review.html saves."),
    ],
    groups: Groups = None,
    mask_threshold: Threshold = 20,
    channels: Channels = None,
    ignore_value: IgnoreValue = None,
) -> None:
    """Write a new data set with labels corrected by decisions: cells added, removed, or marked as not judged."""
    from cellseg.data.correct import write_corrected
    from cellseg.data.facts import Reading

    how = Reading(mask_threshold, _channels(channels), ignore_value=_ignore_value(ignore_value))
    done = write_corrected(data, out, [*decisions, *(more or [])], how, groups)
    for warning in done.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for change, number in sorted(done.counts.items()):
        typer.echo(f"{change}: {count(number, 'place')}")
    if done.shared:
        typer.echo(
            f"several people decided about {count(done.shared, 'place')} and agreed about {done.agreed} "
            f"({done.agreed / done.shared:.0%}); the others are not judged"
        )
    typer.echo(f"wrote {out} and {out / 'changes.csv'}; {data} is unchanged")
    if ignore_value is not None:
        typer.echo("not-judged pixels are marked in files there, so leave out data.ignore_value")


@app.command(epilog="Example: cellseg synthesize data/synthetic --pairs 50")
def synthesize(
    out: Annotated[Path, typer.Argument(help="New folder.")],
    pairs: Annotated[int, typer.Option(min=1, help="Number of blood smears to draw.")] = 50,
    size: Annotated[
        str, typer.Option(help="Size in pixels: one number for squares, or WIDTHxHEIGHT.")
    ] = f"{STYLE.width}x{STYLE.height}",
    seed: Annotated[int, typer.Option(min=0, help="Random seed; another seed draws other smears.")] = 0,
    sickled: Annotated[float, typer.Option(min=0, max=1, help="Share of cells that are sickled.")] = STYLE.sickled,
    overlapping: Annotated[
        float, typer.Option(min=0, max=1, help="Share of cells that touch or overlap another cell.")
    ] = STYLE.overlapping,
    unlabelled: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of sickled cells missing in the mask; for other cells a sixth of it."),
    ] = STYLE.unlabelled,
    unlabelled_border: Annotated[
        float, typer.Option(min=0, max=1, help="Share of cells cut by the image border that are missing in the mask.")
    ] = STYLE.unlabelled_border,
) -> None:
    """Draw synthetic blood smears with imperfect masks, and exact masks and numbers of cells for comparison."""
    from cellseg.data.synthetic import write_synthetic

    style = SmearStyle.sized(
        *_size(size),
        sickled=sickled,
        overlapping=overlapping,
        unlabelled=unlabelled,
        unlabelled_border=unlabelled_border,
    )
    write_synthetic(out, pairs, seed, style, exact=True)
    typer.echo(f"drew {pairs} smears into {out}: source.jpg, mask.jpg (imperfect), exact.png and ids.png (exact)")


@app.command(epilog="Example: cellseg report logs/first")
def report(
    study: Annotated[Path, typer.Argument(help="Folder of runs, for example logs/first.")],
    truth: Annotated[
        Path | None,
        typer.Option(help="Score the stored masks on the labels of this data set, in a new folder STUDY-on-TRUTH."),
    ] = None,
    ignore_value: IgnoreValue = None,
) -> None:
    """Compare the configurations of a study. Write report.html, report.md, CSV tables and PNG figures."""
    from cellseg.study.collect import read_study
    from cellseg.study.report import print_verdicts, write_report

    if truth is not None:
        from cellseg.use.truth import score_on

        scored = score_on(study, truth, _ignore_value(ignore_value))
        study = scored.study
        for line in scored.said:
            typer.echo(line, err=line.startswith("warning"))
    elif ignore_value is not None:
        raise InputError("--ignore-value is about the labels of --truth; add --truth DATA, or leave it out")
    print_verdicts(write_report(read_study(study)))
    typer.echo(f"wrote {study / 'report.html'}")


@app.command(epilog="Example: cellseg diff logs/monday/unet_seed-0 logs/tuesday/unet_seed-0")
def diff(
    first: Annotated[Path, typer.Argument(help="Run folder.")],
    second: Annotated[Path, typer.Argument(help="Run folder to compare it with.")],
) -> None:
    """Say in what two runs differ: configuration, images, labels, split, code, versions, machine, scores."""
    from rich.table import Table
    from rich.text import Text

    from cellseg.run.folder import RunFolder as Folder
    from cellseg.study.diff import compare_runs

    for folder in (first, second):
        if not (folder / "summary.json").exists():
            raise InputError(f"{folder} is not a finished run; name the folder of one run, which has a summary.json")
    found = compare_runs(Folder(first), Folder(second))
    console = Console()
    causes = Table("differs in", "", "first", "second")
    for cause in found.causes:
        causes.add_row(*(Text(cell, overflow="fold") for cell in (cause.part, cause.what, cause.first, cause.second)))
    scores = Table("score", "first", "second", "second - first")
    for row in found.scores:
        values = ["no value" if value is None else f"{value:.4f}" for value in (row.first, row.second)]
        digits = 2 if row.unit else 4  # an added score has no unit
        change = "" if row.difference is None else f"{row.difference:+.{digits}f} {row.unit}".strip()
        scores.add_row(row.label, *values, change)
    for table in (causes, scores) if found.causes else (scores,):
        console.print(table)
    console.print(found.conclusion, markup=False, highlight=False, soft_wrap=True)


@app.command(epilog="Example: cellseg prune logs/first")
def prune(
    folder: Annotated[Path, typer.Argument(metavar="STUDY", help="Folder of runs, one run, or all of logs.")],
) -> None:
    """Delete the checkpoints of finished runs; their weights and results stay. Unfinished runs keep theirs."""
    from cellseg.run.checkpoints import prune as free

    done = free(folder)
    typer.echo(f"freed {done.freed / 1e9:.2f} GB: the checkpoints of {count(done.runs, 'finished run')}")
    if done.unfinished:
        typer.echo(f"{count(done.unfinished, 'unfinished run')}: checkpoints kept, to continue from")
    for reason in done.kept:
        typer.echo(f"checkpoints kept, because {reason}")


def _scale_of(text: str | None, trained: "Trained", files: Sequence[Path], *, tiles: bool) -> float | None:
    """Return the factor that ``--scale`` names or finds; None without it."""
    from cellseg.use.scale import find_scale

    if text is None:
        return None
    if tiles:
        raise InputError("--scale and --tiles exclude each other: --scale also sees tiles; leave out one of them")
    if text.lower() == "auto":
        scale = find_scale(trained, files, trained.reading)
        typer.echo(scale.said)
        if scale.warning:
            typer.echo(f"warning: {scale.warning}", err=True)
        return scale.factor
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0.01 <= factor <= 100:
        raise InputError(f"--scale is {text}, but must be auto or a factor from 0.01 to 100, such as 0.5")
    return factor


@app.command(epilog="Example: cellseg predict logs/first images/ --output found")
def predict(
    run: Weights,
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of images; any image size.")],
    output: Annotated[Path, typer.Option(help="New folder for the results.")],
    tiles: Annotated[
        bool, typer.Option(help="Predict overlapping tiles at native scale instead of the whole resized image.")
    ] = False,
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="FACTOR|auto",
            help="Show cells as large as in training: 1 if a pixel shows as much as in the training images, 2 if cells "
            "are half as large in pixels; auto finds the factor from the sizes of cells.",
        ),
    ] = None,
    tta: Annotated[
        bool, typer.Option("--tta", help="Average over 8 flips and rotations of each image; takes 8 times as long.")
    ] = False,
    no_split: NoSplit = False,
    border: Annotated[
        bool,
        typer.Option("--border", help="Continue each image by its mirror image, to find cells that its border cuts."),
    ] = False,
    pixel_size: Annotated[
        float | None, typer.Option(help="Side of a pixel in micrometres, for measurements in micrometres too.")
    ] = None,
    outlines: Annotated[
        str,
        typer.Option(
            metavar="FORMATS", help="Also write outlines: geojson (QuPath), imagej (ROI sets), coco; comma-separated."
        ),
    ] = "",
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write the probability of cell as 16-bit PNG.")
    ] = False,
    ensemble: Ensemble = False,
    model: Model = None,
    trust: Trust = False,
) -> None:
    """Segment cells in images. Write masks, overlays and a table of objects.

    Unreadable files are listed at the end, and the exit code is 1.
    """
    from cellseg.storage.files import require_empty
    from cellseg.use.outlines import require_formats

    if pixel_size is not None and not 0 < pixel_size < float("inf"):
        raise InputError(f"--pixel-size is {pixel_size:g}, but must be above 0 micrometres, such as 0.5")
    formats = [name.strip() for name in outlines.split(",") if name.strip()]
    require_formats(formats)
    require_empty(output)  # before torch is imported, which takes seconds
    from cellseg.use.predict import Wanted, find_sources, predict_files
    from cellseg.use.scale import size_warning
    from cellseg.use.trained import find_trained

    trained = find_trained(run, model=model, ensemble=ensemble, trust=trust)
    sources, notes = find_sources(images)
    for line in notes:
        typer.echo(f"note: {line}", err=True)
    factor = _scale_of(scale, trained, [source.path for source in sources], tiles=tiles)
    predictor = trained.predictor(tiles=tiles, turned=tta, border=border, scale=factor)
    typer.echo(trained.in_words(predictor))
    with StopRequest("stopping; finished predictions are kept") as stop:
        stop.patient = True
        done = predict_files(
            predictor,
            sources,
            output,
            how=trained.reading,
            wanted=Wanted(not no_split, pixel_size, probabilities, formats),
            obey=stop.obey,
        )
    rows = done.rows
    for line in done.warnings:
        typer.echo(f"warning: {line}", err=True)
    if warning := trained.kind_warning(done.facts):
        typer.echo(f"warning: {warning}", err=True)
    sizes = [(int(row["width"]), int(row["height"])) for row in rows]
    warning = size_warning(trained, predictor, rows)
    if warning == "" and factor is None:  # too few cells were found to compare them with those of training
        warning = trained.scale_warning(sizes, tiles=tiles)
    if warning:
        typer.echo(f"warning: {warning}", err=True)
    objects = sum(int(row["objects"]) for row in rows)
    if rows:
        typer.echo(f"wrote {count(len(rows), 'mask')} with {count(objects, 'object')} to {output}")
        if not border:
            cut = sum(int(row["cut_by_border"]) for row in rows)
            typer.echo(
                f"the image border cuts {count(cut, 'object')}; some cells there are missed, because masks often leave "
                "them out; --border finds them"
            )
    for failure in done.failures:
        typer.echo(f"error: {failure}", err=True)
    if done.failures or not rows:
        raise typer.Exit(1)


@app.command(epilog="Example: cellseg evaluate logs/first data/labelled")
def evaluate(
    run: RunFolder,
    data: Data,
    groups: Groups = None,
    native: Annotated[
        bool, typer.Option("--native", help="Also score at the images' own size, not only at data.image_size.")
    ] = False,
    ensemble: Ensemble = False,
    trust: Trust = False,
    output: Annotated[Path | None, typer.Option(help="New folder for per_image.csv and evaluation.json.")] = None,
) -> None:
    """Score a trained network on new images with masks.

    Images used in training or to choose the weights, and images related to them, are listed and left out.
    The exit code is 1 if no image is left.
    """
    from cellseg.use.evaluate import estimate_scores, print_evaluation, write_evaluation
    from cellseg.use.evaluate import evaluate as score
    from cellseg.use.trained import find_runs

    if output and output.exists():
        raise InputError(f"{output} already exists and is not overwritten; name a new folder")
    trained = find_runs(run, ensemble=ensemble, trust=trust)
    result = score(trained, data, groups, native=native, trust=trust)
    scores = estimate_scores(result.unseen, result.scores) if len(result.unseen) else {}
    print_evaluation(trained.name, scores, result)
    for line in result.warnings:
        typer.echo(f"warning: {line}", err=True)
    if output:
        write_evaluation(output, trained, data, result, scores)
        typer.echo(f"wrote per_image.csv and evaluation.json to {output}")
    if not scores:
        raise InputError(
            f"the weights have seen every image of {data}, so a score would be too high; name a folder of new images"
        )


@app.command(epilog="Example: cellseg score cellpose_masks/ data/cells --name Cellpose --study logs/first")
def score(
    masks: Annotated[Path, typer.Argument(help="Folder of masks, each named like its image.")],
    data: Data,
    name: Annotated[str, typer.Option(help="Name of the masks in the report, such as Cellpose.")],
    study: Annotated[Path, typer.Option(help="Folder of the study, such as logs/first.")],
) -> None:
    """Score masks of another tool or person on the test images of a study, to compare them in its report."""
    from cellseg.use.score import score_masks

    folders, about = score_masks(masks, data, name, study, shlex.join(["cellseg", *sys.argv[1:]]))
    typer.echo(f"scored {name} in {count(len(folders), 'fold')}: {', '.join(str(folder) for folder in folders)}")
    for line in about:
        typer.echo(line, err=line.startswith("warning"))
    typer.echo("note: what made these masks may have seen the test images before; nothing here can tell")
    typer.echo(f"compare: cellseg report {shlex.quote(str(study))}")


@app.command(epilog="Example: cellseg review logs/first --output review")
def review(
    run: RunFolder,
    output: Annotated[
        Path | None, typer.Option(help="New folder for the results.", show_default="review/ in RUN")
    ] = None,
    no_split: NoSplit = False,
    trust: Trust = False,
) -> None:
    """Show cells on which predictions and masks of the test images differ, and take your decisions about them."""
    from cellseg.use.review import KINDS
    from cellseg.use.review import review as look
    from cellseg.use.trained import find_runs, is_study

    trained = find_runs(run, ensemble=is_study(run), trust=trust)
    found = look(trained, output, split=not no_split)
    typer.echo(found.name)
    for kind, title in KINDS.items():
        typer.echo(f"{title}: {sum(place.row['kind'] == kind for place in found.places)}")
    typer.echo(f"wrote {found.folder / 'review.html'}, decisions.csv, objects.csv and images.csv")
    typer.echo("next: open review.html in a browser and decide; then cellseg correct DATA OUT --decisions FILE")


@app.command(epilog="Example: cellseg export logs/first network.onnx")
def export(
    run: RunFolder,
    file: Annotated[Path, typer.Argument(help="New file: .onnx, or .pt2 for an exported torch program.")],
    ensemble: Ensemble = False,
    model: Model = None,
    trust: Trust = False,
) -> None:
    """Export a network for programs without cellseg, and compare its output with the original."""
    from cellseg.use.export import export as write
    from cellseg.use.trained import find_trained

    trained = find_trained(run, model=model, ensemble=ensemble, trust=trust)
    worst, images = write(trained, file)
    typer.echo(
        f"wrote {trained.name} to {file}; max |difference| {worst:.1g} in {count(images, 'image')}, some of noise"
    )


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    numbers = [int(part) if part.isdecimal() else 0 for part in (width, height if cross else width)]
    if not all(SIZES[0] <= number <= SIZES[1] for number in numbers):
        raise InputError(
            f"--size is {text}, but must be a number of pixels or WIDTHxHEIGHT, from {SIZES[0]} to {SIZES[1]}"
        )
    return numbers[0], numbers[1]
