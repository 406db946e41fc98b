"""Editing with the network that draws: vary a picture, keep a part of it, find its noise, walk between two noises or two wishes.

Nothing here knows a network: a predictor, a schedule and pictures come in, and a walk or noise comes out.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from math import pi
from typing import NamedTuple

import torch
from torch import Tensor

from sprites_lab.errors import LabError
from sprites_lab.predictors import Predictor, conditioned
from sprites_lab.samplers import Generators, Step, ask, check_eta, ddim, ddim_step, fresh_noise, new_generator
from sprites_lab.schedule import NoiseSchedule
from sprites_lab.settings import check_whole
from sprites_lab.spacing import Spacing, trailing

Sampler = Callable[..., Iterator[Step]]  # ddpm, ddim, dpm_solver ...; `functools.partial` fixes its dials


def renoise(
    predict_noise: Predictor, schedule: NoiseSchedule, picture: Tensor, t: int, sampler: Sampler = ddim, generator: Generators = None
) -> Iterator[Step]:
    """Noise pictures (B, C, H, W) up to t in 1..T and walk down from there: a sibling for a small t, a stranger for a large one.

    SDEdit (Meng et al. 2021, arXiv 2108.01073). `generator` serves the noise and the sampler, which takes at most t steps.
    """
    generator = generator or new_generator()
    below = up_to(schedule, t)
    return sampler(predict_noise, below, schedule.add_noise(picture, below.timesteps, fresh_noise(picture, generator)), generator=generator)


def up_to(schedule: NoiseSchedule, t: int) -> NoiseSchedule:
    """The part of a schedule up to timestep t in 1..T: every sampler then starts there."""
    t = check_whole("t", t, 1, schedule.timesteps, "the schedule's T")
    return NoiseSchedule(schedule.beta[: t + 1], schedule.alpha_bar[: t + 1], f"{schedule.name} up to {t}")


def inpaint(
    predict_noise: Predictor, schedule: NoiseSchedule, x_T: Tensor, picture: Tensor, keep: Tensor, num_steps: int = 50, repeats: int = 5,
    eta: float = 1.0, generator: Generators = None, spacing: Spacing = trailing,
) -> Iterator[Step]:
    """Draw what is missing of a picture: where `keep` is True, the last step holds its pixels bit for bit.

    RePaint (Lugmayr et al. 2022, arXiv 2201.09865, algorithm 1): the kept pixels are noised for each step; each step but the
    last is taken back and done again, `repeats` times in all, so that both parts come to fit. (num_steps - 1) * repeats + 1 calls.
    x_T (B, C, H, W) standard normal; picture and keep (bool) of that shape, or such as grow to it: (1, C, H, W), (H, W).
    """
    repeats, eta = check_whole("repeats", repeats, 1, 1000), check_eta(eta)
    keep, picture = fitting("keep", keep, x_T), fitting("picture", picture, x_T).to(x_T)
    if keep.dtype != torch.bool:
        raise LabError(f"keep holds {keep.dtype}, but must say True (keep this pixel) or False (draw it)")
    generator, x_t = generator or new_generator(), x_T
    for t, t_next in pairwise(spacing(schedule, num_steps)):
        for repeat in range(repeats if t_next > 0 else 1):
            if repeat:
                x_t = noise_on(schedule, x_t, t_next, t, generator)
            noise = ask(predict_noise, x_t, t)
            x0 = schedule.guess_x0(x_t, t, noise)
            drawn = ddim_step(schedule, t, t_next, x0, noise, eta, generator)
            x_t = torch.where(keep, schedule.add_noise(picture, t_next, fresh_noise(picture, generator)) if t_next > 0 else picture, drawn)
        yield Step(t_next, x_t, torch.where(keep, picture, x0))


def noise_on(schedule: NoiseSchedule, x_s: Tensor, s: int, t: int, generator: Generators) -> Tensor:
    """From x_s to the noisier x_t, s < t, by the forward process (Ho et al. 2020, equation 2, over several steps)."""
    kept = schedule.alpha_bar[t] / schedule.alpha_bar[s]
    return kept.sqrt().to(x_s) * x_s + (1 - kept).sqrt().to(x_s) * fresh_noise(x_s, generator)


def fitting(name: str, values: Tensor, like: Tensor) -> Tensor:
    """The values, grown to the shape of the pictures `like` and on their device; LabError where they do not fit."""
    try:
        return values.to(like.device).expand_as(like)
    except RuntimeError:
        raise LabError(f"{name} has the shape {tuple(values.shape)}, which does not grow to that of x_T, {tuple(like.shape)}") from None


class Code(NamedTuple):
    """The noise x_T that a picture was walked up to, and the noise predicted for each step, by the step's noisier end t."""

    x_T: Tensor
    said: dict[int, Tensor]


def invert(predict_noise: Predictor, schedule: NoiseSchedule, picture: Tensor, num_steps: int = 50, spacing: Spacing = trailing) -> Code:
    """Walk pictures (B, C, H, W) up to noise by DDIM's steps turned round: `ddim` from there gives nearly them, the better the more steps.

    Song et al. 2020 (arXiv 2010.02502), section 4.3. On the way up a step's noise is predicted at its cleaner end, on the way
    down at its noisier end: that is the error, of first order. t = 0 is no input of a network, so the first step is told t = 1.
    """
    x_t, said = picture, {}
    for s, t in pairwise(reversed(spacing(schedule, num_steps))):
        said[t] = ask(predict_noise, x_t, max(s, 1))
        x_t = ddim_step(schedule, s, t, schedule.guess_x0(x_t, s, said[t]), said[t])
    return Code(x_t, said)


def replay(said: dict[int, Tensor]) -> Predictor:
    """A predictor that says again what was recorded at each t: `ddim` with it undoes `invert` but for rounding."""

    def predict_noise(x_t: Tensor, t: Tensor) -> Tensor:
        if (now := int(t[0])) not in said:
            raise LabError(f"nothing was recorded at t={now}, only at {', '.join(map(str, said))}: walk down by the steps of the way up")
        return said[now]

    return predict_noise


def slerp(one: Tensor, other: Tensor, share: Tensor | float) -> Tensor:
    """The points `share` (a number, or (B,)) of the way along the arc from one to other, (B or 1, ...): noise between two noises.

    Shoemake 1985, section 3.3, on each picture as one long arrow. Equal lengths stay, while on a line the middle of two noises is 0.71
    as long. Same direction: the line. Opposite ones, with no shortest arc: half a turn by way of one fixed arrow at right angles.
    """
    a, b = (end.double().flatten(1) for end in (one, other))
    lengths = [end.norm(dim=1, keepdim=True) for end in (a, b)]
    if a.shape[1] != b.shape[1] or not all(((length > 0) & length.isfinite()).all() for length in lengths):
        raise LabError("slerp needs two arrows of one size, each with a direction: finite, and not all zeros")
    unit, goal = a / lengths[0], b / lengths[1]
    u = torch.as_tensor(share, dtype=torch.float64, device=a.device).reshape(-1, 1)
    angle = 2 * torch.atan2((unit - goal).norm(dim=1, keepdim=True), (unit + goal).norm(dim=1, keepdim=True))
    arc = sum(part * (part * angle / pi).sinc() / (angle / pi).sinc() * end for part, end in ((1 - u, a), (u, b)))
    turn = lengths[0].lerp(lengths[1], u) * ((pi * u).cos() * unit + (pi * u).sin() * aside(unit))
    return torch.where(pi - angle < 1e-6, turn, arc).reshape(-1, *one.shape[1:]).to(one)


def aside(unit: Tensor) -> Tensor:
    """A fixed arrow of length 1 at right angles to each of the arrows (B, D) of length 1: the axis they have least of, made upright."""
    axis = torch.zeros_like(unit).scatter_(1, unit.abs().argmin(1, keepdim=True), 1.0)
    upright = axis - (axis * unit).sum(1, keepdim=True) * unit
    return upright / upright.norm(dim=1, keepdim=True)


def morph(
    model: Callable[[Tensor, Tensor, Tensor | None], Tensor], schedule: NoiseSchedule, x_T: Tensor, one: Tensor, other: Tensor, count: int = 9,
    sampler: Sampler = partial(ddim, num_steps=25),
) -> Iterator[Step]:
    """One noise x_T (1, C, H, W), `count` contexts from one (K,) to other (K,) in even steps: count pictures that turn into each other.

    A sampler that adds noise would draw other noise for each picture; give it generators of one seed, `partial(ddpm, generator=[...])`.
    """
    if x_T.ndim != 4 or len(x_T) != 1:
        raise LabError(f"a morph starts all its pictures from one noise (1, C, H, W), but x_T is {tuple(x_T.shape)}")
    contexts = between(one, other, count)
    return sampler(conditioned(model, contexts), schedule, x_T.repeat(len(contexts), 1, 1, 1))


def between(one: Tensor, other: Tensor, count: int) -> Tensor:
    """`count` contexts (count, K) in even steps from one (K,) to other (K,), both ends included."""
    count = check_whole("count", count, 2, 1000)
    if one.ndim != 1 or one.shape != other.shape:
        raise LabError(f"a morph goes from one context (K,) to another, but these are {tuple(one.shape)} and {tuple(other.shape)}")
    return one.lerp(other, torch.linspace(0, 1, count, device=one.device).to(one)[:, None])
