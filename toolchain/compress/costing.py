"""What a network costs as a function of how many units of each group go, without cutting anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain import profile
from toolchain.compress.groups import Channels, Group
from toolchain.model import Model
from toolchain.ops.table import Shape, dims, find

GATHER_BYTES = 160  # the node that picks places behind a flatten, without its names

COUNTERS = ("params", "macs", "flash", "ram")


@dataclass(frozen=True)
class Flatten:
    """Places behind a flatten, and what they owe to the channels in front of it.

    values  the flattened value; several where their places are the same units
    inner   the group of the places
    places  places that a unit of each group takes along, for each axis that was flattened, [a, g]
    """

    values: tuple[ir.Value, ...]
    inner: int
    places: NDArray[np.int64]

    def forced(self, removed: NDArray[np.int64]) -> int:
        """Places that go at least when these many units of each group go; axes may take the same ones."""
        return int((self.places @ removed).max())


@dataclass(frozen=True)
class Costing:
    """Costs as a function of how many units of each group go.

    parts      value -> (axis, positions that a unit of each group has there, [g])
    flattens   in graph order: a channel takes its places along
    structure  bytes of the file around its tensors
    """

    model: Model
    groups: tuple[Group, ...]
    parts: dict[ir.Value, list[tuple[int, NDArray[np.int64]]]]
    flattens: tuple[Flatten, ...]
    structure: int

    def forced(self, removed: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places that channels take along, [g], when these many units go."""
        least = np.zeros_like(removed)
        for flatten in self.flattens:
            least[flatten.inner] += flatten.forced(np.maximum(removed, least))
        return least

    def with_places(self, removed: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts of units that really go, [g]: at least the places of the channels that go."""
        return np.maximum(removed, self.forced(removed))

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
        forced = self.forced(removed)
        removed = np.maximum(removed, forced)
        shape, picked = self.shape(removed), self.picked(removed, forced)
        count = {
            "params": lambda: profile.params(self.model, shape),
            "macs": lambda: profile.macs(self.model, shape),
            "flash": lambda: profile.file_bytes(
                self.structure,
                profile.tensor_bytes(self.model, shape) + self.gathers(removed, picked) + self.added(shape),
            ),
            "ram": lambda: profile.arena(self.model, shape, picked),
        }
        return np.array([float(count[q]()) for q in quantities])

    def added(self, shape: Shape) -> int:
        """Bytes of sizes that nodes have to be told now."""
        growing = ((n, entry) for n in self.model.graph if (entry := find(n)) is not None and entry.adds is not None)
        known = ((n, e) for n, e in growing if all(v is None or v.shape is not None for v in (*n.inputs, *n.outputs)))
        return sum(e.adds(n, shape) for n, e in known if e.adds is not None)

    def picked(self, removed: NDArray[np.int64], forced: NDArray[np.int64]) -> dict[ir.Value, int]:
        """Flattened values behind which a gather has to pick places, and its group."""
        return {v: f.inner for f in self.flattens if removed[f.inner] > forced[f.inner] for v in f.values}

    def gathers(self, removed: NDArray[np.int64], picked: Mapping[ir.Value, int]) -> int:
        """Bytes of the gathers behind flattens, a few more than they take."""
        indices = sum(8 * (len(self.groups[i]) - int(removed[i])) for i in picked.values())
        return indices + sum(GATHER_BYTES + 7 * len(str(v.name)) for v in picked)


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
    return Costing(model, channels.groups, parts, flattens(channels, owner), profile.structure_bytes(model))


def flattens(channels: Channels, owner: NDArray[np.int64]) -> tuple[Flatten, ...]:
    """Every flatten whose places may go; owner says which group a label belongs to, -1 for none."""
    labels = channels.labels
    size = np.array([len(g) for g in channels.groups], np.int64)
    values = {int(ids[0]): value for (value, _), ids in labels.axes.items() if ids.size}
    found: dict[int, list[tuple[ir.Value, int, NDArray[np.int64]]]] = {}
    for _, outer, inner in labels.nests:
        places = labels.root[inner]
        group = int(owner[places[0, 0]])
        if group >= 0:
            owners = owner[labels.root[outer]]
            taken = np.bincount(owners[owners >= 0], minlength=len(size)) * inner.shape[1] // np.maximum(size, 1)
            found.setdefault(int(places.min()), []).append((values[int(inner.min())], group, taken))
    return tuple(
        Flatten(tuple(dict.fromkeys(v for v, _, _ in axes)), axes[0][1], np.stack([p for _, _, p in axes]))
        for axes in found.values()
    )
