"""Which pixels speak for the class of an image: eq. 1 of Lundstrom et al. 2022, drawn over it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.inputs import attribute_input
from toolchain.data import Samples
from toolchain.explain.colours import AGAINST, FOR
from toolchain.explain.figure import Figure, Gallery, Row
from toolchain.model import Model

FAINT = 0.35  # how much of the image is left below
TOP = 0.99  # quantile of |A| that is drawn in full
MOST_BLOCKS = 64  # along the longer side: single pixels of a larger image are too small to see
COMPLETE, MOST_STEPS = 0.02, 512


def input_maps(model: Model, samples: Samples, names: Mapping[int, str], steps: int = 32, threads: int = 1) -> Figure:
    """Integrated gradients of log p of each class at its first image, baseline 0, summed over colours (eq. 1).

    The nodes are doubled until the completeness gap is within 2 %, 512 at most.

    names  {class: its name}, those to show; samples have labels and are images [n, 1 or 3, h, w]
    """
    assert samples.labels is not None
    ((name, x),) = samples.inputs.items()
    first = {k: int(np.flatnonzero(samples.labels == k)[0]) for k in names if (samples.labels == k).any()}
    picked, own = x[list(first.values())], np.array(list(first), np.int64)
    found = attribute_input(model, name, {name: picked}, own, target="loss", steps=steps, threads=threads)
    while found.gap > COMPLETE and 2 * steps <= MOST_STEPS:
        steps *= 2
        found = attribute_input(model, name, {name: picked}, own, target="loss", steps=steps, threads=threads)
    maps, change = -found.values[0].sum(axis=1), -found.change[0]
    block = -(-max(maps.shape[1:]) // MOST_BLOCKS)
    images = tuple(overlaid(image, a, block) for image, a in zip(picked, maps, strict=True))
    rows: list[Row] = [
        {
            "class": names[k], "sample": first[k], "sum of attributions": float(a.sum(dtype=np.float64)),
            "log p(x) - log p(baseline)": float(change[i]),
            "for": float(a[a > 0].sum()), "against": float(a[a < 0].sum()),
        }
        for i, (k, a) in enumerate(zip(first, maps, strict=True))
    ]  # fmt: skip
    piece = f"block of {block}×{block} pixels" if block > 1 else "pixel"
    caption = (
        f"What each {piece} adds to (orange) or takes from (blue) log p of the image's own class, from a black "
        f"image on: the first image of each class in {samples.name}, {steps} nodes, completeness gap "
        f"{100 * found.gap:.2g} %."
    )
    facts = (("steps", steps), ("completeness gap", found.gap), ("block", block))
    chart = Gallery(images, tuple(names[k] for k in first), tuple(first.values()))
    title, source = "Attributions to the input", "Lundstrom et al. 2022, eq. 1"
    return Figure("input-maps", title, source, caption, chart, table=tuple(rows), facts=facts)


def overlaid(image: NDArray[np.float32], attribution: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """A faint grey image [1 or 3, h, w] under its attributions [h, w], summed over blocks: [h, w, 3] in 0..1."""
    grey = image.mean(axis=0)
    span = float(grey.max() - grey.min()) or 1.0
    below = 1 - FAINT * (1 - (grey - grey.min()) / span)
    h, w = attribution.shape
    padded = np.pad(attribution, ((0, -h % block), (0, -w % block)))
    summed = padded.reshape(len(padded) // block, block, -1, block).sum(axis=(1, 3))
    spread = summed.repeat(block, axis=0).repeat(block, axis=1)[:h, :w]
    strength = np.minimum(np.abs(spread) / (np.quantile(np.abs(summed), TOP) or 1.0), 1.0)[..., None]
    colour = np.where((spread > 0)[..., None], FOR, AGAINST)
    return ((1 - strength) * below[..., None] + strength * colour).astype(np.float32)
