"""Removal and masking, without knowledge of any op: labels say which rows go, `resize` mends what an op wrote down.

prune(model)  removes the rows of removed units from every parameter
mask(model)   multiplies them by zero wherever a node sums them away: what a pruned network must equal
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.compress.groups import Channels, contractions
from toolchain.errors import OutOfReach
from toolchain.model import Model, parameter
from toolchain.ops.table import find
from toolchain.ops.tape import PREFIX
from toolchain.ops.units import Axis, Ids


def prune(model: Model, channels: Channels, removed: Ids) -> Model:
    """The model without these units: what remains keeps its values bit for bit and its name.

    removed  labels of units, [n]

    Raises OutOfReach if an axis would lose all of its rows.
    """
    gone = channels.flags(channels.closure(removed))
    keep = {key: ~gone[channels.labels.root[ids]] for key, ids in channels.labels.axes.items()}
    yields = keep | present(channels, gone, keep)
    for (value, _), rows in keep.items():
        if rows.size and not rows.any():
            raise OutOfReach(f"nothing would be left of '{value.name}'", way_out="Keep at least one unit of each group")
    clone = model.ir.clone()
    original = channels.values
    for node in list(clone.graph):
        entry = find(node)
        if entry is None or entry.resize is None:
            continue
        read, made = ([original[str(v.name)] for v in vs if v is not None] for vs in (node.inputs, node.outputs))
        if any(is_cut(v, keep) for v in (*read, *made)):
            now = {v: yields for v in made}  # behind a flatten a gather picks: the node itself still yields more
            entry.resize(node, lambda v, a, now=now: rows_kept(o := original[str(v.name)], a, now.get(o, keep)))
    for value in clone.graph.initializers.values():
        resize_parameter(value, original.get(str(value.name)), keep)
    for node in [n for n in clone.graph if str(n.outputs[0].name) in original]:  # `resize` may have added others
        for value in node.outputs:
            insert_gather(clone.graph, value, original[str(value.name)], keep, yields)
            resize_activation(value, original[str(value.name)], yields)
    return model.with_ir(clone)


def present(
    channels: Channels, gone: NDArray[np.bool_], keep: dict[Axis, NDArray[np.bool_]]
) -> dict[Axis, NDArray[np.bool_]]:
    """Rows that a flatten itself still yields: those of the channels that remain, kept or not."""
    owner_gone = np.zeros(len(gone), bool)
    inner_ids = np.zeros(len(gone), bool)
    for _, outer, inner in channels.labels.nests:
        owner_gone[inner] |= gone[channels.labels.root[outer]][:, None]
        inner_ids[inner] = True
    axes = channels.labels.axes
    return {key: ~owner_gone[axes[key]] for key in keep if axes[key].size and inner_ids[axes[key]].all()}


def is_cut(value: ir.Value, keep: dict[Axis, NDArray[np.bool_]]) -> bool:
    """Whether any axis of the value loses rows."""
    return any((value, a) in keep and not keep[value, a].all() for a in range(len(value.shape or ())))


def rows_kept(value: ir.Value, axis: int, keep: dict[Axis, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Rows that stay along an axis, all of them where no rule mentions it."""
    assert value.shape is not None
    key = (value, axis % len(value.shape))
    if key in keep:
        return keep[key]
    size = value.shape[key[1]]
    return np.ones(size if isinstance(size, int) else 0, bool)


def resize_parameter(value: ir.Value, original: ir.Value | None, keep: dict[Axis, NDArray[np.bool_]]) -> None:
    """Take the kept rows of a parameter."""
    if original is None or value.const_value is None or not is_cut(original, keep):
        return
    array = original.const_value.numpy() if original.const_value is not None else value.const_value.numpy()
    for axis in range(array.ndim):
        if (original, axis) in keep and not keep[original, axis].all():
            array = np.compress(keep[original, axis], array, axis=axis)
    value.const_value = ir.tensor(np.ascontiguousarray(array), name=value.name)
    value.shape = ir.Shape(array.shape)


def resize_activation(value: ir.Value, original: ir.Value, keep: dict[Axis, NDArray[np.bool_]]) -> None:
    """Write the new shape of an activation."""
    if original.shape is not None:
        sizes = [
            d if not isinstance(d, int) else int(rows_kept(original, a, keep).sum())
            for a, d in enumerate(original.shape)
        ]
        value.shape = ir.Shape(sizes)


def insert_gather(
    graph: ir.Graph,
    value: ir.Value,
    original: ir.Value,
    keep: dict[Axis, NDArray[np.bool_]],
    yields: dict[Axis, NDArray[np.bool_]],
) -> None:
    """Behind a flatten, pick the places that stay out of those that it yields."""
    for axis in range(len(original.shape or ())):
        wanted, there = keep.get((original, axis)), yields.get((original, axis))
        if wanted is None or there is None or np.array_equal(wanted, there):
            continue
        name = f"{PREFIX}{value.name}/kept"
        places = np.flatnonzero(wanted[there])
        index = parameter(name, places)
        graph.initializers[name] = index
        gather = ir.node("Gather", [value, index], attributes={"axis": axis}, name=f"{PREFIX}{value.name}/gather")
        picked = gather.outputs[0]
        picked.name, picked.type = f"{PREFIX}{value.name}/picked", value.type
        sizes = list(original.shape or ())
        sizes[axis] = len(places)
        picked.shape = ir.Shape(sizes)
        ir.convenience.replace_all_uses_with(value, picked)
        producer = value.producer()
        assert producer is not None
        graph.insert_after(producer, gather)
        gather.replace_input_with(0, value)


def mask(model: Model, channels: Channels, removed: Ids) -> Model:
    """The model with these units multiplied by zero wherever a node sums them away."""
    gone = channels.flags(channels.closure(removed))
    clone = model.ir.clone()
    by_name = {str(v.name): v for n in clone.graph for v in (*n.inputs, *n.outputs) if v is not None}
    for value, axis in (*contractions(model.graph), *contractions(model.graph, of_parameters=True)):
        if (value, axis) not in channels.labels.axes:
            continue
        keep = ~gone[channels.labels.of(value, axis)]
        if keep.all() or not keep.size:
            continue
        masked = by_name[str(value.name)]
        if masked.const_value is None:
            multiply(clone.graph, masked, axis, keep)
        else:  # the weights of a recurrence meet a state that no mask can reach
            rows = np.expand_dims(keep, [a for a in range(len(masked.const_value.shape)) if a != axis])
            masked.const_value = ir.tensor(masked.const_value.numpy() * rows, name=masked.name)
    return model.with_ir(clone)


def multiply(graph: ir.Graph, value: ir.Value, axis: int, keep: NDArray[np.bool_]) -> None:
    """Multiply an activation by 0 where a row is masked, for the nodes that sum that axis away."""
    name = f"{PREFIX}{value.name}/mask{axis}"
    shape = [1] * len(value.shape or ())
    shape[axis] = -1
    zeros_and_ones = keep.astype(np.float32).reshape(shape)
    factor = parameter(name, zeros_and_ones)
    graph.initializers[name] = factor
    readers = [u for u in value.uses() if sums_away(u.node, u.idx, axis, len(shape))]
    product = ir.node("Mul", [value, factor], name=f"{PREFIX}{value.name}/masked{axis}")
    masked = product.outputs[0]
    masked.name, masked.type, masked.shape = f"{PREFIX}{value.name}/masked{axis}", value.type, value.shape
    for use in readers:
        use.node.replace_input_with(use.idx, masked)
    producer = value.producer()
    if producer is not None:
        graph.insert_after(producer, product)
    elif readers:
        graph.insert_before(readers[0].node, product)


def sums_away(node: ir.Node, index: int, axis: int, rank: int) -> bool:
    """Whether a node sums this axis of its input away."""
    entry = find(node)
    pairs = entry.contracts(node) if entry is not None and entry.contracts is not None else ()
    return any(i == index and a % rank == axis for i, a in pairs)
