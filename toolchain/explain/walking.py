"""The answers of a network along a path: at every step more of its units are masked.

What is before the masks runs once for each sample; behind the mask of a dense layer many steps run at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.compress.groups import Channels
from toolchain.explain.masking import Masked, Straight
from toolchain.ops.units import Ids
from toolchain.session import run

F32 = NDArray[np.float32]
FEWEST = 20  # steps of a path, whatever they cost
CACHE = 1 << 18  # bytes of z that are updated in the processor's cache, four times as fast as in memory
REST_ROWS = 512  # of z that go through the rest at once
ANEW = 512  # steps after which z is computed anew, so that rounding does not pile up


@dataclass(frozen=True)
class Path:
    """Units that go one after another: at step s the first counts[g][s] of orders[g] are masked, of every group g.

    orders  {group: its units, [u]}
    counts  {group: rising, [S]}
    """

    orders: Mapping[str, Ids]
    counts: Mapping[str, NDArray[np.int64]]

    @property
    def steps(self) -> int:
        """S."""
        return len(next(iter(self.counts.values())))


def gone_at(channels: Channels, path: Path) -> Ids:
    """The step at which each label goes, its places behind a flatten along with a channel; S for what stays."""
    at = np.full(len(channels.labels.root), path.steps)
    for name, order in path.orders.items():
        at[channels.group(name).units[order]] = np.searchsorted(path.counts[name], np.arange(len(order)), side="right")
    for _, outer, inner in channels.labels.nests:
        places = channels.labels.root[inner]
        np.minimum.at(at, places, at[channels.labels.root[outer]][:, None])
    return at


def answers(
    network: Masked,
    inputs: Mapping[str, F32],
    path: Path,
    max_memory: int = 1 << 28,
) -> Iterator[tuple[int, slice, F32]]:
    """(step, samples, answers [n, classes]) for every step and part of the samples."""
    for part, cached in cached_parts(network, inputs, max_memory):
        for step, y in walked(network, cached, gone_at(network.channels, path), path.steps):
            yield step, part, y


def predicted(
    network: Masked,
    inputs: Mapping[str, F32],
    paths: Sequence[Path],
    max_memory: int = 1 << 28,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[NDArray[np.int64]]:
    """The class that each sample is taken for at each step of each path, [S, n] each.

    inputs      {name: [n, *s]}
    max_memory  bytes that values kept between steps, and those of one run, may take each
    """
    n = len(next(iter(inputs.values())))
    found = [np.empty((p.steps, n), np.int64) for p in paths]
    total, done = n * sum(p.steps for p in paths), 0
    for part, cached in cached_parts(network, inputs, max_memory):
        for path, classes in zip(paths, found, strict=True):
            for step, y in walked(network, cached, gone_at(network.channels, path), path.steps):
                classes[step, part] = y.reshape(len(y), -1).argmax(axis=1)
                done += len(y)
                progress(done, total)
    return found


def cached_parts(
    network: Masked, inputs: Mapping[str, F32], max_memory: int
) -> Iterator[tuple[slice, dict[str, NDArray[Any]]]]:
    """What is before the masks, for as many samples at a time as memory allows."""
    n = len(next(iter(inputs.values())))
    kept = run(network.head, {k: v[:1] for k, v in inputs.items()})
    size = max_memory // max(sum(a.nbytes for a in kept) + network.row_bytes, 1)
    if network.straight is not None:
        size = min(size, CACHE // (4 * network.straight.weights.shape[1]))
    size = max(1, min(n, size))
    for start in range(0, n, size):
        found = run(network.head, {k: v[start : start + size] for k, v in inputs.items()})
        yield slice(start, min(start + size, n)), dict(zip(network.cached, found, strict=True))


def walked(network: Masked, cached: dict[str, NDArray[Any]], gone: Ids, steps: int) -> Iterator[tuple[int, F32]]:
    """(step, answers) for the samples of one part."""
    whens = [gone[network.channels.labels.of(m.value, m.axis)] for m in network.masks]
    if network.straight is not None:
        (h,) = cached.values()
        yield from along(network, network.straight, h, whens[0], steps)
        return
    pairs = list(zip(network.masks, whens, strict=True))
    for step in range(steps):
        feed = {m.name: (when > step).astype(np.float32).reshape(m.shape) for m, when in pairs}
        yield step, run(network.tail, cached | feed)[0]


def along(network: Masked, straight: Straight, h: F32, when: Ids, steps: int) -> Iterator[tuple[int, F32]]:
    """(step, answers): z is updated from step to step, and many steps go through the rest at once."""
    (mask,), n = network.masks, len(h)
    order = np.argsort(when, kind="stable")
    ends = np.searchsorted(when[order], np.arange(steps + 1))
    name = straight.affine.get_inputs()[0].name
    rows = np.empty((max(1, REST_ROWS // n), n, straight.weights.shape[1]), np.float32)
    z, first = rows[0], 0
    for step in range(steps):
        if step % ANEW == 0:
            kept = (when >= step).astype(np.float32).reshape(mask.shape)
            (z,) = run(straight.affine, {name: h, mask.name: kept})
        going = order[ends[step] : ends[step + 1]]
        z = np.subtract(z, going_brings(h[:, going], straight.weights[going]), out=rows[step - first])
        if step + 1 == min(first + len(rows), steps):
            y = rows[: step + 1 - first].reshape(-1, rows.shape[2])
            if straight.rest is not None:
                (y,) = straight.rest.run(None, {straight.rest.get_inputs()[0].name: y})
            yield from enumerate(np.split(np.array(y), step + 1 - first), first)
            first = step + 1


def going_brings(h: F32, weights: F32) -> F32:
    """h [n, units] times W [units, width]; one unit alone without a matrix product, which takes four times as long."""
    return h * weights if len(weights) == 1 else h @ weights


def stride_of(work: int, units: int, samples: int, most: float) -> int:
    """Units between two steps, so that a path over all of them takes `most` of work, or FEWEST steps."""
    steps = min(units, max(FEWEST, int(most // max(work * samples, 1))))
    return -(-units // steps)
