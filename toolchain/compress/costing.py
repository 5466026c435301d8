"""What a network costs as a function of how many units of each group go, without cutting anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain import profile
from toolchain.compress.groups import Channels, Group
from toolchain.model import Model
from toolchain.ops.table import Shape, dims, find
from toolchain.provenance import signature

GATHER_BYTES = 160  # the node that picks places behind a flatten, without its names

Part = tuple[int, NDArray[np.int64], NDArray[np.int64]]

COUNTERS: tuple[str, ...] = ("params", "macs", "flash", "ram")


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


class Tally:
    """A sum over items (parameters, nodes) that counts anew only what has changed since it was last asked.

    items    what is summed, and which of them each group's width changes
    count    (item, shape) -> its share
    """

    def __init__(
        self, items: Sequence[Any], touched: Mapping[int, Collection[Any]], count: Callable[[Any, Shape], int]
    ) -> None:
        self.items, self.touched, self.count = items, touched, count
        self.removed: NDArray[np.int64] | None = None
        self.each: dict[Any, int] = {}
        self.total = 0

    def at(self, removed: NDArray[np.int64], shape: Shape) -> int:
        """The sum when these many units of each group are gone, [g]."""
        if self.removed is None:
            self.each = {item: self.count(item, shape) for item in self.items}
            self.total = sum(self.each.values())
        else:
            changed = np.flatnonzero(removed != self.removed).tolist()
            for item in {item for g in changed for item in self.touched.get(g, ()) if item in self.each}:
                before, self.each[item] = self.each[item], self.count(item, shape)
                self.total += self.each[item] - before
        self.removed = removed.copy()
        return self.total


class Arena:
    """Peak bytes of activations; what does not depend on widths is worked out once.

    parts  as in `Costing`
    """

    def __init__(self, model: Model, parts: Mapping[ir.Value, Sequence[Part]]) -> None:
        self.model, self.parts = model, parts
        self.placed: dict[frozenset[ir.Value], tuple[profile.Buffers, Callable[[NDArray[np.int64]], list[int]]]] = {}

    def at(self, removed: NDArray[np.int64], copied: frozenset[ir.Value]) -> int:
        """Bytes when these many units of each group go, [g], and values that are `copied` have buffers of their own."""
        if copied not in self.placed:
            found = profile.buffers(self.model, copied)
            self.placed[copied] = found, self.sizes(found.values, len(removed))
        buffers, sizes = self.placed[copied]
        return buffers.height(sizes(removed))

    def sizes(self, values: Sequence[ir.Value], groups: int) -> Callable[[NDArray[np.int64]], list[int]]:
        """Removed units [g] -> bytes of each value, as `profile.size_of` counts them, all at once."""
        known = [v.shape is not None and v.dtype is not None for v in values]
        bits = np.array([v.dtype.bitwidth if k else 0 for v, k in zip(values, known, strict=True)])  # type: ignore[union-attr]
        whole = np.array([abs(math.prod(dims(v))) if k else 0 for v, k in zip(values, known, strict=True)])
        axes = [(i, *part) for i, v in enumerate(values) for part in self.parts.get(v, ()) if known[i]]
        at = np.array([i for i, *_ in axes], np.int64)
        width = np.array([abs(dims(values[i])[axis]) for i, axis, *_ in axes], np.int64)
        positions = np.zeros((len(axes), groups), np.int64)
        for row, (_, _, there, counts) in zip(positions, axes, strict=True):
            row[there] = counts
        np.floor_divide.at(whole, at, width)

        def of(removed: NDArray[np.int64]) -> list[int]:
            count = whole.copy()
            np.multiply.at(count, at, width - positions @ removed)
            return (-(-count * bits // 8 // profile.ALIGNMENT) * profile.ALIGNMENT).tolist()

        return of


@dataclass(frozen=True)
class Costing:
    """Costs as a function of how many units of each group go.

    parts      value -> (axis, groups that lie there, positions that a unit of each of these has)
    flattens   in graph order: a channel takes its places along
    structure  bytes of the file around its tensors
    signature  bytes of what a cut file says of where it comes from, beyond what it said before
    tallies    params, macs, bytes of tensors, and of sizes that nodes have to be told then
    arena      peak bytes of activations
    """

    groups: tuple[Group, ...]
    parts: dict[ir.Value, list[Part]]
    flattens: tuple[Flatten, ...]
    structure: int
    signature: int
    tallies: Mapping[str, Tally]
    arena: Arena

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
            for axis, there, positions in self.parts.get(value, ()):
                size[axis] -= int(positions @ removed[there])
            return tuple(size)

        return of

    def costs(self, removed: NDArray[np.int64], quantities: Sequence[str] = COUNTERS) -> NDArray[np.float64]:
        """The quantities when these many units are asked to go, [q]."""
        forced = self.forced(removed)
        removed = np.maximum(removed, forced)
        shape, picked = self.shape(removed), self.picked(removed, forced)
        tally = lambda name: self.tallies[name].at(removed, shape)
        count = {
            "params": lambda: tally("params"),
            "macs": lambda: tally("macs"),
            "flash": lambda: profile.file_bytes(
                self.structure + (self.signature if removed.any() else 0),
                tally("tensors") + tally("sizes") + self.gathers(removed, picked),
            ),
            "ram": lambda: self.arena.at(removed, frozenset(picked)),
        }
        return np.array([float(count[q]()) for q in quantities])

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
    parts: dict[ir.Value, list[Part]] = {}
    size = np.array([len(g) for g in channels.groups], np.int64)
    for value, axis in labels.axes:
        which = owner[labels.of(value, axis)]
        there, counts = np.unique(which[which >= 0], return_counts=True)
        if len(there):
            parts.setdefault(value, []).append((axis, there, counts // size[there]))
    structure = profile.structure_bytes(model)
    said = profile.metadata_bytes(signature(model, "0" * 64)) - profile.metadata_bytes(model.ir.metadata_props)
    return Costing(
        channels.groups, parts, flattens(channels, owner), structure, said, tallies(model, parts),
        Arena(model, parts),
    )  # fmt: skip


def tallies(model: Model, parts: Mapping[ir.Value, Sequence[Part]]) -> dict[str, Tally]:
    """What is summed over parameters, and over nodes."""
    held = list(model.graph.initializers.values())
    nodes = [n for n in model.graph if all(v is None or v.shape is not None for v in (*n.inputs, *n.outputs))]
    told = [n for n in nodes if (entry := find(n)) is not None and entry.adds is not None]
    at = {v: {int(g) for _, there, _ in found for g in there} for v, found in parts.items()}
    values: dict[int, set[ir.Value]] = {}
    readers: dict[int, set[ir.Node]] = {}
    for value in held:
        for g in at.get(value, ()):
            values.setdefault(g, set()).add(value)
    for node in nodes:
        for g in {g for v in (*node.inputs, *node.outputs) if v is not None for g in at.get(v, ())}:
            readers.setdefault(g, set()).add(node)
    return {
        "params": Tally([v for v in held if profile.is_weight(v)], values, lambda v, shape: math.prod(shape(v))),
        "macs": Tally(nodes, readers, profile.node_macs),
        "tensors": Tally(held, values, lambda v, shape: profile.stored(v, shape(v))),
        "sizes": Tally(told, readers, lambda n, shape: find(n).adds(n, shape)),  # type: ignore[union-attr, misc]
    }


def least(
    units: NDArray[np.int64], places: NDArray[np.int64], owner: NDArray[np.int64], size: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Of each group [g], how many places go at least with any one of its units.

    units, places  of each row that is flattened: the unit it belongs to, and how many removable places it fills
    """
    found = np.zeros_like(size)
    known, at = np.unique(units, return_inverse=True)
    of_each = np.bincount(at, places).astype(np.int64)
    for g in np.unique(owner[known]):
        mine = of_each[owner[known] == g]
        if g >= 0 and len(mine) == size[g]:
            found[g] = mine.min()
    return found


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
            taken = least(labels.root[outer], (owner[places] == group).sum(axis=1), owner, size)
            found.setdefault(int(places.min()), []).append((values[int(inner.min())], group, taken))
    return tuple(
        Flatten(tuple(dict.fromkeys(v for v, _, _ in axes)), axes[0][1], np.stack([p for _, _, p in axes]))
        for axes in found.values()
    )
