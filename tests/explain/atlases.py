"""Made-up kernels of made-up layers, with everything that a page can show of them."""

from __future__ import annotations

import numpy as np

from toolchain.data import Samples
from toolchain.explain.atlas import Atlas, Attributed, Kernels, Mark
from toolchain.explain.figure import Figure
from toolchain.explain.interactive import page
from toolchain.explain.occurrence import Occurrence
from toolchain.explain.topmost import Topmost

HOSTILE = "</script><script>document.title='gone'</script><img src=x onerror=alert(1)> \" ' & {{ 7*7 }}"
MADE_OF = {
    "tool": {"version": "0"},
    "model": {"sha256": "ab" * 32},
    "data": [{"name": HOSTILE, "samples": 40}],
}
DEAD, ALWAYS = 3, 5


def kernels(
    k: int = 12,
    positions: tuple[int, ...] = (6, 5),
    layer: str = "conv1",
    classes: tuple[str, ...] = ("zero", HOSTILE, "nobody", "three"),
    is_attributed: bool = True,
    n: int = 40,
    seed: int = 0,
) -> Kernels:
    """Kernel 3 never fires, kernel 5 always, and class 2 has no samples."""
    generator = np.random.default_rng(seed)
    samples = generator.integers(20, 60, len(classes))
    samples[2] = 0
    chance = (
        np.sort(generator.random((k, len(classes), *positions)), axis=-1)
        if positions
        else generator.random((k, len(classes)))
    )
    counts = (chance * samples.reshape(-1, *(1,) * len(positions))).astype(np.int64)
    counts[DEAD] = 0
    counts[ALWAYS] = samples.reshape(-1, *(1,) * len(positions))
    plane = (1, *positions)[-2:] if positions else (1, 1)
    values = np.sort(generator.random((k, 3)).astype(np.float32) * 9 + 0.5)[:, ::-1].copy()
    maps = generator.random((k, 3, *plane), np.float32)
    maps *= values[..., None, None] / maps.max(axis=(2, 3), keepdims=True)
    numbers = np.argsort(generator.random((k, n)), axis=1)[:, :3]
    numbers[DEAD], values[DEAD], maps[DEAD] = -1, 0, 0
    top = Topmost(layer, numbers, values, maps, 1)
    marks = (
        Mark("dead", (DEAD,), "never fires"),
        Mark("always-on", (ALWAYS,), "fires everywhere"),
        Mark("redundant", (1, 7, 9), "fire alike; 7 stays"),
        Mark("too-small", (), f"no kernel separates {HOSTILE}"),
    )
    e = [generator.normal(size=(k, len(classes))) for _ in range(2)]
    e[1][:, 2] = np.nan
    attributed = Attributed(e[0], e[1], generator.normal(size=k)) if is_attributed else None
    return Kernels(Occurrence(layer, counts, samples, classes), top, marks, attributed)


def atlas(*layers: Kernels, shape: tuple[int, ...] = (1, 8, 8), n: int = 40) -> Atlas:
    """These layers, or a conv and a dense one, and samples of this shape."""
    made = layers or (kernels(), kernels(10, (), HOSTILE, is_attributed=False, seed=1))
    x = np.random.default_rng(2).random((n, *shape)).astype(np.float32)
    labels = np.arange(n) % len(made[0].occurrence.classes)
    return Atlas(made, Samples("data", {"x": x}, labels))


def html(chart: Atlas) -> str:
    """Its page."""
    return page(Figure("occurrence-page", HOSTILE, "Source", HOSTILE, chart), MADE_OF, "index.html")
