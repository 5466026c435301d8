"""The command that explains: every figure and table of Lundstrom et al. 2022 and of Garcia et al. for one network."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import click

from toolchain.cli.app import cli
from toolchain.cli.options import (
    FORCE,
    MEMORY,
    MODEL,
    PIXELS,
    SAMPLES,
    SEED,
    SHAPE,
    STEPS,
    THREADS,
    out_folder,
    parse_shapes,
    progress,
    read_samples,
    results_in,
)
from toolchain.errors import UsageError


@cli.command()
@MODEL
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Samples that units are ranked on.")
@click.option(
    "--test",
    "tests",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Further samples; curves are measured on the first, or on --data without.",
)
@click.option("--figures", "asked", default="all", show_default=True, help="Names of figures with commas, or all.")
@click.option(
    "--layers",
    metavar="GLOB",
    help="Layers to explain. [default: dense ones and what a flatten makes, else the last; all in occurrence maps]",
)
@click.option(
    "--classes",
    metavar="NAME,...",
    help="Classes to show, by name or number; sorted and class-curves are about the first. [default: all, 8 at most]",
)
@click.option("--methods", metavar="NAME,...", help="Of heatmaps. [default: all that the network has rules for]")
@click.option("--at", metavar="LAYER", help="Value whose channels grad-cam weighs. [default: the last with places]")
@click.option("--orders", default=5, show_default=True, help="Random orders of the prune curve.")
@out_folder("explain-out")
@STEPS
@SAMPLES
@MEMORY
@PIXELS
@SHAPE
@SEED
@THREADS
@FORCE
@click.pass_context
def explain(
    context: click.Context,
    model: Path,
    data: Path,
    tests: tuple[Path, ...],
    asked: str,
    layers: str | None,
    classes: str | None,
    methods: str | None,
    at: str | None,
    orders: int,
    out: Path,
    steps: int,
    samples: int,
    max_memory: int | None,
    pixels: str,
    shapes: tuple[str, ...],
    seed: int,
    threads: int,
    force: bool,
) -> None:
    """Figures of what the units of a network contribute, of what it loses without them, and of when they fire.

    Each as SVG and PNG, or a page to browse, with its numbers as CSV and JSON, and all of them on one page. Without
    labels or classes, those that need them are left out, and the page says why.
    """
    from toolchain.compress.groups import analyse
    from toolchain.explain import catalogue
    from toolchain.explain.layers import hidden
    from toolchain.explain.writing import check_folder, origin, suffixes_of, write_figure, write_pages
    from toolchain.model import load

    names, asked_methods = catalogue.wanted(asked), catalogue.methods_named(methods)
    loaded = load(model, parse_shapes(shapes))
    channels = analyse(loaded)
    groups = catalogue.layers_named(channels, layers)
    catalogue.check_layer(loaded, at)
    fired = hidden(loaded, layers or "*")
    with results_in(out), progress(context) as (say, advance):
        check_folder(out, catalogue.stems(names, groups, fired), force)
        given = read_samples(data, loaded, pixels)
        subject = catalogue.Subject(
            model=loaded,
            channels=channels,
            data=given,
            tests=tuple(read_samples(t, loaded, pixels) for t in tests),
            groups=groups,
            names=catalogue.classes_named(loaded, given, classes),
            columns=catalogue.classes_named(loaded, given, classes, catalogue.MOST_COLUMNS),
            fired=fired,
            samples=samples,
            steps=steps,
            orders=orders,
            seed=seed,
            threads=threads,
            max_memory=max_memory,
            methods=asked_methods,
            at=at,
            progress=advance,
        )
        begun = time.perf_counter()
        left_out = catalogue.missing(subject, names)
        if left_out and "all" not in asked.split(","):
            name, why = next(iter(left_out.items()))
            raise UsageError(f"cannot make '{name}': {why}", way_out="Leave it out of --figures, or ask for all")
        say("layers", f"{', '.join(g.name for g in groups) or 'none'}", time.perf_counter() - begun)
        for name, why in left_out.items():
            say("left out", f"{name}: {why}", 0.0)
        settings = {"samples": samples, "steps": steps, "orders": orders, "seed": seed, "pixels": pixels}
        settings |= {"methods": list(asked_methods) or None, "at": at}
        made_of = origin(
            loaded,
            (subject.data, *subject.tests),
            settings | {"layers": [g.name for g in groups], "classes": list(subject.names.values())},
        )
        made = []
        for name in (n for n in names if n not in left_out):
            begun = time.perf_counter()
            for figure in catalogue.FIGURES[name].make(subject):
                write_figure(figure, out, made_of, force)
                made.append(figure)
                say("draw", figure.title, time.perf_counter() - begun)
                begun = time.perf_counter()
        write_pages(made, left_out, out, made_of, f"What the units of {model.name} contribute", force)
    forms = Counter(suffix.upper() for figure in made for suffix in suffixes_of(figure))
    told = ", ".join(f"{count} {form}" for form, count in forms.items())
    click.echo(f"wrote {out / 'index.html'}, figures.json and {len(made)} figures: {told}")
