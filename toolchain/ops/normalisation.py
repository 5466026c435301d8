"""Normalisation. An axis whose statistics come from the data is frozen: removing there would change what stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from toolchain.ops.table import Ray, attribute, constant, dims, linear_with_bias, op
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


op(
    "BatchNormalization",
    channels=batchnorm_channels,
    vjp=batchnorm_vjp,
    ray=batchnorm_ray,
    lite=batchnorm_lite,
)


def softmax_channels(n: ir.Node, u: Units) -> None:
    """The axis that is summed over is frozen; the others pass through."""
    x, y = n.inputs[0], n.outputs[0]
    assert x is not None
    axis = attribute(n, "axis", -1) % len(dims(y))
    for a in range(len(dims(y))):
        if a != axis:
            u.tie(u[x, a], u[y, a])


def softmax_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """dx = y (dy − Σ dy·y)."""
    y = n.outputs[0]
    axis = attribute(n, "axis", -1) % len(dims(y)) - len(dims(y))
    total = g.op("ReduceSum", g.op("Mul", dy, y), g.i64([axis]), keepdims=1)
    return [g.op("Mul", y, g.op("Sub", dy, total))]


def softmax_lite(w: Any, n: ir.Node) -> None:
    """Over the file's last axis."""
    x = w.input(n.inputs[0])
    w.give(n.outputs[0], w.op("SOFTMAX", w.with_last(x, attribute(n, "axis", -1) % len(x.dims)), beta=1.0))


op("Softmax", channels=softmax_channels, vjp=softmax_vjp, lite=softmax_lite)
