"""How near attribution graphs come to what onnxruntime can do at all on this machine.

    python -m benchmarks.throughput [--json FILE]

Necessary multiply-accumulates are counted by the op table: behind the cut every node forward once and back once for
each cotangent, the straight part per sample, the curved part per sample and node. What a graph spends on anything else
counts as lost, and so does padding that a convolution multiplies. The peak is taken in the same run, in turns with the
graph: the fastest plain MatMul, and the fastest plain Conv of the network's own shapes. The share is the time that the
necessary products take at these peaks over the time of the graph; one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from benchmarks import nets
from toolchain.compress.attribution import quadrature
from toolchain.compress.gradient import ALPHA, INPUT, WEIGHT, Tail, attribution_graph, rays_of
from toolchain.compress.objective import LABELS
from toolchain.model import Model, load
from toolchain.ops.table import Ray, dims
from toolchain.profile import node_macs
from toolchain.session import run, session, with_outputs

CASES = (  # cut, samples, nodes, whether classes are asked for too
    ("relu2.out", 8, 16, False),
    ("relu4.out", 8, 16, False),
    ("flatten.out", 8, 50, True),
    ("relu6.out", 8, 50, True),
    ("relu6.out", 64, 50, True),
)
ROUNDS = 5
PEAK_ROWS, PEAK_IMAGES = 1600, 32


def necessary(tail: Tail, samples: int, nodes: int) -> dict[str, float]:
    """Multiply-accumulates of a graph by kind of peak: Conv or MatMul."""
    rays, found = rays_of(tail), {"Conv": 0.0, "MatMul": 0.0}
    for node in tail.nodes:
        is_straight = all(rays[v] > Ray.CURVED for v in node.outputs)
        rows = samples if is_straight else samples * nodes
        cotangents = tail.objective.count if is_straight else tail.objective.riding
        kind = "Conv" if "Conv" in node.op_type else "MatMul"
        found[kind] += node_macs(node, dims) * rows * (1 + cotangents)
    return found


def alone(node: ir.Node, rows: int) -> tuple[Callable[[], object], float]:
    """A session of one node with its parameters on random rows, and its multiply-accumulates."""
    x, *rest = node.inputs
    assert x is not None
    given = ir.Value(name="x", shape=ir.Shape(["N", *dims(x)[1:]]), type=ir.TensorType(ir.DataType.FLOAT))
    copies = [None if v is None else ir.Value(name=v.name, const_value=v.const_value) for v in rest]
    copy = ir.Node("", node.op_type, [given, *copies], node.attributes.values(), name="alone")
    copy.outputs[0].name, copy.outputs[0].dtype = "y", ir.DataType.FLOAT
    copy.outputs[0].shape = ir.Shape(["N", *dims(node.outputs[0])[1:]])
    held = [v for v in copies if v is not None]
    graph = ir.Graph([given], copy.outputs, nodes=[copy], initializers=held, opset_imports={"": 20}, name="alone")
    runner = session(ir.Model(graph, ir_version=10))
    data = np.random.default_rng(0).standard_normal((rows, *dims(x)[1:])).astype(np.float32)
    return lambda: run(runner, {"x": data}), float(node_macs(node, dims) * rows)


def seconds(function: Callable[[], object]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def measured(
    model: Model, cut: str, samples: int, nodes: int, per_class: bool, peaks: dict[str, Any]
) -> dict[str, Any]:
    """The median share over rounds, each with its own peaks."""
    graph = attribution_graph(model, cut, "classes" if per_class else "loss", axis=1)
    images = np.random.default_rng(1).standard_normal((samples, 3, 227, 227)).astype(np.float32)
    (h,) = run(session(with_outputs(model.ir, [cut])), {"image": images})
    alphas, weights = quadrature(nodes)
    feed = {INPUT: h, ALPHA: alphas, WEIGHT: weights, LABELS: np.arange(samples) % 5}
    runner, wanted = session(graph.ir), necessary(graph.tail, samples, nodes)
    run(runner, feed)
    rates, times, shares = [], [], []
    for _ in range(ROUNDS):
        rates.append({kind: max(macs / seconds(f) for f, macs in plain) for kind, plain in peaks.items()})
        times.append(seconds(lambda: run(runner, feed)))
        shares.append(sum(macs / rates[-1][kind] for kind, macs in wanted.items()) / times[-1])
    return {
        "cut": cut, "samples": samples, "nodes": nodes, "seeds": graph.seeds, "seconds": statistics.median(times),
        "gmacs": sum(wanted.values()) / 1e9,
        "gflops": statistics.median(2 * sum(wanted.values()) / t / 1e9 for t in times),
        "peak_gflops": {k: statistics.median(2 * r[k] / 1e9 for r in rates) for k in peaks},
        "share_of_peak": statistics.median(shares), "share_min": min(shares), "share_max": max(shares),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    model = load(nets.alexnet5_file())
    by_name = {n.name: n for n in model.graph}
    peaks = {
        "Conv": [alone(by_name[f"conv{i}"], PEAK_IMAGES) for i in (2, 3, 4, 5)],
        "MatMul": [alone(by_name["dense2"], PEAK_ROWS)],
    }
    rows = []
    for case in CASES:
        row = measured(model, *case, peaks)
        rows.append(row)
        peak = ", ".join(f"{k} {v:.0f}" for k, v in row["peak_gflops"].items())
        print(f"{row['cut']:12s} {row['samples']:3d} samples {row['nodes']:3d} nodes {row['seeds']} seeds: "
              f"{row['gflops']:.0f} GFLOP/s, peaks {peak}: {row['share_of_peak']:.0%} "
              f"({row['share_min']:.0%}-{row['share_max']:.0%})", flush=True)  # fmt: skip
    if asked.json is not None:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
