"""Commands that only read: inspect, groups, ops, doctor."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolchain import __version__
from toolchain.cli.app import cli
from toolchain.cli.options import APPROXIMATE, FORMAT, MODEL, SHAPE, parse_shapes
from toolchain.errors import UsageError

if TYPE_CHECKING:
    from toolchain.model import Model


@cli.command()
@MODEL
@click.option("--memory", is_flag=True, help="What is in memory while each layer runs, in the order in which they do.")
@SHAPE
@FORMAT
def inspect(model: Path, memory: bool, shapes: tuple[str, ...], form: str) -> None:
    """Parameters, MACs, file bytes and arena of a model; layers by size, the largest first.

    Of a .tflite file: its ops with their weights, and the arena that TFLite Micro needs for it.
    """
    if model.suffix == ".tflite":
        inspect_lite(model, memory, form)
        return
    from toolchain.model import load
    from toolchain.profile import profile
    from toolchain.tables import show

    loaded = load(model, parse_shapes(shapes))
    if memory:
        inspect_memory(loaded, form)
        return
    counted = profile(loaded)
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
        if loaded.batch != "free":
            click.echo(f"runs at batch {loaded.batch} only: {loaded.held_by}")


def inspect_memory(model: Model, form: str) -> None:
    """Layers in the order in which they run, with the activations that are alive meanwhile, and the fullest moment."""
    from toolchain.profile import arena, moments, node_bytes
    from toolchain.tables import show

    seen = moments(model)
    rows = [
        {
            "layer": m.node.name or str(m.node.outputs[0].name),
            "op": m.node.op_type,
            "weight bytes": node_bytes(m.node),
            "arena bytes": m.bytes,
            "held": holding((str(v.name), size) for v, size in m.held),
        }
        for m in seen
    ]
    show(rows, form)
    if form == "table" and seen:
        fullest = max(rows, key=lambda r: r["arena bytes"])
        click.echo(f"fullest at {fullest['op']} '{fullest['layer']}': {fullest['arena bytes']:,} bytes for one sample")
        click.echo(f"arena {arena(model):,} bytes as buffers are placed")


def holding(buffers: Iterable[tuple[str, int]]) -> str:
    """Names and sizes of buffers."""
    return ", ".join(f"{name} {size:,}" for name, size in buffers)


def inspect_lite(path: Path, memory: bool, form: str) -> None:
    """Ops in the order in which they run, with what is in the arena meanwhile, and where it is fullest."""
    from toolchain.emit.contents import contents, undamaged
    from toolchain.emit.kernels import lacking
    from toolchain.emit.micro import arena
    from toolchain.tables import show
    from toolchain.validate import read_bytes

    file = contents(read_bytes(path, "a model"), str(path))
    with undamaged(str(path)):
        planned, lacks = arena(file), lacking(file)
    rows = []
    for i, op in enumerate(file.ops):
        result, weights = file.made(op), {t for t in op.inputs if t >= 0 and file.tensors[t].stored_bytes}
        row: dict[str, Any] = {"result": result.name, "op": op.code, "type": result.type, "output": list(result.shape)}
        row["weight bytes"] = sum(file.tensors[t].stored_bytes for t in weights)
        row["arena bytes"] = sum(b.bytes for b in planned.alive(i))
        if memory:
            row["held"] = holding((b.name, b.bytes) for b in planned.alive(i))
        rows.append(row)
    show(rows, form)
    if form != "table":
        return
    click.echo(f"file {path.stat().st_size:,} bytes · arena of TFLite Micro {planned.head_bytes:,} bytes")
    if planned.peak is not None:
        held = ", ".join(f"{b.name} {b.bytes:,} at {b.offset:,}" for b in planned.alive(planned.peak))
        click.echo(f"highest at {rows[planned.peak]['op']} '{rows[planned.peak]['result']}': {held}")
    for name in planned.unknown:
        click.echo(f"at least: the scratch of {name} is not known")
    for lack in lacks:
        click.echo(f"not for TFLite Micro: '{lack.name}': {lack.because}")


@cli.command()
@MODEL
@click.option("--why", "why", metavar="NAME", help="Why this parameter's rows cannot be removed.")
@APPROXIMATE
@SHAPE
@FORMAT
def groups(model: Path, why: str | None, approximate: bool, shapes: tuple[str, ...], form: str) -> None:
    """What can be removed together, and why the rest cannot."""
    from toolchain.compress.groups import analyse
    from toolchain.model import load
    from toolchain.tables import show

    channels = analyse(load(model, parse_shapes(shapes)), approximate)
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
        {
            "group": g.name,
            "kind": g.kind,
            "units": len(g),
            "params of each": channels.params(g),
            "owns": ", ".join(map(owned, g.slots)),
        }
        for g in channels.groups
    ]
    frozen = [{"parameter": p, "axis": a, "because": r} for p, a, r in channels.frozen()]
    if form == "json":
        import json

        click.echo(json.dumps({"groups": rows, "frozen": frozen}, indent=1))
        return
    show(rows, form)
    if frozen:
        show(frozen, form, "cannot be removed")


def owned(slot: Any) -> str:
    """weight[axis], with the rows that each unit owns there if there are several."""
    return f"{slot.parameter}[{slot.axis}]" + (f"×{slot.rows}" if slot.rows > 1 else "")


SUPPORT = {  # column -> the rule in the op's entry
    "channels": "channels", "vjp": "vjp", "lrp": "lrp", "macs": "macs", "torch": "torch", "tflite": "lite",
}  # fmt: skip


@cli.command()
@FORMAT
def ops(form: str) -> None:
    """The support matrix: whether units pass each ONNX op, and what else it can be asked for."""
    from toolchain.ops import OPS
    from toolchain.tables import show

    known = {
        name: {told: getattr(entry, rule) is not None for told, rule in SUPPORT.items()} for name, entry in OPS.items()
    }
    show([{"op": name} | known[name] for name in sorted(known)], form)


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
        ("matplotlib", "figures"),
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
