"""Predictors made from predictors."""

import math

import oracle
import pytest
import torch
from oracle import close, normal
from small import network

from sprites_lab import LabError, clamped, conditioned, guided, linear_schedule

T5 = torch.full((3,), 5)


@pytest.mark.oracle
def test_guidance_runs_along_the_line_from_reference_to_prediction():
    oracle.check_guidance()


@pytest.mark.oracle
def test_contexts_reach_the_network_in_the_order_of_the_pictures():
    oracle.check_conditioned()


def test_the_reference_of_class_guidance_is_the_network_with_the_empty_context():
    model, x_t = network(), normal(3, 3, 16, 16, dtype=torch.float32)
    context = torch.eye(5)[0]
    with torch.no_grad():
        told, empty = model(x_t, T5, context.expand(3, 5)), model(x_t, T5, torch.zeros(3, 5))
        found = guided(conditioned(model, context), conditioned(model, None), 3.0)(x_t, T5)
    assert (told - empty).abs().max() > 1e-4
    close(found, empty + 3 * (told - empty), 1e-5)


@pytest.mark.parametrize("context", [torch.eye(5)[0], torch.eye(5)[:1], torch.eye(5)[:3]], ids=lambda context: f"{tuple(context.shape)}")
def test_contexts_follow_the_pictures_in_number_type_and_device(context):
    for kind in (dict(dtype=torch.float64), dict(device="meta")):
        told = conditioned(lambda x_t, t, rows: rows, context)(torch.zeros(3, 3, 16, 16, **kind), T5)
        assert told.shape == (3, 5) and dict(dtype=told.dtype, device=told.device.type).items() >= kind.items()


def test_guidance_asks_both_predictors_once_with_the_same_picture():
    asked = []
    x_t = normal(3, 1, 2, 2)

    def predictor(name):
        return lambda x, t: asked.append((name, x, t)) or x

    guided(predictor("p"), predictor("r"), 2.0)(x_t, T5)
    assert sorted(name for name, *_ in asked) == ["p", "r"]
    assert all(x is x_t and t is T5 for _, x, t in asked)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_a_guidance_scale_that_is_no_number_is_refused(scale):
    with pytest.raises(LabError, match="guidance scale"):
        guided(lambda x, t: x, lambda x, t: x, scale)


@pytest.mark.oracle
def test_clamping_keeps_the_guess_within_the_limit_and_leaves_good_guesses_alone():
    s, t = linear_schedule(), torch.tensor([1, 100, 500])
    x0 = torch.tensor([-3.0, -1.0, -0.2, 0.9, 1.5], dtype=torch.float64).reshape(1, 1, 1, 5).expand(3, 1, 1, 5)
    x_t = s.add_noise(x0, t, normal(3, 1, 1, 5))
    noise = clamped(lambda x, t: s.guess_noise(x, t, x0), s)(x_t, t)
    close(s.guess_x0(x_t, t, noise), x0.clamp(-1, 1), 1e-10)
    close(noise[..., 1:4], s.guess_noise(x_t, t, x0)[..., 1:4], 1e-10)
    tight = clamped(lambda x, t: s.guess_noise(x, t, x0), s, limit=0.5)(x_t, t)
    close(s.guess_x0(x_t, t, tight), x0.clamp(-0.5, 0.5), 1e-10)


@pytest.mark.parametrize("make, sentence", [
    (lambda value: guided(None, None, value), "the guidance scale is {}, but must be a number from -1000 to 1000 (1 is plain, above 1 pushes towards the context)"),
    (lambda value: clamped(None, None, value), "limit is {}, but must be a number from 0 to 1e+06 (pictures lie in [-1, 1])"),
], ids=range(2))  # fmt: skip
@pytest.mark.parametrize("value", [1e6 + 1, -1000.5, float("nan")])
def test_a_setting_that_cannot_be_meant_is_named_with_its_range(make, value, sentence):
    with pytest.raises(LabError) as caught:
        make(value)
    assert str(caught.value) == sentence.format(value)


def test_settings_at_the_ends_of_their_range_are_taken_and_just_beyond_refused():
    for make, ends in ((lambda value: guided(None, None, value), (-1000, 1000)), (lambda value: clamped(None, None, value), (0, 1e6))):
        for end, beyond in zip(ends, (-0.5, 0.5)):
            assert callable(make(end))
            with pytest.raises(LabError):
                make(end + beyond)
