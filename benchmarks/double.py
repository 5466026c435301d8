"""An ONNX graph in float64: the oracle of gradients.

onnx's reference evaluator runs it, with every float made double; where that takes a Python loop over all positions
(convolutions, pools, erf), torch computes the same op; its Pad does not cut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]


def in_double(proto: onnx.ModelProto) -> Callable[[dict[str, Array]], list[Array]]:
    """The graph as a function of its inputs, every float32 of it a float64."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    for tensor in copy.graph.initializer:
        widen(tensor)
    for node in copy.graph.node:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.HasField("t"):
                widen(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = onnx.TensorProto.DOUBLE
    del copy.graph.value_info[:]
    evaluator = ReferenceEvaluator(copy, new_ops=[Conv, ConvTranspose, MaxPool, AveragePool, Erf, Pad])

    def run(feed: dict[str, Array]) -> list[Array]:
        wide = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in feed.items()}
        return evaluator.run(None, wide)

    return run


def widen(tensor: onnx.TensorProto) -> None:
    """The same tensor in float64."""
    if tensor.data_type == onnx.TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def padded(x: torch.Tensor, kernel: list[int], strides: list[int], dilations: list[int], a: dict[str, Any],
           value: float) -> torch.Tensor:  # fmt: skip
    """x with its borders written out, those too that ceil_mode and SAME ask for."""
    rank, sizes = len(kernel), list(x.shape[2:])
    pads = list(a.get("pads") or [0] * 2 * rank)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    mode = a.get("auto_pad") or "NOTSET"
    if mode.startswith("SAME"):
        for i in range(rank):
            total = max((-(-sizes[i] // strides[i]) - 1) * strides[i] + spans[i] - sizes[i], 0)
            low = total // 2 if mode == "SAME_UPPER" else total - total // 2
            pads[i], pads[rank + i] = low, total - low
    if a.get("ceil_mode"):
        for i in range(rank):
            room = sizes[i] + pads[i] + pads[rank + i] - spans[i]
            windows = -(-room // strides[i])
            if windows * strides[i] < sizes[i] + pads[i]:  # a last window may not begin in the border
                pads[rank + i] += windows * strides[i] - room
    return F.pad(x, [p for i in reversed(range(rank)) for p in (pads[i], pads[rank + i])], value=value)


class Conv(OpRun):
    op_domain = ""

    def _run(self, x, w, b=None, **a):  # type: ignore[override]
        rank = w.ndim - 2
        strides, dilations = (list(a.get(k) or [1] * rank) for k in ("strides", "dilations"))
        x = padded(torch.from_numpy(x), list(w.shape[2:]), strides, dilations, a, 0.0)
        conv = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
        bias = None if b is None else torch.from_numpy(b)
        y = conv(x, torch.from_numpy(np.array(w)), bias, strides, 0, dilations, a.get("group") or 1)
        return (y.numpy(),)


class ConvTranspose(OpRun):
    op_domain = ""

    def _run(self, x, w, b=None, **a):  # type: ignore[override]
        rank = w.ndim - 2
        strides, dilations = (list(a.get(k) or [1] * rank) for k in ("strides", "dilations"))
        pads, more = list(a.get("pads") or [0] * 2 * rank), list(a.get("output_padding") or [0] * rank)
        if a.get("output_shape") or (a.get("auto_pad") or "NOTSET") != "NOTSET":
            raise NotImplementedError("ConvTranspose with a computed border")
        conv = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
        bias = None if b is None else torch.from_numpy(b)
        y = conv(
            torch.from_numpy(x), torch.from_numpy(np.array(w)), bias, strides, 0, 0, a.get("group") or 1, dilations
        )
        y = F.pad(y, [p for i in reversed(range(rank)) for p in (0, more[i])])
        cut = (slice(None), slice(None), *(slice(pads[i], y.shape[2 + i] - pads[rank + i]) for i in range(rank)))
        return (y[cut].numpy(),)


class MaxPool(OpRun):
    op_domain = ""

    def _run(self, x, **a):  # type: ignore[override]
        kernel = list(a["kernel_shape"])
        strides, dilations = (list(a.get(k) or [1] * len(kernel)) for k in ("strides", "dilations"))
        x = padded(torch.from_numpy(x), kernel, strides, dilations, a, -np.inf)
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1]
        return (pool(x, kernel, strides, 0, dilations).numpy(),)


class AveragePool(OpRun):
    op_domain = ""

    def _run(self, x, **a):  # type: ignore[override]
        kernel = list(a["kernel_shape"])
        strides, ones = list(a.get("strides") or [1] * len(kernel)), [1] * len(kernel)
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1]
        x = torch.from_numpy(x)
        inside = torch.ones_like(x[:1, :1])
        total = pool(padded(x, kernel, strides, ones, a, 0.0), kernel, strides)
        if a.get("count_include_pad"):  # the border counts, but not what ceil_mode added to it
            rank, pads = len(kernel), list(a.get("pads") or [0] * 2 * len(kernel))
            inside = F.pad(inside, [p for i in reversed(range(rank)) for p in (pads[i], pads[rank + i])], value=1.0)
            a = {**a, "pads": [0] * 2 * rank}
        return ((total / pool(padded(inside, kernel, strides, ones, a, 0.0), kernel, strides)).numpy(),)


class Erf(OpRun):
    op_domain = ""

    def _run(self, x):  # type: ignore[override]
        return (torch.erf(torch.from_numpy(np.ascontiguousarray(x))).numpy(),)


class Pad(OpRun):
    op_domain = ""

    def _run(self, x, pads, value=None, axes=None, mode="constant"):  # type: ignore[override]
        amounts = np.zeros((2, x.ndim), np.int64)
        amounts[:, range(x.ndim) if axes is None else axes % x.ndim] = np.reshape(pads, (2, -1))
        grown = np.maximum(amounts, 0).T
        more = {"constant_values": 0 if value is None else value} if mode == "constant" else {}
        x = np.pad(x, grown, {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}.get(mode, "constant"), **more)
        low, high = np.minimum(amounts, 0)
        return (x[tuple(slice(-a, n + b) for a, b, n in zip(low, high, x.shape, strict=True))],)
