"""The fast network answers what the network answers."""

import shutil
import warnings

import pytest
import torch
from oracle import generator, normal
from torch import nn

from sprites_lab import conditioned, final, lab, linear_schedule
from sprites_lab.data import to_bytes
from sprites_lab.runtime import fast_network, fold_batch_norm
from sprites_lab.solvers import dpm_solver
from sprites_lab.unet import OPTIONS, ContextUnet


def trained_looking(**options):
    """A network whose batch norms have statistics, scales and shifts of their own."""
    s = linear_schedule()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = ContextUnet(16, **options).follow(s.signal_scale, s.noise_scale)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    nn.init.uniform_(tensor, 0.5, 1.5)
    return model.eval()


def answers(model, t):
    x_t = normal(4, 3, 16, 16, dtype=torch.float32)
    with torch.no_grad():
        return model(x_t, torch.full((4,), t), torch.eye(5)[:4])


@pytest.mark.parametrize("option", ["plain", *OPTIONS])
def test_folding_changes_nothing_and_half_the_digits_little(option):
    model = trained_looking(**{} if option == "plain" else {option: True})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    exact, low = fast_network(model), fast_network(model, torch.bfloat16)
    for t in (1, 100, 500):
        plain = answers(model, t)
        torch.testing.assert_close(answers(exact, t), plain, atol=2e-5, rtol=1e-4)
        assert answers(low, t).dtype == torch.float32
        assert 0 < (answers(low, t) - plain).square().mean().sqrt() < 0.03 * plain.std()  # it really computes with fewer digits
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before) and not model.init_conv.training


def test_no_batch_norm_is_left_and_none_is_folded_twice():
    fast = fast_network(trained_looking())
    assert not [module for module in fast.modules() if isinstance(module, nn.BatchNorm2d)]
    again = answers(fast, 7)
    fold_batch_norm(fast)
    assert torch.equal(answers(fast, 7), again)


def test_neighbouring_timesteps_stay_apart_in_bfloat16():
    """bfloat16 itself cannot tell 498/500 from 499/500."""
    low = fast_network(trained_looking(), torch.bfloat16)
    with torch.no_grad():
        told = [low.time_embed1[0](torch.tensor([[t / 500]])) for t in (498, 499)]
    assert torch.tensor(498 / 500).bfloat16() == torch.tensor(499 / 500).bfloat16() and not torch.equal(*told)


def test_the_shipped_network_draws_the_same_sprites_faster_or_not():
    """Ten steps from the same noise: float32 folded to the byte (±1), bfloat16 with a mean difference of a few bytes."""
    found, x_T = lab.load_weights(), lab.starting_noise(4)

    def draw(model):
        walk = dpm_solver(conditioned(model, torch.eye(5)[0]), found.schedule, x_T, 10, 1.0, [generator(i) for i in range(4)])
        return to_bytes(final(walk)).astype(int)

    plain = draw(found.model)
    assert abs(draw(fast_network(found.model)) - plain).max() <= 1
    low = abs(draw(fast_network(found.model, torch.bfloat16)) - plain)
    assert 0 < low.mean() < 6


def test_without_a_compiler_the_network_runs_as_it_is(monkeypatch):
    def broken(network, mode):
        def fail(*given):
            raise RuntimeError("no C++ compiler\nat all")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    model = trained_looking()
    with pytest.warns(UserWarning, match=r"torch.compile does not work here \(no C\+\+ compiler\)"):
        made = fast_network(model, compiled=True)
    assert torch.equal(answers(made, 7), answers(fast_network(model), 7))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_answers_the_same():
    model = trained_looking()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        made = fast_network(model, compiled=True)
    assert type(made) is not type(model)  # it was really compiled
    given = normal(2, 3, 16, 16, dtype=torch.float32), torch.ones(2, dtype=torch.int64)  # another size would be compiled again
    with torch.no_grad():
        torch.testing.assert_close(made(*given), fast_network(model)(*given), atol=2e-5, rtol=1e-4)
