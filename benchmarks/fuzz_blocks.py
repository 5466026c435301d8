"""What a random network is made of: a block takes a value, adds a node or a few, and hands back what it makes.

A block may ask for what does not fit; the network then goes on without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from benchmarks.fuzz_nets import Draft

    Block = Callable[[Draft, str], str | list[str]]

BLOCKS: dict[str, Block] = {}


def block(function: Block) -> Block:
    """Enter a block into the table."""
    BLOCKS[function.__name__] = function
    return function


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def f32(value: float) -> np.ndarray:
    return np.array(value, np.float32)


# ---- each element alone --------------------------------------------------------------------------------------------
PLAIN = ["Relu", "Sigmoid", "Tanh", "HardSwish", "Neg", "Abs", "Identity", "Dropout", "Selu", "Softplus", "Softsign"]
PLAIN += ["Mish", "Erf", "Exp", "Sin", "Cos", "Floor", "Ceil", "Round", "Sign", "Celu", "Gelu", "LeakyRelu", "Elu"]
PLAIN += ["HardSigmoid", "ThresholdedRelu", "Sinh", "Cosh", "Atan"]
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "LeakyRelu": [{}, {"alpha": 0.3}, {"alpha": 1.5}],
    "Elu": [{}, {"alpha": 0.4}],
    "Celu": [{}, {"alpha": 2.0}],
    "Gelu": [{}, {"approximate": "tanh"}],
    "HardSigmoid": [{}, {"alpha": 1 / 6}, {"alpha": 0.3, "beta": 0.1}],
    "ThresholdedRelu": [{}, {"alpha": 0.1}],
}


@block
def relu(g: Draft, x: str) -> str:
    return g.add("Relu", x)


@block
def unary(g: Draft, x: str) -> str:
    kind = g.pick(PLAIN)
    return g.add(kind, x, **g.pick(SETTINGS.get(kind, [{}])))


@block
def positive(g: Draft, x: str) -> str:
    """Functions of what is above 0."""
    y = g.add("Add", g.add("Abs", x), f32(0.1))
    kind = g.pick(["Sqrt", "Log", "Reciprocal", "Pow"])
    return g.add(kind, y, *([f32(g.pick([1.5, 0.5, -1, 2, 3]))] if kind == "Pow" else []))


@block
def power(g: Draft, x: str) -> str:
    return g.add("Pow", x, f32(g.pick([2.0, 3.0])))


@block
def clip(g: Draft, x: str) -> str:
    low, high = g.pick([(0, 6), (0, None), (-0.5, 0.75), (None, 0.5), (-1, None), (0, 1), (-1, 1)])
    return g.add("Clip", x, None if low is None else f32(low), *([] if high is None else [f32(high)]))


@block
def prelu(g: Draft, x: str) -> str:
    return g.add("PRelu", x, broadcasting(g, x, g.shape(x)[1:]))


@block
def cast(g: Draft, x: str) -> str:
    whole = g.add("Cast", g.add("Mul", x, f32(5)), to=TensorProto.INT64)
    return g.add("Cast", whole, to=TensorProto.FLOAT)


# ---- two values ----------------------------------------------------------------------------------------------------
def broadcasting(g: Draft, x: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights of a shape that broadcasts to this one."""
    sizes = [d if g.flag() else 1 for d in shape]
    return g.c(*sizes[g.upto(len(sizes) + 1) if g.flag() else 0 :], low=g.pick([-1.0, 0.2]))


@block
def with_weights(g: Draft, x: str) -> str:
    kind, c = g.pick(["Add", "Mul", "Sub", "Div", "Max", "Min"]), broadcasting(g, x, g.shape(x)[1:])
    return g.add(kind, c, x) if g.flag() and kind != "Div" else g.add(kind, x, np.abs(c) + 1 if kind == "Div" else c)


@block
def with_value(g: Draft, x: str) -> str:
    kind, y = g.pick(["Add", "Mul", "Sub", "Max", "Min", "Div", "Mean", "Sum"]), g.other(x)
    if kind == "Div":
        y = g.add("Add", g.add("Abs", y), f32(0.5))
    return g.add(kind, *((y, x) if g.flag() and kind != "Div" else (x, y)))


@block
def residual(g: Draft, x: str) -> str:
    alike = [y for y in g.pool if g.shape(y) == g.shape(x)]
    return g.add("Add", x, g.pick(alike))


@block
def compared(g: Draft, x: str) -> str:
    kind = g.pick(["Greater", "Less", "GreaterOrEqual", "LessOrEqual"])
    truth = g.add(kind, x, g.other(x) if g.flag() else f32(0.1))
    if g.flag():
        truth = g.add("Not", truth)
    if g.flag():
        truth = g.add(g.pick(["And", "Or", "Xor"]), truth, g.add("Less", x, f32(0.7)))
    return g.add("Where", truth, x, g.other(x) if g.flag() else f32(0.1))


@block
def chosen(g: Draft, x: str) -> str:
    mask = np.random.default_rng(g.upto(9)).integers(0, 2, g.shape(x)[1:]).astype(bool)
    return g.add("Where", mask, *((x, g.other(x)) if g.flag() else (f32(0.3), x)))


@block
def gate(g: Draft, x: str) -> str:
    """Squeeze and excitation without weights."""
    return g.add("Mul", x, g.add("Sigmoid", g.add("GlobalAveragePool", x)))


# ---- norms, softmax, reductions ------------------------------------------------------------------------------------
@block
def batch_norm(g: Draft, x: str) -> str:
    c = g.shape(x)[1]
    return g.add("BatchNormalization", x, g.c(c, low=0.3), g.c(c), g.c(c), g.c(c, low=0.2))


@block
def layer_norm(g: Draft, x: str) -> str:
    axis = 1 + g.upto(len(g.shape(x)) - 1)
    size = g.shape(x)[axis:]
    bias = [g.c(*size)] if g.flag() else []
    return g.add("LayerNormalization", x, g.c(*size, low=0.3), *bias, axis=axis - g.pick([0, len(g.shape(x))]))


@block
def instance_norm(g: Draft, x: str) -> str:
    c = g.shape(x)[1]
    return g.add("InstanceNormalization", x, g.c(c, low=0.3), g.c(c))


@block
def other_norm(g: Draft, x: str) -> str:
    kind = g.pick(["LRN", "LpNormalization", "MeanVarianceNormalization"])
    settings: dict[str, Any] = {}
    if kind == "LRN":
        settings = {"size": g.pick([3, 2, 5]), "alpha": g.pick([1e-4, 0.5]), "bias": 1.0}
    elif kind == "LpNormalization":
        settings = {"p": g.pick([2, 1]), "axis": 1 + g.upto(len(g.shape(x)) - 1)}
    else:
        settings = {"axes": [1 + g.upto(len(g.shape(x)) - 1)]}
    return g.add(kind, x, **settings)


@block
def softmax(g: Draft, x: str) -> str:
    axis = 1 + g.upto(len(g.shape(x)) - 1)
    return g.add(g.pick(["Softmax", "LogSoftmax"]), x, axis=axis - g.pick([0, len(g.shape(x))]))


REDUCTIONS = ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1", "ReduceSumSquare"]
REDUCTIONS += ["ReduceLogSumExp", "ReduceLogSum", "ReduceProd"]


@block
def reduced(g: Draft, x: str) -> str:
    rank, kind = len(g.shape(x)), g.pick(REDUCTIONS)
    axes = sorted({1 + g.upto(rank - 1) for _ in range(1 + g.upto(2))})
    y = g.add("Abs", x) if kind == "ReduceLogSum" else x
    y = g.add(kind, y, ints(*(a - g.pick([0, rank]) for a in axes)), keepdims=1 if len(axes) > rank - 2 else g.upto(2))
    return g.add("Sub", x, y) if len(g.shape(y)) == rank and g.flag() else y


@block
def argument(g: Draft, x: str) -> str:
    axis = 1 + g.upto(len(g.shape(x)) - 1)
    y = g.add(g.pick(["ArgMax", "ArgMin"]), x, axis=axis, keepdims=1)
    return g.add("Add", x, g.add("Mul", g.add("Cast", y, to=TensorProto.FLOAT), f32(0.1)))


@block
def global_pool(g: Draft, x: str) -> str:
    y = g.add(g.pick(["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"]), x)
    return g.add("Flatten", y) if g.flag() else y


@block
def cumulated(g: Draft, x: str) -> str:
    settings = {"exclusive": g.upto(2), "reverse": g.upto(2)}
    return g.add("CumSum", x, np.array(1 + g.upto(len(g.shape(x)) - 1)), **settings)


# ---- products ------------------------------------------------------------------------------------------------------
@block
def linear(g: Draft, x: str) -> str:
    k, m = g.shape(x)[-1], 2 + g.upto(6)
    y = g.add("MatMul", x, g.he(k, m, fan=k))
    return g.add("Add", y, g.c(m)) if g.flag() else y


@block
def dense(g: Draft, x: str) -> str:
    y = g.add("Flatten", x) if len(g.shape(x)) > 2 else x
    k, m, turned = g.shape(y)[1], 2 + g.upto(6), g.upto(2)
    bias = [g.c(*g.pick([(m,), (1, m), (1,)]))] if g.flag() else []
    settings = g.pick([{}, {"alpha": 0.5}, {"alpha": 2.0, "beta": 0.5}])
    return g.add("Gemm", y, g.he(*((m, k) if turned else (k, m)), fan=k), *bias, transB=turned, **settings)


@block
def left(g: Draft, x: str) -> str:
    """A constant matrix times each matrix."""
    k = g.shape(x)[-2] if len(g.shape(x)) > 2 else 0
    return g.add("MatMul", g.he(2 + g.upto(5), k), x)


@block
def product(g: Draft, x: str) -> str:
    """x·xᵀ, xᵀ·x, or with another value."""
    rank = len(g.shape(x))
    if rank < 3:
        return g.add("Einsum", x, g.other(x), equation="ni,nj->nij")
    turned = g.add("Transpose", x, perm=[*range(rank - 2), rank - 1, rank - 2])
    y = g.add("MatMul", *g.pick([(x, turned), (turned, x), (x, g.other(x))]))
    return g.add("Mul", y, f32(0.3))


@block
def einsum(g: Draft, x: str) -> str:
    d = g.shape(x)
    if len(d) == 3:
        equation, weights = g.pick([("nij,jk->nik", (d[2], 3)), ("nij,ik->nkj", (d[1], 4)), ("nij,ij->ni", d[1:])])
    elif len(d) == 4:
        equation, weights = g.pick([("nchw,cd->ndhw", (d[1], 3)), ("nhwc,cd->nhwd", (d[3], 4))])
    else:
        equation, weights = "ni,ij->nj", (d[1], 3)
    return g.add("Einsum", x, g.he(*weights, fan=weights[0]), equation=equation)


@block
def attention(g: Draft, x: str) -> str:
    """Heads over [N, T, C]."""
    _, t, c = g.shape(x)
    heads = g.pick([h for h in (2, 1, 3, 4) if c % h == 0])
    q, k, v = (g.add("MatMul", x, g.he(c, c, fan=c)) for _ in range(3))
    q, k, v = (g.add("Reshape", y, ints(-1, t, heads, c // heads)) for y in (q, k, v))
    q, v = (g.add("Transpose", y, perm=[0, 2, 1, 3]) for y in (q, v))
    k = g.add("Transpose", k, perm=[0, 2, 3, 1])
    score = g.add("Mul", g.add("MatMul", q, k), f32(0.5))
    if g.flag():
        score = g.add("Add", score, g.c(heads, t, t))
    y = g.add("MatMul", g.add("Softmax", score, axis=-1), v)
    y = g.add("Reshape", g.add("Transpose", y, perm=[0, 2, 1, 3]), ints(-1, t, c))
    return g.add("Add", x, y) if g.flag() else y


@block
def shared(g: Draft, x: str) -> str:
    """An earlier node once more, with the same weights."""
    node = g.pick([n for n in g.nodes if len(n.input) > 1 and n.op_type in ("Conv", "MatMul", "Gemm", "PRelu", "Add")])
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return g.add(node.op_type, *(n if n in g.parameters else x for n in node.input), **settings)


@block
def remainder(g: Draft, x: str) -> str:
    return g.add("Mod", x, f32(g.pick([1.5, 0.7])), fmod=1)


@block
def equal(g: Draft, x: str) -> str:
    whole = g.add("Cast", g.add("Mul", x, f32(2)), to=TensorProto.INT64)
    return g.add("Where", g.add("Equal", whole, ints(0)), x, g.add("Tanh", x))


# ---- windows -------------------------------------------------------------------------------------------------------
def window(g: Draft, rank: int, ceil: bool = False) -> dict[str, Any]:
    """Attributes of a window over so many axes."""
    found: dict[str, Any] = {"kernel_shape": [g.pick([3, 1, 2, 4]) for _ in range(rank)]}
    if g.flag():
        found["strides"] = [1 + g.upto(3) for _ in range(rank)]
    if g.upto(4) == 1:
        found["dilations"] = [1 + g.upto(3) for _ in range(rank)]
    how = g.upto(6)
    if how == 1:
        found["pads"] = [k // 2 for k in found["kernel_shape"]] * 2
    elif how == 2:
        found["pads"] = [g.upto(k) for k in found["kernel_shape"] * 2]
    elif how in (3, 4) and "dilations" not in found:
        found["auto_pad"] = ("SAME_UPPER", "SAME_LOWER")[how - 3]
    elif how == 5:
        found["auto_pad"] = "VALID"
    if ceil and g.flag():
        found["ceil_mode"] = 1
    return found


def space(g: Draft, x: str) -> tuple[int, int]:
    """Channels, and the number of axes behind them."""
    shape = g.shape(x)
    return shape[1], len(shape) - 2


@block
def conv(g: Draft, x: str) -> str:
    c, rank = space(g, x)
    groups = g.pick([1, 1, c, *(k for k in (2, 3) if c % k == 0)])
    m = groups * (1 + g.upto(6 if groups == 1 else 3))
    settings = window(g, rank)
    bias = [g.c(m)] if g.flag() else []
    return g.add("Conv", x, g.he(m, c // groups, *settings["kernel_shape"]), *bias, group=groups, **settings)


@block
def conv_norm(g: Draft, x: str) -> str:
    y = batch_norm(g, conv(g, x))
    return g.add("Relu", y) if g.flag() else y


@block
def transposed_conv(g: Draft, x: str) -> str:
    c, rank = space(g, x)
    groups = g.pick([1, 1, c, *(k for k in (2, 3) if c % k == 0)])
    settings, m = window(g, rank), 1 + g.upto(4)
    if "strides" in settings and "auto_pad" not in settings and g.flag():
        settings["output_padding"] = [g.upto(s) for s in settings["strides"]]
    bias = [g.c(m * groups)] if g.flag() else []
    weights = g.he(c, m, *settings["kernel_shape"], fan=c // groups * 2)
    return g.add("ConvTranspose", x, weights, *bias, group=groups, **settings)


@block
def pool(g: Draft, x: str) -> str:
    kind = g.pick(["MaxPool", "AveragePool", "LpPool"])
    settings = window(g, space(g, x)[1], ceil=True)
    if kind == "AveragePool":
        settings["count_include_pad"] = g.upto(2)
    if kind == "LpPool":
        settings["p"] = g.pick([2, 1, 3])
    return g.add(kind, x, **settings)


# ---- positions -----------------------------------------------------------------------------------------------------
@block
def transpose(g: Draft, x: str) -> str:
    left = list(range(1, len(g.shape(x))))
    return g.add("Transpose", x, perm=[0, *(left.pop(g.upto(len(left))) for _ in range(len(left)))])


@block
def reshape(g: Draft, x: str) -> str:
    """Axes that are merged, and split again."""
    sizes: list[int] = []
    for d in g.shape(x)[1:]:
        if sizes and g.flag():
            sizes[-1] *= d
        else:
            sizes.append(d)
    if g.flag():
        at = g.upto(len(sizes))
        parts = [k for k in range(2, sizes[at]) if sizes[at] % k == 0]
        k = g.pick(parts)
        sizes[at : at + 1] = [k, sizes[at] // k]
    return g.add("Reshape", x, ints(-1, *sizes))


@block
def across(g: Draft, x: str) -> str:
    """A reshape that keeps no axis."""
    total = math.prod(g.shape(x)[1:])
    k = g.pick([k for k in range(2, total) if total % k == 0])
    return g.add("Reshape", x, ints(-1, k, total // k))


@block
def flatten(g: Draft, x: str) -> str:
    return g.add("Flatten", x)


@block
def unit_axes(g: Draft, x: str) -> str:
    ones = [a for a, d in enumerate(g.shape(x)) if a and d == 1]
    if ones and g.flag():
        return g.add("Squeeze", x, ints(g.pick(ones)))
    return g.add("Unsqueeze", x, ints(1 + g.upto(len(g.shape(x)))))


@block
def concat(g: Draft, x: str) -> str:
    axis = 1 + g.upto(len(g.shape(x)) - 1)
    fits = [y for y in g.pool if len(g.shape(y)) == len(g.shape(x))]
    fits = [
        y for y in fits if all(a == b for i, (a, b) in enumerate(zip(g.shape(y), g.shape(x), strict=True)) if i != axis)
    ]
    parts = [x, *(g.pick(fits) for _ in range(1 + g.upto(2)))]
    return g.add("Concat", *parts[:: g.pick([1, -1])], axis=axis)


@block
def shuffle(g: Draft, x: str) -> str:
    """Channels of groups one after the other."""
    _, c, *rest = g.shape(x)
    k = g.pick([k for k in (2, 3, 4) if c % k == 0 and c > k])
    y = g.add("Reshape", x, ints(-1, k, c // k, *rest))
    y = g.add("Transpose", y, perm=[0, 2, 1, *range(3, 3 + len(rest))])
    return g.add("Reshape", y, ints(-1, c, *rest))


@block
def split(g: Draft, x: str) -> list[str]:
    axis = 1 + g.upto(len(g.shape(x)) - 1)
    first = 1 + g.upto(g.shape(x)[axis] - 1)
    sizes = ints(first, g.shape(x)[axis] - first)
    return g.add("Split", x, sizes, out=2, axis=axis)


@block
def cut(g: Draft, x: str) -> str:
    """A Slice of one axis or two."""
    axes = sorted({1 + g.upto(len(g.shape(x)) - 1) for _ in range(1 + g.upto(2))})
    starts, ends, steps = [], [], []
    for a in axes:
        d, step = g.shape(x)[a], g.pick([1, 1, 2, 3, -1, -2])
        low, high = g.upto(max(d // 2, 1)), d - g.upto(max(d // 2, 1))
        low, high = (low - d, high) if g.flag() else (low, high)
        starts, ends = [*starts, low if step > 0 else high - 1], [*ends, high if step > 0 else low - 1 - (low == 0) * d]
        steps.append(step)
    return g.add("Slice", x, ints(*starts), ints(*ends), ints(*axes), ints(*steps))


@block
def gather(g: Draft, x: str) -> str:
    axis = 1 + g.upto(len(g.shape(x)) - 1)
    d = g.shape(x)[axis]
    if g.upto(4) == 1 and len(g.shape(x)) > 2:
        return g.add("Gather", x, np.array(g.upto(d)), axis=axis)
    return g.add("Gather", x, ints(*(g.upto(2 * d) - d for _ in range(1 + g.upto(d + 2)))), axis=axis)


@block
def pad(g: Draft, x: str) -> str:
    mode = g.pick(["constant", "reflect", "edge", "wrap"])
    around = [[0, 0] if a == 0 or g.flag() else [g.upto(3), g.upto(3)] for a in range(len(g.shape(x)))]
    if g.upto(4) == 1:
        around = [[-b if d > 4 else b, e] for d, (b, e) in zip(g.shape(x), around, strict=True)]
    value = [f32(0.5)] if mode == "constant" and g.flag() else []
    return g.add("Pad", x, ints(*(b for b, _ in around), *(e for _, e in around)), *value, mode=mode)


@block
def expand(g: Draft, x: str) -> str:
    sizes = [1] + [2 + g.upto(2) if d == 1 else d for d in g.shape(x)[1:]]
    return g.add("Expand", x, ints(*sizes))


@block
def tile(g: Draft, x: str) -> str:
    return g.add("Tile", x, ints(1, *(1 + g.upto(3) // 2 for _ in g.shape(x)[1:])))


@block
def resize(g: Draft, x: str) -> str:
    shape, mode = g.shape(x), g.pick(["nearest", "linear", "cubic"])
    settings: dict[str, Any] = {"mode": mode}
    if g.flag():
        settings["coordinate_transformation_mode"] = g.pick(["asymmetric", "align_corners", "pytorch_half_pixel"])
    if mode == "nearest" and g.flag():
        settings["nearest_mode"] = g.pick(["floor", "ceil", "round_prefer_ceil"])
    axes = range(2, len(shape))
    if g.flag():
        sizes = [1 + g.upto(2 * shape[a]) if a in axes else d for a, d in enumerate(shape)][1:]
        return g.add("Resize", x, None, None, ints(*sizes), axes=list(range(1, len(shape))), **settings)
    scales = [g.pick([2.0, 3.0, 0.5, 1.0, 1.5]) if a in axes else 1.0 for a in range(len(shape))]
    return g.add("Resize", x, None, np.array(scales, np.float32), **settings)


@block
def depth_to_space(g: Draft, x: str) -> str:
    return g.add("DepthToSpace", x, blocksize=2, mode=g.pick(["DCR", "CRD"]))


@block
def space_to_depth(g: Draft, x: str) -> str:
    return g.add("SpaceToDepth", x, blocksize=g.pick([2, 3]))


@block
def triangle(g: Draft, x: str) -> str:
    if len(g.shape(x)) < 3:
        return linear(g, x)
    return g.add("Trilu", x, *([np.array(g.upto(3) - 1)] if g.flag() else []), upper=g.upto(2))


@block
def windows(g: Draft, x: str) -> str:
    """Patches of an image as samples of their own, a product there, and back."""
    _, c, h, w = g.shape(x)
    a, b = (g.pick([k for k in (2, 3, 1) if d % k == 0]) for d in (h, w))
    y = g.add("Reshape", x, ints(-1, c, h // a, a, w // b, b))
    y = g.add("Reshape", g.add("Transpose", y, perm=[0, 2, 4, 3, 5, 1]), ints(-1, a * b, c))
    y = g.add("MatMul", y, g.he(c, c, fan=c))
    y = g.add("Add", y, g.add("Mul", g.add("ReduceMean", y, ints(1)), f32(0.5)))
    y = g.add("Reshape", y, ints(-1, h // a, w // b, a, b, c))
    return g.add("Reshape", g.add("Transpose", y, perm=[0, 5, 1, 3, 2, 4]), ints(-1, c, h, w))


@block
def recurrent(g: Draft, x: str) -> list[str]:
    """A sequence [N, T, C], all outputs with the samples in front."""
    _, t, c = g.shape(x)
    kind, hidden, both = g.pick(["LSTM", "GRU", "RNN"]), 1 + g.upto(5), g.pick(["forward", "reverse", "bidirectional"])
    count, rows = 1 + (both == "bidirectional"), {"LSTM": 4, "GRU": 3, "RNN": 1}[kind] * hidden
    bias = [g.c(count, 2 * rows)] if g.flag() else []
    settings = {"linear_before_reset": g.upto(2)} if kind == "GRU" else {}
    y, h, *_ = g.add(
        kind,
        g.add("Transpose", x, perm=[1, 0, 2]),
        g.he(count, rows, c, fan=c),
        g.he(count, rows, hidden, fan=hidden),
        *bias,
        out=3 if kind == "LSTM" else 2,
        hidden_size=hidden,
        direction=both,
        **settings,
    )
    y = g.add("Reshape", g.add("Transpose", y, perm=[2, 0, 1, 3]), ints(-1, t, count * hidden))
    return [y, g.add("Transpose", h, perm=[1, 0, 2])]
