"""Accuracy of a classifier on labelled samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from toolchain.data import Samples
from toolchain.model import Model
from toolchain.session import run, session

BATCH = 64


@dataclass(frozen=True)
class Accuracy:
    """Share of samples whose largest output is their class, overall and for each class that occurs."""

    n: int
    correct: int
    per_class: dict[int, tuple[int, int]]  # class -> (samples, correct)

    @property
    def share(self) -> float:
        """In 0..1."""
        return self.correct / self.n


def evaluate(model: Model, samples: Samples, threads: int = 1) -> Accuracy:
    """Classify the samples in onnxruntime; they must have labels."""
    assert samples.labels is not None
    runner = session(model.ir, threads)
    size = BATCH if model.batch == "free" else int(model.batch)
    answers = []
    for start in range(0, len(samples), size):
        part = {k: v[start : start + size] for k, v in samples.inputs.items()}
        short = size - len(next(iter(part.values())))
        if model.batch != "free" and short:  # a fixed batch is filled up with copies of its last sample
            part = {k: np.concatenate([v, np.repeat(v[-1:], short, axis=0)]) for k, v in part.items()}
        answers.append(
            run(runner, part)[0]
            .reshape(size if model.batch != "free" else len(next(iter(part.values()))), -1)
            .argmax(axis=1)
        )
    right = np.concatenate(answers)[: len(samples)] == samples.labels
    per_class = {
        int(k): (int((samples.labels == k).sum()), int(right[samples.labels == k].sum()))
        for k in np.unique(samples.labels)
    }
    return Accuracy(len(samples), int(right.sum()), per_class)
