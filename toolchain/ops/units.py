"""Which tensor positions live and die together: union-find over the positions of every axis.

Every position of every axis has an id. Channel rules tie ids that must be kept or removed together (`tie`), state
that an outer position owns inner ones (`nest`: a conv channel owns its places behind a flatten), that there are several
ways to pass units (`choose`: a reshape that splits an axis), or say nothing: what no rule mentions is frozen, with the
op as the reason.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Axis = tuple[ir.Value, int]
Nest = tuple[Axis, Ids, Ids]


@dataclass(frozen=True)
class Way:
    """One of several ways in which an op can pass units: the axes that it passes, and what it ties."""

    axes: tuple[Axis, ...]
    ties: tuple[tuple[Ids, Ids], ...]


@dataclass(frozen=True)
class Choice:
    """An op that passes units in one of several ways; in each, the axes of the other ways alone are frozen.

    kind   choices of a kind stand alike in the network: (op, shapes)
    ranks  axis -> rank of the reason why it is frozen where no way passes it
    """

    kind: Hashable
    ways: tuple[Way, ...]
    ranks: dict[Axis, int]


class Units:
    """Ids of axis positions, and what the channel rules say about them."""

    def __init__(self) -> None:
        self.choices: list[Choice] = []
        self.axes: dict[Axis, Ids] = {}
        self.touched: set[Axis] = set()
        self._count = 0
        self._ties: list[tuple[Ids, Ids]] = []
        self._nests: list[Nest] = []
        self._reasons: list[str] = []
        self._frozen: dict[Axis, int] = {}

    def __getitem__(self, key: Axis) -> Ids:
        """Ids along an axis, [size]; [0] along the batch, whose positions are samples and not units."""
        ids = self.ids(*key)
        self.touch(*key)
        return ids

    def ids(self, value: ir.Value, axis: int) -> Ids:
        """The same ids, for a way that may not be taken."""
        assert value.shape is not None
        key = (value, axis % len(value.shape))
        if key not in self.axes:
            size = value.shape[key[1]]
            size = size if isinstance(size, int) else 0
            self.axes[key] = np.arange(self._count, self._count + size)
            self._count += size
        return self.axes[key]

    def touch(self, value: ir.Value, axis: int) -> None:
        """The op minds no position of this axis, and ties it to no other."""
        self.ids(value, axis)
        self.touched.add((value, axis % len(value.shape or ())))

    def tie(self, a: Ids, b: Ids) -> None:
        """a[i] and b[i] are kept or removed together."""
        if a.shape != b.shape:
            raise ValueError(f"a channel rule ties {a.shape} with {b.shape} positions")
        self._ties.append((a, b))

    def nest(self, value: ir.Value, axis: int, inner: Ids) -> None:
        """Position c of this axis, [C], can go only together with all of its inner positions, [C, k]."""
        self._nests.append(((value, axis), self[value, axis], inner))

    def choose(self, kind: Hashable, reason: str, ways: Sequence[Way]) -> None:
        """One of these ways will hold; the reason is told of axes that are passed in another."""
        for value, axis in (key for way in ways for key in way.axes):
            self.touch(value, axis)
        for a, b in (tie for way in ways for tie in way.ties):
            if a.shape != b.shape:
                raise ValueError(f"a channel rule ties {a.shape} with {b.shape} positions")
        if len(ways) == 1:
            self._ties += ways[0].ties
        elif ways:
            ranks = {key: len(self._reasons) for way in ways for key in way.axes}
            self._reasons.append(reason)
            self.choices.append(Choice(kind, tuple(ways), ranks))

    def freeze(self, value: ir.Value, axis: int, reason: str) -> None:
        """Positions along this axis stay, for this reason; the first reason given is the one told."""
        if (value, axis) not in self._frozen:
            if not self._reasons or self._reasons[-1] != reason:
                self._reasons.append(reason)
            self._frozen[value, axis] = len(self._reasons) - 1

    def solve(self) -> Labels:
        """The labels where every op takes the first of its ways."""
        return self.draft().labels(dict.fromkeys(range(len(self.choices)), 0))

    def draft(self) -> Draft:
        """What holds whatever ways are chosen."""
        root = merge(np.arange(self._count), _joined(self._ties, 0), _joined(self._ties, 1))
        reason = np.full(self._count, len(self._reasons), np.int64)
        for key, rank in self._frozen.items():
            if key in self.axes:
                ids = self.axes[key]
                reason[ids] = np.minimum(reason[ids], rank)
        return Draft(self, root, reason, tuple(self._nests), tuple(self._reasons), self._frozen)


@dataclass(frozen=True)
class Draft:
    """Units with some choices open.

    root    id -> label by what is tied so far
    reason  id -> rank of the reason that freezes it so far
    """

    units: Units
    root: Ids
    reason: Ids
    nests: tuple[Nest, ...]
    reasons: tuple[str, ...]
    frozen: dict[Axis, int]

    def having(self, picks: Mapping[int, int]) -> Draft:
        """The draft with these choices made, {choice: way}."""
        choices, reason = self.units.choices, self.reason.copy()
        ties = [t for c, w in picks.items() for t in choices[c].ways[w].ties]
        for c, w in picks.items():
            passed = set(choices[c].ways[w].axes)
            for key, rank in choices[c].ranks.items():
                if key not in passed:
                    ids = self.units.axes[key]
                    reason[ids] = np.minimum(reason[ids], rank)
        return replace(self, root=merge(self.root, _joined(ties, 0), _joined(ties, 1)), reason=reason)

    def labels(self, picks: Mapping[int, int]) -> Labels:
        """Merge what was tied and close the frozen set under ties and nesting."""
        made = self.having(picks)
        root = made.root
        single = [n for n in self.nests if n[2].size and (root[n[2]] == root[n[2][:, :1]]).all()]
        if single:  # every place of a channel is one unit: then the channel is that unit, and no gather is needed
            outer = np.concatenate([o for _, o, _ in single])
            root = merge(root, outer, np.concatenate([i[:, 0] for _, _, i in single]))
        nests = [n for n in self.nests if not any(n is s for s in single)]
        reason = np.full(len(root), len(self.reasons), np.int64)
        np.minimum.at(reason, root, made.reason)
        for _, outer, inner in reversed(nests):  # the last flatten first: its places may be channels of one before
            np.minimum.at(reason, root[outer], reason[root[inner]].min(axis=1))
        named = {key: self.reasons[rank] for key, rank in self.frozen.items()}
        return Labels(root, self.units.axes, nests, self.reasons, named, reason)


@dataclass(frozen=True)
class Labels:
    """The solved units: a label for every position, and why some may not be removed.

    root     id -> label
    axes     (value, axis) -> ids, [size]
    nests    ((value, axis), its ids [C], ids of the inner positions that they own [C, k])
    reasons  why something may not be removed, in the order of the graph
    named    (value, axis) -> why no rule passes it
    rank     label -> index of its reason in `reasons`; len(reasons) for what may be removed
    """

    root: Ids
    axes: dict[Axis, Ids]
    nests: list[Nest]
    reasons: tuple[str, ...]
    named: dict[Axis, str]
    rank: Ids

    def of(self, value: ir.Value, axis: int) -> Ids:
        """Unit of each position along the axis, [size]."""
        assert value.shape is not None
        return self.root[self.axes[value, axis % len(value.shape)]]

    def is_frozen(self, units: Ids) -> NDArray[np.bool_]:
        """Which of these units may not be removed."""
        return self.rank[units] < len(self.reasons)

    def why(self, value: ir.Value, axis: int) -> str | None:
        """Why some position of this axis may not be removed, or None."""
        if (value, axis) not in self.axes:
            return self.named.get((value, axis), "no node reads it")
        rank = int(self.rank[self.of(value, axis)].min(initial=len(self.reasons)))
        return self.reasons[rank] if rank < len(self.reasons) else None


def _joined(pairs: Sequence[tuple[Ids, Ids]], side: int) -> Ids:
    return np.concatenate([np.zeros(0, np.int64), *(p[side].ravel() for p in pairs)])


def merge(root: Ids, a: Ids, b: Ids) -> Ids:
    """Connected components: the smallest id of each, by hooking and pointer jumping (Shiloach & Vishkin 1982)."""
    root = root.copy()
    while True:
        x, y = root[a], root[b]
        differ = x != y
        if not differ.any():
            return root
        a, b, x, y = a[differ], b[differ], x[differ], y[differ]
        np.minimum.at(root, np.maximum(x, y), np.minimum(x, y))
        while not np.array_equal(up := root[root], root):
            root = up
