"""Words for windows: paddings, strides, convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.emit.layout import Dims, channels_last, plain
from toolchain.emit.products import Products
from toolchain.emit.views import Tensor, View
from toolchain.errors import Unsupported
from toolchain.ops.pooling import LOWEST, Window, borders, is_disputed, planar

MOST_PADDED = 5  # axes that LiteRT's kernels for paddings take
STRIDES = ("strideD", "strideH", "strideW")
DILATIONS = ("dilationDFactor", "dilationHFactor", "dilationWFactor")


class Windows(Products):
    """What slides over maps."""

    def padded(self, view: View, amounts: list[tuple[int, int]], filler: float = 0.0, is_mirror: bool = False) -> View:
        """A value with (begin, end) positions around each ONNX axis: one constant, or mirrored on its two ends."""
        if not any(map(any, amounts)):
            return view
        for axis in [a for a in view.layout.orders if any(amounts[a])]:
            view = self.reordered(view, axis, None)
        table = np.array([(0, 0) if a is None else amounts[a] for a in view.layout.axes], np.int32)
        size = tuple(d + b + e for d, (b, e) in zip(view.dims, amounts, strict=True))
        if len(table) > MOST_PADDED:
            return self.reshaped(self.padded(*self.merged(view, table), filler, is_mirror), size, view.layout)
        if is_mirror:
            return self.op("MIRROR_PAD", view, table, dims=size, mode="REFLECT")
        if filler == 0:
            return self.op("PAD", view, table, dims=size)
        number = np.full((1,) * len(table), filler, view.tensor.dtype)  # the quantiser wants the ranks of both alike
        return self.op("PADV2", view, table, number, dims=size)

    def merged(self, view: View, table: NDArray[np.int32]) -> tuple[View, list[tuple[int, int]]]:
        """A view and its padding with the file axes joined that have none: kernels take few axes."""
        shape, around = list[int](), list[tuple[int, int]]()
        for d, (begin, end) in zip(view.tensor.shape, table.tolist(), strict=True):
            if around and not any((begin, end, *around[-1])):
                shape[-1] *= d
            else:
                shape, around = [*shape, d], [*around, (begin, end)]
        if len(shape) > MOST_PADDED:
            what = f"pads along {len(shape)} axes in turn, kernels take {MOST_PADDED}"
            raise Unsupported(what, f"value '{self.stem}'", "Pad fewer axes at a time")
        return self.reshaped(view, tuple(shape), plain(len(shape))), around

    def windowed(
        self, node: ir.Node, x: View, v: Window, sizes: Sequence[int], filler: float | None = 0.0
    ) -> tuple[View, dict[str, Any]]:
        """Padding and strides of a window: SAME where it means these pads, else x padded for VALID.

        sizes   space of the result
        filler  value of padded places; None where SAME would not count them but the node does, LOWEST for a maximum

        A mirrored value changes no maximum where the window reaches what it mirrors, and quantises without LOWEST.
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
            reached = [2 * max(pair) < k <= 2 * d for k, pair, d in zip(v.kernel, around, x.dims[2:], strict=True)]
            is_mirror = filler == LOWEST and set(v.dilations) == {1} and all(reached)
            x = self.padded(x, [(0, 0), (0, 0), *around], filler or 0.0, is_mirror)
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
