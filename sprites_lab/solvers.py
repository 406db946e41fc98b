"""Samplers that remember: each step also uses what the network said before, and so ten calls do the work of many.

Same arguments as `samplers.ddim`. All arithmetic is in the dtype of x_T, all coefficients come from float64 tables.
"""

from collections.abc import Iterator
from itertools import pairwise
from math import expm1

import torch
from torch import Tensor

from sprites_lab.predictors import Predictor
from sprites_lab.samplers import Generators, Step, ask, check_eta, ddim_step, new_generator
from sprites_lab.schedule import NoiseSchedule, at
from sprites_lab.settings import check_whole
from sprites_lab.spacing import Spacing, noise_to_signal, trailing

ADAMS_BASHFORTH = {1: (1,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}


def dpm_solver(
    predict_noise: Predictor, schedule: NoiseSchedule, x_T: Tensor, num_steps: int = 10, eta: float = 0.0,
    generator: Generators = None, spacing: Spacing = trailing,
) -> Iterator[Step]:
    """DDIM whose guess at x0 is carried on to the middle of the step, along the last two guesses: DPM-Solver++(2M).

    Lu et al. 2022 (arXiv 2211.01095), algorithm 2; with eta 1 their stochastic form, 2M SDE (section 5). Order 2 in the
    step of log(signal_scale / noise_scale). The first step and the jump to t = 0 are DDIM's.
    """
    eta = check_eta(eta)
    generator, x_t, before, last_stride = generator or new_generator(), x_T, None, None
    log_ratio = -noise_to_signal(schedule).log()
    for t, t_next in pairwise(spacing(schedule, num_steps)):
        guess = x0 = schedule.guess_x0(x_t, t, ask(predict_noise, x_t, t))
        stride = (log_ratio[t_next] - log_ratio[t]).item()
        if before is not None and t_next > 0:
            guess = x0 + (x0 - before) * (stride / (2 * last_stride))
        x_t = ddim_step(schedule, t, t_next, guess, schedule.guess_noise(x_t, t, guess), eta, generator)
        before, last_stride = x0, stride
        yield Step(t_next, x_t, x0)


def ipndm(
    predict_noise: Predictor, schedule: NoiseSchedule, x_T: Tensor, num_steps: int = 10, order: int = 4,
    generator: Generators = None, spacing: Spacing = trailing,
) -> Iterator[Step]:
    """DDIM with a blend of the last `order` predicted noises, by the weights of Adams and Bashforth for even steps.

    Zhang and Chen 2022 (arXiv 2204.13902), iPNDM; `order` 1 to 4. Takes no fresh noise: `generator` is not used.
    """
    order = check_order(order, tuple(ADAMS_BASHFORTH))
    x_t, said = x_T, []
    for t, t_next in pairwise(spacing(schedule, num_steps)):
        said = [ask(predict_noise, x_t, t), *said[: order - 1]]  # the newest first
        x0 = schedule.guess_x0(x_t, t, said[0])
        weights = ADAMS_BASHFORTH[len(said) if t_next > 0 else 1]
        noise = sum(weight * one for weight, one in zip(weights, said))
        x_t = ddim_step(schedule, t, t_next, schedule.guess_x0(x_t, t, noise), noise)
        yield Step(t_next, x_t, x0)


def unipc(
    predict_noise: Predictor, schedule: NoiseSchedule, x_T: Tensor, num_steps: int = 10, order: int = 3,
    generator: Generators = None, spacing: Spacing = trailing,
) -> Iterator[Step]:
    """Predict a step, and correct it once the network has been asked at its end, for the next step anyway: UniPC.

    Zhao et al. 2023 (arXiv 2302.04867), algorithms 7 and 8 with B(h) = exp(h) - 1, guesses at x0; `order` 1 to 3 of the
    predictor, one more with the corrector. Takes no fresh noise: `generator` is not used.
    """
    order = check_order(order, (1, 2, 3))
    x_t, known, last_step = x_T, [], None  # known: (timestep, guess at x0), the newest first
    for t, t_next in pairwise(spacing(schedule, num_steps)):
        x0 = schedule.guess_x0(x_t, t, ask(predict_noise, x_t, t))
        if last_step is not None:
            x_t = unipc_step(*last_step, there=x0)  # the correction; the guess is not asked for again
        known = [(t, x0), *known[: order - 1]]
        last_step = schedule, x_t, known, t_next
        x_t = unipc_step(*last_step) if t_next > 0 else x0
        yield Step(t_next, x_t, x0)


def unipc_step(schedule: NoiseSchedule, x_t: Tensor, known: list[tuple[int, Tensor]], t_next: int, there: Tensor | None = None) -> Tensor:
    """From x_t, at the timestep of the newest guess, to t_next >= 1; corrected if the guess `there`, at t_next, is known."""
    log_ratio = -noise_to_signal(schedule).log()
    (t, x0), *older = known
    stride = (log_ratio[t_next] - log_ratio[t]).item()
    places = [(log_ratio[s] - log_ratio[t]).item() / stride for s, _ in older]  # where the slopes were taken; the step ends at 1
    slopes = [(guess - x0) / place for (_, guess), place in zip(older, places)]
    if there is not None:
        places, slopes = [*places, 1.0], [*slopes, there - x0]
    guess = x0 + sum(weight * slope for weight, slope in zip(unipc_weights(places, stride), slopes))
    shrunk = (schedule.noise_scale[t_next] / schedule.noise_scale[t]).item() * x_t
    return shrunk - at(schedule.signal_scale, t_next, x_t) * expm1(-stride) * guess


def unipc_weights(places: list[float], stride: float) -> list[float]:
    """How much the slope at each place counts (the paper's equation 11); one slope alone: a half, as the authors choose."""
    if len(places) < 2:
        return [0.5] * len(places)
    wanted, integral, factorial = [], expm1(-stride) / -stride - 1, 1
    for i in range(1, len(places) + 1):
        wanted.append(integral * factorial / expm1(-stride))
        factorial *= i + 1
        integral = integral / -stride - 1 / factorial
    powers = torch.tensor([[place**i for place in places] for i in range(len(places))], dtype=torch.float64)
    return torch.linalg.solve(powers, torch.tensor(wanted, dtype=torch.float64)).tolist()


def check_order(order: int, there: tuple[int, ...]) -> int:
    """The order; LabError for one that a solver does not have."""
    return check_whole("order", order, min(there), max(there))
