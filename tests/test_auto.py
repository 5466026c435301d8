"""The trial of criteria: what is taken changes the fewest answers, whoever says so, and labels are not asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from compress.networks import network, samples

from toolchain.auto import choose, distance, outputs, parted
from toolchain.compress.criteria import Evidence, rank
from toolchain.compress.groups import Channels, analyse
from toolchain.compress.plan import Plan, make_plan
from toolchain.compress.ranks import Ranks
from toolchain.compress.recover import recover
from toolchain.compress.surgery import prune
from toolchain.data import Samples
from toolchain.model import Model
from toolchain.session import run, session


def half(model: Model, channels: Channels) -> Callable[[Ranks], Plan]:
    """The plan to half of the parameters by some scores."""
    return lambda ranks: make_plan(model, channels, ranks.scores, ranks.dead, "params<=50%")


NAMES = ("l2", "activation", "reconstruction", "random")


@pytest.mark.parametrize("is_recovered", [False, True])
@pytest.mark.parametrize("name", ["alexnet", "residual"])
def test_the_candidate_is_taken_that_changes_the_fewest_answers(name: str, is_recovered: bool) -> None:
    model = network(name)
    channels, inputs = analyse(model), samples(model.inputs, 120)
    evidence = Evidence(model, channels, inputs, np.arange(120) % 4)
    ranked = {c: rank(c, evidence) for c in NAMES}
    given = Samples("", inputs, None)
    choice = choose(model, channels, ranked, half(model, channels), given, is_recovered=is_recovered)
    tried, fitted = parted(given, 0)
    (y,) = run(session(model.ir), tried.inputs)
    changed = {}
    for c in NAMES:
        removed = half(model, channels)(ranked[c]).labels(channels)
        cut = prune(model, channels, removed)
        if is_recovered:
            cut, _ = recover(model, cut, channels, removed, fitted.inputs)
        (z,) = run(session(cut.ir), tried.inputs)
        changed[c] = float(np.mean([a.argmax() != b.argmax() for a, b in zip(y, z, strict=True)]))
    assert {c: t.changed for c, t in choice.trials.items()} == changed
    assert changed[choice.criterion] == min(changed.values())
    assert choice.ranks.scores == ranked[choice.criterion].scores


def test_trials_are_judged_on_samples_that_recovery_does_not_see() -> None:
    given = Samples("", {"x": np.arange(40, dtype=np.float32)[:, None]}, np.arange(40))
    tried, fitted = parted(given, 3)
    assert len(tried) == 10 and len(fitted) == 30 and tried.labels is None
    assert not set(tried.inputs["x"].ravel()) & set(fitted.inputs["x"].ravel())
    assert len(parted(given.first(1), 0)[1]) == 1


def test_labels_do_not_matter_and_the_same_samples_choose_the_same() -> None:
    model = network("mlp")
    channels, inputs = analyse(model), samples(model.inputs, 60)
    evidence = Evidence(model, channels, inputs, np.arange(60) % 4)
    ranked = {c: rank(c, evidence) for c in NAMES}
    given = Samples("", inputs, np.arange(60, dtype=np.int64) % 4)
    first, second = (
        choose(model, channels, ranked, half(model, channels), s, seed=5)
        for s in (given, dataclasses.replace(given, labels=None))
    )
    assert first.criterion == second.criterion and first.trials == second.trials


def test_divergence_is_that_of_probabilities_and_relative_error_without_classes() -> None:
    generator = np.random.default_rng(0)
    y, z = generator.standard_normal((2, 7, 5))
    p, q = (np.exp(a) / np.exp(a).sum(axis=1, keepdims=True) for a in (y, z))
    wanted = np.mean([sum(a * np.log(a / b) for a, b in zip(s, t, strict=True)) for s, t in zip(p, q, strict=True)])
    found = distance([y], [z], True)
    assert found.divergence == pytest.approx(wanted, rel=1e-9)
    assert found.changed == np.mean([int(np.argmax(a)) != int(np.argmax(b)) for a, b in zip(y, z, strict=True)])
    assert distance([y, z], [y, z + y], False).divergence == pytest.approx(
        np.square(y).sum() / (np.square(y).sum() + np.square(z).sum()), rel=1e-9
    )
    assert distance([y], [y], True).changed == 0


def test_a_network_without_classes_is_tried_by_its_answers() -> None:
    model = network("u_net")
    channels, inputs = analyse(model), samples(model.inputs, 40)
    evidence = Evidence(model, channels, inputs, np.zeros(40, np.int64))
    ranked = {c: rank(c, evidence) for c in ("l2", "random")}
    choice = choose(model, channels, ranked, half(model, channels), Samples("", inputs, None))
    assert all(t.changed == 0 < t.divergence for t in choice.trials.values())
    assert len(outputs(model, Samples("", inputs, None))) == len(model.graph.outputs)
