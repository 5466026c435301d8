"""Whether the gradient graph of a network is right: against float64 central differences of its tail.

At nodes α_n of weights w_n the graph yields A = h Σ_n w_n ∂F/∂h(α_n h), so that for any r

    Σ_i A_i r_i = Σ_n w_n d/da F(α_n h + a h∘r).

F is the loss of the network's objective: −log p_y, or the deviation from its own answer. r is once 1 and otherwise
standard normal, which leaves no element out. There are two nodes, so that rows of one are not taken for rows of the
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from benchmarks.double import in_double
from toolchain.compress.gradient import ALPHA, INPUT, WEIGHT, attribution_graph, tail_model
from toolchain.compress.groups import Channels
from toolchain.compress.objective import Objective
from toolchain.errors import JettisonError
from toolchain.model import Model
from toolchain.onnx_file import to_bytes
from toolchain.session import run, session, with_outputs

DIRECTIONS = 3
NODES, WEIGHTS = (0.5, 1.0), (0.25, 0.75)  # exact in float32
STEP = 1e-6
RIGHT, NEAR = 1e-3, 1e-2  # relative: in float32 a few of a million rectifiers flip; a wrong rule is far off
Feed = dict[str, np.ndarray[Any, Any]]


def gradients(model: Model, channels: Channels, probes: Sequence[Feed]) -> list[dict[str, Any]]:
    """A middle cut and a late one: where each lies, and how far its gradient is off."""
    cuts = list(dict.fromkeys(c for g in channels.groups for c, _ in g.cuts))
    order = {str(v.name): i for i, n in enumerate(model.graph) for v in n.outputs}
    cuts = sorted((c for c in cuts if c in order), key=order.__getitem__)
    if not cuts:
        return []
    return [checked(model, cut, probes) for cut in dict.fromkeys((cuts[len(cuts) // 2], cuts[-1]))]


def checked(model: Model, cut: str, probes: Sequence[Feed]) -> dict[str, Any]:
    """One cut: status right, wrong, refused (by us, with the reason) or unchecked (the oracle cannot run it)."""
    try:
        graph = attribution_graph(model, cut)
        objective, context = graph.tail.objective, [str(v.name) for v in graph.tail.context]
        head = session(with_outputs(model.ir, [cut, *(str(v.name) for v in objective.values), *context]))
        gradient = session(graph.ir)
    except JettisonError as error:
        return {"cut": cut, "status": "refused", "reason": str(error)}
    try:
        tail = in_double(onnx.ModelProto.FromString(to_bytes(tail_model(model, graph.tail))))
        found, wanted, gap = compared(head, gradient, tail, objective, context, probes)
    except (NotImplementedError, RuntimeError, TypeError) as error:  # ops that onnx's reference does not run
        return {"cut": cut, "status": "unchecked", "reason": f"{type(error).__name__}: {str(error)[:200]}"}
    except Exception as error:  # onnxruntime's exceptions share no base class
        return {"cut": cut, "status": "crashed", "reason": f"{type(error).__name__}: {str(error)[:200]}"}
    norms = np.linalg.norm(found), np.linalg.norm(wanted)
    off = float(np.linalg.norm(found - wanted) / max(norms[1], 1e-30))
    cosine = float((found * wanted).sum() / max(norms[0] * norms[1], 1e-30))
    return {
        "cut": cut,
        "status": "right" if off <= RIGHT else "near" if off <= NEAR else "wrong",
        "relative": off,
        "cosine": cosine,
        "tail_error": gap,
    }


def compared(
    head: Any, gradient: Any, tail: Any, objective: Objective, context: list[str], probes: Sequence[Feed]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], float]:
    """Directional derivatives by the graph and by differences, [probe, direction]; and |F64 − F32| of the answers."""
    generator = np.random.default_rng(0)
    found, wanted, gap = [], [], 0.0
    for number, probe in enumerate(probes):
        h, *rest = run(head, probe)
        at_h, held = rest[: len(objective.values)], rest[len(objective.values) :]
        feed = dict(zip(context, held, strict=True))
        labels = np.full(len(next(iter(probe.values()))), (7 * number + 1) % objective.classes)
        nodes = {ALPHA: np.array(NODES, np.float32), WEIGHT: np.array(WEIGHTS, np.float32)}
        (a,) = run(gradient, feed | nodes | {INPUT: h} | objective.feed(labels, at_h))
        for y, z in zip(at_h, tail(feed | {INPUT: h}), strict=True):
            gap = max(gap, float(np.abs(z - y).max() / max(np.abs(y).max(), 1e-30)))
        for k in range(DIRECTIONS):
            r = generator.standard_normal(h.shape) if k else np.ones(h.shape)
            found.append(float((a[-1] * r).sum(dtype=np.float64)))
            wide, slope = h.astype(np.float64), 0.0
            for n, w in zip(NODES, WEIGHTS, strict=True):
                up, down = (
                    objective.change(at_h, tail(feed | {INPUT: wide * (n + s * r)}), labels).sum()
                    for s in (STEP, -STEP)
                )  # F(h) − F(there)
                slope += w * (down - up) / (2 * STEP)
            wanted.append(slope)
    return np.array(found), np.array(wanted), gap
