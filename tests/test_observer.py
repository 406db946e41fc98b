"""The perfect observer against Bayes' rule in closed form."""

import math

import numpy as np
import oracle
import pytest
import torch
from oracle import ALPHA_BAR, close, generator, normal

from sprites_lab import LabError, conditioned, data, ddim, ddpm, dpm_solver, final, ipndm, lab, linear_schedule, unipc
from sprites_lab import observer as module
from sprites_lab.observer import Observer, bayes_floor

S = linear_schedule()
TIMES = (1, 60, 250, 400, 500)


def two_opposites():
    """An observer of y and -y, for which everything is a tanh."""
    y = normal(1, 3, 4, 4)
    return y, Observer(torch.cat([y, -y]), S)


@pytest.mark.oracle
@pytest.mark.parametrize("t", TIMES)
def test_two_opposite_pictures_give_a_tanh(t):
    y, seen = two_opposites()
    x_t = normal(6, 3, 4, 4, seed=t)
    lean = math.sqrt(ALPHA_BAR[t]) / (1 - ALPHA_BAR[t]) * (x_t * y).sum((1, 2, 3))
    p = lean.mul(2).sigmoid()
    close(seen.posterior(x_t, t), torch.stack([p, 1 - p], 1), 1e-9)
    close(seen.guess_x0(x_t, t), lean.tanh()[:, None, None, None] * y, 1e-9)
    bits = -(torch.special.xlogy(p, p) + torch.special.xlogy(1 - p, 1 - p)) / math.log(2)
    close(seen.entropy(x_t, t), bits, 1e-7)
    noise = (x_t - math.sqrt(ALPHA_BAR[t]) * lean.tanh()[:, None, None, None] * y) / math.sqrt(1 - ALPHA_BAR[t])
    close(seen(x_t, torch.full((6,), t)), noise, 1e-9)


@pytest.mark.oracle
def test_the_observer_is_the_brute_force_predictor():
    oracle.check_observer()


@pytest.mark.oracle
def test_each_picture_may_have_its_own_timestep():
    pictures = oracle.finite_set()
    seen, x_t, t = Observer(pictures, S), normal(5, 3, 16, 16), torch.tensor(TIMES)
    rows = torch.cat([seen.posterior(x_t[i : i + 1], int(t[i])) for i in range(5)])
    close(seen.posterior(x_t, t), rows, 1e-12)
    close(seen(x_t, t), oracle.perfect_for_set(pictures)(x_t, t), 1e-9)


@pytest.mark.oracle
def test_the_meter_runs_from_certainty_to_no_idea():
    pictures = oracle.finite_set()
    seen = Observer(pictures, S)
    assert seen.max_entropy() == 3
    clear = S.add_noise(pictures, 60, normal(8, 3, 16, 16))
    close(seen.entropy(clear, 60), 0, 1e-9)
    assert seen.posterior(clear, 60).argmax(1).tolist() == list(range(8))
    close(seen.guess_x0(clear, 60), pictures, 1e-9)
    same = Observer(pictures[:1].expand(4, -1, -1, -1), S)
    close(same.entropy(clear, 60), 2, 1e-12)
    close(seen.posterior(clear, 300).sum(1), 1, 1e-12)


def test_answers_have_the_dtype_of_the_picture_and_probabilities_are_float64():
    seen, x_t = Observer(oracle.finite_set().float(), S), normal(2, 3, 16, 16, dtype=torch.float32)
    assert seen(x_t, torch.tensor([400, 400])).dtype == seen.guess_x0(x_t, 400).dtype == torch.float32
    assert seen.posterior(x_t, 400).dtype == seen.entropy(x_t, 400).dtype == torch.float64


def test_the_pictures_of_the_observer_are_its_own():
    pictures = oracle.finite_set()
    seen, x_t = Observer(pictures, S), normal(2, 3, 16, 16)
    before = seen.guess_x0(x_t, 450)
    pictures.zero_()
    assert torch.equal(seen.guess_x0(x_t, 450), before)


@pytest.mark.oracle
@pytest.mark.parametrize("t", [100, 300, 500])
def test_the_floor_of_two_opposite_pixels_is_an_integral(t):
    seen = Observer(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1), S)
    a, noise = ALPHA_BAR[t], np.linspace(-9, 9, 20001)
    guess = np.tanh(np.sqrt(a) * (np.sqrt(a) + np.sqrt(1 - a) * noise) / (1 - a))
    weight = np.exp(-(noise**2) / 2) / np.exp(-(noise**2) / 2).sum()
    error = a / (1 - a) * (1 - guess) ** 2
    floor = (weight * error).sum()
    spread = math.sqrt((weight * error**2).sum() - floor**2)
    found = bayes_floor(seen, t, 40_000, generator(t))
    close(found, floor, 5 * spread / math.sqrt(40_000))


@pytest.mark.oracle
def test_who_knows_one_picture_only_makes_no_error():
    close(bayes_floor(Observer(normal(1, 3, 4, 4), S), 300, 20, generator()), 0, 1e-20)


def test_the_floor_is_a_function_of_its_generator_alone():
    seen = Observer(oracle.finite_set(), S)
    before = torch.get_rng_state()
    assert bayes_floor(seen, 450, 20, generator(1)) == bayes_floor(seen, 450, 20, generator(1))
    bayes_floor(seen, 450, 20)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (3, 4, 4), (5, 48)])
def test_an_observer_without_sprites_is_refused(shape):
    with pytest.raises(LabError, match="sprites"):
        Observer(torch.zeros(shape), S)


# What is shown must fit


@pytest.mark.parametrize("t", [0, -1, 501, 2.5, True, torch.tensor(0), torch.tensor([1, 501]), torch.tensor([1, 0]), torch.tensor([3]), torch.tensor([3.0, 4.0])])
def test_a_timestep_at_which_nothing_is_noised_or_that_is_not_there_is_refused(t):
    seen, x_t = Observer(oracle.finite_set(), S), normal(2, 3, 16, 16)
    for ask in (seen.posterior, seen.entropy, seen.meter, seen.guess_x0, seen):
        with pytest.raises(LabError, match="t (is|must)"):
            ask(x_t, t)


def test_pictures_of_another_size_and_floors_of_nothing_are_refused():
    seen = Observer(oracle.finite_set(), S)
    for ask in (seen.posterior, seen.entropy, seen.guess_x0, seen):
        with pytest.raises(LabError, match="shown pictures .3, 8, 8."):
            ask(normal(2, 3, 8, 8), 10)
    for t, count, words in ((0, 10, "t is 0"), (501, 10, "t is 501"), (10, 0, "count is 0")):
        with pytest.raises(LabError, match=words):
            bayes_floor(seen, t, count)


# The meter


@pytest.mark.oracle
def test_the_meter_reaches_both_ends_of_its_scale():
    long, pictures = linear_schedule(5000), torch.randint(0, 2, (37, 3, 8, 8), generator=generator(2)).double() * 2 - 1
    assert long.signal_scale[-1] < 1e-10
    seen = Observer(pictures, long)
    close(seen.entropy(normal(5, 3, 8, 8), 5000), math.log2(37), 1e-9)
    close(seen.posterior(normal(5, 3, 8, 8), 5000), 1 / 37, 1e-9)
    close(seen.guess_x0(normal(5, 3, 8, 8), 5000), pictures.mean(0).expand(5, -1, -1, -1), 1e-9)
    for schedule in (long, S):
        start = schedule.add_noise(pictures, 1, normal(37, 3, 8, 8, seed=1))
        close(Observer(pictures, schedule).entropy(start, 1), 0, 1e-12)


def test_the_meter_speaks():
    y, _ = two_opposites()
    six = torch.cat([y, -y, 3 * y, -3 * y, 9 * y, -9 * y])
    seen, long = Observer(six, S), linear_schedule(5000)
    assert seen.meter(S.add_noise(y, 60, normal(3, 3, 4, 4, seed=3)), 60) == ["certain"] * 3
    between = 2 * S.signal_scale[300] * y  # as far from y as from 3 y, and farther from the others
    assert seen.meter(between, 300) == ["a few candidates"] and abs(seen.entropy(between, 300).item() - 1) < 1e-6
    assert Observer(six, long).meter(y, 5000) == ["no idea"]
    assert Observer(y, S).meter(normal(2, 3, 4, 4), 500) == ["certain"] * 2  # who knows one sprite only is never in doubt


def test_the_meter_turns_at_a_tenth_of_a_bit_and_at_half_of_its_scale(monkeypatch):
    seen = Observer(oracle.finite_set(), S)  # 3 bits
    bits = torch.tensor([0, 0.1, 0.1001, 1.5, 1.5001, 3], dtype=torch.float64)
    monkeypatch.setattr(seen, "entropy", lambda x_t, t: bits)
    assert seen.meter(normal(6, 3, 16, 16), 5) == ["certain"] * 2 + ["a few candidates"] * 2 + ["no idea"] * 2


# Many pictures, many sprites


def test_pictures_are_looked_at_in_parts_and_the_answer_is_the_same(monkeypatch):
    seen, t = Observer(oracle.finite_set(), S), torch.arange(1, 501, 50)
    x_t, held = normal(10, 3, 16, 16), []
    whole = seen(x_t, t), seen.guess_x0(x_t, t), seen.entropy(x_t, t)
    real = Observer.posterior
    monkeypatch.setattr(module, "PART", 3)
    monkeypatch.setattr(Observer, "posterior", lambda self, x, t: held.append(len(x)) or real(self, x, t))
    for found, expected in zip((seen(x_t, t), seen.guess_x0(x_t, t), seen.entropy(x_t, t)), whole):
        close(found, expected, 1e-9)
    assert held == [3, 3, 3, 1] * 3
    assert seen(x_t[:0], t[:0]).shape == (0, 3, 16, 16) and seen.meter(x_t[:0], 5) == []


@pytest.mark.oracle
def test_the_posterior_of_near_twins_is_exact_where_noise_is_least():
    """Large numbers nearly cancel at t = 1; the odds of two sprites are known in closed form, here by exact fractions."""
    from fractions import Fraction

    one = torch.randint(0, 256, (1, 3, 16, 16), generator=generator(3)).double() / 127.5 - 1
    two = one.clone()
    two[0, 0, 3, 3] += 2 / 127.5
    x = S.add_noise(0.5 * (one + two), 1, normal(1, 3, 16, 16, seed=4))
    signal, variance = (Fraction(value) for value in (S.signal_scale[1].item(), S.noise_scale[1].item() ** 2))
    apart = [sum((Fraction(a) - signal * Fraction(b)) ** 2 for a, b in zip(x.flatten().tolist(), y.flatten().tolist())) for y in (one, two)]
    odds = math.exp(float((apart[0] - apart[1]) / (2 * variance)))
    close(Observer(torch.cat([one, two]), S).posterior(x, 1), [[1 / (1 + odds), odds / (1 + odds)]], 1e-8)


SAMPLERS = {
    "ddpm": lambda *walk: ddpm(*walk, generator=generator(1)), "ddim": lambda *walk: ddim(*walk, 20),
    "ddim, eta 1": lambda *walk: ddim(*walk, 20, eta=1.0, generator=generator(1)), "dpm_solver": lambda *walk: dpm_solver(*walk, 20),
    "dpm_solver, eta 1": lambda *walk: dpm_solver(*walk, 20, eta=1.0, generator=generator(1)), "ipndm": lambda *walk: ipndm(*walk, 20),
    "unipc": lambda *walk: unipc(*walk, 20),
}  # fmt: skip


@pytest.mark.oracle
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_sampler_ends_on_sprites_that_the_observer_knows(name, dtype):
    pictures = oracle.finite_set()
    ended = final(SAMPLERS[name](Observer(pictures, S), S, normal(16, 3, 16, 16, seed=8, dtype=dtype)))
    distance = (ended.double()[:, None] - pictures).abs().flatten(2).amax(2).min(1).values
    close(distance, 0, 1e-4)


@pytest.mark.slow
def test_the_shipped_training_split_is_known_to_an_observer_and_its_walks_end_on_sprites():
    sprites = data.load_sprites().train
    seen = Observer(sprites.pictures(), S)
    x_0 = sprites[::600].pictures()
    x_t = S.add_noise(x_0, 60, normal(len(x_0), 3, 16, 16, dtype=torch.float32))
    assert seen.posterior(x_t, 60).argmax(1).tolist() == list(range(0, len(sprites), 600))
    for part in (slice(0, 3), slice(27, 30)):  # against the distances themselves
        a = ALPHA_BAR[400]
        x = S.add_noise(x_0[part].double(), 400, normal(3, 3, 16, 16))
        distance = torch.stack([(one.flatten() - math.sqrt(a) * seen.sprites).square().sum(1) for one in x])
        close(seen.posterior(x, 400), (-distance / (2 * (1 - a))).softmax(1), 1e-10)
    ended = final(ddim(seen, S, normal(4, 3, 16, 16), 20))
    close((ended.flatten(1)[:, None] - seen.sprites[None]).abs().amax(2).min(1).values, 0, 1e-4)


@pytest.mark.slow
def test_the_trained_network_is_never_better_than_the_floor():
    """On the same noise: the observer's error is the network's less what the network does not know, on average."""
    found, sprites = lab.load_weights(), data.load_sprites().train
    seen, rows = Observer(sprites.pictures(), S), torch.randint(0, len(sprites), (48,), generator=generator(1))
    predict = conditioned(found.model, None)
    for t in (20, 100, 300, 420, 470, 500):
        x_0, noise = sprites[rows.numpy()].pictures(), normal(48, 3, 16, 16, seed=t, dtype=torch.float32)
        x_t, times = S.add_noise(x_0, t, noise), torch.full((48,), t)
        with torch.no_grad():
            errors = [(predictor(x_t, times) - noise).square().mean((1, 2, 3)) for predictor in (predict, seen)]
        more = (errors[0] - errors[1]).double()
        assert more.mean() > -3 * more.std() / math.sqrt(48), t
        floor = bayes_floor(seen, t, 48, generator(t))
        assert floor < errors[0].mean() + 3 * errors[0].std() / math.sqrt(48), t
