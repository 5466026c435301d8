"""Ops that sum units away against weights: convolutions and matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from toolchain.ops.pooling import bordered, skipped, window
from toolchain.ops.table import (
    Flow,
    Keep,
    Ray,
    Shape,
    Weights,
    argument,
    attribute,
    constant,
    dims,
    given,
    linear_with_bias,
    op,
    operand,
    where,
)
from toolchain.ops.tape import Tape
from toolchain.ops.units import Axis, Units, Way


# ---- Conv ----------------------------------------------------------------------------------------------------------
def conv_channels(n: ir.Node, u: Units) -> None:
    """y's channels are w's rows, x's are w's columns; of every group the same row, or a whole group."""
    x, w, bias, y = n.inputs[0], n.inputs[1], argument(n, 2), n.outputs[0]
    assert x is not None and w is not None
    groups, rows, columns = attribute(n, "group", 1), dims(w)[0], dims(w)[1]
    u.tie(u[x, 0], u[y, 0])
    u.tie(u[w, 0], u[y, 1])
    if bias is not None:
        u.tie(u[bias, 0], u[y, 1])
    if groups == 1:
        u.tie(u[x, 1], u[w, 1])
    elif columns == 1:  # depthwise: output m reads input m // multiplier
        u.tie(u[y, 1], np.repeat(u[x, 1], rows // groups))
    else:
        ways = group_ways(u, (x, 1), (w, 1), (y, 1), groups)
        u.choose((n.op_type, dims(w), groups), f"{where(n)} does not pass this axis", ways)


def group_ways(u: Units, own: Axis, columns: Axis, other: Axis, groups: int) -> list[Way]:
    """The same row of every group goes, or whole groups; `columns` is an axis of weights that own's groups share."""
    into, out, shared = u.ids(*own), u.ids(*other), u.ids(*columns)
    rows = ((into, np.tile(shared, groups)), (out, np.tile(out[: len(out) // groups], groups)))
    whole = tuple((ids, np.repeat(into[:: len(into) // groups], len(ids) // groups)) for ids in (into, out))
    return [Way((own, columns, other), rows), Way((own, other), whole)]


def conv_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """dx correlates dy with the turned weights.

    Stride 1: a Conv, 7 times as fast as ConvTranspose where it is depthwise. Otherwise a ConvTranspose, whose
    output_padding restores the rows that the stride skipped.
    """
    x, w, y = n.inputs[0], n.inputs[1], n.outputs[0]
    assert x is not None and w is not None
    v, groups, weights = window(n), attribute(n, "group", 1), constant(w)
    rank = len(v.kernel)
    around = [d * (k - 1) - p for k, d, p in zip(v.kernel * 2, v.dilations * 2, v.pads, strict=True)]
    rows = g.rows(dy, y)
    if weights is not None and set(v.strides) == {1} and min(around) >= 0:
        m, c, *kernel = weights.shape
        turned = np.flip(weights, tuple(range(2, 2 + rank))).reshape(groups, m // groups, c, *kernel)
        turned = turned.swapaxes(1, 2).reshape(groups * c, m // groups, *kernel)
        dx = g.op("Conv", rows, g.f32(turned), pads=around, dilations=v.dilations, group=groups)
    else:
        window_attributes = {"strides": v.strides, "pads": v.pads, "dilations": v.dilations, "group": groups}
        dx = g.op("ConvTranspose", rows, w, output_padding=skipped(x, y, v), **window_attributes)
    for folded, like in ((rows, y), (dx, x)):  # rows of K cotangents
        folded.shape, folded.dtype = ir.Shape([None, *dims(like)[1:]]), ir.DataType.FLOAT
    return [g.shaped(dx, x), *[None] * (len(n.inputs) - 1)]


def conv_resize(n: ir.Node, keep: Keep) -> None:
    """A grouped convolution has as many groups as there are with channels left."""
    groups = attribute(n, "group", 1)
    if groups > 1:
        left = keep(operand(n, 0), 1).reshape(groups, -1).any(axis=1)
        n.attributes["group"] = ir.AttrInt64("group", int(left.sum()))


def conv_macs(n: ir.Node, shape: Shape) -> int:
    """One multiply-accumulate for each output and each weight that it reads."""
    assert n.inputs[1] is not None
    return abs(math.prod(shape(n.outputs[0]))) * math.prod(shape(n.inputs[1])[1:])


def conv_lite(w: Any, n: ir.Node) -> None:
    """Weights [O, h, w, I / groups], depthwise [1, h, w, O], of a volume [d, h, w, I, O] for each group."""
    v, groups, x, sizes = window(n), attribute(n, "group", 1), w.image(n), w.dims(n.outputs[0])[2:]
    weights, bias, name = w.parameter(n, 1), w.parameter(n, 2), operand(n, 1).name
    bias = np.zeros(len(weights), np.float32) if bias is None else bias
    kernel = weights if weights.ndim > 3 else weights[:, :, None]
    code, order, count = ("CONV_2D", (0, 2, 3, 1), 1) if kernel.ndim == 4 else ("CONV_3D", (2, 3, 4, 1, 0), groups)
    if kernel.ndim == 4 and groups > 1 and kernel.shape[1] == 1:
        code, order = "DEPTHWISE_CONV_2D", (1, 2, 3, 0)
    parts, split = [], lambda a: np.split(a, count)
    for rows, filters, term in zip(split(np.arange(x.dims[1])), split(kernel), split(bias), strict=True):
        part = w.sliced(x, 1, int(rows[0]), len(rows))
        parts.append(w.convolved(n, part, code, w.constant(filters.transpose(order), name), term, v, sizes))
    w.give(n.outputs[0], w.concatenated(parts, 1))


def conv_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """torch pads both sides alike."""
    v, rank = window(n), x[1].ndim - 2
    conv, is_alike = getattr(t.nn.functional, f"conv{rank}d"), v.pads[:rank] == v.pads[rank:] and min(v.pads) >= 0
    features, padding = (x[0], v.pads[:rank]) if is_alike else (bordered(t, n, x[0], v), 0)
    return conv(features, x[1], given(x, 2), v.strides, padding, v.dilations, attribute(n, "group", 1))


op(
    "Conv",
    channels=conv_channels,
    vjp=conv_vjp,
    ray=linear_with_bias,
    macs=conv_macs,
    weights=lambda n: Weights(unit=1, reads=1, makes=0),
    contracts=lambda n: [(0, 1)],
    resize=conv_resize,
    torch=conv_torch,
    learns=(1, 2),
    lite=conv_lite,
    lrp=Flow.WEIGHS,
)


# ---- ConvTranspose -------------------------------------------------------------------------------------------------
def convtranspose_channels(n: ir.Node, u: Units) -> None:
    """w is [x's channels, y's channels / groups, *kernel]."""
    x, w, bias, y = n.inputs[0], n.inputs[1], argument(n, 2), n.outputs[0]
    assert x is not None and w is not None
    groups, rows, columns = attribute(n, "group", 1), dims(w)[0], dims(w)[1]
    u.tie(u[x, 0], u[y, 0])
    u.tie(u[w, 0], u[x, 1])
    if bias is not None:
        u.tie(u[bias, 0], u[y, 1])
    if groups == 1:
        u.tie(u[w, 1], u[y, 1])
    elif columns == 1 and rows == groups:
        u.tie(u[x, 1], u[y, 1])
    else:
        ways = group_ways(u, (y, 1), (w, 1), (x, 1), groups)
        u.choose((n.op_type, dims(w), groups), f"{where(n)} does not pass this axis", ways)


def convtranspose_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """The transpose of a transposed convolution is the convolution with the same weights."""
    x, w, y = n.inputs[0], n.inputs[1], n.outputs[0]
    assert x is not None and w is not None
    v = window(n)
    settings = {"strides": v.strides, "pads": v.pads, "dilations": v.dilations, "group": attribute(n, "group", 1)}
    return [g.shaped(g.op("Conv", g.rows(dy, y), w, **settings), x), *[None] * (len(n.inputs) - 1)]


def convtranspose_macs(n: ir.Node, shape: Shape) -> int:
    """One multiply-accumulate for each input and each weight that it meets."""
    assert n.inputs[0] is not None and n.inputs[1] is not None
    return abs(math.prod(shape(n.inputs[0]))) * math.prod(shape(n.inputs[1])[1:])


def convtranspose_lite(w: Any, n: ir.Node) -> None:
    """SAME where it means these pads, else all that is reached, then cut; groups one by one.

    Weights [O, h, w, I], of a volume [d, h, w, O, I]; a dilated kernel has its zeros written out.
    """
    v, groups, x, wanted = window(n), attribute(n, "group", 1), w.image(n), w.dims(n.outputs[0])
    weights, bias, name = w.parameter(n, 1), w.parameter(n, 2), operand(n, 1).name
    extents = [(k - 1) * d + 1 for k, d in zip(v.kernel, v.dilations, strict=True)]
    kernel = np.zeros((*weights.shape[:2], *extents), np.float32)
    kernel[(..., *(slice(None, None, d) for d in v.dilations))] = weights
    kernel = kernel if kernel.ndim > 3 else kernel[:, :, None]
    bias = np.zeros(kernel.shape[1] * groups, np.float32) if bias is None else bias
    places, wide = x.dims[2:], wanted[2:]
    full = [(i - 1) * s + e for i, s, e in zip(places, v.strides, extents, strict=True)]
    is_same = all(
        -(-o // s) == i and f - o >= 0 and (f - o) // 2 == b
        for i, s, f, o, b in zip(places, v.strides, full, wide, v.pads, strict=False)
    )
    size = list(wide) if is_same else [max(f, b + o) for f, b, o in zip(full, v.pads, wide, strict=False)]
    if min(v.pads) < 0 or any(s - f >= t for s, f, t in zip(size, full, v.strides, strict=True)):
        w.refuse(n, "has negative pads, or reaches a stride beyond its last place", "Export with other pads")
    code, order = ("TRANSPOSE_CONV", (1, 2, 3, 0)) if kernel.ndim == 4 else ("CONV_3D_TRANSPOSE", (2, 3, 4, 1, 0))
    settings = {"padding": "SAME" if is_same else "VALID"} | w.strides(v)
    parts, split = [], lambda a: np.split(a, groups)
    for rows, filters, term in zip(split(np.arange(x.dims[1])), split(kernel), split(bias), strict=True):
        part, sizes = w.sliced(x, 1, int(rows[0]), len(rows)), (wanted[0], len(term), *size)
        shape, filters = np.array(x.layout.shape(sizes), np.int32), w.constant(filters.transpose(order), name)
        parts.append(w.op(code, shape, filters, part, term, dims=sizes, **settings))
    y = w.concatenated(parts, 1)
    begins = dict(enumerate([0] * len(size) if is_same else v.pads[: len(size)], 2))
    w.give(n.outputs[0], w.taken(y, {a: np.arange(b, b + wanted[a]) for a, b in begins.items()}))


def convtranspose_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """The whole of it, cut where pads begin and the output ends; past its end is the bias alone."""
    v, groups, (_, _, *wanted) = window(n), attribute(n, "group", 1), dims(n.outputs[0])
    conv = getattr(t.nn.functional, f"conv_transpose{len(v.kernel)}d")
    whole = conv(x[0], x[1], None, v.strides, 0, 0, groups, v.dilations)
    sides = [(-b, b + w - f) for b, w, f in zip(v.pads, wanted, whole.shape[2:], strict=False)]
    y = t.nn.functional.pad(whole, [p for side in sides[::-1] for p in side])
    return y if given(x, 2) is None else y + x[2].reshape(-1, *[1] * len(wanted))


op(
    "ConvTranspose",
    channels=convtranspose_channels,
    vjp=convtranspose_vjp,
    ray=linear_with_bias,
    macs=convtranspose_macs,
    weights=lambda n: Weights(unit=1, reads=0, makes=1, folds=True),
    contracts=lambda n: [(0, 1)],
    resize=conv_resize,
    torch=convtranspose_torch,
    learns=(1, 2),
    lite=convtranspose_lite,
    lrp=Flow.WEIGHS,
)


# ---- Gemm ----------------------------------------------------------------------------------------------------------
def gemm_channels(n: ir.Node, u: Units) -> None:
    """y [N, M] = α·a [N, K]·b [K, M] + β·c, each of a and b perhaps transposed."""
    a, b, c, y = n.inputs[0], n.inputs[1], argument(n, 2), n.outputs[0]
    assert a is not None and b is not None
    ta, tb = attribute(n, "transA", 0), attribute(n, "transB", 0)
    u.tie(u[a, 1 - ta], u[b, tb])
    u.tie(u[b, 1 - tb], u[y, 1])
    u.tie(u[a, ta], u[y, 0])
    if c is not None:
        for axis in range(-len(dims(c)), 0):
            if dims(c)[axis] == dims(y)[axis]:
                u.tie(u[c, axis], u[y, axis])


def gemm_weights(n: ir.Node) -> Weights | None:
    """b [K, M], or [M, K]; none where the units of a lie in front."""
    turned = attribute(n, "transB", 0)
    return None if attribute(n, "transA", 0) else Weights(unit=-1, reads=turned, makes=1 - turned)


def times_transposed(g: Tape, dy: ir.Value, w: ir.Value, is_transposed: int) -> ir.Value:
    """dy [K·N, M] times the transpose of w [I, M] (or of w stored as [M, I]): the weights are read as they lie."""
    return g.op("MatMul", dy, w) if is_transposed else g.op("Gemm", dy, w, transB=1)


def gemm_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """dA = α·dy·Bᵀ; the other inputs are parameters."""
    a, b = n.inputs[0], n.inputs[1]
    assert a is not None and b is not None
    if attribute(n, "transA", 0) or g.needs(b):
        raise NotImplementedError("transA=1 or a computed right side has no gradient rule")
    da = times_transposed(g, g.rows(dy, n.outputs[0]), b, attribute(n, "transB", 0))
    alpha = attribute(n, "alpha", 1.0)
    if alpha != 1.0:
        da = g.op("Mul", da, g.f32(alpha))
    return [g.shaped(da, a), *[None] * (len(n.inputs) - 1)]


def gemm_macs(n: ir.Node, shape: Shape) -> int:
    """N·M·K."""
    assert n.inputs[0] is not None
    return abs(math.prod(shape(n.outputs[0]))) * abs(shape(n.inputs[0])[1 - attribute(n, "transA", 0)])


def stay_apart(w: Any, n: ir.Node, summed: int) -> None:
    """Refuse a product that mixes samples: along the batch, or of two batches; summed is the size that goes."""
    if summed < 0 or sum(d < 0 for d in dims(n.outputs[0])) > 1:
        w.refuse(n, "multiplies samples with each other", "Multiply within one sample")


def gemm_lite(w: Any, n: ir.Node) -> None:
    """α and β go into constant weights and a bias of one row, else MUL and ADD say them."""
    x, weights, c = w.input(n.inputs[0]), constant(n.inputs[1]), argument(n, 2)
    alpha, beta, term = attribute(n, "alpha", 1.0), attribute(n, "beta", 1.0), constant(c)
    x = w.transposed(x, [1, 0]) if attribute(n, "transA", 0) else x
    stay_apart(w, n, dims(n.inputs[0])[0 if attribute(n, "transA", 0) else 1])
    if term is not None and beta != 1.0:
        term = term * np.float64(beta)
    if weights is None:
        right = w.input(n.inputs[1])
        y = w.product(x, w.transposed(right, [1, 0]) if attribute(n, "transB", 0) else right)
        y = y if alpha == 1.0 else w.op("MUL", y, np.float32(alpha))
    else:
        weights = weights if attribute(n, "transB", 0) else weights.T
        is_row = term is not None and (term.ndim < 2 or len(term) == 1)
        bias = np.broadcast_to(term, (1, len(weights)))[0] if term is not None and is_row else None
        scaled = weights if alpha == 1.0 else weights * np.float64(alpha)
        y = w.fully_connected(x, scaled, bias, operand(n, 1).name)
        c = None if is_row else c
    if term is not None and c is not None:
        y = w.elementwise("ADD", y, term)
    elif c is not None:
        computed = w.broadcast(c, y.layout, 2)
        y = w.elementwise("ADD", y, computed if beta == 1.0 else w.op("MUL", computed, np.float32(beta)))
    w.give(n.outputs[0], y)


def gemm_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """α·a·b + β·c."""
    a, b = (m.T if attribute(n, turned, 0) else m for m, turned in ((x[0], "transA"), (x[1], "transB")))
    alpha, beta = attribute(n, "alpha", 1.0), attribute(n, "beta", 1.0)
    if given(x, 2) is None:
        return a @ b if alpha == 1.0 else alpha * (a @ b)
    return t.addmm(x[2], a, b, alpha=alpha, beta=beta)


op(
    "Gemm",
    channels=gemm_channels,
    vjp=gemm_vjp,
    ray=linear_with_bias,
    macs=gemm_macs,
    weights=gemm_weights,
    contracts=lambda n: [(0, 1 - attribute(n, "transA", 0)), (1, attribute(n, "transB", 0))],
    torch=gemm_torch,
    learns=(0, 1, 2),
    lite=gemm_lite,
    lrp=Flow.WEIGHS,
)


# ---- MatMul --------------------------------------------------------------------------------------------------------
def matmul_channels(n: ir.Node, u: Units) -> None:
    """y [..., P, M] = a [..., P, K]·b [..., K, M]; stacked matrices broadcast."""
    a, b, y = n.inputs[0], n.inputs[1], n.outputs[0]
    assert a is not None and b is not None
    if min(len(dims(a)), len(dims(b))) < 2:
        return
    u.tie(u[a, -1], u[b, -2])
    u.tie(u[a, -2], u[y, -2])
    u.tie(u[b, -1], u[y, -1])
    for x in (a, b):
        shift = len(dims(y)) - len(dims(x))
        for axis, d in enumerate(dims(x)[:-2]):
            if d == dims(y)[axis + shift]:
                u.tie(u[x, axis], u[y, axis + shift])


def matmul_weights(n: ir.Node) -> Weights | None:
    """Each matrix [K, M] of the right side; none where that is a vector."""
    right = operand(n, 1)
    return None if right.shape is None or len(right.shape) < 2 else Weights(unit=-1, reads=-2, makes=-1)


def matmul_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """dA = dy·Bᵀ, dB = Aᵀ·dy."""
    a, b, y = n.inputs[0], n.inputs[1], n.outputs[0]
    assert a is not None and b is not None
    if min(len(dims(a)), len(dims(b))) < 2:
        raise NotImplementedError("a vector operand has no gradient rule")
    da = db = None
    if g.needs(a) and len(dims(b)) == 2:
        rows = g.op("Reshape", dy, g.i64([-1, dims(y)[-1]]))
        da = g.shaped(times_transposed(g, rows, b, 0), a)
    elif g.needs(a):
        da = g.unbroadcast(g.op("MatMul", dy, swap_last(g, b)), a, y)
    if g.needs(b):
        db = g.unbroadcast(g.op("MatMul", swap_last(g, a), dy), b, y)
    return [da, db]


def swap_last(g: Tape, x: ir.Value) -> ir.Value:
    """Every matrix of the stack transposed."""
    rank = len(dims(x))
    return g.op("Transpose", x, perm=[*range(rank - 2), rank - 1, rank - 2])


def matmul_ray(n: ir.Node, rays: list[Ray | None]) -> Ray:
    """Linear in one side while the other is constant."""
    a, b = rays
    if a is not None and b is not None:
        return Ray.CURVED
    ray = a if a is not None else b
    return Ray.CURVED if ray is None else ray


def matmul_macs(n: ir.Node, shape: Shape) -> int:
    """One multiply-accumulate for each output and each term of its sum."""
    assert n.inputs[0] is not None
    return abs(math.prod(shape(n.outputs[0]))) * abs(shape(n.inputs[0])[-1])


def matmul_lite(w: Any, n: ir.Node) -> None:
    """A vector is a matrix for the while."""
    stay_apart(w, n, dims(n.inputs[0])[-1])
    a, b = w.input(n.inputs[0]), w.input(n.inputs[1])
    b = b if len(b.dims) > 1 else w.shaped(b, (*b.dims, 1))
    rank = max(len(a.dims), len(b.dims))
    w.give(n.outputs[0], w.shaped(w.product(w.raised(a, rank), w.raised(b, rank)), w.dims(n.outputs[0])))


op(
    "MatMul",
    channels=matmul_channels,
    vjp=matmul_vjp,
    ray=matmul_ray,
    macs=matmul_macs,
    weights=matmul_weights,
    contracts=lambda n: [(0, -1), (1, -2)],
    torch=lambda t, n, x: x[0] @ x[1],
    learns=(0, 1),
    lite=matmul_lite,
    lrp=Flow.WEIGHS,
)
