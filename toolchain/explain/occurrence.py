"""Activation occurrence maps: how often, where and for which classes the kernels of a layer fire (Garcia et al.).

A dense unit is a kernel with one position. Counts are whole numbers, made inside onnxruntime: one-hot classes times
y > 0 is a matrix product, so that no activation ever leaves it; of a few places it is told, too, for which images
kernels fire there. `layers` says where a layer is seen to fire. Means are over classes that have samples; maps of the
others are nan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.compress.attribution import Progress
from toolchain.compress.measures import selective
from toolchain.compress.objective import no_scores
from toolchain.compress.rows import along_batch, per_sample
from toolchain.data import Samples
from toolchain.errors import Unsupported, UsageError
from toolchain.explain.layers import Activation, activation_of
from toolchain.model import BATCH, Model
from toolchain.ops.table import dims
from toolchain.ops.tape import PREFIX
from toolchain.plain import parameter
from toolchain.session import run, session, with_outputs

F64, I64, Bool = NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]
AT_ONCE = 1 << 23  # bytes of activations of one run: they stay in the processor's cache
MOST = 1 << 31  # bytes of the counts of all layers
IMAGES = 1024  # of one run at most
PLACES = 16  # of a layer that are watched image by image
ORDERLY = 128  # kernels up to which neighbours in the order of rows are the nearest that the tree allows
COMPARED = 1 << 31  # shares of all pairs of kernels that D compares, some seconds: more are sampled
LEAST_CELLS = 256  # of a pair: the standard error of D is 0.5/√256 at most
AT_A_TIME = 512  # cells of all kernels: they stay in the processor's cache


@dataclass(frozen=True)
class Occurrence:
    """How often the kernels of a layer fired.

    counts   images of class c whose activation of kernel k is > 0 there, [k, c, *positions]
    samples  images of each class, [c]
    classes  their names
    fires    whether kernel k fires for image n at the p-th of PLACES drawn positions, [n, p, k], or None
    """

    layer: str
    counts: I64
    samples: I64
    classes: tuple[str, ...]
    fires: Bool | None = None

    @property
    def seen(self) -> Bool:
        """Classes with samples, [c]."""
        return self.samples > 0

    @property
    def unseen(self) -> tuple[str, ...]:
        """Names of classes without any, whose maps are blank."""
        return tuple(n for n, is_seen in zip(self.classes, self.seen, strict=True) if not is_seen)

    def part(self, kernels: I64) -> Occurrence:
        """Some of the kernels."""
        fires = None if self.fires is None else self.fires[..., kernels]
        return replace(self, counts=self.counts[kernels], fires=fires)


# ---- the equations ---------------------------------------------------------------------------------------------------
def maps(o: Occurrence) -> F64:
    """M: the share of the images of class c for which kernel k fires there, [k, c, *positions] (Garcia et al., eq. 1).

    nan for a class without samples.
    """
    number = o.samples.reshape(1, -1, *(1,) * (o.counts.ndim - 2))
    return np.divide(o.counts, number, out=np.full(o.counts.shape, np.nan), where=number > 0)


def differences(o: Occurrence) -> F64:
    """D: mean |M of one kernel − M of another| over classes and positions, [k, k] in 0..1 (Garcia et al., eq. 2).

    The mean is over `compared` cells: where these are not all, D is an estimate of standard error 0.5/√n at most.
    """
    from scipy.spatial.distance import squareform

    k = len(o.counts)
    return squareform(apart(o))[:k, :k]  # which takes no pairs for one kernel


def apart(o: Occurrence) -> F64:
    """D of each pair of kernels, [k (k − 1) / 2]."""
    from scipy.spatial.distance import pdist

    (some, every), k = compared(o), len(o.counts)
    picked = np.sort(np.random.default_rng(0).choice(every, some, replace=False)) if some < every else np.arange(every)
    samples = np.repeat(o.samples[o.seen], every // max(int(o.seen.sum()), 1))
    counts, found = o.counts[:, o.seen].reshape(k, every), np.zeros(k * (k - 1) // 2)
    for start in range(0, some if k > 1 else 0, AT_A_TIME):
        part = picked[start : start + AT_A_TIME]
        found += pdist(np.divide(counts[:, part], samples[part], order="C"), "cityblock")
    return found / some


def compared(o: Occurrence) -> tuple[int, int]:
    """(cells that D is a mean over, all cells); a cell is a position and a class with samples."""
    k, cells = len(o.counts), int(o.seen.sum()) * math.prod(o.counts.shape[2:])
    return min(cells, max(COMPARED // max(k * (k - 1) // 2, 1), LEAST_CELLS)), cells


def estimated(o: Occurrence) -> str:
    """What D is estimated from; "" where it is exact."""
    some, every = compared(o)
    return f"D is estimated from {some:,} of {every:,} places and classes" if some < every else ""


def class_selectivity(o: Occurrence) -> F64:
    """S: mean over the other classes d of M^c − M^d, [k, c, *positions] in −1..1 (Garcia et al., eq. 3).

    Sums to 0 over classes; nan for a class without samples. Raises UsageError where fewer than two have samples.
    """
    m, classes = maps(o), int(o.seen.sum())
    if classes < 2:
        raise UsageError(
            f"selectivity compares classes, and {classes} of the samples' has any",
            way_out="Give samples of two or more",
        )
    total = m[:, o.seen].sum(axis=1, keepdims=True)
    return (classes * m - total) / (classes - 1)


def kernel_selectivity(o: Occurrence) -> F64:
    """s: Σ over ordered pairs of classes of |mean S of one − mean S of the other|, [k] (Garcia et al., eq. 4)."""
    means = maps(o)[:, o.seen].reshape(len(o.counts), int(o.seen.sum()), -1).mean(axis=2)
    return selective(means.T)


def row_order(o: Occurrence) -> I64:
    """Kernels so that those which fire alike are neighbours: average linkage of D, [k]."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    k = len(o.counts)
    if k < 3:
        return np.arange(k)
    tree = linkage(apart(o), "average", optimal_ordering=k <= ORDERLY)
    return leaves_list(tree).astype(np.int64)


# ---- counting --------------------------------------------------------------------------------------------------------
def occurrences(
    model: Model,
    data: Samples,
    layers: Sequence[str],
    threads: int = 1,
    *,
    at_once: int = AT_ONCE,
    progress: Progress = lambda stage, done, total: None,
) -> list[Occurrence]:
    """How often the kernels of these layers fire for the images of each class: one pass over the data.

    layers   values where layers are seen to fire, or names of layers
    at_once  bytes of activations that one run may take

    Raises UsageError where the data has no labels or there is no such layer, Unsupported for maps that are too large.
    """
    if data.labels is None:
        raise UsageError(
            f"{data.name} has no labels, and occurrence maps are of classes",
            way_out="Give a folder for each class, a .csv of file,label, or an .npz with y",
        )
    found = [activation_of(model, name) for name in layers]
    names = class_names(model, data)
    values = {str(v.name): v for n in model.graph for v in n.outputs}
    check_size(found, values, len(names))
    if not found:
        return []
    read = [values[a.value] for a in found]
    watched = [places(v, a.axis) for v, a in zip(read, found, strict=True)]
    sums, fires = counted(model, data, read, watched, len(names), threads, at_once, progress)
    samples = np.bincount(data.labels, minlength=len(names))
    return [
        Occurrence(a.layer, by_kernel(sums[i], read[i], a.axis), samples, names, fires[i]) for i, a in enumerate(found)
    ]


def places(value: ir.Value, axis: int) -> I64:
    """Entries of a sample that belong to a few drawn positions, [p, k]."""
    every = by_kernel(np.arange(entries(value))[None], value, axis).reshape(dims(value)[axis], -1)
    some = np.random.default_rng(0).choice(every.shape[1], min(PLACES, every.shape[1]), replace=False)
    return every[:, np.sort(some)].T


def entries(value: ir.Value) -> int:
    """Of one sample."""
    return abs(math.prod(dims(value)))


def class_names(model: Model, data: Samples) -> tuple[str, ...]:
    """Of the network's classes, or of those that the data has where it is no classifier."""
    assert data.labels is not None
    few = 0 if no_scores(model.graph.outputs) else dims(model.graph.outputs[0])[1]
    most = max(few, len(data.classes), int(data.labels.max(initial=-1)) + 1)
    return tuple(data.classes[k] if k < len(data.classes) else str(k) for k in range(most))


def check_size(found: Sequence[Activation], values: Mapping[str, ir.Value], classes: int) -> None:
    """Raise Unsupported for maps that would not fit into memory."""
    sizes = [8 * classes * entries(values[a.value]) for a in found]
    if sum(sizes) > MOST:
        largest = found[sizes.index(max(sizes))]
        raise Unsupported(
            f"occurrence maps of {len(found)} layers for {classes} classes take {sum(sizes) / 1e9:.1f} GB, "
            f"the most of them those of '{largest.layer}' {values[largest.value].shape}",
            way_out="Name fewer with --layers",
        )


def counted(
    model: Model,
    data: Samples,
    values: Sequence[ir.Value],
    watched: Sequence[I64],
    classes: int,
    threads: int,
    at_once: int,
    progress: Progress,
) -> tuple[list[I64], list[Bool]]:
    """Images of each class for which each entry is > 0, [classes, entries of a sample] for each value.

    watched  of each value entries [p, k] of which it is told, too, for which images that is, [n, p, k]
    """
    assert data.labels is not None
    runner = session(counting(model, values, watched, classes), threads)
    n, is_free = len(data), model.batch == "free"
    size = max(1, min(at_once // (4 * sum(map(entries, values))), n, IMAGES)) if is_free else int(model.batch)
    totals = [np.zeros((classes, entries(v)), np.int64) for v in values]
    fires = [np.zeros((n, *some.shape), np.bool_) for some in watched]
    for start in range(0, n, size):
        pick = np.arange(start, min(start + size, n))
        one_hot = np.zeros((classes, len(pick) if is_free else size), np.float32)
        one_hot[data.labels[pick], np.arange(len(pick))] = 1
        filled = np.resize(pick, one_hot.shape[1])  # a fixed batch is filled up with samples that count for no class
        part = run(runner, {k: v[filled] for k, v in data.inputs.items()} | {LABELS: one_hot})
        for total, fired, count, seen in zip(totals, fires, part[::2], part[1::2], strict=True):
            total += count.astype(np.int64)  # float32 is exact up to 2²⁴ images
            fired[pick] = seen[: len(pick)]
        progress("occurrence", int(pick[-1]) + 1, n)
    return totals, fires


LABELS = f"{PREFIX}one-hot"


def counting(model: Model, values: Sequence[ir.Value], watched: Sequence[I64], classes: int) -> ir.Model:
    """A graph with two outputs for each value.

    One-hot classes [classes, N] times value > 0 [N, entries of a sample]; and of the right factor the entries that are
    watched, [N, p, k].
    """
    graph = with_outputs(model.ir, [str(v.name) for v in values])
    made = list(graph.graph.outputs)
    batch = BATCH if model.batch == "free" else int(model.batch)
    one_hot = ir.Value(name=LABELS, shape=ir.Shape([classes, batch]), type=ir.TensorType(ir.DataType.FLOAT))
    graph.graph.inputs.append(one_hot)
    graph.graph.outputs.clear()
    for i, (value, read, some) in enumerate(zip(made, values, watched, strict=True)):
        size = entries(read)
        held = {"zero": np.zeros((), read.dtype.numpy() if read.dtype else np.float32), "flat": np.array([-1, size])}
        zero, flat, columns = (
            parameter(f"{PREFIX}occurrence{i}/{k}", v) for k, v in (held | {"columns": some}).items()
        )
        graph.graph.initializers.update({str(v.name): v for v in (zero, flat, columns)})
        order = (axis := along_batch(read), *(a for a in range(len(dims(read))) if a != axis))
        first = ir.node("Transpose", [value], attributes={"perm": order})
        fires = ir.node("Greater", [first.outputs[0], zero])
        rows = ir.node("Reshape", [fires.outputs[0], flat])
        number = ir.node("Cast", [rows.outputs[0]], attributes={"to": ir.DataType.FLOAT.value})
        total = ir.node("MatMul", [one_hot, number.outputs[0]])
        total.outputs[0].name = f"{PREFIX}occurrence{i}"
        total.outputs[0].type, total.outputs[0].shape = one_hot.type, ir.Shape([classes, size])
        seen = ir.node("Gather", [rows.outputs[0], columns], attributes={"axis": 1})
        seen.outputs[0].name = f"{PREFIX}fires{i}"
        seen.outputs[0].type, seen.outputs[0].shape = ir.TensorType(ir.DataType.BOOL), ir.Shape([batch, *some.shape])
        graph.graph.extend([first, fires, rows, number, total, seen])
        graph.graph.outputs.extend([total.outputs[0], seen.outputs[0]])
    return graph


def by_kernel(total: I64, value: ir.Value, axis: int) -> I64:
    """Counts [classes, entries of a sample] as [k, classes, *positions]; rows of a sample are positions too."""
    batch, sizes = along_batch(value), list(dims(value))
    rows = per_sample(value)
    del sizes[batch]
    laid = total.reshape(len(total), *([rows] if rows > 1 else []), *sizes)
    place = (axis if axis < batch else axis - 1) + (1 if rows > 1 else 0) + 1
    return np.ascontiguousarray(np.moveaxis(laid, place, 0))
