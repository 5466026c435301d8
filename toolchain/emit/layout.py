"""Where the axes of an ONNX value stand in the file, as a value of its own: it is never guessed from a shape.

TFLite wants channels last. A layout is a permutation of axes and, after a flatten, an order of the positions along one.
ONNX's Transpose only renames axes, a flatten only records an order, and constants are stored in the layout of what they
meet: nothing moves until an op needs another layout than the one there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.ops.shape import Run, reshape_runs

Order = tuple[int, ...]
Dims = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """How an ONNX value lies in the file.

    axes    file axis i holds ONNX axis axes[i]; None is a unit axis that ONNX does not have
    orders  ONNX axis -> order: file position p along it holds ONNX position order[p]; left out where they coincide
    """

    axes: tuple[int | None, ...]
    orders: dict[int, Order] = field(default_factory=dict[int, Order])

    def place(self, axis: int) -> int:
        """The file axis that holds an ONNX axis."""
        return self.axes.index(axis)

    def shape(self, dims: Dims) -> Dims:
        """Shape in the file of a value with these ONNX dimensions."""
        return tuple(1 if a is None else dims[a] for a in self.axes)

    def arranged(self, array: NDArray[Any]) -> NDArray[Any]:
        """A constant, [ONNX axes] (1 where it broadcasts), as it lies in the file."""
        for axis, order in self.orders.items():
            if array.shape[axis] != 1:
                array = array.take(order, axis=axis)
        turned = array.transpose([a for a in self.axes if a is not None])
        return turned.reshape(self.shape(array.shape))

    def transposed(self, perm: list[int]) -> Layout:
        """The same file tensor for the value whose axis i is this one's axis perm[i]."""
        new = {a: i for i, a in enumerate(perm)}
        axes = tuple(None if a is None else new[a] for a in self.axes)
        return Layout(axes, {new[a]: o for a, o in self.orders.items()})

    def without(self, gone: set[int]) -> Layout:
        """The layout that is left when these ONNX axes vanish."""
        kept = sorted(a for a in self.axes if a is not None and a not in gone)
        new = {a: i for i, a in enumerate(kept)}
        axes = tuple(None if a is None else new[a] for a in self.axes if a not in gone)
        return Layout(axes, {new[a]: o for a, o in self.orders.items() if a not in gone})

    def lifted(self, by: int) -> Layout:
        """For the value with `by` more unit axes in front, which the file need not have."""
        axes = tuple(None if a is None else a + by for a in self.axes)
        return Layout(axes, {a + by: o for a, o in self.orders.items()})

    def ordered(self, axis: int, order: Order | None) -> Layout:
        """This layout with another order along an axis."""
        rest = {a: o for a, o in self.orders.items() if a != axis}
        natural = order is None or order == tuple(range(len(order)))
        return Layout(self.axes, rest if natural or order is None else rest | {axis: order})

    def moved(self, dims: Dims) -> list[int]:
        """ONNX axes in file order, without those of size 1: what decides whether bytes have to move."""
        return [a for a in self.axes if a is not None and dims[a] != 1]


def plain(rank: int) -> Layout:
    """As in ONNX."""
    return Layout(tuple(range(rank)))


def channels_last(rank: int) -> Layout:
    """N, space, C."""
    return Layout((0, *range(2, rank), 1))


def image(rank: int) -> Layout:
    """N, height, width, C: a signal [N, C, L] is an image of height 1."""
    return Layout((0, *[None] * (4 - rank), *range(2, rank), 1))


def reshaped(layout: Layout, before: Dims, after: Dims) -> Layout | None:
    """The layout of a reshaped value whose bytes stay where they are, or None where they would have to move.

    before, after  ONNX dimensions, the batch as -1
    """
    runs = reshape_runs(before, after)
    moved = layout.moved(before)
    if {a for left, _ in runs for a, _ in left} != set(moved) or not layout.orders.keys() <= set(moved):
        return None
    pieces: dict[int, list[int]] = {}  # first place in the file -> axes of the result
    orders: dict[int, Order] = {}
    for left, right in runs:
        places = sorted(moved.index(a) for a, _ in left)
        if places != list(range(places[0], places[0] + len(places))):
            return None
        order = run_order(layout, left, [moved[p] for p in places], right)
        if order is None:
            return None
        pieces[places[0]] = [a for a, _ in right]
        orders |= {right[0][0]: order} if order else {}
    axes: list[int | None] = [a for p in sorted(pieces) for a in pieces[p]]
    for a, d in enumerate(after):
        if d == 1:
            axes.insert(min(a, len(axes)), a)
    return Layout(tuple(axes), orders)


def run_order(layout: Layout, left: Run, in_file: list[int], right: Run) -> Order | None:
    """The order along a run of axes that is split or merged: () for ONNX's own, None where there is none."""
    axes, sizes = [a for a, _ in left], [d for _, d in left]
    if len(left) == len(right) == 1:
        return layout.orders.get(axes[0], ())
    if any(a in layout.orders for a in axes):
        return None
    if in_file == axes:
        return ()
    if len(right) > 1 or min(sizes) < 0:
        return None
    positions = np.arange(math.prod(sizes)).reshape(sizes)
    return tuple(positions.transpose([axes.index(a) for a in in_file]).ravel().tolist())
