"""Settings are checked where they enter: a number that cannot be meant ends in a sentence with its name and what is allowed."""

from sprites_lab.errors import LabError


def is_whole(number: object) -> bool:
    """Whether this is a whole number, of Python, numpy or torch (20.0 is; True and "20" are not)."""
    try:
        return not isinstance(number, (bool, str, bytes)) and bool(int(number) == number)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return False


def check_whole(name: str, value: object, least: int, most: int, why: str = "") -> int:
    """The value as an int; LabError unless it is a whole number from least to most. `why` is said in brackets."""
    if not is_whole(value) or not least <= value <= most:
        raise LabError(f"{name} is {shown(value)}, but must be a whole number from {least} to {most}{f' ({why})' if why else ''}")
    return int(value)


def check_number(name: str, value: object, low: float, high: float, why: str = "") -> float:
    """The value as a float; LabError unless it is a number, of Python, numpy or torch, from low to high (not True, "0.5" or nan)."""
    try:
        right = not isinstance(value, (bool, str, bytes)) and low <= float(value) <= high
    except (TypeError, ValueError, OverflowError, RuntimeError):
        right = False
    if not right:
        raise LabError(f"{name} is {shown(value)}, but must be a number from {low:g} to {high:g}{f' ({why})' if why else ''}")
    return float(value)


def shown(value: object) -> str:
    """A value as it would be written in code, cut if it is long."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
