"""The sprite of a reference set that looks most like a given one: is this a copy?"""

import numpy as np

from sprites_lab.errors import LabError


def nearest(sprites: np.ndarray, reference: np.ndarray, skip: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Distance (N,) to, and row (N,) of, the nearest sprite of the reference (M, H, W, 3), mirror images included.

    sprites uint8 (N, H, W, 3). The distance is the mean absolute difference of the uint8 values: 0 a copy, 255 black on
    white. Row skip[i] of the reference, with its mirror image, does not count for sprite i: the sprite itself, if it is one of them.
    """
    for name, array in (("the reference is", reference), ("sprites are", sprites)):
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != reference.shape[1:]:
            raise LabError(f"{name} {array.dtype} {array.shape}, but both must be uint8 (N, height, width, 3), of one size")
    if skip is not None and skip.shape != (len(sprites),):
        raise LabError(f"skip has the shape {skip.shape}, but must hold one row for each of the {len(sprites)} sprites")
    if len(reference) < (least := 1 if skip is None else 2):
        raise LabError(f"the reference holds {len(reference)} sprites; a nearest one needs at least {least}")
    candidates = np.concatenate([reference, reference[:, :, ::-1]])
    coarse, flat = coarse_sums(candidates), candidates.reshape(len(candidates), -1)
    distances, rows = np.empty(len(sprites)), np.empty(len(sprites), np.int64)
    for i, (sprite, sums) in enumerate(zip(sprites.reshape(len(sprites), -1), coarse_sums(sprites))):
        bound = np.abs(coarse - sums).sum(1)  # blocks differ at most as much as their pixels, so few sprites are looked at closely
        order = np.argsort(bound, kind="stable")
        if skip is not None:
            order = order[order % len(reference) != skip[i]]
        best = np.inf
        for part in np.split(order, range(64, len(order), 1024)):
            if bound[part[0]] >= best:
                break
            exact = (np.maximum(flat[part], sprite) - np.minimum(flat[part], sprite)).sum(1, dtype=np.int64)
            if exact.min() < best:
                best, rows[i] = exact.min(), part[exact.argmin()] % len(reference)
        distances[i] = best / sprite.size
    return distances, rows


def coarse_sums(sprites: np.ndarray) -> np.ndarray:
    """Sums over blocks of 4x4 pixels, int32 (N, features)."""
    n, height, width, channels = sprites.shape
    padded = np.pad(sprites, ((0, 0), (0, -height % 4), (0, -width % 4), (0, 0)))
    blocks = padded.reshape(n, padded.shape[1] // 4, 4, padded.shape[2] // 4, 4, channels)
    return blocks.sum((2, 4), dtype=np.int32).reshape(n, -1)


def report(sprites: np.ndarray, held_out: np.ndarray, count: int = 2000) -> str:
    """How near the first `count` held-out and training sprites come to the (other) training sprites, as a small table."""
    train, test = sprites[~held_out], sprites[held_out][:count]
    shares = (0, 1, 5, 25, 50, 75, 95, 100)
    lines = ["nearest training sprite, mean absolute difference of the bytes, mirror images included", "percentile" + " " * 14 + "".join(f"{q:8}" for q in shares)]
    for name, found in (("held out to training", nearest(test, train)[0]), ("training to training", nearest(train[:count], train, np.arange(len(train[:count])))[0])):
        lines.append(f"{name:24}" + "".join(f"{value:8.2f}" for value in np.percentile(found, shares)))
    return "\n".join(lines)
