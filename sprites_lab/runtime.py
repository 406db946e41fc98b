"""The fastest exact way to run a network on this machine: the same sprites, sooner. Only layers get fewer digits, never a solver."""

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sprites_lab.unet import ContextUnet, Embedding


class InFormat(nn.Module):
    """Passes a tensor on in another number format."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


def fast_network(model: ContextUnet, dtype: torch.dtype | None = None, compiled: bool = False) -> nn.Module:
    """A copy of a trained network that only samples, called as the network itself with pictures in float32, answering float32.

    Batch norm becomes part of the convolution before it, memory is laid out channels last. With `dtype` (torch.bfloat16) the
    layers on pictures compute in it, t and context are read in float32, and a velocity becomes noise in float32. `compiled`
    asks torch.compile as well: its first call of each size takes up to a minute; where it does not work, a warning says so.
    """
    made = copy.deepcopy(model).eval().requires_grad_(False).float()
    fold_batch_norm(made)
    made = made.to(memory_format=torch.channels_last)
    if dtype is not None:
        lower(made, dtype)
    made.register_forward_hook(lambda module, given, answer: answer.float())
    return with_compiler(made) if compiled else made


def with_compiler(network: ContextUnet) -> nn.Module:
    """The network compiled (with CUDA graphs on a GPU), or itself with a warning where that does not work: it takes a C++ compiler."""
    place = next(network.parameters()).device
    made = torch.compile(network, mode="reduce-overhead" if place.type == "cuda" else None)
    try:
        with torch.no_grad():
            made(torch.zeros(2, *network.picture_shape, device=place), torch.ones(2, dtype=torch.int64, device=place))
    except Exception as error:  # compilers fail in every way
        warnings.warn(f"torch.compile does not work here ({str(error).splitlines()[0][:100]}); the network runs without it", stacklevel=3)
        return network
    return made


def fold_batch_norm(model: nn.Module) -> None:
    """Put the batch norms of a network in eval mode into the convolutions before them: y = w x + b, then scale and shift, is one w and b."""
    for module in model.modules():
        if isinstance(module, nn.Sequential):
            for i, (conv, norm) in enumerate(zip(module, list(module)[1:])):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[i], module[i + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()


def lower(model: ContextUnet, dtype: torch.dtype) -> None:
    """Let the layers on pictures compute in dtype. A timestep t/T needs more digits than bfloat16 has: embeddings stay in float32."""
    for name, module in list(model.named_children()):
        if isinstance(module, Embedding):
            setattr(model, name, nn.Sequential(module, InFormat(dtype)))
        else:
            module.to(dtype)
    model.init_conv = nn.Sequential(InFormat(dtype), model.init_conv)
