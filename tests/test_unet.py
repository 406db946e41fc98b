"""The network: its size, its inputs, and that it is a function of them alone."""

import pytest
import torch
from oracle import close, normal
from small import network

from sprites_lab import ContextUnet, LabError, checkpoints
from sprites_lab.schedule import linear_schedule
from sprites_lab.unet import OPTIONS as OPTION_NAMES
from sprites_lab.unet import waves

HEIGHTS = [4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 64]


def inputs(batch=3, size=16, context_size=5, seed=0):
    t = torch.tensor([1, 250, 500, 7, 120, 480, 33, 404])[:batch]
    return normal(batch, 3, size, size, seed=seed, dtype=torch.float32), t, normal(batch, context_size, seed=9).float()


def count(**sizes):
    with torch.device("meta"):
        return sum(p.numel() for p in ContextUnet(**sizes).parameters())


def test_the_parameter_counts_are_the_announced_ones():
    assert count() == 1_481_027
    assert count(features=32) == 372_899


def test_two_equal_calls_are_equal_bit_for_bit_and_draw_no_random_numbers():
    model, (x_t, t, context) = network(), inputs()
    before = torch.get_rng_state()
    with torch.no_grad():
        assert torch.equal(model(x_t, t, context), model(x_t, t, context))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_answer_depends_on_picture_time_and_context():
    model, (x_t, t, context) = network(), inputs()
    with torch.no_grad():
        plain = model(x_t, t, context)
        for other in (model(x_t.roll(1, 3), t, context), model(x_t, 501 - t, context), model(x_t, t, -context)):
            assert ((other - plain).abs().amax((1, 2, 3))[[0, 2]] > 5e-5).all()


def test_no_context_equals_zeros_bit_for_bit():
    model, (x_t, t, _) = network(), inputs()
    with torch.no_grad():
        assert torch.equal(model(x_t, t), model(x_t, t, torch.zeros(3, 5)))


def test_in_eval_mode_batch_mates_do_not_matter_and_order_is_kept():
    model, (x_t, t, context) = network(), inputs(8)
    order = [5, 2, 7, 0, 1, 6, 3, 4]
    with torch.no_grad():
        together = model(x_t, t, context)
        alone = torch.cat([model(x_t[i : i + 1], t[i : i + 1], context[i : i + 1]) for i in range(8)])
        close(alone, together, 1e-5)
        close(model(x_t[order], t[order], context[order]), together[order], 1e-5)
        assert (model.train()(x_t, t, context) - together).abs().max() > 1e-2  # batch norm: eval mode matters


def test_one_timestep_for_all_pictures_may_be_one_number():
    model, (x_t, _, context) = network(), inputs()
    with torch.no_grad():
        expected = model(x_t, torch.full((3,), 77), context)
        for t in (torch.tensor(77), torch.tensor([77])):
            assert torch.equal(model(x_t, t, context), expected)


@pytest.mark.parametrize("timesteps", [500, 1000, 7])
def test_time_reaches_the_network_as_a_share_of_T(timesteps):
    model, seen = network(timesteps=timesteps), []
    model.time_embed1.register_forward_hook(lambda module, given, answer: seen.append(given[0]))
    model.time_embed2.register_forward_hook(lambda module, given, answer: seen.append(given[0]))
    t = torch.tensor([1, timesteps // 2, timesteps])
    with torch.no_grad():
        model(inputs()[0], t)
    for share in seen:
        close(share, (t.double() / timesteps)[:, None], 1e-7)
        assert share.min() > 0 and share.max() == 1
    assert len(seen) == 2


@pytest.mark.parametrize("height", range(1, 65))
def test_every_height_works_or_is_refused_with_the_list_of_those_that_do(height):
    if height in HEIGHTS:
        model, x_t = network(height=height), normal(2, 3, height, height, dtype=torch.float32)
        with torch.no_grad():
            out = model(x_t, torch.tensor([3, 400]), torch.eye(5)[:2])
        assert out.shape == x_t.shape and out.isfinite().all()
        assert (out[0] - out[1]).abs().max() > 1e-3
        assert model.picture_shape == (3, height, height)
    else:
        with pytest.raises(LabError, match=r"height is \d+.*4, 8, 12, 16, 20"):
            network(height=height)


@pytest.mark.parametrize("sizes", [dict(context_size=1, channels=1), dict(context_size=9, channels=4, features=16)])
def test_other_sizes_of_context_and_channels_work(sizes):
    model = network(**sizes)
    x_t = normal(2, sizes["channels"], 16, 16, dtype=torch.float32)
    with torch.no_grad():
        assert model(x_t, torch.tensor([1, 2]), torch.ones(2, sizes["context_size"])).shape == x_t.shape
    assert model.settings == dict(dict(features=8, height=16, timesteps=500), **sizes)


@pytest.mark.parametrize("sizes, word", [
    (dict(features=0), "features"), (dict(features=12), "features"), (dict(features=2048), "features"),
    (dict(height=0), "height"), (dict(height=-4), "height"), (dict(height=260), "height"), (dict(height=15), "height"),
    (dict(context_size=0), "context_size"), (dict(channels=0), "channels"), (dict(timesteps=0), "timesteps"),
])  # fmt: skip
def test_sizes_that_no_such_network_can_have_are_refused(sizes, word):
    with torch.device("meta"), pytest.raises(LabError, match=word):
        ContextUnet(**sizes)


@pytest.mark.parametrize("context", [torch.zeros(10), torch.zeros(3, 10), torch.zeros(2, 5), torch.zeros(1, 5), torch.zeros(5)],
                         ids=lambda c: str(tuple(c.shape)))  # fmt: skip
def test_a_context_of_another_shape_is_refused_with_the_shape_that_fits(context):
    model, (x_t, t, _) = network(), inputs()
    with pytest.raises(LabError, match=r"context has the shape .* must be \(3, 5\)"):
        model(x_t, t, context)


@pytest.mark.parametrize("shape", [(3, 3, 15, 15), (3, 1, 16, 16), (3, 16, 16), (3, 3, 16, 12), (3,), (3, 16, 16, 3)], ids=str)
def test_pictures_of_another_shape_are_refused_with_the_shape_that_fits(shape):
    with pytest.raises(LabError, match=r"pictures have the shape .*\('B', 3, 16, 16\)"):
        network()(torch.zeros(shape), torch.tensor([1, 2, 3]))


@pytest.mark.parametrize("shape", [(2,), (3, 1), (4,)], ids=str)
def test_timesteps_of_another_shape_are_refused(shape):
    with pytest.raises(LabError, match=r"t has the shape .* must be \(3,\)"):
        network()(inputs()[0], torch.ones(shape, dtype=torch.int64))


def test_every_weight_takes_part_in_learning():
    model, (x_t, t, context) = network(), inputs()
    model(x_t, t, context).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    dead = [name for name, p in model.named_parameters() if not p.grad.any()]
    assert dead == []


# The richer look at time


def test_waves_tell_all_timesteps_apart_and_are_those_of_the_paper():
    t = torch.arange(1, 1001)
    found = waves(t)
    assert found.shape == (1000, 64)
    for i, length in ((0, 1.0), (31, 10_000.0), (10, 10_000 ** (10 / 31))):
        close(found[:, i], torch.sin(t.double() / length), 1e-3)
        close(found[:, 32 + i], torch.cos(t.double() / length), 1e-3)
    assert torch.cdist(found, found).fill_diagonal_(9).min() > 0.3


def test_a_rich_time_reaches_the_encoder_and_costs_what_it_says():
    assert count(rich_time=True) == count() + 28_736
    model, (x_t, t, context) = network(rich_time=True), inputs()
    skips = []
    model.down1.register_forward_hook(lambda module, read, out: skips.append(out))
    with torch.no_grad():
        one, other = model(x_t, t, context), model(x_t, 501 - t, context)
        assert torch.allclose(model(x_t[:1], t[:1], context[:1]), one[:1], atol=1e-5)
    assert (one - other).abs().max() > 1e-3 and (skips[0] - skips[1]).abs().max() > 1e-3


def test_the_course_network_has_nothing_of_the_rich_one():
    assert "rich_time" not in network().settings and not any("time_down" in name for name in network().state_dict())


OPTIONS = [dict(rich_time=True), dict(velocity=True), dict(group_norm=True), dict.fromkeys(OPTION_NAMES, True)]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options))
def test_a_network_with_options_comes_back_from_its_file(tmp_path, options):
    schedule = linear_schedule(beta_end=0.03)
    model, (x_t, t, context) = network(**options).follow(schedule.signal_scale, schedule.noise_scale), inputs()
    checkpoints.save(tmp_path / "w.safetensors", {"model": model.state_dict()}, model, schedule, {})
    found = checkpoints.load(tmp_path / "w.safetensors").model
    with torch.no_grad():
        assert found.settings == model.settings and torch.equal(found(x_t, t, context), model(x_t, t, context))
        assert model(x_t, t, context).isfinite().all()


def test_group_norm_replaces_every_batch_norm():
    model = network(group_norm=True)
    assert count(group_norm=True) == count()
    assert not [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def test_a_velocity_is_turned_into_the_noise_of_its_schedule():
    """With the true velocity as its layers' answer, the network names the true noise, exactly."""
    schedule, (x0, t, _) = linear_schedule(), inputs()
    noise = normal(*x0.shape, seed=3, dtype=torch.float32)
    model = network(velocity=True)
    assert model(x0, t).isnan().all()  # it was told no schedule
    model.follow(schedule.signal_scale, schedule.noise_scale)
    signal, spread = schedule.scales(t, x0)
    model.out = torch.nn.Identity()
    model.out.forward = lambda features: signal * noise - spread * x0
    close(model(schedule.add_noise(x0, t, noise), t), noise, 1e-5)


def test_a_network_that_answers_noise_follows_every_schedule():
    model, (x_t, t, context) = network(), inputs()
    with torch.no_grad():
        assert torch.equal(model(x_t, t, context), model.follow(torch.zeros(501), torch.ones(501))(x_t, t, context))
    assert "scales" not in model.state_dict() and "scales" not in network(velocity=True).state_dict()
