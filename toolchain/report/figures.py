"""Numbers as people read them, with their units; a minus is a minus sign, a missing value a dash."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

NONE = "–"
NBSP = "\u00a0"


def count(value: float) -> str:
    """A whole number with thousands separators."""
    return f"{round(value):,}".replace("-", "−")


def size(value: float) -> str:
    """Bytes in B, KiB, MiB or GiB."""
    steps = ((1, "B"), (2**10, "KiB"), (2**20, "MiB"), (2**30, "GiB"))
    return _scaled(value, steps, lambda x: 1 if x >= 10 else 2)


def macs(value: float) -> str:
    """Multiply-accumulates, to four digits."""
    return _scaled(value, ((1, "MAC"), (1e3, "kMAC"), (1e6, "MMAC"), (1e9, "GMAC"), (1e12, "TMAC")), _digits(4))


def duration(value: float) -> str:
    """Nanoseconds as ns, µs, ms, s, to three digits."""
    return _scaled(value, ((1, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")), _digits(3))


def seconds(value: float) -> str:
    """Seconds of a stage: one decimal, minutes from 60 s on."""
    if round(value, 1) < 60:
        return f"{value:.1f}{NBSP}s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes:,}{NBSP}min {rest}{NBSP}s"


def percent(fraction: float, n: float | None = None) -> str:
    """A share in percent: one decimal, two where `n` images resolve them; never 0 or 100 % of what is not."""
    return _decimals(100 * fraction, 2 if n and n >= 10_000 else 1) + f"{NBSP}%"


def figure(value: object) -> str:
    """A number of unknown unit: whole ones in full, others to four digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    return f"{value:,.4g}".replace("-", "−") if isinstance(value, float) else str(value)


def change(before: Any, after: Any) -> str:
    """What became of `before`, in percent; enough decimals never to say 0 or −100 % of something else."""
    if not _numbers(before, after) or (not before and after):
        return NONE
    if before == after:
        return "unchanged"
    return _decimals(100 * (after - before) / before, 1, "+") + f"{NBSP}%"


def points(before: Any, after: Any) -> str:
    """The difference of two shares, in percentage points."""
    if not _numbers(before, after):
        return NONE
    moved = round(100 * (after - before), 1)
    return f"{moved:+.1f}{NBSP}points".replace("-", "−") if moved else "unchanged"


def faster(before: Any, after: Any) -> str:
    """How many times faster or slower `after` runs."""
    if not _numbers(before, after) or not before or not after:
        return NONE
    ratio = before / after
    if f"{ratio:.2f}" == "1.00":
        return "as fast"
    return f"{ratio:.2f}× faster" if ratio > 1 else f"{1 / ratio:.2f}× slower"


def wilson(share: Any, n: Any) -> tuple[float, float] | None:
    """The 95 % Wilson score interval of a share seen on `n` images (Wilson 1927); None where either is missing."""
    if not _numbers(share, n) or not n:
        return None
    z = 1.959964
    middle, spread = share + z * z / (2 * n), z * math.sqrt(max(0.0, share * (1 - share)) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def interval(share: Any, n: Any) -> str:
    """The Wilson interval in words."""
    ends = wilson(share, n)
    return f"{100 * ends[0]:.1f}–{100 * ends[1]:.1f}{NBSP}%" if ends else "no interval"


def moment(value: object) -> str:
    """An ISO 8601 time without the T; UTC named; anything else as it is."""
    try:
        return f"{datetime.fromisoformat(say(value)):%Y-%m-%d %H:%M:%S %Z}".strip()
    except ValueError:
        return say(value)


def shape(value: Sequence[object]) -> str:
    """A tensor's shape; an unknown size is a question mark."""
    return "[" + ", ".join("?" if size is None else str(size) for size in value) + "]"


def told(formatter: Callable[..., str]) -> Callable[..., str]:
    """`formatter` for what may be missing: None is a dash, a string stays, NaN and infinity are named."""

    def tell(value: object, *rest: object) -> str:
        if value is None or isinstance(value, str):
            return NONE if value is None else value
        if isinstance(value, float) and not math.isfinite(value):
            return "not a number" if math.isnan(value) else "infinite"
        return formatter(value, *rest)

    return tell


say = told(str)


def _scaled(value: float, steps: Sequence[tuple[float, str]], decimals: Callable[[float], int]) -> str:
    """`value` in the smallest unit of which it has, once rounded, fewer than make one of the next."""
    for at, (factor, unit) in enumerate(steps):
        x = abs(value) / factor
        shown = f"{x:,.{decimals(max(x, 1.0))}f}"
        if at == 0 and (float(value).is_integer() or x < 1):
            shown = f"{x:,.0f}" if float(value).is_integer() else f"{x:.2g}"
        if at + 1 == len(steps) or float(shown.replace(",", "")) < steps[at + 1][0] / factor:
            return f"{'−' if value < 0 else ''}{shown.replace('-', '−')}{NBSP}{unit}"
    raise AssertionError("the last step takes every value")


def _decimals(value: float, least: int, sign: str = "") -> str:
    """`value` with so many decimals, up to four where fewer would round it to 0 or ±100 and it is neither."""
    exact = value in (0.0, 100.0, -100.0)
    digits = next((d for d in range(least, 4) if exact or abs(round(value, d)) not in (0.0, 100.0)), 4)
    return f"{value:{sign}.{digits}f}".replace("-", "−")


def _digits(most: int) -> Callable[[float], int]:
    return lambda x: max(0, most - 1 - math.floor(math.log10(x)))


def _numbers(*values: object) -> bool:
    return all(isinstance(v, (int, float)) and math.isfinite(v) for v in values)
