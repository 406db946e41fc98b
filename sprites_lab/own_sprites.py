"""From someone's PNG files, sheets or folders of them, to a sprite set with class names of its own, and an account of what was understood."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from sprites_lab.data import SpriteSet, is_class_name
from sprites_lab.errors import LabError
from sprites_lab.grids import find_grid
from sprites_lab.png import read_png
from sprites_lab.settings import check_number, check_whole, shown
from sprites_lab.splits import split

WHOLE = 64  # pixels: a picture in a folder that is no larger is one sprite, unless a tile size is given
MOST = 100_000
FITS = ("crop", "pad", "nearest", "area")


class Reading(NamedTuple):
    """How pictures are to be read; None is found out. Colours are red, green, blue, 0 to 255.

    tile (width, height), spacing and margin of sheets, see `find_grid`; `crop` drops pixels that no tile fills. Sprites become
    `size` pixels wide and high by `fit`: crop (the middle), pad (with background), nearest or area (scaled). `key` is a colour
    that counts as transparent. `frames` takes all frames of an animated PNG. `held_out` is the share of sprites to hold out.
    """

    tile: tuple[int, int] | None = None
    spacing: int | None = None
    margin: int | None = None
    crop: bool = False
    size: int = 16
    fit: str | None = None
    background: tuple[int, int, int] = (255, 255, 255)
    key: tuple[int, int, int] | None = None
    frames: bool = False
    held_out: float = 0.1


class Account(NamedTuple):
    """A sprite set and the sentences that tell how it came about."""

    sprites: SpriteSet
    lines: list[str]


class Source(NamedTuple):
    """A picture, the class that its sprites belong to, and whether it came from a folder of sprites."""

    path: Path
    class_name: str
    in_folder: bool


def import_sprites(sources: Sequence[str | Path], reading: Reading = Reading()) -> Account:
    """Read PNG files and folders; a folder's subfolders are classes, so is every other source; "name=path" names its class.

    Empty tiles (transparent, or of one colour) and sprites that came before are dropped and counted. LabError, naming the file,
    for whatever cannot be read or cut.
    """
    check_reading(reading)
    lines, kept, seen = [], [], {}
    counts = {"empty": 0, "double": 0, "double in another class": 0}
    for source in listed(sources, lines):
        tiles, told = read_tiles(source, reading)
        lines += [f"{source.path}: {told}"] if told else []
        for number, tile in enumerate(tiles):
            if is_empty(tile):
                counts["empty"] += 1
                continue
            sprite = on_background(fitted(tile, reading, source.path), reading.background)
            before = seen.setdefault(sprite.tobytes(), source.class_name)
            if len(seen) == len(kept):
                counts["double" if before == source.class_name else "double in another class"] += 1
            else:
                kept.append((sprite, source.class_name, f"{source.path}" if reading.frames and len(tiles) > 1 else ""))
        if len(kept) > MOST:
            raise LabError(f"{source.path}: with it there are more than {MOST:,} sprites; import fewer at once")
    return account(kept, counts, reading, lines)


def check_reading(reading: Reading) -> None:
    """LabError for settings that cannot be meant."""
    for name, least, value in (("tile", 1, reading.tile), ("spacing", 0, reading.spacing), ("margin", 0, reading.margin)):
        for number in value if isinstance(value, tuple) else () if value is None else (value,):
            check_whole(name, number, least, 1024, "pixels")
    if check_whole("size", reading.size, 4, 256, "pixels, a multiple of 4") % 4:
        raise LabError(f"size is {reading.size}, but the network halves pictures twice: use a multiple of 4 from 4 to 256")
    if reading.fit is not None and not (isinstance(reading.fit, str) and reading.fit in FITS):
        raise LabError(f"there is no fit {shown(reading.fit)}; there are: {', '.join(FITS)}")
    check_number("held_out", reading.held_out, 0, 0.5, "the share that no training sees")


def listed(sources: Sequence[str | Path], lines: list[str]) -> Iterator[Source]:
    """Every PNG of the sources, in the order of their names; what else lies in the folders is told in `lines`."""
    if not sources:
        raise LabError("nothing to import: give PNG files, or folders with PNG files")
    for source in sources:
        name, path = named(source)
        if not path.is_dir():
            yield Source(path, class_name(name or path.stem, path), False)
            continue
        found = sorted(path for path in walked(path) if path.suffix.lower() == ".png")
        others = sum(path.suffix.lower() != ".png" for path in walked(path))
        if not found:
            raise LabError(f"{path} holds no PNG files{f' (but {others} others: save them as PNG)' if others else ''}; give a folder of PNGs, or of subfolders with PNGs")
        if others:
            lines.append(f"{path}: {others} files that are no PNGs were left out")
        for picture in found:
            parts = picture.relative_to(path).parts
            yield Source(picture, class_name(name or (parts[0] if len(parts) > 1 else path.resolve().name), picture), True)


def named(source: str | Path) -> tuple[str, Path]:
    """The class name (or "") and the path of "name=path" or "path"."""
    text = str(source)
    try:
        there = Path(text).exists()
    except (OSError, ValueError) as error:
        raise LabError(f"{text!r} is no possible path ({error})") from error
    name, _, rest = text.rpartition("=") if not there and "=" in text else ("", "", text)
    if not Path(rest).exists():
        raise LabError(f"there is no file or folder {rest}; give PNG files or folders, or name=path to name a class")
    return name, Path(rest)


def walked(folder: Path) -> Iterator[Path]:
    """All files below a folder, except hidden ones and what macOS leaves in archives. Links to folders are not followed."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        yield from (Path(place, name) for name in files if not name.startswith("."))


def class_name(name: str, path: Path) -> str:
    """A name that contexts can be written with; LabError for one that they cannot."""
    name = name.strip()
    if not is_class_name(name) or not name.isprintable() or len(name) > 100:
        raise LabError(f"{path}: '{name[:100]}' cannot be the name of a class, since contexts are written hero=1,food=0.6 or none: rename it, or give newname={path}")
    return name


def read_tiles(source: Source, reading: Reading) -> tuple[np.ndarray, str]:
    """The tiles of a picture, uint8 (N, H, W, 4), and how they were found."""
    pictures = read_png(source.path, reading.frames)
    height, width = pictures.shape[1:3]
    told = f"{len(pictures)} frames" if len(pictures) > 1 else ""
    if reading.key is not None:
        keyed = (pictures[..., :3] == np.array(reading.key, np.uint8)).all(-1)
        pictures = np.concatenate([pictures[..., :3], np.where(keyed, 0, pictures[..., 3])[..., None]], -1).astype(np.uint8)
    if not reading.tile and (width == height == reading.size or source.in_folder and max(width, height) <= WHOLE):
        return pictures, told
    try:
        grid = find_grid(pictures[0], reading.tile, reading.spacing, reading.margin, reading.crop)
    except LabError as error:
        raise LabError(f"{source.path}: {error}") from error
    return np.concatenate([grid.cut(picture) for picture in pictures]), ", ".join(filter(None, [told, str(grid)]))


def is_empty(tile: np.ndarray) -> bool:
    """Whether a tile (H, W, 4) shows nothing: all of it is transparent, or of one colour."""
    return not tile[..., 3].any() or bool((tile == tile[0, 0]).all())


def fitted(tile: np.ndarray, reading: Reading, path: Path) -> np.ndarray:
    """A tile (H, W, 4) as (size, size, 4), by the fit that was chosen."""
    size, fit, (height, width) = reading.size, reading.fit, tile.shape[:2]
    if height == width == size:
        return tile
    too_large, too_small = max(height, width) > size, min(height, width) < size
    if fit is None or fit == "crop" and too_small or fit == "pad" and too_large:
        ways = [f"{name} ({text})" for name, text in (
            ("crop", "keep the middle" * (not too_small)), ("pad", "background around it" * (not too_large)),
            ("nearest", "scale, keep hard edges"), ("area", "scale, mix neighbouring colours")) if text]  # fmt: skip
        raise LabError(f"{path}: sprites of {width}x{height} pixels are to become {size}x{size}; choose with --fit: {', '.join(ways)}; or another --size")
    if fit in ("nearest", "area"):
        tile = scaled(tile, size, fit)
    height, width = tile.shape[:2]
    top, left = (abs(size - height) // 2, abs(size - width) // 2)
    if fit == "crop":
        return tile[top : top + size, left : left + size]
    whole = np.zeros((size, size, 4), np.uint8)
    whole[top : top + height, left : left + width] = tile
    return whole


def scaled(tile: np.ndarray, size: int, fit: str) -> np.ndarray:
    """A tile (H, W, 4) whose longer side is `size` pixels; `area` averages colours by how opaque they are."""
    longer = max(tile.shape[:2])
    height, width = (max(1, round(length * size / longer)) for length in tile.shape[:2])
    if fit == "nearest":
        rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in ((height, tile.shape[0]), (width, tile.shape[1])))
        return tile[rows][:, columns]
    image = Image.fromarray(np.ascontiguousarray(tile), "RGBA").convert("RGBa")
    return np.asarray(image.resize((width, height), Image.Resampling.BOX).convert("RGBA"))


def on_background(sprite: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """A sprite (H, W, 4) laid on a colour: uint8 (H, W, 3). What lies under alpha 0 is never seen."""
    alpha = sprite[..., 3:].astype(np.uint16)
    mixed = sprite[..., :3] * alpha + np.array(background, np.uint16) * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def account(kept: list[tuple[np.ndarray, str, str]], counts: dict[str, int], reading: Reading, lines: list[str]) -> Account:
    """The set of all sprites (pixels, class, file they must stay together with) and what to tell of it."""
    if not kept:
        raise LabError(f"no sprites were found: {counts['empty']} tiles, all of them empty; look at the pictures, and at --tile and --key")
    names = tuple(dict.fromkeys(name for _, name, _ in kept))
    labels = np.array([names.index(name) for _, name, _ in kept], np.uint16)
    sprites = np.stack([sprite for sprite, _, _ in kept])
    held_out = split(sprites, labels, reading.held_out, [file for *_, file in kept])
    found = SpriteSet(sprites, labels, labels, held_out, names, names)
    dropped = [f"{count} {what}" for what, count in counts.items() if count]
    numbers = ", ".join(f"{name} {(labels == i).sum()}" for i, name in enumerate(names))
    lines = [*lines, f"{len(found):,} sprites of {reading.size}x{reading.size} pixels in {len(names)} classes: {numbers}"]
    lines += [f"dropped: {', '.join(dropped)}"] if dropped else []
    return Account(found, [*lines, f"{held_out.sum()} of them are held out of training; mirror images and recoloured sprites stay together"])
