"""Sampling to a file, batch by batch: what `python -m sprites_lab sample` does."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sprites_lab import checkpoints, figures, lab
from sprites_lab.data import parse_context, to_bytes, to_pictures
from sprites_lab.errors import LabError
from sprites_lab.predictors import Predictor, conditioned, guided
from sprites_lab.runtime import fast_network
from sprites_lab.samplers import Step, final, fresh_noise
from sprites_lab.start import FittedStart
from sprites_lab.stream import SpriteStream
from sprites_lab.walks import Walk, check_names, fitted_start

BATCH, FRAMES, WALKERS = 64, 24, 64  # pictures per call of the network; pictures in an animated walk and on it


def sample_to_file(
    out: Path, weights: Path | None = None, context: str = "none", count: int = 64, walk: Walk = Walk(), seed: int = 0, device: str = "auto",
    sprites: Path | None = None, resume: bool = False,
) -> None:
    """Make `count` sprites and write them to `out`: a sheet (.png), the walk from noise (.gif) or arrays (.npz).

    Sprite i follows from (seed, i) alone. `sprites`: what the network was trained on, for a fitted start (the bundled set).
    Arrays are written batch by batch, and `resume` goes on where that was stopped. LabError before any work for options that
    cannot be meant.
    """
    if resume and out.suffix.lower() != ".npz":
        raise LabError(f"--resume goes on with arrays (.npz); {out} is drawn in one go")
    check_numbers(count, seed)
    check_names(walk)
    place = lab.pick_device(device)
    found = lab.load_weights(weights or lab.FINAL, place)
    walk, told = walk.checked(found.schedule.timesteps), parse_context(context, class_names(found))
    start = fitted_start(found.schedule, found.facts.get("sprites_sha256"), sprites) if walk.start == "fitted" else None
    if out.suffix.lower() == ".npz":
        asked = {"walk": walk, "context": told.tolist(), "seed": seed, "weights": checkpoints.sha256_of(weights or lab.FINAL)}
        stream = SpriteStream(out, (*found.model.picture_shape[1:], found.model.picture_shape[0]), count, BATCH, asked, resume)
        return stream_arrays(stream, walks(found, told, count, walk, seed, start, stream.done), walk.steps, told)
    done, frames = [], []
    for x_T, steps in walks(found, told, count, walk, seed, start):
        label = label_of(sum(map(len, done)), len(x_T), count)
        kept = list(some_of(lab.progress(steps, walk.steps, label), walk.steps, FRAMES if out.suffix.lower() == ".gif" else 1))
        done.append(to_bytes(kept[-1].x_t))
        frames = frames or [("noise", x_T.cpu()), *((f"t = {step.t}", step.x_t.cpu()) for step in kept)]
    write(out, np.concatenate(done), frames)


def stream_arrays(stream: SpriteStream, batches: Iterator[tuple[Tensor, Iterator[Step]]], num_steps: int, context: Tensor) -> None:
    """Write each batch as soon as it is there, and the .npz at the end; memory does not grow with the number of sprites."""
    for x_T, steps in batches:
        stream.add(to_bytes(final(lab.progress(steps, num_steps, label_of(stream.done, len(x_T), stream.count)))))
    stream.finish(context.numpy())


def label_of(done: int, now: int, count: int) -> str:
    """What the progress bar of one batch says."""
    return f"sprites {done + 1:,} to {done + now:,} of {count:,}"


def walks(
    found: checkpoints.Checkpoint, context: Tensor, count: int, walk: Walk, seed: int = 0, start: FittedStart | None = None, after: int = 0,
) -> Iterator[tuple[Tensor, Iterator[Step]]]:
    """x_T and the steps of one batch after the other, on the device of the network; sprite i follows from (seed, i).

    The first `after` sprites, whole batches, are left out.
    """
    place = next(found.model.parameters()).device
    predict = fast_predictor(found, context, walk.scale, place)
    for first in range(after, count, BATCH):
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
