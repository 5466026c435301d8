"""How good the networks of a run are: accuracy where there are labels, else how far answers are from the original's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from toolchain.data import Samples
from toolchain.evaluate import Accuracy, classes, deviation, evaluate
from toolchain.model import Model

WHEN = {
    "before": "before the cut", "after_prune": "after pruning", "after_recover": "after recovery",
    "after_retrain": "after retraining",
}  # fmt: skip
STAGES = ("after_prune", "after_recover", "after_retrain")


@dataclass(frozen=True)
class Scorer:
    """Looks at every network once on every set, against the original."""

    dense: Model
    sets: tuple[Samples, ...]
    threads: int = 1
    known: WeakKeyDictionary[Model, dict[int, Any]] = field(default_factory=WeakKeyDictionary)

    def accuracy(self, model: Model, samples: Samples) -> Accuracy:
        """Of a network on labelled samples."""
        return self.once(model, samples, lambda: evaluate(model, samples, self.threads))

    def accuracies(self, stages: Mapping[str, Model]) -> list[dict[str, Any]]:
        """One row for each labelled set: before, and after each stage that there was."""
        return [
            accuracy_row(s, self.accuracy(self.dense, s), {k: self.accuracy(m, s) for k, m in stages.items()})
            for s in self.sets
            if s.labels is not None
        ]

    def deviations(self, stages: Mapping[str, Model]) -> list[dict[str, Any]]:
        """One row for each set without labels: how far the answers are from the original's."""
        return [
            {"data": s.name, "n": len(s)} | {k: self.deviation(stages[k], s) if k in stages else None for k in STAGES}
            for s in self.sets
            if s.labels is None
        ]

    def deviation(self, model: Model, samples: Samples) -> float:
        """Of a network's answers from the original's."""
        return self.once(model, samples, lambda: deviation(self.dense, model, samples, self.threads))

    def once(self, model: Model, samples: Samples, look: Callable[[], Any]) -> Any:
        """What was found when a network was first looked at on a set."""
        seen = self.known.setdefault(model, {})
        if id(samples) not in seen:
            seen[id(samples)] = look()
        return seen[id(samples)]


def accuracy_row(samples: Samples, before: Accuracy, after: Mapping[str, Accuracy]) -> dict[str, Any]:
    """The JSON of one set."""

    def share(stage: str, k: int) -> float | None:
        return after[stage].per_class[k][1] / after[stage].per_class[k][0] if stage in after else None

    names = dict(enumerate(samples.classes))
    constant = [
        f"{WHEN[stage]} the network answers '{names.get(a.always, a.always)}' to all {a.n} samples: an accuracy of "
        f"{a.share:.2%} where the largest class is {a.majority:.2%}"
        for stage, a in ({"before": before} | dict(after)).items()
        if a.always is not None
    ]
    return {
        "data": samples.name,
        "n": before.n,
        "before": before.share,
        **{stage: after[stage].share if stage in after else None for stage in STAGES},
        "per_class": [
            {"class": names.get(k, str(k)), "n": n, "before": right / n} | {stage: share(stage, k) for stage in STAGES}
            for k, (n, right) in before.per_class.items()
        ],
        "skipped": len(samples.skipped),
        "warnings": constant,
    }


def own_or_given_labels(
    model: Model, samples: Samples | None, threads: int
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], str]:
    """Labels of the samples, or the model's own answers, and which of the two."""
    if samples is None:
        return np.zeros(0, np.int64), "none"
    if samples.labels is not None:
        return samples.labels, "given"
    return classes(model, samples, threads), "the model's own answers"
