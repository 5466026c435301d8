"""LSTM, GRU and RNN: a hidden unit owns a row of every gate, a column of the recurrence and a place in every state.

Within the op a hidden unit reaches the others through the columns of R alone: that is where a mask goes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from toolchain.ops.table import Keep, Shape, argument, attribute, dims, op, operand
from toolchain.ops.units import Units

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def states(n: ir.Node) -> Iterator[tuple[ir.Value, int]]:
    """Values with an axis of hidden units once, the axis, [..., batch, hidden]."""
    for value in (argument(n, 5), argument(n, 6), *n.outputs):
        if value is not None and value.shape is not None:
            yield value, len(dims(value)) - 1


def gates(n: ir.Node) -> Iterator[tuple[ir.Value, int]]:
    """Parameters whose axis 1 is hidden units once for each gate, and how many times."""
    for i, count in ((1, GATES[n.op_type]), (2, GATES[n.op_type]), (3, 2 * GATES[n.op_type]), (7, 3)):
        value = argument(n, i)
        if value is not None:
            yield value, count


def recurrent_channels(n: ir.Node, u: Units) -> None:
    """Hidden units are R's columns, features W's; directions and steps stay. Both directions lose the same unit."""
    x, w, r = (operand(n, i) for i in range(3))
    if attribute(n, "layout", 0):
        return
    u.tie(u[x, 2], u[w, 2])
    for value, count in gates(n):
        u.tie(u[value, 1], np.tile(u[r, 2], count))
    for value, axis in states(n):
        u.tie(u[value, axis], u[r, 2])
    lengths = argument(n, 4)
    for value, axis in (*((v, a - 1) for v, a in states(n)), *([(lengths, 0)] if lengths is not None else [])):
        if dims(value)[axis] == dims(x)[1]:
            u.tie(u[value, axis], u[x, 1])


def recurrent_resize(n: ir.Node, keep: Keep) -> None:
    """As many hidden units as are left."""
    n.attributes["hidden_size"] = ir.AttrInt64("hidden_size", int(keep(operand(n, 2), 2).sum()))


def recurrent_macs(n: ir.Node, shape: Shape) -> int:
    """W and R once for each time step."""
    steps = abs(shape(operand(n, 0))[0])
    return steps * sum(math.prod(shape(operand(n, i))) for i in (1, 2))


for _name in GATES:
    op(
        _name,
        channels=recurrent_channels,
        macs=recurrent_macs,
        contracts=lambda n: [] if attribute(n, "layout", 0) else [(0, 2), (2, 2)],
        resize=recurrent_resize,
    )
