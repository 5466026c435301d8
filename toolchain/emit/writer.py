"""The words in which an op's `lite` rule writes TFLite.

A rule takes views of its inputs, applies file ops to them, and gives its output a view:
`w.give(n.outputs[0], w.op("LOGISTIC", w.input(n.inputs[0])))`. A view is a file tensor with the layout in which it
holds its ONNX value. What is true of the format and not of one ONNX op happens here: layouts, padding, fused
activations, folding into weights.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from toolchain.emit.kernels import JOINED
from toolchain.emit.layout import Dims, Layout, channels_last, image, plain, reshaped
from toolchain.errors import Unsupported
from toolchain.ops.pooling import Window, borders, is_disputed, planar
from toolchain.ops.shape import reshape_runs
from toolchain.ops.table import constant, dims, find, where

ACTIVATION = "fusedActivationFunction"
CHANNEL_AXIS = {  # of the weights, which are input 1; a bias is the last
    **{"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "CONV_3D": 4, "FULLY_CONNECTED": 0},
    **{"TRANSPOSE_CONV": 0, "CONV_3D_TRANSPOSE": 3},
}
STRIDES = ("strideD", "strideH", "strideW")
DILATIONS = ("dilationDFactor", "dilationHFactor", "dilationWFactor")
FUSES = {
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "CONV_3D",
    "FULLY_CONNECTED",
    "ADD",
    "SUB",
    "MUL",
    "DIV",
    "MAX_POOL_2D",
    "AVERAGE_POOL_2D",
}
KEEPS_SIGN = {"MAX_POOL_2D", "AVERAGE_POOL_2D", "CONCATENATION", "RESHAPE", "TRANSPOSE", "PAD", "GATHER"}
RANKS = {  # axes along which kernels broadcast, 4 where not named
    **dict.fromkeys(("ADD", "MUL"), 6),
    **dict.fromkeys(("SUB", "DIV", "MAXIMUM", "MINIMUM", "SELECT_V2", "BATCH_MATMUL"), 5),
}
MOST_SLICED = 5  # axes that LiteRT's SLICE and STRIDED_SLICE take
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


class Writer:
    """Walks a graph and collects file ops; after `write`, `operations` and `views` hold the result.

    batch    what a free batch becomes: files have static shapes
    layouts  layout of each graph input that is not as in ONNX
    is_micro a rule with a choice takes ops that TFLite Micro has
    """

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

    def write(self) -> None:
        """Emit every node; raises Unsupported for a node without a rule."""
        for node in self.graph:
            entry = find(node)
            self.stem = f"{node.outputs[0].name}"
            if entry is None or entry.lite is None:
                self.refuse(node, "has no TFLite rule", "Export to onnx only, or replace the op before")
            if any(v is not None and v.shape is None for v in (*node.inputs, *node.outputs[:1])):
                self.refuse(node, "has a shape that depends on the data", "Export with static shapes")
            entry.lite(self, node)

    def refuse(self, node: ir.Node, what: str, way_out: str) -> NoReturn:
        """Say which node cannot be emitted, why, and what to do."""
        raise Unsupported(f"{what}; it cannot be emitted as TFLite", where(node), way_out)

    # ---- values ----------------------------------------------------------------------------------------------------
    def dims(self, value: ir.Value | None) -> Dims:
        """ONNX dimensions with the batch filled in."""
        return tuple(d if d >= 0 else -d * self.batch for d in dims(value))

    def dtype(self, value: ir.Value) -> Any:
        """The file's type for a value: 64-bit integers become 32-bit ones."""
        if value.dtype is None or value.dtype not in FILE_TYPES:
            what = f"is {value.dtype}, which TFLite kernels do not take" if value.dtype else "has no type"
            raise Unsupported(what, f"value '{value.name}'", "Convert the model to float32")
        return FILE_TYPES[value.dtype]

    def input(self, value: ir.Value | None, layout: Layout | None = None) -> View:
        """A value in the layout it has, or in the one asked for."""
        assert value is not None
        array = constant(value)
        if array is not None:
            layout = layout or plain(array.ndim)
            return View(self.constant(layout.arranged(array), str(value.name)), self.dims(value), layout)
        return self.views[value] if layout is None else self.relaid(self.views[value], layout)

    def image(self, node: ir.Node) -> View:
        """Input 0 channels last, as an image [N, H, W, C] or a volume; a signal [N, C, L] gets the height 1."""
        rank = len(self.dims(node.inputs[0]))
        if rank not in (3, 4, 5):
            self.refuse(node, f"has {rank - 2} spatial axes", "TFLite's windows have 1 to 3")
        return self.input(node.inputs[0], image(rank))

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

    # ---- ops -------------------------------------------------------------------------------------------------------
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

    def unary(self, node: ir.Node, code: str, **options: Any) -> None:
        """An elementwise op of one input."""
        self.give(node.outputs[0], self.op(code, self.input(node.inputs[0]), **options))

    def binary(self, node: ir.Node, code: str, **options: Any) -> None:
        """An elementwise op of all inputs, with ONNX's broadcasting."""
        y = node.outputs[0]
        self.give(y, self.elementwise(code, *self.sides(node), dtype=self.dtype(y), **options))

    def sides(self, node: ir.Node) -> list[View]:
        """The inputs with the output's axes, in the layout of the largest that is computed."""
        rank = len(self.dims(node.outputs[0]))
        computed = [v for v in node.inputs if constant(v) is None] or node.inputs
        leader = self.input(max(computed, key=lambda v: math.prod(self.dims(v))))
        layout = self.lifted(leader, rank)
        return [self.broadcast(v, layout, rank) for v in node.inputs]

    def elementwise(self, code: str, *operands: View | ArrayLike, dtype: Any = None, **options: Any) -> View:
        """An op of views that have the same axes in the same places, each perhaps 1 where others have more.

        Kernels broadcast up to RANKS; axes that broadcast alike are joined where there are more. Arrays broadcast to
        the first view.
        """
        first = next(o for o in operands if isinstance(o, View))
        views = [o if isinstance(o, View) else self.constant_beside(np.asarray(o), first) for o in operands]
        dims = tuple(int(d) for d in np.broadcast_shapes(*(v.dims for v in views)))
        orders = {a: o for v in views for a, o in v.layout.orders.items()}
        layout = Layout(first.layout.axes, orders)
        given: dict[str, Any] = {"dtype": dtype or first.tensor.dtype, **options}
        shapes = [v.tensor.shape for v in views]
        if len(set(shapes)) == 1 or len(shapes[0]) <= RANKS.get(code, 4):
            return self.op(code, *views, dims=dims, layout=layout, **given)
        joined = runs_alike(shapes)
        if len(joined[0]) > RANKS.get(code, 4):
            what = f"{code} broadcasts along {len(joined[0])} axes in turn, kernels along {RANKS.get(code, 4)}"
            raise Unsupported(what, f"value '{self.stem}'", "Give the smaller value fewer axes")
        flat = plain(len(joined[0]))
        parts = [self.reshaped(v, s, flat) for v, s in zip(views, joined, strict=True)]
        size = tuple(int(d) for d in np.broadcast_shapes(*joined))
        return self.reshaped(self.op(code, *parts, dims=size, layout=flat, **given), dims, layout)

    def lifted(self, view: View, rank: int) -> Layout:
        """The layout of a view with unit axes in front up to `rank`."""
        layout = view.layout.lifted(rank - len(view.dims))
        front = [a for a in range(rank) if a not in layout.axes]
        return Layout((*front, *layout.axes), layout.orders)

    def broadcast(self, value: ir.Value | None, layout: Layout, rank: int) -> View:
        """A value with unit axes in front up to `rank`, in a layout of that rank."""
        array = constant(value)
        if value is not None and array is not None:
            array = array.reshape((1,) * (rank - array.ndim) + array.shape)
            return View(self.constant(layout.arranged(array), str(value.name)), array.shape, layout)
        return self.relaid(self.raised(self.input(value), rank), layout)

    def raised(self, view: View, rank: int) -> View:
        """The same with unit axes in front."""
        by = rank - len(view.dims)
        return View(view.tensor, (1,) * by + view.dims, view.layout.lifted(by))

    def fully_connected(self, x: View, weights: NDArray[Any], bias: NDArray[Any] | None, name: str = "") -> View:
        """x [..., K] times weights [M, K]; the columns take the order in which the file holds the K positions."""
        last, m = len(x.dims) - 1, len(weights)
        if x.layout.axes[-1] != last:
            x = self.relaid(x, plain(last + 1))
        order = x.layout.orders.get(last)
        filters = self.constant(weights if order is None else weights.take(order, axis=1), name)
        shift = np.zeros(m, np.float32) if bias is None else bias
        result: dict[str, Any] = {"dims": (*x.dims[:-1], m), "layout": x.layout.ordered(last, None)}
        return self.op("FULLY_CONNECTED", x, filters, shift, **result, keepNumDims=len(x.layout.axes) > 2)

    def over(self, code: str, view: View, gone: set[int], keepdims: bool = True) -> View:
        """A view reduced over ONNX axes."""
        layout = view.layout if keepdims else view.layout.without(gone)
        for axis in gone if keepdims else ():
            layout = layout.ordered(axis, None)
        places = np.array(sorted(view.layout.place(a) for a in gone), np.int32)
        size = tuple(1 if a in gone else d for a, d in enumerate(view.dims) if keepdims or a not in gone)
        return self.op(code, view, places, dims=size, layout=layout, keepDims=keepdims) if gone else view

    def place_of(self, code: str, view: View, axis: int, keepdims: bool) -> View:
        """Where along an ONNX axis an extreme lies."""
        view = self.reordered(view, axis, None)
        size = (*view.dims[:axis], *view.dims[axis + 1 :])
        place, layout = np.array(view.layout.place(axis), np.int32), view.layout.without({axis})
        found = self.op(code, view, place, dims=size, layout=layout, dtype=np.int32, outputType=2)
        return self.reshaped(found, (*view.dims[:axis], 1, *view.dims[axis + 1 :]), view.layout) if keepdims else found

    def concat(self, node: ir.Node, axis: int) -> None:
        """Values side by side along an ONNX axis, in the layout of the largest that is computed."""
        computed = [v for v in node.inputs if constant(v) is None]
        layout = self.input(max(computed, key=lambda v: math.prod(self.dims(v)))).layout.ordered(axis, None)
        parts: list[View] = []
        for value in node.inputs:
            order = None if constant(value) is not None else self.input(value).layout.orders.get(axis)
            parts.append(self.input(value, layout.ordered(axis, order)))
        self.give(node.outputs[0], self.concatenated(parts, axis))

    def concatenated(self, parts: list[View], axis: int) -> View:
        """Views of one layout, but for the order along the axis at which they are joined."""
        if len(parts) == 1:
            return parts[0]
        if self.is_micro and len(parts) > JOINED:
            return self.concatenated([self.concatenated(parts[:JOINED], axis), *parts[JOINED:]], axis)
        order: list[int] = []
        for part in parts:
            own = part.layout.orders.get(axis, range(part.dims[axis]))
            order += [len(order) + p for p in own]
        layout, dims = parts[0].layout.ordered(axis, tuple(order)), list(parts[0].dims)
        dims[axis] = len(order)
        return self.op("CONCATENATION", *parts, dims=tuple(dims), layout=layout, axis=layout.place(axis))

    def picked(self, view: View, axis: int, positions: NDArray[Any]) -> View:
        """ONNX positions along an axis, which then stand in ONNX's order: the file's own order ends here."""
        here = view.layout.orders.get(axis)
        places = positions if here is None else np.argsort(here)[positions]
        return self.gathered(view, axis, places, None)

    def taken(self, view: View, picks: dict[int, NDArray[Any]]) -> View:
        """ONNX positions along axes: one SLICE or STRIDED_SLICE for all that step forward, a GATHER for each other."""
        stepped: dict[int, range] = {}
        for axis, positions in picks.items():
            steps = forward(positions)
            if steps is None or axis in view.layout.orders or len(view.layout.axes) > MOST_SLICED:
                view = self.picked(view, axis, positions)
            elif len(steps) < view.dims[axis]:
                stepped[axis] = steps
        if not stepped:
            return view
        dims = tuple(len(stepped.get(a, range(d))) for a, d in enumerate(view.dims))
        ranges = [
            stepped.get(-1 if a is None else a, range(d))
            for a, d in zip(view.layout.axes, view.tensor.shape, strict=True)
        ]
        begin, step = (np.array([getattr(r, k) for r in ranges], np.int32) for k in ("start", "step"))
        if (step == 1).all():
            return self.op("SLICE", view, begin, np.array(view.layout.shape(dims), np.int32), dims=dims)
        end = np.array([r[-1] + 1 for r in ranges], np.int32)
        masks = dict.fromkeys(("beginMask", "endMask", "ellipsisMask", "newAxisMask", "shrinkAxisMask"), 0)
        return self.op("STRIDED_SLICE", view, begin, end, step, dims=dims, **masks)

    def sliced(self, view: View, axis: int, begin: int, size: int) -> View:
        """`size` positions along an ONNX axis."""
        return self.taken(view, {axis: np.arange(begin, begin + size)})

    def expanded(self, value: ir.Value | None, dims: Dims) -> View:
        """A value repeated to these dimensions, by ONNX's rule of broadcasting."""
        array = constant(value)
        if array is not None:
            return View(self.constant(np.broadcast_to(array, dims)), dims, plain(len(dims)))
        view = self.input(value)
        layout = self.lifted(view, len(dims))
        view = self.broadcast(value, layout, len(dims))
        if view.dims == dims:
            return view
        return self.op("BROADCAST_TO", view, np.array(layout.shape(dims), np.int32), dims=dims)

    def tiled(self, view: View, repeats: list[int]) -> View:
        """The value side by side with itself, so often along each ONNX axis."""
        if self.is_micro:  # it has no TILE
            for axis, times in enumerate(repeats):
                view = self.concatenated([view] * times, axis)
            return view
        layout = view.layout
        for axis, order in view.layout.orders.items():
            size = len(order)
            layout = layout.ordered(axis, tuple(o + k * size for k in range(repeats[axis]) for o in order))
        dims = tuple(d * r for d, r in zip(view.dims, repeats, strict=True))
        table = np.array([1 if a is None else repeats[a] for a in layout.axes], np.int32)
        return view if dims == view.dims else self.op("TILE", view, table, dims=dims, layout=layout)

    def multiplied(self, view: View, axis: int, matrix: NDArray[Any]) -> View:
        """A constant matrix [M, size] times the value along one ONNX axis, wherever the file holds it."""
        order = view.layout.orders.get(axis)
        matrix = matrix if order is None else matrix.take(order, axis=1)
        place, shape = view.layout.place(axis), view.tensor.shape
        dims = (*view.dims[:axis], len(matrix), *view.dims[axis + 1 :])
        layout = view.layout.ordered(axis, None)
        if math.prod(shape[place + 1 :]) == 1:
            stacked = (math.prod(shape[:place]), shape[place])
            y = self.fully_connected(self.reshaped(view, stacked, plain(2)), matrix, None)
        else:
            stacked = (math.prod(shape[:place]), shape[place], math.prod(shape[place + 1 :]))
            x = self.reshaped(view, stacked, plain(3))
            sizes = (stacked[0], len(matrix), stacked[2])
            y = self.op("BATCH_MATMUL", matrix.astype(np.float32)[None], x, dims=sizes, adjX=False, adjY=False)
        return self.reshaped(y, dims, layout)

    # ---- layouts ---------------------------------------------------------------------------------------------------
    def relaid(self, view: View, layout: Layout) -> View:
        """The same value in another layout: GATHER for an order, TRANSPOSE for axes, RESHAPE if only unit axes move."""
        orders = {a: o for a, o in layout.orders.items() if view.dims[a] != 1}
        layout = Layout(layout.axes, orders)
        if view.layout == layout:
            return view
        if view.tensor.array is not None:
            return View(self.constant(layout.arranged(natural(view)), view.tensor.stem), view.dims, layout)
        source = view
        for origin, copy in self.copies[source.tensor]:  # one tensor may hold several values, each with its layout
            if (origin.dims, origin.layout, copy.layout) == (source.dims, source.layout, layout):
                return copy
        for axis in sorted({*view.layout.orders, *orders}):
            view = self.reordered(view, axis, orders.get(axis))
        wanted, there = layout.moved(view.dims), view.layout.moved(view.dims)
        if wanted != there:
            if sorted(layout.axes, key=str) != sorted(view.layout.axes, key=str) or None in layout.axes:
                view = self.reshaped(view, view.dims, Layout(tuple(there), orders))
                perm, layout_now = [there.index(a) for a in wanted], Layout(tuple(wanted), orders)
            else:
                perm, layout_now = [view.layout.axes.index(a) for a in layout.axes], layout
            folded = self.rows_permuted(view, perm, layout_now)
            view = folded or self.op("TRANSPOSE", view, np.array(perm, np.int32), layout=layout_now)
        view = self.reshaped(view, view.dims, layout)
        self.copies[source.tensor].append((source, view))
        return view

    def rows_permuted(self, view: View, perm: list[int], layout: Layout) -> View | None:
        """A transposed reshape of a dense layer, moved into the layer's rows; None where something else reads either.

        A decoder's first maps are made by a dense layer: nothing has to move between them and a convolution.
        """
        shaped = view.tensor.producer
        made = shaped.inputs[0].producer if shaped is not None and shaped.code == "RESHAPE" else None
        if made is None or made.code != "FULLY_CONNECTED" or math.prod(made.output.shape[:-1]) != 1:
            return None
        if not self.is_private(view.tensor) or not self.is_private(made.output, readers=1):
            return None
        places = np.arange(made.output.shape[-1]).reshape(view.tensor.shape).transpose(perm).ravel()
        x, *parameters = made.inputs
        made.inputs = [x, *(replace(t, array=t.array[places]) for t in parameters if t.array is not None)]
        return self.reshaped(View(made.output, view.dims, view.layout), view.dims, layout)

    def reordered(self, view: View, axis: int, order: tuple[int, ...] | None) -> View:
        """The same value with its positions along an axis in another order; that of channels goes into the weights."""
        size = view.dims[axis]
        here = view.layout.orders.get(axis)
        if here == order:
            return view
        found = np.argsort(np.arange(size) if here is None else here)
        places, made = found[np.arange(size) if order is None else list(order)], view.tensor.producer
        if made is not None and is_dense(made) and view.layout.axes[-1] == axis and self.is_private(view.tensor):
            hold(made, *(a[places] for a in parameters(made)))
            return replace(view, layout=view.layout.ordered(axis, order))
        return self.gathered(view, axis, places, order)

    def gathered(self, view: View, axis: int, places: NDArray[Any], order: tuple[int, ...] | None) -> View:
        """Positions of the file along an axis; they then stand in `order` of what they are in ONNX."""
        size = (*view.dims[:axis], len(places), *view.dims[axis + 1 :])
        layout = view.layout.ordered(axis, order)
        index = np.asarray(places, np.int32)
        return self.op("GATHER", view, index, dims=size, layout=layout, axis=layout.place(axis), batchDims=0)

    def reshaped(self, view: View, dims: Dims, layout: Layout) -> View:
        """The same bytes under another shape; a reshape of a reshape is one."""
        shape, producer = layout.shape(dims), view.tensor.producer
        if view.tensor.array is not None:
            return View(self.constant(view.tensor.array.reshape(shape), view.tensor.stem), dims, layout)
        if producer is not None and producer.code == "RESHAPE":
            view = View(producer.inputs[0], view.dims, view.layout)
        if shape == view.tensor.shape:
            return View(view.tensor, dims, layout)
        return self.op("RESHAPE", view, np.array(shape, np.int32), dims=dims, layout=layout, newShape=list(shape))

    def reshape(self, node: ir.Node) -> None:
        """Any op that only changes the shape."""
        x, y = node.inputs[0], node.outputs[0]
        self.give(y, self.shaped(self.input(x), self.dims(y), (dims(x), dims(y))))

    def shaped(self, view: View, size: Dims, signs: tuple[Dims, Dims] | None = None) -> View:
        """The value under other ONNX dimensions; its bytes stay where they are if a layout allows it.

        signs  dimensions before and after with the batch as -1, which is then kept apart
        """
        if size == view.dims:
            return view
        for before, after in ((signs or (view.dims, size)), (view.dims, size)):
            layout = reshaped(view.layout, before, after)
            if layout is not None:
                return self.reshaped(view, size, layout)
        view = self.relaid(view, in_runs(view, size))
        layout = reshaped(view.layout, view.dims, size)
        assert layout is not None
        return self.reshaped(view, size, layout)

    def without(self, view: View, axis: int) -> View:
        """A value without one of its ONNX axes, which is of size 1."""
        return self.reshaped(view, (*view.dims[:axis], *view.dims[axis + 1 :]), view.layout.without({axis}))

    def plain(self, rank: int) -> Layout:
        """ONNX's own layout."""
        return plain(rank)

    def matrices(self, view: View, turns: bool = True) -> tuple[View, bool]:
        """A view whose last two axes are the file's last two, and whether they stand turned there.

        turns  whether turned ones are as good where bytes have to move
        """
        rank = len(view.dims)
        straight = plain(rank)
        turned = straight.transposed([*range(rank - 2), rank - 1, rank - 2])
        for layout in (straight, turned):
            if not view.layout.orders and layout.moved(view.dims) == view.layout.moved(view.dims):
                return self.relaid(view, layout), layout == turned
        is_turned = turns and view.layout.moved(view.dims)[-1] == rank - 2
        return self.relaid(view, turned if is_turned else straight), is_turned

    def product(self, a: View, b: View) -> View:
        """a [..., P, K] times b [..., K, M], of one rank; stacked matrices broadcast."""
        rank, (stack, rows), columns = len(a.dims), (a.dims[:-2], a.dims[-2]), b.dims[-1]
        if b.tensor.array is not None and math.prod(b.dims[:-2]) == 1:
            return self.fully_connected(a, natural(b).reshape(b.dims[-2:]).T, None, b.tensor.stem)
        both = tuple(int(d) for d in np.broadcast_shapes(stack, b.dims[:-2]))
        piles = runs_alike([stack, b.dims[:-2]])
        if rank > 4 and len(piles[0]) < rank - 2:
            a, b = (self.shaped(self.matrices(v)[0], (*p, *v.dims[-2:])) for v, p in zip((a, b), piles, strict=True))
            return self.shaped(self.product(a, b), (*both, rows, columns))
        if rank > RANKS["BATCH_MATMUL"]:
            raise Unsupported(
                f"a product broadcasts along {rank - 2} axes in turn", f"value '{self.stem}'", "Repeat one"
            )
        (a, is_left), (b, is_right) = self.matrices(a, turns=False), self.matrices(b)
        size = (*both, rows, columns)
        return self.op("BATCH_MATMUL", a, b, dims=size, layout=plain(rank), adjX=is_left, adjY=is_right)

    def with_last(self, view: View, axis: int) -> View:
        """A layout in which this ONNX axis is the last in the file."""
        if view.layout.axes[-1] == axis:
            return view
        rest = tuple(a for a in view.layout.axes if a != axis)
        return self.relaid(view, Layout((*rest, axis), view.layout.orders))

    def transposed(self, view: View, perm: list[int]) -> View:
        """The axes renamed: nothing moves yet."""
        return replace(view, dims=tuple(view.dims[a] for a in perm), layout=view.layout.transposed(perm))

    # ---- windows ---------------------------------------------------------------------------------------------------
    def padded(self, view: View, amounts: list[tuple[int, int]], filler: float = 0.0, is_mirror: bool = False) -> View:
        """A value with (begin, end) positions around each ONNX axis: one constant, or mirrored on its two ends."""
        if not any(map(any, amounts)):
            return view
        for axis in [a for a in view.layout.orders if any(amounts[a])]:
            view = self.reordered(view, axis, None)
        table = np.array([(0, 0) if a is None else amounts[a] for a in view.layout.axes], np.int32)
        size = tuple(d + b + e for d, (b, e) in zip(view.dims, amounts, strict=True))
        if is_mirror:
            return self.op("MIRROR_PAD", view, table, dims=size, mode="REFLECT")
        if filler == 0:
            return self.op("PAD", view, table, dims=size)
        return self.op("PADV2", view, table, np.array([filler], view.tensor.dtype), dims=size)

    def windowed(
        self, node: ir.Node, x: View, v: Window, sizes: Sequence[int], filler: float | None = 0.0
    ) -> tuple[View, dict[str, Any]]:
        """Padding and strides of a window: SAME where it means these pads, else x padded for VALID.

        sizes   space of the result
        filler  value of padded places; None where SAME would not count them but the node does
        """
        if min(v.pads) < 0:
            self.refuse(node, f"has negative pads {v.pads}", "Crop with a Slice before it")
        if is_disputed(node):
            self.refuse(node, "has an auto_pad that runtimes read differently, as a cut", "Write its pads out")
        around, is_same = borders(v, x.dims[2:], sizes), filler is not None
        for size, out, stride, (begin, end) in zip(x.dims[2:], sizes, v.strides, around, strict=True):
            is_same &= out == -(-size // stride) and end - begin in (0, 1)
        settings: dict[str, Any] = {"padding": "SAME" if is_same and any(map(any, around)) else "VALID"}
        settings |= self.strides(v)
        if settings["padding"] == "VALID":
            x = self.padded(x, [(0, 0), (0, 0), *around], filler or 0.0)
        return x, settings

    def strides(self, v: Window) -> dict[str, int]:
        """Strides by the file's names."""
        return dict(zip(STRIDES[-max(len(v.strides), 2) :], planar(v.strides), strict=True))

    def convolved(
        self,
        node: ir.Node,
        x: View,
        code: str,
        filters: Tensor | NDArray[Any],
        bias: NDArray[Any],
        v: Window,
        sizes: Sequence[int],
    ) -> View:
        """A convolution of one group or of one for each channel, with filters as the file wants them."""
        x, settings = self.windowed(node, x, v, sizes)
        settings |= dict(zip(DILATIONS[-max(len(v.dilations), 2) :], planar(v.dilations), strict=True))
        if code == "DEPTHWISE_CONV_2D":
            settings["depthMultiplier"] = len(bias) // x.dims[1]
        return self.op(code, x, filters, bias, dims=(x.dims[0], len(bias), *sizes), **settings)

    def restacked(self, view: View, dims: Dims) -> View:
        """An image or a volume, channels last, as another one of the same bytes."""
        return self.reshaped(view, dims, channels_last(len(dims)))

    # ---- folding ---------------------------------------------------------------------------------------------------
    def is_private(self, tensor: Tensor, readers: int = 0) -> bool:
        """Whether only the node at hand reads it, beside the ops that are counted."""
        alone = all(len(v.uses()) == 1 and not v.is_graph_output() for v in tensor.values)
        return tensor.readers == readers and bool(tensor.values) and alone

    def activation(self, node: ir.Node, kind: str) -> None:
        """RELU or RELU6, inside the op that makes its input where nothing else reads that."""
        view = self.input(node.inputs[0])
        made = view.tensor.producer
        if made is not None and made.code in FUSES and ACTIVATION not in made.options and self.is_private(view.tensor):
            made.options[ACTIVATION] = kind
        else:
            view = self.op(kind, view)
        self.give(node.outputs[0], view)

    def affine(self, x: ir.Value | None, scale: NDArray[Any] | None, shift: NDArray[Any] | None) -> View:
        """scale·x + shift, both broadcasting to x; inside the weights that make x, if nothing else reads it."""
        view = self.input(x)
        made = self.uncut(view.tensor)
        factor, term = (None if p is None else self.beside(p, view) for p in (scale, shift))
        fits = all(p is None or p.size == p.shape[-1] for p in (factor, term)) and self.is_private(view.tensor)
        if made is not None and made.code in CHANNEL_AXIS and ACTIVATION not in made.options and fits:
            absorb(made, factor, term)
            return view
        if scale is not None:
            view = self.elementwise("MUL", view, scale)
        return view if shift is None else self.elementwise("ADD", view, shift)

    def uncut(self, tensor: Tensor) -> Operation | None:
        """What makes a value, before its border was cut off: a factor for each channel may go there."""
        made = tensor.producer
        if made is None or made.code != "SLICE" or made.output.shape[-1] != made.inputs[0].shape[-1]:
            return made
        return self.uncut(made.inputs[0]) if made.inputs[0].readers == 1 and not made.inputs[0].values else made

    def is_nonnegative(self, view: View) -> bool:
        """Whether a value is known to be at least 0: then 0 pads a maximum as well as −∞ does."""
        made = view.tensor.producer
        if made is None:
            return False
        if made.code in ("RELU", "RELU6", "LOGISTIC") or ACTIVATION in made.options:
            return True
        known = (self.is_nonnegative(replace(view, tensor=t)) for t in made.inputs if t.array is None)
        return made.code in KEEPS_SIGN and all(known)


def in_runs(view: View, size: Dims) -> Layout:
    """ONNX's layout, but for the axes that a reshape joins or splits with the file's last: these stay last."""
    runs = [[a for a, _ in left] for left, _ in reshape_runs(view.dims, size)]
    last = view.layout.moved(view.dims)[-1:]
    runs.sort(key=lambda run: run[-1:] == last)
    units = [a for a, d in enumerate(view.dims) if d == 1]
    return Layout((*units, *(a for run in runs for a in run)))


def natural(view: View) -> NDArray[Any]:
    """The array of a constant view as it lies in ONNX."""
    assert view.tensor.array is not None
    axes = [a for a in view.layout.axes if a is not None]
    array = view.tensor.array.reshape([view.dims[a] for a in axes]).transpose(np.argsort(axes)).reshape(view.dims)
    for axis, order in view.layout.orders.items():
        array = array.take(np.argsort(order), axis=axis)
    return array


def runs_alike(shapes: list[Dims]) -> list[Dims]:
    """The same shapes with neighbouring axes joined along which the same of them are 1."""
    found: list[list[int]] = [[] for _ in shapes]
    kind: tuple[bool, ...] | None = None
    for sizes in zip(*shapes, strict=True):
        if max(sizes) == 1:
            continue
        is_one = tuple(d == 1 for d in sizes)
        for run, d in zip(found, sizes, strict=True):
            run[-1:] = [run[-1] * d] if is_one == kind else [*run[-1:], d]
        kind = is_one
    return [tuple(run) for run in found]


def forward(positions: NDArray[Any]) -> range | None:
    """Positions that go forward by even steps, or None."""
    step = int(positions[1] - positions[0]) if len(positions) > 1 else 1
    steps = range(int(positions[0]), int(positions[-1]) + 1, max(step, 1)) if len(positions) else range(0)
    return steps if len(steps) and np.array_equal(positions, steps) else None


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


def absorb(made: Operation, factor: NDArray[Any] | None, term: NDArray[Any] | None) -> None:
    """Fold y ↦ factor·y + term into the weights and the bias of the op that makes y."""
    weights, bias = parameters(made)
    bias = bias.astype(np.float64)
    if factor is not None:
        factor = factor.astype(np.float64).reshape(-1)
        weights, bias = weights * factor.reshape(-1, *[1] * (weights.ndim - 1)), bias * factor
    hold(made, weights, bias if term is None else bias + term.reshape(-1))
