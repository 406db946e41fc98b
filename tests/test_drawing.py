"""The artist: streams of whole numbers, grids of text, light, outline, the split, and the shipped set."""

import re
from pathlib import Path

import numpy as np
import pytest
from oracle import close

from sprites_lab import LabError
from sprites_lab.data import SPRITES
from sprites_lab.drawing import artist, kinds
from sprites_lab.drawing.canvas import EMPTY, INK, add_outline, apply_pattern, code_of, colour, paint, read_grid, shade
from sprites_lab.drawing.palettes import FIXED, INKS, RAMPS, rgb
from sprites_lab.drawing.stream import Stream, hash64, mix
from sprites_lab.neighbours import nearest

GRIDS = """
// two kinds to test with
slots a: red blue
slots b: gold

group eyes
option dots at 6 6
K..K

option none

kind ball
mirror: yes
slots c: leaf
pattern a: none stripes
layers: body eyes shine
group body
option round at 4 4
.aaaaaa.
aaaaaaaa
aaaaaaaa
aaaaaaaa
aaaaaaaa
.aaaaaa.
group shine
option spot at 5 5
W

kind stick
group rod
option long at 7 2
b
b
b
b
"""


def grid(*rows, at=(0, 0), mirror=False):
    return read_grid(tuple(rows), at, mirror)


def balls():
    return kinds.read_kinds(GRIDS, "food")


# The stream


@pytest.mark.oracle
def test_the_stream_is_made_of_published_functions():
    assert mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # the first number of SplitMix64 with seed 0
    assert mix(2 * 0x9E3779B97F4A7C15 % 2**64) == 0x6E789E6AA1B965F4  # and the second
    assert hash64("a") == mix(0xAF63DC4C8601EC8C)  # FNV-1a of "a"
    assert hash64("foobar") == mix(0x85944171F73967E8)
    assert hash64() == mix(0xCBF29CE484222325)


@pytest.mark.oracle
def test_the_stream_is_counted_by_hand():
    stream, state = Stream(1, "apple", 7), hash64(1, "apple", 7)
    for n in (2, 3, 10, 1000, 2**40):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        assert stream.below(n) == mix(state) * n // 2**64


def test_keys_are_kept_apart():
    keys = [("a", "b"), ("ab",), ("a", "", "b"), (1, 2), (12,), ("1", "2", ""), (-1,), ("ü",)]
    assert len({hash64(*key) for key in keys}) == len(keys)
    assert hash64(1, 2) == hash64("1", "2")


def test_draws_are_uniform_and_reach_every_number():
    stream = Stream("uniform")
    counts = np.bincount([stream.below(7) for _ in range(7000)], minlength=7)
    assert ((counts - 1000) ** 2 / 1000).sum() < 6 + 5 * 12**0.5
    assert Stream(3).pick("abc") in "abc" and len({Stream(i).pick("abc") for i in range(40)}) == 3


# The canvas


def test_letters_become_codes_and_others_are_refused():
    assert [code_of(letter) for letter in ".#_1aA2bB0jJ"] == [0, 1, 2, 10, 11, 12, 14, 15, 16, 46, 47, 48]
    assert len({code_of(letter) for letter in FIXED}) == len(FIXED) and min(code_of(letter) for letter in FIXED) >= 100
    for letter in "zé?k":
        with pytest.raises(LabError, match="means nothing"):
            code_of(letter)


def test_a_grid_lies_where_it_is_put_and_its_mirror_image_on_the_other_side():
    picture = grid("#.#", "##", at=(3, 5))
    assert sorted(zip(*np.nonzero(picture), strict=True)) == [(5, 3), (5, 5), (6, 3), (6, 4)]
    assert np.array_equal(grid("#.#", "##", at=(3, 5), mirror=True), picture[:, ::-1])


@pytest.mark.parametrize("at", [(15, 0), (-1, 0), (0, 16), (0, -1)])
def test_a_grid_that_leaves_the_picture_is_refused(at):
    with pytest.raises(LabError, match="leaves the 16x16 picture"):
        grid("##", at=at)


def test_light_falls_from_the_top_left_also_on_a_mirrored_part():
    for mirror in (False, True):
        block = grid("aaaa", "aaaa", "aaaa", "aaaa", at=(6, 6), mirror=mirror)[6:10, 6:10]
        assert (block[3] == 10).all() and (block[:, 3] == 10).all()  # shadow at the bottom and right
        assert (block[0, :3] == 12).all() and (block[:3, 0] == 12).all()  # light at the top and left
        assert (block[1:3, 1:3] == 11).all()


def test_a_part_that_was_shaded_by_hand_stays_as_it_is():
    assert np.array_equal(grid("aAa", "a1a")[:2, :3], [[11, 12, 11], [11, 10, 11]])
    flat = grid("aaa", "bBb")
    assert (flat[0, :3] != 11).any() and flat[1, :3].tolist() == [15, 16, 15]


def test_shading_changes_shades_only():
    picture = np.where(np.random.default_rng(0).random((16, 16)) < 0.6, 15, EMPTY).astype(np.int16)
    shaded = shade(picture)
    assert np.array_equal((shaded - 10) // 4, (picture - 10) // 4) and (shaded != picture).any()


def test_a_later_layer_covers_and_erases():
    picture = grid("###", "###").copy()
    paint(picture, grid(".K_"))
    assert picture[0, :3].tolist() == [INK, code_of("K"), EMPTY] and (picture[1, :3] == INK).all()


def test_the_outline_is_closed_and_changes_no_paint():
    rng = np.random.default_rng(1)
    for _ in range(20):
        picture = np.where(rng.random((16, 16)) < 0.3, 11, EMPTY).astype(np.int16)
        before = picture.copy()
        add_outline(picture)
        assert (picture[before != EMPTY] == 11).all()
        for y, x in zip(*np.nonzero(before), strict=True):
            for b, a in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                assert not (0 <= a < 16 and 0 <= b < 16) or picture[b, a] != EMPTY
        for y, x in zip(*np.nonzero(picture == INK), strict=True):
            assert before[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any()


def test_patterns_darken_one_slot_or_give_it_to_another():
    picture = np.full((16, 16), 11, np.int16)
    picture[:, 8:] = 15
    dark = picture.copy()
    apply_pattern(dark, "a", "stripes")
    assert (dark[::3, :8] == 10).all() and (np.delete(dark, np.s_[::3], 0)[:, :8] == 11).all() and (dark[:, 8:] == 15).all()
    apply_pattern(picture, "a", "bars", "c")
    assert (picture[:, 0:8:3] == 19).all() and (picture[:, 1] == 11).all() and (picture[:, 8:] == 15).all()


def test_codes_become_the_colours_of_ramp_ink_and_paper():
    picture = np.zeros((16, 16), np.int16)
    picture[0, :6] = [EMPTY, INK, 10, 11, 12, code_of("R")]
    found = colour(picture, {"a": "red"}, "sepia")
    assert found.dtype == np.uint8
    assert found[0, :6].tolist() == [[255] * 3, list(rgb(INKS["sepia"])), *(list(rgb(s)) for s in RAMPS["red"]), list(rgb(FIXED["R"]))]


def test_every_ramp_runs_from_shadow_to_light():
    for name, shades in RAMPS.items():
        dark, base, light = (sum(rgb(s)) for s in shades)
        assert dark < base < light, name


# The grid language


def test_a_grid_file_is_read_as_it_is_written():
    ball, stick = balls()
    assert (ball.name, ball.mirror, ball.layers) == ("ball", True, ["body", "eyes", "shine"])
    assert ball.slots == {"a": ["red", "blue"], "b": ["gold"], "c": ["leaf"]} and stick.slots == {"a": ["red", "blue"], "b": ["gold"]}
    assert ball.patterns == {("a", None): ["none", "stripes"]} and stick.patterns == {}
    assert stick.layers == ["rod"] and not stick.mirror
    assert [option.name for option in ball.groups["eyes"]] == ["dots", "none"]
    assert ball.groups["eyes"][0].at == (6, 6) and ball.groups["eyes"][0].rows == ("K..K",) and ball.groups["eyes"][1].rows == ()


@pytest.mark.parametrize("text, words", [
    ("what is this", ["line 1", "what is this"]), ("\n\nkind a\ngroup", ["line 4"]), ("kind a\noption x", ["line 2"]),
    ("kind a\ngroup g\noption x at one 2", ["line 3", "one"]), ("kind a\nslots", ["line 2"]), ("kind a\nmirror", ["line 2"]),
    ("kind a\npattern b stripes", ["line 2"]),
    ("kind a\ngroup g\noption x\n?", ["kind a", "?"]), ("kind a\ngroup g\noption x at 15 0\n##", ["kind a", "leaves"]),
    ("kind a\nslots a: pink\ngroup g\noption x\na", ["kind a", "no ramp 'pink'"]),
    ("kind a\ngroup g\noption x\na", ["kind a", "draws 'a' without ramps"]),
    ("kind a\nslots a: red\npattern a: plaid\ngroup g\noption x\na", ["kind a", "no pattern 'plaid'"]),
    ("kind a\nlayers: h\ngroup g\noption x\n#", ["kind a", "layer 'h'"]), ("kind a\ngroup g", ["kind a", "'g'"]),
])  # fmt: skip
def test_a_mistake_in_a_grid_file_names_its_place(text, words):
    with pytest.raises(LabError) as caught:
        kinds.read_kinds(text, "food")
    assert all(word in str(caught.value) for word in ["grid file of food", *words]), caught.value


def test_a_drawn_sprite_follows_from_its_key_and_has_a_closed_outline():
    ball, _ = balls()
    one, same = (kinds.draw(ball, Stream(1, "ball", 3)) for _ in range(2))
    assert np.array_equal(one.pixels, same.pixels) and one.factors == same.factors
    many = [kinds.draw(ball, Stream(1, "ball", i)) for i in range(40)]
    assert len({sprite.pixels.tobytes() for sprite in many}) > 10
    assert {sprite.factors["mirror"] for sprite in many} == {"True", "False"}
    assert {sprite.factors["palette"] for sprite in many} == {"red", "blue"}
    for sprite in many:
        assert (sprite.codes[4:10, 3] == INK).any() and (sprite.pixels[sprite.codes == EMPTY] == 255).all()
        assert sprite.pixels[5, 5].tolist() == list(rgb(FIXED["W"]))  # the shine stays at the top left


# The set


@pytest.fixture(scope="module")
def small_set():
    return artist.draw_set(len(kinds.all_kinds()) * 2)


def test_a_small_set_is_always_the_same_and_another_seed_draws_another(small_set):
    count = len(small_set["sprites"])
    again, other = artist.draw_set(count), artist.draw_set(count, seed=2)
    assert again.keys() == small_set.keys() and all(np.array_equal(again[name], small_set[name]) for name in again)
    assert (other["sprites"] != small_set["sprites"]).any()


def test_every_kind_is_drawn_and_classes_are_even(small_set):
    every = kinds.all_kinds()
    assert set(small_set["kinds"]) == set(range(len(every))) and len(set(small_set["kind_names"])) == len(every)
    counts = np.bincount(small_set["labels"], minlength=5)
    assert counts.max() - counts.min() <= 1 and counts.sum() == 2 * len(every)
    for kind, label in zip(small_set["kinds"], small_set["labels"], strict=True):
        assert every[kind].class_name == kinds.CLASSES[label]


def test_more_sprites_than_memory_holds_are_refused_at_once():
    with pytest.raises(LabError, match="at most 1,000,000"):
        artist.draw_set(1_000_001)


def test_shares_add_up_for_any_count():
    every = kinds.all_kinds()
    for count in (len(every), 1000, 20_000, 20_003):
        assert sum(artist.share_of(kind, every, count) for kind in every) == count


def regions(cells):
    """Cells (16, 16) renumbered in the order in which their values appear, read both ways: equal for all recolourings."""
    both = []
    for values in (cells, cells[:, ::-1]):
        numbers = {}
        both.append(tuple(numbers.setdefault(value, len(numbers)) for value in values.ravel().tolist()))
    return frozenset(both)


def test_regions_forget_colours_and_direction_and_nothing_else():
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 4, (16, 16))
    for same in (cells, cells[:, ::-1], 7 - cells, np.array([5, 90, 7, -3])[cells]):
        assert artist.regions(same) == artist.regions(cells)
    merged, moved = np.where(cells == 3, 2, cells), cells.copy()
    moved[3, 3] = (moved[3, 3] + 1) % 4
    for other in (merged, moved, cells[::-1], np.zeros((16, 16), int)):
        assert artist.regions(other) != artist.regions(cells)


def test_shades_ink_and_fixed_colours_in_a_form():
    """Shades make no form, inner lines neither; a part of another slot or colour does."""
    codes = np.zeros((16, 16), np.int16)
    codes[4:9, 4:9] = 11

    def form(place, code):
        changed = codes.copy()
        changed[place] = code
        return artist.form_of(kinds.Sprite(np.zeros((16, 16, 3), np.uint8), changed, {}))

    plain = form((4, 4), 11)
    assert form((4, 4), 10) == form((5, 5), 12) == plain and form((0, 0), INK) == plain and form((6, 6), INK) == form((6, 6), EMPTY)
    assert len({plain, form((6, 6), 15), form((6, 6), EMPTY), form((5, 6), 15)}) == 4 and form((6, 6), code_of("K")) == form((6, 6), 15)


def forms_and_splits(arrays):
    """Form of each sprite, recovered by drawing each kind again until all its sprites were met."""
    every, rows = kinds.all_kinds(), {}
    for i, (kind, sprite) in enumerate(zip(arrays["kinds"], arrays["sprites"], strict=True)):
        rows.setdefault(int(kind), {})[sprite.tobytes()] = i
    for number, wanted in rows.items():
        kind = every[number]
        for attempt in range(len(wanted) * artist.TRIES):
            sprite = kinds.draw(kind, Stream(1, kind.class_name, kind.name, attempt))
            if (i := wanted.pop(sprite.pixels.tobytes(), None)) is not None:
                slots = np.where(sprite.codes < 10, 0, np.where(sprite.codes < 100, 10 + (sprite.codes - 10) // 4, sprite.codes))
                yield number, regions(slots), bool(arrays["held_out"][i])
            if not wanted:
                break


def test_all_colourings_and_mirror_images_of_a_form_are_on_one_side_of_the_split(small_set):
    sides = {}
    for number, form, held_out in forms_and_splits(small_set):
        sides.setdefault((number, form), set()).add(held_out)
    assert len(sides) > 100 and all(len(side) == 1 for side in sides.values())


def no_recolouring_is_on_both_sides(sprites, held_out):
    """No sprite can be turned into one of the other side by exchanging colours and mirroring; none comes twice."""
    assert len({sprite.tobytes() for sprite in sprites}) == len(sprites)
    colours = sprites.astype(int) @ (1, 1 << 8, 1 << 16)
    train, test = ({regions(picture) for picture in colours[rows]} for rows in (~held_out, held_out))
    return train and test and train.isdisjoint(test)


def test_no_recolouring_is_on_both_sides_of_the_split_and_no_sprite_comes_twice(small_set):
    assert no_recolouring_is_on_both_sides(small_set["sprites"], small_set["held_out"])
    assert 0.05 < small_set["held_out"].mean() < 0.16
    recoloured = np.concatenate([small_set["sprites"], small_set["sprites"][~small_set["held_out"]][:1, :, ::-1] ^ 1])
    assert not no_recolouring_is_on_both_sides(recoloured, np.append(small_set["held_out"], True))


def test_factors_point_into_their_names(small_set):
    factors = [name for name in small_set if name.startswith("factor_") and not name.endswith("_names")]
    assert "factor_ink" in factors and "factor_palette" in factors
    for name in factors:
        names = small_set[f"{name}_names"]
        assert small_set[name].dtype == np.int16 and small_set[name].min() >= -1 and small_set[name].max() == len(names) - 1
        assert list(names) == sorted(set(names))


def test_the_report_counts_what_is_there(small_set):
    report, n = artist.report(small_set), len(small_set["sprites"])
    assert f"{n:,} sprites, 0 of them twice" in report and f"{small_set['held_out'].mean():.1%} held out" in report
    assert f"{len(artist.file_bytes(small_set)):,} bytes" in report and "touching the border: 0.0%" in report
    blot = small_set["sprites"].copy()
    blot[: n // 4, 0, 7] = 0
    twice = small_set | {"sprites": np.repeat(small_set["sprites"][: n // 2], 2, 0)}
    assert f"{n // 2} of them twice" in artist.report(twice)
    assert f"touching the border: {n // 4 / n:.1%}" in artist.report(small_set | {"sprites": blot})


def test_combinations_are_those_of_the_parts_textures_used_ramps_and_inks():
    ball, stick = balls()
    assert artist.combinations(ball) == (1 * 2 * 1) * 2 * 2 * len(INKS) * 2  # body eyes shine, texture, red or blue, mirror
    assert artist.combinations(stick) == len(INKS)


def test_too_few_or_too_many_sprites_are_refused():
    with pytest.raises(LabError, match="each is drawn at least once"):
        artist.draw_set(5)
    with pytest.raises(LabError, match="'stick' of food has only about"):
        artist.draw_kind(0, balls()[1], 50, 1, {})


def test_a_written_set_compares_equal_and_the_first_difference_is_named(tmp_path, small_set):
    path = tmp_path / "a.npz"
    path.write_bytes(artist.file_bytes(small_set))
    artist.compare(small_set, path)
    changed = small_set | {"labels": small_set["labels"].copy()}
    changed["labels"][7] ^= 1
    with pytest.raises(LabError, match="differs from what the code draws, in 'labels'"):
        artist.compare(changed, path)
    with pytest.raises(LabError, match="other arrays: extra"):
        artist.compare(small_set | {"extra": small_set["labels"]}, path)
    with pytest.raises(LabError, match="labels"):
        artist.compare(small_set | {"labels": small_set["labels"].astype(np.int64)}, path)


@pytest.mark.slow
def test_the_shipped_sprites_are_what_the_code_draws_bit_for_bit():
    artist.compare(artist.draw_set(), SPRITES)


@pytest.fixture(scope="module")
def shipped():
    with np.load(SPRITES, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_the_shipped_sprites_keep_the_split(shipped):
    assert no_recolouring_is_on_both_sides(shipped["sprites"], shipped["held_out"])
    close(shipped["held_out"].mean(), 0.1, 0.02)


def test_the_shipped_sprites_are_as_many_as_promised(shipped):
    """The figures of the data card: classes, kinds and their shares, held-out sprites of every kind, the size of the file."""
    labels, numbers, every = shipped["labels"], shipped["kinds"], kinds.all_kinds()
    assert len(labels) == artist.COUNT == 20_000 and np.bincount(labels).tolist() == [artist.COUNT // 5] * 5
    assert SPRITES.stat().st_size < 4e6
    least = {"hero": 24, "non-hero": 40, "food": 40, "spell": 60, "side-facing": 24}
    for label, name in enumerate(kinds.CLASSES):
        shares = np.unique(numbers[labels == label], return_counts=True)[1] / (artist.COUNT // 5)
        assert len(shares) == sum(kind.class_name == name for kind in every) >= least[name] and 0.003 <= shares.min() <= shares.max() <= 0.06
    assert len(np.unique(numbers)) == len(np.unique(numbers[shipped["held_out"]])) == len(every) == len(set(shipped["kind_names"]))
    assert sum(map(artist.combinations, every)) > 1e6


def test_the_shipped_sprites_stand_free_on_white_in_few_colours(shipped):
    border = np.ones((16, 16), bool)
    border[1:15, 1:15] = False
    assert (shipped["sprites"][:, border] != 255).any((1, 2)).mean() <= 0.05
    colours = [len(set(sprite.reshape(-1, 3).astype(int) @ (1, 1 << 8, 1 << 16))) for sprite in shipped["sprites"]]
    assert 6 <= np.median(colours) <= 14 and max(colours) <= 20


def test_no_shipped_held_out_sprite_is_nearly_a_training_sprite_of_its_kind(shipped):
    for number in range(0, len(shipped["kind_names"]), 7):
        sprites, held_out = (shipped[name][shipped["kinds"] == number] for name in ("sprites", "held_out"))
        assert nearest(sprites[held_out], sprites[~held_out])[0].min() >= artist.APART == 2


def test_the_worked_example_of_the_readme_draws_as_it_says():
    text = (Path(artist.__file__).parent / "README.md").read_text("utf-8")
    (nut,) = kinds.read_kinds(re.search(r"```\n(kind hazelnut.*?)```", text, re.DOTALL)[1], "food")
    drawn = [kinds.draw(nut, Stream("nut", i)) for i in range(100)]
    assert len({artist.form_of(sprite) for sprite in drawn}) == 4
    for sprite in drawn:
        assert not any(sprite.codes[edge].any() for edge in (0, -1, np.s_[:, 0], np.s_[:, -1]))


def test_sprites_of_one_kind_come_from_every_class_that_has_it():
    assert len(artist.draw_of_kind("egg", 5)) == 5 and len(artist.draw_of_kind("mage", 5)) == 10
    with pytest.raises(LabError, match="no kind 'eg'; there are: knight, mage"):
        artist.draw_of_kind("eg", 5)


def test_another_seed_draws_other_sprites(small_set):
    other = artist.draw_set(len(small_set["sprites"]), seed=2)
    first = {sprite.tobytes() for sprite in small_set["sprites"]}
    assert np.mean([sprite.tobytes() in first for sprite in other["sprites"]]) < 0.05


def test_a_set_with_more_palettes_than_int16_can_number_keeps_them_all():
    count, kinds = 33_000, artist.all_kinds()
    blank, codes = np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.int16)
    rows = [(0, artist.Sprite(blank, codes, {"palette": f"p{i:05d}"}), False) for i in range(count)]
    arrays = artist.as_arrays(rows, kinds)
    assert arrays["factor_palette"].dtype == np.int32 and (arrays["factor_palette"] == np.arange(count)).all()
