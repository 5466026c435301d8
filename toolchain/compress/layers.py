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
from toolchain.ops.table import argument, attribute, constant, dims, is_convolution, laid, operand, weights_of
from toolchain.ops.units import Ids

F32, F64 = NDArray[np.float32], NDArray[np.float64]


def is_linear(node: ir.Node, model: Model) -> bool:
    """Whether it is a convolution or a product with a matrix, sample by sample, whose weights serve it alone."""
    w, weights = argument(node, 1), weights_of(node)
    return (
        weights is not None
        and not weights.folds
        and w is not None
        and w.const_value is not None
        and len(w.uses()) == 1
        and dims(node.inputs[0])[0] in (-1, model.batch)
        and (is_convolution(node) or len(dims(w)) == 2)
    )


def column_axis(node: ir.Node) -> int:
    """The axis of the weight that is summed over."""
    return laid(node).reads % len(dims(node.inputs[1]))


def unit_axis(node: ir.Node, value: ir.Value | None) -> int:
    """The axis of a layer's input or output that holds its units."""
    return laid(node).unit % len(dims(value))


def blocks_of(node: ir.Node) -> int:
    """How many products stand side by side: the groups of a convolution."""
    return attribute(node, "group", 1)


def by_output(node: ir.Node) -> F32:
    """A view of the weights as [outputs, inputs of a block, *taps]."""
    w = constant(node.inputs[1])
    assert w is not None
    return np.moveaxis(w, (laid(node).makes, laid(node).reads), (0, 1))


def matrix(node: ir.Node) -> F32:
    """Weights as [g, columns, outputs]."""
    w, g = by_output(node), blocks_of(node)
    return w.reshape(g, len(w) // g, -1).transpose(0, 2, 1)


def store(node: ir.Node, weights: F32 | F64) -> None:
    """Make a matrix [g, columns, outputs] the node's weights, in place."""
    w, shape = operand(node, 1), by_output(node).shape
    array = np.moveaxis(weights.transpose(0, 2, 1).reshape(shape), (0, 1), (laid(node).makes, laid(node).reads))
    w.const_value = ir.tensor(np.ascontiguousarray(array, np.float32), name=w.name)


def positions(node: ir.Node, y: F32) -> int:
    """Output positions of a sample: those of an image, or one where every row of a matrix is taken."""
    return int(np.prod(y.shape[2:])) if is_convolution(node) else 1


def inputs_at(node: ir.Node, x: F32, space: tuple[int, ...], pick: Ids) -> F32:
    """What a layer reads for its outputs at some positions of `space`, [g, p, columns]; p runs over samples first."""
    if not is_convolution(node):
        return x.reshape(1, -1, x.shape[-1])
    patches = unfolded(node, x, space, pick)  # [n, positions, channels, taps]
    n, p, channels, taps = patches.shape
    g = blocks_of(node)
    return patches.reshape(n * p, g, channels // g * taps).transpose(1, 0, 2)


def outputs_at(node: ir.Node, y: F32, pick: Ids) -> F32:
    """A layer's outputs there, [g, p, m]."""
    if not is_convolution(node):
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
    fresh, alpha = (weights + change[:, :-1]).astype(np.float32), attribute(node, "alpha", 1.0)
    store(node, fresh if alpha == 1.0 else weights + (fresh - weights) / np.float32(alpha))
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
    y = node.outputs[0]
    axis = unit_axis(node, y) - len(dims(y))  # from the end
    uses = list(y.uses())
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
    width = dims(y)[unit_axis(node, y)]
    shape = dims(found[0])
    is_row = len(shape) >= -axis and shape[axis] == width == int(np.prod(shape))
    return found if is_row else None
