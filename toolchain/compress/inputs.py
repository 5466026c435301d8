"""Attributions to the elements of an input (Lundstrom et al. 2022, eq. 1), by the machinery of the layers.

A_ij(x) = (x_i − x'_i) ∫₀¹ ∂F_j(x' + α(x − x'))/∂x_i dα is eq. 2 at d = x − x' of the network that begins with x' + d.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.compress.attribution import quadrature
from toolchain.compress.gradient import ALPHA, INPUT, WEIGHT, attribution_graph, tail_model
from toolchain.errors import Unsupported, UsageError, nearest
from toolchain.model import Model, parameter
from toolchain.session import run, session, with_outputs

F64 = NDArray[np.float64]
ROWS = 256  # of one run


@dataclass(frozen=True)
class InputAttribution:
    """A_ij of every sample, [j, n, *s] (softmax outputs where they are the target, then the loss).

    change  F_j(x) − F_j(x'), [j, n]
    """

    values: NDArray[np.float32]
    change: F64

    @property
    def gap(self) -> float:
        """Completeness gap of the worst target: Σ|Σ_i A_ij − ΔF_j| / Σ|ΔF_j| over the samples."""
        summed = self.values.reshape(*self.change.shape, -1).sum(axis=2, dtype=np.float64)
        residual = np.abs(summed - self.change).sum(axis=1)
        return float(np.max(residual / np.maximum(np.abs(self.change).sum(axis=1), 1e-12)))


def attribute_input(
    model: Model,
    name: str,
    inputs: Mapping[str, NDArray[np.float32]],
    labels: NDArray[np.int64],
    baseline: NDArray[np.float32] | float = 0.0,
    *,
    target: str | None = None,
    steps: int = 32,
    threads: int = 1,
    most_rows: int = ROWS,
) -> InputAttribution:
    """Attributions to one input.

    inputs     {name: [n, *s]}; other inputs keep their values along the path
    baseline   x', [*s] or one number
    most_rows  samples times nodes of one run

    Raises UsageError for an input that there is not, Unsupported where an op has no gradient rule.
    """
    if name not in model.inputs:
        raise UsageError(f"there is no input '{name}'", way_out=nearest(name, model.inputs))
    if model.batch != "free":
        raise Unsupported(f"the graph runs at batch {model.batch} only: {model.held_by}")
    x0 = np.broadcast_to(np.float32(baseline), model.inputs[name])
    begun = from_baseline(model, name, x0)
    graph = attribution_graph(begun, name, target)
    split, objective = graph.tail, graph.tail.objective
    needed = [str(v.name) for v in (*objective.values, *split.context)]
    head, tail = session(with_outputs(begun.ir, needed), threads), session(tail_model(begun, split), threads)
    gradient = session(graph.ir, threads)
    alpha, weight = quadrature(steps)
    found, changes = [], []
    size = max(1, most_rows // steps)
    for start in range(0, len(labels), size):
        part = {k: v[start : start + size] for k, v in inputs.items()}
        part[name] = part[name] - x0
        y = labels[start : start + size]
        at_x = run(head, part)
        at_x, context = at_x[: len(objective.values)], at_x[len(objective.values) :]
        feed = dict(zip(needed[len(objective.values) :], context, strict=True)) | {INPUT: part[name]}
        found.append(run(gradient, feed | {ALPHA: alpha, WEIGHT: weight} | objective.feed(y, at_x))[0])
        changes.append(objective.change(at_x, run(tail, feed | {INPUT: np.zeros_like(part[name])}), y))
    return InputAttribution(np.concatenate(found, axis=1), np.concatenate(changes, axis=1))


def from_baseline(model: Model, name: str, baseline: NDArray[np.float32]) -> Model:
    """The network of d = x − x' in place of x: it begins with x' + d."""
    if not baseline.any():
        return model
    clone = model.ir.clone()
    x = next(v for v in clone.graph.inputs if v.name == name)
    held = parameter(f"jettison/baseline/{name}", ir.tensor(baseline[None]))
    node = ir.node("Add", [x, held], name=f"jettison/from/{name}")
    moved = node.outputs[0]
    moved.name, moved.shape, moved.type = f"jettison/from/{name}", x.shape, x.type
    ir.convenience.replace_all_uses_with(x, moved)
    node.replace_input_with(0, x)
    clone.graph.initializers[str(held.name)] = held
    clone.graph.insert_before(next(iter(clone.graph)), node)
    return model.with_ir(clone)
