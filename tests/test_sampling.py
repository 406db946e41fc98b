"""The command `sample`: what lands in the files."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import close, normal, perfect
from PIL import Image, ImageSequence
from small import careful, network, write_weights

from sprites_lab import LabError, checkpoints, conditioned, ddim, ddpm, final, figures, lab, linear_schedule, sampling, walks
from sprites_lab.data import parse_context, to_bytes, to_pictures
from sprites_lab.samplers import Step
from sprites_lab.sampling import fast_predictor, sample_to_file, some_of
from sprites_lab.spacing import karras
from sprites_lab.stream import SpriteStream
from sprites_lab.walks import SAMPLERS, SPACINGS, STEPPERS, Walk, fitted_start, steps_of


@pytest.fixture
def weights(tmp_path):
    return write_weights(tmp_path / "weights.safetensors", network(timesteps=30))


@pytest.fixture
def plain(monkeypatch):
    """The same numbers on every machine: float32."""
    monkeypatch.setattr(lab, "fast_dtype", lambda device: None)


def sample(out, weights, **more):
    options = dict(count=5, sampler="ddim", steps=4) | more
    walk = Walk(**{name: options.pop(name) for name in Walk._fields if name in options})
    sample_to_file(out, weights, device="cpu", walk=walk, **options)
    return out


def arrays(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def gif_frames(path):
    return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(path))]


def test_the_arrays_are_the_walk_by_hand(tmp_path, weights, plain):
    found = arrays(sample(tmp_path / "a.npz", weights, context="hero=1,food=0.6", seed=7))
    told = parse_context("hero=1,food=0.6")
    assert set(found) == {"sprites", "contexts"} and found["sprites"].dtype == np.uint8
    assert np.array_equal(found["contexts"], told.expand(5, 5).numpy())
    c = checkpoints.load(weights)
    x_T = lab.starting_noise(5, 7)
    by_hand = to_bytes(final(ddim(conditioned(c.model, told), c.schedule, x_T, 4)))
    assert np.abs(found["sprites"].astype(int) - by_hand).max() <= 1
    assert len(np.unique(by_hand)) > 50


@pytest.mark.parametrize("more", [dict(), dict(eta=1.0), dict(sampler="ddpm", steps=None)], ids=str)
def test_sprite_i_follows_from_seed_and_i_alone(tmp_path, weights, plain, monkeypatch, more):
    whole = arrays(sample(tmp_path / "a.npz", weights, **more))["sprites"].astype(int)
    monkeypatch.setattr(sampling, "BATCH", 2)
    parts = arrays(sample(tmp_path / "b.npz", weights, **more))["sprites"].astype(int)
    fewer = arrays(sample(tmp_path / "c.npz", weights, **more | dict(count=3)))["sprites"].astype(int)
    assert np.abs(whole - parts).max() <= 1 and np.abs(whole[:3] - fewer).max() <= 1
    assert np.abs(whole[0] - whole[1]).max() > 20
    other = arrays(sample(tmp_path / "d.npz", weights, **more | dict(seed=1)))["sprites"].astype(int)
    assert np.abs(whole - other).max() > 20


def test_ddpm_is_ddpm_with_one_generator_for_each_picture(tmp_path, weights, plain):
    found = arrays(sample(tmp_path / "a.npz", weights, sampler="ddpm", steps=None, count=2))["sprites"]
    c, chance = checkpoints.load(weights), [lab.picture_generator(0, i) for i in range(2)]
    x_T = torch.stack([torch.randn(3, 16, 16, generator=one) for one in chance])
    by_hand = to_bytes(final(ddpm(conditioned(c.model, None), c.schedule, x_T, generator=chance)))
    assert np.abs(found.astype(int) - by_hand).max() <= 1


def test_a_sheet_shows_the_sprites_of_the_arrays(tmp_path, weights, plain):
    sprites = arrays(sample(tmp_path / "a.npz", weights))["sprites"]
    sheet = np.asarray(Image.open(sample(tmp_path / "a.PNG", weights)))
    assert np.array_equal(sheet, np.asarray(figures.tile(to_pictures(sprites), 3, 4)))


def test_a_walk_is_an_animation_from_noise_to_the_sprites(tmp_path, weights, plain):
    sprites = arrays(sample(tmp_path / "a.npz", weights))["sprites"].astype(int)
    frames = gif_frames(sample(tmp_path / "a.gif", weights))
    assert len(frames) == 5  # the noise and four steps
    first, last = (frame[-102:][2:50:3, 2:50:3].astype(int) for frame in (frames[0], frames[-1]))
    noise = to_bytes(lab.starting_noise(1))[0].astype(int)
    assert np.abs(last - sprites[0]).mean() < 0.7 * np.abs(last - noise).mean()  # a GIF has 256 colours
    assert np.abs(first - noise).mean() < 0.7 * np.abs(first - sprites[0]).mean()


def test_a_walk_of_many_steps_keeps_a_few_frames_and_one_sprite_can_walk_alone(tmp_path, weights, plain):
    assert len(gif_frames(sample(tmp_path / "a.gif", weights, count=1, steps=30))) == 16
    assert len(gif_frames(sample(tmp_path / "b.gif", weights, count=1, steps=1))) == 2


def test_without_guidance_the_network_runs_once_per_step_and_with_it_twice(weights, plain):
    found, calls = lab.load_weights(weights), []
    found.model.register_forward_hook(lambda module, given, answer: calls.append(given))
    told, x_t, t = parse_context("spell"), normal(2, 3, 16, 16, dtype=torch.float32), torch.tensor([9, 9])
    with torch.no_grad():
        plain_answer = fast_predictor(found, told, 1.0, torch.device("cpu"))(x_t, t)
        assert len(calls) == 1
        guided_answer = fast_predictor(found, told, 3.0, torch.device("cpu"))(x_t, t)
        assert len(calls) == 3
        empty, with_context = found.model(x_t, t), found.model(x_t, t, told.expand(2, 5))
    close(plain_answer, with_context, 1e-6)
    close(guided_answer, empty + 3 * (with_context - empty), 1e-5)


def test_the_fast_format_is_close_to_the_plain_one(weights, monkeypatch):
    found, x_t, t = lab.load_weights(weights), normal(2, 3, 16, 16, dtype=torch.float32), torch.tensor([9, 9])
    answers = []
    for dtype in (None, torch.bfloat16):
        monkeypatch.setattr(lab, "fast_dtype", lambda device, dtype=dtype: dtype)
        with torch.no_grad():
            answers.append(fast_predictor(found, parse_context("hero"), 1.0, torch.device("cpu"))(x_t, t))
    assert answers[1].dtype == torch.float32 and not torch.equal(*answers)
    close(answers[1], answers[0], 0.05 * answers[0].abs().max().item())


@pytest.mark.parametrize("given, expected", [
    (("ddim", None, 500), 20), (("ddim", 500, 500), 500), (("ddim", 1, 500), 1), (("ddpm", None, 500), 500), (("ddpm", 500, 500), 500),
    (("ddim", None, 10), 10), (("dpm-solver", None, 500), 7), (("unipc", None, 4), 4), (("ipndm", 500, 500), 500),
])  # fmt: skip
def test_the_number_of_steps(given, expected):
    assert steps_of(*given) == expected


@pytest.mark.parametrize("given, words", [
    (("ddim", 0, 500), "--steps is 0, but must be a whole number from 1 to 500"), (("ddim", 501, 500), "--steps is 501"),
    (("ddpm", 20, 500), "always walks all 500 steps"), (("ddim", -3, 500), "--steps is -3"), (("ddpm", 0, 500), "--steps is 0"),
])  # fmt: skip
def test_a_number_of_steps_that_cannot_be_meant_is_refused(given, words):
    with pytest.raises(LabError, match=words):
        steps_of(*given)


def test_what_a_walk_leaves_open_comes_from_the_weights_and_then_from_the_usual():
    student = {"walk": dict(sampler="ddim", steps=4, spacing="quadratic", start="fitted")}
    assert Walk().checked(500, student) == Walk("ddim", 4, 0.0, 1.0, "quadratic", "fitted")
    assert Walk(steps=2, scale=2.0).checked(500, student) == Walk("ddim", 2, 0.0, 2.0, "quadratic", "fitted")
    assert Walk(start="noise").checked(500, student, walks.DDPM) == Walk("ddim", 4, 0.0, 1.0, "quadratic", "noise")
    assert Walk("unipc").checked(500, student) == Walk("unipc", 10, 0.0, 1.0, "trailing", "noise")  # who names a sampler means it
    assert Walk().checked(500, usual=walks.DDPM) == Walk("ddpm", 500, 0.0, 1.0, "trailing", "noise")
    assert Walk(steps=20).checked(500) == Walk("dpm-solver", 20, 1.0, 1.0, "karras", "noise") and Walk().checked(4).steps == 4
    kinds = ({"steps": "4"}, {"steps": True}, {"steps": 2.5}, {"eta": "x"}, {"scale": None}, {"sampler": ["ddim"]}, {"start": 7})
    for wrong in ("ddim", {"sampler": "ddim", "speed": 3}, *kinds):
        with pytest.raises(LabError, match="say how to walk with --sampler"):
            Walk().checked(500, {"walk": wrong})


@pytest.mark.parametrize("walk, words", [
    (Walk("ddimm"), "--sampler is 'ddimm', but must be one of ddpm, ddim, dpm-solver"), (Walk(spacing="even"), "--spacing is 'even', but must be one of trailing"),
    (Walk(start="zero"), "--start is 'zero'"), (Walk("unipc", eta=1.0), "--eta belongs to --sampler ddim and dpm-solver"), (Walk("ddpm", eta=0.5), "--eta belongs"),
    (Walk(eta=1.1), "--eta is 1.1"), (Walk(scale=float("inf")), "--scale is inf"), (Walk("ddpm", spacing="karras"), "ddpm walks them all"),
], ids=str)  # fmt: skip
def test_a_walk_that_cannot_be_meant_is_refused_before_any_work(tmp_path, weights, walk, words):
    with pytest.raises(LabError, match=words):
        sample_to_file(tmp_path / "a.npz", weights, count=2, walk=walk, device="cpu")
    assert not (tmp_path / "a.npz").exists()


def test_every_walk_is_that_of_its_function_and_no_two_are_the_same():
    s, x_T, ends = linear_schedule(), normal(1, 1, 2, 2), []
    for sampler in SAMPLERS[1:]:
        for spacing in SPACINGS:
            spaced = partial(karras, t_min=10) if spacing == "karras" else SPACINGS[spacing]
            ends.append(final(Walk(sampler, 6, spacing=spacing).checked(500).run(perfect(0.5, 0.7), s, x_T, None)))
            assert torch.equal(ends[-1], final(STEPPERS[sampler](perfect(0.5, 0.7), s, x_T, 6, spacing=spaced)))
    assert torch.pdist(torch.stack(ends).flatten(1)).min() > 1e-4
    assert final(Walk("unipc", 3, spacing="karras").checked(5).run(lambda x, t: x, linear_schedule(5), x_T, None)).isfinite().all()


def test_eta_and_the_fitted_start_reach_the_walk(tmp_path, weights, plain):
    ends = [arrays(sample(tmp_path / "a.npz", weights, **dict(sampler="dpm-solver", count=2) | more))["sprites"].astype(int) for more in ({}, {"eta": 1.0}, {"start": "fitted"})]
    assert all(np.abs(ends[0] - other).max() > 1 for other in ends[1:])
    c = checkpoints.load(weights)
    start = fitted_start(c)
    x_T = start(lab.starting_noise(2))
    by_hand = final(STEPPERS["dpm-solver"](conditioned(c.model, None), c.schedule, x_T, 4))
    assert np.abs(ends[2] - to_bytes(by_hand)).max() <= 1


def test_a_start_fitted_to_other_sprites_is_refused(tmp_path):
    other = write_weights(tmp_path / "w.safetensors", network(timesteps=12), sprites_sha256="other")
    with pytest.raises(LabError, match="give the right file with --sprites"):
        sample(tmp_path / "a.npz", other, start="fitted")


def test_a_walk_says_what_is_special_about_it():
    assert str(Walk("ddpm").checked(500)) == "ddpm 500" and str(Walk("ddim").checked(500)) == "ddim 20" and str(Walk().checked(500)) == "dpm-solver 7, eta 1, karras"
    assert str(Walk("dpm-solver", 8, 1.0, 2.0, "karras", "fitted")) == "dpm-solver 8, eta 1, karras, fitted start"


@careful
@given(st.integers(1, 500), st.integers(1, 30))
def test_some_steps_of_a_walk_are_few_even_and_end_with_the_last(total, count):
    walk = (Step(total - i, None, None) for i in range(1, total + 1))
    kept = [step.t for step in some_of(walk, total, count)]
    assert kept[-1] == 0 and 1 <= len(kept) <= count
    assert len({a - b for a, b in zip(kept, kept[1:], strict=False)}) <= 1
    assert 2 * len(kept) >= min(total, count)


@pytest.mark.parametrize("more, words", [
    (dict(count=0), "--count is 0"), (dict(count=-1), "--count"), (dict(count=10**6), "--count"), (dict(seed=-1), "--seed"),
    (dict(seed=2**40), "--seed"), (dict(context="dragon=1"), "dragon"), (dict(steps=0), "--steps"), (dict(steps=31), "1 to 30"),
    (dict(eta=2.0), "eta"), (dict(eta=float("nan")), "eta"), (dict(scale=float("nan")), "scale"), (dict(scale=float("inf")), "scale"),
    (dict(sampler="ddpm", steps=None, eta=0.5), "--eta belongs to"),
], ids=str)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused_and_write_nothing(tmp_path, weights, more, words):
    with pytest.raises(LabError, match=words):
        sample(tmp_path / "a.png", weights, **more)
    assert [p.name for p in tmp_path.iterdir()] == [weights.name]


@pytest.mark.parametrize("classes", [None, [], ["hero"], "hero", 7, list("abcdefgh")], ids=str)
def test_weights_without_a_name_for_each_class_are_refused(tmp_path, classes):
    model = network(timesteps=30)
    write_weights(tmp_path / "w.safetensors", model, classes=classes)
    with pytest.raises(LabError):
        sample(tmp_path / "a.png", tmp_path / "w.safetensors")


def test_weights_that_say_nothing_of_classes_are_refused(tmp_path):
    model = network(timesteps=500)
    from sprites_lab import linear_schedule

    checkpoints.save(tmp_path / "w.safetensors", {"model": model.state_dict()}, model, linear_schedule(), {})
    with pytest.raises(LabError, match="class"):
        sample(tmp_path / "a.png", tmp_path / "w.safetensors")


def test_arrays_that_were_stopped_go_on_and_end_as_if_they_had_not_been(tmp_path, weights, plain, monkeypatch):
    monkeypatch.setattr(sampling, "BATCH", 4)
    whole = sample(tmp_path / "whole.npz", weights, count=11).read_bytes()
    out, partial = tmp_path / "a.npz", tmp_path / "a.npz.partial"
    add, kept = SpriteStream.add, []

    def power_cut(stream, sprites):
        if len(kept) == 2:
            partial.write_bytes(partial.read_bytes() + b"half a sprite")
            raise KeyboardInterrupt
        kept.append(len(sprites))
        add(stream, sprites)

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(SpriteStream, "add", power_cut)
        sample(out, weights, count=11)
    assert partial.exists() and not out.exists()
    with pytest.raises(LabError, match="holds 8 sprites .* --resume, or delete it"):
        sample(out, weights, count=11)
    for other in (dict(count=12), dict(seed=1), dict(eta=1.0), dict(context="hero")):
        with pytest.raises(LabError, match="begun with other options"):
            sample(out, weights, resume=True, **dict(count=11) | other)
    drawn = []
    monkeypatch.setattr(SpriteStream, "add", lambda stream, sprites: drawn.append(len(sprites)) or add(stream, sprites))
    assert sample(out, weights, count=11, resume=True).read_bytes() == whole
    assert drawn == [3] and [path.name for path in tmp_path.glob("*.npz*")] == ["whole.npz", "a.npz"] or not partial.exists()


@pytest.mark.parametrize("cut, redrawn", [(0, 2), (100, 2), (4096, 2), (4096 + 3 * 768, 2), (4096 + 4 * 768, 1), (4096 + 6 * 768, 0), (4096 + 5 * 768 + 1, 1)])
def test_an_unfinished_file_cut_anywhere_goes_on_from_its_last_whole_batch(tmp_path, weights, plain, monkeypatch, cut, redrawn):
    monkeypatch.setattr(sampling, "BATCH", 4)
    with monkeypatch.context() as kept:
        kept.setattr(SpriteStream, "finish", lambda *_: None)
        sample(tmp_path / "a.npz", weights, count=6)
    partial = tmp_path / "a.npz.partial"
    partial.write_bytes(partial.read_bytes()[:cut])
    add, drawn = SpriteStream.add, []
    monkeypatch.setattr(SpriteStream, "add", lambda stream, sprites: drawn.append(len(sprites)) or add(stream, sprites))
    again = sample(tmp_path / "a.npz", weights, count=6, resume=True).read_bytes()
    assert len(drawn) == redrawn and not partial.exists()
    assert again == sample(tmp_path / "b.npz", weights, count=6).read_bytes()


def test_going_on_belongs_to_arrays(tmp_path, weights):
    with pytest.raises(LabError, match="--resume goes on with arrays"):
        sample(tmp_path / "a.png", weights, resume=True)
    assert len(arrays(sample(tmp_path / "a.npz", weights, resume=True))["sprites"]) == 5  # nothing to go on with: it begins
