"""Laws of the agent's extra figures: energy from sensors, and the time of each op from onnxruntime's profile."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from boards import loopback
from onnx import TensorProto, helper

from targets import agent
from targets.measure import RunnerError, answer, measure_side_by_side
from targets.ssh import measure_over_ssh


def files(root: Path, contents: dict[str, object]) -> str:
    for name, value in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return str(root)


def counting_up(root: Path, name: str, step: int, wraps: int) -> Any:
    """An inference that takes `step` microjoules of a counter."""

    def infer() -> list[Any]:
        path = root / name
        path.write_text(str((int(path.read_text()) + step) % wraps))
        return []

    return infer


def test_a_board_without_sensors_has_no_energy(tmp_path: Path) -> None:
    assert agent.energy(lambda: [], root=str(tmp_path)) is None


def test_a_sensor_that_is_not_ours_to_read_is_no_sensor(tmp_path: Path) -> None:
    root = files(tmp_path, {"powercap/rapl:0/energy_uj": "", "hwmon/hwmon0/name": "coretemp"})
    assert agent.energy(lambda: [], root=root) is None


@pytest.mark.parametrize("begin", [0, 9_990], ids=["far from the end", "at the end of its range"])
def test_a_counter_gives_what_an_inference_takes_even_where_it_starts_again(tmp_path: Path, begin: int) -> None:
    zone = {"energy_uj": begin, "max_energy_range_uj": 9_999, "name": "package-0"}
    root = files(tmp_path, {f"powercap/rapl:0/{k}": v for k, v in zone.items()})
    infer = counting_up(tmp_path, "powercap/rapl:0/energy_uj", 100, 10_000)
    assert agent.energy(infer, root=root, seconds=0) == {"rapl:0 package-0": 100}


def test_power_is_energy_over_the_time_of_an_inference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chip = {"name": "ina226", "power1_input": 3_000_000}
    rails = {"name": "ina3221", "in1_input": 5_000, "curr1_input": 400, "in1_label": "VDD_IN", "in2_input": 12_000}
    root = files(tmp_path, {f"hwmon/hwmon0/{k}": v for k, v in chip.items()})
    files(tmp_path, {f"hwmon/hwmon1/{k}": v for k, v in rails.items()})
    now = [0]

    def infer() -> list[Any]:
        now[0] += 50_000_000
        return []

    monkeypatch.setattr(agent.time, "perf_counter_ns", lambda: now[0])
    found = agent.energy(infer, root=root)
    # 3 W and 5 V · 0.4 A = 2 W for 50 ms; a voltage without its current tells nothing
    assert found == {"hwmon0 ina226 power1_input": 150_000, "hwmon1 ina3221 VDD_IN": 100_000}


def test_an_op_takes_the_median_over_the_last_inferences_of_the_sum_of_its_turns() -> None:
    def node(name: str, ts: int, dur: int) -> dict[str, Any]:
        return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": {"op_name": name.upper()}}

    run = lambda ts: {"cat": "Session", "name": "model_run", "ts": ts, "dur": 90}
    events = [run(0), node("a", 1, 999), node("b", 2, 999)]  # the first inference, cold
    for ts, first in ((100, 5), (200, 7), (300, 500)):
        events += [node("a", ts + 1, first), node("b", ts + 2, 3), node("b", ts + 3, 4), run(ts)]
    assert agent.node_times(events, 3) == [
        {"name": "a", "op": "A", "ns": 7_000},
        {"name": "b", "op": "B", "ns": 7_000},
    ]


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Exp, Sin and Cos one after the other: nothing that onnxruntime would fuse."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4096)) for name in ("v0", "v3")]
    nodes = [helper.make_node(op, [f"v{i}"], [f"v{i + 1}"], op.lower()) for i, op in enumerate(("Exp", "Sin", "Cos"))]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    path = tmp_path / "chain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_a_measurement_names_every_op_once_in_the_order_in_which_they_run(chain: Path) -> None:
    (found,) = measure_side_by_side([(chain, "ort")], rounds=2, runs=2, warmup=0, ops=3)
    assert [(op.name, op.op) for op in found.ops] == [("exp", "Exp"), ("sin", "Sin"), ("cos", "Cos")]
    assert all(op.ns >= 0 for op in found.ops)


def test_ops_are_told_only_if_asked_for(chain: Path) -> None:
    (found,) = measure_side_by_side([(chain, "ort")], rounds=1, runs=1, warmup=0)
    assert found.ops == ()


def test_a_board_tells_the_time_of_ops_too(chain: Path) -> None:
    with loopback() as board:
        (found,) = measure_over_ssh(
            [(chain, "ort")], board.address, target="board", runs=1, warmup=0, rounds=1, ops=2
        )  # fmt: skip
    assert [op.name for op in found.ops] == ["exp", "sin", "cos"]


def test_profiling_leaves_no_file(chain: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    words = ["--model", str(chain), "--runtime", "ort", "--runs", "1", "--warmup", "0", "--ops", "1"]
    environment = {"TMPDIR": str(empty), "ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run([sys.executable, agent.__file__, *words], capture_output=True, cwd=empty, env=environment)
    assert len(json.loads(done.stdout)["ops"]) == 3
    assert not list(empty.iterdir())


def test_a_runtime_that_cannot_tell_the_time_of_ops_says_so() -> None:
    with pytest.raises(agent.AgentError) as caught:
        agent.profiled(argparse.Namespace(runtime="litert", ops=1), None, {})
    line = json.dumps({"error": caught.value.kind, "detail": caught.value.detail})
    with pytest.raises(RunnerError, match=r"the LiteRT runtime cannot tell the time of each op of m.tflite: .*onnx"):
        answer(1, line, "", "litert", "m.tflite")
