"""The quadrature inside an attribution graph: from samples to rows, each sample at every node, and back.

Rows are ordered by sample, then node: N·A of them, k rows of a value that has k for each sample.
"""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir

from toolchain.compress.rows import batch_axis, per_sample, renamed
from toolchain.ops.table import dims
from toolchain.ops.tape import Tape

ROWS = "R"  # N·A, each sample at every node of the quadrature


def interpolated(g: Tape, at_h: ir.Value, at_zero: ir.Value | None, alpha: ir.Value) -> ir.Value:
    """v(0) + α (v(h) − v(0)) for every node: [.., k·N, ..] -> [.., N·A·k, ..]."""
    h, rank = each_sample(g, at_h, at_h), len(dims(at_h)) + (per_sample(at_h) > 1)
    steps = g.op("Unsqueeze", alpha, g.i64(list(range(1, rank))))
    if at_zero is None:
        ray = g.op("Mul", steps, g.op("Unsqueeze", h, g.i64([1])))
    else:
        zero = each_sample(g, at_zero, at_h)
        way = g.op("Mul", steps, g.op("Unsqueeze", g.op("Sub", h, zero), g.i64([1])))
        ray = g.op("Add", g.op("Unsqueeze", zero, g.i64([1])), way)
    return as_rows(g, ray, at_h)


def each_sample(g: Tape, value: ir.Value, like: ir.Value) -> ir.Value:
    """[.., k·N, ..] -> [N, k, ..], or [N, ..] for k = 1: one sample's rows spread over those of others."""
    k, axis = per_sample(like), batch_axis(like)
    first = batch_first(g, value, like)
    others = [d for a, d in enumerate(dims(like)) if a != axis]
    return first if k == 1 else g.op("Reshape", first, g.i64([-1, k, *others]))


def tiled(g: Tape, value: ir.Value, alpha: ir.Value) -> ir.Value:
    """A context value once for every node: [.., k·N, ..] -> [.., N·A·k, ..]; one without a batch as it is."""
    if batch_axis(value) is None:
        return value
    rank = len(dims(value)) + (per_sample(value) > 1)
    target = g.op("Concat", g.i64([1]), g.op("Shape", alpha), g.i64([1] * (rank - 1)), axis=0)
    once = g.op("Unsqueeze", each_sample(g, value, value), g.i64([1]))
    return as_rows(g, g.op("Expand", once, target), value)


def batch_first(g: Tape, value: ir.Value, like: ir.Value, ahead: int = 0) -> ir.Value:
    """The batch axis of `like` in front, behind this many axes that the value has ahead of those of `like`."""
    axis, rank = batch_axis(like) or 0, len(dims(like))
    order = [axis, *(a for a in range(rank) if a != axis)]
    return value if not axis else g.op("Transpose", value, perm=[*range(ahead), *(ahead + a for a in order)])


def batch_back(g: Tape, value: ir.Value, like: ir.Value, ahead: int = 0) -> ir.Value:
    """Undoes `batch_first`."""
    axis, rank = batch_axis(like) or 0, len(dims(like))
    order = [*range(1, axis + 1), 0, *range(axis + 1, rank)]
    return value if not axis else g.op("Transpose", value, perm=[*range(ahead), *(ahead + a for a in order)])


def as_rows(g: Tape, stacked: ir.Value, like: ir.Value) -> ir.Value:
    """[N, A, k, ..] -> [.., N·A·k, ..]."""
    axis = batch_axis(like)
    others = [d for a, d in enumerate(dims(like)) if a != axis]
    out = batch_back(g, g.op("Reshape", stacked, g.i64([-1, *others])), like)
    out.shape, out.dtype = renamed(like.shape, ROWS), like.dtype or ir.DataType.FLOAT
    return out


def mixed_nodes(g: Tape, mix: ir.Value, weight: ir.Value, seeds: int) -> ir.Value:
    """The share of each cotangent in each seed, times w_α: [B, N·A, K] -> [B, N, K, A]."""
    split = g.op("Concat", g.i64([g.seeds, -1]), g.op("Shape", weight), g.i64([seeds]), axis=0)
    return g.op("Mul", g.op("Transpose", g.op("Reshape", mix, split), perm=[0, 1, 3, 2]), weight)


def over_nodes(g: Tape, cotangent: ir.Value, weight: ir.Value, mix: ir.Value | None, like: ir.Value) -> ir.Value:
    """Σ_α w_α of each seed, [K, .., k·N, ..], of the cotangents [B, .., N·A·k, ..] that it mixes.

    What all rows share is taken out of the sum: Σ_α s(α) c x(α) = c Σ_α s(α) x(α).
    """
    steady, moving = g.scales.get(cotangent, (cotangent, None) if cotangent in g.steady else (None, cotangent))
    axis = batch_axis(like)
    others = [d for a, d in enumerate(dims(like)) if a != axis]
    if mix is None:
        total = g.op("MatMul", g.op("Unsqueeze", weight, g.i64([0])), each_node(g, cotangent, weight, like, 1))
    else:
        total = g.op("ReduceSum", mix, g.i64([-1]))
        if moving is not None:
            total = g.op("MatMul", mix, each_node(g, moving, weight, like, ahead=int(steady is None)))
        if steady is not None:
            once = g.op("Reshape", batch_first(g, steady, like, ahead=1), g.i64([g.seeds, 1, 1, -1]))
            total = g.op("Mul", total, once)
        total = g.op("Transpose", g.op("ReduceSum", total, g.i64([0]), keepdims=0), perm=[1, 0, 2])
    return batch_back(g, g.op("Reshape", total, g.i64([0, -1, *others])), like, ahead=1)


def each_node(g: Tape, value: ir.Value, weight: ir.Value, like: ir.Value, ahead: int) -> ir.Value:
    """[.., N·A·k, ..] -> [N, A, elements of a sample], behind the axis of the cotangents if it is ahead."""
    first = batch_first(g, value, like, ahead)
    size = abs(math.prod(dims(like)))
    split = g.op("Concat", g.i64([*[g.seeds] * ahead, -1]), g.op("Shape", weight), g.i64([size]), axis=0)
    return g.op("Reshape", first, split)


def by_unit(g: Tape, a: ir.Value, like: ir.Value, axis: int | None) -> tuple[ir.Value, list[Any]]:
    """Σ over all axes of [K, *like] but the batch and this one, [K, rows, units], and its shape behind K."""
    shape, batch = list(like.shape or ()), batch_axis(like) or 0
    if axis is None:
        return a, shape
    others = [1 + d for d in range(len(shape)) if d not in (batch, axis)]
    total = g.op("ReduceSum", a, g.i64(others), keepdims=0) if others else a
    return (g.op("Transpose", total, perm=[0, 2, 1]) if axis < batch else total), [shape[batch], shape[axis]]
