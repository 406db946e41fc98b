"""The artist: draws the whole sprite set, splits it by form, and measures it. `python -m sprites_lab draw` runs it."""

import io
import math
import zipfile
from pathlib import Path

import numpy as np

from sprites_lab.drawing.canvas import trio
from sprites_lab.drawing.kinds import CLASSES, Kind, Sprite, all_kinds, draw
from sprites_lab.drawing.palettes import INKS
from sprites_lab.drawing.stream import Stream, hash64
from sprites_lab.errors import LabError

COUNT, SEED = 20_000, 1
MOST = 1_000_000
LEAST = 2_000  # a set of so many has several sprites of every kind
HELD_OUT_SHARE = 10  # one form in ten
APART = 2.0  # least mean absolute difference of the bytes between a held-out sprite and a training sprite of its kind
MAX_COLOURS = 20  # with more, a sprite of 16 pixels no longer looks drawn
TRIES = 40  # draws per wanted sprite, before a kind counts as exhausted


def form_of(sprite: Sprite) -> bytes:
    """The picture before it is coloured and shaded, as a colouring book shows it: which pixels belong together.

    Paper and ink count as one: the outline follows from the paint, and inner lines alone make no new form.
    """
    slots = np.where(sprite.codes >= 100, sprite.codes, 10 + (sprite.codes - 10) // 4)
    return regions(np.where(sprite.codes < 10, 0, slots))


def regions(cells: np.ndarray) -> bytes:
    """Which cells (H, W) hold the same value, whatever the values are; a mirror image has the same regions."""
    def numbered(values: np.ndarray) -> bytes:
        _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[inverse].astype(np.uint8).tobytes()  # 0, 1, 2 … in the order of appearance

    return min(numbered(cells.ravel()), numbered(cells[:, ::-1].ravel()))


def is_held_out(kind: Kind, form: bytes, seed: int) -> bool:
    """The split rule: one form in ten, with all its colourings, shades and mirror images, is never trained on."""
    return hash64("held out", seed, kind.class_name, kind.name, form.hex()) % HELD_OUT_SHARE == 0


def draw_set(count: int = COUNT, seed: int = SEED) -> dict[str, np.ndarray]:
    """Draw `count` different sprites, the same number for each class and (nearly) for each kind of a class.

    Returns the arrays of `data/sprites.npz`: sprites uint8 (N, 16, 16, 3), labels, kinds, held_out, kind_names, and for
    each factor (palette, ink, parts …) its index `factor_X` into the names `factor_X_names`, -1 where it does not apply.
    """
    kinds = all_kinds()
    if count < len(kinds):
        raise LabError(f"count is {count}, but there are {len(kinds)} kinds and each is drawn at least once")
    if count > MOST:
        raise LabError(f"count is {count:,}, but at most {MOST:,} are drawn at once: that takes ten minutes and keeps them all in memory")
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
    """`count` different sprites of one kind; `split_of` remembers pixels, mirror images and regions of all sprites so far."""
    rows = []
    for attempt in range(count * TRIES):
        if len(rows) == count:
            break
        sprite = draw(kind, Stream(seed, kind.class_name, kind.name, attempt))
        colours = sprite.pixels.astype(np.int32) @ (1, 1 << 8, 1 << 16)
        pixels, flipped, shown = sprite.pixels.tobytes(), sprite.pixels[:, ::-1].tobytes(), regions(colours)
        held_out = is_held_out(kind, form_of(sprite), seed)
        if pixels in split_of or split_of.get(shown, held_out) != held_out:
            continue  # drawn before, or a recolouring of a sprite in the other split (two slots may take the same ramp)
        others = [other.pixels for _, other, side in rows if side != held_out]
        if len(np.unique(colours)) > MAX_COLOURS or others and least_difference(sprite.pixels, np.stack(others)) < APART:
            continue
        split_of |= dict.fromkeys((pixels, flipped, shown), held_out)
        rows.append((number, sprite, held_out))
    if len(rows) < count:
        raise LabError(f"the kind '{kind.name}' of {kind.class_name} has only about {len(rows)} different sprites, {count} are wanted: give it more options or ramps, or draw fewer")
    return rows


def draw_of_kind(name: str, count: int, seed: int = SEED) -> list[Sprite]:
    """`count` different sprites of each kind of this name."""
    found = [kind for kind in all_kinds() if kind.name == name]
    if not found:
        names = dict.fromkeys(kind.name for kind in all_kinds())
        raise LabError(f"there is no kind '{name}'; there are: {', '.join(names)}")
    return [sprite for kind in found for _, sprite, _ in draw_kind(0, kind, count, seed, {})]


def least_difference(sprite: np.ndarray, others: np.ndarray) -> float:
    """Mean absolute difference of the bytes to the nearest of the others (N, 16, 16, 3), mirror images included."""
    return min(np.abs(others - one).mean((1, 2, 3)).min() for one in (sprite.astype(np.int16), sprite[:, ::-1].astype(np.int16)))


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


def combinations(kind: Kind) -> int:
    """In how many ways the parts, textures, ramps and inks of a kind can be combined (some give the same picture)."""
    letters = {letter for group in kind.layers for option in kind.groups[group] for row in option.rows for letter in row}
    letters |= {other for _, other in kind.patterns if other}
    ramps = [len(names) for slot, names in kind.slots.items() if letters & set(trio(slot))]
    parts = [len(kind.groups[group]) for group in kind.layers] + [len(names) for names in kind.patterns.values()]
    return math.prod(parts) * math.prod(ramps) * len(INKS) * (1 + kind.mirror)


def report(arrays: dict[str, np.ndarray]) -> str:
    """What is in a drawn set, in a few lines a person can check."""
    sprites, labels, held_out = arrays["sprites"], arrays["labels"], arrays["held_out"]
    colours = [len(np.unique(sprite.reshape(-1, 3), axis=0)) for sprite in sprites]
    border = np.ones((16, 16), bool)
    border[1:15, 1:15] = False
    touching = (sprites[:, border] != 255).any((1, 2))
    twice = len(sprites) - len(np.unique(sprites.reshape(len(sprites), -1), axis=0))
    lines = [f"{len(sprites):,} sprites, {twice} of them twice; {held_out.mean():.1%} held out; {len(file_bytes(arrays)):,} bytes as a file"]
    for i, name in enumerate(CLASSES):
        mine = labels == i
        counts = np.unique(arrays["kinds"][mine], return_counts=True)[1]
        shares = f"{counts.min() / mine.sum():.1%} to {counts.max() / mine.sum():.1%} of the class"
        lines.append(f"{name:12} {mine.sum():6,} sprites  {len(counts):3} kinds of {counts.min()} to {counts.max()} ({shares})  {held_out[mine].mean():.1%} held out")
    unseen = len(np.unique(arrays["kinds"])) - len(np.unique(arrays["kinds"][held_out]))
    lines.append(f"kinds without a held-out sprite: {unseen}")
    lines.append(f"colours per sprite: median {np.median(colours):.0f}, at most {max(colours)}; touching the border: {touching.mean():.1%}")
    lines.append(f"combinations of parts, textures, ramps and inks: {sum(map(combinations, all_kinds())):,}")
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
