"""The perfect observer against Bayes' rule in closed form."""

import math

import numpy as np
import oracle
import pytest
import torch
from oracle import ALPHA_BAR, close, generator, normal

from sprites_lab import LabError, linear_schedule
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
