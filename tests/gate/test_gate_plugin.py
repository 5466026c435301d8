"""Laws of the fixture size_budget: a test fails where jettison check would, and loading it loads nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from gate.files import MACS, PARAMS, net

ROOT = Path(__file__).parents[2]


def outcome(folder: Path, call: str) -> tuple[int, str]:
    """pytest's exit code and words on a test that makes this call, with the entry point as if it were installed."""
    net(folder / "net.onnx")
    (folder / "test_it.py").write_text(f"def test_it(size_budget):\n    {call}\n")
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    installed = folder / "jettison-0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: jettison\nVersion: 0\n")
    (installed / "entry_points.txt").write_text(f"[pytest11]\njettison-gate = {points['jettison-gate']}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment = kept | {"PYTHONPATH": f"{folder}:{ROOT}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("call", "code", "told"),
    [
        (f"size_budget('net.onnx', params={PARAMS}, macs={MACS})", 0, "1 passed"),
        (f"assert not size_budget('net.onnx', params={PARAMS}).failed", 0, "1 passed"),
        (f"size_budget('net.onnx', params={PARAMS - 1})", 1, f"at most {PARAMS - 1} is allowed"),
        ("size_budget('net.onnx', flash='10 MBs')", 1, "unknown unit 'MBs'"),
        ("size_budget('net.onnx', flahs=1)", 1, "has no key 'flahs'. Did you mean 'flash'"),
        ("size_budget('net.onnx')", 1, "limits nothing"),
        ("size_budget('other.onnx', flash=1)", 1, "no such file"),
        ("size_budget()", 1, "there is no jettison.toml here"),
    ],
)
def test_a_test_fails_where_the_gate_would(call: str, code: int, told: str, tmp_path: Path) -> None:
    found = outcome(tmp_path, call)
    assert found[0] == code and told in found[1], found[1]


@pytest.mark.parametrize(("limit", "code"), [(PARAMS, 0), (PARAMS - 1, 1)])
def test_the_configuration_here_is_held_to(limit: int, code: int, tmp_path: Path) -> None:
    (tmp_path / "jettison.toml").write_text(f'[[budget]]\nmodel = "net.onnx"\nparams = {limit}\n')
    assert outcome(tmp_path, "size_budget()")[0] == code


def test_loading_the_plugin_loads_no_numerical_library() -> None:
    code = "import sys, toolchain.gate.plugin; print({'numpy', 'onnx', 'onnx_ir', 'msgspec'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "set()\n"
