"""The perfect network for a finite set of sprites: it knows them all and answers by Bayes' rule, without training.

Given x_t = signal_scale * x0 + noise_scale * noise with x0 drawn evenly from the set, the posterior over the sprites is
softmax(-|x_t - signal_scale * sprite|^2 / (2 noise_scale^2)). Everything here is exact, in float64.
"""

from math import log, log2

import torch
from torch import Tensor

from sprites_lab.errors import LabError
from sprites_lab.schedule import NoiseSchedule


class Observer:
    """Knows `sprites` (N, C, H, W) in [-1, 1]; called as observer(x_t, t) it is a noise predictor."""

    def __init__(self, sprites: Tensor, schedule: NoiseSchedule):
        if sprites.ndim != 4 or not len(sprites):
            raise LabError(f"an observer needs sprites (N, C, H, W), at least one; got the shape {tuple(sprites.shape)}")
        self.schedule = schedule
        self.shape = tuple(sprites.shape[1:])
        self.sprites = sprites.detach().cpu().double().flatten(1).clone()
        self.power = self.sprites.square().sum(1)

    def posterior(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        """How likely each sprite is the one behind x_t (B, C, H, W), t in 1..T: float64 (B, N), rows sum to 1."""
        x = x_t.detach().cpu().double().flatten(1)
        signal, spread = self.schedule.scales(t.cpu() if isinstance(t, Tensor) else t, x)
        # |x - s y|^2 without the term in x, which is the same for all sprites
        return ((signal * (x @ self.sprites.T) - 0.5 * signal**2 * self.power) / spread**2).softmax(1)

    def entropy(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        """How unsure the observer is, in bits, float64 (B,): 0 = certain, log2 N = no idea (the "Bob meter")."""
        p = self.posterior(x_t, t)
        return -torch.special.xlogy(p, p).sum(1) / log(2)

    def guess_x0(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        """The best guess at the clean picture, E[x0 | x_t]: the average of the sprites weighted by the posterior."""
        return (self.posterior(x_t, t) @ self.sprites).reshape(-1, *self.shape).to(x_t)

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise that the best guess leaves: the ideal answer of a network, in the shape and dtype of x_t."""
        x = x_t.cpu().double()
        t = t.cpu() if isinstance(t, Tensor) else t
        x0 = (self.posterior(x, t) @ self.sprites).reshape(-1, *self.shape)
        return self.schedule.guess_noise(x, t, x0).to(x_t)

    def max_entropy(self) -> float:
        """log2 N: the bits that "which sprite?" holds."""
        return log2(len(self.sprites))


def bayes_floor(observer: Observer, t: int, count: int = 256, generator: torch.Generator | None = None) -> float:
    """The least mean squared noise error that any network can reach on the set at timestep t (1..T), by `count` draws.

    It is a perfect memoriser's floor: E |noise - E[noise | x_t]|^2 per value.
    """
    generator = generator or torch.Generator().manual_seed(0)
    pick = torch.randint(len(observer.sprites), (count,), generator=generator)
    x0 = observer.sprites[pick].reshape(-1, *observer.shape)
    noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    x_t = observer.schedule.add_noise(x0, t, noise)
    return (observer(x_t, torch.full((count,), t)) - noise).square().mean().item()
