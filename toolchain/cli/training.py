"""The commands that train, in torch, which no other command needs: retrain and sparsify."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolchain.cli.app import cli
from toolchain.cli.options import (
    ALIGN,
    FORCE,
    FORMAT,
    MODEL,
    PIXELS,
    SEED,
    SHAPE,
    THREADS,
    out_folder,
    parse_shapes,
    progress,
    read_samples,
    results_in,
)
from toolchain.errors import UsageError
from toolchain.retrain import History, Recipe

FILE = click.Path(path_type=Path)

OF_TRAINING = (
    click.option(
        "--data", type=FILE, required=True, help="Samples to train on: .npz, a folder for each class, or a .csv."
    ),
    click.option("--validation", type=FILE, help="Samples that choose the epoch to keep; the last is kept without."),
    click.option("--teacher", type=FILE, help="The network before the cut: its answers are followed, labels or none."),
    click.option("--epochs", default=Recipe.epochs, show_default=True),
    click.option("--batch", default=Recipe.batch, show_default=True, help="Samples for each step."),
    click.option("--rate", type=float, help="Highest learning rate. [default: 0.01, of adamw 0.001]"),
    click.option("--optimiser", default=Recipe.optimiser, show_default=True, help="sgd, momentum or adamw."),
    click.option("--decay", default=Recipe.decay, show_default=True, help="Of weights; biases and norms do not decay."),
    click.option("--smoothing", default=Recipe.smoothing, show_default=True, help="Of the labels."),
    click.option("--patience", type=int, help="Stop after so many epochs without a better one."),
    click.option(
        "--temperature", default=Recipe.temperature, show_default=True, help="At which a teacher is followed."
    ),
    click.option(
        "--weight", default=Recipe.weight, show_default=True, help="Of the teacher where there are labels too."
    ),
    click.option(
        "--target", type=click.Choice(["loss", "answer"]), help="Class scores or real values, if outputs mislead."
    ),
    click.option("--freeze", "frozen", multiple=True, metavar="GLOB", help="Parameters or nodes to leave as they are."),
    click.option(
        "--augment",
        multiple=True,
        metavar="KIND",
        help="flip, shift:PIXELS, rotate:DEGREES, zoom:SHARE, brightness:SHARE or noise:DEVIATION, of images.",
    ),
)


def of_training(command: Any) -> Any:
    """A command with the options that say what is trained on, and how."""
    for option in reversed(OF_TRAINING):
        command = option(command)
    return command


@cli.command()
@MODEL
@of_training
@click.option(
    "--keep-zeros", is_flag=True, help="Weights that are 0 stay 0: of a network that was pruned weight by weight."
)
@click.option("--checkpoint", type=FILE, help="File that the run is kept in, and goes on from if it was stopped.")
@click.option("--history", type=FILE, help="Write every epoch to this JSON file.")
@click.option("-o", "--out", type=FILE, default=Path("retrained.onnx"), show_default=True)
@PIXELS
@SHAPE
@SEED
@THREADS
@FORCE
@click.pass_context
def retrain(
    context: click.Context,
    model: Path,
    data: Path,
    validation: Path | None,
    teacher: Path | None,
    augment: tuple[str, ...],
    checkpoint: Path | None,
    history: Path | None,
    out: Path,
    pixels: str,
    shapes: tuple[str, ...],
    force: bool,
    **recipe: Any,
) -> None:
    """Train MODEL further, cut or masked: masks stay, and what they multiply by zero learns nothing.

    It learns from labels, from a teacher, or from both. Names and graph stay as they are.
    """
    from toolchain.files import check_new
    from toolchain.model import load, save
    from toolchain.provenance import asked as asked_for
    from toolchain.provenance import changed, deciding, signed
    from toolchain.retrain import retrain as train

    asked = Recipe(**recipe)
    for path in (out, history):
        if path is not None:
            check_new(path, force)
    given = load(model, parse_shapes(shapes))
    samples = read_samples(data, given, pixels)
    judge = None if validation is None else read_samples(validation, given, pixels)
    guide = None if teacher is None else load(teacher, parse_shapes(shapes))
    sources = {"data": samples, "validation": judge, "teacher": guide}
    given = asked_for(given, deciding("retrain", asked.seed, changed(asked) | {"augment": augment}, sources))
    with progress(context) as (_, advance):
        trained, epochs = train(
            given,
            samples,
            judge,
            asked,
            teacher=guide,
            checkpoint=checkpoint,
            augment=augment,
            progress=advance,
        )
    save(signed(trained), out, force)
    told(epochs)
    click.echo(f"wrote {out}")
    if history is not None:
        write_history(history, epochs, asked, given.sha256)
        click.echo(f"wrote {history}")


@cli.command()
@MODEL
@of_training
@click.option("--rounds", type=click.IntRange(0), default=25, show_default=True, help="Of pruning and training.")
@click.option("--share", default="20%", show_default=True, help="Of the weights that are left, to go in each round.")
@click.option(
    "--max-drop",
    type=click.FloatRange(0),
    metavar="POINTS",
    help="Deliver the sparsest round that loses no more points of accuracy on --validation; the last without.",
)
@ALIGN
@out_folder("sparse-out")
@PIXELS
@SHAPE
@SEED
@THREADS
@FORMAT
@FORCE
@click.pass_context
def sparsify(
    context: click.Context,
    model: Path,
    data: Path,
    validation: Path | None,
    teacher: Path | None,
    augment: tuple[str, ...],
    rounds: int,
    share: str,
    max_drop: float | None,
    align: str,
    out: Path,
    pixels: str,
    shapes: tuple[str, ...],
    form: str,
    force: bool,
    **recipe: Any,
) -> None:
    """Prune MODEL weight by weight in rounds, then take out the units that are left without weights.

    In each round the smallest weights of all layers go, the others return to where they are in MODEL, and that network
    is trained. DIR keeps every round: the same command goes on where it was stopped.
    """
    from dataclasses import asdict

    from toolchain.cli.options import parse_share
    from toolchain.model import load
    from toolchain.pipeline import sparsifying
    from toolchain.provenance import asked as asked_for
    from toolchain.provenance import changed, deciding
    from toolchain.tables import show

    asked, part = Recipe(**recipe), parse_share(share)
    if max_drop is not None and validation is None:
        raise UsageError("--max-drop needs samples that judge the rounds", way_out="Give --validation")
    from toolchain.retrain import rounds as pruned  # after mistakes, since torch takes a second

    given = load(model, parse_shapes(shapes))
    samples = read_samples(data, given, pixels)
    judge = None if validation is None else read_samples(validation, given, pixels)
    guide = None if teacher is None else load(teacher, parse_shapes(shapes))
    choices = changed(asked) | {"augment": augment, "share": part}  # of every round, whichever is delivered
    sources = {"data": samples, "validation": judge, "teacher": guide}
    given = asked_for(given, deciding("sparsify", asked.seed, choices, sources))
    with results_in(out), progress(context) as (say, advance):
        sparsifying.check_files(out, force)
        series = pruned(
            given, samples, judge, asked, out, count=rounds, share=part or 0.0, augment=augment,
            teacher=guide, progress=advance,
        )  # fmt: skip
        chosen, rows = sparsifying.sparsified(series, judge, max_drop, align, asked.threads, say)
        about = {"recipe": asdict(asked), "share": part}
        files = sparsifying.deliver(chosen, rows, given, about, out)
    show(rows, form)
    for stay in chosen.structured.stays:
        click.echo(f"{stay.units} of the units of {stay.where} stay: {stay.reason}", err=True)
    click.echo(f"wrote {', '.join(map(str, files))} of round {chosen.round.number}", err=form != "table")


def told(history: History) -> None:
    """Every epoch as a line, and which one was kept."""
    from toolchain.tables import show

    rows = [
        {
            "epoch": e.number,
            "rate": e.rate,
            "loss": e.loss,
            "validation loss": e.validation_loss,
            "right %": None if e.right is None else round(100 * e.right, 2),
        }
        for e in history.epochs
    ]
    show(rows, "table")
    if history.stopped:
        click.echo(f"stopped: {history.stopped}", err=True)
    first, best = history.epochs[0], history.best
    if first.right is None or best.right is None:
        click.echo(f"kept epoch {best.number}")
    else:
        click.echo(f"kept epoch {best.number}: {100 * first.right:.2f} -> {100 * best.right:.2f} % right")


def write_history(path: Path, history: History, recipe: Recipe, sha256: str) -> None:
    """Every epoch as JSON; a loss that is not finite is null."""
    import math
    from dataclasses import asdict

    from toolchain import __version__
    from toolchain.files import write_json

    epochs = [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(e).items()}
        for e in history.epochs
    ]
    body = {
        "schema": "jettison.history/1",
        "tool": f"jettison {__version__}",
        "source_sha256": sha256,
        "recipe": asdict(recipe),
        "kept": history.best.number,
        "stopped": history.stopped,
        "epochs": epochs,
    }
    write_json(path, body, allow_nan=False)
