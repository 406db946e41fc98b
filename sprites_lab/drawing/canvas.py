"""From text grids to pixels: reading a grid, shading it, painting layers, drawing the outline."""

from functools import lru_cache

import numpy as np

from sprites_lab.drawing.palettes import FIXED, INKS, RAMPS, rgb
from sprites_lab.errors import LabError

SIZE = 16
SLOTS = "abcdefghij"  # base; the capital letter is the light shade, the digit 1..9, 0 the shadow
SHADOWS = "1234567890"
EMPTY, INK, ERASE = 0, 1, 2  # codes below 10 are single; slot k has codes 10 + 4k + (shadow, base, light)
FIXED_CODES = {letter: 100 + i for i, letter in enumerate(FIXED)}
Rows = tuple[str, ...]

# Which pixels (y, x) of a slot take the other shade or colour. Each is a picture of a texture 16 pixels wide.
PATTERNS = {
    "stripes": lambda y, x: y % 3 == 0,
    "bars": lambda y, x: x % 3 == 0,
    "checks": lambda y, x: (x // 2 + y // 2) % 2 == 0,
    "dots": lambda y, x: (x % 3 == 1) & ((y + x // 3 % 2) % 3 == 1),
    "slant": lambda y, x: (x + y) % 4 == 0,
    "dip": lambda y, x: y > 8,
    "cap": lambda y, x: y < 7,
    "left": lambda y, x: x < 8,
    "ring": lambda y, x: (y > 6) & (y < 10),
}


def code_of(letter: str) -> int:
    """The number by which a picture stores one grid character."""
    if letter in ". ":
        return EMPTY
    if letter == "#":
        return INK
    if letter == "_":
        return ERASE
    if letter in FIXED_CODES:
        return FIXED_CODES[letter]
    for shade, letters in enumerate((SHADOWS, SLOTS, SLOTS.upper())):
        if letter in letters:
            return 10 + 4 * letters.index(letter) + shade
    raise LabError(f"'{letter}' means nothing in a sprite grid; use . # _ a-j A-J 0-9 {' '.join(FIXED)}")


def trio(slot: str) -> str:
    """The three characters of a slot: shadow, base, light."""
    return SHADOWS[SLOTS.index(slot)] + slot + slot.upper()


@lru_cache(maxsize=None)
def read_grid(rows: Rows, at: tuple[int, int] = (0, 0), mirror: bool = False) -> np.ndarray:
    """A text grid as codes (16, 16), placed with its corner at (x, y), shaded; mirrored before it is shaded."""
    codes = np.zeros((SIZE, SIZE), np.int16)
    for y, row in enumerate(rows, start=at[1]):
        for x, letter in enumerate(row.rstrip(), start=at[0]):
            if letter in ". ":
                continue
            if not (0 <= x < SIZE and 0 <= y < SIZE):
                raise LabError(f"the grid row '{row}' at {at} leaves the 16x16 picture at x={x}, y={y}")
            codes[y, x] = code_of(letter)
    return shade(codes[:, ::-1].copy() if mirror else codes)


def shade(codes: np.ndarray) -> np.ndarray:
    """Light from the top left on every slot that the grid leaves flat (drawn in its base shade alone)."""
    out = codes.copy()
    for slot in range(len(SLOTS)):
        first = 10 + 4 * slot
        inside = (codes >= first) & (codes <= first + 2)
        if not inside.any() or (codes[inside] != first + 1).any():
            continue  # absent, or shaded by hand
        padded = np.pad(inside, 2)
        above_left, below_right = padded[1:17, 1:17], padded[3:19, 3:19]
        dark = inside & ~below_right
        if inside.sum() >= 48:  # a large part is dark two pixels deep, so that it looks round
            dark |= inside & ~padded[4:20, 4:20] & ~padded[3:19, 2:18]
        out[dark] = first
        out[inside & ~above_left & ~dark] = first + 2
    return out


def paint(picture: np.ndarray, layer: np.ndarray) -> None:
    """Lay one grid of codes over the picture, in place; `_` erases."""
    picture[layer != EMPTY] = layer[layer != EMPTY]
    picture[layer == ERASE] = EMPTY


def apply_pattern(picture: np.ndarray, slot: str, pattern: str, other: str | None = None) -> None:
    """Darken (or give to the slot `other`) the pixels of a slot that lie on the pattern, in place."""
    first = 10 + 4 * SLOTS.index(slot)
    y, x = np.indices(picture.shape)
    on = PATTERNS[pattern](y, x) & (picture >= first) & (picture <= first + 2)
    if other is None:
        picture[on & (picture > first)] -= 1
    else:
        picture[on] += 4 * (SLOTS.index(other) - SLOTS.index(slot))


def add_outline(picture: np.ndarray) -> None:
    """Ink every empty pixel that touches paint by a side, in place: every outline is closed."""
    painted = np.pad(picture != EMPTY, 1)
    near = painted[:-2, 1:-1] | painted[2:, 1:-1] | painted[1:-1, :-2] | painted[1:-1, 2:]
    picture[near & (picture == EMPTY)] = INK


def colour(picture: np.ndarray, ramps: dict[str, str], ink: str) -> np.ndarray:
    """Codes (16, 16) to uint8 (16, 16, 3) on white: slot -> ramp name, and the ink of the outline."""
    table = np.full((128, 3), 255, np.uint8)
    table[INK] = rgb(INKS[ink])
    for slot, ramp in ramps.items():
        first = 10 + 4 * SLOTS.index(slot)
        table[first : first + 3] = [rgb(shade) for shade in RAMPS[ramp]]
    for letter, code in FIXED_CODES.items():
        table[code] = rgb(FIXED[letter])
    return table[picture]
