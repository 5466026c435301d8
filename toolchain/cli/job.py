"""The main job: compress and demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolchain.cli.app import cli
from toolchain.cli.options import (
    ALIGN,
    APPROXIMATE,
    BUDGET,
    CRITERION,
    FLOOR,
    FORCE,
    KEEP,
    LAYERS,
    MAX_DROP,
    MEMORY,
    MIN_ACCURACY,
    MODEL,
    PIXELS,
    PROFILE,
    RETRAIN,
    ROUNDS,
    SAMPLES,
    SCHEDULE,
    SEED,
    SHAPE,
    STEPS,
    TARGET,
    TEACHER,
    THREADS,
    TO,
    out_folder,
    parse_shapes,
    progress,
    read_samples,
    results_in,
)
from toolchain.errors import GateFailed, printable


@cli.command()
@MODEL
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Calibration samples: .npz (x, y), a folder for each class, or a .csv of file,label.",
)
@click.option(
    "--validation",
    "held_out",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Further samples to report accuracy on. Where accuracy is a limit (drop, --min-accuracy) the first judge; "
    "no others are used to choose.",
)
@BUDGET
@out_folder("jettison-out")
@CRITERION
@ALIGN
@KEEP
@FLOOR
@SCHEDULE
@ROUNDS
@MIN_ACCURACY
@APPROXIMATE
@LAYERS
@STEPS
@SAMPLES
@MEMORY
@TARGET
@RETRAIN
@TEACHER
@click.option("--no-recover", is_flag=True, help="Leave the kept weights as they are.")
@TO
@MAX_DROP
@PROFILE
@click.option("--runs", default=100, show_default=True, help="Timed inferences for each model; 0 measures nothing.")
@click.option("--warmup", default=10, show_default=True, help="Untimed inferences before them.")
@PIXELS
@SHAPE
@SEED
@THREADS
@FORCE
@click.pass_context
def compress(
    context: click.Context,
    model: Path,
    data: Path | None,
    held_out: tuple[Path, ...],
    pixels: str,
    shapes: tuple[str, ...],
    **asked: Any,
) -> None:
    """Rank, prune, prove, recover, emit and measure: everything in one."""
    from toolchain.model import load

    loaded = load(model, parse_shapes(shapes))
    calibration = None if data is None else read_samples(data, loaded, pixels)
    finish(context, model, loaded, calibration, tuple(read_samples(p, loaded, pixels) for p in held_out), asked)


@cli.command()
@out_folder("demo-out")
@click.option("--budget", default="params<=30%", show_default=True)
@FORCE
@click.pass_context
def demo(context: click.Context, out: Path, budget: str, force: bool) -> None:
    """The main job on the network that ships with the package and generated Triangles & Squares."""
    from toolchain.data import Samples
    from toolchain.model import load
    from toolchain.shipped import triangles_squares_path
    from toolchain.synthetic import CLASSES, triangles_squares

    path = triangles_squares_path()
    loaded = load(path)
    (name,) = loaded.inputs

    def generated(called: str, n: int, seed: int) -> Samples:
        x, y = triangles_squares(n, seed=seed)
        return Samples(called, {name: x}, y, CLASSES)

    # seeds that the network was not trained on
    held_out = (generated("test", 2000, 20002),)
    finish(
        context,
        path,
        loaded,
        generated("calibration", 512, 20001),
        held_out,
        {"budget": budget, "out": out, "force": force, "samples": 64},
    )


def finish(
    context: click.Context, path: Path, model: Any, calibration: Any, held_out: tuple[Any, ...], asked: dict[str, Any]
) -> None:
    """Run the job and print what came of it."""
    from toolchain.pipeline import Job
    from toolchain.pipeline import compress as compress_model

    settings = dict(asked)
    if "formats" in settings:
        settings["formats"] = tuple(f.strip() for f in settings["formats"].split(",") if f.strip())
        settings["recover"] = not settings.pop("no_recover")
    job = Job(path, calibration=calibration, held_out=held_out, arguments=tuple(context.obj["arguments"]), **settings)
    with results_in(job.out), progress(context) as (say, advance):
        report = compress_model(job, model, say, advance)
    for row in report["accuracy"]:
        for text in row["warnings"]:
            click.echo(f"jettison: warning: {printable(row['data'])}: {printable(text)}", err=True)
    summary(report)
    emitted = [e["path"] for e in (*report["emitted"], *report["quantised"])]
    for name in (*emitted, "plan.json", "ranks.npz", "report.json", "report.html"):
        if (job.out / name).exists():
            click.echo(f"wrote {job.out / name}")
    failed = [c for c in report["checks"] if not c["passed"]]
    if failed:
        told = "; ".join(f"{c['name']} is {c['value']}, wanted {c['limit']}" for c in failed)
        raise GateFailed(
            told, way_out=next((c["message"] for c in failed if c["message"]), f"See {job.out / 'report.html'}")
        )


def summary(report: dict[str, Any]) -> None:
    """Before and after, in a few lines."""
    from toolchain.tables import show

    before, after = report["models"]["before"], report["models"]["after"]
    rows = [
        row(n, before[k], after[k])
        for n, k in (("params", "params"), ("MACs", "macs"), ("file bytes", "bytes"), ("arena bytes", "arena_bytes"))
    ]
    bench = report["bench"]
    rows += [
        row(
            f"latency {b['runtime']} µs" if b["grade"] == "measured" else f"k instructions {b['target']}",
            b["ns"]["p50"] / 1e3,
            a["ns"]["p50"] / 1e3,
        )
        for b, a in zip(bench[::2], bench[1::2], strict=True)
    ]
    for a in report["accuracy"]:
        last = next(a[k] for k in ("after_retrain", "after_recover", "after_prune") if a[k] is not None)
        rows.append(
            {
                "": f"accuracy {a['data']} %",
                "before": round(100 * a["before"], 2),
                "after": round(100 * last, 2),
                "change": f"{100 * (last - a['before']):+.2f} points",
            }
        )
    show(rows, "table")


def row(name: str, before: float, after: float) -> dict[str, Any]:
    """One line of the summary."""
    change = f"{100 * (after / before - 1):+.1f} %" if before else "–"
    return {"": name, "before": before, "after": after, "change": change}
