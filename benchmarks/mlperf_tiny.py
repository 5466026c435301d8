"""MLPerf Tiny: the four reference models as counts of work, and published rows of boards that ran them.

`mlperf_tiny.csv` holds inferences per second: the median throughput in
closed/SUBMITTER/results/SYSTEM/MODEL/performance/results.txt of github.com/mlcommons/tiny_results_ROUND, with the clock
of the submission's system description. All ran int8 on one Cortex-M core without an accelerator. `kernels` groups
submissions by the library that ran: rows of one library differ by the board alone.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from targets.estimate import Size, Work


@dataclass(frozen=True)
class Submission:
    """A board with a library, and its nanoseconds for each model."""

    name: str
    chip: str
    core: str
    clock_hz: int
    kernels: str
    ns: Mapping[str, float]


def submissions() -> list[Submission]:
    """Every published row at hand."""
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8") as file:
        return [
            Submission(
                f"{row['round']} {row['submitter']} {row['system'].rpartition('/')[2]}",
                row["chip"],
                row["core"],
                int(row["clock_hz"]),
                row["kernels"],
                {model: 1e9 / float(row[model]) for model in MODELS},
            )
            for row in csv.DictReader(file)
        ]


# ---- the models, layer by layer, as github.com/mlcommons/tiny/benchmark/training builds them ------------------------


def convolution(height: int, width: int, into: int, out: int, taps: int, stride: int = 1) -> Work:
    """A convolution with `taps` taps that writes height × width values of each of `out` channels."""
    written = height * width * out
    return Work(
        f"convolution {into}→{out}",
        "convolution",
        written * taps * into,
        height * width * into * stride**2,
        written,
        taps * into * out,
    )


def depthwise(height: int, width: int, channels: int, stride: int = 1) -> Work:
    """A 3 × 3 depthwise convolution."""
    written = height * width * channels
    return Work(f"depthwise {channels}", "depthwise", written * 9, written * stride**2, written, 9 * channels)


def dense(into: int, out: int) -> Work:
    """A fully connected layer."""
    return Work(f"dense {into}→{out}", "dense", into * out, into, out, into * out)


def elementwise(name: str, inputs: int, outputs: int) -> Work:
    """Additions, pooling, softmax."""
    return Work(name, "elementwise", 0, inputs, outputs)


def residual(size: int, into: int, out: int) -> list[Work]:
    """A block of ResNet-8 that writes size × size × out; where it widens, it halves the image."""
    stride = 1 if into == out else 2
    short = [] if into == out else [convolution(size, size, into, out, 1, stride)]
    values = size * size * out
    return [
        convolution(size, size, into, out, 9, stride),
        convolution(size, size, out, out, 9),
        *short,
        elementwise("add", 2 * values, values),
    ]


def separable(height: int, width: int, into: int, out: int, stride: int = 1) -> list[Work]:
    """Depthwise 3 × 3, then pointwise."""
    return [depthwise(height, width, into, stride), convolution(height, width, into, out, 1)]


def ic() -> list[Work]:
    """Image classification: ResNet-8 on 32 × 32 × 3."""
    blocks = [*residual(32, 16, 16), *residual(16, 16, 32), *residual(8, 32, 64)]
    ends = [elementwise("pool", 64 * 64, 64), dense(64, 10), elementwise("softmax", 10, 10)]
    return [convolution(32, 32, 3, 16, 9), *blocks, *ends]


def kws() -> list[Work]:
    """Keyword spotting: DS-CNN on 49 × 10."""
    blocks = [work for _ in range(4) for work in separable(25, 5, 64, 64)]
    ends = [elementwise("pool", 125 * 64, 64), dense(64, 12), elementwise("softmax", 12, 12)]
    return [convolution(25, 5, 1, 64, 40, 2), *blocks, *ends]


def vww() -> list[Work]:
    """Visual wake words: MobileNetV1 0.25 on 96 × 96 × 3."""
    widths = [(48, 8, 16, 1), (24, 16, 32, 2), (24, 32, 32, 1), (12, 32, 64, 2), (12, 64, 64, 1), (6, 64, 128, 2)]
    widths += [(6, 128, 128, 1)] * 5 + [(3, 128, 256, 2), (3, 256, 256, 1)]
    blocks = [work for size, into, out, stride in widths for work in separable(size, size, into, out, stride)]
    ends = [elementwise("pool", 9 * 256, 256), dense(256, 2), elementwise("softmax", 2, 2)]
    return [convolution(48, 48, 3, 8, 9, 2), *blocks, *ends]


def ad() -> list[Work]:
    """Anomaly detection: an autoencoder of ten dense layers on 640 values."""
    widths = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]
    return [dense(into, out) for into, out in pairwise(widths)]


MODELS = {"ic": ic(), "kws": kws(), "vww": vww(), "ad": ad()}


def size_of(works: list[Work]) -> Size:
    """Weights of all layers; the arena holds the largest layer's input and output."""
    return Size(sum(w.weights for w in works), max(w.inputs + w.outputs for w in works))
