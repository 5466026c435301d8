"""What a `lite` rule emits computes what its op computes, or the rule names the node that it refuses."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from cases import CASES, Case
from ops.test_laws import concrete, model_of, proto

from toolchain.emit import LiteModel, to_tflite
from toolchain.errors import Unsupported
from toolchain.ops import OPS

TOLERANCE = 1e-5  # relative to the largest output: other kernels sum in another order
BATCH = 2  # samples of `concrete`
NO_KERNEL = "Didn't find op for builtin opcode"  # the reference kernels of LiteRT 2.3 lack a few


def answers(case: Case, feed: dict[str, np.ndarray]) -> np.ndarray | None:
    """What onnxruntime computes; None where it has no kernel."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        runner = ort.InferenceSession(proto(case).SerializeToString(), options, providers=["CPUExecutionProvider"])
    except ort.capi.onnxruntime_pybind11_state.NotImplemented:
        return None
    return runner.run(["y0"], feed)[0]


def computed(lite: LiteModel, feed: dict[str, np.ndarray], kernels: str) -> np.ndarray:
    """What LiteRT computes of whole inputs: here samples need not be in front."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    runner = Interpreter(model_content=lite.data, experimental_op_resolver_type=OpResolverType[kernels])
    runner.allocate_tensors()
    for detail in runner.get_input_details():
        name = detail["name"]
        runner.set_tensor(detail["index"], feed[name].transpose(lite.inputs[name]).astype(detail["dtype"]))
    runner.invoke()
    (detail,) = runner.get_output_details()
    return runner.get_tensor(detail["index"]).transpose(np.argsort(lite.outputs["y0"]))


@pytest.mark.parametrize("case", [c for c in CASES if OPS[c.op].lite is not None], ids=str)
def test_an_op_of_the_table_equals_its_source_or_is_refused_by_name(case: Case) -> None:
    feed = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in concrete(case).items()}
    wanted = answers(case, feed)
    if wanted is None:
        pytest.skip("onnxruntime has no kernel")
    try:
        lite = to_tflite(model_of(case), batch=BATCH)
    except Unsupported as error:
        assert "'node'" in error.where
        assert error.way_out
        return
    for kernels in ("BUILTIN", "BUILTIN_REF"):
        try:
            found = computed(lite, feed, kernels)
        except ValueError as error:
            assert kernels == "BUILTIN_REF" and NO_KERNEL in str(error)
            continue
        assert found.shape == wanted.shape
        assert np.abs(found.astype(np.float64) - wanted).max(initial=0) <= TOLERANCE * np.abs(wanted).max(initial=0)
