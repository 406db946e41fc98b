"""A walk by name: sampler, steps, spacing, start and guidance, as the commands `sample` and `evaluate` take them."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from sprites_lab.checkpoints import Checkpoint, sha256_of, sprites_file
from sprites_lab.data import load_sprites
from sprites_lab.errors import LabError
from sprites_lab.predictors import Predictor
from sprites_lab.samplers import Generators, Step, ddim, ddpm
from sprites_lab.schedule import NoiseSchedule
from sprites_lab.settings import check_number, check_whole
from sprites_lab.solvers import dpm_solver, ipndm, unipc
from sprites_lab.spacing import karras, log_snr, quadratic, trailing
from sprites_lab.start import FittedStart

STEPPERS = {"ddim": ddim, "dpm-solver": dpm_solver, "ipndm": ipndm, "unipc": unipc}  # samplers that take a number of steps
STEPS = {"ddim": 20, "dpm-solver": 7, "ipndm": 10, "unipc": 10}
NOISY = ("ddim", "dpm-solver")  # those that take eta
SAMPLERS = ("ddpm", *STEPPERS)
SPACINGS = {"trailing": trailing, "quadratic": quadratic, "log-snr": log_snr, "karras": karras}
STARTS = ("noise", "fitted")
TYPES = dict(sampler=(str,), steps=(int,), eta=(int, float), scale=(int, float), spacing=(str,), start=(str,))  # of a walk in a file


class Walk(NamedTuple):
    """How sprites are walked to. steps: None is the sampler's usual number; eta: share of fresh noise; scale: guidance.

    What else is None is for `checked` to fill in: a student's file says how it walks.
    """

    sampler: str | None = None
    steps: int | None = None
    eta: float | None = None
    scale: float = 1.0
    spacing: str | None = None
    start: str | None = None

    def checked(self, timesteps: int, facts: dict[str, Any] = {}, usual: "Walk | None" = None) -> "Walk":
        """The walk with nothing left open, or a LabError for what cannot be meant.

        Without a sampler, the rest comes from the walk in the facts of the weights, if they are a student's, else from the
        `usual` one (BEST). What is still open: DDIM, no fresh noise, trailing steps, from noise.
        """
        own = Walk() if self.sampler else own_walk(facts) or usual or BEST
        return self.filled(own).filled(Walk("ddim", None, 0.0, 1.0, "trailing", "noise")).complete(timesteps)

    def filled(self, other: "Walk") -> "Walk":
        """This walk with its open places taken from another."""
        return Walk(*(theirs if ours is None else ours for ours, theirs in zip(self, other)))

    def complete(self, timesteps: int) -> "Walk":
        """A walk without open places, its number of steps filled in; LabError for what cannot be meant."""
        check_names(self)
        check_number("--eta", self.eta, 0, 1, "0: no fresh noise, 1: as noisy as ddpm")
        if self.sampler not in NOISY and self.eta:
            raise LabError(f"--eta belongs to --sampler {' and '.join(NOISY)}; ddpm always adds its full noise, the others add none")
        check_number("--scale", self.scale, -1000, 1000, "1 is plain, above 1 pushes towards the context")
        if self.sampler == "ddpm" and self.spacing != "trailing":
            raise LabError("--spacing belongs to samplers that leave steps out; ddpm walks them all")
        return self._replace(steps=steps_of(self.sampler, self.steps, timesteps))

    def __str__(self) -> str:
        """Its name in a table: what differs from a plain walk is said."""
        said = [f"eta {self.eta or 0:g}"] * bool(self.eta) + [self.spacing] * (self.spacing not in (None, "trailing")) + ["fitted start"] * (self.start == "fitted")
        return ", ".join([f"{self.sampler} {self.steps}", *said])

    def run(self, predict_noise: Predictor, schedule: NoiseSchedule, x_T: Tensor, generator: Generators) -> Iterator[Step]:
        """The steps of a checked walk from x_T."""
        if self.sampler == "ddpm":
            return ddpm(predict_noise, schedule, x_T, generator=generator)
        noisy = {"eta": self.eta} if self.sampler in NOISY else {}
        # a table that ends below T = 10 has no timestep 10 to stop at
        spacing = partial(karras, t_min=min(10, schedule.timesteps)) if self.spacing == "karras" else SPACINGS[self.spacing]
        return STEPPERS[self.sampler](predict_noise, schedule, x_T, self.steps, generator=generator, spacing=spacing, **noisy)


def own_walk(facts: dict[str, Any]) -> Walk | None:
    """The walk that a weights file says it was made for, if it says one."""
    found = facts.get("walk")
    if found is None:
        return None
    if not isinstance(found, dict) or not all(type(value) in TYPES.get(name, ()) for name, value in found.items()):
        raise LabError(f"the weights name the walk {found!r}, which this sprites_lab does not know; say how to walk with --sampler")
    return Walk(**found)


BEST = Walk("dpm-solver", eta=1.0, spacing="karras")  # as good as DDPM's 500 calls with the fewest, by the sweep in weights/README.md
DDPM = Walk("ddpm")


def check_names(walk: Walk) -> None:
    """LabError for a name that nothing has; None is still to be filled in."""
    for option, name, there in (("--sampler", walk.sampler, SAMPLERS), ("--spacing", walk.spacing, SPACINGS), ("--start", walk.start, STARTS)):
        if name is not None and name not in there:
            raise LabError(f"{option} is '{name}', but must be one of {', '.join(there)}")


def steps_of(sampler: str, steps: int | None, timesteps: int) -> int:
    """The number of steps of a walk, or a LabError that says what there is."""
    if steps is not None:
        check_whole("--steps", steps, 1, timesteps)
    if sampler == "ddpm" and steps not in (None, timesteps):
        raise LabError(f"--sampler ddpm always walks all {timesteps} steps; for {steps} steps use --sampler ddim (--eta 1 adds noise as ddpm does)")
    return timesteps if sampler == "ddpm" else steps or min(STEPS[sampler], timesteps)


def fitted_start(network: Checkpoint, sprites: Path | None = None) -> FittedStart:
    """The start that fits the training sprites of a network, which lie in the given file, or where the network says."""
    path = sprites_file(network.facts, sprites)
    found = load_sprites(path)
    if network.facts.get("sprites_sha256") not in (None, sha256_of(path)):
        raise LabError(f"--start fitted needs the sprites that the network was trained on, and {path} has others: give the right file with --sprites")
    return FittedStart(found.train.pictures(), network.schedule)
