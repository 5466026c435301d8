"""Layer by layer, from the first to the last: inspect, edit, freeze, retrain what follows, undo where accuracy falls.

The workflow of Garcia et al., Fig. 1, without the person who looks: findings decide what goes. A layer whose edit costs
too much is tried again with fewer kernels, those that are surest.
"""

from __future__ import annotations

import dataclasses
import glob
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from toolchain import __version__
from toolchain.compress.attribution import Progress
from toolchain.compress.groups import Channels, analyse
from toolchain.compress.plan import Plan, plan_without, save_plan
from toolchain.compress.surgery import digest, prune, restored
from toolchain.data import Samples, sha256_of
from toolchain.errors import UsageError
from toolchain.evaluate import evaluate
from toolchain.explain.findings import REMOVABLE, Finding, findings, removal, units_of
from toolchain.explain.layers import Activation, hidden
from toolchain.explain.occurrence import occurrences
from toolchain.files import check_new, write_json
from toolchain.inference import reads
from toolchain.model import Model, save
from toolchain.ops.units import Ids
from toolchain.provenance import signed
from toolchain.retrain import Recipe

SCHEMA = "jettison.tune/1"
FILES = ("model.onnx", "plan.json", "tune.json")
TRIES = (REMOVABLE, ("dead", "unselective"), ("dead",))  # kinds of findings, each try the surer ones alone


@dataclass(frozen=True)
class Step:
    """One try at one layer.

    kinds    of findings that were followed
    before, after    kernels of the layer
    pruned   share of right answers as it was cut, None where nothing went
    retrained   the same after retraining
    is_kept  whether the edit stays
    """

    layer: str
    kinds: tuple[str, ...]
    before: int
    after: int
    pruned: float | None
    retrained: float | None
    is_kept: bool


@dataclass(frozen=True)
class Tuned:
    """A network under tuning, or done.

    channels   of the original
    gone       labels of its units that went
    current    the network as it is now, without them
    right      shares of right answers on validation: of the original, and now
    """

    original: Model
    channels: Channels
    gone: Ids
    current: Model
    right: tuple[float, float]
    steps: tuple[Step, ...] = field(default=())

    @property
    def plan(self) -> Plan:
        """What went of the original; weights that stay were trained since."""
        return plan_without(self.original, self.channels, self.gone, "tune")


@dataclass(frozen=True)
class Task:
    """What a network is tuned on and by.

    data        samples whose maps are inspected, and that are trained on
    validation  samples that accuracy is judged on, and that choose the epoch that is kept
    most        points of accuracy that the result may have less than the original
    """

    data: Samples
    validation: Samples
    recipe: Recipe
    most: float = 1.0
    say: Callable[[str, str, float], None] = lambda stage, text, seconds: None
    progress: Progress = lambda stage, done, total: None

    def right(self, model: Model) -> float:
        """Share of right answers on validation."""
        return evaluate(model, self.validation, self.recipe.threads).share


def tune(model: Model, task: Task, layers: str = "*") -> Tuned:
    """The network without what its occurrence maps show no need of, retrained behind each edit.

    Raises UsageError without labels or where no layer fits, and what `retrain` raises.
    """
    for samples in (task.data, task.validation):
        if samples.labels is None:
            raise UsageError(f"{samples.name} has no labels, and tuning judges by classes", way_out="Give labels y")
    about = hidden(model, layers)
    if not about:
        known = ", ".join(a.layer for a in hidden(model)[:20])
        raise UsageError(f"no conv or dense layer fits '{layers}'", way_out=f"There are {known or 'none'}")
    share = task.right(model)
    state = Tuned(model, analyse(model), np.zeros(0, np.int64), model, (share, share))
    for one in about:
        state = edited(state, one, task)
    return state


def edited(state: Tuned, about: Activation, task: Task) -> Tuned:
    """The state after one layer: with the first of the tries that costs no more than it may, or as it was."""
    found, steps, begun = inspected(state, about, task), [], time.perf_counter()
    before, seen = len(remaining(state, about)), set[tuple[int, ...]]()
    best = state
    for kinds in TRIES:
        goes = removal([f for f in found if f.kind in (*kinds, "sound")], state.original, state.channels).labels
        if not len(goes) or tuple(goes) in seen:
            continue
        seen.add(tuple(goes))
        cut = without(state, np.union1d(state.gone, goes))
        trained = retrained(cut, about, task)
        right = task.right(trained.current)
        is_kept = 100 * (state.right[0] - right) <= task.most
        pruned = task.right(cut.current)
        steps.append(Step(about.layer, kinds, before, len(remaining(cut, about)), pruned, right, is_kept))
        task.say("tune", sentence(steps[-1]), time.perf_counter() - begun)
        if is_kept:
            best = dataclasses.replace(trained, right=(state.right[0], right))
            break
    steps = steps or [Step(about.layer, (), before, before, None, None, True)]
    return dataclasses.replace(best, steps=(*state.steps, *steps))


def inspected(state: Tuned, about: Activation, task: Task) -> list[Finding]:
    """Findings in a layer, and in those that share units with it, in the numbers of the original's kernels."""
    every = hidden(state.original)
    mine = np.unique(units_of(about, state.channels))
    together = [a for a in every if a == about or np.isin(units_of(a, state.channels), mine).any()]
    now = {a.layer: a for a in hidden(state.current)}
    values = [now[a.layer].value for a in together]
    found = []
    for a, o in zip(
        together,
        occurrences(state.current, task.data, values, task.recipe.threads, progress=task.progress),
        strict=True,
    ):
        kept = remaining(state, a)
        for f in findings(o, now[a.layer], a == every[-1]):
            groups = tuple(tuple(kept[list(g)].tolist()) for g in f.groups)
            found.append(dataclasses.replace(f, groups=groups, keep=tuple(kept[list(f.keep)].tolist())))
        found.append(Finding("sound", a.layer, "inspected"))  # what is not named stays, in every layer that was seen
    return found


def remaining(state: Tuned, about: Activation) -> Ids:
    """Kernels of the original's layer that are still there."""
    labels = units_of(about, state.channels)
    return np.flatnonzero(~state.channels.flags(state.channels.closure(state.gone))[labels])


def without(state: Tuned, gone: Ids) -> Tuned:
    """The same without these units of the original; what stays keeps its weights as they are now."""
    whole = restored(state.original, state.channels, state.gone, state.current)
    return dataclasses.replace(state, gone=gone, current=prune(whole, analyse(whole, state.channels.approximate), gone))


def retrained(state: Tuned, about: Activation, task: Task) -> Tuned:
    """The same with what is behind a layer trained, and everything up to it frozen."""
    from toolchain.retrain import retrain  # torch

    frozen = (*task.recipe.frozen, *map(glob.escape, parameters_up_to(state.current, about.layer)))
    recipe = dataclasses.replace(task.recipe, frozen=frozen)
    trained, _ = retrain(state.current, task.data, task.validation, recipe, progress=task.progress)
    return dataclasses.replace(state, current=trained)


def parameters_up_to(model: Model, layer: str) -> list[str]:
    """Names of the trained parameters that a layer's activation depends on."""
    from toolchain.retrain.network import is_trained  # torch

    value = next(a.value for a in hidden(model) if a.layer == layer)
    needed = {value}
    for node in reversed(list(model.graph)):
        if any(str(v.name) in needed for v in node.outputs):
            needed |= {str(v.name) for v in reads(node)}
    return [name for name, value in model.graph.initializers.items() if name in needed and is_trained(value)]


# ---- what is told ----------------------------------------------------------------------------------------------------
def sentence(step: Step) -> str:
    """One try in words."""
    if step.retrained is None or step.pruned is None:
        return f"{step.layer}: nothing to remove of {step.before:,}"
    verdict = "kept" if step.is_kept else "undone"
    shares = f"{100 * step.pruned:.2f} -> {100 * step.retrained:.2f} %"
    return f"{step.layer} {step.before:,}→{step.after:,} ({', '.join(step.kinds)}) · {shares} · {verdict}"


def rows(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """A table of all tries."""
    percent = lambda share: None if share is None else round(100 * share, 2)
    return [
        {
            "layer": s.layer,
            "removed": ", ".join(s.kinds) or "nothing",
            "before": s.before,
            "after": s.after,
            "pruned %": percent(s.pruned),
            "retrained %": percent(s.retrained),
            "kept": s.is_kept,
        }
        for s in steps
    ]


def write(tuned: Tuned, out: Path, settings: dict[str, Any], sets: Sequence[Samples], force: bool = False) -> None:
    """model.onnx, plan.json and tune.json."""
    paths = [out / name for name in FILES]
    for path in paths:
        check_new(path, force)
    body = {
        "schema": SCHEMA,
        "tool": {"name": "jettison", "version": __version__},
        "model": {"sha256": tuned.original.sha256},
        "data": [{"name": s.name, "samples": len(s), "sha256": sha256_of(s)} for s in sets],
        "settings": settings,
        "accuracy": dict(zip(("before", "after"), tuned.right, strict=True)),
        "steps": [dataclasses.asdict(s) for s in tuned.steps],
    }
    save(signed(tuned.current, digest(tuned.plan.removed)), paths[0], force)
    save_plan(tuned.plan, paths[1], force)
    write_json(paths[2], body)
