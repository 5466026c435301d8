"""Einsum: a letter that the output keeps passes through, one that is summed away is a contraction; the gradient of an
operand is the einsum of the cotangent with the others.
"""

from __future__ import annotations

import math
import string
from typing import Any

import numpy as np
import onnx_ir as ir

from toolchain.ops.contraction import stay_apart
from toolchain.ops.table import Ray, Shape, attribute, dims, op, operand
from toolchain.ops.tape import Tape
from toolchain.ops.units import Units


def letters(n: ir.Node) -> tuple[list[str], str] | None:
    """A letter for each axis of each input and of the output, also behind `...`.

    None where an input repeats one, or has no shape.
    """
    if any(x is None or x.shape is None for x in n.inputs):
        return None
    equation = attribute(n, "equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    named = sorted({c for c in left if c.isalpha()})
    hidden = [len(dims(x)) - len(t.replace("...", "")) for x, t in zip(n.inputs, terms, strict=True)]
    spare = "".join(c for c in string.ascii_letters if c not in named)[: max(hidden)]
    written = [t.replace("...", spare[len(spare) - h :]) for t, h in zip(terms, hidden, strict=True)]
    if any(len(set(t)) < len(t) for t in written):
        return None
    if not arrow:
        right = "..." * ("..." in left) + "".join(c for c in named if left.count(c) == 1)
    return written, right.replace("...", spare)


def einsum_channels(n: ir.Node, u: Units) -> None:
    """Axes of one letter share their units; one of size 1 that spreads over others must stay."""
    known = letters(n)
    if known is None:
        return
    sizes = extents(n, *known)
    first: dict[str, tuple[ir.Value, int]] = {}
    for value, term in zip((*n.inputs, n.outputs[0]), (*known[0], known[1]), strict=True):
        for axis, letter in enumerate(term):
            if value is not None and dims(value)[axis] == sizes[letter]:
                u.tie(u[value, axis], u[first.setdefault(letter, (value, axis))])


def extents(n: ir.Node, terms: list[str], kept: str) -> dict[str, int]:
    """The size of each letter, the batch written as -1; a 1 spreads."""
    sizes: dict[str, int] = {}
    for value, term in zip((*n.inputs, n.outputs[0]), (*terms, kept), strict=True):
        for letter, size in zip(term, dims(value), strict=True):
            sizes[letter] = size if sizes.get(letter, 1) == 1 else sizes[letter]
    return sizes


def einsum_contracts(n: ir.Node) -> list[tuple[int, int]]:
    """Every axis whose letter the output does not keep."""
    terms, kept = letters(n) or ([], "")
    return [(i, axis) for i, term in enumerate(terms) for axis, letter in enumerate(term) if letter not in kept]


def einsum_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """The cotangent's letters and those of the other inputs, down to those of this one."""
    known = letters(n)
    if known is None:
        raise NotImplementedError("a letter that one input repeats has no gradient rule")
    terms, kept = known
    sizes = extents(n, terms, kept)
    seeds = next(c for c in string.ascii_letters if c not in "".join(terms))
    out: list[ir.Value | None] = []
    for i, term in enumerate(terms):
        if not g.needs(operand(n, i)):
            out.append(None)
            continue
        others = [(operand(n, j), t) for j, t in enumerate(terms) if j != i]
        spread = "".join(c for c, d in zip(term, dims(n.inputs[i]), strict=True) if d == sizes[c])
        alone = "".join(c for c in spread if c not in kept and not any(c in t for _, t in others))
        if any(sizes[c] < 0 for c in alone):
            raise NotImplementedError("a sum over the batch has no gradient rule")
        if alone:  # summed in this input alone: its cotangent spreads
            others.append((g.f32(np.ones([sizes[c] for c in alone])), alone))
        equation = ",".join([seeds + kept, *(t for _, t in others)]) + f"->{seeds}{spread}"
        dx = g.op("Einsum", dy, *(v for v, _ in others), equation=equation)
        out.append(dx if spread == term else g.shaped(dx, operand(n, i)))
    return out


def einsum_ray(n: ir.Node, rays: list[Ray | None]) -> Ray:
    """Linear in one input while the others are constant."""
    moving = [r for r in rays if r is not None]
    return moving[0] if len(moving) == 1 else Ray.CURVED


def einsum_macs(n: ir.Node, shape: Shape) -> int:
    """One multiply-accumulate for each combination of letters; one input alone is not multiplied."""
    terms, _ = letters(n) or ([], "")
    if len(terms) < 2:
        return 0
    sizes: dict[str, int] = {}
    for i, term in enumerate(terms):
        for letter, size in zip(term, shape(operand(n, i)), strict=True):
            sizes[letter] = max(sizes.get(letter, 1), abs(size))
    return math.prod(sizes.values())


def einsum_lite(w: Any, n: ir.Node) -> None:
    """One matrix product after the other: [letters of both, own, summed] times [letters of both, summed, own]."""
    known = letters(n)
    if known is None:
        return w.refuse(n, "takes a diagonal", "Export it as a Gather")
    terms, kept = known
    sizes = extents(n, terms, kept)
    alike = all(
        abs(d) == abs(sizes[c]) for v, t in zip(n.inputs, terms, strict=True) for c, d in zip(t, dims(v), strict=True)
    )
    if not alike:
        return w.refuse(n, "spreads an axis of size 1", "Expand it before")
    stay_apart(w, n, min((d for c, d in sizes.items() if c not in kept), default=1))
    y, term = w.input(n.inputs[0]), terms[0]
    for i in range(1, len(terms)):
        wanted = kept + "".join(terms[i + 1 :])
        y, term = contracted(w, (y, term), (w.input(n.inputs[i]), terms[i]), wanted)
    y, term = summed_but(w, y, term, kept)
    w.give(n.outputs[0], w.transposed(y, [term.index(c) for c in kept]))


def summed_but(w: Any, view: Any, term: str, wanted: str) -> tuple[Any, str]:
    """A view without the letters that nobody wants."""
    gone = {i for i, c in enumerate(term) if c not in wanted}
    return w.over("SUM", view, gone, False), "".join(c for c in term if c in wanted)


def contracted(w: Any, left: tuple[Any, str], right: tuple[Any, str], wanted: str) -> tuple[Any, str]:
    """The product of two lettered views, summed over letters of both that are not wanted."""
    (a, s), (b, t) = summed_but(w, *left, wanted + right[1]), summed_but(w, *right, wanted + left[1])
    both, gone = "".join(c for c in s if c in t and c in wanted), "".join(c for c in s if c in t and c not in wanted)
    rows, columns = "".join(c for c in s if c not in t), "".join(c for c in t if c not in s)
    size = dict(zip(s, a.dims, strict=True)) | dict(zip(t, b.dims, strict=True))
    count = [math.prod(size[c] for c in part) for part in (rows, gone, columns)]
    stack = tuple(size[c] for c in both)
    a = w.shaped(w.transposed(a, [s.index(c) for c in both + rows + gone]), (*stack, count[0], count[1]))
    b = w.shaped(w.transposed(b, [t.index(c) for c in both + gone + columns]), (*stack, count[1], count[2]))
    term = both + rows + columns
    return w.shaped(w.product(a, b), tuple(size[c] for c in term)), term


op(
    "Einsum",
    channels=einsum_channels,
    vjp=einsum_vjp,
    ray=einsum_ray,
    macs=einsum_macs,
    contracts=einsum_contracts,
    torch=lambda t, n, x: t.einsum(attribute(n, "equation"), *x),
    learns=(0, 1),
    lite=einsum_lite,
)
