"""Panels without a browser: the picture is always that of the controls' last values, whoever turned them and how fast."""

import asyncio
import io
import os
import re
import threading

import ipywidgets as W
import numpy as np
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from PIL import Image
from small import network

from sprites_lab import LabError, conditioned, ddim, dpm_solver, final, guided, knobs, lab, linear_schedule, panels
from sprites_lab.checkpoints import Checkpoint
from sprites_lab.data import context_of
from sprites_lab.figures import COLOURS, Figure, show_grid, tile
from sprites_lab.knobs import Choice, Knob, Panel
from sprites_lab.observer import Observer
from sprites_lab.spacing import karras, quadratic
from sprites_lab.walks import fitted_start

KNOBS = {"a": Knob(0, 9, 1, 2, "first"), "b": Choice(("x", "y"), "x", "second")}


def draw(a, b):
    return show_grid(torch.full((1, 3, 4, 4), a / 10 if b == "x" else -a / 10), alt=f"{a} and {b}")


@pytest.fixture
def live(monkeypatch):
    """As at a keyboard, in plain float32."""
    monkeypatch.setenv("SPRITES_LAB_STATIC", "0")
    monkeypatch.setattr(lab, "fast_dtype", lambda device: None)


def everything(page):
    """All widgets of a page."""
    return [page, *(deeper for child in getattr(page, "children", ()) for deeper in everything(child))]


def parts(panel):
    """Its controls by name, its picture, its lines of text: the caption first, the status last."""
    there = everything(panel.page)
    assert not any(isinstance(one, W.Output) for one in there)
    (picture,) = (one for one in there if isinstance(one, W.Image))
    return {one.description: one for one in there if hasattr(one, "description") and not isinstance(one, W.HTML)}, picture, [one for one in there if isinstance(one, W.HTML)]


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def same_picture(data, pictures, zoom):
    """Whether a PNG shows these pictures, give or take the last digit of a colour."""
    wanted = np.asarray(tile(pictures, panels.COLUMNS, zoom)).astype(int)
    return pixels(data).shape == wanted.shape and np.abs(pixels(data) - wanted).max() <= 1


# The panel itself


def test_on_a_stored_page_a_panel_is_the_picture_of_its_starting_values():
    assert Panel(draw, "two knobs", KNOBS)._repr_mimebundle_() == draw(2, "x")._repr_mimebundle_()


def test_at_a_keyboard_a_panel_is_its_page_of_controls(live):
    shown = Panel(draw, "two knobs", KNOBS)._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in shown and "image/png" not in shown


def test_every_control_moves_the_picture_and_the_line_below(live):
    controls, picture, lines = parts(Panel(draw, "two knobs, a < b", KNOBS))
    assert "two knobs, a &lt; b" in lines[0].value and bytes(picture.value) == draw(2, "x").data
    for name, value, values in (("a", 7, (7, "x")), ("b", "y", (7, "y")), ("a", 0, (0, "y"))):
        before = bytes(picture.value)
        controls[name].value = value
        assert bytes(picture.value) == draw(*values).data != before
        assert re.search(r">a={}, b={}: \d+ ms<br>{}<".format(*values, re.escape(draw(*values).alt)), lines[-1].value)


def test_the_picture_has_its_place_from_the_first_moment(live):
    _, picture, lines = parts(Panel(draw, "", KNOBS))
    height, width, _ = pixels(picture.value).shape
    assert (picture.layout.width, picture.layout.height) == (f"{width}px", f"{height}px")
    assert "sprites-lab-picture" in picture._dom_classes and ".sprites-lab-picture { image-rendering: pixelated; }" in lines[0].value


@pytest.mark.parametrize("control, kind", [
    (Knob(0, 9, 1, 2, "whole"), W.IntSlider), (Knob(0, 1, 0.05, 0.5, "parts"), W.FloatSlider),
    (Choice((1, 2, 10), 2, "uneven"), W.SelectionSlider), (Choice(("x", "y"), "y", "names"), W.Dropdown),
])  # fmt: skip
def test_every_control_says_its_name_and_what_it_does(control, kind):
    made = knobs.widget("seed", control)
    assert type(made) is kind and made.value == control.start and (made.description, made.tooltip) == ("seed", control.about)
    if isinstance(control, Knob):
        assert (made.min, made.max, made.step) == control[:3] and made.continuous_update


def counted(log):
    return lambda a, b: log.append((a, b)) or draw(a, b)


def test_changes_that_queue_up_become_one_drawing_of_the_last_values(live):
    log = []
    controls, picture, _ = parts(Panel(counted(log), "", KNOBS))

    async def hurry():
        """Events at given moments, in units of the pause that a panel makes, on a clock that stands still between them."""
        now = 0.0
        asyncio.get_running_loop().time = lambda: now * knobs.SETTLE
        for moment, name, value in HURRY:
            now = moment
            for _ in range(3):  # what is due gets its turn
                await asyncio.sleep(0)
            if name:
                controls[name].value = value

    asyncio.run(hurry())
    assert log == [(2, "x"), (5, "y"), (7, "y"), (9, "y")] and bytes(picture.value) == draw(9, "y").data


HURRY = [
    (0, "a", 3), (0, "a", 4), (0.5, "b", "y"), (0.9, "a", 5),  # drawn together, at 1
    (1.2, "a", 6), (2, "a", 7),  # at 2.2, and no sooner
    (5, "a", 8), (5, "a", 7),  # nothing to draw: there and back
    (8, "a", 9), (10, "", None),
]  # fmt: skip


def test_a_slow_old_drawing_never_comes_after_a_new_one(live):
    begun, go = threading.Event(), threading.Event()

    def slow(a, b):
        if a == 5:
            begun.set()
            go.wait(60)
        return draw(a, b)

    one = Panel(slow, "", KNOBS)
    turned = [threading.Thread(target=setattr, args=(one.widgets["a"], "value", value)) for value in (5, 6)]
    turned[0].start()
    assert begun.wait(60)
    turned[1].start()
    turned[1].join(0.3)  # without a lock it is done by now
    go.set()
    for thread in turned:
        thread.join(60)
    assert bytes(one.image.value) == draw(6, "x").data and "a=6" in one.status.value


@pytest.mark.parametrize("error, sentence", [(LabError("a <7> is too much; take 6"), "a=7, b=x: a &lt;7&gt; is too much; take 6<"), (KeyError("odd"), "a=7, b=x: KeyError: 'odd'<")])
def test_an_error_is_told_the_picture_stays_and_the_next_change_recovers(live, error, sentence):
    def failing(a, b):
        if a == 7:
            raise error
        return draw(a, b)

    controls, picture, lines = parts(Panel(failing, "", KNOBS))
    controls["a"].value = 7
    assert sentence in lines[-1].value and bytes(picture.value) == draw(2, "x").data
    controls["a"].value = 2
    assert "ms" in lines[-1].value and "too much" not in lines[-1].value and "KeyError" not in lines[-1].value
    controls["a"].value = 8
    assert bytes(picture.value) == draw(8, "x").data


def test_an_error_of_the_first_drawing_is_the_cells(live):
    with pytest.raises(LabError, match="nothing here"):
        Panel(lambda a, b: (_ for _ in ()).throw(LabError("nothing here")), "", KNOBS)


# Turned by code


@pytest.mark.parametrize("static", ["0", "1"])
def test_a_look_is_the_picture_of_the_values_and_leaves_the_knobs_as_they_were(monkeypatch, static):
    monkeypatch.setenv("SPRITES_LAB_STATIC", static)
    log, turned = [], []
    panel = Panel(counted(log), "", KNOBS)
    panel.widgets["a"].observe(lambda change: turned.append(change.new), "value")

    async def look():
        return [await panel.look(a=7, b="y"), await panel.look(), await panel.look(b="y")]

    shown = asyncio.run(look())
    assert [figure.data for figure in shown] == [draw(*values).data for values in ((7, "y"), (2, "x"), (2, "y"))]
    assert turned == [7, 2] and log == [(2, "x"), (7, "y"), (2, "x"), (2, "y"), (2, "x")]
    assert bytes(panel.image.value) == draw(2, "x").data and "a=2, b=x" in panel.status.value


@pytest.mark.parametrize("values, sentence", [
    ({"c": 1}, "no knob 'c' here; there are: a, b"), ({"a": 10}, "a = 10, but its knob goes in whole numbers from 0 to 9"),
    ({"a": 2.5}, "a = 2.5, but its knob goes in whole"), ({"a": "x"}, "a = 'x'"), ({"f": float("nan")}, "f = nan, but its knob goes from 0.0 to 1.0"),
    ({"b": "z"}, "b = 'z', but it is one of 'x', 'y'"), ({"a": 3, "b": "z"}, "one of"),
])  # fmt: skip
def test_a_knob_cannot_be_turned_out_of_its_range(values, sentence):
    def show(a, b, f=0.5):
        return draw(a, b)

    panel = Panel(show, "", KNOBS | ({"f": Knob(0.0, 1.0, 0.1, 0.5, "parts")} if "f" in values else {}))
    with pytest.raises(LabError, match=re.escape(sentence)):
        asyncio.run(panel.look(**values))
    assert panel.values()["a"] == 2


def test_looking_tells_of_a_picture_that_does_not_follow():
    panel = Panel(draw, "", KNOBS)
    panel.widgets["a"].unobserve_all("value")
    with pytest.raises(LabError, match="did not follow"):
        asyncio.run(panel.look(a=5))


def test_looking_raises_what_the_drawing_raised_and_recovers():
    def failing(a, b):
        if a == 7:
            raise LabError("seven is too much")
        return draw(a, b)

    panel = Panel(failing, "", KNOBS)
    with pytest.raises(LabError, match="seven is too much"):
        asyncio.run(panel.look(a=7))
    assert panel.values()["a"] == 2 and bytes(panel.image.value) == draw(2, "x").data and "seven" not in panel.status.value
    assert asyncio.run(panel.look(a=8)).alt == "8 and x"


KERNEL = """
import time, torch
from sprites_lab import figures, knobs
log = []
def draw(a, b):
    time.sleep(0.2)
    log.append((a, b))
    return figures.show_grid(torch.full((1, 3, 4, 4), (a - b) / 50))
page = knobs.Panel(draw, "", {name: knobs.Knob(0, 50, 1, 0, "") for name in "ab"})
print(*(control.comm.comm_id for control in page.page.children[1].children))
"""


@pytest.mark.slow
def test_in_a_kernel_a_hurried_hand_gets_few_drawings_and_the_last_values():
    manager, client = start_new_kernel(env={**os.environ, "SPRITES_LAB_STATIC": "0"})
    try:
        said = []

        def run(code):
            reply = client.execute_interactive(code, timeout=120, output_hook=lambda message: said.append(message["content"].get("text", "")))
            assert reply["content"]["status"] == "ok", reply["content"]
            return "".join(said[-20:])

        comms = run(KERNEL).split()
        for value in range(1, 16):
            for comm, number in zip(comms, (value, 2 * value)):
                data = {"method": "update", "state": {"value": number}, "buffer_paths": []}
                client.shell_channel.send(client.session.msg("comm_msg", {"comm_id": comm, "data": data}))
        said.clear()
        run("import asyncio; await asyncio.sleep(1)")  # the loop gets its turn before the cell that looks
        found = run("print(log[0], log[-1], len(log), bytes(page.page.children[2].value) == draw(15, 30).data)")
        first, last, count, same = re.match(r"\((.*?)\) \((.*?)\) (\d+) (\w+)", found).groups()
        assert (first, last, same) == ("0, 0", "15, 30", "True") and int(count) <= 15  # of 30 changes
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# Chapter 1


def ladder(count=3):
    chance = torch.Generator().manual_seed(0)
    known = torch.rand(count, 3, 16, 16, generator=chance) * 2 - 1
    schedule = linear_schedule(100)
    return known[:1], Observer(known, schedule), schedule, torch.randn(2, 3, 16, 16, generator=chance)


def filled(picture):
    """How much of the gauge's bar is filled, 0 to 1."""
    blue = np.array([int(COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)])
    row = (picture[-32] == blue).all(-1)  # through the middle of the bar
    return row.sum() / (len(row) - 20)


def test_the_ladder_shows_the_noisy_sprite_the_best_answer_and_the_likeliest(live):
    bob, observer, schedule, noise = ladder()
    controls, picture, _ = parts(panels.noise_ladder(bob, observer, schedule, noise))
    assert (controls["t"].min, controls["t"].max) == (0, 100)
    for t in (100, 60, 0):
        controls["t"].value = t
        x_t = schedule.add_noise(bob, t, noise[:1])
        order = observer.posterior(x_t, max(t, 1))[0].argsort(descending=True)
        wanted = np.asarray(tile(torch.cat([x_t, observer.guess_x0(x_t, max(t, 1)), observer.sprites.reshape(3, 3, 16, 16)[order].float()]), 5, 6))
        shown = pixels(picture.value)[18 : 18 + len(wanted), : wanted.shape[1]]
        assert np.array_equal(shown, wanted), t


def test_the_bob_meter_is_as_full_as_the_observer_is_unsure(live):
    bob, observer, schedule, noise = ladder(64)
    near = bob + 0.05 * torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(1))  # relatives: doubt comes early
    observer = Observer(near, schedule)
    controls, picture, lines = parts(panels.noise_ladder(near[:1], observer, schedule, noise))
    seen = {}
    for t in (0, 20, 50, 100):
        controls["t"].value = t
        bits = abs(observer.entropy(schedule.add_noise(near[:1], t, noise[:1]), t).item()) if t else 0  # never -0.00
        words = observer.meter(schedule.add_noise(near[:1], t, noise[:1]), max(t, 1))[0]
        assert f"; {bits:.2f} of 6.00 bits of doubt: {words}</span>" in lines[-1].value
        assert abs(filled(pixels(picture.value)) - bits / 6) < 0.01
        seen[words] = bits
    assert list(seen) == ["certain", "a few candidates", "no idea"]


# Chapters 2 and 6


def small_checkpoint():
    return Checkpoint(network(timesteps=40), linear_schedule(40), {}, {})


def test_a_walk_is_that_of_the_sampler_for_every_setting(live):
    found = small_checkpoint()
    controls, picture, lines = parts(panels.walk(found, count=3))
    predict = conditioned(found.model, None)
    ways = {
        "DDIM": lambda x, n, dice: ddim(predict, found.schedule, x, n),
        "DDPM, thinned": lambda x, n, dice: ddim(predict, found.schedule, x, n, 1.0, dice),
        "2M": lambda x, n, dice: dpm_solver(predict, found.schedule, x, n, spacing=karras),
        "2M SDE": lambda x, n, dice: dpm_solver(predict, found.schedule, x, n, 1.0, dice, karras),
    }
    assert set(controls["sampler"].options) == set(ways) and max(controls["steps"].options) <= 40
    for sampler, steps, seed in [("DDIM", 3, 0), ("DDPM, thinned", 3, 0), ("2M", 4, 1), ("2M SDE", 5, 2)]:
        controls["sampler"].value, controls["steps"].value, controls["seed"].value = sampler, steps, seed
        wanted = final(ways[sampler](lab.starting_noise(3, seed), steps, [lab.picture_generator(seed + 1, i) for i in range(3)]))
        assert same_picture(picture.value, wanted, 5) and f">3 sprites by {sampler} in {steps} network calls, seed {seed}<" in lines[-1].value


def test_a_walk_from_a_fitted_start_starts_there(live):
    found = small_checkpoint()
    controls, picture, _ = parts(panels.walk(found, ["DDIM"], start=lambda noise: noise + 1, count=2))
    assert same_picture(picture.value, final(ddim(conditioned(found.model, None), found.schedule, lab.starting_noise(2) + 1, 10)), 5)


# Chapter 5


@pytest.fixture(scope="module")
def start():
    return fitted_start(lab.load_student(1))


@pytest.fixture
def mixed(live, monkeypatch, start):
    """A live mixer of three sprites."""
    monkeypatch.setattr(panels, "fitted_start", lambda found: start)
    return parts(panels.mixer(count=3))


def student(steps, start, context, scale=1, seed=0):
    """Three sprites of a student, as chapter 6 draws them."""
    found = lab.load_student(steps)
    predict = guided(conditioned(found.model, context), conditioned(found.model, None), scale)
    return final(ddim(predict, found.schedule, start(lab.starting_noise(3, seed)), steps, spacing=quadratic))


def test_the_mixer_draws_what_the_network_draws_for_that_context(mixed, start):
    controls, picture, lines = mixed
    assert same_picture(picture.value, student(2, start, context_of({"hero": 0.5, "food": 0.5})), 4)
    controls["steps"].value = 1
    for share, context in ((1, {"food": 1}), (0, {})):
        controls["hero"].value, controls["food"].value = 0, share
        assert same_picture(picture.value, student(1, start, context_of(context)), 4), share
    assert ">3 sprites asked for nothing in particular" in lines[-1].value
    controls["hero"].value, controls["side-facing"].value = 1, 0.6
    controls["guidance"].value = 3
    controls["seed"].value = 4
    assert same_picture(picture.value, student(1, start, context_of({"hero": 1, "side-facing": 0.6}), 3, 4), 4)
    assert "hero=1.00, non-hero=0.00, food=0.00, spell=0.00, side-facing=0.60, guidance=3.00, steps=1, seed=4" in lines[-1].value


def test_beyond_the_students_the_mixer_uses_their_teacher(mixed, start):
    controls, picture, _ = mixed
    controls["steps"].value = 10
    found = lab.load_weights()
    predict = conditioned(found.model, context_of({"hero": 0.5, "food": 0.5}))
    assert same_picture(picture.value, final(dpm_solver(predict, found.schedule, start(lab.starting_noise(3)), 10, spacing=karras)), 4)


def test_guidance_costs_a_second_call_only_where_it_says_something():
    calls = []

    def model(x_t, t, context):
        calls.append(context is None)
        return x_t * (2 if context is None else 3)

    x, context = torch.ones(2, 3, 4, 4), context_of({"food": 1})
    for scale, asked, answer in ((0.0, [True], 2), (1.0, [False], 3), (2.0, [True, False], 4)):
        calls.clear()
        assert (panels.asked(model, context, scale)(x, torch.tensor([1, 1])) == answer).all() and sorted(calls) == sorted(asked)


# Files


def test_a_stored_picture_says_in_letters_what_a_live_one_says_with_its_controls(monkeypatch):
    sheet = tile(torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1, 8, 4)
    stored = pixels(panels.picture([sheet], "eight pictures").data)
    monkeypatch.setenv("SPRITES_LAB_STATIC", "0")
    shown = pixels(panels.picture([sheet], "eight pictures").data)
    assert np.array_equal(shown, np.asarray(sheet)) and np.array_equal(stored[-len(shown) :], shown)
    assert len(stored) > len(shown) and (stored[: -len(shown)] < 100).any()


@pytest.mark.parametrize("static, wanted", [("1", torch.float32), ("0", torch.bfloat16)])
def test_stored_pictures_do_not_depend_on_the_processor(monkeypatch, static, wanted):
    monkeypatch.setenv("SPRITES_LAB_STATIC", static)
    monkeypatch.setattr(lab, "fast_dtype", lambda device: torch.bfloat16)
    assert {parameter.dtype for parameter in panels.quick(network()).down1.parameters()} == {wanted}
