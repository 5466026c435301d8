"""The samples that activate each kernel most, kept while activations stream by.

A kernel's activation by a sample is its largest over positions, where `layers` sees the layer fire. Only what is above
0 counts: a dead kernel has none. Whatever the portions that samples come in, the same are found; of equals the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.compress.attribution import Progress
from toolchain.compress.rows import along_batch, per_sample
from toolchain.data import Samples
from toolchain.explain.layers import activation_of
from toolchain.explain.pooling import block_within, largest, plane
from toolchain.model import Model
from toolchain.ops.table import dims
from toolchain.session import run, session, with_outputs

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
AT_ONCE = 1 << 26  # bytes of activations of one run


@dataclass(frozen=True)
class Topmost:
    """The samples that activate each kernel k of a layer most, T at most, the strongest first.

    samples  numbers in the data, [k, T]; −1 where fewer activate the kernel
    values   largest activations, [k, T]; 0 there
    maps     activations, [k, T, h, w], the largest of each block of positions; 0 there; a dense unit has 1×1
    block    positions along the side of a block
    """

    layer: str
    samples: I64
    values: F32
    maps: F32
    block: int

    def merged(self, activations: F32, first: int) -> Topmost:
        """With further samples, numbered from `first`.

        activations  [n, k, h, w]
        """
        most = self.samples.shape[1]
        values = np.concatenate([self.values.T, activations.max(axis=(2, 3), initial=0)])  # [T + n, k]
        order = np.argsort(-values, axis=0, kind="stable")[:most].T  # [k, T]; the earlier of equals stays in front
        kernels, kept = np.arange(len(order))[:, None], np.minimum(order, most - 1)
        best, is_new = values.T[kernels, order], order >= most
        numbers = np.where(is_new, first + order - most, self.samples[kernels, kept])
        maps = self.maps[kernels, kept]
        k, t = np.nonzero(is_new)
        maps[k, t] = largest(activations[order[k, t] - most, k], self.block) * (best[k, t] > 0)[:, None, None]
        return replace(self, samples=np.where(best > 0, numbers, -1), values=best, maps=maps)


def none_yet(layer: str, kernels: int, positions: Sequence[int], most: int, side: int) -> Topmost:
    """No sample at all."""
    block = block_within(positions, side)
    maps = np.zeros((kernels, most, *(-(-n // block) for n in plane(positions))), np.float32)
    return Topmost(layer, np.full((kernels, most), -1), np.zeros((kernels, most), np.float32), maps, block)


def topmost(
    model: Model,
    samples: Samples,
    layers: Sequence[str],
    most: int = 6,
    side: int = 32,
    threads: int = 1,
    *,
    at_once: int = AT_ONCE,
    progress: Progress = lambda stage, done, total: None,
) -> list[Topmost]:
    """What activates the kernels of each layer most, in one pass over the samples.

    layers   values where layers are seen to fire, or names of layers
    most     samples of a kernel, T
    side     of a map, at most: larger ones are pooled
    at_once  bytes of activations that one run may take

    Raises UsageError where there is no such layer.
    """
    if not layers:
        return []
    seen = [activation_of(model, name) for name in layers]
    known = {str(v.name): v for node in model.graph for v in node.outputs}
    values = [known[a.value] for a in seen]
    runner = session(with_outputs(model.ir, [a.value for a in seen]), threads)
    n, is_free = len(samples), model.batch == "free"
    size = max(1, at_once // (4 * sum(abs(math.prod(dims(v))) for v in values))) if is_free else int(model.batch)
    found: list[Topmost] = []
    for start in range(0, n, size):
        pick = np.arange(start, min(start + size, n))
        filled = pick if is_free else np.resize(pick, size)  # a fixed batch is filled up with samples that are not read
        part = run(runner, {k: v[filled] for k, v in samples.inputs.items()})
        laid = [by_kernel(y, v, a.axis)[: len(pick)] for y, v, a in zip(part, values, seen, strict=True)]
        found = found or [
            none_yet(a.layer, y.shape[1], y.shape[2:], most, side) for a, y in zip(seen, laid, strict=True)
        ]
        flat = [y.reshape(*y.shape[:2], *plane(y.shape[2:])) for y in laid]
        found = [t.merged(y, start) for t, y in zip(found, flat, strict=True)]
        progress("most active", int(pick[-1]) + 1, n)
    return found


def by_kernel(activations: NDArray[Any], value: ir.Value, axis: int) -> NDArray[Any]:
    """Activations as [n, k, *positions]; rows of a sample are positions too."""
    batch, rows = along_batch(value), per_sample(value)
    moved = np.moveaxis(activations, batch, 0)
    unit = axis + 1 if axis < batch else axis
    if rows > 1:
        moved, unit = moved.reshape(-1, rows, *moved.shape[1:]), unit + 1
    return np.moveaxis(moved, unit, 1)
