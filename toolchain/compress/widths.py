"""From scores to widths to units: which go first, what widths may be, and what goes along."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.groups import Channels, Group
from toolchain.ops.units import Ids

I64 = NDArray[np.int64]


# units of a group from which widths are multiples of so many: onnxruntime's blocked kernels take 16 channels at a time,
# and a width between hands its neighbours over to slower ones (benchmarks/alignment.py)
STEPS = {"channel": ((32, 16), (16, 8), (8, 4)), "dense": ((16, 8), (8, 4)), "position": ()}


def steps_of(group: Group, align: str) -> int:
    """Widths are multiples of this: by the group's kind and size, and 1 behind a flatten."""
    if align == "off" or group.kind == "position":
        return 1
    if align != "auto":
        return min(int(align), len(group))
    return next((step for size, step in STEPS[group.kind] if len(group) >= size), 1)


def removal_order(
    group: Group, scores: NDArray[np.float64] | None, dead: NDArray[np.bool_] | None, gone: Sequence[int] = ()
) -> Ids:
    """Indices of a group's units, the first to go first: gone ones, dead ones, then by rising score; ties by place."""
    if scores is None:
        return np.arange(len(group))
    alive = np.ones(len(group), np.int64) if dead is None else (~dead).astype(np.int64)
    alive[list(gone)] = -1
    return np.lexsort((np.arange(len(group)), scores, alive))


def aligned(kept: I64, size: I64, step: I64, least: I64) -> I64:
    """Round widths down to their multiples; a whole group stays whole."""
    return np.where(kept == size, size, np.maximum(kept // step * step, least))


def chosen(channels: Channels, order: Sequence[Ids], counts: I64, gone: Sequence[Ids]) -> list[Ids]:
    """The units that go, this many of each group: channels first, then places, those of gone channels before others.

    gone  units that went before, by group: they stay gone
    """
    removed = list(gone)
    for late in (False, True):
        flags = channels.flags(channels.closure(units_of(channels, removed)))
        for i, (g, o) in enumerate(zip(channels.groups, order, strict=True)):
            if (g.kind == "position") is late:
                forced_first = o[np.argsort(~flags[g.units[o]], kind="stable")]
                removed[i] = np.union1d(forced_first[: counts[i]], gone[i])
    return removed


def units_of(channels: Channels, removed: Sequence[Ids]) -> Ids:
    """Labels of units given by their indices in each group."""
    return np.concatenate([np.zeros(0, np.int64), *(g.units[r] for g, r in zip(channels.groups, removed, strict=True))])


def with_orphans(channels: Channels, removed: list[Ids], step: I64, least: I64, free: NDArray[np.bool_]) -> list[Ids]:
    """A channel all of whose places behind a flatten are gone goes too, as far as its group's width stays aligned."""
    labels = channels.labels
    gone = channels.flags(channels.closure(units_of(channels, removed)))
    owner = {int(u): i for i, g in enumerate(channels.groups) if len(g.cuts) == 1 and free[i] for u in g.units}
    orphans: dict[int, list[int]] = {}
    for _, outer, inner in labels.nests:
        empty, units = gone[labels.root[inner]].all(axis=1), labels.root[outer]
        for unit in np.setdiff1d(units[empty], units[~empty]).tolist():  # all channels of the unit are empty
            if unit in owner and not gone[unit]:  # nobody but the flatten reads it
                orphans.setdefault(owner[unit], []).append(unit)
    for i, units in orphans.items():
        width = int((~gone[channels.groups[i].units]).sum())
        spare = width - max(-(-(width - len(units)) // step[i]) * step[i], least[i])
        gone[units[: max(int(spare), 0)]] = True
    return [np.flatnonzero(gone[g.units]) for g in channels.groups]
