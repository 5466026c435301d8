"""Which units stay: the cheapest loss of importance that meets a budget.

Within a group units go in order of their score, dead ones first; how many go from which group is `allocation`'s choice.
Widths keep to multiples that the runtime's kernels like.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain import __version__
from toolchain.compress.allocation import SLACK, Search, losses
from toolchain.compress.budget import COUNTED, Floor, Term, check_patterns, parse_budget
from toolchain.compress.costing import COUNTERS, Costing, costing
from toolchain.compress.groups import Channels
from toolchain.compress.widths import aligned, chosen, removal_order, steps_of, with_orphans
from toolchain.errors import BadInput, OutOfReach, UsageError
from toolchain.files import check_new, write_json
from toolchain.model import Model
from toolchain.ops.units import Ids
from toolchain.validate import read_bytes

I64 = NDArray[np.int64]
FEWEST = 8  # units that a group keeps whatever its step, so that larger steps put no budget out of reach


@dataclass(frozen=True)
class Plan:
    """The units that go, of one model.

    removed  {group: indices of its units, ascending}
    widths   {group: (before, after)}
    costs    {quantity: (before, after)}
    used     {term of the budget: its cost over its limit}

    approximate  the groups are those with widths that norms take their statistics over
    """

    sha256: str
    budget: str
    align: str
    removed: dict[str, tuple[int, ...]]
    widths: dict[str, tuple[int, int]]
    costs: dict[str, tuple[int, int]]
    used: dict[str, float] = field(default_factory=dict)
    approximate: bool = False

    @property
    def binding(self) -> tuple[str, ...]:
        """Terms within 1 % of their limit, or the nearest to it where widths are too coarse; () where nothing went."""
        nearest = max(self.used.values(), default=0.0)
        cut = any(self.removed.values())
        return tuple(t for t, u in self.used.items() if cut and u >= min(1 - SLACK, nearest))

    def labels(self, channels: Channels) -> Ids:
        """Labels of the removed units, [n]; raises BadInput where the groups are others."""
        units = {g.name: g.units for g in channels.groups}
        for name, indices in self.removed.items():
            if name not in units or (indices and not 0 <= indices[0] <= indices[-1] < len(units[name])):
                raise BadInput(f"group '{name}' of the plan does not fit the model")
        parts = [units[name][list(indices)] for name, indices in self.removed.items()]
        return np.concatenate([np.zeros(0, np.int64), *parts])


# ---- planning ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Removable:
    """What may go of a network, in which order, and what it costs then; every array has an entry for each group.

    scores      {group: [u]}, higher = keep; a group without scores stays whole
    gone        indices of units that went in an earlier round
    order       indices of units, the first to go first
    free, step  whether units may go, and what widths are multiples of
    floor       units that --floor keeps
    """

    model: Model
    channels: Channels
    scores: Mapping[str, NDArray[np.float64]]
    align: str
    gone: tuple[Ids, ...]
    order: tuple[Ids, ...]
    size: I64
    free: NDArray[np.bool_]
    step: I64
    floor: I64
    costing: Costing

    @property
    def least(self) -> I64:
        """Widths that no budget goes below: one step (of 8 at most under auto), or the floor in whole steps."""
        one = np.minimum(self.step, FEWEST) if self.align == "auto" else self.step
        stepped = np.minimum(np.where(self.floor > 0, -(-self.floor // self.step) * self.step, one), self.size)
        return np.minimum(np.where(self.free, stepped, self.size), self.size - self.went)

    @property
    def went(self) -> I64:
        """Units that went in an earlier round."""
        return np.array([len(r) for r in self.gone], np.int64)

    def costs(self, kept: I64) -> dict[str, float]:
        """{quantity: cost} of these widths."""
        return dict(zip(COUNTERS, self.costing.costs(self.size - kept).tolist(), strict=True))


def removable(
    model: Model,
    channels: Channels,
    scores: Mapping[str, NDArray[np.float64]],
    dead: Mapping[str, NDArray[np.bool_]],
    align: str = "auto",
    keep: Sequence[str] = (),
    floors: Sequence[Floor] = (),
    gone: Mapping[str, Sequence[int]] | None = None,
) -> Removable:
    """Order the units and count what they cost, once for any number of budgets.

    keep    patterns of group names to leave alone
    floors  units that stay at least
    gone    {group: indices that went already}

    Raises UsageError for a bad alignment and for patterns of no group.
    """
    if align not in ("auto", "off") and not (align.isdecimal() and int(align) > 0):
        raise UsageError(f"cannot align to '{align}'", way_out="Use auto, off or a number")
    groups = channels.groups
    names = [g.name for g in groups]
    check_patterns(keep, names, "--keep")
    check_patterns([f.pattern for f in floors], names, "--floor")
    went = [sorted((gone or {}).get(n, ())) for n in names]
    floor = [max((f.width(len(g)) for f in floors if fnmatch(g.name, f.pattern)), default=0) for g in groups]
    return Removable(
        model,
        channels,
        scores,
        align,
        tuple(np.array(w, np.int64) for w in went),
        tuple(removal_order(g, scores.get(g.name), dead.get(g.name), w) for g, w in zip(groups, went, strict=True)),
        np.array([len(g) for g in groups], np.int64),
        np.array([n in scores and not any(fnmatch(n, k) for k in keep) for n in names], bool),
        np.array([steps_of(g, align) for g in groups], np.int64),
        np.array(floor, np.int64),
        costing(model, channels),
    )


def make_plan(
    model: Model,
    channels: Channels,
    scores: Mapping[str, NDArray[np.float64]],
    dead: Mapping[str, NDArray[np.bool_]],
    budget: str,
    align: str = "auto",
    keep: Sequence[str] = (),
    floors: Sequence[Floor] = (),
) -> Plan:
    """Choose the units that go; raises as `removable` and `plan_within` do, and UsageError for a bad budget."""
    return plan_within(removable(model, channels, scores, dead, align, keep, floors), parse_budget(budget))


def plan_within(of: Removable, terms: Sequence[Term]) -> Plan:
    """Choose the units that go; raises OutOfReach with the best reachable where the terms cannot all be met."""
    for term in terms:
        if term.quantity not in COUNTED:
            raise UsageError(f"budget {term.text} needs runs of the network", way_out="Use it in jettison compress")
    channels, size = of.channels, of.size
    share = min([t.limit for t in terms if t.quantity == "units"], default=1.0)
    kept = np.clip(np.floor(size * share + 0.5).astype(np.int64), 1, size)
    step = of.step
    for finer in (8, 4, 1) if of.align == "auto" else ():  # a share of less than a step is a wish for less than a step
        step = np.where(kept < np.minimum(size, step), np.minimum(step, finer), step)
    of = replace(of, step=step)
    least, free = of.least, of.free
    for g in np.flatnonzero(free & (kept < np.minimum(size, step))):
        raise OutOfReach(
            f"budget units<={100 * share:g}% is out of reach: '{channels.groups[g].name}' keeps {step[g]} of {size[g]}",
            way_out="Use --align auto or off",
        )
    kept = np.minimum(aligned(np.where(free, np.maximum(kept, least), size), size, step, least), size - of.went)
    limits = [t for t in terms if t.quantity != "units"]
    before = of.costing.costs(np.zeros(len(size), np.int64))
    original = dict(zip(COUNTERS, before.tolist(), strict=True))
    if limits:
        kept = solve(of, limits, original, kept)
    removed = chosen(channels, of.order, of.costing.with_places(size - kept), of.gone)
    removed = with_orphans(channels, removed, step, least, free)
    counts = np.array([len(r) for r in removed], np.int64)
    plan = as_plan(of.model, channels, of.costing, removed, ",".join(t.text for t in terms), of.align)
    used = {t.text: plan.costs[t.quantity][1] / t.bound(original[t.quantity]) for t in limits}
    ratio = (size - counts)[free] / np.maximum(size * share, 1)[free]
    used |= {t.text: float(ratio.max(initial=0)) for t in terms if t.quantity == "units"}
    return replace(plan, used=used)


def plan_without(model: Model, channels: Channels, labels: Ids, because: str) -> Plan:
    """The plan by which these units go, and what goes along with them; `because` stands where a budget does."""
    gone = channels.flags(channels.closure(labels))
    removed = [np.flatnonzero(gone[g.units]) for g in channels.groups]
    return as_plan(model, channels, costing(model, channels), removed, because, "off")


def as_plan(
    model: Model, channels: Channels, counting: Costing, removed: Sequence[Ids], budget: str, align: str
) -> Plan:
    """Indices of the units that go of each group, with widths and costs before and after."""
    counts = np.array([len(r) for r in removed], np.int64)
    before, after = counting.costs(np.zeros_like(counts)), counting.costs(counts)
    return Plan(
        model.sha256,
        budget,
        align,
        {g.name: tuple(r.tolist()) for g, r in zip(channels.groups, removed, strict=True)},
        {g.name: (len(g), len(g) - len(r)) for g, r in zip(channels.groups, removed, strict=True)},
        {q: (int(b), int(a)) for q, b, a in zip(COUNTERS, before, after, strict=True)},
        approximate=channels.approximate,
    )


def solve(of: Removable, limits: Sequence[Term], original: Mapping[str, float], start: I64) -> I64:
    """Widths whose costs meet every limit, with the least loss."""
    limits = sorted(limits, key=lambda t: COUNTERS.index(t.quantity))  # memory, the dearest to count, comes last
    quantities = [t.quantity for t in limits]
    bounds = [t.bound(original[q]) for t, q in zip(limits, quantities, strict=True)]

    known: dict[tuple[bytes, int], float] = {}  # searches begin alike, and late steps of a bisection round alike

    def share(kept: I64, q: int) -> float:
        key = kept.tobytes(), q
        if key not in known:
            known[key] = float(of.costing.costs(of.size - kept, quantities[q : q + 1])[0] / bounds[q])
        return known[key]

    rising = [losses(o, of.scores.get(g.name)) for o, g in zip(of.order, of.channels.groups, strict=True)]
    search = Search(start, of.least, of.step, rising, len(limits), share)
    if search.fits(start):
        return start
    if not search.fits(of.least):
        reached = np.array([share(of.least, q) for q in range(len(limits))])
        worst = int(reached.argmax())
        best = f"the best is {reached[worst] * bounds[worst]:,.0f}"
        raise OutOfReach(
            f"budget {quantities[worst]}<={bounds[worst]:,.0f} is out of reach: {best}",
            way_out=f"Protected: {protection(of)}",
        )
    found = [search.widths_within(1.0, leap=True), search.widths_within(1.0, leap=False), search.scaled()]
    return min((search.grown(f) for f in found if search.fits(f)), key=search.loss)


def protection(of: Removable) -> str:
    """Why no more can go: groups that are asked to stay or have no scores, the steps of all others, what is frozen."""
    whole: dict[str, list[str]] = {}
    for g, free, floor, least, step in zip(of.channels.groups, of.free, of.floor, of.least, of.step, strict=True):
        reason = "ranked by nothing" if g.name not in of.scores else "in --keep" if not free else ""
        reason = reason or ("on their --floor" if floor >= max(least - step + 1, 1) and floor > 0 else "")
        if reason:
            whole.setdefault(reason, []).append(g.name)
    parts = [f"{len(n)} groups {r} ({', '.join(n[:3])}{', …' if len(n) > 3 else ''})" for r, n in whole.items()]
    if (of.free & (of.least > 1)).any():
        parts.append(
            f"one aligned step of {int((of.free & (of.least > 1)).sum())} groups (--align off leaves one unit)"
        )
    reasons = Counter(reason for _, _, reason in of.channels.frozen())
    told = "; ".join(sorted(reasons, key=lambda r: (-reasons[r], r))[:2])
    parts += [f"{sum(reasons.values())} frozen axes: {told}"] if reasons else []
    return "; ".join(parts) or "nothing can be removed"


# ---- files ---------------------------------------------------------------------------------------------------------
def save_plan(plan: Plan, path: Path, force: bool = False, made_of: Mapping[str, Any] | None = None) -> None:
    """Write plan.json.

    made_of  settings, and ranks_sha256 of the ranks.npz file that it was made from
    """
    check_new(path, force)
    widths = plan.widths.items()
    body = {
        "schema": "jettison.plan/1",
        "tool": f"jettison {__version__}",
        "sha256": plan.sha256,
        "budget": plan.budget,
        "align": plan.align,
        "approximate": plan.approximate,
        "groups": [{"name": n, "before": b, "after": a, "removed": list(plan.removed[n])} for n, (b, a) in widths],
        "costs": {q: {"before": b, "after": a} for q, (b, a) in plan.costs.items()},
        "used": plan.used,
        "binding": list(plan.binding),
        **(made_of or {}),
    }
    write_json(path, body, sort_keys=True)


def load_plan(path: Path, model: Model) -> Plan:
    """Read plan.json; raises BadInput unless it was made for this model."""
    try:
        body = json.loads(read_bytes(path, "a plan.json file"))
        removed = {str(g["name"]): tuple(sorted({int(i) for i in g["removed"]})) for g in body["groups"]}
        widths = {str(g["name"]): (int(g["before"]), int(g["after"])) for g in body["groups"]}
        costs = {str(q): (int(c["before"]), int(c["after"])) for q, c in body["costs"].items()}
        sha256, budget, align = str(body["sha256"]), str(body["budget"]), str(body["align"])
        used = {str(t): float(u) for t, u in body.get("used", {}).items()}
        approximate = bool(body["approximate"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BadInput("is no plan.json of jettison", str(path), "Make one with jettison prune --plan-out") from error
    if sha256 != model.sha256:
        raise BadInput(f"the plan was made for sha256 {sha256[:12]}…, the model is {model.sha256[:12]}…", str(path))
    if any(before - after != len(removed[n]) for n, (before, after) in widths.items()):
        raise BadInput("widths of the plan contradict what it removes", str(path))
    return Plan(sha256, budget, align, removed, widths, costs, used, approximate)
