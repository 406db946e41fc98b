"""A training run in a folder: checkpoints that survive a kill, resume, snapshots of some epochs, a log."""

import csv
import platform
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sprites_lab import __version__, checkpoints, lab
from sprites_lab.data import SPRITES, SpriteSet, load_sprites
from sprites_lab.errors import LabError
from sprites_lab.locks import alone_in
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

QUICK = 600  # updates of a quick training

CHECKED = ("epochs", "batch_size", "learning_rate", "context_dropout", "average_decay", "seed")  # in the order of check_recipe


class Run(NamedTuple):
    """A run that is ready to go on: its folder, recipe, data, schedule and state; `losses` grows with every update."""

    folder: Path
    recipe: dict[str, Any]
    sprites: SpriteSet
    sprites_file: Path
    sprites_sha256: str
    schedule: NoiseSchedule
    state: TrainingState
    device: torch.device
    updates_before: int  # of the network that the run began with
    losses: list[float]  # of all updates so far (runs that began before files had them: of the last ones)
    team: Team = Team()

    @property
    def updates_per_epoch(self) -> int:
        """How many updates go once through the training split."""
        return -(-len(self.sprites.train) // self.recipe["batch_size"])

    @property
    def total(self) -> int:
        """How many updates the whole run has."""
        return self.recipe["epochs"] * self.updates_per_epoch

    @property
    def history(self) -> list[Progress]:
        """What was reported after each update so far, in this sitting and those before."""
        recipe, per_epoch, done = self.recipe, self.updates_per_epoch, []
        factor = recipe_called(recipe["recipe"]).rate_factor
        for update, loss in enumerate(self.losses, self.state.updates - len(self.losses)):
            rate = recipe["learning_rate"] * factor(update, per_epoch, recipe["epochs"])
            done.append(Progress(update + 1, update // per_epoch, loss, rate, (update + 1) % per_epoch == 0))
        return done


def open_run(
    folder: str | Path, resume: bool, device: torch.device, sprites: str | Path | None = None, team: Team = Team(), quick: bool = False, **chosen: Any
) -> Run:
    """Start a run in an empty folder, or go on with the newest readable checkpoint of a folder.

    `chosen` are the entries of RECIPE that differ from the defaults, or, with `quick`, from `quick_recipe`; a resumed run keeps
    the recipe it began with. The workers of a team must all see the same files.
    """
    folder = Path(folder)
    newest = newest_state(folder, resume)
    found = checkpoints.load(newest, "model") if newest else None
    path = checkpoints.sprites_file(found.facts if found else {}, sprites)
    data = load_sprites(path)
    if found and not is_run(found):
        raise LabError(f"{newest} holds a network, not a run that can go on; begin a new run with --start {newest} and another --out")
    recipe = RECIPE | (continued_recipe(found.facts, chosen, newest) if found else quick_recipe(data) | chosen if quick else chosen)
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
    losses = found.groups.get("history", {}).get("loss", torch.zeros(0)).tolist() if found else []
    return Run(folder, recipe, data, path, sha, schedule, state, device, before, losses, team)


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
            raise LabError(f"{path} was trained with {name}={facts['recipe'].get(name, RECIPE[name])}, not {value}: a resumed run keeps its recipe; leave the option out, or begin a new run in another folder")
    return RECIPE | facts["recipe"]


def first_network(recipe: dict[str, Any], sprites: SpriteSet) -> tuple[ContextUnet, NoiseSchedule, int]:
    """The network that a run begins with, its schedule and its updates so far: those of the file `start`, or untrained ones.

    Untrained weights follow from the seed alone; the global random state is put back.
    """
    classes, height = len(sprites.class_names), sprites.sprites.shape[1]
    if recipe["start"]:
        found = checkpoints.load(recipe["start"])
        sizes = found.model.settings
        if sizes["height"] != height:
            raise LabError(f"{recipe['start']} draws {sizes['height']} pixels, the sprites have {height}; train without --start")
        if recipe["features"] not in (RECIPE["features"], sizes["features"]):
            raise LabError(f"{recipe['start']} has {sizes['features']} features, not {recipe['features']}; leave --features out")
        levers = recipe_called(recipe["recipe"])
        if any(sizes.get(option, False) != getattr(levers, option) for option in OPTIONS) or found.schedule.name != levers.schedule(sizes["timesteps"]).name:
            raise LabError(f"{recipe['start']} holds another kind of network than the recipe {recipe['recipe']} trains; give --recipe {found.facts.get('recipe', {}).get('recipe', 'course')}, or begin without --start")
        model = found.model if found.facts.get("classes") == list(sprites.class_names) else with_classes(found.model, classes, recipe["seed"])
        return model.follow(found.schedule.signal_scale, found.schedule.noise_scale), found.schedule, found.facts.get("updates_before", 0) + found.facts.get("updates", 0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe["seed"])
        levers = recipe_called(recipe["recipe"])
        schedule = levers.schedule(recipe["timesteps"])
        return levers.network(schedule, recipe["features"], classes, height), schedule, 0


def quick_recipe(sprites: SpriteSet) -> dict[str, Any]:
    """What to choose for a first look at one's own sprites in a few minutes: to go on from the shipped network, with small batches."""
    count, size, batch_size = len(sprites.train), sprites.sprites.shape[1], 32
    if size != 16:
        raise LabError(f"--quick goes on from the shipped network, which draws 16x16 pixels, and the sprites have {size}x{size}: leave --quick out")
    epochs = -(-QUICK // -(-count // batch_size)) if count else 1
    return dict(recipe="improved", start=str(lab.FINAL), batch_size=batch_size, epochs=epochs, average_decay=0.99)


def with_classes(model: ContextUnet, classes: int, seed: int) -> ContextUnet:
    """The network for other classes: all it has learnt, but how it reads a class begins anew from the seed. Without context it answers as before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        made = ContextUnet(**model.settings | {"context_size": classes})
    new = ("context_embed1.model.0.weight", "context_embed2.model.0.weight")
    made.load_state_dict(model.state_dict() | {name: made.state_dict()[name] for name in new})
    return made


def autocast_of(recipe: dict[str, Any], device: torch.device) -> torch.dtype | None:
    """The number format that a run computes in, None for float32."""
    return lab.fast_dtype(device) if recipe["precision"] == "auto" else None


def go(run: Run, save_every: int = 200) -> Iterator[Progress]:
    """Train to the end, yielding each update; a checkpoint every `save_every` updates, snapshots, and the final network.

    Whoever stops early (Ctrl-C, closing the generator) gets a checkpoint of the last whole update. LabError if another process
    is training in the folder.
    """
    if run.team.first:
        run.folder.mkdir(parents=True, exist_ok=True)
    with alone_in(run.folder) if run.team.first else nullcontext():
        if run.team.first:
            checkpoints.tidy(run.folder)
        yield from saving(run, save_every)


def saving(run: Run, save_every: int) -> Iterator[Progress]:
    """The updates of a run that has its folder for itself, saved as they come."""
    data, recipe, saved, began = run.sprites.train, run.recipe, run.state.updates, time.monotonic()
    options = {name: recipe[name] for name in CHECKED}
    steps = recipe_called(recipe["recipe"]).train(run.state, run.schedule, data, run.device, autocast=autocast_of(recipe, run.device), team=run.team, **options)
    try:
        for progress in steps:
            run.losses.append(progress.loss)
            if progress.last_of_epoch and progress.epoch in {0, 4, 8, recipe["epochs"] - 1}:
                save_network(run, f"epoch-{progress.epoch:02d}.safetensors", "model", progress.epoch)
            if progress.updates % save_every == 0 or progress.updates == run.total:
                save_state(run, saved, progress, time.monotonic() - began)
                saved = progress.updates
            yield progress
    finally:
        if run.state.updates > saved:
            save_state(run, saved, progress, time.monotonic() - began)
    save_network(run, FINAL, "average", recipe["epochs"] - 1)


def train_here(
    folder: str | Path, sprites: str | Path | None = None, epochs: int = 32, features: int = 64, batch_size: int | None = None,
    learning_rate: float | None = None, seed: int = 0, recipe: str = "course", start: str | Path | None = None, save_every: int = 200,
    device: str = "auto",
) -> list[Progress]:
    """Train in a folder from a notebook: begin there, or go on where an earlier call stopped; what was reported of all updates so far.

    A new run begins with the weights in the file `start`, if there is one.

    Ctrl-C (the stop button) lets the running update end, saves the state, and returns in the same way, with a warning that says
    so. The same call again goes on; with another recipe or other sprites it is a LabError. Once finished, the network is in
    `folder`/sprites.safetensors; before, `checkpoints.latest(folder)` can be loaded.
    """
    given = dict(batch_size=batch_size, learning_rate=learning_rate, start=start and str(start))
    chosen = dict(epochs=epochs, features=features, seed=seed, recipe=recipe) | {name: value for name, value in given.items() if value is not None}
    with lab.patient() as asked:
        run = open_run(folder, bool(checkpoints.steps_in(Path(folder))), lab.pick_device(device), sprites, **chosen)
        with closing(go(run, save_every)) as steps:
            for _ in lab.progress(steps, run.total - run.state.updates, "updates"):
                if asked and run.state.updates < run.total:
                    break
    if run.state.updates < run.total:
        warnings.warn(f"stopped after update {run.state.updates:,} of {run.total:,}, all saved; run the cell again to go on", stacklevel=2)
    return run.history


def facts_of(run: Run, **more: Any) -> dict[str, Any]:
    """What a file of this run says about itself."""
    machine = f"{platform.machine()}, {run.device.type}, torch {torch.__version__.partition('+')[0]}, {torch.get_num_threads()} threads"
    own = {} if run.sprites_file == SPRITES else {"sprites_file": str(run.sprites_file.resolve())}  # later commands find it by themselves
    return own | dict(
        recipe=run.recipe, updates=run.state.updates, updates_before=run.updates_before, classes=list(run.sprites.class_names), sprites_sha256=run.sprites_sha256,
        sprites_lab=__version__, machine=machine, **more,
    )


def save_state(run: Run, saved: int, progress: Progress, seconds: float) -> None:
    """Write a checkpoint that the run can go on from, then the log since update `saved`; the two newest checkpoints are kept.

    Only the first worker writes.
    """
    if not run.team.first:
        return
    path = checkpoints.step_path(run.folder, run.state.updates)
    groups = run.state.tensors() | {"history": {"loss": torch.tensor(run.losses, dtype=torch.float64)}}
    checkpoints.save(path, groups, run.state.model, run.schedule, facts_of(run, kind="run"))
    checkpoints.tidy(run.folder)
    losses = run.losses[saved - run.state.updates :]
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
