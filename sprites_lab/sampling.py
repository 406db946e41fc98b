"""Sampling to a file, batch by batch: what `python -m sprites_lab sample` does."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sprites_lab import checkpoints, figures, lab
from sprites_lab.data import parse_context, to_bytes, to_pictures
from sprites_lab.errors import LabError
from sprites_lab.predictors import Predictor, conditioned, guided
from sprites_lab.samplers import Step, ddim, ddpm, fresh_noise

BATCH, FRAMES, WALKERS = 64, 24, 64  # pictures per call of the network; pictures in an animated walk and on it
DDIM_STEPS = 20


def sample_to_file(
    out: Path, weights: Path | None = None, context: str = "none", count: int = 64, sampler: str = "ddim", steps: int | None = None,
    eta: float = 0.0, scale: float = 1.0, seed: int = 0, device: str = "auto",
) -> None:
    """Make `count` sprites and write them to `out`: a sheet (.png), the walk from noise (.gif) or arrays (.npz).

    Sprite i follows from (seed, i) alone. LabError before any work for options that cannot be meant.
    """
    check_numbers(count, sampler, eta, scale, seed)
    place = lab.pick_device(device)
    found = lab.load_weights(weights or lab.FINAL, place)
    told = parse_context(context, class_names(found))
    num_steps = steps_of(sampler, steps, found.schedule.timesteps)
    done, frames = [], []
    for x_T, walk in walks(found, told, count, sampler, num_steps, eta, scale, seed):
        first = sum(map(len, done))
        label = f"sprites {first + 1} to {first + len(x_T)} of {count}"
        kept = list(some_of(lab.progress(walk, num_steps, label), num_steps, FRAMES if out.suffix.lower() == ".gif" else 1))
        done.append(to_bytes(kept[-1].x_t))
        frames = frames or [("noise", x_T.cpu()), *((f"t = {step.t}", step.x_t.cpu()) for step in kept)]
    write(out, np.concatenate(done), frames, told)


def walks(
    found: checkpoints.Checkpoint, context: Tensor, count: int, sampler: str, num_steps: int, eta: float = 0.0, scale: float = 1.0, seed: int = 0,
) -> Iterator[tuple[Tensor, Iterator[Step]]]:
    """The starting noise and the walk of one batch after the other, on the device of the network; sprite i follows from (seed, i)."""
    place = next(found.model.parameters()).device
    predict = fast_predictor(found, context, scale, place)
    for first in range(0, count, BATCH):
        chance = [lab.picture_generator(seed, i) for i in range(first, min(first + BATCH, count))]
        x_T = fresh_noise(torch.zeros(len(chance), *found.model.picture_shape, device=place), chance)
        yield x_T, ddpm(predict, found.schedule, x_T, generator=chance) if sampler == "ddpm" else ddim(predict, found.schedule, x_T, num_steps, eta, chance)


def check_numbers(count: int, sampler: str, eta: float, scale: float, seed: int) -> None:
    """LabError for an option of the command that cannot be meant."""
    if not 1 <= count <= 100_000:
        raise LabError(f"--count is {count}, but must be from 1 to 100000")
    if not 0 <= seed < 2**40:
        raise LabError(f"--seed is {seed}, but must be a whole number from 0 to 2^40 - 1")
    if not 0 <= eta <= 1:
        raise LabError(f"--eta is {eta}, but must lie between 0 (no fresh noise) and 1 (as noisy as ddpm)")
    if sampler != "ddim" and eta:
        raise LabError("--eta belongs to --sampler ddim; ddpm always adds its full noise")
    if not abs(scale) <= 1000:
        raise LabError(f"--scale is {scale}, but must lie between -1000 and 1000: 1 is plain, above 1 pushes towards the context")


def steps_of(sampler: str, steps: int | None, timesteps: int) -> int:
    """The number of steps of a walk, or a LabError that says what there is."""
    if steps is not None and not 1 <= steps <= timesteps:
        raise LabError(f"--steps is {steps}, but must be from 1 to {timesteps}")
    if sampler == "ddpm" and steps not in (None, timesteps):
        raise LabError(f"--sampler ddpm always walks all {timesteps} steps; for {steps} steps use --sampler ddim (--eta 1 adds noise as ddpm does)")
    return timesteps if sampler == "ddpm" else steps or min(DDIM_STEPS, timesteps)


def class_names(found: checkpoints.Checkpoint) -> tuple[str, ...]:
    """The names of the classes in a weights file, or a LabError if it does not name one for each number of the context."""
    names, size = found.facts.get("classes"), found.model.settings["context_size"]
    if not isinstance(names, list) or len(names) != size or not all(isinstance(name, str) for name in names):
        raise LabError(f"the weights name the classes {names!r}, but their network has {size}; use weights that `train` wrote")
    return tuple(names)


def fast_predictor(found: checkpoints.Checkpoint, context: Tensor, scale: float, device: torch.device) -> Predictor:
    """The guided network, in the number format that is fastest here; guidance runs the second network call only if needed."""
    model, dtype = found.model.to(memory_format=torch.channels_last), lab.fast_dtype(device)
    plain = conditioned(model, context)
    predict = plain if scale == 1 else guided(plain, conditioned(model, None), scale)

    def predict_noise(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            return predict(x_t.to(memory_format=torch.channels_last), t).to(x_t)

    return predict_noise


def some_of(walk: Iterator[Step], total: int, count: int) -> Iterator[Step]:
    """About `count` steps of a walk of `total`, evenly spaced, always with the last one."""
    every = -(-total // count)
    for number, step in enumerate(walk, start=1):
        if (total - number) % every == 0:
            yield step


def write(out: Path, sprites: np.ndarray, frames: list[tuple[str, Tensor]], context: Tensor) -> None:
    """Write the file that the suffix of `out` asks for, in one move."""
    kind = out.suffix.lower()
    if kind == ".png":
        columns = int(np.ceil(np.sqrt(len(sprites))))
        data = figures.png(figures.tile(to_pictures(sprites), columns, 4))
    elif kind == ".gif":
        captions, pictures = zip(*((name, x_t[:WALKERS]) for name, x_t in frames))
        data = figures.animation(pictures, "GIF", captions, columns=int(np.ceil(np.sqrt(len(pictures[0])))))
    else:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, sprites=sprites, contexts=context.expand(len(sprites), -1).numpy())
        data = buffer.getvalue()
    checkpoints.write_bytes(out, data)
