"""A CIFAR ResNet-56 in torch with seeded weights and BatchNorm statistics that fit them, and its ONNX export."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.files import cached

IMAGE = (3, 32, 32)
CLASSES = 10


class Block(nn.Module):
    """Two 3×3 convolutions and a skip; where the shape changes, the skip is a 1×1 convolution (He et al. 2016, B)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        same = stride == 1 and inputs == outputs
        skip = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.skip = nn.Sequential(*(() if same else skip))

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + self.skip(x))


def resnet56() -> nn.Sequential:
    """[n, 3, 32, 32] -> logits [n, 10]: a convolution, three stages of nine blocks (16, 32, 64 channels), a layer."""
    blocks = [Block(i, o, s) for i, o, s in ((16, 16, 1), (16, 32, 2), (32, 64, 2))]
    stages = [
        nn.Sequential(b, *(Block(b.conv2.out_channels, b.conv2.out_channels, 1) for _ in range(8))) for b in blocks
    ]
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES)).eval()


def seeded(seed: int = 0) -> nn.Sequential:
    """ResNet-56, alive."""
    torch.manual_seed(seed)
    return enlivened(resnet56(), IMAGE)


def enlivened(net: nn.Sequential, image: tuple[int, ...]) -> nn.Sequential:
    """With random scales and shifts, its running statistics taken from random images."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.2)
            layer.momentum = None  # the mean over all batches
    with torch.no_grad():
        net.train()(torch.randn(256, *image))
    return net.eval()


def export(net: nn.Module, image: tuple[int, ...], path: Path) -> None:
    """The network with its BatchNorm nodes: torch's newer exporter folds them into the convolutions."""
    torch.onnx.export(
        net.eval(),
        (torch.randn(1, *image),),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        dynamo=False,
    )


def onnx_file() -> Path:
    """The ONNX file, made once."""
    return cached("resnet56.onnx", lambda path: export(seeded(), IMAGE, path))


def weights_file() -> Path:
    """The same weights as torch keeps them, made once."""
    return cached("resnet56.pt", lambda path: torch.save(seeded().state_dict(), path))
