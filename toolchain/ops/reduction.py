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
from toolchain.ops.table import Flow, Sign, argument, attribute, constant, dims, homogeneous, linear, op, operand
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
Made = Callable[[Any, ir.Node, Any, "set[int]", bool], Any]


def lite(made: Made, axes: Axes = reduced_axes) -> Callable[[Any, ir.Node], None]:
    """made(writer, node, view, axes, whether they stay as 1) over anything but the batch."""

    def emit(w: Any, n: ir.Node) -> None:
        gone, kept = axes(n), bool(attribute(n, "keepdims", 1))
        if gone is None or any(dims(n.inputs[0])[a] < 0 for a in gone):
            return w.refuse(n, "reduces the batch, or computed axes", "Export with constant axes")
        w.give(n.outputs[0], made(w, n, w.input(n.inputs[0]), gone, kept))

    return emit


def kernel(code: str, before: str = "", after: str = "") -> Made:
    """A reduction that the file has, between functions of each element."""

    def made(w: Any, n: ir.Node, x: Any, gone: set[int], kept: bool) -> Any:
        y = w.over(code, w.op(before, x) if before else x, gone, kept)
        return w.op(after, y) if after else y

    return made


def log_sum_exp(w: Any, n: ir.Node, x: Any, gone: set[int], kept: bool) -> Any:
    """log Σ e^(x − max) + max, which does not overflow."""
    above = w.elementwise("SUB", x, w.over("REDUCE_MAX", x, gone))
    small = w.op("LOG", w.over("SUM", w.op("EXP", above), gone, kept))
    return w.op("ADD", small, w.over("REDUCE_MAX", x, gone, kept))


def norm_view(w: Any, n: ir.Node, x: Any, gone: set[int], kept: bool) -> Any:
    """(Σ|x|ᵖ)^(1/p)."""
    p = attribute(n, "p", 2)
    if p in NORMS:
        return NORMS[p](w, n, x, gone, kept)
    powers = w.elementwise("POW", w.op("ABS", x), np.float32(p))
    return w.elementwise("POW", w.over("SUM", powers, gone, kept), np.float32(1 / p))


NORMS: dict[float, Made] = {1: kernel("SUM", before="ABS"), 2: kernel("SUM", before="SQUARE", after="SQRT")}


# ---- entries -------------------------------------------------------------------------------------------------------
SUM: dict[str, Any] = {"channels": sum_channels, "contracts": summed}
KEEP: dict[str, Any] = {"channels": reduce_channels}
EXTREME: dict[str, Any] = KEEP | {"ray": homogeneous, "lrp": Flow.MOVES}
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


reduction(
    "GlobalAveragePool",
    equal_shares(spatial_axes),
    mean,
    ray=linear,
    lite=lite(kernel("MEAN"), spatial_axes),
    **SPACE,
    lrp=Flow.ADDS,
    sign=lambda n: Sign.SUMS,
)
reduction(
    "GlobalMaxPool",
    to_winners(spatial_axes),
    largest,
    ray=homogeneous,
    lite=lite(kernel("REDUCE_MAX"), spatial_axes),
    **SPACE,
    lrp=Flow.MOVES,
    sign=lambda n: Sign.POOLS,
)
reduction(
    "GlobalLpPool",
    norm_slope,
    lambda t, n, x, gone, kept: norm(attribute(n, "p", 2))(t, n, x, gone, kept),
    ray=homogeneous,
    lite=lite(norm_view, spatial_axes),
    **SPACE,
)
reduction(
    "ReduceMean",
    equal_shares(reduced_axes),
    mean,
    ray=linear,
    lite=lite(kernel("MEAN")),
    lrp=Flow.ADDS,
    sign=lambda n: Sign.SUMS,
    **KEEP,
)
reduction(
    "ReduceSum",
    lambda g, n, x, y: ones(g, n, reduced_axes(n)),
    total,
    ray=linear,
    lite=lite(kernel("SUM")),
    **SUM,
    lrp=Flow.ADDS,
    sign=lambda n: Sign.SUMS,
)
reduction(
    "ReduceMax",
    to_winners(reduced_axes),
    largest,
    ray=homogeneous,
    lite=lite(kernel("REDUCE_MAX")),
    lrp=Flow.MOVES,
    **KEEP,
)
reduction(
    "ReduceMin",
    to_winners(reduced_axes),
    smallest,
    ray=homogeneous,
    lite=lite(kernel("REDUCE_MIN")),
    lrp=Flow.MOVES,
    **KEEP,
)
reduction("ReduceL1", lambda g, n, x, y: g.op("Sign", x), norm(1), ray=homogeneous, lite=lite(NORMS[1]), **SUM)
reduction("ReduceL2", lambda g, n, x, y: g.op("Div", x, y), norm(2), ray=homogeneous, lite=lite(NORMS[2]), **SUM)
reduction(
    "ReduceSumSquare",
    lambda g, n, x, y: g.op("Mul", g.f32(2), x),
    lambda t, n, x, gone, kept: x.square().sum(gone, kept),
    lite=lite(kernel("SUM", before="SQUARE")),
    **SUM,
)
reduction(
    "ReduceLogSum",
    lambda g, n, x, y: g.op("Mul", g.op("Exp", g.op("Neg", y)), ones(g, n, reduced_axes(n))),
    lambda t, n, x, gone, kept: x.sum(gone, kept).log(),
    lite=lite(kernel("SUM", after="LOG")),
    **SUM,
)
reduction(
    "ReduceLogSumExp",
    lambda g, n, x, y: g.op("Exp", g.op("Sub", x, y)),
    lambda t, n, x, gone, kept: x.logsumexp(gone, kept),
    lite=lite(log_sum_exp),
    **KEEP,
)
op("ReduceProd", torch=in_torch(product, reduced_axes), lite=lite(kernel("REDUCE_PROD")), **KEEP)


def extreme_place(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """Where along its axis the largest or smallest lies."""
    found = t.argmax if n.op_type == "ArgMax" else t.argmin
    return found(x[0], attribute(n, "axis", 0), bool(attribute(n, "keepdims", 1)))


def extreme_lite(code: str) -> Callable[[Any, ir.Node], None]:
    """The first of equal ones, as a whole number of 32 bits."""

    def emit(w: Any, n: ir.Node) -> None:
        axis = min(one_axis(n))
        if attribute(n, "select_last_index", 0) or dims(n.inputs[0])[axis] < 0:
            w.refuse(n, "asks for the last of equal ones, or looks along the batch", "Take the first of one sample")
        w.give(n.outputs[0], w.place_of(code, w.input(n.inputs[0]), axis, bool(attribute(n, "keepdims", 1))))

    return emit


op("ArgMax", channels=passing(one_axis), torch=extreme_place, lite=extreme_lite("ARG_MAX"))
op("ArgMin", channels=passing(one_axis), torch=extreme_place, lite=extreme_lite("ARG_MIN"))
