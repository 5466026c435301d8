"""Counts against the paper's figures, against numpy, and against a planner that tries every offset."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from compress.networks import NETWORKS, Net, network

from toolchain.compress.groups import analyse
from toolchain.compress.plan import make_plan
from toolchain.compress.surgery import prune
from toolchain.model import Model, save, settle
from toolchain.profile import Buffers, arena, moments, node_bytes, overlapping, params, profile

CONVS = [
    (96, 11, 4, 0),
    (256, 5, 1, 2),
    (384, 3, 1, 1),
    (384, 3, 1, 1),
    (256, 3, 1, 1),
]  # channels, kernel, stride, pad
POOLED = {0, 1, 4}
DENSE = [4096, 4096, 5]


def weights(name: str, *shape: int) -> ir.Value:
    """A parameter of this shape that takes no memory: one zero, seen many times."""
    tensor = ir.Tensor(np.broadcast_to(np.float32(0), shape), name=name)
    return ir.Value(name=name, const_value=tensor, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))


def alexnet5() -> Model:
    """The paper's network: AlexNet without groups and without batch normalisation, 5 classes, 227 x 227 x 3."""
    x = ir.Value(name="x", shape=ir.Shape(["N", 3, 227, 227]), type=ir.TensorType(ir.DataType.FLOAT))
    nodes: list[ir.Node] = []
    held: list[ir.Value] = []

    def op(kind: str, *inputs: ir.Value, **attributes: object) -> ir.Value:
        node = ir.node(kind, inputs, attributes=attributes, name=f"{kind.lower()}{len(nodes)}")
        node.outputs[0].name = node.name
        nodes.append(node)
        held.extend(v for v in inputs if v.const_value is not None)
        return node.outputs[0]

    y, before = x, 3
    for i, (channels, kernel, stride, pad) in enumerate(CONVS):
        w, b = weights(f"conv{i}.weight", channels, before, kernel, kernel), weights(f"conv{i}.bias", channels)
        y = op("Relu", op("Conv", y, w, b, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4))
        y = op("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2]) if i in POOLED else y
        before = channels
    y, before = op("Flatten", y, axis=1), 9216
    for i, units in enumerate(DENSE):
        w, b = weights(f"dense{i}.weight", units, before), weights(f"dense{i}.bias", units)
        y, before = op("Gemm", y, w, b, transB=1), units
        y = op("Relu", y) if i < 2 else y
    graph = ir.Graph([x], [y], nodes=nodes, initializers=held, opset_imports={"": 20}, name="alexnet")
    assert settle(graph, {}, Path("alexnet.onnx")) == ("free", "")
    return Model(ir.Model(graph, ir_version=10), "0" * 64, 20)


# ---- the paper's figures (SEEDS.md, A) -----------------------------------------------------------------------------
def test_alexnet_has_the_papers_parameters_and_macs() -> None:
    model = alexnet5()
    counts = profile(model)
    assert counts.params == 58_301_829
    assert counts.macs == 1_131_180_576
    convs = sum(layer.params for layer in counts.layers if layer.op == "Conv")
    assert (convs, counts.params - convs) == (3_747_200, 54_554_629)
    assert sum(layer.macs for layer in counts.layers) == counts.macs


def test_alexnet_cut_to_5_percent_of_its_units_loses_what_the_paper_says() -> None:
    """Whole units: 461, 205 and 205 stay, and 54,416,659 parameters go (the paper's real numbers say 54,416,876)."""
    model = alexnet5()
    channels = analyse(model)
    dense = [g for g in channels.groups if g.kind != "channel"]
    assert {g.kind: len(g) for g in channels.groups if g.kind == "position"} == {"position": 9216}
    assert [len(g) for g in dense] == [9216, 4096, 4096]
    assert [len(g) for g in channels.groups if g.kind == "channel"] == [96, 256, 384, 384, 256]
    # the last of the paper's cuts, but for the conv filters, all of whose places would have to go
    scores = {g.name: np.arange(len(g), dtype=np.float64)[::-1] % 977 for g in dense}
    plan = make_plan(model, channels, scores, {}, "units<=5%", "off", keep=["conv*"])
    assert [plan.widths[g.name][1] for g in dense] == [461, 205, 205]
    before, after = plan.costs["params"]
    assert before - after == 54_416_659
    assert plan.costs["macs"][1] / plan.costs["macs"][0] == pytest.approx(1 - 0.048, abs=5e-4)


# ---- files ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NETWORKS)
def test_flash_is_the_size_of_the_file(name: str, tmp_path: Path) -> None:
    save(network(name), tmp_path / "a.onnx")
    assert profile(network(name)).flash_bytes == (tmp_path / "a.onnx").stat().st_size


@pytest.mark.parametrize("name", NETWORKS)
def test_a_layer_counts_what_it_stores_and_the_layers_add_up(name: str) -> None:
    counts = profile(network(name))
    floats = [v for v in network(name).graph.initializers.values() if v.dtype.is_floating_point()]
    assert counts.params == sum(v.const_value.numpy().size for v in floats)
    assert counts.params == sum(layer.params for layer in counts.layers)
    assert counts.macs == sum(layer.macs for layer in counts.layers) > 0


def test_a_pruned_network_is_counted_as_its_file_is(tmp_path: Path) -> None:
    model = network("alexnet")
    channels = analyse(model)
    pruned = prune(model, channels, np.concatenate([g.units[::3] for g in channels.groups]))
    save(pruned, tmp_path / "a.onnx")
    assert profile(pruned).flash_bytes == (tmp_path / "a.onnx").stat().st_size
    from toolchain.model import load

    assert profile(load(tmp_path / "a.onnx")) == profile(pruned)


# ---- the arena -----------------------------------------------------------------------------------------------------
def overlap(a: tuple[int, int, int], b: tuple[int, int, int]) -> bool:
    """Whether two buffers [bytes, first, last] live at the same time."""
    return a[1] <= b[2] and b[1] <= a[2]


def literal_greedy(spans: list[tuple[int, int, int]]) -> int:
    """Largest first, ties by reverse index: the lowest of all offsets at which nothing living is in the way."""
    offsets: dict[int, int] = {}
    for i in sorted(range(len(spans)), key=lambda i: (-spans[i][0], -i)):
        others = [(offsets[j], offsets[j] + spans[j][0]) for j in offsets if overlap(spans[i], spans[j])]
        offsets[i] = next(
            o for o in itertools.count(0) if all(o + spans[i][0] <= low or high <= o for low, high in others)
        )
    return max((offsets[i] + spans[i][0] for i in offsets), default=0)


def best(spans: list[tuple[int, int, int]]) -> int:
    """The least height of all orders of placement, by trying every one."""
    least = sum(s[0] for s in spans)
    for order in itertools.permutations(range(len(spans))):
        done: dict[int, int] = {}
        for i in order:
            others = [(done[j], done[j] + spans[j][0]) for j in done if overlap(spans[i], spans[j])]
            ends = [0, *(high for _, high in others)]
            done[i] = min(o for o in ends if all(o + spans[i][0] <= low or high <= o for low, high in others))
        least = min(least, max(done[i] + spans[i][0] for i in done))
    return least


def test_buffers_are_placed_as_the_greedy_rule_says_and_near_the_best() -> None:
    generator = np.random.default_rng(0)
    for _ in range(60):
        n = int(generator.integers(1, 6))
        first = generator.integers(0, 6, n)
        size, lives = generator.integers(1, 9, n), generator.integers(0, 4, n)
        spans = [(int(s), int(f), int(f + d)) for s, f, d in zip(size, first, lives, strict=True)]
        height = Buffers((), overlapping([s[1:] for s in spans])).height([s[0] for s in spans])
        assert height == literal_greedy(spans)
        together = [sum(s[0] for s in spans if s[1] <= t <= s[2]) for t in range(12)]
        assert max(together) <= best(spans) <= height <= 2 * best(spans)


def rounded(*sizes: int) -> int:
    return sum(-(-4 * s // 16) * 16 for s in sizes)


def test_the_arena_of_a_chain_is_its_two_largest_neighbours() -> None:
    """x [6] → dense 10 (ReLU in place) → dense 9 (in place) → 4 logits."""
    assert arena(network("mlp")) == max(rounded(6, 10), rounded(10, 9), rounded(9, 4))


def test_a_shortcut_stays_alive_until_it_is_added() -> None:
    net = Net(50, x=(2, 4, 4))
    y = net.relu(net.conv("x", 4))  # 64 numbers
    z = net.relu(net.conv(y, 6))  # 96
    net.op("Add", y, net.conv(z, 4))
    # y, z and the second branch's end; then y, the end and the sum
    assert arena(net.model()) == rounded(64, 96, 64)


def test_what_is_not_elementwise_gets_a_buffer_of_its_own() -> None:
    """A pool of stride 1, a Transpose and a Softmax do not write over what they still read; a Flatten is a view."""
    net = Net(51, x=(4, 6, 6))
    net.op("MaxPool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    assert arena(net.model()) == rounded(144, 144)
    net = Net(52, x=(4, 6, 6))
    net.op("Flatten", "x")
    assert arena(net.model()) == rounded(144)
    net = Net(53, x=(4, 6, 6))
    net.op("Relu", net.op("Sigmoid", "x"))
    assert arena(net.model()) == rounded(144)


def test_a_value_that_is_read_again_is_not_overwritten() -> None:
    net = Net(54, x=(4, 6, 6))
    y = net.op("Sigmoid", net.op("Relu", "x"))
    net.op("Mul", y, net.op("Tanh", y))  # Tanh may not take the place of what Mul still reads
    assert arena(net.model()) == rounded(144, 144, 144)


def test_an_unknown_op_gets_buffers_for_all_of_its_values() -> None:
    net = Net(55, x=(4, 6, 6))
    net.op("Hardmax", "x")
    assert arena(net.model()) == rounded(144, 144)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_moment_needs_more_than_the_arena_and_the_largest_buffer_is_in_one(name: str) -> None:
    model = network(name)
    seen = moments(model)
    assert [m.node for m in seen] == list(model.graph)
    largest = max((size for m in seen for _, size in m.held), default=0)
    assert largest <= max((m.bytes for m in seen), default=0) <= arena(model)


def test_a_moment_names_what_is_alive_and_a_shortcut_through_all_of_its_branch() -> None:
    net = Net(50, x=(2, 4, 4))
    y = net.conv("x", 4)  # 64 numbers
    z = net.conv(y, 6)  # 96
    end = net.conv(z, 4)
    total = net.op("Add", y, end)
    seen = [{str(v.name): size for v, size in m.held} for m in moments(net.model())]
    assert seen == [{"x": 128, y: 256}, {y: 256, z: 384}, {y: 256, z: 384, end: 256}, {y: 256, end: 256, total: 256}]


def test_the_bytes_of_nodes_are_those_of_the_parameters() -> None:
    model = network("mlp")
    assert sum(map(node_bytes, model.graph)) == 4 * params(model)
