"""Instructions that a library's kernels take, by kind of op: what an estimate multiplies a model's work with.

An op takes per_mac[kind] for each multiply-accumulate and per_element for each value it writes (ops without products:
for each value it reads or writes, whichever are more). Each is an interval [low, high]; a point where one count is
known.

Of the kernels for Cortex-M nobody published instructions. Their unit is a cycle of the STM32L4R5, whose CPI is
therefore 1: least squares over MLPerf Tiny's rows (`python -m benchmarks.estimates --fit` prints them). Another board's
CPI says how its cycles compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Interval = tuple[float, float]

# dense: each weight is read once for one product; activation: may be done by the op before it; view: the same bytes
Kind = Literal["convolution", "depthwise", "dense", "elementwise", "activation", "view"]


@dataclass(frozen=True)
class Kernels:
    """A library's kernels for one arithmetic.

    value_bytes  of a weight or an activation
    source       how the instructions were found
    """

    name: str
    value_bytes: int
    per_mac: Mapping[str, Interval]
    per_element: Interval
    source: str


def fitted(name: str, convolution: float, depthwise: float, dense: float, element: float, source: str) -> Kernels:
    """int8 kernels for Cortex-M with one value each."""
    values = {"convolution": convolution, "depthwise": depthwise, "dense": dense}
    return Kernels(name, 1, {kind: (v, v) for kind, v in values.items()}, (element, element), source)


KERNELS = {
    kernels.name: kernels
    for kernels in (
        Kernels(
            "ort-neon-float32",
            4,
            {"convolution": (0.34, 0.45), "depthwise": (2.1, 5.0), "dense": (0.43, 0.75)},
            (1.9, 14.4),
            "counted: onnxruntime on the virtual Cortex-A53 board (python -m benchmarks.counted_kernels)",
        ),
        Kernels(
            "litert-neon-float32",
            4,
            {"convolution": (0.53, 0.59), "depthwise": (1.7, 1.9), "dense": (0.64, 0.69)},
            (1.0, 9.8),
            "counted: LiteRT on the virtual Cortex-A53 board (python -m benchmarks.counted_kernels)",
        ),
        Kernels(
            "rvv-float32",
            4,
            {"convolution": (0.08, 0.59), "depthwise": (0.4, 5.0), "dense": (0.1, 0.75)},
            (0.12, 3.0),
            "not counted: vectors of 512 bits hold four times what NEON's do, so from a quarter of its kernels up",
        ),
        Kernels(
            "plain-c",
            4,
            {"convolution": (3.9, 8.5), "depthwise": (6.0, 47.5), "dense": (2.8, 6.2)},
            (3.2, 7.1),
            "counted: C at -O2 without vectors, by hand and as TFLite's reference kernels, for five instruction sets "
            "(python -m benchmarks.plain_c)",
        ),
        fitted(
            "cmsis-nn", 3.33, 8.59, 3.67, 27.9, "fitted: 3 boards of MLPerf Tiny 0.7 and 1.0, TFLite Micro and microTVM"
        ),
        fitted("x-cube-ai-9", 1.31, 3.0, 2.24, 9.67, "fitted: 3 boards of MLPerf Tiny 1.2"),
        fitted("x-cube-ai-7", 2.02, 9.16, 3.41, 20.9, "fitted: 3 boards of MLPerf Tiny 1.0"),
        fitted(
            "tflm-reference-int8", 5.56, 21.2, 4.52, 56.3, "fitted: the reference board of MLPerf Tiny 0.5, one board"
        ),
    )
}
