"""What each command does, once its options are read. Heavy imports wait until a command needs them."""

import argparse
import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sprites_lab.errors import LabError

if TYPE_CHECKING:
    import numpy as np

    from sprites_lab.data import SpriteSet
    from sprites_lab.evaluation import Reference
    from sprites_lab.own_sprites import Account
    from sprites_lab.runs import Run
    from sprites_lab.walks import Walk


def train(options: argparse.Namespace) -> None:
    """Train in a folder, with a bar that shows the loss and the time left."""
    from tqdm import tqdm

    from sprites_lab import lab, runs
    from sprites_lab.team import joined

    if options.save_every < 1:
        raise LabError(f"--save-every is {options.save_every}, but must be at least 1")
    check_folder(options.out)
    chosen = {name: getattr(options, name) for name in runs.RECIPE if hasattr(options, name)}
    with joined() as team:
        run = runs.open_run(options.out, options.resume, lab.pick_device(options.device), options.sprites, team, options.quick, **chosen)
        team.on_first(lambda: announce(run))
        try:
            with tqdm(initial=run.state.updates, total=run.total, unit="update", disable=not team.first) as bar:
                for progress in lab.whole_steps(runs.go(run, options.save_every)):
                    bar.update()
                    bar.set_postfix_str(f"epoch {progress.epoch}, loss {progress.loss:.4f}", refresh=False)
        except KeyboardInterrupt:
            print(f"stopped after update {run.state.updates}; go on with: python -m sprites_lab train --out {options.out} --resume", file=sys.stderr)
            raise
        final = run.folder / runs.FINAL
        team.on_first(lambda: print(f"the network: {final}\nnext: {in_shell('sample', '--weights', final, '--context', run.sprites.class_names[0], '--out', 'samples.png')}"))


def announce(run: "Run") -> None:
    """Say what is about to be trained."""
    recipe, shared = run.recipe, f", shared by {run.team.size} workers" * (run.team.size > 1)
    print(f"{len(run.sprites.train):,} sprites, {recipe['epochs']} epochs of {run.updates_per_epoch} updates on {run.device}{shared}; {run.folder} keeps the run")
    if run.state.updates == run.total:
        print("this run is finished")
    elif run.total < 1000 and not recipe["start"]:
        print(f"note: a network that begins with nothing hardly learns to draw in {run.total} updates; give more --epochs, or --quick to go on from the shipped network")


def distill(options: argparse.Namespace) -> None:
    """Let the teacher walk, train a student on its walks, with a bar for each."""
    from tqdm import tqdm

    from sprites_lab import lab, students

    if options.save_every < 1:
        raise LabError(f"--save-every is {options.save_every}, but must be at least 1")
    check_folder(options.out)
    check_folder(options.lessons)
    chosen = {name: getattr(options, name) for name in students.RECIPE if hasattr(options, name)}
    teacher, device = options.teacher or lab.FINAL, lab.pick_device(options.device)
    count = students.recipe_of(options.out, options.resume, chosen)[1]["count"]
    for _ in tqdm(students.write_lessons(options.lessons, teacher, count, device, options.sprites), total=-(-count // students.PART), unit="thousand walks"):
        pass
    student = students.open_student(options.out, options.lessons, teacher, options.resume, device, options.start, **chosen)
    try:
        with tqdm(initial=student.state.updates, total=student.total, unit="batch") as bar:
            for progress in lab.whole_steps(students.go(student, options.save_every)):
                bar.update()
                bar.set_postfix_str(f"epoch {progress.epoch}, loss {progress.loss:.4f}", refresh=False)
    except KeyboardInterrupt:
        print(f"stopped after batch {student.state.updates}; go on with the same command and --resume", file=sys.stderr)
        raise
    print(f"the student: {student.network_file}")


def sample(options: argparse.Namespace) -> None:
    """Make sprites and write them as a sheet, a walk or arrays."""
    from sprites_lab import original_lab, sampling
    from sprites_lab.team import joined

    check_file(options.out, (".png", ".gif", ".npz"))
    began = time.monotonic()
    with joined() as team:
        try:
            facts = sampling.sample_to_file(
                options.out, options.weights, options.context, options.count, walk_of(options), options.seed, options.device, options.sprites, options.resume, team,
            )
        except KeyboardInterrupt:
            if options.out.suffix.lower() == ".npz":
                print("stopped; what is finished is kept: go on with the same command and --resume", file=sys.stderr)
            raise
        if team.first and "forward" in facts:
            print(original_lab.told(facts))
        team.on_first(lambda: print(f"{options.count} sprites in {time.monotonic() - began:.1f} s: {options.out}"))


def walk_of(options: argparse.Namespace) -> "Walk":
    """The walk that the options ask for, open where they say nothing."""
    from sprites_lab.walks import Walk

    return Walk(options.sampler, options.steps, options.eta, options.scale, options.spacing, options.start)


def evaluate(options: argparse.Namespace) -> None:
    """Measure how good the sprites of a network are, or what sprites cost it in bits."""
    price(options) if options.likelihood else score(options)


def score(options: argparse.Namespace) -> None:
    """Measure a network's sprites beside yardsticks, print the table, write the numbers."""
    import json

    from sprites_lab import checkpoints, evaluation, lab
    from sprites_lab.team import joined

    for option, path, suffix in (("--json", options.json, ".json"), ("--sheet", options.sheet, ".png"), ("--pairs", options.pairs, ".png")):
        if path:
            check_file(path, (suffix,), option)
    with joined() as team:
        device = lab.pick_device(options.device)
        task = evaluation.open_task(options.weights, 10_000 if options.count is None else options.count, options.seeds, walk_of(options), device, options.sprites)
        team.agree((task.sha256, task.walk, task.count, task.seeds), "weights or options")
        ref = evaluation.reference(options.classifier, checkpoints.sprites_file(task.found.facts, options.sprites), device)
        look = partial(show_made, options, ref) if options.sheet or options.pairs else None
        found = evaluation.evaluate(task, ref, draw_fresh if can_draw(ref.train) else None, look, options.alone, team)
    if not team.first:
        return
    if options.json:
        checkpoints.write_bytes(options.json, json.dumps(found, indent=1).encode())
        checkpoints.write_bytes(options.json.with_suffix(".md"), evaluation.table(found).encode())
    print(evaluation.table(found), evaluation.meanings(), sep="\n\n")


def show_made(options: argparse.Namespace, ref: "Reference", made: "np.ndarray", real: "np.ndarray") -> None:
    """Write the pictures that were asked for of the first sprites made, as they came, and of as many real ones."""
    from sprites_lab import checkpoints, figures, lab
    from sprites_lab.data import to_pictures

    if options.pairs:
        print(write_pairs(options.pairs, made, ref))
    if options.sheet:
        sheets = {f"100 made by {options.weights or lab.FINAL.name}": to_pictures(made[:100]), "100 real ones": to_pictures(real[:100])}
        checkpoints.write_bytes(options.sheet, figures.side_by_side(sheets).data)


def write_pairs(path: Path, made: "np.ndarray", ref: "Reference") -> str:
    """Write a picture of the five made sprites that come nearest to training sprites; what the audit of the first 500 says."""
    import numpy as np

    from sprites_lab import audit, checkpoints, figures
    from sprites_lab.data import to_pictures

    some = made[:500]
    pairs = audit.nearest_pairs(some, ref.train.sprites)
    sheet = figures.show_grid(to_pictures(np.concatenate([pairs.made, pairs.train])), len(pairs.made), 6, ["made", "nearest"], [f"{far:.1f}" for far in pairs.distance])
    checkpoints.write_bytes(path, sheet.data)
    return audit.told(audit.Audit(pairs.copies, audit.copy_rate(ref.test.sprites[: len(some)], ref.train.sprites)))


def price(options: argparse.Namespace) -> None:
    """What sprites cost a network in bits, and yardsticks beside them; print the table, write the numbers."""
    import json

    from sprites_lab import checkpoints, lab, probabilities

    given = [name for name in ("classifier", "sampler", "eta", "spacing", "start", "alone", "sheet", "pairs") if getattr(options, name) is not None and getattr(options, name) is not False]
    if given:
        raise LabError(f"--likelihood asks the network about pictures and draws none, so --{given[0]} means nothing here: leave it out")
    if options.json:
        check_file(options.json, (".json",), "--json")
    trained = probabilities.open_trained(options.weights, options.sprites, lab.pick_device(options.device))
    found = probabilities.bits_per_dimension(trained, 100 if options.count is None else options.count, 64 if options.steps is None else options.steps)
    if options.json:
        checkpoints.write_bytes(options.json, json.dumps(found, indent=1).encode())
        checkpoints.write_bytes(options.json.with_suffix(".md"), probabilities.table(found).encode())
    print(probabilities.table(found))


def classify(options: argparse.Namespace) -> None:
    """Say of each sprite in PNG pictures which class the network sees in it."""
    from sprites_lab import lab, own_sprites, probabilities

    reading = own_sprites.Reading(tile=size_of("--tile", options.tile), fit=options.fit, background=colour_of("--background", options.background))
    for name, classes in probabilities.named(options.weights, options.sources, reading, lab.pick_device(options.device)):
        print(f"{name}: " + ", ".join(f"{label} {share:.1%}" for label, share in classes[:3]))


def can_draw(sprites: "SpriteSet") -> bool:
    """Whether these are the artist's kinds of sprites; nobody can draw more of someone's own."""
    from sprites_lab.data import load_sprites

    return sprites.kind_names == load_sprites().kind_names


def draw_fresh(count: int, seed: int) -> "SpriteSet":
    """New sprites of the artist, `count` of them."""
    from sprites_lab.data import CLASS_NAMES, SpriteSet
    from sprites_lab.drawing import artist

    arrays = artist.draw_set(max(count, artist.LEAST), seed)
    return SpriteSet(*(arrays[name] for name in ("sprites", "labels", "kinds", "held_out")), tuple(arrays["kind_names"]), CLASS_NAMES)[:count]


def ablate(options: argparse.Namespace) -> None:
    """Train and measure one small network for each lever (or without each part); print a line for each as soon as it is there."""
    import json

    from sprites_lab import ablation, checkpoints, evaluation, lab
    from sprites_lab.data import load_sprites

    if options.parts and options.arms:
        raise LabError("--parts pulls no levers, so --arms means nothing here: leave one of them out")
    check_folder(options.out)
    if options.json:
        check_file(options.json, (".json",), "--json")
    names, device, results = options.arms.split(",") if options.arms else list(ablation.ARMS), lab.pick_device(options.device), []
    sprites = load_sprites()
    train, held_out = sprites.train, sprites.test[: options.count]
    if options.parts:
        arms, header, line = ablation.parts(options.out, train, held_out, options.features, options.epochs, options.seed, device), ablation.PARTS_HEADER, ablation.part_line
    else:
        reference = evaluation.reference(device=device)
        arms, header, line = ablation.ablate(options.out, reference, train, names, options.features, options.epochs, options.count, options.seed, device), ablation.HEADER, ablation.line
    print(header)
    for found in arms:
        results.append(found)
        print(line(found), flush=True)
    if options.json:
        checkpoints.write_bytes(options.json, json.dumps(results, indent=1).encode())


def sweep(options: argparse.Namespace) -> None:
    """Measure every way to walk at every number of steps; print a line for each as soon as it is there."""
    import json

    from sprites_lab import checkpoints, evaluation, lab, sweep
    from sprites_lab.walks import Walk

    check_folder(options.out)
    if options.json:
        check_file(options.json, (".json",), "--json")
    device, results = lab.pick_device(options.device), []
    task = evaluation.open_task(options.weights, options.count, options.seeds, Walk("ddim", 1, scale=options.scale), device)
    print(sweep.HEADER)
    ways, steps = options.ways.split(";") if options.ways else list(sweep.WAYS), options.steps or [n for n in sweep.STEPS if n <= task.found.schedule.timesteps]
    for found in sweep.sweep(task, evaluation.reference(device=device), options.out, [way.strip() for way in ways], steps):
        results.append(found)
        print(sweep.line(found), flush=True)
    if options.json:
        checkpoints.write_bytes(options.json, json.dumps(results, indent=1).encode())


def bench(options: argparse.Namespace) -> None:
    """Measure how fast this machine draws and trains, print the tables, write the numbers."""
    import json

    from sprites_lab import bench, checkpoints, lab
    from sprites_lab.data import load_sprites

    if options.json:
        check_file(options.json, (".json",), "--json")
    found = bench.bench(load_sprites().train, options.features, lab.pick_device(options.device))
    if options.json:
        checkpoints.write_bytes(options.json, json.dumps(found, indent=1).encode())
    print(bench.table(found))


def train_classifier(options: argparse.Namespace) -> None:
    """Train the classifier on the training split, with a bar, and write it."""
    from tqdm import tqdm

    from sprites_lab import checkpoints, classifier, lab
    from sprites_lab.data import SPRITES, load_sprites

    check_file(options.out, (".safetensors",), make=True)
    path = options.sprites or SPRITES
    sprites, device = load_sprites(path), lab.pick_device(options.device)
    classifier.classes_of_kinds(sprites)
    model = classifier.new_classifier(len(sprites.kind_names), seed=options.seed)
    classifier.check_task(model, sprites.train, options.epochs)
    steps = classifier.train_classifier(model, sprites.train, options.epochs, options.seed, device, lab.fast_dtype(device))
    for _, loss in (bar := tqdm(steps, total=options.epochs * -(-len(sprites.train) // classifier.BATCH), unit="update")):
        bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
    facts = {"epochs": options.epochs, "seed": options.seed, "sprites_sha256": checkpoints.sha256_of(path)}
    classifier.save_classifier(options.out, model, sprites, facts)
    print(f"the classifier: {options.out}")


def draw(options: argparse.Namespace) -> None:
    """Draw the bundled set again, write it or compare it with the shipped file."""
    from sprites_lab import checkpoints, neighbours
    from sprites_lab.data import SPRITES, load_sprites
    from sprites_lab.drawing import artist

    if options.kind:
        return draw_kind(options)
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


def draw_kind(options: argparse.Namespace) -> None:
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


def import_pictures(options: argparse.Namespace) -> None:
    """Read PNG files and folders, or the course's .npy files, write the sprite file and a preview, and say what was understood."""
    from sprites_lab import checkpoints, figures
    from sprites_lab.data import SPRITES, file_bytes

    preview = options.preview or options.out.with_suffix(".png")
    check_file(options.out, (".npz",), make=True)
    check_file(preview, (".png",), "--preview", make=True)
    if options.out.resolve() == SPRITES.resolve():
        raise LabError(f"--out {options.out} is the bundled sprite set, which stays as it is; choose another name")
    if preview.resolve() in {Path(str(source).rpartition("=")[2]).resolve() for source in options.sources}:
        raise LabError(f"--preview {preview} is one of the pictures to import; choose another name for the preview")
    found = read_sources(options)
    checkpoints.write_bytes(options.out, file_bytes(found.sprites))
    checkpoints.write_bytes(preview, figures.show_classes(found.sprites.sprites, found.sprites.labels, found.sprites.class_names).data)
    print(*found.lines, f"the sprites: {options.out}; please look at {preview} to see that they were understood", sep="\n")
    print(f"next: {in_shell('train', '--quick', '--sprites', options.out, '--out', f'runs/{options.out.stem}')}")


def in_shell(*words: object) -> str:
    """A command of ours as it is typed."""
    return shlex.join(["python", "-m", "sprites_lab", *map(str, words)])


def read_sources(options: argparse.Namespace) -> "Account":
    """The sprites of the pictures, or of the course's arrays, that were named."""
    from sprites_lab import original_sprites, own_sprites

    paths = [Path(source) for source in options.sources]
    if any(path.suffix.lower() == ".npy" for path in paths):
        if len(paths) > 2:
            raise LabError("give the course's two .npy files, pictures and labels, or only the pictures: the labels are then looked for beside them")
        return own_sprites.Account(*original_sprites.course_sprites(*paths))
    if len(paths) == 1 and any(paths[0].glob("*.npy")) and not any(paths[0].glob("*.png")):
        return own_sprites.Account(*original_sprites.course_sprites(folder=paths[0]))
    reading = own_sprites.Reading(
        size_of("--tile", options.tile), options.spacing, options.margin, options.crop, options.size, options.fit,
        colour_of("--background", options.background), colour_of("--key", options.key), options.frames, options.held_out,
    )
    return own_sprites.import_sprites(options.sources, reading)


def size_of(option: str, text: str | None) -> tuple[int, int] | None:
    """Width and height from "16" or "16x24"."""
    try:
        numbers = [int(number) for number in text.lower().split("x")] if text else []
    except ValueError:
        numbers = [0, 0, 0]
    if len(numbers) > 2:
        raise LabError(f"{option} {text}: write a number of pixels, such as 16, or width x height, such as 16x24")
    return (numbers[0], numbers[-1]) if numbers else None


def colour_of(option: str, text: str | None) -> tuple[int, int, int] | None:
    """Red, green and blue from a colour's name or number."""
    from PIL import ImageColor

    try:
        return ImageColor.getrgb(text)[:3] if text is not None else None
    except ValueError:
        raise LabError(f"{option} {text} is no colour; write for example white or '#ff00ff'") from None


def write_sheets(folder: Path, arrays: dict) -> None:
    """One PNG for each class: its first 100 sprites, enlarged four times."""
    from sprites_lab import checkpoints, figures
    from sprites_lab.data import CLASS_NAMES, to_pictures

    for label, name in enumerate(CLASS_NAMES):
        sprites = arrays["sprites"][arrays["labels"] == label][:100]
        checkpoints.write_bytes(folder / f"{name}.png", figures.png(figures.tile(to_pictures(sprites), 20, 4)))
    print(f"sheets of 100 sprites per class: {folder}")


def check_file(path: Path, suffixes: tuple[str, ...], option: str = "--out", make: bool = False) -> None:
    """LabError, before any work is done, if the file cannot be written; with `make`, its folder may still be missing."""
    if path.suffix.lower() not in suffixes:
        raise LabError(f"{option} {path}: the name must end in {' or '.join(suffixes)}")
    try:
        is_folder = path.is_dir()
    except OSError as error:
        raise LabError(f"{option} {path} is no possible path: {error.strerror}") from error
    if is_folder:
        raise LabError(f"{option} {path} is a folder; give the name of a file")
    check_folder(path.parent, make)


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
