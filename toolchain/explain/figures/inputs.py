"""Which pixels speak for the class of an image: eq. 1 of Lundstrom et al. 2022, drawn over it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.inputs import attribute_input
from toolchain.data import Samples
from toolchain.explain.figure import Figure, Gallery, Row
from toolchain.model import Model

FOR, AGAINST = np.array([0.835, 0.369, 0.0]), np.array([0.0, 0.447, 0.698])  # vermilion and blue of Okabe and Ito
FAINT = 0.35  # how much of the image is left below
TOP = 0.99  # quantile of |A| that is drawn in full


def input_maps(model: Model, samples: Samples, names: Mapping[int, str], steps: int = 32, threads: int = 1) -> Figure:
    """Integrated gradients of the first image of each class to its class, baseline 0, summed over colours (eq. 1).

    names  {class: its name}, those to show; samples have labels and are images [n, 1 or 3, h, w]
    """
    assert samples.labels is not None
    ((name, x),) = samples.inputs.items()
    first = {k: int(np.flatnonzero(samples.labels == k)[0]) for k in names if (samples.labels == k).any()}
    picked, own = x[list(first.values())], np.array(list(first), np.int64)
    found = attribute_input(model, name, {name: picked}, own, target="classes", steps=steps, threads=threads)
    maps = found.values[own, np.arange(len(own))].sum(axis=1)
    images = tuple(overlaid(image, a) for image, a in zip(picked, maps, strict=True))
    rows: list[Row] = [
        {
            "class": names[k], "sample": first[k], "sum of attributions": float(a.sum(dtype=np.float64)),
            "p(x) - p(baseline)": float(found.change[k, i]),
            "for": float(a[a > 0].sum()), "against": float(a[a < 0].sum()),
        }
        for i, (k, a) in enumerate(zip(first, maps, strict=True))
    ]  # fmt: skip
    caption = (
        f"What each pixel adds to (orange) or takes from (blue) the probability of the image's own class, from a black "
        f"image on: the first image of each class in {samples.name}, {steps} nodes, completeness gap "
        f"{100 * found.gap:.2g} %."
    )
    facts = (("steps", steps), ("completeness gap", found.gap))
    chart = Gallery(images, tuple(names[k] for k in first), tuple(first.values()))
    title, source = "Attributions to the input", "Lundstrom et al. 2022, eq. 1"
    return Figure("input-maps", title, source, caption, chart, table=tuple(rows), facts=facts)


def overlaid(image: NDArray[np.float32], attribution: NDArray[np.float32]) -> NDArray[np.float32]:
    """A faint grey image [1 or 3, h, w] under its attributions [h, w]: [h, w, 3] in 0..1."""
    grey = image.mean(axis=0)
    span = float(grey.max() - grey.min()) or 1.0
    below = 1 - FAINT * (1 - (grey - grey.min()) / span)
    strength = np.minimum(np.abs(attribution) / (np.quantile(np.abs(attribution), TOP) or 1.0), 1.0)[..., None]
    colour = np.where((attribution > 0)[..., None], FOR, AGAINST)
    return ((1 - strength) * below[..., None] + strength * colour).astype(np.float32)
