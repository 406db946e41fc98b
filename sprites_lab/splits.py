"""Groups of sprites that belong together, and a split for training that keeps them together."""

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Sequence

import numpy as np


def together(count: int, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """For each of `count` rows the first row of its group, int64 (count,); a pair is in one group (union-find, Galler and Fischer 1964)."""
    leader = list(range(count))
    for one, other in pairs:
        one, other = first_of(leader, one), first_of(leader, other)
        leader[max(one, other)] = min(one, other)
    return np.array([first_of(leader, row) for row in range(count)], np.int64)


def first_of(leader: list[int], row: int) -> int:
    """The first row of the group that a row is in."""
    while leader[row] != row:
        leader[row] = leader[leader[row]]  # a shortcut for the next time
        row = leader[row]
    return row


def same(keys: Iterable[Hashable]) -> Iterator[tuple[int, int]]:
    """Pairs for `together`: every row, and the first row with the same key; an empty key ("" or None) is like no other."""
    first: dict[Hashable, int] = {}
    for row, key in enumerate(keys):
        if key:
            yield first.setdefault(key, row), row


def form(sprite: np.ndarray) -> bytes:
    """What stays of a sprite (H, W, 3) when its colours are exchanged for others, or it is mirrored: which pixels belong together.

    With more colours than half of its pixels, as in a photograph, that says little; the form is then the picture, mirrored or not.
    """
    forms = []
    for picture in (sprite, sprite[:, ::-1]):
        packed = picture.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
        _, first, place = np.unique(packed, return_index=True, return_inverse=True)
        numbered = np.argsort(np.argsort(first))[place.ravel()].astype(np.uint16)  # 0, 1, 2 … in the order of appearance
        forms.append((picture if 2 * len(first) > packed.size else numbered).tobytes())
    return min(forms)


def split(sprites: np.ndarray, labels: np.ndarray, share: float, files: Sequence[str] = ()) -> np.ndarray:
    """Which sprites (N, H, W, 3) to hold out, bool (N,): of each class about `share`, and at least one of four; the same for the same sprites.

    labels (N,); share from 0 to 0.5. Sprites of one form (see `form`), or with the same entry in `files` other than "", all stay on one side.
    """
    forms = [form(sprite) for sprite in sprites]
    group = together(len(sprites), [*same(forms), *same(files)])
    held_out = np.zeros(len(sprites), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        order = sorted(set(group[rows].tolist()), key=lambda first: hashlib.sha256(forms[first]).digest())  # a lot that no order of rows changes
        wanted = max(round(share * len(rows)), int(share > 0 and len(rows) >= 4))
        for first in order[: len(order) // 2]:  # at least half of the groups are for training
            if held_out[rows].sum() >= wanted:
                break
            held_out |= group == first
    return held_out
