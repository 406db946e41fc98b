"""The judge: a small network that names the kind of a finished sprite, and whose features other measures compare.

It never sees the held-out sprites, and nothing that makes sprites ever sees it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sprites_lab import checkpoints
from sprites_lab.chance import seeded
from sprites_lab.data import SpriteSet
from sprites_lab.errors import LabError
from sprites_lab.settings import check_whole

EPOCHS, BATCH, LEARNING_RATE = 20, 100, 2e-3
NOISE = 0.1  # largest standard deviation of the noise that training adds to a sprite


class SpriteClassifier(nn.Module):
    """Sprites (B, 3, 16, 16) in [-1, 1] to scores of kinds (B, kinds) and the picture as 4x4 mean colours (B, 48).

    `features` gives what both are read from, (B, 128). The second task keeps colour and place in the features, which
    names alone would drop.
    """

    def __init__(self, num_kinds: int, num_features: int = 128):
        super().__init__()
        self.settings = dict(num_kinds=num_kinds, num_features=num_features)
        self.body = nn.Sequential(
            *block(3, 32), *block(32, 64), nn.MaxPool2d(2), *block(64, 128), nn.MaxPool2d(2), *block(128, 128), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(128 * 4, num_features),
        )
        self.kinds = nn.Sequential(nn.GELU(), nn.Linear(num_features, num_kinds))
        self.coarse = nn.Linear(num_features, 48)

    def features(self, pictures: Tensor) -> Tensor:
        """What the network knows of each sprite: (B, num_features)."""
        return self.body(pictures)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(pictures)
        return self.kinds(features), self.coarse(features)


def block(in_features: int, out_features: int) -> tuple[nn.Module, ...]:
    """3x3 convolution, batch norm, GELU."""
    return nn.Conv2d(in_features, out_features, 3, padding=1, bias=False), nn.BatchNorm2d(out_features), nn.GELU()


class Judge(NamedTuple):
    """A trained classifier with the names it knows; class_of[kind] is the class of a kind."""

    model: SpriteClassifier
    kind_names: tuple[str, ...]
    class_names: tuple[str, ...]
    class_of: Tensor
    facts: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def features(self, pictures: Tensor, batch: int = 500) -> Tensor:
        """Features (N, 128), float32 on the CPU, of pictures (N, 3, 16, 16) in [-1, 1], wherever they are."""
        return torch.cat([self.model.features(part.to(self.device)).float().cpu() for part in pictures.split(batch)])

    @torch.no_grad()
    def kind_probabilities(self, pictures: Tensor, batch: int = 500) -> Tensor:
        """p(kind | picture), (N, kinds), on the CPU."""
        return torch.cat([self.model(part.to(self.device))[0].float().softmax(1).cpu() for part in pictures.split(batch)])

    def class_probabilities(self, pictures: Tensor) -> Tensor:
        """p(class | picture), (N, classes): the sum over the kinds of the class."""
        kinds = self.kind_probabilities(pictures)
        return torch.zeros(len(kinds), len(self.class_names)).index_add_(1, self.class_of, kinds)


def train_classifier(
    model: SpriteClassifier, sprites: SpriteSet, epochs: int = EPOCHS, seed: int = 0, device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
) -> Iterator[tuple[int, float]]:
    """Train in place on the sprites (give it the training split alone), yielding (updates, loss) after each update."""
    check_task(model, sprites, epochs)
    pictures, kinds = sprites.pictures(device), torch.as_tensor(sprites.kinds).long().to(device)
    per_epoch = -(-len(pictures) // BATCH)
    optimizer = torch.optim.AdamW(model.to(device).parameters(), weight_decay=1e-2)
    for update in range(epochs * per_epoch):
        epoch, position = divmod(update, per_epoch)
        order = torch.randperm(len(pictures), generator=seeded(seed, epoch, 0)).to(device)
        rows = order[position * BATCH : (position + 1) * BATCH]
        model.train()
        loss = two_tasks(model, pictures[rows], kinds[rows], seeded(seed, update, 1), autocast)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - update / (epochs * per_epoch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.eval()
        yield update + 1, loss.item()


def check_task(model: SpriteClassifier, sprites: SpriteSet, epochs: int) -> None:
    """LabError for sprites or epochs that the classifier cannot be trained with."""
    check_whole("epochs", epochs, 1, 10**9)
    if not len(sprites) or model.settings["num_kinds"] != len(sprites.kind_names):
        raise LabError(f"{len(sprites)} sprites of {len(sprites.kind_names)} kinds cannot train a classifier of {model.settings['num_kinds']} kinds")
    if sprites.sprites.shape[1:] != (16, 16, 3):
        raise LabError(f"the sprites are {sprites.sprites.shape[2]}x{sprites.sprites.shape[1]} pixels, but the classifier reads 16x16")


def two_tasks(model: SpriteClassifier, pictures: Tensor, kinds: Tensor, generator: torch.Generator, autocast: torch.dtype | None) -> Tensor:
    """Name the kind (cross-entropy) and give the 4x4 mean colours (squared error) of pictures that were moved and noised."""
    clean = move(pictures, generator)
    amount = NOISE * torch.rand(len(clean), 1, 1, 1, generator=generator)
    seen = clean + (amount * torch.randn(clean.shape, generator=generator)).to(clean)
    with torch.autocast(seen.device.type, autocast, enabled=autocast is not None):
        scores, coarse = model(seen)
    named = nn.functional.cross_entropy(scores.float(), kinds, label_smoothing=0.05)
    return named + nn.functional.mse_loss(coarse.float(), nn.functional.avg_pool2d(clean, 4).flatten(1))


def move(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture (N, 3, H, W) shifted by up to one pixel, white coming in, and mirrored with probability 1/2."""
    n, _, height, width = pictures.shape
    y, x = (torch.arange(size) + torch.randint(0, 3, (n, 1), generator=generator) for size in (height, width))
    x = torch.where(torch.rand(n, 1, generator=generator) < 0.5, x, x.flip(1))
    padded = nn.functional.pad(pictures, (1, 1, 1, 1), value=1.0).permute(0, 2, 3, 1)
    rows = torch.arange(n)[:, None, None].to(pictures.device)
    return padded[rows, y[:, :, None].to(pictures.device), x[:, None, :].to(pictures.device)].permute(0, 3, 1, 2)


def new_classifier(num_kinds: int, num_features: int = 128, seed: int = 0) -> SpriteClassifier:
    """An untrained classifier whose weights follow from the seed; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seeded(seed).initial_seed())
        return SpriteClassifier(num_kinds, num_features)


def classes_of_kinds(sprites: SpriteSet) -> list[int]:
    """The class of each kind, by its sprites; LabError for a kind that has none, or more than one."""
    found = [np.unique(sprites.labels[sprites.kinds == kind]) for kind in range(len(sprites.kind_names))]
    for name, classes in zip(sprites.kind_names, found):
        if len(classes) != 1:
            fault = "no sprite shows" if not len(classes) else "sprites of several classes show"
            raise LabError(f"{fault} the kind {name}, so it has no class by which the classifier could be judged")
    return [int(classes[0]) for classes in found]


def save_classifier(path: str | Path, model: SpriteClassifier, sprites: SpriteSet, facts: dict[str, Any]) -> None:
    """Write the classifier as float16 with the names it knows, as our weights are written: checked and in one move."""
    tensors = {f"model/{name}": checkpoints.prepare(tensor, half=True) for name, tensor in model.state_dict().items()}
    names = {
        "classifier": model.settings, "kinds": list(sprites.kind_names), "classes": list(sprites.class_names), "class_of": classes_of_kinds(sprites),
    }
    checkpoints.save_tensors(path, tensors, names | facts)


def load_classifier(path: str | Path, device: torch.device | str = "cpu") -> Judge:
    """Read a classifier through the same gates as all weights."""
    path = Path(path)
    if not path.exists():
        raise LabError(f"there is no classifier {path}; the shipped one is weights/classifier.safetensors, and `python -m sprites_lab train-classifier` makes a new one")
    data = checkpoints.read_bytes(path)
    facts, sha, shapes = checkpoints.read_header(path, data)
    settings, kinds, classes, class_of = read_names(path, facts)
    with torch.device("meta"):  # shapes without memory
        expected = SpriteClassifier(**settings).state_dict()
    checkpoints.check_shapes(path, expected, {name.removeprefix("model/"): shape for name, shape in shapes.items()}, "model")
    tensors = checkpoints.read_tensors(path, data, facts, sha)
    model = new_classifier(**settings)
    checkpoints.fill(path, model, {name.removeprefix("model/"): tensor for name, tensor in tensors.items()})
    return Judge(model.to(device).eval(), kinds, classes, class_of, facts)


def read_names(path: Path, facts: dict[str, Any]) -> tuple[dict[str, int], tuple[str, ...], tuple[str, ...], Tensor]:
    """Sizes, kinds, classes and the class of each kind from the header, or a LabError if they do not fit together."""
    try:
        settings = {name: facts["classifier"][name] for name in ("num_kinds", "num_features")}
        kinds, classes, class_of = tuple(facts["kinds"]), tuple(facts["classes"]), torch.tensor(facts["class_of"], dtype=torch.long)
        if not all(type(value) is int and 1 <= value <= 10_000 for value in settings.values()):
            raise ValueError("a size is no whole number from 1 to 10000")
        if len(kinds) != settings["num_kinds"] or class_of.shape != (len(kinds),):
            raise ValueError("there is not one name and one class for each kind")
        if not 0 <= class_of.min() <= class_of.max() < len(classes):
            raise ValueError("a kind has no class")
    except (LookupError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise LabError(f"{path} holds no classifier ({error}); the shipped one is weights/classifier.safetensors") from error
    return settings, kinds, classes, class_of
