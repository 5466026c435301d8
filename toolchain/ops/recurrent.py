"""LSTM, GRU and RNN: a hidden unit owns a row of every gate, a column of the recurrence and a place in every state.

Within the op a hidden unit reaches the others through the columns of R alone: that is where a mask goes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.ops.pooling import is_used
from toolchain.ops.table import Keep, Shape, argument, attribute, constant, dims, op, operand
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


# ---- TFLite --------------------------------------------------------------------------------------------------------
# Unrolled. The file's own sequence ops keep their state in variable tensors from one invocation to the next: the second
# sample would silently start where the first one ended.
MOST_STEPS = 512  # a file has some 15 ops for each
LITE_FUNCTIONS = {"Sigmoid": "LOGISTIC", "Tanh": "TANH", "Relu": "RELU"}
FUNCTIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}  # ONNX's defaults


@dataclass(frozen=True, eq=False)
class Cell:
    """One direction of a recurrent node; states are views [batch, hidden], or arrays where they are known.

    inputs     what the inputs of all steps add to the gates, a view [steps·batch, gates·hidden], biases included
    weights    [gates·hidden, hidden]
    bias       of the recurrence alone, [gates·hidden]: where it is not in `inputs`
    peepholes  [3, hidden] of an LSTM's input, output and forget gate
    """

    w: Any
    inputs: Any
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    functions: list[str]
    peepholes: NDArray[np.float32] | None
    tensors: dict[tuple[int, int], tuple[Any, Any]] = field(default_factory=dict[tuple[int, int], tuple[Any, Any]])

    def gate(self, of: Any, k: int, count: int = 1) -> Any:
        """The part of [batch, gates·hidden] that belongs to some gates."""
        hidden = self.weights.shape[1]
        return self.w.sliced(of, 1, k * hidden, count * hidden)

    def recurred(self, h: Any, first: int, last: int) -> Any:
        """What a state adds to gates from `first` to `last`; the weights are in the file once for all steps."""
        rows = slice(first * self.weights.shape[1], last * self.weights.shape[1])
        weights, bias = self.weights[rows], self.bias[rows]
        if isinstance(h, np.ndarray):
            return (h @ weights.T + bias).astype(np.float32)
        made = self.tensors.setdefault((first, last), (self.w.constant(weights), self.w.constant(bias)))
        return self.w.op("FULLY_CONNECTED", h, *made, dims=(h.dims[0], len(weights)), keepNumDims=False)

    def function(self, i: int, x: Any) -> Any:
        """One of the activations."""
        return self.w.op(LITE_FUNCTIONS[self.functions[i]], x)

    def sum(self, x: Any, y: Any) -> Any:
        """x + y; a state of zeros adds nothing."""
        return x if isinstance(y, np.ndarray) and not y.any() else self.w.op("ADD", x, y)

    def looked(self, gate: Any, k: int, c: Any) -> Any:
        """A gate that also looks at the cell, if there are peepholes."""
        if self.peepholes is None:
            return gate
        seen = self.peepholes[k]
        return self.sum(gate, c * seen if isinstance(c, np.ndarray) else self.w.op("MUL", c, seen))


def lstm_step(cell: Cell, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """Gates i, o, f, c: c ← f·c + i·c', h ← o·tanh(c)."""
    gates = cell.sum(x, cell.recurred(h, 0, 4))
    entry, out, keep, new = (cell.gate(gates, k) for k in range(4))
    entry, keep = (cell.function(0, cell.looked(g, k, c)) for g, k in ((entry, 0), (keep, 2)))
    new = cell.w.op("MUL", entry, cell.function(1, new))
    is_zero = isinstance(c, np.ndarray) and not c.any()
    c = new if is_zero else cell.w.op("ADD", cell.w.op("MUL", keep, c), new)
    out = cell.function(0, cell.looked(out, 1, c))
    return cell.w.op("MUL", out, cell.function(2, c)), c


def gru_step(is_reset_late: bool, cell: Cell, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """Gates z, r, h: h ← h' + z·(h − h'); r meets the state before or (linear_before_reset) behind its weights."""
    gates = cell.sum(cell.gate(x, 0, 2), cell.recurred(h, 0, 2))
    update, reset = (cell.function(0, cell.gate(gates, k)) for k in range(2))
    if is_reset_late:
        seen = cell.w.op("MUL", reset, cell.recurred(h, 2, 3))
    else:
        seen = cell.recurred(cell.w.op("MUL", reset, h), 2, 3)
    new = cell.function(1, cell.sum(cell.gate(x, 2), seen))
    return cell.w.op(
        "ADD", new, cell.w.op("MUL", update, cell.w.op("SUB", h, new, dims=new.dims, layout=new.layout))
    ), c


def rnn_step(cell: Cell, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """h ← tanh(x + R·h)."""
    return cell.function(0, cell.sum(x, cell.recurred(h, 0, 1))), c


def refused(w: Any, n: ir.Node, steps: int) -> None:
    """Say what cannot be unrolled."""
    lengths, functions = w.parameter(n, 4), attribute(n, "activations") or FUNCTIONS[n.op_type]
    if steps < 0 or steps > MOST_STEPS:
        w.refuse(n, f"has {steps if steps > 0 else 'as many'} steps", f"Export with {MOST_STEPS} steps at most")
    if lengths is not None and (lengths != steps).any():
        w.refuse(n, "has sequences of several lengths", "Export without sequence_lens")
    if not set(functions) <= LITE_FUNCTIONS.keys() or attribute(n, "clip") or attribute(n, "input_forget", 0):
        w.refuse(n, "has a clip, coupled gates or rare activations", "Export with ONNX's default cell")


def initial(w: Any, n: ir.Node, i: int, d: int, size: tuple[int, int]) -> Any:
    """State of a direction before the first step."""
    value = argument(n, i)
    if value is None:
        return np.zeros(size, np.float32)
    turn = [1, 0, 2] if attribute(n, "layout", 0) else [0, 1, 2]
    array = constant(value)
    if array is not None:
        return np.broadcast_to(array.transpose(turn)[d], size)
    view = w.sliced(w.transposed(w.input(value), turn), 0, d, 1)
    return w.reshaped(w.relaid(view, w.plain(3)), size, w.plain(2))


def direction(w: Any, n: ir.Node, x: Any, batch: int, d: int, is_backward: bool) -> tuple[list[Any], Any, Any]:
    """States of each step, in the order of time, and the last state and cell; x is [steps·batch, features]."""
    weights, recurrence, peepholes = (w.parameter(n, i) for i in (1, 2, 7))
    count, hidden = GATES[n.op_type], recurrence.shape[2]
    biases = w.parameter(n, 3)
    given, own = np.zeros((2, count * hidden), np.float32) if biases is None else np.split(biases[d], 2)
    is_late = n.op_type == "GRU" and bool(attribute(n, "linear_before_reset", 0))
    is_alone = np.arange(count * hidden) >= (2 * hidden if is_late else count * hidden)
    inputs = w.fully_connected(x, weights[d], given + np.where(is_alone, 0, own))
    each = len(FUNCTIONS[n.op_type])
    functions = (attribute(n, "activations") or FUNCTIONS[n.op_type] * 2)[d * each : (d + 1) * each]
    seen = None if peepholes is None else peepholes[d].reshape(3, hidden)
    cell = Cell(w, inputs, recurrence[d], np.where(is_alone, own, 0).astype(np.float32), functions, seen)
    step = {"LSTM": lstm_step, "GRU": partial(gru_step, is_late), "RNN": rnn_step}[n.op_type]
    h, c = (initial(w, n, i, d, (batch, hidden)) for i in (5, 6))
    states: list[Any] = []
    times = range(x.dims[0] // batch)
    for t in reversed(times) if is_backward else times:
        h, c = step(cell, w.sliced(inputs, 0, t * batch, batch), h, c)
        states.append(h)
    return states[::-1] if is_backward else states, h, c


def recurrent_lite(w: Any, n: ir.Node) -> None:
    """Step by step; directions stand side by side in the file, in front of the hidden units."""
    x, is_batch_first = w.input(n.inputs[0]), bool(attribute(n, "layout", 0))
    x = w.transposed(x, [1, 0, 2]) if is_batch_first else x
    refused(w, n, dims(n.inputs[0])[int(is_batch_first)])
    x = w.relaid(x, w.plain(3).ordered(2, x.layout.orders.get(2)))
    steps, batch, features = x.dims
    rows = w.reshaped(x, (steps * batch, features), w.plain(2).ordered(1, x.layout.orders.get(2)))
    kind = attribute(n, "direction", "forward")
    backward = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[kind]
    runs = [direction(w, n, rows, batch, d, is_back) for d, is_back in enumerate(backward)]
    hidden = runs[0][1].dims[1]
    if is_used(n.outputs[0]):
        sides = [w.concatenated(states, 0) for states, _, _ in runs]
        y = w.reshaped(w.concatenated(sides, 1), (steps, batch, len(runs), hidden), w.plain(4))
        w.give(n.outputs[0], w.transposed(y, [1, 0, 2, 3] if is_batch_first else [0, 2, 1, 3]))
    for value, last in zip(n.outputs[1:], zip(*(run[1:] for run in runs), strict=True), strict=False):
        if is_used(value):
            y = w.reshaped(w.concatenated(list(last), 1), (batch, len(runs), hidden), w.plain(3))
            w.give(value, y if is_batch_first else w.transposed(y, [1, 0, 2]))


for _name in GATES:
    op(
        _name,
        channels=recurrent_channels,
        macs=recurrent_macs,
        contracts=lambda n: [] if attribute(n, "layout", 0) else [(0, 2), (2, 2)],
        resize=recurrent_resize,
        lite=recurrent_lite,
    )
