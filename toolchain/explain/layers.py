"""Conv and dense layers, and where each is seen to fire: the value behind its activation function, before any pooling.

From the product with the weights the walk goes through what works on each unit alone: biases, BatchNormalization,
and the sum with a shortcut where an activation function follows it. It ends behind the first activation function. Where
pooling, or anything else, comes first, it ends there: max pooling and ReLU can change places, so > 0 means the same.
Behind a function whose sign is the same everywhere (Sigmoid, Softplus), what goes into it is looked at.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from fnmatch import fnmatch

import onnx_ir as ir

from toolchain.compress.groups import layer_name
from toolchain.compress.objective import logits_of
from toolchain.compress.rows import batch_axis, is_by_sample
from toolchain.errors import UsageError, nearest
from toolchain.inference import reads
from toolchain.model import Model
from toolchain.ops.table import Ray, Sign, find, operand, sign_of, weights_of
from toolchain.profile import is_elementwise


@dataclass(frozen=True)
class Activation:
    """Where a layer is seen to fire.

    layer     its name
    value     whose entries > 0 are counted
    axis      the axis of its units there
    function  the activation function behind the layer, "" where none was met
    is_zero   whether a unit that does not fire hands on 0: one that never fires does nothing
    is_answer whether this is what the network answers
    """

    layer: str
    value: str
    axis: int
    function: str = ""
    is_zero: bool = False
    is_answer: bool = False


def activations(model: Model) -> tuple[Activation, ...]:
    """Of every conv and dense layer in the order of the graph; layers that are summed up before they fire are one."""
    answers = {*model.graph.outputs, *map(logits_of, model.graph.outputs)}
    found: dict[str, Activation] = {}
    for node in model.graph:
        weights, made = weights_of(node), node.outputs[0]
        if weights is None or operand(node, 1).const_value is None or made.shape is None or len(made.shape) < 2:
            continue
        value, function, end = followed(made)
        if batch_axis(value) is None or not is_by_sample(value):
            continue
        axis = weights.unit % len(made.shape)
        last = {made, value, end}
        is_zero = function is not None and sign_of(function) is Sign.FIRES
        name = function.op_type if function is not None else ""
        one = Activation(layer_name(made), str(value.name), axis, name, is_zero, bool(last & answers))
        found.setdefault(one.value, one)
    return told_apart(tuple(found.values()))


def followed(value: ir.Value) -> tuple[ir.Value, ir.Node | None, ir.Value]:
    """(where the layer is seen to fire, its activation function or None, the value that the walk ended at)."""
    settled, is_pooled, is_straight = value, False, True
    while len(uses := list(value.uses())) == 1:
        node = uses[0].node
        if (sign := sign_of(node)) not in (None, Sign.SUMS, Sign.POOLS):
            read = value if sign in (Sign.POSITIVE, Sign.NEGATIVE) else node.outputs[0]
            return settled if is_pooled else read, node, node.outputs[0]
        others = [v for v in reads(node) if v is not value and v.const_value is None]
        if not (sign is Sign.POOLS or is_affine(node)) or (others and sign is not Sign.SUMS):
            break
        is_pooled |= sign is Sign.POOLS
        is_straight &= not is_pooled and not others  # a sum counts only where an activation function follows it
        value = node.outputs[0]
        settled = value if is_straight else settled
    return settled, None, value


def is_affine(node: ir.Node) -> bool:
    """Whether a node scales, shifts and adds values element by element, and does no more."""
    entry = find(node)
    if entry is None or entry.ray is None or not is_elementwise(node):
        return False
    rays = [None if v is None or v.const_value is not None else Ray.AFFINE for v in node.inputs]
    return entry.ray(node, rays) is not Ray.CURVED


def told_apart(found: tuple[Activation, ...]) -> tuple[Activation, ...]:
    """The same, a second layer of the same name with a number."""
    seen: Counter[str] = Counter()
    named = []
    for one in found:
        seen[one.layer] += 1
        named.append(one if seen[one.layer] == 1 else replace(one, layer=f"{one.layer}#{seen[one.layer]}"))
    return tuple(named)


def hidden(model: Model, pattern: str = "*") -> tuple[Activation, ...]:
    """Layers before the answer whose names fit a pattern."""
    return tuple(a for a in activations(model) if not a.is_answer and fnmatch(a.layer, pattern))


def activation_of(model: Model, name: str) -> Activation:
    """Of a layer, or at a value; raises UsageError where there is none of this name."""
    every = activations(model)
    for one in every:
        if name in (one.value, one.layer):
            return one
    raise UsageError(f"there is no conv or dense layer '{name}'", way_out=nearest(name, [a.layer for a in every]))
