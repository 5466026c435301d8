"""What no rule knows in the middle of a network: it stays, by name, and the rest is cut exactly or not at all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from compress.networks import Net, samples
from compress.test_surgery import answers, equal, halved, pruned_or_less, reference
from onnx import TensorProto, helper, numpy_helper

from toolchain.compress.groups import analyse
from toolchain.compress.surgery import mask

FLOAT = TensorProto.FLOAT


def body(nodes: list[onnx.NodeProto], inputs: list[tuple[str, int]], outputs: list[tuple[str, int]]) -> onnx.GraphProto:
    """A branch; (name, type) of what goes in and out."""
    values = [
        [helper.make_tensor_value_info(n, t, None if t == FLOAT else []) for n, t in vs] for vs in (inputs, outputs)
    ]
    return helper.make_graph(nodes, "body", *values)


def loop(net: Net, y: str) -> str:
    """Twice y + y·weight, as a Loop."""
    w = net.bias("loop.weight", 8)
    nodes = [
        helper.make_node("Mul", ["state", w], ["product"]), helper.make_node("Add", ["state", "product"], ["next"]),
        helper.make_node("Identity", ["go"], ["go on"]),
    ]  # fmt: skip
    states = [("i", TensorProto.INT64), ("go", TensorProto.BOOL), ("state", FLOAT)]
    inner = body(nodes, states, [("go on", TensorProto.BOOL), ("next", FLOAT)])
    return net.op("Loop", np.array(2), np.array(True), y, body=inner)


def scan(net: Net, y: str) -> str:
    """Running sums over the rows of [8, N], as a Scan."""
    rows = net.op("Transpose", y, perm=[1, 0])
    start = net.op("Mul", net.op("ReduceSum", y, np.array([1]), keepdims=0), np.zeros(1, np.float32))
    nodes = [helper.make_node("Add", ["sum", "row"], ["more"]), helper.make_node("Identity", ["more"], ["out"])]
    inner = body(nodes, [("sum", FLOAT), ("row", FLOAT)], [("more", FLOAT), ("out", FLOAT)])
    net.op("Scan", start, rows, body=inner, num_scan_inputs=1, outputs=2)
    return net.op("Transpose", f"{net.nodes[-1].name}:1", perm=[1, 0])


def branch(net: Net, y: str) -> str:
    """y or 2 y, by a condition that the data decides: both branches read y from outside."""
    is_large = net.op("Greater", net.op("ReduceMax", "x", keepdims=0), np.array(1e-3, np.float32))
    net.hold("two", np.array(2, np.float32))
    then = body([helper.make_node("Mul", [y, "two"], ["double"])], [], [("double", FLOAT)])
    other = body([helper.make_node("Identity", [y], ["single"])], [], [("single", FLOAT)])
    return net.op("If", is_large, then_branch=then, else_branch=other)


def sequence(net: Net, y: str) -> str:
    """Into a sequence and out again."""
    return net.op("SequenceAt", net.op("SequenceConstruct", y, y), np.array(1))


def quantised(net: Net, y: str) -> str:
    """A dense layer as a quantiser writes it: activations and int8 weights through QuantizeLinear, DequantizeLinear."""
    scale, zero = np.array(0.05, np.float32), np.array(0, np.int8)
    y = net.op("DequantizeLinear", net.op("QuantizeLinear", y, scale, zero), scale, zero)
    stored = net.hold("q.weight", net.generator.integers(-90, 90, (8, 6)).astype(np.int8))
    w = net.op("DequantizeLinear", stored, np.array(0.01, np.float32), zero)
    return net.relu(net.op("Add", net.op("MatMul", y, w), net.bias("q.bias", 6)))


def integers(net: Net, y: str) -> str:
    """A product in whole numbers, between two scales."""
    scale, zero = np.array(0.05, np.float32), np.array(0, np.int8)
    whole = net.op("QuantizeLinear", y, scale, zero)
    product = net.op("MatMulInteger", whole, net.generator.integers(-90, 90, (8, 6)).astype(np.int8))
    return net.op("Mul", net.op("Cast", product, to=FLOAT), np.array(5e-4, np.float32))


def top(net: Net, y: str) -> str:
    """The five largest of eight, which no unit may leave."""
    return net.op("TopK", y, np.array([5]), outputs=2)


def scattered(net: Net, y: str) -> str:
    """Columns written over by position."""
    at = net.op("Mul", net.op("Cast", net.op("Greater", y, y), to=TensorProto.INT64), np.array(0))
    return net.op("ScatterElements", y, at, y, axis=1, reduction="add")


KINDS: dict[Callable[[Net, str], str], str] = {
    loop: "Loop", scan: "Scan", branch: "If", sequence: "SequenceConstruct", quantised: "QuantizeLinear",
    integers: "QuantizeLinear", top: "TopK", scattered: "ScatterElements",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_what_no_rule_knows_stays_and_is_named(kind: Callable[[Net, str], str]) -> None:
    """Two layers of 8 before it, one behind: the first may go, what the unknown op touches may not."""
    net = Net(91, x=(7,))
    y = kind(net, net.relu(net.dense(net.relu(net.dense("x", 10)), 8)))
    y = net.op("Tanh", y)
    net.op("Add", net.op("MatMul", y, net.weight("last", *net.shape(y)[-1:], 9, terms=8)), net.bias("b", 9))
    proto = net.proto()
    model = net.model()
    channels = analyse(model)
    first = next(g for g in channels.groups if len(g) == 10)
    named = [reason for name, axis, reason in channels.frozen() if name == "dense2.weight" and axis == 0]
    if kind is not quantised:
        assert [KINDS[kind] in reason for reason in named] == [True], named
    feed = samples(model.inputs, 5)
    equal(answers(model, feed), reference(proto, feed))
    for removed in (first.units[:4], *(halved(channels, seed) for seed in range(3))):
        pruned, gone = pruned_or_less(model, channels, removed)
        equal(answers(pruned, feed), answers(mask(model, channels, gone), feed))


def test_a_function_of_the_file_is_seen_through() -> None:
    """A local function is no unknown op: its nodes stand in its place."""
    net = Net(92, x=(5,))
    y = net.dense("x", 6)
    net.nodes.append(helper.make_node("Gate", [y], ["gated"], name="gate", domain="own"))
    net.nodes.append(helper.make_node("MatMul", ["gated", net.weight("w", 6, 3, terms=6)], ["z"], name="z"))
    function = helper.make_function(
        "own", "Gate", ["a"], ["b"],
        [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["b"])],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    graph = helper.make_graph(
        net.nodes, "net", [helper.make_tensor_value_info("x", FLOAT, ["N", 5])],
        [helper.make_tensor_value_info("z", FLOAT, ["N", 3])],
        [numpy_helper.from_array(a, n) for n, a in net.parameters.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[function])
    from compress.networks import loaded

    model = loaded(proto)
    channels = analyse(model)
    assert [len(g) for g in channels.groups] == [6]
    feed, removed = samples(model.inputs, 4), channels.groups[0].units[::2]
    pruned, _ = pruned_or_less(model, channels, removed)
    equal(answers(pruned, feed), answers(mask(model, channels, removed), feed))
    equal(answers(model, feed), reference(proto, feed))
