"""The samplers against closed forms: one picture, one Gaussian, a finite set."""

import math
from itertools import islice

import oracle
import pytest
import torch
from oracle import ALPHA_BAR, T, close, generator, normal, perfect
from small import network

from sprites_lab import LabError, ddim, ddpm, final, guided, linear_schedule, samplers

SAMPLERS = pytest.mark.parametrize("walk", [ddpm, ddim])


@pytest.mark.oracle
@pytest.mark.parametrize("check", oracle.CHECKS, ids=lambda check: check.__name__)
def test_oracle(check):
    check()


@pytest.mark.oracle
@pytest.mark.parametrize("n", [1, 3, 7, 30, 123, 499])
def test_ddim_follows_its_closed_form_on_grids_that_do_not_divide_T(n):
    s, x_T = linear_schedule(), torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    steps = list(ddim(perfect(0.5, 0.7), s, x_T, n))
    gain = oracle.ddim_gain([T, *(step.t for step in steps)], 0.5)
    zero, one = steps[-1].x_t.flatten()
    close([one - zero, zero], [gain, 0.7 - gain * math.sqrt(ALPHA_BAR[T]) * 0.7], 1e-9)


@pytest.mark.oracle
def test_ddim_ends_at_the_published_value():
    x_T = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    close(final(ddim(perfect(0.5, 0.7), linear_schedule(), x_T, 20)), 0.674920754, 1e-9)


@pytest.mark.oracle
@SAMPLERS
def test_whole_walks_in_float32_stay_close_to_float64(walk):
    x_T = normal(8, 1, 4, 4)
    exact, single = (final(walk(perfect(0.5, 0.7), linear_schedule(), x, generator=generator(1))) for x in (x_T, x_T.float()))
    close(single, exact, 2e-5)


@pytest.mark.oracle
@pytest.mark.parametrize("timesteps", [1, 2, 7, 1000])
def test_the_number_of_calls_is_the_number_of_steps_for_other_T(timesteps):
    s, asked = linear_schedule(timesteps), []
    for n in sorted({1, 2, 3, timesteps // 3, timesteps // 2 + 1, timesteps - 1, timesteps} & set(range(1, timesteps + 1))):
        asked.clear()
        final(ddim(lambda x, t: asked.append(t) or x, s, torch.zeros(1, 1, 1, 1), n))
        assert [t.item() for t in asked] == s.spaced(n)[:-1]


def test_a_single_step_draws_no_fresh_noise_unless_told():
    s, x0, noise = linear_schedule(), normal(1, 1, 2, 2), normal(1, 1, 2, 2)
    assert torch.equal(samplers.ddim_step(s, 300, 200, x0, noise), samplers.ddim_step(s, 300, 200, x0, noise, eta=0.0))


def test_a_predictor_is_asked_on_the_device_of_the_pictures():
    asked = samplers.ask(lambda x, t: t, torch.zeros(3, 1, 2, 2, device="meta"), 7)
    assert (asked.device.type, asked.shape, asked.dtype) == ("meta", (3,), torch.int64)


def test_the_end_of_a_walk_without_steps_is_refused_with_a_sentence():
    with pytest.raises(LabError, match="^the walk has no steps; give `final` a sampler that was not run before$"):
        final(iter([]))


def test_guided_walks_ask_twice_per_step():
    asked = []
    count = guided(lambda x, t: asked.append(1) or x, lambda x, t: asked.append(2) or x, 2.0)
    final(ddim(count, linear_schedule(), torch.zeros(1, 1, 1, 1), 30))
    assert asked.count(1) == asked.count(2) == 30


def test_without_a_generator_every_walk_is_another_one_and_the_global_state_stays():
    s, x_T = linear_schedule(20), normal(1, 1, 4, 4)
    before = torch.get_rng_state()
    one, other = (final(ddpm(lambda x, t: 0 * x, s, x_T)) for _ in range(2))
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


@SAMPLERS
def test_the_deterministic_part_of_a_walk_is_the_same_for_any_generator(walk):
    more = {"noise_amount": 0.0} if walk is ddpm else {}
    ends = [final(walk(perfect(), linear_schedule(), normal(1, 1, 4, 4), generator=generator(i), **more)) for i in (1, 2)]
    assert torch.equal(*ends)


def test_without_fresh_noise_ddpm_loses_the_spread_of_the_data():
    with oracle.impulses():
        noiseless = oracle.moments(final(ddpm(perfect(), linear_schedule(), oracle.impulse_start(), noise_amount=0.0)))
    expected = oracle.ddpm_moments(1.0, 0.0, lambda t: 0)
    close(noiseless, expected, 1e-9)
    assert noiseless[1] < 0.01


def test_fresh_noise_without_a_generator_is_new_and_leaves_the_global_state():
    before = torch.get_rng_state()
    one, other = (samplers.fresh_noise(torch.zeros(1, 1, 4, 4), None) for _ in range(2))
    assert not torch.equal(one, other) and torch.equal(torch.get_rng_state(), before)


@SAMPLERS
def test_the_wrong_number_of_generators_is_refused(walk):
    more = {} if walk is ddpm else {"eta": 1.0}
    with pytest.raises(LabError, match="2 generators for 3 pictures"):
        final(walk(lambda x, t: x, linear_schedule(), torch.zeros(3, 1, 2, 2), generator=[generator(0), generator(1)], **more))


@pytest.mark.parametrize("steps", [0, 501, -1, True, "20", 2.5, -0.0], ids=repr)
def test_ddim_refuses_a_silly_number_of_steps_at_the_first_step(steps):
    with pytest.raises(LabError, match="num_steps"):
        next(ddim(perfect(), linear_schedule(), torch.zeros(1, 1, 1, 1), steps))


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan, math.inf])
def test_ddim_refuses_a_silly_eta(eta):
    with pytest.raises(LabError, match="eta"):
        next(ddim(perfect(), linear_schedule(), torch.zeros(1, 1, 1, 1), 20, eta))


@SAMPLERS
def test_a_walk_that_stops_early_leaves_gradients_on(walk):
    steps = walk(perfect(), linear_schedule(), normal(1, 1, 2, 2))
    for _ in islice(steps, 3):
        assert torch.is_grad_enabled()
    steps.close()
    assert torch.is_grad_enabled()


@SAMPLERS
def test_a_predictor_that_fails_leaves_gradients_on(walk):
    def broken(x_t, t):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        next(walk(broken, linear_schedule(), normal(1, 1, 2, 2)))
    assert torch.is_grad_enabled()


def test_a_walk_gives_each_picture_what_it_would_get_alone_and_follows_their_order():
    model, x_T = network(), normal(4, 3, 16, 16, dtype=torch.float32)
    contexts = torch.eye(5)[:4]

    def walk(rows):
        told = contexts[rows]
        predict = lambda x_t, t: model(x_t, t, told)  # noqa: E731
        return final(ddpm(predict, linear_schedule(20), x_T[rows], generator=[generator(i) for i in rows]))

    together = walk([0, 1, 2, 3])
    assert (together[0] - together[1]).abs().max() > 0.1
    close(walk([2]), together[2:3], 1e-5)
    close(walk([3, 1, 0, 2]), together[[3, 1, 0, 2]], 1e-5)


@pytest.mark.parametrize("sampler, given, sentence", [
    (ddpm, dict(noise_amount=-0.1), "noise_amount is -0.1, but must be a number from 0 to 100 (1 is right)"),
    (ddpm, dict(noise_amount=100.5), "noise_amount is 100.5, but must be a number from 0 to 100 (1 is right)"),
    (ddim, dict(eta=1.1), "eta is 1.1, but must be a number from 0 to 1 (0: no fresh noise, 1: as noisy as DDPM)"),
    (ddim, dict(eta=-0.1), "eta is -0.1, but must be a number from 0 to 1 (0: no fresh noise, 1: as noisy as DDPM)"),
], ids=range(4))  # fmt: skip
def test_a_setting_that_cannot_be_meant_is_named_with_its_range(sampler, given, sentence):
    with pytest.raises(LabError) as caught:
        next(sampler(lambda x_t, t: x_t, linear_schedule(), torch.zeros(1, 3, 4, 4), **given))
    assert str(caught.value) == sentence


def test_a_noise_amount_at_the_ends_of_its_range_is_taken():
    for amount in (0, 100):
        assert next(ddpm(lambda x_t, t: x_t, linear_schedule(), torch.zeros(1, 3, 4, 4), amount)).t == 499
