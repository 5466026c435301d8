"""Scores against their formulas, written out; and scores land on the units that they were read from."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compress.networks import CLASSIFIERS, Net, network, samples

from toolchain.compress.attribution import attribute
from toolchain.compress.criteria import CRITERIA, Evidence, onto_units, rank
from toolchain.compress.groups import analyse
from toolchain.compress.surgery import mask
from toolchain.errors import UsageError
from toolchain.session import run, session, with_outputs


def evidence(name: str, n: int = 24, **more: object) -> Evidence:
    model = network(name)
    classes = int(model.graph.outputs[0].shape[1])
    labels = np.arange(n, dtype=np.int64) % classes
    return Evidence(model, analyse(model), samples(model.inputs, n), labels, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_criterion_scores_every_unit(name: str) -> None:
    e = evidence(name, 8, steps=4)
    for criterion in CRITERIA:
        ranks = rank(criterion, e)
        unread = ranks.facts.get("unread", [])  # no layer with a weight of its own reads them
        sizes = {g.name: len(g) for g in e.channels.groups if g.name not in unread}
        assert sizes == {n: len(s) for n, s in ranks.scores.items()} == {n: len(d) for n, d in ranks.dead.items()}
        assert all(np.isfinite(s).all() for s in ranks.scores.values())
        if criterion not in ("apoz", "selectivity"):  # units that always fire are alike to them
            assert all(np.ptp(s) > 0 for s in ranks.scores.values())
        assert not any(d.all() for d in ranks.dead.values())
        assert ranks.sha256 == e.model.sha256 and ranks.facts["criterion"] == criterion


def test_magnitude_is_the_mean_of_the_weights_that_a_unit_owns() -> None:
    e = evidence("mlp")
    p = {n: np.abs(v.const_value.numpy().astype(np.float64)) for n, v in e.model.graph.initializers.items()}
    scores = rank("magnitude", e).scores
    np.testing.assert_allclose(scores["dense0"], p["dense0.weight"].mean(1) + p["dense2.weight"].mean(1), rtol=1e-6)
    np.testing.assert_allclose(scores["dense2"], p["dense2.weight"].mean(0) + p["dense4.weight"].mean(0), rtol=1e-6)


def test_l2_is_the_root_mean_square_of_the_weights_that_a_unit_owns() -> None:
    e = evidence("mlp")
    p = {n: v.const_value.numpy().astype(np.float64) ** 2 for n, v in e.model.graph.initializers.items()}
    wanted = np.sqrt(p["dense0.weight"].mean(1)) + np.sqrt(p["dense2.weight"].mean(1))
    np.testing.assert_allclose(rank("l2", e).scores["dense0"], wanted, rtol=1e-6)
    for name, score in rank("l1", e).scores.items():
        np.testing.assert_array_equal(score, rank("magnitude", e).scores[name])


def test_activation_is_the_mean_size_of_what_is_handed_on() -> None:
    e = evidence("alexnet", 50)  # more than one batch of 32, the last one smaller
    scores = rank("activation", e).scores
    (h, flat) = run(session(with_outputs(e.model.ir, ["maxpool2", "flatten6"])), e.inputs)
    np.testing.assert_allclose(scores["conv0"], np.abs(h).mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(scores["flatten6"], np.abs(flat).mean(axis=0), rtol=1e-5)


def test_apoz_is_the_share_of_samples_and_positions_where_a_unit_fires() -> None:
    """1 − APoZ_c, APoZ_c = Σ_k Σ_j f(O_cj(k) = 0) / (N M) (Hu et al. 2016, eq. 1), counted one by one."""
    e = evidence("alexnet", 40)
    (h,) = run(session(with_outputs(e.model.ir, ["maxpool2"])), e.inputs)
    wanted = [1 - sum(v <= 0 for v in h[:, c].ravel()) / h[:, c].size for c in range(h.shape[1])]
    np.testing.assert_allclose(rank("apoz", e).scores["conv0"], wanted, rtol=1e-9)


def test_selectivity_follows_the_occurrence_maps_of_each_class() -> None:
    """AOM, CSM and s(k) of Garcia et al. (eq. 1, 3, 4), as they are printed: every pair, every position."""
    e = evidence("alexnet", 40)
    (h,) = run(session(with_outputs(e.model.ir, ["maxpool2"])), e.inputs)
    classes = range(int(e.labels.max()) + 1)
    for k in range(h.shape[1]):
        aom = {
            c: np.mean([image[k] > 0 for image, y in zip(h, e.labels, strict=True) if y == c], axis=0) for c in classes
        }
        csm = {c: np.mean([aom[c] - aom[d] for d in classes if d != c], axis=0) for c in classes}
        s = sum(abs(csm[c].mean() - csm[d].mean()) for c in classes for d in classes if c != d)
        np.testing.assert_allclose(rank("selectivity", e).scores["conv0"][k], s, rtol=1e-9, atol=1e-12)


def test_selectivity_of_one_class_is_refused() -> None:
    e = evidence("mlp")
    one = Evidence(e.model, e.channels, e.inputs, np.zeros(24, np.int64))
    with pytest.raises(UsageError, match="compares classes, and the samples have 1"):
        rank("selectivity", one)


def test_taylor_is_the_mean_square_of_a_gate_s_slope() -> None:
    """(∂loss/∂z)² of a gate z = 1 on each unit (Molchanov et al. 2019, eq. 8), by central differences of the loss."""
    e = evidence("alexnet", 6)
    head = with_outputs(e.model.ir, ["maxpool2"])
    (h,) = run(session(head), e.inputs)
    (weight,) = (n.inputs[1] for n in e.model.graph if n.inputs[0] is not None and n.inputs[0].name == "maxpool2")
    original, step = weight.const_value.numpy(), 1e-2
    slopes = np.zeros(h.shape[:2])
    for k in range(h.shape[1]):
        loss = []
        for gate in (1 + step, 1 - step):  # the one layer that reads the unit, with its columns scaled
            gated = e.model.with_ir(e.model.ir.clone())
            scale = np.where(np.arange(h.shape[1]) == k, gate, 1)[None, :, None, None]
            gated.graph.initializers[weight.name].const_value = ir.tensor((original * scale).astype(np.float32))
            (z,) = run(session(gated.ir), e.inputs)
            z = z.astype(np.float64)
            loss.append(np.log(np.exp(z).sum(1)) - z[np.arange(6), e.labels])
        slopes[:, k] = (loss[0] - loss[1]) / (2 * step)
    squares, sizes = (slopes**2).mean(0), np.abs(slopes).mean(0)
    # a step of 1e-2 on float32 logits: a few thousandths of the largest slope
    np.testing.assert_allclose(rank("taylor", e).scores["conv0"], squares, rtol=0.02, atol=0.01 * squares.max())
    np.testing.assert_allclose(rank("taylor-abs", e).scores["conv0"], sizes, rtol=0.02, atol=0.01 * sizes.max())


def test_integrated_gradients_rank_by_minus_the_expected_attribution_to_the_loss() -> None:
    """Signed on dense layers (eq. 6), mean size on channels and places."""
    e = evidence("alexnet")
    scores = rank("ig", e).scores
    for name, cut, pick in (
        ("dense7", "dropout9", lambda a: a.rank),
        ("conv3", "maxpool5", lambda a: a.expected_absolute[-1]),
    ):
        (found,) = attribute(e.model, [(cut, 1)], e.inputs, e.labels)
        np.testing.assert_allclose(scores[name], pick(found), rtol=1e-6)


def test_criteria_that_share_attributions_find_what_each_finds_alone() -> None:
    shared = evidence("alexnet", 12, steps=4)
    for criterion in ("ig-abs", "taylor", "ig-signed", "taylor-abs", "ig"):
        together, alone = (rank(criterion, e) for e in (shared, evidence("alexnet", 12, steps=4)))
        assert all(np.array_equal(together.scores[n], alone.scores[n]) for n in alone.scores)
        assert together.facts["rule"] == alone.facts["rule"]


def test_a_unit_read_at_several_places_is_scored_by_their_sum() -> None:
    e = evidence("residual")
    group = e.channels.group("conv0")
    assert len(group.cuts) == 2
    found = attribute(e.model, group.cuts, e.inputs, e.labels)
    wanted = sum(f.expected_absolute[-1] for f in found)
    np.testing.assert_allclose(rank("ig-abs", e).scores["conv0"], wanted, rtol=1e-6)


def test_places_and_rows_of_a_unit_are_summed_onto_it() -> None:
    """A head of attention owns 4 rows; a unit of a grouped convolution a channel of every group."""
    for name, parameter, axis in (("attention", "o.w", 0), ("grouped", "conv2.weight", 0)):
        channels = analyse(network(name))
        value = channels.values[parameter]
        group = next(g for g in channels.groups if any(s.parameter == parameter and s.axis == axis for s in g.slots))
        ones = onto_units(group, channels, parameter, axis, np.ones((2, value.shape[axis])))
        rows = next(s.rows for s in group.slots if s.parameter == parameter and s.axis == axis)
        assert (ones == rows).all() and ones.shape == (2, len(group))


@pytest.mark.parametrize("criterion", ["ig", "taylor", "activation"])
def test_units_that_never_fire_are_dead_and_make_no_difference(criterion: str) -> None:
    net = Net(60, x=(6,))
    y = net.dense("x", 8)
    net.parameters["dense0.bias"][[1, 6]] = -1e4
    net.head(net.relu(y))
    model = net.model()
    e = Evidence(model, analyse(model), samples(model.inputs, 20), np.arange(20) % 4)
    ranks = rank(criterion, e)
    assert np.flatnonzero(ranks.dead["dense0"]).tolist() == [1, 6] and not ranks.scores["dense0"][[1, 6]].any()
    dead = e.channels.groups[0].units[[1, 6]]
    y, z = (run(session(m.ir), e.inputs)[0] for m in (model, mask(model, e.channels, dead)))
    np.testing.assert_array_equal(y, z)


def test_layers_are_chosen_by_a_pattern_and_random_by_a_seed() -> None:
    assert set(rank("magnitude", evidence("alexnet", layers="dense*")).scores) == {"dense7", "dense10"}
    a, b, c = (rank("random", evidence("mlp", seed=s)).scores["dense0"] for s in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_an_unknown_criterion_and_missing_samples_are_told() -> None:
    e = evidence("mlp")
    with pytest.raises(UsageError, match=r"unknown criterion 'wanda'\. Use one of ig, "):
        rank("wanda", e)
    without = Evidence(e.model, e.channels, {}, np.zeros(0, np.int64))
    with pytest.raises(UsageError, match="criterion 'ig' needs samples"):
        rank("ig", without)
