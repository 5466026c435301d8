"""Sessions keep what they run to themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
