"""Where the tiles on a sprite sheet are: their size, the spacing between them, the margin around all of them, given or found out."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sprites_lab.errors import LabError

SIZES, MOST_SPACING, MOST_MARGIN = (8, 12, 16, 20, 24, 32, 40, 48, 64), 4, 4  # tried where nothing is given
VISIBLE = 0.5  # spacing of another colour than this share of the pixels beside it can be seen
REPEATS = 0.2  # share of what varies along a sheet that the place within a tile must explain, if that is to tell the size of tiles


class Grid(NamedTuple):
    """Tiles (width, height) in columns and rows, `spacing` pixels apart, `margin` pixels from the edge."""

    tile: tuple[int, int]
    spacing: int
    margin: int
    columns: int
    rows: int

    def __str__(self) -> str:
        width, height = self.tile
        return f"{self.columns} x {self.rows} tiles of {width}x{height}, spacing {self.spacing}, margin {self.margin}"

    def starts(self, axis: int) -> np.ndarray:
        """The first pixel of every tile along x (axis 0) or y (axis 1)."""
        return self.margin + np.arange(self.columns if axis == 0 else self.rows) * (self.tile[axis] + self.spacing)

    def inside(self, axis: int, length: int) -> np.ndarray:
        """Which of the `length` pixels along x (axis 0) or y (axis 1) lie in tiles."""
        flags = np.zeros(length, bool)
        flags[(self.starts(axis)[:, None] + np.arange(self.tile[axis])).ravel()] = True
        return flags

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """The tiles of a picture (H, W, 4), row by row: (columns * rows, height, width, 4)."""
        width, height = self.tile
        return np.stack([picture[y : y + height, x : x + width] for y in self.starts(1) for x in self.starts(0)])


def find_grid(
    picture: np.ndarray, tile: tuple[int, int] | None = None, spacing: int | None = None, margin: int | None = None, crop: bool = False
) -> Grid:
    """The grid of a sheet, uint8 (H, W, 4), whose alpha-0 pixels all count as one colour; what is None is found out.

    The space between tiles must be of one colour. `crop` ignores pixels that are left over at the right and at the bottom.
    LabError if no grid fits, or if several do and the picture does not show which.
    """
    picture = np.where(picture[..., 3:] == 0, np.uint8(0), picture)
    sizes = [tile] if tile else [(size, size) for size in SIZES]
    exact, trailing = ([grid for size in sizes for grid in candidates(picture, size, spacing, margin, crop, more) if gutter(picture, grid) is not None] for more in (False, True))
    fitting = exact or trailing
    if not fitting:
        raise LabError(left_over(picture, tile, spacing, margin))
    if seen := [grid for grid in exact if is_seen(picture, grid)] or [grid for grid in trailing if is_seen(picture, grid)]:
        fitting = [grid for grid in seen if grid.tile == min(grid.tile for grid in seen)]  # of larger ones, each holds several tiles
    elif not tile:
        pitch = smallest_pitch(picture, trailing)
        alike = [grid for grid in exact if grid.tile[0] + grid.spacing == pitch] or [grid for grid in trailing if grid.tile[0] + grid.spacing == pitch]
        fitting = [grid for grid in alike if grid.spacing == min(grid.spacing for grid in alike)]  # empty spacing may as well be part of the tiles
    return steadiest(picture, fitting)


def candidates(picture: np.ndarray, tile: tuple[int, int], spacing: int | None, margin: int | None, crop: bool, trailing: bool) -> Iterator[Grid]:
    """Every grid of this tile that ends where the picture ends; with `trailing`, one spacing before that; with `crop`, anywhere before."""
    height, width = picture.shape[:2]
    for space in range(MOST_SPACING + 1) if spacing is None else [spacing]:
        for edge in range(MOST_MARGIN + 1) if margin is None else [margin]:
            columns, rows = ((length - 2 * edge + space) // (size + space) for length, size in zip((width, height), tile))
            left = [length - 2 * edge - count * (size + space) + space for length, count, size in zip((width, height), (columns, rows), tile)]
            fits = crop or all(rest in (0, space) if trailing else rest == 0 for rest in left)
            if fits and min(columns, rows) > 0 and (columns * rows > 1 or not space or spacing is not None):
                yield Grid(tile, space, edge, columns, rows)


def gutter(picture: np.ndarray, grid: Grid) -> np.ndarray | None:
    """The pixels between the tiles (N, 4), or None if they are not all of one colour. Pixels right of and below the last margin count only if they are spacing."""
    across, down = (grid.inside(axis, picture.shape[1 - axis]) for axis in (0, 1))
    right, bottom = (grid.starts(axis)[-1] + grid.tile[axis] + grid.margin for axis in (0, 1))
    part = picture[:bottom, :right][~(down[:bottom, None] & across[None, :right])]
    return part if not len(part) or (part == part[0]).all() else None


def is_seen(picture: np.ndarray, grid: Grid) -> bool:
    """Whether there is space between the tiles that differs from the pixels beside it, so that it cannot be part of a tile."""
    colour = gutter(picture, grid)
    if not grid.spacing or colour is None or not len(colour):
        return False
    tiles = grid.cut(picture)
    edges = np.concatenate([tiles[:, 0].reshape(-1, 4), tiles[:, -1].reshape(-1, 4), tiles[:, :, 0].reshape(-1, 4), tiles[:, :, -1].reshape(-1, 4)])
    return bool((edges == colour[0]).all(-1).mean() < VISIBLE)


def smallest_pitch(picture: np.ndarray, fitting: list[Grid]) -> int:
    """The smallest distance from tile to tile by which the picture repeats itself: outlines come most often at the same places of a tile."""
    breaks = (picture[:, 1:] != picture[:, :-1]).any(-1).mean(0), (picture[1:] != picture[:-1]).any(-1).mean(1)
    found: dict[int, float] = {}
    for grid in fitting:
        pitch, inner = grid.tile[0] + grid.spacing, slice(grid.margin, -grid.margin or None)
        found[pitch] = max(sum(explained(profile[inner], pitch) for profile in breaks) / 2, found.get(pitch, 0))
    best = max(found.values())
    if best < REPEATS and len(found) > 1:
        sizes = " or ".join(sorted({str(grid.tile[0]) for grid in fitting}, key=int))
        raise LabError(f"its tiles could be {sizes} pixels wide, and the picture does not show which; say it, such as --tile 16")
    return min(pitch for pitch, share in found.items() if share >= 0.85 * best and 1 - share <= 1.2 * (1 - best) + 0.01)


def explained(profile: np.ndarray, period: int) -> float:
    """The share of the variance of a row of numbers that the place within the period explains (adjusted R squared)."""
    place = np.arange(1, len(profile) + 1) % period
    counts = np.bincount(place, minlength=period)
    means = np.bincount(place, profile, period) / np.maximum(counts, 1)
    freedom, spread = len(profile) - (counts > 0).sum(), profile.var()
    return 1 - ((profile - means[place]) ** 2).sum() / freedom / spread if freedom > 0 and spread > 0 else 0.0


def steadiest(picture: np.ndarray, fitting: list[Grid]) -> Grid:
    """The grid in whose tiles the figures do not wander from column to column; LabError if several are alike in that."""
    different = {(*grid.starts(0), -1, *grid.starts(1)): grid for grid in fitting}
    ranked = sorted((drift(picture, grid), grid) for grid in different.values())
    if len(ranked) > 1 and ranked[1][0] - ranked[0][0] < 0.3:
        raise LabError(f"it could be {ranked[0][1]}, or {ranked[1][1]}; say which, with --spacing {ranked[0][1].spacing} --margin {ranked[0][1].margin} or the other")
    return ranked[0][1]


def drift(picture: np.ndarray, grid: Grid) -> float:
    """By how many pixels the middle of what is shown moves from one column (and row) of tiles to the next, on average."""
    tiles = grid.cut(picture)
    shown = (tiles != backdrop(picture)).any(-1).reshape(grid.rows, grid.columns, *tiles.shape[1:3])
    total = 0.0
    for sums in (shown.sum((0, 2)), shown.sum((1, 3))):  # how much is shown in each pixel column of each tile column; likewise for rows
        used = sums.sum(1) > 0
        middle = (sums[used] * np.arange(sums.shape[1])).sum(1) / sums[used].sum(1)
        if used.sum() > 1:
            total += abs(np.polyfit(np.flatnonzero(used), middle, 1)[0])
    return total


def backdrop(picture: np.ndarray) -> np.ndarray:
    """The commonest colour (4,) of a picture: what sprites stand on."""
    colours, counts = np.unique(picture.reshape(-1, 4), axis=0, return_counts=True)
    return colours[counts.argmax()]


def left_over(picture: np.ndarray, tile: tuple[int, int] | None, spacing: int | None, margin: int | None) -> str:
    """What to say of a sheet that no grid fits."""
    height, width = picture.shape[:2]
    if tile is None:
        return f"no tiles of {SIZES[0]} to {SIZES[-1]} pixels fill its {width} x {height} pixels; say how large they are, such as --tile 16, and with --crop that the rest may go"
    space, edge = spacing or 0, margin or 0
    rest = [(length - 2 * edge + space) % (size + space) for length, size in zip((width, height), tile)]
    return (
        f"tiles of {tile[0]}x{tile[1]} with {'spacing ' + str(space) if spacing is not None else 'no spacing'} leave {rest[0]} of its {width} pixels over at the right and {rest[1]} of {height} at the bottom, "
        f"and no even spacing of one colour was found: say --tile, --spacing, --margin, or --crop to drop what is left over"
    )
