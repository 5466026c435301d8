"""Heatmaps by their oracles: Captum, zennit and pytorch-grad-cam on the same networks in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is the oracles' runtime")

from explain import oracles  # noqa: E402
from explain.oracles import by_captum, by_zennit, images, onnx_network, oracle, targets, torch, torch_network  # noqa: E402
from toolchain.explain import heatmaps as h  # noqa: E402

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
