"""Laws of comparing with saved rows: slower is slower beyond tolerance and noise, and unlike rows never meet."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets import agent
from targets.compare import NotComparable, compared, read_rows, rows
from targets.measure import Host, LatencyNs, Measurement, ResidentBytes

HOST = Host("3.11.7", "aarch64", "Linux 6", "Cortex-A72", 4, 3, "performance", 41.0, 0.1)


def measured(p50: int = 1_000_000, noise: float = 0.01, host: Host = HOST, **change: Any) -> Measurement:
    samples = (p50, p50, p50)
    known = Measurement(
        model="a/net.onnx", runtime="ort", target="local", grade="measured", threads=1, runs=3, warmup=1,
        ns=LatencyNs(**agent.spread(list(samples))), peak_rss_bytes=2**26, noise=noise, runtime_version="1.31",
        model_sha256="0" * 64, init_ns=1, first_ns=1, rss_bytes=ResidentBytes(1, 2, 3, "since"),
        peak_over_baseline_bytes=2**20, input_shapes={"x": (1, 3)}, output_hash="1" * 64, throttled=False, host=host,
        round_p50_ns=(p50,), samples_ns=samples,
    )  # fmt: skip
    return dataclasses.replace(known, **change)


def test_rows_come_back_from_their_file_as_they_were() -> None:
    ops = measured(energy_uj={"VDD": 3}, output_difference=0.0)
    assert read_rows(rows([measured(), ops])) == [measured(), ops]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'[{"model": "x"}]', b"[1]", b"\xff"])
def test_what_holds_no_rows_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        read_rows(text)


@given(
    st.integers(1, 10**10), st.integers(1, 10**10), st.floats(0, 1), st.floats(0, 1), st.floats(0, 2)
)  # fmt: skip
def test_a_regression_is_slower_than_tolerance_and_than_noise(
    before: int, after: int, one: float, other: float, tolerance: float
) -> None:
    (found,) = compared([measured(before, one)], [measured(after, other)], tolerance)
    slower = after / before - 1
    assert found.is_regression == (slower > tolerance and slower > (one**2 + other**2) ** 0.5)


@given(st.integers(1, 10**10), st.floats(0, 1))
def test_nothing_regresses_against_itself(p50: int, noise: float) -> None:
    (found,) = compared([measured(p50, noise)], [measured(p50, noise)], 0.0)
    assert not found.is_regression and found.relative == 0


def test_a_model_is_found_by_its_name_in_whatever_folder_and_content() -> None:
    (found,) = compared([measured()], [measured(model="b/net.onnx", model_sha256="f" * 64)], 0.1)
    assert found.before == measured()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"grade": "counted"}, "grade was measured and is counted"),
        ({"target": "ssh://obc"}, "target was local and is ssh://obc"),
        ({"threads": 2}, "threads was 1 and is 2"),
        ({"input_shapes": {"x": (2, 3)}}, "input shapes"),
        ({"host": dataclasses.replace(HOST, cpu_model="Cortex-A53")}, "processor was Cortex-A72 and is Cortex-A53"),
        ({"host": dataclasses.replace(HOST, governor="powersave")}, "governor was performance and is powersave"),
        ({"host": dataclasses.replace(HOST, cores=2)}, "cores was 4 and is 2"),
        ({"runtime": "litert"}, "no row of net.onnx in litert"),
        ({"model": "a/other.onnx"}, "no row of other.onnx in ort"),
    ],
)
def test_rows_of_another_grade_target_host_or_input_are_not_compared(change: dict[str, Any], told: str) -> None:
    with pytest.raises(NotComparable, match=told):
        compared([measured()], [measured(**change)], 10.0)


def test_what_changes_from_day_to_day_is_no_other_host() -> None:
    other = dataclasses.replace(HOST, temperature_c=60.0, load_1min=3.0, pinned_core=1, python="3.12.1")
    assert compared([measured()], [measured(host=other)], 0.1)


def test_a_file_with_two_rows_of_one_model_is_ambiguous() -> None:
    with pytest.raises(NotComparable, match="two rows of the same model"):
        compared([measured(), measured()], [measured()], 0.1)
