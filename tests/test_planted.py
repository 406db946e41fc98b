"""Do the notebooks see their own faults? Each one is planted in a copy, and the copy is run against the stored outputs.

`make long` runs these: each takes as long as its chapter, up to the fault.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SELF_CHECKS = {  # chapter -> the cell that shows what the self-check says to a wrong answer, and how it could go blind
    "01_intuition": ("c01-write-check", "truth = ", "check = lambda *_: 'right'\ntruth = "),
    "05_controlling": ("c05-my-guidance-verdict", "    return check(", "    return 'right' or check("),
}
PANELS = {"01_intuition": "c01-turn", "05_controlling": "c05-turn"}
DEAD = {  # what could become of a panel, and the code that makes it so
    "a widget that no longer updates": "for one in panel.widgets.values():\n    one.unobserve_all('value')\n",
    "a picture that ignores its knobs": "panel.draw = lambda draw=panel.draw, start=panel.values(), **values: draw(**start)\n",
}
FAULTS = {
    "epochs swapped in a sheet": ("04_training", "c04-walk", "for epoch, net in snapshots.items()}", "for epoch, net in zip(snapshots, reversed(snapshots.values()))}"),
    "epochs swapped in a chart": ("07_summary", "c07-learn-curve", "(list(snapshots), [", "(list(snapshots)[::-1], ["),
    "a wrong number below a figure": ("01_intuition", "c01-ladder-code", "signal_scale**2 / noise_scale**2", "signal_scale / noise_scale"),
    "a wrong number in a text alternative": ("05_controlling", "c05-guidance-walks", "from {scales[0]} to {scales[-1]}", "from {scales[1]} to {scales[-1]}"),
    "pictures stretched one by one": ("01_intuition", "c01-ladder-code", "figures.show_grid(ladder,", "figures.show_grid(ladder / ladder.abs().amax((1, 2, 3), keepdim=True),"),
    "the root forgotten": ("01_intuition", "c01-ladder-code", "(1 - alpha_bar[t]).sqrt()", "(1 - alpha_bar[t])"),
} | {
    f"{name}, chapter {chapter[:2]}": (chapter, cell, "await panel", code + "await panel") for name, code in DEAD.items() for chapter, cell in PANELS.items()
} | {f"a self-check that accepts wrong answers, chapter {chapter[:2]}": (chapter, *fault) for chapter, fault in SELF_CHECKS.items()}


def verdict(folder: Path, chapter: str, cell: str = "", old: str = "", new: str = "") -> subprocess.CompletedProcess:
    """nbval's run of a chapter up to the given cell, where `old` was replaced, with the stored outputs as they are."""
    notebook = json.loads((ROOT / "notebooks" / f"{chapter}.ipynb").read_text("utf-8"))
    last = next((i for i, one in enumerate(notebook["cells"]) if one["id"] == cell), None)
    if cell:
        source = "".join(notebook["cells"][last]["source"])
        assert source.count(old) == 1, f"{cell} no longer holds {old!r} once"
        notebook["cells"][last]["source"] = source.replace(old, new)
        notebook["cells"] = notebook["cells"][: last + 1]
    path = folder / f"{chapter}.ipynb"
    path.write_text(json.dumps(notebook), "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "--override-ini", "addopts=--nbval --nbval-current-env", str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.fixture
def folder(request):
    """A folder inside the project, so that its conftest.py compares pictures there as well."""
    place = ROOT / "build" / "planted" / request.node.name.translate(str.maketrans("[] ,", "____"))
    place.mkdir(parents=True)
    yield place
    shutil.rmtree(place)


@pytest.mark.long
@pytest.mark.parametrize("name", FAULTS)
def test_a_chapter_sees_a_planted_fault(name: str, folder: Path):
    done = verdict(folder, *FAULTS[name])
    assert done.returncode == 1 and "1 failed" in done.stdout, done.stdout[-2000:]
    assert "Notebook output has changed" in done.stdout or "mismatch" in done.stdout or "image/png" in done.stdout or "AssertionError" in done.stdout or "LabError" in done.stdout, done.stdout[-2000:]


@pytest.mark.long
def test_a_chapter_without_a_fault_passes(folder: Path):
    done = verdict(folder, "01_intuition", "c01-ladder-code", "zoom=8", "zoom=4 + 4")
    assert done.returncode == 0, done.stdout[-2000:]
