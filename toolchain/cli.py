"""Commands. Each imports what it needs when it runs: `--help` loads no numerical library."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from toolchain import __version__
from toolchain.errors import GateFailed, JettisonError, UsageError

MODEL = click.argument("model", type=click.Path(path_type=Path))
FORMAT = click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv", "md"]), default="table", help="How to print."
)
FORCE = click.option("--force", is_flag=True, help="Replace files that exist.")
SHAPE = click.option(
    "--shape", "shapes", multiple=True, metavar="NAME:1,3,224,224", help="Shape of an input that the file leaves open."
)
SEED = click.option("--seed", default=0, show_default=True, help="Of everything random.")
THREADS = click.option("--threads", default=1, show_default=True, help="Threads of the runtimes.")
PIXELS = click.option(
    "--pixels",
    type=click.Choice(["unit", "raw", "imagenet"]),
    default="unit",
    show_default=True,
    help="How images become numbers: 0..1, 0..255, or ImageNet's mean and deviation.",
)
BUDGET = click.option(
    "--budget",
    required=True,
    help="Like params<=30%, flash<=2MiB, macs<=50%, ram<=1MiB or units<=50%; several with commas.",
)
CRITERION = click.option(
    "--criterion", default="ig", show_default=True, help="ig, ig-abs, taylor, activation, magnitude or random."
)
ALIGN = click.option(
    "--align", default="auto", show_default=True, help="Widths are multiples of this: auto, off or a number."
)
KEEP = click.option("--keep", multiple=True, metavar="GLOB", help="Groups to leave alone.")
LAYERS = click.option("--layers", default="*", metavar="GLOB", help="Groups to rank; the others stay whole.")
STEPS = click.option(
    "--steps", default=16, show_default=True, help="Nodes of the quadrature; doubled until complete within 2 %."
)
SAMPLES = click.option("--samples", default=256, show_default=True, help="Samples to rank on, balanced over classes.")
MEMORY = click.option(
    "--max-memory", default=1024, show_default=True, help="MiB that the activations of one ranking run may take."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "JETTISON"})
@click.version_option(__version__, prog_name="jettison")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no stage lines.")
@click.option("--debug", is_flag=True, help="Show the traceback of an internal error.")
@click.pass_context
def cli(context: click.Context, quiet: bool, debug: bool) -> None:
    """Make trained networks small, fast and explainable enough to fly: ONNX in, smaller ONNX and TFLite out, with a proof."""
    context.obj |= {"quiet": quiet, "debug": debug}


# ---- the main job --------------------------------------------------------------------------------------------------
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
    help="Further labelled samples to report accuracy on; never used to choose.",
)
@BUDGET
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("jettison-out"),
    show_default=True,
    help="Folder of the results.",
)
@CRITERION
@ALIGN
@KEEP
@LAYERS
@STEPS
@SAMPLES
@MEMORY
@click.option("--per-class", is_flag=True, help="Keep attributions to every class in ranks.npz.")
@click.option("--no-recover", is_flag=True, help="Leave the kept weights as they are.")
@click.option("--to", "formats", default="onnx,tflite", show_default=True, help="Files to emit.")
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
    from toolchain.data import load_samples
    from toolchain.model import load

    loaded = load(model, parse_shapes(shapes))
    calibration = None if data is None else load_samples(data, loaded, pixels)
    finish(context, model, loaded, calibration, tuple(load_samples(p, loaded, pixels) for p in held_out), asked)


@cli.command()
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo-out"),
    show_default=True,
    help="Folder of the results.",
)
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
        settings["max_memory"] = settings["max_memory"] << 20
    job = Job(path, calibration=calibration, held_out=held_out, arguments=tuple(context.obj["arguments"]), **settings)
    with progress(context) as (say, advance):
        report = compress_model(job, model, say, advance)
    summary(report)
    for name in ("model.onnx", "model.tflite", "plan.json", "ranks.npz", "report.json", "report.html"):
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
        row(f"latency {b['runtime']} µs", b["ns"]["p50"] / 1e3, a["ns"]["p50"] / 1e3)
        for b, a in zip(bench[::2], bench[1::2], strict=True)
    ]
    for a in report["accuracy"]:
        last = a["after_recover"] if a["after_recover"] is not None else a["after_prune"]
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


# ---- reading -------------------------------------------------------------------------------------------------------
@cli.command()
@MODEL
@SHAPE
@FORMAT
def inspect(model: Path, shapes: tuple[str, ...], form: str) -> None:
    """Parameters, MACs, file bytes and arena of a model; layers by size, the largest first."""
    from toolchain.model import load
    from toolchain.profile import profile
    from toolchain.tables import show

    counted = profile(load(model, parse_shapes(shapes)))
    layers = sorted(counted.layers, key=lambda l: (-l.params, -l.macs))
    rows = [
        {"layer": l.name, "op": l.op, "params": l.params, "macs": l.macs, "output": list(l.output_shape)}
        for l in layers
        if l.params or l.macs
    ]
    total = {"layer": "total", "op": "", "params": counted.params, "macs": counted.macs, "output": []}
    show([*rows, total], form)
    if form == "table":
        click.echo(f"file {counted.flash_bytes:,} bytes · arena {counted.arena_bytes:,} bytes for one sample")


@cli.command()
@MODEL
@click.option("--why", "why", metavar="NAME", help="Why this parameter's rows cannot be removed.")
@SHAPE
@FORMAT
def groups(model: Path, why: str | None, shapes: tuple[str, ...], form: str) -> None:
    """What can be removed together, and why the rest cannot."""
    from toolchain.compress.groups import analyse
    from toolchain.model import load
    from toolchain.tables import show

    channels = analyse(load(model, parse_shapes(shapes)))
    if why is not None:
        if why not in channels.values:
            raise UsageError(
                f"there is no tensor '{why}'", way_out="Names are those of jettison groups and jettison inspect"
            )
        shape = channels.values[why].shape
        rows = [
            {"axis": a, "size": str(s), "frozen because": channels.why(why, a) or "removable"}
            for a, s in enumerate(shape or ())
        ]
        show(rows, form)
        return
    rows = [
        {"group": g.name, "kind": g.kind, "units": len(g), "owns": ", ".join(f"{s.parameter}[{s.axis}]" + (f"×{s.rows}" if s.rows > 1 else "") for s in g.slots)}
        for g in channels.groups
    ]  # fmt: skip
    frozen = [{"parameter": p, "axis": a, "because": r} for p, a, r in channels.frozen()]
    if form == "json":
        import json

        click.echo(json.dumps({"groups": rows, "frozen": frozen}, indent=1))
        return
    show(rows, form)
    if frozen:
        show(frozen, form, "cannot be removed")


@cli.command()
@FORMAT
def ops(form: str) -> None:
    """The support matrix: what is known of each ONNX op."""
    from dataclasses import fields

    from toolchain.ops import OPS
    from toolchain.tables import show

    rows = []
    for name, entry in sorted(OPS.items()):
        rows.append({"op": name} | {f.name: getattr(entry, f.name) is not None for f in fields(entry)[1:]})
    show(rows, form)


# ---- the stages, one by one ----------------------------------------------------------------------------------------
@cli.command()
@MODEL
@click.option("--data", type=click.Path(path_type=Path), help="Samples to rank on.")
@CRITERION
@LAYERS
@STEPS
@SAMPLES
@MEMORY
@click.option("--per-class", is_flag=True, help="Attributions to every class too, not to the loss alone.")
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
    layers: str,
    steps: int,
    samples: int,
    max_memory: int,
    per_class: bool,
    out: Path,
    pixels: str,
    shapes: tuple[str, ...],
    seed: int,
    threads: int,
    force: bool,
) -> None:
    """Score every unit by what it contributes; writes ranks.npz."""
    from toolchain.compress.criteria import save_ranks
    from toolchain.compress.groups import analyse
    from toolchain.data import load_samples
    from toolchain.files import check_new
    from toolchain.model import load
    from toolchain.pipeline import Job, describe_ranks, ranked
    from toolchain.tables import show

    check_new(out, force)
    loaded = load(model, parse_shapes(shapes))
    channels = analyse(loaded)
    calibration = None if data is None else load_samples(data, loaded, pixels)
    job = Job(
        model,
        out,
        "",
        calibration,
        criterion=criterion,
        layers=layers,
        steps=steps,
        samples=samples,
        per_class=per_class,
        seed=seed,
        threads=threads,
        max_memory=max_memory << 20,
    )
    with progress(context) as (_, advance):
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
@click.option("--ranks", "ranks_file", type=click.Path(path_type=Path), help="Scores from jettison rank.")
@click.option("--criterion", default="magnitude", show_default=True, help="Without --ranks: magnitude or random.")
@click.option("--budget", help="Like params<=30%.")
@ALIGN
@KEEP
@click.option(
    "--order",
    type=click.Choice(["lowest", "highest", "random"]),
    default="lowest",
    show_default=True,
    help="Which units of a group go first.",
)
@click.option("--plan", "plan_file", type=click.Path(path_type=Path), help="Use this plan.json instead of a budget.")
@click.option("--plan-out", type=click.Path(path_type=Path), help="Write the plan.")
@click.option(
    "--mask-only", is_flag=True, help="Multiply by zero instead of removing: what the pruned model must equal."
)
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("pruned.onnx"), show_default=True)
@SHAPE
@SEED
@FORCE
def prune(
    model: Path,
    ranks_file: Path | None,
    criterion: str,
    budget: str | None,
    align: str,
    keep: tuple[str, ...],
    order: str,
    plan_file: Path | None,
    plan_out: Path | None,
    mask_only: bool,
    dry_run: bool,
    out: Path,
    shapes: tuple[str, ...],
    seed: int,
    force: bool,
) -> None:
    """Plan and cut: what remains keeps its values bit for bit and its names."""
    import numpy as np

    from toolchain.compress import criteria, surgery
    from toolchain.compress.groups import analyse
    from toolchain.compress.plan import load_plan, make_plan, save_plan
    from toolchain.files import check_new
    from toolchain.model import load, save
    from toolchain.tables import show

    if (budget is None) == (plan_file is None):
        raise UsageError(
            "a budget or a plan is needed, not both", way_out="Give --budget params<=30%, or --plan plan.json"
        )
    for path in (out, plan_out):
        if path is not None and not dry_run:
            check_new(path, force)
            if path.resolve() == model.resolve():
                raise UsageError(f"{path} would replace the model itself", way_out="Give another name with -o")
    loaded = load(model, parse_shapes(shapes))
    channels = analyse(loaded)
    if plan_file is not None:
        plan = load_plan(plan_file, loaded, channels)
    else:
        assert budget is not None
        if ranks_file is not None:
            found = criteria.load_ranks(ranks_file, loaded, channels)
        else:
            found = criteria.rank(
                "random" if order == "random" else criterion,
                criteria.Evidence(loaded, channels, {}, np.zeros(0, np.int64), seed=seed),
            )
        scores = {n: -s for n, s in found.scores.items()} if order == "highest" else found.scores
        if order == "random":
            generator = np.random.default_rng(seed)
            scores = {n: generator.permutation(len(s)).astype(float) for n, s in scores.items()}
        plan = make_plan(loaded, channels, scores, found.dead if order == "lowest" else {}, budget, align, keep)
    show([{"group": n, "before": b, "after": a} for n, (b, a) in plan.widths.items()], "table")
    show(
        [
            {"": q, "before": b, "after": a, "kept %": round(100 * a / b, 2) if b else None}
            for q, (b, a) in plan.costs.items()
        ],
        "table",
    )
    if dry_run:
        return
    act = surgery.mask if mask_only else surgery.prune
    save(act(loaded, channels, plan.labels(channels)), out, force)
    click.echo(f"wrote {out}")
    if plan_out is not None:
        save_plan(plan, plan_out, force)
        click.echo(f"wrote {plan_out}")


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
    from toolchain.compress.surgery import prune as cut
    from toolchain.data import load_samples
    from toolchain.files import check_new
    from toolchain.model import load, save
    from toolchain.tables import show

    check_new(out, force)
    dense = load(model, parse_shapes(shapes))
    channels = analyse(dense)
    removed = load_plan(plan_file, dense, channels).labels(channels)
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
    samples = load_samples(data, dense, pixels)
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
    save(recovered, out, force)
    show(
        [{"layer": r.layer, "held-out error before": r.before, "after": r.after, "ridge": r.ridge} for r in refits],
        "table",
    )
    click.echo(f"wrote {out}")


@cli.command()
@MODEL
@click.argument("pruned", type=click.Path(path_type=Path))
@click.option(
    "--plan", "plan_file", type=click.Path(path_type=Path), help="Compare PRUNED with MODEL masked by this plan.json."
)
@click.option("--data", type=click.Path(path_type=Path), help="Samples to compare on; seeded noise without.")
@PIXELS
@SHAPE
@SEED
@THREADS
@FORMAT
def verify(
    model: Path,
    pruned: Path,
    plan_file: Path | None,
    data: Path | None,
    pixels: str,
    shapes: tuple[str, ...],
    seed: int,
    threads: int,
    form: str,
) -> None:
    """Prove that PRUNED equals MODEL: masked by a plan, or as it is; a .tflite is run in LiteRT."""
    from dataclasses import asdict

    from toolchain.compress.groups import analyse
    from toolchain.compress.plan import load_plan
    from toolchain.compress.surgery import mask
    from toolchain.data import load_samples
    from toolchain.model import load
    from toolchain.tables import show
    from toolchain.verify import compare, probes

    reference = load(model, parse_shapes(shapes))
    inputs = probes(reference, seed=seed) if data is None else load_samples(data, reference, pixels).first(64).inputs
    against = "MODEL"
    if plan_file is not None:
        channels = analyse(reference)
        reference = mask(reference, channels, load_plan(plan_file, reference, channels).labels(channels))
        against = "MODEL masked by the plan"
    if pruned.suffix == ".tflite":
        from toolchain import emit
        from toolchain.validate import read_bytes

        read_bytes(pruned, "a model")
        checked = asdict(emit.check(reference, pruned, dict(inputs)))
    else:
        proof = compare(reference, load(pruned, parse_shapes(shapes)), inputs, against, threads=threads)
        checked = asdict(proof) | {"passed": proof.passed}
    show([{"": k, "value": v} for k, v in checked.items()] if form == "table" else [checked], form)
    if not checked["passed"]:
        raise GateFailed(f"{pruned} differs from {against} by {checked['max_rel']:.1e} of its largest output")


@cli.command()
@MODEL
@click.option("--to", "formats", default="onnx,tflite", show_default=True, help="Files to emit.")
@click.option("--data", type=click.Path(path_type=Path), help="Samples to check on; seeded noise without.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("jettison-out"),
    show_default=True,
    help="Folder of the files.",
)
@PIXELS
@SHAPE
@SEED
@FORCE
def export(
    model: Path,
    formats: str,
    data: Path | None,
    out: Path,
    pixels: str,
    shapes: tuple[str, ...],
    seed: int,
    force: bool,
) -> None:
    """Write other formats of a model, each checked against onnxruntime."""
    from toolchain.data import load_samples
    from toolchain.files import check_new
    from toolchain.model import load
    from toolchain.pipeline import FORMATS, Job, emission
    from toolchain.tables import show

    wanted = tuple(f.strip() for f in formats.split(",") if f.strip())
    unknown = set(wanted) - set(FORMATS)
    if unknown:
        raise UsageError(f"unknown format '{min(unknown)}'", way_out=f"Use {', '.join(FORMATS)}")
    out.mkdir(parents=True, exist_ok=True)
    results = {f: out / f"{model.stem}.{f}" for f in wanted}
    for path in results.values():
        if path.resolve() == model.resolve():
            raise UsageError(f"{path} would replace the model itself", way_out="Give another folder with -o")
        check_new(path, force)
    loaded = load(model, parse_shapes(shapes))
    samples = None if data is None else load_samples(data, loaded, pixels)
    _, rows = emission(Job(model, out, "", samples, formats=wanted, seed=seed), loaded, results)
    show(rows, "table")
    for path in results.values():
        click.echo(f"wrote {path}")
    if not all(r["passed"] for r in rows):
        raise GateFailed(
            "an emitted file differs from its model", way_out="Report the op that it names in jettison inspect"
        )


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


@cli.command()
@FORMAT
def doctor(form: str) -> None:
    """Versions, runtimes and processor features of this computer."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from toolchain.tables import show

    rows = [
        {"what": "jettison", "found": __version__, "for": ""},
        {"what": "python", "found": platform.python_version(), "for": ""},
    ]
    for name, use in (
        ("numpy", "core"),
        ("onnx", "core"),
        ("onnx-ir", "core"),
        ("onnxruntime", "ranking, proof, latency"),
        ("ai-edge-litert", "TFLite files and their check"),
        ("tflite-runtime", "older boards (numpy < 2)"),
        ("torch", "retraining"),
    ):
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "not installed"
        rows.append({"what": name, "found": found, "for": use})
    flags = processor_features()
    rows.append(
        {
            "what": "processor",
            "found": f"{platform.machine()}, {os.cpu_count()} cores, {' '.join(flags) or 'no vector extensions named'}",
            "for": "",
        }
    )
    show(rows, form)


def processor_features() -> list[str]:
    """Vector extensions that decide which kernels run."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    known = ("avx", "avx2", "avx512f", "avx512_vnni", "amx_int8", "neon", "asimd", "asimddp", "i8mm", "sve")
    words = set(text.split())
    return [k for k in known if k in words]


# ---- plumbing ------------------------------------------------------------------------------------------------------
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


def main() -> None:
    """Entry point: one line for a user's mistake, its exit code, and a traceback only for our own bugs."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        cli.main(args=arguments, prog_name="jettison", standalone_mode=False, obj={"arguments": arguments})
        code = 0
    except click.exceptions.Exit as done:
        code = done.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = complain("interrupted", 130)
    except JettisonError as error:
        code = complain(str(error), error.exit_code)
    except click.ClickException as error:
        code = complain(error.format_message().rstrip(".") + ". See jettison --help", 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader went away: nothing is left to say
        code = 0
    except MemoryError:
        code = complain("out of memory. Try a lower --max-memory or fewer samples", 3)
    except Exception as error:
        if debug:
            traceback.print_exc()
        code = complain(f"internal error: {type(error).__name__}: {error}. Run again with --debug and report it", 70)
    sys.exit(code)


def complain(text: str, code: int) -> int:
    """One line on stderr."""
    from toolchain.errors import printable

    click.echo(f"jettison: error: {printable(text)}", err=True)
    return code


if __name__ == "__main__":
    main()
