"""Convolutions of a few places written as one matrix product.

onnxruntime's convolution reads its weights anew for every image. Where an image has few places, each weight is hardly
used before the next is read, and weights that no cache holds make it wait for memory. The matrix [inputs, outputs] of
all places is read once for all rows, and leaves out what a convolution multiplies with padding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.ops.pooling import window
from toolchain.ops.table import argument, attribute, constant, dims, is_convolution, laid
from toolchain.ops.tape import Tape

FEW = 8  # places at which each weight is used
HEAVY = 1 << 20  # bytes of weights that the caches next to a core do not hold
LARGEST = 1 << 25  # bytes of a matrix: copies of larger weights (411 MB in a VGG) cost too much memory


def with_matrices(g: Tape, nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """The same nodes with a matrix product for each starving convolution; what read it reads the product."""
    found = []
    for node in nodes:
        if not is_starving(node):
            found.append(node)
            continue
        first, y, matrix = len(g.nodes), node.outputs[0], matrix_of(node)
        bias = constant(argument(node, 2))
        offset = [] if bias is None else [g.f32(np.repeat(bias, matrix.shape[1] // len(bias)))]
        rows = g.op("Reshape", node.inputs[0], g.i64([-1, len(matrix)]))
        product = g.op("MatMul" if bias is None else "Gemm", rows, g.f32(matrix), *offset)
        out = g.op("Reshape", product, g.i64([-1, *dims(y)[1:]]))
        out.shape, out.dtype = y.shape, ir.DataType.FLOAT
        ir.convenience.replace_all_uses_with(y, out)
        found += g.nodes[first:]
    return found


def is_starving(node: ir.Node) -> bool:
    """Whether a convolution waits for its weights, and its matrix has at most twice as many products."""
    if not is_convolution(node) or attribute(node, "group", 1) != 1:
        return False
    weights, ends = constant(node.inputs[1]), (node.inputs[0], node.outputs[0])
    if weights is None or weights.nbytes < HEAVY or any(v is None or v.shape is None for v in ends):
        return False
    wide, narrow = (math.prod(side) for side in sides(node))
    grown = weights.nbytes // math.prod(weights.shape[2:]) * wide * narrow
    return narrow <= FEW and wide <= 2 * math.prod(weights.shape[2:]) and grown <= LARGEST


def sides(node: ir.Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Places under the window, and places of the window: those of x and y, of a transposed convolution of y and x."""
    x, y = (dims(v)[2:] for v in (node.inputs[0], node.outputs[0]))
    return (y, x) if laid(node).folds else (x, y)


def matrix_of(node: ir.Node) -> NDArray[np.float32]:
    """The matrix of an ungrouped convolution with constant weights, [channels·places of x, channels·places of y]."""
    weights, v, (wide, narrow) = constant(node.inputs[1]), window(node), sides(node)
    assert weights is not None
    matrix = np.zeros((len(weights), *narrow, weights.shape[1], *wide), np.float32)
    for place, tap in itertools.product(np.ndindex(*narrow), np.ndindex(*v.kernel)):
        met = [q * s + k * d - p for q, k, s, d, p in zip(place, tap, v.strides, v.dilations, v.pads, strict=False)]
        if all(0 <= m < size for m, size in zip(met, wide, strict=True)):
            matrix[(slice(None), *place, slice(None), *met)] = weights[(..., *tap)]
    matrix = matrix.reshape(len(weights) * math.prod(narrow), -1)
    return matrix if laid(node).folds else np.ascontiguousarray(matrix.T)
