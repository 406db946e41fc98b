"""Few-step students: a copy of the network learns to reach in a few steps what its teacher reaches in many.

After Zhou, Chen, Wang, Chen, Lyu 2024, "Simple and Fast Distillation of Diffusion Models" (arXiv 2409.19681): the teacher
walks once, deterministically, and the student must pass through the same pictures with a step of DDIM between each two.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from sprites_lab.chance import seeded
from sprites_lab.errors import LabError
from sprites_lab.samplers import Step, ddim_step
from sprites_lab.schedule import NoiseSchedule, at
from sprites_lab.training import Progress, TrainingState, update_average


class Lessons(NamedTuple):
    """Where a teacher's walks came by: timesteps, falling from T to 0, states (N, len(times), C, H, W), contexts (N, K)."""

    times: list[int]
    states: Tensor
    contexts: Tensor

    def thinned(self, num_steps: int) -> "Lessons":
        """The lessons of a student with fewer steps: every so many states of the same walks."""
        there = len(self.times) - 1
        if num_steps < 1 or there % num_steps:
            raise LabError(f"a walk of {there} steps cannot be cut into {num_steps} equal ones")
        every = there // num_steps
        return Lessons(self.times[::every], self.states[:, ::every], self.contexts)


def teach(walk: Iterator[Step], x_T: Tensor, every: int) -> Tensor:
    """The states of the teacher's walk from x_T (B, C, H, W) that its student passes: x_T and each `every`-th, (B, n + 1, C, H, W)."""
    return torch.stack([x_T, *(step.x_t for number, step in enumerate(walk, start=1) if number % every == 0)], 1)


def draw_contexts(count: int, classes: int, generator: torch.Generator) -> Tensor:
    """What students are asked to draw (count, classes): mostly one class, sometimes a mixture of two, sometimes nothing."""
    first, second = torch.eye(classes)[torch.randint(classes, (2, count), generator=generator)]
    share, chance = torch.rand(2, count, 1, generator=generator)
    mixed = torch.where(chance < 0.1, first.lerp(second, share), first)
    return mixed * (chance < 0.9)


def distil(
    state: TrainingState, schedule: NoiseSchedule, lessons: Lessons, epochs: int, batch_size: int = 50, learning_rate: float = 1e-3,
    average_decay: float = 0.999, seed: int = 0, autocast: torch.dtype | None = None,
) -> Iterator[Progress]:
    """Train state.model, a copy of the teacher, on the lessons; one batch after the other, its loss summed over the student's steps.

    The student starts each step from where its own last one ended, without gradient, so it learns to make up for its errors.
    Batch norm keeps the teacher's statistics. The learning rate falls to 0 in a straight line. Goes on where state.updates says.
    """
    count = len(lessons.states)
    per_epoch = -(-count // batch_size)
    for update in range(state.updates, epochs * per_epoch):
        epoch, position = divmod(update, per_epoch)
        rows = torch.randperm(count, generator=seeded(seed, epoch, 0))[position * batch_size : (position + 1) * batch_size]
        rate = learning_rate * (1 - update / (epochs * per_epoch))
        value = follow(state, schedule, lessons.times, lessons.states[rows], lessons.contexts[rows], rate, autocast)
        update_average(state.average, state.model, min(average_decay, (1 + update) / (10 + update)))
        state.updates = update + 1
        yield Progress(state.updates, epoch, value, rate, position == per_epoch - 1)


def follow(
    state: TrainingState, schedule: NoiseSchedule, times: list[int], states: Tensor, context: Tensor, learning_rate: float, autocast: torch.dtype | None,
) -> float:
    """One walk of the student along the teacher's states (B, len(times), C, H, W), with an update after each step; the summed loss."""
    place, total = next(state.model.parameters()).device, 0.0
    states, context = states.to(place).float(), context.to(place)
    state.optimizer.param_groups[0]["lr"] = learning_rate
    x_t = states[:, 0]
    for number, (t, t_next) in enumerate(pairwise(times), start=1):
        with torch.autocast(place.type, autocast, enabled=autocast is not None):
            noise = state.model(x_t, torch.full((len(x_t),), t, device=place), context).float()
        x0 = schedule.guess_x0(x_t, t, noise)
        value = (x0 - right_guess(schedule, x_t, t, states[:, number], t_next)).abs().mean()
        if not value.isfinite():
            raise LabError(f"the loss became {value.item()} at update {state.updates + 1}; try a smaller learning rate")
        state.optimizer.zero_grad()
        value.backward()
        state.optimizer.step()
        total += value.item()
        x_t = ddim_step(schedule, t, t_next, x0, noise).detach()
    return total


def right_guess(schedule: NoiseSchedule, x_t: Tensor, t: int, wanted: Tensor, t_next: int) -> Tensor:
    """The guess at x0 with which a step of DDIM from x_t at t ends exactly at `wanted`, at t_next (Salimans and Ho 2022, appendix G)."""
    kept = (schedule.noise_scale[t_next] / schedule.noise_scale[t]).item()
    return (wanted - kept * x_t) / (at(schedule.signal_scale, t_next, x_t) - kept * at(schedule.signal_scale, t, x_t))
