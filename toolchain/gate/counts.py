"""What is counted in a file, the same on every computer: its bytes, parameters, multiply-accumulates and arena."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.errors import Unsupported

if TYPE_CHECKING:
    from toolchain.emit.contents import Contents
    from toolchain.model import Model

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Figure:
    """A quantity's value today.

    grade    counted or measured; they are never mixed
    largest  what takes most of it
    noise    relative; None for what is the same every time
    least    what a repetition may come down to; None where none does
    note     what else is to be known of it
    """

    value: float
    grade: str = "counted"
    largest: str = ""
    noise: float | None = None
    least: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Subject:
    """A file under the gate, with the figures that were taken of it.

    name    as the configuration calls it
    inputs  shapes of its inputs, without the batch where it is free
    model   what was read of an ONNX file
    """

    name: str
    path: Path
    sha256: str
    inputs: Mapping[str, tuple[int, ...]]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    model: Model | None = None


def subject(name: str, path: Path, shapes: Shapes, wanted: Collection[str]) -> Subject:
    """A file and its counts; raises BadInput for what is no sound model."""
    return (lite_subject if path.suffix.lower() == ".tflite" else onnx_subject)(name, path, shapes, wanted)


# ---- ONNX -----------------------------------------------------------------------------------------------------------
def onnx_subject(name: str, path: Path, shapes: Shapes, wanted: Collection[str]) -> Subject:
    """Counts of a network for one sample."""
    from toolchain.model import load

    model = load(path, shapes)
    counts: dict[str, Callable[[], Figure]] = {
        "flash": lambda: Figure(file_bytes(path, model), largest=largest_bytes(model)),
        "params": lambda: largest_layer(model, "params", "parameters"),
        "macs": lambda: largest_layer(model, "macs", "multiply-accumulates"),
        "ram": lambda: fullest(model),
    }
    found = {quantity: count() for quantity, count in counts.items() if quantity in wanted}
    return Subject(name, path, model.sha256, model.inputs, found, model)


def file_bytes(path: Path, model: Model) -> int:
    """Bytes on disk, with the files beside it that hold its tensors."""
    size = path.stat().st_size
    stored = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    if stored <= size:
        return size
    import onnx

    from toolchain.validate import tensors_of

    proto = onnx.load(path, load_external_data=False)
    told = [{e.key: e.value for e in t.external_data} for t in tensors_of(proto, path) if t.data_location == t.EXTERNAL]
    return size + sum((path.parent / name).stat().st_size for name in {t["location"] for t in told})


def largest_bytes(model: Model) -> str:
    """The node with the most stored bytes."""
    from toolchain.profile import node_bytes

    sizes = {node: node_bytes(node) for node in model.graph}
    node = max(sizes, key=lambda n: sizes[n], default=None)
    return "" if node is None else f"{node.op_type} '{node.name or node.outputs[0].name}' with {sizes[node]:,} bytes"


def largest_layer(model: Model, quantity: str, spoken: str) -> Figure:
    """A sum over layers."""
    from toolchain.ops.table import dims
    from toolchain.profile import layer

    counted: set = set()
    layers = [layer(node, dims, counted) for node in model.graph]
    most = max(layers, key=lambda l: getattr(l, quantity), default=None)
    told = "" if most is None else f"{most.op} '{most.name}' with {getattr(most, quantity):,} {spoken}"
    return Figure(total(model, quantity), largest=told)


def total(model: Model, quantity: str) -> int:
    """Of all layers; parameters that no node reads count too."""
    from toolchain import profile

    return {"params": profile.params, "macs": profile.macs}[quantity](model)


def fullest(model: Model) -> Figure:
    """The arena, and the node that runs when most of it is in use."""
    from toolchain.profile import arena, moments

    most = max(moments(model), key=lambda m: m.bytes, default=None)
    if most is None:
        return Figure(arena(model))
    held = ", ".join(f"{v.name} {size:,}" for v, size in most.held[:3])
    name = most.node.name or most.node.outputs[0].name
    return Figure(
        arena(model), largest=f"{most.node.op_type} '{name}' with {most.bytes:,} bytes held meanwhile: {held}"
    )


# ---- TFLite ---------------------------------------------------------------------------------------------------------
def lite_subject(name: str, path: Path, shapes: Shapes, wanted: Collection[str]) -> Subject:
    """Counts of a TFLite file; the arena is TFLite Micro's."""
    from toolchain.emit.contents import contents
    from toolchain.validate import read_bytes

    raw = read_bytes(path, "a model")
    file = contents(raw, str(path))
    if "macs" in wanted:
        raise Unsupported(
            "multiply-accumulates of a .tflite are not counted", str(path), "Limit those of its ONNX file"
        )
    kept = [t for t in file.tensors if t.stored_bytes and (t.scales or t.type.startswith(("FLOAT", "BFLOAT")))]
    largest = max((t for t in file.tensors if t.stored_bytes), key=lambda t: t.stored_bytes, default=None)
    weight = "" if largest is None else f"tensor '{largest.name}' with {largest.stored_bytes:,} bytes"
    counts: dict[str, Callable[[], Figure]] = {
        "flash": lambda: Figure(len(raw), largest=weight),
        "params": lambda: Figure(sum(t.elements for t in kept), largest=weight),
        "ram": lambda: lite_arena(file, path),
    }
    found = {quantity: count() for quantity, count in counts.items() if quantity in wanted}
    shapes = {name: file.tensors[t].shape for name, t in file.inputs.items()}
    return Subject(name, path, hashlib.sha256(raw).hexdigest(), shapes, found)


def lite_arena(file: Contents, path: Path) -> Figure:
    """The arena's head; raises Unsupported where the kernel of an op may ask for more than is known."""
    from toolchain.emit.contents import undamaged
    from toolchain.emit.micro import arena

    with undamaged(str(path)):
        planned = arena(file)
    if planned.unknown:
        raise Unsupported(f"the arena is not known: {planned.unknown[0]} may ask for more", str(path), "Leave out ram")
    if planned.peak is None:
        return Figure(planned.head_bytes)
    op = file.ops[planned.peak]
    alive = planned.alive(planned.peak)
    held = ", ".join(f"{b.name} {b.bytes:,}" for b in alive[:3])
    told = f"{op.code} '{file.made(op).name}' with {sum(b.bytes for b in alive):,} bytes held meanwhile: {held}"
    return Figure(planned.head_bytes, largest=told)
