"""What each worker of test_team.py does, started by torchrun (or alone): train, draw, and write down what came out."""

import sys
from pathlib import Path

import torch
from small import generator, network, pictures

from sprites_lab import evaluation, linear_schedule
from sprites_lab.errors import LabError
from sprites_lab.recipes import course_recipe, improved_recipe
from sprites_lab.team import Team, joined, share_batch_norm
from sprites_lab.training import train
from sprites_lab.walks import Walk

STEPS = 20


def losses(team: Team, recipe) -> tuple[list[float], dict]:
    """The losses of 20 updates in float32 with batches of 7, which two workers share as 3 and 4; and the weights after them."""
    model = share_batch_norm(network(features=16, velocity=recipe.velocity).follow(*scales()), team)
    state, (x0, context) = recipe.state(model), pictures(70)
    steps = train(state, linear_schedule(), x0, context, 2, 7, recipe.learning_rate, loss=recipe.loss, draw_t=recipe.draw_t, team=team)
    return [progress.loss for progress in steps][:STEPS], state.model.state_dict()


def scales():
    schedule = linear_schedule()
    return schedule.signal_scale, schedule.noise_scale


def talk(team: Team) -> dict:
    """What the parts of a team say."""
    def refused(value):
        try:
            team.agree(value, "values")
        except LabError as error:
            return str(error)

    return {
        "order": list(team.in_order(range(team.rank, 5, team.size), 5)), "told": team.told(f"worker {team.rank}"),
        "total": team.total(torch.tensor([1.0, team.rank])).tolist(), "agreed": refused("same"), "refused": refused(team.rank),
    }


def main(folder: Path) -> None:
    with joined() as team:
        found = {"talk": talk(team), "team": tuple(team)}
        for name, recipe in (("course", course_recipe()), ("improved", improved_recipe())):
            found[name] = losses(team, recipe)
        task = evaluation.open_task(folder / "w.safetensors", 330, 1, Walk("ddim", 2))
        found["made"] = evaluation.make(task, 0, team), evaluation.make_unasked(task, 0, team)
        norm = share_batch_norm(torch.nn.Sequential(torch.nn.BatchNorm2d(3)), team).train()
        x = torch.randn(6, 3, 4, 4, generator=generator()).requires_grad_()
        answer = norm(x[team.share(6)])
        (answer * torch.arange(1.0, 7)[team.share(6), None, None, None].sin()).sum().backward()
        found["norm"] = (answer.detach(), team.total(x.grad.clone()), {name: tensor.clone() for name, tensor in norm.state_dict().items()})
        torch.save(found, folder / f"{team.size}-{team.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
