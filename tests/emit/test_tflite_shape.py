"""Ops that pick, pad, resample and pool: one row of CASES for each variant of an op."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_tflite import (
    CONV,
    IMAGE,
    KERNELS,
    TOLERANCE,
    Net,
    chain,
    codes,
    gap,
    ints,
    norm,
    one,
    samples,
    weights,
    written,
)

from toolchain.emit import to_tflite
from toolchain.emit.child import run
from toolchain.emit.run import onnx_outputs
from toolchain.errors import Unsupported

VOLUME = (3, 5, 6, 7)


def several(shape: tuple[int, ...], kind: str, *rest: Any, out: int, before: Any = (), **attributes: Any) -> Any:
    """A network whose last node has several outputs, all of them graph outputs."""

    def build() -> Any:
        net, y = chain(shape, *before)(), "x"
        if net.nodes:
            y = net.nodes[-1].output[0]
        net.op(kind, y, *rest, out=out, **attributes)
        return net

    return build


def resize(
    shape: tuple[int, ...], mode: str, scales: tuple[float, ...] = (), sizes: Any = None, **settings: Any
) -> Any:
    """A Resize by scales of the last axes, or to sizes of all but the batch."""
    told = None if sizes is not None else np.array([1.0] * (len(shape) + 1 - len(scales)) + list(scales), np.float32)
    target = None if sizes is None else ints(*sizes)
    if sizes is not None:
        settings["axes"] = list(range(1, len(shape) + 1))
    return one("Resize", shape, None, told, target, mode=mode, **settings)


CASES: dict[str, Any] = {
    "slice": one("Slice", IMAGE, ints(1, 2), ints(5, -1), ints(1, 3)),
    "slice with steps": one("Slice", IMAGE, ints(1, 0), ints(6, 9), ints(1, 2), ints(2, 3)),
    "slice backwards": one("Slice", IMAGE, ints(-1, 7), ints(-100, 1), ints(2, 3), ints(-1, -2)),
    "slice behind a conv": chain(IMAGE, CONV, ("Slice", ints(0, 1), ints(7, 8), ints(1, 2), ints(3, 2))),
    "slice of a flatten": chain(IMAGE, CONV, ("Flatten",), ("Slice", ints(5), ints(700), ints(1), ints(7))),
    "slice of rank 6": one("Slice", (2, 3, 2, 3, 4), ints(1, 0), ints(3, 4), ints(2, 5), ints(1, 2)),
    "slice of rank 5": one("Slice", VOLUME, ints(1, 0), ints(3, 6), ints(2, 3), ints(1, 2)),
    "slice that takes all": chain(IMAGE, ("Slice", ints(0), ints(99), ints(1)), ("Relu",)),
    "split": several(IMAGE, "Split", ints(1, 3, 2), out=3, axis=1),
    "split evenly": several(IMAGE, "Split", out=3, axis=2, num_outputs=3, before=[CONV]),
    "split a flatten": several(IMAGE, "Split", ints(20, 700), out=2, axis=-1, before=[CONV, ("Flatten",)]),
    "expand": one("Expand", (6, 1, 10), ints(1, 6, 9, 10)),
    "expand in front": chain((4, 5), ("Unsqueeze", ints(1)), ("Expand", ints(1, 3, 4, 5))),
    "expand behind a conv": chain(
        IMAGE, ("GlobalAveragePool",), ("Conv", CONV[1][:, :, :1, :1]), ("Expand", ints(1, 8, 4, 5))
    ),
    "expand nothing": one("Expand", IMAGE, ints(1, 1, 1, 1)),
    "tile": one("Tile", IMAGE, ints(1, 2, 1, 3)),
    "tile behind a conv": chain(IMAGE, CONV, ("Tile", ints(1, 2, 1, 3))),
    "tile a flatten": chain(IMAGE, CONV, ("Flatten",), ("Tile", ints(1, 2)), ("Gemm", weights(1440, 3))),
    "resize nearest, twice": resize(IMAGE, "nearest", (2, 2)),
    "resize nearest, floor": resize(
        IMAGE, "nearest", (2, 2), coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    ),
    "resize nearest, sizes": resize(IMAGE, "nearest", sizes=(6, 14, 7)),
    "resize nearest, sizes and ceil": resize(IMAGE, "nearest", sizes=(6, 13, 7), nearest_mode="ceil"),
    "resize nearest, corners": resize(
        IMAGE, "nearest", sizes=(6, 13, 17), coordinate_transformation_mode="align_corners"
    ),
    "resize nearest, smaller": resize(IMAGE, "nearest", sizes=(6, 4, 5), coordinate_transformation_mode="asymmetric"),
    "resize nearest, up preferred": resize(IMAGE, "nearest", (1.5, 1.7), nearest_mode="round_prefer_ceil"),
    "resize nearest of channels": resize(IMAGE, "nearest", (2, 1, 1)),
    "resize nearest of a signal": resize((4, 11), "nearest", (2,)),
    "resize nearest of a volume": resize(VOLUME, "nearest", (2, 2, 2)),
    "resize linear, half pixel": resize(IMAGE, "linear", (2, 2)),
    "resize linear, sizes": resize(IMAGE, "linear", sizes=(6, 15, 7)),
    "resize linear, asymmetric": resize(IMAGE, "linear", (2, 3), coordinate_transformation_mode="asymmetric"),
    "resize linear, corners": resize(IMAGE, "linear", sizes=(6, 17, 5), coordinate_transformation_mode="align_corners"),
    "resize linear, pytorch": resize(
        IMAGE, "linear", sizes=(6, 1, 21), coordinate_transformation_mode="pytorch_half_pixel"
    ),
    "resize linear, antialias": resize(IMAGE, "linear", sizes=(6, 4, 5), antialias=1),
    "resize linear of rows": resize(IMAGE, "linear", (2, 1)),
    "resize linear of channels": resize(IMAGE, "linear", (1.5, 1, 1)),
    "resize linear of a signal": resize((4, 11), "linear", (2,)),
    "resize linear of a volume": resize(VOLUME, "linear", (2, 1, 2)),
    "resize linear, odd scales": resize(IMAGE, "linear", (1.3, 1.7)),
    "resize linear behind a conv": chain(
        IMAGE, CONV, ("Resize", None, np.array([1, 1, 2, 2], np.float32), {"mode": "linear"})
    ),
    "resize cubic": resize(IMAGE, "cubic", (2, 2)),
    "resize cubic behind a conv": chain(
        IMAGE, CONV, ("Resize", None, np.array([1, 1, 2.5, 0.5], np.float32), {"mode": "cubic", "exclude_outside": 1})
    ),
    "resize nothing": chain(IMAGE, ("Resize", None, np.ones(4, np.float32), {"mode": "linear"}), ("Relu",)),
    "depth to space": one("DepthToSpace", (8, 3, 4), blocksize=2),
    "depth to space CRD": one("DepthToSpace", (12, 3, 4), blocksize=2, mode="CRD"),
    "depth to space CRD behind a conv": chain(
        IMAGE, ("Conv", weights(12, 6, 3, 3), weights(12)), ("DepthToSpace", {"blocksize": 2, "mode": "CRD"})
    ),
    "space to depth": one("SpaceToDepth", (3, 4, 6), blocksize=2),
    "space to depth and back": chain(
        (3, 6, 6),
        ("SpaceToDepth", {"blocksize": 3}),
        ("Conv", weights(27, 27, 1, 1)),
        ("DepthToSpace", {"blocksize": 3}),
    ),
    "pad cut": one("Pad", IMAGE, ints(0, 0, -1, 1, 0, -2, 0, -3)),
    "pad reflect": one("Pad", IMAGE, ints(0, 0, 2, 1, 0, 0, 3, 0), mode="reflect"),
    "pad reflect behind a conv": chain(IMAGE, CONV, ("Pad", ints(0, 0, 2, 1, 0, 0, 3, 0), {"mode": "reflect"})),
    "pad reflect and cut": one("Pad", IMAGE, ints(0, 0, -2, 1, 0, 0, 3, -1), mode="reflect"),
    "pad reflect a flatten": chain(IMAGE, CONV, ("Flatten",), ("Pad", ints(0, 2, 0, 1), {"mode": "reflect"})),
    "pad edge": one("Pad", IMAGE, ints(0, 1, 2, 1, 0, 0, 3, 0), mode="edge"),
    "pad edge behind a conv": chain(IMAGE, CONV, ("Pad", ints(0, 0, 2, 1, 0, 0, 3, -1), {"mode": "edge"})),
    "pad wrap": one("Pad", IMAGE, ints(0, 0, 2, 1, 0, 0, 3, 25), mode="wrap"),
    "pad a volume": one("Pad", VOLUME, ints(0, 1, 0, 1, 0, 0, 0, 2, 0, 1), np.float32(0.5)),
    "pad reflect a volume": one("Pad", VOLUME, ints(0, 1, 0, 1, 0, 0, 0, 2, 0, 1), mode="reflect"),
}

POOLS: dict[str, Any] = {
    "maxpool dilated": one("MaxPool", IMAGE, kernel_shape=[2, 3], dilations=[3, 2], strides=[2, 1], pads=[1, 0, 0, 2]),
    "maxpool dilated and ceil": one(
        "MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 3], strides=[2, 2], ceil_mode=1
    ),
    "maxpool dilated 1-D": one("MaxPool", (4, 11), kernel_shape=[3], dilations=[2], strides=[2]),
    "maxpool of negative values": chain(
        IMAGE, ("Abs", {}), ("Neg", {}), ("MaxPool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]})
    ),
    "maxpool SAME_LOWER": one("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 3], auto_pad="SAME_LOWER"),
    "maxpool VALID": one("MaxPool", IMAGE, kernel_shape=[2, 3], strides=[2, 3], auto_pad="VALID"),
    "maxpool ceil and pads": one("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[3, 2], pads=[1] * 4, ceil_mode=1),
    "maxpool 1-D SAME_UPPER": one("MaxPool", (4, 11), kernel_shape=[4], strides=[3], auto_pad="SAME_UPPER"),
    "maxpool 3-D": one("MaxPool", VOLUME, kernel_shape=[2, 3, 2], strides=[1, 2, 3], pads=[1, 1, 0, 0, 1, 1]),
    "maxpool 3-D dilated": one("MaxPool", VOLUME, kernel_shape=[2, 2, 2], dilations=[2, 1, 2]),
    "averagepool dilated": one("AveragePool", IMAGE, kernel_shape=[2, 3], dilations=[3, 2], pads=[1, 0, 0, 2]),
    "averagepool dilated counting pads": one(
        "AveragePool", IMAGE, kernel_shape=[2, 3], dilations=[3, 2], strides=[2, 2], pads=[1] * 4, count_include_pad=1
    ),
    "averagepool uneven, counting pads": one(
        "AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 0, 2], count_include_pad=1
    ),
    "averagepool SAME_LOWER": one("AveragePool", IMAGE, kernel_shape=[2, 2], auto_pad="SAME_LOWER"),
    "averagepool SAME_LOWER, counting pads": one(
        "AveragePool", IMAGE, kernel_shape=[2, 2], auto_pad="SAME_LOWER", count_include_pad=1
    ),
    "averagepool 3-D": one("AveragePool", VOLUME, kernel_shape=[2, 3, 2], strides=[1, 2, 3]),
    "averagepool 3-D padded": one("AveragePool", VOLUME, kernel_shape=[3, 3, 3], strides=[2, 1, 2], pads=[1] * 6),
    "averagepool 3-D ceil": one("AveragePool", VOLUME, kernel_shape=[2, 3, 2], strides=[2, 2, 3], ceil_mode=1),
    "averagepool 3-D dilated": one("AveragePool", VOLUME, kernel_shape=[2, 2, 2], dilations=[2, 3, 3], pads=[1] * 6),
    "lppool": one("LpPool", IMAGE, kernel_shape=[2, 3], strides=[2, 2]),
    "lppool 1": one("LpPool", IMAGE, kernel_shape=[3, 3], p=1, pads=[1, 1, 1, 1]),
    "lppool 3": one("LpPool", IMAGE, kernel_shape=[3, 3], p=3, pads=[1, 0, 0, 1], strides=[2, 1]),
    "lppool 1-D": one("LpPool", (4, 11), kernel_shape=[3]),
    "lppool ceil": one("LpPool", IMAGE, kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1),
    "conv 3-D": one("Conv", VOLUME, weights(4, 3, 2, 3, 2), weights(4), pads=[1, 1, 0, 0, 1, 1]),
    "conv 3-D strided": one("Conv", VOLUME, weights(4, 3, 3, 3, 3), strides=[2, 1, 2], auto_pad="SAME_UPPER"),
    "conv 3-D dilated": one("Conv", VOLUME, weights(4, 3, 2, 2, 2), dilations=[2, 3, 1]),
    "conv 3-D in groups": one("Conv", (4, 5, 6, 7), weights(6, 2, 2, 2, 2), weights(6), group=2),
    "conv 3-D, norm, relu": chain(
        VOLUME, ("Conv", weights(6, 3, 2, 2, 2)), ("BatchNormalization", *norm(6)), ("Relu",), ("GlobalAveragePool",)
    ),
    "transposed conv SAME": one("ConvTranspose", IMAGE, weights(6, 5, 4, 4), weights(5), strides=[2, 2], pads=[1] * 4),
    "transposed conv SAME_LOWER": one(
        "ConvTranspose", IMAGE, weights(6, 5, 3, 3), strides=[2, 2], auto_pad="SAME_LOWER"
    ),
    "transposed conv VALID": one("ConvTranspose", IMAGE, weights(6, 5, 3, 3), strides=[2, 2], auto_pad="VALID"),
    "transposed conv, output_shape": one(
        "ConvTranspose", IMAGE, weights(6, 5, 3, 3), strides=[2, 2], output_shape=[18, 20]
    ),
    "transposed conv, output_shape and padding": one(
        "ConvTranspose", IMAGE, weights(6, 5, 3, 3), strides=[2, 2], output_shape=[17, 16], output_padding=[1, 1]
    ),
    "transposed conv, larger output_shape": one(
        "ConvTranspose", IMAGE, weights(6, 5, 2, 2), weights(5), strides=[3, 3], output_shape=[28, 30]
    ),
    "transposed conv and norm": chain(
        IMAGE,
        (
            "ConvTranspose",
            weights(6, 5, 3, 3),
            weights(5),
            {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]},
        ),
        ("BatchNormalization", *norm(5)),
        ("Relu",),
    ),
    "transposed conv SAME and norm": chain(
        IMAGE,
        ("ConvTranspose", weights(6, 5, 4, 4), {"strides": [2, 2], "pads": [1] * 4}),
        ("BatchNormalization", *norm(5)),
        ("Relu",),
    ),
    "transposed conv 1-D in groups": one(
        "ConvTranspose", (4, 7), weights(4, 3, 3), weights(6), group=2, strides=[2], pads=[0, 1], output_padding=[1]
    ),
    "transposed conv 1-D dilated": one(
        "ConvTranspose", (4, 7), weights(4, 3, 3), strides=[2], dilations=[2], pads=[2, 1]
    ),
    "transposed conv 3-D": one("ConvTranspose", VOLUME, weights(3, 2, 2, 3, 2), weights(2), strides=[2, 1, 2]),
    "transposed conv 3-D, pads": one(
        "ConvTranspose", VOLUME, weights(3, 2, 3, 3, 3), strides=[2, 2, 2], pads=[1] * 6, output_padding=[1, 1, 1]
    ),
}


def cell(kind: str, directions: int = 1, *states: Any, features: int = 5, hidden: int = 4, steps: int = 6) -> list[Any]:
    """W, R, B and initial states of a recurrent node."""
    rows = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind] * hidden
    shapes = ((directions, rows, features), (directions, rows, hidden), (directions, 2 * rows))
    return [*(weights(*s) for s in shapes), None, *states]


def recurrent(kind: str, *states: Any, out: int = 3, directions: int = 1, **settings: Any) -> Any:
    """A recurrent node over [N, 6, 5] as torch exports one: time in front, all its outputs graph outputs."""

    def build() -> Any:
        net = Net((6, 5))
        x = net.op("Transpose", "x", perm=[1, 0, 2])
        net.op(kind, x, *cell(kind, directions, *states), out=out, hidden_size=4, **settings)
        return net

    return build


BOTH = {"directions": 2, "direction": "bidirectional"}
RECURRENT: dict[str, Any] = {
    "lstm": recurrent("LSTM"),
    "lstm backward": recurrent("LSTM", direction="reverse"),
    "lstm both ways": recurrent("LSTM", **BOTH),
    "lstm from states": recurrent("LSTM", weights(2, 1, 4), weights(2, 1, 4, seed=1), **BOTH),
    "lstm with peepholes": recurrent("LSTM", None, None, weights(1, 12)),
    "lstm with peepholes from a cell": recurrent("LSTM", weights(1, 1, 4), weights(1, 1, 4), weights(1, 12)),
    "lstm of other functions": recurrent("LSTM", activations=["Sigmoid", "Relu", "Tanh"]),
    "gru": recurrent("GRU", out=2),
    "gru, late reset": recurrent("GRU", out=2, linear_before_reset=1),
    "gru from a state, late reset": recurrent("GRU", weights(2, 1, 4), out=2, linear_before_reset=1, **BOTH),
    "gru from a state": recurrent("GRU", weights(2, 1, 4), out=2, **BOTH),
    "rnn": recurrent("RNN", out=2),
    "rnn of relu, backward": recurrent("RNN", out=2, activations=["Relu"], direction="reverse"),
    "rnn from a state": recurrent("RNN", weights(2, 1, 4), out=2, **BOTH),
    "lstm as torch exports it": chain(
        (6, 5),
        ("Transpose", {"perm": [1, 0, 2]}),
        ("LSTM", *cell("LSTM", 2), {"hidden_size": 4, "direction": "bidirectional"}),
        ("Transpose", {"perm": [0, 2, 1, 3]}),
        ("Reshape", ints(6, -1, 8)),
        ("Transpose", {"perm": [1, 0, 2]}),
        ("MatMul", weights(8, 3)),
    ),
    "gru of an image's columns": chain(
        (3, 4, 6),
        ("Conv", weights(5, 3, 4, 1)),
        ("Squeeze", ints(2)),
        ("Transpose", {"perm": [2, 0, 1]}),
        ("GRU", *cell("GRU"), {"hidden_size": 4}),
        ("Squeeze", ints(1)),
    ),
}
CASES |= POOLS | RECURRENT
FOUND: dict[str, Any] = {  # by benchmarks.fuzz
    "resize linear, corners and odd scales": resize(
        (1, 4, 5), "linear", (2, 0.5), coordinate_transformation_mode="align_corners"
    ),
    "resize cubic to one": resize((2, 3, 5), "cubic", (0.5, 1), coordinate_transformation_mode="pytorch_half_pixel"),
    "a value times itself": chain((4, 3, 3), ("Conv", weights(4, 4, 1, 1)), ("MatMul", "conv0")),
    "prelu of a sequence": chain(
        (7, 3),
        ("Transpose", {"perm": [1, 0, 2]}),
        ("LSTM", *cell("LSTM", features=3, hidden=1), {"hidden_size": 1}),
        ("Transpose", {"perm": [2, 0, 1, 3]}),
        ("Reshape", ints(-1, 7, 1)),
        ("PRelu", weights(7, 1)),
    ),
}
CASES |= FOUND


@pytest.mark.parametrize("case", CASES)
def test_an_emitted_op_equals_its_source(case: str, tmp_path: Path) -> None:
    net = CASES[case]()
    model = net.model(tmp_path, *net.nodes[-1].output)
    x = samples(model, 1 if "from" in case else 3)
    wanted, path = onnx_outputs(model, x), str(written(to_tflite(model), tmp_path))
    for kernels in KERNELS:
        assert gap(run(path, x, resolver=kernels), wanted) <= TOLERANCE, kernels


def test_a_file_that_is_run_again_starts_its_sequence_anew(tmp_path: Path) -> None:
    model = RECURRENT["lstm"]().model(tmp_path, "lstm1")
    x, path = samples(model, 1), str(written(to_tflite(model), tmp_path))
    twice = {k: np.concatenate([v, v]) for k, v in x.items()}
    found = run(path, twice)["lstm1"]
    assert np.array_equal(found[:, :, 0], found[:, :, 1])


FOLDED = {
    "depth to space CRD behind a conv": ["CONV_2D", "DEPTH_TO_SPACE"],
    "transposed conv and norm": ["TRANSPOSE_CONV", "SLICE", "RELU"],
    "transposed conv SAME and norm": ["TRANSPOSE_CONV", "RELU"],
    "conv 3-D, norm, relu": ["CONV_3D", "MEAN"],
    "resize linear, half pixel": ["RESIZE_BILINEAR"],
    "resize nearest, twice": ["RESIZE_NEAREST_NEIGHBOR"],
    "slice with steps": ["STRIDED_SLICE"],
    "pad reflect and cut": ["SLICE", "MIRROR_PAD"],
}


@pytest.mark.parametrize("case", FOLDED)
def test_what_the_file_has_an_op_for_takes_no_more(case: str, tmp_path: Path) -> None:
    assert codes(to_tflite(CASES[case]().model(tmp_path))) == FOLDED[case]


REFUSED: dict[str, tuple[Any, str]] = {
    "4-D conv": (one("Conv", (2, 4, 4, 4, 4), weights(3, 2, 2, 2, 2, 2)), "Conv 'conv0': has 4 spatial axes"),
    "crop": (
        one(
            "Resize",
            IMAGE,
            np.zeros(8, np.float32),
            np.ones(4, np.float32) * 2,
            mode="linear",
            coordinate_transformation_mode="tf_crop_and_resize",
        ),
        "Resize 'resize0': crops, or resamples the batch",
    ),
    "clip": (recurrent("LSTM", clip=0.5), "LSTM 'lstm1': has a clip"),
    "long": (
        chain((513, 5), ("Transpose", {"perm": [1, 0, 2]}), ("RNN", *cell("RNN"), {"hidden_size": 4})),
        "RNN 'rnn1': has 513 steps",
    ),
    "steps are samples": (chain((3, 5), ("RNN", *cell("RNN"), {"hidden_size": 4})), "RNN 'rnn0': has as many steps"),
    "auto_pad that cuts": (
        one("AveragePool", (3, 12), kernel_shape=[1], strides=[3], auto_pad="SAME_UPPER"),
        "AveragePool 'averagepool0': has an auto_pad that runtimes read differently",
    ),
    "more slopes than values": (
        chain((3,), ("ReduceMax", ints(1)), ("PRelu", weights(2))),
        "PRelu 'prelu1': has more slopes than values",
    ),
    "triangle of samples": (one("Trilu", (4,)), "Trilu 'trilu0': counts samples"),
    "the first of the samples": (one("Slice", IMAGE, ints(0), ints(1), ints(0)), "Slice 'slice0': has computed bounds"),
    "copies of the batch": (one("Tile", IMAGE, ints(2, 1, 1, 1)), "Tile 'tile0': repeats the batch"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_emitted_is_refused_by_name(case: str, tmp_path: Path) -> None:
    net = REFUSED[case][0]()
    with pytest.raises(Unsupported) as caught:
        to_tflite(net.model(tmp_path))
    assert REFUSED[case][1] in str(caught.value)
    assert caught.value.way_out
