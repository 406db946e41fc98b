"""The noise schedule against its definition."""

import math

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import ALPHA_BAR, BETA, close
from small import careful

from sprites_lab import LabError, cosine_schedule, linear_schedule
from sprites_lab.schedule import at, from_beta

SILLY_COUNTS = [0, -1, 501, True, "20", "many", math.nan, math.inf, -math.inf, -0.0, 2.5, None, 10**30, [20]]


@pytest.mark.oracle
def test_the_oracle_has_the_published_values():
    close([BETA[1], ALPHA_BAR[1], ALPHA_BAR[500]], [1.398e-4, 0.9998602, 0.006289389104], 1e-12)
    close(np.sqrt(ALPHA_BAR[500]), 0.079305668804, 1e-12)
    assert oracle.posterior_beta(1) == 0
    close(oracle.posterior_beta(2) / BETA[2], 0.437730089, 1e-9)


@pytest.mark.oracle
@pytest.mark.parametrize("s, gains", [
    (1.0, {20: 0.936920858, 50: 0.974263599, 500: 0.997374552}),
    (0.5, {20: 0.451764613, 50: 0.480782394, 500: 0.499062024}),
])  # fmt: skip
def test_the_oracle_has_the_published_gains(s, gains):
    for n, gain in gains.items():
        close(oracle.ddim_gain(range(500, -1, -500 // n), s), gain, 1e-9)
    close(oracle.ode_gain(0, 0.5), 0.501183449, 1e-9)
    close(oracle.ddim_gain([500, 0]), np.sqrt(ALPHA_BAR[500]), 1e-12)


@pytest.mark.oracle
def test_the_oracle_has_the_published_ddpm_moments():
    plain = oracle.ddpm_moments(0.5, 0.7, lambda t: BETA[t] if t > 1 else 0)
    close(plain, [0.6988941405, 0.2510677492], 1e-9)
    close(oracle.ddpm_moments(0.5, 0.7, oracle.posterior_beta)[1], 0.2446376002, 1e-9)
    close(oracle.ddpm_moments(0.5, 0.7, oracle.optimal_variance(0.5))[1], 0.2500018718, 1e-9)


@pytest.mark.oracle
def test_the_linear_schedule_is_the_definition():
    oracle.check_schedule()


@pytest.mark.oracle
def test_many_small_steps_equal_one_jump():
    oracle.check_one_jump()


@pytest.mark.oracle
def test_guesses_undo_the_noise():
    oracle.check_guesses_undo_noise()


@pytest.mark.oracle
@pytest.mark.parametrize("timesteps", [1, 2, 7, 500, 1000])
def test_the_grid_falls_evenly_from_T_to_0_for_every_number_of_steps(timesteps):
    oracle.check_grid(timesteps)


@pytest.mark.oracle
@pytest.mark.parametrize("t, signal, spread, ratio", [
    (0, 1.000, 0.000, math.inf), (60, 0.961, 0.275, 12.2), (180, 0.716, 0.698, 1.05), (500, 0.079, 0.997, 0.0063),
])  # fmt: skip
def test_the_noise_ladder_of_chapter_1(t, signal, spread, ratio):
    s = linear_schedule()
    found = s.signal_scale[t].item(), s.noise_scale[t].item()
    assert f"{found[0]:.3f}, {found[1]:.3f}" == f"{signal:.3f}, {spread:.3f}"
    assert t == 0 or math.isclose((found[0] / found[1]) ** 2, ratio, rel_tol=5e-3)
    x0, noise = torch.tensor([[[[0.5]]]]), torch.tensor([[[[-2.0]]]])
    close(s.add_noise(x0, t, noise), found[0] * 0.5 + found[1] * -2, 1e-6)
    if t == 0:
        assert torch.equal(s.add_noise(x0, 0, noise), x0)


@pytest.mark.oracle
def test_the_other_exact_numbers_of_chapter_1():
    s = linear_schedule()
    more_noise = s.noise_scale > s.signal_scale
    assert more_noise.int().argmax() == 184 and more_noise.sum() == 317
    assert (s.signal_scale < 0.5).int().argmax() == 261
    close(linear_schedule(1000).signal_scale[-1], 0.0063, 5e-5)
    close(linear_schedule(beta_end=0.01).signal_scale[-1], 0.28, 5e-3)
    close(cosine_schedule().signal_scale[-1] * 1e5, 9.9, 0.05)


@pytest.mark.oracle
def test_the_cosine_schedule_is_the_definition():
    s = cosine_schedule()
    level = np.cos((np.arange(501) / 500 + 0.008) / 1.008 * np.pi / 2) ** 2
    close(s.alpha_bar[:500], level[:500] / level[0], 1e-12)
    assert s.beta[500] == 0.999 and s.beta[0] == 0 and s.alpha_bar[0] == 1
    close(s.alpha_bar[500], level[499] / level[0] * 0.001, 1e-12)
    assert (s.alpha_bar.diff() < 0).all()


@pytest.mark.oracle
@pytest.mark.parametrize("timesteps", [1, 2, 7, 1000])
def test_other_numbers_of_timesteps_follow_the_same_rule(timesteps):
    beta, alpha_bar = oracle.tables(timesteps)
    close(linear_schedule(timesteps).beta, beta, 1e-15)
    close(linear_schedule(timesteps).alpha_bar, alpha_bar, 1e-12)
    assert cosine_schedule(timesteps).timesteps == timesteps


def test_one_picture_may_have_another_timestep_than_its_neighbour():
    s, x0, noise = linear_schedule(), torch.ones(3, 1, 2, 2), torch.zeros(3, 1, 2, 2)
    t = torch.tensor([0, 60, 500])
    mixed = s.add_noise(x0, t, noise)
    assert torch.equal(mixed, torch.cat([s.add_noise(x0[:1], int(i), noise[:1]) for i in t]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_pictures_keep_their_dtype_and_the_table_is_rounded_only_once(dtype):
    s = linear_schedule()
    found = s.add_noise(torch.zeros(1, 1, 1, 1, dtype=dtype), 1, torch.ones(1, 1, 1, 1, dtype=dtype))
    assert found.dtype == dtype
    assert found.item() == torch.tensor(math.sqrt(1 - (1 - 1.398e-4)), dtype=torch.float64).to(dtype).item()


def test_table_entries_are_shaped_to_multiply_pictures():
    table, like = torch.arange(5.0, dtype=torch.float64), torch.zeros(2, 3, 4, 4)
    assert at(table, torch.tensor([1, 3]), like).shape == (2, 1, 1, 1)
    assert at(table, torch.tensor([1, 3]), like).flatten().tolist() == [1, 3]
    assert at(table, 4, like).item() == 4 and at(table, 4, like).dtype == torch.float32 and at(table, 4, like).ndim == 0
    assert at(table, 4, like.to("meta")).device.type == "meta"


@careful
@given(st.integers(1, 1000), st.data())
def test_any_grid_is_strictly_falling(timesteps, data):
    n = data.draw(st.integers(1, timesteps))
    grid = linear_schedule(timesteps).spaced(n)
    assert len(grid) == n + 1 and grid[0] == timesteps and grid[-1] == 0
    assert all(a > b for a, b in zip(grid, grid[1:], strict=False))
    ideal = [timesteps * i / n for i in range(n, -1, -1)]
    assert max(abs(a - b) for a, b in zip(grid, ideal, strict=True)) <= 0.5


def test_schedules_say_what_they_are():
    assert linear_schedule(7, 0.001, 0.5).name == "linear T=7 beta=0.001..0.5" and cosine_schedule(7).name == "cosine T=7 offset=0.008"
    assert from_beta(torch.tensor([0.0, 0.1])).name == "custom"


@pytest.mark.parametrize("count", SILLY_COUNTS, ids=repr)
def test_a_silly_number_of_steps_is_refused_with_a_sentence(count):
    with pytest.raises(LabError, match="num_steps"):
        linear_schedule().spaced(count)


@careful
@given(st.one_of(st.floats(), st.integers(), st.text(max_size=5), st.none(), st.booleans()))
def test_any_number_of_steps_makes_a_grid_or_a_lab_error(count):
    try:
        grid = linear_schedule().spaced(count)
    except LabError as error:
        assert "num_steps" in str(error)
    else:
        assert grid[0] == 500 and grid[-1] == 0 and len(grid) == count + 1


@pytest.mark.parametrize("count", [np.int64(20), np.int32(20), 20.0, torch.tensor(20)], ids=repr)
def test_whole_numbers_of_other_types_are_whole_numbers(count):
    assert linear_schedule().spaced(count) == linear_schedule().spaced(20)


@pytest.mark.parametrize("make", [linear_schedule, cosine_schedule])
@pytest.mark.parametrize("timesteps", [0, -1, True, 2.5, "500", math.nan, None], ids=repr)
def test_a_silly_number_of_timesteps_is_refused(make, timesteps):
    with pytest.raises(LabError, match="timesteps"):
        make(timesteps)


@pytest.mark.parametrize("start, end", [(0, 0.02), (0.02, 1e-4), (1e-4, 1), (math.nan, 0.02), (1e-4, math.nan)])
def test_silly_ends_of_the_linear_schedule_are_refused(start, end):
    with pytest.raises(LabError, match="beta_"):
        linear_schedule(500, start, end)


@pytest.mark.parametrize("beta", [[0.0], [[0.0, 0.1]], [0, 0.1, 1], [0, 0.1, 0], [0, math.nan]], ids=repr)
def test_a_row_of_betas_that_is_none_is_refused(beta):
    with pytest.raises(LabError, match="beta"):
        from_beta(torch.tensor(beta, dtype=torch.float64))


def test_a_schedule_from_betas_keeps_its_own_copy():
    beta = torch.tensor([0.3, 0.1, 0.2], dtype=torch.float64)
    s = from_beta(beta)
    beta[1] = 0.9
    assert s.beta.tolist() == [0, 0.1, 0.2]
    close(s.alpha_bar, [1, 0.9, 0.72], 1e-15)


@pytest.mark.parametrize("make, sentence", [
    (lambda: linear_schedule(0), "timesteps is 0, but must be a whole number from 1 to 100000"),
    (lambda: linear_schedule(100_001), "timesteps is 100001, but must be a whole number from 1 to 100000"),
    (lambda: cosine_schedule(0), "timesteps is 0, but must be a whole number from 1 to 100000"),
    (lambda: linear_schedule(5, -0.1), "beta_start is -0.1, but must be a number from 0 to 1"),
    (lambda: linear_schedule(5, 0.1, 1.1), "beta_end is 1.1, but must be a number from 0 to 1"),
    (lambda: cosine_schedule(5, -0.1), "offset is -0.1, but must be a number from 0 to 1 (Nichol and Dhariwal use 0.008)"),
    (lambda: cosine_schedule(5, 1.1), "offset is 1.1, but must be a number from 0 to 1 (Nichol and Dhariwal use 0.008)"),
    (lambda: cosine_schedule(5, 0.1, 0), "beta_max is 0, but must be a number from 1e-06 to 0.999999 (Nichol and Dhariwal use 0.999)"),
    (lambda: cosine_schedule(5, 0.1, 1), "beta_max is 1, but must be a number from 1e-06 to 0.999999 (Nichol and Dhariwal use 0.999)"),
    (lambda: linear_schedule(5).spaced(6), "num_steps is 6, but must be a whole number from 1 to 5 (the schedule's T)"),
    (lambda: linear_schedule(5).spaced(0), "num_steps is 0, but must be a whole number from 1 to 5 (the schedule's T)"),
], ids=range(11))  # fmt: skip
def test_a_setting_that_cannot_be_meant_is_named_with_its_range(make, sentence):
    with pytest.raises(LabError) as caught:
        make()
    assert str(caught.value) == sentence


def test_settings_at_the_ends_of_their_range_are_taken():
    for made in (linear_schedule(1), linear_schedule(100_000), cosine_schedule(5, 0), cosine_schedule(5, 1), cosine_schedule(5, 0.008, 1e-6), cosine_schedule(5, 0.008, 1 - 1e-6)):
        assert ((made.beta[1:] > 0) & (made.beta[1:] < 1)).all()


@pytest.mark.parametrize("t, said", [(6, "6"), (torch.tensor([0, 6]), "tensor([0, 6])"), (torch.tensor(2.5), "tensor(2.5000)"), (2.5, "2.5")])
def test_a_timestep_that_the_schedule_does_not_have_is_named_with_its_range(t, said):
    with pytest.raises(LabError) as caught:
        linear_schedule(5).add_noise(torch.zeros(2, 1, 1, 1), t, torch.zeros(2, 1, 1, 1))
    assert str(caught.value) == f"t is {said}, but must hold whole numbers from 0 to 5, the schedule's T"
