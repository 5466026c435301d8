"""What the network and its data are: Figures 1 and 2, Tables 1, 2 and 3 of Lundstrom et al. 2022."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.costing import costing
from toolchain.compress.groups import Channels, Group
from toolchain.data import Samples
from toolchain.evaluate import evaluate
from toolchain.explain.figure import Bars, Boxes, Figure, Gallery, Row, Series
from toolchain.model import Model
from toolchain.profile import profile

PAPER = "Lundstrom et al. 2022"
MASKED = tuple(range(50, 100, 5))  # percent, as in Table 3


def architecture(model: Model) -> Figure:
    """The layers with weights and what each makes, in the order of the graph (Fig. 1)."""
    counted = profile(model)
    rows: list[Row] = [
        {"layer": l.name, "op": l.op, "output": "×".join(str(d) for d in l.output_shape[1:]), "params": l.params,
         "macs": l.macs}
        for l in counted.layers
        if l.params or l.macs
    ]  # fmt: skip
    caption = (
        f"The {len(rows)} layers with weights in the order of the graph, each with what it makes for one sample: "
        f"{counted.params:,} parameters, {counted.macs:,} multiply-accumulates; branches are not drawn."
    )
    return Figure("architecture", "Architecture", f"{PAPER}, Fig. 1", caption, Boxes(tuple(rows)))


def sample_images(samples: Samples, names: Mapping[int, str]) -> Figure:
    """The first image of each class (Fig. 2); values outside 0…1 are stretched over what these images have.

    names  {class: its name}, those to show; samples have labels and are images [n, 1 or 3, h, w]
    """
    assert samples.labels is not None
    (x,) = samples.inputs.values()
    first = {k: int(np.flatnonzero(samples.labels == k)[0]) for k in names if (samples.labels == k).any()}
    picked = x[list(first.values())]
    low, high = float(picked.min(initial=0)), float(picked.max(initial=1))
    images = ((picked - low) / (high - low)).transpose(0, 2, 3, 1)
    shown = tuple(i[..., 0] if i.shape[-1] == 1 else i for i in images)
    stretched = "" if (low, high) == (0, 1) else f" Values {low:.3g} to {high:.3g} are drawn as black to white."
    caption = f"The first image of each class in {samples.name} (n = {len(samples):,}).{stretched}"
    chart = Gallery(shown, tuple(names[k] for k in first), tuple(first.values()))
    return Figure("samples", "One image of each class", f"{PAPER}, Fig. 2", caption, chart)


def class_counts(samples: Samples, names: Mapping[int, str]) -> Figure:
    """How many samples each class has, and its share in percent (Table 1)."""
    assert samples.labels is not None
    counts = np.array([int((samples.labels == k).sum()) for k in names], np.int64)
    rows: list[Row] = [
        {"class": c, "samples": int(n), "share %": round(100 * int(n) / len(samples), 2)}
        for c, n in zip(names.values(), counts, strict=True)
    ]
    chart = Bars(tuple(names.values()), (Series("samples", counts),), "class", "samples")
    caption = f"Samples of each class in {samples.name} (n = {len(samples):,}), and their share."
    return Figure("classes", "Classes", f"{PAPER}, Table 1", caption, chart, table=tuple(rows))


def splits(model: Model, sets: Sequence[Samples], threads: int = 1) -> Figure:
    """How large each labelled set is, and the share of it that the network gets right (Table 2)."""
    found = [evaluate(model, s, threads) for s in sets]
    labels = [s.name for s in sets]
    rows: list[Row] = [
        {"data": name, "samples": a.n, "correct": a.correct, "accuracy %": round(100 * a.share, 2)}
        for name, a in zip(labels, found, strict=True)
    ]
    chart = Bars(
        tuple(labels),
        (Series("accuracy", np.array([100 * a.share for a in found])),),
        "data",
        "accuracy [%]",
        tuple(a.n for a in found),
    )
    caption = f"Accuracy of the network on each set of samples (n = {' / '.join(f'{a.n:,}' for a in found)})."
    return Figure("splits", "Size and accuracy of the data", f"{PAPER}, Table 2", caption, chart, table=tuple(rows))


def parameters(model: Model, channels: Channels, groups: Sequence[Group]) -> Figure:
    """What is left of the network when 50…95 % of the units of every ranked layer are removed whole (Table 3).

    The paper counts widths as real numbers; here units are whole, and so are the parameters of what is left.
    """
    cost = costing(model, channels)
    size = np.array([len(g) for g in channels.groups], np.int64)
    ranked = np.array([g.name in {r.name for r in groups} for g in channels.groups])
    params, macs = cost.costs(np.zeros_like(size), ("params", "macs"))
    rows: list[Row] = []
    for percent in MASKED:
        removed = np.where(ranked, removed_at(size, percent), 0)
        left, work = cost.costs(removed, ("params", "macs"))
        rows.append(
            {"masked %": percent, "units kept": " / ".join(str(n) for n in (size - removed)[ranked]),
             "params left": int(left), "params cut": int(params - left),
             "params cut %": round(100 - 100 * left / params, 2), "macs cut %": round(100 - 100 * work / macs, 2)}
        )  # fmt: skip
    cut = {key: np.array([float(r[f"{key} cut %"]) for r in rows]) for key in ("params", "macs")}  # type: ignore[arg-type]
    chart = Bars(
        tuple(str(p) for p in MASKED),
        (Series("parameters", cut["params"]), Series("multiply-accumulates", cut["macs"])),
        "units masked in each ranked layer [%]",
        "cut [%]",
    )
    caption = (
        f"Share of {int(params):,} parameters and {int(macs):,} multiply-accumulates that goes when so many units of "
        f"{', '.join(g.name for g in groups)} are removed, counted by whole units."
    )
    return Figure("parameters", "Parameters cut", f"{PAPER}, Table 3", caption, chart, table=tuple(rows))


def removed_at(size: NDArray[np.int64], percent: float) -> NDArray[np.int64]:
    """Units that go at this percentage; those that stay are rounded, halves up, and one stays below 100 %."""
    kept = np.floor(size * (100 - percent) / 100 + 0.5).astype(np.int64)
    return size - (np.maximum(kept, 1) if percent < 100 else kept)
