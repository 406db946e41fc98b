"""How much signal and how much noise a picture holds at each timestep t = 0 (clean) .. T (noise)."""

from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Tensor

from sprites_lab.errors import LabError
from sprites_lab.settings import check_number, check_whole, shown

MOST_TIMESTEPS = 100_000


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The noise added per step, `beta`, and the share of signal power left, `alpha_bar`; both float64 (T + 1,).

    beta[0] = 0 and alpha_bar[0] = 1 exactly: t = 0 is the clean picture.
    """

    beta: Tensor
    alpha_bar: Tensor
    name: str = "custom"

    @property
    def timesteps(self) -> int:
        """T, the number of noise levels above the clean picture."""
        return len(self.beta) - 1

    @property
    def signal_scale(self) -> Tensor:
        """sqrt(alpha_bar), float64 (T + 1,): the factor of x0 in x_t."""
        return self.alpha_bar.sqrt()

    @property
    def noise_scale(self) -> Tensor:
        """sqrt(1 - alpha_bar), float64 (T + 1,): the factor of the noise in x_t."""
        return (1 - self.alpha_bar).sqrt()

    def scales(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """(signal_scale, noise_scale) at t, ready to multiply pictures `like` (B, ...), in their dtype and device."""
        return tuple(at(table, t, like) for table in (self.signal_scale, self.noise_scale))

    def add_noise(self, x0: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """Jump from x0 to x_t = signal_scale[t] * x0 + noise_scale[t] * noise (Ho et al. 2020, equation 4).

        x0 and noise (B, ...); t integers 0..T, (B,) or one number for all; the result has the shape and dtype of x0.
        """
        signal, spread = self.scales(t, x0)
        return signal * x0 + spread * noise

    def guess_x0(self, x_t: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """The clean picture behind x_t if `noise` is the noise in it: add_noise solved for x0; t integers 0..T."""
        signal, spread = self.scales(t, x_t)
        return (x_t - spread * noise) / signal

    def guess_noise(self, x_t: Tensor, t: Tensor | int, x0: Tensor) -> Tensor:
        """The noise in x_t if x0 is the clean picture: add_noise solved for the noise; t integers 1..T."""
        signal, spread = self.scales(t, x_t)
        return (x_t - signal * x0) / spread

    def spaced(self, num_steps: int) -> list[int]:
        """num_steps + 1 distinct timesteps from T down to 0, as even as whole numbers allow; num_steps in 1..T."""
        n, T = check_whole("num_steps", num_steps, 1, self.timesteps, "the schedule's T"), self.timesteps
        return [(2 * T * i + n) // (2 * n) for i in range(n, -1, -1)]  # T*i/n, rounded half up


def at(table: Tensor, t: Tensor | int, like: Tensor) -> Tensor:
    """Entries t of a float64 table (T + 1,), cast and shaped to multiply pictures `like` (B, ...)."""
    try:
        values = table.to(like.dtype).to(like.device)[t]
    except IndexError:
        raise LabError(f"t is {shown(t)}, but must hold whole numbers from 0 to {len(table) - 1}, the schedule's T") from None
    return values.reshape(-1, *[1] * (like.ndim - 1)) if values.ndim else values


def linear_schedule(timesteps: int = 500, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
    """The course's schedule: beta_t = beta_start + (beta_end - beta_start) t/T for t = 1..T (Ho et al. 2020, section 4)."""
    timesteps = check_whole("timesteps", timesteps, 1, MOST_TIMESTEPS)
    beta_start, beta_end = check_number("beta_start", beta_start, 0, 1), check_number("beta_end", beta_end, 0, 1)
    if not 0 < beta_start <= beta_end < 1:
        raise LabError(f"beta_start={beta_start}, beta_end={beta_end}: needed is 0 < beta_start <= beta_end < 1")
    t = torch.arange(timesteps + 1, dtype=torch.float64)
    return from_beta(beta_start + (beta_end - beta_start) * t / timesteps, f"linear T={timesteps} beta={beta_start:g}..{beta_end:g}")


def cosine_schedule(timesteps: int = 500, offset: float = 0.008, beta_max: float = 0.999) -> NoiseSchedule:
    """alpha_bar follows a squared cosine; beta is clipped at beta_max (Nichol and Dhariwal 2021, equation 17)."""
    timesteps = check_whole("timesteps", timesteps, 1, MOST_TIMESTEPS)
    offset = check_number("offset", offset, 0, 1, "Nichol and Dhariwal use 0.008")
    beta_max = check_number("beta_max", beta_max, 1e-6, 1 - 1e-6, "Nichol and Dhariwal use 0.999")
    level = [cos((t / timesteps + offset) / (1 + offset) * pi / 2) ** 2 for t in range(timesteps + 1)]
    beta = [0.0] + [min(1 - level[t] / level[t - 1], beta_max) for t in range(1, timesteps + 1)]
    return from_beta(torch.tensor(beta, dtype=torch.float64), f"cosine T={timesteps} offset={offset:g}")


def from_beta(beta: Tensor, name: str = "custom") -> NoiseSchedule:
    """A schedule from the noise per step, (T + 1,); entry 0 is set to 0, the rest must lie in (0, 1)."""
    beta = beta.detach().double().cpu().clone()
    if beta.ndim != 1 or len(beta) < 2 or not ((beta[1:] > 0) & (beta[1:] < 1)).all():
        raise LabError("beta must be a row of T + 1 numbers, those after the first between 0 and 1")
    beta[0] = 0
    return NoiseSchedule(beta, (1 - beta).cumprod(0), name)
