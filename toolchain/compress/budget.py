"""What a network may cost: terms of a budget, and the widths that groups keep whatever it says."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch

from toolchain.errors import UsageError, nearest

BYTES = {"": 1, "B": 1, "kB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2, "GB": 1000**3, "GiB": 1024**3}
COUNTS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}
NANOSECONDS = {"ns": 1, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9}
POINTS = {"": 1, "point": 1, "points": 1}
TERMS = {
    "params": COUNTS, "macs": COUNTS, "flash": BYTES, "ram": BYTES, "units": {}, "latency": NANOSECONDS,
    "instructions": COUNTS, "drop": POINTS,
}  # fmt: skip
ON_TARGET = {"latency": "local", "instructions": "qemu-a53"}  # what is taken on a target, such as this one
COUNTED = ("params", "macs", "flash", "ram", "units")  # what a plan is costed by; the others are measured
NUMBER = r"-?(?:\d[\d_]*\.?\d*|\.\d+)(?:e[+-]?\d+)?"


@dataclass(frozen=True)
class Term:
    """One limit: at most `limit` of a quantity, or at most this share of the original.

    limit   params, MACs, bytes, nanoseconds, instructions or accuracy points
    text    as it was asked for
    target  where latency is measured, or instructions counted
    """

    quantity: str
    limit: float
    is_share: bool
    text: str = ""
    target: str | None = None

    def bound(self, original: float) -> float:
        """The limit in the quantity's own unit."""
        return self.limit * original if self.is_share else self.limit

    def eased(self, original: float, progress: float) -> Term:
        """This limit part of the way from the original, in equal ratios: 0 is the original, 1 the limit itself."""
        share = min(self.limit if self.is_share else self.limit / max(original, 1), 1.0) ** progress
        if progress == 1:
            return self
        return replace(self, limit=share, is_share=True, text=f"{self.quantity}<={100 * share:.4g}%")


def parse_budget(text: str) -> tuple[Term, ...]:
    """'params<=30%,flash<=2 MiB' -> terms, all of which have to hold; raises UsageError naming what is not understood.

    A quantity may have a share and an absolute limit, but not two of a kind: one of them is a mistake.
    """
    terms = [parse_term(part.strip()) for part in text.split(",")]
    for i, term in enumerate(terms):
        for other in terms[:i]:
            if (other.quantity, other.target, other.is_share) == (term.quantity, term.target, term.is_share):
                raise UsageError(
                    f"budget '{term.quantity}' is given twice: {other.text} and {term.text}",
                    way_out=f"Keep {min(other, term, key=lambda t: t.limit).text}, which is the tighter one",
                )
    return tuple(terms)


def parse_term(text: str) -> Term:
    """One term of a budget."""
    match = re.fullmatch(rf"(\w+)(?:@([^<\s]+))?\s*<=\s*({NUMBER})\s*([%A-Za-zµ]*)", text)
    if match is None:
        raise UsageError(f"cannot read the budget '{text}'", way_out="Write it like params<=30% or flash<=2MiB")
    quantity, target, number, unit = match.groups()
    if quantity not in TERMS:
        raise UsageError(f"unknown budget '{quantity}'", way_out=f"Use one of {', '.join(TERMS)}")
    check_target(quantity, target)
    value = float(number.replace("_", ""))
    if not math.isfinite(value):
        raise UsageError(f"budget '{text}' is no finite number", way_out="Leave out what has no limit")
    if value < 0 or (value == 0 and quantity != "drop"):
        raise UsageError(f"budget '{text}' leaves nothing", way_out="Give a number above 0")
    if unit == "%" and quantity != "drop":
        if value > 100:
            raise UsageError(f"budget '{text}' is more than the original", way_out="Give at most 100%")
        return Term(quantity, value / 100, True, text, target)
    if unit in TERMS[quantity]:
        return Term(quantity, value * TERMS[quantity][unit], False, text, target)
    known = " ".join(["%"] * (quantity != "drop") + [u for u in TERMS[quantity] if u])
    raise UsageError(f"unknown unit '{unit or 'none'}' of budget '{quantity}'", way_out=f"Use {known}")


def check_target(quantity: str, target: str | None) -> None:
    """What runs is of a target, and nothing else is; raises UsageError."""
    if quantity in ON_TARGET and target is None:
        raise UsageError(f"budget '{quantity}' needs a target", way_out=f"Use {quantity}@{ON_TARGET[quantity]}")
    if quantity not in ON_TARGET and target is not None:
        raise UsageError(f"budget '{quantity}' has no target, '{target}' was given", way_out=f"Use {quantity}<=…")


# ---- floors --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Floor:
    """At least so many units, or this share of them, stay of every group whose name matches."""

    pattern: str
    limit: float
    is_share: bool

    def width(self, size: int) -> int:
        """Units that stay at least, of so many."""
        return min(math.ceil(self.limit * size - 1e-9) if self.is_share else int(self.limit), size)


def parse_floor(text: str) -> Floor:
    """'conv*=32' or 'dense1=25%' -> a floor; raises UsageError."""
    pattern, equals, limit = text.rpartition("=")
    match = re.fullmatch(r"(\d+)|(\d+\.?\d*)%", limit.strip())
    if (
        not (pattern and equals)
        or match is None
        or not 0 < float(limit.strip().rstrip("%")) <= (math.inf if match[1] else 100)
    ):
        raise UsageError(f"cannot read the floor '{text}'", way_out="Write it like conv*=32 or dense1=25%")
    return Floor(pattern, float(match[1]) if match[1] else float(match[2]) / 100, match[1] is None)


def check_patterns(patterns: Iterable[str], names: Sequence[str], option: str) -> None:
    """Every pattern is of some group; raises UsageError: a layer meant to be kept would be cut otherwise."""
    for pattern in patterns:
        if not any(fnmatch(n, pattern) for n in names):
            raise UsageError(f"{option} '{pattern}' is of no group", way_out=nearest(pattern, names))
