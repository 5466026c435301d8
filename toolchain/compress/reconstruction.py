"""What the next layer could not rebuild without a unit: least squares decides who goes, in greedy order.

A layer Y = X W + b that reads unit u on the columns U and refits its other columns when u goes loses

    ΔE_u = tr(W_Uᵀ ((G⁻¹)_UU)⁻¹ W_U),   G = Xᵀ X + λ,

of ‖Y‖² on the samples: the optimal brain surgeon's error (Hassibi & Stork 1993, eq. 5) of a block of weights at once.
The unit with the least error over all layers that read it goes first; then G⁻¹ and W are those of what is left, so that
of two alike one stays. Errors only rise as others go: a unit is looked at again only when it may be the least.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from toolchain.compress.equations import Sums
from toolchain.compress.evidence import F64, Evidence, Scored, scored, streamed
from toolchain.compress.groups import Group
from toolchain.compress.layers import bias_of, inputs_at, is_linear, matrix, outputs_at, positions, unit_axis
from toolchain.ops.units import Ids

RIDGE = 1e-2  # of the mean diagonal: few samples must not make units look alike
ROWS_PER_COLUMN = 4
CANDIDATES = 64  # units among which the least is sought before all are looked at again


@dataclass
class Reader:
    """A layer that reads units of a group, the columns of other groups eliminated: what changes as units go.

    inverse  (G⁻¹) of the columns that are left, [c, c]
    weights  W there, refitted, over ‖Y‖, [c, m]
    columns  those of each unit, [u, k]; −1 fills up units that it reads on fewer
    """

    inverse: F64
    weights: F64
    columns: Ids

    def errors(self, units: Ids) -> F64:
        """ΔE of each of these units alone over ‖Y‖², [u], given all that went before."""
        mine = self.columns[units]
        is_missing = mine < 0
        block = self.inverse[mine[:, :, None], mine[:, None, :]]
        block[is_missing[:, :, None] | is_missing[:, None, :]] = 0
        block[(*np.nonzero(is_missing), np.nonzero(is_missing)[1])] = 1
        w = np.where(is_missing[:, :, None], 0, self.weights[mine])
        return (w * np.linalg.solve(block, w)).sum(axis=(1, 2))

    def among(self, units: Ids) -> tuple[Reader, Ids]:
        """The same of a few units, as if no other could go, and the columns of the whole that it has."""
        mine = self.columns[units]
        there = mine[mine >= 0]
        place = np.full(mine.shape, -1)
        place[mine >= 0] = np.arange(there.size)
        return Reader(self.inverse[np.ix_(there, there)], self.weights[there], place), there

    def remove(self, columns: Ids) -> None:
        """Refit without some columns, in place."""
        if columns.size:
            across = self.inverse[:, columns]
            share = np.linalg.solve(across[columns], np.hstack([across.T, self.weights[columns]]))
            self.inverse -= across @ share[:, : len(self.inverse)]
            self.weights -= across @ share[:, len(self.inverse) :]
            self.weights[columns] = 0
            self.inverse[columns] = 0
            self.inverse[:, columns] = 0
            self.inverse[columns, columns] = 1


def reconstruction(e: Evidence) -> Scored:
    """ΔE over ‖Y‖² when a unit goes in greedy order, summed over the layers that read it: rises in that order.

    The columns of a convolution are its taps on a channel, so that all taps of a channel go at once.
    """
    read: dict[str, list[Reader]] = {g.name: [] for g in e.groups}
    for node in e.model.graph:
        mine = {g.name: c for g in e.groups if (c := columns_of(e, node, g)) is not None}
        if mine:
            sums = second_moments(e, node)
            for name, columns in mine.items():
                read[name] += [reader(node, sums, b, of) for b, of in enumerate(columns) if (of >= 0).any()]
    scores = {g.name: greedy(read[g.name], len(g)) for g in e.groups if read[g.name]}
    unread = [g.name for g in e.groups if not read[g.name]]
    return scored(scores, rule=f"ridge {RIDGE:g}, greedy", unread=unread)


def columns_of(e: Evidence, node: ir.Node, group: Group) -> list[Ids] | None:
    """Columns of a layer's weight that belong to each unit of a group, [u, k] for each block; None for none of them.

    None too for a depthwise convolution: what it cannot make without a unit goes with the unit.
    """
    if not is_linear(node, e.model):
        return None
    x, labels = node.inputs[0], e.channels.labels
    assert x is not None
    if (x, unit_axis(node, x)) not in labels.axes:
        return None
    at = labels.of(x, unit_axis(node, x))
    unit = np.full(len(labels.root), -1)
    unit[group.units] = np.arange(len(group))
    for _, outer, inner in labels.nests:  # a channel owns its places behind a flatten
        owner = unit[labels.root[outer]]
        unit[labels.root[inner][owner >= 0]] = owner[owner >= 0][:, None]
    blocks, columns, _ = matrix(node).shape
    taps = columns * blocks // len(at)
    is_depthwise = blocks > 1 and columns == taps
    if is_depthwise or not (unit[at] >= 0).any():
        return None
    return [placed(block, len(group), taps) for block in unit[at].reshape(blocks, -1)]


def placed(unit: Ids, units: int, taps: int) -> Ids:
    """Columns [u, k] of each unit, where column block i of so many taps belongs to unit[i]."""
    widest = int(np.bincount(unit[unit >= 0], minlength=units).max(initial=0))
    columns = np.full((units, widest, taps), -1)
    for u in range(units):
        places = np.flatnonzero(unit == u)
        columns[u, : len(places)] = places[:, None] * taps + np.arange(taps)
    return columns.reshape(units, -1)


def second_moments(e: Evidence, node: ir.Node) -> Sums:
    """Normal equations of a layer's own output on seeded positions of all samples."""
    blocks, columns, outputs = matrix(node).shape
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None
    sums = Sums.empty(blocks, columns, outputs, bias_of(node) is not None)
    places = max(1, -(-max(ROWS_PER_COLUMN * columns, 8192) // len(e.labels)))
    generator = np.random.default_rng(e.seed)
    for _, (h, made) in streamed(e, [str(x.name), str(y.name)], node.name or str(y.name)):
        pick = generator.permutation(positions(node, made))[:places]
        out = outputs_at(node, made, pick)
        sums.add(inputs_at(node, h, made.shape[2:], pick), out, out)
    return sums


def reader(node: ir.Node, sums: Sums, block: int, columns: Ids) -> Reader:
    """The state before any unit went; columns that no unit of the group owns are free to be refitted."""
    gram = sums.gram[block].copy()
    c = len(gram) - 1
    gram[np.arange(c), np.arange(c)] += RIDGE * np.trace(gram[:c, :c]) / c + 1e-12
    gram[c, c] += 1e-12
    mine = np.unique(columns[columns >= 0])
    place = np.full(c + 1, -1)
    place[mine] = np.arange(len(mine))
    w = matrix(node)[block].astype(np.float64)[mine] / max(sums.power, 1e-30) ** 0.5
    if w.shape[1] > len(w):  # only W Wᵀ counts
        w = root(w @ w.T)
    inverse = np.linalg.inv(gram)[np.ix_(mine, mine)]
    return Reader(inverse, w, np.where(columns >= 0, place[columns], -1))


def root(a: F64) -> F64:
    """R with R Rᵀ = A, positive semidefinite."""
    values, vectors = np.linalg.eigh(a)
    return vectors * np.sqrt(np.maximum(values, 0))


def greedy(readers: list[Reader], units: int) -> F64:
    """ΔE of each unit at its turn, [u], the least of those left first.

    Among the few least of a round the next goes without a look at the others, as long as its error is no more than any
    of theirs was: they can only have risen.
    """
    scores = np.zeros(units)
    left = np.arange(units)
    while left.size:
        errors = sum((r.errors(left) for r in readers), np.zeros(len(left)))
        order = np.argsort(errors, kind="stable")
        few, bound = left[order[:CANDIDATES]], errors[order[CANDIDATES:]].min(initial=np.inf)
        gone = [(int(few[i]), error) for i, error in among(readers, few, bound)]
        for unit, error in gone:
            scores[unit] = error
        went = np.array([unit for unit, _ in gone])
        for r in readers:
            columns = r.columns[went]
            r.remove(columns[columns >= 0])
        left = np.setdiff1d(left, went)
    return np.maximum(scores, 0)


def among(readers: list[Reader], units: Ids, bound: float) -> Iterator[tuple[int, float]]:
    """(index in `units`, ΔE) of those that go in turn, the first in any case, others while their error is in bound."""
    small = [r.among(units)[0] for r in readers]
    left = np.arange(len(units))
    while left.size:
        errors = sum((r.errors(left) for r in small), np.zeros(len(left)))
        k = int(np.argmin(errors))
        if errors[k] > bound and len(left) < len(units):
            return
        i = int(left[k])
        left = np.delete(left, k)
        yield i, float(errors[k])
        for r in small:
            r.remove(r.columns[i][r.columns[i] >= 0])
