"""Laws of removal: the pruned network is the masked one, and what remains is the original's, bit for bit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from compress.networks import NETWORKS, Net, cnns, loaded, network, original, samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import toolchain
from toolchain.compress.groups import Channels, analyse
from toolchain.compress.plan import make_plan, save_plan
from toolchain.compress.surgery import mask, prune
from toolchain.errors import OutOfReach, UsageError
from toolchain.model import Model, save
from toolchain.ops import OPS
from toolchain.session import run, session

ROUNDING = 1e-5  # of the largest output: float32 sums of a few hundred terms, in another order, round to about 1e-6
SAMPLES = 8


def answers(model: Model, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    return run(session(model.ir), feed)


def equal(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    for y, z in zip(found, wanted, strict=True):
        assert y.shape == z.shape
        np.testing.assert_allclose(y, z, rtol=0, atol=ROUNDING * float(np.abs(z).max()))


def zeroed(proto: onnx.ModelProto, channels: Channels, removed: np.ndarray) -> onnx.ModelProto:
    """The original file with the weights that read a removed unit at zero: masking, told without our mask().

    A consumer sees zero if its column is zero: Conv's axis 1 (a depthwise kernel: its rows), ConvTranspose's axis 0,
    Gemm's and MatMul's columns, those of both matrices of a recurrence. Biases stay. Where two computed values meet,
    the first is multiplied by zero.
    """
    gone = channels.flags(channels.closure(removed))
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    tensors = {t.name: t for t in copy.graph.initializer}
    for node in copy.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        for i, axis in {
            "Conv": [(1, 1 if attributes.get("group", 1) == 1 or len(node.input) < 2 else None)],
            "ConvTranspose": [(1, 0)],
            "Gemm": [(1, attributes.get("transB", 0))],
            "MatMul": [(1, -2), (0, -1)],
            "Einsum": [(1, 0)],
            "LSTM": [(1, 2), (2, 2)],
            "GRU": [(1, 2), (2, 2)],
        }.get(node.op_type, []):
            name = node.input[i]
            if name not in tensors:
                continue
            weights = numpy_helper.to_array(tensors[name]).copy()
            if axis is None:
                axis = 0 if weights.shape[1] == 1 else 1
            axis %= weights.ndim
            value = channels.values[name]
            if (value, axis) in channels.labels.axes:
                np.moveaxis(weights, axis, 0)[gone[channels.labels.of(value, axis)]] = 0
            tensors[name].CopyFrom(numpy_helper.from_array(weights, name))
    for i, node in reversed(list(enumerate(copy.graph.node))):
        if node.op_type != "MatMul" or any(name in tensors for name in node.input):
            continue
        value = channels.values[node.input[0]]
        if (value, axis := len(value.shape) - 1) in channels.labels.axes:
            stays = (~gone[channels.labels.of(value, axis)]).astype(np.float32)
            copy.graph.initializer.append(numpy_helper.from_array(stays, f"{node.name} stays"))
            product = onnx.helper.make_node("Mul", [node.input[0], f"{node.name} stays"], [f"{node.name} masked"])
            node.input[0] = f"{node.name} masked"
            copy.graph.node.insert(i, product)
    return copy


def reference(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of a file as it stands; one sample at a time where its batch is 1."""
    runner = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    if proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value != 1:
        return runner.run(None, feed)
    n = len(next(iter(feed.values())))
    rows = [runner.run(None, {k: v[i : i + 1] for k, v in feed.items()}) for i in range(n)]
    return [np.concatenate(y) for y in zip(*rows, strict=True)]


def halved(channels: Channels, seed: int, share: float = 0.5) -> np.ndarray:
    """Random units of every group, at least one of each left over."""
    generator = np.random.default_rng([seed, len(channels.groups)])
    removed = [np.zeros(0, np.int64)]
    for g in channels.groups:
        most = min(int(share * len(g)) + 1, len(g) - 1)
        removed.append(generator.permutation(g.units)[: generator.integers(0, most + 1)])
    return np.concatenate(removed)


def pruned_or_less(model: Model, channels: Channels, removed: np.ndarray) -> tuple[Model, np.ndarray]:
    """The pruned model; where channels and places together would empty a layer, channels alone go."""
    try:
        return prune(model, channels, removed), removed
    except OutOfReach:
        places = [g.units for g in channels.groups if g.kind == "position"]
        removed = np.setdiff1d(removed, np.concatenate(places))
        return prune(model, channels, removed), removed


def check(proto: onnx.ModelProto, model: Model, channels: Channels, removed: np.ndarray) -> Model:
    """All laws of one removal; returns the pruned model."""
    pruned, removed = pruned_or_less(model, channels, removed)
    feed = samples(model.inputs, SAMPLES, seed=len(removed))
    found = answers(pruned, feed)
    equal(found, answers(mask(model, channels, removed), feed))
    equal(found, reference(zeroed(proto, channels, removed), feed))
    slices(model, pruned, channels, removed)
    assert pruned.inputs == model.inputs
    assert [v.shape for v in pruned.graph.outputs] == [v.shape for v in model.graph.outputs]
    return pruned


def slices(model: Model, pruned: Model, channels: Channels, removed: np.ndarray) -> None:
    """Every float parameter of the pruned model is a slice of the original's of the same name, bit for bit."""
    gone = channels.flags(channels.closure(removed))
    for name, value in pruned.graph.initializers.items():
        if not value.dtype.is_floating_point():
            continue
        wanted = model.graph.initializers[name].const_value.numpy()
        for axis in range(wanted.ndim):
            if (channels.values[name], axis) in channels.labels.axes:
                wanted = np.compress(~gone[channels.labels.of(channels.values[name], axis)], wanted, axis=axis)
        assert value.const_value.numpy().tobytes() == wanted.tobytes() and value.const_value.shape == wanted.shape


# ---- the networks --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(4))
def test_a_pruned_network_equals_the_masked_one(name: str, seed: int) -> None:
    model, channels = network(name), analyse(network(name))
    before = model.to_bytes()
    check(original(name), model, channels, halved(channels, seed))
    assert model.to_bytes() == before, "a stage has edited its argument"


@pytest.mark.parametrize("name", NETWORKS)
def test_a_unit_removed_alone_equals_the_masked_one(name: str) -> None:
    model, channels = network(name), analyse(network(name))
    for g in channels.groups:
        for unit in g.units[:: 1 if g.kind != "position" else 9]:
            check(original(name), model, channels, np.array([unit]))


@pytest.mark.parametrize("name", NETWORKS)
def test_one_unit_of_each_layer_is_enough(name: str) -> None:
    model, channels = network(name), analyse(network(name))
    pruned = check(original(name), model, channels, np.concatenate([g.units[1:] for g in channels.groups]))
    assert pruned.to_bytes() != model.to_bytes()


def test_a_pruned_network_tells_its_source_and_the_sum_of_its_plan(tmp_path: Path) -> None:
    """Anyone can check the plan's sum: the removed units as JSON, the groups by name."""
    model = network("alexnet")
    channels = analyse(model)
    scores = {g.name: np.arange(len(g), dtype=float) for g in channels.groups}
    plan = make_plan(model, channels, scores, {}, "units<=50%", "off")
    save_plan(plan, tmp_path / "plan.json")
    save(prune(model, channels, plan.labels(channels)), tmp_path / "p.onnx")
    told = {p.key: p.value for p in onnx.load(tmp_path / "p.onnx").metadata_props}
    groups = {g["name"]: g["removed"] for g in json.loads((tmp_path / "plan.json").read_text())["groups"]}
    text = json.dumps(groups, sort_keys=True, separators=(",", ":"))
    assert told["jettison.plan_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert told["jettison.source_sha256"] == model.sha256
    assert told["jettison.version"] == toolchain.__version__


@pytest.mark.parametrize("name", NETWORKS)
def test_removing_nothing_changes_no_byte(name: str) -> None:
    model = network(name)
    channels = analyse(model)
    assert prune(model, channels, np.zeros(0, np.int64)).to_bytes() == model.to_bytes()
    assert mask(model, channels, np.zeros(0, np.int64)).to_bytes() == model.to_bytes()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_pruned_file_reads_back_as_what_was_written(name: str, tmp_path) -> None:
    """Nothing is removed twice or left inconsistent: the file is sound, and its groups are the units that stayed."""
    model, channels = network(name), analyse(network(name))
    pruned, removed = pruned_or_less(model, channels, halved(channels, 3))
    save(pruned, tmp_path / "pruned.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "pruned.onnx"), full_check=True)
    again = loaded((tmp_path / "pruned.onnx").read_bytes())
    feed = samples(model.inputs, 3)
    equal(answers(again, feed), answers(pruned, feed))
    gone = channels.flags(channels.closure(removed))
    stayed = {g.name: int((~gone[g.units]).sum()) for g in channels.groups if g.kind != "position"}
    found = {g.name: len(g) for g in analyse(again).groups}
    assert all(found.get(k, n) == n for k, n in stayed.items() if n > 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_pruning_twice_is_pruning_once(name: str) -> None:
    """Cutting half of the units, then more of what is left, ends at the same function as cutting all at once."""
    model, channels = network(name), analyse(network(name))
    some = np.concatenate([g.units[len(g) // 2 : len(g) // 2 + 1] for g in channels.groups if g.kind != "position"])
    more = np.concatenate([some, *(g.units[:1] for g in channels.groups if g.kind != "position" and len(g) > 2)])
    once = prune(model, channels, more)
    half = prune(model, channels, some)
    left = analyse(half)
    rest = np.concatenate([
        np.zeros(0, np.int64),
        *(left.group(g.name).units[:1] for g in channels.groups if g.kind != "position" and len(g) > 2),
    ])  # fmt: skip
    feed = samples(model.inputs, SAMPLES)
    equal(answers(prune(half, left, rest), feed), answers(once, feed))


@settings(max_examples=150)
@given(net=cnns(), seed=st.integers(0, 99))
def test_a_pruned_random_network_equals_the_masked_one(net: Net, seed: int) -> None:
    proto = net.proto()
    model = loaded(proto)
    channels = analyse(model)
    assert channels.groups, "a network of blocks that we know has something to remove"
    check(proto, model, channels, halved(channels, seed, share=0.7))


# ---- refusals ------------------------------------------------------------------------------------------------------
def test_a_layer_cannot_lose_all_of_its_units() -> None:
    model, channels = network("mlp"), analyse(network("mlp"))
    with pytest.raises(OutOfReach, match=r"nothing would be left .* Keep at least one unit") as caught:
        prune(model, channels, channels.groups[0].units)
    assert caught.value.exit_code == 5


def test_an_unknown_group_is_told_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"no group 'conv99'\. There are 'dense0', 'dense2'"):
        analyse(network("mlp")).group("conv99")


@pytest.mark.parametrize(
    ("name", "parameter", "axis", "reason"),
    [
        ("mlp", "dense0.weight", 1, "it is graph input 'x'"),
        ("mlp", "dense4.weight", 0, "it is graph output 'dense4'"),
        ("mlp", "dense4.bias", 0, "it is graph output 'dense4'"),
        ("mlp", "dense2.weight", 1, None),
        ("mlp", "dense2.weight", 0, None),
        ("alexnet", "conv0.weight", 2, "Conv 'conv0' does not pass this axis"),
        ("alexnet", "dense7.weight", 1, None),
        ("grouped", "conv2.weight", 1, None),
        ("decoder", "conv8.weight", 0, "it is graph output 'conv8'"),
        ("attention", "o.w", 1, "it is graph input 'x'"),
        ("two_heads", "dense13.weight", 0, "Softmax 'softmax14' does not pass this axis"),
    ],
)
def test_a_protected_axis_names_the_true_reason(name: str, parameter: str, axis: int, reason: str | None) -> None:
    assert analyse(network(name)).why(parameter, axis) == reason


@pytest.mark.parametrize("kind", sorted({n.op_type for name in NETWORKS for n in original(name).graph.node}))
def test_an_op_that_the_table_lacks_protects_and_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its entry an op freezes what it touches, and pruning stays exact: it never breaks a network."""
    names = [n for n in NETWORKS if any(node.op_type == kind for node in original(n).graph.node)]
    monkeypatch.delitem(OPS, kind)
    for name in names[:2]:
        model = network(name)
        channels = analyse(model)
        reasons = {reason for _, _, reason in channels.frozen()}
        nodes = [n for n in model.graph if n.op_type == kind]  # none where it was folded
        told = {channels.why(str(v.name), a) for n in nodes for v in n.outputs for a in range(len(v.shape))}
        assert not nodes or {f"{kind} '{n.name}' has no channel rule" for n in nodes} & (reasons | told)
        removed = halved(channels, 1)
        check(original(name), model, channels, removed)


# ---- what a channel takes along --------------------------------------------------------------------------------------
def test_a_channel_takes_its_places_along_and_no_others() -> None:
    """The paper's flatten: 8 channels of 2 x 2 places; a place alone needs a gather, a whole channel does not."""
    model, channels = network("alexnet"), analyse(network("alexnet"))
    conv, places = channels.group("conv3"), channels.group("flatten6")
    assert np.array_equal(channels.closure(conv.units[2:3]), np.union1d(conv.units[2:3], places.units[8:12]))
    assert not any(n.op_type == "Gather" for n in prune(model, channels, conv.units[2:3]).graph)
    pruned = prune(model, channels, np.concatenate([conv.units[2:3], places.units[[0, 13]]]))
    (gather,) = [n for n in pruned.graph if n.op_type == "Gather"]
    stays = [i for i in range(32) if i not in (0, 13) and not 8 <= i < 12]
    by_channel = [i if i < 8 else i - 4 for i in stays]  # places as the smaller flatten counts them
    assert gather.inputs[1].const_value.numpy().tolist() == by_channel
    weight = pruned.graph.initializers["dense7.weight"].const_value.numpy()
    assert np.array_equal(weight, model.graph.initializers["dense7.weight"].const_value.numpy()[:, stays])


def test_places_can_be_picked_twice() -> None:
    """A flatten that was picked from already is picked from again: no name of the first time is overwritten."""
    once, feed = network("alexnet"), samples(network("alexnet").inputs, SAMPLES)
    for _ in range(3):
        channels = analyse(once)
        places = channels.group("flatten6").units
        twice = prune(once, channels, places[[1, 4]])
        equal(answers(twice, feed), answers(mask(once, channels, places[[1, 4]]), feed))
        once = loaded(twice.to_bytes())
    assert len(analyse(once).group("flatten6")) == len(analyse(network("alexnet")).group("flatten6")) - 6


def test_freezing_travels_back_through_two_flattens() -> None:
    """A flatten of a flatten: what protects the inner places protects the channels that own them."""
    net = Net(3, x=(2, 4, 4))
    y = net.op("Flatten", net.relu(net.conv("x", 4)))  # 64 places
    y = net.op("Reshape", y, np.array([-1, 8, 8], np.int64))
    y = net.op("Flatten", net.relu(y))
    net.op("CumSum", y, np.array(1, np.int64))
    channels = analyse(net.model())
    assert not channels.groups
    assert channels.why("conv0.weight", 0) is not None


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(net=cnns())
def test_labels_do_not_depend_on_the_order_of_initializers_or_on_names(net: Net) -> None:
    proto = net.proto()
    turned = onnx.ModelProto.FromString(proto.SerializeToString())
    tensors = list(turned.graph.initializer)[::-1]
    del turned.graph.initializer[:]
    turned.graph.initializer.extend(tensors)
    first, second = analyse(loaded(proto)), analyse(loaded(turned))
    assert {g.name: len(g) for g in first.groups} == {g.name: len(g) for g in second.groups}
