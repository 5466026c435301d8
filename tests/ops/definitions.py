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


class LRN(Standard):
    """The reference goes through as many channels as there are samples."""

    def _run(
        self, x: np.ndarray, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int = 1
    ) -> tuple[np.ndarray]:
        y = np.empty_like(x)
        for c in range(x.shape[1]):
            window = x[:, max(0, c - math.floor((size - 1) / 2)) : c + math.ceil((size - 1) / 2) + 1]
            y[:, c] = x[:, c] / (bias + alpha / size * (window**2).sum(axis=1)) ** beta
        return (y,)


class LpNormalization(Standard):
    """The reference forgets the absolute value."""

    def _run(self, x: np.ndarray, axis: int = -1, p: int = 2) -> tuple[np.ndarray]:
        return (x / (np.abs(x) ** p).sum(axis=axis, keepdims=True) ** (1 / p),)


class GroupNormalization(Standard):
    """The reference works in float32."""

    def _run(
        self, x: np.ndarray, scale: np.ndarray, bias: np.ndarray, epsilon: float = 1e-5, num_groups: int = 1,
        stash_type: int = 1,
    ) -> tuple[np.ndarray]:  # fmt: skip
        rows = x.reshape(len(x), num_groups, -1)
        centred = rows - rows.mean(axis=2, keepdims=True)
        y = (centred / np.sqrt((centred**2).mean(axis=2, keepdims=True) + epsilon)).reshape(x.shape)
        each = (1, -1, *[1] * (x.ndim - 2))
        return (y * scale.reshape(each) + bias.reshape(each),)


class MeanVarianceNormalization(Standard):
    """The reference knows it in float32 alone."""

    def _run(self, x: np.ndarray, axes: tuple[int, ...] = (0, 2, 3)) -> tuple[np.ndarray]:
        centred = x - x.mean(axis=tuple(axes), keepdims=True)
        return (centred / np.sqrt((centred**2).mean(axis=tuple(axes), keepdims=True)),)


DEFINITIONS: list[Any] = [
    *(Erf, Gelu, GlobalMaxPool, GlobalLpPool),
    *(LRN, LpNormalization, GroupNormalization, MeanVarianceNormalization),
]
