"""Maps and images made as small as a page can hold: blocks of positions become one, by mean or by maximum."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def plane(positions: Sequence[int]) -> tuple[int, int]:
    """Positions as rows and columns: a dense unit is 1×1, a sequence one row, a volume its slices below each other."""
    return (math.prod(positions[:-1]), positions[-1]) if positions else (1, 1)


def block_within(positions: Sequence[int], side: int) -> int:
    """The side of the smallest blocks that leave `side` of them at most along either axis."""
    return max(1, -(-max(plane(positions)) // side))


def largest(values: NDArray[Any], block: int) -> NDArray[Any]:
    """[…, h, w] -> the largest value of each block; what is left over at the ends is a block too."""
    return blocks(np.maximum, values, block)


def mean(values: NDArray[Any], block: int) -> NDArray[Any]:
    """[…, h, w] -> the mean of each block."""
    return blocks(np.add, values, block) / blocks(np.add, np.ones(values.shape[-2:]), block)


def blocks(by: np.ufunc, values: NDArray[Any], block: int) -> NDArray[Any]:
    """Each block of […, h, w] made one by a sum or a maximum."""
    h, w = values.shape[-2:]
    rows = by.reduceat(values, np.arange(0, h, block), axis=-2)
    return by.reduceat(rows, np.arange(0, w, block), axis=-1)


def side_within(size: Callable[[int], int], most: int, sides: Sequence[int]) -> int:
    """The largest of these sides at which no more than `most` bytes are needed, 0 if there is none."""
    return max((s for s in sides if size(s) <= most), default=0)
