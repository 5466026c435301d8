"""Ranguelova reproduced (SEEDS.md part D): every heatmap of nets that know Triangles & Squares, and what each is worth.

One small net for each set (32×32, 64×64, counting) is trained on fresh images every epoch, written as ONNX and read
back. On unseen images every method of `jettison explain` is judged: region perturbation (AOPC) against random order,
deletion, insertion, completeness, and with the true masks of the objects IoU and the pointing game. What goes turns
into the mean colour of its image, or into noise, as Samek et al. have it. RISE (Petsiuk et al. 2018), which DIANNA
offers too, needs no gradients and is judged beside them.

    python -m benchmarks.reproduce.triangles_squares --work WORK --out benchmarks/results/triangles_squares
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.reproduce.train_triangles_squares import Network, Step, conv_block, to_onnx, train
from toolchain.data import Samples
from toolchain.evaluate import evaluate
from toolchain.explain import figures, judging, quality
from toolchain.explain.figure import Figure, Row
from toolchain.explain.judging import RANDOM, Judged, judge
from toolchain.explain.plots import drawn
from toolchain.explain.quality import F64, Watched
from toolchain.explain.writing import as_csv, as_json
from toolchain.files import write_atomic, write_text
from toolchain.model import Model, load
from toolchain.synthetic import CLASSES, Images, counting, object_masks, triangles_squares
from toolchain.tables import markdown

MOST = 3  # objects to count
EPOCHS = 3
JUDGED, ORDERS = 64, 10  # images that heatmaps are judged on, and random orders of their regions
SEED, TEST_IMAGES = 7, 2000  # of unseen images: training draws from seeds above 999
FILLS = ("mean", "noise")
RISE_MASKS, RISE_CELLS, RISE_KEPT = 1000, 8, 0.5  # DIANNA's defaults, its p being tuned


@dataclass(frozen=True)
class Task:
    """A set of generated images and what a net has to say of them; draw takes (number of images, seed)."""

    size: int
    classes: tuple[str, ...]
    draw: Callable[[int, int], Images]

    def samples(self, n: int) -> Samples:
        """Unseen images with the masks of their objects."""
        x, y = self.draw(n, SEED)
        return Samples(f"{n} unseen images", {"image": x}, y, self.classes, masks=object_masks(x))


TASKS: dict[str, Task] = {
    "triangles-squares-32": Task(32, CLASSES, lambda n, seed: triangles_squares(n, 32, seed)),
    "triangles-squares-64": Task(64, CLASSES, lambda n, seed: triangles_squares(n, 64, seed)),
    "counting": Task(
        64, tuple(str(k) for k in range(MOST + 1)), lambda n, seed: counting(n, 64, MOST, seed)
    ),
}  # fmt: skip


# ---- nets ----------------------------------------------------------------------------------------------------------
def network(task: Task) -> Network:
    """[n, 1, size, size] -> logits: three blocks of conv, BatchNorm, ReLU, max pool, then two dense layers."""
    conv = lambda fan_in, fan_out: nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False)
    across = task.size // 8
    return Network(
        (
            *conv_block(1, "image", conv(1, 8)),
            Step("pool1", ("relu1",), nn.MaxPool2d(2)),
            *conv_block(2, "pool1", conv(8, 16)),
            Step("pool2", ("relu2",), nn.MaxPool2d(2)),
            *conv_block(3, "pool2", conv(16, 32)),
            Step("pool3", ("relu3",), nn.MaxPool2d(2)),
            Step("flatten", ("pool3",), nn.Flatten()),
            Step("dense1", ("flatten",), nn.Linear(32 * across**2, 64)),
            Step("relu4", ("dense1",), nn.ReLU()),
            Step("dense2", ("relu4",), nn.Linear(64, len(task.classes))),
        )
    )


def trained(name: str, task: Task, work: Path, seed: int, epochs: int) -> Model:
    """The net of a task, trained unless it lies in the work folder already."""
    path = work / f"{name}-{seed}-{epochs}.onnx"
    if not path.exists():
        torch.manual_seed(seed)
        net = network(task)
        train(net, seed, epochs, task.draw)
        proto = to_onnx(name, net.eval().steps, (1, task.size, task.size), len(task.classes))
        write_atomic(path, lambda file: file.write(proto.SerializeToString()))
        onnx.checker.check_model(path)
    return load(path)


# ---- RISE ----------------------------------------------------------------------------------------------------------
def rise(watched: Watched, seed: int = 0) -> F64:
    """Mean of random masks weighted by the class's score behind them, [n, h, w] (Petsiuk et al. 2018, eq. 6)."""
    h, w = watched.size
    cell = -(-max(h, w) // RISE_CELLS)
    generator = np.random.default_rng(seed)
    coarse = (generator.random((RISE_MASKS, 1, RISE_CELLS, RISE_CELLS)) < RISE_KEPT).astype(np.float32)
    side = (RISE_CELLS + 1) * cell
    fine = F.interpolate(torch.from_numpy(coarse), (side, side), mode="bilinear").numpy()
    shifts = generator.integers(0, cell, (RISE_MASKS, 2))
    masks = np.stack([m[:, r : r + h, c : c + w] for m, (r, c) in zip(fine, shifts, strict=True)])
    found = []
    for image, target in zip(watched.images, watched.targets, strict=True):
        parts = (masks[i : i + quality.LARGEST_BATCH] for i in range(0, RISE_MASKS, quality.LARGEST_BATCH))
        scores = np.concatenate([watched.predict(part * image)[:, target] for part in parts])
        found.append(np.tensordot(scores, masks[:, 0], 1) / RISE_MASKS / RISE_KEPT)
    return np.stack(found)


# ---- tables --------------------------------------------------------------------------------------------------------
def judged_with_rise(model: Model, samples: Samples, fill: str) -> tuple[Judged, list[Row]]:
    """Every method of ours, then a row of the table for each, RISE, and a map of noise."""
    judged = judge(model, samples, orders=ORDERS, fill=fill)
    probe = judging.probing(model, samples, fill=judging.FILLS[fill])
    of_rise = judging.judgement(probe, "rise", rise(probe.watched))
    chance = quality.aopc(judged.chance).mean(axis=1)
    *ours, noise = judged.methods
    assert noise.method == RANDOM
    rows = []
    for j in (*ours, of_rise, noise):
        beats: Row = {"AOPC of random orders": float(chance.mean()), "highest of them": float(chance.max())}
        rows.append(
            {"fill": fill} | figures.quality_row(j) | beats | {"better than random": bool(j.aopc.mean() > chance.max())}
        )
    return judged, rows


def keep(figure: Figure, out: Path, stem: str, suffix: str) -> None:
    """One picture, and its numbers."""
    content = drawn(figure)[suffix]
    write_atomic(out / f"{stem}.{suffix}", lambda file: file.write(content))
    write_text(out / f"{stem}.csv", as_csv(figure.chart.rows() if suffix == "svg" else figure.rows))


def reproduced(name: str, work: Path, out: Path, seed: int, epochs: int) -> tuple[list[Row], dict[str, Any]]:
    """The rows of one task and the facts of its net; its pictures are written."""
    task = TASKS[name]
    model = trained(name, task, work, seed, epochs)
    right = evaluate(model, task.samples(TEST_IMAGES)).share
    samples, rows = task.samples(JUDGED), []
    for fill in FILLS:
        judged, found = judged_with_rise(model, samples, fill)
        rows += [{"set": name} | row for row in found]
        keep(figures.perturbation(judged, samples.name), out, f"perturbation-{name}-{fill}", "svg")
    shown = dict(enumerate(task.classes))
    keep(figures.heatmap_grid(model, samples, shown), out, f"heatmaps-{name}", "png")
    covered = samples.masks.mean() if samples.masks is not None else 0.0
    facts = {"accuracy": right, "test_images": TEST_IMAGES, "object_share": float(covered), "judged_images": JUDGED}
    print(f"{name}: accuracy {100 * right:.2f} %, objects cover {100 * covered:.1f} % of {JUDGED} images", flush=True)
    print(markdown(rows), flush=True)
    return rows, facts


def drawing_speed(n: int = 100_000, at_once: int = 10_000) -> dict[str, float]:
    """Seconds of one core that so many images of each set take."""
    seconds = {}
    for name, task in TASKS.items():
        begun = time.process_time()
        for part in range(n // at_once):
            task.draw(at_once, part)
        seconds[name] = round(time.process_time() - begun, 2)
        print(f"{n:,} images of {name} in {seconds[name]:.1f} s of one core", flush=True)
    return seconds


def main(words: Sequence[str] | None = None) -> None:
    """Train what is not trained yet, judge, write tables and pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of trained nets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", default=",".join(TASKS), help="names with commas")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", action="store_true", help="time the drawing of 100,000 images of each set, and end")
    chosen = parser.parse_args(words)
    if chosen.speed:
        drawing_speed()
        return
    torch.set_num_threads(1)
    for folder in (chosen.work, chosen.out):
        folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    facts: dict[str, Any] = {}
    for name in chosen.sets.split(","):
        found, facts[name] = reproduced(name, chosen.work, chosen.out, chosen.seed, chosen.epochs)
        rows += found
        write_text(chosen.out / "quality.csv", as_csv(rows))
        write_text(chosen.out / "facts.json", as_json(facts | {"seed": chosen.seed, "epochs": chosen.epochs}))


if __name__ == "__main__":
    main()
