"""Muon: momentum whose update is orthogonalized, which learns a small model's matrices in far fewer tokens than AdamW.

torch.optim.Muon rounds to bfloat16 in between, which is slower than float32 on a processor without bfloat16 units.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch

# Coefficients of the quintic iteration, and their number, from Keller Jordan's description of Muon: five turns bring
# every singular value near one, which is near enough.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """Return nearly the closest matrix whose singular values are all one."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        gram = wide @ wide.T
        wide = _A * wide + (_B * gram + _C * (gram @ gram)) @ wide
    closest: torch.Tensor = wide if matrix.shape[0] <= matrix.shape[1] else wide.T
    return closest


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized; for matrices inside the network, not for embeddings or gains."""

    def __init__(self, matrices: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step; a closure is not supported."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            for matrix in group["params"]:
                state = self.state[matrix]
                if not state:
                    state["momentum"] = torch.zeros_like(matrix)
                state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalize(matrix.grad.lerp(state["momentum"], group["momentum"]))
                # A tall matrix spreads a unit update over more rows: this keeps the change of its output the same.
                scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)
