"""PNG files of every kind, read as red, green, blue and alpha; broken, foreign and hostile ones refused."""

import struct
import time
import zlib
from functools import partial

import numpy as np
import pytest
import small
from PIL import Image

from sprites_lab.png import SIGNATURE, read_png

refusal = partial(small.refusal, read_png)
CHANCE = np.random.default_rng(0)
COLOURS = CHANCE.integers(0, 256, (6, 5, 4), np.uint8)
BITS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sheet.png"


def chunk(name, value):
    return struct.pack(">I", len(value)) + name + value + struct.pack(">I", zlib.crc32(name + value))


def header(width, height, depth=8, colour=6, *rest):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, *(rest or (0, 0, 0))))


def png(width, height, depth, colour, rows, *between):
    """A PNG by hand: rows of bytes, each after the mark "not filtered"."""
    return SIGNATURE + header(width, height, depth, colour) + b"".join(between) + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b"")


def written(path, mode, **options):
    Image.fromarray(COLOURS, "RGBA").convert(mode).save(path, **options)
    return read_png(path)


def test_colours_and_alpha_come_as_they_are_even_under_alpha_0(path):
    hidden = COLOURS.copy()
    hidden[:3, :, 3] = 0
    Image.fromarray(hidden, "RGBA").save(path)
    assert np.array_equal(read_png(path), hidden[None])
    assert np.array_equal(written(path, "RGB")[0, ..., :3], COLOURS[..., :3]) and (read_png(path)[..., 3] == 255).all()


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_becomes_three_equal_colours(path, mode):
    wanted = np.asarray(Image.fromarray(COLOURS, "RGBA").convert(mode).convert("RGBA"))
    assert np.array_equal(written(path, mode)[0], wanted)
    assert (wanted[..., 0] == wanted[..., 2]).all() and len(np.unique(wanted[..., 0])) > 1


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_gives_its_colours_and_its_transparent_entries(path, depth):
    entries = CHANCE.integers(0, 256, (1 << depth if depth < 8 else 7, 3), np.uint8)
    alpha = CHANCE.integers(0, 256, len(entries) - 1, np.uint8)
    alpha[0] = 0
    indices = CHANCE.integers(0, len(entries), (4, 8), np.uint8)
    rows = [np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - depth :].ravel()).tobytes() for row in indices]
    path.write_bytes(png(8, 4, depth, 3, rows, chunk(b"PLTE", entries.tobytes()), chunk(b"tRNS", alpha.tobytes())))
    wanted = np.concatenate([entries, np.append(alpha, 255)[:, None]], 1)[indices]
    assert np.array_equal(read_png(path)[0], wanted)


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_16_bits_give_their_upper_byte(path, colour):
    values = CHANCE.integers(0, 1 << 16, (4, 3, BITS[colour]), np.uint16)
    path.write_bytes(png(3, 4, 16, colour, [row.astype(">u2").tobytes() for row in values]))
    high = (values >> 8).astype(np.uint8)
    wanted = {0: [0, 0, 0], 2: [0, 1, 2], 4: [0, 0, 0, 1], 6: [0, 1, 2, 3]}[colour]
    found = read_png(path)[0]
    assert np.array_equal(found[..., : len(wanted)], high[..., wanted]) and (len(wanted) == 4 or (found[..., 3] == 255).all())


@pytest.mark.parametrize("colour, depth", [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)])
def test_the_key_colour_and_no_other_is_transparent(path, colour, depth):
    channels = BITS[colour]
    values = CHANCE.integers(0, 1 << depth, (4, 8, channels), np.uint16)
    values[1, 2] = values[3, 0] = key = values[0, 0]
    if depth < 8:
        rows = [np.packbits(np.unpackbits(row.astype(np.uint8), axis=1)[:, 8 - depth :].ravel()).tobytes() for row in values]
    else:
        rows = [row.astype(f">u{depth // 8}").tobytes() for row in values]
    path.write_bytes(png(8, 4, depth, colour, rows, chunk(b"tRNS", key.astype(">u2").tobytes())))
    wanted = (values == key).all(-1)
    assert np.array_equal(read_png(path)[0, ..., 3] == 0, wanted) and wanted.sum() >= 3


def test_interlaced_pictures_are_read(path):
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]  # first column, first row, steps
    rows = b"".join(b"\0" + row.tobytes() for x, y, right, down in passes for row in COLOURS[y::down, x::right] if row.size)
    path.write_bytes(SIGNATURE + header(5, 6, 8, 6, 0, 0, 1) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    assert np.array_equal(read_png(path)[0], COLOURS)


def test_of_an_animated_png_the_first_frame_or_all_frames(path):
    frames = [Image.fromarray(np.roll(COLOURS[..., :3], i, 0)) for i in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert np.array_equal(read_png(path)[..., :3], COLOURS[None, ..., :3])
    every = read_png(path, frames=True)
    assert every.shape == (3, 6, 5, 4) and all(np.array_equal(every[i, ..., :3], np.roll(COLOURS[..., :3], i, 0)) for i in range(3))


def test_texts_and_profiles_in_the_file_are_not_looked_at(path):
    Image.fromarray(COLOURS, "RGBA").save(path)
    data = path.read_bytes()
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 << 20))) + chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100 << 20)))
    path.write_bytes(data[:33] + bomb + data[33:])
    assert np.array_equal(read_png(path)[0], COLOURS)


GOOD = png(5, 6, 8, 6, [row.tobytes() for row in COLOURS])


@pytest.mark.parametrize("content, words", [
    (b"", ["0 bytes"]), (b"<!DOCTYPE html><html>", ["HTML", "raw file"]), (b"\xff\xd8\xff\xe0" + bytes(50), ["JPEG"]), (b"GIF89a" + bytes(50), ["GIF"]),
    (b"\x89PNG" + bytes(50), ["PNG picture"]), (GOOD[:-20], ["damaged"]), (GOOD[:50], ["damaged"]), (SIGNATURE, ["damaged"]), (b"hello", ["PNG picture"]),
    (SIGNATURE + header(5, 6) + chunk(b"IEND", b""), ["not in order"]), (SIGNATURE + chunk(b"IEND", b""), ["not in order"]),
    (GOOD[:33] + GOOD[8:], ["not in order"]), (GOOD.replace(header(5, 6), header(5, 0)), ["5 x 0"]), (GOOD.replace(header(5, 6), header(5, 6, 4)), ["colour type 6 with 4"]),
    (GOOD.replace(header(5, 6), header(5, 6, 8, 5)), ["colour type 5"]), (GOOD.replace(header(5, 6), header(5, 6, 8, 3)), ["damaged"]),
    (GOOD.replace(header(5, 6), header(5, 6, 8, 6, 1, 0, 0)), ["damaged"]), (GOOD.replace(header(5, 6), header(5, 7)), ["damaged"]),
    (png(5, 6, 8, 6, [b"\x01" * 20] * 3), ["damaged"]), (SIGNATURE + header(5, 6) + chunk(b"IDAT", b"no zlib") + chunk(b"IEND", b""), ["damaged"]),
    (png(5, 6, 8, 2, [bytes(15)] * 6, chunk(b"tRNS", bytes(5))), ["transparent colour has 5 bytes"]),
], ids=lambda value: None if isinstance(value, list) else repr(value[-24:]))  # fmt: skip
def test_what_is_no_sound_png_is_refused(path, content, words):
    path.write_bytes(content)
    refusal(path, *words)


def test_a_missing_file_a_folder_and_an_impossible_name_are_refused(tmp_path):
    refusal(tmp_path / "none.png", "there is no")
    refusal(tmp_path, "no file")
    with pytest.raises(small.LabError, match="a.b.png"):
        read_png(tmp_path / "a\0b.png")


@pytest.mark.parametrize("width, height", [(100_000, 100_000), (1 << 31, 1), (5000, 5000), (4096, 4096)])
def test_a_picture_too_large_for_its_file_is_refused_before_it_is_unpacked(path, width, height):
    path.write_bytes(SIGNATURE + header(width, height) + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b""))
    began = time.monotonic()
    refusal(path, f"{width} x {height}", "smaller")
    assert time.monotonic() - began < 1


def test_frames_count_as_pixels(path):
    animation = chunk(b"acTL", struct.pack(">II", 1_000_000, 0))
    path.write_bytes(GOOD[:33] + animation + GOOD[33:])
    refusal(path, "1000000 frames")
