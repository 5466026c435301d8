"""Rows of a measurement in a file, and rows of today beside them: what is slower, beyond tolerance and noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from targets.measure import Measurement


class NotComparable(ValueError):
    """Two rows that say nothing about each other; one line with a way out."""


@dataclass(frozen=True)
class Change:
    """A model before and after.

    relative  p50 after / before − 1
    noise     √(before² + after²): what a repetition alone would do to it
    allowed   the larger of tolerance and noise
    """

    before: Measurement
    after: Measurement
    relative: float
    noise: float
    allowed: float

    @property
    def is_regression(self) -> bool:
        """Whether it is slower than is allowed."""
        return self.relative > self.allowed


# What must be the same for two latencies to be comparable: its name, and how to read it.
ALIKE = {
    "grade": lambda m: m.grade,
    "target": lambda m: m.target,
    "machine": lambda m: m.host.machine,
    "processor": lambda m: m.host.cpu_model,
    "cores": lambda m: m.host.cores,
    "governor": lambda m: m.host.governor,
    "threads": lambda m: m.threads,
    "input shapes": lambda m: dict(sorted(m.input_shapes.items())),
}


def rows(measured: Sequence[Measurement]) -> bytes:
    """The file: a list of rows as `as_row` has them, samples included."""
    return msgspec.json.format(msgspec.json.encode(list(measured)), indent=1) + b"\n"


def read_rows(text: bytes) -> list[Measurement]:
    """The rows of a file; ValueError, with the place, if it holds none or something else."""
    found = msgspec.json.decode(text, type=list[Measurement])
    if not found:
        raise ValueError("it holds no row")
    return found


def compared(before: Sequence[Measurement], after: Sequence[Measurement], tolerance: float) -> list[Change]:
    """Each row of `after` beside that of `before` of the same file name and runtime.

    tolerance  how much slower is no regression, relative
    Raises NotComparable where a row has no counterpart, or has one of another grade, target, host or input.
    """
    known = {key(m): m for m in before}
    if len(known) < len(before):
        raise NotComparable("it has two rows of the same model and runtime. Save each once")
    return [change(known, m, tolerance) for m in after]


def key(measured: Measurement) -> tuple[str, str]:
    """What a row is found by: folders may differ, and so may the file's content, for that is what is compared."""
    return Path(measured.model).name, measured.runtime


def change(known: dict[tuple[str, str], Measurement], after: Measurement, tolerance: float) -> Change:
    """One pair; raises NotComparable."""
    name, runtime = key(after)
    before = known.get((name, runtime))
    if before is None:
        raise NotComparable(f"it has no row of {name} in {runtime}. Save one with --save")
    for what, read in ALIKE.items():
        told: tuple[Any, Any] = (read(before), read(after))
        if told[0] != told[1]:
            raise NotComparable(f"{name}: {what} was {told[0]} and is {told[1]}. Measure both alike")
    noise = math.hypot(before.noise, after.noise)
    relative = after.ns.p50 / max(before.ns.p50, 1) - 1
    return Change(before, after, relative, noise, max(tolerance, noise))
