"""What a criterion may look at, and how what it reads lands on units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.attribution import Attribution, Progress, Workers
from toolchain.compress.groups import Channels, Group
from toolchain.errors import UsageError, nearest
from toolchain.model import Model
from toolchain.session import run, session, with_outputs

F64 = NDArray[np.float64]
BATCH = 32
# scores, dead units, facts, attributions per class: what a criterion gives for each group
Scored = tuple[dict[str, F64], dict[str, NDArray[np.bool_]], dict[str, Any], dict[str, F64]]


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at.

    sampled       {group: values} to look at its units in, in place of the group's own cuts
    attributions  what was found already, at h only or along the ray: criteria that read the same share it
    """

    model: Model
    channels: Channels
    inputs: Mapping[str, NDArray[np.float32]]
    labels: NDArray[np.int64]
    steps: int = 16
    target: str | None = None
    layers: str = "*"
    seed: int = 0
    threads: int = 1
    max_memory: int | None = None
    workers: Workers = field(default_factory=Workers)
    sampled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    progress: Progress = lambda stage, done, total: None
    attributions: dict[bool, list[Attribution]] = field(default_factory=dict, init=False)

    @property
    def groups(self) -> list[Group]:
        """The groups to be scored."""
        found = [g for g in self.channels.groups if fnmatch(g.name, self.layers)]
        for name in self.sampled:
            self.channels.group(name)
        return [replace(g, cuts=self.cuts_of(g)) if g.name in self.sampled else g for g in found]

    def cuts_of(self, group: Group) -> tuple[tuple[str, int], ...]:
        """The values that were asked for, each with the axis that holds the group's units; raises UsageError."""
        values, of = self.channels.values, self.channels.labels.of
        holds = {
            name: axis
            for name, v in values.items()
            if v.shape is not None and v.const_value is None
            for axis in range(len(v.shape))
            if (v, axis) in self.channels.labels.axes and np.isin(group.units, of(v, axis)).all()
        }
        for name in self.sampled[group.name]:
            if name not in values:
                raise UsageError(f"there is no value '{name}' to cut at", way_out=nearest(name, holds))
            if name not in holds:
                raise UsageError(f"'{name}' does not hold the units of '{group.name}'", way_out=nearest(name, holds))
        return tuple((name, holds[name]) for name in self.sampled[group.name])


def onto_units(group: Group, channels: Channels, cut: str, axis: int, per_position: F64) -> F64:
    """Sum a quantity [..., positions of the cut's axis] over the positions of each unit: [..., units]."""
    labels = channels.labels.of(channels.values[cut], axis)
    order = np.argsort(group.units)
    place = order[np.searchsorted(group.units, labels, sorter=order) % len(group)]
    mine = group.units[place] == labels
    out = np.zeros((*per_position.shape[:-1], len(group)))
    np.add.at(out.T, place[mine], per_position[..., mine].T)
    return out


def scored(scores: dict[str, F64], dead: dict[str, NDArray[np.bool_]] | None = None, **facts: Any) -> Scored:
    """Scores without attributions per class; no unit is dead unless that is said."""
    return scores, dead or {n: np.zeros(len(s), bool) for n, s in scores.items()}, facts, {}


def streamed(e: Evidence, values: Sequence[str], stage: str) -> Iterator[tuple[slice, list[NDArray[np.float32]]]]:
    """(samples, what these values are on them), part by part; a fixed batch is filled up with its last sample."""
    runner = session(with_outputs(e.model.ir, values), e.threads)
    n, is_free = len(e.labels), e.model.batch == "free"
    size = BATCH if is_free else int(e.model.batch)
    for start in range(0, n, size):
        part = slice(start, min(start + size, n))
        pick = np.arange(part.start, part.stop if is_free else start + size).clip(max=n - 1)
        found = run(runner, {k: v[pick] for k, v in e.inputs.items()})
        yield part, [h[: len(h) * (part.stop - start) // len(pick)] for h in found]
        e.progress(stage, part.stop, n)
