"""One row for every variant of every op in the table: what it reads, and its attributes. A new op adds rows here.

A tuple is a computed input with its full shape ("N" is the batch), an array is a parameter, None an input left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Case:
    """One node.

    inputs   tuple: shape of a computed input; array: parameter; None: left out
    step     of the central differences in float64; 1 where the op is linear but rounds to float32
    outputs  how many outputs the node hands out; only the first one is looked at
    whole    input number -> limit, of computed inputs of whole numbers; limit 0: of truths
    refused  a gradient rule must say that it does not know, rather than leave an input's share out
    opset    of the model; some ops came after 20
    low      computed inputs are in (low, low + 4): some functions are not defined below 0
    """

    op: str
    label: str
    inputs: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    step: float = 1e-6
    outputs: int = 1
    whole: dict[int, int] = field(default_factory=dict)
    refused: bool = False
    opset: int = 20
    low: float = -2.0

    def __str__(self) -> str:
        return f"{self.op}-{self.label}"

    @property
    def computed(self) -> dict[int, Shape]:
        """Input number -> shape of each computed input."""
        return {i: x for i, x in enumerate(self.inputs) if isinstance(x, tuple)}


def w(*shape: int, low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """Reproducible float32 parameters in (low, high)."""
    return np.random.default_rng([7, *shape]).uniform(low, high, shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    """An int64 constant."""
    return np.array(values, np.int64)


def scalar(value: float) -> np.ndarray:
    """A float32 scalar."""
    return np.array(value, np.float32)


CASES: list[Case] = []


def case(op: str, label: str, *inputs: Any, **more: Any) -> None:
    """Add a row; what is no field of Case is an attribute of the node."""
    fields = {k: more.pop(k) for k in ("step", "outputs", "whole", "refused", "opset", "low") if k in more}
    CASES.append(Case(op, label, inputs, more, **fields))


SIGNAL: Shape = ("N", 4, 9)
IMAGE: Shape = ("N", 4, 7, 6)
VOLUME: Shape = ("N", 2, 4, 5, 3)
ROW: Shape = ("N", 5)

# ---- activations ---------------------------------------------------------------------------------------------------
case("Relu", "image", IMAGE)
case("Relu", "row", ROW)
case("LeakyRelu", "default", IMAGE)
case("LeakyRelu", "steep", ROW, alpha=0.3)
case("LeakyRelu", "negative slope", ROW, alpha=-0.5)
case("Elu", "default", ROW)
case("Elu", "alpha", IMAGE, alpha=0.4)
case("Sigmoid", "image", IMAGE)
case("Tanh", "row", ROW)
case("HardSigmoid", "default", IMAGE)
case("HardSigmoid", "steep", IMAGE, alpha=0.7, beta=0.3)
case("HardSwish", "image", ("N", 4, 30))
case("Clip", "both", IMAGE, scalar(-0.7), scalar(0.9))
case("Clip", "low", IMAGE, scalar(-0.3))
case("Clip", "high", IMAGE, None, scalar(0.4))
case("Clip", "none", ROW)
case("Identity", "image", IMAGE)
case("Dropout", "inference", IMAGE)
case("Dropout", "with ratio", ROW, scalar(0.3))
case("Dropout", "with mask", ROW, scalar(0.3), outputs=2)
case("Cast", "float to float", ROW, to=1, step=1.0)

# ---- arithmetic ----------------------------------------------------------------------------------------------------
for name in ("Add", "Sub", "Mul", "Div"):
    low = 0.5 if name == "Div" else -1.0  # no division near 0
    case(name, "bias right", IMAGE, w(4, 1, 1, low=low))
    case(name, "bias left", w(4, 1, 1, low=low), ("N", 4, 7, 6) if name != "Div" else ("N", 4, 3, 3))
    case(name, "full parameter", IMAGE, w(4, 7, 6, low=low))
    case(name, "scalar", IMAGE, np.array(1.7, np.float32))
    case(name, "one row parameter", ROW, w(1, 5, low=low))
    case(name, "both computed", IMAGE, IMAGE)
    case(name, "gate right", IMAGE, ("N", 4, 1, 1))
    case(name, "gate left", ("N", 4, 1, 1), IMAGE)
    case(name, "both spread", ("N", 1, 5), ("N", 3, 1))
    case(name, "parameter spreads the computed", ("N", 1, 5), w(4, 5, low=low))
    case(name, "parameter of higher rank", ("N", 5), w(3, 1, 5, low=low))
    case(name, "computed without a batch", ("N", 4, 5), (4, 1))
    case(name, "computed of lower rank", ("N", 4, 5), (5,))
case("Mul", "with itself shaped", ("N", 3, 1, 4), ("N", 1, 2, 4))
case("PRelu", "scalar slope", IMAGE, w(1))
case("PRelu", "slope of each channel", IMAGE, w(4, 1, 1))
case("PRelu", "slope of each element", IMAGE, w(4, 7, 6))
case("PRelu", "slope of a row", ROW, w(5))
case("PRelu", "negative slope", ROW, w(5, low=-1, high=-0.2))

# ---- convolutions --------------------------------------------------------------------------------------------------
case("Conv", "plain", IMAGE, w(3, 4, 3, 3), w(3))
case("Conv", "no bias", IMAGE, w(3, 4, 3, 3))
case("Conv", "pointwise", IMAGE, w(5, 4, 1, 1), w(5))
case("Conv", "padded", IMAGE, w(3, 4, 3, 3), w(3), pads=[1, 1, 1, 1])
case("Conv", "padded beyond the kernel", IMAGE, w(3, 4, 1, 1), w(3), pads=[1, 0, 0, 2])
case("Conv", "uneven pads", IMAGE, w(3, 4, 3, 2), w(3), pads=[2, 0, 1, 1])
case("Conv", "strided", IMAGE, w(3, 4, 3, 3), w(3), strides=[2, 2], pads=[1, 1, 1, 1])
case("Conv", "stride that skips rows", IMAGE, w(3, 4, 2, 2), w(3), strides=[3, 2])
case("Conv", "stride wider than the kernel", IMAGE, w(3, 4, 1, 1), w(3), strides=[2, 3])
case("Conv", "dilated", IMAGE, w(3, 4, 3, 2), w(3), dilations=[2, 3])
case(
    "Conv", "dilated, strided, padded", IMAGE, w(3, 4, 2, 2), w(3), dilations=[2, 2], strides=[2, 1], pads=[1, 0, 2, 1]
)
case("Conv", "grouped", IMAGE, w(6, 2, 3, 3), w(6), group=2)
case("Conv", "grouped, strided", IMAGE, w(6, 2, 3, 3), w(6), group=2, strides=[2, 2], pads=[1, 1, 0, 0])
case("Conv", "depthwise", IMAGE, w(4, 1, 3, 3), w(4), group=4, pads=[1, 1, 1, 1])
case("Conv", "depthwise, multiplier 3", IMAGE, w(12, 1, 3, 3), w(12), group=4)
case("Conv", "depthwise, multiplier 2, strided", IMAGE, w(8, 1, 3, 2), w(8), group=4, strides=[2, 2])
case("Conv", "1-D", SIGNAL, w(3, 4, 3), w(3), pads=[1, 0], strides=[2])
case("Conv", "3-D", VOLUME, w(3, 2, 2, 3, 1), w(3), pads=[1, 0, 0, 0, 1, 0], strides=[2, 1, 2])
case("Conv", "SAME_UPPER", IMAGE, w(3, 4, 3, 4), w(3), auto_pad="SAME_UPPER", strides=[2, 2])
case("Conv", "SAME_LOWER", IMAGE, w(3, 4, 2, 4), w(3), auto_pad="SAME_LOWER", strides=[1, 2])
case("Conv", "VALID", IMAGE, w(3, 4, 3, 3), w(3), auto_pad="VALID", strides=[2, 2])
case("Conv", "kernel_shape given", IMAGE, w(3, 4, 3, 3), w(3), kernel_shape=[3, 3])
SMALL: Shape = ("N", 4, 3, 4)
case("ConvTranspose", "plain", SMALL, w(4, 3, 3, 3), w(3))
case("ConvTranspose", "no bias", SMALL, w(4, 3, 2, 2))
case("ConvTranspose", "strided", SMALL, w(4, 3, 2, 3), w(3), strides=[2, 2])
case("ConvTranspose", "padded", SMALL, w(4, 3, 3, 3), w(3), strides=[2, 1], pads=[1, 0, 0, 1])
case(
    "ConvTranspose",
    "output_padding",
    SMALL,
    w(4, 3, 3, 3),
    w(3),
    strides=[2, 3],
    output_padding=[1, 2],
    pads=[1, 1, 1, 1],
)
case("ConvTranspose", "dilated", SMALL, w(4, 3, 2, 2), w(3), dilations=[2, 3], strides=[1, 2])
case("ConvTranspose", "grouped", SMALL, w(4, 3, 2, 2), w(6), group=2, strides=[2, 2])
case("ConvTranspose", "one output a group", SMALL, w(4, 1, 2, 2), w(2), group=2)
case(
    "ConvTranspose",
    "depthwise",
    SMALL,
    w(4, 1, 3, 3),
    w(4),
    group=4,
    strides=[2, 2],
    pads=[1, 1, 1, 1],
    output_padding=[1, 1],
)
case("ConvTranspose", "depthwise, multiplier 2", SMALL, w(4, 2, 2, 2), w(8), group=4)
case("ConvTranspose", "1-D", ("N", 4, 5), w(4, 3, 3), w(3), strides=[3], output_padding=[1])
case("ConvTranspose", "3-D", ("N", 2, 2, 3, 2), w(2, 3, 2, 2, 2), w(3), strides=[2, 1, 2])
case("ConvTranspose", "SAME_UPPER", SMALL, w(4, 3, 3, 3), w(3), auto_pad="SAME_UPPER", strides=[2, 2])
case("ConvTranspose", "SAME_LOWER", SMALL, w(4, 3, 3, 4), w(3), auto_pad="SAME_LOWER", strides=[2, 1])
case("ConvTranspose", "output_shape", SMALL, w(4, 3, 3, 3), w(3), strides=[2, 2], output_shape=[6, 8])
case(
    "ConvTranspose",
    "output_shape, uneven",
    SMALL,
    w(4, 3, 3, 3),
    w(3),
    strides=[2, 2],
    output_shape=[6, 7],
    auto_pad="SAME_UPPER",
)

# ---- products ------------------------------------------------------------------------------------------------------
case("Gemm", "transB 1", ROW, w(3, 5), w(3), transB=1)
case("Gemm", "transB 0", ROW, w(5, 3), w(3))
case("Gemm", "no bias", ROW, w(5, 3))
case("Gemm", "alpha and beta", ROW, w(5, 3), w(3), alpha=0.3, beta=1.7)
case("Gemm", "alpha, transB 1", ROW, w(3, 5), w(3), transB=1, alpha=-2.0)
case("Gemm", "bias of one row", ROW, w(5, 3), w(1, 3))
case("Gemm", "scalar bias", ROW, w(5, 3), w(1))
case("MatMul", "matrix", ROW, w(5, 3))
case("MatMul", "matrix for every token", ("N", 4, 5), w(5, 3))
case("MatMul", "stacked parameters", ("N", 2, 4, 5), w(2, 5, 3))
case("MatMul", "parameter on the left", w(3, 4), ("N", 4, 5))
case("MatMul", "both computed", ("N", 4, 5), ("N", 5, 3))
case("MatMul", "heads", ("N", 2, 4, 5), ("N", 2, 5, 4))
case("MatMul", "right side spreads", ("N", 2, 4, 5), ("N", 1, 5, 3))
case("MatMul", "left side spreads", ("N", 1, 4, 5), ("N", 2, 5, 3))
case("MatMul", "right side without a batch", ("N", 2, 4, 5), (5, 3))
case("MatMul", "stacked right side without a batch", ("N", 2, 4, 5), (2, 5, 3))

# ---- pooling -------------------------------------------------------------------------------------------------------
case("MaxPool", "plain", IMAGE, kernel_shape=[2, 2], strides=[2, 2])
case("MaxPool", "overlapping", IMAGE, kernel_shape=[3, 3], strides=[2, 2])
case("MaxPool", "stride 1", IMAGE, kernel_shape=[3, 2])
case("MaxPool", "padded", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 1])
case("MaxPool", "ceil_mode", IMAGE, kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1)
case("MaxPool", "dilated", IMAGE, kernel_shape=[2, 2], dilations=[3, 2], strides=[1, 2])
case("MaxPool", "SAME_LOWER", IMAGE, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER")
case("MaxPool", "1-D", SIGNAL, kernel_shape=[3], strides=[2])
case("MaxPool", "3-D", VOLUME, kernel_shape=[2, 2, 2], strides=[1, 2, 1])
case("MaxPool", "column order of its indices", IMAGE, kernel_shape=[2, 2], storage_order=1, outputs=2)
case("AveragePool", "plain", IMAGE, kernel_shape=[2, 2], strides=[2, 2])
case("AveragePool", "overlapping", IMAGE, kernel_shape=[3, 3], strides=[2, 1])
case("AveragePool", "stride wider than the kernel", IMAGE, kernel_shape=[2, 1], strides=[3, 2])
case("AveragePool", "padding left out", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
case(
    "AveragePool", "padding counted", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1
)
case("AveragePool", "uneven pads left out", IMAGE, kernel_shape=[3, 2], pads=[2, 0, 0, 1])
case(
    "AveragePool",
    "uneven pads counted",
    IMAGE,
    kernel_shape=[3, 2],
    pads=[2, 0, 0, 1],
    count_include_pad=1,
    strides=[2, 1],
)
case("AveragePool", "ceil_mode", IMAGE, kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1)
case(
    "AveragePool",
    "ceil_mode, padding left out",
    IMAGE,
    kernel_shape=[3, 3],
    strides=[3, 3],
    pads=[1, 1, 1, 1],
    ceil_mode=1,
)
case(
    "AveragePool",
    "ceil_mode, padding counted",
    IMAGE,
    kernel_shape=[3, 3],
    strides=[3, 3],
    pads=[1, 0, 1, 0],
    ceil_mode=1,
    count_include_pad=1,
)
case("AveragePool", "dilated", IMAGE, kernel_shape=[2, 2], dilations=[2, 3])
case("AveragePool", "SAME_UPPER", IMAGE, kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER")
case("AveragePool", "1-D", SIGNAL, kernel_shape=[4], strides=[3], pads=[2, 1])
case("AveragePool", "3-D", VOLUME, kernel_shape=[2, 3, 1], strides=[2, 1, 1])
case("GlobalAveragePool", "image", IMAGE)
case("GlobalAveragePool", "signal", SIGNAL)
case("ReduceMean", "space", IMAGE, ints(2, 3))
case("ReduceMean", "space, axes dropped", IMAGE, ints(2, 3), keepdims=0)
case("ReduceMean", "negative axes", IMAGE, ints(-1, -2), keepdims=0)
case("ReduceMean", "channels", IMAGE, ints(1), keepdims=1)
case("ReduceMean", "channels, axis dropped", IMAGE, ints(-3), keepdims=0)
case("ReduceMean", "nothing", IMAGE, noop_with_empty_axes=1)

# ---- normalisation -------------------------------------------------------------------------------------------------
NORM = [w(4, low=0.4), w(4), w(4, low=-0.5), w(4, low=0.2, high=2.0)]
case("BatchNormalization", "image", IMAGE, *NORM)
case("BatchNormalization", "signal, epsilon", SIGNAL, *NORM, epsilon=0.1)
case("BatchNormalization", "row", ("N", 4), *NORM)
case("Softmax", "last axis", ROW)
case("Softmax", "channels", IMAGE, axis=1)
case("Softmax", "negative axis", IMAGE, axis=-2)

# ---- shapes --------------------------------------------------------------------------------------------------------
case("Flatten", "axis 1", IMAGE)
case("Flatten", "axis 2", IMAGE, axis=2)
case("Flatten", "axis -1", IMAGE, axis=-1)
case("Reshape", "to a row", IMAGE, ints(-1, 168))
case("Reshape", "copy the batch", IMAGE, ints(0, -1))
case("Reshape", "merge space", IMAGE, ints(0, 4, 42))
case("Reshape", "split channels", IMAGE, ints(-1, 2, 2, 7, 6))
case("Reshape", "into the batch", IMAGE, ints(-1, 7, 6))
case("Squeeze", "axes", ("N", 4, 1, 1), ints(2, 3))
case("Squeeze", "negative axis", ("N", 1, 5), ints(-2))
case("Unsqueeze", "axes", ROW, ints(2, 3))
case("Unsqueeze", "between", ROW, ints(1))
case("Unsqueeze", "in front", ROW, ints(0))
case("Transpose", "to channels last", IMAGE, perm=[0, 2, 3, 1])
case("Transpose", "batch moves", SIGNAL, perm=[1, 0, 2])
case("Transpose", "default", ROW)
case("Concat", "channels", IMAGE, ("N", 2, 7, 6), axis=1)
case("Concat", "negative axis", SIGNAL, ("N", 4, 2), axis=-1)
case("Concat", "three, one twice as wide", ROW, ("N", 2), ("N", 10), axis=1)
case("Concat", "alone", ROW, axis=1)
case("Pad", "space", IMAGE, ints(0, 0, 1, 2, 0, 0, 0, 1))
case("Pad", "channels", SIGNAL, ints(0, 1, 0, 0, 2, 0))
case("Pad", "value", ROW, ints(0, 1, 0, 2), scalar(0.7))
case("Pad", "axes", IMAGE, ints(1, 2), None, ints(-1))
case("Pad", "cut", IMAGE, ints(0, 0, -1, 0, 0, 0, 2, -2))

# ---- indices -------------------------------------------------------------------------------------------------------
TOKENS: Shape = ("N", 6, 4)
case("Slice", "channels", IMAGE, ints(1), ints(3), ints(1))
case("Slice", "one of the channels", IMAGE, ints(-2), ints(-1), ints(1))
case("Slice", "every second", SIGNAL, ints(1), ints(9), ints(2), ints(3))
case("Slice", "every second channel", TOKENS, ints(1), ints(100), ints(1), ints(2))
case("Slice", "backwards", TOKENS, ints(-1), ints(-(1 << 62)), ints(-2), ints(-1))
case("Slice", "backwards by two", TOKENS, ints(4), ints(-7), ints(1), ints(-2))
case("Slice", "several axes", IMAGE, ints(1, 0, 2), ints(4, 9, 5), ints(-1, 0, 2))
case("Slice", "no axes given", TOKENS, ints(0, 2), ints(1 << 40, 5))
case("Slice", "everything", TOKENS, ints(0), ints(6), ints(1), ints(1))
case("Split", "sizes", IMAGE, ints(1, 3), axis=1, outputs=2)
case("Split", "equal", TOKENS, axis=-1, num_outputs=2, outputs=2)
case("Split", "equal, the last smaller", SIGNAL, axis=2, num_outputs=2, outputs=2)
case("Split", "alone", TOKENS, axis=1, num_outputs=1)
case("Gather", "list", IMAGE, ints(2, 0, 0), axis=1)
case("Gather", "one", IMAGE, np.array(-1, np.int64), axis=2)
case("Gather", "turned", TOKENS, ints(5, 4, 3, 2, 1, 0), axis=1)
case("Gather", "in order", TOKENS, ints(2, 3, 4), axis=-2)
case("Gather", "negative", TOKENS, ints(-1, 0, -3), axis=2)
case("Gather", "table", TOKENS, np.array([[0, 2], [5, 2]]), axis=1)
case("Gather", "embedding", w(7, 5), ("N", 3), whole={1: 7})
case("Gather", "computed, of columns", w(5, 7), ("N", 3), axis=1, whole={1: 7})
case("Expand", "space", ("N", 4, 1, 1), ints(1, 4, 7, 6))
case("Expand", "more axes", ("N", 4, 1), ints(3, 1, 1, 5))
case("Expand", "shorter target", ("N", 4, 1), ints(5))
case("Expand", "no batch", (4, 1), ints(3, 4, 5))
case("Tile", "channels", IMAGE, ints(1, 2, 1, 1))
case("Tile", "space", SIGNAL, ints(1, 1, 3))
case("Tile", "nothing", ROW, ints(1, 1))
case("Trilu", "upper", ("N", 3, 4, 5))
case("Trilu", "lower, shifted", ("N", 3, 4, 5), np.array(-1, np.int64), upper=0)
case("Col2Im", "blocks apart", ("N", 12, 9), np.array([6, 6]), np.array([2, 2]), strides=[2, 2])
case("Col2Im", "overlapping", ("N", 18, 9), np.array([6, 6]), np.array([3, 3]), strides=[2, 2], pads=[1, 1, 1, 1])
case("CumSum", "last axis", TOKENS, np.array(2, np.int64))
case("CumSum", "backwards", TOKENS, np.array(-2, np.int64), reverse=1)
case("CumSum", "exclusive", TOKENS, np.array(1, np.int64), exclusive=1)
case("Shape", "whole", IMAGE)
case("Shape", "batch", IMAGE, start=0, end=1)
case("Size", "image", IMAGE)
case("ConstantOfShape", "computed", (2,), whole={0: 4})
case("Range", "computed", (), np.array(9), np.array(2), whole={0: 3})

# ---- space ---------------------------------------------------------------------------------------------------------
case("DepthToSpace", "DCR", ("N", 12, 2, 3), blocksize=2)
case("DepthToSpace", "CRD", ("N", 12, 2, 3), blocksize=2, mode="CRD")
case("DepthToSpace", "blocks of 3", ("N", 18, 2, 1), blocksize=3)
case("SpaceToDepth", "blocks of 2", ("N", 3, 4, 6), blocksize=2)
case("Resize", "nearest, twice", IMAGE, None, np.array([1, 1, 2, 2], np.float32), mode="nearest")
case(
    "Resize", "nearest, floor", IMAGE, None, np.array([1, 1, 2, 3], np.float32),
    coordinate_transformation_mode="asymmetric", nearest_mode="floor",
)  # fmt: skip
case("Resize", "nearest, smaller", IMAGE, None, np.array([1, 1, 0.5, 0.6], np.float32))
case("Resize", "linear", IMAGE, None, np.array([1, 1, 2, 1.5], np.float32), mode="linear")
case("Resize", "linear, sizes", (2, 4, 3, 4), None, None, ints(2, 4, 7, 5), mode="linear")
case("Resize", "sizes of some axes", IMAGE, None, None, ints(9, 11), mode="linear", axes=[2, 3])
case("Resize", "sizes of channels too", IMAGE, None, None, ints(4, 9, 11), mode="linear", axes=[1, 2, 3])
case(
    "Resize", "corners aligned", IMAGE, None, np.array([1, 1, 2, 2], np.float32),
    mode="linear", coordinate_transformation_mode="align_corners",
)  # fmt: skip
case("Resize", "cubic", IMAGE, None, np.array([1, 1, 2, 2], np.float32), mode="cubic", cubic_coeff_a=-0.5)
case("Resize", "1-D", SIGNAL, None, np.array([1, 1, 2], np.float32), mode="linear")

# ---- conditions ----------------------------------------------------------------------------------------------------
for name in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"):
    case(name, "bias", IMAGE, w(4, 1, 1))
    case(name, "both computed", IMAGE, ("N", 4, 1, 1))
for name in ("And", "Or", "Xor"):
    case(name, "both computed", IMAGE, ("N", 4, 1, 1), whole={0: 0, 1: 0})
case("Not", "image", IMAGE, whole={0: 0})
for name in ("IsNaN", "IsInf", "Floor", "Ceil", "Round", "Sign"):
    case(name, "image", IMAGE)
case("Where", "mask", w(7, 6) > 0, IMAGE, scalar(-3))
case("Where", "parameter first", w(4, 1, 1) > 0, w(4, 7, 6), IMAGE)
case("Where", "both computed", w(4, 7, 6) > 0, IMAGE, ("N", 4, 1, 1))
case("Where", "computed condition", ("N", 4, 1, 1), IMAGE, w(4, 7, 6), whole={0: 0})

# ---- what has no gradient rule must say so -------------------------------------------------------------------------
case("Gemm", "transA", (5, "N"), w(5, 3), w(3), transA=1, refused=True)
case("Gemm", "computed right side", ROW, (5, 3), w(3), refused=True)
case("Gemm", "parameter on the left", w(3, 5), (5, "N"), refused=True)
case("Gemm", "computed bias", ROW, w(5, 3), ("N", 3), refused=True)
case("MatMul", "vector", ("N", 4, 5), w(5), refused=True)
case("Conv", "computed weights", IMAGE, (3, 4, 3, 3), w(3), refused=True)
case("Conv", "computed bias", IMAGE, w(3, 4, 3, 3), (3,), refused=True)
case("ConvTranspose", "computed weights", SMALL, (4, 3, 2, 2), refused=True)
case("PRelu", "computed slope", IMAGE, (4, 1, 1), refused=True)
case("BatchNormalization", "training mode", IMAGE, *NORM, training_mode=1, outputs=3, refused=True)
case("BatchNormalization", "computed scale", IMAGE, (4,), *NORM[1:], refused=True)
case("Gather", "computed indices of computed values", TOKENS, (2,), axis=1, whole={1: 4}, refused=True)
case("Tile", "batch", ROW, ints(2, 1), refused=True)
case("CumSum", "batch", ROW, np.array(0, np.int64), refused=True)
case("ReduceMean", "batch", IMAGE, ints(0), refused=True)
case("ReduceMean", "everything", ROW, keepdims=0, refused=True)
case("Concat", "batch", ROW, ROW, axis=0, refused=True)
case("Pad", "reflect", IMAGE, ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect", refused=True)
case("Pad", "computed value", ROW, ints(0, 1, 0, 2), (), refused=True)
case("Clip", "computed bound", ROW, (), refused=True)
case("Cast", "to whole numbers", ROW, to=7, refused=True)

# ---- elementwise functions -----------------------------------------------------------------------------------------
for name in ("Neg", "Abs", "Exp", "Erf", "Sin", "Cos", "Softplus", "Softsign", "Mish"):
    case(name, "image", IMAGE, opset=22)
for name in ("Sqrt", "Reciprocal", "Log"):
    case(name, "image", IMAGE, low=0.3)
case("Reciprocal", "negative", ROW, low=-5.0)
case("Gelu", "default", IMAGE)
case("Gelu", "tanh", IMAGE, approximate="tanh")
case("Selu", "default", IMAGE)
case("Selu", "alpha and gamma", IMAGE, alpha=0.7, gamma=1.3)
case("Celu", "default", IMAGE)
case("Celu", "alpha", IMAGE, alpha=0.4)
case("ThresholdedRelu", "default", IMAGE)
case("ThresholdedRelu", "alpha", IMAGE, alpha=0.4)
case("Swish", "default", IMAGE, opset=24)
case("Swish", "alpha", IMAGE, alpha=0.4, opset=24)
case("Pow", "square", IMAGE, scalar(2))
case("Pow", "square, whole exponent", IMAGE, np.array(2, np.int64))
case("Pow", "cube of each channel", IMAGE, w(4, 1, 1, low=1.2, high=3.0), low=0.3)
case("Pow", "root", ROW, scalar(0.5), low=0.3)
case("Pow", "constant base", w(5, low=0.3), ROW)
case("Pow", "both computed", IMAGE, ("N", 4, 1, 1), low=0.3)
case("Mod", "remainder", IMAGE, scalar(0.7), fmod=1)
case("Mod", "both computed", IMAGE, ("N", 4, 1, 1), fmod=1, low=0.3)
for name in ("Sum", "Mean", "Max", "Min"):
    case(name, "one", IMAGE)
    case(name, "two", IMAGE, IMAGE)
    case(name, "parameter", IMAGE, w(4, 1, 1))
    case(name, "three that spread", IMAGE, ("N", 4, 1, 1), ("N", 1, 7, 1))
    case(name, "two and a parameter", IMAGE, w(1, 7, 6), ("N", 4, 1, 1))
for name in ("Max", "Min"):
    case(name, "zero", IMAGE, scalar(0))
    case(name, "with itself shaped", ("N", 3, 1, 4), ("N", 1, 3, 1))

# ---- reductions ----------------------------------------------------------------------------------------------------
for name in ("Sum", "Max", "Min", "L1", "L2", "SumSquare", "Prod", "LogSum", "LogSumExp"):
    low = 0.3 if name == "LogSum" else -2.0
    name = f"Reduce{name}"
    case(name, "space", IMAGE, ints(2, 3), low=low)
    case(name, "space, axes dropped", IMAGE, ints(-2, 3), keepdims=0, low=low)
    case(name, "channels", IMAGE, ints(1), low=low)
    case(name, "channels, axis dropped", IMAGE, ints(-3), keepdims=0, low=low)
    if name != "ReduceProd":
        case(name, "batch", IMAGE, ints(0), low=low, refused=True)
case("ReduceSum", "nothing", IMAGE, noop_with_empty_axes=1)
case("ReduceMax", "nothing", IMAGE, noop_with_empty_axes=1)
case("ReduceSum", "all but the batch", IMAGE, ints(1, 2, 3), keepdims=0)
case("GlobalMaxPool", "image", IMAGE)
case("GlobalMaxPool", "signal", SIGNAL)
case("GlobalLpPool", "image", IMAGE)
case("GlobalLpPool", "cubes", SIGNAL, p=3)
case("GlobalLpPool", "absolute", SIGNAL, p=1)
case("LpPool", "image", IMAGE, kernel_shape=[2, 2], strides=[2, 1])
case("LpPool", "cubes, padded", SIGNAL, kernel_shape=[3], pads=[1, 1], p=3)
for name in ("ArgMax", "ArgMin"):
    case(name, "default", SIGNAL, axis=2)
    case(name, "axis dropped", IMAGE, axis=-1, keepdims=0)

# ---- normalisation by the data's own statistics --------------------------------------------------------------------
case("LogSoftmax", "last axis", ROW)
case("LogSoftmax", "channels", IMAGE, axis=1)
case("LayerNormalization", "last axis", ("N", 4, 5), w(5), w(5))
case("LayerNormalization", "no bias", ("N", 4, 5), w(5))
case("LayerNormalization", "two axes", ("N", 4, 3, 5), w(3, 5), w(3, 5), axis=-2)
case("LayerNormalization", "from the front, epsilon", ("N", 4, 5), w(4, 5), w(4, 5), axis=1, epsilon=0.1)
case("LayerNormalization", "statistics handed out", ("N", 4, 5), w(5), w(5), outputs=3)
case("RMSNormalization", "last axis", ("N", 4, 5), w(5), opset=23)
case("RMSNormalization", "two axes, epsilon", ("N", 4, 3, 5), w(3, 5), axis=-2, epsilon=0.1, opset=23)
case("GroupNormalization", "groups", IMAGE, w(4), w(4), num_groups=2, opset=21)
case("GroupNormalization", "six groups", ("N", 12, 3), w(12), w(12), num_groups=6, opset=21, epsilon=0.1)
case("GroupNormalization", "one group", IMAGE, w(4), w(4), num_groups=1, opset=21)
case("GroupNormalization", "a group for each channel", IMAGE, w(4), w(4), num_groups=4, opset=21)
case("InstanceNormalization", "image", IMAGE, w(4), w(4))
case("InstanceNormalization", "signal, epsilon", SIGNAL, w(4), w(4), epsilon=0.1)
case("MeanVarianceNormalization", "space", IMAGE, axes=[2, 3])
case("MeanVarianceNormalization", "channels", IMAGE, axes=[1])
case("MeanVarianceNormalization", "batch", IMAGE, refused=True)
case("LpNormalization", "channels", IMAGE, axis=1)
case("LpNormalization", "absolute", IMAGE, axis=-1, p=1)
case("LRN", "default", ("N", 6, 3, 2), size=3)
case("LRN", "strong, wide", ("N", 6, 3, 2), size=5, alpha=0.9, beta=0.6, bias=2.0)
case("LayerNormalization", "computed scale", ("N", 4, 5), (5,), refused=True)
case("RMSNormalization", "computed scale", ("N", 4, 5), (5,), opset=23, refused=True)
case("InstanceNormalization", "computed scale", IMAGE, (4,), w(4), refused=True)
case("InstanceNormalization", "computed bias", IMAGE, w(4), (4,), refused=True)

# ---- einsum --------------------------------------------------------------------------------------------------------
TOKENS: Shape = ("N", 4, 5)
case("Einsum", "matrix", ROW, w(5, 3), equation="ni,io->no")
case("Einsum", "matrix for every token", TOKENS, w(3, 5), equation="ntc, oc -> nto")
case("Einsum", "ellipsis", TOKENS, w(5, 3), equation="...i,ij->...j")
case("Einsum", "ellipsis, implicit", TOKENS, w(5, 3), equation="...i,ij")
case("Einsum", "ellipses that spread", ("N", 1, 4, 5), w(1, 2, 5, 3), equation="...ij,...jk->...ik")
case("Einsum", "implicit", ROW, w(5, 3), equation="ni,io")
case("Einsum", "scores", ("N", 2, 4, 5), ("N", 2, 3, 5), equation="bhqd,bhkd->bhqk")
case("Einsum", "values", ("N", 2, 4, 3), ("N", 3, 2, 5), equation="bhqk,bkhd->bqhd")
case("Einsum", "three", TOKENS, w(5, 3), ("N", 3), equation="ntc,co,no->nt")
case("Einsum", "transpose", TOKENS, equation="ntc->nct")
case("Einsum", "sum of one", IMAGE, equation="nchw->nc")
case("Einsum", "sum of one of two", TOKENS, w(5, 3), equation="ntc,co->no")
case("Einsum", "parameter on the left", w(3, 4), TOKENS, equation="st,ntc->nsc")
case("Einsum", "right side without a batch", TOKENS, (5, 3), equation="ntc,co->nto")
case("Einsum", "diagonal", ("N", 4, 4), equation="nii->ni", refused=True)
case("Einsum", "sum over the batch", ROW, equation="ni->i", refused=True)

# ---- recurrent -----------------------------------------------------------------------------------------------------
STEPS: Shape = (3, "N", 5)
for name, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    one, two = (w(1, gates * 6, 5), w(1, gates * 6, 6)), (w(2, gates * 6, 5), w(2, gates * 6, 6))
    case(name, "no bias", STEPS, *one, hidden_size=6)
    case(name, "bias", STEPS, *one, w(1, 2 * gates * 6), hidden_size=6)
    case(name, "backwards", STEPS, *one, w(1, 2 * gates * 6), hidden_size=6, direction="reverse")
    case(name, "both ways", STEPS, *two, w(2, 2 * gates * 6), hidden_size=6, direction="bidirectional", outputs=2)
    case(name, "first state", STEPS, *one, None, None, (1, "N", 6), hidden_size=6, outputs=2)
    case(name, "lengths", STEPS, *one, None, np.array([2, 3], np.int32), hidden_size=6)
    case(name, "clip", STEPS, *one, hidden_size=6, clip=0.2)
case("GRU", "reset after", STEPS, w(1, 18, 5), w(1, 18, 6), w(1, 36), hidden_size=6, linear_before_reset=1)
case("RNN", "relu", STEPS, w(1, 6, 5), w(1, 6, 6), hidden_size=6, activations=["Relu"])
case("LSTM", "peepholes", STEPS, w(1, 24, 5), w(1, 24, 6), None, None, None, None, w(1, 18), hidden_size=6, outputs=3)
case("LSTM", "both states", STEPS, w(1, 24, 5), w(1, 24, 6), None, None, (1, "N", 6), (1, "N", 6), hidden_size=6)
case(
    "LSTM",
    "other activations",
    STEPS,
    w(1, 24, 5),
    w(1, 24, 6),
    hidden_size=6,
    activations=["HardSigmoid", "Relu", "Tanh"],
)
