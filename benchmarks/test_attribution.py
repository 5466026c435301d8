"""Integrated gradients of a layer for all five classes and the loss: our graph against Captum on the split head.

AlexNet-5, 64 samples, 50 Gauss-Legendre nodes in α (Captum's own nodes and weights on both sides), one thread each.
The activation at the cut is given to both. Captum's work is six calls of IntegratedGradients.attribute, one for each
target; its internal batch size is the fastest of three, its parameters want no gradients. Ours is one run of the graph.

Rounds alternate, Captum then ours. The set-up asserts that the results are equal; speed is reported, not asserted.
Building the graph and its session is paid once for any number of samples and is reported apart, as `build_s`.

Equal means 1e-5 of a sample's largest attribution. A ReLU whose input lies within float32 rounding of 0 at one of the
50 nodes is on in one of the two and off in the other: there the derivative jumps, and no two float32 programs agree.
Half a million inputs a sample bring that about in a few samples of 64 (in float64 their nearest input was always within
1e-7 of its layer's largest). Those may differ by that one unit's share at that one node; their number is reported.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="torch is the other side of this comparison")
attr = pytest.importorskip("captum.attr", reason="captum is the other side of this comparison")

from captum.attr._utils.approximation_methods import approximation_parameters  # noqa: E402

from benchmarks import nets  # noqa: E402
from toolchain.compress.gradient import ALPHA, INPUT, WEIGHT, attribution_graph  # noqa: E402
from toolchain.compress.objective import LABELS  # noqa: E402
from toolchain.model import Model, load  # noqa: E402
from toolchain.session import run, session, with_outputs  # noqa: E402

SAMPLES, STEPS, CLASSES = 64, 50, 5
METHOD = "gausslegendre"
CUTS = {
    "conv5": "relu5",
    "flatten": "flatten",
    "dense1": "relu6",
    "dense2": "relu7",
}  # units and the layer they leave by
ROUNDS = {"conv5": 2, "flatten": 2, "dense1": 5, "dense2": 20}
TOLERANCE = 1e-5  # of a sample's largest attribution to a target: float32 sums in another order
KINK = 1e-2  # the same where a ReLU stands on its kink
EQUAL = 0.8  # share of samples that stay off the kinks
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """One cut: activations h [n, *s] and labels [n] there, and both ways to attribute, each returning [6, n, *s]."""

    ours: Callable[[], F32]
    captum: Callable[[], F32]
    facts: dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> Model:
    return load(nets.alexnet5_file())


@pytest.fixture(scope="module")
def net() -> Any:
    return nets.alexnet5_torch(nets.alexnet5())


def activations(model: Model, value: str) -> tuple[F32, NDArray[np.int64]]:
    """h [n, *s] of seeded images and labels [n] drawn from the model's own softmax, so that no loss is extreme."""
    generator = np.random.default_rng(1)
    images = generator.standard_normal((SAMPLES, 3, 227, 227)).astype(np.float32)
    h, logits = run(session(with_outputs(model.ir, [value, "logits"])), {"image": images})
    noise = generator.gumbel(size=logits.shape)
    return h, (logits + noise).argmax(axis=1).astype(np.int64)


def our_side(model: Model, value: str, h: F32, labels: NDArray[np.int64]) -> tuple[Callable[[], F32], dict[str, Any]]:
    """One run of the attribution graph, and what building it took."""
    step_sizes, alphas = (np.array(f(STEPS), np.float32) for f in approximation_parameters(METHOD))
    begun = time.perf_counter()
    graph = attribution_graph(model, value, target="classes")
    runner = session(graph.ir, threads=1)
    facts = {"build_s": time.perf_counter() - begun, "hoisted_nodes": graph.hoisted}
    feed = {INPUT: h, ALPHA: alphas, WEIGHT: step_sizes, LABELS: labels}
    return lambda: run(runner, feed)[0], facts


def captum_side(head: Any, h: F32, labels: NDArray[np.int64], internal_batch: int) -> Callable[[Sequence[int]], F32]:
    """Attributions to the given targets, 0…4 the softmax outputs, 5 the loss: [targets, n, *s]."""
    x, y = torch.from_numpy(h), torch.from_numpy(labels)
    by_class = attr.IntegratedGradients(lambda z: torch.softmax(head(z), dim=1))
    of_loss = attr.IntegratedGradients(lambda z, t: torch.nn.functional.cross_entropy(head(z), t, reduction="none"))
    settings = {"method": METHOD, "n_steps": STEPS, "internal_batch_size": internal_batch}

    def attribute(targets: Sequence[int]) -> F32:
        found = [
            of_loss.attribute(x, additional_forward_args=y, **settings)
            if j == CLASSES
            else by_class.attribute(x, target=j, **settings)
            for j in targets
        ]
        return torch.stack(found).numpy()

    return attribute


def seconds(function: Callable[[], object]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def relative_gaps(a: F32, b: F32) -> F32:
    """Largest difference of each sample over its largest attribution, worst target, [n]; a, b are [6, n, *s]."""
    flat = [x.reshape(*x.shape[:2], -1) for x in (a, b)]
    return (np.abs(flat[0] - flat[1]).max(axis=2) / np.abs(flat[1]).max(axis=2)).max(axis=0)


def prepared(model: Model, net: Any, layer: str) -> Case:
    """Both sides of one cut; raises unless they agree."""
    cut = CUTS[layer]
    h, labels = activations(model, f"{cut}.out")
    ours, facts = our_side(model, f"{cut}.out", h, labels)
    names = [name for name, _ in net.named_children()]
    head = net[names.index(cut) + 1 :]
    tried = {}
    for steps_at_once in (1, 10, STEPS):
        attribute = captum_side(head, h, labels, SAMPLES * steps_at_once)
        tried[SAMPLES * steps_at_once] = seconds(lambda attribute=attribute: attribute([CLASSES]))
    best = min(tried, key=tried.__getitem__)
    attribute = captum_side(head, h, labels, best)
    captum = lambda: attribute(range(CLASSES + 1))
    gaps = relative_gaps(ours(), captum())
    equal = float((gaps < TOLERANCE).mean())
    assert equal >= EQUAL and gaps.max() < KINK, f"{layer}: {equal:.0%} of samples equal, worst {gaps.max():.1e}"
    facts |= {
        "equal_samples": equal,
        "max_rel": float(gaps[gaps < TOLERANCE].max()),
        "max_rel_at_a_kink": float(gaps.max()),
    }
    facts |= {"captum_internal_batch": best, "captum_loss_s_by_internal_batch": tried}
    return Case(ours, captum, facts | {"samples": SAMPLES, "steps": STEPS, "targets": CLASSES + 1, "threads": 1})


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("layer", CUTS)
def test_integrated_gradients(benchmark: Any, model: Model, net: Any, layer: str) -> None:
    benchmark.group = f"integrated gradients at {layer}"
    case = prepared(model, net, layer)
    theirs: list[float] = []
    benchmark.pedantic(case.ours, setup=lambda: theirs.append(seconds(case.captum)), rounds=ROUNDS[layer], iterations=1)
    mine = benchmark.stats.stats.data
    ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
    benchmark.extra_info.update(
        case.facts,
        ours_s=statistics.median(mine),
        captum_s=statistics.median(theirs),
        ratio=statistics.median(ratios),
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        ratio_with_build=statistics.median(theirs) / (statistics.median(mine) + case.facts["build_s"]),
    )
    print(f"\n{layer}: Captum {statistics.median(theirs):.3g} s, ours {statistics.median(mine):.3g} s, "
          f"ratio {statistics.median(ratios):.3g} ({min(ratios):.3g}-{max(ratios):.3g})")  # fmt: skip
