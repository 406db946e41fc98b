"""Settings that cannot be meant: 2,000 draws, each a sentence that names the setting, or a finite result."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small import Pixelwise, generator, pictures

from sprites_lab import LabError, ddim, ddpm, guided, lab, solvers, spacing
from sprites_lab.own_sprites import Reading, check_reading
from sprites_lab.predictors import clamped
from sprites_lab.schedule import cosine_schedule, linear_schedule
from sprites_lab.settings import check_number, check_whole
from sprites_lab.training import TrainingState, train
from sprites_lab.unet import ContextUnet
from sprites_lab.walks import Walk

SCHEDULE = linear_schedule(20)
SILLY = (
    0, -1, 1, 2, 3, 7, 16, 20, 21, 0.5, 1.5, 2.0, 20.0, -0.0, 1e-9, 1e30, float("nan"), float("inf"), -float("inf"), True, False, "20", "", None, [], [1], {},
    2**70, -(2**70), 1j, np.int64(5), np.float32(0.5), np.array([3]), np.array([1, 2]), torch.tensor(4), torch.tensor(float("nan")), torch.tensor([1.0, 2.0]), b"3", object(),
)  # fmt: skip


def predict(x_t, t):
    return 0.1 * x_t


def walked(sampler, predict_noise=predict, schedule=SCHEDULE, **given):
    """The pictures after two steps."""
    steps = sampler(predict_noise, schedule, torch.ones(2, 3, 4, 4), generator=generator(), **given)
    return [step.x_t for step, _ in zip(steps, range(2))]


def trained(**given):
    x0, contexts = pictures(4, 4)
    state = TrainingState(Pixelwise())
    steps = train(state, SCHEDULE, x0, contexts, **dict(epochs=2, batch_size=2) | given)
    return [torch.tensor(progress.loss) for progress, _ in zip(steps, range(2))]


def network(**given):
    with torch.random.fork_rng(devices=[]):
        return [seen(len(ContextUnet(**dict(features=8) | given).settings))]


def seen(values):
    return torch.as_tensor(values, dtype=torch.float64)


DOORS = {
    "ddim num_steps": lambda value: walked(ddim, num_steps=value), "ddim eta": lambda value: walked(ddim, num_steps=4, eta=value),
    "ddpm noise_amount": lambda value: walked(ddpm, noise_amount=value), "dpm_solver num_steps": lambda value: walked(solvers.dpm_solver, num_steps=value),
    "ipndm order": lambda value: walked(solvers.ipndm, num_steps=4, order=value), "unipc order": lambda value: walked(solvers.unipc, num_steps=4, order=value),
    "unipc num_steps": lambda value: walked(solvers.unipc, num_steps=value), "dpm_solver eta": lambda value: walked(solvers.dpm_solver, num_steps=4, eta=value),
    "the guidance scale": lambda value: walked(ddim, guided(predict, lambda x_t, t: x_t, value), num_steps=4), "limit": lambda value: walked(ddim, clamped(predict, SCHEDULE, value), num_steps=4),
    "timesteps": lambda value: [linear_schedule(value).alpha_bar], "cosine timesteps": lambda value: [cosine_schedule(value).alpha_bar],
    "beta_start": lambda value: [linear_schedule(20, beta_start=value).alpha_bar], "beta_end": lambda value: [linear_schedule(20, beta_end=value).alpha_bar],
    "offset": lambda value: [cosine_schedule(20, offset=value).alpha_bar], "beta_max": lambda value: [cosine_schedule(20, beta_max=value).alpha_bar],
    **{f"{name.__name__} num_steps": partial(lambda name, value: [seen(name(SCHEDULE, value))], name) for name in (spacing.trailing, spacing.quadratic, spacing.log_snr, spacing.karras)},
    "t_min": lambda value: [seen(spacing.karras(SCHEDULE, 4, t_min=value))], "power": lambda value: [seen(spacing.karras(SCHEDULE, 4, 2, power=value))],
    **{name: partial(lambda name, value: trained(**{name: value}), name) for name in ("epochs", "batch_size", "learning_rate", "seed", "context_dropout", "average_decay")},
    **{f"noise {name}": partial(lambda name, value: [lab.starting_noise(**dict(count=2) | {name: value})], name) for name in ("count", "seed", "size")},
    **{f"network {name}": partial(lambda name, value: network(**{name: value}), name) for name in ("features", "context_size", "height", "timesteps")},
    **{f"--{name}": partial(lambda name, value: [seen(Walk(**dict(sampler="ddim", steps=4) | {name: value}).checked(20).steps)], name) for name in ("steps", "eta", "scale")},
    **{f"import {name}": partial(lambda name, value: [seen(check_reading(Reading(**{name: value})) is None)], name) for name in ("tile", "spacing", "margin", "size", "held_out", "fit")},
}  # fmt: skip


@pytest.mark.slow
@settings(derandomize=True, deadline=None, database=None, max_examples=2000)
@given(door=st.sampled_from(sorted(DOORS)), value=st.sampled_from(SILLY) | st.floats() | st.integers() | st.text(max_size=5))
@example(door="ddim num_steps", value=20)
def test_a_setting_is_meant_or_refused_by_name(door, value):
    try:
        results = DOORS[door](value)
    except LabError as error:
        assert any(word in str(error) for word in (door.split()[-1], door.split()[0], "scale", "loss")), error
    else:
        assert results and all(torch.as_tensor(result).isfinite().all() for result in results)


def test_every_door_lets_something_in_and_keeps_something_out():
    def let_in(door, value):
        try:
            return bool(DOORS[door](value))
        except LabError:
            return False

    for door in DOORS:
        answers = {let_in(door, value) for value in SILLY}
        assert answers == {True, False} or door == "import fit" and answers == {True, False}, door


@pytest.mark.parametrize("value", [1, 5.0, np.int64(3), torch.tensor(4)])
def test_whole_numbers_of_any_kind_pass(value):
    check_whole("n", value, 1, 5)
    check_number("n", value, 1, 5)


@pytest.mark.parametrize("value", [0, 6, 0.5, True, "3", None, float("nan"), float("inf"), [3], np.array([1, 2]), 1j])
def test_other_values_are_refused_with_the_range(value):
    with pytest.raises(LabError, match=r"n is .* whole number from 1 to 5 \(because\)"):
        check_whole("n", value, 1, 5, "because")
    if not isinstance(value, float) or value != 0.5:
        with pytest.raises(LabError, match="n is .* a number from 1 to 5$"):
            check_number("n", value, 1, 5)


def test_a_long_value_is_cut():
    with pytest.raises(LabError) as caught:
        check_whole("n", "x" * 1000, 1, 5)
    assert len(str(caught.value)) < 120
