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
    reader = Reader(class_name)
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.replace(":", " : ").split()
        try:
            if not words or line.startswith("//"):
                reader.option_is_open = False
            elif words[0] in Reader.KEYWORDS:
                getattr(reader, words[0])(words[1:])
            else:
                reader.row(line)
        except (IndexError, ValueError, KeyError) as error:
            raise LabError(f"grid file of {class_name}, line {number}: {error}") from error
    for kind in reader.kinds:
        check(kind)
    return reader.kinds


class Reader:
    """Takes a grid file word by word; what stands before the first kind is shared by all kinds."""

    KEYWORDS = ("kind", "slots", "pattern", "mirror", "layers", "group", "option")

    def __init__(self, class_name: str):
        self.current = self.shared = Kind("shared", class_name)
        self.kinds: list[Kind] = []
        self.layers_are_given = self.option_is_open = False
        self.options: list[Option] | None = None

    def kind(self, words: list[str]) -> None:
        """kind NAME: it starts with what all kinds of the file share."""
        shared = self.shared
        self.current = replace(
            shared, name=" ".join(words), groups=dict(shared.groups), slots=dict(shared.slots), patterns=dict(shared.patterns), layers=[]
        )
        self.kinds.append(self.current)
        self.layers_are_given = self.option_is_open = False
        self.options = None

    def slots(self, words: list[str]) -> None:
        """slots LETTER: RAMP RAMP ..."""
        self.current.slots[words[0]] = words[2:]

    def pattern(self, words: list[str]) -> None:
        """pattern LETTER: NAME ... or pattern LETTER LETTER: NAME ..."""
        colon = words.index(":")
        self.current.patterns[words[0], words[1] if colon == 2 else None] = words[colon + 1 :]

    def mirror(self, words: list[str]) -> None:
        """mirror: yes or no"""
        self.current.mirror = words[1] == "yes"

    def layers(self, words: list[str]) -> None:
        """layers: GROUP GROUP ..., in the order of painting"""
        self.current.layers, self.layers_are_given = words[1:], True

    def group(self, words: list[str]) -> None:
        """group NAME: painted after the groups before it, unless `layers` gives an order."""
        self.options = self.current.groups[words[0]] = []
        if self.current is not self.shared and not self.layers_are_given:
            self.current.layers.append(words[0])

    def option(self, words: list[str]) -> None:
        """option NAME or option NAME at X Y; its rows follow"""
        if self.options is None:
            raise LabError(f"the option {words[0]} belongs to no group; write `group NAME` above it")
        at = (int(words[2]), int(words[3])) if words[1:2] == ["at"] else (0, 0)
        self.options.append(Option(words[0], at))
        self.option_is_open = True

    def row(self, line: str) -> None:
        """A row of the option that is open."""
        if not self.option_is_open:
            raise LabError(f"'{line}' is neither a keyword nor a row of an option")
        self.options[-1] = replace(self.options[-1], rows=(*self.options[-1].rows, line.rstrip()))


def check(kind: Kind) -> None:
    """Every layer, ramp and pattern of a kind exists, and every letter that it draws has a ramp."""
    where = f"grid file of {kind.class_name}, kind {kind.name}"
    for group in kind.layers:
        if not kind.groups.get(group):
            raise LabError(f"{where}: the layer '{group}' is no group with options")
        for option in kind.groups[group]:
            try:
                codes = read_grid(option.rows, option.at)
            except LabError as error:
                raise LabError(f"{where}, option '{option.name}' of '{group}': {error}") from error
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
