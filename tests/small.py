"""Small things that the tests share: networks, sprite files, weights files, a child process that is allowed to die."""

import os
import sys
import traceback

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import nn

from sprites_lab import LabError, checkpoints
from sprites_lab.schedule import linear_schedule
from sprites_lab.unet import ContextUnet

careful = settings(derandomize=True, deadline=None, database=None, max_examples=200)
NAMES = ("hero", "non-hero", "food", "spell", "side-facing")
SHORT = ["--features", "8", "--batch-size", "4", "--precision", "float32"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(seed=0, features=8, **sizes):
    """A small ContextUnet in eval mode whose every weight and statistic is random."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = ContextUnet(features, **sizes).eval()
    chance = generator(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(0.1 * (2 * torch.rand(tensor.shape, generator=chance) - 1))
            else:
                tensor.fill_(len(name))
    return model


class Pixelwise(nn.Module):
    """A network as simple as can be that still has everything: time, context, batch-norm statistics. A step takes 1 ms."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.told = nn.Linear(6, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator(seed)) * 0.3)

    def forward(self, x_t, t, context):
        told = self.told(torch.cat([context, t[:, None] / 500], 1))
        return self.norm(self.conv(x_t)) + told[:, :, None, None]


def pictures(count=10, size=16, seed=0):
    """Random pictures in [-1, 1] and one-hot contexts."""
    x0 = torch.rand(count, 3, size, size, generator=generator(seed)) * 2 - 1
    return x0, torch.eye(5)[torch.arange(count) % 5]


def sprite_arrays(count=16, size=16, seed=0):
    """The arrays of a small sprite file: random bytes, three kinds, every fourth sprite held out."""
    x0 = torch.randint(0, 256, (count, size, size, 3), generator=generator(seed), dtype=torch.uint8).numpy()
    i = np.arange(count)
    return dict(
        sprites=x0, labels=(i % 5).astype(np.uint8), kinds=(i % 3).astype(np.uint16), held_out=i % 4 == 3,
        kind_names=np.array(["mage", "apple", "sword"]),
    )  # fmt: skip


def write_sprites(path, seed=0, **changes):
    np.savez(path, **{**sprite_arrays(seed=seed), **changes})
    return path


def write_weights(path, model=None, half=False, **facts):
    """A weights file of a small network as `train` would write it."""
    model = model or network()
    schedule = linear_schedule(model.settings["timesteps"])
    checkpoints.save(path, {"model": model.state_dict()}, model, schedule, {"classes": list(NAMES), **facts}, half)
    return path


def same_tensors(one, other):
    """Whether two groups of named tensors are equal, bit for bit."""
    return one.keys() == other.keys() and all(
        same_tensors(one[name], other[name]) if isinstance(one[name], dict)
        else one[name].dtype == other[name].dtype and torch.equal(one[name], other[name])
        for name in one
    )  # fmt: skip


def refusal(load, path, *words):
    """The one sentence with which a file is refused; it names the file and the words."""
    with pytest.raises(LabError) as caught:
        load(path)
    sentence = str(caught.value)
    assert path.name in sentence and all(word in sentence for word in words) and "\n" not in sentence, sentence
    return sentence


def snapshot(tensors):
    """A deep copy of nested dicts of tensors."""
    return {n: snapshot(t) if isinstance(t, dict) else t.detach().clone() for n, t in tensors.items()}


def in_a_fork(work):
    """Run `work` in a child process; its exit status: 0 if it returned, 1 if it raised, -9 if it was killed."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
