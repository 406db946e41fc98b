"""How fast does a network draw on this machine? Its calls and whole walks, plain and fast, each beside its shipped quality."""

import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from sprites_lab import lab
from sprites_lab.chance import seeded
from sprites_lab.checkpoints import Checkpoint
from sprites_lab.data import to_bytes
from sprites_lab.errors import LabError
from sprites_lab.predictors import conditioned
from sprites_lab.runtime import fast_network
from sprites_lab.samplers import final, fresh_noise
from sprites_lab.start import FittedStart
from sprites_lab.walks import Walk, fitted_start

COUNT, ROUNDS, LONG_ROUNDS, SQUARE = 32, 5, 2, 2048  # sprites of a walk; how often it is timed (500 calls: fewer); the matrices' side


class Setting(NamedTuple):
    """One way to get sprites: a card of weights/ that holds its quality, its weights file, its walk, and whether it runs as fast as it can."""

    card: str
    weights: str
    walk: Walk
    fast: bool = True


SETTINGS = {
    "DDPM 500, plain loop": Setting("sprites", "sprites", Walk("ddpm"), fast=False),
    "DDPM 500": Setting("sprites", "sprites", Walk("ddpm")),
    "DDIM 20": Setting("ddim-20", "sprites", Walk("ddim", 20)),
    "2M SDE 10": Setting("ten-calls", "sprites", Walk("dpm-solver", 10, 1.0, spacing="karras", start="fitted")),
    "2M SDE 7": Setting("seven-calls", "sprites", Walk("dpm-solver", 7, 1.0, spacing="karras", start="fitted")),
    **{f"student {steps}": Setting(f"student-{steps}", f"student-{steps}", Walk()) for steps in lab.STUDENTS},
}


def network_speed(found: Checkpoint, device: torch.device, rounds: int = 7) -> dict[str, dict[str, float]]:
    """Milliseconds of one call of the network, plain float32 and fast, for 32 and 128 sprites; and the share of the machine's peak.

    The peak is what products of large square matrices reach in the same number format, in the same rounds.
    """
    dtype = lab.fast_dtype(device)
    ways: dict[str, Callable[[], Any]] = {}
    chance = seeded(0)
    networks = {"plain": found.model, "fast": fast_network(found.model, dtype)}
    for batch in (32, 128):
        x, t, context = torch.randn(batch, *found.model.picture_shape, generator=chance).to(device), torch.full((batch,), 250, device=device), torch.eye(5, device=device)[torch.arange(batch) % 5]
        ways |= {f"{name} {batch}": partial(network, x, t, context) for name, network in networks.items()}
    square = torch.randn(SQUARE, SQUARE, generator=chance).to(device, dtype or torch.float32)
    ways["matrices"] = lambda: square @ square
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            ways["plain 128"]()
        times = in_turns(ways, rounds, waiting(device))
    took = {name: statistics.median(values) for name, values in times.items()}
    peak = 2 * SQUARE**3 / took["matrices"]
    return {
        name: {
            "milliseconds": round(1000 * took[name], 2), "spread": round(1000 * statistics.stdev(times[name]), 2),
            "factor": round(statistics.median(plain / own for plain, own in zip(times[f"plain {name.split()[1]}"], times[name])), 2),
            "share_of_peak": round(counter.get_total_flops() * int(name.split()[1]) / 128 / took[name] / peak, 3),
        }
        for name in ways if name != "matrices"
    }  # fmt: skip


def walk_speed(device: torch.device, settings: dict[str, Setting] = SETTINGS, count: int = COUNT) -> dict[str, dict[str, Any]]:
    """Seconds that `count` sprites take with each setting, all in one run in turns, with factors over the first and shipped quality."""
    ways = {name: partial(draw, setting, count, device, *ready(setting, device)) for name, setting in settings.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for name, way in ways.items():
        if settings[name].walk.sampler != "ddpm":
            way()
    for turn in range(ROUNDS):
        now = {name: way for name, way in ways.items() if turn < LONG_ROUNDS or settings[name].walk.sampler != "ddpm"}
        for name, values in in_turns(now, 1, waiting(device), warm_up=0).items():
            times[name] += values
    first = statistics.median(next(iter(times.values())))
    return {
        name: {
            "seconds": round(statistics.median(values), 3), "spread": round(statistics.stdev(values), 3),
            "factor": round(first / statistics.median(values), 1), **quality(settings[name].card),
        }
        for name, values in times.items()
    }  # fmt: skip


def ready(setting: Setting, device: torch.device) -> tuple[Checkpoint, Walk, FittedStart | None]:
    """The network of a setting, in its fast form if wanted, its walk and its start."""
    found = lab.load_weights(lab.WEIGHTS / f"{setting.weights}.safetensors", device)
    walk = setting.walk.checked(found.schedule.timesteps, found.facts)
    start = fitted_start(found) if walk.start == "fitted" else None
    return found._replace(model=fast_network(found.model, lab.fast_dtype(device))) if setting.fast else found, walk, start


def draw(setting: Setting, count: int, device: torch.device, found: Checkpoint, walk: Walk, start: FittedStart | None) -> Any:
    """`count` sprites as bytes, mixed classes."""
    chance = [lab.picture_generator(0, i) for i in range(count)]
    noise = fresh_noise(torch.zeros(count, 3, 16, 16, device=device), chance)
    context = torch.eye(5, device=device)[torch.arange(count) % 5]
    return to_bytes(final(walk.run(conditioned(found.model, context), found.schedule, start(noise) if start else noise, chance)))


def quality(card: str) -> dict[str, Any]:
    """What was measured of a setting when its weights were made; nothing if its card is not there."""
    try:
        found = lab.load_card(card)
    except LabError:
        return {}
    rows = next(iter(found["rows"].values()))
    return {key: round(statistics.mean(row[key] for row in rows), 3) for key in ("fd_train", "kd", "class_acc", "recall", "coverage", "copy_rate")}


def in_turns(ways: dict[str, Callable[[], Any]], rounds: int, wait: Callable[[], None], warm_up: int = 3) -> dict[str, list[float]]:
    """Seconds of each way in each round; the ways take turns, after a warm-up."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-warm_up, rounds):
        for name, way in ways.items():
            wait()
            began = time.perf_counter()
            way()
            wait()
            if turn >= 0:
                found[name].append(time.perf_counter() - began)
    return found


def waiting(device: torch.device) -> Callable[[], None]:
    """What waits until the device has done its work: a clock must not stop before."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory that this process has held so far, in MB: of the machine and, on CUDA, of the device."""
    found = {}
    if os.name == "posix":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        found["process"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)
    if device.type == "cuda":
        found["cuda"] = round(torch.cuda.max_memory_allocated(device) / 1e6)
    return found
