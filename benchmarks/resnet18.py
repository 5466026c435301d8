"""ResNet-18 for small images in torch, its weights seeded and its BatchNorm folded, and its ONNX export."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks.files import cached
from benchmarks.resnet56 import Block, enlivened

IMAGE = (3, 64, 64)
CLASSES = 10
WIDTHS = (64, 128, 256, 512)


def resnet18() -> nn.Sequential:
    """[n, 3, 64, 64] -> logits [n, 10]: stem, eight blocks, head (He et al. 2016, table 1)."""
    blocks = [
        block
        for i, o in zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False)
        for block in (Block(i, o, 1 if i == o else 2), Block(o, o, 1))
    ]
    stem = nn.Sequential(
        nn.Conv2d(3, WIDTHS[0], 7, 2, 3, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    )
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], CLASSES))
    return nn.Sequential(stem, nn.Sequential(*blocks), head)


def seeded(seed: int = 0) -> nn.Sequential:
    """With random scales and shifts, running statistics taken from random images, every BatchNorm folded, frozen."""
    torch.manual_seed(seed)
    return folded(enlivened(resnet18(), IMAGE)).requires_grad_(False)


def folded(net: nn.Sequential) -> nn.Sequential:
    """Every BatchNorm in the convolution before it."""
    stem, blocks, _ = net
    pairs: list[tuple[nn.Module, str, str]] = [(stem, "0", "1")]
    for block in blocks:
        pairs += [(block, "conv1", "bn1"), (block, "conv2", "bn2")]
        pairs += [(block.skip, "0", "1")] if len(block.skip) else []
    for owner, conv, norm in pairs:
        setattr(owner, conv, fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm)))
        setattr(owner, norm, nn.Identity())
    return net


def behind(net: nn.Sequential, cut: int, h: Tensor, skipped: Tensor | None) -> Tensor:
    """Logits from the output h of a ReLU: 2b is the inner one of block b, which `skipped` joins, 2b + 1 the outer."""
    _, blocks, head = net
    block, is_outer = divmod(cut, 2)
    if not is_outer:
        h = torch.relu(blocks[block].conv2(h) + skipped)
    return head(blocks[block + 1 :](h))


def write_onnx(path: Path) -> None:
    """The folded network."""
    torch.onnx.export(
        seeded(),
        (torch.randn(1, *IMAGE),),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        dynamo=False,
    )


def onnx_file() -> Path:
    """The ONNX file, made once."""
    return cached("resnet18_64.onnx", write_onnx)
