"""Attributions to the input: eq. 1 by Captum, its two laws, and a baseline that is not 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from compress.networks import network, original, samples
from compress.test_attribution import labels_of, torch_layers
from onnx.reference import ReferenceEvaluator

from toolchain.compress.inputs import attribute_input
from toolchain.errors import UsageError


@pytest.mark.parametrize("baseline", [0.0, 0.3, "image"])
def test_they_are_captums_integrated_gradients(baseline: Any) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle's runtime")
    captum = pytest.importorskip("captum.attr", reason="captum is the oracle")
    torch.set_num_threads(1)
    model, layers = network("alexnet"), torch_layers(torch)
    inputs, labels = samples(model.inputs, 3), labels_of(model, 3)
    if baseline == "image":
        baseline = np.random.default_rng(4).standard_normal(model.inputs["x"]).astype(np.float32)

    def logits(value: Any) -> Any:
        for _, layer in layers:
            value = layer(value)
        return value

    found = attribute_input(model, "x", inputs, labels, baseline, target="classes", steps=400)
    x = torch.tensor(inputs["x"].astype(np.float64))
    start = torch.tensor(np.broadcast_to(np.float64(baseline), x.shape).copy())
    settings = {"n_steps": 800, "method": "gausslegendre", "baselines": start}
    per_class = captum.IntegratedGradients(lambda v: logits(v).softmax(1))
    wanted = [per_class.attribute(x, target=j, **settings).numpy() for j in range(5)]
    loss = captum.IntegratedGradients(lambda v, y: torch.nn.functional.cross_entropy(logits(v), y, reduction="none"))
    wanted.append(loss.attribute(x, additional_forward_args=torch.tensor(labels), **settings).detach().numpy())
    for a, b in zip(found.values, wanted, strict=True):  # two rules that miss the kinks of ReLU by 1/n each
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-2 * np.abs(b).max())


@pytest.mark.parametrize("name", ["mlp", "alexnet", "two_inputs", "attention"])
def test_they_are_complete_and_0_where_the_input_is_the_baseline(name: str) -> None:
    """Σ_i A_ij = F_j(x) − F_j(x'), F by onnx's reference in float32; other inputs keep their values."""
    model = network(name)
    inputs, labels = samples(model.inputs, 4), labels_of(model, 4)
    named = list(inputs)[-1]
    start = np.full(model.inputs[named], 0.2, np.float32)
    first = (slice(None), *np.unravel_index(0, model.inputs[named]))
    inputs[named][first] = 0.2
    found = attribute_input(model, named, inputs, labels, start, target="classes", steps=256)

    def outputs(values: dict[str, np.ndarray]) -> np.ndarray:
        z = ReferenceEvaluator(original(name)).run(None, values)[0].astype(np.float64)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return np.vstack([p.T, -np.log(p[np.arange(len(labels)), labels])])

    change = outputs(inputs) - outputs(inputs | {named: np.broadcast_to(start, inputs[named].shape).copy()})
    np.testing.assert_allclose(found.change, change, rtol=1e-3, atol=1e-4)
    assert found.gap <= 0.02
    assert not found.values[(slice(None), *first)].any()


def test_an_unknown_input_is_told() -> None:
    model = network("mlp")
    with pytest.raises(UsageError, match=r"no input 'y'. There are 'x'"):
        attribute_input(model, "y", samples(model.inputs, 2), np.zeros(2, np.int64))
