"""The command that sweeps over budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolchain.cli.app import cli
from toolchain.cli.options import (
    ALIGN,
    APPROXIMATE,
    CRITERION,
    FLOOR,
    FORCE,
    FORMAT,
    KEEP,
    LAYERS,
    MEMORY,
    MODEL,
    PIXELS,
    RETRAIN,
    SAMPLES,
    SCHEDULE,
    SEED,
    SHAPE,
    STEPS,
    TARGET,
    TEACHER,
    THREADS,
    out_folder,
    parse_shapes,
    progress,
    read_samples,
    results_in,
)
from toolchain.errors import GateFailed, UsageError


@cli.command()
@MODEL
@click.option("--data", type=click.Path(path_type=Path), help="Calibration samples, as for compress.")
@click.option(
    "--validation", "held_out", type=click.Path(path_type=Path), multiple=True, help="Samples that the figure shows."
)
@click.option(
    "--budgets",
    default="10,20,30,40,50,60,70,80,90%",
    show_default=True,
    help="Shares that stay; 10,20,…,90% fills in the steps.",
)
@click.option("--quantity", type=click.Choice(["params", "macs"]), default="params", show_default=True, help="Of what.")
@out_folder("sweep-out")
@click.option("--keep-files", is_flag=True, help="Keep the networks of all points, in DIR/points.")
@CRITERION
@ALIGN
@KEEP
@FLOOR
@SCHEDULE
@APPROXIMATE
@LAYERS
@STEPS
@SAMPLES
@MEMORY
@TARGET
@RETRAIN
@TEACHER
@click.option("--no-recover", is_flag=True, help="Leave the kept weights as they are.")
@click.option("--to", "formats", default="onnx,tflite", show_default=True, help="Files to emit and measure.")
@click.option("--runs", default=30, show_default=True, help="Timed inferences for each file; 0 measures nothing.")
@click.option("--warmup", default=5, show_default=True, help="Untimed inferences before them.")
@PIXELS
@SHAPE
@SEED
@THREADS
@FORMAT
@FORCE
@click.pass_context
def sweep(
    context: click.Context,
    model: Path,
    data: Path | None,
    held_out: tuple[Path, ...],
    budgets: str,
    quantity: str,
    keep_files: bool,
    no_recover: bool,
    formats: str,
    pixels: str,
    shapes: tuple[str, ...],
    form: str,
    **asked: Any,
) -> None:
    """Accuracy against parameters, MACs, flash and latency: one cut for each budget, a table and a figure."""
    from toolchain.compress.budget import parse_term
    from toolchain.model import load
    from toolchain.pipeline import Job
    from toolchain.pipeline.sweep import sweep as sweep_model
    from toolchain.tables import show

    terms = [parse_term(f"{quantity}<={share:g}%") for share in parse_shares(budgets)]
    loaded = load(model, parse_shapes(shapes))
    calibration = None if data is None else read_samples(data, loaded, pixels)
    job = Job(
        model, calibration=calibration, held_out=tuple(read_samples(p, loaded, pixels) for p in held_out),
        budget=f"{quantity}<=100%", recover=not no_recover, arguments=tuple(context.obj["arguments"]),
        formats=tuple(f.strip() for f in formats.split(",") if f.strip()), **asked,
    )  # fmt: skip
    with results_in(job.out), progress(context) as (say, advance):
        body = sweep_model(job, loaded, terms, keep_files, say, advance)
    rows = body["rows"]
    show([{k.replace("after_", ""): r.get(k) for k in dict.fromkeys(k for r in rows for k in r)} for r in rows], form)
    for budget, why in body["left_out"].items():
        click.echo(f"left out {budget}: {why}", err=True)
    click.echo(f"wrote {', '.join(str(p) for p in sorted(job.out.glob('sweep.*')))}", err=form != "table")
    wrong = [r["budget"] for r in rows if r.get("proven") is False]
    if wrong:
        raise GateFailed(f"{wrong[0]} differs from its masked network or its files", way_out="See sweep.json")


def parse_shares(text: str) -> list[float]:
    """'10,20,…,50%' -> [10, 20, 30, 40, 50] in percent, without repetition; raises UsageError for anything else."""
    parts = [p.strip().rstrip("%").strip() for p in text.replace("...", "…").split(",")]
    shares: list[float] = []
    for i, part in enumerate(parts):
        try:
            if part == "…":
                step, end = shares[-1] - shares[-2], float(parts[i + 1])
                count = round((end - shares[-1]) / step)
                shares += [shares[-1] + step * k for k in range(1, count)]
            else:
                shares.append(float(part))
        except (ValueError, IndexError, ZeroDivisionError):
            shares.append(-1.0)
        if not 0 < shares[-1] <= 100:
            raise UsageError(
                f"cannot read the budgets '{text}' at '{part}'", way_out="Write them like 10,20,50% or 10,20,…,90%"
            )
    return list(dict.fromkeys(shares))
