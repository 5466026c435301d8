"""What jpl leaves out of a table it leaves in the picture, and the printed numbers are the paper's."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch trains")
pytest.importorskip("benchmarks.reproduce", reason="run pytest from the repository root")

from benchmarks.reproduce import jpl
from toolchain.explain.figure import Figure, Lines, Series

X = np.arange(100)
CURVES = Lines((Series("a", X * 2.0, X), Series("b", X * 3.0, X)), "units masked", "accuracy [%]")


def figure(name: str, stride: int = 1) -> Figure:
    return Figure(name, "", "", "", CURVES, facts=(("stride", stride),))


@pytest.mark.parametrize("name", ["sorted", "prune-curve", "class-curves"])
def test_a_thinned_table_has_every_sixteenth_unit_of_every_series_and_the_picture_has_all(name: str) -> None:
    whole, thinned = figure(name), jpl.thinned(figure(name))
    assert thinned.chart is CURVES
    assert thinned.rows == [r for r in whole.rows if r["x"] in range(0, 100, 16)]
    assert [r["series"] for r in thinned.rows] == ["a"] * 7 + ["b"] * 7


@pytest.mark.parametrize("whole", [figure("joint-curves"), figure("prune-curve", stride=127)])
def test_a_table_that_is_short_already_keeps_its_rows(whole: Figure) -> None:
    assert jpl.thinned(whole) == whole


def test_the_series_of_the_paper_are_its_printed_accuracies() -> None:
    found = {s.name: dict(zip(s.x.tolist(), s.y.tolist(), strict=True)) for s in jpl.as_printed() if s.x is not None}
    assert found["paper, not retrained"] == pytest.approx({0: 91.6, 50: 79.3, 95: 56.7})
    assert found["paper, retrained"] == pytest.approx({50: 90.0, 95: 88.9})
