"""What a network costs as a function of how many units of each group go, without cutting anything."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain import profile
from toolchain.compress.dimensions import Dimensions, Part, Stored, dimensions, stored
from toolchain.compress.groups import Channels, Group
from toolchain.model import Model
from toolchain.ops.table import Shape, find

GATHER_BYTES = 160  # the node that picks places behind a flatten, without its names

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


@dataclass(frozen=True)
class Costing:
    """Costs as a function of how many units of each group go.

    sizes      dimensions of all values
    weights    which of them are parameters
    tensors    bytes of those in the file
    flattens   in graph order: a channel takes its places along
    structure  bytes of the file around its tensors
    tallies    macs, and bytes of sizes that nodes have to be told then
    buffers    {values behind which a gather picks: who needs a buffer then}
    """

    model: Model
    groups: tuple[Group, ...]
    sizes: Dimensions
    weights: NDArray[np.int64]
    tensors: Stored
    flattens: tuple[Flatten, ...]
    structure: int
    tallies: Mapping[str, Tally]
    buffers: dict[frozenset[ir.Value], tuple[profile.Buffers, NDArray[np.int64], NDArray[np.int64]]] = field(
        default_factory=dict
    )

    def forced(self, removed: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places that channels take along, [g], when these many units go."""
        least = np.zeros_like(removed)
        for flatten in self.flattens:
            least[flatten.inner] += flatten.forced(np.maximum(removed, least))
        return least

    def with_places(self, removed: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts of units that really go, [g]: at least the places of the channels that go."""
        return np.maximum(removed, self.forced(removed))

    def costs(self, removed: NDArray[np.int64], quantities: Sequence[str] = COUNTERS) -> NDArray[np.float64]:
        """The quantities when these many units are asked to go, [q]."""
        forced = self.forced(removed)
        removed = np.maximum(removed, forced)
        sizes = self.sizes.after(removed)
        elements = self.sizes.elements(sizes)
        picked = self.picked(removed, forced)
        tally = lambda name: self.tallies[name].at(removed, self.sizes.shape(sizes))
        count = {
            "params": lambda: int(elements[self.weights].sum()),
            "macs": lambda: tally("macs"),
            "flash": lambda: profile.file_bytes(
                self.structure, self.tensors.bytes(sizes, elements) + tally("sizes") + self.gathers(removed, picked)
            ),
            "ram": lambda: self.arena(elements, picked),
        }
        return np.array([float(count[q]()) for q in quantities])

    def arena(self, elements: NDArray[np.int64], picked: Collection[ir.Value]) -> int:
        """Peak bytes of activations; who shares a buffer with whom is found out once, for elementwise ops stay so."""
        key = frozenset(picked)
        if key not in self.buffers:
            found = profile.buffers_of(self.model, copied=key)
            known = [v if v in self.sizes.order and v.dtype is not None else None for v in found.values]
            places = np.array([0 if v is None else self.sizes.order[v] for v in known], np.int64)
            bits = np.array([0 if v is None or v.dtype is None else v.dtype.bitwidth for v in known], np.int64)
            self.buffers[key] = found, places, bits
        found, places, bits = self.buffers[key]
        size = -(-np.abs(elements[places]) * bits // 8 // profile.ALIGNMENT) * profile.ALIGNMENT
        return found.pile(size.tolist())

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
    held = list(model.graph.initializers.values())
    made = (v for n in model.graph for v in n.outputs)
    values = dict.fromkeys(v for v in (*held, *model.graph.inputs, *made) if v.shape is not None)
    sizes = dimensions(list(values), parts)
    weights = np.array([sizes.order[v] for v in held if profile.is_weight(v)], np.int64)
    structure, at = profile.structure_bytes(model), flattens(channels, owner)
    tensors = stored(held, sizes)
    return Costing(model, channels.groups, sizes, weights, tensors, at, structure, tallies(model, parts))


def tallies(model: Model, parts: Mapping[ir.Value, Sequence[Part]]) -> dict[str, Tally]:
    """What is summed over nodes."""
    nodes = [n for n in model.graph if all(v is None or v.shape is not None for v in (*n.inputs, *n.outputs))]
    entries = {n: entry for n in nodes if (entry := find(n)) is not None}
    at = {v: {int(g) for _, there, _ in found for g in there} for v, found in parts.items()}
    readers: dict[int, set[ir.Node]] = {}
    for node in nodes:
        for g in {g for v in (*node.inputs, *node.outputs) if v is not None for g in at.get(v, ())}:
            readers.setdefault(g, set()).add(node)
    counts = {"macs": {n: e.macs for n, e in entries.items() if e.macs is not None}}
    counts["sizes"] = {n: e.adds for n, e in entries.items() if e.adds is not None}
    return {
        name: Tally(
            list(of), {g: there & of.keys() for g, there in readers.items()}, lambda n, shape, of=of: of[n](n, shape)
        )
        for name, of in counts.items()
    }


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
