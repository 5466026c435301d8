"""Train the five-class rover network of Lundstrom et al. 2022 and write it as ONNX with its three data splits.

AlexNet without grouped convolutions and without BatchNorm (SEEDS.md part A): five convolutions, dense 4096, 4096, 5.
Data are the MSL surface images v2.1 (DOI 10.5281/zenodo.4033453, CC BY 4.0) in their official split by sol,
unaugmented originals only; the training split is augmented on the fly. The epoch with the best validation accuracy is
kept. The test split is evaluated once, at the end, and chooses nothing.

Every epoch draws from (seed, epoch) alone, so that a run that was stopped and resumed equals one that was not.

    python -m benchmarks.reproduce.train_msl5 --size 128 --work RUNS/work --out RUNS
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import json
import math
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.reproduce.train_triangles_squares import Step, to_onnx

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("Close-up rock", "Distant landscape", "Drill hole", "Other rover part", "Sun")
SPLITS = {"train": "calibration", "val": "validation", "test": "test"}  # official_split -> file name
NAMES = {nn.Conv2d: "conv", nn.ReLU: "relu", nn.MaxPool2d: "pool", nn.Flatten: "flatten", nn.Linear: "dense"}


@dataclass(frozen=True)
class Split:
    """Images x [n, 3, S, S] uint8, RGB, and their class numbers y [n] int64, in the order of labels.csv."""

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Recipe:
    """What decides the result; a checkpoint of another recipe is refused."""

    size: int
    epochs: int
    batch: int
    rate: float
    decay: float
    seed: int


def read_splits(folder: Path, size: int) -> dict[str, Split]:
    """The unaugmented images of the five classes, by official split, resized to size x size."""
    with (folder / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["class_name"] in CLASSES and not row["augmentation"]]
    with zipfile.ZipFile(folder / "images.zip") as archive:
        return {split: read_split(archive, [r for r in rows if r["official_split"] == split], size) for split in SPLITS}


def read_split(archive: zipfile.ZipFile, rows: list[dict[str, str]], size: int) -> Split:
    """The images that `rows` name, decoded; Pillow's bilinear filter widens with the scale, so nothing aliases."""
    images = [Image.open(io.BytesIO(archive.read(row["file"]))).convert("RGB") for row in rows]
    pixels = [np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1) for image in images]
    return Split(np.stack(pixels), np.array([CLASSES.index(row["class_name"]) for row in rows], np.int64))


def network(size: int) -> nn.Sequential:
    """AlexNet for [n, 3, size, size]; 58,301,829 parameters at size 227. Dropout acts in training only."""
    convolutions = nn.Sequential(
        *(nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 256, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        nn.Flatten(),
    )
    width = convolutions(torch.zeros(1, 3, size, size)).shape[1]
    net = nn.Sequential(
        *convolutions,
        *(nn.Dropout(0.5), nn.Linear(width, 4096), nn.ReLU()),
        *(nn.Dropout(0.5), nn.Linear(4096, 4096), nn.ReLU()),
        nn.Linear(4096, len(CLASSES)),
    )
    # Without BatchNorm the default initialisation shrinks the signal by a factor of about 2 a layer and nothing learns.
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return net


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """x [b, 3, S, S] in 0..1, flipped, turned (up to 20°, sometimes by quarters), zoomed, re-coloured; same shape."""
    uniform = lambda low, high, *more: low + (high - low) * torch.rand(len(x), *more, generator=generator)
    quarters = (uniform(0, 1) < 0.3) * torch.randint(1, 4, (len(x),), generator=generator)
    angle = uniform(-math.pi / 9, math.pi / 9) + quarters * (math.pi / 2)
    zoom, mirror = uniform(0.75, 1.1), (uniform(-1, 1) < 0).float() * 2 - 1
    rows = [[angle.cos() * zoom * mirror, -angle.sin() * zoom], [angle.sin() * zoom * mirror, angle.cos() * zoom]]
    theta = torch.stack([torch.stack([*row, uniform(-0.1, 0.1)], 1) for row in rows], 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return recolour(F.grid_sample(x, grid, padding_mode="reflection", align_corners=False), uniform)


def recolour(x: Tensor, uniform: Callable[..., Tensor]) -> Tensor:
    """x [b, 3, S, S] with other brightness, white balance and saturation, in 0..1.

    Later sols were white-balanced otherwise: with brightness alone, grey rocks of the validation split became rover
    parts, because in the training split nearly every rock is red.
    """
    grey = (uniform(-0.5, 1).clamp(min=0)).view(-1, 1, 1, 1)
    x = torch.lerp(x, x.mean(1, keepdim=True), grey)
    gain = uniform(0.7, 1.3, 1) * uniform(0.75, 1.25, 3)
    return (x * gain[..., None, None] + uniform(-0.1, 0.1, 1, 1, 1)).clamp(0, 1)


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """Two epochs of warm-up, then half a cosine down to zero; epoch counts from 0."""
    rise = min(1.0, (epoch + 1) / 3)
    return recipe.rate * rise * 0.5 * (1 + math.cos(math.pi * epoch / recipe.epochs))


def standardise(x: np.ndarray, mean: Tensor, std: Tensor) -> Tensor:
    """x [b, 3, S, S] uint8 as float32 with per-channel mean 0 and deviation 1 over the training split."""
    return (torch.from_numpy(x).float() / 255 - mean) / std


def train_epoch(
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    train: Split,
    scale: tuple[Tensor, Tensor],
    recipe: Recipe,
    epoch: int,
) -> float:
    """One epoch in place, drawing with replacement at p ~ 1/sqrt(class count); returns the mean loss."""
    torch.manual_seed(recipe.seed * 100_003 + epoch)  # dropout has no generator argument
    generator = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
    weights = torch.from_numpy(np.bincount(train.y)[train.y] ** -0.5)
    order = torch.multinomial(weights, len(train.y), replacement=True, generator=generator).numpy()
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(recipe, epoch)
    net.train()
    losses = []
    for start in range(0, len(order), recipe.batch):
        rows = order[start : start + recipe.batch]
        x = (augment(torch.from_numpy(train.x[rows]).float() / 255, generator) - scale[0]) / scale[1]
        loss = F.cross_entropy(net(x), torch.from_numpy(train.y[rows]), label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return float(np.mean(losses))


@torch.no_grad()
def evaluate(net: nn.Module, split: Split, scale: tuple[Tensor, Tensor]) -> tuple[int, float]:
    """(number classified correctly, mean cross-entropy) over `split`."""
    net.eval()
    y = torch.from_numpy(split.y)
    batches = [standardise(split.x[i : i + 64], *scale) for i in range(0, len(y), 64)]
    logits = torch.cat([net(x) for x in batches])
    return int((logits.argmax(1) == y).sum()), float(F.cross_entropy(logits, y))


def save(value: object, path: Path) -> None:
    """torch.save by way of a temporary file: a kill leaves the previous checkpoint whole."""
    partial = path.with_suffix(".partial")
    torch.save(value, partial)
    partial.replace(path)


def train(
    net: nn.Module, splits: dict[str, Split], scale: tuple[Tensor, Tensor], recipe: Recipe, work: Path
) -> list[dict]:
    """Train `net` in place up to its best epoch on validation, resuming from `work`; returns the history."""
    optimiser = torch.optim.Adam(net.parameters(), lr=recipe.rate, weight_decay=recipe.decay, fused=True)
    history: list[dict] = []
    last, best = work / "last.pt", work / "best.pt"
    if last.exists():
        state = torch.load(last, weights_only=True)
        if state["recipe"] != asdict(recipe):
            raise SystemExit(f"{last} belongs to {state['recipe']}; take another --work")
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        history = state["history"]
    # Ties in accuracy (85 images) go to the lower loss.
    merit = lambda row: (row["val_correct"], -row["val_loss"])
    for epoch in range(len(history), recipe.epochs):
        started = time.perf_counter()
        loss = train_epoch(net, optimiser, splits["train"], scale, recipe, epoch)
        correct, val_loss = evaluate(net, splits["val"], scale)
        row = {"epoch": epoch, "loss": loss, "val_correct": correct, "val_loss": val_loss}
        if not history or merit(row) > max(map(merit, history)):
            save(net.state_dict(), best)
        history = [*history, row]
        state = {
            "recipe": asdict(recipe),
            "net": net.state_dict(),
            "optimiser": optimiser.state_dict(),
            "history": history,
        }
        save(state, last)
        seconds = time.perf_counter() - started
        print(
            f"epoch {epoch:3d}  loss {loss:.4f}  val {correct}/{len(splits['val'].y)}  {val_loss:.4f}  {seconds:.1f} s",
            flush=True,
        )
    net.load_state_dict(torch.load(best, weights_only=True))
    return history


def steps_of(net: nn.Sequential, scale: tuple[Tensor, Tensor]) -> tuple[Step, ...]:
    """`net` behind its standardisation as named steps without dropout, for images in 0..1.

    (x - mean) / std goes into conv1, exactly, because conv1 does not pad: W / std and b - sum(W * mean / std).
    """
    layers = [layer for layer in copy.deepcopy(net) if not isinstance(layer, nn.Dropout)]
    first, (mean, std) = layers[0], scale
    with torch.no_grad():
        first.bias -= (first.weight * mean / std).sum((1, 2, 3))
        first.weight /= std
    names = [NAMES[type(layer)] for layer in layers]
    numbered = [name if name == "flatten" else f"{name}{names[: i + 1].count(name)}" for i, name in enumerate(names)]
    return tuple(map(Step, numbered, ((name,) for name in ("image", *numbered)), layers))


def main() -> None:
    """Train, or resume, and write msl5.onnx, the three splits and report.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data/msl_v21", help="images.zip and labels.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--size", type=int, default=128, help="image side in pixels; the paper's is 227")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-4, help="peak learning rate")
    parser.add_argument("--decay", type=float, default=1e-4, help="L2 weight decay")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    recipe = Recipe(chosen.size, chosen.epochs, chosen.batch, chosen.rate, chosen.decay, chosen.seed)
    chosen.work.mkdir(parents=True, exist_ok=True)
    chosen.out.mkdir(parents=True, exist_ok=True)

    splits = read_splits(chosen.data, recipe.size)
    unit = splits["train"].x / np.float32(255)
    scale = tuple(torch.tensor(f(unit, axis=(0, 2, 3))).view(1, 3, 1, 1) for f in (np.mean, np.std))
    torch.manual_seed(recipe.seed)
    net = network(recipe.size)
    history = train(net, splits, scale, recipe, chosen.work)

    path = chosen.out / "msl5.onnx"
    model = to_onnx("msl5", steps_of(net, scale), (3, recipe.size, recipe.size), len(CLASSES))
    onnx.save(model, path)
    for split, name in SPLITS.items():
        x = splits[split].x / np.float32(255)
        np.savez_compressed(chosen.out / f"{name}.npz", x=x, y=splits[split].y, classes=np.array(CLASSES))
    report = {"recipe": asdict(recipe), "accuracy": measure(path, net, splits, scale), "history": history}
    (chosen.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["accuracy"], indent=1))


def measure(path: Path, net: nn.Module, splits: dict[str, Split], scale: tuple[Tensor, Tensor]) -> dict[str, dict]:
    """Accuracy of the written file in onnxruntime, per split and class; raises if its logits are not those of `net`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rows = {}
    for split, (x, y) in ((name, (s.x, s.y)) for name, s in splits.items()):
        logits = np.concatenate(
            [session.run(None, {"image": x[i : i + 32] / np.float32(255)})[0] for i in range(0, len(y), 32)]
        )
        with torch.no_grad():
            wanted = net.eval()(standardise(x[:32], *scale)).numpy()
        # Folding the standardisation re-associates sums of 363 products in float32: about 1e-5 of the largest logit.
        np.testing.assert_allclose(logits[:32], wanted, atol=1e-4 * np.abs(wanted).max(), rtol=0)
        right = logits.argmax(1) == y
        per_class = {name: f"{right[y == k].sum()}/{(y == k).sum()}" for k, name in enumerate(CLASSES)}
        rows[split] = {"n": len(y), "accuracy": float(right.mean()), "per_class": per_class}
    return rows


if __name__ == "__main__":
    main()
