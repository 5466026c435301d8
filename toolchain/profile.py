"""What a model costs, counted from its graph: parameters, multiply-accumulates, file bytes and the activation arena.

Every count takes `shape`, a function from values to dimensions, so that a plan is costed without cutting anything.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from toolchain.inference import asking
from toolchain.model import Model
from toolchain.onnx_file import varint, without_graph
from toolchain.ops import activation, arithmetic, normalisation
from toolchain.ops.table import Shape, dims, find, is_sized, is_view

ALIGNMENT = 16  # bytes, as in TensorFlow Lite Micro
ELEMENTWISE = (activation.same, arithmetic.broadcast, normalisation.batchnorm_channels)  # rules of ops of each element


@dataclass(frozen=True)
class Layer:
    """One node's share; macs None where its op is not in the table or has no count."""

    name: str
    op: str
    params: int
    macs: int
    output_shape: tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """Counts of one model for a single sample; arena in bytes of float32 activations."""

    params: int
    macs: int
    flash_bytes: int
    arena_bytes: int
    layers: tuple[Layer, ...]


def profile(model: Model, shape: Shape = dims) -> Profile:
    """Count everything."""
    counted: set[ir.Value] = set()
    layers = tuple(layer(n, shape, counted) for n in model.graph)
    return Profile(params(model, shape), macs(model, shape), flash(model, shape), arena(model, shape), layers)


def is_weight(value: ir.Value) -> bool:
    """Float initializers are parameters; shapes and indices are not."""
    return value.dtype is not None and value.dtype.is_floating_point()


def params(model: Model, shape: Shape = dims) -> int:
    """Elements of all float parameters."""
    return sum(math.prod(shape(v)) for v in model.graph.initializers.values() if is_weight(v))


def macs(model: Model, shape: Shape = dims) -> int:
    """Multiply-accumulates of one sample in convolutions and matrix products."""
    return sum(node_macs(n, shape) for n in model.graph)


def node_macs(node: ir.Node, shape: Shape) -> int:
    """Multiply-accumulates of one node."""
    entry = find(node)
    with asking(node):
        return entry.macs(node, shape) if entry is not None and entry.macs is not None and is_sized(node) else 0


def layer(node: ir.Node, shape: Shape, counted: set[ir.Value]) -> Layer:
    """One row of `jettison inspect`; a shared weight belongs to its first layer, and is `counted` from then on."""
    weights = {v for v in node.inputs if v is not None and v.const_value is not None and is_weight(v)} - counted
    counted |= weights
    first = node.outputs[0]
    size = tuple(max(d, -1) for d in shape(first)) if first.shape is not None else ()
    count = sum(math.prod(shape(v)) for v in weights)
    return Layer(node.name or str(first.name), node.op_type, count, node_macs(node, shape), size)


def node_bytes(node: ir.Node) -> int:
    """Bytes of the tensors that are stored with a node; a shared one counts for each of its readers."""
    stored = {v for v in node.inputs if v is not None and v.const_value is not None}
    return sum(v.const_value.nbytes for v in stored if v.const_value is not None)


def flash(model: Model, shape: Shape = dims) -> int:
    """Bytes of the ONNX file."""
    return file_bytes(structure_bytes(model), tensor_bytes(model, shape))


def file_bytes(structure: int, tensors: int) -> int:
    """Bytes of a file of this structure and these tensors, with the length that stands in front of its graph."""
    return structure + tensors + len(varint(structure + tensors))


def tensor_bytes(model: Model, shape: Shape = dims) -> int:
    """Bytes that the file spends on stored tensors."""
    return sum(stored(v, shape(v)) for v in model.graph.initializers.values())


def stored(value: ir.Value, size: tuple[int, ...]) -> int:
    """Bytes of one initializer in the file: its data, and the fields around it."""
    assert value.dtype is not None
    data = -(-math.prod(size) * value.dtype.bitwidth // 8)
    head = onnx.TensorProto(dims=size, data_type=int(value.dtype), name=str(value.name)).ByteSize()
    body = head + 1 + len(varint(data)) + data
    return 1 + len(varint(body)) + body


def metadata_bytes(told: Mapping[str, str]) -> int:
    """Bytes of further metadata in the file."""
    return onnx.ModelProto(metadata_props=[{"key": k, "value": v} for k, v in told.items()]).ByteSize()


def structure_bytes(model: Model) -> int:
    """Bytes of the file around the tensors and the graph's length: nodes, names, shapes."""
    graph = model.graph
    outputs = [v for n in graph for v in n.outputs if not v.is_graph_output() and (v.shape is not None or v.type)]
    values = [*graph.inputs, *graph.outputs, *outputs]
    parts = [ir.serde.serialize_node(n).ByteSize() for n in graph] + [
        ir.serde.serialize_value(v).ByteSize() for v in values
    ]
    around = ir.to_proto(without_graph(model.ir))
    return around.ByteSize() - len(varint(around.graph.ByteSize())) + sum(1 + len(varint(p)) + p for p in parts)


@dataclass(frozen=True)
class Buffers:
    """Where a graph's activations live, and which of these places are needed at the same time.

    values  the value whose size each buffer has, [b]
    beside  buffers whose lives overlap with each, [b]
    """

    values: tuple[ir.Value, ...]
    beside: tuple[tuple[int, ...], ...]

    def height(self, sizes: Sequence[int]) -> int:
        """Bytes of the pile that these sizes make."""
        return max((o + size for o, size in zip(placed(sizes, self.beside), sizes, strict=True) if size), default=0)


def placed(sizes: Sequence[int], beside: Sequence[Sequence[int]]) -> list[int]:
    """Offset of each buffer: largest first, the later of two equals first, each as low as its life leaves room.

    beside  for each buffer those whose lives overlap with it; a buffer of size 0 gets no place, which is -1
    """
    low = [-1] * len(sizes)
    for i in sorted((i for i, size in enumerate(sizes) if size), key=lambda i: (-sizes[i], -i)):
        offset = 0
        for start, end in sorted((low[k], low[k] + sizes[k]) for k in beside[i] if low[k] >= 0):
            if offset + sizes[i] <= start:
                break
            offset = max(offset, end)
        low[i] = offset
    return low


def arena(model: Model, shape: Shape = dims) -> int:
    """Peak bytes of activations when buffers are placed greedily, largest first (Lee & Pisarchyk 2020)."""
    found = buffers(model)
    return found.height([size_of(v, shape) for v in found.values])


@dataclass(frozen=True)
class Moment:
    """What a model keeps in memory while a node runs: (value, bytes) of each buffer, the largest first."""

    node: ir.Node
    held: tuple[tuple[ir.Value, int], ...]

    @property
    def bytes(self) -> int:
        """Of all buffers together; the arena may be higher, by the gaps that lie between them."""
        return sum(size for _, size in self.held)


def moments(model: Model, shape: Shape = dims) -> tuple[Moment, ...]:
    """One for each node, in the order in which they run."""
    values, spans = lives(model)
    sizes = [size_of(v, shape) for v in values]
    found = []
    for i, node in enumerate(model.graph):
        alive = [(v, s) for v, s, (first, last) in zip(values, sizes, spans, strict=True) if s and first <= i <= last]
        found.append(Moment(node, tuple(sorted(alive, key=lambda held: -held[1]))))
    return tuple(found)


def buffers(model: Model, copied: Collection[ir.Value] = ()) -> Buffers:
    """Where activations live, and beside what."""
    values, spans = lives(model, copied)
    return Buffers(tuple(values), overlapping(spans))


def lives(model: Model, copied: Collection[ir.Value] = ()) -> tuple[list[ir.Value], list[list[int]]]:
    """The value whose size each buffer has, and its life [first, last] in numbers of nodes.

    Views share their input's buffer, and so does an elementwise op of one tensor that nobody reads afterwards.

    copied  values that have a buffer of their own in any case
    """
    order = list(model.graph)
    last = {v: len(order) for v in model.graph.outputs}
    for i, node in enumerate(order):
        for v in node.inputs:
            if v is not None and v.const_value is None:
                last[v] = max(last.get(v, i), i)
    owner: dict[ir.Value, int] = {}
    values: list[ir.Value] = []
    spans: list[list[int]] = []
    for v in model.graph.inputs:
        owner[v] = len(values)
        values.append(v)
        spans.append([0, last.get(v, 0)])
    for i, node in enumerate(order):
        source = node.inputs[0] if node.inputs else None
        for v in node.outputs:
            if source in owner and v not in copied and takes_over(node, source, v, last, i):
                owner[v] = owner[source]  # type: ignore[index]
                spans[owner[v]][1] = max(spans[owner[v]][1], last.get(v, i))
            else:
                owner[v] = len(values)
                values.append(v)
                spans.append([i, last.get(v, i)])
    return values, spans


def overlapping(lives: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """For each life [first, last] the others that share a moment with it."""
    first, last = np.array(lives, np.int64).reshape(-1, 2).T
    together = (first[:, None] <= last) & (first <= last[:, None])
    np.fill_diagonal(together, False)
    return tuple(tuple(np.flatnonzero(row).tolist()) for row in together)


def takes_over(node: ir.Node, source: ir.Value | None, value: ir.Value, last: dict[ir.Value, int], i: int) -> bool:
    """Whether an output can live in the buffer of its node's first input."""
    if is_view(node):
        return True
    computed = [v for v in node.inputs if v is not None and v.const_value is None]
    is_alone = is_elementwise(node) and len(computed) == 1 and source is computed[0]
    return is_alone and last[computed[0]] == i and size_of(computed[0], dims) == size_of(value, dims)


def is_elementwise(node: ir.Node) -> bool:
    """Whether each element of the output is made of one element of each input."""
    entry = find(node)
    return entry is not None and entry.channels in ELEMENTWISE


def size_of(value: ir.Value, shape: Shape) -> int:
    """Bytes of one sample of a value, rounded up to the alignment."""
    if value.shape is None or value.dtype is None:
        return 0
    count = abs(math.prod(shape(value)))
    return -(-count * value.dtype.bitwidth // 8 // ALIGNMENT) * ALIGNMENT
