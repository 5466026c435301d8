"""Tuning by occurrence maps, after Garcia et al.: the MNIST network of Fig. 5, and a rover network for CIFAR-10.

    python -m benchmarks.reproduce.occurrence_maps --nets RUNS --out benchmarks/results/occurrence [--rover MSL5]

The first layer keeps 5 of 16 kernels: those that are dead or unselective go, the others are put into as many groups by
D (complete linkage) as may stay, and of each group the kernel with the highest s stays. The layer is frozen, the rest
is trained for one epoch, then the second layer is cut to what its findings leave, and the same is done once more.
Beside it: as many kernels drawn by chance, and the network that was not cut, trained in the same way. An epoch that
validation does not find better than none is not kept.

CIFAR-10 is not at hand. Its place takes the network of train_msl5 (--rover, the folder of its results), whose
first and last convolution are cut by the paper's shares, 64 to 20 and 64 to 35. MNIST comes from ../shared/data.
RUNS holds mnist-SEED.onnx of `benchmarks.criteria_nets`; what is not there is trained.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from benchmarks import criteria_nets
from benchmarks.reproduce.jpl import write
from benchmarks.reproduce.train_triangles_squares import Network, to_onnx
from toolchain.compress.groups import analyse
from toolchain.data import Samples
from toolchain.evaluate import evaluate
from toolchain.explain import figures
from toolchain.explain.figure import Figure, Row
from toolchain.explain.figures import Trial
from toolchain.explain.findings import findings, units_of
from toolchain.explain.layers import Activation, hidden
from toolchain.explain.occurrence import Occurrence, differences, kernel_selectivity, occurrences
from toolchain.explain.writing import as_csv, origin
from toolchain.files import write_text
from toolchain.model import Model, load
from toolchain.pipeline.tuning import Task, Tuned, retrained, tune, without
from toolchain.profile import params
from toolchain.retrain import Recipe
from toolchain.tables import markdown

PAPER = {  # accuracies in percent, as printed
    "mnist": {"original": 96.96, "conv1": 96.93, "conv2": 97.69},
    "rover": {"original": 80.54, "conv1": 81.20, "conv5": 80.43},  # of CIFAR-10: another network on other images
}
KERNELS = 5  # of the first layer, of 16
SHARES = {"conv1": 20 / 64, "conv5": 35 / 64}  # of the CIFAR-10 network's first and last convolution
METHODS = ("occurrence", "chance", "not cut")


def samples(split: criteria_nets.Split, name: str, model: Model) -> Samples:
    """As the toolchain reads them."""
    return Samples(name, {next(iter(model.inputs)): split.x}, split.y)


def mnist(folder: Path, seed: int) -> Model:
    """The network of a seed, trained where it is not there."""
    about = criteria_nets.nets(None)["mnist"]
    path = about.file(folder, seed)
    if not path.exists():
        torch.manual_seed(seed)
        net = Network(about.steps())
        criteria_nets.train(net, about, about.splits(seed).train, seed)
        onnx.save(to_onnx(about.name, net.eval().steps, about.image, about.classes), path)
    return load(path)


# ---- which kernels stay ----------------------------------------------------------------------------------------------
def kept(o: Occurrence, about: Activation, n: int) -> list[int]:
    """n kernels: the most selective of each of n groups of those that are neither dead nor unselective."""
    s = kernel_selectivity(o)
    out = {u for f in findings(o, about, False) if f.kind in ("dead", "unselective") for u in f.goes}
    rest = np.array([k for k in range(len(s)) if k not in out])
    chosen: list[int] = rest.tolist()
    if len(rest) > n:
        apart = squareform(differences(o)[np.ix_(rest, rest)], checks=False)
        group = fcluster(linkage(apart, "complete"), n, "maxclust")
        chosen = [int(rest[group == g][s[rest[group == g]].argmax()]) for g in np.unique(group)]
    spare = [k for k in np.argsort(-s, kind="stable").tolist() if k not in chosen]
    return sorted(chosen + spare[: n - len(chosen)])


def chosen(method: str, o: Occurrence, about: Activation, n: int | None, seed: int) -> list[int]:
    """Kernels that stay: n of them, or as many as the findings leave."""
    every = len(o.counts)
    if method == "not cut":
        return [*range(every)]
    left = every - sum(len(f.goes) for f in findings(o, about, False)) if n is None else n
    return kept(o, about, left) if method == "occurrence" else drawn_by_chance(every, left, seed)


def drawn_by_chance(every: int, n: int, seed: int) -> list[int]:
    """n of so many kernels."""
    return np.random.default_rng([seed, 7]).permutation(every)[:n].tolist()


# ---- one study -------------------------------------------------------------------------------------------------------
def study(
    model: Model, task: Task, test: Samples, plan: Sequence[tuple[str, int | None]], method: str, seed: int
) -> Iterator[Row]:
    """A row for the original, and for each layer as it is cut and retrained.

    plan  (layer, kernels that stay, or None: as the findings say)
    """
    right = lambda m: round(100 * evaluate(m, test, task.recipe.threads).share, 2)
    about = {a.layer: a for a in hidden(model)}
    state = Tuned(model, analyse(model), np.zeros(0, np.int64), model, (0.0, 0.0))
    told: Row = {"method": method, "seed": seed}
    yield told | {"layer": "original", "of": None, "kept": None, "cut %": None, "retrained %": right(model)}
    for layer, n in plan:
        now = next(a for a in hidden(state.current) if a.layer == layer)
        (o,) = occurrences(state.current, task.data, [now.value], task.recipe.threads)
        labels, stays = units_of(about[layer], state.channels), chosen(method, o, now, n, seed)
        gone = np.delete(labels, stays)
        cut = without(state, np.union1d(state.gone, gone)) if len(gone) else state
        state = retrained(cut, about[layer], task)
        counts = {"of": len(labels), "kept": len(stays)}
        yield told | {"layer": layer} | counts | {"cut %": right(cut.current), "retrained %": right(state.current)}


def studies(
    model: Model, task: Task, test: Samples, plan: Sequence[tuple[str, int | None]], seed: int
) -> Iterator[Row]:
    """All methods; chance keeps as many kernels as occurrence maps did."""
    for method in METHODS:
        rows = []
        for row in study(model, task, test, plan, method, seed):
            print(row, flush=True)
            rows.append(row)
            yield row
        if method == "occurrence":
            plan = [(str(r["layer"]), int(str(r["kept"]))) for r in rows[1:]]


def means(rows: Sequence[Row], paper: dict[str, float]) -> list[Row]:
    """Over seeds, beside the paper."""
    found: list[Row] = []
    for method in METHODS:
        for layer in dict.fromkeys(r["layer"] for r in rows):
            mine = [r for r in rows if r["method"] == method and r["layer"] == layer]
            values = [np.array([r[k] for r in mine if r[k] is not None], float) for k in ("cut %", "retrained %")]
            cut, after = (None if not len(v) else round(float(v.mean()), 2) for v in values)
            kept = ", ".join(dict.fromkeys(f"{r['of']} -> {r['kept']}" for r in mine if r["of"]))
            if mine:
                found.append({
                    "method": method, "layer": layer, "kernels": kept, "cut %": cut, "retrained %": after,
                    "lowest": float(values[1].min()), "highest": float(values[1].max()), "seeds": len(mine),
                    "paper %": paper.get(str(layer)) if method == "occurrence" else None,
                })  # fmt: skip
    return found


# ---- figures ---------------------------------------------------------------------------------------------------------
def drawn(model: Model, data: Samples, names: dict[int, str], layers: str = "conv*") -> Iterator[Figure]:
    """Fig. 2 to 4 and 6 to 8 of the convolutions, and the findings of all layers."""
    channels, every = analyse(model), hidden(model)
    seen = {o.layer: o for o in occurrences(model, data, [a.value for a in every])}
    for a in hidden(model, layers):
        o = seen[a.layer]
        group = next((g for g in channels.groups if set(g.units) == set(units_of(a, channels))), None)
        yield figures.occurrence_maps(o, names)
        yield figures.occurrence_differences(o)
        yield figures.selectivity_maps(o, names)
        yield figures.class_kernels(o, a, Trial(model, channels, data), group, names)
    yield figures.findings_table([f for a in every for f in findings(seen[a.layer], a, a == every[-1])])


def counted_in(model: Model, data: Samples) -> float:
    """Seconds that the maps of all convolutions take on one core, the best of three."""
    layers = [a.value for a in hidden(model, "conv*")]
    best = np.inf
    for _ in range(3):
        begun = time.perf_counter()
        occurrences(model, data, layers)
        best = min(best, time.perf_counter() - begun)
    return best


def tuned(model: Model, task: Task, test: Samples) -> str:
    """What the loop of Fig. 1 leaves of a network; its accuracy on the images that chose, and on others."""
    done = tune(model, task)
    sizes = " -> ".join(f"{params(m):,}" for m in (model, done.current))
    right = lambda m, s: f"{100 * evaluate(m, s, task.recipe.threads).share:.2f} %"
    chose, others = (f"{right(model, s)} -> {right(done.current, s)}" for s in (task.validation, test))
    return f"{sizes} parameters, validation {chose}, test {others}"


# ---- the two networks ------------------------------------------------------------------------------------------------
def mnist_rows(folder: Path, seeds: Sequence[int], out: Path, threads: int) -> list[Row]:
    """The paper's own network; figures are of the first seed."""
    rows: list[Row] = []
    about = criteria_nets.nets(None)["mnist"]
    for seed in seeds:
        model, splits = mnist(folder, seed), about.splits(seed)
        train, validation, test = (samples(getattr(splits, s), s, model) for s in ("train", "validation", "test"))
        task = Task(train, validation, Recipe(epochs=1, optimiser="adamw", batch=64, seed=seed, threads=threads))
        rows += studies(model, task, test, (("conv1", KERNELS), ("conv2", None)), seed)
        if seed == seeds[0]:
            print(f"maps of conv1 and conv2, {len(test):,} images: {counted_in(model, test):.2f} s", flush=True)
            write(drawn(model, test, {k: str(k) for k in range(10)}), out, origin(model, [test], {"seed": seed}))
        print(f"the loop of Fig. 1, seed {seed}: {tuned(model, task, test)}", flush=True)
    return rows


def rover_rows(folder: Path, out: Path, threads: int) -> list[Row]:
    """The stand-in of the CIFAR-10 network, one seed."""
    model, splits = load(folder / "msl5.onnx"), criteria_nets.rover_files(folder)
    train, validation, test = (samples(getattr(splits, s), s, model) for s in ("train", "validation", "test"))
    task = Task(train, validation, Recipe(epochs=1, optimiser="adamw", rate=1e-4, threads=threads))
    channels = analyse(model)
    wide = {a.layer: len(units_of(a, channels)) for a in hidden(model)}
    rows = [*studies(model, task, test, [(layer, round(s * wide[layer])) for layer, s in SHARES.items()], 0)]
    with np.load(folder / "calibration.npz") as file:
        names = dict(enumerate(map(str, file["classes"])))
    for figure in drawn(model, train, names, "conv1"):
        if figure.name in ("occurrence-difference", "selectivity", "class-kernels"):
            write(iter([replace(figure, about=f"rover-{figure.about}")]), out, origin(model, [train], {}))
    return rows


def main() -> None:
    """Write the figures, and accuracies of every seed as CSV and their means beside the paper's as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=Path, required=True, help="folder of mnist-SEED.onnx")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--rover", type=Path, help="folder of train_msl5's results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    asked.nets.mkdir(parents=True, exist_ok=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    studied = {"mnist": lambda: mnist_rows(asked.nets, asked.seeds, asked.out, asked.threads)}
    if asked.rover is not None:
        studied["rover"] = lambda: rover_rows(asked.rover, asked.out, asked.threads)
    for name, rows in ((name, run()) for name, run in studied.items()):
        table = markdown(means(rows, PAPER[name]))
        write_text(asked.out / f"{name}.csv", as_csv(rows))
        write_text(asked.out / f"{name}.md", f"{table}\n")
        print(table, flush=True)


if __name__ == "__main__":
    main()
