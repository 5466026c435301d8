"""An emitted file computes what its model computes; one row of CASES for each variant of an op."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

import toolchain.emit.run
from toolchain.emit import LiteModel, check, lite_outputs, to_tflite
from toolchain.emit.child import run
from toolchain.emit.run import onnx_outputs
from toolchain.errors import RunnerFailed, Unsupported
from toolchain.model import Model, load

SHARED = Path(__file__).resolve().parents[3] / "shared"
TOLERANCE = 1e-5  # relative to the largest output: other kernels sum in another order
CODES = {v: k for k, v in vars(schema.BuiltinOperator).items()}
KERNELS = ["BUILTIN", "BUILTIN_REF"]  # XNNPACK, reference
NO_REFERENCE = {"elu", "elu 0.4"}  # LiteRT 2.3 has no reference kernel for ELU


def weights(*shape: int, seed: int = 0, low: float = -1.0) -> np.ndarray:
    """Reproducible float32 numbers in (low, 1)."""
    return np.random.default_rng([seed, *shape]).uniform(low, 1, shape).astype(np.float32)


def scaled(*shape: int) -> np.ndarray:
    """Weights that keep activations near 1, so that no squashing function hides an error."""
    return weights(*shape) * np.sqrt(3 / np.prod(shape[1:])).astype(np.float32)


class Net:
    """A chain of nodes over the graph input x; `shape` without the batch."""

    def __init__(self, *shapes: tuple[int, ...], dtype: int = TensorProto.FLOAT) -> None:
        names = ["x", *(f"x{i}" for i in range(1, len(shapes)))]
        self.inputs = [helper.make_tensor_value_info(n, dtype, ["N", *s]) for n, s in zip(names, shapes, strict=True)]
        self.nodes: list[onnx.NodeProto] = []
        self.parameters: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: Any, out: int = 1, **attributes: Any) -> Any:
        """Add a node; arrays become initializers."""
        name = f"{kind.lower()}{len(self.nodes)}"
        names = []
        for i, x in enumerate(inputs):
            if isinstance(x, np.ndarray | np.generic):
                x = np.asarray(x)
                self.parameters.append(numpy_helper.from_array(x, f"{name}.{i}"))
                names.append(f"{name}.{i}")
            else:
                names.append(x or "")
        outputs = [name, *(f"{name}:{i}" for i in range(1, out))]
        self.nodes.append(helper.make_node(kind, names, outputs, name=name, **attributes))
        return name

    def model(self, folder: Path, *outputs: str) -> Model:
        """The loaded model; by default its output is that of the last node."""
        ends = [helper.make_empty_tensor_value_info(o) for o in outputs or [self.nodes[-1].output[0]]]
        graph = helper.make_graph(self.nodes, "net", self.inputs, ends, self.parameters)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        inferred = {v.name: v for v in onnx.shape_inference.infer_shapes(proto, data_prop=True).graph.output}
        for end in proto.graph.output:
            end.CopyFrom(inferred[end.name])
        onnx.save(proto, folder / "net.onnx")
        return load(folder / "net.onnx")


def one(kind: str, *inputs: Any, **attributes: Any) -> Any:
    """A network of one node: tuples are graph inputs (without batch), arrays initializers."""

    def build() -> Net:
        net = Net(*(i for i in inputs if isinstance(i, tuple)))
        names = itertools.chain(["x"], (f"x{i}" for i in itertools.count(1)))
        net.op(kind, *(next(names) if isinstance(i, tuple) else i for i in inputs), **attributes)
        return net

    return build


def chain(shape: tuple[int, ...], *steps: Any) -> Any:
    """Nodes one after another: (kind, *further inputs, attributes)."""

    def build() -> Net:
        net, y = Net(shape), "x"
        for kind, *rest in steps:
            attributes = rest.pop() if rest and isinstance(rest[-1], dict) else {}
            y = net.op(kind, y, *rest, **attributes)
        return net

    return build


def ints(*values: int) -> np.ndarray:
    """An int64 constant."""
    return np.array(values, np.int64)


def norm(channels: int) -> list[np.ndarray]:
    """γ, β, μ, σ² of a batch normalisation."""
    return [weights(channels, seed=i, low=0.1 if i == 3 else -1) for i in range(4)]


IMAGE = (6, 9, 10)
CONV = ("Conv", weights(8, 6, 3, 3), weights(8), {"pads": [1, 1, 1, 1]})
CASES: dict[str, Any] = {
    "conv": one("Conv", IMAGE, weights(8, 6, 3, 3), weights(8)),
    "conv no bias, same": one("Conv", IMAGE, weights(8, 6, 3, 3), pads=[1, 1, 1, 1]),
    "conv stride 2, pads that are not SAME": one("Conv", IMAGE, weights(8, 6, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]),
    "conv uneven": one("Conv", IMAGE, weights(8, 6, 3, 2), pads=[2, 0, 0, 1], strides=[2, 1]),
    "conv SAME_UPPER": one("Conv", IMAGE, weights(8, 6, 4, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv SAME_LOWER": one("Conv", IMAGE, weights(8, 6, 4, 3), auto_pad="SAME_LOWER", strides=[2, 3]),
    "conv VALID": one("Conv", IMAGE, weights(8, 6, 4, 3), auto_pad="VALID"),
    "conv dilated": one("Conv", IMAGE, weights(8, 6, 3, 3), dilations=[2, 3], pads=[2, 3, 2, 3]),
    "conv dilated and strided": one("Conv", IMAGE, weights(8, 6, 3, 3), dilations=[2, 2], strides=[2, 2]),
    "conv 1x1": one("Conv", IMAGE, weights(8, 6, 1, 1), weights(8)),
    "conv of one channel": one("Conv", (1, 9, 9), weights(4, 1, 3, 3)),
    "conv to one channel": one("Conv", IMAGE, weights(1, 6, 3, 3)),
    "conv in 3 groups": one("Conv", IMAGE, weights(9, 2, 3, 3), weights(9), group=3, pads=[1, 1, 1, 1]),
    "conv in 2 groups of 1 output": one("Conv", IMAGE, weights(2, 3, 3, 3), group=2),
    "conv depthwise": one("Conv", IMAGE, weights(6, 1, 3, 3), weights(6), group=6, pads=[1, 1, 1, 1]),
    "conv depthwise, multiplier 3": one("Conv", IMAGE, weights(18, 1, 3, 3), weights(18), group=6, strides=[2, 2]),
    "conv depthwise dilated": one("Conv", IMAGE, weights(6, 1, 3, 3), group=6, dilations=[2, 2], pads=[2, 2, 2, 2]),
    "conv depthwise uneven": one("Conv", IMAGE, weights(6, 1, 3, 3), group=6, strides=[1, 2], pads=[1, 0, 0, 1]),
    "conv 1-D": one("Conv", (4, 11), weights(5, 4, 3), weights(5), pads=[1, 1]),
    "conv 1-D strided": one("Conv", (4, 11), weights(5, 4, 4), strides=[3], pads=[2, 1], dilations=[2]),
    "conv 1-D depthwise": one("Conv", (4, 11), weights(4, 1, 3), group=4, pads=[2, 0]),
    "transposed conv": one("ConvTranspose", IMAGE, weights(6, 5, 3, 3), weights(5)),
    "transposed conv stride 2": one("ConvTranspose", IMAGE, weights(6, 5, 2, 2), strides=[2, 2]),
    "transposed conv, pads and output_padding": one(
        "ConvTranspose",
        IMAGE,
        weights(6, 5, 3, 3),
        weights(5),
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        output_padding=[1, 1],
    ),
    "transposed conv uneven": one(
        "ConvTranspose", IMAGE, weights(6, 5, 4, 3), strides=[3, 2], pads=[0, 1, 2, 0], output_padding=[2, 0]
    ),
    "transposed conv stride above kernel": one("ConvTranspose", IMAGE, weights(6, 5, 2, 1), strides=[3, 2]),
    "transposed conv dilated": one("ConvTranspose", IMAGE, weights(6, 5, 3, 2), dilations=[2, 3], strides=[2, 1]),
    "transposed conv in groups": one("ConvTranspose", IMAGE, weights(6, 2, 3, 3), weights(6), group=3, strides=[2, 2]),
    "transposed conv depthwise": one(
        "ConvTranspose", IMAGE, weights(6, 1, 4, 4), group=6, strides=[2, 2], pads=[1] * 4
    ),
    "transposed conv SAME_UPPER": one(
        "ConvTranspose", IMAGE, weights(6, 5, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"
    ),
    "transposed conv 1-D": one("ConvTranspose", (4, 7), weights(4, 3, 4), weights(3), strides=[2], pads=[1, 1]),
    "gemm": one("Gemm", (7,), weights(7, 5), weights(5)),
    "gemm turned": one("Gemm", (7,), weights(5, 7), weights(1, 5), transB=1),
    "gemm with factors": one("Gemm", (7,), weights(7, 5), weights(5), alpha=0.5, beta=3.0),
    "gemm with one bias": one("Gemm", (7,), weights(7, 5), weights(1)),
    "gemm no bias": one("Gemm", (7,), weights(7, 5)),
    "matmul": one("MatMul", (7,), weights(7, 5)),
    "matmul of rank 3": one("MatMul", (4, 7), weights(7, 5)),
    "matmul of rank 4": one("MatMul", (3, 4, 7), weights(7, 5)),
    "matmul and bias": chain((4, 7), ("MatMul", weights(7, 5)), ("Add", weights(5)), ("Relu",)),
    "bias and matmul": chain((4, 7), ("MatMul", weights(7, 5)), ("Mul", weights(5)), ("MatMul", weights(5, 3))),
    "matmul of two values": one("MatMul", (3, 4, 7), (3, 7, 5)),
    "matmul with one matrix": one("MatMul", (3, 4, 7), weights(1, 3, 7, 5)),
    "matmul with a matrix on the left": one("MatMul", weights(6, 4), (4, 7)),
    "batchnorm": one("BatchNormalization", IMAGE, *norm(6)),
    "batchnorm of a vector": one("BatchNormalization", (6,), *norm(6), epsilon=1e-2),
    "batchnorm of a signal": one("BatchNormalization", (6, 8), *norm(6)),
    "batchnorm in a conv": chain(IMAGE, CONV, ("BatchNormalization", *norm(8)), ("Relu",)),
    "batchnorm in a depthwise conv": chain(
        IMAGE,
        ("Conv", weights(12, 1, 3, 3), {"group": 6}),
        ("BatchNormalization", *norm(12)),
        ("Clip", *map(np.float32, (0, 6))),
    ),
    "batchnorm in a gemm": chain((7,), ("Gemm", weights(7, 5)), ("BatchNormalization", *norm(5))),
    "relu": one("Relu", IMAGE),
    "leaky relu": one("LeakyRelu", IMAGE, alpha=0.3),
    "leaky relu default": one("LeakyRelu", (7,)),
    "prelu by channel": one("PRelu", IMAGE, weights(6, 1, 1)),
    "prelu by element": one("PRelu", IMAGE, weights(*IMAGE)),
    "prelu of one slope": chain(IMAGE, CONV, ("PRelu", weights(1))),
    "prelu of a vector": one("PRelu", (7,), weights(7)),
    "sigmoid": one("Sigmoid", IMAGE),
    "tanh": one("Tanh", IMAGE),
    "elu": one("Elu", IMAGE),
    "elu 0.4": one("Elu", IMAGE, alpha=0.4),
    "neg": one("Neg", IMAGE),
    "abs": one("Abs", IMAGE),
    "sqrt": chain(IMAGE, ("Abs", {}), ("Sqrt", {})),
    "log": chain(IMAGE, ("Exp", {}), ("Log", {})),
    "sin and cos": chain(IMAGE, ("Sin", {}), ("Cos", {})),
    "gelu": one("Gelu", IMAGE),
    "gelu tanh": one("Gelu", IMAGE, approximate="tanh"),
    "pow": chain(IMAGE, ("Abs", {}), ("Pow", np.float32(1.5), {})),
    "max of channels": one("Max", IMAGE, weights(6, 1, 1)),
    "min of two": one("Min", IMAGE, IMAGE),
    "clip 0..6": one("Clip", IMAGE, np.float32(0), np.float32(6)),
    "clip -0.5..0.25": one("Clip", IMAGE, np.float32(-0.5), np.float32(0.25)),
    "clip below": one("Clip", IMAGE, np.float32(-0.5)),
    "clip above": one("Clip", IMAGE, None, np.float32(0.5)),
    "clip 0..": one("Clip", IMAGE, np.float32(0)),
    "clip nothing": one("Clip", IMAGE),
    "hardswish": one("HardSwish", IMAGE),
    "hardsigmoid": one("HardSigmoid", IMAGE),
    "hardsigmoid of torch": one("HardSigmoid", IMAGE, alpha=1 / 6),
    "softmax": one("Softmax", (7,)),
    "softmax over channels": chain(IMAGE, CONV, ("Softmax", {"axis": 1})),
    "softmax over rows": one("Softmax", IMAGE, axis=2),
    "softmax of attention": one("Softmax", (3, 4, 4)),
    "add": one("Add", IMAGE, IMAGE),
    "add a value to itself": chain(IMAGE, CONV, ("Add", "conv0")),
    "add by channel": one("Add", IMAGE, weights(6, 1, 1)),
    "add a smaller value": one("Add", IMAGE, (6, 1, 1)),
    "add a scalar": one("Add", np.float32(2), IMAGE),
    "add a grid": one("Add", IMAGE, weights(9, 10)),
    "add a column and a row": one("Add", (6, 1, 10), (1, 9, 1)),
    "sub": one("Sub", IMAGE, IMAGE),
    "sub from a constant": one("Sub", weights(1, 6, 1, 1), IMAGE),
    "mul": one("Mul", IMAGE, (1, 9, 10)),
    "mul by channel": chain(IMAGE, CONV, ("Mul", weights(8, 1, 1))),
    "div": one("Div", IMAGE, weights(*IMAGE, low=0.5)),
    "div by a constant": one("Div", IMAGE, weights(6, 1, 1, low=0.5)),
    "constant of as many axes": one("Mul", (6, 8), weights(1, 6, 8)),
    "maxpool": one("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    "maxpool padded": one("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "maxpool padded behind a relu": chain(
        IMAGE, CONV, ("Relu",), ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4})
    ),
    "maxpool ceil": one("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 3], ceil_mode=1),
    "maxpool SAME_UPPER": one("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    "maxpool 1-D": one("MaxPool", (4, 11), kernel_shape=[3], strides=[2], pads=[1, 0]),
    "averagepool": one("AveragePool", IMAGE, kernel_shape=[2, 3], strides=[2, 2]),
    "averagepool same": one("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "averagepool uneven": one("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 0, 2]),
    "averagepool counting pads": one("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    "averagepool ceil": one("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "averagepool ceil and pads": one(
        "AveragePool", IMAGE, kernel_shape=[3, 3], strides=[3, 2], pads=[1, 1, 1, 1], ceil_mode=1
    ),
    "averagepool ceil counting pads": one(
        "AveragePool", IMAGE, kernel_shape=[3, 3], strides=[3, 2], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1
    ),
    "averagepool 1-D": one("AveragePool", (4, 11), kernel_shape=[4], strides=[2], pads=[1, 2]),
    "global averagepool": one("GlobalAveragePool", IMAGE),
    "global averagepool of a signal": one("GlobalAveragePool", (6, 8)),
    "mean over space": one("ReduceMean", IMAGE, ints(2, 3), keepdims=0),
    "mean over channels": chain(IMAGE, CONV, ("ReduceMean", ints(1), {"keepdims": 1})),
    "mean over channels, gone": chain(IMAGE, CONV, ("ReduceMean", ints(-3), {"keepdims": 0})),
    "sum over space": one("ReduceSum", IMAGE, ints(2, 3), keepdims=0),
    "sum over channels": chain(IMAGE, CONV, ("ReduceSum", ints(1), {"keepdims": 1})),
    "max over space": one("ReduceMax", IMAGE, ints(2, 3)),
    "min over channels": one("ReduceMin", IMAGE, ints(1)),
    "global max pool": one("GlobalMaxPool", IMAGE),
    "mean over time": one("ReduceMean", (5, 7), ints(1), keepdims=0),
    "flatten": one("Flatten", IMAGE),
    "flatten an image": chain(IMAGE, CONV, ("Flatten",)),
    "flatten and gemm": chain(IMAGE, CONV, ("Flatten",), ("Relu",), ("Gemm", weights(720, 5), weights(5))),
    "flatten, gather and gemm": chain(
        IMAGE,
        CONV,
        ("Flatten",),
        ("Gather", ints(3, 700, 5, 444, 89, -1), {"axis": 1}),
        ("Gemm", weights(6, 5), weights(5)),
    ),
    "flatten, normalise, gemm": chain(
        IMAGE, CONV, ("Flatten",), ("BatchNormalization", *norm(720)), ("Mul", weights(720)), ("Gemm", weights(720, 5))
    ),
    "flatten at axis 2": one("Reshape", IMAGE, ints(-1, 6, 90)),
    "flatten space": chain(
        IMAGE, CONV, ("Reshape", ints(-1, 8, 90)), ("Transpose", {"perm": [0, 2, 1]}), ("MatMul", weights(8, 4))
    ),
    "flatten columns of a text line": chain(
        IMAGE, CONV, ("Transpose", {"perm": [0, 3, 1, 2]}), ("Reshape", ints(-1, 10, 72)), ("MatMul", weights(72, 4))
    ),
    "reshape that splits channels": chain(
        IMAGE,
        CONV,
        ("Reshape", ints(-1, 2, 4, 9, 10)),
        ("Transpose", {"perm": [0, 2, 1, 3, 4]}),
        ("Reshape", ints(-1, 8, 9, 10)),
        ("Conv", weights(4, 8, 1, 1)),
    ),
    "reshape across": chain(IMAGE, CONV, ("Reshape", ints(-1, 9, 80))),
    "reshape to an image": chain((24,), ("Reshape", ints(-1, 6, 2, 2)), ("Conv", weights(3, 6, 2, 2))),
    "squeeze": chain(IMAGE, ("GlobalAveragePool",), ("Squeeze", ints(2, 3)), ("Gemm", weights(6, 3))),
    "unsqueeze": chain((6,), ("Unsqueeze", ints(2, 3)), ("Conv", weights(3, 6, 1, 1))),
    "transpose": one("Transpose", IMAGE, perm=[0, 2, 3, 1]),
    "transpose of rank 5": one("Transpose", (2, 3, 4, 5), perm=[0, 4, 2, 1, 3]),
    "softmax of rank 5": one("Softmax", (2, 9, 4, 5), axis=2),
    "transpose of an image": chain(IMAGE, CONV, ("Transpose", {"perm": [0, 3, 1, 2]})),
    "channels-last network": chain(
        (9, 10, 6), ("Transpose", {"perm": [0, 3, 1, 2]}), CONV, ("Transpose", {"perm": [0, 2, 3, 1]})
    ),
    "concat": one("Concat", IMAGE, (2, 9, 10), axis=1),
    "concat rows": chain(IMAGE, CONV, ("Concat", "conv0", {"axis": 2})),
    "concat with a constant": one("Concat", (3, 4), (2, 4), axis=1),
    "pad": one("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 3, 0)),
    "pad with a value": one("Pad", IMAGE, ints(1, 2, 0, 1), np.float32(0.5), ints(1, 3)),
    "pad in front of a conv": chain(IMAGE, ("Pad", ints(1, 1, 1, 1), None, ints(2, 3)), ("Conv", weights(3, 6, 3, 3))),
    "pad behind a flatten": chain(IMAGE, CONV, ("Flatten",), ("Pad", ints(0, 2, 0, 1))),
    "dropout": chain(IMAGE, ("Dropout",), ("Relu",)),
    "identity": one("Identity", IMAGE),
    "cast": chain(
        IMAGE, ("Mul", np.float32(9)), ("Cast", {"to": TensorProto.INT64}), ("Cast", {"to": TensorProto.FLOAT})
    ),
    "cast to the same": chain(IMAGE, ("Cast", {"to": TensorProto.FLOAT}), ("Relu",)),
    "gather": one("Gather", (7,), ints(6, 0, 2, 2), axis=1),
    "gather channels": chain(IMAGE, CONV, ("Gather", ints(7, 0, 2), {"axis": 1}), ("Conv", weights(3, 3, 1, 1))),
    "gather one": chain(IMAGE, CONV, ("Gather", np.array(4), {"axis": 2})),
}


def samples(model: Model, n: int = 3, seed: int = 7) -> dict[str, np.ndarray]:
    """Standard normal inputs."""
    rng = np.random.default_rng(seed)
    return {k: rng.standard_normal((n, *s), dtype=np.float32) for k, s in model.inputs.items()}


def gap(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> float:
    """max|Δ| / max|y| over the outputs."""
    assert got.keys() == wanted.keys()
    for k, y in wanted.items():
        assert got[k].shape == y.shape, k
    return max(float(np.abs(got[k] - y).max() / np.abs(y).max()) for k, y in wanted.items())


def written(lite: LiteModel, folder: Path) -> Path:
    path = folder / "net.tflite"
    path.write_bytes(lite.data)
    return path


def graph_of(lite: LiteModel) -> Any:
    return schema.ModelT.InitFromPackedBuf(lite.data)


def codes(lite: LiteModel) -> list[str]:
    """Names of the file's ops in order."""
    file = graph_of(lite)
    return [CODES[file.operatorCodes[o.opcodeIndex].builtinCode] for o in file.subgraphs[0].operators]


def versions(lite: LiteModel) -> set[tuple[str, int]]:
    return {(CODES[c.builtinCode], c.version) for c in graph_of(lite).operatorCodes}


def fused(lite: LiteModel) -> Counter[int]:
    """How many ops carry which activation."""
    options = [o.builtinOptions for o in graph_of(lite).subgraphs[0].operators]
    return Counter(getattr(o, "fusedActivationFunction", 0) for o in options) - Counter({0: 10**6})


@pytest.mark.parametrize("case", CASES)
def test_an_emitted_op_equals_its_source(case: str, tmp_path: Path) -> None:
    model = CASES[case]().model(tmp_path)
    x = samples(model)
    wanted = onnx_outputs(model, x)
    path = str(written(to_tflite(model), tmp_path))
    for kernels in KERNELS[: 1 if case in NO_REFERENCE else 2]:
        assert gap(run(path, x, resolver=kernels), wanted) <= TOLERANCE, kernels


# ---- whole networks ------------------------------------------------------------------------------------------------
def residual_net() -> Net:
    """Residual, depthwise, concat, flatten, gather, dense: every fold and every layout at once."""
    net = Net((3, 12, 12))
    a = net.op("Conv", "x", scaled(16, 3, 3, 3), weights(16), pads=[1, 1, 1, 1], strides=[2, 2])
    a = net.op("Relu", net.op("BatchNormalization", a, *norm(16)))
    b = net.op("Conv", a, scaled(16, 1, 3, 3), weights(16, seed=1), pads=[1, 1, 1, 1], group=16)
    b = net.op("Clip", b, np.float32(0), np.float32(6))
    b = net.op("Conv", b, scaled(16, 16, 1, 1), weights(16, seed=2))
    c = net.op("Relu", net.op("Add", a, b))
    d = net.op("MaxPool", c, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    e = net.op("AveragePool", c, kernel_shape=[2, 2], strides=[2, 2])
    e = net.op("Mul", e, net.op("Sigmoid", net.op("GlobalAveragePool", e)))
    f = net.op("Flatten", net.op("Concat", d, e, axis=1))
    f = net.op("Gather", net.op("Dropout", f), np.arange(287, -1, -3), axis=1)
    g = net.op("Relu", net.op("Add", net.op("MatMul", f, scaled(64, 96).T), weights(64)))
    net.op("Softmax", net.op("Gemm", g, scaled(10, 64).T, weights(10)))
    return net


@pytest.fixture
def residual(tmp_path: Path) -> Model:
    return residual_net().model(tmp_path)


def test_a_cnn_is_emitted_without_moving_a_byte(residual: Model, tmp_path: Path) -> None:
    lite = to_tflite(residual)
    x = samples(residual, 8)
    path, wanted = str(written(lite, tmp_path)), onnx_outputs(residual, x)
    for kernels in KERNELS:
        assert gap(run(path, x, resolver=kernels), wanted) <= TOLERANCE
    assert lite.inputs == {"x": (0, 2, 3, 1)}
    assert lite.outputs == {"softmax21": (0, 1)}
    assert codes(lite) == [
        *("PAD", "CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "ADD", "PAD", "MAX_POOL_2D", "AVERAGE_POOL_2D", "MEAN"),
        *("LOGISTIC", "MUL", "CONCATENATION", "RESHAPE", "GATHER", "FULLY_CONNECTED", "FULLY_CONNECTED", "SOFTMAX"),
    ]


def test_activations_are_fused_into_what_makes_their_input(residual: Model) -> None:
    relu, relu6 = schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.RELU6
    assert fused(to_tflite(residual)) == {relu: 3, relu6: 1}


def test_an_activation_is_not_fused_where_something_else_reads_its_input(tmp_path: Path) -> None:
    net = Net(IMAGE)
    a = net.op("Conv", "x", weights(8, 6, 3, 3))
    copy = net.op("Identity", a)
    net.op("Sub", net.op("Relu", copy), a)
    model = net.model(tmp_path)
    lite, x = to_tflite(model), samples(model)
    assert codes(lite) == ["CONV_2D", "RELU", "SUB"]
    assert gap(run(str(written(lite, tmp_path)), x), onnx_outputs(model, x)) <= TOLERANCE


def test_a_normalisation_is_not_folded_where_something_else_reads_its_input(tmp_path: Path) -> None:
    net = Net(IMAGE)
    a = net.op("Conv", "x", weights(8, 6, 3, 3))
    net.op("BatchNormalization", a, *norm(8))
    model = net.model(tmp_path, a, net.nodes[-1].output[0])
    lite, x = to_tflite(model), samples(model)
    assert codes(lite) == ["CONV_2D", "MUL", "ADD"]
    assert gap(run(str(written(lite, tmp_path)), x), onnx_outputs(model, x)) <= TOLERANCE


@pytest.mark.parametrize("read_twice", [False, True])
def test_maps_made_by_a_dense_layer_do_not_move(read_twice: bool, tmp_path: Path) -> None:
    net = Net((7,))
    a = net.op("Relu", net.op("Gemm", "x", weights(7, 60), weights(60)))
    b = net.op("Conv", net.op("Reshape", a, ints(-1, 5, 3, 4)), scaled(6, 5, 3, 3), weights(6), pads=[1, 1, 1, 1])
    model = net.model(tmp_path, *((b, net.op("Exp", a)) if read_twice else (b,)))
    lite, x = to_tflite(model), samples(model)
    assert ("TRANSPOSE" in codes(lite)) is read_twice
    assert gap(run(str(written(lite, tmp_path)), x), onnx_outputs(model, x)) <= TOLERANCE


def test_maps_of_more_axes_are_handed_out_as_they_lie(tmp_path: Path) -> None:
    net = Net(IMAGE)
    heads = net.op("Reshape", net.op("Conv", "x", scaled(12, 6, 1, 1)), ints(-1, 3, 4, 9, 10))
    net.op("Sigmoid", net.op("Transpose", heads, perm=[0, 1, 3, 4, 2]))  # anchors in front of the places
    model = net.model(tmp_path)
    lite, x = to_tflite(model), samples(model)
    assert (lite.outputs, "TRANSPOSE" in codes(lite)) == ({"sigmoid3": (0, 2, 3, 1, 4)}, False)
    assert gap(run(str(written(lite, tmp_path)), x), onnx_outputs(model, x)) <= TOLERANCE


def test_a_file_is_little_larger_than_its_weights(residual: Model) -> None:
    weight = sum(v.const_value.nbytes for v in residual.graph.initializers.values() if v.const_value is not None)
    assert len(to_tflite(residual).data) <= 1.02 * weight + 16 * 1024


def test_weights_that_two_nodes_share_are_stored_once(tmp_path: Path) -> None:
    net = Net((32, 5, 5))
    a = net.op("Conv", "x", weights(32, 32, 3, 3), pads=[1, 1, 1, 1])
    net.nodes.append(helper.make_node("Conv", [a, "conv0.1"], ["again"], name="again", pads=[1, 1, 1, 1]))
    assert len(to_tflite(net.model(tmp_path)).data) < 1.5 * weights(32, 32, 3, 3).nbytes


def test_the_same_model_gives_the_same_bytes(residual: Model, tmp_path: Path) -> None:
    assert to_tflite(residual).data == to_tflite(load(tmp_path / "net.onnx")).data


def test_tensor_names_are_unique_and_those_of_the_ends_are_kept(residual: Model) -> None:
    lite = to_tflite(residual)
    file = graph_of(lite)
    graph = file.subgraphs[0]
    names = [t.name.decode() for t in graph.tensors]
    assert len(names) == len(set(names))
    assert [names[i] for i in (*graph.inputs, *graph.outputs)] == ["x", "softmax21"]
    signature = file.signatureDefs[0]
    assert [(t.name, t.tensorIndex) for t in signature.inputs] == [(b"x", graph.inputs[0])]
    assert [(t.name, t.tensorIndex) for t in signature.outputs] == [(b"softmax21", graph.outputs[0])]


def test_buffers_are_aligned_to_16_bytes(residual: Model) -> None:
    data = to_tflite(residual, {"note": "by hand"}).data
    file = schema.Model.GetRootAs(data)
    start = np.frombuffer(data, np.uint8).ctypes.data
    filled = [b for b in map(file.Buffers, range(file.BuffersLength())) if not b.DataIsNone()]
    assert len(filled) > 10
    assert all((b.DataAsNumpy().ctypes.data - start) % 16 == 0 for b in filled)


def test_metadata_tells_the_permutations_and_what_the_caller_adds(residual: Model) -> None:
    file = graph_of(to_tflite(residual, {"jettison.plan": "abc"}))
    entries = {m.name.decode(): bytes(file.buffers[m.buffer].data).decode() for m in file.metadata}
    assert entries == {
        "jettison.layout": '{"inputs": {"x": [0, 2, 3, 1]}, "outputs": {"softmax21": [0, 1]}}',
        "jettison.plan": "abc",
    }


@pytest.mark.parametrize(
    ("case", "code", "version"),
    [
        ("conv", "CONV_2D", 1),
        ("conv in 3 groups", "CONV_2D", 6),
        ("conv depthwise", "DEPTHWISE_CONV_2D", 1),
        ("conv depthwise dilated", "DEPTHWISE_CONV_2D", 2),
        ("transposed conv", "TRANSPOSE_CONV", 3),
        ("gemm", "FULLY_CONNECTED", 1),
        ("matmul of rank 3", "FULLY_CONNECTED", 5),
        ("softmax of rank 5", "TRANSPOSE", 4),
    ],
)
def test_op_versions_are_the_first_that_can_do_it(case: str, code: str, version: int, tmp_path: Path) -> None:
    assert (code, version) in versions(to_tflite(CASES[case]().model(tmp_path)))


def random_net(seed: int) -> Net:
    """A network of random blocks whose sizes say nothing of their layout: channels, height and width are alike."""
    rng = np.random.default_rng(seed)
    c = int(rng.choice([4, 8]))
    net, seen = Net((c, c, c)), ["x"]

    def parameter(*shape: int) -> np.ndarray:
        return rng.uniform(-1, 1, shape).astype(np.float32) / np.sqrt(max(np.prod(shape[1:]), 1)).astype(np.float32)

    blocks: list[Any] = [
        lambda x: net.op("Conv", x, parameter(c, c, 3, 3), parameter(c), pads=[1, 1, 1, 1]),
        lambda x: net.op("Conv", x, parameter(c, 1, 3, 3), parameter(c), pads=[2, 0, 0, 2], group=c),
        lambda x: net.op("Conv", x, parameter(c, c // 2, 1, 1), group=2),
        lambda x: net.op("BatchNormalization", x, *norm(c)),
        lambda x: net.op("Relu", x),
        lambda x: net.op("PRelu", x, parameter(c, 1, 1)),
        lambda x: net.op("Add", x, str(rng.choice(seen))),
        lambda x: net.op("Mul", parameter(c, c), x),
        lambda x: net.op("Mul", x, net.op("Sigmoid", net.op("GlobalAveragePool", str(rng.choice(seen))))),
        lambda x: net.op("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        lambda x: net.op("AveragePool", x, kernel_shape=[2, 3], pads=[1, 1, 0, 1]),
        lambda x: net.op("Transpose", x, perm=[0, *(1 + rng.permutation(3)).tolist()]),
        lambda x: net.op("Softmax", x, axis=int(rng.integers(1, 4))),
        lambda x: net.op("MatMul", x, parameter(c, c)),
        lambda x: net.op("Reshape", net.op("Reshape", x, ints(-1, c, c * c)), ints(-1, c, c, c)),
        lambda x: net.op(
            "Reshape", net.op("Mul", parameter(c, 1), net.op("Reshape", x, ints(-1, c, c * c))), ints(-1, c, c, c)
        ),
        lambda x: net.op("Conv", net.op("Concat", x, str(rng.choice(seen)), axis=1), parameter(c, 2 * c, 1, 1)),
        lambda x: net.op("Gather", x, rng.permutation(c), axis=int(rng.integers(1, 4))),
    ]
    x = "x"
    for block in rng.choice(len(blocks), 8):
        x = blocks[block](x)
        seen.append(x)
    x = net.op("Gather", net.op("Flatten", x), rng.permutation(c**3)[: 5 * c], axis=1)
    net.op("Gemm", net.op("LeakyRelu", x), parameter(5 * c, 3))
    return net


@pytest.mark.parametrize("seed", range(31, 71))
def test_an_emitted_network_equals_its_source(seed: int, tmp_path: Path) -> None:
    net = random_net(seed)
    last, middle = (net.nodes[i].output[0] for i in (-1, len(net.nodes) // 2))
    model = net.model(tmp_path, last, middle)
    x = samples(model)
    path, wanted = str(written(to_tflite(model), tmp_path)), onnx_outputs(model, x)
    assert np.ptp(wanted[last], axis=0).max() > 1e-4 * np.abs(wanted[last]).max()  # alive: the samples differ
    for kernels in KERNELS:
        assert gap(run(path, x, resolver=kernels), wanted) <= TOLERANCE, kernels


@pytest.mark.parametrize("kind", ["Softmax", "Add", "Sub", "Mul", "Div"])
def test_a_value_that_is_reshaped_and_read_again_is_not_overwritten(kind: str, tmp_path: Path) -> None:
    net = Net((8, 4, 4))
    a = net.op(kind, net.op("Conv", "x", weights(8, 8, 3, 3)), *([] if kind == "Softmax" else [weights(8, 1, 1)]))
    b = net.op("Reshape", net.op("Mul", net.op("Reshape", a, ints(-1, 8, 4)), weights(8, 4)), ints(-1, 8, 2, 2))
    net.op("Concat", a, b, axis=1)
    model = net.model(tmp_path)
    x = samples(model)
    path, wanted = str(written(to_tflite(model), tmp_path)), onnx_outputs(model, x)
    for kernels in KERNELS:
        assert gap(run(path, x, resolver=kernels), wanted) <= TOLERANCE, kernels


def test_a_file_of_a_larger_batch_equals_its_source(residual: Model, tmp_path: Path) -> None:
    x = samples(residual, 5)  # two batches of four, the second filled up
    path = written(to_tflite(residual, batch=4), tmp_path)
    assert gap(run(str(path), x), onnx_outputs(residual, x)) <= TOLERANCE


def test_integers_of_64_bits_become_integers_of_32(tmp_path: Path) -> None:
    net = Net((4,), dtype=TensorProto.INT64)
    net.op("Mul", net.op("Cast", net.op("Add", "x", ints(1, 2, 3, 4)), to=TensorProto.FLOAT), weights(4))
    model = net.model(tmp_path)
    x = {"x": np.arange(8).reshape(2, 4)}
    lite = to_tflite(model)
    assert graph_of(lite).subgraphs[0].tensors[0].type == schema.TensorType.INT32
    assert gap(run(str(written(lite, tmp_path)), x), onnx_outputs(model, x)) == 0


@pytest.mark.skipif(not SHARED.is_dir(), reason="the network is in ../shared, which is absent")
def test_a_network_of_cntk_equals_its_source(tmp_path: Path) -> None:
    model = load(SHARED / "models/mnist_cntk/mnist_cntk.onnx")
    path = written(to_tflite(model), tmp_path)
    assert check(model, path, samples(model, 16)).passed


# ---- what is refused -----------------------------------------------------------------------------------------------
REFUSED: dict[str, tuple[Any, str]] = {
    "no rule": (one("Det", (4, 4)), "Det 'det0': has no TFLite rule"),
    "indices": (one("MaxPool", IMAGE, kernel_shape=[2, 2], out=2), "MaxPool 'maxpool0': hands out its indices"),
    "batch mean": (one("ReduceMean", IMAGE, ints(0)), "ReduceMean 'reducemean0': reduces the batch"),
    "double": (chain(IMAGE, ("Cast", {"to": TensorProto.DOUBLE})), "value 'cast0': is DOUBLE"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_emitted_is_refused_by_name(case: str, tmp_path: Path) -> None:
    net = REFUSED[case][0]()
    model = net.model(tmp_path, *(net.nodes[-1].output if case == "indices" else ()))
    with pytest.raises(Unsupported) as caught:
        to_tflite(model)
    assert REFUSED[case][1] in str(caught.value)
    assert caught.value.way_out


# ---- running files -------------------------------------------------------------------------------------------------
def test_a_check_passes_on_the_emitted_file_and_fails_on_another(residual: Model, tmp_path: Path) -> None:
    lite = to_tflite(residual)
    found = check(residual, written(lite, tmp_path), samples(residual))
    assert (found.passed, found.bytes, found.samples, found.format) == (True, len(lite.data), 3, "tflite")
    assert 0 < found.max_rel <= TOLERANCE
    other = residual.ir.clone()
    weight = other.graph.initializers["gemm20.1"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.01))
    assert not check(residual.with_ir(other), tmp_path / "net.tflite", samples(residual)).passed


def test_a_crash_of_the_runtime_is_an_error_and_not_ours(
    residual: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crash.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(toolchain.emit.run, "CHILD", tmp_path / "crash.py")
    with pytest.raises(RunnerFailed, match=r"the LiteRT runtime crashed \(signal 11.*\) loading net.tflite"):
        lite_outputs(written(to_tflite(residual), tmp_path), samples(residual))


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.tflite").write_bytes(b"TFL3" * 100)
    with pytest.raises(RunnerFailed, match="LiteRT runtime"):
        lite_outputs(tmp_path / "bad.tflite", {"x": np.zeros((1, 3), np.float32)})


def test_importing_emit_imports_no_runtime() -> None:
    code = "import sys, toolchain.emit; print({'ai_edge_litert', 'flatbuffers', 'onnxruntime'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
