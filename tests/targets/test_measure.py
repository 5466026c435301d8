"""Laws of measuring here: whatever the runtime does to its process, the caller gets a value or one line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper

from targets import agent
from targets.measure import (
    RUNTIMES,
    LatencyNs,
    Measurement,
    RunnerError,
    answer,
    as_row,
    child,
    environment,
    measure,
    measure_side_by_side,
    measurement,
    pooled,
    ratio,
    runtime_for,
)


@pytest.fixture
def relu_onnx(tmp_path: Path) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", 4)) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    path = tmp_path / "relu.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture
def relu_tflite(tmp_path: Path) -> Path:
    def tensor(name: str) -> schema.TensorT:
        made = schema.TensorT()
        made.name, made.shape, made.shapeSignature = name, [1, 4], [-1, 4]
        made.type, made.buffer = schema.TensorType.FLOAT32, 0
        return made

    code, relu, graph, model = schema.OperatorCodeT(), schema.OperatorT(), schema.SubGraphT(), schema.ModelT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RELU
    code.version = 1
    relu.opcodeIndex, relu.inputs, relu.outputs = 0, [0], [1]
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [tensor("x"), tensor("y")], [0], [1], [relu]
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "relu.tflite"
    path.write_bytes(bytes(builder.Output()))
    return path


def fake_litert(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Let children import `source` as LiteRT's interpreter module."""
    package = folder / "fake" / "ai_edge_litert"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "interpreter.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


def told(model: Path, runtime: str, timeout_s: float = 120.0) -> str:
    """What measuring raises, held to be one line."""
    with pytest.raises(RunnerError) as caught:
        measure(model, runtime, runs=1, warmup=0, timeout_s=timeout_s)
    assert str(caught.value).isprintable()
    return str(caught.value)


DYING = "import os\nclass Interpreter:\n    def __init__(self, **_):\n        os.kill(os.getpid(), {signal})\n"
# A runtime whose inference is `body`.
RUNNING = """
import os, time
import numpy
detail = dict(name="x", index=0, shape=[1], shape_signature=[1], dtype=numpy.float32)
class Interpreter:
    def __init__(self, **_): pass
    def allocate_tensors(self): print("hello from the runtime"); os.write(1, b"and from its C code")
    def get_input_details(self): return [detail]
    def get_output_details(self): return [detail]
    def set_tensor(self, index, array): self.array = array
    def get_tensor(self, index): return self.array
    def invoke(self): {body}
"""


def test_a_crash_while_loading_is_one_line_with_the_signal(
    relu_tflite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_litert(tmp_path, monkeypatch, DYING.format(signal=11))
    assert told(relu_tflite, "litert") == "the LiteRT runtime crashed (signal 11) loading relu.tflite"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (DYING.format(signal=4), "crashed (signal 4, an instruction this processor lacks) loading relu.tflite"),
        (RUNNING.format(body="os.kill(os.getpid(), 6)"), "crashed (signal 6) running relu.tflite"),
        ("import os; os.kill(os.getpid(), 11)", "crashed (signal 11) while starting"),
        ("import os; os._exit(0)", "gave no result while starting: ''"),
        (RUNNING.format(body="os._exit(7)"), "failed (exit 7) running relu.tflite: and from its C code"),
        (RUNNING.format(body="raise ValueError('no\\nway')"), "cannot run relu.tflite: no"),
        ("raise RuntimeError('built for numpy 1')", "is installed but cannot be imported: built for numpy 1. "),
        ("import nowhere_to_be_found", "is installed but cannot be imported: No module named 'nowhere_to_be_found'. "),
    ],
)
def test_every_way_to_fail_names_how_far_the_run_came(
    source: str, message: str, relu_tflite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_litert(tmp_path, monkeypatch, source)
    assert told(relu_tflite, "litert").startswith(f"the LiteRT runtime {message}")


def test_a_runtime_that_hangs_is_ended_with_everything_it_started(
    relu_tflite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    body = f"held = open({str(pipe)!r}, 'w'); os.fork(); time.sleep(600)"
    fake_litert(tmp_path, monkeypatch, RUNNING.format(body=body))
    message = told(relu_tflite, "litert", timeout_s=3)
    assert message == "the LiteRT runtime did not finish within 3 s"
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""  # the end comes only when nobody holds the other side any more
    os.close(reader)


def test_what_a_runtime_prints_does_not_spoil_the_result(
    relu_tflite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_litert(tmp_path, monkeypatch, RUNNING.format(body="print('noise')"))
    assert measure(relu_tflite, "litert", runs=3).runs == 3


def test_a_missing_runtime_is_named_with_a_way_out(
    relu_tflite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "fake" / "tflite_runtime"  # stands for its absence, even where it is installed
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ModuleNotFoundError(name='tflite_runtime')")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    assert told(relu_tflite, "tflite") == (
        "tflite_runtime is not installed. Use --runtime litert, or install it in its own environment"
    )


@pytest.mark.parametrize(
    "garbage", ["", "\n", "not json", "[1, 2]", "{", '{"runs": 3}', '{"runs": "x"}', '{"error": 1}', "null", "\x1b[2J"]
)
def test_garbage_is_never_a_measurement(garbage: str) -> None:
    with pytest.raises(RunnerError) as caught:
        record = answer(0, garbage, "", "ort", "m.onnx")
        measurement(record, model="m.onnx", model_sha256="", target="local", grade="measured")
    assert str(caught.value).isprintable()


def test_control_characters_in_a_file_name_do_not_reach_the_message(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[31m\nb.onnx"
    path.write_bytes(b"not a model")
    assert "a\\x1b[31m\\nb.onnx" in told(path, "ort")


def test_a_file_that_is_not_a_model_or_not_there_is_refused_by_name(relu_tflite: Path, relu_onnx: Path) -> None:
    assert told(relu_tflite, "ort").startswith("onnxruntime cannot load relu.tflite: ")
    assert told(relu_onnx, "litert").startswith("the LiteRT runtime cannot load relu.onnx: ")
    assert told(relu_onnx.with_name("gone.onnx"), "ort").endswith("gone.onnx: no such file")


def test_a_path_with_spaces_or_a_leading_dash_is_only_a_path(relu_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = relu_onnx.parent / "flight models ü"
    folder.mkdir()
    relu_onnx.rename(folder / "--help.onnx")
    monkeypatch.chdir(folder)
    assert measure(Path("--help.onnx"), "ort", runs=2).runs == 2


def test_both_runtimes_answer_alike_to_the_same_inputs(relu_onnx: Path, relu_tflite: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.array([[-1, 2, -3, 4], [5, -6, 7, -8]], np.float32))  # two rows: a free batch
    ort, litert = (
        measure(model, runtime, runs=3, warmup=1, inputs=tmp_path / "x.npz")
        for model, runtime in ((relu_onnx, "ort"), (relu_tflite, "litert"))
    )
    wanted = np.array([[0, 2, 0, 4], [5, 0, 7, 0]], np.float32)
    assert ort.output_hash == litert.output_hash == hashlib.sha256(b"<f4(2, 4)" + wanted.tobytes()).hexdigest()
    assert ort.input_shapes == litert.input_shapes == {"x": (2, 4)}


def test_a_measurement_says_what_when_and_where(relu_onnx: Path) -> None:
    measured = measure(relu_onnx, "ort", runs=5, warmup=2)
    assert (measured.target, measured.grade, measured.threads) == ("local", "measured", 1)
    assert (measured.runs, measured.warmup, len(measured.samples_ns)) == (5, 2, 5)
    assert measured.ns == LatencyNs(**agent.spread(list(measured.samples_ns)))
    assert measured.round_p50_ns == (measured.ns.p50,)
    assert measured.model_sha256 == hashlib.sha256(relu_onnx.read_bytes()).hexdigest()
    assert measured.host.pinned_core in os.sched_getaffinity(0)


def test_more_threads_are_given_to_the_runtime_and_not_pinned(relu_onnx: Path) -> None:
    measured = measure(relu_onnx, "ort", runs=1, warmup=0, threads=2)
    assert (measured.threads, measured.host.pinned_core) == (2, None)


def test_a_row_is_json_in_the_reports_words_and_holds_samples_only_when_asked(relu_onnx: Path) -> None:
    measured = measure(relu_onnx, "ort", runs=2, warmup=0)
    row = as_row(measured)
    # INTERFACE.md, bench rows
    assert list(row)[:10] == (
        ["model", "runtime", "target", "grade", "threads", "runs", "warmup", "ns", "peak_rss_bytes", "noise"]
    )
    assert list(row["ns"]) == ["min", "mean", "std", "p50", "p90", "p95", "p99", "max"]
    assert "samples_ns" not in row
    full = as_row(measured, samples=True)
    assert json.loads(json.dumps(full)) == full == {**row, "samples_ns": list(measured.samples_ns)}


def test_side_by_side_goes_there_and_back_and_pools_every_sample(
    relu_onnx: Path, relu_tflite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def noted(model: Path, runtime: str, **options: int) -> Measurement:
        seen.append(runtime)
        return measure(model, runtime, runs=options["runs"], warmup=options["warmup"])

    monkeypatch.setattr("targets.measure.measure", noted)
    both = measure_side_by_side([(relu_onnx, "ort"), (relu_tflite, "litert")], rounds=3, runs=7, warmup=0)
    assert seen == ["ort", "litert", "litert", "ort", "ort", "litert"]
    assert [m.runtime for m in both] == ["ort", "litert"]
    for m in both:
        assert m.runs == len(m.samples_ns) == 9  # 7 shared over 3 rounds, rounded up
        assert m.ns == LatencyNs(**agent.spread(list(m.samples_ns)))
        assert len(m.round_p50_ns) == 3
    low, high = ratio(*both)[1:]
    assert 0 < low <= ratio(*both)[0] <= high


def test_pooling_counts_the_spread_between_rounds_as_noise(relu_onnx: Path) -> None:
    one = measure(relu_onnx, "ort", runs=1, warmup=0)

    def flat_round(ns: int, **facts: Any) -> Measurement:
        level = LatencyNs(**agent.spread([ns] * 4))
        changed = dataclasses.replace(one, ns=level, samples_ns=(ns,) * 4, round_p50_ns=(ns,), noise=0.03)
        return dataclasses.replace(changed, **facts)

    fat = dataclasses.replace(one.rss_bytes, peak=10**12)
    rounds = [
        flat_round(100),
        flat_round(108, throttled=True, peak_rss_bytes=10**12, rss_bytes=fat),
        flat_round(100, output_hash="other"),
    ]
    together = pooled(rounds)
    assert together.peak_rss_bytes == together.rss_bytes.peak == 10**12
    assert together.noise == pytest.approx(0.05)  # √(0.03² + 0.04²): half of 8 % between the rounds
    assert (together.runs, together.ns.p50, together.ns.max) == (12, 100, 108)
    assert together.throttled is True
    assert together.output_hash is None  # the rounds disagree
    assert pooled([rounds[0]] * 3).noise == pytest.approx(0.03)
    assert ratio(pooled(rounds), pooled(rounds)) == (1, 1, 1)


def test_an_interrupt_is_one_even_where_the_child_has_just_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Popen itself waits a moment for it before Ctrl-C goes on: there may be nothing left to kill."""

    def interrupted(process: subprocess.Popen[bytes], timeout: float) -> None:
        process.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        child([sys.executable, "-c", ""], 1, "ort", 10)


def test_thread_counts_of_the_caller_do_not_reach_the_child() -> None:
    found = environment(1, {"OMP_NUM_THREADS": "64", "KMP_AFFINITY": "compact", "HOME": "/root"})
    assert found["OMP_NUM_THREADS"] == found["OPENBLAS_NUM_THREADS"] == "1"
    assert found["HOME"] == "/root"
    assert "KMP_AFFINITY" not in found


def test_every_runtime_of_the_agent_is_known_here_and_chosen_by_suffix() -> None:
    assert RUNTIMES.keys() == agent.RUNTIMES.keys()
    assert [runtime_for(Path(name)) for name in ("a.onnx", "b.TFLITE")] == ["ort", "litert"]
    with pytest.raises(RunnerError, match=r"no runtime reads '.pt' files, only .onnx or .tflite"):
        runtime_for(Path("a.pt"))


def test_importing_measure_loads_neither_numpy_nor_a_runtime_nor_the_toolchain() -> None:
    code = "import sys, targets.measure; print(*{name.partition('.')[0] for name in sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "onnx", "onnxruntime", "ai_edge_litert", "toolchain"} & set(found)


def test_a_run_leaves_no_file_behind(relu_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    measure(relu_onnx, "ort", runs=1, warmup=0)
    assert list(folder.iterdir()) == []  # onnxruntime's telemetry would leave .ses
