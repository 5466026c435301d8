"""Functions of each element alone: units pass through, and y' is one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from toolchain.ops.table import Flow, Sign, argument, attribute, constant, given, homogeneous, linear, op
from toolchain.ops.tape import Tape
from toolchain.ops.units import Units

Derivative = Callable[[Tape, ir.Node, ir.Value, ir.Value], ir.Value]


def same(n: ir.Node, u: Units) -> None:
    """Every axis of the first input is that axis of each output; further inputs are scalars."""
    x = n.inputs[0]
    assert x is not None
    for y in n.outputs:
        for a in range(len(y.shape or ())):
            u.tie(u[x, a], u[y, a])


def unary(name: str, derivative: Derivative, **rules: Any) -> None:
    """An elementwise op; derivative(tape, node, x, y) is dy/dx."""

    def vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
        x = n.inputs[0]
        assert x is not None
        return [g.scaled(dy, derivative(g, n, x, n.outputs[0])), *[None] * (len(n.inputs) - 1)]

    op(name, channels=same, vjp=vjp, **rules)


def step(g: Tape, condition: ir.Value) -> ir.Value:
    """1.0 where the condition holds, else 0.0."""
    return g.op("Cast", condition, to=ir.DataType.FLOAT.value)


def between(g: Tape, x: ir.Value, low: ir.Value | None, high: ir.Value | None) -> ir.Value:
    """1.0 strictly inside the bounds; a missing bound does not bind."""
    above = None if low is None else g.op("Greater", x, low)
    below = None if high is None else g.op("Less", x, high)
    if above is not None and below is not None:
        return step(g, g.op("And", above, below))
    inside = above if above is not None else below
    return step(g, inside) if inside is not None else g.f32(1)


def where_positive(g: Tape, x: ir.Value, otherwise: ir.Value) -> ir.Value:
    """1.0 where x > 0, else another value."""
    return g.op("Where", g.op("Greater", x, g.f32(0)), g.f32(1), otherwise)


def hardswish_slope(g: Tape, n: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """y = x·clip(x/6 + 1/2, 0, 1): slope x/3 + 1/2 inside (−3, 3)."""
    inside = g.op("Add", g.op("Div", x, g.f32(3)), g.f32(0.5))
    right = g.op("Where", g.op("Greater", x, g.f32(3)), g.f32(1), inside)
    return g.op("Where", g.op("Less", x, g.f32(-3)), g.f32(0), right)


def square(g: Tape, x: ir.Value) -> ir.Value:
    """x²."""
    return g.op("Mul", x, x)


def selu(n: ir.Node) -> tuple[float, float]:
    """α and λ of y = λ max(x, 0) + λα min(eˣ − 1, 0)."""
    return attribute(n, "alpha", 1.6732632423543772), attribute(n, "gamma", 1.0507009873554805)


def gelu_slope(g: Tape, n: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """y = x·Φ(x): Φ(x) + x·φ(x); or y = x (1 + tanh u) / 2 with u = √(2/π) (x + 0.044715 x³)."""
    half = g.f32(0.5)
    if attribute(n, "approximate", "none") == "none":
        below = g.op("Mul", half, g.op("Add", g.f32(1), g.op("Erf", g.op("Mul", x, g.f32(math.sqrt(0.5))))))
        density = g.op("Mul", g.f32(1 / math.sqrt(2 * math.pi)), g.op("Exp", g.op("Mul", g.f32(-0.5), square(g, x))))
        return g.op("Add", below, g.op("Mul", x, density))
    c = math.sqrt(2 / math.pi)
    squared = square(g, x)
    u = g.op("Mul", x, g.op("Add", g.f32(c), g.op("Mul", g.f32(0.044715 * c), squared)))
    slope_of_u = g.op("Add", g.f32(c), g.op("Mul", g.f32(3 * 0.044715 * c), squared))
    t = g.op("Tanh", u)
    bend = g.op("Mul", g.op("Mul", x, slope_of_u), g.op("Sub", g.f32(1), square(g, t)))
    return g.op("Mul", half, g.op("Add", g.op("Add", g.f32(1), t), bend))


def mish_slope(g: Tape, n: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """y = x·t with t = tanh(softplus x): t + x (1 − t²) σ(x)."""
    t = g.op("Tanh", g.op("Softplus", x))
    bend = g.op("Mul", g.op("Sub", g.f32(1), square(g, t)), g.op("Sigmoid", x))
    return g.op("Add", t, g.op("Mul", x, bend))


def swish_slope(g: Tape, n: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """y = x·σ(αx): σ + αy (1 − σ)."""
    alpha = g.f32(attribute(n, "alpha", 1.0))
    s = g.op("Sigmoid", g.op("Mul", alpha, x))
    return g.op("Add", s, g.op("Mul", g.op("Mul", alpha, y), g.op("Sub", g.f32(1), s)))


def gelu_lite(w: Any, n: ir.Node) -> None:
    """The file knows both; TFLite Micro neither, and gets x/2·(1 + erf(x/√2)), or that with a tanh."""
    is_rough = attribute(n, "approximate", "none") == "tanh"
    if not w.is_micro:
        return w.unary(n, "GELU", approximate=is_rough)
    x = w.input(n.inputs[0])
    cubic = polynomial(w, w.op("MUL", x, x), [0.044715 * math.sqrt(2 / math.pi), math.sqrt(2 / math.pi)])
    gate = w.op("TANH", w.op("MUL", x, cubic)) if is_rough else erf(w, w.op("MUL", x, np.float32(math.sqrt(0.5))))
    half = w.op("MUL", x, np.float32(0.5))
    w.give(n.outputs[0], w.op("MUL", half, w.op("ADD", gate, np.float32(1))))


def elu_lite(w: Any, n: ir.Node) -> None:
    """The file's ELU has α = 1: y = max(x, 0) + α·elu(min(x, 0)) for another."""
    x, alpha = w.input(n.inputs[0]), attribute(n, "alpha", 1.0)
    if alpha == 1.0:
        return w.unary(n, "ELU")
    below = w.op("MUL", w.op("ELU", w.op("MINIMUM", x, np.float32(0))), np.float32(alpha))
    w.give(n.outputs[0], w.op("ADD", w.op("RELU", x), below))


def selu_lite(w: Any, n: ir.Node) -> None:
    """λ max(x, 0) + λα·elu(min(x, 0))."""
    x, (alpha, scale) = w.input(n.inputs[0]), selu(n)
    below = w.op("MUL", w.op("ELU", w.op("MINIMUM", x, np.float32(0))), np.float32(scale * alpha))
    w.give(n.outputs[0], w.op("ADD", w.op("MUL", w.op("RELU", x), np.float32(scale)), below))


def celu_lite(w: Any, n: ir.Node) -> None:
    """α·elu(x / α)."""
    alpha = np.float32(attribute(n, "alpha", 1.0))
    w.give(n.outputs[0], w.op("MUL", w.op("ELU", w.op("DIV", w.input(n.inputs[0]), alpha)), alpha))


def thresholded_lite(w: Any, n: ir.Node) -> None:
    """x above α, else 0."""
    x = w.input(n.inputs[0])
    above = w.elementwise("GREATER", x, np.float32(attribute(n, "alpha", 1.0)), dtype=np.bool_)
    w.give(n.outputs[0], w.elementwise("SELECT_V2", above, x, np.float32(0), dtype=np.float32))


def softplus_view(w: Any, x: Any) -> Any:
    """log(1 + eˣ) as max(x, 0) + log(1 + e) with e = e^−|x|, which cannot overflow.

    u = 1 + e rounds, so that log u lacks log(1 + (e − (u − 1)) / u) ≈ (e − (u − 1)) / u.
    """
    e = w.op("EXP", w.op("NEG", w.op("ABS", x)))
    u = w.op("ADD", e, np.float32(1))
    lost = w.op("DIV", w.op("SUB", e, w.op("SUB", u, np.float32(1))), u)
    return w.op("ADD", w.op("RELU", x), w.op("ADD", w.op("LOG", u), lost))


def softsign_lite(w: Any, n: ir.Node) -> None:
    """x / (1 + |x|)."""
    x = w.input(n.inputs[0])
    w.give(n.outputs[0], w.op("DIV", x, w.op("ADD", w.op("ABS", x), np.float32(1))))


def mish_lite(w: Any, n: ir.Node) -> None:
    """x·tanh(softplus x)."""
    x = w.input(n.inputs[0])
    w.give(n.outputs[0], w.op("MUL", x, w.op("TANH", softplus_view(w, x))))


def swish_lite(w: Any, n: ir.Node) -> None:
    """x·σ(αx)."""
    x, alpha = w.input(n.inputs[0]), attribute(n, "alpha", 1.0)
    steep = x if alpha == 1.0 else w.op("MUL", x, np.float32(alpha))
    w.give(n.outputs[0], w.op("MUL", x, w.op("LOGISTIC", steep)))


def polynomial(w: Any, x: Any, coefficients: Sequence[float]) -> Any:
    """Σ cᵢ xⁱ by Horner's rule, the highest power first."""
    first, second, *rest = coefficients
    y = w.op("ADD", w.op("MUL", x, np.float32(first)), np.float32(second))
    for c in rest:
        y = w.op("ADD", w.op("MUL", y, x), np.float32(c))
    return y


# erf x = x·P(x²) / Q(x²) on [−4, 4] to 4 ulp, and ±1 beyond: Eigen's approximation
ERF_ABOVE = (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05)
ERF_ABOVE += (-7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02)
ERF_BELOW = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03)
ERF_BELOW += (-7.37332916720468e-03, -1.42647390514189e-02)


def erf(w: Any, x: Any) -> Any:
    """A quotient of polynomials: the file has no erf outside of GELU."""
    x = w.op("MINIMUM", w.op("MAXIMUM", x, np.float32(-4)), np.float32(4))
    squared = w.op("MUL", x, x)
    above = w.op("MUL", x, polynomial(w, squared, ERF_ABOVE))
    return w.op("DIV", above, polynomial(w, squared, ERF_BELOW))


def hardsigmoid_lite(w: Any, n: ir.Node) -> None:
    """clip(αx + β, 0, 1) = relu6(6αx + 6β) / 6."""
    x, slope, offset = w.input(n.inputs[0]), 6 * attribute(n, "alpha", 0.2), 6 * attribute(n, "beta", 0.5)
    if abs(slope - 1) > 1e-6:  # 1/6 is written with 7 digits
        x = w.op("MUL", x, np.float32(slope))
    x = w.op("ADD", x, np.float32(offset), fusedActivationFunction="RELU6")
    w.give(n.outputs[0], w.op("MUL", x, np.float32(1 / 6)))


def clip_sign(n: ir.Node) -> Sign:
    """A ReLU where the lower bound is 0."""
    low = constant(argument(n, 1))
    if low is None or low < 0:
        return Sign.KEEPS
    return Sign.POSITIVE if low > 0 else Sign.FIRES


def clip_lite(w: Any, n: ir.Node) -> None:
    """RELU or RELU6 where the bounds are theirs."""
    low, high = (w.parameter(n, i) for i in (1, 2))
    bounds = tuple(None if v is None or np.isinf(v).all() else v.item() for v in (low, high))
    if bounds in ((0.0, 6.0), (0.0, None)):
        return w.activation(n, "RELU6" if bounds[1] else "RELU")
    x = w.input(n.inputs[0])
    if low is not None:
        x = w.op("MAXIMUM", x, low)
    if high is not None:
        x = w.op("MINIMUM", x, high)
    w.give(n.outputs[0], x)


unary(
    "Relu",
    lambda g, n, x, y: step(g, g.op("Greater", y, g.f32(0))),
    ray=homogeneous,
    torch=lambda t, n, x: t.relu(x[0]),
    lite=lambda w, n: w.activation(n, "RELU"),
    lrp=Flow.RECTIFIES,
    sign=lambda n: Sign.FIRES,
)
unary(
    "LeakyRelu",
    lambda g, n, x, y: where_positive(g, x, g.f32(attribute(n, "alpha", 0.01))),
    ray=homogeneous,
    torch=lambda t, n, x: t.nn.functional.leaky_relu(x[0], attribute(n, "alpha", 0.01)),
    lite=lambda w, n: w.unary(n, "LEAKY_RELU", alpha=attribute(n, "alpha", 0.01)),
    lrp=Flow.PASSES,
    sign=lambda n: Sign.KEEPS if attribute(n, "alpha", 0.01) >= 0 else Sign.POSITIVE,
)
unary(  # y' = α eˣ = y + α below zero
    "Elu",
    lambda g, n, x, y: where_positive(g, x, g.op("Add", y, g.f32(attribute(n, "alpha", 1.0)))),
    torch=lambda t, n, x: t.nn.functional.elu(x[0], attribute(n, "alpha", 1.0)),
    lite=elu_lite,
    lrp=Flow.PASSES,
    sign=lambda n: Sign.KEEPS,
)
unary(
    "Sigmoid",
    lambda g, n, x, y: g.op("Mul", y, g.op("Sub", g.f32(1), y)),
    torch=lambda t, n, x: t.sigmoid(x[0]),
    lite=lambda w, n: w.unary(n, "LOGISTIC"),
    lrp=Flow.GATES,
    sign=lambda n: Sign.POSITIVE,
)
unary(
    "Tanh",
    lambda g, n, x, y: g.op("Sub", g.f32(1), g.op("Mul", y, y)),
    torch=lambda t, n, x: t.tanh(x[0]),
    lite=lambda w, n: w.unary(n, "TANH"),
    lrp=Flow.PASSES,
    sign=lambda n: Sign.KEEPS,
)
unary(
    "HardSigmoid",
    lambda g, n, x, y: g.op("Mul", between(g, y, g.f32(0), g.f32(1)), g.f32(attribute(n, "alpha", 0.2))),
    torch=lambda t, n, x: t.clamp(attribute(n, "alpha", 0.2) * x[0] + attribute(n, "beta", 0.5), 0, 1),
    lite=hardsigmoid_lite,
    lrp=Flow.GATES,
    sign=lambda n: Sign.POSITIVE,
)
unary(
    "HardSwish",
    hardswish_slope,
    torch=lambda t, n, x: t.nn.functional.hardswish(x[0]),
    lite=lambda w, n: w.unary(n, "HARD_SWISH"),
    lrp=Flow.PASSES,
    sign=lambda n: Sign.KEEPS,
)
unary(  # y' = λα eˣ = y + λα below zero
    "Selu",
    lambda g, n, x, y: g.op(
        "Where", g.op("Greater", x, g.f32(0)), g.f32(selu(n)[1]), g.op("Add", y, g.f32(math.prod(selu(n))))
    ),
    torch=lambda t, n, x: selu(n)[1] * t.nn.functional.elu(x[0], selu(n)[0]),
    lite=selu_lite,
    lrp=Flow.PASSES,
    sign=lambda n: Sign.KEEPS,
)
unary(  # y' = e^(x/α) = y/α + 1 below zero
    "Celu",
    lambda g, n, x, y: where_positive(g, x, g.op("Add", g.op("Div", y, g.f32(attribute(n, "alpha", 1.0))), g.f32(1))),
    torch=lambda t, n, x: t.celu(x[0], attribute(n, "alpha", 1.0)),
    lite=celu_lite,
    lrp=Flow.PASSES,
    sign=lambda n: Sign.KEEPS,
)
unary(
    "ThresholdedRelu",
    lambda g, n, x, y: step(g, g.op("Greater", x, g.f32(attribute(n, "alpha", 1.0)))),
    torch=lambda t, n, x: t.threshold(x[0], attribute(n, "alpha", 1.0), 0),
    lite=thresholded_lite,
    lrp=Flow.RECTIFIES,
    sign=lambda n: Sign.FIRES if attribute(n, "alpha", 1.0) >= 0 else Sign.KEEPS,
)
unary(
    "Softplus",
    lambda g, n, x, y: g.op("Sigmoid", x),
    torch=lambda t, n, x: t.nn.functional.softplus(x[0]),
    lite=lambda w, n: w.give(n.outputs[0], softplus_view(w, w.input(n.inputs[0]))),
    lrp=Flow.PASSES,
    sign=lambda n: Sign.POSITIVE,
)
unary(  # 1/(1 + |x|) = 1 − |y|
    "Softsign",
    lambda g, n, x, y: square(g, g.op("Sub", g.f32(1), g.op("Abs", y))),
    torch=lambda t, n, x: t.nn.functional.softsign(x[0]),
    lite=softsign_lite,
    lrp=Flow.PASSES,
    sign=lambda n: Sign.KEEPS,
)
unary(
    "Gelu",
    gelu_slope,
    torch=lambda t, n, x: t.nn.functional.gelu(x[0], approximate=attribute(n, "approximate", "none")),
    lite=gelu_lite,
    lrp=Flow.PASSES,
    sign=lambda n: Sign.KEEPS,
)
unary(
    "Mish",
    mish_slope,
    torch=lambda t, n, x: t.nn.functional.mish(x[0]),
    lite=mish_lite,
    lrp=Flow.PASSES,
    sign=lambda n: Sign.KEEPS,
)
unary(
    "Swish",
    swish_slope,
    torch=lambda t, n, x: x[0] * t.sigmoid(attribute(n, "alpha", 1.0) * x[0]),
    lite=swish_lite,
    lrp=Flow.PASSES,
    sign=lambda n: Sign.KEEPS,
)
unary(
    "Clip",
    lambda g, n, x, y: between(g, x, argument(n, 1), argument(n, 2)),
    torch=lambda t, n, x: t.clamp(x[0], given(x, 1), given(x, 2)) if any(b is not None for b in x[1:]) else x[0],
    lite=clip_lite,
    lrp=Flow.RECTIFIES,
    sign=clip_sign,
)


def function(name: str, derivative: Derivative, **rules: Any) -> None:
    """An elementwise op that torch has by the same name."""
    unary(name, derivative, torch=lambda t, n, x: getattr(t, name.lower())(x[0]), **rules)


function("Neg", lambda g, n, x, y: g.f32(-1), ray=linear, lite=lambda w, n: w.unary(n, "NEG"), lrp=Flow.PASSES)
function("Abs", lambda g, n, x, y: g.op("Sign", x), ray=homogeneous, lite=lambda w, n: w.unary(n, "ABS"))
function("Sqrt", lambda g, n, x, y: g.op("Div", g.f32(0.5), y), lite=lambda w, n: w.unary(n, "SQRT"))
function(
    "Reciprocal",
    lambda g, n, x, y: g.op("Neg", square(g, y)),
    lite=lambda w, n: w.give(n.outputs[0], w.op("DIV", np.float32(1), w.input(n.inputs[0]))),
)
function("Exp", lambda g, n, x, y: y, lite=lambda w, n: w.unary(n, "EXP"))
function("Log", lambda g, n, x, y: g.op("Reciprocal", x), lite=lambda w, n: w.unary(n, "LOG"))
function(
    "Erf",
    lambda g, n, x, y: g.op("Mul", g.f32(2 / math.sqrt(math.pi)), g.op("Exp", g.op("Neg", square(g, x)))),
    lite=lambda w, n: w.give(n.outputs[0], erf(w, w.input(n.inputs[0]))),
    lrp=Flow.GATES,
)
function("Sin", lambda g, n, x, y: g.op("Cos", x), lite=lambda w, n: w.unary(n, "SIN"))
function("Cos", lambda g, n, x, y: g.op("Neg", g.op("Sin", x)), lite=lambda w, n: w.unary(n, "COS"))


def pass_through(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """The cotangent of a copy."""
    return [dy, *[None] * (len(n.inputs) - 1)]


def cast_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """Between float types a copy; whole numbers have no derivative."""
    x = n.inputs[0]
    assert x is not None
    if not ir.DataType(attribute(n, "to")).is_floating_point():
        raise NotImplementedError("a cast to whole numbers has no gradient rule")
    is_float = x.dtype is None or x.dtype.is_floating_point()
    return [g.op("Cast", dy, to=ir.DataType.FLOAT.value) if is_float else None]


def copy_lite(w: Any, n: ir.Node) -> None:
    """The same tensor."""
    if any(v.uses() or v.is_graph_output() for v in n.outputs[1:]):
        w.refuse(n, "hands out its mask", "Export in inference mode")
    w.give(n.outputs[0], w.input(n.inputs[0]))


def cast_lite(w: Any, n: ir.Node) -> None:
    """Nothing, where both types are one in the file."""
    x, dtype = w.input(n.inputs[0]), w.dtype(n.outputs[0])
    w.give(n.outputs[0], x if x.tensor.dtype is dtype else w.op("CAST", x, dtype=dtype))


def dropout_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """At inference a copy, and a mask of all."""
    return x[0], t.ones_like(x[0], dtype=t.bool)


def dropout_trains(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """As ONNX defines it for training."""
    ratio = given(x, 1)
    return t.nn.functional.dropout(x[0], 0.5 if ratio is None else float(ratio))


def cast_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """torch's types bear numpy's names."""
    return x[0].to(getattr(t, ir.DataType(attribute(n, "to")).numpy().name))


COPY: dict[str, Any] = {
    "channels": same, "vjp": pass_through, "ray": linear, "lite": copy_lite, "lrp": Flow.MOVES, "view": True,
}  # fmt: skip
op("Identity", torch=lambda t, n, x: x[0], **COPY)
op("Dropout", torch=dropout_torch, trains=dropout_trains, **COPY)
op("Cast", channels=same, vjp=cast_vjp, torch=cast_torch, lite=cast_lite, lrp=Flow.MOVES)
