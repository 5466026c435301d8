"""Small seeded networks in torch and as ONNX, and what zennit, Captum and pytorch-grad-cam say of them.

zennit and pytorch-grad-cam import torchvision for classes that none of these networks has; where it is not installed
beside torch, empty classes of the same names stand in.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from toolchain.explain import heatmaps
from toolchain.model import Model, load

torch = pytest.importorskip("torch", reason="torch is the oracles' runtime")
torch.set_num_threads(1)

CLASSES = 4
SHAPE = (3, 12, 12)
NAMES = {
    "torchvision": (),
    "torchvision.models": (),
    "torchvision.models.resnet": ("BasicBlock", "Bottleneck"),
    "torchvision.ops": (),
    "torchvision.transforms": ("Compose", "Normalize", "ToTensor"),
    "torchvision.transforms.functional": ("resize",),
}


def oracle(name: str) -> Any:
    """A library that is an oracle, or a skip with the reason."""
    try:
        import torchvision  # type: ignore[import-not-found] # noqa: F401
    except (ImportError, RuntimeError):  # RuntimeError: one that was built for another torch
        for module, classes in NAMES.items():
            made = sys.modules[module] = ModuleType(module)
            for called in classes:
                setattr(made, called, type(called, (), {}))
        for module in NAMES:
            parent, _, child = module.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, sys.modules[module])
    return pytest.importorskip(name, reason=f"{name} is the oracle")


# ---- networks -------------------------------------------------------------------------------------------------------
class Join(torch.nn.Module):
    """a + b as a module, which hooks can see; `summed` is zennit's module for it."""

    def __init__(self) -> None:
        super().__init__()
        self.summed: Any = None

    def forward(self, a: Any, b: Any) -> Any:
        return a + b if self.summed is None else self.summed(torch.stack([a, b], dim=-1))


class Residual(torch.nn.Module):
    """x + f(x), with a projection where the widths differ."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        nn = torch.nn
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1)
        )
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        self.join, self.relu = Join(), nn.ReLU()

    def forward(self, x: Any) -> Any:
        return self.relu(self.join(self.body(x), self.skip(x)))


def sequential(bias: bool = True) -> Any:
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=bias), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, bias=bias), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32, 16, bias=bias), nn.ReLU(), nn.Linear(16, CLASSES, bias=bias),
    )  # fmt: skip


def residual() -> Any:
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), Residual(6, 6), Residual(6, 8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES),
    )  # fmt: skip


def normalised() -> Any:
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(72, CLASSES),
    )  # fmt: skip


def swish() -> Any:
    """Its activations are exported as products of x with a gate."""
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.GELU(), nn.Conv2d(6, 8, 3, stride=2), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES),
    )  # fmt: skip


def unbiased() -> Any:
    return sequential(bias=False)


NETWORKS = {f.__name__: f for f in (sequential, residual, normalised, swish, unbiased)}


@cache
def torch_network(name: str) -> Any:
    """In float64, with statistics of batch normalisation that are not 0 and 1, and scores of some size."""
    torch.manual_seed(sum(map(ord, name)))
    net = NETWORKS[name]().double().eval()
    with torch.no_grad():  # scores of a trained network: pytorch-grad-cam adds 1e-6 to squares of gradients
        net[-1].weight *= 100
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values, low, high in (
                (module.weight, 0.5, 1.5), (module.bias, -0.3, 0.3), (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.3, 1.5),
            ):  # fmt: skip
                torch.nn.init.uniform_(values, low, high)
    return net


@cache
def onnx_network(name: str) -> Model:
    """The same network through torch's exporter, batch normalisation and all."""
    net, out = NETWORKS[name]().eval(), io.BytesIO()
    net.load_state_dict(torch_network(name).state_dict())
    torch.onnx.export(
        net, (torch.zeros(1, *SHAPE),), out, dynamo=False, do_constant_folding=False, input_names=["x"],
        training=torch.onnx.TrainingMode.PRESERVE, dynamic_axes={"x": {0: "N"}}, opset_version=17,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.onnx"
        path.write_bytes(out.getvalue())
        return load(path)


def images(n: int = 4) -> np.ndarray:
    """Of both signs, as normalised images are."""
    return np.random.default_rng(8).standard_normal((n, *SHAPE)).astype(np.float32)


def targets(n: int = 4) -> np.ndarray:
    return np.random.default_rng(9).integers(0, CLASSES, n)


def tensors(x: np.ndarray, classes: np.ndarray) -> tuple[Any, Any]:
    return torch.tensor(x.astype(np.float64), requires_grad=True), torch.tensor(classes)


# ---- what the oracles say -------------------------------------------------------------------------------------------
def by_captum(name: str, called: str, x: np.ndarray | None = None, **settings: Any) -> np.ndarray:
    """Attributions of one of Captum's classes."""
    captum = oracle("captum.attr")
    from captum.attr._utils.lrp_rules import EpsilonRule

    net, (inputs, labels) = deepcopy(torch_network(name)), tensors(images() if x is None else x, targets())
    for module in net.modules():
        if isinstance(module, torch.nn.Flatten):
            module.rule = EpsilonRule()  # of a layer that Captum does not know: what it has for linear ones
    return getattr(captum, called)(net).attribute(inputs, target=labels, **settings).detach().numpy()


def layer_grad_cam(name: str, layer: int | None = None) -> np.ndarray:
    """Captum's Grad-CAM of a module, resized to the image, [n, 1, h, w]."""
    captum = oracle("captum.attr")
    net, (inputs, labels) = deepcopy(torch_network(name)), tensors(images(), targets())
    module = net[LAST[name] if layer is None else layer]
    found = captum.LayerGradCam(net, module).attribute(inputs, target=labels, relu_attributions=True)
    return captum.LayerAttribution.interpolate(found, SHAPE[1:], "bilinear").detach().numpy()


def by_grad_cam(name: str, called: str) -> np.ndarray:
    """Class activation maps of the last module before pooling, from 0 to 1 in each image, [n, h, w]."""
    cams = oracle("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    net, (inputs, _) = deepcopy(torch_network(name)), tensors(images(), targets())
    with getattr(cams, called)(model=net, target_layers=[net[LAST[name]]]) as found:
        return found(input_tensor=inputs, targets=[ClassifierOutputTarget(int(k)) for k in targets()])


def by_zennit(name: str, called: str, is_scored: bool = True, **settings: Any) -> np.ndarray:
    """Attributions of a composite, or of one rule for every layer of weights; begun with the score or with 1."""
    oracle("zennit")
    from zennit import composites, rules
    from zennit.attribution import Gradient
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.layer import Sum
    from zennit.types import Linear

    merge = {"canonizers": [SequentialMergeBatchNorm()]}
    if hasattr(rules, called):
        layers = [*composites.layer_map_base(), (Linear, getattr(rules, called)(**settings))]
        composite = composites.LayerMapComposite(layers, **merge)
    else:
        composite = getattr(composites, called)(**settings, **merge)
    net, (inputs, labels) = deepcopy(torch_network(name)), tensors(images(), targets())
    for join in (m for m in net.modules() if isinstance(m, Join)):
        join.summed = Sum(dim=-1)
    one_hot = torch.eye(CLASSES, dtype=torch.float64)[labels]
    with Gradient(model=net, composite=composite) as attributor:
        return attributor(inputs, (lambda z: z.detach() * one_hot) if is_scored else one_hot)[1].detach().numpy()


def box() -> dict[str, Any]:
    """The least and the largest value of each image."""
    ends = (f(images(), axis=(1, 2, 3), keepdims=True).astype(np.float64) for f in (np.min, np.max))
    return dict(zip(("low", "high"), map(torch.tensor, ends), strict=True))


# ---- each of our methods beside them --------------------------------------------------------------------------------
FOUR = ("sequential", "residual", "normalised", "swish")
LAST = {"sequential": 4, "residual": 3, "normalised": 6, "swish": 3}  # the last module before pooling
PATH = {"n_steps": heatmaps.STEPS, "method": "gausslegendre"}


@dataclass(frozen=True)
class Oracle:
    """A method of ours, who else has it and under what name, and on which networks.

    is_scaled  theirs are maps from 0 to 1
    """

    method: str
    library: str
    name: str
    says: Callable[[str], np.ndarray]
    networks: tuple[str, ...] = FOUR
    is_scaled: bool = False

    def __str__(self) -> str:
        return f"{self.method}-{self.library}-{self.name}"

    def gap(self, network: str) -> float:
        """The largest deviation of ours, as a share of the largest relevance."""
        wanted = self.says(network)
        found = relevance(network, self.method)
        found = scaled(found[:, 0]) if self.is_scaled else found
        assert found.shape == wanted.shape and wanted.any()
        return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def relevance(name: str, method: str, **options: Any) -> np.ndarray:
    return heatmaps.relevance(onnx_network(name), method, images(), targets(), **options)


def scaled(maps: np.ndarray) -> np.ndarray:
    """From 0 to 1 in each image."""
    low = maps - maps.min(axis=(1, 2), keepdims=True)
    return low / low.max(axis=(1, 2), keepdims=True).clip(1e-7)


def captums(own: str, called: str, *networks: str, **settings: Any) -> Oracle:
    return Oracle(own, "captum", called, lambda n: by_captum(n, called, **settings), networks or FOUR)


def zennits(method: str, called: str, is_scored: bool = True, **settings: Any) -> Oracle:
    limits = box if called == "EpsilonGammaBox" else dict
    return Oracle(method, "zennit", called, lambda n: by_zennit(n, called, is_scored, **settings, **limits()))


def grad_cams(method: str, called: str) -> Oracle:
    return Oracle(method, "pytorch-grad-cam", called, lambda n: by_grad_cam(n, called), is_scaled=True)


ORACLES = (
    captums("gradient", "Saliency", abs=False),
    captums("gradient-x-input", "InputXGradient"),
    captums("integrated-gradients", "IntegratedGradients", **PATH),
    captums("deconvolution", "Deconvolution"),
    zennits("deconvolution", "DeconvNet", is_scored=False),
    captums("guided-backprop", "GuidedBackprop"),
    zennits("guided-backprop", "GuidedBackprop", is_scored=False),
    captums("lrp-epsilon", "LRP", "sequential", "unbiased"),
    zennits("lrp-epsilon", "Epsilon"),
    zennits("lrp-alpha-beta", "AlphaBeta", alpha=2.0, beta=1.0),
    zennits("lrp-gamma", "Gamma", gamma=0.25),
    zennits("lrp-composite", "EpsilonGammaBox"),
    Oracle("grad-cam", "captum", "LayerGradCam", layer_grad_cam),
    grad_cams("grad-cam", "GradCAM"),
    grad_cams("grad-cam++", "GradCAMPlusPlus"),
)
