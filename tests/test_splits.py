"""Groups and splits, against groups that were made by hand or found by comparing all pairs."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprites_lab.splits import form, same, split, together


def noise(count, size=16, seed=0):
    """Sprites in which nearly every pixel has a colour of its own."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def drawn(count, size, colours, seed=0):
    """Sprites of chance pixels in so many colours."""
    rng = np.random.default_rng(seed)
    palette = rng.choice(256, colours, replace=False)[:, None] * [1, 0, 1]
    return palette.astype(np.uint8)[rng.integers(0, colours, (count, size, size))]


def recoloured(sprite, seed=0):
    """The sprite with other colours, as many of them as before."""
    colours, place = np.unique(sprite.reshape(-1, 3), axis=0, return_inverse=True)
    fresh = np.random.default_rng(seed).choice(256**3, len(colours), replace=False)
    return np.stack([fresh >> 16, fresh >> 8 & 255, fresh & 255], -1).astype(np.uint8)[place.ravel()].reshape(sprite.shape)


def one_to_one(one, other):
    """Whether each colour of a sprite stands where one and the same colour of the other one stands."""
    pairs = {(tuple(a), tuple(b)) for a, b in zip(one.reshape(-1, 3).tolist(), other.reshape(-1, 3).tolist())}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def related(one, other):
    return one_to_one(one, other) or one_to_one(one, other[:, ::-1])


# Groups


@given(st.integers(0, 12).flatmap(lambda count: st.tuples(st.just(count), st.lists(st.tuples(*[st.integers(0, max(count - 1, 0))] * 2), max_size=15 * bool(count)))))
def test_rows_are_together_if_a_chain_of_pairs_leads_from_one_to_the_other(case):
    count, pairs = case
    reached = np.eye(count, dtype=int)
    for one, other in pairs:
        reached[one, other] = reached[other, one] = 1
    for _ in range(count):
        reached = (reached @ reached > 0).astype(int)
    assert together(count, pairs).tolist() == [row.argmax() for row in reached]


def test_the_longest_chains_are_followed_in_any_order():
    count = 20_000
    for pairs in ([(row, row + 1) for row in range(count - 1)], [(row + 1, row) for row in reversed(range(count - 1))]):
        assert not together(count, pairs).any()
    assert together(count, []).tolist() == list(range(count))


def test_rows_with_the_same_key_are_paired_and_empty_keys_are_like_no_other():
    keys = ["a", "", "b", "a", None, "", "a", "b", None]
    assert together(9, same(keys)).tolist() == [0, 1, 2, 0, 4, 5, 0, 2, 8]
    assert list(same([])) == [] == list(same(["", None, b""]))


# Forms


@given(st.integers(0, 2**32 - 1), st.integers(3, 6), st.integers(1, 4), st.booleans())
def test_a_mirrored_or_recoloured_sprite_has_the_form_of_its_original(seed, size, colours, mirrored):
    sprite = drawn(1, size, colours, seed)[0]
    assert form(recoloured(sprite[:, ::-1] if mirrored else sprite, seed)) == form(sprite)


@given(st.integers(0, 2**32 - 1))
def test_two_sprites_have_one_form_only_if_colours_can_be_exchanged_for_colours(seed):
    few = drawn(12, 2, 2, seed)  # two colours on four pixels: many are alike, many are not
    for one in few:
        for other in few:
            assert (form(one) == form(other)) == related(one, other)


def test_a_colour_more_or_less_or_a_pixel_elsewhere_is_another_form():
    plain = np.zeros((4, 4, 3), np.uint8)
    dot, moved, two = plain.copy(), plain.copy(), plain.copy()
    dot[0, 0], moved[1, 0], two[0, 0], two[2, 2] = 9, 9, 9, 7
    assert len({form(sprite) for sprite in (plain, dot, moved, two)}) == 4
    assert form(plain) == form(plain + 5) and form(dot) == form(dot[:, ::-1])


def test_where_most_pixels_have_a_colour_of_their_own_the_colours_count_too():
    photographs = noise(50)
    assert len({form(one) for one in photographs}) == 50 == len({form(one) for one in np.concatenate([photographs, photographs[:, :, ::-1]])})
    for colours, alike in ((8, True), (9, False)):  # on 16 pixels
        sprite = (np.arange(16) % colours).repeat(3).reshape(4, 4, 3).astype(np.uint8)
        assert (form(recoloured(sprite)) == form(sprite)) == alike and form(sprite[:, ::-1]) == form(sprite)


# Splits


@st.composite
def families(draw):
    """A few tiny sprites with their mirror images and recolourings, in chance order; labels, files, a share."""
    seed, count = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 30))
    rng = np.random.default_rng(seed)
    parents = drawn(draw(st.integers(1, 12)), 3, draw(st.integers(2, 4)), seed)
    chosen = [parents[rng.integers(len(parents))] for _ in range(count)]
    sprites = np.stack([recoloured(one[:, ::-1] if rng.random() < 0.5 else one, rng.integers(2**32)) for one in chosen])
    files = [draw(st.sampled_from(["", "", "", "a.png", "b.png"])) for _ in range(count)]
    return sprites, rng.integers(0, draw(st.integers(1, 4)), count), files, draw(st.sampled_from([0.0, 0.1, 0.25, 0.5]))


@given(families())
def test_relatives_are_never_parted(case):
    sprites, labels, files, share = case
    held_out = split(sprites, labels, share, files)
    assert held_out.shape == labels.shape and held_out.dtype == bool  # every sprite is on one side
    for i in range(len(sprites)):
        for j in range(i):
            if related(sprites[i], sprites[j]) or files[i] == files[j] != "":
                assert held_out[i] == held_out[j]


@given(families(), st.integers(0, 2**32 - 1))
def test_a_sprite_keeps_its_side_in_whatever_order_the_set_comes(case, seed):
    sprites, labels, _, share = case
    order = np.random.default_rng(seed).permutation(len(sprites))
    assert np.array_equal(split(sprites[order], labels[order], share), split(sprites, labels, share)[order])


@given(families())
def test_the_share_is_exceeded_by_less_than_a_group_and_half_of_the_groups_are_trained_on(case):
    sprites, _, files, share = case
    labels = np.zeros(len(sprites), int)
    held_out, group = split(sprites, labels, share, files), together(len(sprites), [*same(map(form, sprites)), *same(files)])
    sizes, chosen = np.bincount(group), set(group[held_out].tolist())
    wanted = max(round(share * len(sprites)), share > 0 and len(sprites) >= 4)
    most = len(set(group.tolist())) // 2
    assert len(chosen) <= most and (held_out.sum() >= wanted or len(chosen) == most)
    assert held_out.sum() < wanted + sizes.max() and (wanted > 0 or not held_out.any())


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.3, 0.5])
def test_of_sprites_without_relatives_each_class_gives_just_the_share(share):
    sprites, labels = noise(600), np.repeat([3, 0, 7], [100, 200, 300])
    held_out = split(sprites, labels, share)
    assert [held_out[labels == label].sum() for label in (3, 0, 7)] == [round(share * count) for count in (100, 200, 300)]
    assert share == 0 or held_out[:50].any() and held_out[50:100].any() and not held_out[:100].all()  # not merely the first or the last ones


@pytest.mark.parametrize("count, wanted", [(0, 0), (1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (14, 1), (16, 2)])
def test_a_class_of_four_gives_one_and_a_smaller_one_is_all_for_training(count, wanted):
    assert split(noise(count, 4), np.zeros(count, int), 0.1).sum() == wanted


def test_one_large_family_is_for_training_and_one_of_two_is_held_out_whole():
    one, other = drawn(2, 6, 3)
    family, rest = (np.stack([recoloured(sprite, seed) for seed in range(20)]) for sprite in (one, other))
    assert not split(family, np.zeros(20), 0.5).any()
    held_out = split(np.concatenate([family, rest]), np.zeros(40), 0.1)
    assert held_out.sum() == 20 and held_out[:20].all() != held_out[20:].all()


def test_files_join_what_forms_do_not_even_across_classes():
    sprites, labels, files = noise(40, 5), np.repeat([0, 1], 20), [f"{row % 20 // 2}.gif" for row in range(40)]
    held_out = split(sprites, labels, 0.2, files)
    assert 4 <= held_out[labels == 0].sum() == held_out[labels == 1].sum() <= 5
    assert np.array_equal(held_out[:20], held_out[20:]) and np.array_equal(held_out[::2], held_out[1::2])
    assert not np.array_equal(split(sprites, labels, 0.2), held_out)


def test_the_choice_is_that_of_the_hash_of_the_form():
    """What was held out once stays held out: a set that is imported again, years later, may not leak."""
    sprites = drawn(50, 8, 4)
    ranked = sorted(range(50), key=lambda row: hashlib.sha256(form(sprites[row])).hexdigest())
    assert np.flatnonzero(split(sprites, np.zeros(50), 0.1)).tolist() == sorted(ranked[:5])
    strip = np.array([[[0] * 3, [9] * 3, [0] * 3, [0] * 3, [7] * 3, [9] * 3]], np.uint8)
    assert form(strip) == np.array([0, 1, 0, 0, 2, 1], np.uint16).tobytes()  # colours numbered as they appear
