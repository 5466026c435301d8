"""Emitted pointwise ops, reductions, norms, products and picks; one row of CASES for each variant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emit.test_tflite import (
    CONV,
    IMAGE,
    KERNELS,
    TOLERANCE,
    Net,
    chain,
    gap,
    ints,
    one,
    samples,
    versions,
    weights,
    written,
)
from onnx import TensorProto

from toolchain.emit import to_tflite
from toolchain.emit.child import run
from toolchain.emit.run import onnx_outputs
from toolchain.errors import Unsupported

FLOAT = ("Cast", {"to": TensorProto.FLOAT})
NO_REFERENCE = ("selu", "celu", "ceil", "round", "Abs")  # LiteRT 2.3 has none for ELU, CEIL, ROUND, ABS of int32
LAYOUTS: dict[str, Any] = {
    "an image": (IMAGE,),
    "behind a conv": (IMAGE, CONV),
    "behind a flatten": (IMAGE, CONV, ("Flatten",)),
    "a vector": ((7,),),
    "tokens": ((5, 7),),
    "rank 5": ((2, 3, 4, 5),),
}
UNARY: dict[str, Any] = {
    "erf": [("Erf",)],
    "erf of small numbers": [("Mul", np.float32(1e-4)), ("Erf",)],
    "erf of large numbers": [("Mul", np.float32(5)), ("Erf",)],
    "selu": [("Selu",)],
    "celu": [("Celu", {"alpha": 0.7})],
    "softplus": [("Softplus",)],
    "softplus of large numbers": [("Mul", np.float32(100)), ("Softplus",)],
    "softplus of small results": [("Sub", np.float32(20)), ("Softplus",)],
    "softsign": [("Softsign",)],
    "mish": [("Mish",)],
    "mish of large numbers": [("Mul", np.float32(100)), ("Mish",)],
    "thresholded relu": [("ThresholdedRelu", {"alpha": 0.3})],
    "reciprocal": [("Abs",), ("Add", np.float32(1)), ("Reciprocal",)],
    "ceil": [("Ceil",)],
    "floor": [("Floor",)],
    "round": [("Mul", np.float32(4)), ("Round",), ("Mul", np.float32(0.5)), ("Round",)],  # halves go to even
    "sign": [("Sign",)],
    "not": [("Greater", np.float32(0)), ("Not",), FLOAT],
    "is nan": [("Log",), ("IsNaN",), FLOAT],
    "is inf": [("Floor",), ("Abs",), ("Log",), ("IsInf",), FLOAT],
    "is negative inf": [("Floor",), ("Abs",), ("Log",), ("IsInf", {"detect_positive": 0}), FLOAT],
    "is positive inf": [("Floor",), ("Abs",), ("Log",), ("Neg",), ("IsInf", {"detect_negative": 0}), FLOAT],
    "square": [("Pow", np.float32(2))],
    "power of whole numbers": [("Pow", ints(3))],
    "power of a root": [("Abs",), ("Add", np.float32(1)), ("Pow", np.array([0.5], np.float32))],
}
COMPARED = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
LOGIC = ("And", "Or", "Xor")
REDUCED = ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceMean")


def reduced(kind: str, *steps: Any) -> list[Any]:
    """A reduction of values for which it is defined."""
    return [*([("Abs",)] if kind == "ReduceLogSum" else []), (kind, *steps)]


def compared(kind: str, shape: tuple[int, ...], other: Any, swap: bool = False) -> Any:
    """Of two whole values, so that some are equal."""

    def build() -> Net:
        net = Net(shape, *([other] if isinstance(other, tuple) else []))
        a = net.op("Floor", "x")
        b = net.op("Floor", "x1") if isinstance(other, tuple) else np.floor(other)
        net.op("Cast", net.op(kind, *((b, a) if swap else (a, b))), to=TensorProto.FLOAT)
        return net

    return build


def logic(kind: str) -> Any:
    """Of two comparisons of different shapes."""

    def build() -> Net:
        net = Net(IMAGE, (6, 1, 1))
        a, b = net.op("Greater", net.op("Conv", "x", weights(6, 6, 1, 1)), np.float32(0)), net.op("Less", "x1", "x")
        net.op("Cast", net.op(kind, a, net.op("Not", b)), to=TensorProto.FLOAT)
        return net

    return build


def chosen(condition: Any, *sides: Any, shape: tuple[int, ...] = IMAGE) -> Any:
    """A Where; condition None asks whether x > 0; a side None is the convolved x."""

    def build() -> Net:
        net = Net(shape)
        y = net.op("Conv", "x", weights(shape[0], shape[0], 1, 1)) if len(shape) == 3 else "x"
        asked = net.op("Greater", "x", np.float32(0)) if condition is None else condition
        net.op("Where", asked, *(y if s is None else s for s in sides))
        return net

    return build


def norm_of(kind: str, shape: tuple[int, ...], *parameters: Any, before: Any = (), **attributes: Any) -> Any:
    """A norm far from mean 0."""
    return chain(shape, ("Add", np.float32(3)), *before, (kind, *parameters, attributes))


def embedding(table: np.ndarray) -> Any:
    """Rows of a table by computed places, some counted from its end."""

    def build() -> Net:
        net = Net((4,))
        places = net.op("Cast", net.op("Floor", net.op("Mul", "x", np.float32(2))), to=TensorProto.INT64)
        net.op("Gather", table, net.op("Clip", places, np.array(-9), np.array(9)))
        return net

    return build


def products(kind: str, shape: tuple[int, ...], branches: Any) -> Any:
    """The product of two values made of one, by the nodes of each branch."""

    def build() -> Net:
        net, ends = Net(shape), []
        for steps in branches[:2]:
            y = "x"
            for step, *rest in steps:
                attributes = rest.pop() if rest and isinstance(rest[-1], dict) else {}
                y = net.op(step, y, *rest, **attributes)
            ends.append(y)
        net.op(kind, *ends)
        return net

    return build


CASES: dict[str, Any] = {
    **{f"{k}, {name}": chain(*LAYOUTS[name], *v) for k, v in UNARY.items() for name in list(LAYOUTS)[:2]},
    **{
        f"{name}, rank {len(shape) + 1}": chain(shape, *UNARY[name])
        for name in ("thresholded relu", "is inf", "power of whole numbers", "erf", "mish")
        for shape in ((2, 3, 4, 5), (2, 3, 2, 4, 5))
    },
    "global Lp pool of a volume": one("GlobalLpPool", (2, 3, 4, 5), p=3),
    **{f"softplus, {name}": chain(*where, ("Softplus",)) for name, where in LAYOUTS.items()},
    **{f"{k}": compared(k, IMAGE, weights(6, 1, 1) * 2) for k in COMPARED},
    **{f"{k} of a constant": compared(k, IMAGE, weights(9, 10) * 2, swap=True) for k in COMPARED},
    **{f"{k} of two": compared(k, IMAGE, (6, 9, 10)) for k in COMPARED},
    "Less of rank 5": compared("Less", (2, 3, 4, 5), weights(3, 1, 1)),
    "Less of rank 6": compared("Less", (2, 3, 4, 2, 5), (2, 1, 1, 2, 5)),
    **{k: logic(k) for k in LOGIC},
    "where": chosen(None, None, np.float32(0)),
    "where of a constant grid": chosen(weights(9, 10) > 0, np.float32(-3), None),
    "where of constant channels": chosen(weights(6, 1, 1) > 0, None, weights(1, 9, 10)),
    "where of two": chosen(None, "x", None),
    "where of rank 6": chosen(weights(4, 2, 1, 1) > 0, np.float32(0), "x", shape=(3, 4, 2, 4, 2)),
    "add of rank 7": one("Add", (2, 3, 2, 2, 2, 2), weights(3, 1, 1, 2, 2)),
    "sub of rank 6": one("Sub", (2, 3, 2, 2, 2), (2, 1, 1, 2, 2)),
    "sum of three": one("Sum", IMAGE, weights(6, 1, 1), (1, 9, 10)),
    "sum of one": one("Sum", IMAGE),
    "mean of three": one("Mean", (6, 1, 10), (1, 9, 1), weights(9, 1)),
    "max of three": one("Max", IMAGE, weights(6, 1, 1), (1, 9, 10)),
    "min of three behind a conv": chain(IMAGE, CONV, ("Min", weights(8, 1, 1), weights(9, 10))),
    "mod": one("Mod", IMAGE, weights(6, 1, 1, low=0.3), fmod=1),
    "mod of negative": one("Mod", IMAGE, weights(9, 10) - np.float32(2), fmod=1),
    **{
        f"{kind} of whole numbers": chain(
            IMAGE, ("Mul", np.float32(3)), ("Cast", {"to": TensorProto.INT64}), (kind, *rest), FLOAT
        )
        for kind, *rest in (("Abs",), ("Sign",), ("Neg",), ("Mul", ints(-3)), ("Div", ints(2)), ("Max", ints(1)))
    },
    "picked and turned truths": chain(
        IMAGE,
        ("Greater", np.float32(0)),
        ("Gather", ints(4, 0, 1), {"axis": 1}),
        ("Transpose", {"perm": [0, 3, 1, 2]}),
        ("Reshape", ints(-1, 30, 9)),
        FLOAT,
    ),
    "mod of whole numbers": chain(
        IMAGE, ("Mul", np.float32(9)), ("Cast", {"to": TensorProto.INT64}), ("Mod", ints(-4)), FLOAT
    ),
    "pow of two": chain(IMAGE, ("Abs",), ("Pow", "x")),
    "pow by channel": chain(IMAGE, CONV, ("Abs",), ("Add", np.float32(1)), ("Pow", weights(8, 1, 1))),
    "prelu of computed slopes": one("PRelu", IMAGE, (6, 1, 1)),
    **{f"{k} over columns": chain(IMAGE, CONV, *reduced(k, ints(3), {"keepdims": 0})) for k in REDUCED},
    **{f"{k} over channels": chain(IMAGE, CONV, *reduced(k, ints(-3))) for k in REDUCED},
    **{f"{k} of a flatten": chain(IMAGE, CONV, ("Flatten",), *reduced(k, ints(1))) for k in REDUCED[:-2]},
    **{f"{k} of rank 5": chain((2, 3, 4, 5), *reduced(k, ints(-2, 2), {"keepdims": 0})) for k in REDUCED},
    "ReduceLogSumExp of large numbers": chain((9,), ("Mul", np.float32(100)), ("ReduceLogSumExp", ints(1))),
    "reduction of nothing": one("ReduceL2", IMAGE, noop_with_empty_axes=1),
    **{f"global Lp pool, p = {p}": one("GlobalLpPool", IMAGE, p=p) for p in (1, 2, 3)},
    "argmax of channels": chain(IMAGE, CONV, ("ArgMax", {"axis": 1}), FLOAT),
    "argmax of channels, gone": chain(IMAGE, CONV, ("ArgMax", {"axis": -3, "keepdims": 0}), FLOAT),
    "argmin of rows": chain(IMAGE, CONV, ("ArgMin", {"axis": 2, "keepdims": 0}), FLOAT),
    "argmax of a flatten": chain(IMAGE, CONV, ("Flatten",), ("ArgMax", {"axis": -1, "keepdims": 0}), FLOAT),
    "argmax of equal ones": chain((40,), ("Floor",), ("ArgMax", {"axis": 1}), FLOAT),
    "softmax over a few branches": chain(
        IMAGE, CONV, ("Reshape", ints(-1, 2, 4, 9, 10)), ("Mul", np.float32(5)), ("Softmax", {"axis": 1})
    ),
    "softmax over one": chain((1, 7), ("Softmax", {"axis": 1})),
    "log softmax": one("LogSoftmax", (7,)),
    "log softmax of large numbers": chain((5, 7), ("Mul", np.float32(200)), ("LogSoftmax",)),
    "log softmax over channels": chain(IMAGE, CONV, ("LogSoftmax", {"axis": 1})),
    "log softmax over rows": one("LogSoftmax", IMAGE, axis=2),
    "layernorm": norm_of("LayerNormalization", (5, 8), weights(8), weights(8, seed=1)),
    "layernorm without bias": norm_of("LayerNormalization", (5, 8), weights(8), epsilon=1e-2),
    "layernorm over three axes": norm_of("LayerNormalization", IMAGE, weights(*IMAGE), weights(10), axis=1),
    "layernorm behind a conv": norm_of("LayerNormalization", IMAGE, weights(10), weights(10), before=[CONV]),
    "layernorm over channels": norm_of(
        "LayerNormalization", IMAGE, weights(8), weights(8), before=[CONV, ("Transpose", {"perm": [0, 2, 3, 1]})]
    ),
    "layernorm of a vector": norm_of("LayerNormalization", (8,), weights(8)),
    "layernorm of a flatten": norm_of(
        "LayerNormalization", IMAGE, weights(720), weights(720), before=[CONV, ("Flatten",)]
    ),
    "layernorm of rank 5": norm_of("LayerNormalization", (2, 3, 4, 5), weights(4, 5), weights(4, 5), axis=-2),
    "instance norm": norm_of("InstanceNormalization", IMAGE, weights(6), weights(6, seed=1)),
    "instance norm behind a conv": norm_of("InstanceNormalization", IMAGE, weights(8), weights(8), before=[CONV]),
    "instance norm of a signal": norm_of("InstanceNormalization", (6, 9), weights(6), weights(6)),
    "instance norm of a volume": norm_of("InstanceNormalization", (6, 3, 4, 5), weights(6), weights(6)),
    "mean variance norm": norm_of("MeanVarianceNormalization", IMAGE, before=[CONV], axes=[2, 3]),
    "mean variance norm over all": norm_of("MeanVarianceNormalization", IMAGE, axes=[1, -2, 3]),
    "lp norm": one("LpNormalization", (5, 7)),
    "lp norm over channels": chain(IMAGE, CONV, ("LpNormalization", {"axis": 1, "p": 1})),
    "lp norm of zeros": chain((5, 7), ("Relu",), ("Mul", weights(5, 1).clip(0)), ("LpNormalization", {"axis": 2})),
    **{
        f"local response of {size}{what}": chain(IMAGE, *before, ("LRN", {"size": size, "alpha": 0.3, "bias": 2.0}))
        for size in (3, 5)
        for what, before in (("", ()), (" behind a conv", (CONV,)))
    },
}

TURN = ("Transpose", {"perm": [0, 2, 1]})
HEADS = (("Reshape", ints(-1, 5, 2, 4)), ("Transpose", {"perm": [0, 2, 1, 3]}))
CASES |= {
    "matmul of a value with its transposed": products("MatMul", (5, 8), ((), (TURN,))),
    "matmul of a transposed value with it": products("MatMul", (5, 8), ((TURN,), ())),
    "matmul of two transposed": products("MatMul", (5, 5), ((TURN,), (TURN,))),
    "matmul of heads": products("MatMul", (5, 8), (HEADS, (*HEADS, ("Transpose", {"perm": [0, 1, 3, 2]})))),
    "matmul of heads with values": products("MatMul", (5, 8), ((*HEADS, ("MatMul", weights(4, 5))), HEADS)),
    "matmul of an image with itself turned": products(
        "MatMul", IMAGE, ((CONV, ("Reshape", ints(-1, 8, 90))), (CONV, ("Reshape", ints(-1, 8, 90)), TURN))
    ),
    "matmul of images": products("MatMul", IMAGE, ((CONV,), (CONV, ("Transpose", {"perm": [0, 1, 3, 2]})))),
    "heads back to an image": chain(
        IMAGE,
        CONV,
        ("Reshape", ints(-1, 2, 4, 90)),
        ("Transpose", {"perm": [0, 1, 3, 2]}),
        ("Softmax",),
        ("Transpose", {"perm": [0, 1, 3, 2]}),
        ("Reshape", ints(-1, 8, 9, 10)),
        ("Conv", weights(3, 8, 1, 1)),
    ),
    "windows and back": chain(
        IMAGE,
        CONV,
        ("Reshape", ints(-1, 8, 3, 3, 5, 2)),
        ("Transpose", {"perm": [0, 2, 4, 3, 5, 1]}),
        ("Reshape", ints(-1, 6, 8)),
        ("MatMul", weights(8, 4)),
        ("Reshape", ints(-1, 3, 5, 3, 2, 4)),
        ("Transpose", {"perm": [0, 5, 1, 3, 2, 4]}),
        ("Reshape", ints(-1, 4, 9, 10)),
        ("Conv", weights(3, 4, 1, 1)),
    ),
    "matmul of rank 5": one("MatMul", (2, 3, 4, 5), (2, 3, 5, 2)),
    "matmul of rank 5, one of them one stack": one("MatMul", (2, 3, 4, 5), weights(3, 5, 2)),
    "matmul of rank 6": one("MatMul", (2, 3, 2, 4, 5), (2, 3, 2, 5, 2)),
    "matmul of stacks that broadcast": one("MatMul", (3, 1, 4, 5), (1, 2, 5, 2)),
    "matmul with a stack of one matrix": one("MatMul", (3, 4, 7), weights(1, 1, 7, 5)),
    "matmul with a vector": one("MatMul", (3, 4, 7), weights(7)),
    "matmul with two axes and a vector": one("MatMul", (7,), weights(7)),
    "matmul of a vector on the left": one("MatMul", weights(4), (3, 4, 7)),
    "matmul of a constant with a flat image": chain(IMAGE, CONV, ("Flatten",), ("MatMul", weights(720, 3))),
    "gemm with a matrix C": one("Gemm", (7,), weights(7, 5), (5,), beta=0.5),
    "gemm with a column C": chain((7,), ("Gemm", weights(7, 5), np.float32([[2]]), {"beta": 0.5})),
    **{
        f"einsum {equation}": one("Einsum", *shapes, equation=equation)
        for equation, *shapes in (
            ("bij,bjk->bik", (3, 4), (4, 5)),
            ("bij,bkj->bik", (3, 4), (5, 4)),
            ("bhid,bhjd->bhij", (2, 5, 4), (2, 7, 4)),
            ("bihd,bjhd->bhij", (5, 2, 4), (7, 2, 4)),
            ("bghid,bghjd->bghij", (3, 2, 5, 4), (3, 2, 5, 4)),
            ("bij,jk", (3, 4), weights(4, 5)),
            ("bijk,kjl->bil", (3, 4, 2), weights(2, 4, 5)),
            ("...ij,...jk->...ki", (2, 3, 4), (2, 4, 5)),
            ("bij,bij->b", (3, 4), (3, 4)),
            ("bi,bj->bij", (3,), (4,)),
            ("bij->bj", (3, 4)),
            ("bij->bji", (3, 4)),
            ("bij,bjk,bkl->bil", (3, 4), (4, 5), (5, 2)),
            ("bij,bik->bjk", (3, 4), (3, 5)),
            ("bijx,bj->bi", (3, 4, 2), (4,)),
        )
    },
}

CASES |= {
    "gather a table of channels": chain(IMAGE, CONV, ("Gather", np.array([[1, 3, 5], [0, -1, 2]]), {"axis": 1})),
    "gather a table of columns": chain(IMAGE, CONV, ("Gather", np.array([[1], [3]]), {"axis": -1})),
    "gather one channel of a flatten": chain(IMAGE, CONV, ("Flatten",), ("Gather", np.array(31), {"axis": 1})),
    "embedding": embedding(weights(11, 5)),
    **{
        f"trilu, upper {upper}, from {k}": one("Trilu", (3, 4, 5), np.array(k), upper=upper)
        for upper in (0, 1)
        for k in (-1, 0, 2)
    },
    "trilu of rank 6": one("Trilu", (2, 3, 2, 4, 5)),
    "trilu behind a conv": chain(IMAGE, CONV, ("Trilu",)),
    **{
        f"running sum of axis {axis}, exclusive {e}, reverse {r}": chain(
            IMAGE, CONV, ("CumSum", np.array(axis), {"exclusive": e, "reverse": r})
        )
        for axis, e, r in ((1, 0, 0), (-1, 1, 0), (2, 0, 1), (3, 1, 1))
    },
    **{
        f"blocks of {block} on {size}, {settings}": one(
            "Col2Im", (3 * block[0] * block[1], blocks), np.array(size), np.array(block), **settings
        )
        for size, block, blocks, settings in (
            ((6, 5), (2, 3), 15, {}),
            ((6, 6), (3, 3), 9, {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
            ((7, 5), (2, 2), 6, {"strides": [3, 2], "pads": [0, 1, 1, 0], "dilations": [2, 1]}),
        )
    },
    "blocks of tokens": chain(
        (9, 27), ("Transpose", {"perm": [0, 2, 1]}), ("Col2Im", ints(5, 5), ints(3, 3)), ("Conv", weights(2, 3, 1, 1))
    ),
    "running sum of a flatten": chain(IMAGE, CONV, ("Flatten",), ("CumSum", np.array(1))),
}


@pytest.mark.parametrize("case", CASES)
def test_an_emitted_op_equals_its_source(case: str, tmp_path: Path) -> None:
    model = CASES[case]().model(tmp_path)
    x = samples(model)
    wanted = onnx_outputs(model, x)
    path = str(written(to_tflite(model), tmp_path))
    for kernels in KERNELS[: 1 if case.startswith(NO_REFERENCE) else 2]:
        assert gap(run(path, x, resolver=kernels), wanted) <= TOLERANCE, kernels


@pytest.mark.parametrize(
    ("case", "code", "version"),
    [
        ("Abs of whole numbers", "ABS", 5),
        ("Sign of whole numbers", "SIGN", 2),
        ("sign, an image", "SIGN", 1),
        ("picked and turned truths", "GATHER", 3),
        ("sub of rank 6", "SUB", 1),
    ],
)
def test_op_versions_are_the_first_that_can_do_it(case: str, code: str, version: int, tmp_path: Path) -> None:
    assert (code, version) in versions(to_tflite(CASES[case]().model(tmp_path)))


REFUSED: dict[str, tuple[Any, str]] = {
    "mean of a layernorm": (
        one("LayerNormalization", (5, 8), weights(8), weights(8), out=2),
        "LayerNormalization 'layernormalization0': hands out its mean",
    ),
    "last of equal ones": (one("ArgMax", (7,), axis=1, select_last_index=1), "ArgMax 'argmax0': asks for the last"),
    "argmax over the batch": (one("ArgMax", (7,), axis=0), "ArgMax 'argmax0': asks for the last of equal ones, or"),
    "statistics of the batch": (
        one("MeanVarianceNormalization", IMAGE),
        "MeanVarianceNormalization 'meanvariancenormalization0': takes statistics of the batch",
    ),
    "rows of the batch": (one("Gather", (7,), ints(0), axis=0), "Gather 'gather0': picks along the batch"),
    "running sum of the batch": (one("CumSum", (7,), np.array(0)), "CumSum 'cumsum0': sums along the batch"),
    "products of samples": (one("Gemm", (7,), (7,), transB=1), "Gemm 'gemm0': multiplies samples with each other"),
    "sums over samples": (one("Einsum", (7,), (5,), equation="bi,bj->ij"), "Einsum 'einsum0': multiplies samples"),
    "diagonal": (one("Einsum", (4, 4), equation="bii->bi"), "Einsum 'einsum0': takes a diagonal"),
    "remainder of whole numbers": (
        chain((7,), ("Cast", {"to": TensorProto.INT64}), ("Mod", ints(3), {"fmod": 1})),
        "Mod 'mod1': gives whole numbers the dividend's sign",
    ),
    "too many turns of broadcasting": (
        one("Less", (1, 2, 1, 2, 1, 2), (2, 1, 2, 1, 2, 1)),
        "value 'less0': LESS broadcasts along 6 axes in turn",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_emitted_is_refused_by_name(case: str, tmp_path: Path) -> None:
    net = REFUSED[case][0]()
    model = net.model(tmp_path, *(net.nodes[-1].output if case == "mean of a layernorm" else ()))
    with pytest.raises(Unsupported) as caught:
        to_tflite(model)
    assert REFUSED[case][1] in str(caught.value)
    assert caught.value.way_out
