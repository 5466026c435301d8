"""What has to hold: [[budget]] entries as single limits, each with its place in the file."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from toolchain.compress.budget import BYTES, COUNTS, NANOSECONDS, NUMBER
from toolchain.config import Accuracy, Amount, Budget, ConfigFile, Instructions, Latency, Regress
from toolchain.errors import UsageError

UNITS = {"flash": BYTES, "ram": BYTES, "params": COUNTS, "macs": COUNTS, "instructions": COUNTS, "latency": NANOSECONDS}
EXAMPLES = {"flash": "16 MiB", "ram": "8 MiB", "latency": "25 ms"}
GROWING = ("flash", "ram", "params", "macs", "instructions")  # what [[budget]] regress may limit: it repeats anywhere
NEVER_GROWING = {  # what it may not, and what does instead
    "latency": (
        "a time of another day, and often of another computer, is nothing to compare with",
        'Limit instructions, or latency = { max = "25 ms" }, or compare on one computer: jettison bench --compare',
    ),
    "accuracy": ("accuracy falls by points, not by percent", "Write accuracy = { max_drop = 0.01 }"),
}
QUANTITIES = (*UNITS, "accuracy")
RELATIVE = ("growth", "drop")  # kinds that need a baseline; the others show it where there is one


@dataclass(frozen=True)
class Limit:
    """One thing that has to hold.

    model     as the file calls it; `path` is where it lies
    kind      most: value ≤ bound; least: value ≥ bound; growth: value ≤ before · (1 + bound);
              drop: value ≥ before − bound
    bound     bytes, counts, nanoseconds (with the tolerance) or a share
    file, line  where the key stands
    target    what instructions or latency are of
    taking    how latency is measured, or what accuracy is of
    baseline  where `before` stands: a file or git:REF:path, "" for none
    """

    model: str
    path: Path
    quantity: str
    kind: str
    bound: float
    file: Path
    line: int
    target: str = ""
    taking: Latency | Accuracy | None = None
    baseline: str = ""

    @property
    def place(self) -> str:
        """file:line."""
        return f"{self.file}:{self.line}"

    @property
    def name(self) -> str:
        """What is limited: flash, latency@local, flash growth."""
        of = f"{self.quantity}@{self.target}" if self.target else self.quantity
        return {"growth": f"{of} growth", "drop": f"{of} drop"}.get(self.kind, of)


@dataclass(frozen=True)
class Entry:
    """A [[budget]], its place in the file, and the baseline that is to be taken instead of its own."""

    file: ConfigFile
    number: int
    budget: Budget
    baseline: str | None

    def place(self, *keys: str) -> str:
        """file:line of a key."""
        return f"{self.file.path}:{self.file.line(('budget', self.number, *keys))}"

    def where(self, *keys: str) -> str:
        """The same with the key."""
        return f"{self.place(*keys)}: {' '.join(keys)}"

    def limit(
        self, keys: tuple[str, ...], kind: str, bound: float, target: str = "", taking: Latency | Accuracy | None = None
    ) -> Limit:
        """A limit that stands at these keys; raises UsageError where it has no model or lacks its baseline."""
        model = self.budget.model or self.file.config.model.path
        if model is None:
            raise UsageError("[[budget]] names no model", self.place(), 'Write model = "model.onnx" into it')
        quantity = next(k for k in keys if k in QUANTITIES)
        before = self.baseline or named_baseline(self.file, self.budget.regress)
        if kind in RELATIVE and not before:
            raise UsageError("has no baseline", self.where(*keys), "Give --baseline, or baseline = … in regress")
        path, line = self.file.path, self.file.line(("budget", self.number, *keys))
        return Limit(model, self.file.beside(model), quantity, kind, bound, path, line, target, taking, before)


def limits(file: ConfigFile, baseline: str | None = None) -> tuple[Limit, ...]:
    """Every limit of a file, in its order.

    baseline  in place of those that the file names; a path as this process sees it, or git:REF:path

    Raises UsageError where there is none, or one that cannot be read, or two of the same thing.
    """
    if not file.config.budget:
        way_out = "Write one, or let jettison init MODEL do it"
        raise UsageError("has no [[budget]]: nothing would be checked", str(file.path), way_out)
    found: list[Limit] = []
    for number, budget in enumerate(file.config.budget):
        entry = Entry(file, number, budget, baseline)
        mine = [limit for read in READERS for limit in read(entry)]
        if not mine:
            known = ", ".join((*QUANTITIES, "regress"))
            raise UsageError("[[budget]] limits nothing", entry.place(), f"Give it one of {known}")
        found += mine
    seen: dict[tuple[Path, str], Limit] = {}
    for limit in found:
        first = seen.setdefault((limit.path, f"{limit.name} {limit.kind}"), limit)
        if first is not limit:
            told = f"{limit.name} of {limit.model} is limited twice, here and at {first.place}"
            raise UsageError(told, limit.place, "Keep one of them")
    return tuple(found)


# ---- the keys of an entry -------------------------------------------------------------------------------------------
def of_counts(entry: Entry) -> Iterator[Limit]:
    """At most so many bytes, parameters or products."""
    for quantity in ("flash", "ram", "params", "macs"):
        if (given := getattr(entry.budget, quantity)) is not None:
            yield entry.limit((quantity,), "most", amount(given, quantity, entry.where(quantity)))


def of_instructions(entry: Entry) -> Iterator[Limit]:
    """At most so many of one inference."""
    asked = entry.budget.instructions
    if asked is not None:
        given = asked.max if isinstance(asked, Instructions) else asked
        bound = amount(given, "instructions", entry.where("instructions"))
        yield entry.limit(("instructions",), "most", bound, counted_on(entry.budget))


def counted_on(budget: Budget) -> str:
    """The board that instructions are counted on."""
    return (budget.instructions if isinstance(budget.instructions, Instructions) else Instructions(1)).target


def of_latency(entry: Entry) -> Iterator[Limit]:
    """At most so long, and the tolerance."""
    asked = entry.budget.latency
    if asked is not None:
        slack = 1 + percent(asked.tolerance, entry.where("latency", "tolerance"))
        bound = slack * amount(asked.max, "latency", entry.where("latency", "max"))
        yield entry.limit(("latency", "max"), "most", bound, asked.target, asked)


def of_accuracy(entry: Entry) -> Iterator[Limit]:
    """At least so much, and at most so much less than in the baseline."""
    asked = entry.budget.accuracy
    for key, kind in (("min", "least"), ("max_drop", "drop")):
        bound = getattr(asked, key, None)
        if bound is None:
            continue
        if not 0 <= bound <= 1:
            way_out = f"Give a share like {0.85 if key == 'min' else 0.01}"
            raise UsageError(f"{bound:g} is no share of 0 to 1", entry.where("accuracy", key), way_out)
        yield entry.limit(("accuracy", key), kind, bound, "", asked)


def of_growth(entry: Entry) -> Iterator[Limit]:
    """At most so much more than in the baseline; raises UsageError for what does not repeat."""
    for quantity, (because, way_out) in NEVER_GROWING.items():
        if getattr(entry.budget.regress, quantity, None) is not None:
            raise UsageError(because, entry.where("regress", quantity), way_out)
    for quantity in GROWING:
        if (given := getattr(entry.budget.regress, quantity, None)) is not None:
            keys = ("regress", quantity)
            target = counted_on(entry.budget) if quantity == "instructions" else ""
            yield entry.limit(keys, "growth", percent(given, entry.where(*keys)), target)


READERS: tuple[Callable[[Entry], Iterator[Limit]], ...] = (
    of_counts,
    of_instructions,
    of_latency,
    of_accuracy,
    of_growth,
)


# ---- numbers --------------------------------------------------------------------------------------------------------
def named_baseline(file: ConfigFile, regress: Regress | None) -> str:
    """The baseline that an entry names, as this process sees it."""
    named = regress.baseline if regress is not None else None
    return "" if named is None else named if named.startswith("git:") else str(file.beside(named))


def amount(given: Amount, quantity: str, where: str) -> float:
    """16 MiB, 4_000_000 or "25 ms" in bytes, counts or nanoseconds; raises UsageError."""
    units: Mapping[str, float] = UNITS[quantity]
    match = re.fullmatch(rf"({NUMBER})\s*([A-Za-zµ%]*)", str(given).strip())
    example = EXAMPLES.get(quantity, "4_000_000")
    if match is None:
        raise UsageError(f"cannot read '{given}'", where, f"Write it like {example}")
    number, unit = match.groups()
    if unit == "%":
        raise UsageError(
            f"'{given}' is a share", where, f"Write it like {example}; shares of a baseline go into regress"
        )
    if unit not in units:
        known = " ".join(u for u in units if u)
        raise UsageError(f"unknown unit '{unit or 'none'}'", where, f"Use {known}")
    value = float(number.replace("_", "")) * units[unit]
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"'{given}' leaves nothing", where, f"Write it like {example}, or leave it out")
    return value


def percent(text: str, where: str) -> float:
    """'2%' -> 0.02; raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text.strip())
    if match is None:
        raise UsageError(f"cannot read the share '{text}'", where, "Write it like 2%")
    return float(match[1]) / 100
