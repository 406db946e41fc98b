"""Exact checks of the solvers that remember, as in oracle.py: one picture, one Gaussian, a finite set, formulas term by term."""

from functools import partial
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import torch
from oracle import ALPHA_BAR, T, close, finite_set, generator, impulse_start, impulses, moments, normal, ode_gain, perfect

from sprites_lab import observer, samplers, schedule, solvers, spacing

COUNTS = (*range(1, 13), 20, 33, 100, 499, 500)
SPACINGS = {
    "trailing": spacing.trailing, "quadratic": spacing.quadratic, "log_snr": spacing.log_snr, "karras": spacing.karras,
    "karras 3 to 1": partial(spacing.karras, power=3, t_min=1),
}
SIGNAL, NOISE = np.sqrt(ALPHA_BAR), np.sqrt(1 - ALPHA_BAR)


def every_solver():
    """name: walk(predict_noise, schedule, x_T, num_steps, spacing=..., generator=...), looked up anew for the bug zoo."""
    return {
        "2M": solvers.dpm_solver, "2M SDE": partial(solvers.dpm_solver, eta=1.0), "ddim": samplers.ddim,
        **{f"ipndm {order}": partial(solvers.ipndm, order=order) for order in (1, 2, 3, 4)},
        **{f"unipc {order}": partial(solvers.unipc, order=order) for order in (1, 2, 3)},
    }


def check_spacings():
    """For every n, n + 1 falling whole numbers from T to 0; and the timesteps known for few steps."""
    s = schedule.linear_schedule()
    for name, found in SPACINGS.items():
        for n in range(1, T + 1):
            grid = found(s, n)
            assert len(grid) == n + 1 and grid[0] == T and grid[-1] == 0, (name, n)
            assert all(type(t) is int for t in grid) and min(t - p for t, p in pairwise(grid)) >= 1, (name, n)
    assert spacing.quadratic(s, 5) == [500, 320, 180, 80, 20, 0]
    assert spacing.log_snr(s, 5) == [500, 294, 80, 12, 1, 0]
    assert spacing.karras(s, 10, 10, 3) == [500, 470, 436, 394, 342, 276, 196, 111, 45, 10, 0]


def check_solvers_land_on_one_picture():
    """Where only one picture is possible every walk ends on it, for every number of steps and every spacing."""
    s, x_T = schedule.linear_schedule(), normal(2, 1, 2, 2)
    for name, walk in every_solver().items():
        for n in COUNTS:
            for spaced in SPACINGS.values() if n <= 12 else [spacing.trailing]:
                end = samplers.final(walk(perfect(1e-10, 0.7), s, x_T, n, spacing=spaced, generator=generator(1)))
                close(end, 0.7, 1e-7)


def check_solvers_land_in_the_set():
    """Told by the observer, every solver ends on a picture of the set."""
    pictures, s = finite_set(), schedule.linear_schedule()
    seen, x_T = observer.Observer(pictures, s), normal(16, 3, 16, 16, seed=11)
    for walk in every_solver().values():
        for n in (10, 20, 50):
            end = samplers.final(walk(seen, s, x_T, n, spacing=spacing.log_snr, generator=generator(2)))
            close((end[:, None] - pictures[None]).abs().flatten(2).amax(2).min(1).values, 0, 1e-6)


def check_solver_calls():
    """Exactly n calls, at the timesteps of the spacing without 0; the steps tell where they are and end on the guess."""
    s, asked = schedule.linear_schedule(), []
    exact = perfect(0.5, 0.7)
    for name, walk in every_solver().items():
        for n in (1, 2, 3, 7, 30):
            asked.clear()
            steps = list(walk(lambda x, t: asked.append(t[0].item()) or exact(x, t), s, normal(1, 1, 2, 2), n, spacing=spacing.karras))
            grid = spacing.karras(s, n)
            assert asked == grid[:-1] and [step.t for step in steps] == grid[1:], (name, n)
            close(steps[-1].x_t, steps[-1].x0, 1e-12)


def check_solver_orders():
    """Twice the steps, 2^-p of the error (stopped at t = 20, which all four grids contain)."""
    orders = {"ddim": 1, "2M": 2, "ipndm 1": 1, "ipndm 2": 2, "unipc 1": 2, "unipc 2": 3}
    counts, x_T = (25, 50, 125, 250), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for name, order in orders.items():
        for s in (1.0, 0.5):
            errors = []
            for n in counts:
                walk = every_solver()[name](perfect(s), schedule.linear_schedule(), x_T, n)
                errors.append(abs(next(step.x_t.item() for step in walk if step.t == 20) - ode_gain(20, s)))
            close(np.polyfit(np.log(counts), np.log(np.maximum(errors, 1e-300)), 1)[0], -order, 0.3)


def check_dpm_solver_steps():
    """Every step of 2M and of 2M SDE by the formulas of the paper in sigma, alpha and h, term by term."""
    s, grid = schedule.linear_schedule(), spacing.karras(schedule.linear_schedule(), 12)
    log_ratio = np.log(SIGNAL[1:]) - np.log(NOISE[1:])
    log_ratio = np.insert(log_ratio, 0, np.inf)
    for eta in (0.0, 1.0):
        said, draws, before = [], [], normal(3, 1, 1, 1)
        x, older, strides = before, None, []

        def predict_noise(x_t, t):
            said.append(normal(3, 1, 1, 1, seed=100 + int(t[0])))
            return said[-1]

        def fresh_noise(x, generator):
            draws.append(normal(3, 1, 1, 1, seed=900 + len(draws)))
            return draws[-1]

        with patch.object(samplers, "fresh_noise", fresh_noise):
            for (t, t_next), step in zip(pairwise(grid), solvers.dpm_solver(predict_noise, s, before, 12, eta, spacing=spacing.karras), strict=True):
                x0 = (x - NOISE[t] * said[-1]) / SIGNAL[t]
                h = log_ratio[t_next] - log_ratio[t]
                guess = x0 if older is None or not t_next else x0 + (x0 - older) * h / strides[-1] / 2
                x = NOISE[t_next] / NOISE[t] * np.exp(-eta * h) * x + SIGNAL[t_next] * (1 - np.exp(-(1 + eta) * h)) * guess if t_next else x0
                if eta and t_next:
                    x = x + NOISE[t_next] * np.sqrt(1 - np.exp(-2 * h)) * draws[-1]
                close(step.x_t / x.abs().max(), x / x.abs().max(), 1e-9)
                older, strides = x0, [*strides, h]
        assert len(draws) == (11 if eta else 0)


def check_unipc_end():
    """The jump to 0 returns the guess at x0 for the uncorrected picture there; one step is DDIM's."""
    s, x_T, seen = schedule.linear_schedule(), normal(2, 1, 2, 2), []

    def predict_noise(x_t, t):
        seen.append((x_t, t[0].item()))
        return perfect(0.5, 0.7)(x_t, t)

    for n in (1, 2, 6):
        end = samplers.final(solvers.unipc(predict_noise, s, x_T, n))
        x_t, t = seen[-1]
        close(end, s.guess_x0(x_t, t, perfect(0.5, 0.7)(x_t, torch.full((2,), t))), 1e-12)


def check_stochastic_solver_moments():
    """A Gaussian of standard deviation 0.3 comes out of 2M SDE as worked out by hand (algorithms, section 2), about."""
    for n, deviation in {10: 0.222, 25: 0.295, 50: 0.307, 100: 0.304}.items():
        with impulses():
            start = impulse_start()
            start[T] = np.sqrt(ALPHA_BAR[T] * 0.09 + 1 - ALPHA_BAR[T])  # the true spread at T
            _, variance = moments(samplers.final(solvers.dpm_solver(perfect(0.3), schedule.linear_schedule(), start, n, 1.0)))
        close(np.sqrt(variance), deviation, 1.5e-3)


def check_solvers_in_float32():
    """The arithmetic keeps the dtype of x_T, also for a network that answers in bfloat16, and float32 is close to float64."""
    s = schedule.linear_schedule()
    for walk in every_solver().values():
        exact, single = (
            samplers.final(walk(perfect(0.5, 0.7), s, x_T, 20, generator=generator(1))) for x_T in (normal(4, 1, 2, 2), normal(4, 1, 2, 2).float())
        )
        assert single.dtype == torch.float32
        close(single, exact, 2e-5)


CHECKS = [check for name, check in sorted(globals().items()) if name.startswith("check_")]
