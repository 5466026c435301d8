"""Ridge least squares, block by block: min_D ‖R − X D‖² + λ ‖D‖² with a constant that is not shrunk.

Many rows are summed into normal equations as they come; few rows of many columns are kept, and solved through
D = Xᵀ (X Xᵀ + λ)⁻¹ R, which is the same D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

F32, F64 = NDArray[np.float32], NDArray[np.float64]
SKETCH = 128  # random mixtures of the outputs on which λ is chosen
MOST_ROWS = 8192  # that are kept: half a gigabyte of products between them


@dataclass
class Sums:
    """Normal equations, summed in float64: gram [g, c+1, c+1] of inputs and a constant, cross [g, c+1, m]."""

    gram: F64
    cross: F64
    has_bias: bool
    residual: float = 0.0
    power: float = 0.0
    count: int = 0

    @staticmethod
    def empty(blocks: int, columns: int, outputs: int, has_bias: bool) -> Sums:
        """Nothing summed yet."""
        c = columns + 1
        return Sums(np.zeros((blocks, c, c)), np.zeros((blocks, c, outputs)), has_bias)

    def add(self, x: F32, r: F32, y: F32) -> None:
        """Sum rows x [g, p, c] with residuals r [g, p, m] of outputs y [g, p, m]."""
        x = with_constant(x, self.has_bias)
        self.gram += x.transpose(0, 2, 1) @ x
        self.cross += x.transpose(0, 2, 1) @ r
        self.residual += squares(r)
        self.power += squares(y)
        self.count += x.shape[1]

    def plus(self, other: Sums) -> Sums:
        """Both together."""
        return Sums(
            self.gram + other.gram,
            self.cross + other.cross,
            self.has_bias,
            self.residual + other.residual,
            self.power + other.power,
            self.count + other.count,
        )

    def mixed(self, mixture: F64) -> Sums:
        """The same of random mixtures [m, k] of the outputs."""
        return Sums(self.gram, self.cross @ mixture, self.has_bias, self.residual, self.power, self.count)

    def solved(self, ridge: float) -> F64:
        """D of the ridge problem, [g, c+1, m]."""
        c = self.gram.shape[1]
        scale = np.trace(self.gram, axis1=1, axis2=2) / c
        diagonal = np.repeat((ridge * scale + 1e-12)[:, None], c, axis=1)
        diagonal[:, -1] = 1e-9 * self.gram[:, -1, -1] + 1e-12
        loaded = self.gram.copy()
        loaded[:, np.arange(c), np.arange(c)] += diagonal
        return np.linalg.solve(loaded, self.cross).astype(np.float64, copy=False)

    def mean(self) -> F64:
        """D that changes the constant alone, [g, c+1, m]."""
        found = np.zeros_like(self.cross)
        found[:, -1] = self.cross[:, -1] / np.maximum(self.gram[:, -1, -1:], 1e-30)
        return found

    def gain(self, change: F64) -> float:
        """‖R‖² − ‖R − X D‖²."""
        return 2 * float((change * self.cross).sum()) - float((change * (self.gram @ change)).sum())


@dataclass
class Rows:
    """The same of rows that are kept, as few as they are: [1, p, c] inputs, [1, p, m] residuals."""

    has_bias: bool
    x: list[F32] = field(default_factory=list)
    r: list[F32] = field(default_factory=list)
    power: float = 0.0

    @staticmethod
    def empty(blocks: int, columns: int, outputs: int, has_bias: bool) -> Rows:
        """Nothing kept yet; one block."""
        assert blocks == 1
        return Rows(has_bias)

    @property
    def count(self) -> int:
        """Rows."""
        return sum(x.shape[1] for x in self.x)

    @property
    def residual(self) -> float:
        """‖R‖²."""
        return sum(squares(r) for r in self.r)

    def add(self, x: F32, r: F32, y: F32) -> None:
        """Keep rows x [1, p, c] with residuals r [1, p, m] of outputs y [1, p, m], MOST_ROWS in all."""
        x, r, y = (a[:, : max(MOST_ROWS - self.count, 0)] for a in (x, r, y))
        self.x.append(x)
        self.r.append(r)
        self.power += squares(y)

    def plus(self, other: Rows) -> Rows:
        """Both together."""
        return Rows(self.has_bias, self.x + other.x, self.r + other.r, self.power + other.power)

    def mixed(self, mixture: F64) -> Rows:
        """The same of random mixtures [m, k] of the outputs."""
        return Rows(self.has_bias, self.x, [(r @ mixture).astype(np.float32) for r in self.r], self.power)

    def both(self) -> tuple[F64, F64]:
        """All rows, [p, c] and [p, m]."""
        return tuple(np.concatenate(a, axis=1)[0].astype(np.float64) for a in (self.x, self.r))  # type: ignore[return-value]

    def solved(self, ridge: float) -> F64:
        """D of the ridge problem, [1, c+1, m]: centred, so that the constant is not shrunk."""
        x, r = self.both()
        at_x, at_r = (a.mean(axis=0) if self.has_bias else np.zeros(a.shape[1]) for a in (x, r))
        scale = (float(np.square(x).sum()) + self.has_bias * len(x)) / (x.shape[1] + 1)
        x, r = x - at_x, r - at_r
        d = x.T @ np.linalg.solve(x @ x.T + (ridge * scale + 1e-12) * np.eye(len(x)), r)
        return np.vstack([d, at_r - at_x @ d])[None]

    def mean(self) -> F64:
        """D that changes the constant alone, [1, c+1, m]."""
        x, r = self.both()
        found = np.zeros((1, x.shape[1] + 1, r.shape[1]))
        found[0, -1] = self.has_bias * r.mean(axis=0)
        return found

    def gain(self, change: F64) -> float:
        """‖R‖² − ‖R − X D‖²."""
        x, r = self.both()
        return float(np.square(r).sum() - np.square(r - x @ change[0, :-1] - change[0, -1]).sum())


def with_constant(x: F32, has_bias: bool) -> F32:
    """Rows with a last column of ones, or of zeros where there is no bias."""
    return np.concatenate([x, np.full((*x.shape[:2], 1), has_bias, np.float32)], axis=2)


def squares(a: F32) -> float:
    """‖A‖²."""
    return float(np.square(a, dtype=np.float64).sum())


def solved(sums: Sums | Rows, ridge: float) -> F64:
    """D [g, c+1, m]; an infinite ridge leaves all but the constant."""
    return sums.mean() if np.isinf(ridge) else sums.solved(ridge)


def best(
    fit: Sums | Rows, held: Sums | Rows, ridges: Sequence[float], generator: np.random.Generator
) -> tuple[float | None, float, float]:
    """(the ridge that rebuilds held-out rows best, held-out error before and after); None where no ridge helps.

    Errors are ‖R − X D‖² / ‖Y‖². Of many outputs, random mixtures decide: they keep ‖·‖² in expectation.
    """
    power = max(held.power, 1e-30)
    before = held.residual / power
    if not (fit.count and held.count):
        return None, before, before
    some_fit, some_held = fit, held
    outputs = fit.cross.shape[2] if isinstance(fit, Sums) else fit.r[0].shape[2]
    if outputs > 2 * SKETCH:
        mixture = generator.choice([-1.0, 1.0], (outputs, SKETCH)) / SKETCH**0.5
        some_fit, some_held = fit.mixed(mixture), held.mixed(mixture)
    gains = [some_held.gain(solved(some_fit, ridge)) for ridge in ridges]
    k = int(np.argmax(gains))
    gain = gains[k] if some_fit is fit else held.gain(solved(fit, ridges[k])) if gains[k] > 0 else 0.0
    return (ridges[k], before, max(before - gain / power, 0.0)) if gain > 0 else (None, before, before)
