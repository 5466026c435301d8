"""Laws of rounds: units are the original's, each round is proven, and no result is below its floor."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from compress.networks import NETWORKS, network

from toolchain.compress.budget import parse_budget
from toolchain.compress.groups import Channels, analyse
from toolchain.compress.ranks import Ranks
from toolchain.compress.surgery import mask, prune, restored
from toolchain.data import Samples
from toolchain.errors import OutOfReach, UsageError
from toolchain.model import Model, load
from toolchain.pipeline.cutting import Start, attempted, in_places, restarted, started
from toolchain.pipeline.job import Job
from toolchain.pipeline.schedule import Walk, check_reached, judged, walked
from toolchain.pipeline.scoring import Scorer
from toolchain.shipped import triangles_squares_path
from toolchain.synthetic import triangles_squares
from toolchain.verify import compare, probes

QUIET: Callable[..., None] = lambda *words: None


def job_of(calibration: Samples | None = None, **more: Any) -> Job:
    return Job(Path("original.onnx"), Path("out"), "params<=50%", calibration, criterion="magnitude", **more)


def scored(model: Model, channels: Channels, seed: int) -> Ranks:
    generator = np.random.default_rng(seed)
    scores = {g.name: generator.random(len(g)) for g in channels.groups}
    return Ranks(model.sha256, scores, {n: np.zeros(len(s), bool) for n, s in scores.items()}, {})


def start_of(model: Model, job: Job, seed: int = 0) -> Start:
    channels = analyse(model)
    return started(job, model, channels, scored(model, channels, seed))


def shipped(n: int, seed: int) -> Samples:
    x, y = triangles_squares(n, seed=seed)
    return Samples(f"seed {seed}", {"x": x}, y)


@pytest.fixture(scope="module")
def trained() -> tuple[Model, Samples, Samples]:
    model = load(triangles_squares_path())
    (name,) = model.inputs
    sets = [dataclasses.replace(s, inputs={name: s.inputs["x"]}) for s in (shipped(96, 1), shipped(200, 2))]
    return model, *sets


def walk(model: Model, job: Job, budget: str) -> Walk:
    terms = parse_budget(budget)
    job, judge = judged(job, model, terms)
    first = start_of(model, job)
    counted = [t for t in terms if t.quantity != "drop"]
    found = walked(job, first, counted, judge, Scorer(model, job.sets), QUIET, QUIET)
    check_reached(found, judge, terms)
    return found


# ---- units are the original's --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NETWORKS)
def test_a_restored_network_gives_the_answers_of_the_pruned_one(name: str) -> None:
    """And masking what went changes nothing any more."""
    model = network(name)
    start = start_of(model, job_of())
    try:
        cut = attempted(job_of(), start, start, parse_budget("params<=60%"), QUIET)
    except OutOfReach:
        pytest.skip("out of reach")
    back = restored(model, start.channels, cut.plan.labels(start.channels), cut.pruned)
    assert compare(cut.pruned, back, probes(model), "pruned").passed
    channels = analyse(back)
    masked = mask(back, channels, cut.plan.labels(channels))
    assert compare(cut.pruned, masked, probes(model), "masked").passed


@pytest.mark.parametrize("name", NETWORKS)
def test_units_keep_their_places_through_a_cut(name: str) -> None:
    """Weights say who they are: rows of one parameter of each group hold their own numbers.

    A group of the cut network that is taken for one of the original's has exactly its remaining units, in order.
    """
    model, slots = numbered(network(name))
    start = start_of(model, job_of())
    try:
        cut = attempted(job_of(recover=False), start, start, parse_budget("params<=60%"), QUIET)
    except OutOfReach:
        pytest.skip("out of reach")
    small = analyse(cut.final)
    whole, left = numbers(start.channels, slots), numbers(small, slots)
    ranks, carried = in_places(start.channels, start.ranks, small, left, cut.plan.removed)
    for g in start.channels.groups:
        if g.name in slots and g.name not in carried:
            gone = list(cut.plan.removed[g.name])
            stays = np.setdiff1d(np.arange(len(g)), gone)
            np.testing.assert_array_equal(ranks.scores[g.name][stays], whole.scores[g.name][stays])
            assert not ranks.scores[g.name][gone].any()
    assert len(carried) < len(slots)


def numbered(model: Model) -> tuple[Model, dict[str, tuple[str, int]]]:
    """A network in which one parameter of each group, as far as there are enough, holds the number of its row + 1."""
    clone, slots = model.ir.clone(), {}
    axis_of: dict[str, int] = {}
    for g in analyse(model).groups:
        for s in g.slots:
            value = clone.graph.initializers[s.parameter]
            array = None if value.const_value is None else value.const_value.numpy()
            if array is not None and array.dtype == np.float32 and axis_of.setdefault(s.parameter, s.axis) == s.axis:
                rows = np.arange(1, array.shape[s.axis] + 1, dtype=np.float32)
                shape = [-1 if a == s.axis else 1 for a in range(array.ndim)]
                value.const_value = ir.tensor(np.ascontiguousarray(np.broadcast_to(rows.reshape(shape), array.shape)))
                slots[g.name] = (s.parameter, s.axis)
                break
    return model.with_ir(clone), slots


def numbers(channels: Channels, slots: dict[str, tuple[str, int]]) -> Ranks:
    """The number of the first row of each unit, as its score."""
    scores = {}
    for g in channels.groups:
        if g.name in slots:
            parameter, axis = slots[g.name]
            value = channels.values[parameter]
            assert value.const_value is not None
            rows = np.moveaxis(value.const_value.numpy(), axis, 0).reshape(value.const_value.numpy().shape[axis], -1)[
                :, 0
            ]
            first = {u: rows[i] for i, u in reversed(list(enumerate(channels.labels.of(value, axis).tolist())))}
            scores[g.name] = np.array([first[u] for u in g.units.tolist()])
    return Ranks("", scores, {n: np.zeros(len(s), bool) for n, s in scores.items()}, {})


def test_a_group_that_is_not_found_again_keeps_its_scores(trained: tuple[Model, Samples, Samples]) -> None:
    model, job = trained[0], job_of()
    start = start_of(model, job)
    cut = attempted(job, start, start, parse_budget("params<=60%"), QUIET)
    small = analyse(cut.final)
    hidden = start.channels.groups[1].name
    renamed = tuple(dataclasses.replace(g, name="other") if g.name == hidden else g for g in small.groups)
    found = scored(cut.final, small, 7)
    ranks, carried = in_places(
        start.channels, start.ranks, dataclasses.replace(small, groups=renamed), found, cut.plan.removed
    )
    assert carried == (hidden,)
    np.testing.assert_array_equal(ranks.scores[hidden], start.ranks.scores[hidden])


# ---- rounds --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["alexnet", "residual", "dense_block", "separable", "attention", "shuffle"])
def test_rounds_compose_into_one_plan_of_the_original(name: str) -> None:
    """Every round is proven; the last plan cuts the original to the shapes of the result."""
    model = network(name)
    found = walk(model, job_of(schedule="iterative", align="off"), "params<=45%")
    assert [r.number for r in found.rounds] == [1, 2, 3] and not found.stopped
    for r in found.rounds:
        assert r.cut.proof is not None and r.cut.proof.passed
    plans = [r.cut.plan for r in found.rounds]
    for one, two in itertools.pairwise(plans):
        assert all(set(one.removed[n]) <= set(two.removed[n]) for n in one.removed)
    before, after = plans[-1].costs["params"]
    assert after <= 0.45 * before
    channels = analyse(model)
    direct = prune(model, channels, plans[-1].labels(channels))
    shapes = lambda m: {n: v.shape for n, v in m.graph.initializers.items()}
    assert shapes(direct) == shapes(found.result.final)


def test_one_round_is_a_cut_at_once() -> None:
    model = network("alexnet")
    once = walk(model, job_of(), "params<=45%")
    round_ = walk(model, job_of(schedule="iterative", rounds=1), "params<=45%")
    assert once.result.plan == round_.result.plan and len(once.rounds) == 1


def test_recovered_rounds_start_from_what_was_recovered(trained: tuple[Model, Samples, Samples]) -> None:
    model, calibration, _ = trained
    job = job_of(calibration)
    first = start_of(model, job)
    cut = attempted(job, first, first, parse_budget("params<=50%"), QUIET)
    assert cut.recovered is not None
    again = restarted(job, cut, QUIET)
    assert compare(cut.recovered, again.model, calibration.inputs, "recovered").passed
    assert {n: len(s) for n, s in again.ranks.scores.items()} == {g.name: len(g) for g in first.channels.groups}


# ---- floors of accuracy --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("schedule", ["one-shot", "iterative"])
def test_no_result_falls_below_the_least_accuracy(schedule: str, trained: tuple[Model, Samples, Samples]) -> None:
    model, calibration, validation = trained
    job = job_of(calibration, held_out=(validation,), min_accuracy=0.9, schedule=schedule, rounds=2, recover=False)
    found = walk(model, job, "params<=4%")
    assert found.stopped and found.rounds[-2 if len(found.rounds) > 1 else -1].is_undone
    right = Scorer(model, ()).accuracy(found.result.final, validation).share
    assert right >= 0.9
    undone = next(r for r in found.rounds if r.is_undone)
    assert undone.accuracy is not None and undone.accuracy < 0.9
    assert undone.cut.plan.costs["params"][1] < found.result.plan.costs["params"][1]


def test_a_drop_alone_cuts_as_far_as_it_allows(trained: tuple[Model, Samples, Samples]) -> None:
    model, calibration, validation = trained
    found = walk(model, job_of(calibration, held_out=(validation,)), "drop<=3")
    before, after = (Scorer(model, ()).accuracy(m, validation).share for m in (model, found.result.final))
    assert 100 * (before - after) <= 3 + 1e-9
    assert found.result.plan.costs["params"][1] < 0.7 * found.result.plan.costs["params"][0]


def test_a_budget_that_contradicts_its_drop_says_what_the_drop_allows(trained: tuple[Model, Samples, Samples]) -> None:
    model, calibration, validation = trained
    job = job_of(calibration, held_out=(validation,), recover=False)
    with pytest.raises(OutOfReach, match=r"params<=5% with drop<=1 is out of reach: .* the best is params<=[0-9.]+%"):
        walk(model, job, "params<=5%,drop<=1")


def test_without_labels_agreement_with_the_original_judges(trained: tuple[Model, Samples, Samples]) -> None:
    model, calibration, validation = trained
    plain = dataclasses.replace(validation, labels=None)
    _, judge = judged(job_of(calibration, held_out=(plain,)), model, parse_budget("drop<=2"))
    assert judge is not None and judge.before == 1.0 and judge.floor == pytest.approx(0.98)
    assert judge.about.startswith("agreement with the model's own answers on seed 2")


def test_calibration_samples_that_judge_do_nothing_else(trained: tuple[Model, Samples, Samples]) -> None:
    model, calibration, _ = trained
    job, judge = judged(job_of(calibration), model, parse_budget("drop<=2"))
    assert judge is not None and job.calibration is not None
    (aside,) = job.held_out
    rows = [s.inputs[next(iter(s.inputs))].reshape(len(s), -1) for s in (job.calibration, aside)]
    assert len(rows[0]) + len(rows[1]) == len(calibration) and len(rows[1]) == len(calibration) // 4
    both = np.concatenate(rows)
    assert len(np.unique(both, axis=0)) == len(
        np.unique(calibration.inputs[next(iter(model.inputs))].reshape(96, -1), axis=0)
    )


def test_limits_of_accuracy_that_nobody_can_judge_are_refused(trained: tuple[Model, Samples, Samples]) -> None:
    model, calibration, validation = trained
    drop = parse_budget("drop<=1")
    with pytest.raises(UsageError, match="3 samples are too few"):
        judged(job_of(calibration.first(3)), model, drop)
    with pytest.raises(UsageError, match=r"below --min-accuracy 100%.*Give a lower one"):
        wrong = dataclasses.replace(validation, labels=1 - validation.labels)  # type: ignore[operator]
        judged(job_of(calibration, held_out=(wrong,), min_accuracy=1.0), model, ())
    with pytest.raises(UsageError, match="accuracy cannot be limited"):
        judged(job_of(None, held_out=(calibration,)), network("u_net"), drop)
