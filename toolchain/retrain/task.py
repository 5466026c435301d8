"""What a run trains and on what: the network, the samples and the teacher, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Generator, Tensor

from toolchain.data import Samples
from toolchain.errors import UsageError, nearest
from toolchain.model import Model
from toolchain.retrain.augment import Augment
from toolchain.retrain.goal import Goal, goal_of
from toolchain.retrain.network import Network, name_of, to_torch

HELD = 1 << 30  # bytes of samples that are kept on the device, and of a teacher's answers that are computed once
PARTS = 64  # samples at a time where nothing is learnt
Batch = tuple[list[Tensor], Tensor | None, list[Tensor] | None]  # inputs, labels, what the teacher says


@dataclass(frozen=True)
class Part:
    """Samples as tensors [n, …]: inputs in the model's order, labels, a teacher's values."""

    inputs: tuple[Tensor, ...]
    labels: Tensor | None
    taught: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def rows(self, rows: Tensor, device: torch.device) -> Batch:
        """Some of them, where the network is."""
        here = rows.to(self.inputs[0].device)
        inputs = [x[here].to(device) for x in self.inputs]
        labels = None if self.labels is None else self.labels[here].to(device)
        return inputs, labels, None if self.taught is None else [z[here].to(device) for z in self.taught]


@dataclass(frozen=True)
class Task:
    """All that a run needs.

    taught  the teacher's values that the goal compares with the network's
    """

    network: Network
    goal: Goal
    data: Part
    validation: Part | None
    teacher: Network | None
    taught: tuple[str, ...]
    augments: Sequence[Augment]
    device: torch.device

    def batch(self, rows: Tensor, generator: Generator) -> Batch:
        """Training samples, augmented; the teacher sees what the network sees."""
        inputs, labels, taught = self.data.rows(rows, self.device)
        for augment in self.augments:
            inputs[0] = augment(inputs[0], generator)
        return inputs, labels, self.asked(inputs) if taught is None else taught

    @torch.no_grad()
    def asked(self, inputs: Sequence[Tensor]) -> list[Tensor] | None:
        """What the teacher says of inputs."""
        return None if self.teacher is None else self.teacher.values(inputs, self.taught)


def task_of(
    model: Model,
    goal: Goal,
    samples: Samples,
    validation: Samples | None,
    teacher: Model | None,
    augments: Sequence[Augment],
) -> Task:
    """Everything as tensors, on a GPU where torch sees one; a teacher's answers to samples that stay as they are."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = to_torch(model).to(device)
    freeze(network, goal.recipe.frozen)
    task = Task(
        network,
        goal,
        part_of(samples, model, device),
        None if validation is None else part_of(validation, model, device),
        None if teacher is None else to_torch(teacher).to(device),
        () if teacher is None else goal_of(teacher, goal.recipe).wanted,
        augments,
        device,
    )
    sizes = map(len, in_parts(torch.arange(len(task.data)), goal.recipe.batch))
    norm = next((s.node.op_type for s in network.steps if s.entry.follows), None)
    if min(sizes) < 2 and norm is not None:
        raise UsageError(f"a {norm} cannot learn from one sample at a time", way_out="Give a larger --batch")
    return task if teacher is None else instructed(task)


def in_parts(order: Tensor, size: int) -> Sequence[Tensor]:
    """Rows in batches of nearly equal size: a norm learns little from the one sample that is left over."""
    return order.tensor_split(-(-len(order) // size))


def part_of(samples: Samples, model: Model, device: torch.device) -> Part:
    """Of the types that the model reads; on the device if they are few."""
    arrays = [(samples.inputs[str(v.name)], v.dtype) for v in model.graph.inputs]
    inputs = [torch.from_numpy(np.ascontiguousarray(a, None if d is None else d.numpy())) for a, d in arrays]
    labels = None if samples.labels is None else torch.from_numpy(samples.labels.astype(np.int64))
    home = device if sum(x.nbytes for x in inputs) <= HELD else torch.device("cpu")
    return Part(tuple(x.to(home) for x in inputs), labels if labels is None else labels.to(home))


def instructed(task: Task) -> Task:
    """With the teacher's answers held where they stay the same and are not too large, and their spread."""
    assert task.teacher is not None
    first = torch.arange(min(PARTS, len(task.data)))
    seen = task.asked(task.data.rows(first, task.device)[0]) or []
    spread = tuple(float(z.var()) or 1.0 for z in seen)
    task = replace(task, goal=replace(task.goal, spread=() if task.goal.is_classes else spread))
    held = {}
    for name, part in (("data", task.data), ("validation", task.validation)):
        size = sum(z[0].nbytes for z in seen) * (0 if part is None else len(part))
        if part is not None and size <= HELD and not (name == "data" and task.augments):
            held[name] = replace(part, taught=told(task, part))
    return replace(task, **held)


def told(task: Task, part: Part) -> tuple[Tensor, ...]:
    """What the teacher says of every sample."""
    found = [task.asked(part.rows(rows, task.device)[0]) or [] for rows in in_parts(torch.arange(len(part)), PARTS)]
    return tuple(map(torch.cat, zip(*found, strict=True)))


def freeze(network: Network, globs: Sequence[str]) -> None:
    """Leave parameters alone whose name, or whose node's, a glob matches; raises UsageError for a glob without any."""
    parameters = {name_of(key): p for key, p in network.named_parameters()}
    names: dict[str, set[str]] = {name: {name} for name in parameters}
    for step in network.steps:
        own = set(parameters) & set(step.reads)
        if own:
            names.setdefault(str(step.node.name), set()).update(own)
    for glob in globs:
        found = [n for n in names if fnmatchcase(n, glob)]
        if not found:
            raise UsageError(f"no parameter or node is called '{glob}'", way_out=nearest(glob, names))
        for parameter in {p for n in found for p in names[n]}:
            parameters[parameter].requires_grad_(False)
