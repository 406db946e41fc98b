"""Several processes that work as one, started by torchrun. Alone, a team of one does nothing but say so.

Every worker draws all chance of a batch and takes its share of the rows: what a batch is does not depend on the team's size.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed, nn

from sprites_lab.errors import LabError

T = TypeVar("T")
PATIENCE = timedelta(minutes=10)  # how long a worker waits for one that does not answer at all


class Team(NamedTuple):
    """Which worker this is and how many there are; `first` is the one that writes and prints."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this worker speaks for all."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This worker's rows of a batch; LabError if there are not enough for all."""
        if count < self.size:
            raise LabError(f"a batch of {count} cannot be shared by {self.size} workers; use fewer workers or another --batch-size")
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all workers, put into it."""
        return over_all(tensor) if self.size > 1 else tensor

    def backward(self, value: Tensor, model: nn.Module) -> None:
        """The gradients of the sum of `value` over all workers, in one message of 4 bytes per parameter."""
        if self.size == 1:
            return value.backward()
        with together():
            value.backward()  # batch norm asks the others on the way back, too
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        whole = self.total(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        for gradient, summed in zip(gradients, whole.split([gradient.numel() for gradient in gradients])):
            gradient.copy_(summed.view_as(gradient))

    def in_order(self, own: Iterable[T], total: int) -> Iterator[T]:
        """On the first worker: what all workers make, number 0, 1, … of `total` in turn, `own` being every size-th. Elsewhere nothing."""
        if self.size == 1:
            yield from own
            return
        mine = iter(own)
        for begin in range(0, total, self.size):
            found: list[Any] = [None] * self.size
            one = next(mine, None)
            with together():
                distributed.gather_object(one, found if self.first else None)
            if self.first:
                yield from found[: total - begin]

    def on_first(self, work: Callable[[], T]) -> T | None:
        """What only the first worker does; None elsewhere."""
        return work() if self.first else None

    def told(self, value: T) -> T:
        """What the first worker says, for all."""
        if self.size == 1:
            return value
        said = [value]
        with together():
            distributed.broadcast_object_list(said)
        return said[0]

    def agree(self, value: Any, what: str) -> None:
        """LabError on every worker unless all hold the same value."""
        if self.size > 1:
            said: list[Any] = [None] * self.size
            with together():
                distributed.all_gather_object(said, value)
            if any(one != said[0] for one in said):
                raise LabError(f"the workers have different {what}: {', '.join(map(str, said))}. Give all machines the same files")


@contextmanager
def together() -> Iterator[None]:
    """Work that needs all workers: if one of them is gone, a LabError says so."""
    try:
        yield
    except (RuntimeError, distributed.DistError) as error:
        raise LabError(f"another worker of this job was lost ({str(error).splitlines()[0][:120]}); a training goes on with --resume") from error


@contextmanager
def joined() -> Iterator[Team]:
    """The team that torchrun started this process in; a team of one without torchrun."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield Team()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    with together():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield Team(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the rows of all workers, so that the network is the one that a single process would train.

    torch's own (nn.SyncBatchNorm) works on CUDA alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            values = x.float()
            rows = torch.full((1,), x.numel() // x.shape[1], device=x.device)
            *_, count = sums = over_all(torch.cat([values.sum((0, 2, 3)), rows]))
            mean = sums[:-1] / count
            variance = over_all((values - mean[:, None, None]).square().sum((0, 2, 3))) / count
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        return Normalised.apply(x, mean, variance, count, self.weight, self.bias, self.eps)


class Normalised(torch.autograd.Function):
    """Batch norm with given mean and variance, which are those of all workers' rows: gradients know that all rows made them.

    With x' the normalised x and sums over all rows, the gradient of x is weight / deviation * (g - mean(g) - x' mean(g x'))
    (Ioffe and Szegedy 2015, section 3).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, variance: Tensor, count: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """The normalised x, in its dtype."""
        ctx.save_for_backward(x, mean, (variance + eps).rsqrt(), count, weight)
        return nn.functional.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, of weight and of bias; the last two are this worker's part, for `Team.backward` to sum."""
        x, mean, inverse, count, weight = ctx.saved_tensors
        g, values = gradient.float(), x.float()
        of_bias, of_x = g.sum((0, 2, 3)), (g * values).sum((0, 2, 3))
        of_weight = (of_x - mean * of_bias) * inverse
        whole_bias, whole_weight = (over_all(torch.cat([of_bias, of_weight])) / count).chunk(2)
        along = -whole_weight * inverse
        shift = -whole_bias - along * mean
        scale = weight * inverse
        of_values = (g + values * along[:, None, None] + shift[:, None, None]) * scale[:, None, None]
        return of_values.to(x), None, None, None, of_weight, of_bias, None


def over_all(tensor: Tensor) -> Tensor:
    """The sum over all workers, put into the tensor."""
    with together():
        distributed.all_reduce(tensor)
    return tensor


def share_batch_norm(model: nn.Module, team: Team) -> nn.Module:
    """The model with its batch norms, if it has a team, reading all workers' rows; its parameters stay the same objects."""
    for module in model.modules():
        for name, norm in list(module.named_children()):
            if team.size > 1 and type(norm) is nn.BatchNorm2d:
                shared = SharedBatchNorm(norm.num_features, norm.eps, norm.momentum)
                shared.weight, shared.bias = norm.weight, norm.bias
                shared.running_mean, shared.running_var, shared.num_batches_tracked = norm.running_mean, norm.running_var, norm.num_batches_tracked
                shared.train(norm.training)
                setattr(module, name, shared)
    return model
