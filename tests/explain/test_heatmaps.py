"""Heatmaps by their oracles: Captum, zennit and pytorch-grad-cam on the same networks in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is the oracles' runtime")

from explain.oracles import (
    by_captum,
    by_grad_cam,
    by_zennit,
    images,
    layer_grad_cam,
    onnx_network,
    oracle,
    targets,
    torch,
    torch_network,
)

from toolchain.errors import UsageError
from toolchain.explain import heatmaps as h

CLOSE = 1e-4  # of the largest relevance: float32 against float64 through a dozen layers
NETWORKS = ["sequential", "residual", "normalised"]


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE * np.abs(wanted).max())


def ours(name: str, method: str, **options: Any) -> np.ndarray:
    return h.relevance(onnx_network(name), method, images(), targets(), **options)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("method", "theirs", "settings"),
    [
        ("gradient", "Saliency", {"abs": False}),
        ("gradient-x-input", "InputXGradient", {}),
        ("integrated-gradients", "IntegratedGradients", {"n_steps": h.STEPS, "method": "gausslegendre"}),
        ("deconvolution", "Deconvolution", {}),
        ("guided-backprop", "GuidedBackprop", {}),
    ],
)
def test_the_gradient_family_is_captums(name: str, method: str, theirs: str, settings: dict[str, Any]) -> None:
    assert_close(ours(name, method), by_captum(name, theirs, images(), targets(), **settings))


@pytest.mark.parametrize("name", ["sequential", "unbiased"])
def test_lrp_epsilon_is_captums(name: str) -> None:
    assert_close(ours(name, "lrp-epsilon"), by_captum(name, "LRP", images(), targets()))


def composites() -> dict[str, Any]:
    """{method: zennit's rules for it}."""
    oracle("zennit")
    from zennit.composites import EpsilonGammaBox, LayerMapComposite, layer_map_base
    from zennit.rules import AlphaBeta, Epsilon, Gamma
    from zennit.types import Linear

    merge = {"canonizers": [canonizer()]}
    everywhere = lambda rule: LayerMapComposite([*layer_map_base(), (Linear, rule)], **merge)
    low, high = (torch.tensor(f(images(), axis=(1, 2, 3), keepdims=True).astype(np.float64)) for f in (np.min, np.max))
    return {
        "lrp-epsilon": everywhere(Epsilon()),
        "lrp-alpha-beta": everywhere(AlphaBeta(alpha=2.0, beta=1.0)),
        "lrp-gamma": everywhere(Gamma(gamma=0.25)),
        "lrp-composite": EpsilonGammaBox(low=low, high=high, **merge),
    }


def canonizer() -> Any:
    from zennit.canonizers import SequentialMergeBatchNorm

    return SequentialMergeBatchNorm()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", ["lrp-epsilon", "lrp-alpha-beta", "lrp-gamma", "lrp-composite"])
def test_relevance_propagation_is_zennits(name: str, method: str) -> None:
    wanted = by_zennit(name, composites()[method], images(), targets(), is_scored=True)
    assert_close(ours(name, method), wanted)


# ---- class activation maps ------------------------------------------------------------------------------------------
LAST = {"sequential": 4, "residual": 3, "normalised": 6}  # the last module before pooling


def scaled(maps: np.ndarray) -> np.ndarray:
    """From 0 to 1 in each image."""
    low = maps - maps.min(axis=(1, 2), keepdims=True)
    return low / low.max(axis=(1, 2), keepdims=True).clip(1e-7)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("method", "theirs"), [("grad-cam", "GradCAM"), ("grad-cam++", "GradCAMPlusPlus")])
def test_class_activation_maps_are_those_of_pytorch_grad_cam(name: str, method: str, theirs: str) -> None:
    found = h.heatmaps(onnx_network(name), method, images(), targets())
    assert_close(scaled(found), by_grad_cam(name, theirs, LAST[name], images(), targets()))


@pytest.mark.parametrize("name", NETWORKS)
def test_grad_cam_is_captums_in_size_too(name: str) -> None:
    assert_close(ours(name, "grad-cam"), layer_grad_cam(name, LAST[name], images(), targets()))


def test_any_layer_with_spatial_axes_can_be_asked_for() -> None:
    first = next(str(n.outputs[0].name) for n in onnx_network("sequential").graph if n.op_type == "Conv")
    found = ours("sequential", "grad-cam", layer=first)
    assert_close(found, layer_grad_cam("sequential", 0, images(), targets()))


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
        total = total + by_captum("sequential", "Saliency", x + deviation * noise, targets(), abs=False)
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
