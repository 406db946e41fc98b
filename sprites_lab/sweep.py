"""How good are sprites after few steps, each a network call (with guidance two)? Every solver with every spacing: `python -m sprites_lab sweep`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sprites_lab import checkpoints, evaluation
from sprites_lab.errors import LabError
from sprites_lab.evaluation import Reference, Task
from sprites_lab.walks import SPACINGS, Walk, fitted_start

STEPS = (1, 2, 3, 4, 5, 8, 10, 15, 20, 25, 50, 100, 250, 500)
SOLVERS = {
    "DDIM": Walk("ddim"), "noisy DDIM": Walk("ddim", eta=1.0), "2M": Walk("dpm-solver"), "2M SDE": Walk("dpm-solver", eta=1.0),
    "iPNDM": Walk("ipndm"), "UniPC": Walk("unipc"),
}
WAYS = {f"{name} {spacing}": walk._replace(spacing=spacing, start="fitted") for name, walk in SOLVERS.items() for spacing in SPACINGS}
WAYS |= {"DDIM trailing, from noise": Walk("ddim", spacing="trailing", start="noise"), "2M SDE karras, from noise": Walk("dpm-solver", eta=1.0, spacing="karras", start="noise")}
KEPT = ("fd_train", "fd_inf", "kd", "class_acc", "recall", "coverage", "copy_rate")
HEADER = "| way | steps | FD training | kernel distance | class recognised | recall | coverage |\n" + "|---" * 7 + "|"


def sweep(task: Task, ref: Reference, folder: Path, ways: list[str], steps: list[int]) -> Iterator[dict[str, Any]]:
    """Measure the network of the task for each way and number of steps, yielding what was found; what is in the folder is not repeated.

    The task's own walk gives the guidance scale alone. LabError, before any work, for a way or a number that is not there.
    """
    if unknown := [way for way in ways if way not in WAYS]:
        raise LabError(f"there is no way '{unknown[0]}'; there are: {'; '.join(WAYS)}")
    evaluation.check_fit(task, ref)
    timesteps = task.found.schedule.timesteps
    walks = {(way, n): WAYS[way]._replace(steps=n, scale=task.walk.scale).checked(timesteps) for way in ways for n in steps}
    starts = {"noise": None}
    for (way, n), walk in walks.items():
        path = folder / f"{task.sha256[:8]}-{way.replace(' ', '-').replace(',', '')}-{n}-x{walk.scale:g}-{task.count}-{task.seeds}.json"
        if not path.exists():
            if walk.start not in starts:
                starts[walk.start] = fitted_start(task.found)
            here = task._replace(walk=walk, start=starts[walk.start])
            seeds = [evaluation.measure(evaluation.make(here, seed), ref, seed) for seed in range(task.seeds)]
            found = {"network_sha256": task.sha256, "way": way, "steps": n, "calls": n * (1 + (walk.scale != 1)), "walk": walk._asdict(), "count": task.count, "seeds": task.seeds}
            found |= {key: [one[key] for one in seeds] for key in KEPT}
            checkpoints.write_bytes(path, json.dumps(found).encode())
        yield json.loads(path.read_text())


def line(found: dict[str, Any]) -> str:
    """One row of the table of results: means over the seeds."""
    means = {key: sum(found[key]) / len(found[key]) for key in KEPT}
    values = [f"{means['fd_train']:.1f}", f"{means['kd']:.1f}", *(f"{means[key]:.3f}" for key in ("class_acc", "recall", "coverage"))]
    return f"| {found['way']} | {found['steps']} | " + " | ".join(values) + " |"
