"""Accuracy while units are masked: Figures 10 to 13 of Lundstrom et al. 2022."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.attribution import Progress
from toolchain.compress.groups import Channels, Group
from toolchain.data import Samples
from toolchain.explain.figure import F64, Figure, Lines, Scalar, Series
from toolchain.explain.figures.network import PAPER, removed_at
from toolchain.explain.masking import Masked, masked
from toolchain.explain.units import Layer
from toolchain.explain.walking import Path, predicted, stride_of
from toolchain.model import Model
from toolchain.ops.units import Ids

MOST = 2e11  # multiply-accumulates that one path may take: some seconds on one core
ALONE = tuple(range(0, 101, 5))  # percent of each layer alone
TOGETHER = tuple(range(0, 100, 5))  # percent of all ranked layers: at 100 nothing is left to answer


@dataclass(frozen=True)
class Trial:
    """A network, and the labelled samples on which it is tried while units are masked.

    most  multiply-accumulates that one path may take; a dearer one masks several units at a step
    """

    model: Model
    channels: Channels
    samples: Samples
    threads: int = 1
    max_memory: int = 1 << 28
    most: float = MOST
    progress: Progress = lambda stage, done, total: None

    @property
    def labels(self) -> NDArray[np.int64]:
        """True classes, [n]."""
        assert self.samples.labels is not None
        return self.samples.labels

    def masked(self, layers: Sequence[Layer]) -> Masked:
        """The network with masks for the units of these layers."""
        return self.masked_groups([l.group for l in layers])

    def masked_groups(self, groups: Sequence[Group]) -> Masked:
        """The network with masks for these units."""
        return masked(self.model, self.channels, groups, self.threads)

    def right(self, stage: str, network: Masked, paths: Sequence[Path]) -> list[NDArray[np.bool_]]:
        """Which samples are classified rightly at each step of each path, [S, n] each."""
        advance = lambda done, total: self.progress(stage, done, total)
        found = predicted(network, self.samples.inputs, paths, self.max_memory, advance)
        return [f == self.labels for f in found]


def prune_curve(
    trial: Trial, layer: Layer, *, rank: F64 | None = None, orders: int = 5, seed: int = 0, stride: int | None = None
) -> Figure:
    """Accuracy against the number of masked units: highest rank first, lowest first, at random (Fig. 10).

    rank    other scores of the units, [u]; the layer's own by default
    orders  how many random orders
    stride  units between two steps; by default as few as `trial.most` allows
    """
    lowest = layer.lowest_first if rank is None else np.argsort(rank, kind="stable")
    random = [np.random.default_rng([seed, i]).permutation(len(lowest)) for i in range(orders)]
    network = trial.masked([layer])
    stride = stride or stride_of(network.work, len(lowest), len(trial.labels), trial.most)
    paths = [one_by_one(layer, o, stride) for o in (lowest, lowest[::-1], *random)]
    found = [percent(r) for r in trial.right(f"prune-curve {layer.name}", network, paths)]
    x = paths[0].counts[layer.name]
    series = [Series("lowest rank first", found[0], x), Series("highest rank first", found[1], x)]
    if orders:
        spread = np.stack(found[2:])
        name = f"random, mean of {orders}" if orders > 1 else "random"
        series.append(Series(name, spread.mean(axis=0), x, spread.min(axis=0), spread.max(axis=0)))
    caption = (
        f"Accuracy on {trial.samples.name} (n = {len(trial.labels):,}) while units of {layer.name} are masked, "
        f"{told(stride)}: where the ranking holds, lowest rank first stays up longest."
        + (f" Band: lowest to highest of {orders} random orders." if orders > 1 else "")
    )
    chart = Lines(tuple(series), f"units of {layer.name} masked, of {len(lowest):,}", "accuracy [%]", is_share=True)
    given = facts(trial, layer=layer.name, stride=stride, orders=orders, seed=seed)
    title = f"Accuracy while {layer.name} is masked"
    return Figure("prune-curve", title, f"{PAPER}, Fig. 10", caption, chart, layer.name, facts=given)


def class_curves(
    trial: Trial, layer: Layer, names: Mapping[int, str], *, about: int | None = None, stride: int | None = None
) -> Figure:
    """Accuracy of each class while units go by falling E^c_ic of one class c (Fig. 11).

    names  {class: its name}, those to show
    about  c, the first of them by default
    """
    c = next(iter(names)) if about is None else about
    order = np.argsort(-layer.own(c), kind="stable")
    network = trial.masked([layer])
    stride = stride or stride_of(network.work, len(order), len(trial.labels), trial.most)
    path = one_by_one(layer, order, stride)
    (right,) = trial.right(f"class-curves {layer.name}", network, [path])
    x, seen = path.counts[layer.name], [k for k in names if (trial.labels == k).any()]
    series = tuple(
        Series(f"{names[k]} (n = {(trial.labels == k).sum():,})", percent(right[:, trial.labels == k]), x) for k in seen
    )
    caption = (
        f"Accuracy of each class in {trial.samples.name} (n = {len(trial.labels):,}) while the units of {layer.name} "
        f"that bring most to {names[c]} are masked first, {told(stride)}: that class should fall before the others."
    )
    chart = Lines(series, f"units of {layer.name} masked, of {len(order):,}", "accuracy [%]", is_share=True)
    given = (*facts(trial, layer=layer.name, stride=stride), ("class", names[c]))
    title = f"Accuracy of each class while {layer.name} loses {names[c]}"
    return Figure("class-curves", title, f"{PAPER}, Fig. 11", caption, chart, layer.name, facts=given)


def layer_curves(trial: Trial, layers: Sequence[Layer], percents: Sequence[float] = ALONE) -> Figure:
    """Accuracy against the percentage masked of each layer alone, lowest rank first (Fig. 12)."""
    series = []
    for layer in layers:
        path = by_percent([layer], percents)
        (right,) = trial.right(f"layer-curves {layer.name}", trial.masked([layer]), [path])
        name = f"{layer.name} ({len(layer.group):,} units)"
        series.append(Series(name, percent(right), np.asarray(percents, np.float64)))
    caption = (
        f"Accuracy on {trial.samples.name} (n = {len(trial.labels):,}) while each layer alone is masked, lowest rank "
        f"first, in steps of {step_of(percents)}: the longer a line stays up, the more of its layer is to spare."
    )
    chart = Lines(tuple(series), "units masked [%]", "accuracy [%]", is_share=True)
    title, source = "Accuracy while one layer is masked", f"{PAPER}, Fig. 12"
    return Figure("layer-curves", title, source, caption, chart, facts=facts(trial))


def joint_curves(trial: Trial, layers: Sequence[Layer], percents: Sequence[float] = TOGETHER) -> Figure:
    """Accuracy against the percentage masked of all these layers together, lowest rank first (Fig. 13).

    `with_series` of what is returned adds the accuracies of networks that were retrained.
    """
    path = by_percent(layers, percents)
    (right,) = trial.right("joint-curves", trial.masked(layers), [path])
    x = np.asarray(percents, np.float64)
    names = ", ".join(l.name for l in layers)
    caption = (
        f"Accuracy on {trial.samples.name} (n = {len(trial.labels):,}) while the same share of {names} is masked, "
        f"lowest rank first, in steps of {step_of(percents)}."
    )
    chart = Lines((Series("not retrained", percent(right), x),), "units masked [%]", "accuracy [%]", is_share=True)
    title, source = "Accuracy while all ranked layers are masked", f"{PAPER}, Fig. 13"
    return Figure("joint-curves", title, source, caption, chart, facts=facts(trial))


# ---- paths ---------------------------------------------------------------------------------------------------------
def one_by_one(layer: Layer, order: Ids, stride: int) -> Path:
    """From none to all units of a layer, so many at a step; the last step takes what is left."""
    counts = np.unique(np.append(np.arange(0, len(order), stride), len(order)))
    return Path({layer.name: order}, {layer.name: counts})


def by_percent(layers: Sequence[Layer], percents: Sequence[float]) -> Path:
    """These percentages of every layer, lowest rank first."""
    sizes = {l.name: np.array(len(l.group), np.int64) for l in layers}
    counts = {n: np.array([removed_at(s, p) for p in percents], np.int64) for n, s in sizes.items()}
    return Path({l.name: l.lowest_first for l in layers}, counts)


def percent(right: NDArray[np.bool_]) -> F64:
    """Share of samples, [S, n] -> [S]."""
    return 100 * right.mean(axis=1)


def told(stride: int) -> str:
    """The stride in words."""
    return "one unit at a step" if stride == 1 else f"{stride:,} units at a step"


def step_of(percents: Sequence[float]) -> str:
    """The step between percentages in words."""
    steps = sorted({b - a for a, b in pairwise(percents)})
    return f"{steps[0]:g} %" if len(steps) == 1 else "several percent"


def facts(trial: Trial, **more: Scalar) -> tuple[tuple[str, Scalar], ...]:
    """What every curve says about how it was measured."""
    return tuple(({"data": trial.samples.name, "samples": len(trial.labels)} | more).items())
