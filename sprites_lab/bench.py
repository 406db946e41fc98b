"""How fast is this machine, at training and at drawing, against the loops that everyone writes first? `python -m sprites_lab bench`."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sprites_lab import lab, speed
from sprites_lab.data import SpriteSet, to_pictures
from sprites_lab.recipes import Recipe, course_recipe, improved_recipe
from sprites_lab.schedule import linear_schedule

WARM_UP, STEPS, ROUNDS = 2, 4, 7


class OneByOne(Dataset):
    """Sprites as most tutorials hand them to a loader: converted one at a time, when they are asked for."""

    def __init__(self, sprites: SpriteSet):
        self.sprites, self.contexts = sprites.sprites, sprites.contexts()

    def __len__(self) -> int:
        return len(self.sprites)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return to_pictures(self.sprites[i : i + 1])[0], self.contexts[i]


def plain_loop(sprites: SpriteSet, features: int, device: torch.device, batch_size: int = 100) -> Iterator[int]:
    """The course's training loop as it is usually written: float32, a loader, no averaging. Yields the sprites seen per update."""
    schedule = linear_schedule()
    model = course_recipe().network(schedule, features).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    while True:
        for x0, context in DataLoader(OneByOne(sprites), batch_size, shuffle=True, drop_last=True):
            x0, context = x0.to(device), context.to(device) * (torch.rand(batch_size, 1, device=device) > 0.1)
            t = torch.randint(1, schedule.timesteps + 1, (batch_size,), device=device)
            noise = torch.randn_like(x0)
            loss = nn.functional.mse_loss(model(schedule.add_noise(x0, t, noise), t, context), noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield batch_size


def our_loop(recipe: Recipe, sprites: SpriteSet, features: int, device: torch.device, autocast: torch.dtype | None) -> Iterator[int]:
    """The package's training; yields the sprites seen per update."""
    schedule = recipe.schedule(500)
    state = recipe.state(recipe.network(schedule, features), device, autocast)
    for _ in recipe.train(state, schedule, sprites, device, epochs=10**6, autocast=autocast):
        yield recipe.batch_size


def training_speed(sprites: SpriteSet, features: int = 64, device: torch.device | str = "cpu", rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Sprites per second of each way to train, one number per round; the ways take turns in every round, after a warm-up."""
    place = torch.device(device)
    fast, course = lab.fast_dtype(place), course_recipe()
    with torch.random.fork_rng(devices=[]):
        ways: dict[str, Iterator[int]] = {
            "plain loop, float32": plain_loop(sprites, features, place), "ours, float32": our_loop(course, sprites, features, place, None),
        }
        if fast:
            ways[f"ours, {str(fast).removeprefix('torch.')}"] = our_loop(course, sprites, features, place, fast)
        ways["ours, improved recipe"] = our_loop(improved_recipe(), sprites, features, place, fast)
        for steps in ways.values():
            for _ in range(WARM_UP):
                next(steps)
        return interleaved(ways, rounds, speed.waiting(place))


def interleaved(ways: dict[str, Iterator[int]], rounds: int, wait: Callable[[], None] = lambda: None) -> dict[str, list[float]]:
    """Sprites per second of each way in each round."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, steps in ways.items():
            wait()
            began = time.perf_counter()
            seen = sum(next(steps) for _ in range(STEPS))
            wait()
            found[name].append(seen / (time.perf_counter() - began))
    return found


def bench(sprites: SpriteSet, features: int = 64, device: torch.device | str = "cpu") -> dict[str, Any]:
    """All tables of `bench`: the network, the training, the walks, memory; numbers and texts alone (JSON)."""
    place = torch.device(device)
    found = about(place) | {"network": speed.network_speed(lab.load_weights(device=place), place)}
    found |= {"walks": speed.walk_speed(place), "training": training_rows(training_speed(sprites, features, place))}
    return found | {"peak_megabytes": speed.peak_memory(place)}


def about(device: torch.device) -> dict[str, Any]:
    """The machine, as far as it tells."""
    dtype, gpu = lab.fast_dtype(device), torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "machine": gpu or machine(), "cpus": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__.partition("+")[0],
        "fast": str(dtype or torch.float32).removeprefix("torch."),
    }


def training_rows(found: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Medians, spreads and factors over the first way."""
    first = next(iter(found.values()))
    return {
        name: {"sprites_per_second": round(statistics.median(values), 1), "spread": round(statistics.stdev(values), 1) if len(values) > 1 else 0.0,
               "factor": round(statistics.median(value / base for value, base in zip(values, first)), 2)}
        for name, values in found.items()
    }  # fmt: skip


def machine() -> str:
    """The name of the CPU, as far as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def table(found: dict[str, Any]) -> str:
    """The result as Markdown tables."""
    lines = [
        f"{found['machine']}, {found['cpus']} CPUs, {found['threads']} threads, torch {found['torch']}, fast = {found['fast']}; medians of rounds in which the ways take turns", "",
        "| network, sprites per call | calls per second | milliseconds | factor | share of the peak |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, row in found["network"].items():
        lines.append(f"| {name} | {1000 / row['milliseconds']:.1f} | {row['milliseconds']:.1f} ± {row['spread']:.1f} | {row['factor']:.2f} | {row['share_of_peak']:.0%} |")
    lines += ["", f"| {speed.COUNT} sprites | seconds | factor | FD training | class recognised | recall |", "|---" * 6 + "|"]
    for name, row in found["walks"].items():
        measured = [f"{row[key]:.{digits}f}" if key in row else "?" for key, digits in (("fd_train", 1), ("class_acc", 3), ("recall", 3))]
        lines.append(f"| {name} | {row['seconds']:.2f} ± {row['spread']:.2f} | {row['factor']:.1f} | " + " | ".join(measured) + " |")
    lines += ["", "| training | sprites per second | factor |", "|---|---|---|"]
    lines += [f"| {name} | {row['sprites_per_second']:.0f} ± {row['spread']:.0f} | {row['factor']:.2f} |" for name, row in found["training"].items()]
    held = ", ".join(f"{what} {megabytes:,} MB" for what, megabytes in found["peak_megabytes"].items()) or "unknown"
    return "\n".join([*lines, "", f"FD, class and recall are the shipped figures of weights/, not measured here. Peak memory: {held}"])
