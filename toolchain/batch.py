"""Batches that an exporter wrote into constants: set free where each sample then gets what it got alone.

A file for one batch says it in many places: Reshape and Expand targets, Resize sizes, constants beside samples in a
Concat, first states of recurrent nets. Walked with another batch such a place is read as the file means it (`Reader`):
where the walk with the file's own batch has a batch axis, the constant has it too. Whether samples stay apart in that
reading is then asked of every node (`mixing`): a doubt holds the batch, and the node is told.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from toolchain.inference import Known, Took, asking, attribute_of, where
from toolchain.plain import RECURRENT, STATES, Names, held

BATCH = "N"
Batch = tuple[int, int, int]  # (axis, elements ahead of it, share k of k·N positions)
Walk = Mapping[ir.Value, Known]


# ---- reading a file at another batch -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Reader:
    """Reads a node's inputs at another batch than the file was written for.

    exported  the walk with the file's own batch
    ratio     (this walk's batch, the file's batch)
    merged    values whose batch axis begins with others: positions of these, T in [T·N, d]
    """

    exported: Walk
    ratio: tuple[int, int]
    merged: dict[ir.Value, int] = field(default_factory=dict)

    def __call__(self, node: ir.Node, took: Took) -> Took:
        """The inputs, with constants that hold the file's batch rewritten."""
        if node.domain or not any(self.grown(v, k) is not None for v, k in zip(node.inputs, took, strict=True)):
            return took
        if node.op_type == "Reshape":
            return [took[0], self.reshaped(node, took)]
        if self.merged:
            self.pass_on(node, took)
        if node.op_type == "Expand":
            return [took[0], self.expanded(node, took)]
        if node.op_type == "Resize" and len(took) > 3:
            return [*took[:3], self.resized(node, took)]
        if node.op_type == "Concat" or node.op_type in RECURRENT:
            return self.stretched(node, took)
        return took

    def grown(self, value: ir.Value | None, now: Known | None) -> int | None:
        """The axis along which a value grew with the batch."""
        before = None if value is None or value not in self.exported else self.exported[value].shape
        if before is None or now is None or now.shape is None or len(now.shape) != len(before):
            return None
        grew = [i for i, (a, b) in enumerate(zip(before, now.shape, strict=True)) if a != b]
        scaled = len(grew) == 1 and before[grew[0]] * self.ratio[0] == now.shape[grew[0]] * self.ratio[1]
        return grew[0] if scaled else None

    def reshaped(self, node: ir.Node, took: Took) -> Known | None:
        """The target with the batch of this walk; a computed one knows it already."""
        x, target, after = node.inputs[0], node.inputs[1], self.exported[node.outputs[0]].shape
        axis = self.grown(x, took[0])
        if x is None or target is None or target.const_value is None or after is None or axis is None:
            return took[1]
        before = self.exported[x].shape or ()
        ahead = math.prod(before[:axis]) * self.merged.get(x, 1)
        place = batch_of_view(ahead, before[axis] // self.merged.get(x, 1), after, self.ratio[1])
        if place is None:
            return took[1]
        if math.prod(after[:place]) < ahead:
            self.merged[node.outputs[0]] = ahead // math.prod(after[:place])
        sizes = np.array(after, np.int64)
        sizes[place] = sizes[place] // self.ratio[1] * self.ratio[0]
        return Known(ir.DataType.INT64, sizes.shape, sizes)

    def pass_on(self, node: ir.Node, took: Took) -> None:
        """A batch axis stays merged in every op that passes it."""
        for v, k in zip(node.inputs, took, strict=True):
            axis = self.grown(v, k) if v in self.merged else None
            if v is None or axis is None:
                continue
            size = (self.exported[v].shape or ())[axis]
            for out in node.outputs:
                if size in (self.exported[out].shape or ()):
                    self.merged[out] = self.merged[v]

    def expanded(self, node: ir.Node, took: Took) -> Known | None:
        """A target that leaves the batch of the input as it is."""
        axis, target = self.grown(node.inputs[0], took[0]), node.inputs[1]
        if target is None or target.const_value is None or axis is None or took[0] is None:
            return took[1]
        sizes = target.const_value.numpy().copy()
        sizes[axis - len(took[0].shape or ())] = 1
        return Known(ir.DataType.INT64, sizes.shape, sizes)

    def resized(self, node: ir.Node, took: Took) -> Known | None:
        """Sizes with the batch of this walk."""
        axis, sizes = self.grown(node.inputs[0], took[0]), node.inputs[3]
        if sizes is None or sizes.const_value is None or axis is None or "axes" in node.attributes:
            return took[3]
        wanted = sizes.const_value.numpy().copy()
        wanted[axis] = wanted[axis] // self.ratio[1] * self.ratio[0]
        return Known(ir.DataType.INT64, wanted.shape, wanted)

    def stretched(self, node: ir.Node, took: Took) -> Took:
        """Constants beside samples, once for each sample."""
        grows = [self.grown(v, k) for v, k in zip(node.inputs, took, strict=True)]
        found = list(took)
        rank = len(self.exported[node.outputs[0]].shape or ())
        for i in stretchable(node, next(a for a in grows if a is not None), rank, grows):
            k = took[i]
            if k is not None and k.shape is not None and self.ratio[1] == 1:
                axis = next(a for a in grows if a is not None)
                if len(k.shape) > axis and k.shape[axis] == 1:
                    found[i] = Known(k.dtype, (*k.shape[:axis], self.ratio[0], *k.shape[axis + 1 :]))
        return found


def stretchable(node: ir.Node, axis: int, rank: int, grows: Sequence[int | None]) -> list[int]:
    """Inputs of a node that do not grow along this axis, and must where the others do."""
    if node.op_type in RECURRENT:
        places = STATES if axis == 1 else ()
    else:
        along = attribute_of(node, "axis", 0)
        places = () if along in (axis, axis - rank) else range(len(node.inputs))
    return [i for i in places if i < len(node.inputs) and node.inputs[i] is not None and grows[i] is None]


def batch_of_view(ahead: int, size: int, after: tuple[int, ...], exported: int) -> int | None:
    """Which axis of a reshape's output holds the batch: the one with as many elements ahead of it as it had.

    [N, 9·4] -> [N, 9, 4], [9·N, 4] -> [N, 9, 4], [T, N, h·d] -> [T, N·h, d]; where none is, [T, N, d] -> [T·N, d].
    size  positions along the batch axis of the input, for the file's own batch
    """
    prefixes = [math.prod(after[:i]) for i in range(len(after) + 1)]
    for i, n in enumerate(after):
        is_last = i == len(after) - 1 and i > 0
        if prefixes[i] == ahead and n % exported == 0 and not (is_last and n != size):
            return i
    inside = [i for i, n in enumerate(after) if prefixes[i] < ahead <= prefixes[i + 1] and n % exported == 0]
    return inside[0] if inside else None


def stretch(graph: ir.Graph, two: Walk, three: Walk) -> None:
    """Write out what `Reader.stretched` read: an Expand to the batch in front of each constant beside samples."""
    names = Names(graph)
    batch: ir.Value | None = None
    for node in list(graph):
        if node.domain or (node.op_type != "Concat" and node.op_type not in RECURRENT):
            continue
        found = [None if v is None else batch_axis(two.get(v), three.get(v)) for v in node.inputs]
        grows = [None if f is None else f[0] for f in found]
        axis = next((a for a in grows if a is not None), None)
        rank = len(two[node.outputs[0]].shape or ())
        for i in stretchable(node, axis, rank, grows) if axis is not None else ():
            value = node.inputs[i]
            assert value is not None and axis is not None
            shape = two[value].shape if value in two else tuple(value.shape.numpy() if value.shape else ())
            if shape is None or not any(f is not None and f[2] == 1 for f in found):
                continue
            if batch is None:
                batch = batch_size(graph, names, two)
            ones = [
                held(graph, names, f"{value.name}.ones", np.ones(n, np.int64)) for n in (axis, len(shape) - 1 - axis)
            ]
            target = added(graph, node, names, "Concat", [ones[0], batch, ones[1]], (len(shape),), {"axis": 0})
            sizes = (*shape[:axis], BATCH, *shape[axis + 1 :])
            node.replace_input_with(i, added(graph, node, names, "Expand", [value, target], sizes, {}))


def batch_size(graph: ir.Graph, names: Names, known: Walk) -> ir.Value:
    """The batch as the graph's first input has it, [1]."""
    first = next(v for v in graph.inputs if v in known and known[v].shape)
    return added(graph, next(iter(graph)), names, "Shape", [first], (1,), {"start": 0, "end": 1})


def added(
    graph: ir.Graph,
    before: ir.Node,
    names: Names,
    op_type: str,
    inputs: Sequence[ir.Value],
    shape: Sequence[int | str],
    attributes: dict[str, int],
) -> ir.Value:
    """The output of a new node in front of another."""
    stem = names.fresh(f"{inputs[0].name}.{op_type.lower()}")
    node = ir.node(op_type, inputs, attributes, name=stem)
    value = node.outputs[0]
    dtype = inputs[0].dtype if op_type == "Expand" else ir.DataType.INT64
    value.name, value.shape, value.type = stem, ir.Shape(shape), ir.TensorType(dtype or ir.DataType.FLOAT)
    graph.insert_before(before, node)
    return value


# ---- do samples stay apart? ----------------------------------------------------------------------------------------
# What the walk needs to know of ops stands here, below the op table: it also names ops that have no entry, and a model
# has its shapes before any entry is asked.
ALONG = {  # ops that work along their `axis`, or reorder it
    "ArgMax", "ArgMin", "Compress", "Concat", "CumSum", "Gather", "GatherElements", "Hardmax", "LayerNormalization",
    "LogSoftmax", "LpNormalization", "ScatterElements", "Softmax", "Split", "TopK", "Unique",
}  # fmt: skip
APART = {  # ops that keep positions of the first axis alone apart
    "Attention", "AveragePool", "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "DeformConv",
    "DepthToSpace", "GridSample", "GroupNormalization", "InstanceNormalization", "LRN", "LpPool", "MaxPool",
    "QLinearConv", "SpaceToDepth",
}  # fmt: skip
UNREAD = {  # ops whose parameters would have to be read to know
    "Det", "EyeLike", "GatherND", "MaxUnpool", "ReverseSequence", "RoiAlign", "ScatterND", "Tile", "Trilu",
}  # fmt: skip
VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}


def mixing(graph: ir.Graph, two: Walk, three: Walk, merged: Collection[ir.Value]) -> str:
    """What may let one sample see another, or lose it, so that the batch is not set free; "" for nothing.

    two, three  walks with batches of 2 and 3
    merged      values whose batch axis begins with others
    """
    for node in graph:
        if any(counts_samples(two.get(v), three.get(v)) for v in node.outputs):
            return f"{where(node)} may depend on how many samples there are"
        batches = [None if v is None else batch_axis(two.get(v), three.get(v)) for v in node.inputs]
        with asking(node):
            if any(b is not None for b in batches) and mixes(node, batches, two, three):
                return f"{where(node)} may mix samples"
    for value in graph.outputs:
        batch = batch_axis(two.get(value), three.get(value))
        if batch is not None and (value in merged or (batch[0] > 0 and batch[2] > 1)):
            return f"samples do not lie one after the other in output '{value.name}'"
    return ""


def counts_samples(a: Known | None, b: Known | None) -> bool:
    """Whether real numbers depend on how many samples there are, or on a sample's place among them."""
    if a is None or b is None or a.array is None or b.array is None or a.array.dtype.kind != "f":
        return False
    x, y = a.array, b.array
    if x.ndim != y.ndim:
        return True
    for axis in [i for i, (m, n) in enumerate(zip(x.shape, y.shape, strict=True)) if m != n]:
        if (x != x.take([0], axis)).any() or (y != y.take([0], axis)).any():
            return True
        x, y = x.take([0], axis), y.take([0], axis)  # the same for every sample
    return not np.array_equal(x, y)


def mixes(node: ir.Node, batches: list[Batch | None], two: Walk, three: Walk) -> bool:
    """Whether a node works across samples, has outputs without them, or cannot be seen to do neither."""
    if any(batch_axis(two.get(v), three.get(v)) is None for v in node.outputs if not is_constant(v, two, three)):
        return True
    first = batches[0]
    if node.op_type == "Einsum":
        return not one_letter(node, batches)
    if first is None:
        return node.op_type in UNREAD
    if first[0] in axes_along(node, two) or attribute_of(node, "training_mode", 0):
        return True
    after = batch_axis(two[node.outputs[0]], three[node.outputs[0]])
    if node.op_type == "Slice":
        return (
            after is None
            or after[0] != first[0]
            or after[2] != first[2]
            or not passes_in_order(node, first[0], len(two[node.outputs[0]].shape or ()))
        )
    if node.op_type in VIEWS and after is not None:
        return not (first[1] == after[1] or first[2] > 1 or spans(first, after))
    return False


def is_measured(a: Known, b: Known) -> bool:
    """Whether both walks know the shape of a value that is no constant."""
    return a.shape is not None and b.shape is not None and a.array is None and b.array is None


def is_constant(value: ir.Value, two: Walk, three: Walk) -> bool:
    """Whether a value is the same in both walks, or is no output at all."""
    a, b = two.get(value), three.get(value)
    return not value.name or (a is not None and b is not None and a.array is not None and b.array is not None)


def batch_axis(a: Known | None, b: Known | None) -> Batch | None:
    """(axis, elements ahead of it, samples' share k of its k·N positions) of the one axis that grows with the batch."""
    if a is None or b is None or not is_measured(a, b):
        return None
    shapes = zip(a.shape or (), b.shape or (), strict=False)
    grows = [i for i, (p, q) in enumerate(shapes) if p != q]
    if len(grows) != 1 or len(a.shape or ()) != len(b.shape or ()):
        return None
    (i,), p, q = grows, (a.shape or ())[grows[0]], (b.shape or ())[grows[0]]
    return (i, math.prod((a.shape or ())[:i]), p // 2) if 3 * p == 2 * q else None


def spans(before: Batch, after: Batch) -> bool:
    """Whether axes in front of the batch were merged into it: [T, N, d] -> [T·N, d]."""
    merged, rest = divmod(before[1], after[1])
    return not rest and after[2] % merged == 0


def axes_along(node: ir.Node, known: Walk) -> set[int]:
    """Axes of the first input along which a node's outputs see other positions, or are in another order."""
    first = node.inputs[0]
    shape = None if first is None or first not in known else known[first].shape
    if not shape or node.op_type in UNREAD:
        return set(range(len(shape or ())))
    if node.op_type in APART:
        return set(range(1, len(shape)))
    if node.op_type in RECURRENT:
        return {attribute_of(node, "layout", 0), 2}
    if node.op_type not in ALONG:
        return set()
    axis = attribute_of(node, "axis", -1 if node.op_type not in ("Gather", "GatherElements", "ScatterElements") else 0)
    if node.op_type == "CumSum":
        held = node.inputs[1].const_value if node.inputs[1] is not None else None
        axis = 0 if held is None else int(held.numpy().item())
    axis %= len(shape)
    return set(range(axis, len(shape))) if node.op_type == "LayerNormalization" else {axis}


def passes_in_order(node: ir.Node, axis: int, rank: int) -> bool:
    """Whether a Slice is known to leave an axis, whose size it keeps, in its order."""
    given = [None if v is None else v.const_value for v in node.inputs[1:]] + [None] * 4
    starts, _, axes, steps = (None if t is None else t.numpy().tolist() for t in given[:4])
    told = [i for i in (3, 4) if i < len(node.inputs) and node.inputs[i] is not None]
    if (axes is None and 3 in told) or (steps is None and 4 in told) or (axes is None and starts is None):
        return False
    listed = list(range(len(starts or ()))) if axes is None else [int(a) % rank for a in axes]
    return steps is None or axis not in listed or steps[listed.index(axis)] == 1


def one_letter(node: ir.Node, batches: list[Batch | None]) -> bool:
    """Whether an Einsum calls the batch the same in all inputs that have it, and in its output."""
    words, _, out = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    letters = {w[b[0]] if "." not in w else "" for w, b in zip(words.split(","), batches, strict=True) if b is not None}
    return len(letters) == 1 and "" not in letters and letters <= set(out)
