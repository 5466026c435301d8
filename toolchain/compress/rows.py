"""Where the samples of a batch lie in a value: along one axis, k rows of it for each sample."""

from __future__ import annotations

import math

import onnx_ir as ir

from toolchain.model import BATCH
from toolchain.ops.table import dims, is_view


def along_batch(value: ir.Value) -> int:
    """That axis of a value that has one."""
    axis = batch_axis(value)
    assert axis is not None
    return axis


def batch_axis(value: ir.Value) -> int | None:
    """The one axis that grows with the batch, [.., k·N, ..], or None."""
    found = [] if value.shape is None else [a for a, d in enumerate(dims(value)) if d < 0]
    return found[0] if len(found) == 1 else None


def per_sample(value: ir.Value) -> int:
    """Rows k of each sample along that axis."""
    return -dims(value)[along_batch(value)]


def is_by_sample(value: ir.Value) -> bool:
    """Whether the rows of each sample lie side by side: windows [N·k, …] do, the [T·N, d] of a [T, N, d] do not."""
    while True:
        axis, node = batch_axis(value), value.producer()
        if axis is None:
            return False
        if per_sample(value) == 1:
            return True
        moving = [v for v in node.inputs if v is not None and v.const_value is None] if node is not None else []
        moving = [v for v in moving if v.shape is not None and any(d < 0 for d in dims(v))]
        if node is None or not moving:
            return False
        if is_view(node):  # it may not carry a whole axis past the samples
            before = batch_axis(moving[0])
            if before is None or math.prod(dims(moving[0])[:before]) != math.prod(dims(value)[:axis]):
                return False
        if len(moving) > 1:
            return all(map(is_by_sample, moving))
        value = moving[0]


def renamed(shape: ir.Shape | None, batch: str) -> ir.Shape | None:
    """The same shape with the batch called otherwise: k*N becomes k*batch."""
    return (
        None if shape is None else ir.Shape([d if isinstance(d, int) else str(d).replace(BATCH, batch) for d in shape])
    )
