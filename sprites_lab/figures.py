"""Pictures and charts for the notebooks: tensors in [-1, 1] become PNGs of a fixed size, all scaled in the same way.

Every function returns an IPython Image with a text alternative. Values outside [-1, 1] are clipped, never stretched.
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sprites_lab.errors import LabError

GUTTER = 128  # mid grey, visible on light and on dark pages
COLOURS = ("#3c68d0", "#e87828", "#38a850", "#c8303c", "#7048c0", "#208c8c", "#84388c", "#7c4c30")
DASHES, MARKERS = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))), ("o", "s", "^", "D", "v", "P")  # colour is never the only difference
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++")


class Figure:
    """A PNG (or animated PNG) that a notebook shows; `data` are its bytes, `alt` says what is on it."""

    def __init__(self, data: bytes, alt: str):
        self.data, self.alt = data, alt

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        """What IPython asks for: the picture, with its text alternative."""
        import base64

        return {"image/png": base64.b64encode(self.data).decode(), "text/plain": self.alt}, {"image/png": {"alt": self.alt}}

    def save(self, path: str) -> None:
        """Write the PNG to a file."""
        with open(path, "wb") as file:
            file.write(self.data)


def show_grid(
    pictures: Tensor, columns: int = 8, zoom: int = 4, rows: Sequence[str] = (), titles: Sequence[str] = (), alt: str = "a grid of sprites"
) -> Figure:
    """Pictures (N, 3, H, W) in rows of `columns`, each pixel `zoom` wide; names for the rows and titles for the columns."""
    return Figure(png(label_grid(tile(pictures, columns, zoom), pictures.shape[-1] * zoom + 2, rows, titles)), alt)


def film_strip(frames: Sequence[Tensor], titles: Sequence[str], zoom: int = 4, rows: Sequence[str] = (), alt: str = "a film strip") -> Figure:
    """One column per moment, one row per picture: frames are batches (B, 3, H, W) of the same pictures."""
    if len(frames) != len(titles):
        raise LabError(f"{len(frames)} frames with {len(titles)} titles: give each frame its title, such as 't=400'")
    return show_grid(torch.stack(list(frames), 1).flatten(0, 1), len(frames), zoom, rows, titles, alt)


def animate(
    frames: Sequence[Tensor], captions: Sequence[str] = (), columns: int = 8, zoom: int = 3, milliseconds: int = 150, alt: str = "an animation"
) -> Figure:
    """Batches (B, 3, H, W) one after the other as an animated PNG, each with its caption; the last one stays longer."""
    return Figure(animation(frames, "PNG", captions, columns, zoom, milliseconds), alt)


def animation(
    frames: Sequence[Tensor], kind: str, captions: Sequence[str] = (), columns: int = 8, zoom: int = 3, milliseconds: int = 150
) -> bytes:
    """The bytes of an animated PNG or GIF (`kind`) that shows the batches one after the other, endlessly."""
    captions = captions or [""] * len(frames)
    if len(captions) != len(frames):
        raise LabError(f"{len(frames)} frames with {len(captions)} captions: give each frame its caption, or none at all")
    images = [label_grid(tile(f, columns, zoom), f.shape[-1] * zoom + 2, (), (caption,) if caption else ()) for f, caption in zip(frames, captions)]
    palette = arrange([[image] for image in images], gap=0).quantize(256, Image.Quantize.FASTOCTREE)  # one for all frames: with several, Pillow writes full colours
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    times = [milliseconds] * (len(images) - 1) + [10 * milliseconds]
    buffer = io.BytesIO()
    images[0].save(buffer, kind, save_all=True, append_images=images[1:], duration=times, loop=0)
    return buffer.getvalue()


def side_by_side(sheets: dict[str, Tensor], columns: int = 10, zoom: int = 4, alt: str = "") -> Figure:
    """Sheets of pictures (N, 3, H, W) next to each other, each under its name."""
    named = [label_grid(tile(pictures, columns, zoom), 0, (), (name,)) for name, pictures in sheets.items()]
    return Figure(png(arrange([named])), alt or ", beside ".join(sheets))


def page(rows: Sequence[Sequence[Figure]], alt: str) -> Figure:
    """Figures on one white page, each row from left to right, the rows below each other; no picture is scaled."""
    whole = arrange([[Image.open(io.BytesIO(one.data)).convert("RGB") for one in row] for row in rows])
    return Figure(png(whole.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)), alt)


def show_classes(sprites: np.ndarray, labels: np.ndarray, names: Sequence[str], columns: int = 16, most: int = 40, zoom: int = 3) -> Figure:
    """The first sprites, uint8 (N, H, W, 3), of each class as a row with its name and number; of at most `most` classes."""
    rows = np.full((min(len(names), most), columns, *sprites.shape[1:]), GUTTER, np.uint8)
    for number, row in enumerate(rows):
        some = sprites[labels == number][:columns]
        row[: len(some)] = some
    told = [f"{name} ({(labels == number).sum()})" for number, name in enumerate(names[:most])]
    more = f" (the first {most} of {len(names)} classes)" if len(names) > most else ""
    pictures = torch.from_numpy(rows.reshape(-1, *sprites.shape[1:])).permute(0, 3, 1, 2) / 127.5 - 1
    return show_grid(pictures, columns, zoom, told, alt=f"Sprites of each class: {', '.join(told)}{more}")


def tile(pictures: Tensor, columns: int, zoom: int) -> Image.Image:
    """A sheet of pictures with a grey gutter of 2 pixels between them and around.

    (As torchvision's make_grid would do it, whose import alone takes longer than sampling a sheet.)
    """
    shown = ((pictures.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    large = shown.permute(0, 2, 3, 1).numpy().repeat(zoom, 1).repeat(zoom, 2)
    count, height, width, _ = large.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 2) + 2, columns * (width + 2) + 2, 3), GUTTER, np.uint8)
    for i, picture in enumerate(large):
        y, x = i // columns * (height + 2) + 2, i % columns * (width + 2) + 2
        sheet[y : y + height, x : x + width] = picture
    return Image.fromarray(sheet)


def label_grid(sheet: Image.Image, cell: int, rows: Sequence[str], titles: Sequence[str]) -> Image.Image:
    """The sheet with names left of its rows and titles (of one line or more) above its columns, on white."""
    font = ImageFont.load_default(12)
    left = max((int(font.getlength(name)) + 10 for name in rows), default=0)
    top = max((3 + 15 * len(title.split("\n")) for title in titles), default=0)
    right = max([sheet.width] + [i * cell + 3 + int(font.getlength(line)) for i, title in enumerate(titles) for line in title.split("\n")])
    page = Image.new("RGB", (left + right, top + sheet.height), "white")
    page.paste(sheet, (left, top))
    pen = ImageDraw.Draw(page)
    for i, title in enumerate(titles):
        pen.text((left + 2 + i * cell, 2), title, "black", font)
    for i, name in enumerate(rows):
        pen.text((4, top + i * cell + cell // 2 - 6), name, "black", font)
    return page


def arrange(rows: Sequence[Sequence[Image.Image]], gap: int = 16) -> Image.Image:
    """Images on one white sheet: rows from left to right, one below the other, `gap` pixels between; low ones in the middle of their row."""
    widths = [sum(image.width for image in row) + gap * (len(row) - 1) for row in rows]
    heights = [max(image.height for image in row) for row in rows]
    whole, top = Image.new("RGB", (max(widths), sum(heights) + gap * (len(rows) - 1)), "white"), 0
    for row, height in zip(rows, heights):
        left = 0
        for image in row:
            whole.paste(image, (left, top + (height - image.height) // 2))
            left += image.width + gap
        top += height + gap
    return whole


def png(image: Image.Image, small: bool = True) -> bytes:
    """The bytes of a PNG; if not `small`, a tenth larger and packed in a fraction of the time."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **({"optimize": True} if small else {"compress_level": 1}))
    return buffer.getvalue()


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
    for name, place in (levels or {}).items():
        axes.axhline(place, color="grey", linestyle=":")
        axes.annotate(name, (0.01, place), xycoords=("axes fraction", "data"), va="bottom", fontsize=8, color="dimgrey")
    if log_y:
        plain_log_scale(axes)
    if log_x:
        plain_log_scale(axes, "x")
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=9)
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


def plain_log_scale(axes: object, which: str = "y") -> None:
    """A logarithmic axis with ticks such as 0.05, 0.1, 0.2 (or whole decades only, if there are many)."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    (low, high), axis = (axes.get_ylim(), axes.yaxis) if which == "y" else (axes.get_xlim(), axes.xaxis)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def finish_chart(figure: object, alt: str) -> Figure:
    """The chart as a PNG of fixed size in at most 128 colours (a quarter of the bytes); matplotlib forgets it."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    plt.close(figure)
    chart = Image.open(buffer).convert("RGB").quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return Figure(png(chart), alt)
