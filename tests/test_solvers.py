"""Solvers, spacings and the fitted start against what is known exactly."""

import pytest
import solver_oracle
import torch
from oracle import generator, normal, perfect
from small import network

from sprites_lab import LabError, conditioned, final, linear_schedule, spacing
from sprites_lab.samplers import ddim
from sprites_lab.solvers import dpm_solver, ipndm, unipc
from sprites_lab.start import FittedStart


@pytest.mark.oracle
@pytest.mark.parametrize("check", solver_oracle.CHECKS, ids=lambda check: check.__name__)
def test_oracle(check):
    check()


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_the_first_step_of_every_solver_is_ddims(eta):
    model, x_T, s = network(), normal(2, 3, 16, 16, dtype=torch.float32), linear_schedule()
    first = next(ddim(conditioned(model, None), s, x_T, 10, eta, generator(3)))
    torch.testing.assert_close(next(dpm_solver(conditioned(model, None), s, x_T, 10, eta, generator(3))).x_t, first.x_t, atol=1e-5, rtol=0)
    if eta == 0:
        for walk in (ipndm, unipc):
            torch.testing.assert_close(next(walk(conditioned(model, None), s, x_T, 10)).x_t, first.x_t, atol=1e-5, rtol=0)


@pytest.mark.parametrize("T", [1, 2, 7, 1000])
def test_spacings_and_solvers_for_other_T(T):
    s = linear_schedule(T)
    for n in {1, 2, 3, T} & set(range(1, T + 1)):
        for name, spaced in solver_oracle.SPACINGS.items():
            if T >= 10 or not name.startswith("karras") or name.endswith("1"):
                grid = spaced(s, n)
                assert len(grid) == n + 1 and grid[0] == T and grid[-1] == 0 and grid == sorted(set(grid), reverse=True)
        assert final(unipc(lambda x, t: 0 * x, s, torch.ones(1, 1, 1, 1), n)).isfinite().all()


@pytest.mark.parametrize(
    "walk, named", [(lambda *a: dpm_solver(*a, eta=1.5), "eta is 1.5"), (lambda *a: ipndm(*a, order=5), "order is 5"), (lambda *a: unipc(*a, order=True), "order is True"),
                    (lambda *a: unipc(*a, spacing=lambda s, n: spacing.karras(s, n, t_min=501)), "t_min is 501"),
                    (lambda *a: unipc(*a, spacing=lambda s, n: spacing.karras(s, n, power=0)), "power is 0"), (lambda *a: dpm_solver(*a, num_steps=0), "num_steps is 0"),
                    (lambda *a: dpm_solver(*a, num_steps=501, spacing=spacing.log_snr), "num_steps is 501")])
def test_settings_that_cannot_be_meant_are_refused_at_the_first_step(walk, named):
    with pytest.raises(LabError, match=named):
        next(walk(perfect(), linear_schedule(), torch.zeros(1, 1, 1, 1)))


def test_the_fitted_start_has_the_mean_and_covariance_of_noised_pictures():
    s, pictures = linear_schedule(), normal(50, 3, 2, 2, seed=4) * 0.5 + 0.3
    start = FittedStart(pictures, s)
    values = pictures.flatten(1)
    alpha, sigma = s.signal_scale[-1], s.noise_scale[-1]
    zero = start(torch.zeros(1, 3, 2, 2, dtype=torch.float64)).flatten()
    torch.testing.assert_close(zero, alpha * values.mean(0))
    linear = start(torch.eye(12, dtype=torch.float64).reshape(12, 3, 2, 2)).flatten(1) - zero
    centred = values - values.mean(0)
    torch.testing.assert_close(linear.T @ linear, alpha**2 * centred.T @ centred / 50 + sigma**2 * torch.eye(12, dtype=torch.float64))
    torch.testing.assert_close(linear, linear.T)  # the root that changes the noise least
    assert start(torch.zeros(2, 3, 2, 2)).dtype == torch.float32


def test_the_fitted_start_of_one_gaussian_makes_one_exact_step_of_the_ode_exact():
    """From the right start the deterministic map keeps the distribution: pixels N(0.7, 0.5^2) come out as they are."""
    s = linear_schedule()
    pictures = normal(4000, 1, 1, 1, seed=5) * 0.5 + 0.7
    pictures = (pictures - pictures.mean()) / pictures.std(correction=0) * 0.5 + 0.7
    noise = normal(4000, 1, 1, 1, seed=6)
    noise = (noise - noise.mean()) / noise.std(correction=0)
    right = final(unipc(perfect(0.5, 0.7), s, FittedStart(pictures, s)(noise), 60, spacing=spacing.log_snr))
    plain = final(unipc(perfect(0.5, 0.7), s, noise, 60, spacing=spacing.log_snr))
    assert abs(right.mean() - 0.7) < 1e-4 and abs(right.std(correction=0) - 0.5) < 1e-3
    assert abs(plain.mean() - 0.7) > 0.02


def test_a_start_for_other_pictures_is_refused():
    with pytest.raises(LabError, match="at least 2"):
        FittedStart(torch.zeros(1, 3, 4, 4), linear_schedule())
    with pytest.raises(LabError, match="fitted to pictures"):
        FittedStart(torch.zeros(5, 3, 4, 4), linear_schedule())(torch.zeros(1, 3, 2, 2))
