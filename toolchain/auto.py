"""The criterion of each kind of layer that serves one network best at one budget, found by trial and without labels.

No criterion is best everywhere (benchmarks/RESULTS.md, the table of criteria), so every candidate's plan is cut, and
recovered where the job will recover, and the one whose answers stay nearest to the dense network's on images that
recovery did not see is taken. Then each kind of layer (dense, channels, places behind a flatten) may change its
candidate, one after another, where that brings the answers nearer still.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.groups import Channels
from toolchain.compress.objective import Classes, objective_of
from toolchain.compress.plan import Plan, make_plan
from toolchain.compress.ranks import Ranks
from toolchain.compress.recover import recover
from toolchain.compress.surgery import prune
from toolchain.data import Samples
from toolchain.evaluate import answers
from toolchain.model import Model

CANDIDATES = ("ig-abs", "taylor", "l2", "activation", "reconstruction")
TRIED = 256  # images that trials are judged on, at most


@dataclass(frozen=True)
class Choice:
    """What was taken, and what it was taken from.

    criteria  {kind of group: criterion}
    trials    criteria of each kind, in the order of `kinds`, and how far the answers were from the dense network's
    """

    ranks: Ranks
    plan: Plan
    criteria: dict[str, str]
    trials: tuple[tuple[tuple[str, ...], float], ...]


def choose(
    model: Model,
    channels: Channels,
    ranked: Mapping[str, Ranks],
    budget: str,
    samples: Samples,
    *,
    align: str = "auto",
    keep: Sequence[str] = (),
    is_recovered: bool = True,
    seed: int = 0,
    threads: int = 1,
) -> Choice:
    """Try the candidates at the budget on calibration samples, and keep the best of each kind of layer.

    ranked        scores of every group by each candidate
    is_recovered  whether trials are recovered, on three quarters of the samples, before they are judged on the others

    Raises OutOfReach where the budget cannot be met.
    """
    tried, fitted = parted(samples, seed)
    wanted = dense_answers(model, tried, threads)
    kinds = tuple(dict.fromkeys(g.kind for g in channels.groups))
    trials: dict[tuple[str, ...], tuple[float, Ranks, Plan]] = {}

    def trial(criteria: tuple[str, ...]) -> float:
        if criteria not in trials:
            ranks = mixed(channels, ranked, dict(zip(kinds, criteria, strict=True)))
            plan = make_plan(model, channels, ranks.scores, ranks.dead, budget, align, keep)
            same = next((d for d, _, p in trials.values() if p.removed == plan.removed), None)
            trials[criteria] = (far(plan) if same is None else same, ranks, plan)
        return trials[criteria][0]

    def far(plan: Plan) -> float:
        removed = plan.labels(channels)
        cut = prune(model, channels, removed)
        if is_recovered:
            cut, _ = recover(model, cut, channels, removed, fitted.inputs, seed=seed, threads=threads)
        return distance(wanted, dense_answers(cut, tried, threads), is_classifier(model))

    best = min(((name,) * len(kinds) for name in ranked), key=trial)
    for k in range(len(kinds)) if len(kinds) > 1 else ():
        best = min((*((*best[:k], name, *best[k + 1 :]) for name in ranked), best), key=trial)
    _, ranks, plan = trials[best]
    told = tuple((criteria, found) for criteria, (found, _, _) in trials.items())
    return Choice(ranks, plan, dict(zip(kinds, best, strict=True)), told)


def parted(samples: Samples, seed: int) -> tuple[Samples, Samples]:
    """A quarter of the samples, TRIED at most, and the others."""
    order = np.random.default_rng(seed).permutation(len(samples))
    count = min(max(len(samples) // 4, 1), TRIED)
    rest = order[count:] if count < len(order) else order
    return taken(samples, np.sort(order[:count])), taken(samples, np.sort(rest))


def taken(samples: Samples, pick: NDArray[np.int64]) -> Samples:
    """Some of the samples."""
    labels = None if samples.labels is None else samples.labels[pick]
    return Samples(samples.name, {k: v[pick] for k, v in samples.inputs.items()}, labels, samples.classes)


def mixed(channels: Channels, ranked: Mapping[str, Ranks], criteria: Mapping[str, str]) -> Ranks:
    """Scores of each group by the criterion of its kind, or by the first candidate that scores it."""
    scores, dead = {}, {}
    for g in channels.groups:
        sources = [ranked[criteria[g.kind]], *ranked.values()]
        found = next((r for r in sources if g.name in r.scores), None)
        if found is not None:
            scores[g.name], dead[g.name] = found.scores[g.name], found.dead[g.name]
    first = next(iter(ranked.values()))
    return Ranks(first.sha256, scores, dead, {"criterion": "auto", "criteria": dict(criteria)})


def is_classifier(model: Model) -> bool:
    """Whether the answers are class scores."""
    return isinstance(objective_of(model), Classes)


def dense_answers(model: Model, samples: Samples, threads: int) -> list[NDArray[np.float64]]:
    """Every output on all samples, float64."""
    parts = list(zip(*answers(model, samples, threads), strict=True))
    return [np.concatenate(p).astype(np.float64) for p in parts]


def distance(wanted: list[NDArray[np.float64]], found: list[NDArray[np.float64]], is_classifier: bool) -> float:
    """Mean divergence Σ p log(p / q) of class scores as probabilities, else ‖y − y'‖² / ‖y‖² over all outputs."""
    if is_classifier:
        p, q = (log_softmax(a[0].reshape(len(a[0]), -1)) for a in (wanted, found))
        return float((np.exp(p) * (p - q)).sum(axis=1).mean())
    away = sum(float(np.square(y - z).sum()) for y, z in zip(wanted, found, strict=True))
    return away / max(sum(float(np.square(y).sum()) for y in wanted), 1e-30)


def log_softmax(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """log p of scores, [n, classes]."""
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))
