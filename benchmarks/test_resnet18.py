"""Integrated gradients of the loss at every ReLU of the blocks of a ResNet-18: our graph against torch's suffix.

64×64 images, 8 samples, 16 Gauss-Legendre nodes, one thread each. The cuts are the 16 ReLUs of the eight blocks, an
inner and an outer one each; the stem's is left out. What the suffix needs (h, and what an inner cut's block adds to it)
is given to both.

Torch has every advantage that we gave it: BatchNorm folded, frozen weights, h as the only leaf, one forward and one
backward pass for a batch of nodes, the best of two memory layouts and three batches of nodes. Its compiler was not
tried. The set-up asserts that the results are equal; speed is reported, not asserted.

Equal means ‖a − b‖ ≤ 1e-4 ‖b‖ for a sample. Where a ReLU's input lies within float32 rounding of 0 the two programs may
switch it differently at that node (see test_attribution). Behind the first cut a sample has 100,000 rectified values at
each of 16 nodes. The samples that differ are counted, none may differ by more than KINK, and torch in float64 says
which of the two programs left it there: ours, torch's in float32, or both.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="torch is the other side of this comparison")

from benchmarks import resnet18  # noqa: E402
from toolchain.compress.gradient import ALPHA, INPUT, WEIGHT, attribution_graph  # noqa: E402
from toolchain.compress.objective import LABELS  # noqa: E402
from toolchain.model import Model, load  # noqa: E402
from toolchain.session import run, session, with_outputs  # noqa: E402

SAMPLES, STEPS, ROUNDS = 8, 16, 5
TOLERANCE, KINK, EQUAL = 1e-4, 2e-2, 0.75  # EQUAL: share of cuts and samples that stay off the kinks
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """One cut, both ways to attribute there, each returning [n, *s]; torch's takes (nodes at once, channels last)."""

    cut: str
    ours: Callable[[], F32]
    torch: Callable[[int, bool], F32]


def quadrature() -> tuple[F32, F32]:
    """Nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(STEPS)
    return ((nodes + 1) / 2).astype(np.float32), (weights / 2).astype(np.float32)


def torch_side(
    net: Any, cut: int, h: F32, skipped: F32 | None, labels: NDArray[np.int64]
) -> Callable[[int, bool], F32]:
    """Σ_α w_α ∂loss(αh)/∂h · h by batches of nodes."""
    alphas, weights = (torch.from_numpy(q).to(torch.from_numpy(h).dtype) for q in quadrature())
    y, layouts = torch.from_numpy(labels), (torch.contiguous_format, torch.channels_last)

    def attribute(at_once: int, is_last: bool) -> F32:
        layout = layouts[is_last]
        given = torch.from_numpy(h).contiguous(memory_format=layout)
        total = torch.zeros_like(given)
        rows = None if skipped is None else torch.from_numpy(skipped).repeat(at_once, 1, 1, 1)
        rows = None if rows is None else rows.contiguous(memory_format=layout)
        for a, w in zip(alphas.split(at_once), weights.split(at_once), strict=True):
            ray = (a[:, None, None, None, None] * given).flatten(0, 1).contiguous(memory_format=layout).requires_grad_()
            logits = resnet18.behind(net, cut, ray, rows)
            loss = torch.nn.functional.cross_entropy(logits, y.repeat(len(a)), reduction="sum")
            (slope,) = torch.autograd.grad(loss, ray)
            total += torch.einsum("anchw,a->nchw", slope.unflatten(0, (len(a), len(h))), w)
        return (total * given).contiguous().numpy()

    return attribute


def our_side(model: Model, cut: str, feed: dict[str, Any]) -> Callable[[], F32]:
    """One run of the attribution graph."""
    graph = attribution_graph(model, cut)
    runner = session(graph.ir, threads=1)
    alphas, weights = quadrature()
    return lambda: run(runner, feed | {ALPHA: alphas, WEIGHT: weights})[0][0]


def relative_gaps(a: F32, b: F32) -> F32:
    """‖a − b‖ / ‖b‖ of each sample, [n]."""
    difference, size = (x.reshape(len(x), -1).astype(np.float64) for x in (a - b, b))
    return np.linalg.norm(difference, axis=1) / np.linalg.norm(size, axis=1)


def cases() -> tuple[list[Case], dict[str, float]]:
    """Every cut, and how far both sides agree there; raises unless they do."""
    model, plain = load(resnet18.onnx_file()), resnet18.seeded()
    nets = {False: plain, True: resnet18.seeded().to(memory_format=torch.channels_last)}
    relus = [str(n.outputs[0].name) for n in model.graph if n.op_type == "Relu"][1:]
    images = np.random.default_rng(1).standard_normal((SAMPLES, *resnet18.IMAGE)).astype(np.float32)
    labels = np.arange(SAMPLES) % resnet18.CLASSES
    exact, found, gaps, left = resnet18.seeded().double(), [], [], []
    for number, cut in enumerate(relus):
        context = [str(v.name) for v in attribution_graph(model, cut).tail.context]
        h, *rest = run(session(with_outputs(model.ir, [cut, *context])), {"image": images})
        ours = our_side(model, cut, {INPUT: h, LABELS: labels} | dict(zip(context, rest, strict=True)))
        sides = {k: torch_side(net, number, h, rest[0] if rest else None, labels) for k, net in nets.items()}
        case = Case(cut, ours, lambda at_once, is_last, sides=sides: sides[is_last](at_once, is_last))
        wide = [None if a is None else a.astype(np.float64) for a in (h, rest[0] if rest else None)]
        true = torch_side(exact, number, *wide, labels)(STEPS // 4, False)  # type: ignore[arg-type]
        mine, theirs = case.ours(), case.torch(STEPS, False)
        gaps.append(relative_gaps(mine, theirs))
        left.append([relative_gaps(side, true) >= TOLERANCE for side in (mine, theirs)])
        found.append(case)
    equal, worst = float((np.array(gaps) < TOLERANCE).mean()), float(np.max(gaps))
    assert equal >= EQUAL and worst < KINK, f"{equal:.0%} of samples equal, worst {worst:.1e}"
    ours_left, torch_left = np.array(left).swapaxes(0, 1)
    return found, {
        "equal_samples": equal,
        "worst_at_a_kink": worst,
        "pairs_where_ours_left_float64": int((ours_left & ~torch_left).sum()),
        "pairs_where_torch_left_float64": int((torch_left & ~ours_left).sum()),
        "pairs_where_both_left_float64": int((ours_left & torch_left).sum()),
    }


def seconds(function: Callable[[], object]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


@pytest.mark.timeout(1800)
def test_loss_at_every_relu(benchmark: Any) -> None:
    torch.set_num_threads(1)
    found, facts = cases()
    settings = list(itertools.product((STEPS, STEPS // 2, STEPS // 4), (False, True)))
    tried = {s: sum(seconds(lambda c=c, s=s: c.torch(*s)) for c in found) for s in settings}
    best = min(tried, key=tried.__getitem__)
    theirs: list[list[float]] = []
    mine: list[list[float]] = []

    def all_of_torch() -> None:
        theirs.append([seconds(lambda c=c: c.torch(*best)) for c in found])

    def all_of_ours() -> None:
        mine.append([seconds(c.ours) for c in found])

    benchmark.pedantic(all_of_ours, setup=all_of_torch, rounds=ROUNDS, iterations=1)
    each = np.median(np.array(theirs) / np.array(mine), axis=0)
    ratios = [sum(t) / sum(m) for t, m in zip(theirs, mine, strict=True)]
    print(f"torch: {best[0]} nodes at once, channels {'last' if best[1] else 'first'}")
    for c, ratio, t, m in zip(found, each, np.median(theirs, axis=0), np.median(mine, axis=0), strict=True):
        print(f"{c.cut}: torch {1e3 * t:.0f} ms, ours {1e3 * m:.0f} ms, ratio {ratio:.2f}")
    print(f"all 16: ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
    print(f"{facts['equal_samples']:.0%} of samples equal, worst {facts['worst_at_a_kink']:.1e}")
    print(", ".join(f"{k.replace('_', ' ')}: {v}" for k, v in facts.items() if k.startswith("pairs")))
    benchmark.extra_info.update(
        facts,
        ratio=statistics.median(ratios),
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        ratio_by_cut={c.cut: float(r) for c, r in zip(found, each, strict=True)},
        torch_s_by_setting={f"{n} nodes, channels {'last' if k else 'first'}": t for (n, k), t in tried.items()},
    )
