"""How much the heatmaps of each method say of a network's answers: curves and a table."""

from __future__ import annotations

import numpy as np

from toolchain.explain.figure import F64, Bars, Figure, Lines, Row, Scalar, Series
from toolchain.explain.judging import RANDOM, Judged, Judgement
from toolchain.explain.quality import aopc

TURNED = {"mean": "the mean colour of their image", "noise": "uniform noise", "black": "black"}


def perturbation(judged: Judged, name: str) -> Figure:
    """Probability of the class while regions go, by each method and in random order (Samek et al. 2017).

    name  of the samples
    """
    steps, orders = np.arange(judged.chance.shape[2]), len(judged.chance)
    named = [j for j in judged.methods if j.method != RANDOM]
    series, rows = [], []
    if orders:
        chance, areas = 100 * judged.chance.mean(axis=1), aopc(judged.chance).mean(axis=1)
        called = f"random, mean of {orders}" if orders > 1 else "random"
        series.append(Series(called, chance.mean(axis=0), steps, chance.min(axis=0), chance.max(axis=0)))
        rows.append(aopc_row(called, areas.mean(), areas))
    series += [Series(j.method, 100 * j.falling.mean(axis=0), steps) for j in named]
    rows += [aopc_row(j.method, j.aopc.mean()) for j in named]
    caption = (
        f"Probability of the class that the network sees in {judged.images} images of {name} while regions of "
        f"{judged.region}×{judged.region} pixels turn into {TURNED[judged.fill]}, the most relevant first: the better "
        f"a method, the sooner its line falls. AOPC is the mean fall over all steps." + told(judged)
    )
    chart = Lines(tuple(series), "regions replaced", "probability of the class [%]", is_share=True)
    title = "What a network loses with the pixels that a heatmap points at"
    source = "Ranguelova; Samek et al. 2017"
    return Figure("perturbation", title, source, caption, chart, table=tuple(rows), facts=facts(judged, name))


def aopc_row(name: str, mean: float, each: F64 | None = None) -> Row:
    """One method, or random orders with the ends of their spread."""
    low, high = (None, None) if each is None else (float(each.min()), float(each.max()))
    return {"method": name, "AOPC": float(mean), "lowest": low, "highest": high}


def quality_table(judged: Judged, name: str) -> Figure:
    """Every measure of every method's heatmaps (Ranguelova), a map of noise among them.

    name  of the samples
    """
    ranked = sorted(judged.methods, key=lambda j: -j.aopc.mean())
    rows = [quality_row(j) for j in ranked]
    series = Series("AOPC", np.array([j.aopc.mean() for j in ranked]))
    chart = Bars(tuple(j.method for j in ranked), (series,), "method", "AOPC (mean fall of the probability)")
    has_masks = judged.methods[0].iou is not None
    caption = (
        f"Heatmaps of {judged.images} images of {name} for the class that the network sees, best AOPC first. Good maps "
        f"have much AOPC and insertion, little deletion; completeness gap where a method shares out a score."
        + ("" if has_masks else " No masks of the objects are known: IoU and pointing are left blank.")
        + told(judged)
    )
    title, source = "Quality of heatmaps", "Ranguelova; Samek et al. 2017; Petsiuk et al. 2018; Zhang et al. 2018"
    return Figure("quality", title, source, caption, chart, table=tuple(rows), facts=facts(judged, name))


def quality_row(j: Judgement) -> Row:
    """Means over the images; None where a measure does not apply."""
    return {
        "method": j.method,
        "AOPC": float(j.aopc.mean()),
        "deletion": float(j.deletion.mean()),
        "insertion": float(j.insertion.mean()),
        "completeness gap": j.gap,
        "IoU": known(j.iou),
        "pointing": known(j.pointing),
    }


def known(values: F64 | None) -> float | None:
    """The mean of those that are numbers; None without."""
    numbers = [] if values is None else values[np.isfinite(values)]
    return float(np.mean(numbers)) if len(numbers) else None


def told(judged: Judged) -> str:
    """Which methods are missing."""
    return "".join(f" No {method}: {why}." for method, why in judged.lacking.items())


def facts(judged: Judged, name: str) -> tuple[tuple[str, Scalar], ...]:
    """What both figures say about how they were measured."""
    orders, _, steps = judged.chance.shape
    return (
        ("data", name),
        ("images", judged.images),
        ("region", judged.region),
        ("steps", steps - 1),
        ("orders", orders),
    )
