"""Bugs that were made, or could be, planted one at a time: each named check must see its bug. Every fixed bug adds a row."""

import inspect
from functools import cache

import checks
import numpy as np
import oracle
import pytest
import solver_oracle
import torch

from sprites_lab import checkpoints, data, distillation, figures, lab, predictors, samplers, schedule, solvers, spacing, training
from sprites_lab.samplers import Step
from sprites_lab.schedule import NoiseSchedule, at

ZOO = {}


def bug(name, place, attribute, *killers):
    """Write down a bug: the decorated function (or what it returns, for a class) replaces place.attribute."""

    def keep(replacement):
        assert name not in ZOO
        ZOO[name] = place, attribute, replacement, killers
        return replacement

    return keep


@cache
def healthy(check):
    """Run a check without any bug, once: it must pass, or it would prove nothing here."""
    check()
    return True


# --- schedule ---------------------------------------------------------------------------------------------------------


def schedule_of(beta, alpha_bar=None):
    beta = torch.as_tensor(np.asarray(beta), dtype=torch.float64)
    return NoiseSchedule(beta, (1 - beta).cumprod(0) if alpha_bar is None else alpha_bar, "planted")


def betas(timesteps, start, end, warp=lambda share: share, shift=0):
    t = np.arange(timesteps + 1) + shift
    return np.where(np.arange(timesteps + 1) == 0, 0, start + (end - start) * warp(t / timesteps))


SCHEDULE = schedule, "linear_schedule"


@bug("schedule from its end to its start", *SCHEDULE, oracle.check_schedule, oracle.check_one_jump, oracle.check_ddpm_variance)
def _(timesteps=500, start=1e-4, end=0.02):
    return schedule_of(betas(timesteps, end, start))


@bug("schedule warped", *SCHEDULE, oracle.check_schedule, oracle.check_one_jump, oracle.check_ddim_gain)
def _(timesteps=500, start=1e-4, end=0.02):
    return schedule_of(betas(timesteps, start, end, np.square))


@bug("schedule shifted by one", *SCHEDULE, oracle.check_schedule, oracle.check_one_jump, oracle.check_ddpm_lands_on_one_picture)
def _(timesteps=500, start=1e-4, end=0.02):
    return schedule_of(betas(timesteps, start, end, shift=-1))


@bug("beta_end 0.021", *SCHEDULE, oracle.check_schedule, oracle.check_one_jump, oracle.check_ddim_gain, oracle.check_ddpm_step)
def _(timesteps=500, start=1e-4, end=0.021):
    return schedule_of(betas(timesteps, start, end))


@bug("beta[0] kept in the product, alpha_bar[0] patched to 1", *SCHEDULE, oracle.check_schedule, oracle.check_one_jump)
def _(timesteps=500, start=1e-4, end=0.02):
    s = schedule_of(start + (end - start) * np.arange(timesteps + 1) / timesteps)
    s.alpha_bar[0] = 1
    return s


@bug("beta[0] kept", *SCHEDULE, oracle.check_schedule, oracle.check_one_jump, oracle.check_steps, oracle.check_ddim_gain)
def _(timesteps=500, start=1e-4, end=0.02):
    return schedule_of(start + (end - start) * np.arange(timesteps + 1) / timesteps)


@bug("alpha_bar as the product of the square roots", *SCHEDULE, oracle.check_schedule, oracle.check_one_jump)
def _(timesteps=500, start=1e-4, end=0.02):
    s = schedule_of(betas(timesteps, start, end))
    return schedule_of(s.beta, s.alpha_bar.sqrt())


@bug("tables made in float32", *SCHEDULE, oracle.check_schedule, oracle.check_one_jump)
def _(timesteps=500, start=1e-4, end=0.02):
    beta = torch.as_tensor(betas(timesteps, start, end)).float()
    return schedule_of(beta.double(), (1 - beta).cumprod(0).double())


def scaled(signal_power, noise_power):
    def add_noise(self, x0, t, noise):
        return at(self.alpha_bar**signal_power, t, x0) * x0 + at((1 - self.alpha_bar) ** noise_power, t, x0) * noise

    return add_noise


ADD_NOISE = NoiseSchedule, "add_noise"
bug("noise scaled without the square root", *ADD_NOISE, oracle.check_one_jump, checks.check_training_target)(scaled(0.5, 1))
bug("signal scaled without the square root", *ADD_NOISE, oracle.check_one_jump, checks.check_training_target)(scaled(1, 0.5))
bug("noise scale and signal scale swapped", *ADD_NOISE, oracle.check_one_jump)(
    lambda self, x0, t, noise: at(self.noise_scale, t, x0) * x0 + at(self.signal_scale, t, x0) * noise
)
bug("noise taken away instead of added", *ADD_NOISE, oracle.check_one_jump)(
    lambda self, x0, t, noise: at(self.signal_scale, t, x0) * x0 - at(self.noise_scale, t, x0) * noise
)
bug("guess at x0 without the square root", NoiseSchedule, "guess_x0", oracle.check_ddim_gain, oracle.check_ddim_step)(
    lambda self, x_t, t, noise: (x_t - at(self.noise_scale, t, x_t) * noise) / at(self.alpha_bar, t, x_t)
)
bug("guess at x0 quietly clipped", NoiseSchedule, "guess_x0", oracle.check_ddim_gain, oracle.check_guesses_undo_noise)(
    lambda self, x_t, t, noise: ((x_t - at(self.noise_scale, t, x_t) * noise) / at(self.signal_scale, t, x_t)).clamp(-1, 1)
)
bug("guess at the noise with the next t", NoiseSchedule, "guess_noise", oracle.check_guesses_undo_noise, oracle.check_observer)(
    lambda self, x_t, t, x0: (x_t - at(self.signal_scale, t - 1, x_t) * x0) / at(self.noise_scale, t, x_t)
)

# --- DDPM -------------------------------------------------------------------------------------------------------------


def ddpm_mean_of(factor, divisor, sign=-1):
    """The mean of a DDPM step with another factor of the noise or another divisor."""
    return lambda s, x_t, t, noise: (x_t + sign * factor(s, t) * noise) / divisor(s, t)


def right_factor(s, t):
    return s.beta[t] / s.noise_scale[t]


def right_divisor(s, t):
    return (1 - s.beta[t]).sqrt()


MEAN = samplers, "ddpm_mean", oracle.check_ddpm_step, oracle.check_ddpm_moments
bug("DDPM factor without the root", *MEAN)(ddpm_mean_of(lambda s, t: s.beta[t] / (1 - s.alpha_bar[t]), right_divisor))
bug("DDPM with the wrong sign", *MEAN)(ddpm_mean_of(right_factor, right_divisor, sign=1))
bug("DDPM factor of the step before", *MEAN)(ddpm_mean_of(lambda s, t: right_factor(s, max(t - 1, 1)), right_divisor))
bug("DDPM divided by alpha, not its root", *MEAN)(ddpm_mean_of(right_factor, lambda s, t: 1 - s.beta[t]))
bug("DDPM divided by the ratio of signals", *MEAN)(ddpm_mean_of(right_factor, lambda s, t: s.alpha_bar[t] / s.alpha_bar[t - 1]))


def ddpm_of(sigma=lambda s, t: s.beta[t].sqrt(), noisy=lambda t: t > 1, in_place=False, asked=lambda t: t):
    """DDPM with another amount of fresh noise, other noisy steps, a tensor that is used again, or another t to ask at."""

    def ddpm(predict_noise, s, x_T, noise_amount=1.0, generator=None):
        x_t, generator = x_T, generator or samplers.new_generator()
        for t in range(s.timesteps, 0, -1):
            noise = samplers.ask(predict_noise, x_t, asked(t))
            x0, mean = s.guess_x0(x_t, t, noise), samplers.ddpm_mean(s, x_t, t, noise)
            if noisy(t):
                mean = mean + noise_amount * sigma(s, t).to(mean) * samplers.fresh_noise(mean, generator)
            x_t = x_t.copy_(mean) if in_place and t < s.timesteps else mean
            yield Step(t - 1, x_t, x0)

    return ddpm


DDPM = samplers, "ddpm"
VARIANCE = oracle.check_ddpm_variance, oracle.check_ddpm_step
bug("DDPM adds noise at the last step", *DDPM, *VARIANCE, oracle.check_ddpm_moments)(ddpm_of(noisy=lambda t: True))
bug("DDPM adds no noise", *DDPM, *VARIANCE)(ddpm_of(noisy=lambda t: False))
bug("DDPM noise not rooted", *DDPM, *VARIANCE)(ddpm_of(sigma=lambda s, t: s.beta[t]))
bug("DDPM noise of the step before", *DDPM, *VARIANCE)(ddpm_of(sigma=lambda s, t: s.beta[t - 1].sqrt()))
bug("DDPM uses its tensor again", *DDPM, oracle.check_steps)(ddpm_of(in_place=True))
bug("DDPM asks one timestep too early", *DDPM, oracle.check_predictor_inputs, oracle.check_ddpm_moments)(ddpm_of(asked=lambda t: max(t - 1, 1)))
bug("fresh noise is uniform", samplers, "fresh_noise", oracle.check_fresh_noise)(
    lambda x, generator: torch.rand(x.shape, generator=generator if isinstance(generator, torch.Generator) else generator[0]).to(x)
)
bug("only the first generator of a list is used", samplers, "fresh_noise", oracle.check_fresh_noise, oracle.check_seeds)(
    lambda x, generator: torch.randn(x.shape, generator=generator if isinstance(generator, torch.Generator) else generator[0]).to(x)
)
bug("the predictor is asked with gradients", samplers, "ask", oracle.check_predictor_inputs)(
    lambda predict, x_t, t: predict(x_t, torch.full((len(x_t),), t))
)
bug("t is a float", samplers, "ask", oracle.check_predictor_inputs)(
    torch.no_grad()(lambda predict, x_t, t: predict(x_t, torch.full((len(x_t),), float(t))))
)
bug("t is one number for all pictures", samplers, "ask", oracle.check_predictor_inputs)(
    torch.no_grad()(lambda predict, x_t, t: predict(x_t, torch.tensor([t])))
)

# --- DDIM -------------------------------------------------------------------------------------------------------------


def right_fresh(now, then, eta):
    return eta * ((1 - then) / (1 - now) * (1 - now / then)).sqrt()


def ddim_step_of(fresh=right_fresh, kept=lambda now, then, fresh: (1 - then - fresh**2).clamp(min=0).sqrt(), signal=lambda now, then: then.sqrt()):
    """One DDIM step with another amount of fresh noise, kept noise or signal (now = alpha_bar[t], then = alpha_bar[t_next])."""

    def ddim_step(s, t, t_next, x0, noise, eta=0.0, generator=None):
        now, then = s.alpha_bar[t], s.alpha_bar[t_next]
        amount = fresh(now, then, eta)
        x_t = signal(now, then).to(x0) * x0 + kept(now, then, amount).to(x0) * noise
        return x_t + amount.to(x0) * samplers.fresh_noise(x0, generator) if amount > 0 else x_t

    return ddim_step


STEP = samplers, "ddim_step", oracle.check_ddim_step
bug("DDIM keeps the noise of t", *STEP, oracle.check_ddim_gain, oracle.check_steps)(ddim_step_of(kept=lambda now, then, fresh: (1 - now).sqrt()))
bug("DDIM keeps the signal of t", *STEP, oracle.check_ddim_gain)(ddim_step_of(signal=lambda now, then: now.sqrt()))
bug("DDIM keeps noise without the root", *STEP, oracle.check_ddim_gain)(
    ddim_step_of(kept=lambda now, then, fresh: (1 - then - fresh**2).clamp(min=0))
)
bug("DDIM does not make room for fresh noise", *STEP, oracle.check_ddim_with_half_the_noise)(
    ddim_step_of(kept=lambda now, then, fresh: (1 - then).sqrt())
)
bug("DDIM with the ratio of eta upside down", *STEP)(
    ddim_step_of(fresh=lambda now, then, eta: eta * ((1 - now) / (1 - then).clamp(min=1e-9) * (1 - now / then)).sqrt() * (then < 1))
)
bug("DDIM with eta under the root", samplers, "ddim_step", oracle.check_ddim_with_half_the_noise)(
    ddim_step_of(fresh=lambda now, then, eta: right_fresh(now, then, eta**0.5))
)
bug("DDIM with eta squared once too often", samplers, "ddim_step", oracle.check_ddim_with_few_noisy_steps)(
    ddim_step_of(fresh=lambda now, then, eta: right_fresh(now, then, eta**2))
)
bug("DDIM ignores eta", *STEP, oracle.check_seeds)(ddim_step_of(fresh=lambda now, then, eta: right_fresh(now, then, 0.0)))

GRID = NoiseSchedule, "spaced", oracle.check_grid
bug("DDIM stride T // n with wrapped indices", *GRID, oracle.check_predictor_calls)(
    lambda self, n: [*range(self.timesteps, 0, -(self.timesteps // n)), -(self.timesteps % n)]
)
bug("grid without 0", *GRID, oracle.check_predictor_calls)(lambda self, n: [self.timesteps * i // n for i in range(n, 0, -1)])
bug("grid one step short", *GRID)(lambda self, n: [self.timesteps * i // max(n - 1, 1) for i in range(max(n - 1, 1), -1, -1)])
bug("grid that starts below T", *GRID, oracle.check_ddim_gain)(lambda self, n: [(self.timesteps - 1) * i // n for i in range(n, -1, -1)])
bug("grid that ignores n", *GRID)(lambda self, n: list(range(self.timesteps, -1, -max(self.timesteps // 20, 1))))
bug("grid of uneven steps", *GRID)(lambda self, n: [self.timesteps, *range(n - 1, -1, -1)])

# --- solvers that remember --------------------------------------------------------------------------------------------


def changed(function, **slips):
    """The function of sprites_lab.solvers with pieces of its source replaced, each of which must be there once."""
    source = inspect.getsource(function)
    for before, after in slips.values():
        assert source.count(before) == 1, before
        source = source.replace(before, after)
    names = dict(vars(solvers))
    exec(source, names)
    return names[function.__name__]


bug("2M with the ratio of its steps upside down", solvers, "dpm_solver", solver_oracle.check_dpm_solver_steps)(
    changed(solvers.dpm_solver, ratio=("stride / (2 * last_stride)", "last_stride / (2 * stride)"))
)
bug("2M that carries its guess to the end of the step", solvers, "dpm_solver", solver_oracle.check_dpm_solver_steps, solver_oracle.check_solver_orders)(
    changed(solvers.dpm_solver, half=("(2 * last_stride)", "last_stride"))
)
bug("2M that forgets its last guess", solvers, "dpm_solver", solver_oracle.check_dpm_solver_steps, solver_oracle.check_solver_orders)(
    changed(solvers.dpm_solver, memory=("before, last_stride = x0, stride", "last_stride = stride"))
)
bug("2M that extrapolates its jump to 0", solvers, "dpm_solver", solver_oracle.check_solvers_land_on_one_picture)(
    changed(solvers.dpm_solver, end=("before is not None and t_next > 0", "before is not None"))
)
bug("iPNDM with the oldest noise first", solvers, "ipndm", solver_oracle.check_solver_orders)(
    changed(solvers.ipndm, order=("zip(weights, said)", "zip(weights, said[::-1])"))
)
bug("iPNDM that jumps to 0 along its history", solvers, "ipndm", solver_oracle.check_solver_calls, solver_oracle.check_solvers_land_in_the_set)(
    changed(solvers.ipndm, end=("len(said) if t_next > 0 else 1", "len(said)"))
)
bug("UniPC that corrects the picture before the jump to 0", solvers, "unipc", solver_oracle.check_unipc_end)(
    changed(solvers.unipc, kept=("x0 = schedule", "old = x_t; x0 = schedule"),
            end=("t_next > 0 else x0", "t_next > 0 else schedule.guess_x0(x_t, t, schedule.guess_noise(old, t, x0))"))
)
bug("UniPC without its corrector", solvers, "unipc", solver_oracle.check_solver_orders)(
    changed(solvers.unipc, corrector=("if last_step is not None", "if False"))
)
bug("UniPC with a wrong factorial", solvers, "unipc_weights", solver_oracle.check_solver_orders)(
    changed(solvers.unipc_weights, factorial=("factorial *= i + 1", "factorial *= i"))
)
bug("a solver that keeps its pictures in bfloat16", solvers, "ddim_step", solver_oracle.check_dpm_solver_steps, solver_oracle.check_solver_orders)(
    lambda *given: samplers.ddim_step(*given).bfloat16().to(given[3])
)
bug("a spacing that never reaches 0", spacing, "snapped", solver_oracle.check_spacings, solver_oracle.check_solver_calls)(
    lambda s, n, wanted: [round(t) for t in wanted.tolist()] + [1]
)
bug("a spacing that comes twice to a timestep", spacing, "snapped", solver_oracle.check_spacings)(
    lambda s, n, wanted: [*(max(1, round(t)) for t in wanted.tolist()), 0]
)


# --- predictors and observer ------------------------------------------------------------------------------------------

GUIDED = predictors, "guided", oracle.check_guidance
bug("guidance with predict and reference swapped", *GUIDED)(lambda p, r, scale: lambda x, t: p(x, t).lerp(r(x, t), scale))
bug("guidance with the paper's 1 + w", *GUIDED)(lambda p, r, scale: lambda x, t: r(x, t).lerp(p(x, t), 1 + scale))
bug("guidance with scale - 1", *GUIDED)(lambda p, r, scale: lambda x, t: r(x, t).lerp(p(x, t), scale - 1))
bug("guidance that rounds at scale 1", *GUIDED)(lambda p, r, scale: lambda x, t: r(x, t) + scale * (p(x, t) - r(x, t)))
bug("contexts in another order than their pictures", predictors, "conditioned", oracle.check_conditioned)(
    lambda model, context: lambda x, t: model(x, t, None if context is None else context.expand(len(x), -1).flip(0))
)
bug("no context told as a row of ones", predictors, "conditioned", oracle.check_conditioned)(
    lambda model, context: lambda x, t: model(x, t, (torch.ones(5) if context is None else context).expand(len(x), -1))
)


@bug("posterior without the power of the sprites", oracle.observer.Observer, "posterior", oracle.check_observer)
def _(self, x_t, t):
    x = x_t.double().flatten(1)
    signal, spread = self.schedule.scales(t, x)
    return ((signal * (x @ self.sprites.T) - 0.5 * signal * self.power * (1 + 1e-3 * torch.arange(8))) / spread**2).softmax(1)


@bug("posterior with the spread not squared", oracle.observer.Observer, "posterior", oracle.check_observer)
def _(self, x_t, t):
    x = x_t.double().flatten(1)
    signal, spread = self.schedule.scales(t, x)
    return ((signal * (x @ self.sprites.T) - 0.5 * signal**2 * self.power) / spread / 100).softmax(1)


# --- training ---------------------------------------------------------------------------------------------------------


def average_of(weight=lambda decay: 1 - decay, entries=lambda module: module.state_dict().items()):
    @torch.no_grad()
    def update_average(average, model, decay):
        theirs = dict(model.state_dict())
        for name, ours in entries(average):
            if ours.is_floating_point():
                ours.lerp_(theirs[name], weight(decay))
            else:
                ours.copy_(theirs[name])

    return update_average


AVERAGE = training, "update_average", oracle.check_average, checks.check_average_of_a_run
bug("EMA copying instead of averaging", *AVERAGE)(average_of(weight=lambda decay: 1.0))
bug("EMA with the decay swapped", *AVERAGE)(average_of(weight=lambda decay: decay))
bug("EMA that never moves", *AVERAGE)(average_of(weight=lambda decay: 0.0))
bug("EMA without the batch-norm statistics", *AVERAGE)(average_of(entries=lambda module: module.named_parameters()))

real_train, real_step, real_load = training.train, training.take_step, training.TrainingState.load
real_seeded, real_randint, real_randperm = training.seeded, torch.randint, torch.randperm

LOSS = training, "noise_loss"
mse = torch.nn.functional.mse_loss
bug("the loss is summed", *LOSS, checks.check_loss_by_hand)(
    lambda model, s, x0, c, t, noise: mse(model(s.add_noise(x0, t, noise), t, c), noise, reduction="sum")
)
bug("the loss compares with the picture", *LOSS, checks.check_loss_by_hand)(
    lambda model, s, x0, c, t, noise: mse(model(s.add_noise(x0, t, noise), t, c), x0)
)
bug("the loss draws other noise than it asks for", *LOSS, checks.check_loss_by_hand, checks.check_training_target)(
    lambda model, s, x0, c, t, noise: mse(model(s.add_noise(x0, t, noise.flip(0)), t, c), noise)
)
bug("the network is asked at another t", *LOSS, checks.check_loss_by_hand, checks.check_training_target)(
    lambda model, s, x0, c, t, noise: mse(model(s.add_noise(x0, t, noise), (t - 1).clamp(min=1), c), noise)
)
DROP = training, "drop_context", checks.check_contexts
bug("contexts are never forgotten", *DROP)(lambda context, p, generator: context)
bug("contexts are kept at the rate of forgetting", *DROP)(
    lambda context, p, generator: context * (torch.rand(len(context), 1, generator=generator) < p)
)
bug("contexts are forgotten number by number", training, "drop_context", checks.check_contexts)(
    lambda context, p, generator: context * (torch.rand(context.shape, generator=generator) >= 2 * p)
)
bug("contexts slip by one picture", *DROP)(
    lambda context, p, generator: context.roll(1, 0) * (torch.rand(len(context), 1, generator=generator) >= p)
)
bug("timesteps from 0 to T - 1", torch, "randint", checks.check_timesteps_are_uniform)(
    lambda low, high, *rest, **more: real_randint(low - (high == 501), high - (high == 501), *rest, **more)
)
bug("timesteps without T", torch, "randint", checks.check_timesteps_are_uniform)(
    lambda low, high, *rest, **more: real_randint(low, high - (high == 501), *rest, **more)
)
bug("every epoch in the same order", training, "seeded", checks.check_epochs)(lambda seed, update, purpose: real_seeded(seed, 0, purpose))
bug("an order with repetitions", torch, "randperm", checks.check_epochs)(
    lambda n, generator: real_randint(0, n, (n,), generator=generator)
)


@bug("the network is left in train mode", training, "take_step", checks.check_yields)
def _(state, *given):
    value = real_step(state, *given)
    state.model.train()
    return value


@bug("going on without the moments of the optimiser", training.TrainingState, "load", checks.check_resume)
def _(self, tensors, updates):
    real_load(self, tensors | {"optimizer": {}}, updates)


@bug("going on without the average", training.TrainingState, "load", checks.check_resume)
def _(self, tensors, updates):
    real_load(self, tensors | {"average": tensors["model"]}, updates)


@bug("going on without the batch-norm statistics", training.TrainingState, "load", checks.check_resume)
def _(self, tensors, updates):
    fresh = self.model.state_dict()
    real_load(self, tensors | {"model": {n: fresh[n].clone() if "running" in n else t for n, t in tensors["model"].items()}}, updates)


@bug("going on one update too late", training.TrainingState, "load", checks.check_resume)
def _(self, tensors, updates):
    real_load(self, tensors, updates + 1)


@bug("chance from the global generator", training, "seeded", checks.check_resume)
def _(seed, update, purpose):
    counter = vars(training).setdefault("_planted", [0])
    counter[0] += 1
    return real_seeded(seed, counter[0], purpose)


# --- data, pictures, files --------------------------------------------------------------------------------------------

bug("bytes cut off instead of rounded", data, "to_bytes", checks.check_bytes)(
    lambda x: ((x.clamp(-1, 1) + 1) * 127.5).to(torch.uint8).permute(0, 2, 3, 1).numpy()
)
bug("bytes divided by 128", data, "to_pictures", checks.check_bytes)(
    lambda sprites: torch.from_numpy(sprites.transpose(0, 3, 1, 2).copy()).float() / 128 - 1
)
bug("red and blue swapped on the way in", data, "to_pictures", checks.check_bytes)(
    lambda sprites: torch.from_numpy(sprites[..., ::-1].transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1
)
bug("pictures turned on their side", data, "to_pictures", checks.check_bytes)(
    lambda sprites: torch.from_numpy(sprites.transpose(0, 3, 2, 1).copy()).float() / 127.5 - 1
)
bug("shares of a context ignored", data, "context_of", checks.check_parsed_contexts)(
    lambda parts, names=data.CLASS_NAMES: torch.tensor([float(name in parts) for name in names])
)
bug("classes in the order of the alphabet", data, "context_of", checks.check_parsed_contexts)(
    lambda parts, names=data.CLASS_NAMES: torch.tensor([float(parts.get(name, 0)) for name in sorted(names)])
)
bug("the held-out sprites are trained on", data.SpriteSet, "train", checks.check_split)(property(lambda self: self))
bug("the two splits swapped", data.SpriteSet, "test", checks.check_split)(property(lambda self: self[~self.held_out]))
bug("labels stay behind when sprites are picked", data.SpriteSet, "__getitem__", checks.check_split)(
    lambda self, rows: data.replace(self, sprites=self.sprites[rows], kinds=self.kinds[rows], held_out=self.held_out[rows])
)


def sheet_of(change):
    real = figures.tile
    return lambda pictures, columns, zoom: real(change(pictures), columns, zoom)


bug("a sheet that stretches its colours", figures, "tile", checks.check_sheet)(sheet_of(lambda x: (x - x.min()) / (x.max() - x.min()) * 2 - 1))
bug("a sheet in another order", figures, "tile", checks.check_sheet)(sheet_of(lambda x: x.flip(0)))
bug("noise that is the same for every picture", lab, "picture_generator", checks.check_starting_noise)(
    lambda seed, number: torch.Generator().manual_seed(seed)
)
bug("noise that forgets its seed", lab, "picture_generator", checks.check_starting_noise)(
    lambda seed, number: torch.Generator().manual_seed(number)
)
bug("a checksum that always fits", checkpoints, "digest", checks.check_damage)(lambda text, tensors: "0" * 64)
bug("a checksum over the facts alone", checkpoints, "digest", checks.check_damage)(lambda text, tensors: str(hash(text)))
bug("weights always stored in half precision", checkpoints, "prepare", checks.check_round_trip, checks.check_resume_through_a_file)(
    lambda tensor, half: tensor.half() if tensor.is_floating_point() else tensor.clone()
)
bug("the schedule of the file is not the one that is used", checkpoints, "read_schedule", checks.check_round_trip)(
    lambda path, groups, facts: schedule.linear_schedule()
)


@bug("weights that are not the file's", checkpoints, "fill", checks.check_round_trip)
def _(path, model, found):
    model.load_state_dict({name: tensor for name, tensor in found.items() if "running" not in name}, strict=False)


# --- students ---------------------------------------------------------------------------------------------------------

bug("a student that is told the teacher's picture and not how to get there", distillation, "right_guess", checks.check_right_guess)(
    lambda schedule, x_t, t, wanted, t_next: wanted
)
bug("a target that forgets the signal scale", distillation, "right_guess", checks.check_right_guess)(
    lambda schedule, x_t, t, wanted, t_next: wanted - (schedule.noise_scale[t_next] / schedule.noise_scale[t]).item() * x_t
)
bug("lessons that are one step late", distillation, "teach", checks.check_lessons)(
    lambda walk, x_T, every: torch.stack([x_T, *(step.x_t for number, step in enumerate(walk) if number % every == 0)], 1)
)


@pytest.mark.parametrize("name", ZOO)
def test_a_planted_bug_is_seen(name, monkeypatch):
    place, attribute, replacement, killers = ZOO[name]
    assert killers and all(healthy(check) for check in killers)
    monkeypatch.setattr(place, attribute, replacement)
    for check in killers:
        with pytest.raises(AssertionError):
            check()


def test_the_zoo_is_large_enough():
    assert len(ZOO) >= 70
