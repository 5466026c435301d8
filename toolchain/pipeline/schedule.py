"""How a network gets to its budget: at once or round by round, and no further than its accuracy allows.

A round eases every limit in equal ratios: of n rounds to params<=30%, round r ends at 0.3^(r/n) of the parameters.
Where the accuracy falls below its floor the last step is undone, and bisection finds how far it may go instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from toolchain.compress.attribution import Progress
from toolchain.compress.budget import COUNTED, Term
from toolchain.compress.objective import no_scores
from toolchain.compress.plan import plan_within
from toolchain.data import Samples
from toolchain.errors import OutOfReach, UsageError
from toolchain.model import Model
from toolchain.pipeline.cutting import Cut, Start, attempted, restarted
from toolchain.pipeline.job import Job
from toolchain.pipeline.scoring import Scorer, own_or_given_labels

HALVINGS = 6  # of the way of a round: 1/64 of its ratio
HELD_OUT = 4  # one of so many calibration samples judges where no others can


@dataclass(frozen=True)
class Judge:
    """Who says whether a network is still good enough.

    samples  with labels: the true ones, or the original's own answers
    about    what accuracy means here, for the report
    before   of the original, in 0..1
    floor    accuracy that no result falls below
    """

    samples: Samples
    about: str
    before: float
    floor: float

    def accepts(self, accuracy: float) -> bool:
        """Whether it is at the floor or above, to rounding."""
        return accuracy >= self.floor - 1e-9


@dataclass(frozen=True)
class Round:
    """One step of a schedule; what is `undone` fell below the floor and went into no later one.

    progress  how much of the way to the budget it went, 0..1 in equal ratios
    accuracy  as the judge sees it; None without one
    """

    number: int
    progress: float
    cut: Cut
    accuracy: float | None
    is_undone: bool = False


@dataclass(frozen=True)
class Walk:
    """All rounds, the result, and why it ended before the budget, or ""."""

    rounds: tuple[Round, ...]
    result: Cut
    stopped: str = ""


# ---- who judges ----------------------------------------------------------------------------------------------------
def judged(job: Job, model: Model, terms: Sequence[Term]) -> tuple[Job, Judge | None]:
    """The judge of accuracy where that is limited, on the first --validation, else on calibration samples taken aside.

    Those taken aside are no longer the job's calibration. Raises UsageError where nobody can judge, or where the
    original itself is below the floor.
    """
    drops = [t.limit for t in terms if t.quantity == "drop"]
    if not drops and job.min_accuracy is None:
        return job, None
    because = no_scores(model.graph.outputs)
    if because:
        raise UsageError(f"accuracy cannot be limited: {because}", way_out="Leave out drop and --min-accuracy")
    if not job.held_out:
        job = with_aside(job)
    samples = job.held_out[0]
    labels, told = own_or_given_labels(model, samples, job.threads)
    is_given = samples.labels is not None
    about = f"accuracy on {samples.name}" if is_given else f"agreement with {told} on {samples.name}"
    seen = dataclasses.replace(samples, labels=labels)
    before = Scorer(model, (), job.threads).accuracy(model, seen).share
    floor = max(job.min_accuracy or 0.0, *(before - d / 100 for d in drops), 0.0)
    if before < floor:
        raise UsageError(
            f"the original's {about} is {100 * before:.4g} %, below --min-accuracy {100 * floor:.4g}%",
            way_out="Give a lower one",
        )
    return job, Judge(seen, about, before, floor)


def with_aside(job: Job) -> Job:
    """A seeded quarter of the calibration samples taken aside, to be looked at as held-out ones."""
    assert job.calibration is not None
    n = len(job.calibration)
    if n < 2 * HELD_OUT:
        raise UsageError(
            f"{n} samples are too few to take some aside and judge by them", way_out="Give --validation, or more --data"
        )
    is_aside = np.random.default_rng(job.seed).permutation(n) % HELD_OUT == 0
    aside = dataclasses.replace(job.calibration.at(is_aside), name=f"held-out part of {job.calibration.name}")
    return dataclasses.replace(job, calibration=job.calibration.at(~is_aside), held_out=(aside,))


# ---- the way -------------------------------------------------------------------------------------------------------
def walked(
    job: Job,
    first: Start,
    terms: Sequence[Term],
    judge: Judge | None,
    scorer: Scorer,
    progress: Progress,
    told: Callable[..., None],
) -> Walk:
    """Cut in the rounds of the job's schedule, as far as the judge allows.

    terms  counted limits; where there are none, as few parameters as the judge allows

    Raises OutOfReach where the terms cannot be met, or not within the floor that a drop sets.
    """
    original = first.of.costs(first.of.size)
    is_open = not terms
    goal = list(terms) or [fewest(first)]
    eased = lambda way: [t.eased(original.get(t.quantity, 1.0), way) for t in goal]
    at_once = job.schedule == "one-shot"
    rounds: list[Round] = []
    kept, reached, stopped = None, 0.0, ""
    for number in range(1, (1 if at_once else job.rounds) + 1):
        start = first if kept is None else restarted(job, kept, progress)
        if kept is not None:
            told("rank", dataclasses.replace(kept, start=start))
        to = 1.0 if at_once or is_open else number / job.rounds
        step = Step(job, first, start, eased, judge, scorer, progress)
        cut = attempted(job, first, start, eased(to), progress, told)
        accuracy = step.accuracy(cut)
        fits = judge is None or accuracy is None or judge.accepts(accuracy)
        rounds.append(Round(number, to, cut, accuracy, is_undone=not fits))
        if fits:
            kept, reached = cut, to
            continue
        assert judge is not None and accuracy is not None
        stopped = f"{judge.about} fell to {100 * accuracy:.4g} %, below {100 * judge.floor:.4g} %"
        found = step.furthest(number, reached, to)
        if found is None:
            break
        rounds.append(found)
        kept, reached = found.cut, found.progress
        told("undo", kept, stopped)
        if not is_open:
            break
    if kept is None:
        kept = attempted(job, first, first, [Term("params", 1.0, True, "params<=100%")], progress)
        told("undo", kept, stopped)
    return Walk(tuple(rounds), kept, stopped)


def fewest(first: Start) -> Term:
    """The fewest parameters that can be reached."""
    least = first.of.costs(first.of.least)["params"]
    return Term("params", least, False, f"params<={least:,.0f}".replace(",", "_"))


@dataclass(frozen=True)
class Step:
    """What one round may do: cut from its start to anywhere on the way, and look."""

    job: Job
    first: Start
    start: Start
    eased: Callable[[float], list[Term]]
    judge: Judge | None
    scorer: Scorer
    progress: Progress

    def accuracy(self, cut: Cut) -> float | None:
        """As the judge sees it."""
        return None if self.judge is None else self.scorer.accuracy(cut.final, self.judge.samples).share

    def furthest(self, number: int, low: float, high: float) -> Round | None:
        """The furthest that the judge accepts, by bisection between a way that is good and one that is not."""
        assert self.judge is not None
        best: Round | None = None
        known: dict[object, float] = {}  # steps of widths are coarse: a plan may come again
        for halving in range(HALVINGS):
            middle = (low + high) / 2
            self.progress("bisect", halving, HALVINGS)
            plan = plan_within(self.start.of, self.eased(middle))
            key = tuple(plan.removed.items())
            if key not in known:
                cut = attempted(self.job, self.first, self.start, self.eased(middle), self.progress)
                known[key] = self.accuracy(cut) or 0.0
                if self.judge.accepts(known[key]) and any(map(len, plan.removed.values())):
                    best = Round(number, middle, cut, known[key])
            low, high = (middle, high) if self.judge.accepts(known[key]) else (low, middle)
        return best


def check_reached(walk: Walk, judge: Judge | None, terms: Sequence[Term]) -> None:
    """Limits of cost and a drop hold together; raises OutOfReach with what the drop allows."""
    drops = [t for t in terms if t.quantity == "drop"]
    others = [t for t in terms if t.quantity in COUNTED]
    if not walk.stopped or not drops or not others or judge is None:
        return
    failed = next(r for r in reversed(walk.rounds) if r.is_undone)
    fallen = 100 * (judge.before - (failed.accuracy or 0.0))
    before, after = walk.result.plan.costs["params"]
    binding = ", ".join(t.text for t in others)
    raise OutOfReach(
        f"budget {binding} with {drops[0].text} is out of reach: {judge.about} drops by {fallen:.3g} points there; "
        f"within {drops[0].text} the best is params<={100 * after / before:.1f}%, macs<="
        f"{100 * walk.result.plan.costs['macs'][1] / max(walk.result.plan.costs['macs'][0], 1):.1f}%",
        way_out="Give --retrain, --schedule iterative, or a larger budget",
    )
