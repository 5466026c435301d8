"""Random networks over the op table equal what they were emitted from, and those who judge them can be trusted."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.fuzz import Runner, choices_of, drawn, gap, judged, shrunk, told
from benchmarks.fuzz_nets import network
from toolchain.ops import OPS

SEED, CHUNK = 0, 40
CHUNKS = range(10)
SPECIAL = {"Constant", "ConstantOfShape", "Shape", "Size", "Range"}  # of sizes and not of values


@cache
def rows(chunk: int) -> list[dict[str, Any]]:
    """Draws of a chunk, each judged."""
    runner = Runner()
    found = [drawn(choices_of(SEED, chunk * CHUNK + i), runner) | {"draw": chunk * CHUNK + i} for i in range(CHUNK)]
    runner.close()
    return found


def small(row: dict[str, Any]) -> str:
    """A failing draw, shrunk."""
    runner = Runner()
    choices = shrunk(choices_of(SEED, row["draw"]), lambda c: drawn(c, runner)["status"] == row["status"])
    runner.close()
    return f"{row['reason']}\n{told(choices)}"


@pytest.mark.parametrize("chunk", CHUNKS)
def test_a_random_network_equals_its_source_or_is_refused_by_name(chunk: int) -> None:
    found = [row for row in rows(chunk) if row["status"] in ("wrong", "failed")]
    assert not found, small(found[0])


def test_few_random_networks_are_refused_and_most_ops_appear() -> None:
    every = [row for chunk in CHUNKS for row in rows(chunk)]
    statuses = Counter(row["status"] for row in every)
    assert statuses["refused"] <= 0.03 * len(every)
    assert statuses["void"] <= 0.02 * len(every)
    seen = {op for row in every if row["status"] == "equal" for op in row["ops"]}
    known = {name for name, entry in OPS.items() if entry.lite is not None} - SPECIAL
    assert len(seen) >= 0.8 * len(known), sorted(known - seen)


# ---- the judge itself ----------------------------------------------------------------------------------------------
def test_a_network_is_a_function_of_its_choices_and_alive() -> None:
    for draw in range(20):
        first, again = (network(choices_of(SEED, draw)) for _ in range(2))
        assert first.proto() == again.proto()
        for y in first.pool:
            array = first.values[y]
            assert np.isfinite(array).all()
            assert np.ptp(array, axis=0).max() > 0


def test_a_wrong_file_is_told_as_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Off(Runner):
        def run(self, path: Path, kernels: str) -> Any:
            found = super().run(path, kernels)
            assert not isinstance(found, str)
            return {k: y + 1e-3 * np.abs(y).max() for k, y in found.items()}

    runner = Off()
    assert judged(network([]), runner, tmp_path)["status"] == "wrong"
    runner.close()


def test_a_crash_is_told_as_that_of_its_file_and_the_next_one_runs(tmp_path: Path) -> None:
    runner = Runner()
    assert judged(network([]), runner, tmp_path)["status"] == "equal"
    assert runner.child is not None
    runner.child.kill()
    runner.child.wait()
    (tmp_path / "net.tflite").write_bytes(b"TFL3" * 100)
    assert isinstance(runner.run(tmp_path / "net.tflite", "BUILTIN"), str)
    assert judged(network([]), runner, tmp_path)["status"] == "equal"
    runner.close()


def test_a_failing_draw_shrinks_to_what_makes_it_fail() -> None:
    def fails(choices: list[int]) -> bool:
        return any(n.op_type == "Conv" for n in network(choices).proto().graph.node)

    draw = next(d for d in range(50) if fails(choices_of(SEED, d)))
    small = shrunk(choices_of(SEED, draw), fails)
    assert fails(small)
    assert len(network(small).nodes) <= 4


def test_a_gap_of_other_shapes_or_no_numbers_is_infinite() -> None:
    y = np.ones((2, 3))
    assert gap({"y": y}, {"y": y}) == 0
    assert gap({"y": y[:1]}, {"y": y}) == float("inf")
    assert gap({"y": y * np.nan}, {"y": y}) == float("inf")
