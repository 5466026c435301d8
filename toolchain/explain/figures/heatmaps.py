"""Heatmaps of a class by every method that the network has rules for, beside each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from toolchain.data import Samples
from toolchain.errors import Unsupported
from toolchain.explain.figure import Figure, Gallery, Row
from toolchain.explain.figures.inputs import MOST_BLOCKS, overlaid
from toolchain.explain.heatmaps import F32, METHODS, heatmaps, image_tail, layer_of
from toolchain.model import Model

COLUMNS = 8  # images of a row


def heatmap_grid(
    model: Model,
    samples: Samples,
    names: Mapping[int, str],
    methods: Sequence[str] = (),
    at: str | None = None,
    seed: int = 0,
    threads: int = 1,
) -> Figure:
    """A row of images, the first ones of each class, above a row of maps of their own class for each method.

    names    {class: its name}, those to show; samples have labels and are images [n, 1 or 3, h, w]
    methods  (): all of METHODS that the network has rules for, and the caption says which it has not
    at       the layer that class activation maps weigh

    Raises Unsupported where a method that was asked for by name has no rule for an op.
    """
    assert samples.labels is not None
    each, ((_, x),) = max(1, COLUMNS // max(len(names), 1)), samples.inputs.items()
    picked = [int(i) for k in names for i in np.flatnonzero(samples.labels == k)[:each]]
    x, own = x[picked], samples.labels[picked]
    made, lacking = by_method(
        lambda method: heatmaps(model, method, x, own, layer=at, seed=seed, threads=threads), methods
    )
    block = -(-max(x.shape[2:]) // MOST_BLOCKS)
    called = [names[int(k)] for k in own]
    images = [picture(image) for image in x]
    titles = list(called)
    for method, maps in made.items():
        images += [overlaid(image, each_map, block) for image, each_map in zip(x, maps, strict=True)]
        titles += [method, *[""] * (len(x) - 1)]
    rows: list[Row] = [
        {
            "class": name, "sample": number, "method": method, "sum": float(a.sum(dtype=np.float64)),
            "for": float(a[a > 0].sum(dtype=np.float64)), "against": float(a[a < 0].sum(dtype=np.float64)),
            "largest": float(np.abs(a).max()),
        }
        for method, maps in made.items()
        for name, number, a in zip(called, picked, maps, strict=True)
    ]  # fmt: skip
    where = layer_name(model, at)
    caption = (
        f"What each pixel says for (orange) and against (blue) the image's own class by each method, each map on a "
        f"scale of its own: the first images of each class in {samples.name}."
        + (f" Class activation maps weigh the channels of '{where}'." if where else "")
        + "".join(f" No image is of class {name}." for k, name in names.items() if k not in own)
        + "".join(f" No {method}: {why}." for method, why in lacking.items())
    )
    chart = Gallery(tuple(images), tuple(titles), tuple(picked * (1 + len(made))), columns=max(len(x), 1))
    sources = tuple((method, METHODS[method].source) for method in made)
    title, source = "Heatmaps", "Ranguelova; Lukkien, eq. 2.4-2.6"
    return Figure("heatmaps", title, source, caption, chart, table=tuple(rows), facts=(("layer", where), *sources))


def by_method(maps_of: Callable[[str], F32], methods: Sequence[str]) -> tuple[dict[str, F32], dict[str, str]]:
    """({method: its maps}, {method: why there are none}); raises Unsupported for one that was asked for by name."""
    made, lacking = dict[str, F32](), dict[str, str]()
    for method in methods or METHODS:
        try:
            made[method] = maps_of(method)
        except Unsupported as error:
            if methods:
                raise
            lacking[method] = error.what
    return made, lacking


def picture(image: F32) -> F32:
    """An image [1 or 3, h, w] as it is shown, [h, w, 1 or 3] from 0 to 1."""
    span = float(image.max() - image.min()) or 1.0
    return np.moveaxis((image - image.min()) / span, 0, -1).astype(np.float32)


def layer_name(model: Model, at: str | None) -> str:
    """Of the layer that class activation maps weigh; "" where there is none."""
    try:
        return str(layer_of(image_tail(model), at).name)
    except Unsupported:
        return ""
