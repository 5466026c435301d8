"""Chunks give the serial result wherever and however often they run; a stopped ranking goes on where it was."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compress.networks import network, samples
from compress.test_attribution import cuts_of, labels_of

from toolchain.compress import attribution, chunks
from toolchain.compress.attribution import Attribution, Workers, attribute
from toolchain.compress.chunks import fitting, in_order, parts
from toolchain.compress.region import Part, Recipe, region_of
from toolchain.errors import BadInput, RunnerFailed
from toolchain.model import Model

N = 23


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MOST_SAMPLES", 4)
    monkeypatch.setattr(chunks, "LEAST_ROWS", 16)
    monkeypatch.setattr(chunks, "SAVED_EVERY", 0.0)


ALONE = Workers()


def ranked(workers: Workers = ALONE, name: str = "residual", **more: Any) -> list[Attribution]:
    model = network(name)
    return attribute(
        model,
        cuts_of(model)[:2],
        samples(model.inputs, N),
        labels_of(model, N),
        target="classes",
        steps=8,
        tolerance=np.inf,
        workers=workers,
        **more,
    )


def assert_same(found: list[Attribution], wanted: list[Attribution]) -> None:
    """To the last bit, but for what is said about the run."""
    for a, b in zip(found, wanted, strict=True):
        first, second = (dataclasses.asdict(dataclasses.replace(x, note="")) for x in (a, b))
        for key, value in first.items():
            np.testing.assert_array_equal(value, second[key], err_msg=key)


class Shuffled(Executor):
    """Finishes what it was given last before what it was given first."""

    def __init__(self) -> None:
        self.stack: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.order: list[int] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.stack.append((future, lambda: fn(*args, **kwargs)))
        if len(self.stack) == 3:
            threading.Timer(0.01, self.finish, [self.stack]).start()
            self.stack = []
        return future

    def finish(self, stack: list[tuple[Future[Any], Callable[[], Any]]]) -> None:
        for future, work in reversed(stack):
            result = work()
            self.order.append(result)
            future.set_result(result)


def test_results_come_in_the_order_of_the_items_whatever_finished_first() -> None:
    executor = Shuffled()
    assert list(in_order(lambda x: x, range(12), executor, 3)) == list(range(12))
    assert executor.order != list(range(12))


def test_threads_give_the_serial_result() -> None:
    with ThreadPoolExecutor(3) as executor:
        assert_same(ranked(Workers(executor, 3)), ranked())


def test_processes_give_the_serial_result_of_a_network_that_was_never_a_file(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        assert_same(ranked(Workers(executor, 2)), ranked())
        assert_same(ranked(Workers(executor, 2, tmp_path), name="two_inputs"), ranked(name="two_inputs"))


def test_an_error_in_a_worker_is_the_users_to_read() -> None:
    model = network("mlp")
    inputs = {"x": np.full((6, *model.inputs["x"]), 1.0, np.float32)}
    inputs["x"][5, 2] = np.nan
    for executor in (None, ThreadPoolExecutor(2), ProcessPoolExecutor(1, mp_context=get_context("spawn"))):
        with pytest.raises(BadInput, match="sample 5 makes 'relu1' not a number"):
            attribute(model, [("relu1", 1)], inputs, labels_of(model, 6), workers=Workers(executor, 2))
        if executor is not None:
            executor.shutdown()


# ---- stopped -------------------------------------------------------------------------------------------------------
class Stop(Exception):
    """The user's Ctrl-C."""


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """First samples of the chunks that were merged."""
    seen: list[int] = []
    plain = attribution.in_order

    def counting(function: Any, items: Any, *more: Any) -> Any:
        def each() -> Iterator[Part]:
            for part in items:
                seen.append(part.first)
                yield part

        return plain(function, each(), *more)

    monkeypatch.setattr(attribution, "in_order", counting)
    yield seen


@pytest.mark.parametrize("after", [1, 4, 8])
def test_a_stopped_ranking_goes_on_from_its_last_finished_chunk(after: int, counted: list[int], tmp_path: Path) -> None:
    wanted = ranked()
    chunks = -(-N // 4)
    counted.clear()
    calls = 0

    def stop(cut: str, done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise Stop

    with pytest.raises(Stop):
        ranked(Workers(folder=tmp_path), progress=stop)
    first = len(counted)
    assert first == after
    found = ranked(Workers(folder=tmp_path))
    assert len(counted) == 2 * chunks, "a chunk was lost or ran twice"
    assert_same(found, wanted)
    assert any("went on after" in a.note for a in found)
    assert_same(ranked(Workers(folder=tmp_path)), wanted)
    assert len(counted) == 2 * chunks, "all of it was kept"


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no archive", None])
def test_a_record_of_something_else_or_a_damaged_one_is_not_used(damage: bytes | None, tmp_path: Path) -> None:
    other = ranked(Workers(folder=tmp_path), name="separable")
    if damage is not None:
        for file in tmp_path.iterdir():
            file.write_bytes(damage)
    assert_same(ranked(Workers(folder=tmp_path)), ranked())
    assert other[0].cut in dict(cuts_of(network("separable")))


def test_a_dead_worker_process_is_told_and_the_next_run_goes_on(tmp_path: Path) -> None:
    executor = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def kill(cut: str, done: int, total: int) -> None:
        for pid in list(executor._processes):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)

    with pytest.raises(RunnerFailed, match=r"a worker process died.*Run again"):
        ranked(Workers(executor, 1, tmp_path), progress=kill)
    executor.shutdown()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        found = ranked(Workers(fresh, 1, tmp_path))
    assert "went on after" in found[0].note
    assert_same(found, ranked())


def test_a_cluster_that_loses_a_worker_gives_the_serial_result(tmp_path: Path) -> None:
    """A scheduler and two worker processes of dask; one is killed in the middle."""
    distributed = pytest.importorskip("distributed", reason="the cluster extra is not installed")
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with (
        distributed.LocalCluster(**settings, local_directory=str(tmp_path / "dask")) as cluster,
        distributed.Client(cluster) as client,
    ):
        killed: list[int] = []

        def kill(cut: str, done: int, total: int) -> None:
            if not killed:
                worker = next(iter(cluster.workers.values()))
                killed.append(worker.pid)
                os.kill(worker.pid, signal.SIGKILL)

        found = ranked(Workers(client.get_executor(), 2, tmp_path), progress=kill)
        assert killed
        assert_same(found, ranked())


# ---- memory --------------------------------------------------------------------------------------------------------
def region_and_samples(model: Model) -> tuple[Any, Part]:
    cut, axis = cuts_of(model)[0]
    return region_of(model, Recipe(cut, axis, "classes", False, 1)), Part(samples(model.inputs, N), labels_of(model, N))


def test_little_memory_means_few_samples_a_run_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures in place of /proc: 100 bytes before, 150 with one sample, 170 with two."""
    region, part = region_and_samples(network("residual"))
    monkeypatch.setattr(chunks, "status_bytes", lambda field: 100)
    for room, at_once, size in ((1000, 1, 4), (190, 1, 3), (189, 1, 2), (120, 1, 1), (280, 2, 3), (279, 2, 2)):
        peaks = iter((150, 170))
        monkeypatch.setattr(chunks, "peak", lambda function, peaks=peaks: next(peaks))
        monkeypatch.setattr(chunks, "LEAST_ROWS", 32)  # of 8 nodes: four samples
        found, note = fitting(region, part, attribution.quadrature(8), room, at_once)
        assert found == size
        assert (f"{size} of 4 samples a run fit --max-memory" in note) == (size < 4 and room != 120)
        assert ("one sample a run takes 0 MiB, more than --max-memory" in note) == (room == 120)


def test_parts_cover_every_sample_once() -> None:
    _, part = region_and_samples(network("mlp"))
    for size, skip in ((1, 0), (4, 0), (4, 2), (50, 0), (4, 6)):
        found = list(parts(part, size, skip))
        assert [p.first for p in found] == list(range(size * skip, N, size))
        labels = [k for p in found for k in p.labels]
        np.testing.assert_array_equal(np.array(labels, np.int64), part.labels[size * skip :])


def test_the_peak_of_a_run_is_what_it_held() -> None:
    if chunks.status_bytes("VmHWM") is None:
        pytest.skip("this system tells no peak of resident memory")
    before = chunks.status_bytes("VmRSS") or 0
    held = chunks.peak(lambda: np.ones(16 << 20).sum())  # 128 MiB
    assert 100 << 20 < held - before < 160 << 20
    assert chunks.peak(lambda: None) < before + (60 << 20), "an earlier peak is forgotten"
