"""Sheets of sprites for the notebooks: tensors in [-1, 1] become PNGs of a fixed size, all scaled in the same way.

Values outside [-1, 1] are clipped, never stretched. What a notebook shows is a Figure, which has a text alternative.
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
