"""Models as the toolchain sees them: one opset, constants folded, static shapes but for a free batch.

Shapes are found by walking the graph twice, with batches of 2 and of 3. A dimension that is the same in both is static,
one that grows with the batch is k·N, and a value that is the same in both is a constant, however many Shape, Gather and
Concat nodes an exporter spent on it. A file whose batch is fixed is walked in the same way with its batch set free; if
the graph does not allow that, or would mix samples then, the batch stays as it was.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from toolchain.batch import BATCH, Reader, mixing, stretch
from toolchain.errors import BadInput, Unsupported, UsageError, nearest
from toolchain.files import write_atomic
from toolchain.inference import Known, Uninferable, infer
from toolchain.onnx_file import contents, pieces, places
from toolchain.opset import lowered, own_opset
from toolchain.plain import parameter, simplify, targets
from toolchain.validate import check_graph, check_order, check_parameters, read_proto

logging.getLogger("onnx_ir").addHandler(logging.NullHandler())  # what it says of a file goes to nobody's terminal
LARGEST_INPUT = 1 << 32  # numbers of one sample
LARGE = 1024  # bytes; smaller parameters say shapes and axes, which the lift has to read
OPSET = 20  # older files are lifted to it; the op table holds from here to NEWEST
NEWEST = 26
OLDEST = 7


@dataclass(frozen=True)
class Model:
    """A network, never edited after it was made: stages clone `ir` before they change it.

    ir      opset ≥ 20, parameters owned by one node each, every known shape static but for the batch
    sha256  of the file that it was read from
    batch   "free", or the only batch size that the graph can run at
    held_by  why the batch is not free, "" where it is
    settings  what is asked for, as JSON, for whatever is made of it to tell
    """

    ir: ir.Model
    sha256: str
    opset: int
    batch: str | int = "free"
    held_by: str = ""
    settings: str = ""

    @property
    def graph(self) -> ir.Graph:
        """The graph."""
        return self.ir.graph

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shape of each input without its batch axis."""
        return {str(v.name): tuple(d for d in list(v.shape or ())[1:] if isinstance(d, int)) for v in self.graph.inputs}

    def with_ir(self, changed: ir.Model) -> Model:
        """This model with another graph."""
        return replace(self, ir=changed)

    def to_bytes(self) -> bytes:
        """The ONNX file, in the opset of the one that it was read from where that can say it."""
        return b"".join(pieces(self.ir, own_opset(self.ir, self.opset)))


def load(path: Path | str, shapes: dict[str, tuple[int, ...]] | None = None) -> Model:
    """Read, validate and normalise an ONNX file.

    shapes  input name -> full shape with its batch, for inputs that the file leaves open

    Raises BadInput for what is not a sound ONNX file, Unsupported for an opset outside 7…26, UsageError where the shape
    of an input is open.
    """
    path = Path(path)
    proto, sha256 = read_proto(path)
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    if not opset:
        raise BadInput("names no opset: it is damaged or truncated", str(path))
    if proto.ir_version > onnx.IR_VERSION:
        version = f"IR version {proto.ir_version} is newer than {onnx.IR_VERSION}"
        raise Unsupported(version, str(path), "Re-export with an older onnx")
    if not OLDEST <= opset <= NEWEST:
        older = "older than 7" if opset < OLDEST else f"newer than {NEWEST}"
        raise Unsupported(f"opset {opset} is {older}", str(path), "Re-export with an opset from 7 to 26")
    check_graph(proto, path)
    if proto.functions:
        proto = inlined(proto, path)
    try:
        light, weights = unloaded(proto)
        del proto
        model = ir.from_proto(lifted(light) if opset < OPSET else light)
    except (ir.serde.SerdeError, UnicodeDecodeError) as error:
        raise BadInput(f"is no sound ONNX model: {root_of(error)}", str(path)) from error
    reload(model.graph, weights)
    own_parameters(model.graph)
    check_parameters(model.graph, path)
    batch, held_by = settle(model.graph, shapes or {}, path)
    return Model(model, sha256, opset, batch, held_by)


def inlined(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model with the bodies of its functions in place of their calls."""
    import onnx.inliner

    try:
        whole = onnx.inliner.inline_local_functions(proto)
    except (RuntimeError, onnx.checker.ValidationError, DecodeError) as error:
        raise BadInput(f"calls functions that cannot be inlined: {root_of(error)}", str(path)) from error
    check_order(whole.graph, path)
    return whole


def root_of(error: BaseException) -> str:
    """The first line of what began a chain of errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def said_in(model: Model, opset: int) -> Model:
    """The same network in a lower opset; raises Unsupported with the node that cannot be said there."""
    return replace(model, ir=lowered(model.ir, opset), opset=opset)


def save(model: Model, path: Path | str, force: bool = False) -> None:
    """Write the ONNX file atomically; above 2 GiB with its large parameters in a file beside it, which comes first."""
    from toolchain.files import check_new

    path, opset = Path(path), own_opset(model.ir, model.opset)
    check_new(path, force)
    outside = places(model.graph, f"{path.name}.data")
    if outside:
        beside = path.with_name(f"{path.name}.data")
        check_new(beside, force)
        write_atomic(beside, lambda file: file.writelines(contents(model.graph, outside)))
    write_atomic(path, lambda file: file.writelines(pieces(model.ir, opset, outside)))


# ---- weights and opset ---------------------------------------------------------------------------------------------
def unloaded(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, ir.Tensor | None]]:
    """The model with its large parameters as inputs, and their arrays; None, in the file's order, for the small ones.

    A tensor of protobuf's is copied whenever it is looked at, and by every step that makes a model from a model.
    """
    weights: dict[str, ir.Tensor | None] = dict.fromkeys(t.name for t in proto.graph.initializer)
    large = {t.name: t for t in proto.graph.initializer if t.ByteSize() > LARGE}
    for name, tensor in large.items():
        known = ir.serde.TensorProtoTensor(tensor)
        weights[name] = ir.Tensor(known.numpy(), dtype=known.dtype, name=name, doc_string=tensor.doc_string)
    light = without_initializers(proto, large)
    listed = {i.name for i in light.graph.input}
    for name, tensor in large.items():
        if name not in listed:
            light.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
    return light, weights


def reload(graph: ir.Graph, weights: dict[str, ir.Tensor | None]) -> None:
    """Give the values that stand for large parameters their arrays; all parameters in the file's order.

    Their shapes and types are those of the arrays: what else a file says of them, or leaves out, does not count.
    """
    values = {str(v.name): v for v in (*graph.inputs, *graph.initializers.values())}
    for name in [n for n in weights if n in values]:
        value, tensor = values[name], weights[name]
        value.const_value = value.const_value if tensor is None else tensor
        graph.initializers.pop(name, None)
        graph.initializers[name] = value
        if value.const_value is not None:
            value.shape = ir.Shape(value.const_value.shape.numpy())
            value.type = ir.TensorType(value.const_value.dtype)


def lifted(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model in opset 20, by onnx's own converter."""
    proto.ir_version = max(proto.ir_version, 10)
    try:
        return onnx.version_converter.convert_version(proto, OPSET)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise Unsupported(f"onnx cannot lift the model to opset {OPSET}: {root_of(error)}") from error


def without_initializers(proto: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy of the model that leaves these initializers out."""
    left_out = set(names)
    kept = [t for t in proto.graph.initializer if t.name not in left_out]
    graph = onnx.GraphProto(name=proto.graph.name or "graph", doc_string=proto.graph.doc_string)
    graph.node.extend(proto.graph.node)
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    graph.value_info.extend(proto.graph.value_info)
    graph.initializer.extend(kept)
    about = ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string")
    copy = onnx.ModelProto(graph=graph, **{k: getattr(proto, k) for k in about})
    copy.opset_import.extend(proto.opset_import)
    copy.functions.extend(proto.functions)
    copy.metadata_props.extend(proto.metadata_props)
    return copy


# ---- parameters ----------------------------------------------------------------------------------------------------
def own_parameters(graph: ir.Graph) -> None:
    """Initializers are no inputs, Constant nodes are initializers, and small constants belong to one node each.

    Exporters merge equal constants, which would tie the layers that share them (a DenseNet: 89 groups instead of 120).
    Shared weights with two or more axes that are longer than 1 are meant, and stay shared.
    """
    names = set(graph.initializers)
    for value in [v for v in graph.inputs if v.name in names]:
        graph.inputs.remove(value)
    for node in list(graph):
        if node.op_type == "Constant" and node.domain == "" and constant_tensor(node) is not None:
            hold(graph, node.outputs[0], constant_tensor(node))
    taken = {str(v.name) for v in (*graph.inputs, *graph.initializers.values(), *(o for n in graph for o in n.outputs))}
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        uses = list(value.uses())
        if tensor is None or len(uses) < 2:
            continue
        if tensor.dtype.is_floating_point() and sum(d != 1 for d in tensor.shape.numpy()) > 1:
            continue
        for number, use in enumerate(uses[1:], start=2):
            name = f"{value.name}.{number}"
            while name in taken:
                name += "'"
            taken.add(name)
            copy = parameter(name, tensor)
            graph.initializers[name] = copy
            use.node.replace_input_with(use.idx, copy)


def constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor of a Constant node, or None for the kinds that hold no tensor."""
    for key, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if key in node.attributes:
            return ir.tensor(np.array(node.attributes[key].value, dtype))
    return node.attributes["value"].as_tensor() if "value" in node.attributes else None


def hold(graph: ir.Graph, value: ir.Value, tensor: ir.TensorProtocol | None) -> None:
    """Replace a computed value by an initializer of the same name and drop its node."""
    assert tensor is not None
    node = value.producer()
    assert node is not None
    name = value.name
    held = parameter(str(name), tensor)
    ir.convenience.replace_all_uses_with(value, held, replace_graph_outputs=True)
    value.name = f"{name}.folded"
    graph.initializers[str(name)] = held
    if not any(o.uses() for o in node.outputs):
        graph.remove(node, safe=True)


# ---- shapes --------------------------------------------------------------------------------------------------------
def settle(graph: ir.Graph, given: dict[str, tuple[int, ...]], path: Path) -> tuple[str | int, str]:
    """Fold constants and write every shape, with the batch free if the graph allows it.

    Returns the batch, and what holds it where it is not free.
    """
    names = [str(v.name) for v in graph.inputs]
    for name in given.keys() - set(names):
        raise UsageError(f"has no input '{name}' to give a shape", str(path), nearest(name, names))
    inputs = {v: input_shape(v, given, path) for v in graph.inputs}
    for value, shape in inputs.items():
        if (count := math.prod(d or 1 for d in shape)) > LARGEST_INPUT:
            raise BadInput(f"input '{value.name}' takes {count:,} numbers, limit {LARGEST_INPUT:,}", str(path))
    firsts = {s[0] for s in inputs.values() if s}
    if None in firsts and firsts != {None}:
        raise UsageError(f"the inputs of {path.name} disagree on the batch", way_out="Give --shape for each")
    try:
        if firsts == {None}:
            two, three = (infer(graph, {v: (b, *s[1:]) for v, s in inputs.items()}) for b in (2, 3))
            simplify(graph, two)
            apply(graph, two, three)
            return "free", ""
        only = infer(graph, inputs)
    except Uninferable as error:
        raise BadInput(str(error), str(path)) from error
    simplify(graph, only)
    held_by = "its inputs have no common batch"
    if len(firsts) == 1 and all(inputs.values()):
        (batch,) = firsts
        held_by = freed(graph, inputs, only, batch)
        if not held_by:
            return "free", ""
    apply(graph, only, only)
    return (next(iter(firsts)) if len(firsts) == 1 else 1), held_by


def freed(graph: ir.Graph, inputs: dict[ir.Value, tuple[int, ...]], only: dict[ir.Value, Known], batch: int) -> str:
    """Write shapes with a free batch; returns why that is not possible, and then leaves the graph as it was.

    only  the walk with the file's own batch
    """
    readers = [Reader(only, (b, batch)) for b in (2, 3)]
    try:
        two, three = (infer(graph, {v: (r.ratio[0], *s[1:]) for v, s in inputs.items()}, r) for r in readers)
    except Uninferable as error:
        return str(error)
    if because := mixing(graph, two, three, readers[0].merged):
        return because
    stretch(graph, two, three)
    apply(graph, two, three)
    return ""


def input_shape(value: ir.Value, given: dict[str, tuple[int, ...]], path: Path) -> tuple[Any, ...]:
    """An input's shape with None for an open batch."""
    name = str(value.name)
    if name in given:
        return given[name]
    if value.shape is None:
        raise UsageError(f"input '{name}' has no shape", str(path), f"Give --shape {name}:1,…")
    sizes = [d if isinstance(d, int) and d > 0 else None for d in value.shape]
    if None in sizes[1:]:
        shown = ", ".join("?" if d is None else str(d) for d in sizes)
        raise UsageError(f"input '{name}' is ({shown})", str(path), f"Give --shape {name}:1,… with every dimension")
    return tuple(sizes)


def apply(graph: ir.Graph, two: dict[ir.Value, Known], three: dict[ir.Value, Known]) -> None:
    """Write what two walks agree on: shapes, constants, and what nodes are told of shapes."""
    for value in (*graph.inputs, *(o for n in graph for o in n.outputs)):
        if value in two:
            write_shape(value, two[value], three[value])
    targets(graph)
    fold(graph, two, three)


def fold(graph: ir.Graph, two: dict[ir.Value, Known], three: dict[ir.Value, Known]) -> None:
    """Turn values that are equal in both walks into initializers, and drop what nothing reads any more."""
    for node in reversed(list(graph)):
        for value in node.outputs:
            a, b = two.get(value), three.get(value)
            if a is None or b is None or a.array is None or b.array is None or not np.array_equal(a.array, b.array):
                continue
            if value.uses() or value.is_graph_output():
                hold(graph, value, ir.tensor(a.array))
        if not any(v.uses() or v.is_graph_output() for v in node.outputs) and node.graph is not None:
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def write_shape(value: ir.Value, two: Known, three: Known) -> None:
    """Static where both walks agree, k·N where the size is k times the batch, else unknown."""
    value.type = None if two.dtype is None else ir.TensorType(two.dtype)
    if two.shape is None or three.shape is None or len(two.shape) != len(three.shape):
        value.shape = None
        return
    sizes: list[int | str] = []
    for a, b in zip(two.shape, three.shape, strict=True):
        if a == b:
            sizes.append(a)
        elif 3 * a == 2 * b:
            sizes.append(BATCH if a == 2 else f"{a // 2}*{BATCH}")
        else:
            value.shape = None
            return
    value.shape = ir.Shape(sizes)
