"""Sums of attributions over samples, and the expectations read off them (Lundstrom et al. 2022, eq. 3-6).

A_ij is summed in float64 per true class k, so that

E_ij   = E[A_ij]          (eq. 3)      E_ij = Σ_k E^k_ij P(y = k)   (eq. 5)
E^k_ij = E[A_ij | y = k]  (eq. 4)      rank_i = −E[A_i of the loss −log p_y]  (eq. 6)

Sums merge: the attribution over a ∪ b is that over a merged with that over b, whatever computed the two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Attribution:
    """Sums of attributions at one cut; k true class, j target (classes, then the loss), i unit.

    sums      Σ A_ij over the samples of class k, [k, j, i]
    absolute  Σ |A_ij|, [k, j, i]
    squared   Σ A_ij², [k, j, i]
    counts    samples of class k, [k]
    is_live   units that were not 0 for every sample, [i]
    residual  Σ |Σ_i A_ij − (F_j(h) − F_j(0))| over samples, [j]
    change    Σ |F_j(h) − F_j(0)|, [j]
    steps     nodes of the quadrature
    backend   what computed it, and why if that was not the gradient graph
    per_run   samples of one run of it, 0 where nobody chose
    note      what else there is to say about how it ran
    """

    cut: str
    axis: int
    sums: F64
    absolute: F64
    squared: F64
    counts: NDArray[np.int64]
    is_live: NDArray[np.bool_]
    residual: F64
    change: F64
    steps: int
    backend: str = ""
    per_run: int = 0
    note: str = ""

    def merged(self, other: Attribution) -> Attribution:
        """The attribution over both sets of samples."""
        return replace(
            self,
            sums=self.sums + other.sums,
            absolute=self.absolute + other.absolute,
            squared=self.squared + other.squared,
            counts=self.counts + other.counts,
            is_live=self.is_live | other.is_live,
            residual=self.residual + other.residual,
            change=self.change + other.change,
        )

    @property
    def expected(self) -> F64:
        """E_ij, [j, i] (eq. 3)."""
        return self.sums.sum(axis=0) / max(int(self.counts.sum()), 1)

    @property
    def conditional(self) -> F64:
        """E^k_ij, [k, j, i] (eq. 4); 0 for a class without samples."""
        return self.sums / np.maximum(self.counts, 1)[:, None, None]

    @property
    def rank(self) -> F64:
        """−E of the loss, [i] (eq. 6): higher is more useful."""
        return -self.expected[-1]

    @property
    def expected_absolute(self) -> F64:
        """E|A_ij|, [j, i]."""
        return self.absolute.sum(axis=0) / max(int(self.counts.sum()), 1)

    @property
    def expected_square(self) -> F64:
        """E[A_ij²], [j, i]."""
        return self.squared.sum(axis=0) / max(int(self.counts.sum()), 1)

    @property
    def gap(self) -> float:
        """Completeness gap of the worst target: Σ|Σ_i A_ij − ΔF_j| / Σ|ΔF_j| over the samples."""
        return float(np.max(self.residual / np.maximum(self.change, 1e-12)))
