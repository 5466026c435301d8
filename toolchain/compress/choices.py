"""Which way each op passes units where it has several: heads or their width, whole groups or the same row of each.

First what cannot help is left out: a way whose positions are frozen or all one unit, whatever else is chosen. Then ways
are tried together (attention needs four reshapes to agree), then kind by kind, and what frees the most parameters
stays. The number of trials is bounded; each is a merge of arrays, without another walk over the graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.ops.units import Draft, Ids, Labels, Units, Way, merge

TRIALS = 64
GAIN = 1e-3  # of the parameters: less is no reason to leave an earlier way

Picks = dict[int, int]


@dataclass(frozen=True)
class Weights:
    """The axes of all float parameters, laid end to end.

    ids     of all their positions
    starts  where each axis begins in ids
    first   which axis is the first of each parameter
    size    elements of each parameter
    """

    ids: Ids
    starts: Ids
    first: Ids
    size: NDArray[np.float64]

    def kept(self, labels: Labels) -> float:
        """Elements that stay when half of every axis goes that can."""
        if not len(self.starts):
            return 0.0
        root = labels.root[self.ids]
        free = np.add.reduceat(~labels.is_frozen(root), self.starts) / np.diff(np.append(self.starts, len(root)))
        several = np.minimum.reduceat(root, self.starts) != np.maximum.reduceat(root, self.starts)
        return float(np.multiply.reduceat(1 - free * several / 2, self.first) @ self.size)


def weights(graph: ir.Graph, units: Units) -> Weights:
    """Every parameter that some rule knows."""
    ids, first, size, count = [np.zeros(0, np.int64)], [], [], 0
    for value in graph.initializers.values():
        mine = [units.axes[value, a] for a in range(len(value.shape or ())) if (value, a) in units.axes]
        mine = [a for a in mine if a.size]
        if mine and value.dtype is not None and value.dtype.is_floating_point():
            first.append(count)
            size.append(float(np.prod([d for d in value.shape or () if isinstance(d, int)])))
            ids += mine
            count += len(mine)
    starts = np.cumsum([0, *(len(i) for i in ids[1:])])[:-1]
    return Weights(np.concatenate(ids), starts, np.array(first, np.int64), np.array(size))


def chosen(graph: ir.Graph, units: Units) -> Labels:
    """The labels under the choices that free the most parameters."""
    draft, open_ways = narrowed(units)
    best = {c: ways[0] for c, ways in open_ways.items()}
    labels = draft.labels(best)
    if not open_ways:
        return labels
    measure = weights(graph, units)
    least, seen = measure.kept(labels), {tuple(best.values())}
    for picks in trials(units, open_ways, best):
        if (key := tuple(picks.values())) in seen:
            continue
        seen.add(key)
        if len(seen) > TRIALS:
            break
        other = draft.labels(picks)
        kept = measure.kept(other)
        if kept < least * (1 - GAIN):
            labels, least = other, kept
            best.update(picks)
    return labels


def narrowed(units: Units) -> tuple[Draft, dict[int, list[int]]]:
    """What is left to choose, {choice: ways that may help}, and the draft with all else chosen."""
    draft = units.draft()
    left = {c: list(range(len(choice.ways))) for c, choice in enumerate(units.choices)}
    while left:
        labels = draft.labels({})
        left = {c: [w for w in ways if may_help(labels, units.choices[c].ways[w])] for c, ways in left.items()}
        settled = {c: ways[0] if ways else 0 for c, ways in left.items() if len(ways) < 2}
        if not settled:
            break
        draft = draft.having(settled)
        left = {c: ways for c, ways in left.items() if c not in settled}
    return draft, left


def may_help(labels: Labels, way: Way) -> bool:
    """Whether some position of the way is free, and not one with all others: no further choice can undo either."""
    a, b = (labels.root[np.concatenate([t[side].ravel() for t in way.ties])] for side in (0, 1))
    found, local = np.unique(np.concatenate([a, b]), return_inverse=True)
    root = merge(np.arange(len(found)), local[: len(a)], local[len(a) :])
    frozen = np.zeros(len(found), bool)
    np.logical_or.at(frozen, root, labels.is_frozen(found))
    return len(np.unique(root)) > 1 and not frozen[root].all()


def trials(units: Units, open_ways: dict[int, list[int]], best: Picks) -> Iterator[Picks]:
    """Picks to try, each a change of the best so far: all of one width, or of one place, together; then each kind."""
    widths = {c: [len(np.unique(units.choices[c].ways[w].ties[0][1])) for w in ways] for c, ways in open_ways.items()}
    for size in sorted({s for found in widths.values() for s in found}, reverse=True):
        for turn in (1, -1):
            able = {c: dict(list(zip(widths[c], open_ways[c], strict=True))[::-turn]) for c in open_ways}
            yield best | {c: ways[size] for c, ways in able.items() if size in ways}
    for w in range(max(map(len, open_ways.values()))):
        yield best | {c: ways[w] for c, ways in open_ways.items() if w < len(ways)}
        yield best | {c: ways[-1 - w] for c, ways in open_ways.items() if w < len(ways)}
    kinds: dict[object, list[int]] = {}
    for c in open_ways:
        kinds.setdefault(units.choices[c].kind, []).append(c)
    for alike in sorted(kinds.values(), key=len, reverse=True):
        for w in sorted({w for c in alike for w in open_ways[c]}):
            yield best | {c: w for c in alike if w in open_ways[c]}
    for c, ways in open_ways.items():
        for w in ways:
            yield best | {c: w}
