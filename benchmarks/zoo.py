"""Well-known architectures with seeded weights, as ONNX files: what is timed and counted needs no training.

Norms are folded into convolutions as exporters do, but for those of DenseNet, which read concatenations.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.files import cached
from benchmarks.nets import alexnet5
from benchmarks.scale import Graph


class Net(Graph):
    """Convolutional layers by He's rule, with biases that keep about half of the units active."""

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1, group: int = 1) -> str:
        """A convolution that keeps the size, but for its stride."""
        shape = (outputs, inputs // group, kernel, kernel)
        scale = np.float32((2 / np.prod(shape[1:])) ** 0.5)
        w = self.hold(self.generator.standard_normal(shape, np.float32) * scale)
        b = self.hold(self.generator.standard_normal(outputs, np.float32) * np.float32(0.1))
        window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": group}
        return self.op("Conv", x, w, b, **window)

    def norm(self, x: str, width: int) -> str:
        """A normalisation with the statistics of a standard normal."""
        near = lambda middle: self.hold((middle + 0.1 * self.generator.random(width)).astype(np.float32))
        return self.op("BatchNormalization", x, near(1.0), near(0.0), near(0.0), near(1.0))

    def pool(self, kind: str, x: str, kernel: int, stride: int, pad: int = 0) -> str:
        """A pooling."""
        return self.op(kind, x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def head(self, x: str, width: int, side: int = 224) -> bytes:
        """The mean over places, 1000 classes, and the file."""
        x = self.op("Flatten", self.op("GlobalAveragePool", x))
        return self.model((3, side, side), self.op("Gemm", x, self.weight(width, 1000), self.weight(1000)))


def densenet121() -> bytes:
    """Huang et al. 2017: growth 32, blocks of 6, 12, 24 and 16 layers."""
    net, width = Net(), 64
    x = net.pool("MaxPool", net.op("Relu", net.conv("x", 3, 64, 7, 2)), 3, 2, 1)
    for block, layers in enumerate((6, 12, 24, 16)):
        for _ in range(layers):
            y = net.conv(net.op("Relu", net.norm(x, width)), width, 128, 1)
            y = net.conv(net.op("Relu", net.norm(y, 128)), 128, 32, 3)
            x, width = net.op("Concat", x, y, axis=1), width + 32
        x = net.op("Relu", net.norm(x, width))
        if block < 3:
            x, width = net.pool("AveragePool", net.conv(x, width, width // 2, 1), 2, 2), width // 2
    return net.head(x, width)


def resnet18() -> bytes:
    """He et al. 2016."""
    net, width = Net(), 64
    x = net.pool("MaxPool", net.op("Relu", net.conv("x", 3, 64, 7, 2)), 3, 2, 1)
    for outputs in (64, 64, 128, 128, 256, 256, 512, 512):
        stride = 1 if outputs == width else 2
        y = net.conv(net.op("Relu", net.conv(x, width, outputs, 3, stride)), outputs, outputs, 3)
        x = x if outputs == width else net.conv(x, width, outputs, 1, 2)
        x, width = net.op("Relu", net.op("Add", x, y)), outputs
    return net.head(x, width)


def mobilenet_v2() -> bytes:
    """Sandler et al. 2018, with ReLU6 as Clip."""
    net, width = Net(), 32
    clip = lambda x: net.op("Clip", x, net.hold(np.float32(0)), net.hold(np.float32(6)))
    x = clip(net.conv("x", 3, 32, 3, 2))
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, outputs, repeats, stride in rows:
        for i in range(repeats):
            inner = expansion * width
            y = x if expansion == 1 else clip(net.conv(x, width, inner, 1))
            y = clip(net.conv(y, inner, inner, 3, stride if i == 0 else 1, group=inner))
            y = net.conv(y, inner, outputs, 1)
            x, width = net.op("Add", x, y) if i and outputs == width else y, outputs
    return net.head(clip(net.conv(x, width, 1280, 1)), 1280)


def vgg11() -> bytes:
    """Simonyan & Zisserman 2015, with the mean over places in place of its dense layers."""
    net, width, x = Net(), 3, "x"
    for outputs, has_pool in ((64, 1), (128, 1), (256, 0), (256, 1), (512, 0), (512, 1), (512, 0), (512, 1)):
        x, width = net.op("Relu", net.conv(x, width, outputs, 3)), outputs
        x = net.pool("MaxPool", x, 2, 2) if has_pool else x
    return net.head(x, width)


def squeeze() -> bytes:
    """SqueezeNet 1.1 (Iandola et al. 2016): fire modules of concatenated convolutions."""
    net, width = Net(), 64
    x = net.pool("MaxPool", net.op("Relu", net.conv("x", 3, 64, 3, 2)), 3, 2)
    for i, (narrow, wide) in enumerate(
        ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
    ):
        s = net.op("Relu", net.conv(x, width, narrow, 1))
        parts = [net.op("Relu", net.conv(s, narrow, wide, k)) for k in (1, 3)]
        x, width = net.op("Concat", *parts, axis=1), 2 * wide
        x = net.pool("MaxPool", x, 3, 2) if i in (1, 3) else x
    return net.head(x, width)


ZOO: dict[str, Callable[[], bytes]] = {
    "AlexNet-5": lambda: alexnet5().SerializeToString(),
    "ResNet-18": resnet18,
    "MobileNetV2": mobilenet_v2,
    "VGG-11": vgg11,
    "SqueezeNet": squeeze,
    "DenseNet-121": densenet121,
}


def file_of(name: str) -> Path:
    """The ONNX file of a network of the zoo."""
    return cached(f"zoo_{name}.onnx", lambda path: path.write_bytes(ZOO[name]()))
