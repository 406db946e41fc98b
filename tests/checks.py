"""Checks of training, contexts, files and drawing that take nothing, so that the bug zoo can call them too."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from oracle import ALPHA_BAR, close, perfect
from small import Pixelwise, generator, network, pictures, same_tensors, snapshot, sprite_arrays

from sprites_lab import LabError, checkpoints, data, distillation, figures, lab, samplers, spacing, training
from sprites_lab.schedule import linear_schedule


def run(state, updates=None, x0=None, contexts=None, **recipe):
    """Train (on ten pictures, in batches of four) for some updates; the Progress of each."""
    if x0 is None:
        x0, contexts = pictures()
    recipe = dict(epochs=8, batch_size=4, average_decay=0.9) | recipe
    steps = training.train(state, linear_schedule(), x0, contexts, **recipe)
    done = []
    for progress in steps:
        done.append(progress)
        if len(done) == updates:
            steps.close()
    return done


class Witness(Pixelwise):
    """Remembers what it was asked and in which mode."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x_t, t, context):
        self.asked.append((x_t.detach().clone(), t.clone(), context.clone(), self.training))
        return super().forward(x_t, t, context)


def witnessed(count=64, **recipe):
    """What the network and the loss were given in a few updates: lists of (x_t, t, context, mode) and (x0, context, t, noise)."""
    model, told = Witness(), []

    def loss(model, schedule, x0, context, t, noise):
        told.append((x0, context, t, noise))
        return training.noise_loss(model, schedule, x0, context, t, noise)

    x0, contexts = pictures(count, size=4)
    done = run(training.TrainingState(model), x0=x0, contexts=contexts, loss=loss, **recipe)
    return model.asked, told, done, (x0, contexts)


def check_training_target():
    """B10: the network is shown x0 with exactly the noise that is its target; the loss is their mean squared difference."""
    asked, told, done, _ = witnessed(epochs=4, batch_size=16)
    assert len(asked) == len(told) == len(done) == 16
    for (x_t, t, context, training_mode), (x0, told_context, told_t, noise) in zip(asked, told, strict=True):
        a = torch.from_numpy(ALPHA_BAR)[told_t][:, None, None, None]
        close(x_t, a.sqrt() * x0 + (1 - a).sqrt() * noise, 1e-5)
        assert torch.equal(t, told_t) and t.dtype == torch.int64 and torch.equal(context, told_context) and training_mode
        assert abs(noise.mean()) < 5 / noise.numel() ** 0.5 and abs(noise.var() - 1) < 5 * (2 / noise.numel()) ** 0.5


def check_loss_by_hand():
    """The loss is the mean over all numbers of (answer - noise)^2, and `train` reports it."""
    model = Pixelwise().eval()
    x0, context = pictures(6)
    t, noise = torch.tensor([1, 60, 180, 300, 499, 500]), torch.randn(x0.shape, generator=generator(3))
    a = torch.from_numpy(ALPHA_BAR)[t][:, None, None, None].float()
    with torch.no_grad():
        answer = model(a.sqrt() * x0 + (1 - a).sqrt() * noise, t, context)
        found = training.noise_loss(model, linear_schedule(), x0, context, t, noise)
    assert found.shape == ()
    close(found, (answer - noise).square().sum() / noise.numel(), 1e-6)


def rows_of(shown, given):
    """Which of the given pictures each of the shown ones is (their first numbers are all different)."""
    place = {first: i for i, first in enumerate(given[:, 0, 0, 0].tolist())}
    assert len(place) == len(given)
    rows = [place[first] for first in shown[:, 0, 0, 0].tolist()]
    assert torch.equal(given[rows], shown)
    return rows


def check_timesteps_are_uniform():
    """B10: t is uniform on 1..T, and both ends are hit."""
    _, told, _, _ = witnessed(count=500, epochs=100, batch_size=500)
    t = torch.cat([t for _, _, t, _ in told])
    assert t.min() == 1 and t.max() == 500 and len(t) == 50_000
    counts = torch.bincount(t, minlength=501)[1:].double()
    assert ((counts - 100) ** 2 / 100).sum() < 499 + 5 * (2 * 499) ** 0.5
    assert counts.min() > 0


def check_contexts():
    """B11: contexts are forgotten at the given rate; kept rows are the pictures' own, the others are the empty context."""
    _, told, _, (pictures_given, contexts) = witnessed(count=500, epochs=20, batch_size=100, context_dropout=0.1)
    dropped = 0
    for x0, context, _, _ in told:
        rows = rows_of(x0, pictures_given)
        empty = ~context.any(1)
        dropped += int(empty.sum())
        assert torch.equal(context[~empty], contexts[rows][~empty])
    assert abs(dropped - 1000) < 5 * (10_000 * 0.1 * 0.9) ** 0.5, f"{dropped} of 10,000 contexts were forgotten"


def check_epochs():
    """Each epoch shows every picture once, in another order; the learning rate falls linearly to 0, epoch by epoch."""
    _, told, done, (given, _) = witnessed(count=10, epochs=4, batch_size=4, learning_rate=0.08)
    orders = []
    for epoch in range(4):
        shown = torch.cat([x0 for x0, *_ in told[3 * epoch : 3 * epoch + 3]])
        orders.append(rows_of(shown, given))
        assert sorted(orders[-1]) == list(range(10))
    assert len({tuple(order) for order in orders}) == 4
    close([p.learning_rate for p in done], np.repeat([0.08, 0.06, 0.04, 0.02], 3), 1e-12)
    assert [p.epoch for p in done] == [i // 3 for i in range(12)] and [p.updates for p in done] == list(range(1, 13))
    assert [p.last_of_epoch for p in done] == [i % 3 == 2 for i in range(12)]


def check_one_update_by_hand():
    """The first update is Adam's: every weight moves by the learning rate against the sign of its gradient."""
    model = Pixelwise()
    before = snapshot(dict(model.named_parameters()))
    grads = {}

    def loss(model, schedule, x0, context, t, noise):
        value = training.noise_loss(model, schedule, x0, context, t, noise)
        grads.update(zip(before, torch.autograd.grad(value, list(model.parameters()), retain_graph=True), strict=True))
        return value

    run(training.TrainingState(model), 1, loss=loss, learning_rate=0.01)
    for name, parameter in model.named_parameters():
        g = grads[name]
        close(parameter.detach(), before[name] - 0.01 * g / (g.abs() + 1e-8), 2e-6)


def check_average_of_a_run():
    """The average of a run is the weighted sum of its networks, by min(decay, (1 + k) / (10 + k)) for update k."""
    state = training.TrainingState(Pixelwise())
    x0, contexts = pictures()
    expected = snapshot(state.average.state_dict())
    for progress in training.train(state, linear_schedule(), x0, contexts, epochs=20, batch_size=4, average_decay=0.6):
        k = progress.updates - 1
        decay = min(0.6, (1 + k) / (10 + k))
        for name, tensor in state.model.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * tensor
            else:
                expected[name] = tensor.clone()
            close(state.average.state_dict()[name], expected[name], 1e-5)
    assert not same_tensors(snapshot(state.average.state_dict()), snapshot(state.model.state_dict()))


def check_resume(make=Pixelwise, splits=range(1, 21), onward=30, size=16, through_file=False):
    """G7: stopping after any update and going on with a fresh network ends where the straight run does, bit for bit."""
    x0, contexts = pictures(10, size)
    state, straight, schedule = training.TrainingState(make()), {}, linear_schedule()
    recipe = dict(epochs=10, batch_size=4, seed=5, average_decay=0.9)  # 3 updates per epoch: most splits are mid-epoch
    for progress in training.train(state, schedule, x0, contexts, **recipe):
        straight[progress.updates] = progress, snapshot(state.tensors())
        if progress.updates == max(splits) + onward:
            break
    with tempfile.TemporaryDirectory() as folder:
        for k in splits:
            groups, model = straight[k][1], make(seed=99)
            if through_file:
                path = Path(folder) / "state.safetensors"
                checkpoints.save(path, groups, state.model, schedule, {})
                loaded = checkpoints.load(path, "model")
                groups, model = loaded.groups, loaded.model
            again = training.TrainingState(model)
            again.load(groups, k)
            for progress in training.train(again, schedule, x0, contexts, **recipe):
                assert progress == straight[progress.updates][0], f"other losses after a stop at {k}"
                same = same_tensors(snapshot(again.tensors()), straight[progress.updates][1])
                assert same, f"other tensors at {progress.updates} after a stop at {k}"
                if progress.updates >= k + onward:
                    break


def check_resume_through_a_file():
    check_resume(small_unet, splits=(2,), onward=1, size=4, through_file=True)


def small_unet(seed=0):
    return network(seed, height=4)


def check_yields():
    """B7, B8: at every yield the network is in eval mode with gradients on, and sampling there changes nothing."""
    quiet, disturbed = training.TrainingState(Pixelwise()), training.TrainingState(Pixelwise())
    run(quiet, 12)
    x0, contexts = pictures()
    before = torch.get_rng_state()
    steps = training.train(disturbed, linear_schedule(), x0, contexts, epochs=8, batch_size=4, average_decay=0.9)
    for progress in steps:
        assert not disturbed.model.training and not disturbed.average.training and torch.is_grad_enabled()
        predict = lambda x_t, t: disturbed.model(x_t, t, contexts[:2])  # noqa: E731
        samplers.final(samplers.ddim(predict, linear_schedule(), x0[:2], 3, eta=1.0))
        if progress.updates == 12:
            break
    assert same_tensors(snapshot(quiet.tensors()), snapshot(disturbed.tensors()))
    assert torch.equal(torch.get_rng_state(), before)


def check_bad_loss_changes_nothing():
    """Fault 8: a loss that is no number stops the run with every tensor as it was before, statistics included."""
    def loss(model, schedule, x0, context, t, noise):
        value = training.noise_loss(model, schedule, x0, context, t, noise)
        return value * (float("nan") if state.updates == 5 else 1)

    state, kept = training.TrainingState(Pixelwise()), {}
    x0, contexts = pictures()
    try:
        for progress in training.train(state, linear_schedule(), x0, contexts, epochs=8, batch_size=4, loss=loss):
            kept = snapshot(state.tensors())
        raise AssertionError("the run went on")
    except LabError as error:
        assert "nan" in str(error) and "update 6" in str(error)
    assert progress.updates == state.updates == 5 and not state.model.training
    parameters = dict(state.model.named_parameters())
    now = snapshot(state.tensors())
    assert all(torch.equal(kept["model"][name], parameters[name]) for name in parameters)
    assert same_tensors(kept["average"], now["average"]) and same_tensors(kept["optimizer"], now["optimizer"])


# Data and pictures


def check_bytes():
    """All 256 values of a colour survive the way to a network and back, and the ends are -1 and 1."""
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    every = np.concatenate([every, every[..., ::-1, :, :], sprite_arrays(3)["sprites"]])
    x = data.to_pictures(every)
    assert x.shape == (5, 3, 16, 16) and x.dtype == torch.float32 and (x[0].min(), x[0].max()) == (-1, 1)
    close(x[2:, 1], every[2:, :, :, 1] / 255.0 * 2 - 1, 1e-6)
    assert np.array_equal(data.to_bytes(x), every) and data.to_bytes(x).dtype == np.uint8
    assert data.to_bytes(torch.tensor([-7.0, 7.0, 0.0]).reshape(1, 3, 1, 1)).tolist() == [[[[0, 255, 128]]]]


def check_parsed_contexts():
    """Words of a command line become the shares in the order of the classes."""
    for text, row in {
        "none": [0, 0, 0, 0, 0], "": [0, 0, 0, 0, 0], " none ": [0, 0, 0, 0, 0], "hero": [1, 0, 0, 0, 0],
        "hero=1,food=0.6": [1, 0, 0.6, 0, 0], " side-facing = 2 , non-hero=-0.5": [0, -0.5, 0, 0, 2],
        "spell=1e-1": [0, 0, 0, 0.1, 0], "food=100,hero=-100": [-100, 0, 100, 0, 0],
    }.items():  # fmt: skip
        found = data.parse_context(text)
        assert found.shape == (5,) and found.dtype == torch.float32
        close(found, torch.tensor(row, dtype=torch.float32), 0)


def check_split():
    """The training split and the held-out split share no sprite and together are all; labels and kinds stay with them."""
    arrays = sprite_arrays(20)
    names = tuple(arrays.pop("kind_names"))
    whole = data.SpriteSet(**arrays, kind_names=names)
    assert (len(whole.train), len(whole.test), len(whole)) == (15, 5, 20)
    assert not whole.train.held_out.any() and whole.test.held_out.all()
    rows = np.flatnonzero(~arrays["held_out"])
    assert np.array_equal(whole.train.sprites, arrays["sprites"][rows])
    assert np.array_equal(whole.train.labels, rows % 5) and np.array_equal(whole.train.kinds, rows % 3)
    assert torch.equal(whole.contexts(), torch.eye(5)[torch.arange(20) % 5])
    assert np.array_equal(whole.of_class("food").sprites, arrays["sprites"][2::5])
    assert np.array_equal(whole.of_kind("apple").sprites, arrays["sprites"][1::3])


def check_sheet():
    """A sheet shows each picture's own bytes, `zoom` wide, in reading order, with a grey gutter around."""
    sprites = sprite_arrays(5, size=3)["sprites"]
    sheet = np.asarray(figures.tile(data.to_pictures(sprites), 3, 2))
    assert sheet.shape == (2 * 8 + 2, 3 * 8 + 2, 3)
    expected = np.full(sheet.shape, 128, np.uint8)
    for i, sprite in enumerate(sprites):
        y, x = 2 + i // 3 * 8, 2 + i % 3 * 8
        expected[y : y + 6, x : x + 6] = sprite.repeat(2, 0).repeat(2, 1)
    assert np.array_equal(sheet, expected)


def check_starting_noise():
    """B3: the noise of picture i follows from (seed, i) alone, and it is standard normal."""
    many = lab.starting_noise(32, 1)
    assert torch.equal(many[:4], lab.starting_noise(4, 1)) and not torch.equal(many[:4], lab.starting_noise(4, 2))
    assert len({tuple(picture.flatten()[:3].tolist()) for picture in many}) == 32
    n = many.numel()
    assert abs(many.mean()) < 5 / n**0.5 and abs(many.var() - 1) < 5 * (2 / n) ** 0.5


# Checkpoints


def check_round_trip():
    """What was saved comes back: float32 and counters bit for bit, half precision as rounded once."""
    model, schedule = network(3), linear_schedule(500, 2e-4, 0.03)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        for half in (False, True):
            checkpoints.save(path, {"model": model.state_dict()}, model, schedule, {"classes": ["a"], "note": "ü"}, half)
            found = checkpoints.load(path)
            expected = {n: t.half().float() if half and t.is_floating_point() else t for n, t in model.state_dict().items()}
            assert same_tensors(found.model.state_dict(), expected) and not found.model.training
            assert found.model.settings == model.settings and found.facts["note"] == "ü"
            assert torch.equal(found.schedule.alpha_bar, schedule.alpha_bar) and found.schedule.name == schedule.name
            assert torch.equal(found.schedule.beta, schedule.beta)


def check_damage(flips=24, truncations=6, seed=0):
    """G3: a file with a flipped bit or cut short is refused with a LabError, or holds the very same content."""
    model, chance = network(1, height=4), np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        good, bad = Path(folder) / "good.safetensors", Path(folder) / "bad.safetensors"
        checkpoints.save(good, {"model": model.state_dict()}, model, linear_schedule(), {"classes": ["a"]}, half=True)
        whole, original = good.read_bytes(), checkpoints.load(good)
        header = 8 + int.from_bytes(whole[:8], "little")
        damaged = [whole[: chance.integers(len(whole))] for _ in range(truncations)] + [whole + b"\0"]
        for i in range(flips):
            place = chance.integers(header) if i % 3 == 0 else chance.integers(len(whole))
            flipped = bytearray(whole)
            flipped[place] ^= 1 << int(chance.integers(8))
            damaged.append(bytes(flipped))
        refused, strange = 0, []
        for content in damaged:
            bad.write_bytes(content)
            try:
                found = checkpoints.load(bad)
            except LabError:
                refused += 1
            except Exception as error:
                strange.append(repr(error)[:80])
            else:
                assert found.facts == original.facts and same_tensors(found.groups, original.groups), "other content"
        assert refused > 0.9 * len(damaged) - len(strange)
        assert not strange, f"{len(strange)} of {len(damaged)} raised no LabError, such as {sorted(set(strange))}"


def check_values_are_checked():
    """Weights that are no finite numbers are neither written nor read."""
    model = network(height=4)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        for value in (float("nan"), float("inf")):
            model.out[0].bias.data[0] = value
            try:
                checkpoints.save(path, {"model": model.state_dict()}, model, linear_schedule(), {})
                raise AssertionError(f"{value} was written")
            except LabError as error:
                assert "out.0.bias" in str(error) and not path.exists()


# --- students ---------------------------------------------------------------------------------------------------------


def check_right_guess():
    """A step of DDIM with the right guess ends exactly where the teacher was, from anywhere."""
    schedule = linear_schedule()
    for t, t_next in ((500, 281), (500, 0), (281, 125), (31, 0), (2, 1), (1, 0)):
        x_t, wanted = torch.randn(2, 4, 3, 2, 2, generator=generator(t), dtype=torch.float64)
        guess = distillation.right_guess(schedule, x_t, t, wanted, t_next)
        close(samplers.ddim_step(schedule, t, t_next, guess, schedule.guess_noise(x_t, t, guess)), wanted, 1e-9)


def check_lessons():
    """Lessons are the states of the teacher's own walk at the student's timesteps, from x_T to the picture."""
    schedule, x_T = linear_schedule(), torch.randn(3, 3, 16, 16, generator=generator(), dtype=torch.float64)

    def walk():
        return samplers.ddim(perfect(0.5, 0.3), schedule, x_T, 12, spacing=spacing.quadratic)

    there = {500: x_T} | {step.t: step.x_t for step in walk()}
    states, times = distillation.teach(walk(), x_T, 3), spacing.quadratic(schedule, 4)
    assert states.shape[1] == len(times) == 5
    for number, t in enumerate(times):
        assert torch.equal(states[:, number], there[t]), t
