"""Answers of a reader beside computed ones: nothing is looked up in a list, and who has not answered yet is told no truth."""

from math import isfinite
from typing import Any

import torch
from torch import Tensor


def right(mine: Any, truth: float | Tensor, tolerance: float = 0.01) -> bool:
    """Whether an answer is the truth, within `tolerance` of its size: a number, or a tensor of the same shape (by the rms of both)."""
    if isinstance(truth, Tensor):
        return isinstance(mine, Tensor) and mine.shape == truth.shape and bool(apart(mine, truth) <= tolerance * apart(truth, 0 * truth))
    number = as_number(mine)
    return number is not None and abs(number - truth) <= tolerance * abs(truth)


def check(mine: Any, truth: float | Tensor, tolerance: float = 0.01) -> str:
    """What to say to an answer: "no answer yet" to None, "right", or "not quite" with what is known of the difference.

    A number's truth is told once something was answered. A tensor's is not: only its shape, or how far away the answer is (rms).
    """
    if mine is None:
        return "no answer yet"
    verdict = "right" if right(mine, truth, tolerance) else "not quite"
    if not isinstance(truth, Tensor):
        return f"{verdict}: it is {truth:.4g}"
    if not isinstance(mine, Tensor) or mine.shape != truth.shape:
        given = f"of the shape {tuple(mine.shape)}" if isinstance(mine, Tensor) else f"a {type(mine).__name__}"
        return f"not quite: a tensor of the shape {tuple(truth.shape)} is wanted, this is {given}"
    return verdict if verdict == "right" else f"not quite: {apart(mine, truth):.2g} away (rms)"


def apart(one: Tensor, other: Tensor) -> float:
    """The root of the mean squared difference of two tensors of one shape."""
    return (one.detach().double().cpu() - other.detach().double().cpu()).square().mean().sqrt().item()


def as_number(mine: Any) -> float | None:
    """The answer as a finite number, or None if it is none; a tensor or array of one entry is a number."""
    try:
        number = float(torch.as_tensor(mine).item()) if not isinstance(mine, str | bool) else float("nan")
    except (TypeError, ValueError, RuntimeError):
        return None
    return number if isfinite(number) else None
