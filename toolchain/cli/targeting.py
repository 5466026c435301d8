"""The group `jettison targets`: boards, what is known of them, and what a model should take there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolchain.cli.app import cli
from toolchain.cli.configured import defaults
from toolchain.cli.options import FORMAT, MODEL, SHAPE, parse_shapes, progress
from toolchain.errors import BadInput, UsageError

if TYPE_CHECKING:
    from targets.board import Board, Figure, Range
    from targets.estimate import Calibration, Estimate, Fit

NAME = click.argument("name")
PROGRAMS = (
    ("ssh", "openssh-client", "boards over SSH"),
    ("tar", "tar", "pushing files to boards"),
    ("qemu-aarch64", "qemu-user", "whether a model runs on another processor at all"),
    ("qemu-system-aarch64", "qemu-system-arm", "emulated boards that count instructions"),
    ("dpkg-deb", "dpkg", "building emulated boards"),
)
RUNTIMES = (
    ("onnxruntime", "measuring .onnx here"),
    ("ai-edge-litert", "measuring .tflite here"),
    ("tflite-runtime", "measuring .tflite as older boards do; numpy < 2, so in an environment of its own"),
    ("pip", "fetching wheels for boards without a package index"),
)


@cli.group()
@click.pass_context
def targets(context: click.Context) -> None:
    """Boards: what there is, what is known of each, and what a model should take there."""
    context.default_map = defaults(context)


@targets.command("list")
@FORMAT
def list_boards(form: str) -> None:
    """Every board with a descriptor."""
    from targets.board import boards
    from toolchain.tables import show

    with boards_as_usage():
        show([summary(board) for board in boards().values()], form)


@targets.command("show")
@NAME
@FORMAT
def show_board(name: str, form: str) -> None:
    """Each figure of a board with its source and how far to trust it; NAME may be a .toml file of your own."""
    import msgspec

    from targets.board import board
    from targets.kernels import KERNELS
    from toolchain.tables import show

    with boards_as_usage():
        found = board(name)
    if form == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=1).decode())
        return
    rows = [
        {"figure": key, "value": spoken(key, figure), "confidence": figure.confidence, "source": figure.source}
        for key, figure in found.facts().items()
    ]
    rows += [
        {
            "figure": f"runtime {r.name}",
            "value": f"{r.package}{f' ({r.wheel})' if r.wheel else ''}",
            "confidence": "high",
            "source": r.source,
        }
        for r in found.runtimes
    ]
    rows += [
        {
            "figure": "kernels",
            "value": name,
            "confidence": "",
            "source": KERNELS[name].source if name in KERNELS else "",
        }
        for name in found.kernels
    ]
    show(rows, form, f"{found.title}: {found.core}, {found.isa}, {found.endian} endian; reached: {found.runner}")


@targets.command("estimate")
@MODEL
@click.option("--target", "names", multiple=True, required=True, metavar="NAME", help="A board or its .toml; repeat.")
@click.option(
    "--kernels", metavar="NAME", help="Kernels of the library that will run it; the board's first if not given."
)
@click.option(
    "--calibrate",
    "measured",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='One row of jettison bench --format json from the board; of it are read "model" (an ONNX file), "grade", '
    '"threads" and "ns": {"p50": …}, so a row written by hand will do.',
)
@SHAPE
@FORMAT
def estimate_model(
    model: Path, names: tuple[str, ...], kernels: str | None, measured: Path | None, shapes: tuple[str, ...], form: str
) -> None:
    """The time a model should take on boards that are not here, as an interval, and whether it fits.

    One core, one thread, one sample. Memory is the model's own: weights and arena, without runtime and application.
    """
    from targets.board import board
    from targets.estimate import estimate, kernels_of
    from targets.kernels import KERNELS
    from toolchain.model import load
    from toolchain.tables import show
    from toolchain.workload import size, works

    if measured is not None and len(names) > 1:
        raise UsageError("a measured row calibrates one board", way_out="Give --target once with --calibrate")
    with boards_as_usage():
        chosen = [(b, kernels_of(b, kernels)) for b in map(board, names)]
    loaded = load(model, parse_shapes(shapes))
    found = []
    with boards_as_usage():
        for b, k in chosen:
            known = None if measured is None else calibration(measured, b, k.name)
            found.append(estimate(works(loaded), size(loaded), b, k, known))
    if form == "json":
        import json

        click.echo(json.dumps([{"model": str(model)} | record(e) for e in found], indent=1))
        return
    show([row(e) for e in found], form)
    if form == "table":
        for name in dict.fromkeys(e.kernels for e in found):
            click.echo(f"{name}: {KERNELS[name].source}")
        for e in found:
            known = "board's interval" if e.calibrated_by is None else e.calibrated_by
            click.echo(f"{e.board}: CPI {e.cpi[0]:.3g} to {e.cpi[1]:.3g} ({known})")


@targets.command("doctor")
@FORMAT
def check_tools(form: str) -> None:
    """What measuring on boards and emulated boards needs, whether it is here, and how to get it."""
    import shutil
    from importlib.metadata import PackageNotFoundError, version

    from toolchain.tables import show

    rows = [
        {
            "what": program,
            "found": shutil.which(program) or "not here",
            "for": use,
            "way out": "" if shutil.which(program) else f"apt install {package}",
        }
        for program, package, use in PROGRAMS
    ]
    for package, use in RUNTIMES:
        try:
            found, way_out = version(package), ""
        except PackageNotFoundError:
            found, way_out = "not here", f"pip install {package}"
        rows.append({"what": package, "found": found, "for": use, "way out": way_out})
    for name, reason in emulated().items():
        found = "ready" if reason is None else "not ready"
        rows.append({"what": name, "found": found, "for": "emulated", "way out": reason or ""})
    show(rows, form)


@targets.command("setup")
@NAME
@click.pass_context
def set_up(context: click.Context, name: str) -> None:
    """Fetch and build what an emulated board or processor needs, without root, once."""
    from time import monotonic

    from targets.measure import RunnerError
    from targets.virtual import EMULATED, setup
    from toolchain.errors import RunnerFailed, nearest

    if name not in EMULATED:
        raise UsageError(f"there is no emulated board '{name}'", way_out=nearest(name, EMULATED))
    begun = monotonic()
    with progress(context) as (say, _):
        try:
            setup(name, lambda text: say("setup", text, monotonic() - begun))
        except RunnerError as error:
            raise RunnerFailed(str(error)) from error


def emulated() -> dict[str, str | None]:
    """Each emulated board or processor, and why it cannot be used; None if it can."""
    from targets.virtual import EMULATED, is_set_up

    return {name: is_set_up(name) for name in EMULATED}


@contextmanager
def boards_as_usage() -> Iterator[None]:
    """A wrong board or descriptor is the user's mistake on the command line."""
    from targets.board import BoardError

    try:
        yield
    except BoardError as error:
        raise UsageError(str(error)) from error


def calibration(path: Path, board: Board, kernels: str) -> Calibration:
    """CPI of the board from the one measured row in a file."""
    import hashlib

    from targets.estimate import calibrated, kernels_of
    from toolchain.model import load
    from toolchain.validate import read_bytes
    from toolchain.workload import size, works

    row = measured_row(path)
    beside = [p for p in (Path(row["model"]), path.parent / row["model"]) if p.exists()]
    if not beside:
        raise BadInput(f"its model {row['model']} is not here", str(path), "Run where bench ran, or correct the path")
    if "model_sha256" in row and hashlib.sha256(read_bytes(beside[0], "a model")).hexdigest() != row["model_sha256"]:
        raise BadInput(f"{beside[0]} is not the file that was measured", str(path), "Measure again")
    known, p50_ns = load(beside[0]), float(row["ns"]["p50"])
    by = f"{beside[0].name} at {p50_ns / 1e6:.4g} ms"
    return calibrated(works(known), size(known), board, kernels_of(board, kernels), p50_ns, by)


def measured_row(path: Path) -> dict[str, Any]:
    """The one row that `bench --format json` wrote; BadInput if it is none or no measurement of one thread."""
    import json

    from toolchain.validate import read_bytes

    try:
        found = json.loads(read_bytes(path, "a row of jettison bench"))
    except ValueError as error:
        raise BadInput("is no JSON", str(path)) from error
    rows = found if isinstance(found, list) else [found]
    if len(rows) != 1:
        raise BadInput(f"holds {len(rows)} rows, one is needed", str(path), "Keep the one to calibrate with")
    row = rows[0]
    ns = row.get("ns") if isinstance(row, dict) else None
    p50 = ns.get("p50") if isinstance(ns, dict) else None
    if not isinstance(p50, (int, float)) or not 0 < p50 < LONGEST_NS or not isinstance(row.get("model"), str):
        raise BadInput("is no row of jettison bench", str(path), 'It needs "model" and "ns": {"p50": …}')
    if row.get("grade") not in ("measured", "counted"):
        raise BadInput("calibrates with what was not measured", str(path), 'Its "grade" must be measured')
    if row.get("threads", 1) != 1:
        raise BadInput(f"was measured with {row['threads']} threads", str(path), "Measure with --threads 1")
    return row


# ---- how it is shown ------------------------------------------------------------------------------------------------


def summary(board: Board) -> dict[str, Any]:
    """A board's line in the list."""
    value = lambda figure: None if figure is None else figure.value
    return {
        "name": board.name,
        "core": board.core,
        "isa": board.isa,
        "cores": value(board.cores),
        "clock MHz": None if board.clock_hz is None else board.clock_hz.value / 1e6,
        "RAM MiB": None if board.ram_bytes is None else board.ram_bytes.value / 2**20,
        "flash MiB": None if board.flash_bytes is None else board.flash_bytes.value / 2**20,
        "CPI": None if board.cpi is None else f"{board.cpi.low:g}–{board.cpi.high:g}",
        "reached": board.runner,
        "runtimes": ", ".join(r.name for r in board.runtimes),
    }


LONGEST_NS = 1e15  # eleven days: a measured inference is shorter
UNITS = (("bytes_per_s", 1e9, "GB/s"), ("hz", 1e6, "MHz"))


def spoken(key: str, figure: Figure | Range) -> str:
    """A figure with its unit."""
    from targets.board import Range

    if isinstance(figure, Range):
        return f"{figure.low:g} to {figure.high:g}"
    for ending, scale, unit in UNITS:
        if key.endswith(ending):
            return f"{figure.value / scale:g} {unit}"
    return sized(figure.value) if key.endswith("_bytes") else str(figure.value)


def sized(count: float) -> str:
    """Bytes in the largest binary unit that leaves a number above one."""
    for scale, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(count) >= scale:
            return f"{count / scale:.4g} {unit}"
    return f"{count:g} bytes" if count else "none"


def fitting(fit: Fit | None) -> str | None:
    """Yes or no with the margin; None where the board's memory is not known."""
    if fit is None:
        return None
    return f"yes, {sized(fit.margin_bytes)} left" if fit.fits else f"no, {sized(-fit.margin_bytes)} too much"


def row(found: Estimate) -> dict[str, Any]:
    """An estimate's line of the table."""
    return {
        "target": found.board,
        "kernels": found.kernels,
        "grade": found.grade,
        "low ms": in_ms(found.low_ns),
        "high ms": in_ms(found.high_ns),
        "M instructions": "–".join(f"{i / 1e6:.4g}" for i in dict.fromkeys(found.instructions)),
        "bound by": found.bound,
        "fits RAM": fitting(found.ram),
        "fits flash": fitting(found.flash),
    }


def in_ms(ns: float) -> float:
    """Milliseconds, whole ones where there are a thousand: an interval has no more digits to give."""
    return ns / 1e6 if ns < 1e9 else round(ns / 1e6)


def record(found: Estimate) -> dict[str, Any]:
    """An estimate for JSON, with what follows from its memory."""
    from dataclasses import asdict

    plain = asdict(found)
    for name, fit in (("ram", found.ram), ("flash", found.flash)):
        if fit is not None:
            plain[name] |= {"margin_bytes": fit.margin_bytes, "fits": fit.fits}
    return plain
