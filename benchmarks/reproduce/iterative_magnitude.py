"""Iterative magnitude pruning of the 2,346-parameter network of Lukkien (Fig. 2.2): accuracy, heatmaps and structure.

    python -m benchmarks.reproduce.iterative_magnitude train --mnist MNIST.npz --work WORK

trains three seeds and prunes each in 25 rounds; it goes on where it was stopped, to the same bits.

    python -m benchmarks.reproduce.iterative_magnitude measure --mnist MNIST.npz --work WORK

adds a line to WORK/rounds.jsonl for each round that has none: accuracy on the test images clean and noisy, IoU of
heatmaps of noisy images with the clean ones (Lukkien, eq. 2.4-2.8), and what is left without weightless units.

    python -m benchmarks.reproduce.iterative_magnitude draw --mnist MNIST.npz --work WORK --out OUT

draws Fig. 3.1, 3.2, 2.4, 4.1 and 4.2 and Table 3.1 of what was measured.

What the print leaves open is read so: biases do not decay, noise is drawn anew for every image and epoch, networks are
trained on noisy images, a heatmap is of the predicted class at the last convolution's ReLU and divided by its largest
value before it is compared.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Generator, Tensor, nn

from benchmarks.reproduce.train_triangles_squares import Step, to_onnx
from toolchain.data import Samples
from toolchain.evaluate import evaluate
from toolchain.explain.figure import Figure, Gallery, Lines, Panels, Series
from toolchain.explain.heatmaps import heatmaps
from toolchain.explain.quality import peaks, weighted_iou
from toolchain.explain.writing import as_csv, as_json, write_figure
from toolchain.files import write_text
from toolchain.model import Model, load, save
from toolchain.pipeline.sparsifying import Result, structured
from toolchain.retrain import Recipe, retrain
from toolchain.retrain.magnitude import Round, left, rounds, weights_of
from toolchain.tables import markdown

SEEDS, ROUNDS, SHARE = (333, 334, 335), 25, 0.2
METHODS, LAYER = ("grad-cam", "grad-cam++"), "relu2.out"
TRIPLES = (0, 5, 10, 15, 20)  # rounds of Fig. 4.1 and 4.2
PAPER_R = 0.960  # of which of the four pairs below, the print leaves open
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
        model, _ = retrain(
            load(folder / "untrained.onnx"), samples, recipe=replace(TRAINING, seed=seed),
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
        recipe = replace(RETRAINING, seed=seed)
        for r in rounds(model, samples, None, recipe, folder, count=ROUNDS, share=SHARE, augment=(noisy,)):
            share = evaluate(r.model, test).share
            told = f"seed {seed} round {r.number}: {r.weights[0]} weights, {100 * share:.2f} % right"
            print(f"{told}, {time.perf_counter() - begun:.0f} s", flush=True)
            begun = time.perf_counter()


# ---- measuring -----------------------------------------------------------------------------------------------------
def files(work: Path, seeds: Sequence[int]) -> Iterator[tuple[int, int, Path]]:
    """(seed, round, network) of all that is trained."""
    for seed in seeds:
        for number in range(ROUNDS + 1):
            path = work / str(seed) / (f"round-{number:02}.onnx" if number else "trained.onnx")
            if path.exists():
                yield seed, number, path


def noisy_copy(clean: Samples) -> Samples:
    """The same noise for every network."""
    x = torch.from_numpy(clean.inputs["image"])
    return replace(clean, inputs={"image": noisy(x, Generator().manual_seed(0)).numpy()})


def maps_of(model: Model, method: str, images: np.ndarray) -> np.ndarray:
    """Heatmaps in 0..1 of the classes that the network predicts, [n, h, w]."""
    return peaks(heatmaps(model, method, images, layer=LAYER))


def measured(path: Path, number: int, clean: Samples, noised: Samples) -> dict[str, Any]:
    """One round in numbers."""
    model = load(path)
    weights = weights_of(model)
    counts = left(weights), sum(w.size for w in weights.values())
    found = structured(model)
    dense = Result(Round(number, counts, model), found, evaluate(model, clean).share)
    images = clean.inputs["image"][:, 0]
    ious = {m: weighted_iou(maps_of(model, m, noised.inputs["image"]), images) for m in METHODS}
    return dense.row | {
        "density": counts[0] / counts[1],
        "clean": dense.right,
        "noisy": evaluate(model, noised).share,
        **{m: float(iou.mean()) for m, iou in ious.items()},
        "widths": found.plan.widths,
        "stays": [asdict(s) for s in found.stays],
        "max_rel": found.proof.max_rel,
    }


def measure(mnist: Path, work: Path, seeds: Sequence[int]) -> None:
    """A line for each round that has none."""
    clean = digits(mnist, "test")
    noised = noisy_copy(clean)
    done = {(r["seed"], r["round"]) for r in lines_of(work)}
    for seed, number, path in files(work, seeds):
        if (seed, number) not in done:
            row = {"seed": seed} | measured(path, number, clean, noised)
            with (work / "rounds.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(", ".join(f"{k} {v}" for k, v in row.items() if isinstance(v, int | float)), flush=True)


def lines_of(work: Path) -> list[dict[str, Any]]:
    """All that was measured."""
    path = work / "rounds.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# ---- figures and tables --------------------------------------------------------------------------------------------
COLUMNS = {  # column -> what it is called in figures
    "clean": "clean images", "noisy": "noisy images", "grad-cam": "Grad-CAM", "grad-cam++": "Grad-CAM++",
    "units": "units", "params": "parameters", "bytes": "file [B]",
}  # fmt: skip


def over_seeds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, smallest and largest of each column, for each round that every seed has come to."""
    seeds = {r["seed"] for r in rows}
    by_round = [[r for r in rows if r["round"] == number] for number in range(ROUNDS + 1)]
    found = []
    for same in (s for s in by_round if len(s) == len(seeds)):
        row = {
            "round": same[0]["round"],
            "weights": same[0]["weights"],
            "density": same[0]["density"],
            "seeds": len(same),
        }
        for name in COLUMNS:
            values = [r[name] for r in same]
            row |= {name: float(np.mean(values)), f"{name} low": min(values), f"{name} high": max(values)}
        found.append(row)
    return found


def series(means: Sequence[dict[str, Any]], along: str, names: Sequence[str], by: float = 1.0) -> tuple[Series, ...]:
    """Lines of some columns, a band from the smallest seed to the largest."""
    x = np.array([m[along] for m in means]) * (100 if along == "density" else 1)
    of = lambda name: by * np.array([m[name] for m in means], float)
    return tuple(Series(COLUMNS[n], of(n), x, of(f"{n} low"), of(f"{n} high")) for n in names)


def correlations(means: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Table 3.1: Pearson's r of accuracy and IoU over the rounds; the 26 of the paper give 24 degrees of freedom."""
    from scipy.stats import pearsonr

    found = []
    for accuracy in ("noisy", "clean"):
        for method in METHODS:
            r = pearsonr([m[accuracy] for m in means], [m[method] for m in means])
            found.append(
                {
                    "accuracy on": COLUMNS[accuracy], "IoU of": COLUMNS[method], "points": len(means),
                    "df": len(means) - 2, "r": float(r.statistic), "p": float(r.pvalue), "paper's r": PAPER_R,
                }
            )  # fmt: skip
    return found


def curves(means: Sequence[dict[str, Any]]) -> Iterator[Figure]:
    """Fig. 3.1 and 3.2, and what the networks become without weightless units."""
    told = f"Mean of {means[0]['seeds']} seeds, the band from the smallest to the largest; 10,000 test images."
    told = told if means[0]["seeds"] > 1 else "One seed; 10,000 test images."
    for along, axis, source in (("round", "pruning level", "Fig. 3.1"), ("density", "weights left [%]", "Fig. 3.2")):
        accuracy = Lines(series(means, along, ("clean", "noisy"), 100), axis, "right [%]", is_share=True)
        iou = Lines(series(means, along, METHODS), axis, "IoU with the clean image")
        yield Figure(f"accuracy-{along}", f"Accuracy against {axis}", source, told, accuracy)
        yield Figure(f"iou-{along}", f"IoU of heatmaps against {axis}", source, told, iou)
    names = ("units", "params", "bytes")
    parts = tuple(Lines(series(means, "round", (n,)), "pruning level", COLUMNS[n]) for n in names)
    caption = "What is left when units without weights have gone: the same answers from a dense network. " + told
    yield Figure("structure", "From unstructured to structured", "open end", caption, Panels(parts, names))


def triple(model: Model, method: str, clean: Samples, noised: Samples, number: int) -> tuple[list[Any], list[str]]:
    """A raw image, the noisy one, its heatmap with the IoU."""
    raw, seen = (s.inputs["image"][number : number + 1] for s in (clean, noised))
    found = maps_of(model, method, seen)
    iou = float(weighted_iou(found, raw[:, 0])[0])
    return [raw[0, 0], seen[0, 0], np.float32(found[0])], [f"digit {clean.labels[number]}", "noisy", f"IoU {iou:.3f}"]


def galleries(work: Path, seed: int, clean: Samples, noised: Samples) -> Iterator[Figure]:
    """Fig. 2.4: the dense network and an image of each of five digits; Fig. 4.1 and 4.2: one image over the rounds."""
    networks = {number: path for _, number, path in files(work, (seed,))}
    digit = [int(np.flatnonzero(clean.labels == k)[0]) for k in range(10)]
    for method, source in zip(METHODS, ("Fig. 4.1", "Fig. 4.2"), strict=True):
        parts = [(f"dense-{method}", "Fig. 2.4", [(0, n) for n in digit[:5]])]
        parts += [(f"rounds-{method}", source, [(r, digit[7]) for r in TRIPLES if r in networks])]
        for name, figure, cells in parts:
            images, titles, numbers = [], [], []
            for number, n in cells:
                more = triple(load(networks[number]), method, clean, noised, n)
                images += more[0]
                titles += [f"round {number}: {more[1][0]}", *more[1][1:]]
                numbers += [n] * 3
            caption = (
                f"Raw, noisy, {COLUMNS[method]} of the predicted class; seed {seed}, first test images of a digit."
            )
            chart = Gallery(tuple(images), tuple(titles), tuple(numbers), columns=3)
            yield Figure(name.replace("++", "-plus-plus"), "Heatmaps of noisy images", figure, caption, chart)


def draw(mnist: Path, work: Path, seeds: Sequence[int], out: Path) -> None:
    """Figures with their CSV and JSON; rounds and Table 3.1 as CSV, JSON and Markdown."""
    rows = [r for r in lines_of(work) if r["seed"] in seeds]
    means = over_seeds(rows)
    clean = digits(mnist, "test")
    out.mkdir(parents=True, exist_ok=True)
    for figure in (*curves(means), *galleries(work, min(r["seed"] for r in rows), clean, noisy_copy(clean))):
        written = write_figure(figure, out, {"seeds": sorted({r["seed"] for r in rows})}, force=True)
        pictures = sorted((p for p in written if p.suffix in (".svg", ".png")), key=lambda p: p.stat().st_size)
        pictures[-1].unlink()  # the smaller stays
        print(pictures[0].name, flush=True)
    table = correlations(means)
    write_text(out / "rounds.csv", as_csv(rounds_told(rows)))
    write_text(out / "table3_1.json", as_json({"rows": table}))
    told = [tabled(m) for m in means]
    text = f"## Rounds, mean over seeds\n\n{markdown(told)}\n\n## Table 3.1\n\n{markdown(table)}\n"
    write_text(out / "tables.md", text)
    print(text)


def tabled(mean: dict[str, Any]) -> dict[str, Any]:
    """A round as a table tells it: shares in percent, counts whole."""
    told = {k: mean[k] for k in ("round", "weights")} | {"density %": f"{100 * mean['density']:.2f}"}
    told |= {f"right %, {COLUMNS[k]}": f"{100 * mean[k]:.2f}" for k in ("clean", "noisy")}
    told |= {f"IoU, {COLUMNS[k]}": f"{mean[k]:.4f}" for k in METHODS}
    return told | {COLUMNS[k]: round(mean[k]) for k in ("units", "params", "bytes")} | {"seeds": mean["seeds"]}


def rounds_told(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every round of every seed without what is no number."""
    return [{k: v for k, v in r.items() if isinstance(v, int | float)} for r in rows]


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["train", "measure", "draw"])
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="of draw: folder of figures and tables")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    chosen = parser.parse_args()
    seeds = tuple(chosen.seeds)
    if chosen.step == "draw":
        if chosen.out is None:
            parser.error("draw needs --out")
        draw(chosen.mnist, chosen.work, seeds, chosen.out)
    else:
        {"train": train, "measure": measure}[chosen.step](chosen.mnist, chosen.work, seeds)


if __name__ == "__main__":
    main()
