"""Occurrence maps and what follows from them: Figures 2 to 4 and 6 to 8 of Garcia et al., and the findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.groups import Group
from toolchain.explain.figure import F64, Bars, Figure, Grid, Panels, Scalar, Series
from toolchain.explain.figures.curves import Trial
from toolchain.explain.findings import KINDS, REMOVABLE, Finding, as_row, units_of
from toolchain.explain.layers import Activation
from toolchain.explain.occurrence import (
    I64,
    Occurrence,
    class_selectivity,
    differences,
    estimated,
    kernel_selectivity,
    maps,
    row_order,
)
from toolchain.explain.pooling import plane
from toolchain.explain.walking import Path, predicted

PAPER = "Garcia et al."
ROWS = 48  # kernels that one picture shows
SIDE = 96  # kernels along a side of the matrix of differences


def occurrence_maps(o: Occurrence, names: Mapping[int, str]) -> Figure:
    """M of every kernel and class, rows that are alike together (Fig. 2).

    names  {class: its name}, those to show
    """
    said = "share of images that fire there"
    caption = f"Where the kernels of {o.layer} fire, and for what share of the images of each class: {told(o, ROWS)}"
    return kernels_by_classes("occurrence", "Fig. 2", "Occurrence maps", maps(o), o, names, said, caption, (0.0, 1.0))


def selectivity_maps(o: Occurrence, names: Mapping[int, str]) -> Figure:
    """S of every kernel and class: orange where the kernel fires more often for this class (Fig. 4, 6 and 7)."""
    said = "how much more often than for other classes"
    caption = (
        f"Where the kernels of {o.layer} fire more often (orange) or less often (blue) for a class than for the "
        f"others, in points of a share: {told(o, ROWS)}"
    )
    s = class_selectivity(o)
    return kernels_by_classes("selectivity", "Fig. 4, 6 and 7", "Selectivity", s, o, names, said, caption, (-1.0, 1.0))


def kernels_by_classes(
    name: str,
    source: str,
    title: str,
    values: F64,
    o: Occurrence,
    names: Mapping[int, str],
    quantity: str,
    caption: str,
    ends: tuple[float, float],
) -> Figure:
    """A grid of maps [k, c, *positions]."""
    across = tuple(f"{names[c]} (no samples)" if not o.seen[c] else names[c] for c in names)
    picked = flat(values[:, list(names)])
    shown = tuple(most_selective(o, ROWS).tolist())
    chart = Grid(picked, numbered(o), across, "kernel", "class", quantity, shown, *ends)
    return Figure(name, f"{title} of {o.layer}", f"{PAPER}, {source}", caption, chart, o.layer, facts=facts(o))


def occurrence_differences(o: Occurrence) -> Figure:
    """D of all pairs of kernels, rows and columns in the same order (Fig. 3)."""
    picked = most_selective(o, SIDE)
    part = o.part(picked)
    d = differences(part)
    names = tuple(map(str, picked.tolist()))
    chart = Grid(
        d[:, :, None, None], names, names, "kernel", "other kernel", "mean difference of maps",
        tuple(range(len(d))), 0.0, max(float(d.max(initial=0)), 1e-9),
    )  # fmt: skip
    caption = (
        f"How far the maps of two kernels of {o.layer} are apart, mean over places and classes: pale blocks along the "
        f"diagonal are kernels that do the same; {told(o, SIDE)}" + (f" {said}." if (said := estimated(part)) else "")
    )
    title = f"Differences between kernels of {o.layer}"
    return Figure("occurrence-difference", title, f"{PAPER}, Fig. 3", caption, chart, o.layer, facts=facts(o))


def class_kernels(
    o: Occurrence, about: Activation, trial: Trial, group: Group | None, names: Mapping[int, str]
) -> Figure:
    """Kernels selective for a class (mean S > 0), and its accuracy with all, these alone, the others alone (Fig. 8).

    group  of the layer's kernels, or None where they cannot be masked alone: then without accuracies
    """
    s = class_selectivity(o).reshape(len(o.counts), len(o.classes), -1).mean(axis=2)
    seen = [c for c in names if o.seen[c] and (trial.labels == c).any()]
    is_own = {c: s[:, c] > 0 for c in seen}
    own = np.array([int(is_own[c].sum()) for c in seen], np.int64)
    counts = (np.full_like(own, len(s)), own, len(s) - own)
    labels = tuple(names[c] for c in seen)
    number = tuple(int((trial.labels == c).sum()) for c in seen)
    bars = lambda values: tuple(Series(n, v) for n, v in zip(("all", "selective", "others"), values, strict=True))
    charts, titles = [Bars(labels, bars(counts), "class", "kernels")], ["Kernels"]
    caption = f"Kernels of {o.layer} that fire more often for a class than for the others (mean S > 0)"
    if group is None:
        caption += "; its units cannot be masked alone, so that there are no accuracies."
    else:
        right = np.array([masked_accuracies(trial, group, order_in(group, about, trial), is_own[c], c) for c in seen])
        charts.append(Bars(labels, bars(100 * right.T), "class", "accuracy [%]", number))
        titles.append(f"Accuracy of each class on {trial.samples.name}")
        caption += "; below, how many images of the class are recognised with all, only those, and only the others."
    title = f"Kernels of {o.layer} for each class"
    chart = Panels(tuple(charts), tuple(titles))
    return Figure("class-kernels", title, f"{PAPER}, Fig. 8", caption, chart, o.layer, facts=facts(o))


def order_in(group: Group, about: Activation, trial: Trial) -> I64:
    """Where each kernel of a layer stands in its group, [k]."""
    place = {label: i for i, label in enumerate(group.units.tolist())}
    return np.array([place[label] for label in units_of(about, trial.channels).tolist()], np.int64)


def masked_accuracies(trial: Trial, group: Group, order: I64, is_own: NDArray[np.bool_], c: int) -> list[float]:
    """Share of the images of class c that are recognised with all kernels, with its own, and with the others."""
    mine = trial.labels == c
    inputs = {k: v[mine] for k, v in trial.samples.inputs.items()}
    network = trial.masked_groups([group])
    own, others = order[is_own], order[~is_own]
    at = lambda *counts: {group.name: np.array(counts, np.int64)}
    paths = [
        Path({group.name: np.concatenate([others, own])}, at(0, len(others))),
        Path({group.name: np.concatenate([own, others])}, at(len(own))),
    ]
    (every, alone), (rest,) = (
        (found == c).mean(axis=1).tolist() for found in predicted(network, inputs, paths, trial.max_memory)
    )
    return [every, alone, rest]


def findings_table(found: Sequence[Finding]) -> Figure:
    """What the maps of every layer say: a table that `prune --from-findings` reads."""
    layers = tuple(dict.fromkeys(f.layer for f in found))
    kinds = [k for k in KINDS if any(f.kind == k and f.units for f in found)]
    sizes = {(f.layer, f.kind): len(f.goes) if f.kind in REMOVABLE else len(f.units) for f in found}
    series = tuple(Series(k, np.array([sizes.get((l, k), 0) for l in layers])) for k in kinds)
    chart = Bars(layers, series or (Series("none", np.zeros(len(layers))),), "layer", "kernels")
    gone = sum(len(f.goes) for f in found)
    caption = (
        f"{gone:,} kernels of {len(layers)} layers that the network may do without: dead, unselective, or redundant "
        f"beside one that stays. What classes are told by says whether a layer is too small or the network too shallow."
    )
    rows = tuple(as_row(f) for f in found)
    return Figure("findings", "Findings", f"{PAPER}, tasks 1 to 3", caption, chart, table=rows)


# ---- rows ------------------------------------------------------------------------------------------------------------
def most_selective(o: Occurrence, most: int) -> I64:
    """The kernels with the highest s, in the order of their own tree, [most at most]."""
    top = np.sort(np.argsort(-kernel_selectivity(o), kind="stable")[:most])
    return top[row_order(o.part(top))]


def flat(values: F64) -> F64:
    """[k, c, *positions] as [k, c, h, w]."""
    return values.reshape(*values.shape[:2], *plane(values.shape[2:]))


def numbered(o: Occurrence) -> tuple[str, ...]:
    """Names of kernels."""
    return tuple(map(str, range(len(o.counts))))


def told(o: Occurrence, most: int) -> str:
    """How many kernels are shown."""
    k = len(o.counts)
    which = f"all {k:,} kernels" if k <= most else f"the {most} of {k:,} kernels with the highest s(k)"
    blank = f" No samples of {', '.join(o.unseen[:5])}{' …' if len(o.unseen) > 5 else ''}." if o.unseen else ""
    return f"{which}, n = {o.samples.sum():,}.{blank}"


def facts(o: Occurrence) -> tuple[tuple[str, Scalar], ...]:
    """Numbers that belong to no kernel."""
    return (("samples", int(o.samples.sum())), ("kernels", len(o.counts)), ("classes without samples", len(o.unseen)))
