"""ONNX's definitions, literally and in float64, of ops that the reference of onnx 1.23 lacks, rounds or gets wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun


class Standard(OpRun):
    """An op of the standard domain."""

    op_domain = ""


class Erf(Standard):
    """The reference rounds it to float32."""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (np.vectorize(math.erf, otypes=[np.float64])(x),)


class Gelu(Standard):
    """The reference takes its own Erf inside functions."""

    def _run(self, x: np.ndarray, approximate: str = "none") -> tuple[np.ndarray]:
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        gate = np.tanh(inner) if approximate == "tanh" else Erf._run(self, x / math.sqrt(2))[0]
        return (0.5 * x * (1 + gate),)


class GlobalMaxPool(Standard):
    """The reference mistakes the axes of a signal."""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class GlobalLpPool(Standard):
    """The reference lacks it."""

    def _run(self, x: np.ndarray, p: int = 2) -> tuple[np.ndarray]:
        return ((np.abs(x) ** p).sum(axis=tuple(range(2, x.ndim)), keepdims=True) ** (1 / p),)


DEFINITIONS: list[Any] = [Erf, Gelu, GlobalMaxPool, GlobalLpPool]
