"""Attributions of whole units: the laws of eq. 2 to 6; each class alone is the oracle of what is given a class."""

from __future__ import annotations

import numpy as np
import pytest
from compress.networks import Net, network, samples

from toolchain.compress.groups import analyse
from toolchain.explain.units import Layer, layers_of

N = 12


def layers(name: str, only: int | None = None) -> tuple[list[Layer], np.ndarray]:
    """The layers over all samples, or over those of one class alone, and the labels."""
    model = network(name)
    channels = analyse(model)
    groups = [g for g in channels.groups if g.cuts]
    inputs, labels = samples(model.inputs, N, seed=8), np.arange(N) % 3
    part = slice(None) if only is None else labels == only
    return layers_of(model, channels, groups, {k: v[part] for k, v in inputs.items()}, labels[part]), labels


@pytest.mark.parametrize("name", ["mlp", "alexnet", "residual"])
def test_an_expectation_given_a_class_is_the_one_over_its_samples_alone(name: str) -> None:
    whole, _ = layers(name)
    for k in range(3):
        alone, _ = layers(name, only=k)
        for layer, mine in zip(whole, alone, strict=True):
            size = np.abs(mine.expected).max()
            np.testing.assert_allclose(layer.conditional[k], mine.expected, atol=1e-2 * size)  # gaps differ: ≤ 2 %


@pytest.mark.parametrize("name", ["mlp", "alexnet", "residual"])
def test_the_law_of_total_expectation_and_the_sum_over_classes(name: str) -> None:
    whole, labels = layers(name)
    for layer in whole:
        share = np.bincount(labels, minlength=len(layer.counts)) / N
        total = sum(p * layer.conditional[k] for k, p in enumerate(share))
        np.testing.assert_allclose(layer.expected, total, atol=1e-12)  # eq. 5
        size = np.abs(layer.expected[:-1]).max()
        np.testing.assert_allclose(layer.expected[:-1].sum(axis=0), 0, atol=1e-4 * size)  # eq. 2 behind a softmax
        np.testing.assert_array_equal(layer.rank, -layer.expected[-1])  # eq. 6


def test_dead_units_rank_zero_and_go_first() -> None:
    net = Net(4, x=(6,))
    y = net.dense("x", 8)
    net.parameters["dense0.bias"][[2, 5]] = -1e3
    net.head(net.relu(y))
    model = net.model()
    channels = analyse(model)
    inputs, labels = samples(model.inputs, N, seed=1), np.arange(N) % 4
    (layer,) = layers_of(model, channels, channels.groups, inputs, labels)
    assert np.flatnonzero(~layer.is_live).tolist() == [2, 5] == layer.lowest_first[:2].tolist()
    assert (layer.rank[[2, 5]] == 0).all()
    rest = layer.rank[layer.lowest_first[2:]]
    assert (np.diff(rest) >= 0).all() and (rest != 0).all()
