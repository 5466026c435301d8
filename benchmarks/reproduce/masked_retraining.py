"""Accuracy at 50…95 % masking, as it is, recovered and retrained (Lundstrom et al. 2022, Fig. 13).

The three dense layers are masked together, lowest rank first, and retrained with the masks held in place (retraining).
Beside it stand recovery without labels (toolchain.compress.recover) and two controls: the unmasked network retrained
in the same way (0 %), so that what retraining adds is not laid to masking, and the same levels in a random order, so
that what retraining repairs is not laid to the ranking.

Validation chooses: the recipe, by its sum over CHOICE_LEVELS, and the epoch of each run. The test split chooses
nothing. A run that is stopped goes on from its last checkpoint.

    python -m benchmarks.reproduce.masked_retraining --trained RUNS --work RUNS/masked --out OUT
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.reproduce.dense_head import LEVELS, Head, masked, read_head, work_of
from benchmarks.reproduce.retraining import Way, as_torch, bank, places, retrain, written_back
from toolchain.compress.plan import Plan
from toolchain.compress.recover import recover
from toolchain.compress.surgery import prune
from toolchain.data import Samples
from toolchain.evaluate import evaluate
from toolchain.files import write_text
from toolchain.model import Model

CHOICE_LEVELS = (50, 75, 95)
PAPER = {0: (0.916, None), 50: (0.793, 0.900), 95: (0.567, 0.889)}  # Fig. 13: masked, retrained
EPOCHS, VERSIONS, SEEDS = 20, 6, (0, 1, 2, 3, 4)
WAYS = tuple(Way(rate, dropout, EPOCHS) for rate in (1e-4, 1e-3) for dropout in (0.0, 0.5))


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

    def kept(self, plan: Plan, name: str) -> Path:
        """A file in `work` for what is derived from this plan: another ranking never reads it."""
        removed = hashlib.sha256(json.dumps(plan.removed, sort_keys=True).encode()).hexdigest()[:12]
        return self.work / f"{removed}-{name}"

    def run(self, level: int, way: Way, seed: int) -> dict[str, Any]:
        """Retrain a level and measure it: the file's weights in onnxruntime, not torch's."""
        begun = time.perf_counter()
        plan, pruned = self.pruned(level)
        net = as_torch(pruned, way.dropout)
        y = {name: torch.from_numpy(s.labels) for name, s in self.head.samples.items()}
        (val,) = self.head.samples["val"].inputs.values()
        x = torch.stack([places(pruned, part, self.threads) for part in self.bank])
        checkpoint = self.kept(plan, f"{way.label}-{level}-seed{seed}.pt")
        validation = (places(pruned, val, self.threads), y["val"])
        history = retrain(net, x, y["train"], validation, way, level, seed, checkpoint)
        row = accuracies(written_back(pruned, net), dict(self.head.samples), self.threads)
        best = max(history, key=lambda h: (h["val_correct"], -h["val_loss"]))
        told = ", ".join(f"{name} {a['correct']}/{a['n']}" for name, a in row.items())
        print(f"{level} % {way.label} seed {seed}: {told}, {time.perf_counter() - begun:.0f} s", flush=True)
        return {"seed": seed, "epoch": best["epoch"], "val_loss": best["val_loss"], "accuracy": row}

    def untrained(self, level: int) -> dict[str, Any]:
        """Widths of a level, and its accuracy as it is and after least squares without labels; kept in `work`."""
        plan, pruned = self.pruned(level)
        kept = self.kept(plan, f"untrained-{level}.json")
        if not kept.exists():
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


def shuffled(head: Head, seed: int) -> Head:
    """The same head with its units ranked at random."""
    generator = np.random.default_rng(seed)
    scores = {name: generator.permutation(len(s)).astype(np.float64) for name, s in head.ranks.scores.items()}
    dead = {name: np.zeros(len(s), bool) for name, s in scores.items()}
    return replace(head, ranks=replace(head.ranks, scores=scores, dead=dead, facts={"criterion": "random"}))


def at_random(bench: Bench, way: Way, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """CHOICE_LEVELS masked in a random order for each seed: as they are, recovered and retrained."""
    found: dict[int, list[dict[str, Any]]] = {level: [] for level in CHOICE_LEVELS}
    for seed in seeds:
        other = replace(bench, head=shuffled(bench.head, seed))
        for level, rows in found.items():
            rows.append(other.untrained(level) | {"retrained": other.run(level, way, seed)["accuracy"]})
    kinds = ("masked", "recovered", "retrained")
    return [{"masked %": level} | {k: spread([r[k] for r in rows]) for k in kinds} for level, rows in found.items()]


def spread(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean, least and greatest accuracy of each split over seeds."""
    rows = {}
    for split in runs[0]:
        values = [r[split]["accuracy"] for r in runs]
        n = runs[0][split]["n"]
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
    """Everything: {base, ways, way, levels: [{masked %, kept, masked, recovered, retrained, runs}], random}."""
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
        rows.append({**row, "retrained": spread([r["accuracy"] for r in runs]), "runs": runs})
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
        "random": at_random(bench, way, seeds),
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
