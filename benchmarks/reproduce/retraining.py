"""A pruned dense head in torch: trained with its masks held in place, and written back as ONNX.

A masked unit gives zero and gets no gradient: training with the masks held is training the pruned network, which at
95 % has a 400th of the parameters. Convolutions stay as they are; their answers to augmented images are computed once,
and every epoch draws one version of each image. Runs draw from (seed, level, epoch) alone: one that was stopped and
resumed equals one that was not.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.reproduce.dense_head import Head
from benchmarks.reproduce.train_msl5 import Recipe, augment, learning_rate, save
from toolchain.model import Model
from toolchain.session import run, session, with_outputs

BANK_SEED = 1_000_003


@dataclass(frozen=True)
class Way:
    """How a level is retrained; `label` names it in file names and results."""

    rate: float
    dropout: float
    epochs: int
    batch: int = 32
    decay: float = 1e-4

    @property
    def label(self) -> str:
        """Rate and dropout."""
        return f"rate{self.rate:g}-dropout{self.dropout:g}"


# ---- the pruned network in torch -----------------------------------------------------------------------------------
def dense_layers(model: Model) -> list[ir.Node]:
    """The Gemm nodes in order."""
    return [n for n in model.graph if n.op_type == "Gemm"]


def as_torch(model: Model, dropout: float) -> nn.Sequential:
    """The dense layers of a pruned head, dropout in front of all but the last."""
    layers: list[nn.Module] = []
    nodes = dense_layers(model)
    for node in nodes:
        weight, bias = (torch.tensor(v.const_value.numpy()) for v in node.inputs[1:])
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": weight, "bias": bias})
        layers += [linear] if node is nodes[-1] else [nn.Dropout(dropout), linear, nn.ReLU()]
    return nn.Sequential(*layers)


def written_back(model: Model, net: nn.Sequential) -> Model:
    """The pruned head with the weights of `net`."""
    clone = model.with_ir(model.ir.clone())
    for node, linear in zip(dense_layers(clone), (l for l in net if isinstance(l, nn.Linear)), strict=True):
        for value, array in zip(node.inputs[1:], (linear.weight, linear.bias), strict=True):
            value.const_value = ir.tensor(array.detach().numpy().copy(), name=value.name)
    return clone


def places(pruned: Model, activations: np.ndarray, threads: int) -> Tensor:
    """What the first dense layer of a pruned head reads, [n, kept], of activations in front of the flatten."""
    read = str(dense_layers(pruned)[0].inputs[0].name)
    (name,) = pruned.inputs
    return torch.from_numpy(run(session(with_outputs(pruned.ir, [read]), threads), {name: activations})[0])


# ---- training ------------------------------------------------------------------------------------------------------
def bank(head: Head, images: np.ndarray, versions: int, path: Path) -> np.ndarray:
    """Activations of `versions` augmentations of every training image, the first as it is: [v, n, *s]; kept at `path`.

    One version after another is written, so that a stop loses one at most.
    """
    for v in range(versions):
        part = path.with_name(f"{path.name}-{v}.npy")
        if not part.exists():
            generator = torch.Generator().manual_seed(BANK_SEED + v)
            split = torch.from_numpy(images).split(32)
            seen = images if v == 0 else torch.cat([augment(x, generator) for x in split]).numpy()
            partial = part.with_suffix(".partial.npy")
            np.save(partial, head.convolutions(seen))
            partial.replace(part)
            print(f"augmented version {v + 1} of {versions}", flush=True)
    return np.stack([np.load(path.with_name(f"{path.name}-{v}.npy")) for v in range(versions)])


@torch.no_grad()
def score(net: nn.Module, x: Tensor, y: Tensor) -> tuple[int, float]:
    """(number right, mean cross-entropy)."""
    net.eval()
    logits = net(x)
    return int((logits.argmax(1) == y).sum()), float(F.cross_entropy(logits, y))


def retrain(
    net: nn.Sequential,
    x: Tensor,
    y: Tensor,
    validation: tuple[Tensor, Tensor],
    way: Way,
    level: int,
    seed: int,
    checkpoint: Path,
    pause: float = 20,
) -> list[dict[str, float]]:
    """Train `net` in place up to its best epoch on validation, resuming from `checkpoint`; returns the history.

    pause  seconds between checkpoints
    x      [versions, n, kept]; images are drawn with replacement at p ~ 1/sqrt(class count), as in train_msl5
    """
    recipe = Recipe(0, way.epochs, way.batch, way.rate, way.decay, seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=way.rate, weight_decay=way.decay, fused=True)
    about = asdict(way) | {"level": level, "seed": seed, "versions": len(x)}
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["about"] != about:
            raise SystemExit(f"{checkpoint} belongs to {state['about']}; take another --work")
        history, best = state["history"], state["best"]
        if state["net"] is not None:
            net.load_state_dict(state["net"])
            optimiser.load_state_dict(state["optimiser"])
    weights = torch.from_numpy(np.bincount(y.numpy())[y.numpy()] ** -0.5)
    merit = lambda row: (row["val_correct"], -row["val_loss"])
    saved = time.monotonic()
    for epoch in range(len(history), way.epochs):
        number = (seed * 1000 + level) * 1000 + epoch
        torch.manual_seed(number)  # dropout has no generator argument
        generator = torch.Generator().manual_seed(number)
        order = torch.multinomial(weights, len(y), replacement=True, generator=generator)
        version = torch.randint(len(x), (len(y),), generator=generator)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, epoch)
        net.train()
        for rows, which in zip(order.split(way.batch), version.split(way.batch), strict=True):
            loss = F.cross_entropy(net(x[which, rows]), y[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        correct, val_loss = score(net, *validation)
        history.append({"epoch": epoch, "val_correct": correct, "val_loss": val_loss})
        if merit(history[-1]) >= max(map(merit, history)):
            best = {k: v.clone() for k, v in net.state_dict().items()}
        is_last = epoch + 1 == way.epochs
        if is_last or time.monotonic() - saved > pause:  # a finished run is needed at its best epoch alone
            moving = (None, None) if is_last else (net.state_dict(), optimiser.state_dict())
            state = {"about": about, "history": history, "best": best, "net": moving[0], "optimiser": moving[1]}
            save(state, checkpoint)
            saved = time.monotonic()
    net.load_state_dict(best)
    return history
