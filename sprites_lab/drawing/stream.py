"""A counter-based stream of random integers: the same on every machine, Python and numpy version."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
MASK = (1 << 64) - 1


def hash64(*key: int | str) -> int:
    """64-bit hash of integers and strings: FNV-1a over their text, then the SplitMix64 finaliser."""
    state = 0xCBF29CE484222325
    for byte in "\x1f".join(map(str, key)).encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    return mix(state)


def mix(x: int) -> int:
    """SplitMix64 finaliser (Steele, Lea and Flood 2014): scrambles 64 bits one to one."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


class Stream:
    """Random integers named by a key: `Stream(seed, "apple", 7)` gives the same numbers wherever it runs."""

    def __init__(self, *key: int | str):
        self.state = hash64(*key)

    def below(self, n: int) -> int:
        """An integer in 0..n-1."""
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        return (mix(self.state) * n) >> 64

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[self.below(len(options))]
