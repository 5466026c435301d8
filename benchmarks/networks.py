"""Six convolutional networks of the sizes people fly, with seeded weights: for what is timed and counted.

AlexNet-5 is in `nets`; the others follow their papers' tables: VGG-11 (Simonyan & Zisserman 2015) with narrower dense
layers, ResNet-18 (He et al. 2016), MobileNetV2 (Sandler et al. 2018), DenseNet-121 (Huang et al. 2017), SqueezeNet 1.1
(Iandola et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.files import cached
from benchmarks.nets import alexnet5_file
from benchmarks.scale import Graph

POOL = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
HALF = {"kernel_shape": [2, 2], "strides": [2, 2]}


class Layers(Graph):
    """A graph under construction whose layers know the widths of what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.width = {"x": 3}

    def conv(self, x: str, units: int, kernel: int = 3, stride: int = 1, group: int = 1) -> str:
        """A convolution with a bias, padded to keep the size."""
        shape = (units, self.width[x] // group, kernel, kernel)
        scale = np.float32((2 / np.prod(shape[1:])) ** 0.5)  # He's rule: activations neither fade nor blow up
        weight = self.hold(self.generator.standard_normal(shape, np.float32) * scale)
        y = self.op("Conv", x, weight, self.weight(units), pads=[kernel // 2] * 4, strides=[stride] * 2, group=group)
        self.width[y] = units
        return y

    def same(self, kind: str, *inputs: str, **attributes: object) -> str:
        """An op that leaves the width of its first input."""
        y = self.op(kind, *inputs, **attributes)
        self.width[y] = self.width[inputs[0]]
        return y

    def relu(self, x: str) -> str:
        """max(x, 0)."""
        return self.same("Relu", x)

    def joined(self, *inputs: str) -> str:
        """Channels side by side."""
        y = self.op("Concat", *inputs, axis=1)
        self.width[y] = sum(self.width[x] for x in inputs)
        return y

    def classified(self, x: str, shape: tuple[int, ...] = (3, 224, 224)) -> bytes:
        """The mean over places, a dense layer of 1000 classes, and the file."""
        weights = self.weight(self.width[x], 1000), self.weight(1000)
        return self.model(shape, self.op("Gemm", self.op("Flatten", self.op("GlobalAveragePool", x)), *weights))


def vgg11() -> bytes:
    """3×3 convolutions and 2×2 pools at 112×112, two dense layers of 1024."""
    g, x = Layers(), "x"
    for units, convolutions in ((64, 1), (128, 1), (256, 2), (512, 2), (512, 2)):
        for _ in range(convolutions):
            x = g.relu(g.conv(x, units))
        x = g.same("MaxPool", x, **HALF)
    x, width = g.op("Flatten", x), 512 * 3 * 3
    for _ in range(2):
        x, width = g.op("Relu", g.op("Gemm", x, g.weight(width, 1024), g.weight(1024))), 1024
    return g.model((3, 112, 112), g.op("Gemm", x, g.weight(width, 1000), g.weight(1000)))


def resnet18() -> bytes:
    """Eight residual blocks in four stages."""
    g = Layers()
    x = g.same("MaxPool", g.relu(g.conv("x", 64, 7, 2)), **POOL)
    for units in (64, 128, 256, 512):
        for block in range(2):
            stride = 2 if block == 0 and units > 64 else 1
            y = g.conv(g.relu(g.conv(x, units, 3, stride)), units)
            shortcut = g.conv(x, units, 1, stride) if stride == 2 else x
            x = g.relu(g.same("Add", y, shortcut))
    return g.classified(x)


def mobilenet_v2() -> bytes:
    """Inverted residuals with depthwise convolutions and ReLU6."""
    g = Layers()
    bounds = (g.hold(np.float32(0)), g.hold(np.float32(6)))
    relu6 = lambda x: g.same("Clip", x, *bounds)
    x = relu6(g.conv("x", 32, 3, 2))
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, units, blocks, first in stages:
        for block in range(blocks):
            stride, inner = first if block == 0 else 1, expansion * g.width[x]
            y = relu6(g.conv(x, inner, 1)) if expansion > 1 else x
            y = g.conv(relu6(g.conv(y, inner, 3, stride, group=inner)), units, 1)
            x = g.same("Add", y, x) if block else y
    return g.classified(relu6(g.conv(x, 1280, 1)))


def densenet121() -> bytes:
    """Four dense blocks: each pair of convolutions reads all before it in its block."""
    g = Layers()

    def normed(x: str) -> str:
        statistics = (g.hold(np.ones(g.width[x], np.float32)) for _ in range(4))
        return g.relu(g.same("BatchNormalization", x, *statistics))

    x = g.same("MaxPool", g.relu(g.conv("x", 64, 7, 2)), **POOL)
    for i, layers in enumerate((6, 12, 24, 16)):
        for _ in range(layers):
            y = g.conv(g.relu(g.conv(normed(x), 128, 1)), 32)
            x = g.joined(x, y)
        if i < 3:
            x = g.same("AveragePool", g.conv(normed(x), g.width[x] // 2, 1), **HALF)
    return g.classified(normed(x))


def squeezenet() -> bytes:
    """Fire modules: a narrow 1×1 layer in front of 1×1 and 3×3 layers side by side."""
    g = Layers()
    x = g.same("MaxPool", g.relu(g.conv("x", 64, 3, 2)), **POOL)
    for squeeze, expand, is_pooled in (
        (16, 64, False), (16, 64, True), (32, 128, False), (32, 128, True),
        (48, 192, False), (48, 192, False), (64, 256, False), (64, 256, False),
    ):  # fmt: skip
        narrow = g.relu(g.conv(x, squeeze, 1))
        x = g.joined(g.relu(g.conv(narrow, expand, 1)), g.relu(g.conv(narrow, expand, 3)))
        x = g.same("MaxPool", x, **POOL) if is_pooled else x
    return g.classified(x)


BUILDERS: dict[str, Callable[[], bytes]] = {
    "VGG-11": vgg11,
    "ResNet-18": resnet18,
    "MobileNetV2": mobilenet_v2,
    "DenseNet-121": densenet121,
    "SqueezeNet": squeezenet,
}


def files() -> dict[str, Path]:
    """{network: its ONNX file}, made where it is missing."""
    made = {
        name: cached(f"{build.__name__}.onnx", lambda path, build=build: path.write_bytes(build()))
        for name, build in BUILDERS.items()
    }
    return {"AlexNet-5": alexnet5_file()} | made
