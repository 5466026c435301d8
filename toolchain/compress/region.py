"""What attributes at one cut: the network up to it, the attribution graph behind it, and the tail alone.

A region travels to another process as its recipe, and is built there once; its sessions stay where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.differences import by_differences, check_width
from toolchain.compress.gradient import (
    ALPHA,
    INPUT,
    WEIGHT,
    GradientGraph,
    NoGradient,
    Tail,
    attribution_graph,
    tail_model,
    tail_of,
)
from toolchain.compress.rows import along_batch, per_sample
from toolchain.compress.sums import Attribution
from toolchain.errors import BadInput, RunnerFailed
from toolchain.model import Model, load
from toolchain.ops.table import dims
from toolchain.session import run, session, with_outputs

if TYPE_CHECKING:
    import onnxruntime as ort

F64 = NDArray[np.float64]
Nodes = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Recipe:
    """How to make a region: the cut, its unit axis, and for other processes the file of the network and its SHA-256."""

    cut: str
    axis: int
    target: str | None
    differences: bool
    threads: int
    path: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Region:
    """The three graphs of one cut.

    head      x -> h, what the objective reads, the context
    gradient  the attribution graph; None where finite differences stand in
    tail      G alone
    at_zero   what the objective reads at h = 0, or None where that depends on the context of each sample
    why       why the gradient graph cannot be had, "" where it can
    """

    recipe: Recipe
    split: Tail
    head: ort.InferenceSession
    gradient: ort.InferenceSession | None
    tail: ort.InferenceSession | None
    at_zero: Sequence[NDArray[Any]] | None
    why: str

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt, (self.recipe,)

    def answers(self, feed: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """What the objective reads, of h and the context."""
        assert self.tail is not None
        return run(self.tail, feed)

    @property
    def backend(self) -> str:
        """For the facts of a ranking."""
        if self.gradient is not None:
            return "gradient graph"
        return f"finite differences: {self.why}" if self.why else "finite differences"


@dataclass(frozen=True)
class Part:
    """Some of the samples: inputs {name: [n, *s]}, labels [n], and the number of the first among all."""

    inputs: Mapping[str, NDArray[np.float32]]
    labels: NDArray[np.int64]
    first: int = 0


def region_of(model: Model, recipe: Recipe) -> Region:
    """Build the graphs of a cut; where an op has no gradient rule, finite differences stand in.

    Raises Unsupported where the cut does not lead to the answer, or has neither a gradient nor few enough units.
    """
    graph: GradientGraph | None = None
    why = ""
    try:
        if not recipe.differences:
            graph = attribution_graph(model, recipe.cut, recipe.target, axis=recipe.axis)
    except NoGradient as missing:
        why = missing.what
    split = tail_of(model, recipe.cut, recipe.target) if graph is None else graph.tail
    if graph is None:
        check_width(split, recipe.axis, why or "the gradient graph was not asked for")
    needed = [str(v.name) for v in (split.cut, *split.objective.values, *split.context)]
    tail = session(tail_model(model, split), recipe.threads, prepack=graph is None)
    at_zero = None
    if not split.context:
        at_zero = run(tail, {INPUT: np.zeros([abs(d) for d in dims(split.cut)], np.float32)})
    return Region(
        recipe,
        split,
        session(with_outputs(model.ir, needed), recipe.threads),
        None if graph is None else session(graph.ir, recipe.threads),
        None if graph is not None and at_zero is not None else tail,
        at_zero,
        why,
    )


# ---- in another process --------------------------------------------------------------------------------------------
LOCK = Lock()  # a worker may run several tasks at a time; two of them are not to build the same graphs


def rebuilt(recipe: Recipe) -> Region:
    """The region in a worker process, built at its first task."""
    with LOCK:
        return _region(recipe)


@lru_cache(maxsize=1)
def _region(recipe: Recipe) -> Region:
    return region_of(_model(recipe.path, recipe.sha256), recipe)


@lru_cache(maxsize=1)
def _model(path: str, sha256: str) -> Model:
    try:
        model = load(Path(path))
    except BadInput as error:
        raise RunnerFailed(
            f"a worker cannot read the network: {error.what}", path, "Give -o a folder that every worker sees"
        ) from error
    if model.sha256 != sha256:
        raise RunnerFailed("a worker sees another network", path, "Give -o a folder that every worker sees")
    return model


# ---- one run -------------------------------------------------------------------------------------------------------
def chunk(region: Region, nodes: Nodes, part: Part) -> Attribution:
    """Attributions of some samples in one run; raises BadInput where an activation is not finite."""
    split, axis, objective = region.split, region.recipe.axis, region.split.objective
    n = len(part.labels)
    h, *rest = run(region.head, part.inputs)
    at_h, context = rest[: len(objective.values)], rest[len(objective.values) :]
    k = per_sample(split.cut)
    for value, array in zip((split.cut, *objective.values), (h, *at_h), strict=True):
        check_finite(str(value.name), array, along_batch(value), per_sample(value), part.first)
    feed = {str(v.name): a for v, a in zip(split.context, context, strict=True)}
    if region.gradient is not None:
        along = {INPUT: h, ALPHA: nodes[0], WEIGHT: nodes[1]} | objective.feed(part.labels, at_h)
        (by_row,) = run(region.gradient, feed | along)  # [j, k·n, i]
        by_unit = by_row.reshape(len(by_row), n, k, -1).sum(axis=2, dtype=np.float64)
    else:
        by_unit = by_differences(split, axis, region.answers, h, feed, at_h, part.labels, nodes)
    at_zero = region.at_zero
    if at_zero is None:
        at_zero = region.answers(feed | {INPUT: np.zeros_like(h)})
    change = objective.change(at_h, at_zero, part.labels)
    one_hot = np.zeros((objective.classes, n))
    one_hot[part.labels, np.arange(n)] = 1
    return Attribution(
        cut=region.recipe.cut,
        axis=axis,
        sums=np.einsum("kn,jni->kji", one_hot, by_unit, optimize=True),
        absolute=np.einsum("kn,jni->kji", one_hot, np.abs(by_unit), optimize=True),
        squared=np.einsum("kn,jni->kji", one_hot, by_unit**2, optimize=True),
        counts=one_hot.sum(axis=1).astype(np.int64),
        is_live=(h != 0).any(axis=tuple(d for d in range(h.ndim) if d != axis)),
        residual=np.abs(by_unit.sum(axis=2) - change).sum(axis=1),
        change=np.abs(change).sum(axis=1),
        steps=len(nodes[0]),
        backend=region.backend,
    )


def check_finite(name: str, array: NDArray[Any], batch: int, k: int, first: int) -> None:
    """Raise BadInput that names the first sample with a value that is no number."""
    bad = ~np.isfinite(array)
    if bad.any():
        row = int(np.flatnonzero(bad.any(axis=tuple(d for d in range(array.ndim) if d != batch)))[0])
        what = "not a number" if np.isnan(array).any() else "infinite"
        raise BadInput(
            f"sample {first + row // k} makes '{name}' {what}", way_out="Leave it out, or look at what overflows there"
        )
