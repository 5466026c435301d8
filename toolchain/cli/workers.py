"""Where a ranking runs: threads or processes of this computer, or a dask cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.cli.options import results_in
from toolchain.errors import RunnerFailed, UsageError, nearest

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from toolchain.compress.attribution import Workers


@contextmanager
def opened(where: str, count: int | None, folder: Path) -> Iterator[Workers]:
    """The workers of `--executor`; `folder` keeps what is finished, and is gone when all of it is.

    Raises UsageError for an executor that there is not, RunnerFailed for a cluster that does not answer or gives up.
    """
    from toolchain.compress.attribution import Workers

    kind, _, address = where.partition(":")
    if kind and kind not in EXECUTORS:
        raise UsageError(f"there is no executor '{kind}'", way_out=nearest(kind, EXECUTORS))
    with results_in(folder):
        try:
            if not kind:
                yield Workers(folder=folder)
            else:
                with EXECUTORS[kind](address, count) as (executor, found):
                    yield Workers(executor, found, folder)
            for file in (*folder.glob("cut*.npz"), *folder.glob(".*.tmp")):
                file.unlink()
        finally:  # what was stopped finds its sums again; a mistake leaves nothing
            (folder / "network.onnx").unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()


@contextmanager
def threads(address: str, count: int | None) -> Iterator[tuple[Executor, int]]:
    """Threads of this process: one copy of the network, each run on one core."""
    from concurrent.futures import ThreadPoolExecutor

    workers = count or os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as executor:
        yield executor, workers


@contextmanager
def processes(address: str, count: int | None) -> Iterator[tuple[Executor, int]]:
    """Processes of this computer, begun afresh: onnxruntime's threads do not survive a fork."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    workers = count or os.cpu_count() or 1
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
        yield executor, workers


@contextmanager
def dask(address: str, count: int | None) -> Iterator[tuple[Executor, int]]:
    """The workers of a running scheduler; it hands a dead worker's chunks to the others."""
    if not address:
        raise UsageError("which scheduler?", way_out="Write --executor dask:tcp://HOST:8786")
    try:
        from distributed import Client
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise UsageError("dask is not installed", way_out="Run pip install 'jettison[cluster]'") from error
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise RunnerFailed(
            "no dask scheduler answers", address, "Start one with dask scheduler, and dask worker on each computer"
        ) from error
    with client:
        threads_of: Any = client.nthreads()  # a coroutine in asynchronous clients only
        found = count or sum(threads_of.values())
        if not found:
            raise RunnerFailed("the scheduler has no workers", address, f"Start some with dask worker {address}")
        try:
            yield client.get_executor(), found
        except KilledWorker as error:
            raise RunnerFailed(
                "every worker that took a chunk died", address, "Give them more memory, or a lower --max-memory"
            ) from error


Opener = Callable[[str, int | None], AbstractContextManager[tuple["Executor", int]]]
EXECUTORS: dict[str, Opener] = {"threads": threads, "processes": processes, "dask": dask}
