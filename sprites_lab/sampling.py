"""Sampling to a file, batch by batch: what `python -m sprites_lab sample` does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sprites_lab import checkpoints, figures, lab
from sprites_lab.data import parse_context, to_bytes, to_pictures
from sprites_lab.errors import LabError
from sprites_lab.predictors import Predictor, conditioned, guided
from sprites_lab.runtime import fast_network
from sprites_lab.samplers import Step, fresh_noise
from sprites_lab.start import FittedStart
from sprites_lab.stream import SpriteStream
from sprites_lab.team import Team
from sprites_lab.walks import Walk, check_names, fitted_start

BATCH, FRAMES, WALKERS = 64, 24, 64  # pictures per call of the network; pictures in an animated walk and on it


def sample_to_file(
    out: Path, weights: Path | None = None, context: str = "none", count: int = 64, walk: Walk = Walk(), seed: int = 0, device: str = "auto",
    sprites: Path | None = None, resume: bool = False, team: Team = Team(),
) -> dict[str, Any]:
    """Make `count` sprites and write them to `out`: a sheet (.png), the walk from noise (.gif) or arrays (.npz).

    Sprite i follows from (seed, i) alone. `sprites`: what the network was trained on, for a fitted start (the bundled set).
    Arrays are written batch by batch, and `resume` goes on where that was stopped. Returns what the weights file says of itself.
    LabError before any work for options that cannot be meant.
    """
    if resume and out.suffix.lower() != ".npz":
        raise LabError(f"--resume goes on with arrays (.npz); {out} is drawn in one go")
    check_numbers(count, seed)
    check_names(walk)
    place = lab.pick_device(device)
    found = lab.load_weights(weights or lab.FINAL, place)
    walk, told = walk.checked(found.schedule.timesteps, found.facts), parse_context(context, class_names(found))
    start = fitted_start(found, sprites) if walk.start == "fitted" else None
    asked = {"walk": walk, "context": told.tolist(), "seed": seed, "weights": checkpoints.sha256_of(weights or lab.FINAL)}
    team.agree(asked, "weights or options")
    order = Order(found, told, count, walk, seed, start, team)
    if out.suffix.lower() == ".npz":
        write_arrays(order, out, asked, resume)
    else:
        write_picture(order, out)
    return found.facts


class Order(NamedTuple):
    """What is to be drawn, by whom."""

    found: checkpoints.Checkpoint
    context: Tensor
    count: int
    walk: Walk
    seed: int
    start: FittedStart | None
    team: Team

    def batches(self, after: int = 0, shown: int = 1) -> Iterator[tuple[Tensor, list[Step]]]:
        """x_T and about `shown` steps of each batch of this worker, with a bar for each on the first one."""
        for number, (x_T, steps) in enumerate(walks(self.found, self.context, self.count, self.walk, self.seed, self.start, after, self.team)):
            first = after + (number * self.team.size + self.team.rank) * BATCH
            bar = lab.progress(steps, self.walk.steps, f"sprites {first + 1:,} to {first + len(x_T):,} of {self.count:,}") if self.team.first else steps
            yield x_T, list(some_of(bar, self.walk.steps, shown if not number else 1))


def write_arrays(order: Order, out: Path, asked: dict[str, Any], resume: bool) -> None:
    """Write each batch as soon as it is there, and the .npz at the end; memory does not grow with the number of sprites."""
    channels, height, width = order.found.model.picture_shape
    stream = order.team.on_first(lambda: SpriteStream(out, (height, width, channels), order.count, BATCH, asked, resume))
    after = order.team.told(stream.done if stream else 0)
    own = (to_bytes(steps[-1].x_t) for _, steps in order.batches(after))
    for sprites in order.team.in_order(own, -(-(order.count - after) // BATCH)):  # nothing but on the first worker
        stream.add(sprites)
    if stream:
        stream.finish(order.context.numpy())


def write_picture(order: Order, out: Path) -> None:
    """Write a sheet of all sprites, or the walk of the first batch."""
    frames: list[tuple[str, Tensor]] = []

    def own() -> Iterator[np.ndarray]:
        for x_T, steps in order.batches(shown=FRAMES if out.suffix.lower() == ".gif" else 1):
            frames.extend([] if frames else [("noise", x_T.cpu()), *((f"t = {step.t}", step.x_t.cpu()) for step in steps)])
            yield to_bytes(steps[-1].x_t)

    done = list(order.team.in_order(own(), -(-order.count // BATCH)))
    if done:
        write(out, np.concatenate(done), frames)


def walks(
    found: checkpoints.Checkpoint, context: Tensor, count: int, walk: Walk, seed: int = 0, start: FittedStart | None = None, after: int = 0,
    team: Team = Team(),
) -> Iterator[tuple[Tensor, Iterator[Step]]]:
    """x_T and the steps of one batch after the other, on the device of the network; sprite i follows from (seed, i).

    The first `after` sprites, whole batches, are left out; the workers of a team take turns.
    """
    place = next(found.model.parameters()).device
    predict = fast_predictor(found, context, walk.scale, place)
    for first in range(after + team.rank * BATCH, count, team.size * BATCH):
        chance = [lab.picture_generator(seed, i) for i in range(first, min(first + BATCH, count))]
        noise = fresh_noise(torch.zeros(len(chance), *found.model.picture_shape, device=place), chance)
        x_T = start(noise) if start else noise
        yield x_T, walk.run(predict, found.schedule, x_T, chance)


def check_numbers(count: int, seed: int = 0) -> None:
    """LabError for a count or a seed that cannot be meant."""
    if not 1 <= count <= 100_000:
        raise LabError(f"--count is {count}, but must be from 1 to 100000")
    if not 0 <= seed < 2**40:
        raise LabError(f"--seed is {seed}, but must be a whole number from 0 to 2^40 - 1")


def class_names(found: checkpoints.Checkpoint) -> tuple[str, ...]:
    """The names of the classes in a weights file, or a LabError if it does not name one for each number of the context."""
    names, size = found.facts.get("classes"), found.model.settings["context_size"]
    if not isinstance(names, list) or len(names) != size or not all(isinstance(name, str) for name in names):
        raise LabError(f"the weights name the classes {names!r}, but their network has {size}; use weights that `train` wrote")
    return tuple(names)


def fast_predictor(found: checkpoints.Checkpoint, context: Tensor, scale: float, device: torch.device) -> Predictor:
    """The guided network, as fast as it runs here; guidance runs the second network call only if needed."""
    model = fast_network(found.model, lab.fast_dtype(device))
    plain = conditioned(model, context)
    return plain if scale == 1 else guided(plain, conditioned(model, None), scale)


def some_of(walk: Iterator[Step], total: int, count: int) -> Iterator[Step]:
    """About `count` steps of a walk of `total`, evenly spaced, always with the last one."""
    every = -(-total // count)
    for number, step in enumerate(walk, start=1):
        if (total - number) % every == 0:
            yield step


def write(out: Path, sprites: np.ndarray, frames: list[tuple[str, Tensor]]) -> None:
    """Write the picture that the suffix of `out` asks for, in one move."""
    if out.suffix.lower() == ".png":
        columns = int(np.ceil(np.sqrt(len(sprites))))
        data = figures.png(figures.tile(to_pictures(sprites), columns, 4))
    else:
        captions, pictures = zip(*((name, x_t[:WALKERS]) for name, x_t in frames))
        data = figures.animation(pictures, "GIF", captions, columns=int(np.ceil(np.sqrt(len(pictures[0])))))
    checkpoints.write_bytes(out, data)
