"""The graph as the writer takes it: what the batch decides is known, and patterns that are one op stand as one.

What a kernel broadcasts by itself is not written out before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from toolchain.inference import infer
from toolchain.model import Model, fold
from toolchain.ops.table import attribute, constant, dims
from toolchain.plain import Names, held

SIZES = ("Shape", "Size")
BROADCASTS = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Where")


def prepared(model: Model, batch: int) -> ir.Graph:
    """A copy of the model's graph without sizes that are computed, and with Gelu and GroupNormalization by name."""
    graph = model.ir.clone().graph
    if any(n.op_type in SIZES for n in graph):
        sizes = {v: sized(v, batch) for v in graph.inputs}
        known = infer(graph, sizes)
        fold(graph, known, known)
    for node in list(graph):
        if node.op_type == "Erf":
            name_gelu(graph, node)
        elif node.op_type == "InstanceNormalization":
            name_groups(graph, node)
        elif node.op_type == "Expand":
            leave_to_readers(graph, node, batch)
    return graph


# ---- patterns ------------------------------------------------------------------------------------------------------
def name_gelu(graph: ir.Graph, erf: ir.Node) -> None:
    """A Gelu for x/2·(1 + erf(x / √2)), in whatever order its factors stand."""
    shifted = only_reader(erf.outputs[0])
    if shifted is None or shifted.op_type != "Add" or 1.0 not in (scalar(v) for v in shifted.inputs):
        return
    for x, slope in multiples(erf.inputs[0]):
        y = half_product(shifted.outputs[0], x) if math.isclose(slope, math.sqrt(0.5), rel_tol=1e-6) else None
        if y is not None:
            return replace(graph, y, ir.node("Gelu", [x]))


def half_product(value: ir.Value, x: ir.Value) -> ir.Value | None:
    """The value x/2·value that products lead to, if nothing else reads what is on the way."""
    factor, is_met = 1.0, False
    while (reader := only_reader(value)) is not None and reader.op_type in ("Mul", "Div"):
        first, second = reader.inputs
        if reader.op_type == "Div" and first is not value:
            return None
        other = second if first is value else first
        share = number = scalar(other)
        if number is None and reader.op_type == "Mul" and not is_met:
            share, is_met = dict(multiples(other)).get(x), True
        if not share:
            return None
        factor, value = factor / share if reader.op_type == "Div" else factor * share, reader.outputs[0]
        if is_met and factor == 0.5:
            return value
    return None


def multiples(value: ir.Value | None) -> Iterator[tuple[ir.Value, float]]:
    """(x, c) for every x of which the value is known to be c times."""
    factor = 1.0
    while value is not None:
        yield value, factor
        node = value.producer()
        if node is None or node.op_type not in ("Mul", "Div"):
            return
        first, second = (scalar(v) for v in node.inputs)
        if second is not None:
            value, factor = node.inputs[0], factor / second if node.op_type == "Div" else factor * second
        elif first is not None and node.op_type == "Mul":
            value, factor = node.inputs[1], factor * first
        else:
            return


def leave_to_readers(graph: ir.Graph, expand: ir.Node, batch: int) -> None:
    """No Expand where everything that reads it broadcasts, and to the same shape without it."""
    x, y = expand.inputs[0], expand.outputs[0]
    if x is None or y.is_graph_output() or any(u.node.op_type not in BROADCASTS for u in y.uses()):
        return
    for use in y.uses():
        if np.broadcast_shapes(*(sized(x if v is y else v, batch) for v in use.node.inputs)) != sized(
            use.node.outputs[0], batch
        ):
            return
    ir.convenience.replace_all_uses_with(y, x)
    graph.remove(expand, safe=True)


def name_groups(graph: ir.Graph, norm: ir.Node) -> None:
    """A GroupNormalization for an InstanceNormalization of groups that a Reshape makes and another undoes."""
    into, back = norm.inputs[0].producer() if norm.inputs[0] else None, only_reader(norm.outputs[0])
    parameters = [constant(v) for v in norm.inputs[1:]]
    if into is None or back is None or (into.op_type, back.op_type) != ("Reshape", "Reshape"):
        return
    x, y, grouped = into.inputs[0], back.outputs[0], dims(norm.inputs[0])
    if (
        x is None
        or dims(x) != dims(y)
        or len(dims(x)) < 3
        or dims(x)[0] != grouped[0]
        or any(p is None for p in parameters)
    ):
        return
    channels, groups = dims(x)[1], grouped[1]
    if channels % groups:
        return
    names, each = Names(graph), channels // groups
    scale, bias = (
        held(graph, names, f"{y.name}.{i}", np.repeat(p, each)) for i, p in enumerate(parameters) if p is not None
    )
    settings = {"num_groups": groups, "epsilon": attribute(norm, "epsilon", 1e-5)}
    replace(graph, y, ir.node("GroupNormalization", [x, scale, bias], settings))


# ---- graph ---------------------------------------------------------------------------------------------------------
def sized(value: ir.Value | None, batch: int) -> tuple[int, ...]:
    """Dimensions with the batch filled in."""
    return tuple(d if d >= 0 else -d * batch for d in dims(value))


def only_reader(value: ir.Value) -> ir.Node | None:
    """The node that alone reads a value, once."""
    uses = value.uses()
    return next(iter(uses)).node if len(uses) == 1 and not value.is_graph_output() else None


def scalar(value: ir.Value | None) -> float | None:
    """The number of a constant that has one."""
    array = constant(value)
    return float(array.item()) if array is not None and array.size == 1 else None


def replace(graph: ir.Graph, y: ir.Value, node: ir.Node) -> None:
    """Let a node make y, and drop what only made it before."""
    maker, made = y.producer(), node.outputs[0]
    assert maker is not None
    node.name, made.name, made.shape, made.type = maker.name, y.name, y.shape, y.type
    graph.insert_before(maker, node)
    ir.convenience.replace_all_uses_with(y, made, replace_graph_outputs=True)
    y.name = f"{y.name}.replaced"
    idle = [maker]
    while idle:
        last = idle.pop()
        if last.graph is not None and not any(v.uses() or v.is_graph_output() for v in last.outputs):
            makers = {v.producer() for v in last.inputs if v is not None}
            graph.remove(last, safe=True)
            idle += [m for m in makers if m is not None]
