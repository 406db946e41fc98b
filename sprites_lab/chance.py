"""Chance that can be repeated: a generator for every purpose, made from whole numbers."""

import torch


def seeded(*key: int) -> torch.Generator:
    """A CPU generator whose numbers follow from whole numbers alone, such as (seed, update, purpose)."""
    state = 0
    for number in key:  # SplitMix64, so that neighbouring keys have nothing in common
        state = (state ^ number) + 0x9E3779B97F4A7C15 & (1 << 64) - 1
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
        state = (state ^ state >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
        state ^= state >> 31
    return torch.Generator().manual_seed(state >> 1)


def numbered(seed: int, number: int) -> torch.Generator:
    """The CPU generator of draw (or picture) `number`: what it gives depends on the two alone, in any batch."""
    return torch.Generator().manual_seed(seed * 1_000_003 + number)
