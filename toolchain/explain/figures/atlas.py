"""Occurrence and selectivity maps of every kernel, with all that is known of it, to be browsed (Garcia et al.)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from toolchain.data import Samples
from toolchain.explain.atlas import Atlas, Attributed, Kernels, Mark
from toolchain.explain.figure import Figure
from toolchain.explain.findings import KINDS, Finding
from toolchain.explain.occurrence import Occurrence, estimated
from toolchain.explain.topmost import Topmost
from toolchain.explain.units import Layer
from toolchain.ops.units import Ids

NAMED = 12  # kernels of a group that are written out


def occurrence_page(
    samples: Samples,
    found: Sequence[Occurrence],
    tops: Sequence[Topmost],
    findings: Sequence[Finding],
    attributed: Mapping[str, Attributed],
) -> Figure:
    """Kernels against classes, layer by layer, on a page of its own (Fig. 2, 4, 6 and 7).

    found, tops  of the same layers, in the order of the graph
    attributed   {layer: …} for those that were ranked
    """
    layers = tuple(
        Kernels(o, top, marks_of([f for f in findings if f.layer == o.layer]), attributed.get(o.layer))
        for o, top in zip(found, tops, strict=True)
    )
    number = sum(len(kernels) for kernels in layers)
    caption = (
        f"Where each of {number:,} kernels fires, for how many images of each class, and how much more often than for "
        f"others; its findings, the samples that activate it most, and what it contributes to each class. Counted on "
        f"{samples.name} (n = {len(samples):,})."
        + "".join(f" Rows that are alike in {o.layer}: {said}." for o in found if (said := estimated(o)))
    )
    title, source = "What kernels fire for, class by class", "Garcia et al., Fig. 2, 4, 6 and 7"
    facts = (("samples", len(samples)), ("kernels", number), ("classes", len(found[0].classes)))
    return Figure("occurrence-page", title, source, caption, Atlas(layers, samples), facts=facts)


def marks_of(found: Sequence[Finding]) -> tuple[Mark, ...]:
    """Findings of one layer in words, each group of kernels by itself."""
    return tuple(Mark(f.kind, group, words(f, group)) for f in found for group in f.groups or ((),))


def words(f: Finding, group: tuple[int, ...]) -> str:
    """What is said of one group: with the kernels that are alike in place of numbers about all groups."""
    said = f.why if f.why.startswith(KINDS[f.kind]) else f"{KINDS[f.kind]}: {f.why}"
    if len(f.groups) > 1:
        alike = ", ".join(str(k) for k in group[:NAMED]) + (f" and {len(group) - NAMED} more" * (len(group) > NAMED))
        said = f"{KINDS[f.kind]}: {alike}"
    stays = ", ".join(str(k) for k in f.keep if k in group)
    classes = f" ({', '.join(f.classes)})" if f.classes else ""
    return f"{said}{classes}{f'; {stays} stays' if stays else ''}"


def by_kernel(layer: Layer, kernels: Ids, classes: int) -> Attributed:
    """The attributions of a ranked layer in the order of kernels; nan for classes that the network has no output for.

    kernels  the unit that each kernel is, [k]
    """
    place = {unit: i for i, unit in enumerate(layer.group.units.tolist())}
    order, number = np.array([place[unit] for unit in kernels.tolist()]), len(layer.counts)
    expected, own = np.full((2, len(order), classes), np.nan)
    expected[:, :number] = layer.expected[:number, order].T
    for c in np.flatnonzero(layer.counts).tolist():
        own[:, c] = layer.own(c)[order]
    return Attributed(expected, own, layer.rank[order])
