"""The command line: python -m sprites_lab train | sample | evaluate | draw | train-classifier."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sprites_lab.errors import LabError

EXAMPLES = """examples:
  python -m sprites_lab sample                          a sheet of 64 new sprites: samples.png
  python -m sprites_lab sample --context hero=1,food=0.6 --count 16 --out mix.png
  python -m sprites_lab sample --out walk.gif           the walk from noise to sprites
  python -m sprites_lab train                           train a network in runs/first (hours on a laptop; can be stopped)
  python -m sprites_lab train --resume                  go on where it stopped
  python -m sprites_lab evaluate --count 100            are the classes of its sprites recognised?
  python -m sprites_lab draw --out sprites.npz          draw the bundled sprites again
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a mistake of the user ends with one sentence and exit code 2."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except LabError as error:
        print(f"sprites_lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of all commands."""
    top = argparse.ArgumentParser(
        "sprites_lab", description="Diffusion on 16x16 sprites: train a network, sample sprites from it, draw the training set.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(title="commands", required=True, metavar="train | sample | evaluate | draw | train-classifier")
    add_train(command(commands, "train", train_command, "train a network on sprites; stop with Ctrl-C, go on with --resume"))
    add_sample(command(commands, "sample", sample_command, "make new sprites with a trained network"))
    add_evaluate(command(commands, "evaluate", evaluate_command, "measure how good a trained network's sprites are"))
    add_draw(command(commands, "draw", draw_command, "draw the bundled sprite set with code, bit for bit"))
    add_train_classifier(command(commands, "train-classifier", train_classifier_command, "train the classifier by which `evaluate` judges"))
    return top


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help that shows a default where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def command(commands: argparse._SubParsersAction, name: str, run: Callable, text: str) -> argparse.ArgumentParser:
    """One command with its help; the options show their defaults."""
    sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", formatter_class=Help)
    sub.set_defaults(run=run)
    return sub


def add_train(sub: argparse.ArgumentParser) -> None:
    """Options of `train`. Those of the recipe have no default here, so that --resume can keep the recipe of the run."""
    sub.add_argument("--out", type=Path, default=Path("runs/first"), metavar="FOLDER", help="folder of the run")
    sub.add_argument("--resume", action="store_true", help="go on with the run in that folder")
    sub.add_argument("--sprites", type=Path, metavar="FILE", help="sprite file (.npz); the bundled set if left out")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    sub.add_argument("--save-every", type=int, default=200, metavar="N", help="updates between checkpoints")
    recipe = sub.add_argument_group("recipe (the course's values if left out)")
    recipe.add_argument("--recipe", choices=("course", "improved"), default=argparse.SUPPRESS, help="the course's way to train, or one with a richer look at time and evener timesteps (course)")
    recipe.add_argument("--epochs", type=int, default=argparse.SUPPRESS, help="passes over the training sprites (32)")
    recipe.add_argument("--batch-size", type=int, default=argparse.SUPPRESS, metavar="N", help="sprites per update (100)")
    recipe.add_argument("--learning-rate", type=float, default=argparse.SUPPRESS, metavar="R", help="Adam's rate at the start, falling to 0 (0.001)")
    recipe.add_argument("--context-dropout", type=float, default=argparse.SUPPRESS, metavar="P", help="share of contexts that are forgotten (0.1)")
    recipe.add_argument("--average-decay", type=float, default=argparse.SUPPRESS, metavar="D", help="memory of the averaged weights (0.999)")
    recipe.add_argument("--start", default=argparse.SUPPRESS, metavar="FILE", help="begin with the weights of this file, such as weights/sprites.safetensors (untrained)")
    recipe.add_argument("--features", type=int, default=argparse.SUPPRESS, metavar="N", help="width of the network, a multiple of 8 (64)")
    recipe.add_argument("--seed", type=int, default=argparse.SUPPRESS, help="seed of weights, order, timesteps and noise (0)")
    recipe.add_argument("--precision", choices=("auto", "float32"), default=argparse.SUPPRESS, help="auto: bfloat16 where this machine is faster with it (auto)")


def add_sample(sub: argparse.ArgumentParser) -> None:
    """Options of `sample`."""
    sub.add_argument("--out", type=Path, default=Path("samples.png"), metavar="FILE", help=".png a sheet, .gif the walk from noise, .npz the arrays sprites and contexts")
    sub.add_argument("--weights", type=Path, metavar="FILE", help="trained network; the shipped one if left out")
    sub.add_argument("--context", default="none", metavar="C", help="what to draw: hero=1,food=0.6 (hero, non-hero, food, spell, side-facing), or none")
    sub.add_argument("--count", type=int, default=64, metavar="N", help="how many sprites")
    sub.add_argument("--sampler", choices=("ddpm", "ddim"), default="ddim", help="ddpm walks all 500 steps, ddim as few as you like")
    sub.add_argument("--steps", type=int, metavar="N", help="steps of the walk, 1 to 500 (ddim: 20, ddpm: always 500)")
    sub.add_argument("--eta", type=float, default=0.0, help="fresh noise in ddim: 0 none, 1 as much as ddpm")
    sub.add_argument("--scale", type=float, default=1.0, help="guidance: 1 plain, above 1 pushed towards the context")
    sub.add_argument("--seed", type=int, default=0, help="sprite i follows from seed and i alone")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")


def add_evaluate(sub: argparse.ArgumentParser) -> None:
    """Options of `evaluate`."""
    sub.add_argument("--weights", type=Path, metavar="FILE", help="trained network; the shipped one if left out")
    sub.add_argument("--classifier", type=Path, metavar="FILE", help="the judge; the shipped one if left out")
    sub.add_argument("--sprites", type=Path, metavar="FILE", help="sprite file (.npz) with held-out sprites; the bundled set if left out")
    sub.add_argument("--count", type=int, default=10_000, metavar="N", help="how many sprites, a fifth of each class; distances of unequal counts cannot be compared")
    sub.add_argument("--seeds", type=int, default=3, metavar="N", help="how many times all is measured, from other noise")
    sub.add_argument("--sampler", choices=("ddpm", "ddim"), default="ddpm", help="ddpm walks all 500 steps, ddim as few as you like")
    sub.add_argument("--steps", type=int, metavar="N", help="steps of the walk, 1 to 500 (ddim: 20, ddpm: always 500)")
    sub.add_argument("--scale", type=float, default=1.0, help="guidance: 1 plain, above 1 pushed towards the context")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    sub.add_argument("--json", type=Path, metavar="FILE.json", help="also write the numbers")


def add_train_classifier(sub: argparse.ArgumentParser) -> None:
    """Options of `train-classifier`."""
    sub.add_argument("--out", type=Path, default=Path("runs/classifier.safetensors"), metavar="FILE", help="where the classifier goes")
    sub.add_argument("--sprites", type=Path, metavar="FILE", help="sprite file (.npz); the bundled set if left out")
    sub.add_argument("--epochs", type=int, default=20, help="passes over the training sprites")
    sub.add_argument("--seed", type=int, default=0, help="seed of weights, order and augmentation")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")


def add_draw(sub: argparse.ArgumentParser) -> None:
    """Options of `draw`."""
    sub.add_argument("--out", type=Path, metavar="FILE", help="where to write the sprites: .npz (with --kind: .png)")
    sub.add_argument("--kind", metavar="NAME", help="a sheet of 64 sprites of this kind alone, in every class that has it")
    sub.add_argument("--count", type=int, metavar="N", help="how many sprites (the size of the bundled set if left out)")
    sub.add_argument("--seed", type=int, metavar="S", help="another seed draws other sprites (the bundled set's if left out)")
    sub.add_argument("--check", action="store_true", help="compare with the shipped file instead of writing")
    sub.add_argument("--report", action="store_true", help="also print what is in the set")
    sub.add_argument("--sheets", type=Path, metavar="FOLDER", help="also write a picture of 100 sprites of each class")


def train_command(options: argparse.Namespace) -> None:
    """Train in a folder, with a bar that shows the loss and the time left."""
    from tqdm import tqdm

    from sprites_lab import lab, runs

    if options.save_every < 1:
        raise LabError(f"--save-every is {options.save_every}, but must be at least 1")
    check_folder(options.out)
    chosen = {name: getattr(options, name) for name in runs.RECIPE if hasattr(options, name)}
    run = runs.open_run(options.out, options.resume, lab.pick_device(options.device), options.sprites, **chosen)
    print(f"{len(run.sprites.train):,} sprites, {run.recipe['epochs']} epochs of {run.updates_per_epoch} updates on {run.device}; {run.folder} keeps the run")
    if run.state.updates == run.total:
        print("this run is finished")
    try:
        with tqdm(initial=run.state.updates, total=run.total, unit="update") as bar:
            for progress in lab.whole_steps(runs.go(run, options.save_every)):
                bar.update()
                bar.set_postfix_str(f"epoch {progress.epoch}, loss {progress.loss:.4f}", refresh=False)
    except KeyboardInterrupt:
        print(f"stopped after update {run.state.updates}; go on with: python -m sprites_lab train --out {options.out} --resume", file=sys.stderr)
        raise
    print(f"the network: {run.folder / runs.FINAL}")


def sample_command(options: argparse.Namespace) -> None:
    """Make sprites and write them as a sheet, a walk or arrays."""
    from sprites_lab import sampling

    check_file(options.out, (".png", ".gif", ".npz"))
    began = time.monotonic()
    sampling.sample_to_file(
        options.out, options.weights, options.context, options.count, options.sampler, options.steps, options.eta, options.scale,
        options.seed, options.device,
    )
    print(f"{options.count} sprites in {time.monotonic() - began:.1f} s: {options.out}")


def evaluate_command(options: argparse.Namespace) -> None:
    """Measure a network's sprites beside yardsticks, print the table, write the numbers."""
    import json

    from sprites_lab import checkpoints, evaluation, lab
    from sprites_lab.data import CLASS_NAMES, SpriteSet
    from sprites_lab.drawing import artist

    def draw_fresh(count: int, seed: int) -> SpriteSet:
        arrays = artist.draw_set(max(count, artist.LEAST), seed)
        return SpriteSet(*(arrays[name] for name in ("sprites", "labels", "kinds", "held_out")), tuple(arrays["kind_names"]), CLASS_NAMES)[:count]

    if options.json:
        check_file(options.json, (".json",), "--json")
    device = lab.pick_device(options.device)
    task = evaluation.open_task(options.weights, options.count, options.seeds, options.sampler, options.steps, options.scale, device)
    found = evaluation.evaluate(task, evaluation.reference(options.classifier, options.sprites, device), draw_fresh)
    print(evaluation.table(found), evaluation.meanings(), sep="\n\n")
    if options.json:
        checkpoints.write_bytes(options.json, json.dumps(found, indent=1).encode())


def train_classifier_command(options: argparse.Namespace) -> None:
    """Train the classifier on the training split, with a bar, and write it."""
    from tqdm import tqdm

    from sprites_lab import classifier, lab
    from sprites_lab.data import SPRITES, load_sprites

    check_file(options.out, (".safetensors",))
    sprites, device = load_sprites(options.sprites or SPRITES), lab.pick_device(options.device)
    model = classifier.new_classifier(len(sprites.kind_names), seed=options.seed)
    classifier.check_task(model, sprites.train, options.epochs)
    steps = classifier.train_classifier(model, sprites.train, options.epochs, options.seed, device, lab.fast_dtype(device))
    for _, loss in (bar := tqdm(steps, total=options.epochs * -(-len(sprites.train) // classifier.BATCH), unit="update")):
        bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
    classifier.save_classifier(options.out, model, sprites, {"epochs": options.epochs, "seed": options.seed})
    print(f"the classifier: {options.out}")


def draw_command(options: argparse.Namespace) -> None:
    """Draw the bundled set again, write it or compare it with the shipped file."""
    from sprites_lab import checkpoints, neighbours
    from sprites_lab.data import SPRITES, load_sprites
    from sprites_lab.drawing import artist

    if options.kind:
        return draw_kind_command(options)
    if not (options.out or options.check or options.report or options.sheets):
        raise LabError("say where the sprites go: --out FILE.npz (or --check to compare with the shipped file, --report to count, --sheets for pictures)")
    if options.out:
        check_file(options.out, (".npz",))
    if options.sheets:
        check_folder(options.sheets)
    if options.check:
        load_sprites(SPRITES)
    began = time.monotonic()
    arrays = artist.draw_set(artist.COUNT if options.count is None else options.count, artist.SEED if options.seed is None else options.seed)
    if options.report:
        print(f"drawn in {time.monotonic() - began:.0f} s\n{artist.report(arrays)}\n{neighbours.report(arrays['sprites'], arrays['held_out'])}")
    if options.check:
        artist.compare(arrays, SPRITES)
        print(f"the drawn sprites equal {SPRITES}, bit for bit")
    if options.out:
        checkpoints.write_bytes(options.out, artist.file_bytes(arrays))
        print(f"{len(arrays['sprites']):,} sprites: {options.out}")
    if options.sheets:
        write_sheets(options.sheets, arrays)


def draw_kind_command(options: argparse.Namespace) -> None:
    """One PNG with sprites of one kind: for a look at a kind that is being drawn."""
    import numpy as np

    from sprites_lab import checkpoints, figures
    from sprites_lab.data import to_pictures
    from sprites_lab.drawing import artist

    if not options.out or options.check or options.report or options.sheets or options.count is not None:
        raise LabError("--kind makes one picture: give --out FILE.png with it, and at most --seed")
    check_file(options.out, (".png",))
    rows = artist.draw_of_kind(options.kind, 64, artist.SEED if options.seed is None else options.seed)
    sheet = figures.tile(to_pictures(np.stack([sprite.pixels for sprite in rows])), 16, 4)
    checkpoints.write_bytes(options.out, figures.png(sheet))
    print(f"{len(rows)} sprites: {options.out}")


def write_sheets(folder: Path, arrays: dict) -> None:
    """One PNG for each class: its first 100 sprites, enlarged four times."""
    from sprites_lab import checkpoints, figures
    from sprites_lab.data import CLASS_NAMES, to_pictures

    for label, name in enumerate(CLASS_NAMES):
        sprites = arrays["sprites"][arrays["labels"] == label][:100]
        checkpoints.write_bytes(folder / f"{name}.png", figures.png(figures.tile(to_pictures(sprites), 20, 4)))
    print(f"sheets of 100 sprites per class: {folder}")


def check_file(path: Path, suffixes: tuple[str, ...], option: str = "--out") -> None:
    """LabError, before any work is done, if the file cannot be written."""
    if path.suffix.lower() not in suffixes:
        raise LabError(f"{option} {path}: the name must end in {' or '.join(suffixes)}")
    try:
        is_folder = path.is_dir()
    except OSError as error:
        raise LabError(f"{option} {path} is no possible path: {error.strerror}") from error
    if is_folder:
        raise LabError(f"{option} {path} is a folder; give the name of a file")
    check_folder(path.parent, make=False)


def check_folder(folder: Path, make: bool = True) -> None:
    """LabError if no file can be made in the folder (or, with `make`, in the nearest folder above that exists)."""
    import os
    import tempfile

    try:
        while make and not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise LabError(f"the folder {folder} does not exist; make it first, or choose another place with --out")
        handle, name = tempfile.mkstemp(dir=folder, prefix=".sprites_lab-")
        os.close(handle)
        os.unlink(name)
    except OSError as error:
        raise LabError(f"cannot write into the folder {folder} ({error.strerror}); choose another place with --out") from error


if __name__ == "__main__":
    sys.exit(main())
