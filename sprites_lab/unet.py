"""The network that looks at a noisy sprite and says which part of it is noise."""

from functools import partial
from math import log

import torch
from torch import Tensor, nn

from sprites_lab.errors import LabError
from sprites_lab.settings import check_whole


class ConvBlock(nn.Module):
    """Two times (3x3 convolution, batch norm or group norm, GELU): (B, in, h, w) -> (B, out, h, w).

    With `residual`, the input is added through a 1x1 convolution and the sum divided by the original's 1.414.
    """

    def __init__(self, in_features: int, out_features: int, residual: bool = False, group_norm: bool = False):
        super().__init__()
        norm = partial(nn.GroupNorm, 8) if group_norm else nn.BatchNorm2d
        self.conv1 = nn.Sequential(nn.Conv2d(in_features, out_features, 3, padding=1), norm(out_features), nn.GELU())
        self.conv2 = nn.Sequential(nn.Conv2d(out_features, out_features, 3, padding=1), norm(out_features), nn.GELU())
        self.shortcut = nn.Conv2d(in_features, out_features, 1) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x))
        return out if self.shortcut is None else (self.shortcut(x) + out) / 1.414


class Embedding(nn.Module):
    """A few numbers per picture (B, in) as an image of features (B, out, 1, 1)."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(in_features, out_features), nn.GELU(), nn.Linear(out_features, out_features))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)[:, :, None, None]


OPTIONS = ("rich_time", "velocity", "group_norm")  # what a ContextUnet may have beyond the course's
WAVES = 64  # numbers by which `waves` tells a timestep


def waves(t: Tensor) -> Tensor:
    """A timestep t (B,) as sines and cosines of 32 wavelengths, from 2 pi to 2 pi * 10,000 steps: (B, 64) (Ho et al. 2020, appendix B).

    Neighbouring small t look different, which the one number t/T hardly lets a network see.
    """
    frequencies = torch.exp(-log(10_000) * torch.arange(WAVES // 2, device=t.device) / (WAVES // 2 - 1))
    angles = t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


class ContextUnet(nn.Module):
    """The course's U-Net, a noise predictor (after Pearce, Conditional_Diffusion_MNIST; Ronneberger et al. 2015).

    Call it with x_t (B, channels, height, height), t (B,) integers 1..timesteps and context (B, context_size) or None
    for "no context"; it answers the predicted noise, in the shape of x_t. At the defaults: 1,481,027 parameters.

    Three options are not the course's. `rich_time`: it reads t as `waves`, and the encoder is told t as well (28,736
    parameters more). `velocity`: the layers answer the velocity, which `forward` turns into the noise, see `follow`.
    `group_norm`: group norm in place of batch norm.
    """

    def __init__(
        self, features: int = 64, context_size: int = 5, height: int = 16, channels: int = 3, timesteps: int = 500,
        rich_time: bool = False, velocity: bool = False, group_norm: bool = False,
    ):
        super().__init__()
        features, context_size, height, channels, timesteps = check_sizes(features, context_size, height, channels, timesteps)
        self.settings = dict(features=features, context_size=context_size, height=height, channels=channels, timesteps=timesteps)
        self.settings |= {name: True for name, chosen in zip(OPTIONS, (rich_time, velocity, group_norm)) if chosen}
        f, numbers, block = features, WAVES if rich_time else 1, partial(ConvBlock, group_norm=group_norm)
        # signal_scale and noise_scale at t = 0..T; they belong to the schedule, not to the weights
        self.register_buffer("scales", torch.full((2, timesteps + 1), torch.nan) if velocity else None, persistent=False)
        self.init_conv = block(channels, f, residual=True)
        self.down1 = nn.Sequential(block(f, f), block(f, f), nn.MaxPool2d(2))
        self.down2 = nn.Sequential(block(f, 2 * f), block(2 * f, 2 * f), nn.MaxPool2d(2))
        self.to_vector = nn.Sequential(nn.AvgPool2d(height // 4), nn.GELU())
        self.time_embed1, self.time_embed2 = Embedding(numbers, 2 * f), Embedding(numbers, f)
        self.time_down1, self.time_down2 = (Embedding(numbers, f), Embedding(numbers, f)) if rich_time else (None, None)
        self.context_embed1, self.context_embed2 = Embedding(context_size, 2 * f), Embedding(context_size, f)
        self.up0 = nn.Sequential(nn.ConvTranspose2d(2 * f, 2 * f, height // 4, height // 4), nn.GroupNorm(8, 2 * f), nn.ReLU())
        self.up1 = nn.Sequential(nn.ConvTranspose2d(4 * f, f, 2, 2), block(f, f), block(f, f))
        self.up2 = nn.Sequential(nn.ConvTranspose2d(2 * f, f, 2, 2), block(f, f), block(f, f))
        self.out = nn.Sequential(
            nn.Conv2d(2 * f, f, 3, padding=1), nn.GroupNorm(8, f), nn.ReLU(), nn.Conv2d(f, channels, 3, padding=1)
        )

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the pictures that it reads."""
        return self.settings["channels"], self.settings["height"], self.settings["height"]

    def forward(self, x_t: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        time, context = self.check_inputs(x_t, t, context)
        skip0 = self.init_conv(x_t)
        skip1 = self.down1(skip0 if self.time_down1 is None else skip0 + self.time_down1(time))
        skip2 = self.down2(skip1 if self.time_down2 is None else skip1 + self.time_down2(time))
        up = self.up0(self.to_vector(skip2))
        # context multiplies, time adds: the same features, with another emphasis
        up = self.context_embed1(context) * up + self.time_embed1(time)
        up = self.up1(torch.cat([up, skip2], 1))
        up = self.context_embed2(context) * up + self.time_embed2(time)
        up = self.up2(torch.cat([up, skip1], 1))
        answer = self.out(torch.cat([up, skip0], 1))
        return answer if self.scales is None else self.noise_of(answer, x_t, t)

    def follow(self, signal_scale: Tensor, noise_scale: Tensor) -> "ContextUnet":
        """Tell a network with `velocity` the scales (T + 1,) of its schedule; until then it answers nan. Returns itself."""
        if self.scales is not None:
            self.scales.copy_(torch.stack([signal_scale, noise_scale]))
        return self

    def noise_of(self, velocity: Tensor, x_t: Tensor, t: Tensor | int) -> Tensor:
        """The noise in x_t if its velocity is signal_scale noise - noise_scale x0 (Salimans and Ho 2022, section 4).

        noise = noise_scale x_t + signal_scale velocity: at T nearly x_t itself, so that all the layers' work is on x0.
        """
        signal, spread = self.scales[:, t].reshape(2, -1, 1, 1, 1).to(x_t.dtype)
        return spread * x_t + signal * velocity

    def check_inputs(self, x_t: Tensor, t: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Time as t/T (B, 1) or `waves` (B, 64), and context (B, context_size), zeros for None; LabError where a shape cannot be meant."""
        s, batch = self.settings, len(x_t)
        shape = (batch, s["channels"], s["height"], s["height"])
        if tuple(x_t.shape) != shape:
            raise LabError(f"pictures have the shape {tuple(x_t.shape)}, but this network reads {('B', *shape[1:])}")
        t = torch.as_tensor(t, device=x_t.device)
        if t.shape not in ((), (1,), (batch,)):
            raise LabError(f"t has the shape {tuple(t.shape)}, but must be ({batch},): one timestep for each picture")
        if t.device.type == "cpu" and batch and t.max() > s["timesteps"]:  # on a GPU the look would make it wait
            raise LabError(f"t is {t.max()}, but this network was made for 1 to {s['timesteps']}: use the schedule it was trained with")
        if context is None:
            context = x_t.new_zeros(batch, s["context_size"])
        if tuple(context.shape) != (batch, s["context_size"]):
            raise LabError(
                f"context has the shape {tuple(context.shape)}, but must be ({batch}, {s['context_size']}): "
                "one row for each picture, one number for each class"
            )
        time = waves(t.expand(batch)) if "rich_time" in s else (t / s["timesteps"]).expand(batch)[:, None]
        return time.to(x_t.dtype), context.to(x_t.dtype)


def check_sizes(features: int, context_size: int, height: int, channels: int, timesteps: int) -> list[int]:
    """The sizes; LabError where one is none that this architecture can serve."""
    names = ("features", "context_size", "height", "channels", "timesteps")
    sizes = [check_whole(name, value, 1, 100_000) for name, value in zip(names, (features, context_size, height, channels, timesteps))]
    if height % 4 or not 4 <= height <= 256:
        raise LabError(f"height is {height}, but the network halves pictures twice: use a multiple of 4 from 4 to 256 (4, 8, 12, 16, 20, …)")
    if features % 8 or not 8 <= features <= 1024:
        raise LabError(f"features is {features}, but must be a multiple of 8 from 8 to 1024 (its norm layers have 8 groups)")
    return sizes
