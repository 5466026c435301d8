"""Quantised files stay close to their network, on the runtimes that will fly them too."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

import toolchain.emit.quantise
from toolchain.emit.child import run
from toolchain.emit.lite_file import closed, opened
from toolchain.emit.quantise import QUANTISED, outputs, quantise
from toolchain.emit.quantising import least_error
from toolchain.emit.rounding import nearest_plane, spread, windows
from toolchain.emit.run import onnx_outputs
from toolchain.errors import RunnerFailed, Unsupported, UsageError
from toolchain.model import Model, load

LITE = [f for f, k in QUANTISED.items() if k.source == "tflite"]
CODES = {v: k for k, v in vars(schema.BuiltinOperator).items() if k.isupper()}
LEGACY = os.environ.get("JETTISON_LEGACY_PYTHON")  # a Python with tflite-runtime 2.14, which needs numpy < 2


def needs_quantiser(form: str = "tflite-int8") -> None:
    if QUANTISED[form].needs:
        pytest.importorskip(QUANTISED[form].needs, reason="needs ai-edge-quantizer: pip install -e .[int8]")


def scaled(*shape: int) -> np.ndarray:
    """Seeded weights that keep activations near 1."""
    return (np.random.default_rng(shape).uniform(-1, 1, shape) * np.sqrt(6 / np.prod(shape[1:]))).astype(np.float32)


def written(
    folder: Path, nodes: list[Any], weights: dict[str, np.ndarray], shape: tuple[int, ...], batch: Any = "N"
) -> Model:
    """A network from x [N, *shape] to y."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape])]
    ends = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    held = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "net", inputs, ends, held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "net.onnx")
    return load(folder / "net.onnx")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small classifier whose int8 weights exceed the 256 KiB from which the quantiser moves buffers."""
    weights = {
        **{"w1": scaled(8, 3, 3, 3), "b1": scaled(8), "w2": scaled(8, 1, 3, 3), "b2": scaled(8)},
        **{"w3": scaled(200, 2048), "b3": scaled(200), "w4": scaled(6, 200), "b4": scaled(6)},
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], group=8, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("MaxPool", ["r2"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["d"], transB=1),
        helper.make_node("Relu", ["d"], ["r3"]),
        helper.make_node("Gemm", ["r3", "w4", "b4"], ["y"], transB=1),
    ]
    return written(tmp_path_factory.mktemp("net"), nodes, weights, (3, 32, 32))


def images(n: int, seed: int) -> dict[str, np.ndarray]:
    """Smooth bright pictures, as cameras take them: neighbouring inputs of a layer vary together."""
    generator = np.random.default_rng(seed)
    coarse = generator.uniform(0, 1, (n, 3, 4, 4)).repeat(8, axis=2).repeat(8, axis=3)
    return {"x": (0.8 * coarse + 0.2 * generator.uniform(0, 1, (n, 3, 32, 32))).astype(np.float32)}


@pytest.fixture(scope="module")
def made(network: Model) -> dict[str, Any]:
    """Every format whose packages are there."""
    forms = [f for f in QUANTISED if not QUANTISED[f].needs or toolchain.emit.quantise.find_spec(QUANTISED[f].needs)]
    metadata = {"source_sha256": network.sha256, "labels": "a\nb"}
    return {f: quantise(network, f, images(64, 1), images(32, 2), metadata) for f in forms}


def file(made: dict[str, Any], form: str, folder: Path) -> Path:
    needs_quantiser(form)
    path = folder / QUANTISED[form].file("net")
    path.write_bytes(made[form].data)
    return path


# ---- what a file computes ------------------------------------------------------------------------------------------
# 8 bits for a range hold noise of 1/255/√12 of it in each tensor; these networks are a few layers deep
@pytest.mark.parametrize(("form", "error"), {**dict.fromkeys(QUANTISED, 0.05), "tflite-float16": 1e-3}.items())
def test_a_quantised_file_computes_nearly_what_its_network_does(
    network: Model, made: dict[str, Any], form: str, error: float, tmp_path: Path
) -> None:
    x = images(40, 3)
    y, z = onnx_outputs(network, x)["y"], outputs(file(made, form, tmp_path), x)["y"]
    assert y.shape == z.shape
    assert 0 < np.linalg.norm(z - y) <= error * np.linalg.norm(y)


def test_weights_are_a_quarter_or_a_half(network: Model, made: dict[str, Any]) -> None:
    floats = sum(int(np.prod(v.shape)) for v in network.graph.initializers.values())
    for form, q in made.items():
        size = 2 if form == "tflite-float16" else 1
        assert size * floats <= len(q.data) <= 1.03 * size * floats + (1 << 14), form


def test_an_int8_file_has_no_float_in_it(made: dict[str, Any]) -> None:
    needs_quantiser()
    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(made["tflite-int8"].data)).subgraphs[0]
    integers = {schema.TensorType.INT8, schema.TensorType.INT32}
    assert {t.type for t in graph.tensors} <= integers and not made["tflite-int8"].float_ops


def test_weights_have_a_scale_for_each_channel(made: dict[str, Any]) -> None:
    needs_quantiser()
    for form in ("tflite-int8", "tflite-int8-weights"):
        graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(made[form].data)).subgraphs[0]
        named = {t.name.decode(): t for t in graph.tensors}
        assert [len(named[w].quantization.scale) for w in ("w1", "w2", "w3", "w4")] == [8, 8, 200, 6]


def test_weights_rounded_for_real_samples_are_closer(network: Model, made: dict[str, Any], tmp_path: Path) -> None:
    """Neighbouring pixels vary together: rounding errors of their weights add up where each is rounded alone."""
    path, x = file(made, "tflite-int8-weights", tmp_path), images(40, 3)
    y, fitted = onnx_outputs(network, x)["y"], outputs(path, x)["y"]
    path.write_bytes(quantise(network, "tflite-int8-weights", None, images(4, 1)).data)
    alone = outputs(path, x)["y"]
    assert np.linalg.norm(fitted - y) < 0.8 * np.linalg.norm(alone - y)


def test_a_constant_joined_to_an_activation_is_quantised(tmp_path: Path) -> None:
    """A class token: the quantiser takes its scale from the result."""
    needs_quantiser()
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("Concat", ["token", "r"], ["c"], axis=1),
        helper.make_node("MatMul", ["c", "w"], ["y"]),
    ]
    weights = {"shape": np.array([1, 3, 1024]), "token": scaled(1, 1, 1024), "w": scaled(1024, 4)}
    model = written(tmp_path, nodes, weights, (3, 32, 32), batch=1)
    assert not quantise(model, "tflite-int8", images(8, 1), images(8, 2)).float_ops


@pytest.mark.parametrize("form", ["tflite-int8", "tflite-int8-weights"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_product_with_a_constant_that_has_one_scale_is_close(form: str, side: str, tmp_path: Path) -> None:
    """LiteRT takes a scale per channel there without a word, and answers with zeros."""
    needs_quantiser()
    words = ["w", "x"] if side == "left" else ["x", "w"]
    model = written(tmp_path, [helper.make_node("MatMul", words, ["y"])], {"w": scaled(3, 32, 32)}, (3, 32, 32))
    (tmp_path / "q.tflite").write_bytes(quantise(model, form, images(32, 1), images(8, 2)).data)
    x = images(8, 3)
    y, near = onnx_outputs(model, x)["y"], outputs(tmp_path / "q.tflite", x)["y"]
    assert np.linalg.norm(near - y) < 0.03 * np.linalg.norm(y)


@pytest.mark.parametrize("pads", [[1, 1, 1, 1], [2, 2, 0, 0]])
def test_what_pads_a_maximum_costs_no_precision(pads: list[int], tmp_path: Path) -> None:
    """[1, 1, 1, 1] is mirrored; of [2, 2, 0, 0] a window sees nothing but what pads it, and its own corner."""
    needs_quantiser()
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=pads)
    model = written(tmp_path, [pool], {}, (3, 32, 32))
    (tmp_path / "q.tflite").write_bytes(quantise(model, "tflite-int8", images(32, 1), images(8, 2)).data)
    x = images(8, 3)
    y, near = onnx_outputs(model, x)["y"], outputs(tmp_path / "q.tflite", x)["y"]
    assert np.linalg.norm(near - y) < 0.03 * np.linalg.norm(y)


def test_an_op_that_stays_in_float_is_named(tmp_path: Path) -> None:
    needs_quantiser()
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Elu", ["c"], ["e"], name="elu"),
        helper.make_node("Conv", ["e", "v"], ["y"]),
    ]
    model = written(tmp_path, nodes, {"w": scaled(4, 3, 3, 3), "v": scaled(2, 4, 3, 3)}, (3, 32, 32))
    found = quantise(model, "tflite-int8", images(8, 1), images(8, 2))
    assert [o.split()[0] for o in found.float_ops] == ["ELU"]


# ---- the two silent traps ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", LITE)
def test_every_buffer_lies_in_line_at_a_multiple_of_16(made: dict[str, Any], form: str) -> None:
    needs_quantiser(form)
    data = made[form].data
    model = schema.Model.GetRootAs(data)
    assert len(data) > 256 << 10
    for i in range(model.BuffersLength()):
        buffer = model.Buffers(i)
        assert buffer.Offset() == buffer.Size() == 0
        if buffer.DataLength():
            assert buffer._tab.Vector(buffer._tab.Offset(4)) % 16 == 0


def test_tflite_micro_computes_what_litert_does(made: dict[str, Any], tmp_path: Path) -> None:
    micro = pytest.importorskip("tflite_micro", reason="needs tflite-micro: pip install --pre tflite-micro")
    path, x = file(made, "tflite-int8", tmp_path), images(16, 4)
    wanted = run(str(path), x)["y"]
    interpreter = micro.runtime.Interpreter.from_file(str(path), arena_size=1 << 20)
    into, out = interpreter.get_input_details(0), interpreter.get_output_details(0)
    steps = lambda d: (d["quantization_parameters"]["scales"][0], d["quantization_parameters"]["zero_points"][0])
    (scale, zero), (unit, nought) = steps(into), steps(out)
    found = []
    for image in x["x"].transpose(0, 2, 3, 1):
        interpreter.set_input(np.clip(np.rint(image[None] / scale) + zero, -128, 127).astype(np.int8), 0)
        interpreter.invoke()
        found.append(unit * (interpreter.get_output(0).astype(np.float32) - nought))
    # kernels round differently on the way: a few steps, never garbage
    assert np.abs(np.concatenate(found) - wanted).max() <= 4 * unit


@pytest.mark.parametrize("form", LITE)
def test_tflite_runtime_214_refuses_a_file_or_computes_it_rightly(
    network: Model, made: dict[str, Any], form: str, tmp_path: Path
) -> None:
    if LEGACY is None:
        pytest.skip("JETTISON_LEGACY_PYTHON names no Python with tflite-runtime 2.14")
    path, x = file(made, form, tmp_path), images(16, 4)
    np.save(tmp_path / "x.npy", x["x"].transpose(0, 2, 3, 1))
    program = """
import sys, numpy as np
from tflite_runtime.interpreter import Interpreter
model, folder = sys.argv[1:]
try:
    i = Interpreter(model); i.allocate_tensors()
except (RuntimeError, ValueError) as error:
    sys.exit(f"refused: {error}")
(a,), (b,), found = i.get_input_details(), i.get_output_details(), []
def coded(v, d):
    s, z = d["quantization"]
    return np.clip(np.rint(v / s) + z, -128, 127).astype(np.int8) if s else v
def value(v, d):
    s, z = d["quantization"]
    return s * (v.astype(np.float32) - z) if s else v
for v in np.load(folder + "/x.npy"):
    i.set_tensor(a["index"], coded(v[None], a)); i.invoke(); found.append(value(i.get_tensor(b["index"]), b))
np.save(folder + "/y.npy", np.concatenate(found))
"""
    done = subprocess.run(
        [LEGACY, "-c", program, str(path), str(tmp_path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        assert "refused" in done.stderr and "version" in done.stderr, done.stderr
        return
    y, z = onnx_outputs(network, x)["y"], np.load(tmp_path / "y.npy")
    assert np.linalg.norm(z - y) <= 0.05 * np.linalg.norm(y)


# TensorFlow Lite's op_version.cc
VERSIONS = {
    "tflite-int8": {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "MAX_POOL_2D": 2, "RESHAPE": 1},
    "tflite-int8-weights": {
        **{"CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 12, "MAX_POOL_2D": 1, "RESHAPE": 1}
    },
    "tflite-float16": {"DEQUANTIZE": 3, "CONV_2D": 1, "FULLY_CONNECTED": 1},
}


@pytest.mark.parametrize("form", LITE)
def test_ops_have_the_versions_of_their_types(made: dict[str, Any], form: str) -> None:
    needs_quantiser(form)
    model = schema.Model.GetRootAs(made[form].data)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    found = {CODES[c.BuiltinCode()]: c.Version() for c in codes}
    assert len(found) == len(codes) and found.items() >= VERSIONS[form].items()


def test_a_file_taken_apart_and_put_together_is_the_same(made: dict[str, Any]) -> None:
    for form in LITE:
        if form in made:
            assert b"".join(closed(opened(made[form].data))) == made[form].data


# ---- what goes along -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", LITE)
def test_layout_labels_source_and_signature_survive(
    network: Model, made: dict[str, Any], form: str, tmp_path: Path
) -> None:
    needs_quantiser(form)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(made[form].data))
    found = {m.name.decode(): bytes(model.buffers[m.buffer].data).decode() for m in model.metadata}
    assert found["labels"] == "a\nb" and found["source_sha256"] == network.sha256
    assert json.loads(found["jettison.layout"])["inputs"]["x"] == [0, 2, 3, 1]
    (signature,) = model.signatureDefs
    assert signature.signatureKey == b"serving_default"
    assert [t.name for t in (*signature.inputs, *signature.outputs)] == [b"x", b"y"]


def test_the_error_of_every_tensor_is_told_largest_first(made: dict[str, Any]) -> None:
    for form, q in made.items():
        errors = [r["relative_error"] for r in q.layers]
        assert errors == sorted(errors, reverse=True) and 0 < errors[0] < 0.2, form
        assert {"y", "f"} <= {r["tensor"] for r in q.layers} and "w3" not in {r["tensor"] for r in q.layers}, form


def test_activations_beyond_the_calibrated_range_are_told(network: Model) -> None:
    bright = {"x": 3 * images(16, 2)["x"]}
    for form in ("tflite-int8", "onnx-int8"):
        if form == "tflite-int8":
            needs_quantiser()
        found = {r["tensor"]: r["share"] for r in quantise(network, form, images(64, 1), bright).saturated}
        beyond = (bright["x"] > 1.01 * images(64, 1)["x"].max()).mean()
        assert found["x"] == pytest.approx(beyond, abs=0.02), form


def test_float16_refuses_a_weight_that_it_cannot_hold(tmp_path: Path) -> None:
    weights = {"w": np.array([[7e4, 1]], np.float32)}
    model = written(tmp_path, [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], weights, (2,))
    with pytest.raises((Unsupported, RunnerFailed), match="65504"):
        quantise(model, "tflite-float16", None, {"x": np.ones((4, 2), np.float32)})


# ---- a quantiser that fails ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("program", "told"),
    {
        "bytearray(1 << 62)": "needs more memory than there is",
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": "crashed",
        "import time; time.sleep(60)": "did not finish",
        "raise ValueError('no such thing')": "no such thing",
    }.items(),
)
def test_a_quantiser_that_crashes_hangs_or_refuses_is_one_line(
    network: Model, program: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "child.py").write_text(program)
    monkeypatch.setattr(toolchain.emit.quantise, "CHILD", tmp_path / "child.py")
    with pytest.raises(RunnerFailed, match=told) as error:
        quantise(network, "tflite-float16", None, images(2, 1), timeout=3)
    assert error.value.exit_code == 6 and "\n" not in str(error.value)


def test_a_missing_quantiser_is_told_with_its_extra(network: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.emit.quantise, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"jettison\[int8\]"):
        quantise(network, "tflite-int8", images(2, 1), images(2, 1))


# ---- rounding ------------------------------------------------------------------------------------------------------
def correlated(n: int, seed: int) -> np.ndarray:
    """A covariance of inputs that vary together."""
    x = np.random.default_rng(seed).standard_normal((n, n)) + 1.0
    return (x @ x.T / n).astype(np.float32)


def energy(rounded: np.ndarray, weights: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """What rounding adds to each output's variance."""
    error = rounded - weights.astype(np.float64)
    return np.einsum("oi,ij,oj->o", error, covariance.astype(np.float64), error)


@pytest.mark.parametrize("inputs", [1, 5, 130, 300])
def test_rounding_for_the_inputs_adds_less_noise_than_rounding_each_weight(inputs: int) -> None:
    weights = np.random.default_rng(inputs).uniform(-100, 100, (40, inputs)).astype(np.float32)
    covariance = correlated(inputs, inputs)
    found = nearest_plane(weights, covariance)
    assert energy(found, weights, covariance).sum() <= energy(np.rint(weights), weights, covariance).sum() * (1 + 1e-6)


def test_an_input_far_larger_than_the_others_does_not_stop_the_rounding() -> None:
    """float32 rounds the covariance of the rest away; as where one channel of a transformer runs off."""
    generator = np.random.default_rng(1)
    rows = generator.standard_normal((400, 600)).astype(np.float32) @ generator.standard_normal((600, 600)) / 25
    rows[:, 7] *= 1e5
    _, covariance = spread(rows.astype(np.float32))
    weights = generator.uniform(-100, 100, (20, 600)).astype(np.float32)
    found = nearest_plane(weights, covariance)
    assert energy(found, weights, covariance).sum() <= energy(np.rint(weights), weights, covariance).sum() * (1 + 1e-6)


def test_inputs_that_vary_alone_get_the_nearest_integers() -> None:
    weights = np.random.default_rng(0).uniform(-140, 140, (9, 50)).astype(np.float32)
    found = nearest_plane(weights, np.diag(np.arange(1, 51)).astype(np.float32))
    assert (found == np.clip(np.rint(weights), -127, 127)).all()


def test_rounding_is_near_the_best_of_all_integers() -> None:
    generator, covariance = np.random.default_rng(3), correlated(4, 3)
    for weights in generator.uniform(-3, 3, (20, 1, 4)).astype(np.float32):
        near = [np.floor(weights) + np.array(d) for d in itertools.product((-1, 0, 1, 2), repeat=4)]
        best = min(energy(n, weights, covariance)[0] for n in near)
        # Babai 1986: within a factor 2^(n/2) of the distance, its square here
        assert energy(nearest_plane(weights, covariance), weights, covariance)[0] <= 2**4 * best + 1e-3


@pytest.mark.parametrize(
    ("stride", "dilation", "padding"),
    [((1, 1), (1, 1), 1), ((2, 3), (1, 1), 0), ((1, 2), (2, 1), 1), ((2, 2), (1, 2), 0)],
)
def test_windows_are_what_a_convolution_sees(stride: tuple[int, int], dilation: tuple[int, int], padding: int) -> None:
    options = schema.Conv2DOptionsT()
    options.strideH, options.strideW = stride
    options.dilationHFactor, options.dilationWFactor = dilation
    options.padding = padding
    x = np.random.default_rng(0).standard_normal((2, 7, 9, 3)).astype(np.float32)
    weights = scaled(5, 3, 2, 3)
    seen = windows(x, (3, 2), options, 1000, 0)
    found = np.einsum("phwc,ohwc->po", seen, weights)
    auto = {"auto_pad": "SAME_UPPER" if padding == 0 else "VALID"}
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=stride, dilations=dilation, **auto)
    ends = [helper.make_tensor_value_info(*e) for e in (("x", 1, [2, 3, 7, 9]), ("y", 1, None))]
    held = numpy_helper.from_array(weights.transpose(0, 3, 1, 2).copy(), "w")
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [held])
    from onnx.reference import ReferenceEvaluator

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": x.transpose(0, 3, 1, 2)})
    rows = wanted.transpose(0, 2, 3, 1).reshape(-1, 5)
    key = lambda a: a[np.lexsort(np.round(a, 3).T)]
    np.testing.assert_allclose(key(found), key(rows), atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_a_range_holds_its_values_no_worse_than_all_of_them_would(seed: int) -> None:
    values = np.random.default_rng(seed).standard_t(2 + seed, 5000).astype(np.float32)
    error = lambda low, high: np.square(
        (np.clip(np.rint(values / (s := (high - low) / 255)) + (z := np.rint(-low / s)), 0, 255) - z) * s - values
    ).sum()
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    found = least_error(low, high, values)
    assert low <= found[0] <= 0 <= found[1] <= high
    assert error(*found) <= error(low, high) * (1 + 1e-6)


def test_only_the_child_loads_a_quantiser() -> None:
    code = "import sys, toolchain.emit.quantise; sys.exit(bool({'ai_edge_quantizer', 'onnxruntime'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
