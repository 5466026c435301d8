"""Occurrence and selectivity maps of every kernel, with all that is known of it, to be browsed (Garcia et al.)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from toolchain.data import Samples
from toolchain.explain.atlas import Atlas, Attributed, Kernels, Mark
from toolchain.explain.figure import Figure
from toolchain.explain.findings import KINDS, Finding
from toolchain.explain.occurrence import I64, Occurrence
from toolchain.explain.topmost import Topmost
from toolchain.explain.units import Layer

NAMED = 12  # kernels of a group that are written out


def occurrence_page(
    samples: Samples,
    found: Sequence[tuple[Occurrence, Topmost]],
    findings: Sequence[Finding],
    attributed: Mapping[str, Attributed],
) -> Figure:
    """Kernels against classes, layer by layer, on a page of its own (Fig. 2, 4, 6 and 7).

    attributed  {layer: …} for those that were ranked
    """
    layers = tuple(
        Kernels(o, top, marks_of([f for f in findings if f.layer == o.layer]), attributed.get(o.layer))
        for o, top in found
    )
    number = sum(len(kernels) for kernels in layers)
    caption = (
        f"Where each of {number:,} kernels fires, for how many images of each class, and how much more often than for "
        f"others; its findings, the samples that activate it most, and what it contributes to each class. Counted on "
        f"{samples.name} (n = {len(samples):,})."
    )
    title, source = "What kernels fire for, class by class", "Garcia et al., Fig. 2, 4, 6 and 7"
    facts = (("samples", len(samples)), ("kernels", number), ("classes", len(found[0][0].classes)))
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


def attributed_to(layer: Layer, order: I64, classes: int) -> Attributed:
    """The attributions of a ranked layer by kernel.

    order  where each kernel stands in the layer's group, [k]
    """
    own = np.stack([layer.own(c) if layer.counts[c] else np.full(len(order), np.nan) for c in range(classes)], axis=1)
    return Attributed(layer.expected[:classes, order].T, own[order], layer.rank[order])
