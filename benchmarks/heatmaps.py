"""Seconds and memory of heatmaps by each method.

    python -m benchmarks.heatmaps MODEL --data DATA [--images 100] [--methods gradient,lrp-epsilon]

Every method is a process of its own, one thread: seconds of one call of `heatmaps`, sessions and all, for the predicted
class of each image, and the peak memory of the process, which holds the images too.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.cold import cold


def point(model: Path, data: Path, images: int, method: str) -> float:
    """Seconds of one call in this process."""
    from toolchain.data import load_samples
    from toolchain.explain.heatmaps import heatmaps
    from toolchain.model import load

    loaded = load(model)
    (x,) = load_samples(data, loaded).inputs.values()
    begun = time.perf_counter()
    heatmaps(loaded, method, x[:images])
    return time.perf_counter() - begun


def main() -> None:
    from toolchain.explain.catalogue import methods_named
    from toolchain.explain.heatmaps import METHODS
    from toolchain.tables import show

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--methods")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.point:
        print(point(asked.model, asked.data, asked.images, asked.point))
        return
    rows = []
    for method in methods_named(asked.methods) or METHODS:
        words = [str(asked.model), "--data", str(asked.data), "--images", str(asked.images), "--point", method]
        ran = cold(["-m", "benchmarks.heatmaps", *words])
        seconds = f"{float(ran.stdout):.1f}"
        rows.append({"method": method, "seconds": seconds, "peak MiB": ran.peak_rss_bytes >> 20})
    show(rows, "md")


if __name__ == "__main__":
    main()
