"""A network whose every count can be told by hand, under any names; and configurations around it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from toolchain.config import ConfigFile, read_config
from toolchain.gate.checking import check
from toolchain.gate.limits import limits
from toolchain.gate.verdicts import Checked

# conv 2→3 of 3×3 on 4×4, padded: 54 weights, 3 biases, 4·4·54 products; dense 48→5: 240 weights, 5 biases, 240 products
PARAMS, MACS = 54 + 3 + 240 + 5, 16 * 54 + 240
# the input of 2·4·4 floats beside the convolution's 3·4·4: every other moment holds less
RAM = 4 * (32 + 48)


def net(path: Path, conv: str = "conv", dense: str = "dense", classes: int = 5, height: int = 4) -> Path:
    """The network in a file; its nodes bear these names, and its values follow them."""
    generator = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name)

    places = 4 * height
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], [f"{conv}.out"], conv, pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"{conv}.out"], ["r"], "relu"),
            helper.make_node("Flatten", ["r"], ["f"], "flatten"),
            helper.make_node("Gemm", ["f", "v", "c"], ["y"], dense),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, height, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes])],
        [weight("w", 3, 2, 3, 3), weight("b", 3), weight("v", 3 * places, classes), weight("c", classes)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def configured(folder: Path, text: str, name: str = "jettison.toml") -> ConfigFile:
    """A configuration beside what it names."""
    (folder / name).write_text(text)
    found = read_config(folder / name)
    assert found is not None
    return found


def ran(folder: Path, text: str, baseline: str | None = None, skip: tuple[str, ...] = ()) -> Checked:
    """The gate's verdicts on a configuration."""
    file = configured(folder, text)
    return check(file, limits(file, baseline), skip)
