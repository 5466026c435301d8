"""Options that several commands share, and how commands show progress."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolchain.cli.configured import own_shapes
from toolchain.errors import UsageError, printable

if TYPE_CHECKING:
    from toolchain.data import Samples
    from toolchain.model import Model

SKIP_BAD = f"{__name__}.skip_bad"  # where click's context keeps it
MODEL = click.argument("model", type=click.Path(path_type=Path), is_eager=True)
FORMAT = click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv", "md"]), default="table", help="How to print."
)
FORCE = click.option("--force", is_flag=True, help="Replace files that exist.")
SHAPE = click.option(
    "--shape", "shapes", multiple=True, metavar="NAME:1,3,224,224", help="Shape of an input that the file leaves open.",
    callback=own_shapes,
)  # fmt: skip
SEED = click.option("--seed", default=0, show_default=True, help="Of everything random.")
THREADS = click.option("--threads", default=1, show_default=True, help="Threads of the runtimes.")
PROFILE = click.option(
    "--profile",
    type=click.Choice(["lite", "micro"]),
    default="lite",
    show_default=True,
    help="Kernels that a TFLite file may need: LiteRT's, or only those of TFLite Micro.",
)
BUDGET = click.option(
    "--budget",
    required=True,
    help="Like params<=30%, flash<=2MiB, macs<=50%, ram<=1MiB, units<=50%, latency@local<=20ms, "
    "instructions@qemu-a53<=50% or drop<=1 (points of accuracy); several with commas, all of which hold.",
)
CRITERION = click.option(
    "--criterion",
    default="ig",
    show_default=True,
    help="ig, ig-signed, ig-abs, taylor, taylor-abs, activation, apoz, selectivity, reconstruction, l1, l2, random, or "
    "auto: the one of five that changes the fewest answers at the budget.",
)
ALIGN = click.option(
    "--align", default="auto", show_default=True, help="Widths are multiples of this: auto, off or a number."
)
KEEP = click.option("--keep", multiple=True, metavar="GLOB", help="Groups to leave alone.")
FLOOR = click.option(
    "--floor",
    "floors",
    multiple=True,
    metavar="GLOB=WIDTH|SHARE%",
    callback=lambda context, option, texts: parse_floors(texts),
    help="Units that groups keep at least, such as conv*=32 or dense1=25%.",
)
SCHEDULE = click.option(
    "--schedule",
    type=click.Choice(["one-shot", "iterative"]),
    default="one-shot",
    show_default=True,
    help="Cut at once, or in rounds with a new ranking after each.",
)
ROUNDS = click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Of an iterative schedule."
)
MIN_ACCURACY = click.option(
    "--min-accuracy",
    metavar="SHARE%",
    callback=lambda context, option, text: parse_share(text),
    help="Stop before accuracy falls below this, even if the budget is not reached.",
)
RETRAIN = click.option(
    "--retrain", type=click.IntRange(0), default=0, metavar="EPOCHS", help="Train what is left in torch, on --data."
)
TEACHER = click.option("--teacher", is_flag=True, help="Let the original teach it: no labels needed.")
APPROXIMATE = click.option(
    "--allow-approximate",
    "approximate",
    is_flag=True,
    help="Also cut widths that a LayerNorm takes its statistics over: not exact, and the deviation is reported.",
)
TO = click.option(
    "--to",
    "formats",
    default="onnx,tflite",
    show_default=True,
    help="Files to emit: onnx, tflite, and quantised tflite-int8, tflite-int8-weights, tflite-float16, onnx-int8.",
)
MAX_DROP = click.option(
    "--max-drop",
    type=click.FloatRange(0),
    metavar="POINTS",
    help="Refuse a quantised file that loses more points of accuracy than this.",
)
LAYERS = click.option("--layers", default="*", metavar="GLOB", help="Groups to rank; the others stay whole.")
TARGET = click.option(
    "--target",
    type=click.Choice(["loss", "classes", "answer"]),
    help="What units are ranked by: the loss (of class scores the default), every class and the loss, or how far the "
    "network is from its own answer (the default of all other networks).",
)
STEPS = click.option(
    "--steps", default=16, show_default=True, help="Nodes of the quadrature; doubled until complete within 2 %."
)
SAMPLES = click.option("--samples", default=256, show_default=True, help="Samples to rank on, balanced over classes.")
MEMORY = click.option(
    "--max-memory",
    type=click.IntRange(1),
    callback=lambda context, option, mebibytes: mebibytes and mebibytes << 20,
    help="MiB that ranking keeps the process to; half of this computer's by default.",
)


def PIXELS(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of commands that read images: how they become numbers, and whether all of them must."""
    scaled = click.option(
        "--pixels",
        type=click.Choice(["unit", "raw", "imagenet"]),
        default="unit",
        show_default=True,
        help="How images become numbers: 0..1, 0..255, or ImageNet's mean and deviation.",
    )
    skipping = click.option(
        "--skip-bad", is_flag=True, expose_value=False, help="Leave out images that cannot be read, and say how many.",
        callback=lambda context, option, is_given: context.meta.update({SKIP_BAD: is_given}),
    )  # fmt: skip
    return scaled(skipping(command))


def read_samples(path: Path, model: Model, pixels: str) -> Samples:
    """The samples of a command that has PIXELS; a line names what --skip-bad left out of them."""
    from toolchain.data import load_samples

    found = load_samples(path, model, pixels, click.get_current_context().meta[SKIP_BAD])
    if found.skipped:
        first = printable(", ".join(found.skipped[:3]) + (", …" if len(found.skipped) > 3 else ""))
        told = f"{len(found.skipped)} of {len(found) + len(found.skipped)} images left out: {first}"
        click.echo(f"jettison: warning: {printable(str(path))}: {told}", err=True)
    return found if found.classes else named(found, model, click.get_current_context().obj["classes"])


def named(samples: Samples, model: Model, classes: tuple[str, ...]) -> Samples:
    """The samples with the names that [model] classes gives; raises UsageError for another number than the model's."""
    from dataclasses import replace

    from toolchain.data import scored_classes

    known = scored_classes(model)
    if classes and known not in (None, len(classes)):
        told = f"[model] classes has {len(classes)} names, the model scores {known} classes"
        raise UsageError(told, way_out="Name each class once, in the order of the model's scores")
    return replace(samples, classes=classes)


def out_folder(name: str) -> Callable[[Any], Any]:
    """The option -o of a command that writes several files, and the folder it writes to without."""
    return click.option(
        "-o", "--out", type=click.Path(path_type=Path), default=Path(name), show_default=True,
        help="Folder of the results.",
    )  # fmt: skip


def parse_shapes(shapes: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """'x:1,3,224,224' -> {"x": (1, 3, 224, 224)}; raises UsageError for anything else."""
    found = {}
    for text in shapes:
        name, colon, sizes = text.rpartition(":")
        try:
            found[name] = tuple(int(s) for s in sizes.split(","))
        except ValueError:
            colon = ""
        if not colon or min(found[name]) < 1:
            raise UsageError(f"cannot read the shape '{text}'", way_out="Write it like --shape x:1,3,224,224")
    return found


def parse_cuts(cuts: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """'conv5=relu5,pool5' -> {"conv5": ("relu5", "pool5")}; raises UsageError for anything else."""
    found = {}
    for text in cuts:
        group, equals, values = text.partition("=")
        if not (group and equals and all(values.split(","))):
            raise UsageError(f"cannot read the cut '{text}'", way_out="Write it like --cuts conv5=relu5")
        found[group] = tuple(values.split(","))
    return found


def parse_floors(texts: tuple[str, ...]) -> tuple[Any, ...]:
    """'conv*=32' -> floors; raises UsageError."""
    from toolchain.compress.budget import parse_floor

    return tuple(parse_floor(t) for t in texts)


def parse_share(text: str | None) -> float | None:
    """'85%' or '0.85' -> 0.85; raises UsageError."""
    if text is None:
        return None
    number = text.strip().removesuffix("%")
    try:
        share = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"cannot read the share '{text}'", way_out="Write it like 85%")
    return share


@contextmanager
def results_in(out: Path) -> Iterator[None]:
    """The folder of a command's results, with no other run in it; where that cannot be known, a line says so."""
    from toolchain.files import folder

    with folder(out) as note:
        if note:
            click.echo(f"jettison: warning: {out}: {note}", err=True)
        yield


@contextmanager
def progress(
    context: click.Context,
) -> Iterator[tuple[Callable[[str, str, float], None], Callable[[str, int, int], None]]]:
    """(say a finished stage, advance a bar), both on stderr; a bar only for people: on a terminal and not under CI."""
    quiet = context.obj["quiet"]

    def say(stage: str, text: str, seconds: float) -> None:
        if not quiet:
            click.echo(f"{stage:<9} {text}  [{seconds:.1f} s]", err=True)

    if quiet or os.environ.get("CI") or not sys.stderr.isatty():
        yield say, lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress, TimeRemainingColumn
    from rich.text import Text

    with Progress(
        *Progress.get_default_columns()[:3], TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("", total=None, visible=False)

        def advance(stage: str, done: int, total: int) -> None:
            bar.update(task, description=str(Text(stage[:40])), completed=done, total=total, visible=done < total)

        def say_above(stage: str, text: str, seconds: float) -> None:
            bar.update(task, visible=False)
            bar.console.print(Text(f"{stage:<9} {text}  [{seconds:.1f} s]"), highlight=False)

        yield say_above, advance
