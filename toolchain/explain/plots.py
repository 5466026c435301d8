"""Figures as SVG and PNG, for print and for colour-blind readers: the same figure gives the same bytes."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.errors import printable
from toolchain.explain.colours import SHARE, SIGNED
from toolchain.explain.figure import Bars, Boxes, Chart, Figure, Gallery, Grid, Histogram, Lines, Panels, Trade, assured
from toolchain.explain.pooling import block_within, mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")  # Okabe & Ito 2008
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 2)), (0, (3, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#666666"
WIDTH = 6.5  # inches, a column of a printed page
HEIGHT = 3.6
STYLE: dict[str, Any] = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "axes.grid": False, "grid.color": "#dddddd", "grid.linewidth": 0.6, "axes.linewidth": 0.8, "lines.linewidth": 1.5,
    "legend.frameon": False, "figure.constrained_layout.use": True, "text.parse_math": False, "savefig.dpi": 160,
    "svg.hashsalt": "jettison", "axes.unicode_minus": True,
}  # fmt: skip
FORMATS: dict[str, dict[str, Any]] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
MANY = 8  # categories above which names are turned
SHORT = 3  # letters of a category up to which bars stand
LETTERS = 96  # of a legend, in one line
BOXES_IN_A_ROW = 5
MOST_BOXES = 60
LARGEST_MAP = 48  # entries along a side of a map in a grid: larger ones are averaged over blocks
LONGEST_NAME = 28  # letters of a column
BLANK = "#c4c4c4"


def drawn(figure: Figure) -> dict[str, bytes]:
    """{"svg": …, "png": …} of a figure."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context():
        mpl.rcdefaults()  # a reader's own style would change the bytes
        mpl.rcParams.update(STYLE)  # type: ignore[call-overload]  (its keys are a list of literals)
        canvas = Canvas(figsize=(WIDTH, HEIGHT))
        FigureCanvasAgg(canvas)
        PAINTERS[type(figure.chart)](canvas, figure.chart)
        found = {}
        for form, metadata in FORMATS.items():
            out = io.BytesIO()
            canvas.savefig(out, format=form, metadata=metadata)
            found[form] = out.getvalue()
    return found


def safe(text: str, width: int = 0) -> str:
    """Text that draws nothing but itself, folded to a width in letters."""
    return "\n".join(textwrap.wrap(printable(text), width)) if width else printable(text)


# ---- charts on one pair of axes --------------------------------------------------------------------------------------
def bars(axes: Axes, chart: Bars) -> None:
    """Upright bars, those of one category side by side; lying ones where one series has categories with names."""
    if len(chart.series) == 1 and max(map(len, chart.categories), default=0) > SHORT:
        lying(axes, chart)
        return
    places = np.arange(len(chart.categories))
    width = 0.8 / max(len(chart.series), 1)
    for i, series in enumerate(chart.series):
        at = places - 0.4 + width * (i + 0.5)
        made = axes.bar(at, series.y, 0.92 * width, color=COLOURS[i % len(COLOURS)], label=safe(series.name))
        if len(chart.series) == 1:
            axes.bar_label(made, [number(v) for v in series.y], padding=2, fontsize=8, color=GREY)
            axes.margins(y=0.14)  # numbers below bars clear the axis
    turned = len(places) > MANY and max(map(len, chart.categories)) > 3
    crowded = len(places) > MANY and not turned  # no room for numbers of samples side by side
    width = 0 if turned else max(8, 76 // max(len(places), 1))
    names = [safe(c, width) for c in chart.categories] if crowded else named(chart, width)
    axes.set_xticks(places, names, rotation=60 if turned else 0, ha="right" if turned else "center")
    axes.tick_params(axis="x", length=0)
    axes.set(xlabel=chart.category, ylabel=chart.quantity)
    finish(axes, chart, "y")
    if len(chart.series) > 1:
        legend(axes)


def lying(axes: Axes, chart: Bars) -> None:
    """Bars of one series from left to right, the first on top."""
    (series,) = chart.series
    places = np.arange(len(chart.categories))
    made = axes.barh(places, series.y, 0.7, color=COLOURS[0])
    axes.bar_label(made, [number(v) for v in series.y], padding=3, fontsize=8, color=GREY)
    axes.set_yticks(places, named(chart, 32))
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel=chart.quantity)
    axes.margins(x=0.16)
    finish(axes, chart, "x")


def named(chart: Bars, width: int) -> list[str]:
    """Categories, folded, each with its number of samples below."""
    names = [safe(c, width) for c in chart.categories]
    return [f"{c}\nn = {n:,}" for c, n in zip(names, chart.samples, strict=True)] if chart.samples else names


def lines(axes: Axes, chart: Lines) -> None:
    """Lines told apart by colour and dash; a band where there is a spread; a legend where there are several."""
    for i, series in enumerate(chart.series):
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[(i + i // len(COLOURS)) % len(DASHES)]  # a ninth looks new
        assert series.x is not None
        axes.plot(series.x, series.y, color=colour, linestyle=dash, label=safe(series.name))
        if series.low is not None and series.high is not None:
            axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel=safe(chart.x), ylabel=safe(chart.y))
    axes.margins(x=0.01)
    if chart.is_share:
        axes.set_ylim(-3, 103)  # a line along 0 or 100 is seen
        axes.set_yticks(range(0, 101, 20))
    if chart.x.endswith("[%]"):
        axes.set(xlim=(0, 100), xticks=range(0, 101, 10))
    elif max(s.x[-1] for s in chart.series if s.x is not None) >= 1000:
        axes.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}")
    finish(axes, chart, "y")
    if len(chart.series) > 1:
        legend(axes)


def trade(axes: Axes, chart: Trade) -> None:
    """Dots on a thin line for each series; those that nothing beats (the Pareto front) are filled."""
    for i, (series, front) in enumerate(zip(chart.series, chart.front(), strict=True)):
        colour = COLOURS[i % len(COLOURS)]
        x, on = assured(series.x), np.array(front, bool)
        look: dict[str, Any] = {
            "color": colour,
            "linestyle": "none",
            "marker": MARKERS[i % len(MARKERS)],
            "markersize": 5,
        }
        axes.plot(x, series.y, color=colour, linewidth=0.8, alpha=0.6)
        axes.plot(x[~on], series.y[~on], **look, markerfacecolor="white", markeredgewidth=0.9)
        axes.plot(x[on], series.y[on], **look, label=safe(series.name))
    axes.set(xlabel=safe(chart.x), ylabel=safe(chart.y))
    axes.set_xlim(left=0)
    axes.margins(0.06)
    hollow = {"linestyle": "none", "marker": "o", "markersize": 5, "markerfacecolor": "white"}
    axes.plot([], [], color=GREY, label="hollow: beaten by another point", **hollow)
    finish(axes, chart, "both")
    legend(axes)


def histogram(axes: Axes, chart: Histogram) -> None:
    """Touching bars, and a rule at 0."""
    axes.stairs(chart.counts, chart.edges, fill=True, color=COLOURS[0])
    if chart.edges[0] < 0 < chart.edges[-1]:
        axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(xlabel=safe(chart.quantity), ylabel=safe(chart.counted))
    if chart.counts.max(initial=0) > 50 * max(np.median(chart.counts), 1):
        axes.set_yscale("symlog", linthresh=10)  # a few useful units would not be seen beside thousands near 0
        axes.yaxis.set_major_formatter(lambda v, _: f"{v:,.0f}")
        axes.set_ylabel(f"{chart.counted} (logarithmic above 10)")
    finish(axes, chart, "y")


def finish(axes: Axes, chart: Chart, along: str) -> None:
    """A quiet grid across the bars or lines, and a rule at 0 where values have both signs."""
    axes.grid(axis=along)  # type: ignore[arg-type]
    if along == "both":
        return
    low, high = axes.get_ylim() if along == "y" else axes.get_xlim()
    if low < 0 < high and isinstance(chart, Bars | Lines) and not (isinstance(chart, Lines) and chart.is_share):
        (axes.axhline if along == "y" else axes.axvline)(0, color="black", linewidth=0.8)


def legend(axes: Axes) -> None:
    """Above the axes, where it hides nothing."""
    _, labels = axes.get_legend_handles_labels()
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns_of(labels), borderaxespad=0.2, columnspacing=1.2
    )


def columns_of(labels: list[str]) -> int:
    """As many as fit side by side."""
    longest = max(map(len, labels), default=1) + 7  # letters that a handle takes
    return len(labels) if sum(map(len, labels)) + 7 * len(labels) <= LETTERS else max(1, LETTERS // longest)


def number(value: float) -> str:
    """A number on a bar."""
    return (f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}").replace("-", "−")


ON_AXES: dict[type, Callable[[Axes, Any], None]] = {Bars: bars, Lines: lines, Trade: trade, Histogram: histogram}


# ---- whole canvases --------------------------------------------------------------------------------------------------
def one(canvas: Canvas, chart: Bars | Lines | Trade | Histogram) -> None:
    """One chart fills the canvas; lying bars take a height of their own."""
    if isinstance(chart, Bars) and len(chart.series) == 1:
        canvas.set_figheight(max(2.0, min(HEIGHT, 0.9 + 0.45 * len(chart.categories))))
    ON_AXES[type(chart)](canvas.subplots(), chart)


def panels(canvas: Canvas, chart: Panels) -> None:
    """Charts under each other or in columns; one legend on top serves all."""
    rows = -(-len(chart.charts) // chart.columns)
    canvas.set_figheight(0.8 * HEIGHT * rows)
    grid = canvas.subplots(rows, chart.columns, squeeze=False).flat[: len(chart.charts)]
    for i, (axes, part, title) in enumerate(zip(grid, chart.charts, chart.titles, strict=True)):
        ON_AXES[type(part)](axes, part)
        axes.set_title(safe(title), loc="left", fontweight="bold")
        shown = axes.get_legend()
        if shown is not None:
            handles, labels = axes.get_legend_handles_labels()
            shown.remove()
            if i == 0:
                canvas.legend(handles, labels, loc="outside upper left", ncols=columns_of(labels), columnspacing=1.2)


def gallery(canvas: Canvas, chart: Gallery) -> None:
    """Images side by side, their titles above."""
    columns = min(chart.columns, max(len(chart.images), 1))
    rows = math.ceil(len(chart.images) / columns)
    side = WIDTH / max(columns, 5)
    above = 0.45 if columns <= 5 else 0.3  # inches of a title, which is folded over large images
    canvas.set_size_inches(columns * side, (side + above) * max(rows, 1))
    for i, axes in enumerate(canvas.subplots(max(rows, 1), columns, squeeze=False).flat):
        axes.set_axis_off()
        if i < len(chart.images):
            axes.imshow(chart.images[i], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            reaches = i + 1 < len(chart.titles) and not chart.titles[i + 1]
            title = safe(chart.titles[i], 0 if reaches else 75 // max(columns, 5))
            axes.set_title(title, loc="left" if reaches else "center")


def grid(canvas: Canvas, chart: Grid) -> None:
    """All maps as one image, a thin gap between them, and a bar of the colours on top; blank ones are grey."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgba

    maps = chart.maps[list(chart.shown)]
    maps = mean(maps, block_within(maps.shape[2:], LARGEST_MAP))
    rows, columns, h, w = maps.shape
    gap = 0 if h == w == 1 else max(1, round(0.06 * max(h, w)))
    image = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap), np.nan)
    is_gap = np.ones(image.shape, bool)
    for r, c in np.ndindex(rows, columns):
        place = np.s_[r * (h + gap) : r * (h + gap) + h, c * (w + gap) : c * (w + gap) + w]
        image[place], is_gap[place] = maps[r, c], False
    colours = LinearSegmentedColormap.from_list("ramp", SIGNED if chart.low < 0 else SHARE)
    shade = colours(np.clip((image - chart.low) / (chart.high - chart.low), 0, 1))
    shade[np.isnan(image)] = to_rgba(BLANK)
    shade[is_gap] = (1, 1, 1, 1)
    side = min(0.62, (WIDTH - 0.9) / columns)
    tall = side * h / w if h * w > 1 or chart.down == chart.across else max(0.1, min(0.2, side))
    canvas.set_size_inches(WIDTH, 1.0 + tall * rows)
    axes = canvas.subplots()
    axes.imshow(shade, aspect="auto" if h == w == 1 else "equal", interpolation="none")
    crowd = max(1, math.ceil(0.1 / tall))
    at = np.arange(0, rows, crowd)
    axes.set_yticks(at * (h + gap) + (h - 1) / 2, [safe(chart.down[chart.shown[i]]) for i in at], fontsize=6)
    every = max(1, math.ceil(0.1 * columns / (WIDTH - 0.9)))
    at = np.arange(0, columns, every)
    folded = [safe(chart.across[i], 14) for i in at]
    turned = max((len(line) for name in folded for line in name.split("\n")), default=0) * 0.06 > side * every
    words = [cut_short(safe(chart.across[i])) for i in at] if turned else folded
    axes.set_xticks(at * (w + gap) + (w - 1) / 2, words, fontsize=6.5, rotation=90 if turned else 0)
    axes.tick_params(length=0, labeltop=tall * rows > HEIGHT)  # else the reader's screen has no names on it
    axes.spines[:].set_visible(False)
    axes.set(xlabel=chart.column, ylabel=chart.row)
    scale = ScalarMappable(Normalize(chart.low, chart.high), colours)
    canvas.colorbar(
        scale, ax=axes, location="top", label=chart.quantity, shrink=0.5, aspect=30, pad=0.12 / canvas.get_figheight()
    )


def cut_short(text: str) -> str:
    """A name that leaves room for the picture."""
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"


def boxes(canvas: Canvas, chart: Boxes) -> None:
    """Boxes from left to right and on in the next row, an arrow between neighbours; the middle of many is left out."""
    half = MOST_BOXES // 2
    layers: list[Any] = list(chart.layers)
    if len(layers) > MOST_BOXES:
        layers = [*layers[:half], len(layers) - 2 * half, *layers[-half:]]
    columns = min(BOXES_IN_A_ROW, max(len(layers), 1))
    rows = max(1, math.ceil(len(layers) / columns))
    canvas.set_size_inches(WIDTH, 0.95 * rows + 0.1)
    axes = canvas.subplots()
    axes.set(xlim=(-0.02, columns - 0.13), ylim=(-rows + 0.9, 1.0))
    axes.set_axis_off()
    for i, layer in enumerate(layers):
        x, y = i % columns, -(i // columns)
        words = f"… {layer} more layers …" if isinstance(layer, int) else boxed(layer)
        patch = {"boxstyle": "round,pad=0", "facecolor": "#eef4f9", "edgecolor": COLOURS[0], "linewidth": 0.8}
        axes.add_patch(fancy((x, y + 0.1), 0.8, 0.75, patch))
        axes.text(x + 0.4, y + 0.475, words, ha="center", va="center", fontsize=6.5, linespacing=1.3)
        if i + 1 < len(layers) and x + 1 < columns:
            arrow = {"arrowstyle": "-|>", "color": GREY, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", (x + 1, y + 0.475), (x + 0.8, y + 0.475), arrowprops=arrow)


def fancy(corner: tuple[float, float], width: float, height: float, style: dict[str, Any]) -> Any:
    """A box with these corners."""
    from matplotlib.patches import FancyBboxPatch

    return FancyBboxPatch(corner, width, height, **style)


def boxed(layer: dict[str, Any]) -> str:
    """What stands in a box: name, op, what it makes, its parameters."""
    name = safe(str(layer["layer"]))
    short = name if len(name) <= 18 else f"…{name[-17:]}"
    return "\n".join([short, safe(str(layer["op"])), str(layer["output"]) or "scalar", f"{layer['params']:,} params"])


PAINTERS: dict[type, Callable[[Canvas, Any], None]] = {
    Bars: one, Lines: one, Trade: one, Histogram: one, Panels: panels, Gallery: gallery, Grid: grid,
    Boxes: boxes,
}  # fmt: skip
