"""jettison targets as people type it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_cli import ROOT, SHIPPED, jettison

from targets.board import FOLDER


def rows(*words: object) -> list[dict[str, Any]]:
    done = jettison("targets", *map(str, words), "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def measured(folder: Path, **change: Any) -> Path:
    path = folder / "row.json"
    path.write_text(json.dumps([{"model": SHIPPED, "grade": "measured", "threads": 1, "ns": {"p50": 5e8}} | change]))
    return path


def test_the_list_has_a_line_for_every_descriptor() -> None:
    assert {r["name"] for r in rows("list")} == {p.stem for p in FOLDER.glob("*.toml")}


def test_a_board_is_shown_with_a_source_for_each_figure() -> None:
    done = jettison("targets", "show", "gr740", "--format", "csv")
    assert done.returncode == 0 and "GR740-UM-DS" in done.stdout and "250 MHz" in done.stdout and "low" in done.stdout


def test_an_estimate_is_an_interval_with_its_grade_and_what_fits() -> None:
    for found in rows("estimate", SHIPPED, "--target", "rad750", "--target", "stm32h7"):
        assert found["grade"] == "estimated" and 0 < found["low_ns"] < found["high_ns"]
        assert found["ram"]["fits"] and found["ram"]["margin_bytes"] > 0 and found["flash"]["fits"]
    table = jettison("targets", "estimate", SHIPPED, "--target", "gr712rc").stdout
    assert "estimated" in table and "counted" in table and re.search(r"CPI 1 to 4", table)


def test_a_measured_row_narrows_the_interval_around_what_was_measured(tmp_path: Path) -> None:
    (free,) = rows("estimate", SHIPPED, "--target", "stm32h7")
    (held,) = rows("estimate", SHIPPED, "--target", "stm32h7", "--calibrate", measured(tmp_path))
    assert held["low_ns"] < 5e8 < held["high_ns"]
    assert "triangles_squares.onnx at 500 ms" in held["calibrated_by"] and free["calibrated_by"] is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"grade": "estimated"}, "not measured"),
        ({"threads": 2}, "2 threads"),
        ({"ns": {}}, "no row of jettison bench"),
        ({"ns": {"p50": -1}}, "no row of jettison bench"),
        ({"model": "gone.onnx"}, "gone.onnx is not here"),
        ({"model_sha256": "0" * 64}, "not the file that was measured"),
    ],
)
def test_a_row_that_cannot_calibrate_is_refused_with_the_reason(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    path = measured(tmp_path, **change)
    done = jettison("targets", "estimate", SHIPPED, "--target", "stm32h7", "--calibrate", path)
    assert done.returncode == 3 and told in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("show", "rad75"), "there is no board 'rad75'. Did you mean 'rad750'"),
        (("estimate", SHIPPED, "--target", "host"), "jettison bench --target local"),
        (("estimate", SHIPPED, "--target", "rad750", "--kernels", "x"), "there are no kernels 'x'"),
        (("estimate", SHIPPED, "--target", "rad750", "--target", "gr740", "--calibrate", "r"), "calibrates one board"),
        (("estimate", SHIPPED), "--target"),
    ],
)
def test_a_wrong_word_is_told_in_one_line(words: tuple[str, ...], told: str) -> None:
    done = jettison("targets", *words)
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_only_an_emulated_board_can_be_set_up() -> None:
    done = jettison("targets", "setup", "rad750")
    assert done.returncode == 2 and "there is no emulated board 'rad750'" in done.stderr, done.stderr


def test_a_descriptor_of_ones_own_is_a_target(tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    shutil.copy(FOLDER / "gr740.toml", own)
    own.write_text(own.read_text().replace('"gr740"', '"mine"').replace("250_000_000", "500_000_000"))
    slow, fast = rows("estimate", SHIPPED, "--target", "gr740", "--target", own)
    assert fast["low_ns"] == pytest.approx(slow["low_ns"] / 2)


def test_doctor_names_one_way_out_for_whatever_is_missing() -> None:
    for found in rows("doctor"):
        assert bool(found["way out"]) == (found["found"] in ("not here", "not ready")), found


def test_reading_boards_loads_neither_models_nor_runtimes() -> None:
    code = (
        "import sys, runpy; sys.argv = ['jettison', 'targets', 'list']\n"
        "try: runpy.run_module('toolchain.cli', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "bad = {'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'torch', 'ai_edge_litert', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'loaded {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
