"""The paper's random split of its 1449 images, as a labelled comparison with the official split by sol.

Lundstrom et al. 2022 draw 1132 images for training, 164 for validation and 153 for the test at random (Table 2). 613 of
the 1449 are augmented copies (flips and quarter turns), so that many a test image has a sibling, another version of the
same photograph, in the training set: it is not unseen. The network and the recipe are those of train_msl5; the seed
decides the split and the training. Accuracy is told apart by siblings, and by class, since only four of the five
classes have copies at all.

    python -m benchmarks.reproduce.random_split --work RUNS/random --out OUT --epochs 30 --seeds 0
"""

from __future__ import annotations

import argparse
import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.reproduce.train_msl5 import (
    CLASSES,
    ROOT,
    Recipe,
    Split,
    network,
    read_split,
    standardise,
    train,
)

SIZES = {"train": 1132, "val": 164, "test": 153}  # Lundstrom et al. 2022, Table 2
PAPER = {"train": 0.916, "val": 0.856, "test": 0.842}
Row = dict[str, str]


def paper_rows(folder: Path) -> list[Row]:
    """The rows of labels.csv that make the paper's 1449 images."""
    with (folder / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["in_paper_1449"] == "1"]
    assert len(rows) == sum(SIZES.values()), len(rows)
    return rows


def at_random(rows: list[Row], seed: int) -> dict[str, list[Row]]:
    """The rows dealt out at random, 1132, 164 and 153 of them; each part in the order of labels.csv."""
    order = np.random.default_rng(seed).permutation(len(rows))
    bounds = np.cumsum(list(SIZES.values()))[:-1]
    return {name: [rows[i] for i in np.sort(part)] for name, part in zip(SIZES, np.split(order, bounds), strict=True)}


def with_sibling(rows: list[Row], train_rows: list[Row]) -> np.ndarray:
    """Which rows have another version of the same photograph in the training set, [n] bool."""
    seen = {row["base_file"] for row in train_rows}
    return np.array([row["base_file"] in seen for row in rows], bool)


@torch.no_grad()
def is_right(net: nn.Module, split: Split, scale: tuple[Tensor, Tensor]) -> np.ndarray:
    """Which images `net` classifies correctly, [n] bool."""
    net.eval()
    parts = [net(standardise(split.x[i : i + 64], *scale)).argmax(1).numpy() for i in range(0, len(split.y), 64)]
    return np.concatenate(parts) == split.y


def counted(right: np.ndarray, which: np.ndarray) -> dict[str, Any]:
    """How many of the chosen images are right."""
    n, correct = int(which.sum()), int(right[which].sum())
    return {"n": n, "correct": correct, "accuracy": correct / n if n else None}


def run(data: Path, recipe: Recipe, work: Path) -> dict[str, Any]:
    """Train on the split of this seed, or resume, and count the test images right with and without siblings."""
    parts = at_random(paper_rows(data), recipe.seed)
    with zipfile.ZipFile(data / "images.zip") as archive:
        splits = {name: read_split(archive, rows, recipe.size) for name, rows in parts.items()}
    unit = splits["train"].x / np.float32(255)
    scale = tuple(torch.tensor(f(unit, axis=(0, 2, 3))).view(1, 3, 1, 1) for f in (np.mean, np.std))
    del unit
    torch.manual_seed(recipe.seed)
    net = network(recipe.size)
    work.mkdir(parents=True, exist_ok=True)
    history = train(net, splits, scale, recipe, work)

    right = {name: is_right(net, split, scale) for name, split in splits.items()}
    sibling, y = with_sibling(parts["test"], parts["train"]), splits["test"].y
    groups = {"all": np.ones(len(y), bool), "sibling in train": sibling, "no sibling in train": ~sibling}
    return {
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        "best_epoch": max(history, key=lambda row: (row["val_correct"], -row["val_loss"]))["epoch"],
        "accuracy": {name: counted(r, np.ones(len(r), bool)) for name, r in right.items()},
        "test": {name: counted(right["test"], which) for name, which in groups.items()},
        "test_per_class": {
            c: {name: counted(right["test"], which & (y == k)) for name, which in groups.items()}
            for k, c in enumerate(CLASSES)
        },
    }


def spread(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean, least and greatest accuracy over the seeds."""

    def over(values: list[float]) -> dict[str, float]:
        return {"mean": float(np.mean(values)), "min": min(values), "max": max(values)}

    return {
        "accuracy": {name: over([r["accuracy"][name]["accuracy"] for r in runs]) for name in SIZES},
        "test": {name: over([r["test"][name]["accuracy"] for r in runs]) for name in runs[0]["test"]},
        "share of test images with a sibling in train": over(
            [r["test"]["sibling in train"]["n"] / r["test"]["all"]["n"] for r in runs]
        ),
    }


def main() -> None:
    """Train, or resume, one network for each seed, and write random_split.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data/msl_v21", help="images.zip and labels.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder of random_split.json")
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoints, by seed")
    parser.add_argument("--size", type=int, default=128, help="image side in pixels; the paper's is 227")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    chosen.out.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in chosen.seeds:
        recipe = Recipe(chosen.size, chosen.epochs, batch=32, rate=1e-4, decay=1e-4, seed=seed)
        runs.append(run(chosen.data, recipe, chosen.work / f"seed{seed}"))
        report = {"size": chosen.size, "paper": PAPER, "sizes": SIZES, "runs": runs, "spread": spread(runs)}
        (chosen.out / "random_split.json").write_text(json.dumps(report, indent=1) + "\n")
        print(json.dumps(runs[-1], indent=1), flush=True)


if __name__ == "__main__":
    main()
