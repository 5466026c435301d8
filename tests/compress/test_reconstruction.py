"""The error of removal against least squares solved anew for every unit that could go."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compress.networks import Net, network, samples

from toolchain.compress.criteria import Evidence, rank
from toolchain.compress.groups import analyse
from toolchain.compress.reconstruction import RIDGE
from toolchain.model import Model
from toolchain.session import run, session, with_outputs

F64 = np.ndarray


def evidence(model: Model, n: int) -> Evidence:
    return Evidence(model, analyse(model), samples(model.inputs, n), np.arange(n, dtype=np.int64) % 4)


def least(x: F64, w: F64, penalty: F64, gone: list[int]) -> float:
    """min over W' with zeros in the gone columns of ‖X W − X W'‖² + Σ λ_c ‖W_c − W'_c‖², by numpy's lstsq."""
    stacked = np.vstack([x, np.diag(np.sqrt(penalty))])
    stays = np.setdiff1d(np.arange(x.shape[1]), gone)
    fitted = np.linalg.lstsq(stacked[:, stays], stacked @ w, rcond=None)[0]
    return float(np.square(stacked @ w - stacked[:, stays] @ fitted).sum())


def written_out(layers: list[tuple[F64, F64, F64, list[list[int]]]], units: int) -> F64:
    """What each unit adds to the error when it goes, the least first; layers of (X, W, ‖Y‖, columns of each unit)."""
    scores, gone = np.zeros(units), []
    total = lambda who: sum(
        least(x, w, lam, [c for u in who for c in columns[u]]) / power for x, w, lam, power, columns in prepared
    )
    prepared = []
    for x, w, power, columns in layers:
        x1, w1 = np.hstack([x, np.ones((len(x), 1))]), np.vstack([w, np.zeros((1, w.shape[1]))])
        lam = np.full(x1.shape[1], RIDGE * np.square(x).sum() / x.shape[1])
        lam[-1] = 1e-12
        prepared.append((x1, w1, lam, power, columns))
    before = 0.0
    while len(gone) < units:
        errors = {u: total([*gone, u]) for u in range(units) if u not in gone}
        u = min(errors, key=errors.__getitem__)
        scores[u], before = errors[u] - before, errors[u]
        gone.append(u)
    return scores


def test_dense_units_go_in_the_order_of_what_the_next_layer_cannot_rebuild() -> None:
    e = evidence(network("mlp"), 60)
    p = {n: v.const_value.numpy().astype(np.float64) for n, v in e.model.graph.initializers.items()}
    reads = next(n for n in e.model.graph if any(v is not None and v.name == "dense2.weight" for v in n.inputs))
    x, y = run(session(with_outputs(e.model.ir, [reads.inputs[0].name, reads.outputs[0].name])), e.inputs)
    units = x.shape[1]
    w = p["dense2.weight"]  # [in, out]
    wanted = written_out([(x.astype(float), w, np.square(y).sum(), [[u] for u in range(units)])], units)
    np.testing.assert_allclose(rank("reconstruction", e).scores["dense0"], wanted, rtol=1e-4, atol=1e-9)


def test_a_channel_goes_with_all_taps_of_all_layers_that_read_it() -> None:
    net = Net(71, x=(3, 6, 6))
    y = net.relu(net.conv("x", 8))
    a, b = (net.relu(net.conv(y, 5, pads=[0, 0, 0, 0])) for _ in range(2))
    net.head(net.pooled(net.op("Concat", a, b, axis=1)))
    e = evidence(net.model(), 50)  # 50 · 16 positions: all of them are taken
    layers = []
    for node in [n for n in e.model.graph if n.op_type == "Conv"][1:]:
        x, out = run(session(with_outputs(e.model.ir, [node.inputs[0].name, node.outputs[0].name])), e.inputs)
        w = node.inputs[1].const_value.numpy().astype(np.float64)
        patches = [
            x[s, :, i : i + 3, j : j + 3].ravel()
            for s in range(len(x))
            for i in range(out.shape[2])
            for j in range(out.shape[3])
        ]
        taps = [[9 * u + t for t in range(9)] for u in range(8)]
        layers.append((np.array(patches, float), w.reshape(len(w), -1).T, np.square(out, dtype=float).sum(), taps))
    name = e.channels.groups[0].name
    np.testing.assert_allclose(rank("reconstruction", e).scores[name], written_out(layers, 8), rtol=1e-4)


def test_of_two_units_that_are_alike_one_goes_first_and_the_other_late() -> None:
    net = Net(72, x=(6,))
    y = net.dense("x", 10)
    for parameter in ("dense0.weight", "dense0.bias"):
        net.parameters[parameter][7] = net.parameters[parameter][2]
    net.head(net.relu(y))
    e = evidence(net.model(), 200)
    order = np.argsort(rank("reconstruction", e).scores["dense0"])
    assert order[0] in (2, 7), "either can be rebuilt from the other"
    alone = rank("reconstruction", e).scores["dense0"]
    other = 9 - int(order[0])
    assert alone[order[0]] < 0.1 * alone[other], "what is left of the two cannot be rebuilt any more"


def test_channels_behind_a_flatten_go_with_all_of_their_places() -> None:
    e = evidence(network("alexnet"), 80)
    scores = rank("reconstruction", e).scores
    assert scores["conv3"].shape == (len(e.channels.group("conv3")),)
    # all places of a channel at once cannot be cheaper than the cheapest of its places
    assert scores["conv3"].min() >= scores["flatten6"].min()


@pytest.mark.parametrize("n", [1, 3])
def test_fewer_samples_than_units_give_finite_scores(n: int) -> None:
    e = evidence(network("mlp"), n)
    assert all(np.isfinite(s).all() and (s >= 0).all() for s in rank("reconstruction", e).scores.values())


def test_an_own_weight_that_two_layers_share_is_left_out_and_said() -> None:
    e = evidence(network("siamese"), 8)
    ranks = rank("reconstruction", e)
    assert set(ranks.facts["unread"]) == {g.name for g in e.channels.groups} - set(ranks.scores)
    assert isinstance(e.model.ir, ir.Model)
