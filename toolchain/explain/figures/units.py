"""What units contribute: Figures 3 to 9 of Lundstrom et al. 2022, of one layer each.

E^k_ij is the expected attribution of unit i to softmax output j over the images of class k (eq. 4), E_ij over all
images (eq. 3), and the rank of a unit is −E of the loss (eq. 6).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from toolchain.explain.figure import Bars, Figure, Histogram, Lines, Panels, Scalar, Series
from toolchain.explain.figures.network import PAPER
from toolchain.explain.units import Layer

TOP = 0.05  # share of each ranking by class, as in Fig. 9
BINS = (12, 60)  # of a histogram, fewest and most


def facts(layer: Layer, **more: Scalar) -> tuple[tuple[str, Scalar], ...]:
    """What every figure of attributions says about them."""
    found = {"layer": layer.name, "units": len(layer.group), "samples": layer.samples, "steps": layer.steps}
    return tuple((found | {"completeness gap": layer.gap} | more).items())


def unit(layer: Layer, names: Mapping[int, str]) -> Figure:
    """E_ij of the unit of highest rank over the classes j (Fig. 3, eq. 3).

    names  {class: its name}, those to show
    """
    i = int(layer.rank.argmax())
    values = layer.expected[list(names), i]
    chart = Bars(tuple(names.values()), (Series(f"unit {i}", values),), "softmax output", "expected attribution E")
    caption = (
        f"Expected attribution of unit {i} of {layer.name}, which ranks highest of {len(layer.group):,} "
        f"({layer.rank[i]:.3g}), to each softmax output, over n = {layer.samples:,} images: above 0 it speaks for a "
        "class, below 0 against it."
    )
    title = f"The unit of highest rank of {layer.name}"
    given = facts(layer, unit=i, rank=float(layer.rank[i]))
    return Figure("unit", title, f"{PAPER}, Fig. 3", caption, chart, layer.name, facts=given)


def conditional(layer: Layer, names: Mapping[int, str]) -> Figure:
    """E^k_ij of the units of highest and lowest rank, a group of bars for each class k of images (Fig. 4, 5; eq. 4).

    The lowest is one that is live.
    """
    live = np.flatnonzero(layer.is_live)
    high = int(layer.rank.argmax())
    low = int(live[layer.rank[live].argmin()]) if len(live) else high
    seen = [k for k in names if layer.counts[k]]
    panels = [
        Bars(
            tuple(names[k] for k in seen),
            tuple(Series(names[j], layer.conditional[seen, j, i]) for j in names),
            "images of class",
            "E given the class",
            tuple(int(layer.counts[k]) for k in seen),
        )
        for i in (high, low)
    ]
    titles = tuple(
        f"Unit {i}, {word} rank ({layer.rank[i]:.3g})" for i, word in ((high, "highest"), (low, "lowest live"))
    )
    caption = (
        f"Expected attribution of two units of {layer.name} to each softmax output (colour) over the images of each "
        f"class (n = {layer.samples:,} in all): a useful unit speaks for a class on the images of that class."
    )
    given = facts(layer, highest=high, lowest=low)
    chart = Panels(tuple(panels), titles)
    title = f"A unit of high and one of low rank of {layer.name}, by class"
    return Figure("conditional", title, f"{PAPER}, Fig. 4 and 5", caption, chart, layer.name, facts=given)


def rank_histogram(layer: Layer) -> Figure:
    """How many live units have which rank (Fig. 6, eq. 6); dead ones are counted."""
    live = layer.rank[layer.is_live]
    dead = len(layer.group) - len(live)
    bins = int(np.clip(2 * math.isqrt(max(len(live), 1)), *BINS))
    counts, edges = np.histogram(live, bins) if len(live) else (np.zeros(1, np.int64), np.array([0.0, 1.0]))
    chart = Histogram(edges, counts.astype(np.int64), "rank (−E of the loss)", "live units")
    above = int((live > 0).sum())
    caption = (
        f"Ranks of the {len(live):,} live units of {layer.name}, {above:,} of them above 0, over n = "
        f"{layer.samples:,} images; {dead:,} of {len(layer.group):,} units are dead: they never activate and rank 0."
    )
    given = facts(layer, live=len(live), dead=dead)
    return Figure("ranks", f"Ranks of {layer.name}", f"{PAPER}, Fig. 6", caption, chart, layer.name, facts=given)


def sorted_units(layer: Layer, names: Mapping[int, str]) -> Figure:
    """Units by falling E^c_ic of the first class, and in that order for the output of the second (Fig. 7, 8; eq. 4)."""
    c, *others = list(names)[:2]
    order = np.argsort(-layer.own(c), kind="stable")
    place = np.arange(1, len(order) + 1)
    found = [(j, layer.conditional[c, j, order]) for j in (c, *others)]
    charts = tuple(
        Lines((Series(f"to {names[j]}", e, place),), f"units by attribution to {names[c]}", f"E to {names[j]}")
        for j, e in found
    )
    titles = tuple(f"To {names[j]}, on images of {names[c]}" for j, _ in found)
    caption = (
        f"Units of {layer.name} by falling expected attribution to {names[c]} on its own images "
        f"(n = {layer.counts[c]:,})"
        + "".join(f"; below, the same units in the same order, to {names[j]}" for j in others)
        + "."
    )
    given = (*facts(layer), ("class", names[c]))
    title = f"Units of {layer.name} sorted for {names[c]}"
    source = f"{PAPER}, Fig. 7 and 8"
    return Figure("sorted", title, source, caption, Panels(charts, titles), layer.name, facts=given)


def overlap(layer: Layer, names: Mapping[int, str], share: float = TOP) -> Figure:
    """In how many of the rankings by class a unit is among the top 5 % (Fig. 9), and how often by chance."""
    seen = [k for k in names if layer.counts[k]]
    top = max(1, math.ceil(share * len(layer.group)))
    lists = np.zeros(len(layer.group), np.int64)
    for k in seen:
        lists[np.argsort(-layer.rank_by_class[k], kind="stable")[:top]] += 1
    p, times = top / len(layer.group), range(1, len(seen) + 1)
    counts = np.array([int((lists == m).sum()) for m in times], np.int64)
    chance = np.array([len(lists) * math.comb(len(seen), m) * p**m * (1 - p) ** (len(seen) - m) for m in times])
    series = (Series("units", counts), Series("expected of independent rankings", chance))
    chart = Bars(tuple(map(str, times)), series, "rankings by class that a unit leads", "units")
    caption = (
        f"Of the top {top:,} of {len(layer.group):,} units of {layer.name} in each of {len(seen)} rankings by class, "
        f"how many lead one, two, … of them (n = {layer.samples:,} images): units of one list serve one class."
    )
    given = facts(layer, top=top, lists=len(seen))
    title = f"Units of {layer.name} that lead several rankings"
    return Figure("overlap", title, f"{PAPER}, Fig. 9", caption, chart, layer.name, facts=given)
