"""The bundled sprites and their contexts: loading, splitting, and turning bytes into what a network reads."""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sprites_lab import gates
from sprites_lab.errors import LabError

CLASS_NAMES = ("hero", "non-hero", "food", "spell", "side-facing")
SPRITES = Path(__file__).resolve().parent.parent / "data" / "sprites.npz"
ARRAYS = ("sprites", "labels", "kinds", "held_out", "kind_names")


@dataclass(frozen=True, eq=False)
class SpriteSet:
    """Sprites with their labels; indexing with rows (a slice, indices, a mask) gives a smaller set.

    sprites uint8 (N, 16, 16, 3); labels (N,), the place in class_names; kinds (N,), the place in kind_names;
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
        """The label of each sprite as a one-hot float row (N, K), K the number of classes."""
        return torch.eye(len(self.class_names), device=device)[torch.as_tensor(self.labels).long().to(device)]


def load_sprites(path: str | Path = SPRITES) -> SpriteSet:
    """The sprites of a .npz file (the bundled set by default); a LabError says what is wrong with another file."""
    path = Path(path)
    advice = f"the bundled set is {SPRITES.parent.name}/{SPRITES.name}, `python -m sprites_lab draw --out FILE.npz` draws it again, and `import` makes a sprite file of your own pictures"
    data = gates.read_file(path, "sprite file", advice, b"PK\x03\x04")
    arrays = gates.npz_arrays(path, data, (*ARRAYS, "class_names"))
    if missing := [name for name in ARRAYS if name not in arrays]:
        raise LabError(f"{path} holds no array {', '.join(missing)}; a sprite file to train on has {', '.join(ARRAYS)}")
    check_arrays(path, arrays)
    names = {name: tuple(arrays[name].tolist()) for name in ("kind_names", "class_names") if name in arrays}
    return SpriteSet(**arrays | names)


def file_bytes(sprites: SpriteSet) -> bytes:
    """The .npz file of a sprite set with class names of its own."""
    file = io.BytesIO()
    names = {name: np.array(getattr(sprites, name)) for name in ("kind_names", "class_names")}
    np.savez_compressed(file, **{name: getattr(sprites, name) for name in ARRAYS} | names)
    return file.getvalue()


def check_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """LabError unless shapes, types and ranges are those of a SpriteSet."""
    sprites = arrays["sprites"]
    count = len(sprites) if sprites.ndim else 0
    if sprites.ndim != 4 or sprites.shape[3] != 3 or sprites.shape[1] != sprites.shape[2] or sprites.dtype != np.uint8 or not count:
        raise LabError(f"{path}: sprites are {sprites.dtype} {sprites.shape}, but must be uint8 (N, 16, 16, 3)")
    for name in ("kind_names", "class_names"):
        check_names(path, name, arrays.get(name, np.array(CLASS_NAMES)))
    if arrays["held_out"].shape != (count,) or arrays["held_out"].dtype != bool:
        raise LabError(f"{path}: held_out must be {count} times true or false (bool), one for each sprite")
    for name, top in (("labels", len(arrays.get("class_names", CLASS_NAMES))), ("kinds", len(arrays["kind_names"]))):
        values = arrays[name]
        if values.shape != (count,) or values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= top:
            raise LabError(f"{path}: {name} must be {count} whole numbers from 0 to {top - 1}, one for each sprite")


def check_names(path: Path, name: str, names: np.ndarray) -> None:
    """LabError unless these are different texts, classes such as a command line can ask for."""
    try:
        texts = names.tolist() if names.ndim == 1 and names.dtype.kind == "U" else []
    except ValueError:  # no characters
        texts = []
    if not texts or len(set(texts)) != len(texts) or not all(0 < len(text) <= 100 and text.isprintable() for text in texts):
        raise LabError(f"{path}: {name} must be a row of different texts, each of 1 to 100 characters")
    if name == "class_names" and (odd := [text for text in texts if not is_class_name(text)]):
        raise LabError(f"{path}: '{odd[0]}' cannot be the name of a class: it must not hold , or = nor be none, by which contexts are written (hero=1,food=0.6)")


def is_class_name(name: str) -> bool:
    """Whether a context can be asked for by this name on a command line."""
    return name == name.strip() and name not in ("", "none") and not set(name) & set(",=")


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
    """A context (K,) from shares, {"hero": 1, "food": 0.6}; an empty dict is "no context"."""
    context = torch.zeros(len(class_names))
    for name, share in parts.items():
        context[class_names.index(known(name, class_names, "class"))] = share
    return context


def parse_context(text: str, class_names: tuple[str, ...] = CLASS_NAMES) -> Tensor:
    """A context (K,) from the words of a command line: "hero=1,food=0.6", "hero" (= 1) or "none"."""
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
