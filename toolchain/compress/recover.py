"""Accuracy won back without labels or training: what a removed unit gave on average, and what others can rebuild.

A layer that read removed units gets their mean contribution as bias, then a ridge least-squares refit against the dense
network's own values at its output:

    min_D ‖(Y − Ŷ) − X̂ D‖² + λ ‖D‖²,   W ← W + D,

with X̂, Ŷ the pruned network's input and output there (earlier layers already refitted) and Y the dense output. λ is the
one of a small grid that rebuilds held-out samples best; where none helps, the layer keeps its weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.compress.attribution import Progress
from toolchain.compress.groups import Channels
from toolchain.compress.surgery import rows_kept
from toolchain.model import Model
from toolchain.ops.pooling import window
from toolchain.ops.table import attribute, constant, dims
from toolchain.ops.units import Ids
from toolchain.session import run, session, with_outputs

F32, F64 = NDArray[np.float32], NDArray[np.float64]
WIDEST = 8192  # columns up to which the normal equations are solved: 0.5 GB in float64
# of the mean diagonal of the normal equations; the last leaves the weights and moves the mean into the bias
LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, np.inf)
BATCH = 32


@dataclass(frozen=True)
class Refit:
    """What happened to one layer: held-out error of its output before and after, relative to the dense one's power."""

    layer: str
    before: float
    after: float
    ridge: float | None


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
    found = list(consumers(dense, recovered, channels, keep))
    refits = []
    for i, consumer in enumerate(found):
        refits.append(refit(dense, recovered, consumer, inputs, ridges, seed, threads))
        progress(consumer.node.name or consumer.output, i + 1, len(found))
    return recovered, refits


def consumers(
    dense: Model, pruned: Model, channels: Channels, keep: Mapping[Any, NDArray[np.bool_]]
) -> Iterator[Consumer]:
    """Convolutions without groups and products with a matrix, sample by sample, whose weights lost columns and serve
    them alone.
    """
    nodes = {str(n.outputs[0].name): n for n in pruned.graph}
    for old in dense.graph:
        y = old.outputs[0]
        node = nodes[str(y.name)]
        w = old.inputs[1] if len(old.inputs) > 1 else None
        if old.op_type not in ("Conv", "Gemm", "MatMul") or w is None or w.const_value is None or len(w.uses()) > 1:
            continue
        if (
            attribute(old, "group", 1) > 1
            or attribute(old, "transA", 0)
            or dims(old.inputs[0])[0] not in (-1, dense.batch)
            or (old.op_type == "MatMul" and len(dims(w)) != 2)
        ):
            continue
        columns = {"Conv": 1, "MatMul": 0, "Gemm": attribute(old, "transB", 0)}[old.op_type]
        if rows_kept(w, columns, keep).all():  # type: ignore[arg-type]
            continue
        axis = 1 if old.op_type == "Conv" else len(dims(y)) - 1
        yield Consumer(node, str(y.name), rows_kept(y, axis, keep), axis)  # type: ignore[arg-type]


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
    if len(weights) > WIDEST:
        return Refit(name, 1.0, 1.0, None)
    n = len(next(iter(inputs.values())))
    fit, held = (Sums.empty(*weights.shape, has_bias=bias_of(node) is not None) for _ in range(2))
    generator = np.random.default_rng(seed)
    is_held = generator.permutation(n) % 4 == 0
    places = max(1, -(-max(4 * len(weights), 16384) // n))
    x = node.inputs[0]
    assert x is not None
    old = session(with_outputs(dense.ir, [consumer.output]), threads)
    new = session(with_outputs(pruned.ir, [str(x.name), consumer.output]), threads)
    size = BATCH if dense.batch == "free" else int(dense.batch)
    for start in range(0, n if dense.batch == "free" else n - n % size, size):
        part = {k: v[start : start + size] for k, v in inputs.items()}
        (y,) = run(old, part)
        x_hat, y_hat = run(new, part)
        r = np.compress(consumer.kept, y, axis=consumer.axis) - y_hat
        flags = is_held[start : start + size]
        for sums, which in ((fit, ~flags), (held, flags)):
            if which.any():
                sums.add(
                    *rows(
                        node,
                        x_hat[which],
                        r[which],
                        np.compress(consumer.kept, y, axis=consumer.axis)[which],
                        places,
                        generator,
                    )
                )
    ridge, change = best(fit, held, ridges)
    before = held.error(None)
    if ridge is None:
        return Refit(name, before, before, None)
    after = held.error(change)
    write(node, weights, solved(fit.plus(held), ridge))
    return Refit(name, before, after, ridge)


@dataclass
class Sums:
    """Normal equations, summed in float64: gram [c+1, c+1] of inputs and a constant, cross [c+1, m] with residuals."""

    gram: F64
    cross: F64
    residual: float
    power: float
    has_bias: bool

    @staticmethod
    def empty(columns: int, outputs: int, has_bias: bool) -> Sums:
        """Nothing summed yet."""
        return Sums(np.zeros((columns + 1, columns + 1)), np.zeros((columns + 1, outputs)), 0.0, 0.0, has_bias)

    def add(self, x: F32, r: F32, y: F32) -> None:
        """Sum rows x [p, c] with residuals r [p, m] of outputs y [p, m]."""
        x = np.concatenate([x, np.full((len(x), 1), self.has_bias, np.float32)], axis=1)
        self.gram += x.T @ x
        self.cross += x.T @ r
        self.residual += float(np.square(r, dtype=np.float64).sum())
        self.power += float(np.square(y, dtype=np.float64).sum())

    def plus(self, other: Sums) -> Sums:
        """Both together."""
        sums = (a + b for a, b in zip(astuple(self)[:4], astuple(other)[:4], strict=True))
        return Sums(*sums, has_bias=self.has_bias)

    def error(self, change: F64 | None) -> float:
        """‖R − X D‖² / ‖Y‖²."""
        if change is None:
            return self.residual / max(self.power, 1e-30)
        left = self.residual - 2 * float((change * self.cross).sum()) + float((change * (self.gram @ change)).sum())
        return max(left, 0.0) / max(self.power, 1e-30)


def solved(sums: Sums, ridge: float) -> F64:
    """D of the ridge problem; the constant is not shrunk."""
    if np.isinf(ridge):
        mean = np.zeros_like(sums.cross)
        mean[-1] = sums.cross[-1] / max(sums.gram[-1, -1], 1e-30)
        return mean
    diagonal = np.full(len(sums.gram), ridge * float(np.trace(sums.gram)) / len(sums.gram) + 1e-12)
    diagonal[-1] = 1e-9 * sums.gram[-1, -1] + 1e-12
    return np.linalg.solve(sums.gram + np.diag(diagonal), sums.cross).astype(np.float64, copy=False)


def best(fit: Sums, held: Sums, ridges: Sequence[float]) -> tuple[float | None, F64 | None]:
    """The ridge that rebuilds held-out samples best, or None where leaving the layer alone does."""
    ridge, change, least = None, None, held.error(None)
    for candidate in ridges:
        d = solved(fit, candidate)
        error = held.error(d)
        if error < least:
            ridge, change, least = candidate, d, error
    return ridge, change


# ---- layers as matrices --------------------------------------------------------------------------------------------
def matrix(node: ir.Node) -> F32:
    """Weights as [columns, outputs]."""
    w = constant(node.inputs[1])
    assert w is not None
    if node.op_type == "Conv":
        return w.reshape(len(w), -1).T
    return w.T if attribute(node, "transB", 0) else w


def rows(node: ir.Node, x: F32, r: F32, y: F32, places: int, generator: np.random.Generator) -> tuple[F32, F32, F32]:
    """Inputs [p, columns] and residuals, outputs [p, m] at seeded output positions of each sample."""
    if node.op_type != "Conv":
        return x.reshape(-1, x.shape[-1]), r.reshape(-1, r.shape[-1]), y.reshape(-1, y.shape[-1])
    patches = unfolded(node, x, r.shape[2:])  # [n, positions, columns]
    n, total = patches.shape[:2]
    pick = generator.permutation(total)[: min(places, total)]
    flat = [a.reshape(*a.shape[:2], -1).transpose(0, 2, 1)[:, pick] for a in (r, y)]
    return patches[:, pick].reshape(n * len(pick), -1), *(f.reshape(n * len(pick), -1) for f in flat)  # type: ignore[return-value]


def unfolded(node: ir.Node, x: F32, space: tuple[int, ...]) -> F32:
    """Patches that a convolution reads, [n, positions, channels·taps] in the order of its weights."""
    v = window(node)
    rank = len(v.kernel)
    reach = [
        (s - 1) * st + (k - 1) * d + 1 for s, st, k, d in zip(space, v.strides, v.kernel, v.dilations, strict=True)
    ]
    pads = [(0, 0), (0, 0)] + [
        (v.pads[i], max(v.pads[i + rank], reach[i] - x.shape[2 + i] - v.pads[i])) for i in range(rank)
    ]
    padded = np.pad(x, pads)
    steps = padded.strides
    shape = (*x.shape[:2], *space, *v.kernel)
    strides = (
        *steps[:2],
        *(s * st for s, st in zip(steps[2:], v.strides, strict=True)),
        *(s * d for s, d in zip(steps[2:], v.dilations, strict=True)),
    )
    view = np.lib.stride_tricks.as_strided(padded, shape, strides, writeable=False)
    order = (0, *range(2, 2 + rank), 1, *range(2 + rank, 2 + 2 * rank))
    return np.ascontiguousarray(view.transpose(order)).reshape(len(x), int(np.prod(space)), -1)


def write(node: ir.Node, weights: F32, change: F64) -> None:
    """Add D to the weights, and its constant row to the bias or the addition behind."""
    w = node.inputs[1]
    assert w is not None and w.const_value is not None
    fresh = (weights + change[:-1]).astype(np.float32)
    shape = w.const_value.shape.numpy()
    alpha = attribute(node, "alpha", 1.0) if node.op_type == "Gemm" else 1.0
    array = fresh.T.reshape(shape) if node.op_type == "Conv" or attribute(node, "transB", 0) else fresh
    if alpha != 1.0:
        array = constant(w) + (array - constant(w)) / np.float32(alpha)  # type: ignore[operator]
    w.const_value = ir.tensor(np.ascontiguousarray(array, np.float32), name=w.name)
    room = bias_of(node)
    if room is not None:
        bias, sign = room
        is_behind = bias not in node.inputs  # where there is no β
        offset = sign * change[-1] / (1.0 if is_behind else attribute(node, "beta", 1.0))
        array = constant(bias) + offset.astype(np.float32).reshape(dims(bias))
        bias.const_value = ir.tensor(array, name=bias.name)


def bias_of(node: ir.Node) -> tuple[ir.Value, float] | None:
    """A parameter that is added to (1.0) or taken from (−1.0) the node's output alone, with one entry for each unit.

    Its own bias, that of an addition behind, or the mean of a BatchNormalization behind. Where there is none the refit
    does without: a new bias would be a parameter more than the plan promised.
    """
    third = node.inputs[2] if len(node.inputs) > 2 else None
    axis = 1 - len(dims(node.outputs[0])) if node.op_type == "Conv" else -1  # of the units, from the end
    uses = list(node.outputs[0].uses())
    reader = uses[0].node if len(uses) == 1 else None
    if third is not None:
        found = (third, 1.0) if attribute(node, "beta", 1.0) != 0 else None
        axis = -1
    elif reader is not None and reader.op_type == "Add":
        other = reader.inputs[1 - uses[0].idx]
        found = None if other is None else (other, 1.0)
    elif reader is not None and reader.op_type == "BatchNormalization" and not attribute(reader, "training_mode", 0):
        mean = reader.inputs[3]
        found, axis = (None if mean is None else (mean, -1.0)), -1
    else:
        found = None
    if found is None or found[0].const_value is None or len(found[0].uses()) > 1:
        return None
    width = dims(node.outputs[0])[1 if node.op_type == "Conv" else -1]
    shape = dims(found[0])
    is_row = len(shape) >= -axis and shape[axis] == width == int(np.prod(shape))
    return found if is_row else None
