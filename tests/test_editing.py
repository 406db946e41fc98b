"""Editing, against closed forms: one Gaussian, two pixels that know each other, a finite set with its perfect observer."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import oracle
import pytest
import torch
from oracle import ALPHA_BAR, close, ddim_gain, generator, normal, perfect
from small import Pixelwise, network

from sprites_lab import LabError, conditioned, data, ddim, ddpm, dpm_solver, editing, final, ipndm, lab, linear_schedule, unipc
from sprites_lab.editing import between, inpaint, invert, morph, noise_on, renoise, replay, slerp, up_to
from sprites_lab.observer import Observer
from sprites_lab.runtime import fast_network

S = linear_schedule()
SET = oracle.finite_set()
SIGNAL, NOISE = np.sqrt(ALPHA_BAR), np.sqrt(1 - ALPHA_BAR)


def nearest_of(pictures, found):
    """The largest distance of a pixel to the nearest picture of a set, and which that is."""
    distance, which = (found[:, None] - pictures).abs().flatten(2).amax(2).min(1)
    return distance, which


# Noise on, and down again


def test_a_schedule_up_to_t_is_its_first_part():
    part = up_to(S, 200)
    assert part.timesteps == 200 and torch.equal(part.alpha_bar, S.alpha_bar[:201]) and torch.equal(part.beta, S.beta[:201])
    assert torch.equal(up_to(S, 500).alpha_bar, S.alpha_bar)


def test_a_picture_is_noised_to_t_and_walked_down_from_there():
    seen = []

    def predict_noise(x_t, t):
        seen.append((x_t.clone(), t.clone()))
        return torch.zeros_like(x_t)

    steps = list(renoise(predict_noise, S, SET, 150, partial(ddim, num_steps=6), generator(3)))
    noise = torch.randn(SET.shape, generator=generator(3)).double()
    close(seen[0][0], SIGNAL[150] * SET + NOISE[150] * noise, 1e-12)
    assert [int(t[0]) for _, t in seen] == [150, 125, 100, 75, 50, 25] and [step.t for step in steps] == [125, 100, 75, 50, 25, 0]


@pytest.mark.oracle
def test_the_way_down_from_t_is_that_of_the_sampler():
    mu, t = 0.3, 220
    found = final(renoise(perfect(0.5, mu), S, SET, t, partial(ddim, num_steps=11), generator(1)))
    x_t = SIGNAL[t] * SET + NOISE[t] * torch.randn(SET.shape, generator=generator(1)).double()
    close(found, mu + ddim_gain(range(220, -1, -20), 0.5) * (x_t - SIGNAL[t] * mu), 1e-9)


@pytest.mark.oracle
@pytest.mark.parametrize("sampler", [ddpm, ddim, partial(ddim, eta=1.0), dpm_solver, partial(dpm_solver, eta=1.0), ipndm, unipc])
def test_a_little_noise_gives_the_picture_back_and_much_gives_a_stranger(sampler):
    small, eight = SET[:, :, :4, :4], torch.arange(8)  # so small that nothing of them can be told at t = 500
    seen = Observer(small, S)
    little = nearest_of(small, final(renoise(seen, S, small, 60, sampler, generator(1))))
    much = nearest_of(small, final(renoise(seen, S, small, 500, sampler, generator(1))))
    close(torch.stack([little[0], much[0]]), 0, 1e-4)
    assert torch.equal(little[1], eight) and (much[1] != eight).sum() >= 4


def test_chance_is_that_of_the_generators_alone():
    before = torch.get_rng_state()
    one, same, other = (final(renoise(perfect(0.5), S, SET, 400, partial(ddim, eta=1.0), generator(seed))) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    each = final(renoise(perfect(0.5), S, SET, 400, partial(ddim, eta=1.0), [generator(i) for i in range(8)]))
    close(final(renoise(perfect(0.5), S, SET[5:6], 400, partial(ddim, eta=1.0), generator(5))), each[5:6], 1e-12)
    assert not torch.equal(final(renoise(perfect(0.5), S, SET, 400)), final(renoise(perfect(0.5), S, SET, 400)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("t", [0, 501, -1, 1.5, "60"])
def test_a_level_of_noise_that_is_not_there_is_refused(t):
    with pytest.raises(LabError, match="^t is"):
        renoise(perfect(), S, SET, t)


def test_more_steps_than_timesteps_are_refused():
    with pytest.raises(LabError, match="num_steps is 20, but must be a whole number from 1 to 10"):
        final(renoise(perfect(), S, SET, 10, partial(ddim, num_steps=20)))


# Keep a part, draw the rest


def left_half():
    keep = torch.zeros(16, 16, dtype=torch.bool)
    keep[:, :8] = True
    return keep


def test_kept_pixels_are_the_pictures_own_bit_for_bit():
    picture = torch.rand(1, 3, 16, 16, generator=generator(1)) * 2 - 1
    picture[0, :, 0, 0] = 0
    x_T, keep = normal(4, 3, 16, 16, dtype=torch.float32), torch.rand(16, 16, generator=generator(2)) < 0.5
    for eta, repeats in ((1.0, 3), (0.0, 1)):
        last = list(inpaint(conditioned(network(), None), S, x_T, picture, keep, 7, repeats, eta, generator(3)))[-1]
        assert last.t == 0 and torch.equal(last.x_t, last.x0) and last.x_t.dtype == torch.float32
        assert torch.equal(last.x_t[:, :, keep], picture[:, :, keep].expand(4, -1, -1))
        assert not torch.equal(last.x_t[0][:, ~keep], last.x_t[1][:, ~keep])


def test_all_may_be_kept_and_nothing():
    x_T, picture = normal(2, 3, 16, 16), SET[:2]
    assert torch.equal(final(inpaint(perfect(), S, x_T, picture, torch.ones(1, 1, 16, 16, dtype=torch.bool), 5)), picture)
    free = final(inpaint(perfect(0.5), S, x_T, picture, torch.tensor(False), 25, 1, 0.0))
    close(free, final(ddim(perfect(0.5), S, x_T, 25)), 0)


def test_each_step_shows_the_kept_pixels_with_the_noise_of_its_level():
    """Kept pixels of every step: signal_scale of the picture, noise_scale of fresh noise, independent of the step before."""
    picture, before = 3 * torch.ones(1, 1, 1, 1, dtype=torch.float64), None
    for step in inpaint(perfect(), S, normal(20_000, 1, 1, 1), picture, torch.tensor(True), 10, 1, generator=generator(4)):
        noise = step.x_t.flatten() - 3 * SIGNAL[step.t]
        if step.t:
            close(noise.mean(), 0, 5 * NOISE[step.t] / 20_000**0.5)
            close(noise.var() / NOISE[step.t] ** 2, 1, 5 * (2 / 20_000) ** 0.5)
            close(0 if before is None else torch.corrcoef(torch.stack([before, noise]))[0, 1], 0, 5 / 20_000**0.5)
            before = noise
        else:
            assert (noise == 0).all()


@pytest.mark.oracle
def test_noise_on_top_of_noise_is_the_noise_of_the_later_level(monkeypatch):
    monkeypatch.setattr(editing, "fresh_noise", lambda x, generator: torch.ones_like(x))
    zero, one = torch.zeros(1, 1, 1, 1, dtype=torch.float64), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for s, t in ((0, 500), (1, 2), (480, 500), (100, 350)):
        fresh = noise_on(S, zero, s, t, None)
        kept = noise_on(S, one, s, t, None) - fresh
        close(kept * SIGNAL[s], SIGNAL[t], 1e-12)
        close(kept**2 * (1 - ALPHA_BAR[s]) + fresh**2, 1 - ALPHA_BAR[t], 1e-12)


@pytest.mark.parametrize("repeats", [1, 4])
def test_all_steps_but_the_last_are_repeated(repeats):
    asked = []

    def predict_noise(x_t, t):
        asked.append(int(t[0]))
        return perfect()(x_t, t)

    steps = list(inpaint(predict_noise, S, normal(1, 3, 16, 16), SET[:1], left_half(), 5, repeats))
    assert asked == [t for t in (500, 400, 300, 200) for _ in range(repeats)] + [100] and [step.t for step in steps] == [400, 300, 200, 100, 0]


@pytest.mark.oracle
def test_the_drawn_half_is_that_of_the_sprite_whose_half_was_kept():
    seen, keep = Observer(SET, S), left_half()
    for row in (0, 5):
        found = final(inpaint(seen, S, normal(12, 3, 16, 16, seed=row), SET[row : row + 1], keep, generator=generator(1)))
        close(found, SET[row : row + 1].expand(12, -1, -1, -1), 1e-4)
    twin = SET[0].clone()
    twin[:, :, 8:] *= -1
    two = final(inpaint(Observer(torch.cat([SET, twin[None]]), S), S, normal(40, 3, 16, 16, seed=9), SET[:1], keep, generator=generator(2)))
    distance, which = nearest_of(torch.stack([SET[0], twin]), two)
    close(distance, 0, 1e-4)
    assert 8 <= which.sum() <= 32  # both fit; 4 in 100,000 by chance


def two_pixels(rho):
    """The best noise predictor for two pixels of variance 1 whose correlation is rho: along (1, 1) and (1, -1) they are independent."""

    def predict_noise(x_t, t):
        a = torch.from_numpy(ALPHA_BAR)[t].reshape(-1, 1, 1, 1)
        half = x_t.sum(3, keepdim=True) / 2, (x_t[..., :1] - x_t[..., 1:]) / 2
        common, apart = (part * (1 - a).sqrt() / (a * variance + 1 - a) for part, variance in zip(half, (1 + rho, 1 - rho)))
        return torch.cat([common + apart, common - apart], 3)

    return predict_noise


@pytest.mark.oracle
def test_what_is_drawn_depends_on_what_is_kept_as_it_should():
    """One pixel is kept at 1.5; the other then has mean 0.9 * 1.5 and variance 1 - 0.81. Repeats bring RePaint near that."""
    keep, picture, count = torch.tensor([True, False]), torch.full((1, 1, 1, 2), 1.5, dtype=torch.float64), 4000
    found = {repeats: final(inpaint(two_pixels(0.9), S, normal(count, 1, 1, 2), picture, keep, 50, repeats, generator=generator(1))) for repeats in (1, 10)}
    off = {repeats: abs(drawn[..., 1].mean().item() - 0.9 * 1.5) for repeats, drawn in found.items()}
    assert off[10] < 0.08 and off[1] > 0.3, off
    close(found[10][..., 1].var(), 1 - 0.81, 0.06)
    assert (found[10][..., 0] == 1.5).all()


@pytest.mark.parametrize("keep, picture, more, words", [
    (torch.ones(16, 16), SET[:1], {}, "True .keep"),
    (torch.ones(7, 16, dtype=torch.bool), SET[:1], {}, "keep has the shape .7, 16."),
    (left_half(), SET[:3], {}, "picture has the shape"),
    (left_half(), SET[:1], {"repeats": 0}, "repeats is 0"),
    (left_half(), SET[:1], {"eta": 2}, "eta is 2"),
    (left_half(), SET[:1], {"num_steps": 0}, "num_steps is 0"),
])  # fmt: skip
def test_what_cannot_be_kept_is_refused(keep, picture, more, words):
    with pytest.raises(LabError, match=words):
        final(inpaint(perfect(), S, normal(2, 3, 16, 16), picture, keep, **more))


# There and back


@pytest.mark.oracle
@pytest.mark.parametrize("n", [1, 7, 25, 500])
def test_a_recorded_way_up_is_walked_down_exactly(n):
    model = conditioned(network().double(), torch.eye(5)[[0, 3, 1]].double())
    picture = torch.rand(3, 3, 16, 16, generator=generator(2)).double() * 2 - 1
    kept = picture.clone()
    code = invert(model, S, picture, n) if n < 500 else invert(perfect(0.5, 0.2), S, picture, n)
    assert list(code.said) == sorted(S.spaced(n)[:-1]) and torch.equal(picture, kept)
    close(final(ddim(replay(code.said), S, code.x_T, n)), picture, 1e-10)


@pytest.mark.oracle
@pytest.mark.parametrize("s", [1.0, 0.5])
def test_the_way_up_of_a_gaussian_is_a_known_stretch(s):
    x0, gain = normal(4, 3, 2, 2), 1.0
    for a, b in pairwise(range(0, 501, 20)):
        k = max(a, 1)
        said = NOISE[k] / (ALPHA_BAR[k] * s**2 + 1 - ALPHA_BAR[k])
        gain *= SIGNAL[b] / SIGNAL[a] * (1 - NOISE[a] * said) + NOISE[b] * said
    close(invert(perfect(s), S, x0, 25).x_T, gain * x0, 1e-9)


def errors_of_round_trips(predict, picture, counts):
    return [(final(ddim(predict, S, invert(predict, S, picture, n).x_T, n)) - picture).square().mean().sqrt().item() for n in counts]


@pytest.mark.slow
def test_the_round_trip_with_the_shipped_network_gains_as_steps_are_added():
    """O13: the error falls like 1/n."""
    sprites = data.load_sprites().test[[5, 900]]
    predict = conditioned(fast_network(lab.load_weights().model), sprites.contexts())
    counts = 20, 50, 100
    slope = np.polyfit(np.log(counts), np.log(errors_of_round_trips(predict, sprites.pictures(), counts)), 1)[0]
    close(-slope, 0.95, 0.12)


def test_other_steps_than_the_recorded_ones_are_refused():
    code = invert(perfect(), S, SET, 5)
    with pytest.raises(LabError, match="nothing was recorded at t=450, only at 100, 200, 300, 400, 500"):
        final(ddim(replay(code.said), S, code.x_T, 10))
    with pytest.raises(LabError, match="num_steps"):
        invert(perfect(), S, SET, 501)


# Between two noises


def by_hand(a, b, u):
    """Shoemake's formula for two arrows in float64."""
    angle = math.acos(float((a * b).sum() / (a.norm() * b.norm())))
    return (math.sin((1 - u) * angle) * a + math.sin(u * angle) * b) / math.sin(angle)


@pytest.mark.oracle
def test_the_arc_is_shoemakes_and_each_picture_has_its_own():
    a, b, u = normal(5, 3, 16, 16), normal(5, 3, 16, 16, seed=1), torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0], dtype=torch.float64)
    for share, values in ((u, u.tolist()), (0.3, [0.3] * 5)):
        found = slerp(a, b, share)
        close(found, torch.stack([by_hand(a[i], b[i], values[i]) for i in range(5)]), 1e-10)
    assert torch.equal(slerp(a, b, 0), a) and torch.equal(slerp(a, b, 1), b)
    row = slerp(a[:1], b[:1], u)
    close(row, torch.stack([by_hand(a[0], b[0], share) for share in u.tolist()]), 1e-10)
    assert slerp(a.float(), b.float(), 0.5).dtype == torch.float32


@pytest.mark.oracle
@pytest.mark.parametrize("apart", [0, 1e-9, 1e-3, 1, 2, 3.1, math.pi - 1e-5, math.pi - 1e-8, math.pi])
def test_equal_lengths_stay_and_the_angle_grows_evenly(apart):
    a, aside = torch.linalg.qr(normal(48, 2))[0].T
    one, other = (7 * end.reshape(1, 3, 4, 4) for end in (a, math.cos(apart) * a + math.sin(apart) * aside))
    u = torch.linspace(0, 1, 9, dtype=torch.float64)
    row = slerp(one, other, u).flatten(1)
    close(row.norm(dim=1), 7, 1e-9)
    turned = 2 * torch.atan2((row / 7 - a).norm(dim=1), (row / 7 + a).norm(dim=1))
    close(turned, u * apart, 2e-6)
    close(row[[0, -1]], torch.stack([one.flatten(), other.flatten()]), 1e-5)


def test_opposite_ends_of_any_kind_and_the_same_twice_have_a_way():
    a = normal(3, 3, 16, 16, dtype=torch.float32)
    middle = slerp(a, -2 * a, 0.5).flatten(1)
    close(middle.norm(dim=1) / a.flatten(1).norm(dim=1), 1.5, 1e-5)
    close((middle * a.flatten(1)).sum(1), 0, 1e-2)
    assert torch.equal(middle, slerp(a, -2 * a, 0.5).flatten(1))
    close(slerp(a, a, 0.3), a, 1e-6)
    close(slerp(a, 3 * a, 0.5), 2 * a, 1e-5)


@pytest.mark.parametrize("one, other", [
    (torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)), (torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)),
    (torch.full((1, 3, 4, 4), math.nan), torch.ones(1, 3, 4, 4)), (torch.ones(1, 3, 4, 4), torch.ones(1, 3, 8, 8)),
])  # fmt: skip
def test_what_has_no_direction_is_refused(one, other):
    with pytest.raises(LabError, match="slerp needs two arrows"):
        slerp(one, other, 0.5)


# From one wish to another


def test_a_morph_walks_from_one_noise_with_contexts_in_even_steps():
    model, x_T, food, spell = Pixelwise().eval(), normal(1, 3, 16, 16, dtype=torch.float32), *torch.eye(5)[[2, 3]]
    found = final(morph(model, S, x_T, food, spell, 5, partial(ddim, num_steps=4)))
    for i, share in enumerate((0, 0.25, 0.5, 0.75, 1)):
        alone = final(ddim(conditioned(model, (1 - share) * food + share * spell), S, x_T, 4))
        close(found[i : i + 1], alone, 1e-4)
    assert (found.diff(dim=0).abs().amax((1, 2, 3)) > 0.1).all()
    close(between(food, spell, 3), torch.stack([food, (food + spell) / 2, spell]), 0)


@pytest.mark.parametrize("x_T, one, other, count, words", [
    (normal(2, 3, 16, 16), torch.zeros(5), torch.ones(5), 3, "one noise"),
    (normal(1, 3, 16, 16), torch.zeros(5), torch.ones(4), 3, "one context"),
    (normal(1, 3, 16, 16), torch.zeros(1, 5), torch.ones(1, 5), 3, "one context"),
    (normal(1, 3, 16, 16), torch.zeros(5), torch.ones(5), 1, "count is 1"),
])  # fmt: skip
def test_a_morph_without_two_ends_is_refused(x_T, one, other, count, words):
    with pytest.raises(LabError, match=words):
        morph(network(), S, x_T, one, other, count)
