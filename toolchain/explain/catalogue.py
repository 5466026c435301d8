"""Every figure by name: how it is made, and what it needs of a network and its data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

import numpy as np

from toolchain.compress.gradient import attribution_graph
from toolchain.compress.groups import Channels, Group
from toolchain.compress.objective import Classes, objective_of
from toolchain.data import Samples
from toolchain.errors import Unsupported, UsageError
from toolchain.explain import figures
from toolchain.explain.figure import Figure
from toolchain.explain.heatmaps import METHODS, image_tail, layer_of
from toolchain.explain.interactive import too_large
from toolchain.explain.layers import Activation
from toolchain.explain.occurrence import Occurrence, check_size, class_names
from toolchain.explain.subject import NOTHING_TO_REMOVE, Subject
from toolchain.explain.topmost import topmost
from toolchain.explain.units import Layer
from toolchain.explain.writing import stem
from toolchain.model import Model
from toolchain.ops.table import dims

MOST_CLASSES = 8  # that colours can tell apart
MOST_COLUMNS = 32  # classes that a grid of maps shows


# ---- what a figure needs: None, or why it cannot be made -----------------------------------------------------------
Need = Callable[[Subject], str | None]


def classes(subject: Subject) -> str | None:
    """One output [N, classes]."""
    return None if subject.has_classes else "the network has no classes: it needs one output [N, classes]"


def labels(subject: Subject) -> str | None:
    """Labelled data, where the network has classes."""
    bare = [s.name for s in (subject.data, *subject.tests) if s.labels is None]
    return f"{bare[0]} has no labels" if bare and subject.has_classes else None


def images(subject: Subject) -> str | None:
    """One input of images."""
    shapes = list(subject.model.inputs.values())
    fits = len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][0] in (1, 3)
    return None if fits else f"samples are no images [1 or 3, height, width] but {subject.model.inputs}"


def differentiable(subject: Subject) -> str | None:
    """A gradient rule for every op: finite differences pixel by pixel would take hours."""
    try:
        attribution_graph(subject.model, next(iter(subject.model.inputs)))
    except Unsupported as error:
        return str(error)
    return None if subject.model.batch == "free" else f"the graph runs at batch {subject.model.batch} only"


def several(subject: Subject) -> str | None:
    """Images of two classes or more."""
    seen = 0 if subject.data.labels is None else len(np.unique(subject.data.labels))
    return None if seen > 1 else f"occurrence maps compare classes, and {subject.data.name} has {seen}"


def fired(subject: Subject) -> str | None:
    """A layer whose kernels fire, of a size that memory holds."""
    try:
        check_size(subject.fired, subject.channels.values, len(class_names(subject.model, subject.data)))
    except Unsupported as error:
        return str(error)
    return None if subject.fired else "there is no conv or dense layer before the answer"


def browsed(subject: Subject) -> str | None:
    """No more kernels and classes than a page holds."""
    values, each = subject.channels.values, len(class_names(subject.model, subject.data))
    return too_large(each * sum(dims(values[a.value])[a.axis] for a in subject.fired))


def units(subject: Subject) -> str | None:
    """Something that can be removed."""
    return None if subject.groups else NOTHING_TO_REMOVE


def attributions(subject: Subject) -> str | None:
    """Something that can be removed, and a gradient rule for every op behind it."""
    return subject.unranked


# ---- the figures ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Entry:
    """One name that --figures knows: how its figures are made, what they need, and what each of them is about.

    about  (ranked layers, layers with occurrence maps) -> names, one for each figure
    """

    make: Callable[[Subject], Iterator[Figure]]
    needs: tuple[Need, ...] = ()
    about: Callable[[Sequence[Group], Sequence[Activation]], list[str]] = lambda groups, fired: [""]


def alone(make: Callable[[Subject], Figure], *needs: Need) -> Entry:
    """One figure of the whole network."""
    return Entry(lambda s: iter([make(s)]), needs)


def of_layers(make: Callable[[Subject, Layer], Figure], *needs: Need) -> Entry:
    """One figure for every ranked layer."""
    return Entry(
        lambda s: (make(s, layer) for layer in s.layers),
        (*needs, attributions),
        lambda groups, fired: [g.name for g in groups],
    )


def of_maps(make: Callable[[Subject, Activation, Occurrence], Figure]) -> Entry:
    """One figure for every conv and dense layer."""
    return Entry(
        lambda s: (make(s, a, s.occurrences[a.layer]) for a in s.fired),
        MAPPED,
        lambda groups, fired: [a.layer for a in fired],
    )


MAPPED: tuple[Need, ...] = (classes, labels, several, fired)


FIGURES: dict[str, Entry] = {
    "architecture": alone(lambda s: figures.architecture(s.model)),
    "samples": alone(lambda s: figures.sample_images(s.data, s.names), classes, labels, images),
    "input-maps": alone(
        lambda s: figures.input_maps(s.model, s.data, s.names, max(s.steps, 32), s.threads),
        classes,
        labels,
        images,
        differentiable,
    ),
    "heatmaps": alone(
        lambda s: figures.heatmap_grid(s.model, s.data, s.names, s.methods, s.at, s.seed, s.threads),
        classes,
        labels,
        images,
        differentiable,
    ),
    "perturbation": alone(
        lambda s: figures.perturbation(s.judged, s.trial.samples.name), classes, images, differentiable
    ),
    "quality": alone(lambda s: figures.quality_table(s.judged, s.trial.samples.name), classes, images, differentiable),
    "classes": alone(lambda s: figures.class_counts(s.data, s.names), classes, labels),
    "splits": alone(lambda s: figures.splits(s.model, (s.data, *s.tests), s.threads), classes, labels),
    "unit": of_layers(lambda s, l: figures.unit(l, s.names), classes, labels),
    "conditional": of_layers(lambda s, l: figures.conditional(l, s.names), classes, labels),
    "ranks": of_layers(lambda s, l: figures.rank_histogram(l), labels),
    "sorted": of_layers(lambda s, l: figures.sorted_units(l, s.names), classes, labels),
    "overlap": of_layers(lambda s, l: figures.overlap(l, s.names), classes, labels),
    "prune-curve": of_layers(
        lambda s, l: figures.prune_curve(s.trial, l, orders=s.orders, seed=s.seed), classes, labels
    ),
    "class-curves": of_layers(lambda s, l: figures.class_curves(s.trial, l, s.names), classes, labels),
    "layer-curves": alone(lambda s: figures.layer_curves(s.trial, s.layers), classes, labels, attributions),
    "joint-curves": alone(lambda s: figures.joint_curves(s.trial, s.layers), classes, labels, attributions),
    "parameters": alone(lambda s: figures.parameters(s.model, s.channels, s.groups), units),
    "occurrence": of_maps(lambda s, a, o: figures.occurrence_maps(o, s.columns or s.names)),
    "occurrence-difference": of_maps(lambda s, a, o: figures.occurrence_differences(o)),
    "selectivity": of_maps(lambda s, a, o: figures.selectivity_maps(o, s.columns or s.names)),
    "class-kernels": of_maps(lambda s, a, o: figures.class_kernels(o, a, s.trial, s.group_of(a), s.columns or s.names)),
    "occurrence-page": alone(
        lambda s: figures.occurrence_page(
            s.data,
            list(s.occurrences.values()),
            topmost(s.model, s.data, [a.value for a in s.fired], threads=s.threads, progress=s.progress),
            s.findings,
            s.attributed,
        ),
        *MAPPED,
        browsed,
    ),
    "findings": alone(lambda s: figures.findings_table(s.findings), *MAPPED),
}


def wanted(text: str) -> tuple[str, ...]:
    """'unit,ranks' or 'all' -> names in the order of the paper; raises UsageError for an unknown one."""
    return chosen("figure", text, FIGURES)


def chosen(kind: str, text: str, known: Iterable[str]) -> tuple[str, ...]:
    """Names with commas, or all, in the order that they are known in; raises UsageError for an unknown one."""
    names, asked = tuple(known), {part.strip() for part in text.split(",") if part.strip()}
    unknown = sorted(asked - {"all", *names})
    if unknown or not asked:
        way_out = f"Use all, or some of {', '.join(names)}"
        raise UsageError(f"unknown {kind} '{unknown[0] if unknown else text}'", way_out=way_out)
    return tuple(n for n in names if "all" in asked or n in asked)


def stems(names: Sequence[str], groups: Sequence[Group], fired: Sequence[Activation] = ()) -> list[str]:
    """What the files of these figures are called."""
    return [stem(n, about) for n in names for about in FIGURES[n].about(groups, fired)]


def missing(subject: Subject, names: Sequence[str]) -> dict[str, str]:
    """{figure: why it cannot be made}."""
    found = {n: next((why for need in FIGURES[n].needs if (why := need(subject))), "") for n in names}
    return {n: why for n, why in found.items() if why}


# ---- what they are about -------------------------------------------------------------------------------------------
def layers_named(channels: Channels, pattern: str | None) -> tuple[Group, ...]:
    """Groups of this pattern; by default dense ones and places behind a flatten (the paper's layers), else the last.

    Raises UsageError where none fits.
    """
    read = [g for g in channels.groups if g.cuts]
    if pattern is None:
        return tuple(g for g in read if g.kind != "channel") or tuple(read[-1:])
    found = tuple(g for g in read if fnmatch(g.name, pattern))
    if not found:
        known = ", ".join(g.name for g in read[:20])
        raise UsageError(f"no layer fits '{pattern}'", way_out=f"Layers with units are {known or 'none'}")
    return found


def methods_named(text: str | None) -> tuple[str, ...]:
    """'gradient,grad-cam' -> names in the order of METHODS, () for None; raises UsageError for an unknown one."""
    return () if text is None else chosen("method", text, METHODS)


def check_layer(model: Model, name: str | None) -> None:
    """Raise UsageError unless it is a layer that class activation maps can weigh."""
    if name is not None:
        layer_of(image_tail(model), name)


def classes_named(model: Model, data: Samples, text: str | None, most: int | None = None) -> dict[int, str]:
    """{class: its name} in the order that is asked for, by name or number.

    By default all of them, or those with most samples, 8 or `most`. Raises UsageError for an unknown class.
    """
    objective = objective_of(model)
    if not isinstance(objective, Classes):
        return {}
    names = {k: data.classes[k] if k < len(data.classes) else str(k) for k in range(objective.classes)}
    if text is None:
        counts = np.bincount(np.zeros(0, np.int64) if data.labels is None else data.labels, minlength=len(names))
        shown = sorted(np.argsort(-counts, kind="stable")[: most or MOST_CLASSES].tolist())
        return {k: names[k] for k in shown}
    number = {str(k): k for k in names} | {name: k for k, name in names.items()}
    asked = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [a for a in asked if a not in number]
    if unknown or not asked:
        known = ", ".join(list(names.values())[:20])
        raise UsageError(f"there is no class '{unknown[0] if unknown else text}'", way_out=f"Classes are {known}")
    return {number[a]: names[number[a]] for a in asked}
