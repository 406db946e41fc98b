"""The program in a .pth file, followed without running it: torch.save writes pickle, which can call anything when it is opened.

What is not needed to make dicts, plain values and tensors is refused by name; so is what would grow without end. Nothing
here imports or calls what a file speaks of.
"""

import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sprites_lab.errors import LabError

WEIGHTS_ADVICE = "give a .pth file of the course, as torch.save writes it: the state_dict() of its network"
MAX_PROGRAM, MAX_STEPS, MAX_SIZE = 4 << 20, 50_000, 1_000_000
STORAGES = {
    "torch FloatStorage": 4, "torch LongStorage": 8, "torch DoubleStorage": 8, "torch HalfStorage": 2, "torch BFloat16Storage": 2, "torch IntStorage": 4,
    "torch ShortStorage": 2, "torch CharStorage": 1, "torch ByteStorage": 1, "torch BoolStorage": 1, "torch ComplexFloatStorage": 8, "torch ComplexDoubleStorage": 16,
}  # fmt: skip
MAKERS = ("collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter")
NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1")
SIMPLE = {"NONE": "none", "NEWTRUE": "truth", "NEWFALSE": "truth", "BINFLOAT": "float", "BINUNICODE": "text", "SHORT_BINUNICODE": "text"} | dict.fromkeys(NUMBERS, "number")
EMPTY = {"EMPTY_TUPLE": "tuple", "EMPTY_LIST": "list", "EMPTY_DICT": "dict"}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(eq=False)
class Part:
    """A value that the program would make: its kind, what it holds (a text, a number, parts), its size if all were written out.

    `inside`: it is part of another value, so it must not change any more, or sizes would be wrong.
    """

    kind: str
    held: Any = None
    size: int = 1
    inside: bool = False


def examine(path: Path, program: bytes, sizes: dict[str, int]) -> None:
    """Go through the program of a .pth file without running it; LabError unless it only makes dicts, plain values and tensors.

    sizes: the bytes of each part of the archive, which every tensor's storage must fill exactly.
    """
    if len(program) > MAX_PROGRAM:
        raise LabError(f"{path}: the list of its tensors has {len(program):,} bytes, at most {MAX_PROGRAM:,} are read; it is no file of the course")
    machine = Machine(path, sizes)
    try:
        for count, (step, argument, _) in enumerate(pickletools.genops(program)):
            if count >= MAX_STEPS:
                raise LabError(f"{path}: the list of its tensors takes more than {MAX_STEPS:,} steps; it is no file of the course")
            machine.step(step.name, argument)
        whole = machine.stack.pop()
        complete = not machine.stack and not machine.marks
    except LabError:
        raise
    except Exception as error:  # the end too early, nothing where something is needed
        raise LabError(f"{path} is damaged: the list of its tensors cannot be read. Copy or download it again") from error
    if not complete or machine.protocol != 2:
        raise LabError(f"{path} was not written by torch.save as it usually is; save it again without a pickle_protocol of its own")
    if whole.kind != "dict":
        raise LabError(f"{path} holds a {whole.kind}, not a dict of weights; save the state_dict() of the network")


class Machine:
    """Follows a pickle program with parts in place of values: nothing is called, nothing is built."""

    def __init__(self, path: Path, sizes: dict[str, int]):
        self.path, self.sizes, self.protocol = path, sizes, 0
        self.stack: list[Part] = []
        self.marks: list[list[Part]] = []
        self.memo: dict[int, Part] = {}

    def step(self, name: str, argument: Any) -> None:
        """One instruction; LabError for one that no file of weights needs."""
        if name in SIMPLE:
            self.stack.append(Part(SIMPLE[name], argument))
        elif name in EMPTY:
            self.stack.append(Part(EMPTY[name], []))
        elif name in TUPLES or name == "TUPLE":
            items = self.taken(TUPLES[name]) if name in TUPLES else self.to_mark()
            self.stack.append(self.grown(Part("tuple", []), items))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "MARK":
            self.marks.append(self.stack)
            self.stack = []
        elif name == "PROTO":
            self.protocol = max(self.protocol, argument)  # above 2 it is refused, but only once it is known what it would call
        elif name in ("GLOBAL", "INST", "STACK_GLOBAL"):
            self.stack.append(self.named(name, argument))
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"):
            self.fill(name)
        elif name in ("REDUCE", "BINPERSID"):
            self.stack.append(self.made() if name == "REDUCE" else self.storage(self.stack.pop()))
        elif name not in ("STOP", "FRAME"):
            raise LabError(f"{self.path} holds the instruction {name}, which no file of weights needs: refused. {WEIGHTS_ADVICE.capitalize()}")

    def taken(self, count: int) -> list[Part]:
        """The last parts of the stack, off it."""
        if len(self.stack) < count:
            raise ValueError("too few parts")
        items, self.stack[-count:] = self.stack[-count:], []
        return items

    def to_mark(self) -> list[Part]:
        """All parts since the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def grown(self, whole: Part, items: list[Part]) -> Part:
        """A part with more in it."""
        if whole.inside or whole in items:
            raise LabError(f"{self.path} holds a value that is part of itself, or changes later; no file of weights needs that: refused")
        whole.held.extend(items)
        whole.size += sum(item.size for item in items)
        for item in items:
            item.inside = True
        if whole.size > MAX_SIZE:
            raise LabError(f"{self.path} would grow to more than {MAX_SIZE:,} values out of few: refused as a bomb; it is no file of weights")
        return whole

    def named(self, name: str, argument: Any) -> Part:
        """A function or class that the program speaks of, if it is one that tensors need."""
        wanted = " ".join(part.held if part.kind == "text" else "?" for part in self.taken(2)) if name == "STACK_GLOBAL" else argument
        if name == "GLOBAL" and (wanted in MAKERS or wanted in STORAGES):
            return Part("name", wanted)
        words = shown(wanted.replace(" ", "."))
        if wanted.startswith("torch._utils _rebuild_"):
            raise LabError(f"{self.path} holds tensors of an unusual kind ({words}), such as sparse, quantised or meta ones; the course's are plain. {WEIGHTS_ADVICE.capitalize()}")
        raise LabError(f"{self.path} wants to call {words} when it is opened: refused; a file of weights needs no such thing. If it is a whole network of your own, save its state_dict(); else delete it")

    def fill(self, name: str) -> None:
        """Put parts into the list or dict below them."""
        items = self.to_mark() if name.endswith("S") else self.taken(2 if name == "SETITEM" else 1)
        target = self.stack[-1]
        keys, odd = items[::2], len(items) % 2
        if name == "BUILD":  # torch.save adds the attribute _metadata to a state dict, and nothing else
            fits = target.kind == items[0].kind == "dict" and not target.inside and [key.held for key in items[0].held[::2]] == ["_metadata"]
        elif name.startswith("APPEND"):
            fits = target.kind == "list"
        else:  # no key but a text or a number: what is compared and hashed is small
            fits = target.kind == "dict" and not odd and all(key.kind in ("text", "number") for key in keys)
        if not fits:
            raise LabError(f"{self.path} changes a value in a way ({name}) that no file of weights needs: refused. {WEIGHTS_ADVICE.capitalize()}")
        if name == "BUILD":
            self.grown(Part("attribute", []), items)
            target.size += items[0].size
        else:
            self.grown(target, items)

    def made(self) -> Part:
        """What a call gives: an empty dict, a tensor, a parameter; with the arguments that torch.save writes."""
        call, given = self.taken(2)
        maker = call.held if call.kind == "name" else ""
        kinds = [part.kind for part in given.held] if given.kind == "tuple" else ["?"]
        if maker == MAKERS[0] and not kinds:
            return Part("dict", [])
        if maker == MAKERS[1] and kinds == ["storage", "number", "tuple", "tuple", "truth", "dict"]:
            shape, stride, hooks = (given.held[i].held for i in (2, 3, 5))
            if len(shape) == len(stride) <= 8 and not hooks and all(part.kind == "number" and part.held >= 0 for part in (given.held[1], *shape, *stride)):
                return Part("tensor")
        if maker == MAKERS[2] and kinds == ["tensor", "truth", "dict"]:
            return Part("tensor")
        raise LabError(f"{self.path} calls {shown(maker.replace(' ', '.')) or 'something'} in a way that no file of weights needs: refused. {WEIGHTS_ADVICE.capitalize()}")

    def storage(self, given: Part) -> Part:
        """The values of a tensor: one part of the archive, filled exactly."""
        kinds = [part.kind for part in given.held] if given.kind == "tuple" else []
        if kinds != ["text", "name", "text", "text", "number"] or given.held[0].held != "storage" or given.held[1].held not in STORAGES:
            raise LabError(f"{self.path} asks for something else than the values of a tensor: refused; a file of weights needs no such thing")
        _, name, key, _, count = (part.held for part in given.held)
        if self.sizes.get(f"data/{key}") != count * STORAGES[name]:
            raise LabError(f"{self.path} is damaged: a tensor does not have the values that its list speaks of. Copy or download it again")
        return Part("storage")


def shown(text: str) -> str:
    """A text out of a file such that it can stand in a sentence."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text[:60])
