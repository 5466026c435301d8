"""Accuracy won back without labels or training: what a removed unit gave on average, and what others can rebuild.

A layer that read removed units gets their mean contribution as bias, then a ridge least-squares refit against the dense
network's own values at its output:

    min_D ‖(Y − Ŷ) − X̂ D‖² + λ ‖D‖²,   W ← W + D,

with X̂, Ŷ the pruned network's input and output there (earlier layers already refitted) and Y the dense output. λ is the
one of a small grid that rebuilds held-out samples best; where none helps, the layer keeps its weights. A depthwise or
grouped convolution is refitted block by block: it has lost no columns, but what it reads was itself rebuilt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.compress.attribution import Progress
from toolchain.compress.equations import Rows, Sums, best, solved
from toolchain.compress.groups import Channels
from toolchain.compress.layers import (
    bias_of,
    blocks_of,
    column_axis,
    inputs_at,
    is_linear,
    matrix,
    outputs_at,
    positions,
    unit_axis,
    write,
)  # fmt: skip
from toolchain.compress.surgery import rows_kept
from toolchain.model import Model
from toolchain.ops.units import Ids
from toolchain.session import run, session, with_outputs

F32, F64 = NDArray[np.float32], NDArray[np.float64]
# of the mean diagonal of the normal equations; the last leaves the weights and moves the mean into the bias
LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, np.inf)
BATCH = 32
LEAST_ROWS = 8192  # of a layer, where the samples have so many positions; and four for each column
NARROW = 256  # columns below which the normal equations are small, however few the rows
WIDEST = 8192  # columns up to which the normal equations are summed: 0.5 GB in float64


@dataclass(frozen=True)
class Refit:
    """What happened to one layer: held-out error of its output before and after, relative to the dense one's power.

    note  how many samples it would take, where there are fewer rows than unknowns of a unit
    """

    layer: str
    before: float
    after: float
    ridge: float | None
    note: str = ""


@dataclass(frozen=True)
class Consumer:
    """A layer that read removed units: its node in the pruned graph and the rows of its output that stay."""

    node: ir.Node
    output: str
    kept: NDArray[np.bool_]
    axis: int


def recover(
    dense: Model,
    pruned: Model,
    channels: Channels,
    removed: Ids,
    inputs: Mapping[str, F32],
    *,
    ridges: Sequence[float] = LAMBDAS,
    seed: int = 0,
    threads: int = 1,
    progress: Progress = lambda stage, done, total: None,
) -> tuple[Model, list[Refit]]:
    """Refit every layer that read removed units, first to last, on calibration inputs {name: [n, *s]}.

    ridges  candidates for λ; (inf,) alone is the mean into the bias
    """
    gone = channels.flags(channels.closure(removed))
    keep = {key: ~gone[channels.labels.root[ids]] for key, ids in channels.labels.axes.items()}
    recovered = pruned.with_ir(pruned.ir.clone())
    found = list(consumers(dense, recovered, keep))
    goals = goals_of(dense, found, inputs, seed, threads)
    refits = []
    for i, (consumer, goal) in enumerate(zip(found, goals, strict=True)):
        refits.append(refit(recovered, consumer, goal, inputs, ridges, seed, threads))
        progress(consumer.node.name or consumer.output, i + 1, len(found))
    return recovered, refits


def consumers(dense: Model, pruned: Model, keep: Mapping[Any, NDArray[np.bool_]]) -> Iterator[Consumer]:
    """Layers whose weights lost columns, and grouped convolutions whose input lost channels."""
    nodes = {str(n.outputs[0].name): n for n in pruned.graph}
    for old in dense.graph:
        if not is_linear(old, dense):
            continue
        x, w = old.inputs[:2]
        y = old.outputs[0]
        reads = (x, unit_axis(old, x)) if blocks_of(old) > 1 else (w, column_axis(old))
        if rows_kept(*reads, keep).all():  # type: ignore[arg-type]
            continue
        axis = unit_axis(old, y)
        yield Consumer(nodes[str(y.name)], str(y.name), rows_kept(y, axis, keep), axis)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Goal:
    """What a layer made in the dense network for one part of the samples.

    pick  seeded output positions, as many as the equations need
    y     [g, p, m] there
    """

    part: slice
    pick: Ids
    y: F32


def goals_of(
    dense: Model, found: Sequence[Consumer], inputs: Mapping[str, F32], seed: int, threads: int
) -> list[list[Goal]]:
    """The dense network's outputs at every consumer, of one run over the samples."""
    goals: list[list[Goal]] = [[] for _ in found]
    if not found:
        return goals
    n = len(next(iter(inputs.values())))
    generator = np.random.default_rng(seed)
    runner = session(with_outputs(dense.ir, [c.output for c in found]), threads)
    size = BATCH if dense.batch == "free" else int(dense.batch)
    for start in range(0, n if dense.batch == "free" else n - n % size, size):
        part = slice(start, min(start + size, n))
        for consumer, mine, y in zip(found, goals, run(runner, {k: v[part] for k, v in inputs.items()}), strict=True):
            places = max(1, -(-max(4 * matrix(consumer.node).shape[1], LEAST_ROWS) // n))
            pick = generator.permutation(positions(consumer.node, y))[:places]
            y = np.compress(consumer.kept, y, axis=consumer.axis)
            mine.append(Goal(part, pick, outputs_at(consumer.node, y, pick)))
    return goals


def refit(
    pruned: Model,
    consumer: Consumer,
    goals: Sequence[Goal],
    inputs: Mapping[str, F32],
    ridges: Sequence[float],
    seed: int,
    threads: int,
) -> Refit:
    """Solve one layer's normal equations and write the weights into the pruned graph."""
    node, name = consumer.node, consumer.node.name or consumer.output
    weights = matrix(node)
    blocks, columns, outputs = weights.shape
    n = len(next(iter(inputs.values())))
    generator = np.random.default_rng(seed)
    is_held = generator.permutation(n) % 4 == 0
    x = node.inputs[0]
    assert x is not None
    runner = session(with_outputs(pruned.ir, [str(x.name), consumer.output]), threads)
    is_tall = sum(g.y.shape[1] for g in goals) > columns or columns <= NARROW
    make = Sums.empty if blocks > 1 or (is_tall and columns <= WIDEST) else Rows.empty
    fit, held = (make(blocks, columns, outputs, bias_of(node) is not None) for _ in range(2))
    for goal in goals:
        x_hat, y_hat = run(runner, {k: v[goal.part] for k, v in inputs.items()})
        taken = inputs_at(node, x_hat, y_hat.shape[2:], goal.pick)
        r = goal.y - outputs_at(node, y_hat, goal.pick)
        flags = np.repeat(is_held[goal.part], taken.shape[1] // (goal.part.stop - goal.part.start))
        for sums, which in ((fit, ~flags), (held, flags)):
            if which.any():
                sums.add(taken[:, which], r[:, which], goal.y[:, which])
    ridge, before, after = best(fit, held, ridges, generator)
    both = fit.plus(held)  # type: ignore[arg-type]
    if ridge is not None:
        write(node, weights, solved(both, ridge))
    enough = -(-columns * n // max(both.count, 1))
    few = f"{both.count} rows for {columns} unknowns: {enough} samples would settle them"
    return Refit(name, before, after, ridge, few if both.count < columns else "")
