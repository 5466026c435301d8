"""Integrated gradients of a layer as one ONNX graph of standard ops (Lundstrom et al. 2022, eq. 2).

F = G∘H, h = H(x), baseline 0:   A_ij = h_i ∫₀¹ ∂G_j(αh)/∂h_i dα.

Behind the cut the tail G starts with a straight part S: values that are affine in α along the ray αh (affine ops), or
positively homogeneous without a bias since the cut (Relu, MaxPool). There v(α) = v(0) + α(v(h) − v(0)), the Jacobian
does not depend on α, so S runs once per sample, is interpolated where the curved part C begins, and the gradients are
summed over α before they go back through Sᵀ: the first and largest layer costs once per image, not once per node.

All seeds share one forward pass. Each of them, p_j(e_j − p) at the logits for softmax output j and p − y for −log p_y,
sums to 0 over the J logits, so that it is a mixture of the J − 1 cotangents e_m − e_J, which are the same for every
sample and node: only these ride back through C and are mixed where the sum over α is taken, unless classes are many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from toolchain.compress.integral import ROWS, by_unit, interpolated, mixed_nodes, over_nodes, tiled
from toolchain.compress.objective import Objective, objective_of
from toolchain.compress.rows import batch_axis, is_by_sample, per_sample, renamed
from toolchain.errors import Unsupported, UsageError, nearest
from toolchain.model import BATCH, Model, parameter
from toolchain.ops.matrices import with_matrices
from toolchain.ops.table import Ray, dims, find, where
from toolchain.ops.tape import PREFIX, Tape


class NoGradient(Unsupported):
    """An op behind the cut has no gradient rule; finite differences may stand in."""


@dataclass(frozen=True)
class Tail:
    """The part of a network behind a cut.

    cut        the value h that splits F = G∘H, [N, *s]
    nodes      the nodes that depend on it and lead to the answer, in order
    context    values from before the cut that the tail reads too, held at their value for x
    objective  what is read off the answer, as far as the cut reaches it
    """

    cut: ir.Value
    nodes: tuple[ir.Node, ...]
    context: tuple[ir.Value, ...]
    objective: Objective


@dataclass(frozen=True)
class GradientGraph:
    """An attribution graph.

    Inputs   h [N, *s], each context value, alpha [A] and weight [A] (nodes and weights of the quadrature on [0, 1]),
             labels [N] int64, or for each output its value at h
    Output   attribution [K, N, *s], or [K, N, units] where an axis was named: of softmax outputs 0…J−1 if
             they are the target, then of the loss
    """

    ir: ir.Model
    tail: Tail
    seeds: int
    hoisted: int


INPUT, ALPHA, WEIGHT, OUTPUT = (PREFIX + n for n in ("h", "alpha", "weight", "attribution"))


def tail_of(model: Model, cut: str, target: str | None = None) -> Tail:
    """Split the network at a value; see `objective_of` for the targets.

    Raises UsageError if there is no such value, Unsupported if it does not lead to the answer or its samples do not
    lie along one axis.
    """
    named = {str(v.name): v for v in (*model.graph.inputs, *(o for n in model.graph for o in n.outputs))}
    if cut not in named:
        raise UsageError(f"there is no value '{cut}' to cut at", way_out=nearest(cut, named))
    value = named[cut]
    if not is_by_sample(value):
        raise Unsupported(
            f"cannot cut at '{cut}' {value.shape}: the rows of a sample do not lie side by side along one axis",
            way_out="Use --criterion magnitude, or leave its layers out with --layers",
        )
    behind = {value}
    nodes = []
    for node in model.graph:
        if any(v in behind for v in node.inputs):
            behind.update(node.outputs)
            nodes.append(node)
    objective = objective_of(model, target).reached(behind)
    if objective is None:
        raise Unsupported(f"'{cut}' does not lead to the output")
    wanted = ancestors(nodes, objective.values)
    context = dict.fromkeys(
        v for n in wanted for v in n.inputs if v is not None and v not in behind and v.const_value is None
    )
    for v in context:
        if any(d < 0 for d in dims(v)) and not is_by_sample(v):
            raise Unsupported(
                f"cannot cut at '{cut}': what follows also reads '{v.name}' {v.shape}, where the rows of a sample do "
                "not lie side by side along one axis",
                way_out="Use --criterion magnitude, or leave its layers out with --layers",
            )
    return Tail(value, tuple(wanted), tuple(context), objective)


def tail_model(model: Model, tail: Tail) -> ir.Model:
    """G alone: inputs h and the context, outputs what the objective reads."""
    writer = Writer(model)
    h = writer.input(INPUT, tail.cut)
    values = {tail.cut: h} | {v: writer.input(str(v.name), v) for v in tail.context}
    writer.copy(tail.nodes, values, "tail/")
    return writer.finish(
        [
            (writer.tape.op("Identity", values[v]), f"{PREFIX}answer{i}", v.shape or ())
            for i, v in enumerate(tail.objective.values)
        ]
    )


def attribution_graph(
    model: Model, cut: str, target: str | None = None, hoist: bool = True, axis: int | None = None
) -> GradientGraph:
    """Build the graph; Unsupported names the op that has no gradient rule.

    target  what to attribute: see `objective_of`
    hoist   take the straight part out of the integral; False is the same sum, written plainly
    axis    of the units: sum over every other but the batch's, so that only [K, rows, units] leaves the graph
    """
    tail = tail_of(model, cut, target)
    rays = rays_of(tail) if hoist else {tail.cut: Ray.HOMOGENEOUS}
    straight = [n for n in tail.nodes if hoist and all(rays.get(o, Ray.CURVED) > Ray.CURVED for o in n.outputs)]
    curved = [n for n in tail.nodes if n not in set(straight)]
    reads = {v for n in curved for v in n.inputs} | {*tail.objective.values}
    fronts = [v for v, r in rays.items() if r > Ray.CURVED and v in reads]
    seeds = tail.objective.count

    writer = Writer(model, tail.objective.riding)
    g = writer.tape
    h = writer.input(INPUT, tail.cut)
    context = {v: writer.input(str(v.name), v) for v in tail.context}
    alpha, weight = writer.vector(ALPHA, ir.DataType.FLOAT), writer.vector(WEIGHT, ir.DataType.FLOAT)
    held = [writer.input(str(v.name), v) for v in tail.objective.held()]

    once = {tail.cut: h} | context
    writer.copy(straight, once, "once/")
    origin: dict[ir.Value, ir.Value] = {}
    if any(rays[v] is Ray.AFFINE for v in fronts):  # v(0) is the same for every sample unless context flows in
        zero = g.op("Mul", h, g.f32(0)) if context else g.f32(np.zeros([abs(d) for d in dims(tail.cut)]))
        zero.shape, zero.dtype = renamed(tail.cut.shape, "Z"), ir.DataType.FLOAT
        origin = {tail.cut: zero} | context
        writer.copy(ancestors(straight, [v for v in fronts if rays[v] is Ray.AFFINE]), origin, "zero/", "Z")

    rows: dict[ir.Value, ir.Value] = {
        v: tiled(g, once[v], alpha) for v in tail.context if any(v in n.inputs for n in curved)
    }
    rows |= {v: interpolated(g, once[v], origin.get(v) if rays[v] is Ray.AFFINE else None, alpha) for v in fronts}
    writer.copy(curved, rows, "ray/", ROWS)

    ridden = tail.objective.cotangents(g, rows, [tiled(g, v, alpha) for v in held])
    at_front = backward(g, curved, rows, ridden.cotangents, fronts)
    mix = None if ridden.mix is None else mixed_nodes(g, ridden.mix, weight, seeds)
    summed = {v: over_nodes(g, at_front[v], weight, mix, once[v]) for v in fronts if v in at_front}
    g.seeds = seeds
    gradient = backward(g, straight, once, summed, [tail.cut])[tail.cut]
    out, shape = by_unit(g, g.op("Mul", gradient, h), tail.cut, axis)
    graph = writer.finish([(out, OUTPUT, [seeds, *shape])])
    return GradientGraph(graph, tail, seeds, len(straight))


def described(graph: GradientGraph) -> list[tuple[str, str, str, str]]:
    """(input or output, name, shape, meaning) of each value that the file of an attribution graph takes or gives."""
    told = {
        INPUT: f"value '{graph.tail.cut.name}' of each sample",
        ALPHA: "nodes of the quadrature on [0, 1]",
        WEIGHT: "their weights",
        OUTPUT: "attribution: of each softmax output, then of the loss"
        if graph.seeds > 1
        else "attribution of the loss",
    }
    told |= {str(v.name): graph.tail.objective.about for v in graph.tail.objective.held()}
    context = {
        str(v.name): f"value '{v.name}' of each sample: what follows the cut reads it too" for v in graph.tail.context
    }
    sides = (("input", graph.ir.graph.inputs), ("output", graph.ir.graph.outputs))
    return [(k, str(v.name), str(v.shape), (told | context)[str(v.name)]) for k, vs in sides for v in vs]


def rays_of(tail: Tail) -> dict[ir.Value, Ray]:
    """How each value of the tail moves along the ray from 0 to h."""
    rays: dict[ir.Value, Ray] = {tail.cut: Ray.HOMOGENEOUS}
    for node in tail.nodes:
        entry = find(node)
        took = [rays.get(v) if v is not None else None for v in node.inputs]
        ray = entry.ray(node, took) if entry is not None and entry.ray is not None else Ray.CURVED
        rays |= {v: ray if is_by_sample(v) else Ray.CURVED for v in node.outputs}
    return rays


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

    def finish(self, outputs: Sequence[tuple[ir.Value, str, Iterable[Any]]]) -> ir.Model:
        """The model; nodes that no output needs are left out."""
        for value, name, shape in outputs:
            value.name, value.shape, value.dtype = name, ir.Shape(list(shape)), ir.DataType.FLOAT
        nodes = with_matrices(self.tape, ancestors(self.tape.nodes, [v for v, _, _ in outputs]))
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


# ---- reverse mode ----------------------------------------------------------------------------------------------------
Cotangents = Sequence[ir.Value | None]
Rule = Callable[[Tape, ir.Node, ir.Node, Cotangents], Cotangents]


def pulled_back(g: Tape, node: ir.Node, copy: ir.Node, dys: Cotangents) -> Cotangents:
    """Cotangents of a node's inputs from those of its outputs, None where none arrives, by its op's rule."""
    entry = find(node)
    way_out = "Use --criterion magnitude, or leave its layers out with --layers"
    if entry is None or entry.vjp is None:
        raise NoGradient(f"{where(node)} has no gradient rule", way_out=way_out)
    if not entry.several and any(dy is not None for dy in dys[1:]):
        raise NoGradient(f"{where(node)} has no gradient rule for outputs beyond its first", way_out=way_out)
    try:
        return entry.vjp(g, copy, list(dys) if entry.several else dys[0])
    except NotImplementedError as error:
        raise NoGradient(f"{where(node)}: {error}", way_out=way_out) from error


def backward(
    g: Tape,
    nodes: Sequence[ir.Node],
    copies: dict[ir.Value, ir.Value],
    seeds: dict[ir.Value, ir.Value],
    wanted: Sequence[ir.Value],
    rule: Rule = pulled_back,
) -> dict[ir.Value, ir.Value]:
    """Reverse mode over copied nodes: cotangents of `wanted` from those of `seeds`, keyed by the network's values.

    rule  (tape, node, its copy, cotangents of its outputs) -> those of its inputs: the gradient's, or another
    """
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
        if any(batch_axis(v) is None or per_sample(v) > 1 for v in node.inputs if v is not None and v in moving):
            # of several rows a sample no shared one can tell which is whose
            dys = [None if dy is None else g.every(dy, copies[y]) for dy, y in zip(dys, node.outputs, strict=True)]
        grads = rule(g, node, copy, dys)
        for i, (v, dx) in enumerate(zip(node.inputs, grads, strict=True)):
            if v is None or v not in moving:
                continue
            if dx is not None:
                cotangents[v] = g.op("Add", cotangents[v], dx) if v in cotangents else dx
            elif v.dtype is None or v.dtype.is_floating_point():  # whole numbers, such as shapes, have no derivative
                raise NoGradient(
                    f"{where(node)} has no gradient rule for its computed input {i}",
                    way_out="Use --criterion magnitude, or leave its layers out with --layers",
                )
    return {v: cotangents[v] for v in wanted if v in cotangents}
