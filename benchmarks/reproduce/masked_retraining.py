"""Masked retraining (Lundstrom et al. 2022, Fig. 13): accuracy at 50…95 % masking, as it is, recovered and retrained.

The three dense layers are masked together, lowest rank first. A masked unit gives zero and gets no gradient, so that
training with the masks held in place is training the pruned network; that is what is trained here, which at 95 % has a
400th of the parameters. Convolutions stay as they are: their answers to augmented images are computed once and every
epoch draws one of `--versions` of each image. Beside it stands recovery without labels (toolchain.compress.recover).

The unmasked network is retrained in the same way (0 %), so that what retraining adds is not laid to masking.

Validation chooses: the recipe, by its mean over CHOICE_LEVELS, and the epoch of each run. The test split chooses
nothing. Runs draw from (seed, level, epoch) alone: one that was stopped and resumed equals one that was not.

    python -m benchmarks.reproduce.masked_retraining --trained RUNS --work RUNS/masked --out OUT
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.reproduce.dense_head import LEVELS, Head, masked, read_head, work_of
from benchmarks.reproduce.train_msl5 import Recipe, augment, learning_rate, save
from toolchain.compress.plan import Plan
from toolchain.compress.recover import recover
from toolchain.compress.surgery import prune
from toolchain.data import Samples
from toolchain.evaluate import evaluate
from toolchain.files import write_text
from toolchain.model import Model
from toolchain.session import run, session, with_outputs

CHOICE_LEVELS = (50, 75, 95)
BANK_SEED = 1_000_003
PAPER = {0: (0.916, 0.916), 50: (0.793, 0.900), 95: (0.567, 0.889)}  # Fig. 13: masked, retrained


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


EPOCHS, VERSIONS, SEEDS = 20, 6, (0, 1, 2)
WAYS = tuple(Way(rate, dropout, EPOCHS) for rate in (1e-4, 1e-3) for dropout in (0.0, 0.5))


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


# ---- one level -----------------------------------------------------------------------------------------------------
def accuracies(model: Model, samples: dict[str, Samples], threads: int) -> dict[str, dict[str, Any]]:
    """n, number right and accuracy of each split, in onnxruntime."""
    found = {name: evaluate(model, s, threads) for name, s in samples.items()}
    return {name: {"n": a.n, "correct": a.correct, "accuracy": a.share} for name, a in found.items()}


@dataclass(frozen=True)
class Bench:
    """What every level is measured with."""

    head: Head
    bank: np.ndarray
    work: Path
    threads: int

    def pruned(self, level: int) -> tuple[Plan, Model]:
        """The plan of a level and the head pruned by it."""
        plan = masked(self.head, level)
        return plan, prune(self.head.model, self.head.channels, plan.labels(self.head.channels))

    def run(self, level: int, way: Way, seed: int) -> dict[str, Any]:
        """Retrain a level and measure it: the file's weights in onnxruntime, not torch's."""
        begun = time.perf_counter()
        _, pruned = self.pruned(level)
        net = as_torch(pruned, way.dropout)
        y = {name: torch.from_numpy(s.labels) for name, s in self.head.samples.items()}
        (val,) = self.head.samples["val"].inputs.values()
        x = torch.stack([places(pruned, part, self.threads) for part in self.bank])
        checkpoint = self.work / f"{way.label}-{level}-seed{seed}.pt"
        validation = (places(pruned, val, self.threads), y["val"])
        history = retrain(net, x, y["train"], validation, way, level, seed, checkpoint)
        row = accuracies(written_back(pruned, net), dict(self.head.samples), self.threads)
        epoch = max(history, key=lambda h: (h["val_correct"], -h["val_loss"]))["epoch"]
        told = ", ".join(f"{name} {a['correct']}/{a['n']}" for name, a in row.items())
        print(f"{level} % {way.label} seed {seed}: {told}, {time.perf_counter() - begun:.0f} s", flush=True)
        return {"seed": seed, "epoch": epoch, "val_loss": min(h["val_loss"] for h in history), "accuracy": row}

    def untrained(self, level: int) -> dict[str, Any]:
        """Widths of a level, and its accuracy as it is and after least squares without labels; kept in `work`."""
        kept = self.work / f"untrained-{level}.json"
        if not kept.exists():
            plan, pruned = self.pruned(level)
            removed = plan.labels(self.head.channels)
            recovered, _ = recover(
                self.head.model, pruned, self.head.channels, removed, self.head.samples["train"].inputs,
                threads=self.threads,
            )  # fmt: skip
            models = {"masked": pruned, "recovered": recovered}
            rows = {n: accuracies(m, dict(self.head.samples), self.threads) for n, m in models.items()}
            widths = {name: after for name, (_, after) in plan.widths.items()}
            write_text(kept, json.dumps({"masked %": level, "kept": widths, **rows}))
            print(f"{level} % without retraining done", flush=True)
        return json.loads(kept.read_text())


def chosen(bench: Bench, ways: tuple[Way, ...]) -> tuple[Way, list[dict[str, Any]]]:
    """The way that is right most often on validation over CHOICE_LEVELS with seed 0, and what each reached."""
    rows = []
    for way in ways:
        runs = [bench.run(level, way, 0) for level in CHOICE_LEVELS]
        right = [r["accuracy"]["val"]["correct"] for r in runs]
        rows.append({**asdict(way), "validation right": dict(zip(CHOICE_LEVELS, right, strict=True))})
    best = max(range(len(ways)), key=lambda i: sum(rows[i]["validation right"].values()))
    return ways[best], rows


def spread(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean, least and greatest accuracy of each split over seeds."""
    rows = {}
    for split in runs[0]["accuracy"]:
        values = [r["accuracy"][split]["accuracy"] for r in runs]
        n = runs[0]["accuracy"][split]["n"]
        rows[split] = {"n": n, "accuracy": float(np.mean(values)), "min": min(values), "max": max(values)}
    return rows


def series(
    trained: Path,
    work: Path,
    ways: tuple[Way, ...] = WAYS,
    seeds: Sequence[int] = SEEDS,
    versions: int = VERSIONS,
    threads: int = 1,
) -> dict[str, Any]:
    """Everything: {base, ways, way, levels: [{masked %, kept, masked, recovered, retrained, runs}]}."""
    work = work_of(trained, work)
    head = read_head(trained, work, threads)
    with np.load(trained / "calibration.npz") as file:
        augmented = bank(head, file["x"], versions, work / "bank")
    bench = Bench(head, augmented, work, threads)
    untrained = [bench.untrained(level) for level in (0, *LEVELS)]
    way, tried = chosen(bench, ways)
    rows = []
    for row in untrained:
        runs = [bench.run(row["masked %"], way, seed) for seed in seeds]
        rows.append({**row, "retrained": spread(runs), "runs": runs})
    dead = {name: int(d.sum()) for name, d in head.ranks.dead.items()}
    return {
        "base": accuracies(head.model, dict(head.samples), threads),
        "paper": {str(k): {"masked": a, "retrained": b} for k, (a, b) in PAPER.items()},
        "dead": dead,
        "ranking": head.ranks.facts,
        "ways": tried,
        "way": asdict(way),
        "versions": versions,
        "seeds": list(seeds),
        "levels": rows,
    }


def main() -> None:
    """Measure, or resume, and write masked_retraining.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", type=Path, required=True, help="folder of train_msl5's results")
    parser.add_argument("--work", type=Path, required=True, help="folder of activations and checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="folder of masked_retraining.json")
    parser.add_argument("--versions", type=int, default=VERSIONS, help="augmentations of an image, the first as it is")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    found = series(asked.trained, asked.work, WAYS, asked.seeds, asked.versions, asked.threads)
    asked.out.mkdir(parents=True, exist_ok=True)
    write_text(asked.out / "masked_retraining.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
