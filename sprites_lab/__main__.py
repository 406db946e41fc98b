"""The command line: python -m sprites_lab train | sample | evaluate | classify | import | distill | draw | bench | ablate | sweep | train-classifier."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from sprites_lab import commands
from sprites_lab.errors import LabError

EXAMPLES = """examples:
  python -m sprites_lab sample                          a sheet of 64 new sprites: samples.png
  python -m sprites_lab sample --context hero=1,food=0.6 --count 16 --out mix.png
  python -m sprites_lab sample --out walk.gif           the walk from noise to sprites
  python -m sprites_lab train                           train a network in runs/first (hours on a laptop; can be stopped)
  python -m sprites_lab train --resume                  go on where it stopped
  python -m sprites_lab evaluate --sampler ddim --count 2000 --seeds 1      how good are its sprites, are they copies?
  python -m sprites_lab import monsters/ --out monsters.npz       your own PNGs: subfolders are classes
  python -m sprites_lab train --quick --sprites monsters.npz --out runs/monsters
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
    subs = top.add_subparsers(title="commands", required=True, metavar="train | sample | evaluate | classify | import | distill | draw | bench | ablate | sweep | train-classifier")
    add_train(command(subs, "train", commands.train, "train a network on sprites; stop with Ctrl-C, go on with --resume"))
    add_distill(command(subs, "distill", commands.distill, "train a student that needs 4, 2 or 1 steps, from a trained network; stop with Ctrl-C, go on with --resume"))
    add_sample(command(subs, "sample", commands.sample, "make new sprites with a trained network"))
    add_evaluate(command(subs, "evaluate", commands.evaluate, "measure how good a trained network's sprites are; at its defaults this takes hours on a CPU"))
    add_classify(command(subs, "classify", commands.classify, "say which class a network sees in your PNG sprites, from the noise it finds in them"))
    add_import(command(subs, "import", commands.import_pictures, "make a sprite file of your own PNG pictures, sheets or folders, to train on"))
    add_draw(command(subs, "draw", commands.draw, "draw the bundled sprite set with code, bit for bit"))
    add_bench(command(subs, "bench", commands.bench, "measure how fast this machine draws and trains, against plain loops (up to five minutes)"))
    add_ablate(command(subs, "ablate", commands.ablate, "train a small network once with each lever of the recipe, at equal time, and measure what each brings"))
    add_sweep(command(subs, "sweep", commands.sweep, "measure quality against network calls for every solver and spacing; at its defaults this takes hours on a CPU"))
    add_train_classifier(command(subs, "train-classifier", commands.train_classifier, "train the classifier by which `evaluate` judges"))
    return top


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help that shows a default where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def command(subs: argparse._SubParsersAction, name: str, run: Callable, text: str) -> argparse.ArgumentParser:
    """One command with its help; the options show their defaults."""
    sub = subs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", formatter_class=Help)
    sub.set_defaults(run=run)
    return sub


def add_train(sub: argparse.ArgumentParser) -> None:
    """Options of `train`. Those of the recipe have no default here, so that --resume can keep the recipe of the run."""
    sub.add_argument("--out", type=Path, default=Path("runs/first"), metavar="FOLDER", help="folder of the run")
    sub.add_argument("--resume", action="store_true", help="go on with the run in that folder")
    sub.add_argument("--sprites", type=Path, metavar="FILE", help="sprite file (.npz), such as `import` writes; the bundled set if left out")
    sub.add_argument("--quick", action="store_true", help="a few minutes: go on from the shipped network, for a first look at your own sprites")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    sub.add_argument("--save-every", type=int, default=200, metavar="N", help="updates between checkpoints")
    recipe = sub.add_argument_group("recipe (the course's values if left out)")
    recipe.add_argument("--recipe", default=argparse.SUPPRESS, metavar="NAME", help="course, improved, or one of them with levers of `ablate`, such as course+velocity+muon (course)")
    recipe.add_argument("--epochs", type=int, default=argparse.SUPPRESS, help="passes over the training sprites (32)")
    recipe.add_argument("--batch-size", type=int, default=argparse.SUPPRESS, metavar="N", help="sprites per update (the recipe's)")
    recipe.add_argument("--learning-rate", type=float, default=argparse.SUPPRESS, metavar="R", help="the largest learning rate, falling to 0 (the recipe's)")
    recipe.add_argument("--context-dropout", type=float, default=argparse.SUPPRESS, metavar="P", help="share of contexts that are forgotten (0.1)")
    recipe.add_argument("--average-decay", type=float, default=argparse.SUPPRESS, metavar="D", help="memory of the averaged weights (0.999)")
    recipe.add_argument("--start", default=argparse.SUPPRESS, metavar="FILE", help="begin with the weights of this file, such as weights/sprites.safetensors (untrained)")
    recipe.add_argument("--features", type=int, default=argparse.SUPPRESS, metavar="N", help="width of the network, a multiple of 8 (64)")
    recipe.add_argument("--seed", type=int, default=argparse.SUPPRESS, help="seed of weights, order, timesteps and noise (0)")
    recipe.add_argument("--precision", choices=("auto", "float32"), default=argparse.SUPPRESS, help="auto: bfloat16 where this machine is faster with it (auto)")


def add_distill(sub: argparse.ArgumentParser) -> None:
    """Options of `distill`. Those of the recipe have no default here, so that --resume can keep the recipe of the student."""
    sub.add_argument("--out", type=Path, default=Path("runs/student"), metavar="FOLDER", help="folder of the student")
    sub.add_argument("--resume", action="store_true", help="go on with the student in that folder")
    sub.add_argument("--teacher", type=Path, metavar="FILE", help="network to learn from; the shipped one if left out")
    sub.add_argument("--lessons", type=Path, default=Path("runs/lessons"), metavar="FOLDER", help="where the teacher's walks are kept, for any number of students")
    sub.add_argument("--start", type=Path, metavar="FILE", help="begin with the weights of this student, one of more steps (the teacher's)")
    sub.add_argument("--sprites", type=Path, metavar="FILE", help="what the teacher was trained on; the bundled set if left out")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    sub.add_argument("--save-every", type=int, default=100, metavar="N", help="batches between checkpoints")
    recipe = sub.add_argument_group("recipe")
    recipe.add_argument("--steps", type=int, default=argparse.SUPPRESS, metavar="N", help="steps of the student: 4, 2 or 1 (4)")
    recipe.add_argument("--count", type=int, default=argparse.SUPPRESS, metavar="N", help="walks of the teacher to learn from (20000)")
    recipe.add_argument("--epochs", type=int, default=argparse.SUPPRESS, help="times each walk is seen (3)")
    recipe.add_argument("--batch-size", type=int, default=argparse.SUPPRESS, metavar="N", help="walks per batch (50)")
    recipe.add_argument("--learning-rate", type=float, default=argparse.SUPPRESS, metavar="R", help="the largest learning rate, falling to 0 (0.0005)")
    recipe.add_argument("--average-decay", type=float, default=argparse.SUPPRESS, metavar="D", help="memory of the averaged weights (0.999)")
    recipe.add_argument("--seed", type=int, default=argparse.SUPPRESS, help="seed of the order (0)")


def add_sample(sub: argparse.ArgumentParser) -> None:
    """Options of `sample`."""
    sub.add_argument("--out", type=Path, default=Path("samples.png"), metavar="FILE", help=".png a sheet, .gif the walk from noise, .npz the arrays sprites and contexts")
    sub.add_argument("--weights", type=Path, metavar="FILE", help="trained network, or a .pth file of the original course; the shipped one if left out")
    sub.add_argument("--context", default="none", metavar="C", help="what to draw: hero=1,food=0.6, or none; the shipped network knows hero, non-hero, food, spell and side-facing, others the classes they were trained with")
    sub.add_argument("--count", type=int, default=64, metavar="N", help="how many sprites")
    sub.add_argument("--resume", action="store_true", help="go on with a .npz that was stopped (same options)")
    add_walk(sub, "dpm-solver with --eta 1 --spacing karras")
    sub.add_argument("--sprites", type=Path, metavar="FILE", help="what the network was trained on, for --start fitted; the bundled set if left out")
    sub.add_argument("--seed", type=int, default=0, help="sprite i follows from seed and i alone")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")


def add_walk(sub: argparse.ArgumentParser, sampler: str) -> None:
    """How sprites are walked to; what there is to choose is checked in walks.py, which takes long to load."""
    sub.add_argument("--sampler", metavar="NAME", help=f"ddpm walks all 500 steps; ddim, dpm-solver, ipndm and unipc as few as you like ({sampler}; a student's file says how it walks)")
    sub.add_argument("--steps", type=int, metavar="N", help="steps of the walk, 1 to 500 (ddpm: always 500, ddim: 20, dpm-solver: 7, others: 10, a student: its own)")
    sub.add_argument("--eta", type=float, metavar="E", help="fresh noise in ddim and dpm-solver: 0 none, 1 as much as ddpm (0)")
    sub.add_argument("--spacing", metavar="NAME", help="which timesteps are visited: trailing, quadratic, log-snr or karras (trailing)")
    sub.add_argument("--start", metavar="NAME", help="noise: N(0, 1); fitted: with the mean and covariance of noised training sprites (noise)")
    sub.add_argument("--scale", type=float, default=1.0, help="guidance: 1 plain, above 1 pushed towards the context")


def add_evaluate(sub: argparse.ArgumentParser) -> None:
    """Options of `evaluate`."""
    sub.add_argument("--weights", type=Path, metavar="FILE", help="trained network; the shipped one if left out")
    sub.add_argument("--classifier", type=Path, metavar="FILE", help="the judge; the shipped one if left out")
    sub.add_argument("--sprites", type=Path, metavar="FILE", help="sprite file (.npz) with held-out sprites; the bundled set if left out")
    sub.add_argument("--count", type=int, metavar="N", help="how many sprites, a fifth of each class; distances of unequal counts cannot be compared (10000; with --likelihood 100)")
    sub.add_argument("--seeds", type=int, default=3, metavar="N", help="how many times all is measured, from other noise")
    add_walk(sub, "ddpm")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    sub.add_argument("--likelihood", action="store_true", help="instead: what sprites cost the network in bits per value, a bound (--count 100, --steps 64 timesteps)")
    sub.add_argument("--alone", action="store_true", help="beside new sprites only, without the other yardsticks: faster")
    sub.add_argument("--sheet", type=Path, metavar="FILE.png", help="also write a sheet of the first 100 sprites made, as they came, beside 100 real ones")
    sub.add_argument("--pairs", type=Path, metavar="FILE.png", help="also audit the first 500 sprites made for copies, with the five nearest pairs as a picture")
    sub.add_argument("--json", type=Path, metavar="FILE.json", help="also write the numbers, and the table beside it (FILE.md)")


def add_train_classifier(sub: argparse.ArgumentParser) -> None:
    """Options of `train-classifier`."""
    sub.add_argument("--out", type=Path, default=Path("runs/classifier.safetensors"), metavar="FILE", help="where the classifier goes")
    sub.add_argument("--sprites", type=Path, metavar="FILE", help="sprite file (.npz); the bundled set if left out")
    sub.add_argument("--epochs", type=int, default=20, help="passes over the training sprites")
    sub.add_argument("--seed", type=int, default=0, help="seed of weights, order and augmentation")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")


def add_bench(sub: argparse.ArgumentParser) -> None:
    """Options of `bench`."""
    sub.add_argument("--json", type=Path, metavar="FILE.json", help="also write the numbers")
    sub.add_argument("--features", type=int, default=64, metavar="N", help="width of the network")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")


def add_ablate(sub: argparse.ArgumentParser) -> None:
    """Options of `ablate`."""
    sub.add_argument("--out", type=Path, default=Path("runs/ablation"), metavar="FOLDER", help="folder of the results, one file for each arm; arms that are there are not repeated")
    sub.add_argument("--arms", metavar="A,B", help="only these arms; all if left out")
    sub.add_argument("--parts", action="store_true", help="instead of pulling levers, leave out one part of the network after the other, for --epochs each, with two seeds")
    sub.add_argument("--json", type=Path, metavar="FILE", help="write the results of all arms to this file")
    sub.add_argument("--features", type=int, default=32, metavar="N", help="width of the network")
    sub.add_argument("--epochs", type=int, default=3, help="passes over the training sprites for the course's recipe; the others take as long")
    sub.add_argument("--count", type=int, default=600, metavar="N", help="sprites to measure")
    sub.add_argument("--seed", type=int, default=0, help="seed of the training")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")


def add_sweep(sub: argparse.ArgumentParser) -> None:
    """Options of `sweep`."""
    sub.add_argument("--out", type=Path, default=Path("runs/sweep"), metavar="FOLDER", help="folder of the results, one file for each; what is there is not repeated")
    sub.add_argument("--weights", type=Path, metavar="FILE", help="trained network; the shipped one if left out")
    sub.add_argument("--ways", metavar="'A; B'", help="only these, such as '2M karras; DDIM trailing'; all if left out")
    sub.add_argument("--steps", type=int, nargs="+", metavar="N", help="only these numbers of steps; 1 to 500 in 14 steps if left out")
    sub.add_argument("--scale", type=float, default=1.0, help="guidance scale")
    sub.add_argument("--count", type=int, default=500, metavar="N", help="sprites to measure each time")
    sub.add_argument("--seeds", type=int, default=1, metavar="N", help="how many times, from other noise")
    sub.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")


def add_classify(sub: argparse.ArgumentParser) -> None:
    """Options of `classify`."""
    sub.add_argument("sources", nargs="+", metavar="SOURCE", help="PNG files, sheets or folders, as for import; the first 100 different sprites are named")
    sub.add_argument("--weights", type=Path, metavar="FILE", help="trained network; the shipped one if left out")
    sub.add_argument("--tile", metavar="N", help="size of the tiles of a sheet (found out if left out)")
    sub.add_argument("--fit", metavar="HOW", help="how sprites of another size are brought to that of the network: crop, pad, nearest or area")
    sub.add_argument("--background", default="white", metavar="COLOUR", help="what transparent pixels become")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")


def add_import(sub: argparse.ArgumentParser) -> None:
    """Options of `import`."""
    sub.add_argument("sources", nargs="+", metavar="SOURCE", help="a PNG sheet, or a folder of PNGs whose subfolders are classes; NAME=SOURCE names the class. Or the original course's .npy files")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE.npz", help="the sprite file to write, for train --sprites")
    sub.add_argument("--preview", type=Path, metavar="FILE.png", help="a picture of what was understood (beside the sprite file)")
    sheet = sub.add_argument_group("sheets (found out if left out)")
    sheet.add_argument("--tile", metavar="N", help="size of the tiles in pixels: 16, or width x height: 16x24")
    sheet.add_argument("--spacing", type=int, metavar="N", help="pixels between tiles")
    sheet.add_argument("--margin", type=int, metavar="N", help="pixels around all tiles")
    sheet.add_argument("--crop", action="store_true", help="drop pixels at the right and at the bottom that no tile fills")
    sprite = sub.add_argument_group("sprites")
    sprite.add_argument("--size", type=int, default=16, metavar="N", help="pixels of a sprite, a multiple of 4")
    sprite.add_argument("--fit", metavar="HOW", help="how tiles of another size become that: crop, pad, nearest or area")
    sprite.add_argument("--background", default="white", metavar="COLOUR", help="what transparent pixels become")
    sprite.add_argument("--key", metavar="COLOUR", help="a colour that counts as transparent, such as '#ff00ff'")
    sprite.add_argument("--frames", action="store_true", help="take all frames of animated PNGs, not only the first")
    sprite.add_argument("--held-out", type=float, default=0.1, metavar="P", help="share of the sprites that no training sees")


def add_draw(sub: argparse.ArgumentParser) -> None:
    """Options of `draw`."""
    sub.add_argument("--out", type=Path, metavar="FILE", help="where to write the sprites: .npz (with --kind: .png)")
    sub.add_argument("--kind", metavar="NAME", help="a sheet of 64 sprites of this kind alone, in every class that has it")
    sub.add_argument("--count", type=int, metavar="N", help="how many sprites (the size of the bundled set if left out)")
    sub.add_argument("--seed", type=int, metavar="S", help="another seed draws other sprites (the bundled set's if left out)")
    sub.add_argument("--check", action="store_true", help="compare with the shipped file instead of writing")
    sub.add_argument("--report", action="store_true", help="also print what is in the set")
    sub.add_argument("--sheets", type=Path, metavar="FOLDER", help="also write a picture of 100 sprites of each class")


if __name__ == "__main__":
    sys.exit(main())
