"""Charts as inline SVG: values in, markup out.

Horizontal positions are shares of the width (percent) and heights are pixels, so a chart fits a phone and a wide
screen without scaling its text. Colours are CSS classes of the page (`m-kept`, `m-before`, …): dark mode and print
come from there. Every chart says what it shows in <title> and <desc>; every mark can be hovered.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from toolchain.errors import printable

TAIL_SHARE = 0.005  # of the scores at each end that a histogram gathers in its outermost bars


SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Mark:
    """One thing on a line of a chart: a bar, a whisker or a dot from `start` to `end`, both shares of the width.

    kind  its colour: before, after, kept, removed, dead, prune, recover
    """

    start: float
    end: float
    kind: str
    tip: str = ""
    shape: str = "bar"


def strip(
    title: str, desc: str, lines: Sequence[Sequence[Mark]], line_height: int = 10, ticks: Iterable[float] = ()
) -> Markup:
    """Lines of marks under each other on a common scale; `ticks` are shares at which a thin rule is drawn."""
    height = line_height * len(lines) + 2 * (len(lines) - 1)
    rules = [_rule(tick, height) for tick in ticks]
    marks = [
        SHAPES[mark.shape](mark, row * (line_height + 2), line_height)
        for row, line in enumerate(lines)
        for mark in line
    ]
    return _svg(title, desc, height, [*rules, *marks])


def axis(labels: Sequence[tuple[float, str]]) -> Markup:
    """Ticks above or below a column of strips: (share of the width, text). Its words repeat what the strips say."""
    body = [Markup('<line class="base" x1="0" x2="100%" y1="0" y2="0"/>')]
    for share, text in labels:
        body.append(Markup('<line class="base" x1="{0}" x2="{0}" y1="0" y2="4"/>').format(_percent(share)))
        body.append(_label(share, text, 15))
    return Markup('<svg class="chart" aria-hidden="true" width="100%" height="18">{}</svg>').format(
        Markup("").join(body)
    )


def histogram(title: str, desc: str, scores: Sequence[float], kept: Sequence[bool], height: int = 84) -> Markup:
    """How many units have which score: kept stacked on removed; 0.5 % tails gathered in the outermost bars.

    scores, kept  [units], finite
    """
    if not scores:
        return _svg(title, desc, height, [_label(0.5, "no live unit", height // 2)])
    values, stays = np.asarray(scores, np.float64), np.asarray(kept, bool)
    low, high = (float(q) for q in np.quantile(values, [TAIL_SHARE, 1 - TAIL_SHARE]))
    if not _is_span(low, high):
        low, high = float(values.min()), float(values.max())
    if not _is_span(low, high):
        around = max(abs(low), 1e-300) if low else 1.0
        low, high = low - around / 2, high + around / 2
    edges = np.linspace(low, high, min(48, max(12, int(1.5 * math.sqrt(len(values))))) + 1)
    inside = np.clip(values, low, high)
    counts = [np.histogram(inside[chosen], edges)[0] for chosen in (~stays, stays)]
    top = int(max(counts[0] + counts[1]))
    body = [_bin(edges, at, (int(counts[0][at]), int(counts[1][at])), top, height) for at in range(len(edges) - 1)]
    zero = -low / (high - low)
    if 0.0 < zero < 1.0:
        body.append(_rule(zero, height, "zero"))
    body.append(Markup('<line class="base" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(height))
    ends = (
        (0.0, ("≤ " if values.min() < low else "") + sig(low)),
        (zero, "0" if 0.2 < zero < 0.8 else ""),
        (1.0, ("≥ " if values.max() > high else "") + sig(high)),
    )
    body += [_label(share, text, height + 13) for share, text in ends if text]
    return _svg(title, desc, height + 18, body)


def curve(title: str, desc: str, points: Sequence[tuple[float, float, str]], height: int = 120) -> Markup:
    """A line through points (x, y, tip), both shares; y runs from a tenth below the lowest to 1."""
    floor = max(0.0, math.floor(10 * min(y for _, y, _ in points)) / 10 - 0.1)
    place = [(x, 5 + (height - 10) * (1 - (y - floor) / (1 - floor)), tip) for x, y, tip in sorted(points)]
    body = [Markup('<line class="base" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(height)]
    body += [
        Markup('<line class="base" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(_percent(a), _percent(b), y, z)
        for (a, y, _), (b, z, _) in itertools.pairwise(place)
    ]
    body += [_dot(Mark(x, x, "kept", tip), round(y) - 5, 10) for x, y, tip in place]
    body += [_label(share, f"{100 * share:.0f} %", height + 13) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    body += [_label(0.0, f"{100 * end:.0f} %", y) for end, y in ((1.0, 12), (floor, height - 4))]
    return _svg(title, desc, height + 18, body)


def ticks(top: float, most: int = 5) -> list[float]:
    """At most `most` + 1 round values from 0 up to `top` (steps of 1, 2 or 5 times a power of ten)."""
    if not top > 0:
        return [0.0]
    power = 10.0 ** math.floor(math.log10(top / most))
    step = next(power * times for times in (1, 2, 5, 10, 20) if top / (power * times) <= most)
    return [step * at for at in range(int(top / step + 1e-9) + 1)]


def sig(value: float, digits: int = 2) -> str:
    """`value` to so many significant digits: 0.031, 2.4 × 10⁻⁷."""
    if not value or 1e-3 <= abs(value) < 1e4:
        return f"{value:.{digits}g}".replace("-", "−")
    number, _, power = f"{value:.{digits - 1}e}".partition("e")
    return f"{number.removesuffix('.0')}\u00a0×\u00a010{str(int(power)).translate(SUPERSCRIPTS)}".replace("-", "−")


def plain(text: str) -> str:
    """`text` with control characters told instead of obeyed; no-break spaces are ours and stay."""
    return "\u00a0".join(printable(part) for part in text.split("\u00a0"))


def _svg(title: str, desc: str, height: int, body: Iterable[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" role="img" width="100%" height="{}"><title>{}</title><desc>{}</desc>{}</svg>'
    ).format(height, plain(title), plain(desc), Markup("").join(body))


def _is_span(low: float, high: float) -> bool:
    """Whether floats resolve bars between `low` and `high`."""
    return high - low > 1e-9 * max(abs(low), abs(high), 1e-290)


def _percent(share: float) -> str:
    return f"{100 * min(1.0, max(0.0, share)):.2f}%"


def _tip(mark: Mark) -> Markup:
    return Markup("<title>{}</title>").format(plain(mark.tip)) if mark.tip else Markup("")


def _bar(mark: Mark, top: int, height: int) -> Markup:
    """A bar; one that is not empty is never thinner than a hair (its CSS stroke)."""
    return Markup('<rect class="m-{}" x="{}" y="{}" width="{}" height="{}">{}</rect>').format(
        mark.kind, _percent(mark.start), top, _percent(mark.end - mark.start), height, _tip(mark)
    )


def _whisker(mark: Mark, top: int, height: int) -> Markup:
    middle, low, high = top + height / 2, top + height * 0.2, top + height * 0.8
    caps = [
        Markup('<line x1="{0}" x2="{0}" y1="{1:g}" y2="{2:g}"/>').format(_percent(share), low, high)
        for share in (mark.start, mark.end)
    ]
    return Markup('<g class="whisker m-{}">{}<line x1="{}" x2="{}" y1="{y:g}" y2="{y:g}"/>{}</g>').format(
        mark.kind, _tip(mark), _percent(mark.start), _percent(mark.end), Markup("").join(caps), y=middle
    )


def _dot(mark: Mark, top: int, height: int) -> Markup:
    return Markup('<circle class="m-{}" cx="{}" cy="{:g}" r="{:g}">{}</circle>').format(
        mark.kind, _percent(mark.start), top + height / 2, min(4.0, height * 0.4), _tip(mark)
    )


SHAPES = {"bar": _bar, "whisker": _whisker, "dot": _dot}


def _rule(share: float, height: int, css: str = "rule") -> Markup:
    return Markup('<line class="{0}" x1="{1}" x2="{1}" y1="0" y2="{2}"/>').format(css, _percent(share), height)


def _label(share: float, text: str, y: int) -> Markup:
    anchor = "start" if share < 0.05 else "end" if share > 0.95 else "middle"
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(_percent(share), y, anchor, plain(text))


def _bin(edges: np.ndarray, at: int, counts: tuple[int, int], top: int, height: int) -> Markup:
    """One bar of a histogram, removed units below kept ones; a bar with any unit in it is at least a pixel high."""
    bins, floor, rects = len(edges) - 1, float(height), list[Markup]()
    tip = f"{sig(float(edges[at]), 3)} to {sig(float(edges[at + 1]), 3)}: {counts[1]} kept, {counts[0]} removed"
    for count, kind in zip(counts, ("removed", "kept"), strict=True):
        if count:
            tall = max(1.0, count / top * (height - 2))
            floor -= tall
            rects.append(
                Markup('<rect class="m-{}" x="{}" y="{:.1f}" width="{}" height="{:.1f}"/>').format(
                    kind, _percent(at / bins), floor, _percent(0.9 / bins), tall
                )
            )
    return Markup("<g><title>{}</title>{}</g>").format(tip, Markup("").join(rects)) if rects else Markup("")
