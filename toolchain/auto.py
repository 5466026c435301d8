"""The criterion that serves one network best at one budget, found by trial and without labels.

No criterion is best everywhere, nor for one kind of layer (benchmarks/RESULTS.md, the table of criteria). So the plan
of every candidate is cut, and recovered where the job will recover, and the one that changes the fewest of the dense
network's answers is taken: on calibration samples that recovery did not see. Among equals it is the one whose answers
stay nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.groups import Channels
from toolchain.compress.objective import Classes, objective_of
from toolchain.compress.plan import Plan
from toolchain.compress.ranks import Ranks
from toolchain.compress.recover import recover
from toolchain.compress.surgery import prune
from toolchain.data import Samples
from toolchain.evaluate import answers
from toolchain.model import Model

F64 = NDArray[np.float64]
CANDIDATES = ("ig-abs", "ig-signed", "taylor", "l2", "reconstruction")
TRIED, FITTED = 256, 512  # samples that a trial is judged on and recovered on, at most


@dataclass(frozen=True, order=True)
class Distance:
    """How far answers are from the dense network's.

    changed     share of samples that another class wins; 0 where there are no classes
    divergence  mean Σ p log(p / q) of class probabilities, else ‖y − y'‖² / ‖y‖² over all outputs
    """

    changed: float
    divergence: float


@dataclass(frozen=True)
class Choice:
    """The candidate that was taken, and what every one came to."""

    criterion: str
    ranks: Ranks
    trials: dict[str, Distance]


def choose(
    model: Model,
    channels: Channels,
    ranked: Mapping[str, Ranks],
    plan: Callable[[Ranks], Plan],
    samples: Samples,
    *,
    is_recovered: bool = True,
    seed: int = 0,
    threads: int = 1,
) -> Choice:
    """Try candidates on calibration samples; of equals the first is taken.

    ranked        scores by each candidate; a group that one of them leaves unscored has its scores by the first
    plan          the units that go by some scores, within the budget that the network is to be cut to
    is_recovered  whether trials are recovered before they are judged
    """
    tried, fitted = parted(samples, seed)
    wanted = outputs(model, tried, threads)
    is_classifier = isinstance(objective_of(model), Classes)
    first = next(iter(ranked.values()))
    known: dict[tuple[tuple[str, tuple[int, ...]], ...], Distance] = {}
    found: dict[str, tuple[Distance, Ranks]] = {}
    for name, mine in ranked.items():
        ranks = replace(mine, scores=first.scores | mine.scores, dead=first.dead | mine.dead)
        planned = plan(ranks)
        key = tuple(planned.removed.items())
        if key not in known:
            removed = planned.labels(channels)
            cut = prune(model, channels, removed)
            if is_recovered:
                cut, _ = recover(model, cut, channels, removed, fitted.inputs, seed=seed, threads=threads)
            known[key] = distance(wanted, outputs(cut, tried, threads), is_classifier)
        found[name] = known[key], ranks
    best = min(found, key=lambda name: found[name][0])
    return Choice(best, found[best][1], {name: d for name, (d, _) in found.items()})


def parted(samples: Samples, seed: int) -> tuple[Samples, Samples]:
    """(A quarter of the samples, others), in a seeded order; of a single sample both are that one."""
    order = np.random.default_rng(seed).permutation(len(samples))
    count = min(max(len(samples) // 4, 1), TRIED)
    rest = order[count : count + FITTED] if len(samples) > 1 else order
    unlabelled = replace(samples, labels=None)  # nobody is to look at them
    return unlabelled.at(np.sort(order[:count])), unlabelled.at(np.sort(rest))


def outputs(model: Model, samples: Samples, threads: int = 1) -> list[F64]:
    """Every output on all samples, float64."""
    return [np.concatenate(p).astype(np.float64) for p in zip(*answers(model, samples, threads), strict=True)]


def distance(wanted: list[F64], found: list[F64], is_classifier: bool) -> Distance:
    """How far answers are from those wanted."""
    if not is_classifier:
        away = sum(float(np.square(y - z).sum()) for y, z in zip(wanted, found, strict=True))
        return Distance(0.0, away / max(sum(float(np.square(y).sum()) for y in wanted), 1e-30))
    (y,), (z,) = wanted, found
    p, q = log_softmax(y), log_softmax(z)
    changed = float((y.argmax(axis=1) != z.argmax(axis=1)).mean())
    return Distance(changed, float((np.exp(p) * (p - q)).sum(axis=1).mean()))


def log_softmax(z: F64) -> F64:
    """log p of scores, [n, classes]; of probabilities, those of a flatter softmax, which order alike."""
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))
