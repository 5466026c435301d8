"""One cut of a network: ranked units, a plan within a budget, surgery, its proof, and what was won back.

`compress`, every round of a schedule, every step of a bisection and every point of a sweep are made of these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolchain.auto import CANDIDATES, choose
from toolchain.compress.attribution import Progress
from toolchain.compress.budget import COUNTED, Term, parse_budget
from toolchain.compress.criteria import Evidence, rank
from toolchain.compress.groups import Channels, Group, analyse
from toolchain.compress.plan import Plan, Removable, plan_within, removable
from toolchain.compress.ranks import Ranks
from toolchain.compress.recover import Refit, recover
from toolchain.compress.surgery import prune, restored
from toolchain.data import check_several_classes, sha256_of
from toolchain.errors import Unsupported, UsageError
from toolchain.model import Model
from toolchain.pipeline.job import Job
from toolchain.pipeline.scoring import own_or_given_labels
from toolchain.verify import Proof, approximation, probes, prove

if TYPE_CHECKING:
    from toolchain.retrain import History

PROOF_SAMPLES = 64
HALF = parse_budget("units<=50%")  # where a trial has no budget that can be counted


@dataclass(frozen=True)
class Start:
    """A network about to be cut: always in the original's graph, so that every plan speaks of the original's units.

    ranks    scores of the units that are still there, in places of the original's groups
    of       what may go, in which order, at which cost
    carried  groups that the last ranking did not find again: they keep the scores of the ranking before
    """

    model: Model
    channels: Channels
    ranks: Ranks
    of: Removable
    carried: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cut:
    """A network without some of its units.

    start      what was cut
    pruned     what surgery left
    proof      that this equals the masked network
    approximate  how far it is from one whose norms see all units; None where it is exact
    recovered  pruned, with the layers behind the cut refitted; None where that was not asked for or changed nothing
    retrained  that, trained
    """

    start: Start
    plan: Plan
    pruned: Model
    proof: Proof | None = None
    approximate: Proof | None = None
    recovered: Model | None = None
    refits: tuple[Refit, ...] = ()
    retrained: Model | None = None
    history: History | None = None

    @property
    def stages(self) -> dict[str, Model]:
        """The network after each stage that there was, in order."""
        found = {"after_prune": self.pruned, "after_recover": self.recovered, "after_retrain": self.retrained}
        return {k: m for k, m in found.items() if m is not None}

    @property
    def final(self) -> Model:
        """The network after the last stage."""
        return list(self.stages.values())[-1]


# ---- where a cut starts --------------------------------------------------------------------------------------------
def evidence_of(job: Job, model: Model, channels: Channels, progress: Progress) -> tuple[Evidence, str]:
    """A class-balanced part of the calibration samples, and whose labels: without any the model's answers stand in."""
    if job.calibration is not None and job.needs_samples:
        check_several_classes(job.calibration, model)
    picked = None if job.calibration is None else job.calibration.balanced(job.samples, job.seed)
    if job.target in ("loss", "classes") and picked is not None and picked.labels is None:
        raise UsageError(
            f"'{picked.name}' has no labels, and --target {job.target} is about them",
            way_out="Leave --target out to rank by the model's own answers, or use --target answer",
        )
    labels, told = own_or_given_labels(model, picked, job.threads)
    evidence = Evidence(
        model, channels, {} if picked is None else picked.inputs, labels, job.steps, job.target, job.layers,
        job.seed, job.threads, job.max_memory, job.workers, job.sampled, progress,
    )  # fmt: skip
    return evidence, told


def ranked(job: Job, model: Model, channels: Channels, progress: Progress, terms: Sequence[Term] = HALF) -> Ranks:
    """Scores by the job's criterion, or by the one that a trial at the budget takes; raises UsageError."""
    evidence, told = evidence_of(job, model, channels, progress)
    data = job.calibration
    origin = {"seed": job.seed, "layers": job.layers, "data_sha256": None if data is None else sha256_of(data)}
    if job.criterion != "auto":
        found = rank(job.criterion, evidence)
        return dataclasses.replace(found, facts=found.facts | origin | {"labels": told})
    if job.calibration is None:
        raise UsageError("criterion 'auto' needs samples", way_out="Give --data, or use --criterion magnitude")
    candidates, left_out = {}, {}
    for name in CANDIDATES:
        try:
            candidates[name] = rank(name, evidence)
        except Unsupported as error:  # the others can still be tried; the report says which was not
            left_out[name] = error.what
    counted = [t for t in terms if t.quantity in COUNTED] or HALF
    plan = lambda ranks: plan_within(started(job, model, channels, ranks).of, counted)
    choice = choose(
        model, channels, candidates, plan, job.calibration,
        is_recovered=job.recover, seed=job.seed, threads=job.threads,
    )  # fmt: skip
    trials = {name: dataclasses.asdict(d) for name, d in choice.trials.items()}
    about = origin | {"labels": told, "chosen_by": "auto", "trials": trials, "left_out": left_out}
    return dataclasses.replace(choice.ranks, facts=choice.ranks.facts | about)


def started(
    job: Job,
    model: Model,
    channels: Channels,
    ranks: Ranks,
    gone: Mapping[str, Sequence[int]] | None = None,
    carried: tuple[str, ...] = (),
) -> Start:
    """A ranked network, ready to be cut to any number of budgets."""
    of = removable(model, channels, ranks.scores, ranks.dead, job.align, job.keep, job.floors, gone)
    return Start(model, channels, ranks, of, carried)


def restarted(job: Job, cut: Cut, progress: Progress) -> Start:
    """What a cut left, ranked anew: where the next round starts."""
    start, small = cut.start, analyse(cut.final, job.approximate)
    model = restored(start.model, start.channels, cut.plan.labels(start.channels), cut.final)
    if job.criterion == "auto":  # what the first trial took is kept to: the others have not seen this network's budget
        job = dataclasses.replace(job, criterion=str(start.ranks.facts["criterion"]))
    channels = analyse(model, job.approximate)
    ranks, carried = in_places(channels, start.ranks, small, ranked(job, cut.final, small, progress), cut.plan.removed)
    return started(job, model, channels, ranks, cut.plan.removed, carried)


def in_places(
    channels: Channels, before: Ranks, small: Channels, found: Ranks, removed: Mapping[str, Sequence[int]]
) -> tuple[Ranks, tuple[str, ...]]:
    """Scores of a cut network in the places of the original's units, 0 for those that are gone; and what was not found.

    A group is the same one if it has its name, owns slots of the same parameters and has as many units as are left;
    surgery keeps their order. A group that is not found (it was split, or merged) keeps the scores it had.
    """
    left = {g.name: g for g in small.groups}
    scores, dead, carried = {}, {}, []
    for g in channels.groups:
        if g.name not in before.scores:
            continue
        stays = np.setdiff1d(np.arange(len(g)), removed[g.name])
        twin = left.get(g.name)
        same = twin is not None and len(twin) == len(stays) and owned(twin, channels) == owned(g, channels)
        if same and g.name in found.scores:
            scores[g.name], dead[g.name] = np.zeros(len(g)), np.zeros(len(g), bool)
            scores[g.name][stays], dead[g.name][stays] = found.scores[g.name], found.dead[g.name]
        else:
            scores[g.name], dead[g.name] = before.scores[g.name], before.dead[g.name]
            carried.append(g.name)
    return Ranks(found.sha256, scores, dead, found.facts), tuple(carried)


def owned(group: Group, channels: Channels) -> set[tuple[str, int]]:
    """Parameters of the original network that a group has rows of, each with its axis."""
    return {(s.parameter, s.axis) for s in group.slots if s.parameter in channels.values}


# ---- a cut ---------------------------------------------------------------------------------------------------------
def planned(start: Start, terms: Sequence[Term]) -> Cut:
    """The network cut to a budget, kept weights untouched; raises OutOfReach."""
    plan = plan_within(start.of, terms)
    return Cut(start, plan, prune(start.model, start.channels, plan.labels(start.channels)))


def proven(job: Job, cut: Cut) -> Cut:
    """The cut with its proof, on real inputs where there are some."""
    real = None if job.calibration is None else job.calibration.balanced(PROOF_SAMPLES, job.seed).inputs
    start = cut.start
    removed = cut.plan.labels(start.channels)
    of = (start.model, start.channels, removed, cut.pruned, real or probes(start.model), job.threads)
    return dataclasses.replace(cut, proof=prove(*of), approximate=approximation(*of))


def recovered(job: Job, first: Start, cut: Cut, progress: Progress) -> Cut:
    """The cut with the layers behind it refitted, where that was asked for.

    They are refitted to the original's own values, so that errors of several rounds do not add up; to those of the last
    round where it was retrained, since training leaves the original's.
    """
    if not job.recover or job.calibration is None:
        return cut
    dense = cut.start if job.retrain else first
    found, refits = recover(
        dense.model, cut.pruned, dense.channels, cut.plan.labels(dense.channels), job.calibration.inputs,
        seed=job.seed, threads=job.threads, progress=progress,
    )  # fmt: skip
    return dataclasses.replace(cut, recovered=found if refits else None, refits=tuple(refits))


def retrained(job: Job, first: Start, cut: Cut, progress: Progress) -> Cut:
    """The cut trained for so many epochs, by labels or by the original as its teacher."""
    from toolchain.retrain import Recipe, retrain  # torch

    assert job.calibration is not None
    recipe = Recipe(epochs=job.retrain, seed=job.seed, threads=job.threads)
    teacher = first.model if job.teacher else None
    found, history = retrain(cut.final, job.calibration, None, recipe, teacher=teacher, progress=progress)
    return dataclasses.replace(cut, retrained=found, history=history)


def attempted(
    job: Job,
    first: Start,
    start: Start,
    terms: Sequence[Term],
    progress: Progress,
    told: Callable[..., None] = lambda stage, cut: None,
) -> Cut:
    """Cut to a budget, proven, with all that is to be won back.

    told  hears of every stage when it is done
    """
    cut = planned(start, terms)
    told("prune", cut)
    cut = proven(job, cut)
    told("verify", cut)
    cut = recovered(job, first, cut, progress)
    told("recover", cut)
    if job.retrain:
        cut = retrained(job, first, cut, progress)
        told("retrain", cut)
    return cut
