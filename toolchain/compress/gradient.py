"""Integrated gradients of a layer as one ONNX graph of standard ops (Lundstrom et al. 2022, eq. 2).

F = G∘H, h = H(x), baseline 0:   A_ij = h_i ∫₀¹ ∂G_j(αh)/∂h_i dα.

Behind the cut the tail G starts with a straight part S: values that are affine in α along the ray αh (affine ops), or
positively homogeneous without a bias since the cut (Relu, MaxPool). There v(α) = v(0) + α(v(h) − v(0)), the Jacobian
does not depend on α, so S runs once per sample, is interpolated where the curved part C begins, and the gradients are
summed over α before they go back through Sᵀ: the first and largest layer costs once per image, not once per node.

K cotangents ride through one forward pass: p_j(e_j − p) at the logits for softmax output j, p − y for −log p_y.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from toolchain.errors import Unsupported
from toolchain.model import BATCH, Model, parameter
from toolchain.ops.table import Ray, dims, find, where
from toolchain.ops.tape import PREFIX, Tape


@dataclass(frozen=True)
class Tail:
    """The part of a network behind a cut.

    cut      the value h that splits F = G∘H, [N, *s], or [k·N, *s] with a sample's k parts side by side
    nodes    the nodes that depend on it and lead to the logits, in order
    context  values from before the cut that the tail reads too, held at their value for x
    logits   the input of the last softmax, or the output, [N, J]
    """

    cut: ir.Value
    nodes: tuple[ir.Node, ...]
    context: tuple[ir.Value, ...]
    logits: ir.Value


@dataclass(frozen=True)
class GradientGraph:
    """An attribution graph.

    Inputs   h [N, *s], each context value, alpha [A] and weight [A] (nodes and weights of the quadrature on [0, 1]),
             labels [N] int64
    Output   attribution [K, N, *s]: of softmax outputs 0…J−1 if `per_class`, then of the loss −log p_label
    """

    ir: ir.Model
    tail: Tail
    seeds: int
    hoisted: int
    row_bytes: int


ROWS = "R"  # A·N, the samples at every node of the quadrature
INPUT, ALPHA, WEIGHT, LABELS, OUTPUT = (PREFIX + n for n in ("h", "alpha", "weight", "labels", "attribution"))


def logits_of(model: Model) -> ir.Value:
    """The value whose softmax is the answer: the only output, or what its last softmax reads.

    Raises Unsupported for several outputs or one that is not [N, classes].
    """
    graph = model.graph
    if len(graph.outputs) != 1:
        raise Unsupported(
            f"the model has {len(graph.outputs)} outputs; one [N, classes] is needed to rank by",
            way_out="Use --criterion magnitude",
        )
    value = graph.outputs[0]
    if value.shape is None or len(value.shape) != 2 or dims(value)[1] < 2:
        raise Unsupported(
            f"output '{value.name}' is {value.shape}; [N, classes] is needed to rank by",
            way_out="Use --criterion magnitude",
        )
    node = value.producer()
    while node is not None and node.op_type in ("Identity", "Softmax"):
        inner = node.inputs[0]
        assert inner is not None
        if node.op_type == "Softmax":
            return inner
        value, node = inner, inner.producer()
    return graph.outputs[0]


def tail_of(model: Model, cut: str) -> Tail:
    """Split the network at a value.

    Raises Unsupported if the value does not lead to the logits, or its first axis is not the batch.
    """
    logits = logits_of(model)
    named = {str(v.name): v for v in (*model.graph.inputs, *(o for n in model.graph for o in n.outputs))}
    if cut not in named:
        raise Unsupported(f"there is no value '{cut}' to cut at")
    value = named[cut]
    begins = value.shape is not None and len(value.shape) > 0 and dims(value)[0] < 0 <= min(dims(value)[1:], default=0)
    if not begins or value in merged_batches(model.graph):
        raise Unsupported(f"cannot cut at '{cut}' {value.shape}: its first axis must be the batch, and no other")
    behind = {value}
    nodes = []
    for node in model.graph:
        if any(v in behind for v in node.inputs):
            behind.update(node.outputs)
            nodes.append(node)
    needed, wanted = {logits}, []
    for node in reversed(nodes):
        if any(v in needed for v in node.outputs):
            wanted.append(node)
            needed.update(v for v in node.inputs if v in behind)
    if logits is not value and logits not in behind:
        raise Unsupported(f"'{cut}' does not lead to the output")
    wanted.reverse()
    context = dict.fromkeys(
        v for n in wanted for v in n.inputs if v is not None and v not in behind and v.const_value is None
    )
    return Tail(value, tuple(wanted), tuple(context), logits)


def tail_model(model: Model, tail: Tail) -> ir.Model:
    """G alone: inputs h and the context, output the logits."""
    writer = Writer(model)
    h = writer.input(INPUT, tail.cut)
    values = {tail.cut: h} | {v: writer.input(str(v.name), v) for v in tail.context}
    writer.copy(tail.nodes, values, "tail/")
    out = writer.tape.op("Identity", values[tail.logits])
    return writer.finish([(out, PREFIX + "logits", [BATCH, dims(tail.logits)[1]])])


def attribution_graph(model: Model, cut: str, per_class: bool = False, hoist: bool = True) -> GradientGraph:
    """Build the graph; Unsupported names the op that has no gradient rule.

    per_class  also attribute to every softmax output, not to the loss alone
    hoist      take the straight part out of the integral; False is the same sum, written plainly
    """
    tail = tail_of(model, cut)
    rays = rays_of(tail, merged_batches(model.graph)) if hoist else {tail.cut: Ray.HOMOGENEOUS}
    straight = [n for n in tail.nodes if hoist and all(rays.get(o, Ray.CURVED) > Ray.CURVED for o in n.outputs)]
    curved = [n for n in tail.nodes if n not in set(straight)]
    reads = {v for n in curved for v in n.inputs} | {tail.logits}
    fronts = [v for v, r in rays.items() if r > Ray.CURVED and v in reads]
    classes = dims(tail.logits)[1]
    seeds = classes + 1 if per_class else 1

    writer = Writer(model, seeds)
    g = writer.tape
    h = writer.input(INPUT, tail.cut)
    context = {v: writer.input(str(v.name), v) for v in tail.context}
    alpha, weight = writer.vector(ALPHA, ir.DataType.FLOAT), writer.vector(WEIGHT, ir.DataType.FLOAT)
    labels = writer.vector(LABELS, ir.DataType.INT64, BATCH)

    once = {tail.cut: h} | context
    writer.copy(straight, once, "once/")
    origin: dict[ir.Value, ir.Value] = {}
    if any(rays[v] is Ray.AFFINE for v in fronts):  # v(0) is the same for every sample unless context flows in
        zero = g.op("Mul", h, g.f32(0)) if context else g.f32(np.zeros((-dims(tail.cut)[0], *dims(tail.cut)[1:])))
        zero.shape, zero.dtype = renamed(tail.cut.shape, "Z"), ir.DataType.FLOAT
        origin = {tail.cut: zero} | context
        writer.copy(ancestors(straight, [v for v in fronts if rays[v] is Ray.AFFINE]), origin, "zero/", "Z")

    merged = merged_batches(model.graph)
    rows: dict[ir.Value, ir.Value] = {}
    for v in (v for v in tail.context if any(v in n.inputs for n in curved)):
        if v in merged:
            raise Unsupported(
                f"'{v.name}' {v.shape}, read behind the cut '{cut}', has its samples inside other positions"
            )
        rows[v] = tiled(g, once[v], alpha) if any(d < 0 for d in dims(v)) else once[v]
    rows |= {v: interpolated(g, once[v], origin.get(v) if rays[v] is Ray.AFFINE else None, alpha) for v in fronts}
    writer.copy(curved, rows, "ray/", ROWS)

    seed = seeds_at_logits(g, rows[tail.logits], labels, alpha, classes, per_class)
    at_front = backward(g, curved, rows, {tail.logits: seed}, fronts)
    summed = {v: over_nodes(g, at_front[v], weight, once[v]) for v in fronts if v in at_front}
    gradient = backward(g, straight, once, summed, [tail.cut])[tail.cut]
    out = g.op("Mul", gradient, h)
    graph = writer.finish(
        [(out, OUTPUT, [seeds, *(d if isinstance(d, int) else str(d) for d in tail.cut.shape or ())])]
    )
    per_row = sum(row_bytes(v) for n in curved for v in n.outputs)
    widest = max((row_bytes(v) for n in curved for v in n.outputs), default=4 * classes)
    return GradientGraph(graph, tail, seeds, len(straight), per_row + 2 * seeds * widest)


def row_bytes(value: ir.Value) -> int:
    """Bytes of one sample of an activation."""
    return 4 * int(np.prod([abs(d) for d in dims(value)], dtype=np.int64)) if value.shape is not None else 0


def rays_of(tail: Tail, merged: Collection[ir.Value] = ()) -> dict[ir.Value, Ray]:
    """How each value of the tail moves along the ray from 0 to h.

    Samples of every node of the quadrature are put in front of each other, so what does not begin with the batch counts
    as curved.
    """
    rays: dict[ir.Value, Ray] = {tail.cut: Ray.HOMOGENEOUS}
    for node in tail.nodes:
        entry = find(node)
        took = [rays.get(v) if v is not None else None for v in node.inputs]
        ray = entry.ray(node, took) if entry is not None and entry.ray is not None else Ray.CURVED
        if any(v in merged or not dims(v) or min(dims(v)[1:], default=0) < 0 for v in node.outputs):
            ray = Ray.CURVED
        rays |= {v: ray for v in node.outputs}
    return rays


def merged_batches(graph: ir.Graph) -> set[ir.Value]:
    """Values whose batch axis begins with other positions: [T, N, d] reshaped to [T·N, d], and what follows from it."""
    inside: dict[ir.Value, int] = {}
    for node in graph:
        for value in node.outputs:
            sizes = dims(value)
            place = next((i for i, d in enumerate(sizes) if d < 0), None)
            if place is None:
                continue
            ahead = max((elements_ahead(v) * inside.get(v, 1) for v in node.inputs if v is not None), default=1)
            if node.op_type not in ("Reshape", "Flatten"):
                kept = [inside[v] for v in node.inputs if v in inside and min(dims(v)) == sizes[place]]
                inside |= {value: max(kept)} if kept else {}
            elif ahead > elements_ahead(value):
                inside[value] = ahead // elements_ahead(value)
    return set(inside)


def elements_ahead(value: ir.Value) -> int:
    """Positions in front of the batch axis."""
    sizes = dims(value)
    place = next((i for i, d in enumerate(sizes) if d < 0), 0)
    return int(np.prod(sizes[:place], dtype=np.int64))


def ancestors(nodes: Sequence[ir.Node], values: Iterable[ir.Value]) -> list[ir.Node]:
    """The nodes that lead to these values, in order."""
    needed, found = set(values), []
    for node in reversed(nodes):
        if any(v in needed for v in node.outputs):
            found.append(node)
            needed.update(v for v in node.inputs if v is not None)
    return found[::-1]


class Writer:
    """Writes one graph: inputs, copies of the network's nodes with its parameters, and what the tape emits."""

    def __init__(self, model: Model, seeds: int = 1) -> None:
        self.model, self.inputs = model, []
        self.moving: set[ir.Value] = set()
        self.tape = Tape(seeds, self.moving.__contains__)
        self.parameters: dict[ir.Value, ir.Value] = {}

    def input(self, name: str, like: ir.Value) -> ir.Value:
        """A graph input with the shape of a value."""
        value = ir.Value(name=name, shape=like.shape, type=ir.TensorType(like.dtype or ir.DataType.FLOAT))
        self.inputs.append(value)
        return value

    def vector(self, name: str, dtype: ir.DataType, size: str = "A") -> ir.Value:
        """A graph input of one axis."""
        value = ir.Value(name=name, shape=ir.Shape([size]), type=ir.TensorType(dtype))
        self.inputs.append(value)
        return value

    def copy(self, nodes: Sequence[ir.Node], values: dict[ir.Value, ir.Value], stem: str, batch: str = BATCH) -> None:
        """Copy nodes onto the tape, reading and extending the map from the network's values to this graph's.

        batch  names their rows: onnxruntime shares buffers between values whose dimensions bear the same names
        """
        for node in nodes:
            inputs = [None if v is None else values[v] if v in values else self.parameter(v) for v in node.inputs]
            copy = ir.Node(
                "",
                node.op_type,
                inputs,
                node.attributes.values(),
                num_outputs=len(node.outputs),
                name=f"{PREFIX}{stem}{node.name}",
            )
            for old, new in zip(node.outputs, copy.outputs, strict=True):
                new.name, new.type, new.shape = f"{PREFIX}{stem}{old.name}", old.type, renamed(old.shape, batch)
                values[old] = new
            self.tape.nodes.append(copy)

    def parameter(self, value: ir.Value) -> ir.Value:
        """The network's parameter in this graph; its data is shared, not copied."""
        if value not in self.parameters:
            assert value.const_value is not None
            self.parameters[value] = parameter(str(value.name), value.const_value)
        return self.parameters[value]

    def finish(self, outputs: Sequence[tuple[ir.Value, str, Sequence[int | str]]]) -> ir.Model:
        """The model; nodes that no output needs are left out."""
        for value, name, shape in outputs:
            value.name, value.shape, value.dtype = name, ir.Shape(shape), ir.DataType.FLOAT
        nodes = ancestors(self.tape.nodes, [v for v, _, _ in outputs])
        used = {v for n in nodes for v in n.inputs}
        held = [v for v in (*self.parameters.values(), *self.tape.constants) if v in used]
        opset = self.model.ir.opset_imports.get("", 20)
        graph = ir.Graph(
            self.inputs,
            [v for v, _, _ in outputs],
            nodes=nodes,
            initializers=held,
            opset_imports={"": opset},
            name="jettison",
        )
        return ir.Model(graph, ir_version=max(self.model.ir.ir_version, 10), producer_name="jettison")


def renamed(shape: ir.Shape | None, batch: str) -> ir.Shape | None:
    """The same shape with the batch called otherwise: k*N becomes k*batch."""
    return (
        None if shape is None else ir.Shape([d if isinstance(d, int) else str(d).replace(BATCH, batch) for d in shape])
    )


# ---- the integral --------------------------------------------------------------------------------------------------
def interpolated(g: Tape, at_h: ir.Value, at_zero: ir.Value | None, alpha: ir.Value) -> ir.Value:
    """v(0) + α (v(h) − v(0)) for every node: [N, *s] -> [A·N, *s]."""
    axes = g.i64(list(range(1, len(dims(at_h)) + 1)))
    steps = g.op("Unsqueeze", alpha, axes)
    if at_zero is None:
        ray = g.op("Mul", steps, g.op("Unsqueeze", at_h, g.i64([0])))
    else:
        ray = g.op("Add", at_zero, g.op("Mul", steps, g.op("Unsqueeze", g.op("Sub", at_h, at_zero), g.i64([0]))))
    return as_rows(g, ray, at_h)


def tiled(g: Tape, value: ir.Value, alpha: ir.Value) -> ir.Value:
    """A context value once for every node: [N, *s] -> [A·N, *s]."""
    target = g.op("Concat", g.op("Shape", alpha), g.op("Shape", value), axis=0)
    return as_rows(g, g.op("Expand", g.op("Unsqueeze", value, g.i64([0])), target), value)


def as_rows(g: Tape, stacked: ir.Value, like: ir.Value) -> ir.Value:
    """[A, N, *s] -> [A·N, *s]; the nodes go in front of the samples wherever these are."""
    sizes = [max(d, -1) for d in dims(like)]
    place = sizes.index(-1)
    if place:
        stacked = g.op("Transpose", stacked, perm=[*range(1, place + 1), 0, *range(place + 1, len(sizes) + 1)])
    out = g.op("Reshape", stacked, g.i64(sizes))
    out.shape, out.dtype = renamed(like.shape, ROWS), ir.DataType.FLOAT
    return out


def seeds_at_logits(
    g: Tape, logits: ir.Value, labels: ir.Value, alpha: ir.Value, classes: int, per_class: bool
) -> ir.Value:
    """Cotangents [K, A·N, J] at the logits: p_j(e_j − p) for each class j, then p − y for the loss."""
    p = g.op("Softmax", logits, axis=-1)
    one_hot = g.op("OneHot", labels, g.i64(classes), g.f32([0, 1]), axis=-1)
    one_hot.shape, one_hot.dtype = ir.Shape([BATCH, classes]), ir.DataType.FLOAT
    loss = g.op("Unsqueeze", g.op("Sub", p, tiled(g, one_hot, alpha)), g.i64([0]))
    if not per_class:
        return loss
    each = g.op("Unsqueeze", g.op("Transpose", p, perm=[1, 0]), g.i64([2]))
    minus = g.op("Sub", g.f32(np.eye(classes)[:, None, :]), g.op("Unsqueeze", p, g.i64([0])))
    return g.op("Concat", g.op("Mul", each, minus), loss, axis=0)


def over_nodes(g: Tape, cotangent: ir.Value, weight: ir.Value, like: ir.Value) -> ir.Value:
    """Σ_α w_α of a cotangent [K, A·N, *s] -> [K, N, *s]."""
    split = g.op("Concat", g.i64([g.seeds]), g.op("Shape", weight), g.i64([-1]), axis=0)
    stacked = g.op("Reshape", cotangent, split)
    total = g.op("MatMul", g.op("Unsqueeze", weight, g.i64([0])), stacked)
    return g.shaped(total, like)


def backward(
    g: Tape,
    nodes: Sequence[ir.Node],
    copies: dict[ir.Value, ir.Value],
    seeds: dict[ir.Value, ir.Value],
    wanted: Sequence[ir.Value],
) -> dict[ir.Value, ir.Value]:
    """Reverse mode over copied nodes: cotangents of `wanted` from those of `seeds`, keyed by the network's values."""
    moving = set(wanted)
    for node in nodes:
        if any(v in moving for v in node.inputs):
            moving.update(node.outputs)
    g.needs = {copies[v] for v in moving}.__contains__
    cotangents = dict(seeds)
    for node in reversed(nodes):
        dys = [cotangents.get(v) for v in node.outputs]
        copy = copies[node.outputs[0]].producer()
        if all(dy is None for dy in dys) or moving.isdisjoint(node.outputs) or copy is None:
            continue
        grads = pulled_back(g, node, copy, dys)
        for i, (v, dx) in enumerate(zip(node.inputs, grads, strict=True)):
            if v is None or v not in moving:
                continue
            if dx is not None:
                cotangents[v] = g.op("Add", cotangents[v], dx) if v in cotangents else dx
            elif v.dtype is None or v.dtype.is_floating_point():  # whole numbers, such as shapes, have no derivative
                raise Unsupported(
                    f"{where(node)} has no gradient rule for its computed input {i}",
                    way_out="Use --criterion magnitude, or leave its layers out with --layers",
                )
    return {v: cotangents[v] for v in wanted if v in cotangents}


def pulled_back(g: Tape, node: ir.Node, copy: ir.Node, dys: Sequence[ir.Value | None]) -> Sequence[ir.Value | None]:
    """Cotangents of a node's inputs from those of its outputs, None where none arrives, by its op's rule."""
    entry = find(node)
    way_out = "Use --criterion magnitude, or leave its layers out with --layers"
    if entry is None or entry.vjp is None:
        raise Unsupported(f"{where(node)} has no gradient rule", way_out=way_out)
    if not entry.several and any(dy is not None for dy in dys[1:]):
        raise Unsupported(f"{where(node)} has no gradient rule for outputs beyond its first", way_out=way_out)
    try:
        return entry.vjp(g, copy, list(dys) if entry.several else dys[0])
    except NotImplementedError as error:
        raise Unsupported(f"{where(node)}: {error}", way_out=way_out) from error
