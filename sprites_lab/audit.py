"""Is it learning or copying? How many made sprites are copies of training sprites, beside how many held-out sprites are."""

from collections.abc import Iterator
from math import sqrt
from typing import NamedTuple

import numpy as np

from sprites_lab.errors import LabError
from sprites_lab.metrics import COPY
from sprites_lab.neighbours import check_sets, nearest, relatives, ways_to_turn, window
from sprites_lab.settings import check_number, check_whole
from sprites_lab.splits import together


class Share(NamedTuple):
    """A share with its 95 % confidence interval, and the count of the cases it comes from."""

    share: float
    low: float
    high: float
    count: int


class Audit(NamedTuple):
    """Shares of copies among made sprites and among held-out ones: copying shows in the first only."""

    made: Share
    held_out: Share


def wilson(hits: int, count: int, z: float = 1.96) -> Share:
    """The share hits / count with Wilson's score interval, which stays sensible at 0 and at 1 (Wilson 1927).

    z: how many standard deviations; 1.96 is a confidence of 95 %.
    """
    count = check_whole("count", count, 1, 10**12)
    hits, z = check_whole("hits", hits, 0, count, "count"), check_number("z", z, 0, 100)
    share, room = hits / count, z**2 / count
    middle = (share + room / 2) / (1 + room)
    reach = sqrt(share * (1 - share) * room + room**2 / 4) / (1 + room)
    return Share(share, max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach)), count)


def copy_rate(sprites: np.ndarray, train: np.ndarray, shift: int = 1, limit: float = COPY) -> Share:
    """The share of sprites nearer than `limit` to a training sprite, mirror images and moves by up to `shift` pixels included.

    sprites uint8 (N, H, W, 3), train (M, H, W, 3); the distance, in bytes, is that of `neighbours.nearest`.
    """
    limit = check_number("limit", limit, 0, 256, "bytes; a sprite with itself has 0")
    if not len(sprites):
        raise LabError("a copy rate needs at least one sprite")
    return wilson(int((nearest(sprites, train, shift=shift)[0] < limit).sum()), len(sprites))


def audit(made: np.ndarray, train: np.ndarray, held_out: np.ndarray, shift: int = 1, limit: float = COPY) -> Audit:
    """Copies of training sprites among made and among held-out sprites, all uint8 (., H, W, 3); see `copy_rate`.

    Real sprites resemble each other, so the held-out share, not 0, is what a network that copies nothing has.
    """
    return Audit(copy_rate(made, train, shift, limit), copy_rate(held_out, train, shift, limit))


class Pairs(NamedTuple):
    """The made sprites that come nearest to a training sprite, nearest first, (N, H, W, 3), those training sprites, turned like them, and the distances (N,).

    `copies`: the share of copies among all that were made.
    """

    made: np.ndarray
    train: np.ndarray
    distance: np.ndarray
    copies: Share


def nearest_pairs(made: np.ndarray, train: np.ndarray, count: int = 5, shift: int = 1, limit: float = COPY) -> Pairs:
    """The `count` pairs that look most like copies; mirror images and moves by up to `shift` pixels count as alike."""
    found = relatives(made, train, 1, shift)
    copies = wilson(int((found.distance[:, 0] < limit).sum()), len(made))
    rows = np.argsort(found.distance[:, 0], kind="stable")[:count]
    alike, mirrored = train[found.row[rows, 0]], found.mirrored[rows, 0]
    return Pairs(made[rows], np.where(mirrored[:, None, None, None], alike[:, :, ::-1], alike), found.distance[rows, 0], copies)


def told(found: Audit) -> str:
    """An audit in a sentence."""
    made, held_out = (f"{100 * one.share:.1f} % ({100 * one.low:.1f} to {100 * one.high:.1f}) of {one.count}" for one in found)
    return f"copies of training sprites, mirrored and moved by a pixel ones included: {made} made sprites, {held_out} held-out ones, which nobody copied"


def duplicates(sprites: np.ndarray, shift: int = 1) -> list[list[int]]:
    """The rows of sprites uint8 (N, H, W, 3) that show the same: groups of two or more, each in rising order, by their first row.

    The same: equal byte for byte, mirrored or not, where both overlap when one is moved by up to `shift` pixels.
    """
    check_sets(sprites, sprites, None)
    shift = check_whole("shift", shift, 0, min(sprites.shape[1:3]) // 2, "half of the size: the rest must overlap")
    first = together(len(sprites), alike(sprites, shift))
    leaders, counts = np.unique(first, return_counts=True)
    return [np.flatnonzero(first == leader).tolist() for leader in leaders[counts > 1]]


def alike(sprites: np.ndarray, shift: int) -> Iterator[tuple[int, int]]:
    """Each row of the sprites beside the first one that it equals, once for every way to turn it; where it equals none, beside itself."""
    for mirrored, *move in ways_to_turn(shift):
        first = {}  # what lies in the window -> the first row with that in it
        here, there = (window(way, *sprites.shape[1:3]) for way in (move, (-move[0], -move[1])))
        for row, sprite in enumerate(sprites):
            first.setdefault(sprite[here].tobytes(), row)
        for row, sprite in enumerate(sprites[:, :, ::-1] if mirrored else sprites):
            yield row, first.get(sprite[there].tobytes(), row)
