"""Ops that pick or repeat positions along an axis: what is picked is the same unit, and indices are counted anew."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.model import parameter
from toolchain.ops.mend import held_bytes, places, rewrite
from toolchain.ops.table import (
    Flow,
    Keep,
    Shape,
    argument,
    attribute,
    constant,
    dims,
    given,
    linear,
    numbers,
    op,
    operand,
)
from toolchain.ops.tape import Tape
from toolchain.ops.units import Units
from toolchain.plain import Names


def border(g: Tape, x: ir.Value, axis: int, begin: int, end: int) -> ir.Value:
    """Amounts of a Pad along one axis of a cotangent; with axes onnxruntime 1.31 moves Transposes past it wrongly."""
    amounts = np.zeros((2, len(dims(x)) + 1), np.int64)
    amounts[:, axis] = begin, end
    return g.i64(amounts.ravel().tolist())


def put_back(g: Tape, dy: ir.Value, x: ir.Value, axis: int, picked: NDArray[Any], size: int) -> ir.Value:
    """Cotangent of an axis of x, of this size, from that of its picked positions; axis counts from the end.

    Every position reads its share from dy behind which one zero stands; one that was picked r times reads r times.
    """
    first = int(picked[0]) if len(picked) else 0
    if np.array_equal(picked, np.arange(first, first + len(picked))):
        return g.op("Pad", dy, border(g, x, axis, first, size - first - len(picked)))
    padded = g.op("Pad", dy, border(g, x, axis, 0, 1))
    order = np.argsort(picked, kind="stable")
    turn = np.empty(len(picked), np.int64)  # how often a position was picked before
    turn[order] = np.arange(len(picked)) - np.searchsorted(picked[order], picked[order])
    total = None
    for r in range(int(turn.max()) + 1):
        index = np.full(size, len(picked))
        index[picked[turn == r]] = np.flatnonzero(turn == r)
        share = g.op("Gather", padded, g.i64(index), axis=axis)
        total = share if total is None else g.op("Add", total, share)
    assert total is not None
    return total


def pass_others(n: ir.Node, u: Units, busy: set[int]) -> None:
    """Axes on which nothing happens pass through to every output."""
    for y in n.outputs:
        for a in range(len(dims(y))):
            if a not in busy:
                u.tie(u[operand(n, 0), a], u[y, a])


# ---- Slice ---------------------------------------------------------------------------------------------------------
def slices(n: ir.Node) -> dict[int, NDArray[np.int64]] | None:
    """Axis -> positions picked, in order, of axes that change; None where they are computed or cut the batch."""
    given = [constant(argument(n, i)) for i in range(1, 5)]
    if any(c is None and argument(n, i) is not None for i, c in enumerate(given, start=1)):
        return None
    starts, ends, axes, steps = given
    assert starts is not None and ends is not None
    size = dims(operand(n, 0))
    axes = range(len(starts)) if axes is None else [int(a) % len(size) for a in axes]
    steps = [1] * len(starts) if steps is None else steps
    found = {}
    for a, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if size[a] < 0 and (start, step) != (0, 1):
            return None
        if size[a] >= 0:
            low = None if step < 0 and end < -size[a] else int(end)
            found[a] = np.arange(size[a])[int(start) : low : int(step)]
    if any(size[a] < 0 and dims(n.outputs[0])[a] != size[a] for a in axes):
        return None
    return {a: picked for a, picked in found.items() if not np.array_equal(picked, np.arange(size[a]))}


def slice_channels(n: ir.Node, u: Units) -> None:
    """y's positions are the picked ones of x.

    With a step s, x's positions go in blocks of s, one picked in each: what is left is picked by the same step.
    """
    cut, x, y = slices(n), operand(n, 0), n.outputs[0]
    if cut is None:
        return
    pass_others(n, u, set(cut))
    for a, picked in cut.items():
        if len(picked) == 0:
            continue
        step = int(picked[1] - picked[0]) if len(picked) > 1 else 1
        for k in range(1, abs(step)):
            beside = picked - k * np.sign(step)
            inside = (beside >= 0) & (beside < dims(x)[a])
            u.tie(u[x, a][picked[inside]], u[x, a][beside[inside]])
        u.tie(u[x, a][picked], u[y, a])


def slice_resize(n: ir.Node, keep: Keep) -> None:
    """From the first to the last picked position that is left, by the same steps."""
    x, starts, ends, axes = operand(n, 0), *(constant(argument(n, i)) for i in (1, 2, 3))
    assert starts is not None and ends is not None
    bounds = np.stack([starts, ends]).astype(np.int64)
    order = list(range(len(starts))) if axes is None else [int(a) % len(dims(x)) for a in axes]
    for a, picked in (slices(n) or {}).items():
        left = places(keep(x, a))[picked[keep(n.outputs[0], a)]]
        forward = len(picked) < 2 or picked[0] < picked[1]
        end = int(left[-1]) + (1 if forward else -1)
        bounds[:, order.index(a)] = int(left[0]), end if end >= 0 else -FAR
    rewrite(n, 1, bounds[0])
    rewrite(n, 2, bounds[1])


FAR = 1 << 30  # an end before the first position, whatever the size


def slice_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """Zeros where nothing was picked."""
    cut, size = slices(n), dims(operand(n, 0))
    if cut is None:
        raise NotImplementedError("computed bounds, or some samples of the batch, have no gradient rule")
    for a, picked in cut.items():
        dy = put_back(g, dy, operand(n, 0), a - len(size), picked, size[a])
    return [dy, *[None] * (len(n.inputs) - 1)]


def slice_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """Positions counted like Python's; torch steps forward only."""
    y, starts, ends = x[0], numbers(n, x, 1), numbers(n, x, 2)
    axes = range(len(starts)) if given(x, 3) is None else numbers(n, x, 3)
    steps = [1] * len(starts) if given(x, 4) is None else numbers(n, x, 4)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = y.shape[axis]
        picked = range(size)[start : None if step < 0 and end < -size else end : step]
        if step == 1:
            y = y.narrow(axis, picked.start, len(picked))
        else:
            y = y.index_select(axis, t.tensor(list(picked), dtype=t.int64, device=y.device))
    return y


def slice_lite(w: Any, n: ir.Node) -> None:
    """Constant positions along each axis."""
    cut = slices(n)
    if cut is None or 0 in w.dims(n.outputs[0]):
        return w.refuse(n, "has computed bounds, cuts the batch, or leaves nothing", "Export with static shapes")
    w.give(n.outputs[0], w.taken(w.input(n.inputs[0]), cut))


op(
    "Slice",
    channels=slice_channels,
    vjp=slice_vjp,
    ray=linear,
    resize=slice_resize,
    torch=slice_torch,
    lite=slice_lite,
    lrp=Flow.MOVES,
)


# ---- Split ---------------------------------------------------------------------------------------------------------
def parts(n: ir.Node) -> tuple[int, list[int]]:
    """The axis, and how many positions each output gets."""
    axis = attribute(n, "axis", 0) % len(dims(operand(n, 0)))
    return axis, [dims(y)[axis] for y in n.outputs]


def split_channels(n: ir.Node, u: Units) -> None:
    """The outputs share x's positions out among them."""
    axis, sizes = parts(n)
    if min(sizes) < 0 or (argument(n, 1) is not None and constant(argument(n, 1)) is None):
        return
    pass_others(n, u, {axis})
    u.tie(u[operand(n, 0), axis], np.concatenate([u[y, axis] for y in n.outputs]))


def split_resize(n: ir.Node, keep: Keep) -> None:
    """Sizes are what is left of each part; equal parts stay unsaid."""
    axis, before = parts(n)
    after = [int(keep(y, axis).sum()) for y in n.outputs]
    if after != before and (argument(n, 1) is not None or len(set(after)) > 1):
        rewrite(n, 1, after)
        n.attributes.pop("num_outputs", None)


def split_adds(n: ir.Node, shape: Shape) -> int:
    """Bytes of sizes that have to be said now."""
    axis, before = parts(n)
    after = [shape(y)[axis] for y in n.outputs]
    if after == before or len(set(after)) == 1 or argument(n, 1) is not None:
        return 0
    return held_bytes(f"{n.outputs[0].name}.sizes", len(n.outputs)) - (20 if "num_outputs" in n.attributes else 0)


def split_vjp(g: Tape, n: ir.Node, dys: list[ir.Value | None]) -> list[ir.Value | None]:
    """Side by side again; a part that nobody reads is zero."""
    axis, sizes = parts(n)
    if min(sizes) < 0:
        raise NotImplementedError("a split of the batch has no gradient rule")
    from_end = axis - len(dims(operand(n, 0)))
    given = [dy for dy in dys if dy is not None]
    if not g.steady.issuperset(given):
        given = [g.every(dy, y) for dy, y in zip(dys, n.outputs, strict=True) if dy is not None]
    if len(given) == len(dys):
        return [g.op("Concat", *given, axis=from_end), *[None] * (len(n.inputs) - 1)]
    total, ends = None, np.cumsum(sizes)
    for dy, size, end in zip(dys, sizes, ends.tolist(), strict=True):
        if dy is not None:
            share = put_back(g, dy, operand(n, 0), from_end, np.arange(end - size, end), sum(sizes))
            total = share if total is None else g.op("Add", total, share)
    return [total, *[None] * (len(n.inputs) - 1)]


def split_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """Equal parts but for the last where no sizes are given."""
    axis, count = attribute(n, "axis", 0), len(n.outputs)
    return t.split(x[0], -(-x[0].shape[axis] // count) if given(x, 1) is None else numbers(n, x, 1), axis)


def split_lite(w: Any, n: ir.Node) -> None:
    """A slice for each part that is read."""
    (axis, sizes), x, begin = parts(n), w.input(n.inputs[0]), 0
    if min(sizes) < 0:
        return w.refuse(n, "splits the batch", "Leave the samples together")
    for y, size in zip(n.outputs, sizes, strict=True):
        if y.uses() or y.is_graph_output():
            w.give(y, w.sliced(x, axis, begin, size))
        begin += size


op(
    "Split",
    channels=split_channels,
    vjp=split_vjp,
    several=True,
    ray=linear,
    resize=split_resize,
    adds=split_adds,
    torch=split_torch,
    lite=split_lite,
    lrp=Flow.MOVES,
)


# ---- Gather --------------------------------------------------------------------------------------------------------
def gather_axis(n: ir.Node) -> int:
    """The axis along which it picks."""
    return attribute(n, "axis", 0) % len(dims(operand(n, 0)))


def gather_indices(n: ir.Node) -> NDArray[np.int64] | None:
    """The constant positions, counted from 0; None where they are computed or pick samples."""
    index, size = constant(n.inputs[1]), dims(operand(n, 0))[gather_axis(n)]
    return None if index is None or size < 0 else index % size


def gather_channels(n: ir.Node, u: Units) -> None:
    """Other axes pass. Along a list of constant indices the picked positions do; a single pick or a table keeps all."""
    x, index, y, axis = operand(n, 0), operand(n, 1), n.outputs[0], gather_axis(n)
    rank, picked = len(dims(index)), gather_indices(n)
    for a in range(len(dims(x))):
        if a != axis:
            u.tie(u[x, a], u[y, a if a < axis else a + rank - 1])
    if picked is not None and rank == 1:
        u.tie(u[x, axis][picked], u[y, axis])
    elif picked is None:
        for a in range(rank):
            u.tie(u[index, a], u[y, axis + a])


def gather_resize(n: ir.Node, keep: Keep) -> None:
    """Indices of what is left, counted anew."""
    picked, axis = gather_indices(n), gather_axis(n)
    if picked is not None and picked.ndim == 1 and not keep(operand(n, 0), axis).all():
        rewrite(n, 1, places(keep(operand(n, 0), axis))[picked[keep(n.outputs[0], axis)]])


def gather_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """Each position gets back what was picked from it."""
    x, picked, axis = operand(n, 0), gather_indices(n), gather_axis(n)
    if not g.needs(x):
        return [None, None]
    if picked is None:
        raise NotImplementedError("computed indices have no gradient rule")
    if picked.ndim != 1:  # one axis of picks
        size = [g.seeds, *(max(d, -1) for d in dims(x))]
        size[axis + 1] = picked.size
        dy = g.op("Reshape", dy, g.i64(size))
    return [put_back(g, dy, x, axis - len(dims(x)), picked.reshape(-1), dims(x)[axis]), None]


def gather_lite(w: Any, n: ir.Node) -> None:
    """Constant positions along one axis, wherever the file holds them; computed ones in ONNX's layout."""
    x, index, y, axis = w.input(n.inputs[0]), constant(n.inputs[1]), n.outputs[0], gather_axis(n)
    if dims(n.inputs[0])[axis] < 0:
        w.refuse(n, "picks along the batch", "Pick along another axis")
    if index is None:
        x, places = w.relaid(x, w.plain(len(x.dims))), w.input(n.inputs[1])
        size = (*x.dims[:axis], *places.dims, *x.dims[axis + 1 :])
        places = w.op("FLOOR_MOD", w.relaid(places, w.plain(len(places.dims))), np.int32(x.dims[axis]))
        made = w.op("GATHER", x, places, dims=size, layout=w.plain(len(size)), axis=axis, batchDims=0)
        return w.give(y, made)
    picked = w.picked(x, axis, index.reshape(-1) % x.dims[axis])
    w.give(y, w.shaped(picked, w.dims(y)) if index.ndim else w.without(picked, axis))


def gather_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """Positions below 0 count from the end."""
    axis, shape = attribute(n, "axis", 0) % x[0].ndim, x[0].shape
    picked = x[0].index_select(axis, (x[1] % shape[axis]).flatten())
    return picked.reshape(*shape[:axis], *x[1].shape, *shape[axis + 1 :])


op(
    "Gather",
    channels=gather_channels,
    vjp=gather_vjp,
    ray=linear,
    resize=gather_resize,
    torch=gather_torch,
    learns=(0,),
    lite=gather_lite,
    lrp=Flow.MOVES,
)


# ---- Expand, Tile --------------------------------------------------------------------------------------------------
def expand_channels(n: ir.Node, u: Units) -> None:
    """Axes that are there already pass; copies along the others are units of their own."""
    x, y = operand(n, 0), n.outputs[0]
    shift = len(dims(y)) - len(dims(x))
    for a, d in enumerate(dims(y)):
        if a >= shift and dims(x)[a - shift] == d:
            u.tie(u[x, a - shift], u[y, a])
        elif d > 0:
            u.touch(y, a)


def expand_resize(n: ir.Node, keep: Keep) -> None:
    """1 along the axes that x has already, else the copies that are left; the batch stays a computed number."""
    x, y = operand(n, 0), n.outputs[0]
    had = (0,) * (len(dims(y)) - len(dims(x))) + dims(x)
    sizes = [1 if h == d else int(keep(y, a).sum()) for a, (h, d) in enumerate(zip(had, dims(y), strict=True))]
    mend_sizes(n, 1, sizes, np.array([h != d and d < 0 for h, d in zip(had, dims(y), strict=True)]))


def mend_sizes(n: ir.Node, i: int, sizes: list[int], is_computed: NDArray[np.bool_]) -> None:
    """Give a node these sizes as its input i, but for those that are computed from the batch."""
    target, y, graph = operand(n, i), n.outputs[0], n.graph
    if not is_computed.any():
        return rewrite(n, i, sizes)
    rank = dims(target)[0]
    assert isinstance(graph, ir.Graph)
    names = Names(graph)
    mended = ir.node("Where", [target, target, target], name=names.fresh(f"{n.name}.mended"))
    mended.outputs[0].name, mended.outputs[0].type = names.fresh(f"{y.name}.sizes"), target.type
    mended.outputs[0].shape = target.shape
    graph.insert_before(n, mended)
    for j, array in ((0, is_computed[-rank:]), (2, np.array(sizes[-rank:], np.int64))):
        held = parameter(names.fresh(f"{y.name}.sizes.{j}"), array)
        graph.initializers[str(held.name)] = held
        mended.replace_input_with(j, held)
    n.replace_input_with(i, mended.outputs[0])


def sizes_add(i: int) -> Callable[[ir.Node, Shape], int]:
    """Bytes of the node that mends a computed input i, and of what it reads."""

    def adds(n: ir.Node, shape: Shape) -> int:
        if constant(n.inputs[i]) is not None or shape(n.outputs[0]) == dims(n.outputs[0]):
            return 0
        rank, stem = len(dims(n.outputs[0])), f"{n.outputs[0].name}.sizes"
        held = 2 * held_bytes(f"{stem}.0", rank) - 7 * rank  # which of them are computed takes a byte each
        return held + len(f"{n.name}.mended") + 3 * len(stem) + 32

    return adds


op(
    "Expand",
    channels=expand_channels,
    vjp=lambda g, n, dy: [g.unbroadcast(dy, operand(n, 0), n.outputs[0]), None],
    ray=linear,
    torch=lambda t, n, x: x[0].expand(t.broadcast_shapes(x[0].shape, numbers(n, x, 1))),
    learns=(0,),
    resize=expand_resize,
    adds=sizes_add(1),
    lite=lambda w, n: w.give(n.outputs[0], w.expanded(n.inputs[0], w.dims(n.outputs[0]))),
    lrp=Flow.MOVES,
)


def repeats(n: ir.Node) -> list[int]:
    """How often each axis comes; raises NotImplementedError where that is computed."""
    found = constant(n.inputs[1])
    if found is None:
        raise NotImplementedError("computed repeats have no gradient rule")
    return found.tolist()


def tile_channels(n: ir.Node, u: Units) -> None:
    """Every copy of a position is the same unit."""
    x, y = operand(n, 0), n.outputs[0]
    for a, r in enumerate(repeats(n) if constant(n.inputs[1]) is not None else ()):
        if r == 1 or dims(x)[a] > 0:
            u.tie(np.tile(u[x, a], r), u[y, a])


def tile_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """The sum over the copies."""
    size = dims(operand(n, 0))
    if any(r != 1 and d < 0 for r, d in zip(repeats(n), size, strict=True)):
        raise NotImplementedError("copies of the batch have no gradient rule")
    apart = [(r, max(d, -1)) for r, d in zip(repeats(n), size, strict=True)]
    stacked = g.op("Reshape", dy, g.i64([g.seeds, *(i for pair in apart for i in pair)]))
    axes = [2 * a - 2 * len(size) for a in range(len(size))]
    return [g.op("ReduceSum", stacked, g.i64(axes), keepdims=0), None]


def tile_lite(w: Any, n: ir.Node) -> None:
    """As often along each axis."""
    if constant(n.inputs[1]) is None or dims(n.inputs[0])[0] * repeats(n)[0] != dims(n.inputs[0])[0] < 0:
        return w.refuse(n, "repeats the batch, or computes how often", "Export with static shapes")
    w.give(n.outputs[0], w.tiled(w.input(n.inputs[0]), repeats(n)))


op(
    "Tile",
    channels=tile_channels,
    vjp=tile_vjp,
    ray=linear,
    torch=lambda t, n, x: x[0].repeat(numbers(n, x, 1)),
    lite=tile_lite,
    lrp=Flow.MOVES,
)


# ---- along one axis ------------------------------------------------------------------------------------------------
def trilu_channels(n: ir.Node, u: Units) -> None:
    """Stacked matrices pass; their rows and columns are counted."""
    rank = len(dims(n.outputs[0]))
    pass_others(n, u, {rank - 2, rank - 1})


def trilu_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """Above or below a diagonal."""
    side = t.triu if attribute(n, "upper", 1) else t.tril
    return side(x[0], 0 if given(x, 1) is None else int(np.ravel(numbers(n, x, 1))[0]))


def trilu_lite(w: Any, n: ir.Node) -> None:
    """A choice of constants: what is left out may be infinite."""
    if min(dims(operand(n, 0))[-2:]) < 0:
        return w.refuse(n, "counts samples as rows or columns", "Leave the samples together")
    x, start = w.input(n.inputs[0]), w.parameter(n, 1)
    side = np.triu if attribute(n, "upper", 1) else np.tril
    kept = side(np.ones(x.dims[-2:], np.bool_), 0 if start is None else int(np.ravel(start)[0]))
    w.give(n.outputs[0], w.elementwise("SELECT_V2", kept, x, x.tensor.dtype(0)))


op(
    "Trilu",
    channels=trilu_channels,
    vjp=lambda g, n, dy: [
        g.op("Trilu", dy, *n.inputs[1:], upper=attribute(n, "upper", 1)),
        *[None] * len(n.inputs[1:]),
    ],
    ray=linear,
    torch=trilu_torch,
    lite=trilu_lite,
)


def cumsum_axis(n: ir.Node) -> int:
    """The axis that is summed along; raises NotImplementedError where it is computed."""
    axis = constant(n.inputs[1])
    if axis is None:
        raise NotImplementedError("a computed axis has no gradient rule")
    return int(axis.item()) % len(dims(operand(n, 0)))


def cumsum_channels(n: ir.Node, u: Units) -> None:
    """Axes that are not summed along pass."""
    if constant(n.inputs[1]) is not None:
        pass_others(n, u, {cumsum_axis(n)})


def cumsum_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """The running sum from the other end."""
    if dims(operand(n, 0))[cumsum_axis(n)] < 0:
        raise NotImplementedError("a running sum over the batch has no gradient rule")
    from_end = g.i64(cumsum_axis(n) - len(dims(operand(n, 0))))
    settings = {"exclusive": attribute(n, "exclusive", 0), "reverse": 1 - attribute(n, "reverse", 0)}
    return [g.op("CumSum", dy, from_end, **settings), None]


def cumsum_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """From the front or, turned around, from the end; an exclusive sum leaves its own position out."""
    axis, turn = int(np.ravel(numbers(n, x, 1))[0]), bool(attribute(n, "reverse", 0))
    y = x[0].flip(axis).cumsum(axis).flip(axis) if turn else x[0].cumsum(axis)
    return y - x[0] if attribute(n, "exclusive", 0) else y


def cumsum_lite(w: Any, n: ir.Node) -> None:
    """The file's own."""
    if constant(n.inputs[1]) is None or dims(n.inputs[0])[cumsum_axis(n)] < 0:
        w.refuse(n, "sums along the batch, or a computed axis", "Give it a constant axis of one sample")
    settings = {"exclusive": bool(attribute(n, "exclusive", 0)), "reverse": bool(attribute(n, "reverse", 0))}
    x = w.reordered(w.input(n.inputs[0]), cumsum_axis(n), None)
    w.give(n.outputs[0], w.op("CUMSUM", x, np.int32(x.layout.place(cumsum_axis(n))), **settings))


op("CumSum", channels=cumsum_channels, vjp=cumsum_vjp, ray=linear, torch=cumsum_torch, lite=cumsum_lite)


# ---- Col2Im --------------------------------------------------------------------------------------------------------
def col2im_places(n: ir.Node) -> NDArray[np.int64]:
    """[positions of the image, most places]: which of the [block positions · blocks] each sums; past the end for none.

    Raises NotImplementedError where sizes are computed.
    """
    size, block = constant(n.inputs[1]), constant(n.inputs[2])
    if size is None or block is None:
        raise NotImplementedError("its sizes are computed")
    rank = len(size)
    strides, dilations = (attribute(n, k, [1] * rank) for k in ("strides", "dilations"))
    pads = attribute(n, "pads", [0] * 2 * rank)
    sides = zip(size, block, strides, dilations, pads, pads[rank:], strict=False)
    grid = [(s + b + e - d * (k - 1) - 1) // t + 1 for s, k, t, d, b, e in sides]
    found: list[list[int]] = [[] for _ in range(int(size.prod()))]
    for place, (inside, at) in enumerate(itertools.product(np.ndindex(*block), np.ndindex(*grid))):
        steps = zip(inside, at, strides, dilations, pads, strict=False)
        met = [i * d + a * t - b for i, a, t, d, b in steps]
        if all(0 <= m < s for m, s in zip(met, size, strict=True)):
            found[int(np.ravel_multi_index(met, size))].append(place)
    none = int(block.prod()) * math.prod(grid)
    return np.array(list(itertools.zip_longest(*found, fillvalue=none)), np.int64).T


def col2im_channels(n: ir.Node, u: Units) -> None:
    """A channel owns the positions of its blocks."""
    x, y = operand(n, 0), n.outputs[0]
    u.tie(u[x, 0], u[y, 0])
    u.tie(np.repeat(u[y, 1], dims(x)[1] // dims(y)[1]), u[x, 1])


def col2im_lite(w: Any, n: ir.Node) -> None:
    """Every position picks its places in turn and adds them; a place of zeros stands behind the others."""
    x, y = w.input(n.inputs[0]), w.dims(n.outputs[0])
    if constant(n.inputs[1]) is None or constant(n.inputs[2]) is None:
        w.refuse(n, "computes its sizes", "Make them initializers")
    channels, blocks = y[1], x.dims[2]
    apart = w.transposed(w.shaped(x, (y[0], channels, x.dims[1] // channels, blocks)), [0, 2, 3, 1])
    rows = w.shaped(w.relaid(apart, w.plain(4)), (y[0], x.dims[1] // channels * blocks, channels))
    rows = w.padded(rows, [(0, 0), (0, 1), (0, 0)])
    picked = [w.gathered(rows, 1, places, None) for places in col2im_places(n).T]
    total = reduce(lambda a, b: w.op("ADD", a, b), picked)
    w.give(n.outputs[0], w.shaped(w.transposed(total, [0, 2, 1]), y))


def col2im_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """torch pads both sides of an image alike."""
    size, block = numbers(n, x, 1), numbers(n, x, 2)
    strides, dilations, pads = (attribute(n, k, [d] * 4) for k, d in (("strides", 1), ("dilations", 1), ("pads", 0)))
    if len(size) != 2 or pads[:2] != pads[2:]:
        raise NotImplementedError("it pads unevenly, or makes no image")
    return t.nn.functional.fold(x[0], size, block, dilations[:2], pads[:2], strides[:2])


op(
    "Col2Im",
    channels=col2im_channels,
    ray=linear,
    torch=col2im_torch,
    lite=col2im_lite,
)


# ---- sizes ---------------------------------------------------------------------------------------------------------
def shape_reads(n: ir.Node) -> set[int]:
    """Axes whose size is really used: constant picks tell which."""
    rank = len(dims(operand(n, 0)))
    asked = list(range(rank))[attribute(n, "start", 0) : attribute(n, "end", rank)]
    y, found = n.outputs[0], set()
    if y.is_graph_output():
        return set(asked)
    for use in y.uses():
        index = constant(argument(use.node, 1)) if use.node.op_type == "Gather" and use.idx == 0 else None
        cut = slices(use.node) if use.node.op_type == "Slice" and use.idx == 0 else None
        picks = index if index is not None else cut[0] if cut and 0 in cut else np.arange(len(asked))
        found |= {asked[int(i)] for i in np.ravel(picks)}
    return found


def shape_channels(n: ir.Node, u: Units) -> None:
    """Axes whose size nobody uses are free."""
    x = operand(n, 0)
    for a in set(range(len(dims(x)))) - shape_reads(n):
        u.touch(x, a)


def no_share(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """Whole numbers have no derivative."""
    return [None] * len(n.inputs)


def shape_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """The sizes of the axes from `start` to `end`."""
    sizes = list(x[0].shape)[attribute(n, "start", 0) : attribute(n, "end")]
    return t.tensor(sizes, dtype=t.int64, device=x[0].device)


def settled_lite(w: Any, n: ir.Node) -> None:
    """What sizes decide is a constant before a file is written; only what values decide comes here."""
    w.refuse(n, "depends on the values of its input", "Export with static shapes")


op("Shape", channels=shape_channels, torch=shape_torch, lite=settled_lite)
op("Size", torch=lambda t, n, x: t.tensor(x[0].numel(), device=x[0].device), lite=settled_lite)


def constantofshape_channels(n: ir.Node, u: Units) -> None:
    """Copies of one number are units of their own."""
    for a, d in enumerate(dims(n.outputs[0])):
        if d > 0:
            u.touch(n.outputs[0], a)


def constantofshape_resize(n: ir.Node, keep: Keep) -> None:
    """The copies that are left; the batch stays a computed number."""
    y = n.outputs[0]
    sizes = [int(keep(y, a).sum()) for a in range(len(dims(y)))]
    mend_sizes(n, 0, sizes, np.array([d < 0 for d in dims(y)]))


def constantofshape_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """Copies of `value`, of 0.0 without."""
    value = attribute(n, "value")
    number = t.tensor([0.0] if value is None else value.numpy(), device=x[0].device)
    return number.expand(numbers(n, x, 0))


op(
    "ConstantOfShape",
    channels=constantofshape_channels,
    vjp=no_share,
    resize=constantofshape_resize,
    adds=sizes_add(0),
    torch=constantofshape_torch,
    lite=settled_lite,
)
op("Range", vjp=no_share, torch=lambda t, n, x: t.arange(*(v.item() for v in x), device=x[0].device), lite=settled_lite)
