"""Integrated gradients of a layer for all five classes and the loss: our graph against Captum on the split head.

AlexNet-5, 8 samples (64 too where that is cheap), 50 Gauss-Legendre nodes in α (Captum's own nodes and weights on both
sides), one thread each. The activation at the cut is given to both. Captum's work is six calls of
IntegratedGradients.attribute, one for each target; its internal batch size is the fastest of three, its parameters want
no gradients. Ours is one run of the graph.

At conv5 stands a second rival, what Captum's users would call there: LayerIntegratedGradients on the whole network.
It is timed only. Its baseline is H(x'), its path runs through the input and its forward pass starts at the image, so
that its values are not those of eq. 2.

Rounds alternate, Captum then ours. The set-up asserts that the results are equal; speed is reported, not asserted.
Building the graph and its session is paid once for any number of samples and is reported apart, as `build_s`.

Equal means 1e-5 of a sample's largest attribution. A ReLU whose input lies within float32 rounding of 0 at one of the
50 nodes is on in one of the two and off in the other: there the derivative jumps, and no two float32 programs agree.
Half a million inputs a sample bring that about in a few of 64 samples (in float64 their nearest input was always
within 1e-7 of its layer's largest). Those may differ by that one unit's share at that node; their number is reported.
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

STEPS, CLASSES = 50, 5
METHOD = "gausslegendre"
CUTS = {
    "conv5": "relu5",
    "flatten": "flatten",
    "dense1": "relu6",
    "dense2": "relu7",
}  # units and the layer they leave by
ROUNDS = {
    ("conv5", 8): 5,
    ("flatten", 8): 5,
    ("dense1", 8): 10,
    ("dense2", 8): 30,
    ("dense1", 64): 5,
    ("dense2", 64): 20,
}  # by layer and samples
LAYER_ROUNDS = 2
TOLERANCE = 1e-5  # of a sample's largest attribution to a target: float32 sums in another order
KINK = 1e-2  # the same where a ReLU stands on its kink
EQUAL = 0.75  # share of samples that stay off the kinks
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


def activations(model: Model, value: str, samples: int) -> tuple[F32, F32, NDArray[np.int64]]:
    """Seeded images, h [n, *s] there, and labels [n] drawn from the model's own softmax: no loss is extreme."""
    generator = np.random.default_rng(1)
    images = generator.standard_normal((samples, 3, 227, 227)).astype(np.float32)
    h, logits = run(session(with_outputs(model.ir, [value, "logits"])), {"image": images})
    noise = generator.gumbel(size=logits.shape)
    return images, h, (logits + noise).argmax(axis=1).astype(np.int64)


def our_side(model: Model, value: str, h: F32, labels: NDArray[np.int64]) -> tuple[Callable[[], F32], dict[str, Any]]:
    """One run of the attribution graph, and what building it took."""
    step_sizes, alphas = (np.array(f(STEPS), np.float32) for f in approximation_parameters(METHOD))
    begun = time.perf_counter()
    graph = attribution_graph(model, value, target="classes")
    runner = session(graph.ir, threads=1)
    facts = {"build_s": time.perf_counter() - begun, "hoisted_nodes": graph.hoisted}
    feed = {INPUT: h, ALPHA: alphas, WEIGHT: step_sizes, LABELS: labels}
    return lambda: run(runner, feed)[0], facts


def calls(
    by_class: Any, of_loss: Any, x: F32, labels: NDArray[np.int64], internal_batch: int
) -> Callable[[Sequence[int]], F32]:
    """Attributions by Captum's methods to the given targets, 0…4 softmax outputs, 5 the loss: [targets, n, *s]."""
    given, y = torch.from_numpy(x), torch.from_numpy(labels)
    settings = {"method": METHOD, "n_steps": STEPS, "internal_batch_size": internal_batch}

    def attribute(targets: Sequence[int]) -> F32:
        found = [
            of_loss.attribute(given, additional_forward_args=y, **settings)
            if j == CLASSES
            else by_class.attribute(given, target=j, **settings)
            for j in targets
        ]
        return torch.stack(found).detach().numpy()

    return attribute


def answers(net: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The softmax outputs and the loss of a network that gives logits."""
    return (
        lambda z: torch.softmax(net(z), dim=1),
        lambda z, t: torch.nn.functional.cross_entropy(net(z), t, reduction="none"),
    )


def fastest(
    side: Callable[[int], Callable[[Sequence[int]], F32]], samples: int
) -> tuple[Callable[[Sequence[int]], F32], dict[str, Any]]:
    """A rival with the internal batch size that attributes the loss fastest: 1, 10 or all nodes at once."""
    tried = {}
    for internal_batch in (samples, 10 * samples, STEPS * samples):
        attribute = side(internal_batch)
        tried[internal_batch] = seconds(lambda attribute=attribute: attribute([CLASSES]))
    best = min(tried, key=tried.__getitem__)
    return side(best), {"captum_internal_batch": best, "captum_loss_s_by_internal_batch": tried}


def seconds(function: Callable[[], object]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def relative_gaps(a: F32, b: F32) -> F32:
    """Largest difference of each sample over its largest attribution, worst target, [n]; a, b are [6, n, *s]."""
    flat = [x.reshape(*x.shape[:2], -1) for x in (a, b)]
    return (np.abs(flat[0] - flat[1]).max(axis=2) / np.abs(flat[1]).max(axis=2)).max(axis=0)


def split_head(net: Any, cut: str) -> Any:
    """What follows a layer."""
    names = [name for name, _ in net.named_children()]
    return net[names.index(cut) + 1 :]


def prepared(model: Model, net: Any, layer: str, samples: int) -> Case:
    """Both sides of one cut; raises unless they agree."""
    cut = CUTS[layer]
    _, h, labels = activations(model, f"{cut}.out", samples)
    ours, facts = our_side(model, f"{cut}.out", h, labels)
    methods = [attr.IntegratedGradients(f) for f in answers(split_head(net, cut))]
    attribute, chosen = fastest(lambda size: calls(*methods, h, labels, size), samples)
    captum = lambda: attribute(range(CLASSES + 1))
    gaps = relative_gaps(ours(), captum())
    equal = float((gaps < TOLERANCE).mean())
    assert equal >= EQUAL and gaps.max() < KINK, f"{layer}: {equal:.0%} of samples equal, worst {gaps.max():.1e}"
    facts |= chosen | {
        "equal_samples": equal,
        "max_rel": float(gaps[gaps < TOLERANCE].max()),
        "max_rel_at_a_kink": float(gaps.max()),
    }
    return Case(ours, captum, facts | {"samples": samples, "steps": STEPS, "targets": CLASSES + 1, "threads": 1})


def compared(benchmark: Any, name: str, case: Case, rounds: int) -> None:
    """Time both in turns and report.

    Captum's six calls warm the caches for each other; ours is one call, so an untimed one goes before it.
    """
    benchmark.group = f"integrated gradients at {name}"
    theirs: list[float] = []

    def turn() -> None:
        theirs.append(seconds(case.captum))
        case.ours()

    benchmark.pedantic(case.ours, setup=turn, rounds=rounds, iterations=1)
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
    print(f"\n{name}: Captum {statistics.median(theirs):.3g} s, ours {statistics.median(mine):.3g} s, "
          f"ratio {statistics.median(ratios):.3g} ({min(ratios):.3g}-{max(ratios):.3g})")  # fmt: skip


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("layer", "samples"), ROUNDS)
def test_integrated_gradients(benchmark: Any, model: Model, net: Any, layer: str, samples: int) -> None:
    case = prepared(model, net, layer, samples)
    compared(benchmark, f"{layer}, {samples} samples", case, ROUNDS[layer, samples])


@pytest.mark.timeout(1800)
def test_layer_integrated_gradients_of_the_whole_network(benchmark: Any, model: Model, net: Any) -> None:
    cut, samples = CUTS["conv5"], 8
    images, h, labels = activations(model, f"{cut}.out", samples)
    ours, facts = our_side(model, f"{cut}.out", h, labels)
    methods = [attr.LayerIntegratedGradients(f, getattr(net, cut)) for f in answers(net)]
    attribute, chosen = fastest(lambda size: calls(*methods, images, labels, size), samples)
    case = Case(ours, lambda: attribute(range(CLASSES + 1)), facts | chosen)
    compared(benchmark, "conv5 of the whole network", case, LAYER_ROUNDS)
