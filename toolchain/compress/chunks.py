"""How an attribution runs: how many samples at a time fit the memory, where chunks run, and what is kept of them.

Chunks are merged in their order, whatever finished first: the result is the serial one to the last bit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from targets.agent import reset_peak, status_bytes
from targets.memory import memory_bytes
from toolchain.arrays import read_arrays
from toolchain.compress.region import Nodes, Part, Region, chunk
from toolchain.compress.sums import Attribution
from toolchain.errors import BadInput, RunnerFailed
from toolchain.files import write_atomic

LEAST_ROWS = 128  # of one run: below it the matrix products starve (27 GFLOP/s at 8 rows, 130 at 400)
MOST_ROWS = 1024  # beyond which more only take memory
MOST_SAMPLES = 64  # of one run: what is outside the integral runs once for each sample
SAVED_EVERY = 5.0  # seconds
T = TypeVar("T")
R = TypeVar("R")


def parts(samples: Part, size: int, skip: int = 0) -> Iterator[Part]:
    """The samples, `size` at a time, without the first `skip` of those parts."""
    for start in range(skip * size, len(samples.labels), size):
        some = slice(start, start + size)
        yield Part({k: v[some] for k, v in samples.inputs.items()}, samples.labels[some], start)


# ---- memory --------------------------------------------------------------------------------------------------------
def fitting(region: Region, samples: Part, nodes: Nodes, max_memory: int, at_once: int) -> tuple[int, str]:
    """Samples of one run that keep the process within `max_memory` bytes, and what to say where that costs time.

    Memory is measured, not modelled: runs of one and of two samples tell what a further one takes.
    at_once  runs that share the memory
    """
    steps, n = len(nodes[0]), len(samples.labels)
    enough = min(-(-LEAST_ROWS // steps), n)
    most = min(max(enough, min(MOST_SAMPLES, MOST_ROWS // steps)), n)
    before = status_bytes("VmRSS")
    if before is None or n < 2:  # no such measure on this system
        return most, ""
    peak_of = lambda size: peak(lambda: chunk(region, nodes, next(parts(samples, size))))
    one = peak_of(1)
    room = (max_memory - before) // at_once - (one - before)
    if room < 0:
        least = before + at_once * (one - before)
        return 1, f"one sample a run takes {least / 2**20:,.0f} MiB, more than --max-memory"
    each = max(peak_of(2) - one, 1)
    size = max(1, min(1 + room // each, most))
    if size >= enough:
        return size, ""
    needed = before + at_once * (one - before + (enough - 1) * each)
    return size, f"{size} of {enough} samples a run fit --max-memory; {needed / 2**20:,.0f} MiB would be faster"


def half_of_the_memory() -> int:
    """Bytes: of this computer, or of what its control group may take."""
    return memory_bytes() // 2


def peak(function: Callable[[], object]) -> int:
    """Highest resident bytes of the process while it runs."""
    reset_peak()
    function()
    return status_bytes("VmHWM") or 0


# ---- where chunks run ----------------------------------------------------------------------------------------------
def in_order(function: Callable[[T], R], items: Iterable[T], executor: Executor | None, in_flight: int) -> Iterator[R]:
    """function(item) for each, in the order of the items, some of them at a time."""
    if executor is None:
        yield from map(function, items)
        return
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) >= in_flight:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenExecutor as error:
        raise RunnerFailed(
            f"a worker process died: {error}", way_out="Run again: it goes on from the last chunk that was finished"
        ) from error
    finally:
        for future in waiting:
            future.cancel()


# ---- what is kept --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Kept:
    """Sums over the first `done` chunks of `size` samples."""

    sums: Attribution
    done: int
    size: int


@dataclass
class Record:
    """A file that holds the progress of one cut; a run that was stopped goes on from there.

    key  of all that decides the result; a record of anything else is not looked at
    """

    path: Path
    key: str
    written: float = 0.0

    def read(self) -> Kept | None:
        """What an earlier run left; None where there is none, or it belongs to something else."""
        if not self.path.is_file():
            return None
        try:
            held = read_arrays(self.path, "a record", "")
        except BadInput:
            return None
        if str(held.pop("key", "")) != self.key:
            return None
        done, size = int(held.pop("done")), int(held.pop("size"))
        plain: dict[str, Any] = {k: v.item() if v.ndim == 0 else v for k, v in held.items()}
        return Kept(Attribution(**plain), done, size)

    def write(self, kept: Kept, at_last: bool) -> None:
        """Keep it, unless that was done a moment ago."""
        if not at_last and time.monotonic() - self.written < SAVED_EVERY:
            return
        arrays = dataclasses.asdict(kept.sums) | {"done": kept.done, "size": kept.size, "key": self.key}
        write_atomic(self.path, lambda file: np.savez(file, **arrays))
        self.written = time.monotonic()


def key_of(what: Iterable[Any]) -> str:
    """SHA-256 of arrays, bytes and plain values, one after another."""
    digest = hashlib.sha256()
    for one in what:
        if isinstance(one, np.ndarray):
            digest.update(repr((one.dtype, one.shape)).encode())
            digest.update(np.ascontiguousarray(one).data)
        else:
            digest.update(one if isinstance(one, bytes) else repr(one).encode())
    return digest.hexdigest()
