"""What figures are made of: a network and its data, and all that is computed of them once for several figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from toolchain.compress.attribution import Progress
from toolchain.compress.groups import Channels, Group
from toolchain.compress.objective import Classes, objective_of
from toolchain.data import Samples
from toolchain.errors import Unsupported
from toolchain.explain import figures
from toolchain.explain.atlas import Attributed
from toolchain.explain.findings import Finding, findings, units_of
from toolchain.explain.heatmaps import METHODS
from toolchain.explain.judging import Judged, images_for, judge
from toolchain.explain.layers import Activation, hidden
from toolchain.explain.occurrence import Occurrence, class_names, occurrences
from toolchain.explain.units import Layer, layers_of
from toolchain.model import Model

NOTHING_TO_REMOVE = "no unit of the network can be removed: jettison groups says why"


@dataclass(frozen=True)
class Subject:
    """What figures are made of.

    data    samples to attribute over, at most `samples` of them, balanced over classes
    tests   further sets; curves are measured on the first, or on `data` if there is none
    groups  the ranked layers
    fired   conv and dense layers whose occurrence maps are shown
    columns {class: its name}, the columns of occurrence maps; those of `names` if there are none
    names   {class: its name}, those to show; the first is the one that `sorted` and `class-curves` are about
    orders  random orders of the prune curve
    methods of heatmaps, () for all that the network has rules for
    at      the layer that class activation maps weigh, None for the last
    """

    model: Model
    channels: Channels
    data: Samples
    tests: tuple[Samples, ...]
    groups: tuple[Group, ...]
    names: Mapping[int, str]
    samples: int = 256
    steps: int = 16
    orders: int = 5
    seed: int = 0
    threads: int = 1
    max_memory: int | None = None
    methods: tuple[str, ...] = ()
    at: str | None = None
    progress: Progress = lambda stage, done, total: None
    fired: tuple[Activation, ...] = ()
    columns: Mapping[int, str] = field(default_factory=dict)

    @cached_property
    def occurrences(self) -> dict[str, Occurrence]:
        """{layer: how often its kernels fire}, over all of the data."""
        found = occurrences(self.model, self.data, [a.value for a in self.fired], self.threads, progress=self.progress)
        return {o.layer: o for o in found}

    @cached_property
    def findings(self) -> list[Finding]:
        """What the occurrence maps say."""
        last = next((a.layer for a in reversed(hidden(self.model))), "")
        each = (findings(self.occurrences[a.layer], a, a.layer == last) for a in self.fired)
        return [f for found in each for f in found]

    def group_of(self, about: Activation) -> Group | None:
        """The units that are a layer's kernels, or None where they cannot be masked alone."""
        key = self.channels.values[about.value], about.axis
        if self.model.batch != "free" or key not in self.channels.labels.axes:
            return None
        units = units_of(about, self.channels)
        alike = (g for g in self.channels.groups if g.kind != "position" and set(g.units) == set(units))
        return next((g for g in alike if len(g) == len(units)), None)

    @cached_property
    def layers(self) -> list[Layer]:
        """The attributions of every ranked layer."""
        picked = self.data.balanced(self.samples, self.seed)
        labels = np.zeros(len(picked), np.int64) if picked.labels is None else picked.labels
        return layers_of(
            self.model, self.channels, self.groups, picked.inputs, labels, steps=self.steps, threads=self.threads,
            max_memory=self.max_memory, progress=self.progress,
        )  # fmt: skip

    @property
    def unranked(self) -> str | None:
        """Why no layer has attributions; None where some have."""
        try:
            return None if self.groups and self.layers else NOTHING_TO_REMOVE
        except Unsupported as error:
            return str(error)

    @property
    def attributed(self) -> dict[str, Attributed]:
        """{layer: what its kernels contribute} for those that are units of a ranked layer."""
        ranked = {} if self.unranked else {layer.name: layer for layer in self.layers}
        pairs = [(a, ranked.get(g.name)) for a in self.fired if (g := self.group_of(a)) is not None]
        number = len(class_names(self.model, self.data))
        return {a.layer: figures.by_kernel(l, units_of(a, self.channels), number) for a, l in pairs if l is not None}

    @property
    def trial(self) -> figures.Trial:
        """What curves are measured on."""
        samples, memory = (*self.tests, self.data)[0], min((self.max_memory or 1 << 30) // 4, 1 << 28)
        return figures.Trial(self.model, self.channels, samples, self.threads, memory, progress=self.progress)

    @cached_property
    def judged(self) -> Judged:
        """The heatmaps of every method, judged on as many images as that is affordable for."""
        images = min(self.samples, images_for(self.model, len(self.methods or METHODS), self.orders))
        picked = self.trial.samples.balanced(images, self.seed)
        return judge(
            self.model, picked, self.methods, at=self.at, orders=self.orders, seed=self.seed, threads=self.threads,
            progress=self.progress,
        )  # fmt: skip

    @property
    def has_classes(self) -> bool:
        """Whether the network is a classifier."""
        return isinstance(objective_of(self.model), Classes)
