"""Two ways to train the same kind of network, the course's and a better one, and the levers in which they differ."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch

from sprites_lab.data import SpriteSet
from sprites_lab.errors import LabError
from sprites_lab.levers import forgotten_root_loss, min_snr_loss, stratified_t, velocity_loss, warm_cosine
from sprites_lab.muon import Muon
from sprites_lab.schedule import NoiseSchedule, cosine_schedule, linear_schedule
from sprites_lab.training import DrawTimesteps, Loss, Progress, Rate, TrainingState, linear_fall, noise_loss, train, uniform_t
from sprites_lab.unet import OPTIONS, ContextUnet


class Recipe(NamedTuple):
    """The levers of a training, all of them at the course's values."""

    rich_time: bool = False  # the first three belong to the network, see ContextUnet
    velocity: bool = False
    group_norm: bool = False
    schedule: Callable[[int], NoiseSchedule] = linear_schedule
    loss: Loss = noise_loss
    draw_t: DrawTimesteps = uniform_t
    rate_factor: Rate = linear_fall
    batch_size: int = 100
    learning_rate: float = 1e-3
    mirrored: bool = False  # half of the time, except for the class that faces one way
    muon: bool = False

    def network(self, schedule: NoiseSchedule, features: int = 64, context_size: int = 5, height: int = 16) -> ContextUnet:
        """An untrained network as this recipe has it, for the schedule."""
        made = ContextUnet(features, context_size, height, 3, schedule.timesteps, *(getattr(self, option) for option in OPTIONS))
        return made.follow(schedule.signal_scale, schedule.noise_scale)

    def state(self, model: ContextUnet, device: torch.device | str = "cpu", autocast: torch.dtype | None = None) -> TrainingState:
        """The state of a training that begins with `model`, with this recipe's optimiser."""
        optimizer = partial(Muon, dtype=autocast or torch.float32) if self.muon else torch.optim.Adam
        return TrainingState(model.to(memory_format=torch.channels_last), device, optimizer)  # the layout that convolutions are fastest in

    def train(self, state: TrainingState, schedule: NoiseSchedule, sprites: SpriteSet, device: torch.device | str = "cpu", **more: Any) -> Iterator[Progress]:
        """`training.train` on sprites with these levers; `more` are its other arguments."""
        names = sprites.class_names
        faces = names.index("side-facing") if "side-facing" in names else -1
        may_mirror = torch.as_tensor(sprites.labels != faces, device=device) if self.mirrored else None
        levers = dict(batch_size=self.batch_size, learning_rate=self.learning_rate, loss=self.loss, draw_t=self.draw_t, rate_factor=self.rate_factor, may_mirror=may_mirror)
        return train(state, schedule, sprites.pictures(device), sprites.contexts(device), **levers | more)


def course_recipe() -> Recipe:
    """The original's, with only its defects repaired."""
    return Recipe()


def improved_recipe() -> Recipe:
    """Levers that work well together; chapter 4 shows what each does alone (the larger rate, by itself, does harm)."""
    return Recipe(velocity=True, loss=velocity_loss, draw_t=stratified_t, muon=True, batch_size=50, learning_rate=2e-3)


LEVERS: dict[str, dict[str, Any]] = {  # one change each to the course's recipe
    "rich-time": dict(rich_time=True),
    "min-snr": dict(loss=min_snr_loss),
    "velocity": dict(velocity=True, loss=velocity_loss),
    "stratified-t": dict(draw_t=stratified_t),
    "warm-cosine": dict(rate_factor=warm_cosine),
    "small-batches": dict(batch_size=50),
    "larger-rate": dict(learning_rate=2e-3),
    "mirrored": dict(mirrored=True),
    "cosine-schedule": dict(schedule=cosine_schedule),
    "doubled-noise": dict(schedule=partial(linear_schedule, beta_start=2e-4, beta_end=0.04)),
    "group-norm": dict(group_norm=True),
    "muon": dict(muon=True),
}
MISTAKES: dict[str, dict[str, Any]] = {"forgotten-root": dict(loss=forgotten_root_loss)}  # pulled to see what they cost


def recipe_called(name: str) -> Recipe:
    """The recipe by which a run was started: course, improved, or one of them with levers, as in course+velocity+min-snr."""
    first, *levers = name.split("+")
    made = {"course": course_recipe, "improved": improved_recipe}
    if first not in made:
        raise LabError(f"there is no recipe '{first}'; there are: {', '.join(made)}")
    recipe, known = made[first](), LEVERS | MISTAKES
    for lever in levers:
        if lever not in known:
            raise LabError(f"there is no lever '{lever}'; there are: {', '.join(known)}")
        recipe = recipe._replace(**known[lever])
    return recipe
