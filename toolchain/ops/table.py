"""One ONNX op, one entry: everything the toolchain knows of it stands in a single call of `op`.

A field that is left out is None and means "not known": channels None freezes every axis of the op, vjp None stops
gradients there, lite None refuses emission; each with the op's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.inference import where
from toolchain.ops.units import Units

if TYPE_CHECKING:
    from toolchain.ops.tape import Tape


class Ray(IntEnum):
    """How a value behaves on the ray αh, 0 ≤ α ≤ 1, at the cut h."""

    CURVED = 0
    AFFINE = 1  # v(αh) = v(0) + α (v(h) − v(0)), and the Jacobian does not depend on α
    HOMOGENEOUS = 2  # v(αh) = α v(h), and the Jacobian does not depend on α > 0


class Flow(Enum):
    """How the relevance of an output comes back to the inputs: the family of an op's rule (Bach et al. 2015)."""

    WEIGHS = "by the layer's rule, over weights"
    ADDS = "in proportion to what each input adds to a sum"
    PASSES = "unchanged, through a function of each element"
    GATES = "unchanged; a signal that is multiplied with such a value gets all of the product's (Arras et al. 2017)"
    RECTIFIES = "unchanged; deconvolution and guided backpropagation rectify here what comes back"
    MOVES = "to where the value was taken from: places and maxima"


class Sign(Enum):
    """What the sign of an op's inputs says of its output: of activation functions, but for the last two."""

    FIRES = "0 where the input is not positive, and never below"
    KEEPS = "positive just where the input is, and not below 0 where that is not"
    POSITIVE = "at least 0, whatever the input"
    NEGATIVE = "at most 0, whatever the input"
    SUMS = "at least 0 where all inputs are: sums and means"
    POOLS = "positive just where some place under its window is: maxima of each unit alone"


@dataclass(frozen=True, slots=True)
class Weights:
    """How an op multiplies what it reads, input 0, by weights, input 1: axes of the units in all three.

    unit   axis of what it reads and makes: 1 where places follow, as in a convolution, else -1
    reads  axis of the weights that lies along the units read, or along those of one group
    makes  axis of the weights that lies along the units made, or along those of one group; all others are taps
    folds  products are laid over one another (a transposed convolution): no output is one row times the weights
    """

    unit: int
    reads: int
    makes: int
    folds: bool = False


Shape = Callable[[ir.Value], tuple[int, ...]]
Keep = Callable[[ir.Value, int], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Op:
    """What is known of one op.

    channels   (node, units): tie the ids of positions that live and die together
    vjp        (tape, node, dy [K, *s]) -> a cotangent [K, *shape of x] or None for each input; axes count from the end
    several    vjp takes a list instead, one dy for each output, None where none arrives
    ray        (node, rays of the inputs, None = constant) -> ray of the output
    macs       (node, shape of a value) -> multiply-accumulates of one sample
    weights    (node) -> how it multiplies what it reads by its input 1; None: as no layer does
    contracts  (node) -> (input, axis) pairs that are summed away, alone or against another input: where a mask goes
    norm       (node) -> axis of input 0 that its statistics run over; `channels` passes it if `units.approximate`
    resize     (node, keep): mend attributes and shape constants after removal
    view       the output is input 0 under another shape: the same bytes
    adds       (node, shape of a value) -> bytes by which `resize` makes the file longer, at most
    lrp        how relevance comes back through the op; None: heatmaps by relevance propagation refuse it
    sign       (node) -> what the sign of its inputs says of its output; None: nothing
    lite       (writer, node): emit TFLite
    torch      (torch, node, inputs) -> output, or a tuple of them: what the op computes, on tensors; None: left out
    trains     the same while training; None: what `torch` says
    learns     inputs whose float parameters retraining changes: weights, and not bounds, sizes or statistics
    fixed      (array) -> whether a parameter of such an input is no weight: a scale, a mask
    follows    inputs that `trains` moves to the statistics of the batches
    """

    name: str
    channels: Callable[[ir.Node, Units], None] | None = None
    vjp: Callable[[Tape, ir.Node, Any], Sequence[ir.Value | None]] | None = None
    several: bool = False
    ray: Callable[[ir.Node, list[Ray | None]], Ray] | None = None
    macs: Callable[[ir.Node, Shape], int] | None = None
    weights: Callable[[ir.Node], Weights | None] | None = None
    contracts: Callable[[ir.Node], Sequence[tuple[int, int]]] | None = None
    norm: Callable[[ir.Node], int | None] | None = None
    resize: Callable[[ir.Node, Keep], None] | None = None
    view: bool = False
    adds: Callable[[ir.Node, Shape], int] | None = None
    lrp: Flow | None = None
    sign: Callable[[ir.Node], Sign | None] | None = None
    lite: Callable[[Any, ir.Node], None] | None = None
    torch: Callable[[Any, ir.Node, Sequence[Any]], Any] | None = None
    trains: Callable[[Any, ir.Node, Sequence[Any]], Any] | None = None
    learns: Sequence[int] | None = None
    fixed: Callable[[NDArray[Any]], bool] | None = None
    follows: Sequence[int] | None = None


OPS: dict[str, Op] = {}


def op(name: str, **rules: Any) -> None:
    """Enter an op into the table; each op is entered once."""
    if name in OPS:
        raise ValueError(f"op {name!r} is entered twice")
    OPS[name] = Op(name, **rules)


def find(node: ir.Node) -> Op | None:
    """The entry of a node's op, or None: only standard ONNX ops without a subgraph are known."""
    return OPS.get(node.op_type) if node.domain in ("", "ai.onnx") else None


def sign_of(node: ir.Node) -> Sign | None:
    """What the sign of a node's inputs says of its output, or None where nothing is known."""
    entry = find(node)
    return None if entry is None or entry.sign is None else entry.sign(node)


def weights_of(node: ir.Node) -> Weights | None:
    """How a node multiplies what it reads by weights, or None where it does not."""
    entry = find(node)
    return None if entry is None or entry.weights is None else entry.weights(node)


def laid(node: ir.Node) -> Weights:
    """How a node that is a layer of weights multiplies by them."""
    found = weights_of(node)
    assert found is not None
    return found


def is_convolution(node: ir.Node) -> bool:
    """Whether a node multiplies by the same weights at every place, transposed or not."""
    found = weights_of(node)
    return found is not None and found.unit == 1


def is_view(node: ir.Node) -> bool:
    """Whether a node's output is its first input under another shape."""
    entry = find(node)
    return entry is not None and entry.view


def dims(value: ir.Value | None) -> tuple[int, ...]:
    """Shape with the batch dimension N written as -1 and k·N as -k: it compares, multiplies and fits into a Reshape."""
    assert value is not None and value.shape is not None
    return tuple(d if isinstance(d, int) else batch_multiple(d) for d in value.shape)


def batch_multiple(dim: ir.SymbolicDim) -> int:
    """-k for a dimension of k·N samples."""
    head, star, _ = str(dim.value).partition("*")
    return -int(head) if star else -1


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """An attribute's value (a tuple becomes a list), or the default."""
    found = node.attributes.get(name)
    if found is None:
        return default
    return list(found.value) if isinstance(found.value, (tuple, list)) else found.value


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The array of a parameter or constant, or None for a computed value or an absent input."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def argument(node: ir.Node, i: int) -> ir.Value | None:
    """Input i, or None where it is left out."""
    return node.inputs[i] if i < len(node.inputs) else None


def operand(node: ir.Node, i: int) -> ir.Value:
    """Input i, which the op requires."""
    value = node.inputs[i]
    if value is None:
        raise ValueError(f"{where(node)} lacks its input {i}")
    return value


def given(inputs: Sequence[Any], i: int) -> Any:
    """Tensor i, or None where it is left out."""
    return inputs[i] if i < len(inputs) else None


def numbers(node: ir.Node, inputs: Sequence[Any], i: int) -> list[int]:
    """The whole numbers of input i: of the constant where it is one, which costs no wait for a GPU."""
    told = constant(node.inputs[i])
    return (inputs[i] if told is None else told).tolist()


def is_sized(node: ir.Node) -> bool:
    """Whether every value that a node reads or makes has a known shape: no rule can be asked before."""
    return all(v is None or v.shape is not None for v in (*node.inputs, *node.outputs))


# ---- rays that several families share ------------------------------------------------------------------------------
def linear(node: ir.Node, rays: list[Ray | None]) -> Ray:
    """Linear in its first input, without a bias: a ray stays what it is; any other input on the ray bends it."""
    first, *rest = rays
    return Ray.CURVED if first is None or any(r is not None for r in rest) else first


def linear_with_bias(node: ir.Node, rays: list[Ray | None]) -> Ray:
    """Linear in its first input; a third input is a bias, after which a ray no longer starts at 0."""
    ray = linear(node, rays)
    return min(ray, Ray.AFFINE) if argument(node, 2) is not None else ray


def sum_of(node: ir.Node, rays: list[Ray | None]) -> Ray:
    """A sum (or concatenation) of rays; a constant term is a bias."""
    return min(Ray.AFFINE if r is None else r for r in rays)


def homogeneous(node: ir.Node, rays: list[Ray | None]) -> Ray:
    """f(αx) = α f(x) for α > 0, but not linear: only a ray from 0 stays straight."""
    return Ray.HOMOGENEOUS if rays[0] is Ray.HOMOGENEOUS and all(r is None for r in rays[1:]) else Ray.CURVED
