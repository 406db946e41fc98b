"""Which timesteps a walk visits: functions (schedule, num_steps) -> num_steps + 1 falling whole numbers from T to 0.

Every spacing visits num_steps distinct timesteps and then jumps to 0. A wish between two timesteps goes to the nearest free
one; solvers take their coefficients there, so nothing is lost. `functools.partial` fixes the dials of a spacing.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sprites_lab.schedule import NoiseSchedule
from sprites_lab.settings import check_number, check_whole

Spacing = Callable[[NoiseSchedule, int], list[int]]


def trailing(schedule: NoiseSchedule, num_steps: int) -> list[int]:
    """Equal steps in t, as far from 0 as from each other (Lin et al. 2023, arXiv 2305.08891, section 3.3)."""
    return schedule.spaced(num_steps)


def quadratic(schedule: NoiseSchedule, num_steps: int) -> list[int]:
    """Equal steps in the square root of t: most of them where there is little noise (Song et al. 2020, DDIM, appendix D.2)."""
    return snapped(schedule, num_steps, schedule.timesteps * torch.linspace(1, 0, steps_of(schedule, num_steps) + 1).double()[:-1] ** 2)


def log_snr(schedule: NoiseSchedule, num_steps: int, t_min: int = 1) -> list[int]:
    """Equal steps in log(signal_scale / noise_scale) from T to t_min (DPM-Solver, Lu et al. 2022, arXiv 2206.00927)."""
    return snapped(schedule, num_steps, between(schedule, num_steps, t_min, lambda ratio: ratio.log(), lambda mapped: mapped.exp()))


def karras(schedule: NoiseSchedule, num_steps: int, t_min: int = 10, power: float = 7.0) -> list[int]:
    """Equal steps in (noise_scale / signal_scale)^(1 / power) from T to t_min (Karras et al. 2022, equation 5)."""
    power = check_number("power", power, 1e-3, 1000, "Karras et al. use 7")
    return snapped(schedule, num_steps, between(schedule, num_steps, t_min, lambda ratio: ratio ** (1 / power), lambda mapped: mapped**power))


def between(
    schedule: NoiseSchedule, num_steps: int, t_min: int, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
) -> Tensor:
    """num_steps timesteps, not yet whole, from T to t_min, evenly spaced in there(noise_scale / signal_scale)."""
    t_min = check_whole("t_min", t_min, 1, schedule.timesteps, "the schedule's T")
    ratio = noise_to_signal(schedule)[1:]
    first, last = there(ratio[-1]), there(ratio[t_min - 1])
    wanted = back(first + (last - first) * torch.linspace(0, 1, steps_of(schedule, num_steps), dtype=torch.float64))
    return torch.from_numpy(np.interp(wanted.log(), ratio.log(), np.arange(1, schedule.timesteps + 1)))


def snapped(schedule: NoiseSchedule, num_steps: int, wanted: Tensor) -> list[int]:
    """The nearest whole timesteps that are free: falling from T, none twice, with room for those to come, and then 0."""
    found = [schedule.timesteps + 1]
    for left, t in zip(range(steps_of(schedule, num_steps), 0, -1), wanted.tolist()):
        found.append(max(min(round(t), found[-1] - 1), left))
    return [schedule.timesteps, *found[2:], 0]


def steps_of(schedule: NoiseSchedule, num_steps: int) -> int:
    """num_steps, if the schedule has so many."""
    return len(schedule.spaced(num_steps)) - 1


def noise_to_signal(schedule: NoiseSchedule) -> Tensor:
    """noise_scale / signal_scale, float64 (T + 1,): 0 at t = 0, rising; -log of it is half the log-SNR."""
    return schedule.noise_scale / schedule.signal_scale
