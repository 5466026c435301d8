"""Which units stay: the cheapest loss of importance that meets a budget.

Within a group units go in order of their score, dead ones first. Between groups the plan keeps the product over groups
of the weight that stays as large as it can: units go where −Δlog(weight) per freed cost is least, a Lagrangian relaxation
whose multiplier is found by bisection on exact costs. Widths keep to multiples that the runtime's kernels like.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain import profile
from toolchain.compress.groups import Channels, Group
from toolchain.errors import BadInput, OutOfReach, UsageError
from toolchain.files import check_new, write_text
from toolchain.model import Model
from toolchain.ops.table import Shape, dims
from toolchain.ops.units import Ids
from toolchain.validate import read_bytes

BYTES = {"": 1, "B": 1, "kB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2, "GB": 1000**3, "GiB": 1024**3}
COUNTS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}
TERMS = {"params": COUNTS, "macs": COUNTS, "flash": BYTES, "ram": BYTES, "units": {}}
SLACK = 0.01  # a budget is met from below, within 1 %
STAGES = 6


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
    """

    sha256: str
    budget: str
    align: str
    removed: dict[str, tuple[int, ...]]
    widths: dict[str, tuple[int, int]]
    costs: dict[str, tuple[int, int]]

    def labels(self, channels: Channels) -> Ids:
        """Labels of the removed units, [n]."""
        parts = [channels.group(name).units[list(indices)] for name, indices in self.removed.items()]
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


# ---- costs of widths that are not cut yet --------------------------------------------------------------------------
GATHER_BYTES = 160  # the node that picks places behind a flatten, without its names

COUNTERS = ("params", "macs", "flash", "ram")


@dataclass(frozen=True)
class Costing:
    """Costs as a function of how many units of each group go.

    parts      value -> (axis, positions that a unit of each group has there, [g])
    nested     (outer group, inner group, places): a channel takes this many places behind a flatten along
    structure  bytes of the file around its tensors
    """

    model: Model
    groups: tuple[Group, ...]
    parts: dict[ir.Value, list[tuple[int, NDArray[np.int64]]]]
    nested: tuple[tuple[int, int, int], ...]
    structure: int

    def with_places(self, removed: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts of units that really go, [g]: at least the places of the channels that go."""
        removed = removed.copy()
        for outer, inner, places in self.nested:
            removed[inner] = max(removed[inner], removed[outer] * places)
        return removed

    def shape(self, removed: NDArray[np.int64]) -> Shape:
        """Dimensions of a value after this many units of each group are gone, [g]."""

        def of(value: ir.Value) -> tuple[int, ...]:
            size = list(dims(value))
            for axis, positions in self.parts.get(value, ()):
                size[axis] -= int(positions @ removed)
            return tuple(size)

        return of

    def costs(self, removed: NDArray[np.int64], quantities: Sequence[str] = COUNTERS) -> NDArray[np.float64]:
        """The quantities when these many units are asked to go, [q]."""
        removed = self.with_places(removed)
        shape = self.shape(removed)
        count = {
            "params": lambda: profile.params(self.model, shape),
            "macs": lambda: profile.macs(self.model, shape),
            "flash": lambda: self.structure + profile.tensor_bytes(self.model, shape) + self.gathers(removed),
            "ram": lambda: profile.arena(self.model, shape),
        }
        return np.array([float(count[q]()) for q in quantities])

    def gathers(self, removed: NDArray[np.int64]) -> int:
        """Bytes of the gathers behind flattens."""
        total = 0
        for outer, inner, places in self.nested:
            if removed[inner] > removed[outer] * places:
                group = self.groups[inner]
                total += 8 * (len(group) - int(removed[inner])) + GATHER_BYTES + 7 * len(group.cuts[0][0])
        return total


def costing(model: Model, channels: Channels) -> Costing:
    """Count once how many positions each group has on every axis."""
    labels = channels.labels
    owner = np.full(len(labels.root), -1)
    for i, g in enumerate(channels.groups):
        owner[g.units] = i
    parts: dict[ir.Value, list[tuple[int, NDArray[np.int64]]]] = {}
    for value, axis in labels.axes:
        which = owner[labels.of(value, axis)]
        counts = np.bincount(which[which >= 0], minlength=len(channels.groups))
        if counts.any():
            each = np.array([c // len(g) for c, g in zip(counts, channels.groups, strict=True)])
            parts.setdefault(value, []).append((axis, each))
    nested = set()
    for _, outer, inner in labels.nests:
        for o, i in zip(owner[labels.root[outer]].tolist(), owner[labels.root[inner[:, 0]]].tolist(), strict=True):
            if o >= 0 and i >= 0:
                nested.add((o, i, inner.shape[1]))
    return Costing(model, channels.groups, parts, tuple(sorted(nested)), profile.structure_bytes(model))


# ---- planning ------------------------------------------------------------------------------------------------------
def steps_of(group: Group, align: str) -> int:
    """Widths of a group are multiples of this: 8 for channels and neurons, 4 or 1 for narrow ones, 1 behind a flatten."""
    if align == "off" or group.kind == "position":
        return 1
    if align != "auto":
        return int(align)
    return 8 if len(group) >= 16 else 4 if len(group) >= 8 else 1


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
    if align not in ("auto", "off") and not (align.isdigit() and int(align) > 0):
        raise UsageError(f"cannot align to '{align}'", way_out="Use auto, off or a number")
    terms = parse_budget(budget)
    groups = channels.groups
    order = [removal_order(g, scores.get(g.name), dead.get(g.name)) for g in groups]
    free = np.array([g.name in scores and not any(fnmatch(g.name, k) for k in keep) for g in groups])
    step = np.array([steps_of(g, align) for g in groups], np.int64)
    size = np.array([len(g) for g in groups], np.int64)
    least = np.where(free, np.minimum(size, step), size)
    share = [t for t in terms if t.quantity == "units"]
    if any(not t.is_share for t in share):
        raise UsageError("budget 'units' is a share of every group", way_out="Write units<=50%")
    kept = np.where(free, np.floor(size * min((t.limit for t in share), default=1.0) + 0.5).astype(np.int64), size)
    kept = aligned(np.clip(kept, least, size), size, step, least)
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


def losses(order: Ids, scores: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """What removing the i-th unit of the order loses, [u], rising: −log of the weight that stays, after less before.

    A unit's weight is half its share of the group's positive score, half 1/u; the last unit is worth everything.
    """
    n = len(order)
    weight = np.full(n, 1 / n)
    if scores is not None:
        positive = np.maximum.accumulate(np.clip(scores[order], 0, None))
        weight = (weight + positive / max(float(positive.sum()), 1e-30)) / 2
    stays = np.append(np.cumsum(weight[::-1])[::-1], 0.0)
    with np.errstate(divide="ignore"):
        return np.log(stays[:-1]) - np.log(stays[1:])


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
    quantities = [t.quantity for t in limits]
    rows = [COUNTERS.index(q) for q in quantities]
    bounds = np.array([t.bound(before[r]) for t, r in zip(limits, rows, strict=True)])
    size = np.array([len(g) for g in channels.groups], np.int64)

    def shares(kept: NDArray[np.int64]) -> NDArray[np.float64]:
        return model_costs.costs(size - kept, quantities) / bounds

    def excess(kept: NDArray[np.int64]) -> float:
        return float(shares(kept).max())

    if excess(start) <= 1:
        return start
    if excess(least) > 1:
        reached = shares(least)
        worst = int(reached.argmax())
        best = f"the best is {reached[worst] * bounds[worst]:,.0f}"
        raise OutOfReach(
            f"budget {quantities[worst]}<={bounds[worst]:,.0f} is out of reach: {best}",
            way_out=f"Protected: {protection(channels, least, size)}",
        )
    rising = [losses(o, scores.get(g.name)) for o, g in zip(order, channels.groups, strict=True)]
    search = Search(start, least, step, rising, shares)
    found = [f for f in (search.widths_within(1.0, leap) for leap in (True, False)) if excess(f) <= 1]
    return min(found, key=search.loss) if found else least


@dataclass(frozen=True)
class Search:
    """One search for widths [g] between `least` and `start`, in multiples of `step`.

    rising  loss of each removal of each group, in order
    shares  widths -> cost over limit, for each limit
    """

    start: NDArray[np.int64]
    least: NDArray[np.int64]
    step: NDArray[np.int64]
    rising: Sequence[NDArray[np.float64]]
    shares: Callable[[NDArray[np.int64]], NDArray[np.float64]]

    def loss(self, kept: NDArray[np.int64]) -> float:
        """Summed loss of these widths."""
        return sum(float(r[: len(r) - k].sum()) for r, k in zip(self.rising, kept, strict=True))

    def excess(self, kept: NDArray[np.int64]) -> float:
        """The worst cost over its limit."""
        return float(self.shares(kept).max())

    def widths_within(self, limit: float, leap: bool) -> NDArray[np.int64]:
        """Widths whose costs stay under the limits.

        leap  where a wide step of a group jumps over the budget: take the jump and give back elsewhere, or stay there
        """
        kept, locked, price = self.start, np.zeros(len(self.start), bool), np.zeros(len(self.start))

        def widths(multiplier: float) -> NDArray[np.int64]:
            size = [len(r) for r in self.rising]
            gone = [
                int(np.searchsorted(r, multiplier * p, side="right")) for r, p in zip(self.rising, price, strict=True)
            ]
            wanted = np.clip(np.array(size) - np.array(gone), self.least, self.start)
            wanted = np.minimum(-(-wanted // self.step) * self.step, self.start)  # a step goes when all of it may
            return np.where(locked, kept, wanted)

        for stage in np.linspace(0, 1, STAGES + 1)[1:]:  # marginal costs change as other groups shrink: follow the path
            goal = limit * (self.excess(self.start) / limit) ** (1 - stage)
            fresh = self.marginal(kept)
            price = np.where(fresh > 0, fresh, price)  # a group at its end keeps the price that brought it there
            low, high = bracket(lambda m, goal=goal: self.excess(widths(m)) <= goal)
            while stage == 1 and high is not None and self.excess(widths(high)) < limit - SLACK:
                jumped = (widths(low) != widths(high)) & ~locked
                if not jumped.any():
                    break
                kept = np.where(locked, kept, widths(high if leap else low))
                locked = locked | jumped
                low, high = bracket(lambda m: self.excess(widths(m)) <= limit)
            if high is None:
                return self.least
            kept = widths(high)
        return kept

    def marginal(self, kept: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cost that one more removed unit of each group frees, in shares of the limits that still bind, [g]."""
        now = self.shares(kept)
        binding = now > min(1, now.max()) - SLACK
        freed = np.zeros(len(kept))
        for g in range(len(kept)):
            fewer = kept.copy()
            fewer[g] = max(kept[g] - max(self.step[g], len(self.rising[g]) // 8), 1)
            if fewer[g] < kept[g]:
                freed[g] = float(np.clip(now - self.shares(fewer), 0, None)[binding].sum()) / (kept[g] - fewer[g])
        return freed


def bracket(is_enough: Callable[[float], bool]) -> tuple[float, float | None]:
    """(too small, enough) multipliers close together; None if none is enough."""
    low, high = 0.0, 1.0
    if is_enough(low):
        return low, low
    while not is_enough(high):
        low, high = high, high * 4
        if high > 1e30:
            return low, None
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return low, high


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
        empty = gone[labels.root[inner]].all(axis=1) & ~gone[labels.root[outer]]
        for unit in labels.root[outer[empty]].tolist():
            if unit in owner:  # nobody but the flatten reads it
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
    body = {
        "schema": "jettison.plan/1", "sha256": plan.sha256, "budget": plan.budget, "align": plan.align,
        "groups": [{"name": n, "before": plan.widths[n][0], "after": plan.widths[n][1], "removed": list(r)} for n, r in plan.removed.items()],
        "costs": {q: {"before": b, "after": a} for q, (b, a) in plan.costs.items()},
    }  # fmt: skip
    write_text(path, json.dumps(body, indent=1, sort_keys=True) + "\n")


def load_plan(path: Path, model: Model, channels: Channels) -> Plan:
    """Read plan.json; raises BadInput unless it was made for this model and fits its groups."""
    try:
        body = json.loads(read_bytes(path, "a plan.json file"))
        removed = {str(g["name"]): tuple(sorted({int(i) for i in g["removed"]})) for g in body["groups"]}
        costs = {str(q): (int(c["before"]), int(c["after"])) for q, c in body["costs"].items()}
        sha256, budget, align = str(body["sha256"]), str(body["budget"]), str(body["align"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput("is no plan.json of jettison", str(path), "Make one with jettison prune --plan-out") from error
    if sha256 != model.sha256:
        raise BadInput(f"the plan was made for sha256 {sha256[:12]}…, the model is {model.sha256[:12]}…", str(path))
    sizes = {g.name: len(g) for g in channels.groups}
    for name, indices in removed.items():
        if name not in sizes or (indices and not 0 <= indices[0] <= indices[-1] < sizes[name]):
            raise BadInput(f"group '{name}' of the plan does not fit the model", str(path))
    widths = {n: (sizes[n], sizes[n] - len(r)) for n, r in removed.items()}
    return Plan(sha256, budget, align, removed, widths, costs)
