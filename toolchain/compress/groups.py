"""Which units there are: the op table's channel rules, walked over a graph and solved."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.compress.choices import chosen
from toolchain.errors import UsageError, nearest
from toolchain.inference import asking, reads
from toolchain.model import Model
from toolchain.ops import OPS  # noqa: F401  (importing the package fills the table)
from toolchain.ops.table import dims, find, is_sized, operand, where
from toolchain.ops.units import Axis, Ids, Labels, Units


@dataclass(frozen=True)
class Slot:
    """Rows of a parameter that each unit of a group owns."""

    parameter: str
    axis: int
    rows: int


@dataclass(frozen=True)
class Group:
    """Units that own slices of the same parameters.

    name   the layer that makes the units
    units  their labels, [n], in the order of the layer's channels
    slots  what each of them owns
    kind   "dense", "channel" or "position" (a place behind a flatten, removed by a gather)
    cuts   activations in which the units are contracted or flattened: (value, axis)
    """

    name: str
    units: Ids
    slots: tuple[Slot, ...]
    kind: str
    cuts: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        return len(self.units)


@dataclass(frozen=True)
class Channels:
    """The analysis of one model: labels of every axis position, and the removable groups."""

    labels: Labels
    groups: tuple[Group, ...]
    values: dict[str, ir.Value]
    approximate: bool = False

    def group(self, name: str) -> Group:
        """The group of this name; raises UsageError with the names that there are."""
        for g in self.groups:
            if g.name == name:
                return g
        raise UsageError(f"there is no group '{name}'", way_out=nearest(name, (g.name for g in self.groups)))

    def params(self, group: Group) -> int:
        """Parameters that go with one unit of a group."""
        total = 0
        for slot in group.slots:
            size = dims(self.values[slot.parameter])
            total += slot.rows * math.prod(size) // max(size[slot.axis], 1)
        return total

    def why(self, parameter: str, axis: int) -> str | None:
        """Why the rows of a parameter along an axis cannot be removed, or None if they can."""
        return self.labels.why(self.values[parameter], axis)

    def frozen(self) -> Iterator[tuple[str, int, str]]:
        """(parameter, axis, reason) for all that cannot be removed, spatial and unit axes left out."""
        for name, value in self.values.items():
            if value.const_value is None or value.dtype is None or not value.dtype.is_floating_point():
                continue
            for axis, size in enumerate(dims(value)[:2]):
                reason = self.why(name, axis)
                if reason is not None and size > 1:
                    yield name, axis, reason

    def closure(self, removed: Ids) -> Ids:
        """Labels that go when these go: a channel takes its places behind a flatten along."""
        gone = self.flags(removed)
        for _, outer, inner in self.labels.nests:
            gone[self.labels.root[inner[gone[self.labels.root[outer]]]]] = True
        return np.flatnonzero(gone)

    def flags(self, labels: Ids) -> NDArray[np.bool_]:
        """Membership by label, [number of ids]."""
        flags = np.zeros(len(self.labels.root), bool)
        flags[labels] = True
        return flags


def analyse(model: Model, approximate: bool = False) -> Channels:
    """Label every axis and group the units that can go.

    approximate  also widths that a norm takes its statistics over: what stays is then normalised without what went
    """
    found = collect(model.graph, chosen(model.graph, label(model.graph, approximate)))
    return replace(found, approximate=approximate)


def label(graph: ir.Graph, approximate: bool = False) -> Units:
    """Walk the channel rules; what a rule leaves out is frozen, with the op as the reason."""
    units = Units(approximate)
    for node in graph:
        units.touched.clear()
        entry = find(node)
        if entry is not None and entry.channels is not None and is_sized(node):
            with asking(node):
                entry.channels(node, units)
            because = f"{where(node)} does not pass this axis"
            if not approximate and entry.norm is not None and entry.norm(node) is not None:
                because = f"{where(node)} takes its statistics over this axis (--allow-approximate removes it)"
        elif entry is not None and entry.channels is not None:
            because = f"{where(node)} has values of unknown shape"
        else:
            because = f"{where(node)} has no channel rule"
        for value in (*node.inputs, *node.outputs):
            freeze_untouched(units, value, because)
        for value in reads(node) - {*node.inputs}:
            for axis in range(len(value.shape or ())):
                units.freeze(value, axis, f"a branch of {where(node)} reads it")
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            for axis in range(len(value.shape or ())):
                units.freeze(value, axis, f"it is graph {kind} '{value.name}'")
    return units


def freeze_untouched(units: Units, value: ir.Value | None, reason: str) -> None:
    """Freeze the axes of a node's value that its rule did not mention."""
    if value is None or value.shape is None:
        return
    for axis in range(len(value.shape)):
        if (value, axis) not in units.touched:
            units.freeze(value, axis, reason)


def collect(graph: ir.Graph, labels: Labels) -> Channels:
    """Group the removable units that own slots: those of a group lie on the same axes, so that every axis is made of
    whole groups, and none is emptied while each keeps a unit.
    """
    keys, axis, unit, rows = occurrences(labels)
    is_slot = np.array([value.const_value is not None for value, _ in keys], bool)
    # equal sets of axes make equal sums; 64 random bits for each axis keep others apart
    seeds = np.random.default_rng(0).integers(1 << 63, size=len(keys), dtype=np.uint64)
    signature = np.zeros(len(labels.root), np.uint64)
    with np.errstate(over="ignore"):
        np.add.at(signature, unit, seeds[axis] * rows.astype(np.uint64))
    carriers, first_carrier = activations(graph, labels)
    by_signature: dict[int, list[int]] = {}
    for u in np.unique(unit[is_slot[axis]]).tolist():
        by_signature.setdefault(int(signature[u]), []).append(u)
    owner = np.full(len(labels.root), -1)
    for i, members in enumerate(by_signature.values()):
        owner[members] = i
    values = {
        str(v.name): v for v in (*graph.inputs, *graph.initializers.values(), *(o for n in graph for o in n.outputs))
    }
    slots_of: dict[int, list[Slot]] = {}
    mine = np.flatnonzero(is_slot[axis])
    _, at = np.unique(axis[mine] * len(by_signature) + owner[unit[mine]], return_index=True)
    for k in mine[at].tolist():
        value, a = keys[axis[k]]
        slots_of.setdefault(int(owner[unit[k]]), []).append(Slot(str(value.name), a, int(rows[k])))
    cuts_of = carrying(contractions(graph) + [key for key, _, _ in labels.nests], labels, owner)
    nested = np.zeros(len(labels.root), bool)
    for _, _, inner in labels.nests:
        nested[inner] = True
    groups: list[Group] = []
    for i, members in enumerate(by_signature.values()):
        first, a = carriers[first_carrier[members[0]]]
        position = {u: p for p, u in reversed(list(enumerate(labels.of(first, a).tolist())))}
        units = np.array(sorted(members, key=lambda u: position.get(u, len(position))))
        is_position = nested[labels.axes[first, a]].any()
        kind = "position" if is_position else "channel" if len(first.shape or ()) > 2 else "dense"
        groups.append(Group(layer_name(first), units, tuple(slots_of[i]), kind, tuple(cuts_of.get(i, ()))))
    return Channels(labels, unique_names(groups), values)


def occurrences(labels: Labels) -> tuple[list[Axis], Ids, Ids, Ids]:
    """All axes; and for each axis and removable unit on it: the axis's number, the unit, and how often it is there."""
    keys = list(labels.axes)
    root = labels.root[np.concatenate([np.zeros(0, np.int64), *labels.axes.values()])]
    axis = np.repeat(np.arange(len(keys)), [len(ids) for ids in labels.axes.values()])
    free = ~labels.is_frozen(root)
    pairs, rows = np.unique(axis[free] * len(labels.root) + root[free], return_counts=True)
    return keys, pairs // max(len(labels.root), 1), pairs % max(len(labels.root), 1), rows


def activations(graph: ir.Graph, labels: Labels) -> tuple[list[Axis], Ids]:
    """Axes of activations in graph order, and which of them is the first that each unit occurs in, [n]."""
    axes = [(v, a) for n in graph for v in n.outputs for a in range(len(v.shape or ())) if (v, a) in labels.axes]
    first = np.full(len(labels.root), -1)
    for k in reversed(range(len(axes))):
        first[labels.of(*axes[k])] = k
    return axes, first


def contractions(graph: ir.Graph, of_parameters: bool = False) -> list[Axis]:
    """Activations (or parameters) that some node sums away along an axis: where a unit can be read, and masked."""
    found: dict[Axis, None] = {}
    for node in graph:
        for _, key in contracted(node):
            if (key[0].const_value is not None) is of_parameters:
                found[key] = None
    return list(found)


def contracted(node: ir.Node) -> Iterator[tuple[int, Axis]]:
    """(input, (value, axis)) of all that a node sums away."""
    entry = find(node)
    if entry is None or entry.contracts is None or not is_sized(node):
        return
    with asking(node):
        found = [(i, (operand(node, i), axis % len(dims(node.inputs[i])))) for i, axis in entry.contracts(node)]
    yield from found


def carrying(read: list[Axis], labels: Labels, owner: Ids) -> dict[int, list[tuple[str, int]]]:
    """The contracted or flattened activations that carry units of each group."""
    mine: dict[int, list[tuple[str, int]]] = {}
    for value, axis in read:
        for i in np.unique(owner[labels.of(value, axis)]).tolist() if (value, axis) in labels.axes else ():
            mine.setdefault(i, []).append((str(value.name), axis))
    return mine


def layer_name(value: ir.Value) -> str:
    """A layer is called by its weight's name where that is a readable one, else by its node."""
    node = value.producer()
    assert node is not None
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if weight is not None and weight.const_value is not None and str(weight.name).endswith(".weight"):
        return str(weight.name).removesuffix(".weight")
    return node.name or str(value.name)


def unique_names(groups: list[Group]) -> tuple[Group, ...]:
    """The same groups, a second layer of the same name told apart by a number."""
    seen: dict[str, int] = {}
    named = []
    for g in groups:
        seen[g.name] = seen.get(g.name, 0) + 1
        name = g.name if seen[g.name] == 1 else f"{g.name}#{seen[g.name]}"
        named.append(Group(name, g.units, g.slots, g.kind, g.cuts))
    return tuple(named)
