"""Drift is nothing for the same network, what its definition says for others, and told where it cannot be had."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from compress.networks import NETWORKS, Net, network, samples

from toolchain.compress.groups import analyse
from toolchain.compress.surgery import mask
from toolchain.data import Samples
from toolchain.explain import drift as module
from toolchain.explain.drift import drift, drift_facts, explanations
from toolchain.model import Model
from toolchain.ops import OPS

N = 6


def linear(weights: np.ndarray) -> Model:
    """Logits W x of a vector."""
    net = Net(0, x=(weights.shape[1],))
    net.parameters["w"] = weights.astype(np.float32)
    net.op("Gemm", "x", "w", transB=1)
    return net.model()


def given(model: Model, n: int = N, **more: object) -> Samples:
    return Samples("data", samples(model.inputs, n), None, **more)  # type: ignore[arg-type]


def softmax(z: np.ndarray) -> np.ndarray:
    p = np.exp(z - z.max())
    return p / p.sum()


def test_maps_are_integrated_gradients_of_log_p_of_the_class() -> None:
    """Of a linear network, by a midpoint sum along the path."""
    weights = np.random.default_rng(3).standard_normal((4, 5))
    model, k, points = linear(weights), 2, 4000
    data = given(model)
    found = explanations(model, data, np.full(N, k), 64, 1)
    for x, attributed in zip(data.inputs["x"], found, strict=True):
        alphas = (np.arange(points) + 0.5) / points
        slopes = [weights[k] - softmax(weights @ (a * x)) @ weights for a in alphas]
        np.testing.assert_allclose(-attributed, x * np.mean(slopes, axis=0), atol=1e-5)


def test_correlation_and_iou_are_of_the_maps_of_both_networks_for_the_originals_answer() -> None:
    stats = pytest.importorskip("scipy.stats", reason="the oracle is scipy's")
    generator = np.random.default_rng(4)
    weights = generator.standard_normal((3, 8))
    dense, other = linear(weights), linear(weights + 0.7 * generator.standard_normal((3, 8)))
    data = given(dense, 20)
    found = drift(dense, other, data, steps=8)
    answers = (data.inputs["x"] @ weights.T).argmax(axis=1)
    assert found.classes.tolist() == answers.tolist()
    maps = [explanations(m, data, answers, 8, 1) for m in (dense, other)]
    for i, (a, b) in enumerate(zip(*maps, strict=True)):
        assert found.correlation[i] == pytest.approx(stats.spearmanr(a, b).statistic)
        p, q = a / np.abs(a).sum(), b / np.abs(b).sum()
        least = sum(min(abs(u), abs(v)) if u * v > 0 else 0 for u, v in zip(p, q, strict=True))
        most = sum(max(abs(u), abs(v)) if u * v > 0 else abs(u) + abs(v) for u, v in zip(p, q, strict=True))
        assert found.iou[i] == pytest.approx(least / most)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_not_drifted_from_itself_or_says_why_it_cannot_be_told(name: str) -> None:
    model = network(name)
    found = drift_facts(model, model, given(model))
    json.dumps(found, allow_nan=False)
    if found["why_not"]:
        assert found["n"] == 0 and found["iou"] is None and "\n" not in found["why_not"]
    else:
        assert found["n"] == N and found["rank_correlation"] == pytest.approx(1) and found["iou"] == pytest.approx(1)
        assert found["same_answer"] in (1.0, None)


def test_most_networks_can_be_compared() -> None:
    told = {name: drift_facts(m := network(name), m, given(m))["why_not"] for name in ("mlp", "alexnet", "attention")}
    assert told == dict.fromkeys(told)


def test_the_more_is_removed_the_further_explanations_move() -> None:
    model = network("alexnet")
    channels = analyse(model)
    units = np.concatenate([g.units for g in channels.groups if g.kind == "channel"])
    order = np.random.default_rng(0).permutation(units)
    data = given(model, 16)
    found = [
        drift(model, mask(model, channels, np.sort(order[:n])), data) for n in (0, len(order) // 4, len(order) // 2)
    ]
    moved = [float(np.nanmean(f.correlation)) for f in found]
    assert moved[0] == pytest.approx(1) and moved[0] > moved[1] > moved[2]


def test_classes_have_the_means_of_their_samples_and_one_without_is_named_and_blank() -> None:
    weights = np.vstack([np.random.default_rng(5).standard_normal((2, 6)), np.zeros((1, 6))])
    dense, other = linear(weights), linear(weights[::-1])
    data = given(dense, 12)
    scores = data.inputs["x"] @ weights.T
    data = Samples("d", {"x": data.inputs["x"][scores.argmax(axis=1) < 2]}, None, ("a", "b"))
    each, found = drift(dense, other, data), drift_facts(dense, other, data)
    rows = {r["class"]: r for r in found["per_class"]}
    assert list(rows) == ["a", "b", "2"]
    assert rows["2"] == {"class": "2", "n": 0, "rank_correlation": None, "iou": None, "same_answer": None}
    for k, name in enumerate("ab"):
        assert rows[name]["n"] == (each.classes == k).sum()
        assert rows[name]["iou"] == pytest.approx(each.iou[each.classes == k].mean(), rel=1e-5)
    assert found["n"] == sum(r["n"] for r in rows.values())


def test_an_empty_explanation_counts_for_nothing() -> None:
    """At an input of zeros every attribution is 0."""
    model = linear(np.random.default_rng(6).standard_normal((3, 4)))
    x = samples(model.inputs, 3)["x"]
    x[1] = 0
    found = drift_facts(model, model, Samples("d", {"x": x}, None))
    assert found["n"] == 3 and found["iou"] == pytest.approx(1)
    blank = drift_facts(model, model, Samples("d", {"x": 0 * x}, None))
    assert blank["iou"] is None and blank["rank_correlation"] is None and blank["same_answer"] == 1


def test_maps_do_not_depend_on_the_parts_that_they_are_made_in(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("alexnet")
    data, labels = given(model), np.arange(N) % 3
    whole = explanations(model, data, labels, 4, 1)
    monkeypatch.setattr(module, "WORKING_BYTES", 1)
    np.testing.assert_allclose(explanations(model, data, labels, 4, 1), whole, atol=1e-6 * np.abs(whole).max())


# ---- what cannot be told -------------------------------------------------------------------------------------------
def test_without_samples_or_a_gradient_rule_the_report_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("mlp")
    assert drift_facts(model, model, None)["why_not"] == "no samples were given"
    data = given(model)
    monkeypatch.delitem(OPS, "Relu")
    why_not = drift_facts(model, model, data)["why_not"]
    assert "no gradient rule" in why_not and "--" not in why_not  # the way out of a ranking is none here


@pytest.mark.parametrize("failure", ["session", "run"])
def test_a_fault_of_onnxruntime_costs_the_block_and_not_the_run(failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime as ort

    def fails(*arguments: object, **more: object) -> None:
        raise ort.capi.onnxruntime_pybind11_state.Fail("[ONNXRuntimeError] : 1 : FAIL : no memory\nfor it")

    class Failing:
        def get_inputs(self) -> list[object]:
            return []

        run = fails

    model = network("mlp")
    monkeypatch.setattr(ort, "InferenceSession", fails if failure == "session" else lambda *a, **more: Failing())
    found = drift_facts(model, model, given(model))
    assert found["why_not"].endswith("no memory") and found["n"] == 0


def test_a_mistake_of_ours_is_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("mlp")
    monkeypatch.setattr(module, "rank_correlation", lambda a, b: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        drift_facts(model, model, given(model))


def test_a_network_that_is_too_large_is_left_out_and_a_large_one_gets_fewer_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = network("mlp")
    data = given(model, 100)
    assert drift_facts(model, model, data)["n"] == module.MOST_SAMPLES
    monkeypatch.setattr(module, "AFFORDABLE", module.affordable(model) * 1.0)
    assert drift_facts(model, model, data)["why_not"].startswith("explaining 8 samples would take")
    monkeypatch.undo()
    each = module.PASSES * module.STEPS * module.profile(model).macs
    monkeypatch.setattr(module, "AFFORDABLE", 11.5 * each)
    assert drift_facts(model, model, data)["n"] == 11


def test_a_fixed_batch_is_told() -> None:
    model = replace(network("mlp"), batch=3, held_by="a reshape to 3 rows")
    assert drift_facts(model, model, given(model))["why_not"] == "the graph runs at batch 3 only: a reshape to 3 rows"
