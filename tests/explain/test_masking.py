"""Answers under masks, held to surgery.mask and a pass through the whole network at every step."""

from __future__ import annotations

import numpy as np
import pytest
from compress.networks import CLASSIFIERS, Net, network, samples

from toolchain.compress.groups import Channels, Group, analyse
from toolchain.compress.surgery import mask
from toolchain.errors import Unsupported
from toolchain.explain.masking import Masked, masked
from toolchain.explain.walking import FEWEST, Path, answers, predicted, stride_of
from toolchain.model import Model
from toolchain.session import run, session

ROUNDING = 2e-5  # float32 sums in another order, relative to the largest answer


def random_path(groups: list[Group], steps: int = 4, seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    orders = {g.name: generator.permutation(len(g)) for g in groups}
    return Path(orders, {g.name: np.linspace(0, len(g), steps).astype(np.int64) for g in groups})


def one_by_one(group: Group, seed: int = 0) -> Path:
    order = np.random.default_rng(seed).permutation(len(group))
    return Path({group.name: order}, {group.name: np.arange(len(group) + 1)})


def by_whole_passes(model: Model, channels: Channels, path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The same answers with everything run anew, [S, n, classes]."""
    found = []
    for s in range(path.steps):
        gone = [channels.group(g).units[o[: path.counts[g][s]]] for g, o in path.orders.items()]
        found.append(run(session(mask(model, channels, np.concatenate(gone)).ir), inputs)[0])
    return np.stack(found)


def by_parts(cut: Masked, inputs: dict[str, np.ndarray], path: Path, like: np.ndarray, **memory: int) -> np.ndarray:
    found = np.full_like(like, np.nan)
    for step, part, y in answers(cut, inputs, path, **memory):
        found[step, part] = y
    return found


def wide() -> Net:
    """Dense layers so wide that z does not fit the cache for all samples at once."""
    net = Net(7, x=(12,))
    y = net.relu(net.dense("x", 600))
    net.head(net.op("Tanh", net.dense(y, 9000, trans=0)))
    return net


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_walk_equals_whole_passes_of_the_masked_network(name: str) -> None:
    model = network(name)
    channels = analyse(model)
    inputs = samples(model.inputs, 6, seed=3)
    read = [g for g in channels.groups if g.cuts]
    for groups in [*([g] for g in read), read]:
        path = random_path(groups)
        expected = by_whole_passes(model, channels, path, inputs)
        found = by_parts(masked(model, channels, groups), inputs, path, expected)
        np.testing.assert_allclose(found, expected, atol=ROUNDING * np.abs(expected).max(), err_msg=groups[0].name)


@pytest.mark.parametrize("name", ["mlp", "alexnet", "class_token"])
def test_how_many_samples_fit_in_memory_changes_no_answer(name: str) -> None:
    model = network(name)
    channels = analyse(model)
    inputs = samples(model.inputs, 7, seed=4)
    group = channels.groups[-1]
    path = one_by_one(group)
    expected = by_whole_passes(model, channels, path, inputs)
    found = by_parts(masked(model, channels, [group]), inputs, path, expected, max_memory=1)
    np.testing.assert_allclose(found, expected, atol=ROUNDING * np.abs(expected).max())


def test_one_unit_at_a_time_over_hundreds_of_steps_stays_exact() -> None:
    model = wide().model()
    channels = analyse(model)
    inputs = samples(model.inputs, 20, seed=5)
    first = channels.groups[0]
    assert len(first) == 600
    cut = masked(model, channels, [first])
    assert cut.straight is not None
    path = one_by_one(first)
    found = by_parts(cut, inputs, path, np.empty((601, 20, 4), np.float32))
    for step in (0, 1, 37, 511, 512, 513, 599, 600):
        at = Path(path.orders, {first.name: np.array([step])})
        (expected,) = by_whole_passes(model, channels, at, inputs)
        np.testing.assert_allclose(found[step], expected, atol=ROUNDING * np.abs(found[0]).max())


@pytest.mark.parametrize("name", ["mlp", "alexnet", "residual"])
def test_one_dense_layer_alone_takes_the_short_way(name: str) -> None:
    channels = analyse(network(name))
    for group in channels.groups:
        assert (masked(network(name), channels, [group]).straight is not None) or group.kind == "channel"
    assert masked(network(name), channels, channels.groups).straight is None


def test_what_no_mask_reaches_is_not_run_again() -> None:
    channels = analyse(network("alexnet"))
    dense = [g for g in channels.groups if g.kind == "dense"]
    cut = masked(network("alexnet"), channels, [dense[0]])
    whole = masked(network("alexnet"), channels, list(channels.groups))
    assert {i.name for i in cut.tail.get_inputs()} == {*cut.cached, *(m.name for m in cut.masks)}
    assert cut.work < whole.work


def test_predictions_of_several_paths_are_those_of_each() -> None:
    model = network("alexnet")
    channels = analyse(model)
    inputs = samples(model.inputs, 5, seed=6)
    group = channels.groups[-1]
    paths = [one_by_one(group, seed) for seed in range(3)]
    counted = []
    found = predicted(masked(model, channels, [group]), inputs, paths, progress=lambda done, all: counted.append(done))
    for path, classes in zip(paths, found, strict=True):
        np.testing.assert_array_equal(classes, by_whole_passes(model, channels, path, inputs).argmax(axis=2))
    assert counted == sorted(counted) and counted[-1] == 3 * paths[0].steps * 5


def test_a_stride_grows_with_the_work_and_leaves_enough_steps() -> None:
    assert stride_of(work=1, units=4096, samples=100, most=1e9) == 1
    strides = [stride_of(work, 4096, 100, 1e9) for work in (10**3, 10**4, 10**5, 10**6, 10**9)]
    assert strides == sorted(strides) and strides[0] == 1 < strides[1]
    assert 4096 / strides[-1] >= FEWEST - 1
    assert stride_of(work=10**9, units=3, samples=100, most=1) == 1


def test_a_graph_that_runs_at_one_batch_only_says_so() -> None:
    net = Net(9, batch=2, x=(6,))
    y = net.relu(net.dense("x", 5))
    y = net.op("Reshape", y, np.array([10], np.int64))
    net.op("Reshape", net.op("Mul", y, np.arange(10, dtype=np.float32)), np.array([2, 5], np.int64))
    model = net.model()
    assert model.batch == 2
    with pytest.raises(Unsupported, match="batch 2 only"):
        masked(model, analyse(model), [])
