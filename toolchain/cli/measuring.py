"""Commands that measure and report: bench, report."""

from __future__ import annotations

from pathlib import Path

import click

from toolchain.cli.app import cli
from toolchain.cli.options import FORMAT, THREADS
from toolchain.errors import UsageError


@cli.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--runtime", type=click.Choice(["ort", "litert", "tflite"]), help="By the file's kind if not given.")
@click.option("--target", default="local", show_default=True, help="Where to measure; only local for now.")
@click.option("--runs", default=100, show_default=True)
@click.option("--warmup", default=10, show_default=True)
@THREADS
@FORMAT
def bench(
    models: tuple[Path, ...], runtime: str | None, target: str, runs: int, warmup: int, threads: int, form: str
) -> None:
    """Latency and memory, each model in child processes of its own, turn by turn."""
    from targets.measure import RunnerError, as_row, measure_side_by_side, runtime_for
    from toolchain.errors import RunnerFailed
    from toolchain.tables import show
    from toolchain.validate import read_bytes

    if target != "local":
        raise UsageError(f"unknown target '{target}'", way_out="Use --target local")
    for path in models:
        read_bytes(path, "a model")
    try:
        found = measure_side_by_side(
            [(p, runtime or runtime_for(p)) for p in models], runs=runs, warmup=warmup, threads=threads
        )
    except RunnerError as error:
        raise RunnerFailed(str(error)) from error
    if form == "json":
        import json

        click.echo(json.dumps([as_row(m) for m in found], indent=1))
        return
    show(
        [
            {
                "model": Path(m.model).name,
                "runtime": m.runtime,
                "grade": m.grade,
                "init ms": m.init_ns / 1e6,
                "first ms": m.first_ns / 1e6,
                "min ms": m.ns.min / 1e6,
                "p50 ms": m.ns.p50 / 1e6,
                "p90 ms": m.ns.p90 / 1e6,
                "p99 ms": m.ns.p99 / 1e6,
                "noise %": 100 * m.noise,
                "peak MiB": None if m.peak_rss_bytes is None else m.peak_rss_bytes / 2**20,
            }
            for m in found
        ],
        form,
    )


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Write report.html again from FOLDER/report.json."""
    import json

    from toolchain.errors import BadInput
    from toolchain.files import write_text
    from toolchain.report.page import render
    from toolchain.validate import read_bytes

    source = folder / "report.json"
    try:
        body = json.loads(read_bytes(source, "a report.json"))
    except ValueError as error:
        raise BadInput("is no JSON", str(source)) from error
    write_text(folder / "report.html", render(body))
    click.echo(f"wrote {folder / 'report.html'}")
