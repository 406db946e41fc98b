"""What does each lever of the training bring, and each part of the network? One small network with each lever at equal time,
`python -m sprites_lab ablate`; one without each part for equally many updates, `python -m sprites_lab ablate --parts`.
"""

import copy
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sprites_lab import checkpoints, evaluation, lab
from sprites_lab.chance import seeded
from sprites_lab.data import SpriteSet, to_bytes
from sprites_lab.errors import LabError
from sprites_lab.evaluation import Reference
from sprites_lab.likelihood import error_table
from sprites_lab.predictors import Predictor, clamped, conditioned
from sprites_lab.recipes import LEVERS, Recipe, recipe_called
from sprites_lab.samplers import ddim, final, fresh_noise
from sprites_lab.schedule import NoiseSchedule
from sprites_lab.training import take_step, update_average
from sprites_lab.unet import ContextUnet

ARMS = {"course": "course", **{lever: f"course+{lever}" for lever in LEVERS}, "improved": "improved"}  # name: recipe
WALKS = {"ddim": 0.0, "noisy ddim": 1.0}  # name: eta, both with 50 steps
WEIGHTS = ("last", "average", "clamped")  # the last weights, their moving average, the last weights with x0 clamped
HARD_STARTS = ("cosine-schedule", "doubled-noise")  # so little signal at T that a guess at x0 magnifies every error: also clamped
STEPS, REPEATS = 50, 7
PARTS = ("nothing", "skips", "time", "context", "shortcut", "batch norm")  # what a network of `parts` does without
TIMES = (10, 50, 100, 200, 300, 400, 490)  # where its errors are measured
PARTS_HEADER = f"| without | seed | updates | {' | '.join(f't={t}' for t in TIMES)} |\n" + "|---" * (3 + len(TIMES)) + "|"
HEADER = "| arm | epochs | updates | seconds | FD, ddim 50 | class recognised | FD, noisy ddim 50 | class recognised | recall | coverage |\n" + "|---" * 10 + "|"


def ablate(
    folder: Path, ref: Reference, sprites: SpriteSet, names: list[str], features: int = 32, epochs: int = 3, count: int = 600, seed: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[dict[str, Any]]:
    """Train and measure one network for each arm, yielding what was found; an arm whose file is in the folder is not repeated.

    Each arm trains for the number of whole epochs that takes as long as `epochs` of the course's recipe.
    """
    if unknown := [name for name in names if name not in ARMS]:
        raise LabError(f"there is no arm {', '.join(unknown)}; there are: {', '.join(ARMS)}")
    place = torch.device(device)
    autocast = lab.fast_dtype(place)
    todo = [name for name in names if not path_of(folder, name, seed).exists()]
    costs = seconds_per_sprite({name: recipe_called(ARMS[name]) for name in {"course", *todo}}, features, place, autocast) if todo else {}
    for name in names:
        path = path_of(folder, name, seed)
        if not path.exists():
            ratio = costs[name] / costs["course"]
            found = {"arm": name, "recipe": ARMS[name], "features": features, "seed": seed, "cost": round(ratio, 3), "count": count}
            ways = ("last", "clamped") if name in HARD_STARTS else WEIGHTS if name in ("course", "improved") else ("last",)
            found |= train_and_measure(recipe_called(ARMS[name]), ref, sprites, features, max(1, round(epochs / ratio)), count, ways, seed, place, autocast)
            checkpoints.write_bytes(path, json.dumps(found, indent=1).encode())
        yield json.loads(path.read_text())


def line(found: dict[str, Any], weights: str = "last") -> str:
    """One row of the table of results."""
    plain, noisy = found[weights]["ddim"], found[weights]["noisy ddim"]
    values = [found["epochs"], found["updates"], f"{found['seconds']:.0f}", f"{plain['fd_train']:.1f}", f"{plain['class_acc']:.3f}"]
    values += [f"{noisy[key]:.{digits}f}" for key, digits in (("fd_train", 1), ("class_acc", 3), ("recall", 3), ("coverage", 3))]
    return f"| {found['arm']} | " + " | ".join(map(str, values)) + " |"


def path_of(folder: Path, name: str, seed: int) -> Path:
    """Where the result of an arm lies."""
    return folder / f"{name}-{seed}.json"


def seconds_per_sprite(recipes: dict[str, Recipe], features: int, device: torch.device, autocast: torch.dtype | None) -> dict[str, float]:
    """What one sprite of training costs with each recipe, in seconds: medians of steps that take turns, after a warm-up."""
    states, times = {}, {name: [] for name in recipes}
    with torch.random.fork_rng(devices=[]):
        for name, recipe in recipes.items():
            schedule = recipe.schedule(500)
            states[name] = recipe.state(recipe.network(schedule, features), device, autocast), schedule
    for turn in range(REPEATS + 2):
        for name, recipe in recipes.items():
            state, schedule = states[name]
            x0, context = torch.zeros(recipe.batch_size, 3, 16, 16, device=device), torch.zeros(recipe.batch_size, 5, device=device)
            began = time.perf_counter()
            take_step(state, schedule, x0, context, 1e-4, 0.1, seeded(0, turn), recipe.loss, recipe.draw_t, autocast)
            update_average(state.average, state.model, 0.999)
            times[name].append((time.perf_counter() - began) / recipe.batch_size)
    return {name: statistics.median(values[2:]) for name, values in times.items()}


def train_and_measure(
    recipe: Recipe, ref: Reference, sprites: SpriteSet, features: int, epochs: int, count: int, ways: tuple[str, ...], seed: int,
    device: torch.device, autocast: torch.dtype | None,
) -> dict[str, Any]:
    """One training and the quality of its network, sampled in each of the ways of WEIGHTS."""
    schedule = recipe.schedule(500)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        state = recipe.state(recipe.network(schedule, features), device, autocast)
    began, losses = time.monotonic(), []
    for progress in lab.progress(recipe.train(state, schedule, sprites, device, epochs=epochs, seed=seed, autocast=autocast), epochs * -(-len(sprites) // recipe.batch_size)):
        losses.append(progress.loss)
    found = {"epochs": epochs, "updates": state.updates, "seconds": round(time.monotonic() - began, 1), "loss": statistics.mean(losses[-100:])}
    for way in ways:
        model = state.average if way == "average" else state.model
        found[way] = {name: evaluation.measure(draw(model, schedule, count, eta, way == "clamped", device, autocast), ref) for name, eta in WALKS.items()}
    return found


def draw(
    model: nn.Module, schedule: NoiseSchedule, count: int, eta: float, clamp: bool, device: torch.device, autocast: torch.dtype | None,
) -> evaluation.Made:
    """`count` sprites, as many of each class, all arms from the same noise; in mixed order."""
    size = model.settings["context_size"]
    each, sprites = -(-count // size), []
    for context in torch.eye(size, device=device):
        predict = in_format(conditioned(model, context), device, autocast)
        chance = [lab.picture_generator(1, i) for i in range(each)]
        x_T = fresh_noise(torch.zeros(each, *model.picture_shape, device=device), chance)
        sprites.append(to_bytes(final(ddim(clamped(predict, schedule) if clamp else predict, schedule, x_T, STEPS, eta, chance))))
    order = evaluation.shuffled(each * size, 0, 7)
    return np.concatenate(sprites)[order], np.repeat(np.arange(size), each)[order]


def in_format(predict: Predictor, device: torch.device, autocast: torch.dtype | None) -> Predictor:
    """The predictor in the number format that is fastest here; its answers are float32."""

    def predict_noise(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            return predict(x_t.to(memory_format=torch.channels_last), t).to(x_t)

    return predict_noise


def without(model: ContextUnet, part: str) -> ContextUnet:
    """A copy that does without its skips (zeros), time (T/2 is told), context (none) or the first block's shortcut; LabError for another part."""
    net = copy.deepcopy(model)
    if part == "skips":
        for stage in (net.up1, net.up2, net.out):  # each reads what comes from below, then the skip, half of the features each
            stage.register_forward_pre_hook(lambda _, inputs: torch.cat([(half := inputs[0].chunk(2, 1)[0]), torch.zeros_like(half)], 1))
    elif part in ("time", "context"):
        for embed in (child for name, child in net.named_children() if name.startswith(f"{part}_")):
            embed.register_forward_pre_hook(lambda _, inputs: torch.full_like(inputs[0], 0.5 if part == "time" else 0.0))
    elif part == "shortcut":
        net.init_conv.shortcut = None
    else:
        raise LabError(f"there is no part '{part}' to switch off; there are: skips, time, context, shortcut")
    return net


def parts(
    folder: Path, sprites: SpriteSet, held_out: SpriteSet, features: int = 16, epochs: int = 1, seed: int = 0, device: torch.device | str = "cpu",
) -> Iterator[dict[str, Any]]:
    """Train the course's network without each of PARTS, in batches of 32; without "nothing" a second time, with the next seed, as a yardstick.

    Yields the noise errors at TIMES on the held-out sprites, of the moving average of the weights. A result that lies in the folder is not repeated.
    """
    for part, number in [*((part, seed) for part in PARTS), ("nothing", seed + 1)]:
        path = path_of(folder, f"without-{part.replace(' ', '-')}", number)
        if not path.exists():
            found = {"without": part, "features": features, "seed": number}
            found |= train_without(part, sprites, held_out, features, epochs, number, torch.device(device))
            checkpoints.write_bytes(path, json.dumps(found, indent=1).encode())
        yield json.loads(path.read_text())


def train_without(part: str, sprites: SpriteSet, held_out: SpriteSet, features: int, epochs: int, seed: int, device: torch.device) -> dict[str, Any]:
    """One training without a part ("batch norm": with group norm in its place), and its errors."""
    recipe, autocast = recipe_called("course+group-norm" if part == "batch norm" else "course"), lab.fast_dtype(device)
    schedule = recipe.schedule(500)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = recipe.network(schedule, features)
    state = recipe.state(model if part in ("nothing", "batch norm") else without(model, part), device, autocast)
    updates = recipe.train(state, schedule, sprites, device, epochs=epochs, batch_size=32, seed=seed, autocast=autocast)
    for _ in lab.progress(updates, epochs * -(-len(sprites) // 32), f"without {part}"):
        pass
    predict, times = conditioned(state.average, held_out.contexts(device)), torch.tensor(TIMES)
    errors = error_table(predict, schedule, held_out.pictures(device), times, seed=0).mean(0)
    return {"batch_size": 32, "epochs": epochs, "updates": state.updates, "sprites": len(held_out), "times": TIMES, "errors": [round(error, 5) for error in errors.tolist()]}


def part_line(found: dict[str, Any]) -> str:
    """One row of the table of results without a part."""
    return f"| {found['without']} | {found['seed']} | {found['updates']} | " + " | ".join(f"{error:.3f}" for error in found["errors"]) + " |"
