"""Laws of sweeps: every point is a proven network at its budget, and the figure's front is one."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cli import SHIPPED, jettison

from toolchain.cli.sweeping import parse_shares
from toolchain.errors import UsageError
from toolchain.explain.figure import Series, Trade
from toolchain.synthetic import triangles_squares


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    x, y = triangles_squares(64, seed=5)
    np.savez(folder / "labelled.npz", x=x, y=y)
    np.savez(folder / "bare.npz", x=x)
    done = jettison(
        "sweep", SHIPPED, "--data", folder / "bare.npz", "--validation", folder / "labelled.npz", "--criterion",
        "magnitude", "--budgets", "1,30,60%", "--quantity", "macs", "--runs", "5", "--warmup", "1", "--keep-files",
        "-o", folder / "out", "--format", "json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert [r["budget"] for r in printed] == ["original", "macs<=60%", "macs<=30%"]
    assert "left out macs<=1%: budget macs<=" in done.stderr
    return folder / "out"


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "sweep.json").read_text())["rows"]


def test_points_lie_within_their_budgets_and_are_what_their_files_are(swept: Path) -> None:
    original, *points = rows_of(swept)
    for point, share in zip(points, (60, 30), strict=True):
        assert point["macs"] <= share / 100 * original["macs"] and point["proven"]
        file = swept / "points" / f"macs-{share}.onnx"
        floats = [t for t in onnx.load(file).graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
        assert point["params"] == sum(int(np.prod(t.dims)) for t in floats)
        assert point["flash_bytes"] == file.stat().st_size
        assert point["ort_ns"] > 0 and point["litert_ns"] > 0
        assert 0 <= point["accuracy labelled.npz after_recover"] <= 1
        assert point["deviation bare.npz after_recover"] > 0
    assert original["deviation bare.npz after_recover"] == 0


def test_a_sweep_writes_its_table_and_figure(swept: Path) -> None:
    assert {p.name for p in swept.iterdir()} == {"points", "sweep.csv", "sweep.json", "sweep.png", "sweep.svg"}
    with (swept / "sweep.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [r["budget"] for r in found] == [r["budget"] for r in rows_of(swept)]
    assert (swept / "sweep.png").read_bytes().startswith(b"\x89PNG") and "<svg" in (swept / "sweep.svg").read_text()


def test_a_sweep_replaces_nothing_unasked(swept: Path) -> None:
    done = jettison("sweep", SHIPPED, "--criterion", "magnitude", "--budgets", "50", "-o", swept)
    assert done.returncode == 2 and "exists" in done.stderr


POINTS = st.tuples(st.integers(0, 5), st.integers(0, 5))


@given(st.lists(st.lists(POINTS, min_size=1, max_size=6), min_size=1, max_size=3))
def test_a_point_is_on_the_front_unless_another_beats_it(drawn: list[list[tuple[int, int]]]) -> None:
    series = tuple(Series("s", np.array([y for _, y in s], float), np.array([x for x, _ in s], float)) for s in drawn)
    every = [p for s in drawn for p in s]
    for low in (False, True):
        better = (lambda a, b: a <= b) if low else (lambda a, b: a >= b)
        for s, marks in zip(drawn, Trade(series, "x", "y", low).front(), strict=True):
            for (x, y), on in zip(s, marks, strict=True):
                beaten = any(u <= x and better(v, y) and (u, v) != (x, y) for u, v in every)
                assert on is not beaten


def test_budgets_are_lists_with_the_steps_filled_in() -> None:
    assert parse_shares("10,20,…,50%") == [10, 20, 30, 40, 50]
    assert parse_shares("90, 70,...,30") == [90, 70, 50, 30]
    assert parse_shares("12.5%,50%,12.5%") == [12.5, 50]
    for text in ("", "ten", "0", "101", "…", "10,…,50", "10,10,…,50", "10,,20", "nan"):
        with pytest.raises(UsageError, match="cannot read the budgets"):
            parse_shares(text)
