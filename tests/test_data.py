"""Sprites and contexts: bytes and pictures, splits, bad files, words of the command line."""

from functools import partial

import checks
import numpy as np
import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import NAMES, careful, sprite_arrays, write_sprites

from sprites_lab import LabError, data
from sprites_lab.data import SpriteSet, context_of, load_sprites, parse_context


@pytest.fixture
def path(tmp_path):
    return tmp_path / "set.npz"


refusal = partial(small.refusal, load_sprites)


@pytest.mark.parametrize("check", [checks.check_bytes, checks.check_parsed_contexts, checks.check_split], ids=lambda c: c.__name__)
def test_data(check):
    check()


def test_a_sprite_file_comes_back_as_it_was_written(path):
    arrays, found = sprite_arrays(), load_sprites(write_sprites(path))
    for name in ("sprites", "labels", "kinds", "held_out"):
        assert np.array_equal(getattr(found, name), arrays[name]), name
    assert found.kind_names == ("mage", "apple", "sword") and found.class_names == NAMES
    assert torch.equal(found.pictures(), data.to_pictures(arrays["sprites"]))


def test_rows_may_be_a_slice_numbers_or_a_mask(path):
    whole = load_sprites(write_sprites(path))
    for rows in (slice(3, 5), [3, 4], np.arange(16) // 2 * 2 + np.arange(16) % 2 == np.clip(np.arange(16), 3, 4)):
        part = whole[rows]
        assert isinstance(part, SpriteSet) and np.array_equal(part.sprites, whole.sprites[3:5])
        assert part.labels.tolist() == [3, 4] and part.kinds.tolist() == [0, 1] and part.held_out.tolist() == [True, False]


def test_unknown_classes_and_kinds_are_refused_with_the_list(path):
    whole = load_sprites(write_sprites(path))
    with pytest.raises(LabError, match="no class 'dragon'; there are: hero, non-hero"):
        whole.of_class("dragon")
    with pytest.raises(LabError, match="no kind 'dragon'; there are: mage, apple"):
        whole.of_kind("dragon")


def test_bob_is_the_second_mage_of_the_training_split(path):
    arrays = sprite_arrays()
    arrays["held_out"][0] = True
    arrays.update(labels=np.zeros(16, np.uint8), kinds=(np.arange(16) % 3).astype(np.uint16))
    bob = data.bob(load_sprites(write_sprites(path, **arrays)))
    assert torch.equal(bob, data.to_pictures(arrays["sprites"][9:10]))  # 0 and 3 are held out


@pytest.mark.parametrize("held_out", [np.arange(16) % 4 == 3, (np.arange(16) % 4 == 3).astype(np.uint8)], ids=["bool", "uint8"])
def test_the_split_is_the_same_whichever_way_the_flags_are_stored(path, held_out):
    try:
        whole = load_sprites(write_sprites(path, held_out=held_out))
    except LabError:
        return  # refusing is as good
    assert len(whole.train) == 12 and len(whole.test) == 4
    assert np.array_equal(whole.train.sprites, sprite_arrays()["sprites"][np.arange(16) % 4 != 3])


A = sprite_arrays()


@pytest.mark.parametrize("change, word", [
    (dict(sprites=A["sprites"].astype(np.float32)), "uint8"), (dict(sprites=A["sprites"][:0]), "sprites"),
    (dict(sprites=A["sprites"][..., :2]), "sprites"), (dict(sprites=A["sprites"][0]), "sprites"),
    (dict(sprites=A["sprites"][:, :8]), "sprites"), (dict(sprites=A["sprites"].astype(np.int8)), "uint8"),
    (dict(sprites=np.uint8(7)), "sprites"), (dict(sprites=A["sprites"].astype(">u2")), "uint8"),
    (dict(labels=A["labels"][:-1]), "labels"), (dict(labels=A["labels"] + 5), "labels"),
    (dict(labels=A["labels"].astype(np.float32)), "labels"), (dict(labels=np.eye(16, 5)), "labels"),
    (dict(labels=A["labels"].astype(np.int64) - 1), "labels"), (dict(labels=np.array(["hero"] * 16)), "labels"),
    (dict(kinds=A["kinds"] + 1), "kinds"), (dict(kinds=A["kinds"].astype(complex)), "kinds"),
    (dict(held_out=np.full(16, 2)), "held_out"), (dict(held_out=np.array(["no"] * 16)), "held_out"),
    (dict(kind_names=np.array(["mage"])), "kinds"), (dict(kind_names=np.array("mage")), "kind"),
    (dict(labels=A["labels"].astype(object)), "labels holds no plain numbers"), (dict(sprites=A["sprites"].astype(object)), "sprites holds no plain numbers"),
    (dict(sprites=A["labels"], labels=A["sprites"]), "sprites"),
], ids=lambda value: repr({n: (v.dtype.str, v.shape) for n, v in value.items()}) if isinstance(value, dict) else None)  # fmt: skip
def test_arrays_of_another_shape_type_or_range_are_refused(path, change, word):
    refusal(write_sprites(path, **change), word)


@pytest.mark.parametrize("name", ["sprites", "labels", "kinds", "held_out", "kind_names"])
def test_a_missing_array_is_named(path, name):
    arrays = sprite_arrays()
    del arrays[name]
    np.savez(path, **arrays)
    refusal(path, name)


@pytest.mark.parametrize("content", [
    b"", b"<!DOCTYPE html><html>Not Found</html>", b"PK\x03\x04 no zip", b"\x80\x04K\x01.", bytes(100), b"\x93NUMPY\x01\x00",
], ids=repr)  # fmt: skip
def test_other_things_than_sprites_are_refused_without_advice_about_pickles(path, content):
    path.write_bytes(content)
    assert "pickle" not in refusal(path)


def test_a_single_array_a_missing_file_and_a_folder_are_refused(path, tmp_path):
    refusal(tmp_path / "nothing.npz", "draw --out")
    refusal(tmp_path)
    refusal(tmp_path / ("x" * 300))
    np.save(path.with_suffix(".npy"), A["sprites"])
    refusal(path.with_suffix(".npy"))


def test_a_file_cut_short_or_damaged_anywhere_is_refused_or_the_same(path):
    whole = write_sprites(path).read_bytes()
    chance = np.random.default_rng(0)
    for place in chance.integers(len(whole), size=100):
        path.write_bytes(whole[:place])
        refusal(path)
    for place in chance.integers(len(whole), size=300):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(chance.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            found = load_sprites(path)
        except LabError:
            continue
        for name in ("sprites", "labels", "kinds", "held_out"):
            assert np.array_equal(getattr(found, name), A[name]), f"byte {place} changes {name} unseen"


@pytest.mark.parametrize("text, words", [
    ("dragon=1", ["no class 'dragon'", "hero"]), ("hero=much", ["'much'", "no number"]), ("hero=nan", ["between"]),
    ("hero=inf", ["between"]), ("hero=101", ["between"]), ("hero=1e400", ["between"]), (",", ["no class ''"]),
    ("hero,,food", ["no class ''"]), ("hero==1", ["no number"]), ("=1", ["no class ''"]), ("none,hero", ["no class 'none'"]),
    ("hero=1;food=1", ["no number"]), ("0", ["no class '0'"]),
])  # fmt: skip
def test_words_that_are_no_context_are_refused(text, words):
    with pytest.raises(LabError) as caught:
        parse_context(text)
    assert all(word in str(caught.value) for word in words)


@careful
@given(st.dictionaries(st.sampled_from(NAMES), st.floats(-100, 100, width=32), max_size=5), st.sampled_from(["", " "]))
def test_any_context_that_is_written_down_is_read_back(parts, space):
    text = ",".join(f"{space}{name}{space}={space}{share!r}" for name, share in parts.items())
    assert torch.equal(parse_context(text), context_of(parts))
    assert parse_context(text).tolist() == [parts.get(name, 0) for name in NAMES]


@careful
@given(st.text(alphabet="hero=,-nonfd1.e ∞²", max_size=12))
def test_any_text_makes_a_finite_context_or_a_lab_error(text):
    try:
        assert parse_context(text).isfinite().all()
    except LabError as error:
        assert "\n" not in str(error)


def test_contexts_of_other_class_names_have_their_length():
    assert parse_context("b=2", ("a", "b", "c")).tolist() == [0, 2, 0]
    with pytest.raises(LabError, match="there are: a, b, c"):
        parse_context("hero", ("a", "b", "c"))
