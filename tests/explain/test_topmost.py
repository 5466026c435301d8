"""What activates kernels most, streamed, equals what sorting all activations at once gives."""

from __future__ import annotations

import numpy as np
import pytest
from compress.networks import Net, network, samples

from toolchain.data import Samples
from toolchain.errors import UsageError
from toolchain.explain.layers import activation_of, activations
from toolchain.explain.pooling import block_within, largest, mean, plane, side_within
from toolchain.explain.topmost import by_kernel, topmost
from toolchain.model import Model
from toolchain.session import run, session, with_outputs


def data(model: Model, n: int = 23) -> Samples:
    return Samples("data", samples(model.inputs, n), np.arange(n) % 3)


def everything(model: Model, given: Samples, layer: str) -> np.ndarray:
    """All activations of a layer in one run, [n, k, *positions]."""
    about = activation_of(model, layer)
    (found,) = run(session(with_outputs(model.ir, [about.value])), given.inputs)
    value = next(v for node in model.graph for v in node.outputs if v.name == about.value)
    return by_kernel(found, value, about.axis)


@pytest.mark.parametrize("name", ["mlp", "alexnet", "residual", "attention"])
@pytest.mark.parametrize("at_once", [1, 1 << 26])
def test_the_topmost_are_those_of_a_full_sort_whatever_the_portions(name: str, at_once: int) -> None:
    model = network(name)
    given = data(model)
    layers = [a.layer for a in activations(model)]
    for top in topmost(model, given, layers, 4, at_once=at_once):
        whole = everything(model, given, top.layer)
        peaks = whole.reshape(*whole.shape[:2], -1).max(axis=2)
        for k in range(whole.shape[1]):
            order = sorted(range(len(peaks)), key=lambda i, k=k: (-peaks[i, k], i))[:4]
            best = np.maximum(peaks[order, k], 0)
            np.testing.assert_allclose(top.values[k], best, rtol=1e-5, atol=1e-6)  # portions round differently
            for t, number in enumerate(top.samples[k].tolist()):
                assert (number < 0) == (top.values[k, t] == 0)
                if number >= 0:
                    np.testing.assert_allclose(peaks[number, k], top.values[k, t], rtol=1e-5, atol=1e-6)
                    shown = whole[number, k].reshape(plane(whole.shape[2:]))
                    np.testing.assert_allclose(top.maps[k, t], largest(shown, top.block), rtol=1e-5, atol=1e-6)


def test_of_equal_activations_the_first_samples_are_kept() -> None:
    model = network("mlp")
    one = samples(model.inputs, 1)
    given = Samples("same", {k: np.repeat(v, 9, axis=0) for k, v in one.items()}, np.zeros(9, np.int64))
    (top,) = topmost(model, given, [activations(model)[0].layer], 3, at_once=1)
    live = top.values[:, 0] > 0
    assert live.any() and (top.samples[live] == [0, 1, 2]).all() and (top.samples[~live] == -1).all()


def test_fewer_samples_than_are_kept_leave_the_rest_empty() -> None:
    model = network("mlp")
    (top,) = topmost(model, data(model, 2), [activations(model)[0].layer], 5)
    assert (top.samples[:, 2:] == -1).all() and not top.values[:, 2:].any() and not top.maps[:, 2:].any()


def test_maps_are_pooled_to_the_side_asked_for_and_keep_their_peak() -> None:
    net = Net(3, x=(1, 20, 13))
    net.head(net.op("Flatten", net.relu(net.conv("x", 4))), 3)
    model = net.model()
    (whole,), (pooled,) = (topmost(model, data(model), [activations(model)[0].layer], 3, side) for side in (64, 5))
    assert whole.block == 1 and pooled.block > 1 and max(pooled.maps.shape[2:]) <= 5
    np.testing.assert_array_equal(whole.samples, pooled.samples)
    np.testing.assert_allclose(pooled.maps.max(axis=(2, 3)), whole.values, rtol=1e-6)


def test_an_unknown_layer_is_told() -> None:
    model = network("mlp")
    with pytest.raises(UsageError, match="no conv or dense layer 'nothing'"):
        topmost(model, data(model), ["nothing"])
    assert topmost(model, data(model), []) == []


# ---- pooling -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("block", [1, 2, 3, 7, 9])
def test_blocks_have_their_own_mean_and_maximum(block: int) -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 7, 8))
    for pooled, by in ((mean(values, block), np.mean), (largest(values, block), np.max)):
        assert pooled.shape[2:] == (-(-7 // block), -(-8 // block))
        for i, j in np.ndindex(*pooled.shape[2:]):
            part = values[..., i * block : (i + 1) * block, j * block : (j + 1) * block]
            np.testing.assert_allclose(pooled[..., i, j], by(part, axis=(2, 3)), rtol=1e-12)


def test_blocks_are_the_smallest_that_fit() -> None:
    for size in range(1, 40):
        for side in range(1, 40):
            block = block_within((3, size), side)
            fits = [b for b in range(1, 41) if max(-(-3 // b), -(-size // b)) <= side]
            assert block == fits[0]
    assert [plane(s) for s in ((), (4,), (4, 5), (2, 4, 5))] == [(1, 1), (1, 4), (4, 5), (8, 5)]
    assert side_within(lambda s: s * s, 50, range(1, 65)) == 7 and side_within(lambda s: 99, 50, range(1, 9)) == 0
