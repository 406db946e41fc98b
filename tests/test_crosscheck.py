"""Fréchet and kernel distance against torchmetrics, with the same features: `make crosscheck` installs it."""

import pytest
import torch
from oracle import close
from small import generator

from sprites_lab.metrics import frechet, kernel_distance

pytest.importorskip("torchmetrics", reason="`make crosscheck` installs it")


class Flat(torch.nn.Module):
    """Pictures that are features already."""

    num_features = 16

    def forward(self, pictures):
        return pictures.flatten(1)


def sets():
    return torch.randn(600, 16, generator=generator()), torch.randn(500, 16, generator=generator(1)) * 1.3 + 0.2


def compute(metric, one, other):
    metric = metric.set_dtype(torch.float64)
    metric.update(one.reshape(-1, 16, 1, 1).double(), real=True)
    metric.update(other.reshape(-1, 16, 1, 1).double(), real=False)
    return metric.compute()


def test_the_frechet_distance_is_that_of_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    one, other = sets()
    theirs = compute(FrechetInceptionDistance(feature=Flat(), normalize=True, input_img_size=(16, 1, 1)), one, other)
    close(frechet(one, other), theirs, 1e-6)


def test_the_kernel_distance_is_that_of_torchmetrics():
    from torchmetrics.image.kid import KernelInceptionDistance

    one, other = sets()
    whole = 500  # of equally many there is one subset only, so that chance plays no part
    with torch.random.fork_rng(devices=[]):  # torchmetrics draws its subsets from the global chance
        theirs, _ = compute(KernelInceptionDistance(feature=Flat(), subsets=1, subset_size=whole, normalize=True), one[:whole], other)
    close(kernel_distance(one[:whole], other, generator(), 1, whole).mean, theirs, 1e-5)
