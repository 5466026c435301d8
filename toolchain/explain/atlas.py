"""What there is to know of the kernels of some layers, as one chart to be browsed: `interactive` makes its page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toolchain.data import Samples
from toolchain.explain.occurrence import Occurrence, class_selectivity, kernel_selectivity, maps, row_order
from toolchain.explain.topmost import Topmost

if TYPE_CHECKING:
    from toolchain.explain.figure import Row

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Mark:
    """A finding in words, about some kernels of a layer, or about the layer where there are none."""

    kind: str
    kernels: tuple[int, ...]
    words: str


@dataclass(frozen=True)
class Attributed:
    """Expected attributions of kernels k (Lundstrom et al. 2022, eq. 3 to 6).

    expected  to the output of each class over all images, [k, c]
    own       the same over the images of the class, [k, c]; nan where it has none
    rank      −E of the loss, [k]
    """

    expected: F64
    own: F64
    rank: F64


@dataclass(frozen=True)
class Kernels:
    """Those of one layer, k, against the classes c.

    top         the samples that activate each most
    marks       what was found
    attributed  None where the layer was not ranked
    """

    occurrence: Occurrence
    top: Topmost
    marks: tuple[Mark, ...] = ()
    attributed: Attributed | None = None

    def __len__(self) -> int:
        return len(self.occurrence.counts)

    @property
    def layer(self) -> str:
        """Its name."""
        return self.occurrence.layer

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Kernels, those that fire alike next to each other, [k]."""
        return row_order(self.occurrence)

    @cached_property
    def selectivity(self) -> F64:
        """s, [k] (Garcia et al., eq. 4)."""
        return kernel_selectivity(self.occurrence)

    @cached_property
    def mean_occurrence(self) -> F64:
        """The mean of M over positions, [k, c]; nan for a class without samples."""
        return over_positions(maps(self.occurrence))

    @cached_property
    def mean_selectivity(self) -> F64:
        """The mean of S over positions, [k, c]; nan for a class without samples."""
        return over_positions(class_selectivity(self.occurrence))

    def rows(self) -> Iterator[Row]:
        """One for each kernel."""
        place, best = np.argsort(self.order), np.nanargmax(self.mean_selectivity, axis=1)
        kinds: list[dict[str, None]] = [{} for _ in range(len(self))]
        for mark in self.marks:
            for k in mark.kernels:
                kinds[k][mark.kind] = None
        for k in range(len(self)):
            yield {
                "layer": self.layer,
                "kernel": k,
                "row": int(place[k]),
                "s": float(self.selectivity[k]),
                "most selective for": self.occurrence.classes[int(best[k])],
                "mean S": float(self.mean_selectivity[k, best[k]]),
                "rank": None if self.attributed is None else float(self.attributed.rank[k]),
                "findings": ", ".join(kinds[k]),
                "top samples": " ".join(str(n) for n in self.top.samples[k].tolist() if n >= 0),
            }


@dataclass(frozen=True)
class Atlas:
    """The kernels of some layers, and the samples that they were looked at with; two classes or more have some."""

    layers: tuple[Kernels, ...]
    samples: Samples

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return self.layers[0].occurrence.classes

    def rows(self) -> list[Row]:
        """One for each kernel."""
        return [row for kernels in self.layers for row in kernels.rows()]


def over_positions(values: F64) -> F64:
    """[k, c, *positions] -> their means, [k, c]."""
    return values.reshape(*values.shape[:2], -1).mean(axis=2)
