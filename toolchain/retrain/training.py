"""The loop: batches in an order that an epoch draws from (seed, epoch) alone, so that a resumed run equals any other.

A mask that surgery wrote into the graph is a constant like others: what it multiplies by zero gives nothing and gets no
gradient, so that training a masked network is training the pruned one (Lundstrom et al. 2022, section IV).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from toolchain.data import Samples
from toolchain.errors import UsageError
from toolchain.model import Model
from toolchain.retrain.augment import Augment, augments_of
from toolchain.retrain.checkpoint import Keeper, Kept, about_run
from toolchain.retrain.goal import check, goal_of
from toolchain.retrain.network import Network, from_torch
from toolchain.retrain.recipe import Epoch, History, Recipe
from toolchain.retrain.task import PARTS, Task, in_parts, task_of

Progress = Callable[[str, int, int], None]

OPTIMISERS: dict[str, Callable[[Any, float], torch.optim.Optimizer]] = {
    "sgd": lambda groups, rate: torch.optim.SGD(groups, rate, momentum=0.9, nesterov=True, fused=True),
    "momentum": lambda groups, rate: torch.optim.SGD(groups, rate, momentum=0.9, fused=True),
    "adamw": lambda groups, rate: torch.optim.AdamW(groups, rate, fused=True),
}


def retrain(
    model: Model,
    samples: Samples,
    validation: Samples | None = None,
    recipe: Recipe | None = None,
    *,
    teacher: Model | None = None,
    checkpoint: Path | None = None,
    augment: Sequence[str | Augment] = (),
    progress: Progress = lambda stage, done, total: None,
) -> tuple[Model, History]:
    """The model with weights trained for the labels of samples, a teacher's answers, or both; and how it went.

    The epoch that is right most often on `validation` is kept, of several the one with the lowest loss; the network as
    it was given counts as one. Without validation every sample trains, and the last epoch is kept.

    checkpoint  file that the run is kept in from time to time, and goes on from

    Raises UsageError or BadInput where there is nothing to learn from (see goal.check), or where `checkpoint` is of
    another run; Unsupported for a node without a torch form.
    """
    recipe = recipe or Recipe()
    goal = goal_of(model, recipe)
    check(model, goal, samples, validation, teacher)
    augments = augments_of(augment, model)
    about = {} if checkpoint is None else about_run(model, samples, validation, recipe, teacher, augment)
    with settled(recipe):
        task = task_of(model, goal, samples, validation, teacher, augments)
        if recipe.keep_zeros:
            hold_zeros(task.network)
        history = trained(task, Keeper(checkpoint, about), progress)
        return from_torch(task.network), history


@contextmanager
def settled(recipe: Recipe) -> Iterator[None]:
    """Threads and chance of this run alone; what torch was set to comes back."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warns_only = torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, sums on a GPU come in any order
    with torch.random.fork_rng():
        torch.set_num_threads(recipe.threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1], warn_only=warns_only)


def trained(task: Task, keeper: Keeper, progress: Progress) -> History:
    """Train the task's network in place up to its best epoch."""
    network, recipe = task.network, task.goal.recipe
    optimiser = OPTIMISERS[recipe.optimiser](groups(network, recipe.decay), recipe.highest)
    kept = keeper.read(network, optimiser)
    if kept is None:
        kept = Kept(History((as_given(task),)), copied(network))
    while len(kept.history.epochs) <= recipe.epochs and not kept.history.stopped:
        epoch = one_epoch(task, optimiser, len(kept.history.epochs), progress)
        history = History((*kept.history.epochs, epoch))
        best = copied(network) if history.best is epoch else kept.best
        kept = Kept(replace(history, stopped=why_stop(history, recipe)), best)
        keeper.write(kept, network, optimiser, is_last=epoch.number == recipe.epochs or bool(kept.history.stopped))
    network.load_state_dict(kept.best)
    return kept.history


def why_stop(history: History, recipe: Recipe) -> str:
    """Why training is over before its time, or ""."""
    last = history.epochs[-1]
    if not last.is_finite:
        return f"diverged in epoch {last.number}: the loss is not finite; epoch {history.best.number} is kept"
    if recipe.patience is not None and last.number - history.best.number >= recipe.patience:
        return f"no better in {recipe.patience} epochs"
    return ""


def one_epoch(task: Task, optimiser: torch.optim.Optimizer, number: int, progress: Progress) -> Epoch:
    """Every sample once, in an order of this epoch's own."""
    network, goal, recipe = task.network, task.goal, task.goal.recipe
    generator = chance(recipe.seed, number)
    parts = in_parts(torch.randperm(len(task.data), generator=generator), recipe.batch)
    steps, rate, total = recipe.epochs * len(parts), 0.0, torch.zeros((), device=task.device)
    network.train()
    for step, rows in enumerate(parts, start=(number - 1) * len(parts)):
        rate = recipe.rate_at(step, steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        inputs, labels, taught = task.batch(rows, generator)
        loss = goal.loss(network.values(inputs, goal.wanted), labels, taught)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.detach() * len(rows)
        progress(f"epoch {number} of {recipe.epochs}", step + 1, steps)
    is_sound = all(bool(p.isfinite().all()) for p in network.state_dict().values())
    mean = float(total) / len(task.data) if is_sound else math.nan
    return Epoch(number, rate, mean, *validated(task))


def as_given(task: Task) -> Epoch:
    """Epoch 0."""
    return Epoch(0, 0.0, None, *validated(task))


@torch.no_grad()
def validated(task: Task) -> tuple[float | None, float | None]:
    """(share of right answers, mean loss) on validation."""
    if task.validation is None:
        return None, None
    network, scores = task.network.eval(), []
    for rows in in_parts(torch.arange(len(task.validation)), PARTS):
        inputs, labels, taught = task.validation.rows(rows, task.device)
        taught = task.asked(inputs) if taught is None else taught
        scores.append((len(rows), *task.goal.score(network.values(inputs, task.goal.wanted), labels, taught)))
    sizes, right, losses = zip(*scores, strict=True)
    share = None if right[0] is None else sum(right) / sum(sizes)
    return share, sum(size * loss for size, loss in zip(sizes, losses, strict=True)) / sum(sizes)


def chance(seed: int, epoch: int) -> Generator:
    """The generator of an epoch; dropout has none and draws from torch's own, which is set alike."""
    number = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    torch.manual_seed(number)
    return Generator().manual_seed(number)


def groups(network: Network, decay: float) -> list[dict[str, Any]]:
    """Parameters with two axes or more, which decay, and the others; raises UsageError where all are frozen."""
    free = [p for p in network.parameters() if p.requires_grad]
    if not free:
        raise UsageError("every parameter is frozen", way_out="Give fewer --freeze")
    matrices, vectors = ([p for p in free if (p.ndim > 1) is wide] for wide in (True, False))
    return [{"params": ps, "weight_decay": d} for ps, d in ((matrices, decay), (vectors, 0.0)) if ps]


def hold_zeros(network: Network) -> None:
    """Weights that are 0 now learn nothing: without a gradient neither momentum nor decay moves them."""
    for weight in (p for p in network.parameters() if p.requires_grad and p.ndim > 1):
        weight.register_hook(partial(torch.mul, (weight.detach() != 0).to(weight.dtype)))


def copied(network: Network) -> dict[str, Tensor]:
    """Weights and statistics as they are now."""
    return {k: v.clone() for k, v in network.state_dict().items()}
