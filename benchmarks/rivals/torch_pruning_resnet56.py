"""Half of the channels of ResNet-56 removed by Torch-Pruning and written as ONNX: the rival of a cold `jettison prune`.

    python benchmarks/rivals/torch_pruning_resnet56.py WEIGHTS.pt OUT.onnx [--exporter torchscript|dynamo]

It does what is needed and no more: the class is imported, not pickled; weights are mapped; no image is pruned for.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch_pruning as tp

from benchmarks.resnet56 import IMAGE, resnet56

parser = argparse.ArgumentParser()
parser.add_argument("weights", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--exporter", choices=["torchscript", "dynamo"], default="torchscript")
asked = parser.parse_args()
torch.set_num_threads(1)

net = resnet56()
net.load_state_dict(torch.load(asked.weights, mmap=True, weights_only=True))
image = torch.randn(1, *IMAGE)
pruner = tp.pruner.MagnitudePruner(
    net, image, importance=tp.importance.GroupMagnitudeImportance(p=1), pruning_ratio=0.5, ignored_layers=[net[-1]]
)
pruner.step()

names = {"input_names": ["image"], "output_names": ["logits"]}
if asked.exporter == "dynamo":
    shapes = ({0: torch.export.Dim("N")},)
    torch.onnx.export(net, (image,), asked.out, dynamo=True, dynamic_shapes=shapes, external_data=False, **names)
else:
    axes = {"image": {0: "N"}, "logits": {0: "N"}}
    torch.onnx.export(net, (image,), asked.out, dynamo=False, dynamic_axes=axes, **names)
