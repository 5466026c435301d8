"""Load → analyse → plan → prune → save at the sizes where careless loops show: time and peak memory of a cold process.

    python -m benchmarks.scale [--json FILE]

A chain of 20,000 nodes (dense and Relu in turn), a DenseNet of 300 layers, and a vision transformer of a gigabyte
(ViT-Large's width, 21 blocks). Half of the units go, or half of the parameters, by magnitude.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.cold import cold
from benchmarks.files import cached


class Graph:
    """A graph under construction: nodes and seeded weights."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.generator = np.random.default_rng(0)

    def weight(self, *shape: int) -> str:
        """Normal weights, scaled to keep the variance."""
        scale = np.float32(1 / np.sqrt(max(np.prod(shape[:-1]), 1)))
        return self.hold(self.generator.standard_normal(shape, np.float32) * scale)

    def hold(self, array: Any) -> str:
        """An initializer."""
        name = f"p{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node; its output, or the list of them."""
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=f"n{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def dense(self, x: str, width: int, units: int) -> str:
        """x W + b."""
        return self.op("Add", self.op("MatMul", x, self.weight(width, units)), self.weight(units))

    def model(self, shape: tuple[int, ...], y: str) -> bytes:
        """The file."""
        x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", *shape])
        out = helper.make_tensor_value_info(y, onnx.TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "scale", [x], [out], self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def chain(nodes: int = 20_000, width: int = 16) -> bytes:
    """Dense and Relu in turn, 16 wide."""
    g, x = Graph(), "x"
    for _ in range(nodes // 2):
        x = g.op("Relu", g.op("Gemm", x, g.weight(width, width), g.weight(width)))
    return g.model((width,), g.op("Gemm", x, g.weight(width, 10), g.weight(10)))


def densenet(layers: int = 300, growth: int = 12) -> bytes:
    """Three dense blocks: each convolution reads all before it in its block."""
    g = Graph()
    x, width = g.op("Conv", "x", g.weight(24, 3, 3, 3), pads=[1] * 4), 24
    for block in range(3):
        for _ in range(layers // 3):
            y = g.op("Relu", g.op("BatchNormalization", x, *(g.hold(np.ones(width, np.float32)) for _ in range(4))))
            x = g.op("Concat", x, g.op("Conv", y, g.weight(growth, width, 3, 3), pads=[1] * 4), axis=1)
            width += growth
        if block < 2:
            x = g.op(
                "AveragePool", g.op("Conv", x, g.weight(width // 2, width, 1, 1)), kernel_shape=[2, 2], strides=[2, 2]
            )
            width //= 2
    x = g.op("Flatten", g.op("GlobalAveragePool", g.op("Relu", x)))
    return g.model((3, 32, 32), g.op("Gemm", x, g.weight(width, 10), g.weight(10)))


def vision_transformer(blocks: int = 21, width: int = 1024, heads: int = 16, tokens: int = 196) -> bytes:
    """Patches, blocks of fused attention and MLP before their norms, the mean of the tokens."""
    g = Graph()
    x = g.op("Conv", "x", g.weight(width, 3, 16, 16), strides=[16, 16])
    x = g.op("Transpose", g.op("Reshape", x, g.hold(np.array([0, width, -1]))), perm=[0, 2, 1])
    norm = lambda y: g.op("LayerNormalization", y, g.hold(np.ones(width, np.float32)), g.weight(width))
    split, joined = np.array([0, tokens, 3, heads, width // heads]), np.array([0, tokens, width])
    for _ in range(blocks):
        qkv = g.op("Reshape", g.dense(norm(x), width, 3 * width), g.hold(split))
        qkv = g.op("Transpose", qkv, perm=[2, 0, 3, 1, 4])
        q, k, v = (g.op("Gather", qkv, g.hold(np.array(i)), axis=0) for i in range(3))
        scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = g.op("Softmax", g.op("Mul", scores, g.hold(np.float32((width / heads) ** -0.5))), axis=-1)
        y = g.op("Reshape", g.op("Transpose", g.op("MatMul", scores, v), perm=[0, 2, 1, 3]), g.hold(joined))
        x = g.op("Add", x, g.dense(y, width, width))
        x = g.op("Add", x, g.dense(g.op("Gelu", g.dense(norm(x), width, 4 * width)), 4 * width, width))
    x = g.op("ReduceMean", norm(x), g.hold(np.array([1])), keepdims=0)
    return g.model((3, 224, 224), g.dense(x, width, 1000))


NETWORKS: dict[str, Callable[[], bytes]] = {
    "chain of 20,000 nodes": chain,
    "DenseNet of 300 layers": densenet,
    "ViT of a gigabyte": vision_transformer,
}


def row(name: str, build: Callable[[], bytes], budget: str) -> dict[str, Any]:
    """One network: a cold `jettison prune`."""
    file = cached(f"scale_{build.__name__}.onnx", lambda path: path.write_bytes(build()))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pruned.onnx"
        command = (
            "-m",
            "toolchain.cli",
            "prune",
            file,
            "--criterion",
            "magnitude",
            "--budget",
            budget,
            "-o",
            out,
        )
        ran = cold(command)
        size, left = file.stat().st_size, out.stat().st_size
    return {
        "network": name,
        "budget": budget,
        "file MB": round(size / 1e6, 1),
        "left MB": round(left / 1e6, 1),
        "wall s": round(ran.seconds, 2),
        "processor s": round(ran.cpu_seconds, 2),
        "peak RSS MB": round(ran.peak_rss_bytes / 1e6),
        "RSS / file": round(ran.peak_rss_bytes / size, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = [row(name, build, budget) for name, build in NETWORKS.items() for budget in ("units<=50%", "params<=50%")]
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for r in rows:
        print("| " + " | ".join(map(str, r.values())) + " |")
    if asked.json is not None:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
