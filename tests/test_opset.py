"""A graph said in another opset is the same function, or is refused with its node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from toolchain.compress.groups import analyse
from toolchain.compress.plan import make_plan
from toolchain.compress.surgery import prune
from toolchain.errors import Unsupported
from toolchain.model import Model, load, said_in, save
from toolchain.session import run, session

X = np.random.default_rng(3).uniform(-1, 1, (2, 4, 6, 6)).astype(np.float32)
W = np.random.default_rng(4).uniform(-1, 1, (8, 4, 3, 3)).astype(np.float32)


def node(kind: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, ["x", *inputs], ["y"], name="it", **attributes)


def model(folder: Path, it: onnx.NodeProto, opset: int = 20, doc: str = "", **held: np.ndarray) -> Model:
    """x -> y, loaded from a file of this opset."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    parameters = [numpy_helper.from_array(a, k) for k, a in held.items()]
    graph = helper.make_graph([it], "net", [x], [y], parameters, doc_string=doc)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, doc_string=doc)
    onnx.save(proto, folder / "net.onnx")
    return load(folder / "net.onnx")


def opset_of(path: Path) -> int:
    return next(o.version for o in onnx.load(path).opset_import if o.domain == "")


SAYABLE: dict[str, tuple[onnx.NodeProto, dict[str, np.ndarray]]] = {
    "conv": (node("Conv", "w", pads=[1, 1, 1, 1]), {"w": W}),
    "mean over axes": (node("ReduceMean", "axes"), {"axes": np.array([2, 3])}),
    "max over axes": (node("ReduceMax", "axes", keepdims=0), {"axes": np.array([1])}),
    "sum over axes": (node("ReduceSum", "axes"), {"axes": np.array([1])}),
    "relu": (node("Relu"), {}),
    "pad": (node("Pad", "pads"), {"pads": np.array([0, 0, 1, 0, 0, 0, 0, 2])}),
    "resize": (node("Resize", "", "scales", mode="nearest"), {"scales": np.array([1, 1, 2, 2], np.float32)}),
    "softmax": (node("Softmax", axis=1), {}),
    "average pool": (node("AveragePool", kernel_shape=[2, 2]), {}),
    "cast and reshape": (node("Reshape", "to"), {"to": np.array([0, -1])}),
}


@pytest.mark.parametrize("opset", [13, 15, 17, 18, 19])
@pytest.mark.parametrize("case", SAYABLE)
def test_a_lower_opset_is_the_same_function(case: str, opset: int, tmp_path: Path) -> None:
    it, held = SAYABLE[case]
    given = model(tmp_path, it, **held)
    save(said_in(given, opset), tmp_path / "low.onnx")
    proto = onnx.load(tmp_path / "low.onnx")
    onnx.checker.check_model(proto, full_check=True)
    assert opset_of(tmp_path / "low.onnx") == opset
    found = ort.InferenceSession(tmp_path / "low.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": X})
    wanted = run(session(given.ir), {"x": X})[0]
    assert np.allclose(found[0], wanted, rtol=1e-6, atol=1e-6)  # onnxruntime pools by another kernel from 19 on


REFUSED: dict[str, tuple[onnx.NodeProto, dict[str, np.ndarray], int]] = {
    "gelu": (node("Gelu"), {}, 19),
    "norm": (node("LayerNormalization", "s"), {"s": np.ones(6, np.float32)}, 16),
    "dilated pool": (node("AveragePool", kernel_shape=[2, 2], dilations=[2, 2]), {}, 18),
    "pads of some axes": (node("Pad", "p", "", "a", mode="wrap"), {"p": np.array([1, 1]), "a": np.array([3])}, 17),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_an_opset_cannot_say_is_refused_with_its_node(case: str, tmp_path: Path) -> None:
    it, held, opset = REFUSED[case]
    with pytest.raises(Unsupported, match=f"{it.op_type} 'it'.*opset {opset} has not") as caught:
        said_in(model(tmp_path, it, **held), opset)
    assert caught.value.way_out


@pytest.mark.parametrize("opset", [5, 12, 21, 99])
def test_an_opset_out_of_reach_is_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=f"opset {opset} is not from 13 to 20"):
        said_in(model(tmp_path, node("Relu")), opset)


# ---- what is written -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("opset", [13, 16, 18, 20, 22])
def test_a_file_keeps_its_opset_and_what_it_says_of_itself(opset: int, tmp_path: Path) -> None:
    it, held = SAYABLE["conv"]
    save(model(tmp_path, it, opset, "a rover's eye", **held), tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    assert opset_of(tmp_path / "out.onnx") == opset
    assert (written.doc_string, written.graph.doc_string) == ("a rover's eye", "a rover's eye")
    assert [n.name for n in written.graph.node] == ["it"]
    assert [t.name for t in written.graph.initializer] == ["w"]


def test_a_file_whose_nodes_were_restated_comes_back_in_the_opset_that_can_say_them(tmp_path: Path) -> None:
    given = model(tmp_path, node("ReduceMean", axes=[2, 3]), 13)
    save(given, tmp_path / "out.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"), full_check=True)
    assert opset_of(tmp_path / "out.onnx") == 20
    save(said_in(given, 13), tmp_path / "low.onnx")
    assert opset_of(tmp_path / "low.onnx") == 13


LEVELS = [v for k, v in vars(ort.GraphOptimizationLevel).items() if k.startswith("ORT_")]


def test_a_pruned_file_is_clean_and_runs_at_every_level_of_optimisation(tmp_path: Path) -> None:
    from toolchain.shipped import triangles_squares_path

    given = load(triangles_squares_path())
    channels = analyse(given)
    scores = {g.name: np.arange(len(g), dtype=float) for g in channels.groups}
    plan = make_plan(given, channels, scores, {}, "units<=50%", "off", (), ())
    save(prune(given, channels, plan.labels(channels)), tmp_path / "p.onnx")
    proto = onnx.load(tmp_path / "p.onnx")
    onnx.checker.check_model(proto, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    assert {v.name: v for v in inferred.graph.value_info}.items() >= {v.name: v for v in proto.graph.value_info}.items()
    ends = {o.name for o in proto.graph.output}
    read = {i for n in proto.graph.node for i in n.input} | ends
    assert {t.name for t in proto.graph.initializer} <= read
    assert all(read & set(n.output) for n in proto.graph.node)
    seen = {i.name for i in proto.graph.input} | {t.name for t in proto.graph.initializer} | {""}
    for n in proto.graph.node:
        assert set(n.input) <= seen
        seen |= set(n.output)
    source = onnx.load(triangles_squares_path())
    assert {t.name for t in proto.graph.initializer} <= {t.name for t in source.graph.initializer}
    assert {n.name for n in proto.graph.node} <= {n.name for n in source.graph.node}
    for level in LEVELS:
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        ort.InferenceSession(tmp_path / "p.onnx", options, providers=["CPUExecutionProvider"])
