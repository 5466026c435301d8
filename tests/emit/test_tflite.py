"""An emitted file computes what its model computes; one row of CASES for each variant of an op."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
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


def weights(*shape: int, seed: int = 0, low: float = -1.0) -> np.ndarray:
    """Reproducible float32 numbers in (low, 1)."""
    return np.random.default_rng([seed, *shape]).uniform(low, 1, shape).astype(np.float32)


class Net:
    """A chain of nodes over the graph input x; `shape` without the batch."""

    def __init__(self, *shapes: tuple[int, ...], dtype: int = TensorProto.FLOAT) -> None:
        names = ["x", *(f"x{i}" for i in range(1, len(shapes)))]
        self.inputs = [
            helper.make_tensor_value_info(n, dtype, ["N", *s]) for n, s in zip(names, shapes, strict=True)
        ]
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
        "ConvTranspose", IMAGE, weights(6, 5, 3, 3), weights(5), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]
    ),
    "transposed conv uneven": one(
        "ConvTranspose", IMAGE, weights(6, 5, 4, 3), strides=[3, 2], pads=[0, 1, 2, 0], output_padding=[2, 0]
    ),
    "transposed conv stride above kernel": one("ConvTranspose", IMAGE, weights(6, 5, 2, 1), strides=[3, 2]),
    "transposed conv dilated": one("ConvTranspose", IMAGE, weights(6, 5, 3, 2), dilations=[2, 3], strides=[2, 1]),
    "transposed conv in groups": one("ConvTranspose", IMAGE, weights(6, 2, 3, 3), weights(6), group=3, strides=[2, 2]),
    "transposed conv depthwise": one("ConvTranspose", IMAGE, weights(6, 1, 4, 4), group=6, strides=[2, 2], pads=[1] * 4),
    "transposed conv SAME_UPPER": one("ConvTranspose", IMAGE, weights(6, 5, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
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
        IMAGE, ("Conv", weights(12, 1, 3, 3), {"group": 6}), ("BatchNormalization", *norm(12)), ("Clip", *map(np.float32, (0, 6)))
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
    "div a constant": chain(IMAGE, ("Sigmoid",), ("Add", np.float32(1)), ("Pow", np.float32(1))) if False else one("Div", IMAGE, weights(6, 1, 1, low=0.5)),
    "constant of more axes": one("Mul", (6, 8), weights(1, 1, 6, 8)),
    "maxpool": one("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    "maxpool padded": one("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "maxpool padded behind a relu": chain(IMAGE, CONV, ("Relu",), ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4})),
    "maxpool ceil": one("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 3], ceil_mode=1),
    "maxpool SAME_UPPER": one("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    "maxpool 1-D": one("MaxPool", (4, 11), kernel_shape=[3], strides=[2], pads=[1, 0]),
    "averagepool": one("AveragePool", IMAGE, kernel_shape=[2, 3], strides=[2, 2]),
    "averagepool same": one("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "averagepool uneven": one("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 0, 2]),
    "averagepool counting pads": one("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    "averagepool ceil": one("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "averagepool ceil and pads": one("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[3, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    "averagepool ceil counting pads": one(
        "AveragePool", IMAGE, kernel_shape=[3, 3], strides=[3, 2], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1
    ),
    "averagepool 1-D": one("AveragePool", (4, 11), kernel_shape=[4], strides=[2], pads=[1, 2]),
    "global averagepool": one("GlobalAveragePool", IMAGE),
    "global averagepool of a signal": one("GlobalAveragePool", (6, 8)),
    "mean over space": one("ReduceMean", IMAGE, ints(2, 3), keepdims=0),
    "mean over channels": chain(IMAGE, CONV, ("ReduceMean", ints(1), {"keepdims": 1})),
    "mean over channels, gone": chain(IMAGE, CONV, ("ReduceMean", ints(-3), {"keepdims": 0})),
    "mean over time": one("ReduceMean", (5, 7), ints(1), keepdims=0),
    "flatten": one("Flatten", IMAGE),
    "flatten an image": chain(IMAGE, CONV, ("Flatten",)),
    "flatten and gemm": chain(IMAGE, CONV, ("Flatten",), ("Relu",), ("Gemm", weights(720, 5), weights(5))),
    "flatten, gather and gemm": chain(
        IMAGE, CONV, ("Flatten",), ("Gather", ints(3, 700, 5, 444, 89, -1), {"axis": 1}), ("Gemm", weights(6, 5), weights(5))
    ),
    "flatten, normalise, gemm": chain(
        IMAGE, CONV, ("Flatten",), ("BatchNormalization", *norm(720)), ("Mul", weights(720)), ("Gemm", weights(720, 5))
    ),
    "flatten at axis 2": one("Reshape", IMAGE, ints(-1, 6, 90)),
    "flatten space": chain(IMAGE, CONV, ("Reshape", ints(-1, 8, 90)), ("Transpose", {"perm": [0, 2, 1]}), ("MatMul", weights(8, 4))),
    "flatten columns of a text line": chain(
        IMAGE, CONV, ("Transpose", {"perm": [0, 3, 1, 2]}), ("Reshape", ints(-1, 10, 72)), ("MatMul", weights(72, 4))
    ),
    "reshape that splits channels": chain(IMAGE, CONV, ("Reshape", ints(-1, 2, 4, 9, 10)), ("Transpose", {"perm": [0, 2, 1, 3, 4]}), ("Reshape", ints(-1, 8, 9, 10)), CONV[:1] + (weights(4, 8, 1, 1),)),
    "reshape across": chain(IMAGE, CONV, ("Reshape", ints(-1, 9, 80))),
    "reshape to an image": chain((24,), ("Reshape", ints(-1, 6, 2, 2)), ("Conv", weights(3, 6, 2, 2))),
    "squeeze": chain(IMAGE, ("GlobalAveragePool",), ("Squeeze", ints(2, 3)), ("Gemm", weights(6, 3))),
    "unsqueeze": chain((6,), ("Unsqueeze", ints(2, 3)), ("Conv", weights(3, 6, 1, 1))),
    "transpose": one("Transpose", IMAGE, perm=[0, 2, 3, 1]),
    "transpose of an image": chain(IMAGE, CONV, ("Transpose", {"perm": [0, 3, 1, 2]})),
    "channels-last network": chain((9, 10, 6), ("Transpose", {"perm": [0, 3, 1, 2]}), CONV, ("Transpose", {"perm": [0, 2, 3, 1]})),
    "concat": one("Concat", IMAGE, (2, 9, 10), axis=1),
    "concat rows": chain(IMAGE, CONV, ("Concat", "conv0", {"axis": 2})),
    "concat with a constant": one("Concat", (3, 4), (2, 4), axis=1),
    "pad": one("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 3, 0)),
    "pad with a value": one("Pad", IMAGE, ints(1, 2, 0, 1), np.float32(0.5), ints(1, 3)),
    "pad in front of a conv": chain(IMAGE, ("Pad", ints(1, 1, 1, 1), None, ints(2, 3)), ("Conv", weights(3, 6, 3, 3))),
    "pad behind a flatten": chain(IMAGE, CONV, ("Flatten",), ("Pad", ints(0, 2, 0, 1))),
    "dropout": chain(IMAGE, ("Dropout",), ("Relu",)),
    "identity": one("Identity", IMAGE),
    "cast": chain(IMAGE, ("Mul", np.float32(9)), ("Cast", {"to": TensorProto.INT64}), ("Cast", {"to": TensorProto.FLOAT})),
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
    for kernels in KERNELS:
        assert gap(run(path, x, resolver=kernels), wanted) <= TOLERANCE, kernels
