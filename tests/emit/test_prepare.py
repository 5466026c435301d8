"""Patterns that are one op of the file are found in every spelling, and only where they are whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from emit.test_tflite import CONV, IMAGE, KERNELS, TOLERANCE, Net, chain, codes, gap, ints, samples, weights, written

from toolchain.emit import to_tflite
from toolchain.emit.child import run
from toolchain.emit.run import onnx_outputs
from toolchain.model import Model

F = np.float32
ROOT = F(2**0.5)


def phi(net: Net, x: str) -> str:
    """1 + erf(x / √2)."""
    return net.op("Add", net.op("Erf", net.op("Div", x, ROOT)), F(1))


SPELLINGS: dict[str, Callable[[Net, str], str]] = {
    "x·(s/2)": lambda net, x: net.op("Mul", x, net.op("Mul", phi(net, x), F(0.5))),
    "(x/2)·s": lambda net, x: net.op("Mul", net.op("Mul", F(0.5), x), phi(net, x)),
    "(x·s)/2": lambda net, x: net.op("Div", net.op("Mul", phi(net, x), x), F(2)),
    "s·(x·0.5)": lambda net, x: net.op("Mul", phi(net, x), net.op("Div", x, F(2))),
    "1 + erf(0.707x)": lambda net, x: net.op(
        "Mul", net.op("Mul", x, F(0.5)), net.op("Add", F(1), net.op("Erf", net.op("Mul", F(0.5**0.5), x)))
    ),
    "behind a factor": lambda net, x: net.op("Mul", y := net.op("Mul", x, F(3)), net.op("Mul", F(0.5), phi(net, y))),
}
OTHERS: dict[str, Callable[[Net, str], str]] = {
    "another half": lambda net, x: net.op("Mul", x, net.op("Mul", phi(net, x), F(0.6))),
    "another value": lambda net, x: net.op("Mul", net.op("Abs", x), net.op("Mul", phi(net, x), F(0.5))),
    "2 over it": lambda net, x: net.op("Mul", x, net.op("Div", F(0.5), phi(net, net.op("Abs", x)))),
    "another root": lambda net, x: net.op(
        "Mul", x, net.op("Mul", F(0.5), net.op("Add", net.op("Erf", net.op("Div", x, F(1.4))), F(1)))
    ),
    "read on the way": lambda net, x: net.op(
        "Add", net.op("Mul", x, net.op("Mul", s := phi(net, x), F(0.5))), net.op("Neg", s)
    ),
}


def emitted(model: Model, folder: Path) -> list[str]:
    """The file's ops, after it has answered as the model does."""
    lite, x = to_tflite(model), samples(model)
    wanted = onnx_outputs(model, x)
    for kernels in KERNELS:
        assert gap(run(str(written(lite, folder)), x, resolver=kernels), wanted) <= TOLERANCE, kernels
    return codes(lite)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_gelu_is_found_in_every_spelling(spelling: str, tmp_path: Path) -> None:
    net = Net((5, 7))
    SPELLINGS[spelling](net, "x")
    found = emitted(net.model(tmp_path), tmp_path)
    assert set(found) <= {"GELU", "MUL"}
    assert len(found) == 1 + (spelling == "behind a factor")


@pytest.mark.parametrize("spelling", OTHERS)
def test_what_is_no_gelu_is_left_as_it_is(spelling: str, tmp_path: Path) -> None:
    net = Net((5, 7))
    OTHERS[spelling](net, "x")
    assert "GELU" not in emitted(net.model(tmp_path), tmp_path)


def test_a_gelu_keeps_its_name_at_an_output(tmp_path: Path) -> None:
    net = Net((5, 7))
    y = SPELLINGS["x·(s/2)"](net, net.op("Neg", "x"))
    model = net.model(tmp_path, y, "neg0")
    assert emitted(model, tmp_path) == ["NEG", "GELU"]
    assert list(to_tflite(model).outputs) == [y, "neg0"]


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_groups_that_torch_norms_one_by_one_are_found(groups: int, tmp_path: Path) -> None:
    steps = [
        ("Reshape", ints(0, groups, -1)),
        ("InstanceNormalization", weights(groups, low=0.5), weights(groups)),
        ("Reshape", ints(-1, 8, 9, 10)),
        ("Mul", weights(8, 1, 1)),
        ("Add", weights(8, 1, 1)),
    ]
    found = emitted(chain(IMAGE, CONV, *steps)().model(tmp_path), tmp_path)
    assert not {"TRANSPOSE", "GATHER"} & set(found)


def test_an_instance_norm_of_other_rows_is_left_as_it_is(tmp_path: Path) -> None:
    steps = [("Reshape", ints(0, 4, -1)), ("InstanceNormalization", weights(4), weights(4)), ("Reshape", ints(-1, 720))]
    emitted(chain(IMAGE, CONV, *steps)().model(tmp_path), tmp_path)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_size_that_the_batch_decides_is_known_in_the_file(batch: int, tmp_path: Path) -> None:
    net = Net((5, 7))
    size = net.op("Concat", net.op("Shape", "x", start=0, end=1), ints(1, 7), axis=0)
    net.op("Concat", net.op("Expand", weights(1, 1, 7), size), "x", axis=1)
    model = net.model(tmp_path)
    x = samples(model)
    path = str(written(to_tflite(model, batch=batch), tmp_path))
    assert gap(run(path, x), onnx_outputs(model, x)) == 0


@pytest.mark.parametrize("needed", [False, True])
def test_an_expand_goes_where_its_readers_broadcast_anyway(needed: bool, tmp_path: Path) -> None:
    net = Net(IMAGE)
    gate = net.op("Sigmoid", net.op("GlobalAveragePool", "x"))
    wide = net.op("Expand", gate, ints(1, *IMAGE))
    net.op("Mul", wide, net.op("Exp", gate) if needed else "x")
    assert ("BROADCAST_TO" in emitted(net.model(tmp_path), tmp_path)) is needed


def test_two_that_spread_along_the_same_axis_stay_spread(tmp_path: Path) -> None:
    net = Net((1, 7))
    wide = net.op("Expand", "x", ints(1, 5, 1))
    net.op("Mul", wide, net.op("Expand", net.op("Neg", "x"), ints(1, 5, 1)))
    emitted(net.model(tmp_path), tmp_path)
