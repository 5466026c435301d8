"""Elementwise arithmetic of two values, with ONNX's broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from toolchain.ops.table import Ray, constant, dims, op, sum_of
from toolchain.ops.tape import Tape
from toolchain.ops.units import Units

Partial = Callable[[Tape, ir.Value, ir.Value, ir.Value], ir.Value]


def broadcast(n: ir.Node, u: Units) -> None:
    """Right-aligned axes of equal size share their units; an axis of size 1 that spreads over others must stay."""
    y = n.outputs[0]
    for x in n.inputs:
        if x is None:
            continue
        shift = len(dims(y)) - len(dims(x))
        for a, d in enumerate(dims(x)):
            if d == dims(y)[a + shift]:
                u.tie(u[x, a], u[y, a + shift])


def product_ray(n: ir.Node, rays: list[Ray | None]) -> Ray:
    """A product is linear in one factor while the other is constant."""
    a, b = rays
    if a is None:
        return Ray.CURVED if b is None else b
    return a if b is None else Ray.CURVED


def quotient_ray(n: ir.Node, rays: list[Ray | None]) -> Ray:
    """A quotient is linear in its numerator."""
    return rays[0] if rays[0] is not None and rays[1] is None else Ray.CURVED


def binary(name: str, da: Partial, db: Partial, **rules: Any) -> None:
    """An op of two inputs a, b with y = f(a, b); da(tape, dy, a, b) is dy·∂f/∂a before broadcasting is undone."""

    def vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
        a, b = n.inputs
        assert a is not None and b is not None
        y = n.outputs[0]
        return [g.unbroadcast(d(g, dy, a, b), x, y) if g.needs(x) else None for d, x in ((da, a), (db, b))]

    op(name, channels=broadcast, vjp=vjp, **rules)


def add_lite(w: Any, n: ir.Node) -> None:
    """A constant term may become the bias of what makes the other."""
    for x, c in (n.inputs, n.inputs[::-1]):
        term = constant(c)
        if constant(x) is None and term is not None and dims(x) == dims(n.outputs[0]):
            return w.give(n.outputs[0], w.affine(x, None, term))
    w.binary(n, "ADD")


binary("Add", lambda g, dy, a, b: dy, lambda g, dy, a, b: dy, ray=sum_of, lite=add_lite)
binary(
    "Sub",
    lambda g, dy, a, b: dy,
    lambda g, dy, a, b: g.op("Neg", dy),
    ray=sum_of,
    lite=lambda w, n: w.binary(n, "SUB"),
)
binary(
    "Mul",
    lambda g, dy, a, b: g.op("Mul", dy, b),
    lambda g, dy, a, b: g.op("Mul", dy, a),
    ray=product_ray,
    lite=lambda w, n: w.binary(n, "MUL"),
)
binary(
    "Div",
    lambda g, dy, a, b: g.op("Div", dy, b),
    lambda g, dy, a, b: g.op("Neg", g.op("Mul", dy, g.op("Div", a, g.op("Mul", b, b)))),
    ray=quotient_ray,
    lite=lambda w, n: w.binary(n, "DIV"),
)


def prelu_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """y = x where x > 0, else slope·x."""
    x, slope = n.inputs
    return [g.op("Where", g.op("Greater", x, g.f32(0)), dy, g.op("Mul", dy, slope)), None]


def prelu_ray(n: ir.Node, rays: list[Ray | None]) -> Ray:
    """Positively homogeneous in x."""
    return Ray.HOMOGENEOUS if rays == [Ray.HOMOGENEOUS, None] else Ray.CURVED


def prelu_lite(w: Any, n: ir.Node) -> None:
    """Slopes of one sample."""
    x, slope = w.input(n.inputs[0]), w.parameter(n, 1)
    slope = slope.reshape((1,) * (len(x.dims) - slope.ndim) + slope.shape)
    if slope.shape[0] != 1:
        w.refuse(n, "has a slope for each sample", "Give it slopes for each channel")
    w.give(n.outputs[0], w.op("PRELU", x, x.layout.arranged(slope)[0]))


op("PRelu", channels=broadcast, vjp=prelu_vjp, ray=prelu_ray, lite=prelu_lite)
