"""Where the tiles of a sheet are: found right, or refused in a clear sentence."""

import itertools

import numpy as np
import pytest

from sprites_lab import LabError, data
from sprites_lab.grids import Grid, find_grid

CLEAR, WHITE, BLACK, PINK = (0, 0, 0, 0), (255, 255, 255, 255), (0, 0, 0, 255), (255, 0, 255, 255)
SPRITES = data.load_sprites().sprites


def tiles_of(count, seed=0, clear=True):
    """Sprites of the bundled set as RGBA, their white ground transparent."""
    rgb = SPRITES[np.random.default_rng(seed).permutation(len(SPRITES))[:count]]
    alpha = np.where((rgb == 255).all(-1) & clear, 0, 255)[..., None].astype(np.uint8)
    return np.concatenate([np.where(alpha, rgb, np.uint8(77)), alpha], -1)  # another colour hides under alpha 0


def sheet_of(tiles, columns, spacing=0, margin=0, colour=CLEAR, right=0, bottom=0):
    count, height, width = tiles.shape[:3]
    rows = count // columns
    shape = 2 * margin + rows * (height + spacing) - spacing + bottom, 2 * margin + columns * (width + spacing) - spacing + right
    sheet = np.empty((*shape, 4), np.uint8)
    sheet[:] = colour
    for i, tile in enumerate(tiles[: rows * columns]):
        y, x = margin + i // columns * (height + spacing), margin + i % columns * (width + spacing)
        sheet[y : y + height, x : x + width] = tile
    return sheet


@pytest.mark.parametrize("known", [None, (16, 16)], ids=["unknown", "known"])
@pytest.mark.parametrize("colour", [CLEAR, WHITE, BLACK], ids=["clear", "white", "black"])
@pytest.mark.parametrize("clear", [True, False])
def test_spacing_and_margin_are_found(known, colour, clear):
    for spacing, margin, (count, columns) in itertools.product((0, 1, 2), (0, 1), ((12, 4), (60, 10), (102, 17))):
        tiles = tiles_of(count, count, clear)
        sheet = sheet_of(tiles, columns, spacing, margin, colour)
        grid = find_grid(sheet, known)
        assert grid == Grid((16, 16), spacing, margin, columns, count // columns), (spacing, margin, count)
        assert np.array_equal(grid.cut(sheet), tiles)


@pytest.mark.parametrize("size, change", [
    (8, lambda tiles: tiles[:, ::2, ::2]), (24, lambda tiles: np.pad(tiles, ((0, 0), (4, 4), (4, 4), (0, 0)))),
    (32, lambda tiles: tiles.repeat(2, 1).repeat(2, 2)), (32, lambda tiles: np.pad(tiles, ((0, 0), (8, 8), (8, 8), (0, 0)))),
])  # fmt: skip
def test_the_size_of_tiles_is_found(size, change):
    tiles = change(tiles_of(60))
    assert find_grid(sheet_of(tiles, 10)) == Grid((size, size), 0, 0, 10, 6)
    assert find_grid(sheet_of(tiles, 10, 1, 0, PINK)) == Grid((size, size), 1, 0, 10, 6)


def test_noise_filled_tiles_are_cut_by_visible_spacing_and_refused_without(chance=np.random.default_rng(0)):
    tiles = chance.integers(0, 255, (20, 16, 16, 4), np.uint8)
    for spacing, margin in ((1, 0), (2, 0), (1, 1), (2, 1), (3, 4)):
        sheet = sheet_of(tiles, 5, spacing, margin)
        assert np.array_equal(find_grid(sheet).cut(sheet), tiles)
    with pytest.raises(LabError, match="could be 8 or 16 .* such as --tile 16"):
        find_grid(sheet_of(tiles, 5))
    assert np.array_equal(find_grid(sheet_of(tiles, 5), (16, 16)).cut(sheet_of(tiles, 5)), tiles)


def test_what_is_given_is_kept_and_what_does_not_fit_is_refused():
    tiles = tiles_of(12)
    sheet = sheet_of(tiles, 4, 1, 2, BLACK)
    assert find_grid(sheet, (16, 16), 1, 2) == find_grid(sheet) == Grid((16, 16), 1, 2, 4, 3)
    for tile, spacing, margin in (((16, 16), 0, None), ((16, 16), 1, 1), ((24, 24), None, None), ((200, 200), None, None)):
        with pytest.raises(LabError, match="--tile"):
            find_grid(sheet, tile, spacing, margin)
    assert find_grid(sheet_of(tiles[:, :, 4:12], 4), (8, 16)) == Grid((8, 16), 0, 0, 4, 3)


def test_left_over_pixels_are_named_and_dropped_on_request():
    tiles = tiles_of(12)
    sheet = sheet_of(tiles, 4, right=1, bottom=5, colour=PINK)
    with pytest.raises(LabError, match="1 of its 65 pixels over at the right and 5 of 53 at the bottom.*--crop"):
        find_grid(sheet, (16, 16))
    grid = find_grid(sheet, (16, 16), 0, 0, crop=True)
    assert np.array_equal(grid.cut(sheet), tiles)


@pytest.mark.parametrize("spacing", [1, 2])
def test_spacing_after_the_last_tile_too_is_understood(spacing):
    tiles = tiles_of(12)
    sheet = sheet_of(tiles, 4, spacing, right=spacing, bottom=spacing, colour=BLACK)
    assert np.array_equal(find_grid(sheet).cut(sheet), tiles)


def test_a_sheet_that_could_be_cut_in_two_ways_is_refused():
    dot = np.zeros((4, 16, 16, 4), np.uint8)
    dot[0, 7:9, 7:9] = BLACK  # tiles 2 apart, or with a margin of 1: nothing tells which, since three of four are empty
    with pytest.raises(LabError, match="it could be .* say which"):
        find_grid(sheet_of(dot, 2, 2), (16, 16))
