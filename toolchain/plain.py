"""Nodes in the plainest words that say the same: what follows then has one form of each to know.

Reshape targets are constants with -1 at the batch, Expand targets hold 1 where nothing is repeated, Resize has scales,
Pad has amounts for every axis, a pick of everything in order is a Reshape, first states of zeros are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.inference import Known

RECURRENT = {"LSTM", "GRU", "RNN"}
STATES = (5, 6)  # their inputs with the first states, [directions, batch, hidden]


class Names:
    """Names that no value and no node of a graph has yet."""

    def __init__(self, graph: ir.Graph) -> None:
        made = {name for n in graph for name in (str(n.name), *(str(v.name) for v in n.outputs))}
        self.taken = made | {str(v.name) for v in graph.inputs} | set(graph.initializers)

    def fresh(self, name: str) -> str:
        """This name, with a mark if another value has it."""
        while name in self.taken:
            name += "'"
        self.taken.add(name)
        return name


def parameter(name: str, array: NDArray[Any] | ir.TensorProtocol) -> ir.Value:
    """A new initializer, not yet part of a graph."""
    tensor = ir.tensor(np.ascontiguousarray(array), name=name) if isinstance(array, np.ndarray) else array
    shape = ir.Shape([int(d) for d in tensor.shape.numpy()])
    return ir.Value(name=name, const_value=tensor, shape=shape, type=ir.TensorType(tensor.dtype))


def held(graph: ir.Graph, names: Names, name: str, array: NDArray[Any]) -> ir.Value:
    """A new initializer of the graph."""
    value = parameter(names.fresh(name), array)
    graph.initializers[str(value.name)] = value
    return value


def simplify(graph: ir.Graph, known: dict[ir.Value, Known]) -> None:
    """What can be said more plainly before the batch is set free; shapes and values stay as they are."""
    names = Names(graph)
    for node in list(graph):
        if node.domain:
            continue
        if node.op_type in RECURRENT:
            leave_out_zeros(node)
        elif node.op_type == "Gather":
            reshape_in_order(graph, names, node, known)
        elif node.op_type == "GatherND":
            gather_axes(graph, names, node, known)
        elif node.op_type == "Pad":
            pad_every_axis(graph, names, node, known)


def leave_out_zeros(node: ir.Node) -> None:
    """First states of zeros are what a recurrent net starts from anyway."""
    for i in STATES:
        value = node.inputs[i] if i < len(node.inputs) else None
        if value is not None and value.const_value is not None and not value.const_value.numpy().any():
            node.replace_input_with(i, None)


def reshape_in_order(graph: ir.Graph, names: Names, node: ir.Node, known: Mapping[ir.Value, Known]) -> None:
    """Gather(Reshape(x, [-1]), 0 1 2 …) takes everything where it lies: torch's as_strided of what is contiguous."""
    flat, index = node.inputs[0], node.inputs[1]
    order = None if index is None or index.const_value is None else index.const_value.numpy()
    shape = known[flat].shape if flat is not None and flat in known else None
    producer = None if flat is None else flat.producer()
    if order is None or shape != (order.size,) or not np.array_equal(order.ravel(), np.arange(order.size)):
        return
    is_view = producer is not None and producer.op_type == "Reshape" and producer.domain == ""
    node.replace_input_with(0, producer.inputs[0] if is_view and producer is not None else flat)
    node.replace_input_with(1, held(graph, names, f"{node.outputs[0].name}.shape", np.array(order.shape, np.int64)))
    node.op_type = "Reshape"
    node.attributes.pop("axis", None)


def gather_axes(graph: ir.Graph, names: Names, node: ir.Node, known: dict[ir.Value, Known]) -> None:
    """GatherND of a grid, as an adaptive pool picks its windows: one Gather for each axis.

    indices[..., j] has to vary along axes of its own, those of the first column in front.
    """
    x, index = node.inputs[0], node.inputs[1]
    table = None if index is None or index.const_value is None else index.const_value.numpy()
    shape = known[x].shape if x is not None and x in known else None
    if table is None or shape is None or table.size == 0 or node.attributes.get_int("batch_dims", 0):
        return
    columns = grid_columns(table)
    if columns is None:
        return
    for j, column in enumerate(columns[:-1]):
        gather = ir.node("Gather", [x, held(graph, names, f"{node.outputs[0].name}.index", column)], {"axis": 0})
        assert x is not None
        axis = sum(c.ndim for c in columns[:j])
        gather.attributes["axis"] = ir.AttrInt64("axis", axis)
        shape = (*shape[:axis], *column.shape, *shape[axis + 1 :])
        x, before = gather.outputs[0], x
        gather.name = x.name = names.fresh(f"{node.outputs[0].name}.{j}")
        x.type, known[x] = before.type, Known(known[before].dtype, shape)
        graph.insert_before(node, gather)
    axis = sum(c.ndim for c in columns[:-1])
    node.replace_input_with(0, x)
    node.replace_input_with(1, held(graph, names, f"{node.outputs[0].name}.index", columns[-1]))
    node.op_type = "Gather"
    node.attributes.clear()
    node.attributes["axis"] = ir.AttrInt64("axis", axis)


def grid_columns(table: NDArray[np.int64]) -> list[NDArray[np.int64]] | None:
    """Positions along each axis if a table of indices [..., k] is their grid, else None."""
    rank, count = table.ndim - 1, table.shape[-1]
    varies = [
        [a for a in range(rank) if (table[..., j] != table[..., j].take([0], axis=a)).any()] for j in range(count)
    ]
    starts = [0, *(min(v, default=0) for v in varies[1:]), rank]
    fits = all(starts[j] <= a < starts[j + 1] for j, v in enumerate(varies) for a in v)
    if not fits or starts != sorted(starts):
        return None
    columns = []
    for j in range(count):
        place = tuple(slice(None) if starts[j] <= a < starts[j + 1] else 0 for a in range(rank))
        columns.append(np.ascontiguousarray(table[(*place, j)]))
    return columns


def pad_every_axis(graph: ir.Graph, names: Names, node: ir.Node, known: Mapping[ir.Value, Known]) -> None:
    """Amounts for every axis in place of those for `axes`, on which onnxruntime 1.31 crashes in some graphs."""
    x, pads, axes = node.inputs[0], node.inputs[1], node.inputs[3] if len(node.inputs) > 3 else None
    shape = known[x].shape if x is not None and x in known else None
    if pads is None or pads.const_value is None or axes is None or axes.const_value is None or shape is None:
        return
    amounts, rank = np.zeros((2, len(shape)), np.int64), len(shape)
    amounts[:, axes.const_value.numpy() % rank] = pads.const_value.numpy().reshape(2, -1)
    node.replace_input_with(1, held(graph, names, f"{pads.name}.full", amounts.ravel()))
    node.replace_input_with(3, None)


# ---- once shapes are written ---------------------------------------------------------------------------------------
def targets(graph: ir.Graph) -> None:
    """Shapes that nodes are told: constants wherever only the batch is open."""
    names = Names(graph)
    for node in graph:
        wanted, place = None, 1
        if node.domain == "" and node.op_type == "Reshape":
            wanted = reshape_target(node)
        elif node.domain == "" and node.op_type == "Expand":
            wanted = expand_target(node)
        elif node.domain == "" and node.op_type == "Resize":
            wanted, place = resize_scales(node), 2
            if wanted is None:
                resize_few(graph, names, node)
        if wanted is None:
            continue
        before = node.inputs[place]
        now = None if before is None or before.const_value is None else before.const_value.numpy()
        if now is None or not np.array_equal(now, wanted):
            kind = "scales" if place == 2 else "shape"
            node.replace_input_with(place, held(graph, names, f"{node.outputs[0].name}.{kind}", wanted))
        if place == 2:
            node.replace_input_with(3, None)


def sizes_of(value: ir.Value | None) -> list[int | str] | None:
    """A value's shape, the batch as text."""
    if value is None or value.shape is None:
        return None
    return [d if isinstance(d, int) else str(d) for d in value.shape]


def reshape_target(node: ir.Node) -> NDArray[np.int64] | None:
    """The output's shape with -1 at the batch, unless the file's words are a constant that does as well."""
    sizes = sizes_of(node.outputs[0])
    if sizes is None or sum(isinstance(d, str) for d in sizes) > 1 or 0 in sizes:
        return None
    wanted = np.array([-1 if isinstance(d, str) else d for d in sizes], np.int64)
    told = node.inputs[1]
    constant = None if told is None or told.const_value is None else told.const_value.numpy()
    if constant is not None and -1 in constant and -1 not in wanted:
        return None  # a static output whose file lets one dimension follow
    return wanted


def expand_target(node: ir.Node) -> NDArray[np.int64] | None:
    """1 on axes that pass as they are, the size on those that are repeated."""
    before, after = sizes_of(node.inputs[0]), sizes_of(node.outputs[0])
    if before is None or after is None:
        return None
    aligned: Sequence[int | str] = [1] * (len(after) - len(before)) + before
    wanted = [1 if a == b else b for a, b in zip(aligned, after, strict=True)]
    return np.array(wanted, np.int64) if all(isinstance(d, int) for d in wanted) else None


def resize_scales(node: ir.Node) -> NDArray[np.float32] | None:
    """The float32 scales that the runtime would make of the sizes, where they lead to these sizes."""
    policy = node.attributes.get("keep_aspect_ratio_policy")
    sizes = node.inputs[3] if len(node.inputs) > 3 else None
    before, after = sizes_of(node.inputs[0]), sizes_of(node.outputs[0])
    if sizes is None or before is None or after is None or "axes" in node.attributes:
        return None
    if policy is not None and policy.as_string() != "stretch":
        return None
    scales = []
    for a, b in zip(before, after, strict=True):
        if a == b:
            scales.append(np.float32(1))
        elif isinstance(a, int) and isinstance(b, int) and a > 0:
            scales.append(np.float32(b) / np.float32(a))
            if int(a * float(scales[-1])) != b or int(np.float32(a) * scales[-1]) != b:
                return None  # rounded down, in double or in float
        else:
            return None
    return np.array(scales, np.float32)


def resize_few(graph: ir.Graph, names: Names, node: ir.Node) -> None:
    """Sizes of the axes alone that are resized, where no scales lead to them."""
    sizes = node.inputs[3] if len(node.inputs) > 3 else None
    before, after = sizes_of(node.inputs[0]), sizes_of(node.outputs[0])
    if sizes is None or before is None or after is None or "axes" in node.attributes:
        return
    axes = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    wanted = [after[i] for i in axes]
    if axes and all(isinstance(d, int) for d in wanted):
        node.replace_input_with(3, held(graph, names, f"{node.outputs[0].name}.sizes", np.array(wanted, np.int64)))
        node.attributes["axes"] = ir.AttrInt64s("axes", axes)
