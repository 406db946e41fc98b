"""Muon: nearly orthogonal steps for convolutions, exactly Adam for everything else."""

import pytest
import torch
from small import generator
from torch import nn

from sprites_lab.muon import Muon, muon_change, orthogonal


@pytest.mark.parametrize("shape", [(6, 6), (4, 40), (40, 4), (64, 576), (1, 9)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    matrix = torch.randn(shape, generator=generator())
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    found = u.T @ orthogonal(matrix) @ v.T
    assert found.diagonal().min() > 0.6 and found.diagonal().max() < 1.25
    assert (found - found.diagonal().diag()).abs().max() < 1e-3


def test_a_step_has_the_size_and_the_direction_it_says():
    """The first step: momentum is 5 % of the gradient, which does not matter since the length of the matrix is taken out."""
    weight = nn.Parameter(torch.randn(8, 4, 3, 3, generator=generator(1)))
    before, weight.grad = weight.detach().clone(), torch.randn(8, 4, 3, 3, generator=generator(2))
    Muon([weight], lr=0.01).step()
    change = (before - weight.detach()).flatten(1) / 0.01
    assert torch.allclose(change, 0.2 * 36**0.5 * orthogonal(weight.grad.flatten(1)), atol=1e-3)
    assert 0.15 < change.square().mean().sqrt() < 0.25  # Adam's usual size


def test_momentum_remembers_and_looks_ahead():
    state, group = {}, dict(momentum=0.9, dtype=torch.float64)
    first, second = (torch.randn(2, 3, 1, 1, generator=generator(i), dtype=torch.float64) for i in (3, 4))
    muon_change(first, state, group)
    change = muon_change(second, state, group)
    momentum = 0.9 * 0.1 * first + 0.1 * second
    assert torch.allclose(state["momentum"], momentum)
    ahead = (0.1 * second + 0.9 * momentum).flatten(1)
    assert torch.allclose(change.flatten(1), 0.2 * 3**0.5 * orthogonal(ahead))


def test_all_that_is_no_convolution_takes_adams_steps():
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 15).reshape(5, 3)) for _ in range(2))
    mine, adam = Muon([ours], lr=0.02), torch.optim.Adam([theirs], lr=0.02)
    for i in range(4):
        ours.grad = torch.randn(5, 3, generator=generator(i))
        theirs.grad = ours.grad.clone()
        mine.step()
        adam.step()
    assert torch.allclose(ours, theirs, atol=1e-7)


def test_memory_layout_changes_nothing():
    weights = [nn.Parameter(torch.randn(8, 4, 3, 3, generator=generator())) for _ in range(2)]
    weights[1].data = weights[1].data.to(memory_format=torch.channels_last)
    for weight in weights:
        weight.grad = torch.randn(8, 4, 3, 3, generator=generator(5)).to(memory_format=torch.channels_last if weight is weights[1] else torch.contiguous_format)
        Muon([weight]).step()
    assert torch.allclose(*weights, atol=1e-7)


def test_a_parameter_without_gradient_stays():
    weight = nn.Parameter(torch.ones(2, 2, 1, 1))
    Muon([weight]).step()
    assert (weight == 1).all()
