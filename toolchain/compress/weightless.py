"""Units left without weights, which go without any change of the answers: what unstructured pruning leaves behind.

settled(model)     where a unit is the same for every input (it reads nothing), what it gives goes into its readers'
                   biases and they stop reading it
needed(channels)   units that some output still reads, by whatever path of weights that are not 0
weightless(model)  both, and the plan that removes all others

Constancy follows labels: two values that share a unit's label hold the same unit, a layer's unit is constant if all
that it reads with a weight is, and what no channel rule passes may depend on anything.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.compress.budget import check_patterns
from toolchain.compress.costing import COUNTERS, costing
from toolchain.compress.groups import Channels, analyse, contracted
from toolchain.compress.layers import bias_of, is_linear, matrix, store, unit_axis, write
from toolchain.compress.plan import Plan
from toolchain.compress.widths import steps_of
from toolchain.model import Model
from toolchain.ops.pooling import window
from toolchain.ops.table import attribute, find, is_convolution, operand, where
from toolchain.ops.units import Ids
from toolchain.session import run, session, with_outputs

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Stay:
    """Units that are constant, or that nothing needs, and yet stay; where: the node that reads them, or their group."""

    where: str
    units: int
    reason: str


@dataclass(frozen=True)
class Reader:
    """A layer and what it reads with a weight that is not 0.

    reads   labels of its inputs [c]
    makes   labels of its outputs [m]
    weighs  [g, c / g, m / g]
    """

    node: ir.Node
    reads: Ids
    makes: Ids
    weighs: Flags

    def sources(self, wanted: Flags) -> Ids:
        """Labels that it reads for outputs whose labels are wanted."""
        outputs = wanted[self.makes].reshape(len(self.weighs), 1, -1)
        return self.reads[(self.weighs & outputs).any(axis=2).ravel()]

    @property
    def passes_on(self) -> Flags:
        """Inputs that some other unit reads, [c]: a depthwise convolution hands a unit to itself."""
        is_other = self.reads.reshape(len(self.weighs), -1, 1) != self.makes.reshape(len(self.weighs), 1, -1)
        return (self.weighs & is_other).any(axis=2).ravel()

    def results(self, flags: Flags) -> Ids:
        """Labels of outputs that read some label of these."""
        inputs = flags[self.reads].reshape(len(self.weighs), -1, 1)
        return self.makes[(self.weighs & inputs).any(axis=1).ravel()]


def weightless(
    model: Model, align: str = "off", keep: Sequence[str] = (), threads: int = 1
) -> tuple[Model, Plan, list[Stay]]:
    """The model with its constants settled, the plan that takes all that nothing needs out of it, and what stays.

    align  widths are multiples of this: auto, off or a number; units that nothing needs fill them up
    keep   patterns of group names to leave alone

    Each group keeps one unit at least, and places behind a flatten go only where the file is smaller without them than
    with the gather that picks the others. Raises UsageError for patterns of no group, Unsupported where onnxruntime has
    no kernel for a node.
    """
    clean, stays = settled(model, threads)
    channels = analyse(clean)
    check_patterns(keep, [g.name for g in channels.groups], "--keep")
    stay = needed(clean, channels)
    for group in sorted(channels.groups, key=lambda g: g.kind != "position"):  # a place keeps its channel
        count = int(stay[group.units].sum())
        step = len(group) if any(fnmatch(group.name, k) for k in keep) else steps_of(group, align)
        width = min(-(-max(count, 1) // step) * step, len(group))
        stay[group.units[~stay[group.units]][: width - count]] = True
        own(channels, stay)
        if not count and width < len(group):
            stays.append(Stay(group.name, width, "a group cannot be empty"))
    return clean, planned(clean, channels, align, stay), stays


def planned(model: Model, channels: Channels, align: str, stay: Flags) -> Plan:
    """The plan that keeps these units, and places behind a flatten whose gather would take more room than they."""
    costs = costing(model, channels)
    counts = lambda: np.array([int((~stay[g.units]).sum()) for g in channels.groups], np.int64)
    flash = lambda: float(costs.costs(counts(), ("flash",))[0])
    for group in (g for g in channels.groups if g.kind == "position"):
        others = [g.units[~stay[g.units]] for g in channels.groups if g is not group]
        forced = channels.flags(channels.closure(np.concatenate([np.zeros(0, np.int64), *others])))[group.units]
        size, before = flash(), stay[group.units].copy()
        stay[group.units] = ~forced
        if flash() > size:
            stay[group.units] = before
    removed = {g.name: tuple(np.flatnonzero(~stay[g.units]).tolist()) for g in channels.groups}
    widths = {g.name: (len(g), len(g) - len(removed[g.name])) for g in channels.groups}
    pairs = zip(costs.costs(0 * counts()).tolist(), costs.costs(counts()).tolist(), strict=True)
    told = {q: (int(b), int(a)) for q, (b, a) in zip(COUNTERS, pairs, strict=True)}
    return Plan(model.sha256, "weightless", align, removed, widths, told)


# ---- who reads whom ------------------------------------------------------------------------------------------------
def readers(model: Model, channels: Channels) -> Iterator[tuple[ir.Node, Reader | None]]:
    """Every node that sums units away, with its weights where it multiplies by a matrix."""
    labels = channels.labels
    for node in model.graph:
        if not list(contracted(node)):
            continue
        keys = [(v, unit_axis(node, v)) for v in (operand(node, 0), node.outputs[0])] if is_linear(node, model) else []
        if keys and all(key in labels.axes for key in keys):
            reads, makes = (labels.of(*key) for key in keys)
            weights = matrix(node)
            by_tap = weights.reshape(len(weights), len(reads) // len(weights), -1, weights.shape[2])
            weighs: Flags = np.any(by_tap, axis=2)
            yield node, Reader(node, reads, makes, weighs)
        else:
            yield node, None


def needed(model: Model, channels: Channels) -> Flags:
    """Labels that an output depends on by weights that are not 0, [number of ids]."""
    labels = channels.labels
    flags = labels.is_frozen(np.arange(len(labels.root)))
    found = list(readers(model, channels))
    for node, reader in found:
        for _, key in contracted(node) if reader is None else ():
            if key in labels.axes:
                flags[labels.of(*key)] = True
    count = -1
    while count != (count := int(flags.sum())):
        for _, reader in reversed(found):
            if reader is not None:
                flags[reader.sources(flags)] = True
        own(channels, flags)
    return flags


def own(channels: Channels, flags: Flags) -> None:
    """Flag each channel that has a flagged place behind a flatten."""
    root = channels.labels.root
    for _, outer, inner in reversed(channels.labels.nests):
        flags[root[outer[flags[root[inner]].any(axis=1)]]] = True


# ---- constants -----------------------------------------------------------------------------------------------------
def varying(model: Model, channels: Channels) -> Flags:
    """Labels whose values may depend on the input, [number of ids]."""
    labels, flags = channels.labels, np.zeros(len(channels.labels.root), bool)
    layers = {node: reader for node, reader in readers(model, channels) if reader is not None}

    def axes(value: ir.Value) -> list[Ids]:
        count = len(value.shape or ())
        return [labels.of(value, a) for a in range(count) if (value, a) in labels.axes and len(labels.axes[value, a])]

    for ids in (ids for value in model.graph.inputs for ids in axes(value)):
        flags[ids] = True
    count = -1
    while count != (count := int(flags.sum())):
        for node in model.graph:
            entry, reader = find(node), layers.get(node)
            moving = [v for v in node.inputs if v is not None and v.const_value is None]
            for y in node.outputs:
                if reader is not None:
                    flags[np.setdiff1d(np.concatenate(axes(y)), reader.makes)] = True
                    flags[reader.results(flags)] = True
                    continue
                is_open = entry is None or entry.channels is None or any(contracted(node))
                read = [[]] if is_open else [[*axes(x), *placed(channels, x, flags)] for x in moving]
                for made, known in itertools.product(axes(y), read):
                    if not any(np.isin(ids, made).all() for ids in known):  # else it has places of its own on this axis
                        flags[np.setdiff1d(made, np.concatenate([made[:0], *known]))] = True
    return flags


def placed(channels: Channels, value: ir.Value, flags: Flags) -> Iterator[Ids]:
    """Labels of the places of a value behind a flatten; flagged unless some row that a place lies in is constant."""
    root = channels.labels.root
    nests = [(outer, inner) for (flattened, _), outer, inner in channels.labels.nests if flattened is value]
    is_still = np.zeros(len(flags), bool)
    for outer, inner in nests:
        is_still[root[inner[~flags[root[outer]]]]] = True
    for _, inner in nests:
        places = root[inner].ravel()
        flags[places[~is_still[places]]] = True
        yield places


def settled(model: Model, threads: int = 1) -> tuple[Model, list[Stay]]:
    """The same function with nobody reading constant units, as far as biases can say what those give; and the rest."""
    channels = analyse(model)
    is_constant = ~varying(model, channels) & ~channels.labels.is_frozen(np.arange(len(channels.labels.root)))
    pairs = [(r, is_constant[r.reads] & r.passes_on) for _, r in readers(model, channels) if r is not None]
    found = {str(operand(r.node, 0).name): None for r, chosen in pairs if chosen.any()}
    if not found:
        return model, []
    size = 1 if model.batch == "free" else int(model.batch)
    feed = {str(v.name): np.zeros((size, *model.inputs[str(v.name)]), kind(v)) for v in model.graph.inputs}
    values = dict(zip(found, run(session(with_outputs(model.ir, list(found)), threads), feed), strict=True))
    clone, stays = model.ir.clone(), []
    twins = dict(zip(model.graph, clone.graph, strict=True))
    for reader, chosen in pairs:
        if chosen.any():
            stays += settle(twins[reader.node], chosen, values[str(operand(reader.node, 0).name)])
    return model.with_ir(clone), stays


def kind(value: ir.Value) -> np.dtype[Any]:
    """The type of an input."""
    assert value.dtype is not None
    return value.dtype.numpy()


def settle(node: ir.Node, chosen: Flags, h: NDArray[np.float32]) -> Iterator[Stay]:
    """Move what these inputs give into the node's bias and their weights to 0, in place; tells what has to stay.

    chosen  constant inputs [c]
    h       what the node reads of any sample
    """
    by_unit = np.moveaxis(h[:1], unit_axis(node, node.inputs[0]), 0).reshape(len(chosen), -1)
    value = by_unit[:, 0].astype(np.float64)
    is_even, is_zero = (by_unit == by_unit[:, :1]).all(axis=1), ~by_unit.any(axis=1)
    reasons = {
        "it differs from place to place": ~is_even,
        "the padding of the node reads 0 in its place": np.full(len(chosen), is_padded(node)),
        "the node has no bias that could take it": np.full(len(chosen), bias_of(node) is None),
    }
    goes = chosen & (is_zero | ~np.any(list(reasons.values()), axis=0))
    weights = matrix(node)
    blocks, _, outputs = weights.shape
    by_input = weights.reshape(blocks, len(chosen) // blocks, -1, outputs)
    sums = by_input.sum(axis=2, dtype=np.float64)
    given = (sums * np.where(goes, value, 0).reshape(blocks, -1, 1)).sum(axis=1)
    if given.any():
        change = np.zeros((blocks, weights.shape[1] + 1, outputs))
        change[:, -1] = attribute(node, "alpha", 1.0) * given
        write(node, weights, change)
    store(node, np.where(goes.reshape(blocks, -1, 1, 1), np.float32(0), by_input).reshape(weights.shape))
    left = chosen & ~goes
    for reason, holds in reasons.items():
        if (left & holds).any():
            yield Stay(where(node), int((left & holds).sum()), reason)
            left &= ~holds


def is_padded(node: ir.Node) -> bool:
    """Whether a convolution reads zeros beyond the border."""
    return is_convolution(node) and any(window(node).pads)
