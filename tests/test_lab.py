"""What notebooks and commands need around the algorithms."""

import signal
import sys
import threading

import checks
import pytest
import torch
from small import write_weights

from sprites_lab import LabError, lab


def test_starting_noise():
    checks.check_starting_noise()


def test_starting_noise_is_the_same_in_every_run():
    found = lab.starting_noise(2, seed=3)[1]
    assert torch.equal(found, torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(3 * 1_000_003 + 1)))
    assert lab.starting_noise(2, size=8).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("value, expected", [(None, 1), ("quick", 1), ("full", 2)])
def test_the_scale_follows_the_environment(monkeypatch, value, expected):
    monkeypatch.delenv("SPRITES_LAB_SCALE", raising=False)
    if value:
        monkeypatch.setenv("SPRITES_LAB_SCALE", value)
    assert lab.scale(1, 2) == expected


def test_an_unknown_scale_is_refused(monkeypatch):
    monkeypatch.setenv("SPRITES_LAB_SCALE", "huge")
    with pytest.raises(LabError, match="'huge', but must be quick or full"):
        lab.scale(1, 2)


@pytest.mark.parametrize("setting", [0, 5, [0, 5], (3,), {"a": 0, "b": 5}, range(6)[2]])
def test_settings_within_their_range_pass(setting):
    lab.check_range(0, 5, setting=setting, other=2)


@pytest.mark.parametrize("setting, sentence", [
    (6, "setting is 6, but must be a whole number from 0 to 5"), (-1, "setting is -1, but must be a whole number from 0 to 5"),
    ("2", "setting is '2', but must be a whole number from 0 to 5"), ([0, 2.5], "an entry of setting is 2.5, but must be a whole number from 0 to 5"),
    ({"Bob": 0, "gone": 6}, "an entry of setting is 6, but must be a whole number from 0 to 5"),
    ([], "setting is [], but must hold numbers from 0 to 5, 1 or more"), ({}, "setting is {}, but must hold numbers from 0 to 5, 1 or more"),
])  # fmt: skip
def test_a_setting_out_of_its_range_is_named(setting, sentence):
    with pytest.raises(LabError) as caught:
        lab.check_range(0, 5, other=2, setting=setting)
    assert str(caught.value) == sentence


def test_a_list_of_settings_may_need_several_entries():
    lab.check_range(0, 5, entries=2, pixel=(0, 5))
    with pytest.raises(LabError, match=r"^pixel is \(3,\), but must hold numbers from 0 to 5, 2 or more$"):
        lab.check_range(0, 5, entries=2, pixel=(3,))


@pytest.mark.parametrize("names", [(), "mage", ("mage",), ("mage", 3), None, 5])
def test_names_are_a_list_of_words(names):
    lab.check_names(2, kinds=("mage", "frog"), others=["a", "b", "c"])
    with pytest.raises(LabError, match="kinds is .*, but must hold 2 or more names"):
        lab.check_names(2, wishes=("a", "b"), kinds=names)


def test_settings_between_floats_need_not_be_whole():
    lab.check_range(0.0, 1.0, eta=0.5, etas=[0, 1, 0.25])
    with pytest.raises(LabError, match="^an entry of etas is 1.5, but must be a number from 0 to 1$"):
        lab.check_range(0.0, 1.0, etas=[0, 1.5])


@pytest.mark.parametrize("cuda, mps, best", [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_is_the_best_device_here_and_a_missing_one_is_refused(monkeypatch, cuda, mps, best):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert lab.pick_device().type == best and lab.pick_device("cpu").type == "cpu"
    for name, there in (("cuda", cuda), ("mps", mps), ("cuda:0", cuda)):
        if there:
            assert lab.pick_device(name) == torch.device(name)
        else:
            with pytest.raises(LabError, match=f"--device {name}.*--device cpu"):
                lab.pick_device(name)


@pytest.mark.parametrize("name", ["", "gpu", "CUDA", "tpu", "cpu:x", "cpu:", ":0"])
def test_a_device_that_does_not_exist_is_refused(name):
    with pytest.raises(LabError, match="device"):
        lab.pick_device(name)


def test_bfloat16_is_used_on_a_cpu_only_where_it_has_instructions_for_it(monkeypatch):
    tiles, vectors = "_is_amx_tile_supported", "_is_avx512_bf16_supported"
    for has in ((True, True), (True, False), (False, True), (False, False)):
        for name, there in zip((tiles, vectors), has, strict=True):
            monkeypatch.setattr(torch.cpu, name, lambda there=there: there, raising=False)
        for capability in ("AVX512", "AVX2", "DEFAULT"):  # what torch may use, as ATEN_CPU_CAPABILITY says
            monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
            assert lab.fast_dtype(torch.device("cpu")) is (torch.bfloat16 if any(has) and capability == "AVX512" else None)
        assert lab.fast_dtype(torch.device("mps")) is None
    monkeypatch.delattr(torch.cpu, tiles)
    monkeypatch.delattr(torch.cpu, vectors)
    assert lab.fast_dtype(torch.device("cpu")) is None


def test_snapshots_are_found_by_epoch_and_others_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "WEIGHTS", tmp_path)
    write_weights(tmp_path / "epoch-04.safetensors", epoch=4)
    assert lab.load_snapshot(4).facts["epoch"] == 4
    with pytest.raises(LabError, match="no snapshot of epoch 5; there are: 0, 4, 8, 31"):
        lab.load_snapshot(5)
    with pytest.raises(LabError, match="epoch-08"):
        lab.load_snapshot(8)


def test_students_are_found_by_steps_and_others_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "WEIGHTS", tmp_path)
    write_weights(tmp_path / "student-2.safetensors", steps=2)
    assert lab.load_student(2).facts["steps"] == 2
    with pytest.raises(LabError, match="no student of 3 steps; there are: 4, 2, 1"):
        lab.load_student(3)


def test_the_twins_are_alike_but_for_the_root():
    ours, slip = lab.load_twin("root").facts["recipe"], lab.load_twin("slip").facts["recipe"]
    assert slip.pop("recipe") == ours.pop("recipe") + "+forgotten-root" and slip == ours
    with pytest.raises(LabError, match="no twin 'evil'; there are: root, slip"):
        lab.load_twin("evil")


def test_progress_passes_every_step_through_and_is_silent_for_stored_outputs(capsys, monkeypatch):
    monkeypatch.setenv("SPRITES_LAB_STATIC", "1")
    assert list(lab.progress(iter(range(5)), 5, "steps")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("SPRITES_LAB_STATIC", "0")
    assert list(lab.progress(iter(range(5)), 5, "steps")) == [0, 1, 2, 3, 4]
    assert "steps" in capsys.readouterr().err


# Ctrl-C


def steps(log, interrupt_at=None):
    """Numbers 0..4; raises SIGINT in the middle of one of them."""
    try:
        for number in range(5):
            if number == interrupt_at:
                signal.raise_signal(signal.SIGINT)
            log.append(number)
            yield number
    finally:
        log.append("closed")


@pytest.fixture
def interruptible():
    """Python's own reaction to Ctrl-C, even where the tests run in the background with Ctrl-C switched off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the handler was not put back"
    signal.signal(signal.SIGINT, before)


def test_whole_steps_are_the_steps(interruptible):
    log = []
    assert list(lab.whole_steps(steps(log))) == [0, 1, 2, 3, 4] and log[-1] == "closed"


@pytest.mark.parametrize("moment", [0, 2, 4])
def test_ctrl_c_waits_for_the_running_step_which_is_still_reported(interruptible, moment):
    log, seen = [], []
    with pytest.raises(KeyboardInterrupt):
        for number in lab.whole_steps(steps(log, moment)):
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            seen.append(number)
    assert seen == list(range(moment + 1))


def test_sigterm_waits_as_ctrl_c_does(interruptible):
    log, seen, before = [], [], signal.getsignal(signal.SIGTERM)

    def terminated():
        for number in steps(log):
            if number == 1:
                signal.raise_signal(signal.SIGTERM)
            yield number

    with pytest.raises(KeyboardInterrupt):
        seen.extend(lab.whole_steps(terminated()))
    assert log == [0, 1, "closed"] and signal.getsignal(signal.SIGTERM) is before


def test_after_ctrl_c_the_steps_are_closed_before_anyone_speaks_of_it(interruptible):
    log = []
    try:
        for _ in lab.whole_steps(steps(log, 2)):
            pass
    except KeyboardInterrupt:
        assert log == [0, 1, 2, "closed"]


def test_an_error_in_a_step_puts_the_handler_back(interruptible):
    def failing():
        yield 1
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(lab.whole_steps(failing()))


def test_off_the_main_thread_no_handler_is_set(interruptible):
    found = []
    thread = threading.Thread(target=lambda: found.extend(lab.whole_steps(steps([]))))
    thread.start()
    thread.join()
    assert found == [0, 1, 2, 3, 4]


def test_a_patient_part_only_notes_what_was_asked(interruptible):
    before = signal.getsignal(signal.SIGTERM)
    with lab.patient() as asked:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert asked == [True, True]
    assert signal.getsignal(signal.SIGTERM) is before


# A name that no cell has made


class Shell:
    """As much of IPython as the explanation needs."""

    def __init__(self):
        self.user_ns, self.custom_exceptions, self.shown = {}, (), []

    def set_custom_exc(self, kinds, handler):
        self.custom_exceptions, self.handler = kinds, handler

    def showtraceback(self, caught, tb_offset, running_compiled_code):
        self.shown.append(f"{caught[0].__name__}: {caught[1]}")

    def run(self, code):
        try:
            exec(code, self.user_ns)
        except self.custom_exceptions as error:
            self.handler(self, type(error), error, error.__traceback__, tb_offset=1)


@pytest.mark.parametrize("code, explained", [
    ("model(1)", True), ("def f(): return model\nf()", True), ("[model for _ in range(2)]", True),
    ("def f():\n    x = x + 1\nf()", False), ("eval('model', {})", False), ("raise NameError('mine')", False),
])  # fmt: skip
def test_a_name_that_no_cell_has_made_is_explained(code, explained):
    shell = Shell()
    lab.explain_missing_names(shell)
    shell.run(code)
    (shown,) = shell.shown
    assert ("No cell that ran so far has made it: choose Run > Run All Above Selected Cell" in shown) == explained, shown
    assert "Error: " in shown and ("model" in shown or "x" in shown or "mine" in shown)


def test_nobody_elses_explanations_are_replaced_and_outside_a_notebook_nothing_happens():
    shell = Shell()
    shell.custom_exceptions = (KeyError,)
    lab.explain_missing_names(shell)
    assert shell.custom_exceptions == (KeyError,)
    lab.explain_missing_names(None)
    assert "IPython" not in sys.modules or sys.modules["IPython"].get_ipython() is None
