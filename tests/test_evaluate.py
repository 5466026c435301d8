"""Accuracy and deviation against their definitions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compress.networks import loaded, original, samples

from toolchain.data import Samples
from toolchain.evaluate import BATCH, deviation, evaluate
from toolchain.model import Model
from toolchain.session import run, session

N = BATCH + 3  # the last part is a short one


def changed(model: Model) -> Model:
    """The same network with other weights."""
    clone = model.ir.clone()
    value = clone.graph.initializers[next(k for k, v in clone.graph.initializers.items() if len(v.shape or ()) > 1)]
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(0.5), name=value.name)
    return model.with_ir(clone)


@pytest.mark.parametrize("name", ["mlp", "two_inputs", "decoder"])
def test_the_deviation_is_the_relative_norm_over_all_answers(name: str) -> None:
    model = loaded(original(name))
    other, feed = changed(model), samples(model.inputs, N)
    y, z = (np.concatenate([o.ravel() for o in run(session(m.ir), feed)]).astype(np.float64) for m in (model, other))
    wanted = np.linalg.norm(z - y) / np.linalg.norm(y)
    assert wanted > 0.05
    np.testing.assert_allclose(deviation(model, other, Samples("x", feed, None)), wanted, rtol=1e-5)
    assert deviation(model, model, Samples("x", feed, None)) == 0


def test_accuracy_counts_every_sample_once() -> None:
    model = loaded(original("mlp"))
    feed = samples(model.inputs, N)
    answers = run(session(model.ir), feed)[0].argmax(axis=1)
    labels = answers.copy()
    labels[::5] = (labels[::5] + 1) % 3
    found = evaluate(model, Samples("x", feed, labels))
    assert found.n == N and found.correct == N - len(labels[::5])
    assert sum(n for n, _ in found.per_class.values()) == N
    assert {k: c for k, (_, c) in found.per_class.items()} == {
        int(k): int(((answers == labels) & (labels == k)).sum()) for k in np.unique(labels)
    }
