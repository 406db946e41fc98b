"""The sprites of a reference set that look most like a given one: is this a copy?

Mirror images always count; images moved by up to `shift` pixels count where asked for. A moved image is compared where the
two overlap: what comes in at the edge is nobody's, white or not, and what goes out is lost.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
import torch

from sprites_lab.errors import LabError
from sprites_lab.settings import check_whole

Way = tuple[bool, int, int]  # how a sprite is turned: mirrored or not, and then moved down and right


class Relatives(NamedTuple):
    """The nearest sprites of a reference, nearest first, each counted once: all (N, count), `move` (N, count, 2).

    distance: mean absolute difference of the bytes where both overlap; row: place in the reference. The given sprite looks
    like that one when it is mirrored, where `mirrored`, and then moved (down, right) by `move`.
    """

    distance: np.ndarray
    row: np.ndarray
    mirrored: np.ndarray
    move: np.ndarray


def nearest(sprites: np.ndarray, reference: np.ndarray, skip: np.ndarray | None = None, shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Distance (N,) to, and row (N,) of, the nearest sprite of the reference (M, H, W, 3), mirror images included.

    sprites uint8 (N, H, W, 3). The distance is the mean absolute difference of the uint8 values: 0 a copy, 255 black on
    white. Row skip[i] of the reference, with its mirror image, does not count for sprite i: the sprite itself, if it is one of them.
    `shift`: by how many pixels an image may be moved, down or up and right or left.
    """
    found = relatives(sprites, reference, 1, shift, skip)
    return found.distance[:, 0], found.row[:, 0]


def relatives(sprites: np.ndarray, reference: np.ndarray, count: int = 3, shift: int = 0, skip: np.ndarray | None = None) -> Relatives:
    """The `count` sprites of the reference that are nearest to each sprite, with the arguments and the distance of `nearest`."""
    check_sets(sprites, reference, skip)
    shift = check_whole("shift", shift, 0, min(reference.shape[1:3]) // 2, "half of the size: the rest must overlap")
    count = check_whole("count", count, 1, len(reference) - (skip is not None), "the sprites that there are")
    ways = ways_to_turn(shift)
    masks = {way[1:]: moved(np.full(reference.shape[1:], 255, np.uint8), way[1:]) for way in ways}
    coarse = {move: torch.from_numpy(coarse_sums(reference & mask)).float() for move, mask in masks.items()}
    flat, found = reference.reshape(len(reference), -1), []
    for i, sprite in enumerate(sprites):
        turned = np.stack([moved(sprite[:, ::-1] if way[0] else sprite, way[1:]) for way in ways])
        bound = np.stack([farther_than(one, coarse[way[1:]], np.count_nonzero(masks[way[1:]])) for one, way in zip(coarse_sums(turned), ways)])
        if skip is not None:
            bound[:, skip[i]] = np.inf
        found.append(search(turned.reshape(len(ways), -1), np.stack([masks[way[1:]].ravel() for way in ways]), bound, flat, count))
    distance, row, way = (np.array([one[k] for one in found]).reshape(-1, count) for k in range(3))
    way = np.array(ways)[way.astype(int)]
    return Relatives(distance, row.astype(np.int64), way[..., 0].astype(bool), way[..., 1:])


def check_sets(sprites: np.ndarray, reference: np.ndarray, skip: np.ndarray | None) -> None:
    """LabError unless these are sprites that can be compared."""
    for name, array in (("the reference is", reference), ("sprites are", sprites)):
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != reference.shape[1:]:
            raise LabError(f"{name} {array.dtype} {array.shape}, but both must be uint8 (N, height, width, 3), of one size")
    if skip is not None and skip.shape != (len(sprites),):
        raise LabError(f"skip has the shape {skip.shape}, but must hold one row for each of the {len(sprites)} sprites")
    if len(reference) < (least := 1 if skip is None else 2):
        raise LabError(f"the reference holds {len(reference)} sprites; a nearest one needs at least {least}")


def ways_to_turn(shift: int) -> list[Way]:
    """All ways to turn a sprite, the plainest first."""
    steps = range(-shift, shift + 1)
    return sorted(product((False, True), steps, steps), key=lambda way: (abs(way[1]) + abs(way[2]), way[0]))


def window(move: tuple[int, int], height: int, width: int) -> tuple[slice, slice]:
    """Where an image that was moved (down, right) still lies in its frame."""
    return tuple(slice(max(step, 0), size + min(step, 0)) for step, size in zip(move, (height, width)))


def moved(image: np.ndarray, move: tuple[int, int]) -> np.ndarray:
    """The image (H, W, 3) moved (down, right) in its frame; 0 where nothing is left of it."""
    frame = np.zeros_like(image)
    frame[window(move, *image.shape[:2])] = image[window((-move[0], -move[1]), *image.shape[:2])]
    return frame


def farther_than(sums: np.ndarray, coarse: torch.Tensor, size: int) -> np.ndarray:
    """A bound (M,) below the distances: blocks differ at most as much as their pixels. Sums of bytes are exact in float32."""
    return torch.cdist(torch.from_numpy(sums).float()[None], coarse, p=1)[0].numpy() / size * (1 - 1e-6)


def search(turned: np.ndarray, masks: np.ndarray, bound: np.ndarray, flat: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances, rows and ways (count,) of the nearest rows of flat (M, D); turned, masks (ways, D), bound (ways, M).

    Only what the bound does not rule out is looked at closely, the most promising first.
    """
    best, best_way, sizes = np.full(len(flat), np.inf), np.zeros(len(flat), np.int64), np.count_nonzero(masks, 1)

    def look(places: np.ndarray) -> float:
        way, row = np.unravel_index(places[np.isfinite(bound.ravel()[places])], bound.shape)
        pixels, sprite = flat[row] & masks[way], turned[way]
        exact = (np.maximum(pixels, sprite) - np.minimum(pixels, sprite)).sum(1, dtype=np.int64) / sizes[way]
        last_wins = np.lexsort((-way, -exact))
        way, row, exact = way[last_wins], row[last_wins], exact[last_wins]
        better = exact < best[row]
        best[row[better]], best_way[row[better]] = exact[better], way[better]
        return np.partition(best, count - 1)[count - 1]

    limit = look(np.argpartition(bound, min(64, bound.size) - 1, None)[:64])
    rest = np.flatnonzero(bound <= limit)
    rest = rest[np.argsort(bound.ravel()[rest], kind="stable")]
    for part in np.split(rest, range(1024, len(rest), 1024)):
        if not len(part) or bound.ravel()[part[0]] > limit:
            break
        limit = look(part)
    rows = np.argsort(best, kind="stable")[:count]
    return best[rows], rows, best_way[rows]


def coarse_sums(sprites: np.ndarray) -> np.ndarray:
    """Sums over blocks of 2x2 pixels, int32 (N, features). Larger blocks are faster to compare, but rule out too little of made sprites."""
    n, height, width, _ = sprites.shape
    padded = np.pad(sprites, ((0, 0), (0, height % 2), (0, width % 2), (0, 0))).astype(np.int32)
    rows = padded[:, ::2] + padded[:, 1::2]
    return (rows[:, :, ::2] + rows[:, :, 1::2]).reshape(n, -1)


def report(sprites: np.ndarray, held_out: np.ndarray, count: int = 2000) -> str:
    """How near the first `count` held-out and training sprites come to the (other) training sprites, as a small table."""
    train, test = sprites[~held_out], sprites[held_out][:count]
    shares = (0, 1, 5, 25, 50, 75, 95, 100)
    lines = ["nearest training sprite, mean absolute difference of the bytes, mirror images included", "percentile" + " " * 14 + "".join(f"{q:8}" for q in shares)]
    for name, found in (("held out to training", nearest(test, train)[0]), ("training to training", nearest(train[:count], train, np.arange(len(train[:count])))[0])):
        lines.append(f"{name:24}" + "".join(f"{value:8.2f}" for value in np.percentile(found, shares)))
    return "\n".join(lines)
