"""Removal and masking, without knowledge of any op: labels say which rows go, `resize` mends what an op wrote down.

prune(model)    removes the rows of removed units from every parameter
mask(model)     multiplies them by zero wherever a node sums them away: what a pruned network must equal
restored(model) takes the weights of a pruned network back into the original's graph: where the next round starts
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.compress.groups import Channels, contracted, contractions
from toolchain.errors import OutOfReach
from toolchain.model import Model, parameter
from toolchain.ops.table import find, operand
from toolchain.ops.tape import PREFIX
from toolchain.ops.units import Axis, Ids
from toolchain.plain import Names
from toolchain.provenance import signed


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
    nodes = list(clone.graph)  # `resize` may add others
    for node in nodes:
        entry = find(node)
        if entry is None or entry.resize is None:
            continue
        read, made = ([original[str(v.name)] for v in vs if v is not None] for vs in (node.inputs, node.outputs))
        if any(is_cut(v, keep) for v in (*read, *made)):
            now = {v: yields for v in made}  # behind a flatten a gather picks: the node itself still yields more
            entry.resize(node, lambda v, a, now=now: rows_kept(o := original[str(v.name)], a, now.get(o, keep)))
    for value in clone.graph.initializers.values():
        resize_parameter(value, original.get(str(value.name)), keep)
    names = Names(clone.graph)
    for node in nodes:
        for value in node.outputs:
            insert_gather(clone.graph, value, original[str(value.name)], keep, yields, names)
            resize_activation(value, original[str(value.name)], yields)
    pruned = model.with_ir(clone)
    if not gone.any():
        return pruned
    return signed(pruned, digest({g.name: np.flatnonzero(gone[g.units]).tolist() for g in channels.groups}))


def digest(removed: Mapping[str, Sequence[int]]) -> str:
    """SHA-256 of a plan: of the units that it removes, whatever else is written beside them; "" where it removes none.

    They are written as JSON, group -> sorted numbers, the groups by name and without spaces.
    """
    if not any(removed.values()):
        return ""
    told = json.dumps({k: list(v) for k, v in removed.items()}, sort_keys=True, separators=(",", ":"))
    return sha256(told.encode()).hexdigest()


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
    names: Names,
) -> None:
    """Behind a flatten, pick the places that stay out of those that it yields."""
    for axis in range(len(original.shape or ())):
        wanted, there = keep.get((original, axis)), yields.get((original, axis))
        if wanted is None or there is None or np.array_equal(wanted, there):
            continue
        name = names.fresh(f"{PREFIX}{value.name}/kept")
        places = np.flatnonzero(wanted[there])
        index = parameter(name, places)
        graph.initializers[name] = index
        gather = ir.node(
            "Gather", [value, index], attributes={"axis": axis}, name=names.fresh(f"{PREFIX}{value.name}/gather")
        )
        picked = gather.outputs[0]
        picked.name, picked.type = names.fresh(f"{PREFIX}{value.name}/picked"), value.type
        sizes = list(original.shape or ())
        sizes[axis] = len(places)
        picked.shape = ir.Shape(sizes)
        ir.convenience.replace_all_uses_with(value, picked)
        producer = value.producer()
        assert producer is not None
        graph.insert_after(producer, gather)
        gather.replace_input_with(0, value)


def restored(model: Model, channels: Channels, removed: Ids, pruned: Model) -> Model:
    """The unpruned graph with the weights of a pruned network: the same answers, and units that went can go again.

    Rows that went are 0 in matrices and kernels, so that nobody sees their units; in vectors (biases, statistics of
    norms) they stay as they were, since something may be divided by them.
    """
    gone = channels.flags(channels.closure(removed))
    keep = {key: ~gone[channels.labels.root[ids]] for key, ids in channels.labels.axes.items()}
    clone = model.ir.clone()
    for name, value in clone.graph.initializers.items():
        source = pruned.graph.initializers[name].const_value
        if value.const_value is None or source is None or value.dtype is None or not value.dtype.is_floating_point():
            continue
        array, original = value.const_value.numpy(), channels.values[name]
        is_matrix = sum(n > 1 for n in array.shape) > 1
        fresh = np.zeros_like(array) if is_matrix else array.copy()
        fresh[np.ix_(*(rows_kept(original, a, keep) for a in range(array.ndim)))] = source.numpy()
        value.const_value = ir.tensor(fresh, name=name)
    return model.with_ir(clone)


def mask(model: Model, channels: Channels, removed: Ids, norms: bool = True) -> Model:
    """The model with these units multiplied by zero wherever a node sums them away.

    norms  a norm over units takes its statistics over those that stay, as in the pruned model; False: over all of them
    """
    labels, gone = channels.labels, channels.flags(channels.closure(removed))
    clone = model.ir.clone()
    names = Names(clone.graph)
    products: dict[tuple[ir.Value, int], ir.Value] = {}
    pairs = list(zip(model.graph, clone.graph, strict=True))
    for old, new in pairs if channels.approximate and norms else ():
        entry = find(old)
        axis = entry.norm(old) if entry is not None and entry.norm is not None else None
        if axis is not None and gone[of := labels.of(operand(old, 0), axis)].any():
            narrow(clone.graph, new, axis, ~gone[of], names)
    for old, new in pairs:
        for i, (value, axis) in contracted(old):
            if value.const_value is not None or (value, axis) not in labels.axes:
                continue
            keep, read = ~gone[labels.of(value, axis)], new.inputs[i]
            if keep.all() or not keep.size or read is None:
                continue
            if (read, axis) not in products:
                products[read, axis] = multiplied(clone.graph, new, read, axis, keep, names)
            new.replace_input_with(i, products[read, axis])
    for value, axis in contractions(model.graph, of_parameters=True):
        held = clone.graph.initializers[str(value.name)]
        keep = ~gone[labels.of(value, axis)] if (value, axis) in labels.axes else np.ones(0, bool)
        if held.const_value is not None and not keep.all():  # a recurrence's weights meet a state that no mask reaches
            rows = np.expand_dims(keep, [a for a in range(len(held.const_value.shape)) if a != axis])
            held.const_value = ir.tensor(held.const_value.numpy() * rows, name=held.name)
    return model.with_ir(clone)


def narrow(graph: ir.Graph, node: ir.Node, axis: int, keep: NDArray[np.bool_], names: Names) -> None:
    """Let a norm see only what is kept; where something went, its output is any number, masked where it is read."""
    y = node.outputs[0]
    stem = names.fresh(f"{PREFIX}{y.name}/narrow")
    kept = parameter(f"{stem}/kept", np.flatnonzero(keep))
    spread = parameter(f"{stem}/spread", np.maximum(np.cumsum(keep) - 1, 0))
    for index in (kept, spread):
        graph.initializers[str(index.name)] = index
    for i, value in enumerate(node.inputs):
        if value is not None:
            picked = ir.node("Gather", [value, kept], {"axis": 0 if i else axis}, name=f"{stem}/input{i}")
            picked.outputs[0].name, picked.outputs[0].type = f"{stem}/input{i}", value.type
            graph.insert_before(node, picked)
            node.replace_input_with(i, picked.outputs[0])
    wide = ir.node("Gather", [y, spread], {"axis": axis}, name=f"{stem}/wide")
    whole = wide.outputs[0]
    whole.name, whole.type, whole.shape = y.name, y.type, y.shape
    y.name, y.shape = stem, None
    ir.convenience.replace_all_uses_with(y, whole)
    graph.insert_after(node, wide)
    wide.replace_input_with(0, y)


def multiplied(
    graph: ir.Graph, reader: ir.Node, value: ir.Value, axis: int, keep: NDArray[np.bool_], names: Names
) -> ir.Value:
    """An activation times 0 where a row is masked, made in front of a node that sums that axis away."""
    shape = [1] * len(value.shape or ())
    shape[axis] = -1
    factor = parameter(names.fresh(f"{PREFIX}{value.name}/mask{axis}"), keep.astype(np.float32).reshape(shape))
    graph.initializers[str(factor.name)] = factor
    product = ir.node("Mul", [value, factor], name=names.fresh(f"{PREFIX}{value.name}/product{axis}"))
    masked = product.outputs[0]
    masked.name = names.fresh(f"{PREFIX}{value.name}/masked{axis}")
    masked.type, masked.shape = value.type, value.shape
    graph.insert_before(reader, product)
    return masked
