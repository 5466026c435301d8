"""Ops that move positions without touching values: units are permuted, split and joined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from toolchain.ops.mend import rewrite
from toolchain.ops.table import (
    Flow,
    Keep,
    Ray,
    argument,
    attribute,
    constant,
    dims,
    given,
    linear,
    op,
    operand,
    sum_of,
    where,
)
from toolchain.ops.tape import Tape
from toolchain.ops.units import Units, Way

Run = list[tuple[int, int]]  # (axis, size)


def reshape_runs(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[Run, Run]]:
    """Shortest runs of axes with equal products, axes of size 1 left out: [((1, 4), (2, 9)) → ((1, 36),), …]."""
    a = [(i, d) for i, d in enumerate(before) if d != 1]
    b = [(i, d) for i, d in enumerate(after) if d != 1]
    runs: list[tuple[Run, Run]] = []
    while a and b:
        left, right = [a.pop(0)], [b.pop(0)]
        while (p := math.prod(d for _, d in left)) != (q := math.prod(d for _, d in right)):
            pull = (left, a) if (abs(p), p < 0) < (abs(q), q < 0) else (right, b)
            if not pull[1]:
                return runs
            pull[0].append(pull[1].pop(0))
        runs.append((left, right))
    return runs


def divides(r: int, l: int) -> bool:
    """Whether one size divides another; only a multiple of the batch is divided by one."""
    return r != 0 and l % r == 0 and not (r < 0 < l)


def factors(left: Run, right: Run) -> list[tuple[int, int, int]]:
    """Common refinement of a run, slowest first: [(size, left axis, right axis)]; [] where there is none.

    [T, N, 12·64] -> [T, 12·N, 64] is T, N, 12, 64: whatever is cut, a row-major index counts the last factor fastest.
    """
    a, b, found = list(left), list(right), []
    while a and b:
        (i, l), (j, r) = a.pop(), b.pop()
        if not divides(r, l) and not divides(l, r):
            return []
        size = r if divides(r, l) else l
        found.append((size, i, j))
        for stack, axis, whole in ((a, i, l), (b, j, r)):
            if whole != size:
                stack.append((axis, whole // size if size > 0 else abs(whole // size)))
    return found[::-1]


def reshape_channels(n: ir.Node, u: Units) -> None:
    """Within a split or merged run one factor carries the units.

    A run merged into the last axis of a matrix is a flatten: there each position is a unit of its own, owned by its
    channel, because the dense layer behind can do without single positions.
    """
    x, y = operand(n, 0), n.outputs[0]
    if n.op_type == "Reshape" and constant(n.inputs[1]) is None:
        return
    for left, right in reshape_runs(dims(x), dims(y)):
        if len(left) > 1 and len(dims(y)) == 2 and right[0][0] == 1 and all(d > 0 for _, d in left):
            inner = u[y, 1].reshape([d for _, d in left])
            for k, (axis, size) in enumerate(left):
                u.nest(x, axis, np.moveaxis(inner, k, 0).reshape(size, -1))
            continue
        common = factors(left, right)
        kind = (n.op_type, tuple(d for _, d in left), tuple(d for _, d in right))
        ways = [way for f in range(len(common)) if (way := carried(u, x, y, common, f)) is not None]
        u.choose(kind, f"{where(n)} does not pass this axis", ways)


def carried(u: Units, x: ir.Value, y: ir.Value, common: list[tuple[int, int, int]], f: int) -> Way | None:
    """Positions that agree in factor f are one unit; None where the batch is in the way."""
    size, i, j = common[f]
    if dims(x)[i] < 0 or dims(y)[j] < 0:
        return None
    digits = []
    for side, axis in ((1, i), (2, j)):
        sizes = [c[0] for c in common if c[side] == axis]
        along = [-1 if g == f else 1 for g, c in enumerate(common) if c[side] == axis]
        digits.append(np.broadcast_to(np.arange(size).reshape(along), sizes).ravel())
    before, after = u.ids(x, i), u.ids(y, j)
    first = before[np.unique(digits[0], return_index=True)[1]]
    return Way(((x, i), (y, j)), ((before, first[digits[0]]), (after, first[digits[1]])))


def reshape_resize(n: ir.Node, keep: Keep) -> None:
    """Write the new target shape; the batch is what is left over."""
    y = n.outputs[0]
    rewrite(n, 1, [int(keep(y, a).sum()) if d > 0 else -1 for a, d in enumerate(dims(y))])
    n.attributes.pop("allowzero", None)


def back(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """The same elements in the shape that they had."""
    x = n.inputs[0]
    assert x is not None
    return [g.shaped(dy, x), *[None] * (len(n.inputs) - 1)]


def reshape_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """The output's shape, which is known but for the batch."""
    sizes = [max(d, -1) for d in dims(n.outputs[0])]
    if sizes.count(-1) > 1:
        raise NotImplementedError("the batch is in two axes of its output")
    return x[0].reshape(sizes)


VIEW: dict[str, Any] = {
    "channels": reshape_channels,
    "vjp": back,
    "ray": linear,
    "torch": reshape_torch,
    "lite": lambda w, n: w.reshape(n),
    "lrp": Flow.MOVES,
    "view": True,
}
for _name in ("Flatten", "Squeeze", "Unsqueeze"):
    op(_name, **VIEW)
op("Reshape", resize=reshape_resize, **VIEW)


# ---- Transpose -----------------------------------------------------------------------------------------------------
def permutation(n: ir.Node) -> list[int]:
    """perm, by default the axes reversed."""
    return attribute(n, "perm") or list(range(len(dims(n.outputs[0]))))[::-1]


def transpose_channels(n: ir.Node, u: Units) -> None:
    """Output axis i is input axis perm[i]."""
    x = n.inputs[0]
    assert x is not None
    for out, a in enumerate(permutation(n)):
        u.tie(u[x, a], u[n.outputs[0], out])


def transpose_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """The inverse permutation, behind the axis of the cotangents."""
    return [g.op("Transpose", dy, perm=[0, *(int(i) + 1 for i in np.argsort(permutation(n)))])]


op(
    "Transpose",
    channels=transpose_channels,
    vjp=transpose_vjp,
    ray=linear,
    torch=lambda t, n, x: x[0].permute(attribute(n, "perm") or list(range(x[0].ndim))[::-1]),
    lite=lambda w, n: w.give(n.outputs[0], w.transposed(w.input(n.inputs[0]), permutation(n))),
    lrp=Flow.MOVES,
)


# ---- Concat --------------------------------------------------------------------------------------------------------
def concat_channels(n: ir.Node, u: Units) -> None:
    """Units of the inputs stand side by side along the axis and coincide on the others."""
    y = n.outputs[0]
    axis = attribute(n, "axis") % len(dims(y))
    for a in range(len(dims(y))):
        if a == axis:
            u.tie(np.concatenate([u[x, a] for x in n.inputs if x is not None]), u[y, a])
        else:
            for x in n.inputs:
                assert x is not None
                u.tie(u[x, a], u[y, a])


def concat_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """Cut dy where the inputs met."""
    rank = len(dims(n.outputs[0]))
    axis = attribute(n, "axis") % rank - rank
    if len(n.inputs) == 1:
        return [dy]
    sizes = [dims(x)[axis] for x in n.inputs]
    if min(sizes) < 0:
        raise NotImplementedError("a concatenation along the batch has no gradient rule")
    return list(g.ops("Split", len(sizes), dy, g.i64(sizes), axis=axis))


op(
    "Concat",
    channels=concat_channels,
    vjp=concat_vjp,
    ray=sum_of,
    torch=lambda t, n, x: t.cat(list(x), attribute(n, "axis")),
    lite=lambda w, n: w.concat(n, attribute(n, "axis") % len(dims(n.outputs[0]))),
    lrp=Flow.MOVES,
)


# ---- Pad -----------------------------------------------------------------------------------------------------------
def pad_amounts(n: ir.Node) -> list[tuple[int, int]] | None:
    """(begin, end) of every axis, or None where they are computed."""
    pads, axes = constant(argument(n, 1)), argument(n, 3)
    rank = len(dims(n.inputs[0]))
    if pads is None or (axes is not None and constant(axes) is None):
        return None
    given = constant(axes)
    listed = range(rank) if given is None else [int(a) % rank for a in given]
    amounts = [(0, 0)] * rank
    for i, a in enumerate(listed):
        amounts[a] = (int(pads[i]), int(pads[i + len(pads) // 2]))
    return amounts


def pad_channels(n: ir.Node, u: Units) -> None:
    """Axes that are not padded pass through."""
    x, y, amounts = n.inputs[0], n.outputs[0], pad_amounts(n)
    assert x is not None
    for a, amount in enumerate(amounts or []):
        if amount == (0, 0):
            u.tie(u[x, a], u[y, a])


def pad_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """Cut the border off again."""
    amounts = pad_amounts(n)
    if amounts is None or attribute(n, "mode", "constant") != "constant":
        raise NotImplementedError("only constant padding has a gradient rule")
    pads = [0, *(-b for b, _ in amounts), 0, *(-e for _, e in amounts)]
    return [g.op("Pad", dy, g.i64(pads)), *[None] * (len(n.inputs) - 1)]


def pad_ray(n: ir.Node, rays: list[Ray | None]) -> Ray:
    """Linear with zeros, affine with another constant."""
    ray, value = linear(n, rays), constant(argument(n, 2))
    return ray if argument(n, 2) is None or (value is not None and not value.any()) else min(ray, Ray.AFFINE)


def pad_lite(w: Any, n: ir.Node) -> None:
    """What negative amounts cut off goes first; then a border of one constant, of a mirror, or of picked positions."""
    amounts, mode, value = pad_amounts(n), attribute(n, "mode", "constant"), w.parameter(n, 2)
    if amounts is None:
        return w.refuse(n, "computes its amounts", "Export with static shapes")
    x = w.input(n.inputs[0])
    cut = {
        a: np.arange(d)[max(-b, 0) : d - max(-e, 0)] for a, (d, (b, e)) in enumerate(zip(x.dims, amounts, strict=True))
    }
    x, added = w.taken(x, cut), [(max(b, 0), max(e, 0)) for b, e in amounts]
    if mode == "constant":
        y = w.padded(x, added, 0.0 if value is None else float(value.item()))
    elif mode == "reflect":
        y = w.padded(x, added, is_mirror=True)
    else:
        around = [np.pad(np.arange(d), amount, mode) for d, amount in zip(x.dims, added, strict=True)]
        y = w.taken(x, {a: around[a] for a, amount in enumerate(added) if any(amount)})
    w.give(n.outputs[0], y)


def pad_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """A border of one constant, or of positions that each axis reads again."""
    amounts, mode, value = pad_amounts(n), attribute(n, "mode", "constant"), given(x, 2)
    if amounts is None:
        raise NotImplementedError("its amounts are computed")
    if mode == "constant":
        around = [p for amount in amounts[::-1] for p in amount]
        return t.nn.functional.pad(x[0], around, value=0 if value is None else value.item())
    y = x[0]
    for axis, amount in enumerate(amounts):
        if amount != (0, 0):
            picked = np.pad(np.arange(y.shape[axis]), amount, mode)  # type: ignore[call-overload]
            y = y.index_select(axis, t.from_numpy(picked).to(y.device))
    return y


op("Pad", channels=pad_channels, vjp=pad_vjp, ray=pad_ray, torch=pad_torch, lite=pad_lite, lrp=Flow.MOVES)
