"""The nearest sprite, against a search that looks at everything."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import careful

from sprites_lab import LabError
from sprites_lab.neighbours import nearest, report


def by_hand(sprites, reference, skip_own):
    """Distance and row by looking at every pixel of every pair."""
    a, b = sprites.astype(int), reference.astype(int)
    pairs = [np.abs(a[:, None] - other[None]).mean((2, 3, 4)) for other in (b, b[:, :, ::-1])]
    distance = np.minimum(*pairs)
    if skip_own:
        distance[np.arange(len(a)), np.arange(len(a))] = np.inf
    return distance.min(1), distance


@careful
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1, 3, 4, 6, 8]), levels=st.sampled_from([2, 4, 256]), skip_own=st.booleans())
def test_the_nearest_is_the_nearest_of_all(seed, size, levels, skip_own):
    rng = np.random.default_rng(seed)
    reference = (rng.integers(0, levels, (200, size, size, 3)) * (255 // (levels - 1))).astype(np.uint8)
    near = reference[rng.integers(0, 200, 5)] ^ rng.integers(0, 2, (5, size, size, 3)).astype(np.uint8)
    sprites = reference[:12] if skip_own else np.concatenate([near[:, :, :: rng.choice([-1, 1])], reference[:7] // 2])
    found, rows = nearest(sprites, reference, np.arange(12) if skip_own else None)
    best, table = by_hand(sprites, reference, skip_own)
    assert np.allclose(found, best) and np.allclose(table[np.arange(len(sprites)), rows], best)


def test_a_copy_and_its_mirror_image_are_at_no_distance_and_black_on_white_at_the_largest():
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    found, rows = nearest(reference[[4, 7]][:, :, ::-1], reference)
    assert found.tolist() == [0, 0] and rows.tolist() == [4, 7]
    assert nearest(np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 255, np.uint8))[0].tolist() == [255]


def test_a_sprite_itself_does_not_count_but_its_twin_does():
    one, other = np.zeros((2, 4, 4, 3), np.uint8)
    other[0, 0] = 48
    found, rows = nearest(np.stack([one, other]), np.stack([one, other, one]), np.arange(2))
    assert found.tolist() == [0, 3] and rows[0] == 2 and rows[1] in (0, 2)


@pytest.mark.parametrize("sprites, reference, own, words", [
    (np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4, 3), np.uint8), False, "sprites are float64"),
    (np.zeros((2, 4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8), False, "the reference is uint8 .4, 4, 3."),
    (np.zeros((2, 4, 5, 3), np.uint8), np.zeros((2, 4, 4, 3), np.uint8), False, "sprites are uint8"),
    (np.zeros((1, 4, 4, 3), np.uint8), np.zeros((0, 4, 4, 3), np.uint8), False, "holds 0 sprites"),
    (np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 4, 4, 3), np.uint8), True, "at least 2"),
])  # fmt: skip
def test_what_cannot_be_compared_is_refused(sprites, reference, own, words):
    with pytest.raises(LabError, match=words):
        nearest(sprites, reference, np.arange(1) if own else None)


def test_rows_to_skip_are_one_for_each_sprite():
    sprites = np.zeros((3, 4, 4, 3), np.uint8)
    with pytest.raises(LabError, match="one row for each of the 3 sprites"):
        nearest(sprites, sprites, np.arange(2))


def test_the_report_gives_percentiles_of_both_comparisons():
    levels = np.array([0, 10, 30, 60, 100, 101], np.uint8)
    sprites = np.broadcast_to(levels[:, None, None, None], (6, 16, 16, 3)).copy()
    _, header, test, train = report(sprites, np.array([False] * 5 + [True])).splitlines()
    assert header.split() == ["percentile", "0", "1", "5", "25", "50", "75", "95", "100"]
    assert test.split() == [*"held out to training".split(), *["1.00"] * 8]
    numbers = [float(word) for word in train.split()[3:]]
    assert numbers == [round(q, 2) for q in np.percentile([10, 10, 20, 30, 40], [0, 1, 5, 25, 50, 75, 95, 100])]
