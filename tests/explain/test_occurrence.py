"""Occurrence maps hold the paper's equations, transcribed here loop by loop, however the data is cut into runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from compress.networks import Net, network, samples

from toolchain.compress import criteria
from toolchain.compress.groups import analyse
from toolchain.data import Samples
from toolchain.errors import Unsupported, UsageError
from toolchain.explain import occurrence
from toolchain.explain.layers import activations, hidden
from toolchain.explain.occurrence import (
    Occurrence,
    class_selectivity,
    compared,
    differences,
    estimated,
    kernel_selectivity,
    maps,
    occurrences,
    row_order,
)
from toolchain.model import Model

N = 23
NAMES = ["alexnet", "mlp", "residual", "channels_last", "literal_batch", "windows", "signal", "volume", "siamese"]


def subject(model: Model, seed: int = 0, n: int = N) -> Samples:
    """The last class has no samples."""
    width = max(2, int(model.graph.outputs[0].shape[1]) - 1) if len(model.graph.outputs[0].shape or ()) == 2 else 3
    return Samples("data", samples(model.inputs, n, seed), np.random.default_rng(seed).permutation(n) % width)


def made_up(kernels: int = 7, classes: int = 4, space: tuple[int, ...] = (3, 2), seed: int = 0) -> Occurrence:
    """Random counts; class 1 has no samples."""
    generator = np.random.default_rng(seed)
    n = np.array([5, 0, 9, 1, 4, 3])[:classes]
    counts = generator.integers(0, n[None, :, None] + 1, (kernels, classes, int(np.prod(space))))
    return Occurrence("made up", counts.reshape(kernels, classes, *space), n, tuple("abcdef"[:classes]))


def seen_value(model: Model, data: Samples, value: str, axis: int) -> np.ndarray:
    """What a value is, sample by sample, one sample (or one fixed batch) at a time: [n, units, positions]."""
    from toolchain.session import run, session, with_outputs

    runner = session(with_outputs(model.ir, [value]))
    size = 1 if model.batch == "free" else int(model.batch)
    found = []
    for i in range(len(data)):
        (h,) = run(runner, {k: np.repeat(v[i : i + 1], size, axis=0) for k, v in data.inputs.items()})
        place = next(a for a, d in enumerate(dict(values(model))[value].shape) if not isinstance(d, int) or a == 0)
        h = np.moveaxis(h, place, 0)
        h = h[: len(h) // size]  # the rows of one sample
        moved = np.moveaxis(h, axis if axis > place else axis + 1, 0)
        found.append(moved.reshape(len(moved), -1))
    return np.stack(found)


def values(model: Model) -> list[tuple[str, object]]:
    return [(str(v.name), v) for n in model.graph for v in n.outputs]


# ---- eq. 1 -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_a_map_is_the_share_of_the_images_of_a_class_for_which_a_kernel_fires(name: str) -> None:
    model = network(name)
    data = subject(model)
    about = [a for a in activations(model)]
    assert about
    for a, o in zip(about, occurrences(model, data, [a.value for a in about]), strict=True):
        h = seen_value(model, data, a.value, a.axis)
        found = maps(o).reshape(len(o.counts), len(o.classes), -1)
        assert o.layer == a.layer and found.shape[::2] == h.shape[1:]
        for c in range(len(o.classes)):
            mine = [i for i in range(N) if data.labels[i] == c]
            assert o.samples[c] == len(mine)
            if not mine:
                assert np.isnan(found[:, c]).all() and o.classes[c] in o.unseen
            for k in range(h.shape[1]):
                for p in range(h.shape[2]):
                    if mine:
                        fired = sum(1 for i in mine if h[i, k, p] > 0)
                        assert found[k, c, p] == fired / len(mine)


@pytest.mark.parametrize("name", ["alexnet", "windows"])
def test_how_the_data_is_cut_into_runs_changes_nothing(name: str) -> None:
    model = network(name)
    data = subject(model)
    about = [a.value for a in activations(model)]
    whole = occurrences(model, data, about)
    for at_once in (1, 5000):
        for one, other in zip(whole, occurrences(model, data, about, at_once=at_once), strict=True):
            assert np.array_equal(one.counts, other.counts) and np.array_equal(one.samples, other.samples)


def test_the_order_of_the_images_changes_nothing() -> None:
    model = network("alexnet")
    data = subject(model)
    about = [a.value for a in activations(model)]
    order = np.random.default_rng(3).permutation(N)
    for one, other in zip(occurrences(model, data, about), occurrences(model, data.at(order), about), strict=True):
        assert np.array_equal(one.counts, other.counts)
        assert one.fires is None or np.array_equal(one.fires[order], other.fires)


@pytest.mark.parametrize("name", NAMES)
def test_of_a_few_places_it_is_told_for_which_images_kernels_fire_there(name: str) -> None:
    model = network(name)
    data = subject(model)
    about = activations(model)
    for at_once in (occurrence.AT_ONCE, 1):
        found = occurrences(model, data, [a.value for a in about], at_once=at_once)
        for a, o in zip(about, found, strict=True):
            h = seen_value(model, data, a.value, a.axis)
            few = min(occurrence.PLACES, h.shape[2])
            assert o.fires is not None and o.fires.dtype == np.bool_
            assert o.fires.shape == (len(h), few, h.shape[1])
            every = {(h[:, :, q] > 0).tobytes() for q in range(h.shape[2])}
            assert {o.fires[:, p].tobytes() for p in range(few)} <= every
            assert few < h.shape[2] or {o.fires[:, p].tobytes() for p in range(few)} == every
            part = o.part(np.array([1, 0]))
            assert part.fires is not None and np.array_equal(part.fires, o.fires[..., [1, 0]])


# ---- eq. 2 to 4 ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("space", [(), (5,), (3, 2)])
def test_differences_are_those_of_equation_2(space: tuple[int, ...]) -> None:
    o = made_up(space=space)
    m, seen = maps(o).reshape(7, 4, -1), [c for c in range(4) if o.samples[c]]
    found = differences(o)
    for a in range(7):
        for b in range(7):
            terms = [abs(m[a, c, p] - m[b, c, p]) for c in seen for p in range(m.shape[2])]
            assert found[a, b] == pytest.approx(sum(terms) / len(terms), abs=1e-15)
    assert np.array_equal(found, found.T) and not np.diagonal(found).any()
    assert (found >= 0).all() and (found <= 1).all()


@pytest.mark.parametrize("kernels", [0, 1])
def test_fewer_than_two_kernels_have_no_pair_to_differ(kernels: int) -> None:
    assert np.array_equal(differences(made_up(kernels=kernels)), np.zeros((kernels, kernels)))


def test_differences_of_very_many_cells_are_estimated_within_their_standard_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    o = made_up(kernels=20, space=(40, 40))
    exact, (every, cells) = differences(o), compared(o)
    assert every == cells == 3 * 1600 and not estimated(o)
    monkeypatch.setattr(occurrence, "COMPARED", 190 * 1000)
    found = differences(o)
    assert compared(o) == (1000, cells) and "1,000 of 4,800" in estimated(o)
    assert np.array_equal(found, differences(o)) and np.array_equal(found, found.T) and not np.diagonal(found).any()
    assert 0 < np.abs(found - exact).max() < 5 * 0.5 / np.sqrt(1000)  # five standard errors
    monkeypatch.setattr(occurrence, "COMPARED", 1)
    assert compared(o) == (occurrence.LEAST_CELLS, cells)


@pytest.mark.parametrize("space", [(), (3, 2)])
def test_selectivity_is_that_of_equations_3_and_4(space: tuple[int, ...]) -> None:
    o = made_up(space=space)
    m, seen = maps(o).reshape(7, 4, -1), [c for c in range(4) if o.samples[c]]
    s = class_selectivity(o).reshape(7, 4, -1)
    for k in range(7):
        for c in seen:
            for p in range(m.shape[2]):
                terms = [m[k, c, p] - m[k, d, p] for d in seen if d != c]
                assert s[k, c, p] == pytest.approx(sum(terms) / len(terms), abs=1e-15)
        pairs = [(a, b) for a in seen for b in seen if a != b]
        wanted = sum(abs(s[k, a].mean() - s[k, b].mean()) for a, b in pairs)
        assert kernel_selectivity(o)[k] == pytest.approx(wanted, abs=1e-13)
    assert np.isnan(s[:, 1]).all()
    assert np.abs(s[:, seen].sum(axis=1)).max() < 1e-14 and np.abs(s[:, seen]).max() <= 1


@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_the_criterion_is_the_selectivity_of_the_kernels(name: str) -> None:
    """Where the next layer reads what the layer is seen to fire in, and nothing is pooled between."""
    model = network(name)
    channels, data = analyse(model), subject(model)
    found = criteria.rank("selectivity", criteria.Evidence(model, channels, data.inputs, data.labels))
    alike = [(a, g) for a in activations(model) for g in channels.groups if g.cuts == ((a.value, a.axis),)]
    assert alike
    for a, g in alike:
        (o,) = occurrences(model, data, [a.value])
        np.testing.assert_allclose(found.scores[g.name], kernel_selectivity(o), rtol=1e-12, atol=1e-12)


def test_rows_of_kernels_that_fire_alike_are_neighbours() -> None:
    o = made_up(kernels=4, seed=2)
    twice = replace(o, counts=np.concatenate([o.counts, o.counts[::-1]]))
    order = row_order(twice).tolist()
    assert sorted(order) == list(range(8))
    for k in range(4):
        assert abs(order.index(k) - order.index(7 - k)) == 1
    assert row_order(made_up(kernels=1)).tolist() == [0] and row_order(made_up(kernels=2)).tolist() == [0, 1]


# ---- where a layer is seen to fire -----------------------------------------------------------------------------------
def test_a_layer_fires_behind_its_activation_function_and_before_pooling() -> None:
    net = Net(1, x=(2, 8, 8))
    conv = net.conv("x", 4, 3)
    relu = net.relu(net.norm(conv))
    pooled = net.op("MaxPool", net.conv(relu, 6, 3), kernel_shape=[2, 2], strides=[2, 2])
    later = net.op("Relu", pooled)
    dense = net.dense(net.op("Flatten", later), 5)
    gate = net.op("Sigmoid", dense)
    net.head(gate, 3)
    first, second, third, answer = activations(net.model())
    assert (first.value, first.function, first.is_zero) == (relu, "Relu", True)
    assert second.function == "Relu" and second.is_zero and second.value not in (pooled, later)
    assert (third.value, third.function, third.is_zero) == (dense, "Sigmoid", False)
    assert answer.is_answer and not any(a.is_answer for a in (first, second, third))
    assert [a.layer for a in hidden(net.model())] == [first.layer, second.layer, third.layer]


def test_a_sum_with_a_shortcut_fires_where_it_is_rectified() -> None:
    model = network("residual")
    found = activations(model)
    assert len({a.value for a in found}) == len(found) == len({a.layer for a in found})
    made_by = {str(v.name): n.op_type for n in model.graph for v in n.outputs}
    assert all(made_by[a.value] == "Relu" for a in found if a.function == "Relu")


# ---- mistakes --------------------------------------------------------------------------------------------------------
def test_mistakes_are_told_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("alexnet")
    data = subject(model)
    bare = Samples("bare", data.inputs, None)
    with pytest.raises(UsageError, match=r"bare has no labels.*Give"):
        occurrences(model, bare, [activations(model)[0].value])
    with pytest.raises(UsageError, match=r"no conv or dense layer 'conv77'"):
        occurrences(model, data, ["conv77"])
    alone = Samples("alone", data.inputs, np.zeros(N, np.int64))
    (o,) = occurrences(model, alone, [activations(model)[0].value])
    with pytest.raises(UsageError, match="two or more"):
        class_selectivity(o)
    monkeypatch.setattr(occurrence, "MOST", 10)
    with pytest.raises(Unsupported, match=r"take .* GB.*fewer with --layers"):
        occurrences(model, data, [activations(model)[0].value])
