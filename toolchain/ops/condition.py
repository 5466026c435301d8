"""Comparisons, logic and rounding: constant between their jumps, so their derivative is zero; and the choice by them.

Whole and true-or-false values carry no cotangent, which is the same zero.
"""

from __future__ import annotations

import onnx_ir as ir

from toolchain.ops.activation import same
from toolchain.ops.arithmetic import broadcast
from toolchain.ops.table import Ray, op, operand
from toolchain.ops.tape import Tape

COMPARED = {  # each with its name in torch
    "Equal": "eq",
    "Greater": "gt",
    "GreaterOrEqual": "ge",
    "Less": "lt",
    "LessOrEqual": "le",
    "And": "logical_and",
    "Or": "logical_or",
    "Xor": "logical_xor",
}
for name, called in COMPARED.items():
    op(name, channels=broadcast, torch=lambda t, n, x, called=called: getattr(t, called)(x[0], x[1]))
for name, called in {"Not": "logical_not", "IsNaN": "isnan", "IsInf": "isinf"}.items():
    op(name, channels=same, torch=lambda t, n, x, called=called: getattr(t, called)(x[0]))
for name in ("Floor", "Ceil", "Round", "Sign"):
    op(
        name,
        channels=same,
        vjp=lambda g, n, dy: [g.op("Mul", dy, g.f32(0))],
        torch=lambda t, n, x, name=name: getattr(t, name.lower())(x[0]),
    )


def where_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """Each side gets its share where it was chosen; the condition none."""
    condition, x, y = (operand(n, i) for i in range(3))
    zero, out = g.f32(0), n.outputs[0]
    dx = g.unbroadcast(g.op("Where", condition, dy, zero), x, out) if g.needs(x) else None
    return [None, dx, g.unbroadcast(g.op("Where", condition, zero, dy), y, out) if g.needs(y) else None]


def where_ray(n: ir.Node, rays: list[Ray | None]) -> Ray:
    """A constant choice is linear in both sides; a constant side is a bias."""
    condition, *sides = rays
    return Ray.CURVED if condition is not None else min(Ray.AFFINE if r is None else r for r in sides)


op("Where", channels=broadcast, vjp=where_vjp, ray=where_ray, torch=lambda t, n, x: t.where(*x))
