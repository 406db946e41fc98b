"""The command line: files on success, one clear sentence and exit code 2 on a mistake of the user."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import network, write_sprites, write_weights

from sprites_lab import classifier, data, figures, lab, runs
from sprites_lab.__main__ import EXAMPLES, main, parser

ROOT = Path(__file__).resolve().parent.parent
TRAIN = ["--features", "8", "--batch-size", "4", "--epochs", "1", "--precision", "float32"]


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    """Small weights, small sprites, a file in the way, and damaged files."""
    folder = tmp_path_factory.mktemp("kit")
    write_weights(folder / "w.safetensors", network())
    write_sprites(folder / "sprites.npz")
    write_sprites(folder / "fit.npz", labels=np.arange(16) % 3)  # each of the three kinds in one class
    (folder / "cut.safetensors").write_bytes((folder / "w.safetensors").read_bytes()[:-1000])
    (folder / "cut.npz").write_bytes((folder / "sprites.npz").read_bytes()[:900])
    (folder / "page.npz").write_text("<!DOCTYPE html><html>Not Found</html>")
    (folder / "file").write_text("in the way")
    return folder


@pytest.fixture
def place(kit, tmp_path, monkeypatch):
    """A folder with a copy of the kit, in which the command runs as at a keyboard: with progress bars, without a GPU."""
    shutil.copytree(kit, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPRITES_LAB_STATIC", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


LONG = "x" * 300
SAMPLE = "sample --weights w.safetensors --count 2 --steps 2"
EVALUATE = "evaluate --weights w.safetensors --sprites sprites.npz --count 2 --sampler ddim --steps 2"
WRONG = {
    f"{EVALUATE} --count 0": "--count is 0",
    f"{EVALUATE} --seeds 0": "--seeds is 0",
    f"{EVALUATE} --weights cut.safetensors": "cut.safetensors",
    f"{EVALUATE} --steps 501": "from 1 to 500",
    f"{EVALUATE} --scale nan": "scale is nan",
    f"{EVALUATE} --classifier w.safetensors": "holds no classifier",
    f"{EVALUATE} --classifier nothing": "no classifier nothing",
    f"{EVALUATE} --json a.txt": "--json a.txt: the name must end in .json",
    f"{EVALUATE} --device cuda": "no usable cuda",
    "draw --kind eg --out a.png": "no kind 'eg'; there are: knight, mage",
    "draw --kind egg": "--kind makes one picture",
    "draw --kind egg --out a.npz": "must end in .png",
    "draw --kind egg --out a.png --count 5": "--kind makes one picture",
    "train-classifier --epochs 0 --sprites fit.npz --out c.safetensors": "epochs is 0",
    "train-classifier --sprites cut.npz --out c.safetensors": "cut.npz",
    "train-classifier --out c.txt": ".safetensors",
    f"{SAMPLE} --steps 0": "--steps is 0",
    f"{SAMPLE} --steps 501": "from 1 to 500",
    f"{SAMPLE} --steps -1": "--steps is -1",
    f"{SAMPLE} --context dragon=1": "hero, non-hero, food, spell, side-facing",
    f"{SAMPLE} --context hero=much": "much",
    f"{SAMPLE} --count 0": "--count is 0",
    f"{SAMPLE} --count -3": "--count is -3",
    f"{SAMPLE} --eta 2": "eta is 2.0",
    f"{SAMPLE} --eta nan": "eta is nan",
    f"{SAMPLE} --scale nan": "scale is nan",
    f"{SAMPLE} --seed -1": "--seed is -1",
    f"{SAMPLE} --sampler ddpm": "always walks all 500 steps",
    f"{SAMPLE} --device cuda": "no usable cuda; use --device cpu",
    f"{SAMPLE} --device gpu": "no device 'gpu'",
    f"{SAMPLE} --device cpu:x": "cpu:x",
    f"{SAMPLE} --out a.jpg": ".png or .gif or .npz",
    f"{SAMPLE} --out a": ".png or .gif or .npz",
    f"{SAMPLE} --out nowhere/a.png": "folder nowhere does not exist",
    f"{SAMPLE} --out file/a.png": "file",
    f"{SAMPLE} --out /proc/a.png": "/proc",
    f"{SAMPLE} --out /sys/a.png": "/sys",
    f"{SAMPLE} --out {LONG}.png": "xxx",
    "sample --weights nothing.safetensors": "no weights file nothing.safetensors",
    "sample --weights cut.safetensors": "cut off",
    "sample --weights sprites.npz": "zip",
    "sample --weights page.npz": "HTML",
    "sample --weights file": "safetensors",
    "sample --weights .": "no file",
    f"sample --weights {LONG}": "xxx",
    "train --out /proc/run": "/proc",
    "train --out /sys/run": "/sys",
    "train --out file": "file",
    "train --out file/run": "file",
    "train --out run --resume": "--resume",
    "train --out run --save-every 0": "--save-every is 0",
    "train --out run --sprites nothing.npz": "no sprite file nothing.npz",
    "train --out run --sprites page.npz": "page.npz",
    "train --out run --sprites cut.npz": "cut.npz",
    "train --out run --sprites w.safetensors": "w.safetensors",
    "train --out run --sprites sprites.npz --epochs 0": "epochs",
    "train --out run --sprites sprites.npz --batch-size 0": "batch_size",
    "train --out run --sprites sprites.npz --features 7": "multiple of 8",
    "train --out run --sprites sprites.npz --features 8 --learning-rate nan": "learning_rate",
    "train --out run --sprites sprites.npz --features 8 --learning-rate 0": "learning_rate",
    "train --out run --sprites sprites.npz --features 8 --context-dropout 1.5": "context_dropout",
    "train --out run --sprites sprites.npz --features 8 --average-decay -1": "average_decay",
    "train --out run --sprites sprites.npz --features 8 --seed 99999999999999999999999": "seed",
    "train --out run --sprites sprites.npz --start nothing.safetensors": "no weights file nothing.safetensors",
    "train --out run --sprites sprites.npz --start page.npz": "HTML",
    "train --out run --sprites sprites.npz --device cuda": "use --device cpu",
    "draw": "--out",
    "draw --out a.png": ".npz",
    "draw --out nowhere/a.npz": "nowhere",
    "draw --out /proc/a.npz": "/proc",
    "draw --count 300 --sheets file": "file",
    "draw --out a.npz --count 0": "count is 0",
    "draw --out a.npz --count 3": "count is 3",
    "draw --out a.npz --count -1": "count is -1",
}


@pytest.mark.parametrize("words, sentence", WRONG.items(), ids=lambda text: text.replace(LONG, "xxx"))
def test_a_mistake_ends_with_one_sentence_and_harms_no_file(place, capsys, words, sentence):
    before = contents(place)
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert err.startswith("sprites_lab: ") and err.count("\n") == 1 and sentence in err, err
    assert "Traceback" not in err and "Error" not in err
    assert contents(place) == before


@pytest.mark.parametrize("words", [
    "", "fly", "sample --colour red", "sample --steps many", "train --precision half", "draw --count x",
])  # fmt: skip
def test_unknown_words_end_with_the_usage_and_exit_code_2(capsys, words):
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    assert caught.value.code == 2 and "usage" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--help", "sample --help", "train --help", "draw --help", "evaluate --help", "train-classifier --help"])
def test_help_is_shown(capsys, words):
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    out = capsys.readouterr().out
    assert caught.value.code == 0 and "sprites" in out and "None" not in out


@pytest.mark.slow
def test_the_real_command_ends_a_mistake_with_exit_code_2_and_one_line(place):
    done = subprocess.run(
        [sys.executable, "-m", "sprites_lab", *f"{SAMPLE} --steps 501".split()], cwd=place, capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "sprites_lab: --steps is 501, but must be a whole number from 1 to 500\n"


def test_sample_writes_what_was_asked_for(place, capsys):
    assert main(f"{SAMPLE} --context hero=1,food=0.6 --out mix.npz --seed 3 --device cpu".split()) == 0
    assert "2 sprites" in capsys.readouterr().out
    with np.load("mix.npz", allow_pickle=False) as file:
        assert file["sprites"].shape == (2, 16, 16, 3)
        assert file["contexts"].tolist() == [[1, 0, np.float32(0.6), 0, 0]] * 2
    for name in ("a.png", "a.gif"):
        assert main(f"{SAMPLE} --out {name}".split()) == 0 and (place / name).stat().st_size > 100


def test_sample_replaces_an_old_file_in_one_move(place, capsys, monkeypatch):
    (place / "a.png").write_text("old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert main(f"{SAMPLE} --out a.png".split()) == 2
    assert "No space left" in capsys.readouterr().err and (place / "a.png").read_text() == "old"
    assert not [p for p in place.iterdir() if p.name.startswith(".")]


def test_train_makes_a_network_that_sample_can_use(place, capsys):
    assert main(["train", "--out", "new/run", "--sprites", "sprites.npz", *TRAIN, "--device", "cpu"]) == 0
    assert main(["train", "--out", "other", "--sprites", "sprites.npz", *TRAIN, "--device", "cpu", "--start", "w.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "12 sprites, 1 epochs of 3 updates" in out and "new/run/sprites.safetensors" in out
    assert main("sample --weights new/run/sprites.safetensors --count 1 --steps 1".split()) == 0
    assert (place / "samples.png").exists()


def test_train_refuses_a_used_folder_and_another_recipe_in_one_sentence(place, capsys):
    assert main(["train", "--out", "run", "--sprites", "sprites.npz", *TRAIN, "--device", "cpu"]) == 0
    before = contents(place)
    for words, sentence in (([], "already holds a run"), (["--resume", "--epochs", "2"], "keeps its recipe")):
        capsys.readouterr()
        assert main(["train", "--out", "run", "--sprites", "sprites.npz", *words, "--device", "cpu"]) == 2
        err = capsys.readouterr().err
        assert sentence in err and err.count("\n") == 1
    assert contents(place) == before
    assert main(["train", "--out", "run", "--sprites", "sprites.npz", "--resume", "--device", "cpu"]) == 0
    assert "finished" in capsys.readouterr().out


def test_draw_writes_a_set_that_can_be_loaded_and_is_always_the_same(place, capsys):
    from sprites_lab.drawing import kinds

    count = len(kinds.all_kinds())
    for name in ("a.npz", "b.npz"):
        assert main(f"draw --count {count} --out {name} --report --sheets sheets".split()) == 0
    assert (place / "a.npz").read_bytes() == (place / "b.npz").read_bytes()
    drawn = data.load_sprites(place / "a.npz")
    assert len(drawn) == count
    foods = data.to_pictures(drawn.of_class("food").sprites[:100])
    assert np.array_equal(np.asarray(Image.open("sheets/food.png")), np.asarray(figures.tile(foods, 20, 4)))
    assert f"{count:,} sprites" in capsys.readouterr().out.replace("  ", " ")


@pytest.mark.parametrize("content", [None, b"", b"<html>", "other arrays"], ids=str)
def test_checking_against_a_bad_file_says_so(place, capsys, monkeypatch, content):
    from sprites_lab.drawing import artist

    monkeypatch.setattr(data, "SPRITES", place / "shipped.npz")
    if content == "other arrays":
        write_sprites(place / "shipped.npz")
    elif content is not None:
        (place / "shipped.npz").write_bytes(content)
    count = len(artist.all_kinds())
    assert main(f"draw --check --count {count}".split()) == 2
    err = capsys.readouterr().err
    assert "shipped.npz" in err and err.count("\n") == 1


def test_a_drawing_that_cannot_be_written_keeps_the_old_file(place, capsys, monkeypatch):
    from sprites_lab.drawing import artist

    (place / "a.npz").write_text("old")
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert main(f"draw --out a.npz --count {len(artist.all_kinds())}".split()) == 2
    assert "No space left" in capsys.readouterr().err and (place / "a.npz").read_text() == "old"


def test_the_shipped_weights_make_sprites(place):
    if not lab.FINAL.exists():
        pytest.skip("there are no shipped weights yet")
    assert main("sample --count 2 --steps 2 --device cpu --out a.npz".split()) == 0
    with np.load("a.npz", allow_pickle=False) as file:
        assert file["sprites"].std() > 30


def test_one_kind_is_drawn_as_a_sheet(place):
    assert main(["draw", "--kind", "egg", "--out", "egg.png"]) == 0
    with Image.open("egg.png") as sheet:
        assert sheet.size[0] > sheet.size[1] > 4 * 16 * 4


def test_the_examples_of_the_help_are_commands():
    examples = re.findall(r"python -m sprites_lab (.*?)(?:  +|$)", EXAMPLES, re.MULTILINE)
    assert len(examples) > 5
    for words in examples:
        assert parser().parse_args(words.split()).run


def test_ctrl_c_in_training_says_how_to_go_on(place, capsys, monkeypatch):
    def stopped(run, save_every):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(runs, "go", stopped)
    assert main(["train", "--sprites", "sprites.npz", *TRAIN]) == 130
    assert "go on with: python -m sprites_lab train --out runs/first --resume" in capsys.readouterr().err


def test_a_classifier_goes_into_a_folder_that_is_not_there_yet(place):
    assert main(["train-classifier", "--sprites", "fit.npz", "--epochs", "1"]) == 0
    assert (place / "runs" / "classifier.safetensors").exists()


def test_the_classifier_is_trained_on_the_training_split_alone(place, monkeypatch):
    seen = []
    monkeypatch.setattr(classifier, "train_classifier", lambda model, sprites, *rest: seen.append(sprites) or iter(()))
    assert main(["train-classifier", "--sprites", "fit.npz", "--out", "c.safetensors"]) == 0
    assert len(seen[0]) == 12 and not seen[0].held_out.any()
