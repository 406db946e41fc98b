"""The memorisation audit, against sets whose copies are known because they were planted."""

import numpy as np
import pytest

from sprites_lab import LabError, data
from sprites_lab.audit import Share, audit, copy_rate, duplicates, nearest_pairs, told, wilson
from sprites_lab.metrics import COPY

KINDS_OF_COPY = ["plain", "mirrored", "moved", "mirrored and moved"]


def noise(count, seed=0, size=16):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def shifted(image, down, right, edge):
    """The image moved (down, right); at its edges a colour, or "wrap": what went out on the other side."""
    wrapped = np.roll(image, (down, right), (0, 1))
    if edge != "wrap":
        wrapped[[0] * (down > 0) + [-1] * (down < 0)] = edge
        wrapped[:, [0] * (right > 0) + [-1] * (right < 0)] = edge
    return wrapped


def planted(sprites, kind, edge, seed=0):
    """Copies of sprites of one kind, moved each in its own way."""
    rng, copies = np.random.default_rng(seed), sprites[:, :, ::-1] if "mirrored" in kind else sprites
    moves = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
    return np.stack([shifted(one, *moves[rng.integers(8)], edge) for one in copies]) if "moved" in kind else copies


# Shares and how sure they are


@pytest.mark.oracle
@pytest.mark.parametrize("hits, count, low, high", [
    (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (1, 29, 0.0061, 0.1718),
])  # fmt: skip
def test_the_interval_is_that_of_published_examples(hits, count, low, high):
    """Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, and the two ends."""
    found = wilson(hits, count, 1.959964)
    assert found.share == hits / count and found.count == count
    assert abs(found.low - low) < 6e-5 and abs(found.high - high) < 6e-5


@pytest.mark.oracle
def test_the_ends_are_where_the_share_is_two_deviations_away():
    """Wilson's definition: at p = low and p = high, |share - p| = z sqrt(p (1 - p) / n)."""
    for hits, count in ((3, 500), (250, 500), (499, 500), (1, 1), (7, 9)):
        share, low, high, _ = wilson(hits, count)
        assert low < share < high or hits == count and low < share == high
        for end in (low, high) if hits < count else (low,):
            assert abs(abs(share - end) - 1.96 * np.sqrt(end * (1 - end) / count)) < 1e-12


def test_the_interval_holds_its_share_and_no_z_is_no_room():
    assert wilson(0, 7).low == 0 and wilson(7, 7).high == 1
    assert wilson(3, 10, 0) == Share(0.3, 0.3, 0.3, 10)


@pytest.mark.parametrize("hits, count, words", [(1, 0, "count is 0"), (-1, 5, "hits is -1"), (6, 5, "hits is 6"), (0.5, 5, "hits is 0.5")])
def test_shares_of_nothing_are_refused(hits, count, words):
    with pytest.raises(LabError, match=words):
        wilson(hits, count)


# Who copies


@pytest.mark.parametrize("edge", [255, 0, "wrap"])
@pytest.mark.parametrize("kind", KINDS_OF_COPY)
def test_a_planted_memoriser_copies_in_all_cases(kind, edge):
    train = noise(60)
    found = audit(planted(train[:40], kind, edge), train, noise(30, 1))
    assert found.made.share == found.made.high == 1 and found.made.low > 0.9 and found.made.count == 40
    assert found.held_out.share == found.held_out.low == 0 and found.held_out.count == 30


@pytest.mark.parametrize("kind", KINDS_OF_COPY)
def test_without_moves_only_copies_in_place_count(kind):
    train = noise(60)
    assert copy_rate(planted(train[:40], kind, 255), train, shift=0).share == float("moved" not in kind)


def test_two_pixels_are_farther_than_one():
    train = noise(20)
    far = np.stack([shifted(one, 0, 2, 255) for one in train])
    assert copy_rate(far, train, 1).share == 0 and copy_rate(far, train, 2).share == 1


def test_what_is_nearer_than_the_limit_is_a_copy():
    train = np.full((3, 16, 16, 3), 100, np.uint8)
    made = np.stack([np.full((16, 16, 3), 100 + int(COPY) + more, np.uint8) for more in (-1, 0, 1)])
    assert copy_rate(made, train).share == 1 / 3 and copy_rate(made, train, limit=5).share == 2 / 3
    assert copy_rate(made[1:], train, limit=4.001).share == 1 / 2


def test_the_audit_is_both_rates():
    train, made, new = noise(30), np.concatenate([noise(6)[:3], noise(3, 5)]), np.concatenate([noise(30)[-1:], noise(3, 6)])
    assert audit(made, train, new) == (copy_rate(made, train), copy_rate(new, train)) == (wilson(3, 6), wilson(1, 4))


def test_a_rate_of_nothing_and_a_limit_that_cannot_be_are_refused():
    train = noise(3)
    for made, more, words in ((train[:0], {}, "at least one"), (train, {"limit": -1}, "limit is -1"), (train, {"shift": 9}, "shift is 9"), (train / 2, {}, "float64")):
        with pytest.raises(LabError, match=words):
            copy_rate(made, train, **more)


@pytest.mark.slow
def test_a_memoriser_of_the_shipped_training_split_is_caught_and_held_out_sprites_are_not():
    sprites = data.load_sprites()
    train, rows = sprites.train.sprites, np.random.default_rng(0).integers(0, len(sprites.train), 12)
    made = np.concatenate([planted(train[rows], kind, 255) for kind in KINDS_OF_COPY])
    found = audit(made, train, sprites.test.sprites[::40])
    assert found.made.share == 1 and found.held_out.high < 0.35 and found.held_out.count >= 50


# The same sprite twice


def same_somehow(one, other, shift):
    """Whether two sprites are equal, mirrored or moved, where they overlap, looked at pixel by pixel."""
    size = len(one)
    for image in (one, one[:, ::-1]):
        for down in range(-shift, shift + 1):
            for right in range(-shift, shift + 1):
                ys, xs = (range(max(0, move), size + min(0, move)) for move in (down, right))
                if all((image[y - down, x - right] == other[y, x]).all() for y in ys for x in xs):
                    return True
    return False


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_groups_are_those_of_comparing_all_pairs(seed, shift):
    rng = np.random.default_rng(seed)
    sprites = rng.choice(np.array([0, 255], np.uint8), (40, 4, 4, 1)).repeat(3, 3)
    sprites[:20, :, 1:3] = sprites[:20, :1, 1:3]
    leader = list(range(40))
    for a in range(40):
        for b in range(a):
            if same_somehow(sprites[a], sprites[b], shift):
                leader = [leader[b] if one == leader[a] else one for one in leader]
    expected = sorted(sorted(i for i in range(40) if leader[i] == name) for name in set(leader))
    assert duplicates(sprites, shift) == [group for group in expected if len(group) > 1]


@pytest.mark.parametrize("edge", [255, "wrap"])
def test_planted_duplicates_are_found_in_each_direction(edge):
    clean = noise(20)
    assert duplicates(clean) == [] == duplicates(clean[:1])
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            for image in (clean[4], clean[4][:, ::-1]):
                twin = shifted(image, down, right, edge)[None]
                assert duplicates(np.concatenate([clean, twin])) == [[4, 20]], (down, right)
                assert duplicates(np.concatenate([twin, clean])) == [[0, 5]], (down, right)


def test_groups_grow_and_without_moves_only_equal_and_mirrored_ones_count():
    clean = noise(5)
    more = np.stack([clean[2], clean[0][:, ::-1], shifted(clean[2], 1, 0, 255), clean[0]])
    assert duplicates(np.concatenate([clean, more])) == [[0, 6, 8], [2, 5, 7]]
    assert duplicates(np.concatenate([clean, more]), shift=0) == [[0, 6, 8], [2, 5]]


def test_the_bundled_sprites_are_all_different():
    assert duplicates(data.load_sprites().sprites) == []


@pytest.mark.parametrize("sprites, shift, words", [
    (np.zeros((2, 4, 4, 3)), 1, "float64"), (noise(2), 9, "shift is 9"), (noise(2)[:0], 1, "holds 0 sprites"),
])  # fmt: skip
def test_sets_that_cannot_be_searched_are_refused(sprites, shift, words):
    with pytest.raises(LabError, match=words):
        duplicates(sprites, shift)


def test_the_nearest_pairs_come_first_and_are_turned_like_the_made_ones():
    chance = np.random.default_rng(5)
    train = chance.integers(0, 256, (30, 8, 8, 3), np.uint8)
    made = chance.integers(0, 256, (10, 8, 8, 3), np.uint8)
    made[7], made[2] = train[4, :, ::-1], np.clip(train[9].astype(int) + 3, 0, 255)
    found = nearest_pairs(made, train, 3)
    assert np.array_equal(found.made[:2], made[[7, 2]]) and np.array_equal(found.train[:2], [train[4, :, ::-1], train[9]])
    assert found.copies == copy_rate(made, train) and found.copies.share == 0.2
    assert found.distance[0] == 0 and 0 < found.distance[1] <= 3 < found.distance[2] and len(found.made) == 3


def test_an_audit_is_told_in_a_sentence():
    said = told(audit(np.zeros((4, 8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3), np.uint8), np.full((5, 8, 8, 3), 255, np.uint8)))
    assert "100.0 % (51.0 to 100.0) of 4 made sprites, 0.0 % (0.0 to 43.4) of 5 held-out ones" in said
