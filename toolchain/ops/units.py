"""Which tensor positions live and die together: union-find over the positions of every axis.

Every position of every axis has an id. Channel rules tie ids that must be kept or removed together (`tie`), state
that an outer position owns inner ones (`nest`: a conv channel owns its places behind a flatten), or say nothing: what
no rule mentions is frozen, with the op as the reason.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Axis = tuple[ir.Value, int]
Nest = tuple[Axis, Ids, Ids]


class Units:
    """Ids of axis positions, and what the channel rules say about them."""

    def __init__(self, choices: dict[Hashable, int] | None = None) -> None:
        self.choices = choices or {}
        self.ambiguous: list[tuple[Hashable, list[Axis]]] = []
        self.axes: dict[Axis, Ids] = {}
        self.touched: set[Axis] = set()
        self._count = 0
        self._ties: list[tuple[Ids, Ids]] = []
        self._nests: list[Nest] = []
        self._reasons: dict[Axis, str] = {}

    def __getitem__(self, key: Axis) -> Ids:
        """Ids along an axis, [size]; [0] along the batch, whose positions are samples and not units."""
        value, axis = key
        assert value.shape is not None
        key = (value, axis % len(value.shape))
        self.touched.add(key)
        if key not in self.axes:
            size = value.shape[key[1]]
            size = size if isinstance(size, int) else 0
            self.axes[key] = np.arange(self._count, self._count + size)
            self._count += size
        return self.axes[key]

    def touch(self, value: ir.Value, axis: int) -> None:
        """The op minds no position of this axis, and ties it to no other."""
        self[value, axis]

    def tie(self, a: Ids, b: Ids) -> None:
        """a[i] and b[i] are kept or removed together."""
        if a.shape != b.shape:
            raise ValueError(f"a channel rule ties {a.shape} with {b.shape} positions")
        self._ties.append((a, b))

    def nest(self, value: ir.Value, axis: int, inner: Ids) -> None:
        """Position c of this axis, [C], can go only together with all of its inner positions, [C, k]."""
        self._nests.append(((value, axis), self[value, axis], inner))

    def choose(self, key: Hashable, axes: list[Axis]) -> int:
        """Which of the axes that a reshape splits or merges carries the units: an index into `axes`."""
        if len(axes) > 1:
            self.ambiguous.append((key, axes))
        return self.choices.get(key, 0)

    def freeze(self, value: ir.Value, axis: int, reason: str) -> None:
        """Positions along this axis stay, for this reason; the first reason given is the one told."""
        self._reasons.setdefault((value, axis), reason)

    def solve(self) -> Labels:
        """Merge what was tied and close the frozen set under ties and nesting."""
        root = np.arange(self._count)
        a, b = _joined(self._ties, 0), _joined(self._ties, 1)
        root = merge(root, a, b)
        single = [n for n in self._nests if n[2].size and (root[n[2]] == root[n[2][:, :1]]).all()]
        if single:  # every place of a channel is one unit: then the channel is that unit, and no gather is needed
            root = merge(
                root, np.concatenate([o for _, o, _ in single]), np.concatenate([i[:, 0] for _, _, i in single])
            )
        nests = [n for n in self._nests if not any(n is s for s in single)]
        reason = np.full(self._count, len(self._reasons), np.int64)
        for rank, (axis, _) in enumerate(self._reasons.items()):
            if axis in self.axes:
                np.minimum.at(reason, root[self.axes[axis]], rank)
        for _, outer, inner in reversed(nests):  # the last flatten first: its places may be channels of one before
            np.minimum.at(reason, root[outer], reason[root[inner]].min(axis=1))
        return Labels(root, self.axes, nests, dict(self._reasons), reason)


@dataclass(frozen=True)
class Labels:
    """The solved units: a label for every position, and why some may not be removed.

    root     id -> label
    axes     (value, axis) -> ids, [size]
    nests    ((value, axis), its ids [C], ids of the inner positions that they own [C, k])
    reasons  (value, axis) -> why no rule passes it
    rank     label -> index of its reason in `reasons`; len(reasons) for what may be removed
    """

    root: Ids
    axes: dict[Axis, Ids]
    nests: list[Nest]
    reasons: dict[Axis, str]
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
            return self.reasons.get((value, axis), "no node reads it")
        rank = int(self.rank[self.of(value, axis)].min(initial=len(self.reasons)))
        return list(self.reasons.values())[rank] if rank < len(self.reasons) else None


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
