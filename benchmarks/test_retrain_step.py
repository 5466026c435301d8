"""One training step (forward, loss, backward, SGD with momentum) of our module against the original torch module.

The same weights, batch, loss and optimiser, one thread each, turn by turn. The set-up asserts that both get the same
loss and, after a step, the same weights; speed is reported, not asserted (wanted: at most 1.3 times the original).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is the other side of this comparison")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from benchmarks import nets, resnet18  # noqa: E402
from benchmarks.resnet56 import enlivened, export  # noqa: E402
from toolchain.model import Model, load  # noqa: E402
from toolchain.retrain import from_torch, to_torch  # noqa: E402
from toolchain.retrain.training import OPTIMISERS  # noqa: E402

RATE, WARMUP = 1e-3, 3
SAME = 1e-3  # of the step that a weight takes: float32 sums in another order


@dataclass(frozen=True)
class Case:
    """A network, the images of a batch, and how many rounds are timed."""

    make: Callable[[], nn.Module]
    image: tuple[int, ...]
    classes: int
    batch: int
    rounds: int


def resnet() -> nn.Module:
    """ResNet-18 with its norms, which follow the batch."""
    torch.manual_seed(0)
    net = enlivened(resnet18.resnet18(), resnet18.IMAGE)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.1
    return net


def alexnet() -> nn.Module:
    return nets.alexnet5_torch(nets.alexnet5())


def mnist() -> nn.Module:
    """Two convolutions and two dense layers, 206,922 parameters."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1568, 120), nn.ReLU(), nn.Linear(120, 10)),
    )


CASES = {
    "resnet18": Case(resnet, (3, 64, 64), 10, 16, 15),
    "alexnet5": Case(alexnet, (3, 227, 227), 5, 8, 7),
    "mnist": Case(mnist, (1, 28, 28), 10, 32, 200),
}


def stepper(net: nn.Module, images: Any, labels: Any) -> Callable[[], float]:
    """One step of a network in training; returns the loss."""
    groups = [{"params": list(net.train().requires_grad_(True).parameters()), "weight_decay": 0.0}]
    optimiser = OPTIMISERS["sgd"](groups, RATE)

    def step() -> float:
        loss = F.cross_entropy(net(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


def seconds(function: Callable[[], object]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def check_equal(case: Case, net: nn.Module, model: Model, images: Any, labels: Any) -> None:
    """The same loss, and the same weights after a step."""
    copy, ours = case.make(), to_torch(model)
    losses = [stepper(n, images, labels)() for n in (copy, ours)]
    assert abs(losses[0] - losses[1]) <= 1e-5 * abs(losses[0]), losses
    after = {n: v.const_value.numpy() for n, v in from_torch(ours).graph.initializers.items()}
    before = dict(net.named_parameters())
    for name, wanted in copy.named_parameters():
        step = (wanted - before[name]).detach().numpy()
        found = after[name] - before[name].detach().numpy()
        np.testing.assert_allclose(found, step, rtol=0, atol=SAME * np.abs(step).max() + 1e-7, err_msg=name)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", CASES)
def test_a_training_step(benchmark: Any, name: str, tmp_path: Path) -> None:
    benchmark.group = f"training step of {name}"
    torch.set_num_threads(1)
    case = CASES[name]
    images = torch.from_numpy(np.random.default_rng(1).standard_normal((case.batch, *case.image)).astype(np.float32))
    labels = torch.arange(case.batch) % case.classes
    net = case.make()
    export(net, case.image, tmp_path / "net.onnx")
    model = load(tmp_path / "net.onnx")
    check_equal(case, net, model, images, labels)
    theirs, mine = stepper(case.make(), images, labels), stepper(to_torch(model), images, labels)
    for _ in range(WARMUP):
        theirs(), mine()
    a: list[float] = []
    b: list[float] = []
    benchmark.pedantic(
        lambda: b.append(seconds(mine)), setup=lambda: a.append(seconds(theirs)), rounds=case.rounds, iterations=1
    )
    ratios = sorted(y / x for x, y in zip(a, b, strict=True))
    ratio, low, high = statistics.median(ratios), ratios[len(ratios) // 4], ratios[-len(ratios) // 4]
    benchmark.extra_info.update(ratio=ratio, ratio_quartiles=[low, high], theirs_s=statistics.median(a))
    print(
        f"{name} [{case.batch}]: torch {1e3 * statistics.median(a):.2f} ms, ours {1e3 * statistics.median(b):.2f} ms, "
        f"median ratio of pairs {ratio:.3f} (quartiles {low:.3f}-{high:.3f})"
    )
