"""From PNG files and folders to a sprite set, and all the way to sprites of one's own classes."""

import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from test_grids import BLACK, CLEAR, sheet_of, tiles_of

from sprites_lab import LabError, data, own_sprites, splits
from sprites_lab.__main__ import main
from sprites_lab.own_sprites import Reading, import_sprites


def write(path, picture, mode="RGBA"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture, "RGBA").convert(mode).save(path)
    return path


def on_white(tiles):
    return np.where(tiles[..., 3:] == 0, 255, tiles[..., :3]).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A folder of 24 sprites: 12 cats, 8 dogs, 4 birds two folders deep, beside files that are no pictures."""
    tiles = tiles_of(24)
    for i, tile in enumerate(tiles):
        place = "cats" if i < 12 else "dogs" if i < 20 else "birds/small"
        write(tmp_path / "animals" / place / f"{i:02}.png", tile)
    (tmp_path / "animals" / "readme.txt").write_text("mine")
    for name in (".hidden.png", "__MACOSX/junk.png"):
        (tmp_path / "animals" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "animals" / name).write_bytes(b"no picture")
    return tmp_path / "animals"


def test_subfolders_become_classes(folder):
    found, lines = import_sprites([folder])
    tiles = on_white(tiles_of(24))
    assert found.class_names == found.kind_names == ("birds", "cats", "dogs")
    assert np.array_equal(found.sprites, tiles[[*range(20, 24), *range(12), *range(12, 20)]])
    assert found.labels.tolist() == [0] * 4 + [1] * 12 + [2] * 8
    assert lines == [
        f"{folder}: 1 files that are no PNGs were left out", "24 sprites of 16x16 pixels in 3 classes: birds 4, cats 12, dogs 8",
        f"{found.held_out.sum()} of them are held out of training; mirror images and recoloured sprites stay together",
    ]  # fmt: skip


@pytest.mark.parametrize("spacing, margin, right", [(0, 0, 0), (1, 0, 0), (2, 0, 0), (0, 1, 0), (1, 1, 0), (2, 1, 0), (1, 0, 1)])
def test_a_sheet_gives_the_same_bytes_however_it_is_spaced(tmp_path, spacing, margin, right):
    tiles = tiles_of(60)
    path = write(tmp_path / "gems.png", sheet_of(tiles, 10, spacing, margin, CLEAR, right, right))
    found, lines = import_sprites([path])
    assert np.array_equal(found.sprites, on_white(tiles)) and found.class_names == ("gems",)
    assert lines[0] == f"{path}: 10 x 6 tiles of 16x16, spacing {spacing}, margin {margin}"


def test_palette_and_key_colours_give_the_same_bytes(tmp_path):
    tiles = tiles_of(12)
    few = tiles & 0xC0  # few enough colours for a palette
    few[..., 3] = tiles[..., 3]
    few[few[..., 3] == 0] = 0
    wanted = on_white(few)
    sheet = sheet_of(few, 4)
    colours, indices = np.unique(sheet.reshape(-1, 4), axis=0, return_inverse=True)  # the first one is the transparent one
    made = Image.fromarray(indices.reshape(sheet.shape[:2]).astype(np.uint8), "P")
    made.putpalette([9, 99, 199, *colours[1:, :3].ravel().tolist()])
    made.save(tmp_path / "palette.png", transparency=0)
    assert np.array_equal(import_sprites([tmp_path / "palette.png"], Reading(tile=(16, 16))).sprites.sprites, wanted)
    pink = np.where(few[..., 3:] == 0, np.array([255, 0, 255, 255], np.uint8), few)
    write(tmp_path / "pink.png", sheet_of(pink, 4), "RGB")
    assert np.array_equal(import_sprites([tmp_path / "pink.png"], Reading(key=(255, 0, 255))).sprites.sprites, wanted)
    assert not np.array_equal(import_sprites([tmp_path / "pink.png"]).sprites.sprites, wanted)


def test_colours_under_alpha_0_are_never_seen_and_half_transparent_ones_are_mixed(tmp_path):
    tile = tiles_of(1)[0]
    tile[8, 8] = (100, 50, 0, 128)
    path = write(tmp_path / "a.png", tile)
    white, blue = (import_sprites([path], Reading(background=colour)).sprites.sprites[0] for colour in ((255, 255, 255), (0, 0, 255)))
    clear = tile[..., 3] == 0
    assert (white[clear] == 255).all() and (blue[clear] == (0, 0, 255)).all() and clear.any()
    assert white[8, 8].tolist() == [177, 152, 127] and blue[8, 8].tolist() == [50, 25, 127]
    opaque = tile[..., 3] == 255
    assert np.array_equal(white[opaque], tile[opaque][:, :3])


def test_empty_and_double_sprites_are_dropped_and_counted(tmp_path):
    tiles = tiles_of(8)
    blank, black = np.zeros((1, 16, 16, 4), np.uint8), np.full((1, 16, 16, 4), 255, np.uint8) * np.array(BLACK, bool)
    write(tmp_path / "a" / "sheet.png", sheet_of(np.concatenate([tiles, tiles[:2], blank, black]), 4, 1, 0, (0, 255, 0, 255)))
    write(tmp_path / "b" / "one.png", tiles[3])
    found, lines = import_sprites([tmp_path / "a" / "sheet.png", f"others={tmp_path / 'b'}"])
    assert np.array_equal(found.sprites, on_white(tiles)) and found.class_names == ("sheet",)
    assert "dropped: 2 empty, 2 double, 1 double in another class" in lines


def fit(tile, how, size=16, path="x"):
    return own_sprites.fitted(tile, Reading(fit=how, size=size), path)


def test_other_sizes_are_brought_to_16_as_chosen_or_refused():
    large, little = tiles_of(1)[0].repeat(2, 0).repeat(2, 1), tiles_of(1)[0][4:12, 4:12]
    assert np.array_equal(fit(large, "nearest"), tiles_of(1)[0])
    wanted = np.where(tiles_of(1)[0][..., 3:] == 0, 0, tiles_of(1)[0])
    assert np.array_equal(fit(large, "area"), wanted)
    assert np.array_equal(fit(large, "crop"), large[8:24, 8:24])
    padded = fit(little, "pad")
    assert np.array_equal(padded[4:12, 4:12], little) and not padded[:4].any() and not padded[12:].any() and not padded[:, :4].any()
    assert np.array_equal(fit(little, "nearest"), little.repeat(2, 0).repeat(2, 1))
    assert np.array_equal(fit(large, None, 32), large)
    for tile, how, left_out in ((large, None, "pad"), (large, "pad", "pad"), (little, None, "crop"), (little, "crop", "crop")):
        with pytest.raises(LabError, match="choose with --fit") as caught:
            fit(tile, how)
        assert f"{left_out} (" not in str(caught.value) and "nearest (" in str(caught.value)


def test_area_mixes_neighbouring_colours_by_how_opaque_they_are():
    tile = np.zeros((32, 32, 4), np.uint8)
    tile[0:2, 0:2] = [[(200, 0, 0, 255), (100, 0, 0, 255)], [(9, 99, 9, 0), (9, 99, 9, 0)]]
    assert fit(tile, "area")[0, 0].tolist() == pytest.approx([150, 0, 0, 128], abs=1)


def test_a_tall_picture_keeps_its_shape():
    tall = np.full((32, 16, 4), 255, np.uint8)
    found = fit(tall, "nearest")
    assert (found[:, 4:12] == 255).all() and not found[:, :4].any() and not found[:, 12:].any()


def test_the_split_keeps_mirror_images_and_recoloured_sprites_together(tmp_path):
    tiles = tiles_of(40)
    mirrored, recoloured = tiles[:, :, ::-1], tiles.copy()
    recoloured[..., :3] = 255 - recoloured[..., :3] // 2  # other colours, all different as before
    recoloured[..., :3][tiles[..., 3] == 0] = 77
    mixed = np.stack([tiles, mirrored, recoloured], 1).reshape(-1, 16, 16, 4)
    found = import_sprites([write(tmp_path / "all.png", sheet_of(mixed, 12))], Reading(tile=(16, 16))).sprites
    forms = np.array([splits.form(sprite) for sprite in found.sprites])
    assert len(found) > 100 and len(set(forms)) <= 40 and 9 <= found.held_out.sum() <= 20
    assert not set(forms[found.held_out]) & set(forms[~found.held_out])


def test_the_split_is_the_same_for_the_same_sprites_and_holds_out_of_every_class(folder):
    found = import_sprites([folder]).sprites
    again = import_sprites([folder / "dogs", folder / "cats"]).sprites
    flags = {sprite.tobytes(): flag for sprite, flag in zip(found.sprites, found.held_out)}
    assert all(flags[sprite.tobytes()] == flag for sprite, flag in zip(again.sprites, again.held_out))
    assert [found.of_class(name).held_out.sum() for name in found.class_names] == [1, 1, 1]
    assert not import_sprites([folder], Reading(held_out=0.0)).sprites.held_out.any()
    assert import_sprites([folder], Reading(held_out=0.5)).sprites.held_out.sum() == 12


def test_the_frames_of_an_animation_stay_on_one_side(tmp_path):
    for number in range(8):
        first, *rest = (Image.fromarray(tile, "RGBA") for tile in tiles_of(3, number))
        first.save(tmp_path / f"{number}.png", save_all=True, append_images=rest)
    assert len(import_sprites([tmp_path]).sprites) == 8
    found = import_sprites([tmp_path], Reading(frames=True)).sprites
    assert len(found) == 24 and found.held_out.reshape(8, 3).all(1).sum() * 3 == found.held_out.sum() > 0


def test_a_source_may_be_given_its_class(folder):
    found = import_sprites([f"pets={folder / 'cats'}", f"pets={folder / 'dogs'}", f"birds={folder / 'birds'}"]).sprites
    assert found.class_names == ("pets", "birds") and found.labels.tolist() == [0] * 20 + [1] * 4


@pytest.mark.parametrize("name", ["a=b", "none", "a,b", "x" * 101])
def test_a_name_that_contexts_cannot_be_written_with_is_refused(folder, name):
    (folder / "cats").rename(folder / name)
    with pytest.raises(LabError, match="cannot be the name of a class.*newname="):
        import_sprites([folder])
    assert len(import_sprites([f"cats={folder}"]).sprites) == 24


@pytest.mark.parametrize("make, words", [
    (lambda place: [], "nothing to import"), (lambda place: [place / "no"], "there is no file or folder"), (lambda place: ["a\0b"], "a.b"),
    (lambda place: [place / "empty"], "holds no PNG files"), (lambda place: [place / "texts"], r"\(but 1 others: save them as PNG\)"),
    (lambda place: [place / "texts" / "a.txt"], "not .*PNG|no PNG"), (lambda place: [place / "blank.png"], "no sprites were found: 1 tiles"),
    (lambda place: [place / "wide.png"], "wide.png: .*--fit|wide.png: .*--tile"),
])  # fmt: skip
def test_sources_without_sprites_are_refused(tmp_path, make, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")
    write(tmp_path / "blank.png", np.zeros((16, 16, 4), np.uint8))
    write(tmp_path / "wide.png", np.random.default_rng(0).integers(0, 256, (17, 61, 4), np.uint8))
    with pytest.raises(LabError, match=words):
        import_sprites(make(tmp_path))


@pytest.mark.parametrize("change, words", [
    (dict(tile=(0, 16)), "tile is"), (dict(tile=(16.5, 16)), "tile is"), (dict(tile=(True, 16)), "tile is"), (dict(spacing=-1), "spacing is"),
    (dict(margin=float("nan")), "margin is"), (dict(spacing="1"), "spacing is"), (dict(size=15), "multiple of 4"), (dict(size=0), "multiple of 4"),
    (dict(size=True), "size is"), (dict(size="16"), "size is"), (dict(fit="stretch"), "no fit 'stretch'; there are: crop, pad, nearest, area"), (dict(held_out=0.6), "held_out"),
    (dict(held_out=float("nan")), "held_out"), (dict(held_out=-0.1), "held_out"),
])  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(folder, change, words):
    with pytest.raises(LabError, match=words):
        import_sprites([folder], Reading(**change))


def test_the_command_writes_a_file_that_load_sprites_reads_and_a_preview(folder, tmp_path, capsys):
    out = tmp_path / "new" / "animals.npz"
    assert main(["import", str(folder), "--out", str(out)]) == 0
    found, wanted = data.load_sprites(out), import_sprites([folder]).sprites
    assert np.array_equal(found.sprites, wanted.sprites) and np.array_equal(found.held_out, wanted.held_out) and found.class_names == wanted.class_names
    with Image.open(out.with_suffix(".png")) as preview:
        assert preview.height >= 3 * 48
    said = capsys.readouterr().out
    assert "24 sprites" in said and f"train --quick --sprites {out}" in said
    before = out.read_bytes()
    assert main(["import", str(folder), "--out", str(out)]) == 0 and out.read_bytes() == before


@pytest.mark.parametrize("more, words", [
    (["--out", "x.png"], ".npz"), (["--out", str(data.SPRITES)], "bundled"), (["--out", "x.npz", "--tile", "big"], "--tile big"), (["--out", "x.npz", "--tile", "1x2x3"], "--tile"),
    (["--out", "x.npz", "--background", "nocolour"], "no colour"), (["--out", "x.npz", "--preview", "x.txt"], "--preview"),
])  # fmt: skip
def test_the_command_refuses_before_it_writes(folder, tmp_path, capsys, monkeypatch, more, words):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*")), data.SPRITES.stat().st_mtime_ns
    assert main(["import", str(folder), *more]) == 2 and words in capsys.readouterr().err
    assert (sorted(tmp_path.rglob("*")), data.SPRITES.stat().st_mtime_ns) == before


def test_a_preview_never_overwrites_the_picture_it_is_of(tmp_path, capsys):
    path = write(tmp_path / "gems.png", sheet_of(tiles_of(60), 10))
    before = path.read_bytes()
    assert main(["import", str(path), "--out", str(tmp_path / "gems.npz")]) == 2 and "another name for the preview" in capsys.readouterr().err
    assert path.read_bytes() == before and not (tmp_path / "gems.npz").exists()


@pytest.mark.slow
def test_import_train_and_sample_by_own_class_names(folder, tmp_path, capsys):
    file, run = str(tmp_path / "animals.npz"), str(tmp_path / "run")
    assert main(["import", str(folder), "--out", file]) == 0
    assert main(["train", "--sprites", file, "--out", run, "--epochs", "2", "--batch-size", "8", "--features", "8", "--precision", "float32"]) == 0
    weights = f"{run}/sprites.safetensors"
    assert main(["sample", "--weights", weights, "--context", "cats=1,birds=0.5", "--count", "4", "--steps", "2", "--out", f"{run}/cats.npz"]) == 0
    with np.load(f"{run}/cats.npz") as made:
        assert made["sprites"].shape == (4, 16, 16, 3) and made["contexts"][0].tolist() == [0.5, 1, 0]
    assert main(["sample", "--weights", weights, "--context", "hero", "--count", "1"]) == 2
    assert "there are: birds, cats, dogs" in capsys.readouterr().err
    assert main(["train", "--out", run, "--resume"]) == 0 and "this run is finished" in capsys.readouterr().out  # it knows its sprites
    start = ["sample", "--weights", weights, "--sampler", "ddim", "--steps", "2", "--start", "fitted", "--count", "2", "--out", f"{run}/fitted.png"]
    assert main(start) == 0
    (tmp_path / "animals.npz").rename(tmp_path / "moved.npz")
    assert main(start) == 2 and "--sprites" in capsys.readouterr().err
    assert main([*start, "--sprites", str(tmp_path / "moved.npz")]) == 0


@pytest.mark.long
def test_the_road_from_a_folder_to_sprites_takes_less_than_five_minutes(tmp_path):
    """The commands that a user types, one after the other, on 300 PNGs in four folders: `make long`."""
    kinds, sprites = ("hero", "food", "spell", "non-hero"), data.load_sprites()
    for kind in kinds:  # upside down, so that the shipped network does not know them
        for number, sprite in enumerate(sprites.of_class(kind).sprites[:75, ::-1]):
            alpha = np.where((sprite == 255).all(-1), 0, 255).astype(np.uint8)
            write(tmp_path / "mine" / kind / f"{number:02}.png", np.concatenate([sprite, alpha[..., None]], -1))
    assert len(list((tmp_path / "mine").rglob("*.png"))) == 300
    file, run = tmp_path / "mine.npz", tmp_path / "run"
    commands = [["import", tmp_path / "mine", "--out", file], ["train", "--quick", "--sprites", file, "--out", run]]
    commands += [["sample", "--weights", run / "sprites.safetensors", "--context", kind, "--count", "32", "--out", tmp_path / f"{kind}.png"] for kind in kinds[:2]]
    began = time.monotonic()
    for command in commands:
        subprocess.run([sys.executable, "-m", "sprites_lab", *map(str, command)], check=True, cwd=data.SPRITES.parent.parent)
        print(f"{command[0]}: {time.monotonic() - began:.0f} s since the beginning")
    assert time.monotonic() - began < 300
    drawn = [np.asarray(Image.open(tmp_path / f"{kind}.png"), int) for kind in kinds[:2]]
    assert np.abs(drawn[0] - drawn[1]).mean() > 5  # two classes, two sheets


@pytest.mark.slow
def test_sprites_of_another_size_are_trained_and_sampled_too(tmp_path):
    path = write(tmp_path / "big.png", sheet_of(tiles_of(12).repeat(2, 1).repeat(2, 2), 4))
    file, run = str(tmp_path / "set.npz"), str(tmp_path / "run")
    assert main(["import", str(path), "--out", file, "--tile", "32", "--size", "32"]) == 0
    assert main(["train", "--sprites", file, "--out", run, "--epochs", "1", "--features", "8", "--precision", "float32"]) == 0
    assert main(["sample", "--weights", f"{run}/sprites.safetensors", "--count", "2", "--steps", "2", "--out", f"{run}/s.png"]) == 0
    with Image.open(f"{run}/s.png") as sheet:
        assert sheet.width == 2 * (4 * 32 + 2) + 2
    assert main(["train", "--quick", "--sprites", file, "--out", f"{run}2"]) == 2
