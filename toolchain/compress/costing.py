"""What a network costs as a function of how many units of each group go, without cutting anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain import profile
from toolchain.compress.groups import Channels, Group
from toolchain.model import Model
from toolchain.ops.table import Shape, dims

GATHER_BYTES = 160  # the node that picks places behind a flatten, without its names

COUNTERS = ("params", "macs", "flash", "ram")


@dataclass(frozen=True)
class Costing:
    """Costs as a function of how many units of each group go.

    parts      value -> (axis, positions that a unit of each group has there, [g])
    nested     (outer group, inner group, places): a channel takes this many places behind a flatten along
    structure  bytes of the file around its tensors
    """

    model: Model
    groups: tuple[Group, ...]
    parts: dict[ir.Value, list[tuple[int, NDArray[np.int64]]]]
    nested: tuple[tuple[int, int, int], ...]
    structure: int

    def with_places(self, removed: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts of units that really go, [g]: at least the places of the channels that go."""
        removed = removed.copy()
        for outer, inner, places in self.nested:
            removed[inner] = max(removed[inner], removed[outer] * places)
        return removed

    def shape(self, removed: NDArray[np.int64]) -> Shape:
        """Dimensions of a value after this many units of each group are gone, [g]."""

        def of(value: ir.Value) -> tuple[int, ...]:
            size = list(dims(value))
            for axis, positions in self.parts.get(value, ()):
                size[axis] -= int(positions @ removed)
            return tuple(size)

        return of

    def costs(self, removed: NDArray[np.int64], quantities: Sequence[str] = COUNTERS) -> NDArray[np.float64]:
        """The quantities when these many units are asked to go, [q]."""
        removed = self.with_places(removed)
        shape = self.shape(removed)
        count = {
            "params": lambda: profile.params(self.model, shape),
            "macs": lambda: profile.macs(self.model, shape),
            "flash": lambda: self.structure + profile.tensor_bytes(self.model, shape) + self.gathers(removed),
            "ram": lambda: profile.arena(self.model, shape),
        }
        return np.array([float(count[q]()) for q in quantities])

    def gathers(self, removed: NDArray[np.int64]) -> int:
        """Bytes of the gathers behind flattens."""
        total = 0
        for outer, inner, places in self.nested:
            if removed[inner] > removed[outer] * places:
                group = self.groups[inner]
                total += 8 * (len(group) - int(removed[inner])) + GATHER_BYTES + 7 * len(group.cuts[0][0])
        return total


def costing(model: Model, channels: Channels) -> Costing:
    """Count once how many positions each group has on every axis."""
    labels = channels.labels
    owner = np.full(len(labels.root), -1)
    for i, g in enumerate(channels.groups):
        owner[g.units] = i
    parts: dict[ir.Value, list[tuple[int, NDArray[np.int64]]]] = {}
    for value, axis in labels.axes:
        which = owner[labels.of(value, axis)]
        counts = np.bincount(which[which >= 0], minlength=len(channels.groups))
        if counts.any():
            each = np.array([c // len(g) for c, g in zip(counts, channels.groups, strict=True)])
            parts.setdefault(value, []).append((axis, each))
    nested = set()
    for _, outer, inner in labels.nests:
        for o, i in zip(owner[labels.root[outer]].tolist(), owner[labels.root[inner[:, 0]]].tolist(), strict=True):
            if o >= 0 and i >= 0:
                nested.add((o, i, inner.shape[1]))
    return Costing(model, channels.groups, parts, tuple(sorted(nested)), profile.structure_bytes(model))
