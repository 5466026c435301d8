"""Windows over space: channels pass through."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.ops.table import Flow, Sign, argument, attribute, dims, homogeneous, linear, op, operand
from toolchain.ops.tape import Tape
from toolchain.ops.units import Units

LOWEST = float(np.finfo(np.float32).min)  # pads a maximum as −∞ does, and has a place on a quantiser's scale


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window, explicit: pads are [begin of each axis, end of each axis] whatever auto_pad said."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[int]


def window(n: ir.Node) -> Window:
    """The window of a Conv, ConvTranspose or pooling node: defaults filled in, auto_pad and output_shape resolved."""
    x, y = n.inputs[0], n.outputs[0]
    assert x is not None
    weights = argument(n, 1)
    kernel = attribute(n, "kernel_shape") or list(dims(weights)[2:])
    rank = len(kernel)
    strides, dilations = attribute(n, "strides", [1] * rank), attribute(n, "dilations", [1] * rank)
    pads, auto = attribute(n, "pads", [0] * 2 * rank), attribute(n, "auto_pad", "NOTSET")
    if auto == "VALID":
        pads = [0] * 2 * rank
    elif auto.startswith("SAME") or attribute(n, "output_shape"):
        wide, narrow = (y, x) if n.op_type == "ConvTranspose" else (x, y)
        added = attribute(n, "output_padding", [0] * rank)
        full = [
            (dims(narrow)[2 + i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + added[i] for i in range(rank)
        ]
        total = [max(f - d, 0) for f, d in zip(full, dims(wide)[2:], strict=True)]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = small + large if auto == "SAME_UPPER" else large + small
    return Window(kernel, strides, dilations, pads)


def is_disputed(n: ir.Node) -> bool:
    """Whether auto_pad would cut two places off or more: onnxruntime 1.31 does so, TensorFlow and others do not."""
    is_same = attribute(n, "auto_pad", "NOTSET").startswith("SAME") and n.op_type != "ConvTranspose"
    return is_same and max(skipped(operand(n, 0), n.outputs[0], window(n))) > 1


def facing(v: Window, *axes: int) -> Window:
    """The window along some of its axes, as that of an image: one axis is its height."""
    fill, rank = [1] * (2 - len(axes)), len(v.kernel)
    kernel, strides, dilations = ([s[a] for a in axes] + fill for s in (v.kernel, v.strides, v.dilations))
    begin, end = ([v.pads[a + side] for a in axes] + [0] * len(fill) for side in (0, rank))
    return Window(kernel, strides, dilations, begin + end)


def borders(v: Window, before: Sequence[int], after: Sequence[int]) -> list[tuple[int, int]]:
    """(begin, end) that the windows reach beyond each axis, given its size in x and in y; ceil_mode reaches further."""
    sides = zip(before, after, v.kernel, v.strides, v.dilations, v.pads, strict=False)
    return [(p, max((out - 1) * s + (k - 1) * d + 1 - size - p, 0)) for size, out, k, s, d, p in sides]


def planar(settings: list[int]) -> list[int]:
    """A window's settings for height and width: a signal has height 1."""
    return [1] * (2 - len(settings)) + settings


def skipped(x: ir.Value, y: ir.Value, v: Window) -> list[int]:
    """Rows of x beyond the last window on each spatial axis: skipped by the stride; negative: ceil_mode overhang."""
    return [
        dims(x)[2 + i]
        - ((dims(y)[2 + i] - 1) * v.strides[i] + (v.kernel[i] - 1) * v.dilations[i] + 1)
        + v.pads[i]
        + v.pads[i + len(v.kernel)]
        for i in range(len(v.kernel))
    ]


def is_even(n: ir.Node, v: Window) -> bool:
    """Whether torch has such a border in a pooling: the same on both sides, half a window at most, no overhang."""
    rank = len(v.kernel)
    is_narrow = all(0 <= 2 * p <= k for p, k in zip(v.pads, v.kernel * 2, strict=True))
    return v.pads[:rank] == v.pads[rank:] and is_narrow and min(skipped(operand(n, 0), n.outputs[0], v)) >= 0


def bordered(t: Any, n: ir.Node, x: Any, v: Window, value: float = 0.0) -> Any:
    """A tensor with its border, which ends where the last window does."""
    rank, over = len(v.kernel), skipped(operand(n, 0), n.outputs[0], v)
    sides = zip(v.pads[:rank][::-1], v.pads[rank:][::-1], over[::-1], strict=True)
    return t.nn.functional.pad(x, [p for begin, end, o in sides for p in (begin, end - o)], value=value)


def per_channel(n: ir.Node, u: Units) -> None:
    """Batch and channel pass through; space is left alone, hence frozen."""
    x, y = n.inputs[0], n.outputs[0]
    assert x is not None
    for a in (0, 1):
        u.tie(u[x, a], u[y, a])


# ---- MaxPool -------------------------------------------------------------------------------------------------------
def is_used(value: ir.Value) -> bool:
    """Whether anything reads an output that a node may leave out."""
    return bool(value.uses()) or value.is_graph_output()


def maxpool_channels(n: ir.Node, u: Units) -> None:
    """Channels pass through, unless the indices are read: they count through all channels."""
    if not any(map(is_used, n.outputs[1:])):
        per_channel(n, u)


def maxpool_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """Scatter-add dy onto the winners: overlapping windows may share one."""
    x = n.inputs[0]
    assert x is not None
    settings = {k: a.value for k, a in n.attributes.items() if k != "storage_order"}
    winners = g.ops("MaxPool", 2, x, **settings)[1]
    flat = g.op("Reshape", g.every(dy, n.outputs[0]), g.i64([g.seeds, -1]))
    index = g.op("Expand", g.op("Reshape", winners, g.i64([1, -1])), g.op("Shape", flat))
    zeros = g.op(
        "Expand", g.f32([[0]]), g.op("Concat", g.i64([g.seeds]), g.op("Reshape", g.op("Size", x), g.i64([1])), axis=0)
    )
    return [g.shaped(g.op("ScatterElements", zeros, index, flat, axis=1, reduction="add"), x)]


def pooled(w: Any, n: ir.Node, x: Any, code: str, v: Window, sizes: Sequence[int], filler: float | None) -> Any:
    """A pooling, if it is dilated of averages; of a volume height and width first, then depth.

    sizes   space of the result
    filler  value of padded places; None where the file's SAME would not count them but the node does
    """
    if len(v.kernel) == 3:
        batch, channels, depth, height, width = x.dims
        planes = w.restacked(x, (batch * depth, channels, height, width))
        planes = pooled(w, n, planes, code, facing(v, 1, 2), sizes[1:], filler)
        columns = w.restacked(planes, (batch, channels, depth, math.prod(sizes[1:])))
        columns = pooled(w, n, columns, code, facing(v, 0), [sizes[0], columns.dims[3]], filler)
        return w.restacked(columns, (batch, channels, *sizes))
    if set(v.dilations) != {1}:  # the file's poolings have no dilation, its convolutions do
        share = np.full((1, *planar(v.kernel), x.dims[1]), 1 / math.prod(v.kernel), np.float32)
        return w.convolved(n, x, "DEPTHWISE_CONV_2D", share, np.zeros(x.dims[1], np.float32), v, sizes)
    x, settings = w.windowed(n, x, v, sizes, filler)
    kernel = dict(zip(("filterHeight", "filterWidth"), planar(v.kernel), strict=True))
    return w.op(code, x, dims=(*x.dims[:2], *sizes), **kernel, **settings)


def maxpool_lite(w: Any, n: ir.Node) -> None:
    """Padded with the lowest number, or 0 where x is never below; of a dilated window, the largest of its slices."""
    v, x, sizes = window(n), w.image(n), w.dims(n.outputs[0])[2:]
    if any(map(is_used, n.outputs[1:])):
        w.refuse(n, "hands out its indices", "Remove what reads them")
    filler = 0.0 if w.is_nonnegative(x) else LOWEST
    if set(v.dilations) == {1}:
        return w.give(n.outputs[0], pooled(w, n, x, "MAX_POOL_2D", v, sizes, filler))
    x = w.padded(x, [(0, 0), (0, 0), *borders(v, x.dims[2:], sizes)], filler)
    for i, size in enumerate(sizes):
        places = np.arange(size) * v.strides[i]
        taps = [w.taken(x, {2 + i: places + k * v.dilations[i]}) for k in range(v.kernel[i])]
        x = reduce(lambda a, b: w.op("MAXIMUM", a, b), taps)
    w.give(n.outputs[0], x)


def maxpool_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """Padded with −∞ where torch has no such padding."""
    v = window(n)
    if any(map(is_used, n.outputs[1:])):
        raise NotImplementedError("its indices are read")
    pool = getattr(t.nn.functional, f"max_pool{len(v.kernel)}d")
    if is_even(n, v):
        return pool(x[0], v.kernel, v.strides, v.pads[: len(v.kernel)], v.dilations)
    return pool(bordered(t, n, x[0], v, -math.inf), v.kernel, v.strides, 0, v.dilations)


op(
    "MaxPool",
    channels=maxpool_channels,
    vjp=maxpool_vjp,
    ray=homogeneous,
    torch=maxpool_torch,
    lite=maxpool_lite,
    lrp=Flow.MOVES,
    sign=lambda n: Sign.POOLS,
)


# ---- AveragePool ---------------------------------------------------------------------------------------------------
def window_counts(n: ir.Node, with_pads: bool | None = None) -> NDArray[np.float32]:
    """Elements that each average divides by, [*output space]: padding counts if the node says so, overhang never."""
    x, y, v = n.inputs[0], n.outputs[0], window(n)
    rank, with_pads = len(v.kernel), attribute(n, "count_include_pad", 0) if with_pads is None else with_pads
    axes: list[NDArray[np.int64]] = []
    for i in range(rank):
        size, begin, end = dims(x)[2 + i], v.pads[i], v.pads[i + rank]
        low, high = (-begin, size + end) if with_pads else (0, size)
        starts = np.arange(dims(y)[2 + i]) * v.strides[i] - begin
        taps = starts[:, None] + np.arange(v.kernel[i]) * v.dilations[i]
        axes.append(((taps >= low) & (taps < high)).sum(axis=1))
    counts = np.ones((1,) * rank, np.int64)
    for i, c in enumerate(axes):
        counts = counts * c.reshape([-1 if a == i else 1 for a in range(rank)])
    return counts.astype(np.float32)


def averagepool_vjp(g: Tape, n: ir.Node, dy: ir.Value) -> list[ir.Value | None]:
    """Spread dy / count over each window: channels are folded into rows and meet a kernel of ones."""
    x, y, v = n.inputs[0], n.outputs[0], window(n)
    assert x is not None
    rank, over = len(v.kernel), skipped(x, y, v)
    share = g.op("Div", dy, g.f32(window_counts(n)))
    rows = g.op("Reshape", share, g.i64([-1, 1, *dims(y)[2:]]))
    ends = [p - min(o, 0) for p, o in zip(v.pads[rank:], over, strict=True)]  # ceil_mode overhang is cut off as padding
    ones = g.f32(np.ones((1, 1, *v.kernel)))
    settings = {"strides": v.strides, "dilations": v.dilations, "pads": v.pads[:rank] + ends}
    dx = g.op("ConvTranspose", rows, ones, output_padding=[max(o, 0) for o in over], **settings)
    return [g.shaped(dx, x)]


def averaged(w: Any, n: ir.Node, x: Any, counts: NDArray[np.float32]) -> Any:
    """Sums of the windows over these counts, [*output space]: SAME leaves padding out of its own counts; else zeros
    are averaged in and the counts put right.
    """
    v, sizes, size = window(n), w.dims(n.outputs[0])[2:], math.prod(window(n).kernel)
    is_theirs = len(v.kernel) < 3 and set(v.dilations) == {1}
    is_theirs &= np.array_equal(counts, window_counts(n, with_pads=False))
    y = pooled(w, n, x, "AVERAGE_POOL_2D", v, sizes, 0.0 if is_theirs else None)
    is_right = (counts == size).all() or (is_theirs and y.tensor.producer.options["padding"] == "SAME")
    return y if is_right else w.op("MUL", y, y.layout.arranged(size / counts[None, None]))


def lppool_lite(w: Any, n: ir.Node) -> None:
    """The p-th root of sums of |x|ᵖ, which are averages over a count of one."""
    p, x = attribute(n, "p", 2), w.image(n)
    x = w.op("MUL", x, x) if p == 2 else w.op("ABS", x)
    x = x if p < 3 else w.op("POW", x, np.float32(p))
    y = averaged(w, n, x, np.ones(w.dims(n.outputs[0])[2:], np.float32))
    if p > 1:
        y = w.op("SQRT", y) if p == 2 else w.op("POW", y, np.float32(1 / p))
    w.give(n.outputs[0], y)


def window_sums(t: Any, n: ir.Node, x: Any, v: Window) -> Any:
    """Sums of each window: channels are folded into rows and meet a kernel of ones."""
    rows = bordered(t, n, x, v).flatten(0, 1).unsqueeze(1)
    conv = getattr(t.nn.functional, f"conv{len(v.kernel)}d")
    sums = conv(rows, rows.new_ones([1, 1, *v.kernel]), None, v.strides, 0, v.dilations)
    return sums.squeeze(1).unflatten(0, x.shape[:2])


def averagepool_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """Sums by their counts where torch has no such padding or dilation."""
    v, with_pads = window(n), bool(attribute(n, "count_include_pad", 0))
    if is_even(n, v) and set(v.dilations) == {1}:
        pool = getattr(t.nn.functional, f"avg_pool{len(v.kernel)}d")
        return pool(x[0], v.kernel, v.strides, v.pads[: len(v.kernel)], count_include_pad=with_pads)
    return window_sums(t, n, x[0], v) / t.from_numpy(window_counts(n)).to(x[0])


op(
    "AveragePool",
    channels=per_channel,
    vjp=averagepool_vjp,
    ray=linear,
    torch=averagepool_torch,
    lite=lambda w, n: w.give(n.outputs[0], averaged(w, n, w.image(n), window_counts(n))),
    lrp=Flow.ADDS,
    sign=lambda n: Sign.SUMS,
)


def lppool_torch(t: Any, n: ir.Node, x: Sequence[Any]) -> Any:
    """(Σ|x|ᵖ)^(1/p) of each window."""
    p = attribute(n, "p", 2)
    return window_sums(t, n, x[0].abs() ** p, window(n)) ** (1 / p)


op("LpPool", channels=per_channel, ray=homogeneous, torch=lppool_torch, lite=lppool_lite)
