"""Small living networks, written with onnx.helper: He-scaled weights, biases that are not zero, statistics of data.

A network whose output ignores its input proves nothing: a wrong pruner passes on it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from toolchain.model import Model, load

PROBES = 32


class Net:
    """A graph under construction: methods add nodes and hand back the name of what they make.

    inputs  name -> shape without the batch; `batch` is "N" or a number
    """

    def __init__(self, seed: int = 0, batch: str | int = "N", **inputs: tuple[int, ...]) -> None:
        self.generator = np.random.default_rng([seed, 11])
        self.batch, self.inputs = batch, inputs
        self.nodes: list[onnx.NodeProto] = []
        self.outputs: list[str] = []
        self.parameters: dict[str, np.ndarray] = {}

    # ---- what has been built --------------------------------------------------------------------------------------
    def proto(self, *outputs: str, opset: int = 20) -> onnx.ModelProto:
        """The file, with these outputs (the last node's by default)."""
        names = outputs or self.outputs or (self.nodes[-1].output[0],)
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, [self.batch, *s]) for n, s in self.inputs.items()],
            [helper.make_empty_tensor_value_info(n) for n in names],
            [numpy_helper.from_array(a, n) for n, a in self.parameters.items()],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        known = {v.name: v for v in onnx.shape_inference.infer_shapes(proto).graph.output}
        for output in proto.graph.output:
            output.CopyFrom(known[output.name])
        return proto

    def model(self, *outputs: str) -> Model:
        """The network as the toolchain reads it."""
        return loaded(self.proto(*outputs))

    def value(self, name: str) -> np.ndarray:
        """What a value is on random inputs, [n, *s]."""
        n = PROBES if self.batch == "N" else int(self.batch)
        feed = samples({k: s for k, s in self.inputs.items()}, n, seed=5)
        if name in feed:
            return feed[name]
        runner = ort.InferenceSession(self.proto(name).SerializeToString(), providers=["CPUExecutionProvider"])
        return runner.run(None, {i.name: feed[i.name] for i in runner.get_inputs()})[0]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a value without its batch."""
        return self.value(name).shape[1:]

    # ---- parameters and nodes -------------------------------------------------------------------------------------
    def hold(self, name: str, array: np.ndarray) -> str:
        """A parameter of this name."""
        self.parameters[name] = array
        return name

    def weight(self, name: str, *shape: int, terms: int) -> str:
        """Weights that keep the variance of a sum of this many terms through a ReLU."""
        scale = np.sqrt(2 / terms)
        return self.hold(name, (self.generator.standard_normal(shape) * scale).astype(np.float32))

    def bias(self, name: str, *shape: int) -> str:
        """Biases that are not zero."""
        return self.hold(name, self.generator.uniform(-0.3, 0.4, shape).astype(np.float32))

    def op(self, kind: str, *inputs: Any, outputs: int = 1, name: str = "", **attributes: Any) -> str:
        """Add a node; arrays become parameters named after it."""
        name = name or f"{kind.lower()}{len(self.nodes)}"
        read = [self.hold(f"{name}.{i}", x) if isinstance(x, np.ndarray) else (x or "") for i, x in enumerate(inputs)]
        made = [name, *(f"{name}:{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(kind, read, made, name=name, **attributes))
        return name

    def conv(
        self, x: str, channels: int, kernel: int = 3, *, group: int = 1, bias: bool = True, **attributes: Any
    ) -> str:
        """A convolution that keeps the size of its input where neither stride nor pads are given."""
        before, *space = self.shape(x)
        name = f"conv{len(self.nodes)}"
        kernels, columns = [kernel] * len(space), before // group
        attributes = {"pads": [kernel // 2] * 2 * len(space)} | attributes
        w = self.weight(f"{name}.weight", channels, columns, *kernels, terms=columns * kernel ** len(space))
        b = [self.bias(f"{name}.bias", channels)] if bias else []
        return self.op("Conv", x, w, *b, name=name, group=group, **attributes)

    def dense(self, x: str, units: int, *, trans: int = 1) -> str:
        """A Gemm, its weights [units, columns] or, with trans=0, [columns, units]."""
        (columns,) = self.shape(x)
        name = f"dense{len(self.nodes)}"
        w = self.weight(f"{name}.weight", *((units, columns) if trans else (columns, units)), terms=columns)
        return self.op("Gemm", x, w, self.bias(f"{name}.bias", units), name=name, transB=trans)

    def norm(self, x: str) -> str:
        """Batch normalisation with the statistics that its input has, a scale and an offset."""
        h = self.value(x).astype(np.float64)
        others = tuple(a for a in range(h.ndim) if a != 1)
        name, channels = f"norm{len(self.nodes)}", h.shape[1]
        scale = self.hold(f"{name}.weight", self.generator.uniform(0.6, 1.4, channels).astype(np.float32))
        mean = self.hold(f"{name}.mean", h.mean(axis=others).astype(np.float32))
        variance = self.hold(f"{name}.var", (h.var(axis=others) + 1e-2).astype(np.float32))
        return self.op("BatchNormalization", x, scale, self.bias(f"{name}.bias", channels), mean, variance, name=name)

    def recurrence(
        self, kind: str, x: str, features: int, hidden: int, directions: int, first: str | None = None
    ) -> str:
        """An LSTM or GRU with a bias and perhaps a first state: [T, N, features] -> [T, directions, N, hidden]."""
        name, gates = f"{kind.lower()}{len(self.nodes)}", {"LSTM": 4, "GRU": 3}[kind] * hidden
        w = self.weight(f"{name}.weight", directions, gates, features, terms=features)
        r = self.weight(f"{name}.recurrence", directions, gates, hidden, terms=hidden)
        b = self.bias(f"{name}.bias", directions, 2 * gates)
        direction = "bidirectional" if directions == 2 else "forward"
        state = [] if first is None else [None, first]
        return self.op(kind, x, w, r, b, *state, name=name, outputs=2, hidden_size=hidden, direction=direction)

    def relu(self, x: str) -> str:
        """Relu."""
        return self.op("Relu", x)

    def head(self, x: str, classes: int = 4) -> str:
        """Logits."""
        return self.dense(x, classes)

    def pooled(self, x: str) -> str:
        """Mean over space, [N, C]."""
        return self.op("Flatten", self.op("GlobalAveragePool", x))


def loaded(proto: onnx.ModelProto | bytes) -> Model:
    """A model read through a file, as a user's is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
        return load(path)


def samples(shapes: dict[str, tuple[int, ...]], n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded standard normal inputs {name: [n, *s]}."""
    generator = np.random.default_rng(seed)
    return {k: generator.standard_normal((n, *s)).astype(np.float32) for k, s in shapes.items()}


# ---- the networks --------------------------------------------------------------------------------------------------
def mlp() -> Net:
    """Dense layers, one stored as [columns, units]."""
    net = Net(1, x=(6,))
    y = net.relu(net.dense("x", 10))
    y = net.relu(net.dense(y, 9, trans=0))
    net.head(y)
    return net


def alexnet() -> Net:
    """Convolutions, overlapping max pools, a flatten, dense layers."""
    net = Net(2, x=(3, 13, 13))
    y = net.relu(net.conv("x", 6, 5, strides=[2, 2]))
    y = net.op("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2])
    y = net.relu(net.conv(y, 8))
    y = net.op("MaxPool", y, kernel_shape=[2, 2], strides=[1, 1])
    y = net.relu(net.dense(net.op("Flatten", y), 12))
    y = net.relu(net.dense(net.op("Dropout", y), 10))
    net.head(y, 5)
    return net


def residual() -> Net:
    """Three blocks on one stream, batch normalisation, a strided shortcut."""
    net = Net(3, x=(3, 10, 10))
    y = net.relu(net.norm(net.conv("x", 8, bias=False)))
    z = net.norm(net.conv(net.relu(net.norm(net.conv(y, 6, bias=False))), 8, bias=False))
    y = net.relu(net.op("Add", y, z))
    z = net.norm(net.conv(net.relu(net.norm(net.conv(y, 7, strides=[2, 2]))), 10, bias=False))
    y = net.relu(net.op("Add", z, net.norm(net.conv(y, 10, 1, strides=[2, 2]))))
    z = net.norm(net.conv(net.relu(net.conv(y, 5)), 10))
    y = net.relu(net.op("Add", y, z))
    net.head(net.pooled(y))
    return net


def separable() -> Net:
    """Depthwise convolutions, one with a multiplier, and Clip to [0, 6]."""
    net = Net(4, x=(3, 9, 9))
    bounds = np.array(0, np.float32), np.array(6, np.float32)
    y = net.op("Clip", net.conv("x", 8, strides=[2, 2]), *bounds)
    y = net.op("Clip", net.norm(net.conv(y, 8, group=8)), *bounds)
    y = net.op("Clip", net.conv(y, 10, 1), *bounds)
    y = net.op("Clip", net.conv(y, 20, group=10), *bounds)
    y = net.relu(net.conv(y, 9, 1))
    net.head(net.pooled(y))
    return net


def dense_block() -> Net:
    """Every layer reads the concatenation of all before it."""
    net = Net(5, x=(3, 8, 8))
    stack = net.conv("x", 6)
    for growth in (4, 5):
        y = net.conv(net.relu(net.norm(stack)), growth)
        stack = net.op("Concat", stack, y, axis=1)
    y = net.op("AveragePool", net.relu(net.conv(stack, 7, 1)), kernel_shape=[2, 2], strides=[2, 2])
    net.head(net.pooled(y))
    return net


def grouped() -> Net:
    """Grouped convolutions between plain ones."""
    net = Net(6, x=(4, 8, 8))
    y = net.relu(net.conv("x", 12, 1))
    y = net.relu(net.conv(y, 16, group=4))
    y = net.relu(net.conv(y, 8, group=2))
    y = net.relu(net.conv(y, 6, 1))
    net.head(net.pooled(y))
    return net


def excitation() -> Net:
    """Squeeze and excitation: channels gate themselves through two pointwise convolutions, and through two Gemms."""
    net = Net(7, x=(3, 8, 8))
    y = net.relu(net.conv("x", 8))
    gate = net.op("ReduceMean", y, np.array([2, 3], np.int64), keepdims=1)
    gate = net.op("Sigmoid", net.conv(net.relu(net.conv(gate, 4, 1)), 8, 1))
    y = net.relu(net.conv(net.op("Mul", y, gate), 10))
    gate = net.op("Flatten", net.op("GlobalAveragePool", y))
    gate = net.op("HardSigmoid", net.dense(net.relu(net.dense(gate, 5)), 10))
    gate = net.op("Reshape", gate, np.array([-1, 10, 1, 1], np.int64))
    y = net.op("Mul", gate, y)
    net.head(net.pooled(y))
    return net


def signal() -> Net:
    """1-D convolutions, strided and dilated, flattened."""
    net = Net(8, x=(2, 24))
    y = net.relu(net.norm(net.conv("x", 8, 5, strides=[2])))
    y = net.relu(net.conv(y, 6, 3, dilations=[2], pads=[2, 2]))
    y = net.op("MaxPool", y, kernel_shape=[2], strides=[2])
    y = net.relu(net.dense(net.op("Flatten", y), 9))
    net.head(y)
    return net


def channels_last() -> Net:
    """A head that flattens height, width, channels: Torch-Pruning is silently wrong on it."""
    net = Net(9, x=(3, 7, 7))
    y = net.relu(net.conv("x", 6, strides=[2, 2]))
    y = net.relu(net.conv(y, 5))
    y = net.op("Flatten", net.op("Transpose", y, perm=[0, 2, 3, 1]))
    y = net.relu(net.dense(y, 9))
    net.head(y)
    return net


def literal_batch() -> Net:
    """MatMul and Add with batch 1 written into the input and into a Reshape."""
    net = Net(10, batch=1, x=(2, 5))
    y = net.op("Reshape", "x", np.array([1, 10], np.int64))
    for units in (9, 8):
        w = net.weight(f"w{units}", net.shape(y)[0], units, terms=net.shape(y)[0])
        y = net.relu(net.op("Add", net.op("MatMul", y, w), net.bias(f"b{units}", units)))
    y = net.op("MatMul", y, net.weight("w4", 8, 4, terms=8))
    net.op("Add", net.bias("b4", 4), y)
    return net


def decoder() -> Net:
    """Down by strides, up by transposed convolutions, depthwise and plain; the output is an image."""
    net = Net(11, x=(2, 8, 8))
    y = net.relu(net.conv("x", 6, strides=[2, 2]))
    y = net.relu(net.conv(y, 8, strides=[2, 2]))
    w = net.weight("up1", 8, 6, 3, 3, terms=32)
    settings = {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}
    y = net.relu(net.op("ConvTranspose", y, w, net.bias("up1.bias", 6), **settings))
    w = net.weight("up2", 6, 1, 2, 2, terms=1)
    y = net.relu(net.op("ConvTranspose", y, w, net.bias("up2.bias", 6), strides=[2, 2], group=6))
    net.conv(y, 2)
    return net


def activations() -> Net:
    """PRelu, LeakyRelu, HardSwish, Elu, Tanh, Sigmoid, HardSigmoid, one after the other."""
    net = Net(12, x=(3, 8, 8))
    y = net.conv("x", 7)
    slope = net.hold("slope", np.linspace(0.1, 0.5, 7, dtype=np.float32).reshape(7, 1, 1))
    y = net.conv(net.op("PRelu", y, slope), 6, strides=[2, 2])
    y = net.conv(net.op("LeakyRelu", y, alpha=0.2), 8)
    y = net.conv(net.op("HardSwish", y), 7)
    y = net.conv(net.op("Elu", y), 6)
    y = net.conv(net.op("Tanh", y), 5)
    y = net.op("HardSigmoid", net.dense(net.pooled(net.op("Sigmoid", y)), 6))
    net.head(y)
    return net


def two_inputs() -> Net:
    """An image and a row, joined; a second output."""
    net = Net(13, image=(2, 8, 8), row=(5,))
    a = net.pooled(net.relu(net.conv("image", 6, strides=[2, 2])))
    b = net.relu(net.dense("row", 7))
    y = net.relu(net.dense(net.op("Concat", a, b, axis=1), 8))
    net.head(y)
    return net


def attention() -> Net:
    """One block of self-attention with two heads, and a token-wise MLP, without normalisation."""
    net = Net(14, x=(5, 6))
    heads, width = 2, 4

    def projected(name: str) -> str:
        y = net.op("MatMul", "x", net.weight(f"{name}.w", 6, heads * width, terms=12))
        y = net.op("Add", y, net.bias(f"{name}.b", heads * width))
        y = net.op("Reshape", y, np.array([0, 5, heads, width], np.int64))
        return net.op("Transpose", y, perm=[0, 2, 1, 3])

    q, k, v = projected("q"), projected("k"), projected("v")
    scores = net.op("Mul", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), np.array(0.5, np.float32))
    mixed = net.op("Transpose", net.op("MatMul", net.op("Softmax", scores), v), perm=[0, 2, 1, 3])
    joined = net.op("Reshape", mixed, np.array([0, 5, heads * width], np.int64))
    y = net.op("Add", net.op("MatMul", joined, net.weight("o.w", 8, 6, terms=8)), "x")
    hidden = net.op("Add", net.op("MatMul", y, net.weight("up.w", 6, 9, terms=6)), net.bias("up.b", 9))
    y = net.op("Add", y, net.op("MatMul", net.relu(hidden), net.weight("down.w", 9, 6, terms=9)))
    net.head(net.op("ReduceMean", y, np.array([1], np.int64), keepdims=0))
    return net


def two_heads() -> Net:
    """One feature map flattened twice, in either order, and pooled; with a softmax at the end."""
    net = Net(15, x=(2, 6, 6))
    y = net.op("MaxPool", net.relu(net.conv("x", 6)), kernel_shape=[2, 2], strides=[2, 2])
    a = net.relu(net.dense(net.op("Flatten", y), 7))
    b = net.relu(
        net.dense(net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 3, 1]), np.array([0, -1], np.int64)), 5)
    )
    y = net.op("Concat", a, b, net.pooled(y), axis=1)
    net.op("Softmax", net.head(y))
    return net


def shuffle() -> Net:
    """Two channel shuffles around a grouped and a depthwise convolution, as in ShuffleNet."""
    net = Net(16, x=(3, 6, 6))
    y = net.relu(net.conv("x", 8))
    for parts in (2, 4):
        _, height, width = net.shape(y)
        y = net.op("Reshape", y, np.array([0, parts, 8 // parts, height, width], np.int64))
        y = net.op("Transpose", y, perm=[0, 2, 1, 3, 4])
        y = net.op("Reshape", y, np.array([0, 8, height, width], np.int64))
        y = net.relu(net.conv(y, 8, group=8) if parts == 2 else net.conv(y, 6, group=2))
    net.head(net.pooled(y))
    return net


def two_ways() -> Net:
    """Half of the channels go on, the other half through a branch; then both are shuffled, as in ShuffleNetV2."""
    net = Net(17, x=(3, 6, 6))
    y = net.relu(net.conv("x", 12))
    for _ in range(2):
        near = net.op("Split", y, np.array([6, 6], np.int64), axis=1, outputs=2)
        y = net.relu(net.conv(net.conv(net.relu(net.conv(f"{near}:1", 6, 1)), 6, group=6), 6, 1))
        y = net.op("Reshape", net.op("Concat", near, y, axis=1), np.array([0, 2, 6, 6, 6], np.int64))
        y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3, 4]), np.array([0, 12, 6, 6], np.int64))
    net.head(net.pooled(net.relu(net.conv(y, 7, 1))))
    return net


def gated_halves() -> Net:
    """Gated linear units: one half gates the other, by Split and by Slice; unequal parts by number."""
    net = Net(18, x=(2, 20))
    y = net.conv("x", 16)
    a = net.op("Split", y, axis=1, num_outputs=2, outputs=2)
    y = net.conv(net.op("Mul", a, net.op("Sigmoid", f"{a}:1")), 14)
    first, last = (
        net.op("Slice", y, *(np.array([i], np.int64) for i in (*ends, 1, 1))) for ends in ((0, 7), (-7, 1 << 60))
    )
    y = net.conv(net.op("Mul", net.op("Tanh", first), last), 9)
    c = net.op("Split", y, axis=1, num_outputs=2, outputs=2)
    y = net.op("Concat", net.op("Tanh", f"{c}:1"), c, axis=1)
    net.head(net.op("ReduceMean", y, np.array([2], np.int64), keepdims=0))
    return net


def pixel_shuffle() -> Net:
    """Super-resolution: channels to space by DepthToSpace in both orders and by reshapes, and back to channels."""
    net = Net(19, x=(2, 4, 4))
    y = net.op("DepthToSpace", net.relu(net.conv("x", 20)), blocksize=2, mode="CRD")
    y = net.op("DepthToSpace", net.relu(net.conv(y, 24)), blocksize=2)
    y = net.op("SpaceToDepth", net.relu(net.conv(y, 6)), blocksize=4)
    y = net.op("Reshape", net.relu(net.conv(y, 16)), np.array([-1, 4, 2, 2, 4, 4], np.int64))
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 1, 4, 2, 5, 3]), np.array([-1, 4, 8, 8], np.int64))
    net.conv(y, 2)
    return net


def u_net() -> Net:
    """Down by pooling, up by a transposed convolution and by resizing, joined with what came before."""
    net = Net(20, x=(2, 8, 8))
    a = net.relu(net.conv("x", 6))
    b = net.relu(net.conv(net.op("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2]), 8))
    y = net.relu(net.conv(net.op("MaxPool", b, kernel_shape=[2, 2], strides=[2, 2]), 10))
    w = net.weight("up", 10, 7, 2, 2, terms=10)
    y = net.op("ConvTranspose", y, w, net.bias("up.bias", 7), strides=[2, 2])
    y = net.relu(net.conv(net.op("Concat", y, b, axis=1), 8))
    y = net.op("Resize", y, None, np.array([1, 1, 2, 2], np.float32), mode="linear")
    net.conv(net.relu(net.conv(net.op("Concat", a, y, axis=1), 6)), 2, 1)
    return net


def pyramid() -> Net:
    """Feature pyramid: three scales, from coarse to fine, each with a shared head."""
    net = Net(21, x=(2, 8, 8))
    levels, y = [], "x"
    for channels in (6, 8, 10):
        y = net.relu(net.conv(y, channels, strides=[2, 2] if levels else [1, 1]))
        levels.append(net.conv(y, 9, 1))
    w, b = net.weight("shared", 5, 9, 3, 3, terms=81), net.bias("shared.bias", 5)
    last = net.weight("last", 3, 5, 1, 1, terms=5)
    merged = levels.pop()
    while True:
        hidden = net.relu(net.op("Conv", merged, w, b, pads=[1] * 4))
        net.outputs.append(net.op("Conv", hidden, last))
        if not levels:
            return net
        up = net.op("Resize", merged, None, np.array([1, 1, 2, 2], np.float32), mode="nearest")
        merged = net.op("Add", levels.pop(), up)


def volume() -> Net:
    """3-D convolutions, pooled and flattened."""
    net = Net(22, x=(2, 4, 5, 4))
    y = net.relu(net.norm(net.conv("x", 6)))
    y = net.op("MaxPool", net.relu(net.conv(y, 5)), kernel_shape=[2, 2, 2], strides=[2, 2, 2])
    net.head(net.relu(net.dense(net.op("Flatten", y), 8)))
    return net


def siamese() -> Net:
    """Two inputs through the same weights, compared; one weight used three times."""
    net = Net(23, a=(2, 6, 6), b=(2, 6, 6))
    w, bias = net.weight("w", 8, 2, 3, 3, terms=18), net.bias("w.bias", 8)
    v = net.weight("v", 7, 8, 1, 1, terms=8)
    a, b = (net.relu(net.op("Conv", net.relu(net.op("Conv", x, w, bias)), v)) for x in ("a", "b"))
    turn = net.weight("turn", 7, 7, terms=7)
    y = net.op("MatMul", net.op("MatMul", net.pooled(net.op("Sub", a, b)), turn), turn)
    y = net.op("Add", net.op("MatMul", net.op("Tanh", y), turn), net.pooled(net.op("Mul", a, b)))
    net.head(net.relu(net.dense(y, 6)))
    return net


def tokens_of(net: Net, x: str, width: int) -> str:
    """Patches of an image as tokens, [N, T, width]."""
    y = net.conv(x, width, 2, strides=[2, 2], pads=[0] * 4)
    y = net.op("Reshape", y, np.array([0, width, -1], np.int64))
    return net.op("Transpose", y, perm=[0, 2, 1])


def linear(net: Net, x: str, units: int, name: str) -> str:
    """A token-wise dense layer."""
    columns = net.shape(x)[-1]
    y = net.op("MatMul", x, net.weight(f"{name}.w", columns, units, terms=2 * columns))
    return net.op("Add", y, net.bias(f"{name}.b", units))


def attended(net: Net, q: str, k: str, v: str, bias: str | None = None) -> str:
    """softmax(q·kᵀ/√d + bias)·v, all [N, H, T, d]."""
    axes = list(range(len(net.shape(k)) + 1))
    axes[-2:] = axes[:-3:-1]
    scores = net.op("MatMul", net.op("Mul", q, np.array(0.5, np.float32)), net.op("Transpose", k, perm=axes))
    scores = net.op("Add", scores, bias) if bias else scores
    return net.op("MatMul", net.op("Softmax", scores), v)


def layer_norm(net: Net, x: str) -> str:
    """Normalised tokens."""
    width = net.shape(x)[-1]
    scale = net.hold(f"ln{len(net.nodes)}.w", net.generator.uniform(0.6, 1.4, width).astype(np.float32))
    return net.op("LayerNormalization", x, scale, net.bias(f"ln{len(net.nodes)}.b", width))


def fused_attention() -> Net:
    """A vision transformer: class token, fused query, key and value, layer norms, layer scale, MLP."""
    net = Net(24, x=(2, 4, 4))
    width, heads, size = 12, 3, 5
    y = tokens_of(net, "x", width)
    shape = net.op("Gather", net.op("Shape", y), np.array([0], np.int64))
    target = net.op("Concat", shape, np.array([1, width], np.int64), axis=0)
    y = net.op("Concat", net.op("Expand", net.bias("cls", 1, 1, width), target), y, axis=1)
    y = net.op("Add", y, net.bias("position", 1, size, width))
    qkv = linear(net, layer_norm(net, y), 3 * width, "qkv")
    qkv = net.op("Reshape", qkv, np.array([-1, size, 3, heads, width // heads], np.int64))
    qkv = net.op("Transpose", qkv, perm=[2, 0, 3, 1, 4])
    q, k, v = (net.op("Gather", qkv, np.array(i, np.int64), axis=0) for i in range(3))
    z = net.op("Transpose", attended(net, q, k, v), perm=[0, 2, 1, 3])
    z = linear(net, net.op("Reshape", z, np.array([-1, size, width], np.int64)), width, "out")
    y = net.op("Add", y, net.op("Mul", z, net.bias("gamma", width)))
    z = linear(net, net.op("Gelu", linear(net, layer_norm(net, y), 16, "up")), width, "down")
    y = net.op("Add", y, net.op("Mul", net.bias("gamma2", width), z))
    net.head(net.op("Gather", layer_norm(net, y), np.array(0, np.int64), axis=1))
    return net


def grouped_query() -> Net:
    """Four query heads share two keys and values; rotated by Slice, Neg and Concat; a gated MLP."""
    net = Net(25, x=(5, 6))
    kv, repeats, width, tokens = 2, 2, 6, 5
    y = net.op("Tanh", "x")
    q = net.op("Reshape", linear(net, y, kv * repeats * width, "q"), np.array([0, 0, kv * repeats, width], np.int64))
    k, v = (net.op("Reshape", linear(net, y, kv * width, name), np.array([0, 0, kv, width], np.int64)) for name in "kv")
    q, k, v = (net.op("Transpose", z, perm=[0, 2, 1, 3]) for z in (q, k, v))
    angles = np.outer(np.arange(tokens), [1, 0.3, 0.1, 1, 0.3, 0.1]).astype(np.float32)

    def rotated(z: str) -> str:
        ends = ((0, width // 2), (width // 2, width))
        low, high = (net.op("Slice", z, *(np.array([i], np.int64) for i in (*e, -1))) for e in ends)
        turned = net.op("Mul", net.op("Concat", net.op("Neg", high), low, axis=-1), np.sin(angles))
        return net.op("Add", net.op("Mul", z, np.cos(angles)), turned)

    def repeated(z: str) -> str:
        z = net.op("Expand", net.op("Unsqueeze", z, np.array([2], np.int64)), np.array([1, 1, repeats, 1, 1], np.int64))
        return net.op("Reshape", z, np.array([-1, kv * repeats, tokens, width], np.int64))

    mixed = attended(net, rotated(q), repeated(rotated(k)), repeated(v))
    mixed = net.op("Transpose", mixed, perm=[0, 2, 1, 3])
    mixed = net.op("Reshape", mixed, np.array([-1, tokens, kv * repeats * width], np.int64))
    y = net.op("Add", linear(net, mixed, 6, "o"), "x")
    gate = net.op("Mul", net.op("Sigmoid", linear(net, y, 9, "gate")), linear(net, y, 9, "up"))
    y = net.op("Add", y, linear(net, gate, 6, "down"))
    net.head(net.op("ReduceMean", y, np.array([1], np.int64), keepdims=0))
    return net


def windows() -> Net:
    """Attention in shifted windows with a relative bias, as in Swin: roll by Slice and Concat, partition, reverse."""
    net = Net(26, x=(2, 8, 8))
    width, heads, side, w = 8, 2, 4, 2
    y = net.op("Transpose", net.conv("x", width, 2, strides=[2, 2], pads=[0] * 4), perm=[0, 2, 3, 1])

    def rolled(z: str, shift: int) -> str:
        for axis in (1, 2):
            ends = ((shift, 1 << 60), (0, shift))
            z = net.op(
                "Concat", *(net.op("Slice", z, *(np.array([i], np.int64) for i in (*e, axis))) for e in ends), axis=axis
            )
        return z

    z = net.op("Reshape", rolled(layer_norm(net, y), 1), np.array([-1, side // w, w, side // w, w, width], np.int64))
    z = net.op("Reshape", net.op("Transpose", z, perm=[0, 1, 3, 2, 4, 5]), np.array([-1, w * w, width], np.int64))
    qkv = net.op("Reshape", linear(net, z, 3 * width, "qkv"), np.array([-1, w * w, 3, heads, width // heads], np.int64))
    qkv = net.op("Split", net.op("Transpose", qkv, perm=[2, 0, 3, 1, 4]), axis=0, num_outputs=3, outputs=3)
    q, k, v = (net.op("Squeeze", part, np.array([0], np.int64)) for part in (qkv, f"{qkv}:1", f"{qkv}:2"))
    table = net.bias("table", (2 * w - 1) ** 2, heads)
    places = np.stack(np.divmod(np.arange(w * w), w))
    offsets = (places[:, :, None] - places[:, None]) + w - 1
    bias = net.op("Gather", table, (offsets[0] * (2 * w - 1) + offsets[1]).ravel(), axis=0)
    bias = net.op("Transpose", net.op("Reshape", bias, np.array([w * w, w * w, heads])), perm=[2, 0, 1])
    z = attended(net, q, k, v, net.op("Unsqueeze", bias, np.array([0], np.int64)))
    z = net.op("Reshape", net.op("Transpose", z, perm=[0, 2, 1, 3]), np.array([-1, w * w, width], np.int64))
    z = net.op("Reshape", linear(net, z, width, "out"), np.array([-1, side // w, side // w, w, w, width], np.int64))
    z = net.op("Reshape", net.op("Transpose", z, perm=[0, 1, 3, 2, 4, 5]), np.array([-1, side, side, width], np.int64))
    y = net.op("Add", y, rolled(z, -1))
    y = net.op("Add", y, linear(net, net.op("Gelu", linear(net, layer_norm(net, y), 12, "up")), width, "down"))
    net.head(net.op("ReduceMean", y, np.array([1, 2], np.int64), keepdims=0))
    return net


def mixer() -> Net:
    """MLPs over tokens and over channels in turn."""
    net = Net(27, x=(2, 4, 4))
    y = tokens_of(net, "x", 10)
    z = net.op("Transpose", layer_norm(net, y), perm=[0, 2, 1])
    z = linear(net, net.op("Gelu", linear(net, z, 9, "tokens.up")), 4, "tokens.down")
    y = net.op("Add", y, net.op("Transpose", z, perm=[0, 2, 1]))
    y = net.op("Add", y, linear(net, net.op("Gelu", linear(net, layer_norm(net, y), 14, "up")), 10, "down"))
    net.head(net.op("ReduceMean", layer_norm(net, y), np.array([1], np.int64), keepdims=0))
    return net


def sequence_first() -> Net:
    """Attention with tokens ahead of the batch, which heads are folded into: [T, N, H·d] -> [T, N·H, d]."""
    net = Net(28, x=(5, 6))
    heads, width, tokens = 3, 4, 5
    y = net.op("Transpose", net.op("Tanh", "x"), perm=[1, 0, 2])

    def projected(name: str) -> str:
        z = net.op("MatMul", y, net.weight(f"{name}.w", 6, heads * width, terms=12))
        z = net.op("Reshape", net.op("Add", z, net.bias(f"{name}.b", heads * width)), FOLDED)
        return net.op("Transpose", z, perm=[1, 0, 2])

    FOLDED = np.array([tokens, -1, width], np.int64)
    z = net.op("Transpose", attended(net, *(projected(name) for name in "qkv")), perm=[1, 0, 2])
    z = net.op("Reshape", z, np.array([tokens, -1, heads * width], np.int64))
    z = net.op("Add", net.op("MatMul", z, net.weight("o.w", heads * width, 6, terms=12)), y)
    net.head(net.op("ReduceMean", z, np.array([0], np.int64), keepdims=0))
    return net


def normalised() -> Net:
    """Normalisations by the data's own statistics: whole groups go, single channels go, a layer's features stay."""
    net = Net(41, x=(3, 6, 6))
    y = net.conv("x", 8)
    y = net.op("InstanceNormalization", y, net.bias("instance.weight", 8), net.bias("instance.bias", 8))
    y = net.op("Gelu", net.conv(y, 12))
    y = net.op("Pow", net.op("LRN", y, size=3), np.array(2, np.float32))
    y = net.op("Transpose", net.op("Mish", net.conv(y, 10)), perm=[0, 2, 3, 1])
    y = net.op("LayerNormalization", y, net.bias("layer.weight", 10), net.bias("layer.bias", 10))
    y = net.op("Einsum", y, net.weight("mixed", 10, 9, terms=10), equation="nhwc,cd->nhwd")
    y = net.op("ReduceMax", net.op("LogSoftmax", y, axis=1), np.array([1, 2], np.int64), keepdims=0)
    net.head(net.relu(net.dense(y, 8)))
    return net


def recurrent() -> Net:
    """Layers of an LSTM both ways and a GRU; the features that they read and the states that they hand out."""
    net = Net(42, x=(5, 3))
    y = net.op("MatMul", "x", net.weight("features", 3, 7, terms=3))
    y = net.op("Transpose", net.op("Tanh", y), perm=[1, 0, 2])
    y = net.recurrence("LSTM", y, 7, 6, directions=2)
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), np.array([0, -1, 12], np.int64))
    count = net.op("Shape", "x", end=1)
    sizes = net.op("Concat", np.array([1], np.int64), count, np.array([8], np.int64), axis=0)
    first = net.op("ConstantOfShape", sizes, value=numpy_helper.from_array(np.array([0.2], np.float32)))
    y = net.recurrence("GRU", y, 12, 8, directions=1, first=first)
    y = net.op("Transpose", net.op("Squeeze", y, np.array([1], np.int64)), perm=[1, 0, 2])
    net.head(net.op("ReduceMean", y, np.array([1], np.int64), keepdims=0))
    return net


NETWORKS: dict[str, Callable[[], Net]] = {
    f.__name__: f
    for f in (
        mlp, alexnet, residual, separable, dense_block, grouped, excitation, signal, channels_last, literal_batch,
        decoder, activations, two_inputs, attention, two_heads, shuffle,
        two_ways, gated_halves, pixel_shuffle, u_net, pyramid, volume, siamese, fused_attention, grouped_query, windows,
        mixer, sequence_first, normalised, recurrent,
    )
}  # fmt: skip
IMAGES = {"decoder", "pixel_shuffle", "u_net", "pyramid"}  # what they answer is no row of logits
UNRANKED = {"recurrent", "sequence_first"}  # a recurrence has no gradient rule, tokens ahead of the batch no cut
CLASSIFIERS = [name for name in NETWORKS if name not in IMAGES | UNRANKED]


@cache
def original(name: str) -> onnx.ModelProto:
    """The file of a network; not to be changed."""
    return NETWORKS[name]().proto()


@cache
def network(name: str) -> Model:
    """A network as the toolchain reads it."""
    return loaded(original(name))


# ---- random networks -----------------------------------------------------------------------------------------------
ACTIVATIONS = ("Relu", "LeakyRelu", "HardSwish", "Sigmoid", "Tanh", "Elu")


@st.composite
def cnns(draw: st.DrawFn) -> Net:
    """Random small networks of convolutions, blocks and one of several heads."""
    channels = draw(st.sampled_from((1, 2, 3, 4)))
    net = Net(draw(st.integers(0, 999)), x=(channels, *draw(st.sampled_from(((6, 6), (7, 5), (8, 8))))))
    y = activated(draw, net, net.conv("x", draw(st.integers(2, 8)), draw(st.sampled_from((1, 3)))))
    for _ in range(draw(st.integers(0, 3))):
        y = draw(st.sampled_from(BLOCKS))(draw, net, y)
    y = draw(st.sampled_from(HEADS))(draw, net, y)
    if draw(st.booleans()):
        y = net.op(
            draw(st.sampled_from(ACTIVATIONS)), net.dense(y, draw(st.integers(2, 9)), trans=draw(st.integers(0, 1)))
        )
    net.head(y, draw(st.integers(2, 4)))
    return net


Block = Callable[[Any, Net, str], str]


def activated(draw: Any, net: Net, y: str) -> str:
    """Perhaps normalised, then bent."""
    y = net.norm(y) if draw(st.booleans()) else y
    return net.op(draw(st.sampled_from(ACTIVATIONS)), y)


def plain(draw: Any, net: Net, y: str) -> str:
    stride = draw(st.integers(1, 2))
    return activated(draw, net, net.conv(y, draw(st.integers(2, 8)), 3, strides=[stride, stride]))


def pooled(draw: Any, net: Net, y: str) -> str:
    if min(net.shape(y)[1:]) < 3:
        return plain(draw, net, y)
    settings = {"kernel_shape": [draw(st.integers(2, 3))] * 2, "strides": [draw(st.integers(1, 2))] * 2}
    # no padding behind where a window may hang over: onnxruntime's own shape inference is wrong there below opset 22
    settings |= draw(st.sampled_from(({"ceil_mode": 1, "pads": [1, 0, 0, 0]}, {"ceil_mode": 0, "pads": [1, 0, 0, 1]})))
    return net.op(draw(st.sampled_from(("MaxPool", "AveragePool"))), y, **settings)


def depthwise(draw: Any, net: Net, y: str) -> str:
    channels = net.shape(y)[0]
    return activated(draw, net, net.conv(y, channels * draw(st.integers(1, 2)), 3, group=channels))


def in_groups(draw: Any, net: Net, y: str) -> str:
    groups, columns, rows = (draw(st.integers(2, 3)) for _ in range(3))
    y = activated(draw, net, net.conv(y, groups * columns, 1))
    return activated(draw, net, net.conv(y, groups * rows, 3, group=groups))


def shortcut(draw: Any, net: Net, y: str) -> str:
    z = activated(draw, net, net.conv(y, draw(st.integers(2, 6)), 3))
    z = net.conv(z, net.shape(y)[0], 1)
    return activated(draw, net, net.op(draw(st.sampled_from(("Add", "Sub", "Mul"))), *draw(st.permutations([y, z]))))


def branches(draw: Any, net: Net, y: str) -> str:
    parts = [net.conv(y, draw(st.integers(1, 4)), draw(st.sampled_from((1, 3)))) for _ in range(2)]
    return activated(
        draw, net, net.op("Concat", *draw(st.permutations([*parts, y])), axis=draw(st.sampled_from((1, -3))))
    )


def gated(draw: Any, net: Net, y: str) -> str:
    channels = net.shape(y)[0]
    gate = net.relu(net.dense(net.pooled(y), draw(st.integers(2, 4))))
    gate = net.op("Unsqueeze", net.op("Sigmoid", net.dense(gate, channels)), np.array([2, 3], np.int64))
    return net.op("Mul", *draw(st.permutations([y, gate])))


def shuffled(draw: Any, net: Net, y: str) -> str:
    """A channel shuffle: split, turn, merge."""
    y = activated(draw, net, net.conv(y, 6, 1))
    _, height, width = net.shape(y)
    y = net.op("Reshape", y, np.array([-1, 2, 3, height, width], np.int64))
    y = net.op("Transpose", y, perm=[0, 2, 1, 3, 4])
    return net.op("Reshape", y, np.array([-1, 6, height, width], np.int64))


def flat(draw: Any, net: Net, y: str) -> str:
    return net.op("Flatten", y)


def flat_last(draw: Any, net: Net, y: str) -> str:
    y = net.op("Transpose", y, perm=[0, 2, 3, 1])
    return net.op("Reshape", y, np.array([-1, int(np.prod(net.shape(y)))], np.int64))


def mean_flat(draw: Any, net: Net, y: str) -> str:
    return net.pooled(y)


def mean_reduced(draw: Any, net: Net, y: str) -> str:
    return net.op("ReduceMean", y, np.array(draw(st.sampled_from(([2, 3], [-1, -2]))), np.int64), keepdims=0)


def mean_squeezed(draw: Any, net: Net, y: str) -> str:
    y = net.op("ReduceMean", y, np.array([3, 2], np.int64), keepdims=1)
    return net.op("Squeeze", y, np.array([-1, 2], np.int64))


def columns_flat(draw: Any, net: Net, y: str) -> str:
    return net.op("Flatten", net.op("ReduceMean", y, np.array([3], np.int64), keepdims=0))


BLOCKS: tuple[Block, ...] = (plain, pooled, depthwise, in_groups, shortcut, branches, gated, shuffled)
HEADS: tuple[Block, ...] = (flat, flat_last, mean_flat, mean_reduced, mean_squeezed, columns_flat)
