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
from toolchain.compress.layers import bias_of, blocks_of, column_axis, is_linear, matrix, rows, unit_axis, write
from toolchain.compress.surgery import rows_kept
from toolchain.model import Model
from toolchain.ops.units import Ids
from toolchain.session import run, session, with_outputs

F32, F64 = NDArray[np.float32], NDArray[np.float64]
# of the mean diagonal of the normal equations; the last leaves the weights and moves the mean into the bias
LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, np.inf)
BATCH = 32
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
    refits = []
    for i, consumer in enumerate(found):
        refits.append(refit(dense, recovered, consumer, inputs, ridges, seed, threads))
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


def refit(
    dense: Model,
    pruned: Model,
    consumer: Consumer,
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
    places = max(1, -(-max(4 * columns, 16384) // n))
    x = node.inputs[0]
    assert x is not None
    old = session(with_outputs(dense.ir, [consumer.output]), threads)
    new = session(with_outputs(pruned.ir, [str(x.name), consumer.output]), threads)
    size = BATCH if dense.batch == "free" else int(dense.batch)
    is_tall = node.op_type == "Conv" or n * positions(node) > columns or columns <= 256
    make = Sums.empty if blocks > 1 or (is_tall and columns <= WIDEST) else Rows.empty
    fit, held = (make(blocks, columns, outputs, bias_of(node) is not None) for _ in range(2))
    for start in range(0, n if dense.batch == "free" else n - n % size, size):
        part = {k: v[start : start + size] for k, v in inputs.items()}
        y = np.compress(consumer.kept, run(old, part)[0], axis=consumer.axis)
        x_hat, y_hat = run(new, part)
        flags = is_held[start : start + size]
        for sums, which in ((fit, ~flags), (held, flags)):
            if which.any():
                taken, (r, dense_y) = rows(node, x_hat[which], ((y - y_hat)[which], y[which]), places, generator)
                sums.add(taken, r, dense_y)
    ridge, before, after = best(fit, held, ridges, generator)
    both = fit.plus(held)  # type: ignore[arg-type]
    if ridge is not None:
        write(node, weights, solved(both, ridge))
    few = f"{both.count} rows for {columns} unknowns: {n * -(-columns // max(both.count, 1))} samples would settle them"
    return Refit(name, before, after, ridge, few if both.count < columns else "")


def positions(node: ir.Node) -> int:
    """Rows that a sample gives a product with a matrix."""
    shape = node.outputs[0].shape
    return int(np.prod([d if isinstance(d, int) else 1 for d in list(shape)[1:-1]])) if shape is not None else 1
