"""Laws of loading and saving: the same function under any opset, with a free batch; files are whole or not there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from compress.networks import NETWORKS, Net, cnns, loaded, network, original, samples
from hypothesis import given, settings
from onnx import TensorProto, helper, numpy_helper

from toolchain.compress.groups import analyse
from toolchain.errors import BadInput, JettisonError, Unsupported, UsageError
from toolchain.model import Model, load, save
from toolchain.ops.table import dims
from toolchain.session import run, session

F = TensorProto.FLOAT
ROUNDING = 1e-5  # of the largest output: folding and other kernels reorder float32 sums


def answers(model: Model, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    return run(session(model.ir), feed)


def reference(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The file itself in onnxruntime."""
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)


def one_by_one(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The file itself, one sample at a time."""
    n = len(next(iter(feed.values())))
    rows = [reference(proto, {k: v[i : i + 1] for k, v in feed.items()}) for i in range(n)]
    return [np.concatenate(y) for y in zip(*rows, strict=True)]


def equal(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    for y, z in zip(found, wanted, strict=True):
        assert y.shape == z.shape
        np.testing.assert_allclose(y, z, rtol=0, atol=ROUNDING * max(float(np.abs(z).max()), 1e-6))


def with_fixed_batch(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same file with batch 1 written into its inputs, and no other shapes."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    for value in (*copy.graph.input, *copy.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del copy.graph.value_info[:]
    return copy


# ---- loading keeps the function ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NETWORKS)
def test_a_loaded_network_is_the_one_in_the_file(name: str) -> None:
    model, proto = network(name), original(name)
    feed = samples(model.inputs, 4)
    equal(answers(model, feed), one_by_one(proto, feed))
    assert model.sha256 == hashlib.sha256(proto.SerializeToString()).hexdigest()
    assert model.opset == 20 and model.batch == "free"


@pytest.mark.parametrize("name", NETWORKS)
def test_the_shapes_written_are_those_that_values_have(name: str) -> None:
    model = network(name)
    names = [str(v.name) for n in model.graph for v in n.outputs]
    copy = onnx.ModelProto.FromString(model.to_bytes())
    del copy.graph.output[:], copy.graph.value_info[:]
    copy.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names)
    found = dict(zip(names, reference(copy, samples(model.inputs, 3)), strict=True))
    for value in (v for n in model.graph for v in n.outputs):
        wanted = tuple(-3 * d if d < 0 else d for d in dims(value))
        assert found[str(value.name)].shape == wanted, value.name


def test_an_older_network_that_onnx_cannot_lift_is_unsupported(tmp_path: Path) -> None:
    """A Loop without a body: the converter runs out of an allocator's bounds."""
    node = helper.make_node("Loop", ["x"], ["y"])
    sides = [[helper.make_tensor_value_info(n, F, [1, 4])] for n in "xy"]
    graph = helper.make_graph([node], "net", *sides)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4), tmp_path / "n.onnx")
    with pytest.raises(Unsupported, match="onnx cannot lift the model"):
        load(tmp_path / "n.onnx")


@pytest.mark.parametrize("opset", [8, 11, 12, 13, 17])
def test_an_older_opset_is_lifted_to_the_same_function(opset: int) -> None:
    """An old file in every respect: weights listed as inputs, batch 1, attributes where inputs are now."""
    generator = np.random.default_rng(3)
    parameters = {
        "w": generator.standard_normal((6, 3, 3, 3)).astype(np.float32),
        "b": generator.standard_normal(6).astype(np.float32),
        **{n: generator.uniform(0.5, 1.5, 6).astype(np.float32) for n in ("scale", "shift", "mean", "var")},
        "d": generator.standard_normal((4, 24)).astype(np.float32),
        "e": generator.standard_normal(4).astype(np.float32),
    }
    clip = {"min": 0.0, "max": 6.0} if opset < 11 else {}
    if opset >= 11:
        parameters |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("Clip", ["n"] if opset < 11 else ["n", "low", "high"], ["r"], **clip),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Dropout", ["p"], ["q"], **({"ratio": 0.5} if opset < 12 else {})),
        helper.make_node("Flatten", ["q"], ["f"]),
        helper.make_node("Gemm", ["f", "d", "e"], ["g"], transB=1),
        helper.make_node("Softmax", ["g"], ["y"], **({"axis": 1} if opset < 13 else {"axis": -1})),
    ]
    inputs = [helper.make_tensor_value_info("x", F, [1, 3, 4, 4])]
    inputs += [helper.make_tensor_value_info(n, F, a.shape) for n, a in parameters.items()]
    graph = helper.make_graph(
        nodes, "old", inputs, [helper.make_tensor_value_info("y", F, [1, 4])],
        [numpy_helper.from_array(a, n) for n, a in parameters.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)
    model = loaded(proto)
    feed = samples({"x": (3, 4, 4)}, 5)
    assert model.inputs == {"x": (3, 4, 4)} and model.batch == "free" and model.opset == opset
    assert model.ir.opset_imports[""] >= 20
    equal(answers(model, feed), one_by_one(proto, feed))
    assert {g.name for g in analyse(model).groups} and analyse(model).why("w", 0) is None
    for name, array in parameters.items():
        if name in model.graph.initializers:
            assert model.graph.initializers[name].const_value.numpy().tobytes() == array.tobytes()


# ---- the batch -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NETWORKS)
def test_a_fixed_batch_becomes_free_and_samples_do_not_mix(name: str) -> None:
    """f([x1, x2]) = [f(x1), f(x2)]."""
    proto = with_fixed_batch(original(name))
    model = loaded(proto)
    feed = samples(model.inputs, 5)
    assert model.batch == "free"
    equal(answers(model, feed), one_by_one(proto, feed))


@settings(max_examples=25)
@given(net=cnns())
def test_the_batch_of_a_random_network_becomes_free(net: Net) -> None:
    proto = with_fixed_batch(net.proto())
    model = loaded(proto)
    feed = samples(model.inputs, 3)
    assert model.batch == "free"
    equal(answers(model, feed), one_by_one(proto, feed))
    free = loaded(net.proto())
    assert {g.name: len(g) for g in analyse(model).groups} == {g.name: len(g) for g in analyse(free).groups}


def column_read_as_row(net: Net) -> None:
    """W · xᵀ."""
    y = net.op("MatMul", net.hold("w", np.eye(4, 6, dtype=np.float32)), net.op("Transpose", "x"))
    net.op("Reshape", y, np.array([1, 4], np.int64))


def tokens_in_the_batch(net: Net) -> None:
    """[1, 6] -> [6, 1]: rows are tokens, which attend to each other."""
    t = net.op("Reshape", "x", np.array([6, 1], np.int64))
    t = net.op("MatMul", t, net.hold("w", np.ones((1, 3), np.float32)))
    a = net.op("Softmax", net.op("MatMul", t, net.op("Transpose", t, perm=[1, 0])))
    t = net.op("ReduceMean", net.op("MatMul", a, t), np.array([0], np.int64), keepdims=0)
    net.op("Reshape", t, np.array([1, 3], np.int64))


def steps_in_the_batch(net: Net) -> None:
    """Rows are steps of one sequence."""
    t = net.op("Reshape", net.dense("x", 5), np.array([1, 1, 5], np.int64))
    net.op("Squeeze", net.recurrence("GRU", t, 5, 4, 1), np.array([1, 2], np.int64))


def convolved_along_the_batch(net: Net) -> None:
    """A window of three neighbours."""
    t = net.op("Unsqueeze", net.op("Transpose", "x", perm=[1, 0]), np.array([0], np.int64))
    t = net.op("Conv", t, net.hold("w", np.ones((5, 6, 3), np.float32)), pads=[1, 1])
    net.op("Transpose", net.op("Squeeze", t, np.array([0], np.int64)), perm=[1, 0])


def divided_by_their_number(net: Net) -> None:
    """A mean over the batch is no mean of one sample."""
    n = net.op("Cast", net.op("Shape", "x", start=0, end=1), to=TensorProto.FLOAT)
    net.op("Div", net.dense("x", 5), n)


def place_among_samples(net: Net) -> None:
    """Each sample gets its number added."""
    n = net.op("Squeeze", net.op("Shape", "x", start=0, end=1), np.array([0], np.int64))
    n = net.op("Range", np.array(0, np.int64), n, np.array(1, np.int64))
    n = net.op("Unsqueeze", net.op("Cast", n, to=TensorProto.FLOAT), np.array([1], np.int64))
    net.op("Add", net.dense("x", 5), n)


def last_row_first(net: Net) -> None:
    """A slice backwards."""
    net.op("Slice", net.dense("x", 5), *(np.array([i], np.int64) for i in (-1, -(1 << 60), 0, -1)))


MIXING: dict[str, Callable[[Net], Any]] = {
    "weights on the left": column_read_as_row,
    "mean over the batch": lambda n: n.op("ReduceMean", n.relu(n.dense("x", 5)), np.array([0], np.int64), keepdims=1),
    "softmax over the batch": lambda n: n.op("Softmax", n.dense("x", 5), axis=0),
    "tokens in the batch": tokens_in_the_batch,
    "flattened whole": lambda n: n.op("Reshape", n.relu(n.dense("x", 5)), np.array([-1], np.int64)),
    "first row taken": lambda n: n.op("Gather", n.relu(n.dense("x", 5)), np.array([0], np.int64), axis=0),
    "cumulative sum": lambda n: n.op("CumSum", n.dense("x", 5), np.array(0, np.int64)),
    "steps in the batch": steps_in_the_batch,
    "convolved along the batch": convolved_along_the_batch,
    "last row first": last_row_first,
    "triangle": lambda n: n.op("Trilu", n.dense("x", 5)),
    "sum of all samples": lambda n: n.op("Einsum", "x", n.dense("x", 5), equation="nc,md->nd"),
    "divided by their number": divided_by_their_number,
    "place among samples": place_among_samples,
    "first row overwritten": lambda n: n.op(
        "ScatterND", n.dense("x", 5), np.array([[0]], np.int64), np.ones((1, 5), np.float32)
    ),
}


@pytest.mark.parametrize("kind", MIXING)
def test_a_batch_is_not_set_free_where_samples_would_mix(kind: str) -> None:
    """The model either keeps its batch, or gives each sample what it gets alone."""
    net = Net(40, batch=1, x=(6,))
    MIXING[kind](net)
    proto = net.proto()
    model = loaded(proto)
    feed = samples(model.inputs, 3)
    if model.batch == "free":
        equal(answers(model, feed), one_by_one(proto, feed))
    else:
        assert model.batch == 1 and model.held_by
        first = {k: v[:1] for k, v in feed.items()}
        equal(answers(model, first), reference(proto, first))


def i64(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def class_token(net: Net) -> None:
    """A token of weights beside those of the image, and positions for all."""
    y = net.op("Transpose", net.op("Reshape", net.conv("x", 6), i64(1, 6, 16)), perm=[0, 2, 1])
    y = net.op("Concat", net.op("Expand", net.weight("token", 1, 1, 6, terms=1), i64(1, -1, -1)[:1]), y, axis=1)
    y = net.op("Add", y, net.weight("positions", 1, 17, 6, terms=4))
    net.head(net.op("Gather", y, np.array(0, np.int64), axis=1))


def sequence_of_tokens(net: Net) -> None:
    """Tokens first, samples second, as torch's own attention has them: both merged, split again, heads in the batch."""
    y = net.op("Transpose", net.op("Reshape", net.conv("x", 6), i64(1, 6, 16)), perm=[2, 0, 1])
    y = net.op(
        "Reshape", net.op("MatMul", net.op("Reshape", y, i64(16, 6)), net.weight("w", 6, 8, terms=6)), i64(16, 1, 8)
    )
    heads = net.op("Transpose", net.op("Reshape", y, i64(16, 2, 4)), perm=[1, 0, 2])
    back = net.op("Reshape", heads, i64(1, 2, 16, 4))
    scores = net.op("MatMul", back, net.op("Transpose", back, perm=[0, 1, 3, 2]))
    y = net.op("MatMul", net.op("Softmax", scores), back)
    y = net.op("Reshape", net.op("Transpose", y, perm=[2, 0, 1, 3]), i64(16, 8))
    y = net.op("Reshape", net.op("Gemm", y, net.weight("v", 8, 5, terms=8), net.bias("b", 5)), i64(16, 1, 5))
    net.head(net.op("ReduceMean", net.op("Transpose", y, perm=[1, 0, 2]), i64(1), keepdims=0))


def windows_of_pixels(net: Net) -> None:
    """Windows in the batch and out again; an Expand whose target has their number."""
    y = net.op("Reshape", net.conv("x", 6), i64(1, 6, 2, 2, 2, 2))
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 4, 3, 5, 1]), i64(4, 4, 6))
    y = net.op("Div", y, net.op("Expand", net.op("ReduceL2", y, i64(2), keepdims=1), i64(4, 4, 6)))
    y = net.op("Transpose", net.op("Reshape", y, i64(1, 2, 2, 2, 2, 6)), perm=[0, 5, 1, 3, 2, 4])
    net.head(net.pooled(net.op("Reshape", y, i64(1, 6, 4, 4))))


def sizes_of_images(net: Net) -> None:
    """Resize with all four sizes; once to a size that no float32 scale leads to."""
    y = net.op("Resize", net.conv("x", 6), None, None, i64(1, 6, 8, 8), mode="linear")
    y = net.op("Resize", y, None, None, i64(1, 6, 12, 7), mode="nearest", coordinate_transformation_mode="asymmetric")
    net.head(net.pooled(net.relu(net.conv(y, 5))))


def picked_in_order(net: Net) -> None:
    """as_strided of what is contiguous, and the windows of an adaptive pool, as torch exports them."""
    y = net.relu(net.conv("x", 6))
    grid = np.stack(np.meshgrid(i64(0, 1, 3), i64(0, 2), indexing="ij"), -1).reshape(3, 1, 2, 1, 2)
    y = net.op("GatherND", net.op("Transpose", y, perm=[2, 3, 0, 1]), grid)
    y = net.op("ReduceMean", net.op("Transpose", y, perm=[4, 5, 0, 1, 2, 3]), i64(-3, -1), keepdims=0)
    y = net.op("Gather", net.op("Reshape", y, i64(-1)), np.arange(36).reshape(1, 36), axis=0)
    net.head(net.relu(net.dense(y, 7)))


def first_states(net: Net) -> None:
    """A first state of zeros and one of weights."""
    y = net.op("Transpose", net.op("Reshape", net.conv("x", 6), i64(1, 6, 16)), perm=[2, 0, 1])
    w, r = net.weight("w", 1, 20, 6, terms=6), net.weight("r", 1, 20, 5, terms=5)
    y = net.op(
        "LSTM", y, w, r, "", "", np.zeros((1, 1, 5), np.float32), net.weight("c", 1, 1, 5, terms=1), hidden_size=5
    )
    y = net.op("Reshape", y, i64(16, 1, 5))
    net.head(net.op("Gather", y, np.array(-1, np.int64), axis=0))


@pytest.mark.parametrize(
    "build", [class_token, sequence_of_tokens, windows_of_pixels, sizes_of_images, picked_in_order, first_states]
)
def test_a_batch_written_into_constants_becomes_free(build: Callable[[Net], None]) -> None:
    net = Net(46, batch=1, x=(3, 4, 4))
    build(net)
    proto = net.proto()
    model = loaded(proto)
    assert model.batch == "free" and model.held_by == ""
    feed = samples(model.inputs, 3)
    equal(answers(model, feed), one_by_one(proto, feed))
    again = loaded(model.to_bytes())
    assert again.batch == "free"
    equal(answers(again, feed), answers(model, feed))


def test_pads_are_told_of_every_axis() -> None:
    net = Net(47, x=(3, 4, 4))
    net.op("Pad", net.conv("x", 2), i64(1, 0, 2, 3), None, i64(-1, 2))
    proto = net.proto()
    model = loaded(proto)
    (pad,) = [n for n in model.graph if n.op_type == "Pad"]
    assert pad.inputs[1].const_value.numpy().tolist() == [0, 0, 0, 1, 0, 0, 3, 2] and pad.inputs[3] is None
    feed = samples(model.inputs, 2)
    equal(answers(model, feed), reference(proto, feed))


@pytest.mark.parametrize("batch", [1, "N"])
@pytest.mark.parametrize("name", ["flatten", "split", "size"])
def test_a_chain_of_shape_arithmetic_folds(name: str, batch: int | str) -> None:
    """Shape → Gather → Unsqueeze → Concat → Reshape, as TorchScript writes view(x.size(0), -1)."""
    net = Net(41, batch=batch, x=(4, 6, 6))
    y = net.relu(net.conv("x", 8))
    if name == "flatten":
        n = net.op("Gather", net.op("Shape", y), np.array(0, np.int64), axis=0)
        n = net.op("Unsqueeze", n, np.array([0], np.int64))
        y = net.op("Reshape", y, net.op("Concat", n, np.array([-1], np.int64), axis=0))
    elif name == "split":  # a channel shuffle
        size = net.op("Shape", y)
        n, c, h, w = (net.op("Slice", size, *(np.array([i], np.int64) for i in (k, k + 1))) for k in range(4))
        half = net.op("Div", c, np.array([2], np.int64))
        y = net.op("Reshape", y, net.op("Concat", n, np.array([2], np.int64), half, h, w, axis=0))
        y = net.op("Transpose", y, perm=[0, 2, 1, 3, 4])
        y = net.pooled(net.op("Reshape", y, net.op("Concat", n, c, h, w, axis=0)))
    else:
        total = net.op("Div", net.op("Size", y), net.op("Gather", net.op("Shape", y), np.array(0, np.int64)))
        n = net.op("Shape", y, start=0, end=1)
        y = net.op("Reshape", y, net.op("Concat", n, net.op("Unsqueeze", total, np.array([0], np.int64)), axis=0))
    net.head(y)
    proto = net.proto()
    model = loaded(proto)
    assert not {n.op_type for n in model.graph} & {"Shape", "Gather", "Concat", "Slice", "Div", "Size", "Unsqueeze"}
    assert model.batch == "free" and dims(model.graph.outputs[0]) == (-1, 4)
    assert len(analyse(model).group("conv0")) in (8, 4)
    feed = samples(model.inputs, 3)
    equal(answers(model, feed), one_by_one(proto, feed))


def test_an_input_without_axes_beside_a_batch_is_read() -> None:
    net = Net(42, x=(5,))
    y = net.relu(net.dense("x", 6))
    net.op("Mul", y, "gain")
    proto = helper.make_model(
        helper.make_graph(
            net.nodes, "net",
            [helper.make_tensor_value_info("gain", F, []), helper.make_tensor_value_info("x", F, [2, 5])],
            [helper.make_tensor_value_info("mul2", F, [2, 6])],
            [numpy_helper.from_array(a, n) for n, a in net.parameters.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)], ir_version=10,
    )  # fmt: skip
    model = loaded(proto)
    feed = {"x": samples({"x": (5,)}, 2)["x"], "gain": np.array(2.5, np.float32)}
    equal(answers(model, feed), reference(proto, feed))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (["N", 3, "H", "W"], "input 'x' is (?, 3, ?, ?). Give --shape x:1,… with every dimension"),
        (["N", 3, None, 8], "input 'x' is (?, 3, ?, 8)"),
        ([1, "C", 8, 8], "input 'x' is (1, ?, 8, 8)"),
    ],
)
def test_a_free_dimension_that_is_not_the_batch_is_refused(shape: list[object], message: str) -> None:
    net = Net(43, x=(3, 8, 8))
    net.head(net.pooled(net.conv("x", 4)))
    proto = net.proto()
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", F, shape))
    with pytest.raises(UsageError) as caught:
        loaded(proto)
    assert message in str(caught.value) and caught.value.exit_code == 2


def test_inputs_that_disagree_on_the_batch_are_told() -> None:
    proto = onnx.ModelProto.FromString(original("two_inputs").SerializeToString())
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    with pytest.raises(UsageError, match="disagree on the batch"):
        loaded(proto)


def test_a_pool_with_an_overhang_has_the_size_that_the_runtime_gives_it() -> None:
    """A last window that would begin in the padding: onnx 1.23 counts it below opset 22, onnxruntime does not."""
    net = Net(44, x=(2, 7, 7))
    y = net.op("MaxPool", net.conv("x", 4), kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1)
    model = net.model(y)
    (found,) = answers(model, samples(model.inputs, 2))
    assert found.shape[1:] == dims(model.graph.outputs[0])[1:] == (4, 4, 4)


# ---- parameters ----------------------------------------------------------------------------------------------------
def shared(bias: str, other: str = "shared.2") -> onnx.ModelProto:
    """Two layers that share one zero bias and one weight; another tensor has the name that a copy would get."""
    net = Net(45, x=(6,))
    net.hold("w", np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32))
    net.hold(bias, np.zeros(6, np.float32))
    net.hold(other, np.full(6, 0.5, np.float32))
    a = net.relu(net.op("Gemm", "x", "w", bias, name="a"))
    b = net.relu(net.op("Gemm", a, "w", bias, name="b"))
    c = net.op("Add", net.op("Gemm", b, net.weight("v", 6, 6, terms=6), bias, name="c"), other)
    net.head(net.relu(c))
    return net.proto()


def test_a_shared_bias_is_given_to_each_layer_and_a_shared_weight_stays() -> None:
    proto = shared("shared")
    model = loaded(proto)
    feed = samples(model.inputs, 3)
    equal(answers(model, feed), reference(proto, feed))
    biases = {str(n.inputs[2].name) for n in model.graph if n.op_type == "Gemm"}
    assert len(biases) == 4 and "shared" in biases and "shared.2" not in biases
    assert len({n.inputs[1] for n in model.graph if n.name in ("a", "b")}) == 1
    assert analyse(model).why("w", 1) == "it is graph input 'x'"  # tied to itself through the shared weight
    assert any(g.name == "c" for g in analyse(model).groups)


def test_a_vector_with_axes_of_one_is_given_to_each_layer_too() -> None:
    net = Net(48, x=(3, 4, 4))
    net.hold("gain", np.full((1, 5, 1, 1), 2, np.float32))
    y = net.relu(net.op("Mul", net.conv("x", 5), "gain"))
    y = net.relu(net.op("Mul", net.conv(y, 5), "gain"))
    net.head(net.pooled(y))
    model = loaded(net.proto())
    assert [len(g) for g in analyse(model).groups] == [5, 5]


def test_functions_are_inlined() -> None:
    """A layer that is a call, with an attribute; and a call inside a function."""
    ops, ours = helper.make_opsetid("", 20), helper.make_opsetid("ours", 1)
    node = helper.make_node("LeakyRelu", ["a"], ["b"])
    node.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    bent = helper.make_function("ours", "Bent", ["a"], ["b"], [node], [ops], ["slope"])
    call = helper.make_node("Bent", ["t"], ["y"], domain="ours", slope=0.25)
    layer = helper.make_function(
        "ours", "Layer", ["x", "w"], ["y"], [helper.make_node("MatMul", ["x", "w"], ["t"]), call], [ops, ours]
    )
    net = Net(49, x=(6,))
    w, last = net.weight("w", 6, 8, terms=6), net.weight("last", 8, 3, terms=8)
    proto = net.proto(net.op("MatMul", net.op("Tanh", net.op("MatMul", "x", w)), last))
    proto.graph.node[0].CopyFrom(helper.make_node("Layer", ["x", "w"], [proto.graph.node[0].output[0]], domain="ours"))
    proto.functions.extend([bent, layer])
    proto.opset_import.append(ours)
    model = loaded(proto)
    feed = samples(model.inputs, 3)
    equal(answers(model, feed), reference(proto, feed))
    assert [len(g) for g in analyse(model).groups] == [8]


def test_a_copy_never_takes_the_name_of_an_activation() -> None:
    proto = shared("shared")
    for node in proto.graph.node:
        node.input[:] = ["shared.3" if i == "relu1" else i for i in node.input]
        node.output[:] = ["shared.3" if o == "relu1" else o for o in node.output]
    model = loaded(proto)
    feed = samples(model.inputs, 3)
    equal(answers(model, feed), reference(proto, feed))
    names = [str(v.name) for n in model.graph for v in n.outputs] + list(model.graph.initializers)
    assert len(set(names)) == len(names)
    loaded(model.to_bytes())


def test_constant_nodes_become_parameters() -> None:
    proto = onnx.ModelProto.FromString(original("mlp").SerializeToString())
    tensors = list(proto.graph.initializer)
    del proto.graph.initializer[:]
    for t in tensors:
        proto.graph.node.insert(0, helper.make_node("Constant", [], [t.name], value=t))
    model = loaded(proto)
    assert not any(n.op_type == "Constant" for n in model.graph)
    assert {g.name: len(g) for g in analyse(model).groups} == {g.name: len(g) for g in analyse(network("mlp")).groups}
    feed = samples(model.inputs, 3)
    equal(answers(model, feed), reference(proto, feed))


def test_weights_that_are_computed_from_constants_are_folded() -> None:
    """Weight standardisation, and a transposed weight."""
    net = Net(46, x=(3, 6, 6))
    w = net.weight("w", 8, 3, 3, 3, terms=27)
    centred = net.op("Sub", w, net.op("ReduceMean", w, np.array([1, 2, 3], np.int64), keepdims=1))
    y = net.relu(net.op("Conv", "x", centred, pads=[1, 1, 1, 1], name="conv"))
    v = net.op("Transpose", net.weight("v", 4, 8, terms=8), perm=[1, 0])
    net.op("MatMul", net.pooled(y), v)
    proto = net.proto()
    model = loaded(proto)
    assert [n.op_type for n in model.graph] == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "MatMul"]
    assert len(analyse(model).group("conv")) == 8
    feed = samples(model.inputs, 3)
    equal(answers(model, feed), reference(proto, feed))


def test_an_initializer_that_is_an_output_is_read() -> None:
    proto = onnx.ModelProto.FromString(original("mlp").SerializeToString())
    proto.graph.output.append(helper.make_tensor_value_info("dense2.bias", F, [9]))
    model = loaded(proto)
    feed = samples(model.inputs, 2)
    equal(answers(model, feed), reference(proto, feed))
    assert analyse(model).why("dense2.bias", 0) == "it is graph output 'dense2.bias'"


def test_nodes_that_nobody_reads_are_dropped() -> None:
    net = Net(47, x=(5,))
    y = net.relu(net.dense("x", 6))
    net.dense(y, 3)  # leads nowhere
    last = net.head(y)
    model = net.model(last)
    assert len(list(model.graph)) == 3 and "dense2.weight" not in model.graph.initializers


# ---- saving --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_saved_reads_back_byte_for_byte(name: str, tmp_path: Path) -> None:
    model = network(name)
    save(model, tmp_path / "a.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "a.onnx"), full_check=True)
    again = load(tmp_path / "a.onnx")
    assert again.to_bytes() == model.to_bytes() == (tmp_path / "a.onnx").read_bytes()


def test_a_file_has_the_permissions_of_an_ordinary_one(tmp_path: Path) -> None:
    save(network("mlp"), tmp_path / "a.onnx")
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.onnx").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"exists\. Use --force to replace it"):
        save(network("mlp"), path)
    assert path.read_bytes() == b"precious"
    save(network("mlp"), path, force=True)
    assert path.read_bytes() == network("mlp").to_bytes()


@pytest.mark.parametrize("call", ["write", "os.fsync", "os.replace", "tensor_bytes"])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, an error of the disk, and an interrupt at any point."""
    path = tmp_path / "a.onnx"
    path.write_bytes(b"precious")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    if call == "tensor_bytes":
        monkeypatch.setattr("toolchain.onnx_file.tensor_bytes", interrupted)
    elif call == "write":
        real = os.fdopen
        monkeypatch.setattr(os, "fdopen", lambda *a, **k: Full(real(*a, **k)))
    else:
        monkeypatch.setattr(call, full)
    with pytest.raises((BadInput, KeyboardInterrupt)) as caught:
        save(network("mlp"), path, force=True)
    monkeypatch.undo()
    assert path.read_bytes() == b"precious" and [p.name for p in tmp_path.iterdir()] == ["a.onnx"]
    if call != "tensor_bytes":
        assert "No space left on device" in str(caught.value)


class Full:
    """A file on a full disk: half of a write fits."""

    def __init__(self, file) -> None:
        self.file = file

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def writelines(self, pieces: Iterable[bytes]) -> None:
        content = next(iter(pieces))
        self.file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")


def test_a_folder_or_a_missing_folder_is_no_place_to_save(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "a.onnx"):
        with pytest.raises(JettisonError) as caught:
            save(network("mlp"), path)
        assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_in_pieces_is_the_one_that_onnx_writes(name: str) -> None:
    """Read by protobuf, it holds what onnx_ir's own conversion does; a parameter's shape is told once."""
    model = network(name)
    found, wanted = onnx.ModelProto.FromString(model.to_bytes()), ir.to_proto(model.ir)
    described = [v for v in wanted.graph.value_info if v.name not in model.graph.initializers]
    del wanted.graph.value_info[:]
    wanted.graph.value_info.extend(described)
    assert found == wanted
    onnx.checker.check_model(found)


def test_loading_the_same_file_gives_the_same_bytes() -> None:
    assert loaded(original("residual")).to_bytes() == loaded(original("residual")).to_bytes()
