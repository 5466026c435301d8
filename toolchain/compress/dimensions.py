"""Sizes of all values of a network at once, as a function of how many units of each group go: d = d₀ − P·removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.ops.table import Shape, dims

I64 = NDArray[np.int64]
Part = tuple[int, I64, I64]  # axis, groups that lie there, positions that a unit of each of these has

LONGER = 1 << np.arange(7, 63, 7, dtype=np.int64)  # numbers from which protobuf needs a byte more


@dataclass(frozen=True)
class Dimensions:
    """Every axis of every value in one row of numbers.

    spans     value -> where its axes lie
    first     where each value starts; a value without axes has one entry of 1 that is not in its span, [v]
    whole     sizes before anything goes, [d]
    entries   (place, group, positions) of all that a group's width changes, [3, e]
    """

    spans: dict[ir.Value, slice]
    order: dict[ir.Value, int]
    first: I64
    whole: I64
    entries: tuple[I64, I64, I64]

    def after(self, removed: I64) -> I64:
        """Sizes when these many units of each group are gone, [d]."""
        place, group, positions = self.entries
        less = np.bincount(place, positions * removed[group], len(self.whole))
        return self.whole - less.astype(np.int64)

    def elements(self, sizes: I64) -> I64:
        """Elements of every value, negative where it has a batch, [v]."""
        return np.multiply.reduceat(sizes, self.first) if len(self.first) else self.first

    def shape(self, sizes: I64) -> Shape:
        """The sizes of one value."""
        every, spans = sizes.tolist(), self.spans
        return lambda value: tuple(every[spans[value]])


def dimensions(values: Sequence[ir.Value], parts: Mapping[ir.Value, Sequence[Part]]) -> Dimensions:
    """Lay the axes of values with known shapes side by side."""
    spans: dict[ir.Value, slice] = {}
    first, whole, entries = [], [], []
    for value in values:
        size = dims(value)
        first.append(len(whole))
        spans[value] = slice(len(whole), len(whole) + len(size))
        for axis, groups, positions in parts.get(value, ()):
            entries.append((np.full(len(groups), len(whole) + axis), groups, positions))
        whole += size or (1,)
    place, group, positions = (
        np.concatenate([np.zeros(0, np.int64), *(e[i] for e in entries)]).astype(np.int64) for i in range(3)
    )
    order = {v: i for i, v in enumerate(values)}
    return Dimensions(
        spans, order, np.array(first, np.int64), np.array(whole, np.int64), (place, group, positions)
    )  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """Bytes that a file spends on tensors, all of them at once: what `profile.stored` counts for one.

    which  the tensors, as places among the values
    bits   of one element
    head   bytes of the fields around the data, without the sizes of axes
    axes   places of all axes, and which tensor each belongs to
    """

    which: I64
    bits: I64
    head: I64
    axes: tuple[I64, I64]

    def bytes(self, sizes: I64, elements: I64) -> int:
        """Of all of them."""
        data = -(-elements[self.which] * self.bits // 8)
        place, owner = self.axes
        around = self.head + np.bincount(owner, 1 + lengths(sizes[place]), len(self.head)).astype(np.int64)
        body = around + 1 + lengths(data) + data
        return int((1 + lengths(body) + body).sum())


def stored(held: Sequence[ir.Value], of: Dimensions) -> Stored:
    """The fields around each tensor, counted once."""
    bits = [v.dtype.bitwidth for v in held if v.dtype is not None]
    head = [onnx.TensorProto(data_type=int(v.dtype), name=str(v.name)).ByteSize() for v in held if v.dtype is not None]
    spans = [np.arange(of.spans[v].start, of.spans[v].stop) for v in held]
    owner = np.repeat(np.arange(len(held)), [len(s) for s in spans])
    place = np.concatenate([np.zeros(0, np.int64), *spans]).astype(np.int64)
    return Stored(np.array([of.order[v] for v in held], np.int64), np.array(bits), np.array(head), (place, owner))


def lengths(numbers: I64) -> I64:
    """Bytes of each number as protobuf writes it: seven bits a byte."""
    return 1 + np.searchsorted(LONGER, numbers, side="right")
