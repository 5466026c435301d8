"""Laws of the board agent: one file, one line, and figures that agree with numpy's and onnxruntime's own."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from targets import agent

AGENT = Path(agent.__file__)
SAMPLES = st.lists(st.integers(0, 10**11), min_size=1, max_size=50)


def add_model(path: Path, shape: tuple[str | int, ...] = ("N", 3), kind: int = TensorProto.FLOAT) -> Path:
    """y = x + x, as a file."""
    x, y = (helper.make_tensor_value_info(name, kind, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "twice", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def dense_model(path: Path, width: int) -> Path:
    """y = x W with W [width, width], as a file."""
    weight = np.random.default_rng(0).standard_normal((width, width)).astype(np.float32)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", width)) for name in "xy")
    nodes = [helper.make_node("MatMul", ["x", "W"], ["y"])]
    graph = helper.make_graph(nodes, "dense", [x], [y], [numpy_helper.from_array(weight, "W")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def called(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(AGENT), "--warmup", "1", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": ""})


@given(SAMPLES, st.floats(0, 1))
def test_a_percentile_is_numpys(samples: list[int], share: float) -> None:
    ordered = sorted(samples)
    # linear interpolation between values up to 1e11 in float64: the two orders of operations differ by a few ulp
    assert agent.percentile(ordered, share) == pytest.approx(float(np.quantile(ordered, share)), rel=1e-12, abs=1e-4)


@given(SAMPLES)
def test_a_spread_is_numpys_to_the_nanosecond(samples: list[int]) -> None:
    ns = agent.spread(samples)
    wanted = {name: np.percentile(samples, int(name[1:])) for name in ("p50", "p90", "p95", "p99")}
    wanted |= {"min": min(samples), "max": max(samples), "mean": np.mean(samples), "std": np.std(samples)}
    assert ns.keys() == wanted.keys()
    assert all(abs(ns[name] - value) <= 0.51 for name, value in wanted.items())  # half a nanosecond of rounding


@pytest.mark.parametrize(
    ("samples", "wanted"),
    [([100] * 20, 0.0), ([100] * 10 + [150] * 10, 0.2), ([100] + [150] * 99, 1 / 3), ([100] * 999 + [10**9], 0.0)],
)
def test_noise_sees_short_and_lasting_disturbance_but_no_outlier(samples: list[int], wanted: float) -> None:
    assert agent.noise(agent.spread(samples)) == pytest.approx(wanted)


def test_the_agent_imports_only_the_standard_library_numpy_and_runtimes() -> None:
    tree = ast.parse(AGENT.read_text(encoding="utf-8"), feature_version=(3, 9))  # and parses on old boards
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
    assert {name.partition(".")[0] for name, _, _ in agent.RUNTIMES.values()} == {
        "onnxruntime",
        "ai_edge_litert",
        "tflite_runtime",
    }


def test_stdout_holds_exactly_one_json_line_with_every_promised_figure(tmp_path: Path) -> None:
    done = called("--model", add_model(tmp_path / "m.onnx"), "--runtime", "ort", "--runs", 7, "--pin")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1 and done.stdout.endswith("\n")
    record = json.loads(done.stdout)
    assert record["runs"] == len(record["samples_ns"]) == 7
    assert record["warmup"] == 1
    assert record["ns"] == agent.spread(record["samples_ns"])
    assert record["noise"] == agent.noise(record["ns"])
    assert record["input_shapes"] == {"x": [1, 3]}
    assert record["host"]["pinned_core"] == max(os.sched_getaffinity(0))
    assert min(record["init_ns"], record["first_ns"], *record["samples_ns"]) > 0


def test_the_output_hash_is_of_what_the_model_answers_to_the_given_inputs(tmp_path: Path) -> None:
    x = np.array([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]], np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    done = called("--model", add_model(tmp_path / "m.onnx"), "--runtime", "ort", "--inputs", tmp_path / "x.npz")
    assert json.loads(done.stdout)["output_hash"] == hashlib.sha256(b"<f4(2, 3)" + (x + x).tobytes()).hexdigest()


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(tmp_path: Path) -> None:
    words = ("--model", add_model(tmp_path / "m.onnx"), "--runtime", "ort", "--runs", 1, "--seed")
    hashes = [json.loads(called(*words, seed).stdout)["output_hash"] for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_peak_over_the_baseline_holds_the_weights(tmp_path: Path) -> None:
    width = 2048  # 16 MiB of weights
    done = called("--model", dense_model(tmp_path / "m.onnx", width), "--runtime", "ort", "--runs", 1)
    record = json.loads(done.stdout)
    rss = record["rss_bytes"]
    assert record["peak_over_baseline_bytes"] == rss["peak"] - rss["baseline"] >= width * width * 4
    assert record["peak_rss_bytes"] == rss["peak"] >= rss["after_init"]


def test_the_peak_forgets_what_was_before_the_baseline() -> None:
    code = """
from targets import agent
gone = b"1" * 2**26
del gone
print(agent.status_bytes("VmHWM"), agent.reset_peak(), agent.status_bytes("VmHWM"), sep=";")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, what, after = done.stdout.strip().split(";")
    if what != "VmHWM since the baseline":
        pytest.skip(f"this kernel cannot reset the mark: {what}")
    assert int(before) - int(after) > 2**25  # of 2**26: half is left to the kernel's lazy counting


def test_going_on_for_a_time_never_takes_fewer_runs_than_asked(tmp_path: Path) -> None:
    words = ("--model", add_model(tmp_path / "m.onnx"), "--runtime", "ort", "--runs", 3)
    assert json.loads(called(*words, "--min-seconds", 0).stdout)["runs"] == 3
    record = json.loads(called(*words, "--min-seconds", 0.05).stdout)
    assert record["runs"] == len(record["samples_ns"]) > 3  # a call of this model takes microseconds


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("uint8", 0, 255), ("int8", -128, 127), ("int16", -32768, 32767), ("int64", 0, 1), ("bool", 0, 1)],
)
def test_drawn_integers_fill_narrow_types_and_keep_to_indices_in_wide_ones(dtype: str, low: int, high: int) -> None:
    values = agent.drawn(agent.Input("x", dtype, (None, 5000)), np.random.RandomState(0)).astype(np.int64)
    assert values.shape == (1, 5000)
    assert low <= values.min() <= low + (high - low) // 50  # 5000 draws come within 2 % of either end
    assert high - (high - low) // 50 <= values.max() <= high


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"a": np.zeros((1, 3), np.float32), "b": np.zeros(1)}, "input 'x' is not among ['a', 'b']"),
        ({"x": np.zeros((1, 4), np.float32)}, "input 'x' is (1, 4), the model wants (?, 3)"),
        ({"x": np.zeros((1, 3), np.int64)}, "input 'x' is int64, the model wants float32"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(tmp_path: Path, arrays: dict[str, Any], told: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    done = called("--model", add_model(tmp_path / "m.onnx"), "--runtime", "ort", "--inputs", tmp_path / "x.npz")
    assert (done.returncode, json.loads(done.stdout)) == (1, {"error": "inputs", "detail": told})


def test_given_integers_are_converted_only_where_they_keep_their_value() -> None:
    wanted = agent.Input("x", "int32", (None,))
    assert agent.taken(wanted, {"x": np.array([2**31 - 1])}, False).dtype == np.int32
    with pytest.raises(agent.AgentError, match="beyond int32"):
        agent.taken(wanted, {"x": np.array([2**31])}, False)


def test_a_free_dimension_beyond_the_batch_is_refused_without_inputs(tmp_path: Path) -> None:
    done = called("--model", add_model(tmp_path / "m.onnx", ("N", 3, "H", "W")), "--runtime", "ort")
    assert done.returncode == 1
    assert json.loads(done.stdout)["detail"].startswith("input 'x' is (?, 3, ?, ?): give its values")


def test_pinning_is_refused_for_more_than_one_thread(tmp_path: Path) -> None:
    done = called("--model", add_model(tmp_path / "m.onnx"), "--runtime", "ort", "--threads", 2, "--pin")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(
    ("before", "after", "states", "wanted"),
    [
        (([], 0), ([], 0), [], None),  # nothing here tells of heat
        (([], 0), ([], 1), [], True),  # the container's quota ran out
        (([3, 4], 0), ([3, 4], 0), [], False),
        (([3, 4], 0), ([3, 5], 0), [], True),
        (([], 0), ([], 0), [0, 0], False),
        (([], 0), ([], 0), [0, 2], True),
    ],
)
def test_throttled_is_unknown_unless_something_would_have_told(
    before: tuple[list[int], int], after: tuple[list[int], int], states: list[int], wanted: bool | None
) -> None:
    assert agent.throttled(before, after, states) is wanted


def test_saved_outputs_are_the_answer_that_was_hashed(tmp_path: Path) -> None:
    file = tmp_path / "outputs"
    done = called("--model", dense_model(tmp_path / "m.onnx", 8), "--runtime", "ort", "--runs", 1, "--outputs", file)
    with file.open("rb") as saved:
        outputs = [np.load(saved, allow_pickle=False)]
        assert saved.read() == b""  # one output, and nothing behind it
    assert agent.output_hash(outputs) == json.loads(done.stdout)["output_hash"]
