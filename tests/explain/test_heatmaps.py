"""Heatmaps by their oracles: Captum, zennit and pytorch-grad-cam on the same networks in float64."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

pytest.importorskip("torch", reason="torch is the oracles' runtime")

from compress.networks import Net, network, original, samples
from explain.oracles import FOUR as NETWORKS
from explain.oracles import (
    ORACLES,
    Oracle,
    by_captum,
    by_zennit,
    images,
    layer_grad_cam,
    onnx_network,
    targets,
    torch,
    torch_network,
)
from explain.oracles import relevance as ours

from toolchain.errors import Unsupported, UsageError
from toolchain.explain import heatmaps as h
from toolchain.explain.propagation import PROPORTIONAL, Layer, alpha_beta
from toolchain.model import Model

CLOSE = 1e-4  # of the largest relevance: float32 against float64 through a dozen layers


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE * np.abs(wanted).max())


@pytest.mark.parametrize(("oracle", "name"), [(o, n) for o in ORACLES for n in o.networks], ids=str)
def test_every_method_is_that_of_its_oracles(oracle: Oracle, name: str) -> None:
    assert oracle.gap(name) <= CLOSE


def test_every_method_has_an_oracle() -> None:
    assert {o.method for o in ORACLES} == set(h.METHODS) - {"smoothgrad"}  # seeded noise: its law is below


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("called", "convolution"), [("EpsilonPlus", alpha_beta(1, 0)), ("EpsilonAlpha2Beta1", alpha_beta(2, 1))]
)
def test_a_composite_is_a_row_of_rules(
    called: str, convolution: Layer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(h.METHODS, "composite", h.sharing("", PROPORTIONAL, convolution))
    assert_close(ours(name, "composite"), by_zennit(name, called))


# ---- class activation maps ------------------------------------------------------------------------------------------
def test_any_layer_with_spatial_axes_can_be_asked_for() -> None:
    first = next(str(n.outputs[0].name) for n in onnx_network("sequential").graph if n.op_type == "Conv")
    found = ours("sequential", "grad-cam", layer=first)
    assert_close(found, layer_grad_cam("sequential", 0))


def test_a_layer_without_spatial_axes_is_refused_and_those_that_have_are_named() -> None:
    model = onnx_network("sequential")
    dense = next(str(n.outputs[0].name) for n in model.graph if n.op_type == "Gemm")
    last = [str(n.outputs[0].name) for n in model.graph if n.op_type == "Relu"][1]
    with pytest.raises(UsageError, match=r"has no spatial axes") as caught:
        ours("sequential", "grad-cam", layer=dense)
    assert last in str(caught.value)
    with pytest.raises(UsageError, match="there is no layer 'conv9'"):
        ours("sequential", "grad-cam", layer="conv9")


# ---- laws -----------------------------------------------------------------------------------------------------------
def scores(name: str, x: np.ndarray) -> np.ndarray:
    """The logit of each image's class, by torch in float64."""
    z = torch_network(name)(torch.tensor(x.astype(np.float64))).detach().numpy()
    return z[np.arange(len(x)), targets(len(x))]


@pytest.mark.parametrize("name", NETWORKS)
def test_integrated_gradients_are_complete(name: str) -> None:
    summed = ours(name, "integrated-gradients").sum(axis=(1, 2, 3))
    change = scores(name, images()) - scores(name, np.zeros_like(images()))
    np.testing.assert_allclose(summed, change, atol=0.02 * np.abs(change).max())  # kinks of ReLU between 64 nodes


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_is_the_slope_of_the_score(name: str) -> None:
    way, step = np.random.default_rng(3).standard_normal(images().shape), 1e-6
    rise = (scores64(name, images() + step * way) - scores64(name, images() - step * way)) / (2 * step)
    np.testing.assert_allclose((ours(name, "gradient") * way).sum(axis=(1, 2, 3)), rise, rtol=1e-3)


def scores64(name: str, x: np.ndarray) -> np.ndarray:
    return scores(name, x.astype(np.float64))


@pytest.mark.parametrize("method", [m for m in h.METHODS if m.startswith("lrp")])
def test_without_biases_relevance_is_conserved(method: str) -> None:
    summed = ours("unbiased", method).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(summed, scores("unbiased", images()), rtol=1e-2)


def test_smoothgrad_is_the_mean_gradient_in_seeded_noise() -> None:
    x, total = images(), 0.0
    generator = np.random.default_rng(5)
    for _ in range(h.COPIES):
        noise = generator.standard_normal(x.shape[1:], np.float32)
        deviation = h.NOISE * np.ptp(x, axis=(1, 2, 3))[:, None, None, None]
        total = total + by_captum("sequential", "Saliency", x + deviation * noise, abs=False)
    assert_close(ours("sequential", "smoothgrad", seed=5), total / h.COPIES)
    assert not np.array_equal(ours("sequential", "smoothgrad", seed=5), ours("sequential", "smoothgrad", seed=6))


@pytest.mark.parametrize("method", h.METHODS)
def test_a_map_does_not_depend_on_its_neighbours(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    together = ours("residual", method)
    monkeypatch.setattr(h, "MOST_IMAGES", 3)
    assert_close(ours("residual", method), together)
    alone = [h.relevance(onnx_network("residual"), method, images()[i : i + 1], targets()[i : i + 1]) for i in range(4)]
    assert_close(np.concatenate(alone), together)


def test_without_targets_maps_are_about_the_predicted_class() -> None:
    best = torch_network("sequential")(torch.tensor(images().astype(np.float64))).argmax(1).numpy()
    found = h.heatmaps(onnx_network("sequential"), "gradient", images())
    np.testing.assert_array_equal(found, h.heatmaps(onnx_network("sequential"), "gradient", images(), best))


# ---- mistakes -------------------------------------------------------------------------------------------------------
def test_mistakes_are_told_with_a_way_out() -> None:
    model, x = onnx_network("sequential"), images()
    with pytest.raises(UsageError, match=r"no method 'lrp-epsilom'. Did you mean 'lrp-epsilon'"):
        h.heatmaps(model, "lrp-epsilom", x)
    with pytest.raises(UsageError, match="classes are 0 to 3, not 0 to 4"):
        h.heatmaps(model, "gradient", x, np.array([0, 1, 2, 4]))
    with pytest.raises(UsageError, match=r"4 images need 4 classes, not \[2\]"):
        h.heatmaps(model, "gradient", x, np.array([0, 1]))
    with pytest.raises(UsageError, match=r"images are \[3, 6, 12\], but 'x' is \[3, 12, 12\]"):
        h.heatmaps(model, "gradient", x[:, :, :6])


def test_a_product_of_two_computed_values_is_refused_unless_one_is_a_gate() -> None:
    """Of a gate and a signal the signal gets all of it: the same relevance as without the gate, which is even."""
    net = Net(3, x=(3, 6, 6))
    y = net.conv("x", 4)
    net.op("Mul", y, net.op("Sigmoid", net.op("Mul", y, np.zeros((), np.float32))))
    gated, x = headed(net), images()[..., :6, :6]
    bare = Net(3, x=(3, 6, 6))
    bare.op("Mul", bare.conv("x", 4), np.full((), 0.5, np.float32))
    assert_close(h.relevance(gated, "lrp-gamma", x), h.relevance(headed(bare), "lrp-gamma", x))
    squared = Net(3, x=(3, 6, 6))
    y = squared.conv("x", 4)
    squared.op("Mul", y, squared.relu(y), name="product")
    with pytest.raises(Unsupported, match=r"Mul 'product' is not linear in its computed inputs.* --methods"):
        h.heatmaps(headed(squared), "lrp-epsilon", x)


def headed(net: Net) -> Model:
    """With scores of three classes at its end, the same for the same widths."""
    last = net.nodes[-1].output[0]
    weights = np.random.default_rng(2).standard_normal((4, 3)).astype(np.float32)
    net.op("Gemm", net.op("Flatten", net.op("GlobalAveragePool", last)), weights)
    return net.model()


@pytest.mark.parametrize("name", ["class_token", "fused_attention", "windows", "mixer"])
def test_attention_has_the_gradient_family_and_refuses_propagation_by_name(name: str) -> None:
    model = network(name)
    (x,) = samples(model.inputs, 2).values()
    complete = h.relevance(model, "integrated-gradients", x).sum(axis=(1, 2, 3))
    runner = ort.InferenceSession(original(name).SerializeToString(), providers=["CPUExecutionProvider"])
    logits = lambda v: runner.run(None, {"x": v})[0]
    best = logits(x).argmax(axis=1)
    change = (logits(x) - logits(np.zeros_like(x)))[np.arange(2), best]
    np.testing.assert_allclose(complete, change, rtol=0.02, atol=1e-3)
    with pytest.raises(Unsupported, match=r"(LayerNormalization|Where) '.+' has no relevance rule"):
        h.heatmaps(model, "lrp-epsilon", x)
