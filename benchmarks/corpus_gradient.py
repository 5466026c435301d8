"""Whether the gradient graph of a network is right: against float64 central differences of its tail.

At nodes α_n of weights w_n the graph yields A = h Σ_n w_n ∂F/∂h(α_n h), so that for any r

    Σ_i A_i r_i = Σ_n w_n d/da F(α_n h + a h∘r).

F is the loss −log p_y; r is once 1 and otherwise standard normal, which leaves no element out. There are two nodes, so
that rows of one are not taken for rows of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from benchmarks.double import in_double
from toolchain.compress.attribution import targets
from toolchain.compress.gradient import ALPHA, INPUT, LABELS, WEIGHT, attribution_graph, tail_model
from toolchain.compress.groups import Channels
from toolchain.errors import JettisonError
from toolchain.model import Model, to_bytes
from toolchain.ops.table import dims
from toolchain.session import run, session, with_outputs

DIRECTIONS = 3
NODES, WEIGHTS = (0.5, 1.0), (0.25, 0.75)  # exact in float32
STEP = 1e-6
RIGHT = (
    1e-2  # relative: in float32 a few of a million rectifiers are on the other side; a wrong rule is off by far more
)
Feed = dict[str, np.ndarray[Any, Any]]


def gradients(model: Model, channels: Channels, probes: Sequence[Feed]) -> list[dict[str, Any]]:
    """A middle cut and a late one: where each lies, and how far its gradient is off."""
    model = with_logits(model)
    cuts = list(dict.fromkeys(c for g in channels.groups for c, _ in g.cuts))
    order = {str(v.name): i for i, n in enumerate(model.graph) for v in n.outputs}
    cuts = sorted((c for c in cuts if c in order), key=order.__getitem__)
    if not cuts:
        return []
    return [checked(model, cut, probes) for cut in dict.fromkeys((cuts[len(cuts) // 2], cuts[-1]))]


def with_logits(model: Model) -> Model:
    """The model with its first output alone, as one row of logits: means over places, or all of it if it is small."""
    first = model.graph.outputs[0]
    sizes = dims(first)
    if len(model.graph.outputs) == 1 and len(sizes) == 2 and sizes[1] > 1:
        return model
    clone = with_outputs(model.ir, [str(first.name)])
    value = clone.graph.outputs[0]
    if len(sizes) > 2:
        if sizes[1] > 1:
            value = appended(clone.graph, "GlobalAveragePool", value, (*sizes[:2], *[1] * (len(sizes) - 2)))
        value = appended(clone.graph, "Flatten", value, (sizes[0], int(np.prod(dims(value)[1:]))))
    if dims(value)[1] == 1:  # one logit: of two classes
        pads = ir.tensor(np.array([0, 0, 0, 1], np.int64), name="corpus/pads")
        held = ir.Value(name="corpus/pads", const_value=pads, shape=ir.Shape([4]), type=ir.TensorType(pads.dtype))
        clone.graph.initializers["corpus/pads"] = held
        value = appended(clone.graph, "Pad", value, (sizes[0], 2), held)
    clone.graph.outputs.clear()
    clone.graph.outputs.append(value)
    return model.with_ir(clone)


def appended(graph: ir.Graph, op_type: str, value: ir.Value, shape: tuple[int, ...], *more: ir.Value) -> ir.Value:
    """The output of a node behind all others."""
    node = ir.node(op_type, [value, *more], name=f"corpus/{op_type}")
    out = node.outputs[0]
    out.name, out.type = f"corpus/{op_type}.out", value.type
    out.shape = ir.Shape(["N" if d < 0 else d for d in shape])
    graph.append(node)
    return out


def checked(model: Model, cut: str, probes: Sequence[Feed]) -> dict[str, Any]:
    """One cut: status right, wrong, refused (by us, with the reason) or unchecked (the oracle cannot run it)."""
    try:
        graph = attribution_graph(model, cut)
        needed = [cut, *(str(v.name) for v in graph.tail.context)]
        head, gradient = session(with_outputs(model.ir, needed)), session(graph.ir)
        whole = session(with_outputs(model.ir, [str(graph.tail.logits.name)]))
    except JettisonError as error:
        return {"cut": cut, "status": "refused", "reason": str(error)}
    try:
        tail = in_double(onnx.ModelProto.FromString(to_bytes(tail_model(model, graph.tail))))
        found, wanted, gap = compared(head, gradient, whole, tail, needed, probes)
    except (NotImplementedError, RuntimeError, TypeError) as error:  # ops that onnx's reference does not run
        return {"cut": cut, "status": "unchecked", "reason": f"{type(error).__name__}: {str(error)[:200]}"}
    except Exception as error:  # onnxruntime's exceptions share no base class
        return {"cut": cut, "status": "crashed", "reason": f"{type(error).__name__}: {str(error)[:200]}"}
    norms = np.linalg.norm(found), np.linalg.norm(wanted)
    off = float(np.linalg.norm(found - wanted) / max(norms[1], 1e-30))
    cosine = float((found * wanted).sum() / max(norms[0] * norms[1], 1e-30))
    return {
        "cut": cut,
        "status": "right" if off <= RIGHT else "wrong",
        "relative": off,
        "cosine": cosine,
        "tail_error": gap,
    }


def compared(head: Any, gradient: Any, whole: Any, tail: Any, needed: list[str], probes: Sequence[Feed]) -> Any:
    """Directional derivatives by the graph and by differences, [probe, direction]; and |F64 − F32| of the logits."""
    generator = np.random.default_rng(0)
    found, wanted, gap = [], [], 0.0
    for number, probe in enumerate(probes):
        h, *context = run(head, probe)
        feed = dict(zip(needed[1:], context, strict=True))
        (logits,) = run(whole, probe)
        labels = np.array([(7 * number + 1) % logits.shape[1]], np.int64).repeat(len(logits))
        nodes = {ALPHA: np.array(NODES, np.float32), WEIGHT: np.array(WEIGHTS, np.float32)}
        (a,) = run(gradient, feed | nodes | {INPUT: h, LABELS: labels})
        (z,) = tail(feed | {INPUT: h})
        gap = max(gap, float(np.abs(z - logits).max() / np.abs(z).max()))
        for k in range(DIRECTIONS):
            r = generator.standard_normal(h.shape) if k else np.ones(h.shape)
            found.append(float((a[-1] * r).sum(dtype=np.float64)))
            ways = [(n, w, s) for n, w in zip(NODES, WEIGHTS, strict=True) for s in (STEP, -STEP)]
            wide = h.astype(np.float64)
            wanted.append(
                sum(
                    w / (2 * s) * targets(tail(feed | {INPUT: wide * (n + s * r)})[0], labels, 1).sum()
                    for n, w, s in ways
                )
            )
    return np.array(found), np.array(wanted), gap
