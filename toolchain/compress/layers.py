"""Layers that multiply by a weight, as matrices: Y = X W + b, block by block where a convolution has groups.

Columns are what one output reads (an input, or a tap of a kernel on a channel), rows are samples and positions. A
convolution of g groups is g such products side by side; every array here has that g in front.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.model import Model
from toolchain.ops.pooling import window
from toolchain.ops.table import attribute, constant, dims
from toolchain.ops.units import Ids

F32, F64 = NDArray[np.float32], NDArray[np.float64]


def is_linear(node: ir.Node, model: Model) -> bool:
    """Whether it is a convolution or a product with a matrix, sample by sample, whose weights serve it alone."""
    w = node.inputs[1] if len(node.inputs) > 1 else None
    return (
        node.op_type in ("Conv", "Gemm", "MatMul")
        and w is not None
        and w.const_value is not None
        and len(w.uses()) == 1
        and not attribute(node, "transA", 0)
        and dims(node.inputs[0])[0] in (-1, model.batch)
        and (node.op_type != "MatMul" or len(dims(w)) == 2)
    )


def column_axis(node: ir.Node) -> int:
    """The axis of the weight that is summed over."""
    return {"Conv": 1, "MatMul": 0, "Gemm": attribute(node, "transB", 0)}[node.op_type]


def unit_axis(node: ir.Node, value: ir.Value | None) -> int:
    """The axis of a layer's input or output that holds its units."""
    return 1 if node.op_type == "Conv" else len(dims(value)) - 1


def blocks_of(node: ir.Node) -> int:
    """How many products stand side by side: the groups of a convolution."""
    return attribute(node, "group", 1) if node.op_type == "Conv" else 1


def matrix(node: ir.Node) -> F32:
    """Weights as [g, columns, outputs]."""
    w = constant(node.inputs[1])
    assert w is not None
    if node.op_type == "Conv":
        g = blocks_of(node)
        return w.reshape(g, len(w) // g, -1).transpose(0, 2, 1)
    return (w.T if attribute(node, "transB", 0) else w)[None]


def positions(node: ir.Node, y: F32) -> int:
    """Output positions of a sample: those of an image, or one where every row of a matrix is taken."""
    return int(np.prod(y.shape[2:])) if node.op_type == "Conv" else 1


def inputs_at(node: ir.Node, x: F32, space: tuple[int, ...], pick: Ids) -> F32:
    """What a layer reads for its outputs at some positions of `space`, [g, p, columns]; p runs over samples first."""
    if node.op_type != "Conv":
        return x.reshape(1, -1, x.shape[-1])
    patches = unfolded(node, x, space, pick)  # [n, positions, channels, taps]
    n, p, channels, taps = patches.shape
    g = blocks_of(node)
    return patches.reshape(n * p, g, channels // g * taps).transpose(1, 0, 2)


def outputs_at(node: ir.Node, y: F32, pick: Ids) -> F32:
    """A layer's outputs there, [g, p, m]."""
    if node.op_type != "Conv":
        return y.reshape(1, -1, y.shape[-1])
    flat = y.reshape(*y.shape[:2], -1)[:, :, pick].transpose(0, 2, 1)
    return flat.reshape(len(y) * len(pick), blocks_of(node), -1).transpose(1, 0, 2)


def unfolded(node: ir.Node, x: F32, space: tuple[int, ...], pick: Ids) -> F32:
    """Patches that a convolution reads for some of its output positions, [n, positions, channels, taps]."""
    v = window(node)
    rank = len(v.kernel)
    reach = [
        (s - 1) * st + (k - 1) * d + 1 for s, st, k, d in zip(space, v.strides, v.kernel, v.dilations, strict=True)
    ]
    pads = [(0, 0), (0, 0)] + [
        (v.pads[i], max(v.pads[i + rank], reach[i] - x.shape[2 + i] - v.pads[i])) for i in range(rank)
    ]
    padded = np.pad(x, pads)
    steps = padded.strides
    shape = (*x.shape[:2], *space, *v.kernel)
    strides = (
        *steps[:2],
        *(s * st for s, st in zip(steps[2:], v.strides, strict=True)),
        *(s * d for s, d in zip(steps[2:], v.dilations, strict=True)),
    )
    view = np.lib.stride_tricks.as_strided(padded, shape, strides, writeable=False)
    taken = view[(slice(None), slice(None), *np.unravel_index(pick, space))]  # [n, channels, positions, *kernel]
    return np.ascontiguousarray(np.moveaxis(taken, 2, 1)).reshape(len(x), len(pick), x.shape[1], -1)


def write(node: ir.Node, weights: F32, change: F64) -> None:
    """Add D [g, columns + 1, outputs] to the weights, and its constant row to the bias or the addition behind."""
    w = node.inputs[1]
    assert w is not None and w.const_value is not None
    fresh = (weights + change[:, :-1]).astype(np.float32)
    shape = w.const_value.shape.numpy()
    if node.op_type == "Conv":
        array = fresh.transpose(0, 2, 1).reshape(shape)
    else:
        array = fresh[0].T if attribute(node, "transB", 0) else fresh[0]
    alpha = attribute(node, "alpha", 1.0) if node.op_type == "Gemm" else 1.0
    if alpha != 1.0:
        array = constant(w) + (array - constant(w)) / np.float32(alpha)  # type: ignore[operator]
    w.const_value = ir.tensor(np.ascontiguousarray(array, np.float32), name=w.name)
    room = bias_of(node)
    if room is not None:
        bias, sign = room
        is_behind = bias not in node.inputs  # where there is no β
        offset = sign * change[:, -1].ravel() / (1.0 if is_behind else attribute(node, "beta", 1.0))
        array = constant(bias) + offset.astype(np.float32).reshape(dims(bias))  # type: ignore[operator]
        bias.const_value = ir.tensor(array, name=bias.name)


def bias_of(node: ir.Node) -> tuple[ir.Value, float] | None:
    """A parameter that is added to (1.0) or taken from (−1.0) the node's output alone, with one entry for each unit.

    Its own bias, that of an addition behind, or the mean of a BatchNormalization behind. Where there is none the refit
    does without: a new bias would be a parameter more than the plan promised.
    """
    third = node.inputs[2] if len(node.inputs) > 2 else None
    axis = 1 - len(dims(node.outputs[0])) if node.op_type == "Conv" else -1  # of the units, from the end
    uses = list(node.outputs[0].uses())
    reader = uses[0].node if len(uses) == 1 else None
    if third is not None:
        found = (third, 1.0) if attribute(node, "beta", 1.0) != 0 else None
        axis = -1
    elif reader is not None and reader.op_type == "Add":
        other = reader.inputs[1 - uses[0].idx]
        found = None if other is None else (other, 1.0)
    elif reader is not None and reader.op_type == "BatchNormalization" and not attribute(reader, "training_mode", 0):
        mean = reader.inputs[3]
        found, axis = (None if mean is None else (mean, -1.0)), -1
    else:
        found = None
    if found is None or found[0].const_value is None or len(found[0].uses()) > 1:
        return None
    width = dims(node.outputs[0])[1 if node.op_type == "Conv" else -1]
    shape = dims(found[0])
    is_row = len(shape) >= -axis and shape[axis] == width == int(np.prod(shape))
    return found if is_row else None
