"""Training: a network becomes a good noise predictor by guessing the noise in sprites that were noised by chance."""

import copy
from collections.abc import Callable, Iterator, Sized
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sprites_lab.chance import seeded
from sprites_lab.errors import LabError
from sprites_lab.schedule import NoiseSchedule
from sprites_lab.settings import check_number, check_whole
from sprites_lab.team import Team

Loss = Callable[[nn.Module, NoiseSchedule, Tensor, Tensor, Tensor, Tensor], Tensor]
Rate = Callable[[int, int, int], float]  # (update, updates per epoch, epochs) -> factor of the learning rate
DrawTimesteps = Callable[[int, int, torch.Generator], Tensor]  # (count, T, generator) -> integers in 1..T


class TrainingState:
    """All that a run needs to go on: the network, its moving average, the optimiser and the number of updates done.

    There is no random state: the chance of update k is a function of (seed, k) alone.
    """

    def __init__(self, model: nn.Module, device: torch.device | str = "cpu", optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam):
        self.model, self.updates = model.to(device), 0
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.optimizer = optimizer(model.parameters())

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The state as named tensors, in the groups model, average and optimizer."""
        moments = self.optimizer.state_dict()["state"]
        flat = {f"{i}/{name}": value for i, fields in moments.items() for name, value in fields.items()}
        return {"model": self.model.state_dict(), "average": self.average.state_dict(), "optimizer": flat}

    def load(self, tensors: dict[str, dict[str, Tensor]], updates: int) -> None:
        """Continue from what `tensors` gave; the network must have the same shapes."""
        self.model.load_state_dict(tensors["model"])
        self.average.load_state_dict(tensors["average"])
        whole = self.optimizer.state_dict()
        whole["state"] = {}
        for key, value in tensors["optimizer"].items():
            index, name = key.split("/")
            whole["state"].setdefault(int(index), {})[name] = value.clone()
        self.optimizer.load_state_dict(whole)
        self.updates = updates


class Progress(NamedTuple):
    """What `train` tells after each update: how many are done, the epoch (from 0), the loss and the learning rate used."""

    updates: int
    epoch: int
    loss: float
    learning_rate: float
    last_of_epoch: bool


def noise_loss(model: nn.Module, schedule: NoiseSchedule, x0: Tensor, context: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error between the noise and the network's guess at it, one number (Ho et al. 2020, equation 14)."""
    return nn.functional.mse_loss(model(schedule.add_noise(x0, t, noise), t, context).to(noise), noise)


def uniform_t(count: int, timesteps: int, generator: torch.Generator) -> Tensor:
    """One timestep for each picture, each of 1..T equally likely, independently (Ho et al. 2020, algorithm 1)."""
    return torch.randint(1, timesteps + 1, (count,), generator=generator)


def linear_fall(update: int, per_epoch: int, epochs: int) -> float:
    """The course's learning rate: falls to 0 in a straight line, epoch by epoch."""
    return 1 - update // per_epoch / epochs


def drop_context(context: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Forget each row of context (B, K) with the given probability: zeros mean "no context" (Ho and Salimans 2022)."""
    kept = torch.rand(len(context), 1, generator=generator) >= probability
    return context * kept.to(context)


def mirror_some(x0: Tensor, allowed: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each picture (B, C, H, W) for which `allowed` (B,) is true with probability one half, left to right."""
    chosen = (torch.rand(len(x0), generator=generator) < 0.5).to(x0.device) & allowed
    return torch.where(chosen[:, None, None, None], x0.flip(3), x0)


def train(
    state: TrainingState, schedule: NoiseSchedule, sprites: Tensor, contexts: Tensor,
    epochs: int = 32, batch_size: int = 100, learning_rate: float = 1e-3,
    context_dropout: float = 0.1, average_decay: float = 0.999, seed: int = 0,
    loss: Loss = noise_loss, draw_t: DrawTimesteps = uniform_t, rate_factor: Rate = linear_fall, may_mirror: Tensor | None = None,
    autocast: torch.dtype | None = None, team: Team = Team(),
) -> Iterator[Progress]:
    """Train state.model (by default with the course's recipe), yielding after each update; the model is then in eval mode.

    sprites (N, 3, 16, 16) in [-1, 1] and contexts (N, K), on the device of the model. Every epoch goes once through the
    sprites in a new order; the optimiser's learning rate is learning_rate * rate_factor(...). Sprites that are true in may_mirror
    (N,) come mirrored half of the time. Goes on where state.updates says. A `team` shares every batch and sums the gradients.
    """
    check_recipe(sprites, contexts, epochs, batch_size, learning_rate, context_dropout, average_decay, seed)
    epochs, batch_size, seed = int(epochs), int(batch_size), int(seed)
    per_epoch = -(-len(sprites) // batch_size)
    for update in range(state.updates, epochs * per_epoch):
        epoch, position = divmod(update, per_epoch)
        rate = learning_rate * rate_factor(update, per_epoch, epochs)
        order = torch.randperm(len(sprites), generator=seeded(seed, epoch, 0)).to(sprites.device)
        rows = order[position * batch_size : (position + 1) * batch_size]
        chance, x0 = seeded(seed, update, 1), sprites[rows]
        if may_mirror is not None:
            x0 = mirror_some(x0, may_mirror[rows], seeded(seed, update, 2))
        value = take_step(state, schedule, x0, contexts[rows], rate, context_dropout, chance, loss, draw_t, autocast, team)
        # early on the average forgets fast, so that it does not remember the untrained network
        update_average(state.average, state.model, min(average_decay, (1 + update) / (10 + update)))
        state.updates = update + 1
        yield Progress(state.updates, epoch, value, rate, position == per_epoch - 1)


def take_step(
    state: TrainingState, schedule: NoiseSchedule, x0: Tensor, context: Tensor, learning_rate: float, context_dropout: float,
    generator: torch.Generator, loss: Loss = noise_loss, draw_t: DrawTimesteps = uniform_t, autocast: torch.dtype | None = None,
    team: Team = Team(),
) -> float:
    """One update on one batch; returns its loss. A loss that is no number stops here, before it can harm the weights."""
    context = drop_context(context, context_dropout, generator)
    t = draw_t(len(x0), schedule.timesteps, generator).to(x0.device)
    noise = torch.randn(x0.shape, generator=generator).to(x0)
    mine = team.share(len(x0))  # all of the batch, unless several processes share it
    part = (mine.stop - mine.start) / len(x0)
    statistics = [buffer.clone() for buffer in state.model.buffers()]
    state.model.train()
    try:
        with torch.autocast(x0.device.type, autocast, enabled=autocast is not None):
            value = part * loss(state.model, schedule, x0[mine], context[mine], t[mine], noise[mine])
        whole = team.total(value.detach().clone())
        if not whole.isfinite():
            raise LabError(f"the loss became {whole.item()} at update {state.updates + 1}; the weights before it are kept. Try a smaller learning_rate")
        state.optimizer.param_groups[0]["lr"] = learning_rate
        state.optimizer.zero_grad()
        team.backward(value, state.model)
    except BaseException:
        for buffer, before in zip(state.model.buffers(), statistics):  # the forward pass has put this batch into them
            buffer.data.copy_(before)
        raise
    finally:
        state.model.eval()
    state.optimizer.step()
    return whole.item()


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the average towards the model: decay * average + (1 - decay) * model, batch-norm statistics included."""
    for ours, theirs in zip(average.state_dict().values(), model.state_dict().values()):
        if ours.is_floating_point():
            ours.lerp_(theirs, 1 - decay)
        else:
            ours.copy_(theirs)  # counters have no average


def check_recipe(
    sprites: Sized, contexts: Sized, epochs: int, batch_size: int, learning_rate: float, context_dropout: float,
    average_decay: float, seed: int,
) -> None:
    """LabError for a recipe that cannot be meant."""
    if len(sprites) != len(contexts) or not len(sprites):
        raise LabError(f"{len(sprites)} sprites with {len(contexts)} contexts: there must be one context for each sprite, and at least one sprite")
    check_whole("epochs", epochs, 1, 10**9)
    check_whole("batch_size", batch_size, 1, 10**9)
    check_number("learning_rate", learning_rate, 1e-12, 1e30, "the course uses 0.001")
    check_whole("seed", seed, 0, 2**63 - 1)
    check_number("context_dropout", context_dropout, 0, 1, "the share of contexts that are forgotten; the course uses 0.1")
    check_number("average_decay", average_decay, 0, 1, "0.999 is usual")
