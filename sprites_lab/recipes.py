"""Two ways to train the same kind of network: the course's, and a better one. A recipe is what they differ in."""

from collections.abc import Callable
from typing import NamedTuple

from sprites_lab.errors import LabError
from sprites_lab.schedule import NoiseSchedule, linear_schedule
from sprites_lab.training import DrawTimesteps, Loss, Rate, linear_fall, min_snr_loss, noise_loss, stratified_t, uniform_t, warm_cosine


class Recipe(NamedTuple):
    """The levers of a training, all of them at the course's values."""

    rich_time: bool = False
    schedule: Callable[[int], NoiseSchedule] = linear_schedule
    loss: Loss = noise_loss
    draw_t: DrawTimesteps = uniform_t
    rate_factor: Rate = linear_fall


def course_recipe() -> Recipe:
    """The original's, with only its defects repaired."""
    return Recipe()


def improved_recipe() -> Recipe:
    """The network sees t as waves, in the encoder too; easy timesteps count less; no batch is all easy; the rate warms up."""
    return Recipe(rich_time=True, loss=min_snr_loss, draw_t=stratified_t, rate_factor=warm_cosine)


def recipe_called(name: str) -> Recipe:
    """The recipe by which a run was started."""
    made = {"course": course_recipe, "improved": improved_recipe}
    if name not in made:
        raise LabError(f"there is no recipe '{name}'; there are: {', '.join(made)}")
    return made[name]()
