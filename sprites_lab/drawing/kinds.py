"""Reading the grid files: a kind is a list of groups of options (its forms) and the ramps of its slots (its colours).

    group hat                  a group before the first kind is shared by all kinds of the file
    option cone at 3 0         one of the group's drawings, its corner at x=3, y=0 (0 0 when left out)
    ...aa...                   rows of the grid
    option none                an option without rows draws nothing

    kind mage                  a drawing that a person would name
    slots a: red blue          ramps that the letter a may take (before the first kind: for all kinds of the file)
    pattern a: none stripes    textures of the slot a; `pattern a b:` draws them in the colours of slot b
    mirror: yes                may be drawn mirrored (but for the group `shine`: light stays at the top left)
    layers: body head hat      order of painting; when left out: the kind's own groups in their order
    group body                 a group of this kind alone
    option plain
    ...
"""

from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files

import numpy as np

from sprites_lab.drawing.canvas import PATTERNS, SLOTS, add_outline, apply_pattern, colour, paint, read_grid
from sprites_lab.drawing.palettes import INKS, RAMPS
from sprites_lab.drawing.stream import Stream
from sprites_lab.errors import LabError

CLASSES = ("hero", "non-hero", "food", "spell", "side-facing")


@dataclass(frozen=True)
class Option:
    """One drawing of a group."""

    name: str
    at: tuple[int, int] = (0, 0)
    rows: tuple[str, ...] = ()


@dataclass
class Kind:
    """What a person would name: its groups of options, the ramps of its slots, its textures."""

    name: str
    class_name: str
    groups: dict[str, list[Option]] = field(default_factory=dict)
    slots: dict[str, list[str]] = field(default_factory=dict)
    patterns: dict[tuple[str, str | None], list[str]] = field(default_factory=dict)
    layers: list[str] = field(default_factory=list)
    mirror: bool = False


@dataclass(frozen=True)
class Sprite:
    """One drawn sprite: pixels uint8 (16, 16, 3), the picture before colouring, and the factors that made it."""

    pixels: np.ndarray
    codes: np.ndarray
    factors: dict[str, str]


def draw(kind: Kind, stream: Stream) -> Sprite:
    """Draw one sprite of the kind, with form and colours taken from the stream."""
    factors, picture = {}, np.zeros((16, 16), np.int16)
    mirror = kind.mirror and stream.below(2) == 1
    for group in kind.layers:
        option = stream.pick(kind.groups[group])
        factors[group] = option.name
        paint(picture, read_grid(option.rows, option.at, mirror and group != "shine"))
    for (slot, other), names in kind.patterns.items():
        pattern = stream.pick(names)
        factors[f"pattern {slot}"] = pattern
        if pattern != "none":
            apply_pattern(picture, slot, pattern, other)
    add_outline(picture)
    ramps = {slot: stream.pick(names) for slot, names in kind.slots.items()}
    used = {slot: ramp for slot, ramp in ramps.items() if (abs(picture - (11 + 4 * SLOTS.index(slot))) <= 1).any()}
    ink = stream.pick(list(INKS))
    factors |= {"mirror": str(mirror), "ink": ink, "palette": " ".join(used.values())}
    return Sprite(colour(picture, ramps, ink), picture, factors)


@cache
def all_kinds() -> tuple[Kind, ...]:
    """Every kind of every class, in the order of the classes and of the grid files."""
    return tuple(
        kind
        for class_name in CLASSES
        for kind in read_kinds(files(__package__).joinpath("grids", f"{class_name}.txt").read_text("utf-8"), class_name)
    )


def read_kinds(text: str, class_name: str) -> list[Kind]:
    """The kinds written in one grid file; a mistake is a LabError that names the line."""
    shared, kinds = Kind("shared", class_name), []
    kind, own, group, option = shared, [], "", None
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.replace(":", " : ").split()
        try:
            if not words or line.startswith("//"):
                option = None
            elif words[0] == "kind":
                kind = replace(shared, name=" ".join(words[1:]), groups=dict(shared.groups), slots=dict(shared.slots),
                               patterns=dict(shared.patterns))
                kind.layers = own = []
                kinds.append(kind)
            elif words[0] == "group":
                group = words[1]
                kind.groups[group] = []
                if kind.layers is own:
                    kind.layers.append(group)
            elif words[0] == "option":
                at = (int(words[3]), int(words[4])) if words[2:3] == ["at"] else (0, 0)
                option = Option(words[1], at)
                kind.groups[group].append(option)
            elif words[0] == "slots":
                kind.slots[words[1]] = words[3:]
            elif words[0] == "pattern":
                kind.patterns[words[1], words[2] if words[2] != ":" else None] = words[words.index(":") + 1 :]
            elif words[0] == "mirror":
                kind.mirror = words[2] == "yes"
            elif words[0] == "layers":
                kind.layers = words[2:]
            elif option is not None:
                option = replace(option, rows=(*option.rows, line.rstrip()))
                kind.groups[group][-1] = option
            else:
                raise LabError(f"'{line}' is neither a keyword nor a row of an option")
        except (IndexError, ValueError, KeyError) as error:
            raise LabError(f"grid file of {class_name}, line {number}: {error}") from error
    for kind in kinds:
        check(kind)
    return kinds


def check(kind: Kind) -> None:
    """Every layer, ramp and pattern of a kind exists, and every letter that it draws has a ramp."""
    where = f"grid file of {kind.class_name}, kind {kind.name}"
    for group in kind.layers:
        if not kind.groups.get(group):
            raise LabError(f"{where}: the layer '{group}' is no group with options")
        for option in kind.groups[group]:
            codes = read_grid(option.rows, option.at)
            for slot, letter in enumerate(SLOTS):
                if ((codes >= 10 + 4 * slot) & (codes <= 12 + 4 * slot)).any() and letter not in kind.slots:
                    raise LabError(f"{where}: option '{option.name}' of '{group}' draws '{letter}' without ramps; add 'slots {letter}: …'")
    for ramps in kind.slots.values():
        for ramp in ramps:
            if ramp not in RAMPS:
                raise LabError(f"{where}: no ramp '{ramp}'; known: {', '.join(RAMPS)}")
    for names in kind.patterns.values():
        for name in names:
            if name != "none" and name not in PATTERNS:
                raise LabError(f"{where}: no pattern '{name}'; known: none, {', '.join(PATTERNS)}")
