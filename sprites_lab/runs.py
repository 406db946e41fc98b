"""A training run in a folder: checkpoints that survive a kill, resume, snapshots of some epochs, a log."""

import csv
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sprites_lab import __version__, checkpoints
from sprites_lab.data import SPRITES, SpriteSet, load_sprites
from sprites_lab.errors import LabError
from sprites_lab.lab import fast_dtype
from sprites_lab.recipes import recipe_called
from sprites_lab.schedule import NoiseSchedule
from sprites_lab.team import Team, share_batch_norm
from sprites_lab.training import Progress, TrainingState, check_recipe
from sprites_lab.unet import OPTIONS, ContextUnet

FINAL = "sprites.safetensors"
LOG_COLUMNS = ["updates", "epoch", "loss", "learning_rate", "seconds_since_start"]
RECIPE: dict[str, Any] = dict(
    epochs=32, batch_size=None, learning_rate=None, context_dropout=0.1, average_decay=0.999, seed=0, features=64, timesteps=500,
    precision="auto", start=None, recipe="course",
)

CHECKED = ("epochs", "batch_size", "learning_rate", "context_dropout", "average_decay", "seed")  # in the order of check_recipe


class Run(NamedTuple):
    """A run that is ready to go on: its folder, recipe, data, schedule and state."""

    folder: Path
    recipe: dict[str, Any]
    sprites: SpriteSet
    sprites_sha256: str
    schedule: NoiseSchedule
    state: TrainingState
    device: torch.device
    updates_before: int  # of the network that the run began with
    team: Team = Team()

    @property
    def updates_per_epoch(self) -> int:
        """How many updates go once through the training split."""
        return -(-len(self.sprites.train) // self.recipe["batch_size"])

    @property
    def total(self) -> int:
        """How many updates the whole run has."""
        return self.recipe["epochs"] * self.updates_per_epoch


def open_run(
    folder: str | Path, resume: bool, device: torch.device, sprites: str | Path | None = None, team: Team = Team(), **chosen: Any
) -> Run:
    """Start a run in an empty folder, or go on with the newest readable checkpoint of a folder.

    `chosen` are the entries of RECIPE that differ from the defaults; a resumed run keeps the recipe it began with. The workers
    of a team must all see the same files.
    """
    folder, path = Path(folder), Path(sprites or SPRITES)
    newest = newest_state(folder, resume)
    found, data = checkpoints.load(newest, "model") if newest else None, load_sprites(path)
    if found and not is_run(found):
        raise LabError(f"{newest} holds a network, not a run that can go on; begin a new run with --start {newest} and another --out")
    recipe = RECIPE | (continued_recipe(found.facts, chosen, newest) if found else chosen)
    sha = checkpoints.sha256_of(path)
    if found and found.facts["sprites_sha256"] != sha:
        raise LabError(f"{newest} was trained on other sprites than {path}; give the same file with --sprites, or start a new run")
    levers = recipe_called(recipe["recipe"])
    recipe |= {name: getattr(levers, name) for name in ("batch_size", "learning_rate") if recipe[name] is None}
    check_recipe(data.train.sprites, data.train.labels, *(recipe[name] for name in CHECKED))
    model, schedule, before = (found.model, found.schedule, found.facts.get("updates_before", 0)) if found else first_network(recipe, data)
    state = levers.state(share_batch_norm(model, team), device, autocast_of(recipe, device))
    if found:
        state.load(found.groups, found.facts["updates"])
    team.agree((recipe, sha, state.updates), "runs (recipe, SHA-256 of the sprites, updates)")
    team.share(len(data.train) % recipe["batch_size"] or recipe["batch_size"])  # the smallest batch has something for each worker, or a LabError
    return Run(folder, recipe, data, sha, schedule, state, device, before, team)


def newest_state(folder: Path, resume: bool) -> Path | None:
    """The checkpoint to go on from, if that is wanted; a LabError if the folder does not fit the wish."""
    newest = checkpoints.latest(folder) if folder.is_dir() else None
    if newest and not resume:
        raise LabError(f"{folder} already holds a run ({newest.name}); add --resume to go on with it, or choose another folder with --out")
    if resume and not newest:
        raise LabError(f"{folder} holds no readable checkpoint to resume from; start without --resume")
    if (folder / FINAL).exists() and not resume:
        raise LabError(f"{folder} already holds a finished network ({FINAL}); choose another folder with --out")
    return newest


def is_run(found: checkpoints.Checkpoint) -> bool:
    """Whether a file holds all that a run needs to go on."""
    facts = {"recipe", "sprites_sha256", "updates"} <= found.facts.keys() and found.facts.get("kind") == "run"
    same = {name: tensor.shape for name, tensor in found.groups["model"].items()}
    return facts and "optimizer" in found.groups and {name: t.shape for name, t in found.groups.get("average", {}).items()} == same


def continued_recipe(facts: dict[str, Any], chosen: dict[str, Any], path: Path) -> dict[str, Any]:
    """The recipe in a checkpoint; a LabError if the caller asks for another one."""
    for name, value in chosen.items():
        if facts["recipe"].get(name, RECIPE[name]) != value:
            raise LabError(f"{path} was trained with {name}={facts['recipe'].get(name, RECIPE[name])}, not {value}: a resumed run keeps its recipe; leave the option out")
    return RECIPE | facts["recipe"]


def first_network(recipe: dict[str, Any], sprites: SpriteSet) -> tuple[ContextUnet, NoiseSchedule, int]:
    """The network that a run begins with, its schedule and its updates so far: those of the file `start`, or untrained ones.

    Untrained weights follow from the seed alone; the global random state is put back.
    """
    classes, height = len(sprites.class_names), sprites.sprites.shape[1]
    if recipe["start"]:
        found = checkpoints.load(recipe["start"])
        sizes = found.model.settings
        if (sizes["context_size"], sizes["height"]) != (classes, height):
            raise LabError(f"{recipe['start']} draws {sizes['height']} pixels and {sizes['context_size']} classes, the sprites have {height} and {classes}; train without --start")
        if recipe["features"] not in (RECIPE["features"], sizes["features"]):
            raise LabError(f"{recipe['start']} has {sizes['features']} features, not {recipe['features']}; leave --features out")
        levers = recipe_called(recipe["recipe"])
        if any(sizes.get(option, False) != getattr(levers, option) for option in OPTIONS) or found.schedule.name != levers.schedule(sizes["timesteps"]).name:
            raise LabError(f"{recipe['start']} holds another kind of network than the recipe {recipe['recipe']} trains; give --recipe {found.facts.get('recipe', {}).get('recipe', 'course')}, or begin without --start")
        return found.model, found.schedule, found.facts.get("updates_before", 0) + found.facts.get("updates", 0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe["seed"])
        levers = recipe_called(recipe["recipe"])
        schedule = levers.schedule(recipe["timesteps"])
        return levers.network(schedule, recipe["features"], classes, height), schedule, 0


def autocast_of(recipe: dict[str, Any], device: torch.device) -> torch.dtype | None:
    """The number format that a run computes in, None for float32."""
    return fast_dtype(device) if recipe["precision"] == "auto" else None


def go(run: Run, save_every: int = 200) -> Iterator[Progress]:
    """Train to the end, yielding each update; a checkpoint every `save_every` updates, snapshots, and the final network.

    Whoever stops early (Ctrl-C, closing the generator) gets a checkpoint of the last whole update.
    """
    if run.team.first:
        run.folder.mkdir(parents=True, exist_ok=True)
        checkpoints.tidy(run.folder)
    data, recipe, saved, losses, began = run.sprites.train, run.recipe, run.state.updates, [], time.monotonic()
    options = {name: recipe[name] for name in CHECKED}
    steps = recipe_called(recipe["recipe"]).train(run.state, run.schedule, data, run.device, autocast=autocast_of(recipe, run.device), team=run.team, **options)
    try:
        for progress in steps:
            losses.append(progress.loss)
            if progress.last_of_epoch and progress.epoch in {0, 4, 8, recipe["epochs"] - 1}:
                save_network(run, f"epoch-{progress.epoch:02d}.safetensors", "model", progress.epoch)
            if progress.updates % save_every == 0 or progress.updates == run.total:
                save_state(run, losses, progress, time.monotonic() - began)
                saved, losses = progress.updates, []
            yield progress
    finally:
        if run.state.updates > saved:
            save_state(run, losses, progress, time.monotonic() - began)
    save_network(run, FINAL, "average", recipe["epochs"] - 1)


def facts_of(run: Run, **more: Any) -> dict[str, Any]:
    """What a file of this run says about itself."""
    machine = f"{platform.machine()}, {run.device.type}, torch {torch.__version__.partition('+')[0]}, {torch.get_num_threads()} threads"
    return dict(
        recipe=run.recipe, updates=run.state.updates, updates_before=run.updates_before, classes=list(run.sprites.class_names), sprites_sha256=run.sprites_sha256,
        sprites_lab=__version__, machine=machine, **more,
    )


def save_state(run: Run, losses: list[float], progress: Progress, seconds: float) -> None:
    """Write a checkpoint that the run can go on from, then the log; the two newest checkpoints are kept. Only the first worker writes."""
    if not run.team.first:
        return
    path = checkpoints.step_path(run.folder, run.state.updates)
    checkpoints.save(path, run.state.tensors(), run.state.model, run.schedule, facts_of(run, kind="run"))
    checkpoints.tidy(run.folder)
    row = [progress.updates, progress.epoch, f"{sum(losses) / max(len(losses), 1):.5f}", f"{progress.learning_rate:.3g}", f"{seconds:.1f}"]
    log = run.folder / "log.csv"
    try:
        new = not log.exists()
        with open(log, "a", newline="") as file:
            csv.writer(file).writerows([LOG_COLUMNS, row] if new else [row])
    except OSError as error:
        raise LabError(f"cannot write {log}: {error.strerror}; the checkpoint {path.name} is good") from error


def save_network(run: Run, name: str, group: str, epoch: int) -> None:
    """Write one network of the run (the model or its average) as a small float16 file for sampling. Only the first worker writes."""
    if not run.team.first:
        return
    weights = {"model": run.state.tensors()[group]}
    facts = facts_of(run, kind="network", weights=group, epoch=epoch)
    checkpoints.save(run.folder / name, weights, run.state.model, run.schedule, facts, half=True)
