"""Networks and training runs on disk: one safetensors file with its schedule, checked when read, never half written.

A file holds named tensors in groups (`model/…`, `average/…`, `optimizer/…`, `schedule/beta`) and, in its header, facts as
JSON under `sprites_lab` and a SHA-256 over facts and tensors under `sha256`, since safetensors itself has no checksum.
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from safetensors.torch import load as read_safetensors
from safetensors.torch import save as write_safetensors
from torch import Tensor, nn

from sprites_lab import gates
from sprites_lab.data import SPRITES
from sprites_lab.errors import LabError
from sprites_lab.schedule import NoiseSchedule, from_beta
from sprites_lab.unet import OPTIONS, ContextUnet

FORMAT = 1
MAX_HEADER = 1 << 20
Groups = dict[str, dict[str, Tensor]]
Shapes = dict[str, tuple[str, tuple[int, ...]]]
TYPES = {torch.float32: ("F32", "F16"), torch.int64: ("I64",)}  # what a file may hold where the network has …


class Checkpoint(NamedTuple):
    """What a file holds: a fresh network in eval mode, its schedule, the facts of the header, and all tensors by group."""

    model: ContextUnet
    schedule: NoiseSchedule
    facts: dict[str, Any]
    groups: Groups


def save(path: str | Path, groups: Groups, model: ContextUnet, schedule: NoiseSchedule, facts: dict[str, Any], half: bool = False) -> None:
    """Write a file that holds the old content or the new, never a part: groups of tensors, the sizes of `model`, facts.

    With `half`, the weights are stored as float16 (half the size; float32 again when loaded).
    """
    tensors = {f"{group}/{name}": prepare(t, half) for group, named in groups.items() for name, t in named.items()}
    tensors["schedule/beta"] = schedule.beta
    save_tensors(path, tensors, {"network": model.settings, "schedule": schedule.name, "predicts": "noise", **facts})


def save_tensors(path: str | Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write named tensors and facts to a file of ours, with checksum, in one move; LabError for values that are no numbers."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise LabError(f"{path} was not written: the tensor {name} holds values that are no finite numbers; the last good file is kept")
    text = json.dumps({"format": FORMAT, **facts}, sort_keys=True, allow_nan=False)
    write_bytes(Path(path), write_safetensors(tensors, {"sprites_lab": text, "sha256": digest(text, tensors)}))


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a whole file, by which files tell which sprites they were made with."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def sprites_file(facts: dict[str, Any], given: str | Path | None = None) -> Path:
    """The sprite file to work with: the given one, else the one that a network says it was trained on, else the bundled set."""
    said = facts.get("sprites_file")
    return Path(given or (said if isinstance(said, str) and Path(said).is_file() else SPRITES))


def prepare(tensor: Tensor, half: bool) -> Tensor:
    """A contiguous copy on the CPU, as float16 on request."""
    tensor = tensor.detach().cpu()
    return (tensor.half() if half and tensor.is_floating_point() else tensor).clone().contiguous()


def digest(text: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the facts and, by sorted name, the name, type, shape and bytes of every tensor."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the file in one move by one with these bytes."""
    with replacing(path, f" ({len(data):,} bytes)") as file:
        file.write(data)


@contextmanager
def replacing(path: Path, what: str = "") -> Iterator[IO[bytes]]:
    """A file to write to that replaces `path` in one move when all is written: a temporary one beside it, flushed to the disk.

    `what` is said of it where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise LabError(f"cannot write {path}{what}: {error.strerror or error}; choose another place with --out, or make room") from error
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Delete a file if it is there and can be deleted."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass


def sync_folder(folder: Path) -> None:
    """Make the new name itself durable (where the system can open folders)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def load(path: str | Path, group: str | None = None) -> Checkpoint:
    """Read a file through every gate (size, header, network, tensors, checksum, values) and build its network.

    The network's weights are `group`: by default the moving average where the file has one, else the model.
    """
    path = Path(path)
    data = read_bytes(path)
    facts, sha, shapes = read_header(path, data)
    group = group or ("average" if any(name.startswith("average/") for name in shapes) else "model")
    model = build(path, facts, {name.removeprefix(f"{group}/"): shape for name, shape in shapes.items() if name.startswith(f"{group}/")}, group)
    groups: Groups = {}
    for name, tensor in read_tensors(path, data, facts, sha).items():
        first, _, rest = name.partition("/")
        groups.setdefault(first, {})[rest] = tensor
    fill(path, model, groups[group])
    schedule = read_schedule(path, groups, facts)
    return Checkpoint(model.eval().follow(schedule.signal_scale, schedule.noise_scale), schedule, facts, groups)


def read_tensors(path: Path, data: bytes, facts: dict[str, Any], sha: str) -> dict[str, Tensor]:
    """All tensors of a file whose header was read, half precision widened to float32, once their checksum is right."""
    try:
        tensors = read_safetensors(data)
    except Exception as error:
        raise LabError(f"{path} is damaged: its tensors cannot be read ({error}). Copy or download it again") from error
    if digest(json.dumps(facts, sort_keys=True), tensors) != sha:
        raise LabError(f"{path} is damaged: its checksum does not match. Copy or download it again")
    return {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in tensors.items()}


def read_bytes(path: Path) -> bytes:
    """The whole file, once: what is checked is what is loaded."""
    advice = "give a .safetensors file: the shipped ones are in weights/, and `python -m sprites_lab train` makes new ones"
    return gates.read_file(path, "weights file", advice, look=lambda start, size: check_length(path, start, size))


def check_length(path: Path, start: bytes, size: int) -> int:
    """The length of a safetensors header, from the first bytes of a file of `size` bytes."""
    length = int.from_bytes(start[:8], "little")
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise LabError(f"{path} is no safetensors file, or only the start of one (its header would have {length:,} bytes, the file has {size:,}). Copy or download it again")
    return length


def read_header(path: Path, data: bytes) -> tuple[dict[str, Any], str, Shapes]:
    """The facts, the checksum and the type and shape of every tensor of a file of ours, from its header alone."""
    length = check_length(path, data, len(data))
    try:
        header = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=unique)
        metadata = header["__metadata__"]
        facts, sha = json.loads(metadata["sprites_lab"]), metadata["sha256"]
        version = int(facts["format"])
        end = max((int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"), default=0)
        shapes = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise LabError(f"{path} was not written by sprites_lab, or its header is damaged. Copy or download it again") from error
    if version > FORMAT:
        raise LabError(f"{path} has format {version}, this sprites_lab reads up to {FORMAT}: update sprites_lab")
    if version < 1:
        raise LabError(f"{path} has format {version}, which never existed: it was not written by sprites_lab; use a file that `train` wrote")
    if 8 + length + end != len(data):
        raise LabError(f"{path} is cut off or has grown: its header speaks of {8 + length + end:,} bytes, the file has {len(data):,}. Copy or download it again")
    return facts, sha, shapes


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused if it names a key twice."""
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


def build(path: Path, facts: dict[str, Any], shapes: Shapes, group: str) -> ContextUnet:
    """A fresh network of the sizes in the header, once they are known to be sensible and to fit the tensors of the file."""
    try:
        settings = {name: facts["network"][name] for name in ("features", "context_size", "height", "channels", "timesteps")}
        if not all(type(value) is int and 1 <= value <= 100_000 for value in settings.values()):
            raise LabError("a size is no whole number from 1 to 100000")
        settings |= {name: True for name in OPTIONS if facts["network"].get(name, False) is True}
        with torch.device("meta"):  # shapes without memory
            expected = ContextUnet(**settings).state_dict()
    except (LabError, LookupError, TypeError) as error:
        raise LabError(f"{path}: its header describes no network that sprites_lab can build ({error}). Use a file that `train` wrote, undamaged") from error
    check_shapes(path, expected, shapes, group)
    with torch.random.fork_rng(devices=[]):  # its first weights are overwritten: they shall cost no global randomness
        return ContextUnet(**settings)


def check_shapes(path: Path, expected: dict[str, Tensor], found: Shapes, group: str) -> None:
    """LabError unless the file holds exactly the tensors of the network, in its types and shapes."""
    if not found:
        raise LabError(f"{path} holds no weights '{group}'; use a file that `train` wrote")
    faults = [f"missing {name}" for name in expected if name not in found]
    faults += [f"unexpected {name}" for name in found if name not in expected]
    for name, tensor in expected.items():
        kind, shape = found.get(name, (TYPES[tensor.dtype][0], tuple(tensor.shape)))
        if shape != tuple(tensor.shape):
            faults.append(f"{name} is {shape}, not {tuple(tensor.shape)}")
        elif kind not in TYPES[tensor.dtype]:
            faults.append(f"{name} holds numbers of type {kind}, not {' or '.join(TYPES[tensor.dtype])}")
    if faults:
        raise LabError(f"{path} does not fit its network: {'; '.join(faults[:5])}{'; …' if len(faults) > 5 else ''}. Use a file that `train` wrote, undamaged")


def fill(path: Path, model: nn.Module, found: dict[str, Tensor]) -> None:
    """Put the tensors into the fresh network once all their values are known to be numbers."""
    faults = [name for name, tensor in found.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if faults:
        raise LabError(f"{path} holds values that are no finite numbers, in {', '.join(faults[:5])}. Use another file: these weights were spoilt in their training")
    model.load_state_dict(found)


def read_schedule(path: Path, groups: Groups, facts: dict[str, Any]) -> NoiseSchedule:
    """The schedule that the file was trained with, from its own table."""
    try:
        schedule = from_beta(groups["schedule"]["beta"], str(facts["schedule"]))
    except (KeyError, LabError) as error:
        raise LabError(f"{path} holds no usable noise schedule ({error}). Use a file that `train` wrote, undamaged") from error
    if schedule.timesteps != facts["network"]["timesteps"]:
        raise LabError(f"{path}: its schedule has {schedule.timesteps} timesteps, its network {facts['network']['timesteps']}: they do not belong together. Use a file that `train` wrote")
    return schedule


def step_path(folder: Path, updates: int) -> Path:
    """Where a run keeps its state after so many updates."""
    return folder / f"step-{updates:08d}.safetensors"


def steps_in(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob("step-*.safetensors") if re.fullmatch(r"step-\d{8}", path.stem))


def latest(folder: str | Path) -> Path | None:
    """The newest checkpoint of a run that passes every gate, or None."""
    for path in reversed(steps_in(Path(folder))):
        try:
            load(path)
            return path
        except LabError:
            continue
    return None


def tidy(folder: str | Path, keep: int = 2) -> None:
    """Keep the newest checkpoints of a run and remove temporary files of processes that no longer run."""
    folder = Path(folder)
    for path in steps_in(folder)[:-keep]:
        remove(path)
    for path in folder.glob(".*.tmp"):
        match = re.search(r"\.(\d+)-[0-9a-f]+\.tmp$", path.name)
        if match and not is_running(int(match[1])):
            remove(path)


def is_running(pid: int) -> bool:
    """Whether a process of this number exists (on Windows always yes: its files are then left alone)."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
