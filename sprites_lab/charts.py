"""Charts for the notebooks, by matplotlib: lines, bars and tables as PNGs of a fixed width, each with a text alternative.

Colour is never the only difference: lines differ by dashes and markers too, bars by hatches.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from sprites_lab.figures import COLOURS, Figure, png

DASHES, MARKERS = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))), ("o", "s", "^", "D", "v", "P")
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++")


def show_lines(
    lines: dict[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, title: str = "", log_y: bool = False,
    marks: dict[str, float] | None = None, levels: dict[str, float] | None = None, spreads: dict[str, Sequence[float]] | None = None,
    log_x: bool = False, alt: str = "",
) -> Figure:
    """A chart of named lines (xs, ys); dotted vertical `marks` and horizontal `levels` with their names; ± `spreads` as bars."""
    figure, axes = new_chart(x, y, title)
    for i, (name, (xs, ys)) in enumerate(lines.items()):
        if name in (spreads or {}):
            axes.errorbar(np.asarray(xs), np.asarray(ys), np.asarray(spreads[name]), fmt="none", capsize=3, color=COLOURS[i % len(COLOURS)])
        marker = MARKERS[i % len(MARKERS)] if len(xs) <= 12 else None
        axes.plot(np.asarray(xs), np.asarray(ys), label=name, color=COLOURS[i % len(COLOURS)], linestyle=DASHES[i % len(DASHES)], marker=marker)
    for name, place in (marks or {}).items():
        axes.axvline(place, color="grey", linestyle=":")
        axes.annotate(name, (place, 0.99), xycoords=("data", "axes fraction"), rotation=90, va="top", ha="right", fontsize=8, color="dimgrey")
    for place in (levels or {}).values():
        axes.axhline(place, color="grey", linestyle=":")
    if log_y:
        plain_log_scale(axes)
    if log_x:
        plain_log_scale(axes, "x")
    for name, place in (levels or {}).items():
        note_level(figure, axes, name, place)
    if len(lines) > 1:
        add_legend(figure, axes)
    return finish_chart(figure, alt or title)


def show_bars(groups: dict[str, Sequence[float]], names: Sequence[str], y: str, title: str = "", alt: str = "") -> Figure:
    """A bar chart: for each name on the x axis one bar of every group."""
    figure, axes = new_chart("", y, title)
    width = 0.8 / len(groups)
    for i, (group, values) in enumerate(groups.items()):
        places = np.arange(len(names)) - 0.4 + width * (i + 0.5)
        axes.bar(places, values, width * 0.92, label=group, color=COLOURS[i % len(COLOURS)], hatch=HATCHES[i % len(HATCHES)], edgecolor="white", linewidth=0)
    axes.set_xticks(range(len(names)), names)
    if len(groups) > 1:
        figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return finish_chart(figure, alt or title)


def show_ranking(values: dict[str, float], x: str, level: tuple[str, float] | None = None, title: str = "", alt: str = "") -> Figure:
    """Horizontal bars with their values, the first on top; a dotted line at `level` (its name, its value) to compare with."""
    figure, axes = new_chart(x, "", title)
    figure.set_figheight(0.8 + 0.24 * len(values))
    bars = axes.barh(range(len(values)), list(values.values()), 0.75, color=COLOURS[0])
    axes.bar_label(bars, [f"{value:.3g}" for value in values.values()], padding=3, fontsize=8)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    if level:
        axes.axvline(level[1], color="grey", linestyle=":")
        axes.annotate(level[0], (level[1], 1), xycoords=("data", "axes fraction"), va="bottom", ha="center", fontsize=8, color="dimgrey")
    return finish_chart(figure, alt or title)


def show_waterfall(values: dict[str, float], notes: Sequence[str], y: str, title: str = "", alt: str = "") -> Figure:
    """Bars that fall from left to right on a logarithmic axis: between two of them the factor, below each its note."""
    figure, axes = new_chart("", y, title)
    figure.set_figwidth(max(7, 1.1 * len(values)))
    heights = list(values.values())
    axes.set_yscale("log")
    axes.set_ylim(min(heights) / 2.5, max(heights) * 2.5)
    bars = axes.bar(range(len(heights)), heights, 0.62, color=COLOURS[0])
    axes.bar_label(bars, [f"{height:.3g}" for height in heights], padding=2, fontsize=8)
    for i, (high, low) in enumerate(zip(heights, heights[1:])):
        axes.annotate("", (i + 0.69, low), (i + 0.69, high), arrowprops={"arrowstyle": "->", "color": "dimgrey"})
        axes.text(i + 0.66, (high * low) ** 0.5, f"{high / low:.3g}x", ha="right", va="center", fontsize=8, color="black", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    axes.set_xticks(range(len(values)), [f"{name}\n{note}" for name, note in zip(values, notes)], fontsize=8)
    return finish_chart(figure, alt or title)


def show_table(counts: np.ndarray, names: Sequence[str], rows: str, columns: str, title: str = "", alt: str = "") -> Figure:
    """A square table of counts (K, K) as shares of each row: dark where a row's counts lie, the share written in every field."""
    counts = np.asarray(counts, float)
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    figure, axes = new_chart(columns, rows, title)
    figure.set_figheight(3.6)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), share in np.ndenumerate(shares):
        axes.text(j, i, f"{share:.1%}", ha="center", va="center", fontsize=9, color="white" if share > 0.6 else "black")
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    return finish_chart(figure, alt or title)


def show_maps(maps: dict[str, Tensor], x: str, y: str, level: str, first: int = 0, log: bool = False, alt: str = "") -> Figure:
    """Maps of numbers (H, W) side by side, each under its name, in one scale of colours named `level`; the axes count from `first`."""
    import matplotlib.pyplot as plt

    figure, all_axes = plt.subplots(1, len(maps), figsize=(7, 3), dpi=100, layout="constrained", squeeze=False)
    values = [np.asarray(values.detach().cpu(), float) for values in maps.values()]
    limits = {"norm": "log" if log else "linear", "vmin": min(map(np.min, values)), "vmax": max(map(np.max, values))}
    for axes, name, map_ in zip(all_axes[0], maps, values):
        height, width = map_.shape
        edges = (first - 0.5, first + width - 0.5, first + height - 0.5, first - 0.5)
        shown = axes.imshow(map_, cmap="viridis", interpolation="nearest", extent=edges, **limits)
        axes.set(xlabel=x, ylabel=y, title=name)
    figure.colorbar(shown, ax=all_axes, label=level, shrink=0.8)
    return finish_chart(figure, alt or ", beside ".join(maps))


def show_histograms(samples: dict[str, Tensor], x: str, title: str = "", alt: str = "") -> Figure:
    """Histograms of values side by side, each under the standard normal curve."""
    import matplotlib.pyplot as plt

    figure, all_axes = plt.subplots(1, len(samples), figsize=(7, 3), dpi=100, layout="constrained", sharey=True, squeeze=False)
    curve = np.linspace(-4, 4, 200)
    for i, (axes, (name, values)) in enumerate(zip(all_axes[0], samples.items())):
        axes.hist(values.flatten().numpy(), bins=60, range=(-4, 4), density=True, color=COLOURS[i], alpha=0.6)
        axes.plot(curve, np.exp(-(curve**2) / 2) / np.sqrt(2 * np.pi), color="black", linewidth=1)
        axes.set(xlabel=x, title=name)
    figure.suptitle(title)
    return finish_chart(figure, alt or title)


def show_blocks(shapes: dict[str, tuple[int, int]], skips: Sequence[tuple[str, str]], title: str = "", alt: str = "") -> Figure:
    """A network as bars from left to right: name -> (features, height in pixels); width grows with features; skips as arrows."""
    figure, axes = new_chart("", "height in pixels", title)
    place, middle = 0.0, {}
    for name, (features, height) in shapes.items():
        width = 0.25 + features / 128
        axes.bar(place + width / 2, height, width, color=COLOURS[0], alpha=0.75)
        axes.text(place + width / 2, height + 0.3, f"{name}\n{features}x{height}x{height}", ha="center", fontsize=7)
        middle[name] = place + width / 2
        place += width + 0.55
    for start, end in skips:  # below the bars, the wider the deeper
        left, right, depth = middle[start], middle[end], -1 - shapes[start][1] / 5
        axes.plot([left, left, right], [0, depth, depth], color=COLOURS[1])
        axes.annotate("", (right, 0), (right, depth), arrowprops=dict(arrowstyle="->", color=COLOURS[1], shrinkA=0, shrinkB=0))
    heights = sorted({height for _, height in shapes.values()})
    axes.set(xticks=[], yticks=heights, ylim=(-1.5 - heights[-1] / 5, heights[-1] + 3))
    axes.spines["bottom"].set_visible(False)
    axes.spines["left"].set_bounds(0, heights[-1])
    return finish_chart(figure, alt or title)


def new_chart(x: str, y: str, title: str) -> tuple:
    """An empty matplotlib figure and its axes, 7 x 3 inches."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3), dpi=100, layout="constrained")
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def note_level(figure: Any, axes: Any, name: str, place: float) -> None:
    """The name of a dotted level above it: at its left end, or where no line of the chart goes through it."""
    lines = [line for line in axes.lines if not line.get_label().startswith("_")]
    note = axes.annotate(name, (0.01, place), xycoords=("axes fraction", "data"), va="bottom", fontsize=8, color="dimgrey")
    for x, side in ((0.01, "left"), (0.99, "right"), (0.3, "center"), (0.5, "center"), (0.7, "center"), (0.01, "left")):
        note.set(x=x, ha=side)
        if not covers(figure, note, lines):
            break


def add_legend(figure: Any, axes: Any) -> None:
    """The names of the lines: inside where there is room, above the chart where they would cover something."""
    legend = axes.legend(frameon=False, fontsize=9)
    if covers(figure, legend, axes.lines, axes.texts):
        legend.remove()
        names = axes.get_legend_handles_labels()[1]
        columns = len(names) if sum(map(len, names)) < 70 else 2
        figure.legend(loc="outside upper center", ncols=columns, frameon=False, fontsize=9)


def covers(figure: Any, artist: Any, lines: Sequence[Any], texts: Sequence[Any] = ()) -> bool:
    """Whether an artist lies on one of the lines or texts of a chart, as it would be drawn now."""
    figure.draw_without_rendering()
    box = artist.get_window_extent()
    crossed = (line.get_path().transformed(line.get_transform()).intersects_bbox(box, filled=False) for line in lines)
    return any(crossed) or any(text.get_window_extent().overlaps(box) for text in texts)


def plain_log_scale(axes: Any, which: str = "y") -> None:
    """A logarithmic axis with ticks such as 0.05, 0.1, 0.2 (or whole decades only, if there are many)."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    (low, high), axis = (axes.get_ylim(), axes.yaxis) if which == "y" else (axes.get_xlim(), axes.xaxis)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def finish_chart(figure: Any, alt: str) -> Figure:
    """The chart as a PNG of fixed size in at most 128 colours (a quarter of the bytes); matplotlib forgets it."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    plt.close(figure)
    chart = Image.open(buffer).convert("RGB").quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return Figure(png(chart), alt)
