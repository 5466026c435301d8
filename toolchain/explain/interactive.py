"""The page on which an atlas is browsed: one file with everything in it, that asks the network for nothing.

Maps are embedded as bytes, 0…255 for M in 0…1; the browser makes S out of them (eq. 3 is linear in M), so that they are
there once. Whatever a layer's size, all maps together take MAPS bytes at most, activations and images as much as is
said below: larger ones are pooled, and the page says so. Means, s, E and ranks are there in full, as float32.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import Unsupported, printable
from toolchain.explain.atlas import Atlas, Attributed, Kernels
from toolchain.explain.colours import RAMPS
from toolchain.explain.figure import Figure
from toolchain.explain.occurrence import maps
from toolchain.explain.pooling import block_within, largest, mean, plane, side_within
from toolchain.explain.topmost import Topmost

MAPS, ACTIVATIONS, IMAGES = 1 << 23, 1 << 22, 1 << 22  # bytes of a page, before base64 makes 4 of 3
SIDES = range(1, 65)  # of maps and activations
THUMBNAILS = range(16, 65)  # of images; smaller ones show nothing
SCRIPTS = ("values.js", "list.js", "kernel.js", "state.js")


def page(figure: Figure, made_of: Mapping[str, Any], home: str = "") -> str:
    """The page of a figure whose chart is an atlas, as HTML.

    made_of  tool, model and data, as `origin` gives them
    home     the page that it is one of, or ""

    Raises Unsupported where there are too many kernels and classes for one page.
    """
    assert isinstance(figure.chart, Atlas)
    style, script = asset("occurrence.css"), "\n".join(asset(name) for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = json.dumps(packed(figure.chart), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return template().render(
        title=figure.title, caption=figure.caption, source=figure.source, made_of=made_of, home=home,
        style=safe(style), script=safe(script), digest=digest, data=safe(data),
    )  # fmt: skip


def too_large(cells: int) -> str | None:
    """Why no page shows so many cells (kernels × classes of all layers), or None."""
    return f"{cells:,} kernels × classes do not fit on a page, which holds {MAPS:,}" if cells > MAPS else None


# ---- numbers ---------------------------------------------------------------------------------------------------------
def packed(chart: Atlas) -> dict[str, Any]:
    """What the scripts read: see `values.js`."""
    classes = len(chart.classes)
    if why := too_large(sum(len(layer) * classes for layer in chart.layers)):
        raise Unsupported(why, way_out="Name fewer layers with --layers")
    side = common_side([(len(l) * classes, l.occurrence.counts.shape[2:]) for l in chart.layers], MAPS)
    images, most = thumbnails(chart)
    tops = common_side([(len(l) * most, l.top.maps.shape[2:]) for l in chart.layers], ACTIVATIONS)
    return {
        "classes": [printable(c) for c in chart.classes],
        "samples": chart.layers[0].occurrence.samples.tolist(),
        "layers": [packed_layer(l, side) | {"top": packed_top(l.top, chart, most, tops)} for l in chart.layers],
        "images": images,
        "ramps": RAMPS,
    }


def packed_layer(kernels: Kernels, side: int) -> dict[str, Any]:
    """A layer, its maps [k, c, h, w] no larger than `side` along either axis."""
    size = plane(kernels.occurrence.counts.shape[2:])
    block = block_within(size, side)
    shown = mean(np.nan_to_num(maps(kernels.occurrence)).reshape(len(kernels), -1, *size), block)
    return {
        "name": printable(kernels.layer),
        "kernels": len(kernels),
        "size": size,
        "shown": shown.shape[2:],
        "block": block,
        "maps": text_of(np.round(255 * shown).astype(np.uint8)),
        "occurrence": floats(kernels.mean_occurrence),
        "selective": floats(kernels.mean_selectivity),
        "selectivity": floats(kernels.selectivity),
        "order": kernels.order.tolist(),
        "findings": [
            {"kind": printable(m.kind), "kernels": list(m.kernels), "words": printable(m.words)} for m in kernels.marks
        ],
        "attributed": None if kernels.attributed is None else packed_attributions(kernels.attributed),
    }


def packed_attributions(found: Attributed) -> dict[str, str]:
    """Each as it is."""
    return {"expected": floats(found.expected), "own": floats(found.own), "rank": floats(found.rank)}


def packed_top(top: Topmost, chart: Atlas, most: int, side: int) -> dict[str, Any]:
    """The first `most` samples of each kernel; maps [k, T, h, w] from 0 to the largest of each."""
    labels = chart.samples.labels
    samples, values, block = top.samples[:, :most], top.values[:, :most], block_within(top.maps.shape[2:], side)
    shown = largest(top.maps[:, :most], block)
    share = np.divide(shown, values[..., None, None], out=np.zeros_like(shown), where=values[..., None, None] > 0)
    return {
        "most": most,
        "samples": samples.ravel().tolist(),
        "labels": np.where(samples < 0, -1, -1 if labels is None else labels[samples]).ravel().tolist(),
        "values": floats(values),
        "maps": text_of(np.round(255 * share.clip(0, 1)).astype(np.uint8)),
        "shown": shown.shape[2:],
        "block": top.block * block,
    }


def thumbnails(chart: Atlas) -> tuple[dict[str, Any] | None, int]:
    """The images among the samples that activate kernels most, and how many samples of a kernel fit on the page.

    None where samples are no images. Values outside 0…1 are stretched over what these images have.
    """
    most = chart.layers[0].top.samples.shape[1]
    arrays = list(chart.samples.inputs.values())
    x = arrays[0]
    if len(arrays) > 1 or x.ndim != 4 or x.shape[1] not in (1, 3):
        return None, most
    while most:
        tops = np.concatenate([layer.top.samples[:, :most].ravel() for layer in chart.layers])
        numbers = np.unique(tops[tops >= 0])
        side = side_within(partial(thumbnail_bytes, len(numbers) * x.shape[1]), IMAGES, THUMBNAILS)
        if side:
            return drawn_small(x[numbers], side) | {"numbers": numbers.tolist()}, most
        most -= 1
    return None, 0


def thumbnail_bytes(planes: int, side: int) -> int:
    """Of so many squares."""
    return planes * side * side


def drawn_small(images: NDArray[np.float32], side: int) -> dict[str, Any]:
    """Images [n, 1 or 3, h, w] as bytes [n, h, w, 1 or 3], no larger than `side` along either axis."""
    small = mean(images, block_within(images.shape[2:], side))
    low, high = float(small.min(initial=0)), float(small.max(initial=1))
    pixels = np.round(255 * (small - low) / (high - low)).astype(np.uint8).transpose(0, 2, 3, 1)
    _, height, width, channels = pixels.shape
    return {"height": height, "width": width, "channels": channels, "pixels": text_of(pixels)}


def common_side(layers: Sequence[tuple[int, tuple[int, ...]]], most: int) -> int:
    """The largest side at which the maps of all layers, (number, positions) each, take `most` bytes at most; else 1."""

    def size(side: int) -> int:
        each = [(n, *(-(-d // block_within(s, side)) for d in plane(s))) for n, s in layers]
        return sum(n * h * w for n, h, w in each)

    return max(side_within(size, most, SIDES), 1)


def floats(values: NDArray[Any]) -> str:
    """float32, little-endian."""
    return text_of(values.astype("<f4"))


def text_of(values: NDArray[Any]) -> str:
    """Its bytes in the order of its axes as base64."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


# ---- the file --------------------------------------------------------------------------------------------------------
@cache
def asset(name: str) -> str:
    """A file of the page."""
    return files("toolchain.explain").joinpath("pages", name).read_text("utf-8")


def safe(text: str) -> Any:
    """Text that is put into the page as it is."""
    from markupsafe import Markup

    return Markup(text)


@cache
def template() -> Any:
    """The page around the scripts; what is put into it is escaped."""
    from jinja2 import Environment, StrictUndefined

    finalize = lambda value: printable(value) if type(value) is str else value
    env = Environment(autoescape=True, undefined=StrictUndefined, finalize=finalize, trim_blocks=True)
    return env.from_string(asset("occurrence.html.j2"))
