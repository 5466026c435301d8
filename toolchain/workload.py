"""What each node of a model does for one sample, in the terms in which `targets.estimate` prices kernels."""

from __future__ import annotations

import math

import onnx_ir as ir

from targets.estimate import Size, Work
from targets.kernels import Kind
from toolchain.model import Model
from toolchain.ops.table import Shape, attribute, dims, is_convolution, is_view
from toolchain.profile import arena, is_weight, node_macs, params

# A runtime does the second in the kernel of the first: what runtimes do, and no fact of the ops.
LEADERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "BatchNormalization"}
FOLLOWERS = {"Relu", "Clip", "BatchNormalization"}


def works(model: Model, shape: Shape = dims) -> tuple[Work, ...]:
    """One record for each node."""
    return tuple(work(n, shape) for n in model.graph)


def size(model: Model, shape: Shape = dims) -> Size:
    """Values of all parameters, and of the arena in float32."""
    return Size(params(model, shape), arena(model, shape) // 4)


def work(node: ir.Node, shape: Shape) -> Work:
    """Counts of one node; values of unknown shape count as none."""
    known = [v for v in node.inputs if v is not None and v.shape is not None]
    stored = sum(math.prod(shape(v)) for v in known if v.const_value is not None and is_weight(v))
    read = sum(abs(math.prod(shape(v))) for v in known if v.const_value is None)
    written = sum(abs(math.prod(shape(v))) for v in node.outputs if v.shape is not None)
    count = node_macs(node, shape)
    return Work(node.name or str(node.outputs[0].name), kind(node, count, stored), count, read, written, stored)


def kind(node: ir.Node, macs: int, weights: int) -> Kind:
    """Which kernel a node runs in: a matrix product whose weights are used again is one like a convolution."""
    if is_view(node):
        return "view"
    source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    if node.op_type in FOLLOWERS and source is not None and source.op_type in LEADERS:
        return "activation"
    if not macs:
        return "elementwise"
    if is_convolution(node):
        assert node.inputs[1] is not None
        return "depthwise" if attribute(node, "group", 1) > 1 and dims(node.inputs[1])[1] == 1 else "convolution"
    return "dense" if macs <= weights else "convolution"
