"""A TFLite file as chunks of bytes: the tables first, then every buffer where it lies in memory, at a multiple of 16.

Weights are never copied into flatbuffers' builder, whose object API copies a buffer number by number and grows by
doubling: the tables are built as if the weights stood behind them, and the weights are written behind them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 16  # what kernels on microcontrollers and in XNNPACK ask of a weight's address
LENGTH = struct.Struct("<I")  # in front of a vector's bytes
Chunk = bytes | memoryview


class Buffer:
    """Takes the place of a schema.BufferT; None is the empty one."""

    def __init__(self, array: NDArray[Any] | None = None) -> None:
        self.bytes = None if array is None else np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self.at = 0

    def Pack(self, builder: Any) -> int:
        """Write the table; flatbuffers' object API calls this. Offsets count from the end of the tables."""
        from ai_edge_litert import schema_py_generated as schema

        schema.BufferStart(builder)
        if self.bytes is not None:
            schema.BufferAddData(builder, -self.at)
        return schema.BufferEnd(builder)


def laid_out(buffers: Iterable[Buffer]) -> list[Chunk]:
    """The buffers' bytes with their lengths and gaps, each of which then knows where it stands."""
    chunks: list[Chunk] = []
    end = 0
    for buffer in buffers:
        if buffer.bytes is not None:
            gap = -(end + LENGTH.size) % ALIGNMENT
            buffer.at = end + gap
            chunks += [bytes(gap) + LENGTH.pack(buffer.bytes.size), buffer.bytes.data]
            end = buffer.at + LENGTH.size + buffer.bytes.size
    return chunks


def serialised(file: Any) -> Sequence[Chunk]:
    """The chunks of a schema.ModelT whose buffers are `Buffer`s, in order."""
    import flatbuffers

    weights = laid_out(file.buffers)
    builder = flatbuffers.Builder(1 << 16)
    builder.Prep(ALIGNMENT, 0)  # the tables end at a multiple of 16, so that what follows is aligned by itself
    builder.Finish(file.Pack(builder), b"TFL3")
    return [bytes(builder.Output()), *weights]
