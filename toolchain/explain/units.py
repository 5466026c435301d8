"""Attributions of whole units: those of a group's cuts, summed over the positions that each unit has there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.attribution import Progress, attribute
from toolchain.compress.criteria import over_cuts
from toolchain.compress.groups import Channels, Group
from toolchain.compress.objective import objective_of
from toolchain.compress.plan import removal_order
from toolchain.model import Model
from toolchain.ops.units import Ids

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """Expected attributions of the units of one group; k true class, j output (classes, then the loss), u unit.

    conditional  E^k_uj, [k, j, u] (Lundstrom et al. 2022, eq. 4)
    counts       samples of class k, [k]
    is_live      units that were not 0 for every sample, [u]
    gap          completeness gap of the worst output and cut, a share
    steps        nodes of the quadrature
    """

    group: Group
    conditional: F64
    counts: NDArray[np.int64]
    is_live: NDArray[np.bool_]
    gap: float
    steps: int

    @property
    def name(self) -> str:
        """Of the group."""
        return self.group.name

    @property
    def samples(self) -> int:
        """How many the expectations are over."""
        return int(self.counts.sum())

    @property
    def expected(self) -> F64:
        """E_uj = Σ_k E^k_uj P(y = k), [j, u] (eq. 3 and 5)."""
        return np.einsum("kju,k->ju", self.conditional, self.counts / max(self.samples, 1))

    @property
    def rank(self) -> F64:
        """−E of the loss, [u] (eq. 6): higher is more useful; 0 for a dead unit."""
        return -self.expected[-1]

    @property
    def rank_by_class(self) -> F64:
        """The same over the images of each class alone, [k, u]."""
        return -self.conditional[:, -1]

    @property
    def lowest_first(self) -> Ids:
        """Units in the order of removal, [u]: dead ones, then by rising rank; ties by place."""
        return removal_order(self.group, self.rank, ~self.is_live)

    def own(self, k: int) -> F64:
        """E^k_uk: what each unit brings class k on the images of class k, [u]."""
        return self.conditional[k, k]


def layers_of(
    model: Model,
    channels: Channels,
    groups: Sequence[Group],
    inputs: Mapping[str, NDArray[np.float32]],
    labels: NDArray[np.int64],
    *,
    steps: int = 16,
    threads: int = 1,
    max_memory: int | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> list[Layer]:
    """The attributions of each group to every class and the loss; to the deviation alone where there are no classes.

    inputs  {name: [n, *s]}
    labels  true classes [n]

    Raises Unsupported where an op has no gradient rule, or the model cannot run at any batch.
    """
    cuts = list(dict.fromkeys(c for g in groups for c in g.cuts))
    target = "classes" if objective_of(model).classes > 1 else "answer"
    found = attribute(
        model, cuts, inputs, labels, target=target, steps=steps, threads=threads, max_memory=max_memory,
        progress=progress,
    )  # fmt: skip
    at = dict(zip(cuts, found, strict=True))
    layers = []
    for g in groups:
        conditional = over_cuts(g, channels, at, lambda f: f.conditional)
        live = over_cuts(g, channels, at, lambda f: f.is_live.astype(np.float64))
        mine = [at[c] for c in g.cuts]
        facts = mine[0].counts, live > 0, max(f.gap for f in mine), max(f.steps for f in mine)
        layers.append(Layer(g, conditional, *facts))
    return layers
