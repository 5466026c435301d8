"""Directional derivatives by finite differences, for tails with an op that has no gradient rule.

The share of a whole unit needs one directional derivative at each node, whatever the number of its elements and of
targets:   A_uj = ∫₀¹ d/dε F_j(αh + ε h_u) dα,   h_u the elements of unit u, 0 elsewhere. Two passes of the tail, at
±ε, serve every class and the loss. The passes run in float32 and are differenced in float64; with ε = 1e-3 the error is
1e-3 to 3e-3 of the largest share (rounding and curvature are then alike).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.gradient import INPUT, Tail
from toolchain.compress.rows import along_batch, batch_axis
from toolchain.errors import Unsupported
from toolchain.ops.table import dims

F64 = NDArray[np.float64]
Arrays = Sequence[NDArray[Any]]
STEP = 1e-3  # ε
ROWS = 128  # of one pass, at least: fewer starve the matrix products
MOST_UNITS = 512


def check_width(tail: Tail, axis: int, because: str) -> None:
    """Raise Unsupported for a cut whose units are so many that the passes would take minutes for each sample."""
    units = abs(dims(tail.cut)[axis])
    if units > MOST_UNITS:
        raise Unsupported(
            f"{because}, and finite differences would run what follows '{tail.cut.name}' {2 * units:,} times for each "
            f"sample and node: {units:,} units, {MOST_UNITS} at most",
            way_out="Use --criterion magnitude, or leave its layers out with --layers",
        )


def by_differences(
    tail: Tail,
    axis: int,
    answers: Callable[[Mapping[str, NDArray[Any]]], Arrays],
    h: NDArray[np.float32],
    context: Mapping[str, NDArray[Any]],
    at_h: Arrays,
    labels: NDArray[np.int64],
    nodes: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> F64:
    """Attributions of each unit, [j, n, i].

    answers  runs the tail: {h and the context} -> what its objective reads
    """
    batch, units, n = along_batch(tail.cut), h.shape[axis], len(labels)
    along = {str(v.name): batch_axis(v) for v in tail.context}
    block = max(1, ROWS // (2 * n))
    total: F64 | None = None
    for alpha, weight in zip(*nodes, strict=True):
        for start in range(0, units, block):
            chosen = range(start, min(start + block, units))
            copies = 2 * len(chosen)
            moved = [scaled(h, axis, u, alpha, e) for u in chosen for e in (STEP, -STEP)]
            held = {
                k: a if along[k] is None else np.concatenate([a] * copies, axis=along[k]) for k, a in context.items()
            }
            found = answers(held | {INPUT: np.concatenate(moved, axis=batch)})
            change = tail.objective.change(  # F(h) − F(moved), in float64
                [
                    np.concatenate([y] * copies, axis=along_batch(v))
                    for v, y in zip(tail.objective.values, at_h, strict=True)
                ],
                found,
                np.tile(labels, copies),
            )
            by_sign = change.reshape(len(change), len(chosen), 2, n)
            slope = (by_sign[:, :, 1] - by_sign[:, :, 0]) / (2 * STEP)
            if total is None:
                total = np.zeros((len(change), n, units))
            total[:, :, start : start + len(chosen)] += float(weight) * slope.swapaxes(1, 2)
    assert total is not None
    return total


def scaled(h: NDArray[np.float32], axis: int, unit: int, alpha: float, step: float) -> NDArray[np.float32]:
    """αh with a unit at (α + step) h."""
    moved = h * np.float32(alpha)
    place = (slice(None),) * axis + (unit,)
    moved[place] = h[place] * np.float32(alpha + step)
    return moved
