"""The pages with knobs of chapters 1, 2, 5 and 6: the noise ladder with the Bob meter, a walk, the mixer of contexts."""

from collections.abc import Sequence
from functools import cache

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from sprites_lab import figures, lab
from sprites_lab.checkpoints import Checkpoint
from sprites_lab.data import CLASS_NAMES, context_of
from sprites_lab.figures import Figure
from sprites_lab.knobs import Choice, Knob, Panel
from sprites_lab.observer import CERTAIN, Observer
from sprites_lab.predictors import Predictor, conditioned, guided
from sprites_lab.runtime import fast_network
from sprites_lab.samplers import final
from sprites_lab.schedule import NoiseSchedule
from sprites_lab.start import FittedStart
from sprites_lab.walks import Walk, fitted_start

COLUMNS, LIKELIEST, SEEDS = 8, 4, 99
SAMPLERS = {
    "DDPM, thinned": Walk("ddim", eta=1.0, spacing="trailing"), "DDIM": Walk("ddim", eta=0.0, spacing="trailing"),
    "2M": Walk("dpm-solver", eta=0.0, spacing="karras"), "2M SDE": Walk("dpm-solver", eta=1.0, spacing="karras"),
}  # fmt: skip
LENGTHS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 25, 50)
MIXED = (1, 2, 4, 10, 25)  # calls of the mixer: students, then the network that taught them


def noise_ladder(bob: Tensor, observer: Observer, schedule: NoiseSchedule, noise: Tensor) -> Panel:
    """Chapter 1: one sprite, bob (1, 3, H, W), in the first of the noises at any t: the observer's best answer, whom it thinks of, its doubt."""

    def draw(t: int) -> Figure:
        x_t = schedule.add_noise(bob.cpu(), t, noise[:1].cpu())
        asked = max(t, 1)  # at 0 all is known and nobody is asked; at 1 it comes to the same
        chances, names = observer.posterior(x_t, asked)[0].topk(min(LIKELIEST, len(observer.sprites)))
        likeliest = observer.sprites[names].reshape(-1, *observer.shape).float()
        bits, most, (words,) = max(0.0, observer.entropy(x_t, asked).item()), observer.max_entropy(), observer.meter(x_t, asked)
        cell, titles = 6 * bob.shape[-1] + 2, [f"x_t, t={t}", "best answer", *(f"{chance:.0%} likely" if chance >= 0.01 else "< 1%" for chance in chances.tolist())]
        sheet = figures.tile(torch.cat([x_t, observer.guess_x0(x_t, asked), likeliest]), len(titles), 6)
        says = f"{bits:.2f} of {most:.2f} bits of doubt: {words}"
        alt = f"A sprite at t={t}, the best answer, the likeliest sprites; {says}"
        return picture([figures.label_grid(sheet, cell, (), titles), gauge(bits, most, says, sheet.width)], alt)

    start = round(0.75 * schedule.timesteps)
    about = f"noise level: 0 is the clean sprite, {schedule.timesteps} the last"
    return Panel(draw, "One sprite in more and more noise, what a perfect observer would answer, and how unsure it is (the Bob meter).", {"t": Knob(0, schedule.timesteps, 1, start, about)})


def walk(found: Checkpoint, samplers: Sequence[str] = tuple(SAMPLERS), start: FittedStart | None = None, count: int = 16) -> Panel:
    """Chapters 2 and 6: sprites that a network draws without context, by one of the SAMPLERS, in few or many steps, from one seed or another.

    `start` turns the noise into a fitted x_T. Fresh noise, where a sampler takes it, follows from the seed and the picture's number.
    """
    network, schedule, lengths = quick(found.model), found.schedule, [n for n in LENGTHS if n <= found.schedule.timesteps]

    def draw(sampler: str, steps: int, seed: int) -> Figure:
        x_T = lab.starting_noise(count, seed, found.model.picture_shape[-1], next(found.model.parameters()).device)
        way = SAMPLERS[sampler]._replace(steps=steps)
        dice = [lab.picture_generator(seed + 1, i) for i in range(count)]
        drawn = final(way.run(conditioned(network, None), schedule, start(x_T) if start else x_T, dice))
        return picture([figures.tile(drawn, COLUMNS, 5)], f"{count} sprites by {sampler} in {steps} network {'call' if steps == 1 else 'calls'}, seed {seed}")

    usual = min(10, lengths[-1])
    return Panel(draw, "The same noise walked by one sampler or another, in as many network calls as you give it.", {
        "sampler": Choice(samplers, samplers[0], "how a step is taken: with fresh noise (DDPM, 2M SDE) or without (DDIM, 2M)"),
        "steps": Choice(lengths, usual, "network calls for each sprite: more take longer"),
        "seed": Knob(0, SEEDS, 1, 0, "another seed is another starting noise"),
    })  # fmt: skip


def mixer(device: torch.device | str = "cpu", count: int = 32) -> Panel:
    """Chapter 5: the five numbers of the context, guidance, steps and seed over `count` sprites of the shipped networks.

    1, 2 and 4 steps are students, whose lessons had guidance 2 in them: scale 1 is their plain answer, above 1 pushes once more.
    They practised one class, two whose shares add up to 1, and nothing. 10 and 25 steps are their teacher's, by 2M.
    """
    ready, start = cache(lambda steps: mixer_network(steps, device)), fitted_start(lab.load_student(MIXED[0]))

    def draw(guidance: float, steps: int, seed: int, **shares: float) -> Figure:
        network, schedule, way = ready(steps)
        predict = asked(network, context_of(shares), guidance)
        drawn = final(way.run(predict, schedule, start(lab.starting_noise(count, seed, device=device)), None))
        wish = " + ".join(f"{share:g} {name}" for name, share in shares.items() if share) or "nothing in particular"
        return picture([figures.tile(drawn, COLUMNS, 4)], f"{count} sprites asked for {wish}, guidance {guidance:g}, steps {steps}, seed {seed}")

    shares = {name: Knob(0.0, 1.0, 0.05, {"hero": 0.5, "food": 0.5}.get(name, 0.0), f"how much {name} is asked for") for name in CLASS_NAMES}
    return Panel(draw, "Sprites for a mixture of classes. All at 0 asks for nothing in particular; 1, 2 and 4 steps are drawn by students, who learnt with guidance 2.", shares | {
        "guidance": Knob(0.0, 4.0, 0.5, 1.0, "0 ignores the context, 1 follows it, above 1 pushes; any other than 0 and 1 takes two calls for each step"),
        "steps": Choice(MIXED, 2, "1, 2, 4: students; 10, 25: their teacher, slower"),
        "seed": Knob(0, SEEDS, 1, 0, "another seed is another starting noise"),
    })  # fmt: skip


def mixer_network(steps: int, device: torch.device | str) -> tuple[nn.Module, NoiseSchedule, Walk]:
    """The shipped network that draws in so many steps, fast, with its schedule and its walk."""
    student = steps in lab.STUDENTS
    found = lab.load_student(steps, device) if student else lab.load_weights(device=device)
    way = Walk() if student else Walk("dpm-solver", steps, eta=0.0, spacing="karras")
    return quick(found.model), found.schedule, way.checked(found.schedule.timesteps, found.facts)


def asked(network: nn.Module, context: Tensor, scale: float) -> Predictor:
    """The network guided towards a context; at scale 0 and 1 one call is enough."""
    told, free = conditioned(network, context), conditioned(network, None)
    return told if scale == 1 else free if scale == 0 else guided(told, free, scale)


def quick(model: nn.Module) -> nn.Module:
    """The network as it runs fastest here; in float32 for a stored page, whose pictures must not depend on the processor."""
    return fast_network(model, None if lab.static() else lab.fast_dtype(next(model.parameters()).device))


def picture(parts: Sequence[Image.Image], alt: str) -> Figure:
    """Pictures below each other as one. A stored page gets a small file that also says in letters what the controls would say.

    Under a hand the file is a tenth larger and packed in a fraction of the time.
    """
    whole = figures.arrange([[part] for part in parts], gap=0)
    if lab.static():
        return Figure(figures.png(figures.label_grid(whole, 0, (), (alt,))), alt)
    return Figure(figures.png(whole, small=False), alt)


def gauge(bits: float, most: float, says: str, width: int) -> Image.Image:
    """A bar filled up to `bits` of `most`, with what it says above; ticks where the words change, their numbers below."""
    image = Image.new("RGB", (width, 64), "white")
    pen, font, (left, right) = ImageDraw.Draw(image), ImageFont.load_default(12), (8, width - 12)
    place = lambda value: left + (right - left) * value / (most or 1)  # noqa: E731
    pen.text((left, 4), says, "black", font)
    pen.rectangle((left, 24, place(bits), 42), figures.COLOURS[0])
    pen.rectangle((left, 24, right, 42), None, "black")
    for value, name in ((CERTAIN, "certain"), (most / 2, f"{most / 2:.1f}: no idea from here on"), (most, f"{most:.1f}")):
        middle = place(value)
        pen.line((middle, 42, middle, 47), "black")
        pen.text((min(max(middle - font.getlength(name) / 2, left), width - font.getlength(name) - 2), 48), name, "black", font)
    return image
