"""The parameters of the chapters: other values in all of them run from top to bottom, and values out of range end in a sentence."""

import ast
import asyncio
import json
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from sprites_lab import LabError

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
FRESH = {"c03-quiz-1-truth", "c07-truth-2"}  # cells that count the parameters of new networks, which start from the global chance
LOW, OTHER = {}, {}  # chapter -> values for nearly all of its parameters: the least that its comments allow, and others

LOW["01_intuition"] = dict(
    seed=1, kind="apple", per_class=1, timesteps=100, beta_start=1e-3, beta_end=0.1, levels={"clean": 0, "gone": 100},
    thoughts={"a little": 1, "all": 100}, meter_every=100, draws=1, hundred=64, amplify=1, frame_every=100, walkers=1, slip_t=[1], drops=1,
)
OTHER["01_intuition"] = dict(
    seed=12345, kind="heart", per_class=11, timesteps=333, beta_start=2e-4, beta_end=0.03, levels={"a": 7, "b": 100, "c": 222, "d": 332, "e": 333},
    thoughts={"one": 250}, meter_every=40, draws=5, hundred=150, amplify=3, frame_every=70, walkers=7, slip_t=[20, 90, 333], drops=40,
)
LOW["02_sampling"] = dict(
    seed=1, count=2, noise_amount=0, look_at=2, magnify=1, moments=[0], patch=1, near=0.01, many=12, few_steps=[1], tiny=1, frame_every=500,
    dial=[0], dialled=2, streams=1, restarts=[1], restart_steps=1, compare_at=[2],
)
OTHER["02_sampling"] = dict(
    seed=99, count=3, noise_amount=1.5, look_at=500, magnify=9, moments=[499, 333, 1], patch=16, near=0.5, many=13, few_steps=[7, 30], tiny=7,
    frame_every=33, dial=[1.1], dialled=2, streams=13, restarts=[77, 500], restart_steps=37, compare_at=[3, 499],
)
LOW["03_network"] = dict(
    seed=1, timestep=1, lies=[1], told=[1], truths=[1], pictures=2, levels=[1], magnify=1, walkers=1, num_steps=1, asked=[1], gaps=[1], shown=1, crowd=2,
    pixel=(0, 0), footprints=[1],
)
OTHER["03_network"] = dict(
    seed=99, timestep=500, lies=[3, 77, 499], told=[10, 333, 500], truths=[77, 500], pictures=7, levels=[9, 77, 333, 500], magnify=3, walkers=3, num_steps=7,
    asked=[1, 33, 500], gaps=[3, 499], shown=64, crowd=5, pixel=(15, 2), footprints=[3, 500],
)
LOW["04_training"] = dict(
    seed=1, pictures=5, count=5, num_steps=1, drawn=5, walk=1, hat_level=1, levels=[1, 500], features=8, small_set=8, epochs=1, batch_size=1, every=1,
    draws=1, told=[1, 2], twin_steps=[1], half=1, sizes=(2, 3), copy_updates=8, copy_batch=2, copy_rate=0.001,
    late_updates=12, late_batch=2,
)
OTHER["04_training"] = dict(
    seed=99, pictures=9, count=11, num_steps=7, drawn=12, walk=3, hat_level=500, levels=[7, 33, 123, 251, 499], features=24, small_set=50, epochs=2, batch_size=7,
    every=3, draws=11, told=[77, 123, 499], twin_steps=[3, 7, 11], half=3, sizes=(3, 17, 33, 60), copy_updates=24, copy_batch=7,
    copy_rate=0.005, late_updates=13, late_batch=3,
)
LOW["05_controlling"] = dict(
    seed=1, pictures=4, num_steps=1, eta=0, first="food", second="hero", shares=[0], asked="spell", scales=[1], counted=4, groups=2, crowd=1, examined=5,
    looks=1, look_between=(1, 1), head=1, repeats=1, strokes=[(0, 1, 0, 1, (1, 1, 1))], stirred=[20], push=1, middle=(1, 1),
)
OTHER["05_controlling"] = dict(
    seed=99, pictures=5, num_steps=7, eta=0.3, first="spell", second="side-facing", shares=[0, 0.3, 1], asked="hero", scales=[0.5, 3], counted=11, groups=5,
    crowd=7, examined=13, looks=3, look_between=(77, 500), head=15, repeats=2, strokes=[(0, 16, 0, 16, (-1, -1, -1)), (3, 4, 3, 9, (0, 1, 0))],
    stirred=[33, 500], push=2.5, middle=(100, 333),
)
LOW["06_speeding_up"] = dict(
    seed=1, pictures=4, num_steps=1, t=2, t_next=1, timed=1, clocked=1, repeats=1, uneven=[1], steps=[1, 2], groups=2, crowd=5, pair=(0, 1), stops=1, pairs=4, etas=[0],
    there=[1], partner="frog", calls_of_ten=1, placed=5, raced=1,
)
OTHER["06_speeding_up"] = dict(
    seed=99, pictures=5, num_steps=7, t=500, t_next=0, timed=2, clocked=77, repeats=2, uneven=[3, 77, 250, 499], steps=[3, 7, 20], groups=4, crowd=15, pair=(4, 1), stops=5,
    pairs=8, etas=[0.2, 0.7], there=[7, 33], partner="heart", calls_of_ten=13, placed=7, raced=2,
)
LOW["07_summary"] = dict(
    seed=1, levels=[1], measured=1, per_class=1, num_steps=1, eta=0, few_levels=2, priced=2, scores={"recall": 1}, yardsticks=("noise",), timed=1, repeats=1,
    looked_at=1, pairs_shown=1, audited=3, compared=3, told=1, wishes=("food", "food"), uneven=1, kinds=("frog",), own_epochs=1,
)
OTHER["07_summary"] = dict(
    seed=99, levels=[7, 77, 333, 500], measured=7, per_class=5, num_steps=7, eta=0.4, few_levels=7, priced=3, scores={"fd_train": 2, "coverage": 3},
    yardsticks=("noise", "blurred"), timed=3, repeats=2, looked_at=11, pairs_shown=7, audited=7, compared=77, told=500, wishes=("side-facing", "spell"),
    uneven=499, kinds=("apple", "heart"), own_epochs=2,
)


def turned(source: str, knobs: dict[str, object]) -> str:
    """The parameters cell with other values: each set anew right after the statement that sets it, which must be there."""
    lines, left = [], dict(knobs)
    for statement in ast.parse(source).body:
        named = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        lines += [ast.unparse(statement), *(f"{name} = {left.pop(name)!r}" for name in sorted(named & set(left)))]
    assert not left, f"the parameters cell has no {', '.join(left)}"
    return "\n".join(lines)


def run(chapter: str, knobs: dict[str, object]) -> None:
    """Execute the code cells from top to bottom; an exception carries the id of its cell as a note."""
    cells = [cell for cell in json.loads((NOTEBOOKS / f"{chapter}.ipynb").read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    namespace: dict[str, object] = {"__name__": "__main__"}
    for cell in cells:
        source = "".join(cell["source"])
        if "parameters" in cell["metadata"].get("tags", []):
            source = turned(source, knobs)
        try:
            with torch.random.fork_rng(devices=[]) if cell["id"] in FRESH else nullcontext():
                waits = eval(compile(source, cell["id"], "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), namespace)
                if waits is not None:  # a coroutine, as IPython would run it
                    asyncio.run(waits)
        except Exception as error:
            error.add_note(f"in cell {cell['id']} of {chapter}")
            raise


BAD = {  # chapter -> (a parameter, a value that cannot be meant, what the sentence says)
    "01_intuition": [
        ("per_class", 0, "per_class is 0,"), ("seed", -1, "seed is -1,"), ("kind", "toaster", "no kind 'toaster'"), ("timesteps", 0, "timesteps is 0,"),
        ("levels", {"too far": 101}, "an entry of levels is 101,"), ("slip_t", [], "slip_t is [],"), ("beta_end", 2, "beta_end is 2,"), ("draws", 1.5, "draws is 1.5,"),
    ],
    "02_sampling": [
        ("count", 0, "count is 0,"), ("seed", -1, "seed is -1,"), ("moments", [501], "an entry of moments is 501,"), ("few_steps", [501], "an entry of few_steps is 501,"),
        ("noise_amount", -1, "noise_amount is -1,"), ("restart_steps", 2, "restart_steps is 2, but must be a whole number from 1 to 1"), ("frame_every", 0, "frame_every is 0,"),
    ],
    "03_network": [
        ("pictures", 0, "pictures is 0,"), ("seed", -1, "seed is -1,"), ("timestep", 501, "timestep is 501,"), ("num_steps", 501, "num_steps is 501,"),
        ("pixel", (8, 16), "an entry of pixel is 16,"), ("gaps", [500], "an entry of gaps is 500,"),
    ],
    "04_training": [
        ("pictures", 0, "pictures is 0,"), ("seed", -1, "seed is -1,"), ("num_steps", 501, "num_steps is 501,"), ("hat_level", 501, "hat_level is 501,"),
        ("features", 9, "features is 9,"), ("copy_updates", 7, "copy_updates is 7,"), ("told", [100], "told is [100],"), ("batch_size", 0, "batch_size is 0,"),
    ],
    "05_controlling": [
        ("pictures", 0, "pictures is 0,"), ("seed", -1, "seed is -1,"), ("asked", "dragon", "no class 'dragon'"), ("num_steps", 501, "num_steps is 501,"),
        ("look_between", (1, 501), "an entry of look_between is 501,"), ("eta", 2, "eta is 2,"), ("head", 16, "head is 16,"), ("scales", ["more"], "an entry of scales is 'more',"),
    ],
    "06_speeding_up": [
        ("pictures", 0, "pictures is 0,"), ("seed", -1, "seed is -1,"), ("num_steps", 501, "num_steps is 501,"), ("t", 501, "t is 501,"),
        ("uneven", [501], "an entry of uneven is 501,"), ("pair", (0, 4), "an entry of pair is 4,"), ("etas", [0, -1], "an entry of etas is -1,"), ("partner", "toaster", "no kind 'toaster'"),
    ],
    "07_summary": [
        ("per_class", 0, "per_class is 0,"), ("seed", -1, "seed is -1,"), ("levels", [501], "an entry of levels is 501,"), ("num_steps", 501, "num_steps is 501,"),
        ("yardsticks", ("hope",), "no yardstick 'hope'"), ("yardsticks", (), "yardsticks is (),"), ("wishes", ("food",), "wishes is ('food',), but must hold 2"), ("kinds", "mage", "kinds is 'mage', but"), ("scores", {"beauty": 1}, "no score 'beauty'"), ("kinds", ("frog", "toaster"), "no kind 'toaster'"), ("own_epochs", 0, "epochs is 0,"),
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a chapter writes goes with the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.long
@pytest.mark.parametrize("chapter", sorted(LOW))
@pytest.mark.parametrize("setting", [LOW, OTHER], ids=["low", "other"])
def test_a_chapter_runs_with_other_values_in_all_of_its_parameters(setting: dict[str, dict[str, object]], chapter: str):
    run(chapter, setting[chapter])


@pytest.mark.long
@pytest.mark.parametrize("chapter, name, value, said", [(chapter, *case) for chapter, cases in BAD.items() for case in cases])
def test_a_value_that_cannot_be_meant_ends_in_a_sentence_that_names_it(chapter: str, name: str, value: object, said: str):
    with pytest.raises(LabError) as caught:
        run(chapter, LOW[chapter] | {name: value})
    sentence = str(caught.value)
    assert said in sentence and "\n" not in sentence


@pytest.mark.long
def test_a_name_that_a_parameters_cell_does_not_set_fails():
    with pytest.raises(AssertionError, match="the parameters cell has no per_clas"):
        run("01_intuition", {"per_clas": 1})
