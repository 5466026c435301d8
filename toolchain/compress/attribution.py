"""Expected attributions of the units of a layer (Lundstrom et al. 2022, eq. 2-6), streamed over samples.

A_ij = h_i ∫₀¹ ∂F_j(αh)/∂h_i dα is summed in float64 per true class k, so that

E_ij   = E[A_ij]          (eq. 3)      E_ij = Σ_k E^k_ij P(y = k)   (eq. 5)
E^k_ij = E[A_ij | y = k]  (eq. 4)      rank_i = −E[A_i of the loss −log p_y]  (eq. 6)

Sums merge: attribute(a ∪ b) is attribute(a).merged(attribute(b)), whatever computed the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.gradient import (
    ALPHA,
    INPUT,
    WEIGHT,
    GradientGraph,
    attribution_graph,
    tail_model,
)
from toolchain.compress.objective import Deviation, objective_of
from toolchain.compress.rows import along_batch, per_sample
from toolchain.errors import Unsupported
from toolchain.model import Model
from toolchain.session import run, session, with_outputs

if TYPE_CHECKING:
    import onnxruntime as ort

F64 = NDArray[np.float64]
LEAST_ROWS = 128  # below it the matrix products starve: 27 GFLOP/s at 8 rows, 130 at 400
MOST_NODES = 1024
PILOT = 32  # samples on which the number of nodes is chosen
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Attribution:
    """Sums of attributions at one cut; k true class, j target (classes, then the loss), i unit.

    sums      Σ A_ij over the samples of class k, [k, j, i]
    absolute  Σ |A_ij|, [k, j, i]
    counts    samples of class k, [k]
    is_live   units that were not 0 for every sample, [i]
    residual  Σ |Σ_i A_ij − (F_j(h) − F_j(0))| over samples, [j]
    change    Σ |F_j(h) − F_j(0)|, [j]
    steps     nodes of the quadrature
    """

    cut: str
    axis: int
    sums: F64
    absolute: F64
    counts: NDArray[np.int64]
    is_live: NDArray[np.bool_]
    residual: F64
    change: F64
    steps: int

    def merged(self, other: Attribution) -> Attribution:
        """The attribution over both sets of samples."""
        return replace(
            self,
            sums=self.sums + other.sums,
            absolute=self.absolute + other.absolute,
            counts=self.counts + other.counts,
            is_live=self.is_live | other.is_live,
            residual=self.residual + other.residual,
            change=self.change + other.change,
        )

    @property
    def expected(self) -> F64:
        """E_ij, [j, i] (eq. 3)."""
        return self.sums.sum(axis=0) / max(int(self.counts.sum()), 1)

    @property
    def conditional(self) -> F64:
        """E^k_ij, [k, j, i] (eq. 4); 0 for a class without samples."""
        return self.sums / np.maximum(self.counts, 1)[:, None, None]

    @property
    def rank(self) -> F64:
        """−E of the loss, [i] (eq. 6): higher is more useful."""
        return -self.expected[-1]

    @property
    def expected_absolute(self) -> F64:
        """E|A_ij|, [j, i]."""
        return self.absolute.sum(axis=0) / max(int(self.counts.sum()), 1)

    @property
    def gap(self) -> float:
        """Completeness gap of the worst target: Σ|Σ_i A_ij − ΔF_j| / Σ|ΔF_j| over the samples."""
        return float(np.max(self.residual / np.maximum(self.change, 1e-12)))


def quadrature(steps: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gauss-Legendre nodes in t with α = t², and weights for dα = 2t dt, [A] each; exact for degree A − 1 in α.

    A softmax saturates along the ray, so that most of the change lies near α = 0; the square moves nodes there. On a
    network with logits of several hundred 32 such nodes do what 256 equal to them in α do, elsewhere both are alike.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    t = (nodes + 1) / 2
    return (t * t).astype(np.float32), (t * weights).astype(np.float32)


def attribute(
    model: Model,
    cuts: Sequence[tuple[str, int]],
    inputs: Mapping[str, NDArray[np.float32]],
    labels: NDArray[np.int64],
    *,
    per_class: bool = False,
    steps: int = 16,
    tolerance: float = 0.02,
    at_h_only: bool = False,
    threads: int = 1,
    max_memory: int = 1 << 30,
    progress: Progress = lambda stage, done, total: None,
) -> list[Attribution]:
    """Attributions at each cut (value, unit axis), in the order of `cuts`.

    inputs      {name: [n, *s]}
    labels      true classes [n]; not looked at where the network has none
    steps       nodes to begin with; doubled while the completeness gap of a pilot exceeds `tolerance`
    at_h_only   the gradient at h times h instead of the integral: first-order Taylor (Molchanov et al. 2019)
    max_memory  bytes that the activations of one run may take

    Raises Unsupported where an op has no gradient rule, or the model cannot run at any batch.
    """
    if model.batch != "free":
        raise Unsupported(
            f"the graph runs at batch {model.batch} only, so it cannot be ranked by gradients: {model.held_by}",
            way_out="Use --criterion magnitude",
        )
    if isinstance(objective_of(model), Deviation):
        if at_h_only:
            raise Unsupported(
                "the deviation from the network's own answer has no slope at h: a Taylor expansion says nothing",
                way_out="Use --criterion ig",
            )
        labels = np.zeros_like(labels)
    found = []
    for number, (cut, axis) in enumerate(cuts):
        graph = attribution_graph(model, cut, per_class, axis=axis)
        needed = [str(v.name) for v in (graph.tail.cut, *graph.tail.objective.values, *graph.tail.context)]
        tail = Region(
            graph,
            axis,
            session(with_outputs(model.ir, needed), threads),
            session(graph.ir, threads),
            session(tail_model(model, graph.tail), threads),
        )
        nodes = (
            (np.ones(1, np.float32), np.ones(1, np.float32))
            if at_h_only
            else refined(tail, inputs, labels, steps, tolerance)
        )
        found.append(
            swept(
                tail,
                inputs,
                labels,
                nodes,
                max_memory,
                lambda d, t, n=number, c=cut: progress(c, n * t + d, len(cuts) * t),
            )
        )
    return found


@dataclass(frozen=True)
class Region:
    """The three graphs of one cut: up to it, the attribution behind it, and the tail alone."""

    graph: GradientGraph
    axis: int
    head: ort.InferenceSession
    gradient: ort.InferenceSession
    tail: ort.InferenceSession


Nodes = tuple[NDArray[np.float32], NDArray[np.float32]]


def refined(
    region: Region, inputs: Mapping[str, NDArray[np.float32]], labels: NDArray[np.int64], steps: int, tolerance: float
) -> Nodes:
    """The smallest doubling of `steps` whose completeness gap on a pilot is within tolerance, 1024 at most."""
    pick = np.linspace(0, len(labels) - 1, min(PILOT, len(labels))).astype(int)
    pilot = {k: v[pick] for k, v in inputs.items()}
    while True:
        nodes = quadrature(steps)
        if chunk(region, pilot, labels[pick], nodes).gap <= tolerance or 2 * steps > MOST_NODES:
            return nodes
        steps *= 2


def swept(
    region: Region,
    inputs: Mapping[str, NDArray[np.float32]],
    labels: NDArray[np.int64],
    nodes: Nodes,
    max_memory: int,
    progress: Callable[[int, int], None],
) -> Attribution:
    """Merge chunks of samples, as many at a time as the memory allows."""
    steps, n = len(nodes[0]), len(labels)
    size = max(1, min(max_memory // (steps * region.graph.row_bytes + 1), max(LEAST_ROWS // steps, 64)))
    total: Attribution | None = None
    for start in range(0, n, size):
        part = {k: v[start : start + size] for k, v in inputs.items()}
        one = chunk(region, part, labels[start : start + size], nodes)
        total = one if total is None else total.merged(one)
        progress(min(start + size, n), n)
    assert total is not None
    return total


def chunk(
    region: Region, inputs: Mapping[str, NDArray[np.float32]], labels: NDArray[np.int64], nodes: Nodes
) -> Attribution:
    """Attributions of one run."""
    tail, axis, objective = region.graph.tail, region.axis, region.graph.tail.objective
    h, *rest = run(region.head, inputs)
    at_h, context = rest[: len(objective.values)], rest[len(objective.values) :]
    feed = {str(v.name): a for v, a in zip(tail.context, context, strict=True)}
    along = {INPUT: h, ALPHA: nodes[0], WEIGHT: nodes[1]} | objective.feed(labels, at_h)
    (a,) = run(region.gradient, feed | along)
    batch, k = along_batch(tail.cut), per_sample(tail.cut)
    one = h if context else h.take(range(k), axis=batch)
    at_zero = run(region.tail, feed | {INPUT: np.zeros_like(one)})
    change = objective.change(at_h, at_zero, labels, per_class=region.graph.seeds > 1)
    by_unit = a.reshape(len(a), -1, k, a.shape[2]).sum(axis=2, dtype=np.float64)  # [j, n, i] of [j, k·n, i]
    one_hot = np.zeros((objective.classes, len(labels)))
    one_hot[labels, np.arange(len(labels))] = 1
    return Attribution(
        cut=str(tail.cut.name),
        axis=axis,
        sums=np.einsum("kn,jni->kji", one_hot, by_unit, optimize=True),
        absolute=np.einsum("kn,jni->kji", one_hot, np.abs(by_unit), optimize=True),
        counts=one_hot.sum(axis=1).astype(np.int64),
        is_live=(h != 0).any(axis=tuple(d for d in range(h.ndim) if d != axis)),
        residual=np.abs(by_unit.sum(axis=2) - change).sum(axis=1),
        change=np.abs(change).sum(axis=1),
        steps=len(nodes[0]),
    )
