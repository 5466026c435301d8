"""How good a model's answers are: accuracy on labelled samples, and fidelity to another model's answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.data import Samples
from toolchain.model import Model
from toolchain.session import run, session

BATCH = 64


@dataclass(frozen=True)
class Accuracy:
    """Share of samples whose largest output is their class, overall and for each class that occurs.

    per_class  class -> (samples, correct)
    always     the answer to every sample, if it is one and the samples are of several classes
    """

    n: int
    correct: int
    per_class: dict[int, tuple[int, int]]
    always: int | None = None

    @property
    def share(self) -> float:
        """In 0..1."""
        return self.correct / self.n

    @property
    def majority(self) -> float:
        """The share that always answering the most frequent class would have."""
        return max(samples for samples, _ in self.per_class.values()) / self.n


def answers(model: Model, samples: Samples, threads: int = 1) -> Iterator[list[NDArray[Any]]]:
    """Every output, [n, …] each, part by part."""
    runner = session(model.ir, threads)
    size = BATCH if model.batch == "free" else int(model.batch)
    for start in range(0, len(samples), size):
        part = {k: v[start : start + size] for k, v in samples.inputs.items()}
        n = len(next(iter(part.values())))
        if model.batch != "free" and n < size:  # a fixed batch is filled up with copies of its last sample
            part = {k: np.concatenate([v, np.repeat(v[-1:], size - n, axis=0)]) for k, v in part.items()}
        yield [y[:n] for y in run(runner, part)]


def classes(model: Model, samples: Samples, threads: int = 1) -> NDArray[np.int64]:
    """The place of the largest entry of the first output, [n]."""
    chosen = [y.reshape(len(y), -1).argmax(axis=1) for y, *_ in answers(model, samples, threads)]
    return np.concatenate(chosen)


def evaluate(model: Model, samples: Samples, threads: int = 1) -> Accuracy:
    """Classify the samples in onnxruntime; they must have labels."""
    assert samples.labels is not None
    chosen = classes(model, samples, threads)
    right = chosen == samples.labels
    per_class = {
        int(k): (int((samples.labels == k).sum()), int(right[samples.labels == k].sum()))
        for k in np.unique(samples.labels)
    }
    always = int(chosen[0]) if len(per_class) > 1 and (chosen == chosen[0]).all() else None
    return Accuracy(len(samples), int(right.sum()), per_class, always)


def deviation(dense: Model, other: Model, samples: Samples, threads: int = 1) -> float:
    """‖y − y_dense‖ / ‖y_dense‖ over all outputs and samples: 0 for the same answers; it needs no labels."""
    difference, size = 0.0, 0.0
    for mine, theirs in zip(answers(dense, samples, threads), answers(other, samples, threads), strict=True):
        for y, z in zip(mine, theirs, strict=True):
            difference += float(np.square(np.subtract(z, y, dtype=np.float64)).sum())
            size += float(np.square(y.astype(np.float64)).sum())
    return float(np.sqrt(difference / size)) if size else 0.0
