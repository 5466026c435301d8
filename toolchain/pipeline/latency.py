"""A limit of latency as one of MACs: pruned candidates are measured beside the original until it holds."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from targets.measure import Measurement, RunnerError, measure_side_by_side
from toolchain.compress.attribution import Progress
from toolchain.compress.budget import Term
from toolchain.compress.plan import plan_within
from toolchain.errors import OutOfReach, RunnerFailed
from toolchain.model import save
from toolchain.pipeline.cutting import Start, planned

STEPS = 6
ROUNDS, RUNS, WARMUP = 3, 30, 5  # of one side-by-side measurement
CLOSE = 0.97  # of the limit: nearer than a measurement repeats


@dataclass(frozen=True)
class Timed:
    """A candidate: its MACs, and its latency over the limit."""

    macs: int
    used: float
    p50_ns: int


def counted(start: Start, original: Path, terms: Sequence[Term], threads: int, progress: Progress) -> list[Term]:
    """The terms with each limit of latency as the most MACs whose cut was measured within it, in onnxruntime.

    original  its file, measured in turns with every candidate

    Raises OutOfReach with the fastest that was measured.
    """
    rest = [t for t in terms if t.quantity != "latency"]
    for term in (t for t in terms if t.quantity == "latency"):
        with tempfile.TemporaryDirectory(prefix="jettison-") as folder:
            found = fastest_within(start, original, rest, term, Path(folder), threads, progress)
        rest += [] if found is None else [Term("macs", found, False, term.text)]
    return rest


def fastest_within(
    start: Start, original: Path, rest: list[Term], term: Term, folder: Path, threads: int, progress: Progress
) -> int | None:
    """The most MACs within a limit of latency, by bisection led by the line between the nearest two; None: all."""
    least = start.of.costs(start.of.least)["macs"]
    seen: dict[int, Timed] = {}

    def at(macs: float | None) -> Timed:
        limit = [] if macs is None else [Term("macs", max(macs, least), False, term.text)]
        count = plan_within(start.of, [*rest, *limit]).costs["macs"][1]
        if count not in seen:
            save(planned(start, [*rest, *limit]).pruned, folder / "cut.onnx", force=True)
            seen[count] = timed(original, folder / "cut.onnx", count, term, threads)
        return seen[count]

    slow = at(None)
    if slow.used <= 1:
        return None
    quick = at(least)
    if quick.used > 1:
        raise OutOfReach(
            f"budget {term.text} is out of reach: the best is {quick.p50_ns / 1e6:.3g} ms, with {quick.macs:,} MACs",
            way_out="Give a larger limit, or --align off to go below one step of each group",
        )
    for step in range(STEPS):
        progress("latency", step, STEPS)
        if quick.used >= CLOSE or slow.macs <= 1.01 * quick.macs:
            break
        share = (0.5 * (1 + CLOSE) - quick.used) / max(slow.used - quick.used, 1e-9)
        middle = quick.macs + min(max(share, 0.1), 0.9) * (slow.macs - quick.macs)
        found = at(middle)
        if found in (quick, slow):  # steps of widths are coarser
            break
        quick, slow = (found, slow) if found.used <= 1 else (quick, found)
    return quick.macs


def timed(original: Path, cut: Path, macs: int, term: Term, threads: int) -> Timed:
    """One candidate in turns with the original."""
    try:
        before, after = measure_side_by_side(
            [(original, "ort"), (cut, "ort")], rounds=ROUNDS, runs=ROUNDS * RUNS, warmup=WARMUP, threads=threads
        )
    except RunnerError as error:
        raise RunnerFailed(str(error)) from error
    return Timed(macs, after.ns.p50 / limit_ns(term, before), after.ns.p50)


def limit_ns(term: Term, before: Measurement) -> float:
    """The limit of a median, where the original was measured so."""
    return term.bound(before.ns.p50)
