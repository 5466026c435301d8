"""The command that tunes an architecture by its occurrence maps."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from toolchain.cli.app import cli
from toolchain.cli.options import (
    FORCE,
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
from toolchain.retrain import Recipe

FILE = click.Path(path_type=Path)


@cli.command()
@MODEL
@click.option(
    "--data", type=FILE, required=True, help="Labelled samples: their maps are looked at, and it learns them."
)
@click.option("--validation", type=FILE, required=True, help="Labelled samples that accuracy is judged on.")
@click.option(
    "--max-drop",
    "most",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    metavar="POINTS",
    help="Undo an edit after which accuracy is lower than the original's by more.",
)
@click.option("--layers", default="*", metavar="GLOB", help="Conv and dense layers to edit.")
@click.option("--epochs", default=1, show_default=True, help="Of retraining after each edit.")
@click.option("--batch", default=Recipe.batch, show_default=True, help="Samples for each step.")
@click.option("--rate", type=float, help="Highest learning rate. [default: 0.01, of adamw 0.001]")
@click.option("--optimiser", default=Recipe.optimiser, show_default=True, help="sgd or adamw.")
@out_folder("tuned")
@PIXELS
@SHAPE
@SEED
@THREADS
@FORCE
@click.pass_context
def tune(
    context: click.Context,
    model: Path,
    data: Path,
    validation: Path,
    most: float,
    layers: str,
    out: Path,
    pixels: str,
    shapes: tuple[str, ...],
    force: bool,
    **recipe: Any,
) -> None:
    """Edit MODEL layer by layer, from the first to the last: what occurrence maps show no need of goes.

    After each edit that layer and those before it are frozen and what follows is retrained; where accuracy falls too
    far the edit is undone and tried with fewer kernels.
    """
    from toolchain.files import check_new
    from toolchain.model import load
    from toolchain.pipeline import tuning
    from toolchain.provenance import asked as asked_for
    from toolchain.provenance import changed, deciding
    from toolchain.tables import show

    asked = Recipe(**recipe)
    given = load(model, parse_shapes(shapes))
    samples, judge = (read_samples(p, given, pixels) for p in (data, validation))
    choices = changed(asked) | {"max_drop": most, "layers": layers}
    given = asked_for(given, deciding("tune", asked.seed, choices, {"data": samples, "validation": judge}))
    with results_in(out):
        for name in tuning.FILES:
            check_new(out / name, force)
        with progress(context) as (say, advance):
            tuned = tuning.tune(given, tuning.Task(samples, judge, asked, most, say, advance), layers)
        settings = {"max_drop": most, "layers": layers, "recipe": asdict(asked), "pixels": pixels}
        tuning.write(tuned, out, settings, (samples, judge), force)
    show(tuning.rows(tuned.steps), "table")
    show([{"": q, "before": b, "after": a} for q, (b, a) in tuned.plan.costs.items()], "table")
    before, after = tuned.right
    click.echo(f"accuracy on {judge.name}: {100 * before:.2f} -> {100 * after:.2f} %")
    for name in tuning.FILES:
        click.echo(f"wrote {out / name}")
