"""The original course's network: its .pth weights, which a reader may own, its schedule table, and how its noise was added.

Nothing of the course is in this project; it is only read. What differs from this lab is adapted here and nowhere else: the
names of layers, the shortcut that is in no file, and noise that was added without the root.
"""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sprites_lab import gates
from sprites_lab.chance import seeded
from sprites_lab.checkpoints import Checkpoint
from sprites_lab.data import SpriteSet, load_sprites
from sprites_lab.errors import LabError
from sprites_lab.original_sprites import FOLDER, MAX_CLASSES, course_sprites, names_of
from sprites_lab.pickle_program import WEIGHTS_ADVICE, examine, shown
from sprites_lab.schedule import NoiseSchedule, from_beta
from sprites_lab.unet import ContextUnet

T, BETA_START, BETA_END = 500, 1e-4, 0.02
NAMES_SHOWN = 5
RULES = {"sqrt": "the square root of 1 - alpha_bar", "course": "1 - alpha_bar, without the root"}
LITTLE, MUCH, COUNT = (10, 20, 40, 60, 80, 100, 120, 150), (200, 300, 400, 500), 12  # timesteps; pictures at each
SILENT, WEAK = 0.9, 0.4  # a network that always answers 0 has a noise error of 1; above WEAK the verdict may be wrong


def course_schedule() -> NoiseSchedule:
    """The course's table: beta from 1e-4 at index 0 to 0.02 at index 500, alpha_bar the product over 0..t, alpha_bar[0] then set to 1.

    So its first step holds the noise of two: beta[1] = 1 - (1 - b_0)(1 - b_1). Said so, it is a schedule like any other.
    """
    beta = BETA_START + (BETA_END - BETA_START) * torch.arange(T + 1, dtype=torch.float64) / T
    beta[1] = 1 - (1 - beta[0]) * (1 - beta[1])
    return from_beta(beta, f"original course T={T} beta={BETA_START:g}..{BETA_END:g}")


def without_root(schedule: NoiseSchedule) -> tuple[NoiseSchedule, Tensor]:
    """What x_t = sqrt(alpha_bar) x0 + (1 - alpha_bar) noise is in this lab's terms: a schedule, and the length r, float64 (T + 1,).

    x_t / r, with r^2 = alpha_bar + (1 - alpha_bar)^2, is a picture of the schedule with alpha_bar' = alpha_bar / r^2.
    """
    power = schedule.alpha_bar + (1 - schedule.alpha_bar) ** 2
    alpha_bar = schedule.alpha_bar / power
    beta = torch.cat([torch.zeros(1, dtype=torch.float64), 1 - alpha_bar[1:] / alpha_bar[:-1]])
    return from_beta(beta, f"{schedule.name}, noise without the root"), power.sqrt()


def load_course_weights(
    path: str | Path, sprites: Tensor | SpriteSet | None = None, class_names: Sequence[str] | None = None, forward: str | None = None
) -> Checkpoint:
    """A .pth file of the course's network, through every gate, as a checkpoint like our own; features and classes come from the file.

    How noise was added in its training ("sqrt": sqrt(1 - alpha_bar), or "course": 1 - alpha_bar) is in no file: it is measured on
    known `sprites`, (N, 3, 16, 16) in [-1, 1] (by default the course's own if they lie in data/, else the bundled ones), or given by
    `forward`. Schedule and network then fit each other and every sampler; `told` puts what was found into words. The
    network's random shortcut, which is in no file, is its expectation 0.
    """
    path = Path(path)
    if forward not in (None, *RULES):
        raise LabError(f"forward is {forward!r}, but must be 'sqrt', 'course', or None to measure it")
    found = read_tensors(path)
    settings = check_tensors(path, found)
    names = names_of(class_names, settings["context_size"])
    if len(names) != settings["context_size"]:
        raise LabError(f"class_names has {len(names)} names, but {path} has {settings['context_size']} classes")
    model, schedule = filled(ContextUnet, settings, found), course_schedule()
    facts = {"kind": "network", "source": "the original course", "network": settings, "predicts": "noise", "classes": list(names)}
    facts["shortcut"] = "zero: the original makes a new random one in every call, and none is in its files"
    facts["forward"] = {"rule": forward} if forward else measured(path, model, schedule, sprites)
    if facts["forward"]["rule"] == "course":
        schedule, length = without_root(schedule)
        model = filled(RescaledUnet, settings, found)
        model.input_scale.copy_(length)
    facts["schedule"] = schedule.name
    return Checkpoint(model, schedule, facts, {"model": model.state_dict(), "schedule": {"beta": schedule.beta}})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors in a .pth file: zip archive, checksums and program are examined before torch sees it."""
    data = gates.read_file(path, "weights file (.pth)", WEIGHTS_ADVICE, b"PK\x03\x04")
    members = read_members(path, data)
    examine(path, members["data.pkl"], {name: len(content) for name, content in members.items()})
    copy = io.BytesIO()  # another archive of what was examined: two readers may see different things in a crafted one
    with zipfile.ZipFile(copy, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"weights/{name}", content)
    try:
        found = torch.load(io.BytesIO(copy.getbuffer()), map_location="cpu", weights_only=True)
    except Exception as error:
        raise LabError(f"{path} is damaged, or holds no plain tensors. Copy or download it again") from error
    return plain_tensors(path, found)


def read_members(path: Path, data: bytes) -> dict[str, bytes]:
    """What torch needs of the archive, without its outer folder, whose name varies; every checksum is compared."""
    with gates.open_zip(path, data, packed=False) as archive:
        try:
            contents = {name: archive.read(name) for name in archive.namelist()}
        except Exception as error:  # a wrong checksum, a list of contents that does not fit
            raise LabError(f"{path} is damaged: a checksum does not match. Copy or download it again") from error
    roots = {name.partition("/")[0] for name in contents}
    members = {name.partition("/")[2]: content for name, content in contents.items()}
    if len(roots) != 1 or not {"data.pkl", "version"} <= members.keys():
        raise LabError(f"{path} is a zip archive, but none of weights; {WEIGHTS_ADVICE}")
    return {name: content for name, content in members.items() if name in ("data.pkl", "version", "byteorder") or name.startswith("data/")}


def plain_tensors(path: Path, found: Any) -> dict[str, Tensor]:
    """The dict of names to dense tensors of the CPU that a file must hold, or a LabError that says what else it holds."""
    if not isinstance(found, dict):
        raise LabError(f"{path} holds a {type(found).__name__}, not a dict of weights; save the state_dict() of the network")
    if others := [name for name, value in found.items() if not isinstance(name, str) or not isinstance(value, Tensor)]:
        texts = [shown(name) for name in found if isinstance(name, str)]
        inner = next((shown(name) for name in others if isinstance(name, str) and isinstance(found[name], dict)), "state_dict")
        raise LabError(f"{path} holds more than weights, under the names {', '.join(texts[:NAMES_SHOWN]) or '(none)'}: save the weights alone, such as torch.save(torch.load(FILE, weights_only=True)['{inner}'], NEW_FILE)")
    for name, tensor in found.items():
        plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
            raise LabError(f"{path}: {shown(name)} is no plain, dense tensor; {WEIGHTS_ADVICE}")
    return {name: tensor.detach() for name, tensor in found.items()}


def check_tensors(path: Path, found: dict[str, Tensor]) -> dict[str, int]:
    """The sizes of the network in the file, or a LabError: wrong names, shapes, types, storage or values."""
    refuse(path, key_faults(found, network_tensors(path, dict(features=8))), "does not hold the network of the course")
    settings = sizes_of(path, found)
    expected = network_tensors(path, settings)
    wrong = [f"{name} is {tuple(tensor.shape)}, not {tuple(expected[name].shape)}" for name, tensor in found.items() if tensor.shape != expected[name].shape]
    refuse(path, wrong, "does not fit together")
    wrong = [f"{name} holds {kind(tensor)}, not {kind(expected[name])}" for name, tensor in found.items() if tensor.dtype != expected[name].dtype]
    refuse(path, wrong, "holds other numbers than the course's")
    odd = [name for name, t in found.items() if not t.is_contiguous() or t.untyped_storage().nbytes() != t.numel() * t.itemsize]
    refuse(path, odd, "holds tensors that are parts of others (save clones of them), namely")
    refuse(path, [name for name, t in found.items() if not t.isfinite().all()], "holds values that are no finite numbers, in")
    return settings


def refuse(path: Path, faults: list[str], what: str) -> None:
    """LabError with the first five faults, if there are any."""
    if faults:
        raise LabError(f"{path} {what}: {'; '.join(faults[:NAMES_SHOWN])}{'; …' if len(faults) > NAMES_SHOWN else ''}")


def key_faults(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Names that are missing, and names that are too many."""
    return [f"missing {name}" for name in expected if name not in found] + [f"unexpected {shown(name)}" for name in found if name not in expected]


def sizes_of(path: Path, found: dict[str, Tensor]) -> dict[str, int]:
    """The settings of the ContextUnet whose weights these are."""
    first, context, up = (found[name] for name in ("init_conv.conv1.0.weight", "contextembed1.model.0.weight", "up0.0.weight"))
    if (first.ndim, context.ndim, up.ndim) != (4, 2, 4) or max(first.shape[1], context.shape[1]) > MAX_CLASSES:
        raise LabError(f"{path} does not fit together: the sizes of its network cannot be read from its first layers")
    sizes = dict(features=first.shape[0], context_size=context.shape[1], height=4 * up.shape[2], channels=first.shape[1], timesteps=T)
    if sizes["height"] != 16:
        raise LabError(f"{path} is a network for pictures of {sizes['height']}x{sizes['height']}; the course's network works at 16x16 only")
    return sizes


def network_tensors(path: Path, settings: dict[str, int]) -> dict[str, Tensor]:
    """The tensors of a network of these sizes by the course's names, without memory."""
    try:
        with torch.device("meta"):
            ours = ContextUnet(**settings).state_dict()
    except LabError as error:
        raise LabError(f"{path} holds no network that this lab can build ({error})") from error
    return {course_name(name): tensor for name, tensor in ours.items() if "shortcut" not in name}


def course_name(name: str) -> str:
    """What the course calls a tensor of a ContextUnet: down1.0.conv1.0.weight is down1.model.0.conv1.0.weight there."""
    first, _, rest = name.partition(".")
    return f"{first.replace('_embed', 'embed')}.{'model.' if first in ('down1', 'down2', 'up1', 'up2') else ''}{rest}"


def kind(tensor: Tensor) -> str:
    """The type of its numbers."""
    return str(tensor.dtype).removeprefix("torch.")


class RescaledUnet(ContextUnet):
    """A network that learned pictures of another length: it reads input_scale[t] x_t (see `without_root`).

    input_scale (T + 1,) is saved with the weights, so that no file of them can be taken for a plain ContextUnet's.
    """

    def __init__(self, features: int = 64, context_size: int = 5, height: int = 16, channels: int = 3, timesteps: int = T):
        super().__init__(features, context_size, height, channels, timesteps)
        self.register_buffer("input_scale", torch.ones(timesteps + 1))

    def forward(self, x_t: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        self.check_inputs(x_t, t, context)
        scale = self.input_scale[torch.as_tensor(t, device=x_t.device)].to(x_t.dtype)
        return super().forward(x_t * scale.reshape(-1, 1, 1, 1), t, context)


def filled(network: type[ContextUnet], settings: dict[str, int], found: dict[str, Tensor]) -> ContextUnet:
    """A fresh network in eval mode with the tensors of the file; the shortcut, which is in no file, is zero."""
    with torch.random.fork_rng(devices=[]):  # its first weights are overwritten: they shall cost no global randomness
        model = network(**settings)
    named = {name: torch.zeros_like(tensor) if "shortcut" in name else found.get(course_name(name), tensor) for name, tensor in model.state_dict().items()}
    model.load_state_dict(named)
    return model.eval()


def measured(path: Path, model: ContextUnet, schedule: NoiseSchedule, sprites: Tensor | SpriteSet | None) -> dict[str, Any]:
    """The rule under which the network answers as loud as the noise is at t = 10..150, and the means it was judged by.

    error_…: the mean squared noise error at t = 10..150; excess_…: the part of it that would go if the answers were only made
    louder or softer, 0 under the rule of the training. The least error itself would favour the root, which adds more noise,
    so that a weak network sees it better. error: at t = 10..500 under the verdict.
    """
    pictures, source = known_pictures(sprites)
    if tuple(pictures.shape[1:]) != model.picture_shape or not len(pictures):
        raise LabError(f"{path} draws pictures {model.picture_shape}, the known sprites are {tuple(pictures.shape)}: give sprites of that shape, or say forward='sqrt' or 'course'")
    chosen = pictures[torch.linspace(0, len(pictures) - 1, min(COUNT, len(pictures))).round().long()]
    spreads = {"sqrt": schedule.noise_scale, "course": 1 - schedule.alpha_bar}
    found = {rule: noise_errors(model, chosen, schedule.signal_scale, spread) for rule, spread in spreads.items()}
    error, excess = ({rule: values[i][: len(LITTLE)].mean().item() for rule, values in found.items()} for i in (0, 1))
    rule = min(excess, key=excess.__getitem__)
    means = {f"error_{name}": error[name] for name in RULES} | {f"excess_{name}": excess[name] for name in RULES} | {"error": found[rule][0].mean().item()}
    return {"rule": rule, "measured_on": source, **{name: round(min(value, 1e6), 4) for name, value in means.items()}}


def known_pictures(sprites: Tensor | SpriteSet | None) -> tuple[Tensor, str]:
    """Pictures (N, 3, 16, 16) that a network of the course should know, or nearly, and what they are."""
    if isinstance(sprites, Tensor):
        return sprites.detach().float().cpu(), "the given sprites"
    if sprites is not None:
        return sprites.pictures(), "the given sprites"
    try:
        return course_sprites(folder=FOLDER).sprites.pictures(), "the course's sprites"
    except LabError:  # nobody has to own them
        return load_sprites().pictures(), "the bundled sprites"


@torch.no_grad()
def noise_errors(model: ContextUnet, pictures: Tensor, signal: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """The mean squared noise error at the timesteps LITTLE and MUCH, (12,), and the part of it that loudness makes up, (12,).

    x_t = signal[t] x0 + spread[t] noise, without context. The answer p of a trained network is calibrated: mean(p noise) =
    mean(p^2). So min over c of mean((c p - noise)^2) is at c = 1, and lower elsewhere by (mean(p noise) - mean(p^2))^2 / mean(p^2).
    """
    t = torch.tensor([*LITTLE, *MUCH]).repeat_interleave(len(pictures))
    x0 = pictures.repeat(len(LITTLE) + len(MUCH), 1, 1, 1)
    noise = torch.randn(x0.shape, generator=seeded(500, 16))
    x_t = signal.float()[t].reshape(-1, 1, 1, 1) * x0 + spread.float()[t].reshape(-1, 1, 1, 1) * noise
    answer = model(x_t, t)
    error, along, power = (values.reshape(len(LITTLE) + len(MUCH), -1).double().mean(1) for values in ((answer - noise) ** 2, answer * noise, answer**2))
    return error.nan_to_num(torch.inf), ((along - power) ** 2 / power.clamp(1e-12)).nan_to_num(torch.inf)


def told(facts: dict[str, Any]) -> str:
    """What `load_course_weights` found out about a file, in sentences for a person."""
    found = facts["forward"]
    rule, text = found["rule"], f"The noise in its training was scaled by {RULES[found['rule']]}"
    if "error" not in found:
        text += ", as you said."
    elif found["error"] > SILENT:
        return f"This network hardly sees noise by either rule (noise error {found['error']:.2f} at t = 10 to 500; answering nothing has 1): it seems untrained, or to come from another schedule. Its pictures will be noise."
    else:
        other = next(name for name in RULES if name != rule)
        text += f": so measured on {found['measured_on']}. By this rule its noise error at t = 10 to 150 is {found['error_' + rule]:.2f}, of which {found['excess_' + rule]:.3f} for answering too loud or too soft; by the other rule {found['error_' + other]:.2f} and {found['excess_' + other]:.3f}."
        if found["error_" + rule] > WEAK:
            text += " It sees little noise badly, so this may be wrong: compare its pictures with forward='sqrt' and forward='course'."
    if rule == "course":
        text += " Schedule and network are adapted to that, so every sampler works as usual."
    return text + " The random shortcut of the original is in no file; it is 0 here."
