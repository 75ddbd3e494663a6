"""Figures in the house style: each function returns a `matplotlib.figure.Figure` for `Report.figure`.

No pyplot: nothing is kept between calls, and matplotlib is imported only when the first figure is made. Colours are those of
`svg.SERIES`; the page swaps them for their counterparts in a dark scheme.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kfp_foundry.components.common.report.format import human, percent
from kfp_foundry.components.common.report.svg import GRID, INK, SERIES, SOFT, house_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 6.4, 3.6  # inches; the page scales figures to its width
DASHED = (0, (4, 4))
MARKS = ("o", "x", "s", "^", "D", "v")
LEAST = 7.5  # points of a label at the page's width
ROW = 0.3  # height of one bar, in inches
Curve = tuple[ArrayLike, ArrayLike]


def figure(width: float = WIDTH, height: float = HEIGHT) -> tuple["Figure", "Axes"]:
    """An empty figure with one pair of axes.

    Args:
        width: In inches.
        height: In inches.

    Example:
        >>> fig, axes = figure()
        >>> axes.plot([0, 1], [0, 1])
        >>> report.figure(fig, "A line")
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    with house_style():
        fig = Figure(figsize=(width, height), layout="constrained")
        axes = fig.subplots()
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: human(round(float(value), 10))))
    return fig, axes


def bars(names: Sequence[object], values: Sequence[float], label: str = "", limit: int = 25) -> "Figure":
    """Horizontal bars, the first on top, each with its value.

    Args:
        names: What each bar stands for.
        values: Their lengths.
        label: What the lengths mean.
        limit: Bars shown; the rest is left out.
    """
    shown, lengths = [_short(name) for name in names[:limit]], [float(v) for v in values[:limit]]
    fig, axes = figure(height=max(2.0, 0.7 + ROW * len(shown)))
    rows = np.arange(len(shown))
    with house_style():
        drawn = axes.barh(rows, lengths, height=0.66, color=SERIES[0])
        axes.bar_label(drawn, [human(v) for v in lengths], padding=4, color=SOFT, fontsize=9)
        axes.set_yticks(rows, shown)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.14)
        axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    return fig


def lines(
    curves: Mapping[str, Curve],
    xlabel: str = "",
    ylabel: str = "",
    diagonal: bool = False,
    marks: Mapping[str, tuple[float, float]] | None = None,
    upright: Mapping[str, float] | None = None,
    dots: bool = False,
    unit: bool = False,
) -> "Figure":
    """Curves over a common axis.

    Args:
        curves: Name to x and y values.
        xlabel: What x is.
        ylabel: What y is.
        diagonal: Whether a dashed line from (0, 0) to (1, 1) stands for chance or for perfection.
        marks: Named points to show, such as the chosen threshold.
        upright: Named values of x to show as upright lines.
        dots: Whether each point is marked.
        unit: Whether both axes run from 0 to 1.
    """
    fig, axes = figure()
    with house_style():
        if diagonal:
            axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=DASHED)
        for colour, (name, (x, y)) in zip(_colours(len(curves)), curves.items(), strict=True):
            axes.plot(np.asarray(x), np.asarray(y), label=name, color=colour, marker="o" if dots else "", markersize=5)
        for name, (mark_x, mark_y) in (marks or {}).items():
            axes.plot([mark_x], [mark_y], "o", color=SERIES[1], markersize=7, label=name)
        for name, at in (upright or {}).items():
            axes.axvline(at, color=SOFT, linewidth=1.2, linestyle=DASHED, label=f"{name} {human(at)}")
        if unit:
            axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.03))
        if len(curves) + len(marks or {}) + len(upright or {}) > 1:
            axes.legend()
        axes.set(xlabel=xlabel, ylabel=ylabel)
    _whole_ticks(axes, [x for x, _ in curves.values()])
    return fig


def histogram(
    values: Mapping[str, ArrayLike] | ArrayLike,
    xlabel: str = "",
    ylabel: str = "share of rows",
    bins: int = 40,
    limits: tuple[float, float] | None = None,
) -> "Figure":
    """How values are spread; several sets are drawn over each other, each as shares of its own rows.

    Args:
        values: Name to values, or one set; missing ones are left out.
        xlabel: What they are.
        ylabel: What the height is.
        bins: Number of bins.
        limits: Range of x; values outside count at its ends. Default: from the 0.5th to the 99.5th percentile.
    """
    sets = {name: _finite(v) for name, v in (values if isinstance(values, Mapping) else {"": values}).items()}
    whole = np.concatenate(list(sets.values())) if sets else np.zeros(0)
    low, high = limits or ((float(np.quantile(whole, 0.005)), float(np.quantile(whole, 0.995))) if whole.size else (0.0, 1.0))
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    counts = {name: np.histogram(np.clip(v, edges[0], edges[-1]), edges)[0] / max(len(v), 1) for name, v in sets.items()}
    return shares(edges, counts, xlabel, ylabel)


def shares(edges: ArrayLike, counts: Mapping[str, ArrayLike], xlabel: str = "", ylabel: str = "share of rows") -> "Figure":
    """A histogram from counts made elsewhere, as by a streaming pass.

    Args:
        edges: Bin edges, n + 1 of them.
        counts: Name to n heights.
        xlabel: What the values are.
        ylabel: What the height is.
    """
    fig, axes = figure()
    with house_style():
        for colour, (name, heights) in zip(_colours(len(counts)), counts.items(), strict=True):
            axes.stairs(np.asarray(heights), np.asarray(edges), fill=True, color=colour, alpha=0.35 if len(counts) > 1 else 0.75, linewidth=0)
            axes.stairs(np.asarray(heights), np.asarray(edges), color=colour, linewidth=1.2, label=name)
        if len(counts) > 1:
            axes.legend()
        axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    return fig


def scatter(
    x: ArrayLike,
    y: ArrayLike,
    xlabel: str = "",
    ylabel: str = "",
    diagonal: bool = False,
    level: float | None = None,
    limit: int = 1000,
    seed: int = 7,
) -> "Figure":
    """Points; more than `limit` are thinned at random, so that the page stays small.

    Args:
        x: Where each point stands.
        y: The same, upwards.
        xlabel: What x is.
        ylabel: What y is.
        diagonal: Whether the line y = x is drawn.
        level: A value of y to draw as a line.
        limit: Points shown.
        seed: Which ones.
    """
    across, up = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(across) > limit:
        chosen = np.sort(np.random.default_rng(seed).choice(len(across), limit, replace=False))
        across, up = across[chosen], up[chosen]
    fig, axes = figure()
    with house_style():
        axes.plot(across, up, ".", color=SERIES[0], alpha=0.35, markersize=4, markeredgewidth=0)
        if diagonal and len(across):
            ends = [float(np.nanmin([across, up])), float(np.nanmax([across, up]))]
            axes.plot(ends, ends, color=SOFT, linewidth=1, linestyle=DASHED)
        if level is not None:
            axes.axhline(level, color=SOFT, linewidth=1, linestyle=DASHED)
        axes.set(xlabel=xlabel, ylabel=ylabel)
    return fig


def intervals(
    names: Sequence[object],
    values: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    label: str = "",
    reference: float | None = None,
    reference_name: str = "",
    limit: int = 30,
) -> "Figure":
    """Values with their intervals, one row each, the first on top.

    Args:
        names: What each row is.
        values: The points.
        lows: Lower ends of the intervals.
        highs: Upper ends.
        label: What the values are.
        reference: A value to compare with, drawn as a dashed line.
        reference_name: What that is.
        limit: Rows shown.
    """
    shown = [_short(name, 42) for name in names[:limit]]
    fig, axes = figure(height=max(2.0, 0.95 + ROW * len(shown)))
    rows = np.arange(len(shown))
    with house_style():
        if reference is not None:
            axes.axvline(reference, color=SERIES[1], linewidth=1.2, linestyle=DASHED, label=reference_name)
        axes.hlines(rows, list(lows[:limit]), list(highs[:limit]), color=SERIES[0], linewidth=2, alpha=0.55)
        axes.plot(list(values[:limit]), rows, "o", color=SERIES[0], markersize=5.5)
        axes.set_yticks(rows, shown)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        if reference is not None and reference_name:
            fig.legend(loc="outside upper right")
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_xlabel(label)
    return fig


def matrix(values: ArrayLike, rows: Sequence[object], columns: Sequence[object], xlabel: str = "", ylabel: str = "", by_row: bool = True) -> "Figure":
    """A table of counts as shades, such as a confusion matrix.

    Args:
        values: Counts, shape (rows, columns).
        rows: Names of the rows.
        columns: Names of the columns.
        xlabel: What columns are.
        ylabel: What rows are.
        by_row: Whether a shade is the cell's share of its row (else of the largest cell); the share is printed below the count.
    """
    from matplotlib.patches import Rectangle

    counts = np.asarray(values, dtype=float)
    whole = counts.sum(axis=1, keepdims=True) if by_row else np.full((len(counts), 1), counts.max(initial=0.0))
    portions = np.divide(counts, whole, out=np.zeros_like(counts), where=whole > 0)
    height, width = counts.shape
    fig, axes = figure(height=min(7.0, max(2.4, 0.9 + 0.62 * height)))
    size = 11 if max(height, width) <= 4 else 9 if max(height, width) <= 8 else 7
    with house_style():
        axes.grid(visible=False)
        for i, j in np.ndindex(height, width):
            axes.add_patch(Rectangle((j, i), 1, 1, facecolor=SERIES[0], alpha=round(0.04 + 0.56 * portions[i, j], 3), edgecolor=GRID, linewidth=1))
            if max(height, width) <= 12:
                shown = f"{human(int(counts[i, j]) if counts[i, j] == int(counts[i, j]) else float(counts[i, j]))}"
                axes.text(j + 0.5, i + (0.42 if by_row else 0.5), shown, ha="center", va="center", fontsize=size, color=INK)
                if by_row:
                    axes.text(j + 0.5, i + 0.72, percent(portions[i, j]), ha="center", va="center", fontsize=size - 2.5, color=INK)
        axes.set(xlim=(0, width), ylim=(height, 0), xlabel=xlabel, ylabel=ylabel)
        axes.set_xticks(
            np.arange(width) + 0.5, [_short(name, 16) for name in columns], rotation=0 if width <= 6 else 45, ha="center" if width <= 6 else "right"
        )
        axes.set_yticks(np.arange(height) + 0.5, [_short(name, 16) for name in rows])
        for spine in axes.spines.values():
            spine.set_visible(False)
    axes.tick_params(labelcolor=INK)
    return fig


def course(
    points: Mapping[str, Curve], best: Curve, xlabel: str = "", ylabel: str = "", level: float | None = None, level_name: str = ""
) -> "Figure":
    """Points of several kinds in the order in which they came, and the best so far as a staircase.

    Args:
        points: Kind to x and y values.
        best: x and y values of the staircase.
        xlabel: What x is.
        ylabel: What y is.
        level: A value of y to draw as a dashed line, such as a goal.
        level_name: What that is.
    """
    fig, axes = figure()
    with house_style():
        for colour, mark, (name, (x, y)) in zip(_colours(len(points)), MARKS, points.items(), strict=False):
            axes.plot(np.asarray(x), np.asarray(y), mark, color=colour, markersize=5, alpha=0.8, label=name)
        axes.step(np.asarray(best[0]), np.asarray(best[1]), where="post", color=SERIES[2], linewidth=1.8, label="best so far")
        if level is not None:
            axes.axhline(level, color=SOFT, linewidth=1.2, linestyle=DASHED, label=level_name)
        axes.legend()
        axes.set(xlabel=xlabel, ylabel=ylabel)
    _whole_ticks(axes, [x for x, _ in points.values()])
    return fig


def parallel(axes_names: Sequence[str], ticks: Sequence[Mapping[float, str]], rows: ArrayLike, ranks: Sequence[float], chosen: int) -> "Figure":
    """Parallel coordinates: one upright axis for each column, one line for each row.

    Args:
        axes_names: What each axis is, from left to right.
        ticks: For each axis, place (0 at its foot, 1 at its head) to text.
        rows: Places of each row on each axis, shape (rows, axes); NaN interrupts a line.
        ranks: How strong each line is, 0 to 1, shape (rows,).
        chosen: The row that stands out; -1 for none.
    """
    places, count = np.asarray(rows, dtype=float), len(axes_names)
    width = min(14.0, max(WIDTH, 1.5 * count))
    size = max(8.5, LEAST * width / WIDTH)  # points; the page shrinks a wide figure to its own width
    fig, axes = figure(width=width, height=HEIGHT * max(1.0, 0.75 * width / WIDTH) + 0.4)
    with house_style():
        axes.grid(visible=False)
        for row in sorted(range(len(places)), key=lambda row: (row == chosen, ranks[row])):
            best = row == chosen
            alpha = 1.0 if best else round(0.08 + 0.5 * float(ranks[row]), 3)
            axes.plot(range(count), places[row], color=SERIES[1 if best else 0], alpha=alpha, linewidth=2.6 if best else 1.2)
        for at, marks in enumerate(ticks):
            axes.axvline(at, color=SOFT, linewidth=1)
            for place, text in marks.items():
                last = at == count - 1
                axes.text(
                    at + (-0.04 if last else 0.04), place, _short(text, 14), ha="right" if last else "left", va="center", fontsize=size, color=INK
                )
        shown = [_short(name, 22) for name in axes_names]
        tilted = max(map(len, shown), default=0) * 0.55 * size > 72 * width / max(count, 1)  # else they would run into each other
        axes.set_xticks(range(count), shown, rotation=25 if tilted else 0, ha="right" if tilted else "center")
        axes.set_yticks([])
        axes.set(xlim=(-0.12, count - 1 + 0.12), ylim=(-0.06, 1.06))
        for spine in axes.spines.values():
            spine.set_visible(False)
    axes.tick_params(axis="x", labelcolor=INK, labelsize=size)
    return fig


def spans(
    rows: Sequence[int], starts: Sequence[float], lengths: Sequence[float], kinds: Sequence[str], xlabel: str = "", ylabel: str = ""
) -> "Figure":
    """Bars along a time axis, each in its row, coloured by kind.

    Args:
        rows: The row of each bar, from 0 on top.
        starts: Where each begins.
        lengths: How long each is.
        kinds: What each is; kinds get their colours in order of appearance.
        xlabel: The unit of time.
        ylabel: What a row is.
    """
    count = max(rows, default=0) + 1
    fig, axes = figure(height=max(1.7, min(HEIGHT + 1.4, 1.1 + 0.34 * count)))
    with house_style():
        for colour, kind in zip(_colours(len(set(kinds))), dict.fromkeys(kinds), strict=True):
            own = [i for i, name in enumerate(kinds) if name == kind]
            widths = [lengths[i] for i in own]
            axes.barh([rows[i] for i in own], widths, left=[starts[i] for i in own], height=0.72, color=colour, alpha=0.75, label=kind)
        axes.set_yticks([])
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if len(set(kinds)) > 1:
            fig.legend(loc="outside upper right", ncols=len(set(kinds)))
    return fig


def _whole_ticks(axes: "Axes", across: Sequence[ArrayLike]) -> None:
    """Epochs and trials are counted: where every x is a whole number, and one is above 1 (else it may be a share), so is every tick."""
    from matplotlib.ticker import MaxNLocator

    values = np.concatenate([np.asarray(x, dtype=float).ravel() for x in across]) if across else np.zeros(0)
    if values.size and (values == np.round(values)).all() and values.max() > 1:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _short(name: object, size: int = 34) -> str:
    text = human(name) if not isinstance(name, str) else name
    text = " ".join(text.split())
    return text if len(text) <= size else text[: size - 1] + "…"


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64).ravel()
    return numbers[np.isfinite(numbers)]


def _colours(count: int) -> list[str]:
    return [SERIES[i % len(SERIES)] for i in range(count)]
