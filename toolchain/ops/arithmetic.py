"""Elementwise arithmetic of two or more values, with ONNX's broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import onnx_ir as ir

from toolchain.ops.table import Flow, Ray, Sign, attribute, constant, dims, op, operand, sum_of
from toolchain.ops.tape import Tape
from toolchain.ops.units import Units

MINUS_INFINITY = -1e4  # what an attention mask adds is this or less
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


def folding_lite(code: str, is_factor: bool) -> Callable[[Any, ir.Node], None]:
    """A constant term or factor may go into the weights of what makes the other."""

    def lite(w: Any, n: ir.Node) -> None:
        for x, c in (n.inputs, n.inputs[::-1]):
            array = constant(c)
            if constant(x) is None and array is not None and dims(x) == dims(n.outputs[0]) and array.dtype.kind == "f":
                return w.give(n.outputs[0], w.affine(x, array, None) if is_factor else w.affine(x, None, array))
        w.binary(n, code)

    return lite


binary(
    "Add",
    lambda g, dy, a, b: dy,
    lambda g, dy, a, b: dy,
    ray=sum_of,
    torch=lambda t, n, x: x[0] + x[1],
    learns=(0, 1),
    fixed=lambda a: a.size == 1 or bool((a <= MINUS_INFINITY).any()),
    lite=folding_lite("ADD", is_factor=False),
    lrp=Flow.ADDS,
    sign=lambda n: Sign.SUMS,
)
binary(
    "Sub",
    lambda g, dy, a, b: dy,
    lambda g, dy, a, b: g.op("Neg", dy),
    ray=sum_of,
    torch=lambda t, n, x: x[0] - x[1],
    lite=lambda w, n: w.binary(n, "SUB"),
    lrp=Flow.ADDS,
)
binary(
    "Mul",
    lambda g, dy, a, b: g.op("Mul", dy, b),
    lambda g, dy, a, b: g.op("Mul", dy, a),
    ray=product_ray,
    torch=lambda t, n, x: x[0] * x[1],
    learns=(0, 1),
    fixed=lambda a: a.size == 1 or bool(np.isin(a, (0, 1)).all()),
    lite=folding_lite("MUL", is_factor=True),
    lrp=Flow.ADDS,
)
binary(
    "Div",
    lambda g, dy, a, b: g.op("Div", dy, b),
    lambda g, dy, a, b: g.op("Neg", g.op("Mul", dy, g.op("Div", a, g.op("Mul", b, b)))),
    ray=quotient_ray,
    torch=lambda t, n, x: t.div(x[0], x[1], rounding_mode=None if x[0].is_floating_point() else "trunc"),
    lite=lambda w, n: w.binary(n, "DIV"),
    lrp=Flow.ADDS,
)


def pow_base(g: Tape, dy: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """∂aᵇ/∂a = b·aᵇ⁻¹."""
    known = constant(b)
    if known is None:
        return g.op("Mul", dy, g.op("Mul", b, g.op("Pow", a, g.op("Sub", b, g.f32(1)))))
    exponent = known.astype(np.float32)  # it may be whole numbers
    return g.op("Mul", dy, g.op("Mul", g.f32(exponent), g.op("Pow", a, g.f32(exponent - 1))))


POWERS = {2.0: "SQUARE", 0.5: "SQRT", 1.0: None}


def pow_lite(w: Any, n: ir.Node) -> None:
    """A square or a root where the exponent says so; one of another type takes the base's."""
    exponent, x = constant(n.inputs[1]), operand(n, 0)
    if exponent is not None and dims(x) == dims(n.outputs[0]) and w.dtype(x) is np.float32:
        held = exponent.astype(np.float32)
        view = w.input(x)
        if held.size == 1 and held.item() in POWERS:
            code = POWERS[held.item()]
            return w.give(n.outputs[0], view if code is None else w.op(code, view))
        return w.give(n.outputs[0], w.elementwise("POW", view, held))
    if w.dtype(x) is not w.dtype(operand(n, 1)):
        w.refuse(n, "has a base and an exponent of two types", "Cast one of them")
    w.binary(n, "POW")


binary(
    "Pow",
    pow_base,  # ∂aᵇ/∂b = aᵇ·log a
    lambda g, dy, a, b: g.op("Mul", dy, g.op("Mul", g.op("Pow", a, b), g.op("Log", a))),
    torch=lambda t, n, x: t.pow(x[0], x[1]).to(x[0].dtype),
    lite=pow_lite,
)


def mod_divisor(g: Tape, dy: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """∂/∂b of a − b·trunc(a / b) = −trunc(a / b)."""
    return g.op("Mul", dy, g.op("Div", g.op("Sub", g.op("Mod", a, b, fmod=1), a), b))


def mod_lite(w: Any, n: ir.Node) -> None:
    """The remainder with the divisor's sign; with fmod that of |a| and |b|, and a's sign."""
    if not attribute(n, "fmod", 0):
        return w.binary(n, "FLOOR_MOD")
    if w.dtype(n.outputs[0]) is not np.float32:
        w.refuse(n, "gives whole numbers the dividend's sign", "Leave out fmod")
    a, b = w.sides(n)
    rest = w.elementwise("FLOOR_MOD", w.op("ABS", a), w.op("ABS", b))
    w.give(n.outputs[0], w.elementwise("MUL", rest, w.op("SIGN", a)))


binary(
    "Mod",
    lambda g, dy, a, b: dy,
    mod_divisor,
    torch=lambda t, n, x: (t.fmod if attribute(n, "fmod", 0) else t.remainder)(x[0], x[1]),
    lite=mod_lite,
)


# ---- any number of inputs ------------------------------------------------------------------------------------------
def sum_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """Every term gets the whole cotangent."""
    return [g.unbroadcast(dy, x, n.outputs[0]) if g.needs(x) else None for x in n.inputs if x is not None]


def mean_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """Every term gets an equal share."""
    return sum_vjp(g, n, g.op("Div", dy, g.f32(len(n.inputs))))


def extreme_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """The winner gets the cotangent; equal winners share it."""
    y = n.outputs[0]
    hits = [g.op("Cast", g.op("Equal", x, y), to=ir.DataType.FLOAT.value) for x in n.inputs]
    share = g.op("Div", dy, g.op("Sum", *hits))
    return [
        g.unbroadcast(g.op("Mul", share, hit), x, y) if x is not None and g.needs(x) else None
        for x, hit in zip(n.inputs, hits, strict=True)
    ]


def is_zero(x: ir.Value | None) -> bool:
    """Whether this is a constant 0."""
    array = constant(x)
    return array is not None and not array.any()


def extreme_ray(n: ir.Node, rays: list[Ray | None]) -> Ray:
    """max(αa, αb) = α max(a, b): homogeneous where every input is, a constant 0 too."""
    starts = (r is Ray.HOMOGENEOUS or (r is None and is_zero(x)) for x, r in zip(n.inputs, rays, strict=True))
    return Ray.HOMOGENEOUS if all(starts) else Ray.CURVED


def fold_lite(
    code: str, finish: Callable[[Any, Any, int], Any] = lambda w, y, count: y
) -> Callable[[Any, ir.Node], None]:
    """The file takes two at a time; finish(writer, result, count) makes the output of what is left."""

    def lite(w: Any, n: ir.Node) -> None:
        y = reduce(lambda a, b: w.elementwise(code, a, b), w.sides(n))
        w.give(n.outputs[0], finish(w, y, len(n.inputs)))

    return lite


op(
    "Sum",
    channels=broadcast,
    vjp=sum_vjp,
    ray=sum_of,
    torch=lambda t, n, x: sum(x[1:], x[0]),
    lite=fold_lite("ADD"),
    lrp=Flow.ADDS,
    sign=lambda n: Sign.SUMS,
)
op(
    "Mean",
    channels=broadcast,
    vjp=mean_vjp,
    ray=sum_of,
    torch=lambda t, n, x: sum(x[1:], x[0]) / len(x),
    lite=fold_lite("ADD", lambda w, y, count: w.op("DIV", y, np.float32(count))),
    lrp=Flow.ADDS,
    sign=lambda n: Sign.SUMS,
)

EXTREME: dict[str, Any] = {"channels": broadcast, "vjp": extreme_vjp, "ray": extreme_ray}

op("Max", torch=lambda t, n, x: reduce(t.maximum, x), lite=fold_lite("MAXIMUM"), lrp=Flow.MOVES, **EXTREME)
op("Min", torch=lambda t, n, x: reduce(t.minimum, x), lite=fold_lite("MINIMUM"), lrp=Flow.MOVES, **EXTREME)


def prelu_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """y = x where x > 0, else slope·x."""
    x, slope = n.inputs
    return [g.op("Where", g.op("Greater", x, g.f32(0)), dy, g.op("Mul", dy, slope)), None]


def prelu_ray(n: ir.Node, rays: list[Ray | None]) -> Ray:
    """Positively homogeneous in x."""
    return Ray.HOMOGENEOUS if rays == [Ray.HOMOGENEOUS, None] else Ray.CURVED


def prelu_lite(w: Any, n: ir.Node) -> None:
    """Constant slopes of one sample, else max(x, 0) + slope·min(x, 0)."""
    x, slope = w.input(n.inputs[0]), constant(n.inputs[1])
    if slope is not None and np.broadcast_shapes(slope.shape, x.dims) != x.dims:
        w.refuse(n, "has more slopes than values, which ONNX does not define", "Expand its input")
    if slope is not None:
        slopes, channels = w.beside(slope, x), x.tensor.shape[-1]
        if slopes.shape[0] == 1 and x.layout.axes[0] == 0:  # one for each channel: runtimes of 2023 read on otherwise
            slopes = np.broadcast_to(slopes[0], (*slopes.shape[1:-1], channels))
            return w.give(n.outputs[0], w.op("PRELU", x, slopes))
    x, slopes = w.sides(n)
    below = w.elementwise("MUL", w.op("MINIMUM", x, np.float32(0)), slopes)
    w.give(n.outputs[0], w.elementwise("ADD", w.op("RELU", x), below))


def prelu_sign(n: ir.Node) -> Sign | None:
    """That of the input where no slope is below 0; unknown where some are."""
    slopes = constant(n.inputs[1])
    if slopes is None or slopes.min(initial=0) < 0 < slopes.max(initial=0):
        return None
    return Sign.KEEPS if (slopes >= 0).all() else Sign.POSITIVE


op(
    "PRelu",
    channels=broadcast,
    vjp=prelu_vjp,
    ray=prelu_ray,
    torch=lambda t, n, x: t.where(x[0] > 0, x[0], x[1] * x[0]),
    learns=(1,),
    lite=prelu_lite,
    lrp=Flow.PASSES,
    sign=prelu_sign,
)
