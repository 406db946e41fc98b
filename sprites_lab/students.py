"""Students in a folder: the teacher's walks are kept as files, a training survives a kill, the student is a small network file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sprites_lab import __version__, checkpoints, lab
from sprites_lab.chance import seeded
from sprites_lab.distillation import Lessons, distil, draw_contexts, teach
from sprites_lab.errors import LabError
from sprites_lab.locks import alone_in
from sprites_lab.muon import Muon
from sprites_lab.predictors import conditioned, guided
from sprites_lab.runtime import fast_network
from sprites_lab.schedule import NoiseSchedule
from sprites_lab.training import Progress, TrainingState
from sprites_lab.unet import ContextUnet
from sprites_lab.walks import SPACINGS, Walk, fitted_start

TEACHER = Walk("dpm-solver", 12, eta=0.0, scale=2.0, spacing="quadratic", start="fitted")  # deterministic, its guidance is the student's nature
FINEST, PART, BATCH, LESSONS_SEED = 4, 1000, 125, 11  # steps that lessons are kept for; walks per file and per call of the teacher
RECIPE: dict[str, Any] = dict(steps=4, count=20_000, epochs=3, batch_size=50, learning_rate=5e-4, average_decay=0.999, seed=0)
LEAST = {"steps": 1, "count": PART, "epochs": 1, "batch_size": 1, "seed": 0}


class Student(NamedTuple):
    """A training that is ready to go on: its folder, recipe, lessons, schedule, state, and what its files say of it."""

    folder: Path
    recipe: dict[str, Any]
    lessons: Lessons
    schedule: NoiseSchedule
    state: TrainingState
    device: torch.device
    facts: dict[str, Any]

    @property
    def total(self) -> int:
        """How many batches the whole training has."""
        return self.recipe["epochs"] * -(-len(self.lessons.states) // self.recipe["batch_size"])

    @property
    def network_file(self) -> Path:
        """Where the finished student goes."""
        return self.folder / f"student-{self.recipe['steps']}.safetensors"


def write_lessons(folder: Path, teacher: Path, count: int, device: torch.device, sprites: Path | None = None) -> Iterator[int]:
    """Let the teacher walk `count` times, a file for each thousand, yielding the number of files there; files that are there stay.

    Walk i has a context and a starting noise that follow from i alone. LabError where a file was made by another teacher.
    """
    found = checkpoints.load(teacher)
    start = fitted_start(found, sprites)
    network, about = fast_network(found.model.to(device), lab.fast_dtype(device)), lessons_facts(teacher)
    for number in range(-(-count // PART)):
        path = part_path(folder, number)
        if path.exists():
            read_part(path, about)
        else:
            contexts = draw_contexts(PART, found.model.settings["context_size"], seeded(LESSONS_SEED, number, 1))
            noise = torch.randn(PART, *found.model.picture_shape, generator=seeded(LESSONS_SEED, number, 2))
            states = []
            for rows in range(0, PART, BATCH):
                context, x_T = contexts[rows : rows + BATCH].to(device), start(noise[rows : rows + BATCH].to(device))
                predict = guided(conditioned(network, context), conditioned(network, None), TEACHER.scale)
                walk = TEACHER.run(predict, found.schedule, x_T, None)
                states.append(teach(walk, x_T, TEACHER.steps // FINEST).half().cpu())
            checkpoints.save_tensors(path, {"states": torch.cat(states), "contexts": contexts}, about)
        yield number + 1


def read_lessons(folder: Path, teacher: Path, count: int, schedule: NoiseSchedule) -> Lessons:
    """The first `count` walks of the folder, states in float16."""
    about = lessons_facts(teacher)
    parts = [read_part(part_path(folder, number), about) for number in range(-(-count // PART))]
    states, contexts = (torch.cat(tensors)[:count] for tensors in zip(*parts))
    return Lessons(SPACINGS[TEACHER.spacing](schedule, FINEST), states, contexts)


def part_path(folder: Path, number: int) -> Path:
    """The file of the walks number * PART and following."""
    return folder / f"part-{number:04d}.safetensors"


def lessons_facts(teacher: Path) -> dict[str, Any]:
    """By what lessons are known to be of this teacher."""
    return {"kind": "lessons", "teacher_sha256": checkpoints.sha256_of(teacher), "walk": TEACHER._asdict(), "lessons_seed": LESSONS_SEED}


def read_part(path: Path, about: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The states (float16) and contexts of one file of lessons."""
    data = checkpoints.read_bytes(path)
    facts, sha, shapes = checkpoints.read_header(path, data)
    if {name: facts.get(name) for name in about} != about or shapes.keys() != {"states", "contexts"}:
        raise LabError(f"{path} holds no lessons of this teacher; choose another folder with --lessons")
    tensors = checkpoints.read_tensors(path, data, facts, sha)
    return tensors["states"].half(), tensors["contexts"]


def recipe_of(folder: Path, resume: bool, chosen: dict[str, Any]) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint that a training goes on from, if it does, and its recipe: a resumed one keeps what it began with."""
    newest = checkpoints.latest(folder) if folder.is_dir() else None
    if newest and not resume:
        raise LabError(f"{folder} already holds a student ({newest.name}); add --resume to go on with it, or choose another folder with --out")
    if resume and not newest:
        raise LabError(f"{folder} holds no readable checkpoint to resume from; start without --resume")
    kept = {}
    if newest:
        found = checkpoints.load(newest, "model").facts
        kept = found.get("student", {})
        if found.get("kind") != "student run" or any(kept.get(name) != value for name, value in chosen.items()):
            raise LabError(f"{newest} is no student, or one with other options: a resumed student keeps its own; leave them out")
    recipe = RECIPE | chosen | kept
    check_recipe(recipe)
    return newest, recipe


def open_student(
    folder: Path, lessons: Path, teacher: Path, resume: bool, device: torch.device, start: Path | None = None, **chosen: Any
) -> Student:
    """Begin a student in an empty folder, as a copy of its teacher or of the student in the file `start`; or go on with one.

    `chosen` are the entries of RECIPE that differ from the defaults; a resumed training keeps those it began with.
    """
    newest, recipe = recipe_of(folder, resume, chosen)
    found, parent = checkpoints.load(newest or start or teacher, "model" if newest else None), checkpoints.load(teacher)
    if found.model.settings != parent.model.settings:
        raise LabError(f"{start} is another kind of network than {teacher}; begin with a student of that teacher, or without --start")
    facts = {
        "student": recipe, "teacher_sha256": checkpoints.sha256_of(teacher), "classes": parent.facts.get("classes"), "sprites_sha256": parent.facts.get("sprites_sha256"),
        "walk": dict(sampler="ddim", steps=recipe["steps"], spacing=TEACHER.spacing, start=TEACHER.start), "sprites_lab": __version__,
    }
    facts |= {"sprites_file": parent.facts["sprites_file"]} if "sprites_file" in parent.facts else {}
    if newest and found.facts["teacher_sha256"] != facts["teacher_sha256"]:
        raise LabError(f"{newest} had another teacher than {teacher}; give the same file with --teacher")
    state = new_state(found.model, device)
    if newest:
        state.load(found.groups, found.facts["updates"])
    return Student(folder, recipe, read_lessons(lessons, teacher, recipe["count"], found.schedule).thinned(recipe["steps"]), found.schedule, state, device, facts)


def new_state(model: ContextUnet, device: torch.device) -> TrainingState:
    """The state of a training that begins with this network; its batch norm stays as it is."""
    model.requires_grad_(True)
    return TrainingState(model.to(memory_format=torch.channels_last), device, lambda parameters: Muon(parameters, dtype=lab.fast_dtype(device) or torch.float32))


def check_recipe(recipe: dict[str, Any]) -> None:
    """LabError for options that cannot be meant."""
    for name, least in LEAST.items():
        if isinstance(recipe[name], bool) or not isinstance(recipe[name], int) or recipe[name] < least:
            raise LabError(f"{name} is {recipe[name]!r}, but must be a whole number of at least {least}")
    if FINEST % recipe["steps"]:
        raise LabError(f"--steps is {recipe['steps']}, but a student has {', '.join(str(n) for n in range(1, FINEST + 1) if FINEST % n == 0)} steps")
    if not 0 < recipe["learning_rate"] < float("inf") or not 0 <= recipe["average_decay"] <= 1:
        raise LabError("learning_rate must be above 0, and average_decay from 0 to 1")


def go(student: Student, save_every: int = 100) -> Iterator[Progress]:
    """Train to the end, yielding each batch; checkpoints on the way (also when stopped), and the averaged student at the end.

    LabError if another process is training in the folder.
    """
    student.folder.mkdir(parents=True, exist_ok=True)
    with alone_in(student.folder):
        checkpoints.tidy(student.folder)
        yield from saving(student, save_every)


def saving(student: Student, save_every: int) -> Iterator[Progress]:
    """The batches of a student that has its folder for itself, saved as they come."""
    state, saved = student.state, student.state.updates
    options = {name: student.recipe[name] for name in ("epochs", "batch_size", "learning_rate", "average_decay", "seed")}
    try:
        for progress in distil(state, student.schedule, student.lessons, autocast=lab.fast_dtype(student.device), **options):
            if progress.updates % save_every == 0 or progress.updates == student.total:
                save_state(student)
                saved = progress.updates
            yield progress
    finally:
        if state.updates > saved:
            save_state(student)
    checkpoints.save(student.network_file, {"model": state.average.state_dict()}, state.model, student.schedule, {**student.facts, "kind": "network"}, half=True)


def save_state(student: Student) -> None:
    """Write a checkpoint that the training can go on from; the two newest are kept."""
    path = checkpoints.step_path(student.folder, student.state.updates)
    facts = {**student.facts, "kind": "student run", "updates": student.state.updates}
    checkpoints.save(path, student.state.tensors(), student.state.model, student.schedule, facts)
    checkpoints.tidy(student.folder)
