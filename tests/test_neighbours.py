"""The nearest sprite, against a search that looks at everything."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import careful

from sprites_lab import LabError
from sprites_lab.neighbours import nearest, relatives, report


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


def overlaps(sprite, other, shift):
    """For each way to turn a sprite, (mirrored, down, right) -> its distance to the other, pixel by pixel where both have one."""
    height, width, found = *sprite.shape[:2], {}
    for mirrored in (False, True):
        image = (sprite[:, ::-1] if mirrored else sprite).astype(int)
        for down in range(-shift, shift + 1):
            for right in range(-shift, shift + 1):
                pairs = [(image[y, x], other[y + down, x + right]) for y in range(height) for x in range(width) if 0 <= y + down < height and 0 <= x + right < width]
                found[mirrored, down, right] = np.mean([np.abs(a - b.astype(int)) for a, b in pairs])
    return found


@pytest.mark.parametrize("seed, shift, levels, skip_own", [(0, 1, 2, False), (1, 1, 256, True), (2, 2, 4, False), (3, 0, 2, False), (4, 1, 2, True)])
def test_relatives_are_the_nearest_of_all_ways_to_turn_a_sprite(seed, shift, levels, skip_own):
    rng = np.random.default_rng(seed)
    reference = (rng.integers(0, levels, (40, 5, 6, 3)) * (255 // (levels - 1))).astype(np.uint8)
    sprites = reference[:4] if skip_own else np.concatenate([np.roll(reference[5:7, :, ::-1], (1, -1), (1, 2)), reference[:2] // 2])
    found = relatives(sprites, reference, 5, shift, np.arange(4) if skip_own else None)
    for i, sprite in enumerate(sprites):
        tables = [overlaps(sprite, other, shift) for other in reference]
        best = np.array([min(table.values()) for table in tables])
        best[i if skip_own else []] = np.inf
        assert np.allclose(found.distance[i], np.sort(best)[:5]) and np.allclose(best[found.row[i]], found.distance[i])
        assert len(set(found.row[i].tolist())) == 5
        for distance, row, mirrored, move in zip(*(array[i] for array in found)):
            assert abs(tables[row][bool(mirrored), int(move[0]), int(move[1])] - distance) < 1e-9


def test_a_sprite_that_was_moved_says_which_way_back():
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    for edge in (0, 255):
        moved = np.full((2, 16, 16, 3), edge, np.uint8)
        moved[0, 1:, :-1] = reference[7, :-1, 1:]  # down and to the left
        moved[1, :, 1:] = reference[8, :, ::-1][:, :-1]  # mirrored, then to the right
        found = relatives(moved, reference, 1, shift=1)
        assert found.distance.tolist() == [[0], [0]] and found.row.tolist() == [[7], [8]]
        assert found.mirrored.tolist() == [[False], [True]] and found.move.tolist() == [[[-1, 1]], [[0, 1]]]
        assert (nearest(moved, reference)[0] > 20).all() and (nearest(moved, reference, shift=1)[0] == 0).all()


def test_of_equal_ways_the_plainest_is_named_and_of_equal_sprites_the_first():
    same = np.full((5, 4, 4, 3), 9, np.uint8)
    found = relatives(same[:1], same, 3, 1)
    assert found.row.tolist() == [[0, 1, 2]] and not found.mirrored.any() and not found.move.any()
    assert relatives(same[:0], same, 3, 1).move.shape == (0, 3, 2)


@pytest.mark.parametrize("count, shift, words", [(0, 1, "count is 0"), (4, 1, "from 1 to 3"), (1, -1, "shift is -1"), (1, 3, "shift is 3"), (1, 0.5, "shift is 0.5")])
def test_relatives_that_cannot_be_are_refused(count, shift, words):
    sprites = np.zeros((3, 4, 4, 3), np.uint8)
    with pytest.raises(LabError, match=words):
        relatives(sprites, sprites, count, shift)


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
