"""One network cut by Torch-Pruning 1.6 to budgets of multiply-accumulates: the least ratio that meets each.

The pruner is its default one: the same ratio for every group, or one ranking over all groups where `is_global`. Widths
are rounded to ours (`round_to`); the layer that makes the output is left alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch.nn import functional as F

RATIOS = np.arange(0.02, 0.99, 0.02)

IMPORTANCE: dict[str, tuple[Callable[[], Any], bool]] = {  # name -> (importance, whether groups compete)
    "tp-l2": (lambda: tp.importance.GroupMagnitudeImportance(p=2), False),
    "tp-taylor": (tp.importance.GroupTaylorImportance, False),
    "tp-taylor-global": (tp.importance.GroupTaylorImportance, True),
}


def cut(
    net: nn.Module,
    name: str,
    x: np.ndarray,
    y: np.ndarray,
    limits: Sequence[float],
    alignment: int,
) -> Iterator[nn.Module | None]:
    """The module under each limit, limits falling; None where no ratio gets there.

    x, y  samples of which one backward pass gives the gradients that Taylor importance reads

    """
    importance, is_global = IMPORTANCE[name]
    net.zero_grad()
    F.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(y)).backward()
    gradients = {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}
    ratios = iter(RATIOS)
    macs = lambda module: tp.utils.count_ops_and_params(module, torch.from_numpy(x[:1]))[0]
    dense, found, share = macs(net), net, 1.0
    for limit in limits:
        while share > limit:
            ratio = next(ratios, None)
            if ratio is None:
                break
            found = pruned(net, gradients, importance(), is_global, float(ratio), x[:1], alignment)
            share = macs(found) / dense
        yield found if share <= limit else None


def pruned(
    net: nn.Module,
    gradients: dict[str, torch.Tensor],
    importance: Any,
    is_global: bool,
    ratio: float,
    image: np.ndarray,
    alignment: int,
) -> nn.Module:
    """A copy without this share of channels."""
    net = copy.deepcopy(net)
    for name, parameter in net.named_parameters():
        parameter.grad = gradients[name].clone() if name in gradients else None
    last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
    pruner = tp.pruner.MetaPruner(
        net,
        torch.from_numpy(image),
        importance,
        global_pruning=is_global,
        pruning_ratio=ratio,
        ignored_layers=[last],
        round_to=alignment,
    )
    pruner.step()
    return net
