"""What attributions add up to: the F_j of Lundstrom et al. 2022, eq. 2, read off the outputs of a network.

A classifier has its softmax outputs and the loss −log p_label. Any other network (several outputs, a map for each
pixel, real values) has its own answer: ½ (y(αh) − y(h))², 0 at α = 1, so that a unit's share says how much of the
answer it brings. That needs no labels.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.compress.rows import along_batch, is_by_sample, per_sample
from toolchain.errors import Unsupported, UsageError
from toolchain.model import BATCH, Model
from toolchain.ops.table import dims
from toolchain.ops.tape import PREFIX, Tape

F64 = NDArray[np.float64]
LABELS = PREFIX + "labels"
TARGETS = ("loss", "classes", "answer")
BOUNDED = ("Sigmoid", "HardSigmoid", "Tanh")  # of several labels at once, or of real values
MOST_MIXED = 32  # classes: mixing takes J² products for each element, two cotangents less save two passes of the tail


@dataclass(frozen=True)
class Seeds:
    """Output cotangents of each row: the samples at every node.

    cotangents  {value: [B, rows, *s]}, or [B, 1, *s] where all rows share them: what is pulled back
    mix         [B, rows, K]: seed k of a row is Σ_b mix_bk · cotangent b; None where the cotangents are the seeds
    """

    cotangents: dict[ir.Value, ir.Value]
    mix: ir.Value | None = None


def objective_of(model: Model, target: str | None = None) -> Objective:
    """Classes for one output of class scores [N, classes], else the deviation of every float output.

    target  "loss", "classes" (softmax outputs too) or "answer" (the deviation), where the choice is not left to us

    Raises UsageError for a target that the network does not have, Unsupported where no output has float values, or none
    sample by sample.
    """
    if target not in (None, *TARGETS):
        raise UsageError(f"unknown target '{target}'", way_out=f"Use one of {', '.join(TARGETS)}")
    outputs = model.graph.outputs
    because = no_scores(outputs)
    if not because and target != "answer":
        return Classes(logits_of(outputs[0]), each=target == "classes")
    if target in ("loss", "classes"):
        raise UsageError(f"there is no target '{target}': {because}", way_out="Use --target answer")
    found = [v for v in outputs if v.dtype is not None and v.dtype.is_floating_point() and v.producer() is not None]
    found = [v for v in found if is_by_sample(v)]
    if not found:
        shapes = ", ".join(f"'{v.name}' {v.shape}" for v in outputs)
        raise Unsupported(
            f"no output has float values sample by sample, as ranking by gradients needs: {shapes}",
            way_out="Use --criterion magnitude",
        )
    return Deviation(tuple(dict.fromkeys(found)))


def no_scores(outputs: Sequence[ir.Value]) -> str:
    """Why the outputs are no class scores; "" where they are."""
    if len(outputs) != 1:
        return f"the network has {len(outputs)} outputs"
    shape, node = dims_or_none(outputs[0]), outputs[0].producer()
    if len(shape) != 2 or shape[0] != -1 or shape[1] < 2:
        return f"output '{outputs[0].name}' {outputs[0].shape} is not [N, classes]"
    if node is not None and node.op_type in BOUNDED:
        return f"output '{outputs[0].name}' comes from {node.op_type}, so it holds no class scores"
    return ""


def dims_or_none(value: ir.Value) -> tuple[int, ...]:
    """The shape with the batch as -1; () where it is not known."""
    return () if value.shape is None else dims(value)


def logits_of(output: ir.Value) -> ir.Value:
    """The value whose softmax is the answer: the output, or what its last softmax reads."""
    node = output.producer()
    while node is not None and node.op_type in ("Identity", "Softmax", "LogSoftmax"):
        inner = node.inputs[0]
        assert inner is not None
        if node.op_type != "Identity":
            return inner
        node = inner.producer()
    return output


@dataclass(frozen=True)
class Classes:
    """The loss −log p_label of logits [N, J], behind the softmax outputs p_j if `each` is asked for."""

    logits: ir.Value
    each: bool = False
    about: ClassVar[str] = "true class of each sample"

    @property
    def values(self) -> tuple[ir.Value, ...]:
        """The logits."""
        return (self.logits,)

    @property
    def classes(self) -> int:
        """J, the number of labels."""
        return dims(self.logits)[1]

    def reached(self, behind: Container[ir.Value]) -> Classes | None:
        """The part that a cut can change."""
        return self if self.logits in behind else None

    @property
    def target(self) -> str:
        """Its name."""
        return "classes" if self.each else "loss"

    @property
    def count(self) -> int:
        """J + 1, or the loss alone."""
        return self.classes + 1 if self.each else 1

    def held(self) -> list[ir.Value]:
        """The labels."""
        return [ir.Value(name=LABELS, shape=ir.Shape([BATCH]), type=ir.TensorType(ir.DataType.INT64))]

    def feed(self, labels: NDArray[np.int64], at_h: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The labels."""
        return {LABELS: labels}

    @property
    def riding(self) -> int:
        """J − 1, or every seed where mixing them would cost more than two of them, or the loss alone."""
        return self.classes - 1 if self.each and self.classes <= MOST_MIXED else self.count

    def cotangents(self, g: Tape, rows: Mapping[ir.Value, ir.Value], held: Sequence[ir.Value]) -> Seeds:
        """p_j(e_j − p) for each class j, then p − y for the loss, where classes are asked for as mixtures of e_m − e_J.

        v = Σ_m v_m (e_m − e_J), m < J, for every v whose elements sum to 0.
        """
        p = g.op("Softmax", rows[self.logits], axis=-1)
        one_hot = g.op("OneHot", held[0], g.i64(self.classes), g.f32([0, 1]), axis=-1)
        loss = g.op("Sub", p, one_hot)
        if not self.each:
            return Seeds({self.logits: g.op("Unsqueeze", loss, g.i64([0]))})
        each, of_loss = (g.op("Unsqueeze", g.op("Transpose", v, perm=[1, 0]), g.i64([2])) for v in (p, loss))
        unit = np.eye(self.classes)[:, None]
        of_classes = g.op("Mul", p, g.op("Sub", g.f32(unit), each))
        elements = g.op("Concat", of_classes, of_loss, axis=2)  # [J, rows, K]
        if self.classes > MOST_MIXED:
            return Seeds({self.logits: g.op("Transpose", elements, perm=[2, 1, 0])})
        differences = g.shared(unit[:-1] - unit[-1])
        return Seeds({self.logits: differences}, g.op("Slice", elements, g.i64([0]), g.i64([self.classes - 1])))

    def change(self, at_h: Sequence[NDArray[Any]], at_zero: Sequence[NDArray[Any]], labels: NDArray[np.int64]) -> F64:
        """In float64, whatever the network's softmax rounds to."""
        zero = np.broadcast_to(at_zero[0], at_h[0].shape)
        return probabilities(at_h[0], labels, self.each) - probabilities(zero, labels, self.each)


def probabilities(logits: NDArray[Any], labels: NDArray[np.int64], per_class: bool) -> F64:
    """Softmax outputs if they are asked for, then −log p_label, [j, n]."""
    z = logits.astype(np.float64)
    log_p = z - z.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    loss = -log_p[np.arange(len(labels)), labels]
    return np.vstack([np.exp(log_p).T, loss]) if per_class else loss[None]


@dataclass(frozen=True)
class Deviation:
    """Σ over outputs of the mean of ½ (y(αh) − y(h))²: how far the answer is from the network's own."""

    values: tuple[ir.Value, ...]
    classes: ClassVar[int] = 1
    target: ClassVar[str] = "answer"
    count: ClassVar[int] = 1
    riding: ClassVar[int] = 1
    about: ClassVar[str] = "the network's own answer"

    def reached(self, behind: Container[ir.Value]) -> Deviation | None:
        """The part that a cut can change."""
        found = tuple(v for v in self.values if v in behind)
        return Deviation(found) if found else None

    def held(self) -> list[ir.Value]:
        """The values at h."""
        return [ir.Value(name=reference(v), shape=v.shape, type=ir.TensorType(ir.DataType.FLOAT)) for v in self.values]

    def feed(self, labels: NDArray[np.int64], at_h: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The values at h."""
        return {reference(v): y for v, y in zip(self.values, at_h, strict=True)}

    def cotangents(self, g: Tape, rows: Mapping[ir.Value, ir.Value], held: Sequence[ir.Value]) -> Seeds:
        """(y(αh) − y(h)) / elements."""
        found = {}
        for v, y in zip(self.values, held, strict=True):
            share = g.op("Mul", g.op("Sub", rows[v], y), g.f32(1 / elements(v)))
            found[v] = g.op("Unsqueeze", share, g.i64([0]))
        return Seeds(found)

    def change(self, at_h: Sequence[NDArray[Any]], at_zero: Sequence[NDArray[Any]], labels: NDArray[np.int64]) -> F64:
        """It is 0 at h."""
        total: F64 = np.zeros(1)
        for v, y, zero in zip(self.values, at_h, at_zero, strict=True):
            axis, k = along_batch(v), per_sample(v)
            difference = np.moveaxis(np.subtract(zero, y, dtype=np.float64), axis, 0)
            total = total - 0.5 * (difference**2).reshape(len(difference) // k, -1).mean(axis=1)
        return total[None]


def reference(value: ir.Value) -> str:
    """The graph input that holds a value at h."""
    return f"{PREFIX}reference/{value.name}"


def elements(value: ir.Value) -> int:
    """Of one sample."""
    return abs(math.prod(dims(value)))


Objective = Classes | Deviation
