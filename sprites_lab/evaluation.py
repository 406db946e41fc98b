"""How good are a network's sprites? All measures in one table, beside yardsticks: what `python -m sprites_lab evaluate` does."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sprites_lab import checkpoints, lab, metrics, sampling
from sprites_lab.chance import seeded
from sprites_lab.classifier import Judge
from sprites_lab.data import SPRITES, SpriteSet, context_of, load_sprites, to_bytes, to_pictures
from sprites_lab.errors import LabError
from sprites_lab.extractors import Extractor, extractors
from sprites_lab.neighbours import nearest
from sprites_lab.samplers import final
from sprites_lab.start import FittedStart
from sprites_lab.team import Team
from sprites_lab.walks import DDPM, Walk, check_names, fitted_start

NEAR, COPIES = 2000, 1000  # sprites that the measures of neighbourhoods and of copies look at: they take the square of it
FRESH = 1_000_003  # new sprites are drawn with this seed and the next ones, which nobody draws a training set with
MEANING = {  # what is measured: its name in the table, and one sentence
    "class_acc": ("class recognised", "share of the sprites whose class the classifier names as it was asked for; good: the held-out share"),
    "fd_train": ("FD training", "Fréchet distance to the training sprites in the classifier's features; good: that of new sprites"),
    "fd_held_out": ("FD held out", "the same to the held-out sprites, which copying does not help; good: that of new sprites"),
    "fd_inf": ("FD inf", "FD training, extrapolated to endlessly many made sprites; good: that of new sprites"),
    "kd": ("kernel distance", "unbiased distance to the training sprites in the same features; good: 0 within the ± over the seeds"),
    "fd_random": ("FD random", "FD training in the features of an untrained network: the classifier's taste left out; good: that of new sprites"),
    "fd_pixels": ("FD pixels", "FD training in 64 principal components of the pixels; good: that of new sprites"),
    "sw_pixels": ("sliced W2", "sliced Wasserstein distance of the pixels to training sprites; good: that of new sprites"),
    "precision": ("precision", "share of the sprites that lie among the held-out ones: do they look right? good: that of new sprites"),
    "recall": ("recall", "share of the held-out sprites that lie among the made ones: is nothing left out? good: that of new sprites"),
    "density": ("density", "precision that counts how many held-out sprites are near; 1 is natural"),
    "coverage": ("coverage", "share of the held-out sprites with a made one near; good: that of new sprites"),
    "copy_rate": ("copy rate", f"share nearer than {metrics.COPY:g}/255 to a training sprite or its mirror image; good: that of new sprites, not less and not more"),
    "authentic": ("authentic", "share farther from its nearest training sprite than that one is from its own nearest; a memoriser has 0; good: that of new sprites"),
    "c_t": ("C_T", "are they nearer to training than held-out sprites are? good: that of new sprites; far below: copying, far above: blurry or wrong"),
    "colours": ("colours, W1", "how far the number of colours per sprite is off; good: that of new sprites, near 0"),
    "border": ("white border, W1", "how far the share of white border pixels is off; good: 0"),
    "crispness": ("crispness, W1", "how far the share of equal neighbouring pixels is off (noise has none); good: near 0"),
    "palette": ("palette, bits", "how different the colours of all sprites are, 0 (equal) to 1 (nothing in common)"),
}
Made = tuple[np.ndarray, np.ndarray]  # sprites uint8 (N, 16, 16, 3) and the class (N,) that each was made for


class Reference(NamedTuple):
    """What sprites are compared with: the judge, both splits, their features, how near held-out sprites come to training.

    The held-out sprites, and what belongs to them, are in a fixed chance order; `files` are the SHA-256 of both files.
    """

    judge: Judge
    train: SpriteSet
    test: SpriteSet
    extract: dict[str, Extractor]
    train_features: dict[str, Tensor]
    test_features: Tensor
    test_distance: np.ndarray
    files: dict[str, str]


def reference(classifier: Path | None = None, sprites: Path | None = None, device: torch.device | str = "cpu") -> Reference:
    """The shipped judge and sprites, or those of the files, with all features computed once."""
    paths = {"classifier": Path(classifier or lab.CLASSIFIER), "sprites": Path(sprites or SPRITES)}
    judge, whole = lab.load_judge(paths["classifier"], device), load_sprites(paths["sprites"])
    files = {name: checkpoints.sha256_of(path) for name, path in paths.items()}
    if whole.sprites.shape[1:] != (16, 16, 3):
        raise LabError(f"the sprites are {whole.sprites.shape[2]}x{whole.sprites.shape[1]} pixels, but the classifier reads 16x16")
    if judge.facts.get("sprites_sha256") != files["sprites"]:
        raise LabError(f"{paths['classifier']} was trained on other sprites than {paths['sprites']}, so it may have seen held-out ones: train one with `train-classifier --sprites {paths['sprites']}` and give it with --classifier")
    if judge.class_names != whole.class_names:
        raise LabError(f"the classifier knows the classes {', '.join(judge.class_names)}, the sprites have {', '.join(whole.class_names)}")
    if not len(whole.test):
        raise LabError("the sprite file has no held-out sprites, with which sprites could be compared")
    test, pictures = whole.test[shuffled(len(whole.test), 8)], whole.train.pictures()
    extract = extractors(judge, pictures)
    found = {name: extractor(pictures) for name, extractor in extract.items()}
    distance = nearest(test.sprites, whole.train.sprites)[0]
    return Reference(judge, whole.train, test, extract, found, judge.features(test.pictures()), distance, files)


def measure(made: Made, ref: Reference, seed: int = 0) -> dict[str, float]:
    """Every measure of MEANING for one set of made sprites."""
    sprites, labels = made
    pictures, chance = to_pictures(sprites), seeded(seed, 3)
    features = {name: extract(pictures) for name, extract in ref.extract.items()}
    own, train = features["classifier"], ref.train_features
    some = torch.randperm(len(ref.train), generator=chance)[: len(sprites)]
    near = metrics.neighbourhoods(own[:NEAR], ref.test_features[:NEAR])
    copied = metrics.copies(sprites[:COPIES], labels[:COPIES], ref.train.sprites, ref.test_distance, ref.test.labels)
    ours, theirs = metrics.palette(sprites), metrics.palette(ref.test.sprites)
    return {
        "class_acc": float((taken_for(ref.judge, sprites) == labels).mean()),
        "fd_train": metrics.frechet(own, train["classifier"]), "fd_held_out": metrics.frechet(own, ref.test_features),
        "fd_inf": metrics.frechet_extrapolated(own, train["classifier"], chance),
        "kd": metrics.kernel_distance(own, train["classifier"], chance, subsets=30).mean,
        "fd_random": metrics.frechet(features["random"], train["random"]), "fd_pixels": metrics.frechet(features["pixels"], train["pixels"]),
        "sw_pixels": metrics.sliced_wasserstein(pictures.flatten(1)[: len(some)], ref.train[some.numpy()].pictures().flatten(1), chance),
        **near._asdict(), **copied._asdict(),
        "colours": metrics.wasserstein(ours.colours, theirs.colours), "border": metrics.wasserstein(ours.white_border, theirs.white_border),
        "crispness": metrics.wasserstein(ours.crispness, theirs.crispness), "palette": metrics.jensen_shannon(ours.histogram, theirs.histogram),
    }


def yardsticks(fresh: SpriteSet, ref: Reference, seed: int) -> dict[str, Made]:
    """Sets of sprites whose quality is known, each of len(fresh): copies, and ways to be bad."""
    pictures = fresh.pictures()
    noised = pictures + 0.1 * torch.randn(pictures.shape, generator=seeded(seed, 4))
    padded = torch.nn.functional.pad(pictures, (1, 1, 1, 1), mode="replicate")
    blurred = torch.nn.functional.avg_pool2d(padded, 3, 1)
    rows = shuffled(len(ref.train), seed, 5)[: len(fresh)]
    return {
        "memoriser": (ref.train.sprites[rows], ref.train.labels[rows]),
        "blurred": (to_bytes(blurred), fresh.labels),
        "noised": (to_bytes(noised), fresh.labels),
        "noise": (to_bytes(torch.randn(pictures.shape, generator=seeded(seed, 9))), fresh.labels),
        "labels shuffled": (fresh.sprites, fresh.labels[shuffled(len(fresh), seed, 6)]),
    }


def shuffled(count: int, *key: int) -> np.ndarray:
    """The numbers below count in an order that follows from the key."""
    return torch.randperm(count, generator=seeded(*key)).numpy()


class Task(NamedTuple):
    """What is to be measured: a network and how it is walked."""

    found: checkpoints.Checkpoint
    name: str
    sha256: str
    count: int
    seeds: int
    walk: Walk
    start: FittedStart | None


def open_task(
    weights: Path | None = None, count: int = 10_000, seeds: int = 3, walk: Walk = Walk(), device: torch.device | str = "cpu", sprites: Path | None = None,
) -> Task:
    """The shipped network or that of a file, or a LabError for what cannot be meant, before any work.

    `sprites`: what the network was trained on, for a fitted start (the bundled set).
    """
    sampling.check_numbers(count)
    check_names(walk)
    if not 1 <= seeds <= 100:
        raise LabError(f"--seeds is {seeds}, but must be from 1 to 100")
    path = Path(weights or lab.FINAL)
    found = lab.load_weights(path, device)
    walk = walk.checked(found.schedule.timesteps, found.facts, DDPM)
    sampling.class_names(found)
    start = fitted_start(found, sprites) if walk.start == "fitted" else None
    return Task(found, path.name, checkpoints.sha256_of(path), count, seeds, walk, start)


def make(task: Task, seed: int, team: Team = Team()) -> Made:
    """The sprites of one seed, as many for each class, in mixed order.

    The workers of a team make them together; only the first one has them in the end, the others none.
    """
    names = sampling.class_names(task.found)
    sprites = [drawn(task, seed, number, context_of({name: 1}, names), team) for number, name in enumerate(names)]
    labels = np.concatenate([np.full(len(some), number) for number, some in enumerate(sprites)])
    order = shuffled(len(labels), seed, 7)
    return np.concatenate(sprites)[order], labels[order]


def make_unasked(task: Task, seed: int, team: Team = Team()) -> np.ndarray:
    """As many sprites without context as `make` makes for one class, (N, H, W, C)."""
    classes = len(sampling.class_names(task.found))
    return drawn(task, seed, classes, torch.zeros(classes), team)


def drawn(task: Task, seed: int, number: int, context: Tensor, team: Team) -> np.ndarray:
    """The sprites of one context, whose `number` gives them their own noise, (N, H, W, C)."""
    classes, (channels, height, width) = len(sampling.class_names(task.found)), task.found.model.picture_shape
    count = -(-task.count // classes)
    walks, total = sampling.walks(task.found, context, count, task.walk, seed * (classes + 1) + number, task.start, team=team), -(-count // sampling.BATCH)
    batches = team.in_order((to_bytes(finite(final(walk))) for _, walk in walks), total)
    label = f"seed {seed}, context {number + 1} of {classes + 1}"
    return np.concatenate([np.empty((0, height, width, channels), np.uint8), *(lab.progress(batches, total, label) if team.first else batches)])


def evaluate(
    task: Task, ref: Reference, draw_fresh: Callable[[int, int], SpriteSet] | None, look: Callable[[np.ndarray, np.ndarray], None] | None = None,
    alone: bool = False, team: Team = Team(),
) -> dict[str, Any]:
    """Measure a network with each seed, beside yardsticks of the same count; numbers, texts and lists alone (JSON).

    draw_fresh(count, seed) draws real sprites, nearly all of which are not in the file; None where no one can. `look` is shown the first seed's
    sprites, as they come, and as many real ones. `alone` leaves out the yardsticks but new sprites. Of a team, the first worker
    measures what all make; the others return nothing in it.
    """
    check_fit(task, ref)
    title = f"{task.name}, {task.walk}"
    rows: dict[str, list[dict[str, float]]] = {}
    confusion, free = np.zeros((len(ref.judge.class_names),) * 2, int), []
    for seed in range(task.seeds):
        made, unasked = make(task, seed, team), make_unasked(task, seed, team)
        if not team.first:
            continue
        count = len(made[0])
        title_of_real, fresh = real_sprites(draw_fresh, ref, count, seed)
        if look and not seed:
            look(made[0], fresh.sprites[shuffled(count, 0, 10)])
        beside = {title_of_real: (fresh.sprites, fresh.labels)} | ({} if alone else yardsticks(fresh, ref, seed))
        for name, sprites in {title: made, **beside}.items():
            rows.setdefault(name, []).append(measure(sprites, ref, seed))
        confusion += confused(ref.judge, *made)
        free.append(np.bincount(taken_for(ref.judge, unasked), minlength=len(confusion)) / len(unasked))
    return report(task, ref, rows, confusion, np.mean(free, 0)) if team.first else {}


def report(task: Task, ref: Reference, rows: dict[str, list[dict[str, float]]], confusion: np.ndarray, unasked: np.ndarray) -> dict[str, Any]:
    """All that was measured, and of what, as numbers, texts and lists; the first of the rows is the network's."""
    return {
        "network": next(iter(rows)), "network_sha256": task.sha256, **{f"{name}_sha256": sha for name, sha in ref.files.items()},
        "scale": task.walk.scale, "count": int(confusion.sum()) // task.seeds, "seeds": task.seeds, "classes": list(ref.judge.class_names), "rows": rows,
        "confusion": confusion.tolist(), "held_out_confusion": confused(ref.judge, ref.test.sprites, ref.test.labels).tolist(),
        "unasked": unasked.tolist(),
    }


def finite(pictures: Tensor) -> Tensor:
    """The pictures themselves, or a LabError if a walk has left the numbers."""
    if not pictures.isfinite().all():
        raise LabError("the walk ended in values that are no finite numbers; use a smaller --scale, or other weights")
    return pictures


def real_sprites(draw_fresh: Callable[[int, int], SpriteSet] | None, ref: Reference, count: int, seed: int) -> tuple[str, SpriteSet]:
    """`count` real sprites as the floor of every measure, and what they are: newly drawn, or else the held-out ones, again and again."""
    if draw_fresh:
        return "new sprites", unseen(draw_fresh(count * 21 // 20, FRESH + seed), ref, count)
    return "held-out sprites, repeated", ref.test[np.arange(count) % len(ref.test)]


def unseen(fresh: SpriteSet, ref: Reference, count: int) -> SpriteSet:
    """The first `count` of the fresh sprites that are in neither split of the file, nor mirror images of what is there."""
    there = {image.tobytes() for sprites in (ref.train.sprites, ref.test.sprites) for image in sprites}
    rows = [i for i, sprite in enumerate(fresh.sprites) if sprite.tobytes() not in there and sprite[:, ::-1].tobytes() not in there]
    if len(rows) < count:
        raise LabError(f"only {len(rows)} of {len(fresh)} newly drawn sprites are not in the sprite file, {count} are needed as a yardstick")
    return fresh[rows[:count]]


def check_fit(task: Task, ref: Reference) -> None:
    """LabError unless network, judge and sprites fit together and there are enough sprites for every measure."""
    if sampling.class_names(task.found) != ref.judge.class_names:
        raise LabError(f"the network knows other classes than the classifier ({', '.join(ref.judge.class_names)}): they cannot be compared")
    if task.found.model.picture_shape != (3, 16, 16):
        raise LabError(f"the network draws {task.found.model.picture_shape[1]} pixels, but the classifier reads 16x16")
    if task.found.facts.get("sprites_sha256", ref.files["sprites"]) != ref.files["sprites"]:
        raise LabError(f"{task.name} was trained on other sprites than those of the file, so it may have seen held-out ones; give its sprites with --sprites")
    width = max(features.shape[1] for features in ref.train_features.values())
    if not 2 * (width + 1) <= task.count <= len(ref.train):
        raise LabError(f"--count is {task.count}, but must be from {2 * (width + 1)} ({width} features) to {len(ref.train)} (as many as the training sprites)")
    if len(ref.test) <= width:
        raise LabError(f"the sprite file holds out {len(ref.test)} sprites, too few for {width} features")


def taken_for(judge: Judge, sprites: np.ndarray) -> np.ndarray:
    """The class (N,) that the judge sees in each sprite."""
    return judge.class_probabilities(to_pictures(sprites)).argmax(1).numpy()


def confused(judge: Judge, sprites: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many sprites of each wanted class (row) are taken for each class (column)."""
    size = len(judge.class_names)
    return np.bincount(size * labels.astype(int) + taken_for(judge, sprites), minlength=size * size).reshape(size, size)


def accuracies(confusion: Iterable[Iterable[int]]) -> list[float]:
    """The share of each row that lies in its own column, and the mean of these shares."""
    shares = [row[i] / max(1, sum(row)) for i, row in enumerate(map(list, confusion))]
    return [*shares, sum(shares) / len(shares)]


def table(found: dict[str, Any]) -> str:
    """The result as a Markdown table that a person can read: measures by row, sets by column, then who was taken for whom."""
    names = list(found["rows"])
    lines = [
        f"{found['count']:,} sprites, {found['seeds']} seed{'s, mean ± standard deviation over them' if found['seeds'] > 1 else ''}; guidance scale {found['scale']:g}", "",
        "| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|",
    ]
    for key, (title, _) in MEANING.items():
        values = [[row[key] for row in rows] for rows in found["rows"].values()]
        lines.append(f"| {title} | " + " | ".join(map(shown, values)) + " |")
    own, held_out = (accuracies(found[name]) for name in ("confusion", "held_out_confusion"))
    lines += ["", "| asked for | recognised | held-out sprites recognised | taken for " + ", ".join(found["classes"]) + " | drawn without context |", "|---" * 5 + "|"]
    for i, name in enumerate(found["classes"]):
        lines.append(f"| {name} | {own[i]:.1%} | {held_out[i]:.1%} | {', '.join(map(str, found['confusion'][i]))} | {found['unasked'][i]:.1%} |")
    return "\n".join([*lines, f"| all | {own[-1]:.1%} | {held_out[-1]:.1%} | | |"])


def shown(values: list[float]) -> str:
    """Mean and deviation in three digits."""
    mean = f"{np.mean(values):.3g}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.1g}"


def meanings() -> str:
    """One line for each measure: what it means and which values are good."""
    return "\n".join(f"{title}: {sentence}" for title, sentence in MEANING.values())
