"""Figures as values: what is shown, in numbers. `plots` draws them, `writing` puts both into files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.explain.atlas import Atlas

F64 = NDArray[np.float64]
Scalar = str | int | float | bool | None
Row = dict[str, Scalar]


@dataclass(frozen=True)
class Series:
    """Numbers of one name.

    y          [n]
    x          [n], or None where the chart has categories
    low, high  the ends of a spread, [n] each, or None
    """

    name: str
    y: NDArray[Any]
    x: NDArray[Any] | None = None
    low: NDArray[Any] | None = None
    high: NDArray[Any] | None = None

    def points(self) -> Iterator[Row]:
        """One row for each number."""
        for i in range(len(self.y)):
            ends = {"low": self.low, "high": self.high}
            found: Row = {} if self.x is None else {"x": self.x[i].item()}
            yield found | {"y": self.y[i].item()} | {k: v[i].item() for k, v in ends.items() if v is not None}


@dataclass(frozen=True)
class Bars:
    """A bar of every series at every category; `category` and `quantity` are the names of the axes.

    samples  of how many each category is, or ()
    """

    categories: tuple[str, ...]
    series: tuple[Series, ...]
    category: str
    quantity: str
    samples: tuple[int, ...] = ()

    def rows(self) -> list[Row]:
        """One for each bar."""
        each: list[Row] = [{"n": n} for n in self.samples] or [{} for _ in self.categories]
        return [
            {"series": s.name, "category": c} | n | point
            for s in self.series
            for c, n, point in zip(self.categories, each, s.points(), strict=True)
        ]


@dataclass(frozen=True)
class Lines:
    """A line through the points of every series; x and y are the names of the axes.

    is_share  y runs from 0 to 100 %
    """

    series: tuple[Series, ...]
    x: str
    y: str
    is_share: bool = False

    def rows(self) -> list[Row]:
        """One for each point."""
        return [{"series": s.name} | point for s in self.series for point in s.points()]


@dataclass(frozen=True)
class Trade:
    """Points of every series joined by a line: what is had (y) for what it costs (x).

    is_better_low  small y are the good ones
    """

    series: tuple[Series, ...]
    x: str
    y: str
    is_better_low: bool = False

    def front(self) -> list[list[bool]]:
        """Whether no other point costs less and is as good, or costs as much and is better, series by series."""
        sign = -1 if self.is_better_low else 1
        every = np.array([(x, -sign * y) for s in self.series for x, y in zip(assured(s.x), s.y, strict=True)])
        best = [not ((every <= p).all(axis=1) & (every < p).any(axis=1)).any() for p in every]
        ends = np.cumsum([0] + [len(s.y) for s in self.series])
        return [best[a:b] for a, b in itertools.pairwise(ends.tolist())]

    def rows(self) -> list[Row]:
        """One for each point."""
        marks = itertools.chain.from_iterable(self.front())
        points = ({"series": s.name} | point for s in self.series for point in s.points())
        return [point | {"front": on} for point, on in zip(points, marks, strict=True)]


def assured(x: NDArray[Any] | None) -> NDArray[Any]:
    """The places of a series that has some."""
    assert x is not None
    return x


@dataclass(frozen=True)
class Histogram:
    """How many values lie between edges [bins + 1]; the last bin has both of its ends."""

    edges: F64
    counts: NDArray[np.int64]
    quantity: str
    counted: str

    def rows(self) -> list[Row]:
        """One for each bin."""
        edges = self.edges.tolist()
        return [
            {"from": a, "to": b, "count": n}
            for a, b, n in zip(edges[:-1], edges[1:], self.counts.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class Gallery:
    """Images [h, w, 3 or 1] or [h, w] in 0..1, each with its title and its number in the data.

    columns  images of a row; a title may reach over those beside it that have none
    """

    images: tuple[NDArray[np.float32], ...]
    titles: tuple[str, ...]
    numbers: tuple[int, ...]
    columns: int = 5

    def rows(self) -> list[Row]:
        """One for each image."""
        return [{"title": t, "sample": n} for t, n in zip(self.titles, self.numbers, strict=True)]


@dataclass(frozen=True)
class Grid:
    """A small map for each row and column, such as kernels by classes; those of one entry make a matrix.

    maps         [row, column, h, w], nan where there is nothing to show
    down, across names of rows and columns; `row` and `column` say what they are
    shown        rows that a picture shows, from the top; the numbers are of all
    low, high    values at the ends of the colours; where low < 0 they part at 0
    """

    maps: F64
    down: tuple[str, ...]
    across: tuple[str, ...]
    row: str
    column: str
    quantity: str
    shown: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0

    def rows(self) -> list[Row]:
        """Mean and ends of each map."""
        found: list[Row] = []
        for name, cells in zip(self.down, self.maps.reshape(*self.maps.shape[:2], -1), strict=True):
            for other, cell in zip(self.across, cells, strict=True):
                several = {"lowest": cell.min(), "highest": cell.max()} if len(cell) > 1 else {}
                ends = {"mean": cell.mean()} | several
                row: Row = {self.row: name, self.column: other}
                found.append(row | {k: None if np.isnan(v) else float(v) for k, v in ends.items()})
        return found


@dataclass(frozen=True)
class Boxes:
    """Layers in the order of the graph."""

    layers: tuple[Row, ...]

    def rows(self) -> list[Row]:
        """One for each layer."""
        return list(self.layers)


@dataclass(frozen=True)
class Panels:
    """Charts under each other or in columns, each with its title."""

    charts: tuple[Bars | Lines | Trade | Histogram, ...]
    titles: tuple[str, ...]
    columns: int = 1

    def rows(self) -> list[Row]:
        """Those of each chart."""
        return [{"panel": t} | r for t, c in zip(self.titles, self.charts, strict=True) for r in c.rows()]


Chart = Bars | Lines | Trade | Histogram | Gallery | Atlas | Grid | Boxes | Panels


@dataclass(frozen=True)
class Figure:
    """One figure or table.

    name     what it shows, as --figures names it
    about    the layer (and class) that it is of, or ""
    title    for the page
    source   the figure or table of the paper
    caption  one line: what to see, and of how many
    table    rows in place of the chart's own, for what the paper shows as a table
    facts    numbers that belong to no row: samples, gap, stride
    """

    name: str
    title: str
    source: str
    caption: str
    chart: Chart
    about: str = ""
    table: tuple[Row, ...] = ()
    facts: tuple[tuple[str, Scalar], ...] = ()

    @property
    def rows(self) -> list[Row]:
        """The numbers."""
        return list(self.table) or self.chart.rows()

    def with_series(self, more: Sequence[Series]) -> Figure:
        """This figure of lines with further ones, such as accuracies after retraining."""
        assert isinstance(self.chart, Lines)
        return replace(self, chart=replace(self.chart, series=(*self.chart.series, *more)))
