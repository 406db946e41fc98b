"""What a notebook or a command needs around the algorithms: device, scale, starting noise, progress bars, shipped weights."""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor

from sprites_lab import checkpoints, classifier, original_lab
from sprites_lab.chance import numbered
from sprites_lab.errors import LabError
from sprites_lab.settings import check_number, check_whole, shown

T = TypeVar("T")
WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
FINAL = WEIGHTS / "sprites.safetensors"
CLASSIFIER = WEIGHTS / "classifier.safetensors"
SNAPSHOTS = (0, 4, 8, 31)
STUDENTS = (4, 2, 1)
TWINS = ("root", "slip")  # trained with the root of the noise scale, and without it


def static() -> bool:
    """Whether outputs are for a page (tests, book) and not for a person at the keyboard: no bars, no widgets."""
    return os.environ.get("SPRITES_LAB_STATIC") == "1"


def scale(quick: T, full: T) -> T:
    """One of two settings, chosen by the environment variable SPRITES_LAB_SCALE (quick or full; quick by default)."""
    name = os.environ.get("SPRITES_LAB_SCALE", "quick")
    if name not in ("quick", "full"):
        raise LabError(f"SPRITES_LAB_SCALE is '{name}', but must be quick or full")
    return full if name == "full" else quick


def check_range(least: float, most: float, *, entries: int = 1, **settings: Any) -> None:
    """LabError, with the name, for a setting of a notebook that is no number from least to most; a whole one, unless `least` is a float.

    A setting may also be a list, tuple or dict of such numbers, `entries` of them or more.
    """
    check = check_number if isinstance(least, float) else check_whole
    for name, value in settings.items():
        several = isinstance(value, list | tuple | dict)
        if several and len(value) < entries:
            raise LabError(f"{name} is {shown(value)}, but must hold numbers from {least:g} to {most:g}, {entries} or more")
        for number in value.values() if isinstance(value, dict) else value if several else [value]:
            check(f"an entry of {name}" if several else name, number, least, most)


def check_names(least: int, **settings: Any) -> None:
    """LabError, with its name, for a setting of a notebook that is no list or tuple of names, `least` of them or more."""
    for name, value in settings.items():
        if not isinstance(value, list | tuple) or len(value) < least or not all(isinstance(one, str) for one in value):
            raise LabError(f"{name} is {shown(value)}, but must hold {least} or more names, such as ('one', 'another')")


def pick_device(name: str = "auto") -> torch.device:
    """The device to work on: cuda, mps or cpu by name, or the best one here for "auto"."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, available in there.items() if available))
    try:
        kind = torch.device(name).type
    except RuntimeError:
        kind = ""
    if kind not in there:
        raise LabError(f"there is no device '{name}'; choose auto, cpu, cuda or mps")
    if not there[kind]:
        raise LabError(f"--device {name}: this computer has no usable {kind}; use --device cpu (or auto)")
    return torch.device(name)


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the device multiplies it faster than float32, else None (for the argument `autocast`)."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    # a CPU without instructions for bfloat16 is far slower with it
    has = [getattr(torch.cpu, name, bool) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")]
    usable = torch.backends.cpu.get_cpu_capability() == "AVX512"  # the environment may ask torch to do without them
    return torch.bfloat16 if device.type == "cpu" and usable and any(there() for there in has) else None


def picture_generator(seed: int, number: int) -> torch.Generator:
    """The CPU generator of picture `number`: its noise depends on (seed, number) alone, in any batch."""
    return numbered(seed, number)


def starting_noise(count: int = 32, seed: int = 0, size: int = 16, device: torch.device | str = "cpu") -> Tensor:
    """x_T, the standard normal noise (count, 3, size, size) that all chapters start from; the same on every device."""
    count, seed, size = check_whole("count", count, 1, 100_000), check_whole("seed", seed, 0, 2**40), check_whole("size", size, 1, 256)
    return torch.stack([torch.randn(3, size, size, generator=picture_generator(seed, i)) for i in range(count)]).to(device)


def load_weights(path: str | Path = FINAL, device: torch.device | str = "cpu") -> checkpoints.Checkpoint:
    """A trained network with its schedule: the shipped final one, any file of ours, or one of the original course (.pth)."""
    found = original_lab.load_course_weights(path) if Path(path).suffix.lower() == ".pth" else checkpoints.load(path)
    found.model.to(device)
    return found


def load_judge(path: str | Path = CLASSIFIER, device: torch.device | str = "cpu") -> classifier.Judge:
    """The shipped classifier, which names the kind and the class of finished sprites; or any file of `train-classifier`."""
    return classifier.load_classifier(path, device)


def load_snapshot(epoch: int, device: torch.device | str = "cpu") -> checkpoints.Checkpoint:
    """The shipped network as it was after epoch 0, 4, 8 or 31 of its training."""
    return shipped("snapshot of epoch {}", "epoch-{:02d}", SNAPSHOTS, epoch, device)


def load_student(steps: int, device: torch.device | str = "cpu") -> checkpoints.Checkpoint:
    """The shipped network that draws in 4, 2 or 1 steps of `ddim`, with `spacing.quadratic`, from the fitted start."""
    return shipped("student of {} steps", "student-{}", STUDENTS, steps, device)


def load_twin(name: str, device: torch.device | str = "cpu") -> checkpoints.Checkpoint:
    """One of two small networks that were trained alike: the one without the root on noise of the wrong strength (chapter 4)."""
    return shipped("twin '{}'", "twin-{}", TWINS, name, device)


def shipped(what: str, file: str, there: Sequence[T], wanted: T, device: torch.device | str) -> checkpoints.Checkpoint:
    """One of the shipped networks; LabError if it is not among those that are `there`."""
    if wanted not in there:
        raise LabError(f"there is no {what.format(wanted)}; there are: {', '.join(map(str, there))}")
    return load_weights(WEIGHTS / f"{file.format(wanted)}.safetensors", device)


def load_card(name: str) -> Any:
    """What was measured of a shipped network (weights/<name>.json, written by `evaluate`), or with all levers ("ablation")."""
    path = WEIGHTS / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        names = ", ".join(sorted(card.stem for card in WEIGHTS.glob("*.json"))) or "none"
        raise LabError(f"there is no readable card {path}; there are: {names}") from error


def progress(steps: Iterable[T], total: int | None = None, label: str = "") -> Iterator[T]:
    """Pass the steps through with a progress bar: live at a keyboard, silent where outputs are stored."""
    from tqdm.auto import tqdm

    return iter(tqdm(steps, total=total, desc=label, leave=False, disable=static()))


@contextmanager
def patient() -> Iterator[list[bool]]:
    """Let Ctrl-C and SIGTERM wait: as long as this lasts they are only noted down, in the list. Off the main thread nothing changes."""
    asked: list[bool] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, lambda *_: asked.append(True)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in reversed(before.items()):  # SIGINT last: from then on Ctrl-C is felt again
            signal.signal(number, handler)


def whole_steps(steps: Iterator[T]) -> Iterator[T]:
    """Pass the steps through so that Ctrl-C (or SIGTERM) waits for the step that is running: what was reported is never half done."""
    with closing(steps):  # whoever is stopped gets its last work done before the KeyboardInterrupt is seen
        while True:
            with patient() as asked:
                step = next(steps, None)
            if step is not None:
                yield step
            if asked:
                raise KeyboardInterrupt
            if step is None:
                return


def explain_missing_names(shell: Any) -> None:
    """Let a notebook say, when a cell needs a name that no cell has made so far, that the cells above should run first."""
    if shell is not None and not shell.custom_exceptions:
        shell.set_custom_exc((NameError,), show_missing_name)


def show_missing_name(shell: Any, kind: type[NameError], error: NameError, trace: TracebackType, tb_offset: int | None = None) -> None:
    """Show a NameError as ever, with a sentence on what to do if the name is one that a cell should have made."""
    last = trace
    while last.tb_next:
        last = last.tb_next
    if kind is NameError and error.name and last.tb_frame.f_globals is shell.user_ns:
        error.args = (f"{error}. No cell that ran so far has made it: choose Run > Run All Above Selected Cell, or check the spelling",)
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset, running_compiled_code=True)


if "IPython" in sys.modules:  # in a notebook every chapter imports this module first; elsewhere nothing happens
    explain_missing_names(sys.modules["IPython"].get_ipython())
