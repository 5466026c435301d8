"""How useful each unit is, by several measures: one table, higher = keep."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.attribution import Attribution, Progress, Workers, attribute
from toolchain.compress.groups import Channels, Group
from toolchain.compress.objective import objective_of
from toolchain.compress.ranks import Ranks
from toolchain.errors import UsageError, nearest
from toolchain.model import Model
from toolchain.session import run, session, with_outputs

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at.

    sampled  {group: values} to look at its units in, in place of the group's own cuts
    """

    model: Model
    channels: Channels
    inputs: Mapping[str, NDArray[np.float32]]
    labels: NDArray[np.int64]
    steps: int = 16
    target: str | None = None
    layers: str = "*"
    seed: int = 0
    threads: int = 1
    max_memory: int | None = None
    workers: Workers = field(default_factory=Workers)
    sampled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    progress: Progress = lambda stage, done, total: None

    @property
    def groups(self) -> list[Group]:
        """The groups to be scored."""
        found = [g for g in self.channels.groups if fnmatch(g.name, self.layers)]
        for name in self.sampled:
            self.channels.group(name)
        return [replace(g, cuts=self.cuts_of(g)) if g.name in self.sampled else g for g in found]

    def cuts_of(self, group: Group) -> tuple[tuple[str, int], ...]:
        """The values that were asked for, each with the axis that holds the group's units; raises UsageError."""
        values, of = self.channels.values, self.channels.labels.of
        holds = {
            name: axis
            for name, v in values.items()
            if v.shape is not None and v.const_value is None
            for axis in range(len(v.shape))
            if (v, axis) in self.channels.labels.axes and np.isin(group.units, of(v, axis)).all()
        }
        for name in self.sampled[group.name]:
            if name not in values:
                raise UsageError(f"there is no value '{name}' to cut at", way_out=nearest(name, holds))
            if name not in holds:
                raise UsageError(f"'{name}' does not hold the units of '{group.name}'", way_out=nearest(name, holds))
        return tuple((name, holds[name]) for name in self.sampled[group.name])


Scored = tuple[dict[str, F64], dict[str, NDArray[np.bool_]], dict[str, Any], dict[str, F64]]


def rank(criterion: str, evidence: Evidence) -> Ranks:
    """Score every group by a criterion; raises UsageError for an unknown one or where it needs samples."""
    if criterion not in CRITERIA:
        raise UsageError(f"unknown criterion '{criterion}'", way_out=f"Use one of {', '.join(CRITERIA)}")
    function, needs_samples = CRITERIA[criterion]
    if needs_samples and not evidence.inputs:
        raise UsageError(f"criterion '{criterion}' needs samples", way_out="Give --data, or use --criterion magnitude")
    begun = time.perf_counter()
    scores, dead, facts, expected = function(evidence)
    facts = {"criterion": criterion, "samples": len(evidence.labels) if needs_samples else 0} | facts
    facts["seconds"] = round(time.perf_counter() - begun, 3)
    return Ranks(evidence.model.sha256, scores, dead, facts, expected)


# ---- attributions --------------------------------------------------------------------------------------------------
def onto_units(group: Group, channels: Channels, cut: str, axis: int, per_position: F64) -> F64:
    """Sum a quantity [..., positions of the cut's axis] over the positions of each unit: [..., units]."""
    labels = channels.labels.of(channels.values[cut], axis)
    order = np.argsort(group.units)
    place = order[np.searchsorted(group.units, labels, sorter=order) % len(group)]
    mine = group.units[place] == labels
    out = np.zeros((*per_position.shape[:-1], len(group)))
    np.add.at(out.T, place[mine], per_position[..., mine].T)
    return out


def over_cuts(
    group: Group, channels: Channels, at: Mapping[tuple[str, int], Attribution], read: Callable[[Attribution], Any]
) -> F64:
    """What is read off the attribution at every cut of a group, summed for its units: [..., units]."""
    found = (onto_units(group, channels, c, a, read(at[c, a])) for c, a in group.cuts)
    return sum(found, np.zeros(len(group)))


def attributed(e: Evidence, choose: Callable[[Group, Attribution], F64], at_h_only: bool = False) -> Scored:
    """Sum what `choose` reads off the attribution at every cut of a group."""
    cuts = list(dict.fromkeys(c for g in e.groups for c in g.cuts))
    found = attribute(
        e.model, cuts, e.inputs, e.labels, target=e.target, steps=e.steps, at_h_only=at_h_only,
        threads=e.threads, max_memory=e.max_memory, workers=e.workers, progress=e.progress,
    )  # fmt: skip
    at = dict(zip(cuts, found, strict=True))
    scores, dead, expected = {}, {}, {}
    for g in e.groups:
        scores[g.name] = over_cuts(g, e.channels, at, partial(choose, g))
        dead[g.name] = over_cuts(g, e.channels, at, lambda f: f.is_live.astype(float)) == 0
        if e.target == "classes":
            expected[g.name] = over_cuts(g, e.channels, at, lambda f: f.conditional)
    facts = {
        "target": objective_of(e.model, e.target).target,
        "rule": "gradient at h" if at_h_only else "Gauss-Legendre, α = t²",
        "baseline": 0,
        "steps": max((f.steps for f in found), default=0),
        "completeness_gap": None if at_h_only else max((f.gap for f in found), default=0.0),
        "cuts": [
            {
                "cut": f.cut, "steps": f.steps, "gap": None if at_h_only else f.gap,
                "backend": f.backend, "samples_per_run": f.per_run, "note": f.note,
            }
            for f in found
        ],
    }  # fmt: skip
    return scores, dead, facts, expected


def integrated_gradients(e: Evidence) -> Scored:
    """Rank by −E[A of the loss] on dense layers (eq. 6), by E|A of the loss| on channels and their places.

    The sign misleads there: half of the places of a channel speak against the right class by a little.
    """
    return attributed(e, lambda g, a: a.rank if g.kind == "dense" else a.expected_absolute[-1])


def signed_integrated_gradients(e: Evidence) -> Scored:
    """−E[A of the loss] everywhere (eq. 6)."""
    return attributed(e, lambda g, a: a.rank)


def absolute_integrated_gradients(e: Evidence) -> Scored:
    """E|A of the loss| everywhere."""
    return attributed(e, lambda g, a: a.expected_absolute[-1])


def taylor(e: Evidence) -> Scored:
    """E|h·∂loss/∂h|: first-order Taylor expansion of removal (Molchanov et al. 2019, eq. 8, as absolute values)."""
    return attributed(e, lambda g, a: a.expected_absolute[-1], at_h_only=True)


# ---- without gradients ---------------------------------------------------------------------------------------------
def magnitude(e: Evidence) -> Scored:
    """Mean |w| of the slices that a unit owns, summed over weights (Li et al. 2017, L1)."""
    scores = {}
    for g in e.groups:
        total = np.zeros(len(g))
        for slot in g.slots:
            value = e.channels.values[slot.parameter]
            if value.const_value is None or len(value.const_value.shape) < 2:
                continue
            mean = mean_absolute(value.const_value.numpy(), slot.axis)
            total += onto_units(g, e.channels, slot.parameter, slot.axis, mean) / slot.rows
        scores[g.name] = total
    return scores, {n: np.zeros(len(s), bool) for n, s in scores.items()}, {}, {}


def mean_absolute(array: NDArray[Any], axis: int) -> F64:
    """Mean |w| of each slice along an axis; a function of its own, so that only one |w| is in memory at a time."""
    others = tuple(a for a in range(array.ndim) if a != axis)
    return np.abs(array).mean(axis=others, dtype=np.float64)


def activation(e: Evidence) -> Scored:
    """Mean |h| over samples and positions."""
    cuts = list(dict.fromkeys(c for g in e.groups for c in g.cuts))
    runner = session(with_outputs(e.model.ir, [c for c, _ in cuts]), e.threads)
    sums: dict[tuple[str, int], F64] = {}
    n = len(e.labels)
    for start in range(0, n, 32):
        outputs = run(runner, {k: v[start : start + 32] for k, v in e.inputs.items()})
        for (cut, axis), h in zip(cuts, outputs, strict=True):
            others = tuple(a for a in range(h.ndim) if a != axis)
            share = np.abs(h).mean(axis=others, dtype=np.float64) * h.shape[0] / n
            sums[cut, axis] = sums.get((cut, axis), 0) + share
        e.progress("activation", min(start + 32, n), n)
    scores = {
        g.name: sum((onto_units(g, e.channels, c, a, sums[c, a]) for c, a in g.cuts), np.zeros(len(g)))
        for g in e.groups
    }
    return scores, {n: s == 0 for n, s in scores.items()}, {}, {}


def random(e: Evidence) -> Scored:
    """A seeded shuffle: what every other criterion has to beat."""
    generator = np.random.default_rng(e.seed)
    scores = {g.name: generator.permutation(len(g)).astype(np.float64) for g in e.groups}
    return scores, {n: np.zeros(len(s), bool) for n, s in scores.items()}, {"seed": e.seed}, {}


CRITERIA: dict[str, tuple[Callable[[Evidence], Scored], bool]] = {  # name -> (criterion, needs samples)
    "ig": (integrated_gradients, True),
    "ig-signed": (signed_integrated_gradients, True),
    "ig-abs": (absolute_integrated_gradients, True),
    "taylor": (taylor, True),
    "activation": (activation, True),
    "magnitude": (magnitude, False),
    "random": (random, False),
}
