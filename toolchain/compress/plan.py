"""Which units stay: the cheapest loss of importance that meets a budget.

Within a group units go in order of their score, dead ones first; how many go from which group is `allocation`'s choice.
Widths keep to multiples that the runtime's kernels like.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.allocation import Search, losses
from toolchain.compress.costing import COUNTERS, Costing, costing
from toolchain.compress.groups import Channels, Group
from toolchain.errors import BadInput, OutOfReach, UsageError
from toolchain.files import check_new, write_text
from toolchain.model import Model
from toolchain.ops.units import Ids
from toolchain.validate import read_bytes

BYTES = {"": 1, "B": 1, "kB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2, "GB": 1000**3, "GiB": 1024**3}
COUNTS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}
TERMS = {"params": COUNTS, "macs": COUNTS, "flash": BYTES, "ram": BYTES, "units": {}}


@dataclass(frozen=True)
class Term:
    """One limit: at most `limit` of a quantity, or at most this share of the original."""

    quantity: str
    limit: float
    is_share: bool

    def bound(self, original: float) -> float:
        """The limit in the quantity's own unit."""
        return self.limit * original if self.is_share else self.limit


@dataclass(frozen=True)
class Plan:
    """The units that go, of one model.

    removed  {group: indices of its units, ascending}
    widths   {group: (before, after)}
    costs    {quantity: (before, after)}

    approximate  the groups are those with widths that norms take their statistics over
    """

    sha256: str
    budget: str
    align: str
    removed: dict[str, tuple[int, ...]]
    widths: dict[str, tuple[int, int]]
    costs: dict[str, tuple[int, int]]
    approximate: bool = False

    def labels(self, channels: Channels) -> Ids:
        """Labels of the removed units, [n]; raises BadInput where the groups are others."""
        units = {g.name: g.units for g in channels.groups}
        for name, indices in self.removed.items():
            if name not in units or (indices and not 0 <= indices[0] <= indices[-1] < len(units[name])):
                raise BadInput(f"group '{name}' of the plan does not fit the model")
        parts = [units[name][list(indices)] for name, indices in self.removed.items()]
        return np.concatenate([np.zeros(0, np.int64), *parts])


# ---- budgets -------------------------------------------------------------------------------------------------------
def parse_budget(text: str) -> tuple[Term, ...]:
    """'params<=30%,flash<=2 MiB' -> terms; raises UsageError naming what is not understood."""
    terms = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)\s*<=\s*(-?[\d_]*\.?\d+(?:e\d+)?)\s*([%A-Za-z]*)\s*", part)
        if match is None:
            raise UsageError(
                f"cannot read the budget '{part.strip()}'", way_out="Write it like params<=30% or flash<=2MiB"
            )
        quantity, number, unit = match.groups()
        if quantity not in TERMS:
            raise UsageError(f"unknown budget '{quantity}'", way_out=f"Use one of {', '.join(TERMS)}")
        value = float(number.replace("_", ""))
        if value <= 0:
            raise UsageError(f"budget '{part.strip()}' leaves nothing", way_out="Give a number above 0")
        if unit == "%":
            terms.append(Term(quantity, value / 100, True))
        elif unit in TERMS[quantity]:
            terms.append(Term(quantity, value * TERMS[quantity][unit], False))
        else:
            known = " ".join(["%", *(u for u in TERMS[quantity] if u)])
            raise UsageError(f"unknown unit '{unit or 'none'}' of budget '{quantity}'", way_out=f"Use {known}")
    return tuple(terms)


# ---- planning ------------------------------------------------------------------------------------------------------
def steps_of(group: Group, align: str) -> int:
    """Widths are multiples of this: 16 for channels, 8 for neurons, less for narrow groups, 1 behind a flatten.

    Convolutions run in blocks of 16 channels in onnxruntime and XNNPACK; matrix products hardly care.
    """
    if align == "off" or group.kind == "position":
        return 1
    if align != "auto":
        return min(int(align), len(group))
    most = 8 if group.kind == "dense" else 16
    return next((step for step in (16, 8, 4) if step <= most and len(group) >= 2 * step), 1)


def make_plan(
    model: Model,
    channels: Channels,
    scores: Mapping[str, NDArray[np.float64]],
    dead: Mapping[str, NDArray[np.bool_]],
    budget: str,
    align: str = "auto",
    keep: Sequence[str] = (),
) -> Plan:
    """Choose the units that go.

    scores  {group: [u]}, higher = keep; a group without scores stays whole
    keep    patterns of group names to leave alone

    Raises OutOfReach with the best reachable where the budget cannot be met, UsageError for a bad budget or alignment.
    """
    if align not in ("auto", "off") and not (align.isdecimal() and int(align) > 0):
        raise UsageError(f"cannot align to '{align}'", way_out="Use auto, off or a number")
    terms = parse_budget(budget)
    groups = channels.groups
    order = [removal_order(g, scores.get(g.name), dead.get(g.name)) for g in groups]
    free = np.array([g.name in scores and not any(fnmatch(g.name, k) for k in keep) for g in groups], bool)
    step = np.array([steps_of(g, align) for g in groups], np.int64)
    size = np.array([len(g) for g in groups], np.int64)
    share = min(1.0, *(t.limit for t in terms if t.quantity == "units"), 1.0)
    kept = np.clip(np.floor(size * share + 0.5).astype(np.int64), 1, size)
    if align == "auto":  # a share of less than a step is a wish for less than a step
        step = np.where(kept < np.minimum(size, step), 1, step)
    least = np.where(free, np.minimum(size, step), size)
    for g in np.flatnonzero(free & (kept < least)):
        raise OutOfReach(
            f"budget units<={100 * share:g}% is out of reach: '{groups[g].name}' keeps {least[g]} of {size[g]}",
            way_out="Use --align auto or off",
        )
    kept = aligned(np.where(free, kept, size), size, step, least)
    limits = [t for t in terms if t.quantity != "units"]
    model_costs = costing(model, channels)
    before = model_costs.costs(np.zeros(len(groups), np.int64))
    if limits:
        kept = solve(channels, model_costs, limits, before, kept, least, step, order, scores)
    removed = chosen(channels, order, model_costs.with_places(size - kept))
    removed = with_orphans(channels, removed, step, free)
    after = model_costs.costs(np.array([len(r) for r in removed], np.int64))
    return Plan(
        model.sha256,
        budget,
        align,
        {g.name: tuple(r.tolist()) for g, r in zip(groups, removed, strict=True)},
        {g.name: (len(g), len(g) - len(r)) for g, r in zip(groups, removed, strict=True)},
        {q: (int(b), int(a)) for q, b, a in zip(COUNTERS, before, after, strict=True)},
        channels.approximate,
    )


def removal_order(group: Group, scores: NDArray[np.float64] | None, dead: NDArray[np.bool_] | None) -> Ids:
    """Indices of a group's units, the first to go first: dead ones, then by rising score; ties by place."""
    if scores is None:
        return np.arange(len(group))
    alive = np.ones(len(group), bool) if dead is None else ~dead
    return np.lexsort((np.arange(len(group)), scores, alive))


def aligned(
    kept: NDArray[np.int64], size: NDArray[np.int64], step: NDArray[np.int64], least: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Round widths down to their multiples; a whole group stays whole."""
    return np.where(kept == size, size, np.maximum(kept // step * step, least))


def solve(
    channels: Channels,
    model_costs: Costing,
    limits: Sequence[Term],
    before: NDArray[np.float64],
    start: NDArray[np.int64],
    least: NDArray[np.int64],
    step: NDArray[np.int64],
    order: Sequence[Ids],
    scores: Mapping[str, NDArray[np.float64]],
) -> NDArray[np.int64]:
    """Widths whose costs meet every limit, with the least loss."""
    limits = sorted(limits, key=lambda t: COUNTERS.index(t.quantity))  # memory, the dearest to count, comes last
    quantities = [t.quantity for t in limits]
    rows = [COUNTERS.index(q) for q in quantities]
    bounds = np.array([t.bound(before[r]) for t, r in zip(limits, rows, strict=True)])
    size = np.array([len(g) for g in channels.groups], np.int64)

    def share(kept: NDArray[np.int64], q: int) -> float:
        return float(model_costs.costs(size - kept, quantities[q : q + 1])[0] / bounds[q])

    rising = [losses(o, scores.get(g.name)) for o, g in zip(order, channels.groups, strict=True)]
    search = Search(start, least, step, rising, len(limits), share)
    if search.fits(start):
        return start
    if not search.fits(least):
        reached = np.array([share(least, q) for q in range(len(limits))])
        worst = int(reached.argmax())
        best = f"the best is {reached[worst] * bounds[worst]:,.0f}"
        raise OutOfReach(
            f"budget {quantities[worst]}<={bounds[worst]:,.0f} is out of reach: {best}",
            way_out=f"Protected: {protection(channels, least, size)}",
        )
    found = [search.widths_within(1.0, leap=True), search.widths_within(1.0, leap=False), search.scaled()]
    return min((search.grown(f) for f in found if search.fits(f)), key=search.loss)


def chosen(channels: Channels, order: Sequence[Ids], counts: NDArray[np.int64]) -> list[Ids]:
    """The units that go, this many of each group: channels first, then places, those of gone channels before others."""
    removed: list[Ids] = [np.zeros(0, np.int64)] * len(order)
    for late in (False, True):
        gone = channels.flags(channels.closure(units_of(channels, removed)))
        for i, (g, o) in enumerate(zip(channels.groups, order, strict=True)):
            if (g.kind == "position") is late:
                forced_first = o[np.argsort(~gone[g.units[o]], kind="stable")]
                removed[i] = forced_first[: counts[i]]
    return removed


def units_of(channels: Channels, removed: Sequence[Ids]) -> Ids:
    """Labels of units given by their indices in each group."""
    return np.concatenate([np.zeros(0, np.int64), *(g.units[r] for g, r in zip(channels.groups, removed, strict=True))])


def with_orphans(channels: Channels, removed: list[Ids], step: NDArray[np.int64], free: NDArray[np.bool_]) -> list[Ids]:
    """A channel all of whose places behind a flatten are gone goes too, as far as its group's width stays aligned."""
    labels = channels.labels
    gone = channels.flags(channels.closure(units_of(channels, removed)))
    owner = {int(u): i for i, g in enumerate(channels.groups) if len(g.cuts) == 1 and free[i] for u in g.units}
    orphans: dict[int, list[int]] = {}
    for _, outer, inner in labels.nests:
        empty, units = gone[labels.root[inner]].all(axis=1), labels.root[outer]
        for unit in np.setdiff1d(units[empty], units[~empty]).tolist():  # all channels of the unit are empty
            if unit in owner and not gone[unit]:  # nobody but the flatten reads it
                orphans.setdefault(owner[unit], []).append(unit)
    for i, units in orphans.items():
        width = int((~gone[channels.groups[i].units]).sum())
        spare = width - max(-(-(width - len(units)) // step[i]) * step[i], step[i])
        gone[units[: max(int(spare), 0)]] = True
    return [np.flatnonzero(gone[g.units]) for g in channels.groups]


def protection(channels: Channels, least: NDArray[np.int64], size: NDArray[np.int64]) -> str:
    """Why no more can go: groups kept whole, and what is frozen."""
    whole = [g.name for g, l, n in zip(channels.groups, least, size, strict=True) if l == n]
    reasons = {reason for _, _, reason in channels.frozen()}
    parts = [f"{len(whole)} groups ({', '.join(whole[:3])})"] if whole else []
    parts += [f"{len(reasons)} frozen axes, such as {min(reasons)}"] if reasons else []
    return "; ".join(parts) or "at least one aligned step of every group"


# ---- files ---------------------------------------------------------------------------------------------------------
def save_plan(plan: Plan, path: Path, force: bool = False) -> None:
    """Write plan.json."""
    check_new(path, force)
    widths = plan.widths.items()
    body = {
        "schema": "jettison.plan/1",
        "sha256": plan.sha256,
        "budget": plan.budget,
        "align": plan.align,
        "approximate": plan.approximate,
        "groups": [{"name": n, "before": b, "after": a, "removed": list(plan.removed[n])} for n, (b, a) in widths],
        "costs": {q: {"before": b, "after": a} for q, (b, a) in plan.costs.items()},
    }
    write_text(path, json.dumps(body, indent=1, sort_keys=True) + "\n")


def load_plan(path: Path, model: Model) -> Plan:
    """Read plan.json; raises BadInput unless it was made for this model."""
    try:
        body = json.loads(read_bytes(path, "a plan.json file"))
        removed = {str(g["name"]): tuple(sorted({int(i) for i in g["removed"]})) for g in body["groups"]}
        widths = {str(g["name"]): (int(g["before"]), int(g["after"])) for g in body["groups"]}
        costs = {str(q): (int(c["before"]), int(c["after"])) for q, c in body["costs"].items()}
        sha256, budget, align = str(body["sha256"]), str(body["budget"]), str(body["align"])
        approximate = bool(body["approximate"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BadInput("is no plan.json of jettison", str(path), "Make one with jettison prune --plan-out") from error
    if sha256 != model.sha256:
        raise BadInput(f"the plan was made for sha256 {sha256[:12]}…, the model is {model.sha256[:12]}…", str(path))
    if any(before - after != len(removed[n]) for n, (before, after) in widths.items()):
        raise BadInput("widths of the plan contradict what it removes", str(path))
    return Plan(sha256, budget, align, removed, widths, costs, approximate)
