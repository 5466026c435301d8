"""The stages of the main job, each alone: rank, prune, recover, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolchain.cli.app import cli
from toolchain.cli.options import (
    APPROXIMATE,
    CRITERION,
    FORCE,
    FORMAT,
    LAYERS,
    MAX_DROP,
    MEMORY,
    MODEL,
    PIXELS,
    PROFILE,
    SAMPLES,
    SEED,
    SHAPE,
    STEPS,
    TARGET,
    THREADS,
    TO,
    out_folder,
    parse_cuts,
    parse_shapes,
    progress,
    read_samples,
    results_in,
)
from toolchain.errors import GateFailed, UsageError

if TYPE_CHECKING:
    pass


@cli.command()
@MODEL
@click.option("--data", type=click.Path(path_type=Path), help="Samples to rank on.")
@CRITERION
@APPROXIMATE
@LAYERS
@STEPS
@SAMPLES
@MEMORY
@TARGET
@click.option(
    "--cuts",
    multiple=True,
    metavar="GROUP=VALUE,...",
    help="Look at the units of a group in these values, not where they are contracted.",
)
@click.option("--executor", default="", metavar="KIND", help="threads, processes or dask:ADDRESS; none by default.")
@click.option("--workers", type=click.IntRange(1), help="Chunks at a time; as many as there are cores by default.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("ranks.npz"), show_default=True)
@PIXELS
@SHAPE
@SEED
@THREADS
@FORCE
@click.pass_context
def rank(
    context: click.Context,
    model: Path,
    data: Path | None,
    criterion: str,
    approximate: bool,
    layers: str,
    steps: int,
    samples: int,
    max_memory: int | None,
    target: str | None,
    cuts: tuple[str, ...],
    executor: str,
    workers: int | None,
    out: Path,
    pixels: str,
    shapes: tuple[str, ...],
    seed: int,
    threads: int,
    force: bool,
) -> None:
    """Score every unit by what it contributes; writes ranks.npz.

    What is finished is kept beside it, in a folder of that name and .partial: a ranking that was stopped goes on there.
    """
    from toolchain.cli.workers import opened
    from toolchain.compress.groups import analyse
    from toolchain.compress.ranks import save_ranks
    from toolchain.files import check_new
    from toolchain.model import load
    from toolchain.pipeline import Job, describe_ranks, ranked
    from toolchain.tables import show

    check_new(out, force)
    loaded = load(model, parse_shapes(shapes))
    channels = analyse(loaded, approximate)
    calibration = None if data is None else read_samples(data, loaded, pixels)
    folder = out.with_name(f"{out.name}.partial")
    with progress(context) as (_, advance), opened(executor, workers, folder) as running:
        job = Job(
            model,
            out,
            "",
            calibration,
            criterion=criterion,
            layers=layers,
            steps=steps,
            samples=samples,
            target=target,
            seed=seed,
            threads=threads,
            max_memory=max_memory,
            workers=running,
            sampled=parse_cuts(cuts),
        )
        found = ranked(job, loaded, channels, advance)
        save_ranks(found, out, force)
    show(
        [
            {
                "group": n,
                "units": len(s),
                "dead": int(found.dead[n].sum()),
                "lowest": float(s.min()),
                "median": float(sorted(s)[len(s) // 2]),
                "highest": float(s.max()),
            }
            for n, s in found.scores.items()
        ],
        "table",
    )
    click.echo(describe_ranks(found))
    click.echo(f"wrote {out}")


@cli.command()
@MODEL
@click.option("--at", "cut", required=True, metavar="VALUE", help="The activation to attribute to.")
@TARGET
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("gradient.onnx"), show_default=True)
@SHAPE
@FORCE
def gradient(model: Path, cut: str, target: str | None, out: Path, shapes: tuple[str, ...], force: bool) -> None:
    """Write the attribution graph itself as ONNX: standard ops, to be run wherever onnxruntime runs."""
    from toolchain.compress.gradient import attribution_graph, described
    from toolchain.files import check_new
    from toolchain.model import load, save
    from toolchain.provenance import asked, deciding, signed
    from toolchain.tables import show

    check_new(out, force)
    loaded = load(model, parse_shapes(shapes))
    graph = attribution_graph(loaded, cut, target)
    decided = deciding("gradient", 0, {"at": cut, "target": target}, {})
    save(signed(asked(loaded.with_ir(graph.ir), decided)), out, force)
    show(
        [{"": kind, "name": name, "shape": shape, "what": what} for kind, name, shape, what in described(graph)],
        "table",
    )
    click.echo(f"wrote {out}")


@cli.command()
@MODEL
@click.argument("pruned", type=click.Path(path_type=Path))
@click.option(
    "--plan", "plan_file", type=click.Path(path_type=Path), required=True, help="The plan.json that made PRUNED."
)
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Calibration samples; no labels needed.")
@click.option("--method", type=click.Choice(["least-squares", "mean"]), default="least-squares", show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("recovered.onnx"), show_default=True)
@PIXELS
@SHAPE
@SEED
@THREADS
@FORCE
@click.pass_context
def recover(
    context: click.Context,
    model: Path,
    pruned: Path,
    plan_file: Path,
    data: Path,
    method: str,
    out: Path,
    pixels: str,
    shapes: tuple[str, ...],
    seed: int,
    threads: int,
    force: bool,
) -> None:
    """Refit the layers behind a cut to the dense MODEL's own values: no labels, no training."""
    from toolchain.compress.groups import analyse
    from toolchain.compress.plan import load_plan
    from toolchain.compress.recover import LAMBDAS
    from toolchain.compress.recover import recover as refit
    from toolchain.compress.surgery import digest
    from toolchain.compress.surgery import prune as cut
    from toolchain.files import check_new
    from toolchain.model import load, save
    from toolchain.provenance import asked, deciding, signed
    from toolchain.tables import show

    check_new(out, force)
    dense = load(model, parse_shapes(shapes))
    plan = load_plan(plan_file, dense)
    channels = analyse(dense, plan.approximate)
    removed = plan.labels(channels)
    given = load(pruned, parse_shapes(shapes))
    expected = cut(dense, channels, removed)
    differing = [
        n
        for n, v in expected.graph.initializers.items()
        if v.shape != getattr(given.graph.initializers.get(n), "shape", None)
    ]
    if differing:
        raise UsageError(
            f"{pruned} does not come from this model and plan: tensor '{differing[0]}' differs",
            way_out="Make it with jettison prune --plan",
        )
    samples = read_samples(data, dense, pixels)
    with progress(context) as (_, advance):
        recovered, refits = refit(
            dense,
            given,
            channels,
            removed,
            samples.inputs,
            ridges=LAMBDAS if method == "least-squares" else LAMBDAS[-1:],
            seed=seed,
            threads=threads,
            progress=advance,
        )
    decided = deciding("recover", seed, {"method": method}, {"data": samples, "original": dense})
    save(signed(asked(recovered, decided), digest(plan.removed)), out, force)
    show(
        [
            {"layer": r.layer, "held-out error before": r.before, "after": r.after, "ridge": r.ridge, "few": r.note}
            for r in refits
        ],
        "table",
    )
    click.echo(f"wrote {out}")


@cli.command()
@MODEL
@TO
@click.option(
    "--calibration", type=click.Path(path_type=Path), help="Real samples that decide the ranges of int8 activations."
)
@click.option(
    "--data", type=click.Path(path_type=Path), help="Samples to check on, labelled for accuracy; seeded noise without."
)
@MAX_DROP
@PROFILE
@click.option("--opset", type=int, help="Of the ONNX file: a lower one than its own, if every node can be said there.")
@out_folder("jettison-out")
@PIXELS
@SHAPE
@SEED
@THREADS
@FORMAT
@FORCE
def export(model: Path, out: Path, shapes: tuple[str, ...], form: str, **asked: Any) -> None:
    """Write other formats of a model, each checked against onnxruntime."""
    from dataclasses import asdict

    from toolchain.model import load
    from toolchain.pipeline import asked_of, emission, quantised
    from toolchain.pipeline.quantised import check_rows, warnings
    from toolchain.provenance import asked as asked_for
    from toolchain.provenance import changed, deciding

    loaded = load(model, parse_shapes(shapes))
    job = exporting(model, out, loaded, **asked)
    choices = {k: v for k, v in changed(job).items() if k in ("opset", "profile")}
    loaded = asked_for(loaded, deciding("export", job.seed, choices, {"calibration": job.calibration}))
    with results_in(out):
        results = destinations(job)
        integers = asked_of(job, results)
        about = [asdict(f) for f in emission(job, loaded, results)]
        rows = quantised(integers, loaded)
    exported(about, rows, form)
    for row in rows:
        for text in warnings(row):
            click.echo(f"jettison: warning: {row['path']}: {text}", err=True)
    for path in results.values():
        if form == "table" and path.exists():
            click.echo(f"wrote {path}")
    if not all(f["passed"] for f in about):
        raise GateFailed(
            "an emitted file differs from its model", way_out="Report the op that it names in jettison inspect"
        )
    for check in check_rows(rows):
        if not check["passed"]:
            raise GateFailed(f"{check['name']}: {check['value']}, {check['limit']}", way_out=check["message"])


def exporting(
    model: Path,
    out: Path,
    loaded: Any,
    formats: str,
    calibration: Path | None,
    data: Path | None,
    pixels: str,
    **rest: Any,
) -> Any:
    """What was asked for as a job; raises UsageError for a format that there is none of."""
    from toolchain.pipeline import FORMATS, Job

    wanted = tuple(dict.fromkeys(f.strip() for f in formats.split(",") if f.strip()))
    for form in wanted:
        if form not in FORMATS:
            raise UsageError(f"unknown format '{form}'", way_out=f"Use {', '.join(FORMATS)}")
    read = lambda path: None if path is None else read_samples(path, loaded, pixels)
    seen, known = read(data), read(calibration)
    return Job(model, out, "", known, () if seen is None else (seen,), formats=wanted, **rest)


def destinations(job: Any) -> dict[str, Path]:
    """Where each file goes; raises UsageError for one that may not be replaced."""
    from toolchain.emit import QUANTISED
    from toolchain.files import check_new

    stem = job.model.stem
    results = {f: job.out / (QUANTISED[f].file(stem) if f in QUANTISED else f"{stem}.{f}") for f in job.formats}
    for path in results.values():
        if path.resolve() == job.model.resolve():
            raise UsageError(f"{path} would replace the model itself", way_out="Give another folder with -o")
        check_new(path, job.force)
    return results


def exported(files: list[dict[str, Any]], quantised: list[dict[str, Any]], form: str) -> None:
    """Print what was emitted: everything as JSON, else one line for each file."""
    import json

    from toolchain.tables import show

    if form == "json":
        print(json.dumps({"emitted": files, "quantised": quantised}, indent=1))
        return
    keys = ("file", "format", "bytes", "samples", "off by", "same answer %", "before %", "after %", "passed")
    share = lambda x: None if x is None else round(100 * x, 3)
    rows = [
        (f["path"], f["format"], f["bytes"], f["samples"], f["max_rel"], None, None, None, f["passed"]) for f in files
    ]
    for q in quantised:
        j = q["judged"][0]
        found = (j["n"], j["deviation"], share(j["same_answer"]), share(j["before"]), share(j["after"]), q["passed"])
        rows.append((q["path"], q["format"], q["bytes"], *found))
    show([dict(zip(keys, row, strict=True)) for row in rows], form)
