"""Half of the channels of one network removed by onnxsim 0.8.1: simplify, structured pruning, attention heads.

    python -m benchmarks.rivals.onnxsim_case NAME.onnx

It runs in an environment with onnxsim and onnxruntime alone. Which channels went is read off its file: a parameter of
the same node with fewer rows. Masked is the simplified network with the columns that read them set to zero.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import onnxsim
from onnx import numpy_helper

EQUAL = 1e-4
Array = np.ndarray[Any, Any]


def case(path: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"name": path.stem, "tool": "onnxsim"}
    model = onnx.load(path)
    try:
        begun = time.perf_counter()
        simple, _ = onnxsim.simplify(model)
        simplified = time.perf_counter()
        pruned = onnxsim.apply_structured_pruning(simple, sparsity=0.5)
        pruned = onnxsim.apply_attention_head_pruning(pruned, sparsity=0.5)
        row["seconds"] = {"simplify": simplified - begun, "prune": time.perf_counter() - simplified}
        row["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        row["params_kept"] = params(pruned) / params(model)
        probes = probes_of(path)
        row |= verdict(answers(simple, probes), answers(pruned, probes), answers(masked(simple, pruned), probes))
        row["is_untouched"] = params(pruned) == params(simple)
    except Exception as error:  # the rival's crash is a result
        row |= {"status": "crashed", "reason": f"{type(error).__name__}: {str(error)[:300]}"}
    return row


def verdict(dense: list[list[Array]], pruned: list[list[Array]], goal: list[list[Array]]) -> dict[str, Any]:
    """right: equal to the masked network; wrong: not; shapes: its outputs have others."""
    pairs = [(y, z) for ys, zs in zip(pruned, dense, strict=True) for y, z in zip(ys, zs, strict=True)]
    if any(y.shape != z.shape for y, z in pairs):
        return {"status": "shapes", "reason": "outputs have other shapes"}
    pairs = [(y, z) for ys, zs in zip(pruned, goal, strict=True) for y, z in zip(ys, zs, strict=True)]
    error = max(float(np.abs(y - z).max() / max(np.abs(z).max(), 1e-30)) for y, z in pairs)
    return {"status": "right" if error <= EQUAL else "wrong", "error": error}


def params(model: onnx.ModelProto) -> int:
    """Elements of all float parameters."""
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type in (1, 10, 11))


def probes_of(path: Path) -> list[list[Array]]:
    with np.load(path.with_suffix(".npz")) as file:
        count = sum(k.endswith("_x0") for k in file.files)
        return [
            [file[f"p{i}_x{j}"] for j in range(sum(k.startswith("p0_x") for k in file.files))] for i in range(count)
        ]


def answers(model: onnx.ModelProto, probes: list[list[Array]]) -> list[list[Array]]:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return [session.run(None, dict(zip(names, p, strict=True))) for p in probes]


def masked(simple: onnx.ModelProto, pruned: onnx.ModelProto) -> onnx.ModelProto:
    """The simplified network with zeros in the columns that the pruned one lacks."""
    copy = onnx.ModelProto.FromString(simple.SerializeToString())
    held = {t.name: t for t in copy.graph.initializer}
    left = {t.name: t for t in pruned.graph.initializer}
    weights = {n.output[0]: n.input[1] for n in pruned.graph.node if len(n.input) > 1}
    for node in copy.graph.node:
        axis, groups = contracted(node)
        name = node.input[1] if len(node.input) > 1 else ""
        other = weights.get(node.output[0], "")
        if axis is None or name not in held or other not in left:
            continue
        before, after = numpy_helper.to_array(held[name]).copy(), numpy_helper.to_array(left[other])
        if before.ndim != after.ndim or before.shape[axis] == after.shape[axis]:
            continue
        for block in np.split(before, groups):  # views: each group of a convolution reads channels of its own
            gone = [i for i, kept in enumerate(kept_rows(block, after, axis)) if not kept]
            block[(slice(None),) * axis + (gone,)] = 0
        held[name].CopyFrom(numpy_helper.from_array(before, name))
    return copy


def contracted(node: onnx.NodeProto) -> tuple[int | None, int]:
    """The axis of a node's weight that it sums over, and how many groups of rows read inputs of their own."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        return 1, attributes.get("group", 1)
    if node.op_type == "Gemm":
        return (1 if attributes.get("transB", 0) else 0), 1
    return {"MatMul": 0, "ConvTranspose": 0}.get(node.op_type), 1


def kept_rows(before: Array, after: Array, axis: int) -> list[bool]:
    """As many rows along an axis as are left, those with the largest share of numbers that are left."""
    rows = np.moveaxis(before, axis, 0).reshape(before.shape[axis], -1)
    order = np.argsort(-np.isin(rows, after).mean(axis=1), kind="stable")
    return np.isin(np.arange(len(rows)), order[: after.shape[axis]]).tolist()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    print(json.dumps(case(parser.parse_args().path)))
