"""How useful each unit is, by several measures: one table, higher = keep.

Here are those that follow gradients; `measures` has those of weights and activations, `reconstruction` that of what
the next layer could rebuild. A unit that several layers own slices of, or read, gets the sum over them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from toolchain.compress.attribution import Attribution, attribute
from toolchain.compress.evidence import F64, Scored, onto_units
from toolchain.compress.evidence import Evidence as Evidence
from toolchain.compress.groups import Channels, Group
from toolchain.compress.measures import activation, apoz, magnitude, magnitude_l2, random, selectivity
from toolchain.compress.objective import objective_of
from toolchain.compress.ranks import Ranks
from toolchain.compress.reconstruction import reconstruction
from toolchain.errors import UsageError


def rank(criterion: str, evidence: Evidence) -> Ranks:
    """Score every group by a criterion; raises UsageError for an unknown one or where it needs samples."""
    if criterion not in CRITERIA:
        raise UsageError(f"unknown criterion '{criterion}'", way_out=f"Use one of {', '.join(CRITERIA)}")
    function, needs_samples = CRITERIA[criterion]
    if needs_samples and not evidence.inputs:
        raise UsageError(f"criterion '{criterion}' needs samples", way_out="Give --data, or use --criterion magnitude")
    scores, dead, facts, expected = function(evidence)
    facts = {"criterion": criterion, "samples": len(evidence.labels) if needs_samples else 0} | facts
    return Ranks(evidence.model.sha256, scores, dead, facts, expected)


# ---- attributions --------------------------------------------------------------------------------------------------
def over_cuts(
    group: Group, channels: Channels, at: Mapping[tuple[str, int], Attribution], read: Callable[[Attribution], Any]
) -> F64:
    """What is read off the attribution at every cut of a group, summed for its units: [..., units]."""
    found = (onto_units(group, channels, c, a, read(at[c, a])) for c, a in group.cuts)
    return sum(found, np.zeros(len(group)))


def attributed(e: Evidence, choose: Callable[[Group, Attribution], F64], at_h_only: bool = False) -> Scored:
    """Sum what `choose` reads off the attribution at every cut of a group."""
    cuts = list(dict.fromkeys(c for g in e.groups for c in g.cuts))
    if at_h_only not in e.attributions:
        e.attributions[at_h_only] = attribute(
            e.model, cuts, e.inputs, e.labels, target=e.target, steps=e.steps, at_h_only=at_h_only,
            threads=e.threads, max_memory=e.max_memory, workers=e.workers, progress=e.progress,
        )  # fmt: skip
    found = e.attributions[at_h_only]
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
    """E[(Σ h·∂loss/∂h)²] over the positions of a unit: a gate z = 1 on it, (∂loss/∂z)² (Molchanov et al. 2019, gates).

    The expectation is over single samples, where the paper's own is over gradients of minibatches.
    """
    return attributed(e, lambda g, a: a.expected_square[-1], at_h_only=True)


def taylor_absolute(e: Evidence) -> Scored:
    """E|Σ h·∂loss/∂h| (Molchanov et al. 2017): the same gate with its size for its square."""
    return attributed(e, lambda g, a: a.expected_absolute[-1], at_h_only=True)


CRITERIA: dict[str, tuple[Callable[[Evidence], Scored], bool]] = {  # name -> (criterion, needs samples)
    "ig": (integrated_gradients, True),
    "ig-signed": (signed_integrated_gradients, True),
    "ig-abs": (absolute_integrated_gradients, True),
    "taylor": (taylor, True),
    "taylor-abs": (taylor_absolute, True),
    "activation": (activation, True),
    "apoz": (apoz, True),
    "selectivity": (selectivity, True),
    "reconstruction": (reconstruction, True),
    "magnitude": (magnitude, False),
    "l1": (magnitude, False),
    "l2": (magnitude_l2, False),
    "random": (random, False),
}
