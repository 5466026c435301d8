"""Words that move values, and keep from moving them: layouts, reshapes, picks, joins."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.emit.kernels import JOINED
from toolchain.emit.layout import Dims, Layout, image, plain, reshaped
from toolchain.emit.views import Page, View, hold, is_dense, parameters
from toolchain.ops.shape import reshape_runs
from toolchain.ops.table import constant, dims

MOST_SLICED = 5  # axes that LiteRT's SLICE and STRIDED_SLICE take


class Moves(Page):
    """How values come to lie as an op wants them."""

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

    def lifted(self, view: View, rank: int) -> Layout:
        """The layout of a view with unit axes in front up to `rank`."""
        layout = view.layout.lifted(rank - len(view.dims))
        front = [a for a in range(rank) if a not in layout.axes]
        return Layout((*front, *layout.axes), layout.orders)

    def raised(self, view: View, rank: int) -> View:
        """The same with unit axes in front."""
        by = rank - len(view.dims)
        return View(view.tensor, (1,) * by + view.dims, view.layout.lifted(by))

    def broadcast(self, value: ir.Value | None, layout: Layout, rank: int) -> View:
        """A value with unit axes in front up to `rank`, in a layout of that rank."""
        array = constant(value)
        if value is not None and array is not None:
            array = array.reshape((1,) * (rank - array.ndim) + array.shape)
            return View(self.constant(layout.arranged(array), str(value.name)), array.shape, layout)
        return self.relaid(self.raised(self.input(value), rank), layout)

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

    def with_last(self, view: View, axis: int) -> View:
        """A layout in which this ONNX axis is the last in the file."""
        if view.layout.axes[-1] == axis:
            return view
        rest = tuple(a for a in view.layout.axes if a != axis)
        return self.relaid(view, Layout((*rest, axis), view.layout.orders))

    def transposed(self, view: View, perm: list[int]) -> View:
        """The axes renamed: nothing moves yet."""
        return replace(view, dims=tuple(view.dims[a] for a in perm), layout=view.layout.transposed(perm))

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


def forward(positions: NDArray[Any]) -> range | None:
    """Positions that go forward by even steps, or None."""
    step = int(positions[1] - positions[0]) if len(positions) > 1 else 1
    steps = range(int(positions[0]), int(positions[-1]) + 1, max(step, 1)) if len(positions) else range(0)
    return steps if len(steps) and np.array_equal(positions, steps) else None
