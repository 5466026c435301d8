"""Laws of units without weights: the network stays the same function, what nothing needs goes, the rest is named."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx_ir as ir
import pytest
from compress.networks import NETWORKS, Net, cnns, network
from hypothesis import given
from hypothesis import strategies as st

from toolchain.compress.groups import Channels, analyse
from toolchain.compress.surgery import mask, prune
from toolchain.compress.weightless import Stay, weightless
from toolchain.errors import UsageError
from toolchain.model import Model
from toolchain.verify import compare, probes, prove


def sparse(model: Model, share: float, seed: int) -> Model:
    """A share of all weights at 0, and of the rows and columns of every weight at 0 too."""
    generator, clone = np.random.default_rng(seed), model.ir.clone()
    for name, value in clone.graph.initializers.items():
        array = value.const_value.numpy()
        if array.ndim < 2 or array.dtype != np.float32 or min(array.shape[:2]) < 2:
            continue
        array = array * (generator.random(array.shape) >= share)
        for axis in (0, 1):
            shape = [-1 if a == axis else 1 for a in range(array.ndim)]
            array = array * (generator.random(array.shape[axis]) >= share / 2).reshape(shape)
        value.const_value = ir.tensor(array.astype(np.float32), name=name)
    return model.with_ir(clone)


def cut(model: Model) -> tuple[Model, Model, dict[str, tuple[int, ...]], list[Stay]]:
    """The settled network, the pruned one, what went and what stays."""
    clean, plan, stays = weightless(model)
    channels = analyse(clean)
    return clean, prune(clean, channels, plan.labels(channels)), plan.removed, stays


# ---- the same function ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "share"), list(product(NETWORKS, (0.3, 0.7, 0.95))))
def test_a_network_without_its_weightless_units_is_the_same_function(name: str, share: float) -> None:
    model = sparse(network(name), share, seed=3)
    clean, pruned, _, _ = cut(model)
    inputs = probes(model)
    assert compare(model, pruned, inputs, "original").passed
    plan = weightless(model)[1]
    channels = analyse(clean)
    assert prove(clean, channels, plan.labels(channels), pruned, inputs).passed


@given(cnns(), st.floats(0.2, 0.99), st.integers(0, 99))
def test_random_networks_stay_the_same_function(net: Net, share: float, seed: int) -> None:
    model = sparse(net.model(), share, seed)
    assert compare(model, cut(model)[1], probes(model), "original").passed


# ---- exactly those -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(8))
def test_every_unit_that_is_left_changes_the_answers_when_it_goes(seed: int) -> None:
    """Each masked alone; Tanh keeps all of them alive."""
    net = Net(seed, x=(2, 8, 8))
    y = net.op("Tanh", net.conv(net.op("Tanh", net.conv("x", 6, pads=[0] * 4)), 6, pads=[0] * 4))
    net.head(net.op("Tanh", net.dense(net.op("Flatten", y), 12)))
    model = sparse(net.model(), 0.8, seed)
    _, pruned, removed, stays = cut(model)
    assert any(removed.values())
    channels, inputs = analyse(pruned), probes(model)
    spared = {s.where for s in stays}
    if not any(n.op_type == "Gather" for n in pruned.graph):  # it would take more room than the places
        spared |= {g.name for g in channels.groups if g.kind == "position"}
    for g in (g for g in channels.groups if g.name not in spared):
        for unit in g.units:
            assert compare(pruned, mask(pruned, channels, np.array([unit])), inputs, "whole").max_abs > 0, g.name


def test_a_network_with_all_its_weights_loses_nothing() -> None:
    for name in NETWORKS:
        model = network(name)
        clean, _, removed, stays = cut(model)
        assert clean is model and not any(removed.values()) and not stays, name


def two_layers(pads: int, bias: float, read: bool = True) -> Model:
    """Two convolutions and a mean; unit 1 of the first reads nothing and gives relu(bias), nothing reads unit 2."""
    net = Net(5, x=(2, 6, 6))
    first = net.conv("x", 4)
    second = net.conv(net.relu(first), 3, pads=[pads] * 4, bias=read)
    net.head(net.pooled(net.relu(second)))
    net.parameters[f"{first}.weight"][1] = 0
    net.parameters[f"{first}.bias"][1] = bias
    net.parameters[f"{second}.weight"][:, 2] = 0
    return net.model()


@pytest.mark.parametrize(
    ("pads", "bias", "has_bias", "gone", "reason"),
    [
        (0, 0.7, True, (1, 2), ""),
        (1, -0.7, True, (1, 2), ""),  # relu gives 0, which the padding is too
        (1, 0.7, True, (2,), "the padding of the node reads 0 in its place"),
        (0, 0.7, False, (2,), "the node has no bias that could take it"),
        (0, -0.7, False, (1, 2), ""),
    ],
)
def test_a_constant_unit_goes_where_the_next_bias_can_say_it(
    pads: int, bias: float, has_bias: bool, gone: tuple[int, ...], reason: str
) -> None:
    model = two_layers(pads, bias, has_bias)
    _, pruned, removed, stays = cut(model)
    assert next(iter(removed.values())) == gone
    assert [(s.units, s.reason) for s in stays] == ([(1, reason)] if reason else [])
    assert compare(model, pruned, probes(model), "original").passed


def test_a_constant_goes_into_the_bias_by_the_weights_that_read_it() -> None:
    net = Net(2, x=(5,))
    hidden = net.dense("x", 4)
    last = net.dense(net.relu(hidden), 3)
    net.parameters[f"{hidden}.weight"][2] = 0
    net.parameters[f"{hidden}.bias"][2] = 0.5
    bias, column = net.parameters[f"{last}.bias"], net.parameters[f"{last}.weight"][:, 2]
    found = cut(net.model())[1].graph.initializers[f"{last}.bias"].const_value.numpy()
    np.testing.assert_allclose(found, bias + 0.5 * column, rtol=1e-6)


def test_units_that_only_weightless_units_read_go_too() -> None:
    net = Net(4, x=(5,))
    first = net.dense("x", 4)
    second = net.dense(net.relu(first), 4)
    last = net.dense(net.relu(second), 3)
    net.parameters[f"{last}.weight"][:, 0] = 0
    net.parameters[f"{second}.weight"][1:, 3] = 0  # unit 3 is read by unit 0 alone, and that by nobody
    assert list(cut(net.model())[2].values()) == [(3,), (0,)]


def test_a_group_keeps_one_unit_and_says_so() -> None:
    net = Net(6, x=(2, 6, 6))
    first = net.conv("x", 4)
    net.head(net.op("Flatten", net.relu(first)))
    head = net.nodes[-1].name
    net.parameters[f"{head}.weight"][:] = 0
    model = net.model()
    _, pruned, removed, stays = cut(model)
    assert sorted(map(len, removed.values())) == [3, 4 * 36 - 1]
    assert {s.reason for s in stays} == {"a group cannot be empty"}
    assert compare(model, pruned, probes(model), "original").passed


def test_a_constant_that_a_depthwise_convolution_hands_on_is_named_once() -> None:
    net = Net(8, x=(2, 6, 6))
    first = net.conv("x", 4)
    net.head(net.pooled(net.conv(net.conv(net.relu(first), 4, group=4), 3, 1)))
    net.parameters[f"{first}.weight"][1] = 0
    net.parameters[f"{first}.bias"][1] = 0.5
    _, _, removed, stays = cut(net.model())
    assert not any(removed.values())
    assert [(s.units, s.reason) for s in stays] == [(1, "it differs from place to place")]


@pytest.mark.parametrize(("align", "left"), [("off", 5), ("4", 8), ("auto", 8)])
def test_units_that_nothing_needs_fill_up_to_the_alignment(align: str, left: int) -> None:
    net = Net(9, x=(5,))
    hidden = net.dense("x", 16)
    head = net.head(net.relu(hidden))
    net.parameters[f"{head}.weight"][:, 5:] = 0
    assert weightless(net.model(), align)[1].widths == {hidden: (16, left)}


def test_groups_in_keep_stay_whole_and_a_pattern_of_no_group_is_refused() -> None:
    model = sparse(network("alexnet"), 0.9, 0)
    widths = weightless(model, keep=("conv*",))[1].widths
    assert all(before == after for name, (before, after) in widths.items() if name.startswith("conv"))
    assert any(before > after for name, (before, after) in widths.items() if name.startswith("dense"))
    assert compare(model, prune(*planned(model, ("conv*",))), probes(model), "original").passed
    with pytest.raises(UsageError, match="--keep"):
        weightless(model, keep=("nothing",))


def planned(model: Model, keep: tuple[str, ...]) -> tuple[Model, Channels, np.ndarray]:
    clean, plan, _ = weightless(model, keep=keep)
    channels = analyse(clean)
    return clean, channels, plan.labels(channels)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_pruned_network_has_nothing_more_to_lose(name: str) -> None:
    """Groups that would be empty keep their one unit."""
    _, pruned, _, _ = cut(sparse(network(name), 0.7, seed=5))
    assert not any(cut(pruned)[2].values())


@pytest.mark.parametrize("zeros", [1, 8, 30, 60])
def test_places_go_only_where_the_file_gets_smaller(zeros: int) -> None:
    net = Net(7, x=(2, 6, 6))
    net.head(net.op("Flatten", net.relu(net.conv("x", 2))))
    net.parameters[f"{net.nodes[-1].name}.weight"][:, :zeros] = 0
    clean, pruned, removed, _ = cut(net.model())
    assert len(pruned.to_bytes()) <= len(clean.to_bytes())
    assert bool(sum(map(len, removed.values()))) is (zeros >= 36)  # a whole channel, or more weights than indices


def test_constants_are_seen_through_a_concatenation() -> None:
    net = Net(3, x=(2, 6, 6))
    parts = [net.conv("x", 3) for _ in range(2)]
    y = net.conv(net.relu(net.op("Concat", *parts, axis=1)), 4, 1)
    net.head(net.pooled(net.relu(y)))
    for part, unit in zip(parts, (0, 2), strict=True):
        net.parameters[f"{part}.weight"][unit] = 0
        net.parameters[f"{part}.bias"][unit] = 0.6
    model = net.model()
    _, pruned, removed, stays = cut(model)
    assert list(removed.values())[:2] == [(0,), (2,)] and not stays
    assert compare(model, pruned, probes(model), "original").passed
