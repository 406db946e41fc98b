"""Real kernels, treated as people treat them: stopped, killed, and given their cells in any order."""

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import ipykernel.kernelspec
import pytest
import torch
from jupyter_client.manager import KernelManager
from small import same_tensors, write_sprites

from sprites_lab import LabError, checkpoints, runs

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
ENVIRONMENT = os.environ | {"SPRITES_LAB_STATIC": "1", "SPRITES_LAB_SCALE": "quick", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
pytestmark = pytest.mark.slow


class Reply(NamedTuple):
    """What a cell came to: "" or the name of its error, what the error says, and a value that was asked for."""

    error: str
    sentence: str
    value: object


class Kernel:
    """A notebook kernel of this very Python."""

    def __init__(self, folder: Path):
        self.manager = KernelManager()
        self.manager.kernel_spec.argv = ipykernel.kernelspec.get_kernel_dict()["argv"]
        self.manager.start_kernel(cwd=str(folder), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        self.connect()

    def connect(self) -> None:
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def kill_and_restart(self) -> None:
        """As the system does when the memory is full, and then the reader."""
        os.kill(self.manager.provisioner.pid, signal.SIGKILL)
        self.client.stop_channels()
        self.manager.restart_kernel(now=True)
        self.connect()

    def end(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def send(self, code: str, value: str = "None") -> str:
        return self.client.execute(code, user_expressions={"value": value}, stop_on_error=False, allow_stdin=False)

    def reply(self, message: str, limit: float) -> Reply | None:
        """What came of a cell, None if it still runs after so many seconds."""
        until = time.monotonic() + limit
        while time.monotonic() < until:
            assert self.manager.is_alive(), "the kernel is dead"
            if self.client.shell_channel.msg_ready():
                answer = self.client.get_shell_msg(timeout=5)
                if answer["parent_header"].get("msg_id") == message:
                    content = answer["content"]
                    value = content.get("user_expressions", {}).get("value", {}).get("data", {}).get("text/plain", "None")
                    return Reply(content.get("ename", ""), content.get("evalue", ""), eval(value))
            time.sleep(0.002)
        return None

    def error_shown(self, code: str) -> tuple[str, str]:
        """The error among the outputs of a cell: where `jupyter execute` and nbval look for it."""
        message = self.send(code)
        while True:
            output = self.client.get_iopub_msg(timeout=30)
            if output["msg_type"] == "error" and output["parent_header"].get("msg_id") == message:
                return output["content"]["ename"], output["content"]["evalue"]

    def run(self, code: str, value: str = "None", stop_after: float = 60) -> Reply:
        """Run a cell; press the stop button after so many seconds, and again while nothing happens."""
        message = self.send(code, value)
        answer, presses = self.reply(message, stop_after), 0
        while answer is None:
            assert presses < 12, f"the kernel does not stop: {code}"
            self.manager.interrupt_kernel()
            answer, presses = self.reply(message, 5), presses + 1
        return answer


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    made = Kernel(tmp_path)
    yield made
    made.end()


# Training in a cell

UPDATES = 72
SETTINGS = dict(epochs=UPDATES // 3, features=8, batch_size=4, device="cpu", save_every=4)  # 12 sprites: 3 updates an epoch
IMPORTS = "from sprites_lab import runs"
CELL = f"history = runs.train_here('stopped', 'sprites.npz', **{SETTINGS})"
SEEN = "[tuple(progress) for progress in history]"


def wait_for(happened: Callable[[], object]) -> None:
    """Wait until something is true, a minute at most."""
    until = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < until, "nothing happened for a minute"
        time.sleep(0.01)


def saved(folder: Path) -> int:
    """How many updates the newest checkpoint of a run has."""
    return max((int(path.stem[5:]) for path in checkpoints.steps_in(folder)), default=0)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple]]:
    """The folder and the history of a run that nobody disturbed."""
    place = tmp_path_factory.mktemp("straight")
    history = runs.train_here(place / "run", write_sprites(place / "sprites.npz"), **SETTINGS)
    return place / "run", [tuple(progress) for progress in history]


def same_end(folder: Path, other: Path) -> bool:
    """Whether two runs ended with the same state and the same network, bit for bit."""
    names = checkpoints.step_path(folder, UPDATES).name, runs.FINAL
    return all(same_tensors(*(checkpoints.load(place / name).groups for place in (folder, other))) for name in names)


def test_ten_interrupts_at_random_moments_lose_nothing(kernel, tmp_path, straight):
    write_sprites(tmp_path / "sprites.npz")
    assert kernel.run(IMPORTS + "\nhistory = []").error == ""
    chance, lengths = random.Random(0), [0]
    for _ in range(10):
        answer = kernel.run(CELL, SEEN, stop_after=0.02 + 0.3 * chance.random())
        if answer.error:  # so early that training had not begun: the history is still the one of before
            assert answer.error == "KeyboardInterrupt", answer
            answer = kernel.run("", SEEN)
        assert answer.value == straight[1][: len(answer.value)] and len(answer.value) >= lengths[-1]
        lengths.append(len(answer.value))
    assert len(set(lengths)) > 5 and lengths[-1] < UPDATES, lengths
    assert kernel.run(CELL, SEEN).value == straight[1] and same_end(tmp_path / "stopped", straight[0])


def test_five_killed_kernels_lose_nothing_that_was_saved(kernel, tmp_path, straight):
    write_sprites(tmp_path / "sprites.npz")
    chance, losses, before = random.Random(1), [loss for _, _, loss, *_ in straight[1]], 0
    for number in range(5):
        assert kernel.run(IMPORTS).error == ""
        kernel.send(CELL)
        if number:  # the first is killed before it gets anywhere
            wait_for(lambda: saved(tmp_path / "stopped") > before)
        time.sleep(0.3 * chance.random())
        kernel.kill_and_restart()
        assert before <= saved(tmp_path / "stopped") < UPDATES
        before = saved(tmp_path / "stopped")
        if newest := checkpoints.latest(tmp_path / "stopped"):
            assert checkpoints.load(newest).groups["history"]["loss"].tolist() == losses[:before]
    assert before > 0 and kernel.run(IMPORTS).error == ""
    assert kernel.run(CELL, SEEN).value == straight[1] and same_end(tmp_path / "stopped", straight[0])


def test_a_folder_in_which_a_notebook_trains_is_refused_until_it_is_stopped(kernel, tmp_path):
    endless, folder, sprites = SETTINGS | dict(epochs=1_000_000), tmp_path / "stopped", write_sprites(tmp_path / "sprites.npz")
    assert kernel.run(IMPORTS).error == ""
    message = kernel.send(CELL.replace(str(SETTINGS), str(endless)), "len(history)")
    wait_for(lambda: saved(folder))
    with pytest.raises(LabError, match=f"in use by process {kernel.manager.provisioner.pid}: wait"):
        runs.train_here(folder, sprites, **endless)
    kernel.manager.interrupt_kernel()
    done = kernel.reply(message, 60).value
    run = runs.open_run(folder, True, torch.device("cpu"), sprites)
    assert run.state.updates == len(run.history) == done > 0 and next(runs.go(run)).updates == done + 1


# Chapters, in any order

PATIENCE = 0.3  # seconds until a cell is stopped
SENTENCE = "Run > Run All Above Selected Cell"
WARM = "from sprites_lab import charts, evaluation; charts.show_lines({'a': ([0, 1], [0, 1])}, 'x', 'y', alt='a')"
ALLOWED = {  # what else may happen, in 2 cells of 70 orders with 902 cells
    ("c07-museum-gallery", "RuntimeError"),  # the gallery is still empty
}


def orders(count: int) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Chapters with their code cells as someone in a hurry runs them: a few from the top, then here and there."""
    chance, chapters = random.Random(2), sorted(NOTEBOOKS.glob("*.ipynb"))
    for number in range(count):
        path = chapters[number % len(chapters)]
        cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
        first = chance.choice([1, 2, 4, 8])
        order = [*cells[:first], *chance.choices(cells[1:], k=8)]
        yield path.stem, [(cell["id"], "".join(cell["source"])) for cell in order]


def test_twenty_random_orders_of_cells_end_in_clear_sentences():
    kernel, faults, seen = Kernel(NOTEBOOKS), [], Counter()
    try:
        kernel.run(WARM)  # an import that is stopped halfway stays half done until the kernel is restarted
        assert kernel.error_shown("nobody_made_this") == kernel.run("nobody_made_this")[:2], "a tool that reads outputs would see no error"
        for chapter, order in orders(20):
            assert kernel.run("%reset -f").error == ""
            stopped = False
            for name, code in order:
                answer = kernel.run(code, stop_after=60 if name == order[0][0] else PATIENCE)
                seen[answer.error] += 1
                stopped |= answer.error == "KeyboardInterrupt"  # from here on values may be half made
                clear = answer.error in ("", "LabError") or answer.error == "NameError" and SENTENCE in answer.sentence
                if not clear and not stopped and (name, answer.error) not in ALLOWED:
                    faults.append(f"{chapter}, {name}: {answer.error}: {answer.sentence}")
        assert not faults, "\n".join(faults)
        assert seen[""] > 40 and seen["NameError"] > 20, seen
    finally:
        kernel.end()
