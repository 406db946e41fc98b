"""How good is a network? Its sprites before a judge: what `python -m sprites_lab evaluate` does."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sprites_lab import lab, sampling
from sprites_lab.classifier import Judge
from sprites_lab.data import SPRITES, SpriteSet, context_of, load_sprites, to_bytes, to_pictures
from sprites_lab.errors import LabError
from sprites_lab.samplers import final


def evaluate(
    weights: Path | None = None, classifier: Path | None = None, sprites: Path | None = None, count: int = 500, sampler: str = "ddpm",
    steps: int | None = None, scale: float = 1.0, seed: int = 0, device: str = "auto",
) -> dict[str, Any]:
    """Make `count` sprites of each class and let the classifier name their classes; its own held-out accuracy beside it.

    Returns numbers and lists alone (JSON): the settings, and for the samples and the held-out sprites the confusion, how
    many of each wanted class (row) were taken for each class (column). LabError before any work for what cannot be meant.
    """
    sampling.check_numbers(count, sampler, 0.0, scale, seed)
    place = lab.pick_device(device)
    found = lab.load_weights(weights or lab.FINAL, place)
    num_steps = sampling.steps_of(sampler, steps, found.schedule.timesteps)
    judge, held_out = lab.load_judge(classifier or lab.CLASSIFIER, place), load_sprites(sprites or SPRITES).test
    names = common_names(sampling.class_names(found), judge, held_out)
    samples = []
    for number, name in enumerate(names):
        walks = sampling.walks(found, context_of({name: 1}, names), count, sampler, num_steps, 0.0, scale, seed * len(names) + number)
        bar = lab.progress(walks, -(-count // sampling.BATCH), name)
        samples.append(count_of(torch.cat([taken_for(judge, to_pictures(to_bytes(final(walk)))) for _, walk in bar]), names))
    guesses, labels = taken_for(judge, held_out.pictures()), torch.as_tensor(held_out.labels).long()
    kinds = judge.kind_probabilities(held_out.pictures().to(place)).argmax(1)
    return {
        "weights": str(weights or lab.FINAL.name), "sampler": sampler, "steps": num_steps, "scale": scale, "seed": seed, "count": count,
        "classes": list(names), "samples": samples, "held_out": [count_of(guesses[labels == i], names) for i in range(len(names))],
        "held_out_kinds": (kinds == torch.as_tensor(held_out.kinds).long()).float().mean().item(),
    }


def common_names(names: tuple[str, ...], judge: Judge, held_out: SpriteSet) -> tuple[str, ...]:
    """The classes that network, judge and sprites share, or a LabError if there is nothing to compare."""
    if not names == judge.class_names == held_out.class_names:
        raise LabError(f"the network knows the classes {', '.join(names)}, the classifier {', '.join(judge.class_names)}: they cannot be compared")
    if not len(held_out):
        raise LabError("the sprite file has no held-out sprites, by which the classifier itself could be judged")
    return names


def count_of(taken: Tensor, names: tuple[str, ...]) -> list[int]:
    """How many pictures were taken for each class."""
    return taken.bincount(minlength=len(names)).tolist()


def taken_for(judge: Judge, pictures: Tensor) -> Tensor:
    """The class (N,) that the judge sees in each picture."""
    return judge.class_probabilities(pictures.to(next(judge.model.parameters()).device)).argmax(1)


def accuracies(confusion: list[list[int]]) -> list[float]:
    """The share of each row that lies in its own column, and the mean of these shares."""
    shares = [row[i] / max(1, sum(row)) for i, row in enumerate(confusion)]
    return [*shares, sum(shares) / len(shares)]


def table(found: dict[str, Any]) -> str:
    """The result as lines that a person can read."""
    columns = [*found["classes"], "mean"]
    lines = [f"{found['count']} sprites of each class from {found['weights']}: {found['sampler']}, {found['steps']} steps, scale {found['scale']:g}"]
    lines.append(" " * 30 + "".join(f"{name:>13}" for name in columns))
    for title, confusion in (("class recognised, samples", found["samples"]), ("class recognised, held out", found["held_out"])):
        lines.append(f"{title:30}" + "".join(f"{share:13.1%}" for share in accuracies(confusion)))
    for name, row in zip(found["classes"], found["samples"]):
        lines.append(f"{'asked for ' + name + ', taken for':30}" + "".join(f"{number:13}" for number in row))
    lines.append(f"the classifier names the kind of {found['held_out_kinds']:.1%} of the held-out sprites")
    return "\n".join(lines)
