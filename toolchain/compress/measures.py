"""Criteria that need no gradients: the weights that a unit owns, how it fires, for which classes, and chance."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.evidence import F64, Evidence, Scored, onto_units, scored, streamed
from toolchain.compress.rows import along_batch, is_by_sample, per_sample
from toolchain.errors import Unsupported, UsageError


# ---- weights -------------------------------------------------------------------------------------------------------
def magnitude(e: Evidence) -> Scored:
    """Mean |w| of the slices that a unit owns, summed over weights (Li et al. 2017, L1)."""
    return over_weights(e, mean_absolute)


def magnitude_l2(e: Evidence) -> Scored:
    """Root mean w² of the slices that a unit owns, summed over weights (the filter norm of He et al. 2018, L2)."""
    return over_weights(e, root_mean_square)


def over_weights(e: Evidence, measure: Callable[[NDArray[Any], int], F64]) -> Scored:
    """Sum a measure of every weight's slices over the slices that a unit owns; biases and norms are left out."""
    scores = {}
    for g in e.groups:
        total = np.zeros(len(g))
        for slot in g.slots:
            value = e.channels.values[slot.parameter]
            if value.const_value is None or len(value.const_value.shape) < 2:
                continue
            found = measure(value.const_value.numpy(), slot.axis)
            total += onto_units(g, e.channels, slot.parameter, slot.axis, found) / slot.rows
        scores[g.name] = total
    return scored(scores)


def mean_absolute(array: NDArray[Any], axis: int) -> F64:
    """Mean |w| of each slice along an axis; a function of its own, so that only one |w| is in memory at a time."""
    return np.abs(array).mean(axis=others(array, axis), dtype=np.float64)


def root_mean_square(array: NDArray[Any], axis: int) -> F64:
    """Root of the mean w² of each slice along an axis."""
    return np.sqrt(np.square(array).mean(axis=others(array, axis), dtype=np.float64))


def others(array: NDArray[Any], axis: int) -> tuple[int, ...]:
    """All axes but one."""
    return tuple(a for a in range(array.ndim) if a != axis)


# ---- activations ---------------------------------------------------------------------------------------------------
def activation(e: Evidence) -> Scored:
    """Mean |h| over samples and positions."""
    scores = over_activations(e, np.abs, "activation")
    return scored(scores, {n: s == 0 for n, s in scores.items()})


def apoz(e: Evidence) -> Scored:
    """One minus the average percentage of zeros, P(h > 0) over samples and positions (Hu et al. 2016, eq. 1)."""
    return scored(over_activations(e, lambda h: h > 0, "apoz"))


def over_activations(e: Evidence, read: Callable[[NDArray[Any]], NDArray[Any]], stage: str) -> dict[str, F64]:
    """The mean over samples and positions of what is read at every cut of a group, summed for its units."""
    cuts = list(dict.fromkeys(c for g in e.groups for c in g.cuts))
    sums: dict[tuple[str, int], F64] = {c: np.zeros(1) for c in cuts}
    n = len(e.labels)
    for _, found in streamed(e, [c for c, _ in cuts], stage):
        for (cut, axis), h in zip(cuts, found, strict=True):
            share = read(h).mean(axis=others(h, axis), dtype=np.float64) * h.shape[0] / n
            sums[cut, axis] = sums[cut, axis] + share
    return {
        g.name: sum((onto_units(g, e.channels, c, a, sums[c, a]) for c, a in g.cuts), np.zeros(len(g)))
        for g in e.groups
    }


def selectivity(e: Evidence) -> Scored:
    """s(k): how differently a unit fires for the classes, summed over its cuts (Garcia et al., eq. 4)."""
    classes = np.unique(e.labels)
    if len(classes) < 2:
        raise UsageError(
            f"criterion 'selectivity' compares classes, and the samples have {len(classes)}",
            way_out="Give samples of at least two classes, or use --criterion activation",
        )
    cuts = list(dict.fromkeys(c for g in e.groups for c in g.cuts))
    mixed = [c for c, _ in cuts if not is_by_sample(e.channels.values[c])]
    if mixed:
        raise Unsupported(
            f"'{mixed[0]}' does not keep the rows of a sample together", way_out="Use --criterion activation"
        )
    fires: dict[tuple[str, int], F64] = {}
    for part, found in streamed(e, [c for c, _ in cuts], "selectivity"):
        one_hot = (e.labels[part] == classes[:, None]).astype(np.float64)  # [k, b]
        for (cut, axis), h in zip(cuts, found, strict=True):
            value = e.channels.values[cut]
            is_on = np.moveaxis(h > 0, (along_batch(value), axis), (0, 1))
            by_row = is_on.reshape(len(is_on), is_on.shape[1], -1).mean(axis=2)
            by_class = one_hot @ by_row.reshape(one_hot.shape[1], per_sample(value), -1).mean(axis=1)
            fires[cut, axis] = fires.get((cut, axis), 0) + by_class
    counts = np.array([(e.labels == k).sum() for k in classes])[:, None]
    found = {c: selective(f / counts) for c, f in fires.items()}
    return scored(
        {
            g.name: sum((onto_units(g, e.channels, c, a, found[c, a]) for c, a in g.cuts), np.zeros(len(g)))
            for g in e.groups
        }
    )


def selective(occurrence: F64) -> F64:
    """s(k) of mean activation occurrences, [c, k] -> [k]: eq. 3 and 4 of Garcia et al., averaged over positions first.

    Means over positions and differences commute, so avg S^{k,c} = (C avg M^{k,c} − Σ_d avg M^{k,d}) / (C − 1). The sum
    over ordered pairs of |differences| comes from the sorted values: neighbour r splits them r + 1 to C − r − 1.
    """
    classes = len(occurrence)
    special = (classes * occurrence - occurrence.sum(axis=0)) / (classes - 1)
    ordered = np.sort(special, axis=0)
    total = np.zeros(occurrence.shape[1])
    for r, (low, high) in enumerate(pairwise(ordered)):
        total += 2 * (r + 1) * (classes - r - 1) * (high - low)
    return total


# ---- chance --------------------------------------------------------------------------------------------------------
def random(e: Evidence) -> Scored:
    """A seeded shuffle: what every other criterion has to beat."""
    generator = np.random.default_rng(e.seed)
    return scored({g.name: generator.permutation(len(g)).astype(np.float64) for g in e.groups}, seed=e.seed)
