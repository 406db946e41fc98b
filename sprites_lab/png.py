"""A PNG picture as plain red, green, blue and alpha, whatever kind of PNG it is: read by Pillow, once its chunks are known to be sane."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from sprites_lab import gates
from sprites_lab.errors import LabError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_FILE, MAX_PIXELS, FEW_PIXELS, PIXELS_PER_BYTE = 64 << 20, 16 << 20, 4 << 20, 100
BIT = 1 << 16  # bytes that are unpacked at once
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # of each colour type
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # first column and row, steps: interlaced
STILL, MOVING = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"), (b"acTL", b"fcTL", b"fdAT")
Chunks = list[tuple[bytes, bytes]]


def read_png(path: str | Path, frames: bool = False) -> np.ndarray:
    """A PNG as uint8 (1, H, W, 4): red, green, blue, alpha; with `frames`, all frames of an animated one, (N, H, W, 4).

    Grey, palette and 16-bit pictures become 8-bit colours (the upper byte); a transparent entry or colour key becomes alpha 0
    (with 16-bit colours, by their upper bytes). Colour profiles and texts in the file are not looked at. LabError for anything
    that is no sound PNG, or has over 16 million pixels.
    """
    path = Path(path)
    data = gates.read_file(path, "PNG picture", "give PNG files: any paint program can save or export them", SIGNATURE, MAX_FILE)
    chunks = chunks_of(path, data)
    depth, colour = check_header(path, chunks, len(data))
    key = next((value for name, value in chunks if name == b"tRNS"), b"") if colour in (0, 2) else b""
    wanted = STILL + (MOVING if frames else ())
    kept = [(name, value) for name, value in chunks if name in wanted and not (key and name == b"tRNS")]
    check_pixels(path, chunks)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pictures = decoded(join(kept), frames)
    except Exception as error:
        raise LabError(f"{path} is damaged: its pixels cannot be read ({str(error) or type(error).__name__}). Save or download it again") from error
    return key_out(path, pictures, key, depth, colour)


def chunks_of(path: Path, data: bytes) -> Chunks:
    """The name and content of every chunk up to the end mark, each with the right checksum."""
    chunks, place = [], len(SIGNATURE)
    while place + 12 <= len(data):
        length, name = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        value, checksum = data[place + 8 : place + 8 + length], data[place + 8 + length : place + 12 + length]
        if len(checksum) < 4 or zlib.crc32(name + value) != int.from_bytes(checksum):
            break
        chunks.append((name, value))
        if name == b"IEND":
            return chunks
        place += 12 + length
    raise LabError(f"{path} is damaged or cut off: after {place:,} bytes comes no sound part of a PNG. Save or download it again")


def check_header(path: Path, chunks: Chunks, size: int) -> tuple[int, int]:
    """Bit depth and colour type; LabError for a header that is none, or a picture too large for its file."""
    names = [name for name, _ in chunks]
    if names[0] != b"IHDR" or len(chunks[0][1]) != 13 or names.count(b"IHDR") > 1 or b"IDAT" not in names or names.count(b"PLTE") > 1 or names.count(b"tRNS") > 1:
        raise LabError(f"{path} is damaged: the parts of this PNG are not in order. Save it again")
    width, height, depth, colour, packing, filtering, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    if depth not in DEPTHS.get(colour, ()) or packing or filtering or interlace > 1 or (colour == 3 and b"PLTE" not in names):
        raise LabError(f"{path} is damaged: there is no PNG of colour type {colour} with {depth} bits. Save it again")
    count = max([1] + [int.from_bytes(value[:4]) for name, value in chunks if name == b"acTL"])
    pixels = width * height * count
    if not 0 < pixels <= MAX_PIXELS or pixels > max(FEW_PIXELS, PIXELS_PER_BYTE * size):
        raise LabError(f"{path} says it has {width} x {height} pixels{f' in {count} frames' if count > 1 else ''}, from a file of {size:,} bytes; a sheet may have {MAX_PIXELS:,}: cut it into smaller ones")
    return depth, colour


def check_pixels(path: Path, chunks: Chunks) -> None:
    """LabError unless the picture unpacks to exactly as many bytes as its size asks for; none of them are kept."""
    width, height, depth, colour, *_, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    bits = depth * CHANNELS[colour]
    wanted = 0
    for x, y, right, down in PASSES if interlace else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // right), -(-(height - y) // down)
        wanted += rows * (1 + -(-columns * bits // 8)) if columns > 0 and rows > 0 else 0
    packed, there = zlib.decompressobj(), 0
    try:
        for part in (value[i : i + BIT] for name, value in chunks if name == b"IDAT" for i in range(0, len(value), BIT)):
            while part and there <= wanted and not packed.eof:
                there += len(packed.decompress(part, BIT))
                part = packed.unconsumed_tail
    except zlib.error as error:
        raise LabError(f"{path} is damaged: its pixels cannot be unpacked. Save or download it again") from error
    if there != wanted or not packed.eof:
        raise LabError(f"{path} is damaged: it holds {'more' if there > wanted else 'fewer'} pixels than {width} x {height}. Save or download it again")


def join(chunks: Chunks) -> bytes:
    """A PNG file of these chunks."""
    return SIGNATURE + b"".join(len(value).to_bytes(4) + name + value + zlib.crc32(name + value).to_bytes(4) for name, value in chunks)


def decoded(data: bytes, frames: bool) -> np.ndarray:
    """The pixels of a PNG, (N, H, W, 4), by Pillow; 16-bit grey comes as it is, uint16 (1, H, W)."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        if image.mode.startswith("I"):
            return np.asarray(image, np.uint16)[None]
        pictures = []
        for number in range(getattr(image, "n_frames", 1) if frames else 1):
            image.seek(number)
            pictures.append(np.asarray(image.convert("RGBA")))
        return np.stack(pictures)


def key_out(path: Path, pictures: np.ndarray, key: bytes, depth: int, colour: int) -> np.ndarray:
    """The pictures as 8-bit RGBA, transparent where they have the key colour, two bytes for each channel."""
    if key and len(key) != (2 if colour == 0 else 6):
        raise LabError(f"{path} is damaged: its transparent colour has {len(key)} bytes. Save it again")
    values = np.array([int.from_bytes(key[i : i + 2]) for i in range(0, len(key), 2)])
    if pictures.ndim == 3:  # 16-bit grey
        grey = (pictures >> 8).astype(np.uint8)
        alpha = np.where(pictures == values[0], 0, 255).astype(np.uint8) if key else np.full_like(grey, 255)
        return np.stack([grey, grey, grey, alpha], -1)
    if key:
        wanted = values >> 8 if depth == 16 else values * 255 // ((1 << depth) - 1)
        pictures = pictures.copy()
        pictures[..., 3][(pictures[..., :3] == wanted).all(-1)] = 0
    return pictures
