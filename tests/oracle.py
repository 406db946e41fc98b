"""What is known exactly about diffusion, computed here without the package, and checks that hold the package to it.

Pictures whose every pixel is N(mu, s^2) have a perfect predictor in closed form, and every sampler is then an affine map
whose mean and gain are known. A check takes nothing and fails with an AssertionError; the bug zoo calls it too.
"""

from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from sprites_lab import observer, predictors, samplers, schedule, training

T = 500


def tables(timesteps=T, start=1e-4, end=0.02):
    """beta and alpha_bar for t = 0..T, one step after the other, float64."""
    beta, alpha_bar = [0.0], [1.0]
    for t in range(1, timesteps + 1):
        beta.append(start + t * (end - start) / timesteps)
        alpha_bar.append(alpha_bar[-1] * (1 - beta[-1]))
    return np.array(beta), np.array(alpha_bar)


BETA, ALPHA_BAR = tables()


def posterior_beta(t):
    """The variance of x_{t-1} given x_t and x_0."""
    return BETA[t] * (1 - ALPHA_BAR[t - 1]) / (1 - ALPHA_BAR[t])


def perfect(s=1.0, mu=0.0):
    """The best noise predictor for pixels N(mu, s^2)."""
    signal, spread = torch.from_numpy(np.sqrt(ALPHA_BAR)), torch.from_numpy(np.sqrt(1 - ALPHA_BAR))
    total = torch.from_numpy(ALPHA_BAR * s**2 + 1 - ALPHA_BAR)

    def predict_noise(x_t, t):
        pixel = (-1, 1, 1, 1)
        return (spread / total)[t].reshape(pixel).to(x_t) * (x_t - mu * signal[t].reshape(pixel).to(x_t))

    return predict_noise


def perfect_for_set(pictures):
    """The best noise predictor for a finite set (N, C, H, W), each picture as likely as the others."""

    def predict_noise(x_t, t):
        a = torch.from_numpy(ALPHA_BAR)[t].reshape(-1, 1, 1, 1)
        distance = (x_t[:, None] - a[:, None].sqrt() * pictures[None]).square().flatten(2).sum(2)
        share = (-distance / (2 * (1 - a.flatten()[:, None]))).softmax(1)
        x0 = torch.einsum("bn,nchw->bchw", share, pictures)
        return (x_t - a.sqrt() * x0) / (1 - a).sqrt()

    return predict_noise


def ddim_gain(grid, s=1.0):
    """By how much deterministic DDIM on a falling grid of timesteps stretches the distance from the mean."""
    gain = 1.0
    for t, p in pairwise(grid):
        a, b = ALPHA_BAR[t], ALPHA_BAR[p]
        gain *= (np.sqrt(b * a) * s**2 + np.sqrt((1 - b) * (1 - a))) / (a * s**2 + 1 - a)
    return gain


def ode_gain(stop, s=1.0):
    """What ddim_gain tends to with infinitely many steps from T down to `stop`."""
    a, b = ALPHA_BAR[T], ALPHA_BAR[stop]
    return np.sqrt((b * s**2 + 1 - b) / (a * s**2 + 1 - a))


def ddpm_moments(s, mu, variance):
    """Mean and variance of what DDPM makes of N(0, 1), with fresh noise of `variance(t)` after step t > 1."""
    mean, spread = 0.0, 1.0
    for t in range(T, 0, -1):
        shrink = BETA[t] / (ALPHA_BAR[t] * s**2 + 1 - ALPHA_BAR[t])
        mean = (mean - shrink * (mean - mu * np.sqrt(ALPHA_BAR[t]))) / np.sqrt(1 - BETA[t])
        spread = ((1 - shrink) ** 2 / (1 - BETA[t])) * spread + variance(t)
    return mean, spread


def optimal_variance(s):
    """The variance of x_{t-1} given x_t alone, for pixels of standard deviation s."""

    def variance(t):
        a = ALPHA_BAR[t]
        left = s**2 * (1 - a) / (a * s**2 + 1 - a)
        return posterior_beta(t) + (np.sqrt(ALPHA_BAR[t - 1]) * BETA[t] / (1 - a)) ** 2 * left

    return variance


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def close(found, expected, tolerance):
    """Fail unless all values are finite and within the tolerance."""
    found, expected = torch.as_tensor(found, dtype=torch.float64), torch.as_tensor(expected, dtype=torch.float64)
    assert found.isfinite().all(), "values that are not finite"
    difference = (found - expected).abs().max().item()
    assert difference <= tolerance, f"off by {difference:.3g}, allowed is {tolerance:.3g}"


@contextmanager
def impulses():
    """Replace fresh noise by impulses: the k-th draw gives 1 to picture k and 0 to all others; yields the list of draws.

    Started from zeros and a last picture of ones, picture k then holds the gain of the k-th draw: no chance is left.
    """
    draws = []

    def impulse(x, generator):
        draws.append(len(draws) + 1)
        out = torch.zeros_like(x)
        out[draws[-1] : draws[-1] + 1] = 1
        return out

    with patch.object(samplers, "fresh_noise", impulse):
        yield draws


def impulse_start():
    x_T = torch.zeros(T + 1, 1, 1, 1, dtype=torch.float64)
    x_T[T] = 1
    return x_T


def moments(x):
    """Mean and variance of one pixel, read from an impulse batch."""
    gains = x.flatten() - x.flatten()[0]
    return x.flatten()[0].item(), gains.square().sum().item()


# The schedule


def check_schedule():
    """O1: betas rise in equal steps from the given ends, and alpha_bar is their product, from exactly 1."""
    s = schedule.linear_schedule()
    assert s.timesteps == T and s.beta.dtype == s.alpha_bar.dtype == torch.float64
    assert s.alpha_bar[0] == 1 and s.beta[0] == 0
    close(s.beta, BETA, 1e-15)
    close(s.alpha_bar, ALPHA_BAR, 1e-12)
    close(s.alpha_bar[1:] / s.alpha_bar[:-1], 1 - s.beta[1:], 1e-12)
    assert (s.alpha_bar.diff() < 0).all()
    close(s.beta[1:].diff().diff(), 0, 1e-12)
    close(s.beta[[1, -1]], [1.398e-4, 0.02], 1e-12)


def check_one_jump():
    """O2: T small steps do to mean and variance what one jump does, for every t."""
    s = schedule.linear_schedule()
    t = torch.arange(T + 1)
    one, nothing = torch.ones(T + 1, 1, 1, 1, dtype=torch.float64), torch.zeros(T + 1, 1, 1, 1, dtype=torch.float64)
    signal, spread = s.add_noise(one, t, nothing).flatten(), s.add_noise(nothing, t, one).flatten()
    mean, variance = [1.0], [0.0]
    for beta in BETA[1:]:
        mean.append(np.sqrt(1 - beta) * mean[-1])
        variance.append((1 - beta) * variance[-1] + beta)
    close(signal, mean, 1e-10)
    close(spread, np.sqrt(variance), 1e-10)
    close(signal**2 + spread**2, 1, 1e-12)
    close(signal, s.signal_scale, 0)
    close(spread, s.noise_scale, 0)


def check_guesses_undo_noise():
    """The guess at x0 and the guess at the noise both turn add_noise round, for every t."""
    s, t = schedule.linear_schedule(), torch.arange(1, T + 1)
    x0, noise = normal(T, 1, 2, 2), normal(T, 1, 2, 2, seed=1)
    x_t = s.add_noise(x0, t, noise)
    close(s.guess_x0(x_t, t, noise), x0, 1e-10)
    close(s.guess_noise(x_t, t, x0), noise, 1e-10)


def check_grid(timesteps=T):
    """O9: for every n, n + 1 strictly falling whole numbers from T to 0, as even as whole numbers allow."""
    s = schedule.linear_schedule(timesteps)
    for n in range(1, timesteps + 1):
        grid = s.spaced(n)
        assert all(type(t) is int for t in grid), n
        assert len(grid) == n + 1 and grid[0] == timesteps and grid[-1] == 0, n
        gaps = [t - p for t, p in pairwise(grid)]
        assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1, n


# Samplers


def check_ddpm_variance():
    """O3: on standard normal pixels DDPM keeps the variance at 1, the last step leaves 1 - beta_1, with T - 1 draws."""
    with impulses() as draws:
        for step in samplers.ddpm(perfect(), schedule.linear_schedule(), impulse_start()):
            mean, variance = moments(step.x_t)
            close(mean, 0, 1e-9)
            close(variance, 1 if step.t else 1 - BETA[1], 1e-9)
    assert len(draws) == T - 1, f"{len(draws)} draws of noise"


def check_ddpm_moments():
    """DDPM and DDIM with eta 1 on N(0.7, 0.5^2): the mean and variance of the recursion."""
    s, mu = 0.5, 0.7
    for walk, variance in (
        (samplers.ddpm, lambda t: BETA[t] if t > 1 else 0),
        (lambda *given: samplers.ddim(*given, num_steps=T, eta=1.0), posterior_beta),
    ):
        with impulses() as draws:
            found = moments(samplers.final(walk(perfect(s, mu), schedule.linear_schedule(), impulse_start())))
        close(found, ddpm_moments(s, mu, variance), 1e-9)
        assert len(draws) == T - 1


def check_ddpm_lands_on_one_picture():
    """O4: where only one picture is possible, DDPM ends on it exactly, with either variance of the fresh noise."""
    s, x_T, mu = schedule.linear_schedule(), normal(16, 1, 2, 2), 0.7
    predict = perfect(1e-10, mu)
    for walk in (
        samplers.ddpm(predict, s, x_T, generator=generator(1)),
        samplers.ddim(predict, s, x_T, T, eta=1.0, generator=generator(1)),
    ):
        close(samplers.final(walk), mu, 1e-7)


def check_ddim_gain():
    """O5: DDIM without fresh noise is the affine map with the gain of ddim_gain, on every even grid."""
    x_T = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    for n in (1, 20, 50, 500):
        grid = [T - i * (T // n) for i in range(n + 1)]
        for s, mu in ((1.0, 0.0), (0.5, 0.7)):
            zero, one = samplers.final(samplers.ddim(perfect(s, mu), schedule.linear_schedule(), x_T, n)).flatten()
            gain = ddim_gain(grid, s)
            close(one - zero, gain, 1e-9)
            close(zero, mu - gain * np.sqrt(ALPHA_BAR[T]) * mu, 1e-9)


def check_ddim_step(n=T, eta=1.0):
    """O6: every step of DDIM with fresh noise, term by term; with n = T and eta = 1 it is DDPM with its posterior variance."""
    guesses, draws, before = [], [], normal(4, 1, 1, 1)

    def predict_noise(x_t, t):
        guesses.append(normal(4, 1, 1, 1, seed=1000 + int(t[0])))
        return guesses[-1]

    def fresh_noise(x, generator):
        draws.append(normal(4, 1, 1, 1, seed=5000 + len(draws)))
        return draws[-1]

    t = T
    with patch.object(samplers, "fresh_noise", fresh_noise):
        for number, step in enumerate(samplers.ddim(predict_noise, schedule.linear_schedule(), before, n, eta), start=1):
            assert len(draws) == (min(number, n - 1) if eta else 0), f"{len(draws)} draws after {number} steps"
            a, p = ALPHA_BAR[t], ALPHA_BAR[step.t]
            fresh = eta**2 * (1 - p) / (1 - a) * (1 - a / p)
            if n == T and step.t > 0:  # the textbook DDPM step
                close(fresh, eta**2 * posterior_beta(t), 1e-12)
            x0 = (before - np.sqrt(1 - a) * guesses[-1]) / np.sqrt(a)
            mean = np.sqrt(p) * x0 + np.sqrt(max(1 - p - fresh, 0)) * guesses[-1]
            if n == T and eta == 1:
                ddpm_mean = (before - BETA[t] / np.sqrt(1 - a) * guesses[-1]) / np.sqrt(1 - BETA[t])
                close(mean / mean.abs().max(), ddpm_mean / mean.abs().max(), 1e-9)
            expected = mean + (np.sqrt(fresh) * draws[-1] if step.t > 0 and eta > 0 else 0)
            size = expected.abs().max()
            close(step.x_t / size, expected / size, 1e-9)
            close(step.x0 / x0.abs().max(), x0 / x0.abs().max(), 1e-9)
            before, t = step.x_t, step.t
    assert t == 0


def check_ddim_with_half_the_noise():
    check_ddim_step(T, 0.5)


def check_ddim_with_few_noisy_steps():
    check_ddim_step(20, 0.7)


def check_ddpm_step():
    """One DDPM step is (x - beta / noise_scale * noise) / sqrt(1 - beta) + sqrt(beta) * fresh noise, for every t."""
    before = normal(4, 1, 1, 1)
    walk = samplers.ddpm(lambda x_t, t: x_t * 0.5 + 0.1, schedule.linear_schedule(), before)
    with patch.object(samplers, "fresh_noise", lambda x, generator: torch.full_like(x, 0.25)):
        for t, step in zip(range(T, 0, -1), walk, strict=True):
            noise = before * 0.5 + 0.1
            expected = (before - BETA[t] / np.sqrt(1 - ALPHA_BAR[t]) * noise) / np.sqrt(1 - BETA[t])
            close(step.x_t, expected + (0.25 * np.sqrt(BETA[t]) if t > 1 else 0), 1e-10)
            before = step.x_t


def check_ddim_order():
    """O7: twice the steps, half the error (stopped at t = 20, which all four grids contain)."""
    counts, x_T = (25, 50, 125, 250), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for s in (1.0, 0.5):
        errors = []
        for n in counts:
            walk = samplers.ddim(perfect(s), schedule.linear_schedule(), x_T, n)
            errors.append(abs(next(step.x_t.item() for step in walk if step.t == 20) - ode_gain(20, s)))
        slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
        close(slope, -1, 0.05)


def check_predictor_calls():
    """O9: for every n, DDIM asks exactly n times, at the grid's timesteps without 0 (its arithmetic is left out here)."""
    s, x_T, asked = schedule.linear_schedule(), torch.zeros(1, 1, 1, 1), []

    def predict_noise(x_t, t):
        asked.append(t)
        return x_t

    with (
        patch.object(samplers, "ddim_step", lambda s, t, t_next, x0, *rest: x0),
        patch.object(schedule.NoiseSchedule, "guess_x0", lambda s, x_t, t, noise: x_t),
    ):
        for n in range(1, T + 1):
            asked.clear()
            reached = [step.t for step in samplers.ddim(predict_noise, s, x_T, n)]
            assert len(asked) == n, f"{len(asked)} calls for {n} steps"
            assert [t.item() for t in asked] == [T, *reached[:-1]] and reached[-1] == 0


def check_predictor_inputs():
    """B4: the predictor gets t as int64 (B,) on the device of x, in 1..T, without gradients."""
    seen = []

    def predict_noise(x_t, t):
        assert t.dtype == torch.int64 and t.shape == (3,) and t.device == x_t.device
        assert not torch.is_grad_enabled() and not x_t.requires_grad
        assert len(set(t.tolist())) == 1
        seen.append(t[0].item())
        return torch.zeros_like(x_t)

    s, x_T = schedule.linear_schedule(), normal(3, 1, 2, 2)
    samplers.final(samplers.ddpm(predict_noise, s, x_T, generator=generator()))
    assert seen == list(range(T, 0, -1))
    seen.clear()
    samplers.final(samplers.ddim(predict_noise, s, x_T, 30))
    assert len(seen) == 30 and seen[0] == T and min(seen) >= 1


def check_steps():
    """B5, B6: the last Step is at t = 0 with x_t = x0, kept steps keep their values, the start and its dtype stay."""
    s = schedule.linear_schedule()
    for dtype in (torch.float32, torch.float64):
        for walk, exact in ((samplers.ddpm, False), (samplers.ddim, True)):
            x_T = normal(2, 1, 4, 4, dtype=dtype)
            start, steps, copies = x_T.clone(), [], []
            for step in walk(perfect(0.5, 0.7), s, x_T, generator=generator(3)):
                steps.append(step)
                copies.append(step.x_t.clone())
            assert [step.t for step in steps] == (s.spaced(20)[1:] if exact else list(range(T - 1, -1, -1)))
            assert all(torch.equal(step.x_t, copy) for step, copy in zip(steps, copies, strict=True))
            assert torch.equal(x_T, start) and {step.x_t.dtype for step in steps} == {dtype}
            assert {step.x0.dtype for step in steps} == {dtype}
            close(steps[-1].x_t, steps[-1].x0, 0 if exact else 1e-12 if dtype == torch.float64 else 1e-5)


def check_seeds():
    """B1, B3: a seed decides the walk bit for bit; with a generator for each picture, its batch mates do not matter."""
    s, x_T, predict = schedule.linear_schedule(50), normal(3, 1, 4, 4, dtype=torch.float32), lambda x_t, t: 0.3 * x_t
    for walk in (samplers.ddpm, lambda *given, **more: samplers.ddim(*given, 20, eta=1.0, **more)):
        one, same, other = (samplers.final(walk(predict, s, x_T, generator=generator(seed))) for seed in (7, 7, 8))
        assert torch.equal(one, same) and not torch.equal(one, other)
        together = samplers.final(walk(predict, s, x_T, generator=[generator(i) for i in range(3)]))
        alone = [samplers.final(walk(predict, s, x_T[i : i + 1], generator=[generator(i)])) for i in range(3)]
        assert torch.equal(together, torch.cat(alone))
        assert not torch.equal(together[0] - x_T[0], together[1] - x_T[1])


def check_fresh_noise():
    """Fresh noise is the normal draw of the seed, made in float32 and then cast; with a list, each picture has its own."""
    for dtype in (torch.float64, torch.float32, torch.float16):
        found = samplers.fresh_noise(torch.zeros(2, 3, 4, 4, dtype=dtype), generator(4))
        assert found.dtype == dtype
        assert torch.equal(found, torch.randn(2, 3, 4, 4, generator=generator(4)).to(dtype))
    listed = samplers.fresh_noise(torch.zeros(3, 1, 4, 4), [generator(i) for i in range(3)])
    assert torch.equal(listed, torch.stack([torch.randn(1, 4, 4, generator=generator(i)) for i in range(3)]))


# Predictors, training, observer


def check_conditioned():
    """The network is told the context of each picture: one for all, a row each in their order, or None."""
    told, x_t, t = [], normal(3, 1, 2, 2, dtype=torch.float32), torch.full((3,), 5)

    def model(x_t, t, context):
        told.append(context)
        return x_t * 2 + t[:, None, None, None]

    rows = torch.eye(5)[[4, 0, 2]]
    for context, expected in ((rows, rows), (rows[0], rows[[0, 0, 0]]), (rows[1:2], rows[[1, 1, 1]]), (None, None)):
        assert torch.equal(predictors.conditioned(model, context)(x_t, t), x_t * 2 + 5)
        assert told[-1] is None if expected is None else torch.equal(told[-1], expected)


def check_guidance():
    """O10: 0 is the reference and 1 the prediction, bit for bit; in between and beyond on the line through both."""
    x_t, t = normal(4, 3, 4, 4, dtype=torch.float32), torch.full((4,), 9)
    a, b = normal(4, 3, 4, 4, seed=1, dtype=torch.float32), normal(4, 3, 4, 4, seed=2, dtype=torch.float32)
    assert torch.equal(predictors.guided(lambda *_: a, lambda *_: b, 1.0)(x_t, t), a)
    assert torch.equal(predictors.guided(lambda *_: a, lambda *_: b, 0.0)(x_t, t), b)
    a, b = a.double(), b.double()
    for scale in (-1, 0.5, 2, 7.5):
        found = predictors.guided(lambda *_: a, lambda *_: b, scale)(x_t, t)
        close(found - b, scale * (a - b), 1e-12)


class Normed(nn.Module):
    """Two layers with batch-norm statistics and a counter: enough to see what an average does."""

    def __init__(self, value):
        super().__init__()
        self.layer, self.norm = nn.Linear(2, 2).double(), nn.BatchNorm1d(2).double()
        with torch.no_grad():
            for tensor in self.state_dict().values():
                tensor.fill_(value)


def check_average():
    """O11: after n equal targets the average has come 1 - d^n of the way; d = 0 copies; counters are copied."""
    with torch.random.fork_rng(devices=[]):
        start, target = Normed(0), Normed(1)
    target.norm.num_batches_tracked.fill_(77)
    for decay, n in ((0.9, 5), (0.999, 30), (0.0, 1), (0.5, 3)):
        average = deepcopy(start)
        for _ in range(n):
            training.update_average(average, target, decay)
        for name, tensor in average.state_dict().items():
            close(tensor, 77 if name.endswith("tracked") else 1 - decay**n, 1e-12)


def finite_set():
    return torch.randint(0, 2, (8, 3, 16, 16), generator=generator(5)).double() * 2 - 1


def check_observer():
    """O12: the package's observer is the perfect predictor for a finite set."""
    pictures, s = finite_set(), schedule.linear_schedule()
    seen, exact = observer.Observer(pictures, s), perfect_for_set(pictures)
    for t in (1, 20, 250, 400, 499, 500):
        times = torch.full((8,), t)
        x_t = np.sqrt(ALPHA_BAR[t]) * pictures + np.sqrt(1 - ALPHA_BAR[t]) * normal(8, 3, 16, 16, seed=t)
        close(seen(x_t, times), exact(x_t, times), 1e-10)


def check_lands_in_the_set():
    """O12: every sampler, told by the observer, ends on a picture of the set, and on each about equally often."""
    pictures, s = finite_set(), schedule.linear_schedule()
    seen, x_T = observer.Observer(pictures, s), normal(64, 3, 16, 16, seed=11)
    walks = [samplers.ddim(seen, s, x_T, n) for n in (5, 20, 50)]
    for walk in [*walks, samplers.ddpm(seen, s, x_T, generator=generator(12))]:
        distance = (samplers.final(walk)[:, None] - pictures[None]).abs().flatten(2).amax(2)
        nearest, which = distance.min(1)
        close(nearest, 0, 1e-6)
        counts = torch.bincount(which, minlength=8)
        assert ((counts - 8.0) ** 2 / 8).sum() < 29.9, f"the pictures came {counts.tolist()} times"


CHECKS = [check for name, check in sorted(globals().items()) if name.startswith("check_") and name != "check_grid"]
