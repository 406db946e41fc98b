"""The perfect network for a finite set of sprites: it knows them all and answers by Bayes' rule, without training.

Given x_t = signal_scale * x0 + noise_scale * noise with x0 drawn evenly from the set, the posterior over the sprites is
softmax(-|x_t - signal_scale * sprite|^2 / (2 noise_scale^2)). Everything here is exact, in float64.
"""

from collections.abc import Iterator
from math import log, log2

import torch
from torch import Tensor

from sprites_lab.errors import LabError
from sprites_lab.schedule import NoiseSchedule
from sprites_lab.settings import check_whole

PART = 64  # pictures whose posteriors are held at a time
CERTAIN = 0.1  # bits of doubt: the likeliest sprite has 98 % or more


class Observer:
    """Knows `sprites` (N, C, H, W) in [-1, 1]; called as observer(x_t, t) it is a noise predictor."""

    def __init__(self, sprites: Tensor, schedule: NoiseSchedule):
        if sprites.ndim != 4 or not len(sprites):
            raise LabError(f"an observer needs sprites (N, C, H, W), at least one; got the shape {tuple(sprites.shape)}")
        self.schedule = schedule
        self.shape = tuple(sprites.shape[1:])
        self.sprites = sprites.detach().flatten(1).to("cpu", torch.float64, copy=True)
        self.power = torch.linalg.vecdot(self.sprites, self.sprites)

    def posterior(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        """How likely each sprite is the one behind x_t (B, C, H, W), t in 1..T: float64 (B, N), rows sum to 1.

        t (B,) or one for all. LabError for pictures of another size than the sprites', and for t = 0, where all is known.
        """
        t = self.checked(x_t, t)
        x = x_t.detach().cpu().double().flatten(1)
        signal, spread = self.schedule.scales(t, x)
        # |x - s y|^2 without the term in x, which is the same for all sprites
        return (signal * (x @ self.sprites.T)).sub_(0.5 * signal**2 * self.power).div_(spread**2).softmax(1)

    def entropy(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        """How unsure the observer is, in bits, float64 (B,): 0 = certain, log2 N = no idea (the "Bob meter")."""
        return torch.cat([-torch.special.xlogy(p, p).sum(1) / log(2) for p in self.parts(x_t, t)])

    def meter(self, x_t: Tensor, t: Tensor | int) -> list[str]:
        """The Bob meter in words, for each picture: certain (up to 0.1 bits), a few candidates, no idea (over half of log2 N)."""
        names, bounds = ("certain", "a few candidates", "no idea"), torch.tensor([CERTAIN, self.max_entropy() / 2], dtype=torch.float64)
        return [names[place] for place in torch.bucketize(self.entropy(x_t, t), bounds.cummax(0).values).tolist()]

    def guess_x0(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        """The best guess at the clean picture, E[x0 | x_t]: the average of the sprites weighted by the posterior."""
        return self.average(x_t, t).to(x_t)

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise that the best guess leaves: the ideal answer of a network, in the shape and dtype of x_t."""
        x, t = x_t.cpu().double(), t.cpu() if isinstance(t, Tensor) else t
        return self.schedule.guess_noise(x, t, self.average(x, t)).to(x_t)

    def average(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        """E[x0 | x_t] in float64 on the CPU, whatever x_t is."""
        return torch.cat([p @ self.sprites for p in self.parts(x_t, t)]).reshape(-1, *self.shape)

    def parts(self, x_t: Tensor, t: Tensor | int) -> Iterator[Tensor]:
        """The posteriors of a few pictures at a time: memory stays flat, however many there are."""
        times = self.checked(x_t, t).expand(len(x_t))
        return (self.posterior(*both) for both in zip(x_t.split(PART), times.split(PART)))

    def checked(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        """t on the CPU, () or (B,); LabError for pictures and timesteps that do not fit."""
        if tuple(x_t.shape[1:]) != self.shape:
            raise LabError(f"the observer knows sprites {self.shape}, but was shown pictures {tuple(x_t.shape[1:])}")
        if not isinstance(t, Tensor) or not t.ndim:
            return torch.tensor(check_whole("t", t, 1, self.schedule.timesteps, "1 to T"))
        t = t.cpu()
        if t.shape != (len(x_t),) or t.is_floating_point() or not ((t >= 1) & (t <= self.schedule.timesteps)).all():
            raise LabError(f"t must hold {len(x_t)} whole numbers from 1 to {self.schedule.timesteps}, one for each picture, or be one number for all")
        return t

    def max_entropy(self) -> float:
        """log2 N: the bits that "which sprite?" holds."""
        return log2(len(self.sprites))


def bayes_floor(observer: Observer, t: int, count: int = 256, generator: torch.Generator | None = None) -> float:
    """The least mean squared noise error that any network can reach on the set at timestep t (1..T), by `count` draws.

    It is a perfect memoriser's floor: E |noise - E[noise | x_t]|^2 per value.
    """
    t, count = check_whole("t", t, 1, observer.schedule.timesteps), check_whole("count", count, 1, 1_000_000)
    generator = generator or torch.Generator().manual_seed(0)
    pick = torch.randint(len(observer.sprites), (count,), generator=generator)
    x0 = observer.sprites[pick].reshape(-1, *observer.shape)
    noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    x_t = observer.schedule.add_noise(x0, t, noise)
    return (observer(x_t, torch.full((count,), t)) - noise).square().mean().item()
