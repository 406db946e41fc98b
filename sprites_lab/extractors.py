"""Pictures to features: the judge's own, and two controls that have seen no label, to show what depends on the judge alone."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sprites_lab.chance import seeded
from sprites_lab.classifier import Judge
from sprites_lab.errors import LabError

Extractor = Callable[[Tensor], Tensor]
NUM_FEATURES = 64  # of the two controls


def extractors(judge: Judge, training: Tensor) -> dict[str, Extractor]:
    """Three ways to turn pictures (N, 3, H, W) in [-1, 1] into features (N, D), by name."""
    return {"classifier": judge.features, "random": random_features(), "pixels": principal_components(training)}


def random_features(seed: int = 0) -> Extractor:
    """A convolutional network with random weights, which nobody has taught anything: (N, 3, 16, 16) to (N, 64)."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seeded(seed, 7).initial_seed())
        network = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * 16, NUM_FEATURES),
        ).eval().requires_grad_(False)
    return lambda pictures: torch.cat([network(part) for part in pictures.split(500)])


def principal_components(pictures: Tensor) -> Extractor:
    """The 64 directions in which pictures (N, 3, H, W) vary most, as a projection of pixels."""
    flat = pictures.flatten(1).double()
    if len(flat) <= NUM_FEATURES:
        raise LabError(f"{len(flat)} pictures cannot give {NUM_FEATURES} principal components; take more than {NUM_FEATURES}")
    mean = flat.mean(0)
    axes = torch.linalg.eigh((flat - mean).T.cov()).eigenvectors[:, -NUM_FEATURES:]
    return lambda pictures: ((pictures.flatten(1).double() - mean) @ axes).float()
