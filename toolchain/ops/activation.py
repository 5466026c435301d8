"""Functions of each element alone: units pass through, and y' is one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from toolchain.ops.table import argument, attribute, dims, homogeneous, linear, op
from toolchain.ops.tape import Tape
from toolchain.ops.units import Units

Derivative = Callable[[Tape, ir.Node, ir.Value, ir.Value], ir.Value]


def same(n: ir.Node, u: Units) -> None:
    """Every axis of the first input is that axis of the output; further inputs are scalars."""
    x, y = n.inputs[0], n.outputs[0]
    assert x is not None
    for a in range(len(dims(y))):
        u.tie(u[x, a], u[y, a])


def unary(name: str, derivative: Derivative, **rules: Any) -> None:
    """An elementwise op; derivative(tape, node, x, y) is dy/dx."""

    def vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
        x = n.inputs[0]
        assert x is not None
        return [g.op("Mul", dy, derivative(g, n, x, n.outputs[0])), *[None] * (len(n.inputs) - 1)]

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


unary("Relu", lambda g, n, x, y: step(g, g.op("Greater", y, g.f32(0))), ray=homogeneous)
unary("LeakyRelu", lambda g, n, x, y: where_positive(g, x, g.f32(attribute(n, "alpha", 0.01))), ray=homogeneous)
unary(  # y' = α eˣ = y + α below zero
    "Elu", lambda g, n, x, y: where_positive(g, x, g.op("Add", y, g.f32(attribute(n, "alpha", 1.0))))
)
unary("Sigmoid", lambda g, n, x, y: g.op("Mul", y, g.op("Sub", g.f32(1), y)))
unary("Tanh", lambda g, n, x, y: g.op("Sub", g.f32(1), g.op("Mul", y, y)))
unary(
    "HardSigmoid",
    lambda g, n, x, y: g.op("Mul", between(g, y, g.f32(0), g.f32(1)), g.f32(attribute(n, "alpha", 0.2))),
)
unary("HardSwish", hardswish_slope)
unary("Clip", lambda g, n, x, y: between(g, x, argument(n, 1), argument(n, 2)))


def pass_through(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """The cotangent of a copy."""
    return [dy, *[None] * (len(n.inputs) - 1)]


op("Identity", channels=same, vjp=pass_through, ray=linear)
op("Dropout", channels=same, vjp=pass_through, ray=linear)  # at inference a copy
op("Cast", channels=same, vjp=lambda g, n, dy: [g.op("Cast", dy, to=ir.DataType.FLOAT.value)])
