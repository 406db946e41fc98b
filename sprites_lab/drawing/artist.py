"""The artist: draws the whole sprite set, splits it by form, and measures it. `python -m sprites_lab draw` runs it."""

import io
import zipfile
from pathlib import Path

import numpy as np

from sprites_lab.drawing.kinds import CLASSES, Kind, Sprite, all_kinds, draw
from sprites_lab.drawing.stream import Stream, hash64
from sprites_lab.errors import LabError

COUNT, SEED = 20_000, 1
HELD_OUT_SHARE = 10  # one form in ten
MAX_COLOURS = 20  # with more, a sprite of 16 pixels no longer looks drawn
TRIES = 40  # draws per wanted sprite, before a kind counts as exhausted


def form_of(sprite: Sprite) -> bytes:
    """The picture before it is coloured and shaded, a mirror image being the same form: which slot each pixel shows."""
    slots = np.where(sprite.codes >= 100, sprite.codes, (sprite.codes - 10) // 4 + 10 * (sprite.codes >= 10)).astype(np.int8)
    return min(slots.tobytes(), slots[:, ::-1].tobytes())


def is_held_out(kind: Kind, form: bytes, seed: int) -> bool:
    """The split rule: one form in ten, with all its colourings, mirror images and shades, is never trained on."""
    return hash64("held out", seed, kind.class_name, kind.name, form.hex()) % HELD_OUT_SHARE == 0


def draw_set(count: int = COUNT, seed: int = SEED) -> dict[str, np.ndarray]:
    """Draw `count` different sprites, the same number for each class and (nearly) for each kind of a class.

    Returns the arrays of `data/sprites.npz`: sprites uint8 (N, 16, 16, 3), labels, kinds, held_out, kind_names, and for
    each factor (palette, ink, parts …) its index `factor_X` into the names `factor_X_names`, -1 where it does not apply.
    """
    kinds = all_kinds()
    if count < len(kinds):
        raise LabError(f"count is {count}, but there are {len(kinds)} kinds and each is drawn at least once")
    rows: list[tuple[int, Sprite, bool]] = []
    split_of: dict[bytes, bool] = {}
    for number, kind in enumerate(kinds):
        rows += draw_kind(number, kind, share_of(kind, kinds, count), seed, split_of)
    order = sorted(range(len(rows)), key=lambda i: hash64("order", seed, i))  # classes mixed, as a reader expects
    return as_arrays([rows[i] for i in order], kinds)


def share_of(kind: Kind, kinds: tuple[Kind, ...], count: int) -> int:
    """How many sprites a kind gets: its part of its class, its class's part of the whole, remainders to the first."""
    def part(whole: int, parts: int, index: int) -> int:
        return whole // parts + (index < whole % parts)

    mates = [other for other in kinds if other.class_name == kind.class_name]
    return part(part(count, len(CLASSES), CLASSES.index(kind.class_name)), len(mates), mates.index(kind))


def draw_kind(number: int, kind: Kind, count: int, seed: int, split_of: dict[bytes, bool]) -> list[tuple[int, Sprite, bool]]:
    """`count` different sprites of one kind; `split_of` remembers the pixels of all sprites so far and their split."""
    rows = []
    for attempt in range(count * TRIES):
        if len(rows) == count:
            break
        sprite = draw(kind, Stream(seed, kind.class_name, kind.name, attempt))
        pixels, flipped = sprite.pixels.tobytes(), sprite.pixels[:, ::-1].tobytes()
        held_out = is_held_out(kind, form_of(sprite), seed)
        if pixels in split_of or split_of.get(flipped, held_out) != held_out:
            continue  # drawn before, or the mirror image of a sprite in the other split
        if len(set(pixels[i : i + 3] for i in range(0, len(pixels), 3))) > MAX_COLOURS:
            continue
        split_of[pixels] = held_out
        rows.append((number, sprite, held_out))
    if len(rows) < count:
        raise LabError(f"the kind '{kind.name}' of {kind.class_name} has only about {len(rows)} different sprites, {count} are wanted: give it more options or ramps, or draw fewer")
    return rows


def as_arrays(rows: list[tuple[int, Sprite, bool]], kinds: tuple[Kind, ...]) -> dict[str, np.ndarray]:
    """The drawn sprites as the arrays of the file."""
    arrays = {
        "sprites": np.stack([sprite.pixels for _, sprite, _ in rows]),
        "labels": np.array([CLASSES.index(kinds[number].class_name) for number, _, _ in rows], np.uint8),
        "kinds": np.array([number for number, _, _ in rows], np.uint16),
        "held_out": np.array([held_out for _, _, held_out in rows]),
        "kind_names": np.array(unique_names(kinds)),
    }
    for factor in sorted({name for _, sprite, _ in rows for name in sprite.factors}):
        values = [sprite.factors.get(factor) for _, sprite, _ in rows]
        names = sorted({value for value in values if value is not None})
        place = {name: i for i, name in enumerate(names)} | {None: -1}
        whole = np.int16 if len(names) < 1 << 15 else np.int32  # a very large set has more palettes than int16 can number
        arrays[f"factor_{factor}"] = np.array([place[value] for value in values], whole)
        arrays[f"factor_{factor}_names"] = np.array(names)
    return arrays


def unique_names(kinds: tuple[Kind, ...]) -> list[str]:
    """The names of the kinds; one that an earlier class has used is followed by its class: "mage (side-facing)"."""
    names: list[str] = []
    for kind in kinds:
        names.append(f"{kind.name} ({kind.class_name})" if kind.name in names else kind.name)
    return names


def report(arrays: dict[str, np.ndarray]) -> str:
    """What is in a drawn set, in a few lines a person can check."""
    sprites, labels, held_out = arrays["sprites"], arrays["labels"], arrays["held_out"]
    colours = [len(np.unique(sprite.reshape(-1, 3), axis=0)) for sprite in sprites]
    border = np.ones((16, 16), bool)
    border[1:15, 1:15] = False
    touching = (sprites[:, border] != 255).any((1, 2))
    lines = [f"{len(sprites):,} sprites, {len(sprites) - len(np.unique(sprites.reshape(len(sprites), -1), axis=0))} of them twice; {held_out.mean():.1%} held out"]
    for i, name in enumerate(CLASSES):
        mine = labels == i
        counts = np.unique(arrays["kinds"][mine], return_counts=True)[1]
        lines.append(f"{name:12} {mine.sum():6,} sprites  {len(counts):3} kinds of {counts.min()} to {counts.max()}  {held_out[mine].mean():.1%} held out")
    lines.append(f"colours per sprite: median {np.median(colours):.0f}, at most {max(colours)}; touching the border: {touching.mean():.1%}")
    return "\n".join(lines)


def compare(arrays: dict[str, np.ndarray], path: Path) -> None:
    """LabError that names the first array which differs from the file."""
    with np.load(path, allow_pickle=False) as file:
        if set(file.files) != set(arrays):
            raise LabError(f"{path} holds other arrays: {', '.join(sorted(set(file.files) ^ set(arrays)))} are in one of the two only")
        for name, array in arrays.items():
            if file[name].dtype != array.dtype or not np.array_equal(file[name], array):
                raise LabError(f"{path} differs from what the code draws, in '{name}'; draw it again with --out {path}")


def file_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """The arrays as a compressed .npz whose content depends on the arrays alone (no time stamps, no system)."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as file:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.create_system = 3
            file.writestr(entry, buffer.getvalue(), zipfile.ZIP_DEFLATED, 9)
    return whole.getvalue()
