"""Widths that a LayerNorm takes its statistics over: exact with norms over what is kept, and the deviation is told."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from compress.networks import NETWORKS, Net, network, original, samples
from compress.test_surgery import answers, equal, halved, pruned_or_less, reference, slices, zeroed
from onnx import helper, numpy_helper

from toolchain.compress.groups import Channels, analyse
from toolchain.compress.surgery import mask
from toolchain.profile import profile
from toolchain.verify import approximation, prove

NORMED = [name for name in NETWORKS if any(n.op_type == "LayerNormalization" for n in original(name).graph.node)]


def narrowed(proto: onnx.ModelProto, channels: Channels, removed: np.ndarray) -> onnx.ModelProto:
    """`zeroed`, with each LayerNormalization written out: sums of the kept terms over their number."""
    gone = channels.flags(channels.closure(removed))
    copy = zeroed(proto, channels, removed)
    nodes = list(copy.graph.node)
    del copy.graph.node[:]
    for node in nodes:
        if node.op_type != "LayerNormalization":
            copy.graph.node.append(node)
            continue
        x, scale, bias = node.input
        value = channels.values[x]
        stays = ~gone[channels.labels.of(value, len(value.shape) - 1)]
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        constants = {"m": stays.astype(np.float32), "k": np.float32(stays.sum()), "e": np.float32(epsilon)}
        constants["last"] = np.array([-1], np.int64)
        name = {
            k: f"{node.name}/{k}" for k in (*constants, "xm", "s", "μ", "c", "d", "dd", "v", "σ²", "ve", "σ", "n", "w")
        }
        for k, array in constants.items():
            copy.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name[k]))
        for op, inputs, output in (
            ("Mul", [x, name["m"]], name["xm"]), ("ReduceSum", [name["xm"], name["last"]], name["s"]),
            ("Div", [name["s"], name["k"]], name["μ"]), ("Sub", [x, name["μ"]], name["c"]),
            ("Mul", [name["c"], name["m"]], name["d"]), ("Mul", [name["d"], name["d"]], name["dd"]),
            ("ReduceSum", [name["dd"], name["last"]], name["v"]), ("Div", [name["v"], name["k"]], name["σ²"]),
            ("Add", [name["σ²"], name["e"]], name["ve"]), ("Sqrt", [name["ve"]], name["σ"]),
            ("Div", [name["d"], name["σ"]], name["n"]), ("Mul", [name["n"], scale], name["w"]),
            ("Add", [name["w"], bias], node.output[0]),
        ):  # fmt: skip
            copy.graph.node.append(helper.make_node(op, inputs, [output]))
    return copy


@pytest.mark.parametrize("name", NORMED)
@pytest.mark.parametrize("seed", range(3))
def test_a_narrowed_norm_is_one_over_what_is_kept(name: str, seed: int) -> None:
    model, channels = network(name), analyse(network(name), approximate=True)
    removed = halved(channels, seed)
    pruned, removed = pruned_or_less(model, channels, removed)
    feed = samples(model.inputs, 5, seed)
    found = answers(pruned, feed)
    equal(found, answers(mask(model, channels, removed), feed))
    equal(found, reference(narrowed(original(name), channels, removed), feed))
    slices(model, pruned, channels, removed)


@pytest.mark.parametrize("name", NORMED)
def test_more_can_go_and_the_deviation_is_told(name: str) -> None:
    model, exact, channels = network(name), analyse(network(name)), analyse(network(name), approximate=True)
    assert sum(map(len, channels.groups)) > sum(map(len, exact.groups))
    removed = np.concatenate([g.units[: len(g) // 2] for g in channels.groups])
    pruned, removed = pruned_or_less(model, channels, removed)
    assert profile(pruned).params < profile(model).params
    feed = samples(model.inputs, 8)
    assert prove(model, channels, removed, pruned, feed).passed
    off = approximation(model, channels, removed, pruned, feed)
    assert off is not None
    found, wanted = answers(pruned, feed)[0], reference(zeroed(original(name), channels, removed), feed)[0]
    np.testing.assert_allclose(off.max_abs, np.abs(found - wanted).max(), rtol=1e-3, atol=1e-5)
    assert off.max_rel > 1e-3, "a norm over fewer units gives other answers"
    assert approximation(model, exact, removed[:0], model, feed) is None


def test_what_is_frozen_by_a_norm_names_the_option() -> None:
    net = Net(3, x=(5,))
    y = net.dense("x", 6)
    net.head(net.op("LayerNormalization", y, net.bias("scale", 6), net.bias("shift", 6)))
    channels = analyse(net.model())
    assert not channels.groups
    assert any("--allow-approximate" in reason for _, _, reason in channels.frozen())
    assert [len(g) for g in analyse(net.model(), approximate=True).groups] == [6]
