"""Reductions over whole axes. A sum loses nothing with a masked term: units may go from the axes that it sums away; a
mean, a product or an extreme would change, and freezes them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from toolchain.ops.pooling import per_channel
from toolchain.ops.table import argument, attribute, constant, dims, homogeneous, linear, op, operand
from toolchain.ops.tape import Tape
from toolchain.ops.units import Units

Axes = Callable[[ir.Node], "set[int] | None"]
Slope = Callable[[Tape, ir.Node, ir.Value, ir.Value], ir.Value]
Reduced = Callable[[Any, ir.Node, Any, tuple[int, ...], bool], Any]


def spatial_axes(n: ir.Node) -> set[int]:
    """All but batch and channel."""
    return set(range(2, len(dims(n.inputs[0]))))


def reduced_axes(n: ir.Node) -> set[int] | None:
    """The axes that a reduction removes, or None where they are computed."""
    rank = len(dims(n.inputs[0]))
    given = argument(n, 1)
    axes = np.zeros(0, np.int64) if given is None else constant(given)
    if axes is None:
        return None
    if axes.size == 0:
        return set() if attribute(n, "noop_with_empty_axes", 0) else set(range(rank))
    return {int(a) % rank for a in axes}


def one_axis(n: ir.Node) -> set[int]:
    """The axis along which an ArgMax looks."""
    return {attribute(n, "axis", 0) % len(dims(n.inputs[0]))}


# ---- channels ------------------------------------------------------------------------------------------------------
def passing(axes: Axes) -> Callable[[ir.Node, Units], None]:
    """What is not reduced passes through."""

    def channels(n: ir.Node, u: Units) -> None:
        x, y, gone = operand(n, 0), n.outputs[0], axes(n)
        place = itertools.count()
        if gone is None:
            return
        for a in range(len(dims(x))):
            if a not in gone:
                u.tie(u[x, a], u[y, next(place)])
            elif attribute(n, "keepdims", 1):
                next(place)

    return channels


reduce_channels = passing(reduced_axes)


def summed(n: ir.Node) -> list[tuple[int, int]]:
    """Every axis of a sum; whole numbers are counts and not units."""
    x = operand(n, 0)
    is_float = x.dtype is None or x.dtype.is_floating_point()
    return [(0, a) for a in sorted(reduced_axes(n) or ()) if is_float]


def sum_channels(n: ir.Node, u: Units) -> None:
    """What is not summed passes through; what is, may go freely."""
    reduce_channels(n, u)
    for i, axis in summed(n):
        u[operand(n, i), axis]  # mentioned: not frozen


# ---- gradients -----------------------------------------------------------------------------------------------------
def reduction(name: str, slope: Slope, reduced: Reduced, axes: Axes = reduced_axes, **rules: Any) -> None:
    """A reduction; slope(tape, node, x, y) is dy/dx, in which y has its reduced axes back, of size 1."""

    def vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
        x, y, gone = operand(n, 0), n.outputs[0], axes(n)
        if gone is None or any(dims(x)[a] < 0 for a in gone):
            raise NotImplementedError("a reduction over the batch, or over computed axes, has no gradient rule")
        if len(dims(y)) != len(dims(x)):
            kept = [1 if a in gone else max(d, -1) for a, d in enumerate(dims(x))]
            dy, y = g.op("Reshape", dy, g.i64([g.seeds, *kept])), g.op("Reshape", y, g.i64(kept))
        return [g.op("Mul", dy, slope(g, n, x, y)), *[None] * (len(n.inputs) - 1)]

    op(name, vjp=vjp, torch=in_torch(reduced, axes), **rules)


def in_torch(reduced: Reduced, axes: Axes) -> Callable[[Any, ir.Node, Sequence[Any]], Any]:
    """reduced(torch, node, x, axes, whether they stay as 1) with axes as a tuple; no axes, no change."""

    def torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
        gone = axes(n)
        if gone is None:
            raise NotImplementedError("its axes are computed")
        return reduced(t, n, x[0], tuple(sorted(gone)), bool(attribute(n, "keepdims", 1))) if gone else x[0]

    return torch


def ones(g: Tape, n: ir.Node, axes: set[int] | None, value: float = 1.0) -> ir.Value:
    """A constant that spreads over the reduced axes."""
    return g.f32(np.full([d if a in (axes or ()) else 1 for a, d in enumerate(dims(n.inputs[0]))], value))


def equal_shares(axes: Axes) -> Slope:
    """1 / count for each element."""

    def slope(g: Tape, n: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
        gone = axes(n)
        return ones(g, n, gone, 1 / math.prod(dims(n.inputs[0])[a] for a in gone or ()))

    return slope


def to_winners(axes: Axes) -> Slope:
    """All of it to the extreme; equal ones share it."""

    def slope(g: Tape, n: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
        gone = axes(n)
        hits = g.op("Cast", g.op("Equal", x, y), to=ir.DataType.FLOAT.value)
        if not gone:
            return hits
        return g.op("Div", hits, g.op("ReduceSum", hits, g.i64([a - len(dims(x)) for a in sorted(gone)])))

    return slope


def norm_slope(g: Tape, n: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """y = (Σ|x|ᵖ)^(1/p): sign(x)·(|x| / y)ᵖ⁻¹."""
    p = attribute(n, "p", 2)
    if p == 2:
        return g.op("Div", x, y)
    return g.op("Mul", g.op("Sign", x), g.op("Pow", g.op("Div", g.op("Abs", x), y), g.f32(p - 1)))


# ---- TFLite --------------------------------------------------------------------------------------------------------
def lite(code: str) -> Callable[[Any, ir.Node], None]:
    """A reduction over anything but the batch."""

    def emit(w: Any, n: ir.Node) -> None:
        axes = reduced_axes(n)
        if axes is None or any(dims(n.inputs[0])[a] < 0 for a in axes):
            w.refuse(n, "reduces the batch, or computed axes", "Export with constant axes")
        w.reduced(n, code, axes, bool(attribute(n, "keepdims", 1)))

    return emit


def global_lite(code: str) -> Callable[[Any, ir.Node], None]:
    """Over all of space."""
    return lambda w, n: w.reduced(n, code, spatial_axes(n), True)


# ---- entries -------------------------------------------------------------------------------------------------------
SUM: dict[str, Any] = {"channels": sum_channels, "contracts": summed}
KEEP: dict[str, Any] = {"channels": reduce_channels}
SPACE: dict[str, Any] = {"channels": per_channel, "axes": spatial_axes}


def norm(p: int) -> Reduced:
    """‖x‖ₚ, which has a slope at 0 too."""
    return lambda t, n, x, gone, kept: t.linalg.vector_norm(x, p, gone, kept)


mean: Reduced = lambda t, n, x, gone, kept: x.mean(gone, kept)
largest: Reduced = lambda t, n, x, gone, kept: x.amax(gone, kept)
smallest: Reduced = lambda t, n, x, gone, kept: x.amin(gone, kept)
total: Reduced = lambda t, n, x, gone, kept: x.sum(gone, kept)


def product(t: Any, n: ir.Node, x: Any, gone: tuple[int, ...], kept: bool) -> Any:
    """torch multiplies along one axis at a time."""
    for axis in gone[::-1]:
        x = x.prod(axis, kept)
    return x


reduction("GlobalAveragePool", equal_shares(spatial_axes), mean, ray=linear, lite=global_lite("MEAN"), **SPACE)
reduction("GlobalMaxPool", to_winners(spatial_axes), largest, ray=homogeneous, lite=global_lite("REDUCE_MAX"), **SPACE)
reduction(
    "GlobalLpPool",
    norm_slope,
    lambda t, n, x, gone, kept: norm(attribute(n, "p", 2))(t, n, x, gone, kept),
    ray=homogeneous,
    **SPACE,
)
reduction("ReduceMean", equal_shares(reduced_axes), mean, ray=linear, lite=lite("MEAN"), **KEEP)
reduction("ReduceSum", lambda g, n, x, y: ones(g, n, reduced_axes(n)), total, ray=linear, lite=lite("SUM"), **SUM)
reduction("ReduceMax", to_winners(reduced_axes), largest, ray=homogeneous, lite=lite("REDUCE_MAX"), **KEEP)
reduction("ReduceMin", to_winners(reduced_axes), smallest, ray=homogeneous, lite=lite("REDUCE_MIN"), **KEEP)
reduction("ReduceL1", lambda g, n, x, y: g.op("Sign", x), norm(1), ray=homogeneous, **SUM)
reduction("ReduceL2", lambda g, n, x, y: g.op("Div", x, y), norm(2), ray=homogeneous, **SUM)
reduction(
    "ReduceSumSquare",
    lambda g, n, x, y: g.op("Mul", g.f32(2), x),
    lambda t, n, x, gone, kept: x.square().sum(gone, kept),
    **SUM,
)
reduction(
    "ReduceLogSum",
    lambda g, n, x, y: g.op("Mul", g.op("Exp", g.op("Neg", y)), ones(g, n, reduced_axes(n))),
    lambda t, n, x, gone, kept: x.sum(gone, kept).log(),
    **SUM,
)
reduction(
    "ReduceLogSumExp",
    lambda g, n, x, y: g.op("Exp", g.op("Sub", x, y)),
    lambda t, n, x, gone, kept: x.logsumexp(gone, kept),
    **KEEP,
)
op("ReduceProd", torch=in_torch(product, reduced_axes), **KEEP)


def extreme_place(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """Where along its axis the largest or smallest lies."""
    found = t.argmax if n.op_type == "ArgMax" else t.argmin
    return found(x[0], attribute(n, "axis", 0), bool(attribute(n, "keepdims", 1)))


op("ArgMax", channels=passing(one_axis), torch=extreme_place)
op("ArgMin", channels=passing(one_axis), torch=extreme_place)
