"""How good the networks of a run are: accuracy where there are labels, else how far answers are from the original's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from toolchain.data import Samples
from toolchain.evaluate import Accuracy, answers, deviation, evaluate
from toolchain.model import Model
from toolchain.pipeline.job import Job

STAGES = ("after_prune", "after_recover", "after_retrain")


def accuracies(job: Job, dense: Model, stages: Mapping[str, Model]) -> list[dict[str, Any]]:
    """One row for each labelled set: before, and after each stage that there was."""
    rows = []
    for samples in job.sets:
        if samples.labels is not None:
            before = evaluate(dense, samples, job.threads)
            rows.append(
                accuracy_row(samples, before, {k: evaluate(m, samples, job.threads) for k, m in stages.items()})
            )
    return rows


def unlabelled(job: Job, dense: Model, stages: Mapping[str, Model]) -> list[dict[str, Any]]:
    """One row for each set without labels: how far the answers are from the original's."""
    return [
        {"data": samples.name, "n": len(samples)}
        | {k: deviation(dense, stages[k], samples, job.threads) if k in stages else None for k in STAGES}
        for samples in job.sets
        if samples.labels is None
    ]


def accuracy_row(samples: Samples, before: Accuracy, after: Mapping[str, Accuracy]) -> dict[str, Any]:
    """The JSON of one set."""

    def share(stage: str, k: int) -> float | None:
        return after[stage].per_class[k][1] / after[stage].per_class[k][0] if stage in after else None

    names = dict(enumerate(samples.classes))
    return {
        "data": samples.name,
        "n": before.n,
        "before": before.share,
        **{stage: after[stage].share if stage in after else None for stage in STAGES},
        "per_class": [
            {"class": names.get(k, str(k)), "n": n, "before": right / n} | {stage: share(stage, k) for stage in STAGES}
            for k, (n, right) in before.per_class.items()
        ],
    }


def own_or_given_labels(
    model: Model, samples: Samples | None, threads: int
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], str]:
    """Labels of the samples, or the model's own answers, and which of the two."""
    if samples is None:
        return np.zeros(0, np.int64), "none"
    if samples.labels is not None:
        return samples.labels, "given"
    chosen = [y.reshape(len(y), -1).argmax(axis=1) for y, *_ in answers(model, samples, threads)]
    return np.concatenate(chosen), "the model's own answers"
