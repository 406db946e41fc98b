"""What may be changed in a training besides its numbers: other losses, other draws of t, another fall of the learning rate."""

from math import cos, pi

import torch
from torch import Tensor, nn

from sprites_lab.schedule import NoiseSchedule
from sprites_lab.settings import check_number


def min_snr_loss(model: nn.Module, schedule: NoiseSchedule, x0: Tensor, context: Tensor, t: Tensor, noise: Tensor, gamma: float = 5.0) -> Tensor:
    """The noise loss with weight min(SNR, gamma) / SNR, SNR = alpha_bar / (1 - alpha_bar): easy timesteps count less.

    Hang et al. 2023 (arXiv 2303.09556), for predicted noise; at gamma 5 and the course's schedule it changes only t < 93.
    """
    check_number("gamma", gamma, 1e-6, 1e9, "Hang et al. use 5")
    signal, spread = schedule.scales(t, x0)
    snr = (signal / spread).square()
    error = (model(schedule.add_noise(x0, t, noise), t, context).to(noise) - noise).square()
    return (error * snr.clamp(max=gamma) / snr).mean()


def forgotten_root_loss(model: nn.Module, schedule: NoiseSchedule, x0: Tensor, context: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """The noise loss with a mistake that public code has made: noise times 1 - alpha_bar where its root belongs.

    For chapter 4, which measures what it costs. At t = 50 the network is shown about as much noise as belongs to t = 10.
    """
    signal, spread = schedule.scales(t, x0)
    return nn.functional.mse_loss(model(signal * x0 + spread.square() * noise, t, context).to(noise), noise)


def velocity_loss(model: nn.Module, schedule: NoiseSchedule, x0: Tensor, context: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the velocity signal_scale noise - noise_scale x0: the noise loss with weight 1 / alpha_bar.

    Salimans and Ho 2022 (arXiv 2202.00512), section 4. Errors in x0 weigh SNR + 1: also where noise hides nearly all of it.
    """
    signal, _ = schedule.scales(t, x0)
    return ((model(schedule.add_noise(x0, t, noise), t, context).to(noise) - noise) / signal).square().mean()


def stratified_t(count: int, timesteps: int, generator: torch.Generator) -> Tensor:
    """Timesteps spread evenly over 1..T by one common offset: each equally likely, no batch all easy (Kingma et al. 2021)."""
    places = (torch.rand(1, generator=generator) + torch.arange(count) / count) % 1
    return (1 + (places * timesteps).long()).clamp(max=timesteps)[torch.randperm(count, generator=generator)]


def warm_cosine(update: int, per_epoch: int, epochs: int, warm_up: int = 200) -> float:
    """A learning rate that rises for the first updates and then falls to 0 along half a cosine (Loshchilov, Hutter 2017)."""
    return min(1, (update + 1) / warm_up) * (1 + cos(pi * update / (epochs * per_epoch))) / 2
