"""The proof: two models give the same answers on real inputs, in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.compress.groups import Channels
from toolchain.compress.rows import batch_axis, is_by_sample
from toolchain.compress.surgery import mask
from toolchain.model import Model
from toolchain.ops.units import Ids
from toolchain.session import run, session

NARROWED = " (norms over what is kept)"
TOLERANCE = 1e-5  # of the largest output: float32 sums over a thousand terms round to about 1e-6
BATCH = 32
MOST = 1 << 24  # numbers that probes hold: 16 of them for any image


@dataclass(frozen=True)
class Proof:
    """How far two models differ.

    max_abs       largest |Δ| over all outputs and samples
    max_rel       largest |Δ| of an output over its largest |y|
    argmax_equal  samples with the same largest output; a tie within the rounding counts as equal
    """

    against: str
    samples: int
    max_abs: float
    max_rel: float
    argmax_equal: int
    tolerance: float

    @property
    def passed(self) -> bool:
        """Equal to float rounding, and every answer the same."""
        return self.max_rel <= self.tolerance and self.argmax_equal == self.samples


def compare(
    reference: Model,
    other: Model,
    inputs: Mapping[str, NDArray[Any]],
    against: str,
    tolerance: float = TOLERANCE,
    threads: int = 1,
) -> Proof:
    """Run both models on the inputs {name: [n, *s]}, batch by batch; what fills no fixed batch is left out."""
    a, b = session(reference.ir, threads), session(other.ir, threads)
    n = len(next(iter(inputs.values())))
    size = BATCH if reference.batch == "free" else int(reference.batch)
    peak, deltas = np.zeros(len(reference.graph.outputs)), np.zeros(len(reference.graph.outputs))
    behind: list[NDArray[np.float64]] = []
    axis = axis_of_samples(reference.graph.outputs[0])
    for start in range(0, n - n % size if reference.batch != "free" else n, size):
        part = {k: v[start : start + size] for k, v in inputs.items()}
        for i, (y, z) in enumerate(zip(run(a, part), run(b, part), strict=True)):
            delta = np.abs(y.astype(np.float64) - z)
            deltas[i] = max(deltas[i], float(np.nan_to_num(delta, nan=np.inf).max(initial=0)))
            peak[i] = max(peak[i], float(np.abs(y).max(initial=0)))
            if i == 0:
                behind.append(lags(*(by_sample(v, axis, min(size, n - start)) for v in (y, z))))
    tie = 2 * min(deltas[0], tolerance * peak[0])  # either of two values may be off by rounding
    compared, equal = sum(map(len, behind)), sum(int((lag <= tie).sum()) for lag in behind)
    relative = float((deltas / np.maximum(peak, 1e-30)).max(initial=0))
    return Proof(against, compared, float(deltas.max(initial=0)), relative, equal, tolerance)


def axis_of_samples(value: ir.Value) -> int | None:
    """The axis along which samples follow each other, the first of a fixed batch; None where they do not."""
    free = batch_axis(value)
    return (free or 0) if free is None or is_by_sample(value) else None


def by_sample(y: NDArray[Any], axis: int | None, samples: int) -> NDArray[np.float64]:
    """An output as one row for each sample, [n, m]; zeros where no numbers are a sample's own."""
    if axis is None or not (y.size and y.ndim) or y.shape[axis] % samples:
        return np.zeros((samples, 1))
    return np.moveaxis(y, axis, 0).reshape(samples, -1).astype(np.float64)


def lags(y: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the answer of z is behind that of y among y's own outputs, [n]; 0 where both are the same."""
    return y.max(axis=1) - np.take_along_axis(y, z.argmax(axis=1)[:, None], axis=1)[:, 0]


def prove(
    model: Model, channels: Channels, removed: Ids, pruned: Model, inputs: Mapping[str, NDArray[Any]], threads: int = 1
) -> Proof:
    """That the pruned model equals the masked original; with approximate units, one whose norms see what is kept."""
    against = "masked original" + (NARROWED if channels.approximate else "")
    return compare(mask(model, channels, removed), pruned, inputs, against, threads=threads)


def approximation(
    model: Model, channels: Channels, removed: Ids, pruned: Model, inputs: Mapping[str, NDArray[Any]], threads: int = 1
) -> Proof | None:
    """How far the pruned model is from the masked original whose norms still see all units; None where it is exact."""
    if not channels.approximate:
        return None
    exact = mask(model, channels, removed, norms=False)
    return compare(exact, pruned, inputs, "masked original", threads=threads)


def probes(model: Model, n: int = 16, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Seeded standard normal inputs, where no samples are at hand, [n, *s] each; fewer where one of them is large."""
    generator = np.random.default_rng(seed)
    n = min(n, max(1, MOST // max(1, sum(map(math.prod, model.inputs.values())))))
    count = n if model.batch == "free" else int(model.batch) * max(1, n // int(model.batch))
    return {name: generator.standard_normal((count, *shape)).astype(np.float32) for name, shape in model.inputs.items()}
