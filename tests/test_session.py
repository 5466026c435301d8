"""Sessions keep what they run to themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from toolchain.errors import RunnerFailed
from toolchain.session import run, session

PROGRAM = """
import {first}
import numpy as np, onnx, onnxruntime as ort
from onnx import TensorProto, helper
x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy")
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "net", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
ort.InferenceSession(model.SerializeToString()).run(None, {{"x": np.ones(1, np.float32)}})
"""


def left_behind(first: str, folder: Path) -> list[str]:
    """What onnxruntime leaves in the temporary folder of a process that imports a module first."""
    folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"} | {"TMPDIR": str(folder)}
    subprocess.run([sys.executable, "-c", PROGRAM.format(first=first)], env=environment, check=True)
    return sorted(p.name for p in folder.iterdir())


def test_onnxruntime_reports_nothing_of_a_model(tmp_path: Path) -> None:
    assert left_behind("toolchain", tmp_path / "ours") == []


def looped(trips: int, body: list[onnx.NodeProto]) -> ir.Model:
    """x [1, 4] through the body, over and over."""
    info = helper.make_tensor_value_info
    sides = [info("n", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("z", TensorProto.FLOAT, None)]
    ends = [info("on", TensorProto.BOOL, []), info("w", TensorProto.FLOAT, None)]
    inner = helper.make_graph([helper.make_node("Identity", ["go"], ["on"]), *body], "body", sides, ends)
    node = helper.make_node("Loop", ["trips", "yes", "x"], ["y"], body=inner)
    held = [numpy_helper.from_array(np.array(trips), "trips"), numpy_helper.from_array(np.array(True), "yes")]
    x, y = info("x", TensorProto.FLOAT, [1, 4]), info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "net", [x], [y], held)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


X = {"x": np.full((1, 4), 2, np.float32)}


def test_a_loop_that_ends_is_run() -> None:
    double = [helper.make_node("Add", ["z", "z"], ["w"])]
    (found,) = run(session(looped(3, double)), X)
    assert np.array_equal(found, 8 * X["x"])


def test_a_loop_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolchain.session.LOOP_SECONDS", 0.2)
    with pytest.raises(RunnerFailed, match="did not finish within"):
        run(session(looped((1 << 63) - 1, [helper.make_node("Relu", ["z"], ["w"])])), X)


def test_what_onnxruntime_cannot_do_is_told_in_one_line() -> None:
    """A list of samples that the graph was not made for stands for whatever goes wrong while it runs."""
    with pytest.raises(RunnerFailed, match="onnxruntime failed on the model") as caught:
        run(session(looped(1, [helper.make_node("Relu", ["z"], ["w"])])), {"x": np.ones((1, 5), np.float32)})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64])
def test_samples_are_fed_in_the_type_of_the_input(kind: int) -> None:
    sides = [[helper.make_tensor_value_info(n, kind, [1, 4])] for n in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "net", *sides)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (found,) = run(session(ir.from_proto(proto)), X)
    assert found.dtype == helper.tensor_dtype_to_np_dtype(kind) and np.array_equal(found, X["x"])
