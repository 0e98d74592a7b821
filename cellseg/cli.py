"""The ``cellseg`` command: what is done around training."""

import io
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from typer.core import TyperGroup

from cellseg.data.synthetic import SmearStyle
from cellseg.run.signals import Interrupted, StopRequest
from cellseg.storage.errors import InputError

STYLE = SmearStyle()
SIZES = (32, 20_000)  # least and most pixels a side of a drawn smear


class _PlainErrors(TyperGroup):
    """Says what is wrong with the input without a traceback, and exits with 1."""

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
        except (typer.Exit, typer.Abort):  # RuntimeErrors both
            raise
        except OSError as error:
            place = error.filename2 or error.filename or "a file"  # the second is what the first was to become
            _complain(f"{place}: {error.strerror or error}; mend that, and give the command again")
            raise typer.Exit(1) from error
        except (MemoryError, RuntimeError) as error:
            from cellseg.run.hardware import out_of_memory  # imports torch

            if not out_of_memory(error):
                raise
            _complain("memory ran out; take smaller pictures, fewer at once, or a run with a smaller data.image_size")
            raise typer.Exit(1) from error


def _complain(text: str) -> None:
    Console(stderr=True).print(f"error: {text}", style="red", markup=False, highlight=False, soft_wrap=True)


app = typer.Typer(
    cls=_PlainErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Data before training, training (cellseg train --help lists its keys), and runs after it.",
)

Data = Annotated[Path, typer.Argument(help="Folder of images and masks, in any of the known layouts, or a pairs.csv.")]
Groups = Annotated[
    Path | None,
    typer.Option(help="CSV of which pairs are siblings (columns pair, group).", show_default="groups.csv in DATA"),
]
RunFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="Run folder; or a folder of runs, to take the best configuration of; or a file of weights.",
    ),
]
Ensemble = Annotated[
    bool, typer.Option("--ensemble", help="Of a folder of runs, average over all runs of its best configuration.")
]
Model = Annotated[
    str | None,
    typer.Option(help="For a bare file of weights, its network: unet, potinet, xopinet, or a configuration file."),
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Import and build the network of another package that the configuration names."),
]
Threshold = Annotated[int, typer.Option(min=0, max=254, help="Pixels of a grey mask above it are cell.")]
Channels = Annotated[
    str | None, typer.Option(help="Channels of the images to use, as 0,1.", show_default="RGB, grey as RGB")
]


def _channels(typed: str | None) -> tuple[int, ...] | None:
    if typed is None:
        return None
    if not re.fullmatch(r"\d{1,3}(,\d{1,3})*", typed):
        raise InputError(f"--channels must be numbers from 0, such as 0,1, but is {typed}")
    return tuple(map(int, typed.split(",")))


@app.callback()
def _main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name the terminal cannot show is no reason to stop
    warnings.filterwarnings("ignore", module="PIL")  # what matters of them is said as a finding


def main() -> None:
    """Do what is typed after ``cellseg``; what follows ``train`` is Hydra's to read."""
    if sys.argv[1:2] == ["train"]:
        _train(sys.argv[2:])
    app()


def _train(words: Sequence[str]) -> None:
    from cellseg.run.home import INSTALLED
    from cellseg.train import start

    os.environ[INSTALLED] = "1"
    sys.argv[1:] = words
    start()


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def train(ctx: typer.Context) -> None:
    """Train and test one run, or with -m a sweep of many, as python train.py does: cellseg train model=xopinet."""
    _train(ctx.args)


@app.command()
def check(
    data: Data,
    groups: Groups = None,
    mask_threshold: Threshold = 20,
    channels: Channels = None,
    image_size: Annotated[int, typer.Option(min=1, max=2**16, help="Side in pixels that training resizes to.")] = 224,
    write_groups: Annotated[
        Path | None, typer.Option(help="Write given and found groups to this new CSV file, and check with them.")
    ] = None,
    montage: Annotated[
        Path | None, typer.Option(help="Draw every image with its mask outlined to this new PNG file.")
    ] = None,
) -> None:
    """Look for what is wrong with a data set. Exits with 1 if training would stop."""
    from cellseg.data.check import check_data, next_command, print_check
    from cellseg.data.facts import Reading
    from cellseg.data.groups import write_groups as write
    from cellseg.data.montage import save_montage

    how = Reading(mask_threshold, _channels(channels), image_size)
    report = check_data(data, groups, how, regroup=write_groups is not None, tiles=montage is not None)
    print_check(report, next_command(report, data, write_groups or groups, how))
    if write_groups and report.groups:
        write(write_groups, report.groups)
        typer.echo(f"wrote {write_groups}: {len(set(report.groups.values()))} groups of {len(report.groups)} images")
    if montage and report.tiles:
        save_montage(montage, report.tiles)
        typer.echo(f"drew {montage}")
    if report.failed:
        raise typer.Exit(1)


@app.command()
def clean(
    data: Data,
    out: Annotated[Path, typer.Argument(help="Folder to make, outside of DATA.")],
    groups: Groups = None,
    mask_threshold: Threshold = 20,
    channels: Channels = None,
) -> None:
    """Write the data set as training sees it: PNG, masks 0 and 255, same layout, and changes.csv."""
    from cellseg.data.clean import write_cleaned
    from cellseg.data.facts import Reading
    from cellseg.data.findings import count

    pairs, meaning, warnings = write_cleaned(data, out, groups, Reading(mask_threshold, _channels(channels)))
    typer.echo(meaning)
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"wrote {count(pairs, 'cleaned pair')} and changes.csv to {out}")


@app.command()
def synthesize(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    pairs: Annotated[int, typer.Option(min=1, help="How many smears to draw.")] = 50,
    size: Annotated[
        str, typer.Option(help="Pixels, one number for squares or WIDTHxHEIGHT.")
    ] = f"{STYLE.width}x{STYLE.height}",
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another set.")] = 0,
    sickled: Annotated[float, typer.Option(min=0, max=1, help="Share of cells that are sickled.")] = STYLE.sickled,
    overlapping: Annotated[
        float, typer.Option(min=0, max=1, help="Share laid against or over another.")
    ] = STYLE.overlapping,
    unlabelled: Annotated[
        float, typer.Option(min=0, max=1, help="Share of sickled cells without a label; a sixth of it of the others.")
    ] = STYLE.unlabelled,
    unlabelled_border: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the cells cut by the border without a label.")
    ] = STYLE.unlabelled_border,
) -> None:
    """Draw blood smears with labels as flawed as a hurried labeller's, and the exact masks beside them."""
    from cellseg.data.synthetic import write_synthetic

    style = SmearStyle.sized(
        *_size(size),
        sickled=sickled,
        overlapping=overlapping,
        unlabelled=unlabelled,
        unlabelled_border=unlabelled_border,
    )
    write_synthetic(out, pairs, seed, style, exact=True)
    typer.echo(f"drew {pairs} smears into {out}: source.jpg, mask.jpg as labelled, exact.png as they are")


@app.command()
def report(
    study: Annotated[Path, typer.Argument(help="Folder of runs, such as logs/first.")],
) -> None:
    """Compare the configurations of a study; write report.html, and the same as Markdown, CSV and PNG, beside."""
    from cellseg.study.collect import read_study
    from cellseg.study.report import write_report

    sentences = write_report(read_study(study))
    typer.echo("Dice in points of 100, with 95 % intervals")
    for sentence in sentences:
        typer.echo(sentence)
    typer.echo(f"wrote {study / 'report.html'}")


@app.command()
def predict(
    run: RunFolder,
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them; any size, any kind.")],
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    tiles: Annotated[
        bool, typer.Option(help="See images in overlapping tiles at native scale, or whole, resized as in training.")
    ] = False,
    tta: Annotated[
        bool, typer.Option("--tta", help="Average over the 8 flips and quarter turns; 8 times the work.")
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write probabilities, as PNG of 16 bits.")
    ] = False,
    ensemble: Ensemble = False,
    model: Model = None,
    trust: Trust = False,
) -> None:
    """Find cells in images: masks, overlays, a table of all objects. Exits with 1 if an image could not be read."""
    from cellseg.data.findings import count
    from cellseg.use.predict import find_sources, predict_files
    from cellseg.use.trained import find_trained

    trained = find_trained(run, model=model, ensemble=ensemble, trust=trust)
    predictor = trained.predictor(tiles=tiles, turned=tta)
    typer.echo(trained.in_words(predictor))
    sources, said = find_sources(images)
    for line in said:
        typer.echo(f"note: {line}", err=True)
    with StopRequest("stopping; what is predicted is kept") as stop:
        stop.patient = True
        done = predict_files(
            predictor, sources, output, how=trained.reading, probabilities=probabilities, obey=stop.obey
        )
    rows = done.rows
    for line in done.warnings:
        typer.echo(f"warning: {line}", err=True)
    if warning := trained.scale_warning([(int(row["width"]), int(row["height"])) for row in rows], tiles=tiles):
        typer.echo(f"warning: {warning}", err=True)
    objects = sum(int(row["objects"]) for row in rows)
    if rows:
        typer.echo(f"wrote {count(len(rows), 'mask')} with {count(objects, 'object')} to {output}")
    for failure in done.failures:
        typer.echo(f"error: {failure}", err=True)
    if done.failures or not rows:
        raise typer.Exit(1)


@app.command()
def evaluate(
    run: RunFolder,
    data: Data,
    groups: Groups = None,
    ensemble: Ensemble = False,
    trust: Trust = False,
    output: Annotated[Path | None, typer.Option(help="Folder to make, for per_image.csv and evaluation.json.")] = None,
) -> None:
    """Score on labelled images. Those the weights have seen, and their relatives, are named and left out.

    Exits with 1 if none is left.
    """
    from cellseg.use.evaluate import estimate_scores, print_evaluation, write_evaluation
    from cellseg.use.evaluate import evaluate as score
    from cellseg.use.trained import find_runs

    if output and output.exists():
        raise InputError(f"{output} exists already, and nothing is written over it; name a new folder")
    trained = find_runs(run, ensemble=ensemble, trust=trust)
    result = score(trained, data, groups, trust=trust)
    scores = estimate_scores(result.unseen, result.scores) if len(result.unseen) else {}
    print_evaluation(trained.name, scores, result)
    for line in result.warnings:
        typer.echo(f"warning: {line}", err=True)
    if output:
        write_evaluation(output, trained, data, result, scores)
        typer.echo(f"wrote per_image.csv and evaluation.json to {output}")
    if not scores:
        raise InputError(f"the weights have seen every image of {data}, so there is no score")


@app.command()
def review(
    run: RunFolder,
    output: Annotated[Path | None, typer.Option(help="Folder to make.", show_default="RUN/review")] = None,
    trust: Trust = False,
) -> None:
    """Show where a run and the labels of its test images see other cells, with a table for a person to fill."""
    from cellseg.use.review import KINDS
    from cellseg.use.review import review as look
    from cellseg.use.trained import find_runs

    trained = find_runs(run, trust=trust)
    typer.echo(trained.name)
    found = look(trained, output)
    for kind, title in KINDS.items():
        typer.echo(f"{title}: {sum(place.row['kind'] == kind for place in found.places)}")
    typer.echo(f"wrote {found.folder / 'review.html'}, objects.csv and images.csv")


@app.command()
def export(
    run: RunFolder,
    file: Annotated[Path, typer.Argument(help="File to make: .onnx, or .pt2 for an exported torch program.")],
    ensemble: Ensemble = False,
    model: Model = None,
    trust: Trust = False,
) -> None:
    """Write a network for programs without cellseg: images of any size in, probabilities out, checked against it."""
    from cellseg.data.findings import count
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
            f"--size must be a number of pixels or WIDTHxHEIGHT, from {SIZES[0]} to {SIZES[1]}, not {text}"
        )
    return numbers[0], numbers[1]
