"""The ablation: every arm gets its lever and its share of the time, or loses its part; results survive a stop."""

import json

import numpy as np
import pytest
import torch
from small import network, pictures, sprite_arrays

from sprites_lab import LabError, ablation, evaluation, lab
from sprites_lab.__main__ import main
from sprites_lab.data import SpriteSet, to_bytes
from sprites_lab.predictors import clamped, conditioned
from sprites_lab.levers import forgotten_root_loss
from sprites_lab.recipes import LEVERS, MISTAKES, Recipe, improved_recipe, recipe_called
from sprites_lab.samplers import ddim, final


@pytest.fixture
def sprites():
    arrays = sprite_arrays(60)
    return SpriteSet(*(arrays[name] for name in ("sprites", "labels", "kinds", "held_out")), tuple(arrays["kind_names"])).train


@pytest.fixture
def quick(monkeypatch):
    """Walks of two steps, no bfloat16, a measure that only looks at what it is given, fixed costs; returns what was measured."""
    seen = []
    monkeypatch.setattr(ablation, "STEPS", 2)
    monkeypatch.setattr(lab, "fast_dtype", lambda device: None)
    monkeypatch.setattr(evaluation, "measure", lambda made, ref: seen.append(made) or {"fd_train": float(len(made[0]))})
    monkeypatch.setattr(ablation, "seconds_per_sprite", lambda recipes, *rest: {name: 2.0 if name == "group-norm" else 1.0 for name in recipes})
    return seen


def test_an_arm_trains_its_recipe_for_its_share_of_the_time(tmp_path, sprites, quick):
    arms = list(ablation.ablate(tmp_path, None, sprites, ["course", "group-norm", "cosine-schedule"], features=8, epochs=2, count=10))
    assert [arm["epochs"] for arm in arms] == [2, 1, 2] and [arm["updates"] for arm in arms] == [2, 1, 2]  # 45 sprites, batches of 100
    assert [set(arm) & set(ablation.WEIGHTS) for arm in arms] == [{"last", "average", "clamped"}, {"last"}, {"last", "clamped"}]
    assert arms[1]["cost"] == 2 and arms[0]["last"]["ddim"] == {"fd_train": 10.0}


def test_what_is_in_the_folder_is_not_done_again(tmp_path, sprites, quick):
    first = list(ablation.ablate(tmp_path, None, sprites, ["course"], features=8, epochs=1, count=5))
    measured = len(quick)
    again = list(ablation.ablate(tmp_path, None, sprites, ["course"], features=8, epochs=1, count=5))
    assert again == first == [json.loads((tmp_path / "course-0.json").read_text())] and len(quick) == measured
    list(ablation.ablate(tmp_path, None, sprites, ["course"], features=8, epochs=1, count=5, seed=1))
    assert len(quick) == 2 * measured  # another seed is another result


def test_an_unknown_arm_is_refused(tmp_path, sprites):
    with pytest.raises(LabError, match="no arm speed; there are: course, rich-time"):
        next(ablation.ablate(tmp_path, None, sprites, ["course", "speed"]))


def test_all_arms_are_sampled_from_the_same_noise_class_by_class(monkeypatch):
    monkeypatch.setattr(ablation, "STEPS", 3)
    recipe = recipe_called("course")
    schedule = recipe.schedule(500)
    with torch.random.fork_rng(devices=[]):
        model = recipe.network(schedule, 8).eval()
    sprites, labels = ablation.draw(model, schedule, 10, 0.0, True, torch.device("cpu"), None)
    assert np.bincount(labels).tolist() == [2] * 5
    x_T = lab.starting_noise(2, 1)
    by_hand = to_bytes(final(ddim(clamped(conditioned(model, torch.eye(5)[3]), schedule), schedule, x_T, 3)))
    found = sprites[labels == 3]
    assert all(min(np.abs(a.astype(int) - b).max() for b in found) <= 1 for a in by_hand)


def test_every_lever_changes_one_thing_and_the_improved_recipe_is_made_of_levers():
    course = Recipe()
    for name in LEVERS:
        changed = [field for field in Recipe._fields if getattr(recipe_called(f"course+{name}"), field) != getattr(course, field)]
        assert changed == (["velocity", "loss"] if name == "velocity" else changed[:1]), name
    combined = recipe_called("course+velocity+stratified-t+muon+small-batches+larger-rate")
    assert combined == improved_recipe()
    slip = recipe_called("course+forgotten-root")  # to be asked for by name only: no arm of `ablate` pulls it
    assert slip == course._replace(loss=forgotten_root_loss) and not set(MISTAKES) & set(ablation.ARMS)
    with pytest.raises(LabError, match="no lever 'luck'; there are: rich-time"):
        recipe_called("course+luck")


def test_costs_are_per_sprite_and_of_every_recipe():
    recipes = {name: recipe_called(name) for name in ("course", "course+small-batches", "improved")}
    found = ablation.seconds_per_sprite(recipes, 8, torch.device("cpu"), None)
    assert found.keys() == recipes.keys() and all(0 < seconds < 1 for seconds in found.values())


def test_a_line_shows_the_numbers_of_its_arm():
    walk = {"fd_train": 12.34, "class_acc": 0.5, "recall": 0.25, "coverage": 0.125}
    arm = {"arm": "muon", "epochs": 4, "updates": 720, "seconds": 99.6, "last": {"ddim": walk, "noisy ddim": walk | {"fd_train": 11.0}}}
    assert ablation.line(arm) == "| muon | 4 | 720 | 100 | 12.3 | 0.500 | 11.0 | 0.500 | 0.250 | 0.125 |"
    assert ablation.HEADER.split("\n")[0].count("|") == ablation.line(arm).count("|")


def by_hand(model, x_t, t, context, skip=1.0, shortcut=True):
    """The layers of the network called one by one, with the skips multiplied by `skip`."""
    time, first = t[:, None] / 500, model.init_conv
    skip0 = first(x_t) if shortcut else first.conv2(first.conv1(x_t))
    skip1 = model.down1(skip0)
    skip2 = model.down2(skip1)
    up = model.context_embed1(context) * model.up0(model.to_vector(skip2)) + model.time_embed1(time)
    up = model.context_embed2(context) * model.up1(torch.cat([up, skip * skip2], 1)) + model.time_embed2(time)
    return model.out(torch.cat([model.up2(torch.cat([up, skip * skip1], 1)), skip * skip0], 1))


def test_a_part_that_is_taken_away_is_gone_and_nothing_else_has_changed():
    model, (x_t, context), t = network().requires_grad_(False), pictures(3), torch.tensor([7, 100, 500])
    context = 100 * context  # heard by a network that has not learnt, too
    middle, none = torch.full((3,), 250), torch.zeros_like(context)
    expected = {
        "skips": by_hand(model, x_t, t, context, skip=0.0), "shortcut": by_hand(model, x_t, t, context, shortcut=False),
        "time": by_hand(model, x_t, middle, context), "context": by_hand(model, x_t, t, none),
    }
    before = model(x_t, t, context)
    assert torch.allclose(before, by_hand(model, x_t, t, context), atol=1e-6)
    for part, answer in expected.items():
        found = ablation.without(model, part)(x_t, t, context)
        assert torch.allclose(found, answer, atol=1e-6) and not torch.allclose(found, before, atol=1e-3), part
    assert torch.equal(model(x_t, t, context), before)  # copies were cut, not the network
    with pytest.raises(LabError, match="no part 'luck' to switch off; there are: skips, time"):
        ablation.without(model, "luck")


def test_a_network_with_waves_loses_its_time_everywhere():
    model, (x_t, context) = network(rich_time=True), pictures(2)
    early, late = (ablation.without(model, "time")(x_t, torch.full((2,), t), context) for t in (10, 400))
    assert torch.equal(early, late)


def test_the_parts_are_trained_for_equally_long_and_once_only(tmp_path, sprites, quick, monkeypatch):
    seen, train_step = [], Recipe.train
    monkeypatch.setattr(Recipe, "train", lambda recipe, state, *rest, **more: seen.append((recipe, state.model)) or train_step(recipe, state, *rest, **more))
    found = list(ablation.parts(tmp_path, sprites, sprites[:4], features=8, epochs=1))
    assert [(arm["without"], arm["seed"]) for arm in found] == [*((part, 0) for part in ablation.PARTS), ("nothing", 1)]
    assert {arm["updates"] for arm in found} == {2} and {arm["sprites"] for arm in found} == {4}  # 45 sprites in batches of 32
    assert len({tuple(arm["errors"]) for arm in found}) == 7 and all(len(arm["errors"]) == len(ablation.TIMES) for arm in found)
    assert [recipe.group_norm for recipe, _ in seen] == [part == "batch norm" for part in ablation.PARTS] + [False]
    assert [model.init_conv.shortcut is None for _, model in seen] == [part == "shortcut" for part in ablation.PARTS] + [False]
    assert list(ablation.parts(tmp_path, sprites, sprites[:4], features=8, epochs=1)) == found and len(seen) == 7
    assert ablation.part_line(found[1]).startswith("| skips | 0 | 2 | ")
    assert ablation.PARTS_HEADER.split("\n")[0].count("|") == ablation.part_line(found[1]).count("|")


def test_the_command_pulls_levers_or_leaves_out_parts(tmp_path, monkeypatch, capsys):
    row, asked = {"without": "skips", "seed": 0, "updates": 2, "errors": [0.5] * len(ablation.TIMES)}, []
    monkeypatch.setattr(ablation, "parts", lambda *given: asked.append(given) or iter([row]))
    monkeypatch.setattr(ablation, "ablate", lambda *given: iter([]))
    monkeypatch.setattr(evaluation, "reference", lambda device: None)
    to = ["--device", "cpu", "--out", str(tmp_path / "out"), "--json", str(tmp_path / "found.json")]
    assert main(["ablate", "--parts", "--features", "16", "--epochs", "1", "--count", "5", *to]) == 0
    ((folder, train, held_out, *rest),) = asked
    assert (folder, len(held_out), rest) == (tmp_path / "out", 5, [16, 1, 0, torch.device("cpu")]) and held_out.held_out.all() and not train.held_out.any()
    assert capsys.readouterr().out == f"{ablation.PARTS_HEADER}\n{ablation.part_line(row)}\n" and json.loads((tmp_path / "found.json").read_text()) == [row]
    assert main(["ablate", *to]) == 0 and capsys.readouterr().out == f"{ablation.HEADER}\n" and len(asked) == 1


def test_parts_and_arms_are_not_asked_for_together(tmp_path, capsys):
    assert main(["ablate", "--parts", "--arms", "muon", "--out", str(tmp_path / "a")]) == 2
    assert "--parts pulls no levers, so --arms means nothing here" in capsys.readouterr().err and not (tmp_path / "a").exists()
