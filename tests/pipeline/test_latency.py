"""Laws of limits on what runs: each is taken where it says, in the unit that its target tells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import toolchain.pipeline.latency as latency
from targets.measure import Measurement, RunnerError, measure
from targets.runners import Asked
from toolchain.compress.budget import parse_budget
from toolchain.errors import RunnerFailed, UsageError
from toolchain.pipeline.delivery import budget_check
from toolchain.pipeline.latency import check_targets, on_target

SHIPPED = Path(latency.__file__).parents[1] / "shipped" / "triangles_squares.onnx"


@pytest.mark.parametrize(
    "budget", ["latency@local<=20ms", "latency@ssh://pi@obc:2222<=50%", "instructions@qemu-a53<=5M", "params<=30%"]
)
def test_a_limit_may_name_any_target_that_tells_it(budget: str) -> None:
    check_targets(parse_budget(budget))


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("latency@rover<=20ms", "qemu-a53"),
        ("latency@qemu-a53<=20ms", "'qemu-a53' tells no latency. Use instructions@qemu-a53"),
        ("instructions@local<=50%", "'local' tells no instructions. Use latency@local"),
        ("latency@qemu-user-a15<=50%", "tells no latency. Use instructions@qemu-a53"),
        ("latency@rad750<=1s", "Estimate: jettison targets estimate"),
        ("latency@ssh://-oProxyCommand=x<=1s", "is not a host name"),
    ],
)
def test_a_target_that_tells_something_else_is_a_mistake_with_a_way_out(budget: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_targets(parse_budget(budget))
    assert message in str(caught.value) and caught.value.exit_code == 2


@pytest.fixture(scope="module")
def row() -> Measurement:
    return measure(SHIPPED, "ort", runs=1, warmup=0)


def test_the_networks_run_where_the_limit_says(row: Measurement, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any]] = []

    def fake(target: str, pairs: Any, how: Asked) -> list[Measurement]:
        asked.append((target, how.runs))
        return [row, row]

    monkeypatch.setattr(latency, "measure_on", fake)
    for term in parse_budget("latency@local<=50%,latency@ssh://obc<=50%,instructions@qemu-a53<=50%"):
        on_target(term, SHIPPED, SHIPPED, 1)
    targets, runs = zip(*asked, strict=True)
    assert targets == ("local", "ssh://obc", "qemu-a53") and runs == (latency.RUNS, latency.RUNS, None)


def test_a_board_that_fails_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> list[Measurement]:
        raise RunnerError("obc: the connection broke")

    monkeypatch.setattr(latency, "measure_on", broken)
    with pytest.raises(RunnerFailed, match="the connection broke"):
        on_target(parse_budget("latency@ssh://obc<=50%")[0], SHIPPED, SHIPPED, 1)


@pytest.mark.parametrize(("after", "passes"), [(5_010_000, True), (5_100_000, False)])
def test_a_count_is_judged_by_the_rows_of_its_target_and_grade(row: Measurement, after: int, passes: bool) -> None:
    def counted(ns: int) -> Measurement:
        return replace(row, target="qemu-a53", grade="counted", noise=0.0, ns=replace(row.ns, p50=ns))

    (term,) = parse_budget("instructions@qemu-a53<=50%")
    plan: Any = type("Costs", (), {"costs": {}})
    found = budget_check(term, plan, [row, row, counted(10_000_000), counted(after)])
    assert found is not None and found["passed"] is passes and "M instructions" in found["value"]
    assert budget_check(term, plan, [row, row]) is None  # nothing was counted in this run
