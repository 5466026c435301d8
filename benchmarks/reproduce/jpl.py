"""Lundstrom et al. 2022 reproduced: every figure and table (SEEDS.md part A) of a network that train_msl5 trained.

Expected attributions are over the training split. Figures 3 to 13 are of the dense layers, and computed on the
activations in front of the flatten, of which the three layers are a function (dense_head). Figure 13 needs masked
retraining, which starts or resumes in --work. Pictures of the data (Fig. 2) are written only where --samples asks.

    python -m benchmarks.reproduce.jpl --trained RUNS --work RUNS/masked --out benchmarks/results/jpl
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.reproduce import masked_retraining, random_split, table3
from benchmarks.reproduce.dense_head import Head, masked, read_head, work_of
from benchmarks.reproduce.train_msl5 import CLASSES, SPLITS
from toolchain.compress.criteria import Evidence, Ranks, rank
from toolchain.compress.groups import analyse
from toolchain.compress.surgery import prune
from toolchain.data import Samples, load_samples
from toolchain.evaluate import evaluate
from toolchain.explain import figures
from toolchain.explain.figure import Figure, Series
from toolchain.explain.figures import Trial
from toolchain.explain.units import Layer, layers_of
from toolchain.explain.writing import as_csv, as_json, origin, write_figure
from toolchain.files import write_text
from toolchain.model import Model, load
from toolchain.tables import markdown

NAMES = dict(enumerate(CLASSES))
SUN, ROCK = CLASSES.index("Sun"), CLASSES.index("Close-up rock")
TITLES = {"train": "training", "val": "validation", "test": "test"}
PAPER_CLASSES = (301, 302, 206, 162, 161)  # Table 1, of the training split
PAPER_LIVE = (4096, 3894)
AFTER = (
    "Retrained: the three layers with the masks held, best epoch on validation; the band is from the lowest to the "
    "highest of the seeds. Least squares: consumers refitted to the unmasked network's values, no labels."
)
EVERY = 16  # rows of curves with a point for each unit: all of them would be 10 MB


@dataclass(frozen=True)
class Network:
    """A trained network: the whole of it, its dense head with samples, and the attributions of its layers."""

    whole: Model
    head: Head
    layers: tuple[Layer, ...]
    images: Mapping[str, Samples]
    threads: int

    def trial(self, split: str) -> Trial:
        """The head and the samples of a split, called by its name."""
        samples = replace(self.head.samples[split], name=f"the {TITLES[split]} split")
        return Trial(self.head.model, self.head.channels, samples, self.threads)


def read(trained: Path, work: Path, threads: int) -> Network:
    """The network with expected attributions to every class and the loss over the training split (eq. 2 to 6)."""
    whole = load(trained / "msl5.onnx")
    head = read_head(trained, work_of(trained, work), threads)
    train = head.samples["train"]
    assert train.labels is not None
    found = layers_of(head.model, head.channels, head.channels.groups, train.inputs, train.labels, threads=threads)
    images = {split: load_samples(trained / f"{file}.npz", whole) for split, file in SPLITS.items()}
    named = {split: replace(s, name=TITLES[split]) for split, s in images.items()}
    return Network(whole, head, tuple(found), named, threads)


# ---- figures -------------------------------------------------------------------------------------------------------
def drawn_from(network: Network, retrained: Mapping[str, Any], with_samples: bool) -> Iterator[Figure]:
    """Figures 1 to 13 and Tables 1 to 3, in the paper's order."""
    yield figures.architecture(network.whole)
    if with_samples:
        yield figures.sample_images(network.images["train"], NAMES)
    yield from (replace(figures.class_counts(s, NAMES), about=split) for split, s in network.images.items())
    yield figures.splits(network.whole, list(network.images.values()), network.threads)
    for layer in network.layers:
        yield from of_units(layer)
    for layer in network.layers:
        yield figures.prune_curve(network.trial("test"), layer)
        yield figures.class_curves(network.trial("test"), layer, NAMES, about=SUN)
    for split in SPLITS:
        yield replace(figures.layer_curves(network.trial(split), network.layers), about=split)
    for split in SPLITS:
        joint = figures.joint_curves(network.trial(split), network.layers).with_series(after_masking(retrained, split))
        yield replace(joint, about=split, caption=f"{joint.caption} {AFTER}")
    channels = analyse(network.whole)
    yield figures.parameters(network.whole, channels, [channels.group(l.name) for l in network.layers])


def of_units(layer: Layer) -> Iterator[Figure]:
    """Figures 3 to 9 of one layer."""
    yield figures.unit(layer, NAMES)
    yield figures.conditional(layer, NAMES)
    yield figures.rank_histogram(layer)
    yield figures.sorted_units(layer, {SUN: NAMES[SUN], ROCK: NAMES[ROCK]})
    yield figures.overlap(layer, NAMES)


def after_masking(retrained: Mapping[str, Any], split: str) -> list[Series]:
    """What retraining and least squares make of each level, in per cent."""
    rows = retrained["levels"]
    x = np.array([row["masked %"] for row in rows], np.float64)
    of = lambda way, key: np.array([100 * row[way][split][key] for row in rows])
    trained, low, high = (of("retrained", key) for key in ("accuracy", "min", "max"))
    found = [
        Series(f"retrained, mean of {len(retrained['seeds'])} seeds", trained, x, low, high),
        Series("least squares without labels", of("recovered", "accuracy"), x),
    ]
    return [*found, *(as_printed() if split == "train" else ())]


def as_printed() -> Iterator[Series]:
    """The paper's numbers of Figure 13, which are of its training split."""
    rows = masked_retraining.PAPER
    for way, name in enumerate(("paper, not retrained", "paper, retrained")):
        given = {level: 100 * row[way] for level, row in rows.items() if row[way] is not None}
        yield Series(name, np.array(list(given.values())), np.array(list(given), np.float64))


# ---- numbers beside the paper's ------------------------------------------------------------------------------------
def percent(share: float | None) -> float | None:
    """With one decimal, as the paper prints."""
    return None if share is None else round(100 * share, 1)


def shares(told: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy of each split in per cent, with its least and greatest where there are several runs, and n."""
    row: dict[str, Any] = {}
    for split in SPLITS:
        a = told[split]
        ends = f" ({percent(a['min'])} to {percent(a['max'])})" if "min" in a else ""
        row[f"{split} % (n = {a['n']})"] = f"{percent(a['accuracy'])}{ends}"
    return row


def accuracy_rows(retrained: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Figure 13 as a table: the paper's numbers, which are of its training split, and ours of all three."""
    rows = []
    for r in retrained["levels"]:
        printed = masked_retraining.PAPER.get(r["masked %"], (None, None))
        for way, paper in (("masked", printed[0]), ("retrained", printed[1]), ("recovered", None)):
            rows.append({"masked %": r["masked %"], "network": way, "paper %": percent(paper), **shares(r[way])})
    for r in retrained["random"]:
        for way in ("masked", "retrained", "recovered"):
            told = f"{way}, random order"
            rows.append({"masked %": r["masked %"], "network": told, "paper %": None, **shares(r[way])})
    return rows


def split_rows(retrained: Mapping[str, Any], random: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Table 2: the paper's random split, ours by sol, and ours at random where there is one."""
    sizes, paper = random_split.SIZES, random_split.PAPER
    rows = [{"split": "paper, random", "set": s, "n": sizes[s], "accuracy %": percent(paper[s])} for s in SPLITS]
    base = retrained["base"]
    rows += [
        {"split": "ours, by sol", "set": s, "n": base[s]["n"], "accuracy %": percent(base[s]["accuracy"])}
        for s in SPLITS
    ]
    for run in random["runs"] if random else ():
        told = f"ours, random, {random['size']}×{random['size']}, seed {run['seed']}"  # type: ignore[index]
        parts = run["accuracy"] | {f"test, {name}": a for name, a in run["test"].items() if name != "all"}
        rows += [{"split": told, "set": s, "n": a["n"], "accuracy %": percent(a["accuracy"])} for s, a in parts.items()]
    return rows


def sibling_rows(random: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Test images of the random split right, by class and by whether training saw a sibling; all seeds together."""
    rows = []
    for c in CLASSES:
        row: dict[str, Any] = {"class": c}
        for name in ("sibling in train", "no sibling in train"):
            found = [run["test_per_class"][c][name] for run in random["runs"]]
            row[name] = f"{sum(f['correct'] for f in found)}/{sum(f['n'] for f in found)}"
        rows.append(row)
    return rows


def class_rows(network: Network) -> list[dict[str, Any]]:
    """Table 1: images of each class; the paper prints 17.8 % where its own count of drill holes makes 18.2."""
    rows = []
    for k, c in NAMES.items():
        counts = {split: int((s.labels == k).sum()) for split, s in network.images.items()}
        share = percent(PAPER_CLASSES[k] / sum(PAPER_CLASSES))
        rows.append({"class": c, "paper, train": PAPER_CLASSES[k], "paper %": share, **counts})
    return rows


def orders(network: Network) -> dict[str, Ranks]:
    """The paper's ranking (eq. 6), and two that read the same attributions otherwise."""
    head, train = network.head, network.head.samples["train"]
    assert train.labels is not None
    evidence = Evidence(head.model, head.channels, train.inputs, train.labels, threads=network.threads)
    balanced = {l.name: l.rank_by_class.mean(axis=0) for l in network.layers}
    return {
        "signed, the paper's": head.ranks,
        "mean |A|": rank("ig-abs", evidence),
        "signed, classes weighing the same": replace(head.ranks, scores=balanced),
    }


def by_class(network: Network) -> list[dict[str, Any]]:
    """Which classes masking costs: images right of each without retraining, by the order of masking."""
    rows = []
    for name, ranks in orders(network).items():
        head = replace(network.head, ranks=ranks)
        for level in (0, 10, 50, 75, 95):
            pruned = prune(head.model, head.channels, masked(head, level).labels(head.channels))
            for split, samples in head.samples.items():
                found = evaluate(pruned, samples, network.threads)
                right = {NAMES[k]: f"{correct}/{n}" for k, (n, correct) in found.per_class.items()}
                rows.append({"order": name, "masked %": level, "set": split, **right, "%": percent(found.share)})
    return rows


def dead_rows(network: Network) -> list[dict[str, Any]]:
    """Units of each layer that no training image activates."""
    live = {PAPER_LIVE[0]: PAPER_LIVE[1]}
    return [
        {
            "layer": l.name,
            "units": len(l.group),
            "live": int(l.is_live.sum()),
            "dead": int((~l.is_live).sum()),
            "live, paper": live.get(len(l.group)),
            "rank above 0": int((l.rank > 0).sum()),
            "completeness gap": float(f"{l.gap:.2g}"),
        }
        for l in network.layers
    ]


def tables(
    network: Network, retrained: Mapping[str, Any], random: Mapping[str, Any] | None
) -> dict[str, list[dict[str, Any]]]:
    """Every table by its name."""
    found = {
        "table1": class_rows(network),
        "table2": split_rows(retrained, random),
        "table3": table3.by_removal(),
        "figure13": accuracy_rows(retrained),
        "by_class": by_class(network),
        "dead": dead_rows(network),
    }
    return found | ({"siblings": sibling_rows(random)} if random else {})


# ---- files ---------------------------------------------------------------------------------------------------------
def thinned(figure: Figure) -> Figure:
    """The figure, with every EVERYth unit alone in the table of a curve over units; the picture has them all."""
    if figure.name not in ("sorted", "prune-curve", "class-curves") or dict(figure.facts).get("stride", 1) != 1:
        return figure
    first = figure.rows[0]["x"]
    rows = tuple(row for row in figure.rows if (row["x"] - first) % EVERY == 0)  # type: ignore[operator]
    return replace(figure, table=rows, facts=(*figure.facts, ("rows", f"every {EVERY}th unit; the picture has all")))


def write(found: Iterator[Figure], out: Path, made_of: Mapping[str, Any]) -> None:
    """Write each figure with its numbers; of SVG and PNG the smaller stays."""
    for figure in map(thinned, found):
        written = write_figure(figure, out, made_of, force=True)
        pictures = sorted((p for p in written if p.suffix in (".svg", ".png")), key=lambda p: p.stat().st_size)
        for larger in pictures[1:]:
            larger.unlink()
        print(pictures[0].name, flush=True)


def main() -> None:
    """Write figures with their CSV and JSON, tables as CSV, and tables.json and tables.md with all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", type=Path, required=True, help="folder of train_msl5's results")
    parser.add_argument("--work", type=Path, required=True, help="folder of activations and checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--random", type=Path, help="random_split.json, for Table 2")
    parser.add_argument("--samples", action="store_true", help="also Fig. 2, which shows images of the data set")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    asked.out.mkdir(parents=True, exist_ok=True)

    retrained = masked_retraining.series(asked.trained, asked.work, threads=asked.threads)
    random = json.loads(asked.random.read_text()) if asked.random else None
    network = read(asked.trained, asked.work, asked.threads)
    told = json.loads((asked.trained / "report.json").read_text())
    for split, row in retrained["base"].items():  # the head on kept activations is the network on images
        assert row["accuracy"] == told["accuracy"][split]["accuracy"], (split, row)

    made_of = origin(network.whole, [network.head.samples[s] for s in SPLITS], {"recipe": told["recipe"]})
    write(drawn_from(network, retrained, asked.samples), asked.out, made_of)
    write_text(asked.out / "masked_retraining.json", as_json(retrained))
    if random:
        write_text(asked.out / "random_split.json", as_json(random))
    rows = tables(network, retrained, random)
    for name, table in rows.items():
        write_text(asked.out / f"{name}.csv", as_csv(table))
    write_text(asked.out / "tables.json", as_json(rows))
    text = "\n".join(f"## {name}\n\n{markdown(table)}\n" for name, table in rows.items())
    write_text(asked.out / "tables.md", text)


if __name__ == "__main__":
    main()
