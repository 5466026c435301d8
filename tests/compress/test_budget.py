"""Laws of budgets and floors as text: what is understood, what is refused, and what eases."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.compress.budget import Term, parse_budget, parse_floor
from toolchain.errors import UsageError


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("params<=101%", "budget 'params<=101%' is more than the original. Give at most 100%"),
        ("units<=1000%", "is more than the original"),
        ("params<=1e400", "budget 'params<=1e400' is no finite number"),
        ("params<=inf", "cannot read the budget 'params<=inf'"),
        ("macs<=0", "budget 'macs<=0' leaves nothing"),
        ("latency@local<=0ms", "leaves nothing"),
        ("macs<=30%,macs<=20%", "given twice: macs<=30% and macs<=20%. Keep macs<=20%, which is the tighter one"),
        ("flash<=2MiB,macs<=1M,flash<=1MB", "Keep flash<=1MB"),
        ("latency<=20ms", "budget 'latency' needs a target. Use latency@local"),
        ("instructions<=50%", "budget 'instructions' needs a target. Use instructions@qemu-a53"),
        ("latency@local<=20", "unknown unit 'none' of budget 'latency'. Use % ns us µs ms s"),
        ("latency@local<=20MiB", "unknown unit 'MiB' of budget 'latency'"),
        ("params@local<=30%", "budget 'params' has no target, 'local' was given"),
        ("drop<=1%", "unknown unit '%' of budget 'drop'. Use point points"),
        ("drop<=-1", "leaves nothing"),
        ("ram<=3ms", "unknown unit 'ms' of budget 'ram'"),
        ("flash<=_", "cannot read the budget"),
    ],
)  # fmt: skip
def test_a_bad_budget_is_told_what_is_wrong_and_a_way_out(budget: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_budget(budget)
    assert message in str(caught.value) and caught.value.exit_code == 2


def test_a_share_and_an_absolute_limit_of_one_quantity_both_hold() -> None:
    share, absolute = parse_budget("flash<=50%, flash<=2MiB")
    assert share.bound(10e6) == 5e6 and absolute.bound(10e6) == 2 * 1024**2


def test_measured_terms_have_units_of_their_own() -> None:
    limits = {t.text: t.limit for t in parse_budget("latency@local<=20ms,drop<=1.5,latency@local<=50%")}
    assert limits == {"latency@local<=20ms": 20e6, "drop<=1.5": 1.5, "latency@local<=50%": 0.5}
    assert parse_budget("drop<=0")[0].limit == 0


@given(st.floats(0.001, 1), st.integers(2, 9), st.floats(1e3, 1e9), st.booleans())
def test_rounds_ease_a_limit_in_equal_ratios(share: float, rounds: int, original: float, is_share: bool) -> None:
    term = Term("params", share if is_share else share * original, is_share, "text")
    bounds = [term.eased(original, r / rounds).bound(original) for r in range(rounds + 1)]
    assert bounds[0] == pytest.approx(original) and bounds[-1] == pytest.approx(share * original)
    ratios = [b / a for a, b in itertools.pairwise(bounds)]
    assert max(ratios) == pytest.approx(min(ratios))


@given(st.integers(1, 5000), st.floats(0.01, 100))
def test_a_floor_in_percent_keeps_at_least_its_share(size: int, percent: float) -> None:
    width = parse_floor(f"conv*={percent:.2f}%").width(size)
    share = float(f"{percent:.2f}") / 100
    assert share * size - 1e-6 <= width <= size and width <= math.ceil(share * size)


def test_a_floor_in_units_keeps_no_more_than_there_are() -> None:
    floor = parse_floor("a=b=32")
    assert (floor.pattern, floor.width(64), floor.width(20)) == ("a=b", 32, 20)


@pytest.mark.parametrize("text", ["conv", "=3", "conv=", "conv=0", "conv=-3", "conv=0%", "conv=101%", "c=1.5", "c=x"])
def test_a_floor_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"cannot read the floor .* Write it like conv\*=32 or dense1=25%"):
        parse_floor(text)
