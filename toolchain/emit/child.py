"""Runs a TFLite file on the LiteRT runtime, in a process of its own: a malformed file can take the runtime down.

child.py MODEL FEEDS.npz OUTPUTS.npz THREADS RESOLVER. Arrays are in ONNX's axes; the file's metadata says how it
permutes them. The script imports nothing of the toolchain, so that it starts in a fraction of a second.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np


def permutations(path: str) -> dict[str, dict[str, Any]]:
    """ONNX axes in file order of inputs and outputs, and where samples are not the first axis; empty if not told."""
    from ai_edge_litert import schema_py_generated as schema

    with open(path, "rb") as file:
        model = schema.Model.GetRootAs(file.read())
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        if entry is not None and entry.Name() == b"jettison.layout":
            buffer = model.Buffers(entry.Buffer())
            return json.loads(bytes(buffer.DataAsNumpy())) if buffer is not None else {}
    return {"inputs": {}, "outputs": {}}


def run(path: str, feeds: dict[str, Any], threads: int = 1, resolver: str = "BUILTIN") -> dict[str, Any]:
    """Outputs in ONNX's axes for any number of samples, file batch by file batch.

    resolver  name of an OpResolverType: BUILTIN runs XNNPACK, BUILTIN_REF the reference kernels
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    turned = permutations(path)
    interpreter = Interpreter(path, num_threads=threads, experimental_op_resolver_type=OpResolverType[resolver])
    interpreter.allocate_tensors()
    signature = interpreter.get_signature_runner()
    into, out = signature.get_input_details(), signature.get_output_details()
    del signature  # the interpreter does not run while anything else refers to it
    feeds = {k: np.transpose(x, turned["inputs"].get(k) or range(np.ndim(x))) for k, x in feeds.items()}
    batch, samples = min(int(d["shape"][0]) for d in into.values()), min(len(x) for x in feeds.values())
    parts: list[dict[str, Any]] = []
    for start in range(0, samples, batch):  # the last batch is filled up from the first samples
        for name, detail in into.items():
            rows = feeds[name].take(range(start, start + batch), axis=0, mode="wrap")
            interpreter.set_tensor(detail["index"], encoded(rows, detail))
        interpreter.invoke()
        parts.append({k: decoded(interpreter.get_tensor(d["index"]), d) for k, d in out.items()})
    return {k: joined(k, [p[k] for p in parts], turned, samples / (len(parts) * batch)) for k in out}


def joined(name: str, parts: list[Any], turned: dict[str, Any], share: float) -> Any:
    """An output of all file batches in ONNX's axes, without what filled up the last one.

    share  of the rows that are no filling
    """
    pieces = [np.atleast_1d(p) for p in parts]
    axis, last = turned.get("batch", {}).get(name, 0), np.argsort(turned["outputs"].get(name) or range(pieces[0].ndim))
    y = np.concatenate([np.transpose(p, last) for p in pieces], axis)
    return y.take(range(round(y.shape[axis] * share)), axis)


def encoded(x: Any, detail: dict[str, Any]) -> Any:
    """Floats as the file's type, quantised where it asks for integers with a scale."""
    scale, zero = detail["quantization"]
    if scale and x.dtype.kind == "f" and np.dtype(detail["dtype"]).kind in "iu":
        limits = np.iinfo(detail["dtype"])
        x = np.clip(np.round(x / scale) + zero, limits.min, limits.max)
    return np.ascontiguousarray(x.astype(detail["dtype"]))


def decoded(y: Any, detail: dict[str, Any]) -> Any:
    """Quantised numbers as floats."""
    scale, zero = detail["quantization"]
    return np.float32(scale) * (y.astype(np.float32) - zero) if scale and y.dtype.kind in "iu" else y


if __name__ == "__main__":
    with np.load(sys.argv[2]) as stored:
        given = {k.removeprefix("x."): stored[k] for k in stored.files}
    np.savez(sys.argv[3], **{f"y.{k}": y for k, y in run(sys.argv[1], given, int(sys.argv[4]), sys.argv[5]).items()})
