"""Bits and class probabilities against pictures whose likelihood is known: one Gaussian, correlated pixels, a finite set."""

import math

import numpy as np
import pytest
import torch
from oracle import ALPHA_BAR, BETA, T, close, generator, normal, optimal_variance, perfect, perfect_for_set, posterior_beta

from sprites_lab import LabError, data, lab, likelihood, linear_schedule, runtime, samplers
from sprites_lab.likelihood import Strata, analytic_variance, assemble, bound, density_nats, posterior_variance, step_nats
from sprites_lab.observer import Observer
from sprites_lab.predictors import conditioned
from sprites_lab.schedule import at

S = linear_schedule()
ALL = torch.arange(1, T + 1)
STEPS = Strata(ALL[1:], torch.ones(T - 1))  # every t from 2 to T
BITS = math.log(2)


def gaussian_errors(s):
    """The expected squared noise error of the perfect predictor for pixels N(mu, s^2), at t = 1..T."""
    left = ALPHA_BAR * s**2 / (ALPHA_BAR * s**2 + 1 - ALPHA_BAR)
    return torch.from_numpy(left)[1:]


def exact_bound(s, mu, variance):
    """The bound of pixels N(mu, s^2), with nothing left to chance: the density decoder, and the expected error at every t."""
    errors = gaussian_errors(s)
    decoder = density_nats(errors[:1] * (1 - ALPHA_BAR[1]) / ALPHA_BAR[1], variance[1])
    return assemble(S, torch.tensor([mu**2 + s**2]).double(), STEPS, errors[None, 1:], decoder, variance)


def nll(s):
    """The entropy of N(mu, s^2) in nats."""
    return 0.5 * math.log(2 * math.pi * math.e * s**2)


def bell(mean, scale):
    """A normal distribution in float64."""
    return torch.distributions.Normal(*(torch.as_tensor(number, dtype=torch.float64) for number in (mean, scale)))


def levels(*shape, seed=0):
    """Pictures whose values are any of the 256 levels, each as likely."""
    return torch.randint(0, 256, shape, generator=generator(seed)) / 127.5 - 1


# The bound, exactly


@pytest.mark.oracle
@pytest.mark.parametrize("s, value, gap", [
    (1, 1.420479434, 0.001540900), (0.5, 0.727337833, 0.001546481), (0.1, -0.882095927, 0.001550633),
])  # fmt: skip
def test_with_the_analytic_variance_the_bound_misses_a_gaussian_by_the_end_of_the_chain_only(s, value, gap):
    """O8: bound - entropy = KL of the distribution of x_T from N(0, 1)."""
    mu, a = 0.7, ALPHA_BAR[T]
    variance = analytic_variance(S, ALL, gaussian_errors(s))
    close(variance[1:], [optimal_variance(s)(t) for t in ALL.tolist()], 1e-12)
    found = exact_bound(s, mu, variance).total.item() * BITS
    end = a * s**2 + 1 - a
    close(found - nll(s), 0.5 * (a * mu**2 + end - 1 - math.log(end)), 1e-9)
    close([found, found - nll(s)], [value, gap], 1e-9)


@pytest.mark.oracle
@pytest.mark.parametrize("s, beta_gap, tilde_gap", [(1, 0.0015, 0.52), (0.5, 0.0031, 0.51), (0.1, 0.0291, 0.42)])
def test_any_other_variance_costs_more(s, beta_gap, tilde_gap):
    best, tilde = analytic_variance(S, ALL, gaussian_errors(s)), posterior_variance(S)
    tilde[1] = BETA[1]
    least, *others = (exact_bound(s, 0.7, variance).total.item() * BITS - nll(s) for variance in (best, S.beta, tilde, 1.01 * best, 0.99 * best))
    close(others[:2], [beta_gap, tilde_gap], 0.006)
    assert all(gap >= least - 1e-12 for gap in others) and min(others[1:]) > least + 0.01 and least > 0


@pytest.mark.oracle
def test_the_least_variance_is_the_posterior_one():
    tilde = posterior_variance(S)
    close(tilde[2:], [posterior_beta(t) for t in range(2, T + 1)], 1e-15)
    close(tilde[:3], [0, tilde[2], 0.437730089 * BETA[2]], 1e-11)


@pytest.mark.oracle
@pytest.mark.parametrize("t", [2, 3, 60, 250, 500])
def test_a_step_is_the_divergence_of_two_normal_distributions(t):
    """The true x_{t-1} given x_t and x0 from the one that DDPM draws, value by value, for any guess at the noise."""
    x0, noise, guess = normal(3, 3, 4, 4), normal(3, 3, 4, 4, seed=1), normal(3, 3, 4, 4, seed=2)
    x_t, a, p = math.sqrt(ALPHA_BAR[t]) * x0 + math.sqrt(1 - ALPHA_BAR[t]) * noise, ALPHA_BAR[t], ALPHA_BAR[t - 1]
    true_mean = math.sqrt(p) * BETA[t] / (1 - a) * x0 + math.sqrt(1 - BETA[t]) * (1 - p) / (1 - a) * x_t
    drawn_mean = samplers.ddpm_mean(S, x_t, t, guess)
    for variance in (S.beta, posterior_variance(S), 3 * S.beta):
        drawn = bell(drawn_mean, variance[t].sqrt())
        true = bell(true_mean, math.sqrt(posterior_beta(t)))
        expected = torch.distributions.kl_divergence(true, drawn).flatten(1).mean(1)
        errors = (guess - noise).square().flatten(1).mean(1)[:, None]
        close(step_nats(S, torch.tensor([t]), errors, variance)[:, 0], expected, 1e-10)


@pytest.mark.oracle
def test_the_end_of_the_chain_is_the_divergence_from_pure_noise():
    x0 = normal(3, 3, 4, 4)
    last = bell(math.sqrt(ALPHA_BAR[T]) * x0, math.sqrt(1 - ALPHA_BAR[T]))
    expected = torch.distributions.kl_divergence(last, bell(0.0, 1.0)).flatten(1).mean(1)
    close(likelihood.prior_nats(S, x0.square().flatten(1).mean(1)), expected, 1e-12)


# The decoder


@pytest.mark.oracle
@pytest.mark.parametrize("mean", [-1.0, -0.4, 0.0, 0.9999, 1.3])
@pytest.mark.parametrize("scale", [1e-4, 0.003, 0.1, 2.0])
def test_the_probabilities_of_the_256_levels_sum_to_one(mean, scale):
    values = torch.arange(256).double() / 127.5 - 1
    nats = likelihood.discretised_nats(values, torch.tensor(mean, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64))
    assert nats.isfinite().all()
    close((-nats).exp().sum(), 1, 1e-9)
    bins = bell(mean, scale).cdf(values + 1 / 255)
    bins[-1] = 1
    close((-nats).exp(), bins.diff(prepend=torch.zeros(1).double()), 1e-9)


def test_far_out_in_the_tails_bits_keep_growing():
    """-log of a normal tail is about its square / 2: nothing is raised to a least probability."""
    nats = likelihood.discretised_nats(torch.tensor([1.0, -1.0, 0.0039]), torch.tensor([-1.0, 1.0, -1.0]), torch.tensor(0.01))
    close(nats / torch.tensor([199.6**2, 199.6**2, 100.0**2]).double() * 2, 1, 0.01)


def test_the_decoder_guesses_x0_from_x_1_within_the_range_of_pictures():
    """Who says k too much noise guesses r_1 k too little; each draw has noise of its own, and L_0 is their mean."""
    x0, seen = levels(2, 3, 4, 4).double(), []
    x0[0, 0, 0, 0] = -1

    def off(x_t, t):
        assert torch.equal(t, torch.ones(2, dtype=torch.int64))
        seen.append(S.guess_noise(x_t, t, x0))
        return seen[-1] + 2

    mean = likelihood.decoder_mean(off, S, x0, generator())
    close(mean, (x0 - 2 * math.sqrt((1 - ALPHA_BAR[1]) / ALPHA_BAR[1])).clamp(-1, 1), 1e-9)
    assert mean[0, 0, 0, 0] == -1
    expected = likelihood.discretised_nats(x0, mean, S.beta[1].sqrt()).flatten(1).mean(1)
    close(likelihood.decoder_nats(off, S, x0, S.beta, draws=3), expected, 1e-6)
    assert len(seen) == 4 and all((one - other).abs().max() > 1 for i, one in enumerate(seen[1:]) for other in seen[1:][:i])


# What is measured with a predictor


def test_the_table_holds_the_errors_of_a_known_answer():
    """Who knows the noise makes no error; who adds k to it makes k^2; float64, no gradients, t as it was asked."""
    x0, times, seen = levels(5, 3, 4, 4), torch.tensor([[1, 40, 500]] * 4 + [[2, 60, 499]]), []

    def off(x_t, t):
        seen.append(t)
        assert t.dtype == torch.int64 and not torch.is_grad_enabled()
        return S.guess_noise(x_t, t, x0) + torch.arange(5.0).reshape(5, 1, 1, 1)

    errors = likelihood.error_table(off, S, x0, times)
    assert errors.dtype == torch.float64 and torch.equal(torch.stack(seen, 1), times)
    close(errors, torch.arange(5.0)[:, None].square().expand(5, 3), 1e-3)
    same_times = likelihood.error_table(off, S, x0, torch.tensor([40, 500]))
    assert same_times.shape == (5, 2)


def test_the_noise_is_fresh_for_each_time_and_the_same_for_the_same_seed():
    noises, x0 = [], torch.zeros(2, 3, 4, 4)

    def keep(x_t, t):
        noises.append(x_t / at(S.noise_scale, t, x_t))
        return x_t

    before, times = torch.get_rng_state(), torch.tensor([100, 100])
    for seed in (0, 0, 1):
        likelihood.error_table(keep, S, x0, times, seed)
    assert torch.equal(noises[0], noises[2]) and torch.equal(noises[1], noises[3])
    assert len({tuple(noise.flatten().tolist()) for noise in noises}) == 4
    close(torch.stack(noises).square().mean(), 1, 0.3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.oracle
def test_a_measured_table_has_the_expected_errors_of_a_gaussian():
    times = torch.tensor([1, 30, 250, 500])
    errors = likelihood.error_table(perfect(0.5, 0.7), S, 0.7 + 0.5 * normal(400, 3, 4, 4), times)
    for found, expected in zip(errors.unbind(1), gaussian_errors(0.5)[times - 1].tolist()):
        mean, error = likelihood.mean_and_error(found)
        assert 0 < error < 0.02 * expected and abs(mean - expected) < 5 * error


@pytest.mark.parametrize("count", [1, 2, 64, 300, T - 1])
def test_strata_stand_for_every_timestep_from_2_to_T_once(count):
    asked = likelihood.strata(S, 7, count)
    edges = [1, *(1 + asked.widths.cumsum(0)).tolist()]
    assert edges[-1] == T and len(asked.widths) == count and asked.widths.min() >= 1
    for number, times in enumerate(asked.times.T.tolist()):
        assert all(edges[number] < t <= edges[number + 1] for t in times)
    if count == T - 1:
        assert torch.equal(asked.times, STEPS.times.expand(7, -1))


def test_strata_estimate_a_sum_without_bias():
    """Their ends are reached too: the mean over many draws is the sum over all t, within five of its errors."""
    asked = likelihood.strata(S, 20_000, 6)
    mean, error = likelihood.mean_and_error((asked.times.double().sqrt() * asked.widths).sum(1))
    assert abs(mean - STEPS.times.double().sqrt().sum().item()) < 5 * error
    ends = torch.stack([asked.times.amin(0), asked.times.amax(0)])
    assert ends[0, 0] == 2 and ends[1, -1] == T and torch.equal(ends[1, :-1] + 1, ends[0, 1:])


@pytest.mark.oracle
def test_the_fitted_variance_is_the_analytic_one():
    """Half of the timesteps are interpolated; the scale of the decoder is the standard deviation of x0 given x_1."""
    s = 0.3
    x0 = ((normal(300, 3, 4, 4) * s + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1
    found = likelihood.fit_variance(perfect(s), S, x0, 48)
    expected = np.array([optimal_variance(s)(t) for t in range(2, T + 1)])
    close(found[2:] / torch.from_numpy(expected), 1, 0.02)
    close(found[1].sqrt() / math.sqrt(optimal_variance(s)(1)), 1, 0.05)


@pytest.mark.oracle
def test_a_bound_holds_for_pictures_of_the_set_that_the_predictor_knows():
    """Of 8 pictures, 3 bits must be paid; the chain pays them, the end, and what T steps lose against infinitely many.

    With the posterior variance a step pays (SNR_{t-1} - SNR_t) / 2 per squared error of x0. This sum runs over the
    integral, which is log 8 less what is still known at T (Guo et al. 2005), so it lies between log 8 - L_T and more.
    """
    pictures, variance = levels(8, 3, 4, 4), posterior_variance(S)
    variance[1] = 1e-8
    seen = Observer(pictures, S)
    found = bound(seen, S, pictures.double().repeat(8, 1, 1, 1), variance, T - 1, draws=1)
    total, error = likelihood.mean_and_error(found.total * 48)
    assert 3 < total + 5 * error and total - 5 * error < 3.3, (total, error)
    close(found.decoder, 0, 1e-9)
    close(found.prior.sum() / 64 * 48, 0.0, 0.3)
    fewer = bound(seen, S, pictures.double().repeat(8, 1, 1, 1), variance, 40, draws=1)
    other, other_error = likelihood.mean_and_error(fewer.total * 48)
    assert abs(other - total) < 5 * (error**2 + other_error**2) ** 0.5
    assert bound(seen, S, levels(8, 3, 4, 4, seed=9), variance, 40, draws=1).total.min() > 8


@pytest.mark.oracle
def test_noise_costs_eight_bits_and_more_whoever_predicts():
    """No predictor can do better on values of which none is likelier than another; a Gaussian comes close."""
    pictures = levels(100, 3, 8, 8)
    for s, most in ((0.58, 8.35), (0.2, 12)):
        variance = analytic_variance(S, ALL, gaussian_errors(s))
        mean, error = likelihood.mean_and_error(bound(perfect(s), S, pictures, variance, 100).total)
        assert 8 < mean - 5 * error and mean < most


def test_all_parts_are_in_the_total_in_bits():
    x0 = levels(4, 3, 4, 4)
    found = bound(perfect(0.6), S, x0, S.beta, T - 1, seed=3, draws=2)
    decoder = likelihood.decoder_nats(perfect(0.6), S, x0, S.beta, 3, 2)
    nats = likelihood.prior_nats(S, x0.double().square().flatten(1).mean(1)) + decoder
    nats = nats + step_nats(S, found.times, likelihood.error_table(perfect(0.6), S, x0, found.times, 3), S.beta).sum(1)
    close(found.total * BITS, nats, 1e-12)
    close(found.terms.sum(1), found.steps, 1e-12)
    assert torch.equal(found.variance, S.beta) and found.total.dtype == torch.float64
    assert min(found.prior.min(), found.decoder.min(), found.terms.min()) > 0


def test_the_mean_comes_with_its_standard_error():
    assert likelihood.mean_and_error(torch.tensor([1.0, 3.0])) == (2.0, 1.0)
    assert math.isnan(likelihood.mean_and_error(torch.ones(1))[1])


@pytest.mark.parametrize("x0", [torch.full((2, 3, 4, 4), 0.5), levels(3, 4, 4), levels(0, 3, 4, 4), levels(2, 3, 4, 4) * 2, levels(2, 3, 4, 4) * torch.nan])
def test_pictures_that_are_not_of_8_bits_are_refused(x0):
    with pytest.raises(LabError, match="256 levels"):
        bound(perfect(), S, x0, S.beta)


@pytest.mark.parametrize("variance", [S.beta[1:], torch.zeros(T + 1), -S.beta, S.beta * torch.nan])
def test_a_variance_that_cannot_be_meant_is_refused(variance):
    with pytest.raises(LabError, match="variance"):
        bound(perfect(), S, levels(2, 3, 4, 4), variance)


@pytest.mark.parametrize("name, settings", [("count", {"count": 0}), ("count", {"count": T}), ("count", {"count": True}), ("draws", {"draws": 0})])
def test_silly_settings_are_refused(name, settings):
    with pytest.raises(LabError, match=name):
        bound(perfect(), S, levels(2, 3, 4, 4), S.beta, **settings)


@pytest.mark.parametrize("times", [[], [0, 5], [3, T + 1]])
def test_timesteps_that_the_schedule_does_not_have_are_refused(times):
    with pytest.raises(LabError, match="times"):
        likelihood.error_table(perfect(), S, levels(2, 3, 4, 4), torch.tensor(times, dtype=torch.int64))


# The ODE


def ode_density(x0, s, mu):
    """-log density in nats that the exact ODE gives pixels whose predictor is that of N(mu, s^2), value by value."""
    first, last = ((1 - ALPHA_BAR[t]) / ALPHA_BAR[t] for t in (1, T))
    gain = math.sqrt((s**2 + last) / (s**2 + first))
    return -bell(0, math.sqrt(1 + last)).log_prob(mu + gain * (x0 - mu)) - math.log(gain)


@pytest.mark.oracle
def test_the_ode_gives_standard_normal_pixels_their_density_exactly():
    """With whatever steps: the velocity is 0. At t = 1 x_1 / signal_scale is N(0, 1 / alpha_bar[1])."""
    x0 = normal(6, 3, 2, 2)
    expected = -bell(0, ALPHA_BAR[1] ** -0.5).log_prob(x0).flatten(1).sum(1)
    close(ode_density(x0, 1, 0).flatten(1).sum(1), expected, 1e-10)
    close(likelihood.ode_nats(perfect(), S, x0, 5), expected, 1e-10)


@pytest.mark.oracle
@pytest.mark.parametrize("s, mu, tolerance", [(0.5, 0.7, 3e-4), (0.1, -0.2, 1.5e-3)])
def test_the_ode_gives_a_gaussian_its_density(s, mu, tolerance):
    """Off by a quarter with twice the steps; `tolerance` in nats per value is for 100 steps."""
    x0 = mu + s * normal(6, 3, 2, 2)
    expected = ode_density(x0, s, mu).flatten(1).sum(1)
    errors = [(likelihood.ode_nats(perfect(s, mu), S, x0, n) - expected).abs().max().item() / 12 for n in (12, 25, 50, 100)]
    assert errors[-1] < tolerance
    assert all(3.2 < one / two < 5.8 for one, two in zip(errors, errors[1:])), errors


@pytest.mark.oracle
def test_the_ode_gives_correlated_values_their_density():
    """Two values of a bivariate Gaussian, the divergence asked exactly; in its own axes the density is a product."""
    turn = torch.linalg.qr(normal(2, 2))[0]
    spread = torch.tensor([0.4, 0.9], dtype=torch.float64)

    def predict_noise(x_t, t):
        own = x_t.flatten(1) @ turn
        a = S.alpha_bar[t][:, None]
        return ((1 - a).sqrt() * own / (a * spread**2 + 1 - a) @ turn.T).reshape(x_t.shape)

    own = normal(5, 2, seed=3) * spread
    expected = sum(ode_density(own[:, i], spread[i].item(), 0) for i in (0, 1))
    close(likelihood.ode_nats(predict_noise, S, (own @ turn.T).reshape(5, 1, 1, 2), 150, exact=True), expected, 5e-4)


@pytest.mark.oracle
def test_probes_find_the_divergence_of_values_that_depend_on_each_other():
    """Asked one by one the divergence is the trace of the Jacobian, by random signs it is so on average."""
    mix, count = normal(4, 4), 4000

    def predict_noise(x_t, t):
        return (x_t.flatten(1) @ mix.T + 0.3 * x_t.flatten(1).sin()).reshape(x_t.shape)

    x_t, signal, spread = normal(1, 1, 2, 2, seed=1).expand(count, -1, -1, -1), S.signal_scale[60], S.noise_scale[60]
    jacobian = (mix + torch.diag(0.3 * x_t[0].flatten().cos()) - spread * torch.eye(4, dtype=torch.float64)) / signal
    for exact in (True, False):
        answer, found = likelihood.velocity(predict_noise, S, x_t, 60, likelihood.probes(x_t, generator(), exact))
        noise = predict_noise(x_t, 60)
        close(answer, signal * noise - spread * S.guess_x0(x_t, 60, noise), 1e-12)
        assert not answer.requires_grad
        mean, error = likelihood.mean_and_error(found)
        close(mean, jacobian.trace(), 1e-9 if exact else 5 * error)
        assert (error < 1e-12) == exact


@pytest.mark.oracle
def test_the_ode_counts_bits_of_8_bit_values():
    """Where the density hardly changes within a bin, bits of the ODE are those of a Gaussian cut in 256 bins."""
    x0 = levels(20, 3, 4, 4)
    found = likelihood.ode_bits(perfect(), S, x0, 5)
    cut = likelihood.discretised_nats(x0.clamp(-0.99, 0.99), torch.zeros(1), torch.full((1,), ALPHA_BAR[1] ** -0.5))
    close(found, cut.flatten(1).mean(1) / BITS, 0.01)
    other = likelihood.ode_bits(perfect(), S, x0, 5, seed=1)  # here nothing but the place within the bins is left to chance
    assert 1e-6 < (found - other).abs().max() < 0.01


def test_the_ode_is_a_function_of_its_seed():
    x0 = levels(2, 3, 4, 4)
    noisy = lambda x_t, t: x_t.roll(1, 3) * 0.5 + x_t * 0.2  # noqa: E731
    one, same, other = (likelihood.ode_bits(noisy, S, x0, 4, seed) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    with pytest.raises(LabError, match="num_steps"):
        likelihood.ode_bits(noisy, S, x0, T)


# Class probabilities


def one_picture_each(x_t, t, context):
    """A network that knows one picture for each context: all values are the sum of the context."""
    return S.guess_noise(x_t, t, context.sum(1)[:, None, None, None] * torch.ones_like(x_t))


@pytest.mark.oracle
def test_class_probabilities_are_the_softmax_of_the_mean_errors():
    x0, times = levels(5, 3, 4, 4).double(), torch.tensor([100, 200, 300])
    contexts = torch.tensor([[0.3, 0.0], [0.0, -0.5], [0.9, 0.1]], dtype=torch.float64)
    found = likelihood.classify(one_picture_each, S, x0, contexts, times, 0.4)
    distance = torch.stack([(x0 - value).square().flatten(1).mean(1) for value in (0.3, -0.5, 1.0)], 1)
    errors = np.mean([ALPHA_BAR[t] / (1 - ALPHA_BAR[t]) for t in times]) * distance
    close(found.errors, errors, 1e-9)
    close(found.probabilities, (-0.4 * errors).exp() / (-0.4 * errors).exp().sum(1, keepdim=True), 1e-9)
    assert found.calls == 9


def test_all_classes_are_asked_with_the_same_noise():
    """So contexts that say the same are equally likely to the last bit, and no sprite is judged by its luck."""
    seen = []

    def network(x_t, t, context):
        seen.append((x_t, t, context))
        return x_t * (0.1 + context[:, :1, None, None])

    found = likelihood.classify(network, S, levels(3, 3, 4, 4), torch.tensor([[0.5, 0], [0.5, 1], [0, 0]]), seed=4)
    assert found.calls == len(seen) == 60 and torch.equal(found.errors[:, 0], found.errors[:, 1])
    for number in range(20):
        assert all(torch.equal(seen[number][i], seen[number + 20 * k][i]) for k in (1, 2) for i in (0, 1))
    assert [context[0].tolist() for _, _, context in seen[::20]] == [[0.5, 0], [0.5, 1], [0, 0]]
    assert [t[0].item() for _, t, _ in seen[:20]] == sorted({t[0].item() for _, t, _ in seen}) and seen[0][1][0] == 100 and seen[19][1][0] == 300


# The shipped network


@pytest.mark.slow
def test_the_shipped_network_names_the_classes_of_new_sprites_and_pays_few_bits():
    """Held-out sprites: what is stated of them in weights/ and the chapters cannot be far off."""
    found, sprites = lab.load_weights(), data.load_sprites().test[::100]
    network = runtime.fast_network(found.model, lab.fast_dtype(torch.device("cpu")))
    x0, labels = sprites.pictures(), torch.as_tensor(sprites.labels).long()
    classes = likelihood.classify(network, found.schedule, x0, torch.eye(5))
    assert (classes.probabilities.argmax(1) == labels).sum() >= len(labels) - 1 and classes.calls == 100
    close(classes.probabilities.sum(1), 1, 1e-12)
    told = conditioned(network, sprites.contexts())
    bits = bound(told, found.schedule, x0, found.schedule.beta, 16, draws=1)
    mean, error = likelihood.mean_and_error(bits.total)
    assert abs(mean - 3.55) < 0.1 + 5 * error, (mean, error)
