"""Charts and pictures of the report: pure functions from data to PNG bytes.

Every figure is an object of its own (no pyplot, so nothing global). It is drawn for a column of a web page: its
letters stay readable on a phone, which shows a chart at 0.8 of its width. Charts are dark ink on white and carry
their numbers as text, so that nothing hangs on colour alone; the page inverts them in dark mode. The colours are
those of Okabe and Ito (2008), told apart with any kind of colour vision.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:  # matplotlib comes with the extra `sim`
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PIXEL_RATIO = 2  # picture pixels per CSS pixel, for sharp letters on dense screens
WIDTH_IN, NARROW_IN = 4.6, 3.7  # of charts that stand two and three in a row; 100 CSS pixels per inch
FONT_PT = 9

INK, MUTED, RULE = "#1b1f24", "#5b6470", "#dfe3e8"
BLUE, SKY, VERMILION, GREEN = "#0072b2", "#56b4e9", "#d55e00", "#009e73"

BAR_COLOURS = {"strict": BLUE, "benchmark": SKY, "wrong task": VERMILION, "control": "#8a929c"}
LINE_COLOURS = (BLUE, VERMILION, GREEN, SKY, "#cc79a7", "#e69f00")
CHUNK_COLOURS = (VERMILION, BLUE, GREEN)  # neighbours differ, also where chunks overlap


@dataclass(frozen=True)
class Bar:
    """A share of episodes in [0, 1] with its 95 % interval."""

    label: str
    rate: float
    interval: tuple[float, float] | None = None
    kind: str = "control"  # key of BAR_COLOURS


@dataclass(frozen=True)
class Chunk:
    """Predicted actions, the first one for step `start` of the demonstration."""

    start: int
    actions: np.ndarray  # (horizon, entries)


@dataclass(frozen=True)
class Curve:
    """Shares in [0, 1] over something that was varied, each with its 95 % interval."""

    label: str
    x: Sequence[float]
    rates: Sequence[float]
    intervals: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Measured:
    """A number with its 95 % interval, and the parts that it is the mean of."""

    label: str
    value: float
    interval: tuple[float, float]
    parts: Sequence[float] = ()


@dataclass(frozen=True)
class Line:
    """Points in the order in which they are joined; `notes`, where given, stand beside them, one a point."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Band:
    """A mean over something that was varied, with an interval at each point."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def percent(rate: float) -> str:
    """A share as text, to a tenth of a per cent: 0.925 -> 92.5 %, 0.5 -> 50 %."""
    return f"{100 * rate:.1f}".removesuffix(".0") + "\u00a0%"


def rate_bars(groups: Mapping[str, Sequence[Bar]]) -> bytes:
    """Horizontal bars under group headings, whiskers for the intervals, numbers at the right."""
    rows = sum(1 + len(bars) for bars in groups.values())
    figure, axes = _chart(NARROW_IN, 0.62 + 0.27 * rows)
    y = 0.0
    ticks: list[tuple[float, str]] = []
    for heading, bars in groups.items():
        axes.text(0, y, _literal(heading), color=MUTED, fontsize=FONT_PT, va="center", ha="left")
        for bar in bars:
            y += 1
            ticks.append((y, bar.label))
            axes.barh(y, bar.rate, height=0.68, color=BAR_COLOURS[bar.kind])
            if bar.interval:
                axes.plot(bar.interval, (y, y), color="white", linewidth=3.5)
                axes.plot(bar.interval, (y, y), color=INK, linewidth=1.3, marker="|", markersize=6)
            axes.text(1.02, y, percent(bar.rate), color=INK, fontsize=FONT_PT, va="center", ha="left")
        y += 1.15
    axes.set(xlim=(0, 1), ylim=(y - 0.55, -0.6), xlabel="share of episodes [%]")
    axes.set_xticks(np.linspace(0, 1, 5), [f"{100 * x:.0f}" for x in np.linspace(0, 1, 5)])
    axes.set_yticks([at for at, _ in ticks], [_literal(label) for _, label in ticks])
    axes.grid(axis="x", color=RULE)
    return _png(figure)


def rate_curves(curves: Sequence[Curve], x_label: str) -> bytes:
    """Shares of episodes over a quantity on a logarithmic scale, whiskers for the intervals."""
    figure, axes = _chart(WIDTH_IN, 2.7)
    for number, curve in enumerate(curves):
        colour = CHUNK_COLOURS[number % len(CHUNK_COLOURS)]
        axes.plot(
            curve.x, curve.rates, color=colour, linewidth=2, marker="o", markersize=4, label=_literal(curve.label)
        )
        for x, (low, high) in zip(curve.x, curve.intervals, strict=True):
            axes.plot((x, x), (low, high), color=colour, linewidth=1.3, marker="_", markersize=6)
    ticks = sorted({x for curve in curves for x in curve.x})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.minorticks_off()
    axes.set(ylim=(-0.02, 1.02), xlabel=x_label, ylabel="share of episodes [%]")
    axes.set_yticks(np.linspace(0, 1, 5), [f"{100 * y:.0f}" for y in np.linspace(0, 1, 5)])
    axes.grid(color=RULE)
    axes.legend(frameon=False, fontsize=FONT_PT, loc="upper left")
    return _png(figure)


def intervals(rows: Sequence[Measured], x_label: str, mark: float | None = None) -> bytes:
    """A row each, the first on top: its interval, its value in numbers, its parts as small rings; a line at `mark`."""
    figure, axes = _chart(WIDTH_IN, 0.62 + 0.27 * len(rows))
    for y, row in enumerate(rows):
        axes.plot(row.interval, (y, y), color=BLUE, linewidth=2)
        axes.plot(row.value, y, color=BLUE, marker="o", markersize=6)
        axes.plot(row.parts, [y] * len(row.parts), color=INK, marker="o", markersize=4, linewidth=0, fillstyle="none")
        axes.annotate(
            f"{row.value:.1f}", (1.02, y), xycoords=("axes fraction", "data"), color=INK, fontsize=FONT_PT, va="center"
        )
    if mark is not None:
        axes.axvline(mark, color=VERMILION, linewidth=1.2)
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=x_label)
    axes.set_yticks(range(len(rows)), [_literal(row.label) for row in rows])
    axes.grid(axis="x", color=RULE)
    return _png(figure)


def lines(drawn: Sequence[Line], x_label: str, y_label: str) -> bytes:
    """Any quantity over any other. With notes every point is marked; a line of one point is a large diamond."""
    figure, axes = _chart(WIDTH_IN, 3.2)
    for number, line in enumerate(drawn):
        alone = len(line.x) == 1
        marker = "D" if alone else ("o" if line.notes else "")
        colour = INK if alone else LINE_COLOURS[number % len(LINE_COLOURS)]
        label, size = _literal(line.label), 7 if alone else 4
        axes.plot(line.x, line.y, color=colour, linewidth=2, marker=marker, markersize=size, label=label)
        for x, y, note in zip(line.x, line.y, line.notes, strict=False):
            axes.annotate(
                _literal(note), (x, y), xytext=(4, 4), textcoords="offset points", color=colour, fontsize=FONT_PT - 2
            )
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(color=RULE)
    axes.legend(frameon=False, fontsize=FONT_PT - 1)
    return _png(figure)


def bands(drawn: Sequence[Band], x_label: str, y_label: str) -> bytes:
    """Means over something, each in the band of its interval."""
    figure, axes = _chart(WIDTH_IN, 3.2)
    for number, band in enumerate(drawn):
        colour = LINE_COLOURS[number % len(LINE_COLOURS)]
        axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(band.x, band.y, color=colour, linewidth=2, label=_literal(band.label))
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(color=RULE)
    axes.legend(frameon=False, fontsize=FONT_PT - 1)
    return _png(figure)


def learning_curve(
    steps: Sequence[int], values: Sequence[float], seconds: Sequence[float] | None, label: str, smooth: int = 1
) -> bytes:
    """A quantity over the time of training, with the steps on top; over the steps where no times are known.

    `smooth` > 1 draws the mean of that many neighbouring values above the values themselves. The scale is
    logarithmic, so values that are not positive leave a gap.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    x = np.asarray(steps if seconds is None else seconds, dtype=float)
    y = np.array([value if value > 0 else math.nan for value in values])
    figure, axes = _chart(WIDTH_IN, 2.7)
    if smooth > 1 and len(y) > 2 * smooth:
        axes.plot(x, y, color=SKY, linewidth=0.8)
        mean = np.convolve(y, np.full(smooth, 1 / smooth), mode="valid")
        axes.plot(x[smooth // 2 :][: len(mean)], mean, color=BLUE, linewidth=2)
    else:
        axes.plot(x, y, color=BLUE, linewidth=2, marker="o", markersize=4)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel(label)
    axes.grid(color=RULE)
    if seconds is None:
        axes.set_xlabel("training step")
        return _png(figure)
    axes.set_xlabel("training time [s]")
    top = axes.twiny()
    _plain(top, "top")
    marks = [mark for mark in MaxNLocator(5, integer=True).tick_values(0, steps[-1]) if 0 < mark <= steps[-1]]
    top.set_xlim(axes.get_xlim())
    top.set_xticks(np.interp(marks, steps, x), [f"{mark:.0f}" for mark in marks])
    top.set_xlabel("training step", fontsize=FONT_PT, color=MUTED)
    return _png(figure)


def action_panels(names: Sequence[str], demonstration: np.ndarray, chunks: Sequence[Chunk], rate_hz: float) -> bytes:
    """One small panel for each entry: the demonstrated actions and the predicted chunks over time.

    `demonstration` is (steps, entries), each chunk's actions (horizon, entries), in the order of `names`:
    joints in rad, grippers as an opening in [0, 1].
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(WIDTH_IN, 0.75 + 0.8 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    times = np.arange(len(demonstration)) / rate_hz
    for entry, (name, axes) in enumerate(zip(names, panels, strict=True)):
        _plain(axes, "bottom")
        axes.plot(times, demonstration[:, entry], color=INK, linewidth=3, alpha=0.3, label="demonstration")
        for i, chunk in enumerate(chunks):
            colour = CHUNK_COLOURS[i % len(CHUNK_COLOURS)]
            chunk_times = (chunk.start + np.arange(len(chunk.actions))) / rate_hz
            axes.plot(chunk_times, chunk.actions[:, entry], color=colour, linewidth=1.3)
            axes.plot(chunk_times[0], chunk.actions[0, entry], color=colour, marker="o", markersize=3.5)
        gripper = "gripper" in name
        unit = "opening, 0 to 1" if gripper else "rad"
        axes.set_title(_literal(f"{name.replace('_', ' ')} [{unit}]"), fontsize=FONT_PT, color=INK, loc="left", pad=3)
        if gripper:
            axes.set_ylim(-0.1, 1.1)
            axes.set_yticks([0, 1])
        else:
            _widen(axes, least=0.2)
            axes.yaxis.set_major_locator(MaxNLocator(2))
        axes.grid(color=RULE)
    panels[-1].set_xlabel("time in the demonstration [s]")
    return _png(figure)


def stage_bars(stage_seconds: Mapping[str, float]) -> bytes:
    """How long each stage took, one horizontal bar a stage, in order."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _chart(WIDTH_IN, 0.55 + 0.27 * len(stage_seconds))
    longest = max(stage_seconds.values())
    axes.barh(range(len(stage_seconds)), list(stage_seconds.values()), height=0.68, color=BLUE)
    for y, seconds in enumerate(stage_seconds.values()):
        axes.text(seconds + 0.015 * longest, y, f"{seconds:.1f} s", color=INK, fontsize=FONT_PT, va="center", ha="left")
    axes.set(xlim=(0, 1.18 * longest or 1), ylim=(len(stage_seconds) - 0.5, -0.5), xlabel="wall time [s]")
    axes.set_yticks(range(len(stage_seconds)), [_literal(name) for name in stage_seconds])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x", color=RULE)
    return _png(figure)


def flagged_series(
    values: np.ndarray, rate_hz: float | None, unit: str, regions: Sequence[tuple[int, int]] = ()
) -> bytes:
    """One column (steps,) over time, over the steps where no rate is known; bad regions [first, last] are marked."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _chart(WIDTH_IN, 1.75)
    period = 1 / rate_hz if rate_hz else 1.0
    times = np.arange(len(values)) * period
    least = 0.012 * max(len(values), 1) * period  # so that a single step is seen
    for first, last in regions:
        middle, half = (first + last) / 2 * period, max((last - first) * period, least) / 2
        axes.axvspan(middle - half, middle + half, color=VERMILION, alpha=0.25, linewidth=0)
    axes.plot(times, values, color=BLUE, linewidth=1.3)
    for first, last in regions:
        inside = slice(first, last + 1)
        axes.plot(times[inside], values[inside], color=VERMILION, linewidth=1.8, marker="o", markersize=2.5)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(color=RULE)
    axes.set_ylabel(_literal({"opening in [0, 1]": "opening", "": "as recorded"}.get(unit, unit)))
    axes.set_xlabel("time [s]" if rate_hz else "step")
    return _png(figure)


def point_panels(
    rows: Sequence[str], columns: Sequence[str], points: Sequence[Sequence[np.ndarray | None]], limit: float
) -> bytes:
    """A table of point clouds (n, 2), each in [-limit, limit]^2; None leaves its place empty."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.9 + 1.25 * len(columns), 0.3 + 1.25 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for number, (label, row) in enumerate(zip(rows, points, strict=True)):
        for axes, column, cloud in zip(grid[number], columns, row, strict=True):
            if cloud is not None:
                axes.scatter(cloud[:, 0], cloud[:, 1], s=0.6, color=BLUE, alpha=0.35, linewidths=0)
            axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=(), yticks=())
            for spine in axes.spines.values():
                spine.set_color(RULE)
            if number == 0:
                axes.set_title(_literal(column), fontsize=FONT_PT, color=INK)
        grid[number][0].set_ylabel(_literal(label), fontsize=FONT_PT, color=INK)
    return _png(figure)


@dataclass(frozen=True)
class Grouping:
    """Points (n, 2) and the group of each, (n,)."""

    points: np.ndarray
    groups: np.ndarray


def grouped_points(panels: Mapping[str, Grouping], columns: int) -> bytes:
    """Point clouds side by side, a colour a group, the title of each above it; groups are many and are not named."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1.85 * columns, 2.0 * rows), layout="constrained")
    for axes, (title, panel) in zip(figure.subplots(rows, columns, squeeze=False).flat, panels.items(), strict=False):
        names, number = np.unique(panel.groups, return_inverse=True)
        colours = colormaps["turbo"](number / max(len(names) - 1, 1))
        if len(names) <= len(LINE_COLOURS):
            colours = np.array(LINE_COLOURS)[number]
        axes.scatter(panel.points[:, 0], panel.points[:, 1], s=2, c=colours, linewidths=0)
        axes.set(xticks=(), yticks=())
        for spine in axes.spines.values():
            spine.set_color(RULE)
        axes.set_title(_literal(title), fontsize=FONT_PT, color=INK)
    return _png(figure)


def signed_maps(labels: Sequence[str], maps: Sequence[np.ndarray], x_label: str, y_label: str) -> bytes:
    """Signed maps (y, x) under each other in one scale: red above zero, blue below, white at zero."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(WIDTH_IN, 0.5 + 0.62 * len(maps)), layout="constrained")
    most = max(float(np.abs(of).max()) for of in maps) or 1.0
    grid = figure.subplots(len(maps), 1, sharex=True, squeeze=False)[:, 0]
    for axes, label, of in zip(grid, labels, maps, strict=True):
        image = axes.imshow(of, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
        axes.set(yticks=(), ylabel=_literal(y_label))
        axes.set_title(_literal(label), fontsize=FONT_PT - 1, color=INK, loc="left", pad=2)
        axes.tick_params(labelsize=FONT_PT - 1, length=0, colors=MUTED)
        axes.yaxis.label.set(fontsize=FONT_PT - 2, color=MUTED)
    grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[-1].set_xlabel(_literal(x_label), fontsize=FONT_PT, color=MUTED)
    figure.colorbar(image, ax=grid.tolist(), fraction=0.03).ax.tick_params(labelsize=FONT_PT - 2, colors=MUTED)
    return _png(figure)


def range_bars(bars: Mapping[str, tuple[float, np.ndarray]], reference: float, x_label: str) -> bytes:
    """Horizontal bars in [0, 1], a dot for each single value on them, a line at the reference."""
    figure, axes = _chart(WIDTH_IN, 0.55 + 0.27 * len(bars))
    for y, (value, single) in enumerate(bars.values()):
        axes.barh(y, value, height=0.68, color=SKY)
        axes.scatter(single, np.full(len(single), y), s=7, color=INK, linewidths=0, zorder=3)
        axes.text(1.02, y, f"{value:.3f}", color=INK, fontsize=FONT_PT, va="center", ha="left")
    axes.axvline(reference, color=MUTED, linewidth=1, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(len(bars) - 0.5, -0.5), xlabel=x_label)
    axes.set_yticks(range(len(bars)), [_literal(name) for name in bars])
    axes.grid(axis="x", color=RULE)
    return _png(figure)


def frame_png(frame: np.ndarray, width: int) -> bytes:
    """A camera frame, RGB uint8 (height, width, 3), scaled to a width in pixels."""
    image = Image.fromarray(frame)
    return _palette_png(image.resize((width, round(width * image.height / image.width)), Image.Resampling.LANCZOS))


def _chart(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = figure.add_subplot()
    _plain(axes, "bottom")
    return figure, axes


def _plain(axes: Axes, x_side: str) -> None:
    """Ink where the data is; the frame keeps only the side that carries the x axis."""
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == x_side == "bottom")
        spine.set_color(MUTED)
    axes.tick_params(labelsize=FONT_PT, length=0, colors=MUTED, labelcolor=INK)
    axes.tick_params(axis="y", which="minor", length=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_fontsize(FONT_PT)
        axis.label.set_color(MUTED)


def _widen(axes: Axes, least: float) -> None:
    """At least that much range, so that a joint at rest does not look like one that shakes."""
    low, high = axes.get_ylim()
    if high - low < least:
        middle = (low + high) / 2
        axes.set_ylim(middle - least / 2, middle + least / 2)


def _literal(text: str) -> str:
    """Text that matplotlib must not read as a formula."""
    return text.replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100 * PIXEL_RATIO, facecolor="white")
    with Image.open(buffer) as image:
        return _palette_png(image.convert("RGB"))


def _palette_png(image: Image.Image) -> bytes:
    """At most 256 colours, chosen for this picture: a third of the size at no visible loss."""
    buffer = io.BytesIO()
    palette = image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    palette.save(buffer, format="png", optimize=True)
    return buffer.getvalue()
