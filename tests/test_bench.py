"""The bench: who is timed, and how the numbers are put together. No test here depends on how fast anything is."""

import json
import time

import numpy as np
import pytest
import torch
from small import network, sprite_arrays

from sprites_lab import bench, lab, linear_schedule, speed
from sprites_lab.__main__ import main
from sprites_lab.checkpoints import Checkpoint
from sprites_lab.data import SpriteSet
from sprites_lab.walks import Walk


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
    rows = bench.training_rows({"plain": [10.0, 20.0, 40.0], "ours": [30.0, 40.0, 120.0]})
    assert rows["plain"] == {"sprites_per_second": 20.0, "spread": 15.3, "factor": 1.0}
    assert rows["ours"]["factor"] == 3.0 and rows["ours"]["sprites_per_second"] == 40.0


def test_the_network_is_timed_plain_and_fast_beside_the_peak():
    weights = Checkpoint(network(), linear_schedule(), {}, {})
    rows = speed.network_speed(weights, torch.device("cpu"), rounds=2)
    assert list(rows) == ["plain 32", "fast 32", "plain 128", "fast 128"]
    assert all(row["milliseconds"] > 0 and 0 < row["share_of_peak"] < 2 for row in rows.values()) and rows["plain 32"]["factor"] == 1


def test_walks_take_turns_and_bring_their_shipped_quality(monkeypatch):
    asked = []
    monkeypatch.setattr(speed, "ready", lambda setting, device: asked.append(setting.card) or (None, None, None))
    monkeypatch.setattr(speed, "draw", lambda setting, *rest: asked.append(setting.walk.sampler) or time.sleep(0.03 if setting.walk.sampler == "ddpm" else 0.01))
    settings = {"long": speed.SETTINGS["DDPM 500, plain loop"], "short": speed.Setting("no-such-card", "sprites", Walk("ddim", 3))}
    rows = speed.walk_speed(torch.device("cpu"), settings)
    assert asked == ["sprites", "no-such-card", "ddim", *["ddpm", "ddim"] * speed.LONG_ROUNDS, *["ddim"] * (speed.ROUNDS - speed.LONG_ROUNDS)]
    card = next(iter(lab.load_card("sprites")["rows"].values()))
    assert rows["long"]["factor"] == 1 and rows["long"]["fd_train"] == round(np.mean([row["fd_train"] for row in card]), 3)
    assert 1.5 < rows["short"]["factor"] < 6 and "fd_train" not in rows["short"]


def test_every_setting_of_the_bench_can_be_drawn():
    for name, setting in speed.SETTINGS.items():
        found, walk, start = speed.ready(setting, torch.device("cpu"))
        if walk.steps <= 20:
            assert speed.draw(setting, 2, torch.device("cpu"), found, walk, start).shape == (2, 16, 16, 3), name
        assert speed.quality(setting.card)["fd_train"] > 0, name


def test_the_plain_loop_sees_each_sprite_as_the_package_does(sprites):
    x0, context = bench.OneByOne(sprites)[7]
    assert torch.equal(x0, sprites.pictures()[7]) and torch.equal(context, sprites.contexts()[7]) and len(bench.OneByOne(sprites)) == len(sprites)


def test_the_command_prints_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "training_speed", lambda sprites, features, device: {"plain": [10.0, 12.0], "ours": [30.0, 24.0]})
    monkeypatch.setattr(speed, "network_speed", lambda found, device: {"plain 32": {"milliseconds": 80.0, "spread": 1.0, "factor": 1.0, "share_of_peak": 0.123}})
    walks = {"slow": {"seconds": 30.0, "spread": 1.0, "factor": 1.0, "fd_train": 38.46, "class_acc": 0.845, "recall": 0.84}, "new": {"seconds": 0.3, "spread": 0.01, "factor": 100.0}}
    monkeypatch.setattr(speed, "walk_speed", lambda device: walks)
    assert main(["bench", "--json", str(tmp_path / "b.json"), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    for line in ("| ours | 27 ± 4 | 2.50 |", "| plain 32 | 12.5 | 80.0 ± 1.0 | 1.00 | 12% |", "| slow | 30.00 ± 1.00 | 1.0 | 38.5 | 0.845 | 0.840 |", "| new | 0.30 ± 0.01 | 100.0 | ? | ? | ? |"):
        assert line in printed
    assert json.loads((tmp_path / "b.json").read_text())["peak_megabytes"]["process"] > 100
    assert main(["bench", "--json", str(tmp_path / "b.txt")]) == 2
