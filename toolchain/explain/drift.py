"""How far a cut moved the explanations: a network may keep its accuracy and change its reasons.

Both networks explain the same samples for the same class, the original's answer, by integrated gradients of its log p
(Lundstrom et al. 2022, eq. 1, baseline 0); the two heatmaps of each sample are compared by the rank correlation of
their elements and by their weighted IoU, each as shares of its total. A network without classes explains its answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.inputs import ROWS, attribute_input
from toolchain.compress.objective import Classes, objective_of
from toolchain.data import Samples
from toolchain.errors import JettisonError, Unsupported
from toolchain.evaluate import classes
from toolchain.explain.quality import F64, rank_correlation, shares, weighted_iou
from toolchain.model import Model
from toolchain.profile import Profile, profile

STEPS = 4
LEAST_SAMPLES, MOST_SAMPLES = 8, 64
AFFORDABLE = 2e11  # multiply-accumulates, some seconds on one core; up to four times this for the least samples
PASSES = 6  # a gradient costs as much as three passes forward, and two networks are explained
WORKING_BYTES = 1 << 28  # of the activations of one run and their gradients


@dataclass(frozen=True)
class Drift:
    """Both networks' explanations of n samples, compared; nan where one of them is empty.

    classes      what is explained: the original's answers, [n]; all 0 where there are no classes
    correlation  Spearman's, of the elements of both heatmaps, [n] in −1..1
    iou          weighted IoU of both, [n] in 0..1
    same_answer  whether the answer stayed, [n], or None where there are no classes
    others       correlation with the heatmap of another sample, [n]: what two explanations share anyway
    """

    classes: NDArray[np.int64]
    correlation: F64
    iou: F64
    same_answer: NDArray[np.bool_] | None
    others: F64


def drift(dense: Model, cut: Model, samples: Samples, *, steps: int = STEPS, threads: int = 1) -> Drift:
    """How far the explanations of these samples moved.

    Raises Unsupported where an op has no gradient rule, or the batch is fixed.
    """
    has_classes = isinstance(objective_of(dense), Classes)
    before, after = (
        classes(m, samples, threads) if has_classes else np.zeros(len(samples), np.int64) for m in (dense, cut)
    )
    maps = [explanations(m, samples, before, steps, threads) for m in (dense, cut)]
    mine, theirs = (shares(m) for m in maps)
    return Drift(
        before,
        rank_correlation(mine, theirs),
        weighted_iou(mine, theirs),
        before == after if has_classes else None,
        rank_correlation(mine, np.roll(theirs, 1, axis=0)),
    )


def explanations(model: Model, samples: Samples, labels: NDArray[np.int64], steps: int, threads: int) -> F64:
    """What each element of the inputs adds, [n, elements]; the colours of a pixel are summed."""
    room = WORKING_BYTES // working_bytes(profile(model))
    size = min(ROWS, max(room, steps))
    found = []
    for name, shape in model.inputs.items():
        made = attribute_input(
            model, name, samples.inputs, labels, target=None, steps=steps, threads=threads, most_rows=size
        )
        values = made.values[0].sum(axis=1) if len(shape) == 3 and shape[0] in (1, 3) else made.values[0]
        found.append(values.reshape(len(labels), -1))
    return np.concatenate(found, axis=1).astype(np.float64)


def working_bytes(counted: Profile) -> int:
    """Of one sample: every activation, its gradient and one more for what is being computed."""
    return max(1, 12 * sum(math.prod(l.output_shape) for l in counted.layers))


def affordable(dense: Model, steps: int = STEPS) -> int:
    """How many samples are explained; raises Unsupported where even the least would take too long."""
    each = PASSES * steps * max(profile(dense).macs, 1)
    if LEAST_SAMPLES * each > 4 * AFFORDABLE:
        raise Unsupported(f"explaining {LEAST_SAMPLES} samples would take {LEAST_SAMPLES * each / 1e9:,.0f} GMAC")
    return int(np.clip(AFFORDABLE // each, LEAST_SAMPLES, MOST_SAMPLES))


# ---- the block of a report -----------------------------------------------------------------------------------------
def drift_facts(dense: Model, cut: Model, samples: Samples | None, seed: int = 0, threads: int = 1) -> dict[str, Any]:
    """The JSON of a run's explanation drift, over few samples, as many of each class; or why there is none.

    Classes that no sample was taken for are named and left blank.
    """
    blank: dict[str, Any] = {
        "data": None if samples is None else samples.name,
        "method": "integrated-gradients", "steps": STEPS, "n": 0, **NOTHING, "other_samples": None,
        "per_class": [], "why_not": None,
    }  # fmt: skip
    if samples is None:
        return blank | {"why_not": "no samples were given"}
    try:
        picked = samples.balanced(affordable(dense), seed)
        found = drift(dense, cut, picked, threads=threads)
    except JettisonError as error:  # onnxruntime's too: `session` turns them into ours
        return blank | {"why_not": error.what}
    except MemoryError:
        return blank | {"why_not": "out of memory"}
    every = np.ones(len(picked), bool)
    per_class = [] if found.same_answer is None else class_rows(found, dense, samples)
    return blank | summary(found, every) | {"other_samples": mean(found.others), "per_class": per_class}


NOTHING: Mapping[str, Any] = {"rank_correlation": None, "iou": None, "same_answer": None}


def class_rows(found: Drift, dense: Model, samples: Samples) -> list[dict[str, Any]]:
    """One row for each class of the network; where there are more than samples, for those that are some sample's."""
    count, names = objective_of(dense).classes, dict(enumerate(samples.classes))
    numbers = range(count) if count <= MOST_SAMPLES else np.unique(found.classes).tolist()
    return [{"class": names.get(k, str(k))} | summary(found, found.classes == k) for k in numbers]


def summary(found: Drift, where: NDArray[np.bool_]) -> dict[str, Any]:
    """Means over these samples; None where there are none, or none with an explanation."""
    same = None if found.same_answer is None or not where.any() else float(found.same_answer[where].mean())
    return {
        "n": int(where.sum()),
        "rank_correlation": mean(found.correlation[where]),
        "iou": mean(found.iou[where]),
        "same_answer": same,
    }


def mean(values: F64) -> float | None:
    """Of those that are numbers; None where there are none."""
    numbers = values[np.isfinite(values)]
    return float(f"{numbers.mean():.6g}") if len(numbers) else None
