"""Expected attributions of the units of a layer (Lundstrom et al. 2022, eq. 2-6), streamed over samples.

A_ij = h_i ∫₀¹ ∂F_j(αh)/∂h_i dα, summed over the samples of each true class: see `sums` for what is read off the sums,
`gradient` for the graph that computes A, `schedule` for where and in what portions it runs.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from targets.locks import scratch
from toolchain.compress.chunks import Kept, Record, fitting, half_of_the_memory, in_order, key_of, parts
from toolchain.compress.objective import Deviation, objective_of
from toolchain.compress.region import Nodes, Part, Recipe, Region, chunk, region_of
from toolchain.compress.sums import Attribution as Attribution
from toolchain.errors import Unsupported
from toolchain.files import write_atomic
from toolchain.model import Model
from toolchain.onnx_file import pieces

MOST_NODES = 1024
PILOT = 32  # samples on which the number of nodes is chosen
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Workers:
    """Where chunks run: in this thread without an executor.

    executor  any of concurrent.futures; one that is no ThreadPoolExecutor gets the network as a file in `folder`
    count     chunks that run at a time
    folder    keeps the sums of finished chunks, so that a stopped ranking goes on; a cluster's workers must see it
    """

    executor: Executor | None = None
    count: int = 1
    folder: Path | None = None

    @property
    def in_flight(self) -> int:
        """Chunks handed out at a time: one in work and one waiting for each worker."""
        return 2 * self.count

    @property
    def shares_memory(self) -> bool:
        """Whether the workers are threads of this process."""
        return self.executor is None or isinstance(self.executor, ThreadPoolExecutor)


def quadrature(steps: int) -> Nodes:
    """Gauss-Legendre nodes in t with α = t², and weights for dα = 2t dt, [A] each; exact for degree A − 1 in α.

    A softmax saturates along the ray, so that most of the change lies near α = 0; the square moves nodes there. On a
    network with logits of several hundred 32 such nodes do what 256 equal to them in α do, elsewhere both are alike.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    t = (nodes + 1) / 2
    return (t * t).astype(np.float32), (t * weights).astype(np.float32)


def attribute(
    model: Model,
    cuts: Sequence[tuple[str, int]],
    inputs: Mapping[str, NDArray[np.float32]],
    labels: NDArray[np.int64],
    *,
    target: str | None = None,
    steps: int = 16,
    tolerance: float = 0.02,
    at_h_only: bool = False,
    differences: bool = False,
    threads: int = 1,
    max_memory: int | None = None,
    workers: Workers = Workers(),
    progress: Progress = lambda stage, done, total: None,
) -> list[Attribution]:
    """Attributions at each cut (value, unit axis), in the order of `cuts`.

    inputs       {name: [n, *s]}
    labels       true classes [n]; not looked at where the network has none
    target       "loss", "classes" (then the loss) or "answer"; by default the loss of class scores, else the answer
    steps        nodes to begin with; doubled while the completeness gap of a pilot exceeds `tolerance`
    at_h_only    the gradient at h times h instead of the integral: first-order Taylor (Molchanov et al. 2019)
    differences  finite differences even where the gradient graph can be had
    max_memory   resident bytes that the process is to keep to (each, where workers are processes); half of this
                 computer's by default

    Raises Unsupported where an op has no gradient rule and finite differences would take too long, or the model cannot
    run at any batch; BadInput where an activation is not finite; RunnerFailed where a worker process dies.
    """
    if model.batch != "free":
        raise Unsupported(
            f"the graph runs at batch {model.batch} only, so it cannot be ranked by gradients: {model.held_by}",
            way_out="Use --criterion magnitude",
        )
    if isinstance(objective_of(model, target), Deviation):
        if at_h_only:
            raise Unsupported(
                "the deviation from the network's own answer has no slope at h: a Taylor expansion says nothing",
                way_out="Use --criterion ig",
            )
        labels = np.zeros_like(labels)
    samples = Part(inputs, labels)
    with handed_over(model, workers) as (path, sha256):
        about = "" if workers.folder is None else key_of(chain((labels, *inputs, *inputs.values()), pieces(model.ir)))
        found = []
        for number, (cut, axis) in enumerate(cuts):
            recipe = Recipe(cut, axis, target, differences, threads, path, sha256)
            region = region_of(model, recipe)
            key = key_of(("squared", about, cut, axis, target, differences, steps, tolerance, at_h_only))
            record = None if workers.folder is None else Record(workers.folder / f"cut{number}.npz", key)
            at_once = workers.count if workers.shares_memory else 1
            settings = Settings(steps, tolerance, at_h_only, max_memory or half_of_the_memory(), at_once)
            advance = lambda d, t, n=number, c=cut: progress(c, n * t + d, len(cuts) * t)
            found.append(swept(region, samples, settings, workers, record, advance))
        return found


@contextlib.contextmanager
def handed_over(model: Model, workers: Workers) -> Iterator[tuple[str, str]]:
    """The network as a file for workers that do not share this process's memory, and its SHA-256; else two ''."""
    if workers.shares_memory:
        yield "", ""
        return
    with contextlib.ExitStack() as stack:
        folder = workers.folder or stack.enter_context(scratch())
        path, digest = folder / "network.onnx", hashlib.sha256()
        for piece in pieces(model.ir):
            digest.update(piece)
        write_atomic(path, lambda file: file.writelines(pieces(model.ir)))
        yield str(path.resolve()), digest.hexdigest()


@dataclass(frozen=True)
class Settings:
    """What decides how a region is run: see `attribute`; `at_once` runs share the memory."""

    steps: int
    tolerance: float
    at_h_only: bool
    max_memory: int
    at_once: int

    def nodes(self, steps: int) -> Nodes:
        """The quadrature of so many nodes."""
        return (np.ones(1, np.float32), np.ones(1, np.float32)) if self.at_h_only else quadrature(steps)


def chosen(region: Region, samples: Part, settings: Settings) -> tuple[int, int, str]:
    """(nodes, samples of one run, what there is to say about them).

    The nodes are the smallest doubling of `steps` whose completeness gap on a pilot is within tolerance, 1024 at most.
    """
    n, steps = len(samples.labels), 1 if settings.at_h_only else settings.steps
    pick = np.linspace(0, n - 1, min(PILOT, n)).astype(int)
    pilot = Part({k: v[pick] for k, v in samples.inputs.items()}, samples.labels[pick])
    while True:
        nodes = settings.nodes(steps)
        size, note = fitting(region, samples, nodes, settings.max_memory, settings.at_once)
        if settings.at_h_only or settings.tolerance == np.inf or 2 * steps > MOST_NODES:
            return steps, size, note
        found = [chunk(region, nodes, part) for part in parts(pilot, size)]
        if reduce(Attribution.merged, found).gap <= settings.tolerance:
            return steps, size, note
        steps *= 2


def swept(
    region: Region,
    samples: Part,
    settings: Settings,
    workers: Workers,
    record: Record | None,
    progress: Callable[[int, int], None],
) -> Attribution:
    """Merge the chunks of all samples, from behind the last one that a record holds."""
    n, total, done = len(samples.labels), None, 0
    kept = None if record is None else record.read()
    if kept is None:
        steps, size, note = chosen(region, samples, settings)
    else:
        total, done, size, steps, note = kept.sums, kept.done, kept.size, kept.sums.steps, kept.sums.note
        note = "; ".join(t for t in (note, f"went on after {min(done * size, n)} of {n} samples") if t)
    work = partial(chunk, region, settings.nodes(steps))
    for one in in_order(work, parts(samples, size, done), workers.executor, workers.in_flight):
        total = one if total is None else total.merged(one)
        done += 1
        if record is not None:
            record.write(Kept(total, done, size), at_last=done * size >= n)
        progress(min(done * size, n), n)
    assert total is not None
    return replace(total, per_run=size, note=note)
