"""An optimiser that looks at each layer's weights as one matrix: Muon, with Adam for all that is no convolution."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Muon for weights with four dimensions (convolutions), Adam for all others.

    Muon steps along the momentum of the gradient with its singular values made nearly equal, so that a layer learns in all
    directions at once instead of in the few that dominate its gradient (Jordan et al. 2024, "Muon"). The step is scaled
    to be as large as Adam's, so that the same learning rate serves both (Liu et al. 2025, arXiv 2502.16982, section 2.2).
    `dtype` is what the matrix products are computed in: bfloat16 suffices.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float = 1e-3, momentum: float = 0.95, betas: tuple[float, float] = (0.9, 0.999),
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, betas=betas, eps=1e-8, dtype=dtype))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    change = muon_change if parameter.ndim == 4 else adam_change
                    parameter.sub_(group["lr"] * change(parameter.grad, self.state[parameter], group))


def muon_change(gradient: Tensor, state: dict[str, Tensor], group: dict) -> Tensor:
    """The orthogonalised momentum, looking one step ahead (Nesterov), with entries of about 0.2 as Adam's have."""
    momentum = state.setdefault("momentum", torch.zeros_like(gradient)).lerp_(gradient, 1 - group["momentum"])
    ahead = gradient.lerp(momentum, group["momentum"]).flatten(1)
    return 0.2 * max(ahead.shape) ** 0.5 * orthogonal(ahead.to(group["dtype"])).to(gradient).reshape(gradient.shape)


def adam_change(gradient: Tensor, state: dict[str, Tensor], group: dict) -> Tensor:
    """Adam's step (Kingma and Ba 2015, algorithm 1), without the learning rate."""
    beta1, beta2 = group["betas"]
    mean = state.setdefault("exp_avg", torch.zeros_like(gradient)).lerp_(gradient, 1 - beta1)
    power = state.setdefault("exp_avg_sq", torch.zeros_like(gradient)).lerp_(gradient.square(), 1 - beta2)
    step = state.setdefault("step", torch.zeros(())).add_(1).item()
    return mean / (1 - beta1**step) / ((power / (1 - beta2**step)).sqrt() + group["eps"])


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The matrix (M, N) with all its singular values brought near 1 (between about 0.7 and 1.2), by Newton-Schulz iteration.

    The coefficients are Jordan's: they do not converge to 1, but are fast near 0.
    """
    x = matrix / (matrix.norm() + 1e-7)
    x = x.T if len(x) > x.shape[1] else x  # the smaller side first: cheaper products
    for _ in range(iterations):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if len(matrix) > matrix.shape[1] else x
