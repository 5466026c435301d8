"""Emission as people type it: what TFLite or TFLite Micro cannot do is named, and nothing is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from toolchain.emit import to_tflite
from toolchain.emit.contents import contents
from toolchain.emit.kernels import lacking
from toolchain.emit.micro import arena
from toolchain.model import load
from toolchain.shipped import triangles_squares_path

ROOT = Path(__file__).parents[1]
SHIPPED = str(triangles_squares_path())


def jettison(*words: object, cwd: Path | None = None, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """A command; limit: bytes that a file may grow to, which stands for a full disk."""
    command = [sys.executable, "-m", "toolchain.cli", *map(str, words)]
    if limit is not None:
        command = ["sh", "-c", f'ulimit -f {limit // 512}; exec "$@"', "sh", *command]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CI": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=280, check=False)


def network(path: Path, *nodes: onnx.NodeProto, shape: tuple[int | str, ...] = ("N", 3, 4), **held: np.ndarray) -> Path:
    """A file with the input x and the output y."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    parameters = [numpy_helper.from_array(a, k) for k, a in held.items()]
    graph = helper.make_graph(list(nodes), "net", [x], [y], parameters)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lite") / "net.tflite"
    to_tflite(load(SHIPPED)).write(path)
    return path


def test_inspect_tells_the_arena_of_a_tflite_file_and_where_it_is_highest(lite: Path) -> None:
    done = jettison("inspect", lite)
    assert done.returncode == 0, done.stderr
    assert f"arena of TFLite Micro {arena(lite.read_bytes()).head_bytes:,} bytes" in done.stdout
    assert "highest at" in done.stdout


def test_inspect_lists_every_op_of_a_tflite_file(lite: Path) -> None:
    rows = json.loads(jettison("inspect", lite, "--format", "json").stdout)
    file = contents(lite.read_bytes())
    assert [r["op"] for r in rows] == [op.code for op in file.ops]
    assert sum(r["weight bytes"] for r in rows) == sum(t.stored_bytes for t in file.tensors)


def test_inspect_memory_adds_up_for_onnx_and_tflite(lite: Path) -> None:
    for path in (SHIPPED, lite):
        rows = json.loads(jettison("inspect", path, "--memory", "--format", "json").stdout)
        for row in rows:
            assert (
                sum(int(held.rpartition(" ")[2].replace(",", "")) for held in split(row["held"])) == row["arena bytes"]
            )
    assert "fullest at" in jettison("inspect", SHIPPED, "--memory").stdout


def split(held: str) -> list[str]:
    """The buffers in a list with commas, which stand in their sizes too."""
    return held.split(", ") if held else []


def test_export_for_micro_gives_a_file_of_kernels_that_it_has(tmp_path: Path) -> None:
    done = jettison("export", SHIPPED, "--profile", "micro", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert not lacking(contents((tmp_path / "out" / "triangles_squares.tflite").read_bytes()))


def mistakes(folder: Path) -> dict[str, tuple[list[object], int, str]]:
    """name -> (words, exit code, what stderr must say)."""
    power = helper.make_node("Pow", ["x", "p"], ["y"], name="steep")
    network(folder / "pow.onnx", power, p=np.array(1.7, np.float32))
    huge = np.full((4, 4), 3e38, np.float32)
    network(folder / "huge.onnx", helper.make_node("MatMul", ["x", "W"], ["y"]), W=huge)
    network(folder / "det.onnx", helper.make_node("Det", ["x"], ["y"], name="volume"), shape=("N", 3, 3))
    network(folder / "open.onnx", helper.make_node("Relu", ["x"], ["y"]), shape=("N", "length", 4))
    (folder / "bad.tflite").write_bytes(b"\x1c\0\0\0TFL3" + b"\xff" * 64)
    (folder / "text.tflite").write_text("<html>no model</html>")
    (folder / "file").write_text("no folder")
    (folder / "there").mkdir()
    (folder / "there" / "pow.tflite").write_text("mine")
    export = ["export", "--to", "tflite", "-o", "out"]
    units = ["--criterion", "magnitude", "--budget", "units<=50%"]
    return {
        "no rule": ([*export, "det.onnx"], 4, "Det 'volume': has no TFLite rule"),
        "no kernel": ([*export, "pow.onnx", "--profile", "micro"], 4, "Pow 'steep': TFLite Micro has no POW"),
        "dynamic shape": ([*export, "open.onnx"], 2, "input 'x' is (?, ?, 4). Give --shape x:1"),
        "overflow": ([*export, "huge.onnx"], 3, "answers samples with infinity or NaN"),
        "profile": ([*export, "pow.onnx", "--profile", "tiny"], 2, "--profile"),
        "exists": (["export", "--to", "tflite", "-o", "there", "pow.onnx"], 2, "exists. Use --force"),
        "no folder": (["export", "pow.onnx", "-o", "file/out"], 3, "cannot make the folder"),
        "a file as folder": (["compress", SHIPPED, *units, "-o", "file"], 3, "cannot make the folder"),
        "damaged file": (["inspect", "bad.tflite"], 3, "is a damaged TFLite file"),
        "no file": (["inspect", "no.tflite"], 3, "no such file"),
        "text": (["inspect", "text.tflite"], 3, "is no TFLite file"),
    }


def test_a_mistake_is_one_line_with_its_exit_code_and_leaves_nothing(tmp_path: Path) -> None:
    rows = mistakes(tmp_path)
    before = {p for p in tmp_path.rglob("*")}
    wrong = []
    for name, (words, code, says) in rows.items():
        done = jettison(*words, cwd=tmp_path)
        lines = done.stderr.strip().splitlines()
        if done.returncode != code or len(lines) != 1 or says not in done.stderr:
            wrong.append((name, done.returncode, done.stderr[-300:]))
    assert not wrong
    assert {p for p in tmp_path.rglob("*")} == before
    assert (tmp_path / "there" / "pow.tflite").read_text() == "mine"


@pytest.mark.parametrize("form", ["onnx", "tflite"])
def test_a_full_disk_is_told_and_leaves_no_partial_file(form: str, tmp_path: Path) -> None:
    done = jettison("export", SHIPPED, "--to", form, "-o", tmp_path / "out", limit=64 << 10)
    assert done.returncode == 3
    assert "cannot write: File too large" in done.stderr
    assert not list(tmp_path.rglob("*.*"))
