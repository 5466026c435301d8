"""Finite differences equal the gradient graph, stand in where there is none, and refuse what would take minutes."""

from __future__ import annotations

import numpy as np
import pytest
from compress.networks import Net, network, samples
from compress.test_attribution import Scaled, cuts_of, labels_of

from toolchain.compress.attribution import attribute
from toolchain.errors import Unsupported
from toolchain.ops import OPS

SMOOTH = ("fused_attention", "gated_halves", "grouped_query", "mixer", "windows", "sequence_first")
BENT = ("mlp", "alexnet", "residual", "two_inputs", "two_heads", "channels_last", "attention", "class_token", "decoder")


@pytest.mark.parametrize("name", [*SMOOTH, *BENT])
def test_finite_differences_equal_the_gradient_graph(name: str) -> None:
    """At every cut, with context, batches behind other axes and folded heads too.

    A ReLU whose input lies within ε of 0 at a node is half on for a difference: few shares, of few samples.
    """
    model = network(name)
    inputs, labels = samples(model.inputs, 4), labels_of(model, 4)
    settings = {"target": None if name == "decoder" else "classes", "steps": 4, "tolerance": np.inf}
    for cut in cuts_of(model):
        graph, differences = (
            attribute(model, [cut], inputs, labels, **settings, differences=d)[0] for d in (False, True)
        )
        assert (graph.backend, differences.backend) == ("gradient graph", "finite differences")
        for found, wanted in ((differences.sums, graph.sums), (differences.absolute, graph.absolute)):
            error = np.abs(found - wanted) / np.abs(wanted).max()
            assert np.quantile(error, 1.0 if name in SMOOTH else 0.9) <= 5e-3 and error.max() <= 0.1
        np.testing.assert_array_equal(differences.is_live, graph.is_live)


def recurrent(kind: str) -> Net:
    """Dense layers around a recurrent one, which has no gradient rule."""
    net = Net(7, x=(5, 6))
    y = net.op("Transpose", net.op("Tanh", net.op("MatMul", "x", net.weight("in", 6, 8, terms=6))), perm=[1, 0, 2])
    y = net.op("Squeeze", net.recurrence(kind, y, 8, 7, directions=1), np.array([1], np.int64))
    net.head(net.op("Tanh", net.dense(net.op("Flatten", net.op("Transpose", y, perm=[1, 0, 2])), 6)))
    return net


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_they_stand_in_where_an_op_has_no_gradient_rule_and_are_complete(kind: str) -> None:
    """Σ_i A_ij = F_j(h) − F_j(0), F by onnx's reference in float64."""
    net = recurrent(kind)
    model = net.model()
    inputs, labels = samples(model.inputs, 3), labels_of(model, 3)
    (found,) = attribute(model, [("tanh1", 2)], inputs, labels, target="classes", steps=8)
    assert found.backend.startswith(f"finite differences: {kind} ") and "no gradient rule" in found.backend
    f = Scaled(net.proto(), model, "tanh1")
    change = (f(inputs, labels, 1.0) - f(inputs, labels, 0.0)).sum(axis=1)
    np.testing.assert_allclose(found.sums.sum(axis=(0, 2)), change, rtol=0, atol=5e-3 * np.abs(change).max())
    assert found.gap < 0.02


def test_wide_layers_are_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(3, x=(4,))
    net.head(net.relu(net.dense(net.relu(net.dense("x", 600)), 512)))
    model = net.model()
    monkeypatch.delitem(OPS, "Relu")
    inputs, labels = samples(model.inputs, 2), labels_of(model, 2)
    with pytest.raises(Unsupported, match=r"Relu 'relu3' has no gradient rule.*1,200 times.*512 at most"):
        attribute(model, [("relu1", 1)], inputs, labels)
    monkeypatch.delitem(OPS, "Gemm")
    (found,) = attribute(model, [("relu3", 1)], inputs, labels, steps=2)
    assert "Gemm" in found.backend


def test_they_equal_the_integral_written_out() -> None:
    """A_i = ∫ d/dε loss(αh + ε h_i) dα over 4000 midpoints in float64, unit by unit of an MLP's first layer."""
    model = network("mlp")
    inputs, labels = samples(model.inputs, 2), labels_of(model, 2)
    (found,) = attribute(model, [("relu1", 1)], inputs, labels, steps=512, tolerance=np.inf, differences=True)
    p = {n: v.const_value.numpy().astype(np.float64) for n, v in model.graph.initializers.items()}
    h = np.maximum(inputs["x"].astype(np.float64) @ p["dense0.weight"].T + p["dense0.bias"], 0)

    def loss(h: np.ndarray) -> np.ndarray:
        z = np.maximum(h @ p["dense2.weight"] + p["dense2.bias"], 0) @ p["dense4.weight"].T + p["dense4.bias"]
        return np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), labels]

    alphas = (np.arange(4000) + 0.5) / 4000
    for i in range(h.shape[1]):
        step = np.eye(h.shape[1])[i] * 1e-5 * h
        slopes = [(loss(a * h + step) - loss(a * h - step)) / 2e-5 for a in alphas]
        np.testing.assert_allclose(found.sums[:, 0, i].sum(), np.mean(slopes, axis=0).sum(), rtol=0, atol=5e-3)
