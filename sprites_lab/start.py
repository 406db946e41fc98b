"""Where a walk begins: at T a noised sprite is not quite pure noise, and few steps cannot repair a wrong start."""

import torch
from torch import Tensor

from sprites_lab.errors import LabError
from sprites_lab.schedule import NoiseSchedule


class FittedStart:
    """Turns standard normal noise into an x_T with the mean and covariance that noised pictures (N, C, H, W) really have at T.

    mean signal_scale mu, covariance signal_scale^2 C + noise_scale^2 I, from the mu and C of the pictures; of all the noises
    with that covariance the one nearest to the given noise (its symmetric root). Costs one eigendecomposition, no network call.
    """

    def __init__(self, pictures: Tensor, schedule: NoiseSchedule):
        if pictures.ndim != 4 or len(pictures) < 2:
            raise LabError(f"a fitted start needs pictures (N, C, H, W), at least 2; got the shape {tuple(pictures.shape)}")
        self.shape = tuple(pictures.shape[1:])
        values = pictures.detach().cpu().double().flatten(1)
        signal, spread = schedule.signal_scale[-1], schedule.noise_scale[-1]
        self.mean = signal * values.mean(0)
        centred = signal * values - self.mean
        powers, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
        self.root = (axes * (powers.clamp(min=0) + spread**2).sqrt()) @ axes.T

    def __call__(self, noise: Tensor) -> Tensor:
        """x_T for standard normal noise (B, C, H, W), in its dtype and on its device."""
        if tuple(noise.shape[1:]) != self.shape:
            raise LabError(f"the start was fitted to pictures {self.shape}, but the noise has the shape {tuple(noise.shape[1:])}")
        return (noise.flatten(1) @ self.root.to(noise) + self.mean.to(noise)).reshape(noise.shape)
