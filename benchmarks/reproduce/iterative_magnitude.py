"""Iterative magnitude pruning of the 2,346-parameter network of Lukkien (Fig. 2.2): accuracy, heatmaps and structure.

    python -m benchmarks.reproduce.iterative_magnitude train --mnist MNIST.npz --work WORK

trains three seeds and prunes each in 25 rounds; it goes on where it was stopped, to the same bits.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Generator, Tensor, nn

from benchmarks.reproduce.train_triangles_squares import Step, to_onnx
from toolchain.data import Samples
from toolchain.evaluate import evaluate
from toolchain.model import Model, load, save
from toolchain.retrain import Recipe, retrain
from toolchain.retrain.magnitude import rounds

SEEDS, ROUNDS, SHARE = (333, 334, 335), 25, 0.2
NOISE = 0.2  # pixels that are 0 become U[0, 0.2]
TRAINING = Recipe(epochs=11, batch=128, optimiser="momentum", decay=1e-4, rates=(0.01,) * 9 + (0.001,) * 2)
RETRAINING = Recipe(
    epochs=10, batch=128, optimiser="momentum", decay=1e-4, rates=(0.01,) * 5 + (0.001,) * 3 + (0.0001,) * 2
)


# ---- the network and its data --------------------------------------------------------------------------------------
def network() -> tuple[Step, ...]:
    """Fig. 2.2: 1×28×28 -> logits of ten digits; 2,324 weights and 22 biases."""
    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(1, 4, 3), "relu1": nn.ReLU(), "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(4, 8, 3), "relu2": nn.ReLU(), "pool2": nn.MaxPool2d(2),
        "flatten": nn.Flatten(), "dense": nn.Linear(200, 10),
    }  # fmt: skip
    return tuple(Step(name, (before,), layers[name]) for before, name in zip(("image", *layers), layers, strict=False))


def noisy(x: Tensor, generator: Generator) -> Tensor:
    """Pixels that are 0 as U[0, 0.2]."""
    return torch.where(x == 0, NOISE * torch.rand(x.shape, generator=generator).to(x.device), x)


def digits(mnist: Path, part: str) -> Samples:
    """MNIST in 0..1, its part `train` or `test`."""
    with np.load(mnist) as arrays:
        x, y = arrays[f"X_{part}"], arrays[f"y_{part}"]
    return Samples(f"MNIST {part}", {"image": np.float32(x[:, None]) / np.float32(255)}, y.astype(np.int64))


# ---- training ------------------------------------------------------------------------------------------------------
def pretrained(samples: Samples, seed: int, folder: Path) -> Model:
    """The network after epochs 0 to 10, kept in `folder`."""
    path = folder / "trained.onnx"
    if not path.exists():
        torch.manual_seed(seed)
        onnx.save(to_onnx("magnitude", network(), (1, 28, 28), 10), folder / "untrained.onnx")
        begun = time.perf_counter()
        recipe = Recipe(**{**TRAINING.__dict__, "seed": seed})
        model, _ = retrain(
            load(folder / "untrained.onnx"), samples, recipe=recipe,
            checkpoint=folder / "training.pt", augment=(noisy,),
        )  # fmt: skip
        save(model, path)
        print(f"seed {seed} trained in {time.perf_counter() - begun:.0f} s", flush=True)
    return load(path)


def train(mnist: Path, work: Path, seeds: tuple[int, ...]) -> None:
    """Every round of every seed as WORK/SEED/round-NN.onnx."""
    samples, test = digits(mnist, "train"), digits(mnist, "test")
    for seed in seeds:
        folder = work / str(seed)
        folder.mkdir(parents=True, exist_ok=True)
        model = pretrained(samples, seed, folder)
        begun = time.perf_counter()
        recipe = Recipe(**{**RETRAINING.__dict__, "seed": seed})
        for r in rounds(model, samples, None, recipe, folder, count=ROUNDS, share=SHARE, augment=(noisy,)):
            share = evaluate(r.model, test).share
            told = f"seed {seed} round {r.number}: {r.weights[0]} weights, {100 * share:.2f} % right"
            print(f"{told}, {time.perf_counter() - begun:.0f} s", flush=True)
            begun = time.perf_counter()


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["train"])
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    chosen = parser.parse_args()
    train(chosen.mnist, chosen.work, tuple(chosen.seeds))


if __name__ == "__main__":
    main()
