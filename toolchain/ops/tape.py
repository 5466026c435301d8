"""Emits ONNX nodes: what gradient rules write on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike

from toolchain.model import parameter
from toolchain.ops.table import dims

PREFIX = "jettison/"  # in front of every generated name: networks in the wild have tensors called `w`


class Tape:
    """Nodes and constants in order of emission, for K cotangents at once.

    seeds   K, the length of the leading axis of every cotangent [K, *s]
    needs   says of an activation whether a cotangent has to reach it
    steady  what is computed from constants alone; such a cotangent has the one row [K, 1, *s] that all samples share
    scales  of a product of a steady cotangent and a slope [N, *s]: these two
    """

    def __init__(self, seeds: int, needs: Callable[[ir.Value], bool], stem: str = "g") -> None:
        self.seeds, self.needs, self.stem = seeds, needs, stem
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self.steady: set[ir.Value] = set()
        self.scales: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Emit a node with one output and return it."""
        return self.ops(op_type, 1, *inputs, **attributes)[0]

    def ops(self, op_type: str, outputs: int, *inputs: ir.Value | None, **attributes: Any) -> Sequence[ir.Value]:
        """Emit a node and return all of its outputs."""
        name = f"{PREFIX}{self.stem}{len(self.nodes)}"
        node = ir.node(op_type, inputs, attributes=attributes, num_outputs=outputs, name=name)
        for i, value in enumerate(node.outputs):
            value.name = f"{name}:{i}"
        self.nodes.append(node)
        if all(v is None or v in self.steady or v.const_value is not None for v in inputs):
            self.steady.update(node.outputs)
        return node.outputs

    def constant(self, array: ArrayLike, dtype: Any) -> ir.Value:
        """A constant of this graph."""
        value = parameter(f"{PREFIX}{self.stem}c{len(self.constants)}", np.asarray(array, dtype))
        self.constants.append(value)
        return value

    def f32(self, array: ArrayLike) -> ir.Value:
        """A float32 constant."""
        return self.constant(array, np.float32)

    def i64(self, array: ArrayLike) -> ir.Value:
        """An int64 constant."""
        return self.constant(array, np.int64)

    def shaped(self, cotangent: ir.Value, value: ir.Value) -> ir.Value:
        """Reshape a cotangent to [K, *shape of value]."""
        return self.op("Reshape", cotangent, self.i64([self.seeds, *(max(d, -1) for d in dims(value))]))

    def rows(self, cotangent: ir.Value, value: ir.Value) -> ir.Value:
        """Fold the K cotangents of a value [N, *s] into its rows: [K·N, *s]."""
        return self.op("Reshape", cotangent, self.i64([-1, *dims(value)[1:]]))

    def shared(self, cotangent: ArrayLike) -> ir.Value:
        """A constant cotangent [K, 1, *s] that all rows share."""
        value = self.f32(cotangent)
        self.steady.add(value)
        return value

    def scaled(self, cotangent: ir.Value, slope: ir.Value) -> ir.Value:
        """A cotangent times the slope of each element."""
        product = self.op("Mul", cotangent, slope)
        if cotangent in self.steady and product not in self.steady:
            self.scales[product] = cotangent, slope
        return product

    def every(self, cotangent: ir.Value, value: ir.Value) -> ir.Value:
        """A cotangent with a row for each sample of its value, steady or not."""
        return self.op("Expand", cotangent, self.op("Shape", value)) if cotangent in self.steady else cotangent

    def unbroadcast(self, cotangent: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
        """Sum a cotangent of y down to the shape of x, which y broadcasts."""
        sx, sy = dims(x), dims(y)
        padded = (1,) * (len(sy) - len(sx)) + sx
        axes = [a - len(sy) for a, (dx, dy) in enumerate(zip(padded, sy, strict=True)) if dx == 1 and dy != 1]
        axes = sorted({*axes, *(a - len(sy) for a in range(len(sy) - len(sx)))})
        if any(sy[a] < 0 for a in axes):
            cotangent = self.every(cotangent, y)
        if axes:
            cotangent = self.op("ReduceSum", cotangent, self.i64(axes), keepdims=1)
        return self.shaped(cotangent, x) if len(sx) != len(sy) else cotangent
