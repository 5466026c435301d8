"""Time and memory of attribution against images and against nodes, over three decades each.

    python -m benchmarks.linearity --out FOLDER

Every point is a process of its own: it calls `attribute` on the network that ships with the package, one thread, with
as many nodes as asked (no doubling), and reports the call's time; its peak memory is the kernel's. The images are one
image seen as many, so that what grows is what attribution itself holds. Writes linearity.json and linearity.png with
the exponents of a power law fitted to all points and to the upper two decades, where fixed costs (sessions, the pilot)
no longer show.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cold import cold

IMAGES = (32, 100, 320, 1000, 3200, 10_000, 32_000)
NODES = (1, 3, 10, 32, 100, 320, 1000)
STEPS, SAMPLES = 16, 16  # nodes while images grow, images while nodes grow
CUT_OF_IMAGES, CUT_OF_NODES = 5, 2  # which ReLU: late, where images weigh; early, where nodes do


def point(images: int, steps: int, relu: int) -> float:
    """Seconds of one call in this process."""
    from toolchain.compress.attribution import attribute
    from toolchain.model import load
    from toolchain.shipped import triangles_squares_path
    from toolchain.synthetic import triangles_squares

    model = load(triangles_squares_path())
    (name,) = (str(v.name) for v in model.graph.inputs)
    cut = [str(n.outputs[0].name) for n in model.graph if n.op_type == "Relu"][relu - 1]
    one, _ = triangles_squares(1)
    inputs, labels = {name: np.broadcast_to(one, (images, *one.shape[1:]))}, np.zeros(images, np.int64)
    begun = time.perf_counter()
    attribute(model, [(cut, 1)], inputs, labels, steps=steps, tolerance=np.inf, threads=1)
    return time.perf_counter() - begun


def measured(images: int, steps: int, relu: int) -> dict[str, Any]:
    """One process."""
    ran = cold(["-m", "benchmarks.linearity", "--point", str(images), str(steps), str(relu)])
    found = {"images": images, "nodes": steps, "seconds": float(ran.stdout), "peak_rss_bytes": ran.peak_rss_bytes}
    print(
        f"{images:6d} images {steps:5d} nodes {found['seconds']:8.3f} s {ran.peak_rss_bytes / 1e6:6.0f} MB", flush=True
    )
    return found


def exponent(x: list[float], y: list[float]) -> float:
    """Of the power law through the points by least squares of the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def fitted(points: list[dict[str, Any]], against: str, of: str) -> dict[str, float]:
    """Exponents of all points, and of those within two decades of the largest."""
    x, y = [p[against] for p in points], [p[of] for p in points]
    upper = [i for i, v in enumerate(x) if v * 100 >= x[-1]]
    return {"all": exponent(x, y), "upper two decades": exponent([x[i] for i in upper], [y[i] for i in upper])}


def drawn(found: dict[str, Any], path: Path) -> None:
    """Time with double logarithmic axes, memory from 0 on."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    panels = (("images", "seconds"), ("nodes", "seconds"), ("images", "peak_rss_bytes"))
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for ax, (against, of) in zip(axes, panels, strict=True):
        points, slope = found[f"by_{against}"], found["exponents"][f"{of} by {against}"]["upper two decades"]
        x, y = [p[against] for p in points], [p[of] for p in points]
        ax.loglog(x, y, "o-")
        if of == "peak_rss_bytes":
            ax.set_yscale("linear")
            ax.set_ylim(0, 1.2 * max(y))
        ax.set(xlabel=against, ylabel=of.replace("_", " "), title=f"exponent {slope:.2f} (upper two decades)")
        ax.grid(visible=True, which="both", alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--point", type=int, nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.point is not None:
        print(point(*asked.point))
        return
    by_images = [measured(n, STEPS, CUT_OF_IMAGES) for n in IMAGES]
    by_nodes = [measured(SAMPLES, n, CUT_OF_NODES) for n in NODES]
    exponents = {
        "seconds by images": fitted(by_images, "images", "seconds"),
        "seconds by nodes": fitted(by_nodes, "nodes", "seconds"),
        "peak_rss_bytes by images": fitted(by_images, "images", "peak_rss_bytes"),
    }
    found = {"by_images": by_images, "by_nodes": by_nodes, "exponents": exponents}
    for name, slopes in exponents.items():
        print(f"{name}: " + ", ".join(f"{v:.3f} ({k})" for k, v in slopes.items()))
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "linearity.json").write_text(json.dumps(found, indent=1) + "\n")
    drawn(found, asked.out / "linearity.png")


if __name__ == "__main__":
    main()
