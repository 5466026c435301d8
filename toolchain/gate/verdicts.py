"""Whether each limit holds, by how much it does not, and what takes most of it, in one line.

A limit is undecided where the figure misses it and what a repetition may come down to does not. That is told as a
warning, and is neither a failure, for noise alone may have made it, nor passed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from toolchain.errors import printable
from toolchain.gate.counts import Figure, Subject
from toolchain.gate.limits import Limit

PASSED, FAILED, SKIPPED, UNDECIDED = "passed", "failed", "skipped", "undecided"
QUIETER = "Measure on a quieter computer, or give more repeats or tolerance"


@dataclass(frozen=True)
class Verdict:
    """One limit beside its figure.

    status   passed, failed, skipped or undecided
    bound    in the quantity's own unit
    before   the baseline's figure, None without one
    why      why it was skipped
    way_out  a command that would get there, for all failures of the file
    """

    limit: Limit
    status: str
    figure: Figure | None = None
    bound: float = math.nan
    before: float | None = None
    why: str = ""
    way_out: str = ""

    @property
    def excess(self) -> float:
        """How far the value is beyond its bound: positive where it failed."""
        assert self.figure is not None
        over = self.figure.value - self.bound
        return -over if self.limit.kind in ("least", "drop") else over


def decided(verdict: Verdict) -> str:
    """The status that a figure beside its bound makes."""
    assert verdict.figure is not None
    slack = 1e-9 * abs(verdict.bound)  # a percentage of a whole number is rarely one
    if verdict.excess <= slack:
        return PASSED
    least = verdict.figure.least
    return UNDECIDED if least is not None and least <= verdict.bound + slack else FAILED


@dataclass(frozen=True)
class Checked:
    """A run of the gate."""

    config: Path
    verdicts: tuple[Verdict, ...]
    subjects: tuple[Subject, ...]

    @property
    def failed(self) -> list[Verdict]:
        """Limits that do not hold."""
        return [v for v in self.verdicts if v.status == FAILED]

    @property
    def undecided(self) -> list[Verdict]:
        """Limits that noise alone may have missed."""
        return [v for v in self.verdicts if v.status == UNDECIDED]


# ---- what it says ---------------------------------------------------------------------------------------------------
def spoken(quantity: str, value: float) -> str:
    """A value with its unit."""
    if quantity in ("flash", "ram"):
        scale, unit = next((s, u) for s, u in ((2**20, "MiB"), (2**10, "KiB"), (1, "bytes")) if value >= s or s == 1)
        return f"{value / scale:,.2f} {unit}" if scale > 1 else f"{value:,.0f} bytes"
    if quantity == "latency":
        return f"{value / 1e6:,.4g} ms"
    if quantity == "accuracy":
        return f"{100 * value:.2f} %"
    return f"{value:,.0f}"


def percent(share: float) -> str:
    """0.123 -> 12 %."""
    return f"{100 * share:{'.0f' if share >= 0.1 else '.2g'}} %"


def difference(verdict: Verdict) -> str:
    """By how much a limit is missed, in its own unit and relative to it."""
    quantity, excess = verdict.limit.quantity, verdict.excess
    if quantity == "accuracy":
        return f"{100 * excess:.2f} points"
    percent = 100 * excess / verdict.bound if verdict.bound else math.inf
    share = (
        f"{1 + percent / 100:,.0f} times it" if percent >= 1000 else f"{percent:{'.0f' if percent >= 10 else '.2g'}} %"
    )
    return f"{spoken(quantity, excess)} ({share})"


def let_pass(limit: Limit) -> str:
    """By how much a figure may differ from the baseline's, where that is the limit."""
    kinds = {
        "growth": f", {100 * limit.bound:g} % more may pass",
        "drop": f", {100 * limit.bound:g} points less may pass",
    }
    return kinds.get(limit.kind, "")


def message(verdict: Verdict) -> str:
    """One line on a limit; names out of files are printable in it."""
    limit, figure = verdict.limit, verdict.figure
    head = f"{limit.name} of {limit.model}"
    if verdict.status == SKIPPED or figure is None:
        return printable(f"{head} is skipped, {verdict.why}")
    value, bound = spoken(limit.quantity, figure.value), spoken(limit.quantity, verdict.bound)
    is_least = limit.kind in ("least", "drop")
    line = f"{head} is {value}, " + (f"at least {bound} is asked for" if is_least else f"at most {bound} is allowed")
    if verdict.before is not None:
        line += f" (it was {spoken(limit.quantity, verdict.before)}{let_pass(limit)})"
    if verdict.status == PASSED:
        return printable(line)
    side = "below" if is_least else "above"
    most = f". The largest is {figure.largest}" if figure.largest else ""
    note = f". Taken as {figure.note}" if figure.note else ""
    if verdict.status == UNDECIDED and figure.least is not None:
        noise = f"which noise alone may be: again, it may come down to {spoken(limit.quantity, figure.least)}"
        return printable(f"{line}: {difference(verdict)} {side}, {noise}{note}. {QUIETER}")
    return printable(f"{line}: {difference(verdict)} {side}{most}{note}")
