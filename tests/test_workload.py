"""What a model's nodes are counted as: against hand counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from targets.estimate import Work
from toolchain.model import load
from toolchain.profile import profile
from toolchain.workload import size, works


def separable(path: Path) -> None:
    """Conv 3→4, Relu, depthwise, pointwise 4→6, Relu, pool, flatten, dense 6→5, softmax on 8 × 8."""
    draw = np.random.default_rng(0)
    weights = {"w1": (4, 3, 3, 3), "w2": (4, 1, 3, 3), "w3": (6, 4, 1, 1), "w4": (5, 6)}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], "depth", kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=4),
        helper.make_node("Conv", ["c", "w3"], ["d"], "point", kernel_shape=[1, 1]),
        helper.make_node("Tanh", ["d"], ["e"], "tanh"),
        helper.make_node("GlobalAveragePool", ["e"], ["f"], "pool"),
        helper.make_node("Flatten", ["f"], ["g"], "flatten"),
        helper.make_node("Gemm", ["g", "w4"], ["h"], "dense", transB=1),
        helper.make_node("Softmax", ["h"], ["y"], "softmax"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3, 8, 8))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 5))
    stored = [numpy_helper.from_array(draw.normal(size=s).astype(np.float32), n) for n, s in weights.items()]
    graph = helper.make_graph(nodes, "separable", [x], [y], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def test_each_node_is_counted_as_the_kernel_it_runs_in(tmp_path: Path) -> None:
    separable(tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    found = {w.name: w for w in works(model)}
    assert found["conv"] == Work("conv", "convolution", 64 * 4 * 27, 3 * 64, 4 * 64, 4 * 27)
    assert found["relu"] == Work("relu", "activation", 0, 4 * 64, 4 * 64)
    assert found["depth"] == Work("depth", "depthwise", 64 * 4 * 9, 4 * 64, 4 * 64, 4 * 9)
    assert found["point"] == Work("point", "convolution", 64 * 6 * 4, 4 * 64, 6 * 64, 24)
    assert found["tanh"] == Work("tanh", "elementwise", 0, 6 * 64, 6 * 64)
    assert found["pool"] == Work("pool", "elementwise", 0, 6 * 64, 6)
    assert found["flatten"].kind == "view"
    dense = found["dense"]
    assert (dense.kind, dense.macs, dense.inputs, dense.outputs) == ("dense", 30, 6, 5)
    assert found["softmax"].kind == "elementwise"


def test_counts_agree_with_the_profile(tmp_path: Path) -> None:
    separable(tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    counted = profile(model)
    assert sum(w.macs for w in works(model)) == counted.macs
    assert sum(w.weights for w in works(model)) == counted.params == size(model).weights
    assert size(model).arena == counted.arena_bytes // 4


def test_a_matrix_product_whose_weights_are_used_again_is_no_dense_layer(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 16, 8))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 16, 4))
    w = numpy_helper.from_array(np.ones((8, 4), np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], "tokens")], "g", [x], [y], [w])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    (found,) = works(load(tmp_path / "m.onnx"))
    assert (found.kind, found.macs, found.weights) == ("convolution", 16 * 8 * 4, 32)
