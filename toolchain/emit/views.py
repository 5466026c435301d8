"""File tensors, file ops, and the views through which rules see them; the page on which they are collected."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from toolchain.emit.layout import Dims, Layout, plain
from toolchain.errors import Unsupported
from toolchain.ops.table import constant, dims, where

ACTIVATION = "fusedActivationFunction"
CHANNEL_AXIS = {  # of the weights, which are input 1; a bias is the last
    **{"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "CONV_3D": 4, "FULLY_CONNECTED": 0},
    **{"TRANSPOSE_CONV": 0, "CONV_3D_TRANSPOSE": 3},
}
FILE_TYPES = {
    **{ir.DataType.FLOAT: np.float32, ir.DataType.BOOL: np.bool_, ir.DataType.INT64: np.int32},
    **{ir.DataType.INT32: np.int32, ir.DataType.INT8: np.int8, ir.DataType.UINT8: np.uint8},
}


@dataclass(eq=False)
class Tensor:
    """A file tensor: a constant if it has an array (held in float64 while more is folded into it).

    stem  what it is called, if no ONNX value is at hand and no other tensor is called so
    """

    shape: Dims
    dtype: Any
    stem: str = ""
    array: NDArray[Any] | None = None
    producer: Operation | None = None
    values: list[ir.Value] = field(default_factory=list[ir.Value])
    readers: int = 0


@dataclass(eq=False)
class Operation:
    """A file op; options have the schema's names, enumerated ones as words."""

    code: str
    inputs: list[Tensor]
    output: Tensor
    options: dict[str, Any]


@dataclass(frozen=True, eq=False)
class View:
    """A file tensor as the holder of an ONNX value with these dimensions."""

    tensor: Tensor
    dims: Dims
    layout: Layout


class Page:
    """Views of values, and the ops that were applied to them."""

    def __init__(self, graph: ir.Graph, batch: int, layouts: dict[str, Layout], is_micro: bool = False) -> None:
        self.graph, self.batch, self.is_micro = graph, batch, is_micro
        self.operations: list[Operation] = []
        self.views: dict[ir.Value, View] = {}
        self.copies: defaultdict[Tensor, list[tuple[View, View]]] = defaultdict(list)
        self.stem = ""
        for value in graph.inputs:
            layout = layouts.get(str(value.name), plain(len(self.dims(value))))
            self.give(value, View(Tensor(layout.shape(self.dims(value)), self.dtype(value)), self.dims(value), layout))
        self.inputs = dict(self.views)

    def refuse(self, node: ir.Node, what: str, way_out: str) -> NoReturn:
        """Say which node cannot be emitted, why, and what to do."""
        raise Unsupported(f"{what}; it cannot be emitted as TFLite", where(node), way_out)

    def dims(self, value: ir.Value | None) -> Dims:
        """ONNX dimensions with the batch filled in."""
        return tuple(d if d >= 0 else -d * self.batch for d in dims(value))

    def dtype(self, value: ir.Value) -> Any:
        """The file's type for a value: 64-bit integers become 32-bit ones."""
        if value.dtype is None or value.dtype not in FILE_TYPES:
            what = f"is {value.dtype}, which TFLite kernels do not take" if value.dtype else "has no type"
            raise Unsupported(what, f"value '{value.name}'", "Convert the model to float32")
        return FILE_TYPES[value.dtype]

    def parameter(self, node: ir.Node, i: int) -> NDArray[Any] | None:
        """Input i as an array, None where it is left out; refuses a computed one."""
        value = node.inputs[i] if i < len(node.inputs) else None
        array = constant(value)
        if value is not None and array is None:
            self.refuse(node, f"computes its input {i} ('{value.name}')", "Make it an initializer")
        return array

    def constant(self, array: ArrayLike, name: str = "") -> Tensor:
        """A constant as it lies in the file."""
        array = np.asarray(array)
        dtype = {"f": np.float32, "i": np.int32, "u": np.uint8, "b": np.bool_}[array.dtype.kind]
        return Tensor(array.shape, dtype, name or f"{self.stem}/constant", array)

    def beside(self, array: NDArray[Any], view: View) -> NDArray[Any]:
        """A constant that broadcasts to a view, as it lies beside it in the file."""
        return view.layout.arranged(array.reshape((1,) * (len(view.dims) - array.ndim) + array.shape))

    def constant_beside(self, array: NDArray[Any], view: View) -> View:
        """The same as a view."""
        shape = (1,) * (len(view.dims) - array.ndim) + array.shape
        return View(self.constant(self.beside(array, view)), shape, view.layout)

    def give(self, value: ir.Value, view: View) -> None:
        """This view is the value."""
        view.tensor.values.append(value)
        self.views[value] = view

    def op(
        self,
        code: str,
        *inputs: View | Tensor | ArrayLike,
        dims: Dims | None = None,
        layout: Layout | None = None,
        dtype: Any = None,
        **options: Any,
    ) -> View:
        """Apply a file op; the result has the dimensions, layout and type of the first view unless told otherwise."""
        first = next(i for i in inputs if isinstance(i, View))
        dims, layout = first.dims if dims is None else dims, layout or first.layout
        read = [i.tensor if isinstance(i, View) else i if isinstance(i, Tensor) else self.constant(i) for i in inputs]
        for tensor in read:
            tensor.readers += 1
        output = Tensor(layout.shape(dims), dtype or first.tensor.dtype, f"{self.stem}/{code.lower()}")
        output.producer = Operation(code, read, output, options)
        self.operations.append(output.producer)
        return View(output, dims, layout)

    def is_private(self, tensor: Tensor, readers: int = 0) -> bool:
        """Whether only the node at hand reads it, beside the ops that are counted."""
        alone = all(len(v.uses()) == 1 and not v.is_graph_output() for v in tensor.values)
        return tensor.readers == readers and bool(tensor.values) and alone


def is_dense(made: Operation) -> bool:
    """Whether each output channel has weights of its own for all input channels."""
    is_grouped = made.code == "CONV_2D" and made.inputs[0].shape[3] != made.inputs[1].shape[3]
    return made.code in ("CONV_2D", "CONV_3D", "FULLY_CONNECTED") and not is_grouped


def parameters(made: Operation) -> tuple[NDArray[Any], NDArray[Any]]:
    """Weights and bias of an op; the weights with their output channels in front."""
    weights, bias = made.inputs[1].array, made.inputs[-1].array
    assert weights is not None and bias is not None
    return np.moveaxis(weights, CHANNEL_AXIS[made.code], 0), bias


def hold(made: Operation, weights: NDArray[Any], bias: NDArray[Any]) -> None:
    """Give an op other weights, with their output channels in front, and another bias."""
    inputs, weights = made.inputs, np.moveaxis(weights, 0, CHANNEL_AXIS[made.code])
    kept = [Tensor(a.shape, np.float32, t.stem, a) for a, t in ((weights, inputs[1]), (bias, inputs[-1]))]
    made.inputs = [inputs[0], kept[0], *inputs[2:-1], kept[1]]
