"""Comparisons, logic and rounding: constant between their jumps, so their derivative is zero; and the choice by them.

Whole and true-or-false values carry no cotangent, which is the same zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from toolchain.ops.activation import same
from toolchain.ops.arithmetic import broadcast
from toolchain.ops.table import Ray, attribute, op, operand
from toolchain.ops.tape import Tape

COMPARED = {  # each with its name in torch and in a TFLite file
    "Equal": ("eq", "EQUAL"),
    "Greater": ("gt", "GREATER"),
    "GreaterOrEqual": ("ge", "GREATER_EQUAL"),
    "Less": ("lt", "LESS"),
    "LessOrEqual": ("le", "LESS_EQUAL"),
    "And": ("logical_and", "LOGICAL_AND"),
    "Or": ("logical_or", "LOGICAL_OR"),
    "Xor": ("logical_xor", "NOT_EQUAL"),
}
for name, (called, code) in COMPARED.items():
    op(
        name,
        channels=broadcast,
        torch=lambda t, n, x, called=called: getattr(t, called)(x[0], x[1]),
        lite=lambda w, n, code=code: w.binary(n, code),
    )


def nan_lite(w: Any, n: ir.Node) -> None:
    """Only what is no number differs from itself."""
    x = w.input(n.inputs[0])
    w.give(n.outputs[0], w.op("NOT_EQUAL", x, x, dtype=np.bool_))


def infinite_lite(w: Any, n: ir.Node) -> None:
    """|x| = ∞, or of one sign."""
    x, signs = w.input(n.inputs[0]), [attribute(n, f"detect_{s}", 1) for s in ("positive", "negative")]
    if not any(signs):
        w.refuse(n, "looks for neither infinity", "Leave it out")
    looked = w.op("ABS", x) if all(signs) else x
    w.give(n.outputs[0], w.elementwise("EQUAL", looked, np.float32(np.inf if signs[0] else -np.inf), dtype=np.bool_))


TOLD: dict[str, tuple[str, Any]] = {
    "Not": ("logical_not", lambda w, n: w.unary(n, "LOGICAL_NOT")),
    "IsNaN": ("isnan", nan_lite),
    "IsInf": ("isinf", infinite_lite),
}
for name, (called, rule) in TOLD.items():
    op(name, channels=same, torch=lambda t, n, x, called=called: getattr(t, called)(x[0]), lite=rule)
for name in ("Floor", "Ceil", "Round", "Sign"):
    op(
        name,
        channels=same,
        vjp=lambda g, n, dy: [g.op("Mul", dy, g.f32(0))],
        torch=lambda t, n, x, name=name: getattr(t, name.lower())(x[0]),
        lite=lambda w, n, name=name: w.unary(n, name.upper()),
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


op(
    "Where",
    channels=broadcast,
    vjp=where_vjp,
    ray=where_ray,
    torch=lambda t, n, x: t.where(*x),
    lite=lambda w, n: w.binary(n, "SELECT_V2"),
)
