"""The bundled sprites and their contexts: loading, splitting, and turning bytes into what a network reads."""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sprites_lab.errors import LabError

CLASS_NAMES = ("hero", "non-hero", "food", "spell", "side-facing")
SPRITES = Path(__file__).resolve().parent.parent / "data" / "sprites.npz"
ARRAYS = ("sprites", "labels", "kinds", "held_out", "kind_names")
MAX_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class SpriteSet:
    """Sprites with their labels; indexing with rows (a slice, indices, a mask) gives a smaller set.

    sprites uint8 (N, 16, 16, 3); labels (N,) in 0..4, the place in class_names; kinds (N,), the place in kind_names;
    held_out bool (N,): sprites that no training may see.
    """

    sprites: np.ndarray
    labels: np.ndarray
    kinds: np.ndarray
    held_out: np.ndarray
    kind_names: tuple[str, ...]
    class_names: tuple[str, ...] = CLASS_NAMES

    def __len__(self) -> int:
        return len(self.sprites)

    def __getitem__(self, rows: slice | np.ndarray | list[int]) -> "SpriteSet":
        return replace(self, sprites=self.sprites[rows], labels=self.labels[rows], kinds=self.kinds[rows], held_out=self.held_out[rows])

    @property
    def train(self) -> "SpriteSet":
        """The sprites to train on."""
        return self[~self.held_out]

    @property
    def test(self) -> "SpriteSet":
        """The held-out sprites: new forms that no training sees."""
        return self[self.held_out]

    def of_class(self, name: str) -> "SpriteSet":
        """The sprites of one class."""
        return self[self.labels == self.class_names.index(known(name, self.class_names, "class"))]

    def of_kind(self, name: str) -> "SpriteSet":
        """The sprites of one kind."""
        return self[self.kinds == self.kind_names.index(known(name, self.kind_names, "kind"))]

    def pictures(self, device: torch.device | str = "cpu") -> Tensor:
        """All sprites as one float tensor (N, 3, 16, 16) in [-1, 1] on the device."""
        return to_pictures(self.sprites).to(device)

    def contexts(self, device: torch.device | str = "cpu") -> Tensor:
        """The label of each sprite as a one-hot float row (N, 5)."""
        return torch.eye(len(self.class_names), device=device)[torch.as_tensor(self.labels).long().to(device)]


def load_sprites(path: str | Path = SPRITES) -> SpriteSet:
    """The sprites of a .npz file (the bundled set by default); a LabError says what is wrong with another file."""
    path = Path(path)
    try:
        there = path.is_file()
    except OSError as error:
        raise LabError(f"{path} is no possible path: {error.strerror}") from error
    if not there:
        raise LabError(f"there is no sprite file {path}; the bundled set is {SPRITES.parent.name}/{SPRITES.name}, and `python -m sprites_lab draw --out FILE.npz` draws it again")
    if not 0 < path.stat().st_size <= MAX_BYTES:
        raise LabError(f"{path} has {path.stat().st_size} bytes; a sprite file has more than 0 and at most 1 GiB")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS if name in file.files}
    except Exception as error:
        raise LabError(f"{path} is no readable sprite file, or is damaged; `python -m sprites_lab draw --out FILE.npz` draws the bundled set again") from error
    if missing := [name for name in ARRAYS if name not in arrays]:
        raise LabError(f"{path} holds no array {', '.join(missing)}; a sprite file to train on has {', '.join(ARRAYS)}")
    check_arrays(path, arrays)
    return SpriteSet(**{**arrays, "kind_names": tuple(map(str, arrays["kind_names"]))})


def check_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """LabError unless shapes, types and ranges are those of a SpriteSet."""
    sprites = arrays["sprites"]
    count = len(sprites) if sprites.ndim else 0
    if sprites.ndim != 4 or sprites.shape[3] != 3 or sprites.shape[1] != sprites.shape[2] or sprites.dtype != np.uint8 or not count:
        raise LabError(f"{path}: sprites are {sprites.dtype} {sprites.shape}, but must be uint8 (N, 16, 16, 3)")
    if arrays["kind_names"].ndim != 1 or arrays["kind_names"].dtype.kind != "U":
        raise LabError(f"{path}: kind_names must be a row of texts")
    if arrays["held_out"].shape != (count,) or arrays["held_out"].dtype != bool:
        raise LabError(f"{path}: held_out must be {count} times true or false (bool), one for each sprite")
    for name, top in (("labels", len(CLASS_NAMES)), ("kinds", len(arrays["kind_names"]))):
        values = arrays[name]
        if values.shape != (count,) or values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= top:
            raise LabError(f"{path}: {name} must be {count} whole numbers from 0 to {top - 1}, one for each sprite")


def to_pictures(sprites: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) to float (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(sprites.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def to_bytes(pictures: Tensor) -> np.ndarray:
    """float (N, 3, H, W) in [-1, 1] to uint8 (N, H, W, 3); values outside are clipped, nothing is stretched."""
    scaled = (pictures.detach().float().cpu().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def bob(sprites: SpriteSet) -> Tensor:
    """The mascot of the course, a hero with a hat: one picture (1, 3, 16, 16), the second mage of the training split."""
    return sprites.train.of_kind("mage").of_class("hero")[1:2].pictures()


def context_of(parts: dict[str, float], class_names: tuple[str, ...] = CLASS_NAMES) -> Tensor:
    """A context (5,) from shares, {"hero": 1, "food": 0.6}; an empty dict is "no context"."""
    context = torch.zeros(len(class_names))
    for name, share in parts.items():
        context[class_names.index(known(name, class_names, "class"))] = share
    return context


def parse_context(text: str, class_names: tuple[str, ...] = CLASS_NAMES) -> Tensor:
    """A context (5,) from the words of a command line: "hero=1,food=0.6", "hero" (= 1) or "none"."""
    parts = {}
    for part in [] if text.strip() in ("", "none") else text.split(","):
        name, _, share = part.partition("=")
        try:
            parts[name.strip()] = float(share) if share else 1.0
        except ValueError:
            raise LabError(f"context '{part}': '{share}' is no number; write for example hero=1,food=0.6") from None
        if not abs(parts[name.strip()]) <= 100:
            raise LabError(f"context '{part}': the share must be a number between -100 and 100 (training used 0 and 1)")
    return context_of(parts, class_names)


def known(name: str, names: tuple[str, ...], what: str) -> str:
    """The name itself, or a LabError that lists the names there are."""
    if name not in names:
        raise LabError(f"there is no {what} '{name}'; there are: {', '.join(names)}")
    return name
