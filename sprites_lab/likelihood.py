"""What a picture costs: bits per value by the variational bound and by the probability-flow ODE, and class probabilities.

All three ask one question: how far is the predicted noise from the noise that was added? The bound is L_T + the sum of
L_{t-1} for t = 2..T + L_0 (Ho et al. 2020, equation 5). Errors and nats are per value (768 in a sprite), everything is
float64 on the CPU; a `seed` fixes the noise, so whoever is given the same pictures, times and seed is asked the same.
"""

from collections.abc import Callable
from itertools import pairwise
from math import log, pi
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sprites_lab.chance import numbered
from sprites_lab.errors import LabError
from sprites_lab.predictors import Predictor, conditioned
from sprites_lab.schedule import NoiseSchedule
from sprites_lab.settings import check_number, check_whole
from sprites_lab.spacing import log_snr, noise_to_signal

HALF_STEP = 1 / 255  # half of the distance between two neighbours of the 256 levels in [-1, 1]
DECODER = 500_000  # the number of the first draw of noise for L_0; those before are for the table


class Strata(NamedTuple):
    """Timesteps that stand for all of 2..T: `times` int64 (N, S), and `widths` (S,), how many each one stands for."""

    times: Tensor
    widths: Tensor


class Bound(NamedTuple):
    """An upper bound on -log2 p per value, of each of N pictures: its parts L_T, sum of L_{t-1}, L_0, float64 (N,).

    `times` and `terms` (N, S): the single L_{t-1}, in bits per value, at the timesteps that were asked. `variance` (T + 1,):
    that of the reverse steps, which the bound is for; entry 1 is the decoder's.
    """

    prior: Tensor
    steps: Tensor
    decoder: Tensor
    times: Tensor
    terms: Tensor
    variance: Tensor

    @property
    def total(self) -> Tensor:
        """The bound in bits per value, (N,)."""
        return self.prior + self.steps + self.decoder


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of one number per picture (N,) and its standard error; that of the noise drawn for each is in it."""
    return values.mean().item(), (values.std() / len(values) ** 0.5).item() if len(values) > 1 else float("nan")


def strata(schedule: NoiseSchedule, pictures: int, count: int = 64, seed: int = 0) -> Strata:
    """2..T cut in `count` pieces, even in log-SNR as far as whole timesteps allow, and in each a random t for each picture.

    The sum over all t is estimated without bias; with count = T - 1 every t is asked and nothing is left to chance.
    """
    count = check_whole("count", count, 1, schedule.timesteps - 1, "the timesteps from 2 to T")
    edges = torch.tensor(log_snr(schedule, count + 1)[-2::-1])  # from 1 to T
    widths = edges.diff()
    place = torch.rand((pictures, count), generator=numbered(seed, 0), dtype=torch.float64)
    return Strata(edges[:-1] + 1 + (place * widths).long(), widths)


def error_table(predict_noise: Predictor, schedule: NoiseSchedule, x0: Tensor, times: Tensor, seed: int = 0) -> Tensor:
    """Mean squared noise error of each picture at each timestep: float64 (N, S). Asks the predictor S times.

    x0 (N, C, H, W) in [-1, 1]; times (S,) or (N, S), 1..T. A call sees all N pictures, in order, as `conditioned` needs it.
    """
    if not times.numel() or not 1 <= times.min() <= times.max() <= schedule.timesteps:
        raise LabError(f"times must be whole numbers from 1 to {schedule.timesteps}, at least one")
    columns = times.expand(len(x0), -1).unbind(1)
    errors = [noise_error(predict_noise, schedule, x0, t, numbered(seed, number)) for number, t in enumerate(columns, start=1)]
    return torch.stack([error.square().flatten(1).mean(1) for error in errors], 1)


def noise_error(predict_noise: Predictor, schedule: NoiseSchedule, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
    """The noise predicted minus the noise added, float64 on the CPU, in the shape of x0; t (N,)."""
    noise, t = torch.randn(x0.shape, generator=generator).to(x0), t.to(x0.device)
    with torch.no_grad():
        return (predict_noise(schedule.add_noise(x0, t, noise), t) - noise).double().cpu()


# Variances of the reverse steps: float64 (T + 1,), entry t for the step from t to t - 1, entry 1 for the decoder


def posterior_variance(schedule: NoiseSchedule) -> Tensor:
    """The least that can be right, beta-tilde (Ho et al. 2020, equation 7); it is 0 at t = 1, which gets that of t = 2."""
    level, before = schedule.alpha_bar[1:], schedule.alpha_bar[:-1]
    variance = torch.cat([torch.zeros(1).double(), schedule.beta[1:] * (1 - before) / (1 - level)])
    variance[1] = variance[2] if schedule.timesteps > 1 else schedule.beta[1]
    return variance


def analytic_variance(schedule: NoiseSchedule, times: Tensor, errors: Tensor) -> Tensor:
    """The variance with the least bound, from the mean squared noise error (S,) at rising timesteps `times` (S,).

    Bao et al. 2022 (arXiv 2201.06503; 2206.07309 for a predictor that is not perfect): beta-tilde + (weight of x0)^2 * squared error
    of x0. Between the times it is interpolated. To be honest it takes errors of other pictures than those it then judges.
    """
    ratio = noise_to_signal(schedule)[1:].log()
    known = np.interp(ratio, ratio[times - 1], errors.log())
    tilde = posterior_variance(schedule)
    tilde[1] = 0
    tilde[1:] += mean_gap(schedule)[1:] * torch.from_numpy(known).exp()
    return tilde


def mean_gap(schedule: NoiseSchedule) -> Tensor:
    """The squared distance of the two means of x_{t-1}, true and predicted, per squared noise error: (T + 1,)."""
    gap = schedule.beta**2 / ((1 - schedule.beta) * (1 - schedule.alpha_bar))
    gap[0] = 0
    return gap


def fit_variance(predict_noise: Predictor, schedule: NoiseSchedule, x0: Tensor, count: int = 64, seed: int = 0) -> Tensor:
    """The analytic variance, with the best scale for the decoder of 8-bit pictures, fitted to x0: training sprites."""
    times = torch.tensor(log_snr(schedule, count)[-2::-1])
    variance = analytic_variance(schedule, times, error_table(predict_noise, schedule, x0, times, seed).mean(0))
    mean = decoder_mean(predict_noise, schedule, x0, numbered(seed, DECODER))
    scales = torch.logspace(-4, -0.5, 141, dtype=torch.float64)
    variance[1] = min(scales, key=lambda scale: discretised_nats(x0, mean, scale).mean().item()) ** 2
    return variance


# The parts of the bound, in nats per value


def prior_nats(schedule: NoiseSchedule, power: Tensor) -> Tensor:
    """L_T, the KL divergence of x_T from pure noise, for pictures with this mean squared value (N,)."""
    left = schedule.alpha_bar[-1]
    return (left * power - left - torch.log1p(-left)) / 2


def step_nats(schedule: NoiseSchedule, times: Tensor, errors: Tensor, variance: Tensor) -> Tensor:
    """L_{t-1}, the KL divergence of the true from the predicted x_{t-1}, for noise errors at times >= 2: any shape (..., S)."""
    share = (posterior_variance(schedule) / variance)[times]
    return (share - 1 - share.log() + (mean_gap(schedule) / variance)[times] * errors) / 2


def density_nats(errors: Tensor, variance: Tensor) -> Tensor:
    """L_0 of pictures whose values are any numbers, from the squared error of the guess at x0 at t = 1."""
    return (log(2 * pi) + variance.log() + errors / variance) / 2


def discretised_nats(x0: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """-log p of 8-bit values under a normal distribution cut in 256 bins, the outer ones open (Ho et al. 2020, equation 13).

    Shape of x0. Exact far out in the tails as well: no probability is raised to a least one.
    """
    x0, mean, scale = x0.double().cpu(), mean.double().cpu(), scale.double().cpu()
    low = ((x0 - HALF_STEP - mean) / scale).masked_fill(x0 < -1 + HALF_STEP, -torch.inf)
    high = ((x0 + HALF_STEP - mean) / scale).masked_fill(x0 > 1 - HALF_STEP, torch.inf)
    flip = low + high > 0  # in the lower tail a difference keeps its digits
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    top = torch.special.log_ndtr(high)
    return -top - torch.log(-torch.expm1(torch.special.log_ndtr(low) - top))


def decoder_mean(predict_noise: Predictor, schedule: NoiseSchedule, x0: Tensor, generator: torch.Generator) -> Tensor:
    """The guess at x0 from x_1, float64 (N, C, H, W), kept within [-1, 1]."""
    error = noise_error(predict_noise, schedule, x0, torch.ones(len(x0), dtype=torch.int64), generator)
    return (x0.double().cpu() - noise_to_signal(schedule)[1] * error).clamp(-1, 1)


def decoder_nats(predict_noise: Predictor, schedule: NoiseSchedule, x0: Tensor, variance: Tensor, seed: int = 0, draws: int = 4) -> Tensor:
    """L_0 of 8-bit pictures, (N,): the mean over `draws` calls of the predictor at t = 1."""
    means = [decoder_mean(predict_noise, schedule, x0, numbered(seed, DECODER + i)) for i in range(check_whole("draws", draws, 1, 10_000))]
    return sum(discretised_nats(x0, mean, variance[1].sqrt()).flatten(1).mean(1) for mean in means) / draws


# The bound


def assemble(
    schedule: NoiseSchedule, power: Tensor, asked: Strata, errors: Tensor, decoder: Tensor, variance: Tensor
) -> Bound:
    """The bound in bits, from mean square (N,) of the pictures, noise errors (N, S) at the times asked, and L_0 (N,) in nats.

    All of it may be expectations known exactly, then so is the bound.
    """
    terms = step_nats(schedule, asked.times, errors, variance) / log(2)
    steps = (terms * asked.widths).sum(1)
    return Bound(prior_nats(schedule, power) / log(2), steps, decoder / log(2), asked.times, terms, variance)


def bound(
    predict_noise: Predictor, schedule: NoiseSchedule, x0: Tensor, variance: Tensor, count: int = 64, seed: int = 0, draws: int = 4
) -> Bound:
    """The variational bound of 8-bit pictures x0 (N, C, H, W) in [-1, 1]. Asks the predictor count + draws times.

    The terms are estimated at `count` of the timesteps 2..T, L_0 by `draws`. For `variance`: `fit_variance` of training
    sprites, `posterior_variance(schedule)`, `schedule.beta`, or any other that is above 0 from t = 1 on.
    """
    check_pictures(schedule, x0, variance)
    asked = strata(schedule, len(x0), count, seed)
    errors = error_table(predict_noise, schedule, x0, asked.times, seed)
    decoder = decoder_nats(predict_noise, schedule, x0, variance, seed, draws)
    return assemble(schedule, x0.double().cpu().square().flatten(1).mean(1), asked, errors, decoder, variance)


def check_pictures(schedule: NoiseSchedule, x0: Tensor, variance: Tensor) -> None:
    """LabError unless x0 are 8-bit pictures and there is a variance above 0 for each step."""
    bins = (x0.double() + 1) / (2 * HALF_STEP)
    if x0.ndim != 4 or not len(x0) or not bool((x0.abs() <= 1).all()) or not bool(((bins - bins.round()).abs() < 1e-3).all()):
        raise LabError(f"pictures {tuple(x0.shape)}: a bound in bits is for (N, C, H, W) of the 256 levels k / 127.5 - 1")
    if len(variance) != schedule.timesteps + 1 or not bool((variance[1:] > 0).all()):
        raise LabError(f"variance has {len(variance)} entries, but must have {schedule.timesteps + 1}, all above 0 from t = 1 on")


# The probability-flow ODE


def ode_bits(
    predict_noise: Predictor, schedule: NoiseSchedule, x0: Tensor, num_steps: int = 50, seed: int = 0
) -> Tensor:
    """-log2 p per value (N,) of 8-bit pictures as the ODE sees it: a cross-check, no bound (Song et al. 2020, arXiv 2011.13456, section 4.3).

    Each value is spread evenly over its bin first (uniform dequantisation), and a density knows no open end at -1 and 1:
    on sprites, with their white background, it says some tenths of a bit more than the bound.
    """
    spread = torch.rand(x0.shape, generator=numbered(seed, 0)).to(x0) - 0.5
    nats = ode_nats(predict_noise, schedule, x0 + 2 * HALF_STEP * spread, num_steps, seed)
    return nats / (x0[0].numel() * log(2)) - log(2 * HALF_STEP) / log(2)


def ode_nats(
    predict_noise: Predictor, schedule: NoiseSchedule, x0: Tensor, num_steps: int = 50, seed: int = 0, exact: bool = False
) -> Tensor:
    """-log density of pictures x0, in nats, float64 (N,), where signal_scale x0 is what the ODE reaches at t = 1.

    With the angle a of cos a = signal_scale the ODE is dx_t/da = velocity (Salimans and Ho 2022). Heun's method,
    2 num_steps calls. The divergence is probed by one vector of random signs a call; `exact` asks each value alone (few values!).
    """
    grid, angle = log_snr(schedule, num_steps + 1)[-2::-1], schedule.signal_scale.acos()
    x, stretch, generator = schedule.signal_scale[1].item() * x0, torch.zeros(len(x0), dtype=torch.float64), numbered(seed, 1)
    for t, t_next in pairwise(grid):
        step = (angle[t_next] - angle[t]).item()
        first, first_div = velocity(predict_noise, schedule, x, t, probes(x0, generator, exact))
        last, last_div = velocity(predict_noise, schedule, x + step * first, t_next, probes(x0, generator, exact))
        x, stretch = x + step / 2 * (first + last), stretch + step / 2 * (first_div + last_div)
    noise_nats = (x.double().cpu().square() + log(2 * pi)).flatten(1).sum(1) / 2
    return noise_nats - stretch - x0[0].numel() * schedule.signal_scale[1].log()


def probes(x: Tensor, generator: torch.Generator, exact: bool) -> Tensor:
    """Vectors v with mean of v v' = 1, (P, ...) for the shape of x: one of random signs for each picture, or all directions."""
    if exact:
        count = x[0].numel()
        return (torch.eye(count).to(x) * count**0.5).reshape(count, 1, *x.shape[1:]).expand(-1, len(x), *[-1] * (x.ndim - 1))
    return (torch.randint(0, 2, (1, *x.shape), generator=generator) * 2 - 1).to(x)


def velocity(predict_noise: Predictor, schedule: NoiseSchedule, x_t: Tensor, t: int, directions: Tensor) -> tuple[Tensor, Tensor]:
    """signal_scale noise - noise_scale x0 by the predictor, and its divergence with respect to x_t, float64 (N,)."""
    signal, spread = (table[t].item() for table in (schedule.signal_scale, schedule.noise_scale))
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        noise = predict_noise(x_t, torch.full((len(x_t),), t, dtype=torch.int64, device=x_t.device))
        answer = (noise - spread * x_t) / signal
        grown = [torch.autograd.grad(answer, x_t, v, retain_graph=True)[0] * v for v in directions]
    return answer.detach(), sum(each.double().cpu().flatten(1).sum(1) for each in grown) / len(grown)


# Class probabilities


class Classes(NamedTuple):
    """Of N sprites: `probabilities` of each of K classes, rows that sum to 1, from the mean squared noise `errors`, float64 (N, K).

    `calls`: how often the network looked at each sprite.
    """

    probabilities: Tensor
    errors: Tensor
    calls: int


def classify(
    model: Callable[[Tensor, Tensor, Tensor | None], Tensor], schedule: NoiseSchedule, x0: Tensor, contexts: Tensor,
    times: Tensor | None = None, sharpness: float = 2000.0, seed: int = 0,
) -> Classes:
    """Which context explains a sprite best? The one that makes the least noise error (Li et al. 2023, arXiv 2303.16203).

    x0 (N, C, H, W), contexts (K, C'), times (S,): S * K calls, with the same noise for all K. By default 20 timesteps from
    T/5 to 3T/5, where classes differ most. All classes are as likely beforehand; p is softmax(-sharpness * mean error).
    """
    T, sharpness = schedule.timesteps, check_number("sharpness", sharpness, 0, 1e9)
    times = torch.linspace(T / 5, 3 * T / 5, 20).round().long().clamp(min=1) if times is None else times
    tables = [error_table(conditioned(model, context), schedule, x0, times, seed) for context in contexts]
    errors = torch.stack([table.mean(1) for table in tables], 1)
    return Classes((-sharpness * errors).softmax(1), errors, len(times) * len(contexts))
