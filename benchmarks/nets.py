"""AlexNet-5, the network of Lundstrom et al. 2022 (SEEDS.md part A), with seeded weights.

Random weights do for what is timed and counted here. They are scaled by He's rule and every bias differs from 0, so
that about half of the units of each layer are active and no gradient vanishes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.files import cached

if TYPE_CHECKING:
    from torch import nn

PARAMETERS, MACS = 58_301_829, 1_131_180_576
POOL = {"kernel_shape": [3, 3], "strides": [2, 2]}
CONVS = (  # outputs, inputs, kernel, stride, padding, whether a pool follows
    (96, 3, 11, 4, 0, True),
    (256, 96, 5, 1, 2, True),
    (384, 256, 3, 1, 1, False),
    (384, 384, 3, 1, 1, False),
    (256, 384, 3, 1, 1, True),
)
DENSE = ((4096, 9216), (4096, 4096), (5, 4096))  # outputs, inputs
Layer = tuple[str, str, dict[str, Any], tuple[int, ...]]


def layers() -> list[Layer]:
    """(name, op, attributes, shape of the weights) of each layer in order; each kind is numbered from 1."""
    found: list[Layer] = []

    def add(kind: str, op: str, attributes: dict[str, Any] | None = None, weights: tuple[int, ...] = ()) -> None:
        number = sum(name.startswith(kind) for name, *_ in found) + 1
        found.append((kind if kind == "flatten" else f"{kind}{number}", op, attributes or {}, weights))

    for outputs, inputs, kernel, stride, padding, has_pool in CONVS:
        window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
        add("conv", "Conv", window, (outputs, inputs, kernel, kernel))
        add("relu", "Relu")
        if has_pool:
            add("pool", "MaxPool", POOL)
    add("flatten", "Flatten", {"axis": 1})
    for outputs, inputs in DENSE:
        add("dense", "Gemm", {"transB": 1}, (outputs, inputs))
        if outputs > 5:
            add("relu", "Relu")
    return found


def alexnet5(seed: int = 0) -> onnx.ModelProto:
    """AlexNet-5 in opset 20: image [N, 3, 227, 227] -> logits [N, 5], 58,301,829 parameters; layer s gives s.out."""
    generator = np.random.default_rng(seed)
    nodes, parameters, value = [], [], "image"
    described = layers()
    for name, op, attributes, shape in described:
        inputs = [value]
        if shape:
            weights = generator.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
            bias = generator.standard_normal(shape[0], np.float32) * np.float32(0.1)
            parameters += [numpy_helper.from_array(a, f"{name}.{p}") for a, p in ((weights, "weight"), (bias, "bias"))]
            inputs += [f"{name}.weight", f"{name}.bias"]
        value = "logits" if name == described[-1][0] else f"{name}.out"
        nodes.append(helper.make_node(op, inputs, [value], name, **attributes))
    graph = helper.make_graph(
        nodes,
        "alexnet5",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 227, 227])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
        parameters,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def alexnet5_torch(model: onnx.ModelProto) -> nn.Sequential:
    """The same network with the same weights in torch, in inference mode and frozen; its layers bear the same names."""
    import torch
    from torch import nn

    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    makers: dict[str, Callable[[dict[str, Any], tuple[int, ...]], nn.Module]] = {
        "Conv": lambda a, s: nn.Conv2d(s[1], s[0], s[2], a["strides"][0], a["pads"][0], device="meta"),
        "Relu": lambda a, s: nn.ReLU(),
        "MaxPool": lambda a, s: nn.MaxPool2d(3, 2),
        "Flatten": lambda a, s: nn.Flatten(),
        "Gemm": lambda a, s: nn.Linear(s[1], s[0], device="meta"),
    }
    net = nn.Sequential()
    for name, op, attributes, shape in layers():
        net.add_module(name, makers[op](attributes, shape))
    net.load_state_dict({k: torch.from_numpy(a.copy()) for k, a in arrays.items()}, assign=True)
    return net.requires_grad_(False).eval()


def alexnet5_file() -> Path:
    """AlexNet-5 as a 233 MB ONNX file."""
    return cached("alexnet5.onnx", lambda path: path.write_bytes(alexnet5().SerializeToString()))
