"""What occurrence maps say of a layer: kernels to do without, layers that are too small, a network too shallow.

The thresholds are points of a share, 0..1, and leave kernels alone in doubt: with few images of a class chance makes
maps differ, and kernels look more selective and less redundant than they are. The paper compares kernels by D alone,
which asks for how many images of a class they fire, and not for which: two that fire seldom are alike to it. To be
redundant here they have to agree on the images too, at places drawn by chance, and on so many that it is no accident.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.groups import Channels
from toolchain.errors import BadInput, Unsupported
from toolchain.explain.layers import Activation, activation_of
from toolchain.explain.occurrence import (
    F64,
    I64,
    IMAGES,
    Bool,
    Occurrence,
    class_selectivity,
    differences,
    estimated,
    kernel_selectivity,
    maps,
)
from toolchain.model import Model
from toolchain.ops.units import Ids
from toolchain.validate import read_bytes

ALWAYS = 0.99  # a kernel that fires in more of all places of all images than this tells nothing by firing
UNSELECTIVE = 0.05  # its share of firing images differs by less between any class and the others, mean over places
REDUNDANT = 0.1  # D within a group is less: for 9 images in 10 the kernels fire in the same places; so is 1 − κ
CHANCE = 0.05  # probability that chance makes any two units of a layer agree as well, which is too high
UNSEPARATED = 0.2  # in no place does any kernel fire for so many more, or fewer, images of the class than of others
SHALLOW = 0.3  # in no place does a kernel of the last layer fire for so many more of its images

KINDS = {
    "dead": "never fires",
    "always-on": "fires everywhere, for every image",
    "unselective": "fires alike for all classes",
    "redundant": "fire in the same places for the same classes, or for the same images",
    "too-small": "no kernel separates these classes",
    "too-shallow": "the last layer has no kernel of these classes",
    "blank": "no samples",
    "sound": "nothing found",
}
REMOVABLE = ("dead", "unselective", "redundant")  # one that is always on may still hand on how much


Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Finding:
    """One thing that occurrence maps say of a layer.

    kind    of KINDS
    why     in numbers
    groups  kernels that it is about, those that are alike together
    keep    those among them that stay where the others go
    classes that it is about
    """

    kind: str
    layer: str
    why: str
    groups: Groups = ()
    keep: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def units(self) -> tuple[int, ...]:
        """Kernels of all groups."""
        return tuple(u for group in self.groups for u in group)

    @property
    def goes(self) -> tuple[int, ...]:
        """Kernels that the network can do without."""
        return tuple(u for u in self.units if u not in set(self.keep)) if self.kind in REMOVABLE else ()


def findings(o: Occurrence, about: Activation, is_last: bool) -> tuple[Finding, ...]:
    """What the maps of one layer say (Garcia et al., tasks 1 to 3); one finding "sound" where that is nothing.

    is_last  whether the next layer is the answer

    Raises UsageError where fewer than two classes have samples.
    """
    s, kernels = class_selectivity(o), kernel_selectivity(o)
    found = [*ineffective(o, about, s, kernels), *unseparated(o, s, is_last)]
    if o.unseen:
        found.append(Finding("blank", o.layer, "no samples: their maps are blank", classes=o.unseen))
    return tuple(found) or (Finding("sound", o.layer, f"{len(o.counts)} kernels, all of use"),)


def ineffective(o: Occurrence, about: Activation, s: F64, kernels: F64) -> list[Finding]:
    """Kernels to do without (task 1): each is named once, and the most selective stays whatever is found."""
    share = maps(o)[:, o.seen].reshape(len(kernels), int(o.seen.sum()), -1)
    strength = np.abs(s[:, o.seen]).reshape(share.shape).mean(axis=2).max(axis=1)
    fires = share.mean(axis=(1, 2))
    is_dead = o.counts.reshape(len(kernels), -1).max(axis=1) == 0
    is_always = fires >= ALWAYS
    is_alike = (strength < UNSELECTIVE) & ~is_dead & ~is_always
    rest = np.flatnonzero(~(is_dead | is_always | is_alike))
    part = o.part(rest)
    measures: dict[str, NDArray[np.floating]] = {"D ≤ {:.3f}": differences(part)}
    if part.fires is not None:
        measures["1 − κ ≤ {:.3f}"] = disagreement(part.fires)
    stays = () if len(rest) or is_always.any() else (int(kernels.argmax()),)
    n = f"{o.samples.sum():,} images"
    found = []
    if is_dead.any() and about.is_zero:
        found.append(of_units("dead", o, is_dead, f"0 of {n} make it fire", stays))
    if is_always.any():
        found.append(of_units("always-on", o, is_always, f"fires in {100 * ALWAYS:g} % or more of all places of {n}"))
    if is_alike.any():
        most = f"classes differ by {100 * strength[is_alike].max():.1f} points at most, mean over places of {n}"
        found.append(of_units("unselective", o, is_alike, most, stays))
    groups = alike(np.maximum.reduce([*measures.values()]), REDUNDANT)
    if groups:
        best = tuple(int(rest[g[kernels[rest[g]].argmax()]]) for g in groups)
        most = (text.format(max(apart[np.ix_(g, g)].max() for g in groups)) for text, apart in measures.items())
        why = f"{', '.join(most)} within {len(groups)} groups, told from {n}; the most selective of each stays"
        why += f"; {said}" if (said := estimated(part)) else ""
        found.append(Finding("redundant", o.layer, why, tuple(tuple(rest[g].tolist()) for g in groups), best))
    return found


def of_units(kind: str, o: Occurrence, which: NDArray[np.bool_], why: str, stays: tuple[int, ...] = ()) -> Finding:
    """A finding about these kernels."""
    units = tuple(np.flatnonzero(which).tolist())
    return Finding(kind, o.layer, why, (units,), tuple(u for u in stays if u in units))


def alike(apart: F64, most: float) -> list[I64]:
    """Groups of two or more whose members are all within `most` of each other: complete linkage."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(apart) < 2:
        return []
    label = fcluster(linkage(squareform(apart, checks=False), "complete"), most, "distance")
    groups = [np.flatnonzero(label == g) for g in np.unique(label)]
    return sorted((g for g in groups if len(g) > 1), key=lambda g: int(g[0]))


def disagreement(fires: Bool) -> NDArray[np.float32]:
    """1 − κ: images on which two units disagree, of those on which they would by chance, [k, k] (Cohen 1960).

    fires  [n, p, k]

    1 where chance makes some pair of the layer disagree on as few with a probability above CHANCE: by Chernoff's bound,
    P(X ≤ d) ≤ exp(d − E − d ln (d / E)), times the number of pairs. So few images show no units to be redundant. The p
    places of an image count for one, as if all told the same.
    """
    from scipy.special import xlogy

    (n, p, k), each = fires.shape, fires.mean(axis=1, dtype=np.float64).sum(axis=0)
    found = np.zeros((k, k), np.float32)  # images for which both fire: exact up to 2²⁴ places
    for start in range(0, n, IMAGES):
        part = np.concatenate(fires[start : start + IMAGES]).astype(np.float32)  # [n p, k], of no kernels too
        found += part.T @ part
    found /= p
    wanted = np.log(max(k * (k - 1) // 2, 1) / CHANCE)
    for row, mine in zip(found, each, strict=True):
        differ, expected = mine + each - 2 * row, (mine * (n - each) + each * (n - mine)) / n
        share = np.divide(differ, expected, out=np.ones_like(row), where=expected > 0)
        row[:] = np.where(expected - differ + xlogy(differ, share) >= wanted, share, 1)
    np.fill_diagonal(found, 0)
    return found


def unseparated(o: Occurrence, s: F64, is_last: bool) -> list[Finding]:
    """Classes that the layer has no kernel for (tasks 2 and 3); s is their selectivity."""
    flat = s.reshape(len(s), s.shape[1], -1)
    found = []
    for kind, most, read in (("too-small", UNSEPARATED, np.abs), ("too-shallow", SHALLOW, np.positive)):
        best = read(flat[:, o.seen]).max(axis=(0, 2))
        names = [n for n, is_seen in zip(o.classes, o.seen, strict=True) if is_seen]
        lacking = tuple(n for n, b in zip(names, best, strict=True) if b < most)
        if lacking and (is_last or kind == "too-small"):
            why = f"S reaches {best.min():.2f} for the least of them, {most:g} is wanted"
            found.append(Finding(kind, o.layer, why, classes=lacking))
    return found


# ---- what goes -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Removal:
    """Units that findings take away.

    labels  of those that go
    stuck   {layer: kernels that would go but cannot}
    """

    labels: Ids
    stuck: dict[str, tuple[int, ...]]


def removal(found: Sequence[Finding], model: Model, channels: Channels) -> Removal:
    """What goes of a network: units that every layer in which they were looked at can do without.

    Channels of a sum with a shortcut belong to several layers. What is frozen stays, and is told.
    """
    free = channels.flags(np.concatenate([np.zeros(0, np.int64), *(g.units for g in channels.groups)]))
    named, spared = np.zeros_like(free), np.zeros_like(free)
    goes = {f.layer: set[int]() for f in found}
    for f in found:
        goes[f.layer] |= set(f.goes)
    units = {layer: units_of(activation_of(model, layer), channels) for layer in goes}
    for layer, labels in units.items():
        is_named = np.isin(np.arange(len(labels)), sorted(goes[layer]))
        if max(goes[layer], default=-1) >= len(labels):
            raise BadInput(f"layer '{layer}' has {len(labels)} kernels, none of number {max(goes[layer])}")
        named[labels[is_named]] = True
        spared[labels[~is_named]] = True
    gone = named & free & ~spared
    stuck = {l: tuple(i for i in sorted(goes[l]) if not gone[labels[i]]) for l, labels in units.items()}
    return Removal(np.flatnonzero(gone), {l: s for l, s in stuck.items() if s})


def units_of(about: Activation, channels: Channels) -> Ids:
    """Labels of a layer's kernels, [k]; raises Unsupported where no rule passes them."""
    value = channels.values[about.value]
    if (value, about.axis) not in channels.labels.axes:
        raise Unsupported(f"kernels of '{about.layer}' cannot be removed: {channels.labels.why(value, about.axis)}")
    return channels.labels.of(value, about.axis)


# ---- files -----------------------------------------------------------------------------------------------------------
def as_row(f: Finding) -> dict[str, str | int | float | bool | None]:
    """A finding as plain values: numbers of kernels with spaces, groups with bars, classes with commas between."""
    units = " | ".join(" ".join(map(str, g)) for g in f.groups)
    keep, classes = " ".join(map(str, f.keep)), ", ".join(f.classes)
    return {"layer": f.layer, "kind": f.kind, "why": f.why, "units": units, "keep": keep, "classes": classes}


def load_findings(path: Path, model: Model) -> tuple[Finding, ...]:
    """Read the findings.json that `explain` wrote; raises BadInput unless it was made of this model."""
    try:
        body = json.loads(read_bytes(path, "a findings.json file"))
        sha256, rows = str(body["model"]["sha256"]), body["rows"]
        found = tuple(
            Finding(str(r["kind"]), str(r["layer"]), str(r["why"]), grouped(r["units"]), sum(grouped(r["keep"]), ()))
            for r in rows
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        way_out = "Make one with jettison explain --figures findings"
        raise BadInput("is no findings.json of jettison", str(path), way_out) from error
    unknown = [f.kind for f in found if f.kind not in KINDS]
    if unknown:
        raise BadInput(f"holds an unknown kind of finding '{unknown[0]}'", str(path))
    if sha256 != model.sha256:
        raise BadInput(f"the findings are of sha256 {sha256[:12]}…, the model is {model.sha256[:12]}…", str(path))
    return found


def grouped(text: str) -> Groups:
    """'3 7 | 4' -> ((3, 7), (4,)); raises ValueError for what is no kernel."""
    found = tuple(tuple(map(int, part.split())) for part in text.split("|") if part.strip())
    if any(u < 0 for group in found for u in group):
        raise ValueError(text)
    return found
