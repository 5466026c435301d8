"""The four networks of the table of criteria, in torch and, from the same weights, as ONNX.

    python -m benchmarks.criteria_nets --out RUNS

Three are small and trained here once for each seed: the MNIST network of Garcia et al. (SEEDS.md part B, Fig 5), a
residual network on the 64×64 rover images in their official split by sol, and the network that ships with jettison.
The fourth is the AlexNet of Lundstrom et al. 2022 at 128×128, which `reproduce.train_msl5` trains: one for all seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.reproduce import train_msl5, train_triangles_squares
from benchmarks.reproduce.train_triangles_squares import Add, Network, Step, conv_block, to_onnx
from toolchain.data import Samples
from toolchain.synthetic import triangles_squares

SHARED = Path(__file__).resolve().parents[1] / "../shared/data"
SEEDS = range(5)


@dataclass(frozen=True)
class Split:
    """Images in 0..1, [n, *image] float32, and their classes [n] int64."""

    x: np.ndarray
    y: np.ndarray

    def samples(self, take: np.ndarray | slice = slice(None)) -> Samples:
        """Some of them, as jettison reads them."""
        return Samples("", {"image": self.x[take]}, self.y[take])


@dataclass(frozen=True)
class Splits:
    """Training images; validation, by which choices are made; test, which is told."""

    train: Split
    validation: Split
    test: Split


@dataclass(frozen=True)
class Net:
    """A network and its data.

    steps       its torch definition, untrained
    splits      seed -> its images
    epochs      of the base training here; 0 where another script trains it
    augment     images [b, *image] -> as many, changed at random; None where there are images enough
    ranked      images that criteria see
    calibration images that recovery sees
    again       epochs, rate and images of retraining
    align       multiple of widths, for all methods: the default, or 4 where layers are too narrow for it
    """

    name: str
    classes: int
    image: tuple[int, ...]
    steps: Callable[[], tuple[Step, ...]]
    splits: Callable[[int], Splits]
    epochs: int
    rate: float
    augment: Callable[[Tensor, torch.Generator], Tensor] | None
    ranked: int
    calibration: int
    again: tuple[int, float, int]
    align: str

    def file(self, folder: Path, seed: int) -> Path:
        """Where the trained network of a seed lies."""
        return folder / (f"{self.name}-{seed}.onnx" if self.epochs else f"{self.name}.onnx")


# ---- definitions ---------------------------------------------------------------------------------------------------
def mnist_steps() -> tuple[Step, ...]:
    """[n, 1, 28, 28] -> [n, 10]: conv16, conv16, max pool, dense, output."""
    return (
        Step("conv1", ("image",), nn.Conv2d(1, 16, 3)),
        Step("relu1", ("conv1",), nn.ReLU()),
        Step("conv2", ("relu1",), nn.Conv2d(16, 16, 3)),
        Step("relu2", ("conv2",), nn.ReLU()),
        Step("pool", ("relu2",), nn.MaxPool2d(2)),
        Step("flatten", ("pool",), nn.Flatten()),
        Step("dense1", ("flatten",), nn.Linear(16 * 12 * 12, 128)),
        Step("relu3", ("dense1",), nn.ReLU()),
        Step("dense2", ("relu3",), nn.Linear(128, 10)),
    )


def residual_steps() -> tuple[Step, ...]:
    """[n, 3, 64, 64] -> [n, 5]: a convolution, three residual blocks of 24, 48 and 96 channels, mean, output."""
    found: list[Step] = [*conv_block(0, "image", convolution(3, 24, 3, 2))]
    source, inputs = "relu0", 24
    for block, (outputs, stride) in enumerate(((24, 1), (48, 2), (96, 2)), 1):
        first, second = 2 * block - 1, 2 * block
        found += conv_block(first, source, convolution(inputs, outputs, 3, stride))
        found += conv_block(second, f"relu{first}", convolution(outputs, outputs, 3, 1))[:2]
        skip = source
        if stride > 1:
            skip = f"skipbn{block}"
            found.append(Step(f"skip{block}", (source,), convolution(inputs, outputs, 1, stride)))
            found.append(Step(skip, (f"skip{block}",), nn.BatchNorm2d(outputs)))
        found.append(Step(f"add{block}", (f"bn{second}", skip), Add()))
        found.append(Step(f"relu{second}", (f"add{block}",), nn.ReLU()))
        source, inputs = f"relu{second}", outputs
    found.append(Step("mean", (source,), nn.AdaptiveAvgPool2d(1)))
    found.append(Step("flatten", ("mean",), nn.Flatten()))
    found.append(Step("dense", ("flatten",), nn.Linear(inputs, 5)))
    return tuple(found)


def convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    """Padded to keep the size, without bias: BatchNorm follows."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def shape_steps() -> tuple[Step, ...]:
    """[n, 1, 32, 32] -> [n, 2]: the network that ships with jettison."""
    return train_triangles_squares.network(0.1).steps


def alexnet_steps() -> tuple[Step, ...]:
    """[n, 3, 128, 128] -> [n, 5], for images in 0..1."""
    return train_msl5.steps_of(train_msl5.network(128), (torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)))


# ---- data ----------------------------------------------------------------------------------------------------------
@cache
def mnist_splits(seed: int) -> Splits:
    """20,000 images for training, 5,000 for validation, the test set of 10,000."""
    with np.load(SHARED / "mnist/mnist.npz") as file:
        x, y, test_x, test_y = (file[k] for k in ("X_train", "y_train", "X_test", "y_test"))
    unit = lambda a: a[:, None] / np.float32(255)
    order = np.random.default_rng(seed).permutation(55_000)[:20_000]
    return Splits(
        Split(unit(x[order]), y[order].astype(np.int64)),
        Split(unit(x[55_000:]), y[55_000:].astype(np.int64)),
        Split(unit(test_x), test_y.astype(np.int64)),
    )


@cache
def rover_splits(seed: int) -> Splits:
    """592, 85 and 159 images at 64×64, the official split by sol; the seed changes nothing."""
    with np.load(SHARED / "msl_v21/msl5_rgb64.npz") as file:
        found = [
            Split(
                np.ascontiguousarray(file[f"X_{s}"].transpose(0, 3, 1, 2)) / np.float32(255),
                file[f"y_{s}"].astype(np.int64),
            )
            for s in ("train", "val", "test")
        ]
    return Splits(*found)


def rover_files(folder: Path) -> Splits:
    """The splits that train_msl5 wrote beside its network."""
    found = []
    for name in ("calibration", "validation", "test"):
        with np.load(folder / f"{name}.npz") as file:
            found.append(Split(file["x"], file["y"]))
    return Splits(*found)


@cache
def shape_splits(seed: int) -> Splits:
    """20,000 generated images for training, 2,000 for validation, 4,000 for test; other seeds, other images."""
    made = (triangles_squares(n, 32, s) for n, s in ((20_000, 1000 * (seed + 1)), (2_000, 500 + seed), (4_000, seed)))
    return Splits(*(Split(x, y) for x, y in made))


def nets(msl5: Path | None) -> dict[str, Net]:
    """The networks by name; that of train_msl5 where its folder is given."""
    found = [
        Net("mnist", 10, (1, 28, 28), mnist_steps, mnist_splits, 3, 1e-3, None, 256, 512, (2, 1e-3, 2000), "4"),
        Net("shapes", 2, (1, 32, 32), shape_steps, shape_splits, 2, 1e-3, None, 256, 256, (2, 1e-3, 1000), "auto"),
        Net(
            "residual",
            5,
            (3, 64, 64),
            residual_steps,
            rover_splits,
            40,
            2e-3,
            train_msl5.augment,
            256,
            444,
            (4, 1e-3, 592),
            "4",
        ),
    ]
    if msl5 is not None:
        splits = cache(lambda seed: rover_files(msl5))
        found.append(
            Net(
                "msl5",
                5,
                (3, 128, 128),
                alexnet_steps,
                splits,
                0,
                0,
                train_msl5.augment,
                128,
                444,
                (4, 1e-4, 592),
                "auto",
            )
        )
    return {n.name: n for n in found}


# ---- training ------------------------------------------------------------------------------------------------------
def train(net: Network, about: Net, split: Split, seed: int) -> None:
    """Train in place with Adam, the rate falling to zero along half a cosine."""
    optimiser = torch.optim.Adam(net.parameters(), lr=about.rate, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(split.x), torch.from_numpy(split.y)
    weights = torch.from_numpy(np.bincount(split.y)[split.y] ** -0.5)
    steps = about.epochs * -(-len(y) // 64)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: 0.5 * (1 + math.cos(math.pi * k / steps)))
    for epoch in range(about.epochs):
        begun = time.perf_counter()
        net.train()
        losses = []
        for rows in torch.multinomial(weights, len(y), replacement=True, generator=generator).split(64):
            images = x[rows] if about.augment is None else about.augment(x[rows], generator)
            loss = F.cross_entropy(net(images), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        print(
            f"{about.name}-{seed} epoch {epoch} loss {np.mean(losses):.4f} {time.perf_counter() - begun:.1f} s",
            flush=True,
        )


@torch.no_grad()
def accuracy(net: nn.Module, split: Split) -> float:
    """Share of images that the module classifies correctly."""
    found = [net.eval()(torch.from_numpy(part)).argmax(1).numpy() for part in np.array_split(split.x, 20)]
    return float((np.concatenate(found) == split.y).mean())


def torch_of(about: Net, path: Path) -> Network:
    """The torch module with the weights of an ONNX file that `to_onnx` wrote, in inference mode."""
    net = Network(about.steps()).eval()
    held = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in onnx.load(path).graph.initializer}
    state = {k: held.get(k.removeprefix("layers."), v) for k, v in net.state_dict().items()}
    net.load_state_dict(state)
    return net


def main() -> None:
    """Train the networks that are not there yet, and say how good they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nets", nargs="*", default=list(nets(None)))
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    asked.out.mkdir(parents=True, exist_ok=True)
    for about in (nets(None)[n] for n in asked.nets):
        for seed in SEEDS:
            path = about.file(asked.out, seed)
            if path.exists():
                continue
            torch.manual_seed(seed)
            net, splits = Network(about.steps()), about.splits(seed)
            train(net, about, splits.train, seed)
            found = {s: accuracy(net, getattr(splits, s)) for s in ("validation", "test")}
            onnx.save(to_onnx(about.name, net.eval().steps, about.image, about.classes), path)
            print(json.dumps({"net": about.name, "seed": seed} | found), flush=True)


if __name__ == "__main__":
    main()
