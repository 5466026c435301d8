"""Tuning freezes what was inspected, keeps an edit only while accuracy holds, and says what it did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch trains")

from toolchain.compress.groups import analyse
from toolchain.compress.surgery import prune
from toolchain.data import Samples
from toolchain.errors import UsageError
from toolchain.evaluate import evaluate
from toolchain.explain.findings import units_of
from toolchain.explain.layers import hidden
from toolchain.model import load
from toolchain.pipeline import tuning
from toolchain.pipeline.tuning import Task, Tuned, tune
from toolchain.retrain import Recipe
from toolchain.shipped import triangles_squares_path
from toolchain.synthetic import triangles_squares

ROOT = Path(__file__).parents[2]
MODEL = load(triangles_squares_path())
LAYERS = tuple(a.layer for a in hidden(MODEL))


def generated(n: int, seed: int) -> Samples:
    x, y = triangles_squares(n, seed=seed)
    return Samples(f"set {seed}", {next(iter(MODEL.inputs)): x}, y, ("triangle", "square"))


TASK = Task(generated(96, 5), generated(128, 6), Recipe(epochs=1, batch=16, rate=1e-3), most=5.0)


@pytest.fixture(scope="module")
def tuned() -> Tuned:
    return tune(MODEL, TASK, LAYERS[0][:4] + "*")


def test_an_edit_is_kept_only_while_accuracy_is_not_far_below_the_originals(tuned: Tuned) -> None:
    before, after = (evaluate(m, TASK.validation).share for m in (MODEL, tuned.current))
    assert tuned.right == (before, after) and 100 * (before - after) <= TASK.most
    for step in tuned.steps:
        assert step.retrained is None or step.is_kept == (100 * (before - step.retrained) <= TASK.most)
    assert any(s.is_kept and s.after < s.before for s in tuned.steps)


def test_widths_are_those_of_the_plan_and_of_the_last_kept_step(tuned: Tuned) -> None:
    whole = prune(MODEL, tuned.channels, tuned.plan.labels(tuned.channels))
    shapes = lambda m: {n: tuple(v.shape or ()) for n, v in m.graph.initializers.items()}
    assert shapes(whole) == shapes(tuned.current)
    kept = [s for s in tuned.steps if s.is_kept]
    for step in kept:  # units of a shortcut may go with a later layer of theirs
        about = next(a for a in hidden(tuned.current) if a.layer == step.layer)
        width = len(units_of(about, analyse(tuned.current)))
        assert width == step.after if step is kept[-1] else width <= step.after


def test_what_was_frozen_keeps_its_values_bit_for_bit() -> None:
    """Only the first layer is edited, so that all that it is made of is the original's."""
    first = tune(MODEL, TASK, LAYERS[0])
    assert first.steps[-1].after < first.steps[-1].before
    cut = prune(MODEL, first.channels, first.plan.labels(first.channels))
    frozen = set(tuning.parameters_up_to(first.current, LAYERS[0]))
    assert frozen
    changed = {
        n
        for n, v in first.current.graph.initializers.items()
        if not np.array_equal(v.const_value.numpy(), cut.graph.initializers[n].const_value.numpy())
    }
    assert changed and not changed & frozen


def test_an_edit_that_costs_too_much_is_undone_after_smaller_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Task, "right", lambda task, model: 1.0 if model is MODEL else 0.5)
    done = tune(MODEL, TASK, LAYERS[0])
    assert done.current is MODEL and not len(done.gone) and done.right == (1.0, 1.0)
    assert not any(s.is_kept for s in done.steps)
    assert [len(s.kinds) for s in done.steps] == sorted((len(s.kinds) for s in done.steps), reverse=True)


def test_the_same_run_gives_the_same_network(tuned: Tuned) -> None:
    again = tune(MODEL, TASK, LAYERS[0][:4] + "*")
    assert again.steps == tuned.steps and again.current.to_bytes() == tuned.current.to_bytes()


def test_mistakes_are_told() -> None:
    bare = Samples("bare", TASK.data.inputs, None)
    with pytest.raises(UsageError, match="bare has no labels"):
        tune(MODEL, Task(bare, TASK.validation, TASK.recipe))
    with pytest.raises(UsageError, match=r"no conv or dense layer fits 'x\*'. There are"):
        tune(MODEL, TASK, "x*")


def test_the_command_writes_a_network_a_plan_and_what_it_did(tmp_path: Path) -> None:
    for name, samples in (("data", TASK.data), ("judge", TASK.validation)):
        np.savez(tmp_path / f"{name}.npz", x=next(iter(samples.inputs.values())), y=samples.labels)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CI": "1"}
    words = ["tune", triangles_squares_path(), "--data", "data.npz", "--validation", "judge.npz", "--max-drop", "5"]
    words += ["--layers", LAYERS[0], "--batch", "16", "-o", "out"]
    command = [sys.executable, "-m", "toolchain.cli", *map(str, words)]
    run = lambda: subprocess.run(
        command, capture_output=True, text=True, env=env, timeout=280, check=False, cwd=tmp_path
    )
    done = run()
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out" / "tune.json").read_text())
    assert told["schema"] == tuning.SCHEMA and told["model"]["sha256"] == MODEL.sha256 and told["steps"]
    written = load(tmp_path / "out" / "model.onnx")
    assert evaluate(written, TASK.validation).share == told["accuracy"]["after"]
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["budget"] == "tune" and any(g["before"] > g["after"] for g in plan["groups"])
    assert f"{told['steps'][0]['layer']} " in done.stdout
    refused = run()
    assert refused.returncode == 2 and "--force" in refused.stderr and refused.stderr.count("\n") == 1
