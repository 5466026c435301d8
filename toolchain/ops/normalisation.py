"""Normalisation. An axis whose statistics come from the data is frozen: removing there would change what stays. A norm
is a sum, to which a masked unit adds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from toolchain.ops.reduction import norm_view
from toolchain.ops.table import Flow, Keep, Ray, Sign, attribute, constant, dims, given, linear_with_bias, op, operand
from toolchain.ops.tape import Tape
from toolchain.ops.units import Units


def batchnorm_channels(n: ir.Node, u: Units) -> None:
    """Inference statistics are parameters of the channel; in training mode they are the batch's, and nothing passes."""
    if attribute(n, "training_mode", 0):
        return
    x, y = n.inputs[0], n.outputs[0]
    assert x is not None
    for a in range(len(dims(y))):
        u.tie(u[x, a], u[y, a])
    for p in n.inputs[1:]:
        assert p is not None
        u.tie(u[p, 0], u[y, 1])


def batchnorm_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """dx = dy·γ / √(σ² + ε)."""
    scale, variance = constant(n.inputs[1]), constant(n.inputs[4])
    if attribute(n, "training_mode", 0) or scale is None or variance is None:
        raise NotImplementedError("statistics of the batch, or computed ones, have no gradient rule")
    slope = scale / np.sqrt(variance + attribute(n, "epsilon", 1e-5))
    return [g.op("Mul", dy, g.f32(slope.reshape(-1, *[1] * (len(dims(n.outputs[0])) - 2)))), *[None] * 4]


def batchnorm_ray(n: ir.Node, rays: list[Ray | None]) -> Ray:
    """Affine with a bias; the batch's own statistics bend it."""
    return Ray.CURVED if attribute(n, "training_mode", 0) else linear_with_bias(n, rays)


def batchnorm_lite(w: Any, n: ir.Node) -> None:
    """γ(x − μ) / √(σ² + ε) + β as one factor and one term for each channel."""
    if attribute(n, "training_mode", 0):
        w.refuse(n, "normalises with the batch's own statistics", "Export in inference mode")
    scale, bias, mean, variance = (w.parameter(n, i).astype(np.float64) for i in range(1, 5))
    factor = scale / np.sqrt(variance + attribute(n, "epsilon", 1e-5))
    shape = (-1, *[1] * (len(dims(n.outputs[0])) - 2))
    term = bias - mean * factor
    w.give(n.outputs[0], w.affine(n.inputs[0], factor.reshape(shape), term.reshape(shape)))


def batchnorm_torch(t: Any, n: ir.Node, x: Sequence[Any], trains: bool = False) -> Any:
    """By the stored statistics; where the node `trains`, by the batch's, which move the stored ones.

    ONNX's momentum is the share that stays. The stored variance moves to the unbiased one, as torch has it.
    """
    features, scale, bias, mean, variance = x
    epsilon, stays = attribute(n, "epsilon", 1e-5), attribute(n, "momentum", 0.9)
    if attribute(n, "training_mode", 0) and not trains:
        mean, variance, trains = None, None, True
    return t.nn.functional.batch_norm(features, mean, variance, scale, bias, trains, 1 - stays, epsilon)


op(
    "BatchNormalization",
    channels=batchnorm_channels,
    vjp=batchnorm_vjp,
    ray=batchnorm_ray,
    torch=batchnorm_torch,
    trains=partial(batchnorm_torch, trains=True),
    learns=(1, 2),
    follows=(3, 4),
    lite=batchnorm_lite,
    lrp=Flow.ADDS,
)


def along(n: ir.Node) -> int:
    """The one axis of a softmax or a norm, from the front."""
    return attribute(n, "axis", -1) % len(dims(n.outputs[0]))


def softmax_channels(n: ir.Node, u: Units) -> None:
    """The axis that is summed over is frozen; the others pass through."""
    tie_all_but(n, u, {along(n)})


def tie_all_but(n: ir.Node, u: Units, frozen: set[int]) -> None:
    """Every axis of x is that axis of y, but those."""
    x, y = operand(n, 0), n.outputs[0]
    for a in set(range(len(dims(y)))) - frozen:
        u.tie(u[x, a], u[y, a])


def softmax_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """dx = y (dy − Σ dy·y)."""
    y = n.outputs[0]
    return [g.op("Mul", y, g.op("Sub", dy, total(g, n, g.op("Mul", dy, y))))]


def total(g: Tape, n: ir.Node, cotangent: ir.Value) -> ir.Value:
    """The sum along the one axis."""
    return g.op("ReduceSum", cotangent, g.i64([along(n) - len(dims(n.outputs[0]))]))


BRANCHES = 8  # positions of a softmax that chooses between branches, as selective kernels and split attention have it


def softmax_lite(w: Any, n: ir.Node) -> None:
    """Over the file's last axis; a few branches elsewhere stay where they lie: e^(x − max) over its sum."""
    x, axis = w.input(n.inputs[0]), along(n)
    if not 1 < x.dims[axis] <= BRANCHES or x.layout.moved(x.dims)[-1] == axis:
        return w.give(n.outputs[0], w.op("SOFTMAX", w.with_last(x, axis), beta=1.0))
    shares = w.op("EXP", w.elementwise("SUB", x, w.over("REDUCE_MAX", x, {axis})))
    w.give(n.outputs[0], w.elementwise("DIV", shares, w.over("SUM", shares, {axis})))


op(
    "Softmax",
    channels=softmax_channels,
    vjp=softmax_vjp,
    torch=lambda t, n, x: t.softmax(x[0], attribute(n, "axis", -1)),
    lite=softmax_lite,
    sign=lambda n: Sign.POSITIVE,
)


def logsoftmax_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """dx = dy − e^y Σ dy."""
    return [g.op("Sub", dy, g.op("Mul", g.op("Exp", n.outputs[0]), total(g, n, dy)))]


def logsoftmax_lite(w: Any, n: ir.Node) -> None:
    """Over the file's last axis."""
    w.give(n.outputs[0], w.op("LOG_SOFTMAX", w.with_last(w.input(n.inputs[0]), along(n))))


op(
    "LogSoftmax",
    channels=softmax_channels,
    vjp=logsoftmax_vjp,
    torch=lambda t, n, x: t.log_softmax(x[0], attribute(n, "axis", -1)),
    lite=logsoftmax_lite,
    sign=lambda n: Sign.NEGATIVE,
)


# ---- statistics of the data ----------------------------------------------------------------------------------------
def standardised(g: Tape, x: ir.Value, axes: list[int], epsilon: float) -> tuple[ir.Value, ir.Value]:
    """x̂ = (x − mean)·s with s = 1 / √(variance + ε) along axes that count from the end; and s."""
    over = g.i64(axes)
    centred = g.op("Sub", x, g.op("ReduceMean", x, over))
    variance = g.op("ReduceMean", g.op("Mul", centred, centred), over)
    inverse = g.op("Reciprocal", g.op("Sqrt", g.op("Add", variance, g.f32(epsilon))))
    return g.op("Mul", centred, inverse), inverse


def standardised_vjp(g: Tape, dy: ir.Value, unit: ir.Value, inverse: ir.Value, axes: list[int]) -> ir.Value:
    """dx = s (dy − mean dy − x̂·mean(dy·x̂))."""
    over = g.i64(axes)
    straight = g.op("Sub", dy, g.op("ReduceMean", dy, over))
    lean = g.op("Mul", unit, g.op("ReduceMean", g.op("Mul", dy, unit), over))
    return g.op("Mul", g.op("Sub", straight, lean), inverse)


def centred_view(w: Any, x: Any, axes: set[int]) -> tuple[Any, Any]:
    """x − mean along axes, and its variance."""
    centred = w.elementwise("SUB", x, w.over("MEAN", x, axes))
    return centred, w.over("MEAN", w.op("MUL", centred, centred), axes)


def normalised_view(w: Any, x: Any, axes: set[int], epsilon: float) -> Any:
    """(x − mean) / √(variance + ε) along axes."""
    centred, variance = centred_view(w, x, axes)
    return w.elementwise("MUL", centred, w.op("RSQRT", w.op("ADD", variance, np.float32(epsilon))))


def scaled_view(w: Any, x: Any, scale: Any, shift: Any = None) -> Any:
    """scale·x + shift by constants that broadcast to x; what changes nothing is left out."""
    if (scale != 1).any():
        x = w.elementwise("MUL", x, scale)
    return x if shift is None or not shift.any() else w.elementwise("ADD", x, shift)


def layernorm_axes(n: ir.Node) -> set[int]:
    """From `axis` to the last."""
    rank = len(dims(n.outputs[0]))
    return set(range(attribute(n, "axis", -1) % rank, rank))


def layernorm_axis(n: ir.Node) -> int | None:
    """The only axis that is normalised, or None for several."""
    axes = layernorm_axes(n)
    return min(axes) if len(axes) == 1 else None


def layernorm_channels(n: ir.Node, u: Units) -> None:
    """What is normalised together is frozen, unless approximation is allowed; the axes before pass through."""
    x, y, gone = operand(n, 0), n.outputs[0], layernorm_axes(n)
    for value in n.outputs:
        for a in range(min(gone)) if value.shape is not None else ():
            u.tie(u[x, a], u[value, a])
    axis = layernorm_axis(n)
    if u.approximate and axis is not None and all(dims(p) == (dims(y)[axis],) for p in n.inputs[1:] if p is not None):
        u.tie(u[x, axis], u[y, axis])
        for p in n.inputs[1:]:
            if p is not None:
                u.tie(u[p, 0], u[y, axis])


def layernorm_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """With dy·scale for dy; a layer normalisation without a scale hands out both x̂ and s."""
    x, scale, rank = operand(n, 0), operand(n, 1), len(dims(n.outputs[0]))
    first = attribute(n, "axis", -1) % rank
    ones = g.f32(np.ones(dims(x)[first:]))
    unit, _, inverse = g.ops("LayerNormalization", 3, x, ones, axis=first - rank, epsilon=attribute(n, "epsilon", 1e-5))
    dx = standardised_vjp(g, g.op("Mul", dy, scale), unit, inverse, list(range(first - rank, 0)))
    return [dx, *[None] * (len(n.inputs) - 1)]


def rmsnorm_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """dx = s (dy − x̂·mean(dy·x̂)) with x̂ = s·x, s = 1 / √(mean x² + ε) and dy·scale for dy."""
    x, scale, rank = operand(n, 0), operand(n, 1), len(dims(n.outputs[0]))
    over = g.i64([a - rank for a in sorted(layernorm_axes(n))])
    square = g.op("ReduceMean", g.op("Mul", x, x), over)
    inverse = g.op("Reciprocal", g.op("Sqrt", g.op("Add", square, g.f32(attribute(n, "epsilon", 1e-5)))))
    unit, scaled = g.op("Mul", x, inverse), g.op("Mul", dy, scale)
    lean = g.op("Mul", unit, g.op("ReduceMean", g.op("Mul", scaled, unit), over))
    return [g.op("Mul", g.op("Sub", scaled, lean), inverse), None]


def normed(n: ir.Node, x: Any) -> list[int]:
    """Sizes of the axes that are normalised together."""
    return list(x.shape[attribute(n, "axis", -1) :])


def layernorm_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """Scale and bias may be of fewer axes than are normalised."""
    scale, bias = ((p if p is None else p.expand(normed(n, x[0]))) for p in (x[1], given(x, 2)))
    return t.nn.functional.layer_norm(x[0], normed(n, x[0]), scale, bias, attribute(n, "epsilon", 1e-5))


def rmsnorm_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """Without a mean."""
    return t.nn.functional.rms_norm(x[0], normed(n, x[0]), None, attribute(n, "epsilon", 1e-5)) * x[1]


def layernorm_lite(w: Any, n: ir.Node) -> None:
    """γ x̂ + β."""
    if any(v.uses() or v.is_graph_output() for v in n.outputs[1:]):
        w.refuse(n, "hands out its mean or its deviation", "Compute them with ReduceMean")
    unit = normalised_view(w, w.input(n.inputs[0]), layernorm_axes(n), attribute(n, "epsilon", 1e-5))
    w.give(n.outputs[0], scaled_view(w, unit, w.parameter(n, 1), w.parameter(n, 2)))


def rmsnorm_lite(w: Any, n: ir.Node) -> None:
    """γ x / √(mean x² + ε)."""
    x, epsilon = w.input(n.inputs[0]), np.float32(attribute(n, "epsilon", 1e-5))
    mean = w.over("MEAN", w.op("MUL", x, x), layernorm_axes(n))
    unit = w.elementwise("MUL", x, w.op("RSQRT", w.op("ADD", mean, epsilon)))
    w.give(n.outputs[0], scaled_view(w, unit, w.parameter(n, 1)))


op(
    "LayerNormalization",
    channels=layernorm_channels,
    vjp=layernorm_vjp,
    norm=layernorm_axis,
    torch=layernorm_torch,
    lite=layernorm_lite,
    learns=(1, 2),
)
op(
    "RMSNormalization",
    channels=layernorm_channels,
    vjp=rmsnorm_vjp,
    norm=layernorm_axis,
    torch=rmsnorm_torch,
    lite=rmsnorm_lite,
    learns=(1,),
)


def groups_of(n: ir.Node) -> int:
    """Channels that are normalised together are one group; an InstanceNormalization has one for each channel."""
    return attribute(n, "num_groups", abs(dims(n.outputs[0])[1]))


def groupnorm_channels(n: ir.Node, u: Units) -> None:
    """A group goes as a whole."""
    x, y, groups = operand(n, 0), n.outputs[0], groups_of(n)
    u.tie(u[x, 0], u[y, 0])
    if groups == 1:
        return
    u.tie(u[x, 1], u[y, 1])
    for i in (1, 2):
        u.tie(u[operand(n, i), 0], u[y, 1])
    each = u[y, 1].reshape(groups, -1)
    u.tie(each, np.broadcast_to(each[:, :1], each.shape))


def groupnorm_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """A group is one row, [N, groups, elements]."""
    x, y, groups = operand(n, 0), n.outputs[0], groups_of(n)
    size = math.prod(dims(y)[1:]) // groups
    scale = constant(n.inputs[1])
    if scale is None:
        raise NotImplementedError("a computed scale has no gradient rule")
    each = scale.reshape(-1, *[1] * (len(dims(y)) - 2))
    unit, inverse = standardised(g, g.op("Reshape", x, g.i64([-1, groups, size])), [-1], attribute(n, "epsilon", 1e-5))
    rows = g.op("Reshape", g.op("Mul", dy, g.f32(each)), g.i64([g.seeds, -1, groups, size]))
    return [g.shaped(standardised_vjp(g, rows, unit, inverse, [-1]), x), None, None]


def groupnorm_resize(n: ir.Node, keep: Keep) -> None:
    """As many groups as are left."""
    groups, kept = groups_of(n), keep(n.outputs[0], 1)
    n.attributes["num_groups"] = ir.AttrInt64("num_groups", int(kept.reshape(groups, -1)[:, 0].sum()))


def groupnorm_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """An InstanceNormalization has as many groups as channels."""
    groups = attribute(n, "num_groups", x[0].shape[1])
    return t.nn.functional.group_norm(x[0], groups, x[1], x[2], attribute(n, "epsilon", 1e-5))


def groupnorm_lite(w: Any, n: ir.Node) -> None:
    """A group's channels on an axis of their own, all of space on one."""
    x, scale, shift = w.input(n.inputs[0]), w.parameter(n, 1), w.parameter(n, 2)
    (batch, channels, *space), groups = x.dims, groups_of(n)
    grouped = w.shaped(x, (batch, groups, channels // groups, math.prod(space)))
    unit = w.shaped(normalised_view(w, grouped, {2, 3}, attribute(n, "epsilon", 1e-5)), x.dims)
    each = (-1, *[1] * len(space))
    w.give(n.outputs[0], scaled_view(w, unit, scale.reshape(each), shift.reshape(each)))


GROUPED: dict[str, Any] = {
    "channels": groupnorm_channels,
    "vjp": groupnorm_vjp,
    "torch": groupnorm_torch,
    "lite": groupnorm_lite,
    "learns": (1, 2),
}
op("GroupNormalization", resize=groupnorm_resize, **GROUPED)
op("InstanceNormalization", **GROUPED)


def mvn_axes(n: ir.Node) -> set[int]:
    """The axes of the mean; the batch is one of them by default."""
    return {a % len(dims(n.outputs[0])) for a in attribute(n, "axes", [0, 2, 3])}


def mvn_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """(x − mean) / (σ + 1e-9)."""
    x, rank = operand(n, 0), len(dims(n.outputs[0]))
    if any(dims(x)[a] < 0 for a in mvn_axes(n)):
        raise NotImplementedError("statistics of the batch have no gradient rule")
    axes = [a - rank for a in sorted(mvn_axes(n))]
    return [standardised_vjp(g, dy, *standardised(g, x, axes, 0.0), axes)]


def mvn_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """(x − mean) / (σ + 1e-9)."""
    variance, mean = t.var_mean(x[0], attribute(n, "axes", [0, 2, 3]), correction=0, keepdim=True)
    return (x[0] - mean) / (variance.sqrt() + 1e-9)


def mvn_lite(w: Any, n: ir.Node) -> None:
    """(x − mean) / (σ + 1e-9)."""
    if any(dims(n.inputs[0])[a] < 0 for a in mvn_axes(n)):
        w.refuse(n, "takes statistics of the batch", "Export it over the axes of one sample")
    centred, variance = centred_view(w, w.input(n.inputs[0]), mvn_axes(n))
    w.give(n.outputs[0], w.elementwise("DIV", centred, w.op("ADD", w.op("SQRT", variance), np.float32(1e-9))))


op(
    "MeanVarianceNormalization",
    channels=lambda n, u: tie_all_but(n, u, mvn_axes(n)),
    vjp=mvn_vjp,
    torch=mvn_torch,
    lite=mvn_lite,
)


# ---- norms ---------------------------------------------------------------------------------------------------------
def lpnorm_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """y = x / ‖x‖: dx = (dy − ∂‖x‖ Σ dy·y) / ‖x‖ with ∂‖x‖ = y, or sign(x) for the sum of absolute values."""
    x, y, p = operand(n, 0), n.outputs[0], attribute(n, "p", 2)
    norm = g.op(f"ReduceL{p}", x, g.i64([along(n) - len(dims(y))]))
    slope = y if p == 2 else g.op("Sign", x)
    return [g.op("Div", g.op("Sub", dy, g.op("Mul", slope, total(g, n, g.op("Mul", dy, y)))), norm)]


def lpnorm_lite(w: Any, n: ir.Node) -> None:
    """x / ‖x‖, and 0 where all are 0."""
    x = w.input(n.inputs[0])
    size = norm_view(w, n, x, {along(n)}, True)
    w.give(n.outputs[0], w.elementwise("DIV", x, w.op("MAXIMUM", size, np.finfo(np.float32).tiny)))


op(
    "LpNormalization",
    channels=lambda n, u: tie_all_but(n, u, set()),
    vjp=lpnorm_vjp,
    torch=lambda t, n, x: t.nn.functional.normalize(x[0], attribute(n, "p", 2), attribute(n, "axis", -1)),
    contracts=lambda n: [(0, along(n))],
    lite=lpnorm_lite,
)


def over_channels(g: Tape, x: ir.Value, before: int, after: int, rows: int, columns: int) -> ir.Value:
    """Sums of a window that slides over channels: a convolution of [·, 1, C, S] with ones."""
    kernel = g.f32(np.ones((1, 1, before + after + 1, 1)))
    return g.op("Conv", g.op("Reshape", x, g.i64([-1, 1, rows, columns])), kernel, pads=[before, 0, after, 0])


def lrn_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """y = x·s^−β, s = k + α/n Σ x²: dx = dy·s^−β − 2αβ/n·x·Σ (dy·x·s^(−β−1)), the window turned around."""
    x, y, size = operand(n, 0), n.outputs[0], attribute(n, "size")
    alpha, beta, offset = attribute(n, "alpha", 1e-4), attribute(n, "beta", 0.75), attribute(n, "bias", 1.0)
    before, after = (size - 1) // 2, size // 2
    plane = dims(y)[1], math.prod(dims(y)[2:])
    around = over_channels(g, g.op("Mul", x, x), before, after, *plane)
    s = g.op("Add", g.f32(offset), g.op("Mul", g.f32(alpha / size), around))
    s = g.op("Reshape", s, g.i64([max(d, -1) for d in dims(x)]))
    direct = g.op("Mul", dy, g.op("Pow", s, g.f32(-beta)))
    through = over_channels(g, g.op("Div", g.op("Mul", direct, x), s), after, before, *plane)
    lean = g.op("Mul", g.op("Mul", g.f32(2 * alpha * beta / size), x), g.shaped(through, x))
    return [g.op("Sub", direct, lean)]


def lrn_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """Sums over a window of channels; an even one reaches further on, torch's own further back."""
    size, alpha, offset = attribute(n, "size"), attribute(n, "alpha", 1e-4), attribute(n, "bias", 1.0)
    spread = [0, 0] * (x[0].ndim - 2) + [(size - 1) // 2, size // 2]
    around = t.nn.functional.pad(x[0].square(), spread).unfold(1, size, 1).sum(-1)
    return x[0] / (offset + alpha / size * around) ** attribute(n, "beta", 0.75)


def lrn_lite(w: Any, n: ir.Node) -> None:
    """x·(k + α·mean x²)^−β: the mean slides over channels as over an image's columns.

    LOCAL_RESPONSE_NORMALIZATION is left alone: its reference kernel forgets the last channel of each window.
    """
    x, size = w.input(n.inputs[0]), attribute(n, "size")
    rank = len(x.dims)
    last = w.transposed(w.reordered(w.with_last(x, 1), 1, None), [0, *range(2, rank), 1])
    batch, *space, channels = last.dims
    columns = w.shaped(w.op("SQUARE", last), (batch, math.prod(space), channels, 1))
    padded = w.padded(columns, [(0, 0), (0, 0), ((size - 1) // 2, size // 2), (0, 0)])
    window = {"filterHeight": 1, "filterWidth": size, "strideH": 1, "strideW": 1, "padding": "VALID"}
    mean = w.shaped(w.op("AVERAGE_POOL_2D", padded, dims=columns.dims, **window), last.dims)
    scaled = w.op("MUL", mean, np.float32(attribute(n, "alpha", 1e-4)))
    around = w.op("ADD", scaled, np.float32(attribute(n, "bias", 1.0)))
    y = w.elementwise("MUL", last, w.elementwise("POW", around, np.float32(-attribute(n, "beta", 0.75))))
    w.give(n.outputs[0], w.transposed(y, [0, rank - 1, *range(1, rank - 1)]))


op("LRN", channels=lambda n, u: tie_all_but(n, u, {1}), vjp=lrn_vjp, torch=lrn_torch, lite=lrn_lite, lrp=Flow.PASSES)
