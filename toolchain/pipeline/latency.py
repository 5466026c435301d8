"""A limit of latency, or of instructions, as one of MACs: candidates run beside the original until it holds.

Both are taken on the target that the limit names, by the runner that reaches it: latency is measured, instructions are
counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from targets.board import BoardError
from targets.link import AddressError
from targets.locks import scratch
from targets.measure import Measurement
from targets.runners import TELLS, Asked, TargetError, measure_on, runner_of
from targets.ssh import address_of
from toolchain.compress.attribution import Progress
from toolchain.compress.budget import ON_TARGET, Term
from toolchain.compress.plan import plan_within
from toolchain.errors import OutOfReach, UsageError
from toolchain.gate.taking import runners_as_errors
from toolchain.model import save
from toolchain.pipeline.cutting import Start, planned

STEPS = 6
RUNS, WARMUP = 90, 5  # of one side-by-side measurement; a count needs fewer
CLOSE = 0.97  # of the limit: nearer than a measurement repeats


@dataclass(frozen=True)
class Timed:
    """A candidate: its MACs, and its latency over the limit."""

    macs: int
    used: float
    p50_ns: int


def counted(start: Start, original: Path, terms: Sequence[Term], threads: int, progress: Progress) -> list[Term]:
    """The terms with each limit of what runs as the most MACs whose cut was found within it, in onnxruntime.

    original  its file, measured in turns with every candidate

    Raises OutOfReach with the fastest that was measured.
    """
    rest = [t for t in terms if t.quantity not in ON_TARGET]
    for term in (t for t in terms if t.quantity in ON_TARGET):
        with scratch() as folder:
            found = fastest_within(start, original, rest, term, folder, threads, progress)
        rest += [] if found is None else [Term("macs", found, False, term.text)]
    return rest


def fastest_within(
    start: Start, original: Path, rest: list[Term], term: Term, folder: Path, threads: int, progress: Progress
) -> int | None:
    """The most MACs within a limit of what runs, by bisection led by the line between the nearest two; None: all."""
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
            f"budget {term.text} is out of reach: the best is {told(quick.p50_ns, term)}, with {quick.macs:,} MACs",
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
    before, after = on_target(term, original, cut, threads)
    return Timed(macs, after.ns.p50 / term.bound(before.ns.p50), after.ns.p50)


def on_target(term: Term, original: Path, cut: Path, threads: int) -> list[Measurement]:
    """Both networks in onnxruntime on the target of a limit; raises RunnerFailed."""
    asked = Asked(RUNS, WARMUP, threads) if term.quantity == "latency" else Asked(threads=threads)
    with runners_as_errors():
        return measure_on(str(term.target), [(original, "ort"), (cut, "ort")], asked)


def check_targets(terms: Sequence[Term]) -> None:
    """Every target is one that tells what its limit is about; raises UsageError."""
    for term in (t for t in terms if t.target is not None):
        try:
            runner = runner_of(str(term.target))
            if runner == "ssh":
                address_of(str(term.target))
        except (AddressError, BoardError, TargetError) as error:
            raise UsageError(f"budget {term.text}: {error}") from error
        if TELLS[runner] != term.quantity:
            way_out = f"Use {TELLS[runner]}@{term.target}" if TELLS[runner] else "Use instructions@qemu-a53"
            raise UsageError(f"budget {term.text}: '{term.target}' tells no {term.quantity}", way_out=way_out)


def told(ns: float, term: Term) -> str:
    """A median in the unit of its limit: a counted nanosecond is an instruction."""
    return f"{ns / 1e6:.3g} {'ms' if term.quantity == 'latency' else 'M instructions'}"
