"""Noise predictors made from noise predictors. One is anything that can be called as predict_noise(x_t, t) -> noise.

x_t (B, C, H, W) float, t (B,) int64 in 1..T, the answer in the shape of x_t.
"""

from collections.abc import Callable

from torch import Tensor

from sprites_lab.schedule import NoiseSchedule
from sprites_lab.settings import check_number

Predictor = Callable[[Tensor, Tensor], Tensor]


def conditioned(model: Callable[[Tensor, Tensor, Tensor | None], Tensor], context: Tensor | None) -> Predictor:
    """The model told what to draw: context (B, K), (K,) or (1, K) for all pictures, or None for "no context"."""

    def predict_noise(x_t: Tensor, t: Tensor) -> Tensor:
        if context is None:
            return model(x_t, t, None)
        rows = context.to(x_t).expand(len(x_t), -1) if context.ndim == 1 or len(context) == 1 else context.to(x_t)
        return model(x_t, t, rows)

    return predict_noise


def guided(predict: Predictor, reference: Predictor, scale: float) -> Predictor:
    """Push away from a reference predictor: reference + scale * (predict - reference) (Ho and Salimans 2022).

    scale 0 is the reference, 1 is `predict` alone, above 1 is pushed; bit for bit at 0 and 1. The paper's w is scale - 1.
    """
    scale = check_number("the guidance scale", scale, -1000, 1000, "1 is plain, above 1 pushes towards the context")

    def predict_noise(x_t: Tensor, t: Tensor) -> Tensor:
        return reference(x_t, t).lerp(predict(x_t, t), scale)

    return predict_noise


def clamped(predict: Predictor, schedule: NoiseSchedule, limit: float = 1.0) -> Predictor:
    """The predictor with its guess at the clean picture kept within [-limit, limit]."""
    limit = check_number("limit", limit, 0, 1e6, "pictures lie in [-1, 1]")

    def predict_noise(x_t: Tensor, t: Tensor) -> Tensor:
        x0 = schedule.guess_x0(x_t, t, predict(x_t, t)).clamp(-limit, limit)
        return schedule.guess_noise(x_t, t, x0)

    return predict_noise
