"""The command `evaluate`: counts of what a judge sees in a network's sprites."""

import json

import numpy as np
import pytest
import torch
from small import NAMES, network, write_sprites, write_weights

from sprites_lab import LabError, evaluation, lab
from sprites_lab.__main__ import main
from sprites_lab.checkpoints import load
from sprites_lab.classifier import load_classifier, new_classifier, save_classifier
from sprites_lab.data import SpriteSet, context_of, to_bytes, to_pictures
from sprites_lab.predictors import conditioned
from sprites_lab.samplers import ddim, final


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small weights, a judge of five kinds in chance classes, and sprites of which every fourth is held out."""
    folder = tmp_path_factory.mktemp("evaluation")
    rng = np.random.default_rng(3)
    sprites = rng.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    kinds = (np.arange(40) % 5).astype(np.uint16)
    shown = SpriteSet(sprites, np.array([2, 0, 1, 3, 4], np.uint8)[kinds], kinds, np.arange(40) % 4 == 3, tuple("abcde"))
    judge = new_classifier(5, seed=1)
    judge.train()(torch.randn(50, 3, 16, 16, generator=torch.Generator().manual_seed(0)))  # statistics of its norms
    save_classifier(folder / "c.safetensors", judge.eval(), shown, {})
    write_weights(folder / "w.safetensors", network(timesteps=12))
    write_sprites(folder / "s.npz", sprites=sprites, labels=shown.labels, kinds=kinds, held_out=shown.held_out, kind_names=np.array(list("abcde")))
    return folder


def evaluate(files, **more):
    options = dict(count=9, sampler="ddim", steps=3, device="cpu") | more
    return evaluation.evaluate(files / "w.safetensors", files / "c.safetensors", files / "s.npz", **options)


def test_the_counts_are_those_of_the_walk_by_hand(files, monkeypatch):
    monkeypatch.setattr(lab, "fast_dtype", lambda device: None)
    monkeypatch.setattr(evaluation.sampling, "BATCH", 4)
    found, weights, judge = evaluate(files, seed=2), load(files / "w.safetensors"), load_classifier(files / "c.safetensors")
    for number, name in enumerate(NAMES):
        x_T = lab.starting_noise(9, 2 * 5 + number)
        made = final(ddim(conditioned(weights.model, context_of({name: 1})), weights.schedule, x_T, 3))
        taken = judge.class_probabilities(to_pictures(to_bytes(made))).argmax(1)
        assert found["samples"][number] == np.bincount(taken, minlength=5).tolist(), name
    assert found["count"] == 9 and found["steps"] == 3 and found["classes"] == list(NAMES)


def test_the_judge_is_judged_on_the_held_out_sprites_alone(files):
    found, test = evaluate(files, count=1), evaluation.load_sprites(files / "s.npz").test
    judge = load_classifier(files / "c.safetensors")
    guesses = judge.class_probabilities(test.pictures()).argmax(1).numpy()
    assert np.sum(found["held_out"]) == len(test) == 10
    for label in range(5):
        assert found["held_out"][label] == np.bincount(guesses[test.labels == label], minlength=5).tolist()
    kinds = judge.kind_probabilities(test.pictures()).argmax(1).numpy()
    assert found["held_out_kinds"] == pytest.approx((kinds == test.kinds).mean())


def test_accuracies_are_shares_of_the_diagonal_and_their_mean():
    assert evaluation.accuracies([[3, 1], [0, 4]]) == [0.75, 1.0, 0.875]
    assert evaluation.accuracies([[0, 0], [2, 2]]) == [0.0, 0.5, 0.25]


def test_the_table_shows_samples_beside_held_out_sprites():
    found = dict(weights="w", sampler="ddim", steps=3, scale=1.5, seed=0, count=4, classes=["x", "y"], samples=[[3, 1], [0, 4]], held_out=[[2, 0], [1, 1]], held_out_kinds=0.5)
    title, names, samples, held_out, x, y, kinds = evaluation.table(found).splitlines()
    assert title == "4 sprites of each class from w: ddim, 3 steps, scale 1.5" and names.split() == ["x", "y", "mean"]
    assert samples.split()[-3:] == ["75.0%", "100.0%", "87.5%"] and held_out.split()[-3:] == ["100.0%", "50.0%", "75.0%"]
    assert x.split()[-2:] == ["3", "1"] and y.split()[-2:] == ["0", "4"] and "50.0%" in kinds


def test_what_cannot_be_compared_is_refused(files, tmp_path):
    other = write_weights(tmp_path / "w.safetensors", network(timesteps=12), classes=[*"vwxyz"])
    with pytest.raises(LabError, match="cannot be compared"):
        evaluation.evaluate(other, files / "c.safetensors", files / "s.npz", 1, "ddim", 2)
    none = write_sprites(tmp_path / "s.npz", held_out=np.zeros(16, bool))
    with pytest.raises(LabError, match="no held-out sprites"):
        evaluation.evaluate(files / "w.safetensors", files / "c.safetensors", none, 1, "ddim", 2)


def test_the_command_prints_the_table_and_writes_the_numbers(files, tmp_path, capsys):
    paths = [f"--{name}={files / file}" for name, file in (("weights", "w.safetensors"), ("classifier", "c.safetensors"), ("sprites", "s.npz"))]
    assert main(["evaluate", *paths, "--count", "3", "--sampler", "ddim", "--steps", "2", "--json", str(tmp_path / "e.json")]) == 0
    found = json.loads((tmp_path / "e.json").read_text())
    assert capsys.readouterr().out.rstrip() == evaluation.table(found) and np.sum(found["samples"]) == 15


def test_the_command_trains_a_classifier_that_evaluate_takes(files, tmp_path, capsys):
    out = tmp_path / "mine.safetensors"
    assert main(["train-classifier", "--out", str(out), "--sprites", str(files / "s.npz"), "--epochs", "2", "--seed", "5"]) == 0
    judge = load_classifier(out)
    assert judge.facts["epochs"] == 2 and judge.facts["seed"] == 5 and judge.kind_names == tuple("abcde") and judge.class_of.tolist() == [2, 0, 1, 3, 4]
    assert str(out) in capsys.readouterr().out
