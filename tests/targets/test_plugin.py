"""Laws of the pytest plugin: what the target took is what pytest-benchmark records, compares and fails by."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pytest_benchmark", reason="the plugin hands samples to pytest-benchmark")

from targets.plugin import RemoteClock

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "toolchain" / "shipped" / "triangles_squares.onnx"
# A target that answers what stands in samples.json, one number a sample.
STAND_IN = """
import dataclasses, json
import pytest
import targets.measure, targets.runners
from targets.measure import measure

def measure_on(target, pairs, asked):
    (model, runtime), = pairs
    samples = tuple(json.load(open("samples.json")))
    found = measure(model, runtime, runs=1, warmup=0)
    return [dataclasses.replace(found, target=target, grade="counted", samples_ns=samples, runs=len(samples))]
targets.runners.measure_on = measure_on
"""
TEST = f"""
import pytest

@pytest.mark.benchmark(group="rover")
def test_net(on_target):
    assert on_target({str(SHIPPED)!r}).grade == "counted"
"""


def ran(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """pytest in a folder, with the entry points of pyproject.toml as if the package were installed."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    installed = folder / "jettison-0.dist-info"
    installed.mkdir(exist_ok=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: jettison\nVersion: 0\n")
    lines = ["[pytest11]", *(f"{name} = {module}" for name, module in points.items())]
    (installed / "entry_points.txt").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    # a child of a worker is none itself: pytest-benchmark measures nothing in one
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = kept | {"PYTHONPATH": f"{folder}:{ROOT}"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def suite(folder: Path, samples: list[int]) -> Path:
    (folder / "conftest.py").write_text(STAND_IN)
    (folder / "test_suite.py").write_text(TEST)
    (folder / "samples.json").write_text(json.dumps(samples))
    return folder


def recorded(folder: Path) -> dict[str, Any]:
    (found,) = json.loads((folder / "out.json").read_text())["benchmarks"]
    return found


def test_a_clock_advances_by_each_sample_and_never_by_itself() -> None:
    clock = RemoteClock()
    step = clock.play([3, 5_000_000_000])
    seen = [clock(), clock()]
    step()
    seen.append(clock())
    step()
    assert [*seen, clock()] == [0.0, 0.0, 3e-9, 5.000000003]


def test_its_json_holds_the_targets_samples_with_grade_and_target(tmp_path: Path) -> None:
    samples = [1_500_000, 1_000_001, 7, 2_000_000_000]
    done = ran(suite(tmp_path, samples), "--on-target", "qemu-a53", "--benchmark-json=out.json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = recorded(tmp_path)
    # the clock's seconds are float64 and it has run for two of them: 4e-16 of that
    assert found["stats"]["data"] == pytest.approx([s / 1e9 for s in samples], abs=1e-15)
    assert found["stats"]["rounds"] == len(samples) and found["stats"]["iterations"] == 1
    assert found["group"] == "rover, qemu-a53, counted"
    assert (found["extra_info"]["grade"], found["extra_info"]["target"]) == ("counted", "qemu-a53")
    assert found["extra_info"]["host"]["machine"]


def test_compare_fail_judges_the_targets_samples(tmp_path: Path) -> None:
    suite(tmp_path, [1_000_000] * 3)
    assert ran(tmp_path, "--benchmark-save=before").returncode == 0
    words = ("--benchmark-compare", "--benchmark-compare-fail=median:10%")
    suite(tmp_path, [1_050_000] * 3)
    assert ran(tmp_path, *words).returncode == 0
    suite(tmp_path, [1_200_000] * 3)
    done = ran(tmp_path, *words)
    assert done.returncode != 0 and "Performance has regressed" in done.stdout + done.stderr


def test_a_target_that_fails_fails_the_test_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(TEST)
    done = ran(tmp_path, "--on-target", "rad750")
    assert done.returncode == 1 and "jettison targets estimate" in done.stdout


def test_without_pytest_benchmark_it_skips_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text("def test_net(on_target):\n    assert False\n")
    done = ran(tmp_path, "-p", "no:benchmark", "-rs")
    assert done.returncode == 0 and "needs pytest-benchmark" in done.stdout


def test_here_the_samples_are_this_computers(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(f"def test_net(on_target):\n    on_target({str(SHIPPED)!r}, runs=5)\n")
    done = ran(tmp_path, "--benchmark-json=out.json")
    assert done.returncode == 0, done.stdout
    found = recorded(tmp_path)
    assert found["group"] == "local, measured"
    assert found["stats"]["rounds"] == found["extra_info"]["runs"] == 5
    assert all(sample > 0 for sample in found["stats"]["data"])
