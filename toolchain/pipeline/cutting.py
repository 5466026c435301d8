"""One cut of a network: ranked units, a plan within a budget, surgery, its proof, and what was won back.

`compress`, every round of a schedule, every step of a bisection and every point of a sweep are made of these.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from toolchain.compress.attribution import Progress
from toolchain.compress.criteria import Evidence, rank
from toolchain.compress.groups import Channels
from toolchain.compress.plan import Plan, make_plan
from toolchain.compress.ranks import Ranks
from toolchain.compress.recover import Refit, recover
from toolchain.compress.surgery import prune
from toolchain.errors import UsageError
from toolchain.model import Model
from toolchain.pipeline.job import Job
from toolchain.pipeline.scoring import own_or_given_labels
from toolchain.verify import Proof, approximation, probes, prove

PROOF_SAMPLES = 64


@dataclass(frozen=True)
class Cut:
    """A network without some of its units.

    pruned     what surgery left
    recovered  pruned, with the layers behind the cut refitted; None where that was not asked for or changed nothing
    """

    plan: Plan
    pruned: Model
    recovered: Model | None = None
    refits: tuple[Refit, ...] = ()

    @property
    def stages(self) -> dict[str, Model]:
        """The network after each stage that there was, in order."""
        found = {"after_prune": self.pruned, "after_recover": self.recovered}
        return {k: m for k, m in found.items() if m is not None}

    @property
    def final(self) -> Model:
        """The network after the last stage."""
        return list(self.stages.values())[-1]


def ranked(job: Job, model: Model, channels: Channels, progress: Progress) -> Ranks:
    """Rank on a class-balanced part of the calibration samples; without labels the model's own answers stand in."""
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
    found = rank(job.criterion, evidence)
    return dataclasses.replace(found, facts=found.facts | {"labels": told})


def planned(job: Job, model: Model, channels: Channels, ranks: Ranks, budget: str) -> Cut:
    """The network cut to a budget, kept weights untouched."""
    plan = make_plan(model, channels, ranks.scores, ranks.dead, budget, job.align, job.keep)
    return Cut(plan, prune(model, channels, plan.labels(channels)))


def proven(job: Job, model: Model, channels: Channels, cut: Cut) -> tuple[Proof, Proof | None]:
    """That the cut equals the masked network, and how far it is from one whose norms see all units."""
    real = None if job.calibration is None else job.calibration.balanced(PROOF_SAMPLES, job.seed).inputs
    of = (model, channels, cut.plan.labels(channels), cut.pruned, real or probes(model), job.threads)
    return prove(*of), approximation(*of)


def recovered(job: Job, model: Model, channels: Channels, cut: Cut, progress: Progress) -> Cut:
    """The cut with the layers behind it refitted to the model's own values, where that was asked for."""
    if not job.recover or job.calibration is None:
        return cut
    found, refits = recover(
        model, cut.pruned, channels, cut.plan.labels(channels), job.calibration.inputs,
        seed=job.seed, threads=job.threads, progress=progress,
    )  # fmt: skip
    return dataclasses.replace(cut, recovered=found if refits else None, refits=tuple(refits))
