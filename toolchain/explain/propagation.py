"""Layer-wise relevance propagation (Bach et al. 2015): the score of a class is shared out, layer by layer.

An output z = Σ_i x_i w_i + b hands its relevance R to its inputs in the proportions x_i w_i : z. Rules of a layer
change x and w in numerator and denominator alike, so that a rule is a table of terms; everything that is transposed is
the op's own gradient rule. ε = 1e-6 away from 0 stabilises each denominator, and takes what a bias took with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.compress.gradient import Cotangents, Rule, pulled_back
from toolchain.errors import Unsupported
from toolchain.ops.arithmetic import product_ray
from toolchain.ops.table import Flow, Ray, Sign, argument, constant, dims, find, is_convolution, sign_of, where
from toolchain.ops.tape import Tape
from toolchain.profile import is_elementwise

EPSILON = 1e-6
Part = Callable[[Tape, ir.Value], ir.Value]
Change = Callable[[NDArray[Any]], NDArray[Any]]


# ---- parts of what a layer reads, and of its weights -----------------------------------------------------------------
def whole(g: Tape, x: ir.Value) -> ir.Value:
    """x."""
    return x


def positive(g: Tape, x: ir.Value) -> ir.Value:
    """max(x, 0)."""
    return g.op("Relu", x)


def negative(g: Tape, x: ir.Value) -> ir.Value:
    """min(x, 0)."""
    return g.op("Min", x, g.f32(0))


def lowest(g: Tape, x: ir.Value) -> ir.Value:
    """The least value of each sample, everywhere."""
    return extreme(g, "ReduceMin", x)


def highest(g: Tape, x: ir.Value) -> ir.Value:
    """The largest value of each sample, everywhere."""
    return extreme(g, "ReduceMax", x)


def extreme(g: Tape, op_type: str, x: ir.Value) -> ir.Value:
    """One value of each sample in the shape of x."""
    return g.op("Expand", g.op(op_type, x, g.i64(list(range(1, len(dims(x)))))), g.op("Shape", x))


def same(w: NDArray[Any]) -> NDArray[Any]:
    """w."""
    return w


def above(w: NDArray[Any]) -> NDArray[Any]:
    """max(w, 0)."""
    return np.maximum(w, 0)


def below(w: NDArray[Any]) -> NDArray[Any]:
    """min(w, 0)."""
    return np.minimum(w, 0)


def favoured(change: Change, gamma: float, w: NDArray[Any]) -> NDArray[Any]:
    """w + γ·change(w)."""
    return w + gamma * change(w)


# ---- rules of a layer ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Term:
    """A sum of a rule: a part of x against changed weights.

    part      of x
    weights   how the weights are changed, and the bias too
    has_bias  whether the bias belongs to this sum
    sign      with which it is added to the others
    """

    part: Part = whole
    weights: Change = same
    has_bias: bool = True
    sign: float = 1.0


@dataclass(frozen=True)
class Share:
    """Terms that share relevance in proportion: x ⊙ Wᵀ(R / Σ terms), times a scale.

    gate  comparison of z with 0 that says which outputs they answer for; "" for all
    """

    terms: tuple[Term, ...]
    scale: float = 1.0
    gate: str = ""


Layer = tuple[Share, ...]


def both(change: Change, other: Change) -> tuple[Term, Term]:
    """What adds with one sign where x has both."""
    return Term(positive, change), Term(negative, other, has_bias=False)


def alpha_beta(alpha: float, beta: float) -> Layer:
    """α of what is positive less β of what is negative, α − β = 1 (Bach et al. 2015, eq. 60)."""
    shares = (Share(both(above, below), alpha), Share(both(below, above), -beta))
    return tuple(s for s in shares if s.scale)


def favour(gamma: float) -> Layer:
    """LRP-γ (Montavon et al. 2019, sec. 10.2.1) for inputs of both signs (Andéol et al. 2021)."""
    up, down = (partial(favoured, change, gamma) for change in (above, below))
    return Share(both(up, down), gate="Greater"), Share(both(down, up), gate="Less")


PROPORTIONAL: Layer = (Share((Term(),)),)  # LRP-ε (Bach et al. 2015, eq. 58)
# z^B for values between bounds (Montavon et al. 2017): the least and the largest of each image
BOX: Layer = (Share((Term(), Term(lowest, above, sign=-1.0), Term(highest, below, sign=-1.0))),)


def weighed(layer: Layer, g: Tape, node: ir.Node, copy: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """Relevance of the computed side of a layer with constant weights."""
    side = 0 if g.needs(must(copy.inputs[0])) else 1
    x, z, is_signed = must(copy.inputs[side]), copy.outputs[0], not is_nonnegative(node.inputs[side])
    weights, bias = constant(copy.inputs[1 - side]), argument(copy, 2)
    if weights is None or (bias is not None and constant(bias) is None):
        raise Unsupported(f"{where(node)} has computed weights, which no relevance rule knows")
    found: ir.Value | None = None
    for share in layer:
        terms = [t for t in share.terms if is_signed or t.part is not negative]
        changed = [g.f32(t.weights(weights)) for t in terms]
        sums = [summed(g, copy, side, t, w) for t, w in zip(terms, changed, strict=True)]
        gate = g.op("Cast", g.op(share.gate, z, g.f32(0)), to=ir.DataType.FLOAT.value) if share.gate else None
        ratio = g.op("Div", dy if gate is None else g.op("Mul", dy, gate), stabilised(g, g.op("Sum", *sums)))
        for term, w in zip(terms, changed, strict=True):
            brought = g.op("Mul", transposed(g, node, copy, side, w, ratio), term.part(g, x))
            scale = share.scale * term.sign
            brought = brought if scale == 1 else g.op("Mul", brought, g.f32(scale))
            found = brought if found is None else g.op("Add", found, brought)
    return [found if i == side else None for i in range(len(node.inputs))]


def summed(g: Tape, copy: ir.Node, side: int, term: Term, weights: ir.Value) -> ir.Value:
    """±Σ of one term: the layer on a part of its input with these weights."""
    bias = constant(argument(copy, 2))
    if term.part is whole and term.weights is same and term.has_bias and term.sign == 1:
        return copy.outputs[0]  # it has been computed
    ends = [term.part(g, must(copy.inputs[side])), weights]
    third = [g.f32(term.weights(bias))] if term.has_bias and bias is not None else []
    settings = {k: a.value for k, a in copy.attributes.items()}
    out = g.op(copy.op_type, *(ends[::-1] if side else ends), *third, **settings)
    for made, like in ((out, copy.outputs[0]), (ends[0], must(copy.inputs[side]))):
        made.shape, made.type = like.shape, like.type
    return out if term.sign == 1 else g.op("Neg", out)


def transposed(g: Tape, node: ir.Node, copy: ir.Node, side: int, weights: ir.Value, dy: ir.Value) -> ir.Value:
    """Wᵀ dy by the op's gradient rule, told of a node that never runs: the rule of a linear op reads shapes alone."""
    ends = [copy.inputs[side], weights]
    stand_in = ir.Node("", copy.op_type, ends[::-1] if side else ends, copy.attributes.values())
    stand_in.outputs[0].shape, stand_in.outputs[0].type = copy.outputs[0].shape, copy.outputs[0].type
    return must(pulled_back(g, node, stand_in, [dy])[side])


def stabilised(g: Tape, z: ir.Value) -> ir.Value:
    """z + ε with the sign of z, that of 0 being positive."""
    return g.op("Add", z, g.op("Where", g.op("Less", z, g.f32(0)), g.f32(-EPSILON), g.f32(EPSILON)))


def must(value: ir.Value | None) -> ir.Value:
    """A value that is there."""
    assert value is not None
    return value


# ---- rules of the other ops ------------------------------------------------------------------------------------------
def added(g: Tape, node: ir.Node, copy: ir.Node, dys: Cotangents) -> Cotangents:
    """Each term of a sum gets what it adds to it, x ⊙ Jᵀ(R / y): averages, additions; a scale hands on what it gets."""
    computed = [i for i, v in enumerate(copy.inputs) if v is not None and g.needs(v)]
    is_scale = len(computed) == 1 and is_elementwise(node) and ray_of(g, node, copy) is Ray.HOMOGENEOUS
    if is_scale and dims(copy.inputs[computed[0]]) == dims(copy.outputs[0]):
        return [dys[0] if i in computed else None for i in range(len(node.inputs))]
    ratio = g.op("Div", dys[0], stabilised(g, copy.outputs[0]))
    shares = zip(copy.inputs, pulled_back(g, node, copy, [ratio]), strict=True)
    return [None if dx is None or x is None else g.op("Mul", dx, x) for x, dx in shares]


def passed(g: Tape, node: ir.Node, copy: ir.Node, dys: Cotangents) -> Cotangents:
    """An activation hands on what it gets."""
    return [dys[0], *[None] * (len(node.inputs) - 1)]


FLOWS: dict[Flow, Rule] = {
    Flow.PASSES: passed, Flow.GATES: passed, Flow.RECTIFIES: passed, Flow.MOVES: pulled_back,
}  # fmt: skip


def propagated(dense: Layer, convolution: Layer | None = None, first: Layer | None = None) -> Rule:
    """The rule of a walk back that shares out relevance.

    dense        for matrix products
    convolution  for convolutions; None: as dense
    first        for convolutions that read pixels; None: as the others
    """

    def rule(g: Tape, node: ir.Node, copy: ir.Node, dys: Cotangents) -> Cotangents:
        entry = find(node)
        if entry is None or entry.lrp is None:
            raise Unsupported(f"{where(node)} has no relevance rule")
        if entry.lrp not in (Flow.WEIGHS, Flow.ADDS):
            return FLOWS[entry.lrp](g, node, copy, dys)
        if ray_of(g, node, copy) is Ray.CURVED:
            return gated(g, node, copy, must(dys[0]))
        if entry.lrp is Flow.ADDS:
            return added(g, node, copy, dys)
        layer = (convolution or dense) if is_convolution(node) else dense
        if first is not None and is_convolution(node) and reads_pixels(node):
            layer = first
        return weighed(layer, g, node, copy, must(dys[0]))

    return rule


def ray_of(g: Tape, node: ir.Node, copy: ir.Node) -> Ray:
    """CURVED unless linear in all computed inputs together: none is multiplied with another, or divides."""
    entry = find(node)
    assert entry is not None and entry.ray is not None
    return entry.ray(node, [Ray.HOMOGENEOUS if v is not None and g.needs(v) else None for v in copy.inputs])


def gated(g: Tape, node: ir.Node, copy: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """A signal times a gate: the signal gets all of it (Arras et al. 2017).

    Raises Unsupported where it is not told which of two factors is the gate.
    """
    gates = [i for i, v in enumerate(node.inputs) if is_gate(v)]
    entry = find(node)
    if entry is None or entry.ray is not product_ray or len(gates) != 1:
        raise Unsupported(f"{where(node)} is not linear in its computed inputs: no relevance rule shares it out")
    gate = must(copy.inputs[gates[0]])
    nothing = g.op("Unsqueeze", g.op("Mul", gate, g.f32(0)), g.i64([0]))
    everything = g.unbroadcast(dy, must(copy.inputs[1 - gates[0]]), copy.outputs[0])
    return [nothing if i in gates else everything for i in range(2)]


def is_gate(value: ir.Value | None) -> bool:
    """Whether a sigmoid or an error function made it, wherever its places went since, scaled or shifted (Gelu)."""
    node = None if value is None else value.producer()
    entry = None if node is None else find(node)
    if node is None or entry is None:
        return False
    computed = [v for v in node.inputs if v is not None and v.const_value is None]
    is_same = entry.lrp is Flow.MOVES or (entry.lrp is Flow.ADDS and is_elementwise(node))
    return entry.lrp is Flow.GATES or (is_same and len(computed) == 1 and is_gate(computed[0]))


def reads_pixels(node: ir.Node) -> bool:
    """Whether no layer of weights lies before it."""
    seen, waiting = set[ir.Node](), [v.producer() for v in node.inputs if v is not None]
    while waiting:
        made = waiting.pop()
        if made is None or made in seen:
            continue
        entry = find(made)
        if entry is not None and entry.lrp is Flow.WEIGHS:
            return False
        seen.add(made)
        waiting += [v.producer() for v in made.inputs if v is not None]
    return True


def is_nonnegative(value: ir.Value | None) -> bool:
    """Whether a value is known to be at least 0: terms of its negative part are left out."""
    node = None if value is None else value.producer()
    entry = None if node is None else find(node)
    if node is None or entry is None:
        return False
    sign = sign_of(node)
    if sign in (Sign.FIRES, Sign.POSITIVE):
        return True
    if entry.lrp is not Flow.MOVES and sign not in (Sign.KEEPS, Sign.SUMS):
        return False
    floats = [v for v in node.inputs if v is not None and (v.dtype is None or v.dtype.is_floating_point())]
    arrays = ((v, constant(v)) for v in floats)
    return all(is_nonnegative(v) if array is None else bool((array >= 0).all()) for v, array in arrays)
