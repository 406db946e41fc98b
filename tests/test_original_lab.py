"""The original course's files: its pair of arrays, its weights, its schedule; and everything that only claims to be one of them."""

import collections
import functools
import io
import json
import os
import pickle
import runpy
import socket
import struct
import subprocess
import sys
import time
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from small import NAMES, generator
from torch.nn import functional as F

from sprites_lab import LabError, checkpoints, ddim, ddpm, final, original_lab, original_sprites, sampling
from sprites_lab.__main__ import main
from sprites_lab.data import SpriteSet, load_sprites, to_pictures
from sprites_lab.original_lab import course_schedule, load_course_weights, told, without_root
from sprites_lab.original_sprites import course_sprites
from sprites_lab.runtime import fast_network
from sprites_lab.unet import ContextUnet

# --- a file of the course, from the description of its format alone ---------------------------------------------------


def course_shapes(f=64, k=5, c=3, h=16):
    """Name and shape of each of the 156 entries, in the order of the file."""
    shapes = {}

    def pair(prefix, *weight, bias=None):
        shapes[f"{prefix}.weight"], shapes[f"{prefix}.bias"] = weight, (weight[0] if bias is None else bias,)

    def block(prefix, i, o):
        for conv, inside in (("conv1", i), ("conv2", o)):
            pair(f"{prefix}.{conv}.0", o, inside, 3, 3)
            pair(f"{prefix}.{conv}.1", o)
            shapes.update({f"{prefix}.{conv}.1.running_mean": (o,), f"{prefix}.{conv}.1.running_var": (o,), f"{prefix}.{conv}.1.num_batches_tracked": ()})

    block("init_conv", c, f)
    for prefix, i, o in (("down1.model.0", f, f), ("down1.model.1", f, f), ("down2.model.0", f, 2 * f), ("down2.model.1", 2 * f, 2 * f)):
        block(prefix, i, o)
    for name, i, o in (("timeembed1", 1, 2 * f), ("timeembed2", 1, f), ("contextembed1", k, 2 * f), ("contextembed2", k, f)):
        pair(f"{name}.model.0", o, i)
        pair(f"{name}.model.2", o, o)
    pair("up0.0", 2 * f, 2 * f, h // 4, h // 4)
    pair("up0.1", 2 * f)
    for name, i in (("up1", 4 * f), ("up2", 2 * f)):
        pair(f"{name}.model.0", i, f, 2, 2, bias=f)
        block(f"{name}.model.1", f, f)
        block(f"{name}.model.2", f, f)
    pair("out.0", f, 2 * f, 3, 3)
    pair("out.1", f)
    pair("out.3", c, f, 3, 3)
    return shapes


def course_state(f=16, k=5, seed=0, **sizes):
    """Random weights and statistics of the course's network, small enough that answers stay moderate."""
    chance, state = generator(seed), {}
    for name, shape in course_shapes(f, k, **sizes).items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(len(name))
        elif name.endswith("running_var") or len(shape) == 1 and name.endswith("weight"):
            state[name] = 0.5 + torch.rand(shape, generator=chance)
        else:
            inputs = shape[0] if name in ("up0.0.weight", "up1.model.0.weight", "up2.model.0.weight") else int(np.prod(shape[1:]))
            state[name] = torch.randn(shape, generator=chance) * (inputs**-0.5 if len(shape) > 1 else 0.3)
    return state


def course_answer(w, x, t, context=None):
    """The course's network in eval mode, shortcut 0, by plain functions: no module of ours is used."""
    k = w["contextembed1.model.0.weight"].shape[1]
    context = torch.zeros(len(x), k) if context is None else context

    def block(prefix, x):
        for conv in ("conv1", "conv2"):
            p = f"{prefix}.{conv}"
            x = F.conv2d(x, w[f"{p}.0.weight"], w[f"{p}.0.bias"], padding=1)
            x = F.batch_norm(x, w[f"{p}.1.running_mean"], w[f"{p}.1.running_var"], w[f"{p}.1.weight"], w[f"{p}.1.bias"], eps=1e-5)
            x = F.gelu(x)
        return x

    def embedding(name, numbers):
        hidden = F.gelu(F.linear(numbers, w[f"{name}.model.0.weight"], w[f"{name}.model.0.bias"]))
        return F.linear(hidden, w[f"{name}.model.2.weight"], w[f"{name}.model.2.bias"])[:, :, None, None]

    def up(name, x):
        x = F.conv_transpose2d(x, w[f"{name}.model.0.weight"], w[f"{name}.model.0.bias"], stride=2)
        return block(f"{name}.model.2", block(f"{name}.model.1", x))

    time_ = (t / 500).reshape(-1, 1)
    start = block("init_conv", x) / 1.414
    down1 = F.max_pool2d(block("down1.model.1", block("down1.model.0", start)), 2)
    down2 = F.max_pool2d(block("down2.model.1", block("down2.model.0", down1)), 2)
    vector = F.gelu(F.avg_pool2d(down2, 4))
    x = F.conv_transpose2d(vector, w["up0.0.weight"], w["up0.0.bias"], stride=4)
    x = F.relu(F.group_norm(x, 8, w["up0.1.weight"], w["up0.1.bias"]))
    x = up("up1", torch.cat([embedding("contextembed1", context) * x + embedding("timeembed1", time_), down2], 1))
    x = up("up2", torch.cat([embedding("contextembed2", context) * x + embedding("timeembed2", time_), down1], 1))
    x = F.conv2d(torch.cat([x, start], 1), w["out.0.weight"], w["out.0.bias"], padding=1)
    x = F.relu(F.group_norm(x, 8, w["out.1.weight"], w["out.1.bias"]))
    return F.conv2d(x, w["out.3.weight"], w["out.3.bias"], padding=1)


def exported(model):
    """The state dict that the course's network would have with the weights of ours."""
    names = ((name, name) for name in model.state_dict() if "shortcut" not in name)
    for old, new in (("down1.", "down1.model."), ("down2.", "down2.model."), ("up1.", "up1.model."), ("up2.", "up2.model."), ("time_embed", "timeembed"), ("context_embed", "contextembed")):
        names = [(name, new + course.removeprefix(old) if course.startswith(old) else course) for name, course in names]
    return {course: model.state_dict()[name] for name, course in names}


def write_pth(path, content=None):
    torch.save(course_state() if content is None else content, path)
    return path


quick = partial(load_course_weights, forward="sqrt")
refusal = partial(small.refusal, quick)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pth"


@pytest.mark.parametrize("features, classes, parameters", [(64, 5, 1_480_771), (32, 5, 372_771), (64, 3, 1_480_387), (48, 3, 834_579)])
def test_the_table_of_the_format_has_156_entries_and_the_known_totals(features, classes, parameters):
    shapes = course_shapes(features, classes)
    assert len(shapes) == 156
    assert sum(int(np.prod(shape)) for name, shape in shapes.items() if not name.endswith(("running_mean", "running_var", "tracked"))) == parameters


# --- the schedule -----------------------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_the_schedule_is_the_literal_recipe_of_the_course():
    beta = np.linspace(1e-4, 0.02, 501)
    alpha_bar = np.cumprod(1 - beta)
    alpha_bar[0] = 1
    found = course_schedule()
    np.testing.assert_allclose(found.alpha_bar.numpy(), alpha_bar, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.beta[2:].numpy(), beta[2:], rtol=0, atol=1e-15)
    assert found.beta[0] == 0 and round(found.alpha_bar[1].item(), 6) == 0.999760 and round(found.alpha_bar[500].item(), 6) == 0.006289


@pytest.mark.oracle
def test_noise_without_the_root_is_a_schedule_with_shorter_pictures():
    s = course_schedule()
    adapted, length = without_root(s)
    signal, noise = s.alpha_bar.sqrt(), 1 - s.alpha_bar
    torch.testing.assert_close(adapted.signal_scale * length, signal, rtol=0, atol=1e-12)
    torch.testing.assert_close(adapted.noise_scale[1:] * length[1:], noise[1:], rtol=1e-9, atol=0)
    torch.testing.assert_close(adapted.alpha_bar, (1 - adapted.beta).cumprod(0), rtol=0, atol=1e-12)
    assert length[0] == 1 and adapted.beta[0] == 0 and (adapted.alpha_bar.diff() < 0).all()


def course_observer(sprites, s):
    """What a perfect network answers that knows the sprites and was trained with 1 - alpha_bar as the scale of the noise."""
    flat = sprites.double().flatten(1)

    def predict(x_t, t):
        signal, noise = s.signal_scale[t][:, None], 1 - s.alpha_bar[t][:, None]
        x = x_t.double().flatten(1)
        distance = (x[:, None] - signal[:, :, None] * flat).square().sum(2)
        x0 = (-distance / (2 * noise**2)).softmax(1) @ flat
        return ((x - signal * x0) / noise).reshape(x_t.shape).to(x_t)

    return predict


@pytest.mark.oracle
@pytest.mark.parametrize("walk", [partial(ddim, num_steps=50), ddpm], ids=["ddim", "ddpm"])
def test_a_perfect_answer_to_the_course_rule_lands_on_the_sprites_only_when_adapted(walk):
    sprites = (torch.rand(8, 3, 16, 16, generator=generator(1)) > 0.5).double() * 2 - 1
    s = course_schedule()
    observer, (adapted, length) = course_observer(sprites, s), without_root(s)
    x_T = torch.randn(12, 3, 16, 16, generator=generator(2), dtype=torch.float64)

    def away(predict, schedule):
        x0 = final(walk(predict, schedule, x_T, generator=generator(3)))
        return (x0[:, None] - sprites).square().mean((2, 3, 4)).sqrt().amin(1).nan_to_num(torch.inf)

    assert away(lambda x_t, t: observer(x_t * length[t].reshape(-1, 1, 1, 1), t), adapted).max() < 1e-3
    assert away(observer, s).min() > 0.01


# --- weights that load ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features, classes, name", [(64, 5, "model_trained.pth"), (32, 3, "a b.pth"), (16, 5, "archive.pt"), (16, 1, "ünï.pth")])
def test_a_file_of_the_course_answers_what_its_network_answers(tmp_path, features, classes, name):
    state = course_state(features, classes)
    found = quick(write_pth(tmp_path / name, state))
    x, t = torch.randn(4, 3, 16, 16, generator=generator(1)), torch.tensor([1, 77, 250, 500])
    context = torch.rand(4, classes, generator=generator(2))
    assert not found.model.training and type(found.model) is ContextUnet
    with torch.no_grad():
        for told_context in (None, context):
            expected = course_answer(state, x, t, told_context)
            assert 0.1 < expected.std() < 10
            torch.testing.assert_close(found.model(x, t, told_context), expected, rtol=1e-5, atol=1e-5)
        assert (found.model(x, t, context) - found.model(x, t)).abs().max() > 1e-3
    assert not any(tensor.any() for tensor in found.model.init_conv.shortcut.state_dict().values()) and "zero" in found.facts["shortcut"]
    assert found.model.settings == dict(features=features, context_size=classes, height=16, channels=3, timesteps=500)
    assert sampling.class_names(found) == (NAMES if classes == 5 else tuple(f"class {i + 1}" for i in range(classes)))


def test_state_dicts_of_modules_and_parameters_load_as_well(path):
    """A module's state_dict carries an attribute of its own (_metadata); dict(named_parameters) holds parameters, not tensors."""
    model = small.network(features=8)
    plain = quick(write_pth(path, exported(model))).model.state_dict()
    ordered = collections.OrderedDict((name, torch.nn.Parameter(t) if t.is_floating_point() else t) for name, t in exported(model).items())
    ordered._metadata = collections.OrderedDict({"": {"version": 1}, "init_conv": {"version": 1}})
    assert small.same_tensors(quick(write_pth(path, ordered)).model.state_dict(), plain)


def test_the_classes_may_be_named(path):
    write_pth(path, course_state(8, 3))
    assert quick(path, class_names=("cat", "dog", "owl")).facts["classes"] == ["cat", "dog", "owl"]
    for names, word in ((("cat", "dog"), "2 names"), (("cat", "cat", "owl"), "different"), (("a=b", "c", "d"), "without"), ("abc", "different"), (tuple("abcd"), "4 names")):
        with pytest.raises(LabError, match=word):
            quick(path, class_names=names)


def test_a_file_of_the_course_serves_where_ours_do(path, tmp_path):
    found = load_course_weights(write_pth(path, course_state(8)), forward="course")
    context = torch.eye(5)[:1]
    for x_T, steps in sampling.walks(found, context, 3, sampling.Walk(scale=2.0).checked(500, found.facts)):
        assert final(steps).isfinite().all() and x_T.shape == (3, 3, 16, 16)
    assert found.groups["model"].keys() == found.model.state_dict().keys() and "schedule" in found.groups


def test_loading_leaves_the_global_random_state_alone(path):
    write_pth(path, course_state(8))
    before = torch.get_rng_state()
    for forward in (None, "sqrt", "course"):
        load_course_weights(path, forward=forward)
    assert torch.equal(torch.get_rng_state(), before)


# --- the forward process ----------------------------------------------------------------------------------------------


def spreads():
    s = course_schedule()
    return {"sqrt": s.noise_scale, "course": 1 - s.alpha_bar}


def trained(rule, sprites, updates=300):
    """A small network that has learned to see the noise in a few sprites, with little noise above all, its shortcut kept at zero."""
    s, spread, chance = course_schedule(), spreads()[rule].float(), generator(0)
    model = small.network(features=8)
    for parameter in model.init_conv.shortcut.parameters():
        torch.nn.init.zeros_(parameter.requires_grad_(False))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    model.train()
    for update in range(updates):
        x0 = sprites[torch.randint(len(sprites), (16,), generator=chance)]
        t = 1 + (499 * torch.rand(16, generator=chance) ** 2).long()
        noise = torch.randn(x0.shape, generator=chance)
        x_t = s.signal_scale.float()[t].reshape(-1, 1, 1, 1) * x0 + spread[t].reshape(-1, 1, 1, 1) * noise
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - update / updates)
        optimizer.zero_grad()
        F.mse_loss(model(x_t, t), noise).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["sqrt", "course"])
def test_the_rule_of_a_trained_network_is_measured(path, rule):
    sprites = to_pictures(original_lab.load_sprites().train.sprites[[0, 300]])
    found = load_course_weights(write_pth(path, exported(trained(rule, sprites))), sprites)
    seen = found.facts["forward"]
    other = "sqrt" if rule == "course" else "course"
    assert seen["rule"] == rule and seen[f"excess_{rule}"] < 0.8 * seen[f"excess_{other}"] and seen["error"] < 0.9, seen
    assert seen["measured_on"] == "the given sprites" and type(found.model) is (ContextUnet if rule == "sqrt" else original_lab.RescaledUnet)
    assert original_lab.RULES[rule] in told(found.facts) and ("adapted" in told(found.facts)) == (rule == "course")
    assert load_course_weights(path, forward=other).facts["forward"] == {"rule": other}


@pytest.mark.parametrize("rule", ["sqrt", "course"])
def test_a_perfect_network_has_no_error_by_its_own_rule_and_much_by_the_other(rule):
    """The exact posterior in place of a network: the measurement itself, without training."""
    sprites = (torch.rand(8, 3, 16, 16, generator=generator(1)) > 0.5).float() * 2 - 1
    s = course_schedule()

    class Perfect(torch.nn.Module):
        picture_shape = (3, 16, 16)

        def forward(self, x_t, t):
            x, spread = x_t.double().flatten(1), spreads()[rule][t][:, None]
            signal, flat = s.signal_scale[t][:, None], sprites.double().flatten(1)
            p = (-(x[:, None] - signal[:, :, None] * flat).square().sum(2) / (2 * spread**2)).softmax(1)
            return ((x - signal * (p @ flat)) / spread).reshape(x_t.shape).float()

    seen = original_lab.measured(Path("x.pth"), Perfect(), s, sprites)
    other = "sqrt" if rule == "course" else "course"
    assert seen["rule"] == rule and seen[f"error_{rule}"] < 1e-3 and seen[f"excess_{rule}"] < 1e-3
    assert seen[f"error_{other}"] > 0.1 and seen[f"excess_{other}"] > 0.1
    assert "may be wrong" not in told({"forward": seen})


def test_an_untrained_network_loads_and_is_told(path):
    found = load_course_weights(write_pth(path, course_state(8)))
    assert found.facts["forward"]["error"] > 0.9 and "untrained" in told(found.facts)
    assert found.facts["forward"]["measured_on"] in ("the bundled sprites", "the course's sprites")
    weak = {"forward": dict(rule="course", error_sqrt=0.4, error_course=0.6, excess_sqrt=0.02, excess_course=0.01, error=0.4, measured_on="the given sprites")}
    assert "may be wrong" in told(weak)
    assert "as you said" in told(quick(path).facts)


def test_the_course_data_is_what_is_known_where_it_lies_in_data(path, tmp_path, monkeypatch):
    write_pair(tmp_path)
    monkeypatch.setattr(original_lab, "FOLDER", tmp_path)
    assert load_course_weights(write_pth(path, course_state(8))).facts["forward"]["measured_on"] == "the course's sprites"


def test_sprites_that_the_network_cannot_read_are_refused(path):
    write_pth(path, course_state(8, c=1))
    with pytest.raises(LabError, match="forward='sqrt'"):
        load_course_weights(path)
    assert load_course_weights(path, torch.rand(3, 1, 16, 16, generator=generator(1))).model.picture_shape == (1, 16, 16)
    with pytest.raises(LabError, match="'sqrt', 'course'"):
        load_course_weights(path, forward="root")


def test_the_adapted_network_is_the_plain_one_on_longer_pictures(path):
    state = course_state(16)
    found = load_course_weights(write_pth(path, state), forward="course")
    _, length = without_root(course_schedule())
    torch.testing.assert_close(found.schedule.alpha_bar, course_schedule().alpha_bar / length**2, rtol=0, atol=1e-12)
    x, t, context = torch.randn(4, 3, 16, 16, generator=generator(1)), torch.tensor([1, 60, 200, 500]), torch.eye(5)[:4]
    with torch.no_grad():
        expected = course_answer(state, x * length.float()[t].reshape(-1, 1, 1, 1), t, context)
        plain = course_answer(state, x, t, context)
        for network, close in ((found.model, 1e-5), (fast_network(found.model), 1e-4)):
            torch.testing.assert_close(network(x, t, context), expected, rtol=1e-5, atol=close)
        low = fast_network(found.model, torch.bfloat16)(x, t, context)
        one = found.model(x[:1], torch.tensor(60)), course_answer(state, x[:1] * length[60].float(), torch.tensor([60]))
    torch.testing.assert_close(*one, rtol=1e-5, atol=1e-5)
    assert low.dtype == torch.float32 and (low - expected).square().mean().sqrt() < 0.05 * expected.std()
    assert (expected - plain)[1:3].abs().max() > 0.05  # the length matters
    with pytest.raises(LabError, match="made for 1 to 500"):
        found.model(x, torch.full((4,), 501), context)


def test_an_adapted_network_in_a_file_of_ours_is_refused_and_not_misread(path, tmp_path):
    found = load_course_weights(write_pth(path, course_state(8)), forward="course")
    ours = tmp_path / "ours.safetensors"
    checkpoints.save(ours, {"model": found.model.state_dict()}, found.model, found.schedule, {"classes": found.facts["classes"]})
    with pytest.raises(LabError, match="unexpected input_scale"):
        checkpoints.load(ours)


# --- weights that are refused -----------------------------------------------------------------------------------------


def rezip(data, compression=zipfile.ZIP_STORED, keep=lambda name: True, double=""):
    """The archive written anew."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for name in filter(keep, old.namelist()):
            new.writestr(name, old.read(name))
            if name.endswith(double or "/"):
                new.writestr(name, old.read(name))
    return out.getvalue()


def flipped(data):
    """One bit of the values of a tensor, the archive's own lists untouched."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        place = archive.getinfo(next(name for name in archive.namelist() if name.endswith("data/0"))).header_offset + 200
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("change, word", [
    (lambda data: b"", "0 bytes"),
    (lambda data: b"<!DOCTYPE html><html></html>", "HTML page"),
    (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
    (lambda data: pickle.dumps({"a": 1}, 2), "dump of Python objects"),
    (lambda data: b"\x93NUMPY\x01\x00", "NumPy"),
    (lambda data: data[4:], "whatever its name says"),
    (lambda data: data[:-30], "damaged"),
    (lambda data: rezip(data, zipfile.ZIP_DEFLATED), "packed"),
    (flipped, "checksum"),
    (lambda data: rezip(data, keep=lambda name: "data.pkl" not in name), "none of weights"),
    (lambda data: rezip(data, keep=lambda name: not name.endswith("data/3")), "does not have the values"),
    (lambda data: rezip(data).replace(b"weights/", b"weighty/", 1), "damaged"),
])  # fmt: skip
def test_an_archive_that_is_none_is_refused(path, change, word):
    path.write_bytes(change(write_pth(path, course_state(8)).read_bytes()))
    assert "pickle" not in refusal(path, word) and "weights_only" not in refusal(path, word)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_name_twice_is_refused(path):
    path.write_bytes(rezip(write_pth(path, course_state(8)).read_bytes(), double="data/3"))
    refusal(path, "one name")


def test_two_readers_cannot_be_shown_two_archives(path):
    """One list of contents where Python looks (before the end record), another where torch looks (at the stated place)."""
    good, bad = io.BytesIO(), io.BytesIO()
    torch.save(exported(small.network(1)), good)
    torch.save(exported(small.network(2)), bad)
    first, second = rezip(bad.getvalue()), rezip(good.getvalue())
    end = bytearray(second[-22:])
    assert end[:4] == b"PK\x05\x06"
    struct.pack_into("<I", end, 16, struct.unpack("<I", first[-6:-2])[0])  # the place of the other list
    path.write_bytes(first[:-22] + second[:-22] + bytes(end))
    checked, other = exported(small.network(1)), exported(small.network(2))
    with zipfile.ZipFile(path) as archive:
        assert archive.read("archive/data/0") == checked["init_conv.conv1.0.weight"].numpy().tobytes()
    assert small.same_tensors(dict(torch.load(path, map_location="cpu", weights_only=True)), other)  # torch itself is shown the other one
    assert small.same_tensors(original_lab.read_tensors(path), checked)


def without(name):
    state = course_state(8)
    del state[name]
    return state


BAD_STATES = {
    "list": (lambda: [torch.ones(2)], "holds a list"),
    "tensor": (lambda: torch.ones(2), "holds a tensor"),
    "wrapped": (lambda: {"epoch": 3, "state_dict": course_state(8), "loss": 0.5}, "epoch, state_dict, loss"),
    "key": (lambda: course_state(8) | {7: torch.ones(2)}, "more than weights"),
    "sparse": (lambda: course_state(8) | {"out.3.bias": torch.ones(3).to_sparse()}, "unusual kind"),
    "meta": (lambda: course_state(8) | {"out.3.bias": torch.ones(3, device="meta")}, "unusual kind"),
    "quantised": (lambda: course_state(8) | {"out.3.bias": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)}, "unusual kind"),
    "missing": (lambda: without("out.3.bias"), "missing out.3.bias"),
    "extra": (lambda: course_state(8) | {"shortcut.weight": torch.ones(2)}, "unexpected shortcut.weight"),
    "ours": (lambda: small.network().state_dict(), "missing down1.model.0.conv1.0.weight"),
    "shape": (lambda: course_state(8) | {"out.3.bias": torch.ones(4)}, "out.3.bias is (4,), not (3,)"),
    "first": (lambda: course_state(8) | {"init_conv.conv1.0.weight": torch.ones(8)}, "sizes"),
    "features": (lambda: course_state(8) | {"init_conv.conv1.0.weight": torch.ones(12, 3, 3, 3)}, "multiple of 8"),
    "height": (lambda: course_state(8, h=32), "32x32"),
    "double": (lambda: course_state(8) | {"out.3.bias": torch.ones(3).double()}, "float64, not float32"),
    "half": (lambda: course_state(8) | {"out.3.bias": torch.ones(3).half()}, "float16, not float32"),
    "int": (lambda: course_state(8) | {"out.3.bias": torch.ones(3).int()}, "int32, not float32"),
    "complex": (lambda: course_state(8) | {"out.3.bias": torch.ones(3) + 1j}, "complex64, not float32"),
    "counter": (lambda: course_state(8) | {"init_conv.conv1.1.num_batches_tracked": torch.tensor(1.0)}, "float32, not int64"),
    "stride": (lambda: course_state(8) | {"out.3.bias": torch.ones(1).expand(3)}, "parts of others"),
    "part": (lambda: course_state(8) | {"out.3.bias": torch.ones(9)[:3]}, "parts of others"),
    "transposed": (lambda: course_state(8) | {"timeembed2.model.2.weight": torch.eye(8)[:, [1, 0, *range(2, 8)]].T.contiguous().T}, "parts of others"),
    "nan": (lambda: course_state(8) | {"out.3.bias": torch.tensor([0.0, torch.nan, 1.0])}, "no finite numbers, in: out.3.bias"),
    "inf": (lambda: course_state(8) | {"init_conv.conv2.1.running_var": torch.full((8,), torch.inf)}, "no finite numbers"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", BAD_STATES)
def test_a_file_of_other_things_than_the_network_is_refused(path, name):
    make, words = BAD_STATES[name]
    refusal(write_pth(path, make()), words)


def test_a_tensor_of_a_million_million_numbers_in_a_small_file_is_refused_at_once(path):
    huge = course_state(8) | {"out.3.bias": torch.ones(1).expand(10**6, 10**6)}
    start = time.monotonic()
    refusal(write_pth(path, huge), "out.3.bias is (1000000, 1000000)")
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("made", [lambda: torch.ones(3).to_sparse(), lambda: torch.ones(3, device="meta"), lambda: torch.ones(3) * 1j, lambda: small.Pixelwise()])
def test_the_second_line_knows_odd_tensors_too(made):
    odd = made()
    odd = odd.conj() if isinstance(odd, torch.Tensor) and odd.is_complex() else odd
    with pytest.raises(LabError, match="x.pth"):
        original_lab.plain_tensors(Path("x.pth"), {"a": odd})


# --- hostile programs -------------------------------------------------------------------------------------------------


class Calls:
    """Pickled, it is a call of the function."""

    def __init__(self, function, *given):
        self.made = function, given

    def __reduce__(self):
        return self.made


def write_program(path, program, root="archive", **parts):
    """A .pth file with this program and nothing else wrong with it."""
    members = {"data.pkl": program, "byteorder": b"little", "version": b"3\n", **{f"data/{key}": content for key, content in parts.items()}}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{root}/{name}", content)
    return path


def hostile_programs():
    calls = {
        "system": Calls(os.system, "touch owned"), "popen": Calls(subprocess.Popen, ["touch", "owned"]), "eval": Calls(eval, "open('owned', 'w')"),
        "exec": Calls(exec, "open('owned', 'w')"), "import": Calls(__import__, "antigravity"), "socket": Calls(socket.create_connection, ("127.0.0.1", 9)),
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"), "hub": Calls(torch.hub.load, "a/b", "c"), "partial": Calls(functools.partial, os.system, "touch owned"),
        "runpy": Calls(runpy.run_path, "owned.py"), "open": Calls(open, "owned", "w"), "load": Calls(torch.load, "other.pth"),
    }  # fmt: skip
    programs = {name: pickle.dumps({"out.3.bias": call}, 2, fix_imports=False) for name, call in calls.items()}
    programs["system, protocol 4"] = pickle.dumps(calls["system"], 4)
    ordered, tensor = b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n"
    text = lambda word: b"X" + struct.pack("<I", len(word)) + word  # noqa: E731
    head = b"\x80\x02"
    storage = head + b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + b"K\x01tQ"
    return programs | {
        "inst": head + b"(" + text(b"touch owned") + b"ios\nsystem\n.", "obj": head + b"(cos\nsystem\n" + text(b"touch owned") + b"o.",
        "newobj": head + ordered + b")\x81.", "build on object": head + b"csprites_lab.errors\nLabError\n)R}b.",
        "build on list": head + b"]}b.", "build attributes": head + ordered + b")R}" + text(b"items") + b"Nsb.",
        "call a dict": head + ordered + b"]\x85R.", "call a storage": head + b"ctorch\nFloatStorage\n)R.", "call a list": head + b"])R.",
        "persistent number": head + b"K\x01Q.", "persistent text": head + b"Pstorage\n.", "persistent tuple": head + b"(K\x01K\x02tQ.",
        "persistent list": head + b"]Q.", "other part": head + b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"../version") + text(b"cpu") + b"K\x01tQ.",
        "too long storage": storage.replace(b"K\x01tQ", b"J\x00\x00\x00\x7ftQ") + b".", "tensor of a list": head + tensor + b"]R.",
        "hash bomb": head + b"}" + text(b"a") + b"q\x00\x85" + b"q\x01h\x01h\x01\x86" * 60 + b"K\x01s.",
        "tuple bomb": head + b"}" + text(b"a") + b")" + b"".join(b"q%ch\x01\x86" % i for i in [1]) + b"q\x01h\x01\x86" * 60 + b"s.",
        "list bomb": head + b"]q\x00" + b"]q\x01(h\x00h\x00eq\x00" * 60 + b".", "late bomb": head + b"]q\x00]q\x01(h\x00h\x00eh\x00" + b"]a.",
        "in itself": head + b"]q\x00h\x00a.", "in itself twice": head + b"]q\x00]q\x01h\x00ah\x00h\x01a.", "dup": head + b"}22.",
        "tuple as key": head + b"}))s.", "odd items": head + b"}(" + text(b"a") + b"u.", "nothing": head + b".", "two left": head + b"}}.",
        "pop of nothing": head + b"\x86.", "no end": head + b"}", "no mark": head + b"t.", "get of nothing": head + b"h\x07.", "long number": b"\x80\x02L" + b"9" * 10_000 + b"L\n.",
        "protocol 3": b"\x80\x03}.", "extension": head + b"\x82\x01.", "many steps": head + b"N" * 300_000 + b".", "large": head + b"N" * (5 << 20) + b".",
        "deep": head + b")" + b"\x85" * 150_000 + b".", "deep value": head + b"}" + text(b"a") + b")" + b"\x85" * 40_000 + b"s.",
    }  # fmt: skip


CHILD = """
import json, sys, time
from pathlib import Path
from sprites_lab import LabError
from sprites_lab.original_lab import load_course_weights
good, *files = map(Path, json.loads(sys.argv[1]))
load_course_weights(good, forward="sqrt")
b"x".decode("cp437")  # zipfile imports this the first time that an archive was made by others than torch
seen, watching = [], False
def watch(event, given):
    if not watching:
        return
    if event in ("os.system", "exec", "compile", "import", "os.exec", "os.posix_spawn", "os.fork", "os.remove", "os.rename", "os.mkdir", "ctypes.dlopen") or event.startswith(("subprocess", "socket", "pickle.", "urllib", "marshal", "code.__new__")):
        seen.append(event)
    elif event == "open" and (given[1] is not None and set(str(given[1])) & set("wax+") or given[0] not in names):
        seen.append(f"open {given[0]} {given[1]}")
sys.addaudithook(watch)
results, names = {}, {str(file) for file in files} | set(files)
for file in files:
    start, watching = time.monotonic(), True
    try:
        load_course_weights(file, forward="sqrt")
        answer = "loaded"
    except LabError as error:
        answer = str(error)
    except BaseException as error:
        answer = f"not a LabError but {type(error).__name__}"
    watching = False
    results[file.stem] = answer, time.monotonic() - start, seen[:]
    seen.clear()
print(json.dumps(results))
"""


@pytest.mark.slow
def test_no_hostile_program_is_run(tmp_path, monkeypatch):
    """In a child process that reports every call, import, connection and file of Python: none happens, and each file is refused within a second."""
    monkeypatch.chdir(tmp_path)
    good = write_pth(tmp_path / "good.pth", course_state(8))
    files = [write_program(tmp_path / f"{name}.pth", program, root=name.split()[0], **{"0": b"abcd"}) for name, program in hostile_programs().items()]
    child = subprocess.run([sys.executable, "-c", CHILD, json.dumps([str(file) for file in (good, *files)])], capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(Path(original_lab.__file__).parent.parent)})
    assert child.returncode == 0, child.stderr[-2000:]
    results = json.loads(child.stdout)
    assert len(results) == len(files) and not (tmp_path / "owned").exists()
    for name, (answer, seconds, events) in results.items():
        assert f"{name}.pth" in answer and "\n" not in answer and len(answer) < 600, (name, answer)
        assert not events and seconds < 1, (name, events, seconds)
    for name, word in (("system", "posix.system"), ("system, protocol 4", "posix.system"), ("popen", "subprocess.Popen"), ("inst", "os.system"), ("hub", "torch.hub.load"), ("hash bomb", "bomb"), ("tuple bomb", "bomb"), ("list bomb", "bomb"), ("dup", "DUP"), ("many steps", "steps")):
        assert word in results[name][0], results[name][0]


def test_each_hostile_program_is_refused_by_name(tmp_path):
    for name, program in hostile_programs().items():
        path = write_program(tmp_path / f"{name}.pth", program, root=name.split()[0], **{"0": b"abcd"})
        small.refusal(load_course_weights, path)


def test_the_watcher_sees_a_program_that_is_run(tmp_path):
    """The audit hook of the child is no decoration: with the examination left out, an unpickler is caught in the act."""
    code = CHILD.replace("load_course_weights(file, forward=\"sqrt\")", "__import__('pickle').loads(__import__('zipfile').ZipFile(file).read('system/data.pkl'))")
    good, bad = write_pth(tmp_path / "good.pth", course_state(8)), write_program(tmp_path / "system.pth", pickle.dumps(Calls(os.system, "true"), 2), root="system")
    child = subprocess.run([sys.executable, "-c", code, json.dumps([str(good), str(bad)])], capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(Path(original_lab.__file__).parent.parent)})
    assert "os.system" in json.loads(child.stdout)["system"][2]


# --- sprites and labels -----------------------------------------------------------------------------------------------


def course_arrays(distinct=30, times=50, seed=0):
    """A pair like the course's: distinct sprites, then their mirror images, all of it repeated; labels one-hot, float64."""
    sprites = torch.randint(0, 256, (distinct, 16, 16, 3), generator=generator(seed), dtype=torch.uint8).numpy()
    both = np.concatenate([sprites, sprites[:, :, ::-1]])
    return np.tile(both, (times, 1, 1, 1)), np.tile(np.eye(5)[np.arange(distinct) * 7 % 5], (2 * times, 1))


def write_pair(folder, sprites=None, labels=None):
    """The pair under names that say nothing."""
    usual = course_arrays()
    np.save(folder / "a.npy", usual[0] if sprites is None else sprites)
    np.save(folder / "b.npy", usual[1] if labels is None else labels)
    return folder / "a.npy", folder / "b.npy"


def flat(sprites):
    return {sprite.tobytes() for sprite in sprites}


def test_the_course_data_loads_once_each_and_says_what_repeats(tmp_path):
    write_pair(tmp_path)
    for given in (dict(folder=tmp_path), dict(pictures=tmp_path / "a.npy"), dict(labels=str(tmp_path / "b.npy")), dict(pictures=tmp_path / "a.npy", labels=tmp_path / "b.npy")):
        found, sentences = course_sprites(**given)
        assert isinstance(found, SpriteSet) and len(found) == 60 and found.class_names == NAMES and found.labels.dtype == np.uint8
        assert sentences[0] == "3,000 pictures, 60 different; every one 50 times, kept once"
        assert sentences[1:3] == ("the pictures repeat with period 60", "the labels repeat with period 5"), sentences
    assert np.array_equal(found.sprites[:30], course_arrays()[0][:30]) and found.labels[:30].tolist() == (np.arange(30) * 7 % 5).tolist()


def test_no_held_out_sprite_nor_its_mirror_image_nor_recolouring_is_trained_on(tmp_path):
    sprites, labels = course_arrays(200, 1)
    sprites &= 0xC0  # as few colours as drawn sprites have
    write_pair(tmp_path, np.concatenate([sprites, 255 - sprites]), np.tile(labels, (2, 1)))
    found, sentences = course_sprites(folder=tmp_path)
    train, test = found.train.sprites, found.test.sprites
    assert len(test) == 80 and len(train) == 720 and np.bincount(found.test.labels).tolist() == [16] * 5
    for relatives in (test, test[:, :, ::-1], 255 - test, 255 - test[:, :, ::-1]):
        assert not flat(relatives) & flat(train)
    assert sentences[-1] == "80 are held out, none of them a sprite to train on, its mirror image or the same in other colours"
    again = course_sprites(*write_pair(tmp_path, np.concatenate([255 - sprites, sprites])[::-1], np.tile(labels, (2, 1))[::-1])).sprites
    assert flat(again.test.sprites) == flat(test)  # the split follows from the pictures, not from their order


def test_one_picture_with_two_labels_keeps_the_first(tmp_path):
    sprites, labels = course_arrays(10, 3)
    labels[20:40] = labels[np.arange(20, 40)][:, [1, 0, 2, 3, 4]]
    write_pair(tmp_path, sprites, labels)
    found, sentences = course_sprites(folder=tmp_path)
    swapped = int((np.arange(20) % 10 * 7 % 5 < 2).sum())
    assert f"{swapped} pictures come with different labels; the first one is kept" in sentences
    assert found.labels.tolist() == labels[:20].argmax(1).tolist()


@pytest.mark.parametrize("change", [
    lambda s, labels: (s, labels.astype(np.float32)), lambda s, labels: (s, labels.astype(bool)), lambda s, labels: (s, labels.astype(">i8")),
    lambda s, labels: (s, labels.argmax(1)), lambda s, labels: (s, np.asfortranarray(labels)), lambda s, labels: (np.asfortranarray(s), labels),
    lambda s, labels: ((s / 255).astype(np.float32), labels), lambda s, labels: ((s / 255).astype(">f8"), labels),
])  # fmt: skip
def test_other_writings_of_the_same_pair_give_the_same_sprites(tmp_path, change):
    usual = course_arrays(10, 3)
    write_pair(tmp_path, *change(*usual))
    found = course_sprites(folder=tmp_path).sprites
    assert np.array_equal(found.sprites, usual[0][:20]) and found.labels.tolist() == usual[1][:20].argmax(1).tolist()
    assert found.class_names == NAMES and found.sprites.dtype == np.uint8


def test_other_numbers_of_classes_have_numbers_or_given_names(tmp_path):
    write_pair(tmp_path, labels=np.tile(np.eye(3)[np.arange(30) % 3], (100, 1)))
    assert course_sprites(folder=tmp_path).sprites.class_names == ("class 1", "class 2", "class 3")
    assert course_sprites(folder=tmp_path, class_names=("a", "b", "c")).sprites.kind_names == ("a", "b", "c")
    with pytest.raises(LabError, match="2 names"):
        course_sprites(folder=tmp_path, class_names=("a", "b"))


def test_a_folder_without_a_pair_says_what_is_in_it(tmp_path):
    with pytest.raises(LabError, match="no .npy file"):
        course_sprites(folder=tmp_path)
    a, b = write_pair(tmp_path)
    np.save(tmp_path / "c.npy", course_arrays(20, 2)[0])
    assert len(course_sprites(folder=tmp_path).sprites) == 60  # the length tells which belong together
    np.save(tmp_path / "d.npy", course_arrays()[0])
    with pytest.raises(LabError, match=r"no single pair.*a.npy \(3000, 16, 16, 3\)"):
        course_sprites(folder=tmp_path)
    for path in (a, b, tmp_path / "c.npy", tmp_path / "d.npy"):
        path.unlink()
    (tmp_path / "sprites.npy").write_bytes(b"\n<!DOCTYPE html><html>")
    with pytest.raises(LabError, match="sprites.npy is an HTML page"):
        course_sprites(folder=tmp_path)


def test_a_swapped_pair_is_named(tmp_path):
    a, b = write_pair(tmp_path)
    with pytest.raises(LabError, match="swapped.*b.npy holds labels.*a.npy pictures"):
        course_sprites(b, a)


def npy(header, body=b"", version=1):
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text + body


S, L = course_arrays(10, 3)


@pytest.mark.parametrize("name, content, word", [
    ("a", S[:-1], "do not belong together"), ("b", L[:-1], "do not belong together"),
    ("a", S.transpose(0, 3, 1, 2), "channels last"), ("a", S[:, :8], "uint8"), ("a", S.astype(np.int64), "uint8"), ("a", S[:0], "uint8"),
    ("a", S / 1.0, "between 0 and 1"), ("a", S / 255 - 1e-3, "between 0 and 1"), ("a", np.where(S == S[0, 0, 0, 0], np.nan, S / 255), "between 0 and 1"),
    ("a", (S / 255).astype(complex), "no plain numbers"), ("b", L * 2, "one-hot"), ("b", L * 0, "one-hot"), ("b", L + 0.01, "one-hot"), ("b", np.where(L == 1, np.nan, L), "one-hot"),
    ("b", np.roll(L, 1, 1) + L, "one-hot"), ("b", L.astype(complex), "no plain numbers"), ("b", L.astype(str), "labels are"), ("b", L[:, :, None], "labels are"),
    ("b", L.argmax(1) * 1.0, "labels are"), ("b", L.argmax(1) - 1, "from -1"), ("b", L.argmax(1) + 5000, "numbered"), ("b", np.zeros((len(L), 0)), "labels are"),
    ("a", b"<html></html>", "HTML"), ("b", b"<html></html>", "HTML"), ("a", b"", "0 bytes"), ("a", b"PK\x03\x04abc", "zip archive"), ("b", pickle.dumps([1], 2), "dump of Python"),
    ("a", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (99999999, 16, 16, 3), }"), "cut off"),
    ("a", npy("{'descr': '|O', 'fortran_order': False, 'shape': (30, 16, 16, 3), }", b"\x80\x02N."), "Python objects"),
    ("b", npy("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (30, 5), }", bytes(1200)), "no plain numbers"),
    ("b", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-30, 5), }", bytes(1200)), "no plain numbers"),
    ("b", npy("(" * 5000), "damaged"), ("a", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b" " * 200, "damaged"), ("a", b"\x93NUMPY\x09\x00" + bytes(20), "no NumPy array"),
])  # fmt: skip
def test_what_is_no_pair_of_the_course_is_refused(tmp_path, name, content, word):
    paths = dict(zip("ab", write_pair(tmp_path, S, L)))
    if isinstance(content, bytes):
        paths[name].write_bytes(content)
    else:
        np.save(paths[name], content)
    with pytest.raises(LabError, match=word) as caught:
        course_sprites(paths["a"], paths["b"])
    assert paths[name].name in str(caught.value) and "allow_pickle=True" not in str(caught.value)


def test_python_objects_are_never_unpickled(tmp_path):
    a, b = write_pair(tmp_path, S, L)
    np.save(b, np.array([[Calls(os.mkdir, str(tmp_path / "owned"))]], dtype=object), allow_pickle=True)
    with pytest.raises(LabError, match="Python objects"):
        course_sprites(a, b)
    assert not (tmp_path / "owned").exists()


def test_the_least_period_is_found():
    for row, expected in (([1], 1), ([1, 1, 1, 1], 1), ([1, 2, 1, 2, 1], 2), ([1, 2, 3], 3), ([1, 1, 2, 1, 1], 3), ([1, 1, 2, 1, 1, 2, 1, 1, 1], 7)):
        assert original_sprites.period(np.array(row)) == expected


@pytest.mark.slow
def test_a_set_as_large_as_the_course_takes_seconds(tmp_path):
    a, b = write_pair(tmp_path, *course_arrays(894, 50))
    start = time.monotonic()
    found, sentences = course_sprites(a, b)
    assert time.monotonic() - start < 10 and len(found) == 1788 and len(found.test) == 180  # 36 of each class
    assert sentences[0] == "89,400 pictures, 1,788 different; every one 50 times, kept once" and sentences[1] == "the pictures repeat with period 1,788"


# --- from the command line --------------------------------------------------------------------------------------------


def test_the_course_pair_becomes_a_sprite_file(tmp_path, capsys):
    (tmp_path / "course").mkdir()
    pictures, labels = write_pair(tmp_path / "course")
    out = tmp_path / "course.npz"
    for sources in ([tmp_path / "course"], [pictures, labels], [pictures]):
        assert main(["import", *map(str, sources), "--out", str(out)]) == 0
        said, found = capsys.readouterr().out, load_sprites(out)
        assert "60 different; every one 50 times" in said and len(found) == 60 and found.class_names == NAMES and 0 < len(found.test) < len(found.train)
        out.unlink()
    assert main(["import", str(labels), str(pictures), "--out", str(out)]) == 2 and "swap" in capsys.readouterr().err.lower()
    assert main(["import", str(labels), str(pictures), str(labels), "--out", str(out)]) == 2 and "two .npy files" in capsys.readouterr().err


def test_weights_of_the_course_are_sampled_and_the_rule_is_told(path, tmp_path, capsys):
    write_pth(path, course_state(8, 3))
    assert main(["sample", "--weights", str(path), "--context", "class 2", "--count", "2", "--steps", "3", "--out", str(tmp_path / "s.npz")]) == 0
    said = capsys.readouterr().out
    assert "noise error" in said and "2 sprites in" in said
    with np.load(tmp_path / "s.npz") as made:
        assert made["sprites"].shape == (2, 16, 16, 3) and made["contexts"][0].tolist() == [0, 1, 0]
