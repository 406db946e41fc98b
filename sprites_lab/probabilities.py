"""What a network says of pictures that it did not draw: how many bits they cost it, and which class they are. For two commands."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sprites_lab import checkpoints, lab, likelihood, sampling
from sprites_lab.chance import seeded
from sprites_lab.data import SpriteSet, load_sprites, to_pictures
from sprites_lab.errors import LabError
from sprites_lab.own_sprites import Reading, import_sprites
from sprites_lab.predictors import conditioned
from sprites_lab.runtime import fast_network
from sprites_lab.settings import check_whole

SHOWN = 100  # sprites that `classify` names, at most
PARTS = ("total", "L_T", "sum of L_t", "L_0")
ODE_COUNT, ODE_STEPS = 8, 50


class Trained(NamedTuple):
    """A trained network with its schedule and classes, in float32, and the sprites it was trained on and not."""

    found: checkpoints.Checkpoint
    path: Path
    model: torch.nn.Module
    names: tuple[str, ...]
    sprites: SpriteSet


def open_trained(weights: Path | None = None, sprites: Path | None = None, device: torch.device | str = "cpu") -> Trained:
    """The shipped network or that of a file, with its sprites; LabError if they do not belong together."""
    file = Path(weights or lab.FINAL)
    found = lab.load_weights(file, device)
    path = checkpoints.sprites_file(found.facts, sprites)
    whole, names = load_sprites(path), sampling.class_names(found)
    if found.facts.get("sprites_sha256") not in (None, checkpoints.sha256_of(path)):
        raise LabError(f"the network was trained on other sprites than {path}, so it may have seen the held-out ones; give the right file with --sprites")
    if whole.class_names != names or whole.sprites.shape[1:3] != found.model.picture_shape[1:]:
        raise LabError(f"{path} has other classes or another size than the network; give the sprites it was trained on with --sprites")
    return Trained(found, file, fast_network(found.model), names, whole)


def bits_per_dimension(trained: Trained, count: int = 100, steps: int = 64, seed: int = 0) -> dict[str, Any]:
    """What pictures cost in bits per value, with standard errors: training and held-out sprites, and yardsticks, `count` of each.

    The reverse steps have the analytic variance, fitted to other training sprites. Numbers, texts and lists alone (JSON).
    """
    check_whole("--count", count, 8, 100_000)
    check_whole("--steps", steps, 2, trained.found.schedule.timesteps - 1, "timesteps at which errors are measured")
    known, fitted = parts_of(trained.sprites.train, (count, min(count, 200)), seed)
    new, = parts_of(trained.sprites.test, (count,), seed)
    place, schedule = next(trained.found.model.parameters()).device, trained.found.schedule
    variance = likelihood.fit_variance(conditioned(trained.model, fitted.contexts(place)), schedule, fitted.pictures(place), steps, seed)
    pictures, contexts = new.pictures(place), new.contexts(place)
    rows = {
        "training sprites": (known.pictures(place), known.contexts(place)), "held-out sprites": (pictures, contexts),
        "held-out sprites, no context": (pictures, 0 * contexts), "held-out sprites, pixels shuffled": (shuffled(pictures, seed), contexts),
        "noise of 256 levels": (to_pictures(seeded_bytes(pictures, seed)).to(place), contexts),
    }  # fmt: skip
    found = {name: priced(trained, *row, variance, steps, seed) for name, row in rows.items()}
    found["held-out sprites, a Gaussian for each value"] = {"total": gaussian_bits(trained.sprites.train.pictures(), new.pictures())}
    few = likelihood.ode_bits(conditioned(trained.model, contexts[:ODE_COUNT]), schedule, pictures[:ODE_COUNT], ODE_STEPS, seed)
    ode = {"ODE": likelihood.mean_and_error(few), "bound": found["held-out sprites"]["each"][:ODE_COUNT]}
    return {"network": trained.path.name, "network_sha256": checkpoints.sha256_of(trained.path), "count": len(known), "steps": steps, "seed": seed, "rows": found, "ode": ode}


def parts_of(sprites: SpriteSet, counts: tuple[int, ...], seed: int) -> list[SpriteSet]:
    """Different sprites of the set by chance, so many for each part; LabError if there are too few."""
    if sum(counts) > len(sprites):
        raise LabError(f"--count asks for {sum(counts)} sprites, the file has {len(sprites)} of them; ask for fewer")
    order = torch.randperm(len(sprites), generator=seeded(seed, 11)).numpy()
    return [sprites[rows] for rows in np.split(order[: sum(counts)], np.cumsum(counts)[:-1])]


def shuffled(pictures: Tensor, seed: int) -> Tensor:
    """Each picture with its pixels in another order: the same colours, nothing to see."""
    flat = pictures.flatten(2)
    orders = torch.stack([torch.randperm(flat.shape[2], generator=seeded(seed, 12, i)) for i in range(len(flat))]).to(flat.device)
    return flat.gather(2, orders[:, None].expand_as(flat)).reshape(pictures.shape)


def seeded_bytes(pictures: Tensor, seed: int) -> np.ndarray:
    """Noise as a file could hold it, uint8 (N, H, W, C): each value any of the 256."""
    shape = (len(pictures), *pictures.shape[2:], pictures.shape[1])
    return torch.randint(0, 256, shape, generator=seeded(seed, 13), dtype=torch.uint8).numpy()


def priced(trained: Trained, pictures: Tensor, contexts: Tensor, variance: Tensor, steps: int, seed: int) -> dict[str, Any]:
    """The bound and its parts, each with its standard error, in bits per value, and the total of each picture.

    `by_t`: the mean of the single L_{t-1} around each t, and for how many timesteps it stands.
    """
    found = likelihood.bound(conditioned(trained.model, contexts), trained.found.schedule, pictures, variance, steps, seed)
    widths = likelihood.strata(trained.found.schedule, 1, steps, seed).widths
    by_t = {"t": found.times.double().mean(0).tolist(), "bits": found.terms.mean(0).tolist(), "timesteps": widths.tolist()}
    values = (found.total, found.prior, found.steps, found.decoder)
    return {name: likelihood.mean_and_error(value) for name, value in zip(PARTS, values)} | {"each": found.total.tolist(), "by_t": by_t}


def gaussian_bits(train: Tensor, pictures: Tensor) -> tuple[float, float]:
    """What pictures cost one who knows the mean and deviation of every value in the training set, and nothing else."""
    mean, scale = train.double().mean(0), train.double().std(0).clamp(min=1 / 255)
    nats = likelihood.discretised_nats(pictures, mean.expand_as(pictures), scale.expand_as(pictures))
    return likelihood.mean_and_error(nats.flatten(1).mean(1) / np.log(2))


def table(found: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    lines = [f"bits per value, mean ± standard error over {found['count']} sprites; 8 would be to know nothing. The bound with the analytic variance, errors at {found['steps']} timesteps", ""]
    lines += ["| | " + " | ".join(PARTS) + " |", "|---" * (len(PARTS) + 1) + "|"]
    for name, row in found["rows"].items():
        cells = [f"{row[part][0]:.3f} ± {row[part][1]:.3f}" if part in row else "" for part in PARTS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    ode, own = found["ode"]["ODE"], np.mean(found["ode"]["bound"])
    return "\n".join([*lines, "", f"cross-check on {len(found['ode']['bound'])} held-out sprites: {ode[0]:.3f} ± {ode[1]:.3f} by the probability-flow ODE, {own:.3f} by the bound"])


def named(weights: Path | None, sources: list[str], reading: Reading, device: torch.device | str = "cpu") -> list[tuple[str, list[tuple[str, float]]]]:
    """Each sprite of PNG pictures with the classes that the network sees in it, the likeliest first, and their probabilities."""
    found = lab.load_weights(weights or lab.FINAL, device)
    names, size = sampling.class_names(found), found.model.picture_shape[1]
    sprites = import_sprites(sources, reading._replace(size=size)).sprites[:SHOWN]
    contexts = torch.eye(len(names), device=device)
    seen = likelihood.classify(fast_network(found.model, lab.fast_dtype(torch.device(device))), found.schedule, sprites.pictures(device), contexts)
    ranked = [sorted(zip(names, row.tolist()), key=lambda pair: -pair[1]) for row in seen.probabilities]
    return [(f"{sprites.class_names[label]} {number + 1}", row) for number, (label, row) in enumerate(zip(sprites.labels, ranked))]
