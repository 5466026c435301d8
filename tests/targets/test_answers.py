"""Laws of comparing answers: relative to the largest value, blind to nothing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from targets.agent import save_outputs
from targets.answers import allowed, difference, load

FLOATS = hnp.arrays(np.float32, hnp.array_shapes(), elements=st.floats(-1e6, 1e6, width=32))


@given(FLOATS, st.floats(0, 1))
def test_a_difference_is_the_largest_one_over_the_largest_value(expected: np.ndarray, share: float) -> None:
    found = (expected * np.float32(1 - share)).astype(np.float32)
    pairs = [(float(a), float(b)) for a, b in zip(expected.flat, found.flat, strict=True)]
    largest = max(abs(a) for a, _ in pairs)
    wanted = max(abs(a - b) for a, b in pairs) / (largest if largest > 0 else 1)
    assert difference(expected, found) == pytest.approx(wanted, rel=1e-12)


@given(FLOATS)
def test_an_answer_does_not_differ_from_itself(expected: np.ndarray) -> None:
    assert difference(expected, expected.copy()) == 0.0


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ([1.0, 2.0], [1.0, math.nan]),
        ([1.0, math.nan], [1.0, 2.0]),
        ([1.0, math.inf], [1.0, -math.inf]),
        ([1.0, 2.0], [1.0, math.inf]),
        ([1.0, 2.0], [1.0, 2.0, 3.0]),
        ([[1.0, 2.0]], [1.0, 2.0]),
    ],
)
def test_what_cannot_be_compared_differs_without_bound(expected: list[float], found: list[float]) -> None:
    assert difference(np.array(expected), np.array(found)) == math.inf


def test_another_type_differs_without_bound() -> None:
    assert difference(np.zeros(2, np.float32), np.zeros(2, np.float64)) == math.inf


def test_nan_and_infinities_in_the_same_places_are_the_same_answer() -> None:
    values = np.array([math.nan, math.inf, -math.inf, 3.0])
    assert difference(values, values.copy()) == 0.0
    assert difference(np.array([], np.float32), np.array([], np.float32)) == 0.0


def test_an_8_bit_answer_may_be_a_step_off_and_a_wider_one_may_not() -> None:
    narrow, wide = np.array([100, -50], np.int8), np.array([100, -50], np.int64)
    assert difference(narrow, narrow + np.int8(1)) <= allowed(narrow, 1e-5) < difference(narrow, narrow + np.int8(2))
    assert difference(wide, wide + 1) > allowed(wide, 1e-5) == 1e-5


@given(st.lists(FLOATS, max_size=4))
def test_saved_outputs_load_as_they_were(tmp_path_factory: pytest.TempPathFactory, outputs: list[np.ndarray]) -> None:
    path: Path = tmp_path_factory.mktemp("saved") / "outputs"
    save_outputs(np, str(path), outputs)
    found = load(path)
    assert [array.dtype for array in found] == [array.dtype for array in outputs]
    assert all(np.array_equal(a, b) for a, b in zip(found, outputs, strict=True))
