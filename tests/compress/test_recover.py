"""Laws of recovery: what others can rebuild comes back, the mean goes into the bias, and nothing gets worse."""

from __future__ import annotations

import numpy as np
import pytest
from compress.networks import NETWORKS, Net, network, samples

from toolchain.compress.equations import Rows, Sums, best
from toolchain.compress.groups import analyse
from toolchain.compress.recover import recover
from toolchain.compress.surgery import prune
from toolchain.model import Model
from toolchain.session import run, session, with_outputs


def removal(model: Model, share: float = 0.4, seed: int = 0) -> np.ndarray:
    """Random units of every group."""
    generator = np.random.default_rng(seed)
    parts = [
        generator.permutation(g.units)[: int(share * len(g))] for g in analyse(model).groups if g.kind != "position"
    ]
    return np.concatenate(parts)


def error(dense: Model, other: Model, inputs: dict[str, np.ndarray]) -> float:
    """‖y − ŷ‖ / ‖y‖ of the first output."""
    y, z = (run(session(m.ir), inputs)[0] for m in (dense, other))
    return float(np.linalg.norm(y - z) / np.linalg.norm(y))


def redundant(kind: str, **attributes: float) -> tuple[Net, list[int]]:
    """A network whose units 4 and 7 of its first layer are linear combinations of others."""
    net = Net(30, **{"x": (5,) if kind in ("Gemm", "MatMul") else (3, 7, 7) if kind == "Conv" else (3, 20)})
    y = net.dense("x", 9) if kind in ("Gemm", "MatMul") else net.conv("x", 9)
    for parameter in [n for n in net.parameters if n.endswith((".weight", ".bias"))]:
        p = net.parameters[parameter]
        p[4] = 0.5 * p[0] - 0.8 * p[3]
        p[7] = p[1] + 0.4 * p[2] - 0.3 * p[8]
    if kind == "Gemm":
        w = net.weight("second.weight", 9, 6, terms=9)
        y = net.op("Gemm", y, w, net.bias("second.bias", 6), name="second", **attributes)
    elif kind == "MatMul":
        y = net.op("MatMul", y, net.weight("second.weight", 9, 6, terms=9))
        y = net.op("Add", net.bias("second.bias", 6), y)
    else:
        y = net.conv(y, 6, strides=[2] * (len(net.shape(y)) - 1))
    y = net.relu(y)
    net.head(net.pooled(y) if kind in ("Conv", "Conv 1-D") else y)
    return net, [4, 7]


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [("Gemm", {}), ("Gemm", {"alpha": 0.5, "beta": 2.0}), ("MatMul", {}), ("Conv", {}), ("Conv 1-D", {})],
)
def test_what_kept_units_can_rebuild_comes_back(kind: str, attributes: dict[str, float]) -> None:
    net, units = redundant(kind, **attributes)
    model = net.model()
    channels = analyse(model)
    removed = channels.groups[0].units[units]
    pruned = prune(model, channels, removed)
    recovered, (refit,) = recover(model, pruned, channels, removed, samples(model.inputs, 200, seed=1))
    fresh = samples(model.inputs, 50, seed=2)
    assert error(model, pruned, fresh) > 0.05
    assert error(model, recovered, fresh) < 1e-3  # the ridge shrinks by 1e-4 of the mean power
    assert refit.after < 1e-6 < refit.before and refit.ridge == 1e-4


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [("Gemm", {}), ("Gemm", {"alpha": 0.5, "beta": 2.0}), ("MatMul", {}), ("Conv", {"padded": 0})],
)
def test_the_mean_of_what_went_is_moved_into_the_bias(kind: str, attributes: dict[str, float]) -> None:
    """b ← b + W_removed · E[h_removed], written out; the weights stay as they are."""
    if kind == "Conv":
        net = Net(31, x=(3, 7, 7))
        y = net.conv(net.relu(net.conv("x", 8)), 6, pads=[0, 0, 0, 0])
        net.head(net.pooled(net.relu(y)))
        second, weight, bias, units = y, f"{y}.weight", f"{y}.bias", [2, 5]
    else:
        net, units = redundant(kind, **attributes)
        second, weight, bias = "second", "second.weight", "second.bias"
    model = net.model()
    channels = analyse(model)
    removed = channels.groups[0].units[units]
    inputs = samples(model.inputs, 120 if kind == "Conv" else 4000, seed=3)
    pruned = prune(model, channels, removed)
    recovered, (refit,) = recover(model, pruned, channels, removed, inputs, ridges=(np.inf,))
    node = next(n for n in model.graph if any(v is not None and v.name == weight for v in n.inputs))
    (h,) = run(session(with_outputs(model.ir, [str(node.inputs[0].name)])), inputs)
    w, b = net.parameters[weight].astype(np.float64), net.parameters[bias].astype(np.float64)
    if kind == "Conv":  # every tap of the kernel sees the channel over its own window
        taps = [(dy, dx) for dy in range(3) for dx in range(3)]
        wanted = b + sum(w[:, units, i, j] @ h[:, units, i : i + 5, j : j + 5].mean(axis=(0, 2, 3)) for i, j in taps)
    else:
        share = w[units].T @ h[:, units].astype(np.float64).mean(axis=0)
        wanted = b + attributes.get("alpha", 1.0) / attributes.get("beta", 1.0) * share
    found = recovered.graph.initializers
    np.testing.assert_allclose(found[bias].const_value.numpy(), wanted, rtol=1e-5, atol=1e-5)
    assert np.isinf(refit.ridge) and second
    assert (
        found[weight].const_value.numpy().tobytes() == pruned.graph.initializers[weight].const_value.numpy().tobytes()
    )


@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "sequence_first"])  # its rows are no samples
def test_no_layer_gets_worse_and_what_lost_nothing_keeps_its_bits(name: str) -> None:
    model = network(name)
    channels = analyse(model)
    removed = removal(model)
    pruned = prune(model, channels, removed)
    before = pruned.to_bytes()
    recovered, refits = recover(model, pruned, channels, removed, samples(model.inputs, 160, seed=4))
    assert pruned.to_bytes() == before, "a stage has edited its argument"
    assert refits and all(r.after <= r.before for r in refits)
    assert any(r.ridge is not None for r in refits)
    fresh = samples(model.inputs, 300, seed=5)
    assert error(model, recovered, fresh) < error(model, pruned, fresh)
    readers = {str(v.name): n for n in model.graph for v in n.inputs if v is not None and v.const_value is not None}
    refitted = {r.layer for r in refits if r.ridge is not None}
    behind = {u.node.name for n in model.graph if n.name in refitted for u in n.outputs[0].uses()}  # an Add as its bias
    for parameter, value in recovered.graph.initializers.items():
        if parameter in readers and readers[parameter].name not in refitted | behind:
            assert (
                value.const_value.numpy().tobytes()
                == pruned.graph.initializers[parameter].const_value.numpy().tobytes()
            )
    added = set(recovered.graph.initializers) - set(pruned.graph.initializers)
    assert all(a.startswith("jettison/") for a in added)


def test_removing_nothing_refits_nothing() -> None:
    model, nothing = network("alexnet"), np.zeros(0, np.int64)
    recovered, refits = recover(model, model, analyse(model), nothing, samples(model.inputs, 8))
    assert refits == [] and recovered.to_bytes() == model.to_bytes()


def test_the_same_samples_give_the_same_bytes() -> None:
    model = network("residual")
    channels, removed = analyse(model), removal(model)
    pruned = prune(model, channels, removed)
    inputs = samples(model.inputs, 70)
    first, second = (recover(model, pruned, channels, removed, inputs, seed=3)[0] for _ in range(2))
    assert first.to_bytes() == second.to_bytes()


def test_labels_of_unequal_samples_do_not_matter_and_one_sample_does_no_harm() -> None:
    model = network("mlp")
    channels, removed = analyse(model), removal(model)
    pruned = prune(model, channels, removed)
    for n in (1, 2, 3):
        recovered, refits = recover(model, pruned, channels, removed, samples(model.inputs, n))
        assert all(np.isfinite(v.const_value.numpy()).all() for v in recovered.graph.initializers.values())
        assert all(r.after <= r.before for r in refits)


def test_a_constant_that_lies_along_another_axis_is_no_bias() -> None:
    """An Add of one number for each column, as many as there are channels, is not the bias of a convolution."""
    net = Net(33, x=(3, 6, 6))
    y = net.conv(net.relu(net.conv("x", 8)), 6, bias=False)
    y = net.op("Add", y, net.bias("columns", 6))
    net.head(net.op("Flatten", net.relu(y)))
    model = net.model()
    channels, removed = analyse(model), removal(model)
    pruned = prune(model, channels, removed)
    recovered, refits = recover(model, pruned, channels, removed, samples(model.inputs, 150, seed=6))
    assert any(r.ridge is not None for r in refits)
    assert np.array_equal(recovered.graph.initializers["columns"].const_value.numpy(), net.parameters["columns"])
    fresh = samples(model.inputs, 200, seed=7)
    assert error(model, recovered, fresh) < error(model, pruned, fresh)


def test_a_bias_that_two_layers_share_is_not_changed_for_both() -> None:
    net = Net(34, x=(5,))
    y = net.relu(net.dense("x", 8))
    shared = net.bias("shared", 1, 6)
    first = net.op("Add", net.op("MatMul", y, net.weight("first", 8, 6, terms=8)), shared)
    second = net.op("Add", net.op("MatMul", net.relu(first), net.weight("other", 6, 6, terms=6)), shared)
    net.head(net.relu(second))
    model = net.model()
    channels, removed = analyse(model), removal(model)
    pruned = prune(model, channels, removed)
    recovered, _ = recover(model, pruned, channels, removed, samples(model.inputs, 200))
    fresh = samples(model.inputs, 200, seed=8)
    assert error(model, recovered, fresh) < error(model, pruned, fresh)


def test_few_rows_give_the_ridge_solution_of_the_normal_equations() -> None:
    """Xᵀ(XXᵀ + λ)⁻¹R of centred rows against min ‖R − XD − 1b‖² + λ‖D‖², stacked and solved by numpy's lstsq."""
    generator = np.random.default_rng(9)
    x, r = (
        generator.standard_normal((12, 30)).astype(np.float32) + 1,
        generator.standard_normal((12, 4)).astype(np.float32),
    )
    rows, sums = Rows.empty(1, 30, 4, True), Sums.empty(1, 30, 4, True)
    for part in (slice(0, 5), slice(5, 12)):
        for equations in (rows, sums):
            equations.add(x[None, part], r[None, part], r[None, part])
    scale = (np.square(x, dtype=float).sum() + 12) / 31
    stacked = np.vstack(
        [np.hstack([x, np.ones((12, 1))]), np.hstack([np.sqrt(0.1 * scale) * np.eye(30), np.zeros((30, 1))])]
    )
    wanted = np.linalg.lstsq(stacked, np.vstack([r, np.zeros((30, 4))]), rcond=None)[0]
    np.testing.assert_allclose(rows.solved(0.1)[0], wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sums.solved(0.1)[0], wanted, rtol=1e-4, atol=1e-5)  # products of a part are float32
    np.testing.assert_allclose(rows.mean(), sums.mean(), rtol=1e-5)
    assert rows.gain(wanted[None]) == pytest.approx(sums.gain(wanted[None]), rel=1e-4)
    assert rows.residual == pytest.approx(sums.residual, rel=1e-5) and rows.count == sums.count == 12


def test_ridges_chosen_on_mixtures_of_many_outputs_are_those_of_all_outputs() -> None:
    generator = np.random.default_rng(10)
    x = generator.standard_normal((1, 400, 20)).astype(np.float32)
    r = (x[0] @ generator.standard_normal((20, 600)) + 4 * generator.standard_normal((400, 600))).astype(np.float32)[
        None
    ]
    fit, held = (Sums.empty(1, 20, 600, True) for _ in range(2))
    fit.add(x[:, :300], r[:, :300], r[:, :300])
    held.add(x[:, 300:], r[:, 300:], r[:, 300:])
    ridges = (1e-4, 1e-1, 10.0)
    gains = [held.gain(fit.solved(ridge)) for ridge in ridges]
    ridge, before, after = best(fit, held, ridges, np.random.default_rng(0))
    assert ridge == ridges[int(np.argmax(gains))]
    assert before - after == pytest.approx(max(gains) / held.power, rel=1e-6)


def test_a_depthwise_convolution_is_refitted_to_what_it_made_of_the_channels_that_stay() -> None:
    """Behind a convolution that was only partly rebuilt, its taps still move towards the dense output."""
    net = Net(35, x=(3, 8, 8))
    y = net.relu(net.conv(net.relu(net.conv("x", 12)), 10))
    y = net.relu(net.conv(y, 10, group=10))
    net.head(net.pooled(net.relu(net.conv(y, 6))))
    model = net.model()
    channels = analyse(model)
    removed = np.concatenate([g.units[:4] for g in channels.groups[:2]])
    pruned = prune(model, channels, removed)
    recovered, refits = recover(model, pruned, channels, removed, samples(model.inputs, 200))
    (depthwise,) = (
        n for n in pruned.graph if n.attributes.get("group") is not None and n.attributes["group"].value > 1
    )
    (refit,) = (r for r in refits if r.layer == depthwise.name)
    assert refit.after < refit.before
    fresh = samples(model.inputs, 100, seed=9)
    assert error(model, recovered, fresh) < error(model, pruned, fresh)


def test_samples_that_are_too_few_are_counted_and_said() -> None:
    net, units = redundant("Gemm")
    model = net.model()
    channels = analyse(model)
    removed = channels.groups[0].units[units]
    pruned = prune(model, channels, removed)
    (few,), (many,) = (recover(model, pruned, channels, removed, samples(model.inputs, n))[1] for n in (5, 40))
    assert few.note == "5 rows for 7 unknowns: 7 samples would settle them" and many.note == ""
