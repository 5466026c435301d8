"""Words for what is computed: elementwise ops, reductions, products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from toolchain.emit.layout import Dims, Layout, plain
from toolchain.emit.moves import Moves, natural
from toolchain.emit.views import View
from toolchain.errors import Unsupported
from toolchain.ops.table import constant

RANKS = {  # axes along which kernels broadcast, 4 where not named
    **dict.fromkeys(("ADD", "MUL"), 6),
    **dict.fromkeys(("SUB", "DIV", "MAXIMUM", "MINIMUM", "SELECT_V2", "BATCH_MATMUL"), 5),
}


class Products(Moves):
    """What is computed of values."""

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
