"""Commands that measure and report: bench, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolchain.cli.app import cli
from toolchain.cli.options import FORCE, FORMAT, THREADS
from toolchain.errors import BadInput, GateFailed, RunnerFailed, UsageError

if TYPE_CHECKING:
    from targets.compare import Change
    from targets.measure import Measurement

PROFILED = 20  # inferences that tell the time of each op, in each round


def parse_tolerance(context: click.Context, option: click.Parameter, text: str) -> float:
    """'15%' -> 0.15; raises UsageError."""
    try:
        share = float(text.removesuffix("%")) / 100 if text.endswith("%") else -1.0
    except ValueError:
        share = -1.0
    if not 0 <= share < float("inf"):
        raise UsageError(f"cannot read the tolerance '{text}'", way_out="Write it like 15%")
    return share


@cli.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path), is_eager=True)
@click.option("--runtime", type=click.Choice(["ort", "litert", "tflite"]), help="By the file's kind if not given.")
@click.option(
    "--target",
    default="local",
    show_default=True,
    metavar="local|ssh://[USER@]HOST[:PORT]|NAME",
    help="Where to measure; NAME is an emulated board, see jettison targets list.",
)
@click.option("--runs", type=click.IntRange(1), help="Timed inferences: 100, or 3 where instructions are counted.")
@click.option("--warmup", type=click.IntRange(0), help="Untimed ones before them: 10, or 1 where they are counted.")
@click.option("--inputs", type=click.Path(path_type=Path), metavar="FILE", help=".npz with an array per input.")
@click.option("--timeout", type=click.FloatRange(1), metavar="SECONDS", help="For each run of a model.")
@click.option(
    "--off-by", type=click.FloatRange(0), default=1e-5, show_default=True, metavar="SHARE",
    help="How far answers on a board may be from those here, relative to the largest; int8 outputs: a step at least.",
)  # fmt: skip
@click.option("--ops", is_flag=True, help="The time of each op too, the largest first; onnxruntime only.")
@click.option("--save", type=click.Path(path_type=Path), metavar="FILE", help="Keep the rows, for --compare.")
@click.option(
    "--compare", type=click.Path(path_type=Path), metavar="FILE",
    help="Rows that were saved: exit 1 if a model is slower now, beyond tolerance and noise.",
)  # fmt: skip
@click.option(
    "--tolerance", default="15%", show_default=True, callback=parse_tolerance, help="What --compare lets pass."
)
@FORCE
@THREADS
@FORMAT
def bench(
    models: tuple[Path, ...],
    runtime: str | None,
    target: str,
    ops: bool,
    save: Path | None,
    compare: Path | None,
    tolerance: float,
    force: bool,
    form: str,
    **sampling: Any,
) -> None:
    """Latency and memory, each model in child processes of its own, turn by turn; here, on a board or an emulated one.

    Grades are never mixed: "measured" is time on that processor, "counted" is instructions, the same on every computer.
    On qemu-user, which has neither, bench tells whether a model runs on that processor and answers as here.
    """
    from targets.compare import rows
    from toolchain.files import check_new, write_text
    from toolchain.gate.taking import runners_as_errors
    from toolchain.validate import read_bytes

    for path in models:
        read_bytes(path, "a model")
    if sampling["inputs"] is not None:
        read_bytes(sampling["inputs"], "a .npz")
    if save is not None:
        check_new(save, force)
    before = None if compare is None else saved(compare)
    with runners_as_errors():
        from targets.measure import runtime_for
        from targets.runners import runner_of

        pairs = [(p, runtime or runtime_for(p)) for p in models]
        if runner_of(target) == "user":
            try_out(target, pairs, sampling, form)
            return
        found = taken(target, pairs, ops, sampling)
    if save is not None:
        write_text(save, rows(found).decode())
    if before is not None:
        judge(before, found, tolerance, form, str(compare))
        return
    print_rows(found, form)
    if form == "table" and save is not None:
        click.echo(f"wrote {save}")


def taken(target: str, pairs: list[tuple[Path, str]], ops: bool, sampling: dict[str, Any]) -> list[Measurement]:
    """A measurement of each model."""
    from targets.runners import Asked, measure_on

    count = min(sampling["runs"] or PROFILED, PROFILED) if ops else 0
    own = {name: sampling[name] for name in ("runs", "warmup", "threads", "inputs")}
    asked = Asked(**own, ops=count, timeout_s=sampling["timeout"], tolerance=sampling["off_by"])
    return measure_on(target, pairs, asked)


def try_out(target: str, pairs: list[tuple[Path, str]], sampling: dict[str, Any], form: str) -> None:
    """Whether the models run on a processor that has no clock here; RunnerFailed if one does not, or answers otherwise.

    There is no grade: nothing is timed.
    """
    from targets.virtual import measure_user
    from toolchain.tables import show

    asked = {"threads": sampling["threads"], "inputs": sampling["inputs"], "tolerance": sampling["off_by"]}
    tried = measure_user(pairs, target, **asked)
    rows = [
        {
            "model": Path(t.model).name,
            "runtime": t.runtime,
            "target": t.target,
            "runs": t.why_not is None,
            "same bits": t.is_same_hash,
            "difference": t.output_difference,
        }
        for t in tried
    ]
    show(rows, form)
    for trial in tried:
        if trial.why_not is not None:
            raise RunnerFailed(trial.why_not, target)
        if not trial.is_alike:
            told = f"its answers differ from this computer's by {trial.output_difference:.3g} relative"
            raise RunnerFailed(
                f"{Path(trial.model).name}: {told}",
                target,
                "Try another --runtime, the float32 file, or a larger --off-by",
            )


def saved(path: Path) -> list[Measurement]:
    """The rows of a file that --save wrote; BadInput for anything else."""
    from targets.compare import read_rows
    from toolchain.validate import read_bytes

    try:
        return read_rows(bytes(read_bytes(path, "rows of jettison bench")))
    except ValueError as error:
        raise BadInput(f"has no rows of jettison bench: {error}", str(path), "Save some with --save") from error


# ---- how it is shown ------------------------------------------------------------------------------------------------


def print_rows(found: list[Measurement], form: str) -> None:
    """The rows themselves; as JSON with everything but the samples."""
    from targets.measure import as_row
    from toolchain.tables import show

    if form == "json":
        import json

        click.echo(json.dumps([as_row(m) for m in found], indent=1))
        return
    show([row(m) for m in found], form)
    for m in found:
        if m.ops:
            show(op_rows(m), form, f"{Path(m.model).name}: ops, {m.grade}")
        for name, used in (m.energy_uj or {}).items() if form == "table" else ():
            click.echo(f"{Path(m.model).name}: {used / 1e3:.4g} mJ an inference by {name}, idle power included")


def row(m: Measurement) -> dict[str, Any]:
    """A measurement's line; memory beyond what Python and the runtime take is init's and the inferences'."""
    times = {"init": m.init_ns, "first": m.first_ns, "min": m.ns.min, "p50": m.ns.p50, "p90": m.ns.p90, "p99": m.ns.p99}
    rss = m.rss_bytes
    return {
        "model": Path(m.model).name,
        "runtime": m.runtime,
        "target": m.target,
        "grade": m.grade,
        **{f"{name} {m.millions}": ns / 1e6 for name, ns in times.items()},
        "noise %": 100 * m.noise,
        "init MiB": None if None in (rss.after_init, rss.baseline) else mebibytes(rss.after_init - rss.baseline),  # type: ignore[operator]
        "model MiB": mebibytes(m.peak_over_baseline_bytes),
        "peak MiB": mebibytes(m.peak_rss_bytes),
    }


def mebibytes(count: int | None) -> float | None:
    """Bytes as MiB, where known."""
    return None if count is None else count / 2**20


def op_rows(m: Measurement) -> list[dict[str, Any]]:
    """The ops of a model, the largest first, with their share of all."""
    total = max(sum(op.ns for op in m.ops), 1)
    return [
        {"node": op.name, "op": op.op, m.thousands: op.ns / 1e3, "share %": 100 * op.ns / total}
        for op in sorted(m.ops, key=lambda op: -op.ns)
    ]


def judge(before: list[Measurement], after: list[Measurement], tolerance: float, form: str, source: str) -> None:
    """Show what changed; raises GateFailed for a regression, UsageError for rows that cannot be compared."""
    from targets.compare import NotComparable, compared
    from toolchain.tables import show

    try:
        changes = compared(before, after, tolerance)
    except NotComparable as error:
        raise UsageError(str(error), source) from error
    show([change_row(c) for c in changes], form)
    slower = [Path(c.after.model).name for c in changes if c.is_regression]
    if slower:
        raise GateFailed(f"slower than {source}: {', '.join(slower)}", way_out="Accept it with --save, or --tolerance")


def change_row(change: Change) -> dict[str, Any]:
    """Before and after, in one line."""
    unit = change.after.millions
    return {
        "model": Path(change.after.model).name,
        "runtime": change.after.runtime,
        "target": change.after.target,
        "grade": change.after.grade,
        f"before {unit}": change.before.ns.p50 / 1e6,
        f"after {unit}": change.after.ns.p50 / 1e6,
        "change %": 100 * change.relative,
        "noise %": 100 * change.noise,
        "allowed %": 100 * change.allowed,
        "before MiB": mebibytes(change.before.peak_over_baseline_bytes),
        "after MiB": mebibytes(change.after.peak_over_baseline_bytes),
        "slower": change.is_regression,
    }


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Write report.html again from FOLDER/report.json."""
    import json

    from toolchain.files import write_text
    from toolchain.report.page import render
    from toolchain.validate import read_bytes

    source = folder / "report.json"
    try:
        body = json.loads(read_bytes(source, "a report.json"))
    except (ValueError, RecursionError) as error:
        raise BadInput("is no JSON", str(source)) from error
    try:  # a report is read once, by the page, which finds what is damaged where it uses it
        write_text(folder / "report.html", render(body))
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        raise BadInput("is no report.json of jettison, or damaged", str(source), "Run compress again") from error
    click.echo(f"wrote {folder / 'report.html'}")
