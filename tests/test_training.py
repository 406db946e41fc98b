"""Training: the target, the draws, the update, stopping and going on."""

import math
from itertools import islice

import checks
import pytest
import torch
from checks import run
from oracle import ALPHA_BAR, close
from small import Pixelwise, generator, network, pictures, same_tensors, snapshot

from sprites_lab import LabError, TrainingState, levers, linear_schedule, train, training
from sprites_lab.recipes import course_recipe, improved_recipe


@pytest.mark.parametrize("check", [
    checks.check_training_target, checks.check_loss_by_hand, checks.check_timesteps_are_uniform, checks.check_contexts,
    checks.check_epochs, checks.check_one_update_by_hand, checks.check_average_of_a_run, checks.check_resume,
    checks.check_yields, checks.check_bad_loss_changes_nothing,
], ids=lambda check: check.__name__)  # fmt: skip
def test_training(check):
    check()


@pytest.mark.oracle
def test_dropping_contexts_always_or_never_is_exact():
    context = torch.eye(5)
    assert torch.equal(training.drop_context(context, 0.0, torch.Generator()), context)
    assert not training.drop_context(context, 1.0, torch.Generator()).any()


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit_through_a_file_at_every_split():
    checks.check_resume(checks.small_unet, onward=1, size=4, through_file=True)


def test_a_run_that_went_on_draws_the_same_pictures_as_the_straight_one():
    from sprites_lab import conditioned, ddim, final

    ends = []
    for split in (None, 7):
        state = TrainingState(Pixelwise())
        if split:
            run(state, split)
            state, kept = TrainingState(Pixelwise(seed=4)), state
            state.load(snapshot(kept.tensors()), kept.updates)
        run(state)
        assert state.updates == 24
        ends.append(final(ddim(conditioned(state.average, torch.eye(5)[1]), linear_schedule(), pictures()[0], 5)))
    assert torch.equal(*ends)


def test_a_loaded_state_does_not_share_its_tensors():
    state, other = TrainingState(Pixelwise()), TrainingState(Pixelwise(seed=1))
    run(state, 3)
    tensors = snapshot(state.tensors())
    other.load(tensors, 3)
    kept = snapshot(tensors)
    run(other, 3)
    assert other.updates == 6 and same_tensors(tensors, kept)


def test_a_finished_run_yields_nothing_more():
    state = TrainingState(Pixelwise())
    assert len(run(state)) == 24
    before = snapshot(state.tensors())
    assert run(state) == [] and same_tensors(before, snapshot(state.tensors()))


def test_seeds_decide_the_run():
    ends = []
    for seed in (3, 3, 4):
        state = TrainingState(Pixelwise())
        run(state, 6, seed=seed)
        ends.append(snapshot(state.tensors()))
    assert same_tensors(ends[0], ends[1]) and not same_tensors(ends[0], ends[2])


def test_neighbouring_seeds_and_updates_have_nothing_in_common():
    keys = [(seed, update, purpose) for seed in (0, 1, 2, 10**12) for update in range(50) for purpose in (0, 1)]
    draws = torch.stack([torch.randn(64, generator=training.seeded(*key)) for key in keys])
    assert torch.equal(draws[7], torch.randn(64, generator=training.seeded(*keys[7])))
    likeness = torch.corrcoef(draws) - torch.eye(len(keys))
    assert likeness.abs().max() < 5.5 / math.sqrt(64)
    assert len({tuple(row.tolist()) for row in draws}) == len(keys)


def test_a_picture_that_poisons_the_network_leaves_the_state_as_it_was():
    x0, contexts = pictures()
    x0[4] = math.nan
    state, kept = TrainingState(Pixelwise()), None
    kept = snapshot(state.tensors())
    with pytest.raises(LabError, match="loss became nan"):
        for _ in train(state, linear_schedule(), x0, contexts, epochs=1, batch_size=2):
            kept = snapshot(state.tensors())
    assert same_tensors(kept["average"], snapshot(state.average.state_dict()))
    parameters = dict(state.model.named_parameters())
    assert all(torch.equal(kept["model"][name], p) for name, p in parameters.items())
    assert same_tensors(kept["model"], snapshot(state.model.state_dict())), "batch-norm statistics took in the bad batch"


def test_a_far_too_large_learning_rate_stops_with_finite_weights():
    state = TrainingState(Pixelwise())
    with pytest.raises(LabError, match="smaller learning_rate"):
        run(state, learning_rate=1e30)
    assert all(t.isfinite().all() for t in state.model.state_dict().values())


def test_an_error_in_the_loss_leaves_eval_mode_and_the_position():
    def loss(*_):
        raise RuntimeError("no memory")

    state = TrainingState(Pixelwise())
    before = snapshot(state.tensors())
    with pytest.raises(RuntimeError, match="no memory"):
        run(state, loss=loss)
    assert state.updates == 0 and not state.model.training and same_tensors(before, snapshot(state.tensors()))


def test_the_average_starts_as_the_network_and_is_never_trained_itself():
    state = TrainingState(Pixelwise())
    assert same_tensors(snapshot(state.model.state_dict()), snapshot(state.average.state_dict()))
    assert not any(p.requires_grad for p in state.average.parameters())
    run(state, 3, average_decay=1.0)
    assert not same_tensors(snapshot(state.model.state_dict()), snapshot(state.average.state_dict()))


@pytest.mark.parametrize("change, word", [
    (dict(epochs=0), "epochs"), (dict(epochs=2.5), "epochs"), (dict(epochs=True), "epochs"), (dict(batch_size=0), "batch_size"),
    (dict(batch_size="4"), "batch_size"), (dict(learning_rate=0), "learning_rate"), (dict(learning_rate=math.nan), "learning_rate"),
    (dict(learning_rate=math.inf), "learning_rate"), (dict(context_dropout=-0.1), "context_dropout"),
    (dict(context_dropout=math.nan), "context_dropout"), (dict(average_decay=1.1), "average_decay"),
])  # fmt: skip
def test_a_recipe_that_cannot_be_meant_is_refused(change, word):
    with pytest.raises(LabError, match=word):
        run(TrainingState(Pixelwise()), **change)


@pytest.mark.parametrize("sprites, contexts", [(0, 0), (3, 2)])
def test_sprites_without_a_context_each_are_refused(sprites, contexts):
    with pytest.raises(LabError, match="one context for each sprite"):
        run(TrainingState(Pixelwise()), x0=torch.zeros(sprites, 3, 4, 4), contexts=torch.zeros(contexts, 5))


def test_training_in_bfloat16_keeps_weights_and_statistics_in_float32():
    state = TrainingState(network(height=4))
    x0, contexts = pictures(size=4)
    done = run(state, 3, x0=x0, contexts=contexts, autocast=torch.bfloat16)
    plain = run(TrainingState(network(height=4)), 3, x0=x0, contexts=contexts)
    assert {t.dtype for t in state.model.state_dict().values()} == {torch.float32, torch.int64}
    close([p.loss for p in done], [p.loss for p in plain], 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_sprite_is_learnt_in_110_updates(seed):
    x0 = torch.where(torch.arange(16).reshape(4, 4) % 5 < 2, 1.0, -1.0).expand(64, 3, 4, 4).contiguous()
    state, contexts = TrainingState(network(seed, features=16, height=4)), torch.eye(5)[:1].expand(64, 5)
    losses = [p.loss for p in run(state, x0=x0, contexts=contexts, epochs=110, batch_size=64, learning_rate=1e-2, seed=seed)]
    assert sum(losses[-20:]) / 20 < 0.1 * losses[0]


# Levers: other losses, timesteps and rates than the course's


def test_the_velocity_loss_is_the_error_of_the_velocity():
    x0, contexts = pictures(6)
    t, noise = torch.tensor([1, 20, 100, 250, 400, 500]), torch.randn(6, 3, 16, 16, generator=generator(3))
    schedule = linear_schedule()
    signal, spread = schedule.scales(t, x0)
    model = lambda x_t, t, context: 0.5 * x_t  # noqa: E731
    x_t = schedule.add_noise(x0, t, noise)
    guess = (x_t - spread * 0.5 * x_t) / signal  # the clean picture behind the answer
    wrong = (signal * 0.5 * x_t - spread * guess) - (signal * noise - spread * x0)
    close(levers.velocity_loss(model, schedule, x0, contexts, t, noise), wrong.square().mean(), 1e-5 * float(wrong.square().mean()))


def test_without_the_root_the_network_is_shown_less_noise():
    x0, contexts = pictures(3)
    t, noise, schedule = torch.tensor([1, 50, 500]), torch.randn(3, 3, 16, 16, generator=generator(3)), linear_schedule()
    shown = []
    value = levers.forgotten_root_loss(lambda x_t, t, context: shown.append(x_t) or 0.5 * x_t, schedule, x0, contexts, t, noise)
    alpha_bar = schedule.alpha_bar[t].float().view(3, 1, 1, 1)
    close(shown[0], alpha_bar.sqrt() * x0 + (1 - alpha_bar) * noise, 1e-6)
    close(value, (0.5 * shown[0] - noise).square().mean(), 1e-6)


def test_mirroring_takes_half_of_those_that_may_be_mirrored():
    x0, _ = pictures(400)
    allowed = torch.arange(400) % 4 != 0
    found = training.mirror_some(x0, allowed, generator(1))
    same, mirrored = (found == x0).flatten(1).all(1), (found == x0.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all() and same[~allowed].all() and 110 < mirrored.sum() < 190


def test_training_mirrors_only_on_request_and_only_what_it_may():
    x0, contexts = pictures(8)
    seen = []

    def loss(model, schedule, shown, context, t, noise):
        seen.append(shown)
        return training.noise_loss(model, schedule, shown, context, t, noise)

    allowed = torch.arange(8) < 4
    for may_mirror in (None, allowed, ~allowed & allowed):
        list(training.train(training.TrainingState(Pixelwise()), linear_schedule(), x0, contexts, epochs=2, batch_size=8, loss=loss, may_mirror=may_mirror))
    plain, some, none = seen[:2], seen[2:4], seen[4:]
    assert all(torch.equal(a, b) for a, b in zip(plain, none))
    for a, b in zip(plain, some):
        changed = (a != b).flatten(1).any(1)
        assert changed.any() and all((row == x0[:4]).flatten(1).all(1).any() for row in a[changed])


@pytest.mark.parametrize("recipe", [course_recipe(), improved_recipe()])
def test_a_recipes_run_goes_on_bitwise(recipe):
    """The optimiser's memory is part of the state, whichever optimiser a recipe has."""
    schedule = recipe.schedule(20)
    whole, half = (recipe.state(network_of(recipe, schedule)) for _ in range(2))
    x0, contexts = pictures(8)
    settings = dict(epochs=3, batch_size=4, loss=recipe.loss, draw_t=recipe.draw_t, rate_factor=recipe.rate_factor)
    list(training.train(whole, schedule, x0, contexts, **settings))
    list(islice(training.train(half, schedule, x0, contexts, **settings), 3))
    other = recipe.state(network_of(recipe, schedule))
    other.load(snapshot(half.tensors()), half.updates)
    list(training.train(other, schedule, x0, contexts, **settings))
    assert same_tensors(snapshot(whole.tensors()), snapshot(other.tensors()))


def network_of(recipe, schedule):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        return recipe.network(schedule, features=8)


def test_min_snr_weighs_each_picture_by_hand():
    """A network that answers 0 errs by the noise itself: the loss is the weighted mean of its square."""
    x0, contexts = pictures(6)
    t, noise = torch.tensor([1, 20, 92, 93, 200, 500]), torch.randn(x0.shape, generator=generator(1))
    a = torch.from_numpy(ALPHA_BAR)[t]
    weight = torch.minimum(a / (1 - a), torch.tensor(5.0)) / (a / (1 - a))
    silent = lambda x_t, t, context: torch.zeros_like(x_t)  # noqa: E731
    close(levers.min_snr_loss(silent, linear_schedule(), x0, contexts, t, noise), (noise.square().mean((1, 2, 3)) * weight).mean(), 1e-5)
    assert (weight[3:] == 1).all() and (weight[:3] < 1).all()
    close(levers.min_snr_loss(silent, linear_schedule(), x0, contexts, t, noise, gamma=1e9), training.noise_loss(silent, linear_schedule(), x0, contexts, t, noise), 1e-6)


def test_stratified_timesteps_are_each_as_likely_and_spread_in_every_batch():
    batches = torch.stack([levers.stratified_t(10, 50, generator(i)) for i in range(4000)])
    counts = batches.flatten().bincount(minlength=51)
    assert counts[0] == 0 and len(counts) == 51 and ((counts[1:] - 800) ** 2 / 800).sum() < 49 + 5 * 98**0.5
    for i in range(10):  # each place of the batch may get any t
        assert len(batches[:, i].unique()) == 50
    gaps = batches.sort(1).values.diff(dim=1)
    assert gaps.min() >= 4 and gaps.max() <= 6


def test_the_cosine_rate_rises_falls_and_ends_near_nothing():
    rates = [levers.warm_cosine(update, 100, 10, warm_up=50) for update in range(1000)]
    close(rates[0], 1 / 50, 1e-6)
    close(rates[500], 0.5, 1e-9)
    assert max(rates) == rates[49] > 0.99 and rates[-1] < 1e-5 and all(a > b for a, b in zip(rates[49:], rates[50:]))


def test_training_takes_its_timesteps_and_its_rate_from_what_it_is_given():
    seen, rates = [], []

    def loss(model, schedule, x0, context, t, noise):
        seen.append(t.tolist())
        return training.noise_loss(model, schedule, x0, context, t, noise)

    def fall(update, per_epoch, epochs):
        rates.append((update, per_epoch, epochs))
        return 1 / (1 + update)

    done = run(TrainingState(Pixelwise()), 5, loss=loss, draw_t=lambda count, timesteps, chance: torch.full((count,), timesteps - 7), rate_factor=fall)
    assert {t for batch in seen for t in batch} == {493} and rates == [(i, 3, 8) for i in range(5)]
    close([p.learning_rate for p in done], [1e-3 / (1 + i) for i in range(5)], 1e-12)
