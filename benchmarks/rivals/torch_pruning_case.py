"""Half of the channels of one network removed by Torch-Pruning 1.6, automatic, from the module itself.

    python -m benchmarks.rivals.torch_pruning_case NAME.onnx --corpus EXPORT_CORPUS.py

It runs in the environment that the corpus was exported in, with torch-pruning. The module NAME is built by that script;
layers that make an output are protected. Masked is the dense module whose layers read zeros where their inputs went.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

EQUAL = 1e-4
LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


def corpus(path: Path) -> Any:
    """The exporting script as a module."""
    spec = importlib.util.spec_from_file_location("export_corpus", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["export_corpus"] = module
    spec.loader.exec_module(module)
    return module


def case(name: str, script: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "tool": "Torch-Pruning"}
    torch.set_num_threads(1)
    made = corpus(script)
    for source in ("torchvision", "timm"):
        made.available(source)
    (entry,) = (e for e in made.entries() if e.name == name)
    try:
        model, size = made.build(entry)
        for p in model.parameters():
            p.requires_grad_(True)
        inputs = tuple(made.probe(entry, size, 1))
        with torch.no_grad():
            dense = model(*inputs)
        original = copy.deepcopy(model)
        before = sum(p.numel() for p in model.parameters())
        begun = time.perf_counter()
        zeros = pruned_in_place(model, inputs, dense)
        row["seconds"] = {"prune": time.perf_counter() - begun}
        row["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        row["params_kept"] = sum(p.numel() for p in model.parameters()) / before
        row["is_untouched"] = not zeros
        with torch.no_grad():
            row |= verdict(model(*inputs), dense, masked(original, zeros)(*inputs))
    except Exception as error:  # the rival's crash is a result
        row |= {"status": "crashed", "reason": f"{type(error).__name__}: {str(error)[:300]}"}
    return row


def pruned_in_place(model: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> dict[str, list[int]]:
    """Prune; returns which inputs of each layer went, in the dense layer's numbers."""
    widths = {size for y in outputs for size in y.shape[1:]}
    ignored = [m for m in model.modules() if isinstance(m, LAYERS) and width(m) in widths and is_last(model, m)]
    pruner = tp.pruner.MagnitudePruner(
        model, inputs, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.5, ignored_layers=ignored
    )
    names = {m: n for n, m in model.named_modules()}
    left: dict[str, list[int]] = {}
    zeros: dict[str, list[int]] = {}
    for group in pruner.step(interactive=True):
        for dependency, indices in group:
            layer = dependency.target.module
            reads = dependency.handler in (tp.prune_conv_in_channels, tp.prune_linear_in_channels)
            if reads and isinstance(layer, LAYERS):
                name = names[layer]
                there = left.setdefault(name, list(range(features(layer))))
                gone = {there[i] for i in indices}
                zeros.setdefault(name, []).extend(gone)
                left[name] = [i for i in there if i not in gone]
        group.prune()
    return zeros


def width(layer: Any) -> int:
    return layer.out_channels if isinstance(layer, nn.modules.conv._ConvNd) else layer.out_features


def features(layer: Any) -> int:
    return layer.in_channels if isinstance(layer, nn.modules.conv._ConvNd) else layer.in_features


def is_last(model: nn.Module, layer: nn.Module) -> bool:
    """Whether a layer is among the last third that were registered: heads come last."""
    layers = [m for m in model.modules() if isinstance(m, LAYERS)]
    return layers.index(layer) >= 2 * len(layers) // 3


def masked(model: nn.Module, zeros: dict[str, list[int]]) -> nn.Module:
    """The module with zeros where inputs of its layers went."""
    for name, layer in model.named_modules():
        if zeros.get(name):
            keep = torch.ones(features(layer))
            keep[zeros[name]] = 0
            if not isinstance(layer, nn.Linear):
                keep = keep.reshape(-1, *[1] * len(layer.kernel_size))  # type: ignore[arg-type]
            layer.register_forward_pre_hook(lambda _, given, k=keep: (given[0] * k, *given[1:]))
    return model


def verdict(pruned: Any, dense: Any, goal: Any) -> dict[str, Any]:
    """right: equal to the masked network; wrong: not; shapes: its outputs have others."""
    if any(y.shape != z.shape for y, z in zip(pruned, dense, strict=True)):
        return {"status": "shapes", "reason": "outputs have other shapes"}
    error = max(float((y - z).abs().max() / z.abs().max().clamp_min(1e-30)) for y, z in zip(pruned, goal, strict=True))
    return {"status": "right" if error <= EQUAL else "wrong", "error": error}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--corpus", type=Path, required=True)
    asked = parser.parse_args()
    print(json.dumps(case(asked.path.stem, asked.corpus)))
