"""Samplers: generators that walk from pure noise x_T to pictures by asking a noise predictor."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from sprites_lab.errors import LabError
from sprites_lab.predictors import Predictor
from sprites_lab.schedule import NoiseSchedule, at
from sprites_lab.settings import check_number
from sprites_lab.spacing import Spacing, trailing

Generators = torch.Generator | Sequence[torch.Generator] | None


class Step(NamedTuple):
    """One step of a walk: the timestep just reached, the pictures there, and the guess at the clean ones."""

    t: int
    x_t: Tensor
    x0: Tensor


def ddpm(
    predict_noise: Predictor, schedule: NoiseSchedule, x_T: Tensor, noise_amount: float = 1.0, generator: Generators = None
) -> Iterator[Step]:
    """Denoise in all T steps, adding a little fresh noise after each but the last (Ho et al. 2020, algorithm 2).

    x_T (B, C, H, W) standard normal. `generator`: one for the batch, one for each picture, or None for a new random one.
    noise_amount 1 is right; 0 adds none and shows why the noise is needed.
    """
    noise_amount = check_number("noise_amount", noise_amount, 0, 100, "1 is right")
    generator, x_t = generator or new_generator(), x_T
    for t in range(schedule.timesteps, 0, -1):
        noise = ask(predict_noise, x_t, t)
        x0 = schedule.guess_x0(x_t, t, noise)
        x_t = ddpm_mean(schedule, x_t, t, noise)
        if t > 1:  # the last step lands on the picture
            x_t = x_t + noise_amount * at(schedule.beta.sqrt(), t, x_t) * fresh_noise(x_t, generator)
        yield Step(t - 1, x_t, x0)


def ddpm_mean(schedule: NoiseSchedule, x_t: Tensor, t: int, noise: Tensor) -> Tensor:
    """The mean of x_{t-1} given x_t and the predicted noise (Ho et al. 2020, equation 11)."""
    removed = at(schedule.beta / schedule.noise_scale, t, x_t) * noise
    return (x_t - removed) / at((1 - schedule.beta).sqrt(), t, x_t)


def ddim(
    predict_noise: Predictor, schedule: NoiseSchedule, x_T: Tensor, num_steps: int = 20, eta: float = 0.0,
    generator: Generators = None, spacing: Spacing = trailing,
) -> Iterator[Step]:
    """Denoise in num_steps <= T steps by guessing x0 and noising it again, less (Song et al. 2020, equation 12).

    x_T (B, C, H, W) standard normal. eta 0: no fresh noise, the same x_T gives the same picture; eta 1 with T steps:
    DDPM with its posterior variance. `generator` as in `ddpm`, used only where eta > 0. `spacing` picks the timesteps.
    """
    eta = check_eta(eta)
    generator, x_t = generator or new_generator(), x_T
    for t, t_next in pairwise(spacing(schedule, num_steps)):
        noise = ask(predict_noise, x_t, t)
        x0 = schedule.guess_x0(x_t, t, noise)
        x_t = ddim_step(schedule, t, t_next, x0, noise, eta, generator)
        yield Step(t_next, x_t, x0)


def ddim_step(
    schedule: NoiseSchedule, t: int, t_next: int, x0: Tensor, noise: Tensor, eta: float = 0.0, generator: Generators = None
) -> Tensor:
    """The guess x0 with noise for t_next: mostly the noise predicted at t, a share of `eta` drawn afresh."""
    now, then = schedule.alpha_bar[t], schedule.alpha_bar[t_next]
    fresh = eta * ((1 - then) / (1 - now) * (1 - now / then)).clamp(min=0).sqrt()  # none on a step towards more noise
    kept = (1 - then - fresh**2).clamp(min=0).sqrt()
    x_t = at(schedule.signal_scale, t_next, x0) * x0 + kept.to(x0) * noise
    return x_t + fresh.to(x0) * fresh_noise(x0, generator) if fresh > 0 else x_t


def check_eta(eta: float) -> float:
    """The share of fresh noise; LabError for one that cannot be meant."""
    return check_number("eta", eta, 0, 1, "0: no fresh noise, 1: as noisy as DDPM")


def ask(predict_noise: Predictor, x_t: Tensor, t: int) -> Tensor:
    """One call of the predictor at timestep t for the whole batch, without gradients."""
    with torch.no_grad():
        return predict_noise(x_t, torch.full((len(x_t),), t, dtype=torch.int64, device=x_t.device))


def fresh_noise(x: Tensor, generator: Generators) -> Tensor:
    """Standard normal noise like x, drawn in float32 on the generator's device, so that a CPU seed serves every device.

    A list of generators gives each picture its own: picture i is then the same in any batch. None: a new random one.
    """
    generator = generator or new_generator()
    if isinstance(generator, torch.Generator):
        return torch.randn(x.shape, generator=generator, device=generator.device).to(x)
    if len(generator) != len(x):
        raise LabError(f"{len(generator)} generators for {len(x)} pictures: give one for each picture, or one for all")
    return torch.stack([fresh_noise(picture, one) for picture, one in zip(x, generator)])


def new_generator() -> torch.Generator:
    """A CPU generator with a random seed; the global random state is left alone."""
    generator = torch.Generator()
    generator.seed()
    return generator


def final(steps: Iterator[Step]) -> Tensor:
    """Walk to the end and return the finished pictures (B, C, H, W)."""
    step = None
    for step in steps:
        pass
    if step is None:
        raise LabError("the walk has no steps; give `final` a sampler that was not run before")
    return step.x_t
