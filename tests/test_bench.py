"""The bench: who is timed, and how the numbers are put together. No test here depends on how fast anything is."""

import time

import numpy as np
import pytest
import torch
from small import sprite_arrays

from sprites_lab import bench, lab
from sprites_lab.__main__ import main
from sprites_lab.data import SpriteSet


@pytest.fixture
def sprites():
    arrays = sprite_arrays(240)
    return SpriteSet(*(arrays[name] for name in ("sprites", "labels", "kinds", "held_out")), tuple(arrays["kind_names"])).train


@pytest.mark.parametrize("fast", [None, torch.bfloat16])
def test_every_way_to_train_is_timed_and_the_global_random_state_stays(sprites, monkeypatch, fast):
    monkeypatch.setattr(lab, "fast_dtype", lambda device: fast)
    monkeypatch.setattr(bench, "STEPS", 1)
    before = torch.get_rng_state()
    found = bench.training_speed(sprites, features=8, rounds=2)
    names = ["plain loop, float32", "ours, float32", *["ours, bfloat16"][: fast is not None], "ours, improved recipe"]
    assert list(found) == names and all(len(values) == 2 and min(values) > 0 for values in found.values())
    assert torch.equal(torch.get_rng_state(), before)


def test_sprites_per_second_are_those_of_a_clock(monkeypatch):
    def slow(sprites, seconds):
        while True:
            time.sleep(seconds)
            yield sprites

    monkeypatch.setattr(bench, "STEPS", 2)
    found = bench.interleaved({"a": slow(10, 0.02), "b": slow(10, 0.04)}, 3)
    assert 200 < np.median(found["a"]) <= 500 and 100 < np.median(found["b"]) <= 250


def test_factors_are_taken_round_by_round():
    rows = bench.summary({"plain": [10.0, 20.0, 40.0], "ours": [30.0, 40.0, 120.0]})["training"]
    assert rows["plain"] == {"sprites_per_second": 20.0, "spread": 15.3, "factor": 1.0}
    assert rows["ours"]["factor"] == 3.0 and rows["ours"]["sprites_per_second"] == 40.0


def test_the_plain_loop_sees_each_sprite_as_the_package_does(sprites):
    x0, context = bench.OneByOne(sprites)[7]
    assert torch.equal(x0, sprites.pictures()[7]) and torch.equal(context, sprites.contexts()[7]) and len(bench.OneByOne(sprites)) == len(sprites)


def test_the_command_prints_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "training_speed", lambda sprites, features, device: {"plain": [10.0, 12.0], "ours": [30.0, 24.0]})
    assert main(["bench", "--json", str(tmp_path / "b.json"), "--device", "cpu"]) == 0
    assert "| ours | 27 ± 4 | 2.50 |" in capsys.readouterr().out and (tmp_path / "b.json").exists()
    assert main(["bench", "--json", str(tmp_path / "b.txt")]) == 2
